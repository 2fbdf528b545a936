// Package ended tells who ended a call: the root package and otel must agree on it.
package ended

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// ErrUnclosed is the Err of a call's last attempt where nobody can close the answer's body any more.
// The call itself has not failed.
var ErrUnclosed = errors.New("the response's body was never closed")

// Overdue reports whether ctx's deadline has passed, also if that has not ended ctx yet:
// http.Client's Timeout may close Request.Cancel an instant before.
func Overdue(ctx context.Context) bool {
	if err := ctx.Err(); err != nil {
		return err == context.DeadlineExceeded
	}
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// CancelClosed reports whether a request was cancelled in the old way, which http.Client still
// uses for its Timeout.
func CancelClosed(req *http.Request) bool {
	select {
	//lint:ignore SA1019 a RoundTripper must obey it as long as http.Client sets it
	case <-req.Cancel:
		return true
	default:
		return false
	}
}
