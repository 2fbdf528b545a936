package redisquota

import (
	"cmp"
	"slices"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
	"github.com/steadyhttp/steadyhttp/internal/list"
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

// usualTuning is for calls that are under way for as long as fit says.
func usualTuning() tuning {
	const heartbeat = time.Second
	return tuning{
		heartbeat: heartbeat, learn: 5 * heartbeat / 2, useBy: 5 * heartbeat / 2, silence: 3 * heartbeat / 2,
		dead: 5 * time.Second, lease: 30 * time.Second, grace: 50 * time.Millisecond, timeout: 250 * time.Millisecond,
	}
}

// fit has calls be under way for as long as the Quota lets them.
func (t *tuning) fit(transit time.Duration) {
	t.transit = transit
	t.dead = max(t.dead, t.useBy+transit+t.heartbeat/2)
	t.lease = max(t.lease, t.dead)
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

	windows    []quota.Window // the Quota's, however its fields are changed
	same       string         // what must be the same in all processes
	other      string         // what it is in another; "": no other was seen of late
	otherAt    time.Duration  // when that was
	proc       string         // this process, or this stretch of its life
	seq, acked uint64         // of the last request, and of the last that was answered
	epoch      string         // of the ledger; "": none is known
	skew       int64
	base       clockBase
	among      int

	hand   [ledger.Classes][]place // granted and not taken, the oldest first
	line   [ledger.Classes]standing
	ahead  ahead
	under  list.List[ledger.Hold] // under way
	locals uint64                 // places so far that this process named itself

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
	closed    chan struct{} // when the last exchange is done; nil: nobody closes it
	ended     bool          // closed is
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
	in   bool
	due  time.Duration // when to ask again
	room time.Duration // since when there has been room all the same; 0: there is none
}

type peak struct {
	at   time.Duration
	used []int
}

// clockBase is what the next answer's clock is compared with: by how much it is ahead of ours.
type clockBase struct {
	at          time.Duration // of the last answer
	least, most time.Duration
	skew        int64
	epoch       string
}

type result struct {
	seq            uint64
	sent, received time.Duration
	reply          reply
	err            error
}

func (e *engine) Begin(h ledger.Host) {
	e.host = h
	e.tune.fit(h.Transit())
	e.windows = slices.Clone(e.conf.Windows)
	e.proc, e.same = newProc(), confText(e.conf, h.Transit())
	e.among = 1
	e.failing, e.oldest = -1, -1
	e.wake = make(chan struct{}, 1)
	e.results = make(chan result, unheard)
}

// What the Quota tells and asks: the methods of ledger.Ledger.

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
	e.under.PushBack(h, &h.Flight)
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
		h.Flight.Remove()
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

func (e *engine) Refund(h *ledger.Hold, now time.Duration) {
	fresh := !h.Over && !e.away && now < h.Use && !e.closing
	if !h.Over {
		h.Over = true
		h.Flight.Remove()
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
		e.rouse(now + e.idle())
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

// start has a goroutine keep up with Redis. It is there while there is anything to keep.
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
			if e.closed != nil && !e.ended {
				e.ended = true // it may run again, for a call that was under way
				close(e.closed)
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
