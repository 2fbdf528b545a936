package azure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestBlob downloads a blob, and uploads files, small and large. Their GetBody rewinds the one file
// that all attempts read.
func TestBlob(t *testing.T) {
	call := bed.SDK{
		Busy: string(bloberror.ServerBusy), Missing: string(bloberror.BlobNotFound),
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
		Varies: []string{"X-Ms-Client-Request-Id", "X-Ms-Date"},
	}
	download := call
	download.Name, download.Answer = "Download", "content"
	download.Call = func(
		t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
	) (string, error) {
		resp, err := client(t, base, url, own).DownloadStream(ctx, nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		return string(content), err
	}
	calls := []bed.SDK{download}
	for _, size := range []int{100 << 10, 1 << 20} {
		upload := call
		upload.Name, upload.Answer = fmt.Sprintf("Upload of %d KiB", size>>10), `"e"`
		upload.Body = bed.Random(size)
		upload.Call = func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			path := filepath.Join(t.TempDir(), "blob")
			if err := os.WriteFile(path, upload.Body, 0o600); err != nil {
				return "", err
			}
			file, err := os.Open(path)
			if err != nil {
				return "", err
			}
			defer file.Close()
			var body io.ReadSeekCloser = file
			if own {
				// GetBody returns the file, and whoever retries below azcore's own retries closes it.
				body = streaming.NopCloser(file)
			}
			resp, err := client(t, base, url, own).Upload(ctx, body, nil)
			if err != nil {
				return "", err
			}
			return string(*resp.ETag), nil
		}
		calls = append(calls, upload)
	}
	bed.Run(t, calls...)
}

// TestBlobCheck: azcore puts a body of its own in the place of ours, so AttemptOf finds nothing in
// an error's answer, and Check does.
func TestBlobCheck(t *testing.T) {
	s := bed.SDK{Serve: serve}
	v := bed.NewService(t, &s, false, bed.Failure{Status: 404, Code: string(bloberror.BlobNotFound)})
	blob := client(t, s.Transport(v.Client().Transport, nil), v.URL, false)
	_, err := blob.DownloadStream(t.Context(), nil)
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		t.Fatal(err)
	}
	if _, ok := steadyhttp.AttemptOf(answer.RawResponse); ok {
		t.Error("AttemptOf finds it: docs/sdks.md says otherwise")
	}
	told, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(answer.RawResponse))
	if !ok || told.StatusCode != 404 || told.TrackingID != "43f4cb08-8fac-4b65-9db1-745c2ae65f3a" {
		t.Errorf("Check says %v", told)
	}
}

// TestBlobDownloadStreams: what is there of a download is read while the service has not sent the
// rest.
func TestBlobDownloadStreams(t *testing.T) {
	bed.Download(t, nil, func(
		t *testing.T, base http.RoundTripper, url string,
	) (io.ReadCloser, error) {
		resp, err := client(t, base, url, false).DownloadStream(t.Context(), nil)
		return resp.Body, err
	})
}

// TestBlobDownloadGoesOn: the SDK asks for the rest of a download that breaks off, and what that GET
// meets is retried by us. The content is whole, and nothing of it comes twice.
func TestBlobDownloadGoesOn(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		content := bed.Random(300 << 10)
		var tries atomic.Int32
		server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			from := 0
			if _, err := fmt.Sscanf(r.Header.Get("X-Ms-Range"), "bytes=%d-", &from); err != nil && tries.Load() > 0 {
				t.Errorf("request %d has the range %q", tries.Load()+1, r.Header.Get("X-Ms-Range"))
			}
			w.Header().Set("Etag", `"e"`)
			switch tries.Add(1) {
			case 1: // broken off after a third
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				w.Write(content[:100<<10])
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case 2:
				serve(w, r, &bed.Failure{Status: 503, Code: string(bloberror.ServerBusy)})
			default:
				w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content[from:])
			}
		})
		rt := (&bed.SDK{}).Transport(server.Client().Transport, nil)
		resp, err := client(t, rt, server.URL, false).DownloadStream(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		body := resp.NewRetryReader(t.Context(), nil)
		defer body.Close()
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, content) || tries.Load() != 3 {
			t.Errorf("%d of %d bytes after %d requests: %v", len(got), len(content), tries.Load(), err)
		}
	})
}

// TestBlobUploadFromReader: blocks of a stream are sent while its reader has more to come, and each
// is sent again after a 503.
func TestBlobUploadFromReader(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		const block = 1 << 20
		content := bed.Random(2*block + 5)
		type put struct {
			comp string
			body []byte
		}
		arrived := make(chan put, 16)
		var tries atomic.Int32
		server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if tries.Add(1)%2 == 1 {
				serve(w, r, &bed.Failure{Status: 503, Code: string(bloberror.ServerBusy)})
				return
			}
			arrived <- put{r.URL.Query().Get("comp"), body}
			serve(w, r, nil)
		})
		s := bed.SDK{}
		reader, writer := io.Pipe()
		uploaded := make(chan error, 1)
		go func() {
			options := &blockblob.UploadStreamOptions{BlockSize: block, Concurrency: 1}
			_, err := client(t, s.Transport(server.Client().Transport, nil), server.URL, false).
				UploadStream(t.Context(), reader, options)
			uploaded <- err
		}()
		for _, part := range [][]byte{content[:block], content[block : 2*block], content[2*block:]} {
			if _, err := writer.Write(part); err != nil {
				t.Fatal(err)
			}
			if len(part) < block {
				writer.Close()
			}
			select {
			case p := <-arrived: // while the reader waits for more
				if p.comp != "block" || !bytes.Equal(p.body, part) {
					t.Fatalf("a %q of %d bytes has come, which is not the part of %d",
						p.comp, len(p.body), len(part))
				}
			case err := <-uploaded:
				t.Fatal(err)
			case <-time.After(5 * time.Second):
				t.Fatal("the block is held back")
			}
		}
		if err := <-uploaded; err != nil {
			t.Fatal(err)
		}
		if p := <-arrived; p.comp != "blocklist" || tries.Load() != 8 {
			t.Errorf("%d requests, the last a %q", tries.Load(), p.comp)
		}
	})
}

func client(t *testing.T, base http.RoundTripper, url string, own bool) *blockblob.Client {
	made, err := blockblob.NewClientWithNoCredential(url+"/container/blob", &blockblob.ClientOptions{
		ClientOptions: options(base, own),
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func options(base http.RoundTripper, own bool) policy.ClientOptions {
	options := policy.ClientOptions{
		Transport: &http.Client{Transport: base}, Retry: policy.RetryOptions{MaxRetries: -1},
	}
	if own {
		// A negative RetryDelay is meant as none, and waits for MaxRetryDelay.
		options.Retry = policy.RetryOptions{MaxRetries: bed.Attempts - 1, RetryDelay: time.Millisecond}
	}
	return options
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("X-Ms-Request-Id", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")
	w.Header().Set("Etag", `"e"`)
	switch {
	case f != nil:
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("X-Ms-Error-Code", f.Code)
		w.WriteHeader(f.Status)
		fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`,
			f.Code, f.Message)
	case r.Method == http.MethodGet:
		io.WriteString(w, "content")
	default:
		w.WriteHeader(http.StatusCreated)
	}
}

func typed(err error) (status int, code, message string) {
	e, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok || !bloberror.HasCode(err, bloberror.Code(e.ErrorCode)) {
		return 0, "", ""
	}
	body, err := runtime.Payload(e.RawResponse)
	if err != nil {
		return 0, "", ""
	}
	_, rest, _ := strings.Cut(string(body), "<Message>")
	message, _, found := strings.Cut(rest, "</Message></Error>")
	if !found {
		return 0, "", ""
	}
	return e.StatusCode, e.ErrorCode, message
}
