package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// The jitter decides nothing. What fits without it is waited for, within the bound, whatever the bound is.
func TestJitterDecidesNothing(t *testing.T) {
	named := []string{"Retry-After: 10"}
	for _, tt := range []struct {
		name   string
		status int
		fields []string
		left   time.Duration
		fits   bool
	}{
		{"named, half a second to spare", 429, named, 10500 * time.Millisecond, true},
		{"named, a millisecond to spare", 429, named, 10001 * time.Millisecond, true},
		{"named, nothing to spare", 429, named, 10 * time.Second, false},
		{"named by a 503", 503, named, 10500 * time.Millisecond, true},
		{"named in milliseconds", 429, []string{"Retry-After-Ms: 1500"}, 1600 * time.Millisecond, true},
		{"back-off, more than the most", 503, nil, 751 * time.Millisecond, true},
		{"back-off, between", 503, nil, 400 * time.Millisecond, true},
		{"back-off, a millisecond over the least", 503, nil, 251 * time.Millisecond, true},
		{"back-off, the least", 503, nil, 250 * time.Millisecond, false},
		{"429 without a time", 429, nil, 300 * time.Millisecond, true},
	} {
		for _, bound := range []string{"deadline", "MaxElapsed", "both"} {
			t.Run(tt.name+", "+bound, inBubble(func(t *testing.T) {
				for range 300 {
					base := newScript(answers(tt.status, "", tt.fields...), answers(200, ""))
					ctx := t.Context()
					transport := &steadyhttp.Transport{Base: base}
					if bound != "MaxElapsed" {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, tt.left)
						defer cancel()
					}
					if bound != "deadline" {
						transport.Policy.MaxElapsed = tt.left
					}
					took := stopwatch()
					resp, _ := do(t, transport, newRequest(t, "GET", "").WithContext(ctx))
					if (resp.StatusCode == 200) != tt.fits || tt.fits && took() >= tt.left || !tt.fits && took() != 0 {
						t.Fatalf("%d after %v and %d sends", resp.StatusCode, took(), base.sent())
					}
				}
			}))
		}
	}
}

// Our own back-off is capped by MaxWait, and never ends a call by being longer.
func TestOwnBackOffDoesNotEndTheCall(t *testing.T) {
	for _, status := range []int{503, 429} {
		t.Run(strconv.Itoa(status), inBubble(func(t *testing.T) {
			for range 50 {
				base := newScript(answers(status, ""))
				transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 8, MaxWait: 5 * time.Second}}
				resp, _ := do(t, transport, newRequest(t, "GET", ""))
				if base.sent() != 8 || stopOf(t, resp) != "attempts" {
					t.Fatalf("sent %d times, Stop %q", base.sent(), stopOf(t, resp))
				}
			}
		}))
	}
}

// The least wait of retries that cost no attempt does not outlast the call either.
func TestLeastWaitOfFreeRetriesFits(t *testing.T) {
	inBubble(func(t *testing.T) {
		base := newScript(answers(429, "kept", "Retry-After-Ms: 10"))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxThrottled: -1}}
		resp, body := do(t, transport, newRequest(t, "GET", "").WithContext(ctx))
		if resp.StatusCode != 429 || body != "kept" || stopOf(t, resp) != "deadline" || ctx.Err() != nil {
			t.Errorf("%d %q, Stop %q, %v", resp.StatusCode, body, stopOf(t, resp), ctx.Err())
		}
	})(t)
}

// What is set after the constructor counts, and so does a struct literal, with or without a clock.
func TestBackOffIsReset(t *testing.T) {
	for name, newBackOff := range map[string]func() backoff.BackOff{
		"set after the constructor": func() backoff.BackOff {
			b := backoff.NewExponentialBackOff()
			b.InitialInterval, b.RandomizationFactor, b.Multiplier = 3*time.Second, 0, 1
			return b
		},
		"literal": func() backoff.BackOff {
			return &backoff.ExponentialBackOff{
				InitialInterval: 3 * time.Second, Multiplier: 1, MaxInterval: 3 * time.Second, Clock: backoff.SystemClock,
			}
		},
		"literal without a clock": func() backoff.BackOff {
			return &backoff.ExponentialBackOff{InitialInterval: 3 * time.Second, Multiplier: 1, MaxInterval: 3 * time.Second}
		},
		"of tries": func() backoff.BackOff {
			b := backoff.NewExponentialBackOff()
			b.InitialInterval, b.RandomizationFactor, b.Multiplier = 3*time.Second, 0, 1
			return backoff.WithMaxRetries(b, 10)
		},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			base := newScript(answers(503, ""))
			took := stopwatch()
			transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{NewBackOff: newBackOff}}
			do(t, transport, newRequest(t, "GET", ""))
			if base.sent() != 4 || took() != 9*time.Second {
				t.Errorf("%d attempts in %v", base.sent(), took())
			}
		}))
	}
}

// In Batch, throttling is bounded by time and by nothing else.
func TestBatchAgainstThrottling(t *testing.T) {
	for _, tt := range []struct {
		name       string
		fields     []string
		lasts      time.Duration // the throttling
		maxElapsed time.Duration
		stop       steadyhttp.Stop
		least      time.Duration
		most       time.Duration
		sends      int // at most; 0: any number
	}{
		{"5 h, no time named", nil, 5 * time.Hour, 0, "done", 5 * time.Hour, 5*time.Hour + 2*time.Minute, 400},
		{"5 h, a minute named", []string{"Retry-After: 60"}, 5 * time.Hour, 0, "done", 5 * time.Hour, 5*time.Hour + 2*time.Minute, 400},
		{"5 h, an hour named", []string{"Retry-After: 3600"}, 5 * time.Hour, 0, "done", 5 * time.Hour, 5*time.Hour + time.Minute, 7},
		{"for ever", nil, 1000 * time.Hour, 0, "elapsed", 5*time.Hour + 58*time.Minute, 6 * time.Hour, 0},
		{"for ever, named", []string{"Retry-After: 30"}, 1000 * time.Hour, 0, "elapsed", 5*time.Hour + 58*time.Minute, 6 * time.Hour, 0},
		{"MaxElapsed is less", nil, 1000 * time.Hour, time.Hour, "elapsed", 58 * time.Minute, time.Hour, 0},
		{"MaxElapsed is more", nil, 10 * time.Hour, 20 * time.Hour, "done", 10 * time.Hour, 10*time.Hour + 2*time.Minute, 0},
		{"a second named, for 10 minutes", []string{"Retry-After: 1"}, 10 * time.Minute, 0, "done", 10 * time.Minute, 12 * time.Minute, 25},
		{"milliseconds named", []string{"Retry-After-Ms: 1"}, 10 * time.Minute, 0, "done", 10 * time.Minute, 12 * time.Minute, 25},
		{"0 named", []string{"Retry-After: 0"}, 10 * time.Minute, 0, "done", 10 * time.Minute, 12 * time.Minute, 40},
		{"a time that is past", []string{"Retry-After: Thu, 01 Jan 1970 00:00:00 GMT"}, 10 * time.Minute, 0, "done", 10 * time.Minute, 12 * time.Minute, 40},
		{"more than MaxWait", []string{"Retry-After: 7200"}, time.Hour, 0, "wait_too_long", 0, 0, 1},
	} {
		t.Run(tt.name, inBubble(func(t *testing.T) {
			took := stopwatch()
			base := newScript(func(req *http.Request) (*http.Response, error) {
				if took() < tt.lasts {
					return answers(429, "kept", tt.fields...)(req)
				}
				return answers(200, "")(req)
			})
			transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Batch()}
			transport.Policy.MaxElapsed = tt.maxElapsed
			resp, _ := do(t, transport, newRequest(t, "POST", "content"))
			if stopOf(t, resp) != tt.stop || took() < tt.least || took() > tt.most || tt.sends > 0 && base.sent() > tt.sends {
				t.Errorf("Stop %q after %v and %d sends", stopOf(t, resp), took(), base.sent())
			}
			t.Logf("%d sends in %v", base.sent(), took())
			base.assertNoLeak(t)
		}))
	}
}

// Throttling and faults that alternate are bounded each by its own.
func TestBatchAgainstMixedFailures(t *testing.T) {
	inBubble(func(t *testing.T) {
		var n atomic.Int64
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if n.Add(1)%2 == 0 {
				return answers(503, "")(req)
			}
			return answers(429, "")(req)
		})
		resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Batch()}, newRequest(t, "GET", ""))
		if base.sent() < 39 || base.sent() > 41 || stopOf(t, resp) != "attempts" {
			t.Errorf("sent %d times, Stop %q", base.sent(), stopOf(t, resp))
		}
	})(t)
}

// What is refused because of a deadline says so, as the deadline's own error would.
func TestRefusalByADeadlineIsATimeout(t *testing.T) {
	window := func(*testing.T) steadyhttp.Gate {
		return &quota.Quota{Windows: []quota.Window{{N: 5, Per: time.Hour}}}
	}
	for name, gate := range map[string]steadyhttp.Gate{"Quota": window(t), "Limit": steadyhttp.Limit(nil)} {
		t.Run(name, inBubble(func(t *testing.T) {
			base := newScript(answers(200, ""))
			if name == "Limit" {
				base.steps = []step{answers(429, "", "Retry-After: 3600"), answers(200, "")}
			}
			if name == "Quota" {
				gate = window(t)
			} else {
				gate = steadyhttp.Limit(nil)
			}
			client := &http.Client{
				Timeout:   30 * time.Second,
				Transport: &steadyhttp.Transport{Base: base, Policy: steadyhttp.Batch(), Gates: []steadyhttp.Gate{gate}},
			}
			refused := 0
			for range 20 {
				took := stopwatch()
				resp, err := client.Do(newRequest(t, "GET", ""))
				if err == nil {
					resp.Body.Close()
					continue
				}
				refused++
				var timeout interface{ Timeout() bool }
				if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() || !errorOf(t, err).Timeout() {
					t.Errorf("%v is no timeout", err)
				}
				e := errorOf(t, err)
				if took() != 0 || !errors.Is(err, steadyhttp.ErrNotSent) || e.Stop != "refused" || e.Wait < 59*time.Minute {
					t.Errorf("after %v: %q, wait %v: %v", took(), e.Stop, e.Wait, err)
				}
			}
			if refused < 15 {
				t.Errorf("%d refused", refused)
			}
		}))
	}
}

// Where the budget's queue is longer than what is left, the failure is returned at once.
func TestLongBudgetQueueIsNotJoined(t *testing.T) {
	for _, bound := range []string{"deadline", "MaxElapsed", "client"} {
		t.Run(bound, inBubble(func(t *testing.T) {
			base := newScript(answers(503, "kept"))
			transport := &steadyhttp.Transport{
				Base:   base,
				Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 1, PerSecond: 0.1, Wait: true}, MaxAttempts: 2},
			}
			if bound == "MaxElapsed" {
				transport.Policy.MaxElapsed = 30 * time.Second
			}
			client := &http.Client{Transport: transport}
			if bound == "client" {
				client.Timeout = 30 * time.Second
			}
			var wg sync.WaitGroup
			var failed, kept, late atomic.Int64
			took := stopwatch()
			for range 200 {
				wg.Go(func() {
					ctx := t.Context()
					if bound == "deadline" {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
						defer cancel()
					}
					resp, err := client.Do(newRequest(t, "GET", "").WithContext(ctx))
					if err != nil {
						failed.Add(1)
						return
					}
					if resp.StatusCode == 503 && readAll(t, resp) == "kept" {
						kept.Add(1)
					}
					if took() > 0 {
						late.Add(1)
					}
				})
			}
			wg.Wait()
			if failed.Load() != 0 || kept.Load() != 200 || late.Load() > 4 {
				t.Errorf("%d failed, %d had their answer, %d of them late", failed.Load(), kept.Load(), late.Load())
			}
			base.assertNoLeak(t)
		}))
	}
}

// HOST and host:443 are one origin.
func TestOriginHoweverSpelt(t *testing.T) {
	for _, tt := range []struct {
		urls []string
		one  bool
	}{
		{[]string{"https://api.example/", "https://API.example/a", "https://api.example:443/", "HTTPS://Api.Example:443/"}, true},
		{[]string{"http://api.example/", "http://api.example:80/", "http://API.EXAMPLE:/"}, true},
		{[]string{"http://[::1]/", "http://[::1]:80/"}, true},
		{[]string{"http://api.example/", "https://api.example/"}, false},
		{[]string{"http://api.example/", "http://api.example:443/"}, false},
		{[]string{"https://api.example/", "https://api.example:80/"}, false},
		{[]string{"https://api.example/", "https://api.example:8443/"}, false},
		{[]string{"https://api.example/", "https://api.example.evil/"}, false},
	} {
		inBubble(func(t *testing.T) {
			budget := &steadyhttp.Budget{Max: 10, PerSuccess: -1, PerSecond: -1}
			granted := 0
			for range 40 {
				for _, u := range tt.urls {
					req := newRequest(t, "GET", "")
					parsed, err := req.URL.Parse(u)
					if err != nil {
						t.Fatal(err)
					}
					if scheme, _, _ := strings.Cut(u, ":"); parsed.Scheme != scheme {
						parsed.Scheme = scheme
					}
					req.URL = parsed
					if budget.Take(req) {
						granted++
					}
				}
			}
			want := 10
			if !tt.one {
				want *= len(tt.urls)
			}
			if granted != want {
				t.Errorf("%v: %d granted, want %d", tt.urls, granted, want)
			}
		})(t)
	}
}

// A back-off of one's own waits as long as it likes, and is made for each call.
func ExamplePolicy_newBackOff() {
	server := scripted("503", "503", "200 served")
	defer server.Close()
	client := &http.Client{Transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{
		NewBackOff: func() backoff.BackOff {
			b := backoff.NewExponentialBackOff()
			b.InitialInterval, b.MaxInterval = 10*time.Millisecond, 100*time.Millisecond
			b.MaxElapsedTime = 0 // Policy.MaxElapsed bounds the call
			return b
		},
	}}}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}
