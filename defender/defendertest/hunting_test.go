package defendertest_test

import (
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
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
