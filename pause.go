package steadyhttp

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/list"
	"github.com/steadyhttp/steadyhttp/internal/waits"
)

const (
	maxPause    = durations.MaxPause
	firstPause  = durations.FirstPause
	longPause   = time.Minute // the longest after a 429 that names no time
	wideEnough  = 64          // attempts under way at once after which the pace is no longer held back
	firstWindow = 1           // the probe
	patience    = durations.Patience
)

// pause closes a gate for everyone after a throttling, and opens it again gently: n waiting callers
// that all come back at the server's time would be n-1 new throttlings.
type pause struct {
	pace *rate.Limiter // what those let go have to pass too; nil: nothing that is known

	mu       sync.Mutex         // guards what follows
	until    time.Time          // closed until then
	epoch    int                // pauses so far: an attempt of an earlier one counts and pauses nothing
	window   float64            // attempts of this epoch that may be unanswered at once; 0: any number
	out      int                // the length of places
	places   list.List[passage] // those unanswered, the longest first; used in a narrow window only
	stuck    list.List[passage] // those who ran out of patience before they were sent
	moved    time.Time          // when one last did
	favoured bool               // the place went to a caller that the stuck may wait for
	failed   int                // probes in a row that were throttled
	queue    list.List[turn]    // first come, first served
	arrivals int                // callers that had to queue so far
	soonest  time.Time          // no deadline in the queue is before it; zero: none has any
	timer    *time.Timer
}

// pacer is what attempts pass besides the pause: a Limit's limiter.
type pacer interface {
	pass(ctx context.Context, waits func(time.Duration)) error
}

// turn is a place in the queue. Either passed or err is set before granted is closed.
type turn struct {
	granted  chan struct{}
	number   int
	deadline time.Time // zero: none
	place    list.Links[turn]
	passed   *passage
	err      error
}

func (p *pause) enter(ctx context.Context, a Attempt) (*passage, error) {
	if ctx.Err() != nil {
		return nil, cancelCause(ctx)
	}
	p.mu.Lock()
	now := time.Now()
	if p.queue.Front() == nil && p.open(now) {
		defer p.mu.Unlock()
		return p.admit(now), nil
	}
	t := &turn{granted: make(chan struct{})}
	if deadline, ok := ctx.Deadline(); ok {
		if at := p.earliest(now); deadline.Before(at) {
			defer p.mu.Unlock()
			return nil, tooLate(at.Sub(now), deadline.Sub(now))
		}
		t.deadline = deadline
		if p.soonest.IsZero() || deadline.Before(p.soonest) {
			p.soonest = deadline
		}
	}
	p.arrivals++
	t.number = p.arrivals
	p.queue.PushBack(t, &t.place)
	p.serve()
	needs := p.earliest(now).Sub(now)
	p.mu.Unlock()

	if a.waits != nil {
		a.waits(needs)
	}
	select {
	case <-t.granted:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-t.granted:
		if ctx.Err() == nil {
			return t.passed, t.err
		}
		if t.passed != nil {
			p.release(t.passed)
		}
	default:
		t.place.Remove()
	}
	p.serve()
	return nil, cancelCause(ctx)
}

// earliest returns when the turn of a newcomer can come at the soonest: not before the pause ends,
// and not before those ahead have had their tokens. How soon the probe is answered, nobody knows.
func (p *pause) earliest(now time.Time) time.Time {
	at := now
	if p.until.After(at) {
		at = p.until
	}
	if p.pace == nil || p.pace.Burst() < 1 || p.pace.Limit() <= 0 {
		return at
	}
	needs := 1.0
	if !p.mayFavour() {
		needs += float64(p.queue.Len())
	}
	return at.Add(lack(p.pace, needs, at))
}

// mayFavour reports whether a caller who comes now may be let go before those ahead.
func (p *pause) mayFavour() bool {
	if p.stuck.Front() != nil {
		return true
	}
	for holder := range p.places.All() {
		if holder.mayWait() {
			return true
		}
	}
	return false
}

func (p *pause) current(epoch int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return epoch == p.epoch
}

func (p *pause) leave(passed *passage, a Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	current := passed.epoch == p.epoch
	p.release(passed)
	switch {
	case a.Verdict.Class == Throttled:
		p.close(a.Verdict.RetryAfter, current)
	case current && a.Response != nil && !passed.answered:
		p.widen()
	}
	p.serve()
}

// answer notes an answer that is no failure when its headers come.
func (p *pause) answer(passed *passage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if passed.epoch != p.epoch || passed.answered {
		return
	}
	passed.answered = true
	p.release(passed)
	p.widen()
	p.serve()
}

func (p *pause) throttle(epoch int, asked time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close(asked, epoch == p.epoch)
	p.serve()
}

// widen lets more attempts go at once after an answer. All below require that p.mu is held.
func (p *pause) widen() {
	if p.window == 0 {
		return
	}
	p.failed = 0
	if p.window += 1 / p.window; p.window > wideEnough {
		p.window = 0
	}
}

// close begins or prolongs a pause. Of the many attempts that were under way when one began, those
// throttled may prolong it, but only one of the present epoch begins the next.
func (p *pause) close(asked time.Duration, current bool) {
	if current {
		if asked == 0 {
			asked = min(longPause, firstPause<<min(p.failed, 6))
		}
		p.failed++
		p.epoch++
		p.out = 0
		p.places.Clear()
		p.stuck.Clear()
		p.favoured = false
		p.window = firstWindow
	}
	if until := time.Now().Add(min(asked, maxPause)); until.After(p.until) {
		p.until = until
		p.refuseLate()
	}
}

// refuseLate sends those away whose time ends before the pause does.
func (p *pause) refuseLate() {
	if p.soonest.IsZero() || !p.soonest.Before(p.until) {
		return
	}
	p.soonest = time.Time{}
	for t := range p.queue.All() {
		switch {
		case t.deadline.IsZero():
		case t.deadline.Before(p.until):
			t.place.Remove()
			t.err = tooLate(time.Until(p.until), time.Until(t.deadline))
			close(t.granted)
		case p.soonest.IsZero() || t.deadline.Before(p.soonest):
			p.soonest = t.deadline
		}
	}
}

func (p *pause) open(now time.Time) bool { return !now.Before(p.opens()) }

// opens returns when the next may go if no answer comes before. Those who lose their places one
// after the other make way for as many in the time of patience as the window is wide, and not for
// all at once.
func (p *pause) opens() time.Time {
	at := p.until
	if !p.full() {
		return at
	}
	spread := time.Duration(float64(patience) / p.window)
	for _, t := range [...]time.Time{
		p.places.Front().granted.Add(patience), p.moved.Add(spread),
	} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

func (p *pause) full() bool { return p.window > 0 && p.out >= int(p.window) }

// admit lets somebody go. It requires that the gate is open.
func (p *pause) admit(now time.Time) *passage {
	passed := &passage{pause: p, epoch: p.epoch}
	if p.window == 0 {
		return passed
	}
	if p.full() {
		p.makeRoom(now)
	}
	passed.narrow, passed.granted, passed.arrivals = true, now, p.arrivals
	p.places.PushBack(passed, &passed.place)
	p.out = p.places.Len()
	return passed
}

// makeRoom takes the place of the attempt that has been unanswered longest.
func (p *pause) makeRoom(now time.Time) {
	oldest := p.places.Front()
	oldest.place.Remove()
	if oldest.mayWait() {
		oldest.stuck = true
		p.stuck.PushBack(oldest, &oldest.place)
	}
	p.moved = now
}

// release frees the place of an attempt that has been answered, or is over.
func (p *pause) release(passed *passage) {
	if passed.place.Linked() {
		passed.place.Remove()
		p.out = p.places.Len()
	}
}

// next returns whose turn it is. An attempt that was let go and not sent may wait for somebody
// behind it in this very queue: its Prepare for the token's request, or, where gates are passed in
// different orders, the gate behind this one for an attempt that has it. Whoever that is came after
// the grant, so that every second time the first of those goes.
func (p *pause) next() *turn {
	if !p.full() {
		return p.queue.Front()
	}
	p.favoured = !p.favoured
	if !p.favoured {
		return p.queue.Front()
	}
	waiting := p.stuck.Front()
	if waiting == nil {
		waiting = p.places.Front() // who is about to lose it
	}
	if waiting.mayWait() {
		for t := range p.queue.All() {
			if t.number > waiting.arrivals {
				return t
			}
		}
	}
	return p.queue.Front()
}

// serve lets those go who may, and wakes itself for the next.
func (p *pause) serve() {
	now := time.Now()
	for p.queue.Front() != nil && p.open(now) {
		t := p.next()
		t.place.Remove()
		t.passed = p.admit(now)
		close(t.granted)
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if closed := p.opens().Sub(now); p.queue.Front() != nil && closed > 0 {
		p.timer = time.AfterFunc(closed, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.serve()
		})
	}
}

// passage is one attempt's way through a Limit. Its epoch is that of the grant: by the time the
// caller wakes, there may be another.
type passage struct {
	limit    pacer // what it has to pass besides
	pause    *pause
	epoch    int
	granted  time.Time
	arrivals int  // until the grant
	narrow   bool // granted in a narrow window: it has, or had, a place

	// Guarded by pause.mu:
	told     bool // it will be told of its sending
	sent     bool
	answered bool                // and has widened the window
	stuck    bool                // it lost its place before it was sent
	unpaid   int                 // replays that have passed, and have not been sent
	again    *passage            // of a replay that had to sit out a pause; nil: there was none
	place    list.Links[passage] // in pause.places, or in pause.stuck
}

// mayWait reports whether the attempt has not been sent, and may itself wait for another. It
// requires that pause.mu is held.
func (p *passage) mayWait() bool { return p.told && !p.sent }

// observed notes whether an attempt tells of its sending and answer from now on.
func (p *passage) observed(told bool) {
	if !p.narrow {
		return
	}
	p.pause.mu.Lock()
	defer p.pause.mu.Unlock()
	p.told = told
}

// Leave implements Pass.
func (p *passage) Leave(a Attempt) {
	if again := p.last(); again != p {
		p.pause.leave(p, Attempt{})
		p = again
	}
	p.pause.leave(p, a)
}

// last returns the passage of the last replay, or else p itself.
func (p *passage) last() *passage {
	p.pause.mu.Lock()
	defer p.pause.mu.Unlock()
	if p.again != nil {
		return p.again
	}
	return p
}

// Replay implements Observer: what net/http sends again on its own passes like what we send.
func (p *passage) Replay(ctx context.Context) error {
	passed := p.last()
	var a Attempt
	if w := waits.Of(ctx); w != nil {
		a.waits = func(length time.Duration) { w.Announce(func() time.Duration { return length }) }
	}
	for {
		current := p.pause.current(passed.epoch)
		if !current {
			// What was sent before the pause has no place in it.
			again, err := p.pause.enter(ctx, a)
			if err != nil {
				return err
			}
			again.limit, again.sent = p.limit, true
			p.pause.mu.Lock()
			p.again, passed = again, again
			p.pause.mu.Unlock()
		}
		if err := p.limit.pass(ctx, a.waits); err != nil {
			return err
		}
		if p.pause.current(passed.epoch) {
			break
		}
	}
	p.pause.mu.Lock()
	defer p.pause.mu.Unlock()
	p.unpaid++
	return nil
}

// Sent implements Observer.
func (p *passage) Sent(time.Time) {
	p.pause.mu.Lock()
	defer p.pause.mu.Unlock()
	switch {
	case p.unpaid > 0:
		p.unpaid--
	case p.sent && p.pause.pace != nil:
		p.pause.pace.Reserve() // nobody asked before this replay: those who come pay for it
	}
	p.sent = true
	if p.stuck {
		p.place.Remove()
	}
}

// Answered implements Observer: a 429 stops the others now, and not when its body has been looked
// at. An answer that is no failure frees its place: its body may go on for hours.
func (p *passage) Answered(resp *http.Response) {
	p = p.last()
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		p.pause.throttle(p.epoch, pushback(resp, Throttled))
	case resp.StatusCode < 400 && p.narrow:
		p.pause.answer(p)
	}
}

// lack returns how long a limiter takes from then on until it has so many tokens.
func lack(pace *rate.Limiter, tokens float64, then time.Time) time.Duration {
	short := max(0, tokens-pace.TokensAt(then))
	seconds := min(short/float64(pace.Limit()), maxPushback.Seconds())
	return time.Duration(seconds * float64(time.Second))
}
