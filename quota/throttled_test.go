package quota

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
)

// TestThrottledHistory lives through random histories with 429s in them. When exactly a throttled Quota lets its callers go is its
// own choice; but it never counts a call that was not made, never forgets one too early, never lets anybody pass another, never
// goes over a limit, and in the end leaves nobody waiting.
func TestThrottledHistory(t *testing.T) {
	runs := long.Size(t, 100, 300)
	if testing.Short() || RaceEnabled {
		runs = 50
	}
	for run := range runs {
		throttledHistory(t, uint64(run))
	}
}

func FuzzThrottledHistory(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { throttledHistory(t, seed) })
}

func throttledHistory(t *testing.T, seed uint64) {
	t.Helper()
	dice := rand.New(rand.NewPCG(seed, 11))
	var windows []Window
	for i := range 1 + dice.IntN(3) {
		windows = append(windows, Window{N: 2 + dice.IntN(8<<(2*i)), Per: time.Duration(1+dice.IntN(20)) * time.Second << (2 * i)})
	}
	synctest.Test(t, func(t *testing.T) {
		q := &Quota{Windows: windows, Reserve: []float64{0, 0.3}[dice.IntN(2)]}
		o := &oracle{windows: windows}
		for _, w := range newWindows(windows, 0) {
			o.pads = append(o.pads, w.pad)
		}
		q.State() // begins time
		var held []*heldCall
		step := 0
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, step %d, windows %v: %s", seed, step, windows, fmt.Sprintf(format, args...))
		}
		// collect takes note of who has been let go.
		collect := func() {
			synctest.Wait()
			o.now = q.now()
			for c := range o.queue {
				for len(o.queue[c]) > 0 {
					w := o.queue[c][0]
					select {
					case ticket := <-w.result:
						w.call = o.take(class(c))
						w.call.ticket, w.call.granted = ticket, ticket.granted
						held = append(held, w.call)
						o.queue[c] = o.queue[c][1:]
						continue
					default:
					}
					break
				}
				for _, w := range o.queue[c] {
					if len(w.result) > 0 {
						fail("a caller has passed another")
					}
				}
			}
			q.mu.Lock()
			defer q.mu.Unlock()
			q.advance(q.now())
			for i := range windows {
				got := q.windows[i].all() + q.inFlight(classes)
				if want := o.used(i, classes); got < want {
					fail("window %d counts %d calls, and should count %d", i, got, want)
				} else if got > want && !q.windows[i].widened {
					fail("window %d counts %d calls, and should count %d", i, got, want)
				}
				if o.used(i, classes) > windows[i].N {
					fail("window %d of %d has %d calls", i, windows[i].N, o.used(i, classes))
				}
			}
		}
		for step = range 400 {
			switch choice := dice.IntN(10); {
			case choice < 4:
				w := &waiter{class: class(dice.IntN(5) / 4), result: make(chan *ticket, 1)}
				ctx, cancel := context.WithCancel(WithPriority(t.Context(), Priority(w.class)))
				w.cancel = cancel
				o.queue[w.class] = append(o.queue[w.class], w)
				go func() {
					if ticket, err := q.enter(ctx, steadyhttp.Attempt{}); err == nil {
						w.result <- ticket
					}
				}()
			case choice < 5:
				c := dice.IntN(int(classes))
				if len(o.queue[c]) == 0 {
					continue
				}
				i := dice.IntN(len(o.queue[c]))
				o.queue[c][i].cancel()
				o.queue[c] = slices.Delete(o.queue[c], i, i+1)
			case choice < 8:
				if len(held) == 0 {
					continue
				}
				i := dice.IntN(len(held))
				call := held[i]
				held = slices.Delete(held, i, i+1)
				o.now = q.now()
				if call.granted.add(unsentFor) > o.now {
					call.sent = o.now
					call.ticket.Sent(time.Now())
				}
				call.ended = o.now
				a := steadyhttp.Attempt{Response: &http.Response{StatusCode: 200}, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success}}
				if dice.IntN(3) == 0 {
					a.Response.StatusCode = 429
					a.Verdict = steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: time.Duration(dice.IntN(3)*dice.IntN(10)) * time.Second}
				}
				call.ticket.Answered(a.Response)
				q.leave(call.ticket, a)
			default:
				time.Sleep(time.Duration(dice.IntN(3000)) * time.Millisecond)
			}
			collect()
		}
		// With good answers from now on, everybody's turn comes.
		for step = 0; len(o.queue[normal])+len(o.queue[high])+len(held) > 0; step++ {
			if step == 100_000 {
				fail("%d and %d callers wait for ever: %+v", len(o.queue[normal]), len(o.queue[high]), q.State())
			}
			for _, call := range held {
				call.ended = q.now()
				resp := &http.Response{StatusCode: 200}
				call.ticket.Answered(resp)
				q.leave(call.ticket, steadyhttp.Attempt{Response: resp, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success}})
			}
			held = held[:0]
			time.Sleep(time.Second)
			collect()
		}
	})
}
