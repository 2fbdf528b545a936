package steadyhttp_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// longest is the longest wait that anything is read as.
const longest = 366 * 24 * time.Hour

// waitOf returns what the zero Rules make of an answer's fields, names and values in turn.
func waitOf(status int, fields ...string) time.Duration {
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return (&steadyhttp.Rules{}).Classify(steadyhttp.Attempt{Response: &http.Response{StatusCode: status, Header: h}}).RetryAfter
}

// FuzzRetryAfter: no value makes a wait that is negative or longer than 366 days; digits are that many seconds; a further
// field never makes the wait shorter; and a success never has one.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{
		"120", "0", "-5", "+5", "0x10", "1e3", "", " ", "1 2", "1.5", "2.0", ".5", "5.", "NaN", "Inf", "9223372037", "18446744073709551616",
		strings.Repeat("9", 400), strings.Repeat("0", 400) + "7", "5, 120", ",,", "Sat, 21 Nov 2026 12:00:30 GMT", "Saturday, 21-Nov-26 12:00:30 GMT",
		"Sat Nov 21 12:00:30 2026", "Sat, 31 Dec 2016 23:59:60 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "1\x00", "\xff",
	} {
		f.Add(s, "Sat, 21 Nov 2026 12:00:00 GMT", "1500")
		f.Add(s, "", "")
	}
	f.Fuzz(func(t *testing.T, value, date, ms string) {
		for _, status := range []int{429, 503} {
			wait := waitOf(status, "Retry-After", value, "Date", date)
			if wait < 0 || wait > longest {
				t.Fatalf("%q with Date %q is a wait of %v", value, date, wait)
			}
			if n, err := strconv.ParseUint(value, 10, 31); err == nil && n < 1_000_000_000 {
				want := time.Duration(n) * time.Second
				if want > longest {
					want = 0
				}
				if wait != want {
					t.Fatalf("%q is a wait of %v, want %v", value, wait, want)
				}
			}
			// A date is read against the clock, which may have moved on by now.
			const moved = time.Minute
			if both := waitOf(status, "Retry-After", value, "Date", date, "Retry-After-Ms", ms); both < wait-moved || both > longest {
				t.Fatalf("%q and %q ms are a wait of %v, the first alone is %v", value, ms, both, wait)
			}
			if both := waitOf(status, "Retry-After", value, "Date", date, "Retry-After", ms); both < wait-moved || both > longest {
				t.Fatalf("%q and %q are a wait of %v, the first alone is %v", value, ms, both, wait)
			}
		}
		for _, status := range []int{200, 202, 301, 404} {
			if wait := waitOf(status, "Retry-After", value, "Retry-After-Ms", ms); wait != 0 {
				t.Fatalf("%q on a %d is a wait of %v", value, status, wait)
			}
		}
	})
}

// FuzzRateLimitFields: whatever the fields of a window say, the wait is in bounds; a Retry-After takes precedence; and
// a window with calls left asks for nothing.
func FuzzRateLimitFields(f *testing.F) {
	for _, s := range []string{
		`"default";r=0;t=30`, `"default"; r=0; t=30`, `"burst";r=0;t=10, "daily";r=0;t=600`, `"default";r=50;t=30`, `"a,b;c";r=0;t=1`,
		`"default";r=0;t=-1`, `"default";r=0;t=1.5`, `"default";r=0;t=` + strings.Repeat("9", 400), `;;==,,"`, `r=0;t=`, "limit=10, remaining=0, reset=30",
	} {
		f.Add(s, "30", "0")
		f.Add(s, "1795262430", "4999")
	}
	f.Fuzz(func(t *testing.T, rateLimit, reset, remaining string) {
		fields := []string{"RateLimit", rateLimit, "X-RateLimit-Reset", reset, "X-RateLimit-Remaining", remaining}
		if wait := waitOf(429, fields...); wait < 0 || wait > longest {
			t.Fatalf("%q is a wait of %v", fields, wait)
		}
		if wait := waitOf(429, append(fields, "Retry-After", "7")...); wait != 7*time.Second {
			t.Fatalf("%q with a Retry-After of 7 is a wait of %v", fields, wait)
		}
		if n, err := strconv.Atoi(remaining); err == nil && n > 0 && remaining == strconv.Itoa(n) && !strings.Contains(rateLimit, "r") {
			if wait := waitOf(429, fields...); wait != 0 {
				t.Fatalf("%q has calls left, and is a wait of %v", fields, wait)
			}
		}
	})
}

// FuzzClassify: for every status, field and body, a class that exists, decided as documented, and texts that can be
// printed.
func FuzzClassify(f *testing.F) {
	for _, status := range []int{200, 202, 301, 400, 401, 404, 408, 429, 500, 501, 503, 505, 599} {
		f.Add(status, "Retry-After", "5", []byte(envelope("Busy", "m", "t")))
	}
	f.Add(503, "Content-Type", "text/event-stream", []byte("data: x\n\n"))
	f.Add(429, "RateLimit", `"default";r=0;t=30`, []byte(`{"error":{"code":"429"`))
	f.Add(400, "X-Ms-Error-Code", "A", []byte("\xef\xbb\xbf{}"))
	f.Add(999, "", "", []byte(nil))
	f.Add(-1, "", "", []byte("null"))
	rules := &steadyhttp.Rules{
		ByCode:   map[string]steadyhttp.Class{"Busy": steadyhttp.Transient, "Gone": steadyhttp.Permanent},
		ByStatus: map[int]steadyhttp.Class{409: steadyhttp.Transient},
	}
	f.Fuzz(func(t *testing.T, status int, name, value string, body []byte) {
		a := steadyhttp.Attempt{
			N: 1, Body: body,
			Response: &http.Response{StatusCode: status, Header: http.Header{http.CanonicalHeaderKey(name): {value}}},
		}
		v := rules.Classify(a)
		if v.Class < steadyhttp.Success || v.Class > steadyhttp.Unauthorized {
			t.Fatalf("%d: %v", status, v.Class)
		}
		switch {
		case status < 400 && v != (steadyhttp.Verdict{Class: steadyhttp.Success}):
			t.Errorf("%d: %+v", status, v)
		case status == 429 && v.Class != steadyhttp.Throttled:
			t.Errorf("429: %+v", v)
		case status >= 400 && status != 429 && v.Code == "Busy" && v.Class != steadyhttp.Transient:
			t.Errorf("%d with a code of Transient: %+v", status, v)
		}
		if v.RetryAfter < 0 || v.RetryAfter > longest {
			t.Errorf("a wait of %v", v.RetryAfter)
		}
		assertPrintable(t, "Code", v.Code)
		assertPrintable(t, "Message", v.Message)
		assertPrintable(t, "Target", v.TrackingID)
		if len(v.Code) > 128 || len(v.TrackingID) > 128 || len(v.Message) > 1024 {
			t.Errorf("%d, %d, %d bytes", len(v.Code), len(v.TrackingID), len(v.Message))
		}
		again := rules.Classify(a)
		v.RetryAfter, again.RetryAfter = 0, 0 // a date is read against the clock
		if v != again {
			t.Errorf("first %+v, then %+v", v, again)
		}
	})
}
