package steadyotel_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Programs set the global providers up; here the spans stay in memory. The tracking ID is on the
// attempt's span, and on that of the call.
func ExampleNew() {
	exporter := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	client := &http.Client{Transport: &steadyhttp.Transport{
		Base: notFound{},
		Trace: steadyhttp.Join(
			steadyotel.New(steadyotel.Config{TracerProvider: provider, TargetKey: "target"}),
			steadyhttp.Log(slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))),
		),
	}}
	resp, err := client.Get("https://api.security.microsoft.com/api/machines/123123123")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	for _, span := range exporter.GetSpans() {
		for _, a := range span.Attributes {
			if a.Key == "target" {
				fmt.Printf("%s: %s\n", span.Name, a.Value.AsString())
			}
		}
	}
	// Output:
	// level=WARN msg="giving up" method=GET url=https://api.security.microsoft.com/api/machines/123123123 attempt=1 status=404 code=ResourceNotFound tracking_id=43f4cb08-8fac-4b65-9db1-745c2ae65f3a stop=permanent
	// GET: 43f4cb08-8fac-4b65-9db1-745c2ae65f3a
	// call GET: 43f4cb08-8fac-4b65-9db1-745c2ae65f3a
}

type notFound struct{}

func (notFound) RoundTrip(req *http.Request) (*http.Response, error) {
	const body = `{"error":{"code":"ResourceNotFound","message":"Machine 123123123 was not found","target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func ExampleObserveQuotas() {
	machines := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}}
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	registration, err := steadyotel.ObserveQuotas(steadyotel.Config{MeterProvider: provider}, func(yield func(string, quota.State) bool) {
		yield("machines", machines.State())
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer registration.Unregister()

	var collected metricdata.ResourceMetrics
	reader.Collect(context.Background(), &collected)
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if m.Name == "steadyhttp.quota.free" {
			for _, point := range m.Data.(metricdata.Gauge[int64]).DataPoints {
				window, _ := point.Attributes.Value("steadyhttp.quota.window")
				fmt.Println(window.AsString(), point.Value)
			}
		}
	}
	// Unordered output:
	// minute 100
	// hour 1500
}
