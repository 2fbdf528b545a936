package google_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/googleapis/gax-go/v2"
	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/api/storage/v1"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestGoogle inserts an object in one part, a POST that is idempotent with ifGenerationMatch, and
// reads a bucket.
func TestGoogle(t *testing.T) {
	content := random(100 << 10)
	sdk := bed.SDK{
		Busy: "backendError", Missing: "notFound", Serve: serve, Typed: typed,
		Both: bed.Attempts * bed.Attempts,
		// The boundary and the call's number.
		Varies: []string{"Content-Type", "X-Goog-Api-Client", "X-Goog-Gcs-Idempotency-Token"},
	}

	insert := sdk
	insert.Name, insert.Answer = "Objects.Insert", "object"
	insert.Body, insert.Decoded = content, media
	insert.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		call := service(t, base, url).Objects.Insert("bucket", &storage.Object{Name: "object"}).
			Media(bytes.NewReader(content)).IfGenerationMatch(0).Context(ctx)
		object, err := call.WithRetry(retries(own)).Do()
		return name(object, err)
	}
	insert.Unsafe = true
	insert.Edit = func(rt *steadyhttp.Transport) { rt.Policy.Idempotent = matched }

	// The client has no retries of its own but for calls that ask for them, or uploads by parts.
	read := sdk
	read.Name, read.Answer = "Buckets.Get", "bucket"
	read.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, _ bool) (string, error) {
		bucket, err := service(t, base, url).Buckets.Get("bucket").Context(ctx).Do()
		if err != nil {
			return "", err
		}
		return bucket.Name, nil
	}
	read.Own, read.Both = func([]int, bool) int { return 0 }, 0
	bed.Run(t, insert, read)
}

// matched is docs/sdks.md's Idempotent: what is put in the place of a known generation, or of a
// session's bytes, is put there once.
func matched(r *http.Request) bool {
	return r.Method != http.MethodPost || r.URL.Query().Has("ifGenerationMatch") ||
		r.Header.Get("Content-Range") != ""
}

func random(size int) []byte {
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(content)
	return content
}

func name(object *storage.Object, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return object.Name, nil
}

// retries are for WithRetry, which knows no number of them.
func retries(own bool) (*gax.Backoff, func(error) bool) {
	if !own {
		return nil, func(error) bool { return false }
	}
	n := 1
	return &gax.Backoff{Initial: 1, Max: 1}, func(err error) bool {
		e, failed := errors.AsType[*googleapi.Error](err)
		if !failed || e.Code < 500 && e.Code != http.StatusTooManyRequests {
			return false
		}
		n++
		return n <= bed.Attempts
	}
}

func service(t *testing.T, base http.RoundTripper, url string) *storage.Service {
	s, err := storage.NewService(t.Context(),
		option.WithHTTPClient(&http.Client{Transport: base}), option.WithEndpoint(url+"/storage/v1/"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		fmt.Fprintf(w, `{"name":%q}`, map[string]string{"GET": "bucket", "POST": "object"}[r.Method])
		return
	}
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"reason":%q,"message":%[2]q}]}}`,
		f.Status, f.Message, f.Code)
}

func typed(err error) (status int, code, message string) {
	e, ok := errors.AsType[*googleapi.Error](err)
	if !ok || len(e.Errors) != 1 {
		return 0, "", ""
	}
	return e.Code, e.Errors[0].Reason, e.Message
}

// media returns the second part of a multipart upload: the first is the object's description.
func media(h http.Header, raw []byte) ([]byte, error) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if kind != "multipart/related" || err != nil {
		return raw, err
	}
	parts := multipart.NewReader(bytes.NewReader(raw), params["boundary"])
	if _, err = parts.NextPart(); err != nil {
		return nil, err
	}
	part, err := parts.NextPart()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(part)
}

// session is the server of one resumable upload. Its requests fail as told: 0 is a success.
type session struct {
	statuses []int
	asked    []string // Content-Range
	content  []byte
}

func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	span := r.Header.Get("Content-Range")
	s.asked = append(s.asked, span)
	status := 0
	if len(s.statuses) > 0 {
		status, s.statuses = s.statuses[0], s.statuses[1:]
	}
	if err != nil || status != 0 {
		w.Header().Set("Retry-After", "0")
		serve(w, r, &bed.Failure{Status: status, Code: "backendError"})
		return
	}
	if span == "" {
		w.Header().Set("Location", "http://"+r.Host+"/session")
		return
	}
	s.content = append(s.content, body...)
	if strings.HasSuffix(span, "/*") {
		w.Header().Set("X-Http-Status-Code-Override", "308")
		return
	}
	serve(w, r, nil)
}

// An upload by parts sends each part until it is there, by whose retries ever: the client's own are
// always on for these. By ours it takes the Idempotent, and both of them multiply.
func TestGoogleResumable(t *testing.T) {
	content := random(600 << 10)
	whole := []string{
		"", "bytes 0-262143/*", "bytes 262144-524287/*", "bytes 524288-614399/614400",
	}
	again := slices.Insert(slices.Clone(whole), 2, whole[1], whole[1])
	idempotent := steadyhttp.Policy{
		Idempotent: matched, NewBackOff: func() backoff.BackOff { return &backoff.ZeroBackOff{} },
	}
	for _, c := range []struct {
		name   string
		base   http.RoundTripper
		own    bool
		fails  []int
		want   []string
		answer string
	}{
		{"bare, all is well", http.DefaultTransport, false, nil, whole, "object"},
		{"all is well", &steadyhttp.Transport{}, false, nil, whole, "object"},
		{"own, a part fails", http.DefaultTransport, true, []int{0, 503, 503}, again, "object"},
		{"a part fails", &steadyhttp.Transport{Policy: idempotent}, false, []int{0, 503, 503}, again, "object"},
		{"a part fails, no Idempotent", &steadyhttp.Transport{}, false, []int{0, 503}, whole[:2], ""},
		{"a part fails, no Idempotent and own", &steadyhttp.Transport{}, true, []int{0, 503, 503}, again, "object"},
		{"a part is refused", &steadyhttp.Transport{}, false, []int{0, 429, 429}, again, "object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &session{statuses: c.fails}
			server := bed.Start(t, false, s.ServeHTTP)
			call := service(t, c.base, server.URL).Objects.
				Insert("bucket", &storage.Object{Name: "object"}).Context(t.Context()).
				Media(bytes.NewReader(content), googleapi.ChunkSize(256<<10))
			object, err := name(call.WithRetry(retries(c.own)).Do())
			if object != c.answer || (err == nil) != (c.answer != "") || !slices.Equal(s.asked, c.want) {
				t.Errorf("%q, %v\n%q, want\n%q", object, err, s.asked, c.want)
			}
			if err == nil && !bytes.Equal(s.content, content) {
				t.Errorf("%d bytes arrived that are not those of the content", len(s.content))
			}
		})
	}
	t.Run("both", func(t *testing.T) {
		s := &session{statuses: append([]int{0}, slices.Repeat([]int{503}, 100)...)}
		server := bed.Start(t, false, s.ServeHTTP)
		sdk := bed.SDK{Edit: func(rt *steadyhttp.Transport) { rt.Policy.Idempotent = matched }}
		rt := sdk.Transport(http.DefaultTransport, bed.NoBudget())
		call := service(t, rt, server.URL).Objects.
			Insert("bucket", &storage.Object{Name: "object"}).Context(t.Context()).
			Media(bytes.NewReader(content), googleapi.ChunkSize(256<<10))
		_, err := call.WithRetry(retries(true)).Do()
		if status, _, _ := typed(err); status != 503 || len(s.asked) != 1+bed.Attempts*bed.Attempts {
			t.Errorf("%d requests: %v", len(s.asked), err)
		}
	})
}

// A reader without parts has no GetBody and no length: it is sent once without MaxBuffer.
func TestGoogleUnbuffered(t *testing.T) {
	content := random(100 << 10)
	for maxBuffer, want := range map[int64]int{0: 1, 1 << 20: 2} {
		s := &session{statuses: []int{http.StatusTooManyRequests}}
		server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Content-Range", "bytes 0-102399/102400") // in one request
			s.ServeHTTP(w, r)
		})
		var stop steadyhttp.Stop
		ctx := steadyhttp.WithTrace(t.Context(), &steadyhttp.Trace{
			Done: func(_ context.Context, a steadyhttp.Attempt) { stop = a.Stop },
		})
		rt := &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: maxBuffer}}
		_, err := service(t, rt, server.URL).Objects.Insert("bucket", &storage.Object{Name: "object"}).
			Context(ctx).Media(bytes.NewReader(content), googleapi.ChunkSize(0)).Do()
		wantStop := steadyhttp.StopDone
		if want == 1 {
			wantStop = steadyhttp.StopBodyNotReplayable
		}
		if len(s.asked) != want || stop != wantStop || (err == nil) != (want == 2) {
			t.Errorf("MaxBuffer %d: %d attempts, %q, %v", maxBuffer, len(s.asked), stop, err)
		}
		if err == nil && !bytes.Contains(s.content, content) {
			t.Error("the content did not arrive whole")
		}
	}
}

// The client's own authentication is skipped; an oauth2.Transport below us brings each attempt the
// token of its time.
func TestGoogleOAuth2(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		var tokens []string
		server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			tokens = append(tokens, r.Header.Get("Authorization"))
			if len(tokens) == 1 {
				w.Header().Set("Retry-After", "0")
				serve(w, r, &bed.Failure{Status: http.StatusServiceUnavailable})
				return
			}
			serve(w, r, nil)
		})
		source := &counting{}
		rt := &steadyhttp.Transport{Base: &oauth2.Transport{Source: source, Base: server.Client().Transport}}
		_, err := service(t, rt, server.URL).Buckets.Get("bucket").Context(t.Context()).Do()
		if err != nil || !slices.Equal(tokens, []string{"Bearer t1", "Bearer t2"}) {
			t.Errorf("%q: %v", tokens, err)
		}
		// A token endpoint that fails is the call's error, and the call was never sent.
		source.err = &oauth2.RetrieveError{Response: &http.Response{StatusCode: http.StatusBadRequest}}
		_, err = service(t, rt, server.URL).Buckets.Get("bucket").Context(t.Context()).Do()
		if _, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || len(tokens) != 2 {
			t.Errorf("%d requests: %v", len(tokens), err)
		}
	})
}

type counting struct {
	n   atomic.Int64
	err error
}

func (c *counting) Token() (*oauth2.Token, error) {
	return &oauth2.Token{
		AccessToken: fmt.Sprintf("t%d", c.n.Add(1)), Expiry: time.Now().Add(time.Hour),
	}, c.err
}

// An object comes as it is sent.
func TestGoogleStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		parts := []string{"ob", "ject", "."}
		server := bed.Start(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			bed.Lockstep(w, got, parts...)
		})
		resp, err := service(t, &steadyhttp.Transport{Base: server.Client().Transport}, server.URL).
			Objects.Get("bucket", "object").Context(t.Context()).Download()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if read := bed.Pieces(t, resp.Body, got); !slices.Equal(read, parts) {
			t.Errorf("read %q", read)
		}
	})
}
