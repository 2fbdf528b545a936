package defendertest_test

import (
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

const graphScope = "https://graph.microsoft.com/.default"

// A graphEnvelope is Graph's error.
type graphEnvelope struct {
	Error struct {
		Code, Message string
		InnerError    map[string]string
	}
}

// wantGraph fails unless an answer is an error in Graph's words, with one id wherever it stands.
func wantGraph(t *testing.T, s *defendertest.Server, r reply, status int,
	code string) graphEnvelope {
	t.Helper()
	e := decode[graphEnvelope](t, r)
	inner, id := e.Error.InnerError, r.header.Get("request-id")
	if r.status != status || e.Error.Code != code || !isGUID(id) || inner["request-id"] != id ||
		inner["client-request-id"] != r.header.Get("client-request-id") {
		t.Errorf("got %d %s with %v, want %d %s", r.status, r.body, r.header, status, code)
	}
	if _, err := time.Parse("2006-01-02T15:04:05", inner["date"]); err != nil {
		t.Errorf("the date is %q: it has no zone", inner["date"])
	}
	if c := last(t, s); c.Target != id || c.Code != code || c.Status != status {
		t.Errorf("the ledger says %+v", c)
	}
	return e
}

// Each of Graph's answers bears the ids that support asks for, whatever else it is.
func TestGraphAnswersHaveIDs(t *testing.T) {
	s := start(t, defendertest.Config{NoQuotas: true})
	const mine = "00000000-0000-4000-8000-000000000001"
	for _, faults := range []defendertest.Faults{{}, {Error500: 1}, {Bare500: 1}, {Error503: 1},
		{HTML502: 1}, {After504: 1}, {Empty200: 1}, {WrongAudience: 1}} {
		s.SetFaults(faults)
		r := call(t, s, "GET", "/v1.0/security/incidents", "", "client-request-id", mine)
		if !isGUID(r.header.Get("request-id")) || r.header.Get("client-request-id") != mine ||
			r.header.Get("x-ms-ags-diagnostic") == "" {
			t.Errorf("%+v: the header is %v", faults, r.header)
		}
		if c := last(t, s); c.CallID != mine {
			t.Errorf("the ledger says %+v", c)
		}
		r = call(t, s, "GET", "/v1.0/security/incidents", "")
		if id := r.header.Get("request-id"); id == "" || id != r.header.Get("client-request-id") {
			t.Errorf("%+v: without an id of its own the client has %v", faults, r.header)
		}
	}
	s.SetFaults(defendertest.Faults{})
	for _, hostile := range []string{strings.Repeat("x", 201), "\u00fc"} {
		if r := call(t, s, "GET", "/v1.0/security/incidents", "", "client-request-id",
			hostile); r.header.Get("client-request-id") == hostile {
			t.Errorf("%q comes back", hostile)
		}
	}
}

func TestGraphErrors(t *testing.T) {
	s := start(t, defendertest.Config{NoQuotas: true})
	for _, test := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "incidents/x", "", 404, "ResourceNotFound"},
		{"GET", "alerts_v2/x", "", 404, "ResourceNotFound"},
		{"GET", "incidents/1?$expand=alerts($top=1)", "", 400, "BadRequest"},
		{"GET", "tiIndicators", "", 400, "BadRequest"},
		{"PUT", "incidents", "", 405, "BadRequest"},
		{"GET", "incidents?$top=51", "", 400, ""},
		{"GET", "incidents?$orderby=createdDateTime", "", 400, "BadRequest"},
		{"GET", "incidents?$select=id", "", 400, "BadRequest"},
		{"GET", "incidents?$filter=status+eq+'Active'", "", 400, "BadRequest"},
		{"GET", "incidents?$filter=displayName+eq+'x'", "", 400, "BadRequest"},
		{"GET", "alerts_v2?$skip=501", "", 400, "BadRequest"},
		{"GET", "alerts_v2?$expand=alerts", "", 400, "BadRequest"},
		{"GET", "alerts_v2?$filter=createdDateTime+gt+'2020-01-01T00:00:00Z'", "", 400, "BadRequest"},
		{"POST", "incidents/1/comments", `{}`, 400, "BadRequest"},
		{"POST", "incidents/1/comments", `{"text":"x"}`, 400, "BadRequest"},
		{"POST", "incidents/1/comments", `{"comment":"x"} {}`, 400, "BadRequest"},
		{"POST", "alerts_v2/x/comments", `{"comment":"x"}`, 404, "ResourceNotFound"},
		{"PATCH", "incidents/1", `{"status":"closed"}`, 400, "BadRequest"},
		{"PATCH", "incidents/1", `{"displayed":"x"}`, 400, "BadRequest"},
		{"PATCH", "incidents/1", `{"status":"active","displayed":"x"}`, 400, "BadRequest"},
		{"POST", "incidents/1/comments", `{"comment":"x","text":"x"}`, 400, "BadRequest"},
		{"PATCH", "incidents/1", `{"assignedTo":7}`, 400, "BadRequest"},
		{"PATCH", "alerts_v2/a0001", `{"customTags":["x"]}`, 400, "BadRequest"},
		{"POST", "runHuntingQuery", `{}`, 400, "BadRequest"},
		{"POST", "runHuntingQuery", `{"Query":"x","Timespan":"soon"}`, 400, "BadRequest"},
		{"POST", "runHuntingQuery", `{"Query":"x // defendertest: too large"}`, 400, "BadRequest"},
	} {
		wantGraph(t, s, call(t, s, test.method, "/v1.0/security/"+test.path, test.body), test.status,
			test.code)
	}
	if effects := s.Effects(); len(effects) != 0 {
		t.Errorf("effects are %v", effects)
	}
}

// The faults speak Graph's language where the service does, and HTML where a front door does.
func TestGraphFaults(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, test := range []struct {
		faults    defendertest.Faults
		status    int
		code      string
		processed bool
	}{
		{defendertest.Faults{Error500: 1}, 500, "UnknownError", false},
		{defendertest.Faults{After500: 1}, 500, "UnknownError", true},
		{defendertest.Faults{Error503: 1}, 503, "serviceNotAvailable", false},
		{defendertest.Faults{After504: 1}, 504, "UnknownError", true},
		{defendertest.Faults{WrongAudience: 1}, 401, "InvalidAuthenticationToken", false},
	} {
		s.SetFaults(test.faults)
		e := wantGraph(t, s, call(t, s, "GET", "/v1.0/security/incidents", ""), test.status, test.code)
		if test.status >= 500 && e.Error.Message != "" {
			t.Errorf("the message is %q", e.Error.Message)
		}
		if c := last(t, s); c.Processed != test.processed {
			t.Errorf("the ledger says %+v", c)
		}
	}
}

// A list's 206 is a whole list, and its Warning says which provider is missing.
func TestGraphPartial(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{Partial206: 1}})
	for _, path := range []string{"incidents", "alerts_v2"} {
		r := call(t, s, "GET", "/v1.0/security/"+path, "").want(t, 206, "")
		if warning := r.header.Get("Warning"); warning != `199 - "Microsoft/WDATP/504/10000"` ||
			len(decode[list[identified]](t, r).Value) != 50 {
			t.Errorf("got %q and %s", warning, r.body)
		}
	}
	// It is no answer to what was refused, and none of the other APIs.
	wantGraph(t, s, call(t, s, "GET", "/v1.0/security/incidents/x", ""), 404, "ResourceNotFound")
	call(t, s, "GET", "/api/incidents", "").want(t, 200, "")
	if c := last(t, s); c.Fault != "" {
		t.Errorf("the ledger says %+v", c)
	}
}

// A 429 tells its wait in the header alone, and that of the processor time nowhere.
func TestGraphThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			Quotas:     map[string][]quota.Window{"security/incidents": {{N: 1, Per: time.Minute}}},
			HuntingCPU: time.Second,
		})
		direct(s, "GET", "/v1.0/security/incidents", "").want(t, 200, "")
		time.Sleep(20 * time.Second)
		r := direct(s, "GET", "/v1.0/security/incidents/1", "")
		e := wantGraph(t, s, r, 429, "TooManyRequests")
		if inner := e.Error.InnerError; inner["code"] != "429" || inner["status"] != "429" ||
			r.header.Get("Retry-After") != "40" || strings.Contains(e.Error.Message, "40") {
			t.Errorf("got %s with %v", r.body, r.header)
		}
		// The processor time is the tenant's, whichever API a query comes through.
		direct(s, "POST", huntXDRPath, query).want(t, 200, "")
		r = direct(s, "POST", "/v1.0/security/runHuntingQuery", query)
		wantGraph(t, s, r, 429, "TooManyRequests")
		if wait := r.header.Get("Retry-After"); wait != "" {
			t.Errorf("Retry-After is %s", wait)
		}
	})
}

// The pages of incidents lead on, those of alerts don't, whatever their length.
func TestGraphPaging(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 1200, PageSize: 5000})
	var incidents []string
	pages := 0
	for path := "/v1.0/security/incidents?$top=50"; path != ""; pages++ {
		page := decode[list[identified]](t, call(t, s, "GET", path, "").want(t, 200, ""))
		incidents = append(incidents, ids(page.Value)...)
		path = strings.TrimPrefix(page.Next, s.URL)
	}
	if len(incidents) != 1200 || pages != 24 || incidents[0] != "1200" || incidents[1199] != "1" {
		t.Errorf("got %d incidents in %d pages, %v …", len(incidents), pages, incidents[:3])
	}
	for query, want := range map[string]int{"": 1000, "?$top=1100": 1000, "?$top=7&$skip=500": 7,
		"?$top=1000&$skip=500": 700} {
		page := decode[list[identified]](t,
			call(t, s, "GET", "/v1.0/security/alerts_v2"+query, "").want(t, 200, ""))
		if len(page.Value) != want || page.Next != "" {
			t.Errorf("%s: got %d alerts and the link %q", query, len(page.Value), page.Next)
		}
	}
	// What lies beyond is found by a filter on what $orderby orders by.
	page := decode[list[struct {
		ID      string    `json:"id"`
		Updated time.Time `json:"lastUpdateDateTime"`
	}]](t, call(t, s, "GET", "/v1.0/security/alerts_v2?$top=1&$orderby=lastUpdateDateTime+desc", ""))
	filter := url.QueryEscape("lastUpdateDateTime ge " +
		page.Value[0].Updated.Format(time.RFC3339Nano))
	counted := decode[struct {
		Count int `json:"@odata.count"`
	}](t, call(t, s, "GET", "/v1.0/security/alerts_v2?$count=true&$top=1&$filter="+filter, "").want(t,
		200, ""))
	if counted.Count != 1200 {
		t.Errorf("%d alerts since the last one: all are of one moment", counted.Count)
	}
}

// An update sets, a comment is appended, and the other APIs show the same incident and alert.
func TestGraphUpdates(t *testing.T) {
	s := start(t, defendertest.Config{})
	const one, alertPath = "/v1.0/security/incidents/7", "/v1.0/security/alerts_v2/a0007"
	update := `{"assignedTo":"me","classification":"TruePositive","determination":"multiStagedAttack","customTags":["Demo"],"status":"resolved"}`
	for range 2 {
		call(t, s, "PATCH", one, update).want(t, 200, "")
		call(t, s, "POST", one+"/comments",
			`{"@odata.type":"microsoft.graph.security.alertComment","comment":"seen"}`).want(t, 200, "")
		call(t, s, "PATCH", alertPath, `{"status":"resolved","assignedTo":"me"}`).want(t, 200, "")
		call(t, s, "POST", alertPath+"/comments", `{"comment":"seen"}`).want(t, 200, "")
	}
	wantEffects(t, s, map[string]int{"updateIncident 7": 2, "commentIncident 7": 2, "update a0007": 2,
		"comment a0007": 2})
	shown := decode[struct {
		Status, AssignedTo, Classification, Determination string
		CustomTags                                        []string
		Comments                                          []struct{ Comment, CreatedByDisplayName string }
		Alerts                                            []struct {
			Status   string
			Comments []struct{ Comment string }
		}
	}](t, call(t, s, "GET", one+"?$expand=alerts", "").want(t, 200, ""))
	if shown.Status != "resolved" || shown.AssignedTo != "me" ||
		shown.Classification != "truePositive" || shown.Determination != "multiStagedAttack" ||
		len(shown.CustomTags) != 1 || len(shown.Comments) != 2 ||
		shown.Comments[1].CreatedByDisplayName == "" ||
		len(shown.Alerts) != 1 || shown.Alerts[0].Status != "resolved" ||
		len(shown.Alerts[0].Comments) != 2 {
		t.Errorf("Graph has %+v", shown)
	}
	xdr := decode[incident](t, call(t, s, "GET", "/api/incidents/7", "").want(t, 200, ""))
	if xdr.Status != "Resolved" || len(xdr.Comments) != 2 || len(xdr.Tags) != 1 {
		t.Errorf("Defender XDR has %+v", xdr)
	}
	if a := decode[alert](t, call(t, s, "GET", "/api/alerts/a0007", "")); a.Status != "Resolved" ||
		len(a.Comments) != 2 {
		t.Errorf("Defender for Endpoint has %+v", a)
	}
	call(t, s, "PATCH", one, `{"assignedTo":null}`).want(t, 200, "")
	if xdr := decode[incident](t, call(t, s, "GET", "/api/incidents/7", "")); xdr.AssignedTo != nil {
		t.Errorf("it is still assigned to %s", *xdr.AssignedTo)
	}
}

// The keys of a query may have either case here, and its time span any of the documented forms.
func TestGraphHunting(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 3, NoQuotas: true})
	for _, body := range []string{
		`{"Query":"DeviceInfo"}`, `{"query":"DeviceInfo"}`, `{"Query":"DeviceInfo","Timespan":"P90D"}`,
		`{"Query":"x","Timespan":null}`,
		`{"Query":"x","Timespan":"2024-02-01T08:00:00Z/2024-02-15T08:00:00Z"}`,
		`{"Query":"x","Timespan":"P30D/2024-02-15T08:00:00Z"}`,
		`{"Query":"x","Timespan":"2024-02-01T08:00:00Z/P30D"}`,
		`{"Query":"x","Timespan":"2024-02-01T08:00:00Z"}`, `{"Query":"x","Timespan":"PT1H30M"}`,
	} {
		for _, path := range []string{"runHuntingQuery", "microsoft.graph.security.runHuntingQuery"} {
			got := decode[struct {
				Schema  []map[string]string
				Results []map[string]any
			}](t, call(t, s, "POST", "/v1.0/security/"+path, body).want(t, 200, ""))
			if len(got.Results) != 3 || got.Schema[0]["name"] != "Timestamp" ||
				got.Schema[0]["type"] != "DateTime" || got.Results[2]["DeviceId"] != "m0003" {
				t.Errorf("%s: got %+v", body, got)
			}
		}
	}
	for _, span := range []string{"", "P", "PT", "/", "P1D/P1D", "2024-02-01", "P1D/", "x/P1D"} {
		r := call(t, s, "POST", "/v1.0/security/runHuntingQuery",
			`{"Query":"x","Timespan":`+strconv.Quote(span)+`}`)
		wantGraph(t, s, r, 400, "BadRequest")
	}
}

// Both sign-ins give tokens for each API, and each API takes its own.
func TestTokensAreForOneAPI(t *testing.T) {
	s := start(t, defendertest.Config{Clients: clients()})
	v1 := func(resource string) string {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"},
			"client_secret": {"hidden"}, "resource": {resource}}
		got := decode[map[string]string](t,
			call(t, s, "POST", "/contoso.example/oauth2/token", form.Encode(), "Content-Type",
				formType).want(t, 200, ""))
		if got["expires_in"] != "3599" || got["resource"] != resource || got["token_type"] != "Bearer" ||
			got["expires_on"] == "" {
			t.Errorf("got %v", got)
		}
		return got["access_token"]
	}
	for _, test := range []struct {
		token           string
		mde, xdr, graph int
	}{
		{fetch(t, s).AccessToken, 200, 401, 401},
		{v1("https://api.securitycenter.microsoft.com"), 200, 401, 401},
		{v1("https://api.securitycenter.windows.com/"), 200, 401, 401},
		{fetch(t, s, "scope", "https://securitycenter.onmicrosoft.com/windowsatpservice/.default").AccessToken, 200, 401, 401},
		{fetch(t, s, "scope", "https://api-gcc.securitycenter.microsoft.us/.default").AccessToken, 200,
			401, 401},
		{fetch(t, s, "scope", "https://api.security.microsoft.com/.default").AccessToken, 200, 200, 401},
		{v1("https://api.security.microsoft.com"), 200, 200, 401},
		{fetch(t, s, "scope", graphScope).AccessToken, 403, 401, 200},
		{v1("https://graph.microsoft.com"), 403, 401, 200},
		{fetch(t, s, "scope", "00000003-0000-0000-c000-000000000000/.default").AccessToken, 403, 401,
			200},
		{v1("https://dod-graph.microsoft.us/"), 403, 401, 200},
		{v1("https://userrequestsgraphapi-prd.trafficmanager.net"), 403, 401, 401},
		{v1("%"), 403, 401, 401},
	} {
		for path, want := range map[string]int{"/api/machines": test.mde, "/api/incidents": test.xdr,
			"/v1.0/security/incidents": test.graph} {
			r := call(t, s, "GET", path, "", "Authorization", "Bearer "+test.token)
			if r.status != want {
				t.Errorf("%s: got %d %s, want %d", path, r.status, r.body, want)
			}
		}
	}
	r := call(t, s, "GET", "/v1.0/security/incidents", "")
	wantGraph(t, s, r, 401, "InvalidAuthenticationToken")
	if challenge := r.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge,
		`Bearer realm="", authorization_uri="https://`) {
		t.Errorf("the challenge is %q", challenge)
	}
	form := grant("resource", "https://graph.microsoft.com")
	call(t, s, "POST", "/contoso.example/oauth2/token", strings.Replace(form, "resource", "no", 1),
		"Content-Type", formType).want(t, 400, "")
}
