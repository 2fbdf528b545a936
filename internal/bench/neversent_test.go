package bench

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azruntime "github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/hashicorp/go-retryablehttp"
	"resty.dev/v3"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// This file orders something by POST while the way to the server, or the way back, fails twice. An
// order that never left must be retried: it is carried out exactly once. One that may have been
// carried out must not be. All clients meet the same faults, over sockets; ours must be right on
// all of them, the others' results are told.

// order is what is posted: a path and a body that no client takes for harmless.
const (
	orderPath = "/api/machines/1/isolate"
	orderBody = `{"Comment":"c","IsolationType":"Full"}`
	faults    = 2 // attempts that meet one, of the 4 that each client has
)

// world is one server with one fault before it, for one client.
type world struct {
	base   http.RoundTripper
	http   *http.Transport // base, if there is nothing between
	url    string          // scheme and authority
	header http.Header     // that the caller sets on the order
	warm   bool            // a GET goes first, so that a kept-alive connection waits
	done   atomic.Int64    // orders carried out

	mu     sync.Mutex // guards closes
	closes []func()
}

func newWorld() *world {
	w := &world{http: &http.Transport{}, header: http.Header{}}
	w.base = w.http
	return w
}

// onClose is called by servers too, while a test runs.
func (w *world) onClose(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closes = append(w.closes, f)
}

func (w *world) close() {
	w.http.CloseIdleConnections()
	w.mu.Lock()
	closes := w.closes
	w.mu.Unlock()
	for _, c := range slices.Backward(closes) {
		c()
	}
}

// client posts an order to w, up to 4 times.
type client struct {
	name string
	ours bool
	post func(ctx context.Context, w *world) (status int, err error)
}

func clients() []client {
	list := []client{
		ours("steadyhttp", func(w *world) *steadyhttp.Transport { return &steadyhttp.Transport{} }),
		ours("Limit(nil)", func(w *world) *steadyhttp.Transport {
			return &steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}}
		}),
		ours("Trace", func(w *world) *steadyhttp.Transport {
			return &steadyhttp.Transport{Trace: looking()}
		}),
		ours("key+timeout", func(w *world) *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: steadyhttp.Policy{
				IdempotencyKey: true, AttemptTimeout: 2 * time.Minute, Idempotent: byMethod,
			}}
		}),
		ours("MaxBuffer", func(w *world) *steadyhttp.Transport {
			return &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 1 << 10}}
		}),
		ours("defender", func(w *world) *steadyhttp.Transport {
			u, err := url.Parse(w.url)
			if err != nil {
				panic(err)
			}
			return preset(defender.Config{Hosts: []string{u.Host}})
		}),
		ours("NoQuotas", func(w *world) *steadyhttp.Transport {
			return preset(defender.Config{NoQuotas: true})
		}),
	}
	return append(list, peers()...)
}

func preset(c defender.Config) *steadyhttp.Transport {
	transport, err := defender.New(c)
	if err != nil {
		panic(err)
	}
	return transport
}

func looking() *steadyhttp.Trace {
	return &steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) {}}
}

// byMethod is a service that knows no keys.
func byMethod(req *http.Request) bool { return req.Method != http.MethodPost }

func ours(name string, make func(*world) *steadyhttp.Transport) client {
	return client{name, true, func(ctx context.Context, w *world) (int, error) {
		t := make(w)
		t.Base = w.base
		t.Policy.NewBackOff = func() backoff.BackOff {
			return backoff.NewConstantBackOff(time.Millisecond)
		}
		if len(w.header) > 0 && t.Policy.Idempotent == nil {
			t.Policy.Idempotent = byMethod
		}
		return postBy(ctx, &http.Client{Transport: t}, w, t.Policy.MaxBuffer > 0)
	}}
}

// postBy posts by an http.Client. once makes a body that can't be read again.
func postBy(ctx context.Context, c *http.Client, w *world, once bool) (int, error) {
	var body io.Reader = strings.NewReader(orderBody)
	if once {
		body = io.MultiReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+orderPath, body)
	if err != nil {
		return 0, err
	}
	// A chunked body's first Write fails as if the body had (golang/go's
	// transferWriter.doBodyCopy).
	req.ContentLength = int64(len(orderBody))
	for name, values := range w.header {
		req.Header[name] = values
	}
	return answered(c.Do(req))
}

func answered(resp *http.Response, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// peers are configured for as many attempts and as short waits; all else is what they do by
// default. net/http, which makes one attempt and what replays it sees fit, is there to be compared
// with.
func peers() []client {
	return []client{
		{"net/http", false, func(ctx context.Context, w *world) (int, error) {
			return postBy(ctx, &http.Client{Transport: w.base}, w, false)
		}},
		{"azcore", false, func(ctx context.Context, w *world) (int, error) {
			options := &policy.ClientOptions{
				Transport: &http.Client{Transport: w.base},
				Retry: policy.RetryOptions{
					MaxRetries: 3, RetryDelay: time.Millisecond, MaxRetryDelay: time.Millisecond,
				},
			}
			pipeline := azruntime.NewPipeline("bench", "v0.0.0", azruntime.PipelineOptions{}, options)
			req, err := azruntime.NewRequest(ctx, http.MethodPost, w.url+orderPath)
			if err != nil {
				return 0, err
			}
			for name, values := range w.header {
				req.Raw().Header[name] = values
			}
			body := streaming.NopCloser(strings.NewReader(orderBody))
			if err := req.SetBody(body, "application/json"); err != nil {
				return 0, err
			}
			return answered(pipeline.Do(req))
		}},
		{"failsafe-go", false, func(ctx context.Context, w *world) (int, error) {
			builder := failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(3)
			transport := failsafehttp.NewRoundTripper(w.base, builder.WithDelay(time.Millisecond).Build())
			return postBy(ctx, &http.Client{Transport: transport}, w, false)
		}},
		{"retryablehttp", false, func(ctx context.Context, w *world) (int, error) {
			c := retryablehttp.NewClient()
			c.HTTPClient = &http.Client{Transport: w.base}
			c.RetryMax, c.RetryWaitMin, c.RetryWaitMax, c.Logger = 3, time.Millisecond, time.Millisecond, nil
			req, err := retryablehttp.NewRequestWithContext(
				ctx, http.MethodPost, w.url+orderPath, []byte(orderBody))
			if err != nil {
				return 0, err
			}
			for name, values := range w.header {
				req.Header[name] = values
			}
			return answered(c.Do(req))
		}},
		{"resty", false, restyPost(false)},
		{"resty+POST", false, restyPost(true)},
	}
}

// restyPost retries no POST by default.
func restyPost(allow bool) func(context.Context, *world) (int, error) {
	return func(ctx context.Context, w *world) (int, error) {
		c := resty.New().SetTransport(w.base).SetRetryCount(3).SetRetryWaitTime(time.Millisecond).
			SetRetryMaxWaitTime(2 * time.Millisecond).SetRetryAllowNonIdempotent(allow)
		c.SetLogger(silent{})
		defer c.Close()
		req := c.R().SetContext(ctx).SetBody([]byte(orderBody)).SetContentType("application/json")
		for name, values := range w.header {
			req.Header[name] = values
		}
		resp, err := req.Post(w.url + orderPath)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode(), nil
	}
}

type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

// scenario is a fault.
type scenario struct {
	name  string
	left  bool // the order may have been carried out
	told  bool // net/http tells it by text only, or replays it itself: no result is asserted
	long  bool // takes a minute: only with STEADYHTTP_BENCH_LONG
	setUp func(w *world)
}

// never lists the faults that stop an order before it reaches the server.
func never() []scenario {
	return []scenario{
		{name: "TLS handshake timed out", setUp: func(w *world) {
			w.http.TLSHandshakeTimeout = time.Second
			w.serve(true, func(conn net.Conn) { io.Copy(io.Discard, conn) }, w.carryOut)
		}},
		{name: "TLS handshake reset", setUp: func(w *world) {
			w.serve(true, func(conn net.Conn) {
				conn.Read(make([]byte, 64))
				reset(conn)
			}, w.carryOut)
		}},
		{name: "TLS handshake closed", setUp: func(w *world) {
			w.serve(true, func(conn net.Conn) { conn.Read(make([]byte, 4096)) }, w.carryOut)
		}},
		{name: "TLS answered in plain HTTP", setUp: func(w *world) {
			// Whoever speaks HTTP there will do so again: that this is final is right too, if
			// nobody was harmed.
			w.serve(true, func(conn net.Conn) {
				conn.Read(make([]byte, 4096))
				io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			}, w.carryOut)
		}, told: true},
		{name: "CONNECT answered 429", setUp: connect("429 Too Many Requests")},
		{name: "CONNECT answered 502", setUp: connect("502 Bad Gateway")},
		{name: "CONNECT answered 503", setUp: connect("503 Service Unavailable")},
		{name: "CONNECT answered 500", setUp: connect("500 Internal Server Error")},
		{name: "CONNECT answered 504", setUp: connect("504 Gateway Timeout")},
		{name: "CONNECT not answered", setUp: connect("")},
		{name: "SOCKS5 network unreachable", setUp: socks(3)},
		{name: "SOCKS5 host unreachable", setUp: socks(4)},
		{name: "SOCKS5 connection refused", setUp: socks(5)},
		{name: "connection refused", setUp: dialing(refused)},
		{name: "proxy refuses connections", setUp: func(w *world) {
			w.serve(true, nil, w.carryOut)
			w.proxied("http", func(conn net.Conn, _ int) { tunnel(conn, bufio.NewReader(conn)) })
			w.failDials(refused)
		}},
		{name: "dial timed out", setUp: dialing(func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		})},
		{name: "DNS failed for now", setUp: dialing(func(context.Context) error {
			return &net.DNSError{Err: "server misbehaving", Name: "orders.test", IsTemporary: true}
		})},
		{name: "DNS timed out", setUp: dialing(func(context.Context) error {
			return &net.DNSError{Err: "i/o timeout", Name: "orders.test", IsTimeout: true}
		})},
		{name: "DNS server refuses", setUp: dialing(func(ctx context.Context) error {
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, refused(ctx) }
			dialer := net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: dial}}
			_, err := dialer.DialContext(ctx, "tcp", "orders.test:80")
			return err
		})},
		{name: "dial error wrapped", setUp: dialing(func(ctx context.Context) error {
			return fmt.Errorf("egress by wan2: %w", refused(ctx))
		})},
		{name: "dial errors joined", setUp: dialing(func(ctx context.Context) error {
			return errors.Join(refused(ctx), refused(ctx))
		})},
		{name: "dial error of no known type", setUp: dialing(func(context.Context) error {
			return errors.New("no free address in the pool")
		})},
		{name: "connection refused, below a wrapper", setUp: func(w *world) {
			dialing(refused)(w)
			w.base = wrapping{w.http}
		}},
		{name: "nothing written on a kept-alive one", setUp: func(w *world) { w.unwritable(0, nil) }},
		// A POST without a key is replayed only if nothing was written, so that this one has not
		// left either.
		{name: "the same, then refused", told: true, setUp: func(w *world) { w.unwritable(2, refused) }},
		{name: "h2 REFUSED_STREAM", setUp: func(w *world) {
			var streams atomic.Int64
			w.serveH2(func(s *stream) {
				if streams.Add(1) <= faults {
					s.reset(codeRefusedStream)
					return
				}
				s.order()
			})
			w.eachOnItsOwn()
		}},
		{name: "h2 REFUSED_STREAM exhausted", long: true, setUp: func(w *world) {
			w.serveH2(exhausting(1))
		}},
		{name: "h2 GOAWAY below the first stream", setUp: func(w *world) {
			w.serveH2(func(s *stream) {
				if s.conn.n <= faults {
					s.goAway(0, codeNo)
					return
				}
				s.order()
			})
		}},
		{name: "h2 GOAWAY below a later stream", setUp: func(w *world) {
			w.warm = true
			w.serveH2(func(s *stream) {
				if s.method == http.MethodPost && s.conn.n == 1 {
					s.goAway(s.id-1, codeEnhanceYourCalm)
					return
				}
				s.order()
			})
		}},
		{name: "h2 GOAWAY, nobody retries below", setUp: func(w *world) {
			w.serveH2(func(s *stream) {
				if s.conn.n <= faults {
					s.goAway(0, codeNo)
					return
				}
				s.order()
			})
			w.eachOnItsOwn()
		}, told: true},
		{name: "h2 GOAWAY, an error, first stream", setUp: func(w *world) {
			w.serveH2(func(s *stream) {
				if s.conn.n <= faults {
					s.goAway(0, codeEnhanceYourCalm)
					return
				}
				s.order()
			})
		}, told: true},
	}
}

// exhausting refuses all that net/http tries in n attempts.
func exhausting(n int64) func(*stream) {
	var streams atomic.Int64
	return func(s *stream) {
		if streams.Add(1) <= n*h2Tries {
			s.reset(codeRefusedStream)
			return
		}
		s.order()
	}
}

// maybe lists the faults of orders that have been carried out.
func maybe() []scenario {
	list := []scenario{
		{name: "reset after the request was read", setUp: func(w *world) { w.breaking(reset) }},
		{name: "closed on a fresh connection", setUp: func(w *world) { w.breaking(shut) }},
		{name: "closed in the answer's headers", setUp: func(w *world) {
			w.breaking(func(conn net.Conn) {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Le")
				conn.Close()
			})
		}},
		{name: "an answer that is not HTTP", setUp: func(w *world) {
			w.breaking(func(conn net.Conn) {
				io.WriteString(conn, "SSH-2.0-OpenSSH_9.9\r\n")
				conn.Close()
			})
		}},
		{name: "answer headers timed out", setUp: func(w *world) {
			w.http.ResponseHeaderTimeout = 500 * time.Millisecond
			w.serve(false, nil, w.failing(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
			}))
		}},
		{name: "500", setUp: answering(500)},
		{name: "502", setUp: answering(502)},
		{name: "503", setUp: answering(503)},
		{name: "504", setUp: answering(504)},
	}
	for _, end := range []struct {
		name string
		f    func(net.Conn)
	}{{"closed", shut}, {"reset", reset}} {
		for _, key := range []string{"", "Idempotency-Key", "X-Idempotency-Key"} {
			name := cmp.Or(key, "no key")
			keyed := func(w *world) {
				w.warm = true
				if key != "" {
					w.header.Set(key, `"k1"`)
				}
				w.breaking(end.f)
			}
			list = append(list,
				scenario{name: end.name + " on a kept-alive one, " + name, setUp: keyed},
				scenario{name: end.name + ", then a closed port, " + name, setUp: func(w *world) {
					keyed(w)
					// The first dial is the warm-up's, the second net/http's replay's.
					w.dialer(2, 2, refused)
				}})
		}
	}
	for _, end := range []struct {
		name    string
		replays bool // net/http itself, whoever asked for what
		f       func(*stream)
	}{
		{"INTERNAL_ERROR", false, func(s *stream) { s.reset(codeInternal) }},
		{"CANCEL", false, func(s *stream) { s.reset(codeCancel) }},
		{"ENHANCE_YOUR_CALM", false, func(s *stream) { s.reset(codeEnhanceYourCalm) }},
		{"PROTOCOL_ERROR", false, func(s *stream) { s.reset(codeProtocol) }},
		{"connection closed", false, func(s *stream) { s.conn.Close() }},
		{"connection reset", false, func(s *stream) { reset(s.conn.Conn) }},
		{"GOAWAY with it, then closed", false, func(s *stream) {
			s.goAway(s.id, codeNo)
			s.conn.Close()
		}},
		{"GOAWAY above it, an error", false, func(s *stream) {
			s.goAway(1<<31-1, codeInternal)
			s.conn.Close()
		}},
	} {
		for _, keyed := range []bool{false, true} {
			name := "h2 " + end.name
			if keyed {
				name += ", key"
			}
			list = append(list, scenario{name: name, told: end.replays, setUp: func(w *world) {
				w.warm = true
				if keyed {
					w.header.Set("Idempotency-Key", `"k1"`)
				}
				w.serveH2(func(s *stream) {
					if s.method == http.MethodPost && s.carryOut() <= faults {
						end.f(s)
						return
					}
					s.answer()
				})
			}})
		}
	}
	for i := range list {
		list[i].left = true
	}
	return list
}

// TestNeverSentAndMaybeDone asserts that ours are right on both lists.
func TestNeverSentAndMaybeDone(t *testing.T) {
	list := append(never(), maybe()...)
	all := clients()
	results := make([][]string, len(list))
	right := make([]struct{ never, maybe int }, len(all))
	began := time.Now()

	var mu sync.Mutex
	var running sync.WaitGroup
	room := make(chan struct{}, 24) // most of them wait for a time to pass
	for i, s := range list {
		results[i] = make([]string, len(all))
		if s.long && os.Getenv("STEADYHTTP_BENCH_LONG") == "" {
			continue
		}
		for j, c := range all {
			running.Go(func() {
				room <- struct{}{}
				defer func() { <-room }()
				status, done, err := s.run(t, c)
				ok := done == 1 && err == nil && status == http.StatusOK
				if s.left {
					ok = done == 1
				}
				mu.Lock()
				defer mu.Unlock()
				results[i][j] = "ok"
				switch {
				case !ok:
					results[i][j] = fmt.Sprintf("%d×", done)
					if c.ours && !s.told {
						t.Errorf("%s, %s: carried out %d times, status %d, error %v",
							s.name, c.name, done, status, err)
					}
				case s.left:
					right[j].maybe++
				default:
					right[j].never++
				}
			})
		}
	}
	running.Wait()

	var table strings.Builder
	tabs := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(tabs, strings.Join(cells, "\t")) }
	head := []string{"ok: carried out once"}
	for _, c := range all {
		head = append(head, c.name)
	}
	row(head...)
	for i, s := range list {
		switch {
		case results[i][0] == "":
			continue
		case i == 0:
			row("NEVER LEFT")
		case s.left && !list[i-1].left:
			row("CARRIED OUT, NOT ANSWERED")
		}
		name := s.name
		if s.told {
			name += " *"
		}
		row(append([]string{name}, results[i]...)...)
	}
	total := []string{"right on"}
	for _, r := range right {
		total = append(total, fmt.Sprintf("%d+%d", r.never, r.maybe))
	}
	row(total...)
	tabs.Flush()
	t.Logf("%d faults, %d clients, %v; * is not asserted\n%s",
		len(list), len(all), time.Since(began).Round(time.Millisecond), &table)
}

// TestRefusedStreamExhausted has what takes two minutes with sockets (see scenario.long) in virtual
// time: net/http gives up replaying a refused stream, twice.
func TestRefusedStreamExhausted(t *testing.T) {
	s := scenario{name: "h2 REFUSED_STREAM exhausted", setUp: func(w *world) {
		w.pipeH2(exhausting(faults))
	}}
	for _, c := range clients() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				status, done, err := s.run(t, c)
				report := t.Logf
				if c.ours && (done != 1 || err != nil || status != http.StatusOK) {
					report = t.Errorf
				}
				report("carried out %d times in %v: status %d, error %v", done, time.Since(began), status, err)
				synctest.Wait()
			})
		})
	}
}

// run makes one order by one client.
func (s scenario) run(t *testing.T, c client) (status int, done int64, err error) {
	w := newWorld()
	defer w.close()
	s.setUp(w)
	// The bound is for what hangs: only the exhausted REFUSED_STREAM takes more than a second.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if w.warm {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/api/machines/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := answered(w.base.RoundTrip(req)); err != nil {
			t.Errorf("%s, %s: warming up: %v", s.name, c.name, err)
		}
	}
	status, err = c.post(ctx, w)
	return status, w.done.Load(), err
}

// serve starts a server. fault gets the first connections, and must be done with each when it
// returns; nil: there is none.
func (w *world) serve(secure bool, fault func(net.Conn), handler http.HandlerFunc) {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = quiet()
	if fault != nil {
		server.Listener = &faultyListener{Listener: server.Listener, fault: fault}
	}
	if secure {
		server.StartTLS()
		w.http.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig
	} else {
		server.Start()
	}
	w.url = server.URL
	w.onClose(func() {
		server.CloseClientConnections()
		server.Close()
	})
}

type faultyListener struct {
	net.Listener
	fault func(net.Conn)
	n     int // only Accept uses it
}

func (l *faultyListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.n == faults {
			return conn, err
		}
		l.n++
		go func() {
			defer conn.Close()
			l.fault(conn)
		}()
	}
}

// carryOut is a server without a fault.
func (w *world) carryOut(rw http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	if r.Method == http.MethodPost {
		w.done.Add(1)
	}
	io.WriteString(rw, "fine")
}

// failing carries out, and then fails the first times.
func (w *world) failing(fault http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost && w.done.Add(1) <= faults {
			fault(rw, r)
			return
		}
		io.WriteString(rw, "fine")
	}
}

func (w *world) breaking(end func(net.Conn)) {
	w.serve(false, nil, w.failing(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		end(conn)
	}))
}

func answering(status int) func(*world) {
	return func(w *world) {
		w.serve(false, nil, w.failing(func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(status)
		}))
	}
}

func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func shut(conn net.Conn) { conn.Close() }

// refused is the error of dialling a port where nobody listens.
func refused(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	listener.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
		return &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("somebody else has taken the port")}
	}
	return err
}

// dialing is a server that the first dials do not reach.
func dialing(fault func(context.Context) error) func(*world) {
	return func(w *world) {
		w.serve(false, nil, w.carryOut)
		w.failDials(fault)
	}
}

func (w *world) failDials(fault func(context.Context) error) { w.dialer(1, faults, fault) }

// dialer lets the dials from first to last fail.
func (w *world) dialer(first, last int64, fault func(context.Context) error) {
	var dials atomic.Int64
	w.http.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if n := dials.Add(1); first <= n && n <= last {
			return nil, fault(ctx)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

// wrapping is a base that explains errors.
type wrapping struct{ next http.RoundTripper }

func (w wrapping) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		err = fmt.Errorf("egress: %w", err)
	}
	return resp, err
}

// unwritable has a kept-alive connection that takes no byte of the order; the dials from the second
// up to last then fail.
func (w *world) unwritable(last int64, fault func(context.Context) error) {
	w.warm = true
	w.serve(false, nil, w.carryOut)
	w.dialer(2, last, fault)
	dial, first := w.http.DialContext, true
	w.http.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if first && err == nil {
			first = false
			conn = &oneWrite{Conn: conn}
		}
		return conn, err
	}
}

// oneWrite is a connection that takes one request.
type oneWrite struct {
	net.Conn
	writes atomic.Int64
}

func (c *oneWrite) Write(b []byte) (int, error) {
	if c.writes.Add(1) > 1 {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.ErrClosed}
	}
	return c.Conn.Write(b)
}

// connect is a proxy that answers the first CONNECTs with something else than a tunnel; "": closes.
func connect(status string) func(*world) {
	return func(w *world) {
		w.serve(true, nil, w.carryOut)
		w.proxied("http", func(conn net.Conn, n int) {
			r := bufio.NewReader(conn)
			if n > faults {
				tunnel(conn, r)
				return
			}
			if _, err := http.ReadRequest(r); err == nil && status != "" {
				io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
			}
		})
	}
}

// tunnel reads a CONNECT and obeys it.
func tunnel(conn net.Conn, r *bufio.Reader) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	target, err := net.Dial("tcp", req.Host)
	if err != nil {
		io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	join(conn, target)
}

// socks is a SOCKS5 proxy (RFC 1928) that answers the first requests with a failure.
func socks(reply byte) func(*world) {
	return func(w *world) {
		w.serve(false, nil, w.carryOut)
		w.proxied("socks5", func(conn net.Conn, n int) {
			greeting := make([]byte, 3) // version, 1 method, none needed
			if _, err := io.ReadFull(conn, greeting); err != nil {
				return
			}
			conn.Write([]byte{5, 0})
			request := make([]byte, 10) // version, CONNECT, 0, IPv4, address, port
			if _, err := io.ReadFull(conn, request); err != nil {
				return
			}
			if n <= faults {
				conn.Write([]byte{5, reply, 0, 1, 0, 0, 0, 0, 0, 0})
				return
			}
			port := binary.BigEndian.Uint16(request[8:])
			target, err := net.Dial("tcp", fmt.Sprintf("%v:%d", net.IP(request[4:8]), port))
			if err != nil {
				return
			}
			conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
			join(conn, target)
		})
	}
}

func join(a, b net.Conn) {
	defer b.Close()
	go func() {
		io.Copy(b, a)
		b.Close()
	}()
	io.Copy(a, b)
}

// proxied puts a proxy before the server. Its connections are counted from 1.
func (w *world) proxied(scheme string, serve func(conn net.Conn, n int)) {
	w.http.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: w.listen(serve)})
}

// listen calls serve for each connection, and closes it then.
func (w *world) listen(serve func(conn net.Conn, n int)) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	w.onClose(func() { listener.Close() })
	go func() {
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			w.onClose(func() { conn.Close() })
			go func() {
				defer conn.Close()
				serve(conn, n)
			}()
		}
	}()
	return listener.Addr().String()
}
