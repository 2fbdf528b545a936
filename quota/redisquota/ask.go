package redisquota

import (
	"context"
	"slices"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
	"github.com/steadyhttp/steadyhttp/quota"
)

// When Redis is asked or told something, and what.

// step does what is due, and returns when something will be.
func (e *engine) step(now time.Duration) (at time.Duration, stop bool) {
	if e.failing >= 0 && !e.away && now >= e.failing+e.tune.silence {
		e.goAway(now)
	}
	if e.away {
		e.host.Serve()
	}
	if e.flight != nil && now >= e.retryAt && e.tried >= tries && (e.closing || e.leaving) {
		// Nobody listens. Callers may have come meanwhile, though: who left for lack of them looks again.
		e.flight, e.failing, e.leaving, e.left = nil, -1, false, true
		if e.closing {
			return now, true
		}
	}
	if e.flight == nil {
		at, stop = e.next(now)
		if stop || at > now {
			return at, stop
		}
		e.flight = e.build(now)
		e.firstSent, e.tried, e.retryAt = now, 0, now
	}
	if now >= e.retryAt {
		e.send(now)
	}
	at = e.retryAt
	if e.failing >= 0 && !e.away {
		at = min(at, e.failing+e.tune.silence)
	}
	if e.away {
		at = min(at, now+e.poll())
	}
	return max(at, now+time.Microsecond), false
}

// idle is how long a place is kept that nobody wants.
func (e *engine) idle() time.Duration { return min(e.shortest()/8, e.tune.heartbeat/4) }

// poll is how often to see whether somebody may go while Redis is away.
func (e *engine) poll() time.Duration {
	return max(5*time.Millisecond, min(e.shortest()/20, e.tune.heartbeat/4))
}

func (e *engine) shortest() time.Duration {
	shortest := e.windows[0].Per
	for _, w := range e.windows {
		shortest = min(shortest, w.Per)
	}
	return shortest
}

// flushAt is when ends are told that nothing else takes along. A place is free a window after its end:
// until half of that is over, nobody misses it, but for those that never left.
func (e *engine) flushAt() time.Duration {
	switch {
	case e.oldest < 0:
		return forever
	case len(e.gone) > 0:
		return e.oldest + min(e.shortest()/8, e.tune.heartbeat/10)
	case e.scarce(): // the next in line wants to know when to come
		return e.oldest + min(e.shortest()/16, e.tune.heartbeat)
	}
	return e.oldest + min(e.shortest()/2, e.tune.heartbeat)
}

const forever = time.Duration(1 << 62)

// lack returns how many places of a class are wanted beyond those in hand, and how many the first needs.
func (e *engine) lack(c ledger.Class) (places, first int, waiting bool) {
	places, first, waiting = e.host.Demand(c)
	hand := len(e.hand[c])
	if c == ledger.High {
		hand += len(e.hand[ledger.Normal])
	}
	return max(0, places-hand), max(1, first-hand), waiting
}

// short returns how many places to ask for before anybody waits for them: as many as are taken during
// an exchange, where everybody gets what he asks for.
func (e *engine) short() int {
	if !e.ahead.sated || e.ahead.taken == 0 {
		return 0
	}
	n := e.ahead.rate * 2 * e.ahead.trip.Seconds()
	for _, w := range e.windows {
		n = min(n, float64(w.N)/float64(10*e.among))
	}
	want, have := int(n), len(e.hand[ledger.Normal])
	if want == 0 || have > want/2 {
		return 0
	}
	return want - have
}

// next says when there will be something to tell or to ask; stop: there is nothing to keep.
func (e *engine) next(now time.Duration) (at time.Duration, stop bool) {
	e.expire(now)
	at = forever
	soon := func(t time.Duration) { at = min(at, t) }
	busy := e.oldest >= 0 || e.under.Front() != nil
	for c := range e.line {
		lack, _, waiting := e.lack(ledger.Class(c))
		s := e.line[c]
		switch {
		case lack > 0 && !s.in:
			soon(now)
		case s.in && (lack > 0 || !waiting):
			soon(s.due)
		case ledger.Class(c) == ledger.Normal && !s.in && e.short() > 0:
			soon(now)
		}
		busy = busy || waiting || s.in || len(e.hand[c]) > 0
		if len(e.hand[c]) > 0 {
			soon(min(e.hand[c][0].until, e.hand[c][0].back))
		}
	}
	if !busy {
		for c := range ledger.Classes {
			e.host.Log(c, 0, func(time.Duration, int) bool {
				busy = true
				return false
			})
		}
	}
	pending := e.pause > now || e.tellLow
	switch {
	case e.closing && (e.epoch == "" || e.bye):
		return 0, true
	case e.closing, pending && e.epoch != "":
		return now, false
	case !busy && !pending:
		if e.epoch == "" || e.left {
			return 0, true
		}
		e.leaving = true
		return now, false
	case e.epoch == "", e.more, len(e.upload[0])+len(e.upload[1]) > 0, e.fix != nil, e.rejoin:
		return now, false
	}
	soon(e.flushAt())
	soon(e.last + e.tune.heartbeat)
	return at, false
}

// build makes the next request.
func (e *engine) build(now time.Duration) *request {
	if e.epoch != "" && now-e.last > e.forgotten() {
		e.rename()
	}
	e.seq++
	r := &request{
		proc: e.proc, seq: e.seq, acked: e.acked, epoch: e.epoch,
		limits: e.host.Limits(), conf: e.same, delay: e.usual(), heard: e.heard, fix: e.fix,
	}
	e.fix = nil
	if e.pause > now {
		r.pause = e.pause
		e.pause = 0
	}
	if e.tellLow {
		r.low = lowText(r.limits, now)
		e.tellLow = false
	}
	switch e.conf.Start {
	case Empty:
		r.flags += "E"
	case Spent:
		r.flags += "S"
	}
	if e.conf.Reserve > 0 {
		r.flags += "N"
	}
	if e.conf.WhenAway != Closed {
		r.flags += "A"
	}
	if e.epoch == "" {
		e.stats.exchanges++
		return r
	}
	if e.rejoin {
		r.flags += "R"
		e.rejoin = false
	}
	uploading := e.fill(r, now)
	if uploading {
		r.flags += "U"
	}
	for c := range e.line {
		lack, first, waiting := e.lack(ledger.Class(c))
		s := &e.line[c]
		switch {
		case uploading || e.closing:
			if s.in {
				r.want[c] = -1
			}
		case lack > 0 && (!s.in || now >= s.due):
			r.want[c], r.need[c] = max(lack, first), first
			e.stats.asks++
		case s.in && (waiting || lack > 0):
			r.want[c] = -1
		}
		if short := e.short(); ledger.Class(c) == ledger.Normal && short > 0 && r.want[c] >= 0 && !uploading && !e.closing && !e.leaving {
			r.want[c], r.need[c] = r.want[c]+short, max(1, r.need[c])
			if lack == 0 {
				e.stats.asks++
			}
		}
		r.want[c] = min(r.want[c], maxGrant)
	}
	if e.closing && !uploading || e.leaving {
		r.flags += "B"
	}
	e.left = false
	e.stats.exchanges++
	return r
}

// usual is how long after its grant a call is taken to be over, to guess when its place is free. Where
// the next waits for that one place, a guess that is too late wastes time, and one that is too early
// an exchange, which then tells the very time.
func (e *engine) usual() time.Duration {
	if e.scarce() {
		return e.soonest
	}
	return e.delay
}

// scarce says that some window has few places for so many processes.
func (e *engine) scarce() bool {
	return slices.ContainsFunc(e.windows, func(w quota.Window) bool { return w.N < 4*e.among })
}

// fill puts what is to be told into a request, and reports whether more is left of an upload.
func (e *engine) fill(r *request, now time.Duration) (uploading bool) {
	r.known, r.away = e.lost, 0
	if e.lost != nil {
		r.away, e.lost = e.loose, nil
		for _, one := range e.alone {
			r.away += one.n
		}
	}
	room := chunk
	for c := range e.upload {
		n := min(room, len(e.upload[c]))
		r.runs[c] = e.upload[c][:n:n]
		e.upload[c] = e.upload[c][n:]
		room -= n
		uploading = uploading || len(e.upload[c]) > 0
	}
	e.more = false
	for h := range e.under.All() {
		from := len(h.IDs)
		if h.Told < len(h.IDs) {
			from = h.Told
		}
		if h.Until < now+e.tune.lease/2 {
			from = 0 // it is under way for long
		}
		if from == len(h.IDs) {
			continue
		}
		if room <= 0 {
			e.more = true
			uploading = true
			break
		}
		for i := from; i < len(h.IDs); i++ {
			r.raise[h.ClassOf(i)] = append(r.raise[h.ClassOf(i)], end{now + e.tune.lease, h.IDs[i]})
			room--
		}
		h.Told, h.Until = len(h.IDs), now+e.tune.lease
	}
	if uploading {
		return true // ends of what has not been uploaded would be lost
	}
	take := func(list *[]end) []end {
		n := max(0, min(room, len(*list)))
		taken := (*list)[:n:n]
		*list = (*list)[n:]
		room -= n
		return taken
	}
	r.lower = take(&e.lower)
	for c := range e.raise {
		r.raise[c] = append(r.raise[c], take(&e.raise[c])...)
	}
	n := max(0, min(room, len(e.gone)))
	r.gone = e.gone[:n:n]
	e.gone = e.gone[n:]
	if len(e.lower)+len(e.raise[0])+len(e.raise[1])+len(e.gone) == 0 {
		e.oldest = -1
	} else if len(e.raise[0])+len(e.raise[1]) > 0 {
		return true
	}
	return false
}

// forgotten is how long Redis remembers a process at least.
func (e *engine) forgotten() time.Duration {
	return e.tune.lease + e.tune.learn + keepGrant/2
}

// rename begins a new life: Redis may have forgotten the old one.
func (e *engine) rename() {
	e.proc = newProc()
	e.acked, e.epoch = 0, "" // seq goes on: it is in the names of places
	e.base = clockBase{}
	e.hasWord = false
	for c := range e.hand {
		e.hand[c] = nil
		e.line[c] = standing{}
	}
}

func (e *engine) send(now time.Duration) {
	e.tried++
	if e.failing < 0 {
		e.failing = now
	}
	e.retryAt = now + e.tune.timeout
	if e.tried >= tries {
		e.retryAt = now + max(e.tune.timeout, e.tune.heartbeat/4)
	}
	if e.hanging >= unheard {
		return // the client's own timeouts are long: that is as good as no answer
	}
	e.hanging++
	r, t, host, results, b := e.flight, &e.tune, e.host, e.results, e.backend
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 4*t.timeout)
		defer cancel()
		one := result{seq: r.seq, sent: now}
		one.reply, one.err = b.exchange(ctx, r, t, now)
		one.received = host.Now()
		results <- one
	}()
}
