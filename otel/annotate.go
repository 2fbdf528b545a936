package steadyotel

import (
	"errors"
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
// It puts the service's tracking ID and code on otelhttp's span, and from the first repeat on how often the request was sent
// before: from above, that span is out of reach. nil stands for http.DefaultTransport. Of an error answer it reads at most
// 64 KiB, for at most a second, and what it reads can be read again. Of c, TargetKey and CodeKey are looked at.
func Annotate(base http.RoundTripper) http.RoundTripper { return Config{}.Annotate(base) }

// Annotate is the function Annotate with c's own keys.
func (c Config) Annotate(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &annotator{base: base, attributes: newAttributes(c)}
}

// resendsKey is that of the number of sendings before an attempt, in the attempt's context.
type resendsKey struct{}

type annotator struct {
	base       http.RoundTripper
	attributes attributes
}

func (t *annotator) RoundTrip(req *http.Request) (*http.Response, error) {
	span := trace.SpanFromContext(req.Context())
	if !span.IsRecording() {
		return t.base.RoundTrip(req)
	}
	if resends, _ := req.Context().Value(resendsKey{}).(int); resends > 0 {
		span.SetAttributes(resendCount(resends))
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp == nil {
		return resp, err
	}
	if e, ok := errors.AsType[*steadyhttp.ServiceError](steadyhttp.Check(resp)); ok {
		t.attributes.setVerdict(span, steadyhttp.Verdict{Code: e.Code, Target: e.Target})
	}
	return resp, nil
}

// CloseIdleConnections forwards to the base transport.
func (t *annotator) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Unwrap returns the base transport.
func (t *annotator) Unwrap() http.RoundTripper { return t.base }
