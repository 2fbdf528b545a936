package slack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slack-go/slack"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestSlack posts a message, and asks for its address.
func TestSlack(t *testing.T) {
	text := strings.Repeat("Zeitüberschreitung & more ", 3000)
	sdk := bed.SDK{Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts}

	post := sdk
	post.Name, post.Answer = "PostMessage", "C1 1.2"
	post.Body = []byte(url.Values{"channel": {"C1"}, "text": {text}, "token": {"token"}}.Encode())
	post.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		channel, at, err := client(base, url, own).
			PostMessageContext(ctx, "C1", slack.MsgOptionText(text, false))
		if err != nil {
			return "", err
		}
		return channel + " " + at, nil
	}
	post.Unsafe = true
	post.Edit = bed.Idempotent

	read := sdk
	read.Name, read.Answer = "GetPermalink", "https://link.example"
	read.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		return client(base, url, own).
			GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: "C1", Ts: "1.2"})
	}
	bed.Run(t, post, read)
}

func client(base http.RoundTripper, url string, own bool) *slack.Client {
	options := []slack.Option{
		slack.OptionHTTPClient(&http.Client{Transport: base}), slack.OptionAPIURL(url + "/"),
	}
	if own { // OptionRetry is for 429 alone
		config := slack.RetryConfig{
			MaxRetries: bed.Attempts - 1, BackoffInitial: 1, BackoffMax: 1,
		}
		config.Handlers = []slack.RetryHandler{
			slack.NewRateLimitErrorRetryHandler(config), slack.NewServerErrorRetryHandler(config),
		}
		options = append(options, slack.OptionRetryConfig(config))
	}
	return slack.New("token", options...)
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	if f == nil {
		io.WriteString(w, `{"ok":true,"channel":"C1","ts":"1.2","permalink":"https://link.example"}`)
		return
	}
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, "<html>%s</html>", f.Message)
}

// typed tells no code and no message: the SDK reads no body of an error.
func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[slack.StatusCodeError](err); ok {
		return e.Code, "", ""
	}
	return 0, "", ""
}

// A 429 that asks for more than MaxWait is the SDK's own error, with the time in it.
func TestSlackRateLimit(t *testing.T) {
	server := bed.Start(t, false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	_, err := client(&steadyhttp.Transport{}, server.URL, false).AuthTestContext(t.Context())
	if e, ok := errors.AsType[*slack.RateLimitedError](err); !ok || e.RetryAfter != 10*time.Minute {
		t.Errorf("got %T %v", err, err)
	}
}

// A file goes out of a reader through a pipe, which nobody can rewind: without MaxBuffer it is sent
// once, and with it a 429 is waited out.
func TestSlackUpload(t *testing.T) {
	content := strings.Repeat("line\n", 20_000)
	for maxBuffer, want := range map[int64]int{0: 1, 1 << 20: 2} {
		sent := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/files.getUploadURLExternal":
				json.NewEncoder(w).Encode(map[string]any{
					"ok": true, "file_id": "F1", "upload_url": "http://" + r.Host + "/there",
				})
			case "/there":
				body, err := io.ReadAll(r.Body)
				if sent++; err != nil || strings.Count(string(body), content) != 1 {
					t.Errorf("attempt %d has %d bytes: %v", sent, len(body), err)
				}
				if sent == 1 {
					w.Header().Set("Retry-After", "0")
					w.WriteHeader(http.StatusTooManyRequests)
				}
			default:
				io.WriteString(w, `{"ok":true,"files":[{"id":"F1"}]}`)
			}
		})
		var stop steadyhttp.Stop
		rt := &steadyhttp.Transport{
			Policy: steadyhttp.Policy{MaxBuffer: maxBuffer},
			Trace: &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) {
				if a.Request.URL.Path == "/there" {
					stop = a.Stop
				}
			}},
		}
		_, err := client(rt, server.URL, false).UploadFileContext(t.Context(), slack.UploadFileParameters{
			Filename: "log.txt", FileSize: len(content), Reader: strings.NewReader(content),
		})
		wantStop := steadyhttp.StopDone
		if want == 1 {
			wantStop = steadyhttp.StopBodyNotReplayable
		}
		if sent != want || stop != wantStop || (err == nil) != (want == 2) {
			t.Errorf("MaxBuffer %d: %d attempts, %q, %v; want %d, %q", maxBuffer, sent, stop, err, want, wantStop)
		}
	}
}
