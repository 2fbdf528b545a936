package steadyhttp_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// HTTP/2's replays are counted and never held up: its pool asks for a connection under its lock,
// and who waited there would hold up all hosts.
func TestHTTP2ReplaysAreCountedAndDoNotWait(t *testing.T) {
	goAway := func(uint32) []byte {
		return h2Frame(h2GoAway, 0, 0, append(binary.BigEndian.AppendUint32(nil, 0), h2Code(0)...)...)
	}
	refused := func(stream uint32) []byte { return h2Frame(h2Reset, 0, stream, h2Code(h2RefusedStream)...) }
	for name, fault := range map[string]func(uint32) []byte{"REFUSED_STREAM": refused, "GOAWAY": goAway} {
		for _, places := range []int{1, 2, 10} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var requests, others atomic.Int64
					var conns []net.Conn
					base := newH2Base(t)
					base.DialContext = func(_ context.Context, _, addr string) (net.Conn, error) {
						client, server := net.Pipe()
						conns = append(conns, client)
						go serveH2(server, func(stream uint32) []byte {
							if addr == "other.example:80" {
								others.Add(1)
							} else if requests.Add(1) <= 3 {
								return fault(stream)
							}
							return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88)
						})
						return client, nil
					}
					q := &quota.Quota{Windows: []quota.Window{{N: places, Per: time.Hour}}}
					transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
					began := time.Now()
					done := make(chan struct{})
					go func() {
						defer close(done)
						if resp, err := transport.RoundTrip(newRequest(t, "GET", "")); err == nil {
							resp.Body.Close()
						}
					}()
					time.Sleep(100 * time.Millisecond)
					req, err := http.NewRequestWithContext(t.Context(), "GET", "http://other.example/", nil)
					if err != nil {
						t.Fatal(err)
					}
					resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if took := time.Since(began); took > 200*time.Millisecond || others.Load() != 1 {
						t.Errorf("another host answered after %v", took)
					}
					<-done
					// net/http waits a second before its second replay, two before its third.
					if took := time.Since(began); took > 5*time.Second || requests.Load() != 4 {
						t.Errorf("%d requests in %v", requests.Load(), took)
					}
					if s := q.State(); s.Windows[0].Used != 4 {
						t.Errorf("counted %+v", s)
					}
					for _, conn := range conns {
						conn.Close()
					}
				})
			})
		}
	}
}

// What net/http sends again over HTTP/1.1 passes a Limit like what we send, and is counted over HTTP/2.
func TestLimitCountsReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int64
		var arrivals []time.Time
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				buffer := make([]byte, 4096)
				for {
					if _, err := server.Read(buffer); err != nil {
						return
					}
					arrivals = append(arrivals, time.Now())
					if requests.Add(1)%2 == 0 {
						return // each second one meets a dead connection
					}
					if _, err := server.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
						return
					}
				}
			}()
			return client, nil
		}}
		defer base.CloseIdleConnections()
		transport := &steadyhttp.Transport{
			Base:  base,
			Gates: []steadyhttp.Gate{steadyhttp.Limit(rate.NewLimiter(rate.Every(time.Second), 1))},
		}
		for range 5 {
			resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		for i := range arrivals[1:] {
			if apart := arrivals[i+1].Sub(arrivals[i]); apart < time.Second {
				t.Errorf("requests %d and %d are %v apart", i, i+1, apart)
			}
		}
		if len(arrivals) != 9 {
			t.Errorf("%d arrivals", len(arrivals))
		}
	})
}
