package sidebyside

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// The batch and the storm run in virtual time: what they show is what a client decides, not how
// fast it is.

// window is a limit of n calls.
type window struct {
	n   int
	per time.Duration
}

// limits are those of Defender: 100 calls a minute and 1,500 an hour.
var limits = []window{{100, time.Minute}, {1500, time.Hour}}

// counter says whether a call that arrives now is let in, or when one would be.
type counter interface {
	arrive(now time.Time) time.Duration
}

// sliding counts the calls of the last minute and the last hour.
type sliding struct{ log []time.Time }

func (s *sliding) arrive(now time.Time) (wait time.Duration) {
	for _, w := range limits {
		if i := len(s.log) - w.n; i >= 0 {
			wait = max(wait, s.log[i].Add(w.per).Sub(now))
		}
	}
	if wait <= 0 {
		s.log = append(s.log, now)
	}
	return wait
}

// fixed counts from one full minute, or hour, to the next.
type fixed struct {
	began [2]time.Time
	in    [2]int
}

func (f *fixed) arrive(now time.Time) (wait time.Duration) {
	for i, w := range limits {
		if began := now.Truncate(w.per); !began.Equal(f.began[i]) {
			f.began[i], f.in[i] = began, 0
		}
		if f.in[i] >= w.n {
			wait = max(wait, f.began[i].Add(w.per).Sub(now))
		}
	}
	if wait <= 0 {
		f.in[0]++
		f.in[1]++
	}
	return wait
}

// bucket has n tokens, and gets n in the window's time.
type bucket struct {
	tokens [2]float64
	at     time.Time
}

func (b *bucket) arrive(now time.Time) (wait time.Duration) {
	for i, w := range limits {
		if b.at.IsZero() {
			b.tokens[i] = float64(w.n)
			continue
		}
		gained := float64(w.n) * float64(now.Sub(b.at)) / float64(w.per)
		b.tokens[i] = min(float64(w.n), b.tokens[i]+gained)
		if b.tokens[i] < 1-1e-6 {
			wait = max(wait, time.Duration((1-b.tokens[i])*float64(w.per)/float64(w.n)))
		}
	}
	if b.at = now; wait <= 0 {
		b.tokens[0]--
		b.tokens[1]--
	}
	return wait
}

const batchCalls = 3000

// batchResult is what a batch came to.
type batchResult struct {
	took    time.Duration
	refused int // 429s
	lost    int // calls that ended with one
}

// kinds of servers, with and without Retry-After.
var servers = []struct {
	name string
	new  func() counter
	told bool
}{
	{"sliding", func() counter { return &sliding{} }, true},
	{"sliding, no time named", func() counter { return &sliding{} }, false},
	{"fixed", func() counter { return &fixed{} }, true},
	{"fixed, no time named", func() counter { return &fixed{} }, false},
	{"bucket", func() counter { return &bucket{} }, true},
	{"bucket, no time named", func() counter { return &bucket{} }, false},
}

// batch makes calls with 32 workers through one client, each up to 20 times.
func batch(t *testing.T, c client, counts func() counter, told bool, calls int) (r batchResult) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		count := counts()
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			time.Sleep(25 * time.Millisecond) // there
			mu.Lock()
			wait := count.arrive(time.Now())
			if wait > 0 {
				r.refused++
			}
			mu.Unlock()
			time.Sleep(25 * time.Millisecond) // and back
			resp := &http.Response{
				StatusCode: 200, Header: http.Header{}, Request: req, Body: http.NoBody, ProtoMajor: 1, ProtoMinor: 1,
			}
			if wait > 0 {
				resp.StatusCode = http.StatusTooManyRequests
				if told {
					resp.Header.Set("Retry-After", fmt.Sprint(int(math.Ceil(wait.Seconds()))))
				}
			}
			return resp, nil
		})
		do := c.new(base, settings{
			attempts: 20, wait: time.Second, mostWait: time.Minute, serverWait: 75 * time.Minute,
			steady: func(t *steadyhttp.Transport) {
				t.Policy = steadyhttp.Batch()
				q := &quota.Quota{}
				for _, w := range limits {
					q.Windows = append(q.Windows, quota.Window{N: w.n, Per: w.per})
				}
				t.Gates = []steadyhttp.Gate{q}
			},
		})
		began := time.Now()
		left := calls
		var group sync.WaitGroup
		for range 32 {
			group.Go(func() {
				for {
					mu.Lock()
					left--
					over := left < 0
					mu.Unlock()
					if over {
						return
					}
					resp, err := do(t.Context(), address, nil)
					if err == nil {
						finish(resp)
					}
					if err != nil || resp.StatusCode != 200 {
						mu.Lock()
						r.lost++
						mu.Unlock()
					}
				}
			})
		}
		group.Wait()
		r.took = time.Since(began)
	})
	return r
}

// The storm: clients make calls at a steady rate, whatever becomes of them, to a service that
// queues. It serves what it has queued even where nobody waits for it any more, which is what keeps
// an overload alive (Bronson et al., HotOS 2021).
const (
	stormClients  = 30
	stormCapacity = 300.0 // a second
	stormLoad     = 210.0 // calls a second: 70 %
	stormQueue    = 10 * time.Second
	stormBegin    = 30 * time.Second
	stormEnd      = 60 * time.Second
	stormTimeout  = time.Second // of an attempt
)

// stormResult is what a storm came to, second by second.
type stormResult struct {
	sent, answered []int
	calls          int     // during the outage
	amplification  float64 // sendings for a call during the outage
	peak           float64 // the highest rate, by the offered one
	recovery       time.Duration
	lost           int // calls that were not answered
}

func storm(t *testing.T, c client, length time.Duration) (r stormResult) {
	synctest.Test(t, func(t *testing.T) {
		seconds := int(length / time.Second)
		r.sent, r.answered = make([]int, seconds), make([]int, seconds)
		began := time.Now()
		var mu sync.Mutex
		dice := rand.New(rand.NewPCG(1, 2))
		free := began // when the service has done all that it has queued
		second := func() int { return min(int(time.Since(began)/time.Second), seconds-1) }
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			now := time.Now()
			r.sent[second()]++
			from := free
			if from.Before(now) {
				from = now
			}
			// It is down: nothing is served, all is queued.
			if at := from.Sub(began); at >= stormBegin && at < stormEnd {
				from = began.Add(stormEnd)
			}
			full := free.Sub(now) > stormQueue && now.Sub(began) >= stormEnd ||
				float64(free.Sub(began.Add(stormEnd))) > float64(stormQueue) && now.Sub(began) < stormEnd
			if !full {
				free = from.Add(time.Duration(dice.ExpFloat64() / stormCapacity * float64(time.Second)))
			}
			at := free
			mu.Unlock()
			resp := &http.Response{
				StatusCode: 200, Header: http.Header{}, Request: req, Body: http.NoBody, ProtoMajor: 1, ProtoMinor: 1,
			}
			if full {
				resp.StatusCode = http.StatusServiceUnavailable
				return resp, nil
			}
			timer := time.NewTimer(time.Until(at))
			defer timer.Stop()
			select {
			case <-timer.C:
				return resp, nil
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		})
		var dos []do
		for range stormClients {
			dos = append(dos, c.new(base, settings{
				attempts: 4, wait: 100 * time.Millisecond, mostWait: 20 * time.Second,
				attemptTimeout: stormTimeout,
			}))
		}
		good := make([]int, seconds)  // answered, by the second of their beginning
		begun := make([]int, seconds) // calls
		arrivals := rand.New(rand.NewPCG(3, 4))
		var group sync.WaitGroup
		for time.Since(began) < length-30*time.Second {
			time.Sleep(time.Duration(arrivals.ExpFloat64() / stormLoad * float64(time.Second)))
			do, at := dos[arrivals.IntN(len(dos))], second()
			mu.Lock()
			begun[at]++
			mu.Unlock()
			group.Go(func() {
				resp, err := do(t.Context(), address, nil)
				if err == nil {
					finish(resp)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil && resp.StatusCode == 200 {
					good[at]++
					r.answered[second()]++
				} else {
					r.lost++
				}
			})
		}
		group.Wait()
		sent, most := 0, 0
		for s := int(stormBegin / time.Second); s < int(stormEnd/time.Second); s++ {
			sent, r.calls = sent+r.sent[s], r.calls+begun[s]
		}
		for _, n := range r.sent {
			most = max(most, n)
		}
		r.amplification = float64(sent) / float64(r.calls)
		r.peak = float64(most) / stormLoad
		r.recovery = -1
		for s := int(stormEnd / time.Second); s+10 <= int(length/time.Second)-30; s++ {
			g, of := 0, 0
			for i := s; i < s+10; i++ {
				g, of = g+good[i], of+begun[i]
			}
			if float64(g) >= 0.98*float64(of) {
				r.recovery = time.Duration(s)*time.Second - stormEnd
				break
			}
		}
	})
	return r
}

// theMinimum is when the last of 3,000 calls may arrive at a sliding window: the second 1,500 begin
// an hour after the first, 100 a minute.
const theMinimum = time.Hour + 14*time.Minute
