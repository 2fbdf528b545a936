package defender_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// What would wait longer than MaxWait for its quota is refused at once, with its wait.
func TestMaxWait(t *testing.T) {
	for _, c := range []struct {
		path  string
		calls int
		most  time.Duration
		needs time.Duration // 0: the next call goes
	}{
		{"/api/machines/m", 100, 30 * time.Second, time.Minute},
		{"/api/machines/m", 100, 2 * time.Minute, 0},
		{"/api/machines/m", 100, 0, 0},
		{"/api/machines/m", 1500, 10 * time.Minute, 46 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := newTransport(t, defender.Config{Base: &fine{}, MaxWait: c.most})
			for i := range c.calls {
				if i > 0 && i%100 == 0 {
					time.Sleep(61 * time.Second)
				}
				send(t, transport, "GET", security+c.path)
			}
			began := time.Now()
			resp, err := transport.RoundTrip(request(t, t.Context(), "GET", security+c.path))
			if c.needs == 0 {
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				return
			}
			e, ok := errors.AsType[*steadyhttp.Error](err)
			if !ok || e.Stop != steadyhttp.StopRefused || e.Wait < c.needs-time.Minute || e.Wait > c.needs+time.Minute ||
				!strings.Contains(err.Error(), "Quota.MaxWait is") || time.Since(began) > 0 {
				t.Errorf("%+v: %v after %v", c, err, time.Since(began))
			}
		})
	}
	if _, err := defender.New(defender.Config{MaxWait: -1}); err == nil ||
		!strings.HasPrefix(err.Error(), "defender: Config.MaxWait is -1ns; use ") {
		t.Errorf("a negative one: %v", err)
	}
}

// A 429 of a family whose limits are no rate pauses it, and does not slow it down.
func TestLimitsThatAreNoRate(t *testing.T) {
	var families []string
	for _, e := range defender.Endpoints() {
		if e.PauseOnly && !slices.Contains(families, e.Family) {
			families = append(families, e.Family)
		}
	}
	slices.Sort(families)
	if want := []string{"advancedhunting/run", "machines/{id}/runliveresponse", "security/runHuntingQuery"}; !slices.Equal(families, want) {
		t.Errorf("families %v", families)
	}
	for _, c := range []struct {
		path   string
		shared bool
	}{
		{"/api/machines/m/runliveresponse", false}, {"/api/advancedhunting/run", false},
		{"/api/machines/m/isolate", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			first := true
			transport := newTransport(t, defender.Config{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}
				if first {
					first = false
					resp.StatusCode = 429
				}
				return resp, nil
			})})
			send(t, transport, "POST", security+c.path)
			for _, s := range defender.Quotas(transport) {
				if got := s.Windows[0].Shared; got != c.shared {
					t.Errorf("%s: shared %v after one 429", c.path, got)
				}
			}
		})
	}
}
