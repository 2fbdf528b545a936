package field

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const form1 = `{"displayName":"a folder"}`

// replayed makes one call with a body of its own kind, against 503s or 429s, and wants the same
// bytes each time.
func replayed(c call, sends int, faults ...answer) func(*trial) error {
	return func(t *trial) error {
		s := serve(append(faults, ok)...)
		r := t.do(s, c)
		for i, sent := range s.sends {
			if sent.body != form1 || sent.err != nil {
				return fmt.Errorf("sending %d had %q, error %v", i+1, sent.body, sent.err)
			}
		}
		if n := s.count(); n != sends {
			return fmt.Errorf("sent %d times, want %d (status %d, error %v)", n, sends, r.status, r.err)
		}
		return r.answered(200, fine)
	}
}

func bodies() []field {
	down, full := answer{status: 503, text: busy}, answer{status: 429, text: busy}
	const each = "every attempt has the whole body"
	list := []field{{
		name: "a body of bytes", source: "go-resty/resty #47", rule: each,
		check: replayed(call{method: "PUT", body: form1}, 3, down, down),
	}, {
		name:   "a bytes.Reader",
		source: "go-retryablehttp TestClient_Do", rule: each, needs: "reader",
		check: replayed(call{method: "PUT", length: int64(len(form1)),
			reader: func() io.Reader { return bytes.NewReader([]byte(form1)) }}, 3, down, down),
	}, {
		name: "a bytes.Buffer", source: "beego #3081; go-nakadi #31", rule: each, needs: "reader",
		check: replayed(call{method: "PUT", length: int64(len(form1)),
			reader: func() io.Reader { return bytes.NewBufferString(form1) }}, 3, down, down),
	}, {
		name:   "a strings.Reader",
		source: "clink #5; softlayer-go PR 142", rule: each, needs: "reader",
		check: replayed(call{method: "PUT", length: int64(len(form1)),
			reader: func() io.Reader { return strings.NewReader(form1) }}, 3, down, down),
	}, {
		name: "a small reader that can't seek", source: "msgraph-sdk-go #341; aws-sdk-go-v2 #2485",
		rule: "what was refused is retried: a small body is kept", needs: "reader",
		check: replayed(call{method: "POST", length: int64(len(form1)),
			reader: func() io.Reader { return io.NopCloser(strings.NewReader(form1)) }}, 2, full),
	}, {
		name:   "a file",
		source: "terraform-provider-genesyscloud PR 2481", rule: each, needs: "reader",
		check: func(t *trial) error {
			c := call{method: "PUT", length: int64(len(form1)), reader: func() io.Reader {
				f, err := os.CreateTemp(t.TempDir(), "flow")
				if err == nil {
					_, err = f.WriteString(form1)
				}
				if err == nil {
					_, err = f.Seek(0, io.SeekStart)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				return f
			}}
			return replayed(c, 2, down)(t)
		},
	}, {
		name: "a stream of unknown length", source: "go-containerregistry #1004; questdb PR 39",
		rule: "no attempt is sent an empty or a cut body", needs: "reader",
		check: func(t *trial) error {
			s := serve(times(2, down, ok)...)
			r := t.do(s, call{method: "PUT", reader: func() io.Reader {
				return io.MultiReader(strings.NewReader(form1[:5]), strings.NewReader(form1[5:]))
			}})
			for i, sent := range s.sends {
				if sent.body != form1 {
					return fmt.Errorf("sending %d had %q", i+1, sent.body)
				}
			}
			if r.status != 200 && r.status != 503 {
				return fmt.Errorf("status %d, error %v", r.status, r.err)
			}
			return nil
		},
	}, {
		name: "an upload that streams", source: "go-retryablehttp #145; openai-cli PR 65",
		rule: "a body is sent as it comes, not read to its end first", needs: "reader",
		check: func(t *trial) error {
			r, w := io.Pipe()
			defer r.Close()
			first := make(chan struct{})
			late := false
			var began sync.Once
			go func() {
				io.WriteString(w, form1[:5])
				select {
				case <-first:
				case <-time.After(time.Minute):
					late = true
				case <-t.ctx.Done():
				}
				io.WriteString(w, form1[5:])
				w.Close()
			}()
			base := transportFunc(func(req *http.Request) (*http.Response, error) {
				b := make([]byte, 5)
				if _, err := io.ReadFull(req.Body, b); err != nil {
					return nil, err
				}
				began.Do(func() { close(first) })
				rest, err := io.ReadAll(req.Body)
				req.Body.Close()
				if string(b)+string(rest) != form1 || err != nil {
					return nil, fmt.Errorf("the body was %q%q: %w", b, rest, err)
				}
				return serve(ok).RoundTrip(&http.Request{URL: req.URL})
			})
			res := t.do(base, call{method: "POST", reader: func() io.Reader { return r }})
			if err := res.answered(200, fine); err != nil {
				return err
			}
			if late {
				return errors.New("nothing was sent before the body had come to its end")
			}
			return nil
		},
	}, {
		name: "a body that is still being read", source: "golang/go #30597; kubernetes #108906",
		rule:  "no two attempts share a reader: net/http may read one after its answer came",
		check: lateReader,
	}, {
		name: "a body that can't be made again", source: "AWS: stops on rewind error",
		rule: "it ends with the failure, and sends nothing else", needs: "transport",
		check: func(t *trial) error {
			s := serve(times(2, full, ok)...)
			body := io.NopCloser(strings.NewReader(form1))
			req, err := http.NewRequestWithContext(t.ctx, "PUT", "http://api.test/", body)
			if err != nil {
				return err
			}
			req.ContentLength = int64(len(form1))
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("disk gone") }
			resp, err := (&http.Client{Transport: t.client.transport(s, call{})}).Do(req)
			for i, sent := range s.sends {
				if sent.body != form1 {
					return fmt.Errorf("sending %d had %q", i+1, sent.body)
				}
			}
			if err == nil {
				resp.Body.Close()
			}
			return nil
		},
	}, {
		name: "an empty body", source: "azure-sdk-for-go #14598; skipper PR 277",
		rule: "a POST without a body has Content-Length 0 on each attempt", wire: true,
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					w.WriteHeader(429)
				}
			})
			if r := t.do(s.base, call{method: "POST", url: s.url, fast: true}); r.status != 200 {
				return fmt.Errorf("status %d, error %v", r.status, r.err)
			}
			return s.each(func(r *http.Request) error {
				return framed(r, 0)
			})
		},
	}, {
		name: "http.NoBody", source: "RFC 9112 6.3; golang/go isReplayable",
		rule: "NoBody stays no body", needs: "transport", wire: true,
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					w.WriteHeader(503)
				}
			})
			req, err := http.NewRequestWithContext(t.ctx, "PUT", s.url, http.NoBody)
			if err != nil {
				return err
			}
			resp, err := (&http.Client{Transport: t.client.transport(s.base, call{fast: true})}).Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				return fmt.Errorf("status %d", resp.StatusCode)
			}
			return s.each(func(r *http.Request) error {
				return framed(r, 0)
			})
		},
	}, {
		name: "the length on each attempt", source: "golang/go #17480; alcionai/corso #1778",
		rule: "a known length stays known: no attempt becomes chunked", wire: true,
		check: func(t *trial) error {
			s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if n < 3 {
					w.WriteHeader(429)
				}
			})
			r := t.do(s.base, call{method: "PUT", url: s.url, body: form1, fast: true})
			if r.status != 200 {
				return fmt.Errorf("status %d, error %v", r.status, r.err)
			}
			return s.each(func(r *http.Request) error {
				return framed(r, int64(len(form1)))
			})
		},
	}, {
		name: "307, then 503", source: "go-retryablehttp #121; PuerkitoBio/rehttp TestRedirects",
		rule: "a redirect that keeps the method keeps the body, and so does its retry",
		check: func(t *trial) error {
			moved := answer{status: 307, header: fields("Location", "http://api.test/elsewhere")}
			s := serve(moved, down, ok)
			c := call{method: "PUT", body: form1}
			return s.came(t.do(s, c), c, want{3, 200, fine})
		},
	}, {
		name: "bodies of many calls", source: "CVE-2023-45286 (resty); go-resty/resty #630",
		rule:  "no server sees a byte of another one's request",
		check: canaries,
	}}
	return list
}

// framed wants a request's length to be known, and to be length.
func framed(r *http.Request, length int64) error {
	if r.ContentLength != length || len(r.TransferEncoding) > 0 {
		return fmt.Errorf("Content-Length %d, Transfer-Encoding %v", r.ContentLength, r.TransferEncoding)
	}
	return nil
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// lateReader has the base read on in the first attempt's body when the second is there.
func lateReader(t *trial) error {
	const text = "0123456789abcdefghij"
	var first io.ReadCloser
	n := 0
	base := transportFunc(func(req *http.Request) (*http.Response, error) {
		n++
		if n == 1 {
			first = req.Body
			io.ReadFull(first, make([]byte, 5))
			return serve(answer{status: 429, text: busy, unread: true}).RoundTrip(&http.Request{
				Method: "GET", URL: req.URL, Header: http.Header{}})
		}
		io.ReadFull(first, make([]byte, 5))
		b, err := io.ReadAll(req.Body)
		first.Close()
		req.Body.Close()
		if string(b) != text || err != nil {
			return serve(answer{status: 400, text: fmt.Sprintf("the second body was %q: %v", b, err)}).
				RoundTrip(&http.Request{Method: "GET", URL: req.URL, Header: http.Header{}})
		}
		return serve(ok).RoundTrip(&http.Request{Method: "GET", URL: req.URL, Header: http.Header{}})
	})
	r := t.do(base, call{method: "PUT", body: text})
	return r.answered(200, fine)
}

// canaries makes calls to two hosts at once, of which a third fails.
func canaries(t *trial) error {
	var mu sync.Mutex
	var faulty error
	n := 0
	base := transportFunc(func(req *http.Request) (*http.Response, error) {
		b, err := io.ReadAll(req.Body)
		req.Body.Close()
		mu.Lock()
		defer mu.Unlock()
		n++
		if host, _, _ := strings.Cut(string(b), " "); host != req.URL.Host || err != nil {
			faulty = fmt.Errorf("%s got %.40q: %w", req.URL.Host, b, err)
		}
		if n%3 == 0 {
			return serve(answer{status: 429, text: busy}).RoundTrip(&http.Request{URL: req.URL})
		}
		return serve(ok).RoundTrip(&http.Request{URL: req.URL})
	})
	var group sync.WaitGroup
	lost := 0
	for i := range 100 {
		host := []string{"a.test", "b.test"}[i%2]
		group.Go(func() {
			body := host + strings.Repeat(" x", i)
			r := t.do(base, call{method: "PUT", url: "http://" + host + "/", body: body})
			readAll(r.resp)
			if r.status != 200 {
				mu.Lock()
				lost++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if faulty == nil && lost > 5 {
		return fmt.Errorf("%d of 100 calls were lost", lost)
	}
	return faulty
}
