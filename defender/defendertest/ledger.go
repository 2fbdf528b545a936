package defendertest

import (
	"maps"
	"net/http"
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
	Family   string // of the quota, a key of DefaultQuotas; "storage", "token", or "" for an unknown path or method
	CallID   string // the x-ms-client-request-id header, or Graph's client-request-id, to join a test's calls with the ledger; "" if there was none
	Status   int    // of the answer; 0: no answer was sent
	Code     string // of the answer's error envelope; "" if it had none
	Target   string // of the answer's error envelope, of Graph's the request-id; "" if it had none

	// Processed says that the request was carried out, or read, whatever the
	// caller got to see of it. False for refused and failed requests.
	Processed bool

	// Effect is the key in Effects. A batch has several, one a line. "" for
	// reads, and for what was refused.
	Effect string

	Fault string // the name of the Faults field that struck; "" for none
}

// A Count is what became of a family's calls.
type Count struct {
	Calls     int // that arrived
	Answered  int // with a status below 400
	Throttled int // 429
	Refused   int // another 4xx
	Failed    int // 5xx; what is missing in the sum is being served, or was never answered
}

// add sums two counts up.
func (c Count) add(other Count) Count {
	return Count{
		c.Calls + other.Calls, c.Answered + other.Answered, c.Throttled + other.Throttled,
		c.Refused + other.Refused, c.Failed + other.Failed,
	}
}

// countOf is the count of one answer.
func countOf(status int) Count {
	switch {
	case status == http.StatusTooManyRequests:
		return Count{Throttled: 1}
	case status >= 500:
		return Count{Failed: 1}
	case status >= 400:
		return Count{Refused: 1}
	}
	return Count{Answered: 1}
}

// A ledger is what the server remembers. It is guarded by Server.mu.
type ledger struct {
	keep    int    // of the calls, the latest; 0: all
	calls   []Call // up to twice what is kept
	dropped int    // calls before those
	counts  map[string]Count
	effects map[string]int
}

// newLedger returns an empty one.
func newLedger(c Config) *ledger {
	return &ledger{keep: c.KeepCalls, counts: make(map[string]Count), effects: make(map[string]int)}
}

// arrived enters a call, which has its place from now on whenever it ends. Old ones
// are dropped in bulk, which costs less than one move for each call.
func (l *ledger) arrived(c Call) (seq int) {
	if l.keep > 0 && len(l.calls) >= 2*l.keep {
		l.dropped += len(l.calls) - l.keep
		l.calls = slices.Delete(l.calls, 0, len(l.calls)-l.keep)
	}
	c.Seq = l.dropped + len(l.calls) + 1
	l.calls = append(l.calls, c)
	l.counts[c.Family] = l.counts[c.Family].add(Count{Calls: 1})
	return c.Seq
}

// note changes the entry of a call, if it wasn't dropped while the call was served.
func (l *ledger) note(seq int, change func(*Call)) {
	if seq > l.dropped {
		change(&l.calls[seq-l.dropped-1])
	}
}

// carriedOut notes what a request did before its answer is sent, or lost.
func (l *ledger) carriedOut(seq int, a answer) {
	l.note(seq, func(c *Call) {
		c.Processed = a.status < 400
		c.Effect = strings.Join(a.effects, "\n")
	})
	for _, effect := range a.effects {
		l.effects[effect]++
	}
}

// answered notes what the caller of a family's call is about to see. A call that
// is never answered keeps the status 0.
func (l *ledger) answered(seq int, family string, a answer) {
	l.note(seq, func(c *Call) { c.Status, c.Code, c.Target = a.status, a.code, a.target })
	l.counts[family] = l.counts[family].add(countOf(a.status))
}

// Calls returns a copy of the ledger: every call that arrived, or the latest
// Config.KeepCalls, in order of arrival, refused ones included. It may hold more
// calls than the client knows of: net/http replays by itself what it may
// when a kept-alive connection is reset.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.ledger.calls
	if keep := s.ledger.keep; keep > 0 {
		calls = calls[max(0, len(calls)-keep):]
	}
	return slices.Clone(calls)
}

// Counts returns what became of all calls so far, by Call.Family. It costs the
// same however many there were.
func (s *Server) Counts() map[string]Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ledger.counts)
}

// Effects returns a copy of how often each change was carried out. A change that
// sets what is set already counts again, for it was done again. The keys are
//
//	isolate m0007              any machine action, by the last segment of its path
//	cancel <action id>
//	addTag m0007 <tag>         also removeTag; of a batch, one for each machine
//	setDeviceValue m0007
//	update m0007               a PATCH of a machine
//	comment a0007              an update of an alert with a comment, which is appended
//	update a0007               an update of an alert without one
//	commentIncident 7          an update of an incident with a comment, which is appended
//	updateIncident 7           an update of an incident without one
//	submit <value>             one indicator, by its indicatorValue
//	import <value>             of a batch, one for each indicator that didn't fail
//	delete <indicator id>      of a batch, one for each indicator
func (s *Server) Effects() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ledger.effects)
}
