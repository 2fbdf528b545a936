package quota

import "time"

// An answer that comes later than MaxTransit tells that its request may have arrived as late. To
// count it from then on holds its place for longer: by as much as the answer was late, or by a whole
// window if that is shorter. Where a network held calls back for once, that is next to nothing.
// Where all calls are long, it would be a large part of the limit, for nothing: they arrived long
// before. So what it costs is bounded.
const (
	// lateShare is the part of a limit that it may cost in the long run.
	lateShare = 0.01
	// lateAtOnce is the part of a window's places that it may cost at once: all that are taken when
	// the network stands still for half a window.
	lateAtOnce = 0.5
)

// late counts a call that has been logged from its answer on, which has come just now. Where nobody
// told of its sending, it is not known to be late.
func (q *Quota) late(t *ticket, now instant) {
	if !t.dated || t.at >= now || !q.affordLate(t, now) {
		return
	}
	q.calls[t.class].remove(t.at, t.places, q.windows, t.class)
	t.at = q.charge(t.class, now, t.places)
	q.tellCounted(t, t.at)
}

// affordLate pays for counting a call from now on, if every window can.
func (q *Quota) affordLate(t *ticket, now instant) bool {
	cost := func(w *window) float64 {
		return float64(t.places) * float64(min(time.Duration(now-t.at), w.per)) / float64(w.per)
	}
	for i := range q.windows {
		w := &q.windows[i]
		n := float64(w.n)
		w.late = max(0, w.late-lateShare*n*float64(now-w.lateAt)/float64(w.per))
		w.lateAt = now
		if w.late+cost(w) > max(1, lateAtOnce*n) {
			return false
		}
	}
	for i := range q.windows {
		q.windows[i].late += cost(&q.windows[i])
	}
	return true
}
