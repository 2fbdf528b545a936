package graph_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	kiota "github.com/microsoft/kiota-abstractions-go"
	"github.com/microsoft/kiota-abstractions-go/authentication"
	"github.com/microsoft/kiota-abstractions-go/serialization"
	nethttplibrary "github.com/microsoft/kiota-http-go"
	jsonserialization "github.com/microsoft/kiota-serialization-json-go"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestKiota reads, and posts a body compressed, as kiota does by itself, and plain.
func TestKiota(t *testing.T) {
	read := bed.SDK{
		Name: "GET", Answer: "m", Busy: "serviceNotAvailable", Missing: "itemNotFound",
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			return send(ctx, base, url, nil, false, own)
		},
		Serve: serve, Typed: typed,
		Own: bed.Retrying(429, 503, 504), Both: bed.Attempts * bed.Attempts,
	}
	calls := []bed.SDK{read}
	for _, compress := range []bool{true, false} {
		post := read
		// kiota has no GetBody, and gives no length of what it does not compress.
		post.Name, post.Body = "POST of 300 KiB, plain", bed.Random(300<<10)
		if compress {
			post.Name, post.Body, post.Decoded = "POST of 100 KiB", bed.Random(100<<10), unzipped
			// kiota's own retry may send the body as it was before the compression, without a length
			// and with the Content-Encoding. Such a one we don't keep: how many requests both retriers
			// make is chance.
			post.Both = 0
		}
		post.Call = func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			return send(ctx, base, url, post.Body, compress, own)
		}
		post.Unsafe = true
		post.Edit = func(rt *steadyhttp.Transport) {
			if !compress {
				rt.Policy.MaxBuffer = 1 << 20
			}
			rt.Policy.Idempotent = func(*http.Request) bool { return true }
		}
		calls = append(calls, post)
	}
	bed.Run(t, calls...)
}

// TestKiotaBodyNotReplayable: without MaxBuffer, a plain body is sent once, and the Stop says why.
// A compressed one has its length, and up to 256 KiB of it are kept.
func TestKiotaBodyNotReplayable(t *testing.T) {
	for _, c := range []struct {
		size     int
		compress bool
		stop     steadyhttp.Stop
	}{
		{1 << 10, false, steadyhttp.StopBodyNotReplayable},
		{300 << 10, true, steadyhttp.StopBodyNotReplayable},
		{100 << 10, true, steadyhttp.StopDone},
	} {
		s := bed.SDK{Serve: serve, Body: bed.Random(c.size)}
		if c.compress {
			s.Decoded = unzipped
		}
		busy := bed.Failure{Status: 429, Code: "busy", Message: "busy", After: "0"}
		v := bed.NewService(t, &s, false, busy)
		ctx, stop := bed.Stopped(t.Context())
		_, err := send(ctx, s.Transport(v.Client().Transport, nil), v.URL, s.Body, c.compress, false)
		if *stop != c.stop || (err == nil) != (c.stop == steadyhttp.StopDone) {
			t.Errorf("%d bytes, compressed: %v: %q, %v; want %q", c.size, c.compress, *stop, err, c.stop)
		}
		v.Checked(t)
	}
}

// TestKiotaMaxRetriesZeroIsThree: which is why docs/sdks.md says to use ShouldRetry.
func TestKiotaMaxRetriesZeroIsThree(t *testing.T) {
	s := bed.SDK{Serve: serve}
	for _, c := range []struct {
		retry bool
		want  int
	}{{true, 4}, {false, 1}} {
		busy := bed.Failure{Status: 503, Code: "busy", Message: "busy", After: "0"}
		v := bed.NewService(t, &s, false, busy, busy, busy, busy, busy, busy)
		options := &nethttplibrary.RetryHandlerOptions{
			ShouldRetry: func(time.Duration, int, *http.Request, *http.Response) bool { return c.retry },
			MaxRetries:  0,
		}
		_, err := sendWith(t.Context(), v.Client().Transport, v.URL, nil, options)
		if got := len(v.Requests()); err == nil || got != c.want {
			t.Errorf("%d requests where ShouldRetry says %v, want %d: %v", got, c.retry, c.want, err)
		}
	}
}

func unzipped(h http.Header, raw []byte) ([]byte, error) {
	if got := h.Get("Content-Encoding"); got != "gzip" {
		return nil, fmt.Errorf("the encoding is %q", got)
	}
	body, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(body)
}

func send(
	ctx context.Context, base http.RoundTripper, url string, body []byte, compress, own bool,
) (string, error) {
	options := []kiota.RequestOption{nethttplibrary.NewCompressionOptionsReference(compress)}
	if !own {
		never := func(time.Duration, int, *http.Request, *http.Response) bool { return false }
		options = append(options, &nethttplibrary.RetryHandlerOptions{ShouldRetry: never})
	}
	return sendWith(ctx, base, url, body, options...)
}

func sendWith(
	ctx context.Context, base http.RoundTripper, url string, body []byte,
	options ...kiota.RequestOption,
) (string, error) {
	middlewares, err := nethttplibrary.GetDefaultMiddlewaresWithOptions(options...)
	if err != nil {
		return "", err
	}
	newAdapter := nethttplibrary.
		NewNetHttpRequestAdapterWithParseNodeFactoryAndSerializationWriterFactoryAndHttpClient
	transport := nethttplibrary.NewCustomTransportWithParentTransport(base, middlewares...)
	adapter, err := newAdapter(
		&authentication.AnonymousAuthenticationProvider{}, jsonserialization.NewJsonParseNodeFactory(),
		jsonserialization.NewJsonSerializationWriterFactory(),
		&http.Client{Transport: transport})
	if err != nil {
		return "", err
	}
	adapter.SetBaseUrl(url)
	method := kiota.GET
	if body != nil {
		method = kiota.POST
	}
	request := kiota.NewRequestInformationWithMethodAndUrlTemplateAndPathParameters(
		method, "{+baseurl}/v1.0/me/messages", map[string]string{})
	if body != nil {
		request.SetStreamContentAndContentType(body, "application/json")
	}
	got, err := adapter.Send(ctx, request, newAnswer, kiota.ErrorMappings{"XXX": newAnswer})
	if err != nil {
		return "", err
	}
	return got.(*answer).message, nil
}

// answer is what a generator makes of a model and of an error, in little.
type answer struct {
	kiota.ApiError
	code, message string
}

func newAnswer(serialization.ParseNode) (serialization.Parsable, error) {
	return &answer{ApiError: *kiota.NewApiError()}, nil
}

func (a *answer) Serialize(serialization.SerializationWriter) error { return nil }

func (a *answer) GetFieldDeserializers() map[string]func(serialization.ParseNode) error {
	text := func(to *string) func(serialization.ParseNode) error {
		return func(n serialization.ParseNode) error {
			s, err := n.GetStringValue()
			if s != nil {
				*to = *s
			}
			return err
		}
	}
	return map[string]func(serialization.ParseNode) error{
		"code": text(&a.code), "message": text(&a.message),
	}
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"code":"created","message":"m"}`)
		return
	}
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, `{"code":%q,"message":%q}`, f.Code, f.Message)
}

func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*answer](err); ok {
		return e.GetStatusCode(), e.code, e.message
	}
	return 0, "", ""
}
