package compat

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

const (
	theirs    = otelhttp.ScopeName
	ours      = "github.com/steadyhttp/steadyhttp/otel"
	targetKey = "steadyhttp.error.target"
	codeKey   = "steadyhttp.error.code"
)

// below returns a Transport with otelhttp below it, as the documentation of Annotate has it.
func below(r *recorder) *steadyhttp.Transport {
	return &steadyhttp.Transport{
		Base: otelhttp.NewTransport(steadyotel.Config{}.Annotate(http.DefaultTransport), otelhttp.WithTracerProvider(r.tracers),
			otelhttp.WithMeterProvider(r.meters), otelhttp.WithPropagators(propagation.TraceContext{})),
		Policy: atOnce(),
		Trace:  steadyotel.New(steadyotel.Config{TracerProvider: r.tracers, MeterProvider: r.meters, NoAttemptSpans: true}),
	}
}

// otelhttp's spans are the only ones of the attempts, and have what only we know: a 429 twice, then
// an answer.
func TestAnnotateBelowOtelhttp(t *testing.T) {
	service := newService(t, answer{429, refused}, answer{429, refused}, answer{200, "fine"})
	r := newRecorder(t)
	resp, err := (&http.Client{Transport: below(r)}).Post(service.URL+"/api/machines/1/tags", "application/json", strings.NewReader(`{"Value":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	if body := read(t, resp); resp.StatusCode != 200 || body != "fine" {
		t.Fatalf("got %d %q", resp.StatusCode, body)
	}
	attempts := r.spans(theirs)
	if len(attempts) != 3 {
		t.Fatalf("otelhttp has %d spans", len(attempts))
	}
	var ids []string
	for i, span := range attempts {
		ids = append(ids, spanID(span))
		if want := []string{"", "1", "2"}[i]; attributeOf(span.Attributes, "http.request.resend_count") != want {
			t.Errorf("attempt %d has the resend count %q", i+1, attributeOf(span.Attributes, "http.request.resend_count"))
		}
		wantTarget, wantCode := "11111111-8fac-4b65-9db1-745c2ae65f3a", "TooManyRequests"
		if i == 2 {
			wantTarget, wantCode = "", ""
		}
		if got := attributeOf(span.Attributes, targetKey); got != wantTarget {
			t.Errorf("attempt %d has the target %q", i+1, got)
		}
		if got := attributeOf(span.Attributes, codeKey); got != wantCode {
			t.Errorf("attempt %d has the code %q", i+1, got)
		}
	}
	if !slices.Equal(service.parents, ids) {
		t.Errorf("the requests belong to %v, the spans are %v", service.parents, ids)
	}
	calls := r.spans(ours)
	if len(calls) != 1 || calls[0].SpanKind != trace.SpanKindInternal {
		t.Fatalf("ours are %v", calls)
	}
	if calls[0].Status.Code != codes.Unset || attributeOf(calls[0].Attributes, targetKey) == "" {
		t.Errorf("the call's span is %v", calls[0])
	}
	for _, span := range attempts {
		if span.Parent.SpanID() != calls[0].SpanContext.SpanID() {
			t.Error("an attempt is not below its call")
		}
	}
}

// What Annotate has read of an error answer, the layers above read again: the caller gets every
// byte, and the verdict.
func TestAnnotateLeavesTheAnswer(t *testing.T) {
	long := strings.TrimSuffix(notFound, "}") + `,"rest":"` + strings.Repeat("x", 200<<10) + `"}`
	for name, body := range map[string]string{"short": notFound, "long": long, "empty": "", "not JSON": "<html>"} {
		t.Run(name, func(t *testing.T) {
			service := newService(t, answer{404, body})
			r := newRecorder(t)
			resp, err := (&http.Client{Transport: below(r)}).Get(service.URL + "/api/machines/1")
			if err != nil {
				t.Fatal(err)
			}
			said := steadyhttp.Check(resp)
			if got := read(t, resp); got != body {
				t.Errorf("got %d bytes, want %d", len(got), len(body))
			}
			var failure *steadyhttp.Error
			if !errors.As(said, &failure) {
				t.Fatalf("got %v", said)
			}
			for _, span := range append(r.spans(theirs), r.spans(ours)...) {
				if got := attributeOf(span.Attributes, targetKey); got != failure.TrackingID {
					t.Errorf("%s has the target %q, the error %q", span.Name, got, failure.TrackingID)
				}
			}
			if len(r.exporter.GetSpans()) != 2 {
				t.Errorf("there are %d spans", len(r.exporter.GetSpans()))
			}
		})
	}
}

// Around the Transport, otelhttp's span is the caller's: it gets the target and the events, and
// each attempt has a span and a context of its own below it.
func TestOtelhttpAround(t *testing.T) {
	service := newService(t, answer{429, refused}, answer{404, notFound})
	r := newRecorder(t)
	inner := &steadyhttp.Transport{Policy: atOnce(), Trace: steadyotel.New(steadyotel.Config{
		TracerProvider: r.tracers, MeterProvider: r.meters, Propagator: propagation.TraceContext{},
	})}
	outer := otelhttp.NewTransport(inner, otelhttp.WithTracerProvider(r.tracers), otelhttp.WithMeterProvider(r.meters), otelhttp.WithPropagators(propagation.TraceContext{}))
	resp, err := (&http.Client{Transport: outer}).Get(service.URL + "/api/machines/1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() // unread: otelhttp ends its span before it closes the body
	attempts, around := r.spans(ours), r.spans(theirs)
	if len(attempts) != 2 || len(around) != 1 {
		t.Fatalf("%d spans of ours, %d of otelhttp's", len(attempts), len(around))
	}
	for i, span := range attempts {
		if span.SpanKind != trace.SpanKindClient || span.Parent.SpanID() != around[0].SpanContext.SpanID() {
			t.Errorf("attempt %d is %v", i+1, span)
		}
		if service.parents[i] != spanID(span) {
			t.Errorf("request %d belongs to %s, its span is %s", i+1, service.parents[i], spanID(span))
		}
	}
	if got := attributeOf(around[0].Attributes, targetKey); got != "43f4cb08-8fac-4b65-9db1-745c2ae65f3a" {
		t.Errorf("otelhttp's span has the target %q", got)
	}
	var events []string
	for _, e := range around[0].Events {
		events = append(events, e.Name)
	}
	if !slices.Equal(events, []string{"steadyhttp.retrying", "steadyhttp.giving_up"}) {
		t.Errorf("otelhttp's span has the events %v", events)
	}
}

// A request that otelhttp's filter leaves out has no span of its own: nothing is put on that of the
// call instead.
func TestAnnotateBelowAFilter(t *testing.T) {
	service := newService(t, answer{429, refused}, answer{200, "fine"})
	r := newRecorder(t)
	none := otelhttp.WithFilter(func(*http.Request) bool { return false })
	rt := &steadyhttp.Transport{
		Base:   otelhttp.NewTransport(steadyotel.Config{}.Annotate(nil), otelhttp.WithTracerProvider(r.tracers), none),
		Policy: atOnce(),
		Trace:  steadyotel.New(steadyotel.Config{TracerProvider: r.tracers, MeterProvider: r.meters, NoAttemptSpans: true}),
	}
	resp, err := (&http.Client{Transport: rt}).Get(service.URL)
	if err != nil {
		t.Fatal(err)
	}
	read(t, resp)
	spans := r.exporter.GetSpans()
	if len(spans) != 1 || attributeOf(spans[0].Attributes, "http.request.resend_count") != "" {
		t.Errorf("got %v", spans)
	}
}

// otelhttp asks the error itself what to call it.
func TestOtelhttpNamesOurErrors(t *testing.T) {
	r := newRecorder(t)
	closed := gate(func() error { return errors.New("closed for today") })
	outer := otelhttp.NewTransport(&steadyhttp.Transport{Gates: []steadyhttp.Gate{closed}}, otelhttp.WithTracerProvider(r.tracers))
	_, err := (&http.Client{Transport: outer}).Get("https://api.example/machines")
	if !errors.Is(err, steadyhttp.ErrNotSent) {
		t.Fatalf("got %v", err)
	}
	if got := attributeOf(r.spans(theirs)[0].Attributes, "error.type"); got != "refused" {
		t.Errorf("otelhttp calls it %q", got)
	}
}

type gate func() error

func (g gate) Enter(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return nil, g()
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return string(body)
}
