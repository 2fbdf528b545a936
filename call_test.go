//lint:file-ignore SA1019 Request.Cancel is deprecated, but http.Client still sets it, and whoever else does must be obeyed.

package steadyhttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// The caller ends the call wherever it waits, at once, whichever way he does it, and his reason is told.
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

// http.Client.Timeout ends every wait, and one that cannot end in time is not begun.
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

// An answer that the caller can read is worth more than a wait that his deadline would cut short.
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

// A call for whose retry there is nothing left ends at once, without a wait before.
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
		synctest.Test(t, func(t *testing.T) {
			_, err := (&steadyhttp.Transport{Base: newScript(failsWith(trReset)), Classify: odd}).RoundTrip(newRequest(t, "GET", ""))
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v hides the transport error", err)
			}
		})
	})
}

// Sends never exceed MaxAttempts.
func TestSendsNeverExceedMaxAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
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
