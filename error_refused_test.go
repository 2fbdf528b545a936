package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// refuser says no from the n-th attempt on, in its own words.
func refuser(from int, no error) steadyhttp.Gate {
	n := 0
	return enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if n++; n >= from {
			return nil, no
		}
		return nil, nil
	})
}

// Who puts a refused call back in a queue sends it twice if it was sent: ErrNotSent is matched by calls of which
// nothing was, and by no others.
func TestErrNotSentMeansNothingWasSent(t *testing.T) {
	no := fmt.Errorf("%w: full", steadyhttp.ErrNotSent)
	patience := &steadyhttp.Refusal{Wait: time.Hour, Err: quota.ErrDeadline}
	failing := func(from int, err error) func(*http.Request, *steadyhttp.Attempt) error {
		n := 0
		return func(*http.Request, *steadyhttp.Attempt) error {
			if n++; n >= from {
				return err
			}
			return nil
		}
	}
	inner := func(base http.RoundTripper, gate steadyhttp.Gate, edit func(*steadyhttp.Policy)) *steadyhttp.Transport {
		policy := atOnce()
		if edit != nil {
			edit(&policy)
		}
		return &steadyhttp.Transport{Base: base, Policy: policy, Gates: []steadyhttp.Gate{gate}}
	}
	decorated := func(rt http.RoundTripper, decorate func(error) error) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				err = decorate(err)
			}
			return resp, err
		})
	}
	wrap := func(err error) error { return fmt.Errorf("signing proxy: %w", err) }
	join := func(err error) error { return errors.Join(errors.New("v6 failed"), err) }
	large := strings.Repeat("x", 100<<10) // not kept, so that the call ends with an error
	for _, test := range []struct {
		name    string
		steps   []step
		make    func(base http.RoundTripper) *steadyhttp.Transport
		refused bool
		cancel  time.Duration
	}{
		{name: "the first attempt", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(1, no), nil)
		}},
		{name: "the first attempt, in other words", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(1, errors.New("full")), nil)
		}},
		{name: "the first attempt, by a quota", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(1, patience), nil)
		}},
		{name: "a retry after an answer", steps: []step{answers(503, large)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(2, no), nil)
		}},
		{name: "a retry after an error", steps: []step{failsWith(trReset)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(2, no), nil)
		}},
		{name: "a retry, by a quota", steps: []step{answers(503, large)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(2, patience), nil)
		}},
		{name: "the third attempt", steps: []step{failsWith(trReset)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(3, errors.Join(no, patience)), nil)
		}},
		{name: "Prepare failed at first", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: failing(1, errTrial)}
		}},
		{name: "Prepare failed later", steps: []step{failsWith(trReset)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: failing(2, errTrial)}
		}},
		{name: "Prepare was refused later", steps: []step{failsWith(trReset)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			_, err := inner(base, refuser(1, no), nil).RoundTrip(newRequest(t, "GET", ""))
			return &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: failing(2, err)}
		}},
		{name: "an inner Transport's first attempt", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: inner(base, refuser(1, no), nil), Policy: atOnce()}
		}},
		{name: "an inner Transport's first attempt, decorated", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: decorated(inner(base, refuser(1, no), nil), wrap), Policy: atOnce()}
		}},
		{name: "an inner Transport's second attempt", steps: []step{failsWith(trReset)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: inner(base, refuser(2, no), nil), Policy: atOnce()}
		}},
		{name: "an inner Transport's second attempt, decorated", steps: []step{failsWith(trReset)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: decorated(inner(base, refuser(2, no), nil), wrap), Policy: atOnce()}
		}},
		{name: "an inner Transport at the outer's second attempt", steps: []step{answers(503, large)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			one := func(p *steadyhttp.Policy) { p.MaxAttempts = 1 }
			return &steadyhttp.Transport{Base: hiding{inner(base, refuser(2, no), one)}, Policy: atOnce()}
		}},
		{name: "an inner Transport at the outer's second attempt, decorated", steps: []step{answers(503, large)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			one := func(p *steadyhttp.Policy) { p.MaxAttempts = 1 }
			return &steadyhttp.Transport{Base: decorated(hiding{inner(base, refuser(2, no), one)}, wrap), Policy: atOnce()}
		}},
		{name: "an inner Transport at the outer's second attempt, joined", steps: []step{answers(503, large)}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			one := func(p *steadyhttp.Policy) { p.MaxAttempts = 1 }
			return &steadyhttp.Transport{Base: decorated(hiding{inner(base, refuser(2, no), one)}, join), Policy: atOnce()}
		}},
		{name: "cancelled in the queue", refused: true, cancel: time.Second, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}), nil)
		}},
		{name: "cancelled in the queue for a retry", steps: []step{failsWith(trReset)}, cancel: time.Second, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, afterFirstAttempt(enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})), nil)
		}},
		{name: "MaxElapsed in the queue", refused: true, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}), func(p *steadyhttp.Policy) { p.MaxElapsed = time.Second })
		}},
		{name: "cancelled while it was sent", cancel: time.Second, steps: []step{func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(9, no), nil)
		}},
		{name: "the second hop after a POST", steps: []step{answers(303, "", "Location: http://api.example/done")}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return inner(base, refuser(2, no), nil)
		}},
		{name: "Prepare failed on the second hop", steps: []step{answers(303, "", "Location: http://api.example/done")}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: failing(2, backoff.Permanent(errTrial))}
		}},
		{name: "an inner Transport's refusal of the second hop", steps: []step{answers(303, "", "Location: http://api.example/done")}, make: func(base http.RoundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: inner(base, refuser(2, no), nil), Policy: atOnce()}
		}},
	} {
		for _, method := range []string{"GET", "POST"} {
			if method == "POST" && len(test.steps) > 0 && !strings.Contains(test.name, "hop") && !strings.Contains(test.name, "while it was sent") {
				continue // it is not retried
			}
			t.Run(test.name+"/"+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := newScript(append(test.steps, answers(200, ""))...)
					if len(test.steps) > 0 && !strings.Contains(test.name, "hop") {
						base = newScript(test.steps...)
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if test.cancel > 0 {
						time.AfterFunc(test.cancel, cancel)
					}
					resp, err := (&http.Client{Transport: test.make(base)}).Do(newRequest(t, method, "").WithContext(ctx))
					if err == nil {
						t.Fatalf("got %s", resp.Status)
					}
					if errors.Is(err, steadyhttp.ErrNotSent) != test.refused {
						t.Errorf("ErrNotSent %v after %d sendings: %v", !test.refused, base.sent(), err)
					}
					if sent := base.sent(); (sent == 0) != test.refused {
						t.Fatalf("sent %d times: the test tests nothing", sent)
					}
					var ours *steadyhttp.Error
					if !errors.As(err, &ours) {
						return // a first attempt's own error, which nothing need be added to
					}
					var second *steadyhttp.Error
					if !test.refused && errors.As(ours.Err, &second) {
						t.Errorf("a second *Error in the chain: %v", second)
					}
				})
			})
		}
	}
}

// A base that has sent the request elsewhere, and was then refused by a Transport below it, has sent it.
func TestRefusedFallbackWasSent(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) { c.request() })
	primary := newWireBase(t)
	fallback := &steadyhttp.Transport{Base: primary, Gates: []steadyhttp.Gate{refuser(1, steadyhttp.ErrNotSent)}}
	for name, both := range map[string]func(first, second error) error{
		"the second error": func(_, second error) error { return second },
		"wrapped":          func(first, second error) error { return fmt.Errorf("%v, then %w", first, second) },
		"joined":           func(first, second error) error { return errors.Join(first, second) },
	} {
		t.Run(name, func(t *testing.T) {
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				resp, first := primary.RoundTrip(req)
				if first == nil {
					return resp, nil
				}
				again := req.Clone(req.Context())
				again.Body, _ = req.GetBody()
				resp, second := fallback.RoundTrip(again)
				if second == nil {
					return resp, nil
				}
				return nil, both(first, second)
			})
			_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(wireRequest(t, "POST", server.url, "content"))
			if err == nil || errors.Is(err, steadyhttp.ErrNotSent) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A call that ends while it is let in or prepared is not sent, although neither the gate nor Prepare
// says so: nothing of it left, and nothing is ambiguous.
func TestEndedBeforeItsSendingIsNotSent(t *testing.T) {
	type ending struct {
		name string
		stop steadyhttp.Stop
		call func(context.Context, *http.Request, *steadyhttp.Policy) (*http.Request, func())
	}
	endings := []ending{
		{"cancelled", steadyhttp.StopCancelled, func(ctx context.Context, req *http.Request, _ *steadyhttp.Policy) (*http.Request, func()) {
			ctx, cancel := context.WithCancel(ctx)
			return req.WithContext(ctx), cancel
		}},
		{"deadline", steadyhttp.StopCancelled, func(ctx context.Context, req *http.Request, _ *steadyhttp.Policy) (*http.Request, func()) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			t.Cleanup(cancel)
			return req.WithContext(ctx), func() { time.Sleep(2 * time.Minute) }
		}},
		{"Request.Cancel", steadyhttp.StopCancelled, func(_ context.Context, req *http.Request, _ *steadyhttp.Policy) (*http.Request, func()) {
			ended := make(chan struct{})
			//lint:ignore SA1019 http.Client still sets it
			req.Cancel = ended
			return req, sync.OnceFunc(func() { close(ended) })
		}},
		{"MaxElapsed", steadyhttp.StopElapsed, func(_ context.Context, req *http.Request, p *steadyhttp.Policy) (*http.Request, func()) {
			p.MaxElapsed = time.Minute
			return req, func() { time.Sleep(2 * time.Minute) }
		}},
	}
	for _, end := range endings {
		for _, where := range []string{"gate", "second gate", "Prepare", "Authorize"} {
			for _, native := range []bool{true, false} {
				for attempt := 1; attempt <= 2; attempt++ {
					t.Run(fmt.Sprint(end.name, ", ", where, ", native ", native, ", attempt ", attempt), inBubble(func(t *testing.T) {
						script := newScript(answers(429, ""), answers(200, ""))
						var base http.RoundTripper = script
						if native {
							base = registered(script)
						}
						tr := &steadyhttp.Transport{Base: base, Policy: atOnce()}
						req, finish := end.call(t.Context(), newRequest(t, "POST", "content"), &tr.Policy)
						n, left := 0, 0
						now := func() {
							if n++; n == attempt {
								finish()
							}
						}
						gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
							if strings.HasSuffix(where, "gate") {
								now()
							}
							return func(a steadyhttp.Attempt) {
								if left++; left == attempt && (a.Sends != 0 || !a.Sent.IsZero() || a.Response != nil) {
									t.Errorf("the gate is told of a sending: %+v", a)
								}
							}, nil
						})
						hook := func(*http.Request, *steadyhttp.Attempt) error { now(); return nil }
						switch where {
						case "gate":
							tr.Gates = []steadyhttp.Gate{gate}
						case "second gate":
							tr.Gates = []steadyhttp.Gate{steadyhttp.Limit(nil), gate}
						case "Prepare":
							tr.Gates, tr.Prepare = []steadyhttp.Gate{gate}, hook
						case "Authorize":
							tr.Authorize = hook
						}
						resp, err := tr.RoundTrip(req)
						if end.stop == steadyhttp.StopElapsed && attempt == 2 && err == nil { // the answer that there was
							if readAll(t, resp); resp.StatusCode != 429 || stopOf(t, resp) != end.stop || script.sent() != 1 {
								t.Errorf("%d, %v, %d sends", resp.StatusCode, stopOf(t, resp), script.sent())
							}
							return
						}
						e := errorOf(t, err)
						if script.sent() != attempt-1 || e.Stop != end.stop || e.Ambiguous || e.Attempts != attempt-1 ||
							errors.Is(err, steadyhttp.ErrNotSent) != (attempt == 1) || len(tr.Gates) > 0 && left != attempt {
							t.Errorf("%v: %+v, %d sends, left %d times", err, e, script.sent(), left)
						}
						script.assertNoLeak(t)
					}))
				}
			}
		}
	}
}

// The cause that a call's context is ended with may be the error of another call, as in an errgroup: what that one came to says
// nothing of this one.
func TestErrorOfACallBesideThisOne(t *testing.T) {
	no := &steadyhttp.Refusal{Wait: time.Hour, Err: errTrial}
	refused := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{refuser(1, no)}}
	_, unsent := refused.RoundTrip(newRequest(t, "GET", ""))
	_, final := (&steadyhttp.Transport{Base: newScript(failsWith(trReset))}).RoundTrip(newRequest(t, "POST", "x"))
	for what, cause := range map[string]error{
		"not sent": unsent, "not sent, of a client": &url.Error{Op: "Get", URL: "http://api.example/", Err: unsent}, "lost": final,
		"an answer": fmt.Errorf("job 7: %w", &steadyhttp.Error{StatusCode: 404, Verdict: steadyhttp.Verdict{Class: steadyhttp.Permanent, Code: "NotFound"}}),
	} {
		for name, base := range map[string]func(http.RoundTripper) http.RoundTripper{
			"net/http": func(rt http.RoundTripper) http.RoundTripper { return registered(rt) },
			"another":  func(rt http.RoundTripper) http.RoundTripper { return rt },
			"wrapping": veiling,
			"a Transport below": func(rt http.RoundTripper) http.RoundTripper {
				return &steadyhttp.Transport{Base: registered(rt)}
			},
		} {
			for _, method := range []string{"GET", "PUT", "POST"} {
				for _, traced := range []bool{false, true} {
					for _, again := range []bool{false, true} {
						t.Run(fmt.Sprint(what, ", ", name, ", ", method, ", traced ", traced, ", waiting ", again), inBubble(func(t *testing.T) {
							ctx, cancel := context.WithCancelCause(t.Context())
							defer cancel(nil)
							script := newScript(func(req *http.Request) (*http.Response, error) {
								if again {
									resp, _ := answers(429, "", "Retry-After: 3")(req)
									return resp, nil
								}
								<-req.Context().Done()
								return nil, context.Cause(req.Context())
							})
							time.AfterFunc(time.Second, func() { cancel(cause) })
							tr := &steadyhttp.Transport{Base: base(script)}
							if traced {
								tr.Trace = steadyhttp.Log(quietLogger())
							}
							_, err := tr.RoundTrip(newRequest(t, method, "order").WithContext(ctx))
							e := errorOf(t, err)
							wait, status := time.Duration(0), 0
							if again {
								wait, status = 3*time.Second, 429
							}
							if e.Stop != steadyhttp.StopCancelled || e.Attempts != 1 || e.StatusCode != status || e.Code != "" || e.Wait != wait || e.ErrorType() != "cancelled" {
								t.Errorf("%+v", e)
							}
							if errors.Is(err, steadyhttp.ErrNotSent) || !errors.Is(err, context.Canceled) {
								t.Errorf("%v", err)
							}
							if e.Ambiguous != (method != "GET" && !again) {
								t.Errorf("ambiguous: %v", e.Ambiguous)
							}
						}))
					}
				}
			}
		}
	}
}
