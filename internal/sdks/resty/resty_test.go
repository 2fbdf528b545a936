package resty_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"resty.dev/v3"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestResty puts, posts, which is idempotent by the caller's word alone, and gets.
func TestResty(t *testing.T) {
	sdk := bed.SDK{
		Answer: "42", Busy: "busy", Missing: "missing", Serve: serve, Typed: typed,
		Both: bed.Attempts * bed.Attempts,
	}
	call := func(method string, body []byte) func(
		*testing.T, context.Context, http.RoundTripper, string, bool) (string, error) {
		return func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
			c := client(base, own)
			defer c.Close()
			r := c.R().SetContext(ctx).SetResult(&answer{}).SetResultError(&failure{})
			if body != nil {
				r.SetBody(body).SetContentType("application/json")
			}
			resp, err := r.Execute(method, url+"/things/7")
			switch {
			case err != nil:
				return "", err
			case resp.IsStatusFailure():
				f := resp.ResultError().(*failure)
				f.status = resp.StatusCode()
				return "", f
			}
			return fmt.Sprint(resp.Result().(*answer).Value), nil
		}
	}
	body := fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("Zeile ", 20_000))

	put := sdk
	put.Name, put.Body, put.Call = "PUT", body, call("PUT", body)

	post := sdk
	post.Name, post.Body, post.Call = "POST", body, call("POST", body)
	post.Unsafe = true
	post.Edit = bed.Idempotent

	get := sdk
	get.Name, get.Call = "GET", call("GET", nil)
	bed.Run(t, put, post, get)
}

type answer struct{ Value int }

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	status  int
}

func (f *failure) Error() string { return f.Code }

func client(base http.RoundTripper, own bool) *resty.Client {
	c := resty.NewWithClient(&http.Client{Transport: base})
	if own {
		// By default it retries no status, and no POST.
		c.SetRetryCount(bed.Attempts-1).SetRetryWaitTime(1).SetRetryMaxWaitTime(1).
			SetRetryAllowNonIdempotent(true).
			AddRetryConditions(resty.RetryConditionStatus5XX, resty.RetryConditionStatusTooManyRequests)
	}
	return c
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		io.WriteString(w, `{"value":42}`)
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

// logged keeps what the client says in its log and nowhere else.
type logged struct{ errors []string }

func (l *logged) Errorf(format string, v ...any) {
	l.errors = append(l.errors, fmt.Sprintf(format, v...))
}
func (l *logged) Warnf(string, ...any)  {}
func (l *logged) Debugf(string, ...any) {}

// The settings of a connection are for the base: over a foreign transport they end in the log.
func TestRestySettings(t *testing.T) {
	for name, set := range map[string]func(*resty.Client){
		"SetTLSClientConfig": func(c *resty.Client) { c.SetTLSClientConfig(&tls.Config{}) },
		"SetProxy":           func(c *resty.Client) { c.SetProxy("http://proxy.example") },
		"SetCertificates":    func(c *resty.Client) { c.SetCertificates(tls.Certificate{}) },
	} {
		log := &logged{}
		c := client(&steadyhttp.Transport{}, false).SetLogger(log)
		set(c)
		c.Close()
		if len(log.errors) != 1 || !strings.Contains(log.errors[0], "Transport") {
			t.Errorf("%s: the log says %q; docs/sdks.md says that it only logs", name, log.errors)
		}
	}
}

// A reader is sent as it is: one that is no bytes.Reader and the like has no GetBody and no length.
func TestRestyReader(t *testing.T) {
	content := bytes.Repeat([]byte("line\n"), 1000)
	for maxBuffer, want := range map[int64]int{0: 1, 1 << 20: 2} {
		n := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			n++
			if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, content) {
				t.Errorf("attempt %d has %d bytes: %v", n, len(got), err)
			}
			if n == 1 {
				w.Header().Set("Retry-After", "0")
				serve(w, r, &bed.Failure{Status: http.StatusTooManyRequests})
				return
			}
			serve(w, r, nil)
		})
		var stop steadyhttp.Stop
		ctx := steadyhttp.WithTrace(t.Context(), &steadyhttp.Trace{
			Done: func(_ context.Context, a steadyhttp.Attempt) { stop = a.Stop },
		})
		rt := &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: maxBuffer}}
		c := client(rt, false)
		resp, err := c.R().SetContext(ctx).SetBody(io.MultiReader(bytes.NewReader(content))).Put(server.URL)
		if err == nil {
			resp.Bytes() // it has read nothing before, and a success is done when it is read
		}
		wantStop := steadyhttp.StopDone
		if want == 1 {
			wantStop = steadyhttp.StopBodyNotReplayable
		}
		if err != nil || n != want || stop != wantStop || resp.IsStatusSuccess() != (want == 2) {
			t.Errorf("MaxBuffer %d: %d attempts, %q, %v", maxBuffer, n, stop, err)
		}
		c.Close()
	}
}

// Events arrive while the server keeps the stream open, after a 503 too. The source's own retries
// are others than the client's, and on by default.
func TestRestyEvents(t *testing.T) {
	for name, c := range map[string]struct {
		forever bool
		retries int
		want    int
	}{
		"as docs/sdks.md says": {false, 0, 2},
		"503 for ever":         {true, 0, bed.Attempts},
		"both":                 {true, bed.Attempts - 1, bed.Attempts * bed.Attempts},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan struct{}, 16)
			words := []string{"be", "cause", "."}
			var mu sync.Mutex
			n := 0
			server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if n++; n == 1 || c.forever {
					w.Header().Set("Retry-After", "0")
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				var events []string
				for _, word := range words {
					events = append(events, "data: "+word+"\n\n")
				}
				bed.Lockstep(w, got, events...)
			})
			var read []string
			sdk := bed.SDK{}
			source := resty.NewSSESource().SetURL(server.URL).
				SetTransport(sdk.Transport(http.DefaultTransport, bed.NoBudget())).
				SetRetryCount(c.retries).SetRetryWaitTime(time.Millisecond).
				OnMessage(func(e any) {
					read = append(read, e.(*resty.SSE).Data)
					got <- struct{}{}
				}, nil)
			err := source.Get() // a stream's end is an io.EOF to it
			mu.Lock()
			defer mu.Unlock()
			if n != c.want || !c.forever && (!errors.Is(err, io.EOF) || !slices.Equal(read, words)) {
				t.Errorf("read %q with %d attempts, want %d: %v", read, n, c.want, err)
			}
		})
	}
}

// A download comes as it is sent.
func TestRestyStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		parts := []string{"one", "two", "three"}
		server := bed.Start(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			bed.Lockstep(w, got, parts...)
		})
		c := client(&steadyhttp.Transport{Base: server.Client().Transport}, false)
		defer c.Close()
		resp, err := c.R().SetContext(t.Context()).SetResponseDoNotParse(true).Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if read := bed.Pieces(t, resp.Body, got); !slices.Equal(read, parts) {
			t.Errorf("read %q", read)
		}
	})
}
