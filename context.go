package steadyhttp

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
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
type nesting struct{ transport any }

// above asks a context for the nest of the call whose attempt it belongs to.
type above struct{}

// nest is the context of an attempt whose base transport may be, or lead to, a Transport.
type nest struct {
	context.Context
	transport any
	depth     int
	ended     atomic.Pointer[innerEnd] // what the last call below has come to, unless that was a success
}

func (n *nest) Value(key any) any {
	switch key := key.(type) {
	case nesting:
		if key.transport == n.transport {
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
