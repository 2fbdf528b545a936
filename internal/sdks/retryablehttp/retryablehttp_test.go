package retryablehttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestRetryableHTTP is its client around ours: a PUT out of memory and out of what it can only
// rewind, a POST that is idempotent by the caller's word alone, and a GET.
func TestRetryableHTTP(t *testing.T) {
	sdk := bed.SDK{
		Answer: "42", Busy: "busy", Missing: "missing", Serve: serve, Typed: typed,
		Both: bed.Attempts * bed.Attempts,
	}
	call := func(method string, body func() any) func(
		*testing.T, context.Context, http.RoundTripper, string, bool) (string, error) {
		return func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
			req, err := retryablehttp.NewRequestWithContext(ctx, method, url+"/things/7", body())
			if err != nil {
				return "", err
			}
			return answerOf(client(base, own).Do(req))
		}
	}
	body := bytes.Repeat([]byte("Zeile "), 20_000)
	inMemory := func() any { return body }

	put := sdk
	put.Name, put.Body, put.Call = "PUT", body, call("PUT", inMemory)

	rewound := sdk
	rewound.Name, rewound.Body = "PUT out of a ReadSeeker", body
	rewound.Call = call("PUT", func() any { return struct{ io.ReadSeeker }{bytes.NewReader(body)} })

	post := sdk
	post.Name, post.Body, post.Call = "POST", body, call("POST", inMemory)
	post.Unsafe = true
	post.Edit = bed.Idempotent

	get := sdk
	get.Name, get.Call = "GET", call("GET", func() any { return nil })
	bed.Run(t, put, rewound, post, get)
}

func client(base http.RoundTripper, own bool) *retryablehttp.Client {
	c := retryablehttp.NewClient()
	c.HTTPClient = &http.Client{Transport: base}
	c.Logger = nil
	if own {
		c.RetryMax = bed.Attempts - 1 // 4 by default
		c.Backoff = func(time.Duration, time.Duration, int, *http.Response) time.Duration { return 0 }
		c.ErrorHandler = retryablehttp.PassthroughErrorHandler
	} else {
		c.CheckRetry = never
	}
	return c
}

// never is docs/sdks.md's.
func never(context.Context, *http.Response, error) (bool, error) { return false, nil }

type failure struct {
	Code, Message string
	status        int
}

func (f *failure) Error() string { return fmt.Sprintf("%d %s", f.status, f.Code) }

func answerOf(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		f := &failure{status: resp.StatusCode}
		if err := json.Unmarshal(body, f); err != nil {
			return "", err
		}
		return "", f
	}
	return string(body), nil
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	if f == nil {
		io.WriteString(w, "42")
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(failure{Code: f.Code, Message: f.Message})
}

func typed(err error) (status int, code, message string) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status, f.Code, f.Message
	}
	return 0, "", ""
}

// With RetryMax 0 alone the last answer is thrown away, and an error without its body is made of
// it; with CheckRetry it is returned, and AttemptOf finds our attempt behind it.
func TestRetryableHTTPLastAnswer(t *testing.T) {
	server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "0")
		serve(w, r, &bed.Failure{Status: http.StatusServiceUnavailable, Code: "busy"})
	})
	sdk := bed.SDK{}
	rt := sdk.Transport(http.DefaultTransport, bed.NoBudget())
	c := client(rt, true)
	c.RetryMax, c.ErrorHandler = 0, nil
	if resp, err := c.Get(server.URL); err == nil || resp != nil || !strings.Contains(err.Error(), "giving up after 1 attempt") {
		t.Errorf("RetryMax 0 returns %v, %v: docs/sdks.md says otherwise", resp, err)
	}
	resp, err := client(rt, false).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if a, ok := steadyhttp.AttemptOf(resp); !ok || a.N != bed.Attempts || a.Stop != steadyhttp.StopAttempts {
		t.Errorf("AttemptOf: %+v, %t", a, ok)
	}
	if _, err := answerOf(resp, nil); fmt.Sprint(err) != "503 busy" {
		t.Errorf("the answer is %v", err)
	}
}

// A download comes as it is sent.
func TestRetryableHTTPStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		parts := []string{"one", "two", "three"}
		server := bed.Start(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			bed.Lockstep(w, got, parts...)
		})
		resp, err := client(&steadyhttp.Transport{Base: server.Client().Transport}, false).Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if read := bed.Pieces(t, resp.Body, got); !slices.Equal(read, parts) {
			t.Errorf("read %q", read)
		}
	})
}
