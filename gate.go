package steadyhttp

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp/internal/list"
	"github.com/steadyhttp/steadyhttp/internal/origin"
)

// Gate is the one seam for "may this attempt go, and here is how it went": limits, quotas,
// breakers, bulkheads. Every attempt passes the Transport's gates, retries included. A Gate must be
// safe for concurrent use.
type Gate interface {
	// Enter blocks until the attempt may be sent, or refuses with an error, preferably a *Refusal;
	// that is final for the call. ctx ends when the call must: at its deadline or
	// Policy.MaxElapsed. A *Refusal in the error after that says why the attempt could not go in
	// time, and is in the call's error beside the end. A gate that is about to block says so with
	// Attempt.Waits. A nil Pass lets the attempt go and wants to be told nothing.
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

// PassFunc makes a Pass of a function. nil has nothing to be told.
type PassFunc func(Attempt)

// Leave calls f.
func (f PassFunc) Leave(a Attempt) {
	if f != nil {
		f(a)
	}
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
		switch current, err := l.wait(ctx, a.waits, passed); {
		case err != nil:
			return nil, err
		case current:
			passed.limit = l
			passed.observed(a.Observe(passed))
			return passed, nil
		}
	}
}

// wait passes the limiter. It reports false if another attempt was throttled meanwhile, and the
// pause must be sat out too.
func (l *limit) wait(ctx context.Context, waits func(time.Duration), p *passage) (current bool, err error) {
	defer func() {
		if !current {
			l.pause.leave(p, Attempt{}) // also if the limiter panics
		}
	}()
	if err := l.pass(ctx, waits); err != nil {
		return false, err
	}
	return l.pause.current(p.epoch), nil
}

// pass waits for the limiter, if there is one. It is not given the Attempt, which is large, for the
// sake of the stacks of those who wait.
func (l *limit) pass(ctx context.Context, waits func(time.Duration)) error {
	if l.limiter == nil {
		return nil
	}
	if pace := l.pause.pace; pace != nil && pace.Limit() < slowest && pace.Tokens() < 1 {
		return errStandstill
	}
	l.announce(ctx, waits)
	if err := l.limiter.Wait(ctx); err != nil {
		return l.explain(ctx, err)
	}
	return nil
}

// slowest is the rate at which a token takes 300 years, longer than a time.Duration. A rate.Limiter
// below it has no more to come, and its Wait is not over when its limit is raised.
const slowest = rate.Limit(1.0 / (300 * 365 * 24 * 3600))

var errStandstill = &Refusal{Err: errors.New("steadyhttp: the rate.Limiter of Limit has no token left, " +
	"and its limit is 0 or next to it; rate.Limit(10/60) is 0 in Go, " +
	"use rate.Every(time.Minute / 10)")}

// announce tells of a wait that a rate.Limiter is about to make, and not of one that it will
// refuse.
func (l *limit) announce(ctx context.Context, waits func(time.Duration)) {
	pace := l.pause.pace
	if pace == nil || waits == nil || pace.Limit() <= 0 || pace.Burst() < 1 {
		return
	}
	wait := lack(pace, 1, time.Now())
	if deadline, ok := ctx.Deadline(); wait >= noticeable && (!ok || time.Until(deadline) >= wait) {
		waits(wait)
	}
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

	owner  atomic.Pointer[PerKey]    // this one, from its first use on; in a copy, another
	latest atomic.Pointer[originKey] // most clients call one origin

	mu    sync.Mutex // guards what follows, and the users and place of each keyed gate
	gates map[string]*keyedGate
	idle  list.List[keyedGate] // the one that has been so longest first
}

type keyedGate struct {
	key   string
	users int
	place list.Links[keyedGate] // in idle, while it is

	mu   sync.Mutex  // held while gate is made
	made atomic.Bool // gate does not change any more
	gate Gate
}

// errCopied is for a copy, whose gates two locks would guard.
var errCopied = &Refusal{Err: errors.New("steadyhttp: the PerKey was copied after its first use; " +
	"share one by its address, a *PerKey")}

// Enter implements Gate.
func (p *PerKey) Enter(ctx context.Context, a Attempt) (Pass, error) {
	if p.New == nil {
		return nil, &Refusal{Err: errors.New("steadyhttp: PerKey.New is nil; set it to a function that makes a key's Gate")}
	}
	if owner := p.owner.Load(); owner != p {
		if owner != nil || !p.owner.CompareAndSwap(nil, p) && p.owner.Load() != p {
			return nil, errCopied
		}
	}
	key := p.keyOf(a.Request)
	// A hop that has a gate of its own there is no stranger to it.
	own := a.foreign && key != p.keyOf(origin.First(a.Request))
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
	o := origin.Of(req)
	if latest := p.latest.Load(); latest != nil && latest.origin == o {
		return latest.key
	}
	latest := &originKey{o, o.String()}
	p.latest.Store(latest)
	return latest.key
}

// originKey is an origin with its text, which is not made anew for each call.
type originKey struct {
	origin origin.Origin
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
	k.place.Remove()
	k.users++
	p.shrink()
	return k
}

func (p *PerKey) giveBack(k *keyedGate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.users--; k.users == 0 {
		p.idle.PushBack(k, &k.place)
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
		k := p.idle.Front()
		if k == nil {
			return
		}
		k.place.Remove()
		delete(p.gates, k.key)
	}
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
