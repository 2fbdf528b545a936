package steadyhttp_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// The benchmarks come in pairs: the bare base transport, and the Transport around it. Quote their difference or ratio,
// never one alone.

// constant answers every request with the same status and body, with no more work than a RoundTripper must do.
type constant struct {
	status int
	body   string
}

func (c constant) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	resp := &http.Response{StatusCode: c.status, Body: http.NoBody, Request: req, Header: http.Header{}}
	if c.body != "" {
		resp.Body = io.NopCloser(strings.NewReader(c.body))
		resp.ContentLength = int64(len(c.body))
	}
	return resp, nil
}

// alternating fails every odd attempt.
type alternating struct{ n int }

func (a *alternating) RoundTrip(req *http.Request) (*http.Response, error) {
	a.n++
	status := http.StatusOK
	if a.n%2 == 1 {
		status = http.StatusServiceUnavailable
	}
	return constant{status: status}.RoundTrip(req)
}

func get(tb testing.TB) *http.Request {
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "https://api.example/machines", nil)
	if err != nil {
		tb.Fatal(err)
	}
	return req
}

func post(tb testing.TB, body string) *http.Request {
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "https://api.example/machines", strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	return req
}

func bench(b *testing.B, rt http.RoundTripper, req *http.Request) {
	b.ReportAllocs()
	for b.Loop() {
		if req.GetBody != nil {
			req.Body, _ = req.GetBody()
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

func BenchmarkHappyPath(b *testing.B) {
	ok := registered(constant{status: 200})
	for _, kind := range []struct {
		name string
		req  func(testing.TB) *http.Request
	}{
		{"GET", get},
		{"PUT", func(tb testing.TB) *http.Request { req := post(tb, `{"Comment":"x"}`); req.Method = "PUT"; return req }},
		{"POST", func(tb testing.TB) *http.Request { return post(tb, `{"Comment":"x"}`) }},
	} {
		b.Run(kind.name+"/bare", func(b *testing.B) { bench(b, ok, kind.req(b)) })
		b.Run(kind.name+"/steady", func(b *testing.B) { bench(b, &steadyhttp.Transport{Base: ok}, kind.req(b)) })
		for name, rt := range map[string]http.RoundTripper{"bare": ok, "steady": &steadyhttp.Transport{Base: ok}} {
			b.Run(kind.name+"/parallel/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					req := kind.req(b)
					for pb.Next() {
						if req.GetBody != nil {
							req.Body, _ = req.GetBody()
						}
						resp, err := rt.RoundTrip(req)
						if err != nil {
							b.Error(err)
							return
						}
						resp.Body.Close()
					}
				})
			})
		}
	}
}

// BenchmarkRetry measures what a retry costs beside its two calls: the work, not the wait. TestRetryAllocates has the
// allocations with the default back-off and a real timer, in virtual time.
func BenchmarkRetry(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		base, req := registered(&alternating{}), get(b)
		b.ReportAllocs()
		for b.Loop() {
			for range 2 {
				resp, err := base.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		}
	})
	b.Run("steady", func(b *testing.B) {
		bench(b, &steadyhttp.Transport{Base: registered(&alternating{}), Policy: steadyhttp.Policy{
			NewBackOff: func() backoff.BackOff { return &backoff.ZeroBackOff{} },
			Budget:     &steadyhttp.Budget{Max: -1},
		}}, get(b))
	})
}

// busyFirst fails every odd attempt with an envelope.
type busyFirst struct{ n int }

func (a *busyFirst) RoundTrip(req *http.Request) (*http.Response, error) {
	a.n++
	if a.n%2 == 1 {
		return constant{status: http.StatusInternalServerError, body: notFound}.RoundTrip(req)
	}
	return constant{status: http.StatusOK}.RoundTrip(req)
}

// BenchmarkRetryWithEnvelope is BenchmarkRetry where the first answer says why.
func BenchmarkRetryWithEnvelope(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		base, req := registered(&busyFirst{}), get(b)
		b.ReportAllocs()
		for b.Loop() {
			for range 2 {
				resp, err := base.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		}
	})
	b.Run("steady", func(b *testing.B) {
		bench(b, &steadyhttp.Transport{Base: registered(&busyFirst{}), Policy: steadyhttp.Policy{
			NewBackOff: func() backoff.BackOff { return &backoff.ZeroBackOff{} },
			Budget:     &steadyhttp.Budget{Max: -1},
		}}, get(b))
	})
}

const notFound = `{"error":{"code":"ResourceNotFound","message":"Machine 123123123 was not found","target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`

func BenchmarkErrorAnswer(b *testing.B) {
	base := registered(constant{status: 404, body: notFound})
	b.Run("bare", func(b *testing.B) { bench(b, base, get(b)) })
	b.Run("steady", func(b *testing.B) { bench(b, &steadyhttp.Transport{Base: base}, get(b)) })
}

// BenchmarkGatedPost is an order that passes a gate, which is told of its sending and its answer.
func BenchmarkGatedPost(b *testing.B) {
	ok := registered(constant{status: 200})
	order := func(tb testing.TB) *http.Request { return post(tb, `{"Comment":"x"}`) }
	b.Run("bare", func(b *testing.B) { bench(b, ok, order(b)) })
	b.Run("steady", func(b *testing.B) {
		bench(b, &steadyhttp.Transport{Base: ok, Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}}, order(b))
	})
}

// Speed: what a failure allocates over and above its base transport.
func TestFailureAllocations(t *testing.T) {
	newReq := func(t testing.TB) *http.Request { return newRequest(t, "GET", "") }
	policy := atOnce()
	for _, tt := range []struct {
		name string
		make func() http.RoundTripper // anew: some count
		per  int                      // attempts of a call
		more float64
	}{
		{"a retry after an empty 503", func() http.RoundTripper { return &alternating{} }, 2, 1},
		{"a retry after a 500 with its envelope", func() http.RoundTripper { return &busyFirst{} }, 2, 4},
		{"a 404 with its envelope", func() http.RoundTripper { return constant{status: 404, body: notFound} }, 1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bare := allocations(t, registered(tt.make()), tt.per, newReq)
			steady := allocations(t, &steadyhttp.Transport{Base: registered(tt.make()), Policy: policy}, 1, newReq)
			if steady > bare+tt.more {
				t.Errorf("%v allocations, %v without the Transport", steady, bare)
			}
		})
	}
}

// Speed: a call that succeeds at once allocates what its base transport does, and what is not idempotent 6 times more at most,
// for the proof that it was sent or was not.
func TestHappyPathAllocations(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		more         float64
	}{
		{"GET", "", 0}, {"HEAD", "", 0}, {"DELETE", "", 0}, {"PUT", "content", 0},
		{"POST", "", 6}, {"POST", "content", 6}, {"PATCH", "content", 6},
	} {
		t.Run(tt.method+" "+tt.body, func(t *testing.T) {
			newReq := func(t testing.TB) *http.Request { return newRequest(t, tt.method, tt.body) }
			base := registered(&canned{every: 1})
			bare := allocations(t, base, 1, newReq)
			steady := allocations(t, &steadyhttp.Transport{Base: base}, 1, newReq)
			if steady > bare+tt.more {
				t.Errorf("%v allocations, %v without the Transport", steady, bare)
			}
		})
	}
}

// Speed: a retry with the default back-off allocates at most 4 times more than its two calls.
func TestRetryAllocates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newReq := func(t testing.TB) *http.Request { return newRequest(t, "GET", "") }
		bare := allocations(t, registered(&canned{every: 2}), 2, newReq)
		base := &canned{every: 2}
		began := time.Now()
		steady := allocations(t, &steadyhttp.Transport{Base: registered(base), Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: -1}}}, 1, newReq)
		if steady > bare+4 {
			t.Errorf("%v allocations, %v without the Transport", steady, bare)
		}
		if base.n != 2*201 || time.Since(began) < 201*250*time.Millisecond {
			t.Errorf("%d attempts in %v: the test tests nothing", base.n, time.Since(began))
		}
	})
}
