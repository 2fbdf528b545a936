// Package quota keeps calls within several limits at once, "100 a minute and 1500 an hour": at most
// N calls in any interval of length W as the server counts them, provided that each arrives within
// MaxTransit of its sending, and hardly slower than that allows.
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
// An answer that comes later than MaxTransit tells that its request may have arrived late too: all
// that a network held back for 5 s arrives at once. Such a call is counted anew from its answer on,
// and the limits hold, as long as no more than half a window's places are held back, in windows that
// are longer than the wait. Calls that always take long, as queries do, arrived long before: counting
// them so may cost a hundredth of a limit in the long run, and half a window once. Beyond that, the
// answer's time changes nothing.
//
// A call that was let go and stands elsewhere, behind MaxConnsPerHost, a second gate or Prepare,
// keeps its place until it is sent or over.
//
// net/http sends some requests again on its own, when a kept connection turns out to be dead
// (Request.isReplayable). Over HTTP/1.1, that waits for a place like a new call, at the turn of its
// own. Over HTTP/2, with TLS or without, or a base transport that does not call
// httptrace.ClientTrace.GetConn, nobody can be made to wait: such a replay is counted once it is under
// way, and where one was seen within the longest window, places are kept for more. Those of
// the first loss may be too many.
//
// A call takes one place, or as many as Weight says. A limit on calls at once is no window: a
// RoundTripper around the Base keeps it, until the body's end (see the example AtOnce).
//
// It remembers 24 bytes a call, over the longest window. Where a limit is above 10,000, calls that are
// close together are remembered as one, and the more coarsely the longer ago they were: at most a
// thousandth of a limit is left unused, and none is passed. A day at 100 a second and 5,000,000 a day
// takes 72 KiB.
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
// hour, and a limit that really is lower costs a few 429s a day.
//
// A 429 that our own calls do not explain means that others use the same quota: the Quota then
// measures what is left to it, paces itself, and tries for more from time to time: within a day, or ten
// windows if that is longer, for all of the limit. Not so with
// PauseOnly, where a service limits also what is no rate.
//
// # What it does not know
//
// A new process does not know what the one before has sent. A Fresh start (the default) may cost as
// many 429s as there were calls in the last window; see ColdStart, Snapshot and Restore. Two
// processes with the same credentials share one quota without knowing of each other; to the Quota
// that is like any other sharing. Where they have a Redis in common, package redisquota has them share
// it.
package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ledger"
	"github.com/steadyhttp/steadyhttp/internal/list"
	"github.com/steadyhttp/steadyhttp/internal/waits"
)

// Window is one limit: at most N calls in any interval of length Per, a millisecond to 10 years.
type Window struct {
	N   int
	Per time.Duration
}

// Quota is a steadyhttp.Gate over several windows at once. Its fields are read-only after first use; it is safe for
// concurrent use and must not be copied.
type Quota struct {
	// Windows are the limits, all of which hold at once. At least one, each of at most 1e15
	// calls (1<<30 on 32 bits) and 10 years.
	Windows []Window

	// Reserve is the share of every window that is kept for calls of high priority, from 0 up to but not 1. It is
	// that share of the limit as it is at the time, and is rounded to whole calls: 0.1 of 2 a minute is
	// none. 0: none.
	Reserve float64

	// MaxQueue bounds the callers that wait, those of high priority and the others apart; one more is
	// refused. 0: no bound. Negative: nobody waits.
	MaxQueue int

	// MaxWait bounds how long a call waits here. What would take longer, as things are when it comes,
	// is refused at once, with that wait in its steadyhttp.Refusal; what turns out to is refused then.
	// 0: no bound. Trace.Waiting is told of each wait as it begins.
	MaxWait time.Duration

	// MaxTransit is how long a request may take from its sending to where the server counts it, the
	// condition of the promise: one that arrives later than that, and whose answer does not tell,
	// may be counted in a window that we believe has room. A longer one costs: a call without an
	// answer is held for as long, and one that is answered later than 2 s until its answer. With
	// queries of 30 s, a MaxTransit of 30 s turns 100 a minute into 67. 0: 2 s. At most an hour.
	MaxTransit time.Duration

	// Weight says how many places a call takes in every window: a batch of up to 20 requests, or what
	// a service's table of costs says. Less than 1 is 1. A call that weighs more than a window's N is
	// refused. It must be fast and safe for concurrent use. nil: each takes one.
	Weight func(*http.Request) int

	// PauseOnly is for services whose 429s tell also of limits that are no rate: calls at once, or
	// processor time. One then pauses all callers, and teaches nothing of how fast to go, unless its
	// text names one of the Windows. false: one that our own calls do not explain is a sign of others.
	PauseOnly bool

	// Start says what a new Quota takes its windows to be. Zero: Fresh.
	Start ColdStart

	ledger  ledger.Ledger          // what all processes know; nil: this one is alone
	leaving atomic.Pointer[caller] // those who have given up, and are still in line
	owner   atomic.Pointer[Quota]  // this one, from its first use on; in a copy, another
	notSent atomic.Int64           // places of calls that were let go and have not been sent

	mu       sync.Mutex // guards what follows; see lock
	begun    bool
	invalid  error
	restored bool      // Restore says what was sent
	base     time.Time // all times are measured from it, by the monotonic clock
	windows  []window
	calls    [classes]history
	transit  time.Duration     // MaxTransit, or what 0 stands for
	unsent   list.List[ticket] // not known to be sent, with nobody to tell, in the order of their grants
	sent     list.List[ticket] // in flight, in the order of their sending
	queues   [classes]queue
	soonest  instant     // no deadline in the queues is before it
	queued   int         // callers that had to queue so far
	timer    *time.Timer // for whoever is next; nil: none is armed
	spare    atomic.Pointer[ticket]
	pause    pause

	over     error   // why nobody waits any more; nil: they do
	replayed instant // when net/http last sent a request twice on its own
}

// ColdStart is what a new Quota, which knows nothing of the calls before it, takes its windows to be.
type ColdStart uint8

const (
	Fresh ColdStart = iota // nothing was sent: right for a first start, and quick
	Spent                  // everything was sent just now: no 429, after a wait as long as the longest window

	// After Restore, Spent is for what the Snapshot does not cover: as many calls as the windows allow
	// may have been sent since it was taken, and are taken to have been, just now. Where that was a
	// moment ago, it costs the shortest window at most.
)

// instant is a time since Quota.base. Comparing and storing it is half the work of a time.Time.
type instant int64

const (
	never   = instant(-1 << 62)
	forever = instant(1 << 62)
)

// maxN is far from where sums of calls and weights would wrap around.
const maxN = min(1e15, math.MaxInt/2+1)

func (i instant) add(d time.Duration) instant { return i + instant(d) }

const (
	usualTransit = 2 * time.Second
	maxTransit   = time.Hour

	// After the grant, an attempt that nobody tells the sending of is taken to have been sent at last
	// after this. One that is told of keeps its place for as long as it waits elsewhere: all that wait
	// may go at once.
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

// errNil is for a nil *Quota among the Gates, which is no nil Gate: that one would be skipped.
var errNil = &steadyhttp.Refusal{Err: errors.New("quota: the *Quota in Transport.Gates is nil; " +
	"leave it out, or set its Windows")}

// errCopied is for a copy, which would count what it shares with the other on its own.
var errCopied = &steadyhttp.Refusal{Err: errors.New("quota: the Quota was copied after its first use; " +
	"share one by its address, a *Quota")}

// Enter implements steadyhttp.Gate. An Attempt is large, and many callers may wait here: it is
// handed on to nobody below, for the sake of their stacks.
func (q *Quota) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	if q == nil {
		return nil, errNil
	}
	if owner := q.owner.Load(); owner != nil && owner != q {
		return nil, errCopied // before the lock, which may have been copied as it was held
	}
	t := q.newTicket(ctx, a.Began, a.Request)
	t.told = a.Observe(t)
	w, err := q.join(ctx, t)
	if w != nil {
		a.Waits(func() time.Duration { return q.expected(w) })
		err = q.await(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Leave implements steadyhttp.Pass for a ticket.
func (t *ticket) Leave(a steadyhttp.Attempt) { t.q.leave(t, a) }

func (q *Quota) newTicket(ctx context.Context, began time.Time, req *http.Request) *ticket {
	t := q.spare.Swap(nil)
	if t == nil {
		t = new(ticket)
	}
	*t = ticket{q: q, class: classOf(ctx), began: began, weight: 1}
	if q.Weight != nil && req != nil {
		t.weight = max(1, q.Weight(req))
	}
	return t
}

// join lets t go, or returns who has to wait for its turn.
func (q *Quota) join(ctx context.Context, t *ticket) (*caller, error) {
	if ctx.Err() != nil {
		return nil, &endedError{ctx: ctx}
	}
	q.lock()
	defer q.unlock()
	if err := q.begin(); err != nil {
		return nil, err
	}
	if t.weight > 1 {
		for i := range q.windows {
			if most := q.windows[i].own; t.weight > most {
				return nil, tooHeavy(t.weight, i, most)
			}
		}
	}
	now := q.now()
	q.advance(now)
	if q.nobodyBefore(t.class) && q.mayPass(t, now) {
		q.take(t, now)
		return nil, nil
	}
	return q.enqueue(ctx, t, now)
}

func tooHeavy(weight, window, most int) *steadyhttp.Refusal {
	return &steadyhttp.Refusal{Err: fmt.Errorf("quota: Quota.Weight of the call is %d, "+
		"and Quota.Windows[%d].N is %d; split the call", weight, window, most)}
}

// Replay implements steadyhttp.Observer for a ticket: net/http is about to send its request again.
// The server may count both sendings, so that this one waits for a place of its own.
func (t *ticket) Replay(ctx context.Context) error {
	r := &ticket{q: t.q, class: t.class, began: t.began, weight: t.weight, told: true, of: t}
	w, err := t.q.join(ctx, r)
	if w == nil {
		return err
	}
	waits.Announce(ctx, func() time.Duration { return t.q.expected(w) })
	return t.q.await(ctx, w)
}

// begin resolves the fields at the first use. It requires that q.mu is held.
func (q *Quota) begin() error {
	if q.begun {
		if q.owner.Load() != q {
			return errCopied
		}
		return q.invalid
	}
	q.begun = true
	q.owner.Store(q)
	q.base = time.Now()
	q.transit = cmp.Or(q.MaxTransit, usualTransit)
	q.replayed, q.soonest = never, forever
	if q.invalid = q.check(); q.invalid != nil {
		return q.invalid
	}
	q.windows = newWindows(q.Windows, q.Reserve)
	if q.ledger != nil {
		q.ledger.Begin(host{q})
	}
	if q.Start == Spent && !q.restored {
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
		if int64(w.N) > maxN {
			return refuse("Quota.Windows[%d].N is %d; leave out what is no limit, or use at most %d", i, w.N, int64(maxN))
		}
		if w.Per <= 0 {
			return refuse("Quota.Windows[%d].Per is %v; use a positive duration", i, w.Per)
		}
		if w.Per < durations.MinWindow {
			return refuse("Quota.Windows[%d].Per is %v; use a duration with its unit, as in 60 * time.Second", i, w.Per)
		}
		if w.Per > durations.MaxWindow {
			return refuse("Quota.Windows[%d].Per is %v; use at most 10 years", i, w.Per)
		}
	}
	if !(q.Reserve >= 0 && q.Reserve < 1) { // false for NaN too
		return refuse("Quota.Reserve is %v; use a share from 0 up to but not 1, or normal calls never go", q.Reserve)
	}
	if q.MaxTransit < 0 || q.MaxTransit > maxTransit {
		return refuse("Quota.MaxTransit is %v; use up to %v, or 0 for %v", q.MaxTransit, maxTransit, usualTransit)
	}
	if q.MaxTransit > 0 && q.MaxTransit < durations.MinWindow {
		return refuse("Quota.MaxTransit is %v; use a duration with its unit, as in 30 * time.Second", q.MaxTransit)
	}
	if q.MaxWait < 0 {
		return refuse("Quota.MaxWait is %v; use a positive duration, or 0 for no bound", q.MaxWait)
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
		unsent, sent := q.unsent.Front(), q.sent.Front()
		switch {
		case unsent != nil && unsent.until() <= now && (sent == nil || unsent.until() <= sent.until()):
			unsent.flight.Remove()
			q.settle(unsent, unsent.until())
		case sent != nil && sent.until() <= now:
			sent.flight.Remove()
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

// mayPass says whether t may be sent now. A replay of a call that was let go since the last pause
// has its place there already.
func (q *Quota) mayPass(t *ticket, now instant) bool {
	if t.of != nil && t.of.epoch == q.pause.epoch {
		return now >= q.pause.shut() && q.haveRoom(t, now) && q.granted(t, now)
	}
	return q.pause.open(now) && q.haveRoom(t, now) && q.granted(t, now)
}

func (q *Quota) haveRoom(t *ticket, now instant) bool {
	c, weight := t.class, t.weight
	own, all := q.inFlight(c), q.inFlight(classes)
	for i := range q.windows {
		w := &q.windows[i]
		if !w.admits(c, own, all, weight, now) {
			return false
		}
		if q.replayed == never {
			continue
		}
		// With the call itself, for which there is always room in an empty window.
		if w.all()+all > 0 && !w.admits(classes, 0, all+q.mayReplay(classes)+weight, weight, now) ||
			c == normal && w.used[normal]+own > 0 && !w.admits(c, own+q.mayReplay(c)+weight, 0, weight, now) {
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
func (q *Quota) take(t *ticket, now instant) {
	t.granted, t.places, t.epoch = now, t.weight, q.pause.epoch
	q.tellTake(t, now)
	q.countUnsent(t, t.places)
	q.calls[t.class].inFlight += t.weight
	q.calls[t.class].unanswered += t.weight
	if !t.told {
		q.unsent.PushBack(t, &t.flight)
	}
	if t.of == nil {
		q.pause.admit(t, q.queued, now)
	} else {
		q.resend(t.of, t, now)
	}
	for i := range q.windows {
		q.windows[i].pace(t.weight, now)
	}
}

// resend makes r what is heard of t from now on. What was sent before may be on its way yet.
func (q *Quota) resend(t, r *ticket, now instant) {
	switch before := t.current(); before.state {
	case waiting:
		q.refund(before)
	default:
		q.answered(before)
	}
	t.replay = r
	if t.epoch != q.pause.epoch {
		t.epoch, t.narrow = q.pause.epoch, false
		q.pause.admit(t, q.queued, now)
	}
}

// charge logs n calls of a class that the server has counted by the given time, and returns the
// time that they are in the log with.
func (q *Quota) charge(c class, at instant, n int) instant {
	for i := range q.windows {
		q.windows[i].used[c] += n
	}
	return q.calls[c].push(at, n, granularity(q.windows))
}

// countUnsent keeps count of the places of calls that keep them for as long as they are not sent.
func (q *Quota) countUnsent(t *ticket, places int) {
	if t.told {
		q.notSent.Add(int64(places))
	}
}

// settle moves a call in flight, which its list has let go of, into the log.
func (q *Quota) settle(t *ticket, at instant) {
	if t.state == waiting {
		q.countUnsent(t, -t.places)
	}
	q.calls[t.class].inFlight -= t.places
	q.answered(t)
	t.state, t.at = logged, q.charge(t.class, at, t.places)
	q.tellCounted(t, t.at)
}

// answered notes that a call in flight can't be sent again by net/http any more.
func (q *Quota) answered(t *ticket) {
	if !t.over {
		t.over = true
		q.calls[t.class].unanswered -= t.weight
	}
}

// leave ends a call with what became of it.
func (q *Quota) leave(t *ticket, a steadyhttp.Attempt) {
	q.lock()
	defer q.unlock()
	now := q.now()
	q.advance(now)
	q.pause.release(t)
	last := t.current()
	switch {
	case a.Response != nil:
		q.ended(last, now)
	case last.state == waiting && (a.Sent.IsZero() || last != t && a.Sends <= int(t.sends)):
		q.refund(last)
	case a.Sent.IsZero() && last.state != onTheWay:
		q.refund(last)
	case last.state == waiting:
		// It went out, and nobody told us when: the attempt itself does, of its first sending.
		at := instant(a.Sent.Sub(q.base))
		if last != t {
			at = now
		}
		q.departed(last, at)
		q.answered(last)
	default:
		// A lost answer: the server may count it until the connection has surely broken.
		q.answered(last)
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
	if t.heard {
		return
	}
	t.heard = true
	switch t.state {
	case logged:
		q.late(t, now)
		return
	case refunded:
		return
	}
	t.flight.Remove()
	q.settle(t, now)
}

// departed notes when a call's headers went out.
func (q *Quota) departed(t *ticket, at instant) {
	t.flight.Remove()
	q.countUnsent(t, -t.places)
	t.state, t.sentAt, t.dated = onTheWay, max(at, t.granted), true
	q.putSent(t)
}

// putSent puts t in its place. Sendings are told nearly in their order, so the place is near the
// end.
func (q *Quota) putSent(t *ticket) {
	before := q.sent.Back()
	for before != nil && before.until() > t.until() {
		before = before.flight.Prev()
	}
	if before == nil {
		q.sent.PushFront(t, &t.flight)
	} else {
		before.flight.PushAfter(t, &t.flight)
	}
}

// refund gives the place of a call back that provably never left, that one and no other.
func (q *Quota) refund(t *ticket) {
	switch t.state {
	case waiting:
		t.flight.Remove()
		q.countUnsent(t, -t.places)
		q.calls[t.class].inFlight -= t.places
		q.answered(t)
		t.state = refunded
		q.tellRefund(t, q.now())
	case logged:
		q.calls[t.class].remove(t.at, t.weight, q.windows, t.class)
		t.state = refunded
		q.tellRefund(t, q.now())
	}
}

// recycle keeps a ticket that nobody holds any more for the next call. One that an attempt may still tell something to is
// left to the garbage collector.
func (q *Quota) recycle(t *ticket) {
	if !t.told && t.left && (t.state == logged || t.state == refunded) {
		q.spare.Store(t)
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
	t.sends++
	left, sends := t.left, t.sends
	t = t.current()
	switch {
	case left:
	case t.state == waiting:
		q.departed(t, instant(at.Sub(q.base)))
		if q.waitingCallers() > 0 {
			q.serve(now) // whoever waits for its place knows now for how long
		}
	case t.state == onTheWay:
		// net/http sends it again, on another connection: the server may count both.
		q.replayed = now
		t.flight.Remove()
		t.sentAt = max(t.sentAt, instant(at.Sub(q.base)))
		q.putSent(t)
		t.places += t.weight
		q.calls[t.class].inFlight += t.weight
		q.tellResent(t, now)
	case t.state == logged && t.told && sends == 1:
		// Its answer came first.
	case t.state == logged:
		// The first sending, very late, or one again after that: count what the log does not have, until it has surely arrived.
		t.at, t.places = q.charge(t.class, now.add(q.transit), t.weight), t.weight
		t.dated = true
		q.tellCharge(t, t.at)
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
	q.ended(t.current(), now)
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
