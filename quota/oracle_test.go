package quota

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// oracle is what the Quota must do, told as plainly as it can be: it keeps every call for ever, and counts them all anew for
// every question.
type oracle struct {
	windows  []Window
	reserved []int
	now      instant
	calls    []*heldCall
	queue    [classes][]*waiter // first come, first served

	// After a 429:
	pads   []time.Duration
	wide   []bool  // pads that a 429 at the very limit has widened
	until  instant // closed until then
	width  float64 // how many may be unanswered at once; 0: any number
	moved  instant // when one last made way for the next without an answer
	epoch  int
	failed int
}

// heldCall is a call that has been let go.
type heldCall struct {
	class    class
	granted  instant
	sent     instant // -1: not yet
	ended    instant // -1: under way
	refunded bool
	epoch    int
	holds    bool   // one of the places after a 429
	forgot   []bool // by window
	ticket   *ticket
}

// waiter is a caller of the real Quota, and his place in the oracle's queue.
type waiter struct {
	class  class
	cancel context.CancelFunc
	result chan *ticket // gets nil if he was cancelled
	call   *heldCall
}

// counted returns until when a call is counted by a window of a length, and whether it is for ever, as far as is known.
func (c *heldCall) counted(now instant, span time.Duration) (until instant, unknown bool) {
	end := c.ended
	if limit := c.granted.add(unsentFor); c.sent < 0 && limit <= now && (end < 0 || limit < end) {
		end = limit
	}
	if limit := c.sent.add(usualTransit); c.sent >= 0 && limit <= now && (end < 0 || limit < end) {
		end = limit
	}
	return end.add(span), end < 0
}

func (o *oracle) span(w int) time.Duration { return o.windows[w].Per + o.pads[w] }

// counts reports whether a window counts a call, and since when; -1 if nobody knows yet. What it has forgotten, it has for good.
func (o *oracle) counts(w int, call *heldCall) (since instant, yes bool) {
	if call.refunded || call.forgot[w] {
		return 0, false
	}
	until, unknown := call.counted(o.now, o.span(w))
	if unknown {
		return -1, true
	}
	call.forgot[w] = until <= o.now
	return until.add(-o.span(w)), !call.forgot[w]
}

func (o *oracle) used(w int, c class) int {
	n := 0
	for _, call := range o.calls {
		if _, yes := o.counts(w, call); yes && (c == classes || call.class == c) {
			n++
		}
	}
	return n
}

// logged returns how many calls a window counts that are known to have arrived.
func (o *oracle) logged(w int) (n int) {
	for _, call := range o.calls {
		if since, yes := o.counts(w, call); yes && since >= 0 {
			n++
		}
	}
	return n
}

// left takes note of a call that has ended somehow.
func (o *oracle) left(call *heldCall) {
	call.holds = false
}

// holders returns who is unanswered and has not made way for others, the longest first.
func (o *oracle) holders() (calls []*heldCall) {
	for _, call := range o.calls {
		if call.holds {
			calls = append(calls, call)
		}
	}
	return calls
}

// doorOpens returns when the next may go after a 429, if nothing is answered before.
func (o *oracle) doorOpens() instant {
	at := o.until
	if holders := o.holders(); o.width > 0 && len(holders) >= int(o.width) {
		at = max(at, holders[0].granted.add(5*time.Second), o.moved.add(time.Duration(5e9/o.width)))
	}
	return at
}

// good takes note of an answer that is no 429.
func (o *oracle) good(call *heldCall) {
	if call.epoch != o.epoch {
		return
	}
	o.failed = 0
	if o.width > 0 {
		if o.width += 1 / o.width; o.width > wideEnough {
			o.width = 0
		}
	}
}

// blamed returns the window that a 429 is about, and whether it comes at the very limit, for the first time: then it is known
// exactly what follows.
func (o *oracle) blamed(asked time.Duration) (at int, exact bool) {
	at = -1
	fullest := -1.0
	for w := range o.windows {
		if fill := float64(o.logged(w)) / float64(o.windows[w].N); o.windows[w].Per >= asked && fill > fullest {
			at, fullest = w, fill
		}
	}
	if at < 0 {
		at = longest(newWindows(o.windows, 0))
	}
	recent := 0
	for _, call := range o.calls {
		if call.refunded {
			continue
		}
		until, unknown := call.counted(o.now, 0)
		if !unknown && until > o.now.add(-o.windows[at].Per-edge) {
			recent++
		}
	}
	return at, recent >= o.windows[at].N && !o.wide[at]
}

// throttled is what a 429 does.
func (o *oracle) throttled(call *heldCall, asked time.Duration) {
	first := call.epoch == o.epoch
	if first {
		o.epoch++
		o.width = 1
		for _, call := range o.holders() {
			call.holds = false
		}
	}
	if asked > 0 {
		o.until = max(o.until, o.now.add(asked))
	}
	if !first {
		return
	}
	w, _ := o.blamed(asked)
	if asked == 0 {
		o.until = max(o.until, o.now.add(min(time.Second<<o.failed, o.windows[w].Per/32)))
	}
	o.failed++
	o.wide[w], o.pads[w] = true, max(2*o.pads[w], widePad)
}

// count is for messages: what each window counts, of each class.
func (o *oracle) count() (counts [][classes]int) {
	for w := range o.windows {
		counts = append(counts, [classes]int{o.used(w, normal), o.used(w, high)})
	}
	return counts
}

func (o *oracle) mayGo(c class) bool {
	if o.now < o.doorOpens() {
		return false
	}
	for w := range o.windows {
		if o.used(w, classes) >= o.windows[w].N {
			return false
		}
		if c == normal && o.used(w, normal) >= max(1, o.windows[w].N-o.reserved[w]) {
			return false
		}
	}
	return true
}

// serve lets those go whose turn it is.
func (o *oracle) serve() (granted []*waiter) {
	for {
		c := high
		if len(o.queue[high]) == 0 {
			c = normal
		}
		if len(o.queue[c]) == 0 || !o.mayGo(c) {
			return granted
		}
		w := o.queue[c][0]
		o.queue[c] = o.queue[c][1:]
		w.call = o.take(c)
		granted = append(granted, w)
	}
}

func (o *oracle) take(c class) *heldCall {
	call := &heldCall{class: c, granted: o.now, sent: -1, ended: -1, epoch: o.epoch, forgot: make([]bool, len(o.windows))}
	if o.width > 0 {
		if holders := o.holders(); len(holders) >= int(o.width) {
			holders[0].holds = false
			o.moved = o.now
		}
		call.holds = true
	}
	o.calls = append(o.calls, call)
	return call
}

// next returns the first time after now at which a window forgets a call, or a call in flight is taken to have arrived.
func (o *oracle) next(limit instant) instant {
	first := limit
	consider := func(at instant) {
		if at > o.now && at < first {
			first = at
		}
	}
	consider(o.until)
	consider(o.doorOpens())
	for _, call := range o.calls {
		if call.refunded {
			continue
		}
		for w := range o.windows {
			if until, unknown := call.counted(o.now, o.span(w)); !unknown && !call.forgot[w] {
				consider(until)
			}
		}
		consider(call.granted.add(unsentFor))
		if call.sent >= 0 {
			consider(call.sent.add(usualTransit))
		}
	}
	return first
}

// TestOracle lets the Quota and the oracle live through the same random history, and compares every decision.
func TestOracle(t *testing.T) {
	steps := 1_000_000
	if testing.Short() || RaceEnabled {
		steps = 100_000
	}
	const each = 2000
	throttlings := 0
	for run := range steps / each {
		throttlings += live(t, uint64(run), nil, each)
	}
	t.Logf("%d operations, %d of them 429s", steps, throttlings)
	if throttlings < steps/10_000 {
		t.Errorf("only %d 429s", throttlings)
	}
}

func FuzzOracle(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add(uint64(2), []byte{0, 0, 0, 0, 6, 6, 6, 0, 0, 0, 7, 1, 2})
	f.Fuzz(func(t *testing.T, seed uint64, choices []byte) {
		live(t, seed, choices, min(len(choices), 300))
	})
}

// live makes steps operations on both. What they are is chosen by choices, or by the dice.
func live(t *testing.T, seed uint64, choices []byte, steps int) (throttlings int) {
	t.Helper()
	dice := rand.New(rand.NewPCG(seed, 3))
	var windows []Window
	for i := range 1 + dice.IntN(3) {
		windows = append(windows, Window{N: 1 + dice.IntN(4<<(2*i)), Per: time.Duration(1+dice.IntN(20)) * time.Second << (2 * i)})
	}
	reserve := []float64{0, 0, 0.1, 0.5, 0.9}[dice.IntN(5)]
	synctest.Test(t, func(t *testing.T) {
		q := &Quota{Windows: windows, Reserve: reserve}
		o := &oracle{windows: windows}
		for _, w := range windows {
			reserved := 0
			for float64(reserved)+0.5 <= reserve*float64(w.N) {
				reserved++
			}
			o.reserved = append(o.reserved, reserved)
			o.pads = append(o.pads, max(time.Millisecond, w.Per/2000))
		}
		o.wide = make([]bool, len(windows))
		q.State() // begins time
		var held []*heldCall
		fail := func(step int, format string, args ...any) {
			t.Fatalf("seed %d, step %d at %v, windows %v, reserve %v: %s", seed, step, time.Duration(o.now), windows, reserve, fmt.Sprintf(format, args...))
		}
		// settle compares who has been let go.
		settle := func(step int, granted []*waiter) {
			synctest.Wait()
			for _, w := range granted {
				select {
				case ticket := <-w.result:
					w.call.ticket = ticket
					held = append(held, w.call)
				default:
					fail(step, "a caller waits who may go")
				}
			}
			for _, queue := range o.queue {
				for _, w := range queue {
					select {
					case <-w.result:
						fail(step, "a caller of class %d has gone before his turn; the windows count %v", w.class, o.count())
					default:
					}
				}
			}
			if got, want := q.State().Waiting, len(o.queue[0])+len(o.queue[1]); got != want {
				fail(step, "%d callers wait, want %d", got, want)
			}
		}
		// pass lets time go by, and serves whenever something changes.
		pass := func(step int, d time.Duration) {
			end := o.now.add(d)
			for o.now < end {
				next := o.next(end)
				time.Sleep(time.Duration(next - o.now))
				o.now = next
				settle(step, o.serve())
			}
		}
		release := func(i int) *heldCall {
			call := held[i]
			held = slices.Delete(held, i, i+1)
			return call
		}
		for step := range steps {
			choice := dice.IntN(256)
			if choices != nil {
				choice = int(choices[step])
			}
			if len(o.calls) > 400 {
				o.forget()
			}
			switch choice % 11 {
			case 0, 1, 2: // somebody wants to go
				w := &waiter{class: class(choice / 10 % 8 / 7), result: make(chan *ticket, 1)}
				ctx, cancel := context.WithCancel(WithPriority(t.Context(), Priority(w.class)))
				w.cancel = cancel
				o.queue[w.class] = append(o.queue[w.class], w)
				go func() {
					ticket, _ := q.enter(ctx, steadyhttp.Attempt{})
					w.result <- ticket
				}()
				settle(step, o.serve())
			case 3: // somebody gives up waiting
				c := class(choice / 10 % 2)
				if len(o.queue[c]) == 0 {
					continue
				}
				i := choice / 20 % len(o.queue[c])
				w := o.queue[c][i]
				o.queue[c] = slices.Delete(o.queue[c], i, i+1)
				w.cancel()
				settle(step, o.serve())
				if ticket := <-w.result; ticket != nil {
					fail(step, "a caller who gave up was let go")
				}
			case 4, 5: // an answer
				if len(held) == 0 {
					continue
				}
				call := release(choice / 10 % len(held))
				if call.sent < 0 && call.granted.add(unsentFor) > o.now {
					call.sent = o.now
					call.ticket.Sent(time.Now())
				}
				if call.ended < 0 {
					call.ended = o.now
				}
				o.left(call)
				o.good(call)
				resp := &http.Response{StatusCode: 200}
				call.ticket.Answered(resp)
				q.leave(call.ticket, steadyhttp.Attempt{Response: resp, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success}})
				settle(step, o.serve())
			case 10: // a 429, where it is known exactly what follows
				if len(held) == 0 {
					continue
				}
				i := choice / 11 % len(held)
				call, before := held[i], *held[i]
				if call.sent < 0 && call.granted.add(unsentFor) > o.now {
					call.sent = o.now
				}
				if call.ended < 0 {
					call.ended = o.now
				}
				asked := time.Duration(choice/11%4) * 2 * time.Second
				if _, exact := o.blamed(asked); call.epoch == o.epoch && !exact {
					*call = before
					continue
				}
				release(i)
				if before.sent != call.sent {
					call.ticket.Sent(time.Now())
				}
				o.left(call)
				o.throttled(call, asked)
				resp := &http.Response{StatusCode: http.StatusTooManyRequests}
				call.ticket.Answered(resp)
				q.leave(call.ticket, steadyhttp.Attempt{Response: resp, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: asked}})
				throttlings++
				settle(step, o.serve())
			case 6: // a request goes out, and its answer is lost or late
				if len(held) == 0 {
					continue
				}
				call := held[choice/10%len(held)]
				if call.sent >= 0 || call.granted.add(unsentFor) <= o.now {
					continue
				}
				call.sent = o.now
				call.ticket.Sent(time.Now())
				if choice/10%3 == 0 {
					q.leave(call.ticket, steadyhttp.Attempt{Err: context.Canceled, Sent: time.Now()})
					release(slices.Index(held, call))
					o.left(call)
				}
				settle(step, o.serve())
			case 7: // a request provably never left
				if len(held) == 0 {
					continue
				}
				i := choice / 10 % len(held)
				if held[i].sent >= 0 {
					continue
				}
				call := release(i)
				call.refunded = true
				o.left(call)
				q.leave(call.ticket, steadyhttp.Attempt{})
				settle(step, o.serve())
			default:
				pass(step, time.Duration(choice/10*choice)*time.Millisecond*20)
			}
			q.mu.Lock()
			q.advance(q.now())
			for i := range q.windows {
				for c := range classes {
					if got, want := q.windows[i].used[c]+q.inFlight(c), o.used(i, c); got != want {
						q.mu.Unlock()
						fail(step, "window %d counts %d calls of class %d, want %d", i, got, c, want)
					}
				}
			}
			q.mu.Unlock()
		}
		// Nobody is left behind: in the end all go, or give up.
		for _, queue := range o.queue {
			for _, w := range queue {
				w.cancel()
			}
		}
		synctest.Wait()
		if q.State().Waiting > 0 {
			fail(steps, "%d callers still wait", q.State().Waiting)
		}
	})
	return throttlings
}

// forget drops the calls that no window counts any more, to keep the oracle's pace.
func (o *oracle) forget() {
	o.calls = slices.DeleteFunc(o.calls, func(c *heldCall) bool {
		if c.refunded {
			return true
		}
		if c.holds {
			return false
		}
		until, unknown := c.counted(o.now, 2*o.windows[len(o.windows)-1].Per+time.Hour)
		return !unknown && until <= o.now
	})
}
