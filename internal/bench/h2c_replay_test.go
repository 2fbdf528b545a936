//lint:file-ignore SA1019 x/net's Transport is deprecated, and still many a base.

package bench

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// x/net's http2.Transport asks for a connection under its pool's lock, and without TLS nothing of the
// connection tells that it speaks HTTP/2: what it replays is counted, and holds up nobody.
func TestXNetReplaysDoNotWait(t *testing.T) {
	dial := func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	for name, wrap := range map[string]func(*http2.Transport) http.RoundTripper{
		"as the base": func(h2 *http2.Transport) http.RoundTripper { return h2 },
		"registered with net/http": func(h2 *http2.Transport) http.RoundTripper {
			outer := new(http.Transport)
			outer.RegisterProtocol("http", h2)
			return outer
		},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			refusing, other := newWorld(), newWorld()
			defer refusing.close()
			defer other.close()
			refusing.serveH2(func(s *stream) {
				if requests.Add(1) == 2 {
					s.reset(codeRefusedStream)
					return
				}
				s.answer()
			})
			other.serveH2(func(s *stream) { s.answer() })
			base := wrap(&http2.Transport{AllowHTTP: true, DialTLSContext: dial})
			q := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Hour}}}
			transport := &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{q}}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for range 2 {
				for url, rt := range map[string]http.RoundTripper{refusing.url: transport, other.url: base} {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
					if err != nil {
						t.Fatal(err)
					}
					resp, err := rt.RoundTrip(req)
					if err != nil {
						t.Fatalf("%v; %d requests, counted %+v", err, requests.Load(), q.State())
					}
					resp.Body.Close()
				}
			}
			if used := q.State().Windows[0].Used; requests.Load() != 3 || used != 3 {
				t.Errorf("%d requests, counted as %d", requests.Load(), used)
			}
		})
	}
}
