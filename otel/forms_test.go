package steadyotel_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

const (
	formID  = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	formID2 = "0af76519-16cd-43dd-8448-eb211c80319c"
)

// form is one of the ways in which services write a failing answer.
type form struct {
	name     string
	status   int
	body     string
	header   string // "Name: value", "" for none
	code, id string // what all must tell of it
}

func forms() []form {
	page := "<html><title>502 Bad Gateway</title>" + strings.Repeat("<p>busy", 20_000) + "</html>"
	return []form{
		{"Defender", 404, `{"error":{"code":"ResourceNotFound","message":"Machine 1 was not found","target":"` + formID + `"}}`, "", "ResourceNotFound", formID},
		{"throttled", 429, `{"error":{"code":"TooManyRequests","message":"m","target":"` + formID + `"}}`, "Retry-After: 3600", "TooManyRequests", formID},
		{"Graph", 503, `{"error":{"code":"UnknownError","message":"","innerError":{"date":"2026-11-26T12:00:00","request-id":"` + formID + `","client-request-id":"` + formID2 + `"}}}`, "", "UnknownError", formID},
		{"Graph, an inner code that nobody knows", 403, `{"error":{"code":"Forbidden","message":"m","innerError":{"code":"accessDenied","request-id":"r-1"}}}`, "", "Forbidden", "r-1"},
		{"code alone", 400, `{"error":{"code":"BadRequest"}}`, "", "BadRequest", ""},
		{"ID alone", 500, `{"error":{"message":"m","innerError":{"request-id":"r-2"}}}`, "", "", "r-2"},
		{"a property's target", 400, `{"error":{"code":"InvalidInput","message":"m","target":"properties.name"}}`, "", "InvalidInput", ""},
		{"numeric code", 429, `{"error":{"code":429,"message":"m"}}`, "Retry-After: 3600", "429", ""},
		{"an empty code", 400, `{"error":{"code":"","message":"m"}}`, "", "", ""},
		{"error that is null", 400, `{"error":null}`, "", "", ""},
		{"empty object", 400, `{}`, "", "", ""},
		{"odata.error", 404, `{"odata.error":{"code":"Request_ResourceNotFound","message":{"lang":"en","value":"no"},"requestId":"r-3"}}`, "", "Request_ResourceNotFound", "r-3"},
		{"message object", 400, `{"error":{"code":"ODataError","message":{"value":"m","lang":"en"}}}`, "", "ODataError", ""},
		{"OAuth", 400, `{"error":"invalid_grant","error_description":"expired"}`, "", "invalid_grant", ""},
		{"Entra", 401, `{"error":"invalid_client","error_description":"AADSTS7000222: expired","trace_id":"` + formID + `","correlation_id":"` + formID2 + `"}`, "", "invalid_client", formID},
		{"Spring", 404, `{"status":404,"error":"Not Found","message":"none","path":"/x","requestId":"r-4"}`, "", "Not Found", "r-4"},
		{"ASP.NET", 500, `{"Message":"An error has occurred.","ExceptionMessage":"x"}`, "", "", ""},
		{"API Management", 404, `{"statusCode":404,"message":"Resource not found"}`, "", "", ""},
		{"bare", 409, `{"code":"Conflict","message":"m","target":"` + formID + `"}`, "", "Conflict", formID},
		{"request ID beside the error", 529, `{"type":"error","error":{"type":"overloaded_error","message":"m"},"request_id":"r-5"}`, "", "", "r-5"},
		{"meta", 429, `{"meta":{"trace_id":"t-1"},"errors":[{"code":429,"message":"m"}]}`, "Retry-After: 3600", "", "t-1"},
		{"Okta", 401, `{"errorCode":"E0000011","errorSummary":"Invalid token","errorId":"oae-1"}`, "", "", "oae-1"},
		{"problem", 409, `{"type":"https://example.net/stock","title":"Out","status":409,"traceId":"t-2"}`, "Content-Type: application/problem+json", "https://example.net/stock", "t-2"},
		{"problem of no type", 404, `{"type":"about:blank","title":"Not Found","status":404}`, "Content-Type: application/problem+json", "", ""},
		{"byte order mark", 400, "\xef\xbb\xbf" + `{"error":{"code":"InvalidUrl","message":"m"}}`, "", "InvalidUrl", ""},
		{"white space", 400, " \r\n\t{ \"error\" : {\n\"code\" : \"InvalidInput\" } } \n", "", "InvalidInput", ""},
		{"escaped names", 400, `{"\u0065rror":{"c\u006fde":"InvalidInput"}}`, "", "InvalidInput", ""},
		{"a code that is not ASCII", 400, `{"error":{"code":"Größe","message":"m"}}`, "", "Größe", ""},
		{"an ID with an escape sequence", 400, `{"error":{"code":"BadRequest","innerError":{"request-id":"a\u001b[31m"}}}`, "", "BadRequest", ""},
		{"cut off", 500, `{"error":{"code":"InternalServerError","innerError":{"request-id":"` + formID + `","x":`, "", "InternalServerError", formID},
		{"of 200 KiB", 500, `{"error":{"code":"InternalServerError","innerError":{"request-id":"` + formID + `"},"details":"` + strings.Repeat("x", 200<<10) + `"}}`, "", "InternalServerError", formID},
		{"broken", 400, `{"error":{"code":"A" "message":"m"}}`, "", "", ""},
		{"empty", 503, "", "", "", ""},
		{"text", 429, "Too Many Requests", "Retry-After: 3600", "", ""},
		{"HTML", 502, page, "Content-Type: text/html", "", ""},
		{"HTML, an ID in the header", 502, page, "X-Ms-Request-Id: h-1", "", "h-1"},
		{"XML, an ID in the header", 403, `<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code></Error>`, "X-Ms-Request-Id: h-2", "", "h-2"},
		{"code in the body, ID in the header", 412, `{"error":{"code":"Precondition"}}`, "Request-Id: h-3", "Precondition", "h-3"},
		{"IDs in both", 400, `{"error":{"code":"BadRequest","innerError":{"request-id":"r-6"}}}`, "Request-Id: h-4", "BadRequest", "r-6"},
		{"an edge's ID", 520, "error code: 520", "Cf-Ray: c-1", "", "c-1"},
		{"the caller's own ID sent back", 400, `{"error":{"code":"BadRequest"}}`, "X-Request-Id: mine", "BadRequest", ""},
		{"a status that nobody registered", 499, `{"error":{"code":"ClientClosed"}}`, "", "ClientClosed", ""},
		{"204's neighbour: a body that is an array", 422, `[{"error":{"code":"A"}}]`, "", "", ""},
		{"UTF-16", 400, "\xff\xfe{\x00}\x00", "", "", ""},
	}
}

// formWire is a way in which such an answer comes.
type formWire struct {
	name   string
	http2  bool
	write  func(w http.ResponseWriter, f form)
	accept string // Accept-Encoding, "" for net/http's own
}

func formWires() []formWire {
	plain := func(w http.ResponseWriter, f form) {
		w.Header().Set("Content-Length", strconv.Itoa(len(f.body)))
		w.WriteHeader(f.status)
		io.WriteString(w, f.body)
	}
	chunked := func(w http.ResponseWriter, f form) {
		w.WriteHeader(f.status)
		half := len(f.body) / 2
		io.WriteString(w, f.body[:half])
		http.NewResponseController(w).Flush()
		io.WriteString(w, f.body[half:])
	}
	zipped := func(w http.ResponseWriter, f form) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, f.body)
		z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(f.status)
		w.Write(b.Bytes())
	}
	return []formWire{
		{"HTTP/1.1", false, plain, ""}, {"chunked", false, chunked, ""},
		{"gzip", false, zipped, ""}, {"gzip of the caller's own", false, zipped, "gzip"},
		{"HTTP/2", true, plain, ""}, {"HTTP/2, gzip", true, zipped, ""},
	}
}

// error.type, code and tracking ID are the same on the attempt's span, the call's span, in the log,
// in the metrics and in Check's error, whatever the form and the wire; and nobody need close the
// body for any of it.
func TestOneFailureToldAlike(t *testing.T) {
	all := forms()
	if len(all) < 40 {
		t.Fatalf("only %d forms", len(all))
	}
	known := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{}}
	for _, code := range strings.Fields("ResourceNotFound TooManyRequests BadRequest InvalidInput InternalServerError invalid_grant Conflict") {
		known.ByCode[code] = steadyhttp.Permanent
	}
	checked := 0
	for _, wire := range formWires() {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.URL.Query().Get("form"))
			f := all[n]
			w.Header().Set("Content-Type", "application/json")
			if name, value, ok := strings.Cut(f.header, ": "); ok {
				w.Header().Set(name, value)
			}
			wire.write(w, f)
		}))
		server.EnableHTTP2 = wire.http2
		server.StartTLS()
		defer server.Close()
		for n, f := range all {
			for _, rules := range []*steadyhttp.Rules{nil, known} {
				t.Run(fmt.Sprintf("%s/%s/rules %v", wire.name, f.name, rules != nil), func(t *testing.T) {
					s := newSDK(t)
					var log bytes.Buffer
					rt := &steadyhttp.Transport{
						Base: server.Client().Transport, Policy: steadyhttp.Policy{MaxAttempts: 1},
						Trace: steadyhttp.Join(steadyhttp.Log(slog.New(slog.NewJSONHandler(&log, nil))), s.trace(steadyotel.Config{Rules: rules})),
					}
					if rules != nil {
						rt.Classify = rules.Classify
					}
					req := newRequest(t, t.Context(), "GET", server.URL+"/?form="+strconv.Itoa(n))
					req.Header.Set("X-Request-Id", "mine")
					if wire.accept != "" {
						req.Header.Set("Accept-Encoding", wire.accept)
					}
					resp, err := rt.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close() // only so that the server can be closed
					if wire.http2 != (resp.ProtoMajor == 2) {
						t.Fatalf("it came by %s", resp.Proto)
					}
					errorType := formErrorType(f, rules)
					want := fmt.Sprintf("%q %q %q", errorType, f.code, f.id)
					told := func(what string, errorType, code, id string) {
						t.Helper()
						assertText(t, what, fmt.Sprintf("%q %q %q", errorType, code, id), want)
					}
					for _, span := range s.spans() {
						if !ended(span) {
							t.Errorf("%s has not ended", span.Name())
						}
						told(span.Name(), formText(span.Attributes(), "error.type"), formText(span.Attributes(), "steadyhttp.error.code"),
							formText(span.Attributes(), "steadyhttp.error.target"))
					}
					failure, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp))
					if !ok {
						t.Fatal("Check found no error")
					}
					inErrors := failure.ErrorType()
					if rules != nil && errorType == f.code {
						inErrors = failure.Code // only who knows the Rules can vouch that there are few codes
					}
					told("the error", inErrors, failure.Code, failure.TrackingID)
					var record struct {
						Code string
						ID   string `json:"tracking_id"`
					}
					if err := json.Unmarshal(log.Bytes(), &record); err != nil {
						t.Fatalf("%v: %s", err, &log)
					}
					told("the log", errorType, record.Code, record.ID)
					metrics := s.collect(t)
					for _, name := range []string{"steadyhttp.call.duration", "steadyhttp.call.attempts", "http.client.request.duration"} {
						told(name, formLabel(t, metrics[name]), f.code, f.id)
					}
					checked++
				})
			}
		}
	}
	if want := len(all) * len(formWires()) * 2; checked != want {
		t.Errorf("%d checked, want %d", checked, want)
	}
	t.Logf("%d forms on %d wires", len(all), len(formWires()))
}

func formText(attrs []attribute.KeyValue, key attribute.Key) string {
	v, _ := value(attrs, key)
	return v.AsString()
}

func formErrorType(f form, rules *steadyhttp.Rules) string {
	if rules != nil {
		if _, known := rules.ByCode[f.code]; known {
			return f.code
		}
	}
	if http.StatusText(f.status) == "" {
		return strconv.Itoa(f.status/100) + "xx"
	}
	return strconv.Itoa(f.status)
}

// formLabel returns error.type of a metric's only point.
func formLabel(t *testing.T, m metricdata.Metrics) string {
	t.Helper()
	sets := seriesOf(t, m)
	if len(sets) != 1 {
		t.Fatalf("%s has %d points", m.Name, len(sets))
	}
	v, _ := sets[0].Value("error.type")
	return v.AsString()
}

// The usual program returns at once where the status is not 200, and leaves the body open. The call
// is told all the same, with its spans and its metrics, as it returns.
func TestAFailedCallThatNobodyClosesIsTold(t *testing.T) {
	t.Parallel() // it waits for bodies more than it works
	trickle := make(chan struct{})
	defer close(trickle)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:4])
		if status/100 == 3 {
			w.Header().Set("Location", "/200")
		}
		if strings.HasSuffix(r.URL.Path, "-stream") {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.WriteHeader(status)
		switch kind := r.URL.Path[4:]; kind {
		case "-trickle", "-stream":
			io.WriteString(w, envelope("C", "T")[:20])
			http.NewResponseController(w).Flush()
			select {
			case <-trickle:
			case <-r.Context().Done():
			}
		case "-large":
			io.WriteString(w, strings.Repeat("x", 300<<10))
		default:
			io.WriteString(w, envelope("C", "T"))
		}
	}))
	defer server.Close()
	defer server.CloseClientConnections()
	for _, path := range []string{"/400", "/404", "/429", "/500", "/599", "/302", "/404-large", "/503-large", "/400-trickle", "/500-trickle", "/429-stream"} {
		for _, caller := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, caller's span %v", path[1:], caller), func(t *testing.T) {
				s := newSDK(t)
				ctx, end := context.Context(t.Context()), func() {}
				if caller {
					ctx, end = s.caller(ctx)
				}
				client := &http.Client{
					Transport:     &steadyhttp.Transport{Base: server.Client().Transport, Policy: steadyhttp.Policy{MaxAttempts: 1}, Trace: s.trace(steadyotel.Config{})},
					CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
				}
				if _, err := client.Do(newRequest(t, ctx, "GET", server.URL+path)); err != nil {
					t.Fatal(err)
				}
				end()
				for _, span := range s.spans() {
					if !ended(span) {
						t.Errorf("%s has not ended", span.Name())
					}
				}
				metrics := s.collect(t)
				for _, name := range []string{"steadyhttp.call.duration", "steadyhttp.call.attempts", "http.client.request.duration"} {
					if n := len(seriesOf(t, metrics[name])); n != 1 {
						t.Errorf("%s has %d points", name, n)
					}
				}
				assertLines(t, "under way", points(t, metrics["steadyhttp.call.active"]), "0")
			})
		}
	}
}
