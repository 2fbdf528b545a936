package quota_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// answered is an attempt that went well.
func answered() steadyhttp.Attempt {
	return steadyhttp.Attempt{Response: &http.Response{StatusCode: 200}, Sent: time.Now(), Verdict: steadyhttp.Verdict{Class: steadyhttp.Success}}
}

// throttled is an attempt that was refused.
func throttled(after time.Duration, message string) steadyhttp.Attempt {
	return steadyhttp.Attempt{
		Response: &http.Response{StatusCode: 429}, Sent: time.Now(),
		Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: after, Message: message},
	}
}

// enter makes a call that must be let go at once.
func enter(t testing.TB, q *quota.Quota) (leave func(steadyhttp.Attempt)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	pass, err := q.Enter(ctx, steadyhttp.Attempt{})
	if err != nil {
		t.Fatalf("not let go at once: %v", err)
	}
	return pass.Leave
}

// refuses fails the test if a call is let go at once.
func refuses(t testing.TB, q *quota.Quota, left time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), left)
	defer cancel()
	pass, err := q.Enter(ctx, steadyhttp.Attempt{})
	if err == nil {
		pass.Leave(steadyhttp.Attempt{})
		t.Fatal("let go")
	}
	return err
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*steadyhttp.Refusal](err)
	return ok
}

// fill uses up a window.
func fill(t testing.TB, q *quota.Quota, n int) {
	t.Helper()
	for range n {
		enter(t, q)(answered())
	}
}

// A wait that can't end in time is not begun: the refusal comes at once, says how long the wait would be, and takes nothing.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Minute}}}
		fill(t, q, 3)
		time.Sleep(19 * time.Second)
		began := time.Now()
		err := refuses(t, q, 10*time.Second)
		if time.Since(began) > 0 {
			t.Errorf("took %v to say no", time.Since(began))
		}
		if want := "quota: needs 41s of quota, context has 10s"; err.Error() != want {
			t.Errorf("said %q, want %q", err, want)
		}
		if !errors.Is(err, quota.ErrDeadline) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, steadyhttp.ErrNotSent) {
			t.Errorf("%v matches the wrong errors", err)
		}
		deadline, ok := errors.AsType[*steadyhttp.Refusal](err)
		if !ok || deadline.Wait.Round(time.Second) != 41*time.Second {
			t.Errorf("the wait is %v", deadline.Wait)
		}
		if s := q.State(); s.Windows[0].Used != 3 || s.Waiting != 0 {
			t.Errorf("a refusal left %+v", s)
		}
		// One that can end in time is begun, and ends when it said.
		ctx, cancel := context.WithTimeout(t.Context(), 42*time.Second)
		defer cancel()
		pass, err := q.Enter(ctx, steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		pass.Leave(answered())
		if took := time.Since(began); took < 41*time.Second || took > 41*time.Second+100*time.Millisecond {
			t.Errorf("waited %v", took)
		}
	})
}

// Through a Transport, the refusal is an Error with the wait, for a job queue to snooze on.
func TestDeadlineThroughTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(&rolling{windows: []quota.Window{{N: 1, Per: time.Minute}}}, nil)
		transport := &steadyhttp.Transport{Base: s, Gates: []steadyhttp.Gate{&quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}}}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		for range 2 {
			resp, err := client.Get("http://api.example/")
			if err == nil {
				resp.Body.Close()
				continue
			}
			e, ok := errors.AsType[*steadyhttp.Error](err)
			if !ok || e.Stop != steadyhttp.StopRefused || e.Wait < 59*time.Second || e.Wait > 61*time.Second || !errors.Is(err, quota.ErrDeadline) {
				t.Errorf("got %v (%+v)", err, e)
			}
		}
		if len(s.arrivals) != 1 {
			t.Errorf("%d calls arrived", len(s.arrivals))
		}
	})
}

// A refusal says how long all those before it will take, too.
func TestDeadlineCountsThoseAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 10, Per: time.Minute}}}
		fill(t, q, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 25 {
			group.Go(func() {
				if pass, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
					pass.Leave(answered())
				}
			})
		}
		synctest.Wait()
		err := refuses(t, q, time.Minute)
		deadline, _ := errors.AsType[*steadyhttp.Refusal](err)
		if deadline == nil || deadline.Wait.Round(time.Minute) != 3*time.Minute {
			t.Errorf("25 before it, 10 a minute: %v, want 3 minutes", err)
		}
		cancel()
		group.Wait()
	})
}

func TestMaxQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []int{-1, 2} {
			q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}, MaxQueue: limit}
			fill(t, q, 1)
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			for range max(0, limit) {
				group.Go(func() { q.Enter(ctx, steadyhttp.Attempt{}) })
			}
			synctest.Wait()
			_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if !isRefusal(err) || !strings.Contains(err.Error(), fmt.Sprintf("MaxQueue is %d", limit)) {
				t.Errorf("MaxQueue %d: %v", limit, err)
			}
			cancel()
			group.Wait()
		}
	})
}

// What can't be meant is refused at the first use, with the field and the fix.
func TestBadFields(t *testing.T) {
	one := []quota.Window{{N: 1, Per: time.Second}}
	for _, c := range []struct {
		q    *quota.Quota
		says string
	}{
		{&quota.Quota{}, "Quota.Windows is empty"},
		{&quota.Quota{Windows: []quota.Window{{N: 0, Per: time.Second}}}, "Quota.Windows[0].N is 0"},
		{&quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Second}, {N: -5, Per: time.Second}}}, "Quota.Windows[1].N is -5"},
		{&quota.Quota{Windows: []quota.Window{{N: 1}}}, "Quota.Windows[0].Per is 0s"},
		{&quota.Quota{Windows: []quota.Window{{N: 1, Per: -time.Second}}}, "Quota.Windows[0].Per is -1s"},
		{&quota.Quota{Windows: []quota.Window{{N: 1, Per: 60}}}, "Per is 60ns; use a duration with its unit"},
		{&quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Second}, {N: 9, Per: 3600}}}, "Quota.Windows[1].Per is 3.6µs"},
		{&quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Millisecond - 1}}}, "Per is 999.999µs"},
		{&quota.Quota{Windows: []quota.Window{{N: 1, Per: math.MaxInt64}}}, "Per is 2562047h47m16.854775807s; use at most 10 years"},
		{&quota.Quota{Windows: one, Reserve: 1}, "Quota.Reserve is 1"},
		{&quota.Quota{Windows: one, Reserve: -0.1}, "Quota.Reserve is -0.1"},
		{&quota.Quota{Windows: one, Reserve: math.NaN()}, "Quota.Reserve is NaN"},
		{&quota.Quota{Windows: one, Start: 7}, "Quota.Start is 7"},
	} {
		for range 2 { // not only the first time
			if _, err := c.q.Enter(t.Context(), steadyhttp.Attempt{}); !isRefusal(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		}
		c.q.State() // and nothing else falls over
		c.q.Snapshot()
	}
}

// A nil *Quota is a Gate that is not nil: a program that sets its Quota only sometimes gets an error, and no panic.
func TestNilQuotaIsRefused(t *testing.T) {
	var q *quota.Quota
	if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); !isRefusal(err) || !strings.Contains(err.Error(), "leave it out") {
		t.Errorf("got %v, want a Refusal that says what to do", err)
	}
}

// An urgent call behind 10,000 waiting ones does not wait in the quota, and neither do as many as the reserve holds.
func TestUrgentCallsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: minuteAndHour(), Reserve: 0.1}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 10_000 {
			group.Go(func() {
				if pass, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
					pass.Leave(answered())
				}
			})
		}
		synctest.Wait()
		time.Sleep(30 * time.Second)
		urgent, stop := context.WithTimeout(quota.WithPriority(t.Context(), quota.High), time.Millisecond)
		defer stop()
		for i := range 10 {
			pass, err := q.Enter(urgent, steadyhttp.Attempt{})
			if err != nil {
				t.Fatalf("urgent call %d: %v", i, err)
			}
			pass.Leave(answered())
		}
		if _, err := q.Enter(urgent, steadyhttp.Attempt{}); !errors.Is(err, quota.ErrDeadline) {
			t.Errorf("an eleventh call in the minute: %v, want a refusal: the reserve is 10", err)
		}
		if s := q.State(); s.Windows[0].Used != 100 || s.Waiting != 10_000-90 {
			t.Errorf("90 normal and 10 urgent calls should have gone: %+v", s)
		}
		cancel()
		group.Wait()
	})
}

// A waiting urgent call passes waiting normal ones; among equals, the call that began first goes first, retries included.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}
		fill(t, q, 1)
		base := time.Now()
		var mu sync.Mutex
		var order []string
		var group sync.WaitGroup
		for i, c := range []struct {
			name     string
			began    time.Duration
			priority quota.Priority
		}{
			{"first", 0, quota.Normal},
			{"second", time.Second, quota.Normal},
			{"third", 2 * time.Second, quota.Normal},
			{"retry", -time.Minute, quota.Normal},
			{"urgent", 3 * time.Second, quota.High},
			{"between", 1500 * time.Millisecond, quota.Normal},
			{"urgent retry", -time.Second, quota.High},
		} {
			group.Go(func() {
				pass, err := q.Enter(quota.WithPriority(t.Context(), c.priority), steadyhttp.Attempt{N: i, Began: base.Add(c.began)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, c.name)
				mu.Unlock()
				pass.Leave(answered())
			})
			synctest.Wait()
		}
		group.Wait()
		if got, want := strings.Join(order, ", "), "urgent retry, urgent, retry, first, second, between, third"; got != want {
			t.Errorf("order %s, want %s", got, want)
		}
	})
}

// A process that goes on where another left off meets no 429 and loses no time.
func TestRestart(t *testing.T) {
	for _, delays := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server := &rolling{windows: minuteAndHour()}
			s := newService(server, minuteAndHour())
			if delays {
				s.uniform(20*time.Millisecond, 520*time.Millisecond)
			}
			first := &quota.Quota{Windows: minuteAndHour()}
			batch(t, throughQuota(s, first), 1234, 0)
			saved, err := json.Marshal(first.Snapshot())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(7 * time.Second) // the new process starts
			var snapshot quota.Snapshot
			if err := json.Unmarshal(saved, &snapshot); err != nil {
				t.Fatal(err)
			}
			second := &quota.Quota{Windows: minuteAndHour()}
			if err := second.Restore(snapshot); err != nil {
				t.Fatal(err)
			}
			r := batch(t, throughQuota(s, second), 3000-1234, 0)
			factor := time.Since(s.began).Seconds() / theMinimum.Seconds()
			t.Logf("delays %v: %.4f of the minimum, %d 429s, a snapshot of %d bytes", delays, factor, len(s.refused), len(saved))
			if len(s.refused) > 0 || r.failed > 0 || factor > 1.005 {
				t.Errorf("%d 429s, %d failed, %.4f of the minimum", len(s.refused), r.failed, factor)
			}
		})
	}
}

// What a restart costs that knows nothing: the figure that the package comment gives.
func TestRestartWithoutSnapshot(t *testing.T) {
	for _, start := range []quota.ColdStart{quota.Fresh, quota.Spent} {
		synctest.Test(t, func(t *testing.T) {
			s := newService(&rolling{windows: minuteAndHour()}, minuteAndHour())
			batch(t, throughQuota(s, &quota.Quota{Windows: minuteAndHour()}), 1234, 0)
			r := batch(t, throughQuota(s, &quota.Quota{Windows: minuteAndHour(), Start: start}), 3000-1234, 0)
			factor := time.Since(s.began).Seconds() / theMinimum.Seconds()
			t.Logf("start %v: %.2f of the minimum, %d 429s", start, factor, len(s.refused))
			if r.failed > 0 {
				t.Errorf("%d calls failed", r.failed)
			}
			if start == quota.Spent && len(s.refused) > 0 {
				t.Errorf("%d 429s though the windows were taken to be full", len(s.refused))
			}
			if start == quota.Fresh && (len(s.refused) == 0 || len(s.refused) > 100 || factor > 2.2) {
				t.Errorf("%d 429s and %.2f of the minimum: the documentation says otherwise", len(s.refused), factor)
			}
		})
	}
}

func TestRestoreRefusesNonsense(t *testing.T) {
	windows := minuteAndHour()
	used := &quota.Quota{Windows: windows}
	used.State()
	for name, c := range map[string]struct {
		q *quota.Quota
		s quota.Snapshot
	}{
		"after the first use": {used, quota.Snapshot{}},
		"a negative number":   {&quota.Quota{Windows: windows}, quota.Snapshot{Normal: []quota.Calls{{Age: 1, N: -1}}}},
		"from the future":     {&quota.Quota{Windows: windows}, quota.Snapshot{Normal: []quota.Calls{{Age: -1e18, N: 1}}}},
		"not in order":        {&quota.Quota{Windows: windows}, quota.Snapshot{Normal: []quota.Calls{{Age: 1, N: 1}, {Age: 2, N: 1}}}},
		"a bad Quota":         {&quota.Quota{}, quota.Snapshot{}},
	} {
		if err := c.q.Restore(c.s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// A clock that was set back: no time has passed, and nothing is let go too early.
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}
		if err := q.Restore(quota.Snapshot{At: time.Now().Add(time.Hour), Normal: []quota.Calls{{Age: 10 * time.Second, N: 1}}}); err != nil {
			t.Fatal(err)
		}
		err := refuses(t, q, time.Second)
		if d, ok := errors.AsType[*steadyhttp.Refusal](err); !ok || d.Wait.Round(time.Second) != 50*time.Second {
			t.Errorf("got %v", err)
		}
	})
}

// A 429 closes the quota for all until the service's time; then one probe goes, and then the rest, more and more.
func TestPushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 1000, Per: time.Minute}}}
		early := enter(t, q)
		enter(t, q)(throughMessage(8 * time.Second))
		began := time.Now()
		if s := q.State(); s.PausedFor != 8*time.Second || !s.Probing {
			t.Errorf("after the 429: %+v", s)
		}
		early(throttled(2*time.Second, "")) // of before the pause: it neither prolongs it nor begins another
		var mu sync.Mutex
		var at []time.Duration
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				at = append(at, time.Since(began))
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				pass.Leave(answered())
			})
		}
		group.Wait()
		if at[0] < 8*time.Second || at[0] > 8*time.Second+time.Millisecond {
			t.Errorf("the probe went after %v", at[0])
		}
		if at[1] < at[0]+100*time.Millisecond {
			t.Errorf("the second call went %v after the probe, before its answer", at[1]-at[0])
		}
		widest := 0
		for i := range at {
			together := 0
			for j := range at {
				if at[j] >= at[i] && at[j] < at[i]+100*time.Millisecond {
					together++
				}
			}
			widest = max(widest, together)
		}
		if widest < 3 || widest > 10 {
			t.Errorf("up to %d calls at once after a pause, want a growing pace", widest)
		}
	})
}

func throughMessage(after time.Duration) steadyhttp.Attempt { return throttled(after, "") }

// Where no time is named, probes back off.
func TestPushbackWithoutATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 1000, Per: time.Hour}}}
		var waits []time.Duration
		for range 5 {
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			pass.Leave(throttled(0, ""))
			waits = append(waits, q.State().PausedFor.Round(time.Millisecond))
		}
		if got := fmt.Sprint(waits); got != "[1s 2s 4s 8s 16s]" {
			t.Errorf("waits %s", got)
		}
	})
}

// A limit that a 429 names is taken over if it is lower, and never if it is higher or nonsense.
func TestNamedLimit(t *testing.T) {
	for message, want := range map[string]int{
		"API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 8 seconds.": 30,
		"API calls quota exceeded! maximum allowed 45 per 00:01:00":                                                                                   45,
		"Maximum allowed 500 per 00:01:00":                  100,
		"Maximum allowed 0 per 00:01:00":                    100,
		"Maximum allowed -3 per 00:01:00":                   100,
		"Maximum allowed 30 per 00:07:00":                   100, // no window of ours
		"Maximum allowed 30 per minute":                     100,
		"Maximum allowed 99999999999999999999 per 00:01:00": 100,
		"Maximum allowed 30 per 0:0:0":                      100,
		"slow down":                                         100,
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: minuteAndHour()}
			enter(t, q)(throttled(time.Second, message))
			// Our share has been measured as well, and grows back to the limit before that comes back.
			time.Sleep(59 * time.Minute)
			if got := q.State().Windows[0].Limit; got != want {
				t.Errorf("%q: limit %d, want %d", message, got, want)
			}
		})
	}
}

// Cancelled waiters leave nothing behind: no place is lost, none is invented.
func TestCancelStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(&rolling{windows: minuteAndHour()}, minuteAndHour())
		q := &quota.Quota{Windows: minuteAndHour()}
		transport := throughQuota(s, q)
		var group sync.WaitGroup
		for i := range 2000 {
			group.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i%2 == 0 {
					time.AfterFunc(time.Duration(i)*time.Second, cancel)
				}
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", nil)
				if resp, err := transport.RoundTrip(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		group.Wait()
		if len(s.refused) > 0 || s.worst(minuteAndHour()[0]) > 100 || s.worst(minuteAndHour()[1]) > 1500 {
			t.Errorf("%d 429s, worst minute %d, worst hour %d", len(s.refused), s.worst(minuteAndHour()[0]), s.worst(minuteAndHour()[1]))
		}
		time.Sleep(2 * time.Hour)
		if state := q.State(); state.Waiting != 0 || state.InFlight != 0 || state.Windows[0].Free != 100 || state.Windows[1].Free != 1500 {
			t.Errorf("left behind: %+v", state)
		}
	})
}

// A place is given back only if the request provably never left.
func TestRefund(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 10, Per: time.Minute}}}
		enter(t, q)(steadyhttp.Attempt{Err: errors.New("dial: refused")}) // no Sent
		if used := q.State().Windows[0].Used; used != 0 {
			t.Errorf("a call that never left: %d used", used)
		}
		enter(t, q)(steadyhttp.Attempt{Err: errors.New("reset"), Sent: time.Now()})
		if used := q.State().Windows[0].Used; used != 1 {
			t.Errorf("a call whose answer was lost: %d used", used)
		}
		// It counts from when it has surely arrived.
		time.Sleep(time.Minute + time.Second)
		if used := q.State().Windows[0].Used; used != 1 {
			t.Errorf("forgotten after %v", time.Minute+time.Second)
		}
		time.Sleep(2 * time.Second)
		if used := q.State().Windows[0].Used; used != 0 {
			t.Error("not forgotten after W and 2 s")
		}
	})
}

// A caller whose context ends gets its cause, and the kind of its end.
func TestCancelledWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}
		fill(t, q, 1)
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		began := time.Now()
		for range 2 { // while it waits, and before it would
			if _, err := q.Enter(ctx, steadyhttp.Attempt{}); !errors.Is(err, why) || !errors.Is(err, context.Canceled) || err.Error() != "why" {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took != time.Second {
				t.Errorf("took %v", took)
			}
		}
		if s := q.State(); s.Waiting != 0 || s.Windows[0].Used != 1 {
			t.Errorf("left behind: %+v", s)
		}
	})
}

// A retry that goes before all who wait is not refused for their sake, whatever its priority.
func TestDeadlineOfARetry(t *testing.T) {
	for _, priority := range []quota.Priority{quota.Normal, quota.High} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}
			began := time.Now()
			time.Sleep(time.Second)
			fill(t, q, 1)
			ctx, cancel := context.WithCancel(quota.WithPriority(t.Context(), priority))
			var group sync.WaitGroup
			for range 5 {
				group.Go(func() { q.Enter(ctx, steadyhttp.Attempt{}) })
			}
			synctest.Wait()
			soon, stop := context.WithTimeout(ctx, 90*time.Second)
			defer stop()
			if pass, err := q.Enter(soon, steadyhttp.Attempt{N: 2, Began: began}); err != nil {
				t.Errorf("priority %v: %v", priority, err)
			} else {
				pass.Leave(answered())
			}
			cancel()
			group.Wait()
		})
	}
}

// A deadline in a shared window is judged by what may come back to us, not by what we have now.
func TestDeadlineInASharedWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 200, Per: time.Minute}}}
		fill(t, q, 100)
		enter(t, q)(throttled(time.Second, ""))
		if !q.State().Windows[0].Shared {
			t.Fatal("a 429 at half the limit, and nobody else is suspected")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 1500 {
			group.Go(func() {
				if pass, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
					pass.Leave(answered())
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		soon, stop := context.WithTimeout(ctx, 14*time.Minute)
		defer stop()
		pass, err := q.Enter(soon, steadyhttp.Attempt{})
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		pass.Leave(answered())
		t.Logf("waited %v behind 1500", time.Since(began))
		cancel()
		group.Wait()
	})
}

// Large limits are counted in runs: never over, and next to nothing under.
func TestLargeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20_000
		window := quota.Window{N: n, Per: time.Minute}
		q := &quota.Quota{Windows: []quota.Window{window}}
		var times []time.Time
		began := time.Now()
		for time.Since(began) < 5*time.Minute {
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, time.Now())
			pass.Leave(answered())
			if len(times)%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		from, worst := 0, 0
		for to := range times {
			for times[to].Sub(times[from]) >= window.Per {
				from++
			}
			worst = max(worst, to-from+1)
		}
		used := float64(len(times)) / (5 * n)
		t.Logf("%d calls, worst minute %d, %.2f %% used", len(times), worst, 100*used)
		if worst > n || used < 0.995 {
			t.Errorf("worst minute %d of %d, %.4f used", worst, n, used)
		}
	})
}

// Many waiters: what each costs, and how long it takes to send them all away, beside bare goroutines.
func TestManyWaiters(t *testing.T) {
	if testing.Short() || quota.RaceEnabled {
		t.Skip("measures memory and time")
	}
	n := long.Size(t, 25_000, 100_000)
	wait := func(block func(context.Context)) (heap uint64, gone time.Duration) {
		ctx, cancel := context.WithCancel(t.Context())
		var before, during runtime.MemStats
		var group sync.WaitGroup
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range n {
			group.Go(func() { block(ctx) })
		}
		for runtime.NumGoroutine() < n {
			runtime.Gosched()
		}
		time.Sleep(200 * time.Millisecond) // for the last of them to block; nothing depends on it but the figure
		runtime.GC()
		runtime.ReadMemStats(&during)
		began := time.Now()
		cancel()
		group.Wait()
		return during.HeapAlloc - before.HeapAlloc, time.Since(began)
	}
	bare := func(ctx context.Context) { <-ctx.Done() }
	wait(bare) // the runtime keeps what goroutines need for the next ones
	best, each := math.Inf(1), math.Inf(1)
	for round := 0; round < 3 || best > 2.5 && round < 10; round++ { // the machine has other things to do
		emptyHeap, bareGone := wait(bare)
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Hour}}}
		fill(t, q, 1)
		heap, gone := wait(func(ctx context.Context) { q.Enter(ctx, steadyhttp.Attempt{}) })
		each = min(each, (float64(heap)-float64(emptyHeap))/float64(n))
		best = min(best, gone.Seconds()/bareGone.Seconds())
		if s := q.State(); s.Waiting != 0 {
			t.Fatalf("%d still wait", s.Waiting)
		}
	}
	t.Logf("%.0f B of heap for each waiter beyond a goroutine's, all cancelled in %.2f times what bare goroutines take", each, best)
	if each > 520 { // 512, and what else has a heap just then
		t.Errorf("each waiter costs %.0f B, want at most 520", each)
	}
	if best > 2.5 {
		t.Errorf("cancelled in %.2f times the time of bare goroutines, want at most 2.5", best)
	}
}

// A decision without a wait makes one allocation: what the caller gets to leave with.
func TestDecisionAllocates(t *testing.T) {
	if quota.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	q := &quota.Quota{Windows: []quota.Window{{N: 1 << 30, Per: time.Minute}, {N: 1 << 30, Per: time.Hour}}}
	ok := answered()
	if n := testing.AllocsPerRun(1000, func() {
		pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		pass.Leave(ok)
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecision(b *testing.B) {
	windows := []quota.Window{{N: 1 << 30, Per: time.Minute}, {N: 1 << 30, Per: time.Hour}}
	ok := answered()
	b.Run("bare", func(b *testing.B) { // a lock and two readings of the clock, which nobody can do without
		var mu sync.Mutex
		b.ReportAllocs()
		for b.Loop() {
			for range 2 {
				mu.Lock()
				_ = time.Now()
				mu.Unlock()
			}
		}
	})
	b.Run("quota", func(b *testing.B) {
		q := &quota.Quota{Windows: windows}
		b.ReportAllocs()
		for b.Loop() {
			pass, err := q.Enter(b.Context(), steadyhttp.Attempt{})
			if err != nil {
				b.Fatal(err)
			}
			pass.Leave(ok)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		q := &quota.Quota{Windows: windows}
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				pass, err := q.Enter(b.Context(), steadyhttp.Attempt{})
				if err != nil {
					b.Error(err)
					return
				}
				pass.Leave(ok)
			}
		})
	})
	b.Run("refusal", func(b *testing.B) {
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Hour}}}
		fill(b, q, 1)
		ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
		defer cancel()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := q.Enter(ctx, steadyhttp.Attempt{}); err == nil {
				b.Fatal("let go")
			}
		}
	})
}
