package defendertest_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

const createPath = "/api/alerts/CreateAlertByReference"

// creation is the body of a call. Pairs of what stands in it and what is to stand
// there change it.
func creation(at time.Time, changes ...string) string {
	return strings.NewReplacer(changes...).Replace(`{"machineId":"m0007","severity":"Low","title":"example","description":"d",` +
		`"recommendedAction":"nothing","eventTime":"` + at.UTC().Format(time.RFC3339) + `","reportId":"20776","category":"Exploit"}`)
}

// A retry is merged with the open alert, and starts no second investigation.
func TestCreateAlert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{ActionTime: time.Minute})
		create := func(changes ...string) string {
			t.Helper()
			a := decode[alert](t, direct(s, "POST", createPath, creation(time.Now(), changes...)).want(t, 200, ""))
			if a.MachineID != "m0007" || a.Status != "New" {
				t.Errorf("got %+v", a)
			}
			return a.ID
		}
		first := create()
		if first != "a0051" || create() != first {
			t.Errorf("the first alert is %s, and a retry makes another", first)
		}
		if other := create(`"example"`, `"another"`); other == first {
			t.Error("an alert of another title was merged")
		}
		direct(s, "PATCH", "/api/alerts/"+first, `{"status":"Resolved"}`).want(t, 200, "")
		if create() == first {
			t.Error("an alert was merged with a resolved one")
		}
		wantEffects(t, s, map[string]int{"createAlert m0007 example": 3, "createAlert m0007 another": 1, "update " + first: 1})

		type investigation struct {
			ID, State, TriggeringAlertID string
			EndTime                      *time.Time
		}
		all := decode[list[investigation]](t, direct(s, "GET", "/api/investigations", "").want(t, 200, "")).Value
		if len(all) != 3 || all[0].TriggeringAlertID != first || all[0].State != "Running" || all[0].EndTime != nil {
			t.Errorf("the investigations are %+v", all)
		}
		time.Sleep(time.Minute)
		for _, id := range []string{first, all[0].ID} {
			one := decode[investigation](t, direct(s, "GET", "/api/investigations/"+id, "").want(t, 200, ""))
			if one.ID != all[0].ID || one.State != "Benign" || one.EndTime == nil {
				t.Errorf("%s: got %+v", id, one)
			}
		}
		direct(s, "GET", "/api/investigations/x", "").want(t, 404, "ResourceNotFound")
		// That of a call has no alert.
		direct(s, "POST", "/api/machines/m0001/startInvestigation", `{"Comment":"c"}`).want(t, 201, "")
		if one := decode[investigation](t, direct(s, "GET", "/api/investigations/4", "").want(t, 200, "")); one.TriggeringAlertID != "" {
			t.Errorf("got %+v", one)
		}
	})
}

func TestCreateAlertRefusals(t *testing.T) {
	s := start(t, defendertest.Config{NoQuotas: true})
	now := time.Now()
	for _, test := range []struct {
		body   string
		status int
		code   string
	}{
		{creation(now, `"Exploit"`, `""`), 400, "MissingRequiredParameter"},
		{creation(now, `"20776"`, `""`), 400, "MissingRequiredParameter"},
		{creation(now, `"Exploit"`, `"Sport"`), 400, "InvalidInput"},
		{creation(now, `"Low"`, `"Informational"`), 400, "InvalidInput"},
		{creation(now, `"example"`, `"a\nb"`), 400, "InvalidInput"},
		{creation(now, `"eventTime":"2`, `"eventTime":"x`), 400, "InvalidInput"},
		{creation(now, `"machineId"`, `"MachineId"`), 400, "InvalidRequestBody"},
		{creation(now, `"m0007"`, `"x"`), 404, "ResourceNotFound"},
		{creation(now.Add(-31 * 24 * time.Hour)), 404, "ResourceNotFound"},
		{creation(now.Add(time.Hour)), 404, "ResourceNotFound"},
	} {
		call(t, s, "POST", createPath, test.body).want(t, test.status, test.code)
	}
	wantEffects(t, s, map[string]int{})
}
