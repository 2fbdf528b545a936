package quota

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
)

// oracle is what the Quota must do, told as plainly as it can be: it keeps every call for ever, and counts them all anew for
// every question.
type oracle struct {
	windows []Window
	reserve float64
	limits  []oracleLimit
	now     instant
	calls   []*heldCall
	queue   [classes][]*waiter // first come, first served

	replayed instant // when a request was last sent again that nobody had asked for

	// After a 429:
	pads   []time.Duration
	wide   []bool  // pads that a 429 at the very limit has widened
	until  instant // closed until then
	width  float64 // how many may be unanswered at once; 0: any number
	moved  instant // when one last made way for the next without an answer
	epoch  int
	failed int

	floor [classes]instant // after a restart: what was under way may arrive until then
	hung  int              // probes that made way without an answer
	late  int              // answers that moved their calls
}

// oracleLimit is what the oracle knows of one window's limit.
type oracleLimit struct {
	n        int           // as the service named it, or ours
	holds    time.Duration // what it named last
	until    instant
	shared   bool // with others, since, with so much for us
	since    instant
	share    float64
	due      instant // when the next call is, at an even pace
	slack    instant // until when those wait on who waited as it was shared: nobody wakes them
	spent    int64   // on late answers: places times nanoseconds, a hundred times as many
	spentSet instant
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
	moved    instant // from when on it is counted, since its answer was late; -1: it was not
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
	if c.moved >= 0 {
		end = c.moved
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

// answer takes note of an answer, now, to a call that may have been taken to have arrived before.
func (o *oracle) answer(call *heldCall) {
	call.over = true
	if call.ended >= 0 {
		return
	}
	until, unknown := call.counted(o.now, 0)
	call.ended = max(o.now, o.floor[call.class])
	if unknown || until >= o.now || call.sent < 0 {
		return
	}
	// What it costs to count it from now on, in each window; if one can't pay, nothing is done.
	costs := make([]int64, len(o.windows))
	for w := range o.windows {
		l, per := &o.limits[w], int64(o.windows[w].Per)
		costs[w] = 100 * int64(call.places) * min(int64(o.now-until), per)
		l.spent = max(0, l.spent-int64(l.n)*int64(o.now-l.spentSet))
		l.spentSet = o.now
		if l.spent+costs[w] > max(100*per, 50*int64(l.n)*per) {
			return
		}
	}
	o.late++
	call.moved = call.ended
	for w := range o.windows {
		o.limits[w].spent += costs[w]
		call.forgot[w] = false
	}
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
	slices.SortStableFunc(calls, func(a, b *heldCall) int { return cmp.Compare(a.door, b.door) })
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

// blamed returns the window that a 429 is about, whose length its text may name, and how many calls
// of late it may count.
func (o *oracle) blamed(asked, named time.Duration) (at, recent int) {
	at = -1
	fullest := -1.0
	for w := range o.windows {
		if o.windows[w].Per == named {
			at = w
			break
		}
	}
	for w := range o.windows {
		if at >= 0 && o.windows[at].Per == named {
			break
		}
		if fill := float64(o.logged(w)) / float64(o.limits[w].n); o.windows[w].Per >= asked && fill > fullest {
			at, fullest = w, fill
		}
	}
	if at < 0 {
		for w := range o.windows {
			if at < 0 || o.windows[w].Per > o.windows[at].Per {
				at = w
			}
		}
	}
	for _, call := range o.calls {
		if call.refunded {
			continue
		}
		until, unknown := call.counted(o.now, 0)
		if !unknown && until > o.now.add(-o.windows[at].Per-edge) {
			recent += call.places
		}
	}
	return at, recent
}

// widens reports whether a 429 comes at the very limit, for the first time: then the window counts a
// little otherwise than we do. Else others use it, and what is ours is measured.
func (o *oracle) widens(w, recent, n int) bool {
	return recent >= n && !o.wide[w] && !o.limits[w].shared
}

// lower has the oracle take over a limit that the service names.
func (o *oracle) lower(w, n int) {
	l := &o.limits[w]
	if n > l.n || n >= o.windows[w].N {
		return
	}
	first := max(time.Hour, 10*o.windows[w].Per)
	if l.holds == 0 || o.now-l.until >= instant(l.holds) {
		l.holds = first
	} else if o.now >= l.until {
		l.holds = min(2*l.holds, max(first, 24*time.Hour))
	}
	share := o.share(w)
	l.n, l.until = n, o.now.add(l.holds)
	l.since, l.share = o.now, min(share, float64(n))
}

// share returns how much of a shared window is ours now. It grows.
func (o *oracle) share(w int) float64 {
	l := &o.limits[w]
	rounds := max(10, min(2000/float64(l.n), (24*time.Hour).Seconds()/o.windows[w].Per.Seconds()))
	grown := float64(max(0, o.now-l.since)) / float64(o.windows[w].Per) / rounds
	return l.share + grown*float64(l.n)
}

// most returns what a window lets pass now: surely, and at the most, since the share of a shared one
// grows all the time, and nobody is woken for it.
func (o *oracle) most(w int) (surely, atMost int) {
	l := &o.limits[w]
	if !l.shared && o.now >= l.slack {
		return l.n, l.n
	}
	share := o.share(w) + 1e-6
	return max(1, int(min(l.share, float64(l.n)))), max(1, min(l.n, int(share)))
}

// expire gives limits back whose time is over.
func (o *oracle) expire() {
	for w := range o.limits {
		l := &o.limits[w]
		if l.n != o.windows[w].N && o.now >= l.until {
			share := min(o.share(w), float64(l.n))
			if !l.shared {
				share = float64(l.n)
				l.shared, l.due = true, max(l.due, o.now)
			}
			l.n = o.windows[w].N
			l.since, l.share = o.now, share
		}
		if l.shared && o.share(w) >= float64(l.n)+1e-6 {
			l.shared, l.slack = false, o.now.add(2*o.windows[w].Per)
		}
	}
}

// due returns from when on a call may go at an even pace, which a twentieth of the share may be ahead
// of, in whole calls: surely, and perhaps.
func (o *oracle) due(w int) (surely, perhaps instant) {
	l := &o.limits[w]
	if !l.shared && o.now >= l.slack {
		return o.now, o.now
	}
	share := o.share(w)
	from := func(calls int) instant {
		return l.due.add(-time.Duration(float64(max(1, calls)) / max(1, share) * float64(o.windows[w].Per)))
	}
	surely = from(int(l.share / 20))
	if !l.shared {
		return surely, o.now
	}
	return surely, from(int((share + 1e-6) / 20))
}

func (o *oracle) at(now instant) {
	o.now = now
	o.expire()
}

// restart is a new process that knows what the one before has sent, and nothing else.
func (o *oracle) restart(paused time.Duration) {
	o.calls = slices.DeleteFunc(o.calls, func(c *heldCall) bool { return c.refunded })
	for _, call := range o.calls {
		if until, unknown := call.counted(o.now, 0); unknown {
			call.ended = o.now.add(usualTransit)
			o.floor[call.class] = call.ended
		} else {
			call.ended = until
		}
		call.moved = call.ended
		call.holds, call.over = false, true
	}
	o.now = o.now.add(paused)
	o.reset()
}

// reset forgets all but the calls.
func (o *oracle) reset() {
	o.replayed, o.moved, o.until, o.width, o.failed = never, 0, 0, 0, 0
	o.epoch++
	o.queue = [classes][]*waiter{}
	o.limits = make([]oracleLimit, len(o.windows))
	o.wide = make([]bool, len(o.windows))
	o.pads = nil
	for w, window := range o.windows {
		o.limits[w].n, o.limits[w].due = window.N, never
		o.limits[w].spentSet = o.now
		o.pads = append(o.pads, max(time.Millisecond, window.Per/2000))
	}
	for _, call := range o.calls {
		clear(call.forgot)
	}
}

// throttled is what a 429 does, which may name n calls per window.
func (o *oracle) throttled(call *heldCall, asked, named time.Duration, n int) {
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
	w, recent := o.blamed(asked, named)
	if o.windows[w].Per == named {
		o.lower(w, n)
	}
	if asked == 0 {
		o.until = max(o.until, o.now.add(min(time.Second<<o.failed, o.windows[w].Per/32)))
	}
	o.failed++
	l := &o.limits[w]
	if o.widens(w, recent, l.n) {
		o.wide[w], o.pads[w] = true, max(2*o.pads[w], 1050*time.Millisecond)
		return
	}
	_, limit := o.most(w)
	l.share = 0.95 * max(float64(o.logged(w)), float64(limit)/2)
	l.shared, l.since, l.due = true, o.now, max(l.due, o.now)
}

// count is for messages: what each window counts, of each class.
func (o *oracle) count() (counts [][classes]int) {
	for w := range o.windows {
		counts = append(counts, [classes]int{o.used(w, normal), o.used(w, high)})
	}
	return counts
}

// mayGo reports whether a caller may go: surely, or perhaps, which is the same unless a window is
// shared.
func (o *oracle) mayGo(who *waiter, surely bool) bool {
	if o.now < o.until {
		return false
	}
	if (who.root == nil || who.root.epoch != o.epoch) && o.now < o.doorOpens() {
		return false
	}
	for w := range o.windows {
		limit, atMost := o.most(w)
		late, due := o.due(w)
		due = due.add(-time.Microsecond)
		if surely {
			due = late.add(time.Millisecond)
		} else {
			limit = atMost
		}
		if l := &o.limits[w]; (l.shared || o.now < l.slack) && o.now < due {
			return false
		}
		for _, c := range []class{classes, normal} {
			most := limit
			if c == normal {
				if who.class == high {
					continue
				}
				kept := 0
				for float64(kept)+0.5 <= o.reserve*float64(limit) {
					kept++
				}
				most = max(1, limit-kept)
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

// first returns whose turn it is; nil: nobody waits.
func (o *oracle) first() *waiter {
	for _, c := range []class{high, normal} {
		if len(o.queue[c]) > 0 {
			return o.queue[c][0]
		}
	}
	return nil
}

func (o *oracle) take(c class) *heldCall { return o.admit(&waiter{class: c, weight: 1}) }

func (o *oracle) admit(w *waiter) *heldCall {
	call := &heldCall{
		class: w.class, weight: w.weight, places: w.weight,
		granted: o.now, sent: -1, ended: -1, moved: -1, epoch: o.epoch, forgot: make([]bool, len(o.windows)),
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
			o.hung++
		}
		enters.holds, enters.door = true, o.now
	}
	o.calls = append(o.calls, call)
	for w := range o.limits {
		if l := &o.limits[w]; l.shared {
			l.due = max(l.due, o.now).add(time.Duration(float64(call.weight) / max(1, o.share(w)) * float64(o.windows[w].Per)))
		}
	}
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
	for w := range o.windows {
		consider(o.replayed.add(o.windows[w].Per + 1))
		if l := &o.limits[w]; l.n != o.windows[w].N {
			consider(l.until)
		}
		if l := &o.limits[w]; l.shared || o.now < l.slack {
			surely, _ := o.due(w)
			consider(surely.add(2 * time.Millisecond))
			consider(l.slack)
		}
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
	steps := long.Size(t, 250_000, 1_000_000)
	if testing.Short() || RaceEnabled {
		steps = 100_000
	}
	const each = 2000
	began := time.Now()
	var all tally
	for run := range steps / each {
		all.add(live(t, uint64(run), nil, each))
	}
	t.Logf("%d operations in %v: %+v", steps, time.Since(began), all)
	if least := steps / 20_000; all.throttlings < 10*least || all.named < least || all.lowered < least ||
		all.hung < least || all.late < least || all.restarts < least {
		t.Errorf("that is too few of some kind")
	}
}

// tally is how often what happened.
type tally struct {
	throttlings, named int // 429s, and those whose text named a limit
	lowered            int // operations while a limit was lowered
	shared             int // and while one was taken to be shared
	hung               int // probes that made way without an answer
	late               int // answers that moved their calls
	restarts           int
}

func (t *tally) add(other tally) {
	t.throttlings += other.throttlings
	t.named += other.named
	t.lowered += other.lowered
	t.shared += other.shared
	t.hung += other.hung
	t.late += other.late
	t.restarts += other.restarts
}

func FuzzOracle(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add(uint64(2), []byte{0, 0, 0, 0, 6, 6, 6, 0, 0, 0, 7, 1, 2})
	f.Fuzz(func(t *testing.T, seed uint64, choices []byte) {
		live(t, seed, choices, min(len(choices), 300))
	})
}

// live makes steps operations on both. What they are is chosen by choices, or by the dice.
func live(t *testing.T, seed uint64, choices []byte, steps int) (tally tally) {
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
		o := &oracle{windows: windows, reserve: reserve}
		o.reset()
		q.State()          // begins time
		zero := instant(0) // of q, by the oracle's time
		var held []*heldCall
		fail := func(step int, format string, args ...any) {
			t.Fatalf("seed %d, step %d at %v, windows %v, reserve %v: %s", seed, step, time.Duration(o.now), windows, reserve, fmt.Sprintf(format, args...))
		}
		// settle compares who has been let go, and when.
		settleAt := func(step int, end instant) {
			synctest.Wait()
			for w := o.first(); w != nil; w = o.first() {
				select {
				case ticket := <-w.result:
					if ticket == nil {
						fail(step, "a caller was turned away")
					}
					last := ticket.current()
					o.at(max(o.now, zero+last.granted))
					if !o.mayGo(w, false) {
						fail(step, "a caller of class %d has gone before his turn; the windows count %v", w.class, o.count())
					}
					o.queue[w.class] = o.queue[w.class][1:]
					w.call = o.admit(w)
					if w.root == nil {
						w.call.ticket = ticket
						held = append(held, w.call)
					}
					continue
				default:
				}
				if o.at(end); o.mayGo(w, true) {
					fail(step, "a caller of class %d waits who may go; the windows count %v", w.class, o.count())
				}
				break
			}
			o.at(end)
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
		settle := func(step int) { settleAt(step, o.now) }
		// pass lets time go by, and looks whenever something changes.
		pass := func(step int, d time.Duration) {
			end := o.now.add(d)
			for o.now < end {
				next := o.next(end)
				time.Sleep(time.Duration(next - o.now))
				settleAt(step, next)
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
			switch choice % 15 {
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
				settle(step)
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
				settle(step)
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
				o.answer(call.current)
				o.left(call)
				o.good(call)
				resp := &http.Response{StatusCode: 200}
				call.ticket.Answered(resp)
				q.leave(call.ticket, steadyhttp.Attempt{Response: resp, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success}})
				settle(step)
			case 10: // a 429, mostly where it is known exactly what follows
				i, ok := free(choice / 11)
				if !ok {
					continue
				}
				call := held[i]
				current := call.current
				before, forgot, limits, lates := *current, slices.Clone(current.forgot), slices.Clone(o.limits), o.late
				if current.sent < 0 && !late(current) {
					current.sent = o.now
				}
				o.answer(current)
				asked := time.Duration(choice/11%4) * 2 * time.Second
				named, n, text := time.Duration(0), 0, ""
				if seed%4 < 2 && dice.IntN(2) == 0 {
					w := dice.IntN(len(windows))
					named, n = windows[w].Per, 1+dice.IntN(windows[w].N+1)
					text = fmt.Sprintf("Maximum allowed %d per %s.", n, time.Time{}.Add(named).Format("15:04:05"))
				}
				if seed%4 > 0 && call.epoch == o.epoch {
					w, recent := o.blamed(asked, named)
					limit := o.limits[w].n
					if windows[w].Per == named && n < windows[w].N {
						limit = min(limit, n)
					}
					if !o.widens(w, recent, limit) {
						*current, o.limits, o.late = before, limits, lates
						current.forgot = forgot
						continue
					}
				}
				release(i)
				if before.sent != current.sent {
					call.ticket.Sent(time.Now())
				}
				o.left(call)
				o.throttled(call, asked, named, n)
				resp := &http.Response{StatusCode: http.StatusTooManyRequests}
				call.ticket.Answered(resp)
				q.leave(call.ticket, steadyhttp.Attempt{Response: resp, Sent: time.Now(), Verdict: steadyhttp.Verdict{
					Class: steadyhttp.Throttled, RetryAfter: asked, Message: text,
				}})
				if named > 0 {
					tally.named++
				}
				tally.throttlings++
				settle(step)
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
				settle(step)
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
				settle(step)
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
				settle(step)
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
				settle(step)
			case 14: // another process goes on
				if seed%5 > 0 || choice/15%4 > 0 {
					continue
				}
				saved := q.Snapshot()
				for _, queue := range o.queue {
					for _, w := range queue {
						w.cancel()
					}
				}
				synctest.Wait()
				paused := time.Duration(dice.IntN(2)*dice.IntN(30_000)) * time.Millisecond
				o.restart(paused)
				time.Sleep(paused)
				held, zero = nil, o.now
				q = &Quota{Windows: windows, Reserve: reserve, Weight: q.Weight}
				if err := q.Restore(saved); err != nil {
					fail(step, "%v", err)
				}
				tally.restarts++
				settle(step)
			default:
				pass(step, time.Duration(choice/10*choice)*time.Millisecond*20)
			}
			for w, l := range o.limits {
				if l.n < windows[w].N {
					tally.lowered++
				}
				if l.shared {
					tally.shared++
				}
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
		tally.hung, tally.late = o.hung, o.late
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
	return tally
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
