package steadyotel_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// otelhttp stands for an otelhttp.Transport: its span ends when the body does, or as it is closed.
func (s *sdk) otelhttp(base http.RoundTripper) roundTripper { return otelhttp(s.tracers, base) }

func otelhttp(tracers trace.TracerProvider, base http.RoundTripper) roundTripper {
	return func(req *http.Request) (*http.Response, error) {
		ctx, span := tracers.Tracer("otelhttp").Start(req.Context(), "HTTP "+req.Method, trace.WithSpanKind(trace.SpanKindClient))
		resp, err := base.RoundTrip(req.WithContext(ctx))
		if err != nil || resp.Body == nil {
			span.End()
			return resp, err
		}
		resp.Body = &endingBody{ReadCloser: resp.Body, span: span}
		return resp, nil
	}
}

type endingBody struct {
	io.ReadCloser
	span trace.Span
	over bool
}

func (b *endingBody) end() {
	if !b.over {
		b.over = true
		b.span.End()
	}
}

func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

func (b *endingBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

// otelhttp's span has the code and the ID that the Transport sees: by the Rules' own Parse and
// IDHeaders, out of whatever the body is encoded in, and without waiting for its end.
func TestAnnotateSeesWhatTheTransportSees(t *testing.T) {
	trickles := func(start string) func(*http.Request) io.ReadCloser {
		return func(req *http.Request) io.ReadCloser {
			return io.NopCloser(io.MultiReader(strings.NewReader(start), readerFunc(func([]byte) (int, error) {
				<-req.Context().Done()
				return 0, req.Context().Err()
			})))
		}
	}
	zipped := func(content string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, content)
		z.Close()
		return b.String()
	}
	parse := &steadyhttp.Rules{Parse: func(a steadyhttp.Attempt) steadyhttp.Verdict {
		code, id, _ := strings.Cut(string(a.Body), "|")
		return steadyhttp.Verdict{Code: code, TrackingID: id}
	}}
	headers := &steadyhttp.Rules{IDHeaders: []string{"X-Own-Id"}}
	noHeaders := &steadyhttp.Rules{IDHeaders: []string{}}
	for _, tt := range []struct {
		name  string
		rules *steadyhttp.Rules
		step  roundTripper
		want  string
	}{
		{"default", nil, answers(404, envelope("C", "T")), "C T"},
		{"a header, by default", nil, answers(502, "<html>", "X-Ms-Request-Id: H"), "- H"},
		{"Parse", parse, answers(404, "Own|7"), "Own 7"},
		{"IDHeaders", headers, answers(404, envelope("C", ""), "X-Own-Id: H", "X-Ms-Request-Id: no"), "C H"},
		{"IDHeaders, no body", headers, withBody(404, func(*http.Request) io.ReadCloser { return http.NoBody }, "X-Own-Id: H"), "- H"},
		{"no IDHeaders", noHeaders, answers(404, envelope("C", ""), "X-Ms-Request-Id: no"), "C -"},
		{"gzip", nil, answers(404, zipped(envelope("C", "T")), "Content-Encoding: gzip"), "C T"},
		{"Parse, cut off by a server that trickles", parse, withBody(404, trickles("Own|7")), "Own 7"},
		{"cut off by a server that trickles", nil, withBody(404, trickles(`{"error":{"code":"C","innerError":{"request-id":"T"},`)), "C T"},
		{"IDHeaders, trickling", headers, withBody(404, trickles(""), "X-Own-Id: H"), "- H"},
		{"200 KiB", nil, answers(404, envelope("C", "T")+strings.Repeat(" ", 200<<10)), "C T"},
		{"an event stream", headers, withBody(404, trickles("data: x"), "Content-Type: text/event-stream", "X-Own-Id: H"), "- H"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				config := steadyotel.Config{NoAttemptSpans: true, Rules: tt.rules}
				rt := &steadyhttp.Transport{
					Base: s.otelhttp(config.Annotate(tt.step)), Policy: steadyhttp.Policy{MaxAttempts: 1}, Trace: s.trace(config),
				}
				if tt.rules != nil {
					rt.Classify = tt.rules.Classify
				}
				resp, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", "http://api.example/"))
				if err != nil {
					t.Fatal(err)
				}
				a, _ := steadyhttp.AttemptOf(resp)
				resp.Body.Close()
				time.Sleep(2 * time.Second)
				assertText(t, "the Transport", dash(a.Verdict.Code)+" "+dash(a.Verdict.TrackingID), tt.want)
				for _, span := range s.spans() {
					got := dash(formText(span.Attributes(), "steadyhttp.error.code")) + " " + dash(formText(span.Attributes(), "steadyhttp.error.target"))
					assertText(t, span.Name(), got, tt.want)
				}
			})
		})
	}
}

// On a retry, each of otelhttp's spans has its own attempt's code and ID, and its count.
func TestAnnotateOnRetries(t *testing.T) {
	s := newSDK(t)
	config := steadyotel.Config{NoAttemptSpans: true}
	base := config.Annotate(script(answers(503, envelope("C1", "T1")), answers(503, envelope("C2", "T2")), answers(200, "")))
	if err := call(t, t.Context(), &steadyhttp.Transport{Base: s.otelhttp(base), Policy: every(0), Trace: s.trace(config)}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, span := range s.attempts() {
		v, _ := value(span.Attributes(), "http.request.resend_count")
		got = append(got, fmt.Sprint(v.AsInt64(), " ", codeAndTarget(span.Attributes(), "steadyhttp.error.code", "steadyhttp.error.target")))
	}
	assertLines(t, "spans", got, "0 C1 T1", "1 C2 T2", "2 ")
}
