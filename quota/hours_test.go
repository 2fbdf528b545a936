package quota_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Hours of net/http's own replays, over pipes, a server that counts and drops: never over, and next
// to nothing of the limit is left unused. STEADYHTTP_LONG=500 makes it a thousand hours.
func TestHoursOfReplaysOverPipes(t *testing.T) {
	hours := 2 * long.Times(t)
	if quota.RaceEnabled {
		hours /= 2
	}
	for _, each := range []int{2, 3, 7, 50} {
		t.Run(fmt.Sprint("drops each ", each), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				windows := minuteAndHour()
				p := &pipes{drop: func(n int) bool { return n%each == 0 }}
				p.answer = func(int, *http.Request) { time.Sleep(50 * time.Millisecond) }
				base := p.transport()
				base.MaxIdleConnsPerHost = 16
				defer base.CloseIdleConnections()
				tr := throughQuota2(base, &quota.Quota{Windows: windows})
				began := time.Now()
				r := batchOf(t, tr, 16, math.MaxInt, time.Duration(hours)*time.Hour)
				within := 0
				for _, at := range p.arrivals {
					if at.Sub(began) < time.Duration(hours)*time.Hour {
						within++
					}
				}
				used := float64(within) / float64(hours*1500)
				minute, hour := p.most(time.Minute), p.most(time.Hour)
				t.Logf("%d hours: %d arrivals, at most %d in a minute and %d in an hour, %.2f %% used, %d calls failed",
					hours, p.count(), minute, hour, 100*used, r.failed)
				if minute > 100 || hour > 1500 {
					t.Errorf("%d in a minute, %d in an hour", minute, hour)
				}
				if used < 0.995 && each > 2 { // of two sendings in a row, both may be dropped: back-offs
					t.Errorf("%.4f used", used)
				}
			})
		})
	}
}

// The same over real sockets, with short windows and the machine's own clock.
func TestReplaysOverSockets(t *testing.T) {
	for _, each := range []int{2, 3, 5} {
		t.Run(fmt.Sprint("drops each ", each), func(t *testing.T) {
			t.Parallel()
			windows := []quota.Window{{N: 20, Per: 300 * time.Millisecond}, {N: 60, Per: 3 * time.Second}}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			var mu sync.Mutex
			s := service{}
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						lines := bufio.NewReader(conn)
						for {
							if _, err := http.ReadRequest(lines); err != nil {
								return
							}
							mu.Lock()
							s.arrivals = append(s.arrivals, time.Now())
							dropped := len(s.arrivals)%each == 0
							mu.Unlock()
							if dropped {
								return
							}
							if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
								return
							}
						}
					}()
				}
			}()
			base := &http.Transport{MaxIdleConnsPerHost: 16}
			defer base.CloseIdleConnections()
			tr := throughQuota2(base, &quota.Quota{Windows: windows, MaxTransit: 500 * time.Millisecond})
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+listener.Addr().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var group sync.WaitGroup
			for range 16 {
				group.Go(func() {
					for time.Since(began) < 2500*time.Millisecond {
						if resp, err := tr.RoundTrip(req); err == nil {
							resp.Body.Close()
						}
					}
				})
			}
			group.Wait()
			for _, w := range windows {
				if got := s.worst(w); got > w.N {
					t.Errorf("%d arrivals within %v, want %d at most", got, w.Per, w.N)
				}
			}
			t.Logf("%d arrivals in %v", len(s.arrivals), time.Since(began))
			if len(s.arrivals) <= windows[1].N {
				t.Errorf("only %d arrivals", len(s.arrivals))
			}
		})
	}
}

// pipeListener is a listener for net/http's server whose connections are pipes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	l.conns <- server
	return client, nil
}

// The case of the issue: 16 workers, the simulator with its limits of 100 a minute and 1500 an hour,
// 4 % of the connections lost, in virtual time.
func TestSimulatorWithLostConnections(t *testing.T) {
	for _, counting := range []defendertest.Counting{defendertest.Rolling, defendertest.Strict} {
		t.Run(fmt.Sprint("counting ", counting), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := defendertest.NewUnstartedServer(defendertest.Config{
					Counting: counting, Seed: 11,
					Faults: defendertest.Faults{ResetBefore: 0.02, ResetAfter: 0.02},
				})
				listener := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
				serving := &http.Server{Handler: server}
				go serving.Serve(listener)
				base := &http.Transport{DialContext: listener.dial, MaxIdleConnsPerHost: 16}
				defer func() {
					base.CloseIdleConnections()
					serving.Close()
					server.Close()
				}()
				tr := throughQuota2(base, &quota.Quota{Windows: minuteAndHour()})
				r := batchTo(t, tr, "http://simulator.example/api/machines/"+server.MachineIDs()[0], 16, math.MaxInt, time.Hour+20*time.Minute)
				statuses := map[int]int{}
				for _, call := range server.Calls() {
					statuses[call.Status]++
				}
				t.Logf("answered, by status: %v; %d calls failed", statuses, r.failed)
				if statuses[http.StatusTooManyRequests] > 0 || r.failed > 0 {
					t.Errorf("answered, by status: %v; %d calls failed: %v", statuses, r.failed, r.last)
				}
				if all := len(server.Calls()); all < 1500+300 {
					t.Errorf("only %d calls", all)
				}
			})
		})
	}
}
