package steadyhttp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Issue 8, 13: who has said all in an upgraded connection says so with CloseWrite, and still hears the answer.
func TestWireHalfClosedUpgrade(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		c.head()
		c.answer("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: echo", "", "")
		said, _ := io.ReadAll(c.r) // to the end, or there is no answer
		fmt.Fprintf(c, "you said %q", said)
	})
	for name, set := range map[string]func(*steadyhttp.Transport){
		"default": func(*steadyhttp.Transport) {},
		"a trace": func(tr *steadyhttp.Transport) { tr.Trace = new(wireLog).trace() },
		"Done": func(tr *steadyhttp.Transport) {
			tr.Trace = &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) {}}
		},
		"a gate": func(tr *steadyhttp.Transport) { tr.Gates = []steadyhttp.Gate{steadyhttp.Limit(nil)} },
		"timeouts": func(tr *steadyhttp.Transport) {
			tr.Policy.AttemptTimeout, tr.Policy.IdleTimeout = time.Minute, time.Minute
		},
		"MaxRead":    func(tr *steadyhttp.Transport) { tr.Policy.MaxRead = 1 << 20 },
		"other base": func(tr *steadyhttp.Transport) { tr.Base = keyer{tr.Base} },
		"nested": func(tr *steadyhttp.Transport) {
			tr.Base = &steadyhttp.Transport{Base: tr.Base, Trace: new(wireLog).trace()}
		},
		"Classify": func(tr *steadyhttp.Transport) { tr.Classify = (&steadyhttp.Rules{}).Classify },
	} {
		newTransport := func() *steadyhttp.Transport {
			transport := &steadyhttp.Transport{Base: newWireBase(t)}
			set(transport)
			return transport
		}
		t.Run(name, func(t *testing.T) {
			req := wireRequest(t, "GET", server.url, "")
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			resp, err := newTransport().RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			conn, ok := resp.Body.(interface {
				io.ReadWriteCloser
				CloseWrite() error
			})
			if !ok {
				t.Fatalf("the body is a %T", resp.Body)
			}
			io.WriteString(conn, "hello")
			if err := conn.CloseWrite(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(conn); string(got) != `you said "hello"` || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		})
		t.Run(name+", through a ReverseProxy", func(t *testing.T) {
			target, _ := url.Parse(server.url)
			proxy := httptest.NewServer(&httputil.ReverseProxy{
				Transport: newTransport(),
				Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
			})
			defer proxy.Close()
			conn, err := net.Dial("tcp", proxy.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 101 {
				t.Fatalf("got %v, %v", resp, err)
			}
			io.WriteString(conn, "hello")
			conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(r); !strings.HasSuffix(string(got), `you said "hello"`) || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}
