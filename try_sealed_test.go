package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Once it was said that nothing of an attempt left, nothing does: a base that gives up while
// net/http still looks for a connection leaves a sending behind, which comes too late.
func TestNothingLeavesAfterTheProofThatNothingDid(t *testing.T) {
	gaveUp := errors.New("gave up")
	for _, tt := range []struct {
		name string
		give func(late roundTripper, req *http.Request, sending <-chan struct{}) error
	}{
		{"a timeout of its own", func(late roundTripper, req *http.Request, sending <-chan struct{}) error {
			go late(req)
			<-sending
			return gaveUp
		}},
		{"the context goes on", func(late roundTripper, req *http.Request, sending <-chan struct{}) error {
			go late(req.WithContext(context.WithoutCancel(req.Context())))
			<-sending
			return gaveUp
		}},
		{"an error that says nothing was sent", func(late roundTripper, req *http.Request, sending <-chan struct{}) error {
			go late(req.WithContext(context.WithoutCancel(req.Context())))
			<-sending
			return trRefused
		}},
		{"a second try that fails first", func(late roundTripper, req *http.Request, sending <-chan struct{}) error {
			body, _ := io.ReadAll(req.Body)
			again := req.Clone(context.WithoutCancel(req.Context()))
			req.Body, again.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
			go late(again)
			<-sending
			refusing := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, trRefused }}
			_, err := refusing.RoundTrip(req)
			return err
		}},
	} {
		for _, secure := range []bool{false, true} {
			for _, gates := range [][]steadyhttp.Gate{nil, {steadyhttp.Limit(nil)}} {
				t.Run(fmt.Sprint(tt.name, ", secure ", secure, ", gates ", len(gates)), func(t *testing.T) {
					var orders atomic.Int64
					// The answer has a body: the connection is free for the first attempt once it is read.
					server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						io.Copy(io.Discard, r.Body)
						orders.Add(1)
						io.WriteString(w, "carried out")
					}))
					server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that nobody needs any more
					if secure {
						server.StartTLS()
					} else {
						server.Start()
					}
					defer server.Close()

					dialling, dial := make(chan struct{}), make(chan struct{})
					var dials atomic.Int64
					base := server.Client().Transport.(*http.Transport)
					base.ForceAttemptHTTP2 = false
					base.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
						if dials.Add(1) == 1 {
							close(dialling)
							<-dial
						}
						return net.Dial(network, server.Listener.Addr().String())
					}
					var late sync.WaitGroup
					defer base.CloseIdleConnections()
					n := 0
					wrapper := roundTripper(func(req *http.Request) (*http.Response, error) {
						if n++; n > 1 {
							return base.RoundTrip(req)
						}
						late.Add(1)
						return nil, tt.give(func(req *http.Request) (*http.Response, error) {
							defer late.Done()
							resp, err := base.RoundTrip(req)
							if err == nil {
								resp.Body.Close()
							}
							return resp, err
						}, req, dialling)
					})
					policy := atOnce()
					tr := &steadyhttp.Transport{Base: wrapper, Policy: policy, Gates: gates}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					req, err := http.NewRequestWithContext(ctx, "POST", server.URL, strings.NewReader("an order"))
					if err != nil {
						t.Fatal(err)
					}
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					readAll(t, resp)
					close(dial) // only now is there a connection for the first attempt
					late.Wait()
					if resp.StatusCode != 200 || n != 2 || orders.Load() != 1 {
						t.Errorf("status %d after %d attempts, carried out %d times", resp.StatusCode, n, orders.Load())
					}
				})
			}
		}
	}
}
