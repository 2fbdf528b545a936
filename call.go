package steadyhttp

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp/internal/durations"
)

// call is one RoundTrip under way. Its methods are the steps of the loop, in the order in which the
// loop takes them. It stays on RoundTrip's stack: nothing may keep a pointer to it.
type call struct {
	transport *Transport
	original  *http.Request   // the caller's, never changed
	ctx       context.Context // the caller's, and what Trace.Start added
	policy    *Policy
	trace     *Trace
	body      requestBody
	key       string // the Idempotency-Key made for this call, "" if none
	first     answer // to an attempt that was made before the call's state was needed

	attempt  Attempt                 // the present one
	made     int                     // attempts that the base transport was given
	out      *http.Request           // as the base transport gets it; nil once that has it
	before   *http.Request           // it as it was before the base transport had it, where that may have changed it
	given    io.ReadCloser           // the body that out was made with
	fresh    bool                    // given is the attempt's own, and not the caller's
	response *http.Response          // the present attempt's, also if its body has failed
	standIn  *responseBody           // for response's body; nil if that goes to the caller as it is
	final    Stop                    // an inner Transport has ended the call already, for this reason
	sends    *sendLog                // nil where nobody looks and nothing need be proved
	native   bool                    // the base transport is net/http's own, and keeps its contract
	foreign  bool                    // the request is a redirect's hop that has left its origin
	unsafe   bool                    // doing the request twice may do harm: nobody may, net/http included
	context  context.Context         // the attempt's
	cancel   context.CancelCauseFunc // ends context; nil if nothing of ours ever would
	timer    *time.Timer             // AttemptTimeout's, or what is left of MaxElapsed; nil: none
	expired  *timeoutError           // what the timer ends the attempt with
	passes   []Pass                  // of the gates that were entered
	last     Attempt                 // the attempt before, once there is one
	answered Verdict                 // on the last answer; Unclassified: there was none
	status   int                     // of it
	kept     *http.Response          // its answer, if all of it is in memory

	bounded       context.Context // ends when the call must: for gates, and for waiting on the budget
	unbound       context.CancelFunc
	backOff       backoff.BackOff            // the policy's; nil until needed
	standard      backoff.ExponentialBackOff // used where the policy has none
	interval      time.Duration              // what the back-off said last
	leastInterval time.Duration              // and the least that it could have said
	intervals     int                        // that the standard back-off has given
	throttled     int                        // retries after a 429
	throttledAt   time.Time                  // the first of them; zero: there was none
	doubt         bool                       // an attempt may have been carried out, and nobody knows
	judged        bool                       // the Transport's Classify has named the attempt's class
	free          int                        // those of them that MaxAttempts does not count
	unprepared    int                        // retries after a Prepare that failed
	unready       error                      // what Prepare failed of the last time; nil: it has not since the last attempt
	authorized    bool                       // the one retry after a 401 has been made
	why           Stop                       // why a step ended the call early
	started       bool                       // Trace.Start has been told, and not come to a panic
	returned      bool                       // RoundTrip has come to its end, and not to a panic
}

// answer is what a base transport returned.
type answer struct {
	resp  *http.Response
	err   error
	ready bool // false: the attempt is still to be made
	sends *sendLog
}

func (c *call) begin() error {
	if c.first.ready {
		// There were no settings to apply and nobody to tell, or the first attempt would not have
		// been made like that.
		c.body = requestBody{original: c.original.Body, getBody: c.original.GetBody, used: true, handed: true}
		c.native, c.unsafe = true, c.first.sends != nil
		return nil
	}
	c.body.original = c.original.Body // to be closed, however early the call ends
	if s := settingsOf(c.ctx); s != nil {
		if err := c.apply(s); err != nil {
			c.why = StopPermanent
			return err
		}
	}
	if c.policy.Idempotent == nil && c.transport.Idempotent != nil {
		known := *c.policy
		known.Idempotent = c.transport.Idempotent
		c.policy = &known
	}
	if c.watched() || c.policy.MaxElapsed > 0 {
		c.attempt.Began = time.Now()
	}
	if c.trace != nil && c.trace.Start != nil {
		c.ctx = orContext(c.trace.Start(c.ctx, c.original), c.ctx)
	}
	c.started = true
	if c.over() {
		c.why = StopCancelled
		return cancelCause(c.ctx)
	}
	c.foreign = c.original.Response != nil && leftOrigin(c.original)
	if err := c.chooseBase(); err != nil {
		return err
	}
	if c.original.Body == nil {
		return nil
	}
	body, err := newRequestBody(c.bound, c.original, c.policy)
	c.body = body
	if err == nil {
		return nil
	}
	if c.over() || c.bound().Err() != nil {
		return c.interrupted()
	}
	c.why = StopBodyNotReplayable
	return err
}

// apply brings in what the context asks for. The Transport's own policy stays as it is.
func (c *call) apply(s *settings) error {
	c.trace = Join(c.trace, s.trace.awake(c.ctx))
	if len(s.edits) == 0 {
		return nil
	}
	edited := *c.policy
	for _, edit := range s.edits {
		edit(&edited)
	}
	c.policy = &edited
	return edited.check()
}

// maxNesting is how often a base transport may lead back to its Transport in one call: a token for
// the call may be fetched by way of the same one, and a token for that.
const maxNesting = 16

type nesting struct{ *Transport }

// chooseBase finds out what can be expected of the base transport, and refuses one that leads back
// here for ever, which would end in a stack overflow that no recover can stop.
func (c *call) chooseBase() error {
	_, c.native = c.transport.base().(*http.Transport)
	if c.native {
		return nil
	}
	if depth, _ := c.ctx.Value(nesting{c.transport}).(int); depth >= maxNesting {
		c.why = StopPermanent
		return errCycle
	}
	return nil
}

// watched reports whether anybody looks at times and sends.
func (c *call) watched() bool { return c.trace != nil || len(c.transport.Gates) > 0 }

func (c *call) enterGates() error {
	c.attempt = Attempt{
		N: c.attempt.N + 1, Began: c.attempt.Began, Request: c.original, PrevStatus: c.prevStatus(),
		foreign: c.foreign,
	}
	c.sends = c.first.sends
	c.first.sends = nil
	if c.watched() {
		c.sends = &sendLog{watched: true}
		c.attempt.log = c.sends
	}
	for i, gate := range c.transport.Gates {
		if gate == nil {
			continue
		}
		if err := c.enter(gate, i); err != nil {
			return c.refused(err)
		}
	}
	return nil
}

// prevStatus returns the status of the attempt before, 0 if it had no answer, or there was none.
func (c *call) prevStatus() int {
	if c.last.Response == nil {
		return 0
	}
	return c.last.Response.StatusCode
}

func (c *call) enter(gate Gate, index int) error {
	a := c.attempt
	if a.watch = c.watch(WaitGate, index); a.watch != nil {
		defer a.watch.end() // a hook may panic: by then the pass is kept
	}
	pass, err := gate.Enter(c.bound(), a)
	if err == nil && pass != nil {
		c.passes = append(c.passes, pass)
	}
	return err
}

// refused tells a gate's no from the end of the call while it waited there.
func (c *call) refused(err error) error {
	switch {
	case c.over():
		c.why = StopCancelled
		return cancelCause(c.ctx)
	case c.bound().Err() != nil:
		c.why = StopElapsed
		return &timeoutError{"Policy.MaxElapsed", c.policy.MaxElapsed}
	}
	c.why = StopRefused
	if !is[*Refusal](err) {
		return &Refusal{Err: err}
	}
	return err
}

// prepare makes the attempt's request, always from the caller's pristine one.
func (c *call) prepare() error {
	if c.first.ready {
		return nil
	}
	if c.made == 0 && c.unprepared == 0 && c.attempt.N == 1 {
		c.judge()
	}
	if c.unsafe && c.sends == nil {
		c.sends = new(sendLog)
	}
	c.attemptContext()
	body, changed, err := c.body.next(c.context)
	if err != nil {
		c.why = StopBodyNotReplayable
		return &bodyError{err}
	}
	c.fresh = changed
	c.out = c.original
	owned := !c.native || c.touches() || c.unsafe && c.policy.Idempotent != nil && hasKey(c.original)
	if changed || owned || c.context != c.original.Context() {
		c.out = c.original.WithContext(c.context)
		if changed {
			c.out.Body, c.out.GetBody = body, c.body.source()
		}
	}
	if owned {
		// Whoever sets a field sets it on the attempt's own copy. Only net/http's own transport is
		// known to set none.
		c.out.Header = c.original.Header.Clone()
		c.out.URL = cloneURL(c.original.URL)
		ownFields(c.out)
	}
	if c.key != "" {
		c.out.Header.Set("Idempotency-Key", c.key)
	}
	c.attempt.Request, c.given = c.out, c.out.Body
	if c.authorizes() {
		if err := c.authorize(); err != nil {
			return err
		}
	}
	if c.trace != nil && c.trace.AttemptStart != nil {
		if ctx := c.trace.AttemptStart(c.context, c.attempt); ctx != nil && !same(ctx, c.context) {
			c.context = ctx
			c.out = c.out.WithContext(ctx)
			c.attempt.Request = c.out
		}
	}
	if c.given != nil && c.touches() && replaced(c.out.Body, c.given) {
		// A signer has read the body and put its own in the place: nobody else will close the
		// first.
		c.given.Close()
	}
	if c.unsafe {
		if owned {
			hideKeys(c.out.Header)
		}
		if netReplays(c.out.Method) {
			forbidReplay(c.out)
		}
	}
	return nil
}

// ownFields gives an attempt's request all else of its own that a base transport could write into,
// but for the trailer: the caller may fill that in while its body is read.
func ownFields(out *http.Request) {
	out.TransferEncoding = slices.Clone(out.TransferEncoding)
	out.Form, out.PostForm = cloneValues(out.Form), cloneValues(out.PostForm)
}

func cloneValues(v url.Values) url.Values { return url.Values(http.Header(v).Clone()) }

// judge finds out whether nobody may send the request twice, net/http included, and gives it a key
// where it gets one. Where the policy says that not even with a key it is idempotent, it gets none:
// net/http would replay it for having one.
func (c *call) judge() {
	wantsKey := c.policy.IdempotencyKey && !idempotent(c.original.Method) && !hasKey(c.original) && !c.foreign
	if c.policy.Idempotent == nil {
		if wantsKey {
			c.key = newKey()
		}
		c.unsafe = c.key == "" && c.policy.unsafe(c.original)
		return
	}
	shown, had := c.body.shown(c.original)
	if wantsKey {
		key, keyed := newKey(), *shown
		keyed.Header = shown.Header.Clone()
		keyed.Header.Set("Idempotency-Key", key)
		if c.policy.Idempotent(&keyed) {
			c.key = key
		}
	}
	c.unsafe = c.key == "" && c.policy.unsafe(shown)
	c.body.used = c.body.used || *had
}

// newKey returns a Structured Field string, hence the quotes
// (draft-ietf-httpapi-idempotency-key-header).
func newKey() string { return `"` + rand.Text() + `"` }

// attemptContext makes the context of the attempt: one that can be ended, if anything of ours ever
// would, and that takes notes, if anybody needs them.
func (c *call) attemptContext() {
	c.context, c.cancel, c.timer = c.ctx, nil, nil
	if !c.native {
		depth, _ := c.ctx.Value(nesting{c.transport}).(int)
		c.context = context.WithValue(c.context, nesting{c.transport}, depth+1)
	}
	if !c.native || c.policy.AttemptTimeout > 0 || c.policy.IdleTimeout > 0 || c.policy.MaxElapsed > 0 ||
		c.sends.observed() {
		c.context, c.cancel = context.WithCancelCause(c.context)
	}
	if c.sends.observed() {
		c.sends.holdUp(c.bound(), c.context, c.cancel, c.transport.base(), c.original)
	}
	if c.sends != nil {
		c.context = httptrace.WithClientTrace(c.context, c.sends.trace())
	}
}

// hideKeys spells the fields by which net/http decides to replay a request (Request.isReplayable)
// so that it does not find them. Field names have no case on the wire (RFC 9110 section 5.1): the
// server gets them all the same.
func hideKeys(h http.Header) {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
}

// forbidReplay gives a request whose method net/http takes for idempotent a body that it can't have
// twice. It finds that the body is empty, and sends none.
func forbidReplay(out *http.Request) {
	if out.Body == nil || out.Body == http.NoBody {
		out.Body = io.NopCloser(eof{})
		if out.Method == http.MethodTrace {
			// It looks for the end of every replayable method's body but this one's, and would send
			// it in chunks.
			out.TransferEncoding = []string{"identity"}
		}
	}
	out.GetBody = nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// same compares without the panic that values of an incomparable type would cause.
func same(a, b any) bool {
	t := reflect.TypeOf(a)
	switch {
	case t != reflect.TypeOf(b) || t == nil:
		return t == reflect.TypeOf(b)
	case t.Kind() == reflect.Pointer:
		return a == b // as nearly all are, and without what reflect.Value costs
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// replaced reports whether a body is another than the one given. Two of an incomparable type can't
// be told apart: then it is taken to be the one, which must not be closed before it is sent.
func replaced(body, given io.ReadCloser) bool {
	t := reflect.TypeOf(body)
	if t != reflect.TypeOf(given) {
		return true
	}
	if t == nil || t.Kind() != reflect.Pointer && !(reflect.ValueOf(body).Comparable() && reflect.ValueOf(given).Comparable()) {
		return false
	}
	return body != given
}

// touches reports whether anybody may set header fields on the attempt's request.
func (c *call) touches() bool {
	return c.key != "" || c.transport.prepares() || c.trace != nil && c.trace.AttemptStart != nil
}

func (c *call) authorizes() bool { return c.transport.prepares() && !c.foreign }

func (c *call) authorize() error {
	var prev *Attempt
	if c.last.N > 0 {
		last := c.last
		prev = &last
	}
	c.limit(c.remaining(), "Policy.MaxElapsed", c.policy.MaxElapsed)
	err := c.callPrepare(prev)
	switch {
	case err == nil:
		return nil
	case c.over(), c.remaining() == 0:
		return c.interrupted()
	}
	c.why = StopPrepare
	return &prepareError{err}
}

func (c *call) callPrepare(prev *Attempt) error {
	if watch := c.watch(WaitPrepare, -1); watch != nil {
		defer watch.end()
	}
	if authorize := c.transport.Authorize; authorize != nil {
		if err := authorize(c.out, prev); err != nil {
			return err
		}
	}
	if c.transport.Prepare == nil {
		return nil
	}
	return c.transport.Prepare(c.out, prev)
}

// recover waits until a call may go on whose attempt could not be prepared, and returns err if it
// may not. Nothing was sent, so that trying again is safe whatever the request does; it is no
// attempt, and what the last one came to stays.
func (c *call) recover(err error) error {
	if c.why != StopPrepare || !c.retriesPrepare(err) {
		return err
	}
	interval, least := c.nextBackOff()
	delay, stop := c.policy.fits(wait{least: least, most: min(interval, c.policy.maxWait())}, c.remaining(), untilDeadline(c.ctx))
	if stop != "" || interval == backoff.Stop || !c.affords() {
		return err
	}
	c.unprepared++
	c.unready = err
	c.giveBack(err)
	c.attempt.N--
	return c.sitOut(delay, WaitBackOff, true)
}

// retriesPrepare classifies a failure of Prepare as one of the base transport. Of one that is known
// to pass there are as many retries as after a 429, of one that may be anything a single one: an
// authority locks out who asks too often with the wrong secret.
func (c *call) retriesPrepare(err error) bool {
	if c.policy.maxAttempts() == 1 || !c.body.replayable() {
		return false
	}
	switch kindOf(err.(*prepareError).err) {
	case lasting:
		return false
	case unknown:
		return c.unprepared == 0
	}
	return c.policy.MaxThrottled < 0 || c.unprepared < max(c.policy.maxAttempts()-1, c.policy.MaxThrottled)
}

type prepareError struct{ err error }

func (e *prepareError) Error() string { return "Prepare: " + RedactError(e.err) }
func (e *prepareError) Unwrap() error { return e.err }

func (c *call) send() {
	resp, err := c.roundTrip()
	if c.timer != nil && !c.timer.Stop() {
		// The attempt's context has ended, or is about to: whatever came back can't be read any
		// more.
		c.cancel(c.expired)
		if expired, ok := context.Cause(c.context).(*timeoutError); ok {
			resp, err = nil, closing(resp, expired)
		}
	}
	switch {
	case resp != nil && err != nil:
		err = closing(resp, err)
		resp = nil
	case resp == nil && err == nil:
		err = baseError(c.transport.base())
	case resp == nil && c.body.failure() != nil && !c.over():
		err = &bodyError{c.body.failure()} // net/http does not say whose error it was
	case resp != nil && resp.Body == nil:
		whole := *resp
		whole.Body = http.NoBody
		resp = &whole
	}
	c.response, c.attempt.Response, c.attempt.Err = resp, resp, err
	if c.watched() {
		c.account()
	}
}

func (c *call) roundTrip() (*http.Response, error) {
	if c.first.ready {
		c.first.ready = false
		return c.first.resp, c.first.err
	}
	c.limitAttempt()
	if c.watched() {
		// Should the base transport panic, it counts as sent.
		c.attempt.Sent, c.attempt.Sends = time.Now(), 1
	}
	request := c.out
	c.before = c.asSent()
	c.out, c.unready = nil, nil
	c.made = c.attempt.N
	c.body.handed = true
	return c.transport.base().RoundTrip(request)
}

// limitAttempt starts the clock of AttemptTimeout, or of what is left of MaxElapsed, if that is
// less.
func (c *call) limitAttempt() {
	timeout, left := c.policy.AttemptTimeout, c.remaining()
	if left >= 0 && (timeout <= 0 || left < timeout) {
		c.limit(left, "Policy.MaxElapsed", c.policy.MaxElapsed)
	} else if timeout > 0 {
		c.limit(timeout, "Policy.AttemptTimeout", timeout)
		c.sends.timed(c.timer, timeout)
	}
}

// limit ends the attempt after a time, in place of what may have been set before; negative: it is
// not limited.
func (c *call) limit(left time.Duration, bound string, whole time.Duration) {
	if left < 0 {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.expired = &timeoutError{bound, whole}
	cancel, cause := c.cancel, c.expired
	c.timer = time.AfterFunc(max(left, 1), func() { cancel(cause) })
}

// closing closes a response that can't be returned, and returns err.
func closing(resp *http.Response, err error) error {
	if resp != nil && resp.Body != nil {
		resp.Body.Close()
	}
	return err
}

// account notes when and how often the attempt went out. A base transport that does not tell is
// taken to have sent, unless its error proves that it did not: a gate that gave a place back for a
// request that went out would let one too many through.
func (c *call) account() {
	a := &c.attempt
	if a.Response != nil {
		a.Answered = time.Now()
		c.sends.answered(a.Response)
	}
	sent, sends := c.sends.read()
	switch {
	case sends > 0:
		a.Sends = sends
		if !sent.IsZero() {
			a.Sent = sent
		}
	case a.Response == nil && c.unsent():
		a.Sent, a.Sends = time.Time{}, 0
	}
}

// unsent reports whether the attempt provably never left: net/http looked for a connection and took
// none, or HTTP/2's own word says so. Only where nobody looked for one, the error's type is
// believed.
func (c *call) unsent() bool {
	err := c.attempt.Err
	if err == nil {
		return false
	}
	asked, taken := 0, 0
	if c.sends != nil {
		asked, taken = c.sends.connections()
	}
	switch {
	case taken > 0:
		// A base that retries on its own tells of its last try alone; net/http replays only what
		// was not processed.
		return (c.native || taken == 1) && unprocessed(err)
	case asked > 0:
		return true
	}
	return neverSent(err)
}

func (c *call) classify() {
	a := &c.attempt
	resp := c.response
	c.standIn, c.final = nil, ""
	if resp != nil {
		if a.Err == nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout && resp.StatusCode != http.StatusTooManyRequests {
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
		c.answered, c.status = a.Verdict, resp.StatusCode
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
	case a.Response != nil && a.Response.StatusCode < 500:
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
	if c.transport.Classify == nil {
		a.Verdict = standard.Classify(*a)
		return
	}
	v := cleaned(c.transport.Classify(*a))
	if v.Class > Unauthorized {
		a.Verdict = v
		return
	}
	c.judged = v.Class != Unclassified && !byRules(c.transport.Classify)
	var filled Verdict
	if v.Class == Unclassified || v.Code == "" || v.Message == "" || v.TrackingID == "" {
		filled = standard.Classify(*a)
		v.Class = cmp.Or(v.Class, filled.Class)
		v.Code, v.Message = cmp.Or(v.Code, filled.Code), cmp.Or(v.Message, filled.Message)
		v.TrackingID = cmp.Or(v.TrackingID, filled.TrackingID)
	}
	if v.RetryAfter == 0 && a.Response != nil && (v.Class == Transient || v.Class == Throttled) {
		v.RetryAfter = cmp.Or(pushback(a.Response, v.Class), filled.RetryAfter)
	}
	a.Verdict = v
}

// plain reports whether an answer is a success that nobody has to look into.
func (c *call) plain(resp *http.Response) bool {
	return resp.StatusCode < 400 && c.transport.Classify == nil && (c.policy.MaxRead <= 0 || !successful(resp))
}

func successful(resp *http.Response) bool { return 200 <= resp.StatusCode && resp.StatusCode <= 299 }

// peek reads what classifying needs of the body, or, under MaxRead, all that the caller will.
func (c *call) peek(resp *http.Response) {
	if resp.Body == http.NoBody {
		return
	}
	c.standIn = c.newStandIn()
	switch {
	case resp.StatusCode >= 400:
		if inner, ok := AttemptOf(resp); ok {
			// An inner Transport has peeked already; what it has left is not read twice.
			c.standIn, c.attempt.Body = nil, inner.Body
			if settles(inner.Stop, inner.N, inner.Verdict.Class) {
				c.final, c.attempt.Verdict = inner.Stop, inner.Verdict
			}
			return
		}
		c.attempt.Body = c.standIn.peek(resp, peekTime, c.ctx.Done(), c.legacyCancel())
	case c.policy.MaxRead > 0 && successful(resp) && c.idempotent():
		err := c.standIn.readWhole(resp, c.policy.MaxRead, c.remaining(), c.ctx.Done(), c.legacyCancel())
		if err == errReadEnded && !c.over() {
			err = nil // MaxElapsed has: the rest is for the caller to wait for
		}
		if err != nil {
			c.attempt.Response, c.attempt.Err = nil, err
		} else if c.standIn.whole() {
			c.attempt.Body = c.standIn.ahead.buffer // GraphQL throttles with a 200
		}
	}
}

// settled reports whether an inner Transport has said all there is to say. Two of them must not
// multiply their attempts.
func (c *call) settled() bool {
	if c.attempt.Err == nil {
		return c.final != ""
	}
	inner, ok := errors.AsType[*Error](c.attempt.Err)
	if !ok || !settles(inner.Stop, inner.Attempts, inner.Class) {
		return false
	}
	c.final, c.attempt.Verdict = inner.Stop, cleaned(inner.Verdict) // any base can make an *Error
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

// asSent keeps of the attempt's request what the policy goes by, for when the attempt has failed: a
// base transport may write into what it is given, and a key that it adds to each attempt, or a
// method that it sends in another's place, makes nothing idempotent. nil: the request can't change.
func (c *call) asSent() *http.Request {
	if c.native {
		return nil
	}
	if !c.touches() {
		shown, _ := c.body.shown(c.original)
		return shown
	}
	kept := *c.out
	kept.Header, kept.URL = c.out.Header.Clone(), cloneURL(c.out.URL)
	return &kept
}

func (c *call) idempotent() bool { return c.policy.idempotent(cmp.Or(c.before, c.attempt.Request)) }

func (c *call) decide() {
	a := &c.attempt
	if a.Verdict.Class == Success && c.final == "" {
		a.Stop = StopDone
	} else {
		a.Wait, a.Stop = c.next()
	}
	if a.Stop != "" {
		a.Wait, a.ServerAsked = 0, false
	}
	if c.standIn != nil {
		c.standIn.attempt = *a
	}
	if c.trace != nil && c.trace.AttemptDone != nil {
		c.trace.AttemptDone(c.context, *a)
	}
}

// next says how long to wait before the next attempt, or why there is none.
func (c *call) next() (time.Duration, Stop) {
	v := c.attempt.Verdict
	switch {
	case c.final != "":
		return 0, c.final
	case v.Class != Permanent && c.over():
		return 0, StopCancelled
	}
	s := situation{
		attempts:     c.attempt.N - c.free,
		throttled:    c.throttled,
		authorizable: c.authorizes() && !c.authorized,
		replayable:   c.body.replayable(),
	}
	if v.Class == Transient {
		s.idempotent = c.idempotent()
		s.unsent = !s.idempotent && c.unsent()
		s.unknown = c.attempt.Err != nil && !c.native && !c.judged && kindOf(c.attempt.Err) == unknown
	}
	if stop := c.policy.permit(v, s); stop != "" {
		if err := c.attempt.Err; stop == StopPermanent && err != nil && unread(err) && !c.idempotent() {
			stop = StopNotIdempotent
		}
		return 0, stop
	}
	paced, free := c.pace(v), c.policy.free(v, s)
	if free && paced.most != backoff.Stop {
		// A service that asks for a millisecond for ever would be a hot loop.
		const least = 100 * time.Millisecond
		paced.least, paced.most = max(paced.least, least), max(paced.most, least)
	}
	wait, stop := c.policy.fits(paced, c.remaining(), untilDeadline(c.ctx))
	if stop == "" {
		stop = c.tooLong(v, wait)
	}
	if stop != "" {
		return 0, stop
	}
	if !c.body.claim() {
		return 0, StopBodyNotReplayable
	}
	if c.costs(v) && !c.affords() {
		return 0, StopBudget
	}
	c.attempt.ServerAsked = paced.asked > 0 && (wait > paced.own || paced.asked >= paced.own)
	if free {
		c.free++
	}
	if v.Class == Throttled {
		c.throttled++
	}
	c.authorized = c.authorized || v.Class == Unauthorized
	return wait, ""
}

// tooLong says why a wait is not begun that is longer than it looks: by what the budget's queue
// adds, or since there have been too many before it.
func (c *call) tooLong(v Verdict, wait time.Duration) Stop {
	if c.costs(v) && c.budget().Wait && c.budget().Max >= 0 {
		queue := c.budget().of(c.original).expected()
		if left := c.remaining(); left >= 0 && queue >= left {
			return StopElapsed
		}
		if left := untilDeadline(c.ctx); left >= 0 && queue >= left {
			return StopDeadline
		}
	}
	if v.Class == Throttled && c.policy.MaxThrottled < 0 && c.policy.MaxElapsed <= 0 {
		if c.throttledAt.IsZero() {
			c.throttledAt = time.Now()
		}
		if time.Since(c.throttledAt)+wait > maxThrottling {
			return StopElapsed
		}
	}
	return ""
}

// pace returns the larger of the back-off and the pushback. Only a failure, or a throttling that
// named no time, makes the back-off grow; new credentials need no wait.
func (c *call) pace(v Verdict) wait {
	if v.Class == Unauthorized {
		return wait{}
	}
	if !named(v) {
		c.interval, c.leastInterval = c.nextBackOff()
		if c.interval == backoff.Stop {
			return wait{most: backoff.Stop}
		}
	}
	least, most := min(c.leastInterval, c.policy.maxWait()), min(c.interval, c.policy.maxWait())
	if v.Class == Throttled {
		floor := throttlePace(c.throttled + 1)
		least, most = max(least, floor), max(most, floor)
	}
	return wait{max(least, v.RetryAfter), max(most, spread(v.RetryAfter)), v.RetryAfter, most}
}

// nextBackOff returns the next interval, and the least that it could have been: that of a back-off
// of the policy's own is what it says.
func (c *call) nextBackOff() (interval, least time.Duration) {
	if c.backOff == nil && c.policy.NewBackOff != nil {
		if c.backOff = c.policy.NewBackOff(); c.backOff != nil {
			if literal, ok := c.backOff.(*backoff.ExponentialBackOff); ok && literal.Clock == nil {
				literal.Clock = backoff.SystemClock // its Reset would panic
			}
			c.backOff.Reset() // what was set after the constructor counts from here
		}
	}
	if c.backOff != nil {
		interval = c.backOff.NextBackOff()
		return interval, interval
	}
	if c.standard.Clock == nil {
		c.standard = defaultBackOff()
	}
	middle := min(c.standard.InitialInterval<<min(c.intervals, 10), c.standard.MaxInterval)
	c.intervals++
	return c.standard.NextBackOff(), middle / 2
}

// costs reports whether the retry is one that successes must pay for. One that the service itself
// dated is not.
func (c *call) costs(v Verdict) bool {
	return v.Class == Transient || v.Class == Throttled && !named(v)
}

// affords takes the price of a retry, unless that is waited for.
func (c *call) affords() bool { return c.budget().Wait || c.budget().Take(c.original) }

func (c *call) budget() *Budget { return c.transport.budgetOf(c.policy) }

// remaining is what is left of MaxElapsed, negative if it is not set.
func (c *call) remaining() time.Duration {
	if c.policy.MaxElapsed <= 0 {
		return -1
	}
	return max(0, c.policy.MaxElapsed-time.Since(c.attempt.Began))
}

func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return -1
	}
	return max(0, time.Until(deadline))
}

// leaveGates tells the gates what became of the attempt, in reverse order of entering. Each is told
// exactly once, even if another one panics.
func (c *call) leaveGates() {
	if len(c.passes) == 0 {
		return
	}
	defer c.leaveGates()
	pass := c.passes[len(c.passes)-1]
	c.passes = c.passes[:len(c.passes)-1]
	if c.foreign {
		pass.Leave(c.attempt.masked())
		return
	}
	pass.Leave(c.attempt)
}

// wait sits out what the decision asked for, after it has given back all that the attempt held.
func (c *call) wait() error {
	wait := c.attempt.Wait
	c.last = c.attempt
	c.kept = nil
	if c.response != nil {
		c.keepOrDrop()
	}
	c.endAttempt()
	cause := WaitBackOff
	if c.last.ServerAsked {
		cause = WaitServer
	}
	return c.sitOut(wait, cause, c.costs(c.last.Verdict))
}

// sitOut waits for so long, and until the budget covers a retry that costs.
func (c *call) sitOut(wait time.Duration, cause WaitCause, costs bool) error {
	if costs && c.budget().Wait && c.budget().Max >= 0 {
		asked := time.Now()
		if err := c.queueForBudget(); err != nil {
			return c.notCovered(err)
		}
		// The time on the budget's queue has been a back-off too.
		wait -= time.Since(asked)
	}
	if wait <= 0 {
		return nil
	}
	if watch := c.watch(cause, -1); watch != nil {
		watch.begin(wait)
		defer watch.end()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.ctx.Done():
	case <-c.legacyCancel():
	}
	return c.interrupted()
}

// notCovered tells a queue that is too long from the end of the call while it waited there.
func (c *call) notCovered(err error) error {
	late, ok := errors.AsType[*durations.TooLate](err)
	if !ok || c.over() {
		return c.interrupted()
	}
	if left := c.remaining(); left >= 0 && late.Needs >= left {
		return c.interrupted()
	}
	c.why = StopDeadline
	return late
}

func (c *call) queueForBudget() error {
	if watch := c.watch(WaitBudget, -1); watch != nil {
		defer watch.end()
	}
	return c.budget().of(c.original).wait(c.bound(), c.legacyCancel())
}

func (c *call) interrupted() error {
	if !c.over() {
		c.why = StopElapsed
		return &timeoutError{"Policy.MaxElapsed", c.policy.MaxElapsed}
	}
	c.why = StopCancelled
	return cancelCause(c.ctx)
}

// legacyCancel is the channel that http.Client still uses for its Timeout.
func (c *call) legacyCancel() <-chan struct{} {
	//lint:ignore SA1019 a RoundTripper must obey it as long as http.Client sets it
	return c.original.Cancel
}

// over reports whether the caller has ended the call.
func (c *call) over() bool {
	if c.ctx.Err() != nil {
		return true
	}
	select {
	case <-c.legacyCancel():
		return true
	default:
		return false
	}
}

// bound returns the context that ends when the call must.
func (c *call) bound() context.Context {
	if c.bounded != nil {
		return c.bounded
	}
	c.bounded = c.ctx
	if c.policy.MaxElapsed > 0 {
		c.bounded, c.unbound = context.WithDeadline(c.bounded, c.attempt.Began.Add(c.policy.MaxElapsed))
	}
	if c.legacyCancel() != nil {
		// Gates know contexts only.
		ctx, cancel := context.WithCancel(c.bounded)
		unbound := c.unbound
		c.bounded, c.unbound = ctx, func() {
			cancel()
			if unbound != nil {
				unbound()
			}
		}
		go func(cancelled <-chan struct{}) {
			select {
			case <-cancelled:
				cancel()
			case <-ctx.Done():
			}
		}(c.legacyCancel())
	}
	return c.bounded
}
