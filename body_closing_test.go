package steadyhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// This file has who closes a response's body, and when.

// pooledBody is a response body whose decompressor goes back to a pool when it is closed: a Close during a Read, or a second
// one, gives it to two calls.
type pooledBody struct {
	ctx     context.Context
	content string // what comes before it stalls
	deaf    bool   // only Close ends a Read
	ends    bool   // it ends after content

	at      int
	reading atomic.Bool
	during  atomic.Int64 // Closes during a Read
	closes  atomic.Int64
	closed  chan struct{}
}

func (b *pooledBody) Read(p []byte) (int, error) {
	b.reading.Store(true)
	defer b.reading.Store(false)
	if b.at < len(b.content) {
		n := copy(p, b.content[b.at:])
		b.at += n
		return n, nil
	}
	if b.ends {
		return 0, io.EOF
	}
	done := b.ctx.Done()
	if b.deaf {
		done = nil
	}
	select {
	case <-done:
		time.Sleep(time.Millisecond) // it takes a moment to notice
		return 0, context.Cause(b.ctx)
	case <-b.closed:
		return 0, errFakeClosed
	}
}

func (b *pooledBody) Close() error {
	if b.reading.Load() {
		b.during.Add(1)
	}
	if b.closes.Add(1) == 1 {
		close(b.closed)
	}
	return nil
}

// The Transport closes no body during a Read of its own, and closes each body once; one that does not heed its
// context is closed all the same, and no goroutine is left.
func TestBodyIsNotClosedDuringARead(t *testing.T) {
	idle := func(p *steadyhttp.Policy) { p.IdleTimeout = 100 * time.Millisecond }
	readToTheEnd := func(resp *http.Response, _ func()) {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	closeAtOnce := func(resp *http.Response, _ func()) { resp.Body.Close() }
	for _, test := range []struct {
		name   string
		status int
		edit   func(*steadyhttp.Policy)
		caller func(resp *http.Response, cancel func())
		cancel time.Duration // after which the caller cancels; 0: he does not
		ends   bool
	}{
		{name: "a peek in vain, and a retry", status: 503, caller: readToTheEnd},
		{name: "a retry after all of it", status: 503, caller: readToTheEnd, ends: true},
		{name: "IdleTimeout while it is peeked", status: 503, edit: idle, caller: readToTheEnd},
		{name: "IdleTimeout while the caller reads", status: 200, edit: idle, caller: readToTheEnd},
		{name: "IdleTimeout while the caller reads an error", status: 404, edit: idle, caller: readToTheEnd},
		{name: "IdleTimeout while all is read", status: 200, caller: readToTheEnd, edit: func(p *steadyhttp.Policy) {
			idle(p)
			p.MaxRead = 1 << 20
		}},
		{name: "MaxElapsed while all is read", status: 200, caller: closeAtOnce, edit: func(p *steadyhttp.Policy) {
			p.MaxRead, p.MaxElapsed = 1<<20, time.Second
		}},
		{name: "closed during a peek that stalls", status: 404, caller: closeAtOnce},
		{name: "closed, and read after it", status: 404, caller: func(resp *http.Response, _ func()) {
			resp.Body.Close()
			if n, err := resp.Body.Read(make([]byte, 100)); n != 0 || err == nil {
				t.Errorf("read %d bytes after Close, %v", n, err)
			}
		}},
		{name: "closed unread, all in memory, and read after it", status: 404, ends: true, caller: func(resp *http.Response, _ func()) {
			resp.Body.Close()
			if n, err := resp.Body.Read(make([]byte, 100)); n != 0 || err == nil {
				t.Errorf("read %d bytes after Close, %v", n, err)
			}
		}},
		{name: "closed, and closed again", status: 404, caller: func(resp *http.Response, _ func()) {
			resp.Body.Close()
			resp.Body.Close()
		}},
		{name: "read in part, and closed", status: 200, caller: func(resp *http.Response, _ func()) {
			resp.Body.Read(make([]byte, 2))
			resp.Body.Close()
		}},
		{name: "cancelled during the peek", status: 503, cancel: 100 * time.Millisecond, caller: readToTheEnd},
		{name: "cancelled while all is read", status: 200, cancel: 100 * time.Millisecond, caller: readToTheEnd,
			edit: func(p *steadyhttp.Policy) { p.MaxRead = 1 << 20 }},
		{name: "cancelled after the peek", status: 404, caller: func(resp *http.Response, cancel func()) {
			cancel()
			readToTheEnd(resp, nil)
		}},
		{name: "checked, and closed", status: 404, caller: func(resp *http.Response, _ func()) {
			if steadyhttp.Check(resp) == nil {
				t.Error("Check says nothing")
			}
			resp.Body.Close()
		}},
	} {
		for _, deaf := range []bool{false, true} {
			if deaf && test.cancel > 0 && test.status == 404 {
				continue
			}
			t.Run(fmt.Sprint(test.name, "/deaf ", deaf), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var bodies []*pooledBody
					base := roundTripper(func(req *http.Request) (*http.Response, error) {
						status := test.status
						if len(bodies) > 0 && status >= 500 {
							status = 204
						}
						resp, _ := answers(status, "")(req)
						body := &pooledBody{ctx: req.Context(), content: "part", deaf: deaf, ends: test.ends || status == 204, closed: make(chan struct{})}
						bodies = append(bodies, body)
						resp.Body, resp.ContentLength, resp.Request = body, -1, req
						return resp, nil
					})
					policy := atOnce()
					if test.edit != nil {
						test.edit(&policy)
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if test.cancel > 0 {
						time.AfterFunc(test.cancel, cancel)
					}
					resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
					if err == nil {
						if deaf && resp.StatusCode == 404 && test.name == "cancelled after the peek" {
							cancel()
							resp.Body.Close() // to read on would be to wait for ever, as it is without the Transport
						} else {
							test.caller(resp, cancel)
						}
					}
					time.Sleep(time.Minute)
					for n, body := range bodies {
						if body.closes.Load() != 1 || !deaf && body.during.Load() > 0 {
							t.Errorf("body %d was closed %d times, %d times during a Read", n+1, body.closes.Load(), body.during.Load())
						}
					}
				})
			})
		}
	}
}

// Check reads a stalled body of anybody's ahead, and its Close leaves nothing either.
func TestCheckedBodyIsNotClosedDuringARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		body := &pooledBody{ctx: ctx, content: "part", closed: make(chan struct{})}
		resp, _ := answers(503, "")(nil)
		resp.Body = body
		if steadyhttp.Check(resp) == nil {
			t.Error("Check says nothing")
		}
		closed := make(chan struct{})
		go func() {
			resp.Body.Close()
			close(closed)
		}()
		cancel()
		<-closed
		time.Sleep(time.Minute)
		if body.closes.Load() != 1 || body.during.Load() > 0 {
			t.Errorf("closed %d times, %d times during a Read", body.closes.Load(), body.during.Load())
		}
	})
}
