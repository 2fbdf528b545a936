package bench

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// answer answers every request with the same status, with no more work than a RoundTripper must do.
type answer int

func (a answer) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(a), Body: http.NoBody, Request: req, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}, nil
}

// native makes rt what an *http.Transport sends requests with, as nearly all programs have one at
// the bottom.
func native(rt http.RoundTripper) *http.Transport {
	base := &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	base.RegisterProtocol("https", rt)
	return base
}

// spanKind is a way to make one CLIENT span and the metrics of one call.
type spanKind struct {
	name string
	rt   http.RoundTripper
}

// recording reports whether it makes spans. Where nothing does, the caller has none either: it would
// get the events.
func (k spanKind) recording() bool {
	return k.name == "otelhttp" || strings.Contains(k.name, "steadyotel")
}

// spanKinds are otelhttp's way and ours, on the same base. Those without are there to be taken off:
// otelhttp does not retry anything.
func spanKinds(base http.RoundTripper) ([]spanKind, trace.Tracer) {
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{}))
	// Of the metrics, the one that both have: otelhttp's other tells of request bodies, ours of calls.
	same := func(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
		return sdkmetric.Stream{Aggregation: sdkmetric.AggregationDrop{}}, i.Name != "http.client.request.duration"
	}
	reader := sdkmetric.WithReader(sdkmetric.NewManualReader())
	meters := sdkmetric.NewMeterProvider(reader, sdkmetric.WithView(same))
	all := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	hooks := func(t trace.TracerProvider, m metric.MeterProvider) *steadyhttp.Trace {
		return steadyotel.New(steadyotel.Config{TracerProvider: t, MeterProvider: m, Propagator: propagation.TraceContext{}})
	}
	return []spanKind{
		{"bare", base},
		{"otelhttp", otelhttp.NewTransport(base, otelhttp.WithTracerProvider(tracers), otelhttp.WithMeterProvider(meters),
			otelhttp.WithPropagators(propagation.TraceContext{}))},
		{"steady", &steadyhttp.Transport{Base: base}},
		{"steady+noop", &steadyhttp.Transport{Base: base, Trace: hooks(tracenoop.NewTracerProvider(), metricnoop.NewMeterProvider())}},
		{"steady+steadyotel", &steadyhttp.Transport{Base: base, Trace: hooks(tracers, meters)}},
		{"steady+steadyotel, all metrics", &steadyhttp.Transport{Base: base, Trace: hooks(tracers, all)}},
	}, tracers.Tracer("caller")
}

// spanRequest is a call's request below a span that the caller has; without one there would be two
// spans to compare with one.
func spanRequest(tb testing.TB, tracer trace.Tracer, caller bool) *http.Request {
	ctx := tb.Context()
	if caller {
		var span trace.Span
		ctx, span = tracer.Start(ctx, "caller")
		tb.Cleanup(func() { span.End() })
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example/api/machines/1?$top=10", nil)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer x")
	req.Header.Set("Accept", "application/json")
	return req
}

// BenchmarkSpans compares one CLIENT span and one call's metrics: otelhttp's, and ours.
func BenchmarkSpans(b *testing.B) {
	for name, base := range map[string]http.RoundTripper{"native": native(answer(http.StatusOK)), "other": answer(http.StatusOK)} {
		kinds, tracer := spanKinds(base)
		for _, kind := range kinds {
			b.Run(name+"/"+kind.name, func(b *testing.B) {
				req := spanRequest(b, tracer, kind.recording())
				b.ReportAllocs()
				for b.Loop() {
					spanCall(b, kind.rt, req)
				}
			})
		}
	}
}

func spanCall(tb testing.TB, rt http.RoundTripper, req *http.Request) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
}

// discard is an exporter's place without an exporter.
type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }
