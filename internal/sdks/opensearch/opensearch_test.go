package opensearch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opensearch-project/opensearch-go/v4"
	"github.com/opensearch-project/opensearch-go/v4/opensearchapi"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestOpenSearch puts a document, searches, a POST that is idempotent by the caller's word alone,
// and gets a document.
func TestOpenSearch(t *testing.T) {
	body, err := json.Marshal(map[string]string{"query": strings.Repeat("Fehler ", 20_000)})
	if err != nil {
		t.Fatal(err)
	}
	sdk := bed.SDK{
		Busy: "unavailable_shards_exception", Missing: "index_not_found_exception",
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
		Own: func(statuses []int, forever bool) int { // it retries 502, 503 and 504
			final := func(status int) bool { return status == 500 || status == 429 }
			switch i := slices.IndexFunc(statuses, final); {
			case i >= 0:
				return i + 1
			case forever:
				return bed.Attempts
			}
			return len(statuses) + 1
		},
		// It asks a node that fails what it is, in the background.
		Counts: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/logs/") },
	}

	index := sdk
	index.Name, index.Answer, index.Body = "Index", "7", body
	index.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		resp, err := client(t, base, url, own).Index(ctx, opensearchapi.IndexReq{
			Index: "logs", DocumentID: "7", Body: bytes.NewReader(body),
		})
		if err != nil {
			return "", err
		}
		return resp.ID, nil
	}

	search := sdk
	search.Name, search.Answer, search.Body = "Search", "true", body
	search.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		resp, err := client(t, base, url, own).Search(ctx, &opensearchapi.SearchReq{
			Indices: []string{"logs"}, Body: bytes.NewReader(body),
		})
		if err != nil {
			return "", err
		}
		return map[int]string{3: "true"}[resp.Took], nil
	}
	search.Unsafe = true
	search.Edit = func(rt *steadyhttp.Transport) {
		rt.Policy.Idempotent = func(r *http.Request) bool {
			return r.Method != http.MethodPost || strings.HasSuffix(r.URL.Path, "/_search")
		}
	}

	get := sdk
	get.Name, get.Answer = "Document.Get", "7"
	get.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		resp, err := client(t, base, url, own).Document.
			Get(ctx, opensearchapi.DocumentGetReq{Index: "logs", DocumentID: "7"})
		if err != nil {
			return "", err
		}
		return resp.ID, nil
	}
	bed.Run(t, index, search, get)
}

func client(t *testing.T, base http.RoundTripper, url string, own bool) *opensearchapi.Client {
	config := opensearch.Config{
		Addresses: []string{url}, Transport: base, DisableRetry: true,
		HealthCheckMaxRetries: -1, // of nodes, in the background
	}
	if own {
		config.DisableRetry, config.MaxRetries = false, bed.Attempts-1 // 6 by default
		config.RetryBackoff = func(int) time.Duration { return 0 }
	}
	c, err := opensearchapi.NewClient(opensearchapi.Config{Client: config})
	if err != nil {
		t.Fatal(err)
	}
	// It goes on asking nodes that failed, who may be others' servers by then.
	t.Cleanup(func() { c.Close() })
	return c
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		io.WriteString(w, `{"_id":"7","found":true,"took":3}`)
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(map[string]any{
		"status": f.Status, "error": map[string]string{"type": f.Code, "reason": f.Message},
	})
}

func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*opensearch.StructError](err); ok {
		return e.Status, e.Err.Type, e.Err.Reason
	}
	return 0, "", ""
}

// Certificates are for the base: over a foreign transport the SDK's options are errors.
func TestOpenSearchCertificates(t *testing.T) {
	for name, config := range map[string]opensearch.Config{
		"CACert":             {CACert: []byte("pem")},
		"InsecureSkipVerify": {InsecureSkipVerify: true},
	} {
		config.Transport = &steadyhttp.Transport{}
		if _, err := opensearch.NewClient(config); err == nil || !strings.Contains(err.Error(), "*steadyhttp.Transport") {
			t.Errorf("%s: %v; docs/sdks.md says that it is an error", name, err)
		}
	}
}

// A body of unknown length, as a pipe to _bulk, is sent once without MaxBuffer.
func TestOpenSearchBulk(t *testing.T) {
	lines := strings.Repeat("{\"index\":{}}\n{\"a\":1}\n", 10_000)
	for maxBuffer, want := range map[int64]int{0: 1, 1 << 20: 2} {
		n := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			n++
			if got, err := io.ReadAll(r.Body); err != nil || string(got) != lines {
				t.Errorf("attempt %d has %d bytes: %v", n, len(got), err)
			}
			if n == 1 {
				w.Header().Set("Retry-After", "0")
				serve(w, r, &bed.Failure{Status: http.StatusTooManyRequests, Code: "rejected"})
				return
			}
			io.WriteString(w, `{"took":3,"errors":false,"items":[]}`)
		})
		var stop steadyhttp.Stop
		ctx := steadyhttp.WithTrace(t.Context(), &steadyhttp.Trace{
			Done: func(_ context.Context, a steadyhttp.Attempt) { stop = a.Stop },
		})
		reader, writer := io.Pipe()
		go func() {
			io.WriteString(writer, lines)
			writer.Close()
		}()
		rt := &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: maxBuffer}}
		_, err := client(t, rt, server.URL, false).Bulk(ctx, opensearchapi.BulkReq{Index: "logs", Body: reader})
		wantStop := steadyhttp.StopDone
		if want == 1 {
			wantStop = steadyhttp.StopBodyNotReplayable
		}
		if n != want || stop != wantStop || (err == nil) != (want == 2) {
			t.Errorf("MaxBuffer %d: %d attempts, %q, %v", maxBuffer, n, stop, err)
		}
	}
}

// RequestTimeout is a deadline over our attempts and their waits: a longer wait is not begun.
func TestOpenSearchRequestTimeout(t *testing.T) {
	n := 0
	server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Retry-After", "30")
		serve(w, r, &bed.Failure{Status: http.StatusTooManyRequests, Code: "rejected"})
	})
	c, err := opensearchapi.NewClient(opensearchapi.Config{Client: opensearch.Config{
		Addresses: []string{server.URL}, Transport: &steadyhttp.Transport{}, DisableRetry: true,
		RequestTimeout: 20 * time.Second,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var stop steadyhttp.Stop
	ctx := steadyhttp.WithTrace(t.Context(), &steadyhttp.Trace{
		Done: func(_ context.Context, a steadyhttp.Attempt) { stop = a.Stop },
	})
	_, err = c.Document.Get(ctx, opensearchapi.DocumentGetReq{Index: "logs", DocumentID: "7"})
	if status, _, _ := typed(err); status != http.StatusTooManyRequests || n != 1 || stop != steadyhttp.StopDeadline {
		t.Errorf("%d attempts, %q: %v", n, stop, err)
	}
}
