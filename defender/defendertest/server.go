package defendertest

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// maxBody bounds what is read of a request's body, in bytes. The largest call, an
// import of 500 indicators, stays far below.
const maxBody = 8 << 20

// A Server is a simulated Defender API. It isn't built on httptest.Server, whose
// Close waits for the answers in flight, slow ones too. Make one with NewServer or
// NewUnstartedServer. Its methods are safe for concurrent use, but for Start and
// Listen, which must come before the others can see the URLs.
type Server struct {
	// URL is the base of the API without a trailing slash, as in
	// "http://127.0.0.1:41234". "" until the server is started.
	URL string

	// StorageURL is the base of the downloads, on a port of their own: to a
	// client they are another host, which must not see its token. Until the
	// server is started it is "http://storage.invalid", which ServeHTTP knows
	// by the Host of a request. Who serves it by other means may set it before
	// the first call.
	StorageURL string

	// ControlURL is the base of the control API, without a trailing slash. "" until the server is
	// started, and without Config.ControlAddr.
	ControlURL string

	config Config
	routes []route
	graph  []route
	tokens seal

	// mu guards ledger, quotas, faults and issued: one lock, so that the order
	// of arrival is the same for all.
	mu     sync.Mutex
	ledger *ledger
	tenant *tenant // replaced by Reset
	quotas *quotas
	faults *dice
	issued int // tokens

	closing     sync.Once
	closed      chan struct{}  // ends slow answers
	http        []*http.Server // nil until started
	served      sync.WaitGroup // of those that accept
	connections sync.WaitGroup
	everywhere  bool // the server listens on all addresses of the host
	certificate []byte
}

// NewServer returns a server that listens on Config.Addr. Call Close when done.
// NewServer panics on a Config that makes no sense, such as Faults whose shares
// exceed 1 in sum, since that is an error of the program.
func NewServer(c Config) *Server {
	s := NewUnstartedServer(c)
	s.Start()
	return s
}

// NewUnstartedServer returns a server that doesn't listen yet. It can be used as
// an [http.Handler] without any socket; Start opens one. It panics as NewServer
// does.
func NewUnstartedServer(c Config) *Server {
	c.check()
	c.Clients = maps.Clone(c.Clients)
	return &Server{
		StorageURL: "http://storage.invalid",

		config: c,
		routes: routes(),
		graph:  graphRoutes(),
		tenant: newTenant(c),
		tokens: newSeal(),
		quotas: newQuotas(c, time.Now()),
		faults: newDice(c),
		ledger: newLedger(c),
		closed: make(chan struct{}),
	}
}

// Start listens and sets URL and StorageURL. It panics if the server is already
// started or closed, or if it can't listen.
func (s *Server) Start() {
	if err := s.Listen(); err != nil {
		panic(fmt.Sprintf("defendertest: no port to listen on: %v", err))
	}
}

// Listen does what Start does, but returns an error where it can't listen, as on
// a port that another program has.
func (s *Server) Listen() error {
	if s.http != nil {
		panic("defendertest: Server is already started")
	}
	select {
	case <-s.closed:
		panic("defendertest: Server is closed: make a new one")
	default:
	}
	var open []net.Listener
	listening := func(field, address string) (net.Listener, error) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("defendertest: Config.%s is %q: %w", field, address, err)
		}
		open = append(open, l)
		return l, nil
	}
	err := s.listenAll(listening)
	if err != nil {
		for _, l := range open {
			l.Close()
		}
		s.URL, s.ControlURL = "", ""
	}
	return err
}

// listenAll opens the listeners, and accepts only when all are open.
func (s *Server) listenAll(listening func(field, address string) (net.Listener, error)) error {
	api, err := listening("Addr", cmp.Or(s.config.Addr, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	address := api.Addr().(*net.TCPAddr)
	storage, err := listening("StorageAddr",
		cmp.Or(s.config.StorageAddr, net.JoinHostPort(address.IP.String(), "0")))
	if err != nil {
		return err
	}
	var control net.Listener
	if s.config.ControlAddr != "" {
		if control, err = listening("ControlAddr", s.config.ControlAddr); err != nil {
			return err
		}
		if !control.Addr().(*net.TCPAddr).IP.IsLoopback() {
			return fmt.Errorf("defendertest: Config.ControlAddr is %q: use an address of the loopback interface, such as 127.0.0.1:0", s.config.ControlAddr)
		}
	}
	scheme, secured := "http", func(l net.Listener) net.Listener { return l }
	if s.config.TLS {
		named, _, _ := net.SplitHostPort(s.config.Addr)
		certificate, authority, err := newCertificate(named, address.IP.String())
		if err != nil {
			return err
		}
		s.certificate = authority
		scheme, secured = "https", func(l net.Listener) net.Listener {
			return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate},
				NextProtos: []string{"h2", "http/1.1"}})
		}
	}
	s.everywhere = address.IP.IsUnspecified()
	s.URL, s.StorageURL = base(scheme, api), base(scheme, storage)
	s.accept(secured(api), s)
	s.accept(secured(storage), http.HandlerFunc(s.serveStorage))
	if control != nil {
		s.ControlURL = base("http", control)
		s.accept(control, http.HandlerFunc(s.serveControl))
	}
	return nil
}

// Certificate returns the authority that signed the server's certificate, in PEM, for a client to
// trust. It is nil until the server is started, and without Config.TLS.
func (s *Server) Certificate() []byte { return bytes.Clone(s.certificate) }

// base returns where a listener can be reached from this host.
func base(scheme string, listener net.Listener) string {
	address := *listener.Addr().(*net.TCPAddr)
	if address.IP.IsUnspecified() {
		address.IP = net.IPv4(127, 0, 0, 1)
	}
	return scheme + "://" + address.String()
}

// accept serves one of the listeners.
func (s *Server) accept(listener net.Listener, handler http.Handler) {
	// Without timeouts: how slow a client or an answer may be is up to the test.
	server := &http.Server{Handler: handler, ConnState: s.track}
	s.http = append(s.http, server)
	s.served.Go(func() {
		server.Serve(listener) // always ends with the error of a closed server
	})
}

// track counts the connections, so that Close can wait for their goroutines. A
// hijacked one is closed by its handler at once, and never comes back here.
func (s *Server) track(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.connections.Done()
	}
}

// Close closes the listeners and all connections, those of slow answers included,
// and returns when nothing runs any more. Further calls do nothing. The ledger can
// still be read.
func (s *Server) Close() {
	s.closing.Do(func() {
		close(s.closed)
		for _, server := range s.http {
			server.Close()
		}
		// Only then can no connection be added while they are waited for.
		s.served.Wait()
		s.connections.Wait()
	})
}

// SetFaults replaces the faults from the next arrival on. The dice roll on:
// they aren't set back to the seed. SetFaults panics on shares that can't be
// meant, as NewServer does.
func (s *Server) SetFaults(f Faults) {
	f.check("Faults")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.faults = f
}

// SetQuotas replaces the windows of single families from the next arrival on, as Config.Quotas
// does; the counting of those begins anew. It panics on what can't be meant, as NewServer does.
func (s *Server) SetQuotas(quotas map[string][]quota.Window) {
	if err := checkQuotas("Quotas", quotas); err != nil {
		panic("defendertest: " + err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quotas.replace(quotas)
}

// Reset forgets all calls and changes: the ledger is empty, the tenant as it was at the start, its
// quotas unused, and the dice are set back to the seed. Faults and quotas stay as they were set
// last, and tokens are good for as long as they were. A call that is being served ends in the old
// ledger.
func (s *Server) Reset() {
	fresh := newTenant(s.config)
	s.mu.Lock()
	defer s.mu.Unlock()
	dice, families := newDice(s.config), s.quotas.families
	dice.faults = s.faults.faults
	s.tenant, s.faults, s.ledger, s.issued = fresh, dice, newLedger(s.config), 0
	s.quotas = newQuotas(s.config, time.Now())
	s.quotas.families = families
}

// MachineIDs returns the ids of all machines, in the order of the list:
// "m0001", "m0002" and so on.
func (s *Server) MachineIDs() []string {
	s.mu.Lock()
	machines := s.tenant.machines
	s.mu.Unlock()
	ids := make([]string, len(machines))
	for i, m := range machines {
		ids[i] = m.ID // never changes, so the tenant's lock isn't needed
	}
	return ids
}

// ServeHTTP answers one call, also before Start and after Close. Where a fault
// asks for a reset and the connection can't be hijacked, as with a
// httptest.ResponseRecorder or HTTP/2, it panics with [http.ErrAbortHandler]; so
// does a slow answer whose caller has gone.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.isStorage(r):
		s.serve(w, r, s.storageErrand(r))
	case isTokenPath(r.URL.Path):
		s.serve(w, r, s.tokenErrand(r))
	case isGraphPath(r.URL.Path):
		s.serve(w, r, s.graphErrand(r))
	default:
		s.serve(w, r, s.apiErrand(r))
	}
}

// An errand is a call as the service sees it that it is for: an API, the token endpoint or the
// storage.
type errand struct {
	family   string // for the ledger
	admit    func(now time.Time) *answer
	carryOut func(w http.ResponseWriter, at arrival) answer
	failure  func(status int) answer  // a fault's 500, 503 or 504 in the service's own form
	problem  func(p problem) answer   // likewise, and nil where no fault needs it
	finish   func(header http.Header) // adds what every answer has; nil: nothing
}

// serve takes a call through what all services have in common: the ledger and the
// faults.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, e errand) {
	if e.finish != nil {
		e.finish(w.Header())
	}
	at := s.arrive(r, e)
	if at.refused != nil {
		s.reply(w, at, *at.refused)
		return
	}
	if s.failBefore(w, at, e) {
		return
	}
	result := e.carryOut(w, at)
	// Entered before the answer goes out, or is lost: who has heard of a change
	// must find it in Effects.
	s.mu.Lock()
	at.ledger.carriedOut(at.seq, result)
	s.mu.Unlock()
	s.failAfter(w, r, at, e, result)
}

// An arrival is what is decided about a call when it comes in. Its ledger and its tenant are those
// of that moment: a Reset meanwhile gives the server others.
type arrival struct {
	seq     int
	family  string
	now     time.Time
	ledger  *ledger
	tenant  *tenant
	refused *answer       // by token or quota; nil: the call may pass
	fault   string        // the name of the Faults field to strike, or ""
	slowFor time.Duration // of the same Faults, which may be replaced meanwhile
}

// arrive enters the call in the ledger, and decides under one lock what the order
// of arrival decides: the quota and the fault.
func (s *Server) arrive(r *http.Request, e errand) arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	// The dice are rolled for refused calls too: which fault a call meets then
	// depends on its number alone, and not on how fast the others came.
	at := arrival{
		family: e.family, now: now, ledger: s.ledger, tenant: s.tenant,
		fault: s.faults.roll(e.family), slowFor: s.faults.faults.slowFor(),
	}
	if at.refused = e.admit(now); at.refused != nil {
		at.fault = ""
	}
	at.seq = s.ledger.arrived(Call{
		At: now, Method: r.Method, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Family: e.family,
		CallID: callID(r.Header), Fault: at.fault,
	})
	return at
}

// callID is what a client may send to find its call again: Graph has a name of its own for it.
func callID(header http.Header) string {
	return cmp.Or(header.Get("x-ms-client-request-id"), header.Get("client-request-id"))
}

// admitAll is for what neither needs a token nor counts.
func admitAll(time.Time) *answer { return nil }

// apiErrand is a call of Defender for Endpoint or Defender XDR.
func (s *Server) apiErrand(r *http.Request) errand {
	found := find(s.routes, r.Method, mdeSegments(r.URL.EscapedPath()))
	dress := func(p problem) answer { return *p.answer() }
	return errand{
		family: found.family,
		admit: func(now time.Time) *answer {
			return s.admit(r, forMDE(found.family), found.family, now, dress,
				func(full *refusal) *answer { return full.answer(now, s.config.Wait) })
		},
		carryOut: func(w http.ResponseWriter,
			at arrival) answer {
			return s.carryOut(w, r, at, found, "/api", dress)
		},
		failure: apiFailure,
		problem: dress,
	}
}

// admit lets a call in that has a token, a licence and a place in the quota. The API's own words
// are made by dress, and those of a full quota by throttle.
func (s *Server) admit(
	r *http.Request, to audience, family string, now time.Time,
	dress func(problem) answer, throttle func(*refusal) *answer,
) *answer {
	refuse := func(p problem) *answer { a := dress(p); return &a }
	application, holds, ok := s.authorize(r.Header.Get("Authorization"), now)
	switch {
	case !ok:
		// Counted nowhere: the quota's key is the application, which an
		// unknown token doesn't tell.
		return refuse(errUnauthorized())
	case !to.takes(holds):
		return refuse(errAudience(to))
	case s.config.NoLicence:
		return refuse(errNoLicence())
	}
	if full := s.quotas.take(application, family, now); full != nil {
		return throttle(full)
	}
	return nil
}

// carryOut reads the request's body and lets the tenant answer. The body is read
// before the tenant is locked, so that a slow sender holds nobody up.
func (s *Server) carryOut(
	w http.ResponseWriter, r *http.Request, at arrival, found match, root string,
	dress func(problem) answer,
) answer {
	// Found out only now, so that faults strike unknown paths too.
	if found.problem != nil {
		a := dress(*found.problem)
		if found.allowed != nil {
			a.header.Set("Allow", strings.Join(found.allowed, ", "))
		}
		return a
	}
	from, err := origin(r)
	if err != nil {
		return dress(problemOf(err))
	}
	body, err := readBody(w, r, maxBody)
	if err != nil {
		return dress(problemOf(err))
	}
	result, err := at.tenant.serve(found.route.handle, request{
		origin:    from,
		root:      root,
		storage:   s.storageOrigin(r),
		path:      r.URL.EscapedPath(),
		query:     r.URL.Query(),
		id:        found.id,
		arguments: found.arguments,
		body:      body,
	})
	if err != nil {
		return dress(problemOf(err))
	}
	return result
}

// readBody reads up to so many bytes. What is too long is answered as what is
// broken.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil { // as of a request that was made for a client
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, errIncorrectBody()
	}
	return body, nil
}

// origin is what the client's own URLs begin with, since a nextLink must lead
// back to the host that the client chose. net/http lets a Host pass that no URL can
// have, such as one with a single bracket; a server must refuse it (RFC 9112 section
// 3.2).
func origin(r *http.Request) (string, error) {
	from := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		from.Scheme = "https"
	}
	if again, err := url.Parse(from.String()); err != nil || again.Host != r.Host {
		return "", problem{http.StatusBadRequest, "BadRequest", "The Host is not valid"}
	}
	return from.String(), nil
}

// reply sends an answer. The ledger knows of it first, so that who has read
// the answer finds it there.
func (s *Server) reply(w http.ResponseWriter, at arrival, a answer) {
	s.mu.Lock()
	at.ledger.answered(at.seq, at.family, a)
	s.mu.Unlock()
	a.write(w, len(a.body))
}
