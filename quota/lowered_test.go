package quota_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// names is a 429 whose text names a limit.
func names(n int, per string) steadyhttp.Attempt {
	return throttled(time.Second, fmt.Sprintf("Maximum allowed %d per %s.", n, per))
}

// loweredTo reports whether the first window's limit is n, or a share of that.
func loweredTo(q *quota.Quota, n int) bool { return q.State().Windows[0].Limit <= n }

// A limit that a text names once is forgotten after ten windows or an hour, whichever is longer, and
// the whole of our own limit comes back.
func TestNamedLimitRunsOut(t *testing.T) {
	for _, tt := range []struct {
		window quota.Window
		n      int
		text   string
		holds  time.Duration
	}{
		{quota.Window{N: 100, Per: time.Minute}, 1, "00:01:00", time.Hour},
		{quota.Window{N: 100, Per: time.Minute}, 30, "00:01:00", time.Hour},
		{quota.Window{N: 100, Per: time.Minute}, 99, "00:01:00", time.Hour},
		{quota.Window{N: 1500, Per: time.Hour}, 1, "01:00:00", 10 * time.Hour},
		{quota.Window{N: 10, Per: time.Second}, 2, "00:00:01", time.Hour},
		{quota.Window{N: 2, Per: 24 * time.Hour}, 1, "24:00:00", 240 * time.Hour},
	} {
		for _, reserve := range []float64{0, 0.3} {
			t.Run(fmt.Sprintf("%d of %v, reserve %v", tt.n, tt.window, reserve), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					q := &quota.Quota{Windows: []quota.Window{tt.window}, Reserve: reserve}
					enter(t, q)(names(tt.n, tt.text))
					time.Sleep(tt.holds - 2*time.Second)
					if !loweredTo(q, tt.n) {
						t.Errorf("%+v before %v", q.State().Windows[0], tt.holds)
					}
					time.Sleep(2 * time.Second)
					grows := max(10, time.Duration(2000/tt.window.N)) * tt.window.Per
					time.Sleep(grows + tt.window.Per)
					if w := q.State().Windows[0]; w.Limit != tt.window.N || w.Shared {
						t.Errorf("%+v after %v and %v", w, tt.holds, grows)
					}
					// And all of it can be used, by normal calls what is not kept for urgent ones.
					ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					defer cancel()
					normal := 0
					for i := 0; i < tt.window.N; i++ {
						pass, err := q.Enter(ctx, steadyhttp.Attempt{})
						if err != nil && normal == 0 {
							normal, i = i, i-1
							ctx = quota.WithPriority(ctx, quota.High)
							continue
						}
						if err != nil {
							t.Fatalf("call %d: %v", i+1, err)
						}
						pass.Leave(answered())
					}
					kept := min(int(math.Round(reserve*float64(tt.window.N))), tt.window.N-1)
					if kept > 0 && normal != tt.window.N-kept || kept == 0 && normal != 0 {
						t.Errorf("%d normal calls went, and %d places are kept", normal, kept)
					}
				})
			})
		}
	}
}

// Each 429 that names it while it holds begins its time anew, and makes it no longer; one that comes
// after it has run out doubles it, up to a day; once it has not been named for as long again, all of
// that is forgotten. A higher one, within ours or not, changes nothing.
func TestNamedLimitIsRenewed(t *testing.T) {
	type named struct {
		after time.Duration // the one before
		n     int
		holds time.Duration // from then on
	}
	for name, steps := range map[string][]named{
		"while it holds": {{0, 10, time.Hour}, {30 * time.Minute, 10, time.Hour}, {50 * time.Minute, 10, time.Hour}, {time.Minute, 10, time.Hour}},
		"after it has run out": {
			{0, 10, time.Hour}, {61 * time.Minute, 10, 2 * time.Hour}, {121 * time.Minute, 10, 4 * time.Hour}, {5 * time.Hour, 10, 8 * time.Hour},
			{9 * time.Hour, 10, 16 * time.Hour}, {17 * time.Hour, 10, 24 * time.Hour}, {25 * time.Hour, 10, 24 * time.Hour},
			{47 * time.Hour, 10, 24 * time.Hour}, {48 * time.Hour, 10, time.Hour},
		},
		"by a storm":           {{0, 10, time.Hour}, {time.Minute, 9, time.Hour}, {time.Minute, 8, time.Hour}, {time.Minute, 1, time.Hour}},
		"lower":                {{0, 30, time.Hour}, {30 * time.Minute, 10, time.Hour}},
		"higher, below ours":   {{0, 10, time.Hour}, {30 * time.Minute, 30, 30 * time.Minute}},
		"ours":                 {{0, 10, time.Hour}, {30 * time.Minute, 100, 30 * time.Minute}},
		"higher than ours":     {{0, 10, time.Hour}, {30 * time.Minute, 500, 30 * time.Minute}},
		"at the very end":      {{0, 10, time.Hour}, {time.Hour, 10, 2 * time.Hour}},
		"a moment too late":    {{0, 10, time.Hour}, {2 * time.Hour, 10, time.Hour}},
		"a moment before that": {{0, 10, time.Hour}, {2*time.Hour - time.Second, 10, 2 * time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				q := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}}
				at, lowest := time.Duration(0), 100
				for i, s := range steps {
					at += s.after
					lowest = min(lowest, s.n)
					ctx := quota.WithPriority(t.Context(), quota.High)
					time.Sleep(time.Until(began.Add(at)))
					pass, err := q.Enter(ctx, steadyhttp.Attempt{})
					if err != nil {
						t.Fatal(err)
					}
					at = time.Since(began)
					pass.Leave(names(s.n, "00:01:00"))
					if i < len(steps)-1 && steps[i+1].after < s.holds {
						continue
					}
					time.Sleep(s.holds - time.Second)
					if !loweredTo(q, lowest) {
						t.Fatalf("step %d: %+v after %v, want %d at most", i, q.State().Windows[0], s.holds-time.Second, lowest)
					}
					lowest = 100
					if i < len(steps)-1 && steps[i+1].after < s.holds+15*time.Minute {
						continue
					}
					time.Sleep(15 * time.Minute)
					if loweredTo(q, 50) {
						t.Fatalf("step %d: %+v long after %v", i, q.State().Windows[0], s.holds)
					}
				}
			})
		})
	}
}

// A limit that really is lower costs a 429 now and then, and no more than ours does: our own comes
// back at a growing pace, so that one call finds out.
func TestRealLowerLimitCostsFew429s(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hours := long.Size(t, 2, 7) * 24
		if quota.RaceEnabled || testing.Short() {
			hours = 24
		}
		s := newService(&rolling{windows: []quota.Window{{N: 30, Per: time.Minute}}}, nil)
		s.text = "Maximum allowed 30 per 00:01:00."
		q := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}}
		transport := throughQuota(s, q)
		r := batch(t, transport, math.MaxInt, time.Duration(hours)*time.Hour)
		used := float64(len(s.arrivals)) / float64(hours*60*30)
		var late int
		for _, at := range s.refused {
			if at.Sub(s.began) > 24*time.Hour {
				late++
			}
		}
		// The first burst meets one for each of the 32 workers.
		t.Logf("%d hours: %d 429s, %d of them after the first day, %.1f %% used, %d failed", hours, len(s.refused), late, 100*used, r.failed)
		if r.failed > 0 || len(s.refused)-late > 32+20 || late > 3*(hours/24-1) || used < 0.95 {
			t.Errorf("%d 429s, %d late, %.3f used, %d failed: %v", len(s.refused), late, used, r.failed, r.last)
		}
	})
}

// A wait that a lowered limit would make is not held against a caller for longer than that holds.
func TestDeadlineBeyondALoweredLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}}
		enter(t, q)(names(1, "00:01:00"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 200 { // 200 minutes at 1 a minute
			go func() {
				if pass, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
					pass.Leave(answered())
				}
			}()
		}
		synctest.Wait()
		if err := refuses(t, q, 50*time.Minute); !errors.Is(err, quota.ErrDeadline) {
			t.Errorf("got %v", err)
		}
		soon, stop := context.WithTimeout(ctx, 100*time.Minute)
		defer stop()
		began := time.Now()
		pass, err := q.Enter(soon, steadyhttp.Attempt{})
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		pass.Leave(answered())
		if took := time.Since(began); took < time.Hour {
			t.Errorf("went after %v", took)
		}
		cancel()
		synctest.Wait()
	})
}

// What is asked for in a pause is counted from its end: those ahead go then, and not now.
func TestDeadlineCountsThoseAheadInAPause(t *testing.T) {
	for _, tt := range []struct {
		used, ahead int
		needs       time.Duration
	}{
		{2, 0, 30 * time.Minute}, {2, 2, 30 * time.Minute}, {2, 3, 31 * time.Minute}, {2, 5, 31 * time.Minute}, {2, 6, 32 * time.Minute},
		{0, 0, 30 * time.Minute}, {0, 2, 30 * time.Minute}, {0, 3, 31 * time.Minute}, {0, 6, 32 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Minute}}}
			fill(t, q, 3)
			time.Sleep(2 * time.Minute)
			fill(t, q, tt.used)
			enter(t, q)(throttled(30*time.Minute, ""))
			ctx, cancel := context.WithCancel(t.Context())
			for range tt.ahead {
				go q.Enter(ctx, steadyhttp.Attempt{})
			}
			synctest.Wait()
			err := refuses(t, q, 10*time.Minute)
			if d, ok := errors.AsType[*steadyhttp.Refusal](err); !ok || d.Wait.Round(10*time.Second) != tt.needs {
				t.Errorf("%d used, %d ahead: %v, want %v", tt.used, tt.ahead, err, tt.needs)
			}
			cancel()
			synctest.Wait()
		})
	}
}

// Whatever texts come, no limit is below 1 or above ours, and all of ours is back in the end.
func TestRandomNamedLimits(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 5))
			q := &quota.Quota{Windows: minuteAndHour(), Reserve: 0.5}
			for range 100 {
				pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
				if err != nil {
					t.Fatal(err)
				}
				pass.Leave(names(dice.IntN(200)-20, []string{"00:01:00", "01:00:00", "00:00:60"}[dice.IntN(3)]))
				for i, w := range q.State().Windows {
					if w.Limit < 1 || w.Limit > minuteAndHour()[i].N || w.Free < 0 {
						t.Fatalf("seed %d: %+v", seed, w)
					}
				}
				time.Sleep(time.Duration(dice.IntN(100)*dice.IntN(100)) * time.Second)
			}
			time.Sleep(48 * time.Hour)
			for i, w := range q.State().Windows {
				if w.Limit != minuteAndHour()[i].N {
					t.Errorf("seed %d: %+v two days later", seed, w)
				}
			}
		})
	}
}

// A damaged snapshot is refused with its field and the fix, and changes nothing.
func TestRestoreNamesTheField(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for want, s := range map[string]quota.Snapshot{
			"Snapshot.At is missing":   {Normal: []quota.Calls{{Age: 1, N: 1}}},
			"Snapshot.At is missing, ": {High: []quota.Calls{{Age: math.MaxInt64, N: 1}}},
			"Snapshot.Normal[0].N is":  {At: now, Normal: []quota.Calls{{Age: 1, N: -1}}},
			"Snapshot.Normal[1].N is":  {At: now, Normal: []quota.Calls{{Age: 2, N: math.MaxInt / 4}, {Age: 1, N: 1}}},
			"Snapshot.High[0].N is":    {At: now, Normal: []quota.Calls{{Age: 2, N: 1}}, High: []quota.Calls{{Age: 1, N: math.MaxInt / 4}}},
			"Snapshot.High[0].Age is":  {At: now, High: []quota.Calls{{Age: -time.Hour - 1, N: 1}}},
			"Snapshot.High[2].Age is":  {At: now, High: []quota.Calls{{Age: 3, N: 1}, {Age: 3, N: 1}, {Age: 4, N: 1}}},
		} {
			q := &quota.Quota{Windows: minuteAndHour()}
			err := q.Restore(s)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Quota.Start") {
				t.Errorf("got %v, want %q and the fix", err, want)
			}
			if err := q.Restore(quota.Snapshot{At: now, Normal: []quota.Calls{{Age: 1, N: 7}}}); err != nil {
				t.Errorf("after %q: %v", want, err)
			}
			if used := q.State().Windows[0].Used; used != 7 {
				t.Errorf("after %q: %d used, want 7", want, used)
			}
		}
	})
}
