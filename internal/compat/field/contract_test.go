package field

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// watched is a request body that tells whether it was closed.
type watched struct {
	io.Reader
	closed atomic.Bool
}

func (w *watched) Close() error {
	w.closed.Store(true)
	return nil
}

// watchedRequest is a PUT whose body can be made again.
func watchedRequest(ctx context.Context) (*http.Request, *watched, error) {
	body := &watched{Reader: strings.NewReader(form1)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://api.test/", body)
	if err != nil {
		return nil, nil, err
	}
	req.ContentLength = int64(len(form1))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form1)), nil }
	req.Header.Set("Accept", "text/plain")
	return req, body, nil
}

func contract() []field {
	down := answer{status: 503, text: busy}
	onlyTransports := func(f field) field {
		f.needs = "transport"
		return f
	}
	list := []field{onlyTransports(field{
		name:   "the caller's request",
		source: "http.RoundTripper; otelhttp #3969; dd-trace-go #1090",
		rule:   "RoundTrip does not change the request",
		check: func(t *trial) error {
			req, body, err := watchedRequest(t.ctx)
			if err != nil {
				return err
			}
			url, header := req.URL.String(), maps.Clone(req.Header)
			resp, err := t.client.transport(serve(times(2, down, ok)...), call{}).RoundTrip(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			switch {
			case req.URL.String() != url, req.ContentLength != int64(len(form1)), req.GetBody == nil:
				return errors.New("its URL, length or GetBody is another one")
			case req.Body != io.ReadCloser(body):
				return errors.New("its Body is another one")
			case !maps.EqualFunc(req.Header, header, slices.Equal):
				return fmt.Errorf("its fields are %v", req.Header)
			}
			return nil
		},
	}), onlyTransports(field{
		name:   "the caller's body",
		source: "http.RoundTripper; golang/go #49621; go-service PR 2584",
		rule:   "RoundTrip closes the request's body, also on errors and if the context is over",
		check: func(t *trial) error {
			over, cancel := context.WithCancel(t.ctx)
			cancel()
			for _, c := range []struct {
				name string
				ctx  context.Context
				s    *service
			}{
				{"an answer", t.ctx, serve(ok)},
				{"a retry", t.ctx, serve(down, ok)},
				{"an error", t.ctx, serve(answer{err: errors.New("lost")})},
				{"a context that is over", over, serve(ok)},
			} {
				req, body, err := watchedRequest(c.ctx)
				if err != nil {
					return err
				}
				resp, err := t.client.transport(c.s, call{}).RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				if !body.closed.Load() {
					return fmt.Errorf("%s: it is open", c.name)
				}
			}
			return nil
		},
	}), onlyTransports(field{
		name: "an answer or an error", source: "golang/go #7620; go-retryablehttp #179",
		rule: "RoundTrip returns just one of them",
		check: func(t *trial) error {
			short, cancel := context.WithTimeout(t.ctx, 2*time.Second)
			defer cancel()
			for i, c := range []struct {
				ctx context.Context
				s   *service
			}{
				{t.ctx, serve(ok)}, {t.ctx, serve(down)}, {t.ctx, serve(answer{err: errors.New("lost")})},
				{t.ctx, serve(answer{err: errors.New("lost")}, down)}, {short, serve(down)},
				{t.ctx, serve(times(3, down, answer{err: errors.New("lost")})...)},
			} {
				req, err := call{url: "http://api.test/"}.request(c.ctx)
				if err != nil {
					return err
				}
				resp, err := t.client.transport(c.s, call{}).RoundTrip(req)
				if (resp == nil) == (err == nil) {
					return fmt.Errorf("case %d: %v and %v", i, resp, err)
				}
				if resp != nil && resp.Body == nil {
					return fmt.Errorf("case %d: no body", i)
				}
			}
			return nil
		},
	}), onlyTransports(field{
		name:   "a 503 and net/http",
		source: "http.RoundTripper: \"must return err == nil if it obtained a response\"",
		rule:   "an answer is no error, whatever its status",
		check: func(t *trial) error {
			req, err := call{url: "http://api.test/"}.request(t.ctx)
			if err != nil {
				return err
			}
			resp, err := t.client.transport(serve(down), call{}).RoundTrip(req)
			if err != nil {
				return fmt.Errorf("error %s", brief(err))
			}
			return result{resp: resp, status: resp.StatusCode}.answered(503, busy)
		},
	}), onlyTransports(field{
		name: "Response.Request", source: "golang/go #39533",
		rule: "it is the request that the caller sent",
		check: func(t *trial) error {
			req, err := call{url: "http://api.test/"}.request(t.ctx)
			if err != nil {
				return err
			}
			resp, err := t.client.transport(serve(down, ok), call{}).RoundTrip(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.Request != req {
				return errors.New("it is another one")
			}
			return nil
		},
	}), onlyTransports(field{
		name:   "CloseIdleConnections",
		source: "kubernetes PR 104844; otelhttp #3543; teleport PR 22832",
		rule:   "http.Client.CloseIdleConnections reaches the base transport",
		check: func(t *trial) error {
			base := &closing{service: serve(ok)}
			(&http.Client{Transport: t.client.transport(base, call{})}).CloseIdleConnections()
			if !base.closed {
				return errors.New("it does not")
			}
			return nil
		},
	}), onlyTransports(field{
		name: "one in another", source: "Amazon Builders' Library: 243 times; matrixone PR 24917",
		rule: "two of them, one in the other, do not multiply their attempts",
		check: func(t *trial) error {
			s := serve(down)
			inner := t.client.transport(s, call{})
			r := result{}
			resp, err := (&http.Client{Transport: t.client.transport(inner, call{})}).Get("http://api.test/")
			if err == nil {
				readAll(resp)
			}
			r.err = err
			if n := s.count(); n > attempts {
				return fmt.Errorf("sent %d times", n)
			}
			return nil
		},
	}), {
		name:   "discarded answers",
		source: "azure-storage-blob-go #38; openai-go #495; ocm-sdk-go PR 804",
		rule:   "every answer that is not returned has its body closed",
		check: func(t *trial) error {
			s := serve(times(3, answer{status: 503, text: strings.Repeat("x", 1<<16)}, ok)...)
			readAll(t.do(s, call{}).resp)
			if n := s.open(); n > 0 {
				return fmt.Errorf("%d are open", n)
			}
			return nil
		},
	}, {
		name:   "a discarded answer without an end",
		source: "CVE-2026-39882 (OTLP); cosmo PR 1713; openai-go PR 829",
		rule:   "at most 1 MiB of it is read",
		check: func(t *trial) error {
			s := serve(answer{status: 503, body: &bytesOf{64 << 20}}, ok)
			if err := t.do(s, call{}).answered(200, fine); err != nil {
				return err
			}
			if n := s.bodies[0].count(); n > 1<<20 {
				return fmt.Errorf("%d bytes were read", n)
			}
			return nil
		},
	}, {
		name: "a discarded answer that stalls", source: "acceptance L05; openai-go PR 829",
		rule: "it delays the retry by 5 s at most",
		check: func(t *trial) error {
			s := serve(answer{status: 503, bodyOf: newStalling}, ok)
			r := t.do(s, call{})
			if gaps := s.gaps(); len(gaps) != 1 || gaps[0] > 5*time.Second {
				return fmt.Errorf("retried after %v, error %v", gaps, r.err)
			}
			return r.answered(200, fine)
		},
	}, {
		name:   "a connection after a 503",
		source: "azure-storage-blob-go #38; apple/servicetalk PR 3048", wire: true,
		rule: "a short answer is read to its end: the retry uses the connection again",
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, _ *http.Request) {
				if n < 3 {
					w.WriteHeader(503)
					io.WriteString(w, busy)
				}
			})
			if r := t.do(s.base, call{url: s.url, fast: true}); r.status != 200 {
				return fmt.Errorf("status %d, error %v", r.status, r.err)
			}
			return s.each(func(r *http.Request) error {
				if r.RemoteAddr != s.requests[0].RemoteAddr {
					return errors.New("there was more than one connection")
				}
				return nil
			})
		},
	}, {
		name: "other calls' connections", source: "go-retryablehttp #44 and PR 57", wire: true,
		rule: "a call that fails closes nobody else's idle connection",
		check: func(t *trial) error {
			s := newServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/down" {
					w.WriteHeader(503)
				}
			})
			if r := t.do(s.base, call{url: s.url + "/up", fast: true}); r.status != 200 {
				return fmt.Errorf("status %d, error %v", r.status, r.err)
			} else if _, err := readAll(r.resp); err != nil {
				return err
			}
			readAll(t.do(s.base, call{url: s.url + "/down", fast: true}).resp)
			readAll(t.do(s.base, call{url: s.url + "/up", fast: true}).resp)
			if first, last := s.requests[0].RemoteAddr, s.requests[s.count()-1].RemoteAddr; first != last {
				return errors.New("it was closed")
			}
			return nil
		},
	}, {
		name:   "server-sent events",
		source: "http.Response.Body: \"streamed on demand\"; acceptance C12", wire: true,
		rule: "an event is there before the next one is sent",
		check: func(t *trial) error {
			next := make(chan struct{})
			s := newServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, "data: 1\n")
				w.(http.Flusher).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
				}
				io.WriteString(w, "data: 2\n")
			})
			ctx, cancel := context.WithTimeout(t.ctx, 3*time.Second)
			defer cancel()
			r := t.doWith(ctx, s.base, call{url: s.url, fast: true})
			if r.err != nil {
				return r.err
			}
			defer r.resp.Body.Close()
			lines := bufio.NewReader(r.resp.Body)
			if line, err := lines.ReadString('\n'); err != nil || line != "data: 1\n" {
				return fmt.Errorf("%q, error %w", line, err)
			}
			close(next)
			if line, err := lines.ReadString('\n'); err != nil || line != "data: 2\n" {
				return fmt.Errorf("%q, error %w", line, err)
			}
			return nil
		},
	}, {
		name: "an answer's trailers", source: "RFC 9110 6.5; acceptance C13", wire: true,
		rule: "they are there at the body's end, after a retry too",
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, _ *http.Request) {
				if n == 1 {
					w.WriteHeader(503)
					return
				}
				w.Header().Set("Trailer", "X-Sum")
				io.WriteString(w, fine)
				w.Header().Set("X-Sum", "42")
			})
			r := t.do(s.base, call{url: s.url, fast: true})
			if err := r.answered(200, fine); err != nil {
				return err
			}
			if got := r.resp.Trailer.Get("X-Sum"); got != "42" {
				return fmt.Errorf("trailers %v", r.resp.Trailer)
			}
			return nil
		},
	}, {
		name: "a packed answer", source: "golang/go #19138; http.Response.Uncompressed", wire: true,
		rule: "gzip is unpacked as net/http does it, after a retry too",
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					w.WriteHeader(503)
					return
				}
				if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
					w.Header().Set("Content-Encoding", "gzip")
					packed := gzip.NewWriter(w)
					io.WriteString(packed, fine)
					packed.Close()
					return
				}
				io.WriteString(w, fine)
			})
			return t.do(s.base, call{url: s.url, fast: true}).answered(200, fine)
		},
	}, {
		name: "HEAD", source: "RFC 9110 9.3.2; acceptance C17", wire: true,
		rule: "Content-Length is as sent, and no body is waited for",
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1073741824")
				if n == 1 {
					w.WriteHeader(503)
				}
			})
			r := t.do(s.base, call{method: "HEAD", url: s.url, fast: true})
			if err := r.answered(200, ""); err != nil {
				return err
			}
			if r.resp.ContentLength != 1<<30 {
				return fmt.Errorf("Content-Length %d", r.resp.ContentLength)
			}
			return nil
		},
	}, onlyTransports(field{
		name: "an upgrade", source: "otelhttp #1329; RFC 9110 7.8", wire: true,
		rule: "a 101's body can be written to",
		check: func(t *trial) error {
			s := newServer(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
				conn, buffered, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n"+
					"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				line, _ := buffered.ReadString('\n')
				io.WriteString(conn, line)
			})
			upgrade := fields("Connection", "Upgrade", "Upgrade", "echo")
			r := t.do(s.base, call{url: s.url, fast: true, header: upgrade})
			if r.err != nil {
				return r.err
			}
			defer r.resp.Body.Close()
			conn, can := r.resp.Body.(io.ReadWriter)
			if !can {
				return fmt.Errorf("a %T is no io.Writer", r.resp.Body)
			}
			io.WriteString(conn, "hello\n")
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
				return fmt.Errorf("%q, error %w", line, err)
			}
			return nil
		},
	})}
	return list
}

type closing struct {
	*service
	closed bool
}

func (c *closing) CloseIdleConnections() { c.closed = true }

// stalling is a body that sends one byte, and ends an hour later, or with its request's context, or
// when it is closed, as net/http's do.
type stalling struct {
	ctx   context.Context
	began bool
	once  sync.Once
	quit  chan struct{}
}

func newStalling(ctx context.Context) io.Reader {
	return &stalling{ctx: ctx, quit: make(chan struct{})}
}

func (s *stalling) Read(p []byte) (int, error) {
	if !s.began {
		s.began = true
		return copy(p, "x"), nil
	}
	select {
	case <-time.After(time.Hour):
		return 0, io.EOF
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-s.quit:
		return 0, errors.New("http: read on closed response body")
	}
}

func (s *stalling) Close() error {
	s.once.Do(func() { close(s.quit) })
	return nil
}
