package main

import (
	"context"
	"sync/atomic"

	"github.com/steadyhttp/steadyhttp"
)

// tally counts what steadyhttp does about a call. What was sent and what came back is in the
// server's ledger.
type tally struct {
	retries         atomic.Int64
	backOffs, quota atomic.Int64 // nanoseconds of waits, summed over all calls
}

// trace returns the hooks that count.
func (t *tally) trace() *steadyhttp.Trace {
	return &steadyhttp.Trace{
		AttemptDone: func(_ context.Context, a steadyhttp.Attempt) {
			if a.Stop == "" {
				t.retries.Add(1)
				t.backOffs.Add(int64(a.Wait))
			}
		},
		Waited: func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) {
			if w.Cause == steadyhttp.WaitGate {
				t.quota.Add(int64(w.For))
			}
		},
	}
}
