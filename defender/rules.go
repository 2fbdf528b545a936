package defender

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/envelope"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// Rules returns the error codes that Defender documents, and others that were seen, with what they
// mean for a retry. The codes are those on the wire; translated pages of the documentation translate
// them too, wrongly.
//
// A 429 names its wait in the header Retry-After, or in the sentence "You can send requests again in
// 8 seconds." in its body: the longer of the two counts. Some name none.
func Rules() *steadyhttp.Rules {
	codes := classes()
	return &steadyhttp.Rules{ByCode: codes, Parse: func(a steadyhttp.Attempt) steadyhttp.Verdict { return parse(a, codes) }}
}

// classes lists the codes in the order of the documentation's table ("Common REST API error codes"),
// and then those that other pages and clients name.
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
		// Graph's words for a tenant or an application that lacks something.
		"Authentication_MSGraphPermissionMissing":               steadyhttp.Permanent,
		"Authentication_RequestFromNonPremiumTenantOrB2CTenant": steadyhttp.Permanent,
	}
}

// caseHint is the documentation's usual reason for two of the codes.
const caseHint = "body parameters are case-sensitive"

// parse reads the envelope as the root package does, with two differences: its target is Defender's
// tracking ID whatever it looks like ("|3f2a9c1d."), and the message tells more. It leaves the class
// to the codes, and to Rules.Classify whatever it does not find.
func parse(a steadyhttp.Attempt, codes map[string]steadyhttp.Class) steadyhttp.Verdict {
	if a.Response == nil {
		return steadyhttp.Verdict{}
	}
	answer := envelope.Answer{Body: a.Body, Header: a.Response.Header, TargetIsID: true}
	if a.Request != nil {
		answer.Sent = a.Request.Header
	}
	e := envelope.Read(&answer, codes)
	v := steadyhttp.Verdict{Code: e.Code, Message: e.Message, TrackingID: e.ID}
	switch {
	case a.Response.StatusCode == http.StatusTooManyRequests || v.Code == "429" || v.Code == "TooManyRequests":
		v.RetryAfter = sentence(v.Message)
	case v.Code == "InvalidRequestBody" || v.Code == "MissingRequiredParameter":
		v.Message = withHint(v.Message, caseHint)
	case a.Response.StatusCode == http.StatusUnauthorized && licence(v.Message):
		v.Class = steadyhttp.Permanent
	}
	return v
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
		indexFold(message, "account mode is inactive") >= 0
}

// sentence reads the wait out of "You can send requests again in 8 seconds.", the longest if there
// are several. The text may change: any other wording is no wait, and the back-off decides.
func sentence(message string) time.Duration {
	const before, unit = "again in ", " second"
	var longest time.Duration
	for rest := message; ; {
		at := indexFold(rest, before)
		if at < 0 {
			return longest
		}
		rest = rest[at+len(before):]
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		after := rest[len(number):]
		if len(after) < len(unit) || !equalFold(after[:len(unit)], unit) {
			continue
		}
		if seconds, err := strconv.ParseUint(number, 10, 32); err == nil {
			if wait := time.Duration(seconds) * time.Second; wait <= retryafter.Max {
				longest = max(longest, wait)
			}
		}
	}
}

// indexFold finds an ASCII text in lower case in s, whatever the case of the ASCII letters there. An
// index into strings.ToLower(s) would not fit s: some letters have another length in lower case.
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
