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

	replayed instant // when a request was last sent again that nobody had asked for

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
	weight   int
	places   int       // one weight for each sending that nobody asked for
	told     bool      // its sending would be told of, so that its place is kept until then
	over     bool      // it can't be sent again
	sends    int       // that its ticket was told of
	root     *heldCall // the first sending of it
	current  *heldCall // of a first sending: the last one
	asking   bool      // for another one
	granted  instant
	sent     instant // -1: not yet
	ended    instant // -1: under way
	refunded bool
	epoch    int
	door     instant // when it got its place
	holds    bool    // one of the places after a 429
	forgot   []bool  // by window
	ticket   *ticket
}

// waiter is a caller of the real Quota, and his place in the oracle's queue.
type waiter struct {
	class  class
	cancel context.CancelFunc
	result chan *ticket // gets nil if he was cancelled
	call   *heldCall
	weight int
	root   *heldCall // what is to be sent again; nil: it is new
}

// counted returns until when a call is counted by a window of a length, and whether it is for ever, as far as is known.
func (c *heldCall) counted(now instant, span time.Duration) (until instant, unknown bool) {
	end := c.ended
	if limit := c.granted.add(unsentFor); !c.told && c.sent < 0 && limit <= now && (end < 0 || limit < end) {
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
			n += call.places
		}
	}
	return n
}

// logged returns how many calls a window counts that are known to have arrived.
func (o *oracle) logged(w int) (n int) {
	for _, call := range o.calls {
		if since, yes := o.counts(w, call); yes && since >= 0 {
			n += call.places
		}
	}
	return n
}

// mayBecome returns how many places those may yet take that are sent again.
func (o *oracle) mayBecome(c class) (n int) {
	for _, call := range o.calls {
		_, unknown := call.counted(o.now, 0)
		if unknown && !call.over && !call.refunded && (c == classes || call.class == c) {
			n += call.weight
		}
	}
	return n
}

// expectsReplays says whether a request was sent again unasked within the longest window.
func (o *oracle) expectsReplays() bool {
	longest := time.Duration(0)
	for _, w := range o.windows {
		longest = max(longest, w.Per)
	}
	return o.replayed >= 0 && o.now <= o.replayed.add(longest)
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
	slices.SortStableFunc(calls, func(a, b *heldCall) int { return int(a.door - b.door) })
	return calls
}

// doorOpens returns when the next may go after a 429, if nothing is answered before.
func (o *oracle) doorOpens() instant {
	at := o.until
	if holders := o.holders(); o.width > 0 && len(holders) >= int(o.width) {
		at = max(at, holders[0].door.add(5*time.Second), o.moved.add(time.Duration(5e9/o.width)))
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
			recent += call.places
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

func (o *oracle) mayGo(who *waiter) bool {
	if o.now < o.until {
		return false
	}
	if (who.root == nil || who.root.epoch != o.epoch) && o.now < o.doorOpens() {
		return false
	}
	for w := range o.windows {
		for _, c := range []class{classes, normal} {
			most := o.windows[w].N
			if c == normal {
				if who.class == high {
					continue
				}
				most = max(1, most-o.reserved[w])
			}
			used, weight := o.used(w, c), min(who.weight, most)
			if used+weight > most {
				return false
			}
			// It may be sent twice itself, but there is always room for one in an empty window.
			if o.expectsReplays() && used > 0 && used+o.mayBecome(c)+who.weight+weight > most {
				return false
			}
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
		if len(o.queue[c]) == 0 || !o.mayGo(o.queue[c][0]) {
			return granted
		}
		w := o.queue[c][0]
		o.queue[c] = o.queue[c][1:]
		w.call = o.admit(w)
		granted = append(granted, w)
	}
}

func (o *oracle) take(c class) *heldCall { return o.admit(&waiter{class: c, weight: 1}) }

func (o *oracle) admit(w *waiter) *heldCall {
	call := &heldCall{
		class: w.class, weight: w.weight, places: w.weight,
		granted: o.now, sent: -1, ended: -1, epoch: o.epoch, forgot: make([]bool, len(o.windows)),
	}
	enters := call
	if root := w.root; root == nil {
		call.root, call.current = call, call
	} else {
		call.told, call.root = true, root
		root.current.over = true
		root.current, root.asking = call, false
		enters = root
		if root.epoch == o.epoch {
			enters = nil
		}
		root.epoch = o.epoch
	}
	if enters != nil && o.width > 0 {
		if holders := o.holders(); len(holders) >= int(o.width) {
			holders[0].holds = false
			o.moved = o.now
		}
		enters.holds, enters.door = true, o.now
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
	for _, w := range o.windows {
		consider(o.replayed.add(w.Per + 1))
	}
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
		q.Weight = func(req *http.Request) int { return int(req.ContentLength) }
		lightest := slices.MinFunc(windows, func(a, b Window) int { return a.N - b.N }).N
		o := &oracle{windows: windows, replayed: never}
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
					if w.root == nil {
						w.call.ticket = ticket
						held = append(held, w.call)
					}
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
		// free returns the number of a call that does not wait to be sent again, the i-th or one after it.
		free := func(i int) (int, bool) {
			for range held {
				if i %= len(held); !held[i].asking {
					return i, true
				}
				i++
			}
			return 0, false
		}
		late := func(call *heldCall) bool { return !call.told && call.granted.add(unsentFor) <= o.now }
		// send has the current sending of a call go out, unless that was long ago.
		send := func(call *heldCall) {
			if current := call.current; current.sent < 0 && !late(current) {
				current.sent = o.now
				call.sends++
				call.ticket.Sent(time.Now())
			}
		}
		for step := range steps {
			choice := dice.IntN(256)
			if choices != nil {
				choice = int(choices[step])
			}
			if len(o.calls) > 400 {
				o.forget()
			}
			switch choice % 14 {
			case 0, 1, 2: // somebody wants to go
				w := &waiter{class: class(choice / 10 % 8 / 7), weight: 1, result: make(chan *ticket, 1)}
				if weights := seed%3 == 0; weights {
					w.weight = 1 + dice.IntN(min(4, lightest))
				}
				ctx, cancel := context.WithCancel(WithPriority(t.Context(), Priority(w.class)))
				w.cancel = cancel
				o.queue[w.class] = append(o.queue[w.class], w)
				go func() {
					ticket, _ := q.enter(ctx, steadyhttp.Attempt{
						Request: &http.Request{ContentLength: int64(w.weight)},
					})
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
				if w.root != nil {
					w.root.asking = false
				}
				settle(step, o.serve())
				if ticket := <-w.result; ticket != nil {
					fail(step, "a caller who gave up was let go")
				}
			case 4, 5: // an answer
				i, ok := free(choice / 10)
				if !ok {
					continue
				}
				call := release(i)
				send(call)
				call.current.over = true
				if call.current.ended < 0 {
					call.current.ended = o.now
				}
				o.left(call)
				o.good(call)
				resp := &http.Response{StatusCode: 200}
				call.ticket.Answered(resp)
				q.leave(call.ticket, steadyhttp.Attempt{Response: resp, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success}})
				settle(step, o.serve())
			case 10: // a 429, where it is known exactly what follows
				i, ok := free(choice / 11)
				if !ok {
					continue
				}
				call := held[i]
				current, before := call.current, *call.current
				if current.sent < 0 && !late(current) {
					current.sent = o.now
				}
				if current.ended < 0 {
					current.ended = o.now
				}
				asked := time.Duration(choice/11%4) * 2 * time.Second
				if _, exact := o.blamed(asked); call.epoch == o.epoch && !exact {
					*current = before
					continue
				}
				release(i)
				current.over = true
				if before.sent != current.sent {
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
				i, ok := free(choice / 10)
				if !ok {
					continue
				}
				call := held[i]
				if call.current.sent >= 0 || late(call.current) {
					continue
				}
				send(call)
				if choice/10%3 == 0 {
					q.leave(call.ticket, steadyhttp.Attempt{Err: context.Canceled, Sent: time.Now(), Sends: call.sends})
					call.current.over = true
					release(i)
					o.left(call)
				}
				settle(step, o.serve())
			case 7: // a request provably never left
				i, ok := free(choice / 10)
				if !ok || held[i].current.sent >= 0 {
					continue
				}
				call := release(i)
				call.current.refunded = true
				o.left(call)
				a := steadyhttp.Attempt{}
				if call.current != call {
					a = steadyhttp.Attempt{Err: context.Canceled, Sent: time.Now(), Sends: call.sends}
				}
				q.leave(call.ticket, a)
				settle(step, o.serve())
			case 11, 12: // net/http is about to send it again
				i, ok := free(choice / 10)
				if !ok || held[i].current.sent < 0 {
					continue
				}
				call := held[i]
				w := &waiter{class: call.class, weight: call.weight, root: call, result: make(chan *ticket, 1)}
				call.asking = true
				ctx, cancel := context.WithCancel(t.Context())
				w.cancel = cancel
				o.queue[w.class] = append(o.queue[w.class], w)
				go func() {
					if call.ticket.Replay(ctx) != nil {
						w.result <- nil
						return
					}
					w.result <- call.ticket
				}()
				settle(step, o.serve())
			case 13: // net/http has sent it again without a word
				i, ok := free(choice / 10)
				if !ok || seed%2 == 0 {
					continue
				}
				call := held[i].current
				if call.sent < 0 || call.sent.add(usualTransit) <= o.now {
					continue
				}
				call.sent, o.replayed = o.now, o.now
				call.places += call.weight
				held[i].sends++
				held[i].ticket.Sent(time.Now())
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
