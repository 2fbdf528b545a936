package bench

import (
	"context"
	"net/http"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// answer answers every request with the same status, with no more work than a RoundTripper must do.
type answer int

func (a answer) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(a), Body: http.NoBody, Request: req, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}, nil
}

// BenchmarkSpans compares one CLIENT span and one call's metrics: otelhttp's, and ours, below a
// span that the caller has. The bare Transport is there to be taken off: otelhttp does not retry
// anything.
func BenchmarkSpans(b *testing.B) {
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{}))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	hooks := steadyotel.New(steadyotel.Config{TracerProvider: tracers, MeterProvider: meters})
	base := answer(http.StatusOK)
	for _, kind := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"bare", base},
		{"otelhttp", otelhttp.NewTransport(base, otelhttp.WithTracerProvider(tracers), otelhttp.WithMeterProvider(meters),
			otelhttp.WithPropagators(propagation.TraceContext{}))},
		{"steady", &steadyhttp.Transport{Base: base}},
		{"steady+steadyotel", &steadyhttp.Transport{Base: base, Trace: hooks}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			ctx, span := tracers.Tracer("caller").Start(b.Context(), "caller")
			defer span.End()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example/api/machines/1?$top=10", nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Set("Accept", "application/json")
			b.ReportAllocs()
			for b.Loop() {
				resp, err := kind.rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}

// discard is an exporter's place without an exporter.
type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }
