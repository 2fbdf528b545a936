// Package steadyotel makes OpenTelemetry spans and metrics of what a steadyhttp.Transport does. It
// uses OpenTelemetry's API alone: a program without an SDK records and sends nothing.
//
//	&steadyhttp.Transport{Trace: steadyotel.New(steadyotel.Config{})}
//
// docs/telemetry.md has the recipes: a 404 that is no error, views, redaction in the Collector.
//
// # Spans
//
// Each attempt has a span of kind CLIENT with the stable HTTP attributes. Around the attempts of a
// call there is a span of kind INTERNAL, unless the caller has a span already. An attempt's context
// goes out with its request where a propagator is set, and only there.
//
// Both end with the body of a success: when it has ended, failed or been closed. Those of any other
// answer end as it is delivered, and so do their metrics: many programs return at once where the
// status is not 200, and close nothing. Of a success whose body nobody ever closes, both end once
// it is collected, at the time of its headers.
//
// An attempt's span has the service's tracking ID and code, as steadyhttp.error.target and
// steadyhttp.error.code. The call's span has those of one failure, and in steadyhttp.error.attempt
// which attempt's they are: of the last answer if the call failed, as steadyhttp.Error has, else
// those of the last failure that had any. So has the caller's span, of the last such call: a code
// alone does not replace an ID. To a call that Prepare, a gate or the base makes in the context that
// it is given, the span there is its caller's.
//
// A failed attempt's span has the status error, also if a retry made it good. The call's has it
// only if the call failed. A call that its caller cancelled is no error; a deadline that passed is
// one. error.type is the service's code if Config.Rules lists it, else the status, else a word of
// steadyhttp.Error.ErrorType.
//
// A call's span also has steadyhttp.attempts, and steadyhttp.stop: why there was no further
// attempt, a Stop. An attempt's has steadyhttp.sends where it is 2 or more: net/http has replayed
// the request on its own. server.address and server.port are those of the Host header. url.full
// has the path without the values of its parameters, and of a query what is no secret by name or
// looks: see Config.RedactQuery.
// steadyhttp.warning is on an attempt where Classify has a Message for a success, as package
// defender has for a 206.
//
// # Events
//
// On the call's span, or the caller's:
//
//	steadyhttp.retrying   before each wait for a retry
//	steadyhttp.waited     after each other wait of more than 100 ms, with its steadyhttp.wait.cause:
//	                      gate, budget (its queue) or prepare
//	steadyhttp.giving_up  when a call has failed; on a caller's span only
//
// The names are messages of steadyhttp.Log, and the attributes' last parts are its fields. Log's
// "waiting", "cancelled" and "body not closed" have no event. OpenTelemetry moves events from spans
// to log records; these stay on spans within this major version.
//
// # Metrics
//
// The labels are closed sets, or bounded: the first ten hosts, and as many sets as Config.MaxSeries
// says, for all News of a MeterProvider that say the same. Neither a server nor a request can make
// any number of series; of the quotas' gauges there are as many as ObserveQuotas is given.
//
//	steadyhttp.call.duration      s          of a call to its end, waits included; by
//	                                         http.request.method, server.address, steadyhttp.outcome,
//	                                         error.type, and url.template where there is a Route
//	http.client.request.duration  s          of an attempt, as its span; with the conventions'
//	                                         attributes. Not with NoAttemptSpans
//	steadyhttp.call.attempts      {attempt}  of each call; of a failed one by error.type
//	steadyhttp.call.active        {call}     under way, waiting or not
//	steadyhttp.call.waiting       {call}     those that wait, by steadyhttp.wait.cause
//	steadyhttp.wait.duration      s          each wait of a millisecond or more, however it ended, by
//	                                         steadyhttp.wait.cause: gate, budget, backoff, server
//	                                         (it named the time), prepare
//	steadyhttp.retry.delay        s          before each retry as it was decided on, by
//	                                         steadyhttp.delay.source: backoff, server, credentials
//	                                         (a 401: none)
//	steadyhttp.budget.refusals    {refusal}  retries that the Budget refused
//	steadyhttp.quota.used         {request}  by steadyhttp.quota.name and steadyhttp.quota.window,
//	                                         as .free and .limit; see ObserveQuotas
//	steadyhttp.quota.waiting      {call}     in line; by steadyhttp.quota.name
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
	"reflect"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ended"
)

// scope is the name of the instrumentation.
const scope = module + "/otel"

// Config says where the spans and metrics go, and what is on them. The zero value is good.
type Config struct {
	// TracerProvider makes the spans. nil: the global one. Instrumentation by eBPF needs the one of
	// go.opentelemetry.io/auto/sdk here.
	TracerProvider trace.TracerProvider

	// MeterProvider makes the metrics. nil: the global one.
	MeterProvider metric.MeterProvider

	// Propagator puts the attempt's context into its header. nil: the global one, which sends
	// nothing as long as nobody has set it, as in otelhttp: a traceparent goes to whoever is
	// called, and tells a stranger which requests belong together.
	Propagator propagation.TextMapPropagator

	// CallSpan says when a call has a span around its attempts. "": CallSpanAuto.
	CallSpan CallSpan

	// NoAttemptSpans leaves the attempts' spans, their propagation and their metric
	// http.client.request.duration to an otelhttp.Transport below the steadyhttp.Transport. false:
	// steadyotel makes them.
	NoAttemptSpans bool

	// Route returns the template of a request's path, such as /api/machines/{id}, for the spans'
	// names and url.template, there and on call.duration; "" if it knows none. It must not return
	// the path itself: there would be as many names as machines. nil: no template is known.
	Route func(req *http.Request) string

	// RedactQuery leaves no value of a query in url.full, as steadyhttp.RedactURL does in logs and
	// errors. false: those are redacted that are secret by name (the conventions' list, and
	// whatever is called a signature, a token, a key, a password and the like) or by their looks,
	// and the others, such as $filter and $top, are shown. Set it where queries have what is
	// nobody's business: people's names, or mail addresses.
	RedactQuery bool

	// MaxSeries bounds the sets of labels that each of call.duration, call.attempts and
	// http.client.request.duration may have, but for a handful. What comes later is counted without
	// host, method and template, and in the end without error.type too: as _OTHER. Raise it for
	// many templates. 0: 50, with which all instruments together stay below 200.
	MaxSeries int

	// Rules lists, in ByCode, the service's error codes that may be an error.type; for any other
	// code it is the status. Annotate finds code and ID by them. Set what the Transport classifies
	// by, such as defender.Rules(). nil: no code may, and Annotate uses the default.
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
		Waiting:      t.waiting,
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
	silent     bool                  // its own providers will never record
	none       reflect.Type          // of the span that a context without one has
	baggage    bool                  // the propagator may have a use for it
	internal   trace.SpanStartOption // the kind of a call's span
	client     trace.SpanStartOption // the kind of an attempt's span
}

func newTelemetry(c Config) *telemetry {
	t := &telemetry{
		config: c, attributes: newAttributes(c), metrics: newMetrics(c),
		internal: trace.WithSpanKind(trace.SpanKindInternal),
		client:   trace.WithSpanKind(trace.SpanKindClient),
	}
	t.attributes.failures = &t.metrics.failures
	t.none = reflect.TypeOf(trace.SpanFromContext(context.Background()))
	_, alone := c.Propagator.(propagation.TraceContext)
	t.baggage = !alone
	t.tracers.provider = c.TracerProvider
	if c.TracerProvider != nil && !placeholder(c.TracerProvider) {
		_, recording := t.tracers.get()
		t.silent = !recording && t.metrics.silent
	}
	return t
}

// enabled reports whether anybody would see what the hooks do. Even where nothing is recorded here,
// a caller's span must get its events, and a context from elsewhere must travel on.
func (t *telemetry) enabled(ctx context.Context) bool {
	if !t.silent {
		if _, recording := t.tracers.get(); recording || t.metrics.enabled(ctx) {
			return true
		}
	}
	// Most contexts have no span, and to ask that for its own context would take longer than all
	// else.
	span := trace.SpanFromContext(ctx)
	return reflect.TypeOf(span) != t.none && span.SpanContext().IsValid() || t.baggage && baggage.FromContext(ctx).Len() > 0
}

func (t *telemetry) start(ctx context.Context, req *http.Request) context.Context {
	if c := t.callOf(ctx); c != nil && c.request == req {
		c.hooks++
		return ctx
	}
	c := &call{
		Context: ctx, telemetry: t, request: req, hooks: 1,
		caller: trace.SpanFromContext(ctx), hops: hops(req),
	}
	if first, ok := ctx.Value(callKey{}).(*call); ok && first.request == req {
		// Joined: the span that is there is the other one's, of the same call.
		first.joined, c.joined, c.caller = true, true, first.caller
	} else if ok {
		first.lent.Store(true)
	}
	c.parent = c.caller
	within := t.startSpan(c, req)
	// Only now: of a Start that a Route or a sampler ends by a panic, no Done is told.
	t.metrics.begun(ctx)
	return within
}

// startSpan gives the call a span of its own if it is to have one, and returns its context.
func (t *telemetry) startSpan(c *call, req *http.Request) context.Context {
	switch t.config.CallSpan {
	case CallSpanNever:
		return c
	case CallSpanAlways:
	default:
		if c.caller.IsRecording() {
			return c
		}
	}
	tracer, recording := t.tracers.get()
	if !recording {
		return c
	}
	address, port := server(req)
	ctx, span := tracer.Start(c.within(c), t.attributes.callName(req), t.internal,
		trace.WithAttributes(t.attributes.ofRequest(nil, req, address, port, 0)...))
	c.parent, c.own = span, true
	return ctx
}

// callOf returns nil where Start was not called: somebody has made a Trace of some of the hooks.
func (t *telemetry) callOf(ctx context.Context) *call {
	c, _ := ctx.Value(t).(*call)
	return c
}

func (t *telemetry) waiting(ctx context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) {
	c := t.callOf(ctx)
	if c == nil {
		return
	}
	if c.waits++; c.waits%c.hooks == 0 {
		t.metrics.begins(w)
	}
}

func (t *telemetry) waited(ctx context.Context, a steadyhttp.Attempt, w steadyhttp.Wait) {
	c := t.callOf(ctx)
	if c == nil {
		return
	}
	if c.waited++; c.waited%c.hooks != 0 {
		return
	}
	t.metrics.waited(ctx, w)
	// Of a wait before a retry, the event steadyhttp.retrying has told.
	if w.For > durations.Noticed && w.Cause != steadyhttp.WaitBackOff && w.Cause != steadyhttp.WaitServer {
		c.event("steadyhttp.waited", resendCount(c.hops+max(0, a.N-1)), wait(w.For), waitCause(w.Cause))
	}
}

func (t *telemetry) attemptStart(ctx context.Context, a steadyhttp.Attempt) context.Context {
	c := t.callOf(ctx)
	if c == nil || c.began == a.N {
		return ctx
	}
	c.began = a.N
	resends := c.hops + a.N - 1
	if t.config.NoAttemptSpans {
		return context.WithValue(ctx, sendingKey{}, &sending{resends: resends, parent: trace.SpanContextFromContext(ctx)})
	}
	c.labels = requestLabels{method: method(a.Request.Method)}
	c.labels.address, c.labels.port = server(a.Request)
	if a.Request.Host == c.request.Host && a.Request.URL.Host == c.request.URL.Host {
		c.address = c.labels.address
	}
	if t.metrics.times(ctx) {
		c.sent = time.Now()
	}
	if tracer, recording := t.tracers.get(); recording {
		var attrs []attribute.KeyValue
		var options []trace.SpanStartOption
		if a.N == 1 { // the others are few, and what keeps theirs must not find a later one's there
			attrs, options = c.room.request[:0], c.room.options[:0]
		}
		attrs = t.attributes.ofRequest(attrs, a.Request, c.labels.address, c.labels.port, resends)
		options = append(options, t.client, trace.WithAttributes(attrs...))
		ctx, c.attempt = tracer.Start(c.within(ctx), t.attributes.attemptName(a.Request), options...)
	}
	c.running = ctx
	t.propagator().Inject(ctx, carrier{propagation.HeaderCarrier(a.Request.Header)})
	return ctx
}

func (t *telemetry) attemptDone(ctx context.Context, a steadyhttp.Attempt) {
	c := t.callOf(ctx)
	if c == nil || c.answers == a.N {
		return
	}
	c.answers = a.N
	c.note(&a)
	if s, ok := ctx.Value(sendingKey{}).(*sending); ok {
		s.answered(&t.attributes, a.Verdict)
	}
	c.answered(&t.attributes, &a)
	if a.Stop != "" {
		if a.Stop == steadyhttp.StopBudget && !inherited(&a) {
			t.metrics.budgetRefusal(ctx)
		}
		// At once: the caller may end its span before it closes the body.
		errorType, _ := outcomeOf(c.Context, &t.attributes, &a)
		c.giveUp(&t.attributes, errorType, &a)
		return // the body goes on
	}
	c.endAttempt(time.Time{})
	t.metrics.retry(ctx, &a)
	if c.parent.IsRecording() {
		c.event("steadyhttp.retrying", t.attributes.ofRetry(c.hops+a.N-1, &a)...)
	}
}

// inherited reports whether the Stop is that of an inner Transport.
func inherited(a *steadyhttp.Attempt) bool {
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
	var at time.Time // zero: now
	if a.Err == ended.ErrUnclosed {
		// It is long over, and has not failed.
		a.Err, at = nil, a.Answered
	}
	errorType, cancelled := outcomeOf(ctx, &t.attributes, &a)
	labels := callLabels{method: method(a.Request.Method), outcome: outcomeSuccess, errorType: errorType}
	if labels.address = c.address; labels.address == "" {
		labels.address, _ = server(c.request)
	}
	switch {
	case cancelled:
		labels.outcome = outcomeCancelled
	case errorType != "":
		labels.outcome = outcomeFailure
	}
	// Deferred, each of them: a panic in a span's processor, a Route or the text of an error costs
	// none of the others.
	defer func() {
		t.metrics.active.Add(-1)
		duration := time.Duration(-1)
		if !a.Began.IsZero() {
			duration = between(a.Began, at)
		}
		t.metrics.done(ctx, labels, a.N, duration)
	}()
	defer func() { labels.template = t.attributes.template(c.request) }()
	defer c.end(&t.attributes, errorType, &a, at)
	c.bodyEnded(errorType, &a, at)
}

// between returns how long it was from one time to another; zero stands for now.
func between(from, to time.Time) time.Duration {
	if to.IsZero() {
		return time.Since(from)
	}
	return to.Sub(from)
}
