package steadyotel

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
)

// attributes makes the attributes of spans and events. Names and meanings are those of the semantic
// conventions 1.43 (docs/http, docs/general). Where these have none, the names begin with
// steadyhttp: a name in somebody else's namespace may get another meaning there
// (docs/general/naming.md).
type attributes struct {
	route        func(*http.Request) string
	rules        *steadyhttp.Rules
	redactQuery  bool
	target, code attribute.Key
	failures     *sync.Mutex // held while a span that several calls share gets one's failure
}

func newAttributes(c Config) attributes {
	a := attributes{
		route: c.Route, rules: c.Rules, redactQuery: c.RedactQuery, target: c.TargetKey, code: c.CodeKey,
		failures: new(sync.Mutex),
	}
	if a.rules == nil {
		a.rules = &steadyhttp.Rules{}
	}
	if a.target == "" {
		a.target = "steadyhttp.error.target"
	}
	if a.code == "" {
		a.code = "steadyhttp.error.code"
	}
	return a
}

// attemptName is "GET" or "GET /api/machines/{id}". It never has the path itself: backends group
// spans by name.
func (a *attributes) attemptName(req *http.Request) string {
	name := methodName(req.Method)
	if template := a.template(req); template != "" {
		name += " " + template
	}
	return name
}

// callName must not look like an attempt's name. A call's span is no HTTP span: it has no status,
// and there may have been no request.
func (a *attributes) callName(req *http.Request) string { return "call " + a.attemptName(req) }

// template returns the path's template, "" if it is not known. In the conventions url.template is
// opt-in: who sets a Route opts in.
func (a *attributes) template(req *http.Request) string {
	if a.route == nil {
		return ""
	}
	return text(a.route(req))
}

// ofRequest appends what is known before the request is sent, so that the sampler sees it.
func (a *attributes) ofRequest(
	attrs []attribute.KeyValue, req *http.Request, server string, port, resends int,
) []attribute.KeyValue {
	template := a.template(req)
	if attrs == nil {
		n := 4
		if template != "" || resends > 0 {
			n = 6 // an attribute is large, and most requests have neither
		}
		attrs = make([]attribute.KeyValue, 0, n)
	}
	attrs = append(attrs,
		semconv.HTTPRequestMethodKey.String(method(req.Method)),
		semconv.ServerAddress(server),
		semconv.ServerPort(port),
		semconv.URLFull(text(fullURL(req.URL, a.redactQuery))))
	if method(req.Method) == other {
		// Spans may have any method; only a metric's labels must be a closed set.
		attrs = append(attrs, semconv.HTTPRequestMethodOriginal(text(req.Method)))
	}
	if template != "" {
		attrs = append(attrs, semconv.URLTemplate(template))
	}
	if resends > 0 {
		attrs = append(attrs, resendCount(resends))
	}
	return attrs
}

// ofResponse appends what is known once the response headers are there. It copies none of them: they
// may be secrets.
func (a *attributes) ofResponse(attrs []attribute.KeyValue, attempt *steadyhttp.Attempt) []attribute.KeyValue {
	attrs = append(attrs, semconv.HTTPResponseStatusCode(attempt.Response.StatusCode))
	if version := protocolVersion(attempt.Response); version != "" {
		attrs = append(attrs, semconv.NetworkProtocolVersion(version))
	}
	if attempt.Sends > 1 {
		// net/http has replayed it within the attempt.
		attrs = append(attrs, attribute.Int("steadyhttp.sends", attempt.Sends))
	}
	if v := attempt.Verdict; v.Class == steadyhttp.Success && v.Message != "" {
		// No service's free text: what Classify says of a success, as of a 206 that lacks a part.
		attrs = append(attrs, attribute.String("steadyhttp.warning", text(v.Message)))
	}
	return attrs
}

// ofRetry returns the attributes of the event steadyhttp.retrying.
func (a *attributes) ofRetry(resends int, attempt *steadyhttp.Attempt) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 6)
	attrs = append(attrs, resendCount(resends), wait(attempt.Wait), delaySource(source(attempt)),
		semconv.ErrorTypeKey.String(a.errorType(attempt)))
	return a.appendVerdict(attrs, attempt.Verdict)
}

// ofEnd returns the attributes of the event steadyhttp.giving_up.
func (a *attributes) ofEnd(errorType string, attempt *steadyhttp.Attempt) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 5)
	attrs = append(attrs, attempts(attempt.N), stop(attempt.Stop),
		semconv.ErrorTypeKey.String(errorType))
	return a.appendVerdict(attrs, attempt.Verdict)
}

// told reports whether the service has said what went wrong.
func told(v steadyhttp.Verdict) bool { return v.Code != "" || v.TrackingID != "" }

// setVerdict puts the service's code and tracking ID on an attempt's span. Its message stays away:
// that may name a machine or a user.
func (a *attributes) setVerdict(span trace.Span, v steadyhttp.Verdict, lent bool) {
	if told(v) {
		a.replace(span, a.appendVerdict(nil, v), v, lent)
	}
}

// setFailure puts the code and the tracking ID of one failure on the span around a call's attempts,
// and which attempt's they are.
func (a *attributes) setFailure(span trace.Span, f failure, lent bool) {
	if told(f.verdict) || lent && f.attempt != 0 {
		attrs := a.appendVerdict(make([]attribute.KeyValue, 0, 4), f.verdict)
		a.replace(span, append(attrs, attribute.Int("steadyhttp.error.attempt", f.attempt)), f.verdict, lent)
	}
}

// setCallersFailure does so on the caller's span, which may have an earlier call's.
func (a *attributes) setCallersFailure(span trace.Span, f failure) {
	if !told(f.verdict) {
		return
	}
	a.failures.Lock()
	defer a.failures.Unlock()
	if f.verdict.TrackingID == "" {
		if shown, _ := a.shownBy(span); shown.TrackingID != "" {
			return // an ID is worth more than a code, which the event has
		}
	}
	attrs := a.appendVerdict(make([]attribute.KeyValue, 0, 4), f.verdict)
	attrs = append(attrs, attribute.Int("steadyhttp.error.attempt", f.attempt))
	span.SetAttributes(a.emptied(span, attrs, f.verdict)...)
}

// replace sets attrs, which have v. A span that was lent to a call within this one, Prepare's for a
// token for example, may have that one's failure.
func (a *attributes) replace(span trace.Span, attrs []attribute.KeyValue, v steadyhttp.Verdict, lent bool) {
	if lent {
		a.failures.Lock()
		defer a.failures.Unlock()
		n := len(attrs)
		if attrs = a.emptied(span, attrs, v); len(attrs) == n && !told(v) {
			return
		}
	}
	span.SetAttributes(attrs...)
}

// emptied appends what takes back that of another failure which v does not replace: the code of one
// failure must never stand beside the ID of another. An attribute can only be emptied.
func (a *attributes) emptied(span trace.Span, attrs []attribute.KeyValue, v steadyhttp.Verdict) []attribute.KeyValue {
	if v.Code != "" && v.TrackingID != "" {
		return attrs
	}
	shown, known := a.shownBy(span)
	if v.Code == "" && (shown.Code != "" || !known) {
		attrs = append(attrs, a.code.String(""))
	}
	if v.TrackingID == "" && (shown.TrackingID != "" || !known) {
		attrs = append(attrs, a.target.String(""))
	}
	return attrs
}

// shownBy returns what a span has of an earlier call. Only the SDK's spans can be asked; of any
// other it is not known.
func (a *attributes) shownBy(span trace.Span) (v steadyhttp.Verdict, known bool) {
	readable, known := span.(interface{ Attributes() []attribute.KeyValue })
	if !known {
		return v, false
	}
	for _, kv := range readable.Attributes() {
		switch kv.Key {
		case a.code:
			v.Code = kv.Value.AsString()
		case a.target:
			v.TrackingID = kv.Value.AsString()
		}
	}
	return v, true
}

func (a *attributes) appendVerdict(attrs []attribute.KeyValue, v steadyhttp.Verdict) []attribute.KeyValue {
	if v.Code != "" {
		attrs = append(attrs, a.code.String(text(v.Code)))
	}
	if v.TrackingID != "" {
		attrs = append(attrs, a.target.String(text(v.TrackingID)))
	}
	return attrs
}

// errorType returns how an attempt failed, "" if it did not: the service's code if the Rules list
// it, else the status, else what steadyhttp.Error.ErrorType calls it.
func (a *attributes) errorType(attempt *steadyhttp.Attempt) string {
	// With an answer of its own, an error only says why there was no further attempt.
	answered := attempt.Response != nil && attempt.Response.StatusCode >= 400
	switch {
	case attempt.Err != nil && !answered:
		return (&steadyhttp.Error{Stop: attempt.Stop, Err: attempt.Err}).ErrorType()
	case attempt.Response == nil || attempt.Verdict.Class == steadyhttp.Success:
		return ""
	}
	if _, known := a.rules.ByCode[attempt.Verdict.Code]; known && attempt.Verdict.Code != "" {
		return attempt.Verdict.Code
	}
	return (&steadyhttp.Error{StatusCode: attempt.Response.StatusCode}).ErrorType()
}

// resendCount is how often the request was sent before. By the conventions a span has it from 1 on;
// an event has also the 0, to say which attempt it is about.
func resendCount(n int) attribute.KeyValue { return semconv.HTTPRequestResendCount(n) }
func attempts(n int) attribute.KeyValue    { return attribute.Int("steadyhttp.attempts", n) }

// stop has the words of Stop's constants, as the log has them.
func stop(s steadyhttp.Stop) attribute.KeyValue {
	return attribute.String("steadyhttp.stop", string(s))
}

// wait is in seconds, as all durations in OpenTelemetry.
func wait(d time.Duration) attribute.KeyValue {
	return attribute.Float64("steadyhttp.wait", d.Seconds())
}

func waitCause(c steadyhttp.WaitCause) attribute.KeyValue {
	return attribute.String("steadyhttp.wait.cause", string(c))
}

// source says where the wait before a retry comes from: in the words of a WaitCause, but for a 401.
func source(a *steadyhttp.Attempt) string {
	switch {
	case a.Verdict.Class == steadyhttp.Unauthorized:
		return "credentials" // new ones need no wait
	case a.ServerAsked:
		return string(steadyhttp.WaitServer)
	}
	return string(steadyhttp.WaitBackOff)
}

func delaySource(source string) attribute.KeyValue {
	return attribute.String("steadyhttp.delay.source", source)
}

// method returns a known method as it is, any other as _OTHER: a label must be one of a closed set.
func method(name string) string {
	switch name {
	case "":
		return http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY":
		return name
	}
	return other
}

// methodName returns the method for a span's name. The conventions want HTTP for an unknown one.
func methodName(name string) string {
	if known := method(name); known != other {
		return known
	}
	return "HTTP"
}

// server returns the host that the request says it is for, and its port: those of the Host header
// or of :authority, which need not be the URL's. Where there is no port, it is the scheme's: a
// client's span must have one. The name's letter case makes no difference (RFC 9110 section 4.2.3),
// and a nextLink may have another than the program: it is shown in lower case, but for the zone of
// an IPv6 address. Userinfo is for no host, and may be a secret.
func server(req *http.Request) (address string, port int) {
	host := url.URL{Host: req.Host}
	if req.Host == "" {
		host.Host = req.URL.Host
	}
	if at := strings.LastIndexByte(host.Host, '@'); at >= 0 {
		host.Host = host.Host[at+1:]
	}
	address = text(host.Hostname())
	if !strings.Contains(address, "%") {
		address = strings.ToLower(address)
	}
	switch written := host.Port(); {
	case written != "":
		n, err := strconv.Atoi(written)
		if err != nil {
			n = 0 // net/http will refuse it
		}
		return address, n
	case req.URL.Scheme == "http":
		return address, 80
	}
	return address, 443
}

// protocolVersion returns "1.1", "2" or "3", as the conventions write them.
func protocolVersion(resp *http.Response) string {
	switch {
	case resp.ProtoMajor == 1 && resp.ProtoMinor == 1:
		return "1.1"
	case resp.ProtoMajor == 1 && resp.ProtoMinor == 0:
		return "1.0"
	case resp.ProtoMajor == 2, resp.ProtoMajor == 3:
		return strconv.Itoa(resp.ProtoMajor)
	}
	return ""
}

// maxText bounds, in bytes, each text that comes from a caller or a server.
const maxText = 2048

// text bounds a string and makes it UTF-8. A string that is not would make protobuf refuse the
// whole batch of spans.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		for range utf8.UTFMax - 1 { // drop the rest of a cut rune
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	if utf8.ValidString(s) {
		return s // as nearly all is: this looks at eight bytes at a time
	}
	return strings.ToValidUTF8(s, "?")
}
