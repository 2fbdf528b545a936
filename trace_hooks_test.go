package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// asked is a Trace's Enabled that notes what it is asked with.
type asked struct {
	answer bool
	with   []context.Context
}

func (a *asked) enabled(ctx context.Context) bool {
	a.with = append(a.with, ctx)
	return a.answer
}

// enabled returns t with an Enabled that always says the same.
func enabled(t *steadyhttp.Trace, answer bool) *steadyhttp.Trace {
	t.Enabled = func(context.Context) bool { return answer }
	return t
}

// All hooks of a call are called, or none.
func TestEnabled(t *testing.T) {
	const all = `start; gated 1 1s; attempt 1; answered 1 ""; gated 2 1s; attempt 2; answered 2 "done"; done 2 "done"`
	for name, tt := range map[string]struct {
		enabled func(context.Context) bool
		want    string
	}{
		"nil": {nil, all},
		"yes": {func(context.Context) bool { return true }, all},
		"no":  {func(context.Context) bool { return false }, ""},
	} {
		for _, where := range []string{"Transport", "context"} {
			t.Run(fmt.Sprint(name, ", ", where), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var h hooks
					trace := h.trace("")
					trace.Enabled = tt.enabled
					slow := steadyhttp.Limit(limiterFunc(func(context.Context) error { time.Sleep(time.Second); return nil }))
					base, req := newScript(answers(503, ""), answers(200, "fine")), newRequest(t, "GET", "")
					transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{slow}}
					if where == "Transport" {
						transport.Trace = trace
					} else {
						req = req.WithContext(steadyhttp.WithTrace(req.Context(), trace))
					}
					if _, body := do(t, transport, req); body != "fine" || base.sent() != 2 {
						t.Errorf("%q after %d attempts", body, base.sent())
					}
					if h.String() != tt.want {
						t.Errorf("%s\nwant %s", &h, tt.want)
					}
				})
			})
		}
	}
}

// However a call goes, Enabled is asked once, with the context of the request; and who said no is told of no call at all.
func TestEnabledIsAskedOnce(t *testing.T) {
	refusing := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		return nil, steadyhttp.ErrNotSent
	})
	panics := func(*http.Request) (*http.Response, error) { panic(errTrial) }
	body := func(req *http.Request) *http.Request {
		req.Method, req.GetBody, req.Body = "PUT", nil, newCountingBody("content")
		return req
	}
	for name, tt := range map[string]struct {
		transport *steadyhttp.Transport // nil: one with nothing set
		steps     []step
		edit      func(*http.Request) *http.Request
	}{
		"success":                {steps: []step{answers(200, "fine")}},
		"permanent":              {steps: []step{answers(404, "")}},
		"retried":                {steps: []step{answers(503, ""), failsWith(errReset), answers(200, "")}},
		"given up":               {steps: []step{failsWith(errReset)}},
		"panic":                  {steps: []step{panics}},
		"panic of the retry":     {steps: []step{answers(503, ""), panics}},
		"refused":                {transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{refusing}}},
		"retried, with a policy": {transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxElapsed: time.Minute}}, steps: []step{answers(503, ""), answers(200, "")}},
		"retried, with a body":   {transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 100}}, steps: []step{answers(503, ""), answers(200, "")}, edit: body},
		"cancelled before it began": {edit: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		"with another's settings": {steps: []step{answers(503, ""), answers(200, "")}, edit: func(req *http.Request) *http.Request {
			return req.WithContext(steadyhttp.WithPolicy(req.Context(), func(p *steadyhttp.Policy) { p.MaxAttempts = 2 }))
		}},
	} {
		for _, answer := range []bool{false, true} {
			for _, where := range []string{"Transport", "context"} {
				t.Run(fmt.Sprint(name, ", ", answer, ", ", where), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var h hooks
						trace, asked := h.trace(""), &asked{answer: answer}
						trace.Enabled = asked.enabled
						transport, req := withBase(tt.transport, newScript(tt.steps...)), newRequest(t, "GET", "")
						if tt.edit != nil {
							req = tt.edit(req)
						}
						if where == "Transport" {
							transport.Trace = trace
						} else {
							req = req.WithContext(steadyhttp.WithTrace(req.Context(), trace))
						}
						func() {
							defer func() {
								if got := recover(); got != nil && got != error(errTrial) {
									t.Errorf("recovered %v", got)
								}
							}()
							if resp, err := transport.RoundTrip(req); err == nil {
								readAll(t, resp)
							}
						}()
						if len(asked.with) != 1 || asked.with[0] != req.Context() {
							t.Errorf("asked %d times, with the request's context: %v", len(asked.with), len(asked.with) > 0 && asked.with[0] == req.Context())
						}
						if told := len(h.events) > 0; told != answer {
							t.Errorf("told: %s", &h)
						}
					})
				})
			}
		}
	}
}

// Enabled may say something else at each call.
func TestEnabledIsAskedForEachCall(t *testing.T) {
	var h hooks
	trace, asked := h.trace(""), &asked{}
	trace.Enabled = asked.enabled
	transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: trace}
	for n := range 6 {
		asked.answer = n%2 == 1
		do(t, transport, newRequest(t, "GET", ""))
	}
	if done := strings.Count(h.String(), "done 1"); len(asked.with) != 6 || done != 3 {
		t.Errorf("asked %d times, told of %d calls", len(asked.with), done)
	}
}

// Speed: a call that nobody wants to be told of costs what one without a Trace does.
func TestAsleepAllocatesNothing(t *testing.T) {
	for name, newReq := range map[string]func(testing.TB) *http.Request{
		"GET":               func(t testing.TB) *http.Request { return newRequest(t, "GET", "") },
		"POST with GetBody": func(t testing.TB) *http.Request { return newRequest(t, "POST", "content") },
	} {
		t.Run(name, func(t *testing.T) {
			with := func(trace *steadyhttp.Trace) float64 {
				return allocations(t, &steadyhttp.Transport{Base: registered(&canned{every: 1}), Trace: trace}, 1, newReq)
			}
			// Hooks that do nothing: what is counted is what is done for them.
			full := func(answer bool) *steadyhttp.Trace {
				return enabled(&steadyhttp.Trace{
					Start: func(ctx context.Context, _ *http.Request) context.Context { return ctx },
					Done:  func(context.Context, steadyhttp.Attempt) {},
				}, answer)
			}
			none, asleep, awake := with(nil), with(full(false)), with(full(true))
			joined := with(steadyhttp.Join(full(false), full(false)))
			if asleep != none || joined != none {
				t.Errorf("%v allocations, %v for two joined, %v without a Trace", asleep, joined, none)
			}
			if awake <= none {
				t.Errorf("%v allocations with a Trace that is awake, %v without one: the test tests nothing", awake, none)
			}
		})
	}
}

// Join: what one wants to be told of, all are.
func TestJoinOfEnabled(t *testing.T) {
	const no, yes, always = "no", "yes", "always"
	for _, tt := range []struct {
		of   []string
		told bool
	}{
		{[]string{no}, false},
		{[]string{no, no}, false},
		{[]string{no, no, no}, false},
		{[]string{yes, no}, true},
		{[]string{no, yes}, true},
		{[]string{yes, yes}, true},
		{[]string{always, no}, true},
		{[]string{no, always}, true},
		{[]string{no, no, yes}, true},
		{[]string{yes, no, no}, true},
		{[]string{no, always, no}, true},
	} {
		t.Run(strings.Join(tt.of, ", "), func(t *testing.T) {
			var h hooks
			var traces []*steadyhttp.Trace
			for n, is := range tt.of {
				trace := h.trace(fmt.Sprint(n, " "))
				if is != always {
					enabled(trace, is == yes)
				}
				traces = append(traces, trace, nil)
			}
			joined := steadyhttp.Join(traces...)
			if (joined.Enabled == nil) != strings.Contains(strings.Join(tt.of, ""), always) {
				t.Errorf("nil, which is always: %v", joined.Enabled == nil)
			}
			do(t, &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: joined}, newRequest(t, "GET", ""))
			for n := range tt.of {
				for _, event := range []string{"start", "attempt 1", "answered 1", "done 1"} {
					if got := strings.Count(h.String(), fmt.Sprint(n, " ", event)); got != map[bool]int{true: 1}[tt.told] {
						t.Errorf("%d was told of %q %d times", n, event, got)
					}
				}
			}
		})
	}
}

// The Transport's and the context's hooks: each is asked on its own.
func TestEnabledOfTransportAndContext(t *testing.T) {
	for _, transports := range []bool{false, true} {
		for _, contexts := range []bool{false, true} {
			t.Run(fmt.Sprint(transports, ", ", contexts), func(t *testing.T) {
				var h hooks
				ctx := steadyhttp.WithTrace(t.Context(), enabled(h.trace("context "), contexts))
				transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: enabled(h.trace("transport "), transports)}
				do(t, transport, newRequest(t, "GET", "").WithContext(ctx))
				for name, told := range map[string]bool{"transport": transports, "context": contexts} {
					if strings.Contains(h.String(), name+" start") != told || strings.Contains(h.String(), name+" done 1") != told {
						t.Errorf("%s, want it told: %v: %s", name, told, &h)
					}
				}
			})
		}
	}
}

// With nobody awake, all else of a Transport is at work as ever.
func TestAsleepChangesNothing(t *testing.T) {
	type probe struct {
		transport *steadyhttp.Transport
		base      *script
		req       *http.Request
	}
	for name, tt := range map[string]struct {
		arm    func(t *testing.T, p *probe)
		steps  []step
		sent   int
		status int // 0: an error
		took   time.Duration
	}{
		"retries": {steps: []step{answers(503, ""), answers(200, "")}, sent: 2, status: 200, took: time.Second},
		"a gate": {arm: func(t *testing.T, p *probe) {
			began, entered, left := time.Now(), 0, 0
			p.transport.Gates = []steadyhttp.Gate{gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				entered++
				return func(a steadyhttp.Attempt) {
					left++
					if a.N != left || a.Sends != 1 || a.Sent.IsZero() || a.Answered.IsZero() || !a.Began.Equal(began) {
						t.Errorf("told on leaving: %+v", a)
					}
				}, nil
			})}
			t.Cleanup(func() {
				if entered != 2 || left != 2 {
					t.Errorf("the gate was entered %d times, left %d times", entered, left)
				}
			})
		}, steps: []step{answers(503, ""), answers(200, "")}, sent: 2, status: 200, took: time.Second},
		"a gate that holds up": {arm: func(t *testing.T, p *probe) {
			p.transport.Gates = []steadyhttp.Gate{steadyhttp.Limit(limiterFunc(func(context.Context) error { time.Sleep(time.Minute); return nil }))}
		}, steps: []step{answers(200, "")}, sent: 1, status: 200, took: time.Minute},
		"a gate that refuses": {arm: func(t *testing.T, p *probe) {
			p.transport.Gates = []steadyhttp.Gate{gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				return nil, steadyhttp.ErrNotSent
			})}
		}, steps: []step{answers(200, "")}},
		"MaxAttempts":    {arm: func(t *testing.T, p *probe) { p.transport.Policy.MaxAttempts = 3 }, steps: []step{answers(503, "")}, sent: 3, status: 503, took: 2 * time.Second},
		"AttemptTimeout": {arm: func(t *testing.T, p *probe) { p.transport.Policy.AttemptTimeout = time.Minute }, steps: []step{hangs, answers(200, "")}, sent: 2, status: 200, took: 61 * time.Second},
		"MaxElapsed":     {arm: func(t *testing.T, p *probe) { p.transport.Policy.MaxElapsed = time.Minute }, steps: []step{hangs}, sent: 1, took: time.Minute},
		"WithPolicy": {arm: func(t *testing.T, p *probe) {
			p.req = p.req.WithContext(steadyhttp.WithPolicy(p.req.Context(), func(p *steadyhttp.Policy) { p.MaxAttempts = 2 }))
		}, steps: []step{answers(503, "")}, sent: 2, status: 503, took: time.Second},
		"Prepare": {arm: func(t *testing.T, p *probe) {
			p.transport.Prepare = func(req *http.Request, prev *steadyhttp.Attempt) error {
				req.Header.Set("Token", fmt.Sprint(prev == nil))
				return nil
			}
			t.Cleanup(func() {
				if first, second := p.base.request(0).Header.Get("Token"), p.base.request(1).Header.Get("Token"); first != "true" || second != "false" {
					t.Errorf("prepared as %q and %q", first, second)
				}
			})
		}, steps: []step{answers(401, ""), answers(200, "")}, sent: 2, status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h hooks
				p := &probe{base: newScript(tt.steps...), req: newRequest(t, "GET", "")}
				p.transport = &steadyhttp.Transport{Base: p.base, Trace: enabled(h.trace(""), false)}
				p.transport.Policy.NewBackOff = constantBackOff(time.Second)
				if tt.arm != nil {
					tt.arm(t, p)
				}
				passed, status := stopwatch(), 0
				if resp, err := p.transport.RoundTrip(p.req); err == nil {
					status = resp.StatusCode
					readAll(t, resp)
				}
				if p.base.sent() != tt.sent || status != tt.status || passed() != tt.took {
					t.Errorf("%d after %d attempts and %v", status, p.base.sent(), passed())
				}
				if h.String() != "" {
					t.Errorf("told: %s", &h)
				}
				p.base.assertNoLeak(t)
			})
		})
	}
}

// Whatever panics, who was told of the start is told of the end, once, before the panic goes on as it was.
func TestDoneOnPanic(t *testing.T) {
	type probe struct {
		transport *steadyhttp.Transport
		trace     *steadyhttp.Trace
		base      *script
		req       *http.Request
		boom      func()
	}
	gate := func(enter func(p *probe, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error)) func(*probe) {
		return func(p *probe) {
			p.transport.Gates = []steadyhttp.Gate{gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				return enter(p, a)
			})}
		}
	}
	const unmade = -1 // the attempt was not sent yet: its number is not what is tested
	for _, tt := range []struct {
		name string
		n    int // of Done's attempt
		arm  func(*probe)
	}{
		{"Base", 1, func(p *probe) {
			p.transport.Base = roundTripper(func(*http.Request) (*http.Response, error) { p.boom(); return nil, nil })
		}},
		{"Base of the retry", 2, func(p *probe) {
			p.base.steps = append(p.base.steps, func(*http.Request) (*http.Response, error) { p.boom(); return nil, nil })
		}},
		{"Prepare", unmade, func(p *probe) {
			p.transport.Prepare = func(*http.Request, *steadyhttp.Attempt) error { p.boom(); return nil }
		}},
		{"Prepare of the retry", unmade, func(p *probe) {
			p.transport.Prepare = func(_ *http.Request, prev *steadyhttp.Attempt) error {
				if prev != nil {
					p.boom()
				}
				return nil
			}
		}},
		{"Classify", 1, func(p *probe) {
			p.transport.Classify = func(steadyhttp.Attempt) steadyhttp.Verdict { p.boom(); return steadyhttp.Verdict{} }
		}},
		{"Classify of a success", 1, func(p *probe) {
			p.base.steps = []step{answers(200, "fine")}
			p.transport.Classify = func(steadyhttp.Attempt) steadyhttp.Verdict { p.boom(); return steadyhttp.Verdict{} }
		}},
		{"Gate.Enter", unmade, gate(func(p *probe, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			p.boom()
			return nil, nil
		})},
		{"Gate.Enter of the retry", unmade, gate(func(p *probe, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			if a.N == 2 {
				p.boom()
			}
			return nil, nil
		})},
		{"leaving a gate", 1, gate(func(p *probe, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			return func(steadyhttp.Attempt) { p.boom() }, nil
		})},
		{"Waited", unmade, func(p *probe) {
			p.trace.Waited = func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) { p.boom() }
			gate(func(*probe, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				time.Sleep(time.Second)
				return nil, nil
			})(p)
		}},
		{"AttemptStart", unmade, func(p *probe) {
			p.trace.AttemptStart = func(context.Context, steadyhttp.Attempt) context.Context { p.boom(); return nil }
		}},
		{"AttemptDone", 1, func(p *probe) {
			p.trace.AttemptDone = func(context.Context, steadyhttp.Attempt) { p.boom() }
		}},
		{"the body, while it is recorded", 1, func(p *probe) {
			p.transport.Policy.MaxBuffer = 100
			p.req.GetBody = nil
			p.req.Body = io.NopCloser(readFunc(func([]byte) (int, error) { p.boom(); return 0, nil }))
		}},
		{"GetBody", unmade, func(p *probe) {
			p.req.GetBody = func() (io.ReadCloser, error) { p.boom(); return nil, nil }
		}},
		{"NewBackOff", 1, func(p *probe) {
			p.transport.Policy.NewBackOff = func() backoff.BackOff { p.boom(); return nil }
		}},
		{"NextBackOff, after a lost connection", 1, func(p *probe) {
			p.base.steps = []step{failsWith(errReset)}
			p.transport.Policy.NewBackOff = func() backoff.BackOff { return panickyBackOff{p.boom} }
		}},
		{"Idempotent", unmade, func(p *probe) {
			p.transport.Policy.Idempotent = func(*http.Request) bool { p.boom(); return false }
		}},
		{"an answer's body, while it is peeked", 1, func(p *probe) {
			p.base.steps = []step{func(req *http.Request) (*http.Response, error) {
				resp, err := answers(503, "")(req)
				resp.Body = io.NopCloser(readFunc(func([]byte) (int, error) { p.boom(); return 0, nil }))
				return resp, err
			}}
		}},
	} {
		for _, where := range []string{"Transport", "context"} {
			t.Run(fmt.Sprint(tt.name, ", ", where), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					began, value := time.Now(), new(int) // only itself equals a pointer
					starts, panicked, recovered := 0, false, false
					var done []steadyhttp.Attempt
					p := &probe{base: newScript(answers(503, "busy")), req: newRequest(t, "PUT", "content"), boom: func() { panicked = true; panic(value) }}
					p.transport = &steadyhttp.Transport{Base: p.base, Policy: atOnce()}
					p.trace = &steadyhttp.Trace{
						Start: func(ctx context.Context, _ *http.Request) context.Context {
							starts++
							return context.WithValue(ctx, newContextKey{}, "of Start")
						},
						Done: func(ctx context.Context, a steadyhttp.Attempt) {
							if ctx.Value(newContextKey{}) != "of Start" || !panicked || recovered {
								t.Errorf("with the context of Start: %v, after the panic: %v, too late: %v", ctx.Value(newContextKey{}) != nil, panicked, recovered)
							}
							done = append(done, a)
						},
					}
					tt.arm(p)
					if where == "Transport" {
						p.transport.Trace = p.trace
					} else {
						p.req = p.req.WithContext(steadyhttp.WithTrace(p.req.Context(), p.trace))
					}
					func() {
						defer func() {
							recovered = true
							if got := recover(); got != any(value) {
								t.Errorf("recovered %v", got)
							}
						}()
						p.transport.RoundTrip(p.req)
					}()
					if starts != 1 || len(done) != 1 {
						t.Fatalf("told of %d starts and %d ends", starts, len(done))
					}
					a := done[0]
					if a.Request == nil || a.Request.URL.Host != p.req.URL.Host || a.Err == nil || a.Response != nil || a.Stop != "" || !a.Began.Equal(began) {
						t.Errorf("done: %+v", a)
					}
					if tt.n != unmade && a.N != tt.n {
						t.Errorf("attempt %d, want %d", a.N, tt.n)
					}
					p.base.assertNoLeak(t)
				})
			})
		}
	}
}

// A call of which Start could not be told has not begun: it does not end.
func TestNoDoneAfterAPanicInStart(t *testing.T) {
	for _, where := range []string{"Transport", "context"} {
		t.Run(where, func(t *testing.T) {
			var h hooks
			trace, value, base, req := h.trace(""), new(int), newScript(answers(200, "")), newRequest(t, "GET", "")
			trace.Start = func(context.Context, *http.Request) context.Context { panic(value) }
			transport := &steadyhttp.Transport{Base: base}
			if where == "Transport" {
				transport.Trace = trace
			} else {
				req = req.WithContext(steadyhttp.WithTrace(req.Context(), trace))
			}
			func() {
				defer func() {
					if got := recover(); got != any(value) {
						t.Errorf("recovered %v", got)
					}
				}()
				transport.RoundTrip(req)
			}()
			if h.String() != "" || base.sent() != 0 {
				t.Errorf("%d sent, told: %s", base.sent(), &h)
			}
		})
	}
}

// Done is not called again because it has panicked itself.
func TestPanicInDoneIsNotAnotherEnd(t *testing.T) {
	noBody := func(req *http.Request) (*http.Response, error) {
		resp, err := answers(204, "")(req)
		resp.Body = http.NoBody
		return resp, err
	}
	refusing := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		return nil, steadyhttp.ErrNotSent
	})
	for name, tt := range map[string]struct {
		step step
		gate steadyhttp.Gate
		use  func(*http.Response)
	}{
		"a lost call":                     {step: failsWith(errReset)},
		"a refused call":                  {step: answers(200, ""), gate: refusing},
		"no body":                         {step: noBody},
		"a body, closed":                  {step: answers(200, "fine"), use: func(resp *http.Response) { resp.Body.Close() }},
		"a body, read":                    {step: answers(200, "fine"), use: func(resp *http.Response) { io.ReadAll(resp.Body) }},
		"an error answer's body":          {step: answers(404, "no"), use: func(resp *http.Response) { io.ReadAll(resp.Body) }},
		"a call that has panicked before": {step: func(*http.Request) (*http.Response, error) { panic(errTrial) }},
	} {
		t.Run(name, func(t *testing.T) {
			told, value := 0, new(int)
			transport := &steadyhttp.Transport{Base: newScript(tt.step), Policy: steadyhttp.Policy{MaxAttempts: 1}, Trace: &steadyhttp.Trace{
				Done: func(context.Context, steadyhttp.Attempt) { told++; panic(value) },
			}}
			if tt.gate != nil {
				transport.Gates = []steadyhttp.Gate{tt.gate}
			}
			var resp *http.Response
			func() {
				defer func() {
					if got := recover(); got != any(value) {
						t.Errorf("recovered %v", got)
					}
				}()
				var err error
				resp, err = transport.RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Error(err)
					return
				}
				tt.use(resp)
			}()
			if resp != nil {
				resp.Body.Close()
				io.ReadAll(resp.Body)
			}
			if told != 1 {
				t.Errorf("told %d times", told)
			}
		})
	}
}

// Asked tells a wait that the server named from a back-off.
func TestAsked(t *testing.T) {
	unauthorized := func(steadyhttp.Attempt) steadyhttp.Verdict {
		return steadyhttp.Verdict{Class: steadyhttp.Unauthorized, RetryAfter: 5 * time.Second}
	}
	hasty := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		if a.N > 1 {
			return steadyhttp.Verdict{Class: steadyhttp.Success}
		}
		return steadyhttp.Verdict{Class: steadyhttp.Transient, RetryAfter: 5 * time.Nanosecond}
	}
	prepares := func(*http.Request, *steadyhttp.Attempt) error { return nil }
	const s = time.Second
	for _, tt := range []struct {
		name      string
		transport *steadyhttp.Transport // nil: one with nothing set
		step      step
		backOff   time.Duration
		deadline  time.Duration // of the caller's context; 0: none
		asked     bool
		wait      time.Duration // at least, and at most a second more
		stop      steadyhttp.Stop
	}{
		{name: "a throttling that names a time", step: answers(429, "", "Retry-After: 5"), backOff: s, asked: true, wait: 5 * s},
		{name: "a throttling that does not", step: answers(429, ""), backOff: 3 * s, wait: 3 * s},
		{name: "a fault that names a time", step: answers(503, "", "Retry-After: 5"), backOff: s, asked: true, wait: 5 * s},
		{name: "a fault that does not", step: answers(503, ""), backOff: 3 * s, wait: 3 * s},
		{name: "a lost connection", step: failsWith(errReset), backOff: 3 * s, wait: 3 * s},
		{name: "no back-off", step: answers(503, "", "Retry-After: 5"), asked: true, wait: 5 * s},
		{name: "as long as the back-off", step: answers(503, "", "Retry-After: 5"), backOff: 5 * s, asked: true, wait: 5 * s},
		{name: "longer than that and the jitter", step: answers(503, "", "Retry-After: 5"), backOff: 7 * s, wait: 7 * s},
		// A throttling that named its time is no failure: no back-off is asked.
		{name: "a throttling, the back-off longer", step: answers(429, "", "Retry-After: 5"), backOff: 7 * s, asked: true, wait: 5 * s},
		{name: "a rate limit's reset", step: answers(429, "", "X-RateLimit-Reset: 5"), backOff: s, asked: true, wait: 5 * s},
		{name: "a time too short for any jitter", transport: &steadyhttp.Transport{Classify: hasty}, step: answers(503, ""), asked: true, wait: 5},
		{name: "new credentials", transport: &steadyhttp.Transport{Prepare: prepares}, step: answers(401, "", "Retry-After: 5"), backOff: s},
		{name: "new credentials, and a time", transport: &steadyhttp.Transport{Prepare: prepares, Classify: unauthorized}, step: answers(401, ""), backOff: s},

		{name: "permanent", step: answers(400, "", "Retry-After: 5"), backOff: s, stop: "permanent"},
		{name: "attempts", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxAttempts: 1}}, step: answers(503, "", "Retry-After: 5"), backOff: s, stop: "attempts"},
		{name: "the back-off has ended", step: answers(503, "", "Retry-After: 5"), backOff: backoff.Stop, stop: "attempts"},
		{name: "wait too long", step: answers(503, "", "Retry-After: 3600"), backOff: s, stop: "wait_too_long"},
		{name: "elapsed", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxElapsed: 4 * s}}, step: answers(503, "", "Retry-After: 5"), backOff: s, stop: "elapsed"},
		{name: "deadline", step: answers(503, "", "Retry-After: 5"), backOff: s, deadline: 4 * s, stop: "deadline"},
		{name: "success", step: answers(200, "", "Retry-After: 5"), backOff: s, stop: "done"},
		{name: "a redirect", step: answers(302, "", "Retry-After: 5"), backOff: s, stop: "done"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				transport := withBase(tt.transport, newScript(tt.step, answers(200, "")))
				transport.Policy.NewBackOff = constantBackOff(tt.backOff)
				transport.Policy.Budget = &steadyhttp.Budget{Max: -1}
				var told, done []steadyhttp.Attempt
				transport.Trace = &steadyhttp.Trace{
					AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { told = append(told, a) },
					Done:        func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
				}
				if resp, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx)); err == nil {
					readAll(t, resp)
				}
				a := told[0]
				if a.ServerAsked != tt.asked || a.Wait < tt.wait || a.Wait > tt.wait+s || a.Stop != tt.stop {
					t.Errorf("asked: %v, wait %v, stop %q", a.ServerAsked, a.Wait, a.Stop)
				}
				if !tt.asked && a.Wait != tt.wait {
					t.Errorf("the back-off of %v has become %v", tt.wait, a.Wait)
				}
				if len(done) != 1 || done[0].ServerAsked || done[0].Wait != 0 {
					t.Errorf("done: %+v", done)
				}
			})
		})
	}
}

// What the jitter makes the longer of the two is what was waited for.
func TestAskedWithinTheJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const backOff = 10*time.Second + 500*time.Millisecond // Retry-After is spread over 10 to 11 s
		count := map[bool]int{}
		transport := &steadyhttp.Transport{
			Base:   newScript(answers(503, "", "Retry-After: 10")),
			Policy: steadyhttp.Policy{MaxAttempts: 200, NewBackOff: constantBackOff(backOff), Budget: &steadyhttp.Budget{Max: -1}},
			Trace: &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) {
				if a.Stop != "" {
					return
				}
				count[a.ServerAsked]++
				if a.ServerAsked != (a.Wait > backOff) || a.Wait < backOff {
					t.Errorf("asked: %v, wait %v", a.ServerAsked, a.Wait)
				}
			}},
		}
		do(t, transport, newRequest(t, "GET", ""))
		if count[true] < 20 || count[false] < 20 {
			t.Errorf("%v: the test tests nothing", count)
		}
	})
}

// The attempt before a retry that could not be made is the last one: nothing is waited for any more, though it was asked for.
func TestNotAskedOnceTheCallHasEnded(t *testing.T) {
	notTwice := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if a.N == 2 {
			return nil, steadyhttp.ErrNotSent
		}
		return nil, nil
	})
	for name, tt := range map[string]struct {
		gates  []steadyhttp.Gate
		cancel time.Duration // after which the caller ends the call
		stop   steadyhttp.Stop
	}{
		"refused":   {[]steadyhttp.Gate{notTwice}, time.Hour, "refused"},
		"cancelled": {nil, time.Second, "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				defer time.AfterFunc(tt.cancel, cancel).Stop()
				var told, done []steadyhttp.Attempt
				transport := &steadyhttp.Transport{Base: newScript(answers(429, "", "Retry-After: 5")), Gates: tt.gates, Trace: &steadyhttp.Trace{
					AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { told = append(told, a) },
					Done:        func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
				}}
				resp, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
				if err == nil {
					if a, ok := steadyhttp.AttemptOf(resp); !ok || a.ServerAsked || a.Wait != 0 || a.Stop != tt.stop {
						t.Errorf("AttemptOf: %+v", a)
					}
					readAll(t, resp)
				}
				if len(told) != 1 || !told[0].ServerAsked || told[0].Wait < 5*time.Second {
					t.Errorf("told: %+v", told)
				}
				if len(done) != 1 || done[0].N != 1 || done[0].ServerAsked || done[0].Wait != 0 || done[0].Stop != tt.stop {
					t.Errorf("done: %+v", done)
				}
			})
		})
	}
}

// Prepare is told what was waited for before its attempt.
func TestPrepareIsToldWhatWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []bool
		transport := &steadyhttp.Transport{
			Base:   newScript(answers(429, "", "Retry-After: 5"), answers(503, ""), answers(401, ""), answers(200, "")),
			Policy: atOnce(),
			Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
				if prev != nil {
					asked = append(asked, prev.ServerAsked)
				}
				return nil
			},
		}
		do(t, transport, newRequest(t, "GET", ""))
		if want := []bool{true, false, false}; fmt.Sprint(asked) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", asked, want)
		}
	})
}

// When a call began is known also where it ended before its first attempt.
func TestBeganOfACallThatWasNotSent(t *testing.T) {
	for name, tt := range map[string]struct {
		arm  func(*steadyhttp.Transport, *http.Request, context.CancelFunc)
		stop steadyhttp.Stop
	}{
		"refused": {func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelFunc) {
			tr.Gates = []steadyhttp.Gate{gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				time.Sleep(time.Second)
				return nil, steadyhttp.ErrNotSent
			})}
		}, "refused"},
		"cancelled before": {func(_ *steadyhttp.Transport, _ *http.Request, cancel context.CancelFunc) { cancel() }, "cancelled"},
		"cancelled at a gate": {func(tr *steadyhttp.Transport, _ *http.Request, cancel context.CancelFunc) {
			time.AfterFunc(time.Second, cancel)
			tr.Gates = []steadyhttp.Gate{steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))}
		}, "cancelled"},
		"MaxElapsed": {func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelFunc) {
			tr.Policy.MaxElapsed = time.Second
			tr.Gates = []steadyhttp.Gate{steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))}
		}, "elapsed"},
		"Prepare": {func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelFunc) {
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { time.Sleep(time.Second); return errTrial }
		}, "prepare"},
	} {
		for _, where := range []string{"Transport", "context"} {
			t.Run(fmt.Sprint(name, ", ", where), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var done []steadyhttp.Attempt
					trace := &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) }}
					base := newScript(answers(200, ""))
					transport := &steadyhttp.Transport{Base: base}
					if where == "Transport" {
						transport.Trace = trace
					} else {
						ctx = steadyhttp.WithTrace(ctx, trace)
					}
					req := newRequest(t, "PUT", "content").WithContext(ctx)
					time.Sleep(time.Hour) // the call begins later than the test
					tt.arm(transport, req, cancel)
					began := time.Now()
					_, err := transport.RoundTrip(req)
					if len(done) != 1 {
						t.Fatalf("told of %d ends", len(done))
					}
					if a := done[0]; !a.Began.Equal(began) || a.N != 0 || a.Stop != tt.stop || a.Request == nil || !errors.Is(err, a.Err) {
						t.Errorf("done: %+v, with %v", a, err)
					}
					if base.sent() != 0 {
						t.Error("it was sent: the test tests nothing")
					}
				})
			})
		}
	}
}

// Log: a wait at a gate is worth a word if it is longer than 100 ms.
func TestLogOfGates(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		level slog.Level
		waits []time.Duration // one gate each
		want  []time.Duration
	}{
		{slog.LevelDebug, []time.Duration{0}, nil},
		{slog.LevelDebug, []time.Duration{ms}, nil},
		{slog.LevelDebug, []time.Duration{99 * ms}, nil},
		{slog.LevelDebug, []time.Duration{100 * ms}, nil},
		{slog.LevelDebug, []time.Duration{100*ms + 1}, []time.Duration{100*ms + 1}},
		{slog.LevelDebug, []time.Duration{time.Minute}, []time.Duration{time.Minute}},
		{slog.LevelDebug, []time.Duration{100 * ms, 100 * ms}, nil}, // each on its own
		{slog.LevelDebug, []time.Duration{time.Second, 0, 2 * time.Second}, []time.Duration{time.Second, 2 * time.Second}},
		{slog.LevelInfo, []time.Duration{time.Minute}, nil},
	} {
		t.Run(fmt.Sprint(tt.level, tt.waits), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := &records{level: tt.level}
				transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: steadyhttp.Log(slog.New(handler))}
				for _, wait := range tt.waits {
					transport.Gates = append(transport.Gates, steadyhttp.Limit(limiterFunc(func(context.Context) error { time.Sleep(wait); return nil })))
				}
				do(t, transport, newRequest(t, "GET", ""))
				var got []time.Duration
				for _, record := range handler.all {
					var keys []string
					record.Attrs(func(a slog.Attr) bool {
						keys = append(keys, a.Key)
						if a.Key == "wait" {
							got = append(got, waited(a.Value))
						}
						return true
					})
					if record.Level != slog.LevelDebug || record.Message != "waited" || strings.Join(keys, " ") != "method url attempt cause wait" {
						t.Errorf("%v %q with %q", record.Level, record.Message, keys)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(tt.want) || len(handler.all) != len(tt.want) {
					t.Errorf("%v, want %v", got, tt.want)
				}
			})
		})
	}
}

// The words of it, and that it is the coming attempt that waited.
func TestLogOfARetryThatWaitedForAGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			if a.N == 2 {
				time.Sleep(30 * time.Second)
			}
			return nil, nil
		})
		handler := &records{level: slog.LevelDebug}
		transport := &steadyhttp.Transport{
			Base: newScript(answers(503, ""), answers(200, "")), Policy: atOnce(), Gates: []steadyhttp.Gate{gate}, Trace: steadyhttp.Log(slog.New(handler)),
		}
		do(t, transport, newRequest(t, "GET", ""))
		const want = "DEBUG waited method=GET url=http://api.example/machines/1?key=REDACTED attempt=2 cause=gate wait=30s"
		if len(handler.all) != 2 || text(handler.all[1]) != want {
			t.Errorf("%d records, the last: %s", len(handler.all), text(handler.all[len(handler.all)-1]))
		}
	})
}

// ended makes a call that panics, and returns what Done was told.
func ended(tr *steadyhttp.Transport, req *http.Request) (done []steadyhttp.Attempt) {
	tr.Trace = steadyhttp.Join(tr.Trace, &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) }})
	defer func() { recover() }()
	tr.RoundTrip(req)
	return
}

// What was decided before a panic is not what the call came to.
func TestAPanicHasNoStop(t *testing.T) {
	for _, step := range []step{answers(200, "fine"), answers(404, "no"), answers(429, "", "Retry-After: 5")} {
		tr := &steadyhttp.Transport{Base: newScript(step), Trace: &steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) { panic(errTrial) }}}
		for _, a := range ended(tr, newRequest(t, "GET", "")) {
			if a.Stop != "" || a.Wait != 0 || a.ServerAsked {
				t.Errorf("stop %q, wait %v, asked %v, with %v", a.Stop, a.Wait, a.ServerAsked, a.Err)
			}
		}
	}
}

// A peek that outlasts its second may panic while the answer is being delivered.
func TestDoneAfterALateBodyPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(404, "")(req)
			resp.Body = io.NopCloser(readFunc(func([]byte) (int, error) { time.Sleep(1500 * time.Millisecond); panic(errTrial) }))
			return resp, nil
		})
		tr := &steadyhttp.Transport{Base: base, Trace: &steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) { time.Sleep(time.Second) }}}
		if done := ended(tr, newRequest(t, "GET", "")); len(done) != 1 {
			t.Errorf("done %d times", len(done))
		}
		base.assertNoLeak(t)
	})
}

type panickyCloser struct{ io.Reader }

func (panickyCloser) Close() error { panic(errTrial) }

// What panics on being closed does not keep the rest from being given back.
func TestDoneAfterAPanicInClose(t *testing.T) {
	entered, left := 0, 0
	gate := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		entered++
		return func(steadyhttp.Attempt) { left++ }, nil
	})
	base := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(503, "x")(req)
		resp.Body = panickyCloser{resp.Body}
		return resp, nil
	}
	if done := ended(&steadyhttp.Transport{Base: newScript(base), Policy: atOnce()}, newRequest(t, "GET", "")); len(done) != 1 {
		t.Errorf("an answer's body: done %d times", len(done))
	}
	req := newRequest(t, "PUT", "content")
	req.GetBody = func() (io.ReadCloser, error) { return panickyCloser{}, nil }
	tr := &steadyhttp.Transport{Base: newScript(answers(503, "")), Policy: atOnce(), Gates: []steadyhttp.Gate{gate}}
	tr.Prepare = func(_ *http.Request, prev *steadyhttp.Attempt) error {
		if prev != nil {
			return errTrial
		}
		return nil
	}
	if done := ended(tr, req); len(done) != 1 || entered != left {
		t.Errorf("GetBody's: done %d times, gates entered %d times, left %d times", len(done), entered, left)
	}
}

// Of two joined traces, one that panics does not cost the other its end.
func TestJoinedDoneOnPanic(t *testing.T) {
	for name, inner := range map[string]*steadyhttp.Trace{
		"Start": {Start: func(context.Context, *http.Request) context.Context { panic(errTrial) }},
		"Done":  {Done: func(context.Context, steadyhttp.Attempt) { panic(errTrial) }},
	} {
		var outer hooks
		func() {
			defer func() { recover() }()
			(&steadyhttp.Transport{Base: newScript(answers(404, "")), Trace: steadyhttp.Join(outer.trace(""), inner)}).RoundTrip(newRequest(t, "GET", ""))
		}()
		func() {
			defer func() { recover() }()
			resp, err := (&steadyhttp.Transport{Base: newScript(failsWith(errReset)), Policy: steadyhttp.Policy{MaxAttempts: 1}, Trace: steadyhttp.Join(outer.trace(""), inner)}).RoundTrip(newRequest(t, "GET", ""))
			_, _ = resp, err
		}()
		if len(outer.done) == 0 {
			t.Errorf("inner %s panics: the outer trace was told %s", name, &outer)
		}
	}
}

// The body is closed on every path, also one that has hardly begun.
func TestPanicInEnabledClosesTheBody(t *testing.T) {
	req, body := newRequest(t, "PUT", "content"), newCountingBody("content")
	req.Body = body
	tr := &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: &steadyhttp.Trace{Enabled: func(context.Context) bool { panic(errTrial) }}}
	func() {
		defer func() { recover() }()
		tr.RoundTrip(req)
	}()
	if body.closes.Load() == 0 {
		t.Error("the request's body was not closed")
	}
}

// Log has steadyotel's words: a deadline that passed and a body that failed are failures, what the caller cancelled is not.
func TestLogOfEnds(t *testing.T) {
	cancelled := make(chan struct{})
	broken := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(200, "")(req)
		resp.Body = io.NopCloser(failingReader{errReset})
		return resp, nil
	}
	untilCancelled := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(200, "")(req)
		resp.Body = io.NopCloser(readFunc(func([]byte) (int, error) { <-req.Context().Done(); return 0, req.Context().Err() }))
		return resp, nil
	}
	closesCancel := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(200, "")(req)
		resp.Body = io.NopCloser(readFunc(func([]byte) (int, error) { close(cancelled); return 0, errTrial }))
		return resp, nil
	}
	for _, tt := range []struct {
		name     string
		base     step
		deadline bool
		want     string
	}{
		{"deadline in an attempt", hangs, true, "WARN giving up stop=cancelled"},
		{"cancelled in an attempt", hangs, false, "DEBUG cancelled stop=cancelled"},
		{"broken body", broken, false, "WARN giving up stop=done"},
		{"deadline in the body", untilCancelled, true, "WARN giving up stop=done"},
		{"cancelled in the body", untilCancelled, false, ""},
		{"cancelled in the old way in the body", closesCancel, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if tt.deadline {
					ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				} else {
					time.AfterFunc(time.Second, cancel)
				}
				defer cancel()
				handler := &records{level: slog.LevelDebug}
				req := newRequest(t, "GET", "").WithContext(ctx)
				//lint:ignore SA1019 http.Client sets it
				req.Cancel = cancelled
				resp, err := (&steadyhttp.Transport{Base: newScript(tt.base), Trace: steadyhttp.Log(slog.New(handler))}).RoundTrip(req)
				if err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				var got []string
				for _, record := range handler.all {
					line := record.Level.String() + " " + record.Message
					record.Attrs(func(a slog.Attr) bool {
						if a.Key == "stop" {
							line += " " + a.String()
						}
						return true
					})
					got = append(got, line)
				}
				if strings.Join(got, "; ") != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// A trace whose inner one panics on Start is told when the call began, like any other.
func TestBeganOfAPanicInAJoinedStart(t *testing.T) {
	var began time.Time
	outer := &steadyhttp.Trace{
		Start: func(ctx context.Context, _ *http.Request) context.Context { return ctx },
		Done:  func(_ context.Context, a steadyhttp.Attempt) { began = a.Began },
	}
	ended(&steadyhttp.Transport{Trace: steadyhttp.Join(outer, &steadyhttp.Trace{Start: func(context.Context, *http.Request) context.Context { panic(errTrial) }})}, newRequest(t, "GET", ""))
	if time.Since(began) > time.Minute {
		t.Errorf("began at %v", began)
	}
}

// A call that an inner Transport has ended late is logged once by the outer one.
func TestLogOfNestedTransports(t *testing.T) {
	handler := &records{level: slog.LevelDebug}
	second := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if a.N > 1 {
			return nil, errTrial
		}
		return nil, nil
	})
	inner := &steadyhttp.Transport{Base: newScript(answers(503, "x")), Policy: atOnce(), Gates: []steadyhttp.Gate{second}}
	do(t, &steadyhttp.Transport{Base: inner, Policy: atOnce(), Trace: steadyhttp.Log(slog.New(handler))}, newRequest(t, "GET", ""))
	if len(handler.all) != 1 {
		t.Errorf("%d records: %v", len(handler.all), handler.all)
	}
}

// Whether a call is retried does not depend on who looks on: net/http looked for a connection and took none, and that is
// noted for every request that is not idempotent.
func TestTracingDecidesNothing(t *testing.T) {
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if trace := httptrace.ContextClientTrace(req.Context()); trace != nil {
			trace.GetConn("api.example:443")
		}
		return nil, io.EOF
	})
	attempts := func(transport *steadyhttp.Transport) int {
		made := 0
		transport.Base = roundTripper(func(req *http.Request) (*http.Response, error) { made++; return base(req) })
		transport.Policy = atOnce()
		if resp, err := transport.RoundTrip(newRequest(t, "POST", "")); err == nil {
			t.Fatal(resp.Status)
		}
		return made
	}
	if n := attempts(&steadyhttp.Transport{}); n != 4 {
		t.Errorf("%d attempts without a trace", n)
	}
	if n := attempts(&steadyhttp.Transport{Trace: new(hooks).trace("")}); n != 4 {
		t.Errorf("%d attempts with a trace", n)
	}
	if n := attempts(&steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}}); n != 4 {
		t.Errorf("%d attempts with a gate", n)
	}
}

// What a hook does to the attempt's request does not reach the caller's, not even where the hook may not.
func TestHookHasItsOwnURL(t *testing.T) {
	req := newRequest(t, "GET", "")
	before := req.URL.String()
	do(t, &steadyhttp.Transport{Base: newScript(answers(503, ""), answers(200, "")), Policy: atOnce(), Trace: &steadyhttp.Trace{
		AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
			a.Request.URL.RawQuery += "&x=1"
			return ctx
		},
	}}, req)
	if req.URL.String() != before {
		t.Errorf("the caller's URL is now %s", req.URL)
	}
}

// Around an inner Transport, the times are the outer one's own where somebody looks, and the inner one's else.
func TestTimesOfNestedTransports(t *testing.T) {
	check := func(name string, a steadyhttp.Attempt) {
		if a.Began.IsZero() || a.Sent.IsZero() || a.Answered.IsZero() || a.Sends == 0 {
			t.Errorf("%s: began %v, sent %v, answered %v, %d sends", name, a.Began, a.Sent, a.Answered, a.Sends)
		}
	}
	inner := &steadyhttp.Transport{Base: newScript(answers(404, "x"))}
	do(t, &steadyhttp.Transport{Base: inner, Trace: &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { check("outer", a) }}}, newRequest(t, "GET", ""))

	inner = &steadyhttp.Transport{Base: newScript(answers(404, "x")), Trace: new(hooks).trace("")}
	resp, err := (&steadyhttp.Transport{Base: inner, Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}}).RoundTrip(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a, _ := steadyhttp.AttemptOf(resp)
	check("inner", a)
}

// Gates and hooks see the error that is returned, whole from the beginning.
func TestErrorOfACancelledCallIsToldWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		var left, done error
		first := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			return func(a steadyhttp.Attempt) { left = a.Err }, nil
		})
		second := gateFunc(func(ctx context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			if a.N == 1 {
				return nil, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		_, err := (&steadyhttp.Transport{
			Base: newScript(failsWith(errReset)), Policy: atOnce(), Gates: []steadyhttp.Gate{first, second},
			Trace: &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { done = a.Err }},
		}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		want := errorOf(t, err).Err
		if left != want || done != want || !errors.Is(want, errReset) {
			t.Errorf("the gate was told %v, the hook %v, the caller %v", left, done, want)
		}
	})
}

// A base that answers a call which the caller has cancelled meanwhile: hooks are told what the caller is.
func TestDoneOfAnAnswerTooLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var done steadyhttp.Attempt
	_, err := (&steadyhttp.Transport{
		Base:  newScript(func(req *http.Request) (*http.Response, error) { cancel(); return answers(503, "x")(req) }),
		Trace: &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { done = a }},
	}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
	if done.Response != nil || done.Err != errorOf(t, err).Err {
		t.Errorf("Done was told %v and %v, the caller %v", done.Response, done.Err, err)
	}
}

// Whoever is told of a panic is told of no answer: an Attempt has either.
func TestGateAfterAPanicSeesNoAnswer(t *testing.T) {
	var told steadyhttp.Attempt
	gate := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		return func(a steadyhttp.Attempt) { told = a }, nil
	})
	ended(&steadyhttp.Transport{Base: newScript(answers(503, "x")), Gates: []steadyhttp.Gate{gate}, Classify: func(steadyhttp.Attempt) steadyhttp.Verdict { panic(errTrial) }}, newRequest(t, "GET", ""))
	if told.Err == nil || told.Response != nil || told.Sent.IsZero() {
		t.Errorf("the gate was told %+v", told)
	}
}
