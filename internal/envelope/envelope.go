// Package envelope reads what a service says of a failure: its code, its message, and the ID under
// which its support finds it.
//
// It knows the forms that many services share: Microsoft's envelope with its nested innerErrors,
// OData's, OAuth's, RFC 9457's problem, and a bare code and message. Those of a single vendor are
// for the caller to read.
package envelope

import (
	"bytes"
	"cmp"
	"net/http"
	"strings"

	"github.com/steadyhttp/steadyhttp/internal/ascii"
)

// Envelope is what was found, "" for what was not. It is remote text: of bounded length, but
// otherwise as it was sent.
type Envelope struct {
	Code, Message, ID string

	// A time to wait as it is written, or a number of milliseconds, if its name says that it is.
	Wait, WaitMs string
}

// Answer is a failing answer, and what is known of it.
type Answer struct {
	Body   []byte      // all of it, or its beginning
	Header http.Header // nil: none
	Sent   http.Header // the request's: what only echoes one of its values is no ID. nil: none

	// IDHeaders are the fields with an ID, the best first. nil: those of common services.
	IDHeaders []string

	// TargetIsID says that the envelope's "target" is an ID, whatever it looks like, and the first
	// choice. Elsewhere than in Defender it is mostly the name of the property that an error is
	// about.
	TargetIsID bool
}

// Who prints the texts has stricter bounds, and has to see that there was more.
const (
	mostBody    = 1 << 24 // nobody peeks as much
	mostCode    = 256
	mostMessage = 2048
	mostID      = 128
	mostWait    = 80
)

// Read never fails: what it cannot read is not there. A body that breaks off is read as far as it
// goes, and what its end cuts is not taken. Of the codes of nested errors it takes the deepest that is
// a key of codes, and the outermost where none is.
func Read[C any](a *Answer, codes map[string]C) Envelope {
	var e Envelope
	if len(a.Body) > 0 {
		e = fromBody(a, codes)
	}
	if len(a.Header) == 0 {
		return e
	}
	if e.Code == "" {
		// Azure's rule is that it says the same as the body; Azure Storage answers in XML, and to a
		// HEAD with it alone.
		for _, value := range a.Header["X-Ms-Error-Code"] {
			if usable(value) {
				e.Code = value
			}
		}
	}
	if challenge := a.Header["Www-Authenticate"]; e.Code == "" && len(challenge) > 0 {
		var message string
		e.Code, message = challenged(challenge)
		e.Message = cmp.Or(e.Message, message)
	}
	if e.ID == "" {
		e.ID = a.headerID()
	}
	return e
}

func fromBody[C any](a *Answer, codes map[string]C) Envelope {
	// Some gateways begin with a byte order mark.
	r := reader{body: bytes.TrimPrefix(a.Body[:min(len(a.Body), mostBody)], []byte("\ufeff"))}
	if r.next() != '{' {
		return Envelope{}
	}
	var f found
	if !r.root(&f) {
		return Envelope{}
	}
	return f.envelope(a, code(a, codes, &f, r.body), r.body)
}

// envelope is apart from fromBody so that its buffer is not below the reader's frames on the stack.
func (f *found) envelope(a *Answer, code span, body []byte) (e Envelope) {
	var small [384]byte
	buf := code.append(small[:0], body, mostCode)
	codeEnd := len(buf)
	buf = f.text().append(buf, body, mostMessage)
	messageEnd := len(buf)
	buf = a.id(buf, f, body)
	idEnd := len(buf)
	wait, inMs := f.wait()
	buf = wait.append(buf, body, mostWait)
	if len(buf) == 0 {
		return Envelope{}
	}
	all := string(buf) // one allocation for all
	e = Envelope{Code: all[:codeEnd], Message: all[codeEnd:messageEnd], ID: all[messageEnd:idEnd]}
	if inMs {
		e.WaitMs = all[idEnd:]
	} else {
		e.Wait = all[idEnd:]
	}
	return e
}

// levels is how deep nested innerErrors are looked into.
const levels = 8

// found is where the parts of an envelope stand in the body. The first group is of the error
// object, the second of the outermost one.
type found struct {
	code, message, target, request span
	innerCode, innerMessage        [levels]span
	innerRequest                   [levels]span
	deep                           int  // so many levels were there
	isObject                       bool // the outer code and message are not the error's
	isNull                         bool // "error":null

	name, description                                  span // RFC 6749 section 5.2
	outerCode, outerMessage, outerTarget, outerRequest span
	kind, title, detail                                span // RFC 9457 section 3.1
	trace, other                                       span

	retryAfter, retryAfterMs, retryDelay, resetAt span // anywhere, but for the last
}

// wait returns the time to wait that the body names.
func (f *found) wait() (s span, inMs bool) {
	switch {
	case f.retryAfter.whole():
		return f.retryAfter, false
	case f.retryAfterMs.whole():
		return f.retryAfterMs, true
	case f.retryDelay.whole():
		return f.retryDelay, false
	case f.resetAt.whole():
		return f.resetAt, false
	}
	return span{}, false
}

func code[C any](a *Answer, codes map[string]C, f *found, body []byte) span {
	var outermost span
	switch {
	case f.isObject:
		outermost = f.code
	case f.name.whole():
		outermost = f.name
	case f.isNull:
		return span{}
	case f.outerCode.whole():
		outermost = f.outerCode
	case f.title.whole() || isProblem(a.Header):
		if string(f.kind.raw(body)) != "about:blank" {
			outermost = f.kind
		}
	}
	var best span
	if outermost.whole() {
		best = outermost
	}
	for level := f.deep - 1; level >= 0; level-- {
		inner := f.innerCode[level]
		if !inner.whole() {
			continue
		}
		if has(codes, inner, body) {
			return inner
		}
		if !outermost.whole() || isUnknown(outermost, body) && !has(codes, outermost, body) {
			best = inner // ends with the outermost that says something
		}
	}
	if f.isObject && !best.whole() {
		return f.outerCode // some put the message into the object, and the code beside it
	}
	return best
}

func has[C any](codes map[string]C, code span, body []byte) bool {
	raw := code.raw(body)
	if !code.plain {
		raw = code.append(nil, body, mostCode)
	}
	_, ok := codes[string(raw)]
	return ok
}

// isUnknown: Graph's UnknownError says nothing, whatever stands below it says more.
func isUnknown(code span, body []byte) bool { return string(code.raw(body)) == "UnknownError" }

func isProblem(h http.Header) bool {
	const problem = "application/problem+json"
	for _, value := range h["Content-Type"] {
		if len(value) >= len(problem) && strings.EqualFold(value[:len(problem)], problem) {
			return true
		}
	}
	return false
}

// text returns the message. One that is cut is none, unless that shows nowhere: all of them are
// bounded.
func (f *found) text() span {
	choices := [...]span{f.outerMessage, f.detail, f.title}
	switch {
	case f.isObject:
		for i := -1; i < f.deep; i++ {
			s := f.message
			if i >= 0 {
				s = f.innerMessage[i]
			}
			if s.whole() || s.long(mostMessage) {
				return s
			}
		}
	case f.name.whole():
		choices = [...]span{f.description, f.outerMessage, f.detail}
	case f.isNull:
		return span{}
	}
	for _, s := range choices {
		if s.whole() || s.long(mostMessage) {
			return s
		}
	}
	return span{}
}

// id appends the ID that the body has.
func (a *Answer) id(buf []byte, f *found, body []byte) []byte {
	target := f.target
	if !f.isObject {
		target = f.outerTarget
	}
	if a.TargetIsID && target.whole() {
		return target.append(buf, body, 2*mostID)
	}
	begin := len(buf)
	for _, s := range f.innerRequest[:f.deep] {
		if buf = a.take(buf, s, body); len(buf) > begin {
			return buf
		}
	}
	if buf = a.take(buf, f.request, body); len(buf) > begin {
		return buf
	}
	if buf = a.take(buf, f.outerRequest, body); len(buf) > begin {
		return buf
	}
	if target.plain && looksLikeID(target.raw(body)) {
		if buf = a.take(buf, target, body); len(buf) > begin {
			return buf
		}
	}
	if buf = a.take(buf, f.trace, body); len(buf) > begin {
		return buf
	}
	return a.take(buf, f.other, body)
}

// take appends s if it can be an ID.
func (a *Answer) take(buf []byte, s span, body []byte) []byte {
	if !s.whole() {
		return buf
	}
	begin := len(buf)
	buf = s.append(buf, body, mostID+1)
	if id := buf[begin:]; !usable(id) || echoes(a.Sent, id) {
		return buf[:begin]
	}
	return buf
}

// looksLikeID: a GUID, or another long number in hexadecimal.
func looksLikeID(s []byte) bool {
	if len(s) < 16 {
		return false
	}
	// Which of them are digits is as good as random: no branch foresees it.
	all, some := isDigit|isDash, byte(0)
	for _, c := range s {
		kind := idBytes[c]
		some |= kind
		all &= kind
	}
	return all&isDash != 0 && some&isDigit != 0
}

const (
	isDash  byte = 1 << iota // or a digit
	isDigit                  // in hexadecimal
)

var idBytes = [256]byte{
	'-': isDash, '_': isDash,
	'0': 3, '1': 3, '2': 3, '3': 3, '4': 3, '5': 3, '6': 3, '7': 3, '8': 3, '9': 3,
	'a': 3, 'b': 3, 'c': 3, 'd': 3, 'e': 3, 'f': 3, 'A': 3, 'B': 3, 'C': 3, 'D': 3, 'E': 3, 'F': 3,
}

// usable: of a length that somebody can quote, and printable.
func usable[T string | []byte](s T) bool {
	return 0 < len(s) && len(s) <= mostID && ascii.Printable(s)
}

// echoes reports whether the request was sent with that value: many gateways adopt an inbound ID,
// which is the same for every attempt, and tells nobody of this one.
func echoes[T string | []byte](sent http.Header, id T) bool {
	for _, values := range sent {
		for _, v := range values {
			if equalFold(v, id) {
				return true
			}
		}
	}
	return false
}

func equalFold[T string | []byte](s string, t T) bool {
	if len(s) != len(t) {
		return false
	}
	for i := range len(s) {
		if lower(s[i]) != lower(t[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
