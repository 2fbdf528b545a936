package quota

import (
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// pause closes the quota for everyone after a 429, and opens it again gently.
type pause struct {
	until  instant // closed until then
	held   bool    // a 429 has come, and is being read: closed until it has been
	epoch  int     // pauses so far
	width  float64 // calls of this epoch that may be under way at once; 0: any number
	out    int     // that are
	failed int     // probes in a row that met a 429
}

const (
	maxPause   = 75 * time.Minute // longer than any documented window; what asks for more is a mistake or an attack
	firstPause = time.Second      // where no time is named, doubled per failed probe
	wideEnough = 64
)

func (p *pause) open(now instant) bool {
	return !p.held && now >= p.until && (p.width == 0 || p.out < int(p.width))
}

// begin starts a pause. Calls that are under way already neither count any more nor begin another.
func (p *pause) begin() {
	p.epoch++
	p.out = 0
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
		q.pause.held = false
	} else if t.epoch == q.pause.epoch {
		first = true
		q.pause.begin()
	}
	if asked > 0 {
		q.pause.prolong(now.add(asked))
	}
	if !first {
		return // the pause that it belongs to has learned already
	}
	w := q.blamed(a.Verdict.Message, asked)
	if asked == 0 {
		q.pause.prolong(now.add(min(firstPause<<min(q.pause.failed, 20), w.per/32)))
	}
	q.pause.failed++
	q.learn(w, now)
}

// blamed returns the window that a 429 is about: the one that its text names, or else the one that our own calls fill
// most. One that is shorter than the wait asked for is not it.
func (q *Quota) blamed(message string, asked time.Duration) *window {
	n, per, named := namedLimit(message)
	var fullest *window
	for i := range q.windows {
		w := &q.windows[i]
		if named && w.per == per {
			if n < w.n {
				w.lower(n)
			}
			return w
		}
		if w.per >= asked && (fullest == nil || w.fill() > fullest.fill()) {
			fullest = w
		}
	}
	if fullest == nil {
		fullest = &q.windows[longest(q.windows)]
	}
	return fullest
}

func (w *window) fill() float64 { return float64(w.all()) / float64(w.n) }

// lower takes over a limit that the service names. It is never raised: a text is no contract.
func (w *window) lower(n int) {
	w.n = n
	w.reserved = min(w.reserved, n-1)
	w.share = min(w.share, float64(n))
}

// learn draws the conclusion from a 429. At the very limit, the server only counts a little otherwise than we do. Below it,
// others have taken the rest, and what we have had is the measure of what is left to us.
func (q *Quota) learn(w *window, now instant) {
	atLimit := 0
	for i := range q.calls {
		atLimit += q.calls[i].within(now.add(-w.per - edge))
	}
	if atLimit >= w.n && !w.shared && !w.widened {
		w.widened = true
		w.pad = max(2*w.pad, widePad)
		return
	}
	limit := float64(w.limit(now))
	w.shared, w.share, w.grownAt = true, 0.95*max(float64(w.all()), limit/2), now
	w.next = max(w.next, now)
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
	n, err := strconv.Atoi(fields[0])
	if err != nil || n < 1 {
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
	return n, per, per > 0
}
