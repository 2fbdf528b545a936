package steadyhttp_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
)

// leakSettled waits until the number of goroutines has stopped changing, and returns it.
func leakSettled() int {
	last, same := runtime.NumGoroutine(), 0
	for range 5000 {
		time.Sleep(time.Millisecond)
		if n := runtime.NumGoroutine(); n != last {
			last, same = n, 0
		} else if same++; same == 20 {
			break
		}
	}
	return last
}

// leakPoll waits, within bounds, for what other goroutines are about to do.
func leakPoll(done func() bool) bool {
	for range 10_000 {
		if done() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return done()
}

// assertGoroutines fails the test unless no more than baseline goroutines are left, or soon will be.
func assertGoroutines(t *testing.T, baseline int) {
	t.Helper()
	if leakPoll(func() bool { return runtime.NumGoroutine() <= baseline }) {
		return
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), baseline, stacks)
}

// leakHeap returns what is in use after a thorough collection.
func leakHeap() int64 {
	// What a finalizer lets go is only collected by the next run.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// faultyServer answers with faults of all kinds, and keeps the ledger of what it has really done.
type faultyServer struct {
	*httptest.Server
	percent int // of requests that meet a fault

	conns    atomic.Int64 // open ones
	requests atomic.Int64

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	done   map[string]int    // how often the write of a nonce was carried out
	keys   map[string]string // by Idempotency-Key: the nonce of its call
	reused int               // keys that came with another call's nonce
}

func newFaultyServer(percent int) *faultyServer {
	s := &faultyServer{percent: percent, rng: rand.New(rand.NewPCG(1, 2)), done: make(map[string]int), keys: make(map[string]string)}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.conns.Add(1)
		case http.StateClosed:
			s.conns.Add(-1)
		}
	}
	s.Start()
	return s
}

const faultKinds = 7

func (s *faultyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	s.mu.Lock()
	fault := -1
	if s.rng.IntN(100) < s.percent {
		fault = s.rng.IntN(faultKinds)
	}
	s.mu.Unlock()
	switch fault {
	case 0:
		w.WriteHeader(500)
		io.WriteString(w, envelope("InternalServerError", "x", "t"))
	case 1:
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(429)
	case 2: // reset before it was done
		s.hijack(w, "", true)
	case 3: // reset after it was done
		s.carryOut(r)
		s.hijack(w, "", true)
	case 4: // a success that breaks off
		s.carryOut(r)
		s.hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", false)
	case 5: // a body too large to be drained
		w.WriteHeader(503)
		io.WriteString(w, strings.Repeat("busy ", 30_000))
	case 6: // done, but said to have failed
		s.carryOut(r)
		w.WriteHeader(504)
	default:
		s.carryOut(r)
		io.WriteString(w, "fine")
	}
}

func (s *faultyServer) carryOut(r *http.Request) {
	nonce, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost {
		return
	}
	key := r.Header.Get("Idempotency-Key")
	s.mu.Lock()
	defer s.mu.Unlock()
	if key != "" {
		if other, known := s.keys[key]; known {
			if other != string(nonce) {
				s.reused++
			}
			return
		}
		s.keys[key] = string(nonce)
	}
	s.done[string(nonce)]++
}

func (s *faultyServer) hijack(w http.ResponseWriter, answer string, reset bool) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	s.conns.Add(-1) // net/http tells no more of it
	io.WriteString(conn, answer)
	if reset {
		conn.(*net.TCPConn).SetLinger(0)
	}
	conn.Close()
}

// After thousands of calls that met faults of all kinds and were read, left or cancelled by their
// callers, no goroutine, connection or memory is left.
func TestNothingIsLeftAfterFaults(t *testing.T) {
	const workers = 8
	calls := long.Size(t, 4000, 10_000)
	if testing.Short() {
		calls = 1000
	}
	baseline := leakSettled()
	server := newFaultyServer(50)
	base := &http.Transport{MaxIdleConnsPerHost: workers}
	policy := atOnce()
	policy.AttemptTimeout, policy.IdleTimeout, policy.MaxElapsed = time.Minute, time.Minute, time.Minute
	transport := &steadyhttp.Transport{Base: base, Policy: policy, Gates: []steadyhttp.Gate{perKey(
		func(req *http.Request) string { return req.URL.Path }, func(string) steadyhttp.Gate { return nil }, 10)}}

	run := func(calls int) {
		var next atomic.Int64
		var running sync.WaitGroup
		for range workers {
			running.Go(func() {
				for n := next.Add(1); n <= int64(calls); n = next.Add(1) {
					leakCall(t, transport, server.URL, int(n))
				}
			})
		}
		running.Wait()
	}
	run(calls / 5)
	before := leakHeap()
	run(calls - calls/5)
	if grown := leakHeap() - before; grown > 1<<20+int64(calls)*256 {
		t.Errorf("%d calls left %d KiB on the heap", calls, grown>>10)
	}

	transport.CloseIdleConnections()
	if !leakPoll(func() bool { return server.conns.Load() == 0 }) {
		t.Errorf("%d connections are open", server.conns.Load())
	}
	server.Close()
	assertGoroutines(t, baseline)
	if requests := server.requests.Load(); requests < int64(calls)*11/10 {
		t.Errorf("%d requests for %d calls: the test tests nothing", requests, calls)
	}
}

// leakCall makes one call, as one of several kinds of callers.
func leakCall(t *testing.T, transport http.RoundTripper, url string, n int) {
	ctx := context.Background()
	if n%5 == 0 {
		ctx = steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { p.MaxRead = 1 << 10 })
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method := []string{"GET", "PUT", "POST", "GET"}[n%4]
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprint(url, "/", n%20), strings.NewReader("content"))
	if err != nil {
		t.Error(err)
		return
	}
	if n%3 == 0 {
		req.GetBody, req.Body = nil, newCountingBody("content")
	}
	if n%7 == 0 {
		go cancel() // somewhere on the way
	}
	resp, err := transport.RoundTrip(req)
	if (resp == nil) == (err == nil) {
		t.Errorf("call %d: got %v and %v", n, resp, err)
	}
	if err != nil {
		return
	}
	switch n % 11 {
	case 0: // closed unread
	case 1:
		resp.Body.Read(make([]byte, 1))
	default:
		io.Copy(io.Discard, resp.Body)
	}
	resp.Body.Close()
}

// A thousand calls at once, a third of which meet faults: each has one outcome, no write is carried out twice,
// and nothing is left.
func TestThousandCallsAtOnce(t *testing.T) {
	const calls = 1000
	baseline := leakSettled()
	server := newFaultyServer(30)
	base := &http.Transport{MaxConnsPerHost: 250, MaxIdleConnsPerHost: 250}
	transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}

	type outcome struct {
		status int // 0: an error
		count  int
		key    bool
	}
	outcomes := make([]outcome, calls)
	start := make(chan struct{})
	var running sync.WaitGroup
	for n := range calls {
		running.Go(func() {
			o := &outcomes[n]
			ctx := context.Background()
			if o.key = n%3 == 0; o.key {
				ctx = steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { p.IdempotencyKey = true })
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, strings.NewReader(fmt.Sprint("nonce ", n)))
			if err != nil {
				t.Error(err)
				return
			}
			<-start
			resp, err := transport.RoundTrip(req)
			if err != nil {
				o.count++
			}
			if resp != nil {
				o.count++
				o.status = resp.StatusCode
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	close(start)
	running.Wait()

	transport.CloseIdleConnections()
	if !leakPoll(func() bool { return server.conns.Load() == 0 }) {
		t.Errorf("%d connections are open", server.conns.Load())
	}
	server.Close()
	assertGoroutines(t, baseline)

	succeeded, keyed := 0, 0
	for n, o := range outcomes {
		done := server.done[fmt.Sprint("nonce ", n)]
		if o.count != 1 {
			t.Errorf("call %d has %d outcomes", n, o.count)
		}
		if done > 1 {
			t.Errorf("call %d (key %v) was carried out %d times", n, o.key, done)
		}
		if o.status == 200 {
			if succeeded++; done != 1 {
				t.Errorf("call %d succeeded, and was carried out %d times", n, done)
			}
			if o.key {
				keyed++
			}
		}
	}
	if server.reused > 0 {
		t.Errorf("%d keys were used for two calls", server.reused)
	}
	// Of those without a key a quarter fails; with one, nearly all come through.
	if succeeded == calls || succeeded < calls/2 || keyed < 320 {
		t.Errorf("%d of %d succeeded, %d of 334 with a key", succeeded, calls, keyed)
	}
	if server.requests.Load() <= calls {
		t.Error("nothing was retried: the test tests nothing")
	}
}
