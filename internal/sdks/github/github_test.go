package github_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-github/v89/github"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestGoGitHub creates an issue, a POST that is idempotent by the caller's word alone, and reads a
// repository.
func TestGoGitHub(t *testing.T) {
	title := strings.Repeat("Fehler ", 20_000)
	sdk := bed.SDK{
		Busy: "busy", Missing: "missing", Serve: serve, Typed: typed,
		Own: func([]int, bool) int { return 0 }, // it has no retries but for sleeps at 403s
	}

	create := sdk
	create.Name, create.Answer = "Issues.Create", "7"
	create.Body = fmt.Appendf(nil, "{\"title\":%q}\n", title)
	create.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, _ bool) (string, error) {
		issue, _, err := client(t, base, url).Issues.
			Create(ctx, "a", "b", &github.IssueRequest{Title: &title})
		if err != nil {
			return "", err
		}
		return issue.GetTitle(), nil
	}
	create.Unsafe = true
	create.Edit = bed.Idempotent

	read := sdk
	read.Name, read.Answer = "Repositories.Get", "a/b"
	read.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, _ bool) (string, error) {
		return get(ctx, client(t, base, url))
	}
	bed.Run(t, create, read)
}

func get(ctx context.Context, c *github.Client) (string, error) {
	repository, _, err := c.Repositories.Get(ctx, "a", "b")
	if err != nil {
		return "", err
	}
	return repository.GetFullName(), nil
}

func client(t *testing.T, base http.RoundTripper, url string, options ...github.ClientOptionsFunc) *github.Client {
	url += "/"
	options = append(options, github.WithHTTPClient(&http.Client{Transport: base}), github.WithURLs(&url, &url))
	c, err := github.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	w.Header().Set("X-Github-Request-Id", "C0DE:1")
	if f == nil {
		io.WriteString(w, `{"title":"7","full_name":"a/b","name":"asset"}`)
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(map[string]any{
		"message": f.Message, "errors": []map[string]string{{"code": f.Code}},
	})
}

func typed(err error) (status int, code, message string) {
	e, ok := errors.AsType[*github.ErrorResponse](err)
	if !ok || len(e.Errors) != 1 {
		return 0, "", ""
	}
	return e.Response.StatusCode, e.Errors[0].Code, e.Message
}

// GitHub's limits are 403s: the primary one says when its window ends, the secondary one how long
// to wait. Both are waited out, and a POST too, since it was refused.
func TestGoGitHubLimits(t *testing.T) {
	primary := func(h http.Header, reset time.Time) {
		h.Set("X-Ratelimit-Limit", "60")
		h.Set("X-Ratelimit-Remaining", "0")
		h.Set("X-Ratelimit-Reset", fmt.Sprint(reset.Unix()))
	}
	type limit struct {
		body string
		set  func(http.Header, time.Duration)
	}
	limits := map[string]limit{
		"primary": {
			`{"message":"API rate limit exceeded for 192.0.2.1.",` +
				`"documentation_url":"https://docs.github.com/rest/rate-limits"}`,
			func(h http.Header, wait time.Duration) { primary(h, time.Now().Add(wait)) },
		},
		"secondary": {
			`{"message":"You have exceeded a secondary rate limit.",` +
				`"documentation_url":"https://docs.github.com/rest/overview/rate-limits#about-secondary-rate-limits"}`,
			func(h http.Header, wait time.Duration) {
				h.Set("Retry-After", fmt.Sprint(int(wait.Seconds())))
			},
		},
	}
	for name, l := range limits {
		t.Run(name, func(t *testing.T) {
			var times []time.Time
			wait := 2 * time.Second // a window's end has no fractions
			server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
				if times = append(times, time.Now()); len(times) > 1 {
					serve(w, r, nil)
					return
				}
				l.set(w.Header(), wait)
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, l.body)
			})
			issue, _, err := client(t, &steadyhttp.Transport{}, server.URL).Issues.
				Create(t.Context(), "a", "b", &github.IssueRequest{})
			if err != nil || issue.GetTitle() != "7" || len(times) != 2 {
				t.Fatalf("%v with %d attempts: %v", issue.GetTitle(), len(times), err)
			}
			if waited := times[1].Sub(times[0]); waited < wait-time.Second {
				t.Errorf("waited %v", waited)
			}

			// What takes longer than MaxWait is the SDK's own error, with the time in it.
			times, wait = nil, 30*time.Minute
			_, err = get(t.Context(), client(t, &steadyhttp.Transport{}, server.URL))
			rate, isRate := errors.AsType[*github.RateLimitError](err)
			abuse, isAbuse := errors.AsType[*github.AbuseRateLimitError](err)
			var resp *http.Response
			switch {
			case name == "primary" && isRate && time.Until(rate.Rate.Reset.Time) > wait-time.Minute:
				resp = rate.Response
			case name == "secondary" && isAbuse && abuse.GetRetryAfter() == wait:
				resp = abuse.Response
			default:
				t.Fatalf("got %T %v", err, err)
			}
			if len(times) != 1 {
				t.Errorf("%d attempts", len(times))
			}
			// The SDK puts a body of its own in the place of ours, which hides the attempt.
			if _, ok := steadyhttp.AttemptOf(resp); ok {
				t.Error("AttemptOf found an attempt: docs/sdks.md says that it doesn't")
			}
			checked, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp))
			if !ok || checked.Class != steadyhttp.Throttled || checked.Wait < wait-time.Minute {
				t.Errorf("Check: %+v", checked)
			}
		})
	}
	t.Run("a 403 that names no wait is final", func(t *testing.T) {
		n := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("X-Ratelimit-Remaining", "59")
			w.Header().Set("X-Ratelimit-Reset", fmt.Sprint(time.Now().Add(time.Minute).Unix()))
			serve(w, r, &bed.Failure{Status: http.StatusForbidden, Code: "forbidden"})
		})
		_, err := get(t.Context(), client(t, &steadyhttp.Transport{}, server.URL))
		if status, _, _ := typed(err); status != http.StatusForbidden || n != 1 {
			t.Errorf("%d attempts: %v", n, err)
		}
	})
}

// After the last answer of a window the SDK refuses calls by itself, without asking us: with
// WithDisableRateLimitCheck they are sent, and wait for the window.
func TestGoGitHubChecksLimitsItself(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		n := 0
		reset := time.Now().Add(2 * time.Second).Truncate(time.Second)
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("X-Ratelimit-Limit", "60")
			w.Header().Set("X-Ratelimit-Remaining", "0")
			w.Header().Set("X-Ratelimit-Reset", fmt.Sprint(reset.Unix()))
			if n == 2 {
				serve(w, r, &bed.Failure{Status: http.StatusForbidden})
				return
			}
			serve(w, r, nil)
		})
		var options []github.ClientOptionsFunc
		want := 1
		if disabled {
			options = append(options, github.WithDisableRateLimitCheck())
			want = 3
		}
		c := client(t, &steadyhttp.Transport{}, server.URL, options...)
		if _, err := get(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		_, err := get(t.Context(), c)
		if _, refused := errors.AsType[*github.RateLimitError](err); refused == disabled || n != want {
			t.Errorf("disabled %t: %d requests, want %d: %v", disabled, n, want, err)
		}
	}
}

// A file has a GetBody. What goes out of another reader is sent once, without MaxBuffer, if there
// is more of it than 256 KiB.
func TestGoGitHubUpload(t *testing.T) {
	content := bytes.Repeat([]byte("asset "), 50<<10)
	path := filepath.Join(t.TempDir(), "asset")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		name      string
		body      io.Reader
		maxBuffer int64
		want      int
		stop      steadyhttp.Stop
	}{
		{"a file", file, 0, 2, steadyhttp.StopDone},
		{"a reader", io.MultiReader(bytes.NewReader(content)), 0, 1, steadyhttp.StopBodyNotReplayable},
		{"a reader with MaxBuffer", io.MultiReader(bytes.NewReader(content)), 1 << 20, 2, steadyhttp.StopDone},
	} {
		n := 0
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			n++
			if body, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(body, content) {
				t.Errorf("%s: attempt %d has %d bytes: %v", c.name, n, len(body), err)
			}
			if n == 1 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			serve(w, r, nil)
		})
		var stop steadyhttp.Stop
		ctx := steadyhttp.WithTrace(t.Context(), &steadyhttp.Trace{
			Done: func(_ context.Context, a steadyhttp.Attempt) { stop = a.Stop },
		})
		rt := &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: c.maxBuffer}}
		release := &github.RepositoryRelease{UploadURL: server.URL + "/assets{?name,label}"}
		_, _, err := client(t, rt, server.URL).Repositories.UploadReleaseAssetFromRelease(
			ctx, release, &github.UploadOptions{Name: "asset"}, c.body, int64(len(content)))
		if n != c.want || stop != c.stop || (err == nil) != (n == 2) {
			t.Errorf("%s: %d attempts, %q, %v; want %d, %q", c.name, n, stop, err, c.want, c.stop)
		}
	}
}

// An asset comes as it is sent.
func TestGoGitHubStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		parts := []string{"as", "set", "."}
		server := bed.Start(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			bed.Lockstep(w, got, parts...)
		})
		body, _, err := client(t, &steadyhttp.Transport{Base: server.Client().Transport}, server.URL).
			Repositories.DownloadReleaseAsset(t.Context(), "a", "b", 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if read := bed.Pieces(t, body, got); !slices.Equal(read, parts) {
			t.Errorf("read %q", read)
		}
	})
}

// The proxy of the environment is for the base: the SDK says so.
func TestGoGitHubProxy(t *testing.T) {
	hc := &http.Client{Transport: &steadyhttp.Transport{}}
	if _, err := github.NewClient(github.WithHTTPClient(hc), github.WithEnvProxy()); err == nil {
		t.Error("WithEnvProxy sets the proxy of a foreign transport: docs/sdks.md says otherwise")
	}
}
