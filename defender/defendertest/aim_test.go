package defendertest_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// aimed returns a client through a Transport of one line.
func aimed(t *testing.T, c defender.Config) *http.Client {
	t.Helper()
	transport, err := defender.New(c)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// A Transport that is aimed at a server has its token, and never sends more than its quotas allow:
// those that are scaled, replaced or lifted.
func TestDefenderAimsATransport(t *testing.T) {
	for name, config := range map[string]defendertest.Config{
		"clients":  {Clients: clients()},
		"token":    {Token: "fixed"},
		"open":     {},
		"over TLS": {Clients: clients(), TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config.Minute, config.Hour, config.TokenLife = 100*time.Millisecond, time.Second, time.Hour
			config.Quotas = map[string][]quota.Window{"machines": {{N: 3, Per: time.Minute}}, "alerts": {}}
			s := start(t, config)
			client, graph := aimed(t, s.Defender()), aimed(t, s.Graph())
			var group sync.WaitGroup
			for range 8 {
				for path, client := range map[string]*http.Client{
					"/api/machines": client, "/api/alerts": client, "/api/incidents": client,
					"/v1.0/security/incidents": graph,
				} {
					group.Go(func() {
						resp, err := client.Get(s.URL + path)
						if err != nil {
							t.Error(err)
							return
						}
						defer resp.Body.Close()
						if err := steadyhttp.Check(resp); err != nil {
							t.Errorf("%s: %v", path, err)
						}
					})
				}
			}
			group.Wait()
			for family, count := range s.Counts() {
				if count.Throttled > 0 || count.Refused > 0 {
					t.Errorf("%s: %+v", family, count)
				}
			}
			if n := s.TokensIssued(); len(config.Clients) > 0 && n != 2 || len(config.Clients) == 0 &&
				n != 0 {
				t.Errorf("%d tokens were issued", n)
			}
		})
	}
}

// The quotas are the documented ones as long as they last here, with those of the server's Config in
// the place of some.
func TestDefenderQuotasAreScaled(t *testing.T) {
	s := start(t, defendertest.Config{
		Minute: time.Second, Hour: 10 * time.Second,
		Quotas: map[string][]quota.Window{"machines": {{N: 3, Per: time.Minute}}, "alerts": {}},
	})
	quotas := s.Defender().Quotas
	for _, e := range defender.Endpoints() {
		want := []quota.Window{}
		for _, w := range e.Windows {
			switch w.Per {
			case time.Minute:
				want = append(want, quota.Window{N: w.N, Per: time.Second})
			case time.Hour:
				want = append(want, quota.Window{N: w.N, Per: 10 * time.Second})
			default: // of no family that is served here
				want = nil
			}
		}
		switch e.Family {
		case "machines":
			want = []quota.Window{{N: 3, Per: time.Second}}
		case "alerts":
			want = []quota.Window{}
		}
		got, ok := quotas[e.Family]
		if !ok || want != nil && !slices.Equal(got, want) || got == nil {
			t.Errorf("%s: got %v, want %v", e.Family, got, want)
		}
	}
}

// However short or long a minute, an hour and the windows are, defender.New takes what the server
// gives, and no window is shorter than the server's own.
func TestDefenderTakesEveryScale(t *testing.T) {
	const century = 100 * 365 * 24 * time.Hour
	scales := []time.Duration{1, time.Microsecond, time.Millisecond, 50 * time.Millisecond, time.Second, time.Hour,
		9 * 365 * 24 * time.Hour, century, math.MaxInt64}
	for _, minute := range scales {
		for _, hour := range scales {
			s := start(t, defendertest.Config{Minute: minute, Hour: hour, Quotas: map[string][]quota.Window{
				"machines": {{N: 1, Per: 1}, {N: 2, Per: 59 * time.Minute}, {N: 3, Per: century}},
			}})
			c := s.Defender()
			if _, err := defender.New(c); err != nil {
				t.Errorf("a minute of %v, an hour of %v: %v", minute, hour, err)
			}
			for family, windows := range c.Quotas {
				for _, w := range windows {
					if w.Per < time.Millisecond {
						t.Errorf("a minute of %v, an hour of %v: %s has %v", minute, hour, family, w)
					}
				}
			}
			if resp, err := http.Get(s.URL + "/api/alerts"); err != nil || resp.StatusCode != 200 {
				t.Errorf("a minute of %v, an hour of %v: %v, %v", minute, hour, resp, err)
			} else {
				resp.Body.Close()
			}
			s.Close()
		}
	}
}

// Without quotas nothing is held, and before it is started a server can't be aimed at.
func TestDefenderWithoutQuotas(t *testing.T) {
	s := start(t, defendertest.Config{NoQuotas: true})
	if c := s.Defender(); !c.NoQuotas || c.Token != nil || len(c.Hosts) != 1 ||
		c.Hosts[0] != strings.TrimPrefix(s.URL, "http://") {
		t.Errorf("got %+v", c)
	}
	unstarted := defendertest.NewUnstartedServer(defendertest.Config{})
	wantPanic(t, "isn't started", func() { unstarted.Defender() })
}

// A wrong secret is told as what it is.
func TestDefenderTokenRefused(t *testing.T) {
	s := start(t, defendertest.Config{Clients: clients(), Faults: defendertest.Faults{Token429: 1}})
	c := s.Defender()
	c.Policy.MaxAttempts, c.Policy.MaxThrottled = 1, 1
	_, err := aimed(t, c).Get(s.URL + "/api/machines")
	if !errors.Is(err, steadyhttp.ErrNotSent) || !strings.Contains(err.Error(), "429") {
		t.Errorf("got error %v", err)
	}
}

// Over TLS the certificate is good for the server's names, for whoever trusts its authority, and
// HTTP/2 is spoken, as the real service does.
func TestTLS(t *testing.T) {
	s := start(t, defendertest.Config{TLS: true})
	if !strings.HasPrefix(s.URL, "https://127.0.0.1:") ||
		!strings.HasPrefix(s.StorageURL, "https://127.0.0.1:") {
		t.Errorf("URLs are %q and %q", s.URL, s.StorageURL)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.Certificate()) {
		t.Fatalf("no certificate in %q", s.Certificate())
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost"} {
		resp, err := client.Get("https://" + host + port + "/api/machines")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Errorf("got %s over %s", resp.Status, resp.Proto)
		}
	}
	if _, err := newClient().Get(s.URL + "/api/machines"); err == nil {
		t.Error("a client that doesn't know the authority trusts it")
	}
	// A reset ends the stream at least, and a link leads to the storage over https.
	resp, err := client.Get(s.URL + exportPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.SetFaults(defendertest.Faults{ResetAfter: 1})
	if resp, err := client.Post(s.URL+isolate, "application/json",
		strings.NewReader(isolation)); err == nil {
		resp.Body.Close()
		t.Errorf("got %s", resp.Status)
	}
	wantEffects(t, s, map[string]int{"isolate m0007": 1})
	if plain := start(t, defendertest.Config{}); plain.Certificate() != nil {
		t.Error("a server without TLS has a certificate")
	}
}

// 200 clients at once, with every fault there is and all APIs, while faults and quotas change and
// all begins anew: each call ends, and the ledger stays whole.
func TestManyClientsWithFaults(t *testing.T) {
	s := startControlled(t, defendertest.Config{
		Machines: 20, Minute: 50 * time.Millisecond, Hour: time.Second,
		ActionTime: 10 * time.Millisecond, KeepCalls: 500,
		Faults: defendertest.Faults{
			Error500: 0.03, Bare500: 0.03, After500: 0.03, Error503: 0.03, ResetBefore: 0.03,
			ResetAfter: 0.03, BreakBody: 0.03,
			Slow: 0.03, SlowFor: time.Millisecond, HTML502: 0.03, HTML503: 0.03, After504: 0.03,
			Empty200: 0.03, CPU429: 0.03,
			Partial206: 0.03, WrongAudience: 0.03,
		},
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	defer client.CloseIdleConnections()
	ask := func(method, path, body string) {
		req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
	}
	var group sync.WaitGroup
	machines := s.MachineIDs()
	for i := range 200 {
		id := machines[i%len(machines)]
		group.Go(func() {
			ask("GET", "/api/machines?$filter=startswith(id,'m00')+or+machineTags/any(t:t+eq+'a')&$orderby=id+desc&$select=id", "")
			ask("POST", "/api/machines/"+id+"/isolate", isolation)
			ask("POST", "/api/machines/"+id+"/unisolate", isolation)
			ask("GET", "/api/machineactions?$filter=machineId+eq+'"+id+"'", "")
			ask("POST", "/api/machines/"+id+"/tags", `{"Value":"a","Action":"Add"}`)
			ask("GET", "/v1.0/security/incidents?$expand=alerts", "")
			ask("POST", "/v1.0/security/incidents/1/comments", `{"comment":"c"}`)
			ask("PATCH", "/v1.0/security/alerts_v2/a"+id[1:], `{"status":"resolved"}`)
			ask("POST", "/v1.0/security/runHuntingQuery", query)
			ask("GET", "/api/incidents", "")
		})
	}
	for range 5 {
		group.Go(func() { control[any](t, s, "GET", "/ledger", "", 200) })
		group.Go(func() {
			control[any](t, s, "PUT", "/quotas", `{"machines":[{"n":50,"per":"1m"}]}`,
				200)
		})
		group.Go(func() { control[any](t, s, "POST", "/reset", "", 200) })
	}
	group.Wait()
	calls := s.Calls()
	for i, c := range calls {
		if i > 0 && c.Seq != calls[i-1].Seq+1 {
			t.Fatalf("call %d follows %d", c.Seq, calls[i-1].Seq)
		}
	}
}
