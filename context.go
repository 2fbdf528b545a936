package steadyhttp

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// settings is what a context carries for the calls made with it.
type settings struct {
	edits []func(*Policy)
	trace *Trace
}

type settingsKey struct{}

func settingsOf(ctx context.Context) *settings {
	s, _ := ctx.Value(settingsKey{}).(*settings)
	return s
}

// withSettings returns a context whose settings are a changed copy of ctx's.
func withSettings(ctx context.Context, change func(*settings)) context.Context {
	var s settings
	if outer := settingsOf(ctx); outer != nil {
		s = settings{edits: outer.edits[:len(outer.edits):len(outer.edits)], trace: outer.trace}
	}
	change(&s)
	return context.WithValue(ctx, settingsKey{}, &s)
}

// WithPolicy returns a context for one call, or for several, that edits a copy of the Transport's
// Policy:
//
//	ctx = steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { p.MaxAttempts = 1 })
//
// Edits of enclosing contexts come first. edit must be safe for concurrent use.
func WithPolicy(ctx context.Context, edit func(*Policy)) context.Context {
	if edit == nil {
		return ctx
	}
	return withSettings(ctx, func(s *settings) { s.edits = append(s.edits, edit) })
}

// WithTrace returns a context for one call, or for several, whose hooks are joined to the
// Transport's; the Transport's are the outer ones.
func WithTrace(ctx context.Context, trace *Trace) context.Context {
	if trace == nil {
		return ctx
	}
	return withSettings(ctx, func(s *settings) { s.trace = Join(s.trace, trace) })
}

// A Transport may be the base of another, with a wrapper between them that hides what the inner one
// says of its answers. Both are there to retry, and their attempts must not multiply: the attempt's
// context tells the outer one.

// maxNesting is how often a base transport may lead back to its Transport in one call: a token for
// the call may be fetched by way of the same one, and a token for that.
const maxNesting = 16

// nesting asks a context how deep within calls of the Transport it is.
type nesting struct{ *Transport }

// above asks a context for the nest of the call whose attempt it belongs to.
type above struct{}

// nest is the context of an attempt whose base transport may be, or lead to, a Transport.
type nest struct {
	context.Context
	transport *Transport
	depth     int
	ended     atomic.Pointer[innerEnd] // what the last call below has come to, unless that was a success
}

func (n *nest) Value(key any) any {
	switch key := key.(type) {
	case nesting:
		if key.Transport == n.transport {
			return n.depth
		}
	case above:
		return n
	}
	return n.Context.Value(key)
}

// innerEnd is what a call has come to, told to the call above it.
type innerEnd struct {
	request *http.Request // as the inner Transport got it
	status  int           // 0: there was no answer
	attempt Attempt
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

// inner returns what an inner Transport says of the present attempt. A call of somebody else in the
// same context, for a token, say, is told by its request.
func (c *call) inner() (Attempt, bool) {
	if a, ok := AttemptOf(c.response); ok {
		return a, true
	}
	if c.nest == nil {
		return Attempt{}, false
	}
	end, status := c.nest.ended.Load(), 0
	if c.response != nil {
		status = c.response.StatusCode
	}
	if end == nil || end.status != status {
		return Attempt{}, false
	}
	was, is := end.request, c.attempt.Request
	return end.attempt, was.URL.Host == is.URL.Host && methodOf(was) == methodOf(is)
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

func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return -1
	}
	return max(0, time.Until(deadline))
}
