package retryafter

import (
	"strings"
	"time"
)

// date is an instant as it was written.
type date struct {
	at      time.Time
	coarse  bool // it had no seconds, and at is the minute's end
	guessed bool // it had no zone, and was read as UTC
}

// parseDate takes the three forms of RFC 9110 section 5.6.7, which net/http reads with another
// pivot of two-digit years and without leap seconds, and the others that servers were seen to send:
// RFC 3339 with its variants, RFC 1123 with a numeric zone, and what JavaScript makes of a Date.
func parseDate(s string, now time.Time) (date, bool) {
	if len(s) < 16 || len(s) > 80 {
		return date{}, false
	}
	p := parser{rest: s}
	if isDigit(s[0]) {
		return p.iso()
	}
	return p.named(now)
}

// parser takes a date apart from left to right. What does not fit makes it fail, and it stays so.
type parser struct {
	rest   string
	failed bool
}

// iso reads 2026-11-26T12:00:30.5Z, with or without seconds, fraction and zone.
func (p *parser) iso() (d date, ok bool) {
	year := p.number(4, 4)
	p.text("-")
	month := p.number(2, 2)
	p.text("-")
	day := p.number(2, 2)
	if !p.optional("T") && !p.optional("t") {
		p.text(" ")
	}
	hour := p.number(2, 2)
	p.text(":")
	minute := p.number(2, 2)
	second, fraction := 0, time.Duration(0)
	if d.coarse = !p.optional(":"); !d.coarse {
		second = p.number(2, 2)
		if p.optional(".") || p.optional(",") {
			fraction = p.fraction()
		}
	}
	p.optional(" ")
	offset := 0
	switch {
	case p.rest == "":
		d.guessed = true
	case p.optional("Z"), p.optional("z"), p.optional("UTC"), p.optional("GMT"):
	default:
		offset = p.offset()
		if !p.optional(" UTC") { // as Go prints it
			p.optional(" GMT")
		}
		if at := strings.Index(p.rest, " m="); at == 0 && strings.Trim(p.rest[len(" m="):], "+-.0123456789") == "" {
			p.rest = "" // and its monotonic clock, which is nobody's else
		}
	}
	d.at = p.instant(year, month, day, hour, minute, second, offset).Add(fraction)
	if d.coarse {
		d.at = d.at.Add(time.Minute) // late rather than early
	}
	return d, !p.failed && p.rest == ""
}

// named reads the forms that begin with a day's name.
func (p *parser) named(now time.Time) (d date, ok bool) {
	if !p.day() {
		return d, false
	}
	var year, month, day, hour, minute, second, offset int
	short := false // the year has two digits
	if !p.optional(", ") {
		// Thu Nov 26 12:00:30 2026, and Thu Nov 26 2026 13:00:30 GMT+0100 (Central European
		// Standard Time)
		p.text(" ")
		month = p.month()
		p.text(" ")
		p.optional(" ")
		day = p.number(1, 2)
		p.text(" ")
		if len(p.rest) > 2 && p.rest[2] == ':' {
			hour, minute, second = p.time()
			p.text(" ")
			if !p.optional("GMT ") {
				p.optional("UTC ")
			}
			year = p.number(4, 4)
		} else {
			year = p.number(4, 4)
			p.text(" ")
			hour, minute, second = p.time()
			p.text(" GMT")
			if strings.HasPrefix(p.rest, "+") || strings.HasPrefix(p.rest, "-") {
				offset = p.offset()
			}
			if strings.HasPrefix(p.rest, " (") && strings.IndexByte(p.rest, ')') == len(p.rest)-1 {
				p.rest = ""
			}
		}
	} else {
		// Thu, 26 Nov 2026 12:00:30 GMT, and Thursday, 26-Nov-26 12:00:30 GMT
		day = p.number(1, 2)
		separator := " "
		if strings.HasPrefix(p.rest, "-") {
			separator = "-"
		}
		p.text(separator)
		month = p.month()
		p.text(separator)
		digits := len(p.rest)
		year = p.number(2, 4)
		digits -= len(p.rest)
		short = digits == 2
		if digits == 3 {
			return d, false
		}
		p.text(" ")
		hour, minute, second = p.time()
		p.text(" ")
		if !p.optional("GMT") && !p.optional("UTC") {
			offset = p.offset()
		}
	}
	if short {
		// "A timestamp that appears to be more than 50 years in the future" is the most recent past
		// one with those digits.
		limit := now.UTC().AddDate(50, 0, 0)
		year += limit.Year() / 100 * 100
		if time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC).After(limit) {
			year -= 100
		}
	}
	d.at = p.instant(year, month, day, hour, minute, second, offset)
	return d, !p.failed && p.rest == ""
}

func (p *parser) instant(year, month, day, hour, minute, second, offset int) time.Time {
	// Second 60 is a leap second, and the instant at which the next minute begins.
	if p.failed || month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 60 {
		p.failed = true
		return time.Time{}
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	if first := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC); first.Day() != day {
		p.failed = true // February 31
	}
	return t.Add(-time.Duration(offset) * time.Minute)
}

func (p *parser) time() (hour, minute, second int) {
	hour = p.number(2, 2)
	p.text(":")
	minute = p.number(2, 2)
	p.text(":")
	return hour, minute, p.number(2, 2)
}

// offset reads a zone, +0100, +01:00 or +01, in minutes.
func (p *parser) offset() int {
	sign := 1
	if p.optional("-") {
		sign = -1
	} else {
		p.text("+")
	}
	hours, minutes := p.number(2, 2), 0
	if p.optional(":") || p.rest != "" && isDigit(p.rest[0]) {
		minutes = p.number(2, 2)
	}
	if hours > 23 || minutes > 59 {
		p.failed = true
	}
	return sign * (hours*60 + minutes)
}

func (p *parser) number(least, most int) (n int) {
	i := 0
	for ; i < len(p.rest) && i < most && isDigit(p.rest[i]); i++ {
		n = n*10 + int(p.rest[i]-'0')
	}
	if i < least {
		p.failed = true
	}
	p.rest = p.rest[i:]
	return n
}

// fraction reads the digits of a part of a second, and rounds up.
func (p *parser) fraction() time.Duration {
	end := 0
	for end < len(p.rest) && isDigit(p.rest[end]) {
		end++
	}
	n := number{fraction: p.rest[:end]}
	if end == 0 {
		p.failed = true
	}
	p.rest = p.rest[end:]
	return n.times(time.Second)
}

func (p *parser) text(s string) {
	if !p.optional(s) {
		p.failed = true
	}
}

func (p *parser) optional(s string) bool {
	rest, ok := strings.CutPrefix(p.rest, s)
	p.rest = rest
	return ok
}

func (p *parser) month() int {
	const months = "JanFebMarAprMayJunJulAugSepOctNovDec"
	if len(p.rest) < 3 {
		p.failed = true
		return 0
	}
	at := strings.Index(months, p.rest[:3])
	p.rest = p.rest[3:]
	if at%3 != 0 {
		p.failed = true
		return 0
	}
	return at/3 + 1
}

func (p *parser) day() bool {
	end := strings.IndexAny(p.rest, ", ")
	if end < 0 || !isDay(p.rest[:end]) {
		return false
	}
	p.rest = p.rest[end:]
	return true
}

func isDay(s string) bool {
	switch s {
	case "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun",
		"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday":
		return true
	}
	return false
}
