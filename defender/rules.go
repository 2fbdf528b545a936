package defender

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/envelope"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// Rules returns the error codes that Defender documents, and others that were seen, with what they
// mean for a retry. The codes are those on the wire; translated pages of the documentation
// translate them too, wrongly.
//
// A 429 names its wait in the header Retry-After, or in the sentence "You can send requests again
// in 8 seconds." or one like it in its body: the longer of the two counts. Some name none, and the
// back-off decides; but to a hunting query such a 429 means that the tenant's processor time is spent
// "until the next 15-minute cycle", and has a wait of 15 minutes. Batch waits it out; under a shorter
// MaxWait the call gets its 429 back at once. One that tells of a number of calls ("45 per
// 00:01:00") is left to the back-off.
func Rules() *steadyhttp.Rules {
	codes := classes()
	return &steadyhttp.Rules{
		ByCode: codes,
		// Graph's: the bandwidth is used up, and the storage (concepts/errors).
		ByStatus: map[int]steadyhttp.Class{
			509: steadyhttp.Throttled, http.StatusInsufficientStorage: steadyhttp.Permanent,
		},
		Parse: func(a steadyhttp.Attempt) steadyhttp.Verdict { return parse(a, codes) },
	}
}

// classes lists the codes in the order of the documentation's table ("Common REST API error
// codes"), and then those that other pages and clients name. UnknownError is not among them, nor
// generalException: Graph has them with every status, and that decides.
func classes() map[string]steadyhttp.Class {
	return map[string]steadyhttp.Class{
		"BadRequest":                steadyhttp.Permanent,
		"ODataError":                steadyhttp.Permanent,
		"InvalidInput":              steadyhttp.Permanent,
		"InvalidRequestBody":        steadyhttp.Permanent,
		"InvalidHashValue":          steadyhttp.Permanent,
		"InvalidDomainName":         steadyhttp.Permanent,
		"InvalidIpAddress":          steadyhttp.Permanent,
		"InvalidUrl":                steadyhttp.Permanent,
		"MaximumBatchSizeExceeded":  steadyhttp.Permanent,
		"MissingRequiredParameter":  steadyhttp.Permanent,
		"OsPlatformNotSupported":    steadyhttp.Permanent,
		"ClientVersionNotSupported": steadyhttp.Permanent,
		"Unauthorized":              steadyhttp.Unauthorized,
		"Forbidden":                 steadyhttp.Permanent,
		"DisabledFeature":           steadyhttp.Permanent,
		"DisallowedOperation":       steadyhttp.Permanent,
		"NotFound":                  steadyhttp.Permanent,
		"ResourceNotFound":          steadyhttp.Permanent,
		"InternalServerError":       steadyhttp.Transient,
		"TooManyRequests":           steadyhttp.Throttled,

		// What a 429 of Defender really carries as its code.
		"429": steadyhttp.Throttled,
		// The action is under way already: poll it, and do not order it again.
		"ActiveRequestAlreadyExists": steadyhttp.Permanent,
		// Graph's: resources/security-error-codes, concepts/errors, and what was seen.
		"activityLimitReached":           steadyhttp.Throttled,
		"throttledRequest":               steadyhttp.Throttled,
		"Request_ThrottledTemporarily":   steadyhttp.Throttled,
		"serviceNotAvailable":            steadyhttp.Transient,
		"serviceReadOnly":                steadyhttp.Transient,
		"ServiceUnavailable":             steadyhttp.Transient,
		"Directory_ConcurrencyViolation": steadyhttp.Transient,
		"InvalidAuthenticationToken":     steadyhttp.Unauthorized,
		"unauthenticated":                steadyhttp.Unauthorized,
		"Authorization_RequestDenied":    steadyhttp.Permanent,
		"accessDenied":                   steadyhttp.Permanent,
		"ErrorAccessDenied":              steadyhttp.Permanent,
		"Request_BadRequest":             steadyhttp.Permanent,
		"invalidRequest":                 steadyhttp.Permanent,
		"notSupported":                   steadyhttp.Permanent,
		"notAllowed":                     steadyhttp.Permanent,
		"nameAlreadyExists":              steadyhttp.Permanent,
		"resourceModified":               steadyhttp.Permanent,
		"quotaLimitReached":              steadyhttp.Permanent,
		"Request_ResourceNotFound":       steadyhttp.Permanent,
		"itemNotFound":                   steadyhttp.Permanent,
		// A listing has to begin anew.
		"Directory_ExpiredPageToken":          steadyhttp.Permanent,
		"DirectoryPageTokenNotFoundException": steadyhttp.Permanent,
		"syncStateNotFound":                   steadyhttp.Permanent,
		"resyncRequired":                      steadyhttp.Permanent,
		// A tenant or an application that lacks something.
		"Authentication_MSGraphPermissionMissing":               steadyhttp.Permanent,
		"Authentication_RequestFromNonPremiumTenantOrB2CTenant": steadyhttp.Permanent,
	}
}

// caseHint is the documentation's usual reason for two of the codes.
const caseHint = "body parameters are case-sensitive"

// parse reads the envelope as the root package does, with two differences: its target is
// Defender's tracking ID whatever it looks like ("|3f2a9c1d."), but not Graph's, where it names a
// field, and the message tells more. But for a missing licence and a token for somebody else it
// leaves the class to the codes. Rules.Classify fills in what is not found.
func parse(a steadyhttp.Attempt, codes map[string]steadyhttp.Class) steadyhttp.Verdict {
	if a.Response == nil {
		return steadyhttp.Verdict{}
	}
	answer := envelope.Answer{
		Body: a.Body, Header: a.Response.Header, TargetIsID: !ofGraph(a.Request),
	}
	if a.Request != nil {
		answer.Sent = a.Request.Header
	}
	e := envelope.Read(&answer, codes)
	v := steadyhttp.Verdict{Code: e.Code, Message: e.Message, TrackingID: e.ID}
	throttled := a.Response.StatusCode == http.StatusTooManyRequests
	switch {
	case throttled || codes[v.Code] == steadyhttp.Throttled:
		if v.RetryAfter = sentence(v.Message); v.RetryAfter == 0 {
			// It may stand in an inner error, behind what is kept of a message, or in plain text.
			v.RetryAfter = sentence(string(a.Body[:min(len(a.Body), maxSearched)]))
		}
		if v.RetryAfter == 0 && (throttled || v.Code == "429" || v.Code == "TooManyRequests") &&
			hunts(a.Request) {
			v.RetryAfter = cycleWait(a.Response.Header, &e)
		}
	case relayed(a.Request, v.Message):
		v.Class, v.RetryAfter = steadyhttp.Throttled, sentence(v.Message)
	case v.Code == "InvalidRequestBody" || v.Code == "MissingRequiredParameter":
		v.Message = withHint(v.Message, caseHint)
	case a.Response.StatusCode == http.StatusUnauthorized &&
		(licence(v.Message) || indexFold(v.Message, "invalid audience") >= 0):
		v.Class = steadyhttp.Permanent
	case a.Response.StatusCode == http.StatusBadRequest && a.Request != nil:
		if most := tooLong(a.Request); most > 0 {
			hint := "a page of this list has at most " + strconv.Itoa(most) + " items"
			v.Message = withHint(v.Message, hint)
		}
	}
	return v
}

// maxSearched bounds the search of a body for the sentence. It is as much as is peeked at.
const maxSearched = 64 << 10

// relayed recognizes Defender's own 429 in an error of the one method of Graph that passed
// indicators on to it, whatever status Graph gave that. In other methods the text may be a caller's.
func relayed(req *http.Request, message string) bool {
	if req == nil || indexFold(message, "statuscode=429") < 0 {
		return false
	}
	e := find(req)
	return e != nil && e.Family == "security/tiIndicators"
}

// ofGraph tells Graph's paths, which begin with a version, from Defender's below /api.
func ofGraph(req *http.Request) bool {
	if req == nil || req.URL == nil {
		return false
	}
	first, _, _ := strings.Cut(strings.TrimLeft(req.URL.Path, "/"), "/")
	return equalFold(first, "v1.0") || equalFold(first, "beta")
}

// tooLong returns the most items of a page if a request asks for more, as Graph's 400 for a $top of
// 51 incidents does not say: its code and message are empty.
func tooLong(req *http.Request) int {
	e := find(req)
	if e == nil || e.MaxPage == 0 || req.URL.RawQuery == "" {
		return 0
	}
	query, _ := url.ParseQuery(req.URL.RawQuery) // what it could read counts
	for _, name := range [...]string{"$top", "pageSize"} {
		if n, err := strconv.Atoi(query.Get(name)); err == nil && n > e.MaxPage {
			return e.MaxPage
		}
	}
	return 0
}

// hunts reports whether req is a hunting query, which the tenant's processor time is spent by.
func hunts(req *http.Request) bool {
	if req == nil {
		return false
	}
	e := find(req)
	if e == nil {
		return false
	}
	switch e.Family {
	case "advancedqueries/run", "advancedhunting/run", "security/runHuntingQuery":
		return true
	}
	return false
}

// cycle is how long spent processor time blocks hunting at the most (security-api-overview: "until
// after the next 15-minute cycle"). When a cycle begins is documented nowhere.
const cycle = 15 * time.Minute

// cycleWait returns what a hunting query waits for whose 429 has no sentence with a time: a time
// that the answer names elsewhere comes before the cycle.
func cycleWait(h http.Header, e *envelope.Envelope) time.Duration {
	now := time.Now()
	if wait, _ := retryafter.Read(h, now); wait > 0 {
		return wait
	}
	if wait := retryafter.Value(e.Wait+e.WaitMs, e.WaitMs != "", h, now); wait > 0 { // never both
		return wait
	}
	if countsCalls(e.Message) {
		return 0
	}
	return cycle
}

// countsCalls recognizes "Maximum allowed 45 per 00:01:00": the calls of a window are spent, and
// not the processor time.
func countsCalls(message string) bool {
	const before, window = " per ", "00:00:00"
	for rest := message; ; {
		at := indexFold(rest, before)
		if at < 0 || len(rest)-at-len(before) < len(window) {
			return false
		}
		rest = rest[at+len(before):]
		clock := true
		for i := range len(window) {
			digit := '0' <= rest[i] && rest[i] <= '9'
			clock = clock && digit == (window[i] == '0') && (digit || rest[i] == ':')
		}
		if clock {
			return true
		}
	}
}

func withHint(message, hint string) string {
	if message == "" {
		return hint
	}
	return message + " (" + hint + ")"
}

// licence reports whether a 401 comes from a tenant without a licence. No new token helps then.
func licence(message string) bool {
	return indexFold(message, "no tvm license") >= 0 ||
		indexFold(message, "account mode is inactive") >= 0 ||
		indexFold(message, "account is not provisioned") >= 0
}

// sentence reads the wait out of "You can send requests again in 8 seconds.", the longest if there
// are several. The text may change: other words before the time, a fraction, a unit that is cut
// short and .NET's own form of a duration are read too, in which the same message has its windows
// ("per 00:01:00"). Anything else is no wait, and the back-off decides.
func sentence(message string) time.Duration {
	var longest time.Duration
	for _, before := range [...]string{"again in", "again after", "retry in", "retry after"} {
		for rest := message; ; {
			at := indexFold(rest, before)
			if at < 0 {
				break
			}
			rest = rest[at+len(before):]
			if number := strings.TrimLeft(rest, spaces); len(number) < len(rest) {
				longest = max(longest, said(number))
			}
		}
	}
	return longest
}

const spaces, figures = " \t\r\n", "0123456789"

// said reads "8 seconds", "8.5s", "1,200 sec" or "00:00:08" at the start of text, 0 for none.
func said(text string) time.Duration {
	number, rest := run(text, figures)
	seconds, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0
	}
	if strings.HasPrefix(rest, ":") {
		minutes, behind := run(rest[1:], figures)
		if len(number) > 2 || len(minutes) != 2 || !strings.HasPrefix(behind, ":") {
			return 0
		}
		within, _ := run(behind[1:], figures)
		if len(within) != 2 {
			return 0
		}
		m, _ := strconv.ParseUint(minutes, 10, 32)
		s, _ := strconv.ParseUint(within, 10, 32)
		if m > 59 || s > 59 {
			return 0
		}
		return sane(float64(seconds*3600 + m*60 + s))
	}
	for strings.HasPrefix(rest, ",") {
		group, behind := run(rest[1:], figures)
		if len(group) != 3 || seconds > 1<<30 {
			return 0
		}
		n, _ := strconv.ParseUint(group, 10, 32)
		seconds, rest = seconds*1000+n, behind
	}
	count := float64(seconds)
	if strings.HasPrefix(rest, ".") {
		fraction, behind := run(rest[1:], figures)
		part, err := strconv.ParseFloat("0."+fraction, 64)
		if fraction == "" || err != nil {
			return 0
		}
		count, rest = count+part, behind
	}
	unit, _ := run(strings.TrimLeft(rest, spaces), letters)
	for _, known := range [...]string{"seconds", "second", "secs", "sec", "s"} {
		if equalFold(unit, known) {
			return sane(count)
		}
	}
	return 0
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// run cuts the bytes of a set off the start of text.
func run(text, set string) (of, rest string) {
	rest = strings.TrimLeft(text, set)
	return text[:len(text)-len(rest)], rest
}

// sane returns 0 for what is longer than a field of an answer may name.
func sane(seconds float64) time.Duration {
	if seconds > retryafter.Max.Seconds() {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// indexFold finds an ASCII text in lower case in s, whatever the case of the ASCII letters there.
// An index into strings.ToLower(s) would not fit s: some letters have another length in lower
// case.
func indexFold(s, lower string) int {
	for at := range len(s) - len(lower) + 1 {
		if equalFold(s[at:at+len(lower)], lower) {
			return at
		}
	}
	return -1
}

// equalFold compares with a text in lower case, and folds ASCII letters alone: strings.EqualFold
// takes the Kelvin sign for a k, and the long s for an s.
func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		if lowerByte(s[i]) != lower[i] {
			return false
		}
	}
	return true
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
