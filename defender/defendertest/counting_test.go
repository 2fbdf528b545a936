package defendertest_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// An oracle counts calls as plainly as can be: it keeps all of them, and knows
// one window.
type oracle interface {
	wait(now time.Time) time.Duration
	count(now time.Time)
	refuse(now time.Time)
}

// newOracle makes one for a way of counting.
func newOracle(c defendertest.Counting, n int, window time.Duration, begin time.Time, phase time.Duration) oracle {
	switch c {
	case defendertest.Fixed:
		return &fixedOracle{n: n, window: window, begin: begin.Add(-phase)}
	case defendertest.Bucket:
		return &bucketOracle{n: n, window: window, last: begin, tokens: big.NewRat(int64(n), 1)}
	}
	return &rollingOracle{n: n, window: window, strict: c == defendertest.Strict}
}

type rollingOracle struct {
	n      int
	window time.Duration
	strict bool
	calls  []time.Time
}

// wait finds the first moment at which fewer than n calls lie in the window: it is
// now, or when one of the calls leaves it.
func (o *rollingOracle) wait(now time.Time) time.Duration {
	for _, candidate := range append([]time.Time{now.Add(-o.window)}, o.calls...) {
		at, inside := candidate.Add(o.window), 0
		for _, c := range o.calls {
			if c.Add(o.window).After(at) {
				inside++
			}
		}
		if !at.Before(now) && inside < o.n {
			return at.Sub(now)
		}
	}
	panic("unreachable: the last call leaves the window")
}

// count forgets what can't matter any more, for speed alone.
func (o *rollingOracle) count(now time.Time) {
	o.calls = slices.DeleteFunc(o.calls, func(c time.Time) bool { return c.Add(o.window).Before(now) })
	o.calls = append(o.calls, now)
}

func (o *rollingOracle) refuse(now time.Time) {
	if o.strict {
		o.count(now)
	}
}

type fixedOracle struct {
	n      int
	window time.Duration
	begin  time.Time // of the first window
	calls  []time.Time
}

func (o *fixedOracle) wait(now time.Time) time.Duration {
	start := o.begin
	for !start.Add(o.window).After(now) {
		start = start.Add(o.window)
	}
	inside := 0
	for _, c := range o.calls {
		if !c.Before(start) {
			inside++
		}
	}
	if inside < o.n {
		return 0
	}
	return start.Add(o.window).Sub(now)
}

func (o *fixedOracle) count(now time.Time) { o.calls = append(o.calls, now) }
func (o *fixedOracle) refuse(time.Time)    {}

// A bucketOracle has its tokens as fractions.
type bucketOracle struct {
	n      int
	window time.Duration
	last   time.Time
	tokens *big.Rat
}

func (o *bucketOracle) at(now time.Time) *big.Rat {
	back := big.NewRat(int64(now.Sub(o.last)), int64(o.window))
	sum := back.Mul(back, big.NewRat(int64(o.n), 1))
	sum.Add(sum, o.tokens)
	if full := big.NewRat(int64(o.n), 1); sum.Cmp(full) > 0 {
		return full
	}
	return sum
}

func (o *bucketOracle) wait(now time.Time) time.Duration {
	missing := big.NewRat(1, 1)
	missing.Sub(missing, o.at(now))
	if missing.Sign() <= 0 {
		return 0
	}
	missing.Mul(missing, big.NewRat(int64(o.window), int64(o.n)))
	whole, rest := new(big.Int).QuoRem(missing.Num(), missing.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		return time.Duration(whole.Int64() + 1)
	}
	return time.Duration(whole.Int64())
}

func (o *bucketOracle) count(now time.Time) {
	o.tokens = o.at(now)
	o.tokens.Sub(o.tokens, big.NewRat(1, 1))
	o.last = now
}

func (o *bucketOracle) refuse(time.Time) {}

// Every decision and every wait of every way of counting is what the plain one
// gives, with both windows and with each alone.
func TestCountingAgainstBruteForce(t *testing.T) {
	for name, counting := range map[string]defendertest.Counting{
		"Rolling": defendertest.Rolling, "Fixed": defendertest.Fixed, "Bucket": defendertest.Bucket, "Strict": defendertest.Strict,
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(30) {
				synctest.Test(t, func(t *testing.T) { compareCounting(t, counting, seed) })
			}
		})
	}
}

func compareCounting(t *testing.T, counting defendertest.Counting, seed uint64) {
	dice := rand.New(rand.NewPCG(seed, 7))
	perMinute, perHour := dice.IntN(6), dice.IntN(20)
	minute, hour := 7*time.Second, time.Duration(20+dice.IntN(40))*time.Second
	phase := time.Duration(dice.IntN(60_000)) * time.Millisecond
	var oracles []oracle
	var windows []quota.Window
	if perMinute > 0 {
		windows = append(windows, quota.Window{N: perMinute, Per: time.Minute})
		oracles = append(oracles, newOracle(counting, perMinute, minute, time.Now(), phase))
	}
	if perHour > 0 {
		windows = append(windows, quota.Window{N: perHour, Per: time.Hour})
		oracles = append(oracles, newOracle(counting, perHour, hour, time.Now(), phase))
	}
	s := defendertest.NewUnstartedServer(defendertest.Config{
		Machines: 1, Minute: minute, Hour: hour, Counting: counting, Phase: phase,
		Quotas: map[string][]quota.Window{"machines": windows},
	})
	longest := func(now time.Time) (wait time.Duration) {
		for _, o := range oracles {
			wait = max(wait, o.wait(now))
		}
		return wait
	}
	passed, refused := 0, 0
	for range 300 {
		// Whole seconds at times, so that edges are hit exactly, and long rests,
		// so that windows get empty and buckets full.
		pause := time.Duration(dice.IntN(2500)) * time.Millisecond
		switch dice.IntN(20) {
		case 0:
			pause *= 20
		case 1, 2, 3, 4, 5, 6, 7, 8:
			pause = pause.Truncate(time.Second)
		case 9, 10:
			pause += longest(time.Now()) // a client who obeys
		}
		time.Sleep(pause)
		now := time.Now()
		r := direct(s, "GET", "/api/machines", "")
		if longest(now) == 0 {
			passed++
			for _, o := range oracles {
				o.count(now)
			}
			if r.status != 200 {
				t.Fatalf("seed %d: got %d for call %d, which has room", seed, r.status, passed+refused)
			}
			continue
		}
		refused++
		for _, o := range oracles {
			o.refuse(now)
		}
		want := longest(now)
		if got := r.header.Get("Retry-After"); r.status != 429 || got != fmt.Sprint(int64((want+time.Second-1)/time.Second)) {
			t.Fatalf("seed %d: got %d and a wait of %q s for call %d, want %v", seed, r.status, got, passed+refused, want)
		}
	}
	if len(oracles) > 0 && (passed == 0 || refused == 0) && counting != defendertest.Strict {
		t.Errorf("seed %d: %d calls passed and %d were refused: nothing was compared", seed, passed, refused)
	}
}

// passes counts how many calls pass at once.
func passes(t *testing.T, s *defendertest.Server) (n int) {
	t.Helper()
	for direct(s, "GET", "/api/machines", "").status == 200 {
		n++
	}
	return n
}

// Around the edge of two fixed windows twice the number passes; where it lies is
// up to the phase.
func TestCountingFixedPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			Counting: defendertest.Fixed, Phase: 37*time.Minute + 20*time.Second,
			Quotas: map[string][]quota.Window{"machines": {{N: 10, Per: time.Minute}, {N: 25, Per: time.Hour}}},
		})
		for _, step := range []struct {
			sleep time.Duration
			want  int
		}{
			{39 * time.Second, 10}, {time.Second, 10}, {time.Minute - 1, 0}, {1, 5},
			{20*time.Minute + 59*time.Second, 0}, {time.Second, 10}, // the hour is over after 22m40s
		} {
			time.Sleep(step.sleep)
			if got := passes(t, s); got != step.want {
				t.Errorf("after %v more, %d calls passed, want %d", step.sleep, got, step.want)
			}
		}
	})
}

// A rested bucket is full, and then gives one token at a time.
func TestCountingBucketRefills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			Counting: defendertest.Bucket, Quotas: map[string][]quota.Window{"machines": {{N: 10, Per: time.Minute}}},
		})
		for _, step := range []struct {
			sleep time.Duration
			want  int
		}{{0, 10}, {6*time.Second - 1, 0}, {1, 1}, {18 * time.Second, 3}, {time.Hour, 10}} {
			time.Sleep(step.sleep)
			if got := passes(t, s); got != step.want {
				t.Errorf("after %v more, %d calls passed, want %d", step.sleep, got, step.want)
			}
		}
	})
}

// Who retries before a strict window has room stays out for as long as he does so.
func TestCountingStrictPunishesEarlyRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quotas := map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}}
		strict := defendertest.NewUnstartedServer(defendertest.Config{Counting: defendertest.Strict, Quotas: quotas})
		direct(strict, "GET", "/api/machines", "").want(t, 200, "")
		for range 10 {
			time.Sleep(59 * time.Second)
			r := direct(strict, "GET", "/api/machines", "").want(t, 429, "429")
			if wait := r.header.Get("Retry-After"); wait != "60" {
				t.Errorf("the wait is %s s, want 60", wait)
			}
		}
		time.Sleep(time.Minute)
		direct(strict, "GET", "/api/machines", "").want(t, 200, "")
	})
}

// A call without a token isn't the application's, and so not counted even here.
func TestCountingStrictIgnoresStrangers(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{
		Token: "secret", Counting: defendertest.Strict, Quotas: map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}},
	})
	for range 5 {
		direct(s, "GET", "/api/machines", "").want(t, 401, "Unauthorized")
	}
	authorized(s, "secret", "GET", "/api/machines", "").want(t, 200, "")
	authorized(s, "secret", "GET", "/api/machines", "").want(t, 429, "429")
}
