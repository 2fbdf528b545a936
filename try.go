package steadyhttp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/sendlog"
	"github.com/steadyhttp/steadyhttp/internal/waits"
)

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
		return &bodyError{neterr.Solid("Request.GetBody", err)}
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
	getBody := c.out.GetBody
	if c.authorizes() {
		if err := c.authorize(); err != nil {
			return err
		}
	}
	seen := c.authorizes()
	if c.trace != nil && c.trace.AttemptStart != nil {
		seen = true
		if ctx := c.trace.AttemptStart(c.context, c.attempt); ctx != nil && !same(ctx, c.context) {
			c.context = ctx
			c.out = c.out.WithContext(ctx)
			c.attempt.Request, seen = c.out, false
		}
	}
	replaced := c.given != nil && c.touches() && bodies.Replaced(c.out.Body, c.given)
	if seen && (replaced || c.unsafe) {
		own := *c.out // who has seen it may still be reading it
		c.out, c.attempt.Request = &own, &own
	}
	if replaced {
		c.replaced(getBody)
	}
	if c.unsafe {
		if owned {
			c.out.Header = withoutKeys(c.out.Header, c.touches())
		}
		if netReplays(c.out.Method) {
			forbidReplay(c.out)
		} else if maySpeakHTTP2(c.base(), c.original) {
			c.withheld, c.out.GetBody = c.out.GetBody, nil
		}
	}
	return nil
}

// replaced follows up what Prepare or a hook has put in the place of the attempt's body: a signer
// that has read it puts in what it read, and who counts or packs puts in what will read it. Who
// replays the attempt below must send that too, and not what getBody makes.
func (c *call) replaced(getBody func() (io.ReadCloser, error)) {
	if bodies.SameFunc(c.out.GetBody, getBody) {
		c.out.GetBody = bodies.Again(c.out.Body)
	}
	c.out.Body = bodies.InPlaceOf(c.out.Body, c.given)
}

func cloneURL(u *url.URL) *url.URL {
	if u == nil {
		return nil // as Prepare has left it: the base says what that is
	}
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
		c.sends.HoldUp(c.bound(), c.context, c.cancel, c.base(), c.original, c.onReplays())
	}
	if c.sends != nil {
		c.context = httptrace.WithClientTrace(c.context, c.sends.Trace())
	}
}

// withoutKeys spells the fields by which net/http decides to replay a request (Request.isReplayable)
// so that it does not find them. Field names have no case on the wire (RFC 9110 section 5.1): the
// server gets them all the same. seen: somebody may still be reading h.
func withoutKeys(h http.Header, seen bool) http.Header {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			if seen {
				h, seen = h.Clone(), false
			}
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
	return h
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
	err = c.own(neterr.Solid("Transport.Base", err))
	switch {
	case resp != nil && err != nil:
		err = closing(resp, err)
		resp = nil
	case resp == nil && err == nil:
		err = baseError(c.base())
	case resp == nil && c.body.failure() != nil && !c.over():
		err = &bodyError{neterr.Solid("Request.Body", c.body.failure())} // net/http does not say whose error it was
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

// own tells a Transport below from one beside this: net/http returns the cause that a context was
// ended with, and in a group of calls that is the error of the first one that failed. It says nothing
// of this call, least of all that it was not sent.
func (c *call) own(err error) error {
	other, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	ctx := c.context
	if ctx == nil {
		ctx = c.ctx // the attempt was made as it is
	}
	if cause, ok := errors.AsType[*Error](context.Cause(ctx)); ok && cause == other {
		return &veiled{err}
	}
	return err
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
	resp, err := c.base().RoundTrip(request)
	if err != nil && c.withheld != nil && c.native() {
		return replay(c.base(), request, c.withheld, resp, err)
	}
	return resp, err
}

// replay does for a request whose GetBody was withheld (see maySpeakHTTP2) what net/http would have
// done with it: where HTTP/2 vouches for it that the server has not looked at the request, it is
// sent again, as often and after as long as net/http sends others.
func replay(
	base http.RoundTripper, out *http.Request, getBody func() (io.ReadCloser, error), resp *http.Response, err error,
) (*http.Response, error) {
	const most = 7
	for n := 0; n < most && neterr.Unprocessed(err); n++ {
		if n > 0 {
			pause := time.Second << (n - 1)
			timer := time.NewTimer(pause + mathrand.N(pause/10))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-out.Context().Done(): // which the base transport says by itself
			}
		}
		body, failed := bodies.Renew(getBody)
		if failed != nil {
			break
		}
		again := *out
		again.Body = body
		resp, err = base.RoundTrip(&again)
	}
	return resp, err
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
// none, or refused to; or HTTP/2's own word says so. Only where nobody looked for one, the error's
// type is believed.
func (c *call) unsent() bool {
	err := c.attempt.Err
	if err == nil {
		return false
	}
	asked, taken := 0, 0
	switch {
	case c.sends == nil:
	case c.native():
		asked, taken = c.sends.Connections() // net/http is done with the request
	default:
		asked, taken = c.sends.Seal()
	}
	switch {
	case taken > 0:
		// A base that retries on its own tells of its last try alone; net/http replays only what
		// was not processed.
		return (c.native() || taken == 1) && neterr.Unprocessed(err) || taken == 1 && c.unwritten()
	case asked > 0:
		return true
	}
	if native, ok := c.base().(*http.Transport); ok &&
		(neterr.Refused(err, c.attempt.Request) || sendlog.Unproxied(native, c.attempt.Request, err)) {
		return true
	}
	if inner, ok := err.(*Error); ok {
		return inner.proved || inner.unsent
	}
	// What may be sent twice is sent without notes. Nothing but Ambiguous hangs on it there.
	return neterr.NeverSent(err) || !c.unsafe && (c.native() || errors.Unwrap(err) == nil) && neterr.Unprocessed(err)
}

// unwritten reports whether nothing of the request was written to the one HTTP/1.1 connection that
// was taken for it, which had died before.
func (c *call) unwritten() bool {
	wrote, http1 := c.sends.Wrote()
	http1 = http1 || c.native() && !maySpeakHTTP2(c.base(), c.original)
	return http1 && (!wrote || c.native() && neterr.NothingWritten(c.attempt.Err))
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

func baseError(base http.RoundTripper) error {
	return fmt.Errorf("steadyhttp: Transport.Base (%T) returned neither: %w", base, errBase)
}

// netReplays reports whether net/http may replay a request of the method by itself
// (Request.isReplayable).
func netReplays(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// onReplays returns what tells of a wait for a place of a replay; nil where nobody wants to know. It
// keeps no hold of the call, which is still on the stack.
func (c *call) onReplays() sendlog.Watch {
	if c.trace == nil || c.trace.Waiting == nil && c.trace.Waited == nil {
		return nil
	}
	trace, ctx, a := c.trace, c.ctx, c.attempt
	return func(replay context.Context, gate int) (context.Context, func()) {
		w := newWatch(trace, ctx, a, Wait{WaitGate, gate, 0})
		return waits.With(replay, w), w.end
	}
}

// closeBodies closes request bodies after a panic, when nobody knows whether the base transport has
// done so.
func closeBodies(requests ...*http.Request) {
	for _, req := range requests {
		if req != nil && req.Body != nil {
			defer req.Body.Close() // all of them, even if one panics
		}
	}
}
