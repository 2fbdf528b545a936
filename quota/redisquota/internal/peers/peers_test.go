package peers

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// rateGate waits for redis_rate's Allow, for as long as it says.
type rateGate struct {
	limiter *redis_rate.Limiter
	windows []quota.Window
}

func (g *rateGate) Enter(ctx context.Context, _ steadyhttp.Attempt) (steadyhttp.Pass, error) {
	for _, w := range g.windows {
		limit := redis_rate.Limit{Rate: w.N, Burst: w.N, Period: w.Per}
		for {
			r, err := g.limiter.Allow(ctx, "peers:"+w.Per.String(), limit)
			if err != nil {
				return nil, err
			}
			if r.Allowed > 0 {
				break
			}
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(max(r.RetryAfter, time.Millisecond)):
			}
		}
	}
	return nil, nil
}

// figures of one of the two, over the same span.
type figures struct {
	redistest.Figures
	trips, cpu float64 // a call; microseconds
}

func (f figures) String() string {
	return fmt.Sprintf("%v, %.2f round trips and %.0f us of Redis a call", f.Figures, f.trips, f.cpu)
}

func measure(t *testing.T, windows []quota.Window, gate func(p *redistest.Proxy) steadyhttp.Gate) figures {
	r := redistest.Start(t, redistest.Options{})
	b := &redistest.Bed{TB: t, API: redistest.NewAPI(time.Millisecond, 20*time.Millisecond), Windows: windows}
	for i := range 4 {
		proxy := redistest.NewProxy(t, r)
		b.Processes = append(b.Processes, &redistest.Process{
			Name: fmt.Sprint("p", i), Gate: gate(proxy), Proxy: proxy, Workers: 8,
		})
	}
	scripts, cpu := r.Scripts(), r.CPU()
	const span = 13850 * time.Millisecond
	b.Run(span)
	f := figures{Figures: b.Figures(span)}
	f.trips = float64(r.Scripts()-scripts) / float64(f.Calls)
	f.cpu = 1e6 * (r.CPU() - cpu) / float64(f.Calls)
	return f
}

// redis_rate lets twice the limit through in the first window: its burst, and what its rate gives
// back meanwhile. redisquota never does, in the same run.
func TestBesideRedisRate(t *testing.T) {
	for name, windows := range map[string][]quota.Window{
		"one window":  {{N: 100, Per: time.Second}},
		"two windows": {{N: 100, Per: time.Second}, {N: 500, Per: 10 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			peer := measure(t, windows, func(p *redistest.Proxy) steadyhttp.Gate {
				return &rateGate{redis_rate.NewLimiter(p.Client()), windows}
			})
			ours := measure(t, windows, func(p *redistest.Proxy) steadyhttp.Gate {
				q := &redisquota.Quota{Client: p.Client(), Key: t.Name(), Windows: windows}
				t.Cleanup(func() { q.Close() })
				return q
			})
			t.Logf("redis_rate: %v", peer)
			t.Logf("redisquota: %v", ours)
			for i, w := range windows {
				if ours.Worst[i] > w.N {
					t.Errorf("redisquota let %d through in %v, want at most %d", ours.Worst[i], w.Per, w.N)
				}
			}
			if last := len(windows) - 1; peer.Worst[last] < windows[last].N*17/10 {
				t.Errorf("redis_rate let %d through in %v: does the bed still notice?", peer.Worst[last], windows[last].Per)
			}
		})
	}
}
