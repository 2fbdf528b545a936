// Package steadyotel makes OpenTelemetry spans and metrics of what a steadyhttp.Transport does. It uses OpenTelemetry's API
// alone: where a program has set no SDK up, nothing is recorded and nothing is sent.
//
//	&steadyhttp.Transport{Trace: steadyotel.New(steadyotel.Config{})}
//
// # Spans
//
// Each attempt has a span of kind CLIENT with the stable HTTP attributes, and its context goes out with the request. It
// ends when the response's body has ended, failed or been closed. Around the attempts of a call there is one of kind
// INTERNAL, unless the caller has a span already. The service's tracking ID and code are on the attempt's span, and those of
// the last failure that had any on the call's, or the caller's: steadyhttp.error.target and steadyhttp.error.code.
//
// The call's span tells the outcome: an attempt that failed and was retried is red, a call that came to a good end is not.
// A call that its caller cancelled is no error; one that ran into a deadline is. error.type is the service's code if
// Config.Rules lists it, else the status, else a word of steadyhttp.Error.ErrorType. A call's span also has steadyhttp.attempts
// and steadyhttp.stop, which is why it went no further, an attempt's from two on steadyhttp.sends: how often net/http has sent
// it by itself.
//
// # Events
//
// On the call's span, or the caller's: steadyhttp.retrying before each wait for a retry, steadyhttp.gated after each wait
// at a gate longer than 100 ms, and steadyhttp.giving_up on a caller's span once a call has failed. They are the words of
// steadyhttp.Log, and so are the attributes' last parts.
//
// # Metrics
//
// Only what others can't know; otelhttp has the duration of each attempt. All labels are of closed sets, so that no server
// and no caller can make their number grow.
//
//	steadyhttp.call.duration       s          from the call's begin, waits included, to the end of its body;
//	                                          by http.request.method and steadyhttp.outcome
//	steadyhttp.call.attempts       {attempt}  of each call, by the error.type that it ended with, if it did
//	steadyhttp.gate.wait.duration  s          of attempts that a gate held up for a millisecond or more
//	steadyhttp.retry.delay        s          before each retry, by steadyhttp.delay.source: backoff, server
//	                                          (it named the time) or credentials (a 401: no wait)
//	steadyhttp.budget.refusals     {refusal}  retries that the Budget refused
//	steadyhttp.quota.used, .free, .limit  {request}  by steadyhttp.quota.name and .window; see ObserveQuotas
//	steadyhttp.quota.waiting       {call}     in line, by steadyhttp.quota.name
//
// # Beside otelhttp
//
// An otelhttp.Transport may be around the Transport. Under it, it makes the attempts' spans; then Config.NoAttemptSpans
// spares doubles, and Annotate, below otelhttp, puts the tracking ID on its spans.
package steadyotel

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
)

// scope is the name of the instrumentation.
const scope = "github.com/steadyhttp/steadyhttp/otel"

// Config is what New makes a Trace of. The zero value is good.
type Config struct {
	// TracerProvider makes the spans. nil: the global one. Instrumentation by eBPF makes spans only if it is set to that of
	// go.opentelemetry.io/auto/sdk.
	TracerProvider trace.TracerProvider

	// MeterProvider makes the metrics. nil: the global one.
	MeterProvider metric.MeterProvider

	// Propagator puts the attempt's context into its header. nil: the global one, or W3C Trace Context as long as none has
	// been set. To send no context, set one that does nothing: propagation.NewCompositeTextMapPropagator().
	Propagator propagation.TextMapPropagator

	// CallSpan says when there is a span around the attempts of a call. "": CallSpanAuto.
	CallSpan CallSpan

	// NoAttemptSpans leaves the attempts' spans, and their propagation, to an otelhttp.Transport below the Transport.
	// false: steadyotel makes them.
	NoAttemptSpans bool

	// Route returns the template of a request's path, such as /api/machines/{id}, for the spans' names and url.template;
	// "" if it knows none. The path itself must not be one: there would be as many names as machines. nil: none is known.
	Route func(req *http.Request) string

	// Rules lists, in ByCode, the service's error codes that may be an error.type; for others the status is. Give the
	// Transport's own, such as defender.Rules(). nil: none may.
	Rules *steadyhttp.Rules

	// TargetKey and CodeKey are the attributes of the service's tracking ID and error code.
	// "": steadyhttp.error.target and steadyhttp.error.code.
	TargetKey, CodeKey attribute.Key
}

// CallSpan says when there is a span around the attempts of a call.
type CallSpan string

const (
	CallSpanAuto   CallSpan = ""       // where the context has no span that records: a parent can't be added afterwards
	CallSpanAlways CallSpan = "always" // also as the child of a span that the caller has
	CallSpanNever  CallSpan = "never"  // attempts without a parent are then each a trace of their own
)

// New returns the hooks for a Transport's Trace. They are safe for concurrent use, and may serve several Transports.
func New(c Config) *steadyhttp.Trace {
	t := newTelemetry(c)
	return &steadyhttp.Trace{
		Enabled:      t.enabled,
		Start:        t.start,
		Gated:        t.gated,
		AttemptStart: t.attemptStart,
		AttemptDone:  t.attemptDone,
		Done:         t.done,
	}
}

// telemetry is a Config ready for use. It is also the key of its calls in their contexts, so that two of them joined in
// one Trace do not meet.
type telemetry struct {
	config     Config
	tracers    tracers
	metrics    *metrics
	attributes attributes
	internal   trace.SpanStartOption // the kind of a call's span
	client     trace.SpanStartOption // the kind of an attempt's span
}

func newTelemetry(c Config) *telemetry {
	t := &telemetry{
		config: c, attributes: newAttributes(c),
		internal: trace.WithSpanKind(trace.SpanKindInternal), client: trace.WithSpanKind(trace.SpanKindClient),
	}
	t.tracers.provider = c.TracerProvider
	t.metrics = newMetrics(meterOf(c))
	return t
}

// enabled reports whether anybody would see what the hooks do. A span that the caller has must be told of failures, and a
// context that came from elsewhere must go on, even where nothing is recorded here.
func (t *telemetry) enabled(ctx context.Context) bool {
	if _, recording := t.tracers.get(); recording {
		return true
	}
	return trace.SpanContextFromContext(ctx).IsValid() || baggage.FromContext(ctx).Len() > 0 || t.metrics.enabled(ctx)
}

func (t *telemetry) start(ctx context.Context, req *http.Request) context.Context {
	if c := t.callOf(ctx); c != nil && c.request == req {
		c.hooks++
		return ctx
	}
	c := &call{Context: ctx, telemetry: t, request: req, hooks: 1, parent: trace.SpanFromContext(ctx), hops: hops(req)}
	switch t.config.CallSpan {
	case CallSpanNever:
		return c
	case CallSpanAlways:
	default:
		if c.parent.IsRecording() {
			return c
		}
	}
	tracer, recording := t.tracers.get()
	if !recording {
		return c
	}
	ctx, c.parent = tracer.Start(c, t.attributes.callName(req), t.internal, trace.WithAttributes(t.attributes.ofRequest(req, 0)...))
	c.own = true
	return ctx
}

// callOf returns nil where Start has not been called, as for a Trace that was put together by hand.
func (t *telemetry) callOf(ctx context.Context) *call {
	c, _ := ctx.Value(t).(*call)
	return c
}

func (t *telemetry) gated(ctx context.Context, a steadyhttp.Attempt, d time.Duration) {
	c := t.callOf(ctx)
	if c == nil {
		return
	}
	if c.gates++; c.gates%c.hooks != 0 {
		return
	}
	t.metrics.gateWait(ctx, d)
	if d > longWait {
		c.event("steadyhttp.gated", resendCount(c.hops+a.N-1), wait(d))
	}
}

// longWait is how long a gate must hold an attempt up for that to be worth an event; steadyhttp.Log has the same.
const longWait = 100 * time.Millisecond

func (t *telemetry) attemptStart(ctx context.Context, a steadyhttp.Attempt) context.Context {
	c := t.callOf(ctx)
	if c == nil || c.began == a.N {
		return ctx
	}
	c.began = a.N
	resends := c.hops + a.N - 1
	if t.config.NoAttemptSpans {
		return context.WithValue(ctx, sendingKey{}, sending{resends, trace.SpanContextFromContext(ctx)})
	}
	if tracer, recording := t.tracers.get(); recording {
		ctx, c.attempt = tracer.Start(ctx, t.attributes.attemptName(a.Request),
			t.client, trace.WithAttributes(t.attributes.ofRequest(a.Request, resends)...))
	}
	t.propagator().Inject(ctx, carrier{propagation.HeaderCarrier(a.Request.Header)})
	return ctx
}

func (t *telemetry) attemptDone(ctx context.Context, a steadyhttp.Attempt) {
	c := t.callOf(ctx)
	if c == nil || c.answers == a.N {
		return
	}
	c.answers = a.N
	if failed := a.Err != nil || a.Verdict.Class != steadyhttp.Success; failed {
		t.attributes.replaceVerdict(c.parent, a.Verdict)
	}
	c.answered(&t.attributes, a)
	if a.Stop != "" {
		if a.Stop == "budget" && !inherited(a) {
			t.metrics.budgetRefusal(ctx)
		}
		// At once: the caller may end his span before he closes the body.
		errorType, _ := outcomeOf(c.Context, &t.attributes, a)
		c.giveUp(&t.attributes, errorType, a)
		return // the body goes on
	}
	c.endAttempt()
	t.metrics.retry(ctx, a)
	if c.parent.IsRecording() {
		c.event("steadyhttp.retrying", t.attributes.ofRetry(c.hops+a.N-1, a)...)
	}
}

// inherited reports whether the Stop is that of an inner Transport.
func inherited(a steadyhttp.Attempt) bool {
	if _, ok := errors.AsType[*steadyhttp.Error](a.Err); ok {
		return true
	}
	_, ok := steadyhttp.AttemptOf(a.Response)
	return ok
}

func (t *telemetry) done(ctx context.Context, a steadyhttp.Attempt) {
	c := t.callOf(ctx)
	if c == nil || c.over {
		return
	}
	c.over = true
	errorType, cancelled := outcomeOf(ctx, &t.attributes, a)
	c.bodyEnded(errorType, a)
	c.end(&t.attributes, errorType, a)
	t.metrics.done(ctx, a, errorType, cancelled)
}
