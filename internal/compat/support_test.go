package compat

import (
	"context"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/cenkalti/backoff/v4"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/steadyhttp/steadyhttp"
)

const (
	refused  = `{"error":{"code":"TooManyRequests","message":"slow down","target":"11111111-8fac-4b65-9db1-745c2ae65f3a"}}`
	notFound = `{"error":{"code":"ResourceNotFound","message":"no such machine","target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`
)

// service answers with one scripted answer after the other, the last one for ever, and keeps the
// span that each request says it belongs to.
type service struct {
	*httptest.Server
	mu      sync.Mutex // guards what follows
	answers []answer
	parents []string // span ids out of traceparent
}

type answer struct {
	status int
	body   string
}

func newService(t *testing.T, answers ...answer) *service {
	s := &service{answers: answers}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	parent := ""
	// version, trace, span, flags (W3C Trace Context section 3.2)
	if header := r.Header.Values("Traceparent"); len(header) == 1 && len(header[0]) == 55 {
		parent = header[0][36:52]
	}
	s.parents = append(s.parents, parent)
	s.mu.Unlock()
	w.WriteHeader(a.status)
	w.Write([]byte(a.body))
}

// recorder is the SDK with everything kept in memory.
type recorder struct {
	exporter *tracetest.InMemoryExporter
	tracers  *sdktrace.TracerProvider
	reader   *sdkmetric.ManualReader
	meters   *sdkmetric.MeterProvider
}

func newRecorder(t *testing.T) *recorder {
	r := &recorder{exporter: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	r.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.exporter))
	r.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))
	t.Cleanup(func() {
		r.tracers.Shutdown(context.WithoutCancel(t.Context()))
		r.meters.Shutdown(context.WithoutCancel(t.Context()))
	})
	return r
}

// spans returns the ended spans of a scope, in the order of their ends.
func (r *recorder) spans(scope string) []tracetest.SpanStub {
	var found []tracetest.SpanStub
	for _, s := range r.exporter.GetSpans() {
		if s.InstrumentationScope.Name == scope {
			found = append(found, s)
		}
	}
	return found
}

func attributeOf(attrs []attribute.KeyValue, key attribute.Key) string {
	for _, a := range attrs {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

func spanID(s tracetest.SpanStub) string {
	id := s.SpanContext.SpanID()
	return hex.EncodeToString(id[:])
}

// atOnce retries without a wait.
func atOnce() steadyhttp.Policy {
	return steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return &backoff.ZeroBackOff{} }, Budget: &steadyhttp.Budget{Max: -1}}
}
