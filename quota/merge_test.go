package quota

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/steadyhttp/steadyhttp"
)

// Calls that the shorter windows have let go are remembered in runs of a 1024th of the shortest one
// that counts them. Beside a log of each call by itself: no window ever lets one go earlier, nor later
// than by a thousandth of its length; and what is remembered stays small.
func TestOldCallsAreRememberedCoarsely(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		windows []Window
		calls   int // each second, in bursts
	}{
		{[]Window{{100, time.Second}, {5_000_000, day}}, 100},
		{[]Window{{100, time.Second}, {5_000_000, day}}, 7},
		{[]Window{{5_000_000, day}, {3_000, time.Minute}, {100, time.Second}}, 50},
		{[]Window{{20, time.Second}, {20, time.Second}, {50_000, time.Hour}, {50_000, time.Hour}}, 15},
		{[]Window{{1_000, 10 * time.Second}, {20_000, 10 * time.Minute}, {1_000_000, day}}, 12},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(7, uint64(c.calls)))
			windows := newWindows(c.windows, 0)
			var coarse, exact history
			least, most := make([]int, len(windows)), make([]int, len(windows)) // counted, by exact
			heads, late := make([]int, len(windows)), make([]int, len(windows))
			longest := 0
			now := instant(0)
			forget := func(used, head *int, span time.Duration) {
				for *head < len(exact.log) && exact.log[*head].at.add(span) <= now {
					*used -= exact.log[*head].n
					*head++
				}
			}
			for now < instant(26*time.Hour) {
				now = now.add(time.Duration(dice.Int64N(int64(2 * time.Second))))
				n := 1 + dice.IntN(2*c.calls)
				for range n {
					now = now.add(time.Duration(dice.Int64N(int64(time.Millisecond))))
					coarse.push(now, 1, granularity(windows))
					exact.push(now, 1, 0)
					for i := range windows {
						windows[i].used[normal]++
						least[i]++
						most[i]++
					}
				}
				coarse.expire(windows, normal, now)
				for i := range windows {
					w := &windows[i]
					forget(&least[i], &heads[i], w.per+w.pad)
					forget(&most[i], &late[i], w.per+w.pad+w.per/1000)
					if got := w.used[normal]; got < least[i] || got > most[i] {
						t.Fatalf("%v: %v counts %d calls, want %d to %d", time.Duration(now), c.windows[i], got, least[i], most[i])
					}
				}
				longest = max(longest, cap(coarse.log))
			}
			t.Logf("%d calls, room for %d runs of %d bytes", len(exact.log), longest, unsafe.Sizeof(run{}))
			if longest > 10_000 {
				t.Errorf("room for %d runs", longest)
			}
		})
	}
}

// The same through the gate, a day long: a million calls at 20 a second fit into little, and all of
// them go in time.
func TestADayOfAMillionFitsIntoLittle(t *testing.T) {
	if testing.Short() || RaceEnabled {
		t.Skip("takes seconds")
	}
	synctest.Test(t, func(t *testing.T) {
		const n, seconds = 1_000_000, 50_000
		q := &Quota{Windows: []Window{{N: 20, Per: time.Second}, {N: n, Per: 24 * time.Hour}}}
		began := time.Now()
		longest := 0
		for calls := range n + 20 {
			ticket, err := q.enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			q.leave(ticket, answeredNow())
			if took := time.Since(began); calls == n-1 && took > seconds*time.Second*1002/1000 {
				t.Errorf("%d calls took %v", calls, took)
			}
			longest = max(longest, cap(q.calls[normal].log))
		}
		took := time.Since(began)
		if took < 24*time.Hour || took > 24*time.Hour*1005/1000 {
			t.Errorf("the day's window had room again after %v", took)
		}
		t.Logf("%d calls, room for %d runs, %d KiB; a snapshot of %d runs", n, longest,
			longest*int(unsafe.Sizeof(run{}))/1024, len(q.Snapshot().Normal))
		if longest > 10_000 {
			t.Errorf("room for %d runs", longest)
		}
	})
}
