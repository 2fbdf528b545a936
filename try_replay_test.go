package steadyhttp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// This file has what net/http replays by itself, and the proof that a request never left.

// warmPath is where a request goes that only opens a connection.
const warmPath = "/warm"

// carriedOut is what a server has done, request by request.
type carriedOut struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func (l *carriedOut) add(req *http.Request, body string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, req)
	l.bodies = append(l.bodies, body)
	return len(l.requests)
}

func (l *carriedOut) all() []*http.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.requests)
}

// newDyingServer carries out the first request that is no warm-up, calls dies and drops the connection without a byte; it
// answers all others.
func newDyingServer(t *testing.T, dies func(*wireConn)) (*wireServer, *carriedOut) {
	ledger := new(carriedOut)
	server := newWireServer(t, func(c *wireConn) {
		for {
			req, body := c.request()
			if req == nil {
				return
			}
			if req.URL.Path != warmPath && ledger.add(req, body) == 1 {
				if dies != nil {
					dies(c)
				}
				return
			}
			c.answer("HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	server.url = strings.TrimSuffix(server.url, "/")
	return server, ledger
}

// warm opens a connection that the next request is sent on.
func warm(t *testing.T, base http.RoundTripper, url string) {
	t.Helper()
	resp, err := base.RoundTrip(wireRequest(t, "GET", url+warmPath, ""))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// onlookers are the ways to look on, on which nothing may depend.
var onlookers = map[string]func(*steadyhttp.Transport, *http.Request) *http.Request{
	"nobody": func(_ *steadyhttp.Transport, req *http.Request) *http.Request { return req },
	"a gate": func(tr *steadyhttp.Transport, req *http.Request) *http.Request {
		tr.Gates = append(tr.Gates, steadyhttp.Limit(nil))
		return req
	},
	"a trace": func(tr *steadyhttp.Transport, req *http.Request) *http.Request {
		tr.Trace = steadyhttp.Join(tr.Trace, new(wireLog).trace())
		return req
	},
	"WithTrace": func(_ *steadyhttp.Transport, req *http.Request) *http.Request {
		return req.WithContext(steadyhttp.WithTrace(req.Context(), new(wireLog).trace()))
	},
}

// net/http replays no request that the policy does not call idempotent, whatever its header says: its server may
// have carried it out. It replays the others, and the server gets the caller's key in any case.
func TestReplayByNetHTTP(t *testing.T) {
	never := func(*http.Request) bool { return false }
	set := func(name, value string) func(*http.Request) {
		return func(req *http.Request) { req.Header[name] = []string{value} }
	}
	for _, test := range []struct {
		name       string
		method     string
		body       string
		request    func(*http.Request)
		transport  func(*steadyhttp.Transport)
		sends      int
		key, value string // what the server must get
	}{
		{name: "IdempotencyKey, not idempotent", method: "POST", body: "x", sends: 1, transport: func(tr *steadyhttp.Transport) {
			tr.Policy.IdempotencyKey, tr.Policy.Idempotent = true, never
		}},
		{name: "IdempotencyKey, not idempotent, no body", method: "POST", sends: 1, transport: func(tr *steadyhttp.Transport) {
			tr.Policy.IdempotencyKey, tr.Policy.Idempotent = true, never
		}},
		{name: "IdempotencyKey", method: "PATCH", body: "x", sends: 2, transport: func(tr *steadyhttp.Transport) {
			tr.Policy.IdempotencyKey = true
		}},
		{name: "own key, not idempotent", method: "POST", body: "x", request: set("Idempotency-Key", "mine"), sends: 1,
			transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }, key: "Idempotency-Key", value: "mine"},
		{name: "own X key, not idempotent", method: "PATCH", body: "x", request: set("X-Idempotency-Key", "mine"), sends: 1,
			transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }, key: "X-Idempotency-Key", value: "mine"},
		{name: "own key, not idempotent, no body", method: "POST", request: set("Idempotency-Key", "mine"), sends: 1,
			transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }, key: "Idempotency-Key", value: "mine"},
		{name: "own key of an unknown method, not idempotent", method: "MOVE", request: set("Idempotency-Key", "mine"), sends: 1,
			transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }, key: "Idempotency-Key", value: "mine"},
		{name: "own key in WithPolicy, not idempotent", method: "POST", body: "x", sends: 1, key: "Idempotency-Key", value: "mine",
			request: func(req *http.Request) {
				set("Idempotency-Key", "mine")(req)
				*req = *req.WithContext(steadyhttp.WithPolicy(req.Context(), func(p *steadyhttp.Policy) { p.Idempotent = never }))
			}},
		{name: "own key, one attempt, not idempotent", method: "POST", body: "x", request: set("Idempotency-Key", "mine"), sends: 1,
			transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent, tr.Policy.MaxAttempts = never, 1 },
			key:       "Idempotency-Key", value: "mine"},
		{name: "own key", method: "POST", body: "x", request: set("Idempotency-Key", "mine"), sends: 2, key: "Idempotency-Key", value: "mine"},
		{name: "own empty X key", method: "POST", body: "x", request: set("X-Idempotency-Key", ""), sends: 2},
		{name: "own key in lower case", method: "POST", body: "x", request: set("idempotency-key", "mine"), sends: 1,
			key: "Idempotency-Key", value: "mine"},
		{name: "own key in odd case", method: "POST", body: "x", request: set("IDEMPOTENCY-KEY", "mine"), sends: 1,
			key: "Idempotency-Key", value: "mine"},
		{name: "Prepare's key", method: "POST", body: "x", sends: 1, key: "Idempotency-Key", value: "its", transport: func(tr *steadyhttp.Transport) {
			tr.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error {
				req.Header.Set("Idempotency-Key", "its")
				return nil
			}
		}},
		{name: "AttemptStart's key", method: "POST", body: "x", sends: 1, key: "X-Idempotency-Key", value: "its", transport: func(tr *steadyhttp.Transport) {
			tr.Trace = &steadyhttp.Trace{AttemptStart: func(_ context.Context, a steadyhttp.Attempt) context.Context {
				a.Request.Header.Set("X-Idempotency-Key", "its")
				return nil
			}}
		}},
		{name: "no key", method: "POST", body: "x", sends: 1},
		{name: "GET", method: "GET", sends: 2},
		{name: "PUT", method: "PUT", body: "x", sends: 2}, // by us
		{name: "unsafe GET", method: "GET", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe GET by no name", method: "", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe HEAD", method: "HEAD", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe OPTIONS", method: "OPTIONS", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe TRACE", method: "TRACE", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe GET with a body", method: "GET", body: "x", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe OPTIONS with a body", method: "OPTIONS", body: "x", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe GET with NoBody and a key", method: "GET", sends: 1, key: "Idempotency-Key", value: "mine",
			request:   func(req *http.Request) { req.Body = http.NoBody; set("Idempotency-Key", "mine")(req) },
			transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		{name: "unsafe PUT", method: "PUT", body: "x", sends: 1, transport: func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = never }},
		// A handshake is net/http's to replay, as without us.
		{name: "upgrade", method: "GET", sends: 2, request: func(req *http.Request) {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
		}, key: "Upgrade", value: "echo"},
	} {
		for who, look := range onlookers {
			t.Run(test.name+"/"+who, func(t *testing.T) {
				server, ledger := newDyingServer(t, nil)
				base := newWireBase(t)
				warm(t, base, server.url)
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
				if test.transport != nil {
					test.transport(transport)
				}
				req := wireRequest(t, test.method, server.url+"/isolate", test.body)
				req.Method = test.method // "" too
				if test.request != nil {
					test.request(req)
				}
				before := snapshot(req)
				resp, err := transport.RoundTrip(look(transport, req))
				if resp != nil {
					resp.Body.Close()
				}
				before.assertUnchanged(t, req)
				got := ledger.all()
				if len(got) != test.sends || (err == nil) != (test.sends == 2) {
					t.Errorf("carried out %d times, want %d; the error is %v", len(got), test.sends, err)
				}
				for n, g := range got {
					if test.key != "" && g.Header.Get(test.key) != test.value {
						t.Errorf("sending %d has %s %q, want %q", n+1, test.key, g.Header.Get(test.key), test.value)
					}
					if ledger.bodies[n] != test.body {
						t.Errorf("sending %d has body %q", n+1, ledger.bodies[n])
					}
					if test.body == "" && (g.ContentLength > 0 || len(g.TransferEncoding) > 0) {
						t.Errorf("sending %d of no body has length %d and coding %q", n+1, g.ContentLength, g.TransferEncoding)
					}
				}
			})
		}
	}
}

// keyer sets a key below the Transport, where net/http replays for it.
type keyer struct{ base http.RoundTripper }

func (k keyer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Idempotency-Key", "below")
	return k.base.RoundTrip(req)
}

// An attempt that was sent once, and whose replay by net/http then met a closed port, was sent: its last error
// proves nothing of its first sending.
func TestReplayMeetsAClosedPort(t *testing.T) {
	for who, look := range onlookers {
		for _, test := range []struct {
			name  string
			wrap  func(http.RoundTripper) http.RoundTripper
			setUp func(*steadyhttp.Transport, *http.Request)
		}{
			{"POST", nil, func(*steadyhttp.Transport, *http.Request) {}},
			{"keyed POST, not idempotent", nil, func(tr *steadyhttp.Transport, req *http.Request) {
				req.Header.Set("Idempotency-Key", "mine")
				tr.Policy.Idempotent = func(*http.Request) bool { return false }
			}},
			{"POST keyed below", func(rt http.RoundTripper) http.RoundTripper { return keyer{rt} }, func(*steadyhttp.Transport, *http.Request) {}},
		} {
			t.Run(test.name+"/"+who, func(t *testing.T) {
				var dials atomic.Int64
				var server *wireServer
				var ledger *carriedOut
				server, ledger = newDyingServer(t, func(*wireConn) { server.listener.Close() })
				base := newWireBase(t)
				base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dials.Add(1)
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
				warm(t, base, server.url)
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
				if test.wrap != nil {
					transport.Base = test.wrap(base)
				}
				req := wireRequest(t, "POST", server.url+"/isolate", "x")
				test.setUp(transport, req)
				_, err := transport.RoundTrip(look(transport, req))
				if e := errorOf(t, err); e.Stop != "not_idempotent" || e.Attempts != 1 || errors.Is(err, steadyhttp.ErrNotSent) {
					t.Errorf("got %+v", e)
				}
				want := int64(1)
				if test.wrap != nil {
					want = 2 // net/http's own try
				}
				if len(ledger.all()) != 1 || dials.Load() != want {
					t.Errorf("carried out %d times, %d dials, want 1 and %d", len(ledger.all()), dials.Load(), want)
				}
			})
		}
	}
}

// wrappedError wraps as a DialContext of one's own may.
type wrappedError struct{ err error }

func (e *wrappedError) Error() string { return "own dialler: " + e.err.Error() }
func (e *wrappedError) Unwrap() error { return e.err }

// relay copies both ways between a proxy's connection and a target.
func relay(c *wireConn, target string) {
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		io.Copy(to, c.r)
		to.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, to)
}

// What never left is tried again whatever it does, and carried out once.
func TestWhatNeverLeftIsSent(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	dial := new(net.Dialer)
	dials := func(first error) func(*testing.T, *http.Transport, string) {
		return func(_ *testing.T, base *http.Transport, _ string) {
			var n atomic.Int64
			base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if n.Add(1) == 1 {
					return nil, first
				}
				return dial.DialContext(ctx, network, addr)
			}
		}
	}
	// reaches leads the first dial to a server that does something else.
	reaches := func(serve func(*wireConn)) func(*testing.T, *http.Transport, string) {
		return func(t *testing.T, base *http.Transport, _ string) {
			other := newWireServer(t, serve)
			var n atomic.Int64
			base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if n.Add(1) == 1 {
					addr = other.listener.Addr().String()
				}
				return dial.DialContext(ctx, network, addr)
			}
		}
	}
	through := func(scheme string, serve func(c *wireConn, target string)) func(*testing.T, *http.Transport, string) {
		return func(t *testing.T, base *http.Transport, target string) {
			proxy := newWireServer(t, func(c *wireConn) { serve(c, target) })
			base.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy.listener.Addr().String()})
		}
	}
	connect := func(first string) func(*testing.T, *http.Transport, string) {
		return through("http", func(c *wireConn, target string) {
			c.head()
			if c.n == 1 {
				c.answer(first)
				return
			}
			c.answer("HTTP/1.1 200 OK\r\n\r\n")
			relay(c, target)
		})
	}
	socks := func(first []byte) func(*testing.T, *http.Transport, string) {
		return through("socks5", func(c *wireConn, target string) {
			io.ReadFull(c.r, make([]byte, 3))
			c.Write([]byte{5, 0})
			io.ReadFull(c.r, make([]byte, 10))
			if c.n == 1 {
				c.Write(first)
				return
			}
			c.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80})
			relay(c, target)
		})
	}
	for name, fault := range map[string]func(t *testing.T, base *http.Transport, target string){
		"dial refused":       dials(refused),
		"dial wrapped":       dials(fmt.Errorf("pool: %w", refused)),
		"dial wrapped twice": dials(&wrappedError{fmt.Errorf("pool: %w", refused)}),
		"dial joined":        dials(errors.Join(errors.New("v6: no route"), refused)),
		"dial unknown":       dials(errors.New("no tunnel")),
		"dial timed out":     dials(&wrappedError{context.DeadlineExceeded}),
		"dial broken off":    dials(io.ErrUnexpectedEOF),
		"name server failed": dials(fmt.Errorf("lookup: %w", &net.DNSError{Err: "server misbehaving", Name: "api", IsTemporary: true})),
		"TLS reset":          reaches(func(c *wireConn) { c.r.Peek(1); c.reset() }),
		"TLS closed":         reaches(func(*wireConn) {}),
		"TLS timed out": func(t *testing.T, base *http.Transport, target string) {
			base.TLSHandshakeTimeout = 500 * time.Millisecond
			reaches(func(c *wireConn) { io.Copy(io.Discard, c.r) })(t, base, target)
		},
		"CONNECT 429":               connect("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"),
		"CONNECT 502":               connect("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
		"CONNECT 503":               connect("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"),
		"CONNECT closed":            connect(""),
		"CONNECT nonsense":          connect("220 smtp\r\n\r\n"),
		"SOCKS5 host unreachable":   socks([]byte{5, 4, 0, 1, 0, 0, 0, 0, 0, 0}),
		"SOCKS5 connection refused": socks([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}),
		"SOCKS5 closed":             socks(nil),
		"proxy refused": func(_ *testing.T, base *http.Transport, _ string) {
			var n atomic.Int64
			base.Proxy = func(*http.Request) (*url.URL, error) {
				if n.Add(1) == 1 {
					return &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, nil
				}
				return nil, nil
			}
		},
	} {
		for who, look := range onlookers {
			t.Run(name+"/"+who, func(t *testing.T) {
				var bodies atomic.Value
				var sent atomic.Int64
				server, base := newWireTLS(t, "HTTP/1.1", func(_ http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					bodies.Store(string(body))
					sent.Add(1)
				})
				fault(t, base, server.Listener.Addr().String())
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
				req := wireRequest(t, "POST", server.URL, "content")
				var log wireLog
				if who == "a trace" {
					transport.Trace = log.trace()
				}
				resp, err := transport.RoundTrip(look(transport, req))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if sent.Load() != 1 || bodies.Load() != "content" {
					t.Errorf("carried out %d times, with %q", sent.Load(), bodies.Load())
				}
				for n, a := range log.all() {
					if want := n; a.Sends != want || a.Sent.IsZero() != (n == 0) {
						t.Errorf("attempt %d has %d sends, sent %v: %v", a.N, a.Sends, a.Sent, a.Err)
					}
				}
				base.CloseIdleConnections()
			})
		}
	}
}

// The other side of it: what may have been carried out is not, by us, a second time.
func TestWhatMayHaveBeenCarriedOutIsNotSentAgain(t *testing.T) {
	for name, dies := range map[string]func(*wireConn){
		"closed":            func(*wireConn) {},
		"reset":             (*wireConn).reset,
		"half a head":       func(c *wireConn) { c.answer("HTTP/1.1 200 OK\r\nContent-") },
		"nonsense":          func(c *wireConn) { c.answer("220 smtp\r\n\r\n") },
		"informational":     func(c *wireConn) { c.answer("HTTP/1.1 103 Early Hints\r\n\r\n") },
		"no head in time":   func(c *wireConn) { io.Copy(io.Discard, c.r) },
		"head is too large": func(c *wireConn) { c.answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n") },
	} {
		for who, look := range onlookers {
			for _, warmed := range []bool{false, true} {
				t.Run(fmt.Sprint(name, "/", who, "/warm ", warmed), func(t *testing.T) {
					server, ledger := newDyingServer(t, dies)
					base := newWireBase(t)
					base.MaxResponseHeaderBytes = 1 << 10
					if name == "no head in time" {
						base.ResponseHeaderTimeout = 50 * time.Millisecond
					}
					if warmed {
						warm(t, base, server.url)
					}
					transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
					_, err := transport.RoundTrip(look(transport, wireRequest(t, "POST", server.url+"/isolate", "x")))
					if e := errorOf(t, err); e.Stop != "not_idempotent" || e.Attempts != 1 || errors.Is(err, steadyhttp.ErrNotSent) {
						t.Errorf("got %+v", e)
					}
					if n := len(ledger.all()); n != 1 {
						t.Errorf("carried out %d times", n)
					}
					base.CloseIdleConnections()
				})
			}
		}
	}
}

// A host that does not exist will not exist at the next attempt either, however its error is wrapped.
func TestUnknownHostIsFinal(t *testing.T) {
	unknown := &net.DNSError{Err: "no such host", Name: "api.example", IsNotFound: true}
	for name, err := range map[string]error{
		"bare":    unknown,
		"wrapped": fmt.Errorf("lookup: %w", unknown),
		"in dial": &net.OpError{Op: "dial", Net: "tcp", Err: unknown},
	} {
		t.Run(name, func(t *testing.T) {
			base, dials := newWireBase(t), 0
			base.DialContext = func(context.Context, string, string) (net.Conn, error) {
				dials++
				return nil, err
			}
			_, got := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(wireRequest(t, "POST", "http://api.example/", "x"))
			if !errors.Is(got, unknown) || dials != 1 {
				t.Errorf("got %v after %d dials", got, dials)
			}
		})
	}
}

// h2Code is the payload of a frame that carries an error code.
func h2Code(n byte) []byte { return []byte{0, 0, 0, n} }

// Over HTTP/2: net/http replays what the server has not processed, and nothing else.
func TestReplayByNetHTTP2(t *testing.T) {
	const calm = 11 // ENHANCE_YOUR_CALM
	reset := func(code byte) func(uint32) []byte {
		return func(s uint32) []byte { return h2Frame(h2Reset, 0, s, h2Code(code)...) }
	}
	goAway := func(below bool, code byte) func(uint32) []byte {
		return func(s uint32) []byte {
			last := s
			if below {
				last = s - 1
			}
			frame := h2Frame(h2GoAway, 0, 0, append(binary.BigEndian.AppendUint32(nil, last), h2Code(code)...)...)
			if !below {
				frame = append(frame, h2Frame(0 /* DATA */, 0, 0, 'x')...) // of no stream: the connection is at its end
			}
			return frame
		}
	}
	for _, fault := range []struct {
		name   string
		frame  func(uint32) []byte
		unsent bool
	}{
		{"refused stream", reset(h2RefusedStream), true},
		{"going away below", goAway(true, 0), true},
		{"going away below for calm", goAway(true, calm), true},
		{"internal error", reset(h2Internal), false},
		{"cancelled", reset(h2Cancel), false},
		{"calm", reset(calm), false},
		{"protocol error", reset(1), false}, // after which net/http replays what it can (golang/go#47635)
		{"connection lost after going away", goAway(false, 0), false},
		{"connection lost", func(uint32) []byte { return h2Frame(0, 0, 0, 'x') }, false},
	} {
		for _, test := range []struct {
			name       string
			method     string
			body       string
			idempotent bool
			setUp      func(*steadyhttp.Transport, *http.Request)
		}{
			{name: "POST", method: "POST", body: "x"},
			{name: "POST without a body", method: "POST"},
			{name: "unsafe GET", method: "GET", setUp: func(tr *steadyhttp.Transport, _ *http.Request) {
				tr.Policy.Idempotent = func(*http.Request) bool { return false }
			}},
			{name: "keyed POST, not idempotent", method: "POST", body: "x", setUp: func(tr *steadyhttp.Transport, req *http.Request) {
				req.Header.Set("Idempotency-Key", "mine")
				tr.Policy.Idempotent = func(*http.Request) bool { return false }
			}},
			{name: "POST of a file", method: "POST", body: "x", setUp: func(_ *steadyhttp.Transport, req *http.Request) {
				getBody := req.GetBody
				req.Body = joined{req.Body}
				req.GetBody = func() (io.ReadCloser, error) { body, err := getBody(); return joined{body}, err }
			}},
			{name: "keyed POST", method: "POST", body: "x", idempotent: true, setUp: func(_ *steadyhttp.Transport, req *http.Request) {
				req.Header.Set("Idempotency-Key", "mine")
			}},
			{name: "PUT", method: "PUT", body: "x", idempotent: true},
		} {
			if fault.name == "protocol error" && test.name == "POST without a body" {
				continue // nothing but its body can keep net/http from it
			}
			for who, look := range onlookers {
				t.Run(fault.name+"/"+test.name+"/"+who, func(t *testing.T) {
					server, requests := newH2Server(t, func(n int64, stream uint32) []byte {
						if n == 1 {
							return fault.frame(stream)
						}
						return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88)
					})
					transport := &steadyhttp.Transport{Base: newH2Base(t), Policy: atOnce()}
					req := wireRequest(t, test.method, server.url, test.body)
					if test.setUp != nil {
						test.setUp(transport, req)
					}
					resp, err := transport.RoundTrip(look(transport, req))
					if resp != nil {
						resp.Body.Close()
					}
					want := int64(1)
					if fault.unsent || test.idempotent {
						want = 2
					}
					if requests.Load() != want || (err == nil) != (want == 2) {
						t.Errorf("sent %d times, want %d; the error is %v", requests.Load(), want, err)
					}
				})
			}
		}
	}
}

// joined hides what a body is made of.
type joined struct{ io.ReadCloser }

// HTTP/2's own proof counts when net/http has given up its replays: then the next attempt is ours.
func TestRefusedStreamsAfterReplays(t *testing.T) {
	for name, withGetBody := range map[string]bool{"GetBody": true, "no body": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests atomic.Int64
				base := newH2Base(t)
				var conns []net.Conn
				base.DialContext = func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					conns = append(conns, client)
					go serveH2(server, func(stream uint32) []byte {
						if requests.Add(1) <= 8 {
							return h2Frame(h2Reset, 0, stream, h2Code(h2RefusedStream)...)
						}
						return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88)
					})
					return client, nil
				}
				body := ""
				if withGetBody {
					body = "content"
				}
				var log wireLog
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: log.trace()}
				req := newRequest(t, "POST", body)
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if attempts := log.all(); requests.Load() != 9 || len(attempts) < 2 {
					t.Errorf("%d requests in %d attempts", requests.Load(), len(attempts))
				}
				for _, conn := range conns {
					conn.Close()
				}
			})
		})
	}
}

// serveH2 speaks as much of HTTP/2 as a client needs, and writes on a goroutine of its own: a pipe has no buffer.
func serveH2(conn net.Conn, serve func(stream uint32) []byte) {
	frames := make(chan []byte, 100)
	defer close(frames)
	defer conn.Close()
	go func() {
		for frame := range frames {
			conn.Write(frame)
		}
	}()
	if _, err := io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	frames <- h2Frame(h2Settings, 0, 0)
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head)>>8)); err != nil {
			return
		}
		switch kind, flags := head[3], head[4]; {
		case kind == h2Settings && flags&h2Ack == 0:
			frames <- h2Frame(h2Settings, h2Ack, 0)
		case kind == h2Headers:
			frames <- serve(binary.BigEndian.Uint32(head[5:]))
		}
	}
}

// countingConn counts the Writes to it.
type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A small body in memory goes out along with its head, in one Write, as it does without the Transport.
func TestSmallPostIsOneWrite(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		for {
			if req, _ := c.request(); req == nil {
				return
			}
			c.answer(wireOK)
		}
	})
	const content = `{"Comment":"isolate"}`
	for kind, body := range map[string]func() io.Reader{
		"bytes.Reader":   func() io.Reader { return bytes.NewReader([]byte(content)) },
		"strings.Reader": func() io.Reader { return strings.NewReader(content) },
		"bytes.Buffer":   func() io.Reader { return bytes.NewBufferString(content) },
		"none":           func() io.Reader { return nil },
	} {
		for policy, edit := range map[string]func(*steadyhttp.Transport){
			"default":        func(*steadyhttp.Transport) {},
			"IdempotencyKey": func(tr *steadyhttp.Transport) { tr.Policy.IdempotencyKey = true },
			"timeouts": func(tr *steadyhttp.Transport) {
				tr.Policy.AttemptTimeout, tr.Policy.IdleTimeout, tr.Policy.MaxElapsed = time.Minute, time.Minute, time.Minute
			},
			"Prepare": func(tr *steadyhttp.Transport) {
				tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return nil }
			},
			"unsafe": func(tr *steadyhttp.Transport) { tr.Policy.Idempotent = func(*http.Request) bool { return false } },
		} {
			for _, method := range []string{"POST", "PATCH", "PUT", "DELETE"} {
				for who, look := range onlookers {
					t.Run(strings.Join([]string{kind, policy, method, who}, "/"), func(t *testing.T) {
						var writes atomic.Int64
						base := newWireBase(t)
						base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
							conn, err := new(net.Dialer).DialContext(ctx, network, addr)
							return countingConn{conn, &writes}, err
						}
						transport := &steadyhttp.Transport{Base: base}
						edit(transport)
						const calls = 3
						for range calls {
							req, err := http.NewRequestWithContext(t.Context(), method, server.url, body())
							if err != nil {
								t.Fatal(err)
							}
							do(t, transport, look(transport, req))
						}
						if writes.Load() != calls {
							t.Errorf("%d Writes for %d requests", writes.Load(), calls)
						}
						base.CloseIdleConnections()
					})
				}
			}
		}
	}
}

// secureConn says that it is a TLS connection which speaks HTTP/1.1, and fails its Writes from a number on.
type secureConn struct {
	net.Conn
	good *atomic.Int64
}

func (secureConn) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{HandshakeComplete: true}
}

func (c secureConn) Write(p []byte) (int, error) {
	if c.good.Add(-1) < 0 {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return c.Conn.Write(p)
}

// A kept-alive connection that is found dead before a byte was written has carried out nothing. Once some of the
// request is written, nobody knows.
func TestNothingWrittenIsRetried(t *testing.T) {
	for _, test := range []struct {
		name, scheme, body string
		good               int64 // Writes of the second request that go well
		sent               int64 // requests of which the server has seen anything
		ambiguous          bool
	}{
		{"secure", "https", "x", 0, 2, false},
		{"secure, no body", "https", "", 0, 2, false},
		{"secure, broken off", "https", strings.Repeat("x", 100_000), 1, 1, true},
		{"plain", "http", "x", 0, 2, false},
		{"plain, broken off", "http", strings.Repeat("x", 100_000), 1, 1, true},
	} {
		for name, body := range map[string]func(string) io.Reader{
			"bytes":    func(s string) io.Reader { return strings.NewReader(s) },
			"recorded": func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} },
		} {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				var good, served atomic.Int64
				good.Store(1 << 40)
				server := newWireServer(t, func(c *wireConn) {
					for {
						req, err := http.ReadRequest(c.r)
						if err != nil {
							return
						}
						if _, err := io.Copy(io.Discard, req.Body); err != nil {
							return
						}
						served.Add(1)
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				base := newWireBase(t)
				dial := base.DialContext
				if dial == nil {
					dial = (&net.Dialer{}).DialContext
				}
				first := true
				wrap := func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := dial(ctx, network, addr)
					if err != nil || !first {
						return conn, err
					}
					first = false
					if test.scheme == "https" {
						return secureConn{conn, &good}, nil
					}
					return struct{ net.Conn }{dyingConn{conn, &good}}, nil
				}
				base.DialContext, base.DialTLSContext = wrap, func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := wrap(ctx, network, addr)
					if _, wrapped := conn.(secureConn); err == nil && !wrapped {
						all := new(atomic.Int64)
						all.Store(1 << 40)
						conn = secureConn{conn, all}
					}
					return conn, err
				}
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
				url := test.scheme + strings.TrimPrefix(server.url, "http")
				resp, err := transport.RoundTrip(wireRequest(t, "GET", url, ""))
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				good.Store(test.good)
				req := wireRequest(t, "POST", url, "")
				if test.body != "" {
					req, err = http.NewRequestWithContext(t.Context(), "POST", url, body(test.body))
					if err != nil {
						t.Fatal(err)
					}
					req.ContentLength = int64(len(test.body))
				}
				resp, err = transport.RoundTrip(req)
				if resp != nil {
					resp.Body.Close()
				}
				if served.Load() != test.sent || (err != nil) != test.ambiguous {
					t.Errorf("served %d, want %d; %v", served.Load(), test.sent, err)
				}
				if err != nil && !errorOf(t, err).Ambiguous {
					t.Errorf("is not ambiguous: %v", err)
				}
			})
		}
	}
}

// dyingConn fails its Writes from a number on.
type dyingConn secureConn

func (c dyingConn) Write(p []byte) (int, error) { return secureConn(c).Write(p) }

// Over TLS, where a server chooses HTTP/2, a POST is not replayed after PROTOCOL_ERROR, whatever is around
// net/http's Transport, and is retried after REFUSED_STREAM.
func TestProtocolErrorOverTLS(t *testing.T) {
	for _, fault := range []struct {
		name string
		code byte
		want int64
	}{{"PROTOCOL_ERROR", 1, 1}, {"REFUSED_STREAM", h2RefusedStream, 2}} {
		for name, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
			"bare":    func(rt http.RoundTripper) http.RoundTripper { return rt },
			"wrapped": func(rt http.RoundTripper) http.RoundTripper { return roundTripper(rt.RoundTrip) },
		} {
			for who, look := range onlookers {
				t.Run(fault.name+"/"+name+"/"+who, func(t *testing.T) {
					trusted := httptest.NewTLSServer(nil) // for its certificate
					defer trusted.Close()
					listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
						Certificates: trusted.TLS.Certificates, NextProtos: []string{"h2"},
					})
					if err != nil {
						t.Fatal(err)
					}
					defer listener.Close()
					var requests atomic.Int64
					go func() {
						for {
							conn, err := listener.Accept()
							if err != nil {
								return
							}
							go serveH2(conn, func(stream uint32) []byte {
								if requests.Add(1) == 1 {
									return h2Frame(h2Reset, 0, stream, h2Code(fault.code)...)
								}
								return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88)
							})
						}
					}()
					base := trusted.Client().Transport.(*http.Transport).Clone()
					base.ForceAttemptHTTP2 = true
					defer base.CloseIdleConnections()
					transport := &steadyhttp.Transport{Base: wrap(base), Policy: atOnce()}
					req := wireRequest(t, "POST", "https://"+listener.Addr().String(), "content")
					resp, err := transport.RoundTrip(look(transport, req))
					if resp != nil {
						resp.Body.Close()
					}
					if requests.Load() != fault.want || (err == nil) != (fault.want == 2) {
						t.Errorf("sent %d times, want %d; %v", requests.Load(), fault.want, err)
					}
				})
			}
		}
	}
}

// pipes are connections to servers that serveH2 is. net/http dials on goroutines of its own, and once
// more than it needs where a stream's end is seen late.
type pipes struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (p *pipes) dial(
	serve func(stream uint32) []byte,
) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.conns = append(p.conns, client)
		go serveH2(server, serve)
		return client, nil
	}
}

func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
}

// A POST that net/http is not let replay is replayed here, where HTTP/2 vouches for it that nothing
// was done: within the attempt, at once and then after net/http's own waits, at no cost to
// MaxAttempts and the budget. Its body is whole each time.
func TestUnprocessedPostIsReplayedWithinItsAttempt(t *testing.T) {
	for _, fault := range []struct {
		name  string
		frame func(stream uint32) []byte
	}{
		{"refused stream", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, h2Code(h2RefusedStream)...) }},
		{"going away", func(uint32) []byte { return h2Frame(h2GoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) }},
	} {
		for name, looksOn := range onlookers {
			for _, test := range []struct {
				refusals int64
				least    time.Duration // of net/http's waits: none, 1 s, 2 s, … 32 s, up to a tenth more
			}{
				{1, 0}, {2, time.Second}, {4, 7 * time.Second}, {7, 63 * time.Second},
			} {
				t.Run(fmt.Sprintf("%s, %s, %d times", fault.name, name, test.refusals), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var requests atomic.Int64
						base := newH2Base(t)
						var conns pipes
						defer conns.close()
						base.DialContext = conns.dial(func(stream uint32) []byte {
							if requests.Add(1) <= test.refusals {
								return fault.frame(stream)
							}
							return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88)
						})
						budget := &steadyhttp.Budget{Max: 1}
						transport := &steadyhttp.Transport{
							Base: base, Policy: steadyhttp.Policy{MaxAttempts: 1, Budget: budget},
						}
						req := looksOn(transport, newRequest(t, "POST", "content"))
						began := time.Now()
						resp, err := transport.RoundTrip(req)
						if err != nil {
							t.Fatal(err)
						}
						resp.Body.Close()
						took := time.Since(began)
						if took < test.least || took > test.least+test.least/10+time.Second/2 {
							t.Errorf("took %v, want %v and a tenth at the most", took, test.least)
						}
						if got := requests.Load(); got != test.refusals+1 {
							t.Errorf("%d requests, want %d", got, test.refusals+1)
						}
						if a, ok := steadyhttp.AttemptOf(resp); ok {
							t.Errorf("it was retried: %+v", a)
						}
						if !budget.Take(req) {
							t.Error("the budget was spent")
						}
					})
				})
			}
		}
	}
}

// A caller who gives up is not kept by a replay's wait, and a service that goes on refusing gets
// eight requests of one attempt: those of net/http itself.
func TestReplaysOfAnUnprocessedPostEnd(t *testing.T) {
	for _, after := range []time.Duration{5 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var requests atomic.Int64
			base := newH2Base(t)
			var conns pipes
			defer conns.close()
			base.DialContext = conns.dial(func(stream uint32) []byte {
				requests.Add(1)
				return h2Frame(h2Reset, 0, stream, h2Code(h2RefusedStream)...)
			})
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			began := time.Now()
			transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 1}}
			_, err := transport.RoundTrip(newRequest(t, "POST", "content").WithContext(ctx))
			took, sent := time.Since(began), requests.Load()
			switch e := errorOf(t, err); {
			case after == 5*time.Second && (took != after || sent != 4 || e.Stop != steadyhttp.StopCancelled):
				t.Errorf("took %v and %d requests: %v", took, sent, err)
			case after == time.Hour && (sent != 8 || e.Stop != steadyhttp.StopAttempts || e.Ambiguous || e.Attempts != 1):
				t.Errorf("%d requests: %+v", sent, e)
			}
		})
	}
}
