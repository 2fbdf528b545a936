package redisquota

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// load is some processes that send as fast as they may.
type load struct {
	name               string
	windows            []quota.Window
	processes, workers int
	length             time.Duration
	oneWay             [2]time.Duration // to the service, at least and at most
	toRedis            [2]time.Duration // one way

	used    float64 // at least, of what a clairvoyant gets
	asks    float64 // exchanges a call, at most
	wasted  float64 // asks without a grant for each call, at most
	leastOf float64 // of the mean, what each process gets at least
}

// best is what a schedule gets that knows everything, from the first call on.
func (l load) best() int {
	calls := 0
	for quota.Estimate(l.windows, calls+1) < l.length && calls < 1_000_000 {
		calls = max(calls+1, calls*9/8)
	}
	for calls > 0 && quota.Estimate(l.windows, calls) >= l.length {
		calls -= max(1, calls/2000)
	}
	return calls
}

func (l load) run(t *testing.T) {
	w := &world{t: t, r: rand.New(rand.NewPCG(1, 1)), model: newModel(), began: time.Now(), quiet: true}
	backend := &calm{w: w, l: l}
	ctx, cancel := context.WithTimeout(context.Background(), l.length)
	defer cancel()
	var group sync.WaitGroup
	var quotas []*Quota
	served := make([]int, l.processes)
	var arrivals []time.Time
	for p := range l.processes {
		q := &Quota{Client: unusedClient{}, Key: "use", Windows: l.windows, Start: Empty}
		q.engine = &engine{conf: q, tune: usualTuning(), backend: backend}
		quotas = append(quotas, q)
		for i := range l.workers {
			r := rand.New(rand.NewPCG(uint64(p), uint64(i)))
			group.Go(func() {
				for {
					pass, err := q.Enter(ctx, steadyhttp.Attempt{})
					if err != nil {
						return
					}
					sent := time.Now()
					time.Sleep(between(r, l.oneWay))
					w.mu.Lock()
					arrivals = append(arrivals, time.Now())
					served[p]++
					w.mu.Unlock()
					time.Sleep(between(r, l.oneWay))
					pass.Leave(steadyhttp.Attempt{
						Sent: sent, Sends: 1, Answered: time.Now(), Response: &http.Response{StatusCode: 200},
						Verdict: steadyhttp.Verdict{Class: steadyhttp.Success},
					})
				}
			})
		}
	}
	group.Wait()
	asks, exchanges := 0, 0
	for _, q := range quotas {
		exchanges += q.Shared().Exchanges
		asks += q.Asks()
		q.Close()
	}
	time.Sleep(2 * time.Second)
	calls := 0
	for _, at := range arrivals {
		if at.Sub(arrivals[0]) < l.length-2*l.oneWay[1]-2*l.toRedis[1]-10*time.Millisecond {
			calls++
		}
	}
	least, most := served[0], served[0]
	for _, n := range served {
		least, most = min(least, n), max(most, n)
	}
	mean := float64(len(arrivals)) / float64(l.processes)
	used := float64(len(arrivals)) / float64(l.best())
	beats := float64(l.processes) * l.length.Seconds()
	each := (float64(exchanges) - min(beats, float64(exchanges-asks))) / float64(len(arrivals))
	wasted := float64(asks-backend.granting) / float64(len(arrivals))
	t.Logf("%-28s %6d calls of %6d, %5.1f %% used; %.2f asks (%.2f wasted) and %.2f exchanges a call, without heartbeats %.2f; served %d to %d",
		l.name, len(arrivals), l.best(), 100*used, float64(asks)/float64(len(arrivals)), wasted,
		float64(exchanges)/float64(len(arrivals)), each, least, most)
	for _, win := range l.windows {
		if n, _ := worst(arrivals, win.Per); n > win.N {
			t.Errorf("%s: %d in %v, want %d at most", l.name, n, win.Per, win.N)
		}
	}
	if used < l.used {
		t.Errorf("%s: %.3f used, want %.3f", l.name, used, l.used)
	}
	if l.asks > 0 && float64(exchanges)/float64(len(arrivals)) > l.asks {
		t.Errorf("%s: %.2f exchanges a call, want %.2f at most", l.name, float64(exchanges)/float64(len(arrivals)), l.asks)
	}
	if l.wasted > 0 && wasted > l.wasted {
		t.Errorf("%s: %.2f wasted asks a call, want %.2f at most", l.name, wasted, l.wasted)
	}
	if float64(least) < l.leastOf*mean-1 {
		t.Errorf("%s: one process got %d, the mean is %.1f", l.name, least, mean)
	}
}

func between(r *rand.Rand, d [2]time.Duration) time.Duration {
	return d[0] + time.Duration(r.Int64N(int64(max(1, d[1]-d[0]))))
}

// calm is a Redis without faults.
type calm struct {
	w        *world
	l        load
	granting int
}

func (c *calm) exchange(_ context.Context, r *request, t *tuning, now time.Duration) (reply, error) {
	c.w.mu.Lock()
	there, back := between(c.w.r, c.l.toRedis), between(c.w.r, c.l.toRedis)
	c.w.mu.Unlock()
	time.Sleep(there)
	c.w.mu.Lock()
	answer := c.w.model.run(r.args(t, now), time.Now().UnixMicro())
	if len(answer) > 5 {
		if answer[4] != "0" {
			c.granting++
		}
		if answer[5] != "0" {
			c.granting++
		}
	}
	c.w.mu.Unlock()
	time.Sleep(back)
	return parse(answer, len(r.limits))
}

// As much is used as there is, with few words, and everybody is served.
func TestUsesWhatThereIs(t *testing.T) {
	const ms = time.Millisecond
	near := [2]time.Duration{ms / 4, ms}
	far := [2]time.Duration{ms, 20 * ms}
	s := time.Second
	for _, l := range []load{
		{"100/1s + 500/10s, P=4", []quota.Window{{N: 100, Per: s}, {N: 500, Per: 10 * s}}, 4, 8, 21 * s, far, near, 0.98, 1.1, 0, 0.5},
		{"100/1s, P=4", []quota.Window{{N: 100, Per: s}}, 4, 8, 10 * s, far, near, 0.98, 1.1, 0, 0.5},
		{"100/6s, P=4", []quota.Window{{N: 100, Per: 6 * s}}, 4, 8, 20 * s, far, near, 0.98, 1.1, 0, 0.5},
		{"100/60s + 150/120s, P=4, slow", []quota.Window{{N: 100, Per: 60 * s}, {N: 150, Per: 120 * s}}, 4, 8, 185 * s, [2]time.Duration{20 * ms, 520 * ms}, near, 0.98, 0, 0, 0.5},
		{"1/100ms, P=4", []quota.Window{{N: 1, Per: 100 * ms}}, 4, 8, 10 * s, [2]time.Duration{ms, 2 * ms}, near, 0.93, 0, 0, 0.5},
		{"1/100ms, P=4, far", []quota.Window{{N: 1, Per: 100 * ms}}, 4, 8, 10 * s, far, near, 0.79, 0, 0, 0.5},
		{"1/100ms, P=50", []quota.Window{{N: 1, Per: 100 * ms}}, 50, 2, 20 * s, [2]time.Duration{ms, 2 * ms}, near, 0.92, 0, 4, 0.5},
		{"20/1s, P=50", []quota.Window{{N: 20, Per: s}}, 50, 2, 20 * s, far, near, 0.98, 0, 4, 0.5},
		{"2000/1s, P=4", []quota.Window{{N: 2000, Per: s}}, 4, 64, 4 * s, far, near, 0.98, 0.5, 0, 0.5},
		{"2000/1s, P=4, Redis far", []quota.Window{{N: 2000, Per: s}}, 4, 64, 4 * s, far, [2]time.Duration{15 * ms, 16 * ms}, 0.85, 0.5, 0, 0.5},
		{"2000/1s, P=4x16, Redis far", []quota.Window{{N: 2000, Per: s}}, 4, 16, 4 * s, far, [2]time.Duration{15 * ms, 16 * ms}, 0.85, 0.5, 0, 0.5},
	} {
		t.Run(l.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { l.run(t) })
		})
	}
}
