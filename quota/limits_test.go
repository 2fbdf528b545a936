package quota_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Calls of a large limit are remembered in runs. None of them is held for more than a 1024th of the
// shortest window beyond its time, and there are no more runs than that makes.
func TestLargeLimitWastesLittleAndRemembersLittle(t *testing.T) {
	const n = 20_000
	for _, per := range []time.Duration{time.Minute, time.Hour} {
		pad := per / 2000 // for clocks that differ
		for _, gap := range []time.Duration{per / 2000, per / 600, per / 100, per / 20, per / 2} {
			synctest.Test(t, func(t *testing.T) {
				q := &quota.Quota{Windows: []quota.Window{{N: n, Per: per}}}
				began := time.Now()
				enter(t, q)(answered())
				time.Sleep(gap)
				fill(t, q, n-1)
				pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
				if err != nil {
					t.Fatal(err)
				}
				pass.Leave(answered())
				took := time.Since(began)
				if most := per + per/1024 + pad; took < per || took > most {
					t.Errorf("%v, gap %v: the first place came free after %v, want at most %v", per, gap, took, most)
				}
			})
		}
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{{N: n, Per: per}}}
			for range n / 2 {
				time.Sleep(per / n)
				enter(t, q)(answered())
			}
			if runs := len(q.Snapshot().Normal); runs > 1100/2 {
				t.Errorf("%v: %d calls in half a window are remembered in %d runs", per, n/2, runs)
			}
		})
	}
}

// A window's wait is kept in full, and more than any window's is not believed.
func TestPauseIsAsLongAsAWindowAndNoLonger(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{
		time.Second:             time.Second,
		time.Hour:               time.Hour,
		time.Hour + time.Minute: time.Hour + time.Minute, // rounded up by the server
		75 * time.Minute:        75 * time.Minute,
		75*time.Minute + 1:      75 * time.Minute,
		24 * time.Hour:          75 * time.Minute,
		1 << 62:                 75 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: minuteAndHour()}
			enter(t, q)(throttled(asked, ""))
			if got := q.State().PausedFor; got != want {
				t.Errorf("asked for %v: paused for %v, want %v", asked, got, want)
			}
			began := time.Now()
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			pass.Leave(answered())
			if took := time.Since(began); took != want {
				t.Errorf("asked for %v: the probe went after %v, want %v", asked, took, want)
			}
		})
	}
}

// What is under way when a process ends may arrive yet: the next process counts it from the latest
// time at which that can be, in every window and of either priority.
func TestSnapshotHasTheCallsInFlight(t *testing.T) {
	for _, transit := range []time.Duration{0, 30 * time.Second} {
		for _, priority := range []quota.Priority{quota.Normal, quota.High} {
			synctest.Test(t, func(t *testing.T) {
				windows := []quota.Window{{N: 3, Per: time.Minute}, {N: 100, Per: time.Hour}}
				first := &quota.Quota{Windows: windows, MaxTransit: transit}
				ctx := quota.WithPriority(t.Context(), priority)
				for range 3 {
					if _, err := first.Enter(ctx, steadyhttp.Attempt{}); err != nil {
						t.Fatal(err)
					}
				}
				saved, err := json.Marshal(first.Snapshot())
				if err != nil {
					t.Fatal(err)
				}
				var read quota.Snapshot
				if err := json.Unmarshal(saved, &read); err != nil {
					t.Fatal(err)
				}
				next := &quota.Quota{Windows: windows, MaxTransit: transit}
				if err := next.Restore(read); err != nil {
					t.Fatal(err)
				}
				for _, w := range next.State().Windows {
					if w.Used != 3 {
						t.Errorf("%s: %d of 3 calls are counted in %v", saved, w.Used, w.Per)
					}
				}
				began := time.Now()
				pass, err := next.Enter(ctx, steadyhttp.Attempt{})
				if err != nil {
					t.Fatal(err)
				}
				pass.Leave(answered())
				late := max(transit, 2*time.Second)
				if took := time.Since(began); took < time.Minute+late || took > time.Minute+late+time.Second {
					t.Errorf("MaxTransit %v: the next call went after %v", transit, took)
				}
			})
		}
	}
}

// MaxTransit is refused where it could not be meant, and holds the place of a lost call for as long.
func TestMaxTransit(t *testing.T) {
	for _, bad := range []time.Duration{-1, time.Hour + 1} {
		q := &quota.Quota{Windows: minuteAndHour(), MaxTransit: bad}
		if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); !isRefusal(err) {
			t.Errorf("MaxTransit %v: %v", bad, err)
		}
	}
	for transit, want := range map[time.Duration]time.Duration{
		0: 2 * time.Second, time.Millisecond: time.Millisecond, 20 * time.Second: 20 * time.Second, time.Hour: time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}, MaxTransit: transit}
			began := time.Now()
			enter(t, q)(steadyhttp.Attempt{Sent: time.Now(), Err: errors.New("reset")})
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			pass.Leave(answered())
			if took := time.Since(began); took < time.Minute+want || took > time.Minute+want+100*time.Millisecond {
				t.Errorf("MaxTransit %v: the next call went after %v", transit, took)
			}
		})
	}
}

// A wait is announced as it begins, with the time that it will take.
func TestWaitIsAnnouncedWithItsLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(&rolling{windows: minuteAndHour()}, nil)
		var mu sync.Mutex
		var told, waited []steadyhttp.Wait
		note := func(waits *[]steadyhttp.Wait) func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) {
			return func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) {
				mu.Lock()
				defer mu.Unlock()
				*waits = append(*waits, w)
			}
		}
		transport := &steadyhttp.Transport{
			Base:  s,
			Gates: []steadyhttp.Gate{&quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}},
			Trace: &steadyhttp.Trace{Waiting: note(&told), Waited: note(&waited)},
		}
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			})
			synctest.Wait()
		}
		group.Wait()
		if len(told) != 3 || len(waited) != 3 {
			t.Fatalf("told %v and %v", told, waited)
		}
		for i := range told {
			want := time.Duration(i+1) * time.Minute
			for _, got := range []steadyhttp.Wait{told[i], waited[i]} {
				if got.Cause != steadyhttp.WaitGate || got.Gate != 0 || (got.For-want).Abs() > time.Second {
					t.Errorf("caller %d in line: %+v, want %v", i+1, got, want)
				}
			}
		}
	})
}
