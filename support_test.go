package steadyhttp_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

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
