package redisquota_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
)

// inBubble runs a test in virtual time, beside a miniredis that lives by it.
func inBubble(t *testing.T, test func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient)) {
	t.Helper()
	mini := miniredis.RunT(t)
	synctest.Test(t, func(t *testing.T) {
		var clients []redis.UniversalClient
		test(t, mini, func() redis.UniversalClient {
			// It is outside of the bubble: while a command is under way, time stands still.
			client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
			client.AddHook(&clockHook{mini: mini})
			clients = append(clients, client)
			return client
		})
		for _, client := range clients {
			client.Close()
		}
	})
}

// clockHook sets miniredis' clock before each command, and has each take a millisecond.
type clockHook struct {
	mini *miniredis.Miniredis
	mu   sync.Mutex
}

func (h *clockHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *clockHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h *clockHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		time.Sleep(500 * time.Microsecond)
		h.mu.Lock()
		h.mini.SetTime(time.Now())
		h.mu.Unlock()
		err := next(ctx, cmd)
		time.Sleep(500 * time.Microsecond)
		return err
	}
}

func answered(status int, text string, wait time.Duration) steadyhttp.Attempt {
	a := steadyhttp.Attempt{
		Sent: time.Now(), Answered: time.Now(), Sends: 1, Response: &http.Response{StatusCode: status},
		Verdict: steadyhttp.Verdict{Class: steadyhttp.Success},
	}
	if status == http.StatusTooManyRequests {
		a.Verdict = steadyhttp.Verdict{Class: steadyhttp.Throttled, Message: text, RetryAfter: wait}
	}
	return a
}

// pass makes a call that is answered at once.
func pass(ctx context.Context, t *testing.T, gate steadyhttp.Gate) time.Time {
	t.Helper()
	p, err := gate.Enter(ctx, steadyhttp.Attempt{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	p.Leave(answered(200, "", 0))
	return at
}

func shared(client redis.UniversalClient, windows ...quota.Window) *redisquota.Quota {
	return &redisquota.Quota{Client: client, Key: "test", Windows: windows, Start: redisquota.Empty}
}

func closeAll(t *testing.T, quotas ...*redisquota.Quota) {
	t.Helper()
	for _, q := range quotas {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A call that can't go before its deadline, or not within MaxWait, is refused as soon as Redis has said
// so, with the wait that it would have needed. Nobody has sent anything but the other process.
func TestRefusesWhatCannotGoInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		one, other := shared(newClient(), quota.Window{N: 1, Per: 10 * time.Second}), shared(newClient(), quota.Window{N: 1, Per: 10 * time.Second})
		defer closeAll(t, one, other)
		pass(t.Context(), t, one)
		time.Sleep(3 * time.Second) // a heartbeat tells of the end
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		_, err := other.Enter(ctx, steadyhttp.Attempt{})
		var refusal *steadyhttp.Refusal
		if !errors.As(err, &refusal) || !errors.Is(err, quota.ErrDeadline) {
			t.Fatalf("got %v, want a Refusal", err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("refused after %v", took)
		}
		if want := 7 * time.Second; refusal.Wait < want-50*time.Millisecond || refusal.Wait > want+50*time.Millisecond {
			t.Errorf("the wait is %v, want %v", refusal.Wait, want)
		}
		long := shared(newClient(), quota.Window{N: 1, Per: 10 * time.Second})
		long.MaxWait = 2 * time.Second
		defer closeAll(t, long)
		if _, err := long.Enter(t.Context(), steadyhttp.Attempt{}); !errors.As(err, &refusal) || refusal.Wait < 6*time.Second {
			t.Errorf("beyond MaxWait: got %v", err)
		}
	})
}

// A place whose call provably never left is another process' at once.
func TestRefundIsForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		w := quota.Window{N: 1, Per: time.Minute}
		one, other := shared(newClient(), w), shared(newClient(), w)
		defer closeAll(t, one, other)
		p, err := one.Enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		p.Leave(steadyhttp.Attempt{Err: errors.New("no connection")})
		time.Sleep(time.Second)
		began := time.Now()
		pass(t.Context(), t, other)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// A call of high priority goes before the normal ones of all processes.
func TestHighPriorityGoesFirstOfAllProcesses(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		w := quota.Window{N: 1, Per: time.Second}
		var quotas []*redisquota.Quota
		for range 3 {
			quotas = append(quotas, shared(newClient(), w))
		}
		var group sync.WaitGroup
		var before atomic.Int64
		pass(t.Context(), t, quotas[0])
		for _, q := range quotas[:2] {
			for range 5 {
				group.Go(func() {
					pass(t.Context(), t, q)
					before.Add(1)
				})
			}
		}
		time.Sleep(100 * time.Millisecond)
		pass(quota.WithPriority(t.Context(), quota.High), t, quotas[2])
		// Who stands in line is told when to come, and so one normal call may be before it.
		if n := before.Load(); n > 1 {
			t.Errorf("%d normal calls went before it", n)
		}
		group.Wait()
		closeAll(t, quotas...)
	})
}

// A 429 stops all processes until its time. Then each begins with one call.
func TestPauseIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		w := quota.Window{N: 100, Per: time.Minute}
		one, other := shared(newClient(), w), shared(newClient(), w)
		defer closeAll(t, one, other)
		pass(t.Context(), t, one)
		pass(t.Context(), t, other)
		p, err := one.Enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p.Leave(answered(429, "slow down", 5*time.Second))
		time.Sleep(100 * time.Millisecond)
		if took := pass(t.Context(), t, other).Sub(began); took < 5*time.Second || took > 5100*time.Millisecond {
			t.Errorf("the other process went after %v, want 5 s", took)
		}
	})
}

// A limit that a 429 names is all processes' limit.
func TestNamedLimitIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		w := quota.Window{N: 100, Per: 10 * time.Second}
		one, other := shared(newClient(), w), shared(newClient(), w)
		defer closeAll(t, one, other)
		pass(t.Context(), t, one)
		pass(t.Context(), t, other)
		p, err := one.Enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		p.Leave(answered(429, "Maximum allowed 4 per 00:00:10.", time.Second))
		time.Sleep(3 * time.Second)
		if got := other.State().Windows[0].Limit; got > 4 {
			t.Errorf("the other process' limit is %d, want 4 at most", got)
		}
	})
}

// Once the windows are empty, the goroutine is gone and Redis is told; an hour after the last call no
// key is left.
func TestNothingIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		q := shared(newClient(), quota.Window{N: 10, Per: time.Minute})
		pass(t.Context(), t, q)
		if !q.Running() {
			t.Error("nobody keeps up with Redis")
		}
		time.Sleep(65 * time.Second)
		if q.Running() {
			t.Error("the goroutine is still there, and no window counts anything")
		}
		if n, _ := mini.ZMembers(q.Keys()[3]); len(n) != 0 {
			t.Errorf("Redis still counts %v among those who share the quota", n)
		}
		exchanges := q.Shared().Exchanges
		time.Sleep(time.Hour)
		if q.Shared().Exchanges != exchanges {
			t.Error("an idle Quota talks to Redis")
		}
		mini.FastForward(time.Hour)
		if keys := mini.Keys(); len(keys) != 0 {
			t.Errorf("%q are left", keys)
		}
		pass(t.Context(), t, q) // and it goes on
		closeAll(t, q)
		if q.Running() {
			t.Error("Close leaves the goroutine")
		}
	})
}

// Ten thousand callers in one process are one place in Redis' line, and all of them can give up.
func TestManyWaitersAreOneInLine(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		q := shared(newClient(), quota.Window{N: 1, Per: time.Minute})
		pass(t.Context(), t, q)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		var failed atomic.Int64
		for range 10_000 {
			group.Go(func() {
				if _, err := q.Enter(ctx, steadyhttp.Attempt{}); errors.Is(err, context.Canceled) {
					failed.Add(1)
				}
			})
		}
		time.Sleep(5 * time.Second)
		if line, _ := mini.ZMembers(q.Keys()[2]); len(line) != 1 {
			t.Errorf("%d stand in line, want 1", len(line))
		}
		before := q.Shared().Exchanges
		cancel()
		group.Wait()
		if failed.Load() != 10_000 {
			t.Errorf("%d gave up, want all", failed.Load())
		}
		if n := q.Shared().Exchanges - before; n > 1 {
			t.Errorf("giving up took %d exchanges", n)
		}
		if q.State().Waiting != 0 {
			t.Errorf("%d still wait", q.State().Waiting)
		}
		closeAll(t, q)
	})
}

// Redis' state is lost: all processes tell what they have sent before anybody goes.
func TestFlushIsMet(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		w := quota.Window{N: 6, Per: 20 * time.Second}
		one, other := shared(newClient(), w), shared(newClient(), w)
		defer closeAll(t, one, other)
		began := time.Now()
		for range 3 {
			pass(t.Context(), t, one)
			pass(t.Context(), t, other)
		}
		time.Sleep(2 * time.Second)
		mini.FlushAll()
		if took := pass(t.Context(), t, one).Sub(began); took < w.Per {
			t.Errorf("the seventh call went after %v, want %v", took, w.Per)
		}
		if one.Shared().Losses != 1 {
			t.Errorf("%d losses were seen, want 1", one.Shared().Losses)
		}
	})
}

// A call that was let go and not sent keeps its place for as long as that takes, far beyond the lease
// of its grant.
func TestUnsentCallKeepsItsPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		w := quota.Window{N: 1, Per: time.Second}
		one, other := shared(newClient(), w), shared(newClient(), w)
		defer closeAll(t, one, other)
		pass(t.Context(), t, other)
		tr := &steadyhttp.Transport{
			Gates: []steadyhttp.Gate{one},
			Prepare: func(*http.Request, *steadyhttp.Attempt) error {
				time.Sleep(2 * time.Minute) // for a token
				return nil
			},
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
			}),
		}
		began := time.Now()
		done := make(chan time.Time, 1)
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.example/", nil)
			if _, err := tr.RoundTrip(req); err != nil {
				t.Error(err)
			}
			done <- time.Now()
		}()
		time.Sleep(3 * time.Second)
		went := pass(t.Context(), t, other)
		select {
		case sent := <-done:
			if went.Sub(sent) < w.Per {
				t.Errorf("the other process went %v after it, want %v", went.Sub(sent), w.Per)
			}
		default:
			t.Errorf("the other process went after %v, and the first call has not been sent", went.Sub(began))
		}
	})
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Close refuses those who wait, of both priorities: nobody waits for ever.
func TestCloseRefusesWhoWaits(t *testing.T) {
	for _, away := range []bool{false, true} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient) {
			q := shared(newClient(), quota.Window{N: 1, Per: time.Hour})
			pass(t.Context(), t, q)
			results := make(chan error)
			for _, ctx := range []context.Context{t.Context(), quota.WithPriority(t.Context(), quota.High)} {
				go func() {
					_, err := q.Enter(ctx, steadyhttp.Attempt{})
					results <- err
				}()
			}
			time.Sleep(5 * time.Second)
			if away {
				mini.SetError("LOADING")
				time.Sleep(5 * time.Second)
			}
			if err := q.Close(); (err != nil) != away {
				t.Errorf("Close: %v", err)
			}
			for range 2 {
				var refusal *steadyhttp.Refusal
				if err := <-results; !errors.As(err, &refusal) {
					t.Errorf("got %v, want a Refusal", err)
				}
			}
		})
	}
}

// Nobody enters a Quota that was closed.
func TestClosedQuotaRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		q := shared(newClient(), quota.Window{N: 1, Per: time.Second})
		pass(t.Context(), t, q)
		closeAll(t, q, q)
		var refusal *steadyhttp.Refusal
		if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); !errors.As(err, &refusal) {
			t.Errorf("got %v, want a Refusal", err)
		}
	})
}

// A process dies, and then Redis forgets, once or over and over: what the others have heard of counts,
// and nobody takes for known what he hears while all are still telling.
func TestDeadProcessIsRemembered(t *testing.T) {
	for name, flushes := range map[string]int{"one flush": 1, "three flushes": 3} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient) {
				w := quota.Window{N: 6, Per: 30 * time.Second}
				mortal := newClient()
				living, dead := shared(newClient(), w), shared(mortal, w)
				defer closeAll(t, living)
				began := time.Now()
				pass(t.Context(), t, living)
				for range 4 {
					pass(t.Context(), t, dead)
				}
				time.Sleep(3 * time.Second)
				mortal.Close()
				for range flushes {
					mini.FlushAll()
					time.Sleep(1500 * time.Millisecond)
				}
				if took := pass(t.Context(), t, living).Sub(began); took > 15*time.Second {
					t.Errorf("the sixth call went after %v, and there was a place", took)
				}
				if took := pass(t.Context(), t, living).Sub(began); took < w.Per {
					t.Errorf("the seventh call went after %v, want %v", took, w.Per)
				}
				time.Sleep(2 * w.Per)
				dead.Close()
			})
		})
	}
}

// cutHook is a connection that can be cut.
type cutHook struct{ cut atomic.Bool }

func (h *cutHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *cutHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h *cutHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if h.cut.Load() {
			return errors.New("no route to host")
		}
		return next(ctx, cmd)
	}
}

// While Redis is away, calls under way count against a process' part; and once it is back, nobody goes
// before those who have gone alone have told of it.
func TestWhoWentAloneTellsFirst(t *testing.T) {
	for name, policy := range map[string]redisquota.Away{"Known": redisquota.Known, "Share": redisquota.Share} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, newClient func() redis.UniversalClient) {
				w := quota.Window{N: 12, Per: 30 * time.Second}
				var quotas []*redisquota.Quota
				var cuts []*cutHook
				began := time.Now()
				for range 2 {
					client, cut := newClient(), new(cutHook)
					client.AddHook(cut)
					q := shared(client, w)
					q.WhenAway = policy
					pass(t.Context(), t, q)
					quotas, cuts = append(quotas, q), append(cuts, cut)
				}
				defer closeAll(t, quotas...)
				time.Sleep(2 * time.Second) // both have heard of both
				for _, cut := range cuts {
					cut.cut.Store(true)
				}
				var held []steadyhttp.Pass
				for _, q := range quotas {
					for range 5 {
						p, err := q.Enter(t.Context(), steadyhttp.Attempt{})
						if err != nil {
							t.Fatal(err)
						}
						held = append(held, p)
					}
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					if _, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
						t.Error("a process took more than its part")
					}
					cancel()
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Fatalf("it took %v", took)
				}
				for _, p := range held {
					p.Leave(answered(200, "", 0))
				}
				cuts[0].cut.Store(false)
				go func() {
					time.Sleep(time.Second)
					cuts[1].cut.Store(false)
				}()
				if took := pass(t.Context(), t, quotas[0]).Sub(began); took < w.Per {
					t.Errorf("the thirteenth call went after %v, want %v", took, w.Per)
				}
			})
		})
	}
}

// Every field that makes no sense is refused by name, with the fix.
func TestRefusesFieldsThatMakeNoSense(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	ok := []quota.Window{{N: 1, Per: time.Second}}
	for text, q := range map[string]*redisquota.Quota{
		"Quota.Client is nil":                          {Key: "k", Windows: ok},
		"Client is nil; set it to a *redis.Client":     {Client: (*redis.Client)(nil), Key: "k", Windows: ok},
		"is nil; set it to a *redis.Client":            {Client: (*redis.ClusterClient)(nil), Key: "k", Windows: ok},
		"nil; set it to a *redis.Client":               {Client: (*redis.Ring)(nil), Key: "k", Windows: ok},
		"use a duration with its unit":                 {Client: client, Key: "k", Windows: []quota.Window{{N: 1, Per: 60}}},
		"Quota.Key is empty":                           {Client: client, Windows: ok},
		"Quota.Windows is empty":                       {Client: client, Key: "k"},
		"Quota.Windows[0].N is 100001; use at most":    {Client: client, Key: "k", Windows: []quota.Window{{N: 100_001, Per: time.Hour}}},
		"118 MB for a million":                         {Client: client, Key: "k", Windows: []quota.Window{{N: 1_000_000, Per: time.Hour}}},
		"Quota.Start is 9":                             {Client: client, Key: "k", Windows: ok, Start: 9},
		"Quota.WhenAway is 4":                          {Client: client, Key: "k", Windows: ok, WhenAway: 4},
		"Quota.Reserve is 1; use a share from 0 up to": {Client: client, Key: "k", Windows: ok, Reserve: 1},
		"Quota.MaxTransit is 2h":                       {Client: client, Key: "k", Windows: ok, MaxTransit: 2 * time.Hour},
		"Quota.MaxWait is -1s":                         {Client: client, Key: "k", Windows: ok, MaxWait: -time.Second},
	} {
		_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
		var refusal *steadyhttp.Refusal
		if !errors.As(err, &refusal) || !contains(err.Error(), text) {
			t.Errorf("got %v, want a Refusal with %q", err, text)
		}
		q.State()
		q.Shared()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Nothing stays in Redis for ever: every key that a quota makes, with calls in line, in a reserve and after a 429, expires by
// the longest window and a minute and a half.
func TestEveryKeyExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, newClient func() redis.UniversalClient) {
		const longest = time.Hour
		q := shared(newClient(), quota.Window{N: 4, Per: time.Minute}, quota.Window{N: 100, Per: longest})
		q.Reserve = 0.5
		defer closeAll(t, q)
		pass(t.Context(), t, q)
		pass(quota.WithPriority(t.Context(), quota.High), t, q)
		p, err := q.Enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		p.Leave(answered(http.StatusTooManyRequests, "", time.Second))
		time.Sleep(3 * time.Second) // a heartbeat tells of the pause
		keys := mini.Keys()
		if len(keys) < 2 {
			t.Fatalf("the keys are %v, want the log's and those beside it", keys)
		}
		for _, key := range keys {
			if left := mini.TTL(key); left <= 0 || left > longest+100*time.Second {
				t.Errorf("%s lives for %v, want up to about a minute and a half more than %v", key, left, longest)
			}
		}
	})
}

// A nil *Quota is a Gate that is not nil: an error, and no panic.
func TestNilQuotaIsRefused(t *testing.T) {
	var q *redisquota.Quota
	_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
	if _, ok := errors.AsType[*steadyhttp.Refusal](err); !ok || !contains(err.Error(), "leave it out") {
		t.Errorf("got %v, want a Refusal that says what to do", err)
	}
}

func contains(s, part string) bool { return strings.Contains(s, part) }
