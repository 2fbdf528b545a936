package steadyhttp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ended"
	"github.com/steadyhttp/steadyhttp/internal/errno"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/redact"
)

// ErrNotSent is matched by the errors of calls of which nothing was ever sent: a Gate refused the
// first attempt, the call ended while it waited for that, or Prepare failed. Who puts such a call
// back in a queue may rely on it: Error.Is alone decides. It is not matched once the first attempt
// was made, even if a gate refused the next, nor by a call that http.Client makes to follow a
// redirect: the request before it was carried out.
var ErrNotSent = errors.New("nothing was sent")

// errBase is matched by what a base transport does that no RoundTripper may.
var errBase = errors.New("a RoundTripper must return either a response or an error")

// errPanicked is what gates are told became of an attempt during which a hook or the base transport
// panicked.
var errPanicked = errors.New("steadyhttp: panic during the attempt")

// errCycle is the error of a call whose base transport has led back to the Transport over and over.
var errCycle = fmt.Errorf("steadyhttp: Transport.Base leads back to the Transport itself; set it to what really sends: %w", errBase)

// Error is the one type of error: what RoundTrip returns where there is no answer to return, and
// what Check makes of an answer that says no. (A bare tls.RecordHeaderError, which http.Client
// looks for, is the exception.)
type Error struct {
	Verdict // on the last answer; Unclassified if there was none

	StatusCode int           // of the last answer; 0: there was none
	Attempts   int           // made; 0: it ended before the first, or a wrapper hides how many
	Stop       Stop          // why there is no further attempt; "": a wrapper hides it
	Wait       time.Duration // when to try again: the longest that the server or a gate asks for; 0: nobody says
	Ambiguous  bool          // it may have been carried out, and nobody knows: see Attempt.Ambiguous
	Err        error         // what ended the call, wrapping the last attempt's error too; from Check mostly nil

	unsent bool // nothing of the call was ever sent
	proved bool // its last attempt provably never left
	answer bool // made by Check: Err is only why there was no further attempt
}

// Error returns one line with the code, the status, the attempts and the tracking ID. REDACTED
// stands for the userinfo and the query values of URLs in it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("steadyhttp: ")
	if e.isAnswer() {
		e.writeAnswer(&b)
		return b.String()
	}
	b.WriteString(plural(e.Attempts, "attempt"))
	b.WriteString(reason(e.Stop))
	if e.Wait > 0 {
		b.WriteString(" (" + durations.Round(e.Wait).String() + ")")
	}
	switch {
	case e.Code != "":
		b.WriteString(", last answer " + e.Code)
	case e.StatusCode != 0:
		b.WriteString(", last answer " + strconv.Itoa(e.StatusCode))
	}
	if e.TrackingID != "" {
		b.WriteString(", tracking ID " + e.TrackingID)
	}
	if e.Err != nil {
		b.WriteString(": " + e.cause())
	}
	return b.String()
}

// writeAnswer writes what the service has said.
func (e *Error) writeAnswer(b *strings.Builder) {
	switch {
	case e.Code != "":
		fmt.Fprintf(b, "%s (%d)", e.Code, e.StatusCode)
	case http.StatusText(e.StatusCode) != "":
		fmt.Fprintf(b, "%s (%d)", http.StatusText(e.StatusCode), e.StatusCode)
	default:
		fmt.Fprintf(b, "status %d", e.StatusCode)
	}
	if e.Attempts > 0 {
		b.WriteString(" after " + plural(e.Attempts, "attempt"))
	}
	b.WriteString(reason(e.Stop))
	if wait := max(e.Wait, e.RetryAfter); wait > 0 {
		b.WriteString(", retry after " + durations.Round(wait).String())
	}
	if e.TrackingID != "" {
		b.WriteString(", tracking ID " + e.TrackingID)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.Err != nil {
		b.WriteString("; no retry: " + e.cause())
	}
}

// cause is Err's text, without what the sentence around it has said already.
func (e *Error) cause() string {
	err := e.Err
	if p, ok := err.(*prepareError); ok && e.Stop == StopPrepare {
		err = p.err
	}
	text := RedactError(err)
	if _, whole := err.(*Error); whole {
		return text
	}
	return strings.TrimPrefix(text, "steadyhttp: ")
}

// isAnswer reports whether e is about an answer, and not about a call that has none.
func (e *Error) isAnswer() bool { return e.answer || e.Err == nil && e.StatusCode != 0 }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is ErrNotSent and nothing of the call was ever sent.
func (e *Error) Is(target error) bool { return target == ErrNotSent && e.unsent }

// Timeout reports whether a timeout ended the call: an attempt's, MaxElapsed or the context's
// deadline.
func (e *Error) Timeout() bool {
	return e.Stop == StopElapsed || neterr.Timeout(e.Err)
}

// LogValue implements slog.LogValuer: the fields are named as Log names them.
func (e *Error) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 8)
	answer := e.isAnswer()
	if !answer {
		attrs = append(attrs, slog.Int("attempts", e.Attempts))
	}
	if e.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", e.StatusCode))
	}
	attrs = appendVerdict(attrs, e.Code, e.TrackingID)
	if e.Message != "" {
		attrs = append(attrs, slog.String("message", e.Message))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", RedactError(e.Err)))
	}
	wait := e.Wait
	if answer {
		wait = max(wait, e.RetryAfter)
	}
	if wait > 0 {
		attrs = append(attrs, waitAttr(wait))
	}
	if answer && e.Attempts > 0 {
		attrs = append(attrs, slog.Int("attempts", e.Attempts))
	}
	if e.Stop != "" {
		attrs = append(attrs, slog.String("stop", string(e.Stop)))
	}
	if e.Ambiguous {
		attrs = append(attrs, slog.Bool("ambiguous", true))
	}
	return slog.GroupValue(attrs...)
}

// cancelled is the error of a call that its caller ended: the context's cause first, and what the
// last attempt failed of, so that neither hides the other.
type cancelled struct {
	cause error // context.Cause
	ctx   error // context.Canceled or context.DeadlineExceeded
	last  error // the last attempt's, nil if there was none
}

func (e *cancelled) Error() string {
	text := e.cause.Error()
	if both, ok := e.last.(*lateError); ok { // a gate's word, and what the attempt before came to
		return text + e.before(both.err) + e.before(both.last)
	}
	return text + e.before(e.last)
}

// before is how what came before the end reads, "" where that is the end itself.
func (e *cancelled) before(err error) string {
	if err == nil || errors.Is(err, e.ctx) || errors.Is(err, e.cause) {
		return ""
	}
	return "; before that: " + RedactError(err)
}

func (e *cancelled) Unwrap() []error {
	if e.last == nil {
		return []error{e.cause, e.ctx}
	}
	return []error{e.cause, e.ctx, e.last}
}

// lateError is why a retry could not be made, and what it would have been a retry of.
type lateError struct{ err, last error }

func (e *lateError) Error() string   { return e.err.Error() + "; before that: " + RedactError(e.last) }
func (e *lateError) Unwrap() []error { return []error{e.err, e.last} }

// cancelCause tells why ctx ended. A context that has not ended stands for a Request.Cancel that
// was closed. http.Client closes that at its Timeout, and sets the context a deadline for the same
// instant, which may come a little later.
func cancelCause(ctx context.Context) *cancelled {
	switch {
	case ctx.Err() != nil:
		return &cancelled{cause: neterr.Solid("context.Cause", context.Cause(ctx)), ctx: ctx.Err()}
	case ended.Overdue(ctx):
		return &cancelled{cause: context.DeadlineExceeded, ctx: context.DeadlineExceeded}
	}
	return &cancelled{cause: errRequestCancel, ctx: context.Canceled}
}

var errRequestCancel = errors.New("request cancelled by its Cancel channel")

// timeoutError is what one of our own bounds ends with. It is a timeout to net.Error and to
// errors.Is, as net/http's own are; the caller's context is told from it by asking the context,
// never by asking the error.
type timeoutError struct {
	bound string
	after time.Duration
}

func (e *timeoutError) Error() string   { return e.bound + " of " + e.after.String() + " exceeded" }
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }
func (e *timeoutError) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// reason is how a Stop reads within a sentence.
func reason(s Stop) string {
	switch s {
	case "", StopDone, StopPermanent:
		return "" // the code says it
	case StopAttempts:
		return ", no attempts left"
	case StopBudget:
		return ", budget spent"
	case StopElapsed:
		return ", time elapsed"
	case StopPrepare:
		return ", prepare failed"
	case StopBodyNotReplayable:
		return ", body not replayable (set Request.GetBody or Policy.MaxBuffer)"
	}
	return ", " + strings.ReplaceAll(string(s), "_", " ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// RedactError returns err's text, on one bounded line, without the secrets of the URLs that it wraps,
// or prints with their scheme, and of a header's line that net/http could not read. A base transport
// that is a client of its own puts the whole URL into its *url.Error, and API keys live in queries
// (CVE-2024-6104). "" for nil.
func RedactError(err error) string { return redact.Error(err) }

// RedactURL returns u for people to read: REDACTED stands for its userinfo and for the values of its
// query and of its path's parameters (";jsessionid=…"), and its fragment is left out. It is all of a
// URL that ever enters a log line or an error of ours; a span shows some values of a query more, see
// steadyotel.Config.RedactQuery. "" for nil.
func RedactURL(u *url.URL) string { return redact.URL(u) }

// What ErrorType calls a failure for which there is no status. The list is closed: it ends up on
// metrics.
const (
	typeTimeout    = "timeout"
	typeCancelled  = "cancelled"
	typeRefused    = "refused"
	typePrepare    = "prepare"
	typeBody       = "request body"
	typeDNS        = "dns"
	typeConnect    = "connect"
	typeTLS        = "tls"
	typeConnection = "connection"
	typeOther      = "_OTHER" // OpenTelemetry's word
)

// ErrorType returns the kind of failure for OpenTelemetry's attribute error.type, which otelhttp
// and others ask for by this method. It is one of
//
//	"timeout"       AttemptTimeout, MaxElapsed or a deadline ended it. A wait that was not begun, since it would have been
//	                too long, does not count: then it is the kind of the failure before it
//	"cancelled"     the caller ended the call
//	"refused"       a Gate said no
//	"prepare"       Transport.Prepare failed
//	"request body"  the caller's own body could not be read ahead, or not be had again
//	"dns"           the host's name was not resolved
//	"connect"       there was no connection to be had
//	"tls"           the two ends did not agree on a secure one
//	"connection"    it was lost
//	"_OTHER"        anything else
//
// and for an answer its status, as OpenTelemetry has it: "404". The code says more, but only who
// knows all codes of a service can vouch that there are few.
func (e *Error) ErrorType() string {
	switch {
	case e.isAnswer():
		return typeOfStatus(e.StatusCode)
	case e.Stop == StopRefused:
		return typeRefused
	case e.Stop == StopPrepare:
		return typePrepare
	}
	return typeOfError(e.Err)
}

func typeOfError(err error) string {
	// Ours come first: they say what ended the call, and wrap what it ended. A context.Canceled
	// that is not the caller's is the base transport's own, and anything.
	if ended, ok := errors.AsType[*cancelled](err); ok {
		if ended.ctx == context.DeadlineExceeded {
			return typeTimeout
		}
		return typeCancelled
	}
	switch {
	case neterr.Is[*prepareError](err):
		return typePrepare
	case neterr.Is[*bodyError](err):
		return typeBody
	case neterr.Timeout(err):
		return typeTimeout
	case neterr.Is[*Refusal](err):
		return typeRefused
	case neterr.Is[*net.DNSError](err):
		return typeDNS
	case neterr.Distrust(err), neterr.Is[tls.AlertError](err):
		return typeTLS
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		switch op.Op {
		case "dial", "proxyconnect", "socks connect":
			return typeConnect
		case "remote error", "local error": // an alert of crypto/tls, whose type is not exported
			return typeTLS
		}
		return typeConnection
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errno.Lost(err) {
		return typeConnection
	}
	return typeOther
}

// typeOfStatus keeps to the registered statuses: a server can answer with any number.
func typeOfStatus(status int) string {
	switch {
	case http.StatusText(status) != "":
		return strconv.Itoa(status)
	case 400 <= status && status <= 599:
		return strconv.Itoa(status/100) + "xx"
	}
	return typeOther
}

type prepareError struct{ err error }

func (e *prepareError) Error() string { return "Prepare: " + RedactError(e.err) }

func (e *prepareError) Unwrap() error { return e.err }

// bodyError is a failure of the caller's own body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "steadyhttp: reading the request's body: " + e.err.Error() }

func (e *bodyError) Unwrap() error { return e.err }

// Refusal is what a Gate returns to say no.
type Refusal struct {
	Wait time.Duration // how long the call would have had to wait, at least; a job queue can put it off for that long. 0: unknown
	Err  error         // why, in a few words; nil: no more is to be said
}

// Error returns Err's text.
func (r *Refusal) Error() string {
	if r == nil || r.Err == nil { // nil: a Gate's error that holds no Refusal, and is none itself
		return "a gate said no"
	}
	return r.Err.Error()
}

// Unwrap returns Err.
func (r *Refusal) Unwrap() error {
	if r == nil {
		return nil
	}
	return r.Err
}

// tooLate refuses a wait that the context would cut short.
func tooLate(needs, left time.Duration) *Refusal {
	return &Refusal{Wait: needs, Err: &durations.TooLate{Needs: needs, Left: left}}
}

func appendVerdict(attrs []slog.Attr, code, trackingID string) []slog.Attr {
	if code != "" {
		attrs = append(attrs, slog.String("code", code))
	}
	if trackingID != "" {
		attrs = append(attrs, slog.String("tracking_id", trackingID))
	}
	return attrs
}

// waitAttr is in seconds, as all durations of OpenTelemetry are: a log and a span must not have two
// units for the same wait. A slog.Duration is nanoseconds in JSON.
func waitAttr(d time.Duration) slog.Attr { return slog.Float64("wait", d.Seconds()) }

// veiled is an error whose chain can be asked for all but what it hides. errors.Is walks a chain by
// itself and can't be told otherwise, hence there is no Unwrap.
type veiled struct{ err error }

func (v *veiled) Error() string { return RedactError(v.err) }

func (v *veiled) Is(target error) bool { return target != ErrNotSent && errors.Is(v.err, target) }

func (v *veiled) As(target any) bool {
	if _, hidden := target.(**Error); hidden {
		return false
	}
	return errors.As(v.err, target)
}
