package compat

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/otel"
)

// received is what the OpenTelemetry Collector's own receiver made of the protobuf that came over
// HTTP.
type received struct {
	mu    sync.Mutex // guards spans
	spans []ptrace.Span
}

func (r *received) add(_ context.Context, traces ptrace.Traces) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range traces.ResourceSpans().All() {
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				kept := ptrace.NewSpan()
				span.CopyTo(kept)
				r.spans = append(r.spans, kept)
			}
		}
	}
	return nil
}

// newCollector starts the Collector's receiver on a loopback port, and returns its address.
func newCollector(t *testing.T, r *received) string {
	t.Helper()
	sink, err := consumer.NewTraces(r.add)
	if err != nil {
		t.Fatal(err)
	}
	factory := otlpreceiver.NewFactory()
	settings := receiver.Settings{
		ID: component.NewID(factory.Type()),
		TelemetrySettings: component.TelemetrySettings{
			Logger: zap.NewNop(), TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider(),
			Resource: pcommon.NewResource(),
		},
	}
	// The receiver does not tell its port, so that one is looked for. Somebody else may take it in
	// between.
	for range 5 {
		address := freeAddress(t)
		config := factory.CreateDefaultConfig()
		protocols := map[string]any{"protocols": map[string]any{"http": map[string]any{"endpoint": address}}}
		if err := confmap.NewFromStringMap(protocols).Unmarshal(config); err != nil {
			t.Fatal(err)
		}
		collector, err := factory.CreateTraces(t.Context(), settings, config, sink)
		if err != nil {
			t.Fatal(err)
		}
		if err := collector.Start(t.Context(), host{}); err != nil {
			t.Log(err)
			continue
		}
		t.Cleanup(func() { collector.Shutdown(context.WithoutCancel(t.Context())) })
		return address
	}
	t.Fatal("there is no port for the collector")
	return ""
}

type host struct{}

func (host) GetExtensions() map[component.ID]component.Component { return nil }

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// A real collector gets, over OTLP/HTTP, the tracking ID that the service gave a failure.
func TestACollectorReceivesTheTarget(t *testing.T) {
	var got received
	address := newCollector(t, &got)
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpoint(address), otlptracehttp.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	service := defendertest.NewServer(defendertest.Config{Machines: 2})
	defer service.Close()
	transport, err := defender.New(defender.Config{
		Hosts: []string{strings.TrimPrefix(service.URL, "http://")},
		Trace: steadyotel.New(steadyotel.Config{TracerProvider: tracers, Rules: defender.Rules(), Route: defender.Route}),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}

	var targets []string
	for i := range 20 {
		resp, err := client.Get(fmt.Sprintf("%s/api/machines/nobody%d", service.URL, i))
		if err != nil {
			t.Fatal(err)
		}
		failure, ok := steadyhttp.Check(resp).(*steadyhttp.Error)
		resp.Body.Close()
		if !ok || failure.TrackingID == "" {
			t.Fatalf("got %+v", failure)
		}
		targets = append(targets, failure.TrackingID)
	}
	if err := tracers.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	byTarget := make(map[string][]ptrace.Span)
	for _, span := range got.spans {
		target, _ := span.Attributes().Get(targetKey)
		byTarget[target.Str()] = append(byTarget[target.Str()], span)
	}
	for _, target := range targets {
		spans := byTarget[target]
		if len(spans) != 2 {
			t.Fatalf("the collector has %d spans with the target %s, want the attempt's and the call's", len(spans), target)
		}
		attempt, call := spans[0], spans[1] // in the order of their ends
		if attempt.Kind() != ptrace.SpanKindClient || call.Kind() != ptrace.SpanKindInternal || attempt.ParentSpanID() != call.SpanID() {
			t.Errorf("the collector has %v below %v", attempt.Kind(), call.Kind())
		}
		if attempt.Name() != "GET /api/machines/{id}" {
			t.Errorf("the attempt's span is called %q", attempt.Name())
		}
		if kind, _ := attempt.Attributes().Get("error.type"); kind.Str() != "ResourceNotFound" {
			t.Errorf("error.type is %q", kind.Str())
		}
	}
}
