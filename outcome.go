package steadyhttp

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net/http"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
)

// What a call comes to: its methods that end it, and give back what it holds.

// keepOrDrop keeps an answer that is wholly in memory: if the retry can't be made after all, it is
// still the call's last real response. Any other is let go before the wait, so that its connection
// is free.
func (c *call) keepOrDrop() {
	inner := standInOf(c.response)
	switch {
	case c.standIn != nil || inner == nil:
	case inner.whole():
		c.standIn = c.newStandIn()                           // an inner Transport has it in memory
		c.standIn.ahead = inner.ahead.Into(c.standIn.reader) // its own leads to all that the inner one has
		c.standIn.attempt = c.attempt
	case inner.rc == http.NoBody:
		inner.Close()
		empty := *c.response
		empty.Body = http.NoBody
		c.response, c.last.Response, c.attempt.Response = &empty, &empty, &empty
	}
	switch {
	case c.attempt.Err != nil:
	case c.response.Body == http.NoBody:
		c.kept = kept{c.response, c.standIn}
		return
	case c.standIn != nil && c.standIn.whole():
		c.standIn = c.standIn.release(c.response)
		c.response = c.standIn.room
		c.kept = kept{c.response, c.standIn}
		c.last.Response, c.attempt.Response = c.response, c.response
		return
	}
	c.drop()
	if c.attempt.Response != nil {
		shown := *c.attempt.Response
		shown.Body = bodies.Released{}
		c.last.Response, c.attempt.Response = &shown, &shown
	}
}

func (c *call) drop() {
	if c.standIn == nil {
		c.standIn = c.newStandIn()
	}
	c.standIn.discard(c.response, c.ctx.Done(), c.legacyCancel())
	c.standIn, c.response = nil, nil
}

// finish returns what the last attempt came to.
func (c *call) finish() (*http.Response, error) {
	if c.response != nil && c.attempt.Stop != StopCancelled {
		return c.deliver()
	}
	if c.response != nil {
		c.drop()
	}
	if c.kept.response != nil && c.refusedBelow() {
		c.why = c.attempt.Stop
		return c.abandon(c.attempt.Err)
	}
	c.tellOuter()
	err := c.failure()
	c.attempt.Response, c.attempt.Err = nil, err
	if ours, ok := err.(*Error); ok {
		c.attempt.Err = ours.Err
	}
	c.endAttempt()
	c.stage = returned
	c.tellDone()
	return nil, err
}

// refusedBelow reports whether an inner Transport has not sent the last attempt at all: to our
// caller that is a retry that could not be made.
func (c *call) refusedBelow() bool {
	inner, ok := errors.AsType[*Error](c.attempt.Err)
	return ok && inner.unsent && !c.left()
}

// newStandIn returns a stand-in for the body of the present response.
func (c *call) newStandIn() *responseBody {
	return newResponseBody(c.response, c.policy.IdleTimeout, c.cancel, c.native())
}

// deliver hands the last response to the caller, as it came but for its body's stand-in. It is a
// copy: the base's own may be a cache's, and hooks may have kept it.
func (c *call) deliver() (*http.Response, error) {
	c.tellOuter()
	told := c.trace != nil && c.trace.Done != nil
	plain := c.standIn == nil && c.attempt.N == 1 && c.attempt.Stop == StopDone && (!told || c.response.Body == http.NoBody)
	if plain && c.response.Body == http.NoBody {
		c.endAttempt()
	}
	plain = plain && c.cancel == nil
	if plain && c.native() && !c.watched() {
		c.stage = returned
		return answering(c.response, c.original, c.attempt.Request), nil
	}
	plain = plain && c.response.Body == http.NoBody // nobody else brings the trailers over
	var inner Attempt
	nested := false
	if standInOf(c.response) != nil {
		inner, nested = AttemptOf(c.response) // which copies it, also if there is none
	}
	// Of an answer that the inner one did not retry, the attempts are ours.
	nested = nested && (c.final != "" || c.response.StatusCode < 400)
	if c.standIn == nil && (plain || nested && !told && c.cancel == nil) {
		c.stage = returned
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
			inner.N = c.attempt.N
			inner.Request, inner.late, inner.Ambiguous = c.attempt.Request, false, c.attempt.Ambiguous
			if c.watched() {
				inner.Began, inner.Sent, inner.Answered = c.attempt.Began, c.attempt.Sent, c.attempt.Answered
				inner.Sends = c.attempt.Sends
			}
			c.standIn.attempt = inner
		}
	}
	b := c.standIn
	b.attempt.N += c.below
	resp := b.room
	if c.response == resp {
		resp = new(http.Response) // it was kept, and hooks have seen it
		b.room = resp
	}
	*resp = *c.response
	resp.Request = c.original
	b.given = c.response
	if b.whole() {
		c.endAttempt()
		bodySource{b}.Close()
	}
	c.stage = returned // what panicked so far left nothing to return
	switch {
	case !told:
	case b.whole() || resp.Body == http.NoBody || !expectsReader(resp, c.attempt.Stop):
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

func successful(resp *http.Response) bool { return 200 <= resp.StatusCode && resp.StatusCode <= 299 }

// expectsReader reports whether the caller is to be expected to read an answer to its end and to
// close it. Many a program returns at once where the status is not a success: what waits for such a
// body's end may wait for ever.
func expectsReader(resp *http.Response, stop Stop) bool {
	return stop == StopDone && (successful(resp) || resp.StatusCode == http.StatusSwitchingProtocols)
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
	switch {
	case !isEnd || before == nil:
	case ended.last != nil:
		ended.last = &lateError{ended.last, before}
	default:
		ended.last = before // before a gate gets to see it
	}
	c.giveBack(err)
	made := c.last
	made.Stop, made.Wait, made.ServerAsked = c.why, 0, false
	made.late = c.attempt.Stop == "" // or else AttemptDone has been told
	unsent := made.N == 0 && c.original.Response == nil
	made.Began = c.attempt.Began // also of a call that ended before its first attempt
	made.Request = c.requestOf(made)
	asking := err
	if isEnd {
		asking = ended.last // a context's cause may be the error of another call
	}
	made.asked = max(0, made.Verdict.RetryAfter, waitOf(asking))
	c.attempt = made
	if c.kept.response != nil && c.why != StopCancelled {
		c.response, c.standIn = c.kept.response, c.kept.standIn
		made.Err, made.kept = flat(err), true
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
	c.stage = returned
	c.attempt.Response, c.attempt.Err = nil, err
	c.tellOuter()
	c.tellDone()
	return nil, &Error{
		Verdict: c.answered.verdict, StatusCode: c.answered.status, Attempts: made.N + c.below, Stop: c.why, Wait: made.asked,
		Ambiguous: c.doubt, Err: err, unsent: unsent,
	}
}

// waitOf returns how long an error asks to wait: a gate's refusal, the budget's queue, or the answer
// of another service that Prepare has made an error of. It is asked before flat hides that.
func waitOf(err error) time.Duration {
	var wait time.Duration
	if refusal, ok := errors.AsType[*Refusal](err); ok && refusal != nil {
		wait = refusal.Wait
	}
	if other, ok := errors.AsType[*Error](err); ok {
		wait = max(wait, other.Wait, other.RetryAfter)
	}
	return wait
}

func (c *call) requestOf(made Attempt) *http.Request {
	if made.Request != nil {
		return made.Request
	}
	return c.original
}

// failure is the error of a call whose last attempt has no response. What a Transport below has
// said is not said again.
func (c *call) failure() error {
	a := &c.attempt
	err := a.Err
	inner, nested := errors.AsType[*Error](err)
	if a.Stop == StopCancelled && c.over() {
		ended := cancelCause(c.ctx)
		if a.N != 1 || !errors.Is(err, ended.cause) || !errors.Is(err, ended.ctx) {
			ended.last = flat(err)
			err, nested = ended, false
		}
	}
	first := a.N == 1 && c.original.Response == nil
	switch _, bare := err.(tls.RecordHeaderError); {
	case bare && first:
		return err // http.Client asks for it, to say that the server speaks plain HTTP
	case nested && first && err == error(inner) && known(inner.Stop, inner.Class) && !(inner.unsent && c.left()) && cleaned(inner.Verdict) == inner.Verdict:
		return err
	}
	e := &Error{
		Verdict: c.answered.verdict, StatusCode: c.answered.status, Attempts: a.N + c.below, Stop: a.Stop, Wait: max(0, c.answered.verdict.RetryAfter),
		Ambiguous: a.Ambiguous, Err: flat(err), proved: !c.doubt && c.unsent(),
	}
	if nested {
		e.Wait = max(e.Wait, inner.Wait)
		if c.answered.status == 0 || inner.StatusCode != 0 {
			e.Verdict, e.StatusCode = cleaned(inner.Verdict), inner.StatusCode
			if e.Class > Unauthorized {
				e.Class = Permanent
			}
		}
		if first {
			e.Attempts, e.unsent = inner.Attempts, inner.unsent && !c.left()
		}
	}
	return e
}

// end runs on every way out of RoundTrip. On a panic, out of a hook or the base transport, it gives
// back what the call holds, and lets the panic go on.
func (c *call) end() {
	c.leaveBase()
	if c.stage == returned {
		defer c.body.close()
		if c.bounds.release != nil {
			c.bounds.release()
		}
		return
	}
	// In this order from the last to the first, and all of them: a Close may panic too.
	if c.stage == started {
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
	if c.bounds.release != nil {
		defer c.bounds.release()
	}
	c.body.close()
}

// made is the number of attempts that the base transport was given.
func (c *call) made() int {
	if c.handed {
		return c.attempt.N
	}
	return c.last.N
}

func (c *call) tellPanic() {
	c.attempt = Attempt{
		N: c.made(), Request: c.requestOf(c.attempt), Err: errPanicked,
		Began: c.attempt.Began, Sent: c.attempt.Sent, Sends: c.attempt.Sends,
	}
	c.tellDone()
}

// AttemptOf returns the last attempt of the call that resp answers, if resp comes from a Transport.
// It is a best effort: a RoundTripper that wraps the body again hides it. It reports false for a
// call that succeeded at the first try, of which there is nothing to tell but for a Message that
// Classify gave its Verdict.
func AttemptOf(resp *http.Response) (Attempt, bool) {
	b := standInOf(resp)
	if b == nil || b.attempt.N == 0 {
		return Attempt{}, false
	}
	if b.attempt.N == 1 && b.attempt.Stop == StopDone && b.attempt.Verdict.Message == "" {
		return Attempt{}, false
	}
	return b.ending(), true
}

func standInOf(resp *http.Response) *responseBody {
	if resp == nil {
		return nil
	}
	if b, ok := resp.Body.(interface{ standsIn() *responseBody }); ok {
		return b.standsIn()
	}
	return nil
}

// tellOuter tells the call above, if there is one, why this one has ended: the response may reach
// that in a wrapper's body.
func (c *call) tellOuter() {
	if c.attempt.Stop == StopDone && c.response != nil && c.response.StatusCode < 400 {
		return
	}
	outer, _ := c.original.Context().Value(above{}).(*nest)
	if outer == nil {
		return
	}
	end := &innerEnd{request: c.original, attempt: c.attempt}
	end.attempt.N += c.below
	if c.final != "" {
		end.attempt.Stop = c.final
	}
	if c.response != nil {
		end.status = c.response.StatusCode
	}
	outer.ended.Store(end)
}

// inner returns what an inner Transport says of the present attempt, nil if there is none. A call of
// somebody else in the same context, for a token, say, is told by its request.
func (c *call) inner() *Attempt {
	if b := standInOf(c.response); b != nil && b.attempt.N > 0 && (b.attempt.N > 1 || b.attempt.Stop != StopDone) {
		return &b.attempt // which tells nothing of its body yet
	}
	if c.nest == nil {
		return nil
	}
	end, status := c.nest.ended.Load(), 0
	if c.response != nil {
		status = c.response.StatusCode
	}
	if end == nil || end.status != status {
		return nil
	}
	if was, is := end.request, c.attempt.Request; was.URL.Host != is.URL.Host || cmp.Or(was.Method, "GET") != cmp.Or(is.Method, "GET") {
		return nil
	}
	return &end.attempt
}

// settles reports whether what an inner Transport has ended a call with is beyond what this one
// could better. One that did not retry, since its policy or its request did not let it, leaves that
// to us, and so does one that would have had to wait for longer than it may.
func settles(a *Attempt) bool {
	switch a.Stop {
	case StopNotIdempotent, StopBodyNotReplayable:
		return false // what was sent so far counts here too
	case StopWaitTooLong:
		return a.Response == nil
	case StopAttempts:
		return a.N > 1
	case StopElapsed:
		return a.N != 1
	case StopPermanent:
		return a.Verdict.Class != Unauthorized || a.renewed
	}
	return true
}

// flat hides in an error of a call that was sent what could be taken for one that was not: the
// error of a Transport below this one.
func flat(err error) error {
	if inner, ok := err.(*Error); ok {
		err = inner.Err
	}
	if errors.Is(err, ErrNotSent) || neterr.Is[*Error](err) {
		return &veiled{err}
	}
	return err
}

// left reports whether the attempt is known to have been sent: a base that falls back on another
// may be refused there.
func (c *call) left() bool {
	if c.sends == nil {
		return false
	}
	_, taken := c.sends.Connections()
	return taken > 0
}

func (c *call) tellDone() {
	if c.trace != nil && c.trace.Done != nil {
		c.trace.Done(c.ctx, c.attempt)
	}
}
