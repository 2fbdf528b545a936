//lint:file-ignore SA1019 Request.Cancel is deprecated, but http.Client still sets it, and whoever else does must be obeyed.

package steadyhttp_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// roundTripper makes a base transport of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// registered makes rt what an *http.Transport sends requests with: only such a base gets the caller's own request.
func registered(rt http.RoundTripper) *http.Transport {
	// A protocol of its own for https would be in the way of HTTP/2.
	base := &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	base.RegisterProtocol("http", rt)
	base.RegisterProtocol("https", rt)
	return base
}

func perKey(key func(*http.Request) string, newGate func(string) steadyhttp.Gate, max int) *steadyhttp.PerKey {
	return &steadyhttp.PerKey{Key: key, New: newGate, Max: max}
}

// spentBudget covers no retry for hours, and lets calls wait for it.
func spentBudget() *steadyhttp.Budget {
	b := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: -1, Wait: true}
	req, err := http.NewRequest("GET", "http://api.example/", nil)
	if err != nil || !b.Take(req) {
		panic("a full budget covers nothing")
	}
	return b
}

// inBubble runs a test in virtual time.
func inBubble(f func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// step is one answer of a script.
type step func(*http.Request) (*http.Response, error)

// script is a base transport that keeps its side of the contract, answers each attempt by the next of its steps (the last
// one for ever), and notes what it was sent.
type script struct {
	steps []step

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	opened   atomic.Int64 // response bodies given out
	closed   atomic.Int64 // and closed, each counted once
}

func newScript(steps ...step) *script { return &script{steps: steps} }

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	var bodyErr error
	if req.Body != nil {
		body, bodyErr = io.ReadAll(req.Body)
		req.Body.Close()
	}
	s.mu.Lock()
	n := len(s.requests)
	s.requests = append(s.requests, req)
	s.bodies = append(s.bodies, string(body))
	s.mu.Unlock()
	if bodyErr != nil {
		return nil, bodyErr
	}
	if err := req.Context().Err(); err != nil {
		return nil, context.Cause(req.Context())
	}
	resp, err := s.steps[min(n, len(s.steps)-1)](req)
	if resp != nil {
		if resp.Request == nil {
			resp.Request = req
		}
		if resp.Body != nil && resp.Body != http.NoBody {
			s.opened.Add(1)
			resp.Body = &watchedBody{ReadCloser: resp.Body, closed: &s.closed}
		}
	}
	return resp, err
}

// sent returns how many attempts reached the script.
func (s *script) sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *script) request(n int) *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[n]
}

// assertNoLeak fails the test unless every response body that was given out has been closed.
func (s *script) assertNoLeak(t *testing.T) {
	t.Helper()
	if opened, closed := s.opened.Load(), s.closed.Load(); opened != closed {
		t.Errorf("%d response bodies opened, %d closed", opened, closed)
	}
}

type watchedBody struct {
	io.ReadCloser
	once   sync.Once
	closed *atomic.Int64
}

func (b *watchedBody) Close() error {
	b.once.Do(func() { b.closed.Add(1) })
	return b.ReadCloser.Close()
}

// answers returns a step: a status, a body, and header fields as "Name: value".
func answers(status int, body string, fields ...string) step {
	return func(req *http.Request) (*http.Response, error) {
		resp := &http.Response{
			StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)),
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			resp.Header.Add(name, value)
		}
		return resp, nil
	}
}

func failsWith(err error) step {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// envelope is an error body as the service writes it.
func envelope(code, message, target string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"message":%q,"innerError":{"request-id":%q}}}`, code, message, target)
}

// countingBody is a request body that counts its closings.
type countingBody struct {
	io.Reader
	closes atomic.Int64
}

func newCountingBody(content string) *countingBody {
	return &countingBody{Reader: strings.NewReader(content)}
}

func (b *countingBody) Close() error {
	b.closes.Add(1)
	return nil
}

// newRequest makes a request whose body, if there is one, has a GetBody.
func newRequest(t testing.TB, method, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://api.example/machines/1?key=value", r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// do makes a call that is expected to be answered, and returns the answer with its body.
func do(t testing.TB, transport http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("RoundTrip: %v", err)
	}
	return resp, readAll(t, resp)
}

func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the response: %v", err)
	}
	resp.Body.Close()
	return string(body)
}

// stopOf returns why the call that resp answers went no further.
func stopOf(t testing.TB, resp *http.Response) steadyhttp.Stop {
	t.Helper()
	a, ok := steadyhttp.AttemptOf(resp)
	if !ok {
		t.Fatal("AttemptOf knows nothing of the response")
	}
	return a.Stop
}

// errorOf returns err as the *Error it must be.
func errorOf(t testing.TB, err error) *steadyhttp.Error {
	t.Helper()
	e, ok := errors.AsType[*steadyhttp.Error](err)
	if !ok {
		t.Fatalf("got %T (%v), want a *steadyhttp.Error", err, err)
	}
	return e
}

func newZeroBackOff() backoff.BackOff { return &backoff.ZeroBackOff{} }

// atOnce is a policy that retries without waiting and without a budget.
func atOnce() steadyhttp.Policy {
	return steadyhttp.Policy{NewBackOff: newZeroBackOff, Budget: &steadyhttp.Budget{Max: -1}}
}

// withBase returns a Transport of its own with the same settings, or the default ones for nil.
func withBase(settings *steadyhttp.Transport, base http.RoundTripper) *steadyhttp.Transport {
	if settings == nil {
		return &steadyhttp.Transport{Base: base}
	}
	return &steadyhttp.Transport{
		Base: base, Policy: settings.Policy, Classify: settings.Classify, Prepare: settings.Prepare,
		Gates: settings.Gates, Trace: settings.Trace,
	}
}

// fakeBody is a response body with the manners of net/http's: Close ends a Read that is under way.
type fakeBody struct {
	content string        // what it has to give
	chunk   int           // at most so much of it per Read; 0: any number of bytes
	pause   time.Duration // before each Read; 0: none
	end     error         // what comes after the content; nil: io.EOF
	endless bool          // the content begins again at its end
	stalls  bool          // nothing comes after the content, not even the end

	at     int
	reads  *atomic.Int64 // bytes read, may be nil
	once   *sync.Once
	closed chan struct{}
	ctx    context.Context // of its request, whose end ends a Read, as net/http has it; nil: none
}

func newFakeBody(template fakeBody) *fakeBody {
	template.once, template.closed = new(sync.Once), make(chan struct{})
	if template.ctx == nil {
		template.ctx = context.Background()
	}
	return &template
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if b.pause > 0 {
		timer := time.NewTimer(b.pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-b.closed:
			return 0, errFakeClosed
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
	select {
	case <-b.closed:
		return 0, errFakeClosed
	default:
	}
	if b.at == len(b.content) {
		switch {
		case b.endless:
			b.at = 0
		case b.stalls:
			select {
			case <-b.closed:
				return 0, errFakeClosed
			case <-b.ctx.Done():
				return 0, context.Cause(b.ctx)
			}
		case b.end != nil:
			return 0, b.end
		default:
			return 0, io.EOF
		}
	}
	if b.chunk > 0 && len(p) > b.chunk {
		p = p[:b.chunk]
	}
	n := copy(p, b.content[b.at:])
	b.at += n
	if b.reads != nil {
		b.reads.Add(int64(n))
	}
	return n, nil
}

func (b *fakeBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// answersWith is answers with a body made of a template.
func answersWith(status int, body fakeBody, fields ...string) step {
	return func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(status, "", fields...)(req)
		body.ctx = req.Context()
		resp.Body, resp.ContentLength = newFakeBody(body), -1
		return resp, nil
	}
}

// requestSnapshot is a request as it was before the call.
type requestSnapshot struct {
	request http.Request
	header  http.Header
	trailer http.Header
	url     string
}

func snapshot(req *http.Request) requestSnapshot {
	return requestSnapshot{request: *req, header: req.Header.Clone(), trailer: req.Trailer.Clone(), url: req.URL.String()}
}

func (s *requestSnapshot) assertUnchanged(t testing.TB, req *http.Request) {
	t.Helper()
	before := &s.request
	pointer := func(v any) uintptr { return reflect.ValueOf(v).Pointer() }
	for name, same := range map[string]bool{
		"Method":           before.Method == req.Method,
		"URL":              before.URL == req.URL && s.url == req.URL.String(),
		"Header":           pointer(before.Header) == pointer(req.Header) && reflect.DeepEqual(s.header, req.Header),
		"Body":             before.Body == req.Body,
		"GetBody":          pointer(before.GetBody) == pointer(req.GetBody),
		"ContentLength":    before.ContentLength == req.ContentLength,
		"TransferEncoding": reflect.DeepEqual(before.TransferEncoding, req.TransferEncoding),
		"Close":            before.Close == req.Close,
		"Host":             before.Host == req.Host,
		"Form":             reflect.DeepEqual(before.Form, req.Form) && reflect.DeepEqual(before.PostForm, req.PostForm),
		"Trailer":          pointer(before.Trailer) == pointer(req.Trailer) && reflect.DeepEqual(s.trailer, req.Trailer),
		"RequestURI":       before.RequestURI == req.RequestURI,
		"Cancel":           before.Cancel == req.Cancel,
		"Response":         before.Response == req.Response,
		"Context":          before.Context() == req.Context(),
	} {
		if !same {
			t.Errorf("the caller's Request.%s was changed", name)
		}
	}
}

// enterFunc is a Gate.
type enterFunc func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error)

func (f enterFunc) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return gateFunc(f).Enter(ctx, a)
}

// afterFirstAttempt lets the first attempt pass.
func afterFirstAttempt(gate steadyhttp.Gate) steadyhttp.Gate {
	return enterFunc(func(ctx context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if a.N == 1 {
			return nil, nil
		}
		pass, err := gate.Enter(ctx, a)
		if pass == nil {
			return nil, err
		}
		return pass.Leave, err
	})
}

// answersBound answers with a body that fails when the request's context is over.
func answersBound(status int, content string) step {
	return func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(status, content)(req)
		resp.Body = io.NopCloser(&boundReader{req.Context(), strings.NewReader(content)})
		resp.Request = req
		return resp, nil
	}
}

type boundReader struct {
	ctx context.Context
	io.Reader
}

func (r *boundReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func isErr(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func asErr[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// canned answers like bench_test's base transports do, with next to no work of its own: every n-th attempt succeeds.
type canned struct{ every, n int }

func (c *canned) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	status := http.StatusServiceUnavailable
	if c.n++; c.n%c.every == 0 {
		status = http.StatusOK
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: req, Header: http.Header{}}, nil
}

func allocations(t *testing.T, rt http.RoundTripper, calls int, newReq func(testing.TB) *http.Request) float64 {
	t.Helper()
	req := newReq(t)
	return testing.AllocsPerRun(200, func() {
		for range calls {
			if req.GetBody != nil {
				req.Body, _ = req.GetBody()
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	})
}
