package steadyhttp

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Trace is a set of hooks, in the manner of httptrace.ClientTrace; Log makes a log of them, package
// steadyotel spans and metrics. Any of them may be nil. They may run concurrently and should return
// quickly. No lock of a gate or a budget is held meanwhile; Waited waits for the Waiting of the same
// wait, should that still run. Those that return a context decide what the following hooks and the
// base transport get; it must be derived from the one they were given. nil stands for that one.
type Trace struct {
	// Enabled is asked as a call begins. If it says no, none of the other hooks is called for that
	// call, which then costs hardly more than without a Trace. nil: always.
	Enabled func(ctx context.Context) bool

	// Start is called as the call begins.
	Start func(ctx context.Context, req *http.Request) context.Context

	// Waiting is called as a wait of the call begins, or a millisecond later where nobody knows
	// beforehand that there will be one, possibly on another goroutine; Waited when it is over,
	// however it ends, once for each Waiting. a is the coming attempt for the causes gate and
	// prepare, and the last one for the others.
	Waiting, Waited func(ctx context.Context, a Attempt, w Wait)

	// AttemptStart is called just before an attempt is sent. a.Request is the attempt's own clone:
	// its headers may be set.
	AttemptStart func(ctx context.Context, a Attempt) context.Context

	// AttemptDone is called when an attempt was answered or failed, is classified and decided on:
	// Wait and Stop are set. Its context is the one that AttemptStart returned.
	AttemptDone func(ctx context.Context, a Attempt)

	// Done is called once for each Start. Of a success, or a 101, it is called when the returned
	// body has ended, failed or been closed. Of any other answer, of one that is in memory already
	// (Policy.MaxRead) and of an error it is called as the call returns: programs that return at
	// once where the status is not 200 close no body. Of a success whose body the program has lost
	// without closing it, it is called once the garbage was collected, and a.Err says so. a is the
	// last attempt; a call that ended before the first has one with N 0. If a hook, a gate or the
	// base transport panics, a has an Err and no Stop.
	Done func(ctx context.Context, a Attempt)
}

// Join returns a Trace that calls all of the given ones; nil ones are left out. Start, Waiting and
// AttemptStart go in order, AttemptDone, Waited and Done in reverse, as calls nest. What one of
// them wants to be told of, all are.
func Join(traces ...*Trace) *Trace {
	var joined *Trace
	for _, t := range traces {
		switch {
		case t == nil:
		case joined == nil:
			joined = t
		default:
			joined = joinTwo(joined, t)
		}
	}
	return joined
}

func joinTwo(outer, inner *Trace) *Trace {
	return &Trace{
		Enabled:      either(outer.Enabled, inner.Enabled),
		Start:        joinStart(outer, inner),
		Waiting:      joinWaits(outer.Waiting, inner.Waiting),
		Waited:       joinWaits(inner.Waited, outer.Waited),
		AttemptStart: chain(outer.AttemptStart, inner.AttemptStart),
		AttemptDone:  both(inner.AttemptDone, outer.AttemptDone),
		Done:         both(inner.Done, outer.Done),
	}
}

// either is nil, which is always, if one of them is.
func either(first, second func(context.Context) bool) func(context.Context) bool {
	if first == nil || second == nil {
		return nil
	}
	return func(ctx context.Context) bool { return first(ctx) || second(ctx) }
}

// awake returns t, or nil if it does not want to be told of a call.
func (t *Trace) awake(ctx context.Context) *Trace {
	if t == nil || t.Enabled != nil && !t.Enabled(ctx) {
		return nil
	}
	return t
}

// joinStart sees to it that the outer one is told of an end even if the inner one panics.
func joinStart(outer, inner *Trace) func(context.Context, *http.Request) context.Context {
	if outer.Start == nil || inner.Start == nil || outer.Done == nil {
		return chain(outer.Start, inner.Start)
	}
	return func(ctx context.Context, req *http.Request) context.Context {
		began := time.Now()
		ctx = orContext(outer.Start(ctx, req), ctx)
		started := false
		defer func() {
			if !started {
				outer.Done(ctx, Attempt{Request: req, Began: began, Err: errPanicked})
			}
		}()
		joined := orContext(inner.Start(ctx, req), ctx)
		started = true
		return joined
	}
}

// chain runs the hooks one after the other, each in the context that the one before returned.
func chain[T any](first, second func(context.Context, T) context.Context) func(context.Context, T) context.Context {
	if first == nil || second == nil {
		if first == nil {
			return second
		}
		return first
	}
	return func(ctx context.Context, subject T) context.Context {
		return orContext(second(orContext(first(ctx, subject), ctx), subject), ctx)
	}
}

func both(first, second func(context.Context, Attempt)) func(context.Context, Attempt) {
	if first == nil || second == nil {
		if first == nil {
			return second
		}
		return first
	}
	return func(ctx context.Context, a Attempt) {
		defer second(ctx, a) // even if the first one panics
		first(ctx, a)
	}
}

func joinWaits(first, second func(context.Context, Attempt, Wait)) func(context.Context, Attempt, Wait) {
	if first == nil || second == nil {
		if first == nil {
			return second
		}
		return first
	}
	return func(ctx context.Context, a Attempt, w Wait) {
		defer second(ctx, a, w) // even if the first one panics
		first(ctx, a, w)
	}
}

// orContext makes up for a hook that returned nil.
func orContext(returned, given context.Context) context.Context {
	if returned == nil {
		return given
	}
	return returned
}

// WaitCause says what a call waits for.
type WaitCause string

const (
	WaitGate    WaitCause = "gate"    // a Gate: the quota's turn
	WaitBudget  WaitCause = "budget"  // the Budget's cover for a retry
	WaitBackOff WaitCause = "backoff" // the back-off before a retry
	WaitServer  WaitCause = "server"  // the time that the server named
	WaitPrepare WaitCause = "prepare" // Transport.Prepare, which may fetch a token
)

// Wait is one wait of a call.
type Wait struct {
	Cause WaitCause
	Gate  int           // the index in Transport.Gates; -1 where it is none
	For   time.Duration // to Waiting as far as is known, 0 where it is not; to Waited as it was
}

// noticeable is how long what nobody has announced must last to be told as a wait.
const noticeable = time.Millisecond

// watch tells the hooks of one wait.
type watch struct {
	trace   *Trace
	ctx     context.Context
	attempt Attempt
	wait    Wait
	began   time.Time
	timer   *time.Timer

	mu       sync.Mutex // guards what follows; held while Waiting is told, which Waited must not overtake
	told     bool
	over     bool
	panicked any // what Waiting panicked with on the timer's goroutine, where nobody could recover it
}

func newWatch(trace *Trace, ctx context.Context, a Attempt, wait Wait) *watch {
	w := &watch{trace: trace, ctx: ctx, attempt: a, wait: wait, began: time.Now()}
	w.timer = time.AfterFunc(noticeable, func() {
		defer func() {
			if value := recover(); value != nil {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.panicked = value
			}
		}()
		w.tell(0)
	})
	return w
}

// Announce implements waits.Announcer.
func (w *watch) Announce(length func() time.Duration) { w.begin(length()) }

// begin tells of a wait that begins now.
func (w *watch) begin(length time.Duration) {
	returned := false
	defer func() {
		if !returned {
			w.end() // of joined hooks, those that did not panic wait for it
		}
	}()
	w.tell(length)
	returned = true
}

func (w *watch) tell(length time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told || w.over {
		return
	}
	w.told = true
	if w.trace.Waiting != nil {
		told := w.wait
		told.For = length
		w.trace.Waiting(w.ctx, w.attempt, told)
	}
}

// end tells that the wait is over, if its beginning was told.
func (w *watch) end() {
	w.timer.Stop()
	length := time.Since(w.began)
	defer w.finish(length)
	if length >= noticeable {
		w.tell(0) // the timer is late, or would have been at this very instant
	}
}

func (w *watch) finish(length time.Duration) {
	w.mu.Lock()
	over, told, panicked := w.over, w.told, w.panicked
	w.over = true
	w.mu.Unlock()
	if over {
		return
	}
	if panicked != nil {
		defer panic(panicked)
	}
	if told && w.trace.Waited != nil {
		w.wait.For = length
		w.trace.Waited(w.ctx, w.attempt, w.wait)
	}
}

// loss is what is told of a body that was lost: nobody can read or close it any more.
type loss struct {
	trace   *Trace
	ctx     context.Context
	attempt Attempt
}

func (l *loss) tell() {
	defer func() { recover() }() // there is no caller any more who could
	l.trace.Done(l.ctx, l.attempt)
}
