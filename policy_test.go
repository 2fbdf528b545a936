package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// errReset is a lost connection as net/http returns it: the request may or may not have been carried out.
var errReset = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// errDial is a connection that never came to be: nothing was sent.
var errDial = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

// stopwatch returns a function that tells how much virtual time has passed.
func stopwatch() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}

// constantBackOff makes every back-off the same, so that a test can tell it from other waits.
func constantBackOff(d time.Duration) func() backoff.BackOff {
	return func() backoff.BackOff { return backoff.NewConstantBackOff(d) }
}

// A first try that succeeds is one attempt.
func TestFirstTrySuccessIsOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, passed := newScript(answers(200, "fine")), stopwatch()
		resp, body := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
		if resp.StatusCode != 200 || body != "fine" || base.sent() != 1 || passed() != 0 {
			t.Errorf("%d %q after %d attempts and %v", resp.StatusCode, body, base.sent(), passed())
		}
	})
}

// A server that is down, then comes up with faults, then is well: one call.
func TestServerThatComesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(failsWith(errDial), failsWith(errDial), answers(500, ""), answers(503, ""), answers(200, "up"))
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 10}}
		resp, body := do(t, transport, newRequest(t, "GET", ""))
		if resp.StatusCode != 200 || body != "up" || base.sent() != 5 {
			t.Errorf("%d %q after %d attempts", resp.StatusCode, body, base.sent())
		}
		base.assertNoLeak(t)
	})
}

// A throttled call is retried when the server says, and served.
func TestThrottledTwiceThenServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(429, ""), answers(429, ""), answers(200, ""))
		resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
		if resp.StatusCode != 200 || base.sent() != 3 {
			t.Errorf("%d after %d attempts", resp.StatusCode, base.sent())
		}
	})
}

// Which status is worth how many attempts, by method. A POST is retried
// only where the server has refused it.
func TestAttemptsByStatusAndMethod(t *testing.T) {
	const all = 4
	attempts := func(status int, idempotent bool) int {
		switch status {
		case 429:
			return all
		case 408, 500, 502, 503, 504, 506, 507, 508, 509, 510, 511, 520, 529, 599:
			if idempotent {
				return all
			}
		}
		return 1
	}
	statuses := []int{200, 201, 202, 204, 206, 300, 301, 302, 303, 304, 307, 308}
	for status := 400; status <= 431; status++ {
		statuses = append(statuses, status)
	}
	statuses = append(statuses, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 510, 511, 520, 529, 599)
	methods := map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false}
	synctest.Test(t, func(t *testing.T) {
		for _, status := range statuses {
			for method, idempotent := range methods {
				base := newScript(answers(status, "body"))
				transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: -1}}}
				passed := stopwatch()
				resp, body := do(t, transport, newRequest(t, method, ""))
				want := attempts(status, idempotent)
				if base.sent() != want {
					t.Errorf("%s, %d: %d attempts, want %d", method, status, base.sent(), want)
				}
				if resp.StatusCode != status || body != "body" {
					t.Errorf("%s, %d: got %d %q", method, status, resp.StatusCode, body)
				}
				if want == 1 && passed() != 0 {
					t.Errorf("%s, %d: a final answer took %v", method, status, passed())
				}
				base.assertNoLeak(t)
			}
		}
	})
}

// What may be retried after which failure.
func TestWhatMayBeRetried(t *testing.T) {
	timeout := &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	always := steadyhttp.Policy{Idempotent: func(*http.Request) bool { return true }}
	never := steadyhttp.Policy{Idempotent: func(*http.Request) bool { return false }}
	tests := []struct {
		name   string
		method string
		key    string
		policy steadyhttp.Policy
		fault  step
		want   int // attempts
	}{
		{"GET timed out", "GET", "", steadyhttp.Policy{}, failsWith(timeout), 2},
		{"POST timed out", "POST", "", steadyhttp.Policy{}, failsWith(timeout), 1},
		{"POST with a key timed out", "POST", "Idempotency-Key", steadyhttp.Policy{}, failsWith(timeout), 2},
		{"POST with an X-key timed out", "POST", "X-Idempotency-Key", steadyhttp.Policy{}, failsWith(timeout), 2},
		{"POST with a key of ours timed out", "POST", "", steadyhttp.Policy{IdempotencyKey: true}, failsWith(timeout), 2},
		{"POST reset", "POST", "", steadyhttp.Policy{}, failsWith(errReset), 1},
		{"PATCH reset", "PATCH", "", steadyhttp.Policy{}, failsWith(errReset), 1},
		{"PUT reset", "PUT", "", steadyhttp.Policy{}, failsWith(errReset), 2},
		{"DELETE reset", "DELETE", "", steadyhttp.Policy{}, failsWith(errReset), 2},
		{"POST that never left", "POST", "", steadyhttp.Policy{}, failsWith(errDial), 2},
		{"POST that never left, by name", "POST", "", steadyhttp.Policy{}, failsWith(&net.DNSError{Err: "try again", IsTemporary: true}), 2},
		{"POST whose base may have tried before", "POST", "", steadyhttp.Policy{}, failsWith(fmt.Errorf("giving up after 3 attempts: %w", errDial)), 1},
		{"POST, 503", "POST", "", steadyhttp.Policy{}, answers(503, ""), 1},
		{"POST, 503 with a time", "POST", "", steadyhttp.Policy{}, answers(503, "", "Retry-After: 1"), 1},
		{"POST, 429", "POST", "", steadyhttp.Policy{}, answers(429, ""), 2},
		{"POST, 429 with a time", "POST", "", steadyhttp.Policy{}, answers(429, "", "Retry-After: 1"), 2},
		{"POST that is allowed, 503", "POST", "", always, answers(503, ""), 2},
		{"GET that is not, 503", "GET", "", never, answers(503, ""), 1},
		{"GET that is not, 429", "GET", "", never, answers(429, ""), 2},
		{"GET that is not, never left", "GET", "", never, failsWith(errDial), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.fault, answers(200, ""))
				req := newRequest(t, tt.method, "body")
				if tt.key != "" {
					req.Header.Set(tt.key, "k")
				}
				resp, err := (&steadyhttp.Transport{Base: base, Policy: tt.policy}).RoundTrip(req)
				if base.sent() != tt.want {
					t.Fatalf("%d attempts, want %d (%v)", base.sent(), tt.want, err)
				}
				stop := steadyhttp.Stop("done")
				switch {
				case err != nil:
					stop = errorOf(t, err).Stop
				case tt.want == 1:
					stop = stopOf(t, resp)
				}
				if want := map[int]steadyhttp.Stop{1: "not_idempotent", 2: "done"}[tt.want]; stop != want {
					t.Errorf("Stop is %q, want %q", stop, want)
				}
				if resp != nil {
					resp.Body.Close()
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// A GET is retried after every way in which a connection is lost, and after a refused one as well.
func TestLostConnectionsAreRetried(t *testing.T) {
	for name, err := range map[string]error{
		"EOF": io.EOF, "unexpected EOF": io.ErrUnexpectedEOF, "reset": errReset, "refused": errDial,
		"closed": net.ErrClosed, "server closed idle": errors.New("http: server closed idle connection"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(failsWith(err), answers(200, ""))
				resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
				if resp.StatusCode != 200 || base.sent() != 2 {
					t.Errorf("%d after %d attempts", resp.StatusCode, base.sent())
				}
			})
		})
	}
}

// A base that returns both breaks the contract. Its error decides, and its response is closed.
func TestErrorBesideAResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		both := func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(200, "half")(req)
			return resp, errReset
		}
		base := newScript(both, answers(200, "whole"))
		if _, body := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "")); body != "whole" {
			t.Errorf("got %q", body)
		}
		base.assertNoLeak(t)
	})
}

// Over a real socket, since the error's type is net/http's.
func TestUntrustedCertificateIsOneAttempt(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = quiet
	server.StartTLS()
	defer server.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	var attempts atomic.Int64
	counting := roundTripper(func(req *http.Request) (*http.Response, error) {
		attempts.Add(1)
		return base.RoundTrip(req)
	})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	_, err := (&steadyhttp.Transport{Base: counting}).RoundTrip(req)
	if attempts.Load() != 1 || !isCertificateError(err) {
		t.Errorf("%d attempts, then %v", attempts.Load(), err)
	}
}

// Redirects are the client's; each hop is a call of its own, made once.
func TestTooManyRedirects(t *testing.T) {
	base := newScript(answers(302, "", "Location: /again"))
	client := &http.Client{Transport: &steadyhttp.Transport{Base: base}}
	resp, err := client.Do(newRequest(t, "GET", ""))
	if err == nil || !strings.Contains(err.Error(), "stopped after 10 redirects") {
		t.Errorf("got %v", err)
	}
	if resp != nil {
		resp.Body.Close()
	}
	if base.sent() != 10 {
		t.Errorf("%d hops, want 10", base.sent())
	}
	base.assertNoLeak(t)
}

// What net/http refuses to send, it refuses every time, and says so by text only.
func TestUnsendableRequestIsOneAttempt(t *testing.T) {
	tests := map[string]func(*http.Request){
		"scheme":       func(r *http.Request) { r.URL.Scheme = "gopher" },
		"no scheme":    func(r *http.Request) { r.URL.Scheme = "" },
		"no host":      func(r *http.Request) { r.URL.Host = "" },
		"method":       func(r *http.Request) { r.Method = "GE T" },
		"header name":  func(r *http.Request) { r.Header["na me"] = []string{"v"} },
		"empty name":   func(r *http.Request) { r.Header[""] = []string{"v"} },
		"header value": func(r *http.Request) { r.Header.Set("Name", "v\r\nInjected: x") },
		"NUL in value": func(r *http.Request) { r.Header.Set("Name", "v\x00") },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					attempts++
					return (&http.Transport{}).RoundTrip(req)
				})
				req := newRequest(t, "GET", "")
				spoil(req)
				passed := stopwatch()
				_, err := (&steadyhttp.Transport{Base: base}).RoundTrip(req)
				if err == nil || attempts != 1 || passed() != 0 {
					t.Errorf("%d attempts in %v, then %v", attempts, passed(), err)
				}
			})
		})
	}
}

// Who says stop with an error of his own gets that error. Prepare is where our users say it.
func TestErrorOfPrepareEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := errors.New("no token")
		base := newScript(failsWith(errReset))
		transport := &steadyhttp.Transport{Base: base, Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev != nil {
				return mine
			}
			return nil
		}}
		_, err := transport.RoundTrip(newRequest(t, "GET", ""))
		if e := errorOf(t, err); !errors.Is(err, mine) || e.Stop != "prepare" || e.Attempts != 1 || base.sent() != 1 {
			t.Errorf("got %+v after %d attempts", e, base.sent())
		}
	})
}

// Classify has the last word on what an answer means, both ways.
func TestClassifyHasTheLastWord(t *testing.T) {
	final := errors.New("final")
	classify := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		switch {
		case errors.Is(a.Err, final):
			return steadyhttp.Verdict{Class: steadyhttp.Permanent}
		case a.Response != nil && a.Response.Header.Get("Partial") != "":
			return steadyhttp.Verdict{Class: steadyhttp.Transient}
		}
		return (&steadyhttp.Rules{}).Classify(a)
	}
	tests := []struct {
		name  string
		steps []step
		want  int
	}{
		{"a veto on an error", []step{failsWith(fmt.Errorf("%w: %w", errReset, final)), answers(200, "")}, 1},
		{"no veto", []step{failsWith(errReset), answers(200, "")}, 2},
		{"a 200 that is none", []step{answers(200, "", "Partial: yes"), answers(200, "")}, 2},
		{"a 200 that is one", []step{answers(200, ""), answers(200, "")}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.steps...)
				resp, err := (&steadyhttp.Transport{Base: base, Classify: classify}).RoundTrip(newRequest(t, "GET", ""))
				if base.sent() != tt.want {
					t.Errorf("%d attempts, want %d (%v)", base.sent(), tt.want, err)
				}
				if resp != nil {
					resp.Body.Close()
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// The caller's own end of the call wins over every class that its error may seem to have.
func TestCancelledWinsOverIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		base := newScript(func(*http.Request) (*http.Response, error) {
			cancel()
			return nil, errReset
		})
		_, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
		if !errors.Is(err, context.Canceled) || !errors.Is(err, syscall.ECONNRESET) || base.sent() != 1 {
			t.Errorf("%d attempts, then %v", base.sent(), err)
		}
	})
}

// An error that merely looks like a cancellation is the base's own, and retried like any other.
func TestForeignCancellationIsRetried(t *testing.T) {
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(failsWith(err), answers(200, ""))
			if resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "")); resp.StatusCode != 200 {
				t.Errorf("%v: got %d", err, resp.StatusCode)
			}
		})
	}
}

// Attempts in all, the first included.
func TestMaxAttempts(t *testing.T) {
	for maxAttempts, want := range map[int]int{-1: 1, 0: 4, 1: 1, 2: 2, 7: 7} {
		for name, fault := range map[string]step{"503": answers(503, "last"), "429": answers(429, "last"), "named 429": answers(429, "last", "Retry-After: 1"), "reset": failsWith(errReset)} {
			t.Run(fmt.Sprintf("%d, %s", maxAttempts, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := newScript(fault)
					resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: maxAttempts}}).RoundTrip(newRequest(t, "GET", ""))
					if base.sent() != want {
						t.Errorf("%d attempts, want %d", base.sent(), want)
					}
					switch {
					case err == nil:
						// Most often wrong: the last response is lost. It is returned, and whole.
						if body := readAll(t, resp); body != "last" || stopOf(t, resp) != "attempts" {
							t.Errorf("got %q, stop %q", body, stopOf(t, resp))
						}
					case want == 1:
						if e := errorOf(t, err); e.Stop != "attempts" || e.Attempts != 1 || e.Err != error(errReset) {
							t.Errorf("the error of the only attempt became %v", err)
						}
					default:
						if e := errorOf(t, err); e.Stop != "attempts" || e.Attempts != want || !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("got %+v", e)
						}
					}
					base.assertNoLeak(t)
				})
			})
		}
	}
}

// A throttling that named its time was refused, not failed: MaxThrottled of them come over and above MaxAttempts.
func TestMaxThrottled(t *testing.T) {
	named, bare, fault := answers(429, "", "Retry-After: 1"), answers(429, ""), answers(503, "")
	times := func(n int, s step) []step { return slices.Repeat([]step{s}, n) }
	tests := []struct {
		name         string
		maxAttempts  int
		maxThrottled int
		steps        []step
		want         int
	}{
		{"none over and above", 0, 0, times(20, named), 4},
		{"three over and above", 0, 3, times(20, named), 7},
		{"any number", 0, -1, append(times(50, named), answers(200, "")), 51},
		{"bare ones do not count either", 0, -1, append(times(20, bare), answers(200, "")), 21},
		{"faults always count", 0, -1, times(20, fault), 4},
		{"free ones do not use up attempts", 2, -1, append(append(times(10, named), fault), times(10, fault)...), 12},
		{"never means never", 1, -1, times(20, named), 1},
		{"one over and above, between faults", 3, 1, []step{fault, named, named, fault, fault}, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.steps...)
				policy := steadyhttp.Policy{MaxAttempts: tt.maxAttempts, MaxThrottled: tt.maxThrottled, Budget: &steadyhttp.Budget{Max: -1}}
				do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
				if base.sent() != tt.want {
					t.Errorf("%d attempts, want %d", base.sent(), tt.want)
				}
			})
		})
	}
}

// A service that asks for a millisecond for ever must not be a hot loop, where any number of retries is free.
func TestFreeRetriesAreNoHotLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(429, "", "Retry-After-Ms: 1"))
		policy := steadyhttp.Policy{MaxThrottled: -1, MaxElapsed: 10 * time.Second}
		do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
		if base.sent() < 5 || base.sent() > 10 {
			t.Errorf("%d attempts in 10 s", base.sent())
		}
	})
}

// A named 429 tells its time; only failures, and throttlings that tell none, make the back-off grow.
func TestNamedThrottlingDoesNotAdvanceTheBackOff(t *testing.T) {
	tests := []struct {
		name  string
		steps []step
		want  int
	}{
		{"named", []step{answers(429, "", "Retry-After: 1"), answers(429, "", "Retry-After: 1"), answers(429, "", "Retry-After: 1"), answers(200, "")}, 0},
		{"bare", []step{answers(429, ""), answers(429, ""), answers(429, ""), answers(200, "")}, 3},
		{"mixed", []step{answers(503, ""), answers(429, "", "Retry-After: 1"), answers(503, ""), answers(200, "")}, 2},
		{"503 with a time", []step{answers(503, "", "Retry-After: 1"), answers(503, "", "Retry-After: 1"), answers(200, "")}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &countedBackOff{}
				policy := steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return b }}
				do(t, &steadyhttp.Transport{Base: newScript(tt.steps...), Policy: policy}, newRequest(t, "GET", ""))
				if b.asked != tt.want {
					t.Errorf("the back-off was asked %d times, want %d", b.asked, tt.want)
				}
			})
		})
	}
}

type countedBackOff struct{ asked int }

func (b *countedBackOff) NextBackOff() time.Duration { b.asked++; return time.Second }
func (b *countedBackOff) Reset()                     {}

// A back-off has state: each call that needs one gets its own, and a call that does not need one makes none.
func TestNewBackOffIsAskedOncePerCallThatNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		policy := steadyhttp.Policy{NewBackOff: func() backoff.BackOff { made++; return backoff.NewConstantBackOff(time.Second) }}
		do(t, &steadyhttp.Transport{Base: newScript(answers(200, "")), Policy: policy}, newRequest(t, "GET", ""))
		if made != 0 {
			t.Errorf("a success made %d back-offs", made)
		}
		base := newScript(answers(503, ""), answers(503, ""), answers(200, ""), answers(503, ""), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Policy: policy}
		do(t, transport, newRequest(t, "GET", ""))
		do(t, transport, newRequest(t, "GET", ""))
		if made != 2 {
			t.Errorf("two calls with retries made %d back-offs", made)
		}
	})
}

// backoff.Stop ends the call, with the last response.
func TestBackOffStopEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, passed := newScript(answers(503, "last")), stopwatch()
		policy := steadyhttp.Policy{MaxAttempts: 10, NewBackOff: func() backoff.BackOff {
			return backoff.WithMaxRetries(backoff.NewConstantBackOff(time.Second), 2)
		}}
		resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
		if base.sent() != 3 || body != "last" || stopOf(t, resp) != "attempts" || passed() != 2*time.Second {
			t.Errorf("%d attempts in %v, %q, %q", base.sent(), passed(), body, stopOf(t, resp))
		}
	})
}

// A NewBackOff that returns nil stands for the default one, as a nil NewBackOff does.
func TestNilBackOffIsTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, passed := newScript(answers(503, ""), answers(503, ""), answers(200, "")), stopwatch()
		policy := steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return nil }}
		do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
		if took := passed(); took < 750*time.Millisecond || took > 2250*time.Millisecond {
			t.Errorf("took %v, want 500 ms + 1 s, each ±50 %%", took)
		}
	})
}

// A negative back-off is none. It does not turn a wait around, nor is it told as one.
func TestNegativeBackOffIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		trace := &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { told = append(told, a.Wait) }}
		base, passed := newScript(answers(503, ""), answers(200, "")), stopwatch()
		policy := steadyhttp.Policy{NewBackOff: constantBackOff(-5 * time.Second)}
		do(t, &steadyhttp.Transport{Base: base, Policy: policy, Trace: trace}, newRequest(t, "GET", ""))
		if base.sent() != 2 || passed() != 0 || !slices.Equal(told, []time.Duration{0, 0}) {
			t.Errorf("%d attempts in %v, waits told: %v", base.sent(), passed(), told)
		}
	})
}

// The whole of the default back-off, as a call sees it: 500 ms, 1 s, 2 s, each ±50 %.
func TestDefaultBackOffOverACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		trace := &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { waits = append(waits, a.Wait) }}
		passed := stopwatch()
		do(t, &steadyhttp.Transport{Base: newScript(answers(503, "")), Trace: trace}, newRequest(t, "GET", ""))
		if len(waits) != 4 || waits[3] != 0 {
			t.Fatalf("waits %v", waits)
		}
		var sum time.Duration
		for i, middle := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
			if waits[i] < middle/2-1 || waits[i] > middle*3/2+1 {
				t.Errorf("wait %d is %v", i+1, waits[i])
			}
			sum += waits[i]
		}
		if passed() != sum {
			t.Errorf("told of %v, took %v", sum, passed())
		}
	})
}

// New credentials need no wait, and are asked for once.
func TestUnauthorizedIsRetriedOnceAtOnce(t *testing.T) {
	tests := []struct {
		name    string
		prepare bool
		steps   []step
		want    int
		stop    steadyhttp.Stop
	}{
		{"nobody to ask", false, []step{answers(401, "")}, 1, "permanent"},
		{"new credentials do", true, []step{answers(401, ""), answers(200, "")}, 2, "done"},
		{"new credentials do not", true, []step{answers(401, "")}, 2, "permanent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, prepared := newScript(tt.steps...), 0
				transport := &steadyhttp.Transport{Base: base}
				if tt.prepare {
					transport.Prepare = func(*http.Request, *steadyhttp.Attempt) error { prepared++; return nil }
				}
				passed := stopwatch()
				resp, _ := do(t, transport, newRequest(t, "POST", ""))
				if base.sent() != tt.want || passed() != 0 || stopOf(t, resp) != tt.stop {
					t.Errorf("%d attempts in %v, stop %q; want %d, stop %q", base.sent(), passed(), stopOf(t, resp), tt.want, tt.stop)
				}
				if tt.prepare && prepared != base.sent() {
					t.Errorf("prepared %d of %d attempts", prepared, base.sent())
				}
			})
		})
	}
}

// Once is once in the whole call, whatever comes between.
func TestUnauthorizedIsNotRetriedAgainAfterAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(401, ""), answers(503, ""), answers(401, ""))
		transport := &steadyhttp.Transport{Base: base, Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil }}
		resp, _ := do(t, transport, newRequest(t, "GET", ""))
		if base.sent() != 3 || stopOf(t, resp) != "permanent" {
			t.Errorf("%d attempts, stop %q", base.sent(), stopOf(t, resp))
		}
	})
}

// Whatever wait a Classify names for an Unauthorized: it is retried at once, and never beyond MaxWait.
func TestUnauthorizedWithATimeIsRetriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := &steadyhttp.Transport{
			Base:    newScript(answers(401, ""), answers(200, "")),
			Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil },
			Classify: func(a steadyhttp.Attempt) steadyhttp.Verdict {
				v := (&steadyhttp.Rules{}).Classify(a)
				if v.Class == steadyhttp.Unauthorized {
					v.RetryAfter = 2 * time.Hour
				}
				return v
			},
		}
		passed := stopwatch()
		do(t, transport, newRequest(t, "GET", ""))
		if passed() != 0 {
			t.Errorf("waited %v, MaxWait is a minute", passed())
		}
	})
}

// Edits are for the calls of their context, the outer first, and change a copy.
func TestWithPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := &steadyhttp.Transport{Base: newScript(answers(503, "")), Policy: steadyhttp.Policy{MaxAttempts: 3, Budget: &steadyhttp.Budget{Max: -1}}}
		attempts := func(ctx context.Context) int {
			base := newScript(answers(503, ""))
			transport.Base = base
			do(t, transport, newRequest(t, "GET", "").WithContext(ctx))
			return base.sent()
		}
		var seen []string
		note := func(who string, maxAttempts int) func(*steadyhttp.Policy) {
			return func(p *steadyhttp.Policy) {
				seen = append(seen, fmt.Sprint(who, " sees ", p.MaxAttempts))
				p.MaxAttempts = maxAttempts
			}
		}
		outer := steadyhttp.WithPolicy(t.Context(), note("outer", 5))
		inner := steadyhttp.WithPolicy(outer, note("inner", 2))
		if got := attempts(inner); got != 2 {
			t.Errorf("inner: %d attempts, want 2", got)
		}
		if want := []string{"outer sees 3", "inner sees 5"}; !slices.Equal(seen, want) {
			t.Errorf("edits: %q, want %q", seen, want)
		}
		if got := attempts(outer); got != 5 {
			t.Errorf("outer: %d attempts, want 5: the inner edit leaked out", got)
		}
		if got := attempts(t.Context()); got != 3 {
			t.Errorf("another call: %d attempts, want 3: an edit outlived its call", got)
		}
		if transport.Policy.MaxAttempts != 3 {
			t.Errorf("the transport's own policy has become %+v", transport.Policy)
		}
		if got := attempts(steadyhttp.WithPolicy(t.Context(), nil)); got != 3 {
			t.Errorf("a nil edit: %d attempts, want 3", got)
		}
	})
}

// Two contexts derived from one do not write into each other's list of edits.
func TestWithPolicyDoesNotAlias(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := func(n int) func(*steadyhttp.Policy) { return func(p *steadyhttp.Policy) { p.MaxAttempts = n } }
		nothing := func(*steadyhttp.Policy) {}
		ctx := t.Context()
		for range 5 { // so that an appended slice has room to spare
			ctx = steadyhttp.WithPolicy(ctx, nothing)
			two, three := steadyhttp.WithPolicy(ctx, set(2)), steadyhttp.WithPolicy(ctx, set(3))
			for want, ctx := range map[int]context.Context{2: two, 3: three} {
				base := newScript(answers(503, ""))
				do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "").WithContext(ctx))
				if base.sent() != want {
					t.Errorf("%d attempts, want %d", base.sent(), want)
				}
			}
		}
	})
}

// A body that cannot be sent again is sent once, and the answer says so.
func TestBodyThatCannotBeReplayed(t *testing.T) {
	for name, fault := range map[string]step{"429": answers(429, "slow"), "named 429": answers(429, "slow", "Retry-After: 1"), "503": answers(503, "slow")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, passed := newScript(fault), stopwatch()
				req := newRequest(t, "PUT", "")
				req.Body, req.ContentLength = newCountingBody("once"), 4
				resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: -1}}, req)
				if base.sent() != 1 || stopOf(t, resp) != "body_not_replayable" || body != "slow" || passed() != 0 {
					t.Errorf("%d attempts in %v, stop %q, %q", base.sent(), passed(), stopOf(t, resp), body)
				}
			})
		})
	}
}

// A GetBody that fails ends the call; the last answer is still the caller's.
func TestFailingGetBodyReturnsTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(429, "slow"))
		req := newRequest(t, "PUT", "body")
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("file is gone") }
		resp, body := do(t, &steadyhttp.Transport{Base: base}, req)
		if base.sent() != 1 || stopOf(t, resp) != "body_not_replayable" || body != "slow" {
			t.Errorf("%d attempts, stop %q, %q", base.sent(), stopOf(t, resp), body)
		}
	})
}

// Without an answer to return, the error is GetBody's.
func TestFailingGetBodyAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("file is gone")
		req := newRequest(t, "PUT", "body")
		req.GetBody = func() (io.ReadCloser, error) { return nil, gone }
		_, err := (&steadyhttp.Transport{Base: newScript(failsWith(errReset))}).RoundTrip(req)
		if e := errorOf(t, err); !errors.Is(err, gone) || e.Stop != "body_not_replayable" || e.Attempts != 1 {
			t.Errorf("got %+v", e)
		}
	})
}

// Every attempt is made of the pristine request: same body, fields and query, nothing piled up.
func TestAttemptsAreAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(429, ""), answers(401, ""), answers(429, ""), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			req.Header.Add("Token", "t")
			query := req.URL.Query()
			query.Add("api-version", "1")
			req.URL.RawQuery = query.Encode()
			return nil
		}}
		req := newRequest(t, "POST", "body")
		req.Header.Add("Mine", "m")
		do(t, transport, req)
		if base.sent() != 4 {
			t.Fatalf("%d attempts", base.sent())
		}
		for i := range base.sent() {
			sent := base.request(i)
			if !slices.Equal(sent.Header["Token"], []string{"t"}) || !slices.Equal(sent.Header["Mine"], []string{"m"}) || len(sent.Header) != 2 {
				t.Errorf("attempt %d has the fields %v", i+1, sent.Header)
			}
			if sent.URL.RawQuery != "api-version=1&key=value" {
				t.Errorf("attempt %d has the query %q", i+1, sent.URL.RawQuery)
			}
			if base.bodies[i] != "body" {
				t.Errorf("attempt %d has the body %q", i+1, base.bodies[i])
			}
		}
		if len(req.Header) != 1 || req.URL.RawQuery != "key=value" {
			t.Errorf("the caller's request has become %v %v", req.Header, req.URL)
		}
	})
}

// An authority that was set on one attempt is not the next one's.
func TestHostOfOneAttemptIsNotTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, ""), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Prepare: func(req *http.Request, prev *steadyhttp.Attempt) error {
			if prev == nil {
				req.Host, req.URL.Host = "other.example", "other.example"
			}
			return nil
		}}
		do(t, transport, newRequest(t, "GET", ""))
		if got := base.request(1); got.Host != "api.example" || got.URL.Host != "api.example" {
			t.Errorf("the second attempt went to %q, Host %q", got.URL.Host, got.Host)
		}
	})
}

// A cancelled wait ends at once, with the cause, whatever made it wait.
func TestCancelDuringTheWait(t *testing.T) {
	mine := errors.New("shift is over")
	for name, fault := range map[string]step{"back-off": answers(503, "x"), "pushback": answers(429, "x", "Retry-After: 30"), "after an error": failsWith(errReset)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(3*time.Second, func() { cancel(mine) })
				base, passed := newScript(fault), stopwatch()
				policy := steadyhttp.Policy{NewBackOff: constantBackOff(30 * time.Second)}
				_, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
				if e := errorOf(t, err); e.Stop != "cancelled" || e.Attempts != 1 {
					t.Errorf("got %+v", e)
				}
				if !errors.Is(err, mine) || !errors.Is(err, context.Canceled) {
					t.Errorf("%v has lost the cause, or the context's error", err)
				}
				if passed() != 3*time.Second || base.sent() != 1 {
					t.Errorf("ended after %v and %d attempts", passed(), base.sent())
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// A wait that would outlast the deadline is never begun; the response is returned while it is worth
// something.
func TestNoSleepIntoTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		base, passed := newScript(answers(503, "first"), answers(503, "second")), stopwatch()
		policy := steadyhttp.Policy{NewBackOff: constantBackOff(6 * time.Second)}
		resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", "").WithContext(ctx))
		if body != "second" || stopOf(t, resp) != "deadline" || passed() != 6*time.Second {
			t.Errorf("%q after %v, stop %q", body, passed(), stopOf(t, resp))
		}
	})
}

// A context that is dead before the first attempt sends nothing, takes nothing, and closes the body.
func TestDeadContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := errors.New("shift is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(mine)
		entered := 0
		gate := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			entered++
			return nil, nil
		})
		base, body := newScript(answers(200, "")), newCountingBody("body")
		req := newRequest(t, "POST", "").WithContext(ctx)
		req.Body = body
		resp, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(req)
		if resp != nil || !errors.Is(err, mine) || !errors.Is(err, context.Canceled) || errorOf(t, err).Attempts != 0 {
			t.Errorf("got %v, %v", resp, err)
		}
		if base.sent() != 0 || entered != 0 || body.closes.Load() == 0 {
			t.Errorf("%d sent, %d gates entered, body closed %d times", base.sent(), entered, body.closes.Load())
		}
	})
}

// hangs is a step that answers when the attempt's context ends, as a server that never does.
func hangs(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

// An attempt that takes longer than AttemptTimeout is ended, and the next one answers.
func TestAttemptTimeoutThenSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, passed := newScript(hangs, answers(200, "fine")), stopwatch()
		policy := steadyhttp.Policy{AttemptTimeout: 5 * time.Second, NewBackOff: constantBackOff(time.Second)}
		_, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
		if body != "fine" || passed() != 6*time.Second {
			t.Errorf("%q after %v", body, passed())
		}
	})
}

// An attempt that timed out may have been carried out.
func TestAttemptTimeoutOfAPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(hangs)
		_, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: 5 * time.Second}}).RoundTrip(newRequest(t, "POST", "b"))
		e := errorOf(t, err)
		if e.Stop != "not_idempotent" || base.sent() != 1 || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %+v", e)
		}
	})
}

// What is left of MaxElapsed or of the context bounds an attempt too, if it is less.
func TestOverallBoundIsShorterThanTheAttempts(t *testing.T) {
	t.Run("MaxElapsed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base, passed := newScript(hangs), stopwatch()
			policy := steadyhttp.Policy{AttemptTimeout: 4 * time.Second, MaxElapsed: 7 * time.Second, NewBackOff: constantBackOff(time.Second)}
			_, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
			// 4 s, 1 s of back-off, and the 2 s that were left.
			if e := errorOf(t, err); e.Stop != "elapsed" || !e.Timeout() || passed() != 7*time.Second || base.sent() != 2 {
				t.Errorf("%v after %v and %d attempts", e, passed(), base.sent())
			}
		})
	})
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			base, passed := newScript(hangs), stopwatch()
			_, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Hour}}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
			if !errors.Is(err, context.DeadlineExceeded) || passed() != 3*time.Second || base.sent() != 1 {
				t.Errorf("%v after %v and %d attempts", err, passed(), base.sent())
			}
		})
	})
}

// An attempt's context lives until the body is read or closed.
func TestAttemptContextLivesAsLongAsTheBody(t *testing.T) {
	for name, end := range map[string]func(io.ReadCloser){
		"read to the end": func(b io.ReadCloser) { io.Copy(io.Discard, b) },
		"closed":          func(b io.ReadCloser) { b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answers(200, strings.Repeat("x", 512<<10)))
				resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Second}}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) // far beyond AttemptTimeout, which ends with the headers
				if err := base.request(0).Context().Err(); err != nil {
					t.Fatalf("the attempt's context has ended before its body was read: %v", err)
				}
				end(resp.Body)
				if base.request(0).Context().Err() == nil {
					t.Error("the attempt's context outlives its body")
				}
				resp.Body.Close()
			})
		})
	}
}

// Request.Cancel ends a call as its context does; http.Client.Timeout uses both.
func TestRequestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancel := make(chan struct{})
		time.AfterFunc(2*time.Second, func() { close(cancel) })
		req := newRequest(t, "GET", "")
		//lint:ignore SA1019 deprecated, and still obeyed
		req.Cancel = cancel
		passed := stopwatch()
		_, err := (&steadyhttp.Transport{Base: newScript(answers(429, "", "Retry-After: 30"))}).RoundTrip(req)
		if e := errorOf(t, err); e.Stop != "cancelled" || passed() != 2*time.Second {
			t.Errorf("%v after %v", e, passed())
		}
	})
}

// Whichever bound comes first ends the call.
func TestFirstBoundWins(t *testing.T) {
	for _, tt := range []struct {
		maxAttempts int
		maxElapsed  time.Duration
		attempts    int
		stop        steadyhttp.Stop
	}{
		{3, time.Hour, 3, "attempts"},
		{100, 10 * time.Second, 4, "elapsed"},
		{100, 0, 100, "attempts"},
	} {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answers(503, ""))
			policy := steadyhttp.Policy{MaxAttempts: tt.maxAttempts, MaxElapsed: tt.maxElapsed, NewBackOff: constantBackOff(3 * time.Second), Budget: &steadyhttp.Budget{Max: -1}}
			resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
			if base.sent() != tt.attempts || stopOf(t, resp) != tt.stop {
				t.Errorf("%d attempts, stop %q; want %d, %q", base.sent(), stopOf(t, resp), tt.attempts, tt.stop)
			}
		})
	}
}

// One key per call, the same on all its attempts, and another on the next call.
func TestIdempotencyKeyIsTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, ""), answers(503, ""), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{IdempotencyKey: true}}
		req := newRequest(t, "POST", "b")
		do(t, transport, req)
		do(t, transport, newRequest(t, "POST", "b"))
		var keys []string
		for i := range base.sent() {
			keys = append(keys, base.request(i).Header.Get("Idempotency-Key"))
		}
		if len(keys) != 4 || keys[0] != keys[1] || keys[1] != keys[2] || keys[2] == keys[3] {
			t.Errorf("keys %q", keys)
		}
		if len(keys[0]) < 2+26 || keys[0][0] != '"' || !strings.HasSuffix(keys[0], `"`) {
			t.Errorf("%s is not a Structured Field string of 128 random bits", keys[0])
		}
		if _, set := req.Header["Idempotency-Key"]; set {
			t.Error("the caller's request has got the key")
		}
	})
}

// A key of the caller's is kept; a method that is idempotent needs none.
func TestIdempotencyKeyIsNotForced(t *testing.T) {
	transport := &steadyhttp.Transport{Policy: steadyhttp.Policy{IdempotencyKey: true}}
	for method, key := range map[string]string{"POST": "mine", "GET": "", "PUT": ""} {
		base := newScript(answers(200, ""))
		transport.Base = base
		req := newRequest(t, method, "")
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
		do(t, transport, req)
		if got := base.request(0).Header.Get("Idempotency-Key"); got != key {
			t.Errorf("%s: key %q, want %q", method, got, key)
		}
	}
}

// Two Transports on top of each other do not multiply their attempts.
func TestNestedTransportsDoNotMultiply(t *testing.T) {
	for name, fault := range map[string]step{"503": answers(503, "last"), "429": answers(429, "last"), "reset": failsWith(errReset)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(fault)
				transport := &steadyhttp.Transport{Base: &steadyhttp.Transport{Base: base}}
				resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
				if base.sent() != 4 {
					t.Errorf("%d attempts, want 4", base.sent())
				}
				if err == nil {
					if stop := stopOf(t, resp); stop != "attempts" || readAll(t, resp) != "last" {
						t.Errorf("stop %q", stop)
					}
				} else if e := errorOf(t, err); e.Stop != "attempts" || e.Attempts != 4 {
					t.Errorf("got %+v", e)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// Many calls on one Transport, each with its own faults; all are counted, none is lost.
func TestConcurrentCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 500
		var sent, done atomic.Int64
		var mu sync.Mutex
		tries := map[string]int{}
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			sent.Add(1)
			id := req.Header.Get("Call")
			mu.Lock()
			tries[id]++
			n := tries[id]
			mu.Unlock()
			if n <= len(id)%4 { // 0 to 3 faults
				return answers(503, "")(req)
			}
			return answers(200, id)(req)
		})
		var want int64
		transport := &steadyhttp.Transport{
			Base:   base,
			Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: -1}},
			Trace:  &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) { done.Add(1) }},
		}
		var wg sync.WaitGroup
		for i := range calls {
			id := strings.Repeat("x", i%7) + fmt.Sprint(i)
			want += int64(1 + len(id)%4)
			wg.Go(func() {
				req := newRequest(t, "GET", "")
				req.Header.Set("Call", id)
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(body) != id {
					t.Errorf("call %s got %q, %v", id, body, err)
				}
			})
		}
		wg.Wait()
		if sent.Load() != want || done.Load() != calls {
			t.Errorf("%d sends, want %d; %d calls done, want %d", sent.Load(), want, done.Load(), calls)
		}
	})
}
