package sidebyside

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azruntime "github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/PuerkitoBio/rehttp"
	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"
	kiota "github.com/microsoft/kiota-http-go"
	"resty.dev/v3"

	"github.com/steadyhttp/steadyhttp"
)

// settings are what a measurement asks of all clients.
type settings struct {
	attempts       int
	wait, mostWait time.Duration // of the back-off; 0: none
	serverWait     time.Duration // the longest that a server may ask for; 0: what the client likes
	attemptTimeout time.Duration // 0: none
	steady         func(*steadyhttp.Transport)
}

// do makes a call, and returns what its user gets. body nil: a GET.
type do func(ctx context.Context, url string, body []byte) (*http.Response, error)

// client is one of those that are measured.
type client struct {
	name string
	new  func(base http.RoundTripper, s settings) do
	// never tells why it can't retry a 500 without a wait; "": it can.
	never string
}

const (
	bare       = "net/http"
	byHand     = "40 lines by hand"
	steadyName = "steadyhttp"
)

func clients() []client {
	return []client{
		{name: bare, new: func(base http.RoundTripper, s settings) do {
			return through(&http.Client{Transport: base, Timeout: s.attemptTimeout})
		}, never: "it retries nothing"},
		{name: byHand, new: hand},
		{name: "go-retryablehttp", new: retryable},
		{name: "rehttp", new: func(base http.RoundTripper, s settings) do {
			delay := rehttp.ConstDelay(0)
			if s.wait > 0 {
				delay = rehttp.ExpJitterDelay(s.wait, s.mostWait)
			}
			t := rehttp.NewTransport(base, rehttp.RetryAll(
				rehttp.RetryMaxRetries(s.attempts-1),
				rehttp.RetryAny(rehttp.RetryStatuses(429, 500, 502, 503, 504), rehttp.RetryIsErr(isError)),
			), delay)
			t.PerAttemptTimeout = s.attemptTimeout
			return through(&http.Client{Transport: t})
		}},
		{name: "failsafe-go", new: func(base http.RoundTripper, s settings) do {
			b := failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(s.attempts - 1).ReturnLastFailure()
			if s.wait > 0 {
				b = b.WithBackoff(s.wait, s.mostWait)
			}
			policies := []failsafe.Policy[*http.Response]{b.Build()}
			if s.attemptTimeout > 0 {
				policies = append(policies, timeout.New[*http.Response](s.attemptTimeout))
			}
			return through(&http.Client{Transport: failsafehttp.NewRoundTripper(base, policies...)})
		}},
		{name: "azcore", new: azure},
		{name: "kiota-http-go", new: func(base http.RoundTripper, s settings) do {
			options := kiota.RetryHandlerOptions{
				MaxRetries: s.attempts - 1, DelaySeconds: max(1, int(s.wait/time.Second)),
				ShouldRetry: func(time.Duration, int, *http.Request, *http.Response) bool { return true },
			}
			return through(&http.Client{Transport: kiota.NewCustomTransportWithParentTransport(
				base, kiota.NewRetryHandlerWithOptions(options)), Timeout: s.attemptTimeout})
		}, never: "it does not retry a 500"},
		{name: "resty", new: restful},
		{name: steadyName, new: steady},
	}
}

func isError(err error) bool { return err != nil }

func through(c *http.Client) do {
	return func(ctx context.Context, url string, body []byte) (*http.Response, error) {
		req, err := request(ctx, url, body)
		if err != nil {
			return nil, err
		}
		return c.Do(req)
	}
}

func request(ctx context.Context, url string, body []byte) (*http.Request, error) {
	if body == nil {
		return http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

func steady(base http.RoundTripper, s settings) do {
	t := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{
		MaxAttempts: s.attempts, MaxWait: s.serverWait, AttemptTimeout: s.attemptTimeout,
		NewBackOff: func() backoff.BackOff {
			if s.wait == 0 {
				return &backoff.ZeroBackOff{}
			}
			return backoff.NewExponentialBackOff(
				backoff.WithInitialInterval(s.wait), backoff.WithMaxInterval(s.mostWait),
				backoff.WithMaxElapsedTime(0))
		},
	}}
	if s.steady != nil {
		s.steady(t)
	}
	return through(&http.Client{Transport: t})
}

// hand is what one writes: a loop with back-off, jitter and Retry-After.
func hand(base http.RoundTripper, s settings) do {
	c := &http.Client{Transport: base, Timeout: s.attemptTimeout}
	return func(ctx context.Context, url string, body []byte) (*http.Response, error) {
		wait := s.wait
		for attempt := 1; ; attempt++ {
			req, err := request(ctx, url, body)
			if err != nil {
				return nil, err
			}
			resp, err := c.Do(req)
			if err == nil && resp.StatusCode != 429 && resp.StatusCode < 500 {
				return resp, nil
			}
			if attempt == s.attempts || ctx.Err() != nil {
				return resp, err
			}
			sleep := wait
			if wait > 0 {
				sleep = wait/2 + rand.N(wait)
			}
			if err == nil {
				if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
					sleep = time.Duration(seconds) * time.Second
				}
				io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
				resp.Body.Close()
			}
			wait = min(2*wait, s.mostWait)
			if sleep == 0 {
				continue
			}
			timer := time.NewTimer(sleep)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil, ctx.Err()
			}
		}
	}
}

func retryable(base http.RoundTripper, s settings) do {
	c := retryablehttp.NewClient()
	c.HTTPClient = &http.Client{Transport: base, Timeout: s.attemptTimeout}
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = s.attempts-1, s.wait, s.mostWait
	c.Logger, c.ErrorHandler = nil, retryablehttp.PassthroughErrorHandler
	return func(ctx context.Context, url string, body []byte) (*http.Response, error) {
		method := http.MethodGet
		var content any
		if body != nil {
			method, content = http.MethodPost, body
		}
		req, err := retryablehttp.NewRequestWithContext(ctx, method, url, content)
		if err != nil {
			return nil, err
		}
		return c.Do(req)
	}
}

func azure(base http.RoundTripper, s settings) do {
	options := &policy.ClientOptions{
		Transport: &http.Client{Transport: base},
		Retry: policy.RetryOptions{
			// A delay of 0 is the default, and a negative one, which should be none, waits for
			// MaxRetryDelay (calcDelay takes it for an overflow).
			MaxRetries: int32(s.attempts - 1), RetryDelay: max(s.wait, 1),
			MaxRetryDelay: max(s.mostWait, s.serverWait, 1), TryTimeout: s.attemptTimeout,
		},
	}
	pipeline := azruntime.NewPipeline("sidebyside", "v0.0.0", azruntime.PipelineOptions{}, options)
	return func(ctx context.Context, url string, body []byte) (*http.Response, error) {
		method := http.MethodGet
		if body != nil {
			method = http.MethodPost
		}
		req, err := azruntime.NewRequest(ctx, method, url)
		if err != nil {
			return nil, err
		}
		if body != nil {
			reader := streaming.NopCloser(bytes.NewReader(body))
			if err := req.SetBody(reader, "application/json"); err != nil {
				return nil, err
			}
		}
		azruntime.SkipBodyDownload(req)
		return pipeline.Do(req)
	}
}

func restful(base http.RoundTripper, s settings) do {
	c := resty.New().SetTransport(base).SetRetryCount(s.attempts-1).SetLogger(silent{}).
		SetRetryWaitTime(s.wait).SetRetryMaxWaitTime(s.mostWait).
		AddRetryConditions(
			resty.RetryConditionStatusTooManyRequests, resty.RetryConditionStatus5XX).
		SetResponseDoNotParse(true)
	if s.attemptTimeout > 0 {
		c.SetTimeout(s.attemptTimeout)
	}
	return func(ctx context.Context, url string, body []byte) (*http.Response, error) {
		req, method := c.R().SetContext(ctx), http.MethodGet
		if body != nil {
			method = http.MethodPost
			req.SetBody(body).SetContentType("application/json")
		}
		resp, err := req.Execute(method, url)
		if resp == nil || resp.RawResponse == nil {
			return nil, err
		}
		return resp.RawResponse, err
	}
}

type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

func finish(resp *http.Response) {
	if resp != nil && resp.Body != nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}
