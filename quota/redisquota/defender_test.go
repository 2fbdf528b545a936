package redisquota_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// For shares Defender's table in one line: two programs of one tenant and application have a family's
// limit between them, and another tenant's program has its own.
func TestDefendersTableIsShared(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, redistest.Options{})
	server := defendertest.NewServer(defendertest.Config{})
	t.Cleanup(server.Close)
	program := func(tenant string) *http.Client {
		transport, err := defender.New(defender.Config{
			Hosts: []string{server.URL[len("http://"):]}, Tenant: tenant, App: "connector", NewGate: redisquota.For(r.Client()),
		})
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: transport}
	}
	call := func(client *http.Client, path string, d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
	programs := []*http.Client{program("a"), program("a")}
	var calls sync.WaitGroup
	for i := range 100 { // the documented limit of a minute
		calls.Go(func() {
			if err := call(programs[i%2], "/api/machines", 30*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	for i, client := range programs {
		if err := call(client, "/api/machines", 10*time.Second); !errors.Is(err, quota.ErrDeadline) {
			t.Errorf("the 101st call of the minute, by program %d: %v, want ErrDeadline", i, err)
		}
		if err := call(client, "/api/alerts", 10*time.Second); err != nil {
			t.Errorf("another family: %v", err)
		}
	}
	for family, state := range defender.Quotas(programs[1].Transport.(*steadyhttp.Transport)) {
		if family == "machines" && state.Windows[0].Used != 100 {
			t.Errorf("program 1 says that %d are used, want 100, of which it made 50", state.Windows[0].Used)
		}
	}
}
