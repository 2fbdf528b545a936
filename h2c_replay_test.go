package steadyhttp_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// HTTP/2 without TLS, over real sockets and through all kinds of bases: its replays are counted and
// hold up nobody, the request itself or another host's, though nothing of the connection says which
// protocol it speaks.
func TestReplaysOverH2CDoNotWait(t *testing.T) {
	for name, wrap := range map[string]func(*testing.T, *http.Transport) http.RoundTripper{
		"net/http": func(_ *testing.T, h2 *http.Transport) http.RoundTripper { return h2 },
		"wrapped":  func(_ *testing.T, h2 *http.Transport) http.RoundTripper { return roundTripper(h2.RoundTrip) },
		"registered for it": func(t *testing.T, h2 *http.Transport) http.RoundTripper {
			outer := newWireBase(t)
			outer.RegisterProtocol("http", h2)
			return outer
		},
		"with HTTP/1 allowed by the outer one": func(t *testing.T, h2 *http.Transport) http.RoundTripper {
			outer := newWireBase(t)
			outer.Protocols = new(http.Protocols)
			outer.Protocols.SetHTTP1(true)
			outer.Protocols.SetUnencryptedHTTP2(true)
			outer.RegisterProtocol("http", roundTripper(h2.RoundTrip))
			return outer
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			serve := func(refuse bool) string {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { listener.Close() })
				go func() {
					for {
						conn, err := listener.Accept()
						if err != nil {
							return
						}
						go serveH2(conn, func(stream uint32) []byte {
							if refuse && requests.Add(1) == 2 {
								return h2Frame(h2Reset, 0, stream, h2Code(h2RefusedStream)...)
							}
							return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88)
						})
					}
				}()
				return "http://" + listener.Addr().String() + "/"
			}
			url, other := serve(true), serve(false)
			base := wrap(t, newH2Base(t))
			q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Hour}}}
			transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for range 2 {
				resp, err := transport.RoundTrip(wireRequest(t, "GET", url, "").WithContext(ctx))
				if err != nil {
					t.Fatalf("%v; %d requests, counted %+v", err, requests.Load(), q.State())
				}
				resp.Body.Close()
				resp, err = base.RoundTrip(wireRequest(t, "GET", other, "").WithContext(ctx))
				if err != nil {
					t.Fatalf("another host: %v", err)
				}
				resp.Body.Close()
			}
			// One that goes out again and has no place is counted, and the next call pays.
			if used := q.State().Windows[0].Used; requests.Load() != 3 || used != 3 {
				t.Errorf("%d requests, counted as %d", requests.Load(), used)
			}
		})
	}
}

// HTTP/1.1 without TLS is known by who asks for its connection, whatever is around net/http's
// Transport: its replays wait.
func TestReplaysOverHTTP1WaitBehindAnyBase(t *testing.T) {
	for name, wrap := range map[string]func(*testing.T, *http.Transport) http.RoundTripper{
		"net/http": func(_ *testing.T, h1 *http.Transport) http.RoundTripper { return h1 },
		"wrapped":  func(_ *testing.T, h1 *http.Transport) http.RoundTripper { return roundTripper(h1.RoundTrip) },
		"registered": func(t *testing.T, h1 *http.Transport) http.RoundTripper {
			outer := newWireBase(t)
			outer.RegisterProtocol("http", h1)
			return outer
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			server := newWireServer(t, func(c *wireConn) {
				for {
					if req, _ := c.request(); req == nil || requests.Add(1) == 2 {
						return
					}
					c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
				}
			})
			q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Hour}}}
			transport := &steadyhttp.Transport{Base: wrap(t, newWireBase(t)), Gates: []steadyhttp.Gate{q}}
			resp, err := transport.RoundTrip(wireRequest(t, "GET", server.url, ""))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err = transport.RoundTrip(wireRequest(t, "GET", server.url, "").WithContext(ctx))
			refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
			if !ok || refusal.Wait < 59*time.Minute || !strings.Contains(err.Error(), "quota") {
				t.Errorf("got %v, want a refusal: the replay has no place for an hour", err)
			}
			if requests.Load() != 2 {
				t.Errorf("%d requests", requests.Load())
			}
		})
	}
}
