package defendertest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// control calls the control API, and decodes its answer.
func control[T any](t *testing.T, s *defendertest.Server, method, path, body string, status int) T {
	t.Helper()
	req, err := http.NewRequest(method, s.ControlURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := newClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status ||
		resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s %s: got %d %s and error %v, want %d", method, path, resp.StatusCode, data, err,
			status)
	}
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, data)
	}
	return v
}

type controlError struct{ Error string }

// startControlled returns a server with its control API.
func startControlled(t *testing.T, c defendertest.Config) *defendertest.Server {
	c.ControlAddr = "127.0.0.1:0"
	return start(t, c)
}

// Faults and quotas are changed while the server runs, the ledger is read, and all begins anew.
func TestControl(t *testing.T) {
	s := startControlled(t, defendertest.Config{Faults: defendertest.Faults{Error503: 1}})
	if s.ControlURL == s.URL || !strings.HasPrefix(s.ControlURL, "http://127.0.0.1:") {
		t.Fatalf("the control API is at %s", s.ControlURL)
	}
	call(t, s, "GET", "/api/machines", "").want(t, 503, "ServiceUnavailable")
	if f := control[map[string]any](t, s, "GET", "/faults", "", 200); f["Error503"] != 1.0 ||
		f["Error500"] != 0.0 || f["SlowFor"] != "1s" || len(f) != 17 {
		t.Errorf("the faults are %v", f)
	}
	if f := control[map[string]any](t, s, "PUT", "/faults", `{"After500":0.5,"SlowFor":"2s"}`,
		200); f["After500"] != 0.5 || f["Error503"] != 0.0 || f["SlowFor"] != "2s" {
		t.Errorf("the faults are %v", f)
	}
	control[any](t, s, "PUT", "/faults", `{}`, 200)
	for range 2 {
		call(t, s, "POST", "/api/machines/m0001/tags", `{"Value":"red","Action":"Add"}`).want(t, 200, "")
	}
	type window struct {
		N   int
		Per string
	}
	quotas := control[map[string][]window](t, s, "PUT", "/quotas",
		`{"machines":[{"n":2,"per":"1m"},{"n":3,"per":"1h"}],"alerts":[]}`, 200)
	if got := quotas["machines"]; !slices.Equal(got, []window{{2, "1m0s"}, {3, "1h0m0s"}}) ||
		len(quotas["alerts"]) != 0 || len(quotas["machines/{id}"]) != 2 {
		t.Errorf("the quotas are %v", quotas)
	}
	for _, status := range []int{200, 200, 429} {
		if r := call(t, s, "GET", "/api/machines", ""); r.status != status {
			t.Errorf("got %d, want %d", r.status, status)
		}
	}
	for range 150 {
		direct(s, "GET", "/api/alerts", "").want(t, 200, "")
	}

	type ledger struct {
		Calls []struct {
			Seq          int
			At           time.Time
			Method, Path string
			Family, Code string
			Status       int
			Processed    bool
			Effects      []string
			Fault        string
		}
		Next int
	}
	whole := control[ledger](t, s, "GET", "/ledger", "", 200)
	if len(whole.Calls) != 156 || whole.Next != 156 || whole.Calls[0].Fault != "Error503" ||
		whole.Calls[1].Effects[0] != "addTag m0001 red" || whole.Calls[5].Status != 429 ||
		whole.Calls[5].Code != "429" {
		t.Errorf("the ledger has %d calls up to %d: %+v", len(whole.Calls), whole.Next, whole.Calls[:6])
	}
	if part := control[ledger](t, s, "GET", "/ledger?after=3&limit=2", "",
		200); len(part.Calls) != 2 || part.Calls[0].Seq != 4 || part.Next != 5 {
		t.Errorf("after 3 there are %+v", part)
	}
	if part := control[ledger](t, s, "GET", "/ledger?family=machines", "",
		200); len(part.Calls) != 4 || part.Next != 156 {
		t.Errorf("of machines there are %+v", part)
	}
	if part := control[ledger](t, s, "GET", "/ledger?after=156", "", 200); part.Calls == nil ||
		len(part.Calls) != 0 || part.Next != 156 {
		t.Errorf("after the last there are %+v", part)
	}
	if counts := control[map[string]map[string]int](t, s, "GET", "/counts", "",
		200); counts["machines"]["throttled"] != 1 || counts["machines"]["failed"] != 1 ||
		counts["machines"]["calls"] != 4 {
		t.Errorf("the counts are %v", counts)
	}
	if effects := control[map[string]int](t, s, "GET", "/effects", "",
		200); effects["addTag m0001 red"] != 2 || len(effects) != 1 {
		t.Errorf("the effects are %v", effects)
	}
	type about struct {
		URL, StorageURL, Minute string
		Machines                []string
	}
	if a := control[about](t, s, "GET", "/server", "", 200); a.URL != s.URL ||
		a.StorageURL != s.StorageURL || a.Minute != "1m0s" || len(a.Machines) != 50 {
		t.Errorf("the server is %+v", a)
	}

	control[any](t, s, "POST", "/reset", "", 200)
	if len(s.Calls()) != 0 || len(s.Effects()) != 0 || len(s.Counts()) != 0 ||
		len(tagsOf(t, s, "m0001")) != 0 {
		t.Errorf("after a reset there are calls %v and effects %v", s.Calls(), s.Effects())
	}
	// The quota is unused, and still the one that was set.
	for _, status := range []int{200, 200, 429} {
		if r := call(t, s, "GET", "/api/machines", ""); r.status != status {
			t.Errorf("got %d, want %d", r.status, status)
		}
	}
}

// What can't be meant changes nothing, and the error says what is wrong.
func TestControlRefusals(t *testing.T) {
	s := startControlled(t, defendertest.Config{})
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"PUT", "/faults", `{"Error5":0.1}`, 400, `no fault \"Error5\"`},
		{"PUT", "/faults", `{"Error500":1.5}`, 400, "use a share from 0 to 1"},
		{"PUT", "/faults", `{"Error500":0.6,"Slow":0.6}`, 400, "in sum"},
		{"PUT", "/faults", `{"Error500":"much"}`, 400, "no number"},
		{"PUT", "/faults", `{"SlowFor":"long"}`, 400, "use a duration"},
		{"PUT", "/faults", `{"SlowFor":5}`, 400, "SlowFor is 5: use a duration"},
		{"PUT", "/faults", `{"SlowFor":["1s"]}`, 400, "use a duration"},
		{"PUT", "/faults", `{"SlowFor":"-1s"}`, 400, "use a positive duration"},
		{"PUT", "/faults", `{"Error500":0.1} {}`, 400, "more than one"},
		{"PUT", "/faults", `[]`, 400, "no JSON"},
		{"PUT", "/faults", `{"x":` + strings.Repeat("1", 2<<20) + `}`, 400, "no JSON"},
		{"PUT", "/quotas", `{"machine":[]}`, 400, "no family"},
		{"PUT", "/quotas", `{"machines":[{"n":0,"per":"1m"}]}`, 400, "use at least 1"},
		{"PUT", "/quotas", `{"machines":[{"n":1,"per":"soon"}]}`, 400, "use a duration"},
		{"PUT", "/quotas", `{"machines":[{"m":1,"per":"1m"}]}`, 400, "no JSON"},
		{"GET", "/ledger?after=x", "", 400, "use a number"},
		{"GET", "/ledger?limit=-1", "", 400, "use a number"},
		{"POST", "/faults", `{}`, 405, "GET or PUT"},
		{"GET", "/reset", "", 405, "POST"},
		{"GET", "/", "", 404, "no such path"},
		{"GET", "/api/machines", "", 404, "no such path"},
	} {
		got := control[controlError](t, s, test.method, test.path, test.body, test.status)
		if said, _ := json.Marshal(got.Error); !strings.Contains(string(said), test.says) {
			t.Errorf("%s %s %.50s: said %q", test.method, test.path, test.body, got.Error)
		}
	}
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	if n := len(s.Calls()); n != 1 {
		t.Errorf("the ledger has %d calls: those of the control API aren't its business", n)
	}
}

// What says nothing, or two things, changes nothing: a script that meant something would go on with
// faults that are gone, or a quota that is lifted.
func TestControlTakesNothingForNothing(t *testing.T) {
	s := startControlled(t, defendertest.Config{
		Faults: defendertest.Faults{Partial206: 0.25},
		Quotas: map[string][]quota.Window{"machines": {{N: 7, Per: time.Minute}}},
	})
	before := []string{
		string(control[json.RawMessage](t, s, "GET", "/faults", "", 200)), string(control[json.RawMessage](t, s, "GET", "/quotas", "", 200)),
	}
	for _, test := range []struct{ method, path, body, says string }{
		{"PUT", "/faults", `null`, "use an object"},
		{"PUT", "/faults", ``, "no JSON"},
		{"PUT", "/faults", `0`, "use an object"},
		{"PUT", "/faults", `{`, "no JSON"},
		{"PUT", "/faults", `{"Error500"`, "no JSON"},
		{"PUT", "/faults", `{"Error500":}`, "no JSON"},
		{"PUT", "/faults", `{"Error500":0.1,}`, "no JSON"},
		{"PUT", "/faults", `{"Error500":null}`, "Error500"},
		{"PUT", "/faults", `{"SlowFor":null}`, "SlowFor"},
		{"PUT", "/faults", `{"Error500":0.1,"Error500":0}`, "twice"},
		{"PUT", "/faults", `{"Error500":0.1,"Error\u0035\u0030\u0030":0}`, "twice"},
		{"PUT", "/faults", `{"Error500":true}`, "use a share"},
		{"PUT", "/quotas", `null`, "use an object"},
		{"PUT", "/quotas", `{"machines":null}`, "machines"},
		{"PUT", "/quotas", `{"machines":[null]}`, "use a duration"},
		{"PUT", "/quotas", `{"machines":[],"machines":[]}`, "twice"},
		{"PUT", "/quotas", `{"machines":{}}`, "no JSON"},
		{"PUT", "/quotas", `{"machines":[]} null`, "more than one"},
		{"GET", "/ledger?aftr=3", "", "after"},
		{"GET", "/ledger?after=1&after=2", "", "twice"},
		{"GET", "/ledger?after=1%zz", "", "can't be read"},
		{"GET", "/ledger?Family=machines", "", "family"},
	} {
		t.Run(test.path+" "+test.body, func(t *testing.T) {
			got := control[controlError](t, s, test.method, test.path, test.body, 400)
			if !strings.Contains(got.Error, test.says) {
				t.Errorf("%s %s %s: said %q", test.method, test.path, test.body, got.Error)
			}
			for i, path := range []string{"/faults", "/quotas"} {
				if now := string(control[json.RawMessage](t, s, "GET", path, "", 200)); now != before[i] {
					t.Errorf("%s %s %s: %s are %s", test.method, test.path, test.body, path, now)
				}
			}
		})
	}
}

// A page in a browser can't get at it, and neither can another host.
func TestControlIsForThisHostAlone(t *testing.T) {
	s := startControlled(t, defendertest.Config{})
	for _, test := range []struct {
		host, origin string
		status       int
	}{
		{"", "", 200}, {"localhost:80", "", 200}, {"[::1]", "", 200}, {"127.0.0.2", "", 200},
		{"evil.example", "", 403}, {"127.0.0.1.evil.example", "", 403}, {"10.0.0.1", "", 403},
		{"", "https://evil.example", 403}, {"", "null", 403},
	} {
		req, err := http.NewRequest("POST", s.ControlURL+"/reset", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = test.host
		if test.origin != "" {
			req.Header.Set("Origin", test.origin)
		}
		resp, err := newClient().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != test.status {
			t.Errorf("%+v: got %d", test, resp.StatusCode)
		}
	}
	for _, address := range []string{"0.0.0.0:0", ":0"} {
		open := defendertest.NewUnstartedServer(defendertest.Config{ControlAddr: address})
		defer open.Close()
		if err := open.Listen(); err == nil || !strings.Contains(err.Error(), "loopback") ||
			open.URL != "" {
			t.Errorf("%s: got error %v", address, err)
		}
	}
}

// The document in docs names each path and method, each field and each fault, and no other.
func TestControlDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/simulator.openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties           map[string]json.RawMessage
		AdditionalProperties any
	}
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]any
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	s := startControlled(t, defendertest.Config{})
	for path, methods := range doc.Paths {
		for method := range methods {
			body := strings.NewReader("{}")
			req, err := http.NewRequest(strings.ToUpper(method), s.ControlURL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := newClient().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("%s %s: got %d", method, path, resp.StatusCode)
			}
		}
	}
	for _, path := range []string{"/server", "/faults", "/quotas", "/ledger", "/counts", "/effects",
		"/reset"} {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
			req := httptest.NewRequest(method, s.ControlURL+path, strings.NewReader("{}"))
			req.RequestURI = ""
			resp, err := newClient().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if _, ok := doc.Paths[path][strings.ToLower(method)]; ok != (resp.StatusCode == 200) {
				t.Errorf("%s %s: got %d, and that it is in the document is %v", method, path, resp.StatusCode,
					ok)
			}
		}
	}
	call(t, s, "GET", "/api/machines", "")
	names := func(object map[string]any, of string) {
		t.Helper()
		for name := range object {
			if _, ok := doc.Components.Schemas[of].Properties[name]; !ok {
				t.Errorf("%s has no %s in the document", of, name)
			}
		}
		if want := len(doc.Components.Schemas[of].Properties); len(object) != want {
			t.Errorf("%s has %d fields, %d in the document", of, len(object), want)
		}
	}
	names(control[map[string]any](t, s, "GET", "/faults", "", 200), "Faults")
	names(control[map[string]any](t, s, "GET", "/server", "", 200), "Server")
	ledger := control[map[string]any](t, s, "GET", "/ledger", "", 200)
	names(ledger, "Ledger")
	names(ledger["calls"].([]any)[0].(map[string]any), "Call")
	names(control[map[string]map[string]any](t, s, "GET", "/counts", "", 200)["machines"], "Count")
	names(control[map[string][]map[string]any](t, s, "GET", "/quotas", "", 200)["machines"][0],
		"Window")
}

// SetQuotas panics on what can't be meant, and begins to count anew for what is named alone.
func TestSetQuotas(t *testing.T) {
	one := []quota.Window{{N: 1, Per: time.Hour}}
	s := start(t, defendertest.Config{Quotas: map[string][]quota.Window{"machines": one,
		"alerts": one}})
	for _, path := range []string{"/api/machines", "/api/alerts"} {
		call(t, s, "GET", path, "").want(t, 200, "")
		call(t, s, "GET", path, "").want(t, 429, "429")
	}
	s.SetQuotas(map[string][]quota.Window{"machines": one})
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	call(t, s, "GET", "/api/machines", "").want(t, 429, "429")
	call(t, s, "GET", "/api/alerts", "").want(t, 429, "429")
	wantPanic(t, "Quotas has no family",
		func() { s.SetQuotas(map[string][]quota.Window{"machine": one}) })
	unlimited := start(t, defendertest.Config{NoQuotas: true})
	unlimited.SetQuotas(map[string][]quota.Window{"machines": one})
	call(t, unlimited, "GET", "/api/machines", "").want(t, 200, "")
	call(t, unlimited, "GET", "/api/machines", "").want(t, 429, "429")
}

// The dice are set back too, so that a test that is repeated meets the same faults.
func TestResetSetsTheDiceBack(t *testing.T) {
	s := start(t, defendertest.Config{NoQuotas: true, Seed: 7,
		Faults: defendertest.Faults{Error500: 0.5}})
	run := func() (faults []string) {
		for range 50 {
			call(t, s, "GET", "/api/machines", "")
		}
		for _, c := range s.Calls() {
			faults = append(faults, c.Fault)
		}
		return faults
	}
	first := run()
	s.Reset()
	if second := run(); !slices.Equal(first, second) {
		t.Errorf("got %v, and then %v", first, second)
	}
}

// FuzzControl: whatever the control API is asked, its answer is JSON, it changes nothing that it
// then can't list, and the server lives on.
func FuzzControl(f *testing.F) {
	for _, seed := range []struct{ method, target, host, body string }{
		{"PUT", "/faults", "localhost", `{"Error500":0.1,"SlowFor":"1s"}`},
		{"PUT", "/faults", "[::1]:1", `{"Error500":1e309}`},
		{"PUT", "/faults", "127.0.0.1", `{"SlowFor":7}`}, {"PUT", "/faults", "127.0.0.1", `null`},
		{"PUT", "/quotas", "127.0.0.1", `{"machines":[{"n":1,"per":"1ns"}],"alerts":null}`},
		{"PUT", "/quotas", "127.0.0.1", `{"machines":[{"n":9223372036854775807,"per":"2540400h"}]}`},
		{"GET", "/ledger?after=9223372036854775807&limit=0", "localhost", ""},
		{"POST", "/reset", "a", ""}, {"\xff", "//", "[", ""},
	} {
		f.Add(seed.method, seed.target, seed.host, seed.body)
	}
	s := defendertest.NewUnstartedServer(defendertest.Config{Machines: 3, KeepCalls: 10})
	f.Fuzz(func(t *testing.T, method, target, host, body string) {
		req := httptest.NewRequest("GET", "http://localhost/", strings.NewReader(body))
		u, err := req.URL.Parse(target)
		if err != nil {
			return
		}
		req.Method, req.URL, req.RequestURI, req.Host = method, u, target, host
		w := httptest.NewRecorder()
		defendertest.ServeControl(s, w, req)
		if !json.Valid(w.Body.Bytes()) || w.Code >= 500 {
			t.Fatalf("%s %q: %d %q", method, target, w.Code, w.Body)
		}
		for _, path := range []string{"/faults", "/quotas", "/ledger"} {
			w := httptest.NewRecorder()
			defendertest.ServeControl(s, w, httptest.NewRequest("GET", "http://localhost"+path, nil))
			if w.Code != 200 {
				t.Fatalf("%s %q: %s is %d %s", method, target, path, w.Code, w.Body)
			}
		}
		s.SetFaults(defendertest.Faults{})
		s.SetQuotas(map[string][]quota.Window{"machines": nil})
		if r := direct(s, "GET", "/api/machines", ""); r.status != 200 {
			t.Fatalf("%s %q: then %d %s", method, target, r.status, r.body)
		}
	})
}
