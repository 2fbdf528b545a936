package steadyhttp

import (
	"context"
	"sync"
	"time"
)

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

// watch returns nil where nobody wants to know.
func (c *call) watch(cause WaitCause, gate int) *watch {
	if c.trace == nil || c.trace.Waiting == nil && c.trace.Waited == nil {
		return nil
	}
	return newWatch(c.trace, c.ctx, c.attempt, Wait{cause, gate, 0})
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

// onReplays returns what makes the watch of a wait for a place of a replay; nil where nobody wants to
// know. It keeps no hold of the call, which is still on the stack.
func (c *call) onReplays() func(gate int) *watch {
	if c.trace == nil || c.trace.Waiting == nil && c.trace.Waited == nil {
		return nil
	}
	trace, ctx, a := c.trace, c.ctx, c.attempt
	return func(gate int) *watch { return newWatch(trace, ctx, a, Wait{WaitGate, gate, 0}) }
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

// Waits is what a Gate calls in Enter before it blocks, with the time that it will take as far as
// is known, 0 if it is not. It tells Trace.Waiting. length is asked only if somebody wants to know.
// It must not be called with a lock held that length or a hook may need.
func (a Attempt) Waits(length func() time.Duration) {
	if a.watch != nil {
		a.watch.begin(length())
	}
}
