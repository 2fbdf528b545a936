package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// veiling is a layer between two Transports that wraps bodies, as tracing does, and errors.
func veiling(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return nil, fmt.Errorf("traced: %w", err)
		}
		own := *resp
		own.Body = struct{ io.ReadCloser }{resp.Body}
		return &own, nil
	})
}

// cloning is a layer that hands on copies.
func cloning(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := rt.RoundTrip(req.Clone(req.Context()))
		if err != nil {
			return nil, err
		}
		own := *resp
		own.Header = resp.Header.Clone()
		return &own, nil
	})
}

// One Transport on top of another sends what either of them alone would send at most, whatever is between them;
// what the inner one did not retry, since it was not let, the outer one does.
func TestNestedTransports(t *testing.T) {
	refresh := func(*http.Request, *steadyhttp.Attempt) error { return nil }
	open := steadyhttp.Limit(nil)
	type layer struct {
		name   string
		make   func() *steadyhttp.Transport
		faults int // sends of what may pass: GET
		dated  int // of a 429 with Retry-After
		auth   int // of a 401
		stop   steadyhttp.Stop
	}
	transport := func(p steadyhttp.Policy) *steadyhttp.Transport { return &steadyhttp.Transport{Policy: p} }
	inners := []layer{
		{"once, gated", func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxAttempts: 1}, Gates: []steadyhttp.Gate{open}}
		}, 1, 1, 1, ""},
		{"default", func() *steadyhttp.Transport { return transport(steadyhttp.Policy{}) }, 4, 4, 1, ""},
		{"with Prepare", func() *steadyhttp.Transport { return &steadyhttp.Transport{Prepare: refresh} }, 4, 4, 2, ""},
		{"budget spent", func() *steadyhttp.Transport {
			return transport(steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 1e-9, PerSuccess: -1, PerSecond: -1}})
		}, 1, 4, 1, "budget"},
		{"twice", func() *steadyhttp.Transport { return transport(steadyhttp.Policy{MaxAttempts: 2}) }, 2, 2, 1, ""},
		{"Batch", func() *steadyhttp.Transport {
			p := steadyhttp.Batch()
			p.MaxThrottled = 10
			return transport(p)
		}, 20, 30, 1, ""},
	}
	outers := []layer{
		{"default", func() *steadyhttp.Transport { return transport(steadyhttp.Policy{}) }, 4, 4, 1, ""},
		{"with Prepare", func() *steadyhttp.Transport { return &steadyhttp.Transport{Prepare: refresh} }, 4, 4, 2, ""},
		{"with gates and hooks", func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Gates: []steadyhttp.Gate{open}, Trace: &steadyhttp.Trace{
				Done: func(context.Context, steadyhttp.Attempt) {},
			}}
		}, 4, 4, 1, ""},
		{"once", func() *steadyhttp.Transport { return transport(steadyhttp.Policy{MaxAttempts: 1}) }, 1, 1, 1, ""},
		{"Batch", func() *steadyhttp.Transport {
			p := steadyhttp.Batch()
			p.MaxThrottled = 10
			return transport(p)
		}, 20, 30, 1, ""},
	}
	for _, inner := range inners {
		for _, outer := range outers {
			for between, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
				"nothing": func(rt http.RoundTripper) http.RoundTripper { return rt }, "hiding": veiling, "cloning": cloning,
			} {
				for name, fault := range map[string]step{
					"500": answers(500, envelope("Busy", "m", "id")), "503 in 2 s": answers(503, "body", "Retry-After: 2"),
					"429 in 2 s": answers(429, envelope("Busy", "m", "id"), "Retry-After: 2"), "401": answers(401, envelope("Expired", "m", "id")),
					"lost": failsWith(trReset), "refused": failsWith(trRefused),
				} {
					for _, method := range []string{"GET", "POST"} {
						t.Run(strings.Join([]string{inner.name, outer.name, between, name, method}, ", "), inBubble(func(t *testing.T) {
							in, out := inner.faults, outer.faults
							switch {
							case name == "429 in 2 s":
								in, out = inner.dated, outer.dated
							case name == "401":
								in, out = inner.auth, outer.auth
							case method == "POST" && name != "refused":
								in, out = 1, 1
							}
							want := in
							if in == 1 && inner.stop == "" {
								want = out // the inner one was not let
							}
							if inner.stop != "" && name == "401" {
								want = out // nothing was to be paid
							}
							if method == "POST" && name == "refused" && between == "hiding" && in == 1 && inner.stop == "" {
								want = 1 // a wrapped error proves nothing
							}
							base := newScript(fault)
							transport := outer.make()
							below := inner.make()
							below.Base = base
							transport.Base = wrap(below)
							resp, err := transport.RoundTrip(newRequest(t, method, "content"))
							if base.sent() != want {
								t.Errorf("sent %d times, want %d", base.sent(), want)
							}
							if err == nil {
								readAll(t, resp)
								err = steadyhttp.Check(resp)
							}
							e := errorOf(t, err)
							if e.Attempts != want || e.Stop == "" || e.Stop == "done" || inner.stop != "" && want == inner.faults && want != out && e.Stop != inner.stop {
								t.Errorf("got %+v: %v", e, e)
							}
							for n, body := range base.bodies {
								if body != "content" {
									t.Errorf("attempt %d had the body %q", n+1, body)
								}
							}
							base.assertNoLeak(t)
						}))
					}
				}
			}
		}
	}
}

// What has passed by then is the call's answer, whoever of the two has retried.
func TestNestedTransportsRecover(t *testing.T) {
	for _, attempts := range []int{0, 1, 2} {
		for between, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{"hiding": veiling, "cloning": cloning} {
			inBubble(func(t *testing.T) {
				var dones int
				base := newScript(answers(503, "busy"), answers(200, "fine"))
				transport := &steadyhttp.Transport{Base: wrap(&steadyhttp.Transport{
					Base: base, Policy: steadyhttp.Policy{MaxAttempts: attempts},
					Trace: &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) { dones++ }},
				})}
				calls := 2
				if attempts != 1 {
					calls = 1
				}
				if resp, body := do(t, transport, newRequest(t, "GET", "")); resp.StatusCode != 200 || body != "fine" || dones != calls {
					t.Errorf("%d, %s: %d %q, %d calls below were done", attempts, between, resp.StatusCode, body, dones)
				}
				base.assertNoLeak(t)
			})(t)
		}
	}
}

// An inner Transport's answer is kept as any other, and returned when the retry could not be made, whoever refuses it.
func TestKeptAnswerOfAnInnerTransport(t *testing.T) {
	no := &steadyhttp.Refusal{Wait: time.Hour, Err: errTrial}
	once := steadyhttp.Policy{MaxAttempts: 1}
	onRetry := func(_ *http.Request, prev *steadyhttp.Attempt) error {
		if prev != nil {
			return errTrial
		}
		return nil
	}
	second := func() func(*http.Request, *steadyhttp.Attempt) error {
		n := 0
		return func(*http.Request, *steadyhttp.Attempt) error {
			if n++; n > 1 {
				return errTrial
			}
			return nil
		}
	}
	for _, tt := range []struct {
		name         string
		inner, outer func() *steadyhttp.Transport
		stop         steadyhttp.Stop
		wait         time.Duration
	}{
		{"the outer gate", func() *steadyhttp.Transport { return &steadyhttp.Transport{Policy: once} },
			func() *steadyhttp.Transport {
				return &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(refuser(1, no))}}
			}, "refused", time.Hour},
		{"the outer Prepare", func() *steadyhttp.Transport { return &steadyhttp.Transport{Policy: once} },
			func() *steadyhttp.Transport {
				return &steadyhttp.Transport{Prepare: onRetry, Policy: steadyhttp.Policy{MaxAttempts: 2}}
			},
			"prepare", 0},
		{"the inner gate", func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: once, Gates: []steadyhttp.Gate{refuser(2, no)}}
		}, func() *steadyhttp.Transport { return &steadyhttp.Transport{} }, "refused", time.Hour},
		{"the inner Prepare", func() *steadyhttp.Transport { return &steadyhttp.Transport{Policy: once, Prepare: second()} },
			func() *steadyhttp.Transport { return &steadyhttp.Transport{} }, "prepare", 0},
	} {
		for between, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
			"nothing": func(rt http.RoundTripper) http.RoundTripper { return rt }, "hiding": veiling, "cloning": cloning,
		} {
			for _, content := range []string{"", envelope("Busy", "m", "id-1")} {
				for _, traced := range []bool{false, true} {
					t.Run(fmt.Sprint(tt.name, ", ", between, ", ", len(content), ", traced ", traced), inBubble(func(t *testing.T) {
						base := newScript(answers(503, content))
						below, transport := tt.inner(), tt.outer()
						var inner, outer []steadyhttp.Attempt
						if traced {
							below.Trace = &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { inner = append(inner, a) }}
							transport.Trace = &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { outer = append(outer, a) }}
						}
						below.Base = base
						transport.Base = wrap(below)
						resp, body := do(t, transport, newRequest(t, "GET", ""))
						e := errorOf(t, steadyhttp.Check(resp))
						if body != content || e.StatusCode != 503 || e.Stop != tt.stop || e.Wait != tt.wait || !errors.Is(e, errTrial) || e.Attempts != 1 {
							t.Errorf("%q, %+v: %v", body, e, e)
						}
						if traced && (len(outer) != 1 || outer[0].Stop != tt.stop || !errors.Is(outer[0].Err, errTrial) || len(inner) == 0 || inner[0].N != 1) {
							t.Errorf("Done was told of %+v, below of %+v", outer, inner)
						}
						if base.sent() != 1 {
							t.Errorf("sent %d times", base.sent())
						}
						base.assertNoLeak(t)
					}))
				}
			}
		}
	}
}

// A layer that keeps nothing of an error but its text does not make two Transports multiply.
func TestNestedTransportsBehindAnErrorsText(t *testing.T) {
	texts := func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				return nil, errors.New(err.Error())
			}
			return resp, nil
		})
	}
	for name, fault := range map[string]error{"lost": trReset, "refused": trRefused, "unknown": errTrial} {
		for method, most := range map[string]int{"GET": 4, "POST": 4} {
			inBubble(func(t *testing.T) {
				base := newScript(failsWith(fault))
				transport := &steadyhttp.Transport{Base: texts(&steadyhttp.Transport{Base: base})}
				_, err := transport.RoundTrip(newRequest(t, method, "content"))
				if e := errorOf(t, err); base.sent() > most || e.Attempts != base.sent() || e.Stop == "" {
					t.Errorf("%s %s: sent %d times: %+v", method, name, base.sent(), e)
				}
			})(t)
		}
	}
}

// A call of somebody else's in the attempt's context, for a token, settles nothing of the attempt itself.
func TestNestedCallForATokenSettlesNothing(t *testing.T) {
	for _, target := range []string{"http://login.example/token", "http://api.example/token"} {
		inBubble(func(t *testing.T) {
			tokens := &steadyhttp.Transport{Base: newScript(answers(503, ""))}
			base := newScript(answers(503, ""), answers(503, ""), answers(200, ""))
			transport := &steadyhttp.Transport{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				fetch, err := http.NewRequestWithContext(req.Context(), "POST", target, nil)
				if err != nil {
					return nil, err
				}
				if resp, err := tokens.RoundTrip(fetch); err == nil {
					resp.Body.Close()
				}
				return base.RoundTrip(req)
			})}
			if resp, _ := do(t, transport, newRequest(t, "GET", "")); resp.StatusCode != 200 || base.sent() != 3 {
				t.Errorf("%s: %d, sent %d times", target, resp.StatusCode, base.sent())
			}
		})(t)
	}
}

// What an inner Transport's patience did not allow, the outer one's may.
func TestNestedTransportOfMorePatience(t *testing.T) {
	for _, tt := range []struct {
		after string
		outer steadyhttp.Policy
		want  int
	}{
		{"600", steadyhttp.Batch(), 200}, {"600", steadyhttp.Policy{}, 429}, {"600", steadyhttp.Policy{MaxWait: time.Minute * 9}, 429},
		{"30", steadyhttp.Policy{}, 200},
	} {
		inBubble(func(t *testing.T) {
			base := newScript(answers(429, "", "Retry-After: "+tt.after), answers(200, ""))
			transport := &steadyhttp.Transport{Base: &steadyhttp.Transport{Base: base}, Policy: tt.outer}
			resp, _ := do(t, transport, newRequest(t, "POST", "content"))
			if resp.StatusCode != tt.want || tt.want != 200 && stopOf(t, resp) != "wait_too_long" {
				t.Errorf("Retry-After %s: %d", tt.after, resp.StatusCode)
			}
		})(t)
	}
}

// Any base can make an *Error. A Stop or a Class that is none of ours ends nowhere: Stops are labels of metrics.
func TestForeignErrorHasAKnownStop(t *testing.T) {
	for _, stop := range []steadyhttp.Stop{"later", "done", "Attempts", "x\n", steadyhttp.Stop(strings.Repeat("y", 1<<20))} {
		for _, class := range []steadyhttp.Class{steadyhttp.Unclassified, steadyhttp.Transient, 99} {
			for _, wrapped := range []bool{false, true} {
				inBubble(func(t *testing.T) {
					var err error = &steadyhttp.Error{Stop: stop, Attempts: 3, Err: errTrial, Verdict: steadyhttp.Verdict{Class: class}}
					if wrapped {
						err = fmt.Errorf("base: %w", err)
					}
					var done []steadyhttp.Attempt
					base := newScript(failsWith(err))
					transport := &steadyhttp.Transport{Base: base, Trace: &steadyhttp.Trace{
						AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
						Done:        func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
					}}
					_, err = transport.RoundTrip(newRequest(t, "GET", ""))
					e := errorOf(t, err)
					if e.Stop != "permanent" || e.Class > steadyhttp.Unauthorized || !errors.Is(err, errTrial) || base.sent() != 1 || len(err.Error()) > 8<<10 {
						t.Errorf("%.20q, %v: %.20q, %v, sent %d times: %.200v", stop, class, e.Stop, e.Class, base.sent(), err)
					}
					for _, a := range done {
						if a.Stop != "permanent" || a.Verdict.Class > steadyhttp.Unauthorized {
							t.Errorf("told of Stop %.20q, %v", a.Stop, a.Verdict.Class)
						}
					}
				})(t)
			}
		}
	}
}

// An answer without a body is kept like any other, also if it comes from a Transport below.
func TestKeptAnswerWithoutABody(t *testing.T) {
	for empty, body := range map[string]io.ReadCloser{
		"nil": nil, "NoBody": http.NoBody, "no bytes": io.NopCloser(strings.NewReader("")),
	} {
		for between, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
			"nothing": func(rt http.RoundTripper) http.RoundTripper { return rt }, "hiding": veiling, "cloning": cloning,
		} {
			for below, set := range map[string]func(*steadyhttp.Transport){
				"once": func(tr *steadyhttp.Transport) { tr.Policy.MaxAttempts = 1 },
				"gated": func(tr *steadyhttp.Transport) {
					tr.Policy.MaxAttempts, tr.Gates = 1, []steadyhttp.Gate{steadyhttp.Limit(nil)}
				},
				"traced": func(tr *steadyhttp.Transport) {
					tr.Policy.MaxAttempts, tr.Trace = 1, steadyhttp.Log(quietLogger())
				},
				"with no time": func(tr *steadyhttp.Transport) { tr.Policy.MaxWait = 1 },
			} {
				for _, traced := range []bool{false, true} {
					t.Run(fmt.Sprint(empty, ", ", between, ", ", below, ", traced ", traced), inBubble(func(t *testing.T) {
						base := newScript(func(req *http.Request) (*http.Response, error) {
							resp, _ := answers(503, "", "Retry-After: 5")(req)
							resp.Body = body
							return resp, nil
						})
						inner := &steadyhttp.Transport{Base: base}
						set(inner)
						no := &steadyhttp.Refusal{Wait: time.Hour, Err: errTrial}
						tr := &steadyhttp.Transport{Base: wrap(inner), Gates: []steadyhttp.Gate{afterFirstAttempt(refuser(1, no))}}
						dones := 0
						if traced {
							tr.Trace = &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) { dones++ }}
						}
						resp, content := do(t, tr, newRequest(t, "GET", ""))
						e := errorOf(t, steadyhttp.Check(resp))
						if content != "" || e.StatusCode != 503 || e.Stop != "refused" || e.Wait != time.Hour || !errors.Is(e, errTrial) || e.Attempts != 1 {
							t.Errorf("%q, %+v", content, e)
						}
						if traced && dones != 1 || base.sent() != 1 {
							t.Errorf("Done %d times, sent %d times", dones, base.sent())
						}
						base.assertNoLeak(t)
					}))
				}
			}
		}
	}
}
