package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// The request's body is closed on every way out.
func TestRequestBodyIsClosed(t *testing.T) {
	refuse := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) { return nil, errTrial })
	block := enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, test := range []struct {
		name      string
		transport *steadyhttp.Transport
		steps     []step
		change    func(*http.Request) *http.Request
	}{
		{name: "success"},
		{name: "success after faults", steps: []step{answers(429, ""), answers(503, ""), answers(200, "")}},
		{name: "permanent", steps: []step{answers(404, "")}},
		{name: "exhausted", steps: []step{answers(429, "")}},
		{name: "transport errors", steps: []step{failsWith(trReset)}},
		{name: "never connected", steps: []step{failsWith(trRefused)}},
		{name: "nil URL", change: func(req *http.Request) *http.Request { req.URL = nil; return req }},
		{name: "nil header", change: func(req *http.Request) *http.Request { req.Header = nil; return req }},
		{name: "context over before the start", change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		{name: "context over before the start, gates", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}}, change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		{name: "gate refuses", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{refuse}}},
		{name: "gate refuses the retry", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{afterFirstAttempt(refuse)}}, steps: []step{answers(429, "")}},
		{name: "gate waits in vain", transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{block}, Policy: steadyhttp.Policy{MaxElapsed: time.Second}}},
		{name: "Prepare fails", transport: &steadyhttp.Transport{Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errTrial }}},
		{name: "Prepare fails at the retry", transport: &steadyhttp.Transport{Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev != nil {
				return errTrial
			}
			return nil
		}}, steps: []step{failsWith(trRefused)}},
		{name: "GetBody fails", steps: []step{answers(429, "")}, change: func(req *http.Request) *http.Request {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errTrial }
			return req
		}},
		{name: "cancelled between attempts", steps: []step{answers(429, "", "Retry-After: 10")}, change: func(req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			time.AfterFunc(time.Second, cancel)
			return req.WithContext(ctx)
		}},
		{name: "budget spent", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 0.5}}}, steps: []step{answers(429, "")}},
		{name: "buffered", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 100}}, steps: []step{answers(429, ""), answers(200, "")}},
		{name: "too long to be buffered", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 1}}, steps: []step{answers(429, "")}},
		{name: "fails while it is buffered", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxBuffer: 100}}, change: func(req *http.Request) *http.Request {
			req.Body.(*countingBody).Reader = failingReader{errTrial}
			return req
		}},
		{name: "a class that does not exist", transport: &steadyhttp.Transport{Classify: func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{} }}},
		{name: "one attempt", transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxAttempts: 1}}, steps: []step{answers(503, "")}},
	} {
		for _, withGetBody := range []bool{true, false} {
			t.Run(fmt.Sprint(test.name, ", GetBody ", withGetBody), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if test.steps == nil {
						test.steps = []step{answers(200, "")}
					}
					base := newScript(test.steps...)
					transport := withBase(test.transport, base)
					req := newRequest(t, http.MethodPost, "content")
					body := newCountingBody("content")
					req.Body = body
					if !withGetBody {
						req.GetBody = nil
					}
					if test.change != nil {
						req = test.change(req)
					}
					if resp, err := transport.RoundTrip(req); err == nil {
						resp.Body.Close()
					}
					if body.closes.Load() == 0 {
						t.Error("the request's body was not closed")
					}
					base.assertNoLeak(t)
				})
			})
		}
	}
}

// What is left of a discarded answer is read within bounds, in bytes and in time.
func TestDrainIsBounded(t *testing.T) {
	// What Classify alone rejects is not peeked, so that the drain is all that is ever read of it.
	reject := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		if a.N == 1 {
			return steadyhttp.Verdict{Class: steadyhttp.Transient}
		}
		return steadyhttp.Verdict{Class: steadyhttp.Success}
	}
	for _, test := range []struct {
		name string
		body fakeBody
		took time.Duration
	}{
		{"endless", fakeBody{content: "endless ", endless: true}, 0},
		{"stalled", fakeBody{content: "stalled", stalls: true}, 50 * time.Millisecond},
		{"trickling", fakeBody{content: strings.Repeat("x", 1000), chunk: 1, pause: 20 * time.Millisecond}, 50 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.body.reads = new(atomic.Int64)
				base := newScript(answersWith(200, test.body), answers(200, "fine"))
				began := time.Now()
				do(t, &steadyhttp.Transport{Base: base, Classify: reject, Policy: atOnce()}, newRequest(t, "GET", ""))
				if took := time.Since(began); took != test.took {
					t.Errorf("the drain took %v, want %v", took, test.took)
				}
				if read := test.body.reads.Load(); read > 64<<10 {
					t.Errorf("read %d bytes", read)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// Every discarded answer is closed, and before the wait, so that its connection is free meanwhile.
func TestDiscardedAnswerIsClosedBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(
			answers(503, "short"),
			answersWith(503, fakeBody{content: "endless ", endless: true}),
			answersWith(503, fakeBody{content: "stalls", stalls: true}),
			answers(200, "fine"))
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{
			Budget:     &steadyhttp.Budget{Max: -1},
			NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) },
		}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			do(t, transport, newRequest(t, "GET", ""))
		}()
		for range 3 {
			time.Sleep(30 * time.Second)
			base.assertNoLeak(t)
			time.Sleep(30 * time.Second)
		}
		<-done
		if base.sent() != 4 {
			t.Errorf("sent %d times", base.sent())
		}
	})
}

// The attempt's context outlives RoundTrip, so that a body can be read at the caller's pace.
func TestBodyIsReadableAfterReturn(t *testing.T) {
	for name, policy := range map[string]steadyhttp.Policy{
		"AttemptTimeout": {AttemptTimeout: time.Second},
		"MaxElapsed":     {MaxElapsed: time.Second},
		"IdleTimeout":    {IdleTimeout: time.Second},
	} {
		for _, status := range []int{200, 404} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					content := strings.Repeat("0123456789abcdef", 512<<10/16)
					var attempt context.Context
					transport := &steadyhttp.Transport{Policy: policy, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
						attempt = req.Context()
						// As with net/http, the body fails once the context of its request is over.
						return answersBound(status, content)(req)
					})}
					resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					if attempt.Err() != nil {
						t.Errorf("the attempt's context is over: %v", context.Cause(attempt))
					}
					if body := readAll(t, resp); body != content {
						t.Errorf("read %d bytes of %d", len(body), len(content))
					}
					// And it does not outlive the body.
					if attempt.Err() == nil {
						t.Error("the attempt's context was not released at the end of the body")
					}
				})
			})
		}
	}
}

// No attempt is given a body of which another has read, or still reads.
func TestAttemptsShareNoReader(t *testing.T) {
	// late reads the body when its answer has long been returned, as net/http's writeLoop may (golang/go#30597).
	late := func(after time.Duration, answer step, read *atomic.Value) step {
		return func(req *http.Request) (*http.Response, error) {
			go func() {
				time.Sleep(after)
				body, _ := io.ReadAll(req.Body)
				read.Store(string(body))
				req.Body.Close()
			}()
			return answer(req)
		}
	}
	for _, test := range []struct {
		name    string
		getBody bool
		after   time.Duration
		answer  step
	}{
		{"GetBody, read during the wait", true, 100 * time.Millisecond, answers(429, "")},
		{"GetBody, read during the next attempt", true, 1100 * time.Millisecond, answers(429, "")},
		{"no GetBody, read during the wait", false, 100 * time.Millisecond, answers(429, "")},
		{"no GetBody, read during the next attempt", false, 1100 * time.Millisecond, answers(429, "")},
		{"no GetBody, read during the wait after an error", false, 100 * time.Millisecond, failsWith(trRefused)},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var first atomic.Value
				var sent []string
				n := 0
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					if n++; n == 1 {
						return late(test.after, test.answer, &first)(req)
					}
					time.Sleep(500 * time.Millisecond)
					body, err := io.ReadAll(req.Body)
					req.Body.Close()
					if err != nil {
						return nil, err
					}
					sent = append(sent, string(body))
					return answers(200, "")(req)
				})
				req := newRequest(t, "PUT", "content")
				if !test.getBody {
					req.Body, req.GetBody = newCountingBody("content"), nil
				}
				policy := steadyhttp.Policy{NewBackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }}
				if resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req); err == nil {
					resp.Body.Close()
				}
				time.Sleep(time.Minute)
				// To send nothing is right where the body is gone; to send a part of it never is.
				for _, body := range sent {
					if body != "content" {
						t.Errorf("a retry was sent with body %q", body)
					}
				}
				if test.getBody && len(sent) != 1 {
					t.Errorf("%d retries, want 1", len(sent))
				}
			})
		})
	}
}

// net/http closes a request's body while it reads it.
func TestConcurrentReadAndCloseOfRequestBody(t *testing.T) {
	for range 100 {
		pr, pw := io.Pipe()
		go func() {
			for {
				if _, err := pw.Write([]byte("some content")); err != nil {
					return
				}
			}
		}()
		var reading sync.WaitGroup
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			body := req.Body
			begun := make(chan struct{})
			reading.Go(func() {
				p := make([]byte, 8)
				for n := 0; ; n++ {
					if _, err := body.Read(p); err != nil {
						return
					}
					if n == 2 {
						close(begun)
					}
				}
			})
			<-begun
			body.Close()
			return answers(413, "too large")(req)
		})
		req := newRequest(t, "POST", "")
		req.Body = pr
		resp, _ := do(t, &steadyhttp.Transport{Base: base}, req)
		if resp.StatusCode != 413 {
			t.Fatal(resp.Status)
		}
		reading.Wait() // a Close that did not come through would leave it reading for ever
	}
}

// A body that cannot be had again is sent once, unless nobody has touched it.
func TestBodyWithoutGetBody(t *testing.T) {
	untouched := func(answer step) step {
		return func(req *http.Request) (*http.Response, error) { return answer(req) }
	}
	for _, test := range []struct {
		name   string
		reads  int // how much of the body the first attempt reads
		answer step
		sent   int
		stop   steadyhttp.Stop
	}{
		{"dial failure", 0, failsWith(trRefused), 2, "done"},
		{"throttled unread", 0, untouched(answers(429, "")), 2, "done"},
		{"dial failure after a byte", 1, failsWith(trRefused), 1, "body_not_replayable"},
		{"throttled after a byte", 1, answers(429, "kept"), 1, "body_not_replayable"},
		{"throttled after all", 100, answers(429, "kept"), 1, "body_not_replayable"},
		{"reset", 100, failsWith(trReset), 1, "body_not_replayable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var bodies []string
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				defer req.Body.Close()
				if bodies == nil {
					part, _ := io.ReadAll(io.LimitReader(req.Body, int64(test.reads)))
					bodies = append(bodies, string(part))
					return test.answer(req)
				}
				all, _ := io.ReadAll(req.Body)
				bodies = append(bodies, string(all))
				return answers(200, "fine")(req)
			})
			req := newRequest(t, "PUT", "")
			body := newCountingBody("content")
			req.Body, req.ContentLength = body, 7
			policy := atOnce()
			policy.MaxBuffer = -1
			resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
			var stop steadyhttp.Stop
			if err != nil {
				stop = errorOf(t, err).Stop
			} else {
				stop = stopOf(t, resp)
				resp.Body.Close()
			}
			if len(bodies) != test.sent || stop != test.stop {
				t.Errorf("sent %d times, Stop %q, want %d and %q (error %v)", len(bodies), stop, test.sent, test.stop, err)
			}
			if test.sent == 2 && bodies[1] != "content" {
				t.Errorf("the retry had body %q", bodies[1])
			}
			if closes := body.closes.Load(); closes != 1 {
				t.Errorf("closed %d times", closes)
			}
		})
	}
}

// No body and NoBody reach the base transport as they are, on every attempt.
func TestEmptyBodiesAreNotWrapped(t *testing.T) {
	for name, body := range map[string]io.ReadCloser{"nil": nil, "NoBody": http.NoBody} {
		t.Run(name, func(t *testing.T) {
			base := newScript(answers(503, ""), answers(429, ""), answers(200, ""))
			policy := atOnce()
			policy.MaxBuffer, policy.AttemptTimeout = 100, time.Minute
			req := newRequest(t, "PUT", "")
			req.Body = body
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
			if base.sent() != 3 {
				t.Fatalf("sent %d times", base.sent())
			}
			for n := range 3 {
				if got := base.request(n).Body; got != body {
					t.Errorf("attempt %d had body %T", n+1, got)
				}
			}
		})
	}
}

// A request whose trailer its caller fills in while the body is read is not sent a second time without it.
func TestRequestTrailer(t *testing.T) {
	for _, test := range []struct {
		name    string
		trailer http.Header
		sent    int
	}{
		{"unset", http.Header{"X-Sum": nil}, 1},
		{"final", http.Header{"X-Sum": {"42"}}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(answers(429, ""), answers(200, ""))
			req := newRequest(t, "POST", "content")
			req.Trailer = test.trailer
			do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
			if base.sent() != test.sent {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			for n := range base.sent() {
				if got := base.request(n).Trailer; reflect.ValueOf(got).Pointer() != reflect.ValueOf(test.trailer).Pointer() {
					t.Errorf("attempt %d has a trailer of its own, which the caller does not fill in", n+1)
				}
			}
		})
	}
}

// A response's trailer is there at the end of its body, whatever stands between.
func TestResponseTrailer(t *testing.T) {
	for _, status := range []int{200, 404} {
		for name, policy := range map[string]steadyhttp.Policy{"default": {}, "attempt timeout": {AttemptTimeout: time.Minute}, "read ahead": {MaxRead: 1 << 10}} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					resp, _ := answers(status, "content")(req)
					resp.Trailer = http.Header{"X-Sum": nil}
					resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("content"), readFunc(func([]byte) (int, error) {
						resp.Trailer.Set("X-Sum", "42")
						return 0, io.EOF
					})))
					return resp, nil
				})
				resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
				if got := resp.Trailer.Get("X-Sum"); got != "42" {
					t.Errorf("trailer %q", got)
				}
			})
		}
	}
}

// Expect is the caller's business, and a 417 the end of it.
func TestExpectContinue(t *testing.T) {
	base := newScript(answers(417, "no"))
	req := newRequest(t, "PUT", "content")
	req.Header.Set("Expect", "100-continue")
	resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
	if resp.StatusCode != 417 || base.sent() != 1 || base.request(0).Header.Get("Expect") != "100-continue" {
		t.Errorf("got %d after %d attempts", resp.StatusCode, base.sent())
	}
}

// A body that has no Write does not pretend to have one.
func TestPlainBodyHasNoWrite(t *testing.T) {
	resp, err := (&steadyhttp.Transport{Base: newScript(answers(200, "x")), Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}}).RoundTrip(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, ok := resp.Body.(io.Writer); ok {
		t.Error("it has")
	}
}

// A tunnel's request body is the pipe itself, and not a wrapper of ours.
func TestTunnelBodyIsNotWrapped(t *testing.T) {
	base := newScript(answers(200, ""))
	req := newRequest(t, "CONNECT", "")
	body := newCountingBody("upstream")
	req.Body = body
	do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: 100}}, req)
	if got := base.request(0).Body; got != io.ReadCloser(body) {
		t.Errorf("the base transport had a %T", got)
	}
}

// Nothing is read of a success, nor of an event stream, before the caller does.
func TestStreamsAreNotReadAhead(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		fields []string
		policy steadyhttp.Policy
	}{
		{"success", 200, nil, steadyhttp.Policy{}},
		{"success with bounds", 200, nil, steadyhttp.Policy{AttemptTimeout: time.Second, IdleTimeout: time.Hour}},
		{"redirect", 302, nil, steadyhttp.Policy{}},
		{"event stream", 200, []string{"Content-Type: text/event-stream"}, steadyhttp.Policy{MaxRead: 1 << 20}},
		{"event stream of an error", 400, []string{"Content-Type: text/event-stream; charset=utf-8"}, steadyhttp.Policy{}},
		{"not idempotent, so MaxRead is of no use", 200, nil, steadyhttp.Policy{MaxRead: 1 << 20, Idempotent: func(*http.Request) bool { return false }}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := fakeBody{content: "data: 1\n\n", reads: new(atomic.Int64)}
				base := newScript(answersWith(test.status, body, test.fields...))
				began := time.Now()
				resp, err := (&steadyhttp.Transport{Base: base, Policy: test.policy}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if read := body.reads.Load(); read > 0 || time.Since(began) > 0 {
					t.Errorf("%d bytes were read ahead, in %v", read, time.Since(began))
				}
				if got := readAll(t, resp); got != "data: 1\n\n" {
					t.Errorf("body %q", got)
				}
			})
		})
	}
}

// A body that does not come is not read, and the length it would have had stays.
func TestBodilessAnswers(t *testing.T) {
	for _, test := range []struct {
		method string
		status int
		length int64
	}{{"HEAD", 200, 1 << 30}, {"HEAD", 404, 1 << 30}, {"GET", 204, 0}, {"GET", 304, 1 << 30}} {
		t.Run(fmt.Sprint(test.method, " ", test.status), func(t *testing.T) {
			base := newScript(func(req *http.Request) (*http.Response, error) {
				resp, _ := answers(test.status, "")(req)
				resp.Body, resp.ContentLength = http.NoBody, test.length
				return resp, nil
			})
			resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxRead: 1 << 20}}, newRequest(t, test.method, ""))
			if resp.ContentLength != test.length || body != "" || base.sent() != 1 {
				t.Errorf("length %d, body %q, sent %d times", resp.ContentLength, body, base.sent())
			}
		})
	}
}

// Transparent decompression stays net/http's: no field of ours turns it off, and its marks are kept.
func TestCompressionIsLeftAlone(t *testing.T) {
	for _, status := range []int{200, 404} {
		base := newScript(answers(503, ""), func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(status, "content")(req)
			resp.Uncompressed, resp.ContentLength = true, -1
			return resp, nil
		})
		policy := atOnce()
		policy.AttemptTimeout, policy.IdempotencyKey = time.Minute, true
		resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", ""))
		if !resp.Uncompressed || resp.ContentLength != -1 {
			t.Errorf("%d: Uncompressed %v, ContentLength %d", status, resp.Uncompressed, resp.ContentLength)
		}
		for n := range base.sent() {
			if got, ok := base.request(n).Header["Accept-Encoding"]; ok {
				t.Errorf("attempt %d asks for %q", n+1, got)
			}
		}
	}
}

// Bad input: a retry whose body can't be had is not made, and the answer before it is not lost if it was in memory.
func TestGetBodyThatFails(t *testing.T) {
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"error": func() (io.ReadCloser, error) { return nil, errTrial },
		"nil":   func() (io.ReadCloser, error) { return nil, nil },
	} {
		t.Run(name+", answer in memory", func(t *testing.T) {
			base := newScript(answers(429, envelope("429", "slow", "t1")))
			req := newRequest(t, "POST", "content")
			req.GetBody = getBody
			resp, body := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
			if resp.StatusCode != 429 || body != envelope("429", "slow", "t1") || stopOf(t, resp) != "body_not_replayable" || base.sent() != 1 {
				t.Errorf("got %d %q after %d attempts, Stop %q", resp.StatusCode, body, base.sent(), stopOf(t, resp))
			}
			base.assertNoLeak(t)
		})
		t.Run(name+", answer too large to be kept", func(t *testing.T) {
			base := newScript(answers(429, strings.Repeat("x", 100<<10)))
			req := newRequest(t, "POST", "content")
			req.GetBody = getBody
			_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(req)
			e := errorOf(t, err)
			if e.Stop != "body_not_replayable" || e.Class != steadyhttp.Throttled || e.Attempts != 1 || !strings.Contains(err.Error(), "request's body") {
				t.Errorf("got %+v: %v", e, err)
			}
			base.assertNoLeak(t)
		})
	}
}

// Broken bodies of error answers: what is peeked is bounded, and the caller gets all of the body, and its end, as it came.
func TestErrorBodies(t *testing.T) {
	const peek = 64 << 10
	pattern := strings.Repeat("0123456789abcde\n", 64)
	for _, test := range []struct {
		name string
		body fakeBody
		read int   // how much the caller reads
		end  error // what he meets there
		took time.Duration
	}{
		{"short", fakeBody{content: "short"}, 5, io.EOF, 0},
		{"empty", fakeBody{}, 0, io.EOF, 0},
		{"of the peek's very length", fakeBody{content: strings.Repeat("x", peek)}, peek, io.EOF, 0},
		{"one byte longer than the peek", fakeBody{content: strings.Repeat("x", peek+1)}, peek + 1, io.EOF, 0},
		{"fails at once", fakeBody{end: errTrial}, 0, errTrial, 0},
		{"breaks off", fakeBody{content: "half", end: io.ErrUnexpectedEOF}, 4, io.ErrUnexpectedEOF, 0},
		{"1 GiB", fakeBody{content: pattern, endless: true}, 8 << 20, nil, 0},
		{"byte by byte", fakeBody{content: pattern, chunk: 1}, len(pattern), io.EOF, 0},
		{"trickles", fakeBody{content: pattern[:100], chunk: 1, pause: 95 * time.Millisecond}, 100, io.EOF, time.Second},
		{"first byte after 5 s", fakeBody{content: pattern, pause: 5 * time.Second}, len(pattern), io.EOF, time.Second},
		{"stalls after some", fakeBody{content: "some", stalls: true}, 4, nil, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.body.reads = new(atomic.Int64)
				base := newScript(answersWith(404, test.body))
				began := time.Now()
				resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if read := test.body.reads.Load(); read > peek {
					t.Errorf("%d bytes were read ahead", read)
				}
				// A reader that hangs for ever would end the test by force: give it another way out.
				rescue := time.AfterFunc(time.Minute, func() { resp.Body.Close() })
				defer rescue.Stop()
				began = time.Now()
				got := make([]byte, test.read)
				if n, err := io.ReadFull(resp.Body, got); err != nil {
					t.Fatalf("read %d bytes of %d, then %v", n, test.read, err)
				}
				if took := time.Since(began); test.body.stalls && took > 0 {
					t.Errorf("what had come already was held back for %v", took)
				}
				want := test.body.content
				if test.body.endless {
					want = strings.Repeat(want, test.read/len(want))
				}
				if string(got) != want {
					t.Error("the body is another")
				}
				if test.end != nil {
					if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != test.end {
						t.Errorf("ends with %d bytes and %v, want %v", n, err, test.end)
					}
				}
				resp.Body.Close()
				base.assertNoLeak(t)
			})
		})
	}
}

// Broken bodies: Close ends a read that the peek has left under way, and whoever waits for it.
func TestCloseDuringAReadThatOutlastedThePeek(t *testing.T) {
	for _, reading := range []bool{false, true} {
		t.Run(fmt.Sprint("caller is reading ", reading), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(404, fakeBody{content: "some", stalls: true}))
				resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				if reading {
					go func() {
						_, err := io.ReadAll(resp.Body)
						done <- err
					}()
					synctest.Wait()
				}
				began := time.Now()
				resp.Body.Close()
				if reading {
					if err := <-done; err == nil {
						t.Error("the read ended without an error")
					}
				}
				if took := time.Since(began); took > 0 {
					t.Errorf("took %v", took)
				}
				base.assertNoLeak(t)
				// The bubble ends only if no goroutine is left behind.
			})
		})
	}
}

// A slow error body holds a retry up for no longer than the peek.
func TestSlowErrorBodyHoldsTheRetryUpForASecond(t *testing.T) {
	for name, body := range map[string]fakeBody{
		"stalled":   {content: "{", stalls: true},
		"trickling": {content: "{", chunk: 1, pause: time.Millisecond, endless: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(503, body), answers(200, "fine"))
				began := time.Now()
				do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, newRequest(t, "GET", ""))
				if took := time.Since(began); took > time.Second+time.Millisecond {
					t.Errorf("took %v", took)
				}
				base.assertNoLeak(t)
			})
		})
	}
}

// Policy.IdleTimeout bounds each read of the body, and nothing else.
func TestIdleTimeout(t *testing.T) {
	policy := steadyhttp.Policy{IdleTimeout: 2 * time.Second}
	for _, test := range []struct {
		name   string
		status int
		policy steadyhttp.Policy
	}{
		{"success", 200, policy},
		{"success of an attempt with a timeout", 200, steadyhttp.Policy{IdleTimeout: 2 * time.Second, AttemptTimeout: time.Second}},
		{"error whose body was peeked", 404, policy},
		{"success too long to be read ahead", 200, steadyhttp.Policy{IdleTimeout: 2 * time.Second, MaxRead: 2}},
	} {
		t.Run(test.name+" that stalls", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(test.status, fakeBody{content: "some", stalls: true}))
				resp, err := (&steadyhttp.Transport{Base: base, Policy: test.policy}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				// A reader that hangs for ever would end the test by force: give it another way out.
				rescue := time.AfterFunc(time.Minute, func() { resp.Body.Close() })
				defer rescue.Stop()
				began := time.Now()
				got, err := io.ReadAll(resp.Body)
				if took := time.Since(began); took > 2*time.Second+10*time.Millisecond {
					t.Errorf("took %v", took)
				}
				if timeout, ok := err.(net.Error); string(got) != "some" || !ok || !timeout.Timeout() {
					t.Errorf("read %q and %v, want all there was and a timeout", got, err)
				}
				base.assertNoLeak(t)
			})
		})
	}
	for _, status := range []int{200, 404} {
		t.Run(fmt.Sprint(status, " that is slow"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answersWith(status, fakeBody{content: "slow but steady", chunk: 1, pause: 1900 * time.Millisecond}))
				if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", "")); body != "slow but steady" {
					t.Errorf("body %q", body)
				}
			})
		})
	}
	t.Run("the reader may be slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answersWith(200, fakeBody{content: "abc", chunk: 1}))
			resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				time.Sleep(time.Hour)
				if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
			}
			resp.Body.Close()
		})
	})
}

// Policy.MaxRead: a body that breaks off is fetched again while attempts last.
func TestMaxRead(t *testing.T) {
	broken := fakeBody{content: "some of ", end: io.ErrUnexpectedEOF}
	for _, test := range []struct {
		name   string
		method string
		limit  int64
		steps  []step
		sent   int
		body   string
		err    error
	}{
		{"breaks off, then not", "GET", 100, []step{answersWith(200, broken), answers(200, "some of it all")}, 2, "some of it all", nil},
		{"breaks off for ever", "GET", 100, []step{answersWith(200, broken)}, 4, "some of ", io.ErrUnexpectedEOF},
		{"breaks off after the limit", "GET", 4, []step{answersWith(200, broken)}, 1, "some of ", io.ErrUnexpectedEOF},
		{"longer than the limit", "GET", 4, []step{answers(200, "some of it all")}, 1, "some of it all", nil},
		{"as long as the limit", "GET", 14, []step{answers(200, "some of it all")}, 1, "some of it all", nil},
		{"as long as the limit, byte by byte", "GET", 14, []step{answersWith(206, fakeBody{content: "some of it all", chunk: 1})}, 1, "some of it all", nil},
		{"not_idempotent", "POST", 100, []step{answersWith(200, broken)}, 1, "some of ", io.ErrUnexpectedEOF},
		{"no success", "GET", 100, []step{answersWith(302, broken)}, 1, "some of ", io.ErrUnexpectedEOF},
		{"breaks off, then fails for good", "GET", 100, []step{answersWith(200, broken), answers(404, "gone")}, 2, "gone", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(test.steps...)
			policy := atOnce()
			policy.MaxRead = test.limit
			req := newRequest(t, test.method, "")
			resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if string(got) != test.body || err != test.err {
				t.Errorf("read %q and %v, want %q and %v", got, err, test.body, test.err)
			}
			resp.Body.Close()
			if base.sent() != test.sent || resp.Request != req {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			if a, ok := steadyhttp.AttemptOf(resp); test.sent == 4 && (!ok || a.Stop != "attempts" || !errors.Is(a.Err, io.ErrUnexpectedEOF)) {
				t.Errorf("AttemptOf = %+v", a)
			}
			base.assertNoLeak(t)
		})
	}
}

// Policy.MaxBuffer: a body without GetBody can be sent again if it fits, and is sent once, whole and in order, if not.
func TestMaxBuffer(t *testing.T) {
	content := strings.Repeat("0123456789", 100)
	for _, test := range []struct {
		name  string
		limit int64
		sent  int
	}{
		{"within", 2000, 3},
		{"of that very size", 1000, 3},
		{"one byte over", 999, 1},
		{"far over", 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(answers(503, "kept"), answers(429, "kept"), answers(200, ""))
			policy := atOnce()
			policy.MaxBuffer = test.limit
			req := newRequest(t, "PUT", "")
			body := newCountingBody(content)
			req.Body, req.ContentLength = body, int64(len(content))
			resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
			if base.sent() != test.sent {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			for n, sent := range base.bodies {
				if sent != content || base.request(n).ContentLength != 1000 {
					t.Errorf("attempt %d had %d bytes, length %d", n+1, len(sent), base.request(n).ContentLength)
				}
			}
			if test.sent == 1 && stopOf(t, resp) != "body_not_replayable" {
				t.Errorf("Stop %q", stopOf(t, resp))
			}
			if closes := body.closes.Load(); closes != 1 {
				t.Errorf("closed %d times", closes)
			}
		})
	}
	t.Run("a read that fails", func(t *testing.T) {
		base := newScript(answers(200, ""))
		req := newRequest(t, "PUT", "")
		body := newCountingBody("")
		body.Reader = io.MultiReader(strings.NewReader("some"), failingReader{errTrial})
		req.Body, req.ContentLength = body, -1
		_, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: 100}}).RoundTrip(req)
		if e := errorOf(t, err); e.Stop != "permanent" || e.Attempts != 1 || !errors.Is(err, errTrial) || e.ErrorType() != "request body" {
			t.Errorf("got %+v", e)
		}
		if base.sent() != 1 || body.closes.Load() == 0 {
			t.Errorf("sent %d times, closed %d times", base.sent(), body.closes.Load())
		}
	})
	t.Run("GetBody is preferred", func(t *testing.T) {
		base := newScript(answers(200, ""))
		req := newRequest(t, "PUT", "content")
		body := req.Body
		do(t, &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxBuffer: 100}}, req)
		if base.request(0).Body != body {
			t.Error("the body was read nevertheless")
		}
	})
}
