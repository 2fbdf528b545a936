package steadyhttp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ended"
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

// requestBody gives each attempt of a call a body of its own. Two attempts never share a reader:
// net/http may still be writing the first one's body when its answer, and our retry, are already
// under way (golang/go#30597).
type requestBody struct {
	original io.ReadCloser                 // nil: the request has none
	getBody  func() (io.ReadCloser, error) // nil: it can be sent once
	once     *onceBody                     // the original, watched, if it can be sent once
	lender   *lender                       // of the original and what GetBody makes; nil: they are given away
	apart    bool                          // GetBody may rewind what is in memory: attempts read copies
	used     bool                          // an attempt has had the original
	handed   bool                          // the base transport has been given it, and closes it
}

// newRequestBody wraps nothing that is small and in memory: net/http looks at a body's type to tell
// an empty one, and to send it along with its headers in one piece.
func newRequestBody(bound func() context.Context, req *http.Request, p *Policy) (requestBody, error) {
	b := requestBody{original: req.Body, getBody: req.GetBody}
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		b.original = nil
		return b, nil
	case p.maxAttempts() == 1 || tunnel(req):
		return b, nil
	case unsetTrailer(req):
		// The caller fills the trailer in while its body is read: a second reading would not have
		// it.
		b.getBody = nil
	case makesReaders(b.getBody):
		return b, nil
	case b.getBody != nil:
		if !inMemory(req) {
			b.lender = &lender{original: b.original, getBody: b.getBody}
		} else {
			b.apart, b.getBody = true, apartEach(b.getBody)
		}
		return b, nil
	}
	limit := p.maxBuffer(req)
	if unsetTrailer(req) {
		limit = 0
	}
	if content := memory(req.Body); content != nil && int64(content.Len()) <= limit {
		snapshot := copied(req.Body)
		b.getBody = func() (io.ReadCloser, error) { return copied(snapshot), nil }
		return b, nil
	}
	b.once = &onceBody{rc: req.Body, limit: limit}
	return b, nil
}

// The types that io.NopCloser returns, by which net/http tells what is in memory, as we do.
var (
	nopCloser         = reflect.TypeOf(io.NopCloser(nil))
	nopCloserWriterTo = reflect.TypeOf(io.NopCloser(struct {
		io.Reader
		io.WriterTo
	}{}))
)

// inMemory reports whether req's body is one that net/http knows to be in memory.
func inMemory(req *http.Request) bool { return memory(req.Body) != nil }

type memoryReader interface {
	io.Reader
	Len() int
}

// memory returns the reader in memory that a body is made of, or nil.
func memory(body io.ReadCloser) memoryReader {
	if t := reflect.TypeOf(body); t != nopCloser && t != nopCloserWriterTo {
		return nil
	}
	switch r := reflect.ValueOf(body).Field(0).Interface().(type) {
	case *bytes.Reader:
		return r
	case *strings.Reader:
		return r
	case *bytes.Buffer:
		return r
	}
	return nil
}

// copied returns another reader of what is left in a body in memory, and any other body as it is.
// Reading the one leaves the other alone, and net/http sends either along with its headers.
func copied(body io.ReadCloser) io.ReadCloser {
	switch r := memory(body).(type) {
	case *bytes.Reader:
		own := *r
		return io.NopCloser(&own)
	case *strings.Reader:
		own := *r
		return io.NopCloser(&own)
	case *bytes.Buffer:
		return io.NopCloser(bytes.NewReader(r.Bytes()))
	}
	return body
}

// apartEach keeps what attempts read apart from what getBody rewinds: an answer may come, over
// HTTP/2, before the body of its request was read.
func apartEach(getBody func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		body, err := newBody(getBody)
		if err != nil {
			return nil, err
		}
		return copied(body), nil
	}
}

// makesReaders reports whether getBody is http.NewRequest's, which makes a new reader each time, so
// that no two attempts can meet in one.
func makesReaders(getBody func() (io.ReadCloser, error)) bool {
	if getBody == nil {
		return false
	}
	code := reflect.ValueOf(getBody).Pointer()
	return code == readerMakers.bytes || code == readerMakers.string || code == readerMakers.buffer
}

var readerMakers = struct{ bytes, string, buffer uintptr }{
	makerFor(bytes.NewReader([]byte{0})), makerFor(strings.NewReader("x")), makerFor(bytes.NewBufferString("x")),
}

func makerFor(body io.Reader) uintptr {
	req, err := http.NewRequest(http.MethodPost, "http://localhost/", body)
	if err != nil {
		return 0
	}
	return reflect.ValueOf(req.GetBody).Pointer()
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

// bodyError is a failure of the caller's own body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "steadyhttp: reading the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// next returns a body for the next attempt. changed reports whether it is another than the
// request's own.
func (b *requestBody) next(ctx context.Context) (body io.ReadCloser, changed bool, err error) {
	first := !b.used
	b.used = true
	switch {
	case b.original == nil:
		return nil, false, nil
	case b.once != nil:
		return b.once.attempt(), true, nil
	case b.lender != nil:
		body, err = b.lender.next(ctx)
		return body, true, err
	case first && b.apart:
		return copied(b.original), true, nil
	case first:
		return b.original, false, nil
	}
	if !b.handed {
		b.handed = true
		b.original.Close() // Prepare may have read of it, and failed
	}
	body, err = newBody(b.getBody)
	return body, true, err
}

func newBody(getBody func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	body, err := getBody()
	if err == nil && body == nil {
		err = errors.New("steadyhttp: Request.GetBody returned neither a body nor an error")
	}
	return body, err
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
	case b.once != nil && b.once.limit > 0:
		return b.once.renew
	case b.lender == nil:
		return b.getBody
	}
	lender := b.lender // b itself must stay on the stack
	return func() (io.ReadCloser, error) { return lender.renew(context.Background()) }
}

// replayable reports whether a further attempt would have a body.
func (b *requestBody) replayable() bool {
	return b.original == nil || b.getBody != nil && b.once == nil || b.once != nil && b.once.replayable()
}

// claim takes the body from the attempt before, for the one that was decided on: an attempt whose
// answer came early may still be about to read it. It reports false if it has read some of it by
// now.
func (b *requestBody) claim() bool { return b.once == nil || b.once.claim() }

// failure returns what reading the caller's own body came to, nil if it has not failed.
func (b *requestBody) failure() error {
	switch {
	case b.once != nil:
		b.once.mu.Lock()
		defer b.once.mu.Unlock()
		return b.once.failed
	case b.lender != nil:
		b.lender.mu.Lock()
		defer b.lender.mu.Unlock()
		return b.lender.failed
	}
	return nil
}

// close closes what the base transport was not given to close.
func (b *requestBody) close() {
	switch {
	case b.original == nil:
	case b.once != nil:
		b.once.release()
	case b.lender != nil:
		b.lender.release()
	case !b.handed:
		b.original.Close()
	}
}

// lender gives the attempts of a call the readers that GetBody returns, one after the other.
// GetBody may rewind a reader that an attempt has had and return it once more, as azcore's does for
// files: so no attempt closes one, none reads one that the next may have, and GetBody is not called
// while a Read is under way.
type lender struct {
	original io.ReadCloser
	getBody  func() (io.ReadCloser, error)

	mu       sync.Mutex // guards what follows, and the fields of each loan
	current  *loan      // nil: nobody has had any yet
	released bool       // there will be no further attempt
	failed   error      // what a Read of the present reader came to, but for its end
}

// loan is one attempt's hold on a reader.
type loan struct {
	lender  *lender
	rc      io.ReadCloser
	reading bool
	idle    chan struct{} // closed when the Read has ended that the next attempt waits for; nil: none does
	over    bool          // the attempt has closed it, or lost it to the next one
	closed  bool          // rc is
}

// rewindTime bounds how long the next attempt waits for a Read of the one before. What takes longer
// is no file that GetBody rewinds, but a pipe; closing it ends the Read.
const rewindTime = time.Second

func (l *lender) lend(rc io.ReadCloser) io.ReadCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.failed = &loan{lender: l, rc: rc}, nil
	return l.current
}

// next returns the reader of the next attempt.
func (l *lender) next(ctx context.Context) (io.ReadCloser, error) {
	l.mu.Lock()
	first := l.current == nil
	l.mu.Unlock()
	if first {
		return l.lend(l.original), nil
	}
	return l.renew(ctx)
}

// renew takes the reader away from whoever has had it last, and returns another, or the same one
// rewound.
func (l *lender) renew(ctx context.Context) (io.ReadCloser, error) {
	l.mu.Lock()
	if l.current == nil {
		l.current = &loan{lender: l, rc: l.original}
	}
	last := l.current
	last.over = true
	if last.reading {
		last.idle = make(chan struct{})
	}
	idle := last.idle
	l.mu.Unlock()
	if idle != nil {
		timer := time.NewTimer(rewindTime)
		defer timer.Stop()
		select {
		case <-idle:
		case <-timer.C:
			last.end()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	body, err := newBody(l.getBody)
	if err != nil {
		return nil, err
	}
	if replaced(body, last.rc) {
		last.end()
	}
	return l.lend(body), nil
}

// release says that there will be no further attempt. If the last one still reads, its Close closes
// the reader.
func (l *lender) release() {
	l.mu.Lock()
	l.released = true
	if l.current == nil {
		l.current = &loan{lender: l, rc: l.original, over: true}
	}
	last := l.current
	over := last.over
	l.mu.Unlock()
	if over {
		last.end()
	}
}

// end closes the reader for good.
func (a *loan) end() error {
	a.lender.mu.Lock()
	closing := !a.closed
	a.over, a.closed = true, true
	a.lender.mu.Unlock()
	if closing {
		return a.rc.Close()
	}
	return nil
}

func (a *loan) Read(p []byte) (int, error) {
	a.lender.mu.Lock()
	if a.over {
		a.lender.mu.Unlock()
		return 0, errReadAfterClose
	}
	a.reading = true
	a.lender.mu.Unlock()
	var err error
	defer func() { a.rest(err) }()
	n, err := a.rc.Read(p)
	return n, err
}

func (a *loan) rest(err error) {
	a.lender.mu.Lock()
	defer a.lender.mu.Unlock()
	if err != nil && err != io.EOF && !a.over {
		a.lender.failed = err
	}
	a.reading = false
	if a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

// Close gives the reader back. It may be called while a Read is under way.
func (a *loan) Close() error {
	a.lender.mu.Lock()
	a.over = true
	released := a.lender.released
	a.lender.mu.Unlock()
	if released {
		return a.end()
	}
	return nil
}

// onceBody is a body without GetBody. What attempts read of it is recorded, up to a limit, for the
// next one to have first: so nothing is read before it is sent. Without a limit, a further attempt
// can have it as long as no byte of it was read: one that failed to connect has done nothing to it
// but close it.
type onceBody struct {
	rc    io.ReadCloser
	limit int64 // bytes recorded; 0: none

	mu       sync.Mutex // guards what follows
	record   []byte
	read     bool  // some of it was
	lost     bool  // some of it was not recorded
	end      error // what reading it has come to, io.EOF or a failure; nil: it goes on
	failed   error // end, if that is a failure
	closed   bool  // rc is
	released bool  // there will be no further attempt
	reading  bool
	idle     chan struct{} // closed when the Read has ended that the next attempt waits for; nil: none does
	current  *onceAttempt
}

// onceAttempt is one attempt's hold on the body. An attempt that is over can't read what the next
// one has.
type onceAttempt struct {
	body   *onceBody
	over   bool // guarded by body.mu
	offset int  // how much of the record it has had
}

func (b *onceBody) attempt() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &onceAttempt{body: b}
	return b.current
}

// renew is the attempt's GetBody, for net/http to replay it.
func (b *onceBody) renew() (io.ReadCloser, error) {
	if !b.claim() {
		return nil, errNotRecorded
	}
	return b.attempt(), nil
}

var errNotRecorded = errors.New("steadyhttp: the request's body is longer than Policy.MaxBuffer, and has no GetBody")

func (b *onceBody) replayable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost && !b.closed
}

// claim takes the body from the attempt that has it, and waits for a Read of that one's.
func (b *onceBody) claim() bool {
	b.mu.Lock()
	if b.lost || b.closed {
		b.mu.Unlock()
		return false
	}
	if b.current != nil {
		b.current.over = true
	}
	if b.reading {
		b.idle = make(chan struct{})
	}
	idle := b.idle
	b.mu.Unlock()
	if idle == nil {
		return true
	}
	timer := time.NewTimer(rewindTime)
	defer timer.Stop()
	select {
	case <-idle:
		return b.replayable()
	case <-timer.C:
		return false // it blocks, and nobody can take a Read back
	}
}

// release says that there will be no further attempt. If the last one still reads, its Close closes
// the body.
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
	b := a.body
	b.mu.Lock()
	switch {
	case a.over:
		b.mu.Unlock()
		return 0, errReadAfterClose
	case a.offset < len(b.record):
		n := copy(p, b.record[a.offset:])
		a.offset += n
		b.mu.Unlock()
		return n, nil
	case b.end != nil:
		defer b.mu.Unlock()
		return 0, b.end
	}
	b.read, b.reading = true, true
	b.lost = b.lost || b.limit == 0
	b.mu.Unlock()
	n := 0
	var err error
	defer func() { a.took(p[:n], err) }()
	n, err = b.rc.Read(p)
	return n, err
}

// took notes what a Read of the body itself has brought.
func (a *onceAttempt) took(p []byte, err error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.lost:
	case int64(len(b.record)+len(p)) > b.limit:
		b.lost, b.record = true, nil
	default:
		b.record = append(b.record, p...)
		a.offset = len(b.record)
	}
	if err != nil {
		b.end = err
		if err != io.EOF && !a.over {
			b.failed = err
		}
	}
	b.reading = false
	if b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
}

// Close closes the body only if nobody could use it any more. It may be called while a Read is
// under way.
func (a *onceAttempt) Close() error {
	b := a.body
	b.mu.Lock()
	closing := !a.over && !b.closed && (b.lost || b.released)
	a.over = true
	b.closed = b.closed || closing
	b.mu.Unlock()
	if closing {
		return b.rc.Close()
	}
	return nil
}

// responseBody stands in for a response's body: it gives back what was peeked, and it knows when
// the caller has come to the end, which is when the attempt's context may be cancelled and its call
// is done.
type responseBody struct {
	attempt Attempt
	idle    time.Duration           // bounds each Read; 0: none
	cancel  context.CancelCauseFunc // ends the attempt; may be nil
	native  bool                    // net/http's own: it may be closed during a Read
	told    *Trace                  // whose Done is called once at the end; nil: nobody's
	ctx     context.Context         // for it
	loss    runtime.Cleanup         // calls it should the body be lost; zero: nothing to call
	ended   atomic.Bool
	closed  atomic.Bool

	rc      io.ReadCloser
	shutRC  atomic.Bool    // rc has been closed
	room    *http.Response // for the copy that it is handed out with
	given   *http.Response // what that is a copy of; nil: it is not handed out
	ahead   *readAhead     // what was read before the caller came; nil: nothing
	reader  *readAhead     // room for it
	offset  int            // how much of it the caller has had
	reads   atomic.Int64   // begun and ended under an IdleTimeout: odd while one is under way
	expired atomic.Bool
}

func (b *responseBody) standsIn() *responseBody { return b }

// delivery is a stand-in with room for the response that it is handed out with: one allocation for
// both.
type delivery struct {
	responseBody
	response http.Response
	reader   readAhead
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
	if eventStream(resp) {
		return nil
	}
	b.ahead = b.readAhead(bodySource{b}, peekSize, resp.ContentLength)
	if b.ahead.run(limit, ends...) {
		return b.ahead.buffer
	}
	return b.ahead.snapshot()
}

// readWhole reads a body of up to limit bytes into memory, within a time (negative: any), and
// reports how that failed. A longer one has not failed.
func (b *responseBody) readWhole(resp *http.Response, limit int64, within time.Duration, ends ...<-chan struct{}) error {
	if eventStream(resp) {
		return nil
	}
	// One byte more, to see whether a body of just that length has ended.
	b.ahead = b.readAhead(bodySource{b}, int(min(limit, math.MaxInt-1))+1, resp.ContentLength)
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

// eventStream: what it brings is for the caller as it comes, and it has no end to wait for.
func eventStream(resp *http.Response) bool {
	values := resp.Header["Content-Type"]
	if len(values) == 0 {
		return false
	}
	kind, parameters, _ := strings.Cut(strings.ToLower(values[0]), ";")
	kind = strings.TrimSpace(kind)
	switch kind {
	case "application/octet-stream":
		return false
	case "multipart/x-mixed-replace", "multipart/mixed":
		return true
	}
	for _, name := range [...]string{"stream", "ndjson", "jsonl", "json-lines", "json-seq"} {
		if strings.Contains(kind, name) {
			return true
		}
	}
	return strings.HasPrefix(kind, "application/grpc") || strings.Contains(parameters, "stream=") // as Kubernetes' watches
}

// whole reports whether all of the body is in memory, or all that there will ever be.
func (b *responseBody) whole() bool {
	return b.ahead != nil && b.ahead.finished() && b.ahead.err != nil
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
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
	if b.native || b.ahead == nil || !b.ahead.handOver(bodySource{b}) {
		return bodySource{b}.Close()
	}
	if b.cancel != nil {
		b.cancel(nil)
	}
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-b.ahead.done:
	case <-timer.C:
		time.AfterFunc(deafTime-drainTime, func() {
			if rc := b.ahead.takeBack(); rc != nil {
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
		b.attempt.Err = err
	}
	if b.cancel != nil {
		defer b.cancel(nil)
	}
	if b.told != nil {
		b.loss.Stop()
		b.told.Done(b.ctx, b.attempt)
		runtime.KeepAlive(b) // else it might be taken for lost before Stop
	}
}

// loss is what is told of a body that was lost: nobody can read or close it any more.
type loss struct {
	trace   *Trace
	ctx     context.Context
	attempt Attempt
}

// watchLoss has the call's end told, once the garbage has been collected, of a success whose body
// the caller neither reads to its end nor closes. Nothing but what the caller has may lead to b.
func (b *responseBody) watchLoss() {
	lost := &loss{b.told, b.ctx, b.attempt}
	lost.attempt.Err = ended.ErrUnclosed
	b.loss = runtime.AddCleanup(b, (*loss).tell, lost)
}

func (l *loss) tell() {
	defer func() { recover() }() // there is no caller any more who could
	l.trace.Done(l.ctx, l.attempt)
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

// readAhead reads a body on a goroutine of its own, so that a server that trickles can't hold the
// call up.
type readAhead struct {
	rc    io.Reader
	limit int
	stop  atomic.Bool
	done  chan struct{} // closed when the goroutine has ended; then all fields may be read

	mu       sync.Mutex // guards what follows while the goroutine runs
	over     bool       // the goroutine reads no more
	closer   io.Closer  // for it to close then; nil: that is for others to do
	buffer   []byte
	err      error // what ended the body: io.EOF or a failure; nil if it goes on
	panicked any   // what the body's Read panicked with, nil if it did not
}

func (b *responseBody) readAhead(rc io.Reader, limit int, length int64) *readAhead {
	size := 512
	// Content-Length is the server's word: good enough to save an allocation, not to size a large
	// one.
	if length >= 0 && length < 16<<10 {
		size = int(length) + 1 // with room to see the end
	}
	r := b.reader
	if r == nil {
		r = new(readAhead)
	}
	r.rc, r.limit, r.done, r.buffer = rc, limit, make(chan struct{}), make([]byte, 0, min(size, limit))
	return r
}

// run reads until the end, the limit, the timeout (0: none) or one of up to two channels' end. It
// reports whether the goroutine has ended.
func (r *readAhead) run(timeout time.Duration, ends ...<-chan struct{}) bool {
	go r.read()
	// Nearly all bodies that are read ahead came in one packet with their headers. They need no
	// clock.
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
		r.mu.Lock()
		r.over = true
		r.mu.Unlock()
		defer close(r.done)
		if rc := r.takeBack(); rc != nil {
			defer func() { recover() }() // nobody waits for a body that was given up
			rc.Close()
		}
	}()
	for !r.stop.Load() && len(r.buffer) < r.limit {
		if len(r.buffer) == cap(r.buffer) {
			r.grow()
		}
		// Only this goroutine changes buffer's length, so that reading into its spare room needs no
		// lock.
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

// handOver leaves it to the goroutine to close a body. It reports false if that has ended.
func (r *readAhead) handOver(rc io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.closer = rc
	}
	return !r.over
}

// takeBack returns what is still to be closed, to one caller only.
func (r *readAhead) takeBack() io.Closer {
	r.mu.Lock()
	defer r.mu.Unlock()
	rc := r.closer
	r.closer = nil
	return rc
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

// discard reads what is left of a response, within bounds, so that its connection can be used
// again, and closes it. The bound counts decoded bytes: a gzip bomb is cut off with the rest
// (CVE-2026-21441). What was peeked in vain is not worth a second look.
func (b *responseBody) discard(resp *http.Response, ends ...<-chan struct{}) {
	if b.ahead == nil && resp.Body != http.NoBody {
		b.ahead = b.readAhead(b.rc, peekSize, resp.ContentLength)
		b.ahead.run(drainTime, ends...)
	}
	b.shut()
}
