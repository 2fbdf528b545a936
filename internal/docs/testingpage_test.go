package docs_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/internal/docs"
)

// The tests that docs/testing.md shows are those below, word for word: they compile, and pass.
func TestShownTestsAreRun(t *testing.T) {
	own, err := os.ReadFile("testingpage_test.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, b := range docs.Blocks(pages(t), "go") {
		if b.Page == "docs/testing.md" && strings.HasPrefix(b.Text, "func Test") {
			n++
			if !strings.Contains(strings.ReplaceAll(string(own), "\r\n", "\n"), b.Text) {
				t.Errorf("%v is not in testingpage_test.go as it stands", b)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d tests are shown, want 2", n)
	}
}

func TestIsolatesEachMachineOnce(t *testing.T) {
	server := defendertest.NewServer(defendertest.Config{
		Faults: defendertest.Faults{Error503: 0.1, ResetAfter: 0.1}, // shares of the calls
	})
	defer server.Close()

	transport, err := defender.New(defender.Config{
		Hosts:  []string{strings.TrimPrefix(server.URL, "http://")},
		Policy: steadyhttp.Batch(),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	for _, id := range server.MachineIDs() {
		resp, err := client.Post(server.URL+"/api/machines/"+id+"/isolate", "application/json",
			strings.NewReader(`{"Comment":"Alert 1234","IsolationType":"Full"}`))
		if err != nil {
			continue // not idempotent, and its answer was lost: ask before ordering it again
		}
		resp.Body.Close()
	}
	for what, n := range server.Effects() { // "isolate m0001": 1
		if n != 1 {
			t.Errorf("%s: %d times", what, n)
		}
	}
}

func TestAnHourlyQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := defendertest.NewUnstartedServer(defendertest.Config{})
		transport, err := defender.New(defender.Config{Base: direct{server}, Policy: steadyhttp.Batch()})
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: transport}
		for range 1600 { // 1500 an hour
			resp, err := client.Get(defender.Commercial.MDE().Base + "/api/machines")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		for _, call := range server.Calls() {
			if call.Status != http.StatusOK {
				t.Errorf("call %d: status %d", call.Seq, call.Status)
			}
		}
	})
}

// direct is a base transport without a socket.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	d.handler.ServeHTTP(rec, req)
	resp := rec.Result()
	resp.Request = req
	return resp, nil
}
