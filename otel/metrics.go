package steadyotel

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/steadyhttp/steadyhttp"
)

// metrics are the instruments of a Config, safe for concurrent use. A tracking ID is never a label:
// each failure has another, and each would be a series for ever. Exemplars lead from a measurement
// to its trace, and so to the ID.
type metrics struct {
	duration metric.Float64Histogram
	attempts metric.Int64Histogram
	gate     metric.Float64Histogram
	delay    metric.Float64Histogram
	refusals metric.Int64Counter

	// To make a set of labels costs more than a measurement, so each is made once. There are few.
	byOutcome labels[outcome]
	byError   labels[string]
	bySource  labels[string]
}

// labels keeps the options of measurements: one set of labels for each key.
type labels[K comparable] struct{ made sync.Map }

func (l *labels[K]) of(key K, attributes func(K) []attribute.KeyValue) []metric.RecordOption {
	if made, ok := l.made.Load(key); ok {
		return made.([]metric.RecordOption)
	}
	options := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes(key)...))}
	l.made.Store(key, options)
	return options
}

// outcome is the key of the labels of a call's duration.
type outcome struct{ method, name string }

func (o outcome) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{method(o.method), attribute.String("steadyhttp.outcome", o.name)}
}

// newMetrics makes the instruments, once for each New: making one takes a lock in the SDK. An error
// of one does not cost the others.
func newMetrics(meter metric.Meter) *metrics {
	m := new(metrics)
	var err error
	m.duration, err = meter.Float64Histogram("steadyhttp.call.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of a call, all attempts and waits included, to its body's end."),
		metric.WithExplicitBucketBoundaries(seconds()...))
	report(err)
	m.attempts, err = meter.Int64Histogram("steadyhttp.call.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts of a call."),
		metric.WithExplicitBucketBoundaries(0, 1, 2, 3, 4, 5, 8, 13, 21))
	report(err)
	m.gate, err = meter.Float64Histogram("steadyhttp.gate.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("Waits of attempts for a gate: a quota, or a limit."),
		metric.WithExplicitBucketBoundaries(seconds()...))
	report(err)
	m.delay, err = meter.Float64Histogram("steadyhttp.retry.delay", metric.WithUnit("s"),
		metric.WithDescription("Wait before a retry."),
		metric.WithExplicitBucketBoundaries(seconds()...))
	report(err)
	m.refusals, err = meter.Int64Counter("steadyhttp.budget.refusals", metric.WithUnit("{refusal}"),
		metric.WithDescription("Retries that were not made because the budget for them was spent."))
	report(err)
	return m
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

// enabled reports whether anybody collects one of the instruments: a view may drop the others.
func (m *metrics) enabled(ctx context.Context) bool {
	return m.duration.Enabled(ctx) || m.attempts.Enabled(ctx) || m.gate.Enabled(ctx) ||
		m.delay.Enabled(ctx) || m.refusals.Enabled(ctx)
}

// gateWait measures one wait for a gate. Attempts that did not wait are not counted as zeros:
// call.attempts has their number.
func (m *metrics) gateWait(ctx context.Context, d time.Duration) {
	m.gate.Record(ctx, d.Seconds())
}

// retry measures the wait before a retry as it was decided on. It may be cut short: by its caller,
// who cancels the call.
func (m *metrics) retry(ctx context.Context, a steadyhttp.Attempt) {
	if m.delay.Enabled(ctx) {
		m.delay.Record(ctx, a.Wait.Seconds(), m.bySource.of(source(a), func(source string) []attribute.KeyValue {
			return []attribute.KeyValue{delaySource(source)}
		})...)
	}
}

// budgetRefusal counts StopBudget. No other Stop has a metric of its own; this one tells an outage,
// in which it rises, from a few bad calls.
func (m *metrics) budgetRefusal(ctx context.Context) { m.refusals.Add(ctx, 1) }

// The outcomes of a call. A Stop says more, but is no label: twelve of them by ten methods, and by
// the buckets of a histogram, would be thousands of series.
const (
	outcomeSuccess   = "success"
	outcomeFailure   = "failure"
	outcomeCancelled = "cancelled"
)

// done measures a call when it is over. error.type is a label of failures only: by the conventions
// a success has none, and a cancelled call is no failure.
func (m *metrics) done(ctx context.Context, a steadyhttp.Attempt, errorType string, cancelled bool) {
	if m.duration.Enabled(ctx) && !a.Began.IsZero() {
		o := outcome{method(a.Request.Method).Value.AsString(), outcomeSuccess}
		switch {
		case cancelled:
			o.name = outcomeCancelled
		case errorType != "":
			o.name = outcomeFailure
		}
		m.duration.Record(ctx, time.Since(a.Began).Seconds(), m.byOutcome.of(o, outcome.attributes)...)
	}
	if m.attempts.Enabled(ctx) {
		if errorType == "" {
			m.attempts.Record(ctx, int64(a.N))
			return
		}
		m.attempts.Record(ctx, int64(a.N), m.byError.of(errorType, func(string) []attribute.KeyValue {
			return []attribute.KeyValue{semconv.ErrorTypeKey.String(errorType)}
		})...)
	}
}
