package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/steadyhttp/steadyhttp"
)

// How long the exporters retry. Their own minute is longer than the whole demo.
const (
	firstRetry = 250 * time.Millisecond
	maxRetry   = 2 * time.Second
	retryTime  = 5 * time.Second
)

// queueSize is more spans than nearly any demo makes: calls must not wait for a slow collector.
const queueSize = 1 << 16

// collector is where the spans and metrics of -otlp go, and what became of them.
type collector struct {
	url    *url.URL
	sender sdktrace.SpanExporter

	mu        sync.Mutex // guards what follows
	spans     int        // that it took
	metrics   int        // that it took at the end; each time, they are sent whole
	spanErr   error      // the last
	metricErr error      // of the last time
	complaint error      // the SDK's first
}

// parseCollector reads the flag -otlp. A text with an @ may have a password, and is not printed.
func parseCollector(text string) (*url.URL, error) {
	const example = "use a base URL such as http://127.0.0.1:4318"
	if strings.Contains(text, "@") {
		return nil, fmt.Errorf("-otlp has a user name; %s, and OTEL_EXPORTER_OTLP_HEADERS for credentials", example)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Hostname() == "", u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("-otlp is %q; %s", text, example)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return nil, fmt.Errorf("-otlp has a query or a fragment; %s", example)
	}
	return u, nil
}

// connect makes what sends spans and metrics. Nothing is sent yet.
func (c *collector) connect(ctx context.Context) (sdktrace.SpanProcessor, sdkmetric.Reader, error) {
	spans, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(c.url.JoinPath("v1/traces").String()),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: retryTime,
		}))
	if err != nil {
		return nil, nil, err
	}
	metrics, err := otlpmetrichttp.New(ctx,
		otlpmetrichttp.WithEndpointURL(c.url.JoinPath("v1/metrics").String()),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: retryTime,
		}))
	if err != nil {
		return nil, nil, err
	}
	c.sender = spans
	var often []sdkmetric.PeriodicReaderOption
	if os.Getenv("OTEL_METRIC_EXPORT_INTERVAL") == "" {
		// The SDK's minute would show the quotas only as they are at the end.
		often = append(often, sdkmetric.WithInterval(demoMinute))
	}
	batches := sdktrace.NewBatchSpanProcessor(spanSender{spans, c}, sdktrace.WithBlocking(), sdktrace.WithMaxQueueSize(queueSize))
	return batches, sdkmetric.NewPeriodicReader(metricSender{metrics, c}, often...), nil
}

// hangUp ends exports that are still running after their time.
func (c *collector) hangUp(ctx context.Context) { c.sender.Shutdown(ctx) }

// complain keeps the SDK's first error that no export returns.
func (c *collector) complain(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.complaint == nil {
		c.complaint = err
	}
}

// tell says in one line what was sent. spans and metrics are the errors of the last export, which
// had the time within.
func (c *collector) tell(w io.Writer, within time.Duration, spans, metrics error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := cmp.Or(c.spanErr, c.metricErr, spans, metrics, c.complaint)
	took := fmt.Sprintf("%d spans and %d metrics went to %s", c.spans, c.metrics, steadyhttp.RedactURL(c.url))
	switch {
	case err == nil:
		fmt.Fprintf(w, "-otlp: %s\n", took)
	case c.spanErr == nil && errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(w, "steady: -otlp: %s, and no more in the %v after the run\n", took, within)
	default:
		fmt.Fprintf(w, "steady: -otlp: %s: %s\n", took, steadyhttp.RedactError(err))
	}
}

// spanSender and metricSender keep errors from the SDK, which would hand them to the error handler
// of the whole process.
type spanSender struct {
	sdktrace.SpanExporter
	to *collector
}

func (s spanSender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := s.SpanExporter.ExportSpans(ctx, spans)
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	if err != nil {
		s.to.spanErr = err
	} else {
		s.to.spans += len(spans)
	}
	return nil
}

type metricSender struct {
	sdkmetric.Exporter
	to *collector
}

func (s metricSender) Export(ctx context.Context, all *metricdata.ResourceMetrics) error {
	n := 0
	for _, scope := range all.ScopeMetrics {
		n += len(scope.Metrics)
	}
	if n == 0 {
		return nil // the steadyhttp run has not begun
	}
	err := s.Exporter.Export(ctx, all)
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	if s.to.metricErr = err; err != nil {
		n = 0
	}
	s.to.metrics = n
	return nil
}
