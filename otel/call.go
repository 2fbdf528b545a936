package steadyotel

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
)

// call is what is known of one call between its hooks. They come one after the other, Done perhaps on another goroutine, so
// that it needs no lock. It is the call's context as well, in which the hooks find it.
type call struct {
	context.Context // the caller's

	telemetry *telemetry
	request   *http.Request
	parent    trace.Span // the call's own, or the caller's; it may record nothing
	own       bool       // parent is the call's, to be ended
	attempt   trace.Span // the present one; nil between two, or where otelhttp has it
	hops      int        // redirects before this call
	began     int        // the last attempt that did
	answers   int        // the last attempt that was answered
	gates     int        // waits at gates that were told of, by all the hooks
	hooks     int        // how often the call has these hooks: a Transport's may be the context's as well
	gaveUp    bool       // the caller's span has been told
	over      bool
}

// Value returns the call itself for its telemetry.
func (c *call) Value(key any) any {
	if t, ok := key.(*telemetry); ok && t == c.telemetry {
		return c
	}
	return c.Context.Value(key)
}

// maxHops bounds what hops counts: a client's own redirect policy may know no end.
const maxHops = 100

// hops counts the requests that came before req by redirects: http.request.resend_count counts them too. net/http hands the
// answer that led to a request along with it. How often that was sent is lost where http.Client has a Timeout, and wraps the
// answer's body.
func hops(req *http.Request) int {
	n := 0
	for resp := req.Response; resp != nil && n < maxHops; resp = resp.Request.Response {
		n++
		if a, ok := steadyhttp.AttemptOf(resp); ok {
			n += a.N - 1
		}
		if resp.Request == nil {
			break
		}
	}
	return n
}

// event adds to the call's span or the caller's. An attempt's has none: what is decided between two belongs to neither.
func (c *call) event(name string, attrs ...attribute.KeyValue) {
	if c.parent.IsRecording() {
		c.parent.AddEvent(name, trace.WithAttributes(attrs...))
	}
}

// answered puts on the attempt's span what came back. It stays open: the body belongs to it.
func (c *call) answered(attributes *attributes, a steadyhttp.Attempt) {
	span := c.attempt
	if span == nil || !span.IsRecording() {
		return
	}
	if a.Response != nil {
		span.SetAttributes(attributes.ofResponse(a)...)
	}
	attributes.setVerdict(span, a.Verdict)
	errorType := attributes.errorType(a)
	if a.Err != nil {
		errorType, _ = outcomeOf(c.Context, attributes, a) // it may be that the caller has cancelled
	}
	if errorType != "" {
		fail(span, errorType, a.Err)
	}
}

// bodyEnded ends the span of the attempt whose answer was the call's. A body may fail after its headers were good.
func (c *call) bodyEnded(errorType string, a steadyhttp.Attempt) {
	if c.attempt == nil {
		return
	}
	if a.Err != nil && errorType != "" && c.attempt.IsRecording() {
		fail(c.attempt, errorType, a.Err)
	}
	c.endAttempt()
}

// endAttempt ends the span exactly once, whoever comes first: the next attempt, the body's end or a panic.
func (c *call) endAttempt() {
	if c.attempt != nil {
		c.attempt.End()
		c.attempt = nil
	}
}

// end tells the span of the call, or the caller's, what became of it.
func (c *call) end(attributes *attributes, errorType string, a steadyhttp.Attempt) {
	switch {
	case !c.own:
		c.giveUp(attributes, errorType, a)
		return
	case c.parent.IsRecording():
		// Failures that were retried away are not recorded here (docs/general/recording-errors.md): only how it ended.
		c.parent.SetAttributes(attempts(a.N))
		if a.Stop != "" { // it has none after a panic
			c.parent.SetAttributes(stop(a.Stop))
		}
		if errorType != "" {
			fail(c.parent, errorType, a.Err)
		}
	}
	c.parent.End()
}

// giveUp tells a caller's span of a call that failed. That span may be of many calls: only an event can say which of them.
func (c *call) giveUp(attributes *attributes, errorType string, a steadyhttp.Attempt) {
	if !c.own && !c.gaveUp && errorType != "" && c.parent.IsRecording() {
		c.gaveUp = true
		c.event("steadyhttp.giving_up", attributes.ofEnd(errorType, a)...)
	}
}

// fail makes a span red. The description is left out where a status says it all (docs/http/http-spans.md, Status). There is no
// exception event: the conventions now want those in the log, and steadyhttp.Log is one.
func fail(span trace.Span, errorType string, err error) {
	span.SetAttributes(attribute.String("error.type", errorType))
	span.SetStatus(codes.Error, text(steadyhttp.RedactError(err)))
}

// timeout is what steadyhttp.Error.ErrorType calls a deadline that has passed.
const timeout = "timeout"

// outcomeOf returns how a call failed, "" if it did not, and whether its caller ended it, or the reading of its body, which is
// not an error. ctx is the call's: an attempt's is ended by its own timeouts too.
func outcomeOf(ctx context.Context, attributes *attributes, a steadyhttp.Attempt) (errorType string, cancelled bool) {
	// An inner Transport's Stop may be of a context of its own.
	ended := (a.Stop == "cancelled" || a.Err != nil) && (ctx.Err() != nil || cancelClosed(a.Request))
	switch {
	case ended && overdue(ctx):
		return timeout, false
	case ended:
		return "", true
	}
	return attributes.errorType(a), false
}

// overdue reports whether a deadline has passed. That is an error, although the caller has set it. A context that has not
// ended may be overdue: http.Client's Timeout may close Request.Cancel an instant before.
func overdue(ctx context.Context) bool {
	if err := ctx.Err(); err != nil {
		return err == context.DeadlineExceeded
	}
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// cancelClosed reports whether a request was cancelled in the old way, which http.Client still uses for its Timeout.
func cancelClosed(req *http.Request) bool {
	select {
	//lint:ignore SA1019 as long as http.Client sets it
	case <-req.Cancel:
		return true
	default:
		return false
	}
}
