package openai_test

import (
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

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestOpenAI asks for a completion, a POST that is idempotent by the caller's word alone, and reads
// a model.
func TestOpenAI(t *testing.T) {
	params := question(strings.Repeat("Warum? ", 20_000))
	body, err := params.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	sdk := bed.SDK{
		Busy: "overloaded", Missing: "model_not_found",
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
	}

	chat := sdk
	chat.Name, chat.Answer, chat.Body = "Chat.Completions.New", "because", body
	chat.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		c := client(base, url, own)
		answer, err := c.Chat.Completions.New(ctx, params)
		if err != nil {
			return "", err
		}
		return answer.Choices[0].Message.Content, nil
	}
	chat.Unsafe = true
	chat.Edit = bed.Idempotent

	read := sdk
	read.Name, read.Answer = "Models.Get", "gpt"
	read.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		c := client(base, url, own)
		model, err := c.Models.Get(ctx, "gpt")
		if err != nil {
			return "", err
		}
		return model.ID, nil
	}
	bed.Run(t, chat, read)
}

func question(text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    "gpt",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
	}
}

func client(base http.RoundTripper, url string, own bool) openai.Client {
	retries := 0
	if own {
		retries = bed.Attempts - 1
	}
	return openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("key"),
		option.WithHTTPClient(&http.Client{Transport: base}), option.WithMaxRetries(retries))
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		io.WriteString(w, `{"id":"gpt","choices":[{"message":{"role":"assistant","content":"because"}}]}`)
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(map[string]any{
		"error": map[string]string{"code": f.Code, "message": f.Message, "type": "server_error"},
	})
}

func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*openai.Error](err); ok {
		return e.StatusCode, e.Code, e.Message
	}
	return 0, "", ""
}

// Events arrive while the server keeps the stream open, after a 429 too.
func TestOpenAIStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		var events []string
		words := []string{"be", "cause", "."}
		for _, word := range words {
			events = append(events, fmt.Sprintf("data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", word))
		}
		n := 0
		server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || !strings.Contains(string(body), `"stream":true`) {
				t.Errorf("asked with %q: %v", body, err)
			}
			if n++; n == 1 {
				w.Header().Set("Retry-After", "0")
				serve(w, r, &bed.Failure{Status: http.StatusTooManyRequests})
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			bed.Lockstep(w, got, append(events, "data: [DONE]\n\n")...)
		})
		c := client(&steadyhttp.Transport{Base: server.Client().Transport}, server.URL, false)
		stream := c.Chat.Completions.NewStreaming(t.Context(), question("Warum?"))
		defer stream.Close()
		var read []string
		for stream.Next() {
			read = append(read, stream.Current().Choices[0].Delta.Content)
			got <- struct{}{}
		}
		if err := stream.Err(); err != nil || n != 2 || !slices.Equal(read, words) {
			t.Errorf("read %q with %d attempts: %v", read, n, err)
		}
	})
}

// The SDK puts a body of its own in the place of ours: AttemptOf finds nothing there, and Check does.
func TestOpenAIErrorsAndCheck(t *testing.T) {
	server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "req_1")
		serve(w, r, &bed.Failure{Status: http.StatusNotFound, Code: "model_not_found", Message: "no model"})
	})
	c := client(&steadyhttp.Transport{}, server.URL, false)
	_, err := c.Models.Get(t.Context(), "gpt")
	e, ok := errors.AsType[*openai.Error](err)
	if !ok {
		t.Fatalf("got %T %v", err, err)
	}
	if a, ok := steadyhttp.AttemptOf(e.Response); ok {
		t.Errorf("AttemptOf found %v: docs/sdks.md says that it doesn't", a)
	}
	checked, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(e.Response))
	if !ok || checked.Code != "model_not_found" || checked.StatusCode != 404 || checked.TrackingID != "req_1" {
		t.Errorf("Check: %+v", checked)
	}
}

// Of a wait that RequestTimeout leaves no time for, the service's answer comes at once, as the SDK's
// own error, and not a timeout later: the SDK's bound is over our attempts and their waits.
func TestOpenAIRequestTimeout(t *testing.T) {
	for after, want := range map[string]steadyhttp.Stop{"0": steadyhttp.StopDone, "30": steadyhttp.StopDeadline} {
		n := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			if n++; n > 1 {
				serve(w, r, nil)
				return
			}
			w.Header().Set("Retry-After", after)
			serve(w, r, &bed.Failure{Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Message: "slow down"})
		})
		c := client(&steadyhttp.Transport{}, server.URL, false)
		ctx, stop := bed.Stopped(t.Context())
		began := time.Now()
		_, err := c.Models.Get(ctx, "gpt", option.WithRequestTimeout(20*time.Second))
		status, code, _ := typed(err)
		if want == steadyhttp.StopDone {
			if err != nil || n != 2 {
				t.Errorf("Retry-After %s: %d requests, %v", after, n, err)
			}
		} else if status != 429 || code != "rate_limit_exceeded" || n != 1 || time.Since(began) > 10*time.Second {
			t.Errorf("Retry-After %s: %d requests, %v after %v", after, n, err, time.Since(began))
		}
		if *stop != want {
			t.Errorf("Retry-After %s: %q, want %q", after, *stop, want)
		}
	}
}

// A 409 is final by default, unlike with the SDK's own retries; ByStatus makes it one that may pass.
func TestOpenAIConflict(t *testing.T) {
	conflicts := &steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{409: steadyhttp.Transient}}
	for _, c := range []struct {
		name string
		base http.RoundTripper
		own  bool
		want int
	}{
		{"its own retries", http.DefaultTransport, true, 2},
		{"ours", &steadyhttp.Transport{}, false, 1},
		{"ours with ByStatus", &steadyhttp.Transport{Classify: conflicts.Classify}, false, 2},
	} {
		n := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			if n++; n > 1 {
				serve(w, r, nil)
				return
			}
			w.Header().Set("Retry-After", "0")
			serve(w, r, &bed.Failure{Status: http.StatusConflict})
		})
		sdk := client(c.base, server.URL, c.own)
		if _, err := sdk.Models.Get(t.Context(), "gpt"); n != c.want || (err == nil) != (n == 2) {
			t.Errorf("%s: %d attempts, want %d: %v", c.name, n, c.want, err)
		}
	}
}
