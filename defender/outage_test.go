package defender_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// The authority takes no connections for ten minutes after the token has run out, while the service
// is healthy: a batch waits for it, and loses nothing. Orders are no exception, since none of them
// was sent.
func TestBatchOutlastsAnAuthorityThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			workers, items = 16, 4000
			takes          = 30 * time.Second // the whole batch takes two hours
			away, back     = 54 * time.Minute, 70 * time.Minute
		)
		began := time.Now()
		var mu sync.Mutex // guards what follows
		asked := 0        // of an authority that is away
		done := make(map[string]int)

		m := &mint{life: time.Hour, takes: time.Second}
		transport := newTransport(t, defender.Config{
			Policy:   steadyhttp.Batch(),
			NoQuotas: true,
			Token: func(ctx context.Context) (string, time.Time, error) {
				if now := time.Since(began); now >= away && now < back {
					mu.Lock()
					defer mu.Unlock()
					asked++
					return "", time.Time{}, refusing()
				}
				return m.token(ctx)
			},
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Body != nil {
					req.Body.Close()
				}
				time.Sleep(takes)
				mu.Lock()
				defer mu.Unlock()
				done[req.Method+" "+req.URL.Path]++
				return answer(req, http.StatusOK, "{}")
			}),
		})

		queue := make(chan string)
		var lost []error
		var last time.Duration // that a worker needed for an item
		var group sync.WaitGroup
		for range workers {
			group.Go(func() {
				for item := range queue {
					method, path, _ := strings.Cut(item, " ")
					req, err := http.NewRequestWithContext(t.Context(), method, security+path, strings.NewReader(`{"Comment":"c"}`))
					if err != nil {
						t.Error(err)
						continue
					}
					start := time.Now()
					resp, err := transport.RoundTrip(req)
					mu.Lock()
					last = max(last, time.Since(start))
					if err != nil {
						lost = append(lost, fmt.Errorf("%s, %v after the beginning: %w", item, start.Sub(began), err))
					} else {
						resp.Body.Close()
					}
					mu.Unlock()
				}
			})
		}
		for i := range items {
			item := fmt.Sprintf("GET /api/machines/m%d", i)
			if i%4 == 0 {
				item = fmt.Sprintf("POST /api/machines/m%d/isolate", i)
			}
			queue <- item
		}
		close(queue)
		group.Wait()

		if len(lost) > 0 {
			t.Errorf("%d of %d items were lost; the first: %v", len(lost), items, lost[0])
		}
		for item, n := range done {
			if n != 1 {
				t.Errorf("%s was sent %d times", item, n)
			}
		}
		if len(lost) == 0 && len(done) != items {
			t.Errorf("%d of %d items were sent", len(done), items)
		}
		// From the first renewal that failed, 5 minutes before the token's end, every 30 s at the
		// most.
		if asked == 0 || asked > 50 {
			t.Errorf("the authority was asked %d times in %v", asked, back-away)
		}
		// Nobody waits for much longer than the authority was away.
		if last > back-time.Hour+2*time.Minute {
			t.Errorf("an item took %v", last)
		}
		t.Logf("%d items, %d fetches of a token that failed, the longest took %v", len(done), asked, last)
	})
}
