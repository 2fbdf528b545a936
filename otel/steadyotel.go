// Package steadyotel makes OpenTelemetry spans and metrics of what a steadyhttp.Transport does. It
// uses OpenTelemetry's API alone: a program without an SDK records and sends nothing.
//
//	&steadyhttp.Transport{Trace: steadyotel.New(steadyotel.Config{})}
//
// # Spans
//
// Each attempt has a span of kind CLIENT with the stable HTTP attributes. Its context goes out with
// the request. It ends when the response's body has ended, failed or been closed. Around the
// attempts of a call there is a span of kind INTERNAL, unless the caller has a span already.
//
// An attempt's span has the service's tracking ID and code, as steadyhttp.error.target and
// steadyhttp.error.code. The call's span, or the caller's, has those of the last failure that had
// any.
//
// A failed attempt's span has the status error, also if a retry made it good. The call's has it
// only if the call failed. A call that its caller cancelled is no error; a deadline that passed is
// one. error.type is the service's code if Config.Rules lists it, else the status, else a word of
// steadyhttp.Error.ErrorType.
//
// A call's span also has steadyhttp.attempts, and steadyhttp.stop: why there was no further
// attempt, a Stop. An attempt's has steadyhttp.sends where it is 2 or more: net/http has replayed
// the request on its own; and steadyhttp.warning where Classify has a Message for a success, as
// package defender has for a 206.
//
// # Events
//
// On the call's span, or the caller's:
//
//	steadyhttp.retrying   before each wait for a retry
//	steadyhttp.waited     after each wait for a gate of more than 100 ms
//	steadyhttp.giving_up  when a call has failed; on a caller's span only
//
// The names are messages of steadyhttp.Log, and the attributes' last parts are its fields. Log's
// "waiting" and "cancelled" have no event.
//
// # Metrics
//
// They tell what nobody else knows; otelhttp has the duration of each attempt. The labels are
// closed sets, so that neither a server nor a caller can make new series.
//
//	steadyhttp.call.duration       s          of a call to the end of its body, waits included; by
//	                                          http.request.method and steadyhttp.outcome
//	steadyhttp.call.attempts       {attempt}  of each call; of a failed one by error.type
//	steadyhttp.gate.wait.duration  s          each wait for a gate of a millisecond or more, also one
//	                                          that was refused or cancelled in the end
//	steadyhttp.retry.delay         s          before each retry, by steadyhttp.delay.source: backoff,
//	                                          server (it named the time), credentials (a 401: none)
//	steadyhttp.budget.refusals     {refusal}  retries that the Budget refused
//	steadyhttp.quota.used          {request}  by steadyhttp.quota.name and steadyhttp.quota.window,
//	                                          as .free and .limit; see ObserveQuotas
//	steadyhttp.quota.waiting       {call}     in line; by steadyhttp.quota.name
//
// # Beside otelhttp
//
// An otelhttp.Transport around the Transport needs nothing. One below it makes the attempts' spans:
// then set Config.NoAttemptSpans, so that there are not two of each, and put Config.Annotate below
// otelhttp, which adds the tracking ID to its spans.
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
	"github.com/steadyhttp/steadyhttp/internal/durations"
)

// scope is the name of the instrumentation.
const scope = "github.com/steadyhttp/steadyhttp/otel"

// Config says where the spans and metrics go, and what is on them. The zero value is good.
type Config struct {
	// TracerProvider makes the spans. nil: the global one. Instrumentation by eBPF needs the one of
	// go.opentelemetry.io/auto/sdk here.
	TracerProvider trace.TracerProvider

	// MeterProvider makes the metrics. nil: the global one.
	MeterProvider metric.MeterProvider

	// Propagator puts the attempt's context into its header. nil: the global one, or W3C Trace
	// Context as long as nobody has set that. To send no context, set
	// propagation.NewCompositeTextMapPropagator(), which does nothing.
	Propagator propagation.TextMapPropagator

	// CallSpan says when a call has a span around its attempts. "": CallSpanAuto.
	CallSpan CallSpan

	// NoAttemptSpans leaves the attempts' spans, and their propagation, to an otelhttp.Transport
	// below the steadyhttp.Transport. false: steadyotel makes them.
	NoAttemptSpans bool

	// Route returns the template of a request's path, such as /api/machines/{id}, for the spans'
	// names and url.template; "" if it knows none. It must not return the path itself: there would
	// be as many names as machines. nil: no template is known.
	Route func(req *http.Request) string

	// Rules lists, in ByCode, the service's error codes that may be an error.type; for any other
	// code it is the status. Set what the Transport classifies by, such as defender.Rules(). nil:
	// none may.
	Rules *steadyhttp.Rules

	// TargetKey and CodeKey name the attributes for the service's tracking ID and error code.
	// "": steadyhttp.error.target and steadyhttp.error.code.
	TargetKey, CodeKey attribute.Key
}

// CallSpan says when a call has a span around its attempts.
type CallSpan string

const (
	CallSpanAuto   CallSpan = ""       // unless the context has a span that records
	CallSpanAlways CallSpan = "always" // also as the child of the caller's span
	CallSpanNever  CallSpan = "never"  // without a caller's span, each attempt is a trace of its own
)

// New returns the hooks for a Transport's Trace. They are safe for concurrent use, and may serve
// several Transports.
func New(c Config) *steadyhttp.Trace {
	t := newTelemetry(c)
	return &steadyhttp.Trace{
		Enabled:      t.enabled,
		Start:        t.start,
		Waited:       t.waited,
		AttemptStart: t.attemptStart,
		AttemptDone:  t.attemptDone,
		Done:         t.done,
	}
}

// telemetry is a Config ready for use. Its address is also the key of its calls in their contexts,
// so that two of them joined in one Trace do not find each other's.
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
		internal: trace.WithSpanKind(trace.SpanKindInternal),
		client:   trace.WithSpanKind(trace.SpanKindClient),
	}
	t.tracers.provider = c.TracerProvider
	t.metrics = newMetrics(meterOf(c))
	return t
}

// enabled reports whether anybody would see what the hooks do. Even where nothing is recorded here,
// a caller's span must get its events, and a context from elsewhere must travel on.
func (t *telemetry) enabled(ctx context.Context) bool {
	if _, recording := t.tracers.get(); recording {
		return true
	}
	return trace.SpanContextFromContext(ctx).IsValid() || baggage.FromContext(ctx).Len() > 0 ||
		t.metrics.enabled(ctx)
}

func (t *telemetry) start(ctx context.Context, req *http.Request) context.Context {
	if c := t.callOf(ctx); c != nil && c.request == req {
		c.hooks++
		return ctx
	}
	c := &call{
		Context: ctx, telemetry: t, request: req, hooks: 1,
		parent: trace.SpanFromContext(ctx), hops: hops(req),
	}
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
	ctx, c.parent = tracer.Start(c, t.attributes.callName(req), t.internal,
		trace.WithAttributes(t.attributes.ofRequest(req, 0)...))
	c.own = true
	return ctx
}

// callOf returns nil where Start was not called: somebody has made a Trace of some of the hooks.
func (t *telemetry) callOf(ctx context.Context) *call {
	c, _ := ctx.Value(t).(*call)
	return c
}

func (t *telemetry) waited(ctx context.Context, a steadyhttp.Attempt, w steadyhttp.Wait) {
	c := t.callOf(ctx)
	if c == nil || w.Cause != steadyhttp.WaitGate || w.For < leastWait {
		return
	}
	if c.gates++; c.gates%c.hooks != 0 {
		return
	}
	t.metrics.gateWait(ctx, w.For)
	if w.For > durations.Noticed {
		c.event("steadyhttp.waited", resendCount(c.hops+a.N-1), wait(w.For))
	}
}

// leastWait is what a gate must take to be in the metric: a gate may announce a wait that then is
// none.
const leastWait = time.Millisecond

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
		if a.Stop == steadyhttp.StopBudget && !inherited(a) {
			t.metrics.budgetRefusal(ctx)
		}
		// At once: the caller may end its span before it closes the body.
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
