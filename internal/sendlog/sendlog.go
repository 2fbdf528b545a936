// Package sendlog notes when net/http sends a request, and holds its replays up.
package sendlog

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// Log notes when request headers really went out. The grant of a gate is not the send: Prepare
// may fetch a token in between, and net/http may send one request several times. Its hooks run on
// net/http's goroutines, also after RoundTrip has returned. It is also the only proof that a
// request never left, and so every attempt of a request that is not idempotent has one, whoever
// looks on.
type Log struct {
	Watched bool // somebody wants to know the time

	mu        sync.Mutex // guards what follows
	first     time.Time  // the first note of a sending
	notes     int        // of sendings
	asked     int        // times that net/http looked for a connection
	conns     int        // connections that it took for the request
	http1     bool       // the last of them is known to speak HTTP/1.1
	wrote     bool       // headers went out since it last looked for one
	sealed    bool       // it was said that nothing left: nothing may leave any more
	observers []observer
	resend    *resend               // nil where nobody observes
	room      *resend               // for it; nil: there is none
	hooks     httptrace.ClientTrace // here to be allocated along with the rest
}

// Observed says whether somebody is told of the attempt as it happens.
func (l *Log) Observed() bool { return l != nil && len(l.observers) > 0 }

// Observer is the Observer of package steadyhttp.
type Observer interface {
	Replay(ctx context.Context) error
	Sent(at time.Time)
	Answered(resp *http.Response)
}

// observer is an Observer, and whether the answer is for it to know.
type observer struct {
	Observer
	foreign bool
	gate    int // the index of the gate that it is of
}

// Gated is a Log with room for one observer, and for what holding replays up takes.
type Gated struct {
	Log
	resend resend
	one    [1]observer
}

// Init returns the Log, which notes times.
func (g *Gated) Init() *Log {
	g.Watched, g.observers, g.room = true, g.one[:0], &g.resend
	return &g.Log
}

// Add has o told of what comes, foreign: but for the answer. gate is the index of the gate that it
// belongs to.
func (l *Log) Add(o Observer, foreign bool, gate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observers = append(l.observers, observer{o, foreign, gate})
}

// Trace returns the hooks by which the Log learns what it notes.
func (l *Log) Trace() *httptrace.ClientTrace {
	l.hooks.GetConn, l.hooks.GotConn, l.hooks.WroteHeaders = l.getConn, l.gotConn, l.wroteHeaders
	return &l.hooks
}

func (l *Log) getConn(addr string) {
	l.mu.Lock()
	l.asked++
	r, again := l.resend, l.wrote
	if r == nil {
		l.mu.Unlock()
		return
	}
	own, unsure := r.isOwn(addr)
	r.other, r.unsure = !own && !unsure, unsure
	if own {
		l.wrote = false
		if !r.direct {
			r.direct = true
			l.disown()
			again = false
		}
	}
	again = again && own && !r.refused && r.mayBlock()
	l.mu.Unlock()
	if again {
		l.replay(r)
	}
}

// disown notes that nothing of what went out until now was the request. It requires l.mu.
func (l *Log) disown() {
	r := l.resend
	r.conns, r.notes, r.untold = l.conns, l.notes, nil
	l.first = time.Time{}
}

func (l *Log) gotConn(info httptrace.GotConnInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns++
	secure, ok := info.Conn.(interface{ ConnectionState() tls.ConnectionState })
	http2 := ok && secure.ConnectionState().NegotiatedProtocol == "h2"
	l.http1 = ok && !http2
	if l.sealed && !http2 {
		stop(info.Conn)
	}
	r := l.resend
	switch {
	case r == nil:
		return
	case r.other:
		r.conns++
		return
	}
	r.taken, r.tls, r.negotiated = info.Conn != nil, ok, http2
	if r.refused && !r.http2() {
		stop(info.Conn) // net/http may take one although the context has ended, and then sends
	}
}

// stop has a connection over HTTP/1.1 fail before anything is written to it. It is not closed: net/http
// hands one on before it has handed out the answer that came on it, which would be lost.
func stop(conn net.Conn) {
	if conn != nil && conn.SetWriteDeadline(time.Unix(1, 0)) != nil {
		conn.Close()
	}
}

func (l *Log) wroteHeaders() {
	var now time.Time
	if l.Watched {
		now = time.Now()
	}
	l.mu.Lock()
	l.notes++
	if r := l.resend; r != nil && r.other {
		r.notes++
		l.mu.Unlock()
		return
	} else if r != nil && r.unsure {
		r.untold = append(r.untold, now)
	}
	if l.first.IsZero() {
		l.first = now
	}
	l.wrote = true
	observers := l.observers // nobody joins once the attempt is being made
	if l.resend != nil && l.resend.unsure {
		observers = nil
	}
	l.mu.Unlock()
	for _, o := range observers {
		o.Sent(now)
	}
}

// tell has the observers know of the sendings that were somebody else's for all that was known: no
// connection to the request's own address was ever asked for, so that they went through a proxy.
func (l *Log) tell() {
	l.mu.Lock()
	var untold []time.Time
	if l.resend != nil {
		untold, l.resend.untold = l.resend.untold, nil
	}
	l.mu.Unlock()
	for _, at := range untold {
		for _, o := range l.observers {
			o.Sent(at)
		}
	}
}

func (l *Log) Answered(resp *http.Response) {
	l.tell()
	for _, o := range l.observers {
		if !o.foreign {
			o.Answered(resp)
		}
	}
}

// Connections returns how often net/http looked for a connection, and how often it took one. That
// it looked must be seen: a protocol that was registered with it (http.Transport.RegisterProtocol)
// sends without telling anybody.
func (l *Log) Connections() (asked, taken int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked, max(l.conns, l.notes)
}

// Seal returns what Connections does, and, where no connection was taken, sees to it that none is
// used any more: a base that gives up before net/http does, or that hedges, leaves a sending behind
// that would otherwise still come after it was said that there was none. Over HTTP/2, whose
// connections are others' too, it is the end of the attempt's context that stops it.
func (l *Log) Seal() (asked, taken int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken = max(l.conns, l.notes)
	l.sealed = taken == 0
	return l.asked, taken
}

// Wrote reports whether headers were noted as written, and whether the last connection is one that
// speaks HTTP/1.1 by what it says of itself. There net/http notes them before it hands them on, and
// waits for its writer before it returns an error.
func (l *Log) Wrote() (wrote, http1 bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.notes > 0, l.http1
}

// Read returns how often the request may have gone out. HTTP/2 notes a sending on a goroutine of
// its own, possibly after the answer, so that a connection counts as well: only where there was
// none is it certain that nothing left.
func (l *Log) Read() (first time.Time, sends int) {
	l.tell()
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.resend; r != nil {
		return l.first, max(l.notes-r.notes, l.conns-r.conns)
	}
	return l.first, max(l.notes, l.conns)
}
