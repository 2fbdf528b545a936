package defendertest_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

const session = `{"Comment":"c","Commands":[
	{"type":"PutFile","params":[{"key":"FileName","value":"a.exe"}]},
	{"type":"RunScript","params":[{"key":"ScriptName","value":"a.ps1"},{"key":"Args","value":"x"}]},
	{"type":"GetFile","params":[{"key":"Path","value":"C:\\a.txt"}]}]}`

type liveAction struct {
	ID, Status string
	Commands   []struct {
		Index         int
		CommandStatus string
		StartTime     *time.Time
		Command       struct{ Type string }
	}
}

type single struct{ Value string }

// A tenant has 25 sessions, and what is beyond them is 429 without a word of when.
func TestLiveResponseSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			ActionTime: time.Minute, Quotas: map[string][]quota.Window{"machines/{id}/runliveresponse": {}},
		})
		run := func(i int) reply {
			if i == 24 {
				time.Sleep(time.Second) // the last of the 25 starts later
			}
			return direct(s, "POST", fmt.Sprintf("/api/machines/m%04d/runliveresponse", i+1), session)
		}
		for i := range 25 {
			run(i).want(t, 201, "")
		}
		r := run(25).want(t, 429, "TooManyRequests")
		if r.header.Get("Retry-After") != "" || strings.Contains(r.message, "seconds") {
			t.Errorf("a wait is told: %s", r.message)
		}
		// Another kind of action is no session.
		direct(s, "POST", "/api/machines/m0030/isolate", isolation).want(t, 201, "")
		run(0).want(t, 400, "ActiveRequestAlreadyExists")
		time.Sleep(59*time.Second - 1)
		run(25).want(t, 429, "TooManyRequests")
		time.Sleep(time.Nanosecond)
		for i := range 24 {
			run(i).want(t, 201, "")
		}
		run(25).want(t, 429, "TooManyRequests")
		wantEffects := s.Effects()
		if wantEffects["runliveresponse m0001"] != 2 || wantEffects["runliveresponse m0026"] != 0 {
			t.Errorf("effects are %v", wantEffects)
		}
		// A cancelled session makes room.
		id := decode[list[identified]](t, direct(s, "GET", "/api/machineactions?$top=1", "")).Value[0].ID
		direct(s, "POST", "/api/machineactions/"+id+"/cancel", `{"Comment":"c"}`).want(t, 200, "")
		run(25).want(t, 201, "")
	})
}

func TestLiveResponseCommands(t *testing.T) {
	s := start(t, defendertest.Config{NoQuotas: true})
	for commands, code := range map[string]string{
		``:                               "MissingRequiredParameter",
		`{"type":"Delete","params":[]}`:  "InvalidInput",
		`{"type":"Put","params":[]}`:     "InvalidInput",
		`{"type":"","params":[]}`:        "InvalidInput",
		`{"Type":"GetFile","params":[]}`: "InvalidRequestBody",
		`7`:                              "InvalidRequestBody",
		`{"type":"GetFile","params":[]},{"type":"RunScript","params":[]}`: "InvalidInput",
	} {
		call(t, s, "POST", "/api/machines/m0001/runliveresponse", `{"Comment":"c","Commands":[`+commands+`]}`).want(t, 400, code)
	}
	call(t, s, "POST", "/api/machines/m0001/runliveresponse",
		`{"Comment":"c","Commands":[{"type":"GetFile","params":[]},{"type":"GetFile","params":[]}]}`).want(t, 201, "")
}

// Results are there when the session is over, through a link that lasts half an
// hour and can be had again.
func TestLiveResponseResults(t *testing.T) {
	for _, minute := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := defendertest.NewUnstartedServer(defendertest.Config{Minute: minute, ActionTime: time.Minute})
			ordered := decode[liveAction](t, direct(s, "POST", "/api/machines/m0001/runliveresponse", session).want(t, 201, ""))
			if len(ordered.Commands) != 3 || ordered.Commands[1].CommandStatus != "Created" || ordered.Commands[1].Command.Type != "RunScript" || ordered.Commands[1].StartTime != nil {
				t.Errorf("got %+v", ordered)
			}
			link := func(index string) reply {
				return direct(s, "GET", "/api/machineactions/"+ordered.ID+"/GetLiveResponseResultDownloadLink(index="+index+")", "")
			}
			link("1").want(t, 404, "NotFound")
			time.Sleep(time.Minute)
			polled := decode[liveAction](t, direct(s, "GET", "/api/machineactions/"+ordered.ID, ""))
			if c := polled.Commands[1]; polled.Status != "Succeeded" || c.CommandStatus != "Completed" || c.StartTime == nil {
				t.Errorf("got %+v", polled)
			}
			link("0").want(t, 404, "NotFound") // PutFile has no result
			link("3").want(t, 404, "NotFound")
			link("x").want(t, 400, "InvalidInput")
			address := decode[single](t, link("1").want(t, 200, "")).Value
			if got := decode[map[string]any](t, directly(s, address).want(t, 200, "")); got["script_name"] != "a.ps1" || got["exit_code"] != 0.0 {
				t.Errorf("got %v", got)
			}
			if r := directly(s, decode[single](t, link("2").want(t, 200, "")).Value).want(t, 200, ""); len(r.body) == 0 {
				t.Error("the file is empty")
			}
			life := 30 * time.Minute
			if minute != 0 {
				life = 30 * minute
			}
			time.Sleep(life)
			wantRefused(t, directly(s, address), 403, "AuthenticationFailed", "Signature not valid")
			directly(s, decode[single](t, link("1").want(t, 200, "")).Value).want(t, 200, "")
		})
	}
}

// getPackageUri is 404 until the package is there, and then a string in quotes.
func TestPackageURI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{ActionTime: time.Hour})
		order := func(name string) string {
			return decode[identified](t, direct(s, "POST", "/api/machines/m0001/"+name, `{"Comment":"c"}`).want(t, 201, "")).ID
		}
		id, other := order("collectInvestigationPackage"), order("unisolate")
		path := "/api/machineactions/" + id + "/getPackageUri"
		direct(s, "GET", path, "").want(t, 404, "NotFound")
		direct(s, "GET", "/api/machineactions/x/getPackageUri", "").want(t, 404, "ResourceNotFound")
		direct(s, "GET", path, "").want(t, 429, "429").wantMessage(t,
			"API calls quota exceeded! Maximum allowed 2 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 60 seconds.")
		time.Sleep(time.Hour - 1)
		direct(s, "GET", path, "").want(t, 404, "NotFound")
		time.Sleep(time.Nanosecond)
		r := direct(s, "GET", path, "").want(t, 200, "")
		address, ok := strings.CutPrefix(decode[single](t, r).Value, `"http`)
		if !ok || !strings.HasSuffix(address, `"`) {
			t.Fatalf("got %s", r.body)
		}
		archive := directly(s, "http"+strings.TrimSuffix(address, `"`)).want(t, 200, "")
		if !strings.HasPrefix(string(archive.body), "PK") {
			t.Errorf("got %q", archive.body)
		}
		time.Sleep(time.Minute)
		direct(s, "GET", "/api/machineactions/"+other+"/getPackageUri", "").want(t, 404, "NotFound")
	})
}
