package quota

import (
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
	"github.com/steadyhttp/steadyhttp/internal/list"
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
	sends   int32   // of which the first was told, replays included
	class   class
	state   state
	told    bool // an attempt tells it of its sending
	over    bool // it can't be sent again
	heard   bool // it has been answered
	dated   bool // it is known when it was sent
	left    bool
	closed  bool // its 429 began the present pause
	good    bool // it has been answered, and has widened the door

	gone    bool                // it has been told of its sending
	narrow  bool                // granted while few may be under way at once
	stuck   bool                // it lost its place before it was sent
	place   *list.Links[ticket] // in pause.places, or in pause.stuck; nil: it never had one
	entered instant             // when it got its place
	queued  int                 // callers that had to queue until its grant

	hold *ledger.Hold // of its places with the ledger; nil: there is none

	of *ticket // the first sending, of a replay; nil: this is it

	flight list.Links[ticket] // in Quota.unsent or Quota.sent
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
