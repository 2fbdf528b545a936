package retryafter

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzRead: no header makes a wait that is negative or longer than 366 days; what has a wait has a
// source; a number that is a plain delta means that many seconds; and a further field of the same
// rank never makes the wait shorter.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"120", "0", "-5", "1.5", "2.0", "1e3", "0x1E", "30, 60", `"30"`, "30s", "1d2h3m4.5s", "1795694460", "1795694460000", "1795694460000000",
		"1795694460000000000", "1795694464.57", "150933900", "99999999999999999999999", "Thu, 26 Nov 2026 12:00:30 GMT", "Thursday, 26-Nov-26 12:00:30 GMT",
		"Thu Nov 26 12:00:30 2026", "2026-11-26T12:00:30Z", "2026-11-26T12:05Z", "2026-11-26 12:00:42", "Thu, 26 Nov 2026 13:00:30 +0100",
		"Thu Nov 26 2026 13:00:42 GMT+0100 (Central European Standard Time)", "5, Thu, 26 Nov 2026 12:00:30 GMT, 7",
		`"default";r=0;t=30`, `"a,b;c";r=0;t=1, "b";r=1;t=2`, "limit=100, remaining=0, reset=54", `;;==,,"\`, "0;w=21600", "-1", "", "\xff",
	} {
		f.Add("X-Ratelimit-Reset", s, "0", "30", int64(1795694400))
		f.Add("Ratelimit", s, s, s, int64(0))
	}
	f.Fuzz(func(t *testing.T, name, value, left, after string, unix int64) {
		if unix < 0 || unix > 4102444800 {
			return
		}
		now := time.Unix(unix, 0)
		name = http.CanonicalHeaderKey(name)
		h := http.Header{name: {value}, "Retry-After": {after}, "X-Ratelimit-Remaining": {left}, "X-Rate-Limit-Reset-Ms": {value}}
		wait, source := Read(h, now)
		if wait < 0 || wait > Max || (wait > 0) != (source != None) || source > Reset {
			t.Fatalf("%q is a wait of %v from %d", h, wait, source)
		}
		alone, _ := Read(http.Header{"Retry-After": {value}}, now)
		if alone < 0 || alone > Max {
			t.Fatalf("%q is a wait of %v", value, alone)
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil && n < unixStart {
			want := time.Duration(min(n, 1<<30)) * time.Second
			if want > Max {
				want = 0
			}
			if alone != want {
				t.Fatalf("%q is a wait of %v, want %v", value, alone, want)
			}
		}
		if both, _ := Read(http.Header{"Retry-After": {value, after}}, now); both < alone {
			t.Fatalf("%q is a wait of %v, with %q of %v", value, alone, after, both)
		}
		if both, _ := Read(http.Header{"Retry-After": {value}, "Retry-After-Ms": {after}}, now); both < alone {
			t.Fatalf("%q is a wait of %v, with %q ms of %v", value, alone, after, both)
		}
		if v := Value(value, false, nil, now); v < 0 || v > Max || v > alone && !strings.ContainsAny(value, ",;") {
			t.Fatalf("%q is a value of %v, and a Retry-After of %v", value, v, alone)
		}
	})
}

const unixStart = 1_000_000_000

// FuzzHTTPDate: a date that net/http reads is read the same way, but for leap seconds, the century
// of two-digit years and zones; one of RFC 3339 as package time reads it; and every date that we
// would write is read back.
func FuzzHTTPDate(f *testing.F) {
	for _, s := range []string{
		"Sat, 21 Nov 2026 12:00:30 GMT", "Saturday, 21-Nov-26 12:00:30 GMT", "Sat Nov 21 12:00:30 2026", "Tue Dec  1 12:00:00 2026",
		"Sat, 31 Dec 2016 23:59:60 GMT", "Sat, 21 Nov 2026 12:60:30 GMT", "Wed, 31 Feb 2027 12:00:30 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Saturday, 29-Feb-00 00:00:00 GMT", "", "GMT", "2026-11-21T12:00:30Z", "120",
	} {
		f.Add(s, int64(1795262430))
	}
	f.Add("", int64(0))
	f.Add("", int64(253402300799)) // the last second of the year 9999
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		leap := strings.Contains(s, ":60")
		want, err := http.ParseTime(strings.Replace(s, ":60", ":59", 1))
		if d, ok := parseDate(s, time.Now()); ok && err == nil {
			got := d.at
			if leap {
				want = want.Add(time.Second)
			}
			if strings.Contains(s, "-") { // RFC 850's
				if got.After(time.Now().AddDate(50, 0, 1)) {
					t.Fatalf("%q is read as %v, more than 50 years ahead", s, got)
				}
			} else if !got.Equal(want) {
				t.Fatalf("%q is read as %v, not %v", s, got, want)
			}
		}
		if want, err := time.Parse(time.RFC3339, s); err == nil && len(s) < 30 {
			if got, ok := parseDate(s, time.Now()); ok && got.at.Sub(want).Abs() > 1 && !got.guessed {
				t.Fatalf("%q is read as %v, not %v", s, got.at, want)
			}
		}
		date := time.Unix(unix, 0).UTC()
		if date.Year() < 0 || date.Year() > 9999 {
			return
		}
		for _, layout := range []string{
			http.TimeFormat, time.ANSIC, time.RFC3339, time.RFC1123Z, "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05 UTC", time.DateTime,
			"Mon Jan 02 2006 15:04:05 GMT-0700 (MST)",
		} {
			if got, ok := parseDate(date.Format(layout), time.Now()); !ok || !got.at.Equal(date) {
				t.Fatalf("%q is read as %v, %v", date.Format(layout), got.at, ok)
			}
		}
		if now := time.Now(); date.After(now.AddDate(-49, 0, 0)) && date.Before(now.AddDate(49, 0, 0)) {
			written := date.Format("Monday, 02-Jan-06 15:04:05 GMT")
			if got, ok := parseDate(written, time.Now()); !ok || !got.at.Equal(date) {
				t.Fatalf("%q is read as %v, %v", written, got.at, ok)
			}
		}
	})
}
