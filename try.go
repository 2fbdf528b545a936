package steadyhttp

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/sendlog"
)

// try is what lives for one attempt.
type try struct {
	attempt Attempt
	first   answer       // to it, if it was made before the call's state was needed
	sends   *sendlog.Log // nil where nobody looks and nothing need be proved
	passes  []Pass       // of the gates that were entered

	context context.Context         // the attempt's
	nest    *nest                   // tells what a Transport below has come to; nil: there can be none
	cancel  context.CancelCauseFunc // ends context; nil if nothing of ours ever would
	timer   *time.Timer             // AttemptTimeout's, or what is left of MaxElapsed; nil: none
	expired *timeoutError           // what the timer ends the attempt with

	out    *http.Request // as the base transport gets it; nil once that has it
	before *http.Request // it as it was before the base transport had it, where that may have changed it
	given  io.ReadCloser // the body that out was made with
	fresh  bool          // given is the attempt's own, and not the caller's
	handed bool          // the base transport has been given the attempt

	response *http.Response // also if its body has failed
	standIn  *responseBody  // for response's body; nil if that goes to the caller as it is
	judged   bool           // the Transport's Classify has named the attempt's class
	final    Stop           // an inner Transport has ended the call already, for this reason
	why      Stop           // why a step ended the call early
}

// answer is what a base transport returned.
type answer struct {
	resp  *http.Response
	err   error
	ready bool // false: the attempt is still to be made
	sends *sendlog.Log
}

// kept is an answer that is all in memory: if its retry can't be made, it is the call's.
type kept struct {
	response *http.Response
	standIn  *responseBody // nil: it has no body
}

// limit ends the attempt after a time, in place of what may have been set before; negative: it is
// not limited.
func (t *try) limit(left time.Duration, bound string, whole time.Duration) {
	if left < 0 {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.expired = &timeoutError{bound, whole}
	cancel, cause := t.cancel, t.expired
	t.timer = time.AfterFunc(max(left, 1), func() { cancel(cause) })
}

// endAttempt ends what the attempt has running.
func (t *try) endAttempt() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if t.cancel != nil {
		t.cancel(nil)
		t.cancel = nil
	}
}
