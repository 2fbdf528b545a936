//go:build !race

package steadyhttp_test

import (
	"context"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Memory: the goroutine of a waiting call has a stack of 8 KiB, whatever it has done before. The next larger one is of 16, and
// one does not shrink while http.Client is on it.
func TestStackOfAWaitingCall(t *testing.T) {
	const callers = 200
	full := func() *quota.Quota { return &quota.Quota{Windows: []quota.Window{{N: 1, Per: time.Hour}}} }
	for name, transport := range map[string]func() *steadyhttp.Transport{
		"after an empty 503": func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: registered(constant{status: 503})}
		},
		"after a 503 with its envelope": func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: registered(constant{status: 503, body: notFound})}
		},
		"in a quota": func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: registered(constant{status: 200}), Gates: []steadyhttp.Gate{full()}}
		},
		"in the quota of its key": func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: registered(constant{status: 200}), Gates: []steadyhttp.Gate{
				&steadyhttp.PerKey{New: func(string) steadyhttp.Gate { return full() }},
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := transport()
				tr.Policy.Budget = &steadyhttp.Budget{Max: -1}
				client := &http.Client{Transport: tr}
				ctx, cancel := context.WithCancel(t.Context())
				var group sync.WaitGroup
				before := stacks()
				for range callers {
					group.Go(func() {
						req := get(t)
						if resp, err := client.Do(req.WithContext(ctx)); err == nil {
							resp.Body.Close()
						}
					})
				}
				synctest.Wait()
				if each := (stacks() - before) / callers; each > 9<<10 {
					t.Errorf("%d bytes each", each)
				}
				cancel()
				group.Wait()
			})
		})
	}
}

func stacks() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.StackInuse)
}
