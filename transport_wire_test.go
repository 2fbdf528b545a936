package steadyhttp_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// This file has what only real sockets show, with net/http's own transport as the base. The servers are scripts, so that
// no test waits for a time to pass: each waits for what the other side does.

// wireServer is a server that writes the wire by hand.
type wireServer struct {
	url   string
	conns atomic.Int64 // accepted so far

	listener net.Listener
	serving  sync.WaitGroup
	mu       sync.Mutex
	open     []net.Conn
}

// wireConn is one connection of it.
type wireConn struct {
	net.Conn
	r *bufio.Reader
	n int // 1 for the first of the server
}

// newWireServer starts a server that calls serve for each connection, and closes that when serve returns.
func newWireServer(t *testing.T, serve func(*wireConn)) *wireServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &wireServer{url: "http://" + listener.Addr().String() + "/", listener: listener}
	s.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open = append(s.open, conn)
			s.mu.Unlock()
			n := int(s.conns.Add(1))
			s.serving.Go(func() {
				defer conn.Close()
				serve(&wireConn{conn, bufio.NewReader(conn), n})
			})
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *wireServer) close() {
	s.listener.Close()
	s.mu.Lock()
	for _, conn := range s.open {
		conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// request reads a request and its body. It returns nil when the client has closed the connection.
func (c *wireConn) request() (*http.Request, string) {
	req, err := http.ReadRequest(c.r)
	if err != nil {
		return nil, ""
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, ""
	}
	return req, string(body)
}

// head reads a request's head as it came, and leaves its body on the wire.
func (c *wireConn) head() string {
	var head strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String()
		}
	}
}

func (c *wireConn) answer(lines ...string) { io.WriteString(c, strings.Join(lines, "\r\n")) }

// reset closes the connection with a RST.
func (c *wireConn) reset() {
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
}

const wireOK = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"

// newWireBase returns a base transport with connections of its own.
func newWireBase(t testing.TB) *http.Transport {
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return base
}

func wireRequest(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	// The bound is for a server or a client that hangs: no test comes near it.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// wireLog notes each attempt as it is done.
type wireLog struct {
	mu       sync.Mutex
	attempts []steadyhttp.Attempt
}

func (l *wireLog) trace() *steadyhttp.Trace {
	return &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.attempts = append(l.attempts, a)
	}}
}

func (l *wireLog) all() []steadyhttp.Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.attempts)
}

// A discarded answer is read to its end, so that its connection is used again, unless that would take long.
func TestWireConnectionIsUsedAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		body  string
		conns int64
	}{
		{"no body", "", 1},
		{"envelope", envelope("429", "slow", "t"), 1},
		{"64 KiB less a byte", strings.Repeat("x", 64<<10-1), 1},
		{"1 MiB", strings.Repeat("x", 1<<20), 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newWireServer(t, func(c *wireConn) {
				for n := 1; ; n++ {
					if req, _ := c.request(); req == nil {
						return
					}
					if c.n == 1 && n == 1 {
						c.answer("HTTP/1.1 429 Slow", fmt.Sprint("Content-Length: ", len(test.body)), "", test.body)
						continue
					}
					c.answer(wireOK)
				}
			})
			_, body := do(t, &steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce()}, wireRequest(t, "GET", server.url, ""))
			if body != "fine" || server.conns.Load() != test.conns {
				t.Errorf("got %q over %d connections, want %d", body, server.conns.Load(), test.conns)
			}
		})
	}
}

// What net/http sends again on its own, after a kept-alive connection turned out to be dead, is counted.
func TestWireStaleConnection(t *testing.T) {
	var seen atomic.Int64
	server := newWireServer(t, func(c *wireConn) {
		for n := 1; ; n++ {
			if req, _ := c.request(); req == nil {
				return
			}
			seen.Add(1)
			if n == 2 {
				return // dead, without a byte
			}
			c.answer(wireOK)
		}
	})
	var log wireLog
	transport := &steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce(), Trace: log.trace()}
	const calls = 10
	for range calls {
		do(t, transport, wireRequest(t, "GET", server.url, ""))
	}
	attempts, sends := log.all(), 0
	for _, a := range attempts {
		sends += a.Sends
	}
	if len(attempts) != calls || attempts[1].Sends != 2 {
		t.Errorf("%d attempts, the second with %d sends: want %d and 2", len(attempts), attempts[1].Sends, calls)
	}
	if int64(sends) != seen.Load() {
		t.Errorf("%d sends counted, the server has seen %d", sends, seen.Load())
	}
}

// A connection that never came about proves that nothing was sent, even to retry a POST.
func TestWireRefusedPostIsRetried(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	var got []string
	server := newWireServer(t, func(c *wireConn) {
		_, body := c.request()
		got = append(got, body)
		c.answer(wireOK)
	})
	for _, withGetBody := range []bool{true, false} {
		t.Run(fmt.Sprint("GetBody ", withGetBody), func(t *testing.T) {
			got = nil
			base := newWireBase(t)
			dials := 0
			base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials++; dials <= 2 {
					addr = dead.Addr().String()
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			var log wireLog
			req := wireRequest(t, "POST", server.url, "content")
			if !withGetBody {
				req.Body, req.GetBody = newCountingBody("content"), nil
			}
			do(t, &steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: log.trace()}, req)
			if len(got) != 1 || got[0] != "content" {
				t.Errorf("the server got %q", got)
			}
			attempts := log.all()
			if len(attempts) != 3 || attempts[0].Sends != 0 || !attempts[0].Sent.IsZero() || !errors.Is(attempts[0].Err, syscall.ECONNREFUSED) || attempts[2].Sends != 1 {
				t.Errorf("attempts %+v", attempts)
			}
			base.CloseIdleConnections()
		})
	}
}

// A connection lost after the request was sent proves nothing: the POST may have been carried out.
func TestWireResetAfterTheRequest(t *testing.T) {
	for method, want := range map[string]int64{"POST": 1, "PATCH": 1, "GET": 2, "PUT": 2, "DELETE": 2} {
		t.Run(method, func(t *testing.T) {
			var seen atomic.Int64
			server := newWireServer(t, func(c *wireConn) {
				if req, _ := c.request(); req == nil {
					return
				}
				if seen.Add(1) == 1 {
					c.reset()
					return
				}
				c.answer(wireOK)
			})
			resp, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce()}).RoundTrip(wireRequest(t, method, server.url, "content"))
			if seen.Load() != want {
				t.Errorf("the server has seen it %d times, want %d", seen.Load(), want)
			}
			if want == 1 {
				if e := errorOf(t, err); e.Stop != "not_idempotent" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %v, Stop %q", err, e.Stop)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
		})
	}
}

// Broken bodies: a 2xx that breaks off is never a silent short body, and is fetched again where MaxRead allows.
func TestWireTruncatedBody(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer string
		err    error // nil: any
	}{
		{"Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", io.ErrUnexpectedEOF},
		{"chunked, within a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nsome", io.ErrUnexpectedEOF},
		{"chunked, between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", io.ErrUnexpectedEOF},
		{"chunked, bad size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nzzz\r\n", nil},
	} {
		for _, maxRead := range []int64{0, 1 << 10} {
			t.Run(fmt.Sprint(test.name, ", MaxRead ", maxRead), func(t *testing.T) {
				server := newWireServer(t, func(c *wireConn) {
					if req, _ := c.request(); req == nil {
						return
					}
					if c.n == 1 {
						c.answer(test.answer)
						return
					}
					c.answer(wireOK)
				})
				policy := atOnce()
				policy.MaxRead = maxRead
				resp, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: policy}).RoundTrip(wireRequest(t, "GET", server.url, ""))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if maxRead > 0 {
					if string(body) != "fine" || err != nil || server.conns.Load() != 2 {
						t.Errorf("read %q and %v over %d connections", body, err, server.conns.Load())
					}
					return
				}
				if string(body) != "some" || err == nil || test.err != nil && err != test.err || server.conns.Load() != 1 {
					t.Errorf("read %q and %v over %d connections", body, err, server.conns.Load())
				}
			})
		}
	}
}

// Fault table: an answer that is none is a fault like a lost connection, and its text is escaped.
func TestWireMalformedAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"status line": "HTTP/1.1 abc \x1b[31mred\r\n\r\n",
		"version":     "HTTP/9.9.9 200 OK\r\n\r\n",
		"header":      "HTTP/1.1 200 OK\r\nno colon \x07 here\r\n\r\n",
		"garbage":     "\x00\x01\x02\r\n\r\n",
		"cut short":   "HTTP/1.1 200 OK\r\nContent-Le",
		"nothing":     "",
	} {
		for method, want := range map[string]int64{"GET": 2, "POST": 1} {
			t.Run(name+" "+method, func(t *testing.T) {
				server := newWireServer(t, func(c *wireConn) {
					if req, _ := c.request(); req != nil {
						c.answer(answer)
					}
				})
				policy := atOnce()
				policy.MaxAttempts = 2
				resp, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: policy}).RoundTrip(wireRequest(t, method, server.url, "content"))
				if resp != nil || err == nil {
					t.Fatalf("got %v, %v", resp, err)
				}
				if server.conns.Load() != want {
					t.Errorf("%d attempts, want %d", server.conns.Load(), want)
				}
				if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("%q is not fit to print", err)
				}
			})
		}
	}
}

// An answer that comes while the body is still being sent does not make two attempts share a reader.
func TestWireEarlyAnswer(t *testing.T) {
	content := make([]byte, 10<<20)
	for i := range content {
		content[i] = byte(i * 7)
	}
	want := sha256.Sum256(content)
	accept413 := (&steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{413: steadyhttp.Transient}}).Classify
	for _, test := range []struct {
		status  int
		method  string
		buffers bool
	}{{429, "POST", false}, {429, "POST", true}, {503, "PUT", false}, {413, "PUT", false}} {
		t.Run(fmt.Sprint(test.status, " ", test.method, ", MaxBuffer ", test.buffers), func(t *testing.T) {
			sums, held := make(chan [32]byte, 1), make(chan struct{})
			server := newWireServer(t, func(c *wireConn) {
				if c.n == 1 {
					c.head()
					io.CopyN(io.Discard, c.r, 1<<10)
					c.answer(fmt.Sprintf("HTTP/1.1 %d No", test.status), "Content-Length: 2", "", "no")
					// What this server does not read keeps the client writing.
					<-held
					return
				}
				req, body := c.request()
				if req == nil {
					return
				}
				sums <- sha256.Sum256([]byte(body))
				c.answer(wireOK)
			})
			t.Cleanup(func() { close(held) })
			policy := atOnce()
			req := wireRequest(t, test.method, server.url, "")
			req.ContentLength = int64(len(content))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
			req.Body, _ = req.GetBody()
			if test.buffers {
				policy.MaxBuffer, req.GetBody = 16<<20, nil
			}
			resp, body := do(t, &steadyhttp.Transport{Base: newWireBase(t), Policy: policy, Classify: accept413}, req)
			if resp.StatusCode != 200 || body != "fine" {
				t.Fatalf("got %d %q", resp.StatusCode, body)
			}
			if got := <-sums; got != want {
				t.Error("the retry's body is another")
			}
		})
	}
}

// wireSchemes are the two protocols that net/http's transport speaks.
var wireSchemes = []string{"HTTP/1.1", "HTTP/2.0"}

// newWireTLS starts a server for one of them, and returns a base transport that trusts it.
func newWireTLS(t *testing.T, proto string, handler http.HandlerFunc) (*httptest.Server, *http.Transport) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = proto == "HTTP/2.0"
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	base := server.Client().Transport.(*http.Transport)
	t.Cleanup(base.CloseIdleConnections)
	return server, base
}

// Over HTTP/2: a stream that was answered early.
func TestWireEarlyAnswerHTTP2(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 10<<20/16)
	var requests atomic.Int64
	server, base := newWireTLS(t, "HTTP/2.0", func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(429)
			return
		}
		sum := sha256.New()
		io.Copy(sum, r.Body)
		io.WriteString(w, hex.EncodeToString(sum.Sum(nil)))
	})
	resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, wireRequest(t, "POST", server.URL, content))
	sum := sha256.Sum256([]byte(content))
	if resp.ProtoMajor != 2 || body != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: the retry's body is another", resp.Proto)
	}
}

// A server that wants no body says so before it is sent; the retry has all of it.
func TestWireExpectContinue(t *testing.T) {
	for _, withGetBody := range []bool{true, false} {
		t.Run(fmt.Sprint("GetBody ", withGetBody), func(t *testing.T) {
			bodies := make(chan string, 1)
			server := newWireServer(t, func(c *wireConn) {
				if head := c.head(); c.n == 1 {
					if !strings.Contains(head, "Expect: 100-continue\r\n") {
						t.Errorf("head %q", head)
					}
					c.answer("HTTP/1.1 429 Slow", "Content-Length: 0", "Connection: close", "", "")
					return
				}
				c.answer("HTTP/1.1 100 Continue", "", "")
				body := make([]byte, len("content"))
				io.ReadFull(c.r, body)
				bodies <- string(body)
				c.answer(wireOK)
			})
			base := newWireBase(t)
			base.ExpectContinueTimeout = time.Minute
			req := wireRequest(t, "POST", server.url, "content")
			req.Header.Set("Expect", "100-continue")
			if !withGetBody {
				req.GetBody, req.Body = nil, newCountingBody("content")
			}
			do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
			if got := <-bodies; got != "content" {
				t.Errorf("the server got %q", got)
			}
		})
	}
}

// A timeout of the attempt does not cut its body off.
func TestWireLargeBodyWithAttemptTimeout(t *testing.T) {
	for _, proto := range wireSchemes {
		for _, size := range []int{512 << 10, 8 << 20} {
			t.Run(fmt.Sprint(proto, " ", size), func(t *testing.T) {
				content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
				server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) { w.Write(content) })
				policy := steadyhttp.Policy{AttemptTimeout: time.Minute, IdleTimeout: time.Minute, MaxElapsed: time.Minute}
				resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, wireRequest(t, "GET", server.URL, ""))
				if resp.Proto != proto || body != string(content) {
					t.Errorf("%s: read %d bytes of %d", resp.Proto, len(body), size)
				}
			})
		}
	}
}

// Policy.AttemptTimeout over a socket: net/http returns its error, and it is a timeout.
func TestWireAttemptTimeout(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		c.request()
		c.request() // until the client gives up
	})
	policy := atOnce()
	policy.MaxAttempts, policy.AttemptTimeout = 2, 20*time.Millisecond
	_, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: policy}).RoundTrip(wireRequest(t, "GET", server.url, ""))
	if e := errorOf(t, err); !e.Timeout() || e.Attempts != 2 || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Trailers go through in both directions, also when the request is retried.
func TestWireTrailers(t *testing.T) {
	for _, proto := range wireSchemes {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprint(proto, ", filled in late ", late), func(t *testing.T) {
				var sums []string
				server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					sums = append(sums, r.Trailer.Get("X-Sum"))
					w.Header().Set("Trailer", "X-Back")
					if len(sums) == 1 && !late {
						w.WriteHeader(429)
					}
					io.WriteString(w, "content")
					w.Header().Set("X-Back", "24")
				})
				req := wireRequest(t, "POST", server.URL, "content")
				req.ContentLength = -1
				want := []string{"42", "42"}
				if req.Trailer = (http.Header{"X-Sum": {"42"}}); late {
					// As the body ends, as net/http has it.
					want = want[:1]
					req.Trailer.Del("X-Sum")
					req.Trailer["X-Sum"] = nil
					req.Body = io.NopCloser(io.MultiReader(strings.NewReader("content"), readFunc(func([]byte) (int, error) {
						req.Trailer.Set("X-Sum", "42")
						return 0, io.EOF
					})))
				}
				policy := atOnce()
				policy.AttemptTimeout = time.Minute
				resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
				if body != "content" || resp.Trailer.Get("X-Back") != "24" {
					t.Errorf("got %q with trailer %v", body, resp.Trailer)
				}
				if !slices.Equal(sums, want) {
					t.Errorf("the server got trailers %q, want %q", sums, want)
				}
			})
		}
	}
}

// An upgraded connection carries data in both directions at once.
func TestWireUpgrade(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20/16)
	server := newWireServer(t, func(c *wireConn) {
		c.head()
		c.answer("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: echo", "", "")
		io.Copy(c, c.r)
	})
	for name, transport := range map[string]*steadyhttp.Transport{
		"default": {},
		"all of it": {
			Policy:   steadyhttp.Policy{AttemptTimeout: time.Minute, IdleTimeout: time.Minute, MaxRead: 1 << 20},
			Trace:    &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) {}},
			Classify: (&steadyhttp.Rules{}).Classify,
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := wireRequest(t, "GET", server.url, "")
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			resp, err := withBase(transport, newWireBase(t)).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			conn, ok := resp.Body.(io.ReadWriteCloser)
			if resp.StatusCode != 101 || !ok {
				t.Fatalf("got %s and a body %T", resp.Status, resp.Body)
			}
			defer conn.Close()
			sent := make(chan error, 1)
			go func() {
				_, err := conn.Write(content)
				sent <- err
			}()
			got := make([]byte, len(content))
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %v", err)
			}
			if err := <-sent; err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
}

// A CONNECT tunnel goes through, its request body being one side of it.
func TestWireConnect(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		if head := c.head(); !strings.HasPrefix(head, "CONNECT target.example:443 HTTP/1.1\r\n") || strings.Contains(head, "Transfer-Encoding") {
			t.Errorf("head %q", head)
		}
		c.answer("HTTP/1.1 200 Connected", "", "")
		io.Copy(c, c.r)
	})
	upstream, feed := io.Pipe()
	req := wireRequest(t, "CONNECT", server.url, "")
	req.URL.Path, req.Host, req.Body, req.ContentLength = "", "target.example:443", upstream, -1
	resp, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: steadyhttp.Policy{MaxBuffer: 1 << 20}}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		want := fmt.Sprint("ping ", n)
		go io.WriteString(feed, want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	feed.Close()
	resp.Body.Close()
	if server.conns.Load() != 1 {
		t.Errorf("%d connections", server.conns.Load())
	}
}

// An event is delivered when it comes.
func TestWireEventStream(t *testing.T) {
	for _, proto := range wireSchemes {
		for _, status := range []int{200, 503} {
			t.Run(fmt.Sprint(proto, " ", status), func(t *testing.T) {
				next := make(chan struct{})
				server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					w.WriteHeader(status)
					for n := range 3 {
						fmt.Fprintf(w, "data: %d\n\n", n)
						w.(http.Flusher).Flush()
						select {
						case <-next: // the client has had this one
						case <-r.Context().Done():
						}
					}
				})
				policy := steadyhttp.Policy{MaxAttempts: 1, AttemptTimeout: time.Minute, MaxRead: 1 << 20}
				resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(wireRequest(t, "GET", server.URL, ""))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				events := bufio.NewReader(resp.Body)
				for n := range 3 {
					line, err := events.ReadString('\n')
					if want := fmt.Sprintf("data: %d\n", n); line != want || err != nil {
						t.Fatalf("read %q, %v, want %q", line, err, want)
					}
					events.ReadString('\n')
					next <- struct{}{}
				}
			})
		}
	}
}

// HEAD, 204 and 304 have no body to wait for.
func TestWireBodilessAnswers(t *testing.T) {
	for _, test := range []struct{ method, answer string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"},
		{"HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 1073741824\r\n\r\n"},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1073741824\r\n\r\n"},
	} {
		t.Run(test.method+" "+test.answer[9:12], func(t *testing.T) {
			server := newWireServer(t, func(c *wireConn) {
				for {
					if req, _ := c.request(); req == nil {
						return
					}
					c.answer(test.answer)
				}
			})
			transport := &steadyhttp.Transport{Base: newWireBase(t), Policy: steadyhttp.Policy{MaxRead: 1 << 20, AttemptTimeout: time.Minute}}
			for range 2 {
				resp, body := do(t, transport, wireRequest(t, test.method, server.url, ""))
				if length := resp.ContentLength; body != "" || test.method == "HEAD" && length != 1<<30 {
					t.Errorf("body %q, length %d", body, length)
				}
			}
			if server.conns.Load() != 1 {
				t.Errorf("%d connections for two calls", server.conns.Load())
			}
		})
	}
}

func gzipped(content []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w.Write(content)
	w.Close()
	return b.Bytes()
}

// Decompression is as transparent as without the Transport.
func TestWireGzip(t *testing.T) {
	content := []byte(envelope("ResourceNotFound", "gone", "t1"))
	for _, status := range []int{200, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			server, base := newWireTLS(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept-Encoding") != "gzip" {
					t.Errorf("asked for %q", r.Header.Get("Accept-Encoding"))
				}
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(status)
				w.Write(gzipped(content))
			})
			resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}}).RoundTrip(wireRequest(t, "GET", server.URL, ""))
			if err != nil {
				t.Fatal(err)
			}
			if !resp.Uncompressed || resp.ContentLength != -1 || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("Uncompressed %v, length %d, header %v", resp.Uncompressed, resp.ContentLength, resp.Header)
			}
			if a, ok := steadyhttp.AttemptOf(resp); status == 404 && (!ok || a.Verdict.TrackingID != "t1") {
				t.Errorf("AttemptOf = %+v", a)
			}
			if body := readAll(t, resp); body != string(content) {
				t.Errorf("body %q", body)
			}
		})
	}
}

// A bomb in an error's body costs what is peeked of it.
func TestWireGzipBomb(t *testing.T) {
	bomb := gzipped(make([]byte, 32<<20))
	server, base := newWireTLS(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(503)
		w.Write(bomb)
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(wireRequest(t, "GET", server.URL, ""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	runtime.ReadMemStats(&after)
	// All that was allocated on the way, garbage included, in both the server and the client, over four attempts.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("four bombs took %d KiB", grown>>10)
	}
	if a, _ := steadyhttp.AttemptOf(resp); a.N != 4 || len(a.Body) > 64<<10 {
		t.Errorf("attempt %d, %d bytes peeked", a.N, len(a.Body))
	}
}

// An untrusted certificate does not become trusted by asking again.
func TestWireUntrustedCertificate(t *testing.T) {
	var conns atomic.Int64
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	var log wireLog
	_, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce(), Trace: log.trace()}).RoundTrip(wireRequest(t, "GET", server.URL, ""))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
	if len(log.all()) != 1 || conns.Load() != 1 {
		t.Errorf("%d attempts, %d connections", len(log.all()), conns.Load())
	}
}

// http.Client finds out by type assertion that a server does not speak TLS.
func TestWireSchemeMismatch(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		c.answer("HTTP/1.1 400 Bad Request", "", "")
		c.request()
	})
	client := &http.Client{Transport: &steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce()}}
	_, err := client.Do(wireRequest(t, "GET", strings.Replace(server.url, "http:", "https:", 1), ""))
	if !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("got %v", err)
	}
	if server.conns.Load() != 1 {
		t.Errorf("%d attempts", server.conns.Load())
	}
}

// Fault table: a name that does not exist stays so; a resolver that fails may recover, and nothing was sent.
func TestWireDNS(t *testing.T) {
	for _, test := range []struct {
		name string
		err  *net.DNSError
		want int
	}{
		{"no such host", &net.DNSError{Err: "no such host", Name: "api.example", IsNotFound: true}, 1},
		{"temporary", &net.DNSError{Err: "server misbehaving", Name: "api.example", IsTemporary: true}, 4},
		{"timeout", &net.DNSError{Err: "i/o timeout", Name: "api.example", IsTimeout: true}, 4},
	} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(test.name+" "+method, func(t *testing.T) {
				dials := 0
				base := newWireBase(t)
				base.DialContext = func(context.Context, string, string) (net.Conn, error) {
					dials++
					return nil, test.err
				}
				_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(wireRequest(t, method, "http://api.example/", "content"))
				if dns, ok := errors.AsType[*net.DNSError](err); !ok || dns != test.err {
					t.Errorf("got %v", err)
				}
				if dials != test.want {
					t.Errorf("%d dials, want %d", dials, test.want)
				}
			})
		}
	}
}

// The base transport's idle connections are closed.
func TestWireCloseIdleConnections(t *testing.T) {
	closed := make(chan struct{})
	server := newWireServer(t, func(c *wireConn) {
		defer close(closed)
		for {
			if req, _ := c.request(); req == nil {
				return
			}
			c.answer(wireOK)
		}
	})
	client := &http.Client{Transport: &steadyhttp.Transport{Base: &http.Transport{}}}
	resp, err := client.Do(wireRequest(t, "GET", server.url, ""))
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	client.CloseIdleConnections()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
}

// The framing of every attempt is that of the request.
func TestWireFraming(t *testing.T) {
	for _, test := range []struct {
		name string
		body func(*http.Request)
		want string // "", or a line of the head
	}{
		{"nil", func(*http.Request) {}, "Content-Length: 0"},
		{"NoBody", func(req *http.Request) { req.Body = http.NoBody }, "Content-Length: 0"},
		{"NoBody and GetBody", func(req *http.Request) {
			req.Body = http.NoBody
			req.GetBody = func() (io.ReadCloser, error) { return http.NoBody, nil }
		}, "Content-Length: 0"},
		{"known length", func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("content")), nil }
			req.Body, _ = req.GetBody()
			req.ContentLength = 7
		}, "Content-Length: 7"},
		{"unknown length", func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("content")), nil }
			req.Body, _ = req.GetBody()
			req.ContentLength = -1
		}, "Transfer-Encoding: chunked"},
		{"known length, buffered", func(req *http.Request) { req.Body, req.ContentLength = newCountingBody("content"), 7 }, "Content-Length: 7"},
	} {
		t.Run(test.name, func(t *testing.T) {
			heads := make(chan string, 3)
			server := newWireServer(t, func(c *wireConn) {
				var head bytes.Buffer
				for n := 1; ; n++ {
					head.Reset()
					c.r = bufio.NewReader(io.TeeReader(c.Conn, &head))
					if req, _ := c.request(); req == nil {
						return
					}
					before, _, _ := strings.Cut(head.String(), "\r\n\r\n")
					heads <- before + "\r\n"
					if n < 3 {
						c.answer("HTTP/1.1 503 No", "Content-Length: 0", "", "")
						continue
					}
					c.answer(wireOK)
				}
			})
			req := wireRequest(t, "PUT", server.url, "")
			test.body(req)
			policy := atOnce()
			policy.MaxBuffer, policy.AttemptTimeout = 100, time.Minute
			do(t, &steadyhttp.Transport{Base: newWireBase(t), Policy: policy}, req)
			for n := range 3 {
				head := <-heads
				framing := strings.Contains(head, "Content-Length: ") != strings.Contains(head, "Transfer-Encoding: ")
				if !framing || !strings.Contains(head, "\r\n"+test.want+"\r\n") {
					t.Errorf("attempt %d: %q lacks %q", n+1, head, test.want)
				}
			}
		})
	}
}

// HTTP/2 frames, as far as the tests need them (RFC 9113).
const (
	h2Headers, h2Reset, h2Settings, h2Ping, h2GoAway = 1, 3, 4, 6, 7
	h2Ack, h2EndStream, h2EndHeaders                 = 1, 1, 4
	h2Internal, h2RefusedStream, h2Cancel            = 2, 7, 8
)

func h2Frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	frame = append(frame, flags)
	frame = binary.BigEndian.AppendUint32(frame, stream)
	return append(frame, payload...)
}

// newH2Server starts a server that calls serve with each request's stream, numbering requests from 1, for the frame to
// answer it with.
func newH2Server(t *testing.T, serve func(n int64, stream uint32) []byte) (*wireServer, *atomic.Int64) {
	var requests atomic.Int64
	server := newWireServer(t, func(c *wireConn) {
		preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		if _, err := io.ReadFull(c.r, preface); err != nil {
			return
		}
		c.Write(h2Frame(h2Settings, 0, 0))
		var answer []byte
		for {
			head := make([]byte, 9)
			if _, err := io.ReadFull(c.r, head); err != nil {
				return
			}
			if _, err := c.r.Discard(int(binary.BigEndian.Uint32(head) >> 8)); err != nil {
				return
			}
			switch kind, flags := head[3], head[4]; {
			case kind == h2Settings && flags&h2Ack == 0:
				c.Write(h2Frame(h2Settings, h2Ack, 0))
			case kind == h2Headers:
				// net/http notes a request after it has written it. By its answer to a ping it has done so: it writes under a
				// lock, and notes before it lets that go.
				answer = serve(requests.Add(1), binary.BigEndian.Uint32(head[5:]))
				c.Write(h2Frame(h2Ping, 0, 0, make([]byte, 8)...))
			case kind == h2Ping && flags&h2Ack != 0:
				c.Write(answer)
			}
		}
	})
	return server, &requests
}

func newH2Base(t *testing.T) *http.Transport {
	base := newWireBase(t)
	base.Protocols = new(http.Protocols)
	base.Protocols.SetUnencryptedHTTP2(true)
	return base
}

// What HTTP/2 proves to be unprocessed is sent again, by net/http if that may be, and counted; of what it does
// not, only the idempotent is retried.
func TestWireHTTP2StreamErrors(t *testing.T) {
	code := func(n byte) []byte { return []byte{0, 0, 0, n} }
	for _, test := range []struct {
		name     string
		fault    func(stream uint32) []byte
		method   string
		attempts int
		sends    int
		fails    bool
	}{
		{"refused stream GET", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, code(h2RefusedStream)...) }, "GET", 1, 2, false},
		{"refused stream POST", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, code(h2RefusedStream)...) }, "POST", 1, 2, false},
		{"going away GET", func(uint32) []byte { return h2Frame(h2GoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) }, "GET", 1, 2, false},
		{"going away POST", func(uint32) []byte { return h2Frame(h2GoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) }, "POST", 1, 2, false},
		{"cancelled GET", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, code(h2Cancel)...) }, "GET", 2, 2, false},
		{"cancelled POST", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, code(h2Cancel)...) }, "POST", 1, 1, true},
		{"internal error GET", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, code(h2Internal)...) }, "GET", 2, 2, false},
		{"internal error POST", func(s uint32) []byte { return h2Frame(h2Reset, 0, s, code(h2Internal)...) }, "POST", 1, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, requests := newH2Server(t, func(n int64, stream uint32) []byte {
				if n == 1 {
					return test.fault(stream)
				}
				return h2Frame(h2Headers, h2EndHeaders|h2EndStream, stream, 0x88) // :status 200
			})
			body := ""
			if test.method == "POST" {
				body = "content"
			}
			var log wireLog
			resp, err := (&steadyhttp.Transport{Base: newH2Base(t), Policy: atOnce(), Trace: log.trace()}).RoundTrip(wireRequest(t, test.method, server.url, body))
			if (err != nil) != test.fails {
				t.Errorf("got %v", err)
			}
			if err == nil {
				resp.Body.Close()
			} else if e := errorOf(t, err); e.Stop != "not_idempotent" {
				t.Errorf("Stop %q", e.Stop)
			}
			sends := 0
			for _, a := range log.all() {
				sends += a.Sends
			}
			if len(log.all()) != test.attempts || sends != test.sends || requests.Load() != int64(test.sends) {
				t.Errorf("%d attempts with %d sends, %d seen: want %d with %d", len(log.all()), sends, requests.Load(), test.attempts, test.sends)
			}
		})
	}
}

// wireOutcome is all that a caller can see of a call.
type wireOutcome struct {
	err             string // the types of the chain
	status, proto   string
	header, trailer http.Header
	length          int64
	encoding        []string
	uncompressed    bool
	close           bool
	body            string // a hash
	bodyErr         string
	callers, writer bool
}

func errorTypes(err error) string {
	var types []string
	if ours, ok := err.(*steadyhttp.Error); ok {
		err = ours.Err // what it is wrapped in is the one difference
	}
	for ; err != nil; err = errors.Unwrap(err) {
		types = append(types, fmt.Sprintf("%T", err))
	}
	return strings.Join(types, " > ")
}

func wireOutcomeOf(t *testing.T, transport http.RoundTripper, req *http.Request) wireOutcome {
	t.Helper()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if resp != nil {
			t.Error("both a response and an error")
		}
		return wireOutcome{err: errorTypes(err)}
	}
	defer resp.Body.Close()
	o := wireOutcome{
		status: resp.Status, proto: resp.Proto, header: resp.Header, length: resp.ContentLength, encoding: resp.TransferEncoding,
		uncompressed: resp.Uncompressed, close: resp.Close, callers: resp.Request == req,
	}
	delete(resp.Header, "Date")
	if _, o.writer = resp.Body.(io.Writer); o.writer {
		return o
	}
	sum := sha256.New()
	_, err = io.Copy(sum, resp.Body)
	o.body, o.bodyErr, o.trailer = hex.EncodeToString(sum.Sum(nil)), errorTypes(err), resp.Trailer
	return o
}

// wireHead returns what of an answer goes out to a HEAD.
func wireHead(answer string) string {
	body := strings.LastIndex(answer, "HTTP/1.")
	if body < 0 {
		return answer
	}
	head, _, ended := strings.Cut(answer[body:], "\r\n\r\n")
	if !ended {
		return answer
	}
	return answer[:body] + head + "\r\n\r\n"
}

// With retries off, the Transport can't be told from its base.
func TestWireLikeItsBase(t *testing.T) {
	// net/http logs what a server sends too much of.
	log.SetOutput(io.Discard)
	defer log.SetOutput(os.Stderr)
	raw := map[string]string{
		"plain":             wireOK,
		"until close":       "HTTP/1.1 200 OK\r\nX-Mine: 1\r\n\r\nall of it",
		"HTTP/1.0":          "HTTP/1.0 200 OK\r\n\r\nall of it",
		"chunked":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n\r\n",
		"trailer":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nsome\r\n0\r\nX-Sum: 42\r\n\r\n",
		"early hints":       "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + wireOK,
		"204":               "HTTP/1.1 204 No Content\r\n\r\n",
		"redirect":          "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 5\r\n\r\nmoved",
		"304":               "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
		"odd status":        "HTTP/1.1 299 Odd One\r\nContent-Length: 0\r\n\r\n",
		"404":               "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone",
		"404 chunked":       "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\ngone\r\n0\r\nX-Sum: 42\r\n\r\n",
		"404 until close":   "HTTP/1.1 404 Not Found\r\n\r\ngone",
		"404 large":         "HTTP/1.1 404 Not Found\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("gone ", 60000),
		"404 truncated":     "HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\ngone",
		"429":               "HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nslow",
		"500 without body":  "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
		"503 closing":       "HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy",
		"gzip":              "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + string(gzipped([]byte("content"))),
		"404 gzip":          "HTTP/1.1 404 No\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + string(gzipped([]byte("content"))),
		"not gzip":          "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nfine",
		"404 not gzip":      "HTTP/1.1 404 No\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\ngone",
		"truncated":         "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome",
		"truncated chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nsome",
		"bad chunk":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
		"too long":          "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine and more",
		"two lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine",
		"malformed":         "HTTP/1.1 abc\r\n\r\n",
		"bad header":        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"cut short":         "HTTP/1.1 200 OK\r\nConte",
		"nothing":           "",
		"upgrade":           "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
	}
	plain := func(base http.RoundTripper) *steadyhttp.Transport {
		return &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 1}}
	}
	variants := map[string]func(base http.RoundTripper) *steadyhttp.Transport{
		"plain": plain,
		"with bounds and hooks": func(base http.RoundTripper) *steadyhttp.Transport {
			transport := plain(base)
			transport.Policy.AttemptTimeout, transport.Policy.IdleTimeout, transport.Policy.MaxElapsed = time.Minute, time.Minute, time.Minute
			transport.Trace = &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) {}, AttemptStart: func(ctx context.Context, _ steadyhttp.Attempt) context.Context { return ctx }}
			transport.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return nil }
			transport.Gates = []steadyhttp.Gate{steadyhttp.Limit(nil)}
			return transport
		},
		"reading ahead": func(base http.RoundTripper) *steadyhttp.Transport {
			transport := plain(base)
			transport.Policy.MaxRead = 1 << 20
			return transport
		},
	}
	for name, answer := range raw {
		for variant, wrap := range variants {
			for _, method := range []string{"GET", "HEAD", "POST"} {
				t.Run(name+"/"+variant+"/"+method, func(t *testing.T) {
					server := newWireServer(t, func(c *wireConn) {
						if req, _ := c.request(); req != nil && method == "HEAD" {
							c.answer(wireHead(answer))
						} else if req != nil {
							c.answer(answer)
						}
					})
					body := ""
					if method == "POST" {
						body = "content"
					}
					bare := wireOutcomeOf(t, newWireBase(t), wireRequest(t, method, server.url, body))
					steady := wireOutcomeOf(t, wrap(newWireBase(t)), wireRequest(t, method, server.url, body))
					if !reflect.DeepEqual(bare, steady) {
						t.Errorf("without: %+v\nwith:    %+v", bare, steady)
					}
				})
			}
		}
	}
	t.Run("nobody there", func(t *testing.T) {
		server := newWireServer(t, func(*wireConn) {})
		server.close()
		bare := wireOutcomeOf(t, newWireBase(t), wireRequest(t, "GET", server.url, ""))
		steady := wireOutcomeOf(t, plain(newWireBase(t)), wireRequest(t, "GET", server.url, ""))
		if bare.err == "" || !reflect.DeepEqual(bare, steady) {
			t.Errorf("without: %+v\nwith:    %+v", bare, steady)
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		server := newWireServer(t, func(c *wireConn) { c.answer(wireOK) })
		url := strings.Replace(server.url, "http:", "https:", 1)
		bare := wireOutcomeOf(t, newWireBase(t), wireRequest(t, "GET", url, ""))
		steady := wireOutcomeOf(t, plain(newWireBase(t)), wireRequest(t, "GET", url, ""))
		if want := fmt.Sprintf("%T", tls.RecordHeaderError{}); bare.err != want || !reflect.DeepEqual(bare, steady) {
			t.Errorf("without: %+v\nwith:    %+v", bare, steady)
		}
	})
}

// The same over HTTP/2: with retries off, the Transport can't be told from its base.
func TestWireLikeItsBaseHTTP2(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"plain": func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) },
		"404":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gone", 404) },
		"204":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"large": func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) },
		"abort": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"broken": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"trailer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "content")
			w.Header().Set("X-Sum", "42")
		},
	} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			t.Run(name+"/"+method, func(t *testing.T) {
				server, base := newWireTLS(t, "HTTP/2.0", handler)
				body := ""
				if method == "POST" {
					body = "content"
				}
				bare := wireOutcomeOf(t, base, wireRequest(t, method, server.URL, body))
				steady := wireOutcomeOf(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 1, AttemptTimeout: time.Minute}}, wireRequest(t, method, server.URL, body))
				if !reflect.DeepEqual(bare, steady) {
					t.Errorf("without: %+v\nwith:    %+v", bare, steady)
				}
			})
		}
	}
}
