package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// statusError is an SDK's error about an answer, as AWS's is.
type statusError int

func (e statusError) Error() string       { return fmt.Sprint("status ", int(e)) }
func (e statusError) HTTPStatusCode() int { return int(e) }

// finalError is an SDK's error that nobody is to retry, as azidentity's is.
type finalError struct{}

func (finalError) Error() string { return "credentials refused" }
func (finalError) NonRetriable() {}

// A Prepare that fails in a way that may pass is called again, with back-off, whatever the request does, for nothing
// was sent; what will not pass ends the call.
func TestPrepareIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		name   string
		err    error
		passes int // the calls of Prepare that are made if all of them fail
	}{
		{"connection refused", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, 4},
		{"wrapped", fmt.Errorf("token: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), 4},
		{"joined", errors.Join(errors.New("cache is empty"), syscall.ECONNRESET), 4},
		{"timeout", context.DeadlineExceeded, 4},
		{"broken off", io.ErrUnexpectedEOF, 4},
		{"name server", &net.DNSError{IsTemporary: true}, 4},
		{"unknown host", &net.DNSError{IsNotFound: true}, 1},
		{"503", &steadyhttp.Error{StatusCode: 503}, 4},
		{"429", &steadyhttp.Error{StatusCode: 429}, 4},
		{"408", statusError(408), 4},
		{"502 of an SDK", fmt.Errorf("token: %w", statusError(502)), 4},
		{"400", &steadyhttp.Error{StatusCode: 400}, 1},
		{"401", &steadyhttp.Error{StatusCode: 401}, 1},
		{"403 of an SDK", fmt.Errorf("token: %w", statusError(403)), 1},
		{"501", statusError(501), 1},
		{"permanent", backoff.Permanent(io.EOF), 1},
		{"permanent, wrapped", fmt.Errorf("token: %w", backoff.Permanent(io.EOF)), 1},
		{"credentials refused", finalError{}, 1},
		{"credentials refused, about a 503", errors.Join(finalError{}, statusError(503)), 1},
		{"unknown", errTrial, 2},
		{"refused", &steadyhttp.Refusal{Err: errors.New("full")}, 1},
	} {
		for _, body := range []string{"none", "GetBody", "once", "once, read"} {
			for _, recovers := range []bool{false, true} {
				t.Run(fmt.Sprint(test.name, "/", body, "/recovers ", recovers), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						base, calls, in, out := newScript(answers(200, "")), 0, 0, 0
						var numbers []int
						gate := enterFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
							in++
							numbers = append(numbers, a.N)
							return func(a steadyhttp.Attempt) {
								if out++; a.Response == nil && (!a.Sent.IsZero() || a.Sends != 0 || !errors.Is(a.Err, test.err)) {
									t.Errorf("left with %+v", a)
								}
							}, nil
						})
						transport := &steadyhttp.Transport{
							Base: base, Gates: []steadyhttp.Gate{gate},
							Prepare: func(req *http.Request, prev *steadyhttp.Attempt) error {
								calls++
								if prev != nil {
									t.Errorf("an attempt before the first: %+v", prev)
								}
								if body == "once, read" {
									io.ReadAll(req.Body)
								}
								if recovers && calls == 2 {
									return nil
								}
								return test.err
							},
						}
						req := newRequest(t, "POST", "content")
						want := test.passes
						switch body {
						case "none":
							req = newRequest(t, "POST", "")
						case "once":
							req.Body, req.GetBody = newCountingBody("content"), nil
						case "once, read":
							req.Body, req.GetBody = newCountingBody("content"), nil
							transport.Policy.MaxBuffer = -1
							want = 1
						}
						if recovers {
							want = min(want, 2)
						}
						passed := stopwatch()
						resp, err := transport.RoundTrip(req)
						if calls != want || in != want || out != want {
							t.Errorf("%d calls, gates entered %d times, left %d times: want %d", calls, in, out, want)
						}
						if (want > 1) != (passed() > 0) {
							t.Errorf("%d calls within %v", calls, passed())
						}
						for _, n := range numbers {
							if n != 1 {
								t.Errorf("attempts %v: nothing was sent", numbers)
							}
						}
						if recovers && want == 2 {
							if err != nil || base.sent() != 1 || body != "none" && base.bodies[0] != "content" {
								t.Fatalf("got %v, sent %q", err, base.bodies)
							}
							resp.Body.Close()
						} else {
							e := errorOf(t, err)
							if e.Stop != "prepare" || e.Attempts != 0 || !errors.Is(err, test.err) || !errors.Is(err, steadyhttp.ErrNotSent) || base.sent() != 0 {
								t.Errorf("got %+v after %d sendings", e, base.sent())
							}
						}
						if c, ok := req.Body.(*countingBody); ok && c.closes.Load() == 0 {
							t.Error("the body is open")
						}
					})
				})
			}
		}
	}
}

// The retries of Prepare are bounded as all are, and what the last attempt came to stays.
func TestPrepareAgainIsBounded(t *testing.T) {
	away := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		name   string
		edit   func(*steadyhttp.Policy)
		ctx    func(context.Context) (context.Context, func())
		from   int // the call of Prepare that fails first
		answer int
		stop   steadyhttp.Stop
		calls  int
	}{
		{name: "MaxAttempts 1", edit: func(p *steadyhttp.Policy) { p.MaxAttempts = 1 }, from: 1, stop: "prepare", calls: 1},
		{name: "no budget", edit: func(p *steadyhttp.Policy) { p.Budget = &steadyhttp.Budget{Max: 1e-9} }, from: 1, stop: "prepare", calls: 1},
		{name: "back-off that ends", edit: func(p *steadyhttp.Policy) {
			p.NewBackOff = func() backoff.BackOff { return &backoff.StopBackOff{} }
		}, from: 1, stop: "prepare", calls: 1},
		{name: "MaxWait", edit: func(p *steadyhttp.Policy) { p.MaxWait = time.Millisecond }, from: 1, stop: "prepare", calls: 4},
		{name: "deadline", ctx: func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			return ctx, cancel
		}, from: 1, stop: "prepare", calls: 1},
		{name: "cancelled during the wait", ctx: func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(200*time.Millisecond, cancel)
			return ctx, cancel
		}, from: 1, stop: "cancelled", calls: 1},
		{name: "after an answer", from: 2, answer: 503, stop: "prepare", calls: 5},
		{name: "after a 401", from: 2, answer: 401, stop: "prepare", calls: 5},
		{name: "more MaxThrottled", edit: func(p *steadyhttp.Policy) { p.MaxThrottled = 8 }, from: 1, stop: "prepare", calls: 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, calls := newScript(answers(test.answer, "sorry")), 0
				policy := steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: -1}}
				if test.edit != nil {
					test.edit(&policy)
				}
				transport := &steadyhttp.Transport{Base: base, Policy: policy, Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
					calls++
					if (prev != nil) != (test.answer != 0 && calls > 1) {
						t.Errorf("call %d: the attempt before is %+v", calls, prev)
					}
					if calls >= test.from {
						return away
					}
					return nil
				}}
				ctx, cancel := t.Context(), func() {}
				if test.ctx != nil {
					ctx, cancel = test.ctx(ctx)
				}
				defer cancel()
				resp, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
				if calls != test.calls {
					t.Errorf("%d calls of Prepare, want %d", calls, test.calls)
				}
				if test.answer != 0 {
					if err != nil {
						t.Fatal(err)
					}
					if a, _ := steadyhttp.AttemptOf(resp); resp.StatusCode != test.answer || readAll(t, resp) != "sorry" || a.Stop != test.stop || a.N != 1 {
						t.Errorf("got %s, %+v", resp.Status, a)
					}
					return
				}
				if e := errorOf(t, err); e.Stop != test.stop || !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, steadyhttp.ErrNotSent) {
					t.Errorf("got %+v", e)
				}
			})
		})
	}
}

// A job that would rather wait waits for its token as long as that takes.
func TestBatchOutlastsTheTokenEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, base := time.Now(), newScript(answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Batch(), Prepare: func(*http.Request, *steadyhttp.Attempt) error {
			if time.Since(began) < 10*time.Minute {
				return &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			return nil
		}}
		done := make(chan error)
		for n := range 100 {
			go func() {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://api.example/", strings.NewReader(fmt.Sprint(n)))
				resp, err := transport.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				done <- err
			}()
		}
		for range 100 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if base.sent() != 100 {
			t.Errorf("sent %d times", base.sent())
		}
	})
}

// A Prepare that puts a reader of the body in its place, to count, hash, throttle or pack what is
// sent, reads the body as it is sent: it is open until then, closed in the end, and another one's
// on the next attempt.
func TestPrepareReadsTheBodyAsItIsSent(t *testing.T) {
	packed := func(body io.ReadCloser) io.ReadCloser {
		r, w := io.Pipe()
		go func() {
			_, err := io.Copy(w, body)
			w.CloseWithError(err)
		}()
		return r
	}
	for name, wrap := range map[string]func(io.ReadCloser) io.ReadCloser{
		"closes it": func(body io.ReadCloser) io.ReadCloser {
			return struct {
				io.Reader
				io.Closer
			}{io.TeeReader(body, io.Discard), body}
		},
		"leaves it open": func(body io.ReadCloser) io.ReadCloser { return io.NopCloser(io.TeeReader(body, io.Discard)) },
		"on a goroutine": packed,
	} {
		for kind, made := range map[string]func(*http.Request){
			"in memory":       func(*http.Request) {},
			"without GetBody": func(req *http.Request) { req.GetBody = nil },
			"opened again": func(req *http.Request) {
				req.GetBody = func() (io.ReadCloser, error) { return newCountingBody("content"), nil }
			},
		} {
			for _, attempts := range []int{1, 3} {
				for _, hook := range []string{"Prepare", "AttemptStart"} {
					t.Run(fmt.Sprint(name, "/", kind, "/", attempts, "/", hook), func(t *testing.T) {
						req := newRequest(t, "PUT", "content")
						body := newCountingBody("content")
						if kind != "in memory" {
							req.Body = body
						}
						made(req)
						base := newScript(answers(503, ""), answers(503, ""), answers(200, ""))
						tr := &steadyhttp.Transport{Base: base, Policy: atOnce()}
						tr.Policy.MaxAttempts = attempts
						if hook == "Prepare" {
							tr.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error {
								req.Body = wrap(req.Body)
								return nil
							}
						} else {
							tr.Trace = &steadyhttp.Trace{AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
								a.Request.Body = wrap(a.Request.Body)
								return ctx
							}}
						}
						do(t, tr, req)
						if base.sent() != attempts {
							t.Fatalf("%d attempts, want %d", base.sent(), attempts)
						}
						for n, sent := range base.bodies {
							if sent != "content" {
								t.Errorf("attempt %d sent %q", n+1, sent)
							}
						}
						if kind != "in memory" && body.closes.Load() == 0 {
							t.Error("the caller's body was never closed")
						}
					})
				}
			}
		}
	}
}

// Who replays an attempt below sends what Prepare has put in the body's place, or nothing: the
// header is Prepare's too.
func TestReplaysBelowSendWhatPrepareHasMade(t *testing.T) {
	for name, tt := range map[string]struct {
		put       func(*http.Request)
		canReplay bool
	}{
		"in memory": {func(req *http.Request) { req.Body = io.NopCloser(strings.NewReader("packed")) }, true},
		"a buffer":  {func(req *http.Request) { req.Body = io.NopCloser(bytes.NewBufferString("packed")) }, true},
		"a stream":  {func(req *http.Request) { req.Body = newCountingBody("packed") }, false},
		"with its own": {func(req *http.Request) {
			req.Body = newCountingBody("packed")
			req.GetBody = func() (io.ReadCloser, error) { return newCountingBody("packed"), nil }
		}, true},
	} {
		for kind, made := range map[string]func(*http.Request){
			"in memory":       func(*http.Request) {},
			"without GetBody": func(req *http.Request) { req.GetBody = nil },
			"recorded":        func(req *http.Request) { req.GetBody, req.Body = nil, newCountingBody("content") },
			"opened again": func(req *http.Request) {
				req.Body = newCountingBody("content")
				req.GetBody = func() (io.ReadCloser, error) { return newCountingBody("content"), nil }
			},
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				replayed := "none"
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					first, err := io.ReadAll(req.Body)
					if string(first) != "packed" || err != nil {
						t.Errorf("sent %q, %v", first, err)
					}
					req.Body.Close()
					if req.GetBody != nil {
						again, err := req.GetBody()
						if err != nil {
							t.Fatal(err)
						}
						content, _ := io.ReadAll(again)
						again.Close()
						replayed = string(content)
					}
					return answers(200, "")(req)
				})
				req := newRequest(t, "PUT", "content")
				made(req)
				do(t, &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
					tt.put(req)
					return nil
				}}, req)
				want := "packed"
				if !tt.canReplay {
					want = "none"
				}
				if replayed != want {
					t.Errorf("replayed %q, want %q", replayed, want)
				}
			})
		}
	}
}
