package containerregistry_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestRemote pulls a manifest. Each pull begins with a ping of its own.
func TestRemote(t *testing.T) {
	bed.Run(t, bed.SDK{
		Name: "Get", Answer: manifest, Busy: "TOOMANYREQUESTS", Missing: "MANIFEST_UNKNOWN",
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			ref, err := name.ParseReference(strings.SplitN(url, "://", 2)[1] + "/a/b:latest")
			if err != nil {
				return "", err
			}
			got, err := remote.Get(ref, options(ctx, base, own)...)
			if err != nil {
				return "", err
			}
			return string(got.Manifest), nil
		},
		Counts: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") },
		Serve:  serve, Typed: typed, Both: bed.Attempts * bed.Attempts, MaxError: 64 << 10,
	})
}

// TestRemoteLayerStreams: what is there of a layer is read while the registry has not sent the
// rest.
func TestRemoteLayerStreams(t *testing.T) {
	digest := sha256.Sum256([]byte("onetwothree"))
	ping := func(w http.ResponseWriter, r *http.Request) bool { return r.URL.Path == "/v2/" }
	bed.Download(t, ping, func(
		t *testing.T, base http.RoundTripper, url string,
	) (io.ReadCloser, error) {
		host := strings.SplitN(url, "://", 2)[1]
		ref, err := name.NewDigest(host + "/a/b@sha256:" + hex.EncodeToString(digest[:]))
		if err != nil {
			return nil, err
		}
		layer, err := remote.Layer(ref, options(t.Context(), base, false)...)
		if err != nil {
			return nil, err
		}
		return layer.Compressed()
	})
}

// TestRemotePush: of a push, we send again what is idempotent. A POST or PATCH that is refused
// needs the SDK to begin its upload anew, which is why its retries stay on.
func TestRemotePush(t *testing.T) {
	content := bed.Random(300 << 10)
	for _, c := range []struct {
		own  bool
		want string
	}{
		{true, "HEAD HEAD POST, HEAD POST PATCH, HEAD POST PATCH PUT PUT"},
		{false, "HEAD HEAD POST"},
	} {
		var mu sync.Mutex // guards what follows
		var got, stored string
		failed := map[string]bool{}
		server := bed.Start(t, true, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if r.URL.Path == "/v2/" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			separator := " "
			if r.Method == http.MethodHead && !strings.HasSuffix(got, "HEAD") {
				separator = ", "
			}
			got += separator + r.Method
			if !failed[r.Method] {
				failed[r.Method] = true
				serve(w, r, &bed.Failure{Status: 503, Code: "UNAVAILABLE", Message: "busy"})
				return
			}
			w.Header().Set("Location", "/v2/a/b/blobs/uploads/1")
			switch r.Method {
			case http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			case http.MethodPost, http.MethodPatch:
				stored = string(body)
				w.WriteHeader(http.StatusAccepted)
			case http.MethodPut:
				w.WriteHeader(http.StatusCreated)
			}
		})
		repository, err := name.NewRepository(strings.TrimPrefix(server.URL, "https://") + "/a/b")
		if err != nil {
			t.Fatal(err)
		}
		rt := (&bed.SDK{}).Transport(server.Client().Transport, nil)
		layer := static.NewLayer(content, types.OCILayer)
		err = remote.WriteLayer(repository, layer, options(t.Context(), rt, c.own)...)
		mu.Lock()
		if got := strings.TrimPrefix(got, ", "); got != c.want || (err == nil) != c.own {
			t.Errorf("with its own retries %v: %s; want %s: %v", c.own, got, c.want, err)
		}
		if c.own && stored != string(content) {
			t.Errorf("%d bytes are stored that are not the layer's %d", len(stored), len(content))
		}
		mu.Unlock()
	}
}

func options(ctx context.Context, base http.RoundTripper, own bool) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(base)}
	if own {
		return append(options, remote.WithRetryBackoff(remote.Backoff{ // 3 steps, and seconds, otherwise
			Duration: time.Millisecond, Factor: 1, Steps: bed.Attempts,
		}))
	}
	never := func(error) bool { return false }
	return append(options, remote.WithRetryPredicate(never), remote.WithRetryStatusCodes())
}

const manifest = `{"schemaVersion":2}`

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
	if f == nil {
		io.WriteString(w, manifest)
		return
	}
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, f.Code, f.Message)
}

func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*transport.Error](err); ok && len(e.Errors) == 1 {
		return e.StatusCode, string(e.Errors[0].Code), e.Errors[0].Message
	}
	return 0, "", ""
}
