package steadyhttp

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Trace is a set of hooks, in the manner of httptrace.ClientTrace; Log makes a log of them, package steadyotel spans and
// metrics. Any of them may be nil. They may run concurrently, are never called with a lock held, and should return
// quickly. Those that return a context decide what the following hooks and the base transport get; it must be derived
// from the one they were given. nil stands for that one.
type Trace struct {
	// Enabled is asked as a call begins. If it says no, none of the other hooks is called for that call, which then costs
	// no more than without a Trace. nil: always.
	Enabled func(ctx context.Context) bool

	// Start is called as the call begins.
	Start func(ctx context.Context, req *http.Request) context.Context

	// Gated is called when a gate has held the coming attempt up for d.
	Gated func(ctx context.Context, a Attempt, d time.Duration)

	// AttemptStart is called just before an attempt is sent. a.Request is the attempt's own clone: its headers may be set.
	AttemptStart func(ctx context.Context, a Attempt) context.Context

	// AttemptDone is called when an attempt was answered or failed, is classified and decided on: Wait and Stop are
	// set. Its context is the one that AttemptStart returned.
	AttemptDone func(ctx context.Context, a Attempt)

	// Done is called once for each Start: when the returned body has ended, failed or been closed, or when the call
	// returns if there is none. a is the last attempt; a call that ended before the first has one with N 0. If a hook, a gate
	// or the base transport panics, a has an Err and no Stop.
	Done func(ctx context.Context, a Attempt)
}

// Join returns a Trace that calls all of the given ones; nil ones are left out. Start, Gated and AttemptStart go in
// order, AttemptDone and Done in reverse, as calls nest. What one of them wants to be told of, all are.
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
		Enabled:      either(outer.Enabled, inner.Enabled),
		Start:        joinStart(outer, inner),
		Gated:        joinGated(outer.Gated, inner.Gated),
		AttemptStart: chain(outer.AttemptStart, inner.AttemptStart),
		AttemptDone:  both(inner.AttemptDone, outer.AttemptDone),
		Done:         both(inner.Done, outer.Done),
	}
}

// either is nil, which is always, if one of them is.
func either(first, second func(context.Context) bool) func(context.Context) bool {
	if first == nil || second == nil {
		return nil
	}
	return func(ctx context.Context) bool { return first(ctx) || second(ctx) }
}

// awake returns t, or nil if it does not want to be told of a call.
func (t *Trace) awake(ctx context.Context) *Trace {
	if t == nil || t.Enabled != nil && !t.Enabled(ctx) {
		return nil
	}
	return t
}

// joinStart sees to it that the outer one is told of an end even if the inner one panics.
func joinStart(outer, inner *Trace) func(context.Context, *http.Request) context.Context {
	if outer.Start == nil || inner.Start == nil || outer.Done == nil {
		return chain(outer.Start, inner.Start)
	}
	return func(ctx context.Context, req *http.Request) context.Context {
		began := time.Now()
		ctx = orContext(outer.Start(ctx, req), ctx)
		started := false
		defer func() {
			if !started {
				outer.Done(ctx, Attempt{Request: req, Began: began, Err: errPanicked})
			}
		}()
		joined := orContext(inner.Start(ctx, req), ctx)
		started = true
		return joined
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
		defer second(ctx, a) // even if the first one panics
		first(ctx, a)
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

// longWait is how long a gate must hold an attempt up for that to be worth a word.
const longWait = 100 * time.Millisecond

// Log returns a Trace that logs each retry, and each wait at a gate longer than 100 ms, at Debug, and each call that ends
// without success at Warn; nil stands for slog.Default, looked up at each record. URLs are those of RedactURL; headers and
// bodies are not logged. Package steadyotel has the same words and fields on its spans and events.
func Log(logger *slog.Logger) *Trace {
	return &Trace{
		Gated: func(ctx context.Context, a Attempt, d time.Duration) {
			if d > longWait {
				log(ctx, logger, slog.LevelDebug, "gated", a, slog.Duration("wait", d))
			}
		},
		AttemptDone: func(ctx context.Context, a Attempt) { logAttempt(ctx, logger, a) },
		Done: func(ctx context.Context, a Attempt) {
			// The stop of most calls was known, and logged, when their last attempt was decided on.
			switch {
			case a.late:
				logAttempt(ctx, logger, a)
			case a.Stop == stopDone && a.Err != nil && !(ctx.Err() == context.Canceled || cancelClosed(a.Request) && !overdue(ctx)):
				log(ctx, logger, slog.LevelWarn, "giving up", a, stopAttr(a)) // its body has failed
			}
		},
	}
}

func logAttempt(ctx context.Context, logger *slog.Logger, a Attempt) {
	switch {
	case a.Stop == stopDone:
	case a.Stop == "":
		log(ctx, logger, slog.LevelDebug, "retrying", a, slog.Duration("wait", a.Wait))
	case a.Stop == stopCancelled && untilDeadline(ctx) != 0:
		// The caller knows: it was him.
		log(ctx, logger, slog.LevelDebug, "cancelled", a, stopAttr(a))
	default:
		log(ctx, logger, slog.LevelWarn, "giving up", a, stopAttr(a))
	}
}

// cancelClosed reports whether a request was cancelled in the old way.
func cancelClosed(req *http.Request) bool {
	select {
	//lint:ignore SA1019 a RoundTripper must obey it as long as http.Client sets it
	case <-req.Cancel:
		return true
	default:
		return false
	}
}

func stopAttr(a Attempt) slog.Attr { return slog.String("stop", string(a.Stop)) }

func log(ctx context.Context, logger *slog.Logger, level slog.Level, message string, a Attempt, last slog.Attr) {
	if logger == nil {
		logger = slog.Default()
	}
	if logger.Enabled(ctx, level) {
		logger.LogAttrs(ctx, level, message, append(logAttrs(a), last)...)
	}
}

func logAttrs(a Attempt) []slog.Attr {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("method", clean(methodOf(a.Request), maxCode)),
		slog.String("url", RedactURL(a.Request.URL)),
		slog.Int("attempt", a.N))
	if a.Response != nil {
		attrs = append(attrs, slog.Int("status", a.Response.StatusCode))
	}
	attrs = appendVerdict(attrs, a.Verdict.Code, a.Verdict.TrackingID)
	if a.Err != nil {
		attrs = append(attrs, slog.String("error", RedactError(a.Err)))
	}
	return attrs
}

func appendVerdict(attrs []slog.Attr, code, target string) []slog.Attr {
	if code != "" {
		attrs = append(attrs, slog.String("code", code))
	}
	if target != "" {
		attrs = append(attrs, slog.String("target", target))
	}
	return attrs
}
