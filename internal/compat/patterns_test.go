package compat

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"

	"github.com/steadyhttp/steadyhttp"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// closing counts the bodies that are open, and can be read for as long as its request's context
// lives.
type closing struct {
	io.Reader
	ctx  context.Context
	open *atomic.Int64
	once sync.Once
}

func (c *closing) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, c.ctx.Err()
	}
	return c.Reader.Read(p)
}

func (c *closing) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return nil
}

// backend answers after a time with a status, both as its script has it, and obeys contexts.
type backend struct {
	sent, open, cancelled atomic.Int64
	answer                func(n int64) (time.Duration, int)
	deaf                  bool // it does not obey contexts
}

// content of a failure is more than the Transport reads ahead, and closes by itself.
func content(status int) string {
	if status < 500 {
		return "body"
	}
	return strings.Repeat("sorry ", 20_000)
}

func (b *backend) RoundTrip(req *http.Request) (*http.Response, error) {
	takes, status := b.answer(b.sent.Add(1))
	cancelled := req.Context().Done()
	if b.deaf {
		cancelled = nil
	}
	select {
	case <-cancelled:
		b.cancelled.Add(1)
		return nil, req.Context().Err()
	case <-time.After(takes):
	}
	if status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	b.open.Add(1)
	body := &closing{Reader: strings.NewReader(content(status)), ctx: req.Context(), open: &b.open}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: body, Request: req}, nil
}

func get(t *testing.T, ctx context.Context, rt http.RoundTripper) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(resp.Body)
	if string(body) != content(resp.StatusCode) || err != nil {
		t.Errorf("got a body of %d bytes, %v", len(body), err)
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func once() steadyhttp.Policy {
	return steadyhttp.Policy{MaxAttempts: 1, Budget: &steadyhttp.Budget{Max: -1}}
}

// A caller who gives up says nothing of the service: any number of them opens no breaker, and takes
// no half-open one's place for good.
func TestBreakerDoesNotCountTheCallersCancellations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusServiceUnavailable
		base := &backend{answer: func(int64) (time.Duration, int) { return time.Second, status }}
		gate := newBreaker(3, time.Minute)
		rt := &steadyhttp.Transport{Base: base, Policy: once(), Gates: []steadyhttp.Gate{gate}}
		giveUp := func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := get(t, ctx, rt); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}
		for range 10 {
			giveUp()
		}
		if s := gate.steps.State(); s != gobreaker.StateClosed {
			t.Fatalf("after ten cancelled calls the breaker is %v", s)
		}
		for range 3 {
			get(t, t.Context(), rt)
		}
		if s := gate.steps.State(); s != gobreaker.StateOpen {
			t.Fatalf("after three failures the breaker is %v", s)
		}
		time.Sleep(time.Minute + time.Second)
		giveUp() // the probe
		if s := gate.steps.State(); s != gobreaker.StateHalfOpen {
			t.Fatalf("after a cancelled probe the breaker is %v", s)
		}
		status = http.StatusOK
		if got, err := get(t, t.Context(), rt); got != http.StatusOK {
			t.Fatalf("the next probe got %d, %v", got, err)
		}
		if s := gate.steps.State(); s != gobreaker.StateClosed {
			t.Errorf("after an answer the breaker is %v", s)
		}
	})
}

// Half-open, a breaker lets one of 1,000 callers through; the others are refused, and nothing of
// them is sent.
func TestHalfOpenBreakerLetsOneThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusServiceUnavailable
		base := &backend{answer: func(int64) (time.Duration, int) { return time.Second, status }}
		gate := newBreaker(3, time.Minute)
		rt := &steadyhttp.Transport{Base: base, Policy: once(), Gates: []steadyhttp.Gate{gate}}
		for range 3 {
			get(t, t.Context(), rt)
		}
		time.Sleep(time.Minute + time.Second)
		status = http.StatusOK
		before := base.sent.Load()
		var refused, answered atomic.Int64
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() {
				switch _, err := get(t, t.Context(), rt); {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, gobreaker.ErrTooManyRequests) && errors.Is(err, steadyhttp.ErrNotSent):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if sent := base.sent.Load() - before; sent != 1 || answered.Load() != 1 || refused.Load() != 999 {
			t.Errorf("%d were sent, %d answered and %d refused", sent, answered.Load(), refused.Load())
		}
		if got, err := get(t, t.Context(), rt); got != http.StatusOK {
			t.Errorf("after the probe's answer: %d, %v", got, err)
		}
	})
}

// No more attempts than places are under way, and each way out of an attempt gives its place back.
func TestBulkheadGivesPlacesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n) // one at a time sleeps in the bubble's order
			}
			defer now.Add(-1)
			select {
			case <-req.Context().Done():
				return nil, req.Context().Err()
			case <-time.After(time.Second):
				return nil, io.ErrUnexpectedEOF
			}
		})
		const places = 3
		gate := bulkhead{semaphore.NewWeighted(places)}
		rt := &steadyhttp.Transport{Base: base, Policy: once(), Gates: []steadyhttp.Gate{gate}}
		var group sync.WaitGroup
		for n := range 50 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*500*time.Millisecond)
				defer cancel()
				get(t, ctx, rt)
			})
		}
		group.Wait()
		if most.Load() != places {
			t.Errorf("up to %d at once, want %d", most.Load(), places)
		}
		if !gate.places.TryAcquire(places) {
			t.Error("a place was not given back")
		}
	})
}

func TestHedge(t *testing.T) {
	const slow, fast = time.Hour, time.Millisecond
	for _, tt := range []struct {
		name      string
		method    string
		script    []time.Duration
		statuses  []int
		max       float64 // of the Budget
		want      int     // status; 0: an error
		sent      int64
		within    time.Duration
		cancelled int64
	}{
		{"a fast answer", "GET", []time.Duration{fast}, []int{200}, 0, 200, 1, fast, 0},
		{"a slow one", "GET", []time.Duration{slow, fast}, []int{200, 200}, 0, 200, 2, time.Second + fast, 1},
		{"the loser answers all the same", "GET", []time.Duration{3 * time.Second, fast}, []int{200, 200}, 0, 200, 2, time.Second + fast, 0},
		{"a slow one, and nothing in the budget", "GET", []time.Duration{2 * time.Second}, []int{200}, 0.5, 200, 1, 2 * time.Second, 0},
		{"a POST is sent once", "POST", []time.Duration{2 * time.Second}, []int{200}, 0, 200, 1, 2 * time.Second, 0},
		{"the hedge fails, the first is waited for", "GET", []time.Duration{3 * time.Second, fast}, []int{200, 503}, 0, 200, 2, 3 * time.Second, 0},
		{"the first fails late, the hedge is waited for", "GET", []time.Duration{2 * time.Second, 3 * time.Second}, []int{503, 200}, 0, 200, 2, 4 * time.Second, 0},
		{"both fail", "GET", []time.Duration{2 * time.Second, 3 * time.Second}, []int{503, 500}, 0, 500, 2, 4 * time.Second, 0},
		{"the hedge breaks, the first fails", "GET", []time.Duration{3 * time.Second, fast}, []int{503, 0}, 0, 503, 2, 3 * time.Second, 0},
		{"the first breaks, the hedge fails", "GET", []time.Duration{2 * time.Second, 3 * time.Second}, []int{0, 503}, 0, 503, 2, 4 * time.Second, 0},
		{"the first fails, the hedge breaks", "GET", []time.Duration{2 * time.Second, 3 * time.Second}, []int{503, 0}, 0, 503, 2, 4 * time.Second, 0},
		{"both break", "GET", []time.Duration{2 * time.Second, 3 * time.Second}, []int{0, 0}, 0, 0, 2, 4 * time.Second, 0},
		{"a fast failure", "GET", []time.Duration{fast}, []int{503}, 0, 503, 1, fast, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &backend{deaf: tt.name == "the loser answers all the same"}
				base.answer = func(n int64) (time.Duration, int) { return tt.script[n-1], tt.statuses[n-1] }
				budget := &steadyhttp.Budget{Max: tt.max}
				policy := steadyhttp.Policy{MaxAttempts: 1, Budget: budget}
				rt := &hedge{next: &steadyhttp.Transport{Base: base, Policy: policy}, budget: budget, after: time.Second}
				req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://api.example/", nil)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				resp, err := rt.RoundTrip(req)
				if (err == nil) != (resp != nil) {
					t.Fatalf("got %v and %v", resp, err)
				}
				if err != nil {
					if tt.want != 0 || base.sent.Load() != tt.sent {
						t.Errorf("%d sent, %v", base.sent.Load(), err)
					}
					return
				}
				if took := time.Since(began); took != tt.within {
					t.Errorf("took %v, want %v", took, tt.within)
				}
				if resp.Request != req {
					t.Error("the answer is not to the caller's request")
				}
				if body, err := io.ReadAll(resp.Body); string(body) != content(tt.want) || err != nil {
					t.Errorf("the body has %d bytes, %v: the context of the answer that was taken has ended", len(body), err)
				}
				resp.Body.Close()
				time.Sleep(5 * time.Second) // for a loser that is deaf
				synctest.Wait()
				if resp.StatusCode != tt.want || base.sent.Load() != tt.sent || base.cancelled.Load() != tt.cancelled {
					t.Errorf("got %d, %d sent, %d cancelled; want %d, %d, %d", resp.StatusCode,
						base.sent.Load(), base.cancelled.Load(), tt.want, tt.sent, tt.cancelled)
				}
				if open := base.open.Load(); open != 0 {
					t.Errorf("%d bodies are still open", open)
				}
			})
		})
	}
}

// In an outage that is slow as well, hedges are paid for out of the same budget as retries.
func TestHedgesAreBoundByTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &backend{answer: func(int64) (time.Duration, int) { return 2 * time.Second, 503 }}
		budget := &steadyhttp.Budget{PerSecond: -1}
		policy := steadyhttp.Policy{Budget: budget}
		rt := &hedge{next: &steadyhttp.Transport{Base: base, Policy: policy}, budget: budget, after: time.Second}
		const calls = 200
		for range calls {
			get(t, t.Context(), rt)
		}
		if sent := base.sent.Load(); sent != calls+10 {
			t.Errorf("%d requests for %d calls, want 10 more", sent, calls)
		}
	})
}
