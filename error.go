package steadyhttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ended"
)

// ErrNotSent is matched by the errors of calls of which nothing was ever sent: a Gate refused the
// first attempt, the call ended while it waited for that, or Prepare failed. Who puts such a call
// back in a queue may rely on it: Error.Is alone decides. It is not matched once the first attempt
// was made, even if a gate refused the next, nor by a call that http.Client makes to follow a
// redirect: the request before it was carried out.
var ErrNotSent = errors.New("nothing was sent")

// flat hides in an error of a call that was sent what could be taken for one that was not: the
// error of a Transport below this one.
func flat(err error) error {
	if inner, ok := err.(*Error); ok {
		err = inner.Err
	}
	if errors.Is(err, ErrNotSent) || is[*Error](err) {
		return &veiled{err}
	}
	return err
}

// veiled is an error whose chain can be asked for all but what it hides. errors.Is walks a chain by
// itself and can't be told otherwise, hence there is no Unwrap.
type veiled struct{ err error }

func (v *veiled) Error() string        { return RedactError(v.err) }
func (v *veiled) Is(target error) bool { return target != ErrNotSent && errors.Is(v.err, target) }

func (v *veiled) As(target any) bool {
	if _, hidden := target.(**Error); hidden {
		return false
	}
	return errors.As(v.err, target)
}

// errBase is matched by what a base transport does that no RoundTripper may.
var errBase = errors.New("a RoundTripper must return either a response or an error")

// examine classifies a response by its own, and keeps the verdict with it for the next Check.
func examine(resp *http.Response) Verdict {
	if known := standInOf(resp); known != nil {
		return known.attempt.Verdict
	}
	a := Attempt{Request: resp.Request, Response: resp}
	if resp.Body == nil || resp.Body == http.NoBody {
		return (&Rules{}).Classify(a)
	}
	body := &responseBody{rc: resp.Body}
	a.Body = body.peek(resp, peekTime)
	body.attempt.Verdict = (&Rules{}).Classify(a)
	resp.Body = body.standIn()
	return body.attempt.Verdict
}

// errPanicked is what gates are told became of an attempt during which a hook or the base transport
// panicked.
var errPanicked = errors.New("steadyhttp: panic during the attempt")

// errCycle is the error of a call whose base transport has led back to the Transport over and over.
var errCycle = fmt.Errorf("steadyhttp: Transport.Base leads back to the Transport itself; set it to what really sends: %w", errBase)

func baseError(base http.RoundTripper) error {
	return fmt.Errorf("steadyhttp: Transport.Base (%T) returned neither: %w", base, errBase)
}

func misjudgement(a *Attempt) error {
	answer := "a transport error"
	if a.Response != nil {
		answer = fmt.Sprintf("status %d, code %q, tracking ID %q", a.Response.StatusCode, a.Verdict.Code, a.Verdict.TrackingID)
	}
	err := fmt.Errorf("steadyhttp: Transport.Classify gave %v for %s; use Success, Permanent, Transient, Throttled or Unauthorized (Rules.Validate names the entry)", a.Verdict.Class, answer)
	if a.Err != nil {
		err = fmt.Errorf("%w: %w", err, a.Err)
	}
	return err
}

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
		b.WriteString(": " + RedactError(e.Err))
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
		b.WriteString("; no retry: " + RedactError(e.Err))
	}
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
	return e.Stop == StopElapsed || isTimeout(e.Err)
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
		attrs = append(attrs, slog.Duration("wait", wait))
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

// Check returns nil for a response below 400, else an *Error. It does not close the body, and what
// it reads of it can be read again, so it works behind wrappers. Of a response that did not come
// from a Transport, or whose wrapper hides that, it reads at most 64 KiB, for at most a second.
func Check(resp *http.Response) error {
	if resp == nil {
		return errors.New("steadyhttp: Check of a nil response; check the error of Do first")
	}
	if resp.StatusCode < 400 {
		return nil
	}
	e := &Error{StatusCode: resp.StatusCode, answer: true}
	a, ok := AttemptOf(resp)
	if ok {
		e.Verdict, e.Attempts, e.Stop, e.Ambiguous = a.Verdict, a.N, a.Stop, a.Ambiguous
	} else {
		e.Verdict = examine(resp)
		if req := resp.Request; req != nil && !safe(req.Method) {
			e.Ambiguous = resp.StatusCode >= 500 || (&Policy{}).idempotent(req)
		}
	}
	e.Wait = max(0, e.RetryAfter)
	if a.late {
		e.Err = a.Err
		if refusal, ok := errors.AsType[*Refusal](a.Err); ok {
			e.Wait = max(e.Wait, refusal.Wait)
		}
	}
	return e
}

// cancelled is the error of a call that its caller ended: the context's cause first, and what the
// last attempt failed of, so that neither hides the other.
type cancelled struct {
	cause error // context.Cause
	ctx   error // context.Canceled or context.DeadlineExceeded
	last  error // the last attempt's, nil if there was none
}

func (e *cancelled) Error() string {
	if e.last == nil || errors.Is(e.last, e.ctx) || errors.Is(e.last, e.cause) {
		return e.cause.Error()
	}
	return e.cause.Error() + "; before that: " + RedactError(e.last)
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
func cancelCause(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return &cancelled{cause: context.Cause(ctx), ctx: ctx.Err()}
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

// RedactError returns err's text, on one bounded line, without the secrets of the URLs that it
// wraps. A base transport that is a client of its own puts the whole URL into its *url.Error, and
// API keys live in queries (CVE-2024-6104). "" for nil.
func RedactError(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	urls := urlsIn(err, nil)
	// The longest first: one may be the beginning of another.
	slices.SortFunc(urls, func(a, b string) int { return len(b) - len(a) })
	for _, secret := range urls {
		safe := redactString(secret)
		// *url.Error prints the URL quoted.
		text = strings.ReplaceAll(text, quoteInner(secret), safe)
		text = strings.ReplaceAll(text, secret, safe)
	}
	// Some of net/http's errors quote what the server sent.
	return clean(text, maxErrorText)
}

// urlsIn collects the URLs of all errors that err wraps.
func urlsIn(err error, urls []string) []string {
	if inner, ok := err.(*url.Error); ok && inner.URL != "" {
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

func redactString(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return redactUnparsable(s)
	}
	return RedactURL(u)
}

// redactUnparsable keeps what can't be a secret however s is read: nothing from a query on, and
// nothing before an "@". With an "@" behind the first "?" or "#", nobody knows whether that is a
// query or a password.
func redactUnparsable(s string) string {
	head := s
	if end := strings.IndexAny(s, "?#"); end >= 0 {
		if strings.Contains(s[end:], "@") {
			return "REDACTED"
		}
		head = s[:end]
	}
	if at := strings.LastIndexByte(head, '@'); at >= 0 {
		head = "REDACTED" + head[at:]
	}
	return clean(head, maxMessage)
}

// RedactURL returns u for people to read: REDACTED stands for its userinfo and for the values of
// its query, and its fragment is left out. It is all of a URL that ever enters a log line, an error
// or a span of ours. "" for nil.
func RedactURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if u.User != nil {
		// OpenTelemetry's form, so that a span's url.full and a log line have the same text.
		shown.User = url.UserPassword("REDACTED", "REDACTED")
	}
	if u.Opaque != "" {
		shown.Opaque = "REDACTED"
	}
	text := shown.String()
	if u.RawQuery == "" {
		return clean(text, maxMessage)
	}
	var b strings.Builder
	b.Grow(len(text) + min(len(u.RawQuery), maxMessage) + 2*len("=REDACTED"))
	b.WriteString(text)
	separator := byte('?')
	for rest := u.RawQuery; rest != "" && b.Len() <= maxMessage; separator = '&' {
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
	return clean(b.String(), maxMessage)
}
