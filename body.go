package steadyhttp

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
	"github.com/steadyhttp/steadyhttp/internal/ended"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
	"github.com/steadyhttp/steadyhttp/internal/readahead"
)

// Bounds on what is read of a response that is not the caller's to read.
const (
	peekSize  = 64 << 10
	peekTime  = time.Second
	drainTime = 50 * time.Millisecond
)

var errReadEnded = errors.New("steadyhttp: the response's body had not ended yet")

// requestBody gives each attempt of a call a body of its own. Two attempts never share a reader:
// net/http may still be writing the first one's body when its answer, and our retry, are already
// under way (golang/go#30597).
type requestBody struct {
	original io.ReadCloser                 // nil: the request has none
	getBody  func() (io.ReadCloser, error) // nil: it can be sent once
	once     *bodies.Recorder              // the original, watched, if it can be sent once
	lender   *bodies.Lender                // of the original and what GetBody makes; nil: they are given away
	apart    bool                          // GetBody may rewind what is in memory: attempts read copies
	used     bool                          // an attempt has had the original
	handed   bool                          // the base transport has been given it, and closes it
}

// newRequestBody wraps nothing that is small and in memory: net/http looks at a body's type to tell
// an empty one, and to send it along with its headers in one piece.
func newRequestBody(req *http.Request, p *Policy) requestBody {
	b := requestBody{original: req.Body, getBody: req.GetBody}
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		b.original = nil
		return b
	case p.maxAttempts() == 1 || tunnel(req):
		return b
	case unsetTrailer(req):
		// The caller fills the trailer in while its body is read: a second reading would not have
		// it.
		b.getBody = nil
	case bodies.MakesReaders(b.getBody):
		return b
	case b.getBody != nil:
		if !bodies.InMemory(req.Body) {
			b.lender = bodies.Lend(b.original, b.getBody)
		} else {
			b.apart, b.getBody = true, bodies.Apart(b.getBody)
		}
		return b
	}
	length, content := req.ContentLength, bodies.Memory(req.Body)
	if content != nil {
		length = int64(content.Len()) // it knows, whatever the request says of it
	}
	limit := p.maxBuffer(length)
	if unsetTrailer(req) {
		limit = 0
	}
	if content != nil && length <= limit {
		b.getBody = bodies.Again(req.Body)
		return b
	}
	b.once = bodies.Record(req.Body, limit)
	return b
}

func unsetTrailer(req *http.Request) bool {
	for _, values := range req.Trailer {
		if values == nil {
			return true
		}
	}
	return false
}

// next returns a body for the next attempt. changed reports whether it is another than the
// request's own.
func (b *requestBody) next(ctx context.Context) (body io.ReadCloser, changed bool, err error) {
	first := !b.used
	b.used = true
	switch {
	case b.original == nil:
		return nil, false, nil
	case b.once != nil:
		return b.once.Next(), true, nil
	case b.lender != nil:
		body, err = b.lender.Next(ctx)
		return body, true, err
	case first && b.apart:
		return bodies.Copy(b.original), true, nil
	case first:
		return b.original, false, nil
	}
	if !b.handed {
		b.handed = true
		b.original.Close() // Prepare may have read of it, and failed
	}
	body, err = bodies.Renew(b.getBody)
	return body, true, err
}

// shown returns req as a policy may look at it before it is sent, and whether the policy has had a
// body of it by then. It may be the very reader that is to be sent, rewound, and it may be closed.
func (b *requestBody) shown(req *http.Request) (shown *http.Request, had *bool) {
	had = new(bool)
	source := b.source()
	if b.original == nil || source == nil {
		return req, had
	}
	copied := *req
	copied.GetBody = func() (io.ReadCloser, error) {
		*had = true
		return source()
	}
	return &copied, had
}

// source is the attempt's own GetBody, which net/http calls where it replays a request by itself.
func (b *requestBody) source() func() (io.ReadCloser, error) {
	switch {
	case b.once != nil && b.once.Records():
		return b.once.Renew
	case b.lender == nil:
		return b.getBody
	}
	lender := b.lender // b itself must stay on the stack
	return func() (io.ReadCloser, error) { return lender.Renew(context.Background()) }
}

// replayable reports whether a further attempt would have a body.
func (b *requestBody) replayable() bool {
	return b.original == nil || b.getBody != nil && b.once == nil || b.once != nil && b.once.Replayable()
}

// claim takes the body from the attempt before, for the one that was decided on: an attempt whose
// answer came early may still be about to read it. It reports false if it has read some of it by
// now.
func (b *requestBody) claim() bool { return b.once == nil || b.once.Claim() }

// failure returns what reading the caller's own body came to, nil if it has not failed.
func (b *requestBody) failure() error {
	switch {
	case b.once != nil:
		return b.once.Failure()
	case b.lender != nil:
		return b.lender.Failure()
	}
	return nil
}

// close closes what the base transport was not given to close.
func (b *requestBody) close() {
	switch {
	case b.original == nil:
	case b.once != nil:
		b.once.Release()
	case b.lender != nil:
		b.lender.Release()
	case !b.handed:
		b.original.Close()
	}
}

// responseBody stands in for a response's body: it gives back what was peeked, and it knows when
// the caller has come to the end, which is when the attempt's context may be cancelled and its call
// is done.
type responseBody struct {
	attempt Attempt
	idle    time.Duration           // bounds each Read; 0: none
	cancel  context.CancelCauseFunc // ends the attempt; may be nil
	told    *Trace                  // whose Done is called once at the end; nil: nobody's
	ctx     context.Context         // for it
	loss    runtime.Cleanup         // calls it should the body be lost; zero: nothing to call
	native  bool                    // net/http's own: it may be closed during a Read
	ended   atomic.Bool
	closed  atomic.Bool
	shutRC  atomic.Bool // rc has been closed
	expired atomic.Bool // the IdleTimeout has

	failed atomic.Pointer[error] // what the body has failed of: attempt may be read at any time

	rc     io.ReadCloser
	room   *http.Response    // for the copy that it is handed out with
	given  *http.Response    // what that is a copy of; nil: it is not handed out
	ahead  *readahead.Reader // what was read before the caller came; nil: nothing
	reader *readahead.Reader // room for it
	offset int               // how much of it the caller has had
	reads  atomic.Int64      // begun and ended under an IdleTimeout: odd while one is under way
}

// newResponseBody returns a stand-in for resp's body; see responseBody for the rest.
func newResponseBody(
	resp *http.Response, idle time.Duration, cancel context.CancelCauseFunc, native bool,
) *responseBody {
	d := new(delivery)
	b := &d.responseBody
	b.rc, b.idle, b.cancel, b.native, b.room = resp.Body, idle, cancel, native, &d.response
	b.reader = &d.reader
	return b
}

func (b *responseBody) standsIn() *responseBody { return b }

// delivery is a stand-in with room for the response that it is handed out with: one allocation for
// both.
type delivery struct {
	responseBody
	response http.Response
	reader   readahead.Reader
}

// writableBody keeps the Write of a 101's body: without it, WebSocket clients fail
// (opentelemetry-go-contrib #1329).
type writableBody struct {
	*responseBody
	io.Writer
}

// upgradedBody keeps all that net/http's own body of a 101 has.
type upgradedBody struct {
	writableBody
	closeWriter
}

type closeWriter interface{ CloseWrite() error }

// standIn returns what the caller gets for a body.
func (b *responseBody) standIn() io.ReadCloser {
	w, writes := b.rc.(io.Writer)
	if !writes {
		return b
	}
	if half, ok := b.rc.(closeWriter); ok {
		return upgradedBody{writableBody{b, w}, half}
	}
	return writableBody{b, w}
}

// peek reads the beginning of an error answer's body, for at most the given time, and returns it.
// What was read, and a read that is still under way, is kept for the caller.
func (b *responseBody) peek(resp *http.Response, limit time.Duration, ends ...<-chan struct{}) []byte {
	if readahead.Endless(resp) {
		return nil
	}
	if b.readAhead(resp, peekSize, limit, ends...) {
		return b.ahead.Bytes()
	}
	return b.ahead.Snapshot()
}

// readAhead reads up to limit bytes of a body within a time (0: any), and reports whether that has
// ended.
func (b *responseBody) readAhead(resp *http.Response, limit int, within time.Duration, ends ...<-chan struct{}) bool {
	if content := bodies.Memory(b.rc); content != nil {
		b.ahead = readahead.Memory(b.reader, content, limit)
		return true
	}
	b.ahead = readahead.Start(b.reader, bodySource{b}, limit, resp.ContentLength)
	return b.ahead.Run(within, ends...)
}

// readWhole reads a body of up to limit bytes into memory, within a time (negative: any), and
// reports how that failed. A longer one has not failed.
func (b *responseBody) readWhole(resp *http.Response, limit int64, within time.Duration, ends ...<-chan struct{}) error {
	if readahead.Endless(resp) {
		return nil
	}
	// One byte more, to see whether a body of just that length has ended.
	bytes := int(min(limit, math.MaxInt-1)) + 1
	if within == 0 {
		within = 1
	}
	if !b.readAhead(resp, bytes, max(within, 0), ends...) {
		return errReadEnded
	}
	if b.ahead.Err() == io.EOF {
		return nil
	}
	return b.ahead.Err()
}

// whole reports whether all of the body is in memory, or all that there will ever be.
func (b *responseBody) whole() bool {
	return b.ahead != nil && b.ahead.Finished() && b.ahead.Err() != nil
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.ahead != nil {
		n := b.ahead.CopyAt(p, b.offset)
		if n == 0 && len(p) > 0 {
			<-b.ahead.Done() // a read that outlasted the peek is the caller's now; Close ends it
			b.ahead.Finished()
			n = b.ahead.CopyAt(p, b.offset)
		}
		b.offset += n
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if err := b.ahead.Err(); err != nil {
			b.finish(err)
			return 0, err
		}
	}
	n, err := bodySource{b}.Read(p)
	if err != nil {
		b.finish(err)
	}
	return n, err
}

// finish is called when the caller has come to the end. net/http sets trailers that were not
// announced then, in its response.
func (b *responseBody) finish(err error) {
	if b.given != nil && err == io.EOF && !b.ended.Load() {
		b.room.Trailer = b.given.Trailer
	}
	b.end(err)
}

// bodySource reads what the base transport has, within the IdleTimeout.
type bodySource struct{ *responseBody }

func (b bodySource) Read(p []byte) (int, error) {
	if b.idle <= 0 {
		return b.rc.Read(p)
	}
	read := b.reads.Add(1)
	timer := time.AfterFunc(b.idle, func() { b.expire(read) })
	n, err := b.rc.Read(p)
	b.reads.Add(1)
	timer.Stop()
	if b.expired.Load() {
		if err != nil && err != io.EOF {
			err = &timeoutError{"Policy.IdleTimeout", b.idle}
		}
		b.Close()
	}
	return n, err
}

// Close closes it once, whoever comes first: a decompressor that goes back to its pool twice serves
// two calls.
func (b bodySource) Close() error {
	if b.shutRC.Swap(true) {
		return nil
	}
	return b.rc.Close()
}

// deafTime is how long a base transport that is not net/http's has to end a Read whose context has
// ended. Closing its body at once would be quicker, and a fault: a decompressor that goes back to
// its pool in the middle of a Read serves two calls.
const deafTime = time.Second

// expire ends the Read that has lasted for the IdleTimeout.
func (b *responseBody) expire(read int64) {
	b.expired.Store(true)
	if b.cancel != nil {
		b.cancel(&timeoutError{"Policy.IdleTimeout", b.idle})
	}
	if b.native {
		bodySource{b}.Close()
		return
	}
	time.AfterFunc(deafTime, func() {
		if b.reads.Load() == read {
			bodySource{b}.Close()
		}
	})
}

// Close closes the body. If it is being read ahead, it has the Read ended first.
func (b *responseBody) Close() (err error) {
	b.closed.Store(true)
	defer func() { err = b.shut() }()
	b.end(nil) // what is told at the end is told before a Close that may block
	return nil
}

// shut closes what the base transport has given, but not during a Read of ours: then the attempt
// ends, and who reads closes.
func (b *responseBody) shut() error {
	if b.native || b.ahead == nil || !b.ahead.HandOver(bodySource{b}) {
		return bodySource{b}.Close()
	}
	if b.cancel != nil {
		b.cancel(nil)
	}
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-b.ahead.Done():
	case <-timer.C:
		time.AfterFunc(deafTime-drainTime, func() {
			if rc := b.ahead.TakeBack(); rc != nil {
				rc.Close()
			}
		})
	}
	return nil
}

// end is called when there is nothing more to read. A failed body's attempt is not cancelled before
// its error was returned, so that the error is the body's own.
func (b *responseBody) end(err error) {
	if b.ended.Swap(true) {
		return
	}
	if err != nil && err != io.EOF && b.attempt.Err == nil {
		failure := neterr.Solid("Response.Body", err)
		b.failed.Store(&failure)
	}
	if b.cancel != nil {
		defer b.cancel(nil)
	}
	if b.told != nil {
		b.loss.Stop()
		b.told.Done(b.ctx, b.ending())
		runtime.KeepAlive(b) // else it might be taken for lost before Stop
	}
}

// ending is the attempt, and what has become of its body.
func (b *responseBody) ending() Attempt {
	a := b.attempt
	if failure := b.failed.Load(); failure != nil {
		a.Err = *failure
	}
	return a
}

// watchLoss has the call's end told, once the garbage has been collected, of a success whose body
// the caller neither reads to its end nor closes. Nothing but what the caller has may lead to b.
func (b *responseBody) watchLoss() {
	lost := &loss{b.told, b.ctx, b.attempt}
	lost.attempt.Err = ended.ErrUnclosed
	b.loss = runtime.AddCleanup(b, (*loss).tell, lost)
}

// tellNow tells of the call's end before the body's.
func (b *responseBody) tellNow(trace *Trace, ctx context.Context) {
	told := false
	defer func() {
		if !told {
			b.shut() // nobody gets it
		}
	}()
	trace.Done(ctx, b.attempt)
	told = true
}

// release closes what the base has, of a body that is all in memory, and returns a stand-in for it,
// in whose room is a copy of its response for the time until the retry. What net/http gave leads to
// its connection's buffers, and to TLS's: with more calls waiting than it keeps connections, most of
// them would hold one that is closed.
func (b *responseBody) release(resp *http.Response) *responseBody {
	bodySource{b}.Close()
	if b.idle > 0 {
		// The timer of a Read may still be about to close what b has.
		fresh := newResponseBody(resp, 0, b.cancel, b.native)
		fresh.ahead, fresh.attempt = b.ahead.Into(fresh.reader), b.attempt
		b = fresh
	}
	*b.room = *resp
	b.rc, b.room.Body, b.attempt.Response = bodies.Released{}, bodies.Released{}, b.room
	return b
}

// discard reads what is left of a response, within bounds, so that its connection can be used
// again, and closes it. The bound counts decoded bytes: a gzip bomb is cut off with the rest
// (CVE-2026-21441). What was peeked in vain is not worth a second look.
func (b *responseBody) discard(resp *http.Response, ends ...<-chan struct{}) {
	if b.ahead == nil && resp.Body != http.NoBody {
		b.ahead = readahead.Start(b.reader, b.rc, peekSize, resp.ContentLength)
		b.ahead.Run(drainTime, ends...)
	}
	b.shut()
}
