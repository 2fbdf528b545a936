package quota

import (
	"math"
	"slices"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
)

// class is a priority as an index. classes is how many there are, and stands for all of them.
type class uint8

const (
	normal class = iota
	high
	classes
)

// window is one limit, and what of it is taken.
type window struct {
	n        int           // the limit, own or a lower one that the service named
	own      int           // as configured
	per      time.Duration // its length
	pad      time.Duration // added to it: the server's clock is not ours
	reserve  float64       // the share of the limit, as it is now, that only calls of high priority get
	lowered  time.Duration // how long the limit that was named last holds; 0: none was
	lowUntil instant       // until when
	used     [classes]int  // logged calls that it still counts

	// Where other programs use the same limit, n is what all of us may send together.
	shared  bool
	share   float64 // what we take of it; grows back to n
	grownAt instant
	next    instant // when the next call would be due at an even pace
	widened bool    // pad has been, after a 429 at the very limit
	among   int     // processes that share the pace; 0: this one is alone

	late   float64 // places that late answers have cost of late
	lateAt instant // when that was brought up to date
}

const (
	minPad = time.Millisecond // and no more than a hundredth of a short window
	// Clocks that are 200 parts in a million apart put an hour's window off by 0.7 s. The pad covers twice that.
	padShare = 500e-6
	// widePad is the pad after a 429 that came though we were within the limit, and near to it. A
	// server that counts in whole seconds lets a call go up to a second later than we do.
	widePad = 1050 * time.Millisecond
	// edge is how much further back than the window we look for the calls that explain such a 429.
	edge = 3 * time.Second
)

func newWindows(limits []Window, reserve float64) []window {
	windows := make([]window, len(limits))
	for i, l := range limits {
		windows[i] = window{
			n: l.N, own: l.N,
			per:     l.Per,
			pad:     max(min(minPad, l.Per/100), time.Duration(padShare*float64(l.Per))),
			reserve: reserve,
		}
	}
	return windows
}

func longest(windows []window) (at int) {
	for i := range windows {
		if windows[i].per > windows[at].per {
			at = i
		}
	}
	return at
}

// admits says whether the window has room for one more call of a class, and of a weight; inFlight
// places of that class, and allInFlight of all, are under way. A call that has become heavier than
// the limit goes alone.
func (w *window) admits(c class, inFlight, allInFlight, weight int, now instant) bool {
	limit := w.limit(now)
	if w.all()+allInFlight > limit-min(weight, limit) { // in this order, none wraps around on 32 bits
		return false
	}
	if most := w.forNormal(limit); c == normal && w.used[normal]+inFlight > most-min(weight, most) {
		return false
	}
	return !w.shared || now >= w.next.add(-w.burst())
}

func (w *window) all() int { return w.used[normal] + w.used[high] }

// forNormal returns how many of the places are for normal calls, one at least.
func (w *window) forNormal(limit int) int {
	return max(1, limit-int(math.Round(w.reserve*float64(limit))))
}

// limit is what we may take of the window now: all of it, or our growing share.
func (w *window) limit(now instant) int {
	if !w.shared {
		return w.n
	}
	// The share grows from nothing to all in 10 windows, or in as many as let 2000 calls pass: each
	// try for more may cost a 429, and of a small limit that is a large part. But for one 429 a day
	// at most, no long window is kept small for months.
	full := max(10*float64(w.per), min(2000/float64(w.n)*float64(w.per), float64(lowAtMost)))
	w.share += float64(w.n) * float64(now-w.grownAt) / full
	w.grownAt = max(w.grownAt, now)
	if w.share >= float64(w.n) {
		w.shared = false
		return w.n
	}
	return max(1, int(w.share))
}

// interval is the pace at which our share lasts for the whole window. Were it sent in bursts, these
// would meet the bursts of others.
func (w *window) interval() time.Duration {
	return time.Duration(float64(w.per) / max(1, w.share) * float64(max(1, w.among)))
}

func (w *window) burst() time.Duration {
	return time.Duration(max(1, 0.05*w.share)) * w.interval()
}

func (w *window) pace(weight int, now instant) {
	if w.shared {
		w.next = max(w.next, now).add(time.Duration(float64(weight) * float64(w.interval())))
	}
}

// run is a number of calls that are logged as one: they came at the same time, or, where limits are
// large, so close together that taking all for the last of them wastes next to nothing.
type run struct {
	first, at instant
	n         int
}

// history is what is known of one class's calls: those in flight, and a log of the others, which
// all windows share.
type history struct {
	inFlight   int // places
	unanswered int // places of what may be sent again
	log        []run
	dropped    int   // runs that were taken off the log's front: log[0] is run number dropped
	heads      []int // by window: the number of the first run that it still counts
	merged     int   // runs that some window had let go when such runs were last merged
}

// exactUpTo is the largest limit of which every call is remembered by itself. Of larger ones, runs
// are that are as long as a 1024th of the shortest window that counts them: all of a run's calls are
// held for as long as its last one, so that a 1024th of a limit is wasted at most, and none is passed.
const exactUpTo = 10_000

const runsAWindow = 1024

// mergeFrom is how many runs must be worth a look.
const mergeFrom = 256

func granularity(windows []window) time.Duration {
	shortest, large := windows[0].per, false
	for i := range windows {
		shortest = min(shortest, windows[i].per)
		large = large || windows[i].n > exactUpTo
	}
	if !large {
		return 0
	}
	return shortest / runsAWindow
}

// push logs n calls that the server has counted by the given time. Times never go back: it returns
// the one that they are logged with.
func (c *history) push(at instant, n int, granularity time.Duration) instant {
	if len(c.log) > 0 {
		last := &c.log[len(c.log)-1]
		at = max(at, last.at)
		if at <= last.first.add(granularity) && c.counted(c.dropped+len(c.log)-1) {
			last.at = at
			last.n += n
			return at
		}
	}
	c.log = append(c.log, run{at, at, n})
	return at
}

// counted reports whether every window still counts a run. One that some window has let go can't grow any more.
func (c *history) counted(number int) bool {
	for _, head := range c.heads {
		if head > number {
			return false
		}
	}
	return true
}

// expire lets the windows forget what is old enough.
func (c *history) expire(windows []window, cl class, now instant) {
	if c.heads == nil {
		c.heads = make([]int, len(windows))
	}
	keep := c.dropped + len(c.log)
	for i := range windows {
		w := &windows[i]
		for c.heads[i] < c.dropped+len(c.log) {
			r := &c.log[c.heads[i]-c.dropped]
			if r.at.add(w.per+w.pad) > now {
				break
			}
			w.used[cl] -= r.n
			c.heads[i]++
		}
		keep = min(keep, c.heads[i])
	}
	c.merge(windows)
	c.drop(keep, now.add(-windows[longest(windows)].per-edge))
}

// merge makes fewer runs of those that the shorter windows have let go. It looks at them only when
// they are twice as many as it left the last time.
func (c *history) merge(windows []window) {
	from, to := c.dropped+len(c.log), 0 // counted by some windows, and not by all
	for _, head := range c.heads {
		from, to = min(from, head), max(to, head)
	}
	if to-from < 2*c.merged+mergeFrom || granularity(windows) == 0 {
		return
	}
	heads := slices.Clone(c.heads)
	first := from - c.dropped
	kept := first // where the next run goes
	span := time.Duration(0)
	for i := first; i < to-c.dropped; i++ {
		head := i == first // of a window, which has let those before it go
		for w := range windows {
			if heads[w] == c.dropped+i {
				c.heads[w], head = c.dropped+kept, true
			}
		}
		if head {
			span = shortestCounting(windows, heads, c.dropped+i) / runsAWindow
		}
		if r := c.log[i]; !head && r.at <= c.log[kept-1].first.add(span) {
			c.log[kept-1].at = r.at
			c.log[kept-1].n += r.n
		} else {
			c.log[kept] = r
			kept++
		}
	}
	gone := to - c.dropped - kept
	for w := range windows {
		if heads[w] == to {
			c.heads[w] = to - gone
		}
	}
	c.log = slices.Delete(c.log, kept, to-c.dropped)
	c.merged = c.dropped + kept - from
}

// shortestCounting returns the length of the shortest window that still counts a run.
func shortestCounting(windows []window, heads []int, number int) time.Duration {
	shortest := durations.MaxWindow
	for i := range windows {
		if heads[i] <= number {
			shortest = min(shortest, windows[i].per)
		}
	}
	return shortest
}

// drop takes runs off the front that no window counts, and that no 429 at the edge could be explained by. The rest is moved
// only when that pays.
func (c *history) drop(before int, since instant) {
	n := 0
	for c.dropped+n < before && c.log[n].at < since {
		n++
	}
	if n > 64 && n > len(c.log)/2 || n > 0 && n == len(c.log) {
		c.log = slices.Delete(c.log, 0, n)
		c.dropped += n
	}
}

// remove takes a call that was logged at a time out again, with its places.
func (c *history) remove(at instant, places int, windows []window, cl class) {
	i, found := slices.BinarySearchFunc(c.log, at, func(r run, at instant) int {
		switch {
		case r.at < at:
			return -1
		case r.first > at:
			return 1
		}
		return 0
	})
	for found && i+1 < len(c.log) && c.log[i].n < places && c.log[i+1].first <= at {
		i++ // of several runs of that time, some may be empty
	}
	if !found || c.log[i].n < places {
		return // forgotten already
	}
	c.log[i].n -= places
	for w := range windows {
		if c.heads[w] <= c.dropped+i {
			windows[w].used[cl] -= places
		}
	}
}

// within counts the logged calls since a time.
func (c *history) within(since instant) int {
	n := 0
	for i := len(c.log) - 1; i >= 0 && c.log[i].at > since; i-- {
		n += c.log[i].n
	}
	return n
}

// freed returns when a window will have forgotten the k-th oldest of the calls that it counts, of
// one class or of all; limit is how many of those it lets pass. A call in flight is forgotten no
// sooner than if it were logged now, and a call that is yet to come takes the place of the one
// that came limit calls before it. The answer is never too late.
func (q *Quota) freed(w int, c class, k, limit int, now instant) instant {
	win := &q.windows[w]
	span := win.per + win.pad
	counted := win.used[normal] + win.used[high]
	if c != classes {
		counted = win.used[c]
	}
	rounds := 0
	// Places that are free are taken by those ahead, now or when the pause is over.
	taken := counted + q.inFlight(c)
	if known := max(limit, taken); k > known {
		rounds = (k - known + limit - 1) / limit
		k -= rounds * limit
	}
	ready := max(now, q.pause.until)
	at := now
	switch {
	case k <= counted:
		at = q.logged(w, c, k)
	case k > taken:
		at = ready
	}
	at = at.add(span)
	if rounds > 0 {
		times := min(float64(rounds)*float64(span), math.MaxInt64/4)
		at = max(at, ready).add(time.Duration(times))
	}
	return at
}

// logged returns when the k-th oldest call was logged that a window counts.
func (q *Quota) logged(w int, c class, k int) instant {
	var at [classes]int
	for i := range q.calls {
		at[i] = q.calls[i].heads[w] - q.calls[i].dropped
	}
	for {
		oldest, found := 0, false
		for i := range q.calls {
			if c != classes && class(i) != c || at[i] >= len(q.calls[i].log) {
				continue
			}
			if !found || q.calls[i].log[at[i]].at < q.calls[oldest].log[at[oldest]].at {
				oldest, found = i, true
			}
		}
		if !found {
			return never
		}
		r := q.calls[oldest].log[at[oldest]]
		at[oldest]++
		if k -= r.n; k <= 0 {
			return r.at
		}
	}
}

// bound returns the time before which a call can't go that has others before it, as things are now;
// ahead is the places that those take.
func (q *Quota) bound(c class, ahead, weight int, now instant) instant {
	return max(q.earliest(c, ahead, weight, now, func(w *window) (int, time.Duration) { return w.limit(now), w.interval() }),
		q.earliestOfAll(c, ahead, weight, now))
}

// atBest is bound as it would be if nobody else used a shared window: no call is refused that may
// still go in time.
func (q *Quota) atBest(c class, ahead, weight int, now instant) instant {
	at := func(n func(*window) int) instant {
		return q.earliest(c, ahead, weight, now, func(w *window) (int, time.Duration) {
			return n(w), w.per / time.Duration(n(w))
		})
	}
	bound := max(at(func(w *window) int { return w.n }), q.earliestOfAll(c, ahead, weight, now))
	raised := forever // when the first of the limits that the service named runs out
	for i := range q.windows {
		if w := &q.windows[i]; w.n < w.own {
			raised = min(raised, w.lowUntil)
		}
	}
	if bound <= raised {
		return bound
	}
	return max(raised, at(func(w *window) int { return w.own }))
}

func (q *Quota) earliest(c class, ahead, weight int, now instant, rate func(*window) (limit int, interval time.Duration)) instant {
	bound := max(now, q.pause.until)
	// Those ahead that are of high priority take nothing of what is for normal calls.
	normalAhead := max(0, ahead-q.queues[high].weight)
	for i := range q.windows {
		w := &q.windows[i]
		limit, interval := rate(w)
		if over := w.all() + q.inFlight(classes) - (limit - min(weight, limit)) + ahead; over > 0 {
			bound = max(bound, q.freed(i, classes, over, limit, now))
		}
		if c == normal && w.reserve > 0 {
			limit = w.forNormal(limit)
			if over := w.used[normal] + q.inFlight(normal) - (limit - min(weight, limit)) + normalAhead; over > 0 {
				bound = max(bound, q.freed(i, normal, over, limit, now))
			}
		}
		if w.shared {
			bound = max(bound, w.next.add(time.Duration(ahead)*interval-w.burst()))
		}
	}
	return bound
}
