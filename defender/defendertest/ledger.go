package defendertest

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// A Call is what the ledger says of one call. While a call is being served, the
// fields from Status to Effect are not filled yet. A call that the caller gave
// up, or that net/http sent a second time, is here all the same: what counts is
// what arrived.
type Call struct {
	Seq      int       // in order of arrival, from 1
	At       time.Time // of arrival, which is when the quota counted it
	Method   string
	Path     string // as the client sent it, prefix included
	RawQuery string
	Family   string // of the quota, a key of DefaultQuotas; "" for an unknown path or method
	CallID   string // the x-ms-client-request-id header, to join a test's calls with the ledger; "" if there was none
	Status   int    // of the answer; 0: no answer was sent
	Code     string // of the answer's error envelope; "" if it had none
	Target   string // of the answer's error envelope; "" if it had none

	// Processed says that the request was carried out, or read, whatever the
	// caller got to see of it. False for refused and failed requests.
	Processed bool

	// Effect is the key in Effects. A batch has several, one a line. "" for
	// reads, and for what was refused.
	Effect string

	Fault string // the name of the Faults field that struck; "" for none
}

// A ledger is what the server remembers. It is guarded by Server.mu.
type ledger struct {
	calls   []Call
	effects map[string]int
}

// arrived enters a call, which has its place from now on whenever it ends.
func (l *ledger) arrived(c Call) (seq int) {
	c.Seq = len(l.calls) + 1
	l.calls = append(l.calls, c)
	return c.Seq
}

// carriedOut notes what a request did before its answer is sent, or lost.
func (l *ledger) carriedOut(seq int, a answer) {
	c := &l.calls[seq-1]
	c.Processed = a.status < 400
	c.Effect = strings.Join(a.effects, "\n")
	if l.effects == nil {
		l.effects = make(map[string]int)
	}
	for _, effect := range a.effects {
		l.effects[effect]++
	}
}

// answered notes what the caller is about to see. A call that is never answered
// keeps the status 0.
func (l *ledger) answered(seq int, a answer) {
	c := &l.calls[seq-1]
	c.Status, c.Code, c.Target = a.status, a.code, a.target
}

// Calls returns a copy of the ledger: every call that arrived, in order of
// arrival, refused ones included. It may hold more calls than the client knows
// of: net/http repeats by itself what it may repeat when a kept-alive connection
// is reset.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ledger.calls)
}

// Effects returns a copy of how often each change was carried out. A change that
// sets what is set already counts again, for it was done again. The keys are
//
//	isolate m0007              any machine action, by the last segment of its path
//	cancel <action id>
//	addTag m0007 <tag>         also removeTag; of a batch, one for each machine
//	comment a0007              an update of an alert with a comment, which is appended
//	update a0007               an update of an alert without one
//	submit <value>             one indicator, by its indicatorValue
//	import <value>             of a batch, one for each indicator that didn't fail
//	delete <indicator id>      of a batch, one for each indicator
func (s *Server) Effects() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ledger.effects == nil {
		return map[string]int{}
	}
	return maps.Clone(s.ledger.effects)
}
