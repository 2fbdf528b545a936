package steadyhttp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/origin"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
)

// call is one RoundTrip under way. Its methods are the steps of the loop: here are the first ones, and
// what the others share; an attempt is made in try.go, judged in classify.go, and followed by another
// in retry.go or by the end in outcome.go. It stays on RoundTrip's stack: nothing may keep a pointer
// to it.
type call struct {
	transport *Transport
	original  *http.Request   // the caller's, never changed
	ctx       context.Context // the caller's, and what Trace.Start added
	policy    *Policy
	trace     *Trace
	body      requestBody
	key       string // the Idempotency-Key made for this call, "" if none
	unsafe    bool   // doing the request twice may do harm: nobody may, net/http included

	try    // the present attempt
	pacing // what came of those before, as far as the next one's time goes by it

	last     Attempt // the attempt before, once there is one
	kept     kept    // its answer, if all of it is in memory
	answered answered
	doubt    bool  // an attempt may have been carried out, and nobody knows
	below    int   // attempts of Transports below, over and above ours
	unready  error // what Prepare failed of the last time; nil: it has not since the last attempt

	bounds bounds
	stage  stage
}

// answered is what the last answer came to; zero: there was none.
type answered struct {
	verdict Verdict
	status  int
}

// bounds is the context that ends when the call must: for gates, and for waiting on the budget.
type bounds struct {
	context.Context // nil: nobody has asked for it
	release         context.CancelFunc
}

// stage is how far a call has come.
type stage uint8

const (
	beginning stage = iota
	started         // Trace.Start has been told, and not come to a panic
	returned        // RoundTrip has come to its end, and not to a panic
)

func (c *call) begin() error {
	if c.first.ready {
		// There were no settings to apply and nobody to tell, or the first attempt would not have
		// been made like that.
		c.body = requestBody{original: c.original.Body, getBody: c.original.GetBody, used: true, handed: true}
		c.unsafe = c.first.sends != nil
		return nil
	}
	c.body.original = c.original.Body // to be closed, however early the call ends
	if !c.native() {
		c.transport.under.Add(1)
	}
	if err := c.apply(); err != nil {
		c.why = StopPermanent
		return err
	}
	if c.policy.Idempotent == nil && c.transport.Idempotent != nil {
		known := *c.policy
		known.Idempotent = c.transport.Idempotent
		c.policy = &known
	}
	if c.watched() || c.policy.MaxElapsed > 0 {
		c.attempt.Began = time.Now()
	}
	if c.trace != nil && c.trace.Start != nil {
		c.ctx = orContext(c.trace.Start(c.ctx, c.original), c.ctx)
	}
	c.stage = started
	if c.over() {
		c.why = StopCancelled
		return cancelCause(c.ctx)
	}
	if err := c.checkBase(); err != nil {
		return err
	}
	c.body = newRequestBody(c.original, c.policy)
	return nil
}

// apply brings in what the context asks for. The Transport's own policy stays as it is.
func (c *call) apply() error {
	s := settingsOf(c.ctx)
	if s == nil {
		return nil
	}
	c.trace = Join(c.trace, s.trace.awake(c.ctx))
	if len(s.edits) == 0 {
		return nil
	}
	edited := *c.policy
	for _, edit := range s.edits {
		edit(&edited)
	}
	c.policy = &edited
	return edited.check()
}

// base makes the call's attempts.
func (c *call) base() http.RoundTripper { return c.transport.base() }

// classifier is the Transport's Classify, which may be nil.
func (c *call) classifier() func(Attempt) Verdict { return c.transport.Classify }

// prepares reports whether anybody prepares the attempts' requests.
func (c *call) prepares() bool { return c.transport.prepares() }

// native reports whether the base transport is net/http's own, and keeps its contract.
func (c *call) native() bool {
	_, native := c.base().(*http.Transport)
	return native
}

// checkBase refuses a base transport that leads back here for ever, which would end in a stack
// overflow that no recover can stop.
func (c *call) checkBase() error {
	if c.native() {
		return nil
	}
	depth, _ := c.ctx.Value(nesting{c.transport}).(int)
	if depth >= maxNesting || c.transport.under.Load()%128 == 0 && inCycle() {
		c.why = StopPermanent
		return errCycle
	}
	return nil
}

// leaveBase notes that the call is no longer under way.
func (c *call) leaveBase() {
	if !c.native() {
		c.transport.under.Add(-1)
	}
}

// watched reports whether anybody looks at times and sends.
func (c *call) watched() bool { return c.trace != nil || len(c.transport.Gates) > 0 }

func (c *call) enterGates() error {
	n, began, first, passes := c.attempt.N+1, c.attempt.Began, c.first, c.passes
	c.try = try{} // as in steady
	c.attempt.N, c.attempt.Began, c.attempt.Request, c.attempt.PrevStatus = n, began, c.original, c.last.status()
	c.attempt.foreign = c.original.Response != nil && origin.Left(c.original)
	c.attempt.renewed = c.last.renewed || c.last.Verdict.Class == Unauthorized
	c.first, c.sends, c.passes = first, first.sends, passes
	if c.watched() {
		if len(c.transport.Gates) > 0 {
			l := new(gatedLog)
			c.sends, c.passes = l.Init(), l.passes[:0]
		} else {
			c.sends = &sendlog.Log{Watched: true}
		}
		c.attempt.log = c.sends
	}
	for i, gate := range c.transport.Gates {
		if gate == nil {
			continue
		}
		if err := c.enter(gate, i); err != nil {
			return c.refused(err)
		}
	}
	if len(c.transport.Gates) > 0 && (c.over() || c.remaining() == 0) {
		return c.interrupted() // a gate need not look, and may have let it go at the last moment
	}
	return nil
}

func (c *call) enter(gate Gate, index int) error {
	a := c.attempt
	a.gate = int32(index)
	if watch := c.watch(WaitGate, index); watch != nil {
		a.waits = watch.begin
		defer watch.end() // a hook may panic: by then the pass is kept
	}
	pass, err := gate.Enter(c.bound(), a)
	if err == nil && pass != nil {
		c.passes = append(c.passes, pass)
	}
	return err
}

// refused tells a gate's no from the end of the call while it waited there.
func (c *call) refused(err error) error {
	if refusal, ours := err.(*Refusal); !ours || refusal != nil { // its methods take a nil one
		err = neterr.Solid("Gate.Enter", err)
	}
	if c.over() || c.bound().Err() != nil {
		return c.interruptedAt(err)
	}
	c.why = StopRefused
	if !neterr.Is[*Refusal](err) {
		return &Refusal{Err: err}
	}
	return err
}

// interruptedAt is how a call ends at a gate, its own or that of a call which Prepare made: with what
// the gate says in err of why it came to that.
func (c *call) interruptedAt(err error) error {
	ended := c.interrupted()
	refusal, _ := errors.AsType[*Refusal](err)
	if refusal == nil {
		return ended
	}
	if cancelled, ok := ended.(*cancelled); ok {
		cancelled.last = refusal
		return cancelled
	}
	return &lateError{ended, refusal}
}

func (c *call) budget() *Budget { return c.transport.budgetOf(c.policy) }

// remaining is what is left of MaxElapsed, negative if it is not set.
func (c *call) remaining() time.Duration {
	if c.policy.MaxElapsed <= 0 {
		return -1
	}
	return max(0, c.policy.MaxElapsed-time.Since(c.attempt.Began))
}

func (c *call) interrupted() error {
	if !c.over() {
		c.why = StopElapsed
		return &timeoutError{"Policy.MaxElapsed", c.policy.MaxElapsed}
	}
	c.why = StopCancelled
	return cancelCause(c.ctx)
}

// legacyCancel is the channel that http.Client still uses for its Timeout.
func (c *call) legacyCancel() <-chan struct{} {
	//lint:ignore SA1019 a RoundTripper must obey it as long as http.Client sets it
	return c.original.Cancel
}

// over reports whether the caller has ended the call.
func (c *call) over() bool {
	if c.ctx.Err() != nil {
		return true
	}
	select {
	case <-c.legacyCancel():
		return true
	default:
		return false
	}
}

// bound returns the context that ends when the call must.
func (c *call) bound() context.Context {
	b := &c.bounds
	if b.Context != nil {
		return b.Context
	}
	b.Context = c.ctx
	if c.policy.MaxElapsed > 0 {
		b.Context, b.release = context.WithDeadline(c.ctx, c.attempt.Began.Add(c.policy.MaxElapsed))
	}
	if c.legacyCancel() != nil {
		// Gates know contexts only.
		ctx, cancel := context.WithCancel(b.Context)
		release := b.release
		b.Context, b.release = ctx, func() {
			cancel()
			if release != nil {
				release()
			}
		}
		go func(cancelled <-chan struct{}) {
			select {
			case <-cancelled:
				cancel()
			case <-ctx.Done():
			}
		}(c.legacyCancel())
	}
	return b.Context
}

// watch returns nil where nobody wants to know.
func (c *call) watch(cause WaitCause, gate int) *watch {
	if c.trace == nil || c.trace.Waiting == nil && c.trace.Waited == nil {
		return nil
	}
	return newWatch(c.trace, c.ctx, c.attempt, Wait{cause, gate, 0})
}

// try is what lives for one attempt.
type try struct {
	attempt Attempt
	first   answer       // to it, if it was made before the call's state was needed
	sends   *sendlog.Log // nil where nobody looks and nothing need be proved
	passes  []Pass       // of the gates that were entered

	context context.Context         // the attempt's
	nest    *nest                   // tells what a Transport below has come to; nil: there can be none
	cancel  context.CancelCauseFunc // ends context; nil if nothing of ours ever would
	timer   *time.Timer             // AttemptTimeout's, or what is left of MaxElapsed; nil: none
	expired *timeoutError           // what the timer ends the attempt with

	out    *http.Request // as the base transport gets it; nil once that has it
	before *http.Request // it as it was before the base transport had it, where that may have changed it
	given  io.ReadCloser // the body that out was made with
	fresh  bool          // given is the attempt's own, and not the caller's
	handed bool          // the base transport has been given the attempt

	withheld func() (io.ReadCloser, error) // out's GetBody, taken from it: see maySpeakHTTP2

	response *http.Response // also if its body has failed
	standIn  *responseBody  // for response's body; nil if that goes to the caller as it is
	judged   bool           // the Transport's Classify has named the attempt's class
	final    Stop           // an inner Transport has ended the call already, for this reason
	why      Stop           // why a step ended the call early
}

// answer is what a base transport returned.
type answer struct {
	resp  *http.Response
	err   error
	ready bool // false: the attempt is still to be made
	sends *sendlog.Log
}

// kept is an answer that is all in memory: if its retry can't be made, it is the call's.
type kept struct {
	response *http.Response
	standIn  *responseBody // nil: it has no body
}

// gatedLog is the Log of an attempt that passes gates, most often one: one allocation for all.
type gatedLog struct {
	sendlog.Gated
	passes [1]Pass
}

// limit ends the attempt after a time, in place of what may have been set before; negative: it is
// not limited.
func (t *try) limit(left time.Duration, bound string, whole time.Duration) {
	if left < 0 {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.expired = &timeoutError{bound, whole}
	cancel, cause := t.cancel, t.expired
	t.timer = time.AfterFunc(max(left, 1), func() { cancel(cause) })
}

// endAttempt ends what the attempt has running.
func (t *try) endAttempt() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if t.cancel != nil {
		t.cancel(nil)
		t.cancel = nil
	}
}

// leaveGates tells the gates what became of the attempt, in reverse order of entering. Each is told
// exactly once, even if another one panics.
func (c *call) leaveGates() {
	if len(c.passes) == 0 {
		return
	}
	defer c.leaveGates()
	pass := c.passes[len(c.passes)-1]
	c.passes = c.passes[:len(c.passes)-1]
	if c.attempt.foreign {
		pass.Leave(c.attempt.masked())
		return
	}
	pass.Leave(c.attempt)
}

func (c *call) authorizes() bool { return c.prepares() && !c.attempt.foreign }

func (c *call) callPrepare(prev *Attempt) error {
	if watch := c.watch(WaitPrepare, -1); watch != nil {
		defer watch.end()
	}
	authorize, prepare := c.transport.Authorize, c.transport.Prepare
	brought := c.out.Header["Authorization"]
	if authorize != nil {
		if err := authorize(c.out, prev); err != nil {
			return neterr.Solid("Transport.Authorize", err)
		}
	}
	if prepare == nil {
		return nil
	}
	given := c.out.Header["Authorization"]
	var where url.URL
	if c.out.URL != nil {
		where = *c.out.URL
	}
	if err := prepare(c.out, prev); err != nil {
		return neterr.Solid("Transport.Prepare", err)
	}
	if authorize == nil || c.out.URL == nil || *c.out.URL == where {
		return nil
	}
	// The credentials were for the URL that Prepare has replaced, and another host must not see them.
	origin.TakeBack(c.out.Header, brought, given)
	return neterr.Solid("Transport.Authorize", authorize(c.out, prev))
}

// giveBack leaves the gates of an attempt that was not made, and closes its body.
func (c *call) giveBack(err error) {
	out := c.out
	c.out = nil
	// In this order from the last to the first, and all of them: a Close may panic.
	defer c.endAttempt()
	if len(c.passes) > 0 {
		c.attempt.Response, c.attempt.Err = nil, err
		defer c.leaveGates()
	}
	if out == nil {
		return
	}
	if out.Body != nil && bodies.Replaced(out.Body, c.given) {
		defer out.Body.Close() // Prepare has put it there
	}
	if c.fresh && c.given != nil {
		c.given.Close()
	}
}

// touches reports whether anybody may set header fields on the attempt's request.
func (c *call) touches() bool {
	return c.key != "" || c.prepares() || c.trace != nil && c.trace.AttemptStart != nil
}

func (c *call) authorize() error {
	var prev *Attempt
	if c.last.N > 0 {
		last := c.last
		prev = &last
	}
	c.limit(c.remaining(), "Policy.MaxElapsed", c.policy.MaxElapsed)
	err := c.callPrepare(prev)
	switch {
	case c.over(), c.remaining() == 0:
		return c.interruptedAt(err) // whatever it says: a base would not tell that it has sent nothing
	case err == nil:
		return nil
	}
	c.why = StopPrepare
	return &prepareError{err}
}
