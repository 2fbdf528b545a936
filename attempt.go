package steadyhttp

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Attempt is one try at a call: what was sent, what came back, and what was made of it. It is passed by value; later versions
// may add fields. Which of them are set depends on who is told, and when:
//
//	                        Gate.Enter,     Attempt-   Pass.Leave,   Done,
//	                        Trace.Waiting   Start      AttemptDone   AttemptOf
//	N                       yes             yes        yes           yes; 0: none was made
//	Request                 the caller's    its own    its own       its own
//	Response or Err                                    yes           yes; both: see Err
//	Body, Verdict                                      yes           yes
//	Ambiguous                                          yes           yes
//	Wait, ServerAsked                                  yes
//	Stop                                               yes           yes
//	Began                   watched         yes        watched       watched
//	Sent, Answered, Sends                              watched       watched
//
// "watched" stands for a call with a Trace, or through a Transport with Gates. Pass.Leave is told less of a redirect's hop to
// another origin: see Pass.
type Attempt struct {
	// N counts the call's attempts, 1 for the first.
	N int

	// Request is the request as sent. Before it is sent, in Gate.Enter and Trace.Waiting, it is the caller's own.
	Request *http.Request

	// Response is what the base transport returned. Its Body belongs to the caller of the Transport: hooks must not read it.
	Response *http.Response

	// Err is the base transport's error, or why a response could not be used. In Done and from AttemptOf it comes beside a
	// Response where that is the call's answer, and says why there was no retry, or what became of its body.
	Err error

	// Body is what was peeked of an error answer, at most 64 KiB.
	Body []byte

	// Verdict is what Classify made of the answer.
	Verdict Verdict

	// Began is when the call began; Sent and Answered are when this attempt's request headers went out and its
	// response headers came in. In a watched call a zero Sent says that provably nothing was sent. Elsewhere all three
	// are zero: reading the clock is most of what the happy path would cost.
	Began, Sent, Answered time.Time

	// Sends is how often the request's headers went out: net/http replays some requests on its own, when a kept-alive
	// connection turns out to be dead (Request.isReplayable). Filled where Sent is.
	Sends int

	// Wait is the back-off or pushback before the next attempt, 0 if there is none.
	Wait time.Duration

	// ServerAsked says that Wait is what the server asked for. false: it is the back-off, or there is none.
	ServerAsked bool

	// Ambiguous says that the request may have been carried out, by this attempt or one before it, and nobody knows:
	//
	//	safe methods (GET, HEAD, OPTIONS, TRACE, PROPFIND, REPORT, SEARCH, QUERY)   never
	//	not idempotent, answered 4xx         no: it is not retried after a doubt
	//	answered 5xx, or lost after sending  yes
	//	provably never sent                  as before this attempt
	//	idempotent (PUT, DELETE), 4xx        if an attempt before was lost: a DELETE's 404 may be its own doing
	//
	// Behind a wrapper that hides the call, Check takes an attempt before to have been lost.
	Ambiguous bool

	// Stop says why there is no next attempt; "" if there is one.
	Stop Stop

	log     *sendLog // nil where nobody looks
	watch   *watch   // of a wait at a gate; nil where nobody wants to know
	late    bool     // Stop was set after AttemptDone had been told of a retry, which then could not be made
	foreign bool     // of a redirect's hop to another origin: no gate may learn from its answer
	whole   *Attempt // of a foreign attempt on leaving a gate: all of it, for PerKey
}

// Stop is the reason why a call went no further, "" if it goes on. Its constants are also labels, of metrics and in logs.
type Stop string

const (
	StopDone              Stop = "done"                // it succeeded
	StopPermanent         Stop = "permanent"           // a retry could not help
	StopNotIdempotent     Stop = "not_idempotent"      // it may have been carried out, and doing it twice may do harm
	StopBodyNotReplayable Stop = "body_not_replayable" // its body is used up and has no GetBody: see Policy.MaxBuffer
	StopAttempts          Stop = "attempts"            // Policy.MaxAttempts, or the back-off ended
	StopElapsed           Stop = "elapsed"             // Policy.MaxElapsed
	StopWaitTooLong       Stop = "wait_too_long"       // the service asked for more than Policy.MaxWait
	StopDeadline          Stop = "deadline"            // the wait would have outlasted the context's deadline
	StopBudget            Stop = "budget"              // the Budget had nothing left for a retry
	StopRefused           Stop = "refused"             // a Gate said no
	StopPrepare           Stop = "prepare"             // Transport.Prepare failed
	StopCancelled         Stop = "cancelled"           // the caller's context or Request.Cancel ended
)

// AttemptOf returns the last attempt of the call that resp answers, if resp comes from a Transport. It is a best
// effort: a RoundTripper that wraps the body again hides it. It reports false for a call that succeeded at the first
// try, of which there is nothing to tell.
func AttemptOf(resp *http.Response) (Attempt, bool) {
	b := standInOf(resp)
	if b == nil || b.attempt.N == 0 {
		return Attempt{}, false
	}
	firstTry := b.attempt.N == 1 && b.attempt.Stop == StopDone
	return b.attempt, !firstTry
}

func standInOf(resp *http.Response) *responseBody {
	if resp == nil {
		return nil
	}
	if b, ok := resp.Body.(interface{ standsIn() *responseBody }); ok {
		return b.standsIn()
	}
	return nil
}

// masked is what the gates of a redirect's hop are told that led to another origin. That origin's answer says nothing of
// the service that the gates are for: a 429 from there must not hold everybody up here.
func (a Attempt) masked() Attempt {
	told := a
	told.Response, told.Err, told.Body, told.Verdict, told.whole = nil, nil, nil, Verdict{}, &a
	return told
}

// sendLog notes when request headers really went out. The grant of a gate is not the send: Prepare may fetch a token
// in between, and net/http may send one request several times. Its hooks run on net/http's goroutines, also after
// RoundTrip has returned. It is also the only proof that a request never left, and so every attempt of a request that is
// not idempotent has one, whoever looks on.
type sendLog struct {
	watched bool // somebody wants to know the time

	mu        sync.Mutex // guards what follows
	first     time.Time  // the first note of a sending
	notes     int        // of sendings
	asked     int        // times that net/http looked for a connection
	conns     int        // connections that it took for the request
	wrote     bool       // headers went out since it last looked for one
	observers []observer
	resend    *resend               // nil where nobody observes
	hooks     httptrace.ClientTrace // here to be allocated along with the rest
}

// resend is what is needed to hold up net/http's own replay of a request until the observers have
// a place for it. Over HTTP/1.1 it looks for a connection anew, on the goroutine of RoundTrip and
// with no lock held. HTTP/2's pool does so under its lock, so that who waits there holds up all
// hosts: its replays are told once they are under way.
type resend struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	req    *http.Request

	// net/http's own transport, which asks for a connection on RoundTrip's goroutine; nil: another's.
	native  *http.Transport
	timer   *time.Timer // of AttemptTimeout, which is no time for waits; nil: there is none
	timeout time.Duration

	// Guarded by sendLog.mu:
	conn    net.Conn    // the last that was taken
	direct  bool        // a connection to the request's own address has been asked for: there is no proxy
	other   bool        // the present connection is for a request of somebody else
	unsure  bool        // it may be
	conns   int         // that were somebody else's
	notes   int         // of sendings that were
	untold  []time.Time // sendings of which that is not known, and the observers have not been told
	refused bool        // nothing more may be sent
}

// observed says whether somebody is told of the attempt as it happens.
func (l *sendLog) observed() bool { return l != nil && len(l.observers) > 0 }

// holdUp has replays of an attempt wait for the observers. call is the context that gates get, and
// attempt that of the attempt, which cancel ends.
func (l *sendLog) holdUp(
	call, attempt context.Context, cancel context.CancelCauseFunc,
	base http.RoundTripper, req *http.Request,
) {
	r := &resend{ctx: attempt, cancel: cancel, req: req}
	if native, ok := base.(*http.Transport); ok {
		r.native, r.ctx = native, call
	}
	l.resend = r
}

// timed tells which timer ends the attempt after its timeout.
func (l *sendLog) timed(timer *time.Timer, timeout time.Duration) {
	if l != nil && l.resend != nil && l.resend.native != nil {
		l.resend.timer, l.resend.timeout = timer, timeout
	}
}

// dials says whether an address is what net/http gives to GetConn for a URL where there is no proxy.
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
		return r.proxied(), false
	}
}

func (r *resend) proxied() bool {
	if r.native.Proxy == nil {
		return false
	}
	proxy, err := r.native.Proxy(r.req)
	return err == nil && proxy != nil
}

func (r *resend) http2() bool {
	if c, ok := r.conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return c.ConnectionState().NegotiatedProtocol == "h2"
	}
	if r.native == nil || r.native.Protocols == nil {
		return false
	}
	return r.native.Protocols.UnencryptedHTTP2() && !r.native.Protocols.HTTP1()
}

// replay asks the observers for another sending, and ends the attempt if one says no.
func (l *sendLog) replay(r *resend) {
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
		if err := o.Replay(r.ctx); err != nil {
			return err
		}
	}
	return nil
}

// observer is an Observer, and whether the answer is for it to know.
type observer struct {
	Observer
	foreign bool
}

func (l *sendLog) trace() *httptrace.ClientTrace {
	l.hooks.GetConn, l.hooks.GotConn, l.hooks.WroteHeaders = l.getConn, l.gotConn, l.wroteHeaders
	return &l.hooks
}

func (l *sendLog) getConn(addr string) {
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
	again = again && own && !r.refused && !r.http2()
	l.mu.Unlock()
	if again {
		l.replay(r)
	}
}

// disown notes that nothing of what went out until now was the request. It requires l.mu.
func (l *sendLog) disown() {
	r := l.resend
	r.conns, r.notes, r.untold = l.conns, l.notes, nil
	l.first = time.Time{}
}

func (l *sendLog) gotConn(info httptrace.GotConnInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns++
	r := l.resend
	switch {
	case r == nil:
		return
	case r.other:
		r.conns++
		return
	}
	r.conn = info.Conn
	if r.refused && info.Conn != nil && !r.http2() {
		// net/http may take a connection although the context has ended, and then sends. It can't on
		// a closed one.
		info.Conn.Close()
	}
}

func (l *sendLog) wroteHeaders() {
	var now time.Time
	if l.watched {
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
func (l *sendLog) tell() {
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

func (l *sendLog) answered(resp *http.Response) {
	l.tell()
	for _, o := range l.observers {
		if !o.foreign {
			o.Answered(resp)
		}
	}
}

// connections returns how often net/http looked for a connection, and how often it took one. That it looked must be seen: a
// protocol that was registered with it (http.Transport.RegisterProtocol) sends without telling anybody.
func (l *sendLog) connections() (asked, taken int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked, max(l.conns, l.notes)
}

// read returns how often the request may have gone out. HTTP/2 notes a sending on a goroutine of its own, possibly after the
// answer, so that a connection counts as well: only where there was none is it certain that nothing left.
func (l *sendLog) read() (first time.Time, sends int) {
	l.tell()
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.resend; r != nil {
		return l.first, max(l.notes-r.notes, l.conns-r.conns)
	}
	return l.first, max(l.notes, l.conns)
}

// Observer is told of an attempt while it is under way. Its methods are called on net/http's goroutines, possibly after the
// attempt has ended, and must not block, but for Replay.
type Observer interface {
	// Replay is called before net/http sends the request again on its own, since the connection died
	// on which it was sent. It may block until that may be. An error ends the attempt with it; ctx
	// ends when the attempt must. Sent follows if it is sent. Over HTTP/2, and through a base that
	// does not call httptrace.ClientTrace's GetConn, Sent is all that tells of a replay.
	Replay(ctx context.Context) error

	Sent(at time.Time)            // the request's headers went out; again each time net/http replays it
	Answered(resp *http.Response) // the response's headers have come; its body must not be read
}

// Observe tells an observer what becomes of an attempt as it happens. A Gate calls it in Enter: what it is told on leaving
// is complete, but late. It reports false for an attempt that is not about to be made. Of a redirect's hop to another origin
// it is told the sending only (see Gate).
func (a Attempt) Observe(o Observer) bool {
	if a.log == nil {
		return false
	}
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	a.log.observers = append(a.log.observers, observer{o, a.foreign})
	return true
}
