package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

func noBackOff() backoff.BackOff { return &backoff.ZeroBackOff{} }

// A base that writes into what it is given can't make a POST idempotent.
func TestABaseDoesNotMakeARequestIdempotent(t *testing.T) {
	edits := map[string]func(*http.Request){
		"a key":       func(r *http.Request) { r.Header.Set("Idempotency-Key", "new") },
		"another key": func(r *http.Request) { r.Header.Set("X-Idempotency-Key", "new") },
		"a method":    func(r *http.Request) { r.Method = http.MethodPut },
		"no method":   func(r *http.Request) { r.Method = "" },
	}
	options := map[string]func(*steadyhttp.Transport){
		"bare": func(*steadyhttp.Transport) {},
		"gate": func(tr *steadyhttp.Transport) { tr.Gates = []steadyhttp.Gate{steadyhttp.Limit(nil)} },
		"prepare": func(tr *steadyhttp.Transport) {
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return nil }
		},
		"trace": func(tr *steadyhttp.Transport) {
			tr.Trace = &steadyhttp.Trace{
				AttemptStart: func(context.Context, steadyhttp.Attempt) context.Context { return nil },
			}
		},
	}
	for name, edit := range edits {
		for option, set := range options {
			for _, failure := range []error{nil, errors.New("read: connection reset by peer")} {
				sent := 0
				tr := &steadyhttp.Transport{Policy: steadyhttp.Policy{NewBackOff: noBackOff}}
				tr.Base = roundTripper(func(r *http.Request) (*http.Response, error) {
					sent++
					r.Body.Close()
					edit(r)
					if failure != nil {
						return nil, failure
					}
					return &http.Response{StatusCode: 503, Header: http.Header{}, Body: http.NoBody}, nil
				})
				set(tr)
				if _, err := tr.RoundTrip(newRequest(t, "POST", "isolate")); sent != 1 {
					t.Errorf("%s, %s, %v: sent %d times (%v)", name, option, failure, sent, err)
				}
			}
		}
	}
}

func TestNoFieldButTheTrailerIsSharedByAttempts(t *testing.T) {
	seen := func(r *http.Request) string {
		return fmt.Sprint(r.Header, r.TransferEncoding, r.Form, r.PostForm, r.URL, r.Host)
	}
	req := newRequest(t, "PUT", "body")
	req.TransferEncoding = []string{"identity"}
	req.Form = map[string][]string{"a": {"b"}}
	req.PostForm = map[string][]string{"c": {"d"}}
	want, sent := seen(req), 0
	tr := &steadyhttp.Transport{Policy: steadyhttp.Policy{NewBackOff: noBackOff}}
	tr.Base = roundTripper(func(r *http.Request) (*http.Response, error) {
		if sent++; seen(r) != want {
			t.Errorf("attempt %d was %s, want %s", sent, seen(r), want)
		}
		r.Body.Close()
		r.Header.Set("Dirty", "1")
		r.TransferEncoding[0] = "chunked"
		r.Form.Set("a", "dirty")
		r.PostForm.Set("c", "dirty")
		r.URL.Path, r.Host = "/dirty", "dirty"
		return &http.Response{StatusCode: 503, Header: http.Header{}, Body: http.NoBody}, nil
	})
	if _, err := tr.RoundTrip(req); err != nil || sent != 4 || seen(req) != want {
		t.Errorf("%d attempts, %v; the caller's is %s, want %s", sent, err, seen(req), want)
	}
}

type closer struct{ *steadyhttp.Transport }

func TestCloseIdleConnectionsEndsWhereTheBaseLeadsBack(t *testing.T) {
	two := &steadyhttp.Transport{}
	two.Base = &steadyhttp.Transport{Base: two}
	two.CloseIdleConnections()
	wrapped := &steadyhttp.Transport{}
	wrapped.Base = closer{wrapped}
	wrapped.CloseIdleConnections()
}

func TestAWaitIsNeverNegative(t *testing.T) {
	tr := &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxAttempts: 1}}
	tr.Classify = func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{RetryAfter: -1} }
	tr.Base = newScript(answers(503, ""))
	resp, _ := do(t, tr, newRequest(t, "GET", ""))
	if e := errorOf(t, steadyhttp.Check(resp)); e.Wait != 0 {
		t.Errorf("Check: %v", e.Wait)
	}
	tr.Base = roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("lost") })
	_, err := tr.RoundTrip(newRequest(t, "GET", ""))
	if e := errorOf(t, err); e.Wait != 0 {
		t.Errorf("RoundTrip: %v", e.Wait)
	}
}

func TestAnErrorThatABaseHasMadeIsCleaned(t *testing.T) {
	raw := steadyhttp.Verdict{Code: "\x1b[31m", Message: "a\r\nb", TrackingID: "\x00"}
	for _, err := range []error{&steadyhttp.Error{Verdict: raw}, fmt.Errorf("x: %w", &steadyhttp.Error{Verdict: raw})} {
		tr := &steadyhttp.Transport{Base: failsWithBase(err)}
		_, err := tr.RoundTrip(newRequest(t, "GET", ""))
		e := errorOf(t, err)
		clean := steadyhttp.Verdict{Class: e.Class, Code: `\x1b[31m`, Message: `a\r\nb`, TrackingID: `\x00`}
		if !reflect.DeepEqual(e.Verdict, clean) {
			t.Errorf("%+v", e.Verdict)
		}
	}
}

func failsWithBase(err error) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
}

// hollowError is an error whose methods need what it points to, as most do.
type hollowError struct{ err error }

func (e *hollowError) Error() string { return e.err.Error() }
func (e *hollowError) Unwrap() error { return e.err }

// A nil pointer in an error's clothes, from whoever it comes, ends the call with an error that says
// so, and not with a panic; it is a mistake that does not pass.
func TestNilPointersAsErrors(t *testing.T) {
	for _, hollow := range []error{
		(*hollowError)(nil), (*net.OpError)(nil), (*net.DNSError)(nil), (*url.Error)(nil), (*steadyhttp.Error)(nil), (*fs.PathError)(nil),
	} {
		for from, set := range map[string]func(*steadyhttp.Transport, *http.Request){
			"Transport.Base": func(tr *steadyhttp.Transport, _ *http.Request) { tr.Base = newScript(failsWith(hollow)) },
			"Transport.Base, native": func(tr *steadyhttp.Transport, _ *http.Request) {
				tr.Base = registered(newScript(failsWith(hollow)))
			},
			"Transport.Base, beside an answer": func(tr *steadyhttp.Transport, _ *http.Request) {
				tr.Base = newScript(func(req *http.Request) (*http.Response, error) {
					resp, _ := answers(200, "lost")(req)
					return resp, hollow
				})
			},
			"Transport.Prepare": func(tr *steadyhttp.Transport, _ *http.Request) {
				tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return hollow }
			},
			"Transport.Authorize": func(tr *steadyhttp.Transport, _ *http.Request) {
				tr.Authorize = func(*http.Request, *steadyhttp.Attempt) error { return hollow }
			},
			"Gate.Enter": func(tr *steadyhttp.Transport, _ *http.Request) { tr.Gates = []steadyhttp.Gate{saying{nil, hollow}} },
			"Request.Body": func(_ *steadyhttp.Transport, req *http.Request) {
				req.Body, req.GetBody = io.NopCloser(readFunc(func([]byte) (int, error) { return 0, hollow })), nil
			},
			"Response.Body": func(tr *steadyhttp.Transport, _ *http.Request) {
				tr.Policy.MaxRead = 100
				tr.Base = newScript(answersWith(200, fakeBody{content: "x", end: hollow}))
			},
		} {
			for _, method := range []string{"GET", "POST"} {
				if from == "Response.Body" && method == "POST" {
					continue // it is not read ahead
				}
				t.Run(fmt.Sprintf("%s/%T/%s", from, hollow, method), func(t *testing.T) {
					base := newScript(answers(200, ""))
					tr := &steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: steadyhttp.Log(quietLogger())}
					req := newRequest(t, method, "content")
					set(tr, req)
					resp, err := tr.RoundTrip(req)
					if from == "Response.Body" && err == nil {
						_, err = io.ReadAll(resp.Body) // the last real response, which fails as it did
						if got := steadyhttp.RedactError(err); !strings.Contains(got, "nil") {
							t.Errorf("%q", got)
						}
						return
					}
					e := errorOf(t, err)
					what, _, _ := strings.Cut(from, ",")
					if text := err.Error(); !strings.Contains(text, what+" returned a nil "+fmt.Sprintf("%T", hollow)) {
						t.Errorf("%s", text)
					}
					if e.Attempts > 1 || e.Timeout() || e.ErrorType() == "" {
						t.Errorf("%d attempts, %+v", e.Attempts, e)
					}
					if script, ok := tr.Base.(*script); ok {
						script.assertNoLeak(t)
					}
				})
			}
		}
	}
}

func quietLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// One that is wrapped is no better, and neither is one that a context was ended with.
func TestNilPointersWithinErrors(t *testing.T) {
	for _, hollow := range []error{
		(*hollowError)(nil), (*net.OpError)(nil), (*net.DNSError)(nil), (*url.Error)(nil), (*steadyhttp.Error)(nil), (*fs.PathError)(nil),
	} {
		for how, err := range map[string]error{
			"wrapped": fmt.Errorf("around: %w", hollow), "joined": errors.Join(errTrial, hollow),
			"in an OpError": &net.OpError{Op: "dial", Err: hollow}, "deep": fmt.Errorf("x: %w", errors.Join(hollow, io.EOF)),
			"in a Refusal": &steadyhttp.Refusal{Err: hollow}, "bare": hollow,
		} {
			for from, set := range map[string]func(*steadyhttp.Transport, *http.Request, context.CancelCauseFunc){
				"Transport.Base": func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelCauseFunc) {
					tr.Base = newScript(failsWith(err))
				},
				"Transport.Base, native": func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelCauseFunc) {
					tr.Base = registered(newScript(failsWith(err)))
				},
				"Transport.Prepare": func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelCauseFunc) {
					tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return err }
				},
				"Gate.Enter": func(tr *steadyhttp.Transport, _ *http.Request, _ context.CancelCauseFunc) {
					tr.Gates = []steadyhttp.Gate{saying{nil, err}}
				},
				"Request.GetBody": func(tr *steadyhttp.Transport, req *http.Request, _ context.CancelCauseFunc) {
					tr.Base = newScript(failsWith(trRefused))
					req.Body = struct{ io.ReadCloser }{req.Body}
					req.GetBody = func() (io.ReadCloser, error) { return nil, err }
				},
				"context.Cause": func(tr *steadyhttp.Transport, _ *http.Request, cancel context.CancelCauseFunc) {
					tr.Gates = []steadyhttp.Gate{enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
						cancel(err)
						<-ctx.Done()
						return nil, ctx.Err()
					})}
				},
				"context.Cause, back-off": func(tr *steadyhttp.Transport, _ *http.Request, cancel context.CancelCauseFunc) {
					tr.Policy, tr.Base = steadyhttp.Policy{}, newScript(failsWith(trRefused))
					time.AfterFunc(time.Millisecond, func() { cancel(err) })
				},
				"context.Cause, Prepare": func(tr *steadyhttp.Transport, _ *http.Request, cancel context.CancelCauseFunc) {
					tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { cancel(err); return errTrial }
				},
			} {
				t.Run(fmt.Sprintf("%s/%T/%s", from, hollow, how), inBubble(func(t *testing.T) {
					tr := &steadyhttp.Transport{Base: newScript(answers(200, "")), Policy: atOnce(), Trace: steadyhttp.Log(quietLogger())}
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					req := newRequest(t, "POST", "content").WithContext(ctx)
					set(tr, req, cancel)
					_, err := tr.RoundTrip(req)
					e := errorOf(t, err)
					what, _, _ := strings.Cut(from, ",")
					text := err.Error()
					if !strings.Contains(text, what+" returned ") || !strings.Contains(text, fmt.Sprintf(" a nil %T", hollow)) {
						t.Error(text)
					}
					if (e.Stop == steadyhttp.StopCancelled) != (what == "context.Cause") || e.Timeout() || e.ErrorType() == "" {
						t.Errorf("%+v", e)
					}
					if what == "context.Cause" && !errors.Is(err, context.Canceled) {
						t.Errorf("%v is no cancellation", err)
					}
					e.LogValue()
				}))
			}
		}
	}
}

// The body's failure is the caller's to see as it is, and no panic to who is told of the call's end.
func TestNilPointerOfAResponseBody(t *testing.T) {
	for _, end := range []error{(*net.OpError)(nil), fmt.Errorf("around: %w", (*net.OpError)(nil))} {
		var told error
		tr := &steadyhttp.Transport{
			Base: newScript(answersWith(200, fakeBody{content: "x", end: end})), Policy: atOnce(),
			Trace: steadyhttp.Join(steadyhttp.Log(quietLogger()), &steadyhttp.Trace{
				Done: func(_ context.Context, a steadyhttp.Attempt) { told = a.Err },
			}),
		}
		resp, err := tr.RoundTrip(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "x" || err != end {
			t.Errorf("%q, %T", b, err)
		}
		if text := steadyhttp.RedactError(told); !strings.Contains(text, "Response.Body returned ") {
			t.Error(text)
		}
		if _, found := errors.AsType[*net.DNSError](told); found {
			t.Error("a DNSError")
		}
	}
}
