package quota

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Any mixture of calls that hang, before and after they are sent, are throttled and give up leaves
// nothing behind, and in between nobody waits for longer than the windows, the pauses, and 5 s for
// each who may hang before him.
func TestRandomHangs(t *testing.T) {
	const callers = 40
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			q := &Quota{Windows: []Window{{N: 60, Per: time.Minute}}, Reserve: []float64{0, 0.4}[seed%2]}
			var mu sync.Mutex
			dice := rand.New(rand.NewPCG(seed, 9))
			roll := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return dice.IntN(n)
			}
			hang := func(ctx context.Context) error {
				takes := time.Duration(roll(300)) * time.Millisecond
				if roll(6) == 0 {
					takes = time.Duration(roll(200)) * time.Second
				}
				select {
				case <-time.After(takes):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			transport := &steadyhttp.Transport{
				Gates:  []steadyhttp.Gate{q},
				Policy: steadyhttp.Policy{MaxAttempts: 1},
				Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
					return hang(req.Context())
				},
				Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && roll(4) > 0 {
						trace.WroteHeaders()
					}
					if err := hang(req.Context()); err != nil {
						return nil, err
					}
					resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}
					switch roll(12) {
					case 0:
						resp.StatusCode = http.StatusTooManyRequests
						resp.Header.Set("Retry-After", fmt.Sprint(roll(5)))
					case 1:
						resp.StatusCode = http.StatusServiceUnavailable
					case 2:
						return nil, errors.New("reset")
					}
					return resp, nil
				}),
			}
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for range 20 {
						ctx, cancel := WithPriority(t.Context(), Priority(roll(5)/4)), context.CancelFunc(func() {})
						if roll(2) == 0 {
							ctx, cancel = context.WithTimeout(ctx, time.Duration(roll(120))*time.Second)
						}
						req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", nil)
						if resp, err := transport.RoundTrip(req); err == nil {
							resp.Body.Close()
						}
						cancel()
					}
				})
			}
			began := time.Now()
			group.Wait()
			if took := time.Since(began); took > 20*(callers*5+400+400)*time.Second {
				t.Errorf("seed %d: took %v", seed, took)
			}
			time.Sleep(10 * time.Minute)
			s := q.State()
			if s.Waiting != 0 || s.InFlight != 0 || s.Windows[0].Used != 0 {
				t.Errorf("seed %d: left behind: %+v", seed, s)
			}
			if n := q.pause.places.Len() + q.pause.stuck.Len(); n != 0 {
				t.Errorf("seed %d: %d are remembered", seed, n)
			}
		})
	}
}

// Who is refused in line and gives up at the same time is taken out of it once.
func TestRefusedAndCancelledAtOnce(t *testing.T) {
	for _, cancelled := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			q := &Quota{Windows: []Window{{N: 100, Per: time.Minute}}}
			probe, _ := q.enter(t.Context(), steadyhttp.Attempt{})
			ticket, _ := q.enter(t.Context(), steadyhttp.Attempt{})
			throttled := func(after time.Duration) steadyhttp.Attempt {
				return steadyhttp.Attempt{Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: after}}
			}
			q.leave(probe, throttled(time.Second))
			why := errors.New("why")
			ctx, cancel := context.WithCancelCause(t.Context())
			ctx, stop := context.WithTimeout(ctx, 10*time.Second)
			defer stop()
			ended := make(chan error)
			for range 3 {
				go func() {
					_, err := q.enter(ctx, steadyhttp.Attempt{})
					ended <- err
				}()
			}
			synctest.Wait()
			q.lock()
			if cancelled {
				cancel(why)
			}
			q.pause.prolong(q.now().add(time.Minute))
			q.serve(q.now())
			q.unlock()
			for range 3 {
				if err := <-ended; errors.Is(err, why) != cancelled || errors.Is(err, ErrDeadline) == cancelled {
					t.Errorf("cancelled %v: got %v", cancelled, err)
				}
			}
			cancel(nil)
			q.leave(ticket, throttled(time.Second))
			if s := q.State(); s.Waiting != 0 || q.timer != nil && q.timer.Stop() {
				t.Errorf("left behind: %+v", s)
			}
		})
	}
}
