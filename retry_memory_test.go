package steadyhttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Memory: a call that waits for its retry holds the answer, and nothing of the connection that it
// came on. net/http's buffers of one are 8 KiB, and TLS has more; of a thousand calls that wait
// most have had a connection of their own, which is closed by then.
func TestWaitingCallHoldsNoConnection(t *testing.T) {
	small := `{"error":{"code":"TooManyRequests","message":"later"}}`
	gated := func(rt *steadyhttp.Transport) { rt.Gates = []steadyhttp.Gate{steadyhttp.Limit(nil)} }
	traced := func(rt *steadyhttp.Transport) {
		rt.Trace = &steadyhttp.Trace{AttemptDone: func(context.Context, steadyhttp.Attempt) {}}
	}
	for _, tt := range []struct {
		name, method, body string
		tls                bool
		set                func(rt *steadyhttp.Transport)
	}{
		{"GET", "GET", small, false, nil},
		{"GET over TLS", "GET", small, true, nil},
		{"GET with no body in its answer", "GET", "", false, nil},
		{"GET with more than is peeked", "GET", strings.Repeat("x", 100<<10), false, nil},
		{"POST", "POST", small, false, nil},
		{"PUT", "PUT", small, true, nil},
		{"GET behind a gate", "GET", small, false, gated},
		{"GET behind a gate over TLS", "GET", small, true, gated},
		{"POST behind a gate", "POST", small, false, gated},
		{"POST behind a gate over TLS", "POST", small, true, gated},
		{"with a trace", "GET", small, false, traced},
		{"POST with a trace over TLS", "POST", small, true, traced},
		{"with AttemptTimeout", "GET", small, false, func(rt *steadyhttp.Transport) { rt.Policy.AttemptTimeout = time.Minute }},
		{"with Classify", "GET", small, false, func(rt *steadyhttp.Transport) { rt.Classify = (&steadyhttp.Rules{}).Classify }},
		{"with another base", "GET", small, false, func(rt *steadyhttp.Transport) { rt.Base = plainBase{rt.Base} }},
		{"POST with another base over TLS", "POST", small, true, func(rt *steadyhttp.Transport) { rt.Base = plainBase{rt.Base} }},
		{"with another Transport below", "GET", small, false, func(rt *steadyhttp.Transport) {
			rt.Base = &steadyhttp.Transport{Base: rt.Base, Policy: steadyhttp.Policy{MaxAttempts: 1}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Retry-After", "59")
				w.WriteHeader(http.StatusTooManyRequests)
				io.WriteString(w, tt.body)
			}))
			if tt.tls {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			freed := make(chan struct{})
			base := server.Client().Transport.(*http.Transport).Clone()
			defer base.CloseIdleConnections()
			base.DisableKeepAlives = true
			base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				var d net.Dialer
				c, err := d.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				watched := &dialled{c}
				runtime.AddCleanup(watched, func(freed chan struct{}) { close(freed) }, freed)
				return watched, nil
			}
			rt := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxWait: time.Hour}}
			if tt.set != nil {
				tt.set(rt)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				req, err := http.NewRequestWithContext(ctx, tt.method, server.URL, strings.NewReader("order"))
				if err != nil {
					ended <- err
					return
				}
				resp, err := (&http.Client{Transport: rt}).Do(req)
				if err == nil {
					resp.Body.Close()
				}
				ended <- err
			}()
			for tries := 0; ; tries++ {
				runtime.GC()
				select {
				case <-freed:
				case err := <-ended:
					t.Fatalf("the call has ended: %v", err)
				case <-time.After(10 * time.Millisecond):
					if tries < 500 {
						continue
					}
					t.Error("the connection is still held 5 s later")
				}
				break
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("%v, not cancelled while it waited", err)
			}
		})
	}
}

// dialled is a connection that can be seen to be let go.
type dialled struct{ net.Conn }

type plainBase struct{ http.RoundTripper }
