package defendertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// Faults are what goes wrong, each a share from 0 to 1 of the calls that pass
// token and quota, and of the downloads. A call is rolled for once, so it meets at
// most one of them, and all shares together must not exceed 1. The zero value is
// no fault at all. A faulted call counts toward the quota as any other.
//
// A processed call isn't always a success: what the tenant refuses, as with a
// 404, is refused with or without a fault, and the ledger says so.
type Faults struct {
	Error500    float64 // InternalServerError with an envelope; its message is empty, as documented; not processed
	Bare500     float64 // 500 with an empty body; not processed
	After500    float64 // processed, then answered as Error500: the ambiguous case
	Error503    float64 // ServiceUnavailable with an envelope; not processed
	ResetBefore float64 // connection reset; not processed
	ResetAfter  float64 // processed, then reset without an answer

	// BreakBody is processed, and the body of the answer breaks off half way.
	// An answer without a body, such as a 204, becomes a 200 with a broken "{}".
	BreakBody float64

	Slow    float64       // processed at once; answered after SlowFor
	SlowFor time.Duration // 0: 1 s

	HTML502  float64 // a front door's page with the status 502; not processed
	HTML503  float64 // likewise with 503
	After504 float64 // processed, then answered 504: by Graph as UnknownError, by the others without a body
	Empty200 float64 // processed, then answered 200 without a body

	// CPU429 is for queries of the hunting APIs: the tenant has used up its processor time. Such a
	// 429 names no time. Not processed.
	CPU429 float64

	// Partial206 is for Graph's lists, which say with a 206 and a Warning that a provider failed.
	Partial206 float64

	// WrongAudience is a token that is another API's: 403 by Defender for Endpoint, 401 by Defender
	// XDR and Graph. Not processed. A token that the server has issued for another API is answered
	// so without any fault.
	WrongAudience float64

	// Token429 is a share of the fetches of a token, which meet no other fault:
	// 429 with a plain text and "Retry-After: 60", a minute as Config.Minute
	// scales it. No token is issued.
	Token429 float64
}

// A share is one field of Faults.
type share struct {
	name string
	of   float64
}

// shares lists the fields in the order in which they divide the dice's range.
func (f Faults) shares() []share {
	return []share{
		{"Error500", f.Error500},
		{"Bare500", f.Bare500},
		{"After500", f.After500},
		{"Error503", f.Error503},
		{"ResetBefore", f.ResetBefore},
		{"ResetAfter", f.ResetAfter},
		{"BreakBody", f.BreakBody},
		{"Slow", f.Slow},
		{"HTML502", f.HTML502},
		{"HTML503", f.HTML503},
		{"After504", f.After504},
		{"Empty200", f.Empty200},
		{"CPU429", f.CPU429},
		{"Partial206", f.Partial206},
		{"WrongAudience", f.WrongAudience},
	}
}

// check panics on shares that make no sense; prefix says where they come from.
func (f Faults) check(prefix string) {
	if err := f.problem(prefix); err != nil {
		panic("defendertest: " + err.Error())
	}
}

// Check says which shares make no sense, as NewServer panics on them.
func (f Faults) Check() error { return f.problem("Faults") }

// problem says which shares make no sense.
func (f Faults) problem(prefix string) error {
	sum := 0.0
	for _, s := range f.shares() {
		if !(s.of >= 0 && s.of <= 1) { // false for NaN too
			return fmt.Errorf("%s.%s is %v: use a share from 0 to 1", prefix, s.name, s.of)
		}
		sum += s.of
	}
	if !(f.Token429 >= 0 && f.Token429 <= 1) {
		return fmt.Errorf("%s.Token429 is %v: use a share from 0 to 1", prefix, f.Token429)
	}
	// Ten shares of 0.1 add up to a little more or less than 1.
	if sum > 1+1e-9 {
		return fmt.Errorf("%s has shares of %.6g in sum: use at most 1", prefix, sum)
	}
	if f.SlowFor < 0 {
		return fmt.Errorf("%s.SlowFor is %v: use a positive duration, or 0 for 1 s", prefix, f.SlowFor)
	}
	return nil
}

// Set sets the share of the fault that is named as its field, for what reads names from a command
// line or a file. The error is for a name that no share has.
func (f *Faults) Set(name string, share float64) error {
	field := map[string]*float64{
		"Error500": &f.Error500, "Bare500": &f.Bare500, "After500": &f.After500, "Error503": &f.Error503,
		"ResetBefore": &f.ResetBefore, "ResetAfter": &f.ResetAfter, "BreakBody": &f.BreakBody,
		"Slow":    &f.Slow,
		"HTML502": &f.HTML502, "HTML503": &f.HTML503, "After504": &f.After504, "Empty200": &f.Empty200,
		"CPU429": &f.CPU429, "Partial206": &f.Partial206, "WrongAudience": &f.WrongAudience,
		"Token429": &f.Token429,
	}[name]
	if field == nil {
		return fmt.Errorf("there is no fault %q: use a field of defendertest.Faults, such as After500",
			shown(name))
	}
	*field = share
	return nil
}

// pick returns the name of the fault that a family's call meets at a point from 0
// to 1, or "".
func (f Faults) pick(family string, point float64) string {
	if family == tokenFamily {
		if point < f.Token429 {
			return "Token429"
		}
		return ""
	}
	// What lies beyond all shares is the lucky rest.
	for _, s := range f.shares() {
		if point < s.of {
			if !strikes(s.name, family) {
				return ""
			}
			return s.name
		}
		point -= s.of
	}
	return ""
}

// strikes reports whether a fault is one that a family's calls can meet. Another call that the
// dice choose for it has been lucky.
func strikes(fault, family string) bool {
	switch fault {
	case "CPU429":
		return hunts(family)
	case "Partial206":
		return family == graphIncidents || family == graphAlerts
	case "WrongAudience":
		return family != storageFamily
	}
	return true
}

// slowFor resolves the default.
func (f Faults) slowFor() time.Duration {
	if f.SlowFor == 0 {
		return time.Second
	}
	return f.SlowFor
}

// dice decide which fault a call meets. They are guarded by Server.mu.
type dice struct {
	faults Faults
	source *rand.Rand
}

// newDice uses PCG, whose sequence for a seed is part of its definition: a test
// that fails with a seed fails with it under the next version of Go too.
func newDice(c Config) *dice {
	seed := c.Seed
	if seed == 0 {
		seed = 1
	}
	return &dice{faults: c.Faults, source: rand.New(rand.NewPCG(seed, 0))}
}

// roll advances the dice even when there are no faults, so that a call's
// number alone tells its point.
func (d *dice) roll(family string) string { return d.faults.pick(family, d.source.Float64()) }

// failBefore lets those faults strike that keep a request from being processed,
// and reports whether one did.
func (s *Server) failBefore(w http.ResponseWriter, at arrival, e errand) bool {
	switch at.fault {
	case "Error500":
		s.reply(w, at, e.failure(http.StatusInternalServerError))
	case "Bare500":
		s.reply(w, at, answer{status: http.StatusInternalServerError})
	case "Error503":
		s.reply(w, at, e.failure(http.StatusServiceUnavailable))
	case "HTML502":
		s.reply(w, at, frontDoor(http.StatusBadGateway))
	case "HTML503":
		s.reply(w, at, frontDoor(http.StatusServiceUnavailable))
	case "CPU429":
		s.reply(w, at, e.problem(errCPU()))
	case "WrongAudience":
		to := audienceGraph
		if !isGraphFamily(at.family) {
			to = forMDE(at.family)
		}
		s.reply(w, at, e.problem(errAudience(to)))
	case "ResetBefore":
		reset(w)
	case "Token429":
		s.reply(w, at, errTokenThrottled(s.config.minute()))
	default:
		return false
	}
	return true
}

// failAfter sends the answer of a processed request, or what the fault leaves of
// it. To the caller of a change these are the hard cases: it was done, and he can't
// know.
func (s *Server) failAfter(w http.ResponseWriter, r *http.Request, at arrival, e errand, result answer) {
	switch at.fault {
	case "After500":
		s.reply(w, at, e.failure(http.StatusInternalServerError))
	case "After504":
		s.reply(w, at, e.failure(http.StatusGatewayTimeout))
	case "Empty200":
		s.reply(w, at, answer{status: http.StatusOK})
	case "Partial206":
		s.reply(w, at, partial(result))
	case "ResetAfter":
		reset(w)
	case "BreakBody":
		s.breakOff(w, at, result)
	case "Slow":
		if !s.pause(r, at.slowFor) {
			reset(w)
			return
		}
		s.reply(w, at, result)
	default:
		s.reply(w, at, result)
	}
}

// breakOff announces the whole body and sends half of it. net/http then closes the
// connection by itself, since it can't be used for a next answer. The status has
// arrived, which is the point: a client who looks no further believes all is well.
func (s *Server) breakOff(w http.ResponseWriter, at arrival, result answer) {
	if len(result.body) == 0 {
		result.status, result.body = http.StatusOK, []byte("{}")
	}
	s.mu.Lock()
	at.ledger.answered(at.seq, at.family, result)
	s.mu.Unlock()
	result.write(w, len(result.body)/2)
}

// pause waits, and reports false if the caller or the server went first. A Close
// that waited for slow answers could take an hour, if that is what a test is about.
func (s *Server) pause(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	case <-s.closed:
		return false
	}
}

// reset ends the connection with a TCP reset where it can, and panics with
// http.ErrAbortHandler where the connection can't be taken over. The panic alone
// would end the connection in good order: a client then reads an end of file, which
// net/http treats otherwise than a reset.
func reset(w http.ResponseWriter) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	under := connection
	if wrapped, ok := under.(interface{ NetConn() net.Conn }); ok { // TLS
		under = wrapped.NetConn()
	}
	if socket, ok := under.(*net.TCPConn); ok {
		// Without lingering, closing discards what is unsent and resets.
		socket.SetLinger(0)
	}
	// The socket itself is closed: TLS would say goodbye in order first.
	under.Close()
}
