package readahead

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode"
)

var errBroken = errors.New("broken")

// trickle brings one piece a second.
type trickle struct {
	pieces []string
	closed int
	onEnd  func() // in Close
}

func (b *trickle) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	if len(b.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.pieces[0])
	b.pieces = b.pieces[1:]
	return n, nil
}

func (b *trickle) Close() error {
	if b.closed++; b.onEnd != nil {
		b.onEnd()
	}
	return nil
}

// What ends at once is there at once: the beginning up to the limit, and what ended it.
func TestReadsTheBeginning(t *testing.T) {
	long := strings.Repeat("0123456789", 5000)
	for _, c := range []struct {
		name   string
		body   io.Reader
		limit  int
		length int64 // as the server says
		want   string
		err    error
	}{
		{"empty", strings.NewReader(""), 10, 0, "", io.EOF},
		{"shorter than the limit", strings.NewReader("short"), 10, 5, "short", io.EOF},
		{"as long as the limit", strings.NewReader("0123456789"), 10, 10, "0123456789", nil},
		{"longer than the limit", strings.NewReader("0123456789x"), 10, 11, "0123456789", nil},
		{"byte by byte", iotest.OneByteReader(strings.NewReader("short")), 10, -1, "short", io.EOF},
		{"with its end", iotest.DataErrReader(strings.NewReader("short")), 10, 5, "short", io.EOF},
		{"no limit to speak of", strings.NewReader(long), 1 << 20, -1, long, io.EOF},
		{"the server says too little", strings.NewReader(long), 1 << 20, 3, long, io.EOF},
		{"the server says too much", strings.NewReader("short"), 1 << 20, 1 << 60, "short", io.EOF},
		{"a large one, cut off", strings.NewReader(long), 20_000, 50_000, long[:20_000], nil},
		{"breaks off", io.MultiReader(strings.NewReader("some"), iotest.ErrReader(errBroken)), 10, 10,
			"some", errBroken},
	} {
		for _, reuse := range []*Reader{nil, new(Reader)} {
			r := Start(reuse, c.body, c.limit, c.length)
			if reuse != nil && r != reuse {
				t.Errorf("%s: another Reader than the one given", c.name)
			}
			if room := cap(r.Bytes()); room > c.limit || room > 16<<10+1 {
				t.Errorf("%s: room for %d bytes before any came", c.name, room)
			}
			if !r.Run(time.Minute) || !r.Finished() {
				t.Fatalf("%s: it goes on", c.name)
			}
			if got := string(r.Bytes()); got != c.want || !errors.Is(r.Err(), c.err) {
				t.Errorf("%s: %d bytes and %v, want %d and %v", c.name, len(got), r.Err(), len(c.want), c.err)
			}
			<-r.Done()
			if seeker, ok := c.body.(io.Seeker); !ok {
				break
			} else if _, err := seeker.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Who waits waits no longer than he said, or than what ends his call. What has come by then can be
// had, and the goroutine reads no more once its Read returns.
func TestWaitIsBounded(t *testing.T) {
	ends := func(after time.Duration) <-chan struct{} {
		c := make(chan struct{})
		time.AfterFunc(after, func() { close(c) })
		return c
	}
	for _, c := range []struct {
		name    string
		timeout time.Duration
		ends    func() []<-chan struct{}
		took    time.Duration
		ended   bool
		want    string
	}{
		{"a timeout", 2500 * time.Millisecond, nil, 2500 * time.Millisecond, false, "ab"},
		{"the first end", 0, func() []<-chan struct{} {
			return []<-chan struct{}{ends(1500 * time.Millisecond)}
		}, 1500 * time.Millisecond, false, "a"},
		{"the second end", time.Minute, func() []<-chan struct{} {
			return []<-chan struct{}{nil, ends(1500 * time.Millisecond)}
		}, 1500 * time.Millisecond, false, "a"},
		{"its own end", 0, nil, 4 * time.Second, true, "abc"},
		{"its own end, before others", time.Hour, func() []<-chan struct{} {
			return []<-chan struct{}{ends(time.Hour), nil}
		}, 4 * time.Second, true, "abc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := &trickle{pieces: []string{"a", "b", "c"}}
				r := Start(nil, body, 10, -1)
				var all []<-chan struct{}
				if c.ends != nil {
					all = c.ends()
				}
				began := time.Now()
				ended := r.Run(c.timeout, all...)
				if took := time.Since(began); ended != c.ended || took != c.took || r.Finished() != ended {
					t.Errorf("ended %v after %v, want %v after %v", ended, took, c.ended, c.took)
				}
				p := make([]byte, 10)
				if n := r.CopyAt(p, 0); string(p[:n]) != c.want || string(r.Snapshot()) != c.want {
					t.Errorf("%q and %q have come, want %q", p[:n], r.Snapshot(), c.want)
				}
				if n := r.CopyAt(p, 1); string(p[:n]) != c.want[1:] {
					t.Errorf("%q from 1 on, want %q", p[:n], c.want[1:])
				}
				<-r.Done()
				if !ended && len(r.Bytes()) != len(c.want)+1 {
					t.Errorf("%q was read in all: it went on", r.Bytes())
				}
				if !r.Finished() {
					t.Error("Done, and not finished")
				}
				time.Sleep(time.Hour) // for the timers
			})
		})
	}
}

// A copy of what has come stays as it is while more comes.
func TestSnapshotIsACopy(t *testing.T) {
	r := Start(nil, strings.NewReader("content"), 10, 7)
	r.Run(0)
	copied := r.Snapshot()
	copied[0] = 'X'
	if string(r.Bytes()) != "content" {
		t.Errorf("%q", r.Bytes())
	}
}

// panics panics in Read.
type panics struct{ with any }

func (p panics) Read([]byte) (int, error) { time.Sleep(time.Second); panic(p.with) }

// A body's panic comes to who asks for the body, whenever that is, and to nobody before.
func TestPanicIsForWhoAsks(t *testing.T) {
	recovered := func(f func()) (with any) {
		defer func() { with = recover() }()
		f()
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		r := Start(nil, panics{"odd"}, 10, -1)
		if got := recovered(func() { r.Run(0) }); got != "odd" {
			t.Errorf("who waits gets %v", got)
		}
		r = Start(nil, panics{"late"}, 10, -1)
		if got := recovered(func() { r.Run(time.Millisecond) }); got != nil {
			t.Errorf("before it happens: %v", got)
		}
		<-r.Done()
		if got := recovered(func() { r.Finished() }); got != "late" {
			t.Errorf("who asks later gets %v", got)
		}
	})
}

// A body that was given up is closed once, when its Read has ended, by the goroutine or by whoever
// takes that back.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &trickle{pieces: []string{"a", "b"}}
		r := Start(nil, body, 10, -1)
		r.Run(time.Millisecond)
		if !r.HandOver(body) {
			t.Fatal("it goes on, and does not close the body")
		}
		if synctest.Wait(); body.closed != 0 {
			t.Error("closed while it is read")
		}
		if <-r.Done(); body.closed != 1 {
			t.Errorf("closed %d times", body.closed)
		}
		if r.HandOver(body) || r.TakeBack() != nil {
			t.Error("it has ended, and would close the body once more")
		}

		body = &trickle{pieces: []string{"a", "b"}}
		r = Start(nil, body, 10, -1)
		r.Run(time.Millisecond)
		r.HandOver(body)
		if back := r.TakeBack(); back != body {
			t.Errorf("taken back: %v", back)
		}
		if back := r.TakeBack(); back != nil {
			t.Errorf("taken back twice: %v", back)
		}
		if <-r.Done(); body.closed != 0 {
			t.Error("closed by both")
		}

		body = &trickle{onEnd: func() { panic("odd") }}
		r = Start(nil, body, 10, -1)
		r.Run(time.Millisecond)
		r.HandOver(body)
		if <-r.Done(); body.closed != 1 || !r.Finished() {
			t.Errorf("closed %d times, with a panic that nobody waits for", body.closed)
		}
	})
}

func response(contentType ...string) *http.Response {
	return &http.Response{Header: http.Header{"Content-Type": contentType}}
}

// What has no end to wait for is known by its type.
func TestEndless(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/event-stream":                true,
		"Text/Event-Stream; charset=utf-8": true,
		" text/event-stream ;x=y":          true,
		"application/x-ndjson":             true, "application/ndjson": true, "application/jsonl": true,
		"application/x-json-lines": true, "application/json-seq": true, "application/stream+json": true,
		"application/vnd.amazon.eventstream": true,
		"application/grpc":                   true,
		"application/grpc+proto":             true,
		"application/grpc-web-text":          true, "multipart/x-mixed-replace; boundary=x": true,
		"multipart/mixed ; boundary=x": true, "application/json;stream=watch": true,
		"application/json; Stream=watch":  true,
		"application/octet-stream":        false,
		"APPLICATION/OCTET-STREAM ;":      false,
		"application/json":                false,
		"application/json; charset=utf-8": false, "text/html": false, "": false, ";": false,
		"multipart/form-data; boundary=x": false, "application/problem+json": false,
		"application/json; odata.streaming=true": false, "text/plain; note=ndjson": false,
	} {
		if got := Endless(response(kind)); got != want {
			t.Errorf("%q: %v", kind, got)
		}
	}
	if Endless(&http.Response{}) || Endless(response()) {
		t.Error("nothing said is a stream")
	}
	if Endless(response("text/html", "text/event-stream")) {
		t.Error("another field than the first")
	}
}

// FuzzEndless: neither capitals, nor spaces around the type, nor a further parameter that says
// nothing of streams make a difference.
func FuzzEndless(f *testing.F) {
	for _, s := range []string{
		"text/event-stream", "application/json;stream=watch", "a;b;c", "; ;", "\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, kind string) {
		got := Endless(response(kind))
		if bytes.ContainsFunc([]byte(kind), func(r rune) bool { return r > unicode.MaxASCII }) {
			return
		}
		for _, other := range []string{strings.ToUpper(kind), strings.ToLower(kind), " \t" + kind,
			kind + "; charset=utf-8"} {
			if Endless(response(other)) != got {
				t.Errorf("%q: %v, %q: %v", kind, got, other, !got)
			}
		}
	})
}
