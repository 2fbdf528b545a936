package sendlog

import (
	"context"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"
	"unicode"
)

// resend is what is needed to hold up net/http's own replay of a request until the observers have
// a place for it. Over HTTP/1.1 it looks for a connection anew, on the goroutine of RoundTrip and
// with no lock held. HTTP/2's pool does so under its lock, so that who waits there holds up all
// hosts: its replays are told once they are under way.
type resend struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	req    *http.Request
	watch  Watch // nil where nobody wants to know of waits

	// net/http's own transport, which asks for a connection on RoundTrip's goroutine; nil:
	// another's.
	native  *http.Transport
	timer   *time.Timer // of AttemptTimeout, which is no time for waits; nil: there is none
	timeout time.Duration

	// Guarded by Log.mu:
	taken      bool        // a connection was; what follows is of the last. Itself it is not kept: a wait may be long
	tls        bool        // it speaks TLS
	negotiated bool        // and, by what was agreed on there, HTTP/2
	direct     bool        // a connection to the request's own address has been asked for: there is no proxy
	other      bool        // the present connection is for a request of somebody else
	unsure     bool        // it may be
	conns      int         // that were somebody else's
	notes      int         // of sendings that were
	untold     []time.Time // sendings of which that is not known, and the observers have not been told
	refused    bool        // nothing more may be sent
}

// Watch is told that an observer of a gate is about to be asked for a replay. It returns the context
// to ask it with, and what is to be called when it has answered.
type Watch func(ctx context.Context, gate int) (context.Context, func())

// HoldUp has replays of an attempt wait for the observers. call is the context that gates get, and
// attempt that of the attempt, which cancel ends; watch may be nil.
func (l *Log) HoldUp(
	call, attempt context.Context, cancel context.CancelCauseFunc,
	base http.RoundTripper, req *http.Request, watch Watch,
) {
	r := l.room
	if r == nil {
		r = new(resend)
	}
	*r = resend{ctx: attempt, cancel: cancel, req: req, watch: watch}
	if native, ok := base.(*http.Transport); ok {
		r.native, r.ctx = native, call
	}
	l.resend = r
}

// Timed tells which timer ends the attempt after its timeout.
func (l *Log) Timed(timer *time.Timer, timeout time.Duration) {
	if l != nil && l.resend != nil && l.resend.native != nil {
		l.resend.timer, l.resend.timeout = timer, timeout
	}
}

// dials says whether an address is what net/http gives to GetConn for a URL where there is no
// proxy.
func dials(u *url.URL, addr string) bool {
	if addr == "" || addr == u.Host {
		return true
	}
	colon := strings.LastIndexByte(addr, ':')
	if colon < 0 {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "80"
		if strings.EqualFold(u.Scheme, "https") {
			port = "443"
		}
	}
	host := strings.TrimSuffix(strings.TrimPrefix(addr[:colon], "["), "]")
	return strings.EqualFold(host, u.Hostname()) && addr[colon+1:] == port
}

// isOwn says whether a connection is for the request itself: another base, or Prepare, may send
// requests of its own with the request's context, for a token. unsure: behind a base that is not
// net/http's own, it is another's or a proxy's.
func (r *resend) isOwn(addr string) (own, unsure bool) {
	switch u := r.req.URL; {
	case dials(u, addr):
		return true, false
	case r.native == nil:
		return false, !r.direct
	case strings.ContainsFunc(u.Hostname(), func(c rune) bool { return c > unicode.MaxASCII }):
		return true, false // its spelling in ASCII is net/http's secret
	default:
		return Proxied(r.native, r.req), false
	}
}

// Proxied reports whether net/http's transport sends a request through a proxy.
func Proxied(t *http.Transport, req *http.Request) bool {
	if t.Proxy == nil {
		return false
	}
	proxy, err := t.Proxy(req)
	return err == nil && proxy != nil
}

// Unproxied reports whether err is that of the transport's Proxy function, after which net/http
// sends nothing.
func Unproxied(t *http.Transport, req *http.Request, err error) bool {
	if t.Proxy == nil {
		return false
	}
	_, failed := t.Proxy(req)
	return failed != nil && failed.Error() == err.Error()
}

// mayBlock reports whether who looks for a connection may be held up: net/http's Transport itself, on
// the goroutine of RoundTrip. The pool of HTTP/2 can't, and what a connection without TLS speaks is
// not to be seen: x/net's http2.Transport may be the base, inside of it, or registered with net/http's.
// A base that tells of no connection at all is not one of those.
func (r *resend) mayBlock() bool {
	return !r.http2() && (r.native == nil && !r.taken || askedByTransport())
}

// askedByTransport looks at who calls the hook. Under another name, nobody would be held up.
func askedByTransport() bool {
	var callers [64]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if frame.Function == "net/http.(*Transport).getConn" {
			return true
		}
		if !more {
			return false
		}
	}
}

func (r *resend) http2() bool {
	if r.tls {
		return r.negotiated
	}
	if r.native == nil || r.native.Protocols == nil {
		return false
	}
	return r.native.Protocols.UnencryptedHTTP2() && !r.native.Protocols.HTTP1()
}

// replay asks the observers for another sending, and ends the attempt if one says no.
func (l *Log) replay(r *resend) {
	err := r.ask(l.observers)
	if err == nil {
		return
	}
	l.mu.Lock()
	r.refused = true
	l.mu.Unlock()
	r.cancel(err)
}

func (r *resend) ask(observers []observer) error {
	if r.timer != nil {
		if !r.timer.Stop() {
			return context.DeadlineExceeded // the attempt has ended with its own error
		}
		defer func() { // the replay has all of the time anew
			timeout := r.timeout
			if deadline, ok := r.ctx.Deadline(); ok {
				timeout = min(timeout, max(time.Until(deadline), 1))
			}
			r.timer.Reset(timeout)
		}()
	}
	for _, o := range observers {
		if err := r.askOne(o); err != nil {
			return err
		}
	}
	return nil
}

// askOne asks an observer, and tells Trace.Waiting if it waits.
func (r *resend) askOne(o observer) error {
	if r.watch == nil {
		return o.Replay(r.ctx)
	}
	ctx, end := r.watch(r.ctx, o.gate)
	defer end()
	return o.Replay(ctx)
}
