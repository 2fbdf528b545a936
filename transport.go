// Package steadyhttp keeps calls to a rate-limited API steady. Its Transport is an
// http.RoundTripper to drop into any http.Client:
//
//	client := &http.Client{Transport: &steadyhttp.Transport{}}
//
// It classifies each answer by the service's own error code, retries what can be retried, fails
// fast on what cannot, waits for its gates before it sends, and tells why it stopped and which
// tracking ID the service gave the failure.
//
// Package defender makes a Transport ready for Microsoft Defender, package quota keeps calls within
// "100 a minute and 1500 an hour", and package steadyotel, in the directory otel, makes spans and
// metrics of a Trace.
//
// # What is retried
//
// A 429 was refused, and so was a 403, 413 or 418 that names a wait: any request whose body can be
// sent again is retried after it, at the time the server names if that is within Policy.MaxWait. A
// fault that may pass (500, 502, 503, 504, 408, a lost connection) is retried only where doing the
// request twice does no harm, or where it provably never left: a POST that was answered 500 is not
// (see Policy.Idempotent). A 401 is retried once, if Transport.Prepare can bring new credentials.
// Other answers are final at once, unless Classify says otherwise. Retries after a fault back off,
// and are paid for by successes (see Budget).
//
// # The contract of net/http
//
// When attempts end with a response, it is returned with a nil error, be it a 503, its body readable
// to the byte; Check turns it into an error. Without one there is an *Error. The caller's request is
// never changed, and its body is closed on every path. Bodies stream: but for Policy.MaxRead, only
// the first 64 KiB of an error answer are read ahead. What an answer has that was retried, a Set-Cookie for one, belongs to that
// attempt: a Jar sees the header of the last answer alone.
//
// # Layers
//
// Put the Transport outside of what signs or traces single attempts, and let nobody else retry:
//
//	SDK (its own retries off) -> steadyhttp.Transport -> otelhttp or oauth2 transports -> http.Transport
package steadyhttp

import (
	"errors"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
)

// Transport is an http.RoundTripper that retries, limits and explains the attempts of its base
// transport. The zero value is ready to use. Its fields must not be changed after the first use; it
// is safe for concurrent use, and must not be copied.
type Transport struct {
	// Base makes each attempt. nil: http.DefaultTransport.
	Base http.RoundTripper

	// Policy says how often, how long and what to retry. zero: the default policy.
	Policy Policy

	// Classify says what an answer means. It must be a pure function, safe for concurrent use. The
	// fields that it leaves zero are filled in, one by one, from what (&Rules{}).Classify says.
	// nil: that alone.
	Classify func(a Attempt) Verdict

	// Prepare is called with each attempt's own clone of the request just before it is sent, after
	// all waiting, so that a token or a signature is fresh; prev is the attempt before, nil on the
	// first. It is not called on a redirect to another origin, so that what it adds does not leave
	// its own, and never again after one. It runs inside the gates: it must not call back through
	// the same Transport, and a request of its own with req.Context() would be taken for a sending
	// of the attempt. Its errors are classified like the base transport's: since nothing was sent,
	// one that may pass is tried again with back-off whatever the request does, one that nothing is
	// known of once. An error that wraps a *backoff.PermanentError, or a service's 4xx (Check's
	// error, or a method HTTPStatusCode), ends the call. nil: none.
	Prepare func(req *http.Request, prev *Attempt) error

	// Authorize and Idempotent are for presets, whose users may replace Prepare and Policy.
	// Authorize is called as Prepare is, and before it; where Prepare has changed the URL, once more
	// after it, and the Authorization field that it has set is taken back before. nil: none.
	Authorize func(req *http.Request, prev *Attempt) error

	// Idempotent is what a nil Policy.Idempotent stands for, also after an edit of WithPolicy. nil:
	// the method decides, or an Idempotency-Key.
	Idempotent func(req *http.Request) bool

	// Gates are entered in order before every attempt, and left in reverse. Put the one with the
	// longest wait first: a place in a gate is held while the next is waited for. nil ones are
	// passed over.
	Gates []Gate

	// Trace is told what happens. nil: nobody is.
	Trace *Trace

	budget  Budget       // unless the policy brings one
	closing atomic.Bool  // CloseIdleConnections is under way
	under   atomic.Int64 // calls under way, where the base transport is not net/http's own
}

// RoundTrip sends req until there is an answer worth returning. See the package comment for what
// that is.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.check(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, &Error{Stop: StopPermanent, Err: err, unsent: req.Response == nil}
	}
	trace := t.traceOf(req)
	if trace == nil && t.untouched(req) {
		// Nearly all calls succeed at once with nobody looking on: they pay for one glance at the
		// answer, and, where they may not be sent twice, for the proof of their sending.
		out, sends := t.proven(req)
		resp, err := t.first(req, out)
		if err == nil && resp != nil && resp.Body != nil && resp.StatusCode < 400 {
			t.budgetOf(&t.Policy).pay(req)
			return answering(resp, req, out), nil
		}
		return t.steady(req, nil, answer{resp, err, true, sends})
	}
	return t.steady(req, trace, answer{})
}

// traceOf returns the hooks that want to be told of the call.
func (t *Transport) traceOf(req *http.Request) *Trace {
	switch {
	case t.Trace == nil:
		return nil
	case req.Body == nil:
		return t.Trace.awake(req.Context())
	}
	asked := false
	defer func() {
		if !asked {
			closeBodies(req)
		}
	}()
	trace := t.Trace.awake(req.Context())
	asked = true
	return trace
}

// first makes an attempt of req as it is, but for what proven has changed.
func (t *Transport) first(req, out *http.Request) (*http.Response, error) {
	returned := false
	defer func() {
		if !returned {
			closeBodies(req)
		}
	}()
	resp, err := t.base().RoundTrip(out)
	if err != nil && out.GetBody == nil && req.GetBody != nil {
		resp, err = replay(t.base(), out, req.GetBody, resp, err)
	}
	returned = true
	return resp, err
}

// steady makes the attempts of one call, of which the first may have been made already.
func (t *Transport) steady(req *http.Request, trace *Trace, first answer) (*http.Response, error) {
	var c call // a literal would be made beside it, and copied: twice the stack
	c.transport, c.original, c.ctx, c.policy, c.trace, c.first = t, req, req.Context(), &t.Policy, trace, first
	defer c.end()
	if err := c.begin(); err != nil {
		return c.abandon(err)
	}
	for {
		if err := c.enterGates(); err != nil {
			return c.abandon(err)
		}
		if err := c.prepare(); err != nil {
			if err := c.recover(err); err != nil {
				return c.abandon(err)
			}
			continue
		}
		c.send()
		c.classify()
		c.decide()
		c.leaveGates()
		if c.attempt.Stop != "" {
			return c.finish()
		}
		if err := c.wait(); err != nil {
			return c.abandon(err)
		}
	}
}

// CloseIdleConnections forwards to the base transport; without it, http.Client.CloseIdleConnections
// would do nothing.
func (t *Transport) CloseIdleConnections() {
	if t.closing.Swap(true) {
		return // the base leads back here, or somebody else is at it
	}
	defer t.closing.Store(false)
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Unwrap returns the base transport.
func (t *Transport) Unwrap() http.RoundTripper { return t.base() }

// WrappedRoundTripper is Unwrap under the name by which Kubernetes' client-go looks for it.
func (t *Transport) WrappedRoundTripper() http.RoundTripper { return t.base() }

// Clone returns a Transport with the same fields, whose gates and budget are shared with t: for a
// variant of a preset's, which spends the same quota. t may be in use.
func (t *Transport) Clone() *Transport {
	clone := &Transport{
		Base: t.Base, Policy: t.Policy, Classify: t.Classify, Prepare: t.Prepare,
		Authorize: t.Authorize, Idempotent: t.Idempotent, Gates: slices.Clone(t.Gates), Trace: t.Trace,
	}
	clone.Policy.Budget = t.budgetOf(&t.Policy)
	return clone
}

func (t *Transport) base() http.RoundTripper {
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	if base == http.RoundTripper(t) {
		return standard // a program has put t in its place
	}
	return base
}

// standard is http.DefaultTransport as it is before a program puts something else there.
var standard = http.DefaultTransport

// prepares reports whether an attempt's request is changed before it is sent.
func (t *Transport) prepares() bool { return t.Prepare != nil || t.Authorize != nil }

// untouched reports whether the first attempt is the caller's request as it is, but for its
// context, and a success of it the caller's answer.
func (t *Transport) untouched(req *http.Request) bool {
	p := &t.Policy
	if len(t.Gates) != 0 || t.prepares() || t.Classify != nil || t.Idempotent != nil ||
		p.Idempotent != nil || p.IdempotencyKey ||
		p.AttemptTimeout > 0 || p.IdleTimeout > 0 || p.MaxElapsed > 0 || p.MaxRead > 0 {
		return false
	}
	if _, native := t.base().(*http.Transport); !native {
		return false
	}
	ctx := req.Context()
	return (req.Body == nil || len(req.Trailer) == 0 && bodies.MakesReaders(req.GetBody)) && ctx.Err() == nil && ctx.Value(settingsKey{}) == nil
}

// proven returns req itself if it may be sent twice, or else a copy whose sending is noted. A
// tunnel's handshake is as it is.
func (t *Transport) proven(req *http.Request) (*http.Request, *sendlog.Log) {
	if idempotent(req.Method) || hasKey(req) || tunnel(req) {
		return req, nil
	}
	sends := new(sendlog.Log)
	out := req.WithContext(httptrace.WithClientTrace(req.Context(), sends.Trace()))
	if maySpeakHTTP2(t.base(), req) {
		out.GetBody = nil
	}
	return out, sends
}

func (t *Transport) budgetOf(p *Policy) *Budget {
	if p.Budget != nil {
		return p.Budget
	}
	return &t.budget
}

// check refuses what no base transport could send and what can't be meant, before anything is
// counted for it.
func (t *Transport) check(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("Request.URL is nil; make requests with http.NewRequestWithContext")
	case req.Header == nil:
		return errors.New("Request.Header is nil; set it to make(http.Header)")
	case t.Policy.Budget == nil && t.Policy.MaxWait|t.Policy.MaxElapsed >= 0: // neither is negative
		return nil
	}
	return t.Policy.check()
}
