package defender_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/quota"
)

const graphBase = "https://graph.microsoft.com"

// Each cloud's Graph, and no other host, gets the token; each API has its own hosts; and a cloud
// without /security says so.
func TestAPIsOfEachCloud(t *testing.T) {
	all := []string{
		"graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us", "microsoftgraph.chinacloudapi.cn", "api.security.microsoft.com",
		"api.securitycenter.microsoft.com", "api-us.securitycenter.microsoft.com", "ina.api.security.microsoft.com", "api-gcc.securitycenter.microsoft.us",
		"api-gcc.security.microsoft.us", "api-gov.securitycenter.microsoft.us", "api-gov.security.microsoft.us", "security.microsoft.com",
	}
	for _, c := range []struct {
		cloud defender.Cloud
		api   defender.Service
		want  []string
	}{
		{"", defender.Graph, []string{"graph.microsoft.com"}},
		{defender.CommercialAEA, defender.Graph, []string{"graph.microsoft.com"}},
		{defender.GCC, defender.Graph, []string{"graph.microsoft.com"}},
		{defender.GCCHigh, defender.Graph, []string{"graph.microsoft.us"}},
		{defender.DoD, defender.Graph, []string{"dod-graph.microsoft.us"}},
		{"", "", all[4:8]},
		{"", defender.MDE, all[4:8]},
		{"", defender.XDR, []string{"api.security.microsoft.com", "ina.api.security.microsoft.com"}},
		{defender.GCC, "", all[8:10]},
		{defender.GCC, defender.MDE, all[8:9]},
		{defender.GCC, defender.XDR, all[9:10]},
		{defender.DoD, "", all[10:12]},
		{defender.GCCHigh, defender.XDR, all[11:12]},
	} {
		var got []string
		for _, host := range all {
			g := &guard{}
			config := unlimited(g, (&mint{}).token)
			config.Cloud, config.API = c.cloud, c.api
			send(t, newTransport(t, config), "GET", "https://"+host+"/v1.0/security/incidents")
			if strings.HasSuffix(g.requests()[0], "token-1") {
				got = append(got, host)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q, %q: the token goes to %q, want %q", c.cloud, c.api, got, c.want)
		}
	}
	for _, cloud := range []defender.Cloud{"", defender.GCC, defender.GCCHigh, defender.DoD} {
		if a := cloud.Graph(); a.Scope != a.Base+"/.default" || !strings.HasPrefix(a.Base, "https://") {
			t.Errorf("%q: %+v", cloud, a)
		}
	}
	for _, cloud := range []defender.Cloud{defender.China, defender.Bleu, defender.Delos, defender.GovSG} {
		for _, api := range []defender.Service{"", defender.MDE, defender.XDR, defender.Graph} {
			_, err := defender.New(defender.Config{Cloud: cloud, API: api, Hosts: []string{"proxy.example"}})
			if err == nil || !strings.Contains(err.Error(), "Config.Cloud") || !strings.Contains(err.Error(), "/security") || !strings.Contains(err.Error(), "; use ") {
				t.Errorf("%q, %q: %v", cloud, api, err)
			}
		}
		if cloud.Graph() != (defender.API{}) || cloud.MDE() != (defender.API{}) {
			t.Errorf("%q has something", cloud)
		}
	}
	if _, err := defender.New(defender.Config{API: "graf"}); err == nil || !strings.Contains(err.Error(), `Config.API is "graf"`) || !strings.Contains(err.Error(), "; use ") {
		t.Errorf("an unknown API: %v", err)
	}
}

// ofGraph is an answer of Graph's to a request for incidents.
func ofGraph(t *testing.T, status int, body string, fields ...string) steadyhttp.Attempt {
	a := attempt(t, status, body, fields...)
	a.Request.URL, _ = url.Parse(graphBase + "/v1.0/security/incidents?$top=60")
	return a
}

// Graph's codes, and the statuses that decide where the code says nothing.
func TestGraphsCodes(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string // or a whole body
		want   steadyhttp.Class
	}{
		{429, "TooManyRequests", steadyhttp.Throttled}, {429, "BadRequest", steadyhttp.Throttled}, {429, "UnknownError", steadyhttp.Throttled},
		{403, "activityLimitReached", steadyhttp.Throttled}, {503, "throttledRequest", steadyhttp.Throttled},
		{503, "Request_ThrottledTemporarily", steadyhttp.Throttled}, {509, "", steadyhttp.Throttled}, {509, "x", steadyhttp.Throttled},
		{500, "serviceNotAvailable", steadyhttp.Transient}, {503, "ServiceUnavailable", steadyhttp.Transient}, {503, "serviceReadOnly", steadyhttp.Transient},
		{409, "Directory_ConcurrencyViolation", steadyhttp.Transient}, {409, "other", steadyhttp.Permanent},
		{500, "UnknownError", steadyhttp.Transient}, {504, "UnknownError", steadyhttp.Transient}, {400, "UnknownError", steadyhttp.Permanent},
		{403, "UnknownError", steadyhttp.Permanent}, {500, "generalException", steadyhttp.Transient}, {400, "generalException", steadyhttp.Permanent},
		{401, "InvalidAuthenticationToken", steadyhttp.Unauthorized}, {401, "unauthenticated", steadyhttp.Unauthorized},
		{403, "Authorization_RequestDenied", steadyhttp.Permanent}, {403, "accessDenied", steadyhttp.Permanent}, {400, "Request_BadRequest", steadyhttp.Permanent},
		{412, "resourceModified", steadyhttp.Permanent}, {507, "quotaLimitReached", steadyhttp.Permanent}, {507, "", steadyhttp.Permanent},
		{402, "x", steadyhttp.Permanent}, {423, "x", steadyhttp.Permanent}, {404, "itemNotFound", steadyhttp.Permanent},
		{400, "Directory_ExpiredPageToken", steadyhttp.Permanent}, {410, "resyncRequired", steadyhttp.Permanent}, {410, "syncStateNotFound", steadyhttp.Permanent},
		// The deepest code that is known.
		{503, `{"error":{"code":"UnknownError","innerError":{"code":"x","innerError":{"code":"accessDenied"}}}}`, steadyhttp.Permanent},
		{403, `{"error":{"code":"Forbidden","innererror":{"code":"activityLimitReached","innererror":{"code":"y"}}}}`, steadyhttp.Throttled},
		{500, `{"error":{"code":"UnknownError","message":"{\"code\":\"Forbidden\"}"}}`, steadyhttp.Transient},
		{502, `<html>Bad Gateway</html>`, steadyhttp.Transient}, {429, ``, steadyhttp.Throttled}, {400, `{"error":{"code":"","message":""}}`, steadyhttp.Permanent},
		// A token for somebody else is no old token.
		{401, `{"error":{"code":"InvalidAuthenticationToken","message":"Access token validation failure. Invalid audience."}}`, steadyhttp.Permanent},
	} {
		body := c.code
		if !strings.HasPrefix(body, "{") && !strings.HasPrefix(body, "<") {
			body = fmt.Sprintf(`{"error":{"code":%q,"message":"m","innerError":{"date":"2026-11-26T00:00:00","request-id":"r-1","client-request-id":"c-1"}}}`, c.code)
		}
		if v := defender.Rules().Classify(ofGraph(t, c.status, body)); v.Class != c.want {
			t.Errorf("%d %s: %v, want %v", c.status, c.code, v.Class, c.want)
		}
	}
}

// On Graph a target names a field; the ID is innerError's request-id, then the field's.
func TestGraphsTrackingID(t *testing.T) {
	const guid = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	for _, c := range []struct {
		body, want string
		fields     []string
	}{
		{`{"error":{"code":"A","innerError":{"request-id":"r-1","client-request-id":"c-1"}}}`, "r-1", []string{"request-id: h-1"}},
		{`{"error":{"code":"A","innererror":{"request-id":"r-1"}}}`, "r-1", []string{"request-id: h-1"}},
		{`{"error":{"code":"A","target":"classification","innerError":{"request-id":"r-1"}}}`, "r-1", nil},
		{`{"error":{"code":"A","target":"classification"}}`, "h-1", []string{"request-id: h-1", "client-request-id: c-1"}},
		{`{"error":{"code":"A","target":"classification"}}`, "", nil},
		{`{"error":{"code":"A","target":"` + guid + `"}}`, guid, nil},
		{`<html>`, "h-1", []string{"request-id: h-1", "x-ms-ags-diagnostic: {}"}},
		{``, "", []string{"client-request-id: c-1"}},
	} {
		for _, status := range []int{400, 404, 429, 503} {
			if v := defender.Rules().Classify(ofGraph(t, status, c.body, c.fields...)); v.TrackingID != c.want {
				t.Errorf("%d %s %q: %q, want %q", status, c.body, c.fields, v.TrackingID, c.want)
			}
		}
	}
}

// A 400 for a page that is too long says so, where Graph's own words are none.
func TestTooLongAPageIsTold(t *testing.T) {
	for target, want := range map[string]string{
		"/v1.0/security/incidents?$top=51":                         "at most 50",
		"/v1.0/security/incidents?%24top=51":                       "at most 50",
		"/v1.0/security/incidents?$top=50":                         "",
		"/v1.0/security/incidents?$top=x&$skip=51":                 "",
		"/v1.0/security/alerts_v2?$top=1001":                       "at most 1000",
		"/v1.0/users?$top=1000":                                    "at most 999",
		"/api/incidents?$top=101":                                  "at most 100",
		"/api/machines/SoftwareInventoryByMachine?pageSize=200001": "at most 200000",
		"/v1.0/unheard?$top=5000":                                  "",
	} {
		a := ofGraph(t, 400, `{"error":{"code":"","message":""}}`)
		a.Request.URL, _ = url.Parse("https://graph.example" + target)
		v := defender.Rules().Classify(a)
		if v.Class != steadyhttp.Permanent || (want == "") != (v.Message == "") || !strings.Contains(v.Message, want) {
			t.Errorf("%s: %+v, want %q", target, v, want)
		}
	}
}

// What a 206 lacks is told in the Attempt, at the first try and after a retry; the answer is a
// success, and whole.
func TestPartialAnswersAreTold(t *testing.T) {
	const nothing = "the answer is partial, and does not say what is missing"
	for name, c := range map[string]struct {
		fields []string
		want   string
	}{
		"documented":       {[]string{`199 - "Microsoft/ATP/504/10000"`}, "Microsoft/ATP/504/10000"},
		"two fields":       {[]string{`199 - "Microsoft/ATP/504/10000"`, `199 - "Palo Alto Networks/NGFW/500/12"`}, "Microsoft/ATP/504/10000, Palo Alto Networks/NGFW/500/12"},
		"two in one":       {[]string{`199 - "A/B/504/1", 199 - "C/D/503/2"`}, "A/B/504/1, C/D/503/2"},
		"of an agent":      {[]string{`199 graph.microsoft.com "A/B/504/1"`}, "A/B/504/1"},
		"with a date":      {[]string{`199 - "A/B/504/1" "Thu, 26 Nov 2026 00:00:00 GMT"`}, "A/B/504/1"},
		"none":             {nil, nothing},
		"another code":     {[]string{`110 - "Response is stale"`}, nothing},
		"another text":     {[]string{`199 - "be careful"`}, nothing},
		"three parts":      {[]string{`199 - "A/B/504"`}, nothing},
		"no numbers":       {[]string{`199 - "A/B/x/y"`}, nothing},
		"breaks off":       {[]string{`199 - "A/B/504/1`}, nothing},
		"control letters":  {[]string{"199 - \"A\x1b[31m/B/504/1\""}, nothing},
		"far too long":     {[]string{`199 - "` + strings.Repeat("A", 1000) + `/B/504/1"`}, nothing},
		"a thousand":       {slices.Repeat([]string{`199 - "A/B/504/1"`}, 1000), strings.Join(slices.Repeat([]string{"A/B/504/1"}, 8), ", ")},
		"good behind evil": {[]string{`199 - "evil"`, `199 - "A/B/504/1"`}, "A/B/504/1"},
	} {
		for _, failures := range []int{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				sent := 0
				transport := newTransport(t, defender.Config{API: defender.Graph, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					if sent++; sent <= failures {
						return answer(req, 503, "")
					}
					resp, err := answer(req, 206, `{"value":[]}`)
					resp.Header["Warning"] = c.fields
					return resp, err
				})})
				resp, err := transport.RoundTrip(request(t, t.Context(), "GET", graphBase+"/v1.0/security/alerts"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				a, ok := steadyhttp.AttemptOf(resp)
				if !ok || a.Verdict.Class != steadyhttp.Success || a.Verdict.Message != c.want || a.N != failures+1 {
					t.Errorf("%s: %v %+v", name, ok, a.Verdict)
				}
				if body, err := io.ReadAll(resp.Body); string(body) != `{"value":[]}` || err != nil || steadyhttp.Check(resp) != nil {
					t.Errorf("%s: %q, %v, %v", name, body, err, steadyhttp.Check(resp))
				}
			})
		}
	}
}

// A query whose 504 comes again is not asked a third time; any other fault is retried as usual.
func TestTheSame504EndsAQuery(t *testing.T) {
	for name, c := range map[string]struct {
		target   string
		statuses []int
		sent     int
	}{
		"Graph":                {graphBase + "/v1.0/security/runHuntingQuery", []int{504, 504, 200}, 2},
		"Graph, once":          {graphBase + "/v1.0/security/runHuntingQuery", []int{504, 200}, 2},
		"Graph, after a 429":   {graphBase + "/v1.0/security/runHuntingQuery", []int{4291, 504, 504, 200}, 3},
		"Graph, between":       {graphBase + "/v1.0/security/runHuntingQuery", []int{504, 503, 504, 200}, 4},
		"MDE":                  {security + "/api/advancedqueries/run", []int{504, 504, 200}, 2},
		"other faults":         {graphBase + "/v1.0/security/runHuntingQuery", []int{503, 503, 503, 200}, 4},
		"no query":             {graphBase + "/v1.0/security/incidents", []int{504, 504, 504, 200}, 4},
		"an order is not sent": {graphBase + "/v1.0/security/incidents/mergeIncidents", []int{504, 200}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			transport := newTransport(t, defender.Config{
				API: defender.Graph, Hosts: []string{"graph.microsoft.com", "api.security.microsoft.com"}, Policy: steadyhttp.Batch(), NoQuotas: true,
				Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					sent++
					status := c.statuses[sent-1]
					if status == 4291 {
						resp, err := answer(req, 429, "")
						resp.Header.Set("Retry-After", "1")
						return resp, err
					}
					return answer(req, status, `{"error":{"code":"UnknownError","message":""}}`)
				}),
			})
			method := "POST"
			if name == "no query" {
				method = "GET"
			}
			req, _ := http.NewRequestWithContext(t.Context(), method, c.target, strings.NewReader(`{"Query":"DeviceInfo"}`))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			said := fmt.Sprint(steadyhttp.Check(resp))
			if sent != c.sent || (resp.StatusCode == 504) != (c.statuses[sent-1] == 504) {
				t.Errorf("%s: sent %d, want %d: %s", name, sent, c.sent, said)
			}
			if strings.HasPrefix(name, "Graph") && resp.StatusCode == 504 && !strings.Contains(said, "narrow it") {
				t.Errorf("%s: %s", name, said)
			}
		})
	}
}

// After a 503 Graph is asked over a new connection, MDE over the old one.
func TestA503OfGraphIsRetriedOverANewConnection(t *testing.T) {
	for _, c := range []struct {
		api     defender.Service
		path    string
		http2   bool
		status  int
		changes bool
	}{
		{defender.Graph, "/v1.0/security/incidents", false, 503, true},
		{defender.Graph, "/v1.0/security/incidents", true, 503, true},
		{defender.Graph, "/v1.0/security/incidents", false, 502, false},
		{defender.MDE, "/api/machines", false, 503, false},
	} {
		var mu sync.Mutex
		var from []string
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if from = append(from, r.RemoteAddr); len(from) == 1 {
				w.WriteHeader(c.status)
				io.WriteString(w, `{"error":{"code":"UnknownError","message":""}}`)
				return
			}
			io.WriteString(w, "{}")
		}))
		server.EnableHTTP2 = c.http2
		server.StartTLS()
		u, _ := url.Parse(server.URL)
		transport := newTransport(t, defender.Config{
			API: c.api, Hosts: []string{u.Host}, Base: server.Client().Transport, Policy: quick(),
		})
		send(t, transport, "GET", server.URL+c.path)
		transport.CloseIdleConnections()
		server.Close()
		if len(from) != 2 || (from[0] != from[1]) != c.changes {
			t.Errorf("%+v: requests came from %q", c, from)
		}
	}
}

func quick() steadyhttp.Policy {
	return steadyhttp.Policy{
		MaxAttempts: 20, Budget: &steadyhttp.Budget{Max: -1},
		NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Millisecond) },
	}
}

// The portal that a 202 points at, a nextLink to elsewhere and a SAS URL get no token.
func TestGraphsTokenStaysWithGraph(t *testing.T) {
	g := &guard{}
	config := unlimited(g, (&mint{}).token)
	config.API = defender.Graph
	transport := newTransport(t, config)
	send(t, transport, "POST", graphBase+"/v1.0/security/collaboration/analyzedEmails/remediate")
	for _, target := range []string{
		"https://security.microsoft.com/action-center/history", "https://graph.microsoft.com.evil.example/v1.0/x", "http://graph.microsoft.com/v1.0/x",
		"https://x.blob.core.windows.net/c/f?sig=s", "https://graph.microsoft.us/v1.0/security/incidents", security + "/api/machines",
	} {
		send(t, transport, "GET", target)
	}
	for i, shown := range g.requests() {
		if got := strings.Contains(shown, "token-1"); got != (i == 0) {
			t.Errorf("shown %q", shown)
		}
	}
}

// What the table lacks is held on MDE's hosts below /api alone. On Graph, and elsewhere, it goes at
// once, and a 429 pauses what is like it, and nothing else.
func TestOnlyMDEsUnknownPathsAreHeld(t *testing.T) {
	for _, c := range []struct {
		api    defender.Service
		target string
		held   bool
	}{
		{defender.MDE, security + "/api/unheard/of", true}, {defender.MDE, security + "/API/v1.0/recommendations", true},
		{"", security + "/api/machines/SomeNewExport", true},
		{defender.MDE, security + "/unheard/of", false}, {defender.MDE, security + "/", false}, {"", security + "/v1.0/users", false},
		{defender.Graph, graphBase + "/v1.0/sites/root", false}, {defender.Graph, graphBase + "/beta/teams/1/channels", false},
		{defender.Graph, graphBase + "/api/unheard/of", false}, {defender.Graph, graphBase + "/v1.0/$batch", false},
		{defender.Graph, graphBase + "/v1.0/users", false}, {defender.Graph, graphBase + "/v1.0/devices/1", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := newTransport(t, defender.Config{API: c.api, Base: &fine{}})
			began := time.Now()
			for range 101 {
				send(t, transport, "GET", c.target)
			}
			if held := time.Since(began) > 0; held != c.held {
				t.Errorf("%q, %s: call 101 was held: %v", c.api, c.target, held)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		refuse := true
		transport := newTransport(t, defender.Config{API: defender.Graph, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if refuse && strings.HasSuffix(req.URL.Path, "/messages") {
				refuse = false
				resp, err := answer(req, 429, "")
				resp.Header.Set("Retry-After", "30")
				return resp, err
			}
			return answer(req, 200, "{}")
		})})
		began := time.Now()
		took := func(target string) time.Duration {
			send(t, transport, "GET", graphBase+target)
			return time.Since(began)
		}
		var group sync.WaitGroup
		group.Go(func() { took("/v1.0/users/1/messages") })
		synctest.Wait()
		for _, target := range []string{"/v1.0/users/1", "/v1.0/users/1/events", "/v1.0/sites/1", "/v1.0/security/incidents", "/v1.0/me/contacts"} {
			if d := took(target); d != 0 {
				t.Errorf("%s waited for %v for another's 429", target, d)
			}
		}
		if d := took("/V1.0/Users/2/Messages"); d < 30*time.Second {
			t.Errorf("another user's messages went after %v", d)
		}
		group.Wait()
	})
}

// At most four requests for scores are under way at once, and Config.Quotas lifts that.
func TestScoresAreAskedFourAtATime(t *testing.T) {
	for _, lifted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var now, most atomic.Int64
			config := defender.Config{API: defender.Graph, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(time.Second)
				now.Add(-1)
				return answer(req, 200, "{}")
			})}
			if lifted {
				config.Quotas = map[string][]quota.Window{"security/secureScores at once": nil}
			}
			transport := newTransport(t, config)
			began := time.Now()
			var group sync.WaitGroup
			for i := range 20 {
				path := []string{"/v1.0/security/secureScores", "/v1.0/security/secureScoreControlProfiles"}[i%2]
				group.Go(func() { send(t, transport, "GET", graphBase+path) })
			}
			synctest.Wait()
			gone, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			group.Go(func() {
				defer cancel()
				_, err := status(t, transport, gone, graphBase+"/v1.0/security/secureScores")
				if !lifted && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("one who goes: %v", err)
				}
			})
			group.Wait()
			want := int64(4)
			if lifted {
				want = 20
			}
			if most.Load() < want || !lifted && (most.Load() > want || time.Since(began) != 5*time.Second) {
				t.Errorf("lifted %v: %d at once, in %v", lifted, most.Load(), time.Since(began))
			}
		})
	}
}

// The directory's calls cost what the page says, and the units of ten seconds are kept to.
func TestResourceUnits(t *testing.T) {
	for target, want := range map[string]int{
		"GET /v1.0/users": 2, "GET /v1.0/users?$select=id": 1, "GET /v1.0/users?%24select=id&$top=5": 1, "GET /v1.0/users?$expand=manager": 3,
		"GET /v1.0/users?$top=20": 2, "GET /v1.0/users/1": 1, "GET /v1.0/groups/1/members": 3, "GET /v1.0/groups/1/members?$select=id&$top=19": 1,
		"GET /v1.0/groups/1/transitiveMembers": 5, "POST /v1.0/me/checkMemberGroups": 4, "POST /v1.0/directoryObjects/getByIds": 5, "GET /v1.0/devices": 1,
		"PATCH /v1.0/devices/1": 1,
	} {
		synctest.Test(t, func(t *testing.T) {
			const units = 60
			transport := newTransport(t, defender.Config{API: defender.Graph, Base: &fine{}, Quotas: map[string][]quota.Window{
				"directory": {{N: units, Per: 10 * time.Second}},
			}})
			method, path, _ := strings.Cut(target, " ")
			began, calls := time.Now(), 0
			for time.Since(began) == 0 {
				send(t, transport, method, graphBase+path)
				calls++
			}
			if calls-1 != units/want {
				t.Errorf("%s: %d calls in %d units, want %d", target, calls-1, units, units/want)
			}
		})
	}
}

// neverTwice are Graph's methods that act, notify or append.
var neverTwice = []string{
	"POST /v1.0/security/incidents/mergeIncidents", "POST /v1.0/security/incidents/microsoft.graph.security.mergeIncidents",
	"POST /v1.0/security/incidents/29/comments", "POST /v1.0/security/alerts_v2/da637/comments", "POST /v1.0/security/alerts_v2/moveAlerts",
	"POST /v1.0/security/identities/identityAccounts/1/invokeAction", "POST /v1.0/security/identities/sensors/regenerateDeploymentAccessKey",
	"POST /v1.0/security/collaboration/analyzedEmails/remediate", "POST /v1.0/security/attackSimulation/simulations",
	"POST /v1.0/security/auditLog/queries", "POST /v1.0/security/cases/ediscoveryCases/1/close", "POST /beta/security/securityActions",
	"POST /v1.0/informationProtection/threatAssessmentRequests", "POST /v1.0/subscriptions", "POST /v1.0/users", "POST /v1.0/$batch",
	"POST /v1.0/unheard/of", "PATCH /v1.0/security/unheard/of",
}

// A lost answer of what must not be done twice is lost: over real connections, kept alive or new,
// over HTTP/1.1 and HTTP/2, and with a key that net/http would replay it for. What may be is done
// again, until it is answered.
func TestLostAnswersOfGraphsActions(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var mu sync.Mutex
		arrived := make(map[string]int) // by the call's name
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name := r.Header.Get("X-Call")
			if name == "" {
				return
			}
			io.Copy(io.Discard, r.Body)
			mu.Lock()
			arrived[name]++
			first := arrived[name] == 1
			mu.Unlock()
			if (r.ProtoMajor == 2) != http2 {
				t.Errorf("%s came over %s", name, r.Proto)
			}
			if !first {
				return
			}
			switch r.Header.Get("X-Loss") {
			case "503":
				w.WriteHeader(503)
			case "504":
				w.WriteHeader(504)
			default:
				panic(http.ErrAbortHandler)
			}
		}))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.EnableHTTP2 = http2
		server.StartTLS()
		u, _ := url.Parse(server.URL)
		transport := newTransport(t, defender.Config{
			API: defender.Graph, Hosts: []string{u.Host}, Base: server.Client().Transport, Policy: quick(), Token: (&mint{}).token,
			Quotas: map[string][]quota.Window{"identityProtection": nil, "security/cases/ediscoveryCases": nil, "security/runHuntingQuery": nil},
		})
		client := &http.Client{Transport: transport}
		for _, loss := range []string{"abort", "503", "504"} {
			for _, key := range []bool{false, true} {
				for _, c := range append(slices.Clone(neverTwice), "POST /v1.0/security/runHuntingQuery", "PATCH /v1.0/security/alerts_v2/da637",
					"POST /v1.0/identityProtection/riskyUsers/dismiss", "DELETE /v1.0/groups/1/members/2/$ref") {
					send(t, transport, "GET", server.URL) // so that net/http finds a kept-alive connection
					method, path, _ := strings.Cut(c, " ")
					req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(`{"a":1}`))
					if err != nil {
						t.Fatal(err)
					}
					name := fmt.Sprint(c, ", ", loss, ", key ", key)
					req.Header.Set("X-Call", name)
					req.Header.Set("X-Loss", loss)
					if key {
						req.Header.Set("Idempotency-Key", `"1"`)
					}
					resp, err := client.Do(req)
					if err == nil {
						err = steadyhttp.Check(resp)
						resp.Body.Close()
					}
					mu.Lock()
					n := arrived[name]
					mu.Unlock()
					once := slices.Contains(neverTwice, c)
					e, failed := errors.AsType[*steadyhttp.Error](err)
					switch {
					case once && (n != 1 || !failed || e.Stop != steadyhttp.StopNotIdempotent || !e.Ambiguous):
						t.Errorf("%s: arrived %d times, %v", name, n, err)
					case !once && (n != 2 || err != nil):
						t.Errorf("%s: arrived %d times, %v", name, n, err)
					}
				}
			}
		}
		client.CloseIdleConnections()
		server.Close()
	}
}

// The quotas of Graph that have been used can be looked at by their names, the further ones too.
func TestQuotasOfGraph(t *testing.T) {
	transport := newTransport(t, defender.Config{API: defender.Graph, Base: &fine{}, Tenant: "t", App: "a"})
	send(t, transport, "POST", graphBase+"/v1.0/subscriptions")
	send(t, transport, "GET", graphBase+"/v1.0/sites")
	var names []string
	for name, state := range defender.Quotas(transport) {
		names = append(names, fmt.Sprint(name, " ", state.Windows[0].Used))
	}
	if want := []string{"graph 2", "subscriptions 1", "subscriptions of the application 1"}; !slices.Equal(names, want) {
		t.Errorf("quotas %q, want %q", names, want)
	}
}

// Quotas are shared by whom the page says: applications of a tenant, tenants of an application.
func TestKeysOfGraph(t *testing.T) {
	keys := make(map[string][]string) // by who is asked
	for _, who := range []string{"t1 a1", "t1 a2", "t2 a1"} {
		tenant, app, _ := strings.Cut(who, " ")
		transport := newTransport(t, defender.Config{
			API: defender.Graph, Base: &fine{}, Tenant: tenant, App: app,
			NewGate: func(key string, q *quota.Quota) steadyhttp.Gate {
				keys[key] = append(keys[key], who)
				return q
			},
		})
		send(t, transport, "PATCH", graphBase+"/v1.0/users/1")
		send(t, transport, "POST", graphBase+"/v1.0/security/runHuntingQuery")
	}
	for key, want := range map[string]int{
		"graph++a1": 2, "graph++a2": 1, "directory+t1+a1": 1, "directory+t2+a1": 1, "directory writes of the tenant+t1": 2,
		"directory writes of the tenant+t2": 1, "directory writes of the application++a1": 2, "security/runHuntingQuery+t1": 2,
	} {
		if len(keys[key]) != want {
			t.Errorf("%s was asked for by %q, want %d", key, keys[key], want)
		}
	}
}

// However many paths there are that nobody documents, no quota is forgotten for them.
func TestUnknownPathsForgetNoQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := newTransport(t, defender.Config{API: defender.Graph, Base: &fine{}})
		for range 5 {
			send(t, transport, "GET", graphBase+"/v1.0/auditLogs/signIns")
		}
		for i := range 2000 {
			send(t, transport, "GET", fmt.Sprint(graphBase, "/v1.0/x", i))
		}
		began := time.Now()
		send(t, transport, "GET", graphBase+"/v1.0/auditLogs/signIns")
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("call 6 of 5 in 10 s went after %v", took)
		}
	})
}
