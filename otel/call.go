package steadyotel

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/ended"
)

// call keeps what the hooks of one call must know of each other. They run one after the other, Done
// perhaps on another goroutine, so it needs no lock. It is also the call's context: there the hooks
// find it.
type call struct {
	context.Context // the caller's

	telemetry *telemetry
	request   *http.Request
	caller    trace.Span  // as Start found it; it may record nothing
	parent    trace.Span  // the call's own, or the caller's
	own       bool        // parent is the call's own, and must be ended
	joined    bool        // another telemetry has the same call
	lent      atomic.Bool // a call within this one has had its span, or its attempt's
	attempt   trace.Span  // of the running attempt; nil between two, or where otelhttp makes it
	hops      int         // redirects before this call
	began     int         // number of the last attempt that began
	answers   int         // number of the last attempt that was done
	waits     int         // that were told to begin, by any of the hooks
	waited    int         // that were told to be over
	hooks     int         // how often it has these hooks: the Transport's and the context's
	gaveUp    bool        // the caller's span has the event
	shown     bool        // the caller's span has the failure
	over      bool

	running context.Context // of the running attempt, or the last
	sent    time.Time       // when it began; zero: there is none, or nobody measures
	labels  requestLabels   // for its duration
	address string          // of the call, once an attempt has gone to its host; "": none has
	last    failure         // of the last answer; zero: it was none, or said nothing
	said    failure         // the last that has said anything

	// room is for what the first attempt's span takes, to be allocated along with the rest.
	room struct {
		options  [2]trace.SpanStartOption
		request  [6]attribute.KeyValue
		response [3]attribute.KeyValue
	}
}

// failure is what a service has said of one failed attempt.
type failure struct {
	verdict steadyhttp.Verdict
	attempt int
}

// callKey is the key of the innermost call, whosever it is.
type callKey struct{}

// Value returns the call itself where the key is its telemetry.
func (c *call) Value(key any) any {
	switch key := key.(type) {
	case *telemetry:
		if key == c.telemetry {
			return c
		}
	case callKey:
		return c
	}
	return c.Context.Value(key)
}

// within returns ctx with the span that is the parent of what begins now. Of joined telemetries, the
// span in ctx is another one's, and perhaps of another provider.
func (c *call) within(ctx context.Context) context.Context {
	if c.joined {
		return trace.ContextWithSpan(ctx, c.parent)
	}
	return ctx
}

// maxHops bounds hops: a client's redirect policy may follow for ever.
const maxHops = 100

// hops counts the requests that redirects led to before req: http.request.resend_count includes
// them. net/http puts the answer that led to a request into Request.Response. An http.Client with a
// Timeout wraps that answer's body, and the retries of that hop are not counted.
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

// event adds an event to the call's span, or the caller's. An attempt's span gets none: what
// happens between two attempts belongs to neither.
func (c *call) event(name string, attrs ...attribute.KeyValue) {
	if c.parent.IsRecording() {
		c.parent.AddEvent(name, trace.WithAttributes(attrs...))
	}
}

// note keeps what the service has said of a failed attempt.
func (c *call) note(a *steadyhttp.Attempt) {
	said := failure{a.Verdict, a.N}
	switch {
	case a.Err == nil && a.Verdict.Class == steadyhttp.Success:
		c.last = failure{}
	case told(a.Verdict):
		c.last, c.said = said, said
	case a.Response != nil:
		c.last = said // nothing: what an earlier one has said is not said of this one
	}
}

// failure returns what belongs on the span of the call: what steadyhttp.Error has too where the
// call failed, or else what the last failure that a retry made good has said.
func (c *call) failure(failed bool) failure {
	if failed {
		return c.last
	}
	return c.said
}

// answered puts on the attempt's span what came back. The span stays open until the body's end.
func (c *call) answered(attributes *attributes, a *steadyhttp.Attempt) {
	errorType := attributes.errorType(a)
	if a.Err != nil {
		errorType, _ = outcomeOf(c.Context, attributes, a) // the caller may have cancelled
	}
	c.labels.errorType = errorType
	if a.Response != nil {
		c.labels.status, c.labels.version = a.Response.StatusCode, protocolVersion(a.Response)
	}
	span := c.attempt
	if span == nil || !span.IsRecording() {
		return
	}
	if a.Response != nil {
		var attrs []attribute.KeyValue
		if a.N == 1 {
			attrs = c.room.response[:0]
		}
		span.SetAttributes(attributes.ofResponse(attrs, a)...)
	}
	attributes.setVerdict(span, a.Verdict, c.lent.Load())
	if errorType != "" {
		fail(span, errorType, a.Err)
	}
}

// bodyEnded ends the span of the last attempt. Its body may have failed after good headers.
func (c *call) bodyEnded(errorType string, a *steadyhttp.Attempt, at time.Time) {
	defer c.endAttempt(at) // also if the text of a.Err panics
	if a.Err != nil && errorType != "" {
		c.labels.errorType = errorType
		if c.attempt != nil && c.attempt.IsRecording() {
			fail(c.attempt, errorType, a.Err)
		}
	}
}

// endAttempt ends the attempt's span and its duration once: at its retry, at the end of its answer,
// or after a panic. at is when it ended, zero for now.
func (c *call) endAttempt(at time.Time) {
	if !c.sent.IsZero() {
		c.telemetry.metrics.attempt(c.running, c.labels, between(c.sent, at))
		c.sent = time.Time{}
	}
	if span := c.attempt; span != nil {
		c.attempt = nil
		end(span, at)
	}
}

func end(span trace.Span, at time.Time) {
	if at.IsZero() {
		span.End()
		return
	}
	span.End(trace.WithTimestamp(at))
}

// end puts the call's outcome on its span, or on the caller's.
func (c *call) end(attributes *attributes, errorType string, a *steadyhttp.Attempt, at time.Time) {
	if !c.own {
		c.giveUp(attributes, errorType, a)
		return
	}
	defer end(c.parent, at)
	if c.parent.IsRecording() {
		// Only the end counts here, not the failures that a retry made good
		// (docs/general/recording-errors.md).
		attributes.setFailure(c.parent, c.failure(errorType != ""), c.lent.Load())
		c.parent.SetAttributes(attempts(a.N))
		if a.Stop != "" { // a panic leaves it empty
			c.parent.SetAttributes(stop(a.Stop))
		}
		if errorType != "" {
			fail(c.parent, errorType, a.Err)
		}
	}
}

// giveUp puts on the caller's span what the service has said, and the event of a failed call. It is
// an event, since that span may have many calls.
func (c *call) giveUp(attributes *attributes, errorType string, a *steadyhttp.Attempt) {
	if c.own || !c.parent.IsRecording() {
		return
	}
	if !c.shown {
		c.shown = true
		attributes.setCallersFailure(c.parent, c.failure(errorType != ""))
	}
	if !c.gaveUp && errorType != "" {
		c.gaveUp = true
		c.event("steadyhttp.giving_up", attributes.ofEnd(errorType, a)...)
	}
}

// fail sets a span's status to error. A failure that is an HTTP status has no description
// (docs/http/http-spans.md, Status). There is no exception event: the conventions now want those in
// the log, where steadyhttp.Log writes them.
func fail(span trace.Span, errorType string, err error) {
	span.SetAttributes(attribute.String("error.type", errorType))
	span.SetStatus(codes.Error, text(steadyhttp.RedactError(err)))
}

// timeout is steadyhttp.Error.ErrorType's word for a deadline that has passed.
const timeout = "timeout"

// outcomeOf returns how a call failed, "" if it did not, and whether its caller cancelled it, which
// is no error. ctx must be the call's: an attempt's own timeout ends the attempt's context.
func outcomeOf(
	ctx context.Context, attributes *attributes, a *steadyhttp.Attempt,
) (errorType string, cancelled bool) {
	// StopCancelled alone proves nothing: it may be that of an inner Transport, with a context of
	// its own.
	over := (a.Stop == steadyhttp.StopCancelled || a.Err != nil) &&
		(ctx.Err() != nil || ended.CancelClosed(a.Request))
	switch {
	case over && ended.Overdue(ctx): // an error, although the deadline is the caller's
		return timeout, false
	case over:
		return "", true
	}
	return attributes.errorType(a), false
}
