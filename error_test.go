package steadyhttp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// quiet swallows what a test server says about the connections that a test breaks on purpose.
var quiet = log.New(io.Discard, "", 0)

func isCertificateError(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// What people grep for.
func TestServiceErrorText(t *testing.T) {
	const target = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	tests := []struct {
		err  steadyhttp.Error
		want string
	}{
		{
			steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{Code: "ResourceNotFound", Message: "Machine 123123123 was not found", TrackingID: target}, Attempts: 1, Stop: "permanent"},
			"steadyhttp: ResourceNotFound (404) after 1 attempt, tracking ID 43f4cb08-8fac-4b65-9db1-745c2ae65f3a: Machine 123123123 was not found",
		},
		{
			steadyhttp.Error{StatusCode: 500, Verdict: steadyhttp.Verdict{Code: "InternalServerError", TrackingID: target}, Attempts: 1, Stop: "not_idempotent"},
			"steadyhttp: InternalServerError (500) after 1 attempt, not idempotent, tracking ID 43f4cb08-8fac-4b65-9db1-745c2ae65f3a",
		},
		{
			steadyhttp.Error{StatusCode: 429, Verdict: steadyhttp.Verdict{Code: "429", Message: "slow down", TrackingID: "t", RetryAfter: 90 * time.Second}, Attempts: 2, Stop: "wait_too_long"},
			"steadyhttp: 429 (429) after 2 attempts, wait too long, retry after 1m30s, tracking ID t: slow down",
		},
		{steadyhttp.Error{StatusCode: 503, Attempts: 4, Stop: "attempts"}, "steadyhttp: Service Unavailable (503) after 4 attempts, no attempts left"},
		{steadyhttp.Error{StatusCode: 599, Attempts: 4, Stop: "budget"}, "steadyhttp: status 599 after 4 attempts, budget spent"},
		{steadyhttp.Error{StatusCode: 404}, "steadyhttp: Not Found (404)"},
		{steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{Code: "A"}, Stop: "done"}, "steadyhttp: A (404)"},
		{steadyhttp.Error{StatusCode: 503, Verdict: steadyhttp.Verdict{RetryAfter: 1234567 * time.Microsecond}}, "steadyhttp: Service Unavailable (503), retry after 1.235s"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%q\nwant %q", got, tt.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("read: connection reset")
	tests := []struct {
		err  steadyhttp.Error
		want string
	}{
		{steadyhttp.Error{Attempts: 4, Stop: "attempts", Err: cause}, "steadyhttp: 4 attempts, no attempts left: read: connection reset"},
		{steadyhttp.Error{Attempts: 1, Stop: "not_idempotent", Err: cause}, "steadyhttp: 1 attempt, not idempotent: read: connection reset"},
		{steadyhttp.Error{Attempts: 2, Stop: "permanent", Err: cause}, "steadyhttp: 2 attempts: read: connection reset"},
		{steadyhttp.Error{Stop: "refused", Wait: 30 * time.Second, Err: steadyhttp.ErrNotSent}, "steadyhttp: 0 attempts, refused (30s): nothing was sent"},
		{
			steadyhttp.Error{Verdict: steadyhttp.Verdict{Code: "Busy", TrackingID: "t"}, Attempts: 2, Stop: "refused", Err: steadyhttp.ErrNotSent},
			"steadyhttp: 2 attempts, refused, last answer Busy, tracking ID t: nothing was sent",
		},
		{steadyhttp.Error{Attempts: 2, Stop: "elapsed", Err: cause}, "steadyhttp: 2 attempts, time elapsed: read: connection reset"},
		{steadyhttp.Error{Attempts: 1, Stop: "prepare", Err: cause}, "steadyhttp: 1 attempt, prepare failed: read: connection reset"},
		{steadyhttp.Error{Attempts: 1}, "steadyhttp: 1 attempt"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%q\nwant %q", got, tt.want)
		}
	}
}

// The same two sentences, through a Transport.
func TestErrorTextsOverTheTransport(t *testing.T) {
	check := func(method string, s step) error {
		resp, _ := do(t, &steadyhttp.Transport{Base: newScript(s)}, newRequest(t, method, "{}"))
		return steadyhttp.Check(resp)
	}
	if got, want := check("POST", answers(500, envelope("InternalServerError", "", "t-1"))), "steadyhttp: InternalServerError (500) after 1 attempt, not idempotent, tracking ID t-1"; got.Error() != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got, want := check("GET", answers(404, envelope("ResourceNotFound", "Machine 1 was not found", "t-1"))), "steadyhttp: ResourceNotFound (404) after 1 attempt, tracking ID t-1: Machine 1 was not found"; got.Error() != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// Whatever the words around it, a Stop can be found in the text by its own name, but for the two that the code says.
func TestStopIsInTheText(t *testing.T) {
	for _, stop := range []steadyhttp.Stop{"not_idempotent", "body_not_replayable", "attempts", "elapsed", "wait_too_long", "deadline", "budget", "refused", "prepare", "cancelled"} {
		for _, err := range []error{&steadyhttp.Error{Attempts: 1, Stop: stop, Err: io.EOF}, &steadyhttp.Error{StatusCode: 503, Attempts: 1, Stop: stop}} {
			if !strings.Contains(err.Error(), strings.ReplaceAll(string(stop), "_", " ")) {
				t.Errorf("%q is not in %q", stop, err)
			}
		}
	}
}

func TestErrorTimeout(t *testing.T) {
	tests := []struct {
		name string
		err  *steadyhttp.Error
		want bool
	}{
		{"MaxElapsed", &steadyhttp.Error{Stop: "elapsed"}, true},
		{"deadline", &steadyhttp.Error{Stop: "cancelled", Err: context.DeadlineExceeded}, true},
		{"wrapped deadline", &steadyhttp.Error{Stop: "cancelled", Err: fmt.Errorf("x: %w", context.DeadlineExceeded)}, true},
		{"an attempt's timeout", &steadyhttp.Error{Stop: "attempts", Err: &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}}, true},
		{"cancelled", &steadyhttp.Error{Stop: "cancelled", Err: context.Canceled}, false},
		{"reset", &steadyhttp.Error{Stop: "attempts", Err: errReset}, false},
		{"refused", &steadyhttp.Error{Stop: "refused", Err: steadyhttp.ErrNotSent}, false},
		{"nothing", &steadyhttp.Error{}, false},
	}
	for _, tt := range tests {
		if got := tt.err.Timeout(); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// http.Client asks for Timeout, and so does everybody who has a net.Error in hand.
func TestTimeoutIsToldThroughTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: &steadyhttp.Transport{Base: newScript(hangs), Policy: steadyhttp.Policy{AttemptTimeout: time.Second}}}
		_, err := client.Do(newRequest(t, "GET", ""))
		var netErr net.Error
		if !errors.As(err, &netErr) || !netErr.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// The last cause is findable by value and by type; those before it were told to the hooks.
func TestExhaustionUnwrapsToTheLastCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, last := errors.New("first"), errors.New("last")
		_, err := (&steadyhttp.Transport{
			Base:   newScript(failsWith(first), failsWith(fmt.Errorf("again: %w", last))),
			Policy: steadyhttp.Policy{MaxAttempts: 2},
		}).RoundTrip(newRequest(t, "GET", ""))
		if !errors.Is(err, last) || errors.Is(err, first) || errorOf(t, err).Stop != "attempts" {
			t.Errorf("got %v", err)
		}
	})
}

// Who ended the call, and what it had failed of before, are both findable; the text has both, too.
func TestCancellationKeepsTheFailureBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := errors.New("shift is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(mine) })
		_, err := (&steadyhttp.Transport{Base: newScript(failsWith(errReset))}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		for _, want := range []error{mine, context.Canceled, errReset, syscall.ECONNRESET} {
			if !errors.Is(err, want) {
				t.Errorf("%v is not findable in %v", want, err)
			}
		}
		want := "steadyhttp: 1 attempt, cancelled: shift is over; before that: read tcp: read: " + syscall.ECONNRESET.Error()
		if err.Error() != want {
			t.Errorf("%q\nwant %q", err, want)
		}
	})
}

// The code and tracking ID of the answer before it are in the error of a call that has no answer to return.
func TestErrorTellsTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		base := newScript(answers(503, envelope("Busy", "m", "t-1")))
		_, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		if e := errorOf(t, err); e.Code != "Busy" || e.TrackingID != "t-1" || !strings.Contains(err.Error(), "last answer Busy, tracking ID t-1") {
			t.Errorf("got %v", err)
		}
	})
}

// The client puts the URL around the error; we do not put it there a second time.
func TestURLIsNotTwiceInTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := (&http.Client{Transport: &steadyhttp.Transport{Base: newScript(failsWith(errReset))}}).Do(newRequest(t, "GET", ""))
		if n := strings.Count(err.Error(), "api.example"); n != 1 {
			t.Errorf("%d times in %q", n, err)
		}
	})
}

// hiding is what a wrapper around us does: the body's type is hidden.
type hiding struct{ http.RoundTripper }

func (h hiding) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := h.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{resp.Body, resp.Body}
	}
	return resp, err
}

// Check works behind any wrapper: it peeks, and what it has read can be read again.
func TestCheckThroughAWrapper(t *testing.T) {
	base := newScript(answers(404, envelope("ResourceNotFound", "m", "t-1")))
	resp, err := hiding{&steadyhttp.Transport{Base: base}}.RoundTrip(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	e, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp))
	if !ok || e.StatusCode != 404 || e.Code != "ResourceNotFound" || e.Message != "m" || e.TrackingID != "t-1" || e.Attempts != 0 || e.Stop != "" {
		t.Errorf("got %+v", e)
	}
	if body := readAll(t, resp); body != envelope("ResourceNotFound", "m", "t-1") {
		t.Errorf("the body has become %q", body)
	}
	base.assertNoLeak(t)
}

// A second Check says what the first one said.
func TestCheckTwice(t *testing.T) {
	for name, transport := range map[string]http.RoundTripper{
		"ours":    &steadyhttp.Transport{Base: newScript(answers(404, envelope("A", "m", "t"), "Retry-After: 5"))},
		"wrapped": hiding{&steadyhttp.Transport{Base: newScript(answers(404, envelope("A", "m", "t"), "Retry-After: 5"))}},
		"foreign": newScript(answers(404, envelope("A", "m", "t"), "Retry-After: 5")),
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			first, second := steadyhttp.Check(resp), steadyhttp.Check(resp)
			if first.Error() != second.Error() {
				t.Errorf("first %q, then %q", first, second)
			}
			if body := readAll(t, resp); body != envelope("A", "m", "t") {
				t.Errorf("the body has become %q", body)
			}
		})
	}
}

// A response that never was a Transport's is not one after Check has looked at it.
func TestCheckMakesNoAttempt(t *testing.T) {
	resp, _ := newScript(answers(404, envelope("A", "m", "t"))).RoundTrip(newRequest(t, "GET", ""))
	steadyhttp.Check(resp)
	defer resp.Body.Close()
	if a, ok := steadyhttp.AttemptOf(resp); ok {
		t.Errorf("AttemptOf says %+v", a)
	}
}

// Of a call that succeeded at the first try there is nothing to tell, whether its body is watched or not.
func TestAttemptOfAFirstTrySuccess(t *testing.T) {
	for name, transport := range map[string]*steadyhttp.Transport{
		"plain":   {},
		"watched": {Trace: &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) {}}},
	} {
		transport.Base = newScript(answers(200, "body"))
		resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := steadyhttp.AttemptOf(resp); ok {
			t.Errorf("%s: %+v", name, a)
		}
		resp.Body.Close()
	}
	if a, ok := steadyhttp.AttemptOf(nil); ok {
		t.Errorf("nil: %+v", a)
	}
}

// A Transport on top of a base that uses Check still sees the code.
func TestCheckInTheBaseHidesNothing(t *testing.T) {
	inner := newScript(answers(400, envelope("Busy", "m", "t")), answers(200, ""))
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := inner.RoundTrip(req)
		if err == nil && steadyhttp.Check(resp) != nil {
			resp.Header.Set("Checked", "yes")
		}
		return resp, err
	})
	rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Busy": steadyhttp.Transient}}
	synctest.Test(t, func(t *testing.T) {
		resp, _ := do(t, &steadyhttp.Transport{Base: base, Classify: rules.Classify}, newRequest(t, "GET", ""))
		if resp.StatusCode != 200 {
			t.Errorf("got %d, stop %q", resp.StatusCode, stopOf(t, resp))
		}
	})
}

func TestCheckIsNilBelow400(t *testing.T) {
	for _, status := range []int{101, 200, 204, 301, 304, 399} {
		if err := steadyhttp.Check(&http.Response{StatusCode: status}); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// Whatever Check is handed, it must not panic.
func TestCheckOfOddResponses(t *testing.T) {
	if err := steadyhttp.Check(nil); err == nil || !strings.Contains(err.Error(), "nil response") {
		t.Errorf("nil: %v", err)
	}
	for name, resp := range map[string]*http.Response{
		"nil body":   {StatusCode: 500, Header: http.Header{}},
		"no body":    {StatusCode: 500, Header: http.Header{}, Body: http.NoBody},
		"nil header": {StatusCode: 500, Body: io.NopCloser(strings.NewReader("x"))},
	} {
		e, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp))
		if !ok || e.StatusCode != 500 || e.Code != "" {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// Check reads at most 64 KiB ahead, and gives all of it back, in order.
func TestCheckOfALongBody(t *testing.T) {
	var content strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&content, "%06d,", i)
	}
	resp, _ := newScript(answers(500, content.String())).RoundTrip(newRequest(t, "GET", ""))
	read := &countingReader{r: resp.Body}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{read, resp.Body}
	steadyhttp.Check(resp)
	if read.n > 64<<10 {
		t.Errorf("read %d bytes ahead", read.n)
	}
	if got := readAll(t, resp); got != content.String() {
		t.Errorf("%d bytes came out of %d, or in another order", len(got), content.Len())
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// Check waits for a server that trickles no longer than a second.
func TestCheckOfATricklingBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go func() {
			defer w.Close()
			for range 10 {
				time.Sleep(700 * time.Millisecond)
				io.WriteString(w, "x")
			}
		}()
		resp := &http.Response{StatusCode: 500, Header: http.Header{}, Body: r}
		passed := stopwatch()
		steadyhttp.Check(resp)
		if passed() > time.Second {
			t.Errorf("took %v", passed())
		}
		if body := readAll(t, resp); body != "xxxxxxxxxx" {
			t.Errorf("the body has become %q", body)
		}
	})
}

// A RetryAfter that was named is in what Check returns.
func TestCheckTellsRetryAfter(t *testing.T) {
	resp, _ := newScript(answers(429, "", "Retry-After: 90")).RoundTrip(newRequest(t, "GET", ""))
	defer resp.Body.Close()
	e, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp))
	if !ok || e.RetryAfter != 90*time.Second {
		t.Errorf("got %+v", e)
	}
}

// Canaries in the userinfo, query, headers and body of a few thousand faulted calls show up in no log
// record and in no error of ours.
func TestNoSecretsInLogsAndErrors(t *testing.T) {
	const rawURL = "http://canaryUser:canaryPassword@api.example/machines?key=canaryQuery&canaryBare#canaryFragment"
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var out bytes.Buffer
		writer := writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return out.Write(p)
		})
		logger := steadyhttp.Join(
			steadyhttp.Log(slog.New(slog.NewJSONHandler(writer, &slog.HandlerOptions{Level: slog.LevelDebug}))),
			steadyhttp.Log(slog.New(slog.NewTextHandler(writer, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		faults := []step{
			answers(200, "fine"),
			answers(404, envelope("ResourceNotFound", "m", "t")),
			answers(429, envelope("429", "m", "t"), "Retry-After: 2"),
			answers(429, "", "Retry-After: 4000"),
			answers(500, ""),
			answers(503, "<html>"),
			answers(401, ""),
			failsWith(errReset),
			failsWith(errDial),
			failsWith(&url.Error{Op: "Get", URL: rawURL, Err: io.ErrUnexpectedEOF}),
			failsWith(fmt.Errorf("proxy: %w", &url.Error{Op: "Post", URL: rawURL, Err: errReset})),
			failsWith(&url.Error{Op: "parse", URL: "http://canaryUser:canaryPassword@api.example/%zz?key=canaryQuery", Err: errors.New("bad")}),
			hangs,
		}
		gate := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			if rand.IntN(20) == 0 {
				return nil, &url.Error{Op: "Get", URL: rawURL, Err: errors.New("quota service is down")}
			}
			return nil, nil
		})
		transport := &steadyhttp.Transport{
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				return newScript(faults[rand.IntN(len(faults))]).RoundTrip(req)
			}),
			Gates: []steadyhttp.Gate{gate},
			Trace: logger,
			Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
				req.Header.Set("Authorization", "Bearer canaryToken")
				if rand.IntN(20) == 0 {
					return &url.Error{Op: "Post", URL: rawURL, Err: errors.New("no token")}
				}
				return nil
			},
			Policy: steadyhttp.Policy{AttemptTimeout: time.Second, MaxElapsed: 20 * time.Second, Budget: &steadyhttp.Budget{Max: -1}},
		}
		errorsOfOurs := 0
		for i := range 4000 {
			req, err := http.NewRequestWithContext(t.Context(), []string{"GET", "POST"}[i%2], rawURL, strings.NewReader("canaryBody"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Api-Key", "canaryHeader")
			if i%7 == 0 {
				req.GetBody = func() (io.ReadCloser, error) { return nil, &url.Error{Op: "Get", URL: rawURL, Err: io.EOF} }
			}
			ctx, cancel := context.WithCancel(req.Context())
			if i%5 == 0 {
				time.AfterFunc(time.Duration(rand.IntN(3000))*time.Millisecond, cancel)
			}
			resp, err := transport.RoundTrip(req.WithContext(ctx))
			if err == nil {
				err = steadyhttp.Check(resp)
				resp.Body.Close()
			}
			cancel()
			if err == nil {
				continue
			}
			// The error of an only attempt is the base's own, as it was.
			_, ours := err.(*steadyhttp.Error)
			_, service := err.(*steadyhttp.Error)
			if !ours && !service {
				continue
			}
			errorsOfOurs++
			for _, text := range []string{err.Error(), fmt.Sprintf("%v %+v %s", err, err, err)} {
				if strings.Contains(text, "canary") {
					t.Fatalf("a secret in %q", text)
				}
				if strings.ContainsAny(text, "\r\n") {
					t.Fatalf("more than one line: %q", text)
				}
			}
		}
		logged := out.String()
		if at := strings.Index(logged, "canary"); at >= 0 {
			t.Errorf("a secret in the log: %s", logged[max(0, at-300):min(len(logged), at+100)])
		}
		if errorsOfOurs < 1000 || strings.Count(logged, "\n") < 4000 || !strings.Contains(logged, "key=REDACTED") {
			t.Errorf("only %d errors and %d records have been looked at", errorsOfOurs, strings.Count(logged, "\n"))
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// What a base transport says can be found in the error, after retries as well as without.
func TestErrorsCanBeFound(t *testing.T) {
	custom := errors.New("custom")
	for name, test := range map[string]struct {
		err     error
		find    func(error) bool
		timeout bool
	}{
		"reset":               {err: trReset, find: isErr(syscall.ECONNRESET)},
		"refused":             {err: trRefused, find: isErr(syscall.ECONNREFUSED)},
		"broken pipe":         {err: &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, find: isErr(syscall.EPIPE)},
		"unreachable":         {err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, find: isErr(syscall.EHOSTUNREACH)},
		"op error":            {err: trReset, find: asErr[*net.OpError]},
		"no such host":        {err: &net.DNSError{IsNotFound: true}, find: asErr[*net.DNSError]},
		"DNS timeout":         {err: &net.DNSError{IsTimeout: true}, find: asErr[*net.DNSError], timeout: true},
		"DNS in a dial":       {err: &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, find: asErr[*net.DNSError]},
		"EOF":                 {err: io.EOF, find: isErr(io.EOF)},
		"unexpected EOF":      {err: io.ErrUnexpectedEOF, find: isErr(io.ErrUnexpectedEOF)},
		"closed pipe":         {err: io.ErrClosedPipe, find: isErr(io.ErrClosedPipe)},
		"closed connection":   {err: net.ErrClosed, find: isErr(net.ErrClosed)},
		"base's own deadline": {err: context.DeadlineExceeded, find: isErr(context.DeadlineExceeded), timeout: true},
		"base's own cancel":   {err: context.Canceled, find: isErr(context.Canceled)},
		"I/O deadline":        {err: os.ErrDeadlineExceeded, find: isErr(os.ErrDeadlineExceeded), timeout: true},
		"net timeout":         {err: &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, find: asErr[net.Error], timeout: true},
		"untrusted":           {err: x509.UnknownAuthorityError{}, find: asErr[x509.UnknownAuthorityError]},
		"wrong host":          {err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "a"}, find: asErr[x509.HostnameError]},
		"expired":             {err: x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}, find: asErr[x509.CertificateInvalidError]},
		"verification":        {err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, find: asErr[*tls.CertificateVerificationError]},
		"no TLS":              {err: tls.RecordHeaderError{Msg: "x"}, find: asErr[tls.RecordHeaderError]},
		"TLS alert":           {err: tls.AlertError(40), find: asErr[tls.AlertError]},
		"parse error":         {err: &url.Error{Op: "parse", URL: "x", Err: custom}, find: asErr[*url.Error]},
		"skip alt protocol":   {err: http.ErrSkipAltProtocol, find: isErr(http.ErrSkipAltProtocol)},
		"handler timeout":     {err: http.ErrHandlerTimeout, find: isErr(http.ErrHandlerTimeout)},
		"address":             {err: &net.OpError{Op: "dial", Err: &net.AddrError{Err: "missing port"}}, find: asErr[*net.AddrError]},
		"wrapped twice":       {err: fmt.Errorf("a: %w", fmt.Errorf("b: %w", custom)), find: isErr(custom)},
		"joined":              {err: errors.Join(io.EOF, custom), find: isErr(custom)},
	} {
		for _, attempts := range []int{1, 3} {
			t.Run(fmt.Sprint(name, ", MaxAttempts ", attempts), func(t *testing.T) {
				policy := atOnce()
				policy.MaxAttempts = attempts
				_, err := (&steadyhttp.Transport{Base: newScript(failsWith(test.err)), Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
				if !test.find(err) {
					t.Errorf("it can't be found in %T: %v", err, err)
				}
				// http.Client looks at one by type assertion. The others are wrapped once.
				if _, bare := test.err.(tls.RecordHeaderError); bare && !reflect.DeepEqual(err, test.err) {
					t.Errorf("got %T (%v), want the base's own", err, err)
				} else if !bare && attempts == 1 && !reflect.DeepEqual(errorOf(t, err).Err, test.err) {
					t.Errorf("got %T (%v), want the base's own in it", err, err)
				}
				if timeout, ok := err.(interface{ Timeout() bool }); test.timeout && (!ok || !timeout.Timeout()) {
					t.Errorf("%T is no timeout any more", err)
				}
			})
		}
	}
}
