package redisquota

import (
	"errors"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Whatever the goroutine sleeps for, it wakes for what can't wait until its next heartbeat, a second
// later at the most.
func TestWakesInTime(t *testing.T) {
	hour := []quota.Window{{N: 50, Per: time.Hour}}
	type bed struct {
		w          *world
		one, other *Quota
	}
	within := func(t *testing.T, since time.Time, most time.Duration) {
		t.Helper()
		if took := time.Since(since); took > most {
			t.Errorf("it took %v, want %v at most", took, most)
		}
	}
	cut := func(x bed, is bool) {
		x.w.mu.Lock()
		defer x.w.mu.Unlock()
		x.w.cut = is
	}
	throttled := func(text string, wait time.Duration) steadyhttp.Attempt {
		a := wentWell()
		a.Response.StatusCode = 429
		a.Verdict = steadyhttp.Verdict{Class: steadyhttp.Throttled, Message: text, RetryAfter: wait}
		return a
	}
	for name, c := range map[string]struct {
		windows []quota.Window
		away    Away
		do      func(t *testing.T, x bed)
	}{
		"wanted while an exchange is under way": {hour, Known, func(t *testing.T, x bed) {
			began := time.Now()
			done := make(chan struct{})
			go func() { enterAndLeave(t, x.one); close(done) }()
			time.Sleep(time.Millisecond)
			enterAndLeave(t, x.one)
			<-done
			within(t, began, 100*time.Millisecond)
		}},
		"wanted after long rest": {hour, Known, func(t *testing.T, x bed) {
			time.Sleep(20*time.Minute + 500*time.Millisecond)
			began := time.Now()
			enterAndLeave(t, x.one)
			within(t, began, 100*time.Millisecond)
		}},
		"a refund": {hour, Known, func(t *testing.T, x bed) {
			p, err := x.one.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			p.Leave(steadyhttp.Attempt{Err: errors.New("no connection")})
			time.Sleep(500 * time.Millisecond) // a quarter of a heartbeat, a tenth, and the way
			x.w.mu.Lock()
			defer x.w.mu.Unlock()
			if n := len(x.w.model.log); n != 2 { // of the beginning
				t.Errorf("Redis counts %d places, want 2", n)
			}
		}},
		"a pause, and its end": {hour, Known, func(t *testing.T, x bed) {
			p, err := x.one.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			p.Leave(throttled("slow down", 7300*time.Millisecond))
			began := time.Now()
			time.Sleep(50 * time.Millisecond)
			x.w.mu.Lock()
			if x.w.model.pause == 0 {
				t.Error("Redis was not told of the pause")
			}
			x.w.mu.Unlock()
			done := make(chan struct{})
			go func() { enterAndLeave(t, x.other); close(done) }()
			enterAndLeave(t, x.one)
			<-done
			within(t, began, 7500*time.Millisecond)
		}},
		"a limit that was learned": {hour, Known, func(t *testing.T, x bed) {
			p, err := x.one.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			p.Leave(throttled("Maximum allowed 7 per 01:00:00.", time.Second))
			time.Sleep(50 * time.Millisecond)
			x.w.mu.Lock()
			if x.w.model.low == "" {
				t.Error("Redis was not told of it")
			}
			x.w.mu.Unlock()
		}},
		"Redis goes away while somebody waits": {hour, Known, func(t *testing.T, x bed) {
			cut(x, true)
			began := time.Now()
			enterAndLeave(t, x.one)
			within(t, began, 2*time.Second)
			cut(x, false)
		}},
		"Redis comes back while somebody waits": {hour, Closed, func(t *testing.T, x bed) {
			cut(x, true)
			time.Sleep(30*time.Second + 300*time.Millisecond)
			done := make(chan struct{})
			go func() { enterAndLeave(t, x.one); close(done) }()
			time.Sleep(10 * time.Second)
			cut(x, false)
			began := time.Now()
			<-done
			within(t, began, 4*time.Second) // the others may have gone alone, and tell first
		}},
		"a window's end, nobody else": {[]quota.Window{{N: 1, Per: 20 * time.Second}}, Known, func(t *testing.T, x bed) {
			enterAndLeave(t, x.one)
			began := time.Now()
			enterAndLeave(t, x.one)
			within(t, began, 20200*time.Millisecond)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				edit := func(q *Quota) { q.Windows, q.WhenAway = c.windows, c.away }
				x := bed{w: w}
				x.one, _ = process(edit)
				x.other, _ = process(edit)
				if c.windows[0].N > 1 {
					enterAndLeave(t, x.one)
					enterAndLeave(t, x.other)
				}
				time.Sleep(3100 * time.Millisecond)
				c.do(t, x)
			})
		})
	}
}
