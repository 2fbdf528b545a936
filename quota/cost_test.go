package quota_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// What a quota costs a call, beside the same Transport without one.
func BenchmarkThroughQuota(b *testing.B) {
	base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})
	windows := []quota.Window{{N: 1 << 30, Per: time.Minute}, {N: 1 << 30, Per: time.Hour}}
	for name, gates := range map[string][]steadyhttp.Gate{
		"none":  nil,
		"quota": {&quota.Quota{Windows: windows}},
		"PerKey": {&steadyhttp.PerKey{
			Key: func(*http.Request) string { return "key" },
			New: func(string) steadyhttp.Gate { return &quota.Quota{Windows: windows} },
		}},
	} {
		b.Run(name, func(b *testing.B) {
			tr := &steadyhttp.Transport{Base: base, Gates: gates}
			b.ReportAllocs()
			for b.Loop() {
				if err := get(b.Context(), b, tr, "http://api.example/"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
