package compat

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/steadyhttp/steadyhttp"
)

// bulkhead lets so many attempts be under way at once. A place is free again when the answer's
// headers have come; to hold it until the body's end, wrap Base instead.
type bulkhead struct{ places *semaphore.Weighted }

func (b bulkhead) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	if !b.places.TryAcquire(1) {
		a.Waits(func() time.Duration { return 0 }) // nobody knows for how long
		if err := b.places.Acquire(ctx, 1); err != nil {
			return nil, err
		}
	}
	return steadyhttp.PassFunc(func(steadyhttp.Attempt) { b.places.Release(1) }), nil
}

// A bulkhead: at most three attempts at once, by a semaphore as a Gate. A call gives its place back
// while it backs off.
func Example_bulkhead() {
	var now, most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		time.Sleep(time.Millisecond)
	}))
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{
		Gates: []steadyhttp.Gate{bulkhead{semaphore.NewWeighted(3)}},
	}}
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			resp, err := client.Get(server.URL)
			if err != nil {
				fmt.Println(err)
				return
			}
			resp.Body.Close()
		})
	}
	group.Wait()
	fmt.Println("more than three at once:", most.Load() > 3)
	// Output: more than three at once: false
}
