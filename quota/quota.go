// Package quota keeps calls within several limits at once, "100 a minute and 1500 an hour", exactly: never more than N calls
// in any interval of length W as the server counts them, and no slower than that.
//
//	transport := &steadyhttp.Transport{Gates: []steadyhttp.Gate{&quota.Quota{Windows: []quota.Window{
//		{N: 100, Per: time.Minute},
//		{N: 1500, Per: time.Hour},
//	}}}}
//
// # How it counts
//
// A server counts a call when it arrives, some time between its sending and its answer. So a call
// takes its place in a window when it is let go. W after its answer the place is free again, or W
// after two seconds from its sending (MaxTransit) if the answer takes longer. A request that
// provably never left gives its place back. A call enters all windows or none. A token bucket can't
// do that: with a burst of N it lets 2N calls through in the first window, and a smaller burst
// wastes the rest.
//
// # Order
//
// Callers are served first come, first served; a retry keeps the place of its call. Calls of high priority (WithPriority)
// go before all others, and Reserve keeps a share of every window for them. A caller whose turn can't come before its
// context's deadline is refused at once, with the wait that it would have needed.
//
// # A 429 all the same
//
// The service's word counts: everyone stops until its time, then one probe goes, then the rest at a
// growing pace. A probe that has no answer after 5 s holds nobody up any longer: the next one goes.
//
// A limit that the service's text names is taken over if it is lower, for ten windows or an hour,
// whichever is longer; each 429 that names it meanwhile begins that time anew. Then our own limit
// comes back, at a growing pace. If a 429 names a lower limit again before as much time again has
// passed, it holds for twice as long, up to a day (or ten windows). A mistaken text does harm for an
// hour, and a limit that really is lower costs one 429 a day.
//
// A 429 that our own calls do not explain means that others use the same quota: the Quota then
// measures what is left to it, paces itself, and tries for more from time to time.
//
// # What it does not know
//
// A new process does not know what the one before has sent. A Fresh start (the default) may cost as
// many 429s as there were calls in the last window; see ColdStart, Snapshot and Restore. Two
// processes with the same credentials share one quota without knowing of each other; to the Quota
// that is like any other sharing.
package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
)

// Window is one limit: at most N calls in any interval of length Per.
type Window struct {
	N   int
	Per time.Duration
}

// Quota is a steadyhttp.Gate over several windows at once. Its fields are read-only after first use; it is safe for
// concurrent use and must not be copied.
type Quota struct {
	// Windows are the limits, all of which hold at once. At least one.
	Windows []Window

	// Reserve is the share of every window that is kept for calls of high priority, from 0 up to but not 1. It is rounded
	// to whole calls: 0.1 of 2 a minute is none. 0: none.
	Reserve float64

	// MaxQueue bounds the callers that wait; one more is refused. 0: no bound. Negative: nobody waits.
	MaxQueue int

	// MaxTransit is how long a request may take from its sending to where the server counts it, the condition of the
	// promise: one that arrives later than that may be counted in a window that we believe has room. A longer one costs:
	// the place of a call without an answer is held for as long. 0: 2 s. At most an hour.
	MaxTransit time.Duration

	// Start says what a new Quota takes its windows to be. Zero: Fresh.
	Start ColdStart

	leaving atomic.Pointer[caller] // those who have given up, and are still in line

	mu      sync.Mutex // guards what follows; see lock
	begun   bool
	invalid error
	base    time.Time // all times are measured from it, by the monotonic clock
	windows []window
	calls   [classes]history
	transit time.Duration // MaxTransit, or what 0 stands for
	unsent  list          // in flight, not sent yet as far as we know, in the order of their grants
	sent    list          // in flight, in the order of their sending
	queues  [classes]queue
	soonest instant     // no deadline in the queues is before it
	queued  int         // callers that had to queue so far
	timer   *time.Timer // for whoever is next; nil: none is armed
	spare   *ticket     // for the next call in flight
	pause   pause

	replayed instant // when net/http last sent a request twice on its own
}

// ColdStart is what a new Quota, which knows nothing of the calls before it, takes its windows to be.
type ColdStart uint8

const (
	Fresh ColdStart = iota // nothing was sent: right for a first start, and quick
	Spent                  // everything was sent just now: never a 429, after a wait as long as the longest window
)

// instant is a time since Quota.base. Comparing and storing it is half the work of a time.Time.
type instant int64

const (
	never   = instant(-1 << 62)
	forever = instant(1 << 62)
)

// maxPer is far from where sums of times would wrap around.
const maxPer = 10 * 365 * 24 * time.Hour

func (i instant) add(d time.Duration) instant { return i + instant(d) }

const (
	usualTransit = 2 * time.Second
	maxTransit   = time.Hour

	// After the grant, an attempt that has not told of its sending is taken to have been sent at last after this.
	unsentFor = 30 * time.Second
)

// ErrDeadline is matched by the errors of calls that were refused because their turn could not have come before their
// context's deadline.
var ErrDeadline = errors.New("quota: not before the deadline")

// tooLate is why a wait was not begun that the context would have cut short.
type tooLate struct{ durations.TooLate }

func (e *tooLate) Error() string { return "quota: " + e.TooLate.Error() }

// Is matches ErrDeadline, and what a durations.TooLate matches.
func (e *tooLate) Is(target error) bool { return target == ErrDeadline || e.TooLate.Is(target) }

func refuseLate(needs, left time.Duration) *steadyhttp.Refusal {
	return &steadyhttp.Refusal{Wait: needs, Err: &tooLate{durations.TooLate{Needs: needs, Left: left, Of: " of quota"}}}
}

// Enter implements steadyhttp.Gate.
func (q *Quota) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	t, err := q.enter(ctx, a)
	if err != nil {
		return nil, err
	}
	told := a.Observe(t)
	if t.narrow {
		q.lock() // others look, for whom a probe may wait
		defer q.unlock()
	}
	t.told = told
	return t, nil
}

// Leave implements steadyhttp.Pass for a ticket.
func (t *ticket) Leave(a steadyhttp.Attempt) { t.q.leave(t, a) }

func (q *Quota) enter(ctx context.Context, a steadyhttp.Attempt) (*ticket, error) {
	if ctx.Err() != nil {
		return nil, &endedError{ctx}
	}
	class := classOf(ctx)
	q.lock()
	if err := q.begin(); err != nil {
		q.unlock()
		return nil, err
	}
	now := q.now()
	q.advance(now)
	if q.nobodyBefore(class) && q.mayGo(class, now) {
		t := q.take(class, now)
		q.unlock()
		return t, nil
	}
	w, err := q.enqueue(ctx, class, a, now)
	q.unlock()
	if err != nil {
		return nil, err
	}
	return q.await(ctx, w, a)
}

// begin resolves the fields at the first use. It requires that q.mu is held.
func (q *Quota) begin() error {
	if q.begun {
		return q.invalid
	}
	q.begun = true
	q.base = time.Now()
	q.transit = cmp.Or(q.MaxTransit, usualTransit)
	q.replayed, q.soonest = never, forever
	if q.invalid = q.check(); q.invalid != nil {
		return q.invalid
	}
	q.windows = newWindows(q.Windows, q.Reserve)
	if q.Start == Spent {
		q.charge(normal, 0, q.windows[longest(q.windows)].n)
	}
	return nil
}

// check refuses fields that make no sense, naming the field and the fix.
func (q *Quota) check() error {
	refuse := func(format string, args ...any) error {
		return &steadyhttp.Refusal{Err: fmt.Errorf("quota: "+format, args...)}
	}
	if len(q.Windows) == 0 {
		return refuse("Quota.Windows is empty; give it at least one Window")
	}
	for i, w := range q.Windows {
		if w.N < 1 {
			return refuse("Quota.Windows[%d].N is %d; use at least 1", i, w.N)
		}
		if w.Per <= 0 {
			return refuse("Quota.Windows[%d].Per is %v; use a positive duration", i, w.Per)
		}
		if w.Per > maxPer {
			return refuse("Quota.Windows[%d].Per is %v; use at most 10 years", i, w.Per)
		}
	}
	if !(q.Reserve >= 0 && q.Reserve < 1) { // false for NaN too
		return refuse("Quota.Reserve is %v; use a share from 0 up to but not 1, or normal calls never go", q.Reserve)
	}
	if q.MaxTransit < 0 || q.MaxTransit > maxTransit {
		return refuse("Quota.MaxTransit is %v; use up to %v, or 0 for %v", q.MaxTransit, maxTransit, usualTransit)
	}
	if q.Start > Spent {
		return refuse("Quota.Start is %d; use Fresh or Spent", q.Start)
	}
	return nil
}

func (q *Quota) now() instant { return instant(time.Since(q.base)) }

// advance brings all counts up to now. It requires that q.mu is held, as does everything below.
func (q *Quota) advance(now instant) {
	for {
		// What is in flight goes into the log in the order in which its time is up, so that the log stays sorted.
		unsent, sent := q.unsent.first, q.sent.first
		switch {
		case unsent != nil && unsent.until() <= now && (sent == nil || unsent.until() <= sent.until()):
			q.unsent.remove(unsent)
			q.settle(unsent, unsent.until())
		case sent != nil && sent.until() <= now:
			q.sent.remove(sent)
			q.settle(sent, sent.until())
		default:
			for c := range q.calls {
				q.calls[c].expire(q.windows, class(c), now)
			}
			for i := range q.windows {
				q.windows[i].restore(now)
			}
			if now > q.replayed.add(q.windows[longest(q.windows)].per) {
				q.replayed = never
			}
			return
		}
	}
}

// mayGo says whether a call may be sent now.
func (q *Quota) mayGo(c class, now instant) bool {
	if !q.pause.open(now) {
		return false
	}
	for i := range q.windows {
		if !q.windows[i].admits(c, q.inFlight(c)+q.mayReplay(c), q.inFlight(classes)+q.mayReplay(classes), now) {
			return false
		}
	}
	return true
}

// inFlight returns how many places the calls in flight hold, those of one class or, for classes, of all.
func (q *Quota) inFlight(c class) int {
	n := 0
	for i := range q.calls {
		if c == classes || class(i) == c {
			n += q.calls[i].inFlight
		}
	}
	return n
}

// mayReplay returns how many places are kept free for replays. Where net/http has been seen to send requests twice of late, each
// call that is still unanswered may become two.
func (q *Quota) mayReplay(c class) int {
	if q.replayed == never {
		return 0
	}
	n := 0
	for i := range q.calls {
		if c == classes || class(i) == c {
			n += q.calls[i].unanswered
		}
	}
	return n
}

// take lets a call go.
func (q *Quota) take(c class, now instant) *ticket {
	t := q.spare
	if t == nil {
		t = &ticket{}
	} else {
		q.spare = t.next
	}
	*t = ticket{q: q, class: c, granted: now, places: 1, epoch: q.pause.epoch}
	q.calls[c].inFlight++
	q.calls[c].unanswered++
	q.unsent.push(t)
	q.pause.admit(t, q.queued, now)
	for i := range q.windows {
		q.windows[i].pace(now)
	}
	return t
}

// charge logs n calls of a class that the server has counted by the given time.
func (q *Quota) charge(c class, at instant, n int) {
	q.calls[c].push(at, n, granularity(q.windows))
	for i := range q.windows {
		q.windows[i].used[c] += n
	}
}

// settle moves a call in flight, which its list has let go of, into the log.
func (q *Quota) settle(t *ticket, at instant) {
	q.calls[t.class].inFlight -= t.places
	q.answered(t)
	q.charge(t.class, at, t.places)
	t.state, t.at = logged, at
}

// answered notes that a call in flight can't be sent again by net/http any more.
func (q *Quota) answered(t *ticket) {
	if !t.over {
		t.over = true
		q.calls[t.class].unanswered--
	}
}

// leave ends a call with what became of it.
func (q *Quota) leave(t *ticket, a steadyhttp.Attempt) {
	q.lock()
	defer q.unlock()
	now := q.now()
	q.advance(now)
	q.pause.release(t)
	switch {
	case a.Response != nil:
		q.ended(t, now)
	case a.Sent.IsZero() && t.state != onTheWay:
		q.refund(t)
	case t.state == waiting:
		// It went out, and nobody told us when: the attempt itself does.
		q.departed(t, instant(a.Sent.Sub(q.base)))
		q.answered(t)
	default:
		// A lost answer: the server may count it until the connection has surely broken.
		q.answered(t)
	}
	switch {
	case a.Verdict.Class == steadyhttp.Throttled || t.closed:
		q.throttled(t, a, now)
	case a.Response != nil && t.epoch == q.pause.epoch && !t.good:
		q.pause.good()
	}
	t.left = true
	q.recycle(t)
	q.serve(now)
}

// ended settles a call that has been answered just now.
func (q *Quota) ended(t *ticket, now instant) {
	switch t.state {
	case waiting:
		q.unsent.remove(t)
	case onTheWay:
		q.sent.remove(t)
	case logged:
		return
	}
	q.settle(t, now)
}

// departed notes when a call's headers went out.
func (q *Quota) departed(t *ticket, at instant) {
	q.unsent.remove(t)
	t.state, t.sentAt = onTheWay, max(at, t.granted)
	q.sent.insert(t)
}

// refund gives the place of a call back that provably never left, that one and no other.
func (q *Quota) refund(t *ticket) {
	switch t.state {
	case waiting:
		q.unsent.remove(t)
		q.calls[t.class].inFlight -= t.places
		q.answered(t)
		t.state = refunded
	case logged:
		q.calls[t.class].remove(t.at, q.windows, t.class)
		t.state = refunded
	}
}

// recycle keeps a ticket that nobody holds any more for the next call. One that an attempt may still tell something to is
// left to the garbage collector.
func (q *Quota) recycle(t *ticket) {
	if !t.told && t.left && (t.state == logged || t.state == refunded) {
		t.next, q.spare = q.spare, t
	}
}

// Sent implements steadyhttp.Observer for a ticket: the request's headers go out.
func (t *ticket) Sent(at time.Time) {
	q := t.q
	q.lock()
	defer q.unlock()
	now := q.now()
	q.advance(now)
	q.pause.sent(t)
	switch {
	case t.left:
	case t.state == waiting:
		q.departed(t, instant(at.Sub(q.base)))
	case t.state == onTheWay:
		// net/http sends it again, on another connection: the server may count both.
		q.replayed = now
		q.sent.remove(t)
		t.sentAt = max(t.sentAt, instant(at.Sub(q.base)))
		q.sent.insert(t)
		t.places++
		q.calls[t.class].inFlight++
	case t.state == logged:
		// The first sending, very late, or one again after that: count what the log does not have, until it has surely arrived.
		q.charge(t.class, now.add(q.transit), 1)
	}
}

// Answered implements steadyhttp.Observer for a ticket: the response's headers have come. A 429 closes the quota for
// everyone now, and not when its body has been looked at. An answer that is no failure frees its
// place now: its body may go on for hours.
func (t *ticket) Answered(resp *http.Response) {
	q := t.q
	q.lock()
	defer q.unlock()
	if t.left {
		return
	}
	now := q.now()
	q.advance(now)
	q.ended(t, now)
	switch {
	case t.epoch != q.pause.epoch:
	case resp.StatusCode == http.StatusTooManyRequests:
		t.closed = true
		q.pause.begin()
		q.pause.reading = now.add(patience)
	case resp.StatusCode < 400 && t.narrow && !t.good:
		t.good = true
		q.pause.release(t)
		q.pause.good()
		q.serve(now)
	}
}
