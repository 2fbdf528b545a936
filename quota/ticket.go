package quota

import (
	fifo "container/list"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
)

// ticket is one call in flight, from its grant to its place in the log. Each sending of it that
// net/http asks for has a ticket of its own, of which the first is what tells.
type ticket struct {
	q       *Quota
	began   time.Time // of its call
	replay  *ticket   // the last sending that had a place of its own; nil: there was none
	granted instant
	sentAt  instant // of the last sending
	at      instant // in the log
	weight  int     // places that a sending takes
	places  int     // for each sending that was not asked for
	epoch   int     // the pause after which it was granted
	class   class
	state   state
	told    bool // an attempt tells it of its sending
	over    bool // it can't be sent again
	heard   bool // it has been answered
	dated   bool // it is known when it was sent
	left    bool
	closed  bool // its 429 began the present pause
	good    bool // it has been answered, and has widened the door

	gone    bool          // it has been told of its sending
	narrow  bool          // granted while few may be under way at once
	sends   int32         // of which the first was told, replays included
	place   *fifo.Element // in pause.places or pause.stuck; nil: in neither
	entered instant       // when it got its place
	queued  int           // callers that had to queue until its grant

	hold *ledger.Hold // of its places with the ledger; nil: there is none

	of *ticket // the first sending, of a replay; nil: this is it

	next, prev *ticket // in one of the lists
}

type state uint8

const (
	waiting  state = iota // not sent yet
	onTheWay              // sent
	logged                // counted
	refunded              // never sent
)

// mayWait reports whether the call has not been sent, and may itself wait for another.
func (t *ticket) mayWait() bool { return t.told && !t.gone }

// until is when the call is taken to have arrived, if nothing is heard of it by then.
func (t *ticket) until() instant {
	if t.state == waiting { // and nobody would tell of its sending
		return t.granted.add(unsentFor)
	}
	return t.sentAt.add(t.q.transit)
}

// current returns the sending that what is heard now is about.
func (t *ticket) current() *ticket {
	if t.replay != nil {
		return t.replay
	}
	return t
}

// list is a list of tickets in the order of their until.
type list struct{ first, last *ticket }

func (l *list) push(t *ticket) {
	t.prev, t.next = l.last, nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
}

// insert puts t in its place. Sendings are told nearly in their order, so the place is near the end.
func (l *list) insert(t *ticket) {
	after := l.last
	for after != nil && after.until() > t.until() {
		after = after.prev
	}
	if after == l.last {
		l.push(t)
		return
	}
	t.prev = after
	if after == nil {
		t.next, l.first = l.first, t
	} else {
		t.next, after.next = after.next, t
	}
	t.next.prev = t
}

func (l *list) remove(t *ticket) {
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.next, t.prev = nil, nil
}
