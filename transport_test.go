package steadyhttp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
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

// Contract, C02-C05, D08: whatever a policy, a base transport, hooks, gates and bodies do together, a call has exactly one
// of a response and an error, leaves the caller's request alone, and gives back all that it holds.
func TestExactlyOneOutcome(t *testing.T) {
	const seed, workers = 20260611, 2
	trials := 100_000
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

// Faults of a connection, as net/http gives them out.
var (
	trReset   = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	trRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
)

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

var errFakeClosed = errors.New("read on closed response body")

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

// R1, C02: nothing in a call changes the caller's request, and others may read it meanwhile.
func TestRequestIsNotChanged(t *testing.T) {
	for name, transport := range map[string]*steadyhttp.Transport{
		"default":         {},
		"bounds":          {Policy: steadyhttp.Policy{AttemptTimeout: time.Minute, IdleTimeout: time.Minute, MaxElapsed: time.Minute}},
		"idempotency key": {Policy: steadyhttp.Policy{IdempotencyKey: true}},
		"buffer":          {Policy: steadyhttp.Policy{MaxBuffer: 100}},
		"gates":           {Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}},
		"Prepare": {Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", "Bearer x")
			req.Header["X-Mine"][0] = "changed"
			req.URL.Host, req.URL.RawQuery, req.Host, req.Method = "other.example", "", "other.example", "PUT"
			*req.URL.User = *url.User("nobody")
			return nil
		}},
		"AttemptStart": {Trace: &steadyhttp.Trace{AttemptStart: func(_ context.Context, a steadyhttp.Attempt) context.Context {
			a.Request.Header.Set("Traceparent", "00")
			return nil
		}}},
	} {
		for _, withGetBody := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", GetBody ", withGetBody), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					req := newRequest(t, http.MethodPost, "body")
					req.URL.User = url.UserPassword("me", "secret")
					req.Header.Set("X-Mine", "mine")
					if !withGetBody {
						req.GetBody, req.Body = nil, newCountingBody("body")
					}
					before := snapshot(req)
					stop := make(chan struct{})
					go func() {
						// The race detector tells of any write to what this reads.
						for {
							select {
							case <-stop:
								return
							case <-time.After(time.Millisecond):
								for range req.Header {
								}
								_ = req.URL.String()
							}
						}
					}()
					transport := withBase(transport, newScript(failsWith(trRefused), answers(429, ""), answers(200, "fine")))
					resp, err := transport.RoundTrip(req)
					close(stop)
					if err == nil {
						resp.Body.Close()
					}
					before.assertUnchanged(t, req)
				})
			})
		}
	}
}

// R2, R15: every attempt is made from the caller's pristine request, with all of its body and its length.
func TestEveryAttemptIsTheWholeRequest(t *testing.T) {
	for name, policy := range map[string]steadyhttp.Policy{
		"default":         {},
		"attempt timeout": {AttemptTimeout: time.Minute},
		"buffered":        {MaxBuffer: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answers(503, ""), answers(429, ""), answers(200, ""))
				transport := &steadyhttp.Transport{Base: base, Policy: policy, Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
					req.Header.Add("X-Signed", "once")
					req.URL.RawQuery += "&signed"
					return nil
				}}
				req := newRequest(t, http.MethodPut, "content")
				req.TransferEncoding = []string{"identity"}
				if policy.MaxBuffer > 0 {
					req.Body, req.GetBody = newCountingBody("content"), nil
				}
				do(t, transport, req)
				if base.sent() != 3 {
					t.Fatalf("sent %d times, want 3", base.sent())
				}
				for n := range 3 {
					sent := base.request(n)
					if base.bodies[n] != "content" || sent.ContentLength != 7 || !slices.Equal(sent.TransferEncoding, []string{"identity"}) {
						t.Errorf("attempt %d had body %q, length %d and encoding %v", n+1, base.bodies[n], sent.ContentLength, sent.TransferEncoding)
					}
					if got := sent.Header["X-Signed"]; len(got) != 1 || sent.URL.RawQuery != "key=value&signed" {
						t.Errorf("attempt %d carries what Prepare did to another: %v %v", n+1, got, sent.URL)
					}
				}
			})
		})
	}
}

// R3, R4: a base transport that breaks its contract does not make the Transport break it.
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

// R5: an answer without a body, as fakes give it, gets one.
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

// R6, C04: the request's body is closed on every way out.
func TestRequestBodyIsClosed(t *testing.T) {
	refuse := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, errTrial })
	block := enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, test := range []struct {
		name      string
		transport *steadyhttp.Transport
		steps     []step
		change    func(*http.Request) *http.Request
	}{
		{name: "success"},
		{name: "success after faults", steps: []step{answers(429, ""), answers(503, ""), answers(200, "")}},
		{name: "permanent", steps: []step{answers(404, "")}},
		{name: "exhausted", steps: []step{answers(429, "")}},
		{name: "transport errors", steps: []step{failsWith(trReset)}},
		{name: "never connected", steps: []step{failsWith(trRefused)}},
		{name: "nil URL", change: func(req *http.Request) *http.Request { req.URL = nil; return req }},
		{name: "nil header", change: func(req *http.Request) *http.Request { req.Header = nil; return req }},
		{name: "context over before the start", change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		{name: "context over before the start, gates", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}}, change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		{name: "gate refuses", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{refuse}}},
		{name: "gate refuses the retry", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(refuse)}}, steps: []step{answers(429, "")}},
		{name: "gate waits in vain", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{block}, Policy: steadyhttp.Policy{MaxElapsed: time.Second}}},
		{name: "Prepare fails", transport: &steadyhttp.Transport{Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errTrial }}},
		{name: "Prepare fails at the retry", transport: &steadyhttp.Transport{Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev != nil {
				return errTrial
			}
			return nil
		}}, steps: []step{failsWith(trRefused)}},
		{name: "GetBody fails", steps: []step{answers(429, "")}, change: func(req *http.Request) *http.Request {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errTrial }
			return req
		}},
		{name: "cancelled between attempts", steps: []step{answers(429, "", "Retry-After: 10")}, change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			time.AfterFunc(time.Second, cancel)
			return req.WithContext(ctx)
		}},
		{name: "budget spent", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 0.5}}}, steps: []step{answers(429, "")}},
		{name: "buffered", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 100}}, steps: []step{answers(429, ""), answers(200, "")}},
		{name: "too long to be buffered", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 1}}, steps: []step{answers(429, "")}},
		{name: "fails while it is buffered", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 100}}, change: func(req *http.Request) *http.Request {
			req.Body.(*countingBody).Reader = failingReader{errTrial}
			return req
		}},
		{name: "a class that does not exist", transport: &steadyhttp.Transport{Classify: func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{} }}},
		{name: "one attempt", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxAttempts: 1}}, steps: []step{answers(503, "")}},
	} {
		for _, withGetBody := range []bool{true, false} {
			t.Run(fmt.Sprint(test.name, ", GetBody ", withGetBody), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if test.steps == nil {
						test.steps = []step{answers(200, "")}
					}
					base := newScript(test.steps...)
					transport := withBase(test.transport, base)
					req := newRequest(t, http.MethodPost, "content")
					body := newCountingBody("content")
					req.Body = body
					if !withGetBody {
						req.GetBody = nil
					}
					if test.change != nil {
						req = test.change(req)
					}
					if resp, err := transport.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
					if body.closes.Load() == 0 {
						t.Error("the request's body was not closed")
					}
					base.assertNoLeak(t)
				})
			})
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

// R8: what is left of a discarded answer is read within bounds, in bytes and in time.
func TestDrainIsBounded(t *testing.T) {
	// What Classify alone rejects is not peeked, so that the drain is all that is ever read of it.
	reject := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		if a.N == 1 {
			return steadyhttp.Verdict{Class: steadyhttp.Transient}
		}
		return steadyhttp.Verdict{Class: steadyhttp.Success}
	}
	for _, test := range []struct {
		name string
		body fakeBody
		took time.Duration
	}{
		{"endless", fakeBody{content: "endless ", endless: true}, 0},
		{"stalled", fakeBody{content: "stalled", stalls: true}, 50 * time.Millisecond},
		{"trickling", fakeBody{content: strings.Repeat("x", 1000), chunk: 1, pause: 20 * time.Millisecond}, 50 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.body.reads = new(atomic.Int64)
				base := newScript(answersWith(200, test.body), answers(200, "fine"))
				began := time.Now()
				do(t, &steadyhttp.Transport{Base: base, Classify: reject, Policy: atOnce()}, newRequest(t, "GET", ""))
				if took := time.Since(began); took != test.took {
					t.Errorf("the drain took %v, want %v", took, test.took)
				}
				if read := test.body.reads.Load(); read > 64<<10 {
					t.Errorf("read %d bytes", read)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// R7, C05: every discarded answer is closed, and before the wait, so that its connection is free meanwhile.
func TestDiscardedAnswerIsClosedBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(
			answers(503, "short"),
			answersWith(503, fakeBody{content: "endless ", endless: true}),
			answersWith(503, fakeBody{content: "stalls", stalls: true}),
			answers(200, "fine"))
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{
			Budget:     &steadyhttp.Budget{Max: -1},
			NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) },
		}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			do(t, transport, newRequest(t, "GET", ""))
		}()
		for range 3 {
			time.Sleep(30 * time.Second)
			base.assertNoLeak(t)
			time.Sleep(30 * time.Second)
		}
		<-done
		if base.sent() != 4 {
			t.Errorf("sent %d times", base.sent())
		}
	})
}

// R9: the attempt's context outlives RoundTrip, so that a body can be read at the caller's pace.
func TestBodyIsReadableAfterReturn(t *testing.T) {
	for name, policy := range map[string]steadyhttp.Policy{
		"AttemptTimeout": {AttemptTimeout: time.Second},
		"MaxElapsed":     {MaxElapsed: time.Second},
		"IdleTimeout":    {IdleTimeout: time.Second},
	} {
		for _, status := range []int{200, 404} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					content := strings.Repeat("0123456789abcdef", 512<<10/16)
					var attempt context.Context
					transport := &steadyhttp.Transport{Policy: policy, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
						attempt = req.Context()
						// As with net/http, the body fails once the context of its request is over.
						return answersBound(status, content)(req)
					})}
					resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					if attempt.Err() != nil {
						t.Errorf("the attempt's context is over: %v", context.Cause(attempt))
					}
					if body := readAll(t, resp); body != content {
						t.Errorf("read %d bytes of %d", len(body), len(content))
					}
					// R10: and it does not outlive the body.
					if attempt.Err() == nil {
						t.Error("the attempt's context was not released at the end of the body")
					}
				})
			})
		}
	}
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

// R10: an attempt's context is released when its body ends, fails or is closed, and a losing attempt's before the wait.
func TestAttemptContextIsReleased(t *testing.T) {
	for name, end := range map[string]func(*http.Response){
		"read": func(resp *http.Response) { io.Copy(io.Discard, resp.Body) },
		// Nothing was read: only Close can tell.
		"closed": func(resp *http.Response) { resp.Body.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts []context.Context
				base := newScript(func(req *http.Request) (*http.Response, error) {
					for n, earlier := range attempts {
						if earlier.Err() == nil {
							t.Errorf("the context of attempt %d lives on", n+1)
						}
					}
					attempts = append(attempts, req.Context())
					if len(attempts) < 3 {
						return answers(503, "x")(req)
					}
					return answers(200, "fine")(req)
				})
				resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				if end(resp); attempts[2].Err() == nil {
					t.Error("the last attempt's context lives on")
				}
			})
		})
	}
}

// R11, R13, C08: no attempt is given a body of which another has read, or still reads.
func TestAttemptsShareNoReader(t *testing.T) {
	// late reads the body when its answer has long been returned, as net/http's writeLoop may (golang/go#30597).
	late := func(after time.Duration, answer step, read *atomic.Value) step {
		return func(req *http.Request) (*http.Response, error) {
			go func() {
				time.Sleep(after)
				body, _ := io.ReadAll(req.Body)
				read.Store(string(body))
				req.Body.Close()
			}()
			return answer(req)
		}
	}
	for _, test := range []struct {
		name    string
		getBody bool
		after   time.Duration
		answer  step
	}{
		{"GetBody, read during the wait", true, 100 * time.Millisecond, answers(429, "")},
		{"GetBody, read during the next attempt", true, 1100 * time.Millisecond, answers(429, "")},
		{"no GetBody, read during the wait", false, 100 * time.Millisecond, answers(429, "")},
		{"no GetBody, read during the next attempt", false, 1100 * time.Millisecond, answers(429, "")},
		{"no GetBody, read during the wait after an error", false, 100 * time.Millisecond, failsWith(trRefused)},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var first atomic.Value
				var sent []string
				n := 0
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					if n++; n == 1 {
						return late(test.after, test.answer, &first)(req)
					}
					time.Sleep(500 * time.Millisecond)
					body, err := io.ReadAll(req.Body)
					req.Body.Close()
					if err != nil {
						return nil, err
					}
					sent = append(sent, string(body))
					return answers(200, "")(req)
				})
				req := newRequest(t, "PUT", "content")
				if !test.getBody {
					req.Body, req.GetBody = newCountingBody("content"), nil
				}
				policy := steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }}
				if resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req); err == nil {
					resp.Body.Close()
				}
				time.Sleep(time.Minute)
				// To send nothing is right where the body is gone; to send a part of it never is.
				for _, body := range sent {
					if body != "content" {
						t.Errorf("a retry was sent with body %q", body)
					}
				}
				if test.getBody && len(sent) != 1 {
					t.Errorf("%d retries, want 1", len(sent))
				}
			})
		})
	}
}

// R12: net/http closes a request's body while it reads it.
func TestConcurrentReadAndCloseOfRequestBody(t *testing.T) {
	for range 100 {
		pr, pw := io.Pipe()
		go func() {
			for {
				if _, err := pw.Write([]byte("some content")); err != nil {
					return
				}
			}
		}()
		var reading sync.WaitGroup
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			body := req.Body
			begun := make(chan struct{})
			reading.Go(func() {
				p := make([]byte, 8)
				for n := 0; ; n++ {
					if _, err := body.Read(p); err != nil {
						return
					}
					if n == 2 {
						close(begun)
					}
				}
			})
			<-begun
			body.Close()
			return answers(413, "too large")(req)
		})
		req := newRequest(t, "POST", "")
		req.Body = pr
		resp, _ := do(t, &steadyhttp.Transport{Base: base}, req)
		if resp.StatusCode != 413 {
			t.Fatal(resp.Status)
		}
		reading.Wait() // a Close that did not come through would leave it reading for ever
	}
}

// R13, C08: a body that cannot be had again is sent once, unless nobody has touched it.
func TestBodyWithoutGetBody(t *testing.T) {
	untouched := func(answer step) step {
		return func(req *http.Request) (*http.Response, error) { return answer(req) }
	}
	for _, test := range []struct {
		name   string
		reads  int // how much of the body the first attempt reads
		answer step
		sent   int
		stop   steadyhttp.Stop
	}{
		{"dial failure", 0, failsWith(trRefused), 2, "done"},
		{"throttled unread", 0, untouched(answers(429, "")), 2, "done"},
		{"dial failure after a byte", 1, failsWith(trRefused), 1, "body_not_replayable"},
		{"throttled after a byte", 1, answers(429, "kept"), 1, "body_not_replayable"},
		{"throttled after all", 100, answers(429, "kept"), 1, "body_not_replayable"},
		{"reset", 100, failsWith(trReset), 1, "body_not_replayable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var bodies []string
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				defer req.Body.Close()
				if bodies == nil {
					part, _ := io.ReadAll(io.LimitReader(req.Body, int64(test.reads)))
					bodies = append(bodies, string(part))
					return test.answer(req)
				}
				all, _ := io.ReadAll(req.Body)
				bodies = append(bodies, string(all))
				return answers(200, "fine")(req)
			})
			req := newRequest(t, "PUT", "")
			body := newCountingBody("content")
			req.Body, req.ContentLength = body, 7
			policy := atOnce()
			policy.MaxBuffer = -1
			resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
			var stop steadyhttp.Stop
			if err != nil {
				stop = errorOf(t, err).Stop
			} else {
				stop = stopOf(t, resp)
				resp.Body.Close()
			}
			if len(bodies) != test.sent || stop != test.stop {
				t.Errorf("sent %d times, Stop %q, want %d and %q (error %v)", len(bodies), stop, test.sent, test.stop, err)
			}
			if test.sent == 2 && bodies[1] != "content" {
				t.Errorf("the retry had body %q", bodies[1])
			}
			if closes := body.closes.Load(); closes != 1 {
				t.Errorf("closed %d times", closes)
			}
		})
	}
}

// R14, C09: no body and NoBody reach the base transport as they are, on every attempt.
func TestEmptyBodiesAreNotWrapped(t *testing.T) {
	for name, body := range map[string]io.ReadCloser{"nil": nil, "NoBody": http.NoBody} {
		t.Run(name, func(t *testing.T) {
			base := newScript(answers(503, ""), answers(429, ""), answers(200, ""))
			policy := atOnce()
			policy.MaxBuffer, policy.AttemptTimeout = 100, time.Minute
			req := newRequest(t, "PUT", "")
			req.Body = body
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
			if base.sent() != 3 {
				t.Fatalf("sent %d times", base.sent())
			}
			for n := range 3 {
				if got := base.request(n).Body; got != body {
					t.Errorf("attempt %d had body %T", n+1, got)
				}
			}
		})
	}
}

// R16: a request whose trailer its caller fills in while the body is read is not sent a second time without it.
func TestRequestTrailer(t *testing.T) {
	for _, test := range []struct {
		name    string
		trailer http.Header
		sent    int
	}{
		{"unset", http.Header{"X-Sum": nil}, 1},
		{"final", http.Header{"X-Sum": {"42"}}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(answers(429, ""), answers(200, ""))
			req := newRequest(t, "POST", "content")
			req.Trailer = test.trailer
			do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
			if base.sent() != test.sent {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			for n := range base.sent() {
				if got := base.request(n).Trailer; reflect.ValueOf(got).Pointer() != reflect.ValueOf(test.trailer).Pointer() {
					t.Errorf("attempt %d has a trailer of its own, which the caller does not fill in", n+1)
				}
			}
		})
	}
}

// R16: a response's trailer is there at the end of its body, whatever stands between.
func TestResponseTrailer(t *testing.T) {
	for _, status := range []int{200, 404} {
		for name, policy := range map[string]steadyhttp.Policy{"default": {}, "attempt timeout": {AttemptTimeout: time.Minute}, "read ahead": {MaxRead: 1 << 10}} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					resp, _ := answers(status, "content")(req)
					resp.Trailer = http.Header{"X-Sum": nil}
					resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("content"), readFunc(func([]byte) (int, error) {
						resp.Trailer.Set("X-Sum", "42")
						return 0, io.EOF
					})))
					return resp, nil
				})
				resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
				if got := resp.Trailer.Get("X-Sum"); got != "42" {
					t.Errorf("trailer %q", got)
				}
			})
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// R17: Expect is the caller's business, and a 417 the end of it.
func TestExpectContinue(t *testing.T) {
	base := newScript(answers(417, "no"))
	req := newRequest(t, "PUT", "content")
	req.Header.Set("Expect", "100-continue")
	resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
	if resp.StatusCode != 417 || base.sent() != 1 || base.request(0).Header.Get("Expect") != "100-continue" {
		t.Errorf("got %d after %d attempts", resp.StatusCode, base.sent())
	}
}

// R18, C10: an upgraded connection keeps its Write, and no bound of ours ends it.
func TestUpgrade(t *testing.T) {
	for name, transport := range map[string]*steadyhttp.Transport{
		"default":         {},
		"attempt timeout": {Policy: steadyhttp.Policy{AttemptTimeout: time.Second, MaxElapsed: time.Second}},
		"read ahead":      {Policy: steadyhttp.Policy{MaxRead: 1 << 20}},
		"trace":           {Trace: &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) {}}},
		"Classify":        {Classify: (&steadyhttp.Rules{}).Classify},
	} {
		for _, first := range []int{101, 503} {
			t.Run(fmt.Sprint(name, ", first answer ", first), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					here, there := net.Pipe()
					upgrade := func(req *http.Request) (*http.Response, error) {
						resp, _ := answers(101, "")(req)
						resp.Body = here
						return resp, nil
					}
					var n int
					transport := withBase(transport, roundTripper(func(req *http.Request) (*http.Response, error) {
						if n++; n == 1 && first != 101 {
							return answers(first, "")(req)
						}
						return upgrade(req)
					}))
					// It is the caller that asks for an upgrade to be retried: see TestTunnelsAreNotRetried.
					if first != 101 {
						transport.Policy.NewBackOff = newZeroBackOff
					}
					req := newRequest(t, "GET", "")
					if first == 101 {
						req.Header.Set("Upgrade", "echo")
					}
					resp, err := transport.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					conn, ok := resp.Body.(io.ReadWriteCloser)
					if !ok {
						t.Fatalf("the body (%T) has no Write", resp.Body)
					}
					go func() {
						defer there.Close()
						io.Copy(there, there)
					}()
					time.Sleep(time.Hour)
					for range 3 {
						go io.WriteString(conn, "ping")
						p := make([]byte, 4)
						if _, err := io.ReadFull(conn, p); err != nil || string(p) != "ping" {
							t.Errorf("read %q, %v", p, err)
						}
					}
					conn.Close()
				})
			})
		}
	}
}

// R18: a body that has no Write does not pretend to have one.
func TestPlainBodyHasNoWrite(t *testing.T) {
	resp, err := (&steadyhttp.Transport{Base: newScript(answers(200, "x")), Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}}).RoundTrip(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, ok := resp.Body.(io.Writer); ok {
		t.Error("it has")
	}
}

// R19, C11: what becomes a tunnel is not retried after a fault, even where its method would be.
func TestTunnelsAreNotRetried(t *testing.T) {
	for name, answer := range map[string]step{"503": answers(503, "kept"), "reset": failsWith(trReset)} {
		for _, kind := range []string{"CONNECT", "Upgrade"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				base := newScript(answer)
				req := newRequest(t, "GET", "")
				if kind == "CONNECT" {
					req = newRequest(t, "CONNECT", "")
				} else {
					req.Header.Set("Upgrade", "websocket")
				}
				policy := atOnce()
				policy.Idempotent = func(*http.Request) bool { return true }
				resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				if base.sent() != 1 {
					t.Errorf("sent %d times", base.sent())
				}
			})
		}
	}
}

// R19: a tunnel's request body is the pipe itself, and not a wrapper of ours.
func TestTunnelBodyIsNotWrapped(t *testing.T) {
	base := newScript(answers(200, ""))
	req := newRequest(t, "CONNECT", "")
	body := newCountingBody("upstream")
	req.Body = body
	do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: 100}}, req)
	if got := base.request(0).Body; got != io.ReadCloser(body) {
		t.Errorf("the base transport had a %T", got)
	}
}

// R21: what net/http sends again on its own is counted, also if the answer is quicker than the note of its request.
func TestHiddenSendsAreCounted(t *testing.T) {
	for _, noted := range []bool{true, false} {
		t.Run(fmt.Sprint("noted before the answer ", noted), func(t *testing.T) {
			var seen steadyhttp.Attempt
			base := newScript(func(req *http.Request) (*http.Response, error) {
				trace := httptrace.ContextClientTrace(req.Context())
				for n := range 3 {
					if trace.GotConn != nil {
						trace.GotConn(httptrace.GotConnInfo{})
					}
					// HTTP/2 writes a request and notes it on a goroutine of its own.
					if noted || n < 2 {
						trace.WroteHeaders()
					}
				}
				return answers(200, "")(req)
			})
			do(t, &steadyhttp.Transport{Base: base, Trace: &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { seen = a }}}, newRequest(t, "GET", ""))
			if seen.N != 1 || seen.Sends != 3 {
				t.Errorf("attempt %d with %d sends, want 1 with 3", seen.N, seen.Sends)
			}
		})
	}
}

// R23, C12: nothing is read of a success, nor of an event stream, before the caller does.
func TestStreamsAreNotReadAhead(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		fields []string
		policy steadyhttp.Policy
	}{
		{"success", 200, nil, steadyhttp.Policy{}},
		{"success with bounds", 200, nil, steadyhttp.Policy{AttemptTimeout: time.Second, IdleTimeout: time.Hour}},
		{"redirect", 302, nil, steadyhttp.Policy{}},
		{"event stream", 200, []string{"Content-Type: text/event-stream"}, steadyhttp.Policy{MaxRead: 1 << 20}},
		{"event stream of an error", 400, []string{"Content-Type: text/event-stream; charset=utf-8"}, steadyhttp.Policy{}},
		{"not idempotent, so MaxRead is of no use", 200, nil, steadyhttp.Policy{MaxRead: 1 << 20, Idempotent: func(*http.Request) bool { return false }}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := fakeBody{content: "data: 1\n\n", reads: new(atomic.Int64)}
				base := newScript(answersWith(test.status, body, test.fields...))
				began := time.Now()
				resp, err := (&steadyhttp.Transport{Base: base, Policy: test.policy}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if read := body.reads.Load(); read > 0 || time.Since(began) > 0 {
					t.Errorf("%d bytes were read ahead, in %v", read, time.Since(began))
				}
				if got := readAll(t, resp); got != "data: 1\n\n" {
					t.Errorf("body %q", got)
				}
			})
		})
	}
}

// R24, C17: a body that does not come is not read, and the length it would have had stays.
func TestBodilessAnswers(t *testing.T) {
	for _, test := range []struct {
		method string
		status int
		length int64
	}{{"HEAD", 200, 1 << 30}, {"HEAD", 404, 1 << 30}, {"GET", 204, 0}, {"GET", 304, 1 << 30}} {
		t.Run(fmt.Sprint(test.method, " ", test.status), func(t *testing.T) {
			base := newScript(func(req *http.Request) (*http.Response, error) {
				resp, _ := answers(test.status, "")(req)
				resp.Body, resp.ContentLength = http.NoBody, test.length
				return resp, nil
			})
			resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxRead: 1 << 20}}, newRequest(t, test.method, ""))
			if resp.ContentLength != test.length || body != "" || base.sent() != 1 {
				t.Errorf("length %d, body %q, sent %d times", resp.ContentLength, body, base.sent())
			}
		})
	}
}

// R25: transparent decompression stays net/http's: no field of ours turns it off, and its marks are kept.
func TestCompressionIsLeftAlone(t *testing.T) {
	for _, status := range []int{200, 404} {
		base := newScript(answers(503, ""), func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(status, "content")(req)
			resp.Uncompressed, resp.ContentLength = true, -1
			return resp, nil
		})
		policy := atOnce()
		policy.AttemptTimeout, policy.IdempotencyKey = time.Minute, true
		resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
		if !resp.Uncompressed || resp.ContentLength != -1 {
			t.Errorf("%d: Uncompressed %v, ContentLength %d", status, resp.Uncompressed, resp.ContentLength)
		}
		for n := range base.sent() {
			if got, ok := base.request(n).Header["Accept-Encoding"]; ok {
				t.Errorf("attempt %d asks for %q", n+1, got)
			}
		}
	}
}

// R26: the response's Request is the caller's, however many clones were sent.
func TestResponseRequestIsTheCallers(t *testing.T) {
	refuse := afterFirstAttempt(enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, errTrial }))
	for name, transport := range map[string]*steadyhttp.Transport{
		"plain":    {Base: newScript(answers(200, ""))},
		"retried":  {Base: newScript(answers(503, ""), answers(200, ""))},
		"an error": {Base: newScript(answers(404, ""))},
		"without a body": {Base: newScript(answers(503, ""), func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 204, Request: req}, nil
		})},
		"Prepare": {Base: newScript(answers(200, "")), Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil }},
		"trace":   {Base: newScript(answers(200, "")), Trace: &steadyhttp.Trace{Start: func(ctx context.Context, _ *http.Request) context.Context { return context.WithValue(ctx, t, t) }}},
		"a base that clones": {Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(200, "")(req)
			resp.Request = req.Clone(req.Context())
			return resp, nil
		})},
		"attempt timeout":   {Base: newScript(answers(200, "")), Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}},
		"an answer rebuilt": {Base: newScript(answers(429, "kept")), Gates: []steadyhttp.Gate{refuse}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, "GET", "")
				if resp, _ := do(t, transport, req); resp.Request != req {
					t.Error("it is another")
				}
			})
		})
	}
}

// R27, C14: http.Client.CloseIdleConnections reaches the base transport.
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

// R28, C15: the caller ends the call wherever it waits, at once, whichever way he does it, and his reason is told.
func TestCancelledWhereverItWaits(t *testing.T) {
	const at = 300 * time.Millisecond
	errWhy := errors.New("the caller's reason")
	ways := map[string]func(*http.Request) *http.Request{
		"context": func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancelCause(req.Context())
			time.AfterFunc(at, func() { cancel(errWhy) })
			return req.WithContext(ctx)
		},
		"deadline": func(req *http.Request) *http.Request {
			ctx, cancel := context.WithTimeoutCause(req.Context(), at, errWhy)
			context.AfterFunc(ctx, cancel)
			return req.WithContext(ctx)
		},
		"Cancel": func(req *http.Request) *http.Request {
			cancel := make(chan struct{})
			req.Cancel = cancel
			time.AfterFunc(at, func() { close(cancel) })
			return req
		},
	}
	waitsAtGate := enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	// The bodies end by Close alone: not every base transport looks at the context once it has answered. Those that do not
	// end at all would hang the test, not fail it, so they do end after a while.
	slow := fakeBody{content: "{", pause: 5 * time.Second}
	for _, place := range []struct {
		name      string
		transport *steadyhttp.Transport
		base      step
		buffers   bool
	}{
		{name: "base transport", base: func(req *http.Request) (*http.Response, error) {
			select {
			case <-req.Context().Done():
				return nil, context.Cause(req.Context())
			case <-req.Cancel:
				return nil, errors.New("net/http: request canceled")
			}
		}},
		{name: "back-off", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(20 * time.Second) }}}, base: failsWith(trReset)},
		{name: "pushback", base: answers(429, "", "Retry-After: 20")},
		{name: "gate", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{waitsAtGate}}, base: answers(200, "")},
		{name: "gate of the retry", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(waitsAtGate)}, Policy: steadyhttp.Policy{NewBackOff: newZeroBackOff}}, base: failsWith(trReset)},
		{name: "Limit's pause", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{NewBackOff: newZeroBackOff}}, base: answers(429, "")},
		{name: "budget", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{NewBackOff: newZeroBackOff, Budget: spentBudget()}}, base: answers(503, "")},
		{name: "peek", base: answersWith(503, slow)},
		{name: "reading ahead", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxRead: 100}}, base: answersWith(200, slow)},
	} {
		for name, end := range ways {
			t.Run(place.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := newScript(place.base)
					req := newRequest(t, "PUT", "content")
					if place.buffers {
						req.GetBody, req.Body = nil, newFakeBody(slow)
					}
					req = end(req)
					began := time.Now()
					resp, err := withBase(place.transport, base).RoundTrip(req)
					took := time.Since(began)
					time.Sleep(time.Minute) // for what has only been left behind
					// One that sees that its deadline would not be met ends before it.
					if took > at+10*time.Millisecond || name != "deadline" && took < at {
						t.Errorf("took %v, want %v", took, at)
					}
					base.assertNoLeak(t)
					if name == "deadline" && took < at {
						return
					}
					if err == nil {
						t.Fatalf("got %d and no error", resp.StatusCode)
					}
					// What the base transport returns for itself is its own choice: net/http's is the cause alone.
					own := place.name == "base transport"
					timeout, _ := err.(interface{ Timeout() bool })
					switch name {
					case "context":
						if !errors.Is(err, errWhy) || !errors.Is(err, context.Canceled) && !own {
							t.Errorf("%v hides the cause or that it was cancelled", err)
						}
					case "deadline":
						if !errors.Is(err, errWhy) || !own && (!errors.Is(err, context.DeadlineExceeded) || !timeout.Timeout() || errors.Is(err, context.Canceled)) {
							t.Errorf("%v hides the cause or that it was a timeout", err)
						}
					case "Cancel":
						if !errors.Is(err, context.Canceled) && !own {
							t.Errorf("%v does not say that it was cancelled", err)
						}
					}
					if e, ok := errors.AsType[*steadyhttp.Error](err); ok && e.Stop != "cancelled" {
						t.Errorf("Stop = %q", e.Stop)
					}
				})
			})
		}
	}
}

// R28, R29, C15: http.Client.Timeout ends every wait, and one that cannot end in time is not begun.
func TestClientTimeout(t *testing.T) {
	for _, test := range []struct {
		name      string
		transport *steadyhttp.Transport
		base      step
		took      time.Duration
		status    int // 0: an error
	}{
		{"base transport", nil, func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}, 5 * time.Second, 0},
		{"gate", &steadyhttp.Transport{Gates: []steadyhttp.Gate{enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})}}, answers(200, ""), 5 * time.Second, 0},
		{"pushback that would not end in time", nil, answers(429, "kept", "Retry-After: 5"), 0, 429},
		{"budget", &steadyhttp.Transport{Policy: steadyhttp.Policy{NewBackOff: newZeroBackOff, Budget: spentBudget()}}, answers(503, "kept"), 5 * time.Second, 0},
		{"reading ahead", &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxRead: 100}}, answersWith(200, fakeBody{content: "x", pause: time.Minute}), 5 * time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(test.base)
				client := &http.Client{Transport: withBase(test.transport, base), Timeout: 5 * time.Second}
				began := time.Now()
				resp, err := client.Do(newRequest(t, "GET", ""))
				if took := time.Since(began); took < test.took || took > test.took+10*time.Millisecond {
					t.Errorf("took %v, want %v", took, test.took)
				}
				switch {
				case test.status == 0:
					if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
						t.Errorf("got %v, want a timeout", err)
					}
				case err != nil:
					t.Error(err)
				case resp.StatusCode != test.status || readAll(t, resp) != "kept":
					t.Errorf("got %s", resp.Status)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// R29: an answer that the caller can read is worth more than a wait that his deadline would cut short.
func TestNoWaitIntoTheDeadline(t *testing.T) {
	for _, test := range []struct {
		name  string
		after string
		stop  steadyhttp.Stop
		sent  int
	}{
		{"would outlast it", "Retry-After: 10", "deadline", 1},
		{"would end in time", "Retry-After: 5", "done", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
				defer cancel()
				base := newScript(answers(429, "kept", test.after), answers(200, ""))
				began := time.Now()
				resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "").WithContext(ctx))
				if stop := stopOf(t, resp); stop != test.stop || base.sent() != test.sent {
					t.Errorf("Stop %q after %d attempts, want %q after %d", stop, base.sent(), test.stop, test.sent)
				}
				if took := time.Since(began); test.sent == 1 && took > 0 {
					t.Errorf("slept for %v first", took)
				}
			})
		})
	}
}

// C16, R30: what a base transport says can be found in the error, after retries as well as without.
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

func isErr(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func asErr[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// R30, D06: a fault of the kind that stays is not tried again, and one that may pass is only where that is safe, or where
// it never left.
func TestAttemptsPerTransportError(t *testing.T) {
	for name, test := range map[string]struct {
		err       error
		get, post int
	}{
		"untrusted":         {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, 1, 1},
		"wrong host":        {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}, 1, 1},
		"expired":           {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: &x509.Certificate{}}}, 1, 1},
		"no roots":          {x509.SystemRootsError{}, 1, 1},
		"no TLS":            {tls.RecordHeaderError{}, 1, 1},
		"untrusted in dial": {&net.OpError{Op: "dial", Err: x509.UnknownAuthorityError{}}, 1, 1},
		"no such host":      {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, 1, 1},
		"DNS temporary":     {&net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, 4, 4},
		"DNS timeout":       {&net.DNSError{IsTimeout: true}, 4, 4},
		"refused":           {trRefused, 4, 4},
		"proxy refused":     {&net.OpError{Op: "proxyconnect", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, 4, 4},
		"dial timeout":      {&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, 4, 4},
		"reset":             {trReset, 4, 1},
		"broken pipe (R33)": {&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, 4, 1},
		"unexpected EOF":    {io.ErrUnexpectedEOF, 4, 1},
		"malformed answer":  {errors.New("malformed HTTP response"), 2, 1},
		"its own deadline":  {context.DeadlineExceeded, 4, 1},
		// A base that retries on its own may have sent the request before the dial that failed.
		"dial of a client of its own": {&url.Error{Op: "Post", URL: "x", Err: trRefused}, 4, 1},
	} {
		for method, want := range map[string]int{"GET": test.get, "POST": test.post} {
			t.Run(name+" "+method, func(t *testing.T) {
				base := newScript(failsWith(test.err))
				body := ""
				if method == "POST" {
					body = "content"
				}
				resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(newRequest(t, method, body))
				if resp != nil || err == nil {
					t.Fatalf("got %v, %v", resp, err)
				}
				if base.sent() != want {
					t.Errorf("sent %d times, want %d", base.sent(), want)
				}
			})
		}
	}
}

// D05, R32: an answer that says no is final, whatever the method.
func TestOtherClientErrorsAreFinal(t *testing.T) {
	statuses := []int{501, 505}
	for status := 400; status < 440 && len(statuses) < 40; status++ {
		if status != 408 && status != 429 {
			statuses = append(statuses, status)
		}
	}
	for _, status := range statuses {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"} {
			base := newScript(answers(status, "kept"))
			if resp, body := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, method, "")); resp.StatusCode != status || body != "kept" {
				t.Errorf("%s: got %d %q, want %d", method, resp.StatusCode, body, status)
			}
			if base.sent() != 1 {
				t.Errorf("%s: %d was tried %d times", method, status, base.sent())
			}
		}
	}
}

// R32: below 400 there is nothing to repair.
func TestAnswersBelow400AreFinal(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308} {
		base := newScript(answers(status, "", "Retry-After: 10", "Location: /elsewhere"))
		if resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "")); resp.StatusCode != status || base.sent() != 1 {
			t.Errorf("%d was tried %d times", status, base.sent())
		}
	}
}

// C20: a base transport that wraps the body, as otelhttp does, is one like any other, inside as well as outside.
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

// E10: two Transports around each other make no more attempts than one.
func TestTwoTransportsSendNoMoreThanOne(t *testing.T) {
	policy := atOnce()
	for _, test := range []struct {
		name, method string
		answer       step
		sent         int
	}{
		{"503", "GET", answers(503, "kept"), 4},
		{"503, no body", "GET", answers(503, ""), 4},
		{"429", "POST", answers(429, "kept"), 4},
		{"500 to a POST", "POST", answers(500, "kept"), 1},
		{"reset", "GET", failsWith(trReset), 4},
		{"reset of a POST", "POST", failsWith(trReset), 1},
		{"refused", "POST", failsWith(trRefused), 4},
	} {
		for name, between := range map[string]func(http.RoundTripper) http.RoundTripper{
			"directly": func(rt http.RoundTripper) http.RoundTripper { return rt },
			"through an http.Client": func(rt http.RoundTripper) http.RoundTripper {
				return roundTripper((&http.Client{Transport: rt}).Do)
			},
		} {
			t.Run(test.name+" "+name, func(t *testing.T) {
				base := newScript(test.answer)
				var last steadyhttp.Attempt
				outer := &steadyhttp.Transport{
					Base:   between(&steadyhttp.Transport{Base: base, Policy: policy}),
					Policy: policy,
					Trace:  &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { last = a }},
				}
				resp, err := outer.RoundTrip(newRequest(t, test.method, ""))
				if err == nil {
					resp.Body.Close()
				}
				if base.sent() != test.sent {
					t.Errorf("sent %d times, want %d", base.sent(), test.sent)
				}
				if last.N != 1 || last.Stop == "" || last.Verdict.Class <= steadyhttp.Success {
					t.Errorf("the outer one made %d attempts and ended with %q, %v", last.N, last.Stop, last.Verdict.Class)
				}
				base.assertNoLeak(t)
			})
		}
	}
}

// E09: a call for whose retry there is nothing left ends at once, without a wait before.
func TestSpentBudgetEndsTheCallAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, "kept", "Retry-After: 5"))
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 0.5, PerSecond: -1}}}
		began := time.Now()
		resp, body := do(t, transport, newRequest(t, "GET", ""))
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("took %v", took)
		}
		if resp.StatusCode != 503 || body != "kept" || stopOf(t, resp) != "budget" || base.sent() != 1 {
			t.Errorf("got %d %q after %d attempts", resp.StatusCode, body, base.sent())
		}
	})
}

// D02, D03: a write is never done twice, unless the service knows it again by its key; and every failure is told once.
func TestWritesAreNotDoneTwice(t *testing.T) {
	for _, withKey := range []bool{false, true} {
		t.Run(fmt.Sprint("key ", withKey), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const calls = 5000
				rng := rand.New(rand.NewPCG(1, 2))
				done := make(map[string]int)      // by nonce
				callOf := make(map[string]string) // by key: the nonce of its call
				keys := make(map[string]struct{}) // of the present call
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					nonce, _ := io.ReadAll(req.Body)
					req.Body.Close()
					process := func() {
						if key := req.Header.Get("Idempotency-Key"); key != "" {
							keys[key] = struct{}{}
							if other, ok := callOf[key]; ok {
								if other != string(nonce) {
									t.Errorf("calls %q and %q have the same key", other, nonce)
								}
								return
							}
							callOf[key] = string(nonce)
						}
						done[string(nonce)]++
					}
					switch rng.IntN(10) {
					case 0:
						return nil, trReset
					case 1:
						return nil, trRefused
					case 2:
						process()
						return nil, trReset
					case 3:
						process()
						return answers(500, "")(req)
					case 4:
						return answers(429, "")(req)
					}
					process()
					return answers(200, "")(req)
				})
				policy := atOnce()
				policy.IdempotencyKey = withKey
				transport := &steadyhttp.Transport{Base: base, Policy: policy}
				succeeded := 0
				for n := range calls {
					nonce := fmt.Sprint("nonce ", n)
					clear(keys)
					resp, err := transport.RoundTrip(newRequest(t, "POST", nonce))
					if (err == nil) == (resp == nil) {
						t.Fatalf("call %d has outcomes %v and %v", n, resp, err)
					}
					if err == nil && resp.StatusCode == 200 {
						if succeeded++; done[nonce] != 1 {
							t.Fatalf("call %d succeeded and was done %d times", n, done[nonce])
						}
					}
					if done[nonce] > 1 {
						t.Fatalf("call %d was done %d times", n, done[nonce])
					}
					if len(keys) > 1 {
						t.Fatalf("call %d went out with keys %v", n, keys)
					}
				}
				if succeeded < calls/3 || succeeded == calls {
					t.Errorf("%d of %d succeeded: the test tests nothing", succeeded, calls)
				}
			})
		})
	}
}

// D08: sends never exceed MaxAttempts.
func TestSendsNeverExceedMaxAttempts(t *testing.T) {
	for attempts, want := range map[int]int{-1: 1, 0: 4, 1: 1, 2: 2, 7: 7} {
		for name, answer := range map[string]step{"503": answers(503, ""), "429": answers(429, ""), "reset": failsWith(trReset)} {
			policy := atOnce()
			policy.MaxAttempts = attempts
			base := newScript(answer)
			if resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", "")); err == nil {
				resp.Body.Close()
			}
			if base.sent() != want {
				t.Errorf("MaxAttempts %d: %s was tried %d times, want %d", attempts, name, base.sent(), want)
			}
		}
	}
}

// Errors: the failure before the one that ended the call can be found as well.
func TestEarlierFailureCanBeFound(t *testing.T) {
	refuse := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, errTrial })
	waits := enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, test := range []struct {
		name      string
		transport *steadyhttp.Transport
		change    func(*http.Request) *http.Request
		also      error
	}{
		{name: "cancelled", change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancelCause(req.Context())
			time.AfterFunc(time.Millisecond, func() { cancel(errTrial) })
			return req.WithContext(ctx)
		}, also: errTrial},
		{name: "gate refuses", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(refuse)}}, also: errTrial},
		{name: "gate waits", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(waits)}, Policy: steadyhttp.Policy{MaxElapsed: time.Minute}}, also: context.DeadlineExceeded},
		{name: "Prepare fails", transport: &steadyhttp.Transport{Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev != nil {
				return errTrial
			}
			return nil
		}}, also: errTrial},
		{name: "GetBody fails", change: func(req *http.Request) *http.Request {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errTrial }
			return req
		}, also: errTrial},
		{name: "too many attempts", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxAttempts: 2}}, also: trReset},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, "PUT", "content")
				if test.change != nil {
					req = test.change(req)
				}
				resp, err := withBase(test.transport, newScript(failsWith(trReset))).RoundTrip(req)
				if resp != nil || err == nil {
					t.Fatalf("got %v, %v", resp, err)
				}
				if !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, test.also) {
					t.Errorf("%v lacks %v or %v", err, syscall.ECONNRESET, test.also)
				}
			})
		})
	}
}

// Bad input: what no transport could send is refused with an error that says what to do, and nothing is counted for it.
func TestUnsendableRequest(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spoil      func(*http.Request)
	}{
		{"nil URL", "steadyhttp: 0 attempts: Request.URL is nil", func(req *http.Request) { req.URL = nil }},
		{"nil header", "steadyhttp: 0 attempts: Request.Header is nil", func(req *http.Request) { req.Header = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(answers(200, ""))
			gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				t.Error("a gate was entered")
				return nil, nil
			})
			req := newRequest(t, "POST", "content")
			test.spoil(req)
			resp, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(req)
			if resp != nil || err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, %v", resp, err)
			}
			if base.sent() != 0 {
				t.Error("it was sent")
			}
		})
	}
}

// Bad input: a retry whose body can't be had is not made, and the answer before it is not lost if it was in memory.
func TestGetBodyThatFails(t *testing.T) {
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"error": func() (io.ReadCloser, error) { return nil, errTrial },
		"nil":   func() (io.ReadCloser, error) { return nil, nil },
	} {
		t.Run(name+", answer in memory", func(t *testing.T) {
			base := newScript(answers(429, envelope("429", "slow", "t1")))
			req := newRequest(t, "POST", "content")
			req.GetBody = getBody
			resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
			if resp.StatusCode != 429 || body != envelope("429", "slow", "t1") || stopOf(t, resp) != "body_not_replayable" || base.sent() != 1 {
				t.Errorf("got %d %q after %d attempts, Stop %q", resp.StatusCode, body, base.sent(), stopOf(t, resp))
			}
			base.assertNoLeak(t)
		})
		t.Run(name+", answer too large to be kept", func(t *testing.T) {
			base := newScript(answers(429, strings.Repeat("x", 100<<10)))
			req := newRequest(t, "POST", "content")
			req.GetBody = getBody
			_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(req)
			e := errorOf(t, err)
			if e.Stop != "body_not_replayable" || e.Class != steadyhttp.Throttled || e.Attempts != 1 || !strings.Contains(err.Error(), "request's body") {
				t.Errorf("got %+v: %v", e, err)
			}
			base.assertNoLeak(t)
		})
	}
}

// Contract: an answer that is wholly in memory is returned, rebuilt, when the retry can't be made after all.
func TestKeptAnswer(t *testing.T) {
	refuse := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, errTrial })
	for _, test := range []struct {
		name      string
		transport *steadyhttp.Transport
		stop      steadyhttp.Stop
	}{
		{"gate refuses", &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(refuse)}}, "refused"},
		{"Prepare fails", &steadyhttp.Transport{Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev != nil {
				return errTrial
			}
			return nil
		}}, "prepare"},
		{"gate waits too long", &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxElapsed: time.Minute}, Gates: []steadyhttp.Gate{afterFirstAttempt(enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))}}, "elapsed"},
	} {
		for _, body := range []string{"", "none", envelope("429", "slow", "t1")} {
			t.Run(fmt.Sprintf("%s, body %q", test.name, body), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					answer := answers(429, body, "X-Mine: 1")
					if body == "none" {
						body = ""
						answer = func(req *http.Request) (*http.Response, error) {
							resp, _ := answers(429, "", "X-Mine: 1")(req)
							resp.Body = http.NoBody
							return resp, nil
						}
					}
					base := newScript(answer)
					dones := 0
					transport := withBase(test.transport, base)
					transport.Trace = &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) {
						if dones++; a.Stop != test.stop || a.N != 1 {
							t.Errorf("Done was told of attempt %d, Stop %q", a.N, a.Stop)
						}
					}}
					resp, got := do(t, transport, newRequest(t, "GET", ""))
					if resp.StatusCode != 429 || got != body || resp.Header.Get("X-Mine") != "1" || stopOf(t, resp) != test.stop {
						t.Errorf("got %d %q, Stop %q", resp.StatusCode, got, stopOf(t, resp))
					}
					if dones != 1 {
						t.Errorf("Done was called %d times", dones)
					}
					base.assertNoLeak(t)
				})
			})
		}
	}
}

// Bad input: a class that does not exist fails the calls that meet it, by name, with what the service said; and Validate
// finds it before.
func TestRuleThatMakesNoSense(t *testing.T) {
	rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Odd": 99}}
	if err := rules.Validate(); err == nil || !strings.Contains(err.Error(), `Rules.ByCode["Odd"]`) {
		t.Errorf("Validate = %v", err)
	}
	for _, policy := range []steadyhttp.Policy{{}, {MaxAttempts: 1}} {
		base := newScript(answers(400, envelope("Odd", "m", "t1")))
		resp, err := (&steadyhttp.Transport{Base: base, Policy: policy, Classify: rules.Classify}).RoundTrip(newRequest(t, "GET", ""))
		if resp != nil || err == nil {
			t.Fatalf("got %v, %v", resp, err)
		}
		for _, want := range []string{"Classify", "Class(99)", "400", "Odd", "t1"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
		if base.sent() != 1 {
			t.Errorf("sent %d times", base.sent())
		}
		base.assertNoLeak(t)
	}
	t.Run("after a transport error", func(t *testing.T) {
		odd := func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{} }
		_, err := (&steadyhttp.Transport{Base: newScript(failsWith(trReset)), Classify: odd}).RoundTrip(newRequest(t, "GET", ""))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v hides the transport error", err)
		}
	})
}

// Broken bodies of error answers: what is peeked is bounded, and the caller gets all of the body, and its end, as it came.
func TestErrorBodies(t *testing.T) {
	const peek = 64 << 10
	pattern := strings.Repeat("0123456789abcde\n", 64)
	for _, test := range []struct {
		name string
		body fakeBody
		read int   // how much the caller reads
		end  error // what he meets there
		took time.Duration
	}{
		{"short", fakeBody{content: "short"}, 5, io.EOF, 0},
		{"empty", fakeBody{}, 0, io.EOF, 0},
		{"of the peek's very length", fakeBody{content: strings.Repeat("x", peek)}, peek, io.EOF, 0},
		{"one byte longer than the peek", fakeBody{content: strings.Repeat("x", peek+1)}, peek + 1, io.EOF, 0},
		{"fails at once", fakeBody{end: errTrial}, 0, errTrial, 0},
		{"breaks off", fakeBody{content: "half", end: io.ErrUnexpectedEOF}, 4, io.ErrUnexpectedEOF, 0},
		{"1 GiB", fakeBody{content: pattern, endless: true}, 8 << 20, nil, 0},
		{"byte by byte", fakeBody{content: pattern, chunk: 1}, len(pattern), io.EOF, 0},
		{"trickles", fakeBody{content: pattern[:100], chunk: 1, pause: 95 * time.Millisecond}, 100, io.EOF, time.Second},
		{"first byte after 5 s", fakeBody{content: pattern, pause: 5 * time.Second}, len(pattern), io.EOF, time.Second},
		{"stalls after some", fakeBody{content: "some", stalls: true}, 4, nil, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.body.reads = new(atomic.Int64)
				base := newScript(answersWith(404, test.body))
				began := time.Now()
				resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if read := test.body.reads.Load(); read > peek {
					t.Errorf("%d bytes were read ahead", read)
				}
				// A reader that hangs for ever would end the test by force: give it another way out.
				rescue := time.AfterFunc(time.Minute, func() { resp.Body.Close() })
				defer rescue.Stop()
				began = time.Now()
				got := make([]byte, test.read)
				if n, err := io.ReadFull(resp.Body, got); err != nil {
					t.Fatalf("read %d bytes of %d, then %v", n, test.read, err)
				}
				if took := time.Since(began); test.body.stalls && took > 0 {
					t.Errorf("what had come already was held back for %v", took)
				}
				want := test.body.content
				if test.body.endless {
					want = strings.Repeat(want, test.read/len(want))
				}
				if string(got) != want {
					t.Error("the body is another")
				}
				if test.end != nil {
					if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != test.end {
						t.Errorf("ends with %d bytes and %v, want %v", n, err, test.end)
					}
				}
				resp.Body.Close()
				base.assertNoLeak(t)
			})
		})
	}
}

// Broken bodies: Close ends a read that the peek has left under way, and whoever waits for it.
func TestCloseDuringAReadThatOutlastedThePeek(t *testing.T) {
	for _, reading := range []bool{false, true} {
		t.Run(fmt.Sprint("caller is reading ", reading), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(404, fakeBody{content: "some", stalls: true}))
				resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				if reading {
					go func() {
						_, err := io.ReadAll(resp.Body)
						done <- err
					}()
					synctest.Wait()
				}
				began := time.Now()
				resp.Body.Close()
				if reading {
					if err := <-done; err == nil {
						t.Error("the read ended without an error")
					}
				}
				if took := time.Since(began); took > 0 {
					t.Errorf("took %v", took)
				}
				base.assertNoLeak(t)
				// The bubble ends only if no goroutine is left behind.
			})
		})
	}
}

// A slow error body holds a retry up for no longer than the peek.
func TestSlowErrorBodyHoldsTheRetryUpForASecond(t *testing.T) {
	for name, body := range map[string]fakeBody{
		"stalled":   {content: "{", stalls: true},
		"trickling": {content: "{", chunk: 1, pause: time.Millisecond, endless: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(503, body), answers(200, "fine"))
				began := time.Now()
				do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, newRequest(t, "GET", ""))
				if took := time.Since(began); took > time.Second+time.Millisecond {
					t.Errorf("took %v", took)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// Policy.MaxElapsed bounds the call until its response headers, wherever it waits, and leaves the body alone.
func TestMaxElapsed(t *testing.T) {
	block := enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	hang := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	for _, test := range []struct {
		name   string
		gates  []steadyhttp.Gate
		policy steadyhttp.Policy
		base   step
		change func(*http.Request)
		took   time.Duration
	}{
		{name: "attempt", base: hang, took: 5 * time.Second},
		{name: "attempt with a longer timeout of its own", policy: steadyhttp.Policy{AttemptTimeout: time.Minute}, base: hang, took: 5 * time.Second},
		{name: "attempts with a shorter timeout of their own", policy: steadyhttp.Policy{AttemptTimeout: 2 * time.Second, NewBackOff: newZeroBackOff}, base: hang, took: 5 * time.Second},
		{name: "gate", gates: []steadyhttp.Gate{block}, base: hang, took: 5 * time.Second},
		{name: "gate of the retry", gates: []steadyhttp.Gate{afterFirstAttempt(block)}, policy: steadyhttp.Policy{NewBackOff: newZeroBackOff}, base: failsWith(trReset), took: 5 * time.Second},
		{name: "budget", policy: steadyhttp.Policy{NewBackOff: newZeroBackOff, Budget: spentBudget()}, base: failsWith(trReset), took: 5 * time.Second},
		{name: "a wait that would outlast it is not begun", policy: steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(5 * time.Second) }}, base: failsWith(trReset), took: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.policy.MaxElapsed = 5 * time.Second
				req := newRequest(t, "PUT", "content")
				if test.change != nil {
					test.change(req)
				}
				base := newScript(test.base)
				began := time.Now()
				resp, err := (&steadyhttp.Transport{Base: base, Policy: test.policy, Gates: test.gates}).RoundTrip(req)
				took := time.Since(began)
				if resp != nil || err == nil {
					t.Fatalf("got %v, %v", resp, err)
				}
				if took < test.took || took > test.took+10*time.Millisecond {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if e := errorOf(t, err); e.Stop != "elapsed" || !e.Timeout() {
					t.Errorf("Stop %q, Timeout %v: %v", e.Stop, e.Timeout(), err)
				}
				if req.Context().Err() != nil {
					t.Error("the caller's own context has ended")
				}
			})
		})
	}
	t.Run("body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answersWith(200, fakeBody{content: "slow", chunk: 1, pause: time.Minute}))
			if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxElapsed: time.Second}}, newRequest(t, "GET", "")); body != "slow" {
				t.Errorf("body %q", body)
			}
		})
	})
}

// Policy.AttemptTimeout bounds each attempt, is a timeout to everybody, and is not taken for the caller's own.
func TestAttemptTimeout(t *testing.T) {
	hang := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	t.Run("each attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			policy := atOnce()
			policy.AttemptTimeout = 2 * time.Second
			base := newScript(hang)
			began := time.Now()
			_, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
			if took := time.Since(began); took != 8*time.Second || base.sent() != 4 {
				t.Errorf("%d attempts took %v", base.sent(), took)
			}
			if e := errorOf(t, err); e.Stop != "attempts" || !e.Timeout() || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, Stop %q", err, e.Stop)
			}
			if !strings.Contains(err.Error(), "Policy.AttemptTimeout of 2s") {
				t.Errorf("%q does not name the bound", err)
			}
		})
	})
	t.Run("a write may have been done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(hang)
			_, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Second}}).RoundTrip(newRequest(t, "POST", "x"))
			if e := errorOf(t, err); e.Stop != "not_idempotent" || base.sent() != 1 {
				t.Errorf("%d attempts, Stop %q", base.sent(), e.Stop)
			}
		})
	})
	t.Run("an answer that comes with its end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// A base transport that is deaf to its context returns what can't be read any more.
			policy := atOnce()
			policy.AttemptTimeout = time.Second
			base := newScript(func(req *http.Request) (*http.Response, error) {
				// script itself looks at the context before, not after.
				time.Sleep(2 * time.Second)
				return answersBound(200, "late")(req)
			}, answers(200, "fine"))
			if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", "")); body != "fine" || base.sent() != 2 {
				t.Errorf("got %q after %d attempts", body, base.sent())
			}
			base.assertNoLeak(t)
		})
	})
	t.Run("waits do not count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			policy := atOnce()
			policy.AttemptTimeout = time.Second
			policy.NewBackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) }
			gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				time.Sleep(time.Minute)
				return nil, nil
			})
			base := newScript(answers(503, ""), answers(200, "fine"))
			do(t, &steadyhttp.Transport{Base: base, Policy: policy, Gates: []steadyhttp.Gate{gate}}, newRequest(t, "GET", ""))
			if base.sent() != 2 {
				t.Errorf("%d attempts", base.sent())
			}
		})
	})
}

// Policy.IdleTimeout bounds each read of the body, and nothing else.
func TestIdleTimeout(t *testing.T) {
	policy := steadyhttp.Policy{IdleTimeout: 2 * time.Second}
	for _, test := range []struct {
		name   string
		status int
		policy steadyhttp.Policy
	}{
		{"success", 200, policy},
		{"success of an attempt with a timeout", 200, steadyhttp.Policy{IdleTimeout: 2 * time.Second, AttemptTimeout: time.Second}},
		{"error whose body was peeked", 404, policy},
		{"success too long to be read ahead", 200, steadyhttp.Policy{IdleTimeout: 2 * time.Second, MaxRead: 2}},
	} {
		t.Run(test.name+" that stalls", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(test.status, fakeBody{content: "some", stalls: true}))
				resp, err := (&steadyhttp.Transport{Base: base, Policy: test.policy}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				// A reader that hangs for ever would end the test by force: give it another way out.
				rescue := time.AfterFunc(time.Minute, func() { resp.Body.Close() })
				defer rescue.Stop()
				began := time.Now()
				got, err := io.ReadAll(resp.Body)
				if took := time.Since(began); took > 2*time.Second+10*time.Millisecond {
					t.Errorf("took %v", took)
				}
				if timeout, ok := err.(net.Error); string(got) != "some" || !ok || !timeout.Timeout() {
					t.Errorf("read %q and %v, want all there was and a timeout", got, err)
				}
				base.assertNoLeak(t)
			})
		})
	}
	for _, status := range []int{200, 404} {
		t.Run(fmt.Sprint(status, " that is slow"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(status, fakeBody{content: "slow but steady", chunk: 1, pause: 1900 * time.Millisecond}))
				if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", "")); body != "slow but steady" {
					t.Errorf("body %q", body)
				}
			})
		})
	}
	t.Run("the reader may be slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answersWith(200, fakeBody{content: "abc", chunk: 1}))
			resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				time.Sleep(time.Hour)
				if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
			}
			resp.Body.Close()
		})
	})
}

// Policy.MaxRead: a body that breaks off is fetched again while attempts last.
func TestMaxRead(t *testing.T) {
	broken := fakeBody{content: "some of ", end: io.ErrUnexpectedEOF}
	for _, test := range []struct {
		name   string
		method string
		limit  int64
		steps  []step
		sent   int
		body   string
		err    error
	}{
		{"breaks off, then not", "GET", 100, []step{answersWith(200, broken), answers(200, "some of it all")}, 2, "some of it all", nil},
		{"breaks off for ever", "GET", 100, []step{answersWith(200, broken)}, 4, "some of ", io.ErrUnexpectedEOF},
		{"breaks off after the limit", "GET", 4, []step{answersWith(200, broken)}, 1, "some of ", io.ErrUnexpectedEOF},
		{"longer than the limit", "GET", 4, []step{answers(200, "some of it all")}, 1, "some of it all", nil},
		{"as long as the limit", "GET", 14, []step{answers(200, "some of it all")}, 1, "some of it all", nil},
		{"as long as the limit, byte by byte", "GET", 14, []step{answersWith(206, fakeBody{content: "some of it all", chunk: 1})}, 1, "some of it all", nil},
		{"not_idempotent", "POST", 100, []step{answersWith(200, broken)}, 1, "some of ", io.ErrUnexpectedEOF},
		{"no success", "GET", 100, []step{answersWith(302, broken)}, 1, "some of ", io.ErrUnexpectedEOF},
		{"breaks off, then fails for good", "GET", 100, []step{answersWith(200, broken), answers(404, "gone")}, 2, "gone", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(test.steps...)
			policy := atOnce()
			policy.MaxRead = test.limit
			req := newRequest(t, test.method, "")
			resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if string(got) != test.body || err != test.err {
				t.Errorf("read %q and %v, want %q and %v", got, err, test.body, test.err)
			}
			resp.Body.Close()
			if base.sent() != test.sent || resp.Request != req {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			if a, ok := steadyhttp.AttemptOf(resp); test.sent == 4 && (!ok || a.Stop != "attempts" || !errors.Is(a.Err, io.ErrUnexpectedEOF)) {
				t.Errorf("AttemptOf = %+v", a)
			}
			base.assertNoLeak(t)
		})
	}
}

// Policy.MaxBuffer: a body without GetBody can be sent again if it fits, and is sent once, whole and in order, if not.
func TestMaxBuffer(t *testing.T) {
	content := strings.Repeat("0123456789", 100)
	for _, test := range []struct {
		name  string
		limit int64
		sent  int
	}{
		{"within", 2000, 3},
		{"of that very size", 1000, 3},
		{"one byte over", 999, 1},
		{"far over", 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(answers(503, "kept"), answers(429, "kept"), answers(200, ""))
			policy := atOnce()
			policy.MaxBuffer = test.limit
			req := newRequest(t, "PUT", "")
			body := newCountingBody(content)
			req.Body, req.ContentLength = body, int64(len(content))
			resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
			if base.sent() != test.sent {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			for n, sent := range base.bodies {
				if sent != content || base.request(n).ContentLength != 1000 {
					t.Errorf("attempt %d had %d bytes, length %d", n+1, len(sent), base.request(n).ContentLength)
				}
			}
			if test.sent == 1 && stopOf(t, resp) != "body_not_replayable" {
				t.Errorf("Stop %q", stopOf(t, resp))
			}
			if closes := body.closes.Load(); closes != 1 {
				t.Errorf("closed %d times", closes)
			}
		})
	}
	t.Run("a read that fails", func(t *testing.T) {
		base := newScript(answers(200, ""))
		req := newRequest(t, "PUT", "")
		body := newCountingBody("")
		body.Reader = io.MultiReader(strings.NewReader("some"), failingReader{errTrial})
		req.Body, req.ContentLength = body, -1
		_, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: 100}}).RoundTrip(req)
		if e := errorOf(t, err); e.Stop != "permanent" || e.Attempts != 1 || !errors.Is(err, errTrial) || e.ErrorType() != "request body" {
			t.Errorf("got %+v", e)
		}
		if base.sent() != 1 || body.closes.Load() == 0 {
			t.Errorf("sent %d times, closed %d times", base.sent(), body.closes.Load())
		}
	})
	t.Run("GetBody is preferred", func(t *testing.T) {
		base := newScript(answers(200, ""))
		req := newRequest(t, "PUT", "content")
		body := req.Body
		do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: 100}}, req)
		if base.request(0).Body != body {
			t.Error("the body was read nevertheless")
		}
	})
}

// Prepare gets each attempt's own clone, after the wait, with the attempt before.
func TestPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, envelope("Busy", "", "t1")), answers(429, envelope("429", "", "t2"), "Retry-After: 30"), answers(200, ""))
		req := newRequest(t, "PUT", "content")
		var clones []*http.Request
		var prepared time.Time
		transport := &steadyhttp.Transport{Base: base, Prepare: func(clone *http.Request, prev *steadyhttp.Attempt) error {
			if clone == req || slices.Contains(clones, clone) {
				t.Error("the request is not a fresh clone")
			}
			if got := clone.Header.Get("X-Signed"); got != "" {
				t.Errorf("the clone has been signed already: %s", got)
			}
			clones = append(clones, clone)
			clone.Header.Set("X-Signed", fmt.Sprint(len(clones)))
			switch n := len(clones); {
			case n == 1 && prev != nil:
				t.Errorf("the first attempt has a predecessor: %+v", prev)
			case n > 1 && (prev == nil || prev.N != n-1 || prev.Verdict.TrackingID != fmt.Sprint("t", n-1) || prev.Wait == 0):
				t.Errorf("attempt %d's predecessor is %+v", n, prev)
			}
			prepared = time.Now()
			return nil
		}}
		do(t, transport, req)
		if len(clones) != 3 || base.sent() != 3 {
			t.Fatalf("called %d times for %d attempts", len(clones), base.sent())
		}
		for n := range 3 {
			if got := base.request(n).Header.Get("X-Signed"); got != fmt.Sprint(n+1) {
				t.Errorf("attempt %d was sent with signature %q", n+1, got)
			}
		}
		if time.Since(prepared) > 0 {
			t.Error("the last attempt was prepared before its wait")
		}
	})
}

// Prepare can bring new credentials: once, at once.
func TestPrepareAfterUnauthorized(t *testing.T) {
	for _, test := range []struct {
		name  string
		steps []step
		sent  int
	}{
		{"the new token does", []step{answers(401, ""), answers(200, "")}, 2},
		{"the new token does not", []step{answers(401, "")}, 2},
		{"a fault between", []step{answers(401, ""), answers(503, ""), answers(401, "")}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(test.steps...)
			refused := 0
			transport := &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
				if prev != nil && prev.Verdict.Class == steadyhttp.Unauthorized {
					refused++
				}
				return nil
			}}
			do(t, transport, newRequest(t, "PUT", "content"))
			if base.sent() != test.sent {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			if refused != 1 {
				t.Errorf("asked for new credentials %d times", refused)
			}
		})
	}
}

// Prepare's error ends the call, and can be found in the call's.
func TestPrepareThatFails(t *testing.T) {
	base := newScript(answers(200, ""))
	_, err := (&steadyhttp.Transport{Base: base, Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errTrial }}).RoundTrip(newRequest(t, "GET", ""))
	if e := errorOf(t, err); !errors.Is(err, errTrial) || e.Attempts != 0 || !strings.HasPrefix(string(e.Stop), "prepare") || base.sent() != 0 {
		t.Errorf("got %+v after %d attempts: %v", e, base.sent(), err)
	}
}

// R31, V02: what is added for one origin, by Prepare or as a key, never reaches another, nor comes back after a detour.
func TestNothingOfOursCrossesOrigins(t *testing.T) {
	for _, test := range []struct {
		name string
		urls []string // each redirects to the next
		ours []bool   // whether the hop has what is ours
	}{
		{"same origin", []string{"http://a.example/1", "http://a.example/2"}, []bool{true, true}},
		{"same origin, default port", []string{"http://a.example/1", "http://A.example:80/2"}, []bool{true, true}},
		{"other host", []string{"http://a.example/1", "http://b.example/2"}, []bool{true, false}},
		{"there and back", []string{"http://a.example/1", "http://b.example/2", "http://a.example/3"}, []bool{true, false, false}},
		{"sub-domain to parent", []string{"http://sub.a.example/1", "http://a.example/2"}, []bool{true, false}},
		{"parent to sub-domain", []string{"http://a.example/1", "http://sub.a.example/2"}, []bool{true, false}},
		{"https to http", []string{"https://a.example/1", "http://a.example/2"}, []bool{true, false}},
		{"http to https", []string{"http://a.example/1", "https://a.example/2"}, []bool{true, false}},
		{"other port", []string{"http://a.example/1", "http://a.example:8080/2"}, []bool{true, false}},
		{"later", []string{"http://a.example/1", "http://a.example/2", "http://b.example/3", "http://b.example/4"}, []bool{true, true, false, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var steps []step
			for _, next := range test.urls[1:] {
				steps = append(steps, answers(307, "", "Location: "+next))
			}
			base := newScript(append(steps, answers(200, ""))...)
			client := &http.Client{Transport: &steadyhttp.Transport{
				Base: base, Policy: steadyhttp.Policy{IdempotencyKey: true},
				Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
					req.Header.Set("X-Token", "secret")
					return nil
				},
			}}
			resp, err := client.Post(test.urls[0], "text/plain", strings.NewReader("content"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if base.sent() != len(test.urls) {
				t.Fatalf("%d hops, want %d", base.sent(), len(test.urls))
			}
			for n, ours := range test.ours {
				h := base.request(n).Header
				if token, key := h.Get("X-Token") != "", h.Get("Idempotency-Key") != ""; token != ours || key != ours {
					t.Errorf("hop %d to %s has token %v and key %v, want %v", n+1, test.urls[n], token, key, ours)
				}
			}
		})
	}
}

// Policy.IdempotencyKey: one key per call that needs one, the same on all its attempts.
func TestIdempotencyKey(t *testing.T) {
	policy := atOnce()
	policy.IdempotencyKey = true
	t.Run("one per call", func(t *testing.T) {
		base := newScript(answers(503, ""), failsWith(trReset), answers(200, ""), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Policy: policy}
		for range 2 {
			do(t, transport, newRequest(t, "POST", "content"))
		}
		if base.sent() != 4 {
			t.Fatalf("sent %d times: the key makes it idempotent", base.sent())
		}
		keys := make(map[string]int)
		for n := range 4 {
			keys[base.request(n).Header.Get("Idempotency-Key")]++
		}
		if len(keys) != 2 || keys[base.request(0).Header.Get("Idempotency-Key")] != 3 {
			t.Errorf("keys %v", keys)
		}
		for key := range keys {
			// A Structured Field string.
			if len(key) < 18 || key[0] != '"' || key[len(key)-1] != '"' {
				t.Errorf("key %s", key)
			}
		}
	})
	t.Run("the caller's own is kept", func(t *testing.T) {
		for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
			base := newScript(answers(503, ""), answers(200, ""))
			req := newRequest(t, "POST", "content")
			req.Header.Set(name, "mine")
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
			for n := range base.sent() {
				h := base.request(n).Header
				if h.Get(name) != "mine" || len(h["Idempotency-Key"])+len(h["X-Idempotency-Key"]) != 1 {
					t.Errorf("%s: attempt %d has %v", name, n+1, h)
				}
			}
			if base.sent() != 2 {
				t.Errorf("%s: sent %d times", name, base.sent())
			}
		}
	})
	t.Run("not for what is idempotent", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"} {
			base := newScript(answers(200, ""))
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, method, ""))
			if got, ok := base.request(0).Header["Idempotency-Key"]; ok {
				t.Errorf("%s has %q", method, got)
			}
		}
	})
}

// Panics: one anywhere in what others provide goes on to the caller, and leaves nothing behind.
func TestPanics(t *testing.T) {
	type probe struct {
		transport *steadyhttp.Transport
		base      *script
		req       *http.Request
	}
	boom := func() { panic(errTrial) }
	trace := func(hook func(*steadyhttp.Trace)) func(*probe) {
		return func(p *probe) {
			p.transport.Trace = new(steadyhttp.Trace)
			hook(p.transport.Trace)
		}
	}
	gate := func(g steadyhttp.Gate) func(*probe) {
		return func(p *probe) { p.transport.Gates = append(p.transport.Gates, g) }
	}
	policy := func(edit func(*steadyhttp.Policy)) func(*probe) {
		return func(p *probe) { edit(&p.transport.Policy) }
	}
	base := func(s step) func(*probe) {
		return func(p *probe) { p.base.steps = []step{s} }
	}
	for name, arm := range map[string]func(*probe){
		"Start": trace(func(tr *steadyhttp.Trace) {
			tr.Start = func(context.Context, *http.Request) context.Context { boom(); return nil }
		}),
		"Waited": trace(func(tr *steadyhttp.Trace) {
			tr.Waited = func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) { boom() }
		}),
		"AttemptStart": trace(func(tr *steadyhttp.Trace) {
			tr.AttemptStart = func(context.Context, steadyhttp.Attempt) context.Context { boom(); return nil }
		}),
		"AttemptDone": trace(func(tr *steadyhttp.Trace) { tr.AttemptDone = func(context.Context, steadyhttp.Attempt) { boom() } }),
		"AttemptDone of the retry": trace(func(tr *steadyhttp.Trace) {
			tr.AttemptDone = func(_ context.Context, a steadyhttp.Attempt) {
				if a.N == 2 {
					boom()
				}
			}
		}),
		"Done": func(p *probe) {
			trace(func(tr *steadyhttp.Trace) { tr.Done = func(context.Context, steadyhttp.Attempt) { boom() } })(p)
			p.base.steps = []step{failsWith(trReset)}
		},
		"Done of a refused call": func(p *probe) {
			trace(func(tr *steadyhttp.Trace) { tr.Done = func(context.Context, steadyhttp.Attempt) { boom() } })(p)
			gate(enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, errTrial }))(p)
		},
		"Prepare": func(p *probe) {
			p.transport.Prepare = func(*http.Request, *steadyhttp.Attempt) error { boom(); return nil }
		},
		"Prepare of the retry": func(p *probe) {
			p.transport.Prepare = func(_ *http.Request, prev *steadyhttp.Attempt) error {
				if prev != nil {
					boom()
				}
				return nil
			}
		},
		"Classify": func(p *probe) {
			p.transport.Classify = func(steadyhttp.Attempt) steadyhttp.Verdict { boom(); return steadyhttp.Verdict{} }
		},
		"Rules.Parse": func(p *probe) {
			p.transport.Classify = (&steadyhttp.Rules{Parse: func(steadyhttp.Attempt) steadyhttp.Verdict { boom(); return steadyhttp.Verdict{} }}).Classify
		},
		"Gate.Enter": gate(enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { boom(); return nil, nil })),
		"Gate.Enter of the retry": gate(afterFirstAttempt(enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			boom()
			return nil, nil
		}))),
		"leave": gate(enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			return func(steadyhttp.Attempt) { boom() }, nil
		})),
		"Limiter.Wait":  gate(steadyhttp.Limit(waitFunc(boom))),
		"PerKey's key":  gate(perKey(func(*http.Request) string { boom(); return "" }, func(string) steadyhttp.Gate { return nil }, 1)),
		"PerKey's gate": gate(perKey(func(*http.Request) string { return "" }, func(string) steadyhttp.Gate { boom(); return nil }, 1)),
		"Idempotent":    policy(func(p *steadyhttp.Policy) { p.Idempotent = func(*http.Request) bool { boom(); return false } }),
		"NewBackOff":    policy(func(p *steadyhttp.Policy) { p.NewBackOff = func() backoff.BackOff { boom(); return nil } }),
		"NextBackOff":   policy(func(p *steadyhttp.Policy) { p.NewBackOff = func() backoff.BackOff { return panickyBackOff{boom} } }),
		"WithPolicy's": func(p *probe) {
			p.req = p.req.WithContext(steadyhttp.WithPolicy(p.req.Context(), func(*steadyhttp.Policy) { boom() }))
		},
		"GetBody": func(p *probe) { p.req.GetBody = func() (io.ReadCloser, error) { boom(); return nil, nil } },
		"Base":    base(func(*http.Request) (*http.Response, error) { boom(); return nil, nil }),
		"Base, with the body untouched": func(p *probe) {
			p.transport.Base = roundTripper(func(*http.Request) (*http.Response, error) { boom(); return nil, nil })
		},
		"Base of the retry": func(p *probe) {
			p.base.steps = []step{answers(503, "short"), func(*http.Request) (*http.Response, error) { boom(); return nil, nil }}
		},
		"the body, while it is buffered": func(p *probe) {
			p.transport.Policy.MaxBuffer = 100
			p.req.GetBody = nil
			p.req.Body.(*countingBody).Reader = readFunc(func([]byte) (int, error) { boom(); return 0, nil })
		},
	} {
		for _, gates := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", gates ", gates), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					// The first answer is too long to be peeked whole, so that it is still open when it is classified.
					p := &probe{base: newScript(answers(503, strings.Repeat("x", 100<<10))), req: newRequest(t, "PUT", "content")}
					p.transport = &steadyhttp.Transport{Base: p.base, Policy: atOnce()}
					body := newCountingBody("content")
					p.req.Body = body
					var entered, left atomic.Int64
					counts := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
						time.Sleep(10 * time.Millisecond) // for Waited
						entered.Add(1)
						return func(a steadyhttp.Attempt) {
							if a.Request == nil {
								t.Error("leave was told of an attempt without a request")
							}
							left.Add(1)
						}, nil
					})
					if gates || name == "Waited" {
						p.transport.Gates = []steadyhttp.Gate{counts}
					}
					arm(p)
					if gates {
						p.transport.Gates = append(p.transport.Gates, counts)
					}
					func() {
						defer func() {
							if got := recover(); got != error(errTrial) {
								t.Errorf("recovered %v", got)
							}
						}()
						p.transport.RoundTrip(p.req)
						t.Error("no panic came through")
					}()
					if body.closes.Load() == 0 {
						t.Error("the request's body was not closed")
					}
					if entered.Load() != left.Load() {
						t.Errorf("gates entered %d times, left %d times", entered.Load(), left.Load())
					}
					p.base.assertNoLeak(t)
				})
			})
		}
	}
}

type waitFunc func()

func (f waitFunc) Wait(context.Context) error {
	f()
	return nil
}

type panickyBackOff struct{ boom func() }

func (b panickyBackOff) NextBackOff() time.Duration { b.boom(); return 0 }
func (b panickyBackOff) Reset()                     {}

// Panics: one in Trace.Done, which runs as the body ends, leaves neither the body nor the attempt's context open.
func TestPanicInDoneAtTheEndOfTheBody(t *testing.T) {
	for name, end := range map[string]func(*http.Response){
		"Close": func(resp *http.Response) { resp.Body.Close() },
		"Read":  func(resp *http.Response) { defer resp.Body.Close(); io.ReadAll(resp.Body) },
	} {
		t.Run(name, func(t *testing.T) {
			base := newScript(answers(200, "content"))
			transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}, Trace: &steadyhttp.Trace{
				Done: func(context.Context, steadyhttp.Attempt) { panic(errTrial) },
			}}
			resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if got := recover(); got != error(errTrial) {
						t.Errorf("recovered %v", got)
					}
				}()
				end(resp)
			}()
			base.assertNoLeak(t)
			if base.request(0).Context().Err() == nil {
				t.Error("the attempt's context lives on")
			}
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

// Speed: a call that succeeds at once allocates what its base transport does, and what is not idempotent 6 times more at most,
// for the proof that it was sent or was not.
func TestHappyPathAllocations(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		more         float64
	}{
		{"GET", "", 0}, {"HEAD", "", 0}, {"DELETE", "", 0}, {"PUT", "content", 0},
		{"POST", "", 6}, {"POST", "content", 6}, {"PATCH", "content", 6},
	} {
		t.Run(tt.method+" "+tt.body, func(t *testing.T) {
			newReq := func(t testing.TB) *http.Request { return newRequest(t, tt.method, tt.body) }
			base := registered(&canned{every: 1})
			bare := allocations(t, base, 1, newReq)
			steady := allocations(t, &steadyhttp.Transport{Base: base}, 1, newReq)
			if steady > bare+tt.more {
				t.Errorf("%v allocations, %v without the Transport", steady, bare)
			}
		})
	}
}

// Speed: a retry with the default back-off allocates at most 4 times more than its two calls.
func TestRetryAllocates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newReq := func(t testing.TB) *http.Request { return newRequest(t, "GET", "") }
		bare := allocations(t, registered(&canned{every: 2}), 2, newReq)
		base := &canned{every: 2}
		began := time.Now()
		steady := allocations(t, &steadyhttp.Transport{Base: registered(base), Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: -1}}}, 1, newReq)
		if steady > bare+4 {
			t.Errorf("%v allocations, %v without the Transport", steady, bare)
		}
		if base.n != 2*201 || time.Since(began) < 201*250*time.Millisecond {
			t.Errorf("%d attempts in %v: the test tests nothing", base.n, time.Since(began))
		}
	})
}
