package defender_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

const security = "https://api.security.microsoft.com"

// fine answers every request with an empty success, and counts them.
type fine struct {
	mu   sync.Mutex
	sent []time.Time
}

func (f *fine) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, time.Now())
	return answer(req, http.StatusOK, "{}")
}

func request(t testing.TB, ctx context.Context, method, target string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// send makes one call, and wants it answered.
func send(t testing.TB, transport http.RoundTripper, method, target string) {
	t.Helper()
	resp, err := transport.RoundTrip(request(t, t.Context(), method, target))
	if err != nil {
		t.Errorf("%s %s: %v", method, target, err)
		return
	}
	resp.Body.Close()
}

// handler is a base transport that calls an http.Handler, so that no socket keeps a bubble's time from passing.
func handler(h http.Handler) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		incoming := req.Clone(req.Context())
		incoming.Host, incoming.RequestURI = req.URL.Host, req.URL.RequestURI()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, incoming)
		resp := w.Result()
		resp.Request = req
		return resp, nil
	})
}

// Over several families, for hours, and no call is refused: the server's ledger is the witness.
func TestDocumentedQuotasMeetNo429(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := defendertest.NewUnstartedServer(defendertest.Config{Machines: 300})
		defer server.Close()
		transport := newTransport(t, defender.Config{
			Base:   handler(server),
			Hosts:  []string{"defender.test"},
			Policy: steadyhttp.Policy{MaxAttempts: 1},
		})
		const base = "https://defender.test/api"
		began := time.Now()
		var group sync.WaitGroup
		made := 0
		call := func(method, path, body string) {
			made++
			group.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Errorf("%s %s: %v", method, path, err)
					return
				}
				defer resp.Body.Close()
				if err := steadyhttp.Check(resp); err != nil {
					t.Errorf("%s %s: %v", method, path, err)
				}
			})
		}
		for i, id := range server.MachineIDs() {
			call("GET", "/machines/"+id, "")
			call("GET", "/v1.0/machines/"+id+"/vulnerabilities", "")
			call("POST", "/machines/"+id+"/isolate", `{"Comment":"c","IsolationType":"Full"}`)
			call("POST", "/advancedqueries/run", `{"Query":"DeviceInfo"}`)
			call("GET", "/machineactions?$top=1", "")
			if i < 40 {
				call("GET", "/machines/SoftwareVulnerabilitiesExport", "")
			}
			if i < 120 {
				call("GET", "/incidents", "")
				call("POST", "/machines/"+id+"/startInvestigation", `{"Comment":"c"}`)
				call("GET", "/indicators", "")
			}
		}
		group.Wait()
		refused := 0
		for _, c := range server.Calls() {
			if c.Status == http.StatusTooManyRequests {
				refused++
			}
		}
		if calls := len(server.Calls()); calls != made || refused > 0 || calls < 500 {
			t.Errorf("%d of %d calls arrived, %d were refused", calls, made, refused)
		}
		// 120 investigations at 50 an hour take two hours, and nothing else takes any longer.
		if took := time.Since(began); took < 2*time.Hour || took > 2*time.Hour+time.Minute {
			t.Errorf("took %v", took)
		}
		t.Logf("%d calls in %v, none refused", made, time.Since(began))
	})
}

// Every family holds its calls back just as its page says.
func TestEachFamilyHoldsItsCallsBack(t *testing.T) {
	seen := make(map[string]bool)
	for _, d := range documented {
		if d.minute == 0 || seen[d.family] {
			continue
		}
		seen[d.family] = true
		synctest.Test(t, func(t *testing.T) {
			var base fine
			transport := newTransport(t, defender.Config{Base: &base})
			var group sync.WaitGroup
			for range d.minute + 1 {
				group.Go(func() { send(t, transport, d.method, security+d.path) })
			}
			group.Wait()
			at := func(n int) time.Duration { return base.sent[n].Sub(base.sent[0]) }
			if at(d.minute-1) > time.Second || at(d.minute) < time.Minute || at(d.minute) > time.Minute+time.Second {
				t.Errorf("%s: call %d after %v, call %d after %v", d.family, d.minute, at(d.minute-1), d.minute+1, at(d.minute))
			}
		})
	}
}

func TestQuotasOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var base fine
		transport := newTransport(t, defender.Config{Base: &base, Quotas: map[string][]quota.Window{
			"machines": {{N: 2, Per: 10 * time.Second}},
			"alerts":   {},
			"other":    nil,
		}})
		began := time.Now()
		for range 3 {
			send(t, transport, "GET", security+"/api/machines")
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("3 calls at 2 in 10 s took %v", took)
		}
		began = time.Now()
		for range 2000 {
			send(t, transport, "GET", security+"/api/alerts")
			send(t, transport, "GET", security+"/api/unheard/of")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("calls without a limit took %v", took)
		}
	})
}

func TestNoQuotas(t *testing.T) {
	transport := newTransport(t, defender.Config{NoQuotas: true})
	if len(transport.Gates) > 0 {
		t.Errorf("%d gates", len(transport.Gates))
	}
}

// recorder is Config.NewGate for tests: it knows which quotas were asked for, and what they are.
type recorder struct {
	mu      sync.Mutex
	windows map[string][]quota.Window
	entered map[string]int
}

func (r *recorder) newGate(key string, q *quota.Quota) steadyhttp.Gate {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.windows == nil {
		r.windows, r.entered = make(map[string][]quota.Window), make(map[string]int)
	}
	r.windows[key] = q.Windows
	return gate(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.entered[key]++
	})
}

// gate lets everything pass, and tells.
type gate func()

func (g gate) Enter(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
	g()
	return nil, nil
}

func (r *recorder) keys() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var keys []string
	for key, n := range r.entered {
		if n > 0 {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// A quota belongs to a tenant and an application, a hunting quota to the tenant alone.
func TestQuotaKeys(t *testing.T) {
	var r recorder
	for _, app := range []string{"a", "b+c"} {
		transport := newTransport(t, defender.Config{Base: &fine{}, Tenant: "t", App: app, NewGate: r.newGate})
		for _, path := range []string{
			"/api/machines", "/api/v1.0/Machines/", "/api/unheard/of", "/api/machines/m/isolate", "/api/advancedqueries/run",
			"/api/advancedhunting/run", "/v1.0/security/runHuntingQuery", "/",
		} {
			method := "POST"
			if strings.HasPrefix(strings.ToLower(path), "/api/v1.0") || path == "/api/machines" {
				method = "GET"
			}
			send(t, transport, method, security+path)
		}
	}
	want := []string{
		"advancedhunting/run+t", "advancedqueries/run+t",
		"machines+t+a", "machines+t+b%2Bc", "machines/{id}/action+t+a", "machines/{id}/action+t+b%2Bc",
		"other+t+a", "other+t+b%2Bc", "security/runHuntingQuery+t",
	}
	if got := r.keys(); !slices.Equal(got, want) {
		t.Errorf("keys are %q, want %q", got, want)
	}
	if r.entered["advancedqueries/run+t"] != 2 || r.entered["machines+t+a"] != 2 {
		t.Errorf("entered: %v", r.entered)
	}
	if got := r.windows["other+t+a"]; !slices.Equal(got, windows(100, 1500)) {
		t.Errorf("the windows of other are %v", got)
	}
}

// Two applications of one tenant, in one process, share what the service lets them share.
func TestHuntingIsSharedByApplications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		quotas := make(map[string]steadyhttp.Gate)
		share := func(key string, q *quota.Quota) steadyhttp.Gate {
			mu.Lock()
			defer mu.Unlock()
			if quotas[key] == nil {
				quotas[key] = q
			}
			return quotas[key]
		}
		var base fine
		var transports []http.RoundTripper
		for _, app := range []string{"a", "b"} {
			transports = append(transports, newTransport(t, defender.Config{Base: &base, Tenant: "t", App: app, NewGate: share}))
		}
		began := time.Now()
		for i := range 46 {
			send(t, transports[i%2], "POST", security+"/api/advancedqueries/run")
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("46 queries at 45 a minute took %v", took)
		}
	})
}

// What is not Defender's spends none of its quotas.
func TestQuotasAreBypassed(t *testing.T) {
	var r recorder
	transport := newTransport(t, defender.Config{Base: &fine{}, NewGate: r.newGate})
	for _, target := range []string{
		"https://example.com/api/machines",
		"https://graph.microsoft.com/v1.0/security/incidents",
		"https://api.security.microsoft.com.example.com/api/machines",
		"https://api.security.microsoft.com:8443/api/machines",
		"http://api.security.microsoft.com:443/api/machines",
		"https://tenant.blob.core.windows.net/container/file.gz?sv=2019-07-07&sig=abc",
		"https://core.windows.net/investigation-actions-data/1?se=2021&sig=abc",
		"https://api.security.microsoft.com/api/machines?sv=2019-07-07&SIG=abc",
		"https://userrequests-us.securitycenter.windows.com:443/safedownload/x?token=abc",
		"http://127.0.0.1:80/api/machines",
	} {
		send(t, transport, "GET", target)
	}
	if got := r.keys(); len(got) > 0 {
		t.Errorf("quotas were spent: %q", got)
	}
	for _, target := range []string{
		"https://API.Security.Microsoft.com:443/api/machines",
		"https://api.securitycenter.microsoft.com/api/machines?$filter=sig eq 1&xsig=1",
		"https://eu.api.security.microsoft.com/api/machines",
		"https://api-uk.security.microsoft.com/api/machines",
	} {
		send(t, transport, "GET", strings.ReplaceAll(target, " ", "%20"))
	}
	if got := r.entered["machines++"]; got != 4 {
		t.Errorf("%d calls spent the quota of machines, want 4", got)
	}
}

// An undocumented limit can't be kept; but when the service says no to one, the others wait with it.
func TestFamilyWithoutLimitsWaitsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []time.Time
		var mu sync.Mutex
		transport := newTransport(t, defender.Config{Hosts: []string{"graph.microsoft.com"}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if sent = append(sent, time.Now()); len(sent) == 1 {
				return answer(req, 429, envelope("TooManyRequests", "You can send requests again in 8 seconds."))
			}
			return answer(req, 200, "{}")
		})})
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() { send(t, transport, "GET", "https://graph.microsoft.com/v1.0/security/alerts_v2") })
			synctest.Wait()
		}
		group.Wait()
		for i, at := range sent[1:] {
			if waited := at.Sub(sent[0]); waited < 8*time.Second {
				t.Errorf("call %d was sent after %v", i+2, waited)
			}
		}
	})
}

// A share of each window is for what can't wait.
func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := newTransport(t, defender.Config{Base: &fine{}, Reserve: 0.1})
		began := time.Now()
		for range 90 {
			send(t, transport, "GET", security+"/api/machines/m")
		}
		urgent := quota.WithPriority(t.Context(), quota.High)
		resp, err := transport.RoundTrip(request(t, urgent, "GET", security+"/api/machines/m"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("an urgent call waited for %v", took)
		}
		send(t, transport, "GET", security+"/api/machines/m")
		if took := time.Since(began); took < time.Minute {
			t.Errorf("call 91 waited for %v only", took)
		}
	})
}

// What NewGate is given is the quota as it would have been: it may be changed, and returned.
func TestNewGateIsGivenTheReadyQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given := make(map[string]*quota.Quota)
		transport := newTransport(t, defender.Config{
			Base: &fine{}, Reserve: 0.1,
			NewGate: func(key string, q *quota.Quota) steadyhttp.Gate {
				given[key] = q
				q.MaxQueue = -1
				return q
			},
		})
		for range 90 {
			send(t, transport, "GET", security+"/api/machines/m")
		}
		_, err := transport.RoundTrip(request(t, t.Context(), "GET", security+"/api/machines/m"))
		if e, ok := errors.AsType[*steadyhttp.Error](err); !ok || !strings.Contains(e.Error(), "MaxQueue is -1") || e.Wait <= 0 {
			t.Errorf("call 91 of 100, 10 of them reserved: %v", err)
		}
		q := given["machines/{id}++"]
		if q == nil || !slices.Equal(q.Windows, windows(100, 1500)) || q.Reserve != 0.1 || len(given) != 1 {
			t.Fatalf("given: %v", given)
		}
		seen := 0
		for family, state := range defender.Quotas(transport) {
			if seen++; family != "machines/{id}" || state.Windows[0].Used != 90 {
				t.Errorf("%s: %+v", family, state)
			}
		}
		if seen != 1 {
			t.Errorf("%d quotas are seen, want the one that was made", seen)
		}
		// It is the function's own: no other Transport sees what it does to it.
		q.Windows[0].N = 1
		again := newTransport(t, defender.Config{Base: &fine{}, NewGate: func(_ string, q *quota.Quota) steadyhttp.Gate {
			if q.Windows[0].N != 100 {
				t.Errorf("windows are %v", q.Windows)
			}
			return nil
		}})
		began := time.Now()
		for range 101 {
			send(t, again, "GET", security+"/api/machines/m")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("where NewGate made no gate, 101 calls took %v", took)
		}
	})
}

// The caller's gates are the outer ones: what they wait for holds no place in a quota.
func TestGatesComeBeforeQuotas(t *testing.T) {
	var order []string
	gates := []steadyhttp.Gate{gate(func() { order = append(order, "own") })}
	transport := newTransport(t, defender.Config{
		Base:  &fine{},
		Gates: gates,
		NewGate: func(string, *quota.Quota) steadyhttp.Gate {
			return gate(func() { order = append(order, "quota") })
		},
	})
	send(t, transport, "GET", security+"/api/machines")
	if !slices.Equal(order, []string{"own", "quota"}) {
		t.Errorf("entered %q", order)
	}
	// Transports made of one slice of gates do not get into each other's way.
	gates = slices.Grow(gates, 2)
	first, second := newTransport(t, defender.Config{Gates: gates}), newTransport(t, defender.Config{Gates: gates})
	if first.Gates[1] == second.Gates[1] {
		t.Error("two Transports have one gate")
	}
}

// What makes no sense is an error at once, which names the field and the fix.
func TestConfigRefusesNonsense(t *testing.T) {
	for _, c := range []struct {
		config defender.Config
		want   string
	}{
		{defender.Config{Quotas: map[string][]quota.Window{"machine": nil}}, `Config.Quotas has the family "machine"`},
		{defender.Config{Quotas: map[string][]quota.Window{"machines": {{N: 1, Per: time.Second}, {N: -1, Per: time.Second}}}}, `Config.Quotas["machines"][1] is -1 per 1s`},
		{defender.Config{Quotas: map[string][]quota.Window{"machines": {{N: 1}}}}, `Config.Quotas["machines"][0] is 1 per 0s`},
		{defender.Config{Quotas: map[string][]quota.Window{"other": {{N: 1, Per: math.MaxInt64}}}}, `Config.Quotas["other"][0] is 1 per 2562047h47m16.854775807s`},
		{defender.Config{Quotas: map[string][]quota.Window{"machines": {{Per: time.Second}}}, NoQuotas: true}, `Config.Quotas["machines"][0] is 0 per 1s`},
		{defender.Config{Reserve: 1}, "Config.Reserve is 1"},
		{defender.Config{Reserve: -0.1}, "Config.Reserve is -0.1"},
		{defender.Config{Reserve: math.NaN(), NoQuotas: true}, "Config.Reserve is NaN"},
		{defender.Config{Cloud: "moon"}, `Config.Cloud is "moon"`},
		{defender.Config{Cloud: "goverment", NoQuotas: true}, `Config.Cloud is "goverment"`},
		{defender.Config{Cloud: "GCC", Hosts: []string{"proxy.example"}}, `Config.Cloud is "GCC"`},
		{defender.Config{Hosts: []string{"ok.example", "https://api.security.microsoft.com"}}, "Config.Hosts[1]"},
		{defender.Config{Hosts: []string{""}}, "Config.Hosts[0]"},
		{defender.Config{Hosts: []string{"*.microsoft.com"}}, "Config.Hosts[0]"},
		{defender.Config{Hosts: []string{"user@host"}}, "Config.Hosts[0]"},
		{defender.Config{Hosts: []string{":443"}}, "Config.Hosts[0]"},
	} {
		transport, err := defender.New(c.config)
		if transport != nil || !strings.HasPrefix(fmt.Sprint(err), "defender: "+c.want) || !strings.Contains(fmt.Sprint(err), "; use ") {
			t.Errorf("%s: %v, %v", c.want, transport, err)
		}
	}
}

func BenchmarkQuotas(b *testing.B) {
	for name, config := range map[string]defender.Config{
		"none":       {NoQuotas: true},
		"bypassed":   {Hosts: []string{"elsewhere.example"}},
		"documented": {Quotas: map[string][]quota.Window{"machines": {{N: math.MaxInt32, Per: time.Minute}, {N: math.MaxInt32, Per: time.Hour}}}},
	} {
		config.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
		})
		transport := newTransport(b, config)
		req := request(b, b.Context(), "GET", security+"/api/machines")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := transport.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
