package retryafter

import (
	"math/bits"
	"net/http"
	"time"
)

// clock reads values against the time at which the answer was made.
type clock struct {
	header http.Header
	local  time.Time // zero: nobody has had to look at it
	made   time.Time // once it is known
}

// localTime is read where a time is named, which few answers do: it is half of what most of them cost.
func (c *clock) localTime() time.Time {
	if c.local.IsZero() {
		c.local = time.Now()
	}
	return c.local
}

// now is the server's own Date where it sent one, which takes the difference of the two clocks out.
// A Date with an Age is a cache's memory and no clock.
func (c *clock) now() time.Time {
	if !c.made.IsZero() {
		return c.made
	}
	c.made = c.localTime()
	if len(c.header["Age"]) == 0 {
		for _, value := range c.header["Date"] {
			if d, ok := parseDate(trim(value), c.localTime()); ok && !d.coarse && !d.guessed {
				c.made = d.at
			}
		}
	}
	return c.made
}

// until returns how long it is until t, 0 if that is past or too far ahead to be meant.
func (c *clock) until(t time.Time) time.Duration {
	if d := t.Sub(c.now()); d > 0 && d <= Max {
		return d
	}
	return 0
}

// The sizes of numbers tell their meanings apart until the year 5138: no wait is as long as the
// shortest Unix time since 2000, and the units of Unix times are a thousand apart. The clock of
// testing/synctest begins in 2000: a server that is simulated there names such times.
const (
	mostSeconds = uint64(Max / time.Second)
	unix        = 946_684_800 // 2000-01-01
	unixEnd     = 100_000_000_000
)

// wait reads one value: 0 if it is none, or names a time that is not to come.
func (c *clock) wait(s string, milliseconds bool) time.Duration {
	n, isNumber := parseNumber(s)
	switch {
	case !isNumber && milliseconds:
		return 0
	case !isNumber:
		if d := parseDuration(s); d > 0 {
			return d
		}
		return c.date(s)
	case n.negative:
		return 0
	case milliseconds:
		return n.times(time.Millisecond)
	case n.whole <= mostSeconds:
		return n.times(time.Second)
	case n.whole < unix:
		return 0
	case n.whole < unixEnd:
		return c.unix(n, time.Second)
	case n.whole >= unix*1_000 && n.whole < unixEnd*1_000:
		return c.unix(n, time.Millisecond)
	case n.whole >= unix*1_000_000 && n.whole < unixEnd*1_000_000:
		return c.unix(n, time.Microsecond)
	case n.whole >= unix*1_000_000_000:
		return c.unix(n, time.Nanosecond)
	}
	return 0
}

func (c *clock) unix(n number, unit time.Duration) time.Duration {
	per := uint64(time.Second / unit)
	rest := number{whole: n.whole % per, fraction: n.fraction}
	return c.until(time.Unix(int64(n.whole/per), int64(rest.times(unit))))
}

func (c *clock) date(s string) time.Duration {
	d, ok := parseDate(s, c.localTime())
	if !ok {
		return 0
	}
	wait := c.until(d.at)
	if d.guessed && wait > time.Hour {
		return 0
	}
	return wait
}

// number is 1*DIGIT with an optional fraction, which no grammar has but servers do send, and an
// optional minus. Plus signs, exponents, hexadecimal and everything else are not numbers.
type number struct {
	negative bool
	whole    uint64
	fraction string // its digits
}

func parseNumber(s string) (number, bool) {
	var n number
	if s != "" && s[0] == '-' {
		n.negative = true
		s = s[1:]
	}
	n, rest, ok := cutNumber(n, s)
	return n, ok && rest == ""
}

// cutNumber reads the number that s begins with. More than 20 digits are none, but for zeros in
// front.
func cutNumber(n number, s string) (_ number, rest string, ok bool) {
	end, significant := 0, 0
	for ; end < len(s) && isDigit(s[end]); end++ {
		if significant > 0 || s[end] != '0' {
			significant++
		}
		high, low := bits.Mul64(n.whole, 10)
		sum, carry := bits.Add64(low, uint64(s[end]-'0'), 0)
		if high+carry > 0 {
			return n, "", false // as Unix nanoseconds, after the year 2554
		}
		n.whole = sum
	}
	if end == 0 {
		return n, "", false
	}
	if s = s[end:]; s == "" || s[0] != '.' {
		return n, s, true
	}
	for end = 1; end < len(s) && isDigit(s[end]); end++ {
	}
	n.fraction = s[1:end]
	return n, s[end:], n.fraction != "" && significant+len(n.fraction) <= 20
}

// times returns n units, rounded up to the next nanosecond, 0 if that is more than Max.
func (n number) times(unit time.Duration) time.Duration {
	if n.whole > uint64(Max/unit) {
		return 0
	}
	d := time.Duration(n.whole) * unit
	digits := n.fraction[:min(len(n.fraction), 18)]
	part, scale := uint64(0), uint64(1)
	for i := range len(digits) {
		part, scale = part*10+uint64(digits[i]-'0'), scale*10
	}
	high, low := bits.Mul64(part, uint64(unit))
	more, left := bits.Div64(high, low, scale)
	for i := len(digits); i < len(n.fraction); i++ {
		left += uint64(n.fraction[i] - '0')
	}
	if d += time.Duration(more); left > 0 {
		d++
	}
	if d > Max {
		return 0
	}
	return d
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func digits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// parseDuration reads "1d2h3m4.5s", as OpenAI, protocol buffers and Go's own time.Duration write
// it: units fall, each comes once, and one must be there.
func parseDuration(s string) time.Duration {
	var total time.Duration
	last := time.Duration(1 << 62)
	for s != "" {
		n, rest, ok := cutNumber(number{}, s)
		if !ok {
			return 0
		}
		unit, length := unitOf(rest)
		if unit == 0 || unit >= last {
			return 0
		}
		d := n.times(unit)
		if d == 0 && n.whole > 0 {
			return 0 // too long
		}
		last, total, s = unit, total+d, rest[length:]
	}
	if total > Max {
		return 0
	}
	return total
}

func unitOf(s string) (unit time.Duration, length int) {
	end := 0
	for end < len(s) && !isDigit(s[end]) {
		end++
	}
	switch s[:end] {
	case "d":
		unit = 24 * time.Hour
	case "h":
		unit = time.Hour
	case "m":
		unit = time.Minute
	case "s":
		unit = time.Second
	case "ms":
		unit = time.Millisecond
	case "us", "µs", "μs": // the micro sign, and the Greek letter
		unit = time.Microsecond
	case "ns":
		unit = time.Nanosecond
	}
	return unit, end
}
