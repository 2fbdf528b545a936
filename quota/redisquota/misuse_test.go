package redisquota

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Bounds that would let nobody go, since each call waits for Redis, are refused with the field and the
// fix; those that let somebody go are not.
func TestRefusesBoundsThatNobodyPasses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(q *Quota)
		says string // "": it is fine
	}{
		"MaxQueue -1":            {func(q *Quota) { q.MaxQueue = -1 }, "Quota.MaxQueue is -1"},
		"MaxQueue very negative": {func(q *Quota) { q.MaxQueue = -1 << 40 }, "use MaxWait"},
		"MaxQueue 1":             {func(q *Quota) { q.MaxQueue = 1 }, ""},
		"MaxWait 30":             {func(q *Quota) { q.MaxWait = 30 }, "Quota.MaxWait is 30ns"},
		"MaxWait 1":              {func(q *Quota) { q.MaxWait = 1 }, "use a duration with its unit"},
		"MaxWait in us":          {func(q *Quota) { q.MaxWait = 999 * time.Microsecond }, "Quota.MaxWait is 999µs"},
		"MaxWait 1 s":            {func(q *Quota) { q.MaxWait = time.Second }, ""},
		"MaxTransit 5":           {func(q *Quota) { q.MaxTransit = 5 }, "Quota.MaxTransit is 5ns"},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				q, _ := process(func(q *Quota) { q.Windows = []quota.Window{{N: 5, Per: time.Minute}}; c.edit(q) })
				for range 2 {
					_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
					_, refused := errors.AsType[*steadyhttp.Refusal](err)
					if (c.says != "") != refused || refused && !strings.Contains(err.Error(), c.says) {
						t.Errorf("got %v, want %q", err, c.says)
					}
				}
			})
		})
	}
}

// Who is refused for the length of his wait, or of the line, while Redis is away is told that it is
// Redis; a refusal for another reason is not blamed on it, nor any once it is back.
func TestBoundsTellOfRedis(t *testing.T) {
	heavy := weighing(50)
	for name, lost := range map[string]bool{"since just now": false, "for long": true} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				q, l := process(func(q *Quota) {
					q.Windows, q.WhenAway = []quota.Window{{N: 5, Per: time.Minute}}, Closed
					q.MaxWait, q.MaxQueue = 10*time.Second, 2
				})
				s := &stubborn{backend: l}
				q.engine.backend = s
				enterAndLeave(t, q)
				s.hang(time.Minute, false)
				if lost {
					time.Sleep(20 * time.Second)
				}
				var group sync.WaitGroup
				for range 2 {
					group.Go(func() {
						began := time.Now()
						_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
						refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
						if !ok || refusal.Wait < 10*time.Second ||
							!strings.Contains(err.Error(), "Quota.MaxWait is 10s; redisquota: no answer from Redis") {
							t.Errorf("got %v, want a refusal that tells of Redis", err)
						}
						if took := time.Since(began); took > 11*time.Second {
							t.Errorf("refused after %v", took)
						}
					})
				}
				time.Sleep(5 * time.Second)
				if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); err == nil ||
					!strings.Contains(err.Error(), "MaxQueue is 2; redisquota: no answer from Redis") {
					t.Errorf("got %v, want a refusal that tells of Redis", err)
				}
				if _, err := q.Enter(t.Context(), heavy); err == nil || strings.Contains(err.Error(), "Redis") {
					t.Errorf("got %v, want that the call is too heavy", err)
				}
				group.Wait()
				time.Sleep(2 * time.Minute)
				for range 5 {
					enterAndLeave(t, q)
				}
				if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); err == nil ||
					strings.Contains(err.Error(), "Redis") {
					t.Errorf("got %v, want that the minute is full", err)
				}
			})
		})
	}
}

// A copy of a Quota that is in use is refused, and Windows that are changed while it is change nothing:
// above all, the goroutine that talks to Redis does not fall over.
func TestCopiedAndChangedInUse(t *testing.T) {
	if RaceEnabled {
		t.Skip("copying and changing it in use are races")
	}
	for name, change := range map[string]func(q *Quota){
		"none":     func(q *Quota) { q.Windows = nil },
		"nonsense": func(q *Quota) { q.Windows[0] = quota.Window{N: -1} },
		"more":     func(q *Quota) { q.Windows = append(q.Windows, quota.Window{N: 1, Per: time.Hour}) },
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, w *world, process func(func(*Quota)) (*Quota, *link)) {
				q, _ := process(func(q *Quota) { q.Windows = []quota.Window{{N: 5, Per: time.Minute}} })
				enterAndLeave(t, q)
				other := duplicate(q)
				if _, err := other.Enter(t.Context(), steadyhttp.Attempt{}); err == nil ||
					!strings.Contains(err.Error(), "*Quota") {
					t.Errorf("a copy: got %v, want a refusal that says what to do", err)
				}
				change(q)
				for range 4 {
					enterAndLeave(t, q)
					time.Sleep(time.Second)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := q.Enter(ctx, steadyhttp.Attempt{}); !errors.Is(err, quota.ErrDeadline) {
					t.Errorf("got %v, want a refusal: the minute is full", err)
				}
				if s := q.State().Windows; len(s) != 1 || s[0].N != 5 || s[0].Used != 5 {
					t.Errorf("%+v", s)
				}
				time.Sleep(5 * time.Minute)
				enterAndLeave(t, q)
			})
		})
	}
}

// What a Client can't do for reasons of its own is told with the fix, to those who wait too.
func TestErrorsOfTheClientNameTheFix(t *testing.T) {
	mini := miniredis.RunT(t)
	busy := redis.NewClient(&redis.Options{Addr: mini.Addr(), PoolSize: 1, PoolTimeout: 10 * time.Millisecond, MaxRetries: -1})
	defer busy.Close()
	held := busy.Conn()
	defer held.Close()
	if err := held.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	closed := map[string]redis.UniversalClient{
		"Client":         redis.NewClient(&redis.Options{Addr: mini.Addr()}),
		"ClusterClient":  redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{mini.Addr()}}),
		"FailoverClient": redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{mini.Addr()}}),
	}
	for _, c := range closed {
		c.Close()
	}
	for name, c := range map[string]struct {
		client redis.UniversalClient
		fix    string
		is     error
	}{
		"closed Client":         {closed["Client"], "close the Client after the Quota", redis.ErrClosed},
		"closed ClusterClient":  {closed["ClusterClient"], "close the Client after the Quota", redis.ErrClosed},
		"closed FailoverClient": {closed["FailoverClient"], "close the Client after the Quota", redis.ErrClosed},
		"pool of another's use": {busy, "raise the Client's PoolSize", redis.ErrPoolTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			q := &Quota{Client: c.client, Key: "own", Windows: []quota.Window{{N: 5, Per: time.Minute}}, WhenAway: Closed}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := q.Enter(ctx, steadyhttp.Attempt{})
			if err == nil || !strings.Contains(err.Error(), c.fix) ||
				!errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want an error that says %q", err, c.fix)
			}
			if err := q.Shared().Err; !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.fix) {
				t.Errorf("Shared tells %v", err)
			}
			began := time.Now()
			if err := q.Close(); err == nil || !strings.Contains(err.Error(), c.fix) ||
				time.Since(began) > 5*time.Second {
				t.Errorf("Close: %v after %v", err, time.Since(began))
			}
		})
	}
}

// duplicate copies what vet says must not be copied, as a program does that nobody vets.
func duplicate[T any](v *T) *T {
	other := *v
	return &other
}
