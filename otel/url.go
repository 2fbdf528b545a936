package steadyotel

import (
	"net/url"
	"strings"

	"github.com/steadyhttp/steadyhttp"
)

// redacted stands for what a URL must not show.
const redacted = "REDACTED"

// fullURL returns url.full: what steadyhttp.RedactURL shows and, unless all is redacted, the values
// of the query that can hardly be secret.
//
// The conventions list seven keys whose values are redacted by default (docs/http/http-spans.md,
// url.full). All seven are, and far more: no list of names is ever complete, so that a value must
// look harmless too. What is redacted in vain costs a look into the program, what is shown in vain
// a secret.
func fullURL(u *url.URL, all bool) string {
	if all || u.RawQuery == "" || u.Opaque != "" {
		return steadyhttp.RedactURL(u)
	}
	if u.User == nil && !strings.Contains(u.Host, "@") && !strings.Contains(u.Path, ";") && harmless(u.RawQuery) {
		shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
		if whole := shown.String(); printable(whole) {
			return whole // as nearly all are
		}
	}
	bare := *u
	bare.RawQuery = ""
	head := steadyhttp.RedactURL(&bare)
	var b strings.Builder
	b.Grow(len(head) + min(len(u.RawQuery), maxText) + len(redacted))
	b.WriteString(head)
	separator := byte('?')
	for rest := u.RawQuery; rest != "" && b.Len() <= maxText; separator = '&' {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(pair, "=")
		b.WriteByte(separator)
		nameShown, valueShown := shows(name, value)
		if !nameShown {
			b.WriteString(redacted)
			continue
		}
		if !valueShown {
			value = redacted
		}
		b.WriteString(name)
		b.WriteByte('=')
		b.WriteString(value)
	}
	return b.String()
}

// harmless reports whether a query has nothing to redact.
func harmless(query string) bool {
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if nameShown, valueShown := shows(name, value); !nameShown || !valueShown {
			return false
		}
	}
	return len(query) <= maxText
}

// shows reports what of a pair may be shown. A name without a value may be a bare token, padded or
// not.
func shows(name, value string) (nameShown, valueShown bool) {
	readable := decoded(name)
	if strings.Trim(value, "=") == "" || !printable(name) || secretValue(readable) {
		return false, false
	}
	return true, !secretName(readable) && printable(value) && !secretValue(decoded(value))
}

// printable reports whether s is bounded, and written as a query is that was encoded.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= maxText
}

// decoded undoes the encoding as often as it was done: a URL within a URL within a URL has been
// encoded three times.
func decoded(s string) string {
	for range 4 {
		if !strings.ContainsAny(s, "%+") {
			break
		}
		once, err := url.QueryUnescape(s)
		if err != nil {
			break
		}
		s = once
	}
	return s
}

// secretName reports whether a key of a query is, or may be, that of what lets somebody in. The
// conventions heed the case of their list; nothing is shown here for its case.
func secretName(name string) bool {
	switch name {
	case "$top", "$filter", "$skip", "$select", "$orderby", "$expand", "$count", "$search", "api-version":
		return false // in nearly every query of OData
	}
	for _, last := range [...]string{"Sig", "Sign", "Pin", "Otp", "Pw"} {
		if strings.HasSuffix(name, last) { // requestSig, of which the lower case says less
			return true
		}
	}
	name = strings.ToLower(name)
	for _, part := range [...]string{
		"token", "key", "secret", "pass", "pwd", "signature", "cred", "auth", "cookie", "session", "sessid",
		"jwt", "bearer", "assertion", "hmac", "ticket", "nonce", "saml", "csrf", "xsrf", "cert", "private", "security",
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	// These are within too many harmless names, so that they count where they stand alone: sig is
	// within "assignedTo". Azure Functions and OAuth have a code.
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return !letter(r) }) {
		switch word {
		case "sig", "sign", "digest", "sas", "code", "pin", "otp", "totp", "mfa", "sid", "mac", "state", "hash", "pat",
			"psk", "pem", "salt", "magic", "access", "login", "user", "pw":
			return true
		}
	}
	return false
}

func letter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }
func digit(r rune) bool  { return '0' <= r && r <= '9' }

func alphanumeric(r rune) bool { return letter(r) || digit(r) }

// secretValue reports whether a value is, has within or looks like a secret, whatever its name is.
func secretValue(v string) bool {
	if len(v) < randomLength && !strings.ContainsFunc(v, func(r rune) bool { return !alphanumeric(r) && r != '$' && r != '-' }) {
		return false
	}
	lower := strings.ToLower(v)
	return strings.Contains(lower, "bearer ") || strings.Contains(lower, "basic ") || strings.Contains(v, "-----BEGIN") ||
		strings.Contains(v, "//") && strings.Contains(v, "@") || // a URL's userinfo
		names(lower) || looksRandom(v)
}

// names reports whether a secret's name stands before an "=", a ":" or one of OData's operators, or
// is the first argument of a function: the value is a URL, a form, JSON or a filter.
func names(v string) bool {
	for i := range len(v) {
		argument := v[i] == ','
		if !argument && v[i] != '=' && v[i] != ':' && !operator(v[i:]) {
			continue
		}
		before := strings.TrimRight(v[:i], ` "')`)
		if argument && !opens(before) {
			continue // of a list, as in $select
		}
		start := strings.LastIndexFunc(before, func(r rune) bool {
			return !alphanumeric(r) && !strings.ContainsRune("-_.$", r)
		})
		if secretName(before[start+1:]) {
			return true
		}
	}
	return false
}

// opens reports whether a property, or the path to one, stands behind a bracket at the end of s.
func opens(s string) bool {
	at := strings.LastIndexFunc(s, func(r rune) bool {
		return !alphanumeric(r) && !strings.ContainsRune("-_.$/", r)
	})
	return at >= 0 && s[at] == '('
}

// operator reports whether one of OData's comparisons begins s.
func operator(s string) bool {
	if s[0] != ' ' {
		return false
	}
	word, _, more := strings.Cut(s[1:], " ")
	if !more {
		return false
	}
	switch word {
	case "eq", "ne", "gt", "ge", "lt", "le", "in", "has":
		return true
	}
	return false
}

// randomLength is how long a word must be to look random: most keys and tokens are longer, most
// words that people write are not.
const randomLength = 20

// looksRandom reports whether v has a word of upper and lower case and digits, as base64 is, or is
// itself one of letters and digits, as a key in hexadecimal is. A GUID is neither, nor is a hash or
// an ID within a filter.
func looksRandom(v string) bool {
	if len(v) < randomLength {
		return false
	}
	for word := range strings.FieldsFuncSeq(v, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("-_+=", r) }) {
		if len(word) >= randomLength && strings.ContainsFunc(word, digit) &&
			strings.ToUpper(word) != word && strings.ToLower(word) != word {
			return true
		}
	}
	if strings.ContainsFunc(v, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("-_+=/", r) }) {
		return false
	}
	for word := range strings.FieldsFuncSeq(v, func(r rune) bool { return !alphanumeric(r) }) {
		if len(word) >= randomLength && strings.ContainsFunc(word, digit) && strings.ContainsFunc(word, letter) {
			return true
		}
	}
	return false
}
