package steadyhttp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// typed is what asks for an error's type: otelhttp does, without knowing ours.
type typed interface {
	error
	ErrorType() string
}

// typeOf returns the type that anybody finds in err.
func typeOf(t testing.TB, err error) string {
	t.Helper()
	e, ok := errors.AsType[typed](err)
	if !ok {
		t.Fatalf("%T (%v) has no type", err, err)
	}
	return e.ErrorType()
}

// errorKinds is what the documentation of ErrorType promises.
var errorKinds = []string{"timeout", "cancelled", "refused", "prepare", "request body", "dns", "connect", "tls", "connection", "_OTHER"}

// afterLoss loses the first attempt's connection. The error of an only attempt would be the base transport's own, as it was.
func afterLoss(base http.RoundTripper) http.RoundTripper {
	lost := false
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if !lost {
			lost = true
			return failsWith(errReset)(req)
		}
		return base.RoundTrip(req)
	})
}

// The kinds of failures that a real connection has.
func TestErrorTypeOverTheWire(t *testing.T) {
	send := func(t *testing.T, base http.RoundTripper, policy steadyhttp.Policy, url string) error {
		policy.Budget, policy.NewBackOff = &steadyhttp.Budget{Max: -1}, newZeroBackOff
		resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(wireRequest(t, "GET", url, ""))
		if err == nil {
			resp.Body.Close()
			t.Fatalf("answered %d", resp.StatusCode)
		}
		return err
	}
	cut := func(answer string, reset bool) func(*testing.T) error {
		return func(t *testing.T) error {
			server := newWireServer(t, func(c *wireConn) {
				c.request()
				c.answer(answer)
				if reset {
					c.reset()
				}
			})
			return send(t, newWireBase(t), steadyhttp.Policy{}, server.url)
		}
	}
	for name, tt := range map[string]struct {
		err  func(*testing.T) error
		want string
	}{
		"nobody listens": {func(t *testing.T) error {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			listener.Close()
			return send(t, newWireBase(t), steadyhttp.Policy{}, "http://"+listener.Addr().String())
		}, "connect"},
		"nobody listens at the proxy": {func(t *testing.T) error {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			listener.Close()
			base := newWireBase(t)
			base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: listener.Addr().String()})
			return send(t, base, steadyhttp.Policy{}, "http://api.example/")
		}, "connect"},
		"a certificate that nobody trusts": {func(t *testing.T) error {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = quiet
			server.StartTLS()
			t.Cleanup(server.Close)
			err := send(t, afterLoss(newWireBase(t)), steadyhttp.Policy{}, server.URL)
			if !isCertificateError(err) {
				t.Errorf("another error than meant: %v", err)
			}
			return err
		}, "tls"},
		"a certificate of another host": {func(t *testing.T) error {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = quiet
			server.StartTLS()
			t.Cleanup(server.Close)
			base := server.Client().Transport.(*http.Transport)
			base.TLSClientConfig.ServerName = "elsewhere.invalid"
			t.Cleanup(base.CloseIdleConnections)
			return send(t, afterLoss(base), steadyhttp.Policy{}, server.URL)
		}, "tls"},
		"no TLS": {func(t *testing.T) error {
			server := newWireServer(t, func(c *wireConn) { c.answer("HTTP/1.1 400 Bad Request\r\n\r\n") })
			err := send(t, afterLoss(newWireBase(t)), steadyhttp.Policy{}, strings.Replace(server.url, "http:", "https:", 1))
			if !asErr[tls.RecordHeaderError](err) {
				t.Errorf("another error than meant: %v", err)
			}
			return err
		}, "tls"},
		"cut before the answer":      {cut("", false), "connection"},
		"reset before the answer":    {cut("", true), "connection"},
		"cut in the answer's head":   {cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n", false), "connection"},
		"reset in the answer's head": {cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n", true), "connection"},
		"no HTTP":                    {cut("SSH-2.0-OpenSSH_9.9\r\n\r\n", false), "_OTHER"},
		"AttemptTimeout": {func(t *testing.T) error {
			server := newWireServer(t, func(c *wireConn) {
				c.request()
				c.r.ReadByte() // until the client has gone
			})
			return send(t, newWireBase(t), steadyhttp.Policy{MaxAttempts: 2, AttemptTimeout: time.Millisecond}, server.url)
		}, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.err(t)
			if got := errorOf(t, err).ErrorType(); got != tt.want {
				t.Errorf("%q, want %q: %v", got, tt.want, err)
			}
		})
	}
}

// The kinds that a call can end with, whatever its base transport is.
func TestErrorTypeOverTheTransport(t *testing.T) {
	lost, timedOut := failsWith(errReset), &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	mine := errors.New("shift is over")
	refusing := func(err error) *steadyhttp.Transport {
		return &steadyhttp.Transport{Gates: []steadyhttp.Gate{gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			return nil, err
		})}}
	}
	preparing := func(err error) *steadyhttp.Transport {
		return &steadyhttp.Transport{Prepare: func(*http.Request, *steadyhttp.Attempt) error { return err }}
	}
	policy := func(p steadyhttp.Policy) *steadyhttp.Transport { return &steadyhttp.Transport{Policy: p} }
	after := func(d time.Duration, end func(context.Context, time.Duration) context.Context) func(*http.Request) *http.Request {
		return func(req *http.Request) *http.Request { return req.WithContext(end(req.Context(), d)) }
	}
	deadline := func(ctx context.Context, d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(ctx, d)
		context.AfterFunc(ctx, cancel)
		return ctx
	}
	ownDeadline := func(cause error) func(context.Context, time.Duration) context.Context {
		return func(ctx context.Context, d time.Duration) context.Context {
			ctx, cancel := context.WithTimeoutCause(ctx, d, cause)
			context.AfterFunc(ctx, cancel)
			return ctx
		}
	}
	cancel := func(ctx context.Context, d time.Duration) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(d, cancel)
		return ctx
	}
	ownCancel := func(ctx context.Context, d time.Duration) context.Context {
		ctx, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(d, func() { cancel(mine) })
		return ctx
	}
	legacy := func(req *http.Request) *http.Request {
		ended := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(ended) })
		//lint:ignore SA1019 a RoundTripper must obey it
		req.Cancel = ended
		return req
	}
	body := func(err error) func(*http.Request) *http.Request {
		return func(req *http.Request) *http.Request {
			req.Method, req.Body = "PUT", io.NopCloser(failingReader{err})
			return req
		}
	}
	getBody := func(req *http.Request) *http.Request {
		req.Method, req.Body = "PUT", newCountingBody("content")
		req.GetBody = func() (io.ReadCloser, error) { return nil, mine }
		return req
	}
	stuck := steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
	minute := policy(steadyhttp.Policy{NewBackOff: constantBackOff(time.Minute)})
	met := map[string]bool{}
	for name, tt := range map[string]struct {
		transport *steadyhttp.Transport // nil: one with nothing set
		steps     []step
		edit      func(*http.Request) *http.Request
		want      string
	}{
		"deadline in an attempt":            {nil, []step{lost, hangs}, after(time.Minute, deadline), "timeout"},
		"deadline with a cause":             {nil, []step{lost, hangs}, after(time.Minute, ownDeadline(mine)), "timeout"},
		"deadline with no timeout's cause":  {nil, []step{lost, hangs}, after(time.Minute, ownDeadline(errReset)), "timeout"},
		"MaxElapsed at a gate":              {&steadyhttp.Transport{Policy: steadyhttp.Policy{MaxElapsed: time.Minute}, Gates: []steadyhttp.Gate{stuck}}, nil, nil, "timeout"},
		"deadline at a gate":                {&steadyhttp.Transport{Gates: []steadyhttp.Gate{stuck}}, nil, after(time.Minute, deadline), "timeout"},
		"an attempt's timeout":              {policy(steadyhttp.Policy{MaxAttempts: 2, AttemptTimeout: time.Second}), []step{hangs}, nil, "timeout"},
		"MaxElapsed in an attempt":          {policy(steadyhttp.Policy{MaxElapsed: time.Minute}), []step{hangs}, nil, "timeout"},
		"the base's own timeout":            {nil, []step{failsWith(timedOut)}, nil, "timeout"},
		"cancelled in an attempt":           {nil, []step{lost, hangs}, after(time.Minute, cancel), "cancelled"},
		"cancelled with a cause":            {nil, []step{lost, hangs}, after(time.Minute, ownCancel), "cancelled"},
		"cancelled in a wait":               {minute, []step{lost}, after(time.Second, cancel), "cancelled"},
		"cancelled after a timeout":         {minute, []step{failsWith(timedOut)}, after(time.Second, cancel), "cancelled"},
		"cancelled before it began":         {nil, []step{lost}, after(0, cancel), "cancelled"},
		"Request.Cancel":                    {minute, []step{lost}, legacy, "cancelled"},
		"refused":                           {refusing(steadyhttp.ErrNotSent), nil, nil, "refused"},
		"refused by a gate's own word":      {refusing(mine), nil, nil, "refused"},
		"refused as no time would do":       {refusing(fmt.Errorf("%w: %w", steadyhttp.ErrNotSent, context.DeadlineExceeded)), nil, nil, "refused"},
		"refused as the gate was cancelled": {refusing(context.Canceled), nil, nil, "refused"},
		"Prepare":                           {preparing(mine), nil, nil, "prepare"},
		"Prepare timed out":                 {preparing(timedOut), nil, nil, "prepare"},
		"Prepare found no host":             {preparing(&net.DNSError{Err: "no such host", IsNotFound: true}), nil, nil, "prepare"},
		"the body, while it is buffered":    {policy(steadyhttp.Policy{MaxBuffer: 100}), nil, body(mine), "request body"},
		"a body that is cut off":            {policy(steadyhttp.Policy{MaxBuffer: 100}), nil, body(io.ErrUnexpectedEOF), "request body"},
		"a body from a lost connection":     {policy(steadyhttp.Policy{MaxBuffer: 100}), nil, body(errReset), "request body"},
		"GetBody":                           {nil, []step{lost}, getBody, "request body"},
		"no such host":                      {nil, []step{lost, failsWith(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "api.example", IsNotFound: true}})}, nil, "dns"},
		"the name server is down":           {nil, []step{failsWith(&net.DNSError{Err: "server misbehaving", Name: "api.example", IsTemporary: true})}, nil, "dns"},
		"no connection":                     {nil, []step{failsWith(errDial)}, nil, "connect"},
		"no connection, wrapped":            {nil, []step{failsWith(fmt.Errorf("mesh: %w", errDial))}, nil, "connect"},
		"a distrusted certificate":          {nil, []step{lost, failsWith(&tls.CertificateVerificationError{Err: mine})}, nil, "tls"},
		"... of the proxy":                  {nil, []step{lost, failsWith(&net.OpError{Op: "proxyconnect", Net: "tcp", Err: &tls.CertificateVerificationError{Err: mine}})}, nil, "tls"},
		"an alert":                          {nil, []step{failsWith(tls.AlertError(40))}, nil, "tls"},
		"lost":                              {nil, []step{lost}, nil, "connection"},
		"lost, wrapped":                     {nil, []step{failsWith(&url.Error{Op: "Get", URL: "http://inner.example", Err: errReset})}, nil, "connection"},
		"EOF":                               {nil, []step{failsWith(io.EOF)}, nil, "connection"},
		"unexpected EOF":                    {nil, []step{failsWith(fmt.Errorf("reading: %w", io.ErrUnexpectedEOF))}, nil, "connection"},
		"a bare reset":                      {nil, []step{failsWith(syscall.ECONNRESET)}, nil, "connection"},
		"a bare broken pipe":                {nil, []step{failsWith(os.NewSyscallError("write", syscall.EPIPE))}, nil, "connection"},
		"a custom error":                    {nil, []step{failsWith(mine)}, nil, "_OTHER"},
		"a base that returns nothing":       {nil, []step{lost, failsWith(nil)}, nil, "_OTHER"},
	} {
		met[tt.want] = true
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, "GET", "")
				if tt.edit != nil {
					req = tt.edit(req)
					synctest.Wait() // for what ends at once
				}
				_, err := withBase(tt.transport, newScript(tt.steps...)).RoundTrip(req)
				e := errorOf(t, err)
				if got := e.ErrorType(); got != tt.want {
					t.Errorf("%q, want %q: stop %q, %v", got, tt.want, e.Stop, err)
				}
				time.Sleep(time.Hour) // what was to end a call that has ended before it
			})
		})
	}
	for _, kind := range errorKinds {
		if !met[kind] {
			t.Errorf("no call ended with %q: the test has a gap", kind)
		}
	}
}

// http.Client closes Request.Cancel at its Timeout, and lets the context's deadline pass, in either order.
func TestErrorTypeOfClientTimeout(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			for name, transport := range map[string]*steadyhttp.Transport{
				"at a gate":     {Gates: []steadyhttp.Gate{steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))}},
				"in an attempt": {Base: newScript(failsWith(errReset), hangs)},
			} {
				var ended error
				client := &http.Client{Timeout: time.Minute, Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
					resp, err := transport.RoundTrip(req)
					ended = err // of which the client only keeps the text
					return resp, err
				})}
				if _, err := client.Do(newRequest(t, "GET", "")); err == nil {
					t.Fatal("answered")
				}
				if got := errorOf(t, ended).ErrorType(); got != "timeout" {
					t.Errorf("%s: %q: %v", name, got, ended)
				}
			}
		})
	}
}

func TestErrorTypeOfNothing(t *testing.T) {
	if got := (&steadyhttp.Error{}).ErrorType(); got != "_OTHER" {
		t.Errorf("%q", got)
	}
}

// otelhttp asks whatever error it has for a type. Ours is found behind any wrapping, and behind http.Client's.
func TestErrorTypeIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: &steadyhttp.Transport{Base: newScript(failsWith(errReset))}}
		_, err := client.Do(newRequest(t, "GET", ""))
		resp, noErr := (&http.Client{Transport: &steadyhttp.Transport{Base: newScript(answers(404, envelope("A", "m", "t")))}}).Do(newRequest(t, "GET", ""))
		if noErr != nil {
			t.Fatal(noErr)
		}
		defer resp.Body.Close()
		for want, err := range map[string]error{"connection": err, "404": steadyhttp.Check(resp)} {
			for _, wrapped := range []error{
				err,
				fmt.Errorf("fetching machines: %w", err),
				fmt.Errorf("job 7: %w", fmt.Errorf("fetching machines: %w", err)),
				errors.Join(errors.New("first"), err),
			} {
				if got := typeOf(t, wrapped); got != want {
					t.Errorf("%q, want %q: %v", got, want, wrapped)
				}
			}
		}
	})
}

func TestErrorTypeOfStatus(t *testing.T) {
	for status, want := range map[int]string{
		200: "200", 400: "400", 401: "401", 404: "404", 418: "418", 429: "429", 500: "500", 503: "503", 511: "511",
		419: "4xx", 499: "4xx", 520: "5xx", 599: "5xx",
		399: "_OTHER", 600: "_OTHER", 999: "_OTHER", 1404: "_OTHER", 0: "_OTHER", -404: "_OTHER",
	} {
		if got := (&steadyhttp.Error{StatusCode: status, Verdict: steadyhttp.Verdict{Code: "ResourceNotFound"}}).ErrorType(); got != want {
			t.Errorf("%d: %q, want %q", status, got, want)
		}
	}
}

// The type ends up on metrics: whatever happens, it is one of a few words.
func TestErrorTypesAreFew(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	timedOut := &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	leaves := []error{
		nil, errTrial, errReset, errDial, timedOut, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, context.Canceled, context.DeadlineExceeded,
		os.ErrDeadlineExceeded, syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, steadyhttp.ErrNotSent, net.ErrClosed, http.ErrHandlerTimeout,
		&net.DNSError{Err: "no such host", Name: "api.example"}, &net.DNSError{Err: "slow", IsTimeout: true}, net.UnknownNetworkError("x"),
		&tls.CertificateVerificationError{Err: errTrial}, tls.AlertError(42), tls.RecordHeaderError{Msg: "m"},
		&steadyhttp.Error{Stop: "refused"}, &steadyhttp.Error{StatusCode: 777},
	}
	stops := []steadyhttp.Stop{
		"", "done", "permanent", "not_idempotent", "body_not_replayable", "attempts", "elapsed", "wait_too_long", "deadline", "budget",
		"refused", "prepare", "cancelled", "of a later version",
	}
	var grow func(depth int) error
	grow = func(depth int) error {
		if depth == 0 {
			return pickOne(rng, leaves...)
		}
		inner := grow(depth - 1)
		switch rng.IntN(6) {
		case 0:
			return fmt.Errorf("text %d: %w", rng.Int(), inner)
		case 1:
			return &url.Error{Op: "Get", URL: fmt.Sprint("http://api.example/", rng.Int()), Err: orTrial(inner)}
		case 2:
			return &net.OpError{Op: pickOne(rng, "dial", "read", "write", "proxyconnect", "remote error", fmt.Sprint(rng.Int())), Net: "tcp", Err: orTrial(inner)}
		case 3:
			return errors.Join(inner, grow(rng.IntN(depth)))
		case 4:
			return &steadyhttp.Error{Attempts: rng.IntN(5), Stop: pickOne(rng, stops...), Err: inner}
		default:
			return inner
		}
	}
	met := map[string]int{}
	for range 1000 {
		e := &steadyhttp.Error{Attempts: rng.IntN(5), Stop: pickOne(rng, stops...), Err: grow(rng.IntN(5))}
		kind := e.ErrorType()
		if met[kind]++; !slices.Contains(errorKinds, kind) {
			t.Errorf("%q for stop %q, %v", kind, e.Stop, e.Err)
		}
	}
	if len(met) < 8 {
		t.Errorf("%v: the test tests little", met)
	}
	for range 1000 {
		status := rng.IntN(1200) - 100
		kind := (&steadyhttp.Error{StatusCode: status, Verdict: steadyhttp.Verdict{Code: fmt.Sprint(rng.Int())}}).ErrorType()
		if kind != "4xx" && kind != "5xx" && kind != "_OTHER" && (kind != strconv.Itoa(status) || http.StatusText(status) == "") {
			t.Errorf("%q for %d", kind, status)
		}
	}
}

func orTrial(err error) error {
	if err == nil {
		return errTrial
	}
	return err
}

// The list in the documentation is the one that the tests hold the code to.
func TestErrorTypesAreDocumented(t *testing.T) {
	source, err := os.ReadFile("error.go")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, match := range regexp.MustCompile(`(?m)^//\t"([^"]+)" `).FindAllSubmatch(source, -1) {
		documented = append(documented, string(match[1]))
	}
	if !slices.Equal(documented, errorKinds) {
		t.Errorf("%q\nwant %q", documented, errorKinds)
	}
}

// logged returns an error as a JSON log has it.
func logged(t *testing.T, err error) string {
	t.Helper()
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key != "failure" {
			return slog.Attr{}
		}
		return a
	}})).Error("failed", "failure", err)
	return strings.TrimSpace(out.String())
}

// An error in a log is a group of fields, of which those that say nothing are left out.
func TestErrorsInALog(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{
			&steadyhttp.Error{Verdict: steadyhttp.Verdict{Code: "Busy", TrackingID: "t-1", RetryAfter: time.Hour}, Attempts: 4, Stop: "refused", Wait: 90 * time.Second, Err: errReset},
			`"attempts":4,"code":"Busy","tracking_id":"t-1","error":"read tcp: read: ` + syscall.ECONNRESET.Error() + `","wait":90,"stop":"refused"`,
		},
		{&steadyhttp.Error{Stop: "cancelled", Err: context.Canceled}, `"attempts":0,"error":"context canceled","stop":"cancelled"`},
		{&steadyhttp.Error{Attempts: 1, Verdict: steadyhttp.Verdict{Code: "Busy"}, Stop: "attempts"}, `"attempts":1,"code":"Busy","stop":"attempts"`},
		{&steadyhttp.Error{Attempts: 1, Verdict: steadyhttp.Verdict{TrackingID: "t-1"}, Stop: "attempts"}, `"attempts":1,"tracking_id":"t-1","stop":"attempts"`},
		{
			&steadyhttp.Error{StatusCode: 429, Verdict: steadyhttp.Verdict{Code: "429", Message: "slow down", TrackingID: "t-1", RetryAfter: time.Second}, Attempts: 2, Stop: "wait_too_long"},
			`"status":429,"code":"429","tracking_id":"t-1","message":"slow down","wait":1,"attempts":2,"stop":"wait_too_long"`,
		},
		{&steadyhttp.Error{StatusCode: 503, Attempts: 4, Stop: "attempts"}, `"status":503,"attempts":4,"stop":"attempts"`},
		{&steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{Code: "NotFound"}}, `"status":404,"code":"NotFound"`}, // a wrapper hides the rest
		{&steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{Message: "m"}}, `"status":404,"message":"m"`},
		{&steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{TrackingID: "t-1"}}, `"status":404,"tracking_id":"t-1"`},
		{&steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{RetryAfter: time.Millisecond}}, `"status":404,"wait":0.001`},
		{&steadyhttp.Error{StatusCode: 404}, `"status":404`},
	} {
		if got, want := logged(t, tt.err), `{"failure":{`+tt.want+`}}`; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// The same of calls, whose errors wrap others that quote secrets.
func TestNoSecretsInALoggedError(t *testing.T) {
	const raw = "http://canaryUser:canaryPassword@token.example/x?key=canaryQuery#canaryFragment"
	leak := &url.Error{Op: "Post", URL: raw, Err: errReset}
	fails := func(err error) func(*steadyhttp.Attempt) error { return func(*steadyhttp.Attempt) error { return err } }
	failsLater := func(prev *steadyhttp.Attempt) error {
		if prev == nil {
			return nil
		}
		return errTrial
	}
	anHour := steadyhttp.Policy{NewBackOff: constantBackOff(time.Hour), MaxWait: time.Hour}
	for name, tt := range map[string]struct {
		policy  steadyhttp.Policy
		steps   []step
		prepare func(prev *steadyhttp.Attempt) error
		gate    error
		cause   error // the caller's, after a minute
		want    string
	}{
		"the base's":                      {steps: []step{failsWith(leak)}, want: `"attempts":4,`},
		"Prepare's":                       {prepare: fails(leak), want: `"attempts":0,`},
		"a gate's":                        {gate: leak, want: `"attempts":0,`},
		"the base's, before Prepare's":    {steps: []step{failsWith(leak)}, prepare: failsLater, want: `"attempts":1,`},
		"the caller's":                    {steps: []step{failsWith(errReset), hangs}, cause: leak, want: `"attempts":2,`},
		"the base's, before the caller's": {policy: anHour, steps: []step{failsWith(leak)}, cause: errTrial, want: `"attempts":1,`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if tt.cause != nil {
					time.AfterFunc(time.Minute, func() { cancel(tt.cause) })
				}
				transport := &steadyhttp.Transport{Base: newScript(tt.steps...), Policy: tt.policy}
				if tt.prepare != nil {
					transport.Prepare = func(_ *http.Request, prev *steadyhttp.Attempt) error { return tt.prepare(prev) }
				}
				transport.Gates = []steadyhttp.Gate{gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
					return nil, tt.gate
				})}
				_, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
				got := logged(t, errorOf(t, err))
				if strings.Contains(got, "canary") || !strings.Contains(got, "http://REDACTED:REDACTED@token.example/x?key=REDACTED") {
					t.Error(got)
				}
				if !strings.Contains(got, tt.want) || !strings.Contains(got, fmt.Sprintf(`"stop":%q}`, errorOf(t, err).Stop)) {
					t.Errorf("%s\nwant %s", got, tt.want)
				}
			})
		})
	}
}

// An answer that says no, over the Transport.
func TestServiceErrorInALog(t *testing.T) {
	resp, _ := do(t, &steadyhttp.Transport{Base: newScript(answers(404, envelope("ResourceNotFound", "Machine 1 was not found", "t-1")))}, newRequest(t, "GET", ""))
	const want = `{"failure":{"status":404,"code":"ResourceNotFound","tracking_id":"t-1","message":"Machine 1 was not found","attempts":1,"stop":"permanent"}}`
	if got := logged(t, steadyhttp.Check(resp)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestRedactNothing(t *testing.T) {
	if got := steadyhttp.RedactURL(nil); got != "" {
		t.Errorf("RedactURL: %q", got)
	}
	if got := steadyhttp.RedactError(nil); got != "" {
		t.Errorf("RedactError: %q", got)
	}
}

// OpenTelemetry's form of a URL with credentials, whichever of the two there are.
func TestRedactUserinfo(t *testing.T) {
	for _, user := range []*url.Userinfo{
		url.User("canary"), url.User(""), url.UserPassword("canary", "canary"), url.UserPassword("canary", ""), url.UserPassword("", "canary"),
	} {
		u := &url.URL{Scheme: "https", User: user, Host: "api.example", Path: "/x", RawQuery: "key=canary"}
		const want = "https://REDACTED:REDACTED@api.example/x?key=REDACTED"
		if got := steadyhttp.RedactURL(u); got != want {
			t.Errorf("%s: %q", u, got)
		}
		if u.User != user || u.RawQuery != "key=canary" {
			t.Errorf("the caller's URL has become %s", u)
		}
		err := fmt.Errorf("token: %w", &url.Error{Op: "Get", URL: u.String(), Err: errTrial})
		if got, want := steadyhttp.RedactError(err), `token: Get "`+want+`": `+errTrial.Error(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// crypto/tls does not export the type of its alerts.
func TestErrorTypeOfAnAlert(t *testing.T) {
	for name, config := range map[string]*tls.Config{"client certificate": {ClientAuth: tls.RequireAnyClientCert}, "version": {MaxVersion: tls.VersionTLS12}} {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Config.ErrorLog, server.TLS = quiet, config
		server.StartTLS()
		defer server.Close()
		base := newWireBase(t)
		base.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
		_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(wireRequest(t, "GET", server.URL, ""))
		if got := errorOf(t, err).ErrorType(); got != "tls" {
			t.Errorf("%s: %q: %v (%s)", name, got, err, errorTypes(err))
		}
	}
}

// What failed is the caller's body, however it did.
func TestErrorTypeOfAFailedBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, "PUT", "content")
		req.GetBody = func() (io.ReadCloser, error) { return nil, errTrial }
		_, err := (&steadyhttp.Transport{Base: newScript(hangs), Policy: steadyhttp.Policy{AttemptTimeout: time.Second}}).RoundTrip(req)
		if got := errorOf(t, err).ErrorType(); got != "request body" {
			t.Errorf("GetBody after a timeout: %q: %v", got, err)
		}
		for _, inner := range []error{os.ErrDeadlineExceeded, context.Canceled} {
			req := newRequest(t, "PUT", "content")
			req.GetBody, req.Body = nil, io.NopCloser(failingReader{inner})
			_, err := (&steadyhttp.Transport{Base: newScript(answers(200, "")), Policy: steadyhttp.Policy{MaxBuffer: 100}}).RoundTrip(req)
			if got := errorOf(t, err).ErrorType(); got != "request body" {
				t.Errorf("buffered: %q: %v", got, err)
			}
		}
	})
}

// A base transport that cancels something of its own has not been cancelled by the caller.
func TestErrorTypeOfABasesOwnCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := failsWith(fmt.Errorf("pool: %w", context.Canceled))
		_, err := (&steadyhttp.Transport{Base: newScript(own), Policy: atOnce()}).RoundTrip(newRequest(t, "GET", ""))
		if e := errorOf(t, err); e.ErrorType() == "cancelled" {
			t.Errorf("%q, stop %q: %v", e.ErrorType(), e.Stop, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		gate := afterFirstAttempt(steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })))
		_, err = (&steadyhttp.Transport{Base: newScript(own), Policy: atOnce(), Gates: []steadyhttp.Gate{gate}}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		if e := errorOf(t, err); e.ErrorType() != "timeout" {
			t.Errorf("%q, stop %q: %v", e.ErrorType(), e.Stop, err)
		}
	})
}

// A proxy that finds no connection is as good as none.
func TestErrorTypeOfSOCKS(t *testing.T) {
	proxy := newWireServer(t, func(c *wireConn) {
		buf := make([]byte, 256)
		c.r.Read(buf)
		c.Write([]byte{5, 0})
		c.r.Read(buf)
		c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}) // connection refused
	})
	u, _ := url.Parse(proxy.url)
	u.Scheme = "socks5"
	base := newWireBase(t)
	base.Proxy = http.ProxyURL(u)
	_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(wireRequest(t, "GET", "http://api.example/", ""))
	if got := errorOf(t, err).ErrorType(); got != "connect" {
		t.Errorf("%q: %v", got, err)
	}
}

// *url.Error looks for a timeout in what it wraps directly, and no further.
func TestErrorTypeOfAWrappedTimeout(t *testing.T) {
	e := &steadyhttp.Error{Attempts: 2, Stop: "attempts", Err: &url.Error{Op: "Get", URL: "http://inner.example", Err: fmt.Errorf("reading: %w", os.ErrDeadlineExceeded)}}
	if e.ErrorType() != "timeout" || !e.Timeout() {
		t.Errorf("%q, Timeout %v", e.ErrorType(), e.Timeout())
	}
}
