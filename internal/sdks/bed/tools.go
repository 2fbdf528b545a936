package bed

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/steadyhttp/steadyhttp"
)

// Random is content that no compression makes small.
func Random(size int) []byte {
	body := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(body)
	return body
}

// Retrying is the SDK.Own of an SDK that retries after these statuses, and makes Attempts at the
// most.
func Retrying(retried ...int) func(statuses []int, forever bool) int {
	return func(statuses []int, forever bool) int {
		for i, status := range statuses {
			if !slices.Contains(retried, status) {
				return i + 1
			}
		}
		if forever {
			return Attempts
		}
		return len(statuses) + 1
	}
}

// Stopped is a context whose calls tell why the last of them ended, once it has.
func Stopped(ctx context.Context) (context.Context, *steadyhttp.Stop) {
	stop := new(steadyhttp.Stop)
	return steadyhttp.WithTrace(ctx, &steadyhttp.Trace{
		Done: func(_ context.Context, a steadyhttp.Attempt) { *stop = a.Stop },
	}), stop
}

// Download checks that what is there of a download is read while the service has not sent the rest.
// answer sets what the SDK needs to see before the content, and returns true where it has answered
// a request of another kind; nil: there is no such thing.
func Download(
	t *testing.T, answer func(http.ResponseWriter, *http.Request) bool,
	open func(t *testing.T, base http.RoundTripper, url string) (io.ReadCloser, error),
) {
	Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 3)
		server := Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if answer != nil && answer(w, r) {
				return
			}
			Lockstep(w, got, "one", "two", "three")
		})
		body, err := open(t, (&SDK{}).Transport(server.Client().Transport, nil), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		for _, want := range []string{"one", "two", "three"} {
			part := make([]byte, len(want))
			if _, err := io.ReadFull(body, part); err != nil || string(part) != want {
				t.Fatalf("%q, %v; want %q", part, err, want)
			}
			got <- struct{}{}
		}
	})
}
