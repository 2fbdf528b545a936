package steadyhttp

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pushbackNow is when the rows of the pushback table are read: a Saturday, with a two-digit year on either side of
// net/http's pivot, and late enough for Unix times to have ten digits.
var pushbackNow = time.Date(2026, time.November, 21, 12, 0, 0, 0, time.UTC)

// inBubbleAt runs f with a clock that stands at the given time.
func inBubbleAt(t *testing.T, now time.Time, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(now))
		f(t)
	})
}

func fieldsOf(fields ...string) http.Header {
	h := http.Header{}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		h.Add(name, value)
	}
	return h
}

func TestPushback(t *testing.T) {
	const (
		day     = 24 * time.Hour
		tooMuch = 0 // what is too much to be meant names no time
	)
	digits400 := strings.Repeat("9", 400)
	tests := []struct {
		name   string
		fields []string
		want   time.Duration
	}{
		{"no field", nil, 0},

		// seconds.
		{"seconds", []string{"Retry-After: 120"}, 120 * time.Second},
		{"one second", []string{"Retry-After: 1"}, time.Second},
		{"zero is legal", []string{"Retry-After: 0"}, 0},
		{"many zeros", []string{"Retry-After: 000"}, 0},
		{"leading zeros are not octal", []string{"Retry-After: 010"}, 10 * time.Second},
		{"a hundred leading zeros", []string{"Retry-After: " + strings.Repeat("0", 100) + "7"}, 7 * time.Second},
		{"white space around", []string{"Retry-After:  \t8 "}, 8 * time.Second},
		{"last second below the bound", []string{"Retry-After: 31535999"}, 365*day - time.Second},

		// What breaks the grammar is ignored, never guessed at.
		{"negative", []string{"Retry-After: -5"}, 0},
		{"negative zero", []string{"Retry-After: -0"}, 0},
		{"plus sign", []string{"Retry-After: +5"}, 0},
		{"hexadecimal", []string{"Retry-After: 0x10"}, 0},
		{"octal prefix", []string{"Retry-After: 0o17"}, 0},
		{"exponent", []string{"Retry-After: 1e3"}, 0},
		{"underscore", []string{"Retry-After: 1_000"}, 0},
		{"empty", []string{"Retry-After: "}, 0},
		{"blank", []string{"Retry-After:    "}, 0},
		{"inner space", []string{"Retry-After: 1 20"}, 0},
		{"inner no-break space", []string{"Retry-After: 1\u00a020"}, 0},
		{"unit", []string{"Retry-After: 12s"}, 12 * time.Second},
		{"words", []string{"Retry-After: 5 seconds"}, 0},
		{"ISO duration", []string{"Retry-After: PT5S"}, 0},
		{"NaN", []string{"Retry-After: NaN"}, 0},
		{"Inf", []string{"Retry-After: Inf"}, 0},
		{"+Infinity", []string{"Retry-After: +Infinity"}, 0},
		{"digits of another script", []string{"Retry-After: ٣٠"}, 0},
		{"NUL", []string{"Retry-After: 5\x00"}, 0},
		{"quoted", []string{`Retry-After: "5"`}, 5 * time.Second},

		// Out of the grammar, but sent: one and a half seconds must not become one.
		{"fraction", []string{"Retry-After: 1.5"}, 1500 * time.Millisecond},
		{"whole fraction", []string{"Retry-After: 2.0"}, 2 * time.Second},
		{"less than a second", []string{"Retry-After: 0.5"}, 500 * time.Millisecond},
		{"less than a nanosecond is rounded up", []string{"Retry-After: 0.0000000001"}, 1},
		{"fraction without a whole", []string{"Retry-After: .5"}, 0},
		{"whole without a fraction", []string{"Retry-After: 5."}, 0},
		{"two points", []string{"Retry-After: 1.5.2"}, 0},
		{"negative fraction", []string{"Retry-After: -1.5"}, 0},
		{"signed fraction", []string{"Retry-After: 1.-5"}, 0},
		{"fraction with an exponent", []string{"Retry-After: 1.5e9"}, 0},

		// Huge numbers name no time. 9223372037 s is the first that overflows a Duration.
		{"a year", []string{"Retry-After: 31536000"}, 365 * day},
		{"overflows a Duration", []string{"Retry-After: 9223372037"}, tooMuch},
		{"overflows an int64", []string{"Retry-After: 9223372036854775808"}, tooMuch},
		{"overflows a uint64", []string{"Retry-After: 18446744073709551616"}, tooMuch},
		{"15 digits", []string{"Retry-After: 999999999999999"}, tooMuch},
		{"16 digits", []string{"Retry-After: 1000000000000000"}, tooMuch},
		{"400 digits", []string{"Retry-After: " + digits400}, tooMuch},
		{"400 digits and a fraction", []string{"Retry-After: " + digits400 + ".5"}, tooMuch},

		// Dates, in all three forms.
		{"IMF-fixdate", []string{"Retry-After: Sat, 21 Nov 2026 12:00:30 GMT"}, 30 * time.Second},
		{"RFC 850", []string{"Retry-After: Saturday, 21-Nov-26 12:00:30 GMT"}, 30 * time.Second},
		{"asctime", []string{"Retry-After: Sat Nov 21 12:00:30 2026"}, 30 * time.Second},
		{"asctime, one-digit day", []string{"Retry-After: Tue Dec  1 12:00:00 2026"}, 10 * day},
		{"now", []string{"Retry-After: Sat, 21 Nov 2026 12:00:00 GMT"}, 0},
		{"past IMF-fixdate", []string{"Retry-After: Sat, 21 Nov 2026 11:59:59 GMT"}, 0},
		{"past RFC 850", []string{"Retry-After: Sunday, 06-Nov-94 08:49:37 GMT"}, 0},
		{"past asctime", []string{"Retry-After: Sun Nov  6 08:49:37 1994"}, 0},
		{"year 9999", []string{"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"}, tooMuch},
		{"year 0", []string{"Retry-After: Sat, 01 Jan 0000 00:00:00 GMT"}, 0},
		{"leap second", []string{"Retry-After: Sat, 21 Nov 2026 12:00:60 GMT"}, time.Minute},
		{"leap second at the year's end", []string{"Retry-After: Thu, 31 Dec 2026 23:59:60 GMT"}, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC).Sub(pushbackNow)},
		{"leap second in RFC 850", []string{"Retry-After: Saturday, 21-Nov-26 12:00:60 GMT"}, time.Minute},
		{"leap second in asctime", []string{"Retry-After: Sat Nov 21 12:00:60 2026"}, time.Minute},
		{"second 61", []string{"Retry-After: Sat, 21 Nov 2026 12:00:61 GMT"}, 0},
		{"minute 60", []string{"Retry-After: Sat, 21 Nov 2026 12:60:30 GMT"}, 0},
		{"hour 24", []string{"Retry-After: Sat, 21 Nov 2026 24:00:00 GMT"}, 0},
		{"February 31", []string{"Retry-After: Wed, 31 Feb 2027 12:00:30 GMT"}, 0},
		{"no time zone", []string{"Retry-After: Sat, 21 Nov 2026 12:00:30"}, 0},
		{"numeric time zone", []string{"Retry-After: Sat, 21 Nov 2026 12:00:30 +0000"}, 30 * time.Second},
		{"RFC 850 in another time zone", []string{"Retry-After: Saturday, 21-Nov-26 12:00:30 EST"}, 0},
		{"lower case", []string{"Retry-After: sat, 21 nov 2026 12:00:30 gmt"}, 0},
		{"ISO 8601", []string{"Retry-After: 2026-11-21T12:00:30Z"}, 30 * time.Second},
		{"half a date", []string{"Retry-After: Sat, 21 Nov"}, 0},

		// The server's own clock is the one its date was read from.
		{"server an hour ahead", []string{"Date: Sat, 21 Nov 2026 13:00:00 GMT", "Retry-After: Sat, 21 Nov 2026 13:00:30 GMT"}, 30 * time.Second},
		{"server an hour behind", []string{"Date: Sat, 21 Nov 2026 11:00:00 GMT", "Retry-After: Sat, 21 Nov 2026 11:00:30 GMT"}, 30 * time.Second},
		{"date before Date", []string{"Date: Sat, 21 Nov 2026 12:00:31 GMT", "Retry-After: Sat, 21 Nov 2026 12:00:30 GMT"}, 0},
		{"Date in another form", []string{"Date: Sat Nov 21 11:00:00 2026", "Retry-After: Sat, 21 Nov 2026 11:00:30 GMT"}, 30 * time.Second},
		{"Date that is none", []string{"Date: yesterday", "Retry-After: Sat, 21 Nov 2026 12:00:30 GMT"}, 30 * time.Second},
		{"Date out of a cache", []string{"Age: 600", "Date: Sat, 21 Nov 2026 11:50:00 GMT", "Retry-After: Sat, 21 Nov 2026 12:00:30 GMT"}, 30 * time.Second},
		{"seconds do not care about Date", []string{"Date: Sat, 21 Nov 2026 13:00:00 GMT", "Retry-After: 30"}, 30 * time.Second},

		// Of several, the largest valid one. First-wins and stop-on-several are what others do.
		{"two fields", []string{"Retry-After: 5", "Retry-After: 120"}, 2 * time.Minute},
		{"two fields, larger first", []string{"Retry-After: 120", "Retry-After: 5"}, 2 * time.Minute},
		{"garbage and a field", []string{"Retry-After: soon", "Retry-After: 7"}, 7 * time.Second},
		{"seconds and a date", []string{"Retry-After: 5", "Retry-After: Sat, 21 Nov 2026 12:00:30 GMT"}, 30 * time.Second},
		{"list", []string{"Retry-After: 5, 120"}, 2 * time.Minute},
		{"list without spaces", []string{"Retry-After: 120,5"}, 2 * time.Minute},
		{"list with garbage", []string{"Retry-After: soon, 7, -9"}, 7 * time.Second},
		{"list of garbage", []string{"Retry-After: soon, later"}, 0},
		{"empty list", []string{"Retry-After: ,,"}, 0},

		// Milliseconds; the largest wins here too, whatever its unit.
		{"milliseconds", []string{"Retry-After-Ms: 1500"}, 1500 * time.Millisecond},
		{"Azure's milliseconds", []string{"x-ms-retry-after-ms: 2500"}, 2500 * time.Millisecond},
		{"all three units, largest in ms", []string{"Retry-After: 1", "Retry-After-Ms: 1500", "x-ms-retry-after-ms: 2500"}, 2500 * time.Millisecond},
		{"all three units, largest in s", []string{"Retry-After: 3", "Retry-After-Ms: 1500", "x-ms-retry-after-ms: 2500"}, 3 * time.Second},
		{"bad seconds, good milliseconds", []string{"Retry-After: -1", "Retry-After-Ms: 1500"}, 1500 * time.Millisecond},
		{"good seconds, bad milliseconds", []string{"Retry-After: 1", "Retry-After-Ms: 1e9"}, time.Second},
		{"negative milliseconds", []string{"Retry-After-Ms: -1500"}, 0},
		{"fraction of a millisecond", []string{"Retry-After-Ms: 0.5"}, 500 * time.Microsecond},
		{"huge milliseconds", []string{"Retry-After-Ms: 9223372036855"}, tooMuch},
		{"a date is no number of milliseconds", []string{"Retry-After-Ms: Sat, 21 Nov 2026 12:00:30 GMT"}, 0},

		// X-RateLimit-Reset: seconds, or a Unix time as GitHub has it.
		{"reset as delta", []string{"X-RateLimit-Reset: 30"}, 30 * time.Second},
		{"reset as Unix time", []string{"X-RateLimit-Reset: 1795262430"}, 30 * time.Second},
		{"reset as Unix time, server an hour ahead", []string{"Date: Sat, 21 Nov 2026 13:00:00 GMT", "X-RateLimit-Reset: 1795266030"}, 30 * time.Second},
		{"reset as past Unix time", []string{"X-RateLimit-Reset: 1795262399"}, 0},
		{"reset in Unix milliseconds", []string{"X-RateLimit-Reset: 1795262430000"}, 30 * time.Second},
		{"reset of 400 digits", []string{"X-RateLimit-Reset: " + digits400}, 0},
		{"negative reset", []string{"X-RateLimit-Reset: -30"}, 0},
		{"reset with an exponent", []string{"X-RateLimit-Reset: 1e2"}, 0},
		{"reset of the older draft", []string{"RateLimit-Reset: 30"}, 30 * time.Second},
		{"Retry-After before reset", []string{"Retry-After: 5", "X-RateLimit-Reset: 30"}, 5 * time.Second},
		{"bad Retry-After, good reset", []string{"Retry-After: soon", "X-RateLimit-Reset: 30"}, 30 * time.Second},
		{"reset with nothing remaining", []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30"}, 30 * time.Second},

		// RateLimit, draft-ietf-httpapi-ratelimit-headers.
		{"RateLimit", []string{`RateLimit: "default";r=0;t=30`}, 30 * time.Second},
		{"RateLimit with spaces", []string{`RateLimit: "default"; r=0; t=30`}, 30 * time.Second},
		{"RateLimit, other order", []string{`RateLimit: "default";t=30;r=0`}, 30 * time.Second},
		{"RateLimit with calls remaining", []string{`RateLimit: "default";r=50;t=30`}, 0},
		{"RateLimit without r", []string{`RateLimit: "default";t=30`}, 0},
		{"RateLimit without t", []string{`RateLimit: "default";r=0`}, 0},
		{"RateLimit, two windows used up", []string{`RateLimit: "burst";r=0;t=10, "daily";r=0;t=600`}, 10 * time.Minute},
		{"RateLimit, one window used up", []string{`RateLimit: "burst";r=0;t=10, "daily";r=5;t=600`}, 10 * time.Second},
		{"RateLimit, two fields", []string{`RateLimit: "burst";r=0;t=10`, `RateLimit: "daily";r=0;t=600`}, 10 * time.Minute},
		{"RateLimit, negative t", []string{`RateLimit: "default";r=0;t=-30`}, 0},
		{"RateLimit, fraction", []string{`RateLimit: "default";r=0;t=1.5`}, 0},
		{"RateLimit, huge t", []string{`RateLimit: "default";r=0;t=` + digits400}, tooMuch},
		{"RateLimit, garbage", []string{`RateLimit: ;;==,,"`}, 0},
		{"RateLimit, older form", []string{"RateLimit: limit=10, remaining=0, reset=30"}, 30 * time.Second},
		{"Retry-After before RateLimit", []string{"Retry-After: 5", `RateLimit: "default";r=0;t=30`}, 5 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubbleAt(t, pushbackNow, func(t *testing.T) {
				resp := &http.Response{StatusCode: 429, Header: fieldsOf(tt.fields...)}
				if got := pushback(resp, Throttled); got != tt.want {
					t.Errorf("%.200q gives %v, want %v", tt.fields, got, tt.want)
				}
			})
		})
	}
}

// A window that has calls left is no reason to wait, as with RateLimit's r: GitHub and others send these fields on
// every answer, and a 503 whose hourly window ends in 40 minutes does not ask for 40 minutes.
func TestPushbackIgnoresWindowWithCallsLeft(t *testing.T) {
	for _, fields := range [][]string{
		{"X-RateLimit-Remaining: 4999", "X-RateLimit-Reset: 2400"},
		{"RateLimit-Remaining: 4999", "RateLimit-Reset: 2400"},
	} {
		resp := &http.Response{StatusCode: 503, Header: fieldsOf(fields...)}
		if got := pushback(resp, Transient); got != 0 {
			t.Errorf("%q gives %v, want 0", fields, got)
		}
	}
}

// Retry-After also comes with a 202 or a 301, where retrying the request would do it twice.
func TestPushbackOnlyWhereARetryIsDue(t *testing.T) {
	resp := &http.Response{StatusCode: 202, Header: fieldsOf("Retry-After: 5", "Retry-After-Ms: 6000", "X-RateLimit-Reset: 7")}
	for class, want := range map[Class]time.Duration{
		Success: 0, Permanent: 0, Unauthorized: 0, Class(0): 0,
		Transient: 6 * time.Second, Throttled: 6 * time.Second,
	} {
		if got := pushback(resp, class); got != want {
			t.Errorf("%v: %v, want %v", class, got, want)
		}
	}
}

// A clock that moves on while a date is compared with it makes no negative wait.
func TestDateThatPassesIsNoNegativeWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		date := time.Now().Add(time.Second).UTC().Format(http.TimeFormat)
		resp := &http.Response{StatusCode: 429, Header: fieldsOf("Retry-After: " + date)}
		for _, want := range []time.Duration{time.Second, 500 * time.Millisecond, 0, 0} {
			if got := pushback(resp, Throttled); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
}

// The most often wrong: the jitter is added, never taken off, and it is little.
func TestSpread(t *testing.T) {
	for _, asked := range []time.Duration{1, 9, 10, time.Millisecond, time.Second, 8 * time.Second, 10 * time.Second, time.Minute, time.Hour, maxPushback} {
		most := min(asked/10, time.Second)
		var least, longest time.Duration = 1 << 62, 0
		const draws = 10_000
		var sum float64
		for range draws {
			added := spread(asked) - asked
			if added < 0 {
				t.Fatalf("spread(%v) is %v early", asked, -added)
			}
			if added > most {
				t.Fatalf("spread(%v) adds %v, more than %v", asked, added, most)
			}
			least, longest = min(least, added), max(longest, added)
			sum += float64(added)
		}
		if most < time.Microsecond {
			continue // too few values to look at their distribution
		}
		if least > most/20 || longest < most-most/20 {
			t.Errorf("spread(%v): 10,000 draws lie in [%v, %v] only, of [0, %v]", asked, least, longest, most)
		}
		if mean := sum / draws / float64(most); mean < 0.47 || mean > 0.53 {
			t.Errorf("spread(%v): the mean is %.2f of the most, want about a half", asked, mean)
		}
	}
	for _, none := range []time.Duration{0, -1, -time.Hour} {
		if got := spread(none); got != 0 {
			t.Errorf("spread(%v) = %v, want 0", none, got)
		}
	}
}
