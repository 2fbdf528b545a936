package steadyhttp

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp/internal/envelope"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// parseEnvelope never fails: an answer that it cannot read is one without a code, and its status
// decides.
func (r *Rules) parseEnvelope(a *Attempt) Verdict {
	answer := envelope.Answer{Body: a.Body, IDHeaders: r.IDHeaders}
	if a.Response != nil {
		answer.Header = a.Response.Header
	}
	if a.Request != nil {
		answer.Sent = a.Request.Header
	}
	e := envelope.Read(&answer, r.ByCode)
	v := cleaned(Verdict{Code: e.Code, Message: e.Message, TrackingID: e.ID})
	if wait := e.Wait + e.WaitMs; wait != "" { // never both
		v.RetryAfter = retryafter.Value(wait, e.WaitMs != "", answer.Header, time.Now())
	}
	return v
}

// cleaned bounds and escapes what anybody's Classify or Parse has taken out of an answer. It does
// no more to what is clean.
func cleaned(v Verdict) Verdict {
	v.Code = clean(v.Code, maxCode)
	v.Message = clean(v.Message, maxMessage)
	v.TrackingID = clean(v.TrackingID, maxTarget)
	return v
}

// Bounds on what a service may make us print in logs, spans and errors, in bytes.
const (
	maxCode      = 128
	maxTarget    = 128
	maxMessage   = 1024
	maxErrorText = 4096
)

// clean makes remote text safe to print on one line: it escapes what is not printable and cuts at
// max bytes. Text that is clean already, as nearly all is, costs no allocation.
func clean(s string, max int) string {
	if len(s) <= max && plainASCII(s) {
		return s
	}
	cut := len(s) > max
	if cut {
		s = s[:max] // the last rune may be broken now, and is cut off below
	}
	if strings.ContainsFunc(s, unprintable) {
		quoted := strconv.Quote(s)
		s = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	}
	if !cut && len(s) <= max {
		return s
	}
	const ellipsis = "…"
	end := min(len(s), max-len(ellipsis))
	for end > 0 && !utf8.RuneStart(s[min(end, len(s)-1)]) {
		end--
	}
	return s[:end] + ellipsis
}

func plainASCII(s string) bool {
	for ; len(s) >= 8; s = s[8:] { // one load: nearly every text is plain, and some are long
		x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		const ones, highs = 0x0101010101010101, 0x8080808080808080
		if (x|(x-ones*' ')|(x+ones))&highs != 0 {
			return false
		}
	}
	for i := range len(s) {
		if s[i]-' ' > '~'-' ' {
			return false
		}
	}
	return true
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
