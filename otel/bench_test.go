package steadyotel_test

import (
	"net/http"
	"testing"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

type constant struct{}

func (constant) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}, nil
}

// BenchmarkCall puts a call without hooks beside the same call with them. internal/bench has
// otelhttp on the same work.
func BenchmarkCall(b *testing.B) {
	recording := sdktrace.NewTracerProvider()
	reader := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	providers := func(t trace.TracerProvider, m metric.MeterProvider) *steadyhttp.Trace {
		return steadyotel.New(steadyotel.Config{TracerProvider: t, MeterProvider: m})
	}
	for _, kind := range []struct {
		name  string
		trace *steadyhttp.Trace
	}{
		{"without", nil},
		{"noop", providers(noop.NewTracerProvider(), metricnoop.NewMeterProvider())},
		{"unset", providers(nil, nil)},
		{"metrics", providers(noop.NewTracerProvider(), reader)},
		{"spans", providers(recording, metricnoop.NewMeterProvider())},
		{"both", providers(recording, reader)},
	} {
		b.Run(kind.name, func(b *testing.B) {
			rt := &steadyhttp.Transport{Base: constant{}, Trace: kind.trace}
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "https://api.example/api/machines/1?$top=10", nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Set("Accept", "application/json")
			b.ReportAllocs()
			for b.Loop() {
				resp, err := rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
