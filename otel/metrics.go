package steadyotel

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/steadyhttp/steadyhttp"
)

// metrics are the instruments of a Config, safe for concurrent use. A tracking ID is never a label:
// each failure has another, and each would be a series for ever. Exemplars lead from a measurement
// to its trace, and so to the ID.
type metrics struct {
	duration metric.Float64Histogram
	request  metric.Float64Histogram // nil where otelhttp has it
	attempts metric.Int64Histogram
	wait     metric.Float64Histogram
	delay    metric.Float64Histogram
	refusals metric.Int64Counter
	silent   bool // nobody will ever collect them
	*series
}

// series are the sets of labels that there are, and what is counted up and down. All News of a
// MeterProvider share them.
type series struct {
	exists    atomic.Bool // budget.refusals has its first point
	observed  sync.Once   // the gauges are
	failures  sync.Mutex  // of attributes: a span has the failures of all their calls
	active    atomic.Int64
	waiting   [len(causes)]atomic.Int64
	hosts     few
	byCall    labels[callLabels]
	byRequest labels[requestLabels]
	byError   labels[errorLabel]
	bySource  labels[sourceLabel]
	byCause   labels[causeLabel]
}

// causes are those of a wait, in the order of series.waiting.
var causes = [...]steadyhttp.WaitCause{
	steadyhttp.WaitGate, steadyhttp.WaitBudget, steadyhttp.WaitBackOff, steadyhttp.WaitServer, steadyhttp.WaitPrepare,
}

// bounds has the series of each MeterProvider, by boundOf. It is the only thing that two News share:
// with a bound of each New's own, a program with a Transport for each of its tenants had none.
var bounds sync.Map

type boundOf struct {
	provider metric.MeterProvider
	limit    int
}

func seriesOf(c Config) *series {
	limit := c.MaxSeries
	if limit <= 0 {
		limit = defaultSeries
	}
	made := &series{
		hosts:  few{limit: maxHosts},
		byCall: labels[callLabels]{limit: limit}, byRequest: labels[requestLabels]{limit: limit},
		byError: labels[errorLabel]{limit: limit}, bySource: labels[sourceLabel]{limit: -1}, byCause: labels[causeLabel]{limit: -1},
	}
	provider := providerOf(c)
	if !reflect.ValueOf(provider).Comparable() {
		return made // it can't be a key
	}
	shared, _ := bounds.LoadOrStore(boundOf{provider, limit}, made)
	return shared.(*series)
}

// maxHosts bounds the hosts that are labels. Most programs call one or two.
const maxHosts = 10

// defaultSeries is Config.MaxSeries where that is 0. With it, all instruments together stay below
// 200.
const defaultSeries = 50

// newMetrics makes the instruments, once for each New: making one takes a lock in the SDK. An error
// of one does not cost the others.
func newMetrics(c Config) *metrics {
	m := &metrics{series: seriesOf(c)}
	meter := meterOf(c)
	var err error
	m.duration, err = meter.Float64Histogram("steadyhttp.call.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of a call, all attempts and waits included, to its body's end."),
		metric.WithExplicitBucketBoundaries(seconds()...))
	report(err)
	if !c.NoAttemptSpans {
		m.request, err = meter.Float64Histogram("http.client.request.duration", metric.WithUnit("s"),
			metric.WithDescription("Duration of HTTP client requests."),
			metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
		report(err)
	}
	m.attempts, err = meter.Int64Histogram("steadyhttp.call.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts of a call."),
		metric.WithExplicitBucketBoundaries(0, 1, 2, 3, 4, 5, 8, 13, 21))
	report(err)
	m.wait, err = meter.Float64Histogram("steadyhttp.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("Waits of a call, as they were: for a gate, the budget, a back-off, the server's time, Prepare."),
		metric.WithExplicitBucketBoundaries(seconds()...))
	report(err)
	m.delay, err = meter.Float64Histogram("steadyhttp.retry.delay", metric.WithUnit("s"),
		metric.WithDescription("Wait before a retry, as it was decided on."),
		metric.WithExplicitBucketBoundaries(seconds()...))
	report(err)
	m.refusals, err = meter.Int64Counter("steadyhttp.budget.refusals", metric.WithUnit("{refusal}"),
		metric.WithDescription("Retries that were not made because the budget for them was spent."))
	report(err)
	_, m.silent = m.duration.(noop.Float64Histogram)
	m.observed.Do(func() { report(m.observe(meter)) })
	m.exist(context.Background())
	return m
}

// observe makes gauges of what is counted up and down. They are collected once for all News that
// share it, and cost a call two additions.
func (s *series) observe(meter metric.Meter) error {
	active, activeErr := meter.Int64ObservableUpDownCounter("steadyhttp.call.active", metric.WithUnit("{call}"),
		metric.WithDescription("Calls under way, waiting or not."))
	waiting, waitingErr := meter.Int64ObservableUpDownCounter("steadyhttp.call.waiting", metric.WithUnit("{call}"),
		metric.WithDescription("Calls that wait."))
	if err := errors.Join(activeErr, waitingErr); err != nil {
		return err
	}
	var labels [len(causes)]metric.MeasurementOption
	for i, cause := range causes {
		labels[i] = metric.WithAttributeSet(attribute.NewSet(waitCause(cause)))
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(active, s.active.Load())
		for i := range causes {
			o.ObserveInt64(waiting, s.waiting[i].Load(), labels[i])
		}
		return nil
	}, active, waiting)
	return err
}

// seconds are the bucket bounds for all that may include a wait for a quota, up to an hour. The
// SDK's own bounds end at ten seconds.
func seconds() []float64 {
	return []float64{
		0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600,
	}
}

// report hands an error to OpenTelemetry's handler. The instrument works all the same.
func report(err error) {
	if err != nil {
		otel.Handle(err)
	}
}

// exist gives the counter of refusals its first point as soon as somebody collects: from nothing to
// one is no increase to Prometheus.
func (m *metrics) exist(ctx context.Context) {
	if !m.exists.Load() && m.refusals.Enabled(ctx) && !m.exists.Swap(true) {
		m.refusals.Add(ctx, 0)
	}
}

// enabled reports whether anybody collects one of the instruments: a view may drop the others.
func (m *metrics) enabled(ctx context.Context) bool {
	return !m.silent && (m.duration.Enabled(ctx) || m.attempts.Enabled(ctx) || m.wait.Enabled(ctx) || m.delay.Enabled(ctx) ||
		m.refusals.Enabled(ctx) || m.times(ctx))
}

// times reports whether somebody collects the durations of attempts.
func (m *metrics) times(ctx context.Context) bool { return m.request != nil && m.request.Enabled(ctx) }

// begun and done count the calls under way.
func (m *metrics) begun(ctx context.Context) {
	m.exist(ctx)
	m.active.Add(1)
}

// begins and waited measure a wait, of which there may be none in the end. Attempts that did not
// wait are not counted as zeros: call.attempts has their number.
func (m *metrics) begins(w steadyhttp.Wait) { m.count(w, 1) }

func (m *metrics) waited(ctx context.Context, w steadyhttp.Wait) {
	m.count(w, -1)
	if w.For >= leastWait {
		m.wait.Record(ctx, w.For.Seconds(), m.byCause.of(causeLabel(w.Cause))...)
	}
}

func (m *metrics) count(w steadyhttp.Wait, n int64) {
	if i := slices.Index(causes[:], w.Cause); i >= 0 {
		m.waiting[i].Add(n)
	}
}

// leastWait is what a wait must take to be in the metric: a gate may announce one that then is
// none.
const leastWait = time.Millisecond

type causeLabel steadyhttp.WaitCause

func (c causeLabel) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{waitCause(steadyhttp.WaitCause(c))}
}

// retry measures the wait before a retry as it was decided on. It may be cut short: by its caller,
// who cancels the call.
func (m *metrics) retry(ctx context.Context, a *steadyhttp.Attempt) {
	if m.delay.Enabled(ctx) {
		m.delay.Record(ctx, a.Wait.Seconds(), m.bySource.of(sourceLabel(source(a)))...)
	}
}

type sourceLabel string

func (s sourceLabel) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{delaySource(string(s))}
}

// budgetRefusal counts StopBudget. No other Stop has a metric of its own; this one tells an outage,
// in which it rises, from a few bad calls.
func (m *metrics) budgetRefusal(ctx context.Context) { m.refusals.Add(ctx, 1) }

// requestLabels are those of one attempt's duration: the conventions', but for url.template, which
// a call's has (docs/http/http-metrics.md).
type requestLabels struct {
	method, address    string
	port, status       int // 0: none
	version, errorType string
}

// attempt measures an attempt that lasted from began to at.
func (m *metrics) attempt(ctx context.Context, l requestLabels, d time.Duration) {
	options := m.byRequest.get(l) // as they nearly always are
	if options == nil {
		l.address = m.hosts.of(l.address)
		if l.address == other {
			l.port = 0
		}
		if http.StatusText(l.status) == "" {
			l.status = 0 // a server can answer with any number; error.type has its class
		}
		coarse := requestLabels{method: other, address: other, status: l.status, errorType: l.errorType}
		coarsest := requestLabels{method: other, address: other, errorType: generalized(l.errorType)}
		options = m.byRequest.of(l, coarse, coarsest)
	}
	m.request.Record(ctx, d.Seconds(), options...)
}

// generalized says no more than whether there was an error.
func generalized(errorType string) string {
	if errorType != "" {
		return other
	}
	return ""
}

func (l requestLabels) attributes() []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 6)
	attrs = append(attrs, semconv.HTTPRequestMethodKey.String(l.method), semconv.ServerAddress(l.address))
	if l.port != 0 {
		attrs = append(attrs, semconv.ServerPort(l.port))
	}
	if l.status != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(l.status))
	}
	if l.version != "" {
		attrs = append(attrs, semconv.NetworkProtocolVersion(l.version))
	}
	return appendErrorType(attrs, l.errorType)
}

func appendErrorType(attrs []attribute.KeyValue, errorType string) []attribute.KeyValue {
	if errorType != "" {
		attrs = append(attrs, semconv.ErrorTypeKey.String(errorType))
	}
	return attrs
}

// The outcomes of a call. A Stop says more, but is no label: twelve of them by ten methods, and by
// the buckets of a histogram, would be thousands of series.
const (
	outcomeSuccess   = "success"
	outcomeFailure   = "failure"
	outcomeCancelled = "cancelled"
)

// callLabels are those of a call's duration. error.type is a label of failures only: by the
// conventions a success has none, and a cancelled call is no failure.
type callLabels struct{ method, address, template, outcome, errorType string }

func (l callLabels) attributes() []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 5)
	attrs = append(attrs, semconv.HTTPRequestMethodKey.String(l.method), semconv.ServerAddress(l.address),
		attribute.String("steadyhttp.outcome", l.outcome))
	if l.template != "" {
		attrs = append(attrs, semconv.URLTemplate(l.template))
	}
	return appendErrorType(attrs, l.errorType)
}

type errorLabel string // "": there was none

func (e errorLabel) attributes() []attribute.KeyValue { return appendErrorType(nil, string(e)) }

// done measures a call of n attempts when it is over. A duration of 0 or less is not known: somebody
// has made a Trace of some of the hooks.
func (m *metrics) done(ctx context.Context, l callLabels, n int, d time.Duration) {
	if m.duration.Enabled(ctx) && d >= 0 {
		options := m.byCall.get(l)
		if options == nil {
			options = m.callOptions(l)
		}
		m.duration.Record(ctx, d.Seconds(), options...)
	}
	if m.attempts.Enabled(ctx) {
		m.attempts.Record(ctx, int64(n), m.byError.of(errorLabel(l.errorType), errorLabel(generalized(l.errorType)))...)
	}
}

func (m *metrics) callOptions(l callLabels) []metric.RecordOption {
	l.address = m.hosts.of(l.address)
	coarse := callLabels{method: other, address: other, outcome: l.outcome, errorType: l.errorType}
	coarsest := callLabels{method: other, address: other, outcome: l.outcome, errorType: generalized(l.errorType)}
	if l.template != "" {
		coarse.template, coarsest.template = other, other
	}
	return m.byCall.of(l, coarse, coarsest)
}
