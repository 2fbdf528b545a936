package steadyhttp_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// outage is a service that is down for a while: between from and until, measured from its first call, every call is
// answered 503.
type outage struct {
	from, until time.Duration
	began       time.Time
	latency     time.Duration

	sent, sentDown atomic.Int64
	firstBack      atomic.Int64 // nanoseconds from the end of the outage to the first success
	recovered      atomic.Int64 // successes from 5 s to 10 s after the end
}

func (o *outage) RoundTrip(req *http.Request) (*http.Response, error) {
	o.sent.Add(1)
	now := time.Since(o.began)
	down := now >= o.from && now < o.until
	if down {
		o.sentDown.Add(1)
	}
	time.Sleep(o.latency) // virtual
	if down {
		return answers(503, envelope("ServiceUnavailable", "", "t"))(req)
	}
	if now >= o.until {
		o.firstBack.CompareAndSwap(0, int64(now-o.until)+1)
	}
	if since := now - o.until; since >= 5*time.Second && since < 10*time.Second {
		o.recovered.Add(1)
	}
	return answers(200, "fine")(req)
}

// workers runs 32 workers for 90 s of virtual time, and returns what became of their calls.
func runWorkers(t *testing.T, base *outage, policy steadyhttp.Policy) (calls, lost int64, stops map[steadyhttp.Stop]int) {
	t.Helper()
	transport := &steadyhttp.Transport{Base: base, Policy: policy}
	base.began = time.Now()
	stops = make(map[steadyhttp.Stop]int)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for time.Since(base.began) < 90*time.Second {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, ""))
				mu.Lock()
				calls++
				if err != nil {
					lost++
					stops[errorOf(t, err).Stop]++
				} else if resp.StatusCode != 200 {
					lost++
					stops[stopOf(t, resp)]++
				}
				mu.Unlock()
				if err == nil {
					readAll(t, resp)
				}
				if err != nil || resp.StatusCode != 200 {
					time.Sleep(100 * time.Millisecond) // virtual: a worker that looks at its error
				}
			}
		})
	}
	group.Wait()
	return calls, lost, stops
}

// A job that waits loses nothing, and notices the end of the outage soon.
func TestBatchLosesNothingInAnOutage(t *testing.T) {
	const latency = 50 * time.Millisecond
	for run := range 5 {
		synctest.Test(t, func(t *testing.T) {
			// Its end falls on no round number: a probe that only happens to fit would not be seen to.
			base := &outage{from: 30 * time.Second, until: 60*time.Second + time.Duration(run)*370*time.Millisecond, latency: latency}
			calls, lost, stops := runWorkers(t, base, steadyhttp.Batch())
			back := time.Duration(base.firstBack.Load())
			full := 32 * int64(5*time.Second/latency)
			t.Logf("run %d: %d calls, %d lost, %d sent during the outage, answers back after %v, at %d %% of the full rate after 5 s",
				run, calls, lost, base.sentDown.Load(), back, 100*base.recovered.Load()/full)
			if lost > 0 {
				t.Errorf("%d of %d calls lost: %v", lost, calls, stops)
			}
			if back == 0 || back > 5*time.Second {
				t.Errorf("the first answer came %v after the outage, want at most 5 s", back)
			}
			if base.recovered.Load() < full*8/10 {
				t.Errorf("%d answers from 5 s to 10 s after the outage, of %d without one", base.recovered.Load(), full)
			}
		})
	}
}

// With the default policy, calls fail at once once the budget is spent, and say so.
func TestDefaultPolicySaysBudgetInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &outage{from: 30 * time.Second, until: 60 * time.Second, latency: 50 * time.Millisecond}
		calls, lost, stops := runWorkers(t, base, steadyhttp.Policy{})
		t.Logf("%d calls, %d failed: %v; %d sent during the outage", calls, lost, stops, base.sentDown.Load())
		if lost == 0 {
			t.Fatal("nothing failed in an outage of 30 s")
		}
		for stop, n := range stops {
			if stop != "budget" {
				t.Errorf("%d calls ended for the reason %q, want budget", n, stop)
			}
		}
	})
}

// Open-loop load through an outage: the clients together send hardly more than their calls. Without a budget, retries
// with back-off and jitter send four times as much (facts: reliability, section 3.3).
func TestNoStormInAnOutage(t *testing.T) {
	for _, c := range []struct {
		clients int
		atMost  float64
	}{{10, 1.10}, {100, 1.10}, {1000, 1.6}} {
		t.Run(fmt.Sprint(c.clients), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &outage{from: 15 * time.Second, until: 45 * time.Second, latency: 10 * time.Millisecond}
				firstTries := openLoop(t, base, c.clients, 700, 60*time.Second)
				factor := float64(base.sentDown.Load()) / float64(firstTries)
				t.Logf("%d clients: %d calls during the outage, %d sent: %.3fx", c.clients, firstTries, base.sentDown.Load(), factor)
				if firstTries < 10_000 {
					t.Fatalf("only %d calls: the load was not what it should be", firstTries)
				}
				if factor > c.atMost {
					t.Errorf("sent %.3f times the calls, want at most %.2f", factor, c.atMost)
				}
			})
		})
	}
}

// openLoop lets clients make calls at a fixed rate in all, whatever becomes of them, and returns how many of them began
// during the outage.
func openLoop(t *testing.T, base *outage, clients, perSecond int, length time.Duration) (during int) {
	t.Helper()
	transports := make([]*steadyhttp.Transport, clients)
	for i := range transports {
		transports[i] = &steadyhttp.Transport{Base: base}
	}
	dice := rand.New(rand.NewPCG(1, uint64(clients)))
	base.began = time.Now()
	var group sync.WaitGroup
	for time.Since(base.began) < length {
		// Poisson arrivals.
		time.Sleep(time.Duration(dice.ExpFloat64() / float64(perSecond) * float64(time.Second)))
		if at := time.Since(base.began); at >= base.from && at < base.until {
			during++
		}
		transport := transports[dice.IntN(clients)]
		group.Go(func() {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, ""))
			if err != nil {
				t.Error(err)
				return
			}
			readAll(t, resp)
		})
	}
	group.Wait()
	return during
}
