package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// connectorFlags are a service with quotas that a connector meets, and 10 % faults of all kinds.
func connectorFlags(seed int) []string {
	flags := []string{
		"-machines", "400", "-minute", "500ms", "-hour", "5s", "-clients", "app:secret", "-page-size",
		"20", "-action-time", "1h", "-token-life", "1h", "-keep", "0",
		"-faults", "0.06", "-seed", fmt.Sprint(seed),
	}
	for _, fault := range []string{"HTML502", "HTML503", "After504", "Empty200", "Partial206"} {
		flags = append(flags, "-fault", fault+"=0.01")
	}
	return flags
}

// addresses are where a simulation is, as it prints it.
func (s *simulated) addresses(t *testing.T) (control string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^  control +(http://\S+):`).FindStringSubmatch(s.until(t,
		"An interrupt"))
	if found == nil {
		t.Fatal("no control API was announced")
	}
	return found[1]
}

// ledger reads a part of the control API.
func ledger[T any](t *testing.T, control, path string) T {
	t.Helper()
	resp, err := http.Get(control + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v T
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return v
}

// counted is what a connector says that it has found.
type counted struct{ Skipped, Linked, Rows int }

// wantConnected fails unless a connector has found all, isolated once, and met faults.
func wantConnected(t *testing.T, control, api, machine string, got counted) {
	t.Helper()
	if got != (counted{400, 400, 400}) {
		t.Errorf("%s: got %+v, want 400 of each", api, got)
	}
	if effects := ledger[map[string]int](t, control, "/effects"); effects["isolate "+machine] != 1 ||
		len(effects) != 1 {
		t.Errorf("%s: effects are %v", api, effects)
	}
	calls := ledger[struct {
		Calls []struct {
			Fault  string
			Status int
		}
	}](t, control, "/ledger?limit=100000").Calls
	faults, throttled := 0, 0
	for _, c := range calls {
		if c.Fault != "" {
			faults++
		}
		if c.Status == 429 {
			throttled++
		}
	}
	t.Logf("%s: %d calls, %d of them met a fault, %d a 429", api, len(calls), faults, throttled)
}

// A connector in Python, with nothing but its standard library, through each of the APIs.
func TestPythonConnector(t *testing.T) {
	python := need(t, "python3")
	for i, api := range []string{"mde", "xdr", "graph"} {
		for _, seed := range []int{1, 11, 21, 33} {
			t.Run(fmt.Sprint(api, seed), func(t *testing.T) {
				t.Parallel()
				s := startSimulate(t, connectorFlags(seed)...)
				control, machine := s.addresses(t), fmt.Sprintf("m%04d", i+1)
				var got counted
				out := script(t, s, control, "", python, "testdata/connector.py", api, machine)
				if err := json.Unmarshal([]byte(out), &got); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				wantConnected(t, control, api, machine, got)
			})
		}
	}
}

// The same in Go, where the Transport does what Python does by hand.
func TestGoConnector(t *testing.T) {
	for i, api := range []string{"mde", "xdr", "graph"} {
		for _, seed := range []int{1, 11, 21, 33} {
			t.Run(fmt.Sprint(api, seed), func(t *testing.T) {
				t.Parallel()
				s := startSimulate(t, connectorFlags(seed)...)
				control, machine := s.addresses(t), fmt.Sprintf("m%04d", i+1)
				got, err := connect(t.Context(), s.url, api, machine)
				if err != nil {
					t.Fatal(err)
				}
				wantConnected(t, control, api, machine, got)
			})
		}
	}
}

// connect is the Go connector: it signs in, pages by $skip and by nextLink, hunts, and isolates
// once.
func connect(ctx context.Context, base, api, machine string) (c counted, err error) {
	scope, bySkip, byLink, hunting := "https://api.securitycenter.microsoft.com", "/api/machines",
		"/api/alerts", "/api/advancedqueries/run"
	switch api {
	case "xdr":
		scope, bySkip, byLink, hunting = "https://api.security.microsoft.com", "/api/incidents",
			"/api/incidents", "/api/advancedhunting/run"
	case "graph":
		scope, bySkip, byLink, hunting = "https://graph.microsoft.com", "/v1.0/security/alerts_v2",
			"/v1.0/security/incidents", "/v1.0/security/runHuntingQuery"
	}
	client, err := newConnector(base, scope)
	if err != nil {
		return c, err
	}
	devices, err := newConnector(base, "https://api.securitycenter.microsoft.com")
	if err != nil {
		return c, err
	}
	type list struct {
		Value   []struct{ ID string } `json:"value"`
		Next    string                `json:"@odata.nextLink"`
		Results []json.RawMessage     `json:"results"` // in either case
	}
	for more := true; more; {
		page, err := ask[list](ctx, client, "GET",
			fmt.Sprintf("%s%s?$top=20&$skip=%d", base, bySkip, c.Skipped), "")
		if err != nil {
			return c, err
		}
		c.Skipped, more = c.Skipped+len(page.Value), len(page.Value) > 0
	}
	for link := base + byLink; link != ""; {
		page, err := ask[list](ctx, client, "GET", link, "")
		if err != nil {
			return c, err
		}
		c.Linked, link = c.Linked+len(page.Value), page.Next
	}
	rows, err := ask[list](ctx, client, "POST", base+hunting, `{"Query":"DeviceInfo"}`)
	if err != nil {
		return c, err
	}
	c.Rows = len(rows.Results)
	mine := base + "/api/machineactions?$filter=" +
		url.QueryEscape("machineId eq '"+machine+"' and type eq 'Isolate'")
	for {
		found, err := ask[list](ctx, devices, "GET", mine, "")
		if err != nil || len(found.Value) > 0 {
			return c, err
		}
		ask[list](ctx, devices, "POST", base+"/api/machines/"+machine+"/isolate",
			`{"Comment":"c"}`) // the next look tells
	}
}

// newConnector makes a client whose quotas are those of connectorFlags.
func newConnector(base, scope string) (*http.Client, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"app"}, "client_secret": {"secret"},
		"scope": {scope + "/.default"},
	}
	type grant struct {
		Token string `json:"access_token"`
	}
	c := defender.Config{Policy: scaledBatch(), NoQuotas: true,
		Hosts: []string{strings.TrimPrefix(base, "http://")}}
	c.Token = defender.TokenFrom(func() (grant, error) {
		resp, err := http.PostForm(base+"/contoso/oauth2/v2.0/token", form)
		if err != nil {
			return grant{}, err
		}
		defer resp.Body.Close()
		var g grant
		return g, json.NewDecoder(resp.Body).Decode(&g)
	}, func(g grant) (string, time.Time) { return g.Token, time.Now().Add(time.Hour) })
	transport, err := defender.New(c)
	return &http.Client{Transport: transport}, err
}

// ask makes one call. An empty answer of a read is asked for again: no list is empty in that way.
func ask[T any](ctx context.Context, client *http.Client, method, target, body string) (T, error) {
	var v T
	for n := 0; ; n++ {
		req, err := http.NewRequestWithContext(ctx, method, strings.ReplaceAll(target, " ", "%20"),
			strings.NewReader(body))
		if err != nil {
			return v, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return v, err
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if failed := steadyhttp.Check(resp); failed != nil {
			return v, failed
		}
		if err == nil {
			err = json.Unmarshal(data, &v)
		}
		if err == nil || n == 10 || strings.HasSuffix(target, "/isolate") {
			return v, err
		}
	}
}

// The examples of docs/simulator.md run as they stand there.
func TestSimulatorDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/simulator.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string, has string) string {
		t.Helper()
		for _, part := range strings.Split(string(document), "\n```"+language+"\n")[1:] {
			if code, _, _ := strings.Cut(part, "\n```"); strings.Contains(code, has) {
				return code
			}
		}
		t.Fatalf("no block of %s has %q", language, has)
		return ""
	}
	python, shell := block("python", "import"), block("sh", "curl=")
	if n := strings.Count(python, "\n") + 1; n > 40 {
		t.Errorf("the example in Python has %d lines", n)
	}
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			t.Run("Python", func(t *testing.T) {
				s, control, authority := startForScripts(t, secure, "-faults", "0.1", "-seed", "3")
				out := script(t, s, control, authority, need(t, "python3"), "-c", python)
				if !strings.Contains(out, "50 machines, 50 rows, effects: {'isolate m0001': 1}") {
					t.Errorf("said %s", out)
				}
			})
			t.Run("curl", func(t *testing.T) {
				need(t, "curl")
				s, control, authority := startForScripts(t, secure)
				out := script(t, s, control, authority, need(t, "sh"), "-c", shell)
				for _, part := range []string{"InternalServerError", `"value":[{"id":"m0001"}]`,
					`{"isolate m0002":1}`} {
					if !strings.Contains(out, part) {
						t.Errorf("no %s in %s", part, out)
					}
				}
			})
		})
	}
}

// startForScripts starts a simulation with an application, and over https where that is asked for.
func startForScripts(t *testing.T, secure bool, flags ...string) (s *simulated, control,
	authority string) {
	t.Helper()
	flags = append(flags, "-minute", "1s", "-hour", "1m", "-token-life", "1h", "-action-time", "1h", "-clients",
		"app:secret")
	if secure {
		authority = filepath.Join(t.TempDir(), "ca.pem")
		flags = append(flags, "-tls", authority)
	}
	s = startSimulate(t, flags...)
	return s, s.addresses(t), authority
}

// need returns the path of a program, or skips the test where there is none.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("there is no %s here: %v", program, err)
	}
	return path
}

// script runs a program with the addresses in its environment, and returns what it printed.
func script(t *testing.T, s *simulated, control, authority string, program string,
	args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), "DEFENDER_URL="+s.url, "CONTROL_URL="+control, "no_proxy=*",
		"NO_PROXY=*")
	if authority != "" {
		command.Env = append(command.Env, "DEFENDER_CA="+authority)
	}
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", program, err, out, &said)
	}
	t.Logf("%s", &said)
	return string(out)
}
