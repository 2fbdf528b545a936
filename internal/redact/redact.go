// Package redact makes texts of others fit to print: on one line, bounded, and without the secrets
// of the URLs in them.
package redact

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp/internal/ascii"
)

// Bounds on what a service may make us print in logs, spans and errors, in bytes.
const (
	MaxCode    = 128
	MaxID      = 128
	MaxMessage = 1024
	MaxError   = 4096
)

// Text makes remote text safe to print on one line: it escapes what is not printable and cuts at
// max bytes. Text that is clean already, as nearly all is, costs no allocation.
func Text(s string, max int) string {
	if len(s) <= max && ascii.Printable(s) {
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

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// Error returns err's text, on one bounded line, without the secrets of the URLs that it
// wraps or prints. A base transport that is a client of its own puts the whole URL into its
// *url.Error, and API keys live in queries (CVE-2024-6104). "" for nil.
func Error(err error) string {
	if err == nil {
		return ""
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return ofNil(err)
	}
	text := err.Error()
	urls := urlsIn(err, nil)
	// The longest first: one may be the beginning of another.
	slices.SortFunc(urls, func(a, b string) int { return len(b) - len(a) })
	for _, secret := range urls {
		safe := String(secret)
		// *url.Error prints the URL quoted.
		text = strings.ReplaceAll(text, quoteInner(secret), safe)
		text = strings.ReplaceAll(text, secret, safe)
	}
	text = withoutPorts(urlsInText(withoutField(withoutProxy(text))))
	// Some of net/http's errors quote what the server sent.
	return Text(text, MaxError)
}

// ofNil is the text of a nil pointer in an error's clothes, hardly any method of which can be called.
func ofNil(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("nil %T", err)
		}
	}()
	return Text(err.Error(), MaxError)
}

// urlsInText redacts the URLs that stand in a text: many errors print one and wrap none. A server
// may have written the text, without end: no byte belongs to two URLs, and is looked at twice.
func urlsInText(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	var b strings.Builder
	var w word
	for done := 0; ; {
		at := strings.Index(text[done:], "://")
		if at < 0 {
			b.WriteString(text[done:])
			return b.String()
		}
		begin := done + at
		for begin > done && (isAlphanumeric(text[begin-1]) || strings.IndexByte("+-.", text[begin-1]) >= 0) {
			begin--
		}
		end := endOfURL(text, done, begin, done+at+len("://"), &w)
		b.WriteString(text[done:begin])
		b.WriteString(inText(text[begin:end]))
		done = end
	}
}

// word is what stands between white space: where it ends, and its last "@", -1 if it has none.
type word struct{ end, at int }

// around has w be the word that the byte at i belongs to. It is looked for once, however many URLs
// stand in it.
func (w *word) around(text string, i int) {
	if i < w.end {
		return
	}
	w.end = len(text)
	if n := strings.IndexAny(text[i:], " \t\r\n\v\f"); n >= 0 {
		w.end = i + n
	}
	if w.at = strings.LastIndexByte(text[i:w.end], '@'); w.at >= 0 {
		w.at += i
	}
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// endOfURL returns where a URL ends that begins at begin, behind its scheme at i: at its closing
// quote, wherever that is, or else before white space and the punctuation of a sentence. A quote or a
// bracket ends only what has no secret before it: behind a "?" it may be a part of one, as in OData's
// filters. done is where the text before has been written already.
func endOfURL(text string, done, begin, i int, w *word) int {
	escaped := strings.HasSuffix(text[done:begin], `\"`)
	if !escaped && strings.HasSuffix(text[done:begin], `"`) {
		for ; i < len(text); i++ {
			switch text[i] {
			case '"':
				return i
			case '\\':
				i++
			}
		}
		return len(text)
	}
	w.around(text, i)
	end := w.end
	if escaped {
		if n := strings.Index(text[i:end], `\"`); n >= 0 {
			end = i + n
		}
	}
	if n := strings.IndexAny(text[i:end], "\"'`<>"); n >= 0 &&
		!strings.ContainsAny(text[i:i+n], "?#;") && w.at < i+n {
		end = i + n
	}
	return i + len(strings.TrimRight(text[i:end], ":,.;)]}\"'`>"))
}

// inText is String for a URL out of a text, which stays as it is written where it has no secret.
func inText(s string) string {
	if _, err := url.Parse(s); err == nil && !strings.ContainsAny(s, "?#@;") {
		return s
	}
	return String(s)
}

// withoutProxy cuts net/http's error about a proxy's address that it can't read (HTTPS_PROXY): it
// prints the address, with the password, twice, and in part, and with or without a scheme.
func withoutProxy(text string) string {
	const before = "invalid proxy address "
	if at := strings.Index(text, before); at >= 0 {
		return text[:at] + before + "REDACTED"
	}
	return text
}

// withoutField cuts net/textproto's error about a line of a header that it can't read: the line may
// be a cookie's.
func withoutField(text string) string {
	const before = "malformed MIME header"
	at := strings.Index(text, before)
	if at < 0 {
		return text
	}
	quote := strings.IndexByte(text[at:], '"')
	if quote < 0 {
		return text
	}
	return text[:at+quote] + "REDACTED"
}

// withoutPorts takes out what net/url quotes of an authority that it can't read: it may have taken a
// password for a port.
func withoutPorts(text string) string {
	const before, after = `invalid port ":`, `" after host`
	if !strings.Contains(text, before) {
		return text
	}
	var b strings.Builder
	for {
		at := strings.Index(text, before)
		if at < 0 {
			break
		}
		end := strings.Index(text[at:], after)
		if end < 0 {
			break
		}
		b.WriteString(text[:at] + before + "REDACTED")
		text = text[at+end:]
	}
	b.WriteString(text)
	return b.String()
}

// urlsIn collects the URLs of all errors that err wraps.
func urlsIn(err error, urls []string) []string {
	if inner, ok := err.(*url.Error); ok && inner != nil && inner.URL != "" {
		urls = append(urls, inner.URL)
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		if inner := wrapper.Unwrap(); inner != nil {
			urls = urlsIn(inner, urls)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapper.Unwrap() {
			if inner != nil {
				urls = urlsIn(inner, urls)
			}
		}
	}
	return urls
}

func quoteInner(s string) string {
	quoted := fmt.Sprintf("%q", s)
	return quoted[1 : len(quoted)-1]
}

// String is URL for a URL as text, however broken it is.
func String(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return redactUnparsable(s)
	}
	return URL(u)
}

// redactUnparsable keeps what can't be a secret however s is read: nothing from a query on, and
// nothing before an "@". With an "@" behind the first "?" or "#", or the ";" of a path, nobody knows
// whether that is a password.
func redactUnparsable(s string) string {
	head := s
	if end := strings.IndexAny(s, "?#"); end >= 0 {
		if strings.Contains(s[end:], "@") {
			return "REDACTED"
		}
		head = s[:end]
	}
	if at := strings.IndexByte(head, ';'); at >= 0 && strings.Contains(head[at:], "@") && strings.Count(head[:at], "/") > 2 {
		return "REDACTED" // a path's parameter, or a password
	}
	if at := strings.LastIndexByte(head, '@'); at >= 0 {
		head = "REDACTED" + head[at:]
	} else {
		head = withoutPassword(head)
	}
	if at := strings.IndexByte(head, ';'); at >= 0 {
		head = head[:at] + ";REDACTED"
	}
	return Text(head, MaxMessage)
}

// withoutPassword takes out what stands in a port's place and is none: net/url cuts off a fragment
// before it says that it can't read the rest, and so all from the "#" of a password on.
func withoutPassword(head string) string {
	begin := strings.Index(head, "://") + len("://")
	if begin < len("://") {
		return head
	}
	end := len(head)
	if slash := strings.IndexByte(head[begin:], '/'); slash >= 0 {
		end = begin + slash
	}
	colon := strings.LastIndexByte(head[begin:end], ':')
	if colon < 0 || strings.Trim(head[begin+colon+1:end], "0123456789") == "" {
		return head
	}
	return head[:begin+colon+1] + "REDACTED" + head[end:]
}

// URL returns u for people to read: REDACTED stands for its userinfo and for the values of its query
// and of its path's parameters (";jsessionid=…"), and its fragment is left out. It is all of a URL
// that ever enters a log line or an error of ours. "" for nil.
func URL(u *url.URL) string {
	if u == nil {
		return ""
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if strings.Contains(u.Path, ";") {
		shown.RawPath = withoutParameters(u.EscapedPath())
		shown.Path, _ = url.PathUnescape(shown.RawPath) // what EscapedPath returns can be unescaped
	}
	if at := strings.LastIndexByte(u.Host, '@'); at >= 0 { // set by hand
		shown.Host = u.Host[at+1:]
	}
	if u.User != nil || shown.Host != u.Host {
		// OpenTelemetry's form, so that a span's url.full and a log line have the same text.
		shown.User = url.UserPassword("REDACTED", "REDACTED")
	}
	if u.Opaque != "" {
		shown.Opaque = "REDACTED"
	}
	text := shown.String()
	if u.RawQuery == "" {
		return Text(text, MaxMessage)
	}
	var b strings.Builder
	b.Grow(len(text) + min(len(u.RawQuery), MaxMessage) + 2*len("=REDACTED"))
	b.WriteString(text)
	separator := byte('?')
	for rest := u.RawQuery; rest != "" && b.Len() <= MaxMessage; separator = '&' {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		b.WriteByte(separator)
		name, value, _ := strings.Cut(pair, "=")
		if strings.Trim(value, "=") != "" {
			// Without a value it may be a bare token, padded or not.
			b.WriteString(name)
			b.WriteByte('=')
		}
		b.WriteString("REDACTED")
	}
	return Text(b.String(), MaxMessage)
}

// withoutParameters takes the values of a path's parameters out (RFC 3986 section 3.3): Java's servers
// have a session's ID there for clients without cookies.
func withoutParameters(path string) string {
	var b strings.Builder
	for rest := path; ; {
		end := strings.IndexByte(rest, ';')
		if end < 0 {
			b.WriteString(rest)
			return b.String()
		}
		b.WriteString(rest[:end+1])
		rest = rest[end+1:]
		end = strings.IndexAny(rest, ";/")
		if end < 0 {
			end = len(rest)
		}
		b.WriteString(parameter(rest[:end]))
		rest = rest[end:]
	}
}

// longestWord is how long a parameter without a value may be: what is longer may be a bare token.
const longestWord = 12

// parameter takes the value out of one parameter. It begins where the name has ended: not all write
// "=", the RFC itself has a comma too.
func parameter(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return !isNameOf(r) })
	switch {
	case end < 0 && len(s) <= longestWord:
		return s
	case end <= 0, strings.Trim(s[end:], "=") == "": // a token, padded or not
		return "REDACTED"
	}
	return s[:end] + "=REDACTED"
}

func isNameOf(r rune) bool {
	return r < utf8.RuneSelf && (isAlphanumeric(byte(r)) || strings.ContainsRune("-_.~", r))
}
