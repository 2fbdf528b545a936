package steadyhttp

import "context"

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
