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

type action struct {
	ID, Type, Status, MachineID, RequestorComment, ExternalID string
	CreationDateTimeUTC                                       time.Time
}

func TestActionsAreCreated(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, test := range []struct {
		name, kind, more string
		status           int
	}{
		{"isolate", "Isolate", `,"IsolationType":"Selective"`, 201},
		{"unisolate", "Unisolate", "", 201},
		{"runAntiVirusScan", "RunAntiVirusScan", `,"ScanType":"Quick"`, 201},
		{"restrictCodeExecution", "RestrictCodeExecution", "", 201},
		{"unrestrictCodeExecution", "UnrestrictCodeExecution", "", 201},
		{"StopAndQuarantineFile", "StopAndQuarantineFile", `,"Sha1":"` + strings.Repeat("0f", 20) + `"`, 201},
		{"offboard", "Offboard", "", 200},
		{"collectInvestigationPackage", "CollectInvestigationPackage", "", 201},
		{"startInvestigation", "StartInvestigation", "", 201},
		{"runliveresponse", "LiveResponse", `,"Commands":[{"type":"GetFile","params":[]}]`, 201},
	} {
		path, body := "/api/machines/m0007/"+test.name, `{"Comment":"because"`+test.more+`}`
		before := time.Now()
		a := decode[action](t, call(t, s, "POST", path, body).want(t, test.status, ""))
		if !isGUID(a.ID) || a.Type != test.kind || a.Status != "Pending" || a.MachineID != "m0007" || a.RequestorComment != "because" ||
			a.CreationDateTimeUTC.Before(before.Truncate(0)) || a.CreationDateTimeUTC.After(time.Now()) {
			t.Errorf("%s: got %+v", test.name, a)
		}
		call(t, s, "POST", path, body).want(t, 400, "ActiveRequestAlreadyExists")
		call(t, s, "POST", path, `{}`).want(t, 400, "MissingRequiredParameter")
		call(t, s, "POST", path, `{"comment":"because"}`).want(t, 400, "InvalidRequestBody")
		call(t, s, "POST", path, `{"Comment":7}`).want(t, 400, "InvalidRequestBody")
		call(t, s, "POST", path, ``).want(t, 400, "InvalidRequestBody").wantMessage(t, "Request body is incorrect")
		call(t, s, "POST", "/api/machines/x/"+test.name, body).want(t, 404, "ResourceNotFound")
		if n := s.Effects()[test.name+" m0007"]; n != 1 {
			t.Errorf("%s was carried out %d times", test.name, n)
		}
	}
}

func TestActionParameters(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, test := range []struct{ name, more, code string }{
		{"isolate", `,"IsolationType":"full"`, "InvalidInput"},
		{"runAntiVirusScan", ``, "MissingRequiredParameter"},
		{"runAntiVirusScan", `,"ScanType":"quick"`, "InvalidInput"},
		{"runAntiVirusScan", `,"scanType":"Quick"`, "InvalidRequestBody"},
		{"StopAndQuarantineFile", ``, "MissingRequiredParameter"},
		{"StopAndQuarantineFile", `,"Sha1":"5f2"`, "InvalidHashValue"},
		{"runliveresponse", `,"Commands":[]`, "MissingRequiredParameter"},
	} {
		call(t, s, "POST", "/api/machines/m0007/"+test.name, `{"Comment":"c"`+test.more+`}`).want(t, 400, test.code)
	}
	for i, key := range []string{"ExternalId", "externalId"} {
		path := "/api/machines/" + s.MachineIDs()[i] + "/isolate"
		a := decode[action](t, call(t, s, "POST", path, `{"Comment":"c","`+key+`":"mine"}`).want(t, 201, ""))
		if a.ExternalID != "mine" {
			t.Errorf("%s: externalId is %q", key, a.ExternalID)
		}
	}
}

// Only the same type on the same machine is in the way.
func TestActiveRequestAlreadyExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{ActionTime: time.Minute})
		direct(s, "POST", isolate, isolation).want(t, 201, "")
		direct(s, "POST", "/api/machines/m0008/isolate", isolation).want(t, 201, "")
		direct(s, "POST", "/api/machines/m0007/unisolate", isolation).want(t, 201, "")
		time.Sleep(time.Minute - 1)
		direct(s, "POST", isolate, isolation).want(t, 400, "ActiveRequestAlreadyExists")
		time.Sleep(time.Nanosecond)
		direct(s, "POST", isolate, isolation).want(t, 201, "")
		wantEffects(t, s, map[string]int{"isolate m0007": 2, "isolate m0008": 1, "unisolate m0007": 1})
	})
}

func TestActionStatusOverTime(t *testing.T) {
	for _, takes := range []time.Duration{0, 4 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := defendertest.NewUnstartedServer(defendertest.Config{ActionTime: takes})
			if takes == 0 {
				takes = 300 * time.Millisecond
			}
			id := decode[action](t, direct(s, "POST", isolate, isolation)).ID
			status := func() string {
				t.Helper()
				return decode[action](t, direct(s, "GET", "/api/machineactions/"+id, "").want(t, 200, "")).Status
			}
			for _, step := range []struct {
				sleep time.Duration
				want  string
			}{{0, "Pending"}, {takes/2 - 1, "Pending"}, {1, "InProgress"}, {takes/2 - 1, "InProgress"}, {1, "Succeeded"}, {time.Hour, "Succeeded"}} {
				time.Sleep(step.sleep)
				if got := status(); got != step.want {
					t.Errorf("got %s, want %s", got, step.want)
				}
			}
		})
	}
}

func TestUnknownAction(t *testing.T) {
	s := start(t, defendertest.Config{})
	call(t, s, "GET", "/api/machineactions/x", "").want(t, 404, "ResourceNotFound")
	call(t, s, "POST", "/api/machineactions/x/cancel", `{"Comment":"c"}`).want(t, 404, "ResourceNotFound")
}

func TestActionsFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{PageSize: 2})
		order := func(machine, name string) string {
			t.Helper()
			return decode[action](t, direct(s, "POST", "/api/machines/"+machine+"/"+name, `{"Comment":"c"}`)).ID
		}
		a := order("m0001", "isolate")
		time.Sleep(time.Second)
		since := time.Now().UTC()
		b := order("m0001", "unisolate")
		time.Sleep(time.Millisecond)
		c := order("m0002", "isolate")
		for _, test := range []struct {
			filter string
			want   []string
		}{
			{"machineId eq 'm0001'", []string{b, a}},
			{"machineId eq 'm0001' and type eq 'Isolate'", []string{a}},
			{"machineId  eq  'm0001'  and  type ne 'Isolate'", []string{b}},
			{"status eq 'Succeeded'", []string{a}},
			{"status eq 'Pending' and type eq 'Isolate' and machineId eq 'm0002'", []string{c}},
			{"machineId eq 'it''s and type eq'", nil},
			{"id eq '" + b + "'", []string{b}},
			{"requestor eq 'nobody'", nil},
			{"creationDateTimeUtc ge " + since.Format(time.RFC3339), []string{c, b}},
			{"creationDateTimeUtc gt " + since.Format("2006-01-02T15:04:05.0000000Z"), []string{c}},
			{"creationDateTimeUtc lt " + since.Format(time.RFC3339), []string{a}},
			{"creationDateTimeUtc le " + since.Format(time.RFC3339), []string{b, a}},
		} {
			r := direct(s, "GET", "/api/machineactions?$filter="+url.QueryEscape(test.filter), "").want(t, 200, "")
			if got := ids(decode[list[identified]](t, r).Value); !slices.Equal(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.filter, got, test.want)
			}
		}
		direct(s, "GET", "/api/machineactions?$filter="+url.QueryEscape("externalId eq 'x'"), "").want(t, 400, "ODataError")
		first := decode[list[identified]](t, direct(s, "GET", "/api/machineactions", ""))
		second := decode[list[identified]](t, direct(s, "GET", first.Next, ""))
		if got := append(ids(first.Value), ids(second.Value)...); !slices.Equal(got, []string{c, b, a}) {
			t.Errorf("all pages have %v", got)
		}
	})
}

func TestCancelAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{})
		id := decode[action](t, direct(s, "POST", isolate, isolation)).ID
		cancel := "/api/machineactions/" + id + "/cancel"
		direct(s, "POST", cancel, `{}`).want(t, 400, "MissingRequiredParameter")
		direct(s, "POST", cancel, `{`).want(t, 400, "InvalidRequestBody")
		r := direct(s, "POST", cancel, `{"Comment":"no"}`).want(t, 200, "")
		if a := decode[action](t, r); a.Status != "Cancelled" {
			t.Errorf("status is %s", a.Status)
		}
		direct(s, "POST", cancel, `{"Comment":"no"}`).want(t, 400, "BadRequest")
		// What is cancelled is in nobody's way, and stays so.
		next := decode[action](t, direct(s, "POST", isolate, isolation).want(t, 201, "")).ID
		time.Sleep(time.Second)
		if a := decode[action](t, direct(s, "GET", "/api/machineactions/"+id, "")); a.Status != "Cancelled" {
			t.Errorf("status is %s", a.Status)
		}
		direct(s, "POST", "/api/machineactions/"+next+"/cancel", `{"Comment":"too late"}`).want(t, 400, "BadRequest")
		wantEffects(t, s, map[string]int{"isolate m0007": 2, "cancel " + id: 1})
	})
}
