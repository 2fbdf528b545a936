package steadyhttp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What a client that follows links to ever new hosts makes us remember is bounded.
func TestBudgetIsBounded(t *testing.T) {
	for name, use := range map[string]func(*Budget, *http.Request){
		"full balances":  func(b *Budget, req *http.Request) { b.pay(req) },
		"spent balances": func(b *Budget, req *http.Request) { b.Take(req) },
		"mixed": func(b *Budget, req *http.Request) {
			if len(req.URL.Host)%2 == 0 {
				b.Take(req)
			}
			b.pay(req)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b Budget
				for i := range 100_000 {
					use(&b, &http.Request{URL: &url.URL{Scheme: "https", Host: fmt.Sprint("host-", i*i, ".example")}})
					if len(b.balances) > maxOrigins+1 {
						t.Fatalf("%d balances after %d origins", len(b.balances), i+1)
					}
				}
				if name == "spent balances" && len(b.balances) != 1000 {
					t.Errorf("%d balances, the doc says 1000", len(b.balances))
				}
				if len(b.balances) < maxOrigins/2 {
					t.Errorf("only %d balances are left", len(b.balances))
				}
			})
		})
	}
}

// Beyond the bound, origins share one balance; those that have one of their own keep it.
func TestBudgetBeyondTheBoundIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Budget
		request := func(i int) *http.Request {
			return &http.Request{URL: &url.URL{Scheme: "https", Host: fmt.Sprint("host-", i, ".example")}}
		}
		for i := range maxOrigins {
			b.Take(request(i)) // so that none is full, and none may be forgotten
		}
		granted := 0
		for i := range 100 {
			if b.Take(request(maxOrigins + i)) {
				granted++
			}
		}
		if granted != 10 {
			t.Errorf("100 more origins got %d grants, want the 10 of one shared balance", granted)
		}
		for i := range maxOrigins {
			if !b.Take(request(i)) {
				t.Fatalf("origin %d has lost its balance", i)
			}
		}
	})
}

// The account against a model that adds up in the open: a million operations in virtual time.
func TestBalanceAgainstModel(t *testing.T) {
	for _, tt := range []struct{ max, perSuccess, perSecond float64 }{
		{10, 0.1, 1.0 / 30}, {3, 0.5, 1}, {1, 0.25, 0}, {100, 0, 0.5},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := Budget{Max: tt.max, PerSuccess: orNone(tt.perSuccess), PerSecond: orNone(tt.perSecond)}
				req := &http.Request{URL: &url.URL{Scheme: "https", Host: "api.example"}}
				r := rand.New(rand.NewPCG(1, 2))
				amount, at, began := tt.max, time.Now(), time.Now()
				var granted, paid float64
				for i := range 250_000 {
					switch n := r.IntN(100); {
					case n < 50:
						b.pay(req)
						paid++
						// The model pays at once; the balance may pay when it is next looked at, but no more than fills it.
						amount = min(tt.max, amount+tt.perSuccess)
					case n < 60:
						time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
					default:
						now := time.Now()
						amount = min(tt.max, amount+now.Sub(at).Seconds()*tt.perSecond)
						at = now
						got := b.Take(req)
						// Time and payments may be added in another order than the model's; at the upper bound that
						// makes a difference of at most what was paid since the last look, and rounding one of 1e-6.
						if got && amount < 1-1e-6 {
							t.Fatalf("operation %d: granted with %v in the account", i, amount)
						}
						if !got && amount >= 1+1e-6 {
							t.Fatalf("operation %d: refused with %v in the account", i, amount)
						}
						if got {
							amount--
							granted++
						}
					}
				}
				if most := tt.max + paid*tt.perSuccess + time.Since(began).Seconds()*tt.perSecond; granted > most+1e-6 {
					t.Errorf("%v grants for %v paid", granted, most)
				}
			})
		})
	}
}

// orNone is what a field must be to mean 0, as 0 means the default.
func orNone(f float64) float64 {
	if f == 0 {
		return -1
	}
	return f
}

// Never over-granted: many goroutines pay, take and wait at once, and the sum of grants stays within Max and what was
// paid. Real goroutines, no bubble, so that the race detector sees them run in parallel.
func TestBudgetIsNeverOverGranted(t *testing.T) {
	b := Budget{Max: 10, PerSuccess: 0.1, PerSecond: -1, Wait: true}
	req := &http.Request{URL: &url.URL{Scheme: "https", Host: "api.example"}}
	const payers, takers, waiters, rounds = 8, 8, 8, 2000
	var granted atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var paying, taking, waiting sync.WaitGroup
	for range payers {
		paying.Go(func() {
			for range rounds {
				b.pay(req)
			}
		})
	}
	for range takers {
		taking.Go(func() {
			for range rounds {
				if b.Take(req) {
					granted.Add(1)
				}
			}
		})
	}
	for range waiters {
		waiting.Go(func() {
			for b.of(req).wait(ctx, nil) == nil {
				granted.Add(1)
			}
		})
	}
	paying.Wait()
	taking.Wait()
	cancel()
	waiting.Wait()
	if most := 10 + payers*rounds/10; granted.Load() > int64(most) {
		t.Errorf("%d grants, %d paid for", granted.Load(), most)
	}
	if n := b.of(req).waiting.Load(); n != 0 || b.of(req).queue.Len() != 0 {
		t.Errorf("%d waiters are left behind", n)
	}
}

// A waiter that leaves takes its place with it, and its timer, and gives back what it was granted meanwhile.
func TestCancelledDebtorLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Budget{Max: 1, PerSecond: 1, Wait: true}
		req := &http.Request{URL: &url.URL{Scheme: "https", Host: "api.example"}}
		account := b.of(req)
		if !b.Take(req) {
			t.Fatal("a full balance refused")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- account.wait(ctx, nil) }()
		synctest.Wait()
		cancel()
		if err := <-ended; err == nil {
			t.Fatal("a cancelled wait was granted")
		}
		account.mu.Lock()
		if account.queue.Len() != 0 || account.timer != nil || account.waiting.Load() != 0 {
			t.Errorf("left behind: %d in the queue, timer %v, %d waiting", account.queue.Len(), account.timer, account.waiting.Load())
		}
		account.mu.Unlock()

		// The grant and the end come at once, under the lock, before the waiter has run. It sees the one that comes first.
		for _, cancelFirst := range []bool{false, true} {
			ctx, cancel = context.WithCancel(t.Context())
			go func() { ended <- account.wait(ctx, nil) }()
			synctest.Wait()
			account.mu.Lock()
			if cancelFirst {
				cancel()
			}
			account.amount = 1
			account.serve()
			cancel()
			account.mu.Unlock()
			err := <-ended
			if left := b.Take(req); (err != nil) != cancelFirst || left != cancelFirst {
				t.Errorf("cancelled first: %v; the waiter got %v, and the balance covers another: %v", cancelFirst, err, left)
			}
		}
	})
}

// The wait that a tiny PerSecond makes must not overflow into a timer that fires at once, for ever.
func TestTinyTrickleMakesNoHotTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Budget{Max: 1, PerSuccess: -1, PerSecond: 1e-12, Wait: true}
		account := b.of(&http.Request{URL: &url.URL{Scheme: "https", Host: "api.example"}})
		account.mu.Lock()
		account.amount = 0
		account.push(&debtor{covered: make(chan struct{})})
		account.serve()
		timer := account.timer
		account.queue.Clear() // or a hot timer would keep virtual time from passing
		account.mu.Unlock()
		time.Sleep(time.Hour)
		if timer != nil && !timer.Stop() {
			t.Error("the timer for a wait of 30,000 years has fired within the hour")
		}
	})
}

// Of many waiters that are cancelled at once, each leaves in a time that does not grow with their number.
func TestLeavingTheQueueIsLinear(t *testing.T) {
	per := func(waiters int) time.Duration {
		account := (&Budget{Max: 1, PerSecond: 1e-9}).open()
		account.amount = 0
		debtors := make([]*debtor, waiters)
		for i := range debtors {
			debtors[i] = &debtor{covered: make(chan struct{})}
			account.push(debtors[i])
		}
		rand.Shuffle(waiters, func(i, j int) { debtors[i], debtors[j] = debtors[j], debtors[i] })
		began := time.Now()
		for _, d := range debtors {
			account.leave(d)
		}
		took := time.Since(began)
		if account.queue.Len() != 0 || account.waiting.Load() != 0 || account.queue.Front() != nil || account.queue.Back() != nil {
			t.Fatalf("%d are left", account.queue.Len())
		}
		return took / time.Duration(waiters)
	}
	if each := per(40_000); each > 5*time.Microsecond {
		t.Errorf("%v each of 40,000", each)
	}
}
