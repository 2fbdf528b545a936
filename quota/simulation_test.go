package quota_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// minuteAndHour are Defender's usual limits.
func minuteAndHour() []quota.Window {
	return []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}
}

// counter is how a simulated server counts: it says whether a call that arrives now is let in, and if not, when the next
// one would be.
type counter interface {
	arrive(now time.Time) (wait time.Duration, ok bool)
}

// rolling counts the calls of any interval as long as each window. Where it is strict, refused calls count too.
type rolling struct {
	windows []quota.Window
	strict  bool
	log     []time.Time // in order
}

func (r *rolling) arrive(now time.Time) (wait time.Duration, ok bool) {
	for _, w := range r.windows {
		if i := len(r.log) - w.N; i >= 0 {
			wait = max(wait, w.Per-now.Sub(r.log[i]))
		}
	}
	if wait == 0 || r.strict {
		r.log = append(r.log, now)
	}
	return wait, wait == 0
}

// fixed counts from one round time to the next.
type fixed struct {
	windows []quota.Window
	from    time.Time // a window begins here
	began   []time.Time
	in      []int
}

func (f *fixed) arrive(now time.Time) (wait time.Duration, ok bool) {
	if f.in == nil {
		f.in, f.began = make([]int, len(f.windows)), make([]time.Time, len(f.windows))
	}
	for i, w := range f.windows {
		if began := f.from.Add(now.Sub(f.from).Truncate(w.Per)); !began.Equal(f.began[i]) {
			f.began[i], f.in[i] = began, 0
		}
		if f.in[i] >= w.N {
			wait = max(wait, f.began[i].Add(w.Per).Sub(now))
		}
	}
	if wait == 0 {
		for i := range f.in {
			f.in[i]++
		}
	}
	return wait, wait == 0
}

// bucket holds N tokens and gains N in a window's time.
type bucket struct {
	windows []quota.Window
	tokens  []float64
	at      time.Time
}

func (b *bucket) arrive(now time.Time) (wait time.Duration, ok bool) {
	if b.tokens == nil {
		for _, w := range b.windows {
			b.tokens = append(b.tokens, float64(w.N))
		}
		b.at = now
	}
	for i, w := range b.windows {
		b.tokens[i] = min(float64(w.N), b.tokens[i]+float64(w.N)*float64(now.Sub(b.at))/float64(w.Per))
		if b.tokens[i] < 1-1e-6 {
			wait = max(wait, time.Duration((1-b.tokens[i])*float64(w.Per)/float64(w.N)))
		}
	}
	b.at = now
	if wait == 0 {
		for i := range b.tokens {
			b.tokens[i]--
		}
	}
	return wait, wait == 0
}

// service is a base transport around a counter.
type service struct {
	delay      func() time.Duration // one way; nil: none
	takes      time.Duration        // between arrival and answer
	silent     bool                 // a 429 names no time
	text       string               // of a 429; "": none
	skew       float64              // the server's clock is faster by this share
	lose       float64              // share of the answers that are lost with their connection
	replayEach int                  // net/http sends every n-th request twice; 0: none
	breakEach  time.Duration        // after so long each, all connections break at once; 0: never
	others     func(now time.Time)  // calls of another program, made up to now; nil: none

	mu       sync.Mutex
	counter  counter
	windows  []quota.Window
	dice     *rand.Rand
	arrivals []time.Time // let in
	refused  []time.Time
	began    time.Time
	requests int
}

func newService(c counter, windows []quota.Window) *service {
	return &service{counter: c, windows: windows, takes: 50 * time.Millisecond, dice: rand.New(rand.NewPCG(1, 2)), began: time.Now()}
}

// uniform delays are between two bounds.
func (s *service) uniform(from, to time.Duration) {
	s.delay = func() time.Duration {
		s.mu.Lock()
		defer s.mu.Unlock()
		return from + time.Duration(s.dice.Int64N(int64(to-from)))
	}
}

func (s *service) travel() {
	if s.delay != nil {
		time.Sleep(s.delay())
	}
}

// clock is the server's.
func (s *service) clock() time.Time {
	now := time.Now()
	return now.Add(time.Duration(s.skew * float64(now.Sub(s.began))))
}

func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(req.Context())
	getConn := func() error {
		if trace != nil && trace.GetConn != nil {
			trace.GetConn("api.example:80")
		}
		return context.Cause(req.Context())
	}
	wrote := func() {
		if trace != nil && trace.WroteHeaders != nil {
			trace.WroteHeaders()
		}
	}
	began := time.Now()
	if err := getConn(); err != nil {
		return nil, err
	}
	wrote()
	s.travel()
	s.mu.Lock()
	s.requests++
	replay := s.replayEach > 0 && s.requests%s.replayEach == 0
	lost := s.lose > 0 && s.dice.Float64() < s.lose
	s.mu.Unlock()
	wait, ok := s.count()
	if s.breakEach > 0 {
		next := s.began.Add(began.Sub(s.began).Truncate(s.breakEach) + s.breakEach)
		if replay = next.Before(time.Now().Add(s.takes)); replay {
			time.Sleep(time.Until(next))
		}
	}
	if replay {
		// The connection closed after the request had been read; net/http sends it again on a new one.
		s.travel()
		if err := getConn(); err != nil {
			return nil, err
		}
		wrote()
		s.travel()
		wait, ok = s.count()
	}
	time.Sleep(s.takes)
	if lost {
		return nil, io.ErrUnexpectedEOF
	}
	s.travel()
	status := http.StatusOK
	header := http.Header{}
	if !ok {
		status = http.StatusTooManyRequests
		if !s.silent {
			header.Set("Retry-After", fmt.Sprint(int(math.Ceil(wait.Seconds()))))
		}
	}
	resp := &http.Response{StatusCode: status, Header: header, Body: http.NoBody, Request: req}
	if !ok && s.text != "" {
		header.Set("Content-Type", "application/json")
		resp.Body = io.NopCloser(strings.NewReader(`{"error":{"code":"TooManyRequests","message":"` + s.text + `"}}`))
	}
	return resp, nil
}

func (s *service) count() (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if s.others != nil {
		s.others(now)
	}
	if wait, ok = s.counter.arrive(now); ok {
		s.arrivals = append(s.arrivals, now)
	} else {
		s.refused = append(s.refused, now)
	}
	return wait, ok
}

// worst returns the largest number of calls let in within any interval of a window's length.
func (s *service) worst(w quota.Window) int {
	most, from := 0, 0
	for to := range s.arrivals {
		for s.arrivals[to].Sub(s.arrivals[from]) >= w.Per {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}

// batchResult is what a batch came to.
type batchResult struct {
	took   time.Duration
	failed int
	last   error
}

// batch makes calls with 32 workers, as fast as the gate lets it.
func batch(t *testing.T, transport http.RoundTripper, calls int, until time.Duration) batchResult {
	t.Helper()
	return batchOf(t, transport, 32, calls, until)
}

func batchOf(t *testing.T, transport http.RoundTripper, workers, calls int, until time.Duration) batchResult {
	t.Helper()
	return batchTo(t, transport, "http://api.example/machines", workers, calls, until)
}

func batchTo(t *testing.T, transport http.RoundTripper, url string, workers, calls int, until time.Duration) batchResult {
	t.Helper()
	var mu sync.Mutex
	var r batchResult
	began := time.Now()
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				mu.Lock()
				calls--
				over := calls < 0 || until > 0 && time.Since(began) >= until
				mu.Unlock()
				if over {
					return
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := transport.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					mu.Lock()
					r.failed++
					r.last = err
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	r.took = time.Since(began)
	return r
}

func throughQuota(s *service, q *quota.Quota) *steadyhttp.Transport {
	policy := steadyhttp.Batch()
	policy.Budget = &steadyhttp.Budget{Max: -1}
	return &steadyhttp.Transport{Base: s, Policy: policy, Gates: []steadyhttp.Gate{q}}
}

// theMinimum is when the last of 3,000 calls may arrive at a rolling window: 1,500 within the first hour, the rest from its
// end on, 100 a minute.
const theMinimum = time.Hour + 14*time.Minute

// 3,000 calls against every kind of server: no 429, nothing failed, no time wasted.
func TestNo429(t *testing.T) {
	for _, kind := range []struct {
		name    string
		counter func(began time.Time) counter
		exact   bool // the minimum can be reached without knowing more than the limits
	}{
		{"rolling", func(time.Time) counter { return &rolling{windows: minuteAndHour()} }, true},
		{"strict", func(time.Time) counter { return &rolling{windows: minuteAndHour(), strict: true} }, true},
		{"fixed", func(began time.Time) counter { return &fixed{windows: minuteAndHour(), from: began} }, true},
		{"fixed, begun before", func(began time.Time) counter {
			return &fixed{windows: minuteAndHour(), from: began.Add(-37 * time.Second)}
		}, false},
		{"bucket", func(time.Time) counter { return &bucket{windows: minuteAndHour()} }, false},
	} {
		for _, delays := range []bool{false, true} {
			for _, silent := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/delays=%v/silent=%v", kind.name, delays, silent), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newService(kind.counter(time.Now()), minuteAndHour())
						s.silent = silent
						most := 1.001
						if delays {
							s.uniform(20*time.Millisecond, 520*time.Millisecond)
							most = 1.005
						}
						r := batch(t, throughQuota(s, &quota.Quota{Windows: minuteAndHour()}), 3000, 0)
						factor := r.took.Seconds() / theMinimum.Seconds()
						t.Logf("%v, %.4f of the minimum, %d 429s", r.took, factor, len(s.refused))
						if len(s.refused) > 0 || r.failed > 0 {
							t.Errorf("%d 429s, %d calls failed: %v", len(s.refused), r.failed, r.last)
						}
						if kind.exact && factor > most {
							t.Errorf("took %.4f times the minimum, want at most %v", factor, most)
						}
					})
				})
			}
		}
	}
}

// A day at the limit, or a quarter of one: not one interval over it, as the server counts, and next
// to nothing left unused.
func TestADayAtTheLimit(t *testing.T) {
	type day struct {
		name   string
		change func(*service, *steadyhttp.Transport)
		used   float64 // of what could be
	}
	days := []day{
		{"plain", func(*service, *steadyhttp.Transport) {}, 0.999},
		{"delays", func(s *service, _ *steadyhttp.Transport) { s.uniform(20*time.Millisecond, 520*time.Millisecond) }, 0.999},
		{"server's clock slow", func(s *service, _ *steadyhttp.Transport) { s.skew = -200e-6 }, 0.998},
		{"server's clock fast", func(s *service, _ *steadyhttp.Transport) { s.skew = 200e-6 }, 0.998},
		{"slow tokens", func(_ *service, tr *steadyhttp.Transport) {
			var fetched time.Time
			alone := make(chan struct{}, 1) // and no mutex: virtual time does not pass while one is waited for
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error {
				alone <- struct{}{}
				defer func() { <-alone }()
				if time.Since(fetched) > 7*time.Minute {
					time.Sleep(5 * time.Second)
					fetched = time.Now()
				}
				return nil
			}
		}, 0.99},
		{"lost answers", func(s *service, _ *steadyhttp.Transport) { s.lose = 0.2 }, 0.99},
		{"mass loss", func(s *service, _ *steadyhttp.Transport) {
			s.breakEach, s.takes = 7*time.Minute, 10*time.Second
		}, 0.995},
		{"mass loss, at once", func(s *service, _ *steadyhttp.Transport) {
			s.breakEach, s.takes = time.Minute, 59*time.Second
		}, 0.995},
	}
	for _, each := range []int{1, 2, 3, 4, 5, 6, 7, 8, 50, 1000} {
		days = append(days, day{fmt.Sprint("replays of each ", each), func(s *service, _ *steadyhttp.Transport) {
			s.replayEach = each
		}, 0.995})
	}
	for _, c := range days {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hours := long.Size(t, 6, 24)
				if quota.RaceEnabled {
					hours = 3
				}
				windows := minuteAndHour()
				s := newService(&rolling{windows: windows}, windows)
				transport := throughQuota(s, &quota.Quota{Windows: windows})
				c.change(s, transport)
				workers := 32
				if s.breakEach > 0 {
					workers = 50
				}
				r := batchOf(t, transport, workers, math.MaxInt, time.Duration(hours)*time.Hour)
				// The workers' last calls go out after the end, and do not count.
				within := 0
				for _, at := range s.arrivals {
					if at.Sub(s.began) < time.Duration(hours)*time.Hour {
						within++
					}
				}
				used := float64(within) / float64(hours*1500)
				t.Logf("%d calls let in, %.2f %% of what could be, %d 429s, worst minute %d, worst hour %d",
					len(s.arrivals), 100*used, len(s.refused), s.worst(windows[0]), s.worst(windows[1]))
				if len(s.refused) > 0 || r.failed > 0 {
					t.Errorf("%d 429s, %d failed: %v", len(s.refused), r.failed, r.last)
				}
				if s.worst(windows[0]) > 100 || s.worst(windows[1]) > 1500 {
					t.Errorf("worst minute %d, worst hour %d", s.worst(windows[0]), s.worst(windows[1]))
				}
				if used < c.used {
					t.Errorf("used %.4f of the quota, want %v", used, c.used)
				}
			})
		})
	}
}
