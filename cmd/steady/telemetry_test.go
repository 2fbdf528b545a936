package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metricscollector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracecollector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// receiver is a collector for OTLP/HTTP, on a base path of its own.
type receiver struct {
	url string

	mu       sync.Mutex // guards what follows
	wrong    []string   // about requests
	services map[string]bool
	spans    []*tracepb.Span
	metrics  map[string]*metricspb.Metric // the last of each name
	coding   map[string]int               // requests by Content-Encoding
}

func newReceiver(t *testing.T, serve func(http.Handler) *httptest.Server) *receiver {
	r := &receiver{services: make(map[string]bool), metrics: make(map[string]*metricspb.Metric), coding: make(map[string]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /base/v1/traces", func(w http.ResponseWriter, req *http.Request) {
		var sent tracecollector.ExportTraceServiceRequest
		if r.read(req, &sent) {
			r.takeSpans(&sent)
		}
		answer(w, &tracecollector.ExportTraceServiceResponse{})
	})
	mux.HandleFunc("POST /base/v1/metrics", func(w http.ResponseWriter, req *http.Request) {
		var sent metricscollector.ExportMetricsServiceRequest
		if r.read(req, &sent) {
			r.takeMetrics(&sent)
		}
		answer(w, &metricscollector.ExportMetricsServiceResponse{})
	})
	server := serve(mux)
	t.Cleanup(server.Close)
	r.url = server.URL + "/base"
	return r
}

func (r *receiver) read(req *http.Request, into proto.Message) bool {
	body := io.Reader(req.Body)
	coding := req.Header.Get("Content-Encoding")
	var err error
	if coding == "gzip" {
		body, err = gzip.NewReader(body)
	}
	var content []byte
	if err == nil {
		content, err = io.ReadAll(body)
	}
	if err == nil {
		err = proto.Unmarshal(content, into)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.coding[coding]++
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	if kind := req.Header.Get("Content-Type"); kind != "application/x-protobuf" {
		r.wrong = append(r.wrong, "Content-Type "+kind)
	}
	if req.Header.Get("Authorization") != "" {
		r.wrong = append(r.wrong, "a header that nobody has set")
	}
	return err == nil
}

func (r *receiver) takeSpans(sent *tracecollector.ExportTraceServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range sent.GetResourceSpans() {
		r.services[service(from.GetResource())] = true
		for _, scope := range from.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
}

func (r *receiver) takeMetrics(sent *metricscollector.ExportMetricsServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range sent.GetResourceMetrics() {
		r.services[service(from.GetResource())] = true
		for _, scope := range from.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				r.metrics[m.GetName()] = m
			}
		}
	}
}

func answer(w http.ResponseWriter, content proto.Message) {
	w.Header().Set("Content-Type", "application/x-protobuf")
	body, _ := proto.Marshal(content)
	w.Write(body)
}

func service(r *resourcepb.Resource) string { return attributeOf(r.GetAttributes(), "service.name") }

// attributeOf returns the text of an attribute, "" if there is none.
func attributeOf(list []*commonpb.KeyValue, key string) string {
	for _, a := range list {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// number returns a row's number in the steadyhttp column of the demo's table.
func number(t *testing.T, out, label string) int {
	t.Helper()
	_, _, text := cells(t, out, label)
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("the row %q has %q", label, text)
	}
	return n
}

// documented are the metrics that package steadyotel promises.
func documented() []string {
	return []string{
		"steadyhttp.call.duration", "steadyhttp.call.attempts", "steadyhttp.wait.duration", "steadyhttp.retry.delay",
		"steadyhttp.call.active", "steadyhttp.call.waiting", "http.client.request.duration",
		"steadyhttp.budget.refusals", "steadyhttp.quota.used", "steadyhttp.quota.free", "steadyhttp.quota.limit", "steadyhttp.quota.waiting",
	}
}

// A real collector gets it all: each call with its attempts, the tracking IDs of the report, and
// the metrics.
func TestDemoExportsOverOTLP(t *testing.T) {
	t.Parallel() // it waits for quotas more than it works
	r := newReceiver(t, httptest.NewServer)
	code, out, progress := steady(t, "demo", "-machines", "4", "-otlp", r.url+"/")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, progress)
	}
	if len(r.wrong) > 0 || len(r.services) != 1 || !r.services["steady demo"] {
		t.Errorf("from the services %v, wrong: %q", r.services, r.wrong)
	}
	if want := "-otlp: " + strconv.Itoa(len(r.spans)) + " spans and " + strconv.Itoa(len(r.metrics)) + " metrics went to " + r.url; !strings.Contains(progress, want) {
		t.Errorf("no %q in %q", want, progress)
	}
	r.checkSpans(t, out)
	for _, f := range failedOutcomes(t, out) {
		r.checkFailure(t, f)
	}
	r.checkMetrics(t, number(t, out, "calls"))
	if strings.Contains(out, "as OpenTelemetry has it") {
		t.Error("nobody asked for the tree")
	}
}

// checkSpans looks at what all spans have in common: one for each call, and below it one for each
// of its attempts.
func (r *receiver) checkSpans(t *testing.T, out string) {
	calls, attempts := make(map[string]*tracepb.Span), 0
	for _, s := range r.spans {
		if s.GetKind() == tracepb.Span_SPAN_KIND_INTERNAL {
			calls[hex.EncodeToString(s.GetSpanId())] = s
			if len(s.GetParentSpanId()) != 0 || !strings.HasPrefix(s.GetName(), "call ") {
				t.Errorf("the call's span %q has a parent, or is none", s.GetName())
			}
		}
	}
	for _, s := range r.spans {
		switch s.GetKind() {
		case tracepb.Span_SPAN_KIND_INTERNAL:
		case tracepb.Span_SPAN_KIND_CLIENT:
			attempts++
			call := calls[hex.EncodeToString(s.GetParentSpanId())]
			if call == nil || !bytes.Equal(call.GetTraceId(), s.GetTraceId()) || call.GetName() != "call "+s.GetName() {
				t.Errorf("the attempt's span %q has the parent %v", s.GetName(), call)
				continue
			}
			if s.GetStartTimeUnixNano() < call.GetStartTimeUnixNano() || s.GetEndTimeUnixNano() > call.GetEndTimeUnixNano() {
				t.Errorf("the attempt's span %q is not within its call's", s.GetName())
			}
		default:
			t.Errorf("the span %q has the kind %v", s.GetName(), s.GetKind())
		}
	}
	if want := number(t, out, "calls"); len(calls) != want {
		t.Errorf("%d calls, want %d", len(calls), want)
	}
	if want := number(t, out, "calls") + number(t, out, "retries"); attempts != want {
		t.Errorf("%d attempts, want %d", attempts, want)
	}
}

// checkFailure finds a failure of the report by its tracking ID, on the call's span and on that of
// an attempt.
func (r *receiver) checkFailure(t *testing.T, f failedOutcome) {
	var call, attempt *tracepb.Span
	for _, s := range r.spans {
		if attributeOf(s.GetAttributes(), "steadyhttp.error.target") != f.target {
			continue
		}
		if s.GetKind() == tracepb.Span_SPAN_KIND_INTERNAL {
			call = s
		} else {
			attempt = s
		}
	}
	if call == nil || attempt == nil || !bytes.Equal(attempt.GetParentSpanId(), call.GetSpanId()) {
		t.Errorf("the failure %v is not on the spans %v and %v", f, call, attempt)
		return
	}
	want := "call " + f.method + " " + defender.Route(&http.Request{Method: f.method, URL: &url.URL{Path: f.path}})
	if call.GetName() != want || !strings.HasSuffix(attributeOf(call.GetAttributes(), "url.full"), f.path) ||
		call.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("the failure %v, of %s, is on %v", f, want, call)
	}
}

// checkMetrics wants metrics that are documented only, those among them that every run has, and
// each call counted once.
func (r *receiver) checkMetrics(t *testing.T, calls int) {
	for name := range r.metrics {
		if !slices.Contains(documented(), name) {
			t.Errorf("the metric %s is not documented", name)
		}
	}
	for _, name := range []string{"steadyhttp.call.attempts", "steadyhttp.quota.used", "steadyhttp.quota.free", "steadyhttp.quota.limit", "steadyhttp.quota.waiting"} {
		if r.metrics[name] == nil {
			t.Errorf("no metric %s", name)
		}
	}
	counted := 0
	for _, point := range r.metrics["steadyhttp.call.duration"].GetHistogram().GetDataPoints() {
		counted += int(point.GetCount())
	}
	if counted != calls {
		t.Errorf("%d calls are in call.duration, want %d", counted, calls)
	}
	families := make(map[string]bool)
	for _, point := range r.metrics["steadyhttp.quota.used"].GetGauge().GetDataPoints() {
		families[attributeOf(point.GetAttributes(), "steadyhttp.quota.name")] = true
	}
	if !families["machines"] || len(families) < 5 {
		t.Errorf("the quotas of %v were observed", families)
	}
}

// observedCall makes one call, which gets this status and is told to what the flags ask for. It
// returns that, and what was said at the end.
func observedCall(t *testing.T, ctx context.Context, status int, flush time.Duration, flags ...string) (observed *telemetry, said string) {
	t.Helper()
	o, err := parseDemo(flags, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if observed, err = newTelemetry(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	observed.flush = cmp.Or(flush, observed.flush)
	answering := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Body: http.NoBody, Request: req}, nil
	})
	client := &http.Client{Transport: &steadyhttp.Transport{Base: answering, Trace: observed.trace()}}
	if resp, err := client.Get("http://api.example/api/machines/7"); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	var progress bytes.Buffer
	observed.close(ctx, &progress)
	return observed, progress.String()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// The tree needs no collector, and a demo with neither no SDK.
func TestTraceAlone(t *testing.T) {
	observed, said := observedCall(t, t.Context(), 404, 0, "-trace")
	if tree := printed(observed.last.call()); said != "" || observed.collector != nil || !strings.Contains(tree, "call GET /api/machines/{id} ") {
		t.Errorf("said %q, and the tree is\n%s", said, tree)
	}
	if observed, err := newTelemetry(t.Context(), demoOptions{}); observed != nil || err != nil || observed.trace() != nil {
		t.Errorf("got %v and error %v", observed, err)
	}
}

// What the exporters are told by their own variables holds.
func TestExportersHonourVariables(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off") // not an exporter's: all spans go
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "60000")
	r := newReceiver(t, httptest.NewServer)
	if _, said := observedCall(t, t.Context(), 204, 0, "-otlp", r.url); said != "-otlp: 2 spans and 6 metrics went to "+r.url+"\n" {
		t.Errorf("said %q", said)
	}
	if len(r.wrong) > 0 || !r.services["mine"] || len(r.services) != 1 || r.coding["gzip"] != 2 || len(r.coding) != 1 {
		t.Errorf("from %v, coded %v, wrong: %q", r.services, r.coding, r.wrong)
	}
}

func TestExportOverTLS(t *testing.T) {
	var server *httptest.Server
	r := newReceiver(t, func(h http.Handler) *httptest.Server {
		server = httptest.NewTLSServer(h)
		return server
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", file)
	if _, said := observedCall(t, t.Context(), 204, 0, "-otlp", r.url); !strings.HasPrefix(said, "-otlp: 2 spans and 6 metrics went to https://") {
		t.Errorf("said %q", said)
	}

	// The same variable makes no sense for one without encryption.
	code, out, said := steady(t, "demo", "-otlp", "http://127.0.0.1:1")
	if code != 1 || out != "" || !strings.Contains(said, "-otlp can't be set up: ") || !strings.Contains(said, "OTEL_EXPORTER_OTLP_*") {
		t.Errorf("exit code %d, said %q", code, said)
	}
}

// Whatever the collector does, one line says so, and it ends.
func TestBadCollectors(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve http.HandlerFunc
		flush time.Duration
		says  string
	}{
		{"not found", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no\nsuch \x1b[2Jthing", 404) }, 0, ": traces export: failed to send to http://"},
		{"rejects", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, &tracecollector.ExportTraceServiceResponse{PartialSuccess: &tracecollector.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "too old"}})
		}, 0, "too old"},
		{"overloaded", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
		}, 0, "retry-able"},
		{"silent", func(_ http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body) // else nobody notices that the client has gone
			<-req.Context().Done()
		}, 50 * time.Millisecond, "0 spans and 0 metrics went to "},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(c.serve)
			defer server.Close()
			_, said := observedCall(t, t.Context(), 204, c.flush, "-otlp", server.URL)
			if !strings.HasPrefix(said, "steady: -otlp: 0 spans and 0 metrics went to "+server.URL) && c.name != "rejects" || !strings.Contains(said, c.says) {
				t.Errorf("said %q", said)
			}
			if line, ended := strings.CutSuffix(said, "\n"); !ended || strings.ContainsAny(line, "\n\r\x1b") {
				t.Errorf("not one line: %q", said)
			}
		})
	}
}

// An interrupted demo doesn't wait for a collector, and has nothing to say about it.
func TestInterruptedExport(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	}))
	defer silent.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	if _, said := observedCall(t, ctx, 204, 0, "-otlp", silent.URL); said != "" {
		t.Errorf("said %q", said)
	}
}

func TestCollectorURL(t *testing.T) {
	for _, text := range []string{"", "127.0.0.1:4318", "localhost:4318", "//localhost:4318", "/v1", "grpc://localhost:4317", "http://", "http:///v1", "http://:4318", "http://a b"} {
		code, _, said := steady(t, "demo", "-otlp", text)
		if code != 2 || !strings.Contains(said, `-otlp is "`+text+`"; use a base URL such as http://127.0.0.1:4318`) {
			t.Errorf("%q: exit code %d, said %q", text, code, said)
		}
	}
	for _, text := range []string{"http://user:hidden@localhost", "http://hidden@localhost:x", "http://localhost?key=hidden", "http://localhost/?", "http://localhost/#hidden"} {
		code, _, said := steady(t, "demo", "-otlp", text)
		if code != 2 || !strings.Contains(said, "-otlp has a ") || !strings.Contains(said, "http://127.0.0.1:4318") || strings.Contains(said, "hidden") {
			t.Errorf("%q: exit code %d, said %q", text, code, said)
		}
	}
	for _, text := range []string{"http://localhost", "HTTPS://collector.example:4318/base/", "http://[::1]:4318"} {
		if _, err := parseCollector(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}
