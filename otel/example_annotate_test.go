package steadyotel_test

import (
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// otelhttpTransport stands for otelhttp.NewTransport(base), which the examples do without: a span
// for each request, in whose context the base is called.
type otelhttpTransport struct {
	base   http.RoundTripper
	tracer oteltrace.Tracer
}

func (t otelhttpTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, span := t.tracer.Start(req.Context(), "HTTP "+req.Method)
	defer span.End()
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err == nil {
		steadyhttp.Check(resp) // reads the body: otelhttp's span ends with it, and so does this one
	}
	return resp, err
}

// Who has otelhttp's spans keeps them, one an attempt: Annotate, below it, puts the service's
// tracking ID on each.
func ExampleConfig_Annotate() {
	exporter := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	config := steadyotel.Config{TracerProvider: provider, NoAttemptSpans: true}
	client := &http.Client{Transport: &steadyhttp.Transport{
		Base:  otelhttpTransport{config.Annotate(notFound{}), provider.Tracer("otelhttp")},
		Trace: steadyotel.New(config),
	}}
	resp, err := client.Get("https://api.security.microsoft.com/api/machines/123123123")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	for _, span := range exporter.GetSpans() {
		for _, a := range span.Attributes {
			if a.Key == "steadyhttp.error.target" {
				fmt.Printf("%s: %s\n", span.Name, a.Value.AsString())
			}
		}
	}
	// Output:
	// HTTP GET: 43f4cb08-8fac-4b65-9db1-745c2ae65f3a
	// call GET: 43f4cb08-8fac-4b65-9db1-745c2ae65f3a
}
