package steadyhttp

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// assertIdle fails the test unless nobody is in the gate or waits for it, and it has no timer running.
func (p *pause) assertIdle(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out != 0 || p.queue.Len() != 0 || p.timer != nil {
		t.Errorf("left behind: %d out, %d waiting, timer %v", p.out, p.queue.Len(), p.timer)
	}
}

func throttledFor(d time.Duration) Attempt {
	return Attempt{Response: &http.Response{StatusCode: 429}, Verdict: Verdict{Class: Throttled, RetryAfter: d}}
}

func succeeded() Attempt {
	return Attempt{Response: &http.Response{StatusCode: 200}, Verdict: Verdict{Class: Success}}
}

// A waiter that gives up leaves neither a place in the queue nor a timer.
func TestCancelledPauseWaiterLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pause
		epoch, err := p.enter(t.Context(), Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		p.leave(epoch, throttledFor(10*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for range 3 {
			go func() {
				_, err := p.enter(ctx, Attempt{})
				ended <- err
			}()
		}
		synctest.Wait()
		cancel()
		for range 3 {
			if <-ended == nil {
				t.Error("a cancelled waiter was let through")
			}
		}
		p.assertIdle(t)
	})
}

// Who was let go, and before it has run sees another pause begin, waits for that one too: its grant was for an epoch
// that is over.
func TestGrantOfAnEarlierEpochIsNotForThisPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limit(nil).(*limit)
		began := time.Now()
		leave, _ := l.Enter(t.Context(), Attempt{})
		leave.Leave(throttledFor(time.Second))
		time.Sleep(time.Second)
		probe, _ := l.Enter(t.Context(), Attempt{})
		entered := make(chan time.Duration)
		go func() {
			leave, err := l.Enter(t.Context(), Attempt{})
			if err != nil {
				t.Error(err)
			}
			entered <- time.Since(began)
			leave.Leave(succeeded())
		}()
		synctest.Wait() // behind the probe
		p := &l.pause
		p.mu.Lock()
		p.window = 2
		p.serve() // granted ...
		p.close(10*time.Second, true)
		p.serve()
		p.mu.Unlock() // ... and paused, before it has run
		if at := <-entered; at < 11*time.Second {
			t.Errorf("entered %v after the start, in the middle of a pause until 11 s", at)
		}
		probe.Leave(succeeded())
		synctest.Wait()
		p.assertIdle(t)
	})
}

// The same for a grant that is given back because its caller has gone: it is not the new epoch's to give back.
func TestStaleGrantIsNotGivenBackTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pause
		epoch, _ := p.enter(t.Context(), Attempt{})
		p.leave(epoch, throttledFor(time.Second))
		time.Sleep(time.Second)
		epoch, _ = p.enter(t.Context(), Attempt{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := p.enter(ctx, Attempt{})
			ended <- err
		}()
		synctest.Wait()
		p.mu.Lock()
		p.window = 2
		p.serve()
		p.close(10*time.Second, true)
		cancel()
		p.mu.Unlock()
		if <-ended == nil {
			t.Error("a cancelled waiter was let through")
		}
		p.leave(epoch, succeeded())
		p.assertIdle(t)
	})
}

// Any mixture of attempts, pauses and cancellations ends with an idle gate, and at no time are more out than the window
// allows.
func TestPauseUnderRandomLoad(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			l := Limit(nil).(*limit)
			var wg sync.WaitGroup
			for i := range 50 {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				wg.Go(func() {
					for range 40 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(20_000))*time.Millisecond)
						leave, err := l.Enter(ctx, Attempt{})
						if err == nil {
							time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
							switch r.IntN(10) {
							case 0:
								leave.Leave(throttledFor(time.Duration(r.IntN(3)) * time.Second))
							case 1:
								leave.Leave(Attempt{})
							default:
								leave.Leave(succeeded())
							}
						}
						cancel()
						time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			l.pause.assertIdle(t)
		})
	}
}

// A limiter that says no does not keep the place of the attempt that it refused, nor does one whose caller has gone.
func TestRefusingLimiterLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer error
		l := Limit(waitFunc(func(context.Context) error { return answer })).(*limit)
		leave, _ := l.Enter(t.Context(), Attempt{})
		leave.Leave(throttledFor(time.Second)) // from now on, places are few
		time.Sleep(time.Second)
		for _, answer = range []error{ErrNotSent, context.Canceled} {
			leave, err := l.Enter(t.Context(), Attempt{})
			if err == nil {
				t.Error("let through")
			}
			if leave != nil {
				t.Error("there is nothing to leave after a refusal; a gate around this one may do it")
			}
			l.pause.assertIdle(t)
		}
	})
}

// A limiter that panics does not take the probe's place with it: the gate would never open again.
func TestPanickingLimiterDoesNotCloseTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := true
		l := Limit(waitFunc(func(context.Context) error {
			if panics {
				panic("broken limiter")
			}
			return nil
		})).(*limit)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			l.Enter(t.Context(), Attempt{})
		}()
		panics = false
		l.pause.assertIdle(t)
	})
}

type waitFunc func(context.Context) error

func (f waitFunc) Wait(ctx context.Context) error { return f(ctx) }

func keyOfHost(req *http.Request) string { return req.Host }

func keyed(key string) Attempt { return Attempt{Request: &http.Request{Host: key}} }

func perKey(key func(*http.Request) string, newGate func(string) Gate, max int) *PerKey {
	return &PerKey{Key: key, New: newGate, Max: max}
}

type namedGate string

func (namedGate) Enter(context.Context, Attempt) (Pass, error) {
	return PassFunc(func(Attempt) {}), nil
}

// A million keys, and no more gates than asked for.
func TestPerKeyIsBounded(t *testing.T) {
	for max, keys := range map[int]int{1: 1000, 100: 1_000_000, 0: 5000} {
		t.Run(strconv.Itoa(max), func(t *testing.T) {
			p := perKey(keyOfHost, func(key string) Gate { return namedGate(key) }, max)
			bound := max
			if bound < 1 {
				bound = 1000
			}
			for i := range keys {
				leave, err := p.Enter(t.Context(), keyed(strconv.Itoa(i)))
				if err != nil {
					t.Fatal(err)
				}
				leave.Leave(Attempt{})
				if len(p.gates) > bound || p.idle.Len() > bound {
					t.Fatalf("%d gates, %d idle", len(p.gates), p.idle.Len())
				}
			}
			if len(p.gates) != bound {
				t.Errorf("%d gates are kept, want %d", len(p.gates), bound)
			}
		})
	}
}

// One in use is never dropped, even where that means to keep more; the rest go as soon as they are idle.
func TestPerKeyKeepsWhatIsInUse(t *testing.T) {
	made := map[string]int{}
	p := perKey(keyOfHost, func(key string) Gate { made[key]++; return namedGate(key) }, 2)
	var leaves []Pass
	for _, key := range []string{"a", "b", "c", "d", "a"} {
		leave, _ := p.Enter(t.Context(), keyed(key))
		leaves = append(leaves, leave)
	}
	if len(p.gates) != 4 {
		t.Errorf("%d gates of the 4 in use are kept", len(p.gates))
	}
	if made["a"] != 1 {
		t.Errorf("a gate in use was made %d times", made["a"])
	}
	for _, leave := range leaves {
		leave.Leave(Attempt{})
	}
	if len(p.gates) != 2 || p.idle.Len() != 2 {
		t.Errorf("%d gates are kept, %d idle, want 2", len(p.gates), p.idle.Len())
	}
}

// The one that has been idle longest goes first; use makes it young again.
func TestPerKeyDropsTheLongestIdle(t *testing.T) {
	var made []string
	p := perKey(keyOfHost, func(key string) Gate { made = append(made, key); return namedGate(key) }, 2)
	for _, key := range []string{"a", "b", "a", "c", "a", "b"} {
		leave, _ := p.Enter(t.Context(), keyed(key))
		leave.Leave(Attempt{})
	}
	// c pushed out b, which had been idle longer than a.
	if want := []string{"a", "b", "c", "b"}; !slices.Equal(made, want) {
		t.Errorf("made %q, want %q", made, want)
	}
}

// A slow newGate holds up nobody of another key.
func TestPerKeySlowNewGate(t *testing.T) {
	making, made := make(chan struct{}), make(chan struct{})
	p := perKey(keyOfHost, func(key string) Gate {
		if key == "slow" {
			close(making)
			<-made
		}
		return nil
	}, 10)
	var wg sync.WaitGroup
	wg.Go(func() { p.Enter(t.Context(), keyed("slow")) })
	<-making
	if _, err := p.Enter(t.Context(), keyed("fast")); err != nil { // would hang
		t.Error(err)
	}
	close(made)
	wg.Wait()
}

// Callers that come at once share one gate.
func TestPerKeyMakesOneGateForAllItsCallers(t *testing.T) {
	var made atomic.Int64
	p := perKey(keyOfHost, func(string) Gate { made.Add(1); return namedGate("") }, 10)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			leave, err := p.Enter(t.Context(), keyed("a"))
			if err != nil {
				t.Error(err)
				return
			}
			leave.Leave(Attempt{})
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d gates", made.Load())
	}
}

// A refusal, a panic and a cancellation leave the key's gate unused.
func TestPerKeyGivesBackOnEveryPath(t *testing.T) {
	var does func() (func(Attempt), error)
	p := perKey(keyOfHost, func(string) Gate { return gateOf(func() (func(Attempt), error) { return does() }) }, 10)
	enter := func() {
		defer func() { recover() }()
		if leave, err := p.Enter(t.Context(), keyed("a")); err == nil {
			leave.Leave(Attempt{})
		}
	}
	for name, f := range map[string]func() (func(Attempt), error){
		"refuses":           func() (func(Attempt), error) { return nil, ErrNotSent },
		"panics":            func() (func(Attempt), error) { panic("gate") },
		"panics on leave":   func() (func(Attempt), error) { return func(Attempt) { panic("leave") }, nil },
		"has a nil leave":   func() (func(Attempt), error) { return nil, nil },
		"lets pass":         func() (func(Attempt), error) { return PassFunc(func(Attempt) {}), nil },
		"refuses, oddly":    func() (func(Attempt), error) { return func(Attempt) {}, ErrNotSent },
		"panics with nil":   func() (func(Attempt), error) { panic(nil) },
		"panics with error": func() (func(Attempt), error) { panic(ErrNotSent) },
	} {
		does = f
		enter()
		if p.gates["a"].users != 0 || p.idle.Len() != 1 {
			t.Errorf("a gate that %s: %d users, %d idle", name, p.gates["a"].users, p.idle.Len())
		}
	}
}

type gateOf func() (func(Attempt), error)

func (f gateOf) Enter(context.Context, Attempt) (Pass, error) {
	leave, err := f()
	if leave == nil {
		return nil, err
	}
	return PassFunc(leave), err
}
