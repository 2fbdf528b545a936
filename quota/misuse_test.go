package quota_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// baseFunc makes a base transport of a function.
type baseFunc func(*http.Request) (*http.Response, error)

func (f baseFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// duplicate copies a Quota as a program does that passes it by value. vet says so; the test is for who
// does not run it.
func duplicate[T any](v *T) *T {
	other := *v
	return &other
}

// A copy of a Quota that is in use shares some of its counts and not others: it is refused, with the
// fix, and the one that was copied goes on. A copy made before the first use is a Quota of its own.
func TestCopiedQuotaIsRefused(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, q *quota.Quota){
		"after a call":                 func(t *testing.T, q *quota.Quota) { enter(t, q)(answered()) },
		"a call under way":             func(t *testing.T, q *quota.Quota) { enter(t, q) },
		"State":                        func(t *testing.T, q *quota.Quota) { q.State() },
		"Snapshot":                     func(t *testing.T, q *quota.Quota) { q.Snapshot() },
		"Estimate":                     func(t *testing.T, q *quota.Quota) { q.Estimate(5) },
		"Restore":                      func(t *testing.T, q *quota.Quota) { q.Restore(quota.Snapshot{At: time.Now()}) },
		"in a pause":                   func(t *testing.T, q *quota.Quota) { enter(t, q)(throttled(0, "")) },
		"a copy of a copy":             func(t *testing.T, q *quota.Quota) { enter(t, q)(answered()) },
		"somebody waits for his place": nil,
	} {
		if use == nil && quota.RaceEnabled {
			continue // copying it then is the race
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}
				if use != nil {
					use(t, q)
				} else {
					fill(t, q, 2)
					go func() {
						if pass, err := q.Enter(t.Context(), steadyhttp.Attempt{}); err == nil {
							pass.Leave(answered())
						}
					}()
					synctest.Wait()
				}
				other := duplicate(q)
				if name == "a copy of a copy" {
					other = duplicate(other)
				}
				for range 3 {
					if _, err := other.Enter(t.Context(), steadyhttp.Attempt{}); !isRefusal(err) ||
						!strings.Contains(err.Error(), "*Quota") {
						t.Errorf("got %v, want a refusal that says what to do", err)
					}
				}
				if state := other.State(); len(state.Windows) != 0 {
					t.Errorf("the copy has a state of its own: %+v", state)
				}
				other.Snapshot()
				other.Estimate(1)
				time.Sleep(3 * time.Minute)
				enter(t, q)(answered())
			})
		})
	}
	fresh := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}
	for range 2 {
		enter(t, duplicate(fresh))(answered())
	}
}

// Who changes Windows while the Quota is in use changes nothing, and nothing falls over.
func TestWindowsChangedInUse(t *testing.T) {
	for name, change := range map[string]func(q *quota.Quota){
		"none":     func(q *quota.Quota) { q.Windows = nil },
		"fewer":    func(q *quota.Quota) { q.Windows = q.Windows[:1] },
		"more":     func(q *quota.Quota) { q.Windows = append(q.Windows, quota.Window{N: 1, Per: time.Hour}) },
		"higher":   func(q *quota.Quota) { q.Windows[0].N = 500 },
		"lower":    func(q *quota.Quota) { q.Windows[0].N, q.Windows[1].N = 1, 1 },
		"nonsense": func(q *quota.Quota) { q.Windows[0], q.Windows[1] = quota.Window{N: -1}, quota.Window{} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &quota.Quota{
					Windows: []quota.Window{{N: 4, Per: time.Minute}, {N: 7, Per: time.Hour}},
					Weight:  func(*http.Request) int { return 2 },
				}
				req, err := http.NewRequest("GET", "http://api.example/", nil)
				if err != nil {
					t.Fatal(err)
				}
				call := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					pass, err := q.Enter(ctx, steadyhttp.Attempt{Request: req})
					if err == nil {
						pass.Leave(answered())
					}
					return err
				}
				if err := call(); err != nil {
					t.Fatal(err)
				}
				change(q)
				if err := call(); err != nil {
					t.Fatalf("there is room for it: %v", err)
				}
				if err := call(); !errors.Is(err, quota.ErrDeadline) {
					t.Errorf("got %v, want a refusal: the minute is full", err)
				}
				w := q.State().Windows
				if len(w) != 2 || w[0].Window != (quota.Window{N: 4, Per: time.Minute}) || w[1].N != 7 ||
					w[0].Used != 4 {
					t.Errorf("%+v", w)
				}
				if got := q.Estimate(2); got < time.Minute || got > 62*time.Second {
					t.Errorf("two more take %v", got)
				}
				q.Snapshot()
			})
		})
	}
}

// A duration whose unit was forgotten is told, with the field and the fix.
func TestTransitWithoutAUnit(t *testing.T) {
	for d, bad := range map[time.Duration]bool{
		1: true, 2: true, 30: true, 5000: true, time.Millisecond - 1: true, 0: false, time.Millisecond: false, time.Minute: false,
	} {
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Second}}, MaxTransit: d}
		_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
		if bad != (err != nil) || bad && (!isRefusal(err) ||
			!strings.Contains(err.Error(), "Quota.MaxTransit is "+d.String()+"; use")) {
			t.Errorf("%v: %v", d, err)
		}
	}
}

// The wait of who finds the line full is never told as none: neither in a pause, nor while its 429 is
// read, nor while the probe is under way, when a queue of jobs would come back at once, over and over.
func TestMaxQueueTellsTheWaitOfAPause(t *testing.T) {
	type observer interface{ Answered(*http.Response) }
	for name, c := range map[string]struct {
		begin      func(t *testing.T, q *quota.Quota)
		from, upTo time.Duration
		paused     bool
	}{
		"asked for": {func(t *testing.T, q *quota.Quota) { enter(t, q)(throttled(20*time.Second, "")) }, 20 * time.Second, 20 * time.Second, true},
		"no time":   {func(t *testing.T, q *quota.Quota) { enter(t, q)(throttled(0, "")) }, time.Second, 2 * time.Second, true},
		"its 429 is read": {func(t *testing.T, q *quota.Quota) {
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			pass.(observer).Answered(&http.Response{StatusCode: 429})
		}, time.Millisecond, 5 * time.Second, true},
		"the probe is under way": {func(t *testing.T, q *quota.Quota) {
			enter(t, q)(throttled(time.Second, ""))
			time.Sleep(2 * time.Second)
			enter(t, q)
		}, time.Millisecond, 5 * time.Second, false},
	} {
		for _, most := range []int{-1, 1} {
			t.Run(fmt.Sprint(name, most), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					q := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}, MaxQueue: most}
					c.begin(t, q)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if most > 0 {
						go q.Enter(ctx, steadyhttp.Attempt{})
						synctest.Wait()
					}
					_, err := q.Enter(ctx, steadyhttp.Attempt{})
					refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
					if !ok || refusal.Wait < c.from || refusal.Wait > c.upTo {
						t.Errorf("got %+v, want a wait of %v to %v", refusal, c.from, c.upTo)
					}
					if paused := q.State().PausedFor; (paused > 0) != c.paused {
						t.Errorf("paused for %v", paused)
					}
				})
			})
		}
	}
}

// A limit that a 429 has made others share is ours again within a day, or ten windows if that is
// longer: one 429 more than its calls explain may have been a mistake.
func TestShareComesBack(t *testing.T) {
	const day = 24 * time.Hour
	for _, w := range []quota.Window{
		{N: 1, Per: day}, {N: 2, Per: time.Hour}, {N: 5, Per: day}, {N: 10, Per: time.Hour}, {N: 3, Per: 10 * time.Minute}, {N: 50, Per: 30 * day},
		{N: 1, Per: time.Minute}, {N: 30, Per: time.Minute}, {N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}, {N: 1_000_000, Per: day},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{w}}
			for range 3 {
				pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
				if err != nil {
					t.Fatal(err)
				}
				pass.Leave(throttled(0, ""))
			}
			most := max(day, 10*w.Per)
			time.Sleep(most)
			if s := q.State().Windows[0]; s.Shared || s.Limit != w.N {
				t.Errorf("%v: after %v it is %+v", w, most, s)
			}
		})
	}
}

// Calls that hold all places unsent, and wait for one that waits for a place, stand still. Whoever gives
// up is told what for.
func TestWhoWaitsForUnsentCallsIsTold(t *testing.T) {
	answer := baseFunc(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})
	for name, build := range map[string]func(q *quota.Quota) *steadyhttp.Transport{
		"twice in Gates": func(q *quota.Quota) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: answer, Gates: []steadyhttp.Gate{q, q}}
		},
		"in a Transport below": func(q *quota.Quota) *steadyhttp.Transport {
			below := &steadyhttp.Transport{Base: answer, Gates: []steadyhttp.Gate{q}}
			return &steadyhttp.Transport{Base: below, Gates: []steadyhttp.Gate{q}}
		},
		"behind PerKey too": func(q *quota.Quota) *steadyhttp.Transport {
			keyed := &steadyhttp.PerKey{New: func(string) steadyhttp.Gate { return q }}
			return &steadyhttp.Transport{Base: answer, Gates: []steadyhttp.Gate{keyed, q}}
		},
		"Prepare calls through it": func(q *quota.Quota) *steadyhttp.Transport {
			t := &steadyhttp.Transport{Base: answer, Gates: []steadyhttp.Gate{q}}
			t.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error {
				if req.URL.Path == "/token" {
					return nil
				}
				token, err := http.NewRequestWithContext(req.Context(), "GET", "http://api.example/token", nil)
				if err != nil {
					return err
				}
				_, err = t.RoundTrip(token)
				return err
			}
			return t
		},
	} {
		for _, callers := range []int{1, 3} {
			t.Run(fmt.Sprint(name, callers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rt := build(&quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Second}}})
					errs := make(chan error, callers)
					for i := range callers { // the first to come is the last to give up
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute-time.Duration(i)*time.Second)
						defer cancel()
						go func() { errs <- get(ctx, t, rt, "http://api.example/") }()
						synctest.Wait()
					}
					for range callers {
						if err := <-errs; err == nil || !strings.Contains(err.Error(), "not sent hold") ||
							!errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("got %v", err)
						}
					}
				})
			})
		}
	}
	// Who waits for a window that is full in the usual way is told of nothing else.
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}
		rt := &steadyhttp.Transport{Base: answer, Gates: []steadyhttp.Gate{q}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(30*time.Second, cancel)
		for i := range 3 {
			if err := get(ctx, t, rt, "http://api.example/"); (i == 2) != (err != nil) ||
				err != nil && strings.Contains(err.Error(), "quota") {
				t.Errorf("call %d: %v", i, err)
			}
		}
	})
}

// A deadline that is as good as none, as the year 9999 is, cuts no wait short.
func TestFarDeadlineIsNone(t *testing.T) {
	full := func(t *testing.T, q *quota.Quota) { fill(t, q, 2) }
	for name, begin := range map[string]func(t *testing.T, q *quota.Quota){
		"full":    full,
		"maxWait": func(t *testing.T, q *quota.Quota) { q.MaxWait = 200 * 365 * 24 * time.Hour; full(t, q) },
		"paused":  func(t *testing.T, q *quota.Quota) { enter(t, q)(throttled(time.Minute, "")) },
		"probing": func(t *testing.T, q *quota.Quota) {
			enter(t, q)(throttled(time.Second, ""))
			time.Sleep(2 * time.Second)
			enter(t, q)
		},
		"lowered": func(t *testing.T, q *quota.Quota) {
			enter(t, q)(throttled(time.Second, "Maximum allowed 1 per 00:01:00"))
		},
	} {
		for _, deadline := range []time.Time{
			time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Unix(1<<40, 0), time.Unix(1<<62, 0), time.Date(2290, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(2140, 1, 1, 0, 0, 0, 0, time.UTC),
		} {
			for _, used := range []time.Duration{0, 10 * time.Second, 1000 * time.Hour} {
				t.Run(fmt.Sprint(name, deadline.Year(), used), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}, PauseOnly: true}
						q.State() // begins it
						time.Sleep(used)
						begin(t, q)
						ctx, cancel := context.WithDeadline(t.Context(), deadline)
						defer cancel()
						began := time.Now()
						pass, err := q.Enter(ctx, steadyhttp.Attempt{})
						if err != nil {
							t.Fatal(err)
						}
						pass.Leave(answered())
						if took := time.Since(began); took == 0 || took > 63*time.Second {
							t.Errorf("it took %v", took)
						}
					})
				})
			}
		}
	}
}
