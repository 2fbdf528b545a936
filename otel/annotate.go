package steadyotel

import (
	"bytes"
	"errors"
	"io"
	"net/http"

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
// on a retry http.request.resend_count. A Trace can't do that: otelhttp's span begins below it.
// Annotate reads nothing of an answer by itself. It looks at what the Transport above, or the
// caller, reads of an error answer, up to 64 KiB. A nil base is http.DefaultTransport.
func (c Config) Annotate(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &annotator{base: base, attributes: newAttributes(c)}
}

// sending is what the hooks tell Annotate of an attempt, in the attempt's context.
type sending struct {
	resends int               // attempts and redirects before it
	parent  trace.SpanContext // the parent that otelhttp's span will have
}

type sendingKey struct{}

type annotator struct {
	base       http.RoundTripper
	attributes attributes
}

func (t *annotator) RoundTrip(req *http.Request) (*http.Response, error) {
	span := trace.SpanFromContext(req.Context())
	s, told := req.Context().Value(sendingKey{}).(sending)
	if !span.IsRecording() || told && span.SpanContext().Equal(s.parent) {
		return t.base.RoundTrip(req) // otelhttp's filter left the request out
	}
	if s.resends > 0 {
		span.SetAttributes(resendCount(s.resends))
	}
	resp, err := t.base.RoundTrip(req)
	if err == nil && resp != nil && resp.Body != nil && resp.StatusCode >= 400 {
		resp.Body = &annotatedBody{ReadCloser: resp.Body, annotator: t, span: span, resp: *resp}
	}
	return resp, err
}

// annotatedBody looks at the body of an error answer while others read it. To read it first would
// take time that the attempt may not have, and delay the gates' look at the headers.
type annotatedBody struct {
	io.ReadCloser
	annotator *annotator
	span      trace.Span
	resp      http.Response // as it came
	seen      []byte        // of the body, until told
	told      bool
}

// maxSeen is how much of an error answer steadyhttp looks at.
const maxSeen = 64 << 10

func (b *annotatedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.told {
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

// tell puts the verdict on the span. Check makes of the bytes what it makes of the whole answer.
func (b *annotatedBody) tell() {
	b.told = true
	if !b.span.IsRecording() {
		return // closed meanwhile
	}
	b.resp.Body = io.NopCloser(bytes.NewReader(b.seen))
	if e, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(&b.resp)); ok {
		b.annotator.attributes.setVerdict(b.span, e.Verdict)
	}
	b.seen, b.resp = nil, http.Response{}
}

// CloseIdleConnections forwards to the base transport.
func (t *annotator) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Unwrap returns the base transport.
func (t *annotator) Unwrap() http.RoundTripper { return t.base }
