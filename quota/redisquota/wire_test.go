package redisquota_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
)

// Requests over real connections, some of which the server drops as they are used again: net/http sends
// such a request once more, and each sending has a place of its own.
func TestNeverOverWithReplays(t *testing.T) {
	t.Parallel()
	client := realRedis(t)
	var s service
	var n, dropped atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.arrive()
		if n.Add(1)%5 == 0 {
			dropped.Add(1)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
			return
		}
		w.Write([]byte("ok"))
	}))
	defer server.Close()
	window := quota.Window{N: 40, Per: time.Second}
	var group sync.WaitGroup
	end := time.Now().Add(5 * time.Second)
	var failed atomic.Int64
	for range 3 {
		q := &redisquota.Quota{Client: client, Key: "wire {of} it", Windows: []quota.Window{window}, Start: redisquota.Empty}
		base := http.DefaultTransport.(*http.Transport).Clone()
		tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
		t.Cleanup(func() {
			base.CloseIdleConnections()
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		})
		for range 4 {
			group.Go(func() {
				for time.Now().Before(end) {
					resp, err := (&http.Client{Transport: tr}).Get(server.URL)
					if err != nil {
						failed.Add(1)
						continue
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
	}
	group.Wait()
	if worst := s.worst(window.Per); worst > window.N {
		t.Errorf("%d in %v, want %d at most", worst, window.Per, window.N)
	}
	if dropped.Load() == 0 || s.total() < 4*window.N {
		t.Errorf("%d arrivals, %d dropped: that shows nothing", s.total(), dropped.Load())
	}
	t.Logf("%d arrivals, %d dropped, %d calls failed", s.total(), dropped.Load(), failed.Load())
}
