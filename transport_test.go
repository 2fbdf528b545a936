package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
)

//lint:file-ignore SA1019 Request.Cancel is deprecated, but http.Client still sets it, and whoever else does must be obeyed.

// This file is the contract: first that of net/http, which every RoundTripper has to keep, then the package's own.
// R, C, D and E with a number are the rows of the break list and of the acceptance list in the project's notes.

func TestAnswersAfterFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(
			answers(500, envelope("InternalServerError", "", "t1")),
			answers(429, envelope("429", "slow", "t2"), "Retry-After: 8"),
			answers(200, "fine"))
		began := time.Now()
		resp, body := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, http.MethodGet, ""))
		if resp.StatusCode != 200 || body != "fine" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		if took := time.Since(began); took < 8250*time.Millisecond || took > 9600*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if a, ok := steadyhttp.AttemptOf(resp); !ok || a.N != 3 {
			t.Errorf("AttemptOf = %+v, %v", a, ok)
		}
		base.assertNoLeak(t)
	})
}

func TestFailsFast(t *testing.T) {
	base := newScript(answers(404, envelope("ResourceNotFound", "Machine 123123123 was not found", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")))
	resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, http.MethodPost, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "steadyhttp: ResourceNotFound (404) after 1 attempt, tracking ID 43f4cb08-8fac-4b65-9db1-745c2ae65f3a: Machine 123123123 was not found"
	if err := steadyhttp.Check(resp); err == nil || err.Error() != want {
		t.Errorf("Check = %v", err)
	}
	if body := readAll(t, resp); len(body) == 0 {
		t.Error("the body is gone")
	}
	base.assertNoLeak(t)
}

// Contract: an answer is not an error, and the last real one is returned with its body.
func TestLastAnswerIsReturned(t *testing.T) {
	for _, test := range []struct {
		name, method, body string
		steps              []step
		status, sent       int
		stop               steadyhttp.Stop
	}{
		{"exhausted", "GET", "", []step{answers(503, "last")}, 503, 4, "attempts"},
		{"exhausted, throttled", "POST", "{}", []step{answers(429, "last")}, 429, 4, "attempts"},
		{"permanent", "GET", "", []step{answers(404, "last")}, 404, 1, "permanent"},
		{"permanent after a fault", "GET", "", []step{answers(503, "first"), answers(410, "last")}, 410, 2, "permanent"},
		{"not_idempotent", "POST", "{}", []step{answers(500, "last")}, 500, 1, "not_idempotent"},
		{"credentials refused, no Prepare", "GET", "", []step{answers(401, "last")}, 401, 1, "permanent"},
		{"asked to wait too long", "GET", "", []step{answers(429, "last", "Retry-After: 61")}, 429, 1, "wait_too_long"},
		{"a redirect is the client's", "GET", "", []step{answers(503, "first"), answers(307, "last", "Location: /x")}, 307, 2, "done"},
		{"an error without a body", "GET", "", []step{answers(503, "")}, 503, 4, "attempts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(test.steps...)
				req := newRequest(t, test.method, test.body)
				resp, body := do(t, &steadyhttp.Transport{Base: base}, req)
				want, _ := test.steps[len(test.steps)-1](req)
				if resp.StatusCode != test.status || body != readAll(t, want) {
					t.Errorf("got %d %q, want %d and the last body", resp.StatusCode, body, test.status)
				}
				if base.sent() != test.sent {
					t.Errorf("sent %d times, want %d", base.sent(), test.sent)
				}
				if stop := stopOf(t, resp); stop != test.stop {
					t.Errorf("Stop = %q, want %q", stop, test.stop)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// Whatever a policy, a base transport, hooks, gates and bodies do together, a call has exactly one
// of a response and an error, leaves the caller's request alone, and gives back all that it holds.
func TestExactlyOneOutcome(t *testing.T) {
	const seed, workers = 20260611, 2
	trials := long.Size(t, 25_000, 100_000)
	if testing.Short() {
		trials = 10_000
	}
	t.Logf("seed %d, %d trials", seed, trials)
	for worker := range workers {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for n := worker; n < trials; n += workers {
					if runTrial(t, seed, n); t.Failed() {
						t.Fatalf("trial %d of seed %d", n, seed)
					}
				}
			})
		})
	}
}

// trial is one random call, and what is counted of it.
type trial struct {
	rng       *rand.Rand
	transport *steadyhttp.Transport
	req       *http.Request
	body      *trialBody // nil if the request has none
	content   string     // of the request's body
	answers   []trialAnswer
	classes   []steadyhttp.Class // of a Classify of its own
	ends      []func()           // at the end of the trial

	sent, entered, left, starts, dones, opened, closed atomic.Int64
	truncated                                          atomic.Bool // a base transport was given a body that is not the request's
}

func runTrial(t *testing.T, seed uint64, n int) {
	t.Helper()
	tr := &trial{rng: rand.New(rand.NewPCG(seed, uint64(n)))}
	tr.makeRequest(t)
	tr.makeAnswers()
	tr.makeTransport()
	before := snapshot(tr.req)

	resp, err := tr.transport.RoundTrip(tr.req)
	if (resp == nil) == (err == nil) {
		t.Errorf("got response %v and error %v", resp, err)
	}
	if resp != nil {
		tr.consume(t, resp)
	}
	// The base transports here close bodies up to a second late.
	time.Sleep(2 * time.Second)
	for _, end := range tr.ends {
		end()
	}
	synctest.Wait()

	before.assertUnchanged(t, tr.req)
	if tr.body != nil && tr.body.closes.Load() == 0 {
		t.Errorf("the request's body was not closed (error %v)", err)
	}
	if tr.truncated.Load() {
		t.Error("a base transport was given another body than the request's")
	}
	if opened, closed := tr.opened.Load(), tr.closed.Load(); opened != closed {
		t.Errorf("%d response bodies opened, %d closed", opened, closed)
	}
	if entered, left := tr.entered.Load(), tr.left.Load(); entered != left {
		t.Errorf("gates entered %d times, left %d times", entered, left)
	}
	if starts, dones := tr.starts.Load(), tr.dones.Load(); starts != dones || starts > 1 {
		t.Errorf("Trace.Start was called %d times, Trace.Done %d times", starts, dones)
	}
	p := &tr.transport.Policy
	if most := trialAttempts(p); most >= 0 && int(tr.sent.Load()) > most {
		t.Errorf("sent %d times, with MaxAttempts %d and MaxThrottled %d", tr.sent.Load(), p.MaxAttempts, p.MaxThrottled)
	}
}

// trialAttempts returns the most attempts that a policy allows, -1 if there is no bound.
func trialAttempts(p *steadyhttp.Policy) int {
	most := max(1, p.MaxAttempts)
	if p.MaxAttempts == 0 {
		most = 4
	}
	switch {
	case most == 1:
		return 1
	case p.MaxThrottled < 0:
		return -1
	}
	return most + p.MaxThrottled
}

// trialBody is a request body that may fail, and counts its closings.
type trialBody struct {
	io.Reader
	closes atomic.Int64
}

func (b *trialBody) Close() error {
	b.closes.Add(1)
	return nil
}

var errTrial = errors.New("a fault of the trial")

func pickOne[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func (tr *trial) chance(percent int) bool { return tr.rng.IntN(100) < percent }

func (tr *trial) makeRequest(t *testing.T) {
	ctx := t.Context()
	var cancel context.CancelFunc
	switch tr.rng.IntN(24) {
	case 0, 1, 2:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(tr.rng.IntN(20_000))*time.Millisecond)
		tr.ends = append(tr.ends, cancel)
	case 3, 4, 5:
		ended, end := context.WithCancelCause(ctx)
		timer := time.AfterFunc(time.Duration(tr.rng.IntN(5000))*time.Millisecond, func() { end(errTrial) })
		tr.ends = append(tr.ends, func() { timer.Stop(); end(nil) })
		ctx = ended
	case 6:
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	method := pickOne(tr.rng, "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "PATCH", "CONNECT")
	req, err := http.NewRequestWithContext(ctx, method, "https://user:secret@api.example/a?b=c", nil)
	if err != nil {
		t.Fatal(err)
	}
	tr.req = req
	req.Header.Set("X-Mine", "1")
	if tr.chance(10) {
		req.Header.Set("Idempotency-Key", "mine")
	}
	if tr.chance(5) {
		cancelled := make(chan struct{})
		req.Cancel = cancelled
		timer := time.AfterFunc(time.Duration(tr.rng.IntN(5000))*time.Millisecond, func() { close(cancelled) })
		tr.ends = append(tr.ends, func() { timer.Stop() })
	}
	switch tr.rng.IntN(5) {
	case 0:
		return
	case 1:
		req.Body = http.NoBody
		return
	}
	tr.content = strings.Repeat("0123456789", tr.rng.IntN(40))
	tr.body = &trialBody{Reader: strings.NewReader(tr.content)}
	req.Body, req.ContentLength = tr.body, int64(len(tr.content))
	if tr.chance(5) {
		tr.body.Reader = io.MultiReader(strings.NewReader(tr.content), failingReader{errTrial})
	}
	if tr.chance(5) {
		req.Trailer = http.Header{"X-Sum": nil}
	}
	if tr.chance(60) {
		fault := tr.rng.IntN(20)
		req.GetBody = func() (io.ReadCloser, error) {
			switch fault {
			case 0:
				return nil, errTrial
			case 1:
				return nil, nil
			}
			return io.NopCloser(strings.NewReader(tr.content)), nil
		}
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// trialAnswer is what a base transport does with one attempt.
type trialAnswer struct {
	status  int // 0: none
	err     error
	content string
	nilBody bool
	noBody  bool
	fields  []string
	body    fakeBody // the template of its body
	delay   time.Duration
	deaf    bool // the context does not cut the delay short
	upload  int  // what becomes of the request's body: 0 read, 1 closed unread, 2 read and closed after the answer
}

func (tr *trial) makeAnswers() {
	for range tr.rng.IntN(6) {
		var a trialAnswer
		if tr.chance(30) {
			a.err = pickOne[error](tr.rng, trReset, trRefused, &net.DNSError{Err: "no such host", IsNotFound: true}, &net.DNSError{IsTimeout: true},
				io.ErrUnexpectedEOF, context.DeadlineExceeded, context.Canceled, errTrial)
		}
		if a.err == nil && tr.chance(97) || a.err != nil && tr.chance(5) {
			a.status = pickOne(tr.rng, 200, 200, 204, 206, 302, 304, 400, 401, 401, 404, 408, 409, 429, 429, 429, 500, 500, 501, 502, 503, 503, 504, 599)
		}
		if a.status == 429 || a.status == 503 {
			a.fields = pickOne(tr.rng, nil, nil, []string{"Retry-After: 1"}, []string{"Retry-After: 30"}, []string{"Retry-After: 9999"}, []string{"Retry-After: soon"})
		}
		switch tr.rng.IntN(48) {
		case 0:
			a.nilBody = true
		case 1:
			a.noBody = true
		case 2:
			a.content = strings.Repeat("large ", 12_000)
		case 3:
			a.content, a.body.pause, a.body.chunk = "trickles", 300*time.Millisecond, 1
		case 4:
			a.content, a.body.end = "breaks off", io.ErrUnexpectedEOF
		case 5:
			a.content, a.body.endless = strings.Repeat("endless ", 1000), true
		case 6:
			a.content, a.body.end = "breaks off", errTrial
		default:
			a.content = envelope("InternalServerError", "x", "t")
		}
		a.delay = time.Duration(pickOne(tr.rng, 0, 0, 0, 10, 1000, 10_000)) * time.Millisecond
		a.deaf, a.upload = tr.chance(20), pickOne(tr.rng, 0, 0, 0, 1, 2)
		tr.answers = append(tr.answers, a)
	}
	tr.answers = append(tr.answers, trialAnswer{status: 200, content: "fine"})
}

// RoundTrip makes the trial a base transport.
func (tr *trial) RoundTrip(req *http.Request) (*http.Response, error) {
	a := &tr.answers[min(int(tr.sent.Add(1)), len(tr.answers))-1]
	if req.Body != nil {
		if err := tr.takeBody(req, a); err != nil {
			return nil, err
		}
	}
	if a.delay > 0 {
		timer := time.NewTimer(a.delay)
		defer timer.Stop()
		if a.deaf {
			<-timer.C
		} else {
			select {
			case <-timer.C:
			case <-req.Context().Done():
				return nil, context.Cause(req.Context())
			case <-req.Cancel:
				return nil, errors.New("request cancelled")
			}
		}
	}
	if a.status == 0 {
		return nil, a.err
	}
	resp, _ := answers(a.status, a.content, a.fields...)(req)
	resp.Request = req
	switch {
	case a.nilBody:
		resp.Body = nil
	case a.noBody:
		resp.Body = http.NoBody
	default:
		body := a.body
		body.content = a.content
		tr.opened.Add(1)
		resp.Body = &watchedBody{ReadCloser: newFakeBody(body), closed: &tr.closed}
	}
	return resp, a.err
}

func (tr *trial) takeBody(req *http.Request, a *trialAnswer) error {
	take := func() error {
		content, err := io.ReadAll(req.Body)
		req.Body.Close()
		if err == nil && string(content) != tr.content {
			tr.truncated.Store(true)
		}
		return err
	}
	switch a.upload {
	case 1:
		req.Body.Close()
		return nil
	case 2:
		go func() {
			time.Sleep(500 * time.Millisecond)
			// By now the attempt may be over and its body closed: an error says so, a short body would not.
			take()
		}()
		return nil
	}
	return take()
}

func (tr *trial) makeTransport() {
	p := steadyhttp.Policy{
		MaxAttempts:    pickOne(tr.rng, 0, 0, -1, 1, 2, 3, 6),
		MaxThrottled:   pickOne(tr.rng, 0, 0, 0, 2, -1),
		MaxElapsed:     time.Duration(pickOne(tr.rng, 0, 0, 0, 100, 5000, 60_000)) * time.Millisecond,
		MaxWait:        time.Duration(pickOne(tr.rng, 0, 0, 1, 20_000)) * time.Millisecond,
		AttemptTimeout: time.Duration(pickOne(tr.rng, 0, 0, 0, 500, 5000)) * time.Millisecond,
		IdleTimeout:    time.Duration(pickOne(tr.rng, 0, 0, 0, 100, 5000)) * time.Millisecond,
		NewBackOff: pickOne(tr.rng, nil, nil, newZeroBackOff,
			func() backoff.BackOff { return &backoff.StopBackOff{} },
			func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) },
			func() backoff.BackOff { return nil }),
		IdempotencyKey: tr.chance(20),
		MaxBuffer:      pickOne[int64](tr.rng, 0, 0, 100, 1<<20),
		MaxRead:        pickOne[int64](tr.rng, 0, 0, 4, 1<<20),
		Budget:         pickOne(tr.rng, nil, nil, &steadyhttp.Budget{Max: -1}, &steadyhttp.Budget{Max: 1, PerSecond: -1}, &steadyhttp.Budget{Max: 1, Wait: true}),
	}
	tr.transport = &steadyhttp.Transport{Base: tr, Policy: p}
	if tr.chance(15) {
		for range 6 {
			tr.classes = append(tr.classes, steadyhttp.Class(tr.rng.IntN(7)))
		}
		tr.transport.Classify = func(a steadyhttp.Attempt) steadyhttp.Verdict {
			if a.N > len(tr.classes) {
				return steadyhttp.Verdict{Class: steadyhttp.Success}
			}
			return steadyhttp.Verdict{Class: tr.classes[a.N-1]}
		}
	}
	if tr.chance(25) {
		fails := tr.rng.IntN(6)
		tr.transport.Prepare = func(req *http.Request, prev *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Del("X-Mine")
			req.URL.RawQuery += "&signed=1"
			if prev != nil && prev.N == fails {
				return errTrial
			}
			return nil
		}
	}
	if tr.chance(30) {
		for range 1 + tr.rng.IntN(2) {
			tr.transport.Gates = append(tr.transport.Gates, &trialGate{trial: tr, refuses: tr.rng.IntN(10), nilLeave: tr.chance(10), delay: time.Duration(pickOne(tr.rng, 0, 0, 1, 3000)) * time.Millisecond})
		}
	}
	if tr.chance(40) {
		tr.transport.Trace = &steadyhttp.Trace{
			Start: func(ctx context.Context, _ *http.Request) context.Context {
				tr.starts.Add(1)
				return context.WithValue(ctx, tr, true)
			},
			Waited: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) {},
			AttemptStart: pickOne(tr.rng, nil, func(ctx context.Context, a steadyhttp.Attempt) context.Context {
				a.Request.Header.Set("Traceparent", "00")
				return nil
			}),
			AttemptDone: func(context.Context, steadyhttp.Attempt) {},
			Done:        func(context.Context, steadyhttp.Attempt) { tr.dones.Add(1) },
		}
	}
}

// trialGate counts, and refuses the attempt of one number.
type trialGate struct {
	*trial
	refuses  int
	nilLeave bool
	delay    time.Duration
}

func (g *trialGate) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	if g.delay > 0 {
		timer := time.NewTimer(g.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if a.N == g.refuses {
		return nil, errTrial
	}
	if g.nilLeave {
		return nil, nil
	}
	g.entered.Add(1)
	return steadyhttp.PassFunc(func(steadyhttp.Attempt) { g.left.Add(1) }), nil
}

// consume reads and closes the response as one of several kinds of callers, and compares the body with what the base
// transport had.
func (tr *trial) consume(t *testing.T, resp *http.Response) {
	t.Helper()
	if resp.Request != tr.req {
		t.Error("resp.Request is not the caller's request")
	}
	if resp.Body == nil {
		t.Error("resp.Body is nil")
		return
	}
	if !tr.chance(90) {
		resp.Body.Close()
		return
	}
	const enough = 96 << 10
	content, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	if err == nil && len(content) < enough && !tr.hasAnswered(resp.StatusCode, string(content)) {
		t.Errorf("%d bytes of body that no answer with status %d had", len(content), resp.StatusCode)
	}
	resp.Body.Close()
	if tr.chance(20) {
		resp.Body.Close()
	}
}

func (tr *trial) hasAnswered(status int, content string) bool {
	return slices.ContainsFunc(tr.answers, func(a trialAnswer) bool {
		return a.status == status && (a.content == content || content == "" && (a.nilBody || a.noBody))
	})
}

// Faults of a connection, as net/http gives them out.
var (
	trReset   = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	trRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
)

var errFakeClosed = errors.New("read on closed response body")

// A base transport that breaks its contract does not make the Transport break it.
func TestBaseThatBreaksTheContract(t *testing.T) {
	var closed atomic.Int64
	both := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(200, "lost")(req)
		resp.Body = &watchedBody{ReadCloser: resp.Body, closed: &closed}
		return resp, trReset
	}
	neither := func(*http.Request) (*http.Response, error) { return nil, nil }
	t.Run("both", func(t *testing.T) {
		resp, err := (&steadyhttp.Transport{Base: roundTripper(both), Policy: steadyhttp.Policy{MaxAttempts: 1}}).RoundTrip(newRequest(t, "GET", ""))
		if resp != nil || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, %v, want the base's error alone", resp, err)
		}
		if closed.Load() != 1 {
			t.Error("the response's body was not closed")
		}
	})
	t.Run("both, retried", func(t *testing.T) {
		base := newScript(both, answers(200, "fine"))
		if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, newRequest(t, "GET", "")); body != "fine" {
			t.Errorf("got %q", body)
		}
		base.assertNoLeak(t)
	})
	t.Run("neither", func(t *testing.T) {
		base := newScript(neither)
		resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(newRequest(t, "GET", ""))
		if resp != nil || err == nil || !strings.Contains(err.Error(), "Transport.Base (*steadyhttp_test.script) returned neither") {
			t.Errorf("got %v, %v, want an error that names the base", resp, err)
		}
		if base.sent() != 1 {
			t.Errorf("sent %d times: a mistake of the program's does not pass", base.sent())
		}
	})
}

// An answer without a body, as fakes give it, gets one.
func TestNilResponseBody(t *testing.T) {
	for _, status := range []int{200, 204, 404, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{}, Request: req}, nil
			})
			if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, newRequest(t, "GET", "")); body != "" {
				t.Errorf("body %q", body)
			}
		})
	}
}

// http.Client.CloseIdleConnections reaches the base transport.
func TestCloseIdleConnectionsIsForwarded(t *testing.T) {
	base := &idleCloser{RoundTripper: newScript(answers(200, ""))}
	(&http.Client{Transport: &steadyhttp.Transport{Base: base}}).CloseIdleConnections()
	if base.calls != 1 {
		t.Errorf("called %d times", base.calls)
	}
	// One that has none is left in peace.
	(&steadyhttp.Transport{Base: newScript()}).CloseIdleConnections()
}

type idleCloser struct {
	http.RoundTripper
	calls int
}

func (c *idleCloser) CloseIdleConnections() { c.calls++ }

func TestUnwrap(t *testing.T) {
	base := newScript()
	if got := (&steadyhttp.Transport{Base: base}).Unwrap(); got != http.RoundTripper(base) {
		t.Errorf("got %T", got)
	}
	if got := (&steadyhttp.Transport{}).Unwrap(); got != http.DefaultTransport {
		t.Errorf("got %T without a Base", got)
	}
}

// A base transport that wraps the body, as otelhttp does, is one like any other, inside as well as outside.
func TestWrappersInsideAndOutside(t *testing.T) {
	wrap := func(base http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			req = req.Clone(req.Context())
			req.Header.Set("Traceparent", "00")
			if req.Body != nil && req.Body != http.NoBody {
				req.Body = struct{ io.ReadCloser }{req.Body}
			}
			resp, err := base.RoundTrip(req)
			if err == nil {
				resp.Body = struct{ io.ReadCloser }{resp.Body}
			}
			return resp, err
		})
	}
	for name, stack := range map[string]func(base http.RoundTripper) http.RoundTripper{
		"inside": func(base http.RoundTripper) http.RoundTripper {
			return &steadyhttp.Transport{Base: wrap(base), Policy: atOnce()}
		},
		"outside": func(base http.RoundTripper) http.RoundTripper {
			return wrap(&steadyhttp.Transport{Base: base, Policy: atOnce()})
		},
		"both": func(base http.RoundTripper) http.RoundTripper {
			return wrap(&steadyhttp.Transport{Base: wrap(base), Policy: atOnce()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := newScript(answers(503, envelope("Busy", "", "t1")), failsWith(trReset), answers(404, envelope("ResourceNotFound", "", "t2")))
			resp, err := stack(base).RoundTrip(newRequest(t, "PUT", "content"))
			if err != nil {
				t.Fatal(err)
			}
			if err, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp)); !ok || err.TrackingID != "t2" {
				t.Errorf("Check = %v", err)
			}
			if body := readAll(t, resp); body != envelope("ResourceNotFound", "", "t2") {
				t.Errorf("body %q", body)
			}
			if !slices.Equal(base.bodies, []string{"content", "content", "content"}) {
				t.Errorf("sent bodies %q", base.bodies)
			}
			base.assertNoLeak(t)
		})
	}
}

// http.Client on top: a redirect keeps its meaning, and its body, when attempts of its hops are retried.
func TestRedirectsWithRetries(t *testing.T) {
	for _, test := range []struct {
		status  int
		getBody bool
		methods []string
		bodies  []string
		final   int
	}{
		{301, true, []string{"POST", "POST", "GET", "GET"}, []string{"content", "content", "", ""}, 200},
		{302, true, []string{"POST", "POST", "GET", "GET"}, []string{"content", "content", "", ""}, 200},
		{303, true, []string{"POST", "POST", "GET", "GET"}, []string{"content", "content", "", ""}, 200},
		{307, true, []string{"POST", "POST", "POST", "POST"}, []string{"content", "content", "content", "content"}, 200},
		{308, true, []string{"POST", "POST", "POST", "POST"}, []string{"content", "content", "content", "content"}, 200},
		// A body that is used up: the Transport does not retry it, and http.Client does not follow.
		{301, false, []string{"POST"}, []string{"content"}, 429},
		{307, false, []string{"POST"}, []string{"content"}, 429},
	} {
		t.Run(fmt.Sprint(test.status, " GetBody ", test.getBody), func(t *testing.T) {
			base := newScript(
				answers(429, ""), answers(test.status, "moved", "Location: /elsewhere"),
				answers(429, ""), answers(200, "fine"))
			unrecorded := atOnce()
			unrecorded.MaxBuffer = -1
			client := &http.Client{Transport: &steadyhttp.Transport{Base: base, Policy: unrecorded}}
			req := newRequest(t, "POST", "content")
			if !test.getBody {
				req.Body, req.GetBody = newCountingBody("content"), nil
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			var methods []string
			for n := range base.sent() {
				methods = append(methods, base.request(n).Method)
			}
			if !slices.Equal(methods, test.methods) || !slices.Equal(base.bodies, test.bodies) || resp.StatusCode != test.final {
				t.Errorf("sent %q with bodies %q, got %d", methods, base.bodies, resp.StatusCode)
			}
			if test.final == 200 && resp.Request.URL.Path != "/elsewhere" {
				t.Errorf("answered by %v", resp.Request.URL)
			}
			base.assertNoLeak(t)
		})
	}
	t.Run("307 that can't be followed is returned", func(t *testing.T) {
		base := newScript(answers(307, "moved", "Location: /elsewhere"))
		req := newRequest(t, "POST", "content")
		req.Body, req.GetBody = newCountingBody("content"), nil
		resp, err := (&http.Client{Transport: &steadyhttp.Transport{Base: base}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); resp.StatusCode != 307 || body != "moved" || base.sent() != 1 {
			t.Errorf("got %d %q after %d attempts", resp.StatusCode, body, base.sent())
		}
	})
}

// http.Client on top: cookies are those of the answers that it sees, once on each attempt.
func TestCookiesWithRetries(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	base := newScript(
		answers(503, ""), answers(302, "", "Location: /next", "Set-Cookie: a=1; Path=/"),
		answers(503, ""), answers(200, "", "Set-Cookie: b=2; Path=/"),
		answers(200, ""))
	client := &http.Client{Transport: &steadyhttp.Transport{Base: base, Policy: atOnce()}, Jar: jar}
	for range 2 {
		resp, err := client.Do(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	var got []string
	for n := range base.sent() {
		got = append(got, strings.Join(base.request(n).Header["Cookie"], "|"))
	}
	if want := []string{"", "", "a=1", "a=1", "a=1; b=2"}; !slices.Equal(got, want) {
		t.Errorf("cookies %q, want %q", got, want)
	}
}
