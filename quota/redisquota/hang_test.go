package redisquota

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// stubborn is a connection whose commands do not end with their context, as those of go-redis do not
// unless it is told so (Options.ContextTimeoutEnabled).
type stubborn struct {
	backend
	mu    sync.Mutex
	until time.Time // it hangs until then
	after bool      // the question has arrived when it begins to hang
	half  bool      // every second command does not hang
	count int       // commands meanwhile
}

func (s *stubborn) exchange(ctx context.Context, r *request, t *tuning, now time.Duration) (reply, error) {
	s.mu.Lock()
	wait := time.Until(s.until)
	after := s.after
	if wait > 0 {
		s.count++
	}
	spared := s.half && s.count%2 == 0
	s.mu.Unlock()
	if wait <= 0 || spared {
		return s.backend.exchange(ctx, r, t, now)
	}
	if after {
		s.backend.exchange(context.WithoutCancel(ctx), r, t, now)
	}
	time.Sleep(wait)
	return reply{}, errors.New("i/o timeout")
}

func (s *stubborn) hang(d time.Duration, after bool) {
	s.mu.Lock()
	s.until, s.after = time.Now().Add(d), after
	s.mu.Unlock()
}

// Close returns soon in every state, however long the client's commands hang, and leaves no goroutine.
func TestCloseReturnsSoon(t *testing.T) {
	for name, c := range map[string]struct {
		begin func(t *testing.T, q *Quota, s *stubborn) // what happens before it
		told  bool                                      // Redis is
	}{
		"unused": {func(*testing.T, *Quota, *stubborn) {}, true},
		"after a call": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
		}, true},
		"a call under way": {func(t *testing.T, q *Quota, s *stubborn) {
			if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); err != nil {
				t.Error(err)
			}
		}, true},
		"idle": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
			time.Sleep(10 * time.Minute)
		}, true},
		"learning": {func(t *testing.T, q *Quota, s *stubborn) {
			q.Start = Fresh
			go q.Enter(t.Context(), steadyhttp.Attempt{})
			time.Sleep(time.Second)
		}, true},
		"the first exchange in flight": {func(t *testing.T, q *Quota, s *stubborn) {
			go q.Enter(t.Context(), steadyhttp.Attempt{})
			time.Sleep(time.Millisecond)
		}, true},
		"it never was there": {func(t *testing.T, q *Quota, s *stubborn) {
			s.hang(time.Hour, false)
			go q.Enter(t.Context(), steadyhttp.Attempt{})
			time.Sleep(time.Millisecond)
		}, false},
		"it never was there, for long": {func(t *testing.T, q *Quota, s *stubborn) {
			s.hang(time.Hour, false)
			go q.Enter(t.Context(), steadyhttp.Attempt{})
			time.Sleep(time.Minute)
		}, false},
		"it hangs since just now": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
			s.hang(time.Hour, false)
		}, false},
		"it hangs for long": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
			s.hang(time.Hour, false)
			time.Sleep(30 * time.Second)
		}, false},
		"its answers hang": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
			s.hang(time.Hour, true)
			time.Sleep(30 * time.Second)
		}, false},
		"half of its connections hang": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
			s.half = true
			s.hang(time.Hour, false)
			time.Sleep(30 * time.Second)
		}, false},
		"it is back after it hung": {func(t *testing.T, q *Quota, s *stubborn) {
			enterAndLeave(t, q)
			s.hang(10*time.Second, false)
			time.Sleep(30 * time.Second)
		}, true},
	} {
		for _, closers := range []int{1, 3} {
			t.Run(name, func(t *testing.T) {
				together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
					q, l := process(func(q *Quota) { q.Windows = []quota.Window{{N: 5, Per: time.Minute}} })
					s := &stubborn{backend: l}
					q.engine.backend = s
					c.begin(t, q, s)
					var waiting sync.WaitGroup
					for range 2 { // and somebody waits, if anybody has to
						waiting.Go(func() {
							if p, err := q.Enter(t.Context(), steadyhttp.Attempt{}); err == nil {
								p.Leave(steadyhttp.Attempt{})
							}
						})
					}
					began := time.Now()
					var group sync.WaitGroup
					for range closers {
						group.Go(func() {
							err := q.Close()
							if took := time.Since(began); took > 3*time.Second {
								t.Errorf("Close took %v", took)
							}
							if c.told != (err == nil) {
								t.Errorf("Close: %v", err)
							}
							q.engine.host.Lock()
							defer q.engine.host.Unlock()
							if q.engine.running {
								t.Error("Close returned before its goroutine was gone")
							}
						})
					}
					group.Wait()
					waiting.Wait()
					if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); err == nil {
						t.Error("somebody entered")
					}
					if c.told && !w.gone(q) {
						t.Error("Redis counts it among those who share the quota")
					}
					time.Sleep(2 * time.Hour)
				})
			})
		}
	}
}

// gone reports whether Redis counts a process no more.
func (w *world) gone(q *Quota) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.model.seen[q.engine.proc] == 0
}

func enterAndLeave(t *testing.T, q *Quota) {
	t.Helper()
	p, err := q.Enter(t.Context(), steadyhttp.Attempt{})
	if err != nil {
		t.Error(err)
		return
	}
	p.Leave(wentWell())
}

// Who gives up while Redis is away is told that it is Redis that he has waited for, whatever ends his
// context, and Redis' own timeouts are not taken for his.
func TestWhoGivesUpIsToldOfRedis(t *testing.T) {
	for _, away := range []string{"refuses", "hangs"} {
		for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
			t.Run(away+", "+end.Error(), func(t *testing.T) {
				together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
					q, l := process(func(q *Quota) { q.Windows, q.WhenAway = []quota.Window{{N: 5, Per: time.Minute}}, Closed })
					said := "no answer from Redis"
					if away == "hangs" {
						s := &stubborn{backend: l}
						q.engine.backend = s
						s.hang(10*time.Minute, false)
					} else {
						said += ": dial tcp: refused"
						q.engine.backend = refusing{fmt.Errorf("dial tcp: refused (%w, %w)", context.Canceled, context.DeadlineExceeded)}
					}
					rt := &steadyhttp.Transport{Gates: []steadyhttp.Gate{q}}
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					if end == context.Canceled {
						ctx, cancel = context.WithCancel(t.Context())
						time.AfterFunc(5*time.Second, cancel)
					}
					defer cancel()
					entered := make(chan error, 1)
					go func() {
						_, err := q.Enter(ctx, steadyhttp.Attempt{})
						entered <- err
					}()
					req, err := http.NewRequestWithContext(ctx, "GET", "http://api.example/", nil)
					if err != nil {
						t.Fatal(err)
					}
					_, called := rt.RoundTrip(req)
					for _, err := range []error{<-entered, called} {
						if !strings.Contains(err.Error(), said) {
							t.Errorf("%v: it does not say %q", err, said)
						}
						if !errors.Is(err, end) {
							t.Errorf("%v: not %v", err, end)
						}
						if other := context.Canceled; end != other && errors.Is(err, other) {
							t.Errorf("%v is %v", err, other)
						}
					}
					time.Sleep(11 * time.Minute)
				})
			})
		}
	}
}

// refusing fails at once.
type refusing struct{ err error }

func (r refusing) exchange(context.Context, *request, *tuning, time.Duration) (reply, error) {
	return reply{}, r.err
}

// Whose client's commands hang is without Redis, and WhenAway decides: also if each question so far was
// answered at the second try.
func TestHangingClientIsAway(t *testing.T) {
	for name, half := range map[string]bool{"all": false, "half": true} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				q, l := process(func(q *Quota) { q.Windows = []quota.Window{{N: 5, Per: time.Minute}} })
				s := &stubborn{backend: l, half: half}
				q.engine.backend = s
				enterAndLeave(t, q)
				time.Sleep(2 * time.Second)
				s.hang(10*time.Minute, false)
				time.Sleep(20 * time.Second)
				if !q.Shared().Away {
					t.Errorf("%+v: it is not away", q.Shared())
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if p, err := q.Enter(ctx, steadyhttp.Attempt{}); err != nil {
					t.Errorf("with a part of its own: %v", err)
				} else {
					p.Leave(wentWell())
				}
				time.Sleep(11 * time.Minute)
				enterAndLeave(t, q)
				if s := q.Shared(); s.Away || s.Err != nil {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}
