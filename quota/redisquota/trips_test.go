package redisquota_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// trips counts what the processes say to Redis: it is a hook of their clients.
type trips struct {
	mu sync.Mutex
	counts
}

type counts struct {
	all    int // scripts
	asks   int // of which somebody asked for places in so many
	wasted int // and got none in so many
	places int // granted
	broken int // answers that could not be read
	why    string
}

func (c *trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if name := cmd.Name(); err == nil && (name == "evalsha" || name == "eval") {
			c.note(cmd)
		}
		return err
	}
}

// note reads the places that a request wants, at 11 and 13 of its arguments, and the ones that an
// answer grants, at 4 and 5. See sync.lua.
func (c *trips) note(cmd redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all++
	args := cmd.Args()
	keys, _ := strconv.Atoi(fmt.Sprint(args[2]))
	args = args[3+keys:]
	answer, ok := cmd.(*redis.Cmd)
	if !ok || cmd.Err() != nil || len(args) < 15 {
		return
	}
	values, err := answer.Slice()
	if err != nil || len(values) == 0 {
		c.broken++
		c.why = fmt.Sprint(args, " gave ", answer.Val(), err)
		return
	}
	if values[0] != "ok" || len(values) < 6 {
		return
	}
	wanted, granted := 0, 0
	for i, at := range []int{11, 13} {
		want, wrong := strconv.Atoi(fmt.Sprint(args[at]))
		grant, alsoWrong := strconv.Atoi(fmt.Sprint(values[4+i]))
		if wrong != nil || alsoWrong != nil {
			c.broken++
			c.why = fmt.Sprint(args, " gave ", values)
			return
		}
		wanted, granted = wanted+max(0, want), granted+grant
	}
	c.places += granted
	if wanted > 0 {
		c.asks++
		if granted == 0 {
			c.wasted++
		}
	}
}

// so returns what was counted so far.
func (c *trips) so() counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

func (c counts) String() string {
	return fmt.Sprintf("%d scripts, %d asks, %d of them for nothing, %d places", c.all, c.asks, c.wasted, c.places)
}

// count has the processes of a fleet counted.
func (f *fleet) count() *trips {
	c := new(trips)
	f.eachClient(func(i int) { f.quotas[i].Client.AddHook(c) })
	return c
}

func (f *fleet) eachClient(do func(i int)) {
	for i := range f.quotas {
		do(i)
	}
}

// Fifty processes wait for one slow quota: few of their questions are for nothing, and none of them
// gets less than half of what is its due.
func TestManyProcessesShareASlowQuota(t *testing.T) {
	long.Only(t)
	if redisquota.RaceEnabled {
		t.Skip("fifty processes in one are too slow under the race detector: turns are missed")
	}
	t.Parallel()
	for _, c := range []struct {
		window quota.Window
		wasted float64 // asks a grant, at most
	}{
		{quota.Window{N: 1, Per: 100 * ms}, 4},
		{quota.Window{N: 20, Per: time.Second}, 2},
	} {
		t.Run(fmt.Sprint(c.window), func(t *testing.T) {
			t.Parallel()
			seconds := 15
			if minutes() {
				seconds = 90
			}
			used(t, 1, func(t *testing.T) redistest.Figures {
				f := newFleet(t, shape{windows: []quota.Window{c.window}, processes: 50, workers: 2, from: ms, to: 4 * ms})
				counter := f.count()
				f.Run(time.Duration(seconds) * time.Second)
				count := counter.so()
				figures := f.Figures(0)
				f.Over(figures)
				served := f.API.Served()
				least, most := figures.Calls, 0
				for _, p := range f.Processes {
					least, most = min(least, served[p.Name]), max(most, served[p.Name])
				}
				mean := float64(figures.Calls) / 50
				wasted := float64(count.wasted) / float64(max(1, count.places))
				t.Logf("%v; %.2f asks for nothing a place; %d to %d calls a process, %.1f on average", count, wasted, least, most, mean)
				if count.broken > 0 || count.places < figures.Calls {
					t.Errorf("%d answers were not understood, %d places for %d calls; %s", count.broken, count.places, figures.Calls, count.why)
				}
				// Of a mean of some calls, half a place is left out of account: it can't be halved.
				figures.Used = 1
				if wasted > c.wasted || float64(least) < mean/2-0.5 {
					figures.Used = 0 // once more
				}
				f.end()
				return figures
			})
		})
	}
}

// What it costs: figures of docs/sharedquota.md.
func TestCostOfACall(t *testing.T) {
	long.Only(t)
	t.Parallel()
	for _, c := range []struct {
		name  string
		shape shape
		span  time.Duration
		most  float64 // round trips a call
	}{
		{"100 a second, 500 in 10 s", shape{}, 13850 * ms, 1.1},
		{"100 a second", shape{windows: second}, 5850 * ms, 1.1},
		{"1,000 a second", shape{windows: []quota.Window{{N: 1000, Per: time.Second}}, workers: 64}, 4500 * ms, 1.1},
		{"1 in 100 ms", shape{windows: []quota.Window{{N: 1, Per: 100 * ms}}}, 4500 * ms, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, c.shape)
			counter := f.count()
			cpu := f.redis.CPU()
			f.Run(c.span)
			count := counter.so()
			used := f.redis.CPU() - cpu
			figures := f.Figures(c.span)
			f.Over(figures)
			trips := float64(count.all) / float64(figures.Calls)
			t.Logf("%v; %.2f round trips and %.0f us of Redis a call, %.0f us a script; %v", figures, trips,
				1e6*used/float64(figures.Calls), 1e6*used/float64(count.all), count)
			if trips > c.most && !redisquota.RaceEnabled { // where the machine is slow, processes ask for nothing
				t.Errorf("%.2f round trips a call, want at most %v", trips, c.most)
			}
			f.end()
		})
	}
}

// What the log of a large quota takes, and how many calls a second its Redis can count.
func TestMemoryOfALargeQuota(t *testing.T) {
	long.Only(t)
	if redisquota.RaceEnabled {
		t.Skip("so many calls are too much for the race detector")
	}
	for _, n := range []int{10_000, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := newFleet(t, shape{windows: []quota.Window{{N: n, Per: time.Hour}}, workers: 64})
			f.eachClient(func(i int) { f.quotas[i].Client = f.redis.Client() })
			cpu := f.redis.CPU()
			began := time.Now()
			calls := fill(t, f, n)
			took := time.Since(began)
			memory := f.redis.Memory()
			t.Logf("%d calls in %.1f s: %.0f a second, %.1f us of Redis a call; %d bytes, %.0f a call", calls, took.Seconds(),
				float64(calls)/took.Seconds(), 1e6*(f.redis.CPU()-cpu)/float64(calls), memory, float64(memory)/float64(calls))
			if calls != n {
				t.Errorf("%d calls were let go, want %d", calls, n)
			}
			if per := float64(memory) / float64(n); per > 200 {
				t.Errorf("%.0f bytes a call, want at most 200", per)
			}
		})
	}
}

// fill makes calls as fast as they are let go, until all places are taken.
func fill(t *testing.T, f *fleet, n int) int {
	var mu sync.Mutex
	var working sync.WaitGroup
	calls := 0
	for _, q := range f.quotas {
		for range f.n {
			working.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					pass, err := q.Enter(ctx, attempt())
					cancel()
					if err != nil {
						return
					}
					pass.Leave(done())
					mu.Lock()
					calls++
					mu.Unlock()
				}
			})
		}
	}
	working.Wait()
	return calls
}
