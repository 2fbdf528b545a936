package quota

import (
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/list"
)

// pause closes the quota for everyone after a 429, and opens it again gently.
type pause struct {
	until    instant           // closed until then
	reading  instant           // a 429 has come, and is being read: closed until it has been, or until then
	epoch    int               // pauses so far
	width    float64           // calls of this epoch that may be unanswered at once; 0: any number
	places   list.List[ticket] // those that are, the longest first; used only while width is not 0
	out      int               // the length of places
	stuck    list.List[ticket] // those who ran out of patience before they were sent
	moved    instant           // when a call last did
	favoured bool              // its place went to a caller that the stuck may wait for
	failed   int               // probes in a row that met a 429
}

const (
	patience   = durations.Patience // also how long the reading of a 429 may keep the door shut
	maxPause   = durations.MaxPause
	firstPause = durations.FirstPause
	wideEnough = 64 // calls that may be unanswered at once, from which on any number may
)

func (p *pause) open(now instant) bool { return now >= p.opens() }

// opens returns when the next may go if no answer comes before. Those who lose their places one
// after the other make way for as many in the time of patience as the door is wide, and not for all
// at once.
func (p *pause) opens() instant {
	at := p.shut()
	if p.full() {
		longest := p.places.Front().entered
		spread := time.Duration(float64(patience) / p.width)
		at = max(at, longest.add(patience), p.moved.add(spread))
	}
	return at
}

// shut returns until when not even those who have a place may be sent.
func (p *pause) shut() instant { return max(p.until, p.reading) }

func (p *pause) full() bool { return p.width > 0 && p.out >= int(p.width) }

// admit gives a call a place. It requires that the door is open.
func (p *pause) admit(t *ticket, queued int, now instant) {
	if p.width == 0 {
		return
	}
	if p.full() {
		longest := p.places.Front()
		longest.place.Remove()
		if longest.mayWait() {
			longest.stuck = true
			p.stuck.PushBack(longest, longest.place)
		}
		p.favoured = !p.favoured
		p.moved = now
	}
	t.narrow, t.stuck, t.queued, t.entered = true, false, queued, now
	t.place = new(list.Links[ticket])
	p.places.PushBack(t, t.place)
	p.out = p.places.Len()
}

// release frees the place of a call that has been answered, or is over.
func (p *pause) release(t *ticket) {
	if t.place != nil {
		t.place.Remove()
		p.out = p.places.Len()
	}
}

// sent notes that a call waits for nobody but the service.
func (p *pause) sent(t *ticket) {
	t.gone = true
	if t.stuck {
		t.place.Remove()
	}
}

// favours reports whether the next place goes to a caller that an unsent call may wait for. Every
// second one does: no queue stands still for it.
func (p *pause) favours(now instant) bool { return p.full() && !p.favoured && p.open(now) }

// unsent returns the call that has been let go and not sent for the longest time, if it has lost its
// place or is about to; nil: none has.
func (p *pause) unsent() *ticket {
	if t := p.stuck.Front(); t != nil {
		return t
	}
	if t := p.places.Front(); t.mayWait() {
		return t
	}
	return nil
}

// begin starts a pause. Calls that are under way already neither count any more nor begin another.
func (p *pause) begin() {
	p.epoch++
	p.places.Clear()
	p.stuck.Clear()
	p.out = 0
	p.favoured = false
	p.width = 1 // the probe
}

func (p *pause) prolong(until instant) { p.until = max(p.until, until) }

// good widens the door after a call that was not throttled.
func (p *pause) good() {
	p.failed = 0
	if p.width > 0 {
		if p.width += 1 / p.width; p.width > wideEnough {
			p.width = 0
		}
	}
}

// throttled takes in a 429: when to go on, and what it says of the limits.
func (q *Quota) throttled(t *ticket, a steadyhttp.Attempt, now instant) {
	asked := min(a.Verdict.RetryAfter, maxPause)
	first := t.closed
	if t.closed {
		if t.epoch+1 == q.pause.epoch { // its own pause is still the last
			q.pause.reading = never
		}
	} else if t.epoch == q.pause.epoch {
		first = true
		q.pause.begin()
	}
	if asked > 0 {
		q.pause.prolong(now.add(asked))
	}
	if !first {
		q.tellPaused(now)
		return // the pause that it belongs to has learned already
	}
	w, named := q.blamed(a.Verdict.Message, asked, now)
	if asked == 0 {
		q.pause.prolong(now.add(min(firstPause<<min(q.pause.failed, 20), w.per/32)))
	}
	q.pause.failed++
	q.tellPaused(now)
	if named || !q.PauseOnly {
		q.learn(w, now)
	}
	q.tellLearned(now)
}

// blamed returns the window that a 429 is about: the one that its text names, or else the one that our own calls fill
// most. One that is shorter than the wait asked for is not it.
func (q *Quota) blamed(message string, asked time.Duration, now instant) (blamed *window, byName bool) {
	n, per, named := namedLimit(message)
	var fullest *window
	most := 0.0
	for i := range q.windows {
		w := &q.windows[i]
		if named && w.per == per {
			w.lower(n, now)
			return w, true
		}
		if fill := float64(q.usedByAll(i, w.all())) / float64(w.n); w.per >= asked && (fullest == nil || fill > most) {
			fullest, most = w, fill
		}
	}
	if fullest == nil {
		fullest = &q.windows[longest(q.windows)]
	}
	return fullest, false
}

const (
	// A limit that a text names holds for so long at least, and for so many windows: by then, a
	// service that was only busy has recovered. The wait after a limit that was there again is
	// doubled, up to a day.
	lowFor     = time.Hour
	lowWindows = 10
	lowAtMost  = 24 * time.Hour
)

// lower takes over a limit that the service names, if it is lower than ours. A text is no contract:
// it raises nothing, and what it lowers comes back.
func (w *window) lower(n int, now instant) {
	if n >= w.own || n > w.n {
		return
	}
	first := max(lowFor, lowWindows*w.per)
	switch {
	case w.lowered == 0 || now >= w.lowUntil.add(w.lowered):
		w.lowered = first
	case now >= w.lowUntil:
		w.lowered = min(2*w.lowered, max(first, lowAtMost))
	}
	w.lowUntil = now.add(w.lowered)
	w.n = n
	w.share = min(w.share, float64(n))
}

// restore gives a limit back that was lowered long enough ago. It grows back like one that is
// shared: if the service's really is lower, the first call over it is the only one to meet a 429.
func (w *window) restore(now instant) {
	if w.n == w.own || now < w.lowUntil {
		return
	}
	w.limit(w.lowUntil) // the share has grown until then
	if !w.shared {
		w.shared, w.share, w.next = true, float64(w.n), max(w.next, now)
	}
	w.grownAt = max(w.grownAt, w.lowUntil)
	w.n = w.own
}

// learn draws the conclusion from a 429. At the very limit, the server only counts a little otherwise than we do. Below it,
// others have taken the rest, and what we have had is the measure of what is left to us.
func (q *Quota) learn(w *window, now instant) {
	atLimit := 0
	for i := range q.calls {
		atLimit += q.calls[i].within(now.add(-w.per - edge))
	}
	at := 0
	for &q.windows[at] != w {
		at++
	}
	if q.usedByAll(at, atLimit) >= w.n && !w.shared && !w.widened {
		w.widen()
		return
	}
	limit := float64(w.limit(now))
	w.shared, w.share, w.grownAt = true, 0.95*max(float64(q.usedByAll(at, w.all())), limit/2), now
	w.next = max(w.next, now)
}

// widen has a window count its calls for longer.
func (w *window) widen() {
	if !w.widened {
		w.widened = true
		w.pad = max(2*w.pad, widePad)
	}
}

// namedLimit reads "Maximum allowed 30 per 00:01:00" out of a 429's text.
func namedLimit(message string) (n int, per time.Duration, ok bool) {
	_, rest, found := strings.Cut(strings.ToLower(message), "maximum allowed ")
	if !found {
		return 0, 0, false
	}
	fields := strings.Fields(rest)
	if len(fields) < 3 || fields[1] != "per" {
		return 0, 0, false
	}
	calls, err := strconv.ParseUint(fields[0], 10, 31) // digits, and nothing else
	if err != nil || calls < 1 {
		return 0, 0, false
	}
	clock := strings.Split(strings.TrimRight(fields[2], "."), ":")
	if len(clock) != 3 {
		return 0, 0, false
	}
	for _, part := range clock {
		v, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return 0, 0, false
		}
		per = per*60 + time.Duration(v)*time.Second
	}
	if per == 0 {
		return 0, 0, false
	}
	return int(calls), per, true
}
