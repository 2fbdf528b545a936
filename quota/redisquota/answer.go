package redisquota

import (
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ledger"
)

// What is made of an answer.

// heed takes an answer in.
func (e *engine) heed(got result) {
	now := e.host.Advance()
	r := e.flight
	if r == nil || got.seq != r.seq {
		return // an earlier one has been answered meanwhile
	}
	if got.err == nil && !got.reply.answers(r) {
		got.err = errForeign
	}
	if got.err != nil {
		e.lastError = got.err
		if e.tried < tries {
			e.retryAt = now
		}
		return
	}
	a := &got.reply
	if a.status == "late" {
		e.flight = nil
		e.rename()
		return
	}
	if strings.Contains(r.flags, "B") {
		e.bye, e.left, e.leaving = e.closing, true, false
	}
	wasAway := e.away
	e.flight, e.failing, e.away, e.lastError = nil, -1, false, nil
	if a.conf != r.conf {
		e.other, e.otherAt = a.conf, got.received
	}
	e.acked, e.last, e.skew = r.seq, got.received, a.skew
	e.measure(r, got)
	stepped, doubtful := e.checkClock(got, a)
	if a.status == "changed" {
		e.changed(a.epoch, now)
	} else {
		e.grant(r, got, stepped || doubtful || wasAway && (e.loose > 0 || len(e.alone) > 0))
	}
	e.learning = 0
	if a.learn > 0 {
		e.learning = got.received + a.learn
	}
	if a.pause > 0 && a.pause < durations.MaxPause {
		e.host.Pause(got.received + a.pause)
	}
	if a.low != "" {
		for i, l := range parseLow(a.low, len(r.limits), got.received, a.lowAge) {
			e.host.Lower(i, l)
		}
	}
	e.heard = a.lows
	if a.learn == 0 && a.status == "ok" && !wasAway && !e.rejoin && !doubtful && (!stepped || e.fix.to < e.fix.from) {
		// Where the clock was set forward, Redis has forgotten calls.
		e.among = a.among
		e.host.Among(a.among)
		e.word = word{at: got.received, used: a.used, among: a.among}
		e.hasWord = true
		e.alone = nil
		for h := range e.under.All() {
			if e.loose == 0 {
				break
			}
			e.loose -= h.Loose
			h.Loose = 0
		}
		e.peaks = append(slices.DeleteFunc(e.peaks, func(p peak) bool { return p.at < now-peakFor }), peak{now, a.used})
	}
	e.host.Serve()
}

const peakFor = 3 * time.Second

// measure notes how fast places are taken, and how far Redis is.
func (e *engine) measure(r *request, got result) {
	if d := got.received - e.ahead.since; d > 0 {
		const memory = 200 * time.Millisecond
		part := min(1, d.Seconds()/memory.Seconds())
		e.ahead.rate += part * (float64(e.ahead.taken)/d.Seconds() - e.ahead.rate)
	}
	e.ahead.since, e.ahead.taken = got.received, 0
	e.ahead.trip += (got.received - got.sent - e.ahead.trip) / 4
	if want := r.want[ledger.Normal]; want > 0 {
		e.ahead.sated = got.reply.granted[ledger.Normal] >= want
	}
}

// grant takes what was granted, unless it may be too old to be used.
func (e *engine) grant(r *request, got result, refuse bool) {
	now := got.received
	until := e.firstSent + e.tune.useBy
	n := uint64(0)
	for _, c := range [...]ledger.Class{ledger.High, ledger.Normal} {
		for range got.reply.granted[c] {
			n++
			id := ledger.ID{Grant: r.seq, N: n}
			if refuse || until <= now {
				e.giveBack(id, now)
			} else {
				e.hand[c] = append(e.hand[c], place{id, until, now + e.idle()})
			}
		}
		wait := got.reply.wait[c]
		switch {
		case r.want[c] > 0:
			e.line[c] = standing{in: wait >= 0, due: now + wait}
		case r.want[c] == 0:
			e.line[c] = standing{}
		default:
			e.seeRoom(r, &got.reply, c, now)
		}
	}
}

// seeRoom has a class ask before its time, if what it was to wait for has been given back. One look is
// not enough: where many wait, each place is free for a moment, until the next in line has asked. Nor
// is what is free soon worth an exchange.
func (e *engine) seeRoom(r *request, a *reply, c ledger.Class, now time.Duration) {
	s := &e.line[c]
	switch {
	case s.due <= now+e.tune.heartbeat || !e.freed(r, a, c):
		s.room = 0
	case s.room == 0:
		s.room = now
	case now >= s.room+3*e.tune.heartbeat/4:
		s.due, s.room = now, 0
	}
}

// freed says whether there is room for a class.
func (e *engine) freed(r *request, a *reply, c ledger.Class) bool {
	lack, first, _ := e.lack(c)
	if lack == 0 || a.learn > 0 || a.pause > 0 {
		return false
	}
	for i, l := range r.limits {
		n := l.N
		if c == ledger.Normal {
			n = l.Normal // of which all may be taken by such calls
		}
		if a.used[i]+min(first, n) > n {
			return false
		}
	}
	return true
}

// checkClock compares Redis' clock with our own, by the bounds that a question and its answer set. A
// clock that was set has let go of places too early, or holds them too long. An answer that was long on
// its way hides a step: what it grants is not to be relied on.
func (e *engine) checkClock(got result, a *reply) (stepped, doubtful bool) {
	raw := time.Duration(a.raw) * time.Microsecond
	is := clockBase{got.received, raw - got.received, raw - got.sent, a.skew, a.epoch}
	was := e.base
	if e.base = is; was.epoch == "" || was.skew != a.skew || was.epoch != a.epoch {
		return false, false
	}
	drift := max(0, got.received-was.at) / 1000
	was.least, was.most = was.least-drift, was.most+drift
	const slack = 2 * time.Millisecond
	if is.most < was.least-slack || is.least > was.most+slack {
		middle := (is.least+is.most)/2 - (was.least+was.most)/2
		e.fix = &clockFix{a.skew, a.skew + int64(middle/time.Microsecond)}
		e.stats.steps++
		return true, false
	}
	if least, most := max(is.least, was.least), min(is.most, was.most); least <= most {
		e.base.least, e.base.most = least, most
	}
	return false, is.most-was.least > hidden+4*(was.most-was.least)
}

// hidden is the step of Redis' clock that an answer may hide and be relied on all the same: few take so
// much longer than the others, and one that does would cost its grants.
const hidden = 100 * time.Millisecond

// changed begins anew with another epoch of the ledger, which knows nothing: everything is uploaded.
func (e *engine) changed(epoch string, now time.Duration) {
	known := e.epoch != ""
	if known {
		e.stats.losses++
		if e.hasWord {
			lost := e.word
			e.lost = &lost
		}
	}
	e.epoch = epoch
	e.lower, e.gone, e.oldest = nil, nil, -1
	ago := time.Duration(0)
	if e.hasWord {
		ago = now - e.word.at
	}
	for c := range ledger.Classes {
		e.raise[c], e.hand[c], e.line[c], e.upload[c] = nil, nil, standing{}, nil
		// What all had taken is known as of the last word: with less than was counted then, places would
		// be filled in that are free by now.
		e.host.Log(c, ago, func(at time.Duration, n int) bool {
			e.upload[c] = append(e.upload[c], run{at, n})
			return true
		})
	}
	for h := range e.under.All() {
		h.Told, h.Until = 0, 0
		e.more = true
	}
	// Where the time for that is over already, the others may have as much to tell.
	e.rejoin = known || e.more || len(e.upload[0])+len(e.upload[1]) > 0
	if len(lowText(e.host.Limits(), now)) > 0 {
		e.tellLow = true
	}
}
