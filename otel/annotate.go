package steadyotel

import (
	"io"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
)

// Annotate returns a RoundTripper to put below an otelhttp.Transport that is itself below a
// steadyhttp.Transport:
//
//	config := steadyotel.Config{NoAttemptSpans: true}
//	transport := &steadyhttp.Transport{
//		Base:  otelhttp.NewTransport(config.Annotate(http.DefaultTransport)),
//		Trace: steadyotel.New(config),
//	}
//
// It puts the service's tracking ID and code on otelhttp's span, under TargetKey and CodeKey, and
// on a retry http.request.resend_count. A Trace can't do that: otelhttp's span begins below it. The
// two are what the Transport sees if Config.Rules are what it classifies by. Annotate reads nothing
// of an answer by itself. It looks at what the Transport above, or the caller, reads of an error
// answer, up to 64 KiB, and needs no end of it. A nil base is http.DefaultTransport.
func (c Config) Annotate(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &annotator{base: base, attributes: newAttributes(c)}
}

// sending is what the hooks and Annotate tell each other of an attempt, in the attempt's context.
type sending struct {
	resends int               // attempts and redirects before it
	parent  trace.SpanContext // the parent that otelhttp's span will have
	body    atomic.Pointer[annotatedBody]
}

type sendingKey struct{}

// answered tells Annotate what the Transport has made of the answer. It matters where that did not
// wait for the body's end: a server that trickles, or an answer of more than 64 KiB.
func (s *sending) answered(attributes *attributes, v steadyhttp.Verdict) {
	if b := s.body.Load(); b != nil && b.told.CompareAndSwap(false, true) && b.span.IsRecording() {
		attributes.setVerdict(b.span, v, true)
	}
}

type annotator struct {
	base       http.RoundTripper
	attributes attributes
}

func (t *annotator) RoundTrip(req *http.Request) (*http.Response, error) {
	span := trace.SpanFromContext(req.Context())
	s, told := req.Context().Value(sendingKey{}).(*sending)
	if !span.IsRecording() || told && span.SpanContext().Equal(s.parent) {
		return t.base.RoundTrip(req) // otelhttp's filter left the request out
	}
	if told && s.resends > 0 {
		span.SetAttributes(resendCount(s.resends))
	}
	resp, err := t.base.RoundTrip(req)
	if err == nil && resp != nil && resp.Body != nil && resp.StatusCode >= 400 {
		body := &annotatedBody{ReadCloser: resp.Body, annotator: t, span: span, request: req, resp: *resp}
		resp.Body = body
		switch {
		case body.ReadCloser == http.NoBody:
			body.tell() // nobody reads it
		case told:
			s.body.Store(body)
		}
	}
	return resp, err
}

// annotatedBody looks at the body of an error answer while others read it. To read it first would
// take time that the attempt may not have, and delay the gates' look at the headers.
type annotatedBody struct {
	io.ReadCloser
	annotator *annotator
	span      trace.Span
	request   *http.Request
	resp      http.Response // as it came
	seen      []byte        // of the body, until told
	told      atomic.Bool
}

// maxSeen is how much of an error answer steadyhttp looks at.
const maxSeen = 64 << 10

func (b *annotatedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.told.Load() {
		return n, err
	}
	// A broken Reader may report more than it has read.
	b.seen = append(b.seen, p[:max(0, min(n, len(p), maxSeen-len(b.seen)))]...)
	// otelhttp ends its span when it sees the body's end, before it closes the body.
	if err != nil || len(b.seen) == maxSeen || int64(len(b.seen)) == b.resp.ContentLength {
		b.tell()
	}
	return n, err
}

// tell puts on the span what the Rules make of the answer: what the Transport is about to make of
// it, since that reads the same.
func (b *annotatedBody) tell() {
	if !b.told.CompareAndSwap(false, true) {
		return
	}
	if b.span.IsRecording() { // it may have been closed meanwhile
		attributes := &b.annotator.attributes
		attributes.setVerdict(b.span, attributes.rules.Classify(steadyhttp.Attempt{
			Request: b.request, Response: &b.resp, Body: b.seen,
		}), true)
	}
	b.seen = nil
}

// CloseIdleConnections forwards to the base transport.
func (t *annotator) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Unwrap returns the base transport.
func (t *annotator) Unwrap() http.RoundTripper { return t.base }
