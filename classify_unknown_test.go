package steadyhttp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
)

// retrieveError has the shape of oauth2's error: nothing tells what became of the token's request.
type retrieveError struct{ status int }

func (e *retrieveError) Error() string {
	return "oauth2: cannot fetch token: " + strconv.Itoa(e.status)
}

// How often a request is sent whose base has failed. A base that is not net/http's own may have failed of anything.
func TestAttemptsByError(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tt := range []struct {
		name           string
		err            error
		get, put, post int
	}{
		{"invalid_grant", &retrieveError{400}, 2, 2, 1},
		{"invalid_grant, wrapped", fmt.Errorf("token: %w", &retrieveError{400}), 2, 2, 1},
		{"any other", errTrial, 2, 2, 1},
		{"reset", trReset, 4, 4, 1},
		{"reset, joined", errors.Join(errTrial, syscall.ECONNRESET), 4, 4, 1},
		{"broken pipe", syscall.EPIPE, 4, 4, 1},
		{"timeout", os.ErrDeadlineExceeded, 4, 4, 1},
		{"closed", io.ErrUnexpectedEOF, 4, 4, 1},
		{"refused", trRefused, 4, 4, 4},
		{"name server", dial(&net.DNSError{IsTemporary: true}), 4, 4, 4},
		{"unknown host", dial(&net.DNSError{IsNotFound: true}), 1, 1, 1},
		{"certificate", &tls.CertificateVerificationError{Err: x509.HostnameError{Host: "h", Certificate: &x509.Certificate{}}}, 1, 1, 1},
		{"alert", &net.OpError{Op: "remote error", Err: tls.AlertError(42)}, 1, 1, 1},
		{"alert of our own", &net.OpError{Op: "local error", Err: tls.AlertError(70)}, 1, 1, 1},
		{"alert of QUIC", tls.AlertError(120), 1, 1, 1},
		{"permanent", backoff.Permanent(trReset), 1, 1, 1},
		{"permanent, wrapped", &url.Error{Op: "Get", URL: "http://a/", Err: backoff.Permanent(errTrial)}, 1, 1, 1},
		{"not retriable", errors.Join(trReset, finalError{}), 1, 1, 1},
		{"400", statusError(400), 1, 1, 1},
		{"404, wrapped", fmt.Errorf("upload: %w", statusError(404)), 1, 1, 1},
		{"501", statusError(501), 1, 1, 1},
		{"429", statusError(429), 4, 4, 1},
		{"408", statusError(408), 4, 4, 1},
		{"503", statusError(503), 4, 4, 1},
		{"200, and yet an error", statusError(200), 2, 2, 1},
		{"Check's", &steadyhttp.Error{StatusCode: 403}, 1, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for method, want := range map[string]int{"GET": tt.get, "PUT": tt.put, "POST": tt.post} {
					base := newScript(failsWith(tt.err))
					transport := &steadyhttp.Transport{Base: base}
					_, err := transport.RoundTrip(newRequest(t, method, "content"))
					if base.sent() != want || !errors.Is(err, tt.err) && !strings.Contains(err.Error(), tt.err.Error()) {
						t.Errorf("%s: sent %d times, want %d; %v", method, base.sent(), want, err)
					}
					base.steps, base.requests = []step{answers(503, ""), answers(200, "")}, nil
					if resp, _ := do(t, transport, newRequest(t, "GET", "")); resp.StatusCode != 200 {
						t.Errorf("%s: the next call ended with %d: %q", method, resp.StatusCode, stopOf(t, resp))
					}
				}
			})
		})
	}
}

// Rules make one retry too of what nothing is known of; who classifies errors on his own has the last word.
func TestUnknownErrorUnderRules(t *testing.T) {
	rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"a": steadyhttp.Transient}}
	for name, tt := range map[string]struct {
		classify func(steadyhttp.Attempt) steadyhttp.Verdict
		want     int
	}{
		"none":      {nil, 2},
		"Rules":     {rules.Classify, 2},
		"none said": {func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{} }, 2},
		"another's": {func(steadyhttp.Attempt) steadyhttp.Verdict {
			return steadyhttp.Verdict{Class: steadyhttp.Transient}
		}, 4},
		"final": {func(a steadyhttp.Attempt) steadyhttp.Verdict {
			v := rules.Classify(a)
			if _, ok := errors.AsType[*retrieveError](a.Err); ok {
				v.Class = steadyhttp.Permanent
			}
			return v
		}, 1},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			base := newScript(failsWith(&retrieveError{400}))
			transport := &steadyhttp.Transport{Base: base, Classify: tt.classify}
			if _, err := transport.RoundTrip(newRequest(t, "GET", "")); base.sent() != tt.want {
				t.Errorf("sent %d times, want %d: %v", base.sent(), tt.want, err)
			}
		}))
	}
}

// Ten calls whose tokens are refused leave the origin's budget nearly as it was: the next is retried.
func TestFinalErrorsCostNothing(t *testing.T) {
	for name, err := range map[string]error{
		"permanent": backoff.Permanent(errTrial), "400": statusError(400), "alert": tls.AlertError(42),
		"invalid_grant": &retrieveError{400},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			base := newScript(failsWith(err))
			transport := &steadyhttp.Transport{Base: base}
			for range 40 {
				method := "GET"
				if name == "invalid_grant" {
					method = "POST"
				}
				transport.RoundTrip(newRequest(t, method, ""))
			}
			base.steps, base.requests = []step{answers(503, ""), answers(200, "")}, nil
			if resp, _ := do(t, transport, newRequest(t, "GET", "")); resp.StatusCode != 200 {
				t.Errorf("%q", stopOf(t, resp))
			}
		}))
	}
}

// failingBody gives a few bytes and then fails.
type failingBody struct {
	io.Reader
	err error
}

func newFailingBody(err error) *failingBody {
	return &failingBody{io.MultiReader(strings.NewReader("some"), failingReader{err}), err}
}

func (*failingBody) Close() error { return nil }

// The caller's own body, however it is kept for a retry, fails once for all, and says of what.
func TestFailedRequestBodyIsFinal(t *testing.T) {
	gone := errors.New("disk gone")
	for _, proto := range wireSchemes {
		server, base := newWireTLS(t, proto, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		closed, err := os.Open(filepath.Join(t.TempDir(), "."))
		if err != nil {
			t.Fatal(err)
		}
		closed.Close()
		for name, set := range map[string]func(*http.Request){
			"sent once": func(r *http.Request) { r.Body, r.ContentLength = newFailingBody(gone), -1 },
			"recorded":  func(r *http.Request) { r.Body, r.ContentLength = newFailingBody(gone), 100 },
			"too long":  func(r *http.Request) { r.Body, r.ContentLength = newFailingBody(gone), 1<<20 },
			"lent": func(r *http.Request) {
				r.Body, r.ContentLength = newFailingBody(gone), 100
				r.GetBody = func() (io.ReadCloser, error) { return newFailingBody(gone), nil }
			},
			"timed out": func(r *http.Request) {
				r.Body, r.ContentLength = newFailingBody(fmt.Errorf("%w: %w", gone, os.ErrDeadlineExceeded)), 100
			},
			"reset": func(r *http.Request) {
				r.Body, r.ContentLength = newFailingBody(fmt.Errorf("%w: %w", gone, syscall.ECONNRESET)), 100
			},
		} {
			t.Run(proto+" "+name, func(t *testing.T) {
				var attempts wireLog
				transport := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{NewBackOff: newZeroBackOff}, Trace: attempts.trace()}
				for _, method := range []string{"PUT", "POST"} {
					attempts.attempts = nil
					req := wireRequest(t, method, server.URL, "")
					set(req)
					_, err := transport.RoundTrip(req)
					e := errorOf(t, err)
					if len(attempts.all()) != 1 || !errors.Is(err, gone) || e.ErrorType() != "request body" || e.Stop != "permanent" {
						t.Errorf("%s: %d attempts, %q, Stop %q: %v", method, len(attempts.all()), e.ErrorType(), e.Stop, err)
					}
				}
			})
		}
		t.Run(proto+" closed file", func(t *testing.T) {
			var attempts wireLog
			req := wireRequest(t, "PUT", server.URL, "")
			req.Body, req.ContentLength = closed, 10
			_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: attempts.trace()}).RoundTrip(req)
			if len(attempts.all()) != 1 || !errors.Is(err, os.ErrClosed) {
				t.Errorf("%d attempts: %v", len(attempts.all()), err)
			}
		})
	}
}

// Over sockets: what would come again is sent once, and costs the budget nothing.
func TestWireRefusalsAreFinal(t *testing.T) {
	for _, proto := range wireSchemes {
		served := func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			switch r.URL.Path {
			case "/long":
				w.Header().Set("X-Long", strings.Repeat("x", 6<<10))
			case "/far":
				w.Header().Set("X-Long", strings.Repeat("x", 200<<10))
			case "/many":
				for n := range 1000 {
					w.Header().Set(fmt.Sprint("X-", n), "x")
				}
			}
		}
		server, base := newWireTLS(t, proto, served)
		base.MaxResponseHeaderBytes = 4 << 10
		guarded := httptest.NewUnstartedServer(http.HandlerFunc(served))
		guarded.EnableHTTP2 = proto == "HTTP/2.0"
		guarded.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}
		guarded.Config.ErrorLog = log.New(io.Discard, "", 0)
		guarded.StartTLS()
		t.Cleanup(guarded.Close)
		versions := httptest.NewUnstartedServer(http.HandlerFunc(served))
		versions.EnableHTTP2 = proto == "HTTP/2.0"
		versions.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
		versions.Config.ErrorLog = log.New(io.Discard, "", 0)
		versions.StartTLS()
		t.Cleanup(versions.Close)
		with := func(change func(*tls.Config)) *http.Transport {
			clone := base.Clone()
			clone.TLSClientConfig.InsecureSkipVerify = true
			change(clone.TLSClientConfig)
			t.Cleanup(clone.CloseIdleConnections)
			return clone
		}
		plain := with(func(*tls.Config) {})
		for _, tt := range []struct {
			name string
			base http.RoundTripper
			url  string
			set  func(*http.Request)
		}{
			{"client certificate refused", plain, guarded.URL, nil},
			{"client certificate refused, TLS 1.2", with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), guarded.URL, nil},
			{"no version in common", with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), versions.URL, nil},
			{"no version at all", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS12 }), server.URL, nil},
			{"header too long", base, server.URL + "/long", nil},
			{"header far too long", base, server.URL + "/far", nil},
			{"too many fields", base, server.URL + "/many", nil},
			{"body too long", base, server.URL, func(r *http.Request) {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader("too long")), 3
				r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("too long")), nil }
			}},
			{"port", base, "https://127.0.0.1:99999/", nil},
			{"port, HTTP", base, "http://127.0.0.1:65536/", nil},
			{"scheme", base, "ftp://127.0.0.1/", nil},
			{"field", base, server.URL, func(r *http.Request) { r.Header["a b"] = []string{"c"} }},
			{"trailer", base, server.URL, func(r *http.Request) { r.Trailer = http.Header{"a b": {"c"}} }},
		} {
			for _, method := range []string{"GET", "PUT", "POST"} {
				t.Run(proto+" "+tt.name+" "+method, func(t *testing.T) {
					// Whether the alert is read before the connection is given up is a race of its own.
					if proto == "HTTP/2.0" && (strings.HasPrefix(tt.name, "header ") || strings.HasPrefix(tt.name, "client certificate")) {
						t.Skip("net/http ends the connection, and does not always say what for")
					}
					var attempts wireLog
					budget := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: -1}
					transport := &steadyhttp.Transport{
						Base: tt.base, Trace: attempts.trace(),
						Policy: steadyhttp.Policy{NewBackOff: newZeroBackOff, Budget: budget},
					}
					req := wireRequest(t, method, tt.url, "")
					if tt.set != nil {
						tt.set(req)
					}
					resp, err := transport.RoundTrip(req)
					if err == nil {
						resp.Body.Close()
						t.Fatalf("no error, but %v", resp.Status)
					}
					if n := len(attempts.all()); n != 1 || !budget.Take(req) {
						t.Errorf("%d attempts: %v (%s)", n, err, errorTypes(err))
					}
				})
			}
		}
	}
}

// A ContentLength without a body; HTTP/2 sends it as if there were none.
func TestWireLengthWithoutBodyIsFinal(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) { c.request() })
	for _, method := range []string{"GET", "PUT", "POST"} {
		var attempts wireLog
		req := wireRequest(t, method, server.url, "")
		req.ContentLength = 10
		_, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce(), Trace: attempts.trace()}).RoundTrip(req)
		if n := len(attempts.all()); n != 1 || err == nil {
			t.Errorf("%s: %d attempts: %v", method, n, err)
		}
	}
}

// A body that is shorter than its ContentLength is the caller's mistake; over HTTP/1.1 net/http says so.
func TestWireShortBodyIsFinal(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) { c.request() })
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		for name, getBody := range map[string]bool{"recorded": false, "lent": true} {
			t.Run(method+" "+name, func(t *testing.T) {
				var attempts wireLog
				req := wireRequest(t, method, server.url, "")
				short := func() (io.ReadCloser, error) { return newCountingBody("short"), nil }
				req.Body, req.ContentLength = newCountingBody("short"), 10
				if getBody {
					req.GetBody = short
				}
				_, err := (&steadyhttp.Transport{Base: newWireBase(t), Policy: atOnce(), Trace: attempts.trace()}).RoundTrip(req)
				if n := len(attempts.all()); n != 1 || err == nil {
					t.Errorf("%d attempts: %v", n, err)
				}
			})
		}
	}
}

// A proxy's answer to CONNECT is told by its reason phrase alone.
func TestWireProxyRefusesConnect(t *testing.T) {
	for line, want := range map[string]int{
		"407 Proxy Authentication Required": 1, "403 Forbidden": 1, "400 Bad Request": 1, "404 Not Found": 1,
		"502 Bad Gateway": 4, "503 Service Unavailable": 4, "504 Gateway Timeout": 4, "429 Too Many Requests": 4,
	} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(line+" "+method, func(t *testing.T) {
				proxy := newWireServer(t, func(c *wireConn) {
					c.head()
					c.answer("HTTP/1.1 "+line, "Content-Length: 0", "", "")
				})
				base := newWireBase(t)
				proxyURL, err := url.Parse(proxy.url)
				if err != nil {
					t.Fatal(err)
				}
				base.Proxy = http.ProxyURL(proxyURL)
				var attempts wireLog
				transport := &steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: attempts.trace()}
				if _, err := transport.RoundTrip(wireRequest(t, method, "https://api.example/", "")); len(attempts.all()) != want {
					t.Errorf("%d attempts, want %d: %v", len(attempts.all()), want, err)
				}
			})
		}
	}
}

// A proxy that says no to CONNECT in words of its own is believed as far as they go. What they do not say, a 4xx or a
// 5xx, is tried once more: a proxy locks out who asks too often with the wrong password.
func TestWireProxyRefusesInItsOwnWords(t *testing.T) {
	for line, want := range map[string]int{
		"407 Proxy-Authentication-Required by ACME": 1, "407 proxy authentication required": 1, "403 Forbidden by policy": 1,
		"403 FORBIDDEN": 1, "401 Unauthorized-User": 1, "404 Not Found (no such host)": 1, "451 Unavailable For Legal Reasons: x": 1,
		"407 Proxy Authentication Required ( Forefront TMG requires authorization )": 1, "400 Bad Request - no Host": 1,
		"503 Service Unavailable, try later": 4, "502 Bad Gateway (DNS)": 4, "504 Gateway Time-out": 4, "504 Gateway Timeout!": 4,
		"429 Too Many Requests, slow down": 4, "500 internal server error": 4,
		"403 Blocked": 2, "503 Overloaded": 2, "407 ": 2, "407": 2, "418 5": 2,
	} {
		for _, method := range []string{"GET", "POST"} {
			for name, rules := range map[string]func(steadyhttp.Attempt) steadyhttp.Verdict{"nil": nil, "Rules": (&steadyhttp.Rules{}).Classify} {
				t.Run(line+" "+method+" "+name, func(t *testing.T) {
					proxy := newWireServer(t, func(c *wireConn) {
						c.head()
						c.answer("HTTP/1.1 "+line, "Content-Length: 0", "", "")
					})
					base := newWireBase(t)
					proxyURL, err := url.Parse(proxy.url)
					if err != nil {
						t.Fatal(err)
					}
					base.Proxy = http.ProxyURL(proxyURL)
					var attempts wireLog
					transport := &steadyhttp.Transport{Base: base, Policy: atOnce(), Trace: attempts.trace(), Classify: rules}
					if _, err := transport.RoundTrip(wireRequest(t, method, "https://api.example/", "")); len(attempts.all()) != want {
						t.Errorf("%d attempts, want %d: %v", len(attempts.all()), want, err)
					}
				})
			}
		}
	}
}

// Errors of Prepare and GetBody that say that they are final end the call at once.
func TestFinalErrorOfAHook(t *testing.T) {
	for name, err := range map[string]error{
		"permanent": fmt.Errorf("a: %w", backoff.Permanent(io.EOF)), "not retriable": finalError{}, "400": statusError(400),
		"alert": &net.OpError{Op: "remote error", Err: tls.AlertError(42)},
	} {
		t.Run("Prepare "+name, inBubble(func(t *testing.T) {
			asked := 0
			base := newScript(answers(200, ""))
			_, got := (&steadyhttp.Transport{Base: base, Prepare: func(*http.Request, *steadyhttp.Attempt) error {
				asked++
				return err
			}}).RoundTrip(newRequest(t, "GET", ""))
			if asked != 1 || base.sent() != 0 || !errors.Is(got, err) || !errors.Is(got, steadyhttp.ErrNotSent) {
				t.Errorf("asked %d times, sent %d: %v", asked, base.sent(), got)
			}
		}))
		t.Run("GetBody "+name, inBubble(func(t *testing.T) {
			asked := 0
			base := newScript(failsWith(trReset))
			req := newRequest(t, "PUT", "content")
			req.GetBody = func() (io.ReadCloser, error) {
				asked++
				return nil, err
			}
			_, got := (&steadyhttp.Transport{Base: base}).RoundTrip(req)
			if asked != 1 || base.sent() != 1 || !errors.Is(got, err) || !errors.Is(got, syscall.ECONNRESET) {
				t.Errorf("asked %d times, sent %d: %v", asked, base.sent(), got)
			}
		}))
	}
}

// The caller's own end of a call is neither the body's failure nor the base's.
func TestCancelledBodyIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		base := newScript(answers(200, ""))
		req := newRequest(t, "PUT", "").WithContext(ctx)
		req.Body, req.ContentLength = io.NopCloser(readFunc(func([]byte) (int, error) {
			cancel()
			return 0, ctx.Err()
		})), 10
		_, err := (&steadyhttp.Transport{Base: base}).RoundTrip(req)
		if e := errorOf(t, err); e.Stop != "cancelled" || base.sent() != 1 {
			t.Errorf("%q, sent %d times: %v", e.Stop, base.sent(), err)
		}
	})
}
