package steadyhttp

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The decision is a pure function of what was answered and of the call's situation. These are its rows; the properties
// below hold over all combinations.
func TestPermit(t *testing.T) {
	// fresh is the situation of a first attempt of a idempotent, replayable request.
	fresh := situation{attempts: 1, idempotent: true, replayable: true}
	in := func(change func(*situation)) situation {
		s := fresh
		change(&s)
		return s
	}
	named := Verdict{Class: Throttled, RetryAfter: time.Second}
	tests := []struct {
		name   string
		policy Policy
		v      Verdict
		s      situation
		want   Stop
	}{
		{"success", Policy{}, Verdict{Class: Success}, fresh, StopDone},
		{"success beats used-up attempts", Policy{}, Verdict{Class: Success}, in(func(s *situation) { s.attempts = 9 }), StopDone},
		{"permanent", Policy{}, Verdict{Class: Permanent}, fresh, StopPermanent},
		{"permanent beats used-up attempts", Policy{}, Verdict{Class: Permanent}, in(func(s *situation) { s.attempts = 9 }), StopPermanent},
		{"permanent with a Retry-After", Policy{}, Verdict{Class: Permanent, RetryAfter: time.Second}, fresh, StopPermanent},

		{"transient", Policy{}, Verdict{Class: Transient}, fresh, ""},
		{"transient, not idempotent", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.idempotent = false }), StopNotIdempotent},
		{"transient, not idempotent, unsent", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.idempotent, s.unsent = false, true }), ""},
		{"transient, not replayable", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.replayable = false }), StopBodyNotReplayable},
		{"transient, neither", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.idempotent, s.replayable = false, false }), StopNotIdempotent},
		{"transient, unsent, not replayable", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.idempotent, s.unsent, s.replayable = false, true, false }), StopBodyNotReplayable},
		{"transient with a Retry-After is not free", Policy{MaxAttempts: 2, MaxThrottled: -1}, Verdict{Class: Transient, RetryAfter: time.Second}, in(func(s *situation) { s.attempts = 2 }), StopAttempts},

		{"throttled", Policy{}, Verdict{Class: Throttled}, fresh, ""},
		{"throttled, not idempotent", Policy{}, Verdict{Class: Throttled}, in(func(s *situation) { s.idempotent = false }), ""},
		{"throttled, not replayable", Policy{}, Verdict{Class: Throttled}, in(func(s *situation) { s.replayable = false }), StopBodyNotReplayable},
		{"named, not replayable", Policy{MaxThrottled: -1}, named, in(func(s *situation) { s.replayable = false }), StopBodyNotReplayable},

		{"unauthorized, nobody to ask", Policy{}, Verdict{Class: Unauthorized}, fresh, StopPermanent},
		{"unauthorized, authorizable", Policy{}, Verdict{Class: Unauthorized}, in(func(s *situation) { s.authorizable = true }), ""},
		{"unauthorized, not idempotent", Policy{}, Verdict{Class: Unauthorized}, in(func(s *situation) { s.authorizable, s.idempotent = true, false }), ""},
		{"unauthorized, not replayable", Policy{}, Verdict{Class: Unauthorized}, in(func(s *situation) { s.authorizable, s.replayable = true, false }), StopBodyNotReplayable},
		{"unauthorized, attempts used up", Policy{}, Verdict{Class: Unauthorized}, in(func(s *situation) { s.authorizable, s.attempts = true, 4 }), StopAttempts},

		// 0 is the default of 4, 1 and negative mean never.
		{"third of four", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.attempts = 3 }), ""},
		{"fourth of four", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.attempts = 4 }), StopAttempts},
		{"fifth of four", Policy{}, Verdict{Class: Transient}, in(func(s *situation) { s.attempts = 5 }), StopAttempts},
		{"one attempt", Policy{MaxAttempts: 1}, Verdict{Class: Transient}, fresh, StopAttempts},
		{"negative attempts", Policy{MaxAttempts: -7}, Verdict{Class: Transient}, fresh, StopAttempts},
		{"one attempt, throttled", Policy{MaxAttempts: 1}, Verdict{Class: Throttled}, fresh, StopAttempts},
		{"attempts before idempotency", Policy{MaxAttempts: 1}, Verdict{Class: Transient}, in(func(s *situation) { s.idempotent = false }), StopAttempts},
		{"many attempts", Policy{MaxAttempts: math.MaxInt}, Verdict{Class: Transient}, in(func(s *situation) { s.attempts = 1 << 30 }), ""},

		// A 429 may come over and above MaxAttempts.
		{"named counts by default", Policy{}, named, in(func(s *situation) { s.attempts = 4 }), StopAttempts},
		{"named within MaxThrottled", Policy{MaxThrottled: 2}, named, in(func(s *situation) { s.attempts, s.throttled = 4, 1 }), ""},
		{"named beyond MaxThrottled", Policy{MaxThrottled: 2}, named, in(func(s *situation) { s.attempts, s.throttled = 4, 2 }), StopAttempts},
		{"named beyond MaxThrottled, attempts left", Policy{MaxThrottled: 2}, named, in(func(s *situation) { s.attempts, s.throttled = 3, 2 }), ""},
		{"named, any number", Policy{MaxThrottled: -1}, named, in(func(s *situation) { s.attempts, s.throttled = 4, 1_000_000 }), ""},
		{"named, any number, but never retry", Policy{MaxAttempts: 1, MaxThrottled: -1}, named, fresh, StopAttempts},
		{"bare, any number", Policy{MaxThrottled: -1}, Verdict{Class: Throttled}, in(func(s *situation) { s.attempts = 4 }), ""},
	}
	for _, tt := range tests {
		if got := tt.policy.permit(tt.v, tt.s); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What must hold whatever else is the case, over all combinations.
func TestPermitProperties(t *testing.T) {
	bools := []bool{false, true}
	for class := Success; class <= Unauthorized; class++ {
		for _, after := range []time.Duration{0, time.Second} {
			for _, maxAttempts := range []int{-1, 0, 1, 2} {
				for _, maxThrottled := range []int{-1, 0, 3} {
					for attempts := 1; attempts <= 6; attempts++ {
						for _, throttled := range []int{0, 3} {
							for _, idempotent := range bools {
								for _, replayable := range bools {
									for _, unsent := range bools {
										p := Policy{MaxAttempts: maxAttempts, MaxThrottled: maxThrottled}
										v := Verdict{Class: class, RetryAfter: after}
										s := situation{attempts: attempts, throttled: throttled, idempotent: idempotent, unsent: unsent, replayable: replayable}
										got := p.permit(v, s)
										violated := ""
										switch {
										case got == "" && (class == Success || class == Permanent || class == Unauthorized):
											violated = "retried what a retry cannot help"
										case got == "" && !replayable:
											violated = "retried without a body"
										case got == "" && class == Transient && !idempotent && !unsent:
											violated = "did twice what may have been done"
										case got == "" && p.maxAttempts() == 1:
											violated = "retried under a policy that never does"
										case got == "" && attempts >= p.maxAttempts() && !(class == Throttled && (maxThrottled < 0 || throttled < maxThrottled)):
											violated = "more attempts than MaxAttempts"
										case got != "" && class == Throttled && replayable && attempts < p.maxAttempts():
											violated = "gave up a refused request that could be sent again"
										case got != "" && class == Transient && idempotent && replayable && attempts < p.maxAttempts():
											violated = "gave up an idempotent request"
										case (got == StopDone) != (class == Success):
											violated = "done is what succeeded"
										}
										if violated != "" {
											t.Errorf("%s: %+v %+v under %d/%d: %q", violated, v, s, maxAttempts, maxThrottled, got)
										}
									}
								}
							}
						}
					}
				}
			}
		}
	}
}

func TestFits(t *testing.T) {
	const none = -1
	tests := []struct {
		name                                  string
		policy                                Policy
		asked, wait, remaining, untilDeadline time.Duration
		want                                  Stop
	}{
		{"no bounds but the default", Policy{}, time.Second, time.Second, none, none, ""},
		{"no wait", Policy{}, 0, 0, none, none, ""},
		{"the back-off ended", Policy{}, 0, backoff.Stop, none, none, StopAttempts},
		{"exactly the default MaxWait", Policy{}, time.Minute, time.Minute, none, none, ""},
		{"exactly MaxWait, with jitter", Policy{}, time.Minute, 61 * time.Second, none, none, ""},
		{"more than the default MaxWait", Policy{}, time.Minute + 1, time.Minute + 1, none, none, StopWaitTooLong},
		{"exactly MaxWait", Policy{MaxWait: time.Hour}, time.Hour, time.Hour, none, none, ""},
		{"more than MaxWait", Policy{MaxWait: time.Hour}, time.Hour + 1, time.Hour + 1, none, none, StopWaitTooLong},
		{"less than what is left", Policy{}, 9 * time.Second, 9 * time.Second, 10 * time.Second, none, ""},
		{"all that is left", Policy{}, 10 * time.Second, 10 * time.Second, 10 * time.Second, none, StopElapsed},
		{"jitter beyond what is left", Policy{}, 9 * time.Second, 10 * time.Second, 10 * time.Second, none, ""},
		{"nothing left", Policy{}, 0, 0, 0, none, StopElapsed},
		{"before the deadline", Policy{}, 9 * time.Second, 9 * time.Second, none, 10 * time.Second, ""},
		{"at the deadline", Policy{}, 10 * time.Second, 10 * time.Second, none, 10 * time.Second, StopDeadline},
		{"jitter beyond the deadline", Policy{}, 9 * time.Second, 10 * time.Second, none, 10 * time.Second, ""},
		{"deadline passed", Policy{}, 0, 0, none, 0, StopDeadline},
		{"MaxWait is told first", Policy{}, time.Hour, time.Hour, time.Minute, time.Minute, StopWaitTooLong},
		{"MaxElapsed is told before the deadline", Policy{}, time.Minute, time.Minute, time.Second, time.Second, StopElapsed},
		{"the longest wait there is", Policy{MaxWait: math.MaxInt64}, math.MaxInt64, math.MaxInt64, none, none, ""},
	}
	for _, tt := range tests {
		got, stop := tt.policy.fits(wait{tt.asked, tt.wait, tt.asked, tt.asked}, tt.remaining, tt.untilDeadline)
		if stop != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, stop, tt.want)
		}
		if stop == "" && (got < tt.asked || got > tt.wait || tt.remaining >= 0 && got >= tt.remaining || tt.untilDeadline >= 0 && got >= tt.untilDeadline) {
			t.Errorf("%s: waits %v", tt.name, got)
		}
	}
}

// 500 ms doubling to 30 s, ±50 %, also after a hundred attempts.
func TestDefaultBackOffBounds(t *testing.T) {
	for range 200 {
		var b series
		interval := 500 * time.Millisecond
		for attempt := 1; attempt <= 100; attempt++ {
			b.next(nil)
			got := b.interval
			// The library rounds to a nanosecond.
			if least, most := interval/2, interval*3/2; got < least-1 || got > most+1 {
				t.Fatalf("attempt %d: %v, want %v to %v", attempt, got, least, most)
			}
			interval = min(2*interval, 30*time.Second)
		}
	}
}

// Clients that failed at the same instant do not come back at the same instant.
func TestDefaultBackOffIsSpread(t *testing.T) {
	const draws = 10_000
	var buckets [10]int
	for range draws {
		var b series
		b.next(nil)
		got := b.interval
		buckets[min(9, max(0, int((got-250*time.Millisecond)*10/(500*time.Millisecond))))]++
	}
	for i, n := range buckets {
		// 1000 is expected, with a standard deviation of 30.
		if n < 800 || n > 1200 {
			t.Errorf("bucket %d of 10 has %d of 10,000 draws: %v", i, n, buckets)
		}
	}
}

// Two calls must not share a back-off: it has state.
func TestDefaultBackOffIsFreshForEachCall(t *testing.T) {
	var first, second series
	for range 20 {
		first.next(nil)
	}
	second.next(nil)
	if got := second.interval; got > 750*time.Millisecond+1 {
		t.Errorf("a fresh back-off begins with %v", got)
	}
}

// Methods are compared exactly, as HTTP has it; "get" is a method of its own.
func TestIdempotentMethods(t *testing.T) {
	tests := map[string]bool{
		"": true, "GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "PUT": true, "DELETE": true,
		"POST": false, "PATCH": false, "CONNECT": false, "PROPFIND": true, "REPORT": true, "SEARCH": true, "QUERY": true, "PROPPATCH": false, "get": false, "Put": false, " GET": false,
	}
	for method, want := range tests {
		if got := idempotent(method); got != want {
			t.Errorf("idempotent(%q) = %v", method, got)
		}
	}
}

func TestIdempotent(t *testing.T) {
	yes := func(*http.Request) bool { return true }
	no := func(*http.Request) bool { return false }
	tests := []struct {
		method string
		fields []string
		policy Policy
		want   bool
	}{
		{"GET", nil, Policy{}, true},
		{"POST", nil, Policy{}, false},
		{"POST", []string{"Idempotency-Key: k"}, Policy{}, true},
		{"POST", []string{"X-Idempotency-Key: k"}, Policy{}, true},
		// net/http looks at the field's presence, and replays such a request by itself.
		{"POST", []string{"Idempotency-Key: "}, Policy{}, true},
		{"PATCH", []string{"Idempotency-Key: k"}, Policy{}, true},
		// The policy has the last word, in both directions.
		{"POST", nil, Policy{Idempotent: yes}, true},
		{"GET", nil, Policy{Idempotent: no}, false},
		{"POST", []string{"Idempotency-Key: k"}, Policy{Idempotent: no}, false},
		// But not over a tunnel: its body is one side of a conversation.
		{"CONNECT", nil, Policy{Idempotent: yes}, false},
		{"GET", []string{"Upgrade: websocket"}, Policy{Idempotent: yes}, false},
		{"GET", []string{"Upgrade: websocket"}, Policy{}, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.method, tt.fields, tt.policy.Idempotent != nil), func(t *testing.T) {
			req := &http.Request{Method: tt.method, Header: fieldsOf(tt.fields...)}
			if got := tt.policy.idempotent(req); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A batch would rather wait than lose an item.
func TestBatch(t *testing.T) {
	p := Batch()
	if p.maxAttempts() != 20 {
		t.Errorf("MaxAttempts is %d", p.maxAttempts())
	}
	if p.MaxThrottled >= 0 {
		t.Errorf("MaxThrottled is %d: retries that the service asked for are counted", p.MaxThrottled)
	}
	if p.maxWait() != 75*time.Minute {
		t.Errorf("MaxWait is %v: an hourly quota's reset must fit in", p.maxWait())
	}
	if p.Budget == nil || !p.Budget.Wait || p.Budget.Max < 0 {
		t.Errorf("Budget is %+v: it must be waited for", p.Budget)
	}
	if other := Batch(); other.Budget == p.Budget {
		t.Error("two policies share a Budget")
	}
}
