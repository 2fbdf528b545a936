package defendertest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

func TestZeroConfig(t *testing.T) {
	s := start(t, defendertest.Config{})
	if !strings.HasPrefix(s.URL, "http://127.0.0.1:") || strings.HasSuffix(s.URL, "/") {
		t.Errorf("URL is %q", s.URL)
	}
	machines := s.MachineIDs()
	if len(machines) != 50 || machines[6] != "m0007" {
		t.Errorf("got machines %v", machines)
	}
	machines[0] = "changed"
	if s.MachineIDs()[0] != "m0001" {
		t.Error("MachineIDs isn't a copy")
	}
	if calls, effects := s.Calls(), s.Effects(); len(calls) != 0 || effects == nil || len(effects) != 0 {
		t.Errorf("a new server has calls %v and effects %v", calls, effects)
	}
}

func TestPrefixesAndCase(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, path := range []string{
		"/api/machines/m0001", "/api/v1.0/machines/m0001", "/API/V1.0/MACHINES/m0001",
		"/api/Machines/m0001/", "/api/machines/m%30001",
	} {
		call(t, s, "GET", path, "").want(t, 200, "")
	}
	call(t, s, "POST", "/api/machines/m0001/STOPANDQUARANTINEFILE",
		`{"Comment":"c","Sha1":"`+strings.Repeat("a", 40)+`"}`).want(t, 201, "")
	call(t, s, "GET", "/api/machines/M0001", "").want(t, 404, "ResourceNotFound")
}

func TestUnknownPath(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, path := range []string{"/", "/machines", "/api", "/api/", "/api/v2.0/machines", "/api/nothing", "/api/machines/m0001/isolate/more", "/api/machines/%20/%2f/x"} {
		call(t, s, "GET", path, "").want(t, 404, "NotFound")
		if c := last(t, s); c.Family != "" || c.Processed {
			t.Errorf("%s: the ledger says %+v", path, c)
		}
	}
}

func TestUnknownMethod(t *testing.T) {
	s := start(t, defendertest.Config{})
	r := call(t, s, "PUT", "/api/indicators", "").want(t, 405, "BadRequest")
	if allow := r.header.Get("Allow"); allow != "GET, POST" {
		t.Errorf("Allow is %q", allow)
	}
	call(t, s, "GET", "/api/machines/m0001/isolate", "").want(t, 405, "BadRequest")
}

func TestToken(t *testing.T) {
	s := start(t, defendertest.Config{
		Token:  "secret",
		Quotas: map[string][]quota.Window{"machines/{id}": {{N: 1, Per: time.Minute}}},
	})
	for _, header := range []string{"", "Bearer other", "Basic secret", "secret"} {
		call(t, s, "GET", "/api/machines/m0001", "", "Authorization", header).want(t, 401, "Unauthorized")
	}
	// What had no token has used up no quota.
	call(t, s, "GET", "/api/machines/m0001", "", "Authorization", "Bearer secret").want(t, 200, "")
	call(t, s, "GET", "/api/machines/m0001", "", "Authorization", "Bearer secret").want(t, 429, "429")
	call(t, s, "GET", "/api/nothing", "").want(t, 401, "Unauthorized")
}

func TestTargetsAreFresh(t *testing.T) {
	s := start(t, defendertest.Config{})
	seen := make(map[string]bool)
	for range 20 {
		r := call(t, s, "GET", "/api/machines/x", "").want(t, 404, "ResourceNotFound")
		r.wantMessage(t, "Machine x was not found")
		if seen[r.target] {
			t.Fatalf("target %s came twice", r.target)
		}
		seen[r.target] = true
		if c := last(t, s); c.Target != r.target || c.Code != r.code {
			t.Errorf("the ledger says %+v, the answer %s", c, r.body)
		}
	}
}

func TestLedger(t *testing.T) {
	s := start(t, defendertest.Config{})
	before := time.Now()
	call(t, s, "GET", "/api/v1.0/machines?$top=2", "")
	call(t, s, "POST", "/api/machines/m0007/isolate", isolation, "x-ms-client-request-id", "mine")
	call(t, s, "POST", "/api/machines/m0007/isolate", isolation)
	calls := s.Calls()
	for i, c := range calls {
		if c.At.Before(before) || c.At.After(time.Now()) {
			t.Errorf("call %d came at %v", i, c.At)
		}
		calls[i].At = time.Time{}
	}
	want := []defendertest.Call{
		{Seq: 1, Method: "GET", Path: "/api/v1.0/machines", RawQuery: "$top=2", Family: "machines", Status: 200, Processed: true},
		{Seq: 2, Method: "POST", Path: "/api/machines/m0007/isolate", Family: "machines/{id}/action", CallID: "mine", Status: 201, Processed: true, Effect: "isolate m0007"},
		{Seq: 3, Method: "POST", Path: "/api/machines/m0007/isolate", Family: "machines/{id}/action", Status: 400, Code: "ActiveRequestAlreadyExists", Target: calls[2].Target},
	}
	if !slices.Equal(calls, want) {
		t.Errorf("got\n%+v\nwant\n%+v", calls, want)
	}
	wantEffects(t, s, map[string]int{"isolate m0007": 1})
	calls[0].Path = "changed"
	s.Effects()["isolate m0007"] = 7
	if s.Calls()[0].Path == "changed" || s.Effects()["isolate m0007"] != 1 {
		t.Error("Calls or Effects isn't a copy")
	}
}

func TestBodyIsBounded(t *testing.T) {
	s := start(t, defendertest.Config{})
	huge := `{"Query":"` + strings.Repeat("x", 9<<20) + `"}`
	if r := direct(s, "POST", "/api/advancedqueries/run", huge); r.status != 400 || r.code != "InvalidRequestBody" {
		t.Errorf("got %d %s", r.status, r.code)
	}
}

func TestNilBody(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	req, err := http.NewRequest("POST", "http://tenant.example/api/advancedqueries/run", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newRecorder()
	s.ServeHTTP(w, req)
	newReply(w.Result(), w.Body.Bytes()).want(t, 400, "InvalidRequestBody")
}

func TestUnstarted(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	defer s.Close()
	if s.URL != "" {
		t.Errorf("URL is %q before Start", s.URL)
	}
	direct(s, "GET", "/api/machines", "").want(t, 200, "")
	s.Start()
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	if n := len(s.Calls()); n != 2 {
		t.Errorf("the ledger has %d calls, want 2", n)
	}
	wantPanic(t, "already started", s.Start)
}

func TestCloseTwice(t *testing.T) {
	s := defendertest.NewServer(defendertest.Config{})
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	s.Close()
	s.Close()
	if _, err := send(s, "GET", "/api/machines", ""); err == nil {
		t.Error("a closed server answers")
	}
	if n := len(s.Calls()); n != 1 {
		t.Errorf("the ledger has %d calls after Close, want 1", n)
	}
	unstarted := defendertest.NewUnstartedServer(defendertest.Config{})
	unstarted.Close()
	wantPanic(t, "is closed", unstarted.Start)
}

// A given address is used, and a taken one is an error that can be shown.
func TestAddr(t *testing.T) {
	first := start(t, defendertest.Config{Addr: "127.0.0.1:0"})
	second := defendertest.NewUnstartedServer(defendertest.Config{Addr: strings.TrimPrefix(first.URL, "http://")})
	defer second.Close()
	if err := second.Listen(); err == nil || second.URL != "" {
		t.Errorf("got error %v and URL %q", err, second.URL)
	}
	wantPanic(t, "no port to listen on", second.Start)
	// The storage's address is checked as well, and the API's is given back.
	api := "127.0.0.1:0"
	third := defendertest.NewUnstartedServer(defendertest.Config{Addr: api, StorageAddr: strings.TrimPrefix(first.URL, "http://")})
	defer third.Close()
	if err := third.Listen(); err == nil || third.URL != "" {
		t.Errorf("got error %v and URL %q", err, third.URL)
	}
}

// A server on all addresses has links to where the client found it.
func TestAddrEverywhere(t *testing.T) {
	s := start(t, defendertest.Config{Addr: ":0"})
	if !strings.HasPrefix(s.URL, "http://127.0.0.1:") || !strings.HasPrefix(s.StorageURL, "http://127.0.0.1:") {
		t.Errorf("URLs are %q and %q", s.URL, s.StorageURL)
	}
	req, err := http.NewRequest("GET", s.URL+"/api/machines/SoftwareVulnerabilitiesExport", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "simulator.example:8080"
	resp, err := newClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	port := s.StorageURL[strings.LastIndex(s.StorageURL, ":"):]
	if !strings.Contains(body.String(), `"http://simulator.example`+port+`/`) {
		t.Errorf("got %s", body.String())
	}
}

func TestCounts(t *testing.T) {
	s := start(t, defendertest.Config{
		KeepCalls: 2,
		Quotas:    map[string][]quota.Window{"machines/{id}": {{N: 3, Per: time.Minute}}},
	})
	for range 4 {
		call(t, s, "GET", "/api/machines/m0001", "")
	}
	call(t, s, "GET", "/api/nothing", "")
	s.SetFaults(defendertest.Faults{Error503: 0.5, ResetBefore: 0.5})
	lost := 0
	for range 10 {
		if _, err := send(s, "GET", "/api/machines", ""); err != nil {
			lost++
		}
	}
	for family, want := range map[string]defendertest.Count{
		"machines/{id}": {Calls: 4, Answered: 3, Throttled: 1},
		"":              {Calls: 1, Refused: 1},
		"machines":      {Calls: 10, Failed: 10 - lost},
	} {
		if got := s.Counts()[family]; got != want {
			t.Errorf("%q: got %+v, want %+v", family, got, want)
		}
	}
	if calls := s.Calls(); len(calls) != 2 || calls[0].Seq != 14 || calls[1].Seq != 15 {
		t.Errorf("the ledger kept %+v", calls)
	}
}

func TestCloseEndsSlowAnswers(t *testing.T) {
	s := defendertest.NewServer(defendertest.Config{Faults: defendertest.Faults{Slow: 1, SlowFor: time.Hour}})
	failed := make(chan error)
	for range 5 {
		go func() {
			_, err := send(s, "GET", "/api/machines", "")
			failed <- err
		}()
	}
	for processed := 0; processed < 5; runtime.Gosched() {
		processed = 0
		for _, c := range s.Calls() {
			if c.Processed {
				processed++
			}
		}
	}
	s.Close()
	for range 5 {
		if err := <-failed; err == nil {
			t.Error("a slow call was answered by Close")
		}
	}
	for _, c := range s.Calls() {
		if c.Status != 0 || !c.Processed || c.Fault != "Slow" {
			t.Errorf("the ledger says %+v", c)
		}
	}
}

func TestCloseLeavesNoGoroutines(t *testing.T) {
	s := defendertest.NewServer(defendertest.Config{Faults: defendertest.Faults{
		ResetBefore: 0.2, ResetAfter: 0.2, BreakBody: 0.2, Slow: 0.2,
	}})
	kept := &http.Client{Transport: &http.Transport{}}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if resp, err := kept.Get(s.URL + "/api/machines"); err == nil {
				resp.Body.Close()
			}
		})
	}
	// Slow answers are still out, and idle connections open.
	for len(s.Calls()) < 10 {
		runtime.Gosched()
	}
	s.Close()
	group.Wait()
	// The last lines of a goroutine may run a little longer than what it did.
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		left := serving(t)
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are left after Close:\n%s", left)
		}
	}
}

// serving returns the stacks if any is of a server.
func serving(t *testing.T) string {
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"net/http.(*conn)", "net/http.(*Server)", "net/http.(*connReader)", "defendertest.(*Server)"} {
		if strings.Contains(stacks.String(), part) {
			return stacks.String()
		}
	}
	return ""
}

func TestConcurrentCalls(t *testing.T) {
	// An action that ends in between may be ordered again, and would be on a slow
	// machine.
	s := start(t, defendertest.Config{NoQuotas: true, ActionTime: time.Hour, Faults: defendertest.Faults{Error503: 0.2, After500: 0.2}})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	for _, id := range s.MachineIDs() {
		group.Go(func() {
			// Whoever retries until he hears of an isolation, by 201 or as
			// a conflict, has isolated once.
			for range 100 {
				resp, err := client.Post(s.URL+"/api/machines/"+id+"/isolate", "application/json", strings.NewReader(isolation))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode < 500 {
					return
				}
				s.Calls()
				s.SetFaults(defendertest.Faults{Error503: 0.1, After500: 0.3})
			}
			t.Errorf("%s: no answer", id)
		})
		group.Go(func() { send(s, "GET", "/api/machineactions?$filter=machineId eq '"+id+"'", "") })
	}
	group.Wait()
	for _, id := range s.MachineIDs() {
		if n := s.Effects()["isolate "+id]; n != 1 {
			t.Errorf("%s was isolated %d times", id, n)
		}
	}
	for i, c := range s.Calls() {
		if c.Seq != i+1 {
			t.Fatalf("call %d has Seq %d", i, c.Seq)
		}
		if i > 0 && c.At.Before(s.Calls()[i-1].At) {
			t.Fatalf("call %d came before the one before it", c.Seq)
		}
	}
}

func TestConfigPanics(t *testing.T) {
	for _, test := range []struct {
		names  string
		config defendertest.Config
	}{
		{"Config.Minute", defendertest.Config{Minute: -1}},
		{"Config.Hour", defendertest.Config{Hour: -1}},
		{"Config.ActionTime", defendertest.Config{ActionTime: -1}},
		{"Config.Phase", defendertest.Config{Phase: -1}},
		{"Config.HuntingCPU", defendertest.Config{HuntingCPU: -1}},
		{"Config.HuntingCost", defendertest.Config{HuntingCost: -1}},
		{"Config.TokenLife", defendertest.Config{TokenLife: -1}},
		{"Config.Counting", defendertest.Config{Counting: 4}},
		{"Config.Clients", defendertest.Config{Clients: map[string]string{"": "x"}}},
		{"Config.KeepCalls", defendertest.Config{KeepCalls: -1}},
		{"Config.Faults.Token429", defendertest.Config{Faults: defendertest.Faults{Token429: 1.1}}},
		{"Config.PageSize", defendertest.Config{PageSize: -1}},
		{`no family "machine"`, defendertest.Config{Quotas: map[string][]quota.Window{"machine": {}}}},
		{`Quotas["machines"]`, defendertest.Config{Quotas: map[string][]quota.Window{"machines": {{N: -1, Per: time.Hour}}}}},
		{"Config.Faults.Error500", defendertest.Config{Faults: defendertest.Faults{Error500: 1.5}}},
		{"Config.Faults.Slow ", defendertest.Config{Faults: defendertest.Faults{Slow: -0.1}}},
		{"Config.Faults.Bare500", defendertest.Config{Faults: defendertest.Faults{Bare500: math.NaN()}}},
		{"Config.Faults has shares", defendertest.Config{Faults: defendertest.Faults{Slow: 0.6, After500: 0.6}}},
		{"Config.Faults.SlowFor", defendertest.Config{Faults: defendertest.Faults{SlowFor: -1}}},
	} {
		wantPanic(t, test.names, func() { defendertest.NewServer(test.config) })
		wantPanic(t, test.names, func() { defendertest.NewUnstartedServer(test.config) })
	}
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	wantPanic(t, "Faults.Slow", func() { s.SetFaults(defendertest.Faults{Slow: 2}) })
	// Rounding isn't a mistake of the caller.
	s.SetFaults(defendertest.Faults{Error500: 0.1, Bare500: 0.2, After500: 0.3, Error503: 0.4})
}

func wantPanic(t *testing.T, part string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if p := fmt.Sprint(recover()); !strings.Contains(p, part) || !strings.HasPrefix(p, "defendertest: ") {
			t.Errorf("panic is %q, want %q in it", p, part)
		}
	}()
	f()
}

// A needless escape changes no path.
func TestEscapedPath(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{NoQuotas: true})
	defer s.Close()
	direct(s, "POST", "/api/machines/m0001/%69solate", isolation).want(t, http.StatusCreated, "")
	direct(s, "POST", "/api/machines/m0001%2fisolate", isolation).want(t, http.StatusMethodNotAllowed, "BadRequest")
}

// A Host that no URL can have is refused, and not put into a nextLink.
func TestHostThatNoURLHas(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{NoQuotas: true, PageSize: 1})
	defer s.Close()
	for host, status := range map[string]int{
		"api.example": 200, "API.example:8080": 200, "[::1]:80": 200, "m\u00fcnchen.example": 200,
		"%zz": 200, "[": 400, "[::1": 400, "a:b": 400, "a b": 400, "u@a": 400, "a/b": 400, "a?b": 400,
		"a#b": 400, "[a]b": 400, "a\\b": 400,
	} {
		r := httptest.NewRequest("GET", "/api/machines", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		got := newReply(w.Result(), w.Body.Bytes())
		if got.status != status {
			t.Errorf("%q: %d %s", host, got.status, got.body)
		}
		if next := decode[list[identified]](t, got).Next; status == 200 {
			if u, err := url.Parse(next); err != nil || u.Host != host {
				t.Errorf("%q: the next link is %q: %v", host, next, err)
			}
		}
	}
}

// An error repeats what the caller wrote, but not without end: a body may be megabytes long.
func TestAnErrorRepeatsLittle(t *testing.T) {
	const most = 3 << 10 // with the envelope, and what Graph puts in it
	long := strings.Repeat("é", 50_000)
	graph, action := "/v1.0/security/", "/api/machines/m0001/"
	const issued = "client_id=a&client_secret=b&"
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/t/oauth2/v2.0/token", issued + "scope=c&grant_type=" + long},
		{"POST", "/t/oauth2/v2.0/token", issued + "grant_type=client_credentials&scope=" + long},
		{"GET", "/api/machines/" + long, ""},
		{"GET", "/api/machineactions/" + long + "/getPackageUri", ""},
		{"GET", graph + "incidents/" + long, ""},
		{"PATCH", graph + "alerts_v2/" + long, "{}"},
		{"PATCH", graph + "incidents/1", `{"status":"` + long + `"}`},
		{"DELETE", "/api/indicators/" + long, ""},
		{"GET", "/api/" + long, ""},
		{"GET", "/api/machines?$filter=" + long, ""},
		{"GET", "/api/machines?$top=" + long, ""},
		{"GET", "/api/machines?$" + long + "=1", ""},
		{"GET", "/api/machines/findbyip(" + long + ")", ""},
		{"GET", "/api/machines/findbyip(ip='" + long + "',timestamp=2026-01-01T00:00:00Z)", ""},
		{"GET", "/api/machines/SoftwareVulnerabilitiesByMachine?pageSize=" + long, ""},
		{"GET", "/api/machines/SoftwareVulnerabilitiesExport?sasValidHours=" + long, ""},
		{"POST", action + "tags", `{"Value":"a","Action":"` + long + `"}`},
		{"POST", action + "setDeviceValue", `{"DeviceValue":"` + long + `"}`},
		{"POST", action + "isolate", `{"Comment":"x","IsolationType":"` + long + `"}`},
		{"POST", action + "StopAndQuarantineFile", `{"Comment":"x","Sha1":"` + long + `"}`},
		{"POST", action + "runliveresponse", `{"Comment":"x","Commands":[{"type":"` + long + `"}]}`},
		{"POST", "/api/indicators/BatchDelete", `{"IndicatorIds":["` + long + `"]}`},
		{"POST", "/api/alerts/batchUpdate", `{"alertIds":["` + long + `"],"status":"Resolved"}`},
		{strings.Repeat("X", 50_000), "/api/machines", ""},
		{strings.Repeat("X", 50_000), graph + "incidents", ""},
	} {
		s := defendertest.NewUnstartedServer(defendertest.Config{NoQuotas: true})
		path, query, _ := strings.Cut(c.path, "?")
		req := &http.Request{
			Method: c.method, URL: &url.URL{Path: path, RawQuery: query}, Host: "tenant.example",
			Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body)),
		}
		w := newRecorder()
		s.ServeHTTP(w, req)
		if w.Code < 400 || w.Body.Len() > most || w.Body.Len() == 0 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%.20s %.60s: %d with %d bytes: %.100s", c.method, c.path, w.Code, w.Body.Len(), w.Body)
		}
	}
}

// Who can't listen says which of the addresses it is.
func TestListenNamesTheField(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().String()
	for field, c := range map[string]defendertest.Config{
		"Addr":        {Addr: busy},
		"StorageAddr": {StorageAddr: busy},
		"ControlAddr": {ControlAddr: busy},
	} {
		s := defendertest.NewUnstartedServer(c)
		err := s.Listen()
		s.Close()
		if err == nil || !strings.Contains(err.Error(), "Config."+field+" is "+strconv.Quote(busy)) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
