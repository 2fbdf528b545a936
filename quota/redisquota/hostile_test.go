package redisquota

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// An error that Redis answers is told through Shared, with what to do about it, and what it says is
// bounded and on one line.
func TestErrorsOfRedisNameTheFix(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr(), MaxRetries: -1})
	defer client.Close()
	s := newScripted(client, "errors")
	long := strings.Repeat("x", 10_000)
	for said, fix := range map[string]string{
		"NOAUTH Authentication required.":                                                     "Username and Password",
		"WRONGPASS invalid username-password pair or user is disabled.":                       "Username and Password",
		"NOPERM this user has no permissions to run the 'evalsha' command":                    "docs/sharedquota.md",
		"NOPERM No permissions to access a key":                                               "docs/sharedquota.md",
		"ERR The user executing the script can't run this command or subcommand script: f_0":  "docs/sharedquota.md",
		"READONLY You can't write against a read only replica.":                               "master",
		"ERR Error running script (call to f_0): @user_script:9: READONLY You can't write":    "master",
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":    "master",
		"NOREPLICAS Not enough good replicas to write.":                                       "replicas",
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to":     "disk",
		"MOVED 3999 127.0.0.1:6381":                                                           "NewClusterClient",
		"ASK 3999 127.0.0.1:6381":                                                             "NewClusterClient",
		"CROSSSLOT Keys in request don't hash to the same slot":                               "NewClusterClient",
		"CLUSTERDOWN Hash slot not served":                                                    "slot",
		"WRONGTYPE Operation against a key holding the wrong kind of value":                   "another Key",
		"OOM command not allowed when used memory > 'maxmemory'.":                             "maxmemory",
		"LOADING Redis is loading the dataset in memory":                                      "asked again",
		"BUSY Redis is busy running a script.":                                                "asked again",
		"ERR max number of clients reached":                                                   "maxclients",
		"ERR unknown command 'EVALSHA', with args beginning with:":                            "6.2",
		"ERR Error running script: @user_script: 1: Unknown Redis command called from script": "6.2",
		"ERR Error running script (call to f_0): @user_script:140: ERR syntax error":          "6.2",
		"SOMETHING new " + long:                                                               "tried again",
	} {
		mini.SetError(said)
		_, err := s.exchange(t.Context(), &request{proc: "p", seq: 1}, &tuning{}, 0)
		var told redis.Error
		if err == nil || !strings.Contains(err.Error(), fix) || !errors.As(err, &told) {
			t.Errorf("%.60q: got %v, want an error that names %q", said, err, fix)
		} else if text := err.Error(); len(text) > 600 || strings.ContainsAny(text, "\r\n") {
			t.Errorf("%.60q: got %d bytes", said, len(text))
		}
	}
	// Of the way there, the error says enough.
	mini.Close()
	if _, err := s.exchange(t.Context(), &request{proc: "p", seq: 1}, &tuning{}, 0); err == nil || errors.As(err, new(*refusedError)) {
		t.Errorf("got %v, want the connection's own error", err)
	}
}

// liar changes the answers.
type liar struct {
	backend
	lie    func(r *request, a *reply)
	honest atomic.Bool
}

func (l *liar) exchange(ctx context.Context, r *request, t *tuning, now time.Duration) (reply, error) {
	a, err := l.backend.exchange(ctx, r, t, now)
	if err == nil && !l.honest.Load() {
		l.lie(r, &a)
	}
	return a, err
}

// Who was granted what he did not ask for talks to something else than the script: nobody goes, and it
// is told.
func TestNobodyTakesWhatHeDidNotAskFor(t *testing.T) {
	for name, lie := range map[string]func(r *request, a *reply){
		"some more":       func(r *request, a *reply) { a.granted[0] = max(0, r.want[0]) + 3 },
		"of high":         func(r *request, a *reply) { a.granted[1] = 5 },
		"very many":       func(_ *request, a *reply) { a.granted[0] = maxGrant },
		"fewer windows":   func(_ *request, a *reply) { a.used = nil },
		"another windows": func(_ *request, a *reply) { a.used = append(a.used, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				q, l := process(func(q *Quota) {
					q.Windows, q.WhenAway = []quota.Window{{N: 50, Per: time.Minute}}, Closed
				})
				lying := &liar{backend: l, lie: lie}
				q.engine.backend = lying
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				for range 3 {
					if _, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
						t.Fatal("somebody went")
					}
				}
				if s := q.Shared(); !errors.Is(s.Err, errForeign) || !s.Away {
					t.Errorf("%+v", s)
				}
				lying.honest.Store(true)
				enterAndLeave(t, q)
			})
		})
	}
}

// Processes that take one Key to be different quotas are told of it, all of them, until a minute after
// the last of the others is gone. They go on: a roll-out of other limits is no outage.
func TestOtherLimitsUnderOneKeyAreTold(t *testing.T) {
	usual := func(q *Quota) { q.Windows = []quota.Window{{N: 50, Per: 10 * time.Second}, {N: 90, Per: time.Minute}} }
	for name, edit := range map[string]func(q *Quota){
		"the same":       func(*Quota) {},
		"their own":      func(q *Quota) { q.MaxQueue, q.MaxWait, q.WhenAway, q.PauseOnly = 5, time.Minute, Open, true },
		"another N":      func(q *Quota) { q.Windows[1].N = 80 },
		"another Per":    func(q *Quota) { q.Windows[0].Per = 9 * time.Second },
		"fewer windows":  func(q *Quota) { q.Windows = q.Windows[:1] },
		"another order":  func(q *Quota) { q.Windows[0], q.Windows[1] = q.Windows[1], q.Windows[0] },
		"a Reserve":      func(q *Quota) { q.Reserve = 0.1 },
		"longer transit": func(q *Quota) { q.MaxTransit = 10 * time.Second },
		"many windows": func(q *Quota) {
			for i := range 30 {
				q.Windows = append(q.Windows, quota.Window{N: 100 + i, Per: time.Minute})
			}
		},
	} {
		differs := name != "the same" && name != "their own"
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				one, _ := process(usual)
				other, _ := process(func(q *Quota) { usual(q); edit(q) })
				for range 5 {
					enterAndLeave(t, one)
					enterAndLeave(t, other)
					time.Sleep(2 * time.Second)
				}
				for i, q := range []*Quota{one, other} {
					err := q.Shared().Err
					if !differs && err != nil {
						t.Errorf("process %d: %v", i, err)
					}
					if differs && (err == nil || !strings.Contains(err.Error(), "same Windows, Reserve and MaxTransit") || len(err.Error()) > 700) {
						t.Errorf("process %d: got %v", i, err)
					}
				}
				if err := other.Close(); err != nil {
					t.Error(err)
				}
				for range 50 {
					time.Sleep(2 * time.Second)
					enterAndLeave(t, one)
				}
				if err := one.Shared().Err; err != nil {
					t.Errorf("the other has long been gone: %v", err)
				}
			})
		})
	}
}
