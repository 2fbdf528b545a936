package steadyotel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/otel"
)

// One CLIENT span per attempt, with the stable attributes and no secret; the call's span has the
// same, and the outcome.
func TestAttributesOnTheWire(t *testing.T) {
	sent := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if sent++; sent == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, "body")
	})
	for _, proto := range []string{"1.1", "2"} {
		t.Run(proto, func(t *testing.T) {
			sent = 0
			server := httptest.NewUnstartedServer(handler)
			server.EnableHTTP2 = proto == "2"
			server.StartTLS()
			defer server.Close()
			s := newSDK(t)
			rt := &steadyhttp.Transport{Base: server.Client().Transport, Policy: every(0), Trace: s.trace(steadyotel.Config{})}

			u, _ := url.Parse(server.URL)
			full := "https://user:secret@" + u.Host + "/api/machines/1?$top=10&key=secret&token#secret"
			if err := finish(rt.RoundTrip(newRequest(t, t.Context(), "GET", full))); err != nil {
				t.Fatal(err)
			}

			request := "http.request.method=GET %s server.address=127.0.0.1 server.port=" + u.Port() +
				"%s url.full=https://REDACTED:REDACTED@" + u.Host + "/api/machines/1?$top=10&key=REDACTED&REDACTED"
			attempts := s.attempts()
			if len(attempts) != 2 {
				t.Fatalf("%d attempts, want 2", len(attempts))
			}
			assertText(t, "first attempt", "error.type=503 "+show(without(attempts[0].Attributes(), "error.type")),
				"error.type=503 "+fmt.Sprintf(request, "http.response.status_code=503 network.protocol.version="+proto, ""))
			assertText(t, "second attempt", show(attempts[1].Attributes()),
				fmt.Sprintf(request, "http.request.resend_count=1 http.response.status_code=200 network.protocol.version="+proto, ""))
			parent := s.parent(t)
			assertText(t, "call", show(parent.Attributes()),
				strings.ReplaceAll(fmt.Sprintf(request, "-", " steadyhttp.attempts=2 steadyhttp.stop=done"), " - ", " "))
			if parent.SpanKind() != trace.SpanKindInternal {
				t.Errorf("the call's span is of kind %v", parent.SpanKind())
			}
			if name := parent.InstrumentationScope().Name; name != "github.com/steadyhttp/steadyhttp/otel" {
				t.Errorf("scope %q", name)
			}
		})
	}
}

func without(attrs []attribute.KeyValue, key attribute.Key) []attribute.KeyValue {
	return slices.DeleteFunc(slices.Clone(attrs), func(a attribute.KeyValue) bool { return a.Key == key })
}

// The conventions fix the types too: a port that is a string is another attribute.
func TestAttributeTypes(t *testing.T) {
	s := newSDK(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, end := s.caller(t.Context())
		defer end()
		rt := &steadyhttp.Transport{Base: script(answers(503, envelope("C", "T")), answers(404, envelope("C", "T"))), Gates: []steadyhttp.Gate{delay(time.Second)}, Trace: s.trace(steadyotel.Config{})}
		call(t, ctx, rt)
		call(t, t.Context(), rt)
	})
	want := map[attribute.Key]attribute.Type{
		"server.port": attribute.INT64, "http.response.status_code": attribute.INT64, "http.request.resend_count": attribute.INT64,
		"steadyhttp.attempts": attribute.INT64, "steadyhttp.wait": attribute.FLOAT64, "steadyhttp.error.attempt": attribute.INT64,
	}
	seen := make(map[attribute.Key]bool)
	check := func(attrs []attribute.KeyValue) {
		for _, a := range attrs {
			seen[a.Key] = true
			kind, known := want[a.Key]
			if !known {
				kind = attribute.STRING
			}
			if a.Value.Type() != kind {
				t.Errorf("%s is a %v, want a %v", a.Key, a.Value.Type(), kind)
			}
		}
	}
	for _, span := range s.spans() {
		check(span.Attributes())
		for _, e := range span.Events() {
			check(e.Attributes)
		}
	}
	for key := range want {
		if !seen[key] {
			t.Errorf("%s was not there to be looked at", key)
		}
	}
}

// server.port is always there: where the URL has none, it is the scheme's.
func TestServerAddressAndPort(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"http://api.example/", "server.address=api.example server.port=80"},
		{"https://api.example/", "server.address=api.example server.port=443"},
		{"https://api.example:8443/", "server.address=api.example server.port=8443"},
		{"http://[::1]:8080/", "server.address=::1 server.port=8080"},
		{"https://[2001:db8::1]/", "server.address=2001:db8::1 server.port=443"},
	} {
		t.Run(tt.url, func(t *testing.T) {
			s := newSDK(t)
			rt := &steadyhttp.Transport{Base: script(answers(200, "")), Trace: s.trace(steadyotel.Config{})}
			if err := finish(rt.RoundTrip(newRequest(t, t.Context(), "GET", tt.url))); err != nil {
				t.Fatal(err)
			}
			for _, span := range s.spans() {
				assertText(t, span.Name(), pick(span.Attributes(), "server.address", "server.port"), tt.want)
			}
		})
	}
}

// network.protocol.version is as the conventions write it, and absent where a base transport does
// not say.
func TestProtocolVersion(t *testing.T) {
	for _, tt := range []struct {
		major, minor int
		want         string
	}{
		{1, 0, "network.protocol.version=1.0"}, {1, 1, "network.protocol.version=1.1"}, {2, 0, "network.protocol.version=2"},
		{3, 0, "network.protocol.version=3"}, {0, 0, ""}, {1, 7777, ""}, {9, 0, ""}, {-1, -1, ""},
	} {
		s := newSDK(t)
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(200, "")(req)
			resp.ProtoMajor, resp.ProtoMinor = tt.major, tt.minor
			return resp, nil
		})
		call(t, t.Context(), &steadyhttp.Transport{Base: base, Trace: s.trace(steadyotel.Config{})})
		assertText(t, fmt.Sprint(tt), pick(s.attempts()[0].Attributes(), "network.protocol.version"), tt.want)
	}
}

// A name has few values: the method and the template, never the path; an unknown method is HTTP,
// and _OTHER as attribute.
func TestNames(t *testing.T) {
	route := func(req *http.Request) string {
		if strings.HasPrefix(req.URL.Path, "/api/machines/") {
			return "/api/machines/{id}"
		}
		return ""
	}
	for _, tt := range []struct {
		name, method, path string
		route              func(*http.Request) string
		span, attrs        string
	}{
		{"no Route", "GET", "/api/machines/1", nil, "GET", "http.request.method=GET"},
		{"Route", "GET", "/api/machines/1", route, "GET /api/machines/{id}", "http.request.method=GET url.template=/api/machines/{id}"},
		{"Route that knows none", "POST", "/api/alerts", route, "POST", "http.request.method=POST"},
		{"empty method", "", "/", nil, "GET", "http.request.method=GET"},
		{"known methods", "QUERY", "/", nil, "QUERY", "http.request.method=QUERY"},
		{"unknown method", "PURGE", "/", nil, "HTTP", "http.request.method=_OTHER http.request.method_original=PURGE"},
		{"methods have a case", "get", "/", nil, "HTTP", "http.request.method=_OTHER http.request.method_original=get"},
		{"unknown method, Route", "PURGE", "/api/machines/1", route, "HTTP /api/machines/{id}",
			"http.request.method=_OTHER http.request.method_original=PURGE url.template=/api/machines/{id}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			rt := &steadyhttp.Transport{Base: script(answers(200, "")), Trace: s.trace(steadyotel.Config{Route: tt.route})}
			req := newRequest(t, t.Context(), tt.method, "http://api.example"+tt.path)
			req.Method = tt.method
			if err := finish(rt.RoundTrip(req)); err != nil {
				t.Fatal(err)
			}
			spans := s.spans()
			assertText(t, "names", s.outcomes(), "call "+tt.span+": unset; "+tt.span+": unset")
			for _, span := range spans {
				assertText(t, span.Name(), pick(span.Attributes(), "http.request.method", "http.request.method_original", "url.template"), tt.attrs)
			}
		})
	}
}

// http.request.resend_count is absent the first time, and counts on over retries and redirects.
func TestResendCount(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string // a status for each sending, "/" for a redirect
		want   string
	}{
		{"once", "200", "-"},
		{"retries", "503 503 503 200", "- 1 2 3"},
		{"redirects", "/ / 200", "- 1 2"},
		{"redirect after a retry", "503 / 200", "- 1 2"},
		{"retry after a redirect", "/ 503 200", "- 1 2"},
		{"both, twice", "503 503 / 503 / 503 200", "- 1 2 3 4 5 6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers := strings.Fields(tt.script)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next := answers[0]
				answers = answers[1:]
				switch next {
				case "/":
					http.Redirect(w, r, "/next", http.StatusFound)
				case "503":
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			}))
			defer server.Close()
			s := newSDK(t)
			client := &http.Client{Transport: &steadyhttp.Transport{Base: server.Client().Transport, Policy: every(0), Trace: s.trace(steadyotel.Config{})}}
			if err := finish(client.Do(newRequest(t, t.Context(), "GET", server.URL))); err != nil {
				t.Fatal(err)
			}
			var counts []string
			for _, span := range s.attempts() {
				count := strings.TrimPrefix(pick(span.Attributes(), "http.request.resend_count"), "http.request.resend_count=")
				if count == "" {
					count = "-"
				}
				counts = append(counts, count)
			}
			assertText(t, "counts", strings.Join(counts, " "), tt.want)
			for _, span := range s.spans() {
				if span.SpanKind() == trace.SpanKindInternal && pick(span.Attributes(), "http.request.resend_count") != "" {
					t.Error("the call's span has a resend_count")
				}
			}
		})
	}
}

// sampler notes with what it was asked, and takes all.
type sampler struct{ asked []string }

func (s *sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	s.asked = append(s.asked, p.Name+" "+show(p.Attributes))
	return sdktrace.AlwaysSample().ShouldSample(p)
}

func (*sampler) Description() string { return "notes" }

// A sampler sees all that is known before the request is sent.
func TestSamplerSeesAttributes(t *testing.T) {
	var asked sampler
	s := newSDK(t, sdktrace.WithSampler(&asked))
	route := func(*http.Request) string { return "/machines/{id}" }
	rt := &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Policy: every(0), Trace: s.trace(steadyotel.Config{Route: route})}
	req := newRequest(t, t.Context(), "PURGE", "https://api.example/machines/1?key=secret")
	req.Header.Set("Idempotency-Key", "1")
	if err := finish(rt.RoundTrip(req)); err != nil {
		t.Fatal(err)
	}
	const request = "http.request.method=_OTHER http.request.method_original=PURGE %sserver.address=api.example server.port=443 " +
		"url.full=https://api.example/machines/1?key=REDACTED url.template=/machines/{id}"
	assertLines(t, "the sampler saw", asked.asked,
		"call HTTP /machines/{id} "+fmt.Sprintf(request, ""),
		"HTTP /machines/{id} "+fmt.Sprintf(request, ""),
		"HTTP /machines/{id} "+fmt.Sprintf(request, "http.request.resend_count=1 "))
}

// Where the sampler says no, nothing is recorded, and the decision goes out with the request.
func TestUnsampled(t *testing.T) {
	s := newSDK(t, sdktrace.WithSampler(sdktrace.NeverSample()))
	var sent string
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = req.Header.Get("Traceparent")
		return answers(404, envelope("C", "T"))(req)
	})
	call(t, t.Context(), &steadyhttp.Transport{Base: base, Trace: s.trace(steadyotel.Config{Propagator: propagation.TraceContext{}})})
	if n := len(s.spans()); n != 0 {
		t.Errorf("%d spans", n)
	}
	if !strings.HasSuffix(sent, "-00") {
		t.Errorf("traceparent %q, want one that is not sampled", sent)
	}
}

// error.type is the code if the Rules list it, for they are a closed set, and else the status, or
// its class if nobody registered it.
func TestErrorType(t *testing.T) {
	rules := &steadyhttp.Rules{
		ByCode:   map[string]steadyhttp.Class{"Known": steadyhttp.Permanent, "Fine": steadyhttp.Success},
		ByStatus: map[int]steadyhttp.Class{302: steadyhttp.Permanent, 418: steadyhttp.Permanent},
	}
	for _, tt := range []struct {
		name  string
		step  roundTripper
		rules *steadyhttp.Rules
		want  string // "": no error
	}{
		{"unknown code", answers(404, envelope("Unknown", "T")), rules, "404"},
		{"known code", answers(404, envelope("Known", "T")), rules, "Known"},
		{"known code, no Rules", answers(404, envelope("Known", "T")), nil, "404"},
		{"known code of a success", answers(404, envelope("Fine", "T")), rules, ""},
		{"no code", answers(404, ""), rules, "404"},
		{"retried status", answers(503, ""), rules, "503"},
		{"unregistered 5xx", answers(599, ""), rules, "5xx"},
		{"unregistered 4xx", answers(499, ""), rules, "4xx"},
		{"failure by rule", answers(302, ""), rules, "302"},
		{"beyond HTTP", answers(999, ""), rules, "_OTHER"},
		{"timeout", failsWith(&net.OpError{Op: "read", Err: timeoutError{}}), rules, "timeout"},
		{"dns", failsWith(&net.DNSError{Name: "api.example", IsNotFound: true}), rules, "dns"},
		{"connect", failsWith(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), rules, "connect"},
		{"connection", failsWith(syscall.ECONNRESET), rules, "connection"},
		{"other", failsWith(errors.New("odd")), rules, "_OTHER"},
		{"neither answer nor error", func(*http.Request) (*http.Response, error) { return nil, nil }, rules, "_OTHER"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			policy := every(0)
			policy.MaxAttempts = 1
			rt := &steadyhttp.Transport{Base: tt.step, Policy: policy, Trace: s.trace(steadyotel.Config{Rules: tt.rules})}
			if tt.rules != nil {
				rt.Classify = tt.rules.Classify
			}
			call(t, t.Context(), rt)
			want := ": error " + tt.want
			if tt.want == "" {
				want = ": unset"
			}
			assertText(t, "outcomes", s.outcomes(), "call GET"+want+"; GET"+want)
		})
	}
}

type timeoutError struct{}

func (timeoutError) Error() string { return "too slow" }
func (timeoutError) Timeout() bool { return true }

// A status says it all; an error does not, and keeps no secret of its URL.
func TestDescriptions(t *testing.T) {
	secret := &url.Error{Op: "Get", URL: "http://user:hidden@api.example/?key=hidden", Err: syscall.ECONNRESET}
	for _, tt := range []struct {
		name string
		step roundTripper
		want string
	}{
		{"status", answers(404, envelope("C", "T")), ""},
		{"error", failsWith(secret), `Get "http://REDACTED:REDACTED@api.example/?key=REDACTED": ` + syscall.ECONNRESET.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			call(t, t.Context(), &steadyhttp.Transport{Base: tt.step, Policy: steadyhttp.Policy{MaxAttempts: 1}, Trace: s.trace(steadyotel.Config{})})
			for _, span := range s.spans() {
				assertText(t, span.Name(), span.Status().Description, tt.want)
			}
		})
	}
}

// The call has a span where the context has none that records, always or never; all attempts are
// siblings under it, or under the caller's.
func TestCallSpan(t *testing.T) {
	for _, tt := range []struct {
		name     string
		callSpan steadyotel.CallSpan
		caller   bool
		want     []string // each span and its parent, and "*" for another trace than the first's
	}{
		{"auto", steadyotel.CallSpanAuto, false, []string{"call GET of -", "GET of call GET", "GET of call GET"}},
		{"auto, caller's", steadyotel.CallSpanAuto, true, []string{"caller of -", "GET of caller", "GET of caller"}},
		{"always", steadyotel.CallSpanAlways, false, []string{"call GET of -", "GET of call GET", "GET of call GET"}},
		{"always, caller's", steadyotel.CallSpanAlways, true, []string{"caller of -", "call GET of caller", "GET of call GET", "GET of call GET"}},
		{"never", steadyotel.CallSpanNever, false, []string{"GET of -", "GET of - *"}},
		{"never, caller's", steadyotel.CallSpanNever, true, []string{"caller of -", "GET of caller", "GET of caller"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			ctx := t.Context()
			if tt.caller {
				with, end := s.caller(ctx)
				ctx = with
				defer end()
			}
			rt := &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Policy: every(0), Trace: s.trace(steadyotel.Config{CallSpan: tt.callSpan})}
			if err := call(t, ctx, rt); err != nil {
				t.Fatal(err)
			}
			spans := s.spans()
			names := make(map[trace.SpanID]string)
			var got []string
			for _, span := range spans {
				names[span.SpanContext().SpanID()] = span.Name()
				parent := "-"
				if span.Parent().IsValid() {
					parent = names[span.Parent().SpanID()]
				}
				line := span.Name() + " of " + parent
				if span.SpanContext().TraceID() != spans[0].SpanContext().TraceID() {
					line += " *"
				}
				got = append(got, line)
			}
			assertLines(t, "spans", got, tt.want...)
		})
	}
}

// A parent in another process can be told nothing: the call has a span of its own, in the trace
// that came in.
func TestRemoteParent(t *testing.T) {
	s := newSDK(t)
	remote := remoteContext(t.Context())
	call(t, remote, &steadyhttp.Transport{Base: script(answers(404, "")), Trace: s.trace(steadyotel.Config{})})
	parent, attempt := s.parent(t), s.attempts()[0]
	if want := trace.SpanContextFromContext(remote); parent.Parent().SpanID() != want.SpanID() || attempt.SpanContext().TraceID() != want.TraceID() {
		t.Errorf("the call is a child of %v in trace %v", parent.Parent().SpanID(), attempt.SpanContext().TraceID())
	}
	if attempt.Parent().SpanID() != parent.SpanContext().SpanID() {
		t.Error("the attempt is not the call's child")
	}
	assertText(t, "outcomes", s.outcomes(), "call GET: error 404; GET: error 404")
}

func remoteContext(ctx context.Context) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5, 6}, TraceFlags: trace.FlagsSampled, Remote: true,
	}))
}

const remoteParent = "00-01020300000000000000000000000000-0405060000000000-01"

// headers is a server that keeps the headers of each request, and answers 503 until the last.
type headers struct {
	*httptest.Server
	sent []http.Header
}

func newHeaders(t *testing.T, attempts int) *headers {
	h := &headers{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.sent = append(h.sent, r.Header.Clone()); len(h.sent) < attempts {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// call makes a call with the given hooks, whose request must come out of it unchanged.
func (h *headers) call(t *testing.T, ctx context.Context, hooks *steadyhttp.Trace) {
	t.Helper()
	req := newRequest(t, ctx, "GET", h.URL)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Traceparent", "the caller's own")
	before := req.Header.Clone()
	rt := &steadyhttp.Transport{Base: h.Client().Transport, Policy: every(0), Trace: hooks}
	if err := finish(rt.RoundTrip(req)); err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(req.Header, before, slices.Equal) {
		t.Errorf("the caller's header was changed to %v", req.Header)
	}
}

// Each attempt's header carries that attempt's own span.
func TestPropagation(t *testing.T) {
	h, s := newHeaders(t, 3), newSDK(t)
	h.call(t, t.Context(), s.trace(steadyotel.Config{Propagator: propagation.TraceContext{}}))
	attempts := s.attempts()
	if len(attempts) != 3 || len(h.sent) != 3 {
		t.Fatalf("%d attempts, %d requests, want 3", len(attempts), len(h.sent))
	}
	for i, span := range attempts {
		want := fmt.Sprintf("00-%s-%s-01", span.SpanContext().TraceID(), span.SpanContext().SpanID())
		assertText(t, fmt.Sprintf("traceparent %d", i+1), strings.Join(h.sent[i]["Traceparent"], ","), want)
	}
}

// Where nobody has set a propagator, no context goes out: neither an attempt's own, nor one that
// came from elsewhere, nor baggage. It is the API's default, and otelhttp's: whoever is called may
// be a stranger.
func TestNoContextToStrangers(t *testing.T) {
	if !alone(t) {
		return // "nobody" is of the whole process
	}
	member, _ := baggage.NewMember("tenant", "1")
	bag, _ := baggage.New(member)
	for name, ctx := range map[string]context.Context{
		"nothing": t.Context(), "remote parent": remoteContext(t.Context()), "baggage": baggage.ContextWithBaggage(t.Context(), bag),
	} {
		h, s := newHeaders(t, 2), newSDK(t)
		h.call(t, ctx, s.trace(steadyotel.Config{}))
		for _, sent := range h.sent {
			assertText(t, name, sent.Get("Traceparent")+sent.Get("Tracestate")+sent.Get("Baggage"), "the caller's own")
		}
		if len(s.attempts()) != 2 {
			t.Errorf("%s: %d attempts' spans", name, len(s.attempts()))
		}
	}
	// It is what otelhttp would do.
	otel.SetTextMapPropagator(propagation.TraceContext{})
	h, s := newHeaders(t, 1), newSDK(t)
	h.call(t, t.Context(), s.trace(steadyotel.Config{}))
	if got := h.sent[0].Get("Traceparent"); !strings.HasPrefix(got, "00-") {
		t.Errorf("with a global propagator, the traceparent is %q", got)
	}
}

// What goes out is the Propagator's choice: nothing if it is empty, baggage only if it has that.
func TestPropagator(t *testing.T) {
	member, _ := baggage.NewMember("tenant", "1")
	bag, _ := baggage.New(member)
	ctx := baggage.ContextWithBaggage(t.Context(), bag)
	compose := propagation.NewCompositeTextMapPropagator
	for _, tt := range []struct {
		name        string
		propagator  propagation.TextMapPropagator
		traceparent bool
		baggage     string
	}{
		{"none", compose(), false, ""},
		{"trace context", compose(propagation.TraceContext{}), true, ""},
		{"baggage", propagation.Baggage{}, false, "tenant=1"},
		{"both", compose(propagation.TraceContext{}, propagation.Baggage{}), true, "tenant=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, s := newHeaders(t, 1), newSDK(t)
			h.call(t, ctx, s.trace(steadyotel.Config{Propagator: tt.propagator}))
			got := h.sent[0].Get("Traceparent")
			want := "the caller's own"
			if tt.traceparent {
				want = fmt.Sprintf("00-%s-%s-01", s.attempts()[0].SpanContext().TraceID(), s.attempts()[0].SpanContext().SpanID())
			}
			assertText(t, "traceparent", got, want)
			assertText(t, "baggage", h.sent[0].Get("Baggage"), tt.baggage)
		})
	}
}

// With nothing set up, nothing is sent and no hook wants to be called; but a context that came from
// elsewhere goes on where there is a propagator.
func TestNothingSetUp(t *testing.T) {
	if !alone(t) {
		return
	}
	hooks := steadyotel.New(steadyotel.Config{})
	if hooks.Enabled(t.Context()) {
		t.Error("enabled with nobody to look on")
	}
	h := newHeaders(t, 2)
	h.call(t, t.Context(), hooks)
	for _, sent := range h.sent {
		assertText(t, "traceparent", sent.Get("Traceparent"), "the caller's own")
	}
	h = newHeaders(t, 2)
	h.call(t, remoteContext(t.Context()), steadyotel.New(steadyotel.Config{Propagator: propagation.TraceContext{}}))
	for _, sent := range h.sent {
		assertText(t, "traceparent, with a remote parent", sent.Get("Traceparent"), remoteParent)
	}
	// The caller's own span is another SDK's matter. It must be told all the same, and is the
	// parent of what follows.
	s := newSDK(t)
	ctx, end := s.caller(t.Context())
	defer end()
	call(t, ctx, &steadyhttp.Transport{Base: script(answers(404, envelope("C", "T"))), Trace: hooks})
	assertLines(t, "caller's events", events(s.parent(t)),
		"steadyhttp.giving_up error.type=404 steadyhttp.attempts=1 steadyhttp.error.code=C steadyhttp.error.target=T steadyhttp.stop=permanent")
}

// A provider that makes no spans still lets a context go on.
func TestNoopProvider(t *testing.T) {
	h := newHeaders(t, 2)
	h.call(t, remoteContext(t.Context()), steadyotel.New(steadyotel.Config{TracerProvider: noop.NewTracerProvider(), Propagator: propagation.TraceContext{}}))
	for _, sent := range h.sent {
		assertText(t, "traceparent", sent.Get("Traceparent"), remoteParent)
	}
}

// What is global counts from when it is set, also for a Transport that was made before.
func TestGlobalsSetLater(t *testing.T) {
	if !alone(t) {
		return
	}
	hooks := steadyotel.New(steadyotel.Config{})
	h, s := newHeaders(t, 1), newSDK(t)
	h.call(t, t.Context(), hooks)

	otel.SetTracerProvider(s.tracers)
	otel.SetMeterProvider(s.meters)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	h = newHeaders(t, 1)
	h.call(t, t.Context(), hooks)
	assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: unset")
	if got := h.sent[0].Get("Traceparent"); !strings.HasPrefix(got, "00-") {
		t.Errorf("traceparent %q", got)
	}
	assertLines(t, "call.attempts", points(t, s.collect(t)["steadyhttp.call.attempts"]), "n=1 sum=1")

	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator())
	h = newHeaders(t, 1)
	h.call(t, t.Context(), hooks)
	assertText(t, "traceparent, with the global propagator empty", h.sent[0].Get("Traceparent"), "the caller's own")
}

// A success' span ends with its response's body, and not before; with it the call's. That of any
// other answer ends as it is delivered.
func TestSpansEndWithTheBody(t *testing.T) {
	noBody := func(*http.Request) io.ReadCloser { return http.NoBody }
	nilBody := func(*http.Request) io.ReadCloser { return nil }
	readAll := func(b io.ReadCloser) { io.Copy(io.Discard, b) }
	for _, tt := range []struct {
		name    string
		step    roundTripper
		already bool // ended when the call returns
		part    func(io.ReadCloser)
		whole   func(io.ReadCloser)
	}{
		{"end", answers(200, "body"), false, func(b io.ReadCloser) { b.Read(make([]byte, 4)) }, readAll},
		{"close", answers(200, "body"), false, nil, func(b io.ReadCloser) { b.Close() }},
		{"close half-way", answers(200, "body"), false, func(b io.ReadCloser) { b.Read(make([]byte, 2)) }, func(b io.ReadCloser) { b.Close() }},
		{"failure", withBody(200, brokenBody(syscall.ECONNRESET)), false, func(b io.ReadCloser) { b.Read(make([]byte, 1)) }, readAll},
		{"failed answer, end", answers(404, "body"), true, func(b io.ReadCloser) { b.Read(make([]byte, 4)) }, readAll},
		{"failed answer, close", answers(404, "body"), true, nil, func(b io.ReadCloser) { b.Close() }},
		{"NoBody", withBody(204, noBody), true, nil, nil},
		{"nil body", withBody(204, nilBody), true, nil, nil},
		{"failed answer with NoBody", withBody(404, noBody), true, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			resp, err := (&steadyhttp.Transport{Base: tt.step, Trace: s.trace(steadyotel.Config{})}).RoundTrip(newRequest(t, t.Context(), "GET", "http://api.example/"))
			if err != nil {
				t.Fatal(err)
			}
			assertEnded := func(when string, want bool) {
				t.Helper()
				for _, span := range s.spans() {
					if ended(span) != want {
						t.Errorf("%s, %s has ended: %v", when, span.Name(), !want)
					}
				}
			}
			assertEnded("after RoundTrip", tt.already)
			if tt.part != nil {
				tt.part(resp.Body)
				assertEnded("half-way", tt.already)
			}
			if tt.whole != nil {
				tt.whole(resp.Body)
			}
			assertEnded("at the end", true)
			// Once more, in every way: newSDK makes sure that nothing is ended twice.
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			resp.Body.Close()
		})
	}
}

// Retried attempts end before the wait for the next.
func TestRetriedSpanEndsBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		rt := &steadyhttp.Transport{Base: script(answers(503, "body"), answers(200, "")), Policy: every(time.Minute), Trace: s.trace(steadyotel.Config{})}
		if err := call(t, t.Context(), rt); err != nil {
			t.Fatal(err)
		}
		attempts, parent := s.attempts(), s.parent(t)
		if d := attempts[0].EndTime().Sub(attempts[0].StartTime()); d != 0 {
			t.Errorf("the first attempt took %v", d)
		}
		if d := attempts[1].StartTime().Sub(attempts[0].EndTime()); d != time.Minute {
			t.Errorf("%v between the attempts", d)
		}
		if d := parent.EndTime().Sub(parent.StartTime()); d != time.Minute {
			t.Errorf("the call took %v", d)
		}
	})
}

// HEAD has an answer without a body, whatever its Content-Length says.
func TestHead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1000") }))
	defer server.Close()
	s := newSDK(t)
	rt := &steadyhttp.Transport{Base: server.Client().Transport, Trace: s.trace(steadyotel.Config{})}
	resp, err := rt.RoundTrip(newRequest(t, t.Context(), "HEAD", server.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	assertText(t, "outcomes", s.outcomes(), "call HEAD: unset; HEAD: unset")
	for _, span := range s.spans() {
		if !ended(span) {
			t.Errorf("%s has not ended", span.Name())
		}
	}
}

// A body that breaks off on the wire makes the attempt and the call red, although the status was
// good.
func TestBodyFailure(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	s := newSDK(t)
	rt := &steadyhttp.Transport{Base: server.Client().Transport, Trace: s.trace(steadyotel.Config{})}
	if err := finish(rt.RoundTrip(newRequest(t, t.Context(), "GET", server.URL))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("got %v", err)
	}
	assertText(t, "outcomes", s.outcomes(), "call GET: error connection; GET: error connection")
	assertText(t, "status", pick(s.attempts()[0].Attributes(), "http.response.status_code"), "http.response.status_code=200")
	assertText(t, "description", s.attempts()[0].Status().Description, io.ErrUnexpectedEOF.Error())
}

// An upgraded connection can be written to, and its spans end when it is closed.
func TestUpgrade(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, line)
	}))
	defer server.Close()
	s := newSDK(t)
	req := newRequest(t, t.Context(), "GET", server.URL)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := (&steadyhttp.Transport{Base: server.Client().Transport, Trace: s.trace(steadyotel.Config{})}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body of a 101 is a %T, which can't be written to", resp.Body)
	}
	io.WriteString(conn, "hello\n")
	echo := make([]byte, 6)
	if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "hello\n" {
		t.Errorf("got %q, %v", echo, err)
	}
	for _, span := range s.spans() {
		if ended(span) {
			t.Errorf("%s ended with the connection still open", span.Name())
		}
	}
	conn.Close()
	assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: unset")
	assertText(t, "status", pick(s.attempts()[0].Attributes(), "http.response.status_code"), "http.response.status_code=101")
}

// A panic goes on, and leaves no span open behind it.
func TestPanicEndsSpans(t *testing.T) {
	boom := roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") })
	boomBody := withBody(404, func(*http.Request) io.ReadCloser {
		return io.NopCloser(readerFunc(func([]byte) (int, error) { panic("boom") }))
	})
	for _, tt := range []struct {
		name  string
		rt    *steadyhttp.Transport
		hooks *steadyhttp.Trace
		want  string
	}{
		{"first attempt", &steadyhttp.Transport{Base: boom}, nil, "call GET: error _OTHER; GET: error _OTHER"},
		{"second attempt", &steadyhttp.Transport{Base: script(answers(503, ""), boom)}, nil, "call GET: error _OTHER; GET: error 503; GET: error _OTHER"},
		{"body of an error answer", &steadyhttp.Transport{Base: boomBody}, nil, "call GET: error _OTHER; GET: error _OTHER"},
		{"Classify", &steadyhttp.Transport{Base: script(answers(200, "")), Classify: func(steadyhttp.Attempt) steadyhttp.Verdict { panic("boom") }}, nil,
			"call GET: error _OTHER; GET: error _OTHER"},
		{"Prepare", &steadyhttp.Transport{Base: script(answers(200, "")), Prepare: func(*http.Request, *steadyhttp.Attempt) error { panic("boom") }}, nil,
			"call GET: error _OTHER"},
		{"gate", &steadyhttp.Transport{Base: script(answers(200, "")), Gates: []steadyhttp.Gate{gateFunc(func(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) { panic("boom") })}}, nil,
			"call GET: error _OTHER"},
		{"inner hook, before the attempt", &steadyhttp.Transport{Base: script(answers(200, ""))},
			&steadyhttp.Trace{AttemptStart: func(context.Context, steadyhttp.Attempt) context.Context { panic("boom") }},
			"call GET: error _OTHER; GET: error _OTHER"},
		{"inner hook, after the attempt", &steadyhttp.Transport{Base: script(answers(200, ""))},
			&steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) { panic("boom") }},
			"call GET: error _OTHER; GET: error _OTHER"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			tt.rt.Policy, tt.rt.Trace = every(0), steadyhttp.Join(s.trace(steadyotel.Config{}), tt.hooks)
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic did not go on")
					}
				}()
				call(t, t.Context(), tt.rt)
			}()
			assertText(t, "outcomes", s.outcomes(), tt.want)
			for _, span := range s.spans() {
				if !ended(span) {
					t.Errorf("%s has not ended", span.Name())
				}
			}
		})
	}
}

// The call's span tells why it ended, also where there was no attempt, or none was retried.
func TestCallOutcome(t *testing.T) {
	refusal := []steadyhttp.Gate{refuses(1)}
	budget := every(0)
	budget.Budget = &steadyhttp.Budget{Max: 0.5, PerSuccess: -1, PerSecond: -1}
	tooLong := answers(429, "", "Retry-After: 3600")
	for _, tt := range []struct {
		name string
		rt   *steadyhttp.Transport
		want string
		stop string
	}{
		{"success", &steadyhttp.Transport{Base: script(answers(200, ""))}, "call GET: unset; GET: unset", "steadyhttp.attempts=1 steadyhttp.stop=done"},
		{"success after failures", &steadyhttp.Transport{Base: script(failsWith(syscall.ECONNRESET), answers(503, ""), answers(200, ""))},
			"call GET: unset; GET: error connection; GET: error 503; GET: unset", "steadyhttp.attempts=3 steadyhttp.stop=done"},
		{"redirect", &steadyhttp.Transport{Base: script(answers(302, ""))}, "call GET: unset; GET: unset", "steadyhttp.attempts=1 steadyhttp.stop=done"},
		{"permanent", &steadyhttp.Transport{Base: script(answers(404, ""))}, "call GET: error 404; GET: error 404", "steadyhttp.attempts=1 steadyhttp.stop=permanent"},
		{"a success to Classify", &steadyhttp.Transport{Base: script(answers(404, envelope("C", "T"))), Classify: func(steadyhttp.Attempt) steadyhttp.Verdict {
			return steadyhttp.Verdict{Class: steadyhttp.Success}
		}}, "call GET: unset; GET: unset", "steadyhttp.attempts=1 steadyhttp.stop=done"},
		{"exhausted", &steadyhttp.Transport{Base: script(answers(503, ""))},
			"call GET: error 503; GET: error 503; GET: error 503; GET: error 503; GET: error 503", "steadyhttp.attempts=4 steadyhttp.stop=attempts"},
		{"failed otherwise in the end", &steadyhttp.Transport{Base: script(answers(503, ""), answers(410, ""))},
			"call GET: error 410; GET: error 503; GET: error 410", "steadyhttp.attempts=2 steadyhttp.stop=permanent"},
		{"budget", &steadyhttp.Transport{Base: script(answers(503, "")), Policy: budget},
			"call GET: error 503; GET: error 503", "steadyhttp.attempts=1 steadyhttp.stop=budget"},
		{"wait too long", &steadyhttp.Transport{Base: script(tooLong)}, "call GET: error 429; GET: error 429", "steadyhttp.attempts=1 steadyhttp.stop=wait_too_long"},
		{"refused", &steadyhttp.Transport{Base: script(answers(200, "")), Gates: refusal}, "call GET: error refused", "steadyhttp.attempts=0 steadyhttp.stop=refused"},
		{"refused retry of an error", &steadyhttp.Transport{Base: script(failsWith(syscall.ECONNRESET)), Gates: []steadyhttp.Gate{refuses(2)}},
			"call GET: error refused; GET: error connection", "steadyhttp.attempts=1 steadyhttp.stop=refused"},
		{"refused retry of an answer", &steadyhttp.Transport{Base: script(answers(503, "")), Gates: []steadyhttp.Gate{refuses(2)}},
			"call GET: error 503; GET: error 503", "steadyhttp.attempts=1 steadyhttp.stop=refused"},
		{"Prepare", &steadyhttp.Transport{Base: script(answers(200, "")), Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errors.New("no token") }},
			"call GET: error prepare", "steadyhttp.attempts=0 steadyhttp.stop=prepare"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSDK(t)
			tt.rt.Trace = s.trace(steadyotel.Config{})
			if tt.rt.Policy.NewBackOff == nil {
				tt.rt.Policy = every(0)
			}
			call(t, t.Context(), tt.rt)
			assertText(t, "outcomes", s.outcomes(), tt.want)
			assertText(t, "call", pick(s.parent(t).Attributes(), "steadyhttp.attempts", "steadyhttp.stop"), tt.stop)
			for _, span := range s.attempts() {
				assertText(t, "an attempt's share of that", pick(span.Attributes(), "steadyhttp.attempts", "steadyhttp.stop"), "")
			}
		})
	}
}

// end is a way in which a caller ends a call.
type end struct {
	name  string
	steps []roundTripper
	gates []steadyhttp.Gate
	read  bool // it ends while the body is read
	want  string
}

// A call that its caller cancels is no error, whenever he does.
func TestCancelled(t *testing.T) {
	causes := map[string]error{"": nil, ", with a cause": errors.New("changed my mind")}
	for _, tt := range []end{
		{"attempt", []roundTripper{hangs}, nil, false, "call GET: unset; GET: unset"},
		{"retry", []roundTripper{failsWith(syscall.ECONNRESET), hangs}, nil, false, "call GET: unset; GET: error connection; GET: unset"},
		{"wait", []roundTripper{answers(503, "")}, nil, false, "call GET: unset; GET: error 503; GET: error 503"},
		{"wait after an error", []roundTripper{failsWith(syscall.ECONNRESET)}, nil, false, "call GET: unset; GET: error connection; GET: error connection"},
		{"gate", []roundTripper{answers(200, "")}, []steadyhttp.Gate{blocks(1)}, false, "call GET: unset"},
		{"gate, at a retry", []roundTripper{failsWith(syscall.ECONNRESET)}, []steadyhttp.Gate{blocks(2)}, false, "call GET: unset; GET: error connection"},
		{"body", []roundTripper{withBody(200, hangingBody)}, nil, true, "call GET: unset; GET: unset"},
	} {
		for suffix, cause := range causes {
			t.Run(tt.name+suffix, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					time.AfterFunc(3*time.Second, func() { cancel(cause) })
					s := newSDK(t)
					err := call(t, ctx, &steadyhttp.Transport{Base: script(tt.steps...), Gates: tt.gates, Policy: every(2 * time.Second), Trace: s.trace(steadyotel.Config{})})
					if err == nil {
						t.Fatal("the call succeeded")
					}
					assertText(t, "outcomes", s.outcomes(), tt.want)
					want := "cancelled"
					if tt.read {
						want = "done" // of the call itself there was nothing left to cancel
					}
					assertText(t, "stop", pick(s.parent(t).Attributes(), "steadyhttp.stop"), "steadyhttp.stop="+want)
				})
			})
		}
	}
}

// The two ways to cancel that have no clock: before the call, and by the channel that requests had
// before contexts.
func TestCancelledOtherwise(t *testing.T) {
	s := newSDK(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	call(t, ctx, &steadyhttp.Transport{Base: script(answers(200, "")), Trace: s.trace(steadyotel.Config{})})
	assertText(t, "before", s.outcomes(), "call GET: unset")
	assertText(t, "before", pick(s.parent(t).Attributes(), "steadyhttp.stop", "steadyhttp.attempts"), "steadyhttp.attempts=0 steadyhttp.stop=cancelled")

	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		ended := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(ended) })
		req := newRequest(t, t.Context(), "GET", "http://api.example/")
		//lint:ignore SA1019 http.Client still sets it for its Timeout
		req.Cancel = ended
		rt := &steadyhttp.Transport{Base: script(answers(503, "")), Policy: every(time.Minute), Trace: s.trace(steadyotel.Config{})}
		if err := finish(rt.RoundTrip(req)); err == nil {
			t.Fatal("the call succeeded")
		}
		assertText(t, "Request.Cancel", s.outcomes(), "call GET: unset; GET: error 503")
	})
}

// A deadline that has passed is an error, although the caller has set it.
func TestDeadline(t *testing.T) {
	for _, tt := range []end{
		{"attempt", []roundTripper{hangs}, nil, false, "call GET: error timeout; GET: error timeout"},
		{"retry", []roundTripper{answers(503, ""), hangs}, nil, false, "call GET: error timeout; GET: error 503; GET: error timeout"},
		{"gate", []roundTripper{answers(200, "")}, []steadyhttp.Gate{blocks(1)}, false, "call GET: error timeout"},
		{"gate, at a retry", []roundTripper{answers(503, "")}, []steadyhttp.Gate{blocks(2)}, false, "call GET: error timeout; GET: error 503"},
		{"gate, at the retry of a lost connection", []roundTripper{failsWith(syscall.ECONNRESET)}, []steadyhttp.Gate{blocks(2)}, false, "call GET: error timeout; GET: error connection"},
		{"body", []roundTripper{withBody(200, hangingBody)}, nil, true, "call GET: error timeout; GET: error timeout"},
	} {
		// net/http returns a context's cause, which need not look like a timeout.
		for suffix, cause := range map[string]error{"": nil, ", with a cause": errors.New("too slow for us")} {
			t.Run(tt.name+suffix, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, cause)
					defer cancel()
					s := newSDK(t)
					err := call(t, ctx, &steadyhttp.Transport{Base: script(tt.steps...), Gates: tt.gates, Policy: every(2 * time.Second), Trace: s.trace(steadyotel.Config{})})
					if err == nil {
						t.Fatal("the call succeeded")
					}
					assertText(t, "outcomes", s.outcomes(), tt.want)
				})
			})
		}
	}
	t.Run("before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			time.Sleep(2 * time.Second)
			s := newSDK(t)
			call(t, ctx, &steadyhttp.Transport{Base: script(answers(200, "")), Trace: s.trace(steadyotel.Config{})})
			assertText(t, "outcomes", s.outcomes(), "call GET: error timeout")
		})
	})
}

// http.Client's Timeout closes Request.Cancel and ends the context at the same instant. Whichever
// is seen first, it is a timeout.
func TestClientTimeout(t *testing.T) {
	for _, tt := range []end{
		{"attempt", []roundTripper{hangs}, nil, false, "call GET: error timeout; GET: error timeout"},
		{"gate", []roundTripper{answers(200, "")}, []steadyhttp.Gate{blocks(1)}, false, "call GET: error timeout"},
		{"body", []roundTripper{withBody(200, hangingBody)}, nil, true, "call GET: error timeout; GET: error timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 50 {
				synctest.Test(t, func(t *testing.T) {
					s := newSDK(t)
					client := &http.Client{Timeout: time.Second, Transport: &steadyhttp.Transport{Base: script(tt.steps...), Gates: tt.gates, Trace: s.trace(steadyotel.Config{})}}
					if err := finish(client.Do(newRequest(t, t.Context(), "GET", "http://api.example/"))); err == nil {
						t.Fatal("the call succeeded")
					}
					assertText(t, "outcomes", s.outcomes(), tt.want)
				})
			}
		})
	}
}

// The Policy's own timeouts are errors of the attempts that they end, and of the call if they end
// that.
func TestPolicyTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name string
		base roundTripper
		edit func(*steadyhttp.Policy)
		want string
		stop string
	}{
		{"AttemptTimeout", script(hangs, answers(200, "")), func(p *steadyhttp.Policy) { p.AttemptTimeout = time.Second },
			"call GET: unset; GET: error timeout; GET: unset", "done"},
		{"AttemptTimeout, exhausted", hangs, func(p *steadyhttp.Policy) { p.AttemptTimeout, p.MaxAttempts = time.Second, 2 },
			"call GET: error timeout; GET: error timeout; GET: error timeout", "attempts"},
		{"MaxElapsed", hangs, func(p *steadyhttp.Policy) { p.MaxElapsed = time.Second },
			"call GET: error timeout; GET: error timeout", "elapsed"},
		{"IdleTimeout", withBody(200, hangingBody), func(p *steadyhttp.Policy) { p.IdleTimeout = time.Second },
			"call GET: error timeout; GET: error timeout", "done"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				policy := every(time.Second)
				tt.edit(&policy)
				call(t, t.Context(), &steadyhttp.Transport{Base: tt.base, Policy: policy, Trace: s.trace(steadyotel.Config{})})
				assertText(t, "outcomes", s.outcomes(), tt.want)
				assertText(t, "stop", pick(s.parent(t).Attributes(), "steadyhttp.stop"), "steadyhttp.stop="+tt.stop)
			})
		})
	}
}

// The service's tracking ID and code are on the span of the attempt that it gave them to, and the
// last on the call's or the caller's.
func TestTrackingID(t *testing.T) {
	throttled := answers(429, envelope("TooManyRequests", "T1"), "Retry-After: 2")
	numbered := func(n int) roundTripper { return answers(500, envelope(fmt.Sprint("C", n), fmt.Sprint("T", n))) }
	for _, tt := range []struct {
		name     string
		steps    []roundTripper
		attempts []string // code and target of each
		parent   string
	}{
		{"fail-fast", []roundTripper{answers(404, envelope("ResourceNotFound", "T1"))}, []string{"ResourceNotFound T1"}, "ResourceNotFound T1"},
		{"retried", []roundTripper{throttled, answers(200, "")}, []string{"TooManyRequests T1", ""}, "TooManyRequests T1"},
		{"exhausted", []roundTripper{numbered(1), numbered(2), numbered(3), numbered(4)}, []string{"C1 T1", "C2 T2", "C3 T3", "C4 T4"}, "C4 T4"},
		{"none", []roundTripper{answers(503, ""), answers(200, "")}, []string{"", ""}, ""},
		{"a code alone after both", []roundTripper{numbered(1), answers(404, `{"error":{"code":"C2","message":"m"}}`)}, []string{"C1 T1", "C2"}, "C2"},
		{"lost connection after one", []roundTripper{numbered(1), failsWith(syscall.ECONNRESET), answers(200, "")}, []string{"C1 T1", "", ""}, "C1 T1"},
	} {
		for _, keys := range []steadyotel.Config{{}, {CodeKey: "defender.code", TargetKey: "defender.tracking_id"}} {
			for _, caller := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, keys %q, caller's span %v", tt.name, keys.CodeKey, caller), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						code, target := attribute.Key("steadyhttp.error.code"), attribute.Key("steadyhttp.error.target")
						if keys.CodeKey != "" {
							code, target = keys.CodeKey, keys.TargetKey
						}
						s := newSDK(t)
						ctx := t.Context()
						if caller {
							with, end := s.caller(ctx)
							ctx = with
							defer end()
						}
						call(t, ctx, &steadyhttp.Transport{Base: script(tt.steps...), Policy: every(time.Second), Trace: s.trace(keys)})
						var got []string
						for _, span := range s.attempts() {
							got = append(got, codeAndTarget(span.Attributes(), code, target))
						}
						assertLines(t, "attempts", got, tt.attempts...)
						assertText(t, "parent", codeAndTarget(s.parent(t).Attributes(), code, target), tt.parent)
						for _, span := range s.spans() {
							if keys.CodeKey != "" && codeAndTarget(span.Attributes(), "steadyhttp.error.code", "steadyhttp.error.target") != "" {
								t.Error("there under the old keys too")
							}
						}
					})
				})
			}
		}
	}
}

// What Classify calls a success is no failure that the call's span could have the tracking ID of.
func TestTrackingIDOfASuccess(t *testing.T) {
	s := newSDK(t)
	classify := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		v := (&steadyhttp.Rules{}).Classify(a)
		if a.Response.StatusCode == http.StatusNotFound {
			v.Class = steadyhttp.Success
		}
		return v
	}
	rt := &steadyhttp.Transport{Base: script(answers(503, envelope("C1", "T1")), answers(404, envelope("C2", "T2"))), Classify: classify, Policy: every(0), Trace: s.trace(steadyotel.Config{})}
	call(t, t.Context(), rt)
	assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: error 503; GET: unset")
	assertText(t, "call", codeAndTarget(s.parent(t).Attributes(), "steadyhttp.error.code", "steadyhttp.error.target"), "C1 T1")
}

func codeAndTarget(attrs []attribute.KeyValue, code, target attribute.Key) string {
	c, _ := value(attrs, code)
	t, _ := value(attrs, target)
	return strings.TrimSpace(c.AsString() + " " + t.AsString())
}

// A caller's span may be of many calls: their status and outcome are not his.
func TestCallersSpanStaysHis(t *testing.T) {
	s := newSDK(t)
	ctx, end := s.caller(t.Context())
	rt := &steadyhttp.Transport{Base: script(answers(404, envelope("C", "T"))), Trace: s.trace(steadyotel.Config{})}
	call(t, ctx, rt)
	caller := s.parent(t)
	if ended(caller) {
		t.Error("the caller's span was ended")
	}
	end()
	assertText(t, "outcomes", s.outcomes(), "caller: unset; GET: error 404")
	assertText(t, "attributes", show(caller.Attributes()), "steadyhttp.error.attempt=1 steadyhttp.error.code=C steadyhttp.error.target=T")
}

// What a 206 of Graph lacks is on the attempt's span, which is no failure.
func TestPartialAnswerIsOnTheSpan(t *testing.T) {
	for warning, want := range map[string]string{
		`Warning: 199 - "Microsoft/ATP/504/10000"`: "steadyhttp.warning=Microsoft/ATP/504/10000",
		"X-None: x": "steadyhttp.warning=the answer is partial, and does not say what is missing",
	} {
		s := newSDK(t)
		rt, err := defender.New(defender.Config{
			API: defender.Graph, Base: script(answers(503, ""), answers(206, "{}", warning)), Trace: s.trace(steadyotel.Config{}),
			Policy: steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return &backoff.ZeroBackOff{} }},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := finish(rt.RoundTrip(newRequest(t, t.Context(), "GET", "https://graph.microsoft.com/v1.0/security/alerts_v2"))); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"", want} {
			assertText(t, "warning", pick(s.attempts()[i].Attributes(), "steadyhttp.warning"), want)
		}
		assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: error 503; GET: unset")
	}
}

// net/http's own sendings within an attempt are told, where there was more than one.
func TestSends(t *testing.T) {
	for sends := 1; sends <= 3; sends++ {
		s := newSDK(t)
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			for range sends {
				httptrace.ContextClientTrace(req.Context()).WroteHeaders()
			}
			return answers(200, "")(req)
		})
		call(t, t.Context(), &steadyhttp.Transport{Base: base, Trace: s.trace(steadyotel.Config{})})
		want := ""
		if sends > 1 {
			want = fmt.Sprint("steadyhttp.sends=", sends)
		}
		assertText(t, "sends", pick(s.attempts()[0].Attributes(), "steadyhttp.sends"), want)
	}
}

// Two of them, joined, with a provider each, do not meet: neither ends or colours what is the
// other's.
func TestJoined(t *testing.T) {
	first, second := newSDK(t), newSDK(t)
	always := steadyotel.Config{CallSpan: steadyotel.CallSpanAlways, Propagator: propagation.TraceContext{}}
	h := newHeaders(t, 2)
	h.call(t, t.Context(), steadyhttp.Join(first.trace(always), second.trace(always)))
	for i, s := range []*sdk{first, second} {
		what := fmt.Sprint("provider ", i+1)
		assertText(t, what, s.outcomes(), "call GET: unset; GET: error 503; GET: unset")
		assertText(t, what, pick(s.parent(t).Attributes(), "steadyhttp.attempts", "steadyhttp.stop"), "steadyhttp.attempts=2 steadyhttp.stop=done")
		if n := len(s.parent(t).Events()); n != 1 {
			t.Errorf("%s: %d events, want one of the retry", what, n)
		}
		assertLines(t, what, points(t, s.collect(t)["steadyhttp.call.attempts"]), "n=1 sum=2")
	}
	// The inner one's is the nearer to the wire.
	for i, span := range second.attempts() {
		want := fmt.Sprintf("00-%s-%s-01", span.SpanContext().TraceID(), span.SpanContext().SpanID())
		assertText(t, "traceparent", h.sent[i].Get("Traceparent"), want)
	}
}

// One New may serve several Transports, and many calls at once.
func TestConcurrentCalls(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("n") == "0" {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, envelope("C", r.URL.Path[1:]))
			return
		}
		io.WriteString(w, r.Header.Get("Traceparent"))
	}))
	defer server.Close()
	s := newSDK(t)
	hooks := s.trace(steadyotel.Config{})
	var calls sync.WaitGroup
	for worker := range 8 {
		rt := &steadyhttp.Transport{Base: server.Client().Transport, Trace: hooks}
		calls.Go(func() {
			for i := range 20 {
				resp, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", fmt.Sprintf("%s/%d-%d?n=%d", server.URL, worker, i, i%2)))
				if err != nil {
					t.Error(err)
					return
				}
				calls.Go(func() { finish(resp, nil) }) // read on another goroutine than the call's
			}
		})
	}
	calls.Wait()
	own := make(map[trace.SpanID]sdktrace.ReadOnlySpan)
	for _, span := range s.spans() {
		own[span.SpanContext().SpanID()] = span
	}
	attempts := s.attempts()
	if len(attempts) != 160 || len(own) != 320 {
		t.Fatalf("%d attempts, %d spans", len(attempts), len(own))
	}
	keys := []attribute.Key{"url.full", "steadyhttp.error.target", "steadyhttp.error.code", "error.type"}
	for _, span := range attempts {
		parent := own[span.Parent().SpanID()]
		assertText(t, "attempt and call", pick(span.Attributes(), keys...), pick(parent.Attributes(), keys...))
		full, _ := value(span.Attributes(), "url.full")
		target, failed := value(span.Attributes(), "steadyhttp.error.target")
		if failed && !strings.Contains(full.AsString(), "/"+target.AsString()+"?") {
			t.Errorf("%s has target %s", full.AsString(), target.AsString())
		}
	}
}

// Hooks that are called without Start, as in a Trace that was put together by hand, know nothing
// and do no harm.
func TestHooksWithoutStart(t *testing.T) {
	s := newSDK(t)
	hooks := s.trace(steadyotel.Config{})
	hooks.Start = nil
	if err := call(t, t.Context(), &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Policy: every(0), Trace: hooks}); err != nil {
		t.Fatal(err)
	}
	if n := len(s.spans()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

// Whatever a server, a caller or a Classify of his comes up with, what is exported is UTF-8, or
// protobuf would refuse the whole batch, and bounded.
func TestHostileText(t *testing.T) {
	for name, text := range map[string]string{
		"not UTF-8":           "\xff\xfe\x80",
		"1 MB":                strings.Repeat("x", 1<<20),
		"1 MB, not UTF-8":     strings.Repeat("\xff", 1<<20),
		"1 MB, whole 4 bytes": strings.Repeat("\U0001F600", 1<<18), // 2 KiB are 512 of them
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				ctx, end := s.caller(t.Context())
				defer end()
				classify := func(steadyhttp.Attempt) steadyhttp.Verdict {
					return steadyhttp.Verdict{Class: steadyhttp.Transient, Code: text, TrackingID: text, Message: text}
				}
				parse := (&steadyhttp.Rules{Parse: func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{Code: text, TrackingID: text} }}).Classify
				config := steadyotel.Config{Route: func(*http.Request) string { return text }, Rules: &steadyhttp.Rules{}}
				policy := every(time.Second)
				policy.MaxAttempts = 2
				for _, tt := range []struct {
					ctx      context.Context
					classify func(steadyhttp.Attempt) steadyhttp.Verdict
					url      *url.URL
					step     roundTripper
				}{
					{ctx, classify, &url.URL{Scheme: "http", Host: text, Path: "/" + text, RawQuery: text + "=" + text}, answers(503, text)},
					{t.Context(), parse, &url.URL{Scheme: "http", Host: text, Opaque: text}, answers(503, text)},
					{t.Context(), classify, &url.URL{Scheme: text, Host: "api.example"}, failsWith(errors.New(text))},
					{ctx, parse, &url.URL{Scheme: "http", Host: "api.example"}, withBody(200, brokenBody(errors.New(text)))},
					{ctx, parse, &url.URL{Scheme: "http", Host: "api.example"}, failsWith(&url.Error{Op: "Get", URL: text, Err: errors.New(text)})},
				} {
					req := newRequest(t, tt.ctx, "GET", "http://api.example/")
					req.Header.Set("Idempotency-Key", "1")
					req.Method, req.URL = text, tt.url
					finish((&steadyhttp.Transport{Base: tt.step, Classify: tt.classify, Trace: s.trace(config), Policy: policy}).RoundTrip(req))
				}
				seen := 0
				check := func(what, text string) {
					t.Helper()
					if seen++; !utf8.ValidString(text) {
						t.Errorf("%s is not UTF-8", what)
					}
					if len(text) > 2<<10 {
						t.Errorf("%s has %d bytes", what, len(text))
					}
				}
				for _, span := range s.spans() {
					check("description", span.Status().Description)
					attrs := span.Attributes()
					for _, e := range span.Events() {
						check("event's name", e.Name)
						attrs = append(attrs, e.Attributes...)
					}
					for _, a := range attrs {
						check(string(a.Key), a.Value.String())
					}
					if !utf8.ValidString(span.Name()) || len(span.Name()) > 2<<10+len("call HTTP ") {
						t.Errorf("a name has %d bytes", len(span.Name()))
					}
				}
				if seen < 100 {
					t.Errorf("only %d texts looked at", seen)
				}
			})
		})
	}
}

// A host is one host however its name is spelled, and its label has no userinfo.
func TestAHostHasOneSpelling(t *testing.T) {
	for _, tt := range []struct{ url, host, want string }{
		{"http://API.Example/", "", "api.example"},
		{"http://api.example/", "Api.EXAMPLE:8080", "api.example"},
		{"http://api.example/", "user:secret@API.example", "api.example"},
		{"http://api.example/", "secret@a@api.example:80", "api.example"},
		{"http://[2001:DB8::A]/", "", "2001:db8::a"},
		{"http://[fe80::1%25Eth0]/", "", "fe80::1%Eth0"},
	} {
		s := newSDK(t)
		rt := &steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(steadyotel.Config{})}
		req := newRequest(t, t.Context(), "GET", tt.url)
		if tt.host != "" {
			req.Host = tt.host
		}
		if err := finish(rt.RoundTrip(req)); err != nil {
			t.Fatal(err)
		}
		for _, span := range s.spans() {
			assertText(t, span.Name(), pick(span.Attributes(), "server.address"), "server.address="+tt.want)
		}
		for _, name := range []string{"steadyhttp.call.duration", "http.client.request.duration"} {
			if got := values(t, s.collect(t)[name], "server.address"); !slices.Equal(got, []string{tt.want}) {
				t.Errorf("%s of %q: %s has %q", tt.url, tt.host, name, got)
			}
		}
	}
}
