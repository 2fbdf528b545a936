// Package bed holds an SDK on top of a Transport to what its user may expect: Run has it call a
// service on this machine that fails as it is told, over HTTP/1.1 and HTTP/2, and compares.
package bed

import (
	"context"
	"net/http"
	"testing"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// Attempts is how often a call is sent at the most, by us as by an SDK's own retries.
const Attempts = 4

// Failure is what a service answers in place of a success.
type Failure struct {
	Status  int
	Code    string
	Message string
	After   string // Retry-After; "": none
}

// SDK is one call of an unmodified SDK, and what its service says.
type SDK struct {
	Name string

	// Call makes the call with a client over base, which knows the service's certificate, and
	// returns what the SDK made of the answer. With own, the SDK's own retries are on, set to
	// Attempts in all and to no waits of their own where it lets them be set; without, off, as
	// docs/sdks.md says.
	Call func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error)

	// Serve answers: a success if f is nil. The body has been read.
	Serve func(w http.ResponseWriter, r *http.Request, f *Failure)

	// Counts says which requests are the call, if the SDK makes others beside it, such as a ping.
	// Those always succeed. nil: all.
	Counts func(*http.Request) bool

	Answer  string // what Call returns of a success
	Busy    string // the service's code of what is worth a retry
	Missing string // and that of a 404

	// Typed takes an SDK's error apart; code and message are "" for an SDK that does not tell.
	Typed func(err error) (status int, code, message string)

	// Body is what arrives with each attempt, once Decoded has taken the encodings off that the SDK
	// puts on. nil: the call has none.
	Body    []byte
	Decoded func(h http.Header, raw []byte) ([]byte, error) // nil: there are none

	// Edit changes the Transport as docs/sdks.md tells the user to. nil: it says nothing.
	Edit func(*steadyhttp.Transport)

	// Unsafe says that the call is idempotent by the word of Edit alone: without it, what may have
	// been carried out is not sent again.
	Unsafe bool

	// Own is how many requests the SDK's own retries make of a call whose first answers are as
	// given; 0: it has no retries of its own, and is held to what ours are documented to make. nil:
	// as many as ours.
	Own func(statuses []int, forever bool) int

	// Both is how many requests a 503 for ever costs with both retriers on, and no budget; 0: the
	// SDK has no retries of its own. docs/sdks.md is held to it.
	Both int

	// OwnSpoils says that the SDK's own retries send another body than the first attempt, without us
	// too: with them on, bodies are not compared.
	OwnSpoils bool

	// Varies names the header fields that differ from call to call by themselves, such as Date.
	Varies []string

	// HidesCancel says that the SDK's error has nothing of its cause but the text, without us too.
	HidesCancel bool

	// MaxError is the longest error answer that the SDK takes, in bytes; 0: there is no bound.
	MaxError int

	TLS   bool // the SDK takes no http URL
	HTTP1 bool // the SDK can't be told of the test's certificate, or speaks no HTTP/2: the reason is beside it
}

// Transport is one over base as docs/sdks.md has it, without waits of its own.
func (s *SDK) Transport(base http.RoundTripper, budget *steadyhttp.Budget) *steadyhttp.Transport {
	rt := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{
		MaxAttempts: Attempts,
		Budget:      budget,
		NewBackOff:  func() backoff.BackOff { return &backoff.ZeroBackOff{} },
	}}
	if s.Edit != nil {
		s.Edit(rt)
	}
	return rt
}

// NoBudget lets every retry through.
func NoBudget() *steadyhttp.Budget { return &steadyhttp.Budget{Max: -1} }

// Idempotent is an Edit for calls that may be made twice on the caller's word alone.
func Idempotent(rt *steadyhttp.Transport) {
	rt.Policy.Idempotent = func(*http.Request) bool { return true }
}
