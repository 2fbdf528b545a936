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
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Who has said all in an upgraded connection says so with CloseWrite, and still hears the answer.
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

// An upgraded connection keeps its Write, and no bound of ours ends it.
func TestUpgrade(t *testing.T) {
	for name, transport := range map[string]*steadyhttp.Transport{
		"default":         {},
		"attempt timeout": {Policy: steadyhttp.Policy{AttemptTimeout: time.Second, MaxElapsed: time.Second}},
		"read ahead":      {Policy: steadyhttp.Policy{MaxRead: 1 << 20}},
		"trace":           {Trace: &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) {}}},
		"Classify":        {Classify: (&steadyhttp.Rules{}).Classify},
	} {
		for _, first := range []int{101, 503} {
			t.Run(fmt.Sprint(name, ", first answer ", first), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					here, there := net.Pipe()
					upgrade := func(req *http.Request) (*http.Response, error) {
						resp, _ := answers(101, "")(req)
						resp.Body = here
						return resp, nil
					}
					var n int
					transport := withBase(transport, roundTripper(func(req *http.Request) (*http.Response, error) {
						if n++; n == 1 && first != 101 {
							return answers(first, "")(req)
						}
						return upgrade(req)
					}))
					// It is the caller that asks for an upgrade to be retried: see TestTunnelsAreNotRetried.
					if first != 101 {
						transport.Policy.NewBackOff = newZeroBackOff
					}
					req := newRequest(t, "GET", "")
					if first == 101 {
						req.Header.Set("Upgrade", "echo")
					}
					resp, err := transport.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					conn, ok := resp.Body.(io.ReadWriteCloser)
					if !ok {
						t.Fatalf("the body (%T) has no Write", resp.Body)
					}
					go func() {
						defer there.Close()
						io.Copy(there, there)
					}()
					time.Sleep(time.Hour)
					for range 3 {
						go io.WriteString(conn, "ping")
						p := make([]byte, 4)
						if _, err := io.ReadFull(conn, p); err != nil || string(p) != "ping" {
							t.Errorf("read %q, %v", p, err)
						}
					}
					conn.Close()
				})
			})
		}
	}
}

// What becomes a tunnel is not retried after a fault, even where its method would be.
func TestTunnelsAreNotRetried(t *testing.T) {
	for name, answer := range map[string]step{"503": answers(503, "kept"), "reset": failsWith(trReset)} {
		for _, kind := range []string{"CONNECT", "Upgrade"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				base := newScript(answer)
				req := newRequest(t, "GET", "")
				if kind == "CONNECT" {
					req = newRequest(t, "CONNECT", "")
				} else {
					req.Header.Set("Upgrade", "websocket")
				}
				policy := atOnce()
				policy.Idempotent = func(*http.Request) bool { return true }
				resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				if base.sent() != 1 {
					t.Errorf("sent %d times", base.sent())
				}
			})
		}
	}
}
