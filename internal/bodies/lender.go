package bodies

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

var errReadAfterClose = errors.New("steadyhttp: read of a request body whose attempt is over")

// Lender gives the attempts of a call the readers that GetBody returns, one after the other.
// GetBody may rewind a reader that an attempt has had and return it once more, as azcore's does for
// files: so no attempt closes one, none reads one that the next may have, and GetBody is not called
// while a Read is under way.
type Lender struct {
	original io.ReadCloser
	getBody  func() (io.ReadCloser, error)

	mu       sync.Mutex // guards what follows, and the fields of each loan
	current  *loan      // nil: nobody has had any yet
	released bool       // there will be no further attempt
	failed   error      // what a Read of the present reader came to, but for its end
}

// loan is one attempt's hold on a reader.
type loan struct {
	lender  *Lender
	rc      io.ReadCloser
	reading bool
	idle    chan struct{} // closed when the Read has ended that the next attempt waits for; nil: none does
	over    bool          // the attempt has closed it, or lost it to the next one
	closed  bool          // rc is
}

// rewindTime bounds how long the next attempt waits for a Read of the one before. What takes longer
// is no file that GetBody rewinds, but a pipe; closing it ends the Read.
const rewindTime = time.Second

// Lend returns a Lender of original, which is the first attempt's, and of what getBody makes.
func Lend(original io.ReadCloser, getBody func() (io.ReadCloser, error)) *Lender {
	return &Lender{original: original, getBody: getBody}
}

// Failure returns what a Read of the present reader came to, nil for its end.
func (l *Lender) Failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *Lender) lend(rc io.ReadCloser) io.ReadCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.failed = &loan{lender: l, rc: rc}, nil
	return l.current
}

// Next returns the reader of the next attempt.
func (l *Lender) Next(ctx context.Context) (io.ReadCloser, error) {
	l.mu.Lock()
	first := l.current == nil
	l.mu.Unlock()
	if first {
		return l.lend(l.original), nil
	}
	return l.Renew(ctx)
}

// Renew takes the reader away from whoever has had it last, and returns another, or the same one
// rewound.
func (l *Lender) Renew(ctx context.Context) (io.ReadCloser, error) {
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
	body, err := Renew(l.getBody)
	if err != nil {
		return nil, err
	}
	if Replaced(body, last.rc) {
		last.end()
	}
	return l.lend(body), nil
}

// Release says that there will be no further attempt. If the last one still reads, its Close closes
// the reader.
func (l *Lender) Release() {
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
