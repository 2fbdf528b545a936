package defender_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// Over real HTTP, with 30 % of the calls failing in every way there is: what may be retried is answered, what may not is
// done at most once, and each call has one outcome. The server's ledger is the witness.
func TestNothingLostNothingTwice(t *testing.T) {
	server := defendertest.NewServer(defendertest.Config{
		Machines: 100,
		NoQuotas: true,
		Faults: defendertest.Faults{
			Error500: 0.05, Bare500: 0.05, After500: 0.05, Error503: 0.05, ResetBefore: 0.03, ResetAfter: 0.04, BreakBody: 0.03,
		},
	})
	defer server.Close()
	policy := steadyhttp.Policy{
		MaxAttempts: 20,
		NewBackOff:  func() backoff.BackOff { return backoff.NewConstantBackOff(time.Millisecond) },
		Budget:      &steadyhttp.Budget{Max: -1},
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	client := &http.Client{Transport: newTransport(t, defender.Config{Base: base, Policy: policy})}
	defer client.CloseIdleConnections()

	var mu sync.Mutex
	ordered := make(map[string]error) // by machine
	var group sync.WaitGroup
	for _, id := range server.MachineIDs() {
		group.Go(func() {
			if err := call(client, http.MethodGet, server.URL+"/api/machines/"+id, ""); err != nil {
				t.Errorf("a read of %s was lost: %v", id, err)
			}
			indicator := fmt.Sprintf(`{"indicatorValue":"%s.example.com","indicatorType":"DomainName","action":"Alert","title":"t","severity":"Low","description":"d"}`, id)
			if err := call(client, http.MethodPost, server.URL+"/api/indicators", indicator); err != nil {
				t.Errorf("an indicator for %s was lost: %v", id, err)
			}
			if err := call(client, http.MethodPost, server.URL+"/api/advancedqueries/run", `{"Query":"DeviceInfo"}`); err != nil {
				t.Errorf("a query for %s was lost: %v", id, err)
			}
			err := call(client, http.MethodPost, server.URL+"/api/machines/"+id+"/isolate", `{"Comment":"c","IsolationType":"Full"}`)
			mu.Lock()
			defer mu.Unlock()
			ordered[id] = err
		})
	}
	group.Wait()

	effects := server.Effects()
	unknown := 0
	for id, err := range ordered {
		done := effects["isolate "+id]
		switch {
		case done > 1:
			t.Errorf("%s was isolated %d times", id, done)
		case err == nil && done != 1:
			t.Errorf("%s was reported isolated, and is not", id)
		case err != nil:
			unknown++
			if said := err.Error(); !strings.Contains(said, "not idempotent") && !strings.Contains(said, "unexpected EOF") {
				t.Errorf("the order for %s failed without saying that it was not retried: %v", id, err)
			}
		}
		if effects["submit "+id+".example.com"] == 0 {
			t.Errorf("the indicator for %s never arrived", id)
		}
	}
	// At 30 % faults, orders do fail; if none did, nothing was tested.
	if unknown == 0 {
		t.Error("no order met a fault")
	}
	t.Logf("%d calls in the ledger, %d of %d orders of unknown outcome, none given twice", len(server.Calls()), unknown, len(ordered))
}

func call(client *http.Client, method, target, body string) error {
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			return inner.Err
		}
		return err
	}
	defer resp.Body.Close()
	if err := steadyhttp.Check(resp); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
