package redisquota_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

func attempt() steadyhttp.Attempt { return steadyhttp.Attempt{} }

// done is how an attempt ends that went out and came back.
func done() steadyhttp.Attempt {
	return steadyhttp.Attempt{
		Response: &http.Response{StatusCode: 200}, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success},
	}
}

// pair is two processes that share a quota.
func pair(t *testing.T, windows []quota.Window, edit func(i int, q *redisquota.Quota)) (*fleet, [2]*redisquota.Quota) {
	t.Helper()
	f := newFleet(t, shape{windows: windows, processes: 2, edit: edit})
	return f, [2]*redisquota.Quota{f.quotas[0], f.quotas[1]}
}

// enter makes a call, and returns when it was let go and how long that took.
func enter(t *testing.T, q *redisquota.Quota) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pass, err := q.Enter(ctx, attempt())
	if err != nil {
		t.Fatal(err)
	}
	pass.Leave(done())
	return time.Since(began)
}

// A call whose turn can't come before its deadline is refused at once, in the process that took
// nothing too; the wait that it is told is the true one.
func TestDeadlinesOfASharedQuota(t *testing.T) {
	long.Only(t)
	t.Parallel()
	_, q := pair(t, []quota.Window{{N: 10, Per: 10 * time.Second}}, nil)
	for range 10 {
		enter(t, q[0])
	}
	last := time.Now()
	enterLate := func(q *redisquota.Quota) *steadyhttp.Refusal {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		began := time.Now()
		_, err := q.Enter(ctx, attempt())
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v to be refused", took)
		}
		refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
		if !ok || !errors.Is(err, quota.ErrDeadline) {
			t.Fatalf("got %v, want ErrDeadline", err)
		}
		return refusal
	}
	enterLate(q[1]) // which may have known nothing yet
	for i := range q {
		refusal := enterLate(q[i])
		if want := time.Until(last.Add(10 * time.Second)); (refusal.Wait - want).Abs() > 1500*ms {
			t.Errorf("process %d is told %v, and it is %v", i, refusal.Wait, want)
		}
	}
	enter(t, q[1])
	if at := time.Since(last); at < 9*time.Second || at > 13*time.Second {
		t.Errorf("a place was free after %v", at)
	}
}

// MaxWait and MaxQueue refuse as a quota.Quota does.
func TestBoundsOfTheQueue(t *testing.T) {
	t.Parallel()
	_, q := pair(t, []quota.Window{{N: 5, Per: 6 * time.Second}}, func(i int, q *redisquota.Quota) {
		if i == 0 {
			q.MaxWait = time.Second
		} else {
			q.MaxQueue = 3
		}
	})
	for range 5 {
		enter(t, q[1])
	}
	for range 2 {
		began := time.Now()
		_, err := q[0].Enter(t.Context(), attempt())
		refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
		if !ok || refusal.Wait < time.Second {
			t.Errorf("got %v, want a Refusal", err)
		}
		if took := time.Since(began); took > 1800*ms {
			t.Errorf("it took %v, MaxWait is 1 s", took)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 5)
	for range 5 {
		go func() {
			_, err := q[1].Enter(ctx, attempt())
			results <- err
		}()
	}
	for range 2 {
		if err := <-results; !isRefusal(err) {
			t.Errorf("got %v, want a Refusal: the queue holds 3", err)
		}
	}
	cancel()
	for range 3 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*steadyhttp.Refusal](err)
	return ok
}

// Ten thousand callers wait in one process. All who do not give up are served, those who do leave
// nothing behind, in this process or in Redis.
func TestTenThousandWaiters(t *testing.T) {
	long.Only(t)
	r := redistest.Start(t, redistest.Options{Clock: true})
	before := runtime.NumGoroutine()
	client := redis.NewClient(&redis.Options{Addr: r.Addr()})
	q := &redisquota.Quota{Client: client, Key: "waiters", Windows: []quota.Window{{N: 2000, Per: time.Second}}}
	enter(t, q)
	scripts := r.Scripts()
	api := redistest.NewAPI(0, 0)
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := errors.New("it gave up")
	impatient, giveUp := context.WithCancelCause(ctx)
	var served, ended, wrong atomic.Int64
	var calls sync.WaitGroup
	transport := &steadyhttp.Transport{Base: api, Gates: []steadyhttp.Gate{q}}
	for i := range 10_000 {
		calls.Go(func() {
			ctx := ctx
			if i%2 == 0 {
				ctx = impatient
			}
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", nil)
			resp, err := transport.RoundTrip(req)
			switch {
			case err == nil:
				resp.Body.Close()
				served.Add(1)
			case errors.Is(err, gaveUp):
				ended.Add(1)
			default:
				wrong.Add(1)
			}
		})
	}
	time.Sleep(1200 * ms)
	giveUp(gaveUp)
	calls.Wait()
	cancel()
	t.Logf("%d served, %d gave up, %d scripts", served.Load(), ended.Load(), r.Scripts()-scripts)
	if wrong.Load() > 0 || served.Load() < 5000 || served.Load()+ended.Load() != 10_000 {
		t.Errorf("%d served, %d gave up, %d failed", served.Load(), ended.Load(), wrong.Load())
	}
	if worst := redistest.Worst(api.Times(), time.Second); worst > 2000 {
		t.Errorf("%d arrived in a second, want at most 2000", worst)
	}
	if n := r.Scripts() - scripts; n > 10_000 {
		t.Errorf("%d scripts for 10,000 callers", n)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	client.Close()
	redistest.Goroutines(t, before)
	if len(r.Keys()) == 0 {
		t.Error("no key is left at once: the test sees nothing")
	}
	r.StepClock(time.Hour)
	if keys := r.Keys(); len(keys) > 0 {
		t.Errorf("an hour after the last call Redis still has %v", keys)
	}
}

// Close leaves no goroutine behind, whatever Redis does, and the quota may be closed twice.
func TestCloseLeavesNothing(t *testing.T) {
	long.Only(t)
	before := runtime.NumGoroutine()
	for _, gone := range []bool{false, true} {
		r := redistest.Start(t, redistest.Options{})
		client := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
		q := &redisquota.Quota{Client: client, Key: "close", Windows: second}
		unused := &redisquota.Quota{Client: client, Key: "unused", Windows: second}
		enter(t, q)
		if gone {
			r.Suspend()
		}
		began := time.Now()
		for range 2 {
			q.Close()
			unused.Close()
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		client.Close()
		r.Kill()
	}
	redistest.Goroutines(t, before)
}

// The ACL of docs/sharedquota.md is enough, word for word, and has no command that the script lacks.
func TestACLOfTheDocs(t *testing.T) {
	long.Only(t)
	t.Parallel()
	page, err := os.ReadFile("../../docs/sharedquota.md")
	if err != nil {
		t.Skipf("the page is not part of the module: %v", err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER .*$`).Find(page)
	if line == nil {
		t.Fatal("the page has no line ACL SETUSER")
	}
	rule := strings.Fields(string(line))
	script, err := os.ReadFile("sync.lua")
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{"eval": true, "evalsha": true}
	for _, m := range regexp.MustCompile(`call\('([A-Z]+)'`).FindAllSubmatch(script, -1) {
		needed[strings.ToLower(string(m[1]))] = true
	}
	for _, word := range rule {
		if command, ok := strings.CutPrefix(word, "+"); ok && !needed[command] {
			t.Errorf("%s is allowed, and not needed", command)
		} else if ok {
			delete(needed, command)
		}
	}
	for command := range needed {
		t.Errorf("%s is needed, and not allowed", command)
	}
	try := func(t *testing.T, rule []string) error {
		r := redistest.Start(t, redistest.Options{})
		var args []any
		password, user := "", rule[2]
		for _, word := range rule {
			if strings.HasPrefix(word, ">") {
				password = word[1:]
			}
			args = append(args, word)
		}
		r.Do(args...)
		// Without it, Redis 7.2 and Valkey count go-redis' CLIENT SETINFO as denied, as the page says.
		client := redis.NewClient(&redis.Options{Addr: r.Addr(), Username: user, Password: password, DisableIdentity: true})
		defer client.Close()
		q := &redisquota.Quota{
			Client: client, Key: "acl", Windows: []quota.Window{{N: 100, Per: time.Second}, {N: 1000, Per: time.Minute}},
			Reserve: 0.1, WhenAway: redisquota.Closed,
		}
		defer q.Close()
		for i := range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			pass, err := q.Enter(ctx, attempt())
			cancel()
			if err != nil {
				return fmt.Errorf("call %d: %w", i, err)
			}
			pass.Leave(done())
			if i == 2 {
				r.FlushAll()
				r.Do("SCRIPT", "FLUSH")
				time.Sleep(3 * time.Second)
			}
		}
		if denied := r.Info("stats", "acl_access_denied_cmd") + r.Info("stats", "acl_access_denied_key"); denied > 0 {
			return fmt.Errorf("%v commands or keys were denied: %v", denied, r.Do("ACL", "LOG"))
		}
		return nil
	}
	if err := try(t, rule); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}
