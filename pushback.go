package steadyhttp

import (
	"math"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// pushback returns how long the server asked us to wait, 0 if it did not. Every form is read, and the largest valid
// one wins; a form that breaks its grammar is ignored (facts: nine peers read only one form, and one of them waited
// 55 years for a number that overflowed).
//
// It looks at answers of the classes Transient and Throttled only: Retry-After also comes with a 202 or a redirect,
// where repeating the request would do it twice (RFC 9110 section 10.2.3).
func pushback(resp *http.Response, class Class) time.Duration {
	if class != Transient && class != Throttled || len(resp.Header) == 0 {
		return 0
	}
	h := resp.Header // its names are canonical as written below
	var longest time.Duration
	for _, value := range h["Retry-After"] {
		longest = max(longest, retryAfter(value, h))
	}
	for _, name := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		for _, value := range h[name] {
			longest = max(longest, decimal(value, time.Millisecond))
		}
	}
	if longest > 0 {
		// The rate limit fields tell of a window; Retry-After tells of this client, and takes precedence
		// (draft-ietf-httpapi-ratelimit-headers, section on Retry-After).
		return longest
	}
	for _, value := range h["Ratelimit"] {
		longest = max(longest, resetParameter(value))
	}
	for _, prefix := range [...]string{"Ratelimit-", "X-Ratelimit-"} {
		if left := h.Get(prefix + "Remaining"); left != "" && left != "0" {
			continue // the window has calls left: its end is not what we were refused for
		}
		for _, value := range h[prefix+"Reset"] {
			longest = max(longest, resetTime(value, h))
		}
	}
	return longest
}

// maxPushback is what any longer request saturates to. The Policy refuses it anyway; what matters is that it stays
// positive when jitter or a clock reading is added.
const maxPushback = 365 * 24 * time.Hour

func retryAfter(value string, h http.Header) time.Duration {
	value = textproto.TrimString(value)
	if date, ok := parseDate(value); ok {
		return until(date, h)
	}
	// Some gateways fold two fields into one list.
	var longest time.Duration
	for part := range strings.SplitSeq(value, ",") {
		longest = max(longest, decimal(textproto.TrimString(part), time.Second))
	}
	return longest
}

// decimal reads 1*DIGIT, with an optional fraction that the grammar does not have but servers do send, in the given
// unit and rounded up to the next nanosecond. Signs, exponents, hexadecimal and everything else are not numbers.
func decimal(s string, unit time.Duration) time.Duration {
	whole, fraction, dotted := strings.Cut(s, ".")
	if !digits(whole) || dotted && !digits(fraction) {
		return 0
	}
	if len(strings.TrimLeft(whole, "0")) > 15 {
		return maxPushback
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	if f *= float64(unit); f >= float64(maxPushback) {
		return maxPushback
	}
	return time.Duration(math.Ceil(f))
}

func digits(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// parseDate takes the three forms of RFC 9110 section 5.6.7. http.ParseTime knows them, but it pivots two-digit years
// at 69 instead of 50 years from now, and it lets no leap second pass.
func parseDate(s string) (time.Time, bool) {
	if len(s) < len(time.ANSIC) || s[0] < 'A' {
		return time.Time{}, false
	}
	if strings.Contains(s, ",") && !strings.HasSuffix(s, " GMT") {
		return time.Time{}, false // http.ParseTime takes the dates of RFC 850 in any zone
	}
	leap := strings.Contains(s, ":60 ")
	if leap {
		s = strings.Replace(s, ":60 ", ":59 ", 1)
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return time.Time{}, false
	}
	if leap {
		t = t.Add(time.Second)
	}
	if strings.Contains(s, "-") {
		t = withCentury(t)
	}
	return t, true
}

// withCentury gives a date of two digits its year: "a timestamp that appears to be more than 50 years in the future" is
// the most recent past one with those digits.
func withCentury(t time.Time) time.Time {
	now := time.Now()
	t = t.AddDate(now.Year()/100*100-t.Year()/100*100, 0, 0)
	if t.After(now.AddDate(50, 0, 0)) {
		t = t.AddDate(-100, 0, 0)
	}
	return t
}

// until measures from the server's own Date where it sent one, which takes the difference of the two clocks out. A Date
// with an Age is a cache's memory and no clock.
func until(date time.Time, h http.Header) time.Duration {
	now := time.Now()
	if len(h["Age"]) == 0 {
		for _, value := range h["Date"] {
			if t, ok := parseDate(textproto.TrimString(value)); ok {
				now = t
			}
		}
	}
	return min(max(0, date.Sub(now)), maxPushback)
}

// resetTime reads X-RateLimit-Reset: seconds from now, or, as GitHub sends it, a Unix time. No window lasts 30 years, so
// the size tells them apart.
func resetTime(value string, h http.Header) time.Duration {
	const epochs = 1_000_000_000
	value = textproto.TrimString(value)
	d := decimal(value, time.Second)
	if d < maxPushback {
		return d
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil && seconds >= epochs && seconds < 1<<40 {
		return until(time.Unix(seconds, 0), h)
	}
	return 0
}

// resetParameter reads the t of `RateLimit: "default";r=0;t=30`, for the items that have nothing remaining. A malformed
// field must be ignored (draft-ietf-httpapi-ratelimit-headers-10, section 4).
func resetParameter(value string) time.Duration {
	var longest time.Duration
	for item := range strings.SplitSeq(value, ",") {
		var remaining, reset string
		for parameter := range strings.SplitSeq(item, ";") {
			switch name, v, _ := strings.Cut(textproto.TrimString(parameter), "="); name {
			case "r":
				remaining = v
			case "t":
				reset = v
			}
		}
		if remaining == "0" && digits(reset) {
			longest = max(longest, decimal(reset, time.Second))
		}
	}
	return longest
}
