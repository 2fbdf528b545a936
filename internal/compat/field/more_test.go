package field

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// overMany are cases of many calls.
func overMany() []field {
	return []field{{
		name: "every other 4xx, by every method", source: "acceptance D05",
		rule: "a plain refusal comes back at once, as it is",
		check: func(t *trial) error {
			for status := 400; status <= 451; status++ {
				switch status {
				case 401, 403, 408, 413, 418, 421, 425, 429: // they may mean something else
					continue
				}
				for _, method := range []string{
					"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH",
				} {
					s := serve(answer{status: status, text: busy}, ok)
					c := call{method: method}
					if method == "PUT" || method == "POST" || method == "PATCH" {
						c.body = form1
					}
					if err := s.came(t.do(s, c), c, want{1, status, busy}); err != nil {
						return fmt.Errorf("%s, %d: %w", method, status, err)
					}
				}
			}
			return nil
		},
	}, {
		name: "5 % of all attempts fail", source: "acceptance E04",
		rule: "999 of 1,000 calls succeed",
		check: func(t *trial) error {
			sent, lost := unreliable(t, 0.05, 2000)
			if lost > 2 {
				return fmt.Errorf("%d of 2000 calls were lost, %d sendings", lost, sent)
			}
			return nil
		},
	}, {
		name: "half of all attempts fail", source: "acceptance E05",
		rule: "retries are paid for by successes: at most 1.2 sendings for a call",
		check: func(t *trial) error {
			if sent, _ := unreliable(t, 0.5, 2000); sent > 2400 {
				return fmt.Errorf("%d sendings for 2000 calls", sent)
			}
			return nil
		},
	}, {
		name: "two hundred calls that meet faults", source: "kiota-http-go PR 10; acceptance L02",
		rule: "no goroutine is left when the idle connections are closed", wire: true,
		check: leftOver,
	}}
}

// gaveUp posts through a layer with a time-out of its own, which leaves a sending behind it.
var gaveUp = field{
	name: "a layer below that gives up while it connects, POST", source: "RFC 9110 9.2.2",
	rule: "what is said not to have left does not leave later", wire: true, needs: "transport",
	check: func(t *trial) error {
		s := newServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, fine)
		})
		connecting, connect := make(chan struct{}), make(chan struct{})
		var dials atomic.Int64
		s.base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) == 1 {
				close(connecting)
				<-connect
			}
			return new(net.Dialer).DialContext(context.WithoutCancel(ctx), network, address)
		}
		var late sync.WaitGroup
		n := 0
		base := transportFunc(func(req *http.Request) (*http.Response, error) {
			if n++; n > 1 {
				return s.base.RoundTrip(req)
			}
			late.Go(func() {
				again := req.WithContext(context.WithoutCancel(req.Context()))
				if resp, err := s.base.RoundTrip(again); err == nil {
					resp.Body.Close()
				}
			})
			<-connecting
			return nil, errors.New("gave up")
		})
		c := order
		c.url = s.url
		r := t.do(base, c)
		_, err := r.text()
		close(connect)
		late.Wait()
		if n := s.count(); n > 1 {
			return fmt.Errorf("carried out %d times, status %d, error %v", n, r.status, err)
		}
		return nil
	},
}

// unreliable makes calls one after the other, ten a second, of whose attempts a share fails.
func unreliable(t *trial, share float64, calls int) (sent, lost int) {
	dice := rand.New(rand.NewPCG(1, 2))
	base := transportFunc(func(req *http.Request) (*http.Response, error) {
		sent++
		if dice.Float64() < share {
			return serve(answer{status: 503, text: busy}).RoundTrip(req)
		}
		return serve(ok).RoundTrip(req)
	})
	c := call{url: "http://api.test/"}
	do := t.client.new(base, c)
	for range calls {
		resp, err := do(t.ctx, c)
		if err != nil || resp.StatusCode != 200 {
			lost++
		}
		if err == nil {
			readAll(resp)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return sent, lost
}

// leftOver counts goroutines after calls whose attempts are refused, lost, slow or fine.
func leftOver(t *trial) error {
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch n % 4 {
		case 0:
			w.WriteHeader(503)
			io.WriteString(w, strings.Repeat("x", 10_000))
		case 1:
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				conn.Close()
			}
		default:
			io.WriteString(w, fine)
		}
	})
	before := runtime.NumGoroutine()
	c := call{url: s.url, fast: true, attemptTimeout: time.Minute}
	do := t.client.new(s.base, c)
	var group sync.WaitGroup
	room := make(chan struct{}, 8)
	for range 200 {
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			resp, err := do(t.ctx, c)
			if err == nil {
				readAll(resp)
			}
		})
	}
	group.Wait()
	s.base.CloseIdleConnections()
	after := 0
	for range 100 {
		// The server's own goroutines end with their connections.
		if after = runtime.NumGoroutine(); after <= before+5 {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%d goroutines, %d before", after, before)
}

// moreTime are cases of deadlines.
func moreTime() []field {
	refused := answer{err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
	return []field{{
		name: "a deadline shorter than an attempt's timeout", source: "rehttp …OverallTimeout",
		rule: "the deadline ends the call, once",
		check: func(t *trial) error {
			ctx, cancel := context.WithTimeout(t.ctx, 3*time.Second)
			defer cancel()
			s := serve(answer{hang: true})
			r := t.doWith(ctx, s, call{attemptTimeout: 10 * time.Second})
			if s.count() != 1 || r.took > 3*time.Second+atOnce ||
				!errors.Is(r.err, context.DeadlineExceeded) {
				return fmt.Errorf("sent %d times in %v, error %v", s.count(), r.took, r.err)
			}
			return nil
		},
	}, {
		name: "a server that comes up", source: "go-retryablehttp TestClient_Do",
		rule:  "refused, then 500, then 200: the call succeeds",
		check: outcome(serve(refused, answer{status: 500}, ok), call{}, want{3, 200, fine}),
	}, {
		name: "two Retry-After fields", source: "RFC 9110 5.3: it is no list; early is what harms",
		rule: "the longer one holds",
		check: func(t *trial) error {
			return form{wait: 60 * time.Second}.heard(t, answer{status: 429, header: fields(
				"Retry-After", "30", "Retry-After", "60")})
		},
	}}
}

// moreWire are cases over sockets.
func moreWire() []field {
	const once = "what may have been carried out is not sent again"
	reset := func(code http2.ErrCode) func(*stream, int64) bool {
		return func(s *stream, n int64) bool {
			if n == 1 {
				s.on.WriteRSTStream(s.id, code)
			}
			return n != 1
		}
	}
	return []field{
		overH2("HTTP/2: PROTOCOL_ERROR after a POST", "golang/go #47635", once, 0,
			reset(http2.ErrCodeProtocol)),
		overH2("HTTP/2: CANCEL after a POST", "RFC 9113 7", once, 0, reset(http2.ErrCodeCancel)),
		overH2("HTTP/2: ENHANCE_YOUR_CALM after a POST", "RFC 9113 7; envoy", once, 0,
			reset(http2.ErrCodeEnhanceYourCalm)),
		overH2("HTTP/2: NO_ERROR in place of an answer, POST", "RFC 9113 8.1", once, 0,
			reset(http2.ErrCodeNo)),
		overH2("HTTP/2: GOAWAY that counts a POST in", "RFC 9113 6.8", once, 0,
			func(s *stream, n int64) bool {
				if n == 1 {
					s.on.WriteGoAway(s.id, http2.ErrCodeNo, nil)
					s.conn.Close()
				}
				return n != 1
			}),
		overH2("HTTP/2: a connection lost after a POST", "RFC 9113 8.7", once, 0,
			func(s *stream, n int64) bool {
				if n == 1 {
					s.conn.Close()
				}
				return n != 1
			}),
		overH2("HTTP/2: GOAWAY in two steps around a POST", "RFC 9113 6.8", "it is answered", 1,
			func(s *stream, n int64) bool {
				if s.n == 1 {
					s.on.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
				}
				return true
			}),
		overH2("HTTP/2: a POST's stream refused twice", "RFC 9113 8.7",
			"what the server says it has not processed is sent again, once", 1,
			func(s *stream, n int64) bool {
				if n <= 2 {
					s.on.WriteRSTStream(s.id, http2.ErrCodeRefusedStream)
				}
				return n > 2
			}),
		gaveUp,
		handshake("TLS handshake times out, POST", 1, func(conn net.Conn) { io.Copy(io.Discard, conn) }),
		{
			name: "a chunk of no size", source: "RFC 9112 7.1", wire: true,
			rule: "the reader gets an error, not a short body",
			check: func(t *trial) error {
				url, _ := broken(t, 9, func(conn net.Conn) {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+
						"5\r\nshort\r\nzzz\r\n")
				})
				base := &http.Transport{DisableKeepAlives: true}
				return brokenOff(t.do(base, call{url: url, fast: true}))
			},
		}, {
			name: "gzip that is none", source: "RFC 9110 8.4.1", wire: true,
			rule: "the reader gets an error, not rubbish",
			check: func(t *trial) error {
				s := newServer(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Encoding", "gzip")
					io.WriteString(w, "this is not gzip")
				})
				return brokenOff(t.do(s.base, call{url: s.url, fast: true}))
			},
		}, {
			name: "a request's trailer", source: "RFC 9110 6.5; acceptance C13",
			wire: true, needs: "transport",
			rule: "every attempt has it",
			check: func(t *trial) error {
				var sums []string
				s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					sums = append(sums, r.Trailer.Get("X-Sum"))
					if n == 1 {
						w.WriteHeader(429)
					}
				})
				req, err := http.NewRequestWithContext(t.ctx, "PUT", s.url, strings.NewReader(form1))
				if err != nil {
					return err
				}
				req.ContentLength = -1
				req.Trailer = http.Header{"X-Sum": {"42"}}
				resp, err := (&http.Client{Transport: t.client.transport(s.base, call{fast: true})}).Do(req)
				if err != nil {
					return err
				}
				readAll(resp)
				if got := strings.Join(sums, " "); got != "42 42" || resp.StatusCode != 200 {
					return fmt.Errorf("trailers %q, status %d", got, resp.StatusCode)
				}
				return nil
			},
		}, {
			name: "a CONNECT tunnel", source: "golang/go #32273; acceptance C11",
			wire: true, needs: "transport",
			rule: "it is opened once, and carries bytes both ways",
			check: func(t *trial) error {
				l := listen(t, func(_ int, conn net.Conn) {
					r := bufio.NewReader(conn)
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
					line, _ := r.ReadString('\n')
					io.WriteString(conn, line)
				})
				body, w := io.Pipe()
				defer w.Close()
				req, err := http.NewRequestWithContext(t.ctx, http.MethodConnect, l.url(), body)
				if err != nil {
					return err
				}
				go io.WriteString(w, "hello\n")
				// Who reads it to its end first would wait for ever.
				defer time.AfterFunc(3*time.Second, func() { w.Close() }).Stop()
				base := &http.Transport{}
				defer base.CloseIdleConnections()
				ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
				defer cancel()
				resp, err := t.client.transport(base, call{fast: true}).RoundTrip(req.WithContext(ctx))
				t.keep(resp)
				if err != nil {
					return err
				}
				line, err := bufio.NewReader(resp.Body).ReadString('\n')
				if line != "hello\n" || l.count() != 1 {
					return fmt.Errorf("%q, %d connections, error %w", line, l.count(), err)
				}
				return nil
			},
		},
	}
}
