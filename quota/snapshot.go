package quota

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Snapshot is what a new process has to know of the calls before it. It is small, about 30 bytes a call as JSON, and its form is
// stable.
type Snapshot struct {
	At     time.Time `json:"at"`     // by the wall clock, which is all that two processes share
	Normal []Calls   `json:"normal"` // the oldest first
	High   []Calls   `json:"high,omitempty"`
}

// Calls are N calls that the server counted Age before the snapshot. A negative Age is that of a call which was still under way.
type Calls struct {
	Age time.Duration `json:"age"`
	N   int           `json:"n"`
}

// Snapshot returns what Restore needs. Take it as the last thing before the process ends, or now and then.
func (q *Quota) Snapshot() Snapshot {
	q.lock()
	defer q.unlock()
	s := Snapshot{At: time.Now().Round(0)}
	if q.begin() != nil {
		return s
	}
	now := q.now()
	q.advance(now)
	for c, list := range [...]*[]Calls{&s.Normal, &s.High} {
		log := q.calls[c].log
		for _, r := range log {
			if r.n > 0 {
				*list = append(*list, Calls{time.Duration(now - r.at), r.n})
			}
		}
		if n := q.calls[c].inFlight; n > 0 {
			age := -q.transit // they may arrive yet
			if last := len(*list) - 1; last >= 0 {
				age = min(age, (*list)[last].Age) // of a Quota with a longer MaxTransit
			}
			*list = append(*list, Calls{age, n})
		}
	}
	return s
}

// Restore makes q go on where another left off. It must come before the first use of q; one that
// fails changes nothing. A clock that was set back in between is noticed, and taken as no time having
// passed; one that was set forward can't be told from a pause.
func (q *Quota) Restore(s Snapshot) error {
	q.lock()
	defer q.unlock()
	if q.begun {
		return errors.New("quota: Restore after the first use; restore before the Quota is a gate of anything")
	}
	if err := s.check(); err != nil {
		return err
	}
	q.restored = !s.At.IsZero()
	if err := q.begin(); err != nil {
		return err
	}
	// Either may be as large as a Duration gets: they are compared one by one before they are added.
	passed, oldest := max(0, time.Since(s.At)), q.windows[longest(q.windows)].per+edge
	for c, calls := range [...][]Calls{s.Normal, s.High} {
		for _, one := range calls {
			if one.N > 0 && passed < oldest+maxTransit && one.Age < oldest-passed {
				q.charge(class(c), instant(-passed-one.Age), one.N)
			}
		}
	}
	q.advance(0)
	if q.Start == Spent && q.restored {
		q.charge(normal, 0, q.uncovered(passed))
	}
	return nil
}

// uncovered returns how many calls the process before may have made since its snapshot, of those
// that the longest window has room for.
func (q *Quota) uncovered(passed time.Duration) int {
	most := max(0, q.windows[longest(q.windows)].n-q.windows[longest(q.windows)].all())
	if passed <= 0 {
		return 0
	}
	for i := range q.windows {
		w := &q.windows[i]
		if rounds := int64((passed-1)/w.per) + 1; rounds <= int64(most)/int64(w.n) {
			most = int(rounds) * w.n
		}
	}
	return most
}

// check refuses what no Quota has written, naming the field and the fix.
func (s Snapshot) check() error {
	refuse := func(format string, args ...any) error {
		const fix = "; it is damaged: drop it, and set Quota.Start to Spent"
		return fmt.Errorf("quota: Snapshot."+format+fix, args...)
	}
	if s.At.IsZero() && len(s.Normal)+len(s.High) > 0 {
		return refuse("At is missing, and calls have an age at some time")
	}
	all := 0
	for _, list := range [...]struct {
		name  string
		calls []Calls
	}{{"Normal", s.Normal}, {"High", s.High}} {
		for i, c := range list.calls {
			switch {
			case c.N < 0:
				return refuse("%s[%d].N is %d, which is no number of calls", list.name, i, c.N)
			case c.N > math.MaxInt/4-all: // sums of a few of them must not wrap around
				return refuse("%s[%d].N is %d, more than can have been made", list.name, i, c.N)
			case c.Age < -maxTransit:
				return refuse("%s[%d].Age is %v, and no call is further ahead than %v",
					list.name, i, c.Age, -maxTransit)
			case i > 0 && c.Age > list.calls[i-1].Age:
				return refuse("%s[%d].Age is %v, more than that before it", list.name, i, c.Age)
			}
			all += c.N
		}
	}
	return nil
}
