package steadyhttp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/envelope"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
)

// Rules classify an answer by the service's error code, then by its status, then by the kind of
// transport error. The zero value knows the general statuses: 408, 500, 502, 503, 504 and other 5xx
// are Transient; 401 is Unauthorized; other 4xx, 501 and 505 are Permanent; everything below 400 is
// Success. 429 is always Throttled.
//
// Rules must not be changed while in use. They are safe for concurrent use.
type Rules struct {
	// ByCode maps the service's error codes to classes; they are compared exactly. nil: none.
	ByCode map[string]Class

	// ByStatus maps HTTP statuses to classes, for answers whose code ByCode does not have. nil:
	// none.
	ByStatus map[int]Class

	// Parse reads the service's error envelope out of an error answer (a.Response, and a.Body,
	// which is unpacked here where it came as gzip or deflate). A Class it returns is kept. nil:
	// Microsoft's envelope, {"error":{"code","message","target","innerError"}}, and its known
	// variants, OAuth's errors, RFC 9457's problems, and a bare code and message, all of them also
	// where the body breaks off; where it has no code, X-Ms-Error-Code's and that of a challenge
	// (RFC 6750 section 3). Of nested innerErrors' codes the deepest in ByCode is taken, or else the
	// outermost.
	Parse func(a Attempt) Verdict

	// IDHeaders names the fields that have the service's tracking ID, the best first, for answers
	// whose body has none and where Parse is nil. A value that the request was sent with is no ID.
	// nil: X-Ms-Request-Id, Request-Id, X-Amzn-Requestid, X-Amz-Request-Id, those of other
	// services, whatever else is called …-Request-Id and is not the client's or a correlation's,
	// X-Request-Id, and last those of edges, as Cf-Ray; empty but not nil: none.
	IDHeaders []string
}

// Validate reports the first entry that makes no sense. A Transport fails a call whose answer meets
// such an entry; Validate tells so before anything is sent.
func (r *Rules) Validate() error {
	for _, code := range slices.Sorted(maps.Keys(r.ByCode)) {
		switch class := r.ByCode[code]; {
		case code == "":
			return errors.New("steadyhttp: Rules.ByCode has the empty code; use ByStatus for answers without one")
		case !class.valid():
			return fmt.Errorf("steadyhttp: Rules.ByCode[%q] is %v; use Success, Permanent, Transient, Throttled or Unauthorized", code, class)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(r.ByStatus)) {
		switch class := r.ByStatus[status]; {
		case status < 200 || status > 599:
			return fmt.Errorf("steadyhttp: Rules.ByStatus[%d] is not the status of a final answer; use 200 to 599", status)
		case !class.valid():
			return fmt.Errorf("steadyhttp: Rules.ByStatus[%d] is %v; use Success, Permanent, Transient, Throttled or Unauthorized", status, class)
		case status == http.StatusTooManyRequests && class != Throttled:
			return fmt.Errorf("steadyhttp: Rules.ByStatus[429] is %v; a 429 is always Throttled: take the entry out", class)
		}
	}
	return nil
}

// Classify is the default of Transport.Classify. It is a pure function of the rules and the attempt
// but for Retry-After given as a date, which is read against the clock.
func (r *Rules) Classify(a Attempt) Verdict { return r.classify(&a) }

// classify takes no copy of an attempt: this is where the stack is deepest, and most who have been
// here wait next.
func (r *Rules) classify(a *Attempt) Verdict {
	if a.Err != nil {
		return Verdict{Class: classOfError(a.Err, a.Request)}
	}
	status := a.Response.StatusCode
	if status < 400 {
		if class, ok := r.ByStatus[status]; ok {
			return Verdict{Class: class, RetryAfter: pushback(a.Response, class)}
		}
		return Verdict{Class: Success}
	}
	body := envelope.Unpack(a.Body, a.Response.Header)
	var v Verdict
	if r.Parse != nil {
		v = cleaned(r.parsed(a, body))
	}
	var inBody time.Duration // the wait that the body names
	if v.Code == "" || v.Message == "" || v.TrackingID == "" {
		read := r.parseEnvelope(a, body)
		v.Code, v.Message = cmp.Or(v.Code, read.Code), cmp.Or(v.Message, read.Message)
		v.TrackingID, inBody = cmp.Or(v.TrackingID, read.TrackingID), read.RetryAfter
	}
	class, named := r.class(status, v)
	if class != Transient && class != Throttled && (named || !mayThrottle(status)) {
		v.Class = class
		return v
	}
	wait, source := retryafter.Read(a.Response.Header, time.Time{})
	if mayThrottle(status) && !named {
		// GitHub and Binance throttle so. What says neither when to come back nor that nothing is
		// left is a plain no.
		if source == retryafter.Field || source == retryafter.Spent && status != http.StatusRequestEntityTooLarge {
			class = Throttled
		} else {
			wait = 0
		}
	}
	v.Class = class
	if class == Transient || class == Throttled {
		v.RetryAfter = max(v.RetryAfter, cmp.Or(wait, inBody))
	}
	return v
}

// parsed is what Parse makes of an attempt with its body unpacked; it is not inlined, as judgement.
//
//go:noinline
func (r *Rules) parsed(a *Attempt, body []byte) Verdict {
	unpacked := *a
	unpacked.Body = body
	return r.Parse(unpacked)
}

// mayThrottle reports whether services use a status to throttle that means something else.
func mayThrottle(status int) bool {
	return status == http.StatusForbidden || status == http.StatusTeapot || status == http.StatusRequestEntityTooLarge
}

// class returns the class of an answer, and whether anybody has named it for its code or status.
func (r *Rules) class(status int, v Verdict) (class Class, named bool) {
	// A 429 was refused, whatever its code says: Defender's carries the code "429", Graph's
	// "TooManyRequests".
	if status == http.StatusTooManyRequests {
		return Throttled, true
	}
	if v.Class != Unclassified {
		return v.Class, true
	}
	if class, ok := r.ByCode[v.Code]; ok && v.Code != "" {
		return class, true
	}
	if class, ok := r.ByStatus[status]; ok {
		return class, true
	}
	return classOfStatus(status), false
}

func classOfStatus(status int) Class {
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled
	case status == http.StatusUnauthorized:
		return Unauthorized
	case status < 400:
		return Success
	case neterr.OfStatus(status) == neterr.Passing:
		return Transient
	}
	return Permanent
}

// classOfError tells errors that would come again from those that may pass.
func classOfError(err error, req *http.Request) Class {
	// net/http reports a bad scheme or header by text only, so we look at the request itself.
	if kindOf(err) == neterr.Lasting || req != nil && neterr.Unsendable(req) {
		return Permanent
	}
	if req != nil && req.Body == nil && req.ContentLength > 0 {
		return Permanent // net/http ends it in the midst, and may say that the connection was lost
	}
	return Transient
}

// byRules reports whether a Classify is a Rules' own, which has nothing to say of errors that the
// default does not.
func byRules(classify func(Attempt) Verdict) bool {
	return reflect.ValueOf(classify).Pointer() == reflect.ValueOf((&Rules{}).Classify).Pointer()
}

// kindOf says whether an error would come again.
func kindOf(err error) neterr.Kind {
	if neterr.Is[*Refusal](err) || errors.Is(err, errBase) || neterr.Is[*bodyError](err) || neterr.Final(err) {
		return neterr.Lasting
	}
	if status := statusOf(err); status != 0 {
		return neterr.OfStatus(status)
	}
	return neterr.Of(err)
}

// statusOf returns the status of the answer that err is about, 0 if it is about none.
func statusOf(err error) int {
	if refused, ok := errors.AsType[*Error](err); ok && refused.StatusCode != 0 && refused.Err == nil {
		return refused.StatusCode
	}
	// As the AWS SDK for Go has it.
	if answered, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok && answered.HTTPStatusCode() >= 400 {
		return answered.HTTPStatusCode()
	}
	return 0
}

// parseEnvelope never fails: an answer that it cannot read is one without a code, and its status
// decides.
func (r *Rules) parseEnvelope(a *Attempt, body []byte) Verdict {
	answer := envelope.Answer{Body: body, IDHeaders: r.IDHeaders}
	if a.Response != nil {
		answer.Header = a.Response.Header
	}
	if a.Request != nil {
		answer.Sent = a.Request.Header
	}
	e := envelope.Read(&answer, r.ByCode)
	v := cleaned(Verdict{Code: e.Code, Message: e.Message, TrackingID: e.ID})
	if wait := e.Wait + e.WaitMs; wait != "" { // never both
		v.RetryAfter = retryafter.Value(wait, e.WaitMs != "", answer.Header, time.Time{})
	}
	return v
}

// pushback returns how long the server asked us to wait, 0 if it did not.
//
// It looks at answers of the classes Transient and Throttled only: Retry-After also comes with a
// 202 or a redirect, where retrying the request would do it twice (RFC 9110 section 10.2.3).
func pushback(resp *http.Response, class Class) time.Duration {
	if class != Transient && class != Throttled || len(resp.Header) == 0 {
		return 0
	}
	wait, _ := retryafter.Read(resp.Header, time.Time{})
	return wait
}

// maxPushback is the longest wait that a server can ask for. What asks for more names no time.
const maxPushback = retryafter.Max

func (c *call) classify() {
	a := &c.attempt
	resp := c.response
	c.standIn, c.final = nil, ""
	if resp != nil {
		if a.Err == nil && resp.StatusCode < 500 && neterr.OfStatus(resp.StatusCode) != neterr.Passing {
			c.budget().pay(c.original)
		}
		if c.plain(resp) {
			a.Verdict.Class = Success
			return
		}
		c.peek(resp)
	}
	if !c.settled() {
		c.verdict()
	}
	if a.Response != nil {
		c.answered = answered{a.Verdict, resp.StatusCode}
	}
	c.weigh()
	if a.Verdict.Class > Unauthorized {
		c.misjudged()
	}
}

// weigh says whether the attempt leaves it open whether the request was carried out: see
// Attempt.Ambiguous.
func (c *call) weigh() {
	a := &c.attempt
	if safe(c.original.Method) {
		return
	}
	inner, nested := errors.AsType[*Error](a.Err)
	if before, ok := AttemptOf(a.Response); ok && before.Ambiguous && a.Response.StatusCode >= 400 {
		c.doubt, a.Ambiguous = true, true // an inner Transport's
		return
	}
	switch {
	case a.Response != nil && a.Response.StatusCode < 400:
		return
	case nested:
		a.Ambiguous = inner.Ambiguous || c.doubt
	case a.Response != nil && a.Response.StatusCode < 500,
		a.Verdict.Class == Throttled, a.Verdict.Class == Unauthorized: // refused: a retry goes by that word too
		a.Ambiguous = c.doubt && c.idempotent()
		return
	default:
		a.Ambiguous = a.Response != nil || !c.unsent() || c.doubt
	}
	c.doubt = c.doubt || a.Ambiguous
}

// verdict asks the Transport's Classify, and fills in from the default what it has left out. A call
// that its caller has ended says nothing of the service.
func (c *call) verdict() {
	a := &c.attempt
	if a.Err != nil && c.over() {
		return
	}
	standard := &Rules{}
	c.judged = false
	defer c.refusedByProxy()
	classify := c.classifier()
	if classify == nil {
		a.Verdict = standard.classify(a)
		return
	}
	v := cleaned(c.judgement())
	if v.Class > Unauthorized {
		a.Verdict = v
		return
	}
	rules := byRules(classify)
	c.judged = v.Class != Unclassified && !rules
	var filled Verdict
	// What Rules leave out is not there: by their IDHeaders, the default's are none.
	if v.Class == Unclassified || !rules && (v.Code == "" || v.Message == "" || v.TrackingID == "") {
		filled = standard.classify(a)
		v.Class = cmp.Or(v.Class, filled.Class)
		v.Code, v.Message = cmp.Or(v.Code, filled.Code), cmp.Or(v.Message, filled.Message)
		v.TrackingID = cmp.Or(v.TrackingID, filled.TrackingID)
	}
	if v.RetryAfter == 0 && a.Response != nil && (v.Class == Transient || v.Class == Throttled) {
		v.RetryAfter = cmp.Or(pushback(a.Response, v.Class), filled.RetryAfter)
	}
	a.Verdict = v
}

// judgement is what the Transport's Classify says. Inlined, it would keep a copy of the attempt on
// the stack also where there is none.
//
//go:noinline
func (c *call) judgement() Verdict { return c.classifier()(c.attempt) }

// refusedByProxy makes a proxy's no to CONNECT final that it said in words of its own.
func (c *call) refusedByProxy() {
	a := &c.attempt
	if a.Err != nil && a.Verdict.Class == Transient && !c.judged && c.byProxy() && neterr.OfPhrase(a.Err.Error()) == neterr.Lasting {
		a.Verdict.Class = Permanent
	}
}

// byProxy reports whether the attempt's error is, for all we know, a proxy's answer to CONNECT:
// net/http has a bare text for that, and nothing else that kindOf does not know.
func (c *call) byProxy() bool {
	native, ok := c.base().(*http.Transport)
	if !ok || !neterr.PlainText(c.attempt.Err) || kindOf(c.attempt.Err) != neterr.Unknown {
		return false
	}
	return strings.EqualFold(c.original.URL.Scheme, "https") && sendlog.Proxied(native, c.original)
}

// plain reports whether an answer is a success that nobody has to look into.
func (c *call) plain(resp *http.Response) bool {
	return resp.StatusCode < 400 && c.classifier() == nil && (c.policy.MaxRead <= 0 || !successful(resp))
}

// peek reads what classifying needs of the body, or, under MaxRead, all that the caller will.
func (c *call) peek(resp *http.Response) {
	inner := c.inner()
	nested := inner != nil && (resp.StatusCode >= 400 || inner.Stop != StopDone)
	if nested {
		c.below += inner.N - 1
		if settles(inner) {
			c.final, c.attempt.Verdict = inner.Stop, inner.Verdict
		}
	}
	if resp.Body == http.NoBody {
		return
	}
	if nested && standInOf(resp) != nil {
		// An inner Transport has peeked already; what it has left is not read twice.
		c.attempt.Body = inner.Body
		return
	}
	c.standIn = c.newStandIn()
	switch {
	case c.policy.MaxRead > 0 && successful(resp) && c.idempotent():
		err := c.standIn.readWhole(resp, c.policy.MaxRead, c.remaining(), c.ctx.Done(), c.legacyCancel())
		if err == errReadEnded && !c.over() {
			err = nil // MaxElapsed has: the rest is for the caller to wait for
		}
		if err != nil {
			c.attempt.Response, c.attempt.Err = nil, neterr.Solid("Response.Body", err)
		} else if c.standIn.whole() {
			c.attempt.Body = c.standIn.ahead.Bytes() // GraphQL throttles with a 200
		}
	case resp.StatusCode >= 400:
		c.attempt.Body = c.standIn.peek(resp, peekTime, c.ctx.Done(), c.legacyCancel())
	}
}

// settled reports whether an inner Transport has said all there is to say. Two of them must not
// multiply their attempts.
func (c *call) settled() bool {
	if c.attempt.Err == nil {
		return c.final != ""
	}
	var ended Attempt
	if inner, ok := errors.AsType[*Error](c.attempt.Err); ok {
		ended = Attempt{N: inner.Attempts, Stop: inner.Stop, Verdict: cleaned(inner.Verdict)}
		if !known(inner.Stop, inner.Class) {
			ended.Stop, ended.Verdict.Class = StopPermanent, Permanent
		}
	} else if inner := c.inner(); inner != nil {
		ended = *inner
	} else {
		return false
	}
	c.below += max(0, ended.N-1)
	if !settles(&ended) {
		return false
	}
	c.final, c.attempt.Verdict = ended.Stop, ended.Verdict
	c.attempt.Verdict.Class = max(c.attempt.Verdict.Class, Permanent)
	return true
}

// misjudged ends a call whose Classify knows a class that does not exist. The answer's code and
// tracking ID stay in the error.
func (c *call) misjudged() {
	a := &c.attempt
	err := misjudgement(a)
	if c.response != nil {
		c.drop()
	}
	a.Response, a.Err = nil, err
	a.Verdict.Class = Permanent
}

func misjudgement(a *Attempt) error {
	answer := "a transport error"
	if a.Response != nil {
		answer = fmt.Sprintf("status %d, code %q, tracking ID %q", a.Response.StatusCode, a.Verdict.Code, a.Verdict.TrackingID)
	}
	err := fmt.Errorf("steadyhttp: Transport.Classify gave %v for %s; use Success, Permanent, Transient, Throttled or Unauthorized (Rules.Validate names the entry)", a.Verdict.Class, answer)
	if a.Err != nil {
		err = fmt.Errorf("%w: %w", err, a.Err)
	}
	return err
}

func (c *call) idempotent() bool { return c.policy.idempotent(cmp.Or(c.before, c.attempt.Request)) }

// Check returns nil for a response below 400, else an *Error. It does not close the body, and what
// it reads of it can be read again, so it works behind wrappers. Of a response that did not come
// from a Transport, or whose wrapper hides that, it reads at most 64 KiB, for at most a second.
func Check(resp *http.Response) error {
	if resp == nil {
		return errors.New("steadyhttp: Check of a nil response; check the error of Do first")
	}
	if resp.StatusCode < 400 {
		return nil
	}
	e := &Error{StatusCode: resp.StatusCode, answer: true}
	a, ok := AttemptOf(resp)
	if ok {
		e.Verdict, e.Attempts, e.Stop, e.Ambiguous = a.Verdict, a.N, a.Stop, a.Ambiguous
	} else {
		e.Verdict = examine(resp)
		if req := resp.Request; req != nil && !safe(req.Method) {
			e.Ambiguous = resp.StatusCode >= 500 || (&Policy{}).idempotent(req)
		}
	}
	e.Wait = max(0, e.RetryAfter, a.asked)
	if a.kept {
		e.Err = a.Err
	}
	return e
}

// examine classifies a response by its own, and keeps the verdict with it for the next Check.
func examine(resp *http.Response) Verdict {
	if known := standInOf(resp); known != nil {
		return known.attempt.Verdict
	}
	a := Attempt{Request: resp.Request, Response: resp}
	if resp.Body == nil || resp.Body == http.NoBody {
		return (&Rules{}).Classify(a)
	}
	body := &responseBody{rc: resp.Body}
	a.Body = body.peek(resp, peekTime)
	body.attempt.Verdict = (&Rules{}).Classify(a)
	resp.Body = body.standIn()
	return body.attempt.Verdict
}
