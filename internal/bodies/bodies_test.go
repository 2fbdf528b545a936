package bodies

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// source is a body that can be rewound. Its pieces come one Read each, after a while.
type source struct {
	content string
	offset  int
	slow    time.Duration // each Read takes so long, or until Close
	err     error         // what it ends with; nil: io.EOF
	closes  int
	ended   bool
	reading atomic.Bool
	closed  chan struct{}
}

func newSource(content string) *source {
	return &source{content: content, closed: make(chan struct{})}
}

func (s *source) Read(p []byte) (int, error) {
	s.reading.Store(true)
	defer func() { s.reading.Store(false) }()
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-s.closed:
			return 0, os.ErrClosed
		}
	}
	if s.offset == len(s.content) {
		if s.ended {
			return 0, errors.New("read after its end")
		}
		s.ended = true
		if s.err != nil {
			return 0, s.err
		}
		return 0, io.EOF
	}
	n := copy(p, s.content[s.offset:])
	s.offset += n
	return n, nil
}

func (s *source) Close() error {
	if s.closes++; s.closes == 1 {
		close(s.closed)
	}
	return nil
}

// rewind is a GetBody that returns the one source again, from its beginning.
func (s *source) rewind() (io.ReadCloser, error) { s.offset, s.ended = 0, false; return s, nil }

func read(t *testing.T, r io.Reader, want string) {
	t.Helper()
	if got, err := io.ReadAll(r); string(got) != want || err != nil {
		t.Errorf("read %q and %v, want %q", got, err, want)
	}
}

type wrapper struct{ io.ReadCloser }

// What is in memory is known by the types by which net/http knows it, and a copy of it is read for
// itself, from where it is.
func TestInMemory(t *testing.T) {
	for name, c := range map[string]struct {
		body io.ReadCloser
		want bool
	}{
		"bytes.Reader":           {io.NopCloser(bytes.NewReader([]byte("content"))), true},
		"strings.Reader":         {io.NopCloser(strings.NewReader("content")), true},
		"bytes.Buffer":           {io.NopCloser(bytes.NewBufferString("content")), true},
		"no WriterTo":            {io.NopCloser(struct{ io.Reader }{strings.NewReader("content")}), false},
		"another reader":         {io.NopCloser(iotest.OneByteReader(strings.NewReader("content"))), false},
		"a NopCloser of its own": {wrapper{io.NopCloser(strings.NewReader("content"))}, false},
		"a source":               {newSource("content"), false},
		"NoBody":                 {http.NoBody, false},
		"nil":                    {nil, false},
	} {
		r := Memory(c.body)
		if (r != nil) != c.want || InMemory(c.body) != c.want {
			t.Errorf("%s: %v, %v", name, r, InMemory(c.body))
		}
		copied := Copy(c.body)
		if !c.want {
			if copied != c.body {
				t.Errorf("%s: the copy is %v", name, copied)
			}
			continue
		}
		if r.Len() != 7 {
			t.Errorf("%s: %d bytes", name, r.Len())
		}
		read(t, copied, "content")
		if io.CopyN(io.Discard, c.body, 3); Memory(c.body).Len() != 4 {
			t.Errorf("%s: the copy took %d bytes along", name, 4-Memory(c.body).Len())
		}
		copied = Copy(c.body)
		read(t, c.body, "tent")
		read(t, copied, "tent")
	}
}

// Those that http.NewRequest makes are known, and no other GetBody is.
func TestMakesReaders(t *testing.T) {
	for name, c := range map[string]struct {
		body io.Reader
		want bool
	}{
		"bytes.Reader":   {bytes.NewReader([]byte("x")), true},
		"strings.Reader": {strings.NewReader("x"), true},
		"bytes.Buffer":   {bytes.NewBufferString("x"), true}, "empty": {strings.NewReader(""), false},
		"NoBody": {http.NoBody, false}, "a source": {newSource("x"), false}, "nil": {nil, false},
	} {
		req, err := http.NewRequest(http.MethodPut, "http://api.example/", c.body)
		if err != nil {
			t.Fatal(err)
		}
		if MakesReaders(req.GetBody) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
	if MakesReaders(newSource("x").rewind) ||
		MakesReaders(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }) {
		t.Error("one that is not http.NewRequest's")
	}
}

// incomparable is a body that == would panic on.
type incomparable struct {
	io.ReadCloser
	_ []int
}

// Another body is known as one; where nobody can tell, it is taken to be the same.
func TestReplaced(t *testing.T) {
	a, b := newSource(""), newSource("")
	for name, c := range map[string]struct {
		body, given io.ReadCloser
		want        bool
	}{
		"the same pointer": {a, a, false}, "another pointer": {a, b, true},
		"the same value": {wrapper{a}, wrapper{a}, false},
		"another value":  {wrapper{a}, wrapper{b}, true},
		"another type":   {wrapper{a}, a, true}, "nil and nil": {nil, nil, false}, "nil": {nil, a, true},
		"incomparable":         {incomparable{ReadCloser: a}, incomparable{ReadCloser: b}, false},
		"incomparable inside":  {wrapper{incomparable{ReadCloser: a}}, wrapper{incomparable{ReadCloser: a}}, false},
		"incomparable pointer": {&incomparable{ReadCloser: a}, &incomparable{ReadCloser: a}, true},
	} {
		if got := Replaced(c.body, c.given); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// GetBody returns a body or an error.
func TestRenew(t *testing.T) {
	body, err := Renew(func() (io.ReadCloser, error) { return nil, nil })
	if body != nil || err == nil || !strings.Contains(err.Error(), "GetBody") {
		t.Errorf("neither: %v, %v", body, err)
	}
	if _, err := Renew(func() (io.ReadCloser, error) { return nil, errBroken }); err != errBroken {
		t.Errorf("an error: %v", err)
	}
	s := newSource("")
	if body, err := Renew(s.rewind); body != io.ReadCloser(s) || err != nil {
		t.Errorf("a body: %v, %v", body, err)
	}
}

// A reader that is rewound goes from attempt to attempt, and is closed once, after the last.
func TestLenderRewinds(t *testing.T) {
	s := newSource("content")
	l := Lend(s, s.rewind)
	first, _ := l.Next(t.Context())
	read(t, first, "content")
	second, err := l.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("the first attempt still reads: %d, %v", n, err)
	}
	first.Close()
	read(t, second, "content")
	second.Close()
	if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("it reads after its Close: %d, %v", n, err)
	}
	third, _ := l.Renew(t.Context())
	io.CopyN(io.Discard, third, 1)
	if s.closes != 0 {
		t.Errorf("closed %d times before the last attempt was over", s.closes)
	}
	if l.Release(); s.closes != 0 {
		t.Error("closed while the last attempt reads")
	}
	third.Close()
	if third.Close(); s.closes != 1 {
		t.Errorf("closed %d times", s.closes)
	}
}

// A reader that is replaced is closed then, and only then is the next one's turn.
func TestLenderReplaces(t *testing.T) {
	var made []*source
	get := func() (io.ReadCloser, error) {
		made = append(made, newSource("content"))
		return made[len(made)-1], nil
	}
	original := newSource("content")
	l := Lend(original, get)
	// net/http may replay the first attempt before it has had the body at all.
	first, err := l.Renew(t.Context())
	if err != nil || original.closes != 1 || len(made) != 1 {
		t.Fatalf("%v; the original was closed %d times, %d were made", err, original.closes, len(made))
	}
	first.Close()
	second, _ := l.Next(t.Context())
	read(t, second, "content")
	second.Close()
	l.Release()
	l.Release()
	if len(made) != 2 || made[0].closes != 1 || made[1].closes != 1 {
		t.Errorf("%d were made, closed %d and %d times", len(made), made[0].closes, made[1].closes)
	}
	// Nobody ever wanted it: it is closed all the same.
	original = newSource("content")
	if Lend(original, get).Release(); original.closes != 1 {
		t.Errorf("closed %d times without an attempt", original.closes)
	}
}

// GetBody is not called while a Read is under way. One that takes long is no file's: closing the
// reader ends it. Who gives up waiting gets to know why.
func TestLenderWaitsForARead(t *testing.T) {
	for name, c := range map[string]struct {
		slow   time.Duration // a Read
		cancel time.Duration // 0: nobody does
		took   time.Duration
		closes int
		err    error
	}{
		"short":     {slow: 300 * time.Millisecond, took: 200 * time.Millisecond},
		"long":      {slow: time.Hour, took: time.Second, closes: 1},
		"cancelled": {time.Hour, 200 * time.Millisecond, 200 * time.Millisecond, 0, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSource("content")
				s.slow = c.slow
				l := Lend(s, func() (io.ReadCloser, error) {
					if s.reading.Load() && s.closes == 0 {
						t.Error("GetBody while a Read is under way")
					}
					return s.rewind()
				})
				first, _ := l.Next(t.Context())
				go first.Read(make([]byte, 10))
				time.Sleep(100 * time.Millisecond)
				ctx, cancel := context.WithCancelCause(t.Context())
				if c.cancel > 0 {
					time.AfterFunc(c.cancel, func() { cancel(errBroken) })
				}
				began := time.Now()
				_, err := l.Next(ctx)
				if took := time.Since(began); took != c.took || err != c.err || s.closes != c.closes {
					t.Errorf("%v after %v, closed %d times", err, took, s.closes)
				}
				cancel(nil)
				if l.Release(); s.closes == 0 {
					s.Close()
				}
			})
		})
	}
}

// A failure to read the present attempt's body is told, its end is not, nor what became of others.
func TestLenderFailure(t *testing.T) {
	s := newSource("content")
	l := Lend(s, s.rewind)
	first, _ := l.Next(t.Context())
	if read(t, first, "content"); l.Failure() != nil {
		t.Errorf("its end is a failure: %v", l.Failure())
	}
	s.err = errBroken
	second, _ := l.Next(t.Context())
	if _, err := io.ReadAll(second); err != errBroken || l.Failure() != errBroken {
		t.Errorf("read %v, told %v", err, l.Failure())
	}
	if _, err := l.Next(t.Context()); err != nil || l.Failure() != nil {
		t.Errorf("%v; of the attempt before: %v", err, l.Failure())
	}
	for name, get := range map[string]func() (io.ReadCloser, error){
		"an error": func() (io.ReadCloser, error) { return nil, errBroken },
		"nothing":  func() (io.ReadCloser, error) { return nil, nil },
	} {
		l := Lend(newSource(""), get)
		l.Next(t.Context())
		if body, err := l.Next(t.Context()); body != nil || err == nil {
			t.Errorf("GetBody returns %s: %v, %v", name, body, err)
		}
	}
}

// What was read is there for the next attempt, up to the limit, with how it ended.
func TestRecorder(t *testing.T) {
	for _, c := range []struct {
		name    string
		limit   int64
		first   int // bytes that the first attempt reads
		err     error
		another bool // attempt can have it
	}{
		{"nothing was read", 7, 0, nil, true}, {"some was read", 7, 3, nil, true},
		{"all was read", 7, 100, nil, true}, {"it ends in a failure", 7, 100, errBroken, true},
		{"within the limit", 4, 4, nil, true}, {"beyond the limit", 4, 5, nil, false},
		{"no limit, nothing was read", 0, 0, nil, true}, {"no limit", 0, 1, nil, false},
	} {
		s := newSource("content")
		s.err = c.err
		b := Record(s, c.limit)
		if b.Records() != (c.limit > 0) {
			t.Errorf("%s: Records %v", c.name, b.Records())
		}
		first := b.Next()
		io.ReadFull(first, make([]byte, c.first))
		if failure := b.Failure(); failure != c.err {
			t.Errorf("%s: the failure is %v", c.name, failure)
		}
		first.Close()
		if b.Replayable() != c.another {
			t.Errorf("%s: replayable %v", c.name, b.Replayable())
		}
		second, err := b.Renew()
		if (err == nil) != c.another {
			t.Fatalf("%s: %v", c.name, err)
		}
		if !c.another {
			if !strings.Contains(err.Error(), "MaxBuffer") || b.Claim() || s.closes != 1 {
				t.Errorf("%s: %v, closed %d times", c.name, err, s.closes)
			}
			continue
		}
		if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%s: the first attempt still reads: %d, %v", c.name, n, err)
		}
		if got, err := io.ReadAll(second); string(got) != "content" || err != c.err {
			t.Errorf("%s: the second attempt reads %q, %v", c.name, got, err)
		}
		b.Release()
		second.Close()
		if second.Close(); s.closes != 1 {
			t.Errorf("%s: closed %d times", c.name, s.closes)
		}
	}
}

// Nobody could use it any more: then it is closed, once, and not before.
func TestRecorderIsClosedOnce(t *testing.T) {
	s := newSource("content")
	if Record(s, 7).Release(); s.closes != 1 {
		t.Errorf("without an attempt: closed %d times", s.closes)
	}
	s = newSource("content")
	b := Record(s, 7)
	first := b.Next()
	if first.Close(); s.closes != 0 {
		t.Error("closed between attempts")
	}
	b.Release()
	if b.Release(); s.closes != 1 || b.Claim() || b.Replayable() {
		t.Errorf("closed %d times, and to be had", s.closes)
	}
	s = newSource("content")
	b = Record(s, 7)
	first = b.Next()
	if b.Release(); s.closes != 0 {
		t.Error("closed while the last attempt reads")
	}
	if first.Close(); s.closes != 1 {
		t.Errorf("closed %d times", s.closes)
	}
}

// The next attempt waits for a Read, and not for one that blocks. A failure that comes after the
// attempt is over is nobody's.
func TestRecorderWaitsForARead(t *testing.T) {
	for slow, want := range map[time.Duration]bool{300 * time.Millisecond: true, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSource("content")
			s.slow = slow
			b := Record(s, 7)
			first := b.Next()
			go first.Read(make([]byte, 3))
			time.Sleep(100 * time.Millisecond)
			began := time.Now()
			if b.Claim() != want || time.Since(began) != min(slow-100*time.Millisecond, time.Second) {
				t.Errorf("a Read of %v: %v after %v", slow, !want, time.Since(began))
			}
			if want {
				read(t, b.Next(), "content")
			}
			s.Close()
			if synctest.Wait(); b.Failure() != nil {
				t.Errorf("a Read of %v: %v is told", slow, b.Failure())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // it brings more than fits, while the next attempt waits
		s := newSource("content")
		s.slow = 300 * time.Millisecond
		b := Record(s, 4)
		go b.Next().Read(make([]byte, 10))
		synctest.Wait()
		if b.Claim() {
			t.Error("to be had without its beginning")
		}
	})
}

// FuzzRecorder: whatever attempts read, each begins at the beginning, and there is another one if
// and only if all that was read fits.
func FuzzRecorder(f *testing.F) {
	f.Add("content", int64(7), []byte{3, 0, 255, 2})
	f.Add("content", int64(0), []byte{0, 1})
	f.Add("", int64(0), []byte{0, 1})
	f.Fuzz(func(t *testing.T, content string, limit int64, reads []byte) {
		limit = min(max(limit, 0), 1<<20)
		b := Record(newSource(content), limit)
		most := 0
		for _, n := range reads {
			body := b.Next()
			got := make([]byte, n)
			have, _ := io.ReadFull(body, got)
			if string(got[:have]) != content[:min(int(n), len(content))] {
				t.Fatalf("%q, want the first %d of %q", got[:have], n, content)
			}
			body.Close()
			most = max(most, have)
			// To see the end is to have read, where nothing is recorded.
			fits := int64(most) <= limit && (limit > 0 || n == 0)
			if b.Claim() != fits {
				t.Fatalf("%d of %d bytes were read, limit %d: another attempt %v",
					most, len(content), limit, !fits)
			}
			if !fits {
				return
			}
		}
	})
}
