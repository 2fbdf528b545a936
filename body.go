package steadyhttp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on what is read of a response that is not the caller's to read.
const (
	peekSize  = 64 << 10
	peekTime  = time.Second
	drainTime = 50 * time.Millisecond
)

var (
	errReadAfterClose = errors.New("steadyhttp: read of a request body whose attempt is over")
	errReadEnded      = errors.New("steadyhttp: the response's body had not ended yet")
)

// requestBody gives each attempt of a call a body of its own. Two attempts never share a reader: net/http may still be
// writing the first one's body when its answer, and our repeat, are already under way (golang/go#30597).
type requestBody struct {
	original io.ReadCloser                 // nil: the request has none
	getBody  func() (io.ReadCloser, error) // nil: it can be sent once
	once     *onceBody                     // the original, watched, if it can be sent once
	handed   bool                          // the original has been given to the base transport, which closes it
	final    bool                          // the original was read into memory, and closed
}

// newRequestBody wraps nothing that can be replayed: net/http looks at a body's type to tell an empty one, and to send a
// file by the system.
func newRequestBody(bound func() context.Context, req *http.Request, p *Policy) (requestBody, error) {
	b := requestBody{original: req.Body, getBody: req.GetBody}
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		b.original = nil
		return b, nil
	case p.maxAttempts() == 1 || tunnel(req):
		return b, nil
	case unsetTrailer(req):
		// The caller fills the trailer in while its body is read: a second reading would not have it.
		b.getBody = nil
	case b.getBody != nil:
		return b, nil
	case p.MaxBuffer > 0:
		return b.buffer(bound(), p.MaxBuffer, req.ContentLength)
	}
	b.once = &onceBody{rc: req.Body}
	return b, nil
}

func tunnel(req *http.Request) bool {
	return req.Method == http.MethodConnect || len(req.Header["Upgrade"]) > 0
}

func unsetTrailer(req *http.Request) bool {
	for _, values := range req.Trailer {
		if values == nil {
			return true
		}
	}
	return false
}

// buffer reads the body up to limit. One that is longer is sent from memory first, and then as it comes.
func (b requestBody) buffer(ctx context.Context, limit, length int64) (requestBody, error) {
	b.final = true
	ahead := newReadAhead(b.original, int(min(limit, math.MaxInt-1))+1, length)
	if !ahead.run(0, ctx.Done(), nil) {
		b.original.Close()
		return b, context.Cause(ctx)
	}
	content := ahead.buffer
	switch {
	case ahead.err == nil:
		b.final = false
		b.once = &onceBody{rc: &joinedBody{Reader: io.MultiReader(bytes.NewReader(content), b.original), Closer: b.original}}
		return b, nil
	case ahead.err != io.EOF:
		b.original.Close()
		return b, &bodyError{ahead.err}
	}
	b.original.Close()
	b.getBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	return b, nil
}

// bodyError is a failure of the caller's own body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "steadyhttp: reading the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

type joinedBody struct {
	io.Reader
	io.Closer
}

// next returns the body of attempt n, counted from 1. changed reports whether it is another than the request's own.
func (b *requestBody) next(n int) (body io.ReadCloser, changed bool, err error) {
	switch {
	case b.original == nil:
		return nil, false, nil
	case b.once != nil:
		return b.once.attempt(), true, nil
	case n == 1 && !b.final:
		return b.original, false, nil
	}
	body, err = b.getBody()
	if err == nil && body == nil {
		err = errors.New("steadyhttp: Request.GetBody returned neither a body nor an error")
	}
	return body, true, err
}

// replayable reports whether a further attempt would have a body.
func (b *requestBody) replayable() bool {
	return b.original == nil || b.getBody != nil && b.once == nil || b.once != nil && b.once.untouched()
}

// claim takes the body from the attempt before, for the one that was decided on: an attempt whose answer came early may
// still be about to read it. It reports false if it has read some of it by now.
func (b *requestBody) claim() bool { return b.once == nil || b.once.claim() }

// close closes what the base transport was not given to close.
func (b *requestBody) close() {
	switch {
	case b.original == nil || b.final:
	case b.once != nil:
		b.once.release()
	case !b.handed:
		b.original.Close()
	}
}

// onceBody is a body without GetBody. As long as no byte of it was read, a further attempt can have it: one that failed
// to connect has done nothing to it but close it.
type onceBody struct {
	rc io.ReadCloser

	mu       sync.Mutex // guards what follows
	read     bool
	closed   bool // rc is
	released bool // there will be no further attempt
	current  *onceAttempt
}

// onceAttempt is one attempt's hold on the body. An attempt that is over can't read what the next one has.
type onceAttempt struct {
	body *onceBody
	over bool // guarded by body.mu
}

func (b *onceBody) attempt() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &onceAttempt{body: b}
	return b.current
}

func (b *onceBody) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.read && !b.closed
}

func (b *onceBody) claim() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read || b.closed {
		return false
	}
	if b.current != nil {
		b.current.over = true
	}
	return true
}

// release says that there will be no further attempt. If the last one still reads, its Close closes the body.
func (b *onceBody) release() {
	b.mu.Lock()
	idle := b.current == nil || b.current.over
	closing := idle && !b.closed
	b.released = true
	b.closed = b.closed || closing
	b.mu.Unlock()
	if closing {
		b.rc.Close()
	}
}

func (a *onceAttempt) Read(p []byte) (int, error) {
	a.body.mu.Lock()
	if a.over {
		a.body.mu.Unlock()
		return 0, errReadAfterClose
	}
	a.body.read = true
	a.body.mu.Unlock()
	return a.body.rc.Read(p)
}

// Close closes the body only if nobody could use it any more. It may be called while a Read is under way.
func (a *onceAttempt) Close() error {
	b := a.body
	b.mu.Lock()
	closing := !a.over && !b.closed && (b.read || b.released)
	a.over = true
	b.closed = b.closed || closing
	b.mu.Unlock()
	if closing {
		return b.rc.Close()
	}
	return nil
}

// responseBody stands in for a response's body: it gives back what was peeked, and it knows when the caller has come to
// the end, which is when the attempt's context may be cancelled and its call is done.
type responseBody struct {
	attempt Attempt
	idle    time.Duration           // bounds each Read; 0: none
	cancel  context.CancelCauseFunc // ends the attempt; may be nil
	told    *Trace                  // whose Done is called once at the end; nil: nobody's
	ctx     context.Context         // for it
	ended   atomic.Bool

	rc      io.ReadCloser
	ahead   *readAhead // what was read before the caller came; nil: nothing
	offset  int        // how much of it the caller has had
	expired atomic.Bool
}

// upgradedBody keeps the Write of a 101's body: without it, WebSocket clients fail (opentelemetry-go-contrib #1329).
type upgradedBody struct {
	*responseBody
	io.Writer
}

// standIn returns what the caller gets for a body.
func (b *responseBody) standIn() io.ReadCloser {
	if w, ok := b.rc.(io.Writer); ok {
		return upgradedBody{b, w}
	}
	return b
}

// peek reads the beginning of an error answer's body, for at most the given time, and returns it. What was read, and a
// read that is still under way, is kept for the caller.
func (b *responseBody) peek(resp *http.Response, limit time.Duration, ends ...<-chan struct{}) []byte {
	if eventStream(resp) {
		return nil
	}
	b.ahead = newReadAhead(bodySource{b}, peekSize, resp.ContentLength)
	if b.ahead.run(limit, ends...) {
		return b.ahead.buffer
	}
	return b.ahead.snapshot()
}

// readWhole reads a body of up to limit bytes into memory, within a time (negative: any), and reports how that failed. A longer
// one has not failed.
func (b *responseBody) readWhole(resp *http.Response, limit int64, within time.Duration, ends ...<-chan struct{}) error {
	if eventStream(resp) {
		return nil
	}
	b.ahead = newReadAhead(bodySource{b}, int(min(limit, math.MaxInt)), resp.ContentLength)
	if within == 0 {
		within = 1
	}
	if !b.ahead.run(max(within, 0), ends...) {
		return errReadEnded
	}
	if b.ahead.err == io.EOF {
		return nil
	}
	return b.ahead.err
}

// eventStream: its events are for the caller as they come, and it has no end to wait for.
func eventStream(resp *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return kind == "text/event-stream"
}

// whole reports whether all of the body is in memory, or all that there will ever be.
func (b *responseBody) whole() bool {
	return b.ahead != nil && b.ahead.finished() && b.ahead.err != nil
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.ahead != nil {
		n := b.ahead.copy(p, b.offset)
		if n == 0 && len(p) > 0 {
			<-b.ahead.done // a read that outlasted the peek is the caller's now; Close ends it
			b.ahead.finished()
			n = b.ahead.copy(p, b.offset)
		}
		b.offset += n
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if err := b.ahead.err; err != nil {
			b.end(err)
			return 0, err
		}
	}
	n, err := bodySource{b}.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// bodySource reads what the base transport has, within the IdleTimeout.
type bodySource struct{ *responseBody }

func (b bodySource) Read(p []byte) (int, error) {
	if b.idle <= 0 {
		return b.rc.Read(p)
	}
	timer := time.AfterFunc(b.idle, b.expire)
	n, err := b.rc.Read(p)
	timer.Stop()
	if err != nil && err != io.EOF && b.expired.Load() {
		err = &timeoutError{"Policy.IdleTimeout", b.idle}
	}
	return n, err
}

func (b *responseBody) expire() {
	b.expired.Store(true)
	if b.cancel != nil {
		b.cancel(&timeoutError{"Policy.IdleTimeout", b.idle})
	}
	// Not every base transport looks at the context once it has answered.
	b.rc.Close()
}

func (b *responseBody) Close() (err error) {
	defer func() { err = b.rc.Close() }()
	b.end(nil) // what is told at the end is told before a Close that may block
	return nil
}

// end is called when there is nothing more to read. A failed body's attempt is not cancelled before its error was
// returned, so that the error is the body's own.
func (b *responseBody) end(err error) {
	if b.ended.Swap(true) {
		return
	}
	if err != nil && err != io.EOF && b.attempt.Err == nil {
		b.attempt.Err = err
	}
	if b.cancel != nil {
		defer b.cancel(nil)
	}
	if b.told != nil {
		b.told.Done(b.ctx, b.attempt)
	}
}

// readAhead reads a body on a goroutine of its own, so that a server that trickles can't hold the call up.
type readAhead struct {
	rc    io.Reader
	limit int
	stop  atomic.Bool
	done  chan struct{} // closed when the goroutine has ended; then all fields may be read

	mu       sync.Mutex // guards buffer while the goroutine runs
	buffer   []byte
	err      error // what ended the body: io.EOF or a failure; nil if it goes on
	panicked any   // what the body's Read panicked with, nil if it did not
}

func newReadAhead(rc io.Reader, limit int, length int64) *readAhead {
	size := 512
	// Content-Length is the server's word: good enough to save an allocation, not to size a large one.
	if length >= 0 && length < 16<<10 {
		size = int(length) + 1 // with room to see the end
	}
	return &readAhead{rc: rc, limit: limit, done: make(chan struct{}), buffer: make([]byte, 0, min(size, limit))}
}

// run reads until the end, the limit, the timeout (0: none) or one of up to two channels' end. It reports whether the
// goroutine has ended.
func (r *readAhead) run(timeout time.Duration, ends ...<-chan struct{}) bool {
	go r.read()
	// Nearly all bodies that are read ahead came in one packet with their headers. They need no clock.
	if runtime.Gosched(); r.finished() {
		return true
	}
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	var end [2]<-chan struct{}
	copy(end[:], ends)
	select {
	case <-r.done:
	case <-expired:
	case <-end[0]:
	case <-end[1]:
	}
	r.stop.Store(true)
	return r.finished()
}

func (r *readAhead) finished() bool {
	select {
	case <-r.done:
		if r.panicked != nil {
			panic(r.panicked)
		}
		return true
	default:
		return false
	}
}

func (r *readAhead) read() {
	defer func() {
		r.panicked = recover() // for whoever waits: a panic here could be caught by nobody
		close(r.done)
	}()
	for !r.stop.Load() && len(r.buffer) < r.limit {
		if len(r.buffer) == cap(r.buffer) {
			r.grow()
		}
		// Only this goroutine changes buffer's length, so that reading into its spare room needs no lock.
		n, err := r.rc.Read(r.buffer[len(r.buffer):cap(r.buffer)])
		r.mu.Lock()
		r.buffer = r.buffer[:len(r.buffer)+n]
		r.mu.Unlock()
		if err != nil {
			r.err = err
			return
		}
	}
}

func (r *readAhead) grow() {
	grown := make([]byte, len(r.buffer), min(2*cap(r.buffer)+512, r.limit))
	copy(grown, r.buffer)
	r.mu.Lock()
	r.buffer = grown
	r.mu.Unlock()
}

// copy copies what was read so far, from an offset on.
func (r *readAhead) copy(p []byte, offset int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return copy(p, r.buffer[offset:])
}

// snapshot returns a copy of what was read so far.
func (r *readAhead) snapshot() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.buffer)
}

// discard reads what is left of a response, within bounds, so that its connection can be used again, and closes it. The
// bound counts decoded bytes: a gzip bomb is cut off with the rest (CVE-2026-21441). What was peeked in vain is not
// worth a second look.
func (b *responseBody) discard(resp *http.Response, ends ...<-chan struct{}) {
	if b.ahead == nil && resp.Body != http.NoBody {
		newReadAhead(b.rc, peekSize, resp.ContentLength).run(drainTime, ends...)
	}
	b.rc.Close()
}
