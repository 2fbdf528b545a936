package defendertest_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

type alert struct {
	ID, Status, AssignedTo, MachineID string
	Comments                          []struct{ Comment string }
}

func TestAlertsList(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 5, PageSize: 2})
	all, sizes := follow(t, s, "/api/alerts")
	if !slices.Equal(all, []string{"a0001", "a0002", "a0003", "a0004", "a0005"}) || len(sizes) != 3 {
		t.Errorf("got %v in pages of %v", all, sizes)
	}
	one, _ := follow(t, s, "/api/alerts?$filter="+url.QueryEscape("machineId eq 'm0003' and status eq 'New'"))
	if !slices.Equal(one, []string{"a0003"}) {
		t.Errorf("got %v", one)
	}
}

func TestAlertByID(t *testing.T) {
	s := start(t, defendertest.Config{})
	if a := decode[alert](t, call(t, s, "GET", "/api/alerts/a0007", "").want(t, 200, "")); a.MachineID != "m0007" || a.Status != "New" {
		t.Errorf("got %+v", a)
	}
	call(t, s, "GET", "/api/alerts/x", "").want(t, 404, "ResourceNotFound").wantMessage(t, "Alert x was not found")
}

// Values are set, but a comment is appended each time.
func TestAlertUpdate(t *testing.T) {
	s := start(t, defendertest.Config{})
	const update = `{"status":"Resolved","assignedTo":"me","comment":"done"}`
	for range 2 {
		call(t, s, "PATCH", "/api/alerts/a0001", update).want(t, 200, "")
	}
	call(t, s, "PATCH", "/api/alerts/a0001", `{"status":"InProgress"}`).want(t, 200, "")
	a := decode[alert](t, call(t, s, "GET", "/api/alerts/a0001", ""))
	if a.Status != "InProgress" || a.AssignedTo != "me" || len(a.Comments) != 2 {
		t.Errorf("got %+v", a)
	}
	wantEffects(t, s, map[string]int{"comment a0001": 2, "update a0001": 1})
	call(t, s, "PATCH", "/api/alerts/x", update).want(t, 404, "ResourceNotFound")
	call(t, s, "PATCH", "/api/alerts/a0001", `{}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "PATCH", "/api/alerts/a0001", `{"status":"Gone"}`).want(t, 400, "InvalidInput")
	call(t, s, "PATCH", "/api/alerts/a0001", `{"Status":"Resolved"}`).want(t, 400, "InvalidRequestBody")
	call(t, s, "PATCH", "/api/alerts/a0001", `null`).want(t, 400, "InvalidRequestBody")
}

func TestAlertsBatchUpdate(t *testing.T) {
	s := start(t, defendertest.Config{})
	path := "/api/alerts/batchUpdate"
	r := call(t, s, "POST", path, `{"alertIds":["a0001","a0002"],"status":"Resolved","comment":"c"}`).want(t, 200, "")
	if len(r.body) != 0 {
		t.Errorf("body is %q", r.body)
	}
	if c := last(t, s); c.Effect != "comment a0001\ncomment a0002" || c.Family != "alerts/batchUpdate" {
		t.Errorf("the ledger says %+v", c)
	}
	call(t, s, "POST", path, `{"alertIds":["a0001","x"],"status":"New"}`).want(t, 404, "ResourceNotFound")
	call(t, s, "POST", path, `{"status":"New"}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", path, `{"alertIds":["a0001"]}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", path, `{"AlertIds":["a0001"],"status":"New"}`).want(t, 400, "InvalidRequestBody")
	call(t, s, "POST", path, `{"alertIds":["a0001"],"STATUS":"New"}`).want(t, 400, "InvalidRequestBody")
	wantEffects(t, s, map[string]int{"comment a0001": 1, "comment a0002": 1})
}
