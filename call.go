package steadyhttp

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/origin"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
	"github.com/steadyhttp/steadyhttp/internal/waits"
)

// call is one RoundTrip under way. Its methods are the steps of the loop, in the order in which the
// loop takes them. It stays on RoundTrip's stack: nothing may keep a pointer to it.
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
	answered Verdict // on the last answer; Unclassified: there was none
	status   int     // of it
	doubt    bool    // an attempt may have been carried out, and nobody knows
	below    int     // attempts of Transports below, over and above ours
	unready  error   // what Prepare failed of the last time; nil: it has not since the last attempt

	bounded  context.Context // ends when the call must: for gates, and for waiting on the budget
	unbound  context.CancelFunc
	started  bool // Trace.Start has been told, and not come to a panic
	returned bool // RoundTrip has come to its end, and not to a panic
}

func (c *call) begin() error {
	if c.first.ready {
		// There were no settings to apply and nobody to tell, or the first attempt would not have
		// been made like that.
		c.body = requestBody{original: c.original.Body, getBody: c.original.GetBody, used: true, handed: true}
		c.unsafe = c.first.sends != nil
		return nil
	}
	c.body.original = c.original.Body // to be closed, however early the call ends
	if s := settingsOf(c.ctx); s != nil {
		if err := c.apply(s); err != nil {
			c.why = StopPermanent
			return err
		}
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
	c.started = true
	if !c.native() {
		c.transport.under.Add(1)
	}
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
func (c *call) apply(s *settings) error {
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

// native reports whether the base transport is net/http's own, and keeps its contract.
func (c *call) native() bool {
	_, native := c.transport.base().(*http.Transport)
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
	if c.started && !c.native() {
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
	c.attempt.renewed = c.authorized
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
	return nil
}

func (c *call) enter(gate Gate, index int) error {
	a := c.attempt
	a.gate = index
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
	switch {
	case c.over():
		c.why = StopCancelled
		return cancelCause(c.ctx)
	case c.bound().Err() != nil:
		c.why = StopElapsed
		return &timeoutError{"Policy.MaxElapsed", c.policy.MaxElapsed}
	}
	c.why = StopRefused
	if !neterr.Is[*Refusal](err) {
		return &Refusal{Err: err}
	}
	return err
}

// recover waits until a call may go on whose attempt could not be prepared, and returns err if it
// may not. Nothing was sent, so that trying again is safe whatever the request does; it is no
// attempt, and what the last one came to stays.
func (c *call) recover(err error) error {
	if c.why != StopPrepare || !c.retriesPrepare(err) {
		return err
	}
	c.nextBackOff(c.policy)
	pause := wait{least: c.leastInterval(), most: min(c.interval, c.policy.maxWait())}
	delay, stop := c.policy.fits(pause, c.remaining(), untilDeadline(c.ctx))
	if stop != "" || c.interval == backoff.Stop || !c.affords() {
		return err
	}
	c.unprepared++
	c.unready = err
	c.giveBack(err)
	c.attempt.N--
	return c.sitOut(delay, WaitBackOff, true)
}

// retriesPrepare classifies a failure of Prepare as one of the base transport. Of one that is known
// to pass there are as many retries as after a 429, of one that may be anything a single one: an
// authority locks out who asks too often with the wrong secret.
func (c *call) retriesPrepare(err error) bool {
	if c.policy.maxAttempts() == 1 || !c.body.replayable() {
		return false
	}
	switch kindOf(err.(*prepareError).err) {
	case neterr.Lasting:
		return false
	case neterr.Unknown:
		return c.unprepared == 0
	}
	return c.policy.MaxThrottled < 0 || c.unprepared < max(c.policy.maxAttempts()-1, c.policy.MaxThrottled)
}

func (c *call) decide() {
	a := &c.attempt
	if a.Verdict.Class == Success && c.final == "" {
		a.Stop = StopDone
	} else {
		a.Wait, a.Stop = c.next()
	}
	if a.Stop != "" {
		a.Wait, a.ServerAsked = 0, false
	}
	if c.standIn != nil {
		c.standIn.attempt = *a
	}
	if c.trace != nil && c.trace.AttemptDone != nil {
		c.trace.AttemptDone(c.context, *a)
	}
}

// next says how long to wait before the next attempt, or why there is none.
func (c *call) next() (time.Duration, Stop) {
	v := c.attempt.Verdict
	switch {
	case c.final != "":
		return 0, c.final
	case v.Class != Permanent && c.over():
		return 0, StopCancelled
	}
	s := situation{
		attempts:     c.attempt.N + c.below - c.policy.uncounted(c.throttled),
		throttled:    c.throttled,
		authorizable: c.authorizes() && !c.authorized,
		replayable:   c.body.replayable(),
	}
	if v.Class == Transient {
		s.idempotent = c.idempotent()
		s.unsent = !s.idempotent && c.unsent()
		s.unknown = c.attempt.Err != nil && !c.judged && (!c.native() && kindOf(c.attempt.Err) == neterr.Unknown ||
			c.byProxy() && neterr.OfPhrase(c.attempt.Err.Error()) == neterr.Unknown)
	}
	if stop := c.policy.permit(v, s); stop != "" {
		if err := c.attempt.Err; stop == StopPermanent && err != nil && neterr.Unread(err) && !c.idempotent() {
			stop = StopNotIdempotent
		}
		return 0, stop
	}
	paced, free := c.pace(c.policy, v), c.policy.free(v, s)
	if free && paced.most != backoff.Stop {
		// A service that asks for a millisecond for ever would be a hot loop.
		const least = 100 * time.Millisecond
		paced.least, paced.most = max(paced.least, least), max(paced.most, least)
	}
	wait, stop := c.policy.fits(paced, c.remaining(), untilDeadline(c.ctx))
	if stop == "" {
		stop = c.tooLong(v, wait)
	}
	if stop != "" {
		return 0, stop
	}
	if !c.body.claim() {
		return 0, StopBodyNotReplayable
	}
	if c.costs(v) && !c.affords() {
		return 0, StopBudget
	}
	c.attempt.ServerAsked = paced.asked > 0 && (wait > paced.own || paced.asked >= paced.own)
	c.count(v)
	return wait, ""
}

// tooLong says why a wait is not begun that is longer than it looks: by what the budget's queue
// adds, or since there have been too many before it.
func (c *call) tooLong(v Verdict, wait time.Duration) Stop {
	if c.costs(v) && c.budget().Wait && c.budget().Max >= 0 {
		queue := c.budget().of(c.original).expected()
		if left := c.remaining(); left >= 0 && queue >= left {
			return StopElapsed
		}
		if left := untilDeadline(c.ctx); left >= 0 && queue >= left {
			return StopDeadline
		}
	}
	if v.Class == Throttled && c.policy.MaxThrottled < 0 && c.policy.MaxElapsed <= 0 &&
		c.throttledFor()+wait > maxThrottling {
		return StopElapsed
	}
	return ""
}

// costs reports whether the retry is one that successes must pay for. One that the service itself
// dated is not.
func (c *call) costs(v Verdict) bool {
	return v.Class == Transient || v.Class == Throttled && !named(v)
}

// affords takes the price of a retry, unless that is waited for.
func (c *call) affords() bool { return c.budget().Wait || c.budget().Take(c.original) }

func (c *call) budget() *Budget { return c.transport.budgetOf(c.policy) }

// remaining is what is left of MaxElapsed, negative if it is not set.
func (c *call) remaining() time.Duration {
	if c.policy.MaxElapsed <= 0 {
		return -1
	}
	return max(0, c.policy.MaxElapsed-time.Since(c.attempt.Began))
}

// wait sits out what the decision asked for, after it has given back all that the attempt held.
func (c *call) wait() error {
	wait := c.attempt.Wait
	c.last = c.attempt
	c.kept = kept{}
	if c.response != nil {
		c.keepOrDrop()
	}
	c.endAttempt()
	cause := WaitBackOff
	if c.last.ServerAsked {
		cause = WaitServer
	}
	return c.sitOut(wait, cause, c.costs(c.last.Verdict))
}

// sitOut waits for so long, and until the budget covers a retry that costs.
func (c *call) sitOut(wait time.Duration, cause WaitCause, costs bool) error {
	if costs && c.budget().Wait && c.budget().Max >= 0 {
		asked := time.Now()
		if err := c.queueForBudget(); err != nil {
			return c.notCovered(err)
		}
		// The time on the budget's queue has been a back-off too.
		wait -= time.Since(asked)
	}
	if wait <= 0 {
		return nil
	}
	if watch := c.watch(cause, -1); watch != nil {
		watch.begin(wait)
		defer watch.end()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.ctx.Done():
	case <-c.legacyCancel():
	}
	return c.interrupted()
}

// notCovered tells a queue that is too long from the end of the call while it waited there.
func (c *call) notCovered(err error) error {
	late, ok := errors.AsType[*durations.TooLate](err)
	if !ok || c.over() {
		return c.interrupted()
	}
	if left := c.remaining(); left >= 0 && late.Needs >= left {
		return c.interrupted()
	}
	c.why = StopDeadline
	return late
}

func (c *call) queueForBudget() error {
	if watch := c.watch(WaitBudget, -1); watch != nil {
		defer watch.end()
	}
	return c.budget().of(c.original).wait(c.bound(), c.legacyCancel())
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
	if c.bounded != nil {
		return c.bounded
	}
	c.bounded = c.ctx
	if c.policy.MaxElapsed > 0 {
		c.bounded, c.unbound = context.WithDeadline(c.bounded, c.attempt.Began.Add(c.policy.MaxElapsed))
	}
	if c.legacyCancel() != nil {
		// Gates know contexts only.
		ctx, cancel := context.WithCancel(c.bounded)
		unbound := c.unbound
		c.bounded, c.unbound = ctx, func() {
			cancel()
			if unbound != nil {
				unbound()
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
	return c.bounded
}

// watch returns nil where nobody wants to know.
func (c *call) watch(cause WaitCause, gate int) *watch {
	if c.trace == nil || c.trace.Waiting == nil && c.trace.Waited == nil {
		return nil
	}
	return newWatch(c.trace, c.ctx, c.attempt, Wait{cause, gate, 0})
}

// onReplays returns what tells of a wait for a place of a replay; nil where nobody wants to know. It
// keeps no hold of the call, which is still on the stack.
func (c *call) onReplays() sendlog.Watch {
	if c.trace == nil || c.trace.Waiting == nil && c.trace.Waited == nil {
		return nil
	}
	trace, ctx, a := c.trace, c.ctx, c.attempt
	return func(replay context.Context, gate int) (context.Context, func()) {
		w := newWatch(trace, ctx, a, Wait{WaitGate, gate, 0})
		return waits.With(replay, w), w.end
	}
}

// inCycle looks for a Transport's own frames on the stack, for a base transport that leads back
// here without the context.
func inCycle() bool {
	const most = 64 // Transports within each other that nobody means
	stack := make([]uintptr, 64*most)
	frames := runtime.CallersFrames(stack[:runtime.Callers(1, stack)])
	for calls := 0; ; {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, ".(*Transport).steady") {
			calls++
		}
		if !more || calls == most {
			return calls == most
		}
	}
}
