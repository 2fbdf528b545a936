package quota

import (
	"math"
	"time"
)

// Estimate returns how long a number of calls takes at the least within some limits, of which
// nothing is used at the start: from the first call's sending to the last one's. 10,000 calls at 100
// a minute and 1500 an hour take 6 h 09 min. It is 0 if no Quota could have such windows, and 146
// years where it is longer.
func Estimate(windows []Window, calls int) time.Duration {
	if (&Quota{Windows: windows}).check() != nil || calls < 1 {
		return 0
	}
	limits := make([]limit, len(windows))
	for i, w := range windows {
		limits[i] = limit{n: w.N, per: w.Per}
	}
	return time.Duration(plan(limits, nil, 0, calls))
}

// Estimate returns how long it takes from now until the last of a number of further calls of normal
// priority may go, behind those that wait already, if nobody else uses the limits.
func (q *Quota) Estimate(calls int) time.Duration {
	q.lock()
	defer q.unlock()
	if q.begin() != nil || calls < 1 {
		return 0
	}
	now := q.now()
	q.advance(now)
	waiting := q.queues[normal].weight + q.queues[high].weight
	return time.Duration(q.planned(min(calls, math.MaxInt-waiting)+waiting, now) - now)
}

func (q *Quota) planned(calls int, now instant) instant {
	limits := make([]limit, len(q.windows))
	var past []run
	for i := range q.windows {
		w := &q.windows[i]
		n := w.limit(now)
		limits[i] = limit{n: n, per: w.per + w.pad}
	}
	normals, all := q.calls[normal].log, q.calls[high].log
	for len(normals)+len(all) > 0 {
		if len(all) == 0 || len(normals) > 0 && normals[0].at <= all[0].at {
			past, normals = append(past, normals[0]), normals[1:]
		} else {
			past, all = append(past, all[0]), all[1:]
		}
	}
	if n := q.inFlight(classes); n > 0 {
		past = append(past, run{now, now, n})
	}
	return plan(limits, past, max(now, q.pause.until), calls)
}

// limit is a window of plan.
type limit struct {
	n    int
	per  time.Duration
	head int // of the runs: the first that it still counts
	used int
}

// Where a plan is longer than maxRuns, it has long been that of its slowest limit, over and over.
const maxRuns = 1 << 17

// plan returns when the last of some calls may go, the first of which may at start, after those of
// the past, the oldest first. All that may go at one time go as one run.
func plan(limits []limit, past []run, start instant, calls int) instant {
	runs := past
	for i := range limits {
		for _, r := range past {
			limits[i].used += r.n
		}
	}
	slowest := 0
	for i, l := range limits {
		if float64(l.per)/float64(l.n) > float64(limits[slowest].per)/float64(limits[slowest].n) {
			slowest = i
		}
	}
	now, skipped := start, instant(0)
	for {
		room, next := calls, forever
		for i := range limits {
			l := &limits[i]
			for l.head < len(runs) && runs[l.head].at.add(l.per) <= now {
				l.used -= runs[l.head].n
				l.head++
			}
			if free := l.n - l.used; free <= 0 {
				room, next = 0, runs[l.head].at.add(l.per)
				break
			} else {
				room = min(room, free)
			}
		}
		if room == 0 {
			if now = max(next, now); now >= forever {
				return forever
			}
			continue
		}
		if calls -= room; calls == 0 {
			return min(now.add(time.Duration(skipped)), forever)
		}
		runs = append(runs, run{now, now, room})
		for i := range limits {
			limits[i].used += room
		}
		if s := &limits[slowest]; len(runs)-len(past) == maxRuns && calls > s.n {
			rounds := (calls - 1) / s.n
			calls -= rounds * s.n
			skipped = instant(min(float64(rounds)*float64(s.per), math.MaxInt64/4))
		}
	}
}
