package steadyotel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/otel"
	"github.com/steadyhttp/steadyhttp/quota"
)

// faultsCanary begins every secret of this file. None of them may be seen anywhere.
const faultsCanary = "canary"

// What spans, events and metrics may say, in full. A key that is not here is one whose values
// nobody has thought about.
const (
	faultsSpanKeys = " http.request.method http.request.method_original server.address server.port url.full url.template" +
		" http.request.resend_count http.response.status_code network.protocol.version error.type" +
		" steadyhttp.sends steadyhttp.error.code steadyhttp.error.target steadyhttp.error.attempt steadyhttp.attempts steadyhttp.stop "
	faultsEventKeys = " http.request.resend_count steadyhttp.wait steadyhttp.wait.cause steadyhttp.delay.source error.type" +
		" steadyhttp.error.code steadyhttp.error.target steadyhttp.attempts steadyhttp.stop "
	faultsEvents     = " steadyhttp.retrying steadyhttp.waited steadyhttp.giving_up "
	faultsStops      = " done permanent not_idempotent body_not_replayable attempts elapsed wait_too_long deadline budget refused prepare cancelled "
	faultsMetricKeys = " http.request.method steadyhttp.outcome error.type steadyhttp.delay.source steadyhttp.wait.cause steadyhttp.quota.name" +
		" steadyhttp.quota.window server.address server.port http.response.status_code network.protocol.version url.template "
)

// faultsSeries is the most that all instruments together may come to, whatever servers and callers
// do.
const faultsSeries = 200

func faultsListed(list, name string) bool { return strings.Contains(list, " "+name+" ") }

// faultsWatch looks at all that is recorded as it goes by: 100,000 calls are too many to be kept.
type faultsWatch struct {
	t *testing.T

	started, ended  atomic.Int64 // spans, as the tracer was asked for them
	onStart, onEnd  atomic.Int64 // spans, as the SDK tells of them
	callers         atomic.Int64 // spans that the callers had
	begun, done     atomic.Int64 // calls, as the Transport's hooks tell of them
	unclosed        atomic.Int64 // bodies that were given up
	records, errors atomic.Int64 // log records and errors of ours that were looked at
	events, red     atomic.Int64 // of spans
	redacted        atomic.Int64 // URLs whose secrets were left out
	tracked         atomic.Int64 // spans with a tracking ID

	mu    sync.Mutex // guards what follows
	names map[string]int
	keys  map[string]int   // attributes of spans and events
	types map[string]int   // of errors
	stops map[string]int   // on the spans of calls
	left  map[string]int64 // of what is counted up and down
}

// text fails the test for what must not leave the process: a secret, or what a collector would
// refuse.
func (w *faultsWatch) text(where, s string) {
	if strings.Contains(s, faultsCanary) {
		w.t.Errorf("a secret in %s: %q", where, s)
	}
	if !utf8.ValidString(s) {
		w.t.Errorf("%s is not UTF-8: %q", where, s)
	}
}

func (w *faultsWatch) attributes(where, listed string, attrs []attribute.KeyValue) {
	for _, a := range attrs {
		if !faultsListed(listed, string(a.Key)) {
			w.t.Errorf("%s has the unknown attribute %s = %s", where, a.Key, a.Value.String())
		}
		switch a.Value.Type() {
		case attribute.STRING:
			w.text(where+"'s "+string(a.Key), a.Value.AsString())
			if n := len(a.Value.AsString()); n > 3*2048 { // what is replaced may grow threefold
				w.t.Errorf("%s has a %s of %d bytes", where, a.Key, n)
			}
		case attribute.INT64, attribute.FLOAT64:
		default:
			w.t.Errorf("%s has %s of the type %v", where, a.Key, a.Value.Type())
		}
	}
}

func (w *faultsWatch) OnStart(context.Context, sdktrace.ReadWriteSpan) { w.onStart.Add(1) }
func (w *faultsWatch) Shutdown(context.Context) error                  { return nil }
func (w *faultsWatch) ForceFlush(context.Context) error                { return nil }

func (w *faultsWatch) OnEnd(span sdktrace.ReadOnlySpan) {
	w.onEnd.Add(1)
	w.text("a span's name", span.Name())
	w.text("a span's status", span.Status().Description)
	w.attributes("a span", faultsSpanKeys, span.Attributes())
	for _, e := range span.Events() {
		w.events.Add(1)
		if !faultsListed(faultsEvents, e.Name) {
			w.t.Errorf("the unknown event %q", e.Name)
		}
		w.attributes("the event "+e.Name, faultsEventKeys, e.Attributes)
	}
	if len(span.Links()) > 0 || span.DroppedAttributes() > 0 {
		w.t.Errorf("a span with %d links, and %d attributes dropped", len(span.Links()), span.DroppedAttributes())
	}
	if span.Status().Code == codes.Error {
		w.red.Add(1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[span.Name()]++
	for _, a := range span.Attributes() {
		w.keys[string(a.Key)]++
		switch {
		case a.Key == "url.full" && strings.Contains(a.Value.AsString(), "REDACTED"):
			w.redacted.Add(1)
		case a.Key == "steadyhttp.error.target":
			w.tracked.Add(1)
		case a.Key == "error.type":
			w.types[a.Value.AsString()]++
		case a.Key == "steadyhttp.stop":
			w.stops[a.Value.AsString()]++
		}
	}
	for _, e := range span.Events() {
		for _, a := range e.Attributes {
			w.keys[string(a.Key)]++
		}
	}
}

// Write takes the log's records, one at a time.
func (w *faultsWatch) Write(record []byte) (int, error) {
	w.records.Add(1)
	w.text("a log record", string(record))
	if bytes.Count(record, []byte("\n")) != 1 {
		w.t.Errorf("a record of several lines: %q", record)
	}
	return len(record), nil
}

// error looks at an error, if it is one of ours: the first attempt's own is returned as it was. The
// service's message is on purpose in the text of Check's error, and in the fields of any.
func (w *faultsWatch) error(err error) {
	if ours, ok := errors.AsType[*steadyhttp.Error](err); ok {
		w.errors.Add(1)
		said, fields := ours.Error(), ours.LogValue().String()
		// A body that broke off has only the beginning of the message.
		message := faultsMessage[:min(len(faultsMessage), len(ours.Message))]
		if strings.HasPrefix(ours.Message, message) {
			fields = strings.Replace(fields, " message="+message, " message=", 1)
			if ours.StatusCode != 0 {
				said = strings.Replace(said, ": "+message, ": ", 1)
			}
		}
		w.text("an Error", said)
		w.text("an Error's fields", fields)
		w.text("an Error's type", ours.ErrorType())
	}
}

// faultsProvider is the SDK's, and sees how often each span is ended, which the SDK hides: it
// passes over a second End, and over what is said of a span that has ended.
type faultsProvider struct {
	embedded.TracerProvider
	sdk   trace.TracerProvider
	watch *faultsWatch
}

func (p *faultsProvider) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	return &faultsTracer{sdk: p.sdk.Tracer(name, options...), watch: p.watch}
}

type faultsTracer struct {
	embedded.Tracer
	sdk   trace.Tracer
	watch *faultsWatch
}

func (t *faultsTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	_, span := t.sdk.Start(ctx, name, options...)
	t.watch.started.Add(1)
	watched := &faultsSpan{Span: span, watch: t.watch, name: name}
	return trace.ContextWithSpan(ctx, watched), watched
}

type faultsSpan struct {
	trace.Span
	watch *faultsWatch
	name  string
	over  atomic.Bool
}

func (s *faultsSpan) live(what string) {
	// otelhttp's may be ended by a Close while the body is read: what Annotate says then is lost,
	// and does no harm.
	if s.over.Load() && s.name != "otelhttp" {
		s.watch.t.Errorf("%s of the span %q after its end", what, s.name)
	}
}

func (s *faultsSpan) SetAttributes(attrs ...attribute.KeyValue) {
	s.live("SetAttributes")
	s.Span.SetAttributes(attrs...)
}

func (s *faultsSpan) AddEvent(name string, options ...trace.EventOption) {
	s.live("AddEvent")
	s.Span.AddEvent(name, options...)
}

func (s *faultsSpan) SetStatus(code codes.Code, description string) {
	s.live("SetStatus")
	s.Span.SetStatus(code, description)
}

func (s *faultsSpan) End(options ...trace.SpanEndOption) {
	if s.over.Swap(true) {
		s.watch.t.Errorf("the span %q was ended twice", s.name)
	}
	s.watch.ended.Add(1)
	s.Span.End(options...)
}

// Secrets, in all the places that have some.
const (
	faultsMessage  = faultsCanary + "Message" // of the service's envelope: for errors, and for nothing else
	faultsPanic    = faultsCanary + "Panic"
	faultsUserinfo = faultsCanary + "User:" + faultsCanary + "Password@"
	faultsQuery    = "?key=" + faultsCanary + "Query&$top=7&" + faultsCanary + "Bare&sig=" + faultsCanary + "%2Bsig%22%3D"
	faultsFragment = "#" + faultsCanary + "Fragment"
	faultsURL      = "http://" + faultsUserinfo + "proxy.example/%s" + faultsQuery + faultsFragment
	faultsBadURL   = "http://" + faultsUserinfo + "api.example/%zz" + faultsQuery
)

// faultsDice rolls for one worker.
type faultsDice struct{ *rand.Rand }

func (d faultsDice) percent(n int) bool { return d.IntN(100) < n }

func (d faultsDice) upTo(most time.Duration) time.Duration {
	return time.Duration(d.Int64N(int64(most)))
}

func faultsOneOf[T any](d faultsDice, of ...T) T { return of[d.IntN(len(of))] }

// junk is what a hostile service puts where a code or an ID is expected. It is remote data that is
// shown, so that it has no secret.
func (d faultsDice) junk() string {
	switch d.IntN(6) {
	case 0:
		return strings.Repeat("long", d.IntN(2000))
	case 1:
		return "line\r\nline\x1b[31m\x00\u2028\u202e"
	case 2:
		return "\xff\xfe broken \xed\xa0\x80"
	case 3:
		return `quote" back\slash {"error":1}` + "<script>"
	case 4:
		return strings.Repeat("\U0001f47e", d.IntN(100))
	}
	return strconv.FormatUint(d.Uint64(), 36) // one of ever so many
}

// secretError is a failure whose text has secrets, as those of a base that is a client of its own.
func (d faultsDice) secretError() error {
	var cause error = faultsOneOf[error](d, io.ErrUnexpectedEOF, io.EOF, syscall.ECONNRESET, context.DeadlineExceeded, context.Canceled,
		&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET},
		&net.DNSError{Err: "no such host", Name: "api.example", IsNotFound: d.percent(50)}, tls.AlertError(40), errors.New("line\nline\xff"))
	switch d.IntN(5) {
	case 0:
		return cause
	case 1:
		return fmt.Errorf("proxy: %w", &url.Error{Op: "Post", URL: faultsURL, Err: cause})
	case 2:
		return errors.Join(cause, &url.Error{Op: "parse", URL: faultsBadURL, Err: cause})
	case 3:
		return &url.Error{Op: "Get", URL: faultsURL, Err: &url.Error{Op: "Get", URL: faultsURL + "&more=" + faultsCanary, Err: cause}}
	}
	return &url.Error{Op: "Get", URL: faultsURL, Err: cause}
}

// faultsBase is a service that does everything wrong, but for what no http.RoundTripper may do to
// its callers: it closes the request's body.
type faultsBase struct{ faultsDice }

func (b faultsBase) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		if b.percent(80) {
			io.Copy(io.Discard, req.Body)
		}
		req.Body.Close()
	}
	if b.percent(30) {
		time.Sleep(b.upTo(300 * time.Millisecond)) // virtual
	}
	switch n := b.IntN(1000); {
	case n < 60:
		return nil, b.secretError()
	case n < 80: // until the caller or a timeout ends it
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	case n < 90:
		panic(faultsPanic)
	case n < 95:
		return nil, nil
	case n < 100:
		return b.answer(req), b.secretError()
	}
	return b.answer(req), nil
}

func (b faultsBase) answer(req *http.Request) *http.Response {
	status := 200
	switch n := b.IntN(100); {
	case n < 20:
		status = 100 + b.IntN(900)
	case n < 40:
		status = faultsOneOf(b.faultsDice, 500, 502, 503, 504, 408, 401)
	case n < 50:
		status = 429
	case n < 62:
		status = faultsOneOf(b.faultsDice, 301, 302, 303, 307, 308)
	case n < 68:
		status = 400 + b.IntN(200)
	}
	resp := &http.Response{
		StatusCode: status, Status: fmt.Sprint(status, " ", faultsCanary, "Status"),
		Proto: "HTTP/1.1", ProtoMajor: b.IntN(5), ProtoMinor: b.IntN(3),
		Header: http.Header{}, Request: req, ContentLength: -1,
	}
	resp.Header.Set("X-Request-Id", faultsCanary+"Header")
	resp.Header.Set("Set-Cookie", "session="+faultsCanary+"Cookie")
	resp.Header.Set("Www-Authenticate", `Bearer realm="`+faultsCanary+`Realm"`)
	switch {
	case status == 429 && b.percent(60), b.percent(5):
		resp.Header.Set("Retry-After", faultsOneOf(b.faultsDice, "0", "1", "7", "59", "3601", "99999999999999999999", "-1", faultsCanary, "Fri, 31 Dec 1999 23:59:59 GMT"))
	case 300 <= status && status < 400 && b.percent(90):
		resp.Header.Set("Location", faultsOneOf(b.faultsDice, "/api/machines"+faultsQuery+faultsFragment, faultsURL, "https://other.example/"+faultsQuery, "", "http://%zz"))
	}
	resp.Body = b.body(req, status)
	return resp
}

func (b faultsBase) body(req *http.Request, status int) io.ReadCloser {
	if b.percent(5) {
		return faultsOneOf(b.faultsDice, io.ReadCloser(http.NoBody), nil)
	}
	content := `{"value":["` + faultsCanary + `Content"]}`
	if status >= 400 {
		codes := defender.Rules().ByCode
		code, target := b.junk(), b.junk()
		if b.percent(50) {
			known := make([]string, 0, len(codes))
			for name := range codes {
				known = append(known, name)
			}
			slices.Sort(known)
			code = known[b.IntN(len(known))]
		}
		switch b.IntN(6) {
		case 0:
			content = fmt.Sprintf(`{"error":{"code":%q,"message":%q,"target":%q}}`, code, faultsMessage, target)
		case 1:
			content = fmt.Sprintf("{\"error\":{\"code\":\"%s\",\"message\":\"%s You can send requests again in %d seconds.\",\"target\":\"%s\",\"details\":[\"%sDetail\"]}}",
				code, faultsMessage, b.IntN(100), target, faultsCanary)
		case 2:
			content = fmt.Sprintf(`{"error":{"code":"UnknownError","message":"%s","innerError":{"date":"%sDate","request-id":"43f4cb08","more":"%s"}}}`, faultsMessage, faultsCanary, faultsCanary)
		case 3:
			content = fmt.Sprintf(`{"statusCode":%d,"message":"%s"}`, status, faultsMessage)
		case 4:
			content = "<html>" + faultsCanary + "Page" + strings.Repeat("<p>busy", b.IntN(20_000))
		}
	}
	body := &faultsBody{Reader: strings.NewReader(content), ctx: req.Context(), closed: make(chan struct{})}
	switch n := b.IntN(100); {
	case n < 8: // breaks off
		body.Reader = io.MultiReader(io.LimitReader(body.Reader, int64(b.IntN(len(content)+1))), faultsFailing{b.secretError()})
	case n < 11: // goes silent
		body.Reader = io.LimitReader(body.Reader, int64(b.IntN(len(content)+1)))
		body.silent = true
	case n < 20: // trickles
		body.pause = b.upTo(700 * time.Millisecond)
	}
	return body
}

type faultsFailing struct{ err error }

func (f faultsFailing) Read([]byte) (int, error) {
	if f.err == io.EOF {
		return 0, io.ErrUnexpectedEOF
	}
	return 0, f.err
}

// faultsBody is a response's body.
type faultsBody struct {
	io.Reader
	ctx    context.Context // of the request: its end ends the body
	pause  time.Duration   // before each Read
	silent bool            // where it would end, nothing more comes
	once   sync.Once
	closed chan struct{}
}

func (b *faultsBody) Read(p []byte) (int, error) {
	if b.pause > 0 {
		time.Sleep(b.pause) // virtual
	}
	n, err := b.Reader.Read(p)
	if err == io.EOF && n == 0 && b.silent {
		select {
		case <-b.closed:
			return 0, http.ErrBodyReadAfterClose
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
	return n, err
}

func (b *faultsBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// faultsGate refuses some, and holds others up.
type faultsGate struct{ faultsDice }

func (g faultsGate) Enter(ctx context.Context, _ steadyhttp.Attempt) (steadyhttp.Pass, error) {
	switch n := g.IntN(1000); {
	case n < 10:
		return nil, g.secretError()
	case n < 20:
		return nil, &steadyhttp.Refusal{Err: g.secretError()}
	case n < 120:
		select {
		case <-time.After(g.upTo(time.Second)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if g.percent(50) {
		return nil, nil
	}
	return steadyhttp.PassFunc(func(steadyhttp.Attempt) {}), nil
}

// faultsTraced stands for an otelhttp.Transport below ours: it makes the spans of the attempts.
type faultsTraced struct {
	base   http.RoundTripper
	tracer trace.Tracer
}

func (t *faultsTraced) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, span := t.tracer.Start(req.Context(), "otelhttp", trace.WithSpanKind(trace.SpanKindClient))
	// As otelhttp does, but also in a panic; called by defer itself, the SDK would record what it
	// was.
	open := false
	defer func() {
		if !open {
			span.End()
		}
	}()
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err == nil && resp != nil && resp.Body != nil {
		open = true
		resp.Body = &faultsTracedBody{ReadCloser: resp.Body, end: sync.OnceFunc(func() { span.End() })}
	}
	return resp, err
}

// faultsTracedBody ends its span with the body, before it is closed.
type faultsTracedBody struct {
	io.ReadCloser
	end func()
}

func (b *faultsTracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

func (b *faultsTracedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

// faultsWorker is one of the program's goroutines, with a Transport of its own.
type faultsWorker struct {
	faultsDice
	watch     *faultsWatch
	transport *steadyhttp.Transport
	client    *http.Client
	program   trace.Tracer
	otelhttp  bool // makes the spans of the attempts
}

// faultsKinds is how many kinds of Transports there are.
const faultsKinds = 6

func newFaultsWorker(n int, w *faultsWatch, c steadyotel.Config, limit *quota.Quota) *faultsWorker {
	dice := faultsDice{rand.New(rand.NewPCG(7, uint64(n)))}
	k := &faultsWorker{faultsDice: dice, watch: w, program: c.TracerProvider.Tracer("program")}
	// net/http may call a base from several goroutines, and the bodies are read on those of the
	// Transport. Each attempt has its own dice, so that they need no lock.
	var base http.RoundTripper = faultsFunc(func(req *http.Request) (*http.Response, error) {
		return faultsBase{faultsDice{rand.New(rand.NewPCG(dice.Uint64(), 0))}}.RoundTrip(req)
	})
	t := &steadyhttp.Transport{
		Policy: steadyhttp.Policy{AttemptTimeout: 2 * time.Second, IdleTimeout: time.Second},
		Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", "Bearer "+faultsCanary+"Token")
			if dice.IntN(100) == 0 {
				return dice.secretError()
			}
			return nil
		},
		Gates: []steadyhttp.Gate{faultsGate{dice}},
	}
	switch n % faultsKinds {
	case 0: // the first: everything as it comes
	case 1:
		t.Policy.Budget = &steadyhttp.Budget{Max: -1}
		t.Policy.MaxAttempts, t.Policy.MaxElapsed = 8, 10*time.Second
		t.Classify = defender.Rules().Classify
		c.CallSpan = steadyotel.CallSpanAlways
	case 2:
		t.Policy = steadyhttp.Batch()
		t.Policy.AttemptTimeout, t.Policy.IdleTimeout, t.Policy.MaxElapsed = time.Second, time.Second, 5*time.Minute
		t.Gates = append(t.Gates, limit)
		t.Classify = defender.Rules().Classify
	case 3:
		t.Policy.MaxRead, t.Policy.MaxBuffer, t.Policy.IdempotencyKey = 1<<10, 4, true
		c.CallSpan = steadyotel.CallSpanNever
	case 4:
		c.NoAttemptSpans, k.otelhttp = true, true
		base = &faultsTraced{c.Annotate(base), c.TracerProvider.Tracer("otelhttp")}
	case 5:
		t.Policy.MaxAttempts = 1
		t.Gates, t.Prepare = nil, nil
	}
	t.Base = base
	t.Trace = steadyhttp.Join(
		steadyhttp.Log(slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		&steadyhttp.Trace{
			Start: func(ctx context.Context, _ *http.Request) context.Context {
				w.begun.Add(1)
				return ctx
			},
			Done: func(context.Context, steadyhttp.Attempt) { w.done.Add(1) },
		},
		steadyotel.New(c))
	k.transport = t
	k.client = &http.Client{Transport: t}
	return k
}

type faultsFunc func(*http.Request) (*http.Response, error)

func (f faultsFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// call makes one call, in one of many ways.
func (k *faultsWorker) call(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	switch n := k.IntN(100); {
	case n < 3:
		cancel(k.secretError())
	case n < 15:
		timer := time.AfterFunc(k.upTo(4*time.Second), func() { cancel(&url.Error{Op: "Get", URL: faultsURL, Err: errors.New("enough")}) })
		defer timer.Stop()
	case n < 25:
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, k.upTo(4*time.Second), &url.Error{Op: "Get", URL: faultsURL, Err: errors.New("late")})
		defer stop()
	}
	if k.percent(25) {
		var span trace.Span
		ctx, span = k.program.Start(ctx, "program")
		k.watch.callers.Add(1)
		defer func() { span.End() }()
	}
	defer func() {
		// net/http's server does as much for its handlers.
		if p := recover(); p != nil && p != faultsPanic {
			panic(p)
		}
	}()
	req := k.request(t, ctx)
	var resp *http.Response
	var err error
	switch {
	case k.percent(70) || req.Method == "" || strings.Contains(req.Method, " ") || !utf8.ValidString(req.Method):
		resp, err = k.transport.RoundTrip(req)
	case k.percent(20):
		resp, err = (&http.Client{Transport: k.transport, Timeout: k.upTo(5*time.Second) + 1}).Do(req)
	default:
		resp, err = k.client.Do(req)
	}
	k.watch.error(err)
	if err != nil || resp == nil {
		if e, ok := errors.AsType[*steadyhttp.Error](err); ok && k.percent(20) {
			time.Sleep(e.Wait) // virtual: for a full quota to have room again
		}
		return
	}
	k.watch.error(steadyhttp.Check(resp))
	k.read(resp)
}

func (k *faultsWorker) request(t *testing.T, ctx context.Context) *http.Request {
	method := faultsOneOf(k.faultsDice, "GET", "GET", "GET", "", "HEAD", "POST", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY")
	if k.percent(10) {
		method = faultsOneOf(k.faultsDice, "get", "PROPFIND", "M"+strconv.Itoa(k.IntN(1_000_000)), "BAD METHOD", "\xff\xfe", strings.Repeat("X", k.IntN(10_000)+1))
	}
	host := faultsOneOf(k.faultsDice, "api.example", faultsUserinfo+"api.example", faultsUserinfo+"api.example:8443", "[2001:db8::1]:8080")
	path := faultsOneOf(k.faultsDice, "/api/machines/m"+strconv.Itoa(k.IntN(1_000_000)), "/other/"+strconv.Itoa(k.IntN(1_000_000)), "")
	req, err := http.NewRequestWithContext(ctx, "GET", faultsOneOf(k.faultsDice, "http", "https")+"://"+host+path+faultsQuery+faultsFragment, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Method = method
	if k.percent(2) {
		req.URL.Opaque = "//" + faultsCanary + "Opaque"
	}
	req.Header.Set("Api-Key", faultsCanary+"Header")
	req.Header.Set("Cookie", "session="+faultsCanary+"Cookie")
	if k.percent(40) {
		content := `{"Comment":"` + faultsCanary + `Body"}`
		req.Body = io.NopCloser(strings.NewReader(content))
		req.ContentLength = int64(len(content))
		fails, broken := k.percent(5), k.secretError()
		if fails {
			req.Body = io.NopCloser(faultsFailing{broken})
		}
		if k.percent(60) {
			req.GetBody = func() (io.ReadCloser, error) {
				if fails {
					return nil, broken
				}
				return io.NopCloser(strings.NewReader(content)), nil
			}
		}
	}
	return req
}

// read does with a body what callers do. In a third of all calls, nobody ever closes it; only where
// otelhttp makes the attempts' spans, all are closed: its spans have no other end.
func (k *faultsWorker) read(resp *http.Response) {
	if k.percent(60) && !k.otelhttp {
		k.watch.unclosed.Add(1)
		if k.percent(50) {
			resp.Body.Read(make([]byte, 3))
		}
		return
	}
	switch k.IntN(5) {
	case 0: // closes it unread
	case 1:
		resp.Body.Read(make([]byte, 3))
	case 2: // closes it while another goroutine reads
		var reading sync.WaitGroup
		reading.Go(func() { io.Copy(io.Discard, resp.Body) })
		resp.Body.Close()
		reading.Wait()
	default:
		io.Copy(io.Discard, resp.Body)
	}
	resp.Body.Close()
	if k.percent(10) {
		resp.Body.Close()
	}
}

// collect looks at the metrics, and returns their series and how many calls they have counted.
func (w *faultsWatch) collect(reader sdkmetric.Reader) (series map[string]int, durations, attempts uint64) {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		w.t.Error(err)
	}
	series = make(map[string]int)
	left := make(map[string]int64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			point := func(labels attribute.Set) {
				series[m.Name]++
				w.attributes("the metric "+m.Name, faultsMetricKeys, labels.ToSlice())
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					point(p.Attributes)
					for _, e := range p.Exemplars {
						w.attributes("an exemplar of "+m.Name, "", e.FilteredAttributes)
					}
					if m.Name == "steadyhttp.call.duration" {
						durations += p.Count
					}
				}
			case metricdata.Histogram[int64]:
				for _, p := range data.DataPoints {
					point(p.Attributes)
					for _, e := range p.Exemplars {
						w.attributes("an exemplar of "+m.Name, "", e.FilteredAttributes)
					}
					if m.Name == "steadyhttp.call.attempts" {
						attempts += p.Count
					}
				}
			case metricdata.Sum[int64]:
				sum := int64(0)
				for _, p := range data.DataPoints {
					point(p.Attributes)
					sum += p.Value
				}
				left[m.Name] = sum
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					point(p.Attributes)
					if p.Value < 0 {
						w.t.Errorf("%s is %d", m.Name, p.Value)
					}
				}
			default:
				w.t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	w.mu.Lock()
	w.left = left
	w.mu.Unlock()
	total := 0
	for _, n := range series {
		total += n
	}
	if total > faultsSeries {
		w.t.Errorf("%d series: %v", total, series)
	}
	return series, durations, attempts
}

// Whatever a service and its callers do: every span ends, exactly once; nothing secret is told; and
// nothing that is told has more values than a collector can bear.
func TestFaultedCalls(t *testing.T) {
	calls := long.Size(t, 20_000, 100_000)
	if testing.Short() || faultsRace {
		calls = 10_000
	}
	const workers = 3 * faultsKinds
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		virtual := time.Now()
		w := &faultsWatch{t: t, names: make(map[string]int), keys: make(map[string]int), types: make(map[string]int), stops: make(map[string]int)}
		reader := sdkmetric.NewManualReader()
		config := steadyotel.Config{
			TracerProvider: &faultsProvider{sdk: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w)), watch: w},
			MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
			Rules:          defender.Rules(),
			Route:          defender.Route,
		}
		limit := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}}
		registration, err := steadyotel.ObserveQuotas(config, func(yield func(string, quota.State) bool) { yield("machines", limit.State()) })
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		for n := range workers {
			running.Go(func() {
				k := newFaultsWorker(n, w, config, limit)
				for i := range calls / workers {
					k.call(t)
					if n == 0 && i%100 == 0 {
						w.collect(reader) // while the others go on
					}
				}
			})
		}
		running.Wait()
		time.Sleep(time.Minute) // virtual: for bodies that trickle, what reads them ahead, and http.Client's timers
		synctest.Wait()
		for range 1000 { // for the successes whose bodies were given up
			if w.done.Load() == w.begun.Load() && w.started.Load() == w.onEnd.Load() {
				break
			}
			runtime.GC()
			runtime.Gosched()
		}

		series, durations, attempts := w.collect(reader)
		if err := registration.Unregister(); err != nil {
			t.Error(err)
		}
		if w.started.Load() != w.ended.Load() || w.onStart.Load() != w.onEnd.Load() || w.started.Load() != w.onEnd.Load() {
			t.Errorf("%d spans were started, and %d ended; the SDK was told of %d and %d", w.started.Load(), w.ended.Load(), w.onStart.Load(), w.onEnd.Load())
		}
		// A redirect is a call of its own.
		begun := w.begun.Load()
		if begun < int64(calls)*95/100 || w.done.Load() != begun || int64(durations) != begun || int64(attempts) != begun {
			t.Errorf("%d calls, of which %d were done; the metrics have %d and %d", begun, w.done.Load(), durations, attempts)
		}
		// Eleven methods, with a template or without, of calls and of attempts; and the spans of
		// the program and of otelhttp.
		if len(w.names) > 11*2*2+2 {
			t.Errorf("%d names of spans: %v", len(w.names), w.names)
		}
		if len(w.types) > 110 {
			t.Errorf("%d types of errors: %v", len(w.types), w.types)
		}
		for stop, n := range w.stops {
			// A call that came to a panic has none.
			if !faultsListed(faultsStops, stop) && stop != "" {
				t.Errorf("%d calls ended for the unknown reason %q", n, stop)
			}
		}
		// All there is to be seen must have been seen: else the test tests nothing.
		for _, key := range strings.Fields(faultsSpanKeys + faultsEventKeys) {
			if w.keys[key] == 0 && key != "steadyhttp.sends" { // for which a real connection must be lost
				t.Errorf("no span or event had %s", key)
			}
		}
		for _, stop := range strings.Fields(faultsStops) {
			if w.stops[stop] == 0 {
				t.Errorf("no call ended for the reason %q", stop)
			}
		}
		for _, name := range strings.Fields("call.duration call.attempts call.active call.waiting wait.duration retry.delay budget.refusals quota.used quota.free quota.limit quota.waiting") {
			if series["steadyhttp."+name] == 0 {
				t.Errorf("nothing was measured of %s", name)
			}
		}
		if series["http.client.request.duration"] == 0 {
			t.Error("no attempt was measured")
		}
		for _, left := range []string{"steadyhttp.call.active", "steadyhttp.call.waiting"} {
			if n := w.left[left]; n != 0 {
				t.Errorf("%s is %d when all is over", left, n)
			}
		}
		for what, n := range map[string]int64{
			"spans": w.onEnd.Load() - int64(calls), "events": w.events.Load(), "red spans": w.red.Load(), "redacted URLs": w.redacted.Load(),
			"bodies never closed": w.unclosed.Load() - int64(calls)/3 + int64(calls)/10, "spans with a tracking ID": w.tracked.Load(), "callers' spans": w.callers.Load(), "log records": w.records.Load(), "errors": w.errors.Load(),
		} {
			if n < int64(calls)/10 {
				t.Errorf("only %d %s for %d calls: the test tests nothing", n, what, calls)
			}
		}
		total := 0
		for _, n := range series {
			total += n
		}
		t.Logf("%d calls (%d with redirects, %d bodies never closed) in %v of virtual time: %d spans of %d names, %d red, %d events; %d series %v; %d log records, %d errors of ours",
			calls, begun, w.unclosed.Load(), time.Since(virtual).Round(time.Minute), w.onEnd.Load(), len(w.names), w.red.Load(), w.events.Load(), total, series, w.records.Load(), w.errors.Load())
	})
	t.Logf("in %v", time.Since(began).Round(100*time.Millisecond))
}

type faultsSampler struct{ sdktrace.Sampler }

func (faultsSampler) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	panic("boom")
}
func (faultsSampler) Description() string { return "panics" }

type faultsPropagator struct{ propagation.TraceContext }

func (faultsPropagator) Inject(context.Context, propagation.TextMapCarrier) { panic("boom") }

// A panic in what a Config has of its caller's goes on to the caller, and no call is counted as
// under way for ever, nor is a span left open.
func TestPanicsOfAConfigLeaveNothingActive(t *testing.T) {
	route := steadyotel.Config{Route: func(*http.Request) string { panic("boom") }}
	for _, callSpan := range []steadyotel.CallSpan{steadyotel.CallSpanAuto, steadyotel.CallSpanAlways, steadyotel.CallSpanNever} {
		for name, tt := range map[string]struct {
			config  steadyotel.Config
			options []sdktrace.TracerProviderOption
		}{
			"Route":      {route, nil},
			"sampler":    {steadyotel.Config{}, []sdktrace.TracerProviderOption{sdktrace.WithSampler(faultsSampler{})}},
			"Propagator": {steadyotel.Config{Propagator: faultsPropagator{}}, nil},
		} {
			s := newSDK(t, tt.options...)
			tt.config.CallSpan = callSpan
			rt := &steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(tt.config)}
			for range 3 {
				func() {
					defer func() {
						if recover() == nil {
							t.Errorf("%s, %q: the panic did not go on", name, callSpan)
						}
					}()
					call(t, t.Context(), rt)
				}()
			}
			if m, ok := s.collect(t)["steadyhttp.call.active"]; ok {
				assertLines(t, name+", calls under way", points(t, m), "0")
			}
			for _, span := range s.spans() {
				if !ended(span) {
					t.Errorf("%s, %q: %s has not ended", name, callSpan, span.Name())
				}
			}
		}
	}
}
