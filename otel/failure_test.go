package steadyotel_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	steadyotel "github.com/steadyhttp/steadyhttp/otel"
)

// The code and the tracking ID on the span around a call's attempts are of one failure, and it says
// of which attempt. On a failed call's they are what Check's error has.
func TestCodeAndIDAreOfOneFailure(t *testing.T) {
	both := func(n int) roundTripper { return answers(503, envelope(fmt.Sprint("C", n), fmt.Sprint("T", n))) }
	code := answers(404, `{"error":{"code":"C9"}}`)
	id := answers(404, `{"error":{"innerError":{"request-id":"T9"}}}`)
	none := answers(404, "")
	busy := answers(503, "")
	ok := answers(200, "")
	lost := failsWith(syscall.ECONNRESET)
	for _, tt := range []struct {
		name  string
		steps []roundTripper
		gates []steadyhttp.Gate
		want  string // attempt, code, ID
	}{
		{"both", []roundTripper{both(1), answers(404, envelope("C2", "T2"))}, nil, "2 C2 T2"},
		{"an ID, then a code alone", []roundTripper{both(1), code}, nil, "2 C9 -"},
		{"a code, then an ID alone", []roundTripper{both(1), id}, nil, "2 - T9"},
		{"an ID, then nothing", []roundTripper{both(1), none}, nil, "- - -"},
		{"an ID, then a lost connection for good", []roundTripper{both(1), lost}, nil, "1 C1 T1"},
		{"nothing, then a lost connection", []roundTripper{both(1), busy, lost}, nil, "- - -"},
		{"an ID, then success", []roundTripper{both(1), ok}, nil, "1 C1 T1"},
		{"two IDs, then success", []roundTripper{both(1), both(2), ok}, nil, "2 C2 T2"},
		{"an ID, nothing, then success", []roundTripper{both(1), busy, ok}, nil, "1 C1 T1"},
		{"an ID, a lost connection, then success", []roundTripper{both(1), lost, ok}, nil, "1 C1 T1"},
		{"an ID, then a broken body", []roundTripper{both(1), withBody(200, brokenBody(syscall.ECONNRESET))}, nil, "- - -"},
		{"nothing at all", []roundTripper{none}, nil, "- - -"},
		{"success", []roundTripper{ok}, nil, "- - -"},
		{"an ID, the retry refused", []roundTripper{both(1)}, []steadyhttp.Gate{refuses(2)}, "1 C1 T1"},
		{"refused at once", []roundTripper{ok}, []steadyhttp.Gate{refuses(1)}, "- - -"},
	} {
		for _, caller := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, caller's span %v", tt.name, caller), func(t *testing.T) {
				s := newSDK(t)
				ctx := t.Context()
				if caller {
					with, end := s.caller(ctx)
					ctx = with
					defer end()
				}
				rt := &steadyhttp.Transport{Base: script(tt.steps...), Gates: tt.gates, Policy: every(0), Trace: s.trace(steadyotel.Config{})}
				resp, err := rt.RoundTrip(newRequest(t, ctx, "GET", "http://api.example/"))
				if err == nil {
					err = steadyhttp.Check(resp)
					finish(resp, nil)
				}
				want := tt.want
				if caller && tt.name == "an ID, then a broken body" {
					want = "1 C1 T1" // he may have ended it by then
				}
				assertText(t, "span", failureOf(s.parent(t)), want)
				if failure, failed := err.(*steadyhttp.Error); failed {
					assertText(t, "error", dash(failure.Code)+" "+dash(failure.TrackingID), want[2:])
				}
			})
		}
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// failureOf tells attempt, code and ID of a span; - for what is not there, or empty.
func failureOf(span sdktrace.ReadOnlySpan) string {
	var words []string
	for _, key := range []string{"steadyhttp.error.attempt", "steadyhttp.error.code", "steadyhttp.error.target"} {
		text := ""
		if v, there := value(span.Attributes(), attribute.Key(key)); there {
			text = v.String()
		}
		words = append(words, dash(text))
	}
	return strings.Join(words, " ")
}

// A caller's span has the failures of many calls: an ID is not lost to one that has none, and never
// stands beside another's code.
func TestCallersSpanHasOneFailureOfItsCalls(t *testing.T) {
	for _, tt := range []struct{ first, then, want string }{
		{envelope("C1", "T1"), envelope("C2", "T2"), "1 C2 T2"},
		{envelope("C1", "T1"), `{"error":{"code":"C2"}}`, "1 C1 T1"},
		{envelope("C1", "T1"), `{"error":{"innerError":{"request-id":"T2"}}}`, "1 - T2"},
		{envelope("C1", "T1"), "", "1 C1 T1"},
		{`{"error":{"code":"C1"}}`, envelope("C2", "T2"), "1 C2 T2"},
		{`{"error":{"code":"C1"}}`, `{"error":{"innerError":{"request-id":"T2"}}}`, "1 - T2"},
		{`{"error":{"code":"C1"}}`, `{"error":{"code":"C2"}}`, "1 C2 -"},
		{"", `{"error":{"code":"C2"}}`, "1 C2 -"},
	} {
		t.Run(tt.first+tt.then, func(t *testing.T) {
			s := newSDK(t)
			// As a program has it: the SDK's own span.
			ctx, span := s.tracers.TracerProvider.Tracer("caller").Start(t.Context(), "caller")
			rt := &steadyhttp.Transport{Base: script(answers(404, tt.first), answers(404, tt.then)), Trace: steadyotel.New(steadyotel.Config{
				TracerProvider: s.tracers.TracerProvider, MeterProvider: s.meters,
			})}
			call(t, ctx, rt)
			call(t, ctx, rt)
			span.End()
			assertText(t, "span", failureOf(s.recorder.Ended()[2]), tt.want)
			for _, kv := range s.recorder.Ended()[2].Attributes() {
				if kv.Value.String() == "" && !strings.HasPrefix(tt.want, "1 - ") {
					t.Errorf("%s is empty", kv.Key)
				}
			}
			s.recorder.Reset()
		})
	}
}

// server.address and server.port are those of the Host header, which may be another than the URL's:
// a name behind a proxy or a tunnel, or a test's.
func TestServerFollowsTheHostHeader(t *testing.T) {
	for _, tt := range []struct{ url, host, want string }{
		{"https://10.0.0.1:8443/", "api.example", "server.address=api.example server.port=443"},
		{"http://10.0.0.1:8080/", "api.example", "server.address=api.example server.port=80"},
		{"http://10.0.0.1/", "api.example:9000", "server.address=api.example server.port=9000"},
		{"http://10.0.0.1/", "[::1]:9000", "server.address=::1 server.port=9000"},
		{"https://10.0.0.1/", "[2001:db8::1]", "server.address=2001:db8::1 server.port=443"},
		{"https://10.0.0.1:8443/", "", "server.address=10.0.0.1 server.port=8443"},
		{"http://10.0.0.1/", "api.example:x", "server.address=api.example:x server.port=80"},
	} {
		s := newSDK(t)
		req := newRequest(t, t.Context(), "GET", tt.url)
		req.Host = tt.host
		finish((&steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(steadyotel.Config{})}).RoundTrip(req))
		for _, span := range s.spans() {
			assertText(t, tt.host, pick(span.Attributes(), "server.address", "server.port"), tt.want)
		}
		for _, labels := range seriesOf(t, s.collect(t)["http.client.request.duration"]) {
			assertText(t, tt.host, pick(labels.ToSlice(), "server.address", "server.port"), tt.want)
		}
	}
}

// Spans and metrics say by which version of which conventions they were made.
func TestScope(t *testing.T) {
	s := newSDK(t)
	registration, err := steadyotel.ObserveQuotas(steadyotel.Config{MeterProvider: s.meters}, states(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer registration.Unregister()
	call(t, t.Context(), &steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(steadyotel.Config{})})
	const name = "github.com/steadyhttp/steadyhttp/otel"
	for _, span := range s.spans() {
		if scope := span.InstrumentationScope(); scope.Name != name || scope.Version == "" || scope.SchemaURL != semconv.SchemaURL {
			t.Errorf("the span's scope is %+v", scope)
		}
	}
	if scope := s.scope(t); scope.Name != name || scope.Version == "" || scope.SchemaURL != semconv.SchemaURL {
		t.Errorf("the metrics' scope is %+v", scope)
	}
}

// Two telemetries with a provider each, joined: each has its call's span, its attempts below that,
// and its events on it, as if it were alone.
func TestJoinedTelemetriesDoNotMeet(t *testing.T) {
	for _, first := range []steadyotel.CallSpan{steadyotel.CallSpanAuto, steadyotel.CallSpanAlways, steadyotel.CallSpanNever} {
		for _, caller := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q, caller's span %v", first, caller), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					one, two, three := newSDK(t), newSDK(t), newSDK(t)
					ctx := t.Context()
					if caller { // of a fourth
						with, end := newSDK(t).caller(ctx)
						ctx = with
						defer end()
					}
					always := steadyotel.Config{CallSpan: steadyotel.CallSpanAlways}
					second := steadyotel.Config{}
					if caller {
						second = always // Auto has none of its own where there is a caller's
					}
					rt := &steadyhttp.Transport{
						Base: script(answers(503, envelope("C", "T")), answers(200, "body")), Policy: every(time.Second),
						Gates: []steadyhttp.Gate{delay(time.Second)},
						Trace: steadyhttp.Join(one.trace(steadyotel.Config{CallSpan: first}), two.trace(second), three.trace(always)),
					}
					if err := call(t, ctx, rt); err != nil {
						t.Fatal(err)
					}
					for _, s := range []*sdk{two, three} {
						assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: error 503; GET: unset")
						parent := s.parent(t)
						if n := len(parent.Events()); n != 3 { // waited, retrying, waited
							t.Errorf("%d events", n)
						}
						for _, span := range s.attempts() {
							if span.Parent().SpanID() != parent.SpanContext().SpanID() {
								t.Error("an attempt is not below its own call")
							}
						}
						if within := trace.SpanContextFromContext(ctx); parent.Parent().SpanID() != within.SpanID() {
							t.Errorf("the call is below %v, want %v", parent.Parent().SpanID(), within.SpanID())
						}
						assertText(t, "failure", failureOf(parent), "1 C T")
					}
				})
			})
		}
	}
}

// A success whose body the program never closes has its spans and metrics once it is collected: as
// a success that ended with its headers.
func TestASuccessThatNobodyClosesIsTold(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 1<<20))
		<-r.Context().Done()
	}))
	defer server.Close()
	defer server.CloseClientConnections()
	s := newSDK(t)
	rt := &steadyhttp.Transport{Base: server.Client().Transport, Trace: s.trace(steadyotel.Config{})}
	const calls = 10
	for range calls {
		if _, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", server.URL)); err != nil {
			t.Fatal(err)
		}
	}
	lost := time.Now()
	time.Sleep(10 * time.Millisecond) // real: the spans must have ended before it
	told := func() string { return strings.Join(points(t, s.collect(t)["steadyhttp.call.attempts"]), "; ") }
	for deadline := lost.Add(10 * time.Second); told() != "n=10 sum=10" && time.Now().Before(deadline); {
		runtime.GC()
		runtime.Gosched()
	}
	assertText(t, "calls", told(), "n=10 sum=10")
	for _, span := range s.spans() {
		if !ended(span) || span.EndTime().After(lost) || span.EndTime().Before(span.StartTime()) {
			t.Errorf("%s began at %v and ended at %v; nobody had it from %v on", span.Name(), span.StartTime(), span.EndTime(), lost)
		}
	}
	for runtime.Gosched(); len(points(t, s.collect(t)["steadyhttp.call.active"])) == 0; {
	}
	if outcomes := values(t, s.collect(t)["steadyhttp.call.duration"], "steadyhttp.outcome"); strings.Join(outcomes, " ") != "success" {
		t.Errorf("the outcomes are %q", outcomes)
	}
	assertText(t, "an outcome", strings.Split(s.outcomes(), "; ")[0], "call GET: unset")
}

// A call is told with its caller's host, wherever its attempts have gone.
func TestACallHasTheHostOfItsCaller(t *testing.T) {
	for name, hosts := range map[string][2]string{
		"all at home": {"", ""}, "the first elsewhere": {"other.example", ""},
		"the last elsewhere": {"", "other.example"}, "both elsewhere": {"other.example", "third.example"},
	} {
		for _, fails := range []bool{false, true} { // the second attempt, before it begins
			synctest.Test(t, func(t *testing.T) {
				s, n := newSDK(t), 0
				rt := &steadyhttp.Transport{
					Base: script(answers(503, ""), answers(200, "")), Trace: s.trace(steadyotel.Config{}),
					Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
						if host := hosts[min(n, 1)]; host != "" {
							req.URL.Host, req.Host = host, host
						}
						if n++; fails && n > 1 {
							return errors.New("no token")
						}
						return nil
					},
				}
				resp, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", "https://API.example/"))
				if err == nil {
					resp.Body.Close()
				}
				labels := s.collect(t)["steadyhttp.call.duration"].Data.(metricdata.Histogram[float64]).DataPoints[0].Attributes
				assertText(t, name, pick(labels.ToSlice(), "server.address"), "server.address=api.example")
			})
		}
	}
}
