// Package defendertest is a simulated Microsoft Defender for Endpoint API, in
// the manner of net/http/httptest: a tenant with machines, alerts, indicators
// and machine actions behind the documented paths, codes, envelopes and quotas.
//
// Its purpose is proof. A [Server] keeps a ledger of every call that arrived
// and counts every change it carried out, so that a test can say of a client
// which retries through an outage that nothing was lost and nothing was done
// twice:
//
//	server := defendertest.NewServer(defendertest.Config{
//		Faults: defendertest.Faults{Error503: 0.1, ResetAfter: 0.1},
//	})
//	defer server.Close()
//	// … let the client isolate every machine at server.URL …
//	for _, id := range server.MachineIDs() {
//		if n := server.Effects()["isolate "+id]; n != 1 {
//			t.Errorf("%s was isolated %d times", id, n)
//		}
//	}
//
// # What is served
//
// Paths begin with /api or /api/v1.0, and their fixed segments are matched
// whatever their case. Every error answer has the documented envelope with a
// fresh target. A call passes, in this order: the token, the quota of its
// endpoint family (see [DefaultQuotas]), the faults, and then the tenant.
//
//	GET    machines                                    $top, $skip, $filter, paged
//	GET    machines/{id}
//	GET    machines/{id}/vulnerabilities               paged
//	POST   machines/{id}/tags                          Value, Action
//	POST   machines/AddOrRemoveTagForMultipleMachines  Value, Action, MachineIds
//	POST   machines/{id}/isolate                       Comment, IsolationType
//	POST   machines/{id}/unisolate                     Comment, as all actions
//	POST   machines/{id}/restrictCodeExecution         also unrestrictCodeExecution
//	POST   machines/{id}/runAntiVirusScan              ScanType
//	POST   machines/{id}/StopAndQuarantineFile         Sha1
//	POST   machines/{id}/offboard
//	POST   machines/{id}/collectInvestigationPackage
//	POST   machines/{id}/startInvestigation
//	POST   machines/{id}/runliveresponse               Commands
//	GET    machineactions                              $top, $skip, $filter, paged
//	GET    machineactions/{id}
//	POST   machineactions/{id}/cancel                  Comment
//	GET    alerts                                      $top, $skip, $filter, paged
//	GET    alerts/{id}
//	PATCH  alerts/{id}                                 status, comment and others
//	POST   alerts/batchUpdate                          alertIds, status, comment and others
//	GET    indicators                                  $top, $skip, $filter, paged
//	POST   indicators                                  indicatorValue, indicatorType, action and others
//	DELETE indicators/{id}
//	POST   indicators/import                           Indicators, at most 500
//	POST   indicators/BatchDelete                      IndicatorIds, at most 500
//	POST   advancedqueries/run                         Query
//
// The answers are simplified where a client can't tell: the query of an
// advanced hunting call isn't run, and a list's $filter knows comparisons
// joined by "and" only. A list's $top is the size of its pages, and the
// nextLink leads on from there.
//
// # What is a guess
//
// Neither the documentation nor a public log tells everything. Here quotas are
// exact rolling windows, a refused call isn't counted, a family is a row of the
// documented table, a batch with an unknown id is 404 and changes nothing, a
// final action can't be cancelled (400), a wrong method is a 405 with the code
// BadRequest, and a 503 has the code ServiceUnavailable.
//
// # Time
//
// The package asks [time.Now] alone for the time. In a testing/synctest bubble
// create the server with [NewUnstartedServer] and call ServeHTTP directly, with
// a httptest.ResponseRecorder: an hour's quota then takes no time at all.
//
// # Resets
//
// When a kept-alive connection is reset, net/http repeats by itself what is
// idempotent by method. The ledger then has calls that the client under test
// never made. Set DisableKeepAlives on its http.Transport where that matters.
//
// # Growth
//
// The ledger, the counts of the changes, the machine actions, the comments of
// alerts and the tags of machines grow with the calls, for as long as the server
// lives. A long run needs the memory for it. All else is bounded.
package defendertest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// maxBody bounds what is read of a request's body, in bytes. The largest
// documented call, an import of 500 indicators, stays far below.
const maxBody = 8 << 20

// Config describes the simulated tenant. Its zero value is a tenant of 50
// machines with the documented quotas and no faults.
type Config struct {
	// Machines is how many machines the tenant has, with one alert each.
	// 0: 50. Negative: none, and the list of machines is then answered 404,
	// as documented.
	Machines int

	// PageSize is how many items a page of a list without $top has. The real
	// pages hold 10,000, which few tests could afford. 0: 100.
	PageSize int

	// Minute and Hour are how long the quotas' minute and hour last, so that
	// "an hour" can be 10 seconds. 0: 60 s and 3600 s. The text of a 429 names
	// the documented windows all the same.
	Minute, Hour time.Duration

	// Quotas replaces single rows of DefaultQuotas, by endpoint family.
	// Nil: none. A zero Quota lifts the family's limits.
	Quotas map[string]Quota

	// NoQuotas lifts all limits. False: they hold.
	NoQuotas bool

	// Wait is how a 429 tells when to come back. 0: WaitHeader|WaitSentence.
	Wait WaitForm

	// ActionTime is how long a machine action takes to succeed: it is Pending
	// for the first half and InProgress for the second. 0: 300 ms.
	ActionTime time.Duration

	// Faults are what goes wrong from the start. Zero: nothing.
	Faults Faults

	// Seed is that of the fault dice. 0: 1. The same seed and the same order
	// of arrival give the same faults.
	Seed uint64

	// Token, if set, must come with every call as "Authorization: Bearer
	// <Token>"; a call without it is answered 401. "": every call is let in.
	Token string
}

// check panics on a value that can't be meant.
func (c *Config) check() {
	for name, d := range map[string]time.Duration{"Minute": c.Minute, "Hour": c.Hour, "ActionTime": c.ActionTime} {
		if d < 0 {
			panic(fmt.Sprintf("defendertest: Config.%s is %v: use a positive duration, or 0 for the default", name, d))
		}
	}
	if c.PageSize < 0 {
		panic(fmt.Sprintf("defendertest: Config.PageSize is %d: use a positive number, or 0 for 100", c.PageSize))
	}
	// A misspelt family would silently leave the documented limit in force.
	known := DefaultQuotas()
	for family, quota := range c.Quotas {
		if _, ok := known[family]; !ok {
			panic(fmt.Sprintf("defendertest: Config.Quotas has no family %q: use a key of DefaultQuotas", family))
		}
		if quota.PerMinute < 0 || quota.PerHour < 0 {
			panic(fmt.Sprintf("defendertest: Config.Quotas[%q] is negative: use 0 for no limit", family))
		}
	}
	c.Faults.check("Config.Faults")
}

// A Server is a simulated Defender API. It isn't built on httptest.Server, whose
// Close waits for the answers in flight, slow ones too. Make one with NewServer or
// NewUnstartedServer. Its methods are safe for concurrent use, but for Start,
// which must come before the others can see the URL.
type Server struct {
	// URL is the base of the API without a trailing slash, as in
	// "http://127.0.0.1:41234". "" until the server is started.
	URL string

	config Config
	routes []route
	tenant *tenant

	// mu guards ledger, quotas and faults: one lock, so that the order of
	// arrival is the same for all three.
	mu     sync.Mutex
	ledger ledger
	quotas *quotas
	faults *dice

	closing     sync.Once
	closed      chan struct{} // ends slow answers
	http        *http.Server  // nil until started
	served      chan struct{} // closed when http no longer accepts
	connections sync.WaitGroup
}

// NewServer returns a server that listens on a port of the loopback interface.
// Call Close when done. NewServer panics on a Config that can't be meant, such
// as Faults whose shares exceed 1 in sum, since that is an error of the program.
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
	return &Server{
		config: c,
		routes: routes(),
		tenant: newTenant(c),
		quotas: newQuotas(c),
		faults: newDice(c),
		closed: make(chan struct{}),
	}
}

// Start listens and sets URL. It panics if the server is already started or
// closed, or if there is no free port.
func (s *Server) Start() {
	if s.http != nil {
		panic("defendertest: Server is already started")
	}
	select {
	case <-s.closed:
		panic("defendertest: Server is closed: make a new one")
	default:
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(fmt.Sprintf("defendertest: no port to listen on: %v", err))
	}
	s.URL = "http://" + listener.Addr().String()
	// Without timeouts: how slow a client or an answer may be is up to the test.
	s.http = &http.Server{Handler: s, ConnState: s.track}
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		s.http.Serve(listener) // always ends with the error of a closed server
	}()
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

// Close closes the listener and all connections, those of slow answers included,
// and returns when nothing runs any more. Further calls do nothing. The ledger can
// still be read.
func (s *Server) Close() {
	s.closing.Do(func() {
		close(s.closed)
		if s.http == nil {
			return
		}
		s.http.Close()
		// Only now can no connection be added while they are waited for.
		<-s.served
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

// MachineIDs returns the ids of all machines, in the order of the list:
// "m0001", "m0002" and so on.
func (s *Server) MachineIDs() []string {
	ids := make([]string, len(s.tenant.machines))
	for i, m := range s.tenant.machines {
		ids[i] = m.ID // never changes, so no lock is needed
	}
	return ids
}

// ServeHTTP answers one call, also before Start and after Close. Where a fault
// asks for a reset and the connection can't be hijacked, as with a
// httptest.ResponseRecorder or HTTP/2, it panics with [http.ErrAbortHandler]; so
// does a slow answer whose caller has gone.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found := find(s.routes, r.Method, r.URL.EscapedPath())
	at := s.arrive(r, found.family)
	if at.refused != nil {
		s.reply(w, at.seq, *at.refused)
		return
	}
	if s.failBefore(w, at) {
		return
	}
	result := s.carryOut(w, r, found)
	// Entered before the answer goes out, or is lost: who has heard of a change
	// must find it in Effects.
	s.mu.Lock()
	s.ledger.carriedOut(at.seq, result)
	s.mu.Unlock()
	s.failAfter(w, r, at, result)
}

// An arrival is what is decided about a call when it comes in.
type arrival struct {
	seq     int
	refused *answer       // by token or quota; nil: the call may pass
	fault   string        // the name of the Faults field to strike, or ""
	slowFor time.Duration // of the same Faults, which may be replaced meanwhile
}

// arrive enters the call in the ledger, and decides under one lock what the order
// of arrival decides: the quota and the fault.
func (s *Server) arrive(r *http.Request, family string) arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	// The dice are rolled for refused calls too: which fault a call meets then
	// depends on its number alone, and not on how fast the others came.
	at := arrival{fault: s.faults.roll(), slowFor: s.faults.faults.slowFor()}
	if s.config.Token != "" && r.Header.Get("Authorization") != "Bearer "+s.config.Token {
		// Counted nowhere: the quota's key is the application, which an
		// unknown token doesn't tell.
		at.refused = errUnauthorized().answer()
	} else if full := s.quotas.take(family, now); full != nil {
		at.refused = full.answer(now, s.config.Wait)
	}
	if at.refused != nil {
		at.fault = ""
	}
	at.seq = s.ledger.arrived(Call{
		At: now, Method: r.Method, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Family: family,
		CallID: r.Header.Get("x-ms-client-request-id"), Fault: at.fault,
	})
	return at
}

// carryOut reads the request's body and lets the tenant answer. The body is read
// before the tenant is locked, so that a slow sender holds nobody up.
func (s *Server) carryOut(w http.ResponseWriter, r *http.Request, found match) answer {
	// Found out only now, so that faults strike unknown paths too.
	if found.problem != nil {
		return *found.problem
	}
	var body []byte
	if r.Body != nil { // as of a request that was made for a client
		var err error
		if body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
			return *errIncorrectBody().answer()
		}
	}
	result, err := s.tenant.serve(found.route.handle, request{
		origin: origin(r),
		path:   r.URL.EscapedPath(),
		query:  r.URL.Query(),
		id:     found.id,
		body:   body,
	})
	if err != nil {
		return *answerOf(err)
	}
	return result
}

// origin is what the client's own URLs begin with, since a nextLink must lead
// back to the host that the client chose.
func origin(r *http.Request) string {
	from := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		from.Scheme = "https"
	}
	return from.String()
}

// reply sends an answer. The ledger knows of it first, so that who has read
// the answer finds it there.
func (s *Server) reply(w http.ResponseWriter, seq int, a answer) {
	s.mu.Lock()
	s.ledger.answered(seq, a)
	s.mu.Unlock()
	a.write(w, len(a.body))
}
