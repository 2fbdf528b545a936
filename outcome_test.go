package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// A protocol that was registered with net/http sends without telling anybody: that nothing was noted is no proof that nothing
// was sent.
func TestRegisteredProtocolIsNoProof(t *testing.T) {
	sent := 0
	base := &http.Transport{}
	base.RegisterProtocol("http", roundTripper(func(req *http.Request) (*http.Response, error) {
		sent++
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		return nil, io.ErrUnexpectedEOF
	}))
	var left steadyhttp.Attempt
	gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		return func(a steadyhttp.Attempt) { left = a }, nil
	})
	_, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(newRequest(t, http.MethodPost, "order"))
	if e := errorOf(t, err); sent != 1 || e.Stop != "not_idempotent" {
		t.Errorf("sent %d times: %v", sent, err)
	}
	if left.Sent.IsZero() || left.Sends != 1 {
		t.Errorf("the gate was told that it never left: %v, %d sends", left.Sent, left.Sends)
	}
}

// MaxElapsed bounds a Prepare that hangs, and the gates are left.
func TestMaxElapsedBoundsPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, left := 0, 0
		gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			entered++
			return func(steadyhttp.Attempt) { left++ }, nil
		})
		base := newScript(answers(200, ""))
		began := time.Now()
		_, err := (&steadyhttp.Transport{
			Base:   base,
			Gates:  []steadyhttp.Gate{gate},
			Policy: steadyhttp.Policy{MaxElapsed: 5 * time.Second},
			Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
				<-req.Context().Done()
				return req.Context().Err()
			},
		}).RoundTrip(newRequest(t, http.MethodGet, ""))
		if e := errorOf(t, err); e.Stop != "elapsed" || !e.Timeout() || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if entered != 1 || left != 1 || base.sent() != 0 {
			t.Errorf("entered %d, left %d, sent %d", entered, left, base.sent())
		}
	})
}

// MaxElapsed bounds the reading ahead of MaxRead: what has come is returned, and the rest is the caller's to wait for.
func TestMaxElapsedBoundsReadingAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answersWith(200, fakeBody{content: "slow", chunk: 2, pause: 4 * time.Second}))
		began := time.Now()
		resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxElapsed: 5 * time.Second, MaxRead: 100}}).RoundTrip(newRequest(t, http.MethodGet, ""))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if body := readAll(t, resp); body != "slow" {
			t.Errorf("read %q", body)
		}
		base.assertNoLeak(t)
	})
}

// A signer reads the body and puts its own in the place. The caller's is closed all the same.
func TestPrepareReplacesTheBody(t *testing.T) {
	for _, getBody := range []bool{true, false} {
		base := newScript(answers(200, ""))
		req := newRequest(t, http.MethodPost, "content")
		body := newCountingBody("content")
		req.Body = body
		if !getBody {
			req.GetBody = nil
		}
		do(t, &steadyhttp.Transport{Base: base, Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			content, err := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(content))
			return err
		}}, req)
		if body.closes.Load() == 0 || base.bodies[0] != "content" {
			t.Errorf("GetBody %v: closed %d times, sent %q", getBody, body.closes.Load(), base.bodies[0])
		}
	}
}

// incomparableBody is a body of a type that panics when it is compared.
type incomparableBody struct {
	io.Reader
	onClose []func()
}

func (b incomparableBody) Close() error {
	for _, f := range b.onClose {
		f()
	}
	return nil
}

// Whatever the type of a body is, it is closed and not compared.
func TestIncomparableBody(t *testing.T) {
	closed := 0
	req := newRequest(t, http.MethodPost, "content")
	req.Body = incomparableBody{strings.NewReader("content"), []func(){func() { closed++ }}}
	errNo := errors.New("no token")
	_, err := (&steadyhttp.Transport{Base: newScript(answers(200, "")), Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errNo }}).RoundTrip(req)
	if !errors.Is(err, errNo) || closed == 0 {
		t.Errorf("%v, closed %d times", err, closed)
	}
}

// One that nobody replaced is not closed before it was read, though it can't be compared.
func TestIncomparableBodyIsSent(t *testing.T) {
	for _, prepare := range []func(*http.Request, *steadyhttp.Attempt) error{nil, func(*http.Request, *steadyhttp.Attempt) error { return nil }} {
		closed, early := 0, false
		base := newScript(answers(200, ""))
		req := newRequest(t, http.MethodPost, "content")
		req.Body = incomparableBody{strings.NewReader("content"), []func(){func() { closed++ }}}
		watch := &steadyhttp.Trace{Waited: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) {}}
		look := roundTripper(func(req *http.Request) (*http.Response, error) {
			early = closed > 0
			return base.RoundTrip(req)
		})
		do(t, &steadyhttp.Transport{Base: look, Prepare: prepare, Trace: watch}, req)
		if early || closed == 0 || base.bodies[0] != "content" {
			t.Errorf("closed before it was sent: %v, closed %d times, sent %q", early, closed, base.bodies[0])
		}
	}
}

// What an inner Transport was cancelled for is not the caller's doing.
func TestInnerCancellationIsNotTheCallers(t *testing.T) {
	inner := &steadyhttp.Transport{Base: newScript(failsWith(trReset))}
	middle := roundTripper(func(req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancelCause(req.Context())
		cancel(errors.New("the middle's own reason"))
		return inner.RoundTrip(req.WithContext(ctx))
	})
	_, err := (&steadyhttp.Transport{Base: middle}).RoundTrip(newRequest(t, http.MethodGet, ""))
	if err == nil || strings.Contains(err.Error(), "Cancel channel") || !strings.Contains(err.Error(), "the middle's own reason") {
		t.Errorf("got %v", err)
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

// The response's Request is the caller's, however many clones were sent.
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

// Two Transports around each other make no more attempts than one.
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

func (b panickyBackOff) Reset() {}

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
