package quota

import (
	"context"
	"fmt"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/list"
)

// caller is somebody who waits. There are many of them: what each costs is a channel and this.
type caller struct {
	class    class
	began    instant // of its call: a retry keeps its place
	ready    chan struct{}
	ticket   *ticket            // that waits
	went     bool               // it may go
	err      error              // or it is known that it can't in time
	deadline instant            // forever: none
	atMost   instant            // until when Quota.MaxWait lets it wait; 0: it does not say
	number   int                // in the order of arrival
	place    list.Links[caller] // in Quota.queues

	leavingNext *caller // in Quota.leaving
}

// queue is a list of callers of one class in the order in which their calls began.
type queue struct {
	callers list.List[caller]
	length  int
	weight  int // places that all of them take
}

// insert puts w in its place. New calls belong at the end, and retries near the front, so both ends are searched at once.
func (q *queue) insert(w *caller) {
	q.length++
	q.weight += w.ticket.weight
	back, front := q.callers.Back(), q.callers.Front()
	for back != nil && back.began > w.began {
		if front.began > w.began {
			back = front.place.Prev()
			break
		}
		back, front = back.place.Prev(), front.place.Next()
	}
	if back == nil {
		q.callers.PushFront(w, &w.place)
	} else {
		back.place.PushAfter(w, &w.place)
	}
}

// before returns how many places those before w take. It searches from w to both ends at once, for the same
// reason.
func (q *queue) before(w *caller) int {
	back, front := w.place.Prev(), w.place.Next()
	before, behind := 0, 0
	for {
		switch {
		case back == nil:
			return before
		case front == nil:
			return q.weight - w.ticket.weight - behind
		}
		before, behind = before+back.ticket.weight, behind+front.ticket.weight
		back, front = back.place.Prev(), front.place.Next()
	}
}

func (q *queue) remove(w *caller) {
	q.length--
	q.weight -= w.ticket.weight
	w.place.Remove()
}

func (q *Quota) waitingCallers() int { return q.queues[normal].length + q.queues[high].length }

func (q *Quota) nobodyBefore(c class) bool {
	return q.queues[high].length == 0 && (c == high || q.queues[normal].length == 0)
}

// enqueue puts a caller in line, unless its turn would come too late.
func (q *Quota) enqueue(ctx context.Context, t *ticket, now instant) (*caller, error) {
	if q.over != nil {
		return nil, q.over
	}
	c := t.class
	length := q.queues[c].length
	if limit := q.MaxQueue; limit != 0 && length >= max(0, limit) && t.of == nil {
		return nil, &steadyhttp.Refusal{
			Wait: time.Duration(max(q.atBest(c, q.queues[normal].weight+q.queues[high].weight, t.weight, now),
				q.pause.opens()) - now),
			Err: inLine{fmt.Errorf("quota: %d callers of its priority wait already; Quota.MaxQueue is %d",
				length, limit)},
		}
	}
	w := &caller{class: c, began: now, ticket: t, deadline: forever}
	if !t.began.IsZero() {
		w.began = instant(t.began.Sub(q.base))
	}
	deadline, limited := ctx.Deadline()
	if limited || q.MaxWait > 0 {
		ahead := q.ahead(w)
		if q.mayFavour() {
			ahead = 0
		}
		if limited {
			needs, left := time.Duration(q.atBest(c, ahead, t.weight, now)-now), time.Until(deadline)
			if needs > left {
				return nil, refuseLate(needs, left)
			}
			w.deadline = now.add(min(left, time.Duration(forever)/2)) // the year 9999 is none
		}
		if q.MaxWait > 0 {
			if needs := time.Duration(q.bound(c, ahead, t.weight, now) - now); needs > q.MaxWait {
				return nil, q.refuseLong(needs)
			}
			w.atMost = now.add(min(q.MaxWait, time.Duration(forever)/2))
			w.deadline = min(w.deadline, w.atMost)
		}
		q.soonest = min(q.soonest, w.deadline)
	}
	q.queued++
	w.number = q.queued
	w.ready = make(chan struct{})
	q.queues[c].insert(w)
	q.serve(now)
	return w, nil
}

// ahead returns how many places at least those take who will go before w. Of its own class, a retry may pass all.
func (q *Quota) ahead(w *caller) int {
	n := 0
	if last := q.queues[w.class].callers.Back(); last == nil || last.began <= w.began {
		n = q.queues[w.class].weight
	}
	if w.class == normal {
		n += q.queues[high].weight
	}
	return n
}

// await blocks until it is w's turn. A caller who gives up leaves nothing behind.
func (q *Quota) await(ctx context.Context, w *caller) error {
	var tooLong <-chan time.Time
	if w.atMost != 0 {
		timer := time.NewTimer(q.MaxWait)
		defer timer.Stop()
		tooLong = timer.C
	}
	select {
	case <-w.ready:
		if ctx.Err() == nil {
			return w.err
		}
	case <-ctx.Done():
	case <-tooLong:
		// It was expected in time, and the quota has become smaller.
		needs := q.expected(w)
		select {
		case <-w.ready:
			return w.err
		default:
			q.giveUp(w)
			return q.refuseLong(q.MaxWait + needs)
		}
	}
	weight, waited := w.ticket.weight, time.Duration(q.now()-w.began)
	q.giveUp(w)
	return &endedError{ctx, q.heldUp(weight, waited)}
}

// heldUp says that a call has waited in vain for places of calls that were let go and are not sent,
// which keep them; nil: it has not, or not for long. Of a context that has ended alone, nobody would
// see that these wait for one another.
func (q *Quota) heldUp(weight int, waited time.Duration) *steadyhttp.Refusal {
	held := int(q.notSent.Load())
	if held == 0 || waited < patience {
		return nil
	}
	for i := range q.windows {
		if n := q.windows[i].own; held > n-min(weight, n) {
			return &steadyhttp.Refusal{Err: fmt.Errorf("quota: calls that were let go and are not sent hold "+
				"%d places, and Quota.Windows[%d].N is %d; if they wait for this one, since Prepare calls through "+
				"the Quota, or it is in Transport.Gates twice, or in a Transport below too, take it out there",
				held, i, n)}
		}
	}
	return nil
}

func (q *Quota) refuseLong(needs time.Duration) *steadyhttp.Refusal {
	return &steadyhttp.Refusal{Wait: needs, Err: inLine{fmt.Errorf("quota: needs %v of quota, Quota.MaxWait is %v",
		durations.Round(needs), q.MaxWait)}}
}

// inLine marks what refuses a call for the length of its wait, or of the line: package redisquota adds
// where the wait comes from.
type inLine struct{ error }

func (inLine) InLine() {}

// expected returns how long w has to wait as things are now; 0: no longer.
func (q *Quota) expected(w *caller) time.Duration {
	q.lock()
	defer q.unlock()
	if w.went || w.err != nil {
		return 0
	}
	now := q.now()
	q.advance(now)
	ahead := q.queues[w.class].before(w)
	if w.class == normal {
		ahead += q.queues[high].weight
	}
	return time.Duration(q.bound(w.class, ahead, w.ticket.weight, now) - now)
}

// endedError is the end of a caller's context. It looks its cause up when it is asked: context.Cause takes the context's lock,
// and the callers of one context all end at once.
type endedError struct {
	ctx context.Context
	why *steadyhttp.Refusal // what it waited for in vain; nil: nothing in particular
}

func (e *endedError) Error() string {
	text := context.Cause(e.ctx).Error()
	if e.why != nil {
		text += "; " + e.why.Error()
	}
	return text
}

func (e *endedError) Unwrap() []error {
	errs := []error{context.Cause(e.ctx), e.ctx.Err()}
	if e.why != nil {
		errs = append(errs, e.why)
	}
	return errs
}

// giveUp takes a caller out of the line, or makes sure that somebody does. When a hundred thousand give up at once, as when a
// program ends, each waiting for the lock to leave by itself takes several times as long as the leaving.
func (q *Quota) giveUp(w *caller) {
	for {
		head := q.leaving.Load()
		w.leavingNext = head
		if q.leaving.CompareAndSwap(head, w) {
			break
		}
	}
	// Who has the lock looks again after giving it back.
	if q.mu.TryLock() {
		q.clearOut()
		q.unlock()
	}
}

func (q *Quota) lock() {
	q.mu.Lock()
	q.clearOut()
}

func (q *Quota) unlock() {
	for {
		q.mu.Unlock()
		if q.leaving.Load() == nil || !q.mu.TryLock() {
			return
		}
		q.clearOut()
	}
}

// clearOut lets those leave who have given up. It requires that q.mu is held.
func (q *Quota) clearOut() {
	w := q.leaving.Swap(nil)
	if w == nil {
		return
	}
	now := q.now()
	q.advance(now)
	for ; w != nil; w = w.leavingNext {
		switch {
		case w.err != nil: // it is out of the line already
		case !w.went:
			q.queues[w.class].remove(w)
		default: // its turn came at the same time
			q.refund(w.ticket)
			q.pause.release(w.ticket)
		}
	}
	q.serve(now) // the timer may have been set for one of them
}

// serve lets those go whose turn it is, and sets the one timer for the next.
func (q *Quota) serve(now instant) {
	q.advance(now)
	q.refuseLate(now)
	for {
		w := q.following(now)
		if w == nil {
			q.disarm()
			return
		}
		if !q.mayPass(w.ticket, now) {
			q.tellWanted(now)
			q.arm(q.bound(w.class, 0, w.ticket.weight, now), now)
			return
		}
		q.queues[w.class].remove(w)
		w.went = true
		q.take(w.ticket, now)
		close(w.ready)
	}
}

// following returns whose turn it is, nil if nobody waits.
func (q *Quota) following(now instant) *caller {
	if q.pause.favours(now) {
		if w := q.awaited(); w != nil && q.mayPass(w.ticket, now) {
			return w
		}
	}
	if w := q.queues[high].callers.Front(); w != nil {
		return w
	}
	return q.queues[normal].callers.Front()
}

// awaited returns for whom a call may wait that was let go and not sent: its Prepare for the token's
// request, or, where gates are passed in different orders, the gate behind this one for a call that
// has it. Whoever that is came after the grant. nil: there is none.
func (q *Quota) awaited() (first *caller) {
	t := q.pause.unsent()
	if t == nil {
		return nil
	}
	for i := range q.queues {
		for w := range q.queues[i].callers.All() {
			if w.number > t.queued && (first == nil || w.number < first.number) {
				first = w
			}
		}
	}
	return first
}

// mayFavour reports whether a caller who comes now may be let go before those ahead.
func (q *Quota) mayFavour() bool {
	if q.pause.stuck.Front() != nil {
		return true
	}
	for t := range q.pause.places.All() {
		if t.mayWait() {
			return true
		}
	}
	return false
}

// refuseLate sends those away whose time ends before the pause does.
func (q *Quota) refuseLate(now instant) {
	var goes [classes]instant // no sooner
	for c := range goes {
		goes[c] = max(q.pause.until, q.earliestOfAll(class(c), 0, 1, now))
	}
	if q.soonest >= max(goes[normal], goes[high]) {
		return
	}
	q.soonest = forever
	for i := range q.queues {
		until := goes[i]
		for w := range q.queues[i].callers.All() {
			if w.deadline >= until {
				q.soonest = min(q.soonest, w.deadline)
				continue
			}
			q.queues[i].remove(w)
			if w.deadline == w.atMost {
				w.err = q.refuseLong(q.MaxWait + time.Duration(until-w.atMost))
			} else {
				w.err = refuseLate(time.Duration(until-now), time.Duration(w.deadline-now))
			}
			close(w.ready)
		}
	}
}

// arm sets the timer. Where no window is in the way, what is waited for is an answer: of the probe, or of calls that may be sent
// twice. Those that hang are taken to have arrived in time, and a probe loses its place to the next.
func (q *Quota) arm(at, now instant) {
	if at <= now {
		at = q.pause.opens()
		consider := func(change instant) {
			if change > now && (at <= now || change < at) {
				at = change
			}
		}
		for _, first := range [...]*ticket{q.unsent.Front(), q.sent.Front()} {
			if first != nil {
				consider(first.until())
			}
		}
		if q.replayed != never {
			consider(q.replayed.add(q.windows[longest(q.windows)].per + 1))
			for i := range q.windows {
				if w := &q.windows[i]; w.all() > 0 {
					consider(q.logged(i, classes, 1).add(w.per + w.pad))
				}
			}
		}
	}
	if at <= now {
		q.disarm()
		return
	}
	wait := time.Duration(at - now)
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, func() {
			q.lock()
			defer q.unlock()
			q.serve(q.now())
		})
		return
	}
	q.timer.Reset(wait)
}

func (q *Quota) disarm() {
	if q.timer != nil {
		q.timer.Stop()
	}
}
