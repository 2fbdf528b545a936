package field

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azruntime "github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"
	"resty.dev/v3"

	"github.com/steadyhttp/steadyhttp"
)

// attempts is how many each client makes at most.
const attempts = 4

// call is a request in the words that all clients share.
type call struct {
	method string // "": GET
	url    string
	header http.Header
	body   string // sent as bytes that the client can have again
	// reader makes a body of another kind, once for each call; length is its Content-Length, 0
	// where it is not known.
	reader func() io.Reader
	length int64

	attemptTimeout time.Duration // 0: none
	fast           bool          // waits of milliseconds, for cases over sockets
}

// client is one that retries, set up for attempts attempts with a back-off of some 500 ms to 30 s.
type client struct {
	name string
	// transport makes an http.RoundTripper of it; nil where it is none.
	transport func(base http.RoundTripper, c call) http.RoundTripper
	// new makes a client over base, with the settings of c.
	new func(base http.RoundTripper, c call) do
	// seeks says that a body has to be an io.ReadSeekCloser.
	seeks bool
}

// do makes a call. An answer and an error may both be returned where the client's own API does so.
type do func(ctx context.Context, c call) (*http.Response, error)

func clients() []client {
	return []client{
		{name: "steadyhttp", transport: steady, new: through(steady)},
		{name: "azcore", new: azcore, seeks: true},
		{name: "failsafe-go", transport: failsafely, new: through(failsafely)},
		{name: "retryablehttp", transport: retryably, new: retryable},
		{name: "resty", new: restful(false)},
		{name: "resty+POST", new: restful(true)},
		{name: "net/http", transport: bare, new: through(bare)},
	}
}

func bare(base http.RoundTripper, _ call) http.RoundTripper { return base }

func steady(base http.RoundTripper, c call) http.RoundTripper {
	t := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{
		MaxAttempts: attempts, AttemptTimeout: c.attemptTimeout,
	}}
	if c.fast {
		t.Policy.NewBackOff = func() backoff.BackOff {
			return backoff.NewConstantBackOff(time.Millisecond)
		}
	}
	return t
}

// through makes the call by an http.Client with one transport for all of its requests.
func through(
	transport func(http.RoundTripper, call) http.RoundTripper,
) func(base http.RoundTripper, c call) do {
	return func(base http.RoundTripper, c call) do {
		client := &http.Client{Transport: transport(base, c)}
		return func(ctx context.Context, c call) (*http.Response, error) {
			req, err := c.request(ctx)
			if err != nil {
				return nil, err
			}
			return client.Do(req)
		}
	}
}

// request is the call as net/http has it.
func (c call) request(ctx context.Context) (*http.Request, error) {
	var body io.Reader
	switch {
	case c.reader != nil:
		body = c.reader()
	case c.body != "":
		body = strings.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, body)
	if err != nil {
		return nil, err
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	if c.length > 0 {
		req.ContentLength = c.length
	}
	return req, nil
}

func azcore(base http.RoundTripper, c call) do {
	options := &policy.ClientOptions{
		Transport: &http.Client{Transport: base},
		Retry:     policy.RetryOptions{MaxRetries: attempts - 1, TryTimeout: c.attemptTimeout},
	}
	if c.fast {
		options.Retry.RetryDelay = time.Millisecond
	}
	pipeline := azruntime.NewPipeline("field", "v0.0.0", azruntime.PipelineOptions{}, options)
	return func(ctx context.Context, c call) (*http.Response, error) {
		req, err := azruntime.NewRequest(ctx, cmp.Or(c.method, http.MethodGet), c.url)
		if err != nil {
			return nil, err
		}
		for name, values := range c.header {
			req.Raw().Header[name] = values
		}
		if c.body != "" {
			body := streaming.NopCloser(strings.NewReader(c.body))
			if err := req.SetBody(body, "application/json"); err != nil {
				return nil, err
			}
		}
		azruntime.SkipBodyDownload(req) // the cases read the body themselves
		return pipeline.Do(req)
	}
}

func failsafely(base http.RoundTripper, c call) http.RoundTripper {
	builder := failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(attempts - 1).
		ReturnLastFailure()
	if c.fast {
		builder = builder.WithDelay(time.Millisecond)
	} else {
		builder = builder.WithBackoff(500*time.Millisecond, 30*time.Second)
	}
	policies := []failsafe.Policy[*http.Response]{builder.Build()}
	if c.attemptTimeout > 0 {
		policies = append(policies, timeout.New[*http.Response](c.attemptTimeout))
	}
	return failsafehttp.NewRoundTripper(base, policies...)
}

func retryableClient(base http.RoundTripper, c call) *retryablehttp.Client {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: base, Timeout: c.attemptTimeout}
	client.RetryMax, client.Logger = attempts-1, nil
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	if c.fast {
		client.RetryWaitMin, client.RetryWaitMax = time.Millisecond, time.Millisecond
	}
	return client
}

func retryably(base http.RoundTripper, c call) http.RoundTripper {
	return &retryablehttp.RoundTripper{Client: retryableClient(base, c)}
}

func retryable(base http.RoundTripper, c call) do {
	client := retryableClient(base, c)
	return func(ctx context.Context, c call) (*http.Response, error) {
		var body any
		switch {
		case c.reader != nil:
			body = c.reader()
		case c.body != "":
			body = []byte(c.body)
		}
		req, err := retryablehttp.NewRequestWithContext(ctx, c.method, c.url, body)
		if err != nil {
			return nil, err
		}
		for name, values := range c.header {
			req.Header[name] = values
		}
		return client.Do(req)
	}
}

// restful retries after the statuses that its documentation proposes; its default is none. POST and
// PATCH it retries only if told to.
func restful(post bool) func(base http.RoundTripper, c call) do {
	return func(base http.RoundTripper, c call) do {
		r := resty.New().SetTransport(base).SetRetryCount(attempts-1).SetLogger(silent{}).
			SetRetryWaitTime(500*time.Millisecond).SetRetryMaxWaitTime(30*time.Second).
			AddRetryConditions(
				resty.RetryConditionStatusTooManyRequests, resty.RetryConditionStatus5XX).
			SetRetryAllowNonIdempotent(post).SetResponseDoNotParse(true)
		if c.fast {
			r.SetRetryWaitTime(time.Millisecond).SetRetryMaxWaitTime(2 * time.Millisecond)
		}
		if c.attemptTimeout > 0 {
			r.SetTimeout(c.attemptTimeout)
		}
		return func(ctx context.Context, c call) (*http.Response, error) {
			req := r.R().SetContext(ctx)
			for name, values := range c.header {
				req.Header[name] = values
			}
			switch {
			case c.reader != nil:
				req.SetBody(c.reader())
				if c.length > 0 {
					req.SetContentLength(c.length)
				}
			case c.body != "":
				req.SetBody([]byte(c.body)).SetContentType("application/json")
			}
			resp, err := req.Execute(cmp.Or(c.method, http.MethodGet), c.url)
			if resp == nil || resp.RawResponse == nil {
				return nil, err
			}
			answer := *resp.RawResponse
			if resp.Body != nil {
				answer.Body = resp.Body
			}
			return &answer, err
		}
	}
}

type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

// readAll reads an answer's body to its end and closes it.
func readAll(resp *http.Response) (string, error) {
	if resp == nil || resp.Body == nil {
		return "", nil
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err := b.ReadFrom(resp.Body)
	return b.String(), err
}
