package quota

import (
	"errors"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
)

// Attach has q count together with other processes: package redisquota does so, and nobody else can.
// It must come before the first use of q.
func (q *Quota) Attach(l ledger.Ledger) error {
	q.lock()
	defer q.unlock()
	if q.begun {
		return errors.New("quota: Attach after the first use")
	}
	q.ledger = l
	return nil
}

// granted reports whether the ledger, if there is one, lets t go.
func (q *Quota) granted(t *ticket, now instant) bool {
	return q.ledger == nil || q.ledger.Admits(ledger.Class(t.class), t.weight, time.Duration(now))
}

// The ledger is told of what happens to t, if there is one.

func (q *Quota) tellTake(t *ticket, now instant) {
	if q.ledger != nil {
		t.hold = q.ledger.Take(ledger.Class(t.class), t.weight, time.Duration(now))
	}
}

func (q *Quota) tellCounted(t *ticket, at instant) {
	if t.hold != nil {
		q.ledger.Counted(t.hold, time.Duration(at))
	}
}

func (q *Quota) tellRefund(t *ticket, now instant) {
	if t.hold != nil {
		q.ledger.Refund(t.hold, time.Duration(now))
	}
}

func (q *Quota) tellResent(t *ticket, now instant) {
	if t.hold != nil {
		q.ledger.Resent(t.hold, t.weight, time.Duration(now))
	}
}

func (q *Quota) tellCharge(t *ticket, at instant) {
	if q.ledger != nil {
		t.hold = q.ledger.Charge(ledger.Class(t.class), t.weight, time.Duration(at))
	}
}

func (q *Quota) tellWanted(now instant) {
	if q.ledger != nil {
		q.ledger.Wanted(time.Duration(now))
	}
}

func (q *Quota) tellPaused(now instant) {
	if q.ledger != nil {
		q.ledger.Paused(time.Duration(q.pause.until), time.Duration(now))
	}
}

func (q *Quota) tellLearned(now instant) {
	if q.ledger != nil {
		q.ledger.Learned(time.Duration(now))
	}
}

// earliestOfAll is bound as far as other processes are concerned.
func (q *Quota) earliestOfAll(c class, ahead, weight int, now instant) instant {
	if q.ledger == nil {
		return never
	}
	return instant(q.ledger.Earliest(ledger.Class(c), ahead, weight, time.Duration(now)))
}

// usedByAll returns how many places are taken of a window, by all processes as far as is known.
func (q *Quota) usedByAll(w, own int) int {
	if q.ledger == nil {
		return own
	}
	return max(own, q.ledger.Used(w))
}

// samePause is by how much the times differ that the answers of one pause name.
const samePause = 50 * time.Millisecond

// host is what the ledger sees of a Quota.
type host struct{ q *Quota }

func (h host) Lock()   { h.q.lock() }
func (h host) Unlock() { h.q.unlock() }

func (h host) Now() time.Duration { return time.Duration(h.q.now()) }

func (h host) Advance() time.Duration {
	now := h.q.now()
	h.q.advance(now)
	return time.Duration(now)
}

func (h host) Serve() { h.q.serve(h.q.now()) }

func (h host) InFlight() int { return h.q.inFlight(classes) }

func (h host) Demand(c ledger.Class) (places, first int, waiting bool) {
	q := h.q
	line := &q.queues[c]
	head := line.callers.Front()
	if head == nil {
		return 0, 0, false
	}
	first = head.ticket.weight
	now := q.now()
	of := head.ticket.of
	switch {
	case of != nil && of.epoch == q.pause.epoch && now >= q.pause.shut() && !q.pause.open(now):
		return first, first, true // a replay has its place at the door already
	case !q.pause.open(now):
		return 0, 0, true
	case q.pause.width == 0:
		return line.weight, first, true
	}
	places, room := 0, max(1, int(q.pause.width)-q.pause.places.Len())
	for w := range line.callers.All() {
		if room--; room < 0 {
			break
		}
		places += w.ticket.weight
	}
	return places, first, true
}

func (h host) Limits() []ledger.Limit {
	q := h.q
	now := q.now()
	limits := make([]ledger.Limit, len(q.windows))
	for i := range q.windows {
		w := &q.windows[i]
		n := w.limit(now)
		limits[i] = ledger.Limit{
			N: n, Normal: w.forNormal(n), Own: w.own, Per: w.per + w.pad,
			Named: w.n, Lowered: w.lowered, LowUntil: time.Duration(w.lowUntil),
			Wide: w.widened, Shared: w.shared, Share: w.share, GrownAt: time.Duration(w.grownAt),
		}
	}
	return limits
}

func (h host) Log(c ledger.Class, older time.Duration, yield func(at time.Duration, n int) bool) {
	q := h.q
	log := q.calls[c].log
	longest := &q.windows[longest(q.windows)]
	since := q.now().add(-longest.per - longest.pad - min(older, edge))
	for i := len(log) - 1; i >= 0 && log[i].at > since; i-- {
		if log[i].n > 0 && !yield(time.Duration(log[i].at), log[i].n) {
			return
		}
	}
}

func (h host) Pause(until time.Duration) {
	q := h.q
	// Each answer tells of it, some milliseconds sooner or later than the one before.
	if now := q.now(); instant(until) > max(now, q.pause.until).add(samePause) {
		if now >= q.pause.until && q.pause.width != 1 {
			q.pause.begin()
		}
		q.pause.prolong(instant(until))
	}
}

func (h host) Dismiss(err error) {
	q := h.q
	q.over = err
	for c := range q.queues {
		line := &q.queues[c]
		for w := range line.callers.All() {
			line.remove(w)
			w.err = err
			close(w.ready)
		}
	}
}

func (h host) Transit() time.Duration { return h.q.transit }

func (h host) Among(processes int) {
	for i := range h.q.windows {
		h.q.windows[i].among = processes
	}
}

func (h host) Lower(window int, l ledger.Limit) {
	w := &h.q.windows[window]
	if l.Wide {
		w.widen()
	}
	if l.Named < w.own && (w.n == w.own || l.LowUntil > time.Duration(w.lowUntil)) {
		w.n, w.lowered, w.lowUntil = max(1, l.Named), l.Lowered, instant(l.LowUntil)
	}
	if l.Shared {
		w.shared, w.share, w.grownAt = true, min(l.Share, float64(w.n)), instant(l.GrownAt)
	}
}
