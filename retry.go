package steadyhttp

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
)

// Whether there is another attempt, and when: a call's methods between two of them.

// recover waits until a call may go on whose attempt could not be prepared, and returns err if it
// may not. Nothing was sent, so that trying again is safe whatever the request does; it is no
// attempt, and what the last one came to stays.
func (c *call) recover(err error) error {
	if c.why != StopPrepare || !c.retriesPrepare(err) {
		return err
	}
	c.series.next(c.policy.NewBackOff)
	pause := wait{least: c.series.least(), most: min(c.series.interval, c.policy.maxWait())}
	delay, stop := c.policy.fits(pause, c.remaining(), durations.Left(c.ctx))
	if stop != "" || c.series.interval == backoff.Stop || !c.affords() {
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
		authorizable: c.authorizes() && !c.attempt.renewed,
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
	wait, stop := c.policy.fits(paced, c.remaining(), durations.Left(c.ctx))
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
	if v.Class == Throttled {
		c.throttled++
	}
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
		if left := durations.Left(c.ctx); left >= 0 && queue >= left {
			return StopDeadline
		}
	}
	if v.Class == Throttled && c.policy.MaxThrottled < 0 && c.policy.MaxElapsed <= 0 {
		if c.throttledAt.IsZero() {
			c.throttledAt = time.Now()
		}
		if time.Since(c.throttledAt)+wait > maxThrottling {
			return StopElapsed
		}
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

// wait sits out what the decision asked for, after it has given back all that the attempt held.
func (c *call) wait() error {
	wait := c.attempt.Wait
	c.last = c.attempt
	c.kept = kept{}
	if c.response != nil {
		c.keepOrDrop()
	}
	if c.nest != nil {
		c.nest.ended.Store(nil) // it has been heard, and has the answer of the base below
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
