package steadyhttp

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ended"
	"github.com/steadyhttp/steadyhttp/internal/redact"
)

// longWait is a wait that somebody who watches the log wants to know of as it begins.
const longWait = 10 * time.Second

// Log returns a Trace that logs each retry, and each wait longer than 100 ms for a gate, the budget
// or Prepare, and each call that its caller cancelled before its answer, at Debug; a wait of 10 s and
// more at Info, as it begins, with its length; and at Warn each other call that ends without success,
// be it by a panic, and each success that was never closed. nil stands for slog.Default, looked up at
// each record. URLs are those of RedactURL; headers and bodies are not logged. A wait is in seconds.
// Package steadyotel has the same words and fields on its spans and events; docs/telemetry.md says
// which of them is which attribute.
func Log(logger *slog.Logger) *Trace {
	return &Trace{
		Waiting: func(ctx context.Context, a Attempt, w Wait) {
			if w.For >= longWait {
				log(ctx, logger, slog.LevelInfo, "waiting", a, causeAttr(w), waitAttr(w.For))
			}
		},
		Waited: func(ctx context.Context, a Attempt, w Wait) {
			// Of a wait before a retry, "retrying" has told.
			if w.Cause != WaitBackOff && w.Cause != WaitServer && w.For > durations.Noticed {
				log(ctx, logger, slog.LevelDebug, "waited", a, causeAttr(w), waitAttr(w.For))
			}
		},
		AttemptDone: func(ctx context.Context, a Attempt) { logAttempt(ctx, logger, a) },
		Done: func(ctx context.Context, a Attempt) {
			// The stop of most calls was known, and logged, when their last attempt was decided on.
			switch {
			case a.late:
				logAttempt(ctx, logger, a)
			case a.Err == ended.ErrUnclosed:
				log(ctx, logger, slog.LevelWarn, "body not closed", a)
			case a.Stop == StopDone && a.Err != nil && !cancelledBy(ctx, a.Request):
				log(ctx, logger, slog.LevelWarn, "giving up", a, stopAttr(a)) // its body has failed
			case a.Stop == "" && a.Err != nil:
				log(ctx, logger, slog.LevelWarn, "giving up", a) // it has come to a panic
			}
		},
	}
}

func logAttempt(ctx context.Context, logger *slog.Logger, a Attempt) {
	switch {
	case a.Stop == StopDone:
	case a.Stop == "":
		log(ctx, logger, slog.LevelDebug, "retrying", a, waitAttr(a.Wait))
	case a.Stop == StopCancelled && durations.Left(ctx) != 0:
		// The caller knows: it was him.
		log(ctx, logger, slog.LevelDebug, "cancelled", a, stopAttr(a))
	case a.Stop == StopBodyNotReplayable:
		log(ctx, logger, slog.LevelWarn, "giving up", a, stopAttr(a), slog.String("hint", "set Request.GetBody or Policy.MaxBuffer"))
	default:
		log(ctx, logger, slog.LevelWarn, "giving up", a, stopAttr(a))
	}
}

// cancelledBy reports whether the caller has ended the call, and not a deadline.
func cancelledBy(ctx context.Context, req *http.Request) bool {
	return ctx.Err() == context.Canceled || ended.CancelClosed(req) && !ended.Overdue(ctx)
}

func causeAttr(w Wait) slog.Attr { return slog.String("cause", string(w.Cause)) }

func stopAttr(a Attempt) slog.Attr { return slog.String("stop", string(a.Stop)) }

func log(ctx context.Context, logger *slog.Logger, level slog.Level, message string, a Attempt, last ...slog.Attr) {
	if logger == nil {
		logger = slog.Default()
	}
	if logger.Enabled(ctx, level) {
		logger.LogAttrs(ctx, level, message, append(logAttrs(a), last...)...)
	}
}

func logAttrs(a Attempt) []slog.Attr {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("method", redact.Text(cmp.Or(a.Request.Method, http.MethodGet), redact.MaxCode)),
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
