package steadyhttp

import (
	"container/list"
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/waits"
)

// Gate is the one seam for "may this attempt go, and here is how it went": limits, quotas,
// breakers, bulkheads. Every attempt passes the Transport's gates, retries included. A Gate must be
// safe for concurrent use.
type Gate interface {
	// Enter blocks until the attempt may be sent, or refuses with an error, preferably a *Refusal;
	// that is final for the call. ctx ends when the call must: at its deadline or
	// Policy.MaxElapsed. A gate that is about to block says so with Attempt.Waits. A nil Pass lets
	// the attempt go and wants to be told nothing.
	Enter(ctx context.Context, a Attempt) (Pass, error)
}

// Pass is an attempt's way through a Gate.
type Pass interface {
	// Leave is called exactly once on every path, panics included, with what became of the attempt:
	// when its answer's headers have come and been judged, or when it failed or was not made.
	// a.Sent is zero if it provably never left. It must not block.
	//
	// A redirect may lead to another origin. What that one answers says nothing of the service that
	// the gate is for, and must not hold up those who call it: of such an attempt Leave is told the
	// sending, with no answer and Unclassified, and an Observer is not told of the answer. Behind
	// PerKey, a gate learns as usual from hops that its key is for, and not for the request that
	// was redirected.
	Leave(a Attempt)
}

// PassFunc makes a Pass of a function.
type PassFunc func(Attempt)

// Leave calls f.
func (f PassFunc) Leave(a Attempt) { f(a) }

// Refusal is what a Gate returns to say no.
type Refusal struct {
	Wait time.Duration // how long the call would have had to wait, at least; a job queue can put it off for that long. 0: unknown
	Err  error         // why, in a few words; nil: no more is to be said
}

// Error returns Err's text.
func (r *Refusal) Error() string {
	if r.Err == nil {
		return "a gate said no"
	}
	return r.Err.Error()
}

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// tooLate refuses a wait that the context would cut short.
func tooLate(needs, left time.Duration) *Refusal {
	return &Refusal{Wait: needs, Err: &durations.TooLate{Needs: needs, Left: left}}
}

// Limit returns a Gate around a limiter: a *rate.Limiter of golang.org/x/time/rate is one. Beyond
// limiting, it pauses all its callers when one attempt was throttled, until the server's time; then
// one probe goes first, and the rest follows at a growing pace. A probe that has no answer after
// 5 s holds nobody up any longer: the next one goes. A nil limiter,
// or a nil *rate.Limiter, limits nothing, and only pauses.
//
// Mind that a rate.Limiter with burst b and rate r lets b + r*W calls pass in a window W: to stay
// within "100 a minute", b + r*60 s must not exceed 100.
func Limit(limiter interface {
	Wait(ctx context.Context) error
}) Gate {
	l := &limit{limiter: limiter}
	if pace, ok := limiter.(*rate.Limiter); ok {
		if l.pause.pace = pace; pace == nil {
			l.limiter = nil
		}
	}
	return l
}

type limit struct {
	limiter interface{ Wait(context.Context) error }
	pause   pause
}

func (l *limit) Enter(ctx context.Context, a Attempt) (Pass, error) {
	for {
		passed, err := l.pause.enter(ctx, a)
		if err != nil {
			return nil, err
		}
		switch current, err := l.wait(ctx, a, passed); {
		case err != nil:
			return nil, err
		case current:
			passed.limit = l
			passed.observe(a)
			return passed, nil
		}
	}
}

// passage is one attempt's way through a Limit. Its epoch is that of the grant: by the time the
// caller wakes, there may be another.
type passage struct {
	limit    *limit
	pause    *pause
	epoch    int
	narrow   bool // granted in a narrow window: it has, or had, a place
	granted  time.Time
	arrivals int // until the grant

	// Guarded by pause.mu:
	place    *list.Element // in pause.places or pause.stuck; nil: in neither
	told     bool          // it will be told of its sending
	sent     bool
	answered bool     // and has widened the window
	unpaid   int      // replays that have passed, and have not been sent
	again    *passage // of a replay that had to sit out a pause; nil: there was none
}

// observe has an attempt tell of its sending and answer from now on.
func (p *passage) observe(a Attempt) {
	told := a.Observe(p)
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
	l, passed := p.limit, p.last()
	var a Attempt
	a.watch, _ = waits.Of(ctx).(*watch)
	for {
		current := l.pause.current(passed.epoch)
		if !current {
			// What was sent before the pause has no place in it.
			again, err := l.pause.enter(ctx, a)
			if err != nil {
				return err
			}
			again.limit, again.sent = l, true
			p.pause.mu.Lock()
			p.again, passed = again, again
			p.pause.mu.Unlock()
		}
		if l.limiter != nil {
			l.announce(ctx, a)
			if err := l.limiter.Wait(ctx); err != nil {
				return l.explain(ctx, err)
			}
		}
		if l.pause.current(passed.epoch) {
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
	if p.place != nil && p.epoch == p.pause.epoch {
		p.pause.stuck.Remove(p.place)
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

// wait passes the limiter. It reports false if another attempt was throttled meanwhile, and the
// pause must be sat out too.
func (l *limit) wait(ctx context.Context, a Attempt, p *passage) (current bool, err error) {
	defer func() {
		if !current {
			l.pause.leave(p, Attempt{}) // also if the limiter panics
		}
	}()
	if l.limiter != nil {
		l.announce(ctx, a)
		if err := l.limiter.Wait(ctx); err != nil {
			return false, l.explain(ctx, err)
		}
	}
	return l.pause.current(p.epoch), nil
}

// announce tells of a wait that a rate.Limiter is about to make, and not of one that it will
// refuse.
func (l *limit) announce(ctx context.Context, a Attempt) {
	pace := l.pause.pace
	if pace == nil || a.watch == nil || pace.Limit() <= 0 || pace.Burst() < 1 {
		return
	}
	wait := lack(pace, 1, time.Now())
	if deadline, ok := ctx.Deadline(); wait >= noticeable && (!ok || time.Until(deadline) >= wait) {
		a.Waits(func() time.Duration { return wait })
	}
}

// lack returns how long a limiter takes from then on until it has so many tokens.
func lack(pace *rate.Limiter, tokens float64, then time.Time) time.Duration {
	short := max(0, tokens-pace.TokensAt(then))
	seconds := min(short/float64(pace.Limit()), maxPushback.Seconds())
	return time.Duration(seconds * float64(time.Second))
}

// explain adds to a rate.Limiter's refusal what it knows and does not say: how long the wait would
// have been.
func (l *limit) explain(ctx context.Context, err error) error {
	limiter, ok := l.limiter.(*rate.Limiter)
	deadline, limited := ctx.Deadline()
	if !ok || !limited || ctx.Err() != nil {
		return err
	}
	asked := limiter.Reserve()
	if !asked.OK() {
		return err // its burst is 0: no wait would be long enough
	}
	defer asked.Cancel()
	return tooLate(asked.Delay(), time.Until(deadline))
}

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

	mu       sync.Mutex // guards what follows
	until    time.Time  // closed until then
	epoch    int        // pauses so far: an attempt of an earlier one neither counts nor begins another
	window   float64    // how many attempts of this epoch may be unanswered at once; 0: any number
	out      int        // the length of places
	places   list.List  // of *passage: those unanswered, the longest first; used in a narrow window only
	stuck    list.List  // of *passage: those who ran out of patience before they were sent
	moved    time.Time  // when one last did
	favoured bool       // the place went to a caller that the stuck may wait for
	failed   int        // probes in a row that were throttled
	queue    list.List  // of *turn, first come, first served
	arrivals int        // callers that had to queue so far
	soonest  time.Time  // no deadline in the queue is before it; zero: none has any
	timer    *time.Timer
}

// turn is a place in the queue. Either passed or err is set before granted is closed.
type turn struct {
	granted  chan struct{}
	number   int
	deadline time.Time // zero: none
	passed   *passage
	err      error
}

func (p *pause) enter(ctx context.Context, a Attempt) (*passage, error) {
	if ctx.Err() != nil {
		return nil, cancelCause(ctx)
	}
	p.mu.Lock()
	now := time.Now()
	if p.queue.Len() == 0 && p.open(now) {
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
	place := p.queue.PushBack(t)
	p.serve()
	needs := p.earliest(now).Sub(now)
	p.mu.Unlock()

	a.Waits(func() time.Duration { return needs })
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
		p.queue.Remove(place)
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
	if p.stuck.Len() > 0 {
		return true
	}
	for e := p.places.Front(); e != nil; e = e.Next() {
		if holder := e.Value.(*passage); holder.told && !holder.sent {
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
		p.places.Init()
		p.stuck.Init()
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
	for e := p.queue.Front(); e != nil; {
		t, next := e.Value.(*turn), e.Next()
		switch {
		case t.deadline.IsZero():
		case t.deadline.Before(p.until):
			p.queue.Remove(e)
			t.err = tooLate(time.Until(p.until), time.Until(t.deadline))
			close(t.granted)
		case p.soonest.IsZero() || t.deadline.Before(p.soonest):
			p.soonest = t.deadline
		}
		e = next
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
		p.places.Front().Value.(*passage).granted.Add(patience), p.moved.Add(spread),
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
	passed.place = p.places.PushBack(passed)
	p.out = p.places.Len()
	return passed
}

// makeRoom takes the place of the attempt that has been unanswered longest.
func (p *pause) makeRoom(now time.Time) {
	oldest := p.places.Remove(p.places.Front()).(*passage)
	oldest.place = nil
	if oldest.told && !oldest.sent {
		oldest.place = p.stuck.PushBack(oldest)
	}
	p.moved = now
}

// release frees the place of an attempt that has been answered, or is over.
func (p *pause) release(passed *passage) {
	if passed.place == nil || passed.epoch != p.epoch {
		return
	}
	p.places.Remove(passed.place)
	p.stuck.Remove(passed.place)
	passed.place = nil
	p.out = p.places.Len()
}

// next returns whose turn it is. An attempt that was let go and not sent may wait for somebody
// behind it in this very queue: its Prepare for the token's request, or, where gates are passed in
// different orders, the gate behind this one for an attempt that has it. Whoever that is came after
// the grant, so that every second time the first of those goes.
func (p *pause) next() *list.Element {
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
	if holder := waiting.Value.(*passage); holder.told && !holder.sent {
		for e := p.queue.Front(); e != nil; e = e.Next() {
			if e.Value.(*turn).number > holder.arrivals {
				return e
			}
		}
	}
	return p.queue.Front()
}

// serve lets those go who may, and wakes itself for the next.
func (p *pause) serve() {
	now := time.Now()
	for p.queue.Len() > 0 && p.open(now) {
		t := p.queue.Remove(p.next()).(*turn)
		t.passed = p.admit(now)
		close(t.granted)
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if closed := p.opens().Sub(now); p.queue.Len() > 0 && closed > 0 {
		p.timer = time.AfterFunc(closed, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.serve()
		})
	}
}

// PerKey is a Gate that sends each attempt through the gate of its key: per host, per tenant, per
// endpoint. Its fields are read-only after first use; it is safe for concurrent use and must not be
// copied.
type PerKey struct {
	// Key names the limit that a request is for. nil: its origin.
	Key func(*http.Request) string

	// New makes a key's gate at its first use; a nil gate lets everything pass. It is needed.
	New func(key string) Gate

	// Max is how many gates are kept. Beyond it, the one that has been idle longest is dropped,
	// with what it had counted. One in use never is, so that more are kept while more keys than
	// that are in use at once. 0 or less: 1000.
	Max int

	latest atomic.Pointer[originKey] // most clients call one origin

	mu    sync.Mutex // guards what follows, and the users and place of each keyed gate
	gates map[string]*keyedGate
	idle  idleGates
}

type keyedGate struct {
	key        string
	users      int
	next, prev *keyedGate // in idle; nil while in use

	mu   sync.Mutex  // held while gate is made
	made atomic.Bool // gate does not change any more
	gate Gate
}

// Enter implements Gate.
func (p *PerKey) Enter(ctx context.Context, a Attempt) (Pass, error) {
	if p.New == nil {
		return nil, &Refusal{Err: errors.New("steadyhttp: PerKey.New is nil; set it to a function that makes a key's Gate")}
	}
	key := p.keyOf(a.Request)
	// A hop that has a gate of its own there is no stranger to it.
	own := a.foreign && key != p.keyOf(firstOf(a.Request))
	a.foreign = a.foreign && !own
	pass := &keyedPass{per: p, gate: p.borrow(key), own: own}
	entered := false
	defer func() {
		if !entered {
			p.giveBack(pass.gate)
		}
	}()
	if gate := pass.gate.get(p.New); gate != nil {
		inner, err := gate.Enter(ctx, a)
		if err != nil {
			return nil, err
		}
		pass.inner = inner
	}
	entered = true
	return pass, nil
}

func (p *PerKey) keyOf(req *http.Request) string {
	if p.Key != nil {
		return p.Key(req)
	}
	o := originOf(req)
	if latest := p.latest.Load(); latest != nil && latest.origin == o {
		return latest.key
	}
	latest := &originKey{o, o.String()}
	p.latest.Store(latest)
	return latest.key
}

// originKey is an origin with its text, which is not made anew for each call.
type originKey struct {
	origin origin
	key    string
}

// keyedPass is an attempt's way through the gate of its key.
type keyedPass struct {
	per   *PerKey
	gate  *keyedGate
	inner Pass
	own   bool
}

// Leave implements Pass.
func (p *keyedPass) Leave(a Attempt) {
	defer p.per.giveBack(p.gate)
	if p.inner == nil {
		return
	}
	if p.own && a.whole != nil {
		a = *a.whole
		a.foreign = false
	}
	p.inner.Leave(a)
}

func (p *PerKey) borrow(key string) *keyedGate {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.gates[key]
	if k == nil {
		if p.gates == nil {
			p.gates = make(map[string]*keyedGate)
		}
		k = &keyedGate{key: key}
		p.gates[key] = k
	}
	if k.next != nil {
		p.idle.remove(k)
	}
	k.users++
	p.shrink()
	return k
}

func (p *PerKey) giveBack(k *keyedGate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.users--; k.users == 0 {
		p.idle.push(k)
	}
	p.shrink()
}

// shrink requires that p.mu is held.
func (p *PerKey) shrink() {
	most := p.Max
	if most < 1 {
		most = 1000
	}
	for len(p.gates) > most {
		k := p.idle.longest()
		if k == nil {
			return
		}
		p.idle.remove(k)
		delete(p.gates, k.key)
	}
}

// idleGates is a ring of gates in the order in which they became idle. Each call takes its gate out
// and puts it back: container/list would allocate an element each time.
type idleGates struct {
	root   keyedGate
	length int
}

func (l *idleGates) Len() int { return l.length }

// longest returns the gate that has been idle longest; nil: none is.
func (l *idleGates) longest() *keyedGate {
	if l.length == 0 {
		return nil
	}
	return l.root.next
}

func (l *idleGates) push(k *keyedGate) {
	if l.root.next == nil {
		l.root.next, l.root.prev = &l.root, &l.root
	}
	l.length++
	k.next, k.prev = &l.root, l.root.prev
	k.prev.next, l.root.prev = k, k
}

func (l *idleGates) remove(k *keyedGate) {
	l.length--
	k.prev.next, k.next.prev = k.next, k.prev
	k.next, k.prev = nil, nil
}

// get makes the gate under its own lock, so that a slow newGate holds up nobody of another key. One
// that panics has made nothing: the next caller tries again.
func (k *keyedGate) get(newGate func(string) Gate) Gate {
	if k.made.Load() {
		return k.gate
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.made.Load() {
		k.gate = newGate(k.key)
		k.made.Store(true)
	}
	return k.gate
}
