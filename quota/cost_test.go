package quota_test

import (
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

func throughGates(gates ...steadyhttp.Gate) *steadyhttp.Transport {
	return &steadyhttp.Transport{Gates: gates, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})}
}

// wide is a quota in which nobody waits.
func wide() *quota.Quota {
	return &quota.Quota{Windows: []quota.Window{{N: 1 << 30, Per: time.Minute}, {N: 1 << 30, Per: time.Hour}}}
}

func perKey(key func(*http.Request) string) *steadyhttp.PerKey {
	return &steadyhttp.PerKey{Key: key, New: func(string) steadyhttp.Gate { return wide() }}
}

// What a quota may cost a call, beside the same Transport without one: 6 allocations, and 7 behind
// PerKey.
func TestAllocationsThroughQuota(t *testing.T) {
	if quota.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	allocs := func(tr *steadyhttp.Transport) float64 {
		return testing.AllocsPerRun(1000, func() {
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	}
	none := allocs(throughGates())
	for name, c := range map[string]struct {
		gate steadyhttp.Gate
		most float64
	}{
		"quota":                {wide(), 6},
		"PerKey":               {perKey(func(*http.Request) string { return "key" }), 7},
		"PerKey of the origin": {perKey(nil), 7},
	} {
		if got := allocs(throughGates(c.gate)) - none; got > c.most {
			t.Errorf("%s: +%v allocations, want %v at most", name, got, c.most)
		}
	}
}

// A decision among a thousand goroutines that all want one, beside one alone.
func BenchmarkContendedQuota(b *testing.B) {
	gate := perKey(func(*http.Request) string { return "key" })
	for name, goroutines := range map[string]int{"1": 1, "1000": 1000} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var group sync.WaitGroup
			for i := range goroutines {
				n := b.N / goroutines
				if i < b.N%goroutines {
					n++
				}
				group.Go(func() {
					for range n {
						pass, err := gate.Enter(b.Context(), steadyhttp.Attempt{})
						if err != nil {
							b.Error(err)
							return
						}
						pass.Leave(answered())
						runtime.Gosched() // as a call would, while it is under way
					}
				})
			}
			group.Wait()
		})
	}
}

// What a quota costs a call, beside the same Transport without one.
func BenchmarkThroughQuota(b *testing.B) {
	for name, gates := range map[string][]steadyhttp.Gate{
		"none":                 nil,
		"quota":                {wide()},
		"PerKey":               {perKey(func(*http.Request) string { return "key" })},
		"PerKey of the origin": {perKey(nil)},
	} {
		b.Run(name, func(b *testing.B) {
			tr := throughGates(gates...)
			b.ReportAllocs()
			for b.Loop() {
				if err := get(b.Context(), b, tr, "http://api.example/"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
