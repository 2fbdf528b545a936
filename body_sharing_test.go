package steadyhttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// This file has what two attempts, or two callers, could share: a request's header and URL, a body's reader, a response.

// Whatever a base does to its request, each attempt begins with a pristine one, and the caller's stays as it is.
func TestAttemptsShareNoRequest(t *testing.T) {
	for name, dirty := range map[string]func(*http.Request){
		"adds a field":        func(req *http.Request) { req.Header.Add("Authorization", "token") },
		"sets a field":        func(req *http.Request) { req.Header.Set("X-Ours", "theirs") },
		"deletes a field":     func(req *http.Request) { req.Header.Del("X-Ours") },
		"clears the header":   func(req *http.Request) { clear(req.Header) },
		"changes a value":     func(req *http.Request) { req.Header["X-Ours"][0] = "theirs" },
		"appends to a value":  func(req *http.Request) { req.Header["X-Ours"] = append(req.Header["X-Ours"], "more") },
		"replaces the header": func(req *http.Request) { req.Header = http.Header{"X-Other": {"1"}} },
		"changes the path":    func(req *http.Request) { req.URL.Path = "/v2" + req.URL.Path },
		"signs the query":     func(req *http.Request) { req.URL.RawQuery += "&signature=1" },
		"changes the host":    func(req *http.Request) { req.URL.Host, req.Host = "b.example", "b.example" },
		"changes the scheme":  func(req *http.Request) { req.URL.Scheme = "https" },
		"changes the user":    func(req *http.Request) { *req.URL.User = *url.UserPassword("them", "theirs") },
		"replaces the URL":    func(req *http.Request) { req.URL = &url.URL{Scheme: "http", Host: "b.example"} },
		"changes the method":  func(req *http.Request) { req.Method = "GET" },
		"sets basic auth":     func(req *http.Request) { req.SetBasicAuth("them", "theirs") },
		"adds a cookie":       func(req *http.Request) { req.AddCookie(&http.Cookie{Name: "a", Value: "b"}) },
		"drops the body's length": func(req *http.Request) {
			req.ContentLength, req.TransferEncoding = -1, append(req.TransferEncoding, "chunked")
		},
		"takes GetBody": func(req *http.Request) { req.GetBody = nil },
	} {
		for who, look := range onlookers {
			t.Run(name+"/"+who, inBubble(func(t *testing.T) {
				var seen []string
				var kept []*http.Request
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					body, _ := io.ReadAll(req.Body)
					req.Body.Close()
					seen = append(seen, fmt.Sprint(req.Method, req.URL, req.Host, req.Header, req.ContentLength, req.TransferEncoding, string(body)))
					kept = append(kept, req) // as a recorder does
					dirty(req)
					return answers([]int{503, 429, 200}[min(len(seen)-1, 2)], "")(req)
				})
				req := newRequest(t, "PUT", "content")
				req.Header.Set("X-Ours", "ours")
				req.URL.User = url.UserPassword("us", "ours")
				before := snapshot(req)
				user := req.URL.User.String()
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
				resp, _ := do(t, transport, look(transport, req))
				before.assertUnchanged(t, req)
				if req.URL.User.String() != user || req.Header.Get("X-Ours") != "ours" || len(req.Header) != 1 {
					t.Errorf("the caller's request is %v with %v", req.URL, req.Header)
				}
				if len(seen) != 3 || seen[1] != seen[0] || seen[2] != seen[0] || kept[0] == kept[1] {
					t.Errorf("the attempts differ:\n%s", strings.Join(seen, "\n"))
				}
				if who == "nobody" && resp.Request != req {
					t.Error("the response is to another request")
				}
			}))
		}
	}
}

// gzipBase does as klauspost/compress/gzhttp does: it unpacks only what it has asked for.
type gzipBase struct{ base http.RoundTripper }

func (g gzipBase) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Accept-Encoding") != "" {
		return g.base.RoundTrip(req)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := g.base.RoundTrip(req)
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		return resp, err
	}
	unpacked, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = joinedReader{unpacked, resp.Body}
	resp.Header.Del("Content-Encoding")
	return resp, nil
}

type joinedReader struct {
	io.Reader
	io.Closer
}

// A base that unpacks what it has asked for does so at each attempt.
func TestUnpackingBaseUnpacksEveryAttempt(t *testing.T) {
	for who, look := range onlookers {
		t.Run(who, func(t *testing.T) {
			n := 0
			server, base := newWireTLS(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				if n++; n < 3 {
					w.WriteHeader(503)
				}
				w.Write(gzipped([]byte("plain")))
			})
			transport := &steadyhttp.Transport{Base: gzipBase{base}, Policy: atOnce()}
			resp, body := do(t, transport, look(transport, wireRequest(t, "GET", server.URL, "")))
			if body != "plain" || n != 3 || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("got %q after %d attempts", body, n)
			}
		})
	}
}

// rewinder is a reader that GetBody rewinds and returns again. It notes what nobody may do with it.
type rewinder struct {
	t       testing.TB
	content string
	slow    bool

	at     int // guarded by nothing: the race detector is to see who shares it
	closed int
	closes atomic.Int64
}

func (r *rewinder) Read(p []byte) (int, error) {
	if r.closed > 0 {
		r.t.Error("read after it was closed")
		return 0, os.ErrClosed
	}
	if r.slow && len(p) > 1000 {
		p = p[:1000]
	}
	n := copy(p, r.content[r.at:])
	r.at += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *rewinder) Close() error {
	r.closed++
	r.closes.Add(1)
	return nil
}

func (r *rewinder) rewind() (io.ReadCloser, error) {
	if r.closed > 0 {
		return nil, os.ErrClosed
	}
	r.at = 0
	return r, nil
}

// GetBody may rewind the reader that an attempt has had, and return it again: each attempt has all of it, and it
// is closed when the call ends, and not before.
func TestReaderThatIsRewound(t *testing.T) {
	content := strings.Repeat("0123456789", 100)
	ok := answers(200, "")
	for _, test := range []struct {
		name   string
		policy func(*steadyhttp.Policy)
		steps  []step
		sent   int
		fails  bool
	}{
		{"at once", nil, []step{ok}, 1, false},
		{"after answers", nil, []step{answers(503, ""), answers(429, "x"), answers(500, ""), ok}, 4, false},
		{"after errors", nil, []step{failsWith(trReset), failsWith(trRefused), failsWith(io.EOF), ok}, 4, false},
		{"until the end", nil, []step{answers(503, "")}, 4, false},
		{"one attempt", func(p *steadyhttp.Policy) { p.MaxAttempts = 1 }, []step{answers(503, "")}, 1, false},
		{"panic", nil, []step{answers(503, ""), func(*http.Request) (*http.Response, error) { panic("base") }}, 2, true},
		{"cancelled", nil, []step{answers(503, ""), func(req *http.Request) (*http.Response, error) {
			req.Context().Value(cancelKey{}).(func())()
			return nil, context.Canceled
		}}, 2, true},
	} {
		for who, look := range onlookers {
			t.Run(test.name+"/"+who, func(t *testing.T) {
				body := &rewinder{t: t, content: content}
				base := newScript(test.steps...)
				closedEarly := false
				policy := atOnce()
				if test.policy != nil {
					test.policy(&policy)
				}
				transport := &steadyhttp.Transport{Policy: policy, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					closedEarly = closedEarly || body.closes.Load() > 0
					return base.RoundTrip(req)
				})}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req := newRequest(t, "PUT", "").WithContext(context.WithValue(ctx, cancelKey{}, (func())(cancel)))
				req.Body, req.ContentLength, req.GetBody = body, int64(len(content)), body.rewind
				func() {
					defer func() { recover() }()
					resp, err := transport.RoundTrip(look(transport, req))
					if (err != nil) != test.fails {
						t.Errorf("got %v", err)
					}
					if resp != nil {
						resp.Body.Close()
					}
				}()
				if base.sent() != test.sent || closedEarly || body.closes.Load() != 1 && test.name != "panic" || body.closes.Load() == 0 {
					t.Errorf("%d attempts, closed %d times, before the end %v", base.sent(), body.closes.Load(), closedEarly)
				}
				for n, got := range base.bodies {
					if got != content {
						t.Errorf("attempt %d had %d bytes", n+1, len(got))
					}
				}
			})
		}
	}
}

type cancelKey struct{}

// GetBody's failure ends the call with the reader closed, which it has not become the owner of.
func TestGetBodyThatFailsLater(t *testing.T) {
	for name, second := range map[string]func() (io.ReadCloser, error){
		"error":   func() (io.ReadCloser, error) { return nil, errTrial },
		"nothing": func() (io.ReadCloser, error) { return nil, nil },
		"panic":   func() (io.ReadCloser, error) { panic("GetBody") },
	} {
		t.Run(name, func(t *testing.T) {
			body, n := &rewinder{t: t, content: "content"}, 0
			base := newScript(answers(503, "sorry"))
			req := newRequest(t, "PUT", "")
			req.Body, req.ContentLength = body, 7
			req.GetBody = func() (io.ReadCloser, error) {
				if n++; n == 2 {
					return second()
				}
				return body.rewind()
			}
			func() {
				defer func() { recover() }()
				resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(req)
				if err != nil || resp.StatusCode != 503 || readAll(t, resp) != "sorry" {
					t.Errorf("got %v, %v: the last answer is known", resp, err)
				}
			}()
			if base.sent() != 2 || body.closes.Load() == 0 {
				t.Errorf("%d attempts, closed %d times", base.sent(), body.closes.Load())
			}
		})
	}
}

// On the wire: an early answer to an upload that is under way, and a connection that died, lead to a whole body.
func TestWireReaderThatIsRewound(t *testing.T) {
	const size = 8 << 20
	content := strings.Repeat("0123456789abcdef", size/16)
	digest := func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }
	path := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, body := range []struct {
		name string
		make func(t *testing.T, req *http.Request)
	}{
		{"a file", func(t *testing.T, req *http.Request) {
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			req.Body = file
			req.GetBody = func() (io.ReadCloser, error) { _, err := file.Seek(0, io.SeekStart); return file, err }
		}},
		{"a NopCloser of one's own", func(t *testing.T, req *http.Request) {
			r := strings.NewReader(content)
			req.Body = joined{io.NopCloser(r)}
			req.GetBody = func() (io.ReadCloser, error) { _, err := r.Seek(0, io.SeekStart); return joined{io.NopCloser(r)}, err }
		}},
		{"io.NopCloser", func(t *testing.T, req *http.Request) {
			r := bytes.NewReader([]byte(content))
			req.Body = io.NopCloser(r)
			req.GetBody = func() (io.ReadCloser, error) { _, err := r.Seek(0, io.SeekStart); return req.Body, err }
		}},
		{"a slow reader", func(t *testing.T, req *http.Request) {
			r := &rewinder{t: t, content: content, slow: true}
			req.Body, req.GetBody = r, r.rewind
		}},
	} {
		for _, proto := range wireSchemes {
			for _, test := range []struct {
				name string
				hang bool
				key  bool
			}{{"early answer", false, false}, {"lost connection", true, false}, {"lost connection, keyed", true, true}} {
				t.Run(body.name+"/"+proto+"/"+test.name, func(t *testing.T) {
					var n atomic.Int64
					var got atomic.Value
					server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == warmPath {
							return
						}
						if n.Add(1) <= 2 {
							if test.hang {
								io.CopyN(io.Discard, r.Body, size/2)
								panic(http.ErrAbortHandler)
							}
							w.WriteHeader(503)
							return
						}
						sum := sha256.New()
						io.Copy(sum, r.Body)
						got.Store(hex.EncodeToString(sum.Sum(nil)))
					})
					warm(t, base, server.URL)
					req := wireRequest(t, "PUT", server.URL, "")
					body.make(t, req)
					req.ContentLength = size
					if test.key {
						req.Method = "POST"
						req.Header.Set("Idempotency-Key", "mine")
					}
					resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
					if resp.StatusCode != 200 || got.Load() != digest(content) {
						t.Errorf("got %s; the last body is another", resp.Status)
					}
				})
			}
		}
	}
}

// Small bodies that are sent unwrapped, and rewound, are whole at each attempt too.
func TestWireSmallBodyThatIsRewound(t *testing.T) {
	for _, size := range []int{1, 1000, 4 << 10, 10 << 10, 16 << 10} {
		for _, proto := range wireSchemes {
			t.Run(fmt.Sprint(size, "/", proto), func(t *testing.T) {
				content := strings.Repeat("x", size)
				var n atomic.Int64
				server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1)%2 == 1 {
						w.WriteHeader(503)
						return
					}
					body, _ := io.ReadAll(r.Body)
					if string(body) != content {
						t.Errorf("%d bytes", len(body))
					}
				})
				for range 50 {
					r := strings.NewReader(content)
					req := wireRequest(t, "PUT", server.URL, "")
					req.Body, req.ContentLength = io.NopCloser(r), int64(size)
					req.GetBody = func() (io.ReadCloser, error) { _, err := r.Seek(0, io.SeekStart); return io.NopCloser(r), err }
					if resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req); resp.StatusCode != 200 {
						t.Error(resp.Status)
					}
				}
			})
		}
	}
}

// A first body whose Read blocks, a pipe, does not hold the next attempt up for ever.
func TestBlockedFirstBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		var sent []string
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			if len(sent) == 0 {
				sent = append(sent, "")
				go func() { // net/http's writeLoop
					io.Copy(io.Discard, req.Body)
					req.Body.Close()
				}()
				return answers(503, "")(req)
			}
			body, err := io.ReadAll(req.Body)
			req.Body.Close()
			sent = append(sent, string(body))
			if err != nil {
				return nil, err
			}
			return answers(200, "")(req)
		})
		req := newRequest(t, "PUT", "content")
		getBody := req.GetBody
		req.Body, req.GetBody = pr, func() (io.ReadCloser, error) { body, err := getBody(); return joined{body}, err }
		passed := stopwatch()
		do(t, &steadyhttp.Transport{Base: base, Policy: atOnce()}, req)
		if len(sent) != 2 || sent[1] != "content" || passed() > 2*time.Second {
			t.Errorf("sent %q in %v", sent, passed())
		}
		if _, err := pw.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the pipe is open: %v", err)
		}
	})
}

// cacheBase hands one response out over and over, as a cache or a coalescer may. Its body can be read by all.
type cacheBase struct{ resp *http.Response }

func (c cacheBase) RoundTrip(*http.Request) (*http.Response, error) { return c.resp, nil }

// everyReader gives the same few bytes to each that comes to its end.
type sharedBody struct{ content string }

func (b sharedBody) Read(p []byte) (int, error) { return copy(p, b.content), io.EOF }
func (b sharedBody) Close() error               { return nil }

// What a base has given stays as it was, so that it can be given again: to two callers in turn, or at once.
func TestSharedResponse(t *testing.T) {
	for _, test := range []struct {
		status, attempts int
		body             io.ReadCloser
	}{
		{200, 1, sharedBody{"content"}}, {200, 1, http.NoBody}, {200, 1, nil},
		{404, 1, sharedBody{"content"}}, {404, 1, http.NoBody},
		{503, 4, sharedBody{"content"}}, {503, 4, http.NoBody}, {503, 4, nil}, {429, 4, sharedBody{"content"}},
	} {
		for who, look := range onlookers {
			for _, native := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d %T/%s/native %v", test.status, test.body, who, native), inBubble(func(t *testing.T) {
					resp, _ := answers(test.status, "")(nil)
					resp.Body, resp.ContentLength = test.body, -1
					before := *resp
					var attempts atomic.Int64
					var base http.RoundTripper = roundTripper(func(req *http.Request) (*http.Response, error) {
						attempts.Add(1)
						if req.Body != nil {
							req.Body.Close()
						}
						return cacheBase{resp}.RoundTrip(req)
					})
					if native && test.body != nil { // net/http's contract is that there is one
						base = registered(base)
					}
					transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
					want := ""
					if test.body == (sharedBody{"content"}) {
						want = "content"
					}
					call := func() {
						got, err := transport.RoundTrip(look(transport, newRequest(t, "GET", "")))
						if err != nil {
							t.Error(err)
							return
						}
						if body, err := io.ReadAll(got.Body); got == resp || string(body) != want || err != nil {
							t.Errorf("got %q, %v, the base's own response %v", body, err, got == resp)
						}
						got.Body.Close()
						got.StatusCode, got.Body = 0, nil // it is the caller's
					}
					for range 2 {
						call()
					}
					if attempts.Load() != int64(2*test.attempts) {
						t.Errorf("%d attempts for two calls, want %d each", attempts.Load(), test.attempts)
					}
					if who == "nobody" { // the others set the Transport up per call
						var running sync.WaitGroup
						for range 8 {
							running.Go(call)
						}
						running.Wait()
					}
					if resp.StatusCode != before.StatusCode || resp.Body != before.Body || resp.Request != before.Request {
						t.Errorf("the base's response is now %+v", resp)
					}
				}))
			}
		}
	}
}

// A hook may keep the response, and look at it whenever it likes.
func TestHookThatKeepsTheResponse(t *testing.T) {
	for _, proto := range wireSchemes {
		for _, status := range []int{200, 204, 404} {
			t.Run(fmt.Sprint(proto, status), func(t *testing.T) {
				server, base := newWireTLS(t, proto, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
				kept := make(chan *http.Response, 1)
				done := make(chan struct{})
				go func() {
					defer close(done)
					resp := <-kept
					for range 1000 {
						_, _ = resp.Request, resp.Body
					}
				}()
				trace := &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { kept <- a.Response }}
				resp, _ := do(t, &steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: trace}, wireRequest(t, "GET", server.URL, ""))
				resp.Request, resp.Body = nil, nil
				<-done
			})
		}
	}
}

// Also one that it is shown while the call waits, which becomes the call's answer if there is no retry.
func TestHookThatKeepsTheResponseOfAWait(t *testing.T) {
	for _, body := range []string{"", notFound, strings.Repeat("x", 100<<10)} {
		t.Run(fmt.Sprint(len(body), " bytes"), func(t *testing.T) {
			server, base := newWireTLS(t, "http/1.1", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Try", "1")
				w.WriteHeader(503)
				io.WriteString(w, body)
			})
			kept := make(chan *http.Response, 2)
			read := make(chan struct{})
			go func() {
				defer close(read)
				for range cap(kept) {
					resp := <-kept
					for range 1000 {
						_, _ = resp.Request, resp.Body
					}
					if resp.StatusCode != 503 || resp.Header.Get("X-Try") != "1" {
						t.Errorf("the hook has %+v", resp)
					}
					if body != "" {
						if b, err := io.ReadAll(resp.Body); len(b) != 0 || err == nil {
							t.Errorf("the hook reads %q, %v: the body is the caller's", b, err)
						}
					}
				}
			}()
			tr := &steadyhttp.Transport{
				Base: base, Policy: atOnce(),
				Trace: &steadyhttp.Trace{Waiting: func(_ context.Context, a steadyhttp.Attempt, w steadyhttp.Wait) {
					if w.Cause == steadyhttp.WaitBackOff {
						kept <- a.Response
					}
				}},
				Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
					if prev == nil {
						return nil
					}
					kept <- prev.Response
					return &steadyhttp.Error{Stop: steadyhttp.StopPermanent, Err: errors.New("no more")}
				},
			}
			tr.Policy.NewBackOff = func() backoff.BackOff { return backoff.NewConstantBackOff(5 * time.Millisecond) }
			resp, err := tr.RoundTrip(wireRequest(t, "GET", server.URL, ""))
			if len(body) > 64<<10 {
				if err == nil {
					t.Errorf("an answer that was let go has come back: %v", resp.Status)
				}
			} else if err != nil {
				t.Error(err)
			} else {
				if b, err := io.ReadAll(resp.Body); string(b) != body || err != nil {
					t.Errorf("%q, %v", b, err)
				}
				resp.StatusCode, resp.Request, resp.Body = 0, nil, nil
			}
			<-read
		})
	}
}

// Trailers come at the body's end, and net/http sets them in the response that it made: what the caller has must get them too,
// announced or not.
func TestWireTrailersReachTheCaller(t *testing.T) {
	for _, proto := range wireSchemes {
		for _, announced := range []bool{false, true} {
			for _, status := range []int{200, 404} {
				for who, look := range onlookers {
					for name, set := range map[string]func(*steadyhttp.Transport){
						"default": func(*steadyhttp.Transport) {},
						"Prepare": func(tr *steadyhttp.Transport) {
							tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return nil }
						},
						"timeouts":   func(tr *steadyhttp.Transport) { tr.Policy.IdleTimeout = time.Minute },
						"MaxRead":    func(tr *steadyhttp.Transport) { tr.Policy.MaxRead = 1 << 20 },
						"other base": func(tr *steadyhttp.Transport) { tr.Base = keyer{tr.Base} },
						"nested":     func(tr *steadyhttp.Transport) { tr.Base = &steadyhttp.Transport{Base: tr.Base} },
						"nested, MaxAttempts 1": func(tr *steadyhttp.Transport) {
							tr.Base, tr.Policy.MaxAttempts = &steadyhttp.Transport{Base: tr.Base, Trace: new(wireLog).trace()}, 1
						},
					} {
						t.Run(fmt.Sprint(proto, "/announced ", announced, "/", status, "/", who, "/", name), func(t *testing.T) {
							server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
								key := http.TrailerPrefix + "X-Sum"
								if announced {
									key = "X-Sum"
									w.Header().Set("Trailer", key)
								}
								w.WriteHeader(status)
								io.WriteString(w, strings.Repeat("x", 100<<10))
								w.Header().Set(key, "42")
							})
							transport := &steadyhttp.Transport{Base: base, Policy: atOnce()}
							set(transport)
							resp, body := do(t, transport, look(transport, wireRequest(t, "GET", server.URL, "")))
							if len(body) != 100<<10 || resp.Trailer.Get("X-Sum") != "42" {
								t.Errorf("%d bytes with trailer %v", len(body), resp.Trailer)
							}
						})
					}
				}
			}
		}
	}
}

// A clone spends the same quota and the same budget as what it was made of, and its own fields are
// its own.
func TestCloneSharesGatesAndBudget(t *testing.T) {
	var entered int
	gate := enterFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		entered++
		return nil, nil
	})
	for name, budget := range map[string]*steadyhttp.Budget{
		"its own budget":   nil,
		"a budget to hand": {Max: 3, PerSuccess: -1, PerSecond: -1},
	} {
		policy := steadyhttp.Policy{NewBackOff: newZeroBackOff, MaxAttempts: 100, Budget: budget}
		original := &steadyhttp.Transport{
			Base: newScript(answers(503, "")), Policy: policy, Gates: []steadyhttp.Gate{gate},
		}
		clone := original.Clone()
		again := clone.Clone()
		entered = 0
		resp, _ := do(t, clone, newRequest(t, "GET", ""))
		if stop := stopOf(t, resp); stop != steadyhttp.StopBudget || entered < 2 {
			t.Errorf("%s: stop %q after %d entries", name, stop, entered)
		}
		for _, other := range []*steadyhttp.Transport{original, again} {
			entered = 0
			resp, _ := do(t, other, newRequest(t, "GET", ""))
			if stop := stopOf(t, resp); stop != steadyhttp.StopBudget || entered != 1 {
				t.Errorf("%s: what the clone has spent is not: stop %q after %d entries", name, stop, entered)
			}
		}
		clone.Gates[0], clone.Policy.MaxAttempts = nil, 1
		if original.Gates[0] == nil || original.Policy.MaxAttempts != 100 {
			t.Errorf("%s: a change of the clone has changed the original", name)
		}
	}
	trace, prepare := &steadyhttp.Trace{}, func(*http.Request, *steadyhttp.Attempt) error { return nil }
	base := newScript(answers(200, ""))
	whole := (&steadyhttp.Transport{
		Base: base, Trace: trace, Prepare: prepare, Classify: (&steadyhttp.Rules{}).Classify,
	}).Clone()
	if whole.Base != base || whole.Trace != trace || whole.Prepare == nil || whole.Classify == nil {
		t.Errorf("%+v", whole)
	}
}

// What was peeked is shown to all hooks: one that appends to it writes nothing into what another has.
func TestHooksThatAppendToTheBody(t *testing.T) {
	for name, set := range map[string]func(*steadyhttp.Transport){
		"by default": func(*steadyhttp.Transport) {},
		"MaxRead":    func(tr *steadyhttp.Transport) { tr.Policy.MaxRead = 1000 },
		"Parse":      func(tr *steadyhttp.Transport) { tr.Classify = (&steadyhttp.Rules{}).Classify },
	} {
		for _, status := range []int{404, 503} {
			for _, pieces := range []int{0, 1} {
				t.Run(fmt.Sprint(name, ", ", status, ", in pieces of ", pieces), func(t *testing.T) {
					var appending sync.WaitGroup
					look := func(what byte) func(context.Context, steadyhttp.Attempt) {
						return func(_ context.Context, a steadyhttp.Attempt) {
							appending.Go(func() {
								if own := append(a.Body, what); string(own) != "hello"+string(what) {
									t.Errorf("%q", own)
								}
							})
						}
					}
					tr := &steadyhttp.Transport{
						Base: newScript(answersWith(status, fakeBody{content: "hello", chunk: pieces})), Policy: atOnce(),
						Trace: &steadyhttp.Trace{AttemptDone: look('x'), Done: look('y')},
					}
					set(tr)
					var spare []byte
					tr.Trace = steadyhttp.Join(tr.Trace, &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) {
						spare = a.Body[len(a.Body):cap(a.Body)]
					}})
					if _, content := do(t, tr, newRequest(t, "GET", "")); content != "hello" {
						t.Errorf("%q", content)
					}
					appending.Wait()
					if len(spare) > 0 {
						t.Errorf("room for %d bytes that all have", len(spare))
					}
				})
			}
		}
	}
}

// What AttemptOf and Check tell may be asked for while another goroutine reads the body to its failing end.
func TestAttemptOfWhileTheBodyIsRead(t *testing.T) {
	for name, content := range map[string]string{"peeked": "x", "longer": strings.Repeat("x", 70<<10)} {
		for _, below := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", with a Transport below ", below), func(t *testing.T) {
				for range 50 {
					tr := &steadyhttp.Transport{Base: newScript(answersWith(404, fakeBody{content: content, end: errTrial})), Policy: atOnce()}
					if below {
						tr = &steadyhttp.Transport{Base: tr, Policy: atOnce()}
					}
					resp, err := tr.RoundTrip(newRequest(t, "GET", ""))
					if err != nil {
						t.Fatal(err)
					}
					var both sync.WaitGroup
					both.Go(func() { _, _ = io.Copy(io.Discard, resp.Body) })
					both.Go(func() {
						if e := errorOf(t, steadyhttp.Check(resp)); e.StatusCode != 404 || e.Err != nil {
							t.Errorf("%+v", e)
						}
						if a, ok := steadyhttp.AttemptOf(resp); !ok || a.Err != nil && !errors.Is(a.Err, errTrial) {
							t.Errorf("%+v", a)
						}
					})
					both.Wait()
					if a, _ := steadyhttp.AttemptOf(resp); !errors.Is(a.Err, errTrial) {
						t.Errorf("what became of the body: %v", a.Err)
					}
					resp.Body.Close()
				}
			})
		}
	}
}
