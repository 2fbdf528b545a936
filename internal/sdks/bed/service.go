package bed

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Service answers a call's requests with its failures, one after the other, and then with success.
type Service struct {
	*httptest.Server
	t       *testing.T
	sdk     *SDK
	forever bool // the last failure is repeated
	early   bool // failures are answered before the body is read

	mu       sync.Mutex      // guards what follows
	ours     map[string]bool // the client's ends of its connections
	failures []Failure
	got      []Request
}

// Request is one that has come.
type Request struct {
	At     time.Time
	Method string
	URI    string
	Header http.Header
	Raw    []byte
	err    error
}

// NewService starts a service, of HTTP/2 over TLS if h2.
func NewService(t *testing.T, s *SDK, h2 bool, failures ...Failure) *Service {
	v := &Service{t: t, sdk: s, failures: slices.Clone(failures)}
	v.Server = httptest.NewUnstartedServer(v)
	v.Config.ErrorLog = log.New(io.Discard, "", 0) // an SDK may try TLS where there is none
	if h2 || s.TLS {
		v.EnableHTTP2 = h2
		v.StartTLS()
	} else {
		v.Start()
	}
	t.Cleanup(v.Close)
	v.ours = make(map[string]bool)
	client := v.Client().Transport.(*http.Transport)
	dial := client.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	client.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			v.mu.Lock()
			v.ours[conn.LocalAddr().String()] = true
			v.mu.Unlock()
		}
		return conn, err
	}
	return v
}

func (v *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	ours := v.ours[r.RemoteAddr]
	v.mu.Unlock()
	if !ours {
		// Another test on this machine calls a port that was its own, or that nobody had.
		v.t.Logf("%s %s is somebody else's", r.Method, r.URL)
		w.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	if v.sdk.Counts != nil && !v.sdk.Counts(r) {
		io.Copy(io.Discard, r.Body)
		v.sdk.Serve(w, r, nil)
		return
	}
	req := Request{
		At: time.Now(), Method: r.Method, URI: r.URL.RequestURI(), Header: r.Header.Clone(),
	}
	v.mu.Lock()
	var f *Failure
	if len(v.failures) > 0 {
		first := v.failures[0]
		f = &first
		if !v.forever {
			v.failures = v.failures[1:]
		}
	}
	v.mu.Unlock()
	if f == nil || !v.early {
		req.Raw, req.err = io.ReadAll(r.Body)
	}
	v.mu.Lock()
	v.got = append(v.got, req)
	v.mu.Unlock()
	if f != nil && f.After != "" {
		w.Header().Set("Retry-After", f.After)
	}
	r.Body = io.NopCloser(bytes.NewReader(req.Raw))
	v.sdk.Serve(w, r, f)
}

// Requests returns those of the call that have come.
func (v *Service) Requests() []Request {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.got)
}

// Checked returns them too, and checks that each has the call's body, byte for byte, and is on the
// wire as the first was. Early answers cut bodies short, all but the last.
func (v *Service) Checked(t *testing.T) []Request {
	t.Helper()
	all := v.Requests()
	for i, r := range all {
		if v.early && i < len(all)-1 {
			continue
		}
		got, err := r.Raw, error(nil)
		if v.sdk.Decoded != nil {
			got, err = v.sdk.Decoded(r.Header, r.Raw)
		}
		if err = cmp.Or(r.err, err); err != nil || !bytes.Equal(got, v.sdk.Body) {
			t.Errorf("request %d has a body of %d bytes that is not the one of %d: %v",
				i+1, len(got), len(v.sdk.Body), err)
		}
		if !v.early && !bytes.Equal(r.Raw, all[0].Raw) {
			t.Errorf("request %d has another body than the first on the wire", i+1)
		}
	}
	return all
}
