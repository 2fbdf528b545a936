package sendlog

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errNo = errors.New("no place for a replay")

// looks is an observer that notes what it is told.
type looks struct {
	mu      sync.Mutex
	told    []string
	says    error         // Replay
	takes   time.Duration // Replay
	context context.Context
}

func (l *looks) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, what)
}

func (l *looks) Replay(ctx context.Context) error {
	l.note("replay")
	time.Sleep(l.takes)
	l.context = ctx
	return l.says
}

func (l *looks) Sent(at time.Time) {
	if at.IsZero() {
		l.note("sent, at no time")
		return
	}
	l.note("sent")
}

func (l *looks) Answered(*http.Response) { l.note("answered") }

func (l *looks) want(t *testing.T, what ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.told, what) {
		t.Errorf("told %q, want %q", l.told, what)
	}
}

// secure is a connection with TLS that has negotiated a protocol.
type secure struct {
	net.Conn
	protocol string
	stopped  *bool // it is closed, or lets nobody write
}

func (s secure) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{NegotiatedProtocol: s.protocol}
}

func (s secure) SetWriteDeadline(t time.Time) error {
	*s.stopped = *s.stopped || time.Until(t) <= 0
	return nil
}

func (s secure) Close() error { *s.stopped = true; return nil }

func got(conn net.Conn) httptrace.GotConnInfo { return httptrace.GotConnInfo{Conn: conn} }

// A Log with nobody to tell counts: what net/http looked for, took and wrote, and when it first
// did.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Log
		l.Watched = true
		hooks := l.Trace()
		check := func(asked, taken, sends int, wrote, http1 bool, first time.Time) {
			t.Helper()
			a, c := l.Connections()
			at, n := l.Read()
			w, h := l.Wrote()
			if a != asked || c != taken || n != sends || w != wrote || h != http1 || !at.Equal(first) {
				t.Errorf("asked %d, took %d, sent %d at %v, wrote %v, HTTP/1.1 %v; want %d, %d, %d at %v, %v, %v",
					a, c, n, at, w, h, asked, taken, sends, first, wrote, http1)
			}
		}
		if l.Observed() || (*Log)(nil).Observed() {
			t.Error("observed by nobody")
		}
		check(0, 0, 0, false, false, time.Time{})
		hooks.GetConn("api.example:443")
		check(1, 0, 0, false, false, time.Time{})
		// A connection counts as a sending: HTTP/2 may tell of it only later.
		hooks.GotConn(got(secure{protocol: "h2"}))
		check(1, 1, 1, false, false, time.Time{})
		time.Sleep(time.Second)
		first := time.Now()
		hooks.WroteHeaders()
		check(1, 1, 1, true, false, first)
		time.Sleep(time.Second)
		hooks.GetConn("api.example:443")
		hooks.GotConn(got(secure{protocol: "http/1.1"}))
		hooks.WroteHeaders()
		check(2, 2, 2, true, true, first)
		hooks.WroteHeaders() // a base that tells of no connection
		check(2, 3, 3, true, true, first)
		hooks.GotConn(got(&net.TCPConn{})) // which does not say what it speaks
		check(2, 3, 3, true, false, first)
	})
	var l Log // that nobody wants the time of
	l.Trace().WroteHeaders()
	if at, n := l.Read(); !at.IsZero() || n != 1 {
		t.Errorf("%d at %v", n, at)
	}
}

// Observers are told of each sending and of the answer; a foreign one is not told of the answer.
func TestObservers(t *testing.T) {
	var g Gated
	l := g.Init()
	var own, foreign looks
	l.Add(&own, false, 0)
	l.Add(&foreign, true, 1)
	if !l.Observed() || !l.Watched {
		t.Error("not observed")
	}
	l.Trace().WroteHeaders()
	l.Trace().WroteHeaders()
	l.Answered(nil)
	own.want(t, "sent", "sent", "answered")
	foreign.want(t, "sent", "sent")
}

func TestOneObserverAllocatesNothing(t *testing.T) {
	var o Observer = new(looks)
	req := &http.Request{URL: &url.URL{Scheme: "http", Host: "api.example"}}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	g := new(Gated)
	if n := testing.AllocsPerRun(100, func() {
		*g = Gated{}
		l := g.Init()
		l.Add(o, false, 0)
		l.HoldUp(ctx, ctx, cancel, nil, req, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// attempt is a Log that holds up the replays of a request by a base that is not net/http's own.
type attempt struct {
	*Log
	seen  *looks
	hooks *httptrace.ClientTrace
	ctx   context.Context
}

func newAttempt(t *testing.T, target string, base http.RoundTripper, watch Watch) attempt {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	l, o := new(Gated).Init(), new(looks)
	l.Add(o, false, 3)
	l.HoldUp(t.Context(), ctx, cancel, base, req, watch)
	return attempt{l, o, l.Trace(), ctx}
}

// When net/http looks for a connection anew after headers went out, it is about to replay.
func TestReplayIsAskedFor(t *testing.T) {
	a := newAttempt(t, "http://api.example/", nil, nil)
	a.hooks.GetConn("api.example:80")
	a.hooks.GetConn("api.example:80") // nothing was sent yet: no replay
	a.hooks.WroteHeaders()
	a.hooks.GetConn("api.example:80")
	a.hooks.GetConn("api.example:80") // it has its place
	a.hooks.WroteHeaders()
	a.hooks.GetConn("login.example:443") // for a token
	a.hooks.GetConn("api.example:80")
	a.seen.want(t, "sent", "replay", "sent", "replay")
	if _, n := a.Read(); n != 2 || a.ctx.Err() != nil {
		t.Errorf("%d sendings, %v", n, a.ctx.Err())
	}
}

// A replay that is refused ends the attempt, asks for no more, and stops the connection that
// net/http takes for it all the same.
func TestRefusedReplay(t *testing.T) {
	for protocol, stops := range map[string]bool{"http/1.1": true, "": true, "h2": false} {
		a := newAttempt(t, "https://api.example/", nil, nil)
		a.seen.says = errNo
		a.hooks.GetConn("api.example:443")
		a.hooks.WroteHeaders()
		a.hooks.GetConn("api.example:443")
		a.hooks.GetConn("api.example:443")
		a.hooks.WroteHeaders() // net/http may send although the context has ended
		a.hooks.GetConn("api.example:443")
		a.seen.want(t, "sent", "replay", "sent")
		if cause := context.Cause(a.ctx); cause != errNo {
			t.Errorf("the attempt ends with %v", cause)
		}
		stopped := false
		if a.hooks.GotConn(got(secure{protocol: protocol, stopped: &stopped})); stopped != stops {
			t.Errorf("a connection of %q is stopped: %v", protocol, stopped)
		}
	}
}

// Only net/http's own goroutine may be held up: over HTTP/2, and where net/http's transport is the
// base and somebody else calls, nobody is asked.
func TestWhoMayNotBeHeldUp(t *testing.T) {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	for name, c := range map[string]struct {
		base http.RoundTripper
		conn net.Conn
	}{
		"HTTP/2": {nil, secure{protocol: "h2"}},
		"a connection that is not told of by net/http": {nil, &net.TCPConn{}},
		"net/http's, on another goroutine":             {&http.Transport{}, nil},
		"h2c":                                          {&http.Transport{Protocols: h2c}, nil},
	} {
		a := newAttempt(t, "https://api.example/", c.base, nil)
		a.hooks.GetConn("api.example:443")
		if c.conn != nil {
			a.hooks.GotConn(got(c.conn))
		}
		a.hooks.WroteHeaders()
		a.hooks.GetConn("api.example:443")
		if a.seen.want(t, "sent"); t.Failed() {
			t.Fatal(name)
		}
	}
}

// net/http's own transport, over a socket: a kept connection that dies is replayed after the
// observer has had its say, with the call's context, and not if it says no.
func TestReplayByNetHTTP(t *testing.T) {
	for _, refused := range []error{nil, errNo} {
		var requests atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests.Add(1) == 2 {
				panic(http.ErrAbortHandler)
			}
		}))
		defer server.Close()
		base := server.Client().Transport.(*http.Transport)
		req, err := http.NewRequest(http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := base.RoundTrip(req); err != nil {
			t.Fatal(err)
		} else {
			resp.Body.Close()
		}
		var gates []int
		type key struct{}
		watch := func(ctx context.Context, gate int) (context.Context, func()) {
			gates = append(gates, gate)
			return context.WithValue(ctx, key{}, true), func() { gates = append(gates, -gate) }
		}
		a := newAttempt(t, server.URL, base, watch)
		a.seen.says = refused
		_, err = base.RoundTrip(req.WithContext(httptrace.WithClientTrace(a.ctx, a.hooks)))
		if refused == nil {
			a.seen.want(t, "sent", "replay", "sent")
		} else {
			// net/http may take a connection at the same moment, and tells of fields that it can't
			// write: one place too many is charged then, and never one too few.
			a.seen.mu.Lock()
			if n := len(a.seen.told); n == 3 && a.seen.told[2] == "sent" {
				a.seen.told = a.seen.told[:2]
			}
			a.seen.mu.Unlock()
			a.seen.want(t, "sent", "replay")
			if n := requests.Load(); n != 2 {
				t.Errorf("%d requests, want 2: the replay was refused", n)
			}
		}
		if (err == nil) != (refused == nil) || !slices.Equal(gates, []int{3, -3}) {
			t.Errorf("%v; watched %v", err, gates)
		}
		if a.seen.context.Value(key{}) != true {
			t.Error("the observer is not asked with the context of the watch")
		}
		if err := a.seen.context.Err(); err != nil {
			t.Errorf("it is asked with the attempt's context: %v", err)
		}
	}
}

// The time that an attempt has does not run while its replay waits, and the replay has all of it,
// within the call's own. An attempt that has run out of it is not replayed.
func TestTimed(t *testing.T) {
	for name, c := range map[string]struct {
		waits, deadline, ends time.Duration // 0: no deadline, or the attempt is over before
	}{
		"a wait":          {waits: time.Hour, ends: 12*time.Second + time.Hour},
		"a near deadline": {time.Hour, time.Hour + 5*time.Second, time.Hour + 5*time.Second},
		"too late":        {deadline: 0, waits: -1, ends: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx := context.Context(t.Context())
				if c.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				attemptCtx, end := context.WithCancelCause(ctx)
				defer end(nil)
				var ended time.Duration
				timer := time.AfterFunc(10*time.Second, func() { ended = time.Since(began) })
				l, o := new(Gated).Init(), &looks{takes: c.waits}
				l.Add(o, false, 0)
				req, _ := http.NewRequest(http.MethodGet, "http://api.example/", nil)
				l.HoldUp(ctx, attemptCtx, end, nil, req, nil)
				// Of another's transport: it knows nothing of the call's context.
				l.resend.native, l.resend.ctx = new(http.Transport), ctx
				l.Timed(timer, 10*time.Second)
				time.Sleep(2 * time.Second)
				if c.waits < 0 {
					time.Sleep(time.Minute)
				}
				l.replay(l.resend)
				if c.waits < 0 {
					if o.want(t); context.Cause(attemptCtx) != context.DeadlineExceeded {
						t.Errorf("the attempt ends with %v", context.Cause(attemptCtx))
					}
				}
				time.Sleep(time.Minute)
				if synctest.Wait(); ended != c.ends {
					t.Errorf("the attempt's time ends after %v, want %v", ended, c.ends)
				}
			})
		})
	}
	(*Log)(nil).Timed(nil, 0)
	new(Log).Timed(nil, 0) // nobody observes
}

// What a base sends to others with the request's context, for a token, is no sending of the
// request; where only a proxy's address is ever asked for, the sendings are told once that is clear.
func TestWhoseConnection(t *testing.T) {
	a := newAttempt(t, "http://api.example/", nil, nil)
	a.hooks.GetConn("login.example:443")
	a.hooks.WroteHeaders()
	a.seen.want(t)
	a.hooks.GetConn("api.example:80") // no replay: nothing of the request was sent
	a.seen.want(t)
	a.hooks.GotConn(got(&net.TCPConn{}))
	if _, n := a.Read(); n != 1 {
		t.Errorf("%d sendings on a connection of its own", n)
	}
	a.hooks.WroteHeaders()
	if _, n := a.Read(); n != 1 {
		t.Errorf("%d sendings with a token's", n)
	}
	a.hooks.GetConn("login.example:443") // once the address of its own is known
	a.hooks.GotConn(got(&net.TCPConn{}))
	a.hooks.WroteHeaders()
	a.Answered(nil)
	if _, n := a.Read(); n != 1 {
		t.Errorf("%d sendings with another token's", n)
	}
	a.seen.want(t, "sent", "answered")

	a = newAttempt(t, "http://api.example/", nil, nil)
	a.hooks.GetConn("proxy.example:3128")
	a.hooks.GotConn(got(&net.TCPConn{}))
	a.hooks.WroteHeaders()
	a.seen.want(t)
	a.Answered(nil)
	if _, n := a.Read(); n != 1 {
		t.Errorf("%d sendings through a proxy", n)
	}
	a.seen.want(t, "sent", "answered")
}

// Proxied asks the transport's own Proxy.
func TestProxied(t *testing.T) {
	req := &http.Request{URL: &url.URL{Scheme: "http", Host: "api.example"}}
	proxy := &url.URL{Scheme: "http", Host: "proxy.example"}
	for name, c := range map[string]struct {
		proxy func(*http.Request) (*url.URL, error)
		want  bool
	}{
		"none":     {nil, false},
		"a proxy":  {http.ProxyURL(proxy), true},
		"not here": {func(*http.Request) (*url.URL, error) { return nil, nil }, false},
		"an error": {func(*http.Request) (*url.URL, error) { return proxy, errNo }, false},
	} {
		if got := Proxied(&http.Transport{Proxy: c.proxy}, req); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The address that net/http dials for a URL is known, in any spelling of it.
func TestDials(t *testing.T) {
	for _, c := range []struct {
		target, addr string
		want         bool
	}{
		{"http://api.example/", "api.example:80", true},
		{"https://api.example/", "api.example:443", true},
		{"HTTPS://API.example/", "api.EXAMPLE:443", true},
		{"http://api.example:8080/", "api.example:8080", true},
		{"http://[::1]/", "[::1]:80", true}, {"http://[::1]:8080/", "[::1]:8080", true},
		{"http://127.0.0.1/", "127.0.0.1:80", true}, {"http://api.example/", "api.example", true},
		{"http://api.example/", "", true},
		{"http://api.example/", "api.example:443", false},
		{"https://api.example/", "api.example:80", false},
		{"http://api.example/", "login.example:80", false},
		{"http://api.example:8080/", "api.example:80", false},
		{"http://api.example/", "example", false}, {"http://api.example/", "x.api.example:80", false},
	} {
		u, err := url.Parse(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := dials(u, c.addr); got != c.want {
			t.Errorf("%s, %s: %v", c.target, c.addr, got)
		}
	}
}

// FuzzDials: whatever net/http itself dials for a URL is known to be its own.
func FuzzDials(f *testing.F) {
	for _, host := range []string{
		"api.example", "API.example:8080", "[::1]", "[fe80::1%25en0]:80", "1.2.3.4:",
	} {
		f.Add(host, false)
		f.Add(host, true)
	}
	f.Fuzz(func(t *testing.T, host string, secure bool) {
		scheme := "http"
		if secure {
			scheme = "https"
		}
		u, err := url.Parse(scheme + "://" + host + "/")
		foreign := func(r rune) bool { return r > 127 }
		if err != nil || u.Host == "" || strings.ContainsFunc(u.Host, foreign) {
			return
		}
		if strings.Contains(u.Host, "]") && !strings.HasPrefix(u.Host, "[") {
			return // no host that could be dialled
		}
		base := &http.Transport{
			DialContext:    func(context.Context, string, string) (net.Conn, error) { return nil, errNo },
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, errNo },
		}
		getConn := func(addr string) {
			if !dials(u, addr) {
				t.Errorf("%s is dialled as %q", u, addr)
			}
		}
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: getConn})
		req := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}).WithContext(ctx)
		base.RoundTrip(req)
	})
}
