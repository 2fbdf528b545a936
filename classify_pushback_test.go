package steadyhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// A wait
// that does not fit ends the call at once, with the response. It is neither cut nor slept into.
func TestPushbackThatDoesNotFit(t *testing.T) {
	tests := []struct {
		name     string
		after    string
		policy   steadyhttp.Policy
		deadline time.Duration
		want     steadyhttp.Stop
	}{
		{"beyond the default MaxWait", "61", steadyhttp.Policy{}, 0, "wait_too_long"},
		{"beyond MaxWait", "6", steadyhttp.Policy{MaxWait: 5 * time.Second}, 0, "wait_too_long"},
		{"beyond MaxElapsed", "11", steadyhttp.Policy{MaxElapsed: 10 * time.Second}, 0, "elapsed"},
		{"all of MaxElapsed", "10", steadyhttp.Policy{MaxElapsed: 10 * time.Second}, 0, "elapsed"},
		{"beyond the deadline", "11", steadyhttp.Policy{}, 10 * time.Second, "deadline"},
		{"at the deadline", "10", steadyhttp.Policy{}, 10 * time.Second, "deadline"},
		{"beyond all of them", "120", steadyhttp.Policy{MaxElapsed: 10 * time.Second}, 10 * time.Second, "wait_too_long"},
	}
	for _, tt := range tests {
		for _, status := range []int{429, 503} {
			t.Run(fmt.Sprint(tt.name, ", ", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					if tt.deadline > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, tt.deadline)
						defer cancel()
					}
					base, passed := newScript(answers(status, "slow down", "Retry-After: "+tt.after)), stopwatch()
					resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: tt.policy}, newRequest(t, "GET", "").WithContext(ctx))
					if resp.StatusCode != status || body != "slow down" {
						t.Errorf("got %d %q", resp.StatusCode, body)
					}
					if stopOf(t, resp) != tt.want || base.sent() != 1 || passed() != 0 {
						t.Errorf("stop %q after %d attempts and %v, want %q at once", stopOf(t, resp), base.sent(), passed(), tt.want)
					}
					base.assertNoLeak(t)
				})
			})
		}
	}
}

// A pushback of exactly MaxWait: jitter does not push it over the bound.
func TestPushbackUpToMaxWaitIsHonoured(t *testing.T) {
	for _, tt := range []struct {
		after   string
		maxWait time.Duration
		least   time.Duration
	}{
		{"60", 0, time.Minute},
		{"60", time.Minute, time.Minute},
		{"5", 5 * time.Second, 5 * time.Second},
		{"4500", 75 * time.Minute, 75 * time.Minute},
		{"86400", 48 * time.Hour, 24 * time.Hour},
	} {
		// Several times, since the jitter is drawn.
		for range 20 {
			synctest.Test(t, func(t *testing.T) {
				base, passed := newScript(answers(429, "", "Retry-After: "+tt.after), answers(200, "")), stopwatch()
				policy := steadyhttp.Policy{MaxWait: tt.maxWait}
				resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
				if took := passed(); resp.StatusCode != 200 || took < tt.least || took > tt.least+time.Second {
					t.Errorf("Retry-After %s under MaxWait %v: %d after %v", tt.after, tt.maxWait, resp.StatusCode, took)
				}
			})
		}
	}
}

// Never earlier than the server asked, and hardly later.
func TestRetryIsNeverEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seconds := 2; seconds <= 60; seconds++ {
			for range 10 {
				base, passed := newScript(answers(429, "", fmt.Sprint("Retry-After: ", seconds)), answers(200, "")), stopwatch()
				do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
				asked := time.Duration(seconds) * time.Second
				if took := passed(); took < asked || took > asked+min(asked/10, time.Second) {
					t.Fatalf("asked for %v, took %v", asked, took)
				}
			}
		}
	})
}

// A date is a time to wait for, in all three forms.
func TestDateIsHonoured(t *testing.T) {
	for name, layout := range map[string]string{"IMF-fixdate": http.TimeFormat, "RFC 850": "Monday, 02-Jan-06 15:04:05 GMT", "asctime": time.ANSIC} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at := time.Now().Add(30 * time.Second)
				base := newScript(answers(429, "", "Retry-After: "+at.UTC().Format(layout)), answers(200, ""))
				do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
				if late := time.Since(at); late < 0 || late > time.Second {
					t.Errorf("%v after the time", late)
				}
			})
		})
	}
}

// What names no time to wait leaves the back-off alone; what names one less than the back-off,
// too: the larger of the two is waited for, never a hot loop.
func TestBackOffWherePushbackIsLess(t *testing.T) {
	for _, after := range []string{"0", "-5", "soon", "", "1e9", "0.25", "1", "Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 31 Dec 1999 23:00:00 GMT",
		"1734567890", "9223372037", "9999999999999", "31622401"} {
		for _, status := range []int{429, 503} {
			t.Run(fmt.Sprint(after, ", ", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base, passed := newScript(answers(503, ""), answers(status, "", "Retry-After: "+after), answers(200, "")), stopwatch()
					policy := steadyhttp.Policy{NewBackOff: constantBackOff(20 * time.Second)}
					do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
					if passed() != 40*time.Second {
						t.Errorf("took %v, want 20 s of back-off twice", passed())
					}
				})
			})
		}
	}
}

// "Applied to 2xx": a success or a redirect with a Retry-After is returned at once, and once.
func TestRetryAfterOnSuccessIsIgnored(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 206, 300, 301, 302, 303, 304, 307, 308} {
		for _, after := range []string{"0", "5", "3600"} {
			synctest.Test(t, func(t *testing.T) {
				base, passed := newScript(answers(status, "", "Retry-After: "+after)), stopwatch()
				resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
				if resp.StatusCode != status || base.sent() != 1 || passed() != 0 {
					t.Errorf("%d with Retry-After %s: %d after %d attempts and %v", status, after, resp.StatusCode, base.sent(), passed())
				}
			})
		}
	}
}

// A permanent answer stays one, whatever time it names: 413 and 404 do come with one.
func TestRetryAfterOnPermanentIsIgnored(t *testing.T) {
	for _, status := range []int{400, 401, 404, 409, 501} { // 403, 413 and 418 may throttle
		synctest.Test(t, func(t *testing.T) {
			base, passed := newScript(answers(status, "", "Retry-After: 5")), stopwatch()
			resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
			if base.sent() != 1 || passed() != 0 || stopOf(t, resp) != "permanent" {
				t.Errorf("%d: %d attempts in %v, stop %q", status, base.sent(), passed(), stopOf(t, resp))
			}
		})
	}
}

// Every form that the wire has is read, as it comes off the wire: field names are canonical there.
func TestOtherForms(t *testing.T) {
	for _, field := range []string{
		"retry-after-ms: 20000", "X-MS-Retry-After-MS: 20000", "x-ratelimit-reset: 20", "RATELIMIT-RESET: 20",
		`RateLimit: "default";r=0;t=20`, `ratelimit: "default";r=0;t=20`,
	} {
		t.Run(field, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, passed := newScript(answers(429, "", field), answers(200, "")), stopwatch()
				do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
				if took := passed(); took < 20*time.Second || took > 21*time.Second {
					t.Errorf("took %v, want 20 s", took)
				}
			})
		})
	}
}

// The Transport fills RetryAfter where a Classify leaves it 0, and keeps it where it does not.
func TestClassifyAndRetryAfter(t *testing.T) {
	for _, tt := range []struct{ mine, want time.Duration }{
		{0, 10 * time.Second},
		{25 * time.Second, 25 * time.Second},
		{3 * time.Second, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			base, passed := newScript(answers(420, "", "Retry-After: 10"), answers(200, "")), stopwatch()
			transport := &steadyhttp.Transport{Base: base, Classify: func(a steadyhttp.Attempt) steadyhttp.Verdict {
				if a.Response.StatusCode == 420 {
					return steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: tt.mine}
				}
				return steadyhttp.Verdict{Class: steadyhttp.Success}
			}}
			do(t, transport, newRequest(t, "GET", ""))
			if took := passed(); took < tt.want || took > tt.want+time.Second {
				t.Errorf("with %v of its own: took %v, want %v", tt.mine, took, tt.want)
			}
		})
	}
}

// What servers can make one call wait is bounded by MaxElapsed, whatever they send.
func TestServersCannotOutlastMaxElapsed(t *testing.T) {
	for _, policy := range []steadyhttp.Policy{
		{MaxElapsed: 5 * time.Minute},
		{MaxElapsed: 5 * time.Minute, MaxThrottled: -1, MaxAttempts: 1000},
		{MaxElapsed: 5 * time.Minute, MaxThrottled: -1, MaxWait: 24 * time.Hour},
	} {
		for _, after := range []string{"0", "0.001", "1", "7", "59", "60", "299", "300", "99999999999"} {
			synctest.Test(t, func(t *testing.T) {
				passed := stopwatch()
				transport := &steadyhttp.Transport{Base: newScript(answers(429, "", "Retry-After: "+after)), Policy: policy}
				do(t, transport, newRequest(t, "GET", ""))
				if passed() > 5*time.Minute {
					t.Errorf("Retry-After %s: the call took %v", after, passed())
				}
			})
		}
	}
}

// A 503 whose window has calls left does not ask for the window's end: it is retried after the back-off.
func TestWindowWithCallsLeftIsNoPushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, "", "X-RateLimit-Remaining: 4999", "X-RateLimit-Reset: 2400"), answers(200, ""))
		resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", ""))
		if resp.StatusCode != 200 {
			t.Errorf("got %d, stop %q", resp.StatusCode, stopOf(t, resp))
		}
	})
}
