// Package neterr knows what the errors of net/http and of what lies below it say: whether they would
// come again, and whether the request was sent. It goes by types wherever there are any: texts
// change between Go versions (go-retryablehttp #201 began to retry untrusted certificates when one
// did).
package neterr

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp/internal/errno"
)

// Kind says whether an error would come again.
type Kind uint8

const (
	Unknown Kind = iota
	Passing
	Lasting
)

// OfStatus is the kind of a failure that a status tells of.
func OfStatus(status int) Kind {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return Passing
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return Lasting
	}
	if status >= 500 {
		return Passing
	}
	return Lasting
}

// Final reports whether err says by its type that it would come again: trust, alerts, what is marked
// so, and what Solid has made.
func Final(err error) bool {
	if Distrust(err) || Is[tls.AlertError](err) || Is[*net.AddrError](err) || Is[*backoff.PermanentError](err) ||
		Is[nonRetriable](err) || errors.Is(err, errHollow) {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error") // an alert, whose type is not exported
}

// Of returns the kind of an error that is not Final.
func Of(err error) Kind {
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return Lasting
	}
	if malformed, ok := errors.AsType[*url.Error](err); ok && malformed.Op == "parse" {
		return Lasting // a proxy's address, for one
	}
	if stream, ok := errors.AsType[streamError](err); ok && stream.Cause != nil && refusal(stream.Cause.Error()) {
		return Lasting
	}
	if Timeout(err) || Is[*net.OpError](err) || Is[*net.DNSError](err) || errno.In(err) || Is[streamError](err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return Passing
	}
	return ofText(err)
}

// ofText knows those of net/http's errors that have no type. Should a text change, the error
// becomes one that nothing is known of. What net/http refuses comes wrapped in the loss of the
// connection that it closes for it, and so is looked for first.
func ofText(err error) Kind {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if refusal(e.Error()) {
			return Lasting
		}
	}
	for ; err != nil; err = errors.Unwrap(err) {
		text := err.Error()
		if hasAnyPrefix(text, "http: server closed idle connection", "net/http: HTTP/1.x transport connection broken",
			"http2: client conn", "http2: server sent GOAWAY", "http2: Transport received ", "stream error: ") {
			return Passing
		}
		// A proxy's answer to CONNECT comes as its reason phrase.
		for status := 400; status < 600; status++ {
			if known := http.StatusText(status); known != "" && known == text {
				return OfStatus(status)
			}
		}
	}
	return Unknown
}

// OfPhrase knows a proxy's answer to CONNECT by what a phrase of its own begins with, as
// "Forbidden by policy" or "Proxy-Authentication-Required (ACME)": net/http keeps the phrase alone,
// and drops the status.
func OfPhrase(phrase string) Kind {
	phrase, best, status := letters(phrase), 0, 0
	for code := 400; code < 600; code++ {
		if known := letters(http.StatusText(code)); len(known) > best && strings.HasPrefix(phrase, known) {
			best, status = len(known), code
		}
	}
	if status == 0 {
		return Unknown
	}
	return OfStatus(status)
}

// maxPhrase is how much of a phrase is looked at.
const maxPhrase = 128

func letters(text string) string {
	return strings.Map(func(r rune) rune {
		if r |= 0x20; 'a' <= r && r <= 'z' {
			return r
		}
		return -1
	}, text[:min(len(text), maxPhrase)])
}

var plainText = reflect.TypeOf(errors.New(""))

// PlainText reports whether an error is a text and nothing else.
func PlainText(err error) bool { return reflect.TypeOf(err) == plainText }

// refusal knows the texts with which net/http and crypto/tls refuse to send a request, or to
// take its answer.
func refusal(text string) bool {
	if strings.HasPrefix(text, "tls: ") {
		return !hasAnyPrefix(text, "tls: protocol is shutdown", "tls: failed to send closeNotify", "tls: short read from Rand")
	}
	return headTooLong(text) || hasAnyPrefix(text,
		"http: ContentLength=", "http: Request.", "http: invalid Host ", "http: no Host", "net/http: can't write ",
		"http2: request body larger ", "http2: could not negotiate ", "request header list larger ",
		"invalid HTTP header ", "invalid HTTP trailer ", "invalid Host ", "invalid Trailer ", "invalid request :path ",
		"invalid Upgrade ", "invalid Transfer-Encoding ", "invalid Connection ", "invalid proxy address ")
}

// headTooLong knows that an answer's head exceeds http.Transport.MaxResponseHeaderBytes. Over a
// field that is too long by itself HTTP/2 ends the connection, which looks like any other broken
// one, and is retried.
func headTooLong(text string) bool {
	return hasAnyPrefix(text, "net/http: server response headers exceeded ", "http2: response header list larger ")
}

// Unread reports whether err is about an answer that came, to a request that was carried out for
// all we know, and was not taken.
func Unread(err error) bool {
	if stream, ok := errors.AsType[streamError](err); ok && stream.Cause != nil && headTooLong(stream.Cause.Error()) {
		return true
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if headTooLong(err.Error()) {
			return true
		}
	}
	return false
}

func hasAnyPrefix(text string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// nonRetriable is how the Azure SDK for Go marks the errors that nobody is to retry (azidentity's
// refused credentials).
type nonRetriable interface {
	error
	NonRetriable()
}

// Distrust reports whether a secure connection was refused for what the other end showed of itself.
func Distrust(err error) bool {
	return Is[*tls.CertificateVerificationError](err) || Is[x509.UnknownAuthorityError](err) || Is[x509.HostnameError](err) ||
		Is[x509.CertificateInvalidError](err) || Is[x509.SystemRootsError](err) || Is[tls.RecordHeaderError](err) ||
		Is[*tls.ECHRejectionError](err)
}

// Is reports whether err's chain has an error of the type.
func Is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// NeverSent reports whether err says by its type that no byte of the request reached a server: it
// failed before there was a connection. That is no proof from a base that retries on its own, which
// tells of its last try alone; most such bases wrap, and so only an error that nobody wrapped is
// believed.
func NeverSent(err error) bool {
	switch e := err.(type) {
	case *net.OpError:
		return e.Op == "dial" || e.Op == "proxyconnect"
	case *net.DNSError:
		return true
	}
	return false
}

// NothingWritten reports whether net/http itself vouches for it that no byte was written to an
// HTTP/1.1 connection. Its type for that is not exported, and so is known by its name.
func NothingWritten(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if t := reflect.TypeOf(err); t.PkgPath() == "net/http" && t.Name() == "nothingWrittenError" {
			return true
		}
	}
	return false
}

// streamError has the shape of net/http's own, which errors.As fills in (http2StreamError.As).
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return e.Cause.Error() } // errors.As takes errors only

const refusedStream = 7 // REFUSED_STREAM, RFC 9113 section 7

// Unprocessed reports whether HTTP/2 vouches for it that the server has done nothing with a request
// that was sent: it refused the stream (RFC 9113 section 8.7), or left below it (section 6.8). For
// the latter net/http has texts and no types: should they change, the request is taken to have been
// carried out, as any other that was lost.
func Unprocessed(err error) bool {
	if stream, ok := errors.AsType[streamError](err); ok {
		return stream.Code == refusedStream
	}
	for ; err != nil; err = errors.Unwrap(err) {
		// Without GetBody, net/http quotes what it would otherwise have replayed the request after.
		text := strings.TrimPrefix(err.Error(), "http2: Transport: cannot retry err [")
		if strings.HasPrefix(text, "http2: Transport received Server's graceful shutdown GOAWAY") ||
			strings.HasPrefix(text, "http2: Transport received GOAWAY from server ErrCode:") ||
			strings.HasPrefix(text, "stream error: ") && strings.Contains(text, "; REFUSED_STREAM") {
			return true
		}
	}
	return false
}

// Refused reports whether net/http has refused, before it looked for a connection, to send a request
// that it was given as it is. It says so in a text that nobody has wrapped.
func Refused(err error, req *http.Request) bool {
	return Unsendable(req) && hasAnyPrefix(err.Error(), "net/http: invalid header ", "net/http: invalid trailer ",
		"net/http: invalid method ", "http: no Host in request URL", "unsupported protocol scheme ")
}

// errHollow is matched by an error that stands for a nil pointer.
var errHollow = errors.New("a nil pointer is no error; return a literal nil where there is none")

// Solid returns err, or another one in its place where it is a nil pointer, or wraps one: a function
// returns that as an error that has declared a variable of its own type for it. To ask it for what it
// wraps, or whether it is a timeout, would panic. from names the function.
func Solid(from string, err error) error {
	hollow := hollowIn(err)
	switch {
	case hollow == nil:
		return err
	case reflect.TypeOf(hollow) == reflect.TypeOf(err):
		return fmt.Errorf("steadyhttp: %s returned a nil %T: %w", from, err, errHollow)
	}
	// fmt survives what the nil pointer's Error may do.
	return fmt.Errorf("steadyhttp: %s returned an error around a nil %T (%v): %w", from, hollow, err, errHollow)
}

// hollowIn returns the first nil pointer in err's chain, nil if there is none.
func hollowIn(err error) error {
	if err == nil {
		return nil
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return err
	}
	switch outer := err.(type) {
	case interface{ Unwrap() error }:
		return hollowIn(outer.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range outer.Unwrap() {
			if hollow := hollowIn(inner); hollow != nil {
				return hollow
			}
		}
	}
	return nil
}

// Unsendable reports whether net/http would refuse to send req, which it says by text only.
func Unsendable(req *http.Request) bool {
	if req.URL == nil || req.URL.Host == "" || !token(cmp.Or(req.Method, http.MethodGet)) {
		return true
	}
	if s := req.URL.Scheme; s != "http" && s != "https" {
		return true
	}
	if port, err := strconv.Atoi(cmp.Or(req.URL.Port(), "0")); err != nil || port > math.MaxUint16 {
		return true
	}
	return badFields(req.Header) || badFields(req.Trailer)
}

func badFields(h http.Header) bool {
	for name, values := range h {
		if !token(name) || slices.ContainsFunc(values, badFieldValue) {
			return true
		}
	}
	return false
}

// token follows RFC 9110 section 5.6.2.
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// badFieldValue finds what RFC 9110 section 5.5 forbids in a field's value: control characters but
// for the tab.
func badFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// Timeout reports whether err is a timeout. It asks each error of the chain: those of net/url and
// net look no further than what they wrap directly.
func Timeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var t interface {
		error
		Timeout() bool
	}
	for errors.As(err, &t) {
		if t.Timeout() {
			return true
		}
		err = errors.Unwrap(t)
	}
	return false
}
