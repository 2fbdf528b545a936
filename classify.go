package steadyhttp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp/internal/envelope"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// Class is what an answer means for the question whether to try again.
type Class uint8

const (
	Unclassified Class = iota // not made, refused, or ended by its caller: it says nothing of the service
	Success                   // nothing to repair
	Permanent                 // the same request would fail the same way
	Transient                 // a fault that may pass; the request may or may not have been carried out
	Throttled                 // refused for now, and so not carried out
	Unauthorized              // the credentials were refused; new ones may do
)

var classNames = [...]string{"unclassified", "success", "permanent", "transient", "throttled", "unauthorized"}

// String returns the class's name in lower case.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "Class(" + strconv.Itoa(int(c)) + ")"
}

// MarshalText implements encoding.TextMarshaler: the class's name, as in JSON, logs and
// configuration.
func (c Class) MarshalText() ([]byte, error) {
	if int(c) >= len(classNames) {
		return nil, fmt.Errorf("steadyhttp: %v is no class", c)
	}
	return []byte(classNames[c]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Class) UnmarshalText(text []byte) error {
	at := slices.Index(classNames[:], string(text))
	if at < 0 {
		return fmt.Errorf("steadyhttp: %q is no class; use one of %s", clean(string(text), maxCode), strings.Join(classNames[:], ", "))
	}
	*c = Class(at)
	return nil
}

func (c Class) valid() bool { return c >= Success && c <= Unauthorized }

// Verdict is what Classify makes of an attempt.
type Verdict struct {
	Class Class

	// Code, Message and TrackingID come from the service's error envelope, or from fields of the
	// answer, "" if there was none. TrackingID is the service's tracking ID for this one failure,
	// which its support asks for. They are remote data: bounded, and with control characters
	// escaped.
	Code, Message, TrackingID string

	// RetryAfter is the wait that the server asked for, 0 if it did not.
	RetryAfter time.Duration
}

// Rules classify an answer by the service's error code, then by its status, then by the kind of
// transport error. The zero value knows the general statuses: 408, 500, 502, 503, 504 and other 5xx
// are Transient; 401 is Unauthorized; other 4xx, 501 and 505 are Permanent; everything below 400 is
// Success. 429 is always Throttled.
//
// Rules must not be changed while in use. They are safe for concurrent use.
type Rules struct {
	// ByCode maps the service's error codes to classes; they are compared exactly. nil: none.
	ByCode map[string]Class

	// ByStatus maps HTTP statuses to classes, for answers whose code ByCode does not have. nil:
	// none.
	ByStatus map[int]Class

	// Parse reads the service's error envelope out of an error answer (a.Response, and a.Body,
	// which is unpacked here where it came as gzip or deflate). A Class it returns is kept. nil:
	// Microsoft's envelope, {"error":{"code","message","target","innerError"}}, and its known
	// variants, OAuth's errors, RFC 9457's problems, and a bare code and message, all of them also
	// where the body breaks off. Of nested innerErrors' codes the deepest in ByCode is taken, or
	// else the outermost.
	Parse func(a Attempt) Verdict

	// IDHeaders names the fields that have the service's tracking ID, the best first, for answers
	// whose body has none and where Parse is nil. A value that the request was sent with is no ID.
	// nil: X-Ms-Request-Id, Request-Id, X-Amzn-Requestid, X-Amz-Request-Id, those of other
	// services, X-Request-Id, and last those of edges, as Cf-Ray; empty but not nil: none.
	IDHeaders []string
}

// Validate reports the first entry that makes no sense. A Transport fails a call whose answer meets
// such an entry; Validate tells so before anything is sent.
func (r *Rules) Validate() error {
	for _, code := range slices.Sorted(maps.Keys(r.ByCode)) {
		switch class := r.ByCode[code]; {
		case code == "":
			return errors.New("steadyhttp: Rules.ByCode has the empty code; use ByStatus for answers without one")
		case !class.valid():
			return fmt.Errorf("steadyhttp: Rules.ByCode[%q] is %v; use Success, Permanent, Transient, Throttled or Unauthorized", code, class)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(r.ByStatus)) {
		switch class := r.ByStatus[status]; {
		case status < 200 || status > 599:
			return fmt.Errorf("steadyhttp: Rules.ByStatus[%d] is not the status of a final answer; use 200 to 599", status)
		case !class.valid():
			return fmt.Errorf("steadyhttp: Rules.ByStatus[%d] is %v; use Success, Permanent, Transient, Throttled or Unauthorized", status, class)
		case status == http.StatusTooManyRequests && class != Throttled:
			return fmt.Errorf("steadyhttp: Rules.ByStatus[429] is %v; a 429 is always Throttled: take the entry out", class)
		}
	}
	return nil
}

// Classify is the default of Transport.Classify. It is a pure function of the rules and the attempt
// but for Retry-After given as a date, which is read against the clock.
func (r *Rules) Classify(a Attempt) Verdict {
	if a.Err != nil {
		return Verdict{Class: classOfError(a.Err, a.Request)}
	}
	status := a.Response.StatusCode
	if status < 400 {
		if class, ok := r.ByStatus[status]; ok {
			return Verdict{Class: class, RetryAfter: pushback(a.Response, class)}
		}
		return Verdict{Class: Success}
	}
	a.Body = envelope.Unpack(a.Body, a.Response.Header) // of our copy of the attempt
	var v Verdict
	if r.Parse != nil {
		v = cleaned(r.Parse(a))
	}
	var inBody time.Duration // the wait that the body names
	if v.Code == "" || v.Message == "" || v.TrackingID == "" {
		read := r.parseEnvelope(&a)
		v.Code, v.Message = cmp.Or(v.Code, read.Code), cmp.Or(v.Message, read.Message)
		v.TrackingID, inBody = cmp.Or(v.TrackingID, read.TrackingID), read.RetryAfter
	}
	class, named := r.class(status, v)
	if class != Transient && class != Throttled && (named || !mayThrottle(status)) {
		v.Class = class
		return v
	}
	wait, source := retryafter.Read(a.Response.Header, time.Now())
	if mayThrottle(status) && !named {
		// GitHub and Binance throttle so. What says neither when to come back nor that nothing is
		// left is a plain no.
		if source == retryafter.Field || source == retryafter.Spent && status != http.StatusRequestEntityTooLarge {
			class = Throttled
		} else {
			wait = 0
		}
	}
	v.Class = class
	if class == Transient || class == Throttled {
		v.RetryAfter = max(v.RetryAfter, cmp.Or(wait, inBody))
	}
	return v
}

// mayThrottle reports whether services use a status to throttle that means something else.
func mayThrottle(status int) bool {
	return status == http.StatusForbidden || status == http.StatusTeapot || status == http.StatusRequestEntityTooLarge
}

// class returns the class of an answer, and whether anybody has named it for its code or status.
func (r *Rules) class(status int, v Verdict) (class Class, named bool) {
	// A 429 was refused, whatever its code says: Defender's carries the code "429", Graph's
	// "TooManyRequests".
	if status == http.StatusTooManyRequests {
		return Throttled, true
	}
	if v.Class != Unclassified {
		return v.Class, true
	}
	if class, ok := r.ByCode[v.Code]; ok && v.Code != "" {
		return class, true
	}
	if class, ok := r.ByStatus[status]; ok {
		return class, true
	}
	return classOfStatus(status), false
}

func classOfStatus(status int) Class {
	switch status {
	case http.StatusTooManyRequests:
		return Throttled
	case http.StatusUnauthorized:
		return Unauthorized
	case http.StatusRequestTimeout:
		return Transient
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return Permanent
	}
	switch {
	case status < 400:
		return Success
	case status < 500:
		return Permanent
	}
	return Transient
}

// classOfError tells errors that would come again from those that may pass.
func classOfError(err error, req *http.Request) Class {
	// net/http reports a bad scheme or header by text only, so we look at the request itself.
	if kindOf(err) == lasting || req != nil && unsendable(req) {
		return Permanent
	}
	return Transient
}

// kind says whether an error would come again.
type kind uint8

const (
	unknown kind = iota
	passing
	lasting
)

// kindOf goes by type, never by text: texts change between Go versions (go-retryablehttp #201 began
// to retry untrusted certificates when one did).
func kindOf(err error) kind {
	switch {
	case distrust(err), is[*Refusal](err), errors.Is(err, errBase), is[*bodyError](err), is[tls.AlertError](err),
		is[*net.AddrError](err), is[*backoff.PermanentError](err), is[nonRetriable](err):
		return lasting
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "remote error" || op.Op == "local error") {
		return lasting // an alert of crypto/tls, whose type is not exported
	}
	if status := statusOf(err); status != 0 {
		if classOfStatus(status) == Transient || status == http.StatusTooManyRequests {
			return passing
		}
		return lasting
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return lasting
	}
	if stream, ok := errors.AsType[streamError](err); ok && stream.Cause != nil && refusalText(stream.Cause.Error()) {
		return lasting
	}
	if isTimeout(err) || is[*net.OpError](err) || is[*net.DNSError](err) || is[syscall.Errno](err) || is[streamError](err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return passing
	}
	return kindOfText(err)
}

// kindOfText knows those of net/http's errors that have no type. Should a text change, the error
// becomes one that nothing is known of. What net/http refuses comes wrapped in the loss of the
// connection that it closes for it, and so is looked for first.
func kindOfText(err error) kind {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if refusalText(e.Error()) {
			return lasting
		}
	}
	for ; err != nil; err = errors.Unwrap(err) {
		text := err.Error()
		if hasAnyPrefix(text, "http: server closed idle connection", "net/http: HTTP/1.x transport connection broken",
			"http2: client conn", "http2: server sent GOAWAY", "http2: Transport received ", "stream error: ") {
			return passing
		}
		// A proxy's answer to CONNECT comes as its reason phrase.
		for status := 400; status < 600; status++ {
			if known := http.StatusText(status); known == "" || known != text {
				continue
			}
			if classOfStatus(status) == Transient || status == http.StatusTooManyRequests {
				return passing
			}
			return lasting
		}
	}
	return unknown
}

// refusalText knows the texts with which net/http and crypto/tls refuse to send a request, or to
// take its answer.
func refusalText(text string) bool {
	if strings.HasPrefix(text, "tls: ") {
		return !hasAnyPrefix(text, "tls: protocol is shutdown", "tls: failed to send closeNotify", "tls: short read from Rand")
	}
	return headTooLong(text) || hasAnyPrefix(text,
		"http: ContentLength=", "http: Request.", "http: invalid Host ", "http: no Host", "net/http: can't write ",
		"http2: request body larger ", "http2: could not negotiate ", "request header list larger ",
		"invalid HTTP header ", "invalid HTTP trailer ", "invalid Host ", "invalid Trailer ", "invalid request :path ",
		"invalid Upgrade ", "invalid Transfer-Encoding ", "invalid Connection ")
}

// headTooLong knows that an answer's head exceeds http.Transport.MaxResponseHeaderBytes. Over a
// field that is too long by itself HTTP/2 ends the connection, which looks like any other broken
// one, and is retried.
func headTooLong(text string) bool {
	return hasAnyPrefix(text, "net/http: server response headers exceeded ", "http2: response header list larger ")
}

// unread reports whether err is about an answer that came, to a request that was carried out for
// all we know, and was not taken.
func unread(err error) bool {
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

// byRules reports whether a Classify is a Rules' own, which has nothing to say of errors that the
// default does not.
func byRules(classify func(Attempt) Verdict) bool {
	return reflect.ValueOf(classify).Pointer() == reflect.ValueOf((&Rules{}).Classify).Pointer()
}

// nonRetriable is how the Azure SDK for Go marks the errors that nobody is to retry (azidentity's
// refused credentials).
type nonRetriable interface {
	error
	NonRetriable()
}

// statusOf returns the status of the answer that err is about, 0 if it is about none.
func statusOf(err error) int {
	if refused, ok := errors.AsType[*Error](err); ok && refused.StatusCode != 0 && refused.Err == nil {
		return refused.StatusCode
	}
	// As the AWS SDK for Go has it.
	if answered, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok && answered.HTTPStatusCode() >= 400 {
		return answered.HTTPStatusCode()
	}
	return 0
}

// distrust reports whether a secure connection was refused for what the other end showed of itself.
func distrust(err error) bool {
	return is[*tls.CertificateVerificationError](err) || is[x509.UnknownAuthorityError](err) || is[x509.HostnameError](err) ||
		is[x509.CertificateInvalidError](err) || is[x509.SystemRootsError](err) || is[tls.RecordHeaderError](err) ||
		is[*tls.ECHRejectionError](err)
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// neverSent reports whether err says by its type that no byte of the request reached a server: it
// failed before there was a connection. That is no proof from a base that retries on its own, which
// tells of its last try alone; most such bases wrap, and so only an error that nobody wrapped is
// believed.
func neverSent(err error) bool {
	switch e := err.(type) {
	case *net.OpError:
		return e.Op == "dial" || e.Op == "proxyconnect"
	case *net.DNSError:
		return true
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

// unprocessed reports whether HTTP/2 vouches for it that the server has done nothing with a request
// that was sent: it refused the stream (RFC 9113 section 8.7), or left below it (section 6.8). For
// the latter net/http has texts and no types: should they change, the request is taken to have been
// carried out, as any other that was lost.
func unprocessed(err error) bool {
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

func unsendable(req *http.Request) bool {
	if req.URL == nil || req.URL.Host == "" || !token(methodOf(req)) {
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

func methodOf(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
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
