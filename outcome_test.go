package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// A protocol that was registered with net/http sends without telling anybody: that nothing was noted is no proof that nothing
// was sent.
func TestRegisteredProtocolIsNoProof(t *testing.T) {
	sent := 0
	base := &http.Transport{}
	base.RegisterProtocol("http", roundTripper(func(req *http.Request) (*http.Response, error) {
		sent++
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		return nil, io.ErrUnexpectedEOF
	}))
	var left steadyhttp.Attempt
	gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		return func(a steadyhttp.Attempt) { left = a }, nil
	})
	_, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(newRequest(t, http.MethodPost, "order"))
	if e := errorOf(t, err); sent != 1 || e.Stop != "not_idempotent" {
		t.Errorf("sent %d times: %v", sent, err)
	}
	if left.Sent.IsZero() || left.Sends != 1 {
		t.Errorf("the gate was told that it never left: %v, %d sends", left.Sent, left.Sends)
	}
}

// MaxElapsed bounds a Prepare that hangs, and the gates are left.
func TestMaxElapsedBoundsPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, left := 0, 0
		gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			entered++
			return func(steadyhttp.Attempt) { left++ }, nil
		})
		base := newScript(answers(200, ""))
		began := time.Now()
		_, err := (&steadyhttp.Transport{
			Base:   base,
			Gates:  []steadyhttp.Gate{gate},
			Policy: steadyhttp.Policy{MaxElapsed: 5 * time.Second},
			Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
				<-req.Context().Done()
				return req.Context().Err()
			},
		}).RoundTrip(newRequest(t, http.MethodGet, ""))
		if e := errorOf(t, err); e.Stop != "elapsed" || !e.Timeout() || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if entered != 1 || left != 1 || base.sent() != 0 {
			t.Errorf("entered %d, left %d, sent %d", entered, left, base.sent())
		}
	})
}

// MaxElapsed bounds the reading ahead of MaxRead: what has come is returned, and the rest is the caller's to wait for.
func TestMaxElapsedBoundsReadingAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answersWith(200, fakeBody{content: "slow", chunk: 2, pause: 4 * time.Second}))
		began := time.Now()
		resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxElapsed: 5 * time.Second, MaxRead: 100}}).RoundTrip(newRequest(t, http.MethodGet, ""))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if body := readAll(t, resp); body != "slow" {
			t.Errorf("read %q", body)
		}
		base.assertNoLeak(t)
	})
}

// A signer reads the body and puts its own in the place. The caller's is closed all the same.
func TestPrepareReplacesTheBody(t *testing.T) {
	for _, getBody := range []bool{true, false} {
		base := newScript(answers(200, ""))
		req := newRequest(t, http.MethodPost, "content")
		body := newCountingBody("content")
		req.Body = body
		if !getBody {
			req.GetBody = nil
		}
		do(t, &steadyhttp.Transport{Base: base, Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			content, err := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(content))
			return err
		}}, req)
		if body.closes.Load() == 0 || base.bodies[0] != "content" {
			t.Errorf("GetBody %v: closed %d times, sent %q", getBody, body.closes.Load(), base.bodies[0])
		}
	}
}

// incomparableBody is a body of a type that panics when it is compared.
type incomparableBody struct {
	io.Reader
	onClose []func()
}

func (b incomparableBody) Close() error {
	for _, f := range b.onClose {
		f()
	}
	return nil
}

// Whatever the type of a body is, it is closed and not compared.
func TestIncomparableBody(t *testing.T) {
	closed := 0
	req := newRequest(t, http.MethodPost, "content")
	req.Body = incomparableBody{strings.NewReader("content"), []func(){func() { closed++ }}}
	errNo := errors.New("no token")
	_, err := (&steadyhttp.Transport{Base: newScript(answers(200, "")), Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errNo }}).RoundTrip(req)
	if !errors.Is(err, errNo) || closed == 0 {
		t.Errorf("%v, closed %d times", err, closed)
	}
}

// One that nobody replaced is not closed before it was read, though it can't be compared.
func TestIncomparableBodyIsSent(t *testing.T) {
	for _, prepare := range []func(*http.Request, *steadyhttp.Attempt) error{nil, func(*http.Request, *steadyhttp.Attempt) error { return nil }} {
		closed, early := 0, false
		base := newScript(answers(200, ""))
		req := newRequest(t, http.MethodPost, "content")
		req.Body = incomparableBody{strings.NewReader("content"), []func(){func() { closed++ }}}
		watch := &steadyhttp.Trace{Waited: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) {}}
		look := roundTripper(func(req *http.Request) (*http.Response, error) {
			early = closed > 0
			return base.RoundTrip(req)
		})
		do(t, &steadyhttp.Transport{Base: look, Prepare: prepare, Trace: watch}, req)
		if early || closed == 0 || base.bodies[0] != "content" {
			t.Errorf("closed before it was sent: %v, closed %d times, sent %q", early, closed, base.bodies[0])
		}
	}
}

// What an inner Transport was cancelled for is not the caller's doing.
func TestInnerCancellationIsNotTheCallers(t *testing.T) {
	inner := &steadyhttp.Transport{Base: newScript(failsWith(trReset))}
	middle := roundTripper(func(req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancelCause(req.Context())
		cancel(errors.New("the middle's own reason"))
		return inner.RoundTrip(req.WithContext(ctx))
	})
	_, err := (&steadyhttp.Transport{Base: middle}).RoundTrip(newRequest(t, http.MethodGet, ""))
	if err == nil || strings.Contains(err.Error(), "Cancel channel") || !strings.Contains(err.Error(), "the middle's own reason") {
		t.Errorf("got %v", err)
	}
}
