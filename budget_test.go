package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// requestTo makes a request to an origin.
func requestTo(t testing.TB, origin string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", origin+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// grants counts how many retries the budget covers in a row.
func grants(b *steadyhttp.Budget, req *http.Request) int {
	n := 0
	for n < 1_000_000 && b.Take(req) {
		n++
	}
	return n
}

// The whole tariff, counted exactly.
func TestBudgetTariff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, "GET", "")
		var b steadyhttp.Budget
		if got := grants(&b, req); got != 10 {
			t.Errorf("a full start covers %d retries, want 10", got)
		}
		time.Sleep(29 * time.Second)
		if got := grants(&b, req); got != 0 {
			t.Errorf("29 s cover %d", got)
		}
		time.Sleep(time.Second)
		if got := grants(&b, req); got != 1 {
			t.Errorf("30 s cover %d, want 1: a quiet client is never stuck", got)
		}
		time.Sleep(24 * time.Hour)
		if got := grants(&b, req); got != 10 {
			t.Errorf("a day covers %d, want Max", got)
		}
	})
}

func TestBudgetFields(t *testing.T) {
	for name, tt := range map[string]struct {
		b         *steadyhttp.Budget
		atFirst   int
		afterHour int
	}{
		"larger Max":         {&steadyhttp.Budget{Max: 25}, 25, 25},
		"no trickle":         {&steadyhttp.Budget{PerSecond: -1}, 10, 0},
		"fast trickle":       {&steadyhttp.Budget{Max: 5, PerSecond: 1}, 5, 5},
		"slow trickle":       {&steadyhttp.Budget{PerSecond: 1.0 / 600}, 10, 6},
		"nothing is covered": {&steadyhttp.Budget{Max: 0.5}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, "GET", "")
				if got := grants(tt.b, req); got != tt.atFirst {
					t.Errorf("%d at first, want %d", got, tt.atFirst)
				}
				time.Sleep(time.Hour)
				if got := grants(tt.b, req); got != tt.afterHour {
					t.Errorf("%d after an hour, want %d", got, tt.afterHour)
				}
			})
		})
	}
}

// Max -1: retries are free, also for who asks on his own.
func TestNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{Max: -1}
		req := newRequest(t, "GET", "")
		for range 1000 {
			if !b.Take(req) {
				t.Fatal("refused")
			}
		}
		base := newScript(answers(503, ""))
		do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 100, Budget: b}}, req)
		if base.sent() != 100 {
			t.Errorf("%d attempts", base.sent())
		}
	})
}

// What pays and what does not. An account is emptied, one answer is returned, and the account is counted.
func TestWhatPays(t *testing.T) {
	for status, pays := range map[int]bool{
		200: true, 204: true, 301: true, 304: true, 400: true, 401: true, 404: true, 409: true, 499: true,
		408: false, 429: false, 500: false, 501: false, 503: false, 599: false,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &steadyhttp.Budget{PerSuccess: 1, PerSecond: -1}
				req := newRequest(t, "GET", "")
				grants(b, req)
				transport := &steadyhttp.Transport{Base: newScript(answers(status, "")), Policy: steadyhttp.Policy{Budget: b, MaxAttempts: 1}}
				do(t, transport, req)
				if got, want := grants(b, req), map[bool]int{true: 1}[pays]; got != want {
					t.Errorf("pays %d, want %d", got, want)
				}
			})
		})
	}
}

// A success through gates and hooks pays as much as one on the fast path: once.
func TestEachAnswerPaysOnce(t *testing.T) {
	for name, transport := range map[string]*steadyhttp.Transport{
		"fast path":  {},
		"with trace": {Trace: &steadyhttp.Trace{}},
		"classified": {Classify: (&steadyhttp.Rules{}).Classify},
		"read ahead": {Policy: steadyhttp.Policy{MaxRead: 100}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &steadyhttp.Budget{PerSecond: -1}
				req := newRequest(t, "GET", "")
				grants(b, req)
				transport.Base, transport.Policy.Budget = newScript(answers(200, "body")), b
				for i := range 10 {
					if grants(b, req) != 0 {
						t.Fatalf("%d answers of 0.1 each cover a retry", i)
					}
					do(t, transport, req)
				}
				if got := grants(b, req); got != 1 {
					t.Errorf("10 answers of 0.1 each cover %d retries, want 1", got)
				}
			})
		})
	}
}

// Payments fill the account and no more.
func TestPaymentsSaturate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSecond: -1}
		transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Policy: steadyhttp.Policy{Budget: b}}
		req := newRequest(t, "GET", "")
		grants(b, req)
		for range 100_000 {
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if got := grants(b, req); got != 10 {
			t.Errorf("100,000 answers cover %d retries, want Max", got)
		}
	})
}

// What costs: a fault and a throttling without a time. What the service dated, what it refused for its credentials and
// what is not retried costs nothing.
func TestWhatCosts(t *testing.T) {
	fault := answers(503, "")
	for name, tt := range map[string]struct {
		steps  []step
		policy steadyhttp.Policy
		want   int
	}{
		"no retry":               {[]step{answers(200, "")}, steadyhttp.Policy{}, 0},
		"permanent":              {[]step{answers(404, "")}, steadyhttp.Policy{}, 0},
		"fault":                  {[]step{fault, answers(200, "")}, steadyhttp.Policy{}, 1},
		"three faults":           {[]step{fault}, steadyhttp.Policy{}, 3},
		"fault with a time":      {[]step{answers(503, "", "Retry-After: 1"), answers(200, "")}, steadyhttp.Policy{}, 1},
		"lost connection":        {[]step{failsWith(errReset), answers(200, "")}, steadyhttp.Policy{}, 1},
		"bare 429":               {[]step{answers(429, ""), answers(200, "")}, steadyhttp.Policy{}, 1},
		"named 429":              {[]step{answers(429, "", "Retry-After: 1"), answers(200, "")}, steadyhttp.Policy{}, 0},
		"401":                    {[]step{answers(401, ""), answers(200, "")}, steadyhttp.Policy{}, 0},
		"fault of the only try":  {[]step{fault}, steadyhttp.Policy{MaxAttempts: 1}, 0},
		"fault, wait too long":   {[]step{answers(503, "", "Retry-After: 3600")}, steadyhttp.Policy{}, 0},
		"fault, nothing elapsed": {[]step{fault}, steadyhttp.Policy{MaxElapsed: time.Millisecond}, 0},
		"fault, nothing retried": {[]step{fault}, steadyhttp.Policy{Idempotent: func(*http.Request) bool { return false }}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &steadyhttp.Budget{PerSecond: -1, PerSuccess: -1}
				tt.policy.Budget = b
				transport := &steadyhttp.Transport{
					Base: newScript(tt.steps...), Policy: tt.policy,
					Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil },
				}
				req := newRequest(t, "GET", "")
				do(t, transport, req)
				if got := 10 - grants(b, req); got != tt.want {
					t.Errorf("cost %d, want %d", got, tt.want)
				}
			})
		})
	}
}

// A refused retry returns at once, with the last response.
func TestBudgetIsAskedBeforeTheWait(t *testing.T) {
	for name, fault := range map[string]step{"503": answers(503, "last"), "bare 429": answers(429, "last"), "lost": failsWith(errReset)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &steadyhttp.Budget{PerSecond: -1}
				req := newRequest(t, "GET", "")
				grants(b, req)
				base, passed := newScript(fault), stopwatch()
				resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{Budget: b}}).RoundTrip(req)
				if base.sent() != 1 || passed() != 0 {
					t.Errorf("%d attempts in %v", base.sent(), passed())
				}
				if err != nil {
					if e := errorOf(t, err); e.Stop != "budget" || !errors.Is(err, errReset) {
						t.Errorf("got %+v", e)
					}
					return
				}
				if stopOf(t, resp) != "budget" || readAll(t, resp) != "last" {
					t.Errorf("stop %q", stopOf(t, resp))
				}
			})
		})
	}
}

// A named 429 is the service's own word, and needs no budget.
func TestEmptyBudgetDoesNotStopANamedThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSecond: -1}
		req := newRequest(t, "GET", "")
		grants(b, req)
		base := newScript(answers(429, "", "Retry-After: 5"), answers(200, ""))
		if resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{Budget: b}}, req); resp.StatusCode != 200 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
}

// One balance per origin: scheme, host and port.
func TestBalancePerOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSecond: -1}
		for _, origin := range []string{"http://a.example", "https://a.example", "http://b.example", "http://a.example:8080"} {
			if got := grants(b, requestTo(t, origin)); got != 10 {
				t.Errorf("%s: %d grants, want 10", origin, got)
			}
			if got := grants(b, requestTo(t, origin+"/other/path?q=1")); got != 0 {
				t.Errorf("%s: %d grants for another path", origin, got)
			}
		}
	})
}

// A Budget that is shared is shared: an outage seen by one Transport is known to the other.
func TestBudgetOfTwoTransports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSecond: -1}
		base := newScript(answers(503, ""))
		policy := steadyhttp.Policy{Budget: b, MaxAttempts: 6}
		one, two := &steadyhttp.Transport{Base: base, Policy: policy}, &steadyhttp.Transport{Base: base, Policy: policy}
		for range 3 {
			do(t, one, newRequest(t, "GET", ""))
			do(t, two, newRequest(t, "GET", ""))
		}
		if base.sent() != 6+10 {
			t.Errorf("%d sends for 6 calls, want 10 retries", base.sent())
		}
	})
}

// Wait: first come, first served, woken by time.
func TestBudgetWaitIsFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: 0.1, Wait: true}
		grants(b, newRequest(t, "GET", ""))
		began := time.Now()
		var mu sync.Mutex
		var order []int
		var at []time.Duration
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				base := newScript(answers(503, ""), answers(200, ""))
				policy := steadyhttp.Policy{Budget: b, NewBackOff: constantBackOff(time.Millisecond)}
				do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
				mu.Lock()
				defer mu.Unlock()
				order, at = append(order, i), append(at, time.Since(began).Round(time.Second))
			})
			time.Sleep(time.Millisecond) // so that they come in order
		}
		wg.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
			t.Errorf("served in the order %v", order)
		}
		if want := []time.Duration{10e9, 20e9, 30e9, 40e9, 50e9}; !slices.Equal(at, want) {
			t.Errorf("served at %v, want %v", at, want)
		}
	})
}

// Wait: woken by the payments of others, at once.
func TestBudgetWaitIsWokenBySuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSuccess: 0.5, PerSecond: -1, Wait: true}
		grants(b, newRequest(t, "GET", ""))
		done := make(chan time.Time)
		go func() {
			base := newScript(answers(503, ""), answers(200, ""))
			policy := steadyhttp.Policy{Budget: b, NewBackOff: constantBackOff(time.Millisecond)}
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
			done <- time.Now()
		}()
		other := &steadyhttp.Transport{Base: newScript(answers(200, "")), Policy: steadyhttp.Policy{Budget: b}}
		time.Sleep(time.Hour)
		do(t, other, newRequest(t, "GET", ""))
		time.Sleep(time.Hour)
		paid := time.Now()
		do(t, other, newRequest(t, "GET", ""))
		if served := <-done; !served.Equal(paid) {
			t.Errorf("served %v after the payment that covered it", served.Sub(paid))
		}
	})
}

// Time on the budget's queue has been a back-off too: the two are not added up.
func TestBudgetWaitCountsAsBackOff(t *testing.T) {
	for _, tt := range []struct{ backOff, want time.Duration }{
		{time.Second, 30 * time.Second},
		{45 * time.Second, 45 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &steadyhttp.Budget{Wait: true}
			grants(b, newRequest(t, "GET", ""))
			passed := stopwatch()
			policy := steadyhttp.Policy{Budget: b, NewBackOff: constantBackOff(tt.backOff)}
			do(t, &steadyhttp.Transport{Base: newScript(answers(503, ""), answers(200, "")), Policy: policy}, newRequest(t, "GET", ""))
			if passed().Round(time.Millisecond) != tt.want {
				t.Errorf("back-off %v: took %v, want %v", tt.backOff, passed(), tt.want)
			}
		})
	}
}

// A waiter whose caller gives up leaves the queue to those behind it.
func TestCancelledBudgetWaiterLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: 0.1, Wait: true}
		grants(b, newRequest(t, "GET", ""))
		policy := steadyhttp.Policy{Budget: b, NewBackOff: constantBackOff(time.Millisecond)}
		passed := stopwatch()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := (&steadyhttp.Transport{Base: newScript(answers(503, "")), Policy: policy}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
			if !errors.Is(err, context.Canceled) || passed() != 4*time.Second {
				t.Errorf("%v after %v", err, passed())
			}
		})
		time.Sleep(time.Second)
		wg.Go(func() {
			do(t, &steadyhttp.Transport{Base: newScript(answers(503, ""), answers(200, "")), Policy: policy}, newRequest(t, "GET", ""))
			if passed().Round(time.Second) != 10*time.Second {
				t.Errorf("the one behind was served after %v, want 10 s", passed())
			}
		})
		time.Sleep(3 * time.Second)
		cancel()
		wg.Wait()
	})
}

// MaxElapsed bounds the wait for the budget, and the last response is returned when it is over.
func TestBudgetWaitWithinMaxElapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSecond: -1, Wait: true}
		grants(b, newRequest(t, "GET", ""))
		passed := stopwatch()
		policy := steadyhttp.Policy{Budget: b, MaxElapsed: 10 * time.Second}
		resp, body := do(t, &steadyhttp.Transport{Base: newScript(answers(503, "last")), Policy: policy}, newRequest(t, "GET", ""))
		if stopOf(t, resp) != "elapsed" || body != "last" || passed() != 10*time.Second {
			t.Errorf("stop %q, %q after %v", stopOf(t, resp), body, passed())
		}
	})
}

// Request.Cancel ends that wait, too.
func TestBudgetWaitObeysRequestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &steadyhttp.Budget{PerSecond: -1, Wait: true}
		grants(b, newRequest(t, "GET", ""))
		cancel := make(chan struct{})
		time.AfterFunc(5*time.Second, func() { close(cancel) })
		req := newRequest(t, "GET", "")
		//lint:ignore SA1019 deprecated, and still obeyed
		req.Cancel = cancel
		passed := stopwatch()
		_, err := (&steadyhttp.Transport{Base: newScript(answers(503, "")), Policy: steadyhttp.Policy{Budget: b}}).RoundTrip(req)
		if e := errorOf(t, err); e.Stop != "cancelled" || passed() != 5*time.Second {
			t.Errorf("%v after %v", e, passed())
		}
	})
}

// An outage empties the budget, and the successes after it fill it again, time and again.
func TestBudgetRecoversAfterOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var sent atomic.Int64
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			sent.Add(1)
			if down.Load() {
				return answers(503, "")(req)
			}
			return answers(200, "")(req)
		})
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{PerSecond: -1}}}
		calls := func(n int) (retries int64) {
			before := sent.Load()
			for range n {
				do(t, transport, newRequest(t, "GET", ""))
			}
			return sent.Load() - before - int64(n)
		}
		for outage := range 50 {
			down.Store(true)
			if got := calls(200); got != 10 {
				t.Fatalf("outage %d: 200 calls were retried %d times, want 10", outage+1, got)
			}
			down.Store(false)
			calls(100)
		}
	})
}

// With 5 % of random faults the budget is never what a call fails of.
func TestFewFaultsAreAllRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			if r.IntN(100) < 5 {
				return answers(503, "")(req)
			}
			return answers(200, "")(req)
		})
		transport := &steadyhttp.Transport{Base: base}
		failures := 0
		const calls = 20_000
		for range calls {
			if resp, _ := do(t, transport, newRequest(t, "GET", "")); resp.StatusCode != 200 {
				failures++
			}
		}
		if failures > calls/1000 {
			t.Errorf("%d of %d calls failed, want at most 0.1 %%", failures, calls)
		}
	})
}

// With half of all attempts failing, sends stay within 1.15 of the calls.
func TestManyFaultsAreNotAmplified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		sent := 0
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			sent++
			if r.IntN(2) == 0 {
				return answers(503, "")(req)
			}
			return answers(200, "")(req)
		})
		transport := &steadyhttp.Transport{Base: base}
		const calls = 5000
		for range calls {
			resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			time.Sleep(10 * time.Millisecond)
		}
		if sent > calls*115/100 {
			t.Errorf("%d sends for %d calls", sent, calls)
		}
	})
}

// A client that calls once a minute still gets a retry, however bad the day was.
func TestQuietClientIsNeverStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, ""))
		transport := &steadyhttp.Transport{Base: base}
		for range 100 {
			before := base.sent()
			do(t, transport, newRequest(t, "GET", ""))
			if base.sent()-before < 2 {
				t.Fatalf("a call made %d attempts", base.sent()-before)
			}
			time.Sleep(time.Minute)
		}
	})
}

// Batch: no item is lost to an outage that ends.
func TestBatchOutlastsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			if since := time.Since(began); since > 5*time.Second && since < 35*time.Second {
				return answers(503, "")(req)
			}
			return answers(200, "")(req)
		})
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Batch()}
		var lost atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 200 {
					resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
					if err != nil || resp.StatusCode != 200 {
						lost.Add(1)
						continue
					}
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
		if lost.Load() != 0 {
			t.Errorf("%d of 4000 items lost", lost.Load())
		}
	})
}

// One balance per origin, however its URL spells it (RFC 6454 section 4).
func TestBudgetKnowsAnOriginHoweverSpelt(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"https://h.example", "https://h.example:443", true},
		{"https://h.example:443", "https://H.EXAMPLE", true},
		{"HTTPS://h.example", "https://h.example", true},
		{"http://h.example", "http://h.example:80", true},
		{"http://h.example:", "http://h.example", true},
		{"https://[2001:db8::1]", "https://[2001:DB8::1]:443", true},
		{"https://[::1]:8443", "https://[::1]:8443", true},
		{"https://h.example", "http://h.example", false},
		{"https://h.example", "https://h.example:80", false},
		{"http://h.example", "http://h.example:443", false},
		{"https://h.example", "https://h.example:8443", false},
		{"https://h.example", "https://h.example.", false},
		{"https://[::1]", "https://[::1]:80", false},
		{"https://[::1]", "https://[::2]", false},
		{"https://[::443]", "https://[::443]:443", true},
		{"https://[::443]", "https://[::]", false},
	} {
		for _, urls := range [][2]string{{tt.a, tt.b}, {tt.b, tt.a}} {
			b := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: -1}
			if !b.Take(requestTo(t, urls[0])) {
				t.Fatalf("%s: a full balance covers nothing", urls[0])
			}
			if got := !b.Take(requestTo(t, urls[1])); got != tt.same {
				t.Errorf("%s and %s share a balance: %v", urls[0], urls[1], got)
			}
		}
	}
}

// What can't be meant is refused before anything is sent, with the field's name and the fix, also
// where an edit of WithPolicy says so.
func TestImpossiblePoliciesAreRefused(t *testing.T) {
	type policy = steadyhttp.Policy
	budget := func(b *steadyhttp.Budget) policy { return policy{Budget: b} }
	for name, tt := range map[string]struct {
		policy policy
		field  string // "": it is accepted
	}{
		"MaxWait -1":                 {policy{MaxWait: -1}, "Policy.MaxWait"},
		"MaxWait -1h":                {policy{MaxWait: -time.Hour}, "Policy.MaxWait"},
		"MaxWait -1, with a budget":  {policy{MaxWait: -1, Budget: &steadyhttp.Budget{}}, "Policy.MaxWait"},
		"MaxElapsed -1":              {policy{MaxElapsed: -1}, "Policy.MaxElapsed"},
		"MaxElapsed, long past":      {policy{MaxElapsed: math.MinInt64, Budget: &steadyhttp.Budget{}}, "Policy.MaxElapsed"},
		"both":                       {policy{MaxWait: -1, MaxElapsed: -1}, "Policy.MaxWait"},
		"what negative is none of":   {policy{AttemptTimeout: -1, IdleTimeout: -1, MaxRead: -1, MaxBuffer: -1, MaxAttempts: -1, MaxThrottled: -1}, ""},
		"the most of all":            {policy{MaxElapsed: math.MaxInt64, MaxWait: math.MaxInt64, AttemptTimeout: math.MaxInt64, IdleTimeout: math.MaxInt64}, ""},
		"Max 0.5 with Wait":          {budget(&steadyhttp.Budget{Max: 0.5, Wait: true}), "Budget.Max"},
		"Max just below 1 with Wait": {budget(&steadyhttp.Budget{Max: 0.999, Wait: true}), "Budget.Max"},
		"Max NaN":                    {budget(&steadyhttp.Budget{Max: math.NaN()}), "Budget.Max"},
		"Max Inf":                    {budget(&steadyhttp.Budget{Max: math.Inf(1)}), "Budget.Max"},
		"Max -Inf":                   {budget(&steadyhttp.Budget{Max: math.Inf(-1)}), "Budget.Max"},
		"PerSuccess NaN":             {budget(&steadyhttp.Budget{PerSuccess: math.NaN()}), "Budget.PerSuccess"},
		"PerSuccess Inf":             {budget(&steadyhttp.Budget{PerSuccess: math.Inf(1)}), "Budget.PerSuccess"},
		"PerSecond NaN":              {budget(&steadyhttp.Budget{PerSecond: math.NaN()}), "Budget.PerSecond"},
		"PerSecond -Inf":             {budget(&steadyhttp.Budget{PerSecond: math.Inf(-1)}), "Budget.PerSecond"},
		"zero":                       {policy{}, ""},
		"Batch":                      {steadyhttp.Batch(), ""},
		"Max 0.5":                    {budget(&steadyhttp.Budget{Max: 0.5}), ""},
		"Max 1 with Wait":            {budget(&steadyhttp.Budget{Max: 1, Wait: true}), ""},
		"Max -1 with Wait":           {budget(&steadyhttp.Budget{Max: -1, Wait: true}), ""},
		"negative rates":             {budget(&steadyhttp.Budget{PerSuccess: -1, PerSecond: -0.5}), ""},
		"MaxWait a nanosecond":       {policy{MaxWait: 1}, ""},
	} {
		for _, edited := range []bool{false, true} {
			base := newScript(answers(200, ""))
			tr := &steadyhttp.Transport{Base: base, Policy: tt.policy}
			req := newRequest(t, "PUT", "content")
			if edited {
				tr.Policy = steadyhttp.Policy{}
				req = req.WithContext(steadyhttp.WithPolicy(t.Context(), func(p *policy) { *p = tt.policy }))
			}
			resp, err := tr.RoundTrip(req)
			if tt.field == "" {
				if err != nil {
					t.Errorf("%s, edited %v: %v", name, edited, err)
					continue
				}
				readAll(t, resp)
				continue
			}
			if err == nil {
				t.Errorf("%s, edited %v: accepted", name, edited)
				continue
			}
			e := errorOf(t, err)
			if base.sent() != 0 || !errors.Is(err, steadyhttp.ErrNotSent) || e.Stop != steadyhttp.StopPermanent ||
				!strings.Contains(err.Error(), tt.field+" is ") || !strings.Contains(err.Error(), "; use ") {
				t.Errorf("%s, edited %v: %v, %d sends", name, edited, err, base.sent())
			}
		}
	}
}
