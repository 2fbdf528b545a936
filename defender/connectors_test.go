package defender_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// Three connectors as their authors would write them: what a page has, and what to do when an order
// may have been carried out. All the rest is the Transport's.

// do makes one call, and decodes its answer into out unless that is nil.
func do(ctx context.Context, client *http.Client, method, target string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = strings.NewReader(string(text))
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := steadyhttp.Check(resp); err != nil || out == nil {
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// list follows the pages of a list, and calls each for every item.
func list[T any](ctx context.Context, client *http.Client, target string, each func(T)) error {
	for target != "" {
		var page struct {
			Value []T    `json:"value"`
			Next  string `json:"@odata.nextLink"`
		}
		if err := do(ctx, client, "GET", target, nil, &page); err != nil {
			return err
		}
		for _, item := range page.Value {
			each(item)
		}
		target = page.Next
	}
	return nil
}

// pages lists what has no link to a next page where $top is given, by $skip.
func pages[T any](ctx context.Context, client *http.Client, target string, size int, each func(T)) error {
	for n, skip := size, 0; n == size; skip += size {
		n = 0
		err := list(ctx, client, fmt.Sprintf("%s?$top=%d&$skip=%d", target, size, skip), func(item T) {
			n++
			each(item)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isolate orders it once: whether an order whose answer was lost was carried out, the list of
// actions says.
func isolate(ctx context.Context, client *http.Client, base, machine string) error {
	for {
		err := do(ctx, client, "POST", base+"/api/machines/"+machine+"/isolate", map[string]string{
			"Comment": "case 7", "IsolationType": "Full",
		}, nil)
		e, ok := errors.AsType[*steadyhttp.Error](err)
		if !ok || !e.Ambiguous {
			return err
		}
		found := 0
		query := url.Values{"$filter": {"machineId eq '" + machine + "' and type eq 'Isolate'"}}
		if err := list(ctx, client, base+"/api/machineactions?"+query.Encode(), func(any) { found++ }); err != nil || found > 0 {
			return err
		}
	}
}

type machine struct {
	ID string `json:"id"`
}

// connectMDE pages all machines, hunts, and isolates the last one.
func connectMDE(ctx context.Context, client *http.Client, base string) (ids []string, err error) {
	err = pages(ctx, client, base+"/api/machines", 20, func(m machine) { ids = append(ids, m.ID) })
	if err != nil {
		return ids, err
	}
	err = do(ctx, client, "POST", base+"/api/advancedqueries/run", map[string]string{"Query": "DeviceInfo"}, nil)
	if err != nil {
		return ids, err
	}
	return ids, isolate(ctx, client, base, ids[len(ids)-1])
}

// connectXDR pages all incidents, and hunts. Device actions are MDE's.
func connectXDR(ctx context.Context, client *http.Client, base string) (ids []int, err error) {
	type incident struct {
		ID int `json:"incidentId"`
	}
	err = list(ctx, client, base+"/api/incidents?$top=10", func(i incident) { ids = append(ids, i.ID) })
	if err != nil {
		return ids, err
	}
	return ids, do(ctx, client, "POST", base+"/api/advancedhunting/run", map[string]string{"Query": "DeviceInfo"}, nil)
}

// connectGraph pages all incidents, hunts, and notes the case at the first one. Device actions are
// MDE's.
func connectGraph(ctx context.Context, client *http.Client, base string) (ids []string, err error) {
	type comment struct {
		Comment string `json:"comment"`
	}
	type incident struct {
		ID       string    `json:"id"`
		Comments []comment `json:"comments"`
	}
	err = list(ctx, client, base+"/v1.0/security/incidents?$top=50", func(i incident) { ids = append(ids, i.ID) })
	if err != nil {
		return ids, err
	}
	err = do(ctx, client, "POST", base+"/v1.0/security/runHuntingQuery", map[string]string{"Query": "DeviceInfo"}, nil)
	if err != nil {
		return ids, err
	}
	for note := (comment{"case 7"}); ; {
		target := base + "/v1.0/security/incidents/" + ids[0]
		err := do(ctx, client, "POST", target+"/comments", note, nil)
		e, ok := errors.AsType[*steadyhttp.Error](err)
		if !ok || !e.Ambiguous {
			return ids, err
		}
		var now incident
		if err := do(ctx, client, "GET", target, nil, &now); err != nil || slices.Contains(now.Comments, note) {
			return ids, err
		}
	}
}

// connecting is a client for a server at base, whose first token is an old one.
func connecting(t *testing.T, api defender.Service, base string) *http.Client {
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	policy := quick()
	policy.MaxAttempts = 20
	transport := newTransport(t, defender.Config{API: api, Hosts: []string{u.Host}, Policy: policy, Token: (&mint{life: time.Hour}).token})
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// The connectors get all there is, and do once what they are to do, against a service that fails in
// one call of ten. The ledger is the witness.
func TestConnectors(t *testing.T) {
	lost := 0
	for seed := range uint64(20) {
		server := defendertest.NewServer(defendertest.Config{
			Machines: 60, Token: "token-2", Seed: seed, NoQuotas: true,
			Faults: defendertest.Faults{Error503: 0.02, After500: 0.02, ResetBefore: 0.02, ResetAfter: 0.02, BreakBody: 0.02},
		})
		mde := connecting(t, defender.MDE, server.URL)
		ids, err := connectMDE(t.Context(), mde, server.URL)
		want := server.MachineIDs()
		if err != nil || !slices.Equal(slices.Sorted(slices.Values(ids)), slices.Sorted(slices.Values(want))) {
			t.Errorf("seed %d: %d of %d machines, %v", seed, len(ids), len(want), err)
		}
		incidents, err := connectXDR(t.Context(), connecting(t, defender.XDR, server.URL), server.URL)
		slices.Sort(incidents)
		if err != nil || len(incidents) < 20 || len(slices.Compact(slices.Clone(incidents))) != len(incidents) {
			t.Errorf("seed %d: incidents %v, %v", seed, incidents, err)
		}
		if err := isolate(t.Context(), mde, server.URL, want[0]); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		for _, id := range []string{ids[len(ids)-1], want[0]} {
			if n := server.Effects()["isolate "+id]; n != 1 {
				t.Errorf("seed %d: %s was isolated %d times", seed, id, n)
			}
		}
		for _, c := range server.Calls() {
			if c.Status != 200 && c.Status != 201 && c.Status != 401 {
				lost++
			}
		}
		server.Close()

		graph := newGraph(seed, 130)
		all, err := connectGraph(t.Context(), connecting(t, defender.Graph, graph.URL), graph.URL)
		if err != nil || len(slices.Compact(slices.Sorted(slices.Values(all)))) != 130 || len(all) != 130 {
			t.Errorf("seed %d: %d incidents, %v", seed, len(all), err)
		}
		if graph.comments != 1 || graph.hunts < 1 {
			t.Errorf("seed %d: %d comments, %d queries", seed, graph.comments, graph.hunts)
		}
		lost += graph.faults
		graph.Close()
	}
	if lost < 20 {
		t.Errorf("only %d faults", lost)
	}
	t.Logf("%d faults", lost)
}

// graphServer has incidents in pages of 50, one that is commented, and a fault in every tenth call.
type graphServer struct {
	*httptest.Server

	mu                             sync.Mutex
	rand                           uint64
	calls, faults, comments, hunts int
}

func newGraph(seed uint64, incidents int) *graphServer {
	s := &graphServer{rand: seed}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls++
		s.rand = s.rand*6364136223846793005 + 1442695040888963407 // Knuth's
		fault := int(s.rand >> 33 % 30)
		if r.Header.Get("Authorization") != "Bearer token-2" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="", error="invalid_token"`)
			http.Error(w, `{"error":{"code":"InvalidAuthenticationToken","message":"Lifetime validation failed."}}`, http.StatusUnauthorized)
			return
		}
		if fault == 0 {
			s.faults++
			http.Error(w, `{"error":{"code":"ServiceUnavailable","message":"","innerError":{"request-id":"r-1"}}}`, http.StatusServiceUnavailable)
			return
		}
		answer := any(map[string]any{})
		switch skip, _ := strconv.Atoi(r.URL.Query().Get("$skip")); {
		case strings.HasSuffix(r.URL.Path, "/comments"):
			s.comments++
		case strings.HasSuffix(r.URL.Path, "/runHuntingQuery"):
			s.hunts++
		case strings.HasSuffix(r.URL.Path, "/incidents"):
			page := map[string]any{}
			var value []map[string]any
			for i := skip; i < min(skip+50, incidents); i++ {
				value = append(value, map[string]any{"id": fmt.Sprint(i)})
			}
			page["value"] = value
			if skip+50 < incidents {
				page["@odata.nextLink"] = fmt.Sprint("http://", r.Host, r.URL.Path, "?$top=50&$skip=", skip+50)
			}
			answer = page
		default:
			answer = map[string]any{"id": "0", "comments": slices.Repeat([]map[string]string{{"comment": "case 7"}}, s.comments)}
		}
		if fault < 3 {
			s.faults++
			panic(http.ErrAbortHandler) // it was carried out, and its answer is lost
		}
		json.NewEncoder(w).Encode(answer)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	return s
}
