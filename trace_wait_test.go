package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// waits notes what Waiting and Waited are told, in order: "gate 1 attempt 2 waiting 10s at 0s".
type waits struct {
	mu    sync.Mutex
	began time.Time
	all   []string
	open  map[string]int // waits that have begun and not ended, by cause, gate and attempt
	wrong []string
}

func newWaits() *waits { return &waits{began: time.Now(), open: make(map[string]int)} }

func (n *waits) trace() *steadyhttp.Trace {
	note := func(word string, by int) func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) {
		return func(_ context.Context, a steadyhttp.Attempt, w steadyhttp.Wait) {
			n.mu.Lock()
			defer n.mu.Unlock()
			key := fmt.Sprintf("%s %d attempt %d", w.Cause, w.Gate, a.N)
			n.all = append(n.all, fmt.Sprintf("%s %s %v at %v", key, word, w.For, time.Since(n.began)))
			if n.open[key] += by; n.open[key] < 0 {
				n.wrong = append(n.wrong, key+": Waited without Waiting")
			}
		}
	}
	return &steadyhttp.Trace{Waiting: note("waiting", 1), Waited: note("waited", -1)}
}

func (n *waits) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.all, "; ")
}

// assertPaired fails the test unless each Waiting has had exactly one Waited, after it.
func (n *waits) assertPaired(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, open := range n.open {
		if open != 0 {
			n.wrong = append(n.wrong, fmt.Sprintf("%s: %d Waiting without Waited", key, open))
		}
	}
	if len(n.wrong) > 0 {
		t.Errorf("%s\nin: %s", strings.Join(n.wrong, ", "), strings.Join(n.all, "; "))
	}
}

// sleeps is a gate that blocks, and has told of it if length is not 0.
func sleeps(length, real time.Duration, err error) steadyhttp.Gate {
	return enterFunc(func(ctx context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if length > 0 {
			a.Waits(func() time.Duration { return length })
			a.Waits(func() time.Duration { return 2 * length }) // a second announcement is none
		}
		select {
		case <-time.After(real):
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// panicsLate is a gate.
type panicsLate struct{}

func (panicsLate) Enter(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
	time.Sleep(time.Minute)
	panic(errTrial)
}

func behind(gates ...steadyhttp.Gate) *steadyhttp.Transport {
	return &steadyhttp.Transport{Gates: gates}
}

// throttled returns the gate after a 429 that has closed it for so many seconds.
func throttled(t *testing.T, gate steadyhttp.Gate, seconds string) steadyhttp.Gate {
	tr := behind(gate)
	tr.Base, tr.Policy.MaxAttempts = newScript(answers(429, "", "Retry-After: "+seconds)), 1
	do(t, tr, newRequest(t, "GET", ""))
	return gate
}

func everySecond() steadyhttp.Policy {
	return steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }}
}

// budgetOfASecond covers the retry of newRequest's origin after one second.
func budgetOfASecond(t *testing.T) *steadyhttp.Budget {
	b := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: 1, Wait: true}
	if !b.Take(newRequest(t, "GET", "")) {
		t.Fatal("a full budget covers nothing")
	}
	return b
}

func slowPrepare(d time.Duration) func(*http.Request, *steadyhttp.Attempt) error {
	return func(*http.Request, *steadyhttp.Attempt) error { time.Sleep(d); return nil }
}

// What each cause tells: as far as is known when it begins, and as it was when it is over. A wait
// that nobody has announced is told after a millisecond.
func TestWaitsAreTold(t *testing.T) {
	const ms = time.Millisecond
	pass := sleeps(0, 0, nil)
	tests := map[string]struct {
		steps     []step
		transport func(t *testing.T) *steadyhttp.Transport
		want      string
	}{
		"none": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Gates: []steadyhttp.Gate{pass}, Prepare: slowPrepare(0)}
		}, ""},
		"gate, unannounced": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(0, 10*time.Second, nil))
		}, "gate 0 attempt 1 waiting 0s at 1ms; gate 0 attempt 1 waited 10s at 10s"},
		"gate, announced": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(7*time.Second, 10*time.Second, nil))
		}, "gate 0 attempt 1 waiting 7s at 0s; gate 0 attempt 1 waited 10s at 10s"},
		"the third gate, the first being nil": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(nil, pass, sleeps(time.Second, time.Second, nil))
		}, "gate 2 attempt 1 waiting 1s at 0s; gate 2 attempt 1 waited 1s at 1s"},
		"two gates": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			one := sleeps(time.Second, time.Second, nil)
			return behind(one, one)
		}, "gate 0 attempt 1 waiting 1s at 0s; gate 0 attempt 1 waited 1s at 1s; " +
			"gate 1 attempt 1 waiting 1s at 1s; gate 1 attempt 1 waited 1s at 2s"},
		"gate behind PerKey": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			inner := func(string) steadyhttp.Gate { return sleeps(time.Second, 2*time.Second, nil) }
			return behind(pass, &steadyhttp.PerKey{New: inner})
		}, "gate 1 attempt 1 waiting 1s at 0s; gate 1 attempt 1 waited 2s at 2s"},
		"a millisecond less a nanosecond": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Gates: []steadyhttp.Gate{sleeps(0, ms-1, nil)}, Prepare: slowPrepare(ms - 1)}
		}, ""},
		"a millisecond": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(0, ms, nil))
		}, "gate 0 attempt 1 waiting 0s at 1ms; gate 0 attempt 1 waited 1ms at 1ms"},
		"rate.Limiter, less than a millisecond": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			limiter := rate.NewLimiter(rate.Every(ms/2), 1)
			limiter.Allow()
			return behind(steadyhttp.Limit(limiter))
		}, ""},
		"back-off": {[]step{answers(503, ""), answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: everySecond()}
		}, "backoff -1 attempt 1 waiting 1s at 0s; backoff -1 attempt 1 waited 1s at 1s"},
		"budget, then the rest of the back-off": {[]step{answers(503, ""), answers(200, "")}, func(t *testing.T) *steadyhttp.Transport {
			p := everySecond()
			p.NewBackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(3 * time.Second) }
			p.Budget = budgetOfASecond(t)
			return &steadyhttp.Transport{Policy: p}
		}, "budget -1 attempt 1 waiting 0s at 1ms; budget -1 attempt 1 waited 1s at 1s; " +
			"backoff -1 attempt 1 waiting 2s at 1s; backoff -1 attempt 1 waited 2s at 3s"},
		"prepare": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Prepare: slowPrepare(5 * time.Second)}
		}, "prepare -1 attempt 1 waiting 0s at 1ms; prepare -1 attempt 1 waited 5s at 5s"},
	}
	for name, tt := range tests {
		t.Run(name, inBubble(func(t *testing.T) {
			tr, n := tt.transport(t), newWaits()
			tr.Base, tr.Trace = newScript(tt.steps...), n.trace()
			do(t, tr, newRequest(t, "GET", ""))
			time.Sleep(time.Minute)
			if got := n.String(); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
			n.assertPaired(t)
		}))
	}
}

// The server's time has jitter on top: it is at least what was asked for, and as told.
func TestWaitForTheServerIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWaits()
		var told, was steadyhttp.Wait
		trace := &steadyhttp.Trace{
			Waiting: func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) { told = w },
			Waited:  func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) { was = w },
		}
		tr := &steadyhttp.Transport{
			Base: newScript(answers(429, "", "Retry-After: 20"), answers(200, "")), Trace: steadyhttp.Join(n.trace(), trace),
		}
		do(t, tr, newRequest(t, "GET", ""))
		if told.Cause != steadyhttp.WaitServer || told.Gate != -1 || was != told ||
			told.For < 20*time.Second || told.For > 22*time.Second {
			t.Errorf("told %+v, was %+v", told, was)
		}
		n.assertPaired(t)
	})
}

// Exactly one Waited for each Waiting, and that after it, whichever way a wait ends: refused,
// cancelled, out of time, or in a panic of the gate or of a hook that is joined to ours.
func TestEachWaitingHasItsWaited(t *testing.T) {
	causes := map[string]struct {
		steps []step
		make  func(t *testing.T) *steadyhttp.Transport
	}{
		"gate": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(0, time.Minute, nil))
		}},
		"gate, announced": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(time.Minute, time.Minute, nil))
		}},
		"gate that refuses": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(time.Minute, time.Minute, &steadyhttp.Refusal{Wait: time.Hour}))
		}},
		"gate that fails": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(sleeps(0, time.Minute, errors.New("out of order")))
		}},
		"gate that panics": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(panicsLate{})
		}},
		"limit that pauses": {[]step{answers(200, "")}, func(t *testing.T) *steadyhttp.Transport {
			return behind(throttled(t, steadyhttp.Limit(nil), "60"))
		}},
		"quota": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return behind(spentQuota(time.Minute))
		}},
		"prepare": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
				select {
				case <-time.After(time.Minute):
					return nil
				case <-req.Context().Done():
					return req.Context().Err()
				}
			}}
		}},
		"prepare that fails": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Prepare: func(*http.Request, *steadyhttp.Attempt) error {
				time.Sleep(time.Minute)
				return backoff.Permanent(errTrial)
			}}
		}},
		"prepare that panics": {[]step{answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Prepare: func(*http.Request, *steadyhttp.Attempt) error {
				time.Sleep(time.Minute)
				panic(errTrial)
			}}
		}},
		"back-off": {[]step{answers(503, ""), answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: steadyhttp.Policy{
				NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) },
			}}
		}},
		"server": {[]step{answers(429, "", "Retry-After: 50"), answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{}
		}},
		"budget": {[]step{answers(503, ""), answers(200, "")}, func(*testing.T) *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: steadyhttp.Policy{Budget: spentBudget(), NewBackOff: newZeroBackOff}}
		}},
	}
	ends := map[string]struct {
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		change func(*steadyhttp.Transport)
		outer  *steadyhttp.Trace
	}{
		"by itself": {},
		"cancelled at once": {ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}},
		"cancelled in the wait": {ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(10*time.Second, cancel)
			return ctx, cancel
		}},
		"cancelled as it is told": {ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Millisecond, cancel)
			return ctx, cancel
		}},
		"deadline": {ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 10*time.Second)
		}},
		"MaxElapsed": {change: func(tr *steadyhttp.Transport) { tr.Policy.MaxElapsed = 10 * time.Second }},
		"Waiting panics": {outer: &steadyhttp.Trace{
			Waiting: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) { panic(errTrial) },
		}},
		"Waited panics": {outer: &steadyhttp.Trace{
			Waited: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) { panic(errTrial) },
		}},
	}
	for cause, c := range causes {
		for end, e := range ends {
			t.Run(cause+", "+end, inBubble(func(t *testing.T) {
				tr, n := c.make(t), newWaits()
				tr.Base, tr.Trace = newScript(c.steps...), steadyhttp.Join(e.outer, n.trace())
				if e.change != nil {
					e.change(tr)
				}
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if e.ctx != nil {
					ctx, cancel = e.ctx(ctx)
				} else if cause == "budget" {
					ctx, cancel = context.WithTimeout(ctx, time.Hour)
				}
				defer cancel()
				func() {
					defer func() {
						if value := recover(); value != nil && value != any(errTrial) {
							panic(value)
						}
					}()
					if resp, err := tr.RoundTrip(newRequest(t, "GET", "").WithContext(ctx)); err == nil {
						readAll(t, resp)
					}
				}()
				if told := n.String(); told == "" && (end == "by itself" || strings.Contains(end, "panics")) {
					t.Error("no wait was told: the test tests nothing")
				}
				n.assertPaired(t)
				time.Sleep(24 * time.Hour)
				n.assertPaired(t)
			}))
		}
	}
}

// Calls that wait at the same time do not get in each other's way; run it with -race.
func TestWaitsOfManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 40
		n := newWaits()
		slow := enterFunc(func(ctx context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			var group sync.WaitGroup
			for range 3 { // a gate may ask others
				group.Go(func() { a.Waits(func() time.Duration { return time.Second }) })
			}
			group.Wait()
			time.Sleep(time.Second)
			return nil, nil
		})
		tr := &steadyhttp.Transport{
			Base: newScript(answers(200, "")), Trace: n.trace(),
			Gates: []steadyhttp.Gate{
				slow, steadyhttp.Limit(rate.NewLimiter(1, 1)),
				&quota.Quota{Windows: []quota.Window{{N: 10, Per: time.Minute}}},
			},
		}
		var group sync.WaitGroup
		for range calls {
			group.Go(func() {
				if resp, err := tr.RoundTrip(newRequest(t, "GET", "")); err == nil {
					readAll(t, resp)
				}
			})
		}
		group.Wait()
		n.assertPaired(t)
		if got := strings.Count(n.String(), "gate 0 attempt 1 waiting 1s"); got != calls {
			t.Errorf("%d of %d calls told of their wait", got, calls)
		}
	})
}

// Whoever watches the log learns of a long wait as it begins, and for how long it will be: with each
// of our gates that can know.
func TestLogTellsALongWaitAsItBegins(t *testing.T) {
	drained := func(every time.Duration) *rate.Limiter {
		l := rate.NewLimiter(rate.Every(every), 1)
		l.Allow()
		return l
	}
	tests := map[string]struct {
		gate func(t *testing.T) steadyhttp.Gate
		wait time.Duration // as told; 0: none is
	}{
		"quota":          {func(*testing.T) steadyhttp.Gate { return spentQuota(10 * time.Second) }, 10 * time.Second},
		"quota, shorter": {func(*testing.T) steadyhttp.Gate { return spentQuota(9 * time.Second) }, 0},
		"quota after a 429": {func(t *testing.T) steadyhttp.Gate {
			return throttled(t, &quota.Quota{Windows: []quota.Window{{N: 9, Per: time.Second}}}, "30")
		}, 30 * time.Second},
		"Limit after a 429":  {func(t *testing.T) steadyhttp.Gate { return throttled(t, steadyhttp.Limit(nil), "10") }, 10 * time.Second},
		"Limit, shorter":     {func(t *testing.T) steadyhttp.Gate { return throttled(t, steadyhttp.Limit(nil), "9") }, 0},
		"rate.Limiter":       {func(*testing.T) steadyhttp.Gate { return steadyhttp.Limit(drained(10 * time.Second)) }, 10 * time.Second},
		"rate.Limiter, less": {func(*testing.T) steadyhttp.Gate { return steadyhttp.Limit(drained(9 * time.Second)) }, 0},
		"rate.Limiter by key": {func(*testing.T) steadyhttp.Gate {
			return &steadyhttp.PerKey{New: func(string) steadyhttp.Gate { return steadyhttp.Limit(drained(time.Minute)) }}
		}, time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, inBubble(func(t *testing.T) {
			gate := tt.gate(t)
			handler := &records{level: slog.LevelInfo}
			tr := behind(gate)
			tr.Base, tr.Trace = newScript(answers(200, "")), steadyhttp.Log(slog.New(handler))
			began := time.Now()
			req := newRequest(t, "GET", "")
			go func() {
				if resp, err := tr.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
			}()
			synctest.Wait()
			var got, want []string
			for _, r := range handler.all {
				wait := waited(attr(r, "wait")).Round(100 * time.Millisecond)
				got = append(got, fmt.Sprint(r.Level, " ", r.Message, " ", wait))
				if !r.Time.Equal(began) {
					t.Errorf("told %v after the wait began", r.Time.Sub(began))
				}
			}
			if tt.wait > 0 {
				want = []string{"INFO waiting " + tt.wait.String()}
			}
			if strings.Join(got, ", ") != strings.Join(want, ", ") {
				t.Errorf("logged %v, want %v", got, want)
			}
			time.Sleep(2 * time.Minute)
		}))
	}
}

// A wait that a rate.Limiter refuses, since the deadline comes before, is none.
func TestRefusedLimitTellsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := rate.NewLimiter(rate.Every(time.Minute), 1)
		limiter.Allow()
		n := newWaits()
		tr := behind(steadyhttp.Limit(limiter))
		tr.Base, tr.Trace = newScript(answers(200, "")), n.trace()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := tr.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		if e := errorOf(t, err); e.Wait != time.Minute || n.String() != "" {
			t.Errorf("%v, told %s", err, n)
		}
	})
}

func spentQuota(window time.Duration) *quota.Quota {
	return &quota.Quota{Windows: []quota.Window{{N: 1, Per: window}}, Start: quota.Spent}
}

func attr(r slog.Record, name string) (value slog.Value) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == name {
			value = a.Value
		}
		return true
	})
	return value
}
