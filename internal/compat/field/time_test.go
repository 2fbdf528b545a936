package field

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

const atOnce = 50 * time.Millisecond

var errShutdown = errors.New("the program is shut down")

func deadlines() []field {
	down := answer{status: 503, text: busy}
	slow := answer{status: 429, text: busy, header: fields("Retry-After", "30")}
	return []field{{
		name:   "cancelled while it waits",
		source: "davesavic/clink #3; terraform-provider-github PR 3383",
		rule:   "a call that its caller ends returns at once, with context.Canceled",
		check: func(t *trial) error {
			ctx, cancel := context.WithCancel(t.ctx)
			time.AfterFunc(5*time.Second, cancel)
			r := t.doWith(ctx, serve(slow), call{})
			if r.took > 5*time.Second+atOnce || !errors.Is(r.err, context.Canceled) {
				return fmt.Errorf("after %v: status %d, error %v", r.took, r.status, r.err)
			}
			return nil
		},
	}, {
		name:   "cancelled for a reason",
		source: "golang/go context.Cause; net/http Transport since 1.23",
		rule:   "the cause of a cancellation is in the error",
		check: func(t *trial) error {
			ctx, cancel := context.WithCancelCause(t.ctx)
			time.AfterFunc(5*time.Second, func() { cancel(errShutdown) })
			if r := t.doWith(ctx, serve(slow), call{}); !errors.Is(r.err, errShutdown) {
				return fmt.Errorf("status %d, error %v", r.status, r.err)
			}
			return nil
		},
	}, {
		name:   "Retry-After past the deadline",
		source: "go-retryablehttp #272 and PR 292; kiota-http-go PR 72",
		rule:   "a wait that can't be waited is not begun: the answer comes back at once",
		check: func(t *trial) error {
			ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second)
			defer cancel()
			r := t.doWith(ctx, serve(slow), call{})
			if r.took > atOnce {
				return fmt.Errorf("after %v: status %d, error %v", r.took, r.status, r.err)
			}
			return r.answered(429, busy)
		},
	}, {
		name:   "http.Client.Timeout before the wait",
		source: "golang/go http.Client.Timeout: one deadline for all", needs: "transport",
		rule: "a wait that can't be waited is not begun: the answer comes back at once",
		check: func(t *trial) error {
			transport := t.client.transport(serve(slow), call{})
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			began := time.Now()
			resp, err := client.Get("http://api.test/")
			t.keep(resp)
			r := result{err: err, resp: resp, took: time.Since(began)}
			if resp != nil {
				r.status = resp.StatusCode
			}
			if r.took > atOnce {
				return fmt.Errorf("after %v: error %v", r.took, r.err)
			}
			return r.answered(429, busy)
		},
	}, {
		name:   "a back-off past the deadline",
		source: "vimeo/go-retry PR 7; grafana-openapi-client-go PR 137",
		rule:   "the last answer is not lost to a deadline that passes in a back-off",
		check: func(t *trial) error {
			ctx, cancel := context.WithTimeout(t.ctx, 3*time.Second)
			defer cancel()
			if r := t.doWith(ctx, serve(down), call{}); r.status != 503 {
				return fmt.Errorf("after %v: status %d, error %v", r.took, r.status, r.err)
			}
			return nil
		},
	}, {
		name: "a context that is over", source: "AWS handleAttempt; go-service PR 2584",
		rule: "nothing is sent, and context.Canceled comes back at once",
		check: func(t *trial) error {
			ctx, cancel := context.WithCancel(t.ctx)
			cancel()
			s := serve(ok)
			r := t.doWith(ctx, s, call{})
			if s.count() > 0 || !errors.Is(r.err, context.Canceled) {
				return fmt.Errorf("sent %d times, error %v", s.count(), r.err)
			}
			return nil
		},
	}, {
		name: "a deadline that passes in an attempt", source: "pace/bricks #63; imroc/req PR 339",
		rule: "what its caller's deadline ended is not retried",
		check: func(t *trial) error {
			ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second)
			defer cancel()
			s := serve(answer{hang: true})
			r := t.doWith(ctx, s, call{})
			if s.count() != 1 || r.took > 10*time.Second+atOnce ||
				!errors.Is(r.err, context.DeadlineExceeded) {
				return fmt.Errorf("sent %d times in %v, error %v", s.count(), r.took, r.err)
			}
			return nil
		},
	}, {
		name:   "an attempt that hangs",
		source: "go-retryablehttp #61; azcore …SuccessWithPerTryTimeout",
		rule:   "an attempt's timeout ends the attempt, and the next one may succeed",
		check: func(t *trial) error {
			s := serve(answer{hang: true}, ok)
			c := call{attemptTimeout: 5 * time.Second}
			return s.came(t.do(s, c), c, want{2, 200, fine})
		},
	}, {
		name: "an order that hangs", source: "keycloak #52978; RFC 9110 9.2.2",
		rule: "a POST whose attempt timed out may have been carried out: it is not sent again",
		check: func(t *trial) error {
			s := serve(answer{hang: true}, ok)
			r := t.do(s, call{method: "POST", body: "x", attemptTimeout: 5 * time.Second})
			if s.count() != 1 || r.err == nil {
				return fmt.Errorf("sent %d times, status %d", s.count(), r.status)
			}
			return nil
		},
	}, {
		name: "all attempts hang", source: "net.Error: Timeout; acceptance C16",
		rule: "the error is a timeout by its method",
		check: func(t *trial) error {
			r := t.do(serve(answer{hang: true}), call{attemptTimeout: 5 * time.Second})
			var timeout interface{ Timeout() bool }
			if !errors.As(r.err, &timeout) || !timeout.Timeout() {
				return fmt.Errorf("error %v", r.err)
			}
			return nil
		},
	}, {
		name:   "a body after an attempt's timeout was set",
		source: "azure-sdk-for-go #17780; failsafe-go #123; kamilsk/retry #171",
		rule:   "the attempt's context lives as long as its body is read",
		check: func(t *trial) error {
			s := serve(answer{status: 200, bodyOf: func(ctx context.Context) io.Reader {
				return &slowBody{ctx: ctx, n: 3, every: time.Second}
			}})
			return t.do(s, call{attemptTimeout: 10 * time.Second}).answered(200, "xxx")
		},
	}, {
		name:   "an attempt's context in the end",
		source: "go vet lostcancel; rehttp TestCancelReader",
		rule:   "closing the body ends the attempt's context: no timer is left",
		check: func(t *trial) error {
			s := serve(ok)
			r := t.do(s, call{attemptTimeout: time.Hour})
			if err := r.answered(200, fine); err != nil {
				return err
			}
			if ctx := s.sends[0].req.Context(); ctx != t.ctx && ctx.Err() == nil {
				if _, bounded := ctx.Deadline(); bounded {
					if at, _ := ctx.Deadline(); time.Until(at) <= time.Hour {
						return errors.New("it runs on")
					}
				}
			}
			return nil
		},
	}, {
		name:   "after the last attempt",
		source: "gojek/heimdall #89; terraform-provider-github PR 3383",
		rule:   "nothing waits when there is no further attempt",
		check: func(t *trial) error {
			s := serve(down)
			t.do(s, call{})
			if last := time.Since(s.sends[s.count()-1].at); s.count() < 2 || last > atOnce {
				return fmt.Errorf("sent %d times, waited %v after the last", s.count(), last)
			}
			return nil
		},
	}, {
		name:   "a 429 with Retry-After 0 for ever",
		source: "kubescape/kubevuln #754; go-retryablehttp PR 170",
		rule:   "no hot loop: 100 ms between attempts at least",
		check: func(t *trial) error {
			return calm(t, answer{status: 429, header: fields("Retry-After", "0")})
		},
	}, {
		name:   "a 429 with a past date for ever",
		source: "kubevuln #754; openai-java #853; bike4mind #2118",
		rule:   "no hot loop: 100 ms between attempts at least",
		check: func(t *trial) error {
			past := fields("Retry-After", "Thu, 26 Nov 2026 11:00:00 GMT")
			return calm(t, answer{status: 429, header: past})
		},
	}, {
		name: "resets for ever", source: "sethvargo/go-retry #9",
		rule:  "no hot loop: 100 ms between attempts at least",
		check: func(t *trial) error { return calm(t, answer{err: syscall.ECONNRESET}) },
	}, {
		name: "a wait of 484289 hours", source: "go-retryablehttp #247; httpx-retries #57",
		rule: "a server can't hold a call for more than a minute unless it is allowed to",
		check: func(t *trial) error {
			s := serve(answer{status: 429, text: busy, header: fields("Retry-After", "1743443472")})
			if r := t.do(s, call{}); r.took > 3*time.Minute {
				return fmt.Errorf("after %v: status %d, error %v", r.took, r.status, r.err)
			}
			return nil
		},
	}, {
		name: "a wait of an hour", source: "azcore MaxRetryDelay; urllib3 #1338",
		rule: "no early retry, and no hour's sleep: the answer comes back, with its wait",
		check: func(t *trial) error {
			s := serve(answer{status: 503, text: busy, header: fields("Retry-After", "3600")}, ok)
			r := t.do(s, call{})
			if s.count() != 1 || r.took > atOnce {
				return fmt.Errorf("sent %d times in %v", s.count(), r.took)
			}
			return r.answered(503, busy)
		},
	}, {
		name: "a 500 that names a wait", source: "Kubernetes apiserver: 500 with Retry-After",
		rule: "Retry-After holds on a fault too",
		check: func(t *trial) error {
			seven := answer{status: 500, header: fields("Retry-After", "7")}
			return form{wait: 7 * time.Second}.heard(t, seven)
		},
	}, {
		name: "a 503 that names a wait", source: "RFC 9110 10.2.3",
		rule: "Retry-After holds on a fault too",
		check: func(t *trial) error {
			seven := answer{status: 503, header: fields("Retry-After", "7")}
			return form{wait: 7 * time.Second}.heard(t, seven)
		},
	}, {
		name: "a 301 that names a wait", source: "RFC 9110 10.2.3 and 15.4",
		rule: "a redirect is followed at once, and once",
		check: func(t *trial) error {
			moved := fields("Location", "http://api.test/new", "Retry-After", "30")
			s := serve(answer{status: 301, header: moved}, ok)
			r := t.do(s, call{})
			if r.took > atOnce {
				return fmt.Errorf("took %v", r.took)
			}
			return s.came(r, call{}, want{2, 200, fine})
		},
	}, {
		name:   "a hundred calls that fail together",
		source: "AWS: exponential back-off and jitter; acceptance E07",
		rule:   "their retries do not come together: at most a fifth in any 10 ms",
		check:  func(t *trial) error { return spread(t, down, 0) },
	}, {
		name:   "a hundred calls told the same time",
		source: "draft-ietf-httpapi-ratelimit-headers 6; retryhttp (probe)",
		rule:   "jitter comes on top of what the server named: none is early, nor all together",
		check: func(t *trial) error {
			return spread(t, answer{status: 429, header: fields("Retry-After", "10")}, 10*time.Second)
		},
	}, {
		name: "a server's jittered clock", source: "RFC 9110 6.6.1 and 10.2.3; AWS skewThreshold",
		rule: "a date is read against the answer's own Date: a clock that is 10 minutes off does no harm",
		check: func(t *trial) error {
			return form{wait: 30 * time.Second}.heard(t, answer{status: 429, header: fields(
				"Date", "Thu, 26 Nov 2026 11:50:00 GMT", "Retry-After", "Thu, 26 Nov 2026 11:50:30 GMT")})
		},
	}}
}

// heard wants one retry, at its time.
func (f form) heard(t *trial, a answer) error {
	s := serve(a, ok)
	r := t.do(s, call{})
	gaps := s.gaps()
	if len(gaps) != 1 || gaps[0] < f.wait || gaps[0] > f.wait+f.wait/5+2*time.Second {
		return fmt.Errorf("retried after %v, status %d, error %v", gaps, r.status, r.err)
	}
	return r.answered(200, fine)
}

// calm wants waits between attempts that fail for ever.
func calm(t *trial, a answer) error {
	s := serve(a)
	t.do(s, call{})
	if n := s.count(); n < 2 || n > attempts {
		return fmt.Errorf("sent %d times", n)
	}
	for _, gap := range s.gaps() {
		if gap < 100*time.Millisecond {
			return fmt.Errorf("gaps of %v", s.gaps())
		}
	}
	return nil
}

// spread makes a hundred calls at one time, that all fail once.
func spread(t *trial, fault answer, least time.Duration) error {
	var mu sync.Mutex
	var gaps []time.Duration
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			s := serve(fault, ok)
			readAll(t.do(s, call{}).resp)
			mu.Lock()
			defer mu.Unlock()
			gaps = append(gaps, s.gaps()...)
		})
	}
	group.Wait()
	if len(gaps) != 100 {
		return fmt.Errorf("%d retries of 100", len(gaps))
	}
	buckets := make(map[time.Duration]int)
	for _, gap := range gaps {
		if gap < least {
			return fmt.Errorf("retried after %v", gap)
		}
		buckets[gap/(10*time.Millisecond)]++
	}
	for at, n := range buckets {
		if n > 20 {
			return fmt.Errorf("%d of 100 after %v", n, at*10*time.Millisecond)
		}
	}
	return nil
}

// storm is 50 calls a second through one client, while the service is down for 30 s.
func storm(t *trial) error {
	began := time.Now()
	var mu sync.Mutex
	sent := 0
	base := transportFunc(func(req *http.Request) (*http.Response, error) {
		now := time.Since(began)
		a := ok
		if now >= 10*time.Second && now < 40*time.Second {
			a = answer{status: 503, text: busy}
			mu.Lock()
			sent++
			mu.Unlock()
		}
		return serve(a).RoundTrip(req)
	})
	c := call{url: "http://api.test/"}
	do := t.client.new(base, c)
	calls, lost := 0, 0
	var group sync.WaitGroup
	for time.Since(began) < 120*time.Second {
		at := time.Since(began)
		if at >= 10*time.Second && at < 40*time.Second {
			calls++
		}
		group.Go(func() {
			resp, err := do(t.ctx, c)
			if err == nil {
				readAll(resp)
			}
			if at > 60*time.Second && (err != nil || resp.StatusCode != 200) {
				mu.Lock()
				lost++
				mu.Unlock()
			}
		})
		time.Sleep(20 * time.Millisecond)
	}
	group.Wait()
	if by := float64(sent) / float64(calls); by > 1.2 || lost > 0 {
		return fmt.Errorf("%.2f sendings for a call, %d lost after the end", by, lost)
	}
	return nil
}

// slowBody is a body that its request's context can end, as net/http's are.
type slowBody struct {
	ctx   context.Context
	n     int
	every time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(b.every):
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	b.n--
	return copy(p, strings.Repeat("x", 1)), nil
}
