package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// pausingGates are the gates that a 429 closes.
var pausingGates = map[string]func() steadyhttp.Gate{
	"Limit":           func() steadyhttp.Gate { return steadyhttp.Limit(nil) },
	"Limit of a rate": func() steadyhttp.Gate { return steadyhttp.Limit(rate.NewLimiter(1000, 1000)) },
	"Quota": func() steadyhttp.Gate {
		return &quota.Quota{Windows: []quota.Window{{N: 100_000, Per: time.Minute}}}
	},
}

func forPausingGates(t *testing.T, f func(t *testing.T, newGate func() steadyhttp.Gate)) {
	for name, newGate := range pausingGates {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, newGate) })
		})
	}
}

// service is a base in virtual time that notes when requests come, and when they were answered.
type service struct {
	silent bool // it tells httptrace of nothing, as bases that are not net/http's do
	began  time.Time
	does   func(n int, req *http.Request) (*http.Response, error) // n counts from 1

	mu   sync.Mutex
	came []time.Duration
}

func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.came = append(s.came, time.Since(s.began))
	n := len(s.came)
	s.mu.Unlock()
	if trace := httptrace.ContextClientTrace(req.Context()); !s.silent && trace != nil {
		trace.WroteHeaders()
	}
	return s.does(n, req)
}

func (s *service) arrivals() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.came)
}

// after answers when a time has passed, unless the request ends first.
func after(d time.Duration, req *http.Request, answer step) (*http.Response, error) {
	select {
	case <-time.After(d):
		return answer(req)
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// answeredAt makes n calls at once, and returns when each came back with a 200, in order.
func answeredAt(t *testing.T, began time.Time, n int, call func(i int) bool) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var at []time.Duration
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if call(i) {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began))
			}
		})
	}
	group.Wait()
	slices.Sort(at)
	return at
}

func call(ctx context.Context, transport http.RoundTripper, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(req)
}

// ok makes a call and reports whether it was answered with a 200.
func ok(ctx context.Context, transport http.RoundTripper) bool {
	resp, err := call(ctx, transport, "http://api.example/")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

var once = steadyhttp.Policy{MaxAttempts: 1}

// However the probes hang, those behind them go a few seconds later.
func TestHungProbeHoldsUpNobody(t *testing.T) {
	const pause, callers = 10 * time.Second, 50
	good := answers(200, "")
	for name, tt := range map[string]struct {
		hung   int // calls after the 429 that hang, for ever or nearly
		probe  func(req *http.Request) (*http.Response, error)
		change func(*steadyhttp.Transport, func() bool)
		within time.Duration // of the pause's end
	}{
		"for ever": {hung: 1, within: 10 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) { return after(24*time.Hour, req, good) }},
		"for 200 s": {hung: 1, within: 10 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) { return after(200*time.Second, req, good) }},
		"until its connection is lost": {hung: 1, within: 10 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) { return after(time.Hour, req, failsWith(errReset)) }},
		"several": {hung: 4, within: 26 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) { return after(24*time.Hour, req, good) }},
		"in Prepare": {hung: 1, within: 10 * time.Second,
			change: func(tr *steadyhttp.Transport, hangs func() bool) {
				tr.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error {
					if hangs() {
						<-req.Context().Done()
					}
					return req.Context().Err()
				}
			}},
		"in a later gate": {hung: 1, within: 10 * time.Second,
			change: func(tr *steadyhttp.Transport, hangs func() bool) {
				tr.Gates = append(tr.Gates, gateFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
					if hangs() {
						<-ctx.Done()
					}
					return nil, ctx.Err()
				}))
			}},
		"in Prepare, which then fails": {hung: 1, within: 2 * time.Second,
			change: func(tr *steadyhttp.Transport, hangs func() bool) {
				tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error {
					if hangs() {
						return errors.New("no token")
					}
					return nil
				}
			}},
		"in a later gate, which then refuses": {hung: 1, within: 2 * time.Second,
			change: func(tr *steadyhttp.Transport, hangs func() bool) {
				tr.Gates = append(tr.Gates, gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
					if hangs() {
						return nil, steadyhttp.ErrNotSent
					}
					return nil, nil
				}))
			}},
		"in Classify": {hung: 1, within: 10 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) { return answers(404, "hangs")(req) },
			change: func(tr *steadyhttp.Transport, _ func() bool) {
				tr.Classify = func(a steadyhttp.Attempt) steadyhttp.Verdict {
					if string(a.Body) == "hangs" {
						time.Sleep(time.Hour)
					}
					return (&steadyhttp.Rules{}).Classify(a)
				}
			}},
		"in Classify, with a 429": {hung: 1, within: 10 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) { return answers(429, "hangs", "Retry-After: 1")(req) },
			change: func(tr *steadyhttp.Transport, _ func() bool) {
				tr.Classify = func(a steadyhttp.Attempt) steadyhttp.Verdict {
					if string(a.Body) == "hangs" {
						time.Sleep(time.Hour)
					}
					return (&steadyhttp.Rules{}).Classify(a)
				}
			}},
		"in the body of its 200": {hung: 1, within: 2 * time.Second,
			probe: func(req *http.Request) (*http.Response, error) {
				resp, _ := good(req)
				body, w := io.Pipe()
				context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
				resp.Body, resp.ContentLength = body, -1
				return resp, nil
			},
			change: func(tr *steadyhttp.Transport, _ func() bool) { tr.Policy.MaxRead = 1 << 20 }},
	} {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/silent=%v", name, silent), func(t *testing.T) {
				forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
					s := &service{silent: silent, began: time.Now()}
					s.does = func(n int, req *http.Request) (*http.Response, error) {
						switch {
						case n == 1:
							return answers(429, "", fmt.Sprint("Retry-After: ", pause.Seconds()))(req)
						case n <= 1+tt.hung && tt.probe != nil:
							return tt.probe(req)
						}
						return after(100*time.Millisecond, req, good)
					}
					transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{newGate()}, Policy: once}
					ok(t.Context(), transport)
					if tt.change != nil {
						var mu sync.Mutex
						n := 0
						tt.change(transport, func() bool {
							mu.Lock()
							defer mu.Unlock()
							n++
							return n <= tt.hung
						})
					}
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(90*time.Second, cancel) // the end of those that hang
					at := answeredAt(t, s.began, callers, func(int) bool { return ok(ctx, transport) })
					if len(at) < callers-tt.hung {
						t.Fatalf("%d of %d calls answered", len(at), callers)
					}
					last := at[callers-tt.hung-1] - pause
					t.Logf("the first after %v, the last after %v", at[0]-pause, last)
					if at[0] < pause || last > tt.within {
						t.Errorf("answered from %v until %v after the pause, want at most %v", at[0]-pause, last, tt.within)
					}
				})
			})
		}
	}
}

// Where all probes take long, one more goes each 5 s, and no more than that: what is throttling may
// be just as slow.
func TestSlowProbesGoOneByOne(t *testing.T) {
	forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
		s := &service{began: time.Now()}
		s.does = func(n int, req *http.Request) (*http.Response, error) {
			if n == 1 {
				return answers(429, "", "Retry-After: 10")(req)
			}
			return after(200*time.Second, req, answers(200, ""))
		}
		transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{newGate()}, Policy: once}
		ok(t.Context(), transport)
		at := answeredAt(t, s.began, 300, func(int) bool { return ok(t.Context(), transport) })
		came := s.arrivals()[1:]
		for i, c := range came {
			if want := 10*time.Second + time.Duration(i)*5*time.Second; c < 210*time.Second && c.Round(time.Millisecond) != want {
				t.Fatalf("probe %d came at %v, want %v", i+1, c, want)
			}
		}
		if len(at) != 300 || at[299] > 20*time.Minute {
			t.Errorf("%d answered, the last after %v", len(at), at[len(at)-1])
		}
		t.Logf("300 calls of 200 s each: the last came at %v and was answered at %v", came[299], at[299])
	})
}

// A window that answers have widened makes way evenly: no more than its width in 5 s.
func TestHungWindowMakesWayEvenly(t *testing.T) {
	forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
		const quick = 30
		s := &service{began: time.Now()}
		s.does = func(n int, req *http.Request) (*http.Response, error) {
			switch {
			case n == 1:
				return answers(429, "", "Retry-After: 1")(req)
			case n <= 1+quick:
				return after(100*time.Millisecond, req, answers(200, ""))
			}
			return after(time.Hour, req, answers(200, ""))
		}
		transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{newGate()}, Policy: once}
		ok(t.Context(), transport)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		answeredAt(t, s.began, 100, func(int) bool { return ok(ctx, transport) })
		came := s.arrivals()
		width := 0
		for i, c := range came[1+quick:] { // those that went with the last answers fill the window
			if c < came[1+quick]+4*time.Second {
				width = i + 1
			}
		}
		hung := came[1+quick+width:]
		if width < 5 || width > 10 || len(hung) < 40 {
			t.Fatalf("the window is %d wide, and %d calls came after it was full", width, len(hung))
		}
		for i := range hung[:len(hung)-1] {
			if gap := hung[i+1] - hung[i]; gap < 5*time.Second/time.Duration(width+1) || gap > 5*time.Second {
				t.Errorf("%v between two calls in a window of %d", gap, width)
			}
		}
	})
}

// The second probe may be throttled while the first hangs. What comes late of the first prolongs
// the pause at most, and begins none.
func TestLateAnswerOfAHungProbe(t *testing.T) {
	for name, tt := range map[string]struct {
		late step
		at   time.Duration // when the hung probe is answered
		next time.Duration // when the call of 28 s is answered
	}{
		"a 429 with a time":        {answers(429, "", "Retry-After: 3"), 27 * time.Second, 30 * time.Second},
		"a 429 without":            {answers(429, ""), 27 * time.Second, 28 * time.Second},
		"a 429 within the pause":   {answers(429, "", "Retry-After: 4"), 20 * time.Second, 28 * time.Second},
		"a 429 that outlasts it":   {answers(429, "", "Retry-After: 15"), 20 * time.Second, 35 * time.Second},
		"a 200 within the pause":   {answers(200, ""), 20 * time.Second, 28 * time.Second},
		"a failure with the pause": {failsWith(errReset), 20 * time.Second, 28 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
				began := time.Now()
				s := &service{began: began}
				s.does = func(n int, req *http.Request) (*http.Response, error) {
					switch n {
					case 1:
						return answers(429, "", "Retry-After: 10")(req)
					case 2: // at 10 s
						return after(tt.at-time.Since(began), req, tt.late)
					case 3: // at 15 s
						return answers(429, "", "Retry-After: 10")(req)
					}
					return answers(200, "")(req)
				}
				transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{newGate()}, Policy: once}
				ok(t.Context(), transport)
				var group sync.WaitGroup
				for range 3 {
					group.Go(func() { ok(t.Context(), transport) })
				}
				time.Sleep(28 * time.Second)
				// The window is 2 wide if nothing has begun another pause after the answer at 25 s.
				at := answeredAt(t, began, 2, func(int) bool { return ok(t.Context(), transport) })
				group.Wait()
				if len(at) != 2 || at[0] != tt.next && at[0] != max(tt.next, 28*time.Second) || at[1] != at[0] {
					t.Errorf("two calls of 28 s were answered at %v, want %v", at, tt.next)
				}
				came := s.arrivals()
				if want := []time.Duration{0, 10 * time.Second, 15 * time.Second}; !slices.Equal(came[:3], want) {
					t.Errorf("sent at %v, want %v first", came, want)
				}
				if came[3] < 25*time.Second {
					t.Errorf("sent at %v, in the second probe's pause", came[3])
				}
			})
		})
	}
}

// Whoever has queued is refused at once when the pause turns out to outlast his time, and not when
// that has passed; who can still go in time is not.
func TestPauseThatGrowsRefusesThoseWhoQueue(t *testing.T) {
	forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
		s := &service{began: time.Now()}
		s.does = func(n int, req *http.Request) (*http.Response, error) {
			switch n {
			case 1:
				return answers(429, "", "Retry-After: 10")(req)
			case 2:
				return after(time.Second, req, answers(429, "", "Retry-After: 60"))
			}
			return answers(200, "")(req)
		}
		transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{newGate()}, Policy: once}
		ok(t.Context(), transport)
		var group sync.WaitGroup
		group.Go(func() { ok(t.Context(), transport) }) // the probe, throttled at 11 s until 71 s
		synctest.Wait()
		for i := range 60 {
			group.Go(func() {
				limit := time.Duration(12+i) * 2 * time.Second
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				_, err := call(ctx, transport, "http://api.example/")
				if took := time.Since(s.began); limit < 71*time.Second {
					e := errorOf(t, err)
					if took != 11*time.Second || !errors.Is(err, steadyhttp.ErrNotSent) || e.Wait != time.Minute {
						t.Errorf("with %v: %v, wait %v, after %v", limit, err, e.Wait, took)
					}
				} else if err != nil {
					t.Errorf("with %v: %v after %v", limit, err, took)
				}
			})
		}
		group.Wait()
	})
}

// In a pause, those ahead take tokens that a newcomer needs: whose tokens come too late is refused at once.
func TestPauseCountsTheTokensOfThoseAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{began: time.Now()}
		s.does = func(n int, req *http.Request) (*http.Response, error) {
			if n == 1 {
				return answers(429, "", "Retry-After: 10")(req)
			}
			return answers(200, "")(req)
		}
		gate := steadyhttp.Limit(rate.NewLimiter(rate.Every(time.Second), 5))
		transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{gate}, Policy: once}
		ok(t.Context(), transport)
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() { ok(t.Context(), transport) })
		}
		synctest.Wait()
		// 5 tokens at 10 s, one a second from then on: the 21st goes at 26 s.
		for _, limit := range []time.Duration{25 * time.Second, 27 * time.Second} {
			refused := limit < 26*time.Second
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			group.Go(func() {
				began := time.Now()
				_, err := call(ctx, transport, "http://api.example/")
				if refused != errors.Is(err, steadyhttp.ErrNotSent) || refused && time.Since(began) > 0 {
					t.Errorf("with %v: %v after %v", limit, err, time.Since(began))
				}
				if e, is := errors.AsType[*steadyhttp.Error](err); is && e.Wait.Round(time.Second) != 26*time.Second {
					t.Errorf("with %v: wait %v, want 26 s", limit, e.Wait)
				}
			})
			synctest.Wait()
		}
		group.Wait()
	})
}

// One gate for all that leaves the process: where a pause outlasts the token, the probe's own
// Prepare has to get through it.
func TestTokenThroughThePausedGate(t *testing.T) {
	for _, tt := range []struct {
		workers int
		timeout time.Duration // of the token's client
		alone   bool          // one fetch at a time, as oauth2's sources do
	}{
		{1, 0, true}, {50, 0, true}, {50, 0, false}, {50, 30 * time.Second, true}, {50, 8 * time.Second, true},
		{50, 30 * time.Second, false}, {500, 30 * time.Second, true},
	} {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d workers, %v, alone=%v, silent=%v", tt.workers, tt.timeout, tt.alone, silent), func(t *testing.T) {
				forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
					egress := newGate()
					began := time.Now()
					s := &service{silent: silent, began: began}
					s.does = func(n int, req *http.Request) (*http.Response, error) {
						if n == 1 {
							return answers(429, "", "Retry-After: 3000")(req)
						}
						return after(100*time.Millisecond, req, answers(200, ""))
					}
					tokens := &http.Client{
						Transport: &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{egress}, Policy: once},
						Timeout:   tt.timeout,
					}
					fetching := make(chan struct{}, tt.workers)
					if tt.alone {
						fetching = make(chan struct{}, 1)
					}
					var mu sync.Mutex
					expires := began.Add(40 * time.Minute) // within the pause
					expired := func() bool {
						mu.Lock()
						defer mu.Unlock()
						return !time.Now().Before(expires)
					}
					api := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{egress}, Policy: once}
					api.Prepare = func(*http.Request, *steadyhttp.Attempt) error {
						fetching <- struct{}{}
						defer func() { <-fetching }()
						if !expired() {
							return nil
						}
						resp, err := tokens.Get("http://login.example/token")
						if err == nil {
							mu.Lock()
							expires = time.Now().Add(time.Hour)
							mu.Unlock()
							resp.Body.Close()
						}
						return err
					}
					ok(t.Context(), api) // closes the gate for 50 minutes
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour)
					defer cancel()
					at := answeredAt(t, began.Add(50*time.Minute), tt.workers, func(int) bool { return ok(ctx, api) })
					if len(at) == 0 {
						t.Fatalf("none of %d calls was answered in four hours", tt.workers)
					}
					t.Logf("%d of %d answered, the first %v after the pause, the last %v", len(at), tt.workers, at[0], at[len(at)-1])
					if len(at) < tt.workers || at[len(at)-1] > 30*time.Second {
						t.Errorf("%d of %d calls were answered, the last %v after the pause", len(at), tt.workers, at[len(at)-1])
					}
				})
			})
		}
	}
}

// Transports that pass the same gates in different orders: after a 429, each may hold what the
// other waits for.
func TestGatesInACycle(t *testing.T) {
	for _, orders := range [][]string{
		{"ab", "ba"}, {"abc", "bca", "cab"}, {"ab", "bc", "ca"}, {"abc", "cba"}, {"abcd", "bcda", "cdab", "dabc"}, {"aa"}, {"aba", "bab"},
	} {
		for _, each := range []int{1, 4, 25} {
			t.Run(fmt.Sprintf("%v/%d", orders, each), func(t *testing.T) {
				forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
					s := &service{began: time.Now()}
					s.does = func(n int, req *http.Request) (*http.Response, error) {
						if n == 1 {
							return answers(429, "", "Retry-After: 1")(req)
						}
						return after(100*time.Millisecond, req, answers(200, ""))
					}
					gates := map[rune]steadyhttp.Gate{}
					var transports []*steadyhttp.Transport
					all := &steadyhttp.Transport{Base: s, Policy: once}
					for _, order := range orders {
						transport := &steadyhttp.Transport{Base: s, Policy: once}
						for _, name := range order {
							if gates[name] == nil {
								gates[name] = newGate()
								all.Gates = append(all.Gates, gates[name])
							}
							transport.Gates = append(transport.Gates, gates[name])
						}
						transports = append(transports, transport)
					}
					ok(t.Context(), all) // closes all of them
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					calls := each * len(orders)
					at := answeredAt(t, s.began, calls, func(i int) bool { return ok(ctx, transports[i%len(orders)]) })
					if len(at) == 0 {
						t.Fatalf("none of %d calls was answered in an hour", calls)
					}
					t.Logf("%d of %d answered, the first at %v, the last at %v", len(at), calls, at[0], at[len(at)-1])
					// Every second or so call may have to wait for one that waits itself.
					most := 10*time.Second + time.Duration(calls*len(strings.Join(orders, ""))/len(orders))*5*time.Second
					if len(at) < calls || at[len(at)-1] > most {
						t.Errorf("%d of %d answered, the last at %v, want %v at most", len(at), calls, at[len(at)-1], most)
					}
				})
			})
		}
	}
}

// Every second place that an unsent call loses goes to the first who came after it, since that may be
// what it waits for. One that was sent waits for nobody, and the line keeps its order.
func TestOnlyAnUnsentCallIsHelped(t *testing.T) {
	for name, tt := range map[string]struct {
		sent bool
		want []int // calls 0 to 4 came before the probe went, 5 to 9 after
	}{
		"sent":   {true, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		"unsent": {false, []int{5, 0, 6, 1, 7, 2, 8, 3, 9, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			forPausingGates(t, func(t *testing.T, newGate func() steadyhttp.Gate) {
				var mu sync.Mutex
				var order []int
				var throttled atomic.Bool
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					if throttled.CompareAndSwap(false, true) {
						return answers(429, "", "Retry-After: 1")(req)
					}
					if tt.sent {
						// As net/http does on HTTP/2: some time after it was given the request.
						time.AfterFunc(3*time.Second, httptrace.ContextClientTrace(req.Context()).WroteHeaders)
					}
					mu.Lock()
					var i int
					if _, err := fmt.Sscan(req.Header.Get("Number"), &i); err == nil {
						order = append(order, i)
					}
					mu.Unlock()
					<-req.Context().Done()
					return nil, req.Context().Err()
				})
				transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{newGate()}, Policy: once}
				ok(t.Context(), transport)
				ctx, cancel := context.WithCancel(t.Context())
				var group sync.WaitGroup
				group.Go(func() { ok(ctx, transport) }) // the probe
				synctest.Wait()
				for i := range 10 {
					if i == 5 {
						time.Sleep(time.Second) // the probe goes
						synctest.Wait()
					}
					group.Go(func() {
						req := newRequest(t, "GET", "").WithContext(ctx)
						req.Header.Set("Number", fmt.Sprint(i))
						transport.RoundTrip(req)
					})
					synctest.Wait()
				}
				time.Sleep(time.Minute)
				cancel()
				group.Wait()
				if !slices.Equal(order, tt.want) {
					t.Errorf("went as %v, want %v", order, tt.want)
				}
			})
		})
	}
}
