// Package ledger is the seam between a quota.Quota and a ledger that counts the calls of several
// processes. The Quota keeps what is its own: who waits, in which order, what this process has sent.
// The Ledger says how many of its calls may go.
package ledger

import (
	"time"

	"github.com/steadyhttp/steadyhttp/internal/list"
)

// Class is a priority.
type Class uint8

const (
	Normal Class = iota
	High
	Classes // how many there are
)

// Ledger grants places, and is told what becomes of them. All its methods are called with the
// Quota's lock held: they must not block. Times are measured from a base of the Quota's own, by the
// monotonic clock.
type Ledger interface {
	// Begin is called once, before all else.
	Begin(h Host)

	// Admits reports whether a call of a class may take its places.
	Admits(c Class, places int, now time.Duration) bool

	// Take has a call that was admitted take them.
	Take(c Class, places int, now time.Duration) *Hold

	// Resent adds places to those of a call under way: net/http has sent it again, unasked.
	Resent(h *Hold, places int, now time.Duration)

	// Charge returns the places of a sending that nobody asked for, of a call that was over.
	Charge(c Class, places int, at time.Duration) *Hold

	// Counted says by when the server has counted a call. It may be told again, of a later time.
	Counted(h *Hold, at time.Duration)

	// Refund gives the places of a call back that provably never left.
	Refund(h *Hold, now time.Duration)

	// Wanted says that somebody waits who may not go yet.
	Wanted(now time.Duration)

	// Earliest returns before when a call of a class can't go that has others before it which take
	// ahead places, as far as is known.
	Earliest(c Class, ahead, places int, now time.Duration) time.Duration

	// Paused says that nobody may go until a time.
	Paused(until, now time.Duration)

	// Learned says that what is known of the limits has changed: see Host.Limits.
	Learned(now time.Duration)

	// Used returns how many places all processes took of a window of late, as of the last word; 0: there
	// was none.
	Used(window int) int
}

// Hold is the places of one sending, from their grant until all windows have forgotten them. What is in
// it is the Ledger's.
type Hold struct {
	Class Class
	IDs   []ID
	One   [1]ID         // where IDs begins, so that most calls allocate once
	High  int           // how many of them count as of high priority, if Class is Normal
	Told  int           // how many of them all know of
	Taken time.Duration // when
	Use   time.Duration // until when its grant may be used
	Until time.Duration // until when all take it to be under way, or when it was counted
	Loose int           // taken without a grant, in no word from Redis yet
	Over  bool          // it is not under way any more

	Flight list.Links[Hold] // among those under way
}

// ClassOf returns the class that a place counts as.
func (h *Hold) ClassOf(i int) Class {
	if i < h.High {
		return High
	}
	return h.Class
}

// ID names a place within its process.
type ID struct{ Grant, N uint64 }

// Host is what a Ledger may ask of its Quota. All but Lock and Now require that the lock is held. Advance
// and Serve call the Ledger: its own methods must not call them.
type Host interface {
	Lock()
	Unlock()
	Now() time.Duration

	// Advance brings all counts up to now.
	Advance() (now time.Duration)

	// Serve lets those go who may.
	Serve()

	// Demand returns how many places callers of a class wait for that could go but for the Ledger, how
	// many the first of them needs, and whether anybody waits.
	Demand(c Class) (places, first int, waiting bool)

	// Limits returns the windows as they are now.
	Limits() []Limit

	// Log calls yield for what this process has sent, the newest first, as far as a window counts it or
	// has done so a while ago, of 3 s at the most, until it returns false. Calls under way are not in it.
	Log(c Class, ago time.Duration, yield func(at time.Duration, n int) bool)

	// InFlight returns how many places calls under way hold.
	InFlight() int

	// Pause stops everybody until a time: another process was told to.
	Pause(until time.Duration)

	// Dismiss refuses all who wait, and all who would have to from now on.
	Dismiss(err error)

	// Transit returns how long a call may be under way before the server counts it.
	Transit() time.Duration

	// Among says how many processes share the quota, and so the pace of a window that others use too.
	Among(processes int)

	// Lower takes over what another process has learned.
	Lower(window int, l Limit)
}

// Limit is one window.
type Limit struct {
	N      int           // its limit now
	Normal int           // of which calls of normal priority may take so many
	Own    int           // as configured
	Per    time.Duration // its length, with the pad

	// What was learned of it:
	Named    int           // by a text; Own: nothing was
	Lowered  time.Duration // how long that holds
	LowUntil time.Duration // until when
	Wide     bool          // its pad has been widened, since the server counts otherwise than we do
	Shared   bool          // others use it
	Share    float64       // what we take of it
	GrownAt  time.Duration
}
