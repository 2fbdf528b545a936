package steadyhttp

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// envelope is Microsoft's general error envelope (Azure REST API guidelines, section on errors). encoding/json matches
// the names without regard to case, which also takes in Graph's two spellings of innerError.
type envelope struct {
	Error struct {
		Code       string `json:"code"`
		Message    string `json:"message"`
		Target     string `json:"target"`
		InnerError struct {
			RequestID string `json:"request-id"`
		} `json:"innerError"`
	} `json:"error"`
}

// parseEnvelope never fails: an answer that it cannot read is one without a code, and its status decides.
func parseEnvelope(a Attempt) Verdict {
	if v, ok := parseExactly(a.Body); ok {
		return v
	}
	body := bytes.TrimPrefix(a.Body, []byte("\ufeff")) // some gateways begin with a byte order mark
	if !looksLikeObject(body) {
		return Verdict{}
	}
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil || e.Error.Code == "" {
		return parseLoosely(body)
	}
	if e.Error.Target == "" {
		// Graph has no target. Its request-id serves the same end.
		e.Error.Target = e.Error.InnerError.RequestID
	}
	return Verdict{
		Code:    clean(e.Error.Code, maxCode),
		Message: clean(e.Error.Message, maxMessage),
		Target:  clean(e.Error.Target, maxTarget),
	}
}

// parseExactly reads the envelope as it is documented, {"error":{"code":"…","message":"…","target":"…"}} in any order,
// where all three are plain ASCII without escapes, and leaves everything else to encoding/json. That is nearly every
// error answer there is, at a fifth of the price; FuzzEnvelope holds the two against each other.
func parseExactly(body []byte) (Verdict, bool) {
	var v Verdict
	s := scanner{rest: body}
	if !s.symbols('{') || s.text() != "error" || !s.symbols(':', '{') {
		return v, false
	}
	for {
		var field *string
		switch s.text() {
		case "code":
			field = &v.Code
		case "message":
			field = &v.Message
		case "target":
			field = &v.Target
		default:
			return v, false
		}
		if !s.symbol(':') {
			return v, false
		}
		*field = s.text()
		if s.failed {
			return v, false
		}
		if !s.symbol(',') {
			break
		}
	}
	if !s.symbols('}', '}') || !s.empty() {
		return v, false
	}
	return v, v.Code != "" && v.Target != "" && len(v.Code) <= maxCode && len(v.Message) <= maxMessage && len(v.Target) <= maxTarget
}

// scanner reads the part of JSON that parseExactly knows.
type scanner struct {
	rest   []byte
	failed bool
}

func (s *scanner) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\t' || s.rest[0] == '\r' || s.rest[0] == '\n') {
		s.rest = s.rest[1:]
	}
}

func (s *scanner) empty() bool {
	s.space()
	return len(s.rest) == 0
}

// symbols reads single characters, with space before each.
func (s *scanner) symbols(all ...byte) bool {
	for _, c := range all {
		if !s.symbol(c) {
			return false
		}
	}
	return true
}

func (s *scanner) symbol(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text reads a string of plain ASCII.
func (s *scanner) text() string {
	if !s.symbol('"') {
		s.failed = true
		return ""
	}
	for i, c := range s.rest {
		if c == '"' {
			text := string(s.rest[:i])
			s.rest = s.rest[i+1:]
			return text
		}
		if c < ' ' || c > '~' || c == '\\' {
			break
		}
	}
	s.failed = true
	return ""
}

// parseLoosely reads the envelopes that break the rule: a code that is a number, an "error" that is a string (OAuth,
// RFC 6749 section 5.2), or no "error" object at all, as gateways answer. Odd fields are passed over, not fatal.
func parseLoosely(body []byte) Verdict {
	var outer map[string]json.RawMessage
	if json.Unmarshal(body, &outer) != nil {
		return Verdict{}
	}
	inner := outer
	if raw, ok := outer["error"]; ok {
		if code := scalar(raw); code != "" {
			return Verdict{Code: clean(code, maxCode), Message: clean(scalar(outer["error_description"]), maxMessage)}
		}
		inner = nil
		if json.Unmarshal(raw, &inner) != nil {
			return Verdict{}
		}
	}
	return Verdict{
		Code:    clean(scalar(inner["code"]), maxCode),
		Message: clean(scalar(inner["message"]), maxMessage),
		Target:  clean(scalar(inner["target"]), maxTarget),
	}
}

// scalar returns a JSON string's or number's text, "" for anything else.
func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

func looksLikeObject(body []byte) bool {
	for _, c := range body {
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			return c == '{'
		}
	}
	return false
}

// Bounds on what a service may make us repeat in logs, spans and errors, in bytes.
const (
	maxCode      = 128
	maxTarget    = 128
	maxMessage   = 1024
	maxErrorText = 4096
)

// clean makes remote text safe to print on one line: it escapes what is not printable and cuts at max bytes. Text that
// is clean already, as nearly all is, costs no allocation.
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
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
