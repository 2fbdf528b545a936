package redisquota

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
	"github.com/steadyhttp/steadyhttp/quota"
)

// tuning is the times that the protocol lives by.
type tuning struct {
	heartbeat time.Duration // between exchanges while there is something to keep
	learn     time.Duration // after a loss, for everybody to notice it and to tell what he knows
	dead      time.Duration // silence after which a process has nothing under way
	lease     time.Duration // from a grant: until then the call may be counted
	useBy     time.Duration // from the asking: until then a grant may be used
	grace     time.Duration // after which a process that was due has lost its turn
	timeout   time.Duration // of an exchange
	transit   time.Duration // MaxTransit
	silence   time.Duration // without an answer, after which Redis is away
}

func usualTuning(transit time.Duration) tuning {
	const heartbeat = time.Second
	t := tuning{
		heartbeat: heartbeat, learn: 5 * heartbeat / 2, useBy: 5 * heartbeat / 2,
		lease: 30 * time.Second, grace: 50 * time.Millisecond,
		timeout: 250 * time.Millisecond, transit: transit, silence: 3 * heartbeat / 2,
	}
	t.dead = max(5*time.Second, t.useBy+transit+heartbeat/2)
	t.lease = max(t.lease, t.dead)
	return t
}

const (
	tries     = 2    // at once, before the next waits
	unheard   = 4    // exchanges that may hang at once
	chunk     = 1000 // ends in one exchange
	keepGrant = time.Minute
)

// engine is the ledger.Ledger of one Quota: what this process knows of the ledger in Redis. Everything
// but backend and the channels is guarded by the host's lock.
type engine struct {
	conf    *Quota
	tune    tuning
	backend backend
	host    ledger.Host

	proc       string // this process, or this stretch of its life
	seq, acked uint64 // of the last request, and of the last that was answered
	epoch      string // of the ledger; "": none is known
	skew       int64
	base       clockBase // of the last answer
	among      int

	hand   [ledger.Classes][]place // granted and not taken, the oldest first
	line   [ledger.Classes]standing
	ahead  ahead
	under  holds  // under way
	locals uint64 // places so far that this process named itself

	lower  []end // see request
	raise  [ledger.Classes][]end
	gone   []ledger.ID
	oldest time.Duration // of those ends
	upload [ledger.Classes][]run
	more   bool // not all that is under way has been uploaded
	lost   *word
	rejoin bool

	word      word
	hasWord   bool
	peaks     []peak // of what all had taken
	learning  time.Duration
	fix       *clockFix
	pause     time.Duration // that this process was told of, and Redis was not
	heard     uint64
	tellLow   bool
	delay     time.Duration // from a grant to its answer
	soonest   time.Duration // the same, of the quick ones
	closing   bool
	bye       bool          // Redis has been told of it
	closed    chan struct{} // when the last exchange is done
	running   bool
	wake      chan struct{}
	sleeping  time.Duration // until when the goroutine sleeps
	last      time.Duration // the last answer
	stats     stats
	lastError error

	flight    *request
	firstSent time.Duration
	retryAt   time.Duration
	tried     int
	hanging   int
	results   chan result
	failing   time.Duration // since when there is no answer; negative: there was one
	away      bool
	loose     int   // places under way that were taken without a grant, and are in no word from Redis yet
	alone     []run // and those that have been counted
	left      bool  // Redis has been told that there is nothing to keep
	leaving   bool  // it is about to be
}

type stats struct {
	asks, exchanges, losses, steps int
}

type place struct {
	id    ledger.ID
	until time.Duration // when it must have been used
	back  time.Duration // when it is given back, if nobody wants it
}

// ahead is what it takes to ask before anybody waits: where the quota is fast and Redis is far, callers
// would spend their time waiting for answers.
type ahead struct {
	taken int           // places since the last answer
	since time.Duration // when that was
	rate  float64       // places a second
	trip  time.Duration // of an exchange
	sated bool          // all that was asked for last was granted
}

// standing is a class's place in the line of processes.
type standing struct {
	in  bool
	due time.Duration // when to ask again
}

type peak struct {
	at   time.Duration
	used []int
}

// clockBase is what the next answer's clock is compared with.
type clockBase struct {
	sent, received time.Duration
	raw, skew      int64
	epoch          string
}

type result struct {
	seq            uint64
	sent, received time.Duration
	reply          reply
	err            error
}

// holds is a list of those under way.
type holds struct{ first, last *ledger.Hold }

func (l *holds) push(h *ledger.Hold) {
	h.Prev, h.Next = l.last, nil
	if l.last == nil {
		l.first = h
	} else {
		l.last.Next = h
	}
	l.last = h
}

func (l *holds) remove(h *ledger.Hold) {
	if h.Prev == nil {
		l.first = h.Next
	} else {
		h.Prev.Next = h.Next
	}
	if h.Next == nil {
		l.last = h.Prev
	} else {
		h.Next.Prev = h.Prev
	}
	h.Next, h.Prev = nil, nil
}

func (e *engine) Begin(h ledger.Host) {
	e.host = h
	e.proc = newProc()
	e.among = 1
	e.failing, e.oldest = -1, -1
	e.wake = make(chan struct{}, 1)
	e.results = make(chan result, unheard)
}

// ---- What the Quota tells.

func (e *engine) Admits(c ledger.Class, places int, now time.Duration) bool {
	if e.closing {
		return false
	}
	e.expire(now)
	n := len(e.hand[c])
	if c == ledger.High {
		n += len(e.hand[ledger.Normal])
	}
	return n >= places || e.away && e.mayAlone(places, now)
}

// expire gives grants back that are too old: by the time they are used, they might not hold any more.
func (e *engine) expire(now time.Duration) {
	for c := range e.hand {
		for len(e.hand[c]) > 0 && min(e.hand[c][0].until, e.hand[c][0].back) <= now {
			e.giveBack(e.hand[c][0].id, now)
			e.hand[c] = e.hand[c][1:]
		}
	}
}

func (e *engine) giveBack(id ledger.ID, now time.Duration) {
	e.gone = append(e.gone, id)
	e.noted(now)
}

// noted remembers that there is something to tell.
func (e *engine) noted(now time.Duration) {
	if e.oldest < 0 {
		e.oldest = now
	}
	e.rouse(e.flushAt())
}

func (e *engine) Take(c ledger.Class, places int, now time.Duration) *ledger.Hold {
	h := &ledger.Hold{Class: c}
	h.IDs = h.One[:0]
	e.ahead.taken += places
	if c == ledger.Normal && e.flight == nil && e.short() > 0 {
		defer e.rouse(now)
	}
	from := c
	for len(h.IDs) < places {
		hand := &e.hand[from]
		if len(*hand) == 0 {
			if from == ledger.High {
				from = ledger.Normal
				continue
			}
			break
		}
		if from != h.Class {
			h.Class, h.High = from, len(h.IDs) // counted as what they were granted for
		}
		p := (*hand)[0]
		*hand = (*hand)[1:]
		h.IDs = append(h.IDs, p.id)
		h.Use = p.until
		h.Until = p.until - e.tune.useBy + e.tune.lease
		h.Told++
	}
	for len(h.IDs) < places {
		h.IDs = append(h.IDs, e.local())
		h.Loose++
		e.rejoin = true
	}
	e.loose += h.Loose
	h.Taken = now
	e.under.push(h)
	e.start()
	return h
}

func (e *engine) local() ledger.ID {
	e.locals++
	return ledger.ID{N: e.locals}
}

func (e *engine) Resent(h *ledger.Hold, places int, now time.Duration) {
	for range places {
		h.IDs = append(h.IDs, e.local())
	}
	e.noted(now)
}

func (e *engine) Charge(c ledger.Class, places int, at time.Duration) *ledger.Hold {
	h := &ledger.Hold{Class: c, Over: true}
	for range places {
		h.IDs = append(h.IDs, e.local())
	}
	e.Counted(h, at)
	e.start()
	return h
}

func (e *engine) Counted(h *ledger.Hold, at time.Duration) {
	if !h.Over {
		h.Over = true
		e.under.remove(h)
		if h.Loose > 0 {
			e.alone = append(e.alone, run{at, h.Loose})
			e.loose -= h.Loose
			h.Loose = 0
		}
		if d := at - h.Taken; d >= 0 && h.Told > 0 {
			if e.delay == 0 {
				e.delay, e.soonest = d, d
			}
			e.delay += (d - e.delay) / 8
			if d < e.soonest {
				e.soonest += (d - e.soonest) / 2
			} else {
				e.soonest += (d - e.soonest) / 32
			}
		}
	}
	for i, id := range h.IDs {
		if i < h.Told && at <= h.Until {
			e.lower = append(e.lower, end{at, id})
		} else {
			e.raise[h.ClassOf(i)] = append(e.raise[h.ClassOf(i)], end{at, id})
		}
	}
	h.Told, h.Until = len(h.IDs), at
	now := e.host.Now()
	if e.away {
		e.forget(now)
	}
	e.noted(now)
}

// forget drops what no window counts any more: Redis may be away for long.
func (e *engine) forget(now time.Duration) {
	longest := time.Duration(0)
	for _, w := range e.conf.Windows {
		longest = max(longest, w.Per)
	}
	before := now - longest - 2*time.Second // a pad is shorter than that, or a thousandth
	before -= longest / 1000
	for len(e.alone) > 0 && e.alone[0].at < before {
		e.alone = e.alone[1:]
	}
	for c := range e.raise {
		for len(e.raise[c]) > 0 && e.raise[c][0].at < before {
			e.raise[c] = e.raise[c][1:]
		}
	}
}

func (e *engine) Refund(h *ledger.Hold, now time.Duration) {
	fresh := !h.Over && !e.away && now < h.Use && !e.closing
	if !h.Over {
		h.Over = true
		e.under.remove(h)
		e.loose -= h.Loose
	}
	for i, id := range h.IDs {
		switch {
		case fresh && id.Grant > 0:
			e.hand[h.ClassOf(i)] = append(e.hand[h.ClassOf(i)], place{id, h.Use, now + e.idle()})
		case i < h.Told:
			e.giveBack(id, now)
		}
	}
	if fresh {
		for _, hand := range e.hand {
			slices.SortStableFunc(hand, func(a, b place) int { return cmp.Compare(a.until, b.until) })
		}
	}
	h.IDs = nil
}

func (e *engine) Wanted(now time.Duration) {
	e.start()
	if e.flight != nil {
		return
	}
	for c := range e.line {
		if lack, _, _ := e.lack(ledger.Class(c)); lack > 0 {
			if s := e.line[c]; s.in {
				e.rouse(max(now, s.due))
			} else {
				e.rouse(now)
			}
		}
	}
}

func (e *engine) Earliest(c ledger.Class, ahead, places int, now time.Duration) time.Duration {
	hand := len(e.hand[c])
	if c == ledger.High {
		hand += len(e.hand[ledger.Normal])
	}
	switch {
	case e.away || hand >= ahead+places:
		return 0
	case e.line[c].in:
		return max(e.line[c].due, e.learning)
	}
	return e.learning
}

func (e *engine) Paused(until, now time.Duration) {
	if until > now {
		e.pause = max(e.pause, until)
		e.start()
		e.rouse(now)
	}
}

func (e *engine) Learned(now time.Duration) {
	e.tellLow = true
	e.start()
	e.rouse(now)
}

func (e *engine) Used(window int) (n int) {
	for _, p := range e.peaks {
		if window < len(p.used) {
			n = max(n, p.used[window])
		}
	}
	return n
}

// ---- The goroutine that keeps up with Redis. It is there while there is anything to keep.

func (e *engine) start() {
	if !e.running {
		e.running = true
		e.sleeping = 0
		go e.run()
	}
}

// rouse has the goroutine look again, if it sleeps for longer.
func (e *engine) rouse(at time.Duration) {
	if e.running && at < e.sleeping {
		e.sleeping = at
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

func (e *engine) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		e.host.Lock()
		now := e.host.Advance()
		at, stop := e.step(now)
		if stop {
			e.running = false
			if e.closed != nil {
				close(e.closed)
				e.closed = nil
			}
			e.host.Unlock()
			return
		}
		e.sleeping = at
		e.host.Unlock()
		timer.Reset(max(0, at-now))
		select {
		case r := <-e.results:
			e.host.Lock()
			e.hanging--
			e.heed(r)
			e.host.Unlock()
		case <-e.wake:
		case <-timer.C:
		}
	}
}

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
	if now >= e.retryAt && e.hanging < unheard {
		e.send(now)
	}
	at = e.retryAt
	if e.hanging >= unheard {
		at = now + e.tune.heartbeat // an answer wakes us
	}
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
	shortest := e.conf.Windows[0].Per
	for _, w := range e.conf.Windows {
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
		hand += max(0, len(e.hand[ledger.Normal]))
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
	for _, w := range e.conf.Windows {
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
	busy := e.oldest >= 0 || e.under.first != nil
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
		limits: e.host.Limits(), delay: e.usual(), heard: e.heard, fix: e.fix,
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
	return slices.ContainsFunc(e.conf.Windows, func(w quota.Window) bool { return w.N < 4*e.among })
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
	for h := e.under.first; h != nil; h = h.Next {
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
	e.hanging++
	if e.failing < 0 {
		e.failing = now
	}
	e.retryAt = now + e.tune.timeout
	if e.tried >= tries {
		e.retryAt = now + max(e.tune.timeout, e.tune.heartbeat/4)
	}
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

// heed takes an answer in.
func (e *engine) heed(got result) {
	now := e.host.Advance()
	r := e.flight
	if r == nil || got.seq != r.seq {
		return // an earlier one has been answered meanwhile
	}
	if got.err != nil {
		e.lastError = got.err
		if e.tried < tries {
			e.retryAt = now
		}
		return
	}
	a := &got.reply
	if a.status == "late" || len(a.used) != len(r.limits) {
		e.flight = nil
		e.rename()
		return
	}
	if strings.Contains(r.flags, "B") {
		e.bye, e.left, e.leaving = e.closing, true, false
	}
	wasAway := e.away
	e.flight, e.failing, e.away, e.lastError = nil, -1, false, nil
	e.acked, e.last, e.skew = r.seq, got.received, a.skew
	e.measure(r, got)
	stepped := e.checkClock(got, a)
	if a.status == "changed" {
		e.changed(a.epoch, now)
	} else {
		e.grant(r, got, stepped || wasAway && (e.loose > 0 || len(e.alone) > 0))
	}
	e.learning = 0
	if a.learn > 0 {
		e.learning = got.received + a.learn
	}
	if a.pause > 0 && a.pause < maxPause {
		e.host.Pause(got.received + a.pause)
	}
	if a.low != "" {
		for i, l := range parseLow(a.low, len(r.limits), got.received, a.lowAge) {
			e.host.Lower(i, l)
		}
	}
	e.heard = a.lows
	if a.learn == 0 && a.status == "ok" && !wasAway && !e.rejoin && (!stepped || e.fix.to < e.fix.from) {
		// Where the clock was set forward, Redis has forgotten calls.
		e.among = a.among
		e.host.Among(a.among)
		e.word = word{at: got.received, used: a.used, among: a.among}
		e.hasWord = true
		e.alone = nil
		for h := e.under.first; h != nil && e.loose > 0; h = h.Next {
			e.loose -= h.Loose
			h.Loose = 0
		}
		e.peaks = append(slices.DeleteFunc(e.peaks, func(p peak) bool { return p.at < now-peakFor }), peak{now, a.used})
	}
	e.host.Serve()
}

const (
	maxPause = 75 * time.Minute
	peakFor  = 3 * time.Second
)

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
		}
	}
}

// checkClock compares the time that has passed for Redis since the last answer with our own. A clock
// that was set has let go of places too early, or holds them too long.
func (e *engine) checkClock(got result, a *reply) (stepped bool) {
	b := e.base
	e.base = clockBase{got.sent, got.received, a.raw, a.skew, a.epoch}
	if b.epoch == "" || b.skew != a.skew || b.epoch != a.epoch {
		return false
	}
	passed := time.Duration(a.raw-b.raw) * time.Microsecond
	least, most := got.sent-b.received, got.received-b.sent
	slack := 2*time.Millisecond + most/1000
	if passed >= least-slack && passed <= most+slack {
		return false
	}
	e.fix = &clockFix{a.skew, a.skew + int64((passed-(least+most)/2)/time.Microsecond)}
	e.stats.steps++
	return true
}

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
	for h := e.under.first; h != nil; h = h.Next {
		h.Told, h.Until = 0, 0
		e.more = true
	}
	// Where the time for that is over already, the others may have as much to tell.
	e.rejoin = known || e.more || len(e.upload[0])+len(e.upload[1]) > 0
	if len(lowText(e.host.Limits(), now)) > 0 {
		e.tellLow = true
	}
}

// ---- While Redis is away.

func (e *engine) goAway(now time.Duration) {
	e.away = true
	if e.left {
		e.hasWord = false // others count without this process
	}
	for c := range e.line {
		e.line[c] = standing{}
	}
}

// mayAlone says whether a call may go without a grant.
func (e *engine) mayAlone(places int, now time.Duration) bool {
	if e.conf.WhenAway == Open {
		return true // this process' own windows are kept in any case
	}
	if e.conf.WhenAway == Closed || !e.hasWord {
		return false
	}
	for i, l := range e.host.Limits() {
		n, own := l.N, e.loose // Known's
		if e.conf.WhenAway == Known && now < e.word.at+l.Per+e.tune.transit {
			// What was under way by then may have been counted later.
			n -= e.word.used[i]
			for _, one := range e.alone {
				if one.at > now-l.Per {
					own += one.n
				}
			}
		} else {
			own = e.host.InFlight() + e.sentSince(now-l.Per)
		}
		if own+places > max(0, n)/max(1, e.word.among) {
			return false
		}
	}
	return true
}

func (e *engine) sentSince(since time.Duration) (n int) {
	for c := range ledger.Classes {
		e.host.Log(c, 0, func(at time.Duration, k int) bool {
			if at <= since {
				return false
			}
			n += k
			return true
		})
	}
	return n
}
