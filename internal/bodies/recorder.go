package bodies

import (
	"errors"
	"io"
	"sync"
	"time"
)

// Recorder is a body without GetBody. What attempts read of it is recorded, up to a limit, for the
// next one to have first: so nothing is read before it is sent. Without a limit, a further attempt
// can have it as long as no byte of it was read: one that failed to connect has done nothing to it
// but close it.
type Recorder struct {
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
	current  *recorded
}

// recorded is one attempt's hold on the body. An attempt that is over can't read what the next
// one has.
type recorded struct {
	body   *Recorder
	over   bool // guarded by body.mu
	offset int  // how much of the record it has had
}

// Record returns a Recorder of rc that records up to limit bytes.
func Record(rc io.ReadCloser, limit int64) *Recorder { return &Recorder{rc: rc, limit: limit} }

// Records reports whether it records at all.
func (b *Recorder) Records() bool { return b.limit > 0 }

// Failure returns what reading the body came to, nil for its end.
func (b *Recorder) Failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Next returns the body for the next attempt.
func (b *Recorder) Next() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &recorded{body: b}
	return b.current
}

// Renew is the attempt's GetBody, for net/http to replay it.
func (b *Recorder) Renew() (io.ReadCloser, error) {
	if !b.Claim() {
		return nil, errNotRecorded
	}
	return b.Next(), nil
}

var errNotRecorded = errors.New("steadyhttp: the request's body is longer than Policy.MaxBuffer, and has no GetBody")

// Replayable reports whether a further attempt would have the body.
func (b *Recorder) Replayable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost && !b.closed
}

// Claim takes the body from the attempt that has it, and waits for a Read of that one's.
func (b *Recorder) Claim() bool {
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
		return b.Replayable()
	case <-timer.C:
		return false // it blocks, and nobody can take a Read back
	}
}

// Release says that there will be no further attempt. If the last one still reads, its Close closes
// the body.
func (b *Recorder) Release() {
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

func (a *recorded) Read(p []byte) (int, error) {
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
func (a *recorded) took(p []byte, err error) {
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
func (a *recorded) Close() error {
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
