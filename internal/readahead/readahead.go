// Package readahead reads the beginning of a response's body.
package readahead

import (
	"bytes"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
)

// Reader reads a body on a goroutine of its own, so that a server that trickles can't hold the
// call up.
type Reader struct {
	rc    io.Reader
	limit int
	stop  atomic.Bool
	ended atomic.Bool // the goroutine has; then all fields may be read

	mu       sync.Mutex    // guards what follows while the goroutine runs
	done     chan struct{} // closed when it has ended; nil: nobody has had to wait
	over     bool          // the goroutine reads no more
	closer   io.Closer     // for it to close then; nil: that is for others to do
	buffer   []byte
	err      error // what ended the body: io.EOF or a failure; nil if it goes on
	panicked any   // what the body's Read panicked with, nil if it did not
}

// Memory reads up to limit bytes of what is in memory already. No Read of that can block, so that
// it needs no goroutine, which would be most of the price. r may be nil, as in Start.
func Memory(r *Reader, content bodies.Reader, limit int) *Reader {
	r = Start(r, content, limit, int64(content.Len()))
	r.read()
	return r
}

// Start prepares r, or a new Reader if it is nil, to read up to limit bytes of rc. length is what
// the server says that there is; negative: nothing.
func Start(r *Reader, rc io.Reader, limit int, length int64) *Reader {
	size := 512
	// Content-Length is the server's word: good enough to save an allocation, not to size a large
	// one.
	if length >= 0 && length < 16<<10 {
		size = int(length) + 1 // with room to see the end
	}
	if r == nil {
		r = new(Reader)
	}
	r.rc, r.limit, r.buffer = rc, limit, make([]byte, 0, min(size, limit))
	return r
}

// Run reads until the end, the limit, the timeout (0: none) or one of up to two channels' end. It
// reports whether the goroutine has ended.
func (r *Reader) Run(timeout time.Duration, ends ...<-chan struct{}) bool {
	go r.read()
	// Nearly all bodies that are read ahead came in one packet with their headers. They need no
	// clock.
	if runtime.Gosched(); r.Finished() {
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
	case <-r.Done():
	case <-expired:
	case <-end[0]:
	case <-end[1]:
	}
	r.stop.Store(true)
	return r.Finished()
}

// Finished reports whether the goroutine has ended. If the body has panicked, so does it.
func (r *Reader) Finished() bool {
	if !r.ended.Load() {
		return false
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return true
}

// Done returns a channel that is closed when the goroutine has ended. Nearly always that has come
// before anybody asks.
func (r *Reader) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.ended.Load() {
			close(r.done)
		}
	}
	return r.done
}

func (r *Reader) tellEnd() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended.Store(true)
	if r.done != nil {
		close(r.done)
	}
}

func (r *Reader) read() {
	defer func() {
		r.panicked = recover() // for whoever waits: a panic here could be caught by nobody
		r.mu.Lock()
		r.over = true
		r.rc = nil // it leads to a connection, and what was read may be kept for long
		r.mu.Unlock()
		defer r.tellEnd()
		if rc := r.TakeBack(); rc != nil {
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

// Into has to read in to what r has read, whose goroutine has ended, and returns it.
func (r *Reader) Into(to *Reader) *Reader {
	to.limit, to.buffer, to.err, to.over = r.limit, r.buffer, r.err, true
	to.ended.Store(true)
	return to
}

// HandOver leaves it to the goroutine to close a body. It reports false if that has ended.
func (r *Reader) HandOver(rc io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.closer = rc
	}
	return !r.over
}

// TakeBack returns what is still to be closed, to one caller only.
func (r *Reader) TakeBack() io.Closer {
	r.mu.Lock()
	defer r.mu.Unlock()
	rc := r.closer
	r.closer = nil
	return rc
}

func (r *Reader) grow() {
	grown := make([]byte, len(r.buffer), min(2*cap(r.buffer)+512, r.limit))
	copy(grown, r.buffer)
	r.mu.Lock()
	r.buffer = grown
	r.mu.Unlock()
}

// CopyAt copies what was read so far, from an offset on.
func (r *Reader) CopyAt(p []byte, offset int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return copy(p, r.buffer[offset:])
}

// Snapshot returns a copy of what was read so far.
func (r *Reader) Snapshot() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.buffer)
}

// Bytes returns what was read, and Err what ended the body: io.EOF, a failure, or nil if it goes
// on. They are for when the goroutine has ended.
func (r *Reader) Bytes() []byte { return slices.Clip(r.buffer) } // who appends to it has a copy

// Err: see Bytes.
func (r *Reader) Err() error { return r.err }

// Endless reports whether a response is a stream: what it brings is for the caller as it comes, and
// it has no end to wait for.
func Endless(resp *http.Response) bool {
	values := resp.Header["Content-Type"]
	if len(values) == 0 {
		return false
	}
	kind, parameters, _ := strings.Cut(values[0], ";")
	switch kind {
	case "application/json", "application/problem+json", "text/html", "text/plain":
		return watches(parameters) // nearly all answers that are read ahead
	}
	kind = strings.ToLower(strings.TrimSpace(kind))
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
	return strings.HasPrefix(kind, "application/grpc") || watches(parameters)
}

// watches: as Kubernetes' watches have it.
func watches(parameters string) bool {
	return parameters != "" && strings.Contains(strings.ToLower(parameters), "stream=")
}
