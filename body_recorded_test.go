package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// onlyReader hides what a reader is.
type onlyReader struct{ io.Reader }

// Bodies without GetBody are kept up to MaxBuffer, 256 KiB where it is 0 and their length is known.
func TestMaxBufferByDefault(t *testing.T) {
	const kib = 1 << 10
	for _, tt := range []struct {
		name   string
		size   int
		length int64 // -1: unknown
		max    int64
		sent   int
	}{
		{"small", 100, 100, 0, 3},
		{"256 KiB", 256 * kib, 256 * kib, 0, 3},
		{"a byte more", 256*kib + 1, 256*kib + 1, 0, 1},
		{"of unknown length", 100, -1, 0, 1},
		{"of unknown length, MaxBuffer set", 100, -1, 100, 3},
		{"of unknown length, over MaxBuffer", 101, -1, 100, 1},
		{"never", 100, 100, -1, 1},
		{"more by MaxBuffer", 300 * kib, 300 * kib, 300 * kib, 3},
		{"less by MaxBuffer", 100, 100, 99, 1},
	} {
		for name, body := range map[string]func(string) io.Reader{
			"stream":         func(s string) io.Reader { return onlyReader{strings.NewReader(s)} },
			"byte by byte":   func(s string) io.Reader { return &chunks{strings.NewReader(s)} },
			"strings.Reader": func(s string) io.Reader { return strings.NewReader(s) },
			"bytes.Reader":   func(s string) io.Reader { return bytes.NewReader([]byte(s)) },
			"bytes.Buffer":   func(s string) io.Reader { return bytes.NewBufferString(s) },
		} {
			if tt.length < 0 && name != "stream" && name != "byte by byte" && tt.max == 0 {
				continue // what is in memory has a length
			}
			t.Run(tt.name+", "+name, inBubble(func(t *testing.T) {
				content := strings.Repeat("x", tt.size)
				base := newScript(answers(429, "kept"), answers(503, "kept"), answers(200, ""))
				var text bytes.Buffer
				policy := atOnce()
				policy.MaxBuffer = tt.max
				transport := &steadyhttp.Transport{
					Base: base, Policy: policy, Trace: steadyhttp.Log(slog.New(slog.NewTextHandler(&text, nil))),
				}
				req := newRequest(t, "PUT", "")
				req.Body, req.ContentLength = io.NopCloser(body(content)), tt.length
				resp, _ := do(t, transport, req)
				if base.sent() != tt.sent {
					t.Errorf("sent %d times, want %d", base.sent(), tt.sent)
				}
				for n, sent := range base.bodies {
					if sent != content || base.request(n).ContentLength != tt.length {
						t.Errorf("attempt %d had %d bytes, length %d", n+1, len(sent), base.request(n).ContentLength)
					}
				}
				if tt.sent == 1 {
					if stopOf(t, resp) != "body_not_replayable" || !strings.Contains(text.String(), "level=WARN") ||
						!strings.Contains(text.String(), "MaxBuffer") || !strings.Contains(steadyhttp.Check(resp).Error(), "MaxBuffer") {
						t.Errorf("Stop %q, log %s", stopOf(t, resp), &text)
					}
				}
				base.assertNoLeak(t)
			}))
		}
	}
}

// chunks gives a byte at a time.
type chunks struct{ io.Reader }

func (c *chunks) Read(p []byte) (int, error) { return c.Reader.Read(p[:min(1, len(p))]) }

// A body is recorded while it is sent, from where the first attempt left off: the next has all of it.
func TestHalfReadBodyIsSentWhole(t *testing.T) {
	const content = "0123456789"
	for read := range len(content) + 1 {
		for _, length := range []int64{int64(len(content)), -1} {
			t.Run(fmt.Sprint(read, " of ", length), inBubble(func(t *testing.T) {
				var bodies []string
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					defer req.Body.Close()
					limit := int64(read)
					if len(bodies) == 2 {
						limit = 100
					}
					part, err := io.ReadAll(io.LimitReader(req.Body, limit))
					bodies = append(bodies, string(part))
					if err != nil {
						return nil, err
					}
					if len(bodies) == 3 {
						return answers(200, "")(req)
					}
					return answers(503, "")(req)
				})
				policy := atOnce()
				policy.MaxBuffer = 100
				req := newRequest(t, "PUT", "")
				body := newCountingBody(content)
				req.Body, req.ContentLength = body, length
				do(t, &steadyhttp.Transport{Base: base, Policy: policy}, req)
				if len(bodies) != 3 || bodies[2] != content || bodies[1] != content[:read] || body.closes.Load() != 1 {
					t.Errorf("%q, closed %d times", bodies, body.closes.Load())
				}
			}))
		}
	}
}

// A slow body holds neither the headers back nor the attempt's end.
func TestSlowBodyHoldsNothingUp(t *testing.T) {
	for _, proto := range wireSchemes {
		t.Run(proto, func(t *testing.T) {
			headers := make(chan struct{}, 4)
			server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
				headers <- struct{}{}
				io.Copy(io.Discard, r.Body)
			})
			defer server.CloseClientConnections()
			pipe, writer := io.Pipe()
			go func() {
				<-headers // the body begins only when the headers have come
				io.WriteString(writer, "0123456789")
				writer.Close()
			}()
			req := wireRequest(t, "PUT", server.URL, "")
			req.Body, req.ContentLength = pipe, 10
			resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()

			// net/http itself waits for the Read that is under way, and so the body trickles on.
			slow := newCountingBody("")
			slow.Reader = readFunc(func(p []byte) (int, error) {
				time.Sleep(10 * time.Millisecond)
				p[0] = 'x'
				return 1, nil
			})
			req = wireRequest(t, "PUT", server.URL, "")
			req.Body, req.ContentLength = slow, 100_000
			policy := atOnce()
			policy.AttemptTimeout, policy.MaxAttempts = 50*time.Millisecond, 2
			began := time.Now()
			_, err = (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(req)
			if e := errorOf(t, err); !errors.Is(err, context.DeadlineExceeded) || e.Stop != "attempts" || time.Since(began) > 20*time.Second {
				t.Errorf("after %v: %q: %v", time.Since(began), e.Stop, err)
			}
			if closes := slow.closes.Load(); closes > 1 {
				t.Errorf("closed %d times", closes)
			}
		})
	}
}

// An answer that comes while the body is still being read, over both protocols: the retry has all of the body or is not made.
func TestWireEarlyAnswerOfARecordedBody(t *testing.T) {
	content := strings.Repeat("0123456789", 20<<10)
	for _, proto := range wireSchemes {
		t.Run(proto, func(t *testing.T) {
			var n atomic.Int64
			server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%2 == 1 {
					w.WriteHeader(503)
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != content {
					t.Errorf("got %d bytes, %v", len(body), err)
				}
			})
			for range 20 {
				req := wireRequest(t, "PUT", server.URL, "")
				body := newCountingBody(content)
				body.Reader = onlyReader{body.Reader}
				req.Body, req.ContentLength = body, int64(len(content))
				resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(req)
				if err != nil {
					n.Store(0)
					continue // HTTP/1.1 may lose the connection over it, of every attempt
				}
				if resp.StatusCode != 200 {
					t.Errorf("%d, Stop %q", resp.StatusCode, stopOf(t, resp))
				}
				readAll(t, resp)
				deadline := time.Now().Add(10 * time.Second)
				for body.closes.Load() != 1 && time.Now().Before(deadline) {
					time.Sleep(time.Millisecond)
				}
				if closes := body.closes.Load(); closes != 1 {
					t.Errorf("closed %d times", closes)
				}
			}
		})
	}
}

// A body in memory goes out in one piece with its headers, with GetBody or without.
func TestMemoryBodyIsOneWrite(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"strings.Reader": strings.NewReader("content"), "bytes.Reader": bytes.NewReader([]byte("content")),
		"bytes.Buffer": bytes.NewBufferString("content"),
	} {
		t.Run(name, func(t *testing.T) {
			server := newWireServer(t, func(c *wireConn) {
				for {
					if req, _ := c.request(); req == nil {
						return
					}
					c.answer(wireOK)
				}
			})
			var writes atomic.Int64
			base := newWireBase(t)
			base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return countingConn{conn, &writes}, nil
			}
			req := wireRequest(t, "PUT", server.url, "")
			req.Body, req.ContentLength = io.NopCloser(body), 7
			resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			if writes.Load() != 1 {
				t.Errorf("%d writes", writes.Load())
			}
		})
	}
}

// A body of up to MaxRead bytes that breaks off is retried, one of that very length too.
func TestMaxReadToTheByte(t *testing.T) {
	const limit = 100
	for size, want := range map[int]int{0: 2, 1: 2, limit - 1: 2, limit: 2, limit + 1: 1, 2 * limit: 1} {
		for _, length := range []int64{-1, 1000} {
			inBubble(func(t *testing.T) {
				base := newScript(func(req *http.Request) (*http.Response, error) {
					resp, _ := answers(200, "")(req)
					resp.ContentLength = length
					resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", size)), failingReader{io.ErrUnexpectedEOF}))
					return resp, nil
				}, answers(200, "whole"))
				policy := atOnce()
				policy.MaxRead = limit
				resp, err := (&steadyhttp.Transport{Base: base, Policy: policy}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if base.sent() != want || want == 2 && string(got) != "whole" || want == 1 && len(got) != size {
					t.Errorf("%d of %d bytes: sent %d times, want %d; got %d bytes", size, limit, base.sent(), want, len(got))
				}
				base.assertNoLeak(t)
			})(t)
		}
	}
}

// Streams are the caller's as they come, whatever MaxRead is.
func TestMaxReadLeavesStreams(t *testing.T) {
	for kind, streams := range map[string]bool{
		"text/event-stream": true, "text/event-stream; charset=utf-8": true, "Application/X-NDJSON": true, "application/ndjson": true,
		"application/jsonl": true, "application/x-jsonlines": true, "application/jsonlines": true, "application/x-jsonl": true,
		"application/json-lines": true, "application/json-seq": true, "application/geo+json-seq": true,
		"application/stream+json": true, "application/x-json-stream": true, "application/vnd.apache.arrow.stream": true,
		"application/vnd.amazon.eventstream": true, "multipart/x-mixed-replace; boundary=x": true, "multipart/mixed; boundary=x": true,
		"application/grpc": true, "application/grpc-web+proto": true, "application/grpc+proto": true,
		"application/json;stream=watch": true, "application/vnd.kubernetes.protobuf; stream=watch": true,
		"application/json; charset=utf-8; Stream=watch": true, "Application/JSON ;STREAM=watch": true,
		"application/json": false, "text/plain": false, "application/octet-stream": false, "": false, "application/xml": false,
		"application/json; charset=utf-8": false, "application/octet-stream; stream=x": false,
		"application/json; odata.metadata=minimal; odata.streaming=true": false,
	} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pipe, writer := io.Pipe()
				base := newScript(func(req *http.Request) (*http.Response, error) {
					resp, _ := answers(200, "", "Content-Type: "+kind)(req)
					resp.Body, resp.ContentLength = pipe, -1
					return resp, nil
				})
				go func() {
					io.WriteString(writer, "{}\n")
					time.Sleep(time.Hour)
					writer.Close()
				}()
				took := stopwatch()
				resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxRead: 1 << 20}}).RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				if held := took() > 0; held == streams {
					t.Errorf("returned after %v", took())
				}
				if body := readAll(t, resp); body != "{}\n" {
					t.Errorf("read %q", body)
				}
			})
		})
	}
}

// Classify sees what MaxRead has read of a 200, and may find it throttled.
func TestClassifySeesWhatMaxReadHasRead(t *testing.T) {
	limited := `{"errors":[{"extensions":{"code":"RATE_LIMITED"}}]}`
	for _, status := range []int{200, 206} {
		inBubble(func(t *testing.T) {
			base := newScript(answers(status, limited), answers(status, limited), answers(status, "{}"))
			transport := &steadyhttp.Transport{
				Base: base, Policy: steadyhttp.Policy{MaxRead: 1 << 20},
				Classify: func(a steadyhttp.Attempt) steadyhttp.Verdict {
					if bytes.Contains(a.Body, []byte("RATE_LIMITED")) {
						return steadyhttp.Verdict{Class: steadyhttp.Throttled, Code: "RATE_LIMITED"}
					}
					return steadyhttp.Verdict{}
				},
			}
			if _, body := do(t, transport, newRequest(t, "GET", "")); body != "{}" || base.sent() != 3 {
				t.Errorf("%q after %d attempts", body, base.sent())
			}
			base.steps, base.requests = []step{answers(status, limited)}, nil
			resp, body := do(t, transport, newRequest(t, "GET", ""))
			if body != limited || stopOf(t, resp) != "attempts" || base.sent() != 4 {
				t.Errorf("%q after %d attempts, Stop %q", body, base.sent(), stopOf(t, resp))
			}
			base.assertNoLeak(t)
		})(t)
	}
}

// What is in memory has a length, whatever ContentLength says: without GetBody it is retried, framed as the caller has it.
func TestMemoryBodyOfUnknownLengthIsRetried(t *testing.T) {
	const kib = 1 << 10
	for _, tt := range []struct {
		size int
		max  int64
		sent int
	}{{1, 0, 3}, {100, 0, 3}, {256 * kib, 0, 3}, {256*kib + 1, 0, 1}, {100, -1, 1}, {100, 100, 3}, {101, 100, 1}} {
		for name, body := range map[string]func(string) io.Reader{
			"strings.Reader": func(s string) io.Reader { return strings.NewReader(s) },
			"bytes.Reader":   func(s string) io.Reader { return bytes.NewReader([]byte(s)) },
			"bytes.Buffer":   func(s string) io.Reader { return bytes.NewBufferString(s) },
			"half read": func(s string) io.Reader {
				r := strings.NewReader("xx" + s)
				r.ReadByte()
				r.ReadByte()
				return r
			},
		} {
			for _, length := range []int64{-1, 0} {
				t.Run(fmt.Sprint(name, " of ", tt.size, ", MaxBuffer ", tt.max, ", length ", length), func(t *testing.T) {
					content := strings.Repeat("x", tt.size)
					n := 0
					server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						n++
						got, err := io.ReadAll(r.Body)
						if err != nil || string(got) != content || r.ContentLength != -1 || !slices.Equal(r.TransferEncoding, []string{"chunked"}) {
							t.Errorf("attempt %d: %d bytes of %d, %v", n, len(got), r.ContentLength, r.TransferEncoding)
						}
						w.WriteHeader([]int{429, 503, 200}[min(n, 3)-1])
					}))
					defer server.Close()
					policy := atOnce()
					policy.MaxBuffer = tt.max
					req := wireRequest(t, "PUT", server.URL, "")
					req.Body, req.ContentLength = io.NopCloser(body(content)), length
					req.TransferEncoding = []string{"chunked"}
					resp, _ := do(t, &steadyhttp.Transport{Base: newWireBase(t), Policy: policy}, req)
					if n != tt.sent || (resp.StatusCode == 200) != (tt.sent == 3) {
						t.Errorf("%d after %d sends, want %d", resp.StatusCode, n, tt.sent)
					}
				})
			}
		}
	}
}
