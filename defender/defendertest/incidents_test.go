package defendertest_test

import (
	"net/url"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

type incident struct {
	IncidentID int
	Status     string
	AssignedTo *string
	Tags       []string
	Comments   []struct{ Comment string }
	Alerts     []struct{ AlertID string }
}

// The newest come first, a hundred at most at a time.
func TestIncidentsList(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 250, PageSize: 200})
	var got []incident
	sizes := 0
	for path := "/api/incidents"; path != ""; sizes++ {
		page := decode[list[incident]](t, call(t, s, "GET", path, "").want(t, 200, ""))
		got = append(got, page.Value...)
		if path = page.Next; path != "" {
			path = path[len(s.URL):]
		}
	}
	if len(got) != 250 || sizes != 3 || got[0].IncidentID != 250 || got[249].IncidentID != 1 || got[249].Alerts[0].AlertID != "a0001" {
		t.Errorf("got %d incidents in %d pages", len(got), sizes)
	}
	call(t, s, "GET", "/api/incidents?$top=101", "").want(t, 400, "ODataError")
	call(t, s, "GET", "/api/incidents?$filter="+url.QueryEscape("severity eq 'High'"), "").want(t, 400, "ODataError")
	call(t, s, "PATCH", "/api/incidents/7", `{"status":"Resolved","assignedTo":"me"}`).want(t, 200, "")
	for _, filter := range []string{"status eq 'Resolved'", "assignedTo eq 'me'", "lastUpdateTime gt 2020-01-01T00:00:00Z and status ne 'Active'"} {
		page := decode[list[incident]](t, call(t, s, "GET", "/api/incidents?$filter="+url.QueryEscape(filter), "").want(t, 200, ""))
		if len(page.Value) != 1 || page.Value[0].IncidentID != 7 {
			t.Errorf("%s: got %+v", filter, page.Value)
		}
	}
}

// Values are set, but a comment is appended each time.
func TestIncidentUpdate(t *testing.T) {
	s := start(t, defendertest.Config{})
	for range 2 {
		call(t, s, "PATCH", "/api/incidents/7", `{"tags":["a"],"classification":"TruePositive","determination":"Malware","comment":"done"}`).want(t, 200, "")
	}
	if c := last(t, s); c.Family != "PATCH incidents/{id}" {
		t.Errorf("family is %q", c.Family)
	}
	call(t, s, "PATCH", "/api/incidents/7", `{"status":"InProgress"}`).want(t, 200, "")
	got := decode[incident](t, call(t, s, "GET", "/api/incidents/7", "").want(t, 200, ""))
	if got.Status != "InProgress" || len(got.Comments) != 2 || len(got.Tags) != 1 || got.AssignedTo != nil {
		t.Errorf("got %+v", got)
	}
	wantEffects(t, s, map[string]int{"commentIncident 7": 2, "updateIncident 7": 1})
	call(t, s, "GET", "/api/incidents/x", "").want(t, 404, "ResourceNotFound")
	call(t, s, "PATCH", "/api/incidents/x", `{"status":"Active"}`).want(t, 404, "ResourceNotFound")
	call(t, s, "PATCH", "/api/incidents/7", `{}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "PATCH", "/api/incidents/7", `{"status":"New"}`).want(t, 400, "InvalidInput")
	call(t, s, "PATCH", "/api/incidents/7", `{"classification":"Maybe"}`).want(t, 400, "InvalidInput")
	call(t, s, "PATCH", "/api/incidents/7", `{"Status":"Active"}`).want(t, 400, "InvalidRequestBody")
}
