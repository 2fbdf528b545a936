package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	steadyotel "github.com/steadyhttp/steadyhttp/otel"
)

// flushTime is how long the demo waits at most, after the run, for a collector to take the rest.
const flushTime = 10 * time.Second

// telemetry is OpenTelemetry's SDK, set up for the steadyhttp run. nil, where no flag asks for it,
// costs nothing.
type telemetry struct {
	config    steadyotel.Config
	tracers   *sdktrace.TracerProvider
	meters    *sdkmetric.MeterProvider
	last      *lastFailed // nil: -trace was not given
	collector *collector  // nil: -otlp was not given
	flush     time.Duration
}

func newTelemetry(ctx context.Context, o demoOptions) (*telemetry, error) {
	if !o.trace && o.otlp == nil {
		return nil, nil
	}
	t := &telemetry{flush: flushTime}
	// The tree and the collector get every span, whatever OTEL_TRACES_SAMPLER says.
	forSpans := []sdktrace.TracerProviderOption{sdktrace.WithSampler(sdktrace.AlwaysSample())}
	var forMetrics []sdkmetric.Option
	if o.trace {
		t.last = &lastFailed{}
		forSpans = append(forSpans, sdktrace.WithSpanProcessor(t.last))
	}
	if o.otlp != nil {
		t.collector = &collector{url: o.otlp}
		otel.SetErrorHandler(otel.ErrorHandlerFunc(t.collector.complain)) // else it prints each error on a line
		toCollector, reader, err := t.collector.connect(ctx)
		if err != nil {
			return nil, fmt.Errorf("-otlp can't be set up: %s; look at the OTEL_EXPORTER_OTLP_* variables", steadyhttp.RedactError(err))
		}
		about := t.describe(ctx)
		forSpans = append(forSpans, sdktrace.WithSpanProcessor(toCollector), sdktrace.WithResource(about))
		forMetrics = append(forMetrics, sdkmetric.WithReader(reader), sdkmetric.WithResource(about))
	}
	t.tracers = sdktrace.NewTracerProvider(forSpans...)
	t.meters = sdkmetric.NewMeterProvider(forMetrics...)
	t.config = steadyotel.Config{
		TracerProvider: t.tracers, MeterProvider: t.meters,
		Route: defender.Route, Rules: defender.Rules(),
	}
	return t, nil
}

// describe says who sends the spans and metrics. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go
// before our own words.
func (t *telemetry) describe(ctx context.Context) *resource.Resource {
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "steady demo")),
		resource.WithFromEnv())
	if err != nil {
		t.collector.complain(err) // of what the variables say; the rest stands
	}
	return about
}

// trace returns the hooks for a Transport's Trace, nil if none were asked for.
func (t *telemetry) trace() *steadyhttp.Trace {
	if t == nil {
		return nil
	}
	return steadyotel.New(t.config)
}

// observe makes gauges of the quotas of a Transport that defender.New has made.
func (t *telemetry) observe(transport *steadyhttp.Transport) {
	if t == nil || t.collector == nil {
		return
	}
	if _, err := steadyotel.ObserveQuotas(t.config, defender.Quotas(transport)); err != nil {
		t.collector.complain(err)
	}
}

// close exports the rest, within t.flush, and tells in a line how that went. An interrupt ends it
// at once.
func (t *telemetry) close(ctx context.Context, progress io.Writer) {
	if t == nil {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, t.flush)
	defer cancel()
	var spans, metrics error
	var group sync.WaitGroup
	group.Go(func() { spans = t.tracers.Shutdown(bounded) })
	group.Go(func() { metrics = t.meters.Shutdown(bounded) })
	group.Wait()
	if t.collector == nil {
		return
	}
	t.collector.hangUp(bounded)
	if ctx.Err() == nil {
		t.collector.tell(progress, t.flush, spans, metrics)
	}
}
