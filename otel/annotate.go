package steadyotel

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
)

// Annotate returns a RoundTripper to put below an otelhttp.Transport, which is itself below a steadyhttp.Transport:
//
//	&steadyhttp.Transport{
//		Base:  otelhttp.NewTransport(steadyotel.Annotate(base)),
//		Trace: steadyotel.New(steadyotel.Config{NoAttemptSpans: true}),
//	}
//
// It puts the service's tracking ID and code on otelhttp's span, and from the first retry on how often the request was sent
// before: from above, that span is out of reach. nil stands for http.DefaultTransport. It reads nothing by itself: it looks at
// what the Transport above, or the caller, reads of an error answer, up to 64 KiB.
func Annotate(base http.RoundTripper) http.RoundTripper { return Config{}.Annotate(base) }

// Annotate is the function Annotate with c's TargetKey and CodeKey.
func (c Config) Annotate(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &annotator{base: base, attributes: newAttributes(c)}
}

// sending is what the hooks tell Annotate of an attempt, in its context.
type sending struct {
	resends int               // before it
	parent  trace.SpanContext // of the span that otelhttp's will be below
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
		return t.base.RoundTrip(req) // otelhttp has a filter that left the request out
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

// annotatedBody is an error answer's body as it is read. Reading it beforehand would take a time that the attempt may not
// have, and keep the answer's headers from the gates.
type annotatedBody struct {
	io.ReadCloser
	annotator *annotator
	span      trace.Span
	resp      http.Response // as it came
	seen      []byte        // of the body; no more once told
	told      bool
}

// maxSeen is as much as steadyhttp looks at.
const maxSeen = 64 << 10

func (b *annotatedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.told {
		return n, err
	}
	// A Reader may say more than it has read.
	b.seen = append(b.seen, p[:max(0, min(n, len(p), maxSeen-len(b.seen)))]...)
	// otelhttp ends its span as soon as it sees the body's end, and before it closes the body.
	if err != nil || len(b.seen) == maxSeen || int64(len(b.seen)) == b.resp.ContentLength {
		b.tell()
	}
	return n, err
}

// tell puts the verdict on the span. What Check makes of the bytes is what it would have made of the answer.
func (b *annotatedBody) tell() {
	b.told = true
	if !b.span.IsRecording() {
		return // closed meanwhile
	}
	b.resp.Body = io.NopCloser(bytes.NewReader(b.seen))
	if e, ok := errors.AsType[*steadyhttp.ServiceError](steadyhttp.Check(&b.resp)); ok {
		b.annotator.attributes.setVerdict(b.span, steadyhttp.Verdict{Code: e.Code, TrackingID: e.Target})
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
