package steadyhttp

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Trace is a set of hooks, in the manner of httptrace.ClientTrace. Any of them may be nil. They may run concurrently,
// are never called with a lock held, and should return quickly. Those that return a context decide what the following
// hooks and the base transport get; it must be derived from the one they were given. nil stands for that one.
type Trace struct {
	// Start is called as the call begins.
	Start func(ctx context.Context, req *http.Request) context.Context

	// Gated is called when a gate has held the coming attempt up for d.
	Gated func(ctx context.Context, a Attempt, d time.Duration)

	// AttemptStart is called just before an attempt is sent. a.Request is the attempt's own clone: its headers may be set.
	AttemptStart func(ctx context.Context, a Attempt) context.Context

	// AttemptDone is called when an attempt was answered or failed, is classified and decided on: Wait and Stop are
	// set. Its context is the one that AttemptStart returned.
	AttemptDone func(ctx context.Context, a Attempt)

	// Done is called once, when the returned body has ended, failed or been closed, or when the call returns if there
	// is none. a is the last attempt; a call that ended before the first has an attempt with N 0.
	Done func(ctx context.Context, a Attempt)
}

// Join returns a Trace that calls all of the given ones; nil ones are left out. Start, Gated and AttemptStart go in
// order, AttemptDone and Done in reverse, as calls nest.
func Join(traces ...*Trace) *Trace {
	var joined *Trace
	for _, t := range traces {
		switch {
		case t == nil:
		case joined == nil:
			joined = t
		default:
			joined = joinTwo(joined, t)
		}
	}
	return joined
}

func joinTwo(outer, inner *Trace) *Trace {
	return &Trace{
		Start:        chain(outer.Start, inner.Start),
		Gated:        joinGated(outer.Gated, inner.Gated),
		AttemptStart: chain(outer.AttemptStart, inner.AttemptStart),
		AttemptDone:  both(inner.AttemptDone, outer.AttemptDone),
		Done:         both(inner.Done, outer.Done),
	}
}

// chain runs the hooks one after the other, each in the context that the one before returned.
func chain[T any](first, second func(context.Context, T) context.Context) func(context.Context, T) context.Context {
	if first == nil || second == nil {
		if first == nil {
			return second
		}
		return first
	}
	return func(ctx context.Context, subject T) context.Context {
		return orContext(second(orContext(first(ctx, subject), ctx), subject), ctx)
	}
}

func both(first, second func(context.Context, Attempt)) func(context.Context, Attempt) {
	if first == nil || second == nil {
		if first == nil {
			return second
		}
		return first
	}
	return func(ctx context.Context, a Attempt) {
		first(ctx, a)
		second(ctx, a)
	}
}

func joinGated(first, second func(context.Context, Attempt, time.Duration)) func(context.Context, Attempt, time.Duration) {
	if first == nil || second == nil {
		if first == nil {
			return second
		}
		return first
	}
	return func(ctx context.Context, a Attempt, d time.Duration) {
		first(ctx, a, d)
		second(ctx, a, d)
	}
}

// orContext makes up for a hook that returned nil.
func orContext(returned, given context.Context) context.Context {
	if returned == nil {
		return given
	}
	return returned
}

// WithTrace returns a context for one call, or for several, whose hooks are joined to the Transport's; the Transport's
// are the outer ones.
func WithTrace(ctx context.Context, trace *Trace) context.Context {
	if trace == nil {
		return ctx
	}
	return withSettings(ctx, func(s *settings) { s.trace = Join(s.trace, trace) })
}

// Log returns a Trace that logs each repeat at Debug and each call that ends without success at Warn; nil stands for
// slog.Default, looked up at each record. URLs lose their userinfo and the values of their queries; headers and bodies
// are not logged.
func Log(logger *slog.Logger) *Trace {
	return &Trace{
		AttemptDone: func(ctx context.Context, a Attempt) { logAttempt(ctx, logger, a) },
		Done: func(ctx context.Context, a Attempt) {
			// The stop of most calls was known, and logged, when their last attempt was decided on.
			if a.late {
				logAttempt(ctx, logger, a)
			}
		},
	}
}

func logAttempt(ctx context.Context, logger *slog.Logger, a Attempt) {
	level, message := slog.LevelWarn, "giving up"
	switch a.Stop {
	case stopDone:
		return
	case stopCancelled:
		// The caller knows: it was him.
		level, message = slog.LevelDebug, "cancelled"
	case "":
		level, message = slog.LevelDebug, "repeating"
	}
	if logger == nil {
		logger = slog.Default()
	}
	if logger.Enabled(ctx, level) {
		logger.LogAttrs(ctx, level, message, logAttrs(a)...)
	}
}

func logAttrs(a Attempt) []slog.Attr {
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs,
		slog.String("method", methodOf(a.Request)),
		slog.String("url", redact(a.Request.URL)),
		slog.Int("attempt", a.N))
	if a.Response != nil {
		attrs = append(attrs, slog.Int("status", a.Response.StatusCode))
	}
	if a.Verdict.Code != "" {
		attrs = append(attrs, slog.String("code", a.Verdict.Code))
	}
	if a.Verdict.Target != "" {
		attrs = append(attrs, slog.String("target", a.Verdict.Target))
	}
	if a.Err != nil {
		attrs = append(attrs, slog.String("error", redactError(a.Err)))
	}
	if a.Stop == "" {
		return append(attrs, slog.Duration("wait", a.Wait))
	}
	return append(attrs, slog.String("stop", string(a.Stop)))
}
