package defender_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// attempt returns an attempt that was answered so.
func attempt(t *testing.T, status int, body string, fields ...string) steadyhttp.Attempt {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://api.security.microsoft.com/api/machines", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		resp.Header.Add(name, value)
	}
	return steadyhttp.Attempt{N: 1, Request: req, Response: resp, Body: []byte(body)}
}

func envelope(code, message string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"message":%q,"target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`, code, message)
}

// The twenty codes that are documented, with the status each comes with, and those seen beside them.
func TestRulesKnowEveryCode(t *testing.T) {
	for _, c := range []struct {
		code   string
		status int
		want   steadyhttp.Class
	}{
		{"BadRequest", 400, steadyhttp.Permanent},
		{"ODataError", 400, steadyhttp.Permanent},
		{"InvalidInput", 400, steadyhttp.Permanent},
		{"InvalidRequestBody", 400, steadyhttp.Permanent},
		{"InvalidHashValue", 400, steadyhttp.Permanent},
		{"InvalidDomainName", 400, steadyhttp.Permanent},
		{"InvalidIpAddress", 400, steadyhttp.Permanent},
		{"InvalidUrl", 400, steadyhttp.Permanent},
		{"MaximumBatchSizeExceeded", 400, steadyhttp.Permanent},
		{"MissingRequiredParameter", 400, steadyhttp.Permanent},
		{"OsPlatformNotSupported", 400, steadyhttp.Permanent},
		{"ClientVersionNotSupported", 400, steadyhttp.Permanent},
		{"Unauthorized", 401, steadyhttp.Unauthorized},
		{"Forbidden", 403, steadyhttp.Permanent},
		{"DisabledFeature", 403, steadyhttp.Permanent},
		{"DisallowedOperation", 403, steadyhttp.Permanent},
		{"NotFound", 404, steadyhttp.Permanent},
		{"ResourceNotFound", 404, steadyhttp.Permanent},
		{"InternalServerError", 500, steadyhttp.Transient},
		{"TooManyRequests", 429, steadyhttp.Throttled},

		{"429", 429, steadyhttp.Throttled},
		{"ActiveRequestAlreadyExists", 400, steadyhttp.Permanent},
		{"Authentication_MSGraphPermissionMissing", 403, steadyhttp.Permanent},
		{"Authentication_RequestFromNonPremiumTenantOrB2CTenant", 403, steadyhttp.Permanent},
		// A status says what an empty or unknown code does not.
		{"UnknownError", 504, steadyhttp.Transient},
		{"UnknownError", 403, steadyhttp.Permanent},
		{"SomethingNew", 400, steadyhttp.Permanent},
		// A code decides where the status would say otherwise.
		{"InvalidInput", 500, steadyhttp.Permanent},
		{"TooManyRequests", 503, steadyhttp.Throttled},
	} {
		v := defender.Rules().Classify(attempt(t, c.status, envelope(c.code, "m")))
		if v.Class != c.want || v.Code != c.code || v.TrackingID != "43f4cb08-8fac-4b65-9db1-745c2ae65f3a" {
			t.Errorf("%s (%d): got %+v, want %v", c.code, c.status, v, c.want)
		}
	}
	if err := defender.Rules().Validate(); err != nil {
		t.Error(err)
	}
}

func TestRulesHintAtCase(t *testing.T) {
	for _, code := range []string{"InvalidRequestBody", "MissingRequiredParameter"} {
		v := defender.Rules().Classify(attempt(t, 400, envelope(code, "Request body is incorrect")))
		if want := "Request body is incorrect (body parameters are case-sensitive)"; v.Message != want {
			t.Errorf("%s: message %q, want %q", code, v.Message, want)
		}
		if v := defender.Rules().Classify(attempt(t, 400, envelope(code, ""))); v.Message != "body parameters are case-sensitive" {
			t.Errorf("%s without a message: %q", code, v.Message)
		}
	}
	if v := defender.Rules().Classify(attempt(t, 400, envelope("InvalidInput", "x"))); v.Message != "x" {
		t.Errorf("InvalidInput has nothing to do with letter case: %q", v.Message)
	}
}

// A 401 for want of a licence is not helped by a token.
func TestRulesTellLicenceFromToken(t *testing.T) {
	for message, want := range map[string]steadyhttp.Class{
		"Unauthorized request - reason of failure: No Tvm license":           steadyhttp.Permanent,
		"Unauthorized request - reason of failure: Account mode is inactive": steadyhttp.Permanent,
		"The token has expired": steadyhttp.Unauthorized,
		"":                      steadyhttp.Unauthorized,
	} {
		if v := defender.Rules().Classify(attempt(t, 401, envelope("Unauthorized", message))); v.Class != want {
			t.Errorf("%q: %v, want %v", message, v.Class, want)
		}
	}
}

// A 429 tells its wait in the header, in the body, in both, or nowhere.
func TestRulesReadTheWait(t *testing.T) {
	const observed = "API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 8 seconds."
	for _, c := range []struct {
		name, message string
		field         string
		want          time.Duration
	}{
		{"body", observed, "", 8 * time.Second},
		{"header", "API calls quota exceeded! maximum allowed 45 per 00:01:00", "Retry-After: 7", 7 * time.Second},
		{"both, body longer", observed, "Retry-After: 7", 8 * time.Second},
		{"both, header longer", observed, "Retry-After: 9", 9 * time.Second},
		{"neither", "API calls quota exceeded! maximum allowed 1500 per 01:00:00", "", 0},
		{"one second", "You can send requests again in 1 second.", "", time.Second},
		{"a full hour", "You can send requests again in 3600 seconds.", "", time.Hour},
		{"other wording", "again in a few seconds", "", 0},
		{"another unit", "again in 5 minutes", "", 0},
		{"no number", "again in  seconds", "", 0},
		{"cut off", "You can send requests again in 12", "", 0},
		{"negative", "again in -5 seconds", "", 0},
		{"absurd", "again in 99999999999999999999 seconds", "", 0},
	} {
		var fields []string
		if c.field != "" {
			fields = append(fields, c.field)
		}
		v := defender.Rules().Classify(attempt(t, 429, envelope("429", c.message), fields...))
		if v.Class != steadyhttp.Throttled || v.RetryAfter != c.want {
			t.Errorf("%s: %v %v, want throttled %v", c.name, v.Class, v.RetryAfter, c.want)
		}
	}
	// The sentence means nothing where nothing was throttled.
	if v := defender.Rules().Classify(attempt(t, 400, envelope("InvalidInput", observed))); v.RetryAfter != 0 {
		t.Errorf("a 400 has a wait of %v", v.RetryAfter)
	}
}

// Which requests may be retried when nobody knows whether they were carried out.
func TestIdempotent(t *testing.T) {
	const withComment, without = `{"status":"Resolved","Comment":"done"}`, `{"status":"Resolved"}`
	for _, c := range []struct {
		method, path, body string
		want               bool
	}{
		{"GET", "/api/machines", "", true},
		{"DELETE", "/api/indicators/995", "", true},
		{"POST", "/api/advancedqueries/run", `{"Query":"x"}`, true},
		{"POST", "/api/v1.0/advancedqueries/run", `{"Query":"x"}`, true},
		{"POST", "/api/advancedhunting/run", `{"Query":"x"}`, true},
		{"POST", "/v1.0/security/runHuntingQuery", `{"Query":"x"}`, true},
		{"POST", "/beta/security/runHuntingQuery", `{"Query":"x"}`, true},
		{"POST", "/api/indicators", `{}`, true},
		{"POST", "/API/Indicators/Import", `{}`, true},
		{"POST", "/api/machines/m1/tags", `{}`, true},
		{"POST", "/api/machines/AddOrRemoveTagForMultipleMachines", `{}`, true},
		{"PATCH", "/api/alerts/a1", without, true},
		{"PATCH", "/api/alerts/a1", withComment, false},
		{"PATCH", "/api/alerts/a1", `{"comment":""}`, false},
		{"PATCH", "/api/alerts/a1", `{"comments":[{"comment":"done"}]}`, false},
		{"POST", "/api/alerts/batchUpdate", `{"alertIds":["a1"],"Comments":"done"}`, false},
		{"PATCH", "/v1.0/security/incidents/7", `{"COMMENTS":[]}`, false},
		{"PATCH", "/api/alerts/a1", `{"commenter":"me","comment_s":1}`, true},
		{"PATCH", "/api/alerts/a1", `{"a":{"b":[1,{"Comment":"done"}]}}`, false},
		{"PATCH", "/api/alerts/a1", `{"a":{"b":[1e999,{"c":"comment"}]}}`, true},
		{"PATCH", "/v1.0/security/secureScoreControlProfiles/1", `{"assignedTo":"me"}`, true},
		{"PATCH", "/v1.0/security/secureScoreControlProfiles/1", `{"controlStateUpdates":[{"comment":"done"}]}`, false},
		{"PUT", "/v1.0/security/cases/ediscoveryCases/1", `{}`, true},
		{"POST", "/v1.0/security/cases/ediscoveryCases/1/searches/2/purgeData", `{}`, false},
		{"PATCH", "/api/alerts/a1", `not json`, false},
		{"PATCH", "/api/alerts/a1", "", false},
		{"POST", "/api/alerts/batchUpdate", without, true},
		{"POST", "/api/alerts/batchUpdate", withComment, false},
		{"PATCH", "/api/incidents/7", without, true},
		{"PATCH", "/api/incidents/7", withComment, false},

		{"POST", "/api/machines/m1/isolate", `{}`, false},
		{"POST", "/api/v1.0/machines/m1/unisolate", `{}`, false},
		{"POST", "/api/machines/m1/runAntiVirusScan", `{}`, false},
		{"POST", "/api/machines/m1/restrictCodeExecution", `{}`, false},
		{"POST", "/api/machines/m1/StopAndQuarantineFile", `{}`, false},
		{"POST", "/api/machines/m1/offboard", `{}`, false},
		{"POST", "/api/machines/m1/collectInvestigationPackage", `{}`, false},
		{"POST", "/api/machines/m1/startInvestigation", `{}`, false},
		{"POST", "/api/machines/m1/runliveresponse", `{}`, false},
		{"POST", "/api/machineactions/1/cancel", `{}`, false},
		{"POST", "/api/alerts/CreateAlertByReference", `{}`, false},
		{"POST", "/api/indicators/BatchDelete", `{}`, false},
		{"POST", "/api/libraryfiles", `{}`, false},
		{"POST", "/api/unknown", `{}`, false},
		{"POST", "/api/machines//tags", `{}`, false},
		{"POST", "/api/machines/m1/isolate/tags", `{}`, false},
		{"POST", "/", `{}`, false},
	} {
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		req, err := http.NewRequest(c.method, "https://api.security.microsoft.com"+c.path, body)
		if err != nil {
			t.Fatal(err)
		}
		if got := defender.Idempotent(req); got != c.want {
			t.Errorf("%s %s %s: %v, want %v", c.method, c.path, c.body, got, c.want)
		}
	}
	// A key changes nothing: the service does not know the field.
	req, _ := http.NewRequest("POST", "https://api.security.microsoft.com/api/machines/m1/isolate", strings.NewReader("{}"))
	req.Header.Set("Idempotency-Key", `"1"`)
	if defender.Idempotent(req) {
		t.Error("isolate with an Idempotency-Key is idempotent")
	}
	// A body that can be read once may have a comment.
	req, _ = http.NewRequest("PATCH", "https://api.security.microsoft.com/api/alerts/a1", io.NopCloser(strings.NewReader(without)))
	if defender.Idempotent(req) {
		t.Error("an update whose body can't be looked at is idempotent")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func answer(req *http.Request, status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req, ContentLength: -1}, nil
}

// newTransport makes a Transport of a Config that makes sense.
func newTransport(t testing.TB, c defender.Config) *steadyhttp.Transport {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	transport, err := defender.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return transport
}

func order(t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.security.microsoft.com/api/machines/m1/isolate", strings.NewReader(`{"Comment":"x","IsolationType":"Full"}`))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// An order that was refused is given again for as long as it is refused, beyond MaxAttempts.
func TestThrottledOrderIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		began := time.Now()
		// A Quota would take six refusals for others who use it too, and slow down.
		transport := newTransport(t, defender.Config{NoQuotas: true, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if sent++; sent <= 6 {
				return answer(req, 429, envelope("429", "You can send requests again in 8 seconds."))
			}
			return answer(req, 201, "{}")
		})})
		resp, err := transport.RoundTrip(order(t))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 201 || sent != 7 {
			t.Errorf("status %d after %d requests", resp.StatusCode, sent)
		}
		if took := time.Since(began); took < 48*time.Second || took > 53*time.Second {
			t.Errorf("took %v, want 6 waits of 8 s and up to a tenth more", took)
		}
	})
}

// An order that may have been carried out is not given again.
func TestAmbiguousOrderIsNotRetried(t *testing.T) {
	sent := 0
	transport := newTransport(t, defender.Config{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		sent++
		return answer(req, 500, envelope("InternalServerError", ""))
	})})
	resp, err := transport.RoundTrip(order(t))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	const want = "steadyhttp: InternalServerError (500) after 1 attempt, not idempotent, tracking ID 43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	if err := steadyhttp.Check(resp); sent != 1 || err == nil || err.Error() != want {
		t.Errorf("%d requests, %v", sent, err)
	}
}

// A hunting query may run for 200 s; a connection that is dead does not hold a worker for ever.
func TestAttemptTimeoutLetsAQueryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := 200 * time.Second
		transport := newTransport(t, defender.Config{
			Policy: steadyhttp.Policy{MaxAttempts: 1},
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				select {
				case <-time.After(takes):
					return answer(req, 200, "{}")
				case <-req.Context().Done():
					return nil, context.Cause(req.Context())
				}
			}),
		})
		resp, err := transport.RoundTrip(order(t))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()

		takes, began := time.Hour, time.Now()
		_, err = transport.RoundTrip(order(t))
		var timeout interface{ Timeout() bool }
		if e, ok := err.(interface{ Timeout() bool }); ok {
			timeout = e
		}
		if timeout == nil || !timeout.Timeout() || time.Since(began) > 5*time.Minute {
			t.Errorf("a dead connection: %v after %v", err, time.Since(began))
		}
	})
}

// A page that breaks off is fetched again.
func TestBrokenPageIsFetchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		transport := newTransport(t, defender.Config{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			sent++
			resp, err := answer(req, 200, `{"value":[]}`)
			if sent == 1 {
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"val`), broken{}))
			}
			return resp, err
		})})
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.security.microsoft.com/api/machines", nil)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != `{"value":[]}` || sent != 2 {
			t.Errorf("%q, %v after %d requests", body, err, sent)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What the caller sets stays, and zero is Defender's value.
func TestConfigDefaults(t *testing.T) {
	p := newTransport(t, defender.Config{}).Policy
	if p.MaxThrottled != -1 || p.AttemptTimeout < 200*time.Second || p.IdleTimeout <= 0 || p.MaxRead <= 0 || p.Idempotent == nil {
		t.Errorf("the zero Config has %+v", p)
	}
	p = newTransport(t, defender.Config{Policy: steadyhttp.Policy{MaxThrottled: 2, AttemptTimeout: -1, IdleTimeout: time.Second, MaxRead: 7}}).Policy
	if p.MaxThrottled != 2 || p.AttemptTimeout != -1 || p.IdleTimeout != time.Second || p.MaxRead != 7 {
		t.Errorf("the caller's values became %+v", p)
	}
	base, ok := newTransport(t, defender.Config{}).Base.(*http.Transport)
	if !ok || base == http.DefaultTransport || base.HTTP2 == nil || base.HTTP2.SendPingTimeout == 0 {
		t.Errorf("the default base is %+v", base)
	}
}

// A job's workers each find their connection again: the default transport would keep two of them.
func TestWorkersKeepTheirConnections(t *testing.T) {
	const workers = 32
	var opened atomic.Int64
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	transport := newTransport(t, defender.Config{})
	defer transport.CloseIdleConnections()
	for range 2 {
		var group sync.WaitGroup
		for range workers {
			group.Go(func() { send(t, transport, "GET", server.URL) })
		}
		for range workers {
			<-arrived // all of them are under way at once
		}
		for range workers {
			release <- struct{}{}
		}
		group.Wait()
	}
	if n := opened.Load(); n != workers {
		t.Errorf("%d workers opened %d connections for two calls each", workers, n)
	}
}

// The target is the tracking ID, whatever it looks like, and Graph's request-id serves where there is none; after them
// come the fields. A 429 or 502 out of a gateway has them alone.
func TestRulesFindTheTrackingID(t *testing.T) {
	for _, c := range []struct {
		body, want string
		fields     []string
	}{
		{`{"error":{"code":"A","target":"|3f2a9c1d."}}`, "|3f2a9c1d.", nil},
		{`{"error":{"code":"A","target":"TENANT_ID"}}`, "TENANT_ID", []string{"request-id: h-1"}},
		{`{"error":{"code":"A","target":"t","innerError":{"request-id":"r-1"}}}`, "t", nil},
		{`{"error":{"code":"A","target":null,"innerError":{"request-id":"r-1","client-request-id":"c-1"}}}`, "r-1", nil},
		{`{"error":{"code":"","message":"","innerError":{"request-id":"r-1"}}}`, "r-1", nil},
		{`{"error":{"code":"A","target":"cut o`, "h-1", []string{"request-id: h-1"}},
		{`<html>`, "h-1", []string{"request-id: h-1", "client-request-id: c-1"}},
		{``, "h-1", []string{"x-ms-request-id: h-1"}},
		{``, "", []string{"client-request-id: c-1"}},
		{"{\"error\":{\"target\":\"a\\u001b[31m\"}}", `a\x1b[31m`, nil},
	} {
		for _, status := range []int{400, 429, 502} {
			if v := defender.Rules().Classify(attempt(t, status, c.body, c.fields...)); v.TrackingID != c.want {
				t.Errorf("%d %s %q: %q, want %q", status, c.body, c.fields, v.TrackingID, c.want)
			}
		}
	}
}

// Graph's codes are nested: the deepest that is known decides.
func TestRulesKnowNestedCodes(t *testing.T) {
	for body, want := range map[string]steadyhttp.Class{
		`{"error":{"code":"UnknownError","innerError":{"code":"TooManyRequests"}}}`:                    steadyhttp.Throttled,
		`{"error":{"code":"BadRequest","innerError":{"code":"x","innererror":{"code":"429"}}}}`:        steadyhttp.Throttled,
		`{"error":{"code":"InternalServerError","innerError":{"code":"x","innererror":{"code":"y"}}}}`: steadyhttp.Transient,
		`{"error":{"code":"UnknownError","innerError":{"code":"x"}}}`:                                  steadyhttp.Permanent,
	} {
		if v := defender.Rules().Classify(attempt(t, 403, body)); v.Class != want {
			t.Errorf("%s: %+v, want %v", body, v, want)
		}
	}
}
