package bed

import (
	"context"
	"math/rand/v2"
	"slices"

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
