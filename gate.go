package steadyhttp

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Gate is the one seam for "may this attempt go, and here is how it went": limits, quotas, breakers, bulkheads. Every
// attempt passes the Transport's gates, repeats included. A Gate must be safe for concurrent use.
type Gate interface {
	// Enter blocks until the attempt may be sent, or refuses with an error, preferably one that wraps ErrRefused; a
	// refusal is final for the call. ctx ends when the call must: at its deadline or Policy.MaxElapsed.
	//
	// leave is called exactly once on every path, panics included, with what became of the attempt. a.Sent is zero
	// if it provably never left. It must not block.
	//
	// A redirect may lead to another origin. What that one answers says nothing of the service that the gate is for, and
	// must not hold up those who call it: of such an attempt leave is told the sending, with no answer and no Class, and
	// an Observer is not told of the answer. Behind PerKey, a gate learns as usual from hops that its key is for, and
	// not for the request that was redirected.
	Enter(ctx context.Context, a Attempt) (leave func(a Attempt), err error)
}

// Limit returns a Gate around a limiter: a *rate.Limiter of golang.org/x/time/rate is one. Beyond limiting, it pauses
// all its callers when one attempt was throttled, until the server's time; then one probe goes first, and the rest
// follows at a growing pace. A nil limiter limits nothing, and only pauses.
//
// Mind that a rate.Limiter with burst b and rate r lets b + r*W calls pass in a window W: to stay within "100 a minute",
// b + r*60 s must not exceed 100.
func Limit(limiter interface {
	Wait(ctx context.Context) error
}) Gate {
	return &limit{limiter: limiter}
}

type limit struct {
	limiter interface{ Wait(context.Context) error }
	pause   pause
}

func (l *limit) Enter(ctx context.Context, a Attempt) (func(Attempt), error) {
	for {
		epoch, err := l.pause.enter(ctx)
		if err != nil {
			return nil, err
		}
		switch current, err := l.wait(ctx, epoch); {
		case err != nil:
			return nil, err
		case current:
			passed := &passage{&l.pause, epoch}
			a.Observe(passed)
			return passed.leave, nil
		}
	}
}

// passage is one attempt's way through a Limit.
type passage struct {
	pause *pause
	epoch int
}

func (p *passage) leave(a Attempt) { p.pause.leave(p.epoch, a) }

// Sent implements Observer.
func (p *passage) Sent(time.Time) {}

// Answered implements Observer: a 429 stops the others now, and not when its body has been looked at.
func (p *passage) Answered(resp *http.Response) {
	if resp.StatusCode == http.StatusTooManyRequests {
		p.pause.throttle(p.epoch, pushback(resp, Throttled))
	}
}

// wait passes the limiter. It reports false if another attempt was throttled meanwhile, and the pause must be sat out too.
func (l *limit) wait(ctx context.Context, epoch int) (current bool, err error) {
	defer func() {
		if !current {
			l.pause.leave(epoch, Attempt{}) // also if the limiter panics
		}
	}()
	if l.limiter != nil {
		if err := l.limiter.Wait(ctx); err != nil {
			return false, l.explain(ctx, err)
		}
	}
	return l.pause.current(epoch), nil
}

// explain adds to a rate.Limiter's refusal what it knows and does not say: how long the wait would have been.
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
	return &deadlineError{wait: asked.Delay(), left: time.Until(deadline)}
}

const (
	maxPause    = time.Hour   // longer than any window that a server counts in; what asks for more is a mistake or an attack
	firstPause  = time.Second // after a 429 that names no time, doubled per failed probe
	longPause   = time.Minute // and no longer than this
	wideEnough  = 64          // attempts under way at once after which the pace is no longer held back
	firstWindow = 1           // the probe
)

// pause closes a gate for everyone after a throttling, and opens it again gently: n waiting callers that all come back at
// the server's time would be n-1 new throttlings.
type pause struct {
	mu     sync.Mutex // guards what follows
	until  time.Time  // closed until then
	epoch  int        // pauses so far: an attempt of an earlier one neither counts nor begins another
	window float64    // how many attempts of this epoch may be under way at once; 0: any number
	out    int        // how many are
	failed int        // probes in a row that were throttled
	queue  list.List  // of *turn, first come, first served
	timer  *time.Timer
}

// turn is a place in the queue. Its epoch is that of the grant: by the time the caller wakes, there may be another.
type turn struct {
	granted chan struct{}
	epoch   int // set before granted is closed
}

func (p *pause) enter(ctx context.Context) (epoch int, err error) {
	if ctx.Err() != nil {
		return 0, cancelCause(ctx)
	}
	p.mu.Lock()
	if p.queue.Len() == 0 && p.open() {
		defer p.mu.Unlock()
		p.out++
		return p.epoch, nil
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(p.until) {
		defer p.mu.Unlock()
		return 0, &deadlineError{wait: time.Until(p.until), left: time.Until(deadline)}
	}
	t := &turn{granted: make(chan struct{})}
	place := p.queue.PushBack(t)
	p.serve()
	p.mu.Unlock()

	select {
	case <-t.granted:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-t.granted:
		if ctx.Err() == nil {
			return t.epoch, nil
		}
		if t.epoch == p.epoch {
			p.out--
		}
	default:
		p.queue.Remove(place)
	}
	p.serve()
	return 0, cancelCause(ctx)
}

func (p *pause) current(epoch int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return epoch == p.epoch
}

func (p *pause) leave(epoch int, a Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	current := epoch == p.epoch
	if current {
		p.out--
	}
	switch {
	case a.Verdict.Class == Throttled:
		p.close(a.Verdict.RetryAfter, current)
	case current && a.Response != nil && p.window > 0:
		p.failed = 0
		if p.window += 1 / p.window; p.window > wideEnough {
			p.window = 0
		}
	}
	p.serve()
}

func (p *pause) throttle(epoch int, asked time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close(asked, epoch == p.epoch)
	p.serve()
}

// close requires that p.mu is held. Of the many attempts that were under way when a pause began, those throttled may
// prolong it, but only one of the present epoch begins the next.
func (p *pause) close(asked time.Duration, current bool) {
	if current {
		if asked == 0 {
			asked = min(longPause, firstPause<<min(p.failed, 6))
		}
		p.failed++
		p.epoch++
		p.out = 0
		p.window = firstWindow
	}
	if until := time.Now().Add(min(asked, maxPause)); until.After(p.until) {
		p.until = until
	}
}

func (p *pause) open() bool {
	return (p.window == 0 || p.out < int(p.window)) && !time.Now().Before(p.until)
}

// serve lets those go who may, and wakes itself at the end of the pause. It requires that p.mu is held.
func (p *pause) serve() {
	for p.queue.Len() > 0 && p.open() {
		p.out++
		t := p.queue.Remove(p.queue.Front()).(*turn)
		t.epoch = p.epoch
		close(t.granted)
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if closed := time.Until(p.until); p.queue.Len() > 0 && closed > 0 {
		p.timer = time.AfterFunc(closed, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.serve()
		})
	}
}

// deadlineError is a refusal to begin a wait that the context would cut short.
type deadlineError struct{ wait, left time.Duration }

func (e *deadlineError) Error() string {
	return fmt.Sprintf("%v: needs %v, context has %v", ErrRefused, round(e.wait), round(e.left))
}

func (e *deadlineError) Unwrap() error { return ErrRefused }

// Wait is how long the call would have had to wait. A Gate's error with this method fills Error.Wait.
func (e *deadlineError) Wait() time.Duration { return e.wait }

// refusal makes sure that what a gate said no with can be told from a failure to send.
func refusal(err error) error {
	if errors.Is(err, ErrRefused) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// PerKey returns a Gate that sends each attempt through the gate of its key: per host, per tenant, per endpoint. newGate
// makes a key's gate at its first use; a nil gate lets everything pass. At most max gates are kept, 1000 if max is below
// 1: then the one that has been idle longest is dropped, with what it had counted. One in use never is, so that more
// are kept while more than max keys are in use at once.
func PerKey(key func(*http.Request) string, newGate func(key string) Gate, max int) Gate {
	if max < 1 {
		max = 1000
	}
	return &perKey{key: key, newGate: newGate, max: max}
}

type perKey struct {
	key     func(*http.Request) string
	newGate func(string) Gate
	max     int

	mu    sync.Mutex // guards what follows, and the users and place of each keyed gate
	gates map[string]*keyedGate
	idle  list.List // of *keyedGate, the longest idle first
}

type keyedGate struct {
	key   string
	users int
	place *list.Element // in idle; nil while in use

	mu   sync.Mutex // guards what follows
	made bool
	gate Gate
}

func (p *perKey) Enter(ctx context.Context, a Attempt) (func(Attempt), error) {
	if p.key == nil {
		return nil, fmt.Errorf("%w: PerKey has a nil key function; give it one that names the request's limit", ErrRefused)
	}
	if p.newGate == nil {
		return nil, fmt.Errorf("%w: PerKey has a nil newGate function; give it one that makes a key's Gate", ErrRefused)
	}
	key := p.key(a.Request)
	// A hop that has a gate of its own there is no stranger to it.
	own := a.foreign && key != p.key(firstOf(a.Request))
	a.foreign = a.foreign && !own
	k := p.borrow(key)
	entered := false
	defer func() {
		if !entered {
			p.giveBack(k)
		}
	}()
	gate := k.get(p.newGate)
	if gate == nil {
		entered = true
		return func(Attempt) { p.giveBack(k) }, nil
	}
	leave, err := gate.Enter(ctx, a)
	if err != nil {
		return nil, err
	}
	entered = true
	return func(a Attempt) {
		defer p.giveBack(k)
		if leave == nil {
			return
		}
		if own && a.whole != nil {
			a = *a.whole
			a.foreign = false
		}
		leave(a)
	}, nil
}

func (p *perKey) borrow(key string) *keyedGate {
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
	if k.place != nil {
		p.idle.Remove(k.place)
		k.place = nil
	}
	k.users++
	p.shrink()
	return k
}

func (p *perKey) giveBack(k *keyedGate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.users--; k.users == 0 {
		k.place = p.idle.PushBack(k)
	}
	p.shrink()
}

// shrink requires that p.mu is held.
func (p *perKey) shrink() {
	for len(p.gates) > p.max && p.idle.Len() > 0 {
		k := p.idle.Remove(p.idle.Front()).(*keyedGate)
		delete(p.gates, k.key)
	}
}

// get makes the gate under its own lock, so that a slow newGate holds up nobody of another key. One that panics has made
// nothing: the next caller tries again.
func (k *keyedGate) get(newGate func(string) Gate) Gate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.made {
		k.gate = newGate(k.key)
		k.made = true
	}
	return k.gate
}
