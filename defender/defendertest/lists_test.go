package defendertest_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// Every filter that a page documents finds what it says, in either spelling of the names.
func TestDocumentedFilters(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 6, NoQuotas: true})
	call(t, s, "POST", "/api/machines/m0002/tags", `{"Value":"it's","Action":"Add"}`).want(t, 200, "")
	call(t, s, "PATCH", "/api/alerts/a0004", `{"status":"Resolved","assignedTo":"me"}`).want(t, 200,
		"")
	call(t, s, "POST", "/api/indicators",
		`{"indicatorValue":"a.example","indicatorType":"DomainName","action":"Alert","title":"t","description":"d",
		"severity":"High","expirationTime":"2099-01-01T00:00:00Z","rbacGroupNames":["red"],"generateAlert":true}`).want(t, 200, "")
	all := []string{"1", "2", "3", "4", "5", "6"}
	device := decode[struct{ AADDeviceID string }](t,
		call(t, s, "GET", "/api/machines/m0005", "")).AADDeviceID
	for _, test := range []struct {
		list, filter string
		want         []string // the last digits of the ids
	}{
		{"machines", "computerDnsName eq 'm0003.contoso.example'", []string{"3"}},
		{"machines", "ComputerDnsName eq 'm0003.contoso.example'", []string{"3"}},
		{"machines", "startswith(computerDnsName,'m0003')", []string{"3"}},
		{"machines", "startswith( ComputerDnsName , 'm000' ) and not (id eq 'm0001')", all[1:]},
		{"machines", "lastSeen gt 2018-08-01Z", all},
		{"machines", "lastSeen gt 2018-08-01T00:00:00Z", all},
		{"machines", "LastSeen lt 2018-08-01", nil},
		{"machines", "rbacGroupId eq 140", all},
		{"machines", "rbacGroupId eq '140'", all},
		{"machines", "RbacGroupId ne 140", nil},
		{"machines", "riskScore eq null", []string{"3", "6"}},
		{"machines", "riskScore ne null and exposureLevel eq 'Low'", []string{"1", "2", "4", "5"}},
		{"machines", "aadDeviceId eq " + device, []string{"5"}},
		{"machines", "machineTags/any(tag: tag eq 'it''s')", []string{"2"}},
		{"machines", "machineTags/any(t:startswith(t,'it') and t ne 'x')", []string{"2"}},
		{"machines", "not machineTags/any(t: t eq 'it''s')", []string{"1", "3", "4", "5", "6"}},
		{"machines", "id eq 'm0001' or id eq 'm0002' and osPlatform eq 'Linux'", []string{"1"}},
		{"machines", "(id eq 'm0001' or id eq 'm0002') and osPlatform eq 'Windows11'",
			[]string{"1", "2"}},
		{"machines", "version eq '23H2' and deviceValue eq 'Normal' and onboardingStatus eq 'Onboarded' and lastIpAddress eq '10.0.0.6' and healthStatus eq 'Active'", []string{"6"}},
		{"alerts", "incidentId eq 2", []string{"2"}},
		{"alerts", "investigationId eq null and id eq 'a0003'", []string{"3"}},
		{"alerts", "InvestigationId eq 7", nil},
		{"alerts", "category eq 'SuspiciousActivity' and severity eq 'Medium' and detectionSource eq 'WindowsDefenderAtp'", all},
		{"alerts", "status ne 'Resolved'", []string{"1", "2", "3", "5", "6"}},
		{"alerts", "assignedTo eq 'me' or assignedTo eq 'you'", []string{"4"}},
		{"alerts", "alertCreationTime ge 2019-11-22T00:00:00Z and lastUpdateTime ge 2019-11-22T00:00:00Z and lastEventTime gt 2019-11-22T00:00:00.000Z", all},
		{"indicators", "indicatorType eq 'DomainName' and action eq 'Alert' and severity eq 'High' and title eq 't' and createdBy ne null", []string{"1"}},
		{"indicators", "generateAlert eq true and expirationTime gt 2050-01-01T00:00:00Z and rbacGroupNames/any(g: g eq 'red')", []string{"1"}},
		{"indicators", "application ne null", nil},
	} {
		got := call(t, s, "GET", "/api/"+test.list+"?$filter="+url.QueryEscape(test.filter), "").want(t,
			200, "")
		var digits []string
		for _, id := range ids(decode[list[identified]](t, got).Value) {
			digits = append(digits, id[len(id)-1:])
		}
		if !slices.Equal(digits, test.want) {
			t.Errorf("%s: %s: got %v, want %v", test.list, test.filter, digits, test.want)
		}
	}
	for _, test := range []struct{ list, filter string }{
		{"machines", "rbacGroupName eq 'Offices'"}, {"machines", "firstSeen gt 2018-08-01Z"},
		{"machines", "lastSeen gt '2018-08-01T00:00:00Z'"},
		{"machines", "riskScore eq High"}, {"machines", "id eq 7"}, {"machines", "machineTags eq 'x'"},
		{"machines", "contains(id,'m')"},
		{"machines", "startswith(lastSeen,'2')"}, {"machines", "id in ('m0001')"},
		{"machines", "id/any(t:t eq 'x')"}, {"machines", "machineTags/all(t:t eq 'x')"},
		{"machines", "machineTags/any(t:machineTags/any(u:u eq t))"}, {"machines", "id eq 'x')"},
		{"machines", "(id eq 'x'"}, {"machines", "t eq 'x'"},
		{"alerts", "title eq 'x'"}, {"alerts", "incidentId eq '2'"},
		{"alerts", "evidence/any(e:e eq 'x')"}, {"indicators", "id eq '1'"},
		{"incidents", "severity eq 'High'"}, {"incidents", "incidentId eq 1"},
	} {
		call(t, s, "GET", "/api/"+test.list+"?$filter="+url.QueryEscape(test.filter), "").want(t, 400,
			"ODataError")
	}
}

// What a query option asks for is done, or is refused: nothing is ignored with a 200.
func TestQueryOptions(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 6, PageSize: 4, NoQuotas: true})
	call(t, s, "POST", "/api/machines/m0004/setDeviceValue", `{"DeviceValue":"High"}`).want(t, 200, "")
	for path, want := range map[string][]string{
		"/api/machines?$orderby=id+desc&$top=2":                  {"m0006", "m0005"},
		"/api/machines?$orderby=deviceValue,id+desc&$top=2":      {"m0004", "m0006"},
		"/api/machines?$orderby=DeviceValue+desc,+id+asc&$top=2": {"m0001", "m0002"},
		"/api/machines?$orderby=riskScore+asc,id+desc&$skip=1":   {"m0003", "m0005", "m0004", "m0002"},
		"/api/alerts?$orderby=incidentId+desc&$top=1":            {"a0006"},
		"/api/machines?$filter=id+gt+'m0004'&$orderby=id%20desc": {"m0006", "m0005"},
	} {
		if got := ids(decode[list[identified]](t,
			call(t, s, "GET", path, "").want(t, 200, "")).Value); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	// A link keeps what was asked for.
	r := call(t, s, "GET", "/api/machines?$orderby=id+desc&$select=id,machineTags&$count=true",
		"").want(t, 200, "")
	page := decode[struct {
		Count int              `json:"@odata.count"`
		Value []map[string]any `json:"value"`
		Next  string           `json:"@odata.nextLink"`
	}](t, r)
	if page.Count != 6 || len(page.Value) != 4 || len(page.Value[0]) != 2 ||
		page.Value[0]["id"] != "m0006" {
		t.Errorf("got %s", r.body)
	}
	rest := decode[list[map[string]any]](t,
		call(t, s, "GET", strings.TrimPrefix(page.Next, s.URL), "").want(t, 200, ""))
	if len(rest.Value) != 2 || rest.Value[1]["id"] != "m0001" || len(rest.Value[1]) != 2 {
		t.Errorf("the next page has %v", rest.Value)
	}
	if got := string(call(t, s, "GET",
		"/api/machines/m0001/alerts/$count?$filter=status+ne+'Resolved'", "").body); got != "1" {
		t.Errorf("the count is %q", got)
	}
	call(t, s, "GET", "/api/machines/x/alerts/$count", "").want(t, 404, "ResourceNotFound")

	evidence := func(query string) int {
		got := decode[list[struct{ Evidence []any }]](t,
			call(t, s, "GET", "/api/alerts"+query, "").want(t, 200, ""))
		return len(got.Value[0].Evidence)
	}
	if evidence("") != 0 || evidence("?$expand=evidence") == 0 {
		t.Errorf("there are %d and %d evidences", evidence(""), evidence("?$expand=evidence"))
	}
	for _, path := range []string{
		"/api/machines?top=1", "/api/machines?Filter=id+eq+'x'", "/api/machines?$search=x", "/api/machines?$apply=x", "/api/machines?$expand=evidence",
		"/api/alerts?$expand=machine",
		"/api/alerts?$expand=evidence($top=1)", "/api/machines?$orderby=firstSeen",
		"/api/machines?$orderby=id+down", "/api/machines?$orderby=",
		"/api/machines?$orderby=id,,id", "/api/machines?$orderby=machineTags",
		"/api/machines?$select=nothing", "/api/machines?$select=onboardingStatus",
		"/api/machines?$count=yes", "/api/incidents?$orderby=createdTime",
		"/api/incidents?$select=status", "/api/incidents?$count=true",
		"/api/machines/SoftwareVulnerabilitiesByMachine?$filter=id+eq+'x'",
		"/api/machines/m0001/alerts/$count?$filter=x",
		"/api/machines?$orderby=" + strings.Repeat("id,", 30) + "id",
	} {
		if path == "/api/machines?$orderby=" { // as if it weren't there
			call(t, s, "GET", path, "").want(t, 200, "")
			continue
		}
		call(t, s, "GET", path, "").want(t, 400, "ODataError")
	}
}

// A machine is found by its name as by its id.
func TestMachineByName(t *testing.T) {
	s := start(t, defendertest.Config{})
	if m := decode[identified](t, call(t, s, "GET", "/api/machines/M0007.contoso.example", "").want(t,
		200, "")); m.ID != "m0007" {
		t.Errorf("got %+v", m)
	}
}

// An isolation that is ordered while the machine is isolated hangs until a release, and then
// isolates it again (MicrosoftDocs/microsoft-365-docs#5903).
func TestSecondIsolationIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{ActionTime: time.Minute})
		order := func(name string) string {
			t.Helper()
			return decode[identified](t, direct(s, "POST", "/api/machines/m0007/"+name, isolation).want(t,
				201, "")).ID
		}
		status := func(id string) string {
			return decode[action](t, direct(s, "GET", "/api/machineactions/"+id, "").want(t, 200, "")).Status
		}
		order("isolate")
		time.Sleep(time.Minute)
		stuck := order("isolate")
		time.Sleep(24 * time.Hour)
		if got := status(stuck); got != "Pending" {
			t.Errorf("after a day it is %s", got)
		}
		direct(s, "POST", isolate, isolation).want(t, 400, "ActiveRequestAlreadyExists")
		first := order("unisolate")
		time.Sleep(30 * time.Second)
		direct(s, "POST", "/api/machineactions/"+first+"/cancel", `{"Comment":"c"}`).want(t, 200, "")
		time.Sleep(time.Hour)
		if got := status(stuck); got != "Pending" {
			t.Errorf("after a release that was cancelled it is %s", got)
		}
		order("unisolate")
		for _, step := range []struct {
			sleep time.Duration
			want  string
		}{{time.Minute - 1, "Pending"}, {30*time.Second + 1, "InProgress"},
			{30*time.Second - 1, "InProgress"}, {1, "Succeeded"}} {
			time.Sleep(step.sleep)
			if got := status(stuck); got != step.want {
				t.Errorf("got %s, want %s", got, step.want)
			}
		}
		// The machine is isolated once more, so that the next is stuck as well.
		next := order("isolate")
		time.Sleep(time.Hour)
		if got := status(next); got != "Pending" {
			t.Errorf("the next one is %s", got)
		}
		wantEffects(t, s, map[string]int{"isolate m0007": 3, "unisolate m0007": 2, "cancel " + first: 1})
	})
}

// With SecondPending the active action comes back, which is no second one.
func TestSecondOrderReturnsThePending(t *testing.T) {
	s := start(t, defendertest.Config{Second: defendertest.SecondPending, ActionTime: time.Hour})
	for _, name := range []string{"isolate", "unisolate", "collectInvestigationPackage"} {
		path := "/api/machines/m0007/" + name
		first := decode[action](t, call(t, s, "POST", path, isolation).want(t, 201, ""))
		second := decode[action](t, call(t, s, "POST", path, isolation).want(t, 201, ""))
		if second.ID != first.ID || second.Status != "Pending" || s.Effects()[name+" m0007"] != 1 {
			t.Errorf("got %+v and then %+v, effects %v", first, second, s.Effects())
		}
	}
	call(t, s, "POST", "/api/machines/m0007/runliveresponse", session).want(t, 201, "")
	call(t, s, "POST", "/api/machines/m0007/runliveresponse", session).want(t, 400,
		"ActiveRequestAlreadyExists")
}

// A front door's page, a 504 and an empty 200 have none of the service's words.
func TestFaultsWithoutEnvelope(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, test := range []struct {
		faults    defendertest.Faults
		name      string
		status    int
		html      bool
		processed bool
	}{
		{defendertest.Faults{HTML502: 1}, "HTML502", 502, true, false},
		{defendertest.Faults{HTML503: 1}, "HTML503", 503, true, false},
		{defendertest.Faults{After504: 1}, "After504", 504, false, true},
		{defendertest.Faults{Empty200: 1}, "Empty200", 200, false, true},
	} {
		s.SetFaults(test.faults)
		for _, machine := range []string{"m0001", "m0002"} {
			r := call(t, s, "POST", "/api/machines/"+machine+"/"+map[bool]string{true: "isolate",
				false: "unisolate"}[test.status != 200], isolation)
			kind := r.header.Get("Content-Type")
			if r.status != test.status || test.html != strings.HasPrefix(kind, "text/html") ||
				test.html != strings.Contains(string(r.body), "<title>") || !test.html && len(r.body) > 0 {
				t.Errorf("%s: got %d %q of the type %s", test.name, r.status, r.body, kind)
			}
			if c := last(t, s); c.Fault != test.name || c.Status != test.status ||
				c.Processed != test.processed || (c.Effect != "") != test.processed {
				t.Errorf("the ledger says %+v", c)
			}
		}
	}
}

// A tenant without processor time is told no time, and other calls are none of its concern.
func TestFaultCPU429(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{CPU429: 1}})
	for _, path := range []string{huntPath, huntXDRPath} {
		r := call(t, s, "POST", path, query).want(t, 429, "429")
		if !strings.Contains(r.message, "CPU") || strings.Contains(r.message, "seconds") ||
			r.header.Get("Retry-After") != "" {
			t.Errorf("got %s with %v", r.body, r.header)
		}
		if c := last(t, s); c.Processed || c.Fault != "CPU429" {
			t.Errorf("the ledger says %+v", c)
		}
	}
	wantGraph(t, s, call(t, s, "POST", "/v1.0/security/runHuntingQuery", query), 429,
		"TooManyRequests")
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	if c := last(t, s); c.Fault != "" {
		t.Errorf("the ledger says %+v", c)
	}
	s.SetFaults(defendertest.Faults{WrongAudience: 1})
	call(t, s, "GET", "/api/machines", "").want(t, 403, "Forbidden")
	call(t, s, "GET", "/api/incidents", "").want(t, 401, "Unauthorized")
}
