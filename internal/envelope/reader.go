package envelope

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// span is a string or a number of the body, without the quotes.
type span struct {
	begin, end int32
	plain      bool // printable ASCII without escapes: what is written is what is meant
	cut        bool // the body ends in it
}

func (s span) empty() bool { return s.begin == s.end }

func (s span) whole() bool { return !s.cut && s.begin < s.end }

// long reports whether s, even if it is cut, is longer than the given number of bytes in any case: an
// escape of six makes one at least.
func (s span) long(bytes int32) bool {
	return s.end-s.begin > 7*bytes || s.plain && s.end-s.begin > bytes
}

func (s span) raw(body []byte) []byte { return body[s.begin:s.end] }

// append appends what s means, as encoding/json reads it, and stops soon after the given number of
// bytes.
func (s span) append(buf, body []byte, most int) []byte {
	raw := s.raw(body)
	if s.plain {
		return append(buf, raw[:min(len(raw), most)]...)
	}
	limit := len(buf) + most
	for len(raw) > 0 && len(buf) < limit {
		switch c := raw[0]; {
		case c == '\\':
			n, r := unescape(raw)
			if n == 0 {
				return buf // cut off
			}
			buf, raw = utf8.AppendRune(buf, r), raw[n:]
		case c < utf8.RuneSelf:
			buf, raw = append(buf, c), raw[1:]
		default:
			r, n := utf8.DecodeRune(raw)
			buf, raw = utf8.AppendRune(buf, r), raw[n:] // what is no UTF-8 becomes U+FFFD
		}
	}
	return buf
}

// unescape reads the escape that s begins with, and how long it is: 0 if s ends in it.
func unescape(s []byte) (length int, r rune) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case 'b':
		return 2, '\b'
	case 'f':
		return 2, '\f'
	case 'n':
		return 2, '\n'
	case 'r':
		return 2, '\r'
	case 't':
		return 2, '\t'
	case 'u':
		if len(s) < 6 {
			return 0, 0
		}
		r = hex(s[2:6])
		if !utf16.IsSurrogate(r) {
			return 6, r
		}
		if len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
			if pair := utf16.DecodeRune(r, hex(s[8:12])); pair != utf8.RuneError {
				return 12, pair
			}
		}
		return 6, utf8.RuneError
	}
	return 2, rune(s[1])
}

func hex(s []byte) (r rune) {
	for _, c := range s {
		switch r <<= 4; {
		case c <= '9':
			r += rune(c - '0')
		default:
			r += rune(lower(c) - 'a' + 10)
		}
	}
	return r
}

// reader reads JSON from front to back. It stops where the body ends or breaks the grammar.
type reader struct {
	body []byte
	at   int
	cut  bool // the body has ended too early
	bad  bool // it is no JSON
}

func (r *reader) going() bool { return !r.cut && !r.bad }

// next returns the first byte that is no white space, and stays before it; 0 at the end.
func (r *reader) next() byte {
	if r.at < len(r.body) && r.body[r.at] > ' ' {
		return r.body[r.at]
	}
	return r.afterSpace()
}

func (r *reader) afterSpace() byte {
	for ; r.at < len(r.body); r.at++ {
		switch c := r.body[r.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	r.cut = true
	return 0
}

// symbol reads one byte of punctuation.
func (r *reader) symbol(c byte) bool {
	if r.next() != c {
		r.bad = !r.cut
		return false
	}
	r.at++
	return true
}

// ordinary returns where the first character at or behind i is that ends a string, begins an
// escape, is a control or is not ASCII.
func ordinary(body []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(body); i += 8 {
		// The high bit of a byte is set where it, or a difference below zero, has it. Only bytes
		// behind the first such byte can have it by a borrow.
		x := binary.LittleEndian.Uint64(body[i:])
		quote, backslash := x^ones*'"', x^ones*'\\'
		if x = (x | (x - ones*' ') | (quote - ones) | (backslash - ones)) & highs; x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for ; i < len(body); i++ {
		if c := body[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// text reads a string.
func (r *reader) text() span {
	if !r.symbol('"') {
		return span{}
	}
	s := span{begin: int32(r.at), plain: true}
	if r.at = ordinary(r.body, r.at); r.at < len(r.body) && r.body[r.at] == '"' {
		s.end = int32(r.at)
		r.at++
		return s
	}
	return r.rest(s)
}

// rest reads a string from the first character on that is not an ordinary one.
func (r *reader) rest(s span) span {
	for ; r.at < len(r.body); r.at++ {
		if r.at = ordinary(r.body, r.at); r.at == len(r.body) {
			break
		}
		switch c := r.body[r.at]; {
		case c == '"':
			s.end = int32(r.at)
			r.at++
			return s
		case c == '\\':
			s.plain = false
			if r.escape(); !r.going() {
				s.end, s.cut = int32(len(r.body)), true
				return s
			}
		case c < ' ':
			r.bad = true
			return span{}
		case c >= utf8.RuneSelf:
			s.plain = false
		}
	}
	r.cut = true
	s.end, s.cut = int32(r.at), true
	return s
}

// escape stops at the last byte of one.
func (r *reader) escape() {
	if r.at++; r.at == len(r.body) {
		r.cut = true
		return
	}
	switch r.body[r.at] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
	case 'u':
		for range 4 {
			if r.at++; r.at == len(r.body) {
				r.cut = true
				return
			}
			switch c := lower(r.body[r.at]); {
			case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
			default:
				r.bad = true
				return
			}
		}
	default:
		r.bad = true
	}
}

// number reads one whose end is in the body.
func (r *reader) number() span {
	s := span{begin: int32(r.at), plain: true}
	if r.body[r.at] == '-' {
		r.at++
	}
	if r.at < len(r.body) && r.body[r.at] == '0' {
		r.at++
	} else {
		r.digits()
	}
	if r.going() && r.at < len(r.body) && r.body[r.at] == '.' {
		r.at++
		r.digits()
	}
	if r.going() && r.at < len(r.body) && lower(r.body[r.at]) == 'e' {
		if r.at++; r.at < len(r.body) && (r.body[r.at] == '+' || r.body[r.at] == '-') {
			r.at++
		}
		r.digits()
	}
	if s.end = int32(r.at); r.at == len(r.body) {
		r.cut, s.cut = true, true // there may have been more
	}
	return s
}

func (r *reader) digits() {
	begin := r.at
	for r.at < len(r.body) && '0' <= r.body[r.at] && r.body[r.at] <= '9' {
		r.at++
	}
	if r.at == begin {
		r.cut = r.at == len(r.body)
		r.bad = !r.cut
	}
}

func (r *reader) literal(word string) {
	for i := range len(word) {
		if r.at == len(r.body) {
			r.cut = true
			return
		}
		if r.body[r.at] != word[i] {
			r.bad = true
			return
		}
		r.at++
	}
}

// deepest is as deep as encoding/json reads.
const deepest = 10_000

// skip reads a value that nobody wants.
func (r *reader) skip() {
	var small [64]byte
	open := small[:0] // the closing brackets that are due
	for {
		switch c := r.next(); c {
		case '{', '[':
			r.at++
			closing := c + 2
			if len(open) == deepest {
				r.bad = true
				return
			}
			if r.next() == closing {
				r.at++
				break
			}
			open = append(open, closing)
			if c == '{' {
				r.name()
			}
			if !r.going() {
				return
			}
			continue
		default:
			r.scalar(c)
		}
		for {
			if len(open) == 0 || !r.going() {
				return
			}
			closing := open[len(open)-1]
			if r.next() == closing {
				r.at++
				open = open[:len(open)-1]
				continue
			}
			if r.symbol(',') && closing == '}' {
				r.name()
			}
			break
		}
		if !r.going() {
			return
		}
	}
}

// scalar reads a value that begins with c and is neither an object nor an array. What is neither a
// string nor a number is empty.
func (r *reader) scalar(c byte) span {
	switch {
	case c == '"':
		return r.text()
	case c == '-' || '0' <= c && c <= '9':
		return r.number()
	case c == 't':
		r.literal("true")
	case c == 'f':
		r.literal("false")
	case c == 'n':
		r.literal("null")
	default:
		r.bad = !r.cut
	}
	return span{}
}

func (r *reader) name() span {
	s := r.text()
	if r.going() {
		r.symbol(':')
	}
	return s
}

// root reads the whole body from its brace on, and reports whether it is an object's JSON or the
// beginning of one.
func (r *reader) root(f *found) bool {
	r.object(f, place{})
	if !r.going() {
		return r.cut
	}
	r.next()
	return r.cut // behind the object there is nothing
}

// place tells which object is being read.
type place struct {
	what  byte // one of the constants below
	level int  // of nested innerErrors
}

const (
	outer byte = iota
	failure
	inner
	outerText
	failureText
	innerText
	meta
	details
	elsewhere // an object of no other interest than that it may name a wait
	nowhere
)

// aside is how deep it is looked for there.
const aside = 4

func (r *reader) object(f *found, in place) {
	r.at++
	if r.next() == '}' {
		r.at++
		return
	}
	for r.going() {
		name := r.name()
		if !r.going() {
			return
		}
		r.member(f, in, name)
		if !r.going() {
			return
		}
		if r.next() == '}' {
			r.at++
			return
		}
		r.symbol(',')
	}
}

// list reads an array for the objects in it.
func (r *reader) list(f *found, of place) {
	r.at++
	if r.next() == ']' {
		r.at++
		return
	}
	for r.going() {
		if r.next() == '{' {
			r.object(f, of)
		} else {
			r.skip()
		}
		if !r.going() {
			return
		}
		if r.next() == ']' {
			r.at++
			return
		}
		r.symbol(',')
	}
}

// member reads a member's value: a scalar into its place in f, an object of interest into several.
func (r *reader) member(f *found, in place, name span) {
	to, within := f.member(in, name, r.body)
	c := r.next()
	switch {
	case c == '{' && within.what != nowhere:
		switch within.what {
		case failure:
			f.isObject = true
		case inner:
			f.deep = max(f.deep, within.level+1)
		}
		r.object(f, within)
	case c == '[' && within.what == details:
		r.list(f, within)
	case c == '{' || c == '[':
		r.skip()
	default:
		s := r.scalar(c)
		if to == &f.name && c == 'n' {
			f.isNull = true
		}
		if to != nil && !r.bad && (c == '"' || !s.empty()) {
			*to = s
		}
	}
}

// wanted returns where a wait goes: one that stands aside gives way to what was found already.
func (f *found) wanted(s *span, in place) *span {
	if in.what == elsewhere && s.whole() {
		return nil
	}
	return s
}

// longest bounds the names of members that are of interest.
const longest = 24

// lowered returns a name in lower case: itself, if it is that, or else in small.
func lowered(name []byte, small *[longest]byte) []byte {
	for i, c := range name {
		if c-'A' < 26 {
			copy(small[:], name)
			for ; i < len(name); i++ {
				small[i] = lower(small[i])
			}
			return small[:len(name)]
		}
	}
	return name
}

// member tells where a member's scalar goes, and what its object is. Names are compared without
// regard to ASCII's case.
func (f *found) member(in place, name span, body []byte) (scalar *span, object place) {
	object.what = nowhere
	var small [longest]byte
	raw := name.raw(body)
	if !name.plain {
		raw = name.append(small[:0], body, len(small)-4)
	}
	if len(raw) > len(small) {
		return nil, object
	}
	raw = lowered(raw, &small)
	switch string(raw) {
	case "retry_after", "retry-after", "retryafter", "retryafterseconds", "retry_after_seconds":
		return f.wanted(&f.retryAfter, in), object
	case "retry_after_ms", "retry-after-ms", "retryafterms", "retryaftermilliseconds", "retry_after_milliseconds":
		return f.wanted(&f.retryAfterMs, in), object
	case "retrydelay":
		return f.wanted(&f.retryDelay, in), object
	case "resetat", "reset_at":
		if in.what == elsewhere {
			return nil, object // of a window that may have some left
		}
		return &f.resetAt, object
	case "details", "errors":
		if in.what == outer || in.what == failure {
			return nil, place{what: details}
		}
	}
	if in.level < aside && (in.what == outer || in.what == failure || in.what == details || in.what == elsewhere) {
		object = place{what: elsewhere, level: in.level + 1}
	}
	switch in.what {
	case outer:
		switch string(raw) {
		case "error":
			return &f.name, place{what: failure}
		case "odata.error":
			return nil, place{what: failure}
		case "error_description":
			return &f.description, object
		case "code":
			return &f.outerCode, object
		case "message":
			return &f.outerMessage, place{what: outerText}
		case "target":
			return &f.outerTarget, object
		case "innererror":
			return nil, place{what: inner}
		case "type":
			return &f.kind, object
		case "title":
			return &f.title, object
		case "detail":
			return &f.detail, object
		case "request-id", "requestid", "request_id":
			return &f.outerRequest, object
		case "traceid", "trace_id":
			return &f.trace, object
		case "errorid", "correlationid":
			return &f.other, object
		case "meta":
			return nil, place{what: meta}
		}
	case failure:
		switch string(raw) {
		case "code":
			return &f.code, object
		case "message":
			return &f.message, place{what: failureText}
		case "target":
			return &f.target, object
		case "innererror":
			return nil, place{what: inner}
		case "request-id", "requestid", "request_id":
			return &f.request, object
		case "traceid", "trace_id":
			return &f.trace, object
		case "errorid", "correlationid":
			return &f.other, object
		}
	case inner:
		switch string(raw) {
		case "code":
			return &f.innerCode[in.level], object
		case "message":
			return &f.innerMessage[in.level], place{what: innerText, level: in.level}
		case "innererror":
			if in.level+1 < levels {
				return nil, place{what: inner, level: in.level + 1}
			}
		case "request-id", "requestid", "request_id":
			return &f.innerRequest[in.level], object
		case "traceid", "trace_id":
			return &f.trace, object
		case "errorid", "correlationid":
			return &f.other, object
		}
	case outerText, failureText, innerText:
		if string(raw) == "value" {
			switch in.what {
			case outerText:
				return &f.outerMessage, object
			case failureText:
				return &f.message, object
			}
			return &f.innerMessage[in.level], object
		}
	case meta:
		if s := string(raw); s == "trace_id" || s == "traceid" {
			return &f.trace, object
		}
	}
	return nil, object
}
