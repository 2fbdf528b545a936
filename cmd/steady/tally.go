package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// tally counts what steadyhttp does about a call. What was sent and what came back is in the server's ledger.
type tally struct {
	retries       atomic.Int64
	waited, gated atomic.Int64 // nanoseconds, summed over all calls
}

// trace returns the hooks that count.
func (t *tally) trace() *steadyhttp.Trace {
	return &steadyhttp.Trace{
		AttemptDone: func(_ context.Context, a steadyhttp.Attempt) {
			if a.Stop == "" {
				t.retries.Add(1)
				t.waited.Add(int64(a.Wait))
			}
		},
		Gated: func(_ context.Context, _ steadyhttp.Attempt, held time.Duration) { t.gated.Add(int64(held)) },
	}
}
