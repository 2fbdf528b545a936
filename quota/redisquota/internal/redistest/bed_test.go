package redistest

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

var twoWindows = []quota.Window{{N: 100, Per: time.Second}, {N: 500, Per: 10 * time.Second}}

func bed(t *testing.T, windows []quota.Window, gate func(i int) steadyhttp.Gate) *Bed {
	b := &Bed{TB: t, API: NewAPI(time.Millisecond, 20*time.Millisecond), Windows: windows}
	for i := range 4 {
		b.Processes = append(b.Processes, &Process{Name: string(rune('a' + i)), Gate: gate(i), Workers: 8})
	}
	return b
}

// The bed sees neither what is not there nor less use than there is: one exact quota of one process
// in the place of the shared one.
func TestBedOfAnExactQuota(t *testing.T) {
	long.Only(t)
	t.Parallel()
	q := &quota.Quota{Windows: twoWindows}
	b := bed(t, twoWindows, func(int) steadyhttp.Gate { return q })
	b.Run(13500 * time.Millisecond)
	f := b.Figures(13500 * time.Millisecond)
	t.Log(f)
	b.Over(f)
	if f.Used < 0.98 && !f.Busy() {
		t.Errorf("%.1f %% used, want at least 98", 100*f.Used)
	}
}

// The bed sees a fixed window let nearly twice as many through where two windows meet.
func TestBedOfAFixedWindow(t *testing.T) {
	long.Only(t)
	t.Parallel()
	windows := twoWindows[:1]
	client := Start(t, Options{}).Client()
	b := bed(t, windows, func(int) steadyhttp.Gate { return &FixedWindow{client, windows} })
	for range 3 {
		now := time.Now()
		time.Sleep(now.Truncate(time.Second).Add(1800 * time.Millisecond).Sub(now))
		b.Run(1500 * time.Millisecond)
	}
	f := b.Figures(10 * time.Second)
	t.Log(f)
	if f.Worst[0] < 180 {
		t.Errorf("%v, want nearly 200", f)
	}
}

// The bed sees a plain log of calls let too many through when Redis forgets it: one limit more in
// each window.
func TestBedOfAForgottenLog(t *testing.T) {
	long.Only(t)
	t.Parallel()
	r := Start(t, Options{})
	client := r.Client()
	b := bed(t, twoWindows, func(int) steadyhttp.Gate { return &SlidingLog{client, twoWindows} })
	b.Run(10*time.Second, Event{4600 * time.Millisecond, r.FlushAll})
	f := b.Figures(10 * time.Second)
	t.Log(f)
	if f.Worst[0] < 180 || f.Worst[1] < 850 {
		t.Errorf("%v, want nearly 200 and 900", f)
	}
}

// What Worst and Clairvoyant say is what a count of every interval says.
func TestWorstIsTheMostOfAnyInterval(t *testing.T) {
	for seed := range uint64(200) {
		dice := rand.New(rand.NewPCG(seed, 0))
		var times []time.Duration
		for range dice.IntN(40) {
			times = append(times, time.Duration(dice.IntN(100)))
		}
		slices.Sort(times)
		per, plain := time.Duration(1+dice.IntN(50)), 0
		for end := range time.Duration(160) {
			n := 0
			for _, at := range times {
				if at > end-per && at <= end {
					n++
				}
			}
			plain = max(plain, n)
		}
		if worst := Worst(times, per); worst != plain {
			t.Fatalf("seed %d: %d in %d of %v, want %d", seed, worst, per, times, plain)
		}
	}
	for span, want := range map[time.Duration]int{
		0: 100, time.Second - 1: 100, time.Second: 200, 4 * time.Second: 500, 9 * time.Second: 500,
		10 * time.Second: 600, 21 * time.Second: 1200,
	} {
		if n := Clairvoyant(twoWindows, span); n != want {
			t.Errorf("%d could have come in %v, want %d", n, span, want)
		}
	}
}

// What befalls a Redis here befalls it: each of the events is seen by a client.
func TestEventsHappen(t *testing.T) {
	long.Only(t)
	t.Parallel()
	ctx := context.Background()
	t.Run("clock", func(t *testing.T) {
		r := Start(t, Options{Clock: true})
		for _, ahead := range []time.Duration{10 * time.Second, -2 * time.Second, 0} {
			r.StepClock(ahead)
			for _, clock := range []func() time.Time{
				func() time.Time { return r.Client().Time(ctx).Val() },
				func() time.Time {
					s, _ := r.Do("EVAL", "return redis.call('TIME')[1]", 0).(string)
					at, _ := time.Parse(time.RFC3339, "1970-01-01T00:00:00Z")
					d, _ := time.ParseDuration(s + "s")
					return at.Add(d)
				},
			} {
				if is := time.Until(clock()); (is - ahead).Abs() > 1500*time.Millisecond {
					t.Errorf("the clock is %v ahead, want %v", is, ahead)
				}
			}
		}
	})
	t.Run("restart", func(t *testing.T) {
		for _, aof := range []bool{false, true} {
			r := Start(t, Options{AOF: aof})
			r.Do("SET", "a", "1")
			r.Kill()
			if err := r.Client().Ping(ctx).Err(); err == nil {
				t.Error("it answers after kill -9")
			}
			r.Restart()
			if kept := r.Do("GET", "a") != nil; kept != aof {
				t.Errorf("with AOF %v: kept is %v", aof, kept)
			}
		}
	})
	t.Run("failover", func(t *testing.T) {
		r := Start(t, Options{})
		r.Do("SET", "a", "1")
		replica := r.Replica()
		replica.Cut()
		r.Do("SET", "a", "2")
		p := NewProxy(t, r)
		client := p.Client()
		before := client.Get(ctx, "a").Val()
		p.Target(replica)
		if after := client.Get(ctx, "a").Val(); before != "2" || after != "1" {
			t.Errorf("got %q and then %q", before, after)
		}
	})
	t.Run("cluster", func(t *testing.T) {
		r := Start(t, Options{Cluster: true})
		if got := r.Do("EVAL", "redis.call('SET', KEYS[1], 1) return redis.call('GET', KEYS[2])", 2, "{q}a", "{q}a"); got != "1" {
			t.Errorf("got %v", got)
		}
		if err := r.Client().Eval(ctx, "return 1", []string{"a", "b"}).Err(); err == nil {
			t.Error("keys of two slots are no error")
		}
	})
	t.Run("eviction", func(t *testing.T) {
		r := Start(t, Options{Args: []string{"--maxmemory", "2mb", "--maxmemory-policy", "allkeys-lru"}})
		r.Do("SET", "first", "1")
		for i := range 100 {
			r.Do("SET", i, string(make([]byte, 100_000)))
		}
		if r.Do("GET", "first") != nil {
			t.Error("nothing was evicted")
		}
	})
	t.Run("proxy", func(t *testing.T) {
		r := Start(t, Options{})
		p := NewProxy(t, r)
		client := p.Client()
		increment := sha(r)
		client.Ping(ctx)
		script := func() error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := client.EvalSha(ctx, increment, []string{"n"}).Result()
				done <- err
			}()
			select {
			case err := <-done:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := script(); err != nil {
			t.Fatal(err)
		}
		p.Lose(1000)
		if err := script(); err == nil {
			t.Error("an answer was not lost")
		}
		if n := r.Do("GET", "n"); n == "1" {
			t.Error("what was lost was not carried out")
		}
		p.Lose(0)
		p.Silence(1000)
		if err := script(); err == nil {
			t.Error("an answer came through what is silent")
		}
		p.Silence(0)
		p.Cut(true)
		if err := script(); err == nil {
			t.Error("an answer came through what is cut")
		}
		p.Cut(false)
		p.Delay(50 * time.Millisecond)
		began := time.Now()
		if err := script(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 100*time.Millisecond {
			t.Errorf("it took %v, and the way is 100 ms", took)
		}
	})
}

func sha(r *Redis) string {
	s, _ := r.Do("SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])").(string)
	return s
}
