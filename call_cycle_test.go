package steadyhttp_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/steadyhttp/steadyhttp"
)

// A Transport that is its own base, in whatever way, sends by net/http's original or fails; it does not recurse.
func TestTransportThatIsItsOwnBase(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		for {
			if req, _ := c.request(); req == nil {
				return
			}
			c.answer(wireOK)
		}
	})
	original := http.DefaultTransport
	t.Cleanup(func() {
		http.DefaultTransport = original
		original.(*http.Transport).CloseIdleConnections()
	})
	wrap := func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) { return rt.RoundTrip(req) })
	}
	for _, test := range []struct {
		name string
		make func() *steadyhttp.Transport
		ok   bool
	}{
		{"the default", func() *steadyhttp.Transport {
			tr := new(steadyhttp.Transport)
			http.DefaultTransport = tr
			return tr
		}, true},
		{"the default by name", func() *steadyhttp.Transport {
			tr := new(steadyhttp.Transport)
			http.DefaultTransport = tr
			tr.Base = http.DefaultTransport
			return tr
		}, true},
		{"its own Base", func() *steadyhttp.Transport {
			tr := new(steadyhttp.Transport)
			tr.Base = tr
			return tr
		}, true},
		{"the default, and another around it", func() *steadyhttp.Transport {
			http.DefaultTransport = new(steadyhttp.Transport)
			return new(steadyhttp.Transport)
		}, true},
		{"two of each other", func() *steadyhttp.Transport {
			a, b := new(steadyhttp.Transport), new(steadyhttp.Transport)
			a.Base, b.Base = b, a
			return a
		}, false},
		{"three, with gates and traces", func() *steadyhttp.Transport {
			a, b, c := new(steadyhttp.Transport), new(steadyhttp.Transport), new(steadyhttp.Transport)
			a.Base, b.Base, c.Base = b, wrap(c), a
			a.Gates, b.Trace = []steadyhttp.Gate{steadyhttp.Limit(nil)}, new(wireLog).trace()
			return a
		}, false},
		{"a wrapper of it", func() *steadyhttp.Transport {
			tr := new(steadyhttp.Transport)
			tr.Base = wrap(tr)
			return tr
		}, false},
		{"the default, wrapped", func() *steadyhttp.Transport {
			tr := new(steadyhttp.Transport)
			http.DefaultTransport = wrap(tr)
			return tr
		}, false},
		{"a wrapper that drops the context", func() *steadyhttp.Transport {
			tr := &steadyhttp.Transport{}
			tr.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
				return tr.RoundTrip(req.Clone(context.Background()))
			})
			return tr
		}, false},
		{"a client that drops the context", func() *steadyhttp.Transport {
			tr := &steadyhttp.Transport{}
			tr.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
				client := &http.Client{Transport: tr}
				fetch, err := http.NewRequest(req.Method, req.URL.String(), nil)
				if err != nil {
					return nil, err
				}
				return client.Do(fetch)
			})
			return tr
		}, false},
		{"a wrapper with another policy", func() *steadyhttp.Transport {
			tr := &steadyhttp.Transport{Policy: steadyhttp.Batch()}
			tr.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
				return tr.RoundTrip(req.Clone(context.WithoutCancel(req.Context())))
			})
			return tr
		}, false},
	} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(test.name+"/"+method, func(t *testing.T) {
				defer func() { http.DefaultTransport = original }()
				resp, err := test.make().RoundTrip(wireRequest(t, method, server.url, ""))
				if (err == nil) != test.ok {
					t.Fatalf("got %v", err)
				}
				if test.ok {
					readAll(t, resp)
				} else if e := errorOf(t, err); e.Stop != "permanent" {
					t.Errorf("got %+v", e)
				}
			})
		}
	}
}

// One Transport in another, and one that a base comes back to for a token, are no cycles.
func TestNestingIsNoCycle(t *testing.T) {
	t.Run("in a row", func(t *testing.T) {
		base := newScript(answers(200, "fine"))
		var rt http.RoundTripper = base
		for range 40 {
			rt = &steadyhttp.Transport{Base: rt}
		}
		if _, body := do(t, rt, newRequest(t, "POST", "content")); body != "fine" || base.sent() != 1 {
			t.Errorf("got %q after %d", body, base.sent())
		}
	})
	t.Run("for a token", func(t *testing.T) {
		base := newScript(answers(200, "fine"))
		tr := new(steadyhttp.Transport)
		tr.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path != "/token" {
				fetch, _ := http.NewRequestWithContext(req.Context(), "POST", "http://login.example/token", nil)
				resp, err := tr.RoundTrip(fetch)
				if err != nil {
					return nil, err
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			return base.RoundTrip(req)
		})
		for range 50 { // in turn: depth is what counts
			if _, body := do(t, tr, newRequest(t, "GET", "")); body != "fine" {
				t.Errorf("got %q", body)
			}
		}
	})
	t.Run("a cycle sent nothing", func(t *testing.T) {
		tr := new(steadyhttp.Transport)
		tr.Base = roundTripper(func(req *http.Request) (*http.Response, error) { return tr.RoundTrip(req) })
		if _, err := tr.RoundTrip(newRequest(t, "POST", "x")); !errors.Is(err, steadyhttp.ErrNotSent) {
			t.Errorf("got %v", err)
		}
	})
}
