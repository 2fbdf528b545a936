package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// An attempt's context is released when its body ends, fails or is closed, and a losing attempt's before the wait.
func TestAttemptContextIsReleased(t *testing.T) {
	for name, end := range map[string]func(*http.Response){
		"read": func(resp *http.Response) { io.Copy(io.Discard, resp.Body) },
		// Nothing was read: only Close can tell.
		"closed": func(resp *http.Response) { resp.Body.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts []context.Context
				base := newScript(func(req *http.Request) (*http.Response, error) {
					for n, earlier := range attempts {
						if earlier.Err() == nil {
							t.Errorf("the context of attempt %d lives on", n+1)
						}
					}
					attempts = append(attempts, req.Context())
					if len(attempts) < 3 {
						return answers(503, "x")(req)
					}
					return answers(200, "fine")(req)
				})
				resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Minute}}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				if end(resp); attempts[2].Err() == nil {
					t.Error("the last attempt's context lives on")
				}
			})
		})
	}
}

// What net/http sends again on its own is counted, also if the answer is quicker than the note of its request.
func TestHiddenSendsAreCounted(t *testing.T) {
	for _, noted := range []bool{true, false} {
		t.Run(fmt.Sprint("noted before the answer ", noted), func(t *testing.T) {
			var seen steadyhttp.Attempt
			base := newScript(func(req *http.Request) (*http.Response, error) {
				trace := httptrace.ContextClientTrace(req.Context())
				for n := range 3 {
					if trace.GotConn != nil {
						trace.GotConn(httptrace.GotConnInfo{})
					}
					// HTTP/2 writes a request and notes it on a goroutine of its own.
					if noted || n < 2 {
						trace.WroteHeaders()
					}
				}
				return answers(200, "")(req)
			})
			do(t, &steadyhttp.Transport{Base: base, Trace: &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { seen = a }}}, newRequest(t, "GET", ""))
			if seen.N != 1 || seen.Sends != 3 {
				t.Errorf("attempt %d with %d sends, want 1 with 3", seen.N, seen.Sends)
			}
		})
	}
}

// Policy.AttemptTimeout bounds each attempt, is a timeout to everybody, and is not taken for the caller's own.
func TestAttemptTimeout(t *testing.T) {
	hang := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	t.Run("each attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			policy := atOnce()
			policy.AttemptTimeout = 2 * time.Second
			base := newScript(hang)
			began := time.Now()
			_, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
			if took := time.Since(began); took != 8*time.Second || base.sent() != 4 {
				t.Errorf("%d attempts took %v", base.sent(), took)
			}
			if e := errorOf(t, err); e.Stop != "attempts" || !e.Timeout() || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, Stop %q", err, e.Stop)
			}
			if !strings.Contains(err.Error(), "Policy.AttemptTimeout of 2s") {
				t.Errorf("%q does not name the bound", err)
			}
		})
	})
	t.Run("a write may have been done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(hang)
			_, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: time.Second}}).RoundTrip(newRequest(t, "POST", "x"))
			if e := errorOf(t, err); e.Stop != "not_idempotent" || base.sent() != 1 {
				t.Errorf("%d attempts, Stop %q", base.sent(), e.Stop)
			}
		})
	})
	t.Run("an answer that comes with its end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// A base transport that is deaf to its context returns what can't be read any more.
			policy := atOnce()
			policy.AttemptTimeout = time.Second
			base := newScript(func(req *http.Request) (*http.Response, error) {
				// script itself looks at the context before, not after.
				time.Sleep(2 * time.Second)
				return answersBound(200, "late")(req)
			}, answers(200, "fine"))
			if _, body := do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, "GET", "")); body != "fine" || base.sent() != 2 {
				t.Errorf("got %q after %d attempts", body, base.sent())
			}
			base.assertNoLeak(t)
		})
	})
	t.Run("waits do not count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			policy := atOnce()
			policy.AttemptTimeout = time.Second
			policy.NewBackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) }
			gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				time.Sleep(time.Minute)
				return nil, nil
			})
			base := newScript(answers(503, ""), answers(200, "fine"))
			do(t, &steadyhttp.Transport{Base: base, Policy: policy, Gates: []steadyhttp.Gate{gate}}, newRequest(t, "GET", ""))
			if base.sent() != 2 {
				t.Errorf("%d attempts", base.sent())
			}
		})
	})
}

// Prepare gets each attempt's own clone, after the wait, with the attempt before.
func TestPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, envelope("Busy", "", "t1")), answers(429, envelope("429", "", "t2"), "Retry-After: 30"), answers(200, ""))
		req := newRequest(t, "PUT", "content")
		var clones []*http.Request
		var prepared time.Time
		transport := &steadyhttp.Transport{Base: base, Prepare: func(clone *http.Request, prev *steadyhttp.Attempt) error {
			if clone == req || slices.Contains(clones, clone) {
				t.Error("the request is not a fresh clone")
			}
			if got := clone.Header.Get("X-Signed"); got != "" {
				t.Errorf("the clone has been signed already: %s", got)
			}
			clones = append(clones, clone)
			clone.Header.Set("X-Signed", fmt.Sprint(len(clones)))
			switch n := len(clones); {
			case n == 1 && prev != nil:
				t.Errorf("the first attempt has a predecessor: %+v", prev)
			case n > 1 && (prev == nil || prev.N != n-1 || prev.Verdict.TrackingID != fmt.Sprint("t", n-1) || prev.Wait == 0):
				t.Errorf("attempt %d's predecessor is %+v", n, prev)
			}
			prepared = time.Now()
			return nil
		}}
		do(t, transport, req)
		if len(clones) != 3 || base.sent() != 3 {
			t.Fatalf("called %d times for %d attempts", len(clones), base.sent())
		}
		for n := range 3 {
			if got := base.request(n).Header.Get("X-Signed"); got != fmt.Sprint(n+1) {
				t.Errorf("attempt %d was sent with signature %q", n+1, got)
			}
		}
		if time.Since(prepared) > 0 {
			t.Error("the last attempt was prepared before its wait")
		}
	})
}

// Prepare can bring new credentials: once, at once.
func TestPrepareAfterUnauthorized(t *testing.T) {
	for _, test := range []struct {
		name  string
		steps []step
		sent  int
	}{
		{"the new token does", []step{answers(401, ""), answers(200, "")}, 2},
		{"the new token does not", []step{answers(401, "")}, 2},
		{"a fault between", []step{answers(401, ""), answers(503, ""), answers(401, "")}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(test.steps...)
			refused := 0
			transport := &steadyhttp.Transport{Base: base, Policy: atOnce(), Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
				if prev != nil && prev.Verdict.Class == steadyhttp.Unauthorized {
					refused++
				}
				return nil
			}}
			do(t, transport, newRequest(t, "PUT", "content"))
			if base.sent() != test.sent {
				t.Errorf("sent %d times, want %d", base.sent(), test.sent)
			}
			if refused != 1 {
				t.Errorf("asked for new credentials %d times", refused)
			}
		})
	}
}

// Prepare's error ends the call, and can be found in the call's.
func TestPrepareThatFails(t *testing.T) {
	base := newScript(answers(200, ""))
	_, err := (&steadyhttp.Transport{Base: base, Prepare: func(*http.Request, *steadyhttp.Attempt) error { return errTrial }}).RoundTrip(newRequest(t, "GET", ""))
	if e := errorOf(t, err); !errors.Is(err, errTrial) || e.Attempts != 0 || !strings.HasPrefix(string(e.Stop), "prepare") || base.sent() != 0 {
		t.Errorf("got %+v after %d attempts: %v", e, base.sent(), err)
	}
}

// What is added for one origin, by Prepare or as a key, never reaches another, nor comes back after a detour.
func TestNothingOfOursCrossesOrigins(t *testing.T) {
	for _, test := range []struct {
		name string
		urls []string // each redirects to the next
		ours []bool   // whether the hop has what is ours
	}{
		{"same origin", []string{"http://a.example/1", "http://a.example/2"}, []bool{true, true}},
		{"same origin, default port", []string{"http://a.example/1", "http://A.example:80/2"}, []bool{true, true}},
		{"other host", []string{"http://a.example/1", "http://b.example/2"}, []bool{true, false}},
		{"there and back", []string{"http://a.example/1", "http://b.example/2", "http://a.example/3"}, []bool{true, false, false}},
		{"sub-domain to parent", []string{"http://sub.a.example/1", "http://a.example/2"}, []bool{true, false}},
		{"parent to sub-domain", []string{"http://a.example/1", "http://sub.a.example/2"}, []bool{true, false}},
		{"https to http", []string{"https://a.example/1", "http://a.example/2"}, []bool{true, false}},
		{"http to https", []string{"http://a.example/1", "https://a.example/2"}, []bool{true, false}},
		{"other port", []string{"http://a.example/1", "http://a.example:8080/2"}, []bool{true, false}},
		{"later", []string{"http://a.example/1", "http://a.example/2", "http://b.example/3", "http://b.example/4"}, []bool{true, true, false, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var steps []step
			for _, next := range test.urls[1:] {
				steps = append(steps, answers(307, "", "Location: "+next))
			}
			base := newScript(append(steps, answers(200, ""))...)
			client := &http.Client{Transport: &steadyhttp.Transport{
				Base: base, Policy: steadyhttp.Policy{IdempotencyKey: true},
				Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
					req.Header.Set("X-Token", "secret")
					return nil
				},
			}}
			resp, err := client.Post(test.urls[0], "text/plain", strings.NewReader("content"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if base.sent() != len(test.urls) {
				t.Fatalf("%d hops, want %d", base.sent(), len(test.urls))
			}
			for n, ours := range test.ours {
				h := base.request(n).Header
				if token, key := h.Get("X-Token") != "", h.Get("Idempotency-Key") != ""; token != ours || key != ours {
					t.Errorf("hop %d to %s has token %v and key %v, want %v", n+1, test.urls[n], token, key, ours)
				}
			}
		})
	}
}

// Policy.IdempotencyKey: one key per call that needs one, the same on all its attempts.
func TestIdempotencyKey(t *testing.T) {
	policy := atOnce()
	policy.IdempotencyKey = true
	t.Run("one per call", func(t *testing.T) {
		base := newScript(answers(503, ""), failsWith(trReset), answers(200, ""), answers(200, ""))
		transport := &steadyhttp.Transport{Base: base, Policy: policy}
		for range 2 {
			do(t, transport, newRequest(t, "POST", "content"))
		}
		if base.sent() != 4 {
			t.Fatalf("sent %d times: the key makes it idempotent", base.sent())
		}
		keys := make(map[string]int)
		for n := range 4 {
			keys[base.request(n).Header.Get("Idempotency-Key")]++
		}
		if len(keys) != 2 || keys[base.request(0).Header.Get("Idempotency-Key")] != 3 {
			t.Errorf("keys %v", keys)
		}
		for key := range keys {
			// A Structured Field string.
			if len(key) < 18 || key[0] != '"' || key[len(key)-1] != '"' {
				t.Errorf("key %s", key)
			}
		}
	})
	t.Run("the caller's own is kept", func(t *testing.T) {
		for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
			base := newScript(answers(503, ""), answers(200, ""))
			req := newRequest(t, "POST", "content")
			req.Header.Set(name, "mine")
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
			for n := range base.sent() {
				h := base.request(n).Header
				if h.Get(name) != "mine" || len(h["Idempotency-Key"])+len(h["X-Idempotency-Key"]) != 1 {
					t.Errorf("%s: attempt %d has %v", name, n+1, h)
				}
			}
			if base.sent() != 2 {
				t.Errorf("%s: sent %d times", name, base.sent())
			}
		}
	})
	t.Run("not for what is idempotent", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"} {
			base := newScript(answers(200, ""))
			do(t, &steadyhttp.Transport{Base: base, Policy: policy}, newRequest(t, method, ""))
			if got, ok := base.request(0).Header["Idempotency-Key"]; ok {
				t.Errorf("%s has %q", method, got)
			}
		}
	})
}

// Bad input: what no transport could send is refused with an error that says what to do, and nothing is counted for it.
func TestUnsendableRequest(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spoil      func(*http.Request)
	}{
		{"nil URL", "steadyhttp: 0 attempts: Request.URL is nil", func(req *http.Request) { req.URL = nil }},
		{"nil header", "steadyhttp: 0 attempts: Request.Header is nil", func(req *http.Request) { req.Header = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := newScript(answers(200, ""))
			gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
				t.Error("a gate was entered")
				return nil, nil
			})
			req := newRequest(t, "POST", "content")
			test.spoil(req)
			resp, err := (&steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{gate}}).RoundTrip(req)
			if resp != nil || err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, %v", resp, err)
			}
			if base.sent() != 0 {
				t.Error("it was sent")
			}
		})
	}
}

// A write is never done twice, unless the service knows it again by its key; and every failure is told once.
func TestWritesAreNotDoneTwice(t *testing.T) {
	for _, withKey := range []bool{false, true} {
		t.Run(fmt.Sprint("key ", withKey), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const calls = 5000
				rng := rand.New(rand.NewPCG(1, 2))
				done := make(map[string]int)      // by nonce
				callOf := make(map[string]string) // by key: the nonce of its call
				keys := make(map[string]struct{}) // of the present call
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					nonce, _ := io.ReadAll(req.Body)
					req.Body.Close()
					process := func() {
						if key := req.Header.Get("Idempotency-Key"); key != "" {
							keys[key] = struct{}{}
							if other, ok := callOf[key]; ok {
								if other != string(nonce) {
									t.Errorf("calls %q and %q have the same key", other, nonce)
								}
								return
							}
							callOf[key] = string(nonce)
						}
						done[string(nonce)]++
					}
					switch rng.IntN(10) {
					case 0:
						return nil, trReset
					case 1:
						return nil, trRefused
					case 2:
						process()
						return nil, trReset
					case 3:
						process()
						return answers(500, "")(req)
					case 4:
						return answers(429, "")(req)
					}
					process()
					return answers(200, "")(req)
				})
				policy := atOnce()
				policy.IdempotencyKey = withKey
				transport := &steadyhttp.Transport{Base: base, Policy: policy}
				succeeded := 0
				for n := range calls {
					nonce := fmt.Sprint("nonce ", n)
					clear(keys)
					resp, err := transport.RoundTrip(newRequest(t, "POST", nonce))
					if (err == nil) == (resp == nil) {
						t.Fatalf("call %d has outcomes %v and %v", n, resp, err)
					}
					if err == nil && resp.StatusCode == 200 {
						if succeeded++; done[nonce] != 1 {
							t.Fatalf("call %d succeeded and was done %d times", n, done[nonce])
						}
					}
					if done[nonce] > 1 {
						t.Fatalf("call %d was done %d times", n, done[nonce])
					}
					if len(keys) > 1 {
						t.Fatalf("call %d went out with keys %v", n, keys)
					}
				}
				if succeeded < calls/3 || succeeded == calls {
					t.Errorf("%d of %d succeeded: the test tests nothing", succeeded, calls)
				}
			})
		})
	}
}

// Every attempt is made from the caller's pristine request, with all of its body and its length.
func TestEveryAttemptIsTheWholeRequest(t *testing.T) {
	for name, policy := range map[string]steadyhttp.Policy{
		"default":         {},
		"attempt timeout": {AttemptTimeout: time.Minute},
		"buffered":        {MaxBuffer: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answers(503, ""), answers(429, ""), answers(200, ""))
				transport := &steadyhttp.Transport{Base: base, Policy: policy, Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
					req.Header.Add("X-Signed", "once")
					req.URL.RawQuery += "&signed"
					return nil
				}}
				req := newRequest(t, http.MethodPut, "content")
				req.TransferEncoding = []string{"identity"}
				if policy.MaxBuffer > 0 {
					req.Body, req.GetBody = newCountingBody("content"), nil
				}
				do(t, transport, req)
				if base.sent() != 3 {
					t.Fatalf("sent %d times, want 3", base.sent())
				}
				for n := range 3 {
					sent := base.request(n)
					if base.bodies[n] != "content" || sent.ContentLength != 7 || !slices.Equal(sent.TransferEncoding, []string{"identity"}) {
						t.Errorf("attempt %d had body %q, length %d and encoding %v", n+1, base.bodies[n], sent.ContentLength, sent.TransferEncoding)
					}
					if got := sent.Header["X-Signed"]; len(got) != 1 || sent.URL.RawQuery != "key=value&signed" {
						t.Errorf("attempt %d carries what Prepare did to another: %v %v", n+1, got, sent.URL)
					}
				}
			})
		})
	}
}

// Nothing in a call changes the caller's request, and others may read it meanwhile.
func TestRequestIsNotChanged(t *testing.T) {
	for name, transport := range map[string]*steadyhttp.Transport{
		"default":         {},
		"bounds":          {Policy: steadyhttp.Policy{AttemptTimeout: time.Minute, IdleTimeout: time.Minute, MaxElapsed: time.Minute}},
		"idempotency key": {Policy: steadyhttp.Policy{IdempotencyKey: true}},
		"buffer":          {Policy: steadyhttp.Policy{MaxBuffer: 100}},
		"gates":           {Gates: []steadyhttp.Gate{steadyhttp.Limit(nil)}},
		"Prepare": {Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", "Bearer x")
			req.Header["X-Mine"][0] = "changed"
			req.URL.Host, req.URL.RawQuery, req.Host, req.Method = "other.example", "", "other.example", "PUT"
			*req.URL.User = *url.User("nobody")
			return nil
		}},
		"AttemptStart": {Trace: &steadyhttp.Trace{AttemptStart: func(_ context.Context, a steadyhttp.Attempt) context.Context {
			a.Request.Header.Set("Traceparent", "00")
			return nil
		}}},
	} {
		for _, withGetBody := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", GetBody ", withGetBody), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					req := newRequest(t, http.MethodPost, "body")
					req.URL.User = url.UserPassword("me", "secret")
					req.Header.Set("X-Mine", "mine")
					if !withGetBody {
						req.GetBody, req.Body = nil, newCountingBody("body")
					}
					before := snapshot(req)
					stop := make(chan struct{})
					go func() {
						// The race detector tells of any write to what this reads.
						for {
							select {
							case <-stop:
								return
							case <-time.After(time.Millisecond):
								for range req.Header {
								}
								_ = req.URL.String()
							}
						}
					}()
					transport := withBase(transport, newScript(failsWith(trRefused), answers(429, ""), answers(200, "fine")))
					resp, err := transport.RoundTrip(req)
					close(stop)
					if err == nil {
						resp.Body.Close()
					}
					before.assertUnchanged(t, req)
				})
			})
		}
	}
}
