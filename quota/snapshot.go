package quota

import (
	"errors"
	"fmt"
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
			*list = append(*list, Calls{-arrival, n}) // they may arrive yet
		}
	}
	return s
}

// Restore makes q go on where another left off. It must come before the first use of q. A clock that was set back in between is
// noticed, and taken as no time having passed; one that was set forward can't be told from a pause.
func (q *Quota) Restore(s Snapshot) error {
	q.lock()
	defer q.unlock()
	if q.begun {
		return errors.New("quota: Restore after the first use; restore before the Quota is a gate of anything")
	}
	for _, calls := range [...][]Calls{s.Normal, s.High} {
		for i, c := range calls {
			if c.N < 0 {
				return fmt.Errorf("quota: Snapshot has %d calls in one place; it is damaged", c.N)
			}
			if c.Age < -arrival {
				return fmt.Errorf("quota: Snapshot has calls of %v from now; it is damaged", -c.Age)
			}
			if i > 0 && c.Age > calls[i-1].Age {
				return errors.New("quota: Snapshot is not in order; it is damaged")
			}
		}
	}
	if err := q.begin(); err != nil {
		return err
	}
	passed := max(0, time.Since(s.At))
	for c, calls := range [...][]Calls{s.Normal, s.High} {
		for _, one := range calls {
			if age := passed + one.Age; one.N > 0 && age < q.windows[longest(q.windows)].per+edge {
				q.charge(class(c), instant(-age), one.N)
			}
		}
	}
	q.advance(0)
	return nil
}
