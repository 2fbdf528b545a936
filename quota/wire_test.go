package quota_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// pipes is a server behind net.Pipe that counts what arrives, and drops some connections in place
// of an answer.
type pipes struct {
	drop   func(n int) bool               // the n-th request, from 1, meets a dead connection
	answer func(n int, req *http.Request) // blocks until the answer is due; nil: at once

	mu       sync.Mutex
	arrivals []time.Time
	hosts    []string
}

func (p *pipes) transport() *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go p.serve(server)
		return client, nil
	}}
}

func (p *pipes) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(lines)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		p.mu.Lock()
		p.arrivals = append(p.arrivals, time.Now())
		p.hosts = append(p.hosts, req.Host)
		n := len(p.arrivals)
		p.mu.Unlock()
		if p.drop != nil && p.drop(n) {
			return
		}
		if p.answer != nil {
			p.answer(n, req)
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

func (p *pipes) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrivals)
}

// most returns the largest number of arrivals within any interval of a length.
func (p *pipes) most(per time.Duration) int {
	s := service{arrivals: p.arrivals}
	return s.worst(quota.Window{Per: per})
}

func get(ctx context.Context, t testing.TB, tr http.RoundTripper, url string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

// What net/http sends again takes a place before it is sent.
func TestReplayWaitsForItsPlace(t *testing.T) {
	for i, timeout := range []time.Duration{0, 10 * time.Second, 0} {
		synctest.Test(t, func(t *testing.T) {
			p := &pipes{drop: func(n int) bool { return n == 2 }}
			base := p.transport()
			defer base.CloseIdleConnections()
			q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}
			if i == 2 {
				q.MaxQueue = -1 // it is in already
			}
			attempts := 0
			tr := &steadyhttp.Transport{
				Base: base, Gates: []steadyhttp.Gate{q},
				Trace:  &steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) { attempts++ }},
				Policy: steadyhttp.Policy{AttemptTimeout: timeout},
			}
			began := time.Now()
			for range 2 {
				if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
					t.Fatal(err)
				}
			}
			if got := p.most(time.Minute); got > 2 || attempts != 2 {
				t.Errorf("the server counts %d in a minute, of %d attempts", got, attempts)
			}
			if took := time.Since(began); p.count() != 3 || took > 61*time.Second {
				t.Errorf("%d arrivals in %v", p.count(), took)
			}
			if s := q.State(); s.InFlight != 0 && s.Windows[0].Used > 2 {
				t.Errorf("left %+v", s)
			}
		})
	}
}

// A replay that has no place in time ends the attempt and is never sent, also where net/http has an
// idle connection at hand; its call is refused with the wait.
func TestReplayWithoutAPlaceIsNotSent(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			gate := make(chan struct{})
			p := &pipes{
				drop: func(n int) bool { return n == 3 },
				answer: func(n int, _ *http.Request) {
					if n < 3 {
						<-gate
					}
				},
			}
			base := p.transport()
			defer base.CloseIdleConnections()
			q := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Minute}}}
			tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
			var group sync.WaitGroup
			for range 2 { // two connections, of which one stays idle
				group.Go(func() { get(t.Context(), t, tr, "http://api.example/") })
			}
			synctest.Wait()
			close(gate)
			group.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			began := time.Now()
			err := get(ctx, t, tr, "http://api.example/")
			refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
			if !ok || refusal.Wait < 59*time.Second || time.Since(began) > time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			synctest.Wait()
			if p.count() != 3 {
				t.Errorf("%d arrivals", p.count())
			}
		})
	}
}

// slowToClose is a connection that is closed a moment after it was asked to be.
type slowToClose struct{ net.Conn }

func (c slowToClose) Close() error {
	time.Sleep(10 * time.Millisecond)
	return c.Conn.Close()
}

// net/http may take an idle connection for a replay that was refused, and write to it before it looks
// at the context: that connection is closed before it can.
func TestRefusedReplayIsNotWrittenToAnIdleConnection(t *testing.T) {
	for range 20 { // which of the two net/http does is chance
		func() { // in real time: net/http closes under a lock, and virtual time stands still there
			gate := make(chan struct{})
			p := &pipes{
				drop: func(n int) bool { return n == 3 },
				answer: func(n int, _ *http.Request) {
					if n < 3 {
						<-gate
					}
				},
			}
			base := p.transport()
			dial := base.DialContext
			base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return slowToClose{conn}, err
			}
			defer base.CloseIdleConnections()
			q := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Hour}}}
			tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
			var group sync.WaitGroup
			for range 2 {
				group.Go(func() { get(t.Context(), t, tr, "http://api.example/") })
			}
			for p.count() < 2 {
				time.Sleep(time.Millisecond)
			}
			close(gate)
			group.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := get(ctx, t, tr, "http://api.example/"); !isRefusal(err) {
				t.Errorf("got %v", err)
			}
			time.Sleep(30 * time.Millisecond)
			if p.count() != 3 {
				t.Errorf("%d arrivals", p.count())
			}
		}()
	}
}

// A caller who gives up while his replay waits leaves at once, and takes nothing more.
func TestReplayGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{drop: func(n int) bool { return n == 2 }}
		base := p.transport()
		defer base.CloseIdleConnections()
		q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Hour}}}
		tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
		if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		began := time.Now()
		if err := get(ctx, t, tr, "http://api.example/"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("left after %v", took)
		}
		synctest.Wait()
		if s := q.State(); p.count() != 2 || s.Waiting != 0 || s.InFlight != 0 || s.Windows[0].Used != 2 {
			t.Errorf("%d arrivals, left %+v", p.count(), s)
		}
	})
}

// What a base sends of its own with the request's context, for a token, is not held up.
func TestRequestsForATokenAreNotReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{drop: func(n int) bool { return n == 3 }} // the second token's, on a kept connection
		base := p.transport()
		defer base.CloseIdleConnections()
		signing := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			token, err := http.NewRequestWithContext(req.Context(), http.MethodGet, "http://login.example/", nil)
			if err != nil {
				return nil, err
			}
			resp, err := base.RoundTrip(token)
			if err != nil {
				return nil, err
			}
			resp.Body.Close()
			return base.RoundTrip(req)
		})
		q := &quota.Quota{Windows: []quota.Window{{N: 5, Per: time.Hour}}}
		tr := &steadyhttp.Transport{Base: signing, Gates: []steadyhttp.Gate{q}}
		began := time.Now()
		for range 2 {
			if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v; hosts %v", took, p.hosts)
		}
		if s := q.State(); s.Windows[0].Used != 2 {
			t.Errorf("two calls and their tokens' requests count as %d", s.Windows[0].Used)
		}
	})
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Nor is what Prepare sends with it, over net/http's own transport and through a proxy.
func TestRequestsOfPrepareAreNotReplays(t *testing.T) {
	for _, dropped := range []int{0, 3, 4} {
		synctest.Test(t, func(t *testing.T) {
			p := &pipes{drop: func(n int) bool { return n == dropped }}
			base := p.transport()
			defer base.CloseIdleConnections()
			q := &quota.Quota{Windows: []quota.Window{{N: 5, Per: time.Hour}}}
			tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
			tr.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error {
				return get(req.Context(), t, base, "http://login.example/")
			}
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for range 2 {
				if err := get(ctx, t, tr, "http://api.example/"); err != nil && dropped != 4 {
					t.Fatal(err)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %v; hosts %v", took, p.hosts)
			}
			own := 0
			for _, host := range p.hosts {
				if host == "api.example" {
					own++
				}
			}
			if got := q.State().Windows[0].Used; got != own {
				t.Errorf("counted %d; hosts %v", got, p.hosts)
			}
		})
	}
}

// Behind a proxy, all connections are the proxy's, and a replay waits all the same.
func TestReplayThroughAProxyWaitsForItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{drop: func(n int) bool { return n == 2 }}
		base := p.transport()
		base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"})
		defer base.CloseIdleConnections()
		q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}
		tr := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
		for range 2 {
			if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.most(time.Minute); got > 2 || p.count() != 3 {
			t.Errorf("the server counts %d in a minute, %d in all", got, p.count())
		}
	})
}

// Another base behind a proxy asks for the proxy's connections alone: each call is counted once.
func TestAnotherBaseBehindAProxyIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{drop: func(n int) bool { return n == 3 }}
		base := p.transport()
		base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"})
		defer base.CloseIdleConnections()
		q := &quota.Quota{Windows: []quota.Window{{N: 10, Per: time.Hour}}}
		tr := &steadyhttp.Transport{Base: roundTripFunc(base.RoundTrip), Gates: []steadyhttp.Gate{q}}
		for range 3 {
			if err := get(t.Context(), t, tr, "http://api.example/"); err != nil {
				t.Fatal(err)
			}
		}
		if s := q.State(); s.Windows[0].Used != p.count() || p.count() != 4 {
			t.Errorf("%d arrivals, counted %+v", p.count(), s)
		}
	})
}

// On mass loss, all calls in flight are sent again at once, and each as if it were a new one.
func TestMassLossOverPipes(t *testing.T) {
	for _, workers := range []int{16, 50} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			p := &pipes{}
			lost := func() bool { return time.Since(began) > 40*time.Second && time.Since(began) < 43*time.Second }
			p.drop = func(int) bool { return lost() }
			p.answer = func(int, *http.Request) { time.Sleep(100 * time.Millisecond) }
			base := p.transport()
			base.MaxIdleConnsPerHost = workers
			defer base.CloseIdleConnections()
			q := &quota.Quota{Windows: []quota.Window{{N: 100, Per: 40 * time.Second}}}
			r := batchOf(t, throughQuota2(base, q), workers, 500, 0)
			if got := p.most(40 * time.Second); got > 100 || r.failed > 0 {
				t.Errorf("%d workers: %d in a window, %d failed: %v", workers, got, r.failed, r.last)
			}
			t.Logf("%d workers: %d arrivals in %v", workers, p.count(), r.took)
		})
	}
}

// A call that was let go and stands elsewhere keeps its place, however long, or all would go at once.
func TestGrantedAndNotSentKeepsItsPlace(t *testing.T) {
	for _, c := range []struct {
		name  string
		stall func(*steadyhttp.Transport, *http.Transport, *pipes, func() bool)
	}{
		{"MaxConnsPerHost", func(_ *steadyhttp.Transport, base *http.Transport, p *pipes, stalled func() bool) {
			base.MaxConnsPerHost = 10
			p.answer = func(int, *http.Request) {
				for stalled() {
					time.Sleep(time.Second)
				}
			}
		}},
		{"Prepare", func(tr *steadyhttp.Transport, _ *http.Transport, _ *pipes, stalled func() bool) {
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error {
				for stalled() {
					time.Sleep(time.Second)
				}
				return nil
			}
		}},
		{"second gate", func(tr *steadyhttp.Transport, _ *http.Transport, _ *pipes, stalled func() bool) {
			tr.Gates = append(tr.Gates, gateFunc(func(context.Context, steadyhttp.Attempt) error {
				for stalled() {
					time.Sleep(time.Second)
				}
				return nil
			}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p := &pipes{}
				base := p.transport()
				defer base.CloseIdleConnections()
				windows := []quota.Window{{N: 100, Per: time.Minute}}
				tr := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: -1},
					Gates: []steadyhttp.Gate{&quota.Quota{Windows: windows}}}
				c.stall(tr, base, p, func() bool { return time.Since(began) < 4*time.Minute })
				r := batchOf(t, tr, 400, 400, 0)
				if got := p.most(time.Minute); got > 100 || r.failed > 0 {
					t.Errorf("%d in a minute, %d failed: %v", got, r.failed, r.last)
				}
				t.Logf("%d arrivals in %v", p.count(), r.took)
			})
		})
	}
}

type gateFunc func(context.Context, steadyhttp.Attempt) error

func (f gateFunc) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return nil, f(ctx, a)
}

func throughQuota2(base http.RoundTripper, q *quota.Quota) *steadyhttp.Transport {
	policy := steadyhttp.Batch()
	policy.Budget = &steadyhttp.Budget{Max: -1}
	return &steadyhttp.Transport{Base: base, Policy: policy, Gates: []steadyhttp.Gate{q}}
}
