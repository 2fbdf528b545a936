package steadyotel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/otel"
)

const (
	serviceToken    = "good"
	serviceSessions = 25 // live response sessions that a tenant may have
)

// serviceCase is a request that the service answers with one of its codes.
type serviceCase struct {
	code         string
	status       int
	method, path string
	body         string
	token        string              // "": the good one
	faults       defendertest.Faults // of the service, for this call
}

// serviceCases are the codes of the documentation's table, in its order. The service itself answers
// 15 of them, each to what a caller can really get wrong, or for what can really go wrong. The five
// that it never sends, because its machines are all alike and its tenant may do everything, come
// from the middleware: see serviceRefusals.
func serviceCases() []serviceCase {
	const get, post = http.MethodGet, http.MethodPost
	indicator := func(kind, value string) string {
		return fmt.Sprintf(`{"indicatorValue":%q,"indicatorType":%q,"action":"Alert","title":"t","description":"d"}`, value, kind)
	}
	return []serviceCase{
		{code: "BadRequest", status: 400, method: post, path: "/api/advancedqueries/run", body: `{"Query":"DeviceInfo // defendertest: too long"}`},
		{code: "ODataError", status: 400, method: get, path: "/api/machines?$top=many"},
		{code: "InvalidInput", status: 400, method: post, path: "/api/machines/m0001/runAntiVirusScan", body: `{"Comment":"c","ScanType":"Deep"}`},
		{code: "InvalidRequestBody", status: 400, method: post, path: "/api/machines/m0001/isolate", body: `{"comment":"c"}`}, // its case
		{code: "InvalidHashValue", status: 400, method: post, path: "/api/indicators", body: indicator("FileSha1", "220e7d15")},
		{code: "InvalidDomainName", status: 400, method: post, path: "/api/indicators", body: indicator("DomainName", "http://a.example/")},
		{code: "InvalidIpAddress", status: 400, method: post, path: "/api/indicators", body: indicator("IpAddress", "10.0.0.256")},
		{code: "InvalidUrl", status: 400, method: post, path: "/api/indicators", body: indicator("Url", "http://a.example/b c")},
		{code: "MaximumBatchSizeExceeded", status: 400, method: post, path: "/api/indicators/import", body: `{"Indicators":[{}` + strings.Repeat(`,{}`, 500) + `]}`},
		{code: "MissingRequiredParameter", status: 400, method: post, path: "/api/machines/m0001/isolate", body: `{"IsolationType":"Full"}`},
		{code: "OsPlatformNotSupported", status: 400, method: post, path: "/api/machines/m0002/StopAndQuarantineFile", body: `{"Comment":"c","Sha1":"87662bc3d60e4200ceaf7aae249d1c343f4b83c9"}`},
		{code: "ClientVersionNotSupported", status: 400, method: post, path: "/api/machines/m0003/collectInvestigationPackage", body: `{"Comment":"c"}`},
		{code: "Unauthorized", status: 401, method: get, path: "/api/machines/m0001", token: "stale"},
		{code: "Forbidden", status: 403, method: post, path: "/api/machines/m0004/isolate", body: `{"Comment":"c"}`},
		{code: "DisabledFeature", status: 403, method: post, path: "/api/machines/m0005/restrictCodeExecution", body: `{"Comment":"c"}`},
		{code: "DisallowedOperation", status: 403, method: post, path: "/api/machines/m0006/offboard", body: `{"Comment":"c"}`},
		{code: "NotFound", status: 404, method: get, path: "/api/no/such/path"},
		{code: "ResourceNotFound", status: 404, method: get, path: "/api/machines/123123123"},
		{code: "TooManyRequests", status: 429, method: post, path: servicePath(serviceSessions), body: serviceSession}, // one too many
		{code: "InternalServerError", status: 500, method: get, path: "/api/machines/m0001", faults: defendertest.Faults{Error500: 1}},
	}
}

// serviceRefusals are what the middleware answers in the service's place, by path.
func serviceRefusals() map[string]serviceAnswer {
	return map[string]serviceAnswer{
		"/api/machines/m0002/StopAndQuarantineFile":       {status: 400, code: "OsPlatformNotSupported", message: "The action is not supported on the client's OS platform"},
		"/api/machines/m0003/collectInvestigationPackage": {status: 400, code: "ClientVersionNotSupported", message: "The action is supported on a newer client version"},
		"/api/machines/m0004/isolate":                     {status: 403, code: "Forbidden", message: "Missing application roles. API required roles: Machine.Isolate, application roles: Machine.Read.All."},
		"/api/machines/m0005/restrictCodeExecution":       {status: 403, code: "DisabledFeature", message: "Tenant feature is not enabled"},
		"/api/machines/m0006/offboard":                    {status: 403, code: "DisallowedOperation", message: "Offboarding is not allowed for this machine"},
	}
}

// serviceSession orders a live response session.
const serviceSession = `{"Comment":"c","Commands":[{"type":"GetFile","params":[{"key":"Path","value":"C:\\a.txt"}]}]}`

// servicePath is where a session on the nth machine is ordered, counted from 0.
func servicePath(n int) string { return fmt.Sprintf("/api/machines/m%04d/runliveresponse", n+1) }

// serviceAnswer is one answer, as whoever sent it knows it.
type serviceAnswer struct {
	status                int
	code, message, target string
}

// serviceFront is the service with the middleware before it, both with their ledgers.
type serviceFront struct {
	*httptest.Server
	defender *defendertest.Server
	refusals map[string]serviceAnswer

	mu   sync.Mutex // guards what follows
	sent []serviceAnswer
}

func newServiceFront(t *testing.T) *serviceFront {
	f := &serviceFront{
		// The actions must go on for as long as the test does.
		defender: defendertest.NewUnstartedServer(defendertest.Config{NoQuotas: true, Token: serviceToken, ActionTime: time.Hour}),
		refusals: serviceRefusals(),
	}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.Close()
		f.defender.Close()
	})
	return f
}

func (f *serviceFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refusal, ok := f.refusals[r.URL.Path]
	if !ok {
		f.defender.ServeHTTP(w, r)
		return
	}
	io.Copy(io.Discard, r.Body)
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	refusal.target = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	f.mu.Lock()
	f.sent = append(f.sent, refusal)
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(refusal.status)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":%q,"target":%q}}`, refusal.code, refusal.message, refusal.target)
}

// answers returns the ledgers of both: what was answered to the given path so far.
func (f *serviceFront) answers(path string) []serviceAnswer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []serviceAnswer
	for _, a := range f.sent {
		if f.refusals[path].code == a.code {
			all = append(all, a)
		}
	}
	for _, c := range f.defender.Calls() {
		if c.Path == path {
			all = append(all, serviceAnswer{status: c.Status, code: c.Code, target: c.Target})
		}
	}
	return all
}

// plain makes a call past the client under test, and returns the answer's id.
func (f *serviceFront) plain(t *testing.T, path, body string, status int) string {
	t.Helper()
	req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+serviceToken)
	recorder := httptest.NewRecorder()
	f.defender.ServeHTTP(recorder, req)
	var answer struct{ ID string }
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || recorder.Code != status {
		t.Fatalf("%s: %d %s", path, recorder.Code, recorder.Body)
	}
	return answer.ID
}

// serviceClient is a program with the Transport and the SDK.
type serviceClient struct {
	http.Client
	spans    *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
	metrics  *sdkmetric.ManualReader
}

func newServiceClient(t *testing.T, f *serviceFront, policy steadyhttp.Policy) *serviceClient {
	c := &serviceClient{spans: tracetest.NewInMemoryExporter(), metrics: sdkmetric.NewManualReader()}
	c.provider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(c.spans))
	here, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	if policy.NewBackOff == nil {
		policy.NewBackOff = func() backoff.BackOff { return &backoff.ZeroBackOff{} }
	}
	c.Transport, err = defender.New(defender.Config{
		Base:     f.Client().Transport,
		Hosts:    []string{here.Host},
		NoQuotas: true, // the one thing that would make the test wait
		Policy:   policy,
		Trace: steadyotel.New(steadyotel.Config{
			TracerProvider: c.provider,
			MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(c.metrics)),
			Rules:          defender.Rules(),
			Route:          defender.Route,
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// call makes a call and returns its answer, with all that the client itself can read of it.
func (c *serviceClient) call(t *testing.T, ctx context.Context, f *serviceFront, s serviceCase) (answer serviceAnswer) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, s.method, f.URL+s.path, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+serviceToken)
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer.status = resp.StatusCode
	if answer.status >= 400 {
		var envelope struct {
			Error struct{ Code, Message, Target string }
		}
		if err := json.NewDecoder(bytes.NewReader(body)).Decode(&envelope); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		answer.code, answer.message, answer.target = envelope.Error.Code, envelope.Error.Message, envelope.Error.Target
	}
	return answer
}

// errorTypes returns what the attempts of the calls so far are counted under.
func (c *serviceClient) errorTypes(t *testing.T) []string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := c.metrics.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if h, ok := m.Data.(metricdata.Histogram[int64]); ok && m.Name == "steadyhttp.call.attempts" {
				for _, point := range h.DataPoints {
					value, _ := point.Attributes.Value("error.type")
					types = append(types, value.AsString())
				}
			}
		}
	}
	return types
}

// serviceText returns an attribute as text, "" if it is not there.
func serviceText(attrs []attribute.KeyValue, key attribute.Key) string {
	for _, a := range attrs {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// serviceWants fails the test unless attributes tell of exactly this answer.
func serviceWants(t *testing.T, what string, attrs []attribute.KeyValue, answer serviceAnswer) {
	t.Helper()
	if got := serviceText(attrs, "steadyhttp.error.target"); got != answer.target || got == "" {
		t.Errorf("%s: target %q, the answer's is %q", what, got, answer.target)
	}
	if got := serviceText(attrs, "steadyhttp.error.code"); got != answer.code {
		t.Errorf("%s: code %q, want %q", what, got, answer.code)
	}
}

// split returns the spans of the attempts, in order, and that of the call or the caller, which is
// the last to end.
func (c *serviceClient) split(t *testing.T, attempts int) (tracetest.SpanStubs, tracetest.SpanStub) {
	t.Helper()
	spans := c.spans.GetSpans()
	if len(spans) != attempts+1 {
		t.Fatalf("%d spans, want %d: %v", len(spans), attempts+1, spans)
	}
	outer := spans[attempts]
	for n, span := range spans[:attempts] {
		if span.SpanKind != trace.SpanKindClient || span.Parent.SpanID() != outer.SpanContext.SpanID() {
			t.Errorf("span %d (%s) is no attempt's below %s", n+1, span.Name, outer.Name)
		}
	}
	return spans[:attempts], outer
}

// Each of the documented codes leaves the service's tracking ID where an operator looks for it: on
// the attempt's span, and on that of the call, or of the caller if he has one.
func TestEveryCodeLeavesItsTarget(t *testing.T) {
	front := newServiceFront(t)
	for n := range serviceSessions {
		front.plain(t, servicePath(n), serviceSession, http.StatusCreated)
	}
	cases := serviceCases()
	known := defender.Rules().ByCode
	targets := make(map[string]string) // to the code
	seen := make(map[string]bool)
	for _, s := range cases {
		if _, ok := known[s.code]; !ok || seen[s.code] {
			t.Errorf("%s is not one of Defender's codes, or is there twice", s.code)
		}
		seen[s.code] = true
		for _, callers := range []bool{false, true} {
			name := s.code
			if callers {
				name += " in a caller's span"
			}
			t.Run(name, func(t *testing.T) {
				front.defender.SetFaults(s.faults)
				// What is retried is a matter of its own.
				client := newServiceClient(t, front, steadyhttp.Policy{MaxAttempts: 1})
				ctx, end := t.Context(), func() {}
				if callers {
					var span trace.Span
					ctx, span = client.provider.Tracer("program").Start(ctx, "program")
					end = func() { span.End() }
				}
				answer := client.call(t, ctx, front, s)
				end()

				if answer.status != s.status || answer.code != s.code {
					t.Fatalf("the service answered %d %s, want %d %s", answer.status, answer.code, s.status, s.code)
				}
				if other := targets[answer.target]; other != "" {
					t.Errorf("the target is that of %s", other)
				}
				targets[answer.target] = name
				path, _, _ := strings.Cut(s.path, "?")
				ledger := front.answers(path)
				if last := ledger[len(ledger)-1]; last.target != answer.target || last.code != s.code || last.status != s.status {
					t.Errorf("the last answer in the ledger is %+v, read was %+v", last, answer)
				}

				attempts, outer := client.split(t, 1)
				serviceWants(t, "the attempt's span", attempts[0].Attributes, answer)
				serviceWants(t, "the span around", outer.Attributes, answer)
				if got := serviceText(attempts[0].Attributes, "error.type"); got != s.code {
					t.Errorf("the attempt's error.type is %q", got)
				}
				if got := serviceText(attempts[0].Attributes, "http.response.status_code"); got != fmt.Sprint(s.status) {
					t.Errorf("the attempt's status is %s", got)
				}
				if attempts[0].Status.Code != codes.Error {
					t.Errorf("the attempt's span is %v", attempts[0].Status.Code)
				}
				if callers {
					// His span may be of many calls: an event says which of them failed.
					if outer.Name != "program" || len(outer.Events) != 1 || outer.Events[0].Name != "steadyhttp.giving_up" {
						t.Fatalf("%s has the events %v", outer.Name, outer.Events)
					}
					serviceWants(t, "the caller's event", outer.Events[0].Attributes, answer)
					if got := serviceText(outer.Events[0].Attributes, "error.type"); got != s.code {
						t.Errorf("the event's error.type is %q", got)
					}
				} else {
					if !strings.HasPrefix(outer.Name, "call "+s.method) || outer.Status.Code != codes.Error {
						t.Errorf("the call's span is %q, %v", outer.Name, outer.Status.Code)
					}
					if got := serviceText(outer.Attributes, "error.type"); got != s.code {
						t.Errorf("the call's error.type is %q", got)
					}
				}
				if got := client.errorTypes(t); len(got) != 1 || got[0] != s.code {
					t.Errorf("the metrics have the error types %q", got)
				}
			})
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d codes, the documentation has 20", len(seen))
	}
}

// A call that was refused at first and then came to a good end keeps the tracking ID of the
// refusal, and is no error.
func TestRetriedRefusalLeavesItsTarget(t *testing.T) {
	front := newServiceFront(t)
	var oldest string
	for n := range serviceSessions {
		id := front.plain(t, servicePath(n), serviceSession, http.StatusCreated)
		if n == 0 {
			oldest = id
		}
	}
	// While the call waits, the oldest session ends.
	waits := 0
	client := newServiceClient(t, front, steadyhttp.Policy{NewBackOff: func() backoff.BackOff {
		waits++
		front.plain(t, "/api/machineactions/"+oldest+"/cancel", `{"Comment":"c"}`, http.StatusOK)
		return backoff.NewConstantBackOff(time.Millisecond)
	}})
	path := servicePath(serviceSessions)
	answer := client.call(t, t.Context(), front, serviceCase{method: http.MethodPost, path: path, body: serviceSession})
	ledger := front.answers(path)
	if answer.status != http.StatusCreated || len(ledger) != 2 || ledger[0].status != 429 || waits != 1 {
		t.Fatalf("%+v after %+v, %d waits", answer, ledger, waits)
	}

	attempts, call := client.split(t, 2)
	serviceWants(t, "the first attempt's span", attempts[0].Attributes, ledger[0])
	serviceWants(t, "the call's span", call.Attributes, ledger[0])
	if attempts[0].Status.Code != codes.Error || serviceText(attempts[0].Attributes, "error.type") != "TooManyRequests" {
		t.Errorf("the refused attempt: %v %v", attempts[0].Status, attempts[0].Attributes)
	}
	if got := serviceText(attempts[1].Attributes, "steadyhttp.error.target"); got != "" {
		t.Errorf("the attempt that was answered has the target %q", got)
	}
	for _, span := range []tracetest.SpanStub{attempts[1], call} {
		if span.Status.Code != codes.Unset || serviceText(span.Attributes, "error.type") != "" {
			t.Errorf("%s is red: %v %v", span.Name, span.Status, span.Attributes)
		}
	}
	if len(call.Events) != 1 || call.Events[0].Name != "steadyhttp.retrying" {
		t.Fatalf("events %v", call.Events)
	}
	serviceWants(t, "the event", call.Events[0].Attributes, ledger[0])
	if got := client.errorTypes(t); len(got) != 1 || got[0] != "" {
		t.Errorf("the metrics have the error types %q", got)
	}
}

// Each attempt keeps the tracking ID of its own failure, and the call that of the last.
func TestExhaustionLeavesEachTarget(t *testing.T) {
	const most = 4
	front := newServiceFront(t)
	front.defender.SetFaults(defendertest.Faults{Error500: 1})
	client := newServiceClient(t, front, steadyhttp.Policy{MaxAttempts: most})
	answer := client.call(t, t.Context(), front, serviceCase{method: http.MethodGet, path: "/api/machines/m0001"})
	ledger := front.answers("/api/machines/m0001")
	if answer.code != "InternalServerError" || len(ledger) != most {
		t.Fatalf("%+v after %+v", answer, ledger)
	}

	attempts, call := client.split(t, most)
	targets := make(map[string]bool)
	for n, span := range attempts {
		serviceWants(t, fmt.Sprint("the span of attempt ", n+1), span.Attributes, ledger[n])
		if got := serviceText(span.Attributes, "error.type"); got != "InternalServerError" {
			t.Errorf("attempt %d has the error.type %q", n+1, got)
		}
		targets[ledger[n].target] = true
	}
	if len(targets) != most {
		t.Errorf("%d targets of %d attempts: the test tests nothing", len(targets), most)
	}
	serviceWants(t, "the call's span", call.Attributes, answer)
	if ledger[most-1].target != answer.target || call.Status.Code != codes.Error || serviceText(call.Attributes, "error.type") != "InternalServerError" {
		t.Errorf("the call: %+v %v %v", answer, call.Status, call.Attributes)
	}
	if len(call.Events) != most-1 {
		t.Fatalf("%d events, want one for each of %d retries", len(call.Events), most-1)
	}
	for n, event := range call.Events {
		serviceWants(t, fmt.Sprint("event ", n+1), event.Attributes, ledger[n])
	}
	if got := client.errorTypes(t); len(got) != 1 || got[0] != "InternalServerError" {
		t.Errorf("the metrics have the error types %q", got)
	}
}
