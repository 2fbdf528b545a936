package quota_test

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// holding is a network that now and then lets nothing through for a while: what is sent meanwhile
// arrives at its end, all at once.
func (s *service) holding(every, length time.Duration) {
	s.delay = func() time.Duration {
		into := time.Since(s.began) % every
		if into >= every-length {
			return every - into
		}
		return 20 * time.Millisecond
	}
}

// What the network holds back arrives later than MaxTransit, and its answer says so: it is counted
// from then on, and nothing is ever over the limit.
func TestHeldBackByTheNetwork(t *testing.T) {
	minute := []quota.Window{{N: 100, Per: time.Minute}}
	for _, c := range []struct {
		windows []quota.Window
		every   time.Duration
		length  time.Duration
		transit time.Duration
		workers int
	}{
		{minute, 10 * time.Minute, 5 * time.Second, 0, 32},
		{minute, 10*time.Minute + 3*time.Second, 5 * time.Second, 0, 32},
		{minute, 10 * time.Minute, 3 * time.Second, 0, 16},
		{minute, 10 * time.Minute, 30 * time.Second, 0, 32},
		{minute, time.Hour, 30 * time.Second, 0, 100},
		{minute, time.Hour, 55 * time.Second, 0, 50},
		{minute, 10 * time.Minute, 5 * time.Second, time.Second, 32},
		{minute, 10 * time.Minute, 5 * time.Second, 10 * time.Second, 32},
		{minuteAndHour(), 10 * time.Minute, 5 * time.Second, 0, 32},
		{minuteAndHour(), 47 * time.Minute, 20 * time.Second, 0, 32},
		{[]quota.Window{{N: 20, Per: 10 * time.Second}}, 7 * time.Minute, 5 * time.Second, 0, 16},
		{[]quota.Window{{N: 1, Per: 10 * time.Second}}, 17 * time.Minute, 6 * time.Second, 0, 2},
		{[]quota.Window{{N: 1500, Per: time.Hour}}, 20*time.Minute - 7*time.Second, 2 * time.Minute, 0, 32},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hours := long.Size(t, 3, 6)
				if quota.RaceEnabled {
					hours = 2
				}
				s := newService(&rolling{windows: c.windows}, c.windows)
				s.takes = 0
				s.holding(c.every, c.length)
				q := &quota.Quota{Windows: c.windows, MaxTransit: c.transit}
				r := batchOf(t, throughQuota(s, q), c.workers, math.MaxInt, time.Duration(hours)*time.Hour)
				if len(s.refused) > 0 || r.failed > 0 {
					t.Errorf("%d 429s in %d calls, %d failed: %v", len(s.refused), len(s.arrivals), r.failed, r.last)
				}
			})
		})
	}
}

// Where answers are always late, since the calls are long, they arrived long before: what it costs
// to count each from its answer is bounded, to a hundredth of a limit and half a window once.
func TestLongCallsCostLittle(t *testing.T) {
	for _, c := range []struct {
		windows []quota.Window
		takes   time.Duration
		workers int
	}{
		{[]quota.Window{{N: 100, Per: time.Minute}}, 3 * time.Second, 32},
		{[]quota.Window{{N: 100, Per: time.Minute}}, 10 * time.Second, 64},
		{[]quota.Window{{N: 100, Per: time.Minute}}, 3 * time.Minute, 400},
		{[]quota.Window{{N: 45, Per: time.Minute}}, 50 * time.Second, 100},
		{[]quota.Window{{N: 10, Per: time.Second}}, 30 * time.Second, 400},
		{minuteAndHour(), 3 * time.Minute, 400},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(&rolling{windows: c.windows}, c.windows)
				s.takes = c.takes
				hours := long.Size(t, 2, 3)
				if quota.RaceEnabled {
					hours = 1
				}
				batchOf(t, throughQuota(s, &quota.Quota{Windows: c.windows}), c.workers, math.MaxInt, time.Duration(hours)*time.Hour)
				within := 0
				for _, at := range s.arrivals {
					if at.Sub(s.began) < time.Duration(hours)*time.Hour {
						within++
					}
				}
				// Without answers that come later, what is lost is the two seconds that MaxTransit allows for.
				all, shortest := math.MaxInt, c.windows[0].Per
				for _, w := range c.windows {
					all = min(all, int(float64(hours)*float64(w.N)*float64(time.Hour)/float64(w.Per)))
				}
				most := float64(shortest) / float64(shortest+2*time.Second)
				if len(c.windows) > 1 {
					most = 1
				}
				once := 0.5 * float64(shortest) / float64(time.Duration(hours)*time.Hour)
				used := float64(within) / float64(all)
				t.Logf("%.2f %% of the limit used, and %.2f %% if all were counted as before", 100*used, 100*most)
				if want := most*0.99 - once - 0.001; used < want || len(s.refused) > 0 {
					t.Errorf("used %.4f, want %.4f; %d 429s", used, want, len(s.refused))
				}
			})
		})
	}
}
