package gitlab_test

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

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestGitLab creates an issue, a POST that is idempotent by the caller's word alone, puts a package,
// and reads an issue.
func TestGitLab(t *testing.T) {
	title := strings.Repeat("Fehler ", 20_000)
	sdk := bed.SDK{
		Busy: "busy", Missing: "", // a 404 is the SDK's ErrNotFound, which says no more
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
	}

	create := sdk
	create.Name, create.Answer = "Issues.CreateIssue", "7"
	create.Body, _ = json.Marshal(map[string]string{"title": title})
	create.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		issue, _, err := client(t, base, url, own).Issues.
			CreateIssue("a/b", &gitlab.CreateIssueOptions{Title: &title}, gitlab.WithContext(ctx))
		return number(issue, err)
	}
	create.Unsafe = true
	create.Edit = bed.Idempotent

	publish := sdk
	publish.Name, publish.Answer = "GenericPackages.PublishPackageFile", "f"
	publish.Body = bytes.Repeat([]byte("content "), 40<<10)
	publish.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		file, _, err := client(t, base, url, own).GenericPackages.PublishPackageFile("a/b", "p", "1", "f",
			bytes.NewReader(publish.Body), nil, gitlab.WithContext(ctx))
		if err != nil {
			return "", err
		}
		return file.FileName, nil
	}

	read := sdk
	read.Name, read.Answer = "Issues.GetIssue", "7"
	read.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		return number(first(client(t, base, url, own).Issues.GetIssue("a/b", 7, gitlab.WithContext(ctx))))
	}
	bed.Run(t, create, publish, read)
}

func first(issue *gitlab.Issue, _ *gitlab.Response, err error) (*gitlab.Issue, error) {
	return issue, err
}

func number(issue *gitlab.Issue, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return issue.Title, nil
}

func client(t *testing.T, base http.RoundTripper, url string, own bool) *gitlab.Client {
	options := []gitlab.ClientOptionFunc{
		gitlab.WithBaseURL(url), gitlab.WithHTTPClient(&http.Client{Transport: base}),
	}
	if own {
		options = append(options, gitlab.WithCustomRetryMax(bed.Attempts-1),
			gitlab.WithCustomBackoff(func(time.Duration, time.Duration, int, *http.Response) time.Duration {
				return 0
			}))
	} else {
		options = append(options, gitlab.WithoutRetries())
	}
	c, err := gitlab.NewClient("token", options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		io.WriteString(w, `{"id":70,"iid":7,"title":"7","file_name":"f"}`)
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(map[string]string{"error": f.Code, "message": f.Message})
}

func typed(err error) (status int, code, message string) {
	if errors.Is(err, gitlab.ErrNotFound) {
		return http.StatusNotFound, "", ""
	}
	e, ok := errors.AsType[*gitlab.ErrorResponse](err)
	if !ok {
		return 0, "", ""
	}
	var body struct{ Error, Message string }
	json.Unmarshal(e.Body, &body)
	return e.Response.StatusCode, body.Error, body.Message
}

// An archive is written as it comes.
func TestGitLabStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		parts := []string{"tar", "ball", "."}
		server := bed.Start(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			bed.Lockstep(w, got, parts...)
		})
		c := client(t, &steadyhttp.Transport{Base: server.Client().Transport}, server.URL, false)
		var read []string
		_, err := c.Repositories.StreamArchive("a/b", writer(func(piece []byte) {
			read = append(read, string(piece))
			got <- struct{}{}
		}), nil, gitlab.WithContext(t.Context()))
		if err != nil || !slices.Equal(read, parts) {
			t.Errorf("read %q: %v", read, err)
		}
	})
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
