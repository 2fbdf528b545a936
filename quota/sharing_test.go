package quota_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// neighbour is another program with the same credentials. It makes calls at random, so many an hour, and drops what is
// refused.
type neighbour struct {
	perHour  float64
	dice     *rand.Rand
	next     time.Time
	accepted int
}

func (n *neighbour) upTo(c counter) func(time.Time) {
	return func(now time.Time) {
		for ; n.next.Before(now); n.next = n.next.Add(time.Duration(n.dice.ExpFloat64() / n.perHour * float64(time.Hour))) {
			if _, ok := c.arrive(n.next); ok {
				n.accepted++
			}
		}
	}
}

// Another program uses a third of the quota: nearly all of the rest is used, and few of our calls meet a 429.
func TestSharedWithAnotherProgram(t *testing.T) {
	for _, c := range []struct {
		name            string
		windows         []quota.Window
		perHour         float64
		used, most429s  float64
		mostInThreeHour float64
	}{
		{"minute and hour", minuteAndHour(), 500, 0.95, 0.015, 0.03},
		{"minute alone", []quota.Window{{N: 100, Per: time.Minute}}, 2000, 0.85, 0.02, 0.03},
	} {
		for seed := range uint64(long.Size(t, 1, 3)) {
			for _, silent := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/silent=%v", c.name, seed, silent), func(t *testing.T) {
					if quota.RaceEnabled && (seed > 0 || silent) {
						t.Skip("one is enough under the race detector")
					}
					synctest.Test(t, func(t *testing.T) {
						server := &rolling{windows: c.windows}
						s := newService(server, c.windows)
						s.silent = silent
						s.uniform(20*time.Millisecond, 520*time.Millisecond)
						other := &neighbour{perHour: c.perHour, dice: rand.New(rand.NewPCG(seed, 7)), next: time.Now()}
						s.others = other.upTo(server)
						const hours = 12
						r := batch(t, throughQuota(s, &quota.Quota{Windows: c.windows}), math.MaxInt, hours*time.Hour)
						longest := c.windows[len(c.windows)-1]
						whole := float64(longest.N) * hours * float64(time.Hour) / float64(longest.Per)
						used := float64(len(s.arrivals)) / (whole - float64(other.accepted))
						refused := float64(len(s.refused)) / float64(len(s.arrivals)+len(s.refused))
						early, inThree := 0, 0
						for _, at := range s.refused {
							if at.Sub(s.began) < 3*time.Hour {
								early++
							}
						}
						for _, at := range s.arrivals {
							if at.Sub(s.began) < 3*time.Hour {
								inThree++
							}
						}
						refusedEarly := float64(early) / float64(early+inThree)
						t.Logf("used %.1f %% of the rest, %.2f %% 429s, %.2f %% in the first three hours, %d failed", 100*used, 100*refused, 100*refusedEarly, r.failed)
						if r.failed > 0 {
							t.Errorf("%d calls failed: %v", r.failed, r.last)
						}
						if used < c.used || refused > c.most429s || refusedEarly > c.mostInThreeHour {
							t.Errorf("used %.3f (want %v), 429s %.4f (want at most %v), early %.4f (want at most %v)", used, c.used, refused, c.most429s, refusedEarly, c.mostInThreeHour)
						}
					})
				})
			}
		}
	}
}
