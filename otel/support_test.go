package steadyotel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// roundTripper makes a base transport of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// script returns a base transport that answers each attempt by the next of its steps, and the last
// one for ever.
func script(steps ...roundTripper) roundTripper {
	var sent atomic.Int64
	return func(req *http.Request) (*http.Response, error) {
		if req.Body != nil {
			req.Body.Close()
		}
		if req.Context().Err() != nil {
			return nil, context.Cause(req.Context())
		}
		n := int(sent.Add(1))
		return steps[min(n, len(steps))-1](req)
	}
}

// answers returns a step: a status, a body, and header fields as "Name: value".
func answers(status int, body string, fields ...string) roundTripper {
	return withBody(status, func(*http.Request) io.ReadCloser { return io.NopCloser(strings.NewReader(body)) }, fields...)
}

func withBody(status int, body func(*http.Request) io.ReadCloser, fields ...string) roundTripper {
	return func(req *http.Request) (*http.Response, error) {
		resp := &http.Response{
			StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: body(req), ContentLength: -1, Request: req,
		}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			resp.Header.Add(name, value)
		}
		return resp, nil
	}
}

func failsWith(err error) roundTripper {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// hangs is a step that ends when its request's context does.
var hangs roundTripper = func(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

// hangingBody has a first byte, and then nothing until its request's context ends.
func hangingBody(req *http.Request) io.ReadCloser {
	return io.NopCloser(io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) {
		<-req.Context().Done()
		return 0, context.Cause(req.Context())
	})))
}

// brokenBody returns a body that fails after its first byte.
func brokenBody(err error) func(*http.Request) io.ReadCloser {
	return func(*http.Request) io.ReadCloser {
		return io.NopCloser(io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) { return 0, err })))
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// envelope is an error body as a service writes it. The tracking ID is where it may look like
// anything: a target that does not look like an ID is taken for a property's name.
func envelope(code, id string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"message":"m","innerError":{"request-id":%q}}}`, code, id)
}

type gateFunc func(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error)

func (f gateFunc) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return f(ctx, a)
}

// delay is a gate that holds each attempt up.
func delay(d time.Duration) steadyhttp.Gate {
	return gateFunc(func(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
		time.Sleep(d)
		return nil, nil
	})
}

// refuses is a gate that refuses the attempts from the nth on.
func refuses(n int) steadyhttp.Gate {
	return gateFunc(func(_ context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
		if a.N >= n {
			return nil, errors.New("not now")
		}
		return nil, nil
	})
}

// blocks is a gate at which the attempts from the nth on wait until the call must end.
func blocks(n int) steadyhttp.Gate {
	return gateFunc(func(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
		if a.N < n {
			return nil, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
}

// every is a policy whose back-off is always the same.
func every(d time.Duration) steadyhttp.Policy {
	return steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(d) }}
}

// newRequest makes a request without a body.
func newRequest(t testing.TB, ctx context.Context, method, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// call makes a GET through rt, reads the answer to its end, and returns the error of either.
func call(t testing.TB, ctx context.Context, rt http.RoundTripper) error {
	t.Helper()
	return finish(rt.RoundTrip(newRequest(t, ctx, "GET", "http://api.example/machines/1?key=value")))
}

func finish(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// sdk is an OpenTelemetry SDK whose spans and metrics a test can look at.
type sdk struct {
	recorder *tracetest.SpanRecorder
	tracers  *endCounter
	meters   *sdkmetric.MeterProvider
	reader   *sdkmetric.ManualReader
}

// newSDK returns an SDK that records everything. A test that leaves one of its spans open, or has
// one ended twice, fails.
func newSDK(t testing.TB, options ...sdktrace.TracerProviderOption) *sdk {
	s := &sdk{recorder: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	s.tracers = &endCounter{TracerProvider: sdktrace.NewTracerProvider(append(options, sdktrace.WithSpanProcessor(s.recorder))...)}
	s.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	t.Cleanup(func() {
		for _, span := range s.spans() {
			if n := s.tracers.endsOf(span); n != 1 {
				t.Errorf("span %q was ended %d times", span.Name(), n)
			}
		}
	})
	return s
}

// trace returns the hooks of a Config that records here.
func (s *sdk) trace(c steadyotel.Config) *steadyhttp.Trace {
	c.TracerProvider, c.MeterProvider = s.tracers, s.meters
	return steadyotel.New(c)
}

// caller returns a context with a span of the caller's, which end ends.
func (s *sdk) caller(ctx context.Context) (with context.Context, end func()) {
	ctx, span := s.tracers.Tracer("caller").Start(ctx, "caller")
	return ctx, func() { span.End() }
}

// spans returns all spans in the order of their starts, ended or not.
func (s *sdk) spans() []sdktrace.ReadOnlySpan {
	var spans []sdktrace.ReadOnlySpan
	for _, span := range s.recorder.Started() {
		spans = append(spans, span)
	}
	return spans
}

// attempts returns the spans of attempts.
func (s *sdk) attempts() []sdktrace.ReadOnlySpan {
	return slices.DeleteFunc(s.spans(), func(span sdktrace.ReadOnlySpan) bool { return span.SpanKind() != trace.SpanKindClient })
}

// parent returns the one span that is no attempt's: the call's or the caller's.
func (s *sdk) parent(t testing.TB) sdktrace.ReadOnlySpan {
	t.Helper()
	spans := slices.DeleteFunc(s.spans(), func(span sdktrace.ReadOnlySpan) bool { return span.SpanKind() == trace.SpanKindClient })
	if len(spans) != 1 {
		t.Fatalf("%d spans that are no attempt's, want 1: %s", len(spans), s.outcomes())
	}
	return spans[0]
}

// outcomes tells the status and error.type of each span.
func (s *sdk) outcomes() string {
	var words []string
	for _, span := range s.spans() {
		outcome := span.Name() + ": " + strings.ToLower(span.Status().Code.String())
		if v, ok := value(span.Attributes(), "error.type"); ok {
			outcome += " " + v.AsString()
		}
		words = append(words, outcome)
	}
	return strings.Join(words, "; ")
}

func ended(span sdktrace.ReadOnlySpan) bool { return !span.EndTime().IsZero() }

// events tells the events of a span with their attributes.
func events(span sdktrace.ReadOnlySpan) []string {
	var all []string
	for _, e := range span.Events() {
		all = append(all, e.Name+" "+show(e.Attributes))
	}
	return all
}

func value(attrs []attribute.KeyValue, key attribute.Key) (attribute.Value, bool) {
	i := slices.IndexFunc(attrs, func(a attribute.KeyValue) bool { return a.Key == key })
	if i < 0 {
		return attribute.Value{}, false
	}
	return attrs[i].Value, true
}

// show tells attributes in the order of their keys.
func show(attrs []attribute.KeyValue) string {
	words := make([]string, len(attrs))
	for i, a := range attrs {
		words[i] = fmt.Sprintf("%s=%v", a.Key, a.Value.AsInterface())
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// pick tells the attributes with the given keys, of those that there are.
func pick(attrs []attribute.KeyValue, keys ...attribute.Key) string {
	return show(slices.DeleteFunc(slices.Clone(attrs), func(a attribute.KeyValue) bool { return !slices.Contains(keys, a.Key) }))
}

func assertText(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func assertLines(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	assertText(t, what, strings.Join(got, "\n"), strings.Join(want, "\n"))
}

// endCounter counts how often each span is ended. The SDK passes over a second time in silence.
type endCounter struct {
	trace.TracerProvider
	ends sync.Map // of *atomic.Int64, by span ID
}

func (p *endCounter) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	return &countingTracer{p.TracerProvider.Tracer(name, options...), p}
}

func (p *endCounter) endsOf(span sdktrace.ReadOnlySpan) int64 {
	n, ok := p.ends.Load(span.SpanContext().SpanID())
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

type countingTracer struct {
	trace.Tracer
	provider *endCounter
}

func (t *countingTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	ctx, span := t.Tracer.Start(ctx, name, options...)
	counting := &countingSpan{Span: span}
	t.provider.ends.Store(span.SpanContext().SpanID(), &counting.ends)
	return trace.ContextWithSpan(ctx, counting), counting
}

type countingSpan struct {
	trace.Span
	ends atomic.Int64
}

func (s *countingSpan) End(options ...trace.SpanEndOption) {
	s.ends.Add(1)
	s.Span.End(options...)
}

// collect returns the metrics as they are now, by name.
func (s *sdk) collect(t testing.TB) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := s.reader.Collect(context.WithoutCancel(t.Context()), &all); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]metricdata.Metrics)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
	}
	return found
}

// scope returns the scope of all metrics.
func (s *sdk) scope(t testing.TB) instrumentation.Scope {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := s.reader.Collect(t.Context(), &all); err != nil || len(all.ScopeMetrics) != 1 {
		t.Fatalf("%d scopes, %v", len(all.ScopeMetrics), err)
	}
	return all.ScopeMetrics[0].Scope
}

// points tells the data points of a metric: their labels, and their count and sum, or their value.
func points(t testing.TB, m metricdata.Metrics) []string {
	t.Helper()
	var all []string
	add := func(labels attribute.Set, format string, args ...any) {
		all = append(all, strings.TrimSpace(show(labels.ToSlice())+" "+fmt.Sprintf(format, args...)))
	}
	switch data := m.Data.(type) {
	case nil:
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, "n=%d sum=%v", p.Count, p.Sum)
		}
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, "n=%d sum=%v", p.Count, p.Sum)
		}
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, "%d", p.Value)
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, "%d", p.Value)
		}
	default:
		t.Fatalf("%s is a %T", m.Name, data)
	}
	slices.Sort(all)
	return all
}

// alone reports whether the test has a process of its own, for what is global and can't be set
// back. If not, it runs the test in one.
func alone(t *testing.T) bool {
	t.Helper()
	const variable = "STEADYOTEL_ALONE"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("alone: %v\n%s", err, out)
	}
	return false
}
