package steadyhttp

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
)

// Any mixture of attempts that hang, are told of late, are throttled and give up ends with an idle
// gate; nobody waits for longer than the pauses, and 5 s for each who may hang before him; and never
// are more let go in 5 s than the window is wide.
func TestPauseUnderRandomHangs(t *testing.T) {
	const callers = 40
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			l := Limit(nil).(*limit)
			var wg sync.WaitGroup
			for i := range callers {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				wg.Go(func() {
					for range 20 {
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if r.IntN(2) == 0 {
							ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(60_000))*time.Millisecond)
						}
						log := new(sendlog.Log)
						asked := time.Now()
						leave, err := l.Enter(ctx, Attempt{log: log})
						if waited := time.Since(asked); waited > (callers*5+60)*time.Second {
							t.Errorf("seed %d: waited %v", seed, waited)
						}
						if err == nil {
							takes := time.Duration(r.IntN(300)) * time.Millisecond
							if r.IntN(4) == 0 {
								takes = time.Duration(r.IntN(120)) * time.Second
							}
							time.Sleep(takes / 2)
							if r.IntN(2) == 0 {
								log.Trace().WroteHeaders()
							}
							time.Sleep(takes / 2)
							a := succeeded()
							switch r.IntN(12) {
							case 0, 1:
								a = throttledFor(time.Duration(r.IntN(3)) * time.Second)
							case 2:
								a = Attempt{}
							case 3:
								a = Attempt{Response: &http.Response{StatusCode: 503}}
							}
							if a.Response != nil && r.IntN(4) > 0 {
								log.Answered(a.Response)
								time.Sleep(time.Duration(r.IntN(10)) * time.Second)
							}
							leave.Leave(a)
							log.Trace().WroteHeaders() // HTTP/2 may tell when all is over
						}
						cancel()
						time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			l.pause.assertIdle(t)
			if n := l.pause.places.Len() + l.pause.stuck.Len(); n > 0 {
				t.Errorf("seed %d: %d are remembered", seed, n)
			}
		})
	}
}

// Who is refused in the queue and gives up at the same time is taken out of it once.
func TestRefusedAndCancelledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pause
		probe, _ := p.enter(t.Context(), Attempt{})
		p.leave(probe, throttledFor(time.Second))
		why := errors.New("why")
		for _, cancelled := range []bool{true, false} {
			ctx, cancel := context.WithCancelCause(t.Context())
			ctx, stop := context.WithTimeout(ctx, 10*time.Second)
			ended := make(chan error)
			go func() {
				_, err := p.enter(ctx, Attempt{})
				ended <- err
			}()
			synctest.Wait()
			p.mu.Lock()
			p.close(time.Minute, false)
			p.serve()
			if cancelled {
				cancel(why)
			}
			p.mu.Unlock()
			if err := <-ended; errors.Is(err, why) != cancelled || neterr.Is[*Refusal](err) == cancelled {
				t.Errorf("cancelled %v: got %v", cancelled, err)
			}
			stop()
			cancel(nil)
			p.assertIdle(t)
			p.until = time.Now().Add(time.Second)
		}
	})
}

// The places that are lost go to the first who came after an unsent attempt, and to the head of the
// line, by turns: neither stands still for the other. Who has been sent waits for nobody.
func TestWhoGetsALostPlace(t *testing.T) {
	for name, tt := range map[string]struct {
		observed, sent bool
		want           []int // callers before the grant are 0 to 4, after it 5 to 9
	}{
		"unsent":      {true, false, []int{5, 0, 6, 1, 7, 2, 8, 3, 9, 4}},
		"sent":        {true, true, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		"not told of": {false, false, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := Limit(nil).(*limit)
				leave, _ := l.Enter(t.Context(), Attempt{})
				leave.Leave(throttledFor(time.Second))
				enter := func() *sendlog.Log {
					log := new(sendlog.Log)
					a := Attempt{}
					if tt.observed {
						a.log = log
					}
					l.Enter(t.Context(), a)
					if tt.sent {
						log.Trace().WroteHeaders()
					}
					return log
				}
				var group sync.WaitGroup
				group.Go(func() { enter() }) // the probe
				synctest.Wait()
				var mu sync.Mutex
				var order []int
				for i := range 10 {
					if i == 5 {
						time.Sleep(time.Second) // the probe goes
						synctest.Wait()
					}
					group.Go(func() {
						enter()
						mu.Lock()
						defer mu.Unlock()
						order = append(order, i) // one each 5 s
					})
					synctest.Wait()
				}
				began := time.Now()
				group.Wait()
				if took := time.Since(began); took != 50*time.Second {
					t.Errorf("took %v", took)
				}
				for i := range order {
					if order[i] != tt.want[i] {
						t.Fatalf("went as %v, want %v", order, tt.want)
					}
				}
			})
		})
	}
}
