package steadyhttp

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/redact"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
)

// Attempt is one try at a call: what was sent, what came back, and what was made of it. It is
// passed by value; later versions may add fields. Which of them are set depends on who is told, and
// when:
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
//	PrevStatus              yes             yes        yes           yes
//	Began                   watched         yes        watched       watched
//	Sent, Answered, Sends                              watched       watched
//
// "watched" stands for a call with a Trace, or through a Transport with Gates. Pass.Leave is told
// less of a redirect's hop to another origin: see Pass.
type Attempt struct {
	// N counts the call's attempts, 1 for the first.
	N int

	// Request is the request as sent. Before it is sent, in Gate.Enter and Trace.Waiting, it is the
	// caller's own.
	Request *http.Request

	// Response is what the base transport returned. Its Body belongs to the caller of the
	// Transport: hooks must not read it. Once the wait for a retry has begun, and so in Prepare and
	// Trace.Waiting, it is a copy without the body.
	Response *http.Response

	// Err is the base transport's error, or why a response could not be used. In Done and from
	// AttemptOf it comes beside a Response where that is the call's answer, and says why there was
	// no retry, or what became of its body.
	Err error

	// Body is what was peeked of an error answer, at most 64 KiB, or a success's whole body where
	// Policy.MaxRead has had it read. It must not be changed: the caller gets the same bytes.
	Body []byte

	// Verdict is what Classify made of the answer.
	Verdict Verdict

	// PrevStatus is the status that the attempt before was answered with, 0 if it was not, or there
	// was none.
	PrevStatus int

	// Began is when the call began; Sent and Answered are when this attempt's request headers went
	// out and its response headers came in. In a watched call a zero Sent says that provably
	// nothing was sent. Elsewhere all three are zero: reading the clock is most of what the happy
	// path would cost.
	Began, Sent, Answered time.Time

	// Sends is how often the request's headers went out: net/http replays some requests on its own,
	// when a kept-alive connection turns out to be dead (Request.isReplayable). Filled where Sent
	// is.
	Sends int

	// Wait is the back-off or pushback before the next attempt, 0 if there is none.
	Wait time.Duration

	// ServerAsked says that Wait is what the server asked for. false: it is the back-off, or there
	// is none.
	ServerAsked bool

	// Ambiguous says that the request may have been carried out, by this attempt or one before it,
	// and nobody knows:
	//
	//	safe methods (GET, HEAD, OPTIONS, TRACE, PROPFIND, REPORT, SEARCH, QUERY)   never
	//	not idempotent, answered 4xx           no: it is not retried after a doubt
	//	Throttled or Unauthorized by Classify  as a 4xx, whatever the status: it was refused
	//	answered 5xx, or lost after sending    yes
	//	provably never sent, or an HTTP/2
	//	stream that the server refused         as before this attempt
	//	idempotent (PUT, DELETE), 4xx          if an attempt before was lost: a DELETE's 404 may be its own doing
	//
	// Behind a wrapper that hides the call, Check takes an attempt before to have been lost.
	Ambiguous bool

	// Stop says why there is no next attempt; "" if there is one.
	Stop Stop

	asked   time.Duration       // when to try again, of what ended the call after it
	log     *sendlog.Log        // nil where nobody looks
	waits   func(time.Duration) // tells of a wait at a gate; nil where nobody wants to know
	whole   *Attempt            // of a foreign attempt on leaving a gate: all of it, for PerKey
	gate    int32               // the index of the one that it enters
	kept    bool                // Err is why there is no answer to a retry
	renewed bool                // the one retry after a 401 was made before it
	late    bool                // Stop was set after AttemptDone had been told of a retry, which then could not be made
	foreign bool                // of a redirect's hop to another origin: no gate may learn from its answer
}

// Stop is the reason why a call went no further, "" if it goes on. Its constants are also labels,
// of metrics and in logs.
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

// status returns that of the answer, 0 if there was none.
func (a *Attempt) status() int {
	if a.Response == nil {
		return 0
	}
	return a.Response.StatusCode
}

// masked is what the gates of a redirect's hop are told that led to another origin. That origin's
// answer says nothing of the service that the gates are for: a 429 from there must not hold
// everybody up here.
func (a Attempt) masked() Attempt {
	told := a
	told.Response, told.Err, told.Body, told.Verdict, told.whole = nil, nil, nil, Verdict{}, &a
	return told
}

// Observer is told of an attempt while it is under way. Its methods are called on net/http's
// goroutines, possibly after the attempt has ended, and must not block, but for Replay.
type Observer interface {
	// Replay is called before net/http sends the request again on its own, since the connection
	// died on which it was sent. It may block until that may be. An error ends the attempt with it;
	// ctx ends when the attempt must. Sent follows if it is sent. Over HTTP/2, and through a base
	// that is not net/http's Transport inside, or does not call httptrace.ClientTrace's GetConn, Sent
	// is all that tells of a replay. A wait in it is told to Trace.Waiting and Waited.
	Replay(ctx context.Context) error

	Sent(at time.Time)            // the request's headers went out; again each time net/http replays it
	Answered(resp *http.Response) // the response's headers have come; its body must not be read
}

// Observe tells an observer what becomes of an attempt as it happens. A Gate calls it in Enter:
// what it is told on leaving is complete, but late. It reports false for an attempt that is not
// about to be made. Of a redirect's hop to another origin it is told the sending only (see Gate).
//
//go:noinline
func (a Attempt) Observe(o Observer) bool {
	// Inlined, it would keep a copy of a on the stack of everybody who waits at the gate.
	if a.log == nil {
		return false
	}
	a.log.Add(o, a.foreign, int(a.gate))
	return true
}

// SendingOnly returns a copy to enter a Gate with that only counts: its Observer is told of the
// sending, and not of the answer, which the Gate might take for its own. What the Gate is told on
// leaving is up to whoever entered it.
func (a Attempt) SendingOnly() Attempt {
	a.foreign = true
	return a
}

// Class is what an answer means for the question whether to try again.
type Class uint8

const (
	Unclassified Class = iota // not made, refused, or ended by its caller: it says nothing of the service
	Success                   // nothing to repair
	Permanent                 // the same request would fail the same way
	Transient                 // a fault that may pass; the request may or may not have been carried out
	Throttled                 // refused for now, and so not carried out
	Unauthorized              // the credentials were refused; new ones may do
)

var classNames = [...]string{"unclassified", "success", "permanent", "transient", "throttled", "unauthorized"}

// String returns the class's name in lower case.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "Class(" + strconv.Itoa(int(c)) + ")"
}

// MarshalText implements encoding.TextMarshaler: the class's name, as in JSON, logs and
// configuration.
func (c Class) MarshalText() ([]byte, error) {
	if int(c) >= len(classNames) {
		return nil, fmt.Errorf("steadyhttp: %v is no class", c)
	}
	return []byte(classNames[c]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Class) UnmarshalText(text []byte) error {
	at := slices.Index(classNames[:], string(text))
	if at < 0 {
		return fmt.Errorf("steadyhttp: %q is no class; use one of %s", redact.Text(string(text), redact.MaxCode), strings.Join(classNames[:], ", "))
	}
	*c = Class(at)
	return nil
}

func (c Class) valid() bool { return c >= Success && c <= Unauthorized }

// Verdict is what Classify makes of an attempt.
type Verdict struct {
	Class Class

	// Code, Message and TrackingID come from the service's error envelope, or from fields of the
	// answer, "" if there was none. TrackingID is the service's tracking ID for this one failure,
	// which its support asks for. They are remote data: bounded, and with control characters
	// escaped.
	Code, Message, TrackingID string

	// RetryAfter is the wait that the server asked for, 0 if it did not.
	RetryAfter time.Duration
}

// Waits is what a Gate calls in Enter before it blocks, with the time that it will take as far as
// is known, 0 if it is not. It tells Trace.Waiting. length is asked only if somebody wants to know.
// It must not be called with a lock held that length or a hook may need.
//
//go:noinline
func (a Attempt) Waits(length func() time.Duration) {
	// Not inlined, for the sake of the stack: see Observe.
	if a.waits != nil {
		a.waits(length())
	}
}

// cleaned bounds and escapes what anybody's Classify or Parse has taken out of an answer. It does
// no more to what is clean.
func cleaned(v Verdict) Verdict {
	v.Code = redact.Text(v.Code, redact.MaxCode)
	v.Message = redact.Text(v.Message, redact.MaxMessage)
	v.TrackingID = redact.Text(v.TrackingID, redact.MaxID)
	return v
}

// known reports whether a Transport could have ended a call so. Any base can make an *Error, with a
// Stop that is none, and Stops end up on metrics.
func known(s Stop, c Class) bool {
	switch s {
	case "", StopPermanent, StopNotIdempotent, StopBodyNotReplayable, StopAttempts, StopElapsed, StopWaitTooLong,
		StopDeadline, StopBudget, StopRefused, StopPrepare, StopCancelled:
		return c <= Unauthorized
	}
	return false
}
