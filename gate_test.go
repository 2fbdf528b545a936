package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
)

// gateFunc makes a Gate of a function.
type gateFunc func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error)

func (f gateFunc) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	leave, err := f(ctx, a)
	if leave == nil {
		return nil, err
	}
	return steadyhttp.PassFunc(leave), err
}

// limiterFunc makes a limiter of a function.
type limiterFunc func(context.Context) error

func (f limiterFunc) Wait(ctx context.Context) error { return f(ctx) }

// gateLog is what gates were told, in order.
type gateLog struct {
	events []string
	left   map[string][]steadyhttp.Attempt
}

// gate returns a gate that keeps the log, and then does what enter and leave say; nil ones let pass.
func (l *gateLog) gate(name string, enter func() error, leave func()) steadyhttp.Gate {
	return gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		l.events = append(l.events, "enter "+name)
		if enter != nil {
			if err := enter(); err != nil {
				return nil, err
			}
		}
		return func(a steadyhttp.Attempt) {
			l.events = append(l.events, "leave "+name)
			if l.left == nil {
				l.left = map[string][]steadyhttp.Attempt{}
			}
			l.left[name] = append(l.left[name], a)
			if leave != nil {
				leave()
			}
		}, nil
	})
}

// Gates are entered in order, and each that was entered is left exactly once, in reverse, on
// every path; whether the attempt was sent is told rightly.
func TestGatesAreLeftOnEveryPath(t *testing.T) {
	boom := func() { panic("boom") }
	both := "enter a, enter b, leave b, leave a"
	tests := []struct {
		name   string
		change func(*steadyhttp.Transport)
		enterB func() error
		leaveB func()
		base   step
		want   string
		sent   bool // of the last attempt that a was told of
	}{
		{"success", nil, nil, nil, answers(200, ""), both, true},
		{"permanent answer", nil, nil, nil, answers(404, ""), both, true},
		{"retries", nil, nil, nil, answers(503, ""), both + ", " + both + ", " + both + ", " + both, true},
		{"lost connection", func(tr *steadyhttp.Transport) { tr.Policy.MaxAttempts = 1 }, nil, nil, failsWith(errReset), both, true},
		{"never sent", func(tr *steadyhttp.Transport) { tr.Policy.MaxAttempts = 1 }, nil, nil, failsWith(errDial), both, false},
		{"refused by b", nil, func() error { return steadyhttp.ErrNotSent }, nil, answers(200, ""), "enter a, enter b, leave a", false},
		{"b panics", nil, func() error { boom(); return nil }, nil, answers(200, ""), "enter a, enter b, leave a", false},
		{"leaving b panics", nil, nil, boom, answers(200, ""), both, true},
		{"Prepare fails", func(tr *steadyhttp.Transport) {
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return backoff.Permanent(errors.New("no token")) }
		}, nil, nil, answers(200, ""), both, false},
		{"Prepare panics", func(tr *steadyhttp.Transport) {
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { boom(); return nil }
		}, nil, nil, answers(200, ""), both, false},
		{"AttemptStart panics", func(tr *steadyhttp.Transport) {
			tr.Trace = &steadyhttp.Trace{AttemptStart: func(ctx context.Context, _ steadyhttp.Attempt) context.Context { boom(); return ctx }}
		}, nil, nil, answers(200, ""), both, false},
		{"the base panics", nil, nil, nil, func(*http.Request) (*http.Response, error) { boom(); return nil, nil }, both, true},
		{"Classify panics", func(tr *steadyhttp.Transport) {
			tr.Classify = func(steadyhttp.Attempt) steadyhttp.Verdict { boom(); return steadyhttp.Verdict{} }
		}, nil, nil, answers(200, ""), both, true},
		{"AttemptDone panics", func(tr *steadyhttp.Transport) {
			tr.Trace = &steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) { boom() }}
		}, nil, nil, answers(200, ""), both, true},
		{"Idempotent panics", func(tr *steadyhttp.Transport) {
			tr.Policy.Idempotent = func(*http.Request) bool { boom(); return true }
		}, nil, nil, answers(503, ""), both, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log gateLog
				base, body := newScript(tt.base), newCountingBody("body")
				transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{log.gate("a", nil, nil), log.gate("b", tt.enterB, tt.leaveB)}}
				if tt.change != nil {
					tt.change(transport)
				}
				req := newRequest(t, "GET", "")
				if tt.name != "retries" {
					req.Body, req.ContentLength = body, 4
				}
				func() {
					defer func() { recover() }()
					if resp, err := transport.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
				}()
				if got := strings.Join(log.events, ", "); got != tt.want {
					t.Errorf("%s; want %s", got, tt.want)
				}
				told := log.left["a"][len(log.left["a"])-1]
				if told.Sent.IsZero() == tt.sent || (told.Sends > 0) != tt.sent {
					t.Errorf("Sent is %v, Sends %d", told.Sent, told.Sends)
				}
				if req.Body != nil && body.closes.Load() == 0 {
					t.Error("the request's body is left open")
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// A panic of a hook or the base goes on to the caller: it is not ours to swallow.
func TestPanicsGoOn(t *testing.T) {
	var log gateLog
	transport := &steadyhttp.Transport{
		Base:  roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") }),
		Gates: []steadyhttp.Gate{log.gate("a", nil, nil)},
	}
	defer func() {
		if r := recover(); r != "boom" {
			t.Errorf("recovered %v", r)
		}
		if told := log.left["a"]; len(told) != 1 || told[0].Err == nil {
			t.Errorf("the gate was told %+v", told)
		}
	}()
	transport.RoundTrip(newRequest(t, "GET", ""))
}

// A gate that returns no leave function has nothing to be told.
func TestGateWithoutLeave(t *testing.T) {
	gate := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, nil })
	do(t, &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{gate}}, newRequest(t, "GET", ""))
}

// What a gate is told of the attempt: asked before with its number and the call's beginning, told after with the answer.
func TestWhatGatesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked, told []steadyhttp.Attempt
		gate := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			asked = append(asked, a)
			return func(a steadyhttp.Attempt) { told = append(told, a) }, nil
		})
		slow := func(s step) step {
			return func(req *http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				return s(req)
			}
		}
		base := newScript(slow(answers(429, envelope("429", "m", "t"), "Retry-After: 5")), slow(answers(200, "")))
		req := newRequest(t, "GET", "")
		do(t, &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}, req)
		if len(asked) != 2 || len(told) != 2 {
			t.Fatalf("asked %d times, told %d times", len(asked), len(told))
		}
		for i, a := range asked {
			if a.N != i+1 || !a.Began.Equal(began) || a.Request != req || !a.Sent.IsZero() || a.Response != nil {
				t.Errorf("asked about %+v", a)
			}
		}
		first, second := told[0], told[1]
		if first.Verdict.Class != steadyhttp.Throttled || first.Verdict.Code != "429" || first.Verdict.RetryAfter != 5*time.Second || first.Stop != "" || first.Wait < 5*time.Second {
			t.Errorf("first: %+v", first)
		}
		if !first.Sent.Equal(began) || !first.Answered.Equal(began.Add(time.Second)) || first.Sends != 1 {
			t.Errorf("first: sent %v, answered %v, %d sends", first.Sent, first.Answered, first.Sends)
		}
		if second.Stop != "done" || second.Wait != 0 || !second.Sent.Equal(second.Answered.Add(-time.Second)) || !second.Began.Equal(began) {
			t.Errorf("second: %+v", second)
		}
	})
}

// Retries are charged like first attempts.
func TestEveryAttemptIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, passed := newScript(answers(503, ""), answers(503, ""), answers(200, "")), stopwatch()
		transport := &steadyhttp.Transport{
			Base:   base,
			Policy: steadyhttp.Policy{NewBackOff: constantBackOff(time.Millisecond)},
			Gates:  []steadyhttp.Gate{steadyhttp.Limit(rate.NewLimiter(rate.Every(10*time.Second), 1))},
		}
		do(t, transport, newRequest(t, "GET", ""))
		if took := passed().Round(time.Second); base.sent() != 3 || took != 20*time.Second {
			t.Errorf("%d attempts in %v", base.sent(), took)
		}
	})
}

// Parallel callers never exceed the rate.
func TestLimitHoldsForParallelCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []time.Time
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			sent = append(sent, time.Now())
			mu.Unlock()
			return answers(200, "")(req)
		})
		const every, burst = 100 * time.Millisecond, 5
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(rate.NewLimiter(rate.Every(every), burst))}}
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() { do(t, transport, newRequest(t, "GET", "")) })
		}
		wg.Wait()
		if len(sent) != 200 {
			t.Fatalf("%d sends", len(sent))
		}
		for i := burst; i < len(sent); i++ {
			// Of any six sends in a row, the last is a full interval after the first; rate counts in floats.
			if gap := sent[i].Sub(sent[i-burst]); gap < every-time.Microsecond {
				t.Fatalf("%d sends within %v", burst+1, gap)
			}
		}
	})
}

// A limiter's no is a refusal, and still the limiter's own error.
func TestLimiterErrorIsARefusal(t *testing.T) {
	mine := errors.New("over quota")
	for name, err := range map[string]error{"foreign": mine, "wrapped already": fmt.Errorf("%w: %w", steadyhttp.ErrNotSent, mine)} {
		t.Run(name, func(t *testing.T) {
			base := newScript(answers(200, ""))
			gate := steadyhttp.Limit(limiterFunc(func(context.Context) error { return err }))
			_, got := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(newRequest(t, "GET", ""))
			e := errorOf(t, got)
			if !errors.Is(got, steadyhttp.ErrNotSent) || !errors.Is(got, mine) || e.Stop != "refused" || e.Attempts != 0 || base.sent() != 0 {
				t.Errorf("got %+v", e)
			}
			if n := strings.Count(got.Error(), "refused"); n != 1 {
				t.Errorf("says so %d times: %v", n, got)
			}
		})
	}
}

// A deadline that the limiter cannot meet is told at once, with the wait it would need, and
// nothing is taken for it.
func TestLimiterWaitThatDoesNotFit(t *testing.T) {
	for _, bound := range []string{"deadline", "MaxElapsed"} {
		t.Run(bound, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limiter := rate.NewLimiter(rate.Every(time.Minute), 1)
				gates := []steadyhttp.Gate{steadyhttp.Limit(limiter)}
				base := newScript(answers(200, ""))
				do(t, &steadyhttp.Transport{Base: base, Gates: gates}, newRequest(t, "GET", ""))
				passed := stopwatch()
				for range 50 {
					ctx, transport := t.Context(), &steadyhttp.Transport{Base: base, Gates: gates}
					if bound == "deadline" {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
						defer cancel()
					} else {
						transport.Policy.MaxElapsed = 10 * time.Second
					}
					_, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
					if e := errorOf(t, err); !errors.Is(err, steadyhttp.ErrNotSent) || e.Stop != "refused" || e.Wait != time.Minute || passed() != 0 {
						t.Fatalf("%+v after %v", e, passed())
					}
				}
				do(t, &steadyhttp.Transport{Base: base, Gates: gates}, newRequest(t, "GET", ""))
				if passed().Round(time.Second) != time.Minute {
					t.Errorf("after 50 refusals the next call went after %v, want 1m", passed())
				}
			})
		})
	}
}

// A burst of 0 lets nothing pass, ever: no wait is told.
func TestLimiterWithoutBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{steadyhttp.Limit(rate.NewLimiter(1, 0))}}
		_, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		if e := errorOf(t, err); e.Stop != "refused" || e.Wait != 0 {
			t.Errorf("got %+v", e)
		}
	})
}

// A call that is cancelled while it waits at a gate ends with the cause. It was not sent.
func TestCancelledAtAGate(t *testing.T) {
	mine := errors.New("shift is over")
	blocking := limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	for name, limiter := range map[string]interface{ Wait(context.Context) error }{"rate.Limiter": drained(), "another": blocking} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(mine) })
				base, passed := newScript(answers(200, "")), stopwatch()
				_, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(limiter)}}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
				e := errorOf(t, err)
				if !errors.Is(err, mine) || !errors.Is(err, context.Canceled) || !errors.Is(err, steadyhttp.ErrNotSent) || e.Stop != "cancelled" {
					t.Errorf("got %+v", e)
				}
				if passed() != time.Second || base.sent() != 0 {
					t.Errorf("after %v and %d attempts", passed(), base.sent())
				}
			})
		})
	}
}

// drained returns a limiter that has nothing left for an hour.
func drained() *rate.Limiter {
	l := rate.NewLimiter(rate.Every(100*365*24*time.Hour), 1)
	l.Allow()
	return l
}

// Request.Cancel ends that wait, too: gates know contexts only.
func TestRequestCancelAtAGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancel := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(cancel) })
		req := newRequest(t, "GET", "")
		//lint:ignore SA1019 deprecated, and still obeyed
		req.Cancel = cancel
		passed := stopwatch()
		gate := steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		_, err := (&steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{gate}}).RoundTrip(req)
		if e := errorOf(t, err); e.Stop != "cancelled" || passed() != time.Second {
			t.Errorf("%+v after %v", e, passed())
		}
	})
}

// MaxElapsed ends a wait at a gate that does not look at deadlines; the gate was not what said no.
func TestMaxElapsedAtAGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passed := stopwatch()
		gate := steadyhttp.Limit(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{gate}, Policy: steadyhttp.Policy{MaxElapsed: 5 * time.Second}}
		_, err := transport.RoundTrip(newRequest(t, "GET", ""))
		if e := errorOf(t, err); e.Stop != "elapsed" || !e.Timeout() || e.Attempts != 0 || passed() != 5*time.Second {
			t.Errorf("%+v after %v", e, passed())
		}
	})
}

// MaxWait is about back-offs and pushbacks; a quota may take longer.
func TestMaxWaitDoesNotBoundGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passed := stopwatch()
		gate := steadyhttp.Limit(limiterFunc(func(context.Context) error { time.Sleep(time.Hour); return nil }))
		transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{gate}, Policy: steadyhttp.Policy{MaxWait: time.Second}}
		do(t, transport, newRequest(t, "GET", ""))
		if passed() != time.Hour {
			t.Errorf("took %v", passed())
		}
	})
}

// A retry that a gate refuses is not made; what there is of an answer is still the caller's.
func TestRefusedRetryReturnsTheLastAnswer(t *testing.T) {
	second := func() steadyhttp.Gate {
		return gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			if a.N > 1 {
				return nil, errors.New("over quota")
			}
			return nil, nil
		})
	}
	t.Run("in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answers(503, envelope("Busy", "m", "t")))
			resp, body := do(t, &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{second()}}, newRequest(t, "GET", ""))
			if resp.StatusCode != 503 || body != envelope("Busy", "m", "t") || stopOf(t, resp) != "refused" {
				t.Errorf("%d %q, stop %q", resp.StatusCode, body, stopOf(t, resp))
			}
			if a, _ := steadyhttp.AttemptOf(resp); a.N != 1 || a.Wait != 0 || a.Verdict.Code != "Busy" {
				t.Errorf("AttemptOf: %+v", a)
			}
			base.assertNoLeak(t)
		})
	})
	t.Run("no body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(func(req *http.Request) (*http.Response, error) {
				resp, err := answers(503, "")(req)
				resp.Body = http.NoBody
				return resp, err
			})
			resp, _ := do(t, &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{second()}}, newRequest(t, "HEAD", ""))
			if resp.StatusCode != 503 || stopOf(t, resp) != "refused" {
				t.Errorf("%d, stop %q", resp.StatusCode, stopOf(t, resp))
			}
		})
	})
	t.Run("too long to keep", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answers(503, strings.Repeat("x", 100<<10)))
			_, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{second()}}).RoundTrip(newRequest(t, "GET", ""))
			if e := errorOf(t, err); e.Stop != "refused" || e.Attempts != 1 || e.Class != steadyhttp.Transient || errors.Is(err, steadyhttp.ErrNotSent) {
				t.Errorf("got %+v", e)
			}
			base.assertNoLeak(t)
		})
	})
	// Error.Err: "what ended it; it wraps the last attempt's error too".
	t.Run("after an error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, err := (&steadyhttp.Transport{Base: newScript(failsWith(errReset)), Gates: []steadyhttp.Gate{second()}}).RoundTrip(newRequest(t, "GET", ""))
			if e := errorOf(t, err); e.Stop != "refused" || errors.Is(err, steadyhttp.ErrNotSent) || !errors.Is(err, errReset) {
				t.Errorf("got %+v", e)
			}
		})
	})
}

// sends records when attempts begin, and how many are under way at most.
type sends struct {
	mu      sync.Mutex
	began   time.Time
	at      []time.Duration
	answers func(n int) step
}

func (s *sends) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.at = append(s.at, time.Since(s.began))
	n := len(s.at)
	s.mu.Unlock()
	time.Sleep(time.Second)
	return s.answers(n)(req)
}

// One 429 pauses all callers until the server's time. Then one probe goes, and the rest
// follow at a growing pace.
func TestThrottlingPausesAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &sends{began: time.Now(), answers: func(n int) step {
			if n == 1 {
				return answers(429, "", "Retry-After: 10")
			}
			return answers(200, "")
		}}
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		do(t, transport, newRequest(t, "GET", "")) // throttled at 1 s, until 11 s
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if resp, _ := do(t, transport, newRequest(t, "GET", "")); resp.StatusCode != 200 {
					t.Errorf("got %d", resp.StatusCode)
				}
			})
		}
		wg.Wait()
		perSecond := map[time.Duration]int{}
		for _, at := range base.at[1:] {
			if at < 11*time.Second {
				t.Fatalf("sent at %v, in the pause", at)
			}
			if at%time.Second != 0 {
				t.Fatalf("sent at %v, between two answers", at)
			}
			perSecond[at]++
		}
		if perSecond[11*time.Second] != 1 {
			t.Errorf("%d probes", perSecond[11*time.Second])
		}
		if perSecond[12*time.Second] != 2 {
			t.Errorf("%d sends after the probe, want 2", perSecond[12*time.Second])
		}
		last, total := 0, 0
		for at := 11 * time.Second; total < 100; at += time.Second {
			n := perSecond[at]
			if n < last && total+n < 100 {
				t.Errorf("at %v the pace falls from %d to %d", at, last, n)
			}
			if n > last+2 {
				t.Errorf("at %v the pace jumps from %d to %d", at, last, n)
			}
			if n == 0 {
				t.Fatalf("nothing is sent at %v", at)
			}
			last, total = n, total+n
		}
		if last < 5 {
			t.Errorf("the pace has grown to %d only", last)
		}
	})
}

// A probe that fails without a time backs off on its own: 1 s, 2 s, 4 s and so on, up to a minute. One success, and it
// begins anew.
func TestFailedProbesBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(append(slices.Repeat([]step{answers(429, "")}, 9), answers(200, ""), answers(429, ""), answers(200, ""))...)
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		var pauses []time.Duration
		last := time.Now()
		for range 12 {
			do(t, transport, newRequest(t, "GET", ""))
			pauses = append(pauses, time.Since(last))
			last = time.Now()
		}
		want := []time.Duration{0, 1e9, 2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9, 60e9, 0, 1e9}
		if !slices.Equal(pauses, want) {
			t.Errorf("sent after %v, want %v", pauses, want)
		}
	})
}

// Attempts that were under way when the pause began are old news: their answers neither begin another pause nor open
// the gate.
func TestAttemptsOfBeforeThePause(t *testing.T) {
	for name, tt := range map[string]struct {
		later step
		want  time.Duration // when the next call goes out; all are answered by 2 s
	}{
		"throttled as well":      {answers(429, ""), 11 * time.Second},
		"throttled for longer":   {answers(429, "", "Retry-After: 20"), 22 * time.Second},
		"throttled for less":     {answers(429, "", "Retry-After: 2"), 11 * time.Second},
		"succeeded":              {answers(200, ""), 11 * time.Second},
		"failed":                 {answers(503, ""), 11 * time.Second},
		"lost their connections": {failsWith(errReset), 11 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var mu sync.Mutex
				n := 0
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					mu.Lock()
					n++
					mine := n
					mu.Unlock()
					switch {
					case mine == 1:
						time.Sleep(time.Second)
						return answers(429, "", "Retry-After: 10")(req)
					case mine <= 10:
						time.Sleep(2 * time.Second)
						return tt.later(req)
					}
					return answers(200, fmt.Sprint(time.Since(began)))(req)
				})
				transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						if resp, err := transport.RoundTrip(newRequest(t, "GET", "")); err == nil {
							resp.Body.Close()
						}
					})
				}
				wg.Wait()
				if _, body := do(t, transport, newRequest(t, "GET", "")); body != tt.want.String() {
					t.Errorf("the next call went out at %s, want %v", body, tt.want)
				}
			})
		})
	}
}

// A pause that outlasts the caller's time refuses at once, with the wait it would take.
func TestPauseBeyondTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(429, "", "Retry-After: 30"), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		do(t, transport, newRequest(t, "GET", ""))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		passed := stopwatch()
		_, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		e := errorOf(t, err)
		if !errors.Is(err, steadyhttp.ErrNotSent) || e.Stop != "refused" || e.Wait != 30*time.Second || e.Attempts != 0 || passed() != 0 {
			t.Errorf("%+v after %v", e, passed())
		}
		const want = "steadyhttp: 0 attempts, refused (30s): needs 30s, context has 10s"
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
		if base.sent() != 1 {
			t.Errorf("%d sends", base.sent())
		}
	})
}

// The hard bound on what a server can close a gate for.
func TestPauseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(429, "", "Retry-After: 31622400"), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		do(t, transport, newRequest(t, "GET", ""))
		passed := stopwatch()
		do(t, transport, newRequest(t, "GET", ""))
		if passed() != 75*time.Minute {
			t.Errorf("closed for %v, want 75 minutes", passed())
		}
	})
}

// Waiters leave in the order in which they came.
func TestPauseIsFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			order = append(order, req.Header.Get("Place"))
			mu.Unlock()
			if req.Header.Get("Place") == "" {
				return answers(429, "", "Retry-After: 60")(req)
			}
			time.Sleep(time.Second)
			return answers(200, "")(req)
		})
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		do(t, transport, newRequest(t, "GET", ""))
		want := []string{""}
		var wg sync.WaitGroup
		for i := range 20 {
			want = append(want, fmt.Sprint(i))
			wg.Go(func() {
				req := newRequest(t, "GET", "")
				req.Header.Set("Place", fmt.Sprint(i))
				do(t, transport, req)
			})
			synctest.Wait()
		}
		wg.Wait()
		slices.Sort(want)
		got := slices.Clone(order)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("sent %q", order)
		}
		// Those that were let go together may overtake each other on their way to the base.
		for i, place := range order[1:] {
			if at := slices.Index(order[1:], fmt.Sprint(i)); at > i+8 || at < i-8 {
				t.Errorf("place %s was served as number %d", place, at)
			}
		}
	})
}

// With PerKey, the throttling of one key is nothing to the others.
func TestThrottlingOfOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "a.example" && time.Now().Before(time.Date(2000, 1, 1, 0, 0, 5, 0, time.UTC)) {
				return answers(429, "", "Retry-After: 10")(req)
			}
			return answers(200, "")(req)
		})
		gate := perKey(func(req *http.Request) string { return req.URL.Host }, func(string) steadyhttp.Gate { return steadyhttp.Limit(nil) }, 0)
		transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		passed := stopwatch()
		do(t, transport, requestTo(t, "http://a.example"))
		do(t, transport, requestTo(t, "http://b.example"))
		if passed() != 0 {
			t.Errorf("the other key waited %v", passed())
		}
		do(t, transport, requestTo(t, "http://a.example"))
		if passed() != 10*time.Second {
			t.Errorf("the throttled key went on after %v", passed())
		}
	})
}

// A nil gate of a key lets everything pass.
func TestPerKeyNilGate(t *testing.T) {
	asked := 0
	gate := perKey(func(*http.Request) string { return "k" }, func(string) steadyhttp.Gate { asked++; return nil }, 0)
	transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{gate}}
	for range 3 {
		do(t, transport, newRequest(t, "GET", ""))
	}
	if asked != 1 {
		t.Errorf("newGate was asked %d times", asked)
	}
}

// A PerKey without New refuses, and says so.
func TestPerKeyWithoutNew(t *testing.T) {
	for field, gate := range map[string]steadyhttp.Gate{
		"PerKey.New is nil": perKey(func(*http.Request) string { return "k" }, nil, 1),
	} {
		base := newScript(answers(200, ""))
		_, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(newRequest(t, "GET", ""))
		if !errors.Is(err, steadyhttp.ErrNotSent) || !strings.Contains(err.Error(), field) || base.sent() != 0 {
			t.Errorf("%s: %v, %d sends", field, err, base.sent())
		}
	}
}

// A newGate that panics has made nothing: the gate does not stand open, and the next caller tries again.
func TestPerKeyPanickingNewGate(t *testing.T) {
	calls := 0
	gate := perKey(func(*http.Request) string { return "k" }, func(string) steadyhttp.Gate {
		if calls++; calls == 1 {
			panic("boom")
		}
		return gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			return nil, steadyhttp.ErrNotSent
		})
	}, 1)
	base := newScript(answers(200, ""))
	transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		transport.RoundTrip(newRequest(t, "GET", ""))
	}()
	_, err := transport.RoundTrip(newRequest(t, "GET", ""))
	if !errors.Is(err, steadyhttp.ErrNotSent) || calls != 2 || base.sent() != 0 {
		t.Errorf("%v after %d calls and %d sends", err, calls, base.sent())
	}
}

// A nil *rate.Limiter in the interface is a mistake that is met soon; what matters is that the panic leaves the caller's
// body closed and the other gates left.
func TestNilRateLimiterLeavesNothingOpen(t *testing.T) {
	var log gateLog
	transport := &steadyhttp.Transport{
		Base:  newScript(answers(200, "")),
		Gates: []steadyhttp.Gate{log.gate("a", nil, nil), steadyhttp.Limit((*rate.Limiter)(nil))},
	}
	body := newCountingBody("body")
	req := newRequest(t, "POST", "")
	req.Body = body
	func() {
		defer func() { recover() }()
		transport.RoundTrip(req)
	}()
	if want := []string{"enter a", "leave a"}; !slices.Equal(log.events, want) || body.closes.Load() == 0 {
		t.Errorf("%q, body closed %d times", log.events, body.closes.Load())
	}
}

// After a pause, each answer lets a little more go at once, and once 64 may, any number may.
func TestPauseEndsWhenSixtyFourMayGo(t *testing.T) {
	for _, tt := range []struct{ answered, want int }{{0, 1}, {1, 2}, {3, 2}, {4, 3}, {1700, 58}, {2000, 63}, {2100, 200}} {
		t.Run(fmt.Sprint(tt.answered), inBubble(func(t *testing.T) {
			release := make(chan struct{})
			var away atomic.Int64
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				switch req.Method {
				case "PUT":
					return answers(429, "", "Retry-After: 1")(req)
				case "HEAD":
					away.Add(1)
					<-release
				}
				return answers(200, "")(req)
			})
			tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}}
			tr.Policy.MaxAttempts = 1
			do(t, tr, newRequest(t, "PUT", ""))
			time.Sleep(time.Second)
			for range tt.answered {
				do(t, tr, newRequest(t, "GET", ""))
			}
			var group sync.WaitGroup
			for range 200 {
				req := newRequest(t, "HEAD", "")
				group.Go(func() {
					if resp, err := tr.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
				})
			}
			synctest.Wait()
			if got := int(away.Load()); got != tt.want {
				t.Errorf("%d at once after %d answers, want %d", got, tt.answered, tt.want)
			}
			close(release)
			group.Wait()
		}))
	}
}

// A Gate's error that holds no Refusal still says no, and a PassFunc that is nil has nothing to be
// told: both are easily made, by a variable that was never set.
func TestTypedNilsOfGates(t *testing.T) {
	var refusal *steadyhttp.Refusal
	var leave steadyhttp.PassFunc
	for name, tt := range map[string]struct {
		gate    steadyhttp.Gate
		refused bool
	}{
		"Refusal":  {saying{nil, refusal}, true},
		"PassFunc": {saying{leave, nil}, false},
	} {
		base := newScript(answers(200, ""))
		for _, gate := range []steadyhttp.Gate{tt.gate, &steadyhttp.PerKey{New: func(string) steadyhttp.Gate { return tt.gate }}} {
			tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}
			resp, err := tr.RoundTrip(newRequest(t, "POST", "content"))
			if !tt.refused {
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, resp)
				continue
			}
			e := errorOf(t, err)
			if e.Stop != steadyhttp.StopRefused || e.Wait != 0 || !errors.Is(err, steadyhttp.ErrNotSent) ||
				!strings.Contains(err.Error(), "a gate said no") || e.ErrorType() != "refused" || base.sent() != 0 {
				t.Errorf("%s: %v, %+v", name, err, e)
			}
		}
	}
}

// saying is a Gate that always says the same.
type saying struct {
	pass steadyhttp.Pass
	err  error
}

func (s saying) Enter(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return s.pass, s.err
}

// A call that its deadline, its caller or MaxElapsed ends at a gate tells what the gate knows of why it waited, beside the end
// itself and what the attempt before failed of. A gate that says nothing adds nothing.
func TestWhyACallWaitedAtItsGate(t *testing.T) {
	away := errors.New("no answer from the ledger")
	for _, test := range []struct {
		name string
		gate func(ended error) error
		told bool
	}{
		{"a Refusal alone", func(error) error { return &steadyhttp.Refusal{Err: away} }, true},
		{"a Refusal beside the end", func(ended error) error { return errors.Join(ended, &steadyhttp.Refusal{Err: away}) }, true},
		{"the end alone", func(ended error) error { return ended }, false},
		{"a nil Refusal", func(error) error { return (*steadyhttp.Refusal)(nil) }, false},
	} {
		for _, end := range []string{"deadline", "cancelled", "MaxElapsed"} {
			for lost, before := range []step{nil, failsWith(trReset), answers(503, "")} {
				synctest.Test(t, func(t *testing.T) {
					gate := enterFunc(func(ctx context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
						if before != nil && a.N == 1 {
							return nil, nil
						}
						<-ctx.Done()
						return nil, test.gate(ctx.Err())
					})
					ctx, cancel := context.WithCancel(t.Context())
					stop, want, not := steadyhttp.StopCancelled, context.Canceled, context.DeadlineExceeded
					rt := &steadyhttp.Transport{Base: newScript(before), Gates: []steadyhttp.Gate{gate}, Policy: atOnce()}
					switch end {
					case "deadline":
						ctx, cancel = context.WithTimeout(t.Context(), time.Second)
						want, not = context.DeadlineExceeded, context.Canceled
					case "MaxElapsed":
						rt.Policy.MaxElapsed = time.Second
						stop, want, not = steadyhttp.StopElapsed, context.DeadlineExceeded, context.Canceled
					default:
						time.AfterFunc(time.Second, cancel)
					}
					defer cancel()
					resp, err := rt.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
					if resp != nil && end == "MaxElapsed" { // the answer before is the call's
						a, _ := steadyhttp.AttemptOf(resp)
						resp.Body.Close()
						err = &steadyhttp.Error{Stop: a.Stop, Err: a.Err}
					}
					e, ok := errors.AsType[*steadyhttp.Error](err)
					if !ok || e.Stop != stop || !errors.Is(err, want) || errors.Is(err, not) {
						t.Fatalf("%s, %s: %v, want %s", test.name, end, err, stop)
					}
					refusal, _ := errors.AsType[*steadyhttp.Refusal](err)
					if told := refusal != nil && strings.Contains(err.Error(), away.Error()); told != test.told {
						t.Errorf("%s, %s: %v", test.name, end, err)
					}
					if lost == 1 && !strings.Contains(err.Error(), "reset") {
						t.Errorf("%s, %s: %v hides what the attempt failed of", test.name, end, err)
					}
					if n := strings.Count(err.Error(), away.Error()); n > 1 {
						t.Errorf("%s, %s: told %d times: %v", test.name, end, n, err)
					}
				})
			}
		}
	}
}

// Where the gate's Refusal is the end once more, the text still has what the attempt before failed of.
func TestRefusalThatIsTheEndHidesNothing(t *testing.T) {
	for _, end := range []string{"deadline", "cancelled"} {
		for how, refuse := range map[string]func(error) error{
			"a Refusal":           func(ended error) error { return &steadyhttp.Refusal{Err: ended} },
			"one of some words":   func(ended error) error { return &steadyhttp.Refusal{Err: fmt.Errorf("in line: %w", ended)} },
			"beside the end":      func(ended error) error { return errors.Join(ended, &steadyhttp.Refusal{Err: ended}) },
			"of a deadline known": func(error) error { return &steadyhttp.Refusal{Wait: 1, Err: context.DeadlineExceeded} },
		} {
			t.Run(end+", "+how, inBubble(func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if end == "deadline" {
					ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				} else {
					time.AfterFunc(time.Second, cancel)
				}
				defer cancel()
				gate := enterFunc(func(ctx context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
					if a.N == 1 {
						return nil, nil
					}
					<-ctx.Done()
					return nil, refuse(ctx.Err())
				})
				tr := &steadyhttp.Transport{Base: newScript(failsWith(trReset)), Gates: []steadyhttp.Gate{gate}, Policy: atOnce()}
				_, err := tr.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
				e := errorOf(t, err)
				if e.Stop != steadyhttp.StopCancelled || !strings.Contains(err.Error(), "reset") || !errors.Is(err, trReset) {
					t.Errorf("%s, %s: %v", end, how, err)
				}
			}))
		}
	}
}
