package redisquota_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// chaos is one event after the other, of all kinds, while a twentieth of Redis' answers and of the
// calls are lost. A process that is cut off may go on as its policy says: no other may.
func chaos(t *testing.T, seed uint64, policy redisquota.Away, d time.Duration, most ...int) redistest.Figures {
	const processes = 6
	f := newFleet(t, shape{
		redis: redistest.Options{AOF: true, Clock: true}, processes: processes, workers: 12,
		edit: func(_ int, q *redisquota.Quota) { q.WhenAway = policy },
	})
	f.API.Lose = 50
	lossy := func(p *redistest.Process) { p.Proxy.Lose(50) }
	each(f, lossy)
	dice := rand.New(rand.NewPCG(seed, 0))
	living := append([]*redistest.Process(nil), f.Processes...)
	ahead := time.Duration(0)
	kinds := []struct {
		name string
		do   func()
	}{
		{"FLUSHALL", f.redis.FlushAll},
		{"DEBUG SLEEP", func() { f.redis.Do("DEBUG", "SLEEP", "0.5") }},
		{"kill -9", f.redis.Restart},
		{"clock", func() {
			ahead += time.Duration(dice.IntN(12)-4) * time.Second
			f.redis.StepClock(ahead)
		}},
		{"DEL log", func() { f.deleteKey(":log")(0) }},
		{"cut", func() {
			p := living[dice.IntN(len(living))]
			p.Proxy.Cut(true)
			time.Sleep(1500 * ms)
			p.Proxy.Cut(false)
		}},
		{"crash", func() {
			i := dice.IntN(len(living))
			living[i].Crash()
			living[i] = f.process()
			lossy(living[i])
			f.Join(living[i])
		}},
	}
	order := dice.Perm(len(kinds))
	events := redistest.Every(5*time.Second, 2*time.Second, d-time.Second, func(i int) {
		if i > 0 && i%len(kinds) == 0 {
			order = dice.Perm(len(kinds))
		}
		k := kinds[order[i%len(kinds)]]
		f.Logf("%5.1f s: %s", f.API.Now().Seconds(), k.name)
		k.do()
	})
	f.Run(d, events...)
	figures := f.Figures(d)
	f.Over(figures, most...)
	f.end()
	return figures
}

// Everything that can happen does, each for a while after the other. Twice for a minute, where it
// may take so long, and else for less.
func TestChaos(t *testing.T) {
	long.Only(t)
	t.Parallel()
	d, seeds := 24850*ms, uint64(1)
	if minutes() {
		d, seeds = 64850*ms, 2
	}
	for _, p := range []struct {
		name   string
		policy redisquota.Away
		most   []int // one that is cut off may take its share a second time
	}{
		{"closed", redisquota.Closed, nil},
		{"known", redisquota.Known, []int{117, 584}},
	} {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", p.name, seed), func(t *testing.T) {
				t.Parallel()
				used(t, 0.6, func(t *testing.T) redistest.Figures { return chaos(t, seed+1, p.policy, d, p.most...) })
			})
		}
	}
}
