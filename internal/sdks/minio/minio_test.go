package minio_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

func TestMain(m *testing.M) {
	minio.DefaultRetryUnit = time.Millisecond // of its own retries, and behind the last attempt too
	os.Exit(m.Run())
}

// TestMinIO gets an object, and puts one.
func TestMinIO(t *testing.T) {
	call := bed.SDK{
		Busy: "SlowDown", Missing: "NoSuchBucket",
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
		Varies: []string{"Authorization", "X-Amz-Date"},
	}
	get := call
	get.Name, get.Answer = "GetObject", "content"
	get.Call = func(
		t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
	) (string, error) {
		object, err := client(t, base, url, own).GetObject(ctx, "bucket", "key", minio.GetObjectOptions{})
		if err != nil {
			return "", err
		}
		defer object.Close()
		content, err := io.ReadAll(object)
		return string(content), err
	}
	calls := []bed.SDK{get}
	for _, size := range []int{100 << 10, 300 << 10} {
		put := call
		put.Name, put.Answer = fmt.Sprintf("PutObject of %d KiB", size>>10), "e"
		put.Body, put.Decoded = bed.Random(size), unchunked
		put.OwnSpoils = true // it signs each of its attempts, and over http each piece of its body
		if size > 256<<10 {  // there is no GetBody
			put.Edit = func(rt *steadyhttp.Transport) { rt.Policy.MaxBuffer = 1 << 20 }
		}
		put.Call = func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			info, err := client(t, base, url, own).PutObject(ctx, "bucket", "key",
				bytes.NewReader(put.Body), int64(size), minio.PutObjectOptions{})
			return info.ETag, err
		}
		calls = append(calls, put)
	}
	bed.Run(t, calls...)
}

// TestMinIODownloadStreams: what is there of an object is read while the service has not sent the
// rest.
func TestMinIODownloadStreams(t *testing.T) {
	answer := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "11")
		w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
		w.Header().Set("Etag", `"e"`)
		return false
	}
	bed.Download(t, answer, func(
		t *testing.T, base http.RoundTripper, url string,
	) (io.ReadCloser, error) {
		return client(t, base, url, false).
			GetObject(t.Context(), "bucket", "key", minio.GetObjectOptions{})
	})
}

// TestMinIOParts: a stream of unknown length is uploaded in parts, of which each is sent again
// after a 503 where MaxBuffer is their size, and so are the POSTs around them where Idempotent says
// so.
func TestMinIOParts(t *testing.T) {
	const part = 5 << 20
	content := bed.Random(part + 1000)
	multipart := func(r *http.Request) bool {
		query := r.URL.Query()
		return r.Method != http.MethodPost || query.Has("uploads") || query.Has("uploadId")
	}
	for _, c := range []struct {
		name       string
		maxBuffer  int64
		idempotent func(*http.Request) bool
		want       string // requests, those that are refused too
		stop       steadyhttp.Stop
	}{
		{"as documented", part, multipart,
			"POST uploads, POST uploads, PUT 1, PUT 1, PUT 2, PUT 2, POST complete, POST complete",
			steadyhttp.StopDone},
		{"a smaller MaxBuffer", part - 1, multipart,
			"POST uploads, POST uploads, PUT 1, DELETE, DELETE", steadyhttp.StopBodyNotReplayable},
		{"POSTs as by default", part, nil,
			"POST uploads", steadyhttp.StopNotIdempotent},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex // guards what follows
			var got []string
			stored := map[string][]byte{}
			server := bed.Start(t, true, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				query := r.URL.Query()
				name := r.Method
				switch {
				case query.Has("uploads"):
					name += " uploads"
				case r.Method == http.MethodPut:
					name += " " + query.Get("partNumber")
				case r.Method == http.MethodPost:
					name += " complete"
				}
				mu.Lock()
				defer mu.Unlock()
				again := len(got) > 0 && got[len(got)-1] == name
				got = append(got, name)
				switch {
				case !again:
					serve(w, r, &bed.Failure{Status: 503, Code: "SlowDown", Message: "busy", After: "0"})
				case query.Has("uploads"):
					io.WriteString(w, `<InitiateMultipartUploadResult><UploadId>id</UploadId>`+
						`</InitiateMultipartUploadResult>`)
				case r.Method == http.MethodPut:
					stored[query.Get("partNumber")] = body
					w.Header().Set("Etag", `"e"`)
				case r.Method == http.MethodPost:
					io.WriteString(w, `<CompleteMultipartUploadResult><Bucket>bucket</Bucket>`+
						`<ETag>"e"</ETag></CompleteMultipartUploadResult>`)
				default:
					w.WriteHeader(http.StatusNoContent)
				}
			})
			s := bed.SDK{Edit: func(rt *steadyhttp.Transport) {
				rt.Policy.MaxBuffer, rt.Policy.Idempotent = c.maxBuffer, c.idempotent
			}}
			var stops []steadyhttp.Stop
			rt := s.Transport(server.Client().Transport, bed.NoBudget())
			rt.Trace = &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) {
				mu.Lock()
				defer mu.Unlock()
				stops = append(stops, a.Stop)
			}}
			_, err := client(t, rt, server.URL, false).PutObject(t.Context(), "bucket", "key",
				io.MultiReader(bytes.NewReader(content)), -1, minio.PutObjectOptions{PartSize: part})
			mu.Lock()
			defer mu.Unlock()
			worst := steadyhttp.StopDone
			for _, stop := range stops {
				if stop != steadyhttp.StopDone {
					worst = stop
				}
			}
			requests, done := strings.Join(got, ", "), c.stop == steadyhttp.StopDone
			if requests != c.want || worst != c.stop || (err == nil) != done {
				t.Errorf("%s; %q, %v\nwant %s; %q", requests, worst, err, c.want, c.stop)
			}
			if whole := append(stored["1"], stored["2"]...); err == nil && !bytes.Equal(whole, content) {
				t.Errorf("%d bytes are stored that are not the content's %d", len(whole), len(content))
			}
		})
	}
}

func client(t *testing.T, base http.RoundTripper, url string, own bool) *minio.Client {
	scheme, host, _ := strings.Cut(url, "://")
	options := &minio.Options{
		Creds: credentials.NewStaticV4("id", "secret", ""), Region: "eu-central-1",
		Secure: scheme == "https", Transport: base, MaxRetries: 1,
	}
	if own {
		options.MaxRetries = bed.Attempts // 10 otherwise
	}
	made, err := minio.New(host, options)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// unchunked takes off the framing of bodies that are signed piece by piece.
func unchunked(h http.Header, raw []byte) ([]byte, error) {
	if !strings.HasPrefix(h.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return raw, nil
	}
	return io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	switch {
	case f != nil:
		w.WriteHeader(f.Status)
		fmt.Fprintf(w, `<Error><Code>%s</Code><Message>%s</Message></Error>`, f.Code, f.Message)
	case r.Method == http.MethodGet:
		w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
		w.Header().Set("Etag", `"e"`)
		io.WriteString(w, "content")
	default:
		w.Header().Set("Etag", `"e"`)
	}
}

func typed(err error) (status int, code, message string) {
	e := minio.ToErrorResponse(err)
	return e.StatusCode, e.Code, e.Message
}
