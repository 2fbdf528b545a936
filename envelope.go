package steadyhttp

import (
	"time"

	"github.com/steadyhttp/steadyhttp/internal/envelope"
	"github.com/steadyhttp/steadyhttp/internal/redact"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// parseEnvelope never fails: an answer that it cannot read is one without a code, and its status
// decides.
func (r *Rules) parseEnvelope(a *Attempt) Verdict {
	answer := envelope.Answer{Body: a.Body, IDHeaders: r.IDHeaders}
	if a.Response != nil {
		answer.Header = a.Response.Header
	}
	if a.Request != nil {
		answer.Sent = a.Request.Header
	}
	e := envelope.Read(&answer, r.ByCode)
	v := cleaned(Verdict{Code: e.Code, Message: e.Message, TrackingID: e.ID})
	if wait := e.Wait + e.WaitMs; wait != "" { // never both
		v.RetryAfter = retryafter.Value(wait, e.WaitMs != "", answer.Header, time.Now())
	}
	return v
}

// cleaned bounds and escapes what anybody's Classify or Parse has taken out of an answer. It does
// no more to what is clean.
func cleaned(v Verdict) Verdict {
	v.Code = redact.Text(v.Code, redact.MaxCode)
	v.Message = redact.Text(v.Message, redact.MaxMessage)
	v.TrackingID = redact.Text(v.TrackingID, redact.MaxID)
	return v
}
