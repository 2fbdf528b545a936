package defendertest_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

func TestHunting(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 3})
	r := call(t, s, "POST", "/api/advancedqueries/run", `{"Query":"DeviceInfo | limit 10"}`).want(t, 200, "")
	got := decode[struct {
		Schema  []struct{ Name, Type string }
		Results []map[string]string
	}](t, r)
	if len(got.Results) != 3 || got.Results[2]["DeviceId"] != "m0003" {
		t.Errorf("got %s", r.body)
	}
	for _, column := range got.Schema {
		if _, ok := got.Results[0][column.Name]; !ok || column.Type == "" {
			t.Errorf("column %+v isn't in the results", column)
		}
	}
	if c := last(t, s); c.Effect != "" || !c.Processed || c.Family != "advancedqueries/run" {
		t.Errorf("the ledger says %+v", c)
	}
}

func TestHuntingBody(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, test := range []struct{ body, code string }{
		{`{}`, "MissingRequiredParameter"},
		{`{"Other":"x"}`, "MissingRequiredParameter"},
		{`{"Query":""}`, "MissingRequiredParameter"},
		{`{"query":"x"}`, "InvalidRequestBody"},
		{`{"Query":"x","QUERY":"y"}`, "InvalidRequestBody"},
		{`{"Query":7}`, "InvalidRequestBody"},
		{`"x"`, "InvalidRequestBody"},
		{``, "InvalidRequestBody"},
	} {
		call(t, s, "POST", "/api/advancedqueries/run", test.body).want(t, 400, test.code)
	}
}

const (
	huntPath    = "/api/advancedqueries/run"
	huntXDRPath = "/api/advancedhunting/run"
	query       = `{"Query":"DeviceInfo"}`
)

// The CPU time of a cycle is shared by both APIs, and nothing of it is carried
// over.
func TestHuntingCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			HuntingCPU: 100 * time.Second, HuntingCost: 30 * time.Second, Phase: 5 * time.Minute,
		})
		for _, path := range []string{huntPath, huntXDRPath, huntPath, huntXDRPath} { // the last overdraws
			direct(s, "POST", path, query).want(t, 200, "")
		}
		time.Sleep(90 * time.Second)
		for _, path := range []string{huntPath, huntXDRPath} {
			r := direct(s, "POST", path, query).want(t, 429, "429")
			r.wantMessage(t, "Query execution was blocked: the tenant has reached 100% of the CPU resources allocated to it for this 15-minute cycle.")
			if wait := r.header.Get("Retry-After"); wait != "" {
				t.Errorf("Retry-After is %s", wait)
			}
		}
		direct(s, "GET", "/api/machines", "").want(t, 200, "") // of other calls it is no concern
		time.Sleep(510*time.Second - 1)
		direct(s, "POST", huntPath, query).want(t, 429, "429")
		time.Sleep(time.Nanosecond)
		for range 4 {
			direct(s, "POST", huntPath, query).want(t, 200, "")
		}
		direct(s, "POST", huntPath, query).want(t, 429, "429")
	})
}

// The cycle is scaled as the minute is, and a query costs a second unless told
// otherwise. No quota on the number of calls is needed.
func TestHuntingCPUScaled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			HuntingCPU: 3 * time.Second, Minute: time.Second, NoQuotas: true, Wait: defendertest.WaitSentence,
		})
		for range 3 {
			for range 3 {
				direct(s, "POST", huntPath, query).want(t, 200, "")
			}
			if r := direct(s, "POST", huntPath, query).want(t, 429, "429"); !strings.HasSuffix(r.message,
				" for this 15-minute cycle.") {
				t.Errorf("got %s", r.message)
			}
			time.Sleep(15 * time.Second)
		}
	})
}

// A query that the quota of calls refuses costs nothing, and the other way round.
func TestHuntingCPUAndQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			HuntingCPU: 3 * time.Second, Quotas: map[string][]quota.Window{"advancedqueries/run": {{N: 2, Per: time.Minute}}},
		})
		for _, test := range []struct {
			sleep  time.Duration
			status int
			text   string
		}{
			{0, 200, ""}, {0, 200, ""}, {0, 429, "2 per 00:01:00"}, {0, 429, "2 per 00:01:00"},
			{time.Minute, 200, ""}, {0, 429, "CPU"}, {13 * time.Minute, 429, "CPU"}, {time.Minute, 200, ""},
		} {
			time.Sleep(test.sleep)
			if r := direct(s, "POST", huntPath, query); r.status != test.status || !strings.Contains(r.message, test.text) {
				t.Errorf("got %d %s, want %d %s", r.status, r.message, test.status, test.text)
			}
		}
	})
}

// A marker in a query makes it one that fails for good.
func TestHuntingMarkers(t *testing.T) {
	s := start(t, defendertest.Config{})
	for marker, part := range map[string]string{
		"// defendertest: too long":  "exceeded the allowed limits",
		"// defendertest: too large": "exceeded the allowed result size",
	} {
		for _, path := range []string{huntPath, huntXDRPath} {
			r := call(t, s, "POST", path, `{"Query":"DeviceInfo `+marker+`"}`).want(t, 400, "BadRequest")
			if !strings.Contains(r.message, part) {
				t.Errorf("%s: got %s", marker, r.message)
			}
		}
	}
}
