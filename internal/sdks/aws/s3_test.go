package aws_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestS3 puts an object, small and larger than what is kept for a retry by default.
func TestS3(t *testing.T) {
	for _, size := range []int{100 << 10, 300 << 10} {
		body := make([]byte, size)
		rand.NewChaCha8([32]byte{1}).Read(body) // no compression makes it small
		bed.Run(t, bed.SDK{
			Name: fmt.Sprintf("PutObject of %d KiB", size>>10),
			Body: body, Decoded: unchunked,
			Answer: `"e"`, Busy: "SlowDown", Missing: "NoSuchBucket",
			Call: func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
				return put(ctx, base, url, body, own)
			},
			Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
			// S3's bodies have no GetBody.
			Edit:   func(rt *steadyhttp.Transport) { rt.Policy.MaxBuffer = 1 << 20 },
			Varies: []string{"Amz-Sdk-Invocation-Id", "Amz-Sdk-Request", "Authorization", "X-Amz-Date"},
		})
	}
}

// unchunked takes off aws-chunked, the framing of bodies with a checksum behind them.
func unchunked(h http.Header, raw []byte) ([]byte, error) {
	if !strings.Contains(h.Get("Content-Encoding"), "aws-chunked") {
		return raw, nil
	}
	return io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
}

func put(ctx context.Context, base http.RoundTripper, url string, body []byte, own bool) (string, error) {
	options := s3.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(url), UsePathStyle: true,
		HTTPClient: &http.Client{Transport: base}, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
		}),
	}
	if own {
		options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = bed.Attempts // 3 otherwise
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) {
				return 0, nil
			})
		})
	}
	out, err := s3.New(options).PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("key"), Body: bytes.NewReader(body),
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("X-Amz-Request-Id", "REQUEST")
	if f == nil {
		w.Header().Set("Etag", `"e"`)
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
