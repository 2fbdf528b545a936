package quota_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// wait makes calls, one after the other, as soon as they may go.
func wait(t *testing.T, q *quota.Quota, calls int) {
	t.Helper()
	for range calls {
		pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		pass.Leave(answered())
	}
}

// What would wait longer than MaxWait is refused at once, with its wait; what would not, waits.
func TestMaxWait(t *testing.T) {
	for _, c := range []struct {
		windows []quota.Window
		used    int
		after   time.Duration
		maxWait time.Duration
		needs   time.Duration // 0: it goes
	}{
		{[]quota.Window{{N: 100, Per: time.Minute}}, 100, 0, 30 * time.Second, time.Minute},
		{[]quota.Window{{N: 100, Per: time.Minute}}, 100, 40 * time.Second, 30 * time.Second, 0},
		{[]quota.Window{{N: 100, Per: time.Minute}}, 99, 0, time.Nanosecond, 0},
		{minuteAndHour(), 100, 20 * time.Minute, time.Second, 0},
		{[]quota.Window{{N: 5, Per: time.Second}, {N: 10, Per: time.Hour}}, 10, 20 * time.Minute, 39 * time.Minute, 40 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: c.windows}
			strict := &quota.Quota{Windows: c.windows, MaxWait: c.maxWait}
			wait(t, q, c.used)
			if err := strict.Restore(q.Snapshot()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.after)
			began := time.Now()
			_, err := strict.Enter(t.Context(), steadyhttp.Attempt{})
			took := time.Since(began)
			if c.needs == 0 {
				if err != nil || took > c.maxWait {
					t.Errorf("%+v: %v after %v", c, err, took)
				}
				return
			}
			refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
			if !ok || took > 0 || refusal.Wait < c.needs-2*time.Second || refusal.Wait > c.needs+4*time.Second ||
				!strings.Contains(err.Error(), "Quota.MaxWait") {
				t.Errorf("%+v: %v after %v", c, err, took)
			}
			if s := strict.State(); s.Waiting > 0 || s.InFlight > 0 {
				t.Errorf("left %+v", s)
			}
		})
	}
}

// Who waits already, and would wait longer since a 429 has come, is refused then.
func TestMaxWaitEndsAWait(t *testing.T) {
	for _, asked := range []time.Duration{time.Minute, 0} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: 10 * time.Second}}, MaxWait: 15 * time.Second}
			fill(t, q, 1)
			pass := enter(t, q)
			began := time.Now()
			result := make(chan error, 1)
			go func() {
				_, err := q.Enter(t.Context(), steadyhttp.Attempt{})
				result <- err
			}()
			time.Sleep(time.Second)
			if asked > 0 {
				pass(steadyhttp.Attempt{
					Response: &http.Response{StatusCode: 429}, Sent: time.Now(),
					Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: asked},
				})
				if _, ok := errors.AsType[*steadyhttp.Refusal](<-result); !ok || time.Since(began) > 15*time.Second {
					t.Errorf("no refusal after %v", time.Since(began))
				}
				return
			}
			pass(answered())
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

// A wait of 10 s and more is told as it begins, with its length.
func TestLongWaitsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var told []time.Duration
		q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}}
		tr := &steadyhttp.Transport{
			Base:  newService(&rolling{windows: q.Windows}, q.Windows),
			Gates: []steadyhttp.Gate{q},
			Trace: steadyhttp.Join(steadyhttp.Log(slog.New(slog.NewTextHandler(&out, nil))), &steadyhttp.Trace{
				Waiting: func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) { told = append(told, w.For) },
			}),
		}
		began := time.Now()
		for range 2 {
			if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
				t.Fatal(err)
			}
		}
		if len(told) != 1 || told[0] < 59*time.Second || told[0] > time.Since(began) {
			t.Errorf("told of %v", told)
		}
		if !strings.Contains(out.String(), "level=INFO msg=waiting") {
			t.Errorf("logged %s", out.String())
		}
	})
}

// MaxQueue bounds those of high priority and the others apart: neither turns the other away.
func TestMaxQueueApart(t *testing.T) {
	for _, c := range []struct{ first, second quota.Priority }{{quota.Normal, quota.High}, {quota.High, quota.Normal}} {
		for _, most := range []int{1, 3, 100} {
			synctest.Test(t, func(t *testing.T) {
				q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Hour}}, MaxQueue: most}
				fill(t, q, 1)
				ctx, cancel := context.WithCancel(t.Context())
				come := func(p quota.Priority) (refused bool) {
					result := make(chan error, 1)
					go func() {
						_, err := q.Enter(quota.WithPriority(ctx, p), steadyhttp.Attempt{})
						result <- err
					}()
					synctest.Wait()
					select {
					case <-result:
						return true
					default:
						return false
					}
				}
				for _, p := range []quota.Priority{c.first, c.second} {
					for i := range most {
						if come(p) {
							t.Errorf("number %d of priority %v was refused, MaxQueue %d", i, p, most)
						}
					}
					if !come(p) {
						t.Errorf("more than %d of priority %v wait", most, p)
					}
				}
				cancel()
				synctest.Wait()
			})
		}
	}
}

// Reserve is a share of the limit as it is, also where the service has named a lower one.
func TestReserveOfALoweredLimit(t *testing.T) {
	for _, c := range []struct {
		reserve  float64
		n, named int
		normal   int
	}{
		{0.3, 100, 30, 21}, {0.5, 100, 41, 20}, {0.9, 100, 50, 5}, {0.1, 100, 99, 89}, {0, 100, 30, 30},
	} {
		synctest.Test(t, func(t *testing.T) {
			windows := []quota.Window{{N: c.n, Per: time.Minute}}
			q := &quota.Quota{Windows: windows, Reserve: c.reserve}
			pass := enter(t, q)
			pass(steadyhttp.Attempt{
				Response: &http.Response{StatusCode: 429}, Sent: time.Now(),
				Verdict: steadyhttp.Verdict{
					Class: steadyhttp.Throttled, RetryAfter: time.Second,
					Message: "Maximum allowed " + itoa(c.named) + " per 00:01:00.",
				},
			})
			time.Sleep(12 * time.Minute) // until others, whom the 429 seemed to tell of, are forgotten as well
			if q.State().Windows[0].Shared {
				time.Sleep(40 * time.Minute)
			}
			if got := q.State().Windows[0].Limit; got != c.named {
				t.Fatalf("%+v: the limit is %d", c, got)
			}
			went := 0
			for ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second); ; went++ {
				p, err := q.Enter(ctx, steadyhttp.Attempt{})
				if err != nil {
					cancel()
					break
				}
				p.Leave(answered())
			}
			if went != c.normal {
				t.Errorf("%+v: %d normal calls a minute", c, went)
			}
		})
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// Spent is for what a snapshot does not cover: what may have been sent since.
func TestSpentAfterRestore(t *testing.T) {
	for _, c := range []struct {
		used int
		gap  time.Duration
		free []int // places in the minute and the hour
		most time.Duration
	}{
		{3, 0, []int{97, 1497}, 0},
		{100, 0, []int{0, 1400}, 61 * time.Second},
		{3, time.Second, []int{0, 1397}, 61 * time.Second},
		{3, 59 * time.Second, []int{0, 1397}, 61 * time.Second},
		{3, 150 * time.Second, []int{0, 1197}, 61 * time.Second},
		{3, 30 * time.Minute, []int{0, 0}, 61 * time.Minute},
		{3, 5 * time.Hour, []int{0, 0}, 61 * time.Minute},
		{3, -time.Hour, []int{97, 1497}, 0}, // the clock was set back
	} {
		synctest.Test(t, func(t *testing.T) {
			first := &quota.Quota{Windows: minuteAndHour()}
			wait(t, first, c.used)
			s := first.Snapshot()
			s.At = s.At.Add(-c.gap)
			q := &quota.Quota{Windows: minuteAndHour(), Start: quota.Spent}
			if err := q.Restore(s); err != nil {
				t.Fatal(err)
			}
			for i, w := range q.State().Windows {
				if w.Free != c.free[i] {
					t.Errorf("%+v: window %d has %d free", c, i, w.Free)
				}
			}
			began := time.Now()
			wait(t, q, 1)
			if took := time.Since(began); took > c.most {
				t.Errorf("%+v: the first call went after %v", c, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: minuteAndHour(), Start: quota.Spent}
		if err := q.Restore(quota.Snapshot{}); err != nil {
			t.Fatal(err)
		}
		if s := q.State(); s.Windows[1].Free != 0 {
			t.Errorf("an empty snapshot covers nothing, and leaves %+v", s)
		}
	})
}

// A Quota takes its own next snapshot, also after one of a Quota with a longer MaxTransit.
func TestTakesItsOwnSnapshot(t *testing.T) {
	for _, transit := range []time.Duration{0, time.Millisecond, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			first := &quota.Quota{Windows: minuteAndHour(), MaxTransit: transit}
			enter(t, first)
			enter(t, first)
			second := &quota.Quota{Windows: minuteAndHour()}
			if err := second.Restore(first.Snapshot()); err != nil {
				t.Fatal(err)
			}
			enter(t, second)
			third := &quota.Quota{Windows: minuteAndHour()}
			if err := third.Restore(second.Snapshot()); err != nil {
				t.Fatal(err)
			}
			if got := third.State().Windows[1].Used; got != 3 {
				t.Errorf("%d used", got)
			}
		})
	}
}

// Where limits are no rate, a 429 pauses and teaches nothing; where its text names a window, it does.
func TestPauseOnly(t *testing.T) {
	for message, limit := range map[string]int{
		"Too many live response sessions at once.": 10,
		"":                                10,
		"Maximum allowed 4 per 00:01:00.": 4,
	} {
		for _, only := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				q := &quota.Quota{Windows: []quota.Window{{N: 10, Per: time.Minute}}, PauseOnly: only}
				enter(t, q)(steadyhttp.Attempt{
					Response: &http.Response{StatusCode: 429}, Sent: time.Now(),
					Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: 20 * time.Second, Message: message},
				})
				s := q.State()
				if s.PausedFor != 20*time.Second || !s.Probing {
					t.Errorf("%q: %+v", message, s)
				}
				if shared := s.Windows[0].Shared; shared != (!only || limit == 4) || only && s.Windows[0].Limit > limit {
					t.Errorf("%q, only %v: %+v", message, only, s.Windows[0])
				}
			})
		}
	}
}

// 30 orders whose first meets one 429 for too many sessions take 2 minutes, and not six.
func TestPauseOnlyCostsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 10, Per: time.Minute}}, PauseOnly: true}
		began := time.Now()
		for i := range 31 {
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				pass.Leave(answered())
				continue
			}
			pass.Leave(steadyhttp.Attempt{
				Response: &http.Response{StatusCode: 429}, Sent: time.Now(),
				Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: time.Second},
			})
		}
		if took := time.Since(began); took > 3*time.Minute+5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestEstimate(t *testing.T) {
	second := quota.Window{N: 100, Per: time.Second}
	for _, c := range []struct {
		windows []quota.Window
		calls   int
		want    time.Duration
	}{
		{minuteAndHour(), 10_000, 6*time.Hour + 9*time.Minute},
		{minuteAndHour(), 3000, theMinimum},
		{minuteAndHour(), 1500, 14 * time.Minute},
		{minuteAndHour(), 1501, time.Hour},
		{minuteAndHour(), 100, 0},
		{minuteAndHour(), 101, time.Minute},
		{minuteAndHour(), 1, 0}, {minuteAndHour(), 0, 0}, {minuteAndHour(), -1, 0},
		{minuteAndHour(), 1_500_000, 999*time.Hour + 14*time.Minute},
		{[]quota.Window{{N: 1, Per: time.Second}}, 1_000_000_000, 999_999_999 * time.Second},
		{[]quota.Window{second, {N: 5_000_000, Per: 24 * time.Hour}}, 5_000_001, 24 * time.Hour},
		{[]quota.Window{{N: 1, Per: time.Second}, {N: 2_500_000, Per: 30 * 24 * time.Hour}}, 3_000_000, 30*24*time.Hour + 499_999*time.Second},
		{nil, 10, 0}, {[]quota.Window{{N: 0, Per: time.Second}}, 10, 0},
	} {
		if got := quota.Estimate(c.windows, c.calls); got != c.want {
			t.Errorf("%d calls in %v: %v, want %v", c.calls, c.windows, got, c.want)
		}
	}
	if got := quota.Estimate([]quota.Window{{N: 1, Per: time.Hour}}, math.MaxInt); got < 1<<60 {
		t.Errorf("more than there is time for: %v", got)
	}
}

// No sum wraps around, however much a field allows.
func TestTheMostOfEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const years = 10 * 365 * 24 * time.Hour
		decade := []quota.Window{{N: 1, Per: years}}
		for _, calls := range []int{16, 1000, math.MaxInt} {
			for name, got := range map[string]time.Duration{
				"windows": quota.Estimate(decade, calls), "a live Quota": (&quota.Quota{Windows: decade}).Estimate(calls),
			} {
				if got < 145*365*24*time.Hour {
					t.Errorf("%d calls, one in ten years, by %s: %v", calls, name, got)
				}
			}
		}
		most := int(min(int64(1e15), math.MaxInt/2+1)) // where an int has 32 bits, the latter
		for _, n := range []int{most + 1, math.MaxInt} {
			q := &quota.Quota{Windows: []quota.Window{{N: n, Per: time.Minute}}}
			if _, err := q.Enter(t.Context(), steadyhttp.Attempt{}); !isRefusal(err) ||
				!strings.Contains(err.Error(), "; leave out what is no limit, or use at most "+strconv.Itoa(most)) {
				t.Errorf("N %d: %v", n, err)
			}
		}
		q := &quota.Quota{
			Windows: []quota.Window{{N: most, Per: time.Minute}},
			Start:   quota.Spent, Weight: func(*http.Request) int { return most },
		}
		began := time.Now()
		for i := range 3 {
			pass, err := q.Enter(t.Context(), steadyhttp.Attempt{Request: &http.Request{}})
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < time.Duration(i+1)*time.Minute {
				t.Errorf("call %d after %v", i, took)
			}
			pass.Leave(answered())
		}
		for _, wait := range []time.Duration{years, math.MaxInt64 / 2, math.MaxInt64} {
			q := &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Minute}}, MaxWait: wait}
			for range 3 {
				pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
				if err != nil {
					t.Fatalf("MaxWait %v: %v", wait, err)
				}
				pass.Leave(answered())
			}
		}
	})
}

// The estimate of a live Quota is when the last call goes, whatever was used before.
func TestEstimateIsWhatItTakes(t *testing.T) {
	for _, c := range []struct {
		used, calls int
		after       time.Duration
	}{
		{0, 1, 0}, {0, 2500, 0}, {100, 1, 0}, {100, 1, 40 * time.Second}, {730, 2000, 5 * time.Minute}, {1500, 10, 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: minuteAndHour()}
			wait(t, q, c.used)
			time.Sleep(c.after)
			want, began := q.Estimate(c.calls), time.Now()
			wait(t, q, c.calls)
			if took := time.Since(began); took != want {
				t.Errorf("%+v took %v, estimated %v", c, took, want)
			}
		})
	}
}

// The pad of a short window costs a hundredth of it at most.
func TestShortWindows(t *testing.T) {
	for _, per := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: []quota.Window{{N: 10, Per: per}}}
			began := time.Now()
			wait(t, q, 10_001)
			if took := time.Since(began); took < 1000*per || took > 1010*per {
				t.Errorf("1000 windows of %v took %v", per, took)
			}
		})
	}
}

// A call may take several places, in every window, and those ahead of others count as what they take.
func TestWeight(t *testing.T) {
	weigh := func(req *http.Request) int { return int(req.ContentLength) }
	enter := func(ctx context.Context, q *quota.Quota, weight int) error {
		pass, err := q.Enter(ctx, steadyhttp.Attempt{Request: &http.Request{ContentLength: int64(weight)}})
		if err == nil {
			pass.Leave(answered())
		}
		return err
	}
	for _, c := range []struct {
		weights []int
		minutes int // that the last one waits
	}{
		{[]int{20, 20, 20, 20, 20}, 0},
		{[]int{20, 20, 20, 20, 20, 1}, 1},
		{[]int{1, 100}, 1},
		{[]int{100, 100, 100}, 2},
		{[]int{60, 60, 40}, 1}, // first come, first served: the third has room once the second has
		{[]int{0, -5, 98}, 0},
		{[]int{0, -5, 99}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{Windows: minuteAndHour(), Weight: weigh}
			began := time.Now()
			for _, w := range c.weights {
				if err := enter(t.Context(), q, w); err != nil {
					t.Fatal(err)
				}
			}
			if got := int(time.Since(began).Minutes()); got != c.minutes {
				t.Errorf("%v took %v", c.weights, time.Since(began))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: minuteAndHour(), Weight: weigh}
		if err := enter(t.Context(), q, 101); err == nil || !strings.Contains(err.Error(), "Quota.Weight of the call is 101, and Quota.Windows[0].N is 100") {
			t.Errorf("heavier than a window: %v", err)
		}
		if err := enter(t.Context(), q, 100); err != nil {
			t.Error(err)
		}
		for range 3 { // 50 each, so that the next waits for two minutes
			go enter(t.Context(), q, 50)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		told := time.Duration(0)
		tr := &steadyhttp.Transport{
			Base:  newService(&rolling{windows: q.Windows}, q.Windows),
			Gates: []steadyhttp.Gate{q},
			Trace: &steadyhttp.Trace{Waiting: func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) { told = w.For }},
		}
		soon, stop := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(soon, http.MethodGet, "http://api.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		go tr.RoundTrip(req)
		synctest.Wait()
		stop()
		synctest.Wait()
		if told < 110*time.Second || told > 125*time.Second {
			t.Errorf("behind 150 places, told of %v", told)
		}
		err = enter(ctx, q, 60)
		if refusal, ok := errors.AsType[*steadyhttp.Refusal](err); !ok || refusal.Wait < 2*time.Minute {
			t.Errorf("behind 150 places: %v", err)
		}
		time.Sleep(time.Hour)
	})
	// What is given back and what is sent again takes its weight too.
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{drop: func(n int) bool { return n == 2 }}
		base := p.transport()
		defer base.CloseIdleConnections()
		q := &quota.Quota{Windows: []quota.Window{{N: 50, Per: time.Minute}}, Weight: func(*http.Request) int { return 20 }}
		tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
		began := time.Now()
		for range 2 {
			if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < time.Minute || q.State().Windows[0].Used != 40 {
			t.Errorf("took %v, %+v", took, q.State())
		}
		pass, err := (&quota.Quota{Windows: q.Windows, Weight: q.Weight}).Enter(t.Context(),
			steadyhttp.Attempt{Request: &http.Request{}})
		if err != nil {
			t.Fatal(err)
		}
		pass.Leave(steadyhttp.Attempt{})
	})
}

// What a caller in line is told counts the places of all those ahead, wherever in the line it stands,
// and of nobody behind.
func TestWeightOfThoseAheadAnywhereInTheLine(t *testing.T) {
	for _, c := range []struct {
		weights []int // in line, of normal priority, the first one first
		high    []int
		at      int // in line, among the normal ones
		rounds  int // windows until it may go: 10 places each
	}{
		{[]int{10, 10, 10, 10}, nil, 1, 2},
		{[]int{10, 10, 10, 10, 10, 10, 10}, nil, 3, 4},
		{[]int{9, 9, 9, 1, 1, 1, 1, 1, 1, 1}, nil, 3, 3}, // near the front, behind heavy ones
		{[]int{1, 1, 1, 1, 1, 1, 9, 9, 9}, nil, 6, 2},    // near the end, before heavy ones
		{[]int{1, 1, 1, 1, 1, 1, 1, 9, 9}, nil, 5, 1},
		{[]int{10, 1, 10}, []int{10, 10, 10}, 1, 5},
		{[]int{5}, []int{9, 9}, 0, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := &quota.Quota{
				Windows: []quota.Window{{N: 10, Per: time.Minute}},
				Weight:  func(req *http.Request) int { return int(req.ContentLength) },
			}
			fill(t, q, 10)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			began := time.Now()
			var mu sync.Mutex
			var told steadyhttp.Wait
			join := func(priority quota.Priority, i, weight int) {
				watched := priority == quota.Normal && i == c.at
				tr := &steadyhttp.Transport{Gates: []steadyhttp.Gate{joining{q, began.Add(time.Duration(i))}},
					Base: roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })}
				if watched {
					tr.Trace = &steadyhttp.Trace{Waiting: func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) {
						mu.Lock()
						defer mu.Unlock()
						told = w
					}}
				}
				req, err := http.NewRequestWithContext(quota.WithPriority(ctx, priority), "PUT", "http://api.example/",
					strings.NewReader(strings.Repeat("x", weight)))
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					if resp, err := tr.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
				}()
				synctest.Wait()
			}
			for i, weight := range c.high {
				join(quota.High, i, weight)
			}
			for i, weight := range c.weights { // the one that is watched comes last, into its place
				if i != c.at {
					join(quota.Normal, i, weight)
				}
			}
			join(quota.Normal, c.at, c.weights[c.at])
			mu.Lock()
			defer mu.Unlock()
			if want := time.Duration(c.rounds) * time.Minute; (told.For - want).Abs() > time.Second {
				t.Errorf("%v behind %v of high priority, the %d-th: told %v, want %v", c.weights, c.high, c.at+1, told.For, want)
			}
			cancel()
			synctest.Wait()
		})
	}
}

// joining is a gate that takes a call to have begun at another time.
type joining struct {
	steadyhttp.Gate
	began time.Time
}

func (j joining) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	a.Began = j.began
	return j.Gate.Enter(ctx, a)
}
