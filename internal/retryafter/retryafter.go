// Package retryafter reads the wait that an HTTP answer asks for, in every form that services were
// seen to send.
//
// A value is a wait of up to 366 days, or it names no time: 0, what is negative or past, and what
// is absurd all leave the decision to the next form, and at the end to the client's own back-off.
// Nothing saturates: a server that means "in a minute" and writes it so that it reads as a year
// must not stop its clients for a year.
//
// What no reader can see is whether a number means seconds or milliseconds. Where the field's name
// does not say so, it is read as seconds: an error makes the wait longer, never shorter. Times of
// day are read against the answer's own Date; without one, they are wrong by the difference of the
// two clocks.
package retryafter

import (
	"bytes"
	"net/http"
	"strings"
	"time"
)

// Max is the longest wait that is taken at its word. What asks for more names no time.
const Max = 366 * 24 * time.Hour

// Source tells where a wait comes from, which decides whether an answer that is no 429 was
// throttled at all.
type Source uint8

const (
	None  Source = iota // no wait was named
	Field               // a field that is there to name a wait: Retry-After and its kin
	Spent               // a window says that nothing is left in it until then
	Reset               // a window's end is all that is known: nothing says what is left
)

// Read returns the longest wait that the fields of an answer name, 0 if they name none. Fields that
// tell of this client (Retry-After) come before those that tell of a window (RateLimit,
// X-RateLimit-Reset), as draft-ietf-httpapi-ratelimit-headers has it. h is in its canonical form. now
// may be zero for the clock's, which is read where it is needed.
func Read(h http.Header, now time.Time) (wait time.Duration, source Source) {
	if len(h) == 0 {
		return 0, None
	}
	c := clock{header: h, local: now}
	windows := false
	for name, values := range h {
		switch name {
		case "Retry-After", "X-Retry-In", "X-Ratelimit-Towait-Sec":
			wait = max(wait, c.longest(values, false))
		case "X-Amz-Retry-After":
			wait = max(wait, c.longest(values, true))
		case "Ratelimit", "RateLimit": // as a base writes it that is not net/http's
			windows = true
		default:
			if namesWait(name) {
				wait = max(wait, c.longest(values, inMilliseconds(name)))
			} else {
				windows = windows || resetAt(name) > 0 || namesNext(name)
			}
		}
	}
	if wait == 0 && windows {
		return c.windows()
	}
	if wait >= leastMistaken && windows {
		wait = c.corrected(wait)
	}
	if wait > 0 {
		source = Field
	}
	return wait, source
}

// Value reads a value that stands elsewhere than in a field of its own, as in a body: a number of
// seconds (or of milliseconds, if its name said so), a duration or a time. now is as in Read.
func Value(value string, milliseconds bool, h http.Header, now time.Time) time.Duration {
	c := clock{header: h, local: now}
	return c.wait(unquoted(trim(value)), milliseconds)
}

// leastMistaken is where a wait is long enough to be worth a look at what else the answer says.
const leastMistaken = 1000 * time.Second

// corrected finds milliseconds that were read as seconds: a window beside them ends in a thousandth
// of that time (fastify-rate-limit #301).
func (c *clock) corrected(wait time.Duration) time.Duration {
	for name, values := range c.header {
		if resetAt(name) < 0 {
			continue
		}
		if end := c.longest(values, inMilliseconds(name)); end >= wait/1050 && end <= wait/950 {
			return end
		}
	}
	return wait
}

// windows returns the longest wait for a window that has nothing left. Only where none says so, a
// window counts of which nothing but its end is known.
func (c *clock) windows() (time.Duration, Source) {
	var spent, untold time.Duration
	for name, values := range c.header {
		var end time.Duration
		told := true
		if name == "Ratelimit" || name == "RateLimit" {
			end = c.rateLimit(values)
		} else if namesNext(name) {
			left := c.header[name[:len(name)-len(next)]+"Remaining"]
			if told = len(left) > 0; !told || isSpent(trim(left[0])) {
				end = c.longest(values, false)
			}
		} else if at := resetAt(name); at > 0 {
			end, told = c.reset(name, at, values)
		}
		if told {
			spent = max(spent, end)
		} else {
			untold = max(untold, end)
		}
	}
	switch {
	case spent > 0:
		return spent, Spent
	case untold > 0:
		return untold, Reset
	}
	return 0, None
}

// reset reads one field that says when a window ends. A window that has calls left is not what the
// request was refused for: GitHub and others send these fields with every answer. told: something
// says how many are left.
func (c *clock) reset(name string, at int, values []string) (wait time.Duration, told bool) {
	ms := inMilliseconds(name)
	left := c.remaining(name, at)
	if left == nil {
		return c.longest(values, ms), false
	}
	if n := count(left); n > 1 && n == count(values) {
		// A pair for every window: "X-RateLimit-Remaining: 0, 14523" beside "X-RateLimit-Reset: 1,
		// 1419704".
		ends, lefts := list{lines: values}, list{lines: left}
		for end, ok := ends.next(); ok; end, ok = ends.next() {
			if l, _ := lefts.next(); isSpent(l) {
				wait = max(wait, c.wait(end, ms))
			}
		}
		return wait, true
	}
	lefts := list{lines: left}
	for l, ok := lefts.next(); ok; l, ok = lefts.next() {
		if isSpent(l) {
			return c.longest(values, ms), true
		}
	}
	return 0, true
}

// resetAt returns where the "reset" begins in the name of a field that tells a window's end, and -1
// for any other name. It is one if "limit" stands before, which takes in GitHub, Okta, X, Discord,
// OpenAI, Anthropic, Sentry and Fastly without a list of vendors; but GitLab's RateLimit-ResetTime
// was seen 24 hours off.
func resetAt(name string) int {
	if strings.IndexByte(name, 'm') < 0 || !strings.Contains(name, "eset") {
		return -1 // most names, at the price of one byte
	}
	at := strings.LastIndex(name, "eset") - 1
	if at < 0 || name[at]|0x20 != 'r' || strings.HasSuffix(name, "esettime") {
		return -1
	}
	if limit := strings.Index(name[:at], "imit"); limit < 1 || name[limit-1]|0x20 != 'l' {
		return -1
	}
	return at
}

const next = "Next"

// namesNext reports whether a field tells when the next request may be made of a window that is
// spent, as Akamai's X-RateLimit-Next does.
func namesNext(name string) bool { return hasSuffix(name, "limit-"+next) }

// namesWait reports whether a field is Retry-After under a name of somebody's own: the words stand
// at its end, but for a unit. They are "limit-after" where a limiter of Rust's tower or actix answers.
func namesWait(name string) bool {
	if !strings.Contains(name, "fter") {
		return false
	}
	for _, unit := range [...]string{"-ms", "-milliseconds", "-seconds", "-sec"} {
		if hasSuffix(name, unit) {
			name = name[:len(name)-len(unit)]
		}
	}
	if !hasSuffix(name, "after") {
		return false
	}
	name = strings.TrimSuffix(name[:len(name)-len("after")], "-")
	return hasSuffix(name, "retry") || hasSuffix(name, "limit")
}

// inMilliseconds: the name alone decides the unit.
func inMilliseconds(name string) bool {
	return hasSuffix(name, "-ms") || hasSuffix(name, "milliseconds")
}

// remaining returns what is left of the window whose end name tells, nil if nothing says so. That
// stands under the same name, with "remaining" for its "reset", and without what only a time has:
// "-after", "-at", a unit.
func (c *clock) remaining(name string, at int) []string {
	var buf [128]byte
	if len(name)+len("aining") > len(buf) {
		return nil // no service's
	}
	sibling := append(buf[:0], name[:at+1]...) // up to the r, as it is written
	sibling = append(sibling, "emaining"...)
	stem := len(sibling)
	sibling = append(sibling, name[at+len("reset"):]...)
	for {
		if values := c.header[string(sibling)]; len(values) > 0 && trim(values[0]) != "" {
			return values
		}
		if len(sibling) == stem {
			return nil
		}
		sibling = sibling[:stem+max(0, bytes.LastIndexByte(sibling[stem:], '-'))]
	}
}

// isSpent compares as a number: "0", "0.0" and "-1" are less than one.
func isSpent(s string) bool {
	n, ok := parseNumber(s)
	return ok && (n.negative || n.whole == 0)
}

// rateLimit reads the items of `RateLimit: "default";r=0;t=30` that have nothing left, and the
// dictionary of the drafts -03 to -07, `limit=100, remaining=0, reset=54`, whose members may stand
// on several lines. What is malformed is passed over (draft-ietf-httpapi-ratelimit-headers, section
// 4).
func (c *clock) rateLimit(lines []string) time.Duration {
	var longest time.Duration
	var left, reset string
	for _, line := range lines {
		for line != "" {
			var item, r, t string
			item, line = cutUnquoted(line, ',')
			for item != "" {
				var parameter string
				parameter, item = cutUnquoted(item, ';')
				switch name, v, _ := strings.Cut(trim(parameter), "="); name {
				case "r":
					r = v
				case "t":
					t = v
				case "remaining":
					left = v
				case "reset":
					reset = v
				}
			}
			if isSpent(r) && digits(t) {
				longest = max(longest, c.wait(t, false))
			}
		}
	}
	if isSpent(left) && digits(reset) {
		longest = max(longest, c.wait(reset, false))
	}
	return longest
}

// cutUnquoted cuts s at the first separator outside of RFC 8941's strings.
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == separator && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func (c *clock) longest(lines []string, milliseconds bool) time.Duration {
	var longest time.Duration
	all := list{lines: lines}
	for value, ok := all.next(); ok; value, ok = all.next() {
		longest = max(longest, c.wait(value, milliseconds))
	}
	return longest
}

// list walks the values of a field, over its lines and over what gateways have folded into one
// line, without quotes and parameters.
type list struct {
	lines []string
	rest  string
	more  bool // rest has values left
}

func (l *list) next() (value string, ok bool) {
	if !l.more {
		if len(l.lines) == 0 {
			return "", false
		}
		l.rest, l.lines = unquoted(trim(l.lines[0])), l.lines[1:]
	}
	end := strings.IndexByte(l.rest, ',')
	if end > 0 && isDay(trim(l.rest[:end])) {
		// The comma behind the day is a date's own.
		if next := strings.IndexByte(l.rest[end+1:], ','); next >= 0 {
			end += 1 + next
		} else {
			end = -1
		}
	}
	if l.more = end >= 0; l.more {
		value, l.rest = l.rest[:end], l.rest[end+1:]
	} else {
		value, l.rest = l.rest, ""
	}
	value, _, _ = strings.Cut(value, ";")
	return unquoted(trim(value)), true
}

func count(lines []string) (n int) {
	all := list{lines: lines}
	for _, ok := all.next(); ok; _, ok = all.next() {
		n++
	}
	return n
}

// trim takes off what RFC 9110 section 5.6.3 calls optional white space.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// unquoted takes off the one pair of quotes that is around s.
func unquoted(s string) string {
	if len(s) < 2 || s[0] != '"' || strings.IndexByte(s[1:], '"') != len(s)-2 {
		return s
	}
	return trim(s[1 : len(s)-1])
}

func hasSuffix(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}
