package field

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

var order = call{method: "POST", body: `{"Comment":"c","IsolationType":"Full"}`, fast: true}

// dialFaults has the first dials fail.
func dialFaults(base *http.Transport, n int64, fault error) *atomic.Int64 {
	var dials atomic.Int64
	base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) <= n {
			return nil, fault
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return &dials
}

// dialled is a case in which the first two dials fail.
func dialled(name, source, method string, fault error) field {
	return field{
		name: name, source: source, wire: true,
		rule: "what never left is retried, whatever it is",
		check: func(t *trial) error {
			s := newServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, fine)
			})
			dialFaults(s.base, 2, fault)
			c := order
			c.method, c.url = method, s.url
			if method == "GET" {
				c.body = ""
			}
			if err := t.do(s.base, c).answered(200, fine); err != nil {
				return err
			}
			if n := s.count(); n != 1 {
				return fmt.Errorf("carried out %d times", n)
			}
			return nil
		},
	}
}

// broken is a server that ends the first connections when it has read a request; then it answers.
func broken(t *trial, n int, end func(net.Conn)) (url string, orders *atomic.Int64) {
	orders = new(atomic.Int64)
	l := listen(t, func(i int, conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if orders.Add(1) <= int64(n) {
				end(conn)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(fine), fine)
		}
	})
	return l.url(), orders
}

// lost are the two cases of a fault that comes when the request has been carried out.
func lost(name, source string, end func(net.Conn)) []field {
	return []field{{
		name: name + ", GET", source: source, wire: true, rule: "a lost answer is fetched again",
		check: func(t *trial) error {
			url, _ := broken(t, 2, end)
			base := &http.Transport{DisableKeepAlives: true}
			return t.do(base, call{url: url, fast: true}).answered(200, fine)
		},
	}, {
		name: name + ", POST", source: source, wire: true,
		rule: "what may have been carried out is not sent again",
		check: func(t *trial) error {
			url, orders := broken(t, 2, end)
			c := order
			c.url = url
			r := t.do(&http.Transport{DisableKeepAlives: true}, c)
			if n := orders.Load(); n != 1 || r.err == nil {
				return fmt.Errorf("carried out %d times, status %d, error %v", n, r.status, r.err)
			}
			return nil
		},
	}}
}

// final is a case that ends with the first connection.
func final(
	name, source, rule string, set func(*httptest.Server, *http.Transport), kind func(error) bool,
) field {
	return field{
		name: name, source: source, rule: rule, wire: true,
		check: func(t *trial) error {
			var server *httptest.Server
			s := startServer(t, func(int, http.ResponseWriter, *http.Request) {}, func(h *httptest.Server) {
				server = h
				h.StartTLS()
			})
			set(server, s.base)
			dials := dialFaults(s.base, 0, nil)
			r := t.do(s.base, call{url: s.url, fast: true})
			switch {
			case r.err == nil:
				return fmt.Errorf("status %d", r.status)
			case dials.Load() != 1:
				return fmt.Errorf("%d connections", dials.Load())
			case !kind(r.err):
				return fmt.Errorf("error %v", r.err)
			}
			return nil
		},
	}
}

func is[E error](err error) bool {
	_, found := errors.AsType[E](err)
	return found
}

func wire() []field {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connect: connection refused")}
	timedOut := &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}
	temporary := &net.DNSError{Err: "server misbehaving", Name: "api.test", IsTemporary: true}
	const certificate = "what would fail again fails at once, with its own error"
	list := []field{
		dialled("connection refused, GET", "go-retryablehttp TestClient_Do; gax-go", "GET", refused),
		dialled("connection refused, POST", "acceptance D04", "POST", refused),
		dialled("dial timed out, POST", "acceptance D04", "POST", timedOut),
		dialled("DNS fails for now, POST", "googleapis/gax-go PR 10619", "POST", temporary),
		{
			name: "no such host", source: "AWS TestDNSError", wire: true,
			rule: certificate,
			check: func(t *trial) error {
				base := &http.Transport{}
				unknown := &net.DNSError{Err: "no such host", Name: "api.test", IsNotFound: true}
				dials := dialFaults(base, 9, unknown)
				r := t.do(base, call{fast: true})
				if dials.Load() != 1 || !is[*net.DNSError](r.err) {
					return fmt.Errorf("%d dials, error %v", dials.Load(), r.err)
				}
				return nil
			},
		},
		final("an unknown authority", "go-retryablehttp #201", certificate,
			func(_ *httptest.Server, base *http.Transport) { base.TLSClientConfig = &tls.Config{} },
			is[x509.UnknownAuthorityError]),
		final("another host's certificate", "googleapis/gax-go PR 73", certificate,
			func(_ *httptest.Server, base *http.Transport) {
				base.TLSClientConfig.ServerName = "other.test"
			},
			is[x509.HostnameError]),
		final("an expired certificate", "acceptance D06", certificate,
			func(h *httptest.Server, base *http.Transport) {
				base.TLSClientConfig.Time = func() time.Time { return time.Now().AddDate(200, 0, 0) }
			}, is[x509.CertificateInvalidError]),
		final("no TLS version in common", "RFC 8446 6.2: protocol_version is fatal", certificate,
			func(h *httptest.Server, base *http.Transport) {
				h.TLS.MinVersion = tls.VersionTLS13
				base.TLSClientConfig.MaxVersion = tls.VersionTLS12
			}, func(err error) bool { return strings.Contains(err.Error(), "protocol version") }),
		final("a client's certificate that is asked for", "RFC 8446 6.2: certificate_required is fatal",
			certificate,
			func(h *httptest.Server, _ *http.Transport) { h.TLS.ClientAuth = tls.RequireAnyClientCert },
			func(err error) bool { return strings.Contains(err.Error(), "certificate required") }),
		{
			name: "plain HTTP on a TLS port", source: "golang/go #11111", wire: true,
			rule: "final, and the error says so",
			check: func(t *trial) error {
				s := newServer(t, func(int, http.ResponseWriter, *http.Request) {})
				dials := dialFaults(s.base, 0, nil)
				r := t.do(s.base, call{url: "https" + strings.TrimPrefix(s.url, "http"), fast: true})
				if dials.Load() != 1 || r.err == nil ||
					!strings.Contains(r.err.Error(), "HTTP response to HTTPS client") {
					return fmt.Errorf("%d connections, error %v", dials.Load(), r.err)
				}
				return nil
			},
		},
		handshake("TLS handshake reset, POST", 2, func(conn net.Conn) {
			conn.Read(make([]byte, 64))
			reset(conn)
		}),
		handshake("TLS handshake closed, POST", 2, func(conn net.Conn) { conn.Read(make([]byte, 4096)) }),
		proxied("a proxy that asks for a password", "407 Proxy Authentication Required", false),
		proxied("a proxy that is busy, POST", "503 Service Unavailable", true),
	}
	list = append(list,
		lost("reset before the answer", "node-request-retry #145; axios-retry #66", reset)...)
	list = append(list, lost("closed in the answer's head", "keycloak #52978",
		func(conn net.Conn) { io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Le") })...)
	list = append(list, lost("closed before the answer", "golang/go #22158", func(net.Conn) {})...)
	list = append(list, field{
		name: "an answer that is no HTTP, POST", source: "keycloak #52978; RFC 9112 4", wire: true,
		rule: "what may have been carried out is not sent again",
		check: func(t *trial) error {
			url, orders := broken(t, 2, func(conn net.Conn) {
				io.WriteString(conn, "SSH-2.0-OpenSSH_9.9\r\n")
			})
			c := order
			c.url = url
			if r := t.do(&http.Transport{DisableKeepAlives: true}, c); orders.Load() != 1 || r.err == nil {
				return fmt.Errorf("carried out %d times, error %v", orders.Load(), r.err)
			}
			return nil
		},
	}, field{
		name:   "an answer's head that is too long",
		source: "CVE-2023-24534; MaxResponseHeaderBytes", wire: true,
		rule: "final: it would be too long again",
		check: func(t *trial) error {
			s := newServer(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Long", strings.Repeat("x", 1<<16))
			})
			s.base.MaxResponseHeaderBytes = 4096
			if r := t.do(s.base, call{url: s.url, fast: true}); s.count() != 1 || r.err == nil {
				return fmt.Errorf("sent %d times, error %v", s.count(), r.err)
			}
			return nil
		},
	}, field{
		name:   "a body that is shorter than its length",
		source: "oci-go-sdk #105; beego #3081", wire: true,
		rule: "what the caller has got wrong is final", needs: "transport",
		check: func(t *trial) error {
			s := newServer(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
			})
			return ownFault(t, s, strings.NewReader("short"), "ContentLength=100")
		},
	}, field{
		name: "a body that can't be read", source: "RFC 9110 9.2.2; acceptance C08", wire: true,
		rule: "what the caller has got wrong is final", needs: "transport",
		check: func(t *trial) error {
			s := newServer(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
			})
			return ownFault(t, s, io.MultiReader(strings.NewReader("short"), failing{}), "disk gone")
		},
	}, field{
		name: "a body that breaks off", source: "RFC 9112 8; AWS #3494", wire: true,
		rule: "the reader gets an error, not a short body",
		check: func(t *trial) error {
			url, _ := broken(t, 9, func(conn net.Conn) {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
			})
			return brokenOff(t.do(&http.Transport{DisableKeepAlives: true}, call{url: url, fast: true}))
		},
	}, field{
		name: "a chunked body that breaks off", source: "RFC 9112 7.1 and 8", wire: true,
		rule: "the reader gets an error, not a short body",
		check: func(t *trial) error {
			url, _ := broken(t, 9, func(conn net.Conn) {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")
			})
			return brokenOff(t.do(&http.Transport{DisableKeepAlives: true}, call{url: url, fast: true}))
		},
	}, field{
		name:   "a connection that has died",
		source: "golang/go #19943 and #22158; HTTP.jl #207", wire: true,
		rule: "a GET on a kept-alive connection that the server has closed is sent again",
		check: func(t *trial) error {
			url, orders := broken(t, 2, func(conn net.Conn) {
				if c := conn.(*net.TCPConn); c != nil {
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(fine), fine)
				}
			})
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			for range 3 {
				if err := t.do(base, call{url: url, fast: true}).answered(200, fine); err != nil {
					return err
				}
			}
			if orders.Load() < 3 {
				return fmt.Errorf("%d requests", orders.Load())
			}
			return nil
		},
	}, field{
		name: "Expect: 100-continue, 413", source: "CVE-2024-24791; RFC 9110 10.1.1", wire: true,
		rule: "a final answer in place of 100 is returned; the next request is well",
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					w.WriteHeader(413)
					return
				}
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, fine)
			})
			s.base.ExpectContinueTimeout = 5 * time.Second
			c := order
			c.url, c.header = s.url, fields("Expect", "100-continue")
			if err := t.do(s.base, c).answered(413, ""); err != nil {
				return err
			}
			c.header = nil
			return t.do(s.base, c).answered(200, fine)
		},
	}, field{
		name:   "an early answer to an upload",
		source: "golang/go #11745; acceptance C07", wire: true,
		rule: "10 MiB that are refused early are sent again, whole",
		check: func(t *trial) error {
			big := strings.Repeat("0123456789abcdef", 10<<16)
			sum := sha256.Sum256([]byte(big))
			s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					io.ReadFull(r.Body, make([]byte, 1024))
					w.WriteHeader(503)
					return
				}
				got := sha256.New()
				io.Copy(got, r.Body)
				if string(got.Sum(nil)) != string(sum[:]) {
					w.WriteHeader(400)
					return
				}
				io.WriteString(w, fine)
			})
			return t.do(s.base, call{method: "PUT", url: s.url, body: big, fast: true}).answered(200, fine)
		},
	}, field{
		name:   "a bomb in a discarded answer",
		source: "CVE-2026-21441 (urllib3); CWE-409", wire: true,
		rule: "at most 1 MiB of it is unpacked",
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, _ *http.Request) {
				if n > 1 {
					io.WriteString(w, fine)
					return
				}
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(503)
				packed := gzip.NewWriter(w)
				io.Copy(packed, &bytesOf{64 << 20})
				packed.Close()
			})
			var unpacked *body
			base := transportFunc(func(req *http.Request) (*http.Response, error) {
				resp, err := s.base.RoundTrip(req)
				if err == nil && resp.StatusCode == 503 {
					unpacked = &body{Reader: resp.Body, closed: make(chan struct{})}
					resp.Body = unpacked
				}
				return resp, err
			})
			if err := t.do(base, call{url: s.url, fast: true}).answered(200, fine); err != nil {
				return err
			}
			if n := unpacked.count(); n > 1<<20 {
				return fmt.Errorf("%d bytes were unpacked", n)
			}
			return nil
		},
	}, field{
		name:   "HTTP/2: a body under an attempt's timeout",
		source: "failsafe-go #123; hedgedhttp PR 8", wire: true,
		rule: "1 MiB that comes slowly is read to its end",
		check: func(t *trial) error {
			s := startServer(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
				for range 16 {
					io.Copy(w, &bytesOf{1 << 16})
					w.(http.Flusher).Flush()
					time.Sleep(time.Millisecond)
				}
			}, func(h *httptest.Server) {
				h.EnableHTTP2 = true
				h.StartTLS()
			})
			s.base.ForceAttemptHTTP2 = true
			r := t.do(s.base, call{url: s.url, fast: true, attemptTimeout: time.Minute})
			if text, err := r.text(); err != nil || len(text) != 1<<20 || r.resp.ProtoMajor != 2 {
				return fmt.Errorf("%d bytes, error %v", len(text), err)
			}
			return nil
		},
	})
	const fresh = "what the server says it has not processed is sent again, once"
	return append(list,
		overH2("HTTP/2: GOAWAY below a POST", "go-ethereum #24291; goa #3725; RFC 9113 6.8", fresh, 1,
			func(s *stream, n int64) bool {
				if s.n == 1 {
					s.on.WriteGoAway(s.id-1, http2.ErrCodeNo, nil)
				}
				return s.n != 1
			}),
		overH2("HTTP/2: a POST's stream refused", "RFC 9113 8.7", fresh, 1,
			func(s *stream, n int64) bool {
				if n == 1 {
					s.on.WriteRSTStream(s.id, http2.ErrCodeRefusedStream)
				}
				return n != 1
			}),
		overH2("HTTP/2: INTERNAL_ERROR after a POST", "RFC 9113 8.7",
			"what may have been carried out is not sent again", 0,
			func(s *stream, n int64) bool {
				if n == 1 {
					s.on.WriteRSTStream(s.id, http2.ErrCodeInternal)
				}
				return n != 1
			}),
		field{
			name:   "HTTP/2: INTERNAL_ERROR after a GET",
			source: "aws-sdk-go-v2 #2737; RFC 9113 7", wire: true,
			rule: "a lost answer is fetched again",
			check: func(t *trial) error {
				var n atomic.Int64
				base, url := h2(t, func(s *stream) {
					if n.Add(1) <= 2 {
						s.on.WriteRSTStream(s.id, http2.ErrCodeInternal)
						return
					}
					s.answer()
				})
				return t.do(base, call{url: url, fast: true}).answered(200, "")
			},
		})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk gone") }

// ownFault puts a body of 100 bytes that has fewer.
func ownFault(t *trial, s *server, body io.Reader, text string) error {
	dials := dialFaults(s.base, 0, nil)
	req, err := http.NewRequestWithContext(t.ctx, http.MethodPut, s.url, io.NopCloser(body))
	if err != nil {
		return err
	}
	req.ContentLength = 100
	resp, err := (&http.Client{Transport: t.client.transport(s.base, call{fast: true})}).Do(req)
	t.keep(resp)
	if err == nil || dials.Load() > 1 || !strings.Contains(err.Error(), text) {
		return fmt.Errorf("%d connections, error %v", dials.Load(), err)
	}
	return nil
}

func brokenOff(r result) error {
	if r.err != nil {
		return nil
	}
	if text, err := readAll(r.resp); err == nil {
		return fmt.Errorf("%q without an error", text)
	}
	return nil
}

// overH2 posts an order to a server of HTTP/2; serve says whether the stream is to be answered.
// carried is how often a stream is to be answered.
func overH2(name, source, rule string, carried int64, serve func(s *stream, n int64) bool) field {
	return field{
		name: name, source: source, rule: rule, wire: true,
		check: func(t *trial) error {
			var streams, answered atomic.Int64
			base, url := h2(t, func(s *stream) {
				if serve(s, streams.Add(1)) {
					answered.Add(1)
					s.answer()
				}
			})
			c := order
			c.url = url
			r := t.do(base, c)
			if n := answered.Load(); n != carried || carried == 1 && r.status != 200 {
				return fmt.Errorf("answered %d of %d streams, status %d, error %v",
					n, streams.Load(), r.status, r.err)
			}
			return nil
		},
	}
}

// handshake has the first connections fail before TLS is there.
func handshake(name string, faults int, fault func(net.Conn)) field {
	return field{
		name: name, source: "acceptance D04; RFC 8446 4", wire: true,
		rule: "what never left is retried, whatever it is",
		check: func(t *trial) error {
			s := startServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, fine)
			}, (*httptest.Server).StartTLS)
			front := listen(t, func(n int, conn net.Conn) {
				if n <= faults {
					fault(conn)
					return
				}
				relay(conn, hostOf(s.url))
			})
			s.base.TLSHandshakeTimeout = 500 * time.Millisecond
			s.base.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, front.Addr().String())
			}
			c := order
			c.url = s.url
			if err := t.do(s.base, c).answered(200, fine); err != nil {
				return err
			}
			if n := s.count(); n != 1 {
				return fmt.Errorf("carried out %d times", n)
			}
			return nil
		},
	}
}

// proxied posts through a proxy that answers the first two CONNECTs with status.
func proxied(name, status string, passes bool) field {
	f := field{
		name: name, source: "RFC 9110 15.5.8 and 9.3.6", wire: true,
		rule: "what would fail again fails at once, with its own error",
	}
	if passes {
		f.rule = "what never left is retried, whatever it is"
	}
	f.check = func(t *trial) error {
		s := startServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, fine)
		}, (*httptest.Server).StartTLS)
		front := listen(t, func(n int, conn net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(conn))
			switch {
			case err != nil:
			case n <= 2:
				io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
			default:
				io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
				relay(conn, req.Host)
			}
		})
		proxy, err := url.Parse(front.url())
		if err != nil {
			return err
		}
		s.base.Proxy = http.ProxyURL(proxy)
		c := order
		c.url = s.url
		r := t.do(s.base, c)
		if passes {
			return r.answered(200, fine)
		}
		if front.count() != 1 || r.err == nil {
			return fmt.Errorf("%d CONNECTs, error %v", front.count(), r.err)
		}
		return nil
	}
	return f
}

func relay(conn net.Conn, address string) {
	target, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer target.Close()
	go func() {
		io.Copy(target, conn)
		target.Close()
	}()
	io.Copy(conn, target)
}
