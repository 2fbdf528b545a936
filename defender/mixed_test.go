package defender_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender"
)

// rule is a limit as the service counts it: by arrival, rolling, for all windows at once.
type rule struct {
	name    string
	windows []rate
	arrived []arrival
}

type arrival struct {
	at   time.Time
	cost int
}

// admits reports whether a call that arrives now is within the rule.
func (r *rule) admits(now time.Time, cost int) bool {
	for _, w := range r.windows {
		sum := cost
		for _, a := range slices.Backward(r.arrived) {
			if now.Sub(a.at) >= w.per {
				break
			}
			sum += a.cost
		}
		if sum > w.n {
			return false
		}
	}
	return true
}

// countingService is a service that answers 429 to what is over a rule of its pages, and counts what it
// has refused as well.
type countingService struct {
	mu      sync.Mutex
	rules   map[string]*rule
	calls   map[string]work // by method and path
	refused map[string]int
	served  int
}

// work is one kind of call: how many of it in a minute, the rules that it is under, and what it
// costs where units are counted.
type work struct {
	call   string
	minute int
	rules  []string
	units  int
}

func newService(rules map[string][]rate, mix []work) *countingService {
	s := &countingService{rules: make(map[string]*rule), calls: make(map[string]work), refused: make(map[string]int)}
	for name, windows := range rules {
		s.rules[name] = &rule{name: name, windows: windows}
	}
	for _, w := range mix {
		s.calls[w.call] = w
	}
	return s
}

func (s *countingService) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.calls[req.Method+" "+req.URL.Path]
	if !ok {
		return answer(req, 404, "")
	}
	now, status := time.Now(), 200
	for _, name := range w.rules {
		r, cost := s.rules[name], 1
		if strings.HasPrefix(name, "units") {
			cost = w.units
		}
		if !r.admits(now, cost) {
			s.refused[name]++
			status = 429
		}
		r.arrived = append(r.arrived, arrival{now, cost})
	}
	s.served++
	return answer(req, status, "{}")
}

const seconds10 = 10 * time.Second

// graphRules and graphMix are written down from the pages: 1,500 calls a minute that are within all
// limits if they come evenly.
var graphRules = map[string][]rate{
	"graph": {graphWide}, "hunting": {{n: 45, per: time.Minute}}, "alert": {{n: 150, per: time.Minute}}, "scores": {{n: 10_000, per: 10 * time.Minute}},
	"reports": {{n: 5, per: seconds10}}, "reports, application": {{n: 122, per: seconds10}}, "risk": {{n: 1, per: time.Second}},
	"ediscovery": {{n: 5, per: time.Minute}}, "units": {{n: 8000, per: seconds10}}, "units, application": {{n: 150_000, per: 20 * time.Second}},
	"writes": {{n: 3000, per: 150 * time.Second}}, "writes, application": {{n: 35_000, per: 5 * time.Minute}}, "writes, tenant": {{n: 18_000, per: 5 * time.Minute}},
	"audit": {{n: 200, per: 24 * time.Hour}}, "trace": {{n: 100, per: 5 * time.Minute}}, "subscriptions": {{n: 500, per: 20 * time.Second}},
	"subscriptions, application": {{n: 2000, per: 20 * time.Second}}, "list": {{n: 25, per: 20 * time.Second}}, "list, application": {{n: 40, per: 20 * time.Second}},
	"assessments": {{n: 150, per: 15 * time.Minute}, {n: 10_000, per: 24 * time.Hour}},
}

var directoryRead, directoryWrite = []string{"graph", "units", "units, application"},
	[]string{"graph", "units", "units, application", "writes", "writes, application", "writes, tenant"}

var graphMix = []work{
	{"GET /v1.0/users/1", 400, directoryRead, 1}, {"GET /v1.0/users", 60, directoryRead, 2}, {"GET /v1.0/groups/1/members", 80, directoryRead, 3},
	{"POST /v1.0/users/1/checkMemberGroups", 40, directoryRead, 4}, {"GET /v1.0/devices/1", 150, directoryRead, 1}, {"PATCH /v1.0/users/1", 30, directoryWrite, 1},
	{"POST /v1.0/users/1/revokeSignInSessions", 10, directoryWrite, 1}, {"GET /v1.0/security/alerts_v2", 150, []string{"graph"}, 0},
	{"GET /v1.0/security/incidents", 150, []string{"graph"}, 0}, {"PATCH /v1.0/security/incidents/29", 30, []string{"graph"}, 0},
	{"POST /v1.0/security/incidents/29/comments", 20, []string{"graph"}, 0}, {"POST /v1.0/security/runHuntingQuery", 40, []string{"graph", "hunting"}, 0},
	{"GET /v1.0/security/secureScores", 100, []string{"graph", "alert", "scores"}, 0}, {"GET /v1.0/auditLogs/signIns", 25, []string{"graph", "reports", "reports, application"}, 0},
	{"GET /v1.0/identityProtection/riskyUsers", 50, []string{"graph", "risk"}, 0}, {"GET /v1.0/sites/1", 100, []string{"graph"}, 0},
	{"GET /v1.0/users/1/messages", 26, []string{"graph"}, 0}, {"GET /v1.0/security/cases/ediscoveryCases", 4, []string{"graph", "ediscovery"}, 0},
	{"GET /v1.0/subscriptions", 30, []string{"graph", "list", "list, application"}, 0}, {"POST /v1.0/security/auditLog/queries", 4, []string{"graph", "audit"}, 0},
	{"POST /v1.0/informationProtection/threatAssessmentRequests", 1, []string{"graph", "assessments"}, 0},
}

// mdeRules and mdeMix are 500 calls a minute to MDE and XDR.
var mdeRules = func() map[string][]rate {
	rules := map[string][]rate{
		"hunting": {{n: 45, per: time.Minute}, {n: 1500, per: time.Hour}}, "incidents": {{n: 50, per: time.Minute}, {n: 1500, per: time.Hour}},
		"weaknesses": {{n: 50, per: time.Minute}, {n: 1500, per: time.Hour}}, "export": {{n: 5, per: time.Minute}, {n: 20, per: time.Hour}},
		"health": {{n: 30, per: time.Minute}, {n: 1000, per: time.Hour}},
	}
	for _, name := range []string{"alert", "machines", "machine", "actions", "order", "indicators", "other"} {
		rules[name] = []rate{{n: 100, per: time.Minute}, {n: 1500, per: time.Hour}}
	}
	return rules
}()

var mdeMix = []work{
	{"GET /api/alerts/da637_-12", 80, []string{"alert"}, 0}, {"GET /api/machines", 20, []string{"machines"}, 0}, {"GET /api/machines/1e5bc9d7", 90, []string{"machine"}, 0},
	{"GET /api/machineactions/2e9da30d", 80, []string{"actions"}, 0}, {"POST /api/machines/1e5bc9d7/isolate", 40, []string{"order"}, 0},
	{"POST /api/indicators", 70, []string{"indicators"}, 0}, {"POST /api/advancedqueries/run", 30, []string{"hunting"}, 0}, {"GET /api/incidents", 40, []string{"incidents"}, 0},
	{"GET /api/machines/1e5bc9d7/vulnerabilities", 20, []string{"weaknesses"}, 0}, {"GET /api/deviceavinfo", 10, []string{"health"}, 0},
	{"GET /api/vulnerabilities", 20, []string{"other"}, 0},
}

// 2,000 calls a minute of mixed work, through one Transport for Graph and one for MDE, that come
// evenly for some minutes: services that count by the documented limits refuse none, and no
// call waits at all, since none would have been refused.
func TestMixedWorkWithinTheLimitsIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		minutes := 8
		if raceEnabled {
			minutes = 2
		}
		var group sync.WaitGroup
		var mu sync.Mutex
		held, made, perMinute := map[string]time.Duration{}, 0, 0
		run := func(transport http.RoundTripper, base string, mix []work) {
			for i, w := range mix {
				perMinute += w.minute
				every := time.Minute / time.Duration(w.minute)
				group.Go(func() {
					method, path, _ := strings.Cut(w.call, " ")
					time.Sleep(time.Duration(i) * 7 * time.Millisecond)
					for range w.minute * minutes {
						group.Go(func() {
							began := time.Now()
							send(t, transport, method, base+path)
							mu.Lock()
							defer mu.Unlock()
							made++
							if took := time.Since(began); took > held[w.call] {
								held[w.call] = took
							}
						})
						time.Sleep(every)
					}
				})
			}
		}
		graph, mde := newService(graphRules, graphMix), newService(mdeRules, mdeMix)
		run(newTransport(t, defender.Config{API: defender.Graph, Base: graph}), graphBase, graphMix)
		run(newTransport(t, defender.Config{Base: mde}), security, mdeMix)
		group.Wait()
		if perMinute != 2000 || made != 2000*minutes || graph.served+mde.served != made {
			t.Errorf("%d a minute, %d made, %d served", perMinute, made, graph.served+mde.served)
		}
		if len(graph.refused)+len(mde.refused) > 0 || len(held) > 0 {
			t.Errorf("refused %v and %v, held %v", graph.refused, mde.refused, held)
		}
		t.Logf("%d calls in %d min, none refused, none held", made, minutes)
	})
}

// Many minutes' work that comes all at once: nothing is refused, and each kind takes as long as its
// tightest limit makes it, an hour's too, and no longer.
func TestMixedWorkBeyondTheLimitsIsHeldForAsLongAsItMust(t *testing.T) {
	for name, c := range map[string]struct {
		api   defender.Service
		base  string
		rules map[string][]rate
		mix   []work
		times int
	}{
		"Graph": {defender.Graph, graphBase, graphRules, graphMix, 5}, "MDE": {defender.MDE, security, mdeRules, mdeMix, 18},
	} {
		if raceEnabled {
			c.times /= 4
		}
		synctest.Test(t, func(t *testing.T) {
			server := newService(c.rules, c.mix)
			transport := newTransport(t, defender.Config{API: c.api, Base: server})
			var group sync.WaitGroup
			var mu sync.Mutex
			began, last := time.Now(), map[string]time.Duration{}
			for _, w := range c.mix {
				method, path, _ := strings.Cut(w.call, " ")
				for range c.times * w.minute {
					group.Go(func() {
						send(t, transport, method, c.base+path)
						mu.Lock()
						defer mu.Unlock()
						last[w.call] = max(last[w.call], time.Since(began))
					})
				}
			}
			group.Wait()
			if len(server.refused) > 0 {
				t.Errorf("%s: refused %v", name, server.refused)
			}
			calls := map[string]int{} // by rule
			for _, w := range c.mix {
				for _, r := range w.rules {
					cost := 1
					if strings.HasPrefix(r, "units") {
						cost = w.units
					}
					calls[r] += c.times * w.minute * cost
				}
			}
			for _, w := range c.mix {
				var least time.Duration // what the tightest of its rules needs for all that is under it
				for _, r := range w.rules {
					for _, window := range c.rules[r] {
						least = max(least, time.Duration((calls[r]-1)/window.n)*window.per)
					}
				}
				if took := last[w.call]; took < 0 || took > least+least/50+time.Second {
					t.Errorf("%s: %d times %s took %v, could have been %v", name, c.times*w.minute, w.call, took, least)
				}
			}
			t.Logf("%s: %d calls in %v, none refused", name, server.served, time.Since(began))
		})
	}
}
