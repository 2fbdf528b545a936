package quota

import "time"

// State is what a Quota looks like at one moment, for a metrics callback or a log line.
type State struct {
	Windows   []WindowState
	Waiting   int           // callers in line
	InFlight  int           // calls let go and not yet settled
	PausedFor time.Duration // after a 429, until calls go again; 0: they go
	Probing   bool          // after a pause: calls go one by one at first
}

// WindowState is one window at one moment.
type WindowState struct {
	Window
	Used   int  // calls that the server still counts, as far as we know
	Free   int  // calls that could go now
	Limit  int  // N, or a lower limit that the service named, or our share of it
	Shared bool // others use it too, as far as 429s tell
}

// State returns the present state. It costs a lock and one allocation.
func (q *Quota) State() State {
	q.lock()
	defer q.unlock()
	if q.begin() != nil {
		return State{}
	}
	now := q.now()
	q.advance(now)
	inFlight := q.inFlight(classes)
	s := State{
		Windows:   make([]WindowState, len(q.windows)),
		Waiting:   q.waitingCallers(),
		InFlight:  inFlight,
		PausedFor: max(0, time.Duration(q.pause.shut()-now)),
		Probing:   q.pause.width > 0,
	}
	for i := range q.windows {
		w := &q.windows[i]
		limit, used := w.limit(now), w.all()+inFlight
		s.Windows[i] = WindowState{
			Window: Window{w.own, w.per}, Used: used, Limit: limit, Free: max(0, limit-used), Shared: w.shared,
		}
	}
	return s
}
