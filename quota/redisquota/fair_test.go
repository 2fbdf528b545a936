package redisquota

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// together runs a test in virtual time, with processes that share a quota through a model of Redis that
// some milliseconds are away from, and that nothing happens to.
func together(t *testing.T, test func(t *testing.T, w *world, process func(edit func(q *Quota)) (*Quota, *link))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, r: rand.New(rand.NewPCG(1, 2)), model: newModel(), began: time.Now()}
		w.model.server = "0"
		var quotas []*Quota
		test(t, w, func(edit func(q *Quota)) (*Quota, *link) {
			l := &link{w: w}
			q := &Quota{Key: "fair", Start: Empty, Client: unusedClient{}, Weight: weightOf}
			edit(q)
			q.engine = &engine{conf: q, tune: usualTuning(), backend: l}
			quotas = append(quotas, q)
			return q, l
		})
		for _, q := range quotas {
			q.Close()
		}
		time.Sleep(2 * time.Second)
	})
}

func weightOf(r *http.Request) int { n, _ := strconv.Atoi(r.Header.Get("weight")); return n }

func weighing(n int) steadyhttp.Attempt {
	r := &http.Request{Header: http.Header{}}
	r.Header.Set("weight", strconv.Itoa(n))
	return steadyhttp.Attempt{Request: r}
}

func wentWell() steadyhttp.Attempt {
	return steadyhttp.Attempt{
		Sent: time.Now(), Answered: time.Now(), Sends: 1, Response: &http.Response{StatusCode: 200},
		Verdict: steadyhttp.Verdict{Class: steadyhttp.Success},
	}
}

// A heavy call waits for several places at once. Those of other processes must not take each place as
// it becomes free, or it waits for ever.
func TestHeavyCallIsNotStarved(t *testing.T) {
	for name, c := range map[string]struct {
		windows []quota.Window
		weight  int
		high    bool
		reserve float64
		others  int
	}{
		"all of it":          {[]quota.Window{{N: 5, Per: time.Second}}, 5, false, 0, 1},
		"half of it":         {[]quota.Window{{N: 10, Per: time.Second}}, 5, false, 0, 1},
		"of two windows":     {[]quota.Window{{N: 5, Per: time.Second}, {N: 20, Per: 5 * time.Second}}, 4, false, 0, 1},
		"of high priority":   {[]quota.Window{{N: 5, Per: time.Second}}, 5, true, 0.2, 1},
		"many others":        {[]quota.Window{{N: 6, Per: time.Second}}, 6, false, 0, 4},
		"a batch of a large": {[]quota.Window{{N: 40, Per: time.Second}}, 20, false, 0, 3},
		"all of a large":     {[]quota.Window{{N: 20, Per: time.Second}}, 20, false, 0, 4},
		"with a Reserve":     {[]quota.Window{{N: 10, Per: time.Second}}, 6, false, 0.3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				edit := func(q *Quota) { q.Windows, q.Reserve = c.windows, c.reserve }
				ctx, cancel := context.WithCancel(t.Context())
				var group sync.WaitGroup
				arrived := 0
				for range c.others {
					q, _ := process(edit)
					for i := range 8 {
						group.Go(func() {
							// So that places become free one by one.
							time.Sleep(time.Duration(i) * time.Second / 8)
							for {
								p, err := q.Enter(ctx, weighing(1))
								if err != nil {
									return
								}
								time.Sleep(5 * time.Millisecond)
								p.Leave(wentWell())
								w.mu.Lock()
								arrived++
								w.mu.Unlock()
							}
						})
					}
				}
				q, _ := process(edit)
				time.Sleep(3 * time.Second)
				mine := t.Context()
				if c.high {
					mine = quota.WithPriority(mine, quota.High)
				}
				for range 3 {
					began := time.Now()
					limited, stop := context.WithTimeout(mine, time.Minute)
					p, err := q.Enter(limited, weighing(c.weight))
					stop()
					longest := c.windows[len(c.windows)-1].Per
					if took := time.Since(began); err != nil || took > 5*longest/2 {
						t.Errorf("it waited for %v: %v", took, err)
						break
					}
					p.Leave(wentWell())
				}
				cancel()
				group.Wait()
			})
		})
	}
}

// A place that was given back, and never used, is another process' as soon as Redis has heard of it,
// whoever waits for it.
func TestRefundReachesThoseWhoWait(t *testing.T) {
	for name, windows := range map[string][]quota.Window{
		"one a minute": {{N: 1, Per: time.Minute}},
		"one an hour":  {{N: 1, Per: time.Hour}},
		"two windows":  {{N: 3, Per: time.Second}, {N: 1, Per: time.Minute}},
	} {
		for _, high := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
					edit := func(q *Quota) { q.Windows = windows }
					one, _ := process(edit)
					other, _ := process(edit)
					p, err := one.Enter(t.Context(), steadyhttp.Attempt{})
					if err != nil {
						t.Fatal(err)
					}
					ctx := t.Context()
					if high {
						ctx = quota.WithPriority(ctx, quota.High)
					}
					went := make(chan time.Time, 1)
					go func() {
						p, err := other.Enter(ctx, steadyhttp.Attempt{})
						if err != nil {
							t.Error(err)
							return
						}
						went <- time.Now()
						p.Leave(wentWell())
					}()
					time.Sleep(3 * time.Second)
					p.Leave(steadyhttp.Attempt{Err: errors.New("no connection")})
					refunded := time.Now()
					if took := (<-went).Sub(refunded); took > 3*time.Second {
						t.Errorf("the other process went %v after", took)
					}
				})
			})
		}
	}
}

// Fifty processes that share few places ask for nothing at most four times a place, and each is served.
func TestManyProcessesAskSeldom(t *testing.T) {
	for name, windows := range map[string][]quota.Window{
		"one each 100 ms": {{N: 1, Per: 100 * time.Millisecond}},
		"20 a second":     {{N: 20, Per: time.Second}},
		"100 a minute":    {{N: 100, Per: time.Minute}},
		"with an hour":    {{N: 100, Per: time.Minute}, {N: 400, Per: time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				const processes, places = 50, 300
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var group sync.WaitGroup
				var quotas []*Quota
				served := make([]int, processes)
				all := 0
				for i := range processes {
					q, _ := process(func(q *Quota) { q.Windows = windows })
					quotas = append(quotas, q)
					for range 4 {
						group.Go(func() {
							for {
								p, err := q.Enter(ctx, steadyhttp.Attempt{})
								if err != nil {
									return
								}
								time.Sleep(5 * time.Millisecond)
								p.Leave(wentWell())
								w.mu.Lock()
								served[i]++
								if all++; all == places {
									cancel()
								}
								w.mu.Unlock()
							}
						})
					}
				}
				group.Wait()
				asks, exchanges := 0, 0
				for _, q := range quotas {
					asks += q.Asks()
					exchanges += q.Shared().Exchanges
				}
				t.Logf("%d asks, %d exchanges, %d places in %v; %d to %d each", asks, exchanges, all, time.Since(w.began), slices.Min(served), slices.Max(served))
				if asks > 5*all {
					t.Errorf("%d asks for %d places", asks, all)
				}
				if slices.Min(served) < places/processes/2 {
					t.Errorf("one process was served %d times", slices.Min(served))
				}
			})
		})
	}
}
