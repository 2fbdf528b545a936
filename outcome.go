package steadyhttp

import (
	"crypto/tls"
	"errors"
	"net/http"
)

// What a call comes to: its methods that end it, and give back what it holds.

// keepOrDrop keeps an answer that is wholly in memory: if the retry can't be made after all, it is
// still the call's last real response. Any other is let go before the wait, so that its connection
// is free.
func (c *call) keepOrDrop() {
	switch {
	case c.attempt.Err != nil:
	case c.response.Body == http.NoBody:
		c.kept = c.response
		return
	case c.standIn != nil && c.standIn.whole():
		bodySource{c.standIn}.Close()
		c.kept = c.response
		return
	}
	c.drop()
}

func (c *call) drop() {
	if c.standIn == nil {
		c.standIn = c.newStandIn()
	}
	c.standIn.discard(c.response, c.ctx.Done(), c.legacyCancel())
	c.standIn, c.response = nil, nil
}

// endAttempt ends what the attempt has running.
func (c *call) endAttempt() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if c.cancel != nil {
		c.cancel(nil)
		c.cancel = nil
	}
}

// finish returns what the last attempt came to.
func (c *call) finish() (*http.Response, error) {
	if c.response != nil && c.attempt.Stop != StopCancelled {
		return c.deliver()
	}
	if c.response != nil {
		c.drop()
	}
	err := c.failure()
	c.attempt.Response, c.attempt.Err = nil, err
	if ours, ok := err.(*Error); ok {
		c.attempt.Err = ours.Err
	}
	c.endAttempt()
	c.returned = true
	c.tellDone()
	return nil, err
}

// newStandIn returns a stand-in for the body of the present response.
func (c *call) newStandIn() *responseBody {
	d := new(delivery)
	b := &d.responseBody
	b.rc, b.idle, b.cancel, b.native, b.room = c.response.Body, c.policy.IdleTimeout, c.cancel, c.native, &d.response
	b.reader = &d.reader
	return b
}

// deliver hands the last response to the caller, as it came but for its body's stand-in. It is a
// copy: the base's own may be a cache's, and hooks may have kept it.
func (c *call) deliver() (*http.Response, error) {
	told := c.trace != nil && c.trace.Done != nil
	plain := c.standIn == nil && c.attempt.N == 1 && c.attempt.Stop == StopDone && (!told || c.response.Body == http.NoBody)
	if plain && c.response.Body == http.NoBody {
		c.endAttempt()
	}
	plain = plain && c.cancel == nil
	if plain && c.native && !c.watched() {
		c.returned = true
		return answering(c.response, c.original, c.attempt.Request), nil
	}
	plain = plain && c.response.Body == http.NoBody // nobody else brings the trailers over
	inner, nested := AttemptOf(c.response)
	// Of an answer that the inner one did not retry, the attempts are ours.
	nested = nested && (c.final != "" || c.response.StatusCode < 400)
	if c.standIn == nil && (plain || nested && !told && c.cancel == nil) {
		c.returned = true
		resp := *c.response
		resp.Request = c.original
		c.tellDone()
		return &resp, nil
	}
	if c.standIn == nil {
		c.standIn = c.newStandIn()
		c.standIn.attempt = c.attempt
		if nested {
			// How often it was sent is the inner one's to know, the rest is ours.
			inner.N += c.attempt.N - 1
			inner.Request, inner.late, inner.Ambiguous = c.attempt.Request, false, c.attempt.Ambiguous
			if c.watched() {
				inner.Began, inner.Sent, inner.Answered = c.attempt.Began, c.attempt.Sent, c.attempt.Answered
				inner.Sends = c.attempt.Sends
			}
			c.standIn.attempt = inner
		}
	}
	b := c.standIn
	resp := b.room
	*resp = *c.response
	resp.Request = c.original
	b.given = c.response
	if b.whole() {
		c.endAttempt()
		bodySource{b}.Close()
	}
	c.returned = true // what panicked so far left nothing to return
	switch {
	case !told:
	case b.whole() || resp.Body == http.NoBody || !c.expectsReader(resp):
		b.tellNow(c.trace, c.ctx)
	default:
		b.told, b.ctx = c.trace, c.ctx
		b.watchLoss()
	}
	if resp.Body == http.NoBody {
		b.end(nil)
	}
	resp.Body = b.standIn()
	return resp, nil
}

// expectsReader reports whether the caller is to be expected to read an answer to its end and to
// close it. Many a program returns at once where the status is not a success: what waits for such a
// body's end may wait for ever.
func (c *call) expectsReader(resp *http.Response) bool {
	return c.attempt.Stop == StopDone && (successful(resp) || resp.StatusCode == http.StatusSwitchingProtocols)
}

// answering makes resp the answer to the caller's own request, and not to a clone of it
// (golang/go#39533). It writes into the response only if net/http has just made it, for the request
// that was sent.
func answering(resp *http.Response, req, sent *http.Request) *http.Response {
	switch {
	case resp.Request == req:
		return resp
	case resp.Request != nil && (resp.Request == sent || resp.Request.URL == req.URL):
		resp.Request = req
		return resp
	}
	own := new(http.Response)
	*own = *resp
	own.Request = req
	return own
}

// abandon ends a call whose next attempt could not be made.
func (c *call) abandon(err error) (*http.Response, error) {
	before := c.last.Err
	if _, again := err.(*prepareError); c.unready != nil && !again {
		before = c.unready
	}
	ended, isEnd := err.(*cancelled)
	if isEnd {
		ended.last = before // before a gate gets to see it
	}
	c.giveBack(err)
	made := c.last
	made.Stop, made.Wait, made.ServerAsked, made.late = c.why, 0, false, true
	unsent := made.N == 0 && c.original.Response == nil
	made.Began = c.attempt.Began // also of a call that ended before its first attempt
	made.Request = c.requestOf(made)
	wait := max(0, made.Verdict.RetryAfter)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		wait = max(wait, refusal.Wait)
	}
	c.attempt = made
	if c.kept != nil && c.why != StopCancelled {
		c.response = c.kept
		made.Err = flat(err) // why there is no answer to a retry
		c.attempt = made
		if c.standIn != nil {
			c.standIn.attempt = made
		}
		return c.deliver()
	}
	if !isEnd && before != nil {
		err = &lateError{err, before}
	}
	if !unsent {
		err = flat(err)
	}
	c.returned = true
	c.attempt.Response, c.attempt.Err = nil, err
	c.tellDone()
	return nil, &Error{
		Verdict: c.answered, StatusCode: c.status, Attempts: made.N, Stop: c.why, Wait: wait,
		Ambiguous: c.doubt, Err: err, unsent: unsent,
	}
}

func (c *call) requestOf(made Attempt) *http.Request {
	if made.Request != nil {
		return made.Request
	}
	return c.original
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
	if out.Body != nil && replaced(out.Body, c.given) {
		defer out.Body.Close() // Prepare has put it there
	}
	if c.fresh && c.given != nil {
		c.given.Close()
	}
}

// failure is the error of a call whose last attempt has no response. What a Transport below has
// said is not said again.
func (c *call) failure() error {
	a := &c.attempt
	err := a.Err
	if a.Stop == StopCancelled && c.over() {
		ended := cancelCause(c.ctx).(*cancelled)
		if a.N != 1 || !errors.Is(err, ended.cause) || !errors.Is(err, ended.ctx) {
			ended.last = flat(err)
			err = ended
		}
	}
	first := a.N == 1 && c.original.Response == nil
	inner, nested := errors.AsType[*Error](err)
	switch _, bare := err.(tls.RecordHeaderError); {
	case bare && first:
		return err // http.Client asks for it, to say that the server speaks plain HTTP
	case nested && first && err == error(inner) && !(inner.unsent && c.left()) && cleaned(inner.Verdict) == inner.Verdict:
		return err
	}
	e := &Error{Verdict: c.answered, StatusCode: c.status, Attempts: a.N, Stop: a.Stop, Wait: max(0, c.answered.RetryAfter), Ambiguous: a.Ambiguous, Err: flat(err)}
	if nested {
		e.Wait = max(e.Wait, inner.Wait)
		if c.status == 0 || inner.StatusCode != 0 {
			e.Verdict, e.StatusCode = cleaned(inner.Verdict), inner.StatusCode
		}
		e.Attempts += max(0, inner.Attempts-1)
		if first {
			e.Attempts, e.unsent = inner.Attempts, inner.unsent && !c.left()
		}
	}
	return e
}

// settles reports whether what an inner Transport has ended a call with is beyond what this one
// could better: two of them must not multiply their attempts. One that did not retry, since its
// policy or its request did not let it, leaves that to us.
func settles(stop Stop, attempts int, class Class) bool {
	switch stop {
	case StopAttempts, StopNotIdempotent, StopBodyNotReplayable:
		return attempts > 1
	case StopPermanent:
		return attempts > 1 || class != Unauthorized
	}
	return true
}

// left reports whether the attempt is known to have been sent: a base that falls back on another
// may be refused there.
func (c *call) left() bool {
	if c.sends == nil {
		return false
	}
	_, taken := c.sends.connections()
	return taken > 0
}

func (c *call) tellDone() {
	if c.trace != nil && c.trace.Done != nil {
		c.trace.Done(c.ctx, c.attempt)
	}
}

// end runs on every way out of RoundTrip. On a panic, out of a hook or the base transport, it gives
// back what the call holds, and lets the panic go on.
func (c *call) end() {
	if c.returned {
		defer c.body.close()
		if c.unbound != nil {
			c.unbound()
		}
		return
	}
	// In this order from the last to the first, and all of them: a Close may panic too.
	if c.started {
		defer c.tellPanic()
	}
	defer c.giveBack(errPanicked)
	defer closeBodies(c.original, c.attempt.Request)
	if c.response != nil {
		if c.standIn == nil {
			c.standIn = c.newStandIn()
		}
		defer c.standIn.shut()
	}
	if c.unbound != nil {
		defer c.unbound()
	}
	c.body.close()
}

func (c *call) tellPanic() {
	c.attempt = Attempt{
		N: c.made, Request: c.requestOf(c.attempt), Err: errPanicked,
		Began: c.attempt.Began, Sent: c.attempt.Sent, Sends: c.attempt.Sends,
	}
	c.tellDone()
}

// closeBodies closes request bodies after a panic, when nobody knows whether the base transport has
// done so.
func closeBodies(requests ...*http.Request) {
	for _, req := range requests {
		if req != nil && req.Body != nil {
			defer req.Body.Close() // all of them, even if one panics
		}
	}
}
