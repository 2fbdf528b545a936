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

	"github.com/steadyhttp/steadyhttp/internal/bodies"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/origin"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
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
	unsafe    bool   // doing the request twice may do harm: nobody may, net/http included

	try    // the present attempt
	pacing // what came of those before, as far as the next one's time goes by it

	last     Attempt // the attempt before, once there is one
	kept     kept    // its answer, if all of it is in memory
	answered Verdict // on the last answer; Unclassified: there was none
	status   int     // of it
	doubt    bool    // an attempt may have been carried out, and nobody knows
	below    int     // attempts of Transports below, over and above ours
	unready  error   // what Prepare failed of the last time; nil: it has not since the last attempt

	bounded  context.Context // ends when the call must: for gates, and for waiting on the budget
	unbound  context.CancelFunc
	started  bool // Trace.Start has been told, and not come to a panic
	returned bool // RoundTrip has come to its end, and not to a panic
}

func (c *call) begin() error {
	if c.first.ready {
		// There were no settings to apply and nobody to tell, or the first attempt would not have
		// been made like that.
		c.body = requestBody{original: c.original.Body, getBody: c.original.GetBody, used: true, handed: true}
		c.unsafe = c.first.sends != nil
		return nil
	}
	c.body.original = c.original.Body // to be closed, however early the call ends
	if s := settingsOf(c.ctx); s != nil {
		if err := c.apply(s); err != nil {
			c.why = StopPermanent
			return err
		}
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
	if err := c.checkBase(); err != nil {
		return err
	}
	c.body = newRequestBody(c.original, c.policy)
	return nil
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

// native reports whether the base transport is net/http's own, and keeps its contract.
func (c *call) native() bool {
	_, native := c.transport.base().(*http.Transport)
	return native
}

// checkBase refuses a base transport that leads back here for ever, which would end in a stack
// overflow that no recover can stop.
func (c *call) checkBase() error {
	if c.native() {
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
	foreign := c.original.Response != nil && origin.Left(c.original)
	c.try = try{
		attempt: Attempt{
			N: c.attempt.N + 1, Began: c.attempt.Began, Request: c.original, foreign: foreign, renewed: c.authorized,
		},
		first: c.first, sends: c.first.sends, passes: c.passes,
	}
	if c.watched() {
		c.sends = &sendlog.Log{Watched: true}
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
	if c.unprepared == 0 && c.attempt.N == 1 {
		c.judge()
	}
	if c.unsafe && c.sends == nil {
		c.sends = new(sendlog.Log)
	}
	c.attemptContext()
	body, changed, err := c.body.next(c.context)
	if err != nil {
		c.why = StopBodyNotReplayable
		return &bodyError{err}
	}
	c.fresh = changed
	c.out = c.original
	owned := !c.native() || c.touches() || c.unsafe && c.policy.Idempotent != nil && hasKey(c.original)
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
	if c.given != nil && c.touches() && bodies.Replaced(c.out.Body, c.given) {
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
		} else if maySpeakHTTP2(c.transport.base(), c.original) {
			c.out.GetBody = nil
		}
	}
	return nil
}

func cloneURL(u *url.URL) *url.URL {
	clone := *u
	if u.User != nil {
		user := *u.User
		clone.User = &user
	}
	return &clone
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
	wantsKey := c.policy.IdempotencyKey && !idempotent(c.original.Method) && !hasKey(c.original) && !c.attempt.foreign
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
	if !c.native() {
		depth, _ := c.ctx.Value(nesting{c.transport}).(int)
		c.nest = &nest{Context: c.context, transport: c.transport, depth: depth + 1}
		c.context = c.nest
	}
	if !c.native() || c.policy.AttemptTimeout > 0 || c.policy.IdleTimeout > 0 || c.policy.MaxElapsed > 0 ||
		c.sends.Observed() {
		c.context, c.cancel = context.WithCancelCause(c.context)
	}
	if c.sends.Observed() {
		c.sends.HoldUp(c.bound(), c.context, c.cancel, c.transport.base(), c.original)
	}
	if c.sends != nil {
		c.context = httptrace.WithClientTrace(c.context, c.sends.Trace())
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

// maySpeakHTTP2 reports whether a request may go over HTTP/2, where net/http replays whatever it
// can also after RST_STREAM with PROTOCOL_ERROR (golang/go#47635), which does not say that nothing
// was done. It can't without GetBody; it then says in its error what it would have replayed after,
// and a request that provably was not processed is retried here.
func maySpeakHTTP2(base http.RoundTripper, req *http.Request) bool {
	if strings.EqualFold(req.URL.Scheme, "https") {
		return true
	}
	native, ok := base.(*http.Transport)
	return ok && native.Protocols != nil && native.Protocols.UnencryptedHTTP2()
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

// touches reports whether anybody may set header fields on the attempt's request.
func (c *call) touches() bool {
	return c.key != "" || c.transport.Prepare != nil || c.trace != nil && c.trace.AttemptStart != nil
}

func (c *call) authorizes() bool { return c.transport.Prepare != nil && !c.attempt.foreign }

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
	return c.transport.Prepare(c.out, prev)
}

// recover waits until a call may go on whose attempt could not be prepared, and returns err if it
// may not. Nothing was sent, so that trying again is safe whatever the request does; it is no
// attempt, and what the last one came to stays.
func (c *call) recover(err error) error {
	if c.why != StopPrepare || !c.retriesPrepare(err) {
		return err
	}
	c.nextBackOff(c.policy)
	pause := wait{least: c.leastInterval(), most: min(c.interval, c.policy.maxWait())}
	delay, stop := c.policy.fits(pause, c.remaining(), untilDeadline(c.ctx))
	if stop != "" || c.interval == backoff.Stop || !c.affords() {
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
		made := c.first
		c.first = answer{}
		return made.resp, made.err
	}
	c.limitAttempt()
	if c.watched() {
		// Should the base transport panic, it counts as sent.
		c.attempt.Sent, c.attempt.Sends = time.Now(), 1
	}
	request := c.out
	c.before = c.asSent()
	c.out, c.unready = nil, nil
	c.handed, c.body.handed = true, true
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
		c.sends.Timed(c.timer, timeout)
	}
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
		c.sends.Answered(a.Response)
	}
	sent, sends := c.sends.Read()
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
		asked, taken = c.sends.Connections()
	}
	switch {
	case taken > 0:
		// A base that retries on its own tells of its last try alone; net/http replays only what
		// was not processed.
		return (c.native() || taken == 1) && unprocessed(err) || taken == 1 && c.unwritten()
	case asked > 0:
		return true
	}
	if inner, ok := err.(*Error); ok {
		return inner.proved || inner.unsent
	}
	// What may be sent twice is sent without notes. Nothing but Ambiguous hangs on it there.
	return neverSent(err) || !c.unsafe && (c.native() || errors.Unwrap(err) == nil) && unprocessed(err)
}

// unwritten reports whether nothing of the request was written to the one HTTP/1.1 connection that
// was taken for it, which had died before.
func (c *call) unwritten() bool {
	wrote, http1 := c.sends.Wrote()
	http1 = http1 || c.native() && !maySpeakHTTP2(c.transport.base(), c.original)
	return http1 && (!wrote || c.native() && nothingWritten(c.attempt.Err))
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

// refusedByProxy makes a proxy's no to CONNECT final that it said in words of its own.
func (c *call) refusedByProxy() {
	a := &c.attempt
	if a.Err != nil && a.Verdict.Class == Transient && !c.judged && c.byProxy() && kindOfPhrase(a.Err.Error()) == lasting {
		a.Verdict.Class = Permanent
	}
}

// byProxy reports whether the attempt's error is, for all we know, a proxy's answer to CONNECT:
// net/http has a bare text for that, and nothing else that kindOf does not know.
func (c *call) byProxy() bool {
	native, ok := c.transport.base().(*http.Transport)
	if !ok || reflect.TypeOf(c.attempt.Err) != plainText || kindOf(c.attempt.Err) != unknown {
		return false
	}
	return strings.EqualFold(c.original.URL.Scheme, "https") && sendlog.Proxied(native, c.original)
}

// plain reports whether an answer is a success that nobody has to look into.
func (c *call) plain(resp *http.Response) bool {
	return resp.StatusCode < 400 && c.transport.Classify == nil && (c.policy.MaxRead <= 0 || !successful(resp))
}

func successful(resp *http.Response) bool { return 200 <= resp.StatusCode && resp.StatusCode <= 299 }

// peek reads what classifying needs of the body, or, under MaxRead, all that the caller will.
func (c *call) peek(resp *http.Response) {
	inner, nested := c.inner()
	if nested = nested && (resp.StatusCode >= 400 || inner.Stop != StopDone); nested {
		c.below += inner.N - 1
		if settles(&inner) {
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
	case resp.StatusCode >= 400:
		c.attempt.Body = c.standIn.peek(resp, peekTime, c.ctx.Done(), c.legacyCancel())
	case c.policy.MaxRead > 0 && successful(resp) && c.idempotent():
		err := c.standIn.readWhole(resp, c.policy.MaxRead, c.remaining(), c.ctx.Done(), c.legacyCancel())
		if err == errReadEnded && !c.over() {
			err = nil // MaxElapsed has: the rest is for the caller to wait for
		}
		if err != nil {
			c.attempt.Response, c.attempt.Err = nil, err
		} else if c.standIn.whole() {
			c.attempt.Body = c.standIn.ahead.Bytes() // GraphQL throttles with a 200
		}
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
		if !ours(inner) {
			ended.Stop, ended.Verdict.Class = StopPermanent, Permanent
		}
	} else if ended, ok = c.inner(); !ok {
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

// ours reports whether an *Error could be a Transport's. Any base can make one, with a Stop that is
// none, and Stops end up on metrics.
func ours(e *Error) bool {
	switch e.Stop {
	case "", StopPermanent, StopNotIdempotent, StopBodyNotReplayable, StopAttempts, StopElapsed, StopWaitTooLong,
		StopDeadline, StopBudget, StopRefused, StopPrepare, StopCancelled:
		return e.Class <= Unauthorized
	}
	return false
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
	if c.native() {
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
		attempts:     c.attempt.N + c.below - c.policy.uncounted(c.throttled),
		throttled:    c.throttled,
		authorizable: c.authorizes() && !c.authorized,
		replayable:   c.body.replayable(),
	}
	if v.Class == Transient {
		s.idempotent = c.idempotent()
		s.unsent = !s.idempotent && c.unsent()
		s.unknown = c.attempt.Err != nil && !c.judged && (!c.native() && kindOf(c.attempt.Err) == unknown ||
			c.byProxy() && kindOfPhrase(c.attempt.Err.Error()) == unknown)
	}
	if stop := c.policy.permit(v, s); stop != "" {
		if err := c.attempt.Err; stop == StopPermanent && err != nil && unread(err) && !c.idempotent() {
			stop = StopNotIdempotent
		}
		return 0, stop
	}
	paced, free := c.pace(c.policy, v), c.policy.free(v, s)
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
	c.count(v)
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
	if v.Class == Throttled && c.policy.MaxThrottled < 0 && c.policy.MaxElapsed <= 0 &&
		c.throttledFor()+wait > maxThrottling {
		return StopElapsed
	}
	return ""
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
	if c.attempt.foreign {
		pass.Leave(c.attempt.masked())
		return
	}
	pass.Leave(c.attempt)
}

// wait sits out what the decision asked for, after it has given back all that the attempt held.
func (c *call) wait() error {
	wait := c.attempt.Wait
	c.last = c.attempt
	c.kept = kept{}
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
