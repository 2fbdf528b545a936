package aws_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestS3 gets an object, and puts one, small and larger than what is kept for a retry by default.
func TestS3(t *testing.T) {
	call := bed.SDK{
		Busy: "SlowDown", Missing: "NoSuchBucket",
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
		Varies: []string{"Amz-Sdk-Invocation-Id", "Amz-Sdk-Request", "Authorization", "X-Amz-Date"},
	}
	get := call
	get.Name, get.Answer = "GetObject", "content"
	get.Call = func(
		t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
	) (string, error) {
		body, err := open(ctx, base, url, own)
		if err != nil {
			return "", err
		}
		defer body.Close()
		content, err := io.ReadAll(body)
		return string(content), err
	}
	calls := []bed.SDK{get}
	for _, size := range []int{100 << 10, 300 << 10} {
		upload := call
		upload.Name, upload.Answer = fmt.Sprintf("PutObject of %d KiB", size>>10), `"e"`
		upload.Body, upload.Decoded = bed.Random(size), unchunked
		if size > 256<<10 { // S3's bodies have no GetBody
			upload.Edit = func(rt *steadyhttp.Transport) { rt.Policy.MaxBuffer = 1 << 20 }
		}
		upload.Call = func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			return put(ctx, base, url, upload.Body, own)
		}
		calls = append(calls, upload)
	}
	bed.Run(t, calls...)
}

// TestS3DownloadStreams: what is there of an object is read while the service has not sent the
// rest.
func TestS3DownloadStreams(t *testing.T) {
	bed.Download(t, nil, func(
		t *testing.T, base http.RoundTripper, url string,
	) (io.ReadCloser, error) {
		return open(t.Context(), base, url, false)
	})
}

// TestS3BodyNotReplayable: without MaxBuffer, a body of more than 256 KiB is sent once.
func TestS3BodyNotReplayable(t *testing.T) {
	for size, want := range map[int]steadyhttp.Stop{
		100 << 10: steadyhttp.StopDone, 300 << 10: steadyhttp.StopBodyNotReplayable,
	} {
		s := bed.SDK{Serve: serve, Body: bed.Random(size), Decoded: unchunked}
		v := bed.NewService(t, &s, false, bed.Failure{Status: 429, Code: "SlowDown", After: "0"})
		ctx, stop := bed.Stopped(t.Context())
		_, err := put(ctx, s.Transport(v.Client().Transport, nil), v.URL, s.Body, false)
		if *stop != want || (err == nil) != (want == steadyhttp.StopDone) {
			t.Errorf("%d bytes: %q, %v; want %q", size, *stop, err, want)
		}
		v.Checked(t)
	}
}

// TestS3ErrorAfter200: S3 answers a copy with a 200 before it knows how it ends, and the error may be
// in the body. The SDK's own retries see it, ours only with the MaxRead and the Classify of
// docs/sdks.md.
func TestS3ErrorAfter200(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		for _, c := range []struct {
			name     string
			own      bool
			edit     func(*steadyhttp.Transport)
			forever  bool
			requests int32
			want     string // the SDK's code; "": success
		}{
			{"its own retries", true, func(rt *steadyhttp.Transport) { rt.Policy.MaxAttempts = 1 }, false, 2, ""},
			{"ours", false, func(*steadyhttp.Transport) {}, false, 1, "InternalError"},
			{"the recipe", false, errorsAfter200, false, 2, ""},
			{"the recipe, for ever", false, errorsAfter200, true, bed.Attempts, "InternalError"},
		} {
			t.Run(c.name, func(t *testing.T) {
				var tries atomic.Int32
				server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/xml")
					if n := tries.Add(1); n == 1 || c.forever {
						io.WriteString(w, `<?xml version="1.0"?>
<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>`)
						return
					}
					io.WriteString(w, `<CopyObjectResult><ETag>"e"</ETag></CopyObjectResult>`)
				})
				rt := (&bed.SDK{}).Transport(server.Client().Transport, nil)
				c.edit(rt)
				_, err := client(rt, server.URL, c.own).CopyObject(t.Context(), &s3.CopyObjectInput{
					Bucket: aws.String("bucket"), Key: aws.String("key"), CopySource: aws.String("bucket/other"),
				})
				code := ""
				if api, ok := errors.AsType[smithy.APIError](err); ok {
					code = api.ErrorCode()
				} else if err != nil {
					t.Fatal(err)
				}
				if code != c.want || tries.Load() != c.requests {
					t.Errorf("%d requests, %q; want %d, %q", tries.Load(), code, c.requests, c.want)
				}
			})
		}
	})
}

// errorsAfter200 is the recipe of docs/sdks.md.
func errorsAfter200(rt *steadyhttp.Transport) {
	rt.Policy.MaxRead = 64 << 10
	rt.Classify = func(a steadyhttp.Attempt) steadyhttp.Verdict {
		put := a.Response != nil && a.Response.StatusCode == 200 && a.Request.Method == http.MethodPut
		if put && bytes.Contains(a.Body, []byte("<Error>")) {
			return steadyhttp.Verdict{Class: steadyhttp.Transient}
		}
		return (&steadyhttp.Rules{}).Classify(a)
	}
}

// TestS3SignsACallOnce: all attempts carry the signature of the first, and its time. So a wait that
// would outlast it, by the MaxWait of docs/sdks.md, is not begun.
func TestS3SignsACallOnce(t *testing.T) {
	s := bed.SDK{Serve: serve}
	busy := bed.Failure{Status: 503, Code: "SlowDown", After: "1"}
	v := bed.NewService(t, &s, false, busy)
	body, err := open(t.Context(), s.Transport(v.Client().Transport, nil), v.URL, false)
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
	got := v.Requests()
	if len(got) != 2 {
		t.Fatalf("%d requests, want 2", len(got))
	}
	for _, name := range []string{"Authorization", "X-Amz-Date"} {
		if a, b := got[0].Header.Get(name), got[1].Header.Get(name); a == "" || a != b {
			t.Errorf("%s is %q, and then %q", name, a, b)
		}
	}

	busy.After = "241"
	v = bed.NewService(t, &s, false, busy)
	rt := s.Transport(v.Client().Transport, nil)
	rt.Policy.MaxWait = 4 * time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // so that no wait is begun
	defer cancel()
	ctx, stop := bed.Stopped(ctx)
	_, err = open(ctx, rt, v.URL, false)
	status, code, _ := typed(err)
	if status != 503 || code != "SlowDown" || *stop != steadyhttp.StopWaitTooLong {
		t.Errorf("%q, %d %q: %v", *stop, status, code, err)
	}
}

// unchunked takes off aws-chunked, the framing of bodies with a checksum behind them.
func unchunked(h http.Header, raw []byte) ([]byte, error) {
	if !strings.Contains(h.Get("Content-Encoding"), "aws-chunked") {
		return raw, nil
	}
	return io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
}

func client(base http.RoundTripper, url string, own bool) *s3.Client {
	return s3.New(s3.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(url), UsePathStyle: true,
		Credentials: credentials(),
		HTTPClient:  &http.Client{Transport: base}, Retryer: retryer(own),
	})
}

func credentials() aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
	})
}

func retryer(own bool) aws.Retryer {
	if !own {
		return aws.NopRetryer{}
	}
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = bed.Attempts // 3 otherwise
		o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
	})
}

func put(
	ctx context.Context, base http.RoundTripper, url string, body []byte, own bool,
) (string, error) {
	out, err := client(base, url, own).PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("key"), Body: bytes.NewReader(body),
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

func open(
	ctx context.Context, base http.RoundTripper, url string, own bool,
) (io.ReadCloser, error) {
	out, err := client(base, url, own).GetObject(ctx, &s3.GetObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("key"),
	})
	if err != nil {
		return nil, err
	}
	return out.Body, nil
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("X-Amz-Request-Id", "REQUEST")
	if f == nil {
		w.Header().Set("Etag", `"e"`)
		if r.Method == http.MethodGet {
			io.WriteString(w, "content")
		}
		return
	}
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, `<Error><Code>%s</Code><Message>%s</Message></Error>`, f.Code, f.Message)
}

func typed(err error) (status int, code, message string) {
	type answered interface {
		error
		HTTPStatusCode() int
		ServiceRequestID() string
	}
	answer, ok := errors.AsType[answered](err)
	api, isAPI := errors.AsType[smithy.APIError](err)
	if ok && isAPI && answer.ServiceRequestID() == "REQUEST" {
		return answer.HTTPStatusCode(), api.ErrorCode(), api.ErrorMessage()
	}
	return 0, "", ""
}
