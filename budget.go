package steadyhttp

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/list"
	"github.com/steadyhttp/steadyhttp/internal/origin"
)

// Budget lets successes pay for retries, so that an outage is not made worse by those who wait for
// its end: with back-off and jitter alone, four attempts a call are four times the load, and a
// service that queues work may not recover from that. A retry after a Transient failure, or after a 429 that named no
// time, costs 1. Every answer below 500 but 408 and 429 pays PerSuccess, and time pays PerSecond,
// so that a client with few calls is never stuck.
//
// There is one balance per origin (scheme, host and port), for at most 1000 origins; those beyond
// share one. The zero value is ready to use. A Budget is safe for concurrent use, must not be
// copied, and may be shared by Transports.
type Budget struct {
	// Max is the highest balance, and the first one. 0: 10. Negative: retries are free. Below 1, it
	// never covers one.
	Max float64

	// PerSuccess is what an answer pays. 0: 0.1. Negative: nothing.
	PerSuccess float64

	// PerSecond is what a second pays. 0: 1/30. Negative: nothing.
	PerSecond float64

	// Wait makes a call wait, first come first served, until the balance covers its retry. false:
	// the call ends at once.
	Wait bool

	last     atomic.Pointer[balance] // most clients talk to one origin
	mu       sync.Mutex              // guards what follows
	balances map[origin.Origin]*balance
	others   *balance // of all the origins beyond maxOrigins
}

// maxOrigins bounds what a client that follows links to ever new hosts can make us remember.
const maxOrigins = 1000

// Take takes the price of one retry off the balance of req's origin, for extra requests that a
// program makes on its own, such as hedges. It reports false, and takes nothing, if the balance
// does not cover it.
func (b *Budget) Take(req *http.Request) bool {
	return b.Max < 0 || b.of(req).take()
}

// check refuses what would never cover a retry, or end in what is no number.
func (b *Budget) check() error {
	for _, field := range [...]struct {
		name  string
		value float64
	}{{"Max", b.Max}, {"PerSuccess", b.PerSuccess}, {"PerSecond", b.PerSecond}} {
		if math.IsNaN(field.value) || math.IsInf(field.value, 0) {
			return fmt.Errorf("%s is %v; use a finite number", "Budget."+field.name, field.value)
		}
	}
	if b.Wait && b.Max > 0 && b.Max < 1 {
		return fmt.Errorf("Budget.Max is %v and Wait is set: no retry would ever be covered; use at least 1", b.Max)
	}
	return nil
}

func (b *Budget) pay(req *http.Request) {
	if b.Max >= 0 {
		b.of(req).pay()
	}
}

func (b *Budget) of(req *http.Request) *balance {
	if last := b.last.Load(); last != nil && last.spelt.Host == req.URL.Host && last.spelt.Scheme == req.URL.Scheme {
		return last
	}
	return b.find(req)
}

func (b *Budget) find(req *http.Request) *balance {
	o := origin.Of(req)
	b.mu.Lock()
	defer b.mu.Unlock()
	found := b.balances[o]
	switch {
	case found != nil:
	case len(b.balances) < maxOrigins || b.forgetFull():
		if b.balances == nil {
			b.balances = make(map[origin.Origin]*balance)
		}
		found = b.open()
		found.spelt = origin.Origin{Scheme: req.URL.Scheme, Host: req.URL.Host}
		b.balances[o] = found
	default:
		if b.others == nil {
			b.others = b.open()
		}
		return b.others
	}
	b.last.Store(found)
	return found
}

// forgetFull makes room by dropping a balance that is full, which loses nothing: a new one would be
// full as well. It looks at a few only, in the map's random order.
func (b *Budget) forgetFull() bool {
	looks := 16
	for o, candidate := range b.balances {
		if candidate.full() {
			delete(b.balances, o)
			return true
		}
		if looks--; looks == 0 {
			break
		}
	}
	return false
}

func (b *Budget) open() *balance {
	opened := &balance{
		max:        cmp.Or(b.Max, 10),
		perSuccess: max(0, cmp.Or(b.PerSuccess, 0.1)),
		perSecond:  max(0, cmp.Or(b.PerSecond, 1.0/30)),
	}
	opened.amount = opened.max
	if opened.perSuccess > 0 {
		opened.enough = int64(min(math.Ceil(opened.max/opened.perSuccess), 1<<40))
	}
	return opened
}

// balance is one origin's account. Payments are counted apart from the amount, and no further than
// to what fills an empty account: in the steady state the happy path reads one shared counter and
// writes nothing.
type balance struct {
	spelt                      origin.Origin // as its first request had it
	max, perSuccess, perSecond float64
	enough                     int64

	paid    atomic.Int64
	waiting atomic.Int64 // the length of queue, for pay to see without the lock

	mu     sync.Mutex // guards what follows
	amount float64
	at     time.Time         // until when time has been paid; zero: the clock was not read yet
	queue  list.List[debtor] // first come, first served
	timer  *time.Timer
}

// debtor is a call that waits for its retry to be covered.
type debtor struct {
	covered chan struct{}
	place   list.Links[debtor] // in balance.queue
}

func (a *balance) push(d *debtor) {
	a.queue.PushBack(d, &d.place)
	a.waiting.Add(1)
}

func (a *balance) remove(d *debtor) {
	d.place.Remove()
	a.waiting.Add(-1)
}

func (a *balance) pay() {
	if a.paid.Load() >= a.enough {
		return
	}
	a.paid.Add(1)
	if a.waiting.Load() > 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.serve()
	}
}

func (a *balance) full() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle()
	return a.amount >= a.max
}

func (a *balance) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle()
	if a.waiting.Load() > 0 || !a.covers() {
		return false
	}
	a.amount--
	return true
}

// expected returns how long a newcomer would have to queue if nothing but time paid, 0 where time
// does not.
func (a *balance) expected() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lasts()
}

// lasts is expected, with a.mu held.
func (a *balance) lasts() time.Duration {
	a.settle()
	missing := float64(a.waiting.Load()+1) - a.amount
	if missing <= 0 || a.perSecond <= 0 {
		return 0
	}
	return time.Duration(min(missing/a.perSecond*float64(time.Second), math.MaxInt64/2))
}

// wait blocks until the price is covered and taken, or until ctx or cancel ends. It does not begin
// if that would come first: of many calls that fail at once, each has found the queue short a
// moment ago.
func (a *balance) wait(ctx context.Context, cancel <-chan struct{}) error {
	if a.take() {
		return nil
	}
	d := &debtor{covered: make(chan struct{})}
	a.mu.Lock()
	if left := durations.Left(ctx); left >= 0 && ctx.Err() == nil {
		if needs := a.lasts(); needs >= left {
			a.mu.Unlock()
			return &durations.TooLate{Needs: needs, Left: left}
		}
	}
	a.push(d)
	a.serve() // a payment may have come in before it could see us waiting
	a.mu.Unlock()
	select {
	case <-d.covered:
		return nil
	case <-ctx.Done():
	case <-cancel:
	}
	a.leave(d)
	return cancelCause(ctx)
}

// leave takes a debtor out of the queue, or gives back what it was granted meanwhile.
func (a *balance) leave(d *debtor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.place.Linked() {
		first := a.queue.Front() == d
		a.remove(d)
		if first {
			a.serve() // the timer was this one's
		}
		return
	}
	a.amount++
	a.serve()
}

// serve covers the debtors that can be, and wakes itself for the next one. It requires that a.mu is
// held.
func (a *balance) serve() {
	a.settle()
	for d := a.queue.Front(); d != nil && a.covers(); d = a.queue.Front() {
		a.amount--
		a.remove(d)
		close(d.covered)
	}
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if a.waiting.Load() > 0 && a.perSecond > 0 {
		missing := (1 - a.amount) / a.perSecond * float64(time.Second)
		// A tiny trickle would overflow, and make the timer a hot loop.
		a.timer = time.AfterFunc(time.Duration(min(math.Ceil(missing), math.MaxInt64/2)), func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.serve()
		})
	}
}

// settle adds to the amount what successes and time have paid. It requires that a.mu is held.
func (a *balance) settle() {
	now := time.Now()
	if !a.at.IsZero() {
		a.amount += now.Sub(a.at).Seconds() * a.perSecond
	}
	a.at = now
	a.amount = min(a.max, a.amount+float64(a.paid.Swap(0))*a.perSuccess)
}

// covers forgives what adding up tenths loses.
func (a *balance) covers() bool { return a.amount >= 1-1e-9 }
