package neterr

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cenkalti/backoff/v4"
)

// marked is as the Azure SDK for Go marks its errors.
type marked struct{ error }

func (marked) NonRetriable() {}

// times is a timeout, as it says.
type times struct{ out bool }

func (t times) Error() string { return "times" }
func (t times) Timeout() bool { return t.out }

// odd is an error of a type that nobody knows.
type odd struct{ text string }

func (e odd) Error() string { return e.text }

// wrapped returns an error as it comes, and as others wrap it.
func wrapped(err error) map[string]error {
	return map[string]error{
		"bare": err, "in %w": fmt.Errorf("call: %w", err),
		"in a url.Error": &url.Error{Op: "Get", Err: err},
	}
}

var refusedDial = &net.OpError{
	Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
}

// A type says whether an error would come again, however it is wrapped.
func TestKindByType(t *testing.T) {
	final := func(err error) Kind {
		if Final(err) {
			return Lasting
		}
		return Of(err)
	}
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, Lasting},
		{x509.UnknownAuthorityError{}, Lasting},
		{x509.HostnameError{Certificate: &x509.Certificate{}}, Lasting},
		{x509.CertificateInvalidError{Cert: &x509.Certificate{}}, Lasting},
		{x509.SystemRootsError{}, Lasting},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, Lasting},
		{&tls.ECHRejectionError{}, Lasting},
		{tls.AlertError(40), Lasting}, {&net.AddrError{Err: "missing port"}, Lasting},
		{backoff.Permanent(io.EOF), Lasting}, {marked{io.ErrUnexpectedEOF}, Lasting},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}, Lasting},
		{&net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}, Lasting},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, Lasting},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, Lasting},
		{&net.DNSError{Err: "server misbehaving", IsTemporary: true}, Passing},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, Passing},
		{refusedDial, Passing}, {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, Passing},
		{syscall.ECONNRESET, Passing}, {syscall.EPIPE, Passing},
		{io.EOF, Passing}, {io.ErrUnexpectedEOF, Passing}, {net.ErrClosed, Passing},
		{context.DeadlineExceeded, Passing}, {os.ErrDeadlineExceeded, Passing}, {times{true}, Passing},
		{streamError{Code: 2, Cause: errors.New("received from peer")}, Passing},
		{streamError{Code: 1, Cause: errors.New("net/http: server response headers exceeded 9 bytes")}, Lasting},
		{times{false}, Unknown}, {errors.New("odd"), Unknown}, {odd{"odd"}, Unknown},
	} {
		for how, err := range wrapped(c.err) {
			if got := final(err); got != c.want {
				t.Errorf("%T, %v %s: %d, want %d", c.err, c.err, how, got, c.want)
			}
		}
	}
}

// What net/http says by texts alone is known by how they begin, wherever in the chain they are.
func TestKindByText(t *testing.T) {
	for text, want := range map[string]Kind{
		"http: server closed idle connection":                               Passing,
		"net/http: HTTP/1.x transport connection broken: unexpected EOF":    Passing,
		"http2: client conn not usable":                                     Passing,
		"http2: server sent GOAWAY and closed the connection":               Passing,
		"http2: Transport received Server's graceful shutdown GOAWAY":       Passing,
		"stream error: stream ID 3; INTERNAL_ERROR":                         Passing,
		"tls: protocol is shutdown":                                         Unknown,
		"tls: first record does not look like a TLS handshake":              Lasting,
		"tls: failed to verify certificate":                                 Lasting,
		"http: ContentLength=5 with Body length 3":                          Lasting,
		"http: Request.RequestURI can't be set in client requests":          Lasting,
		"http: invalid Host header":                                         Lasting,
		"http: no Host in request URL":                                      Lasting,
		"net/http: can't write control character in Request.URL":            Lasting,
		"http2: request body larger than specified content length":          Lasting,
		"http2: could not negotiate protocol mutually":                      Lasting,
		"request header list larger than peer's advertised limit":           Lasting,
		`invalid HTTP header name "a b"`:                                    Lasting,
		`invalid Trailer key "X"`:                                           Lasting,
		"invalid request :path \"x\" from URL.Opaque":                       Lasting,
		"net/http: server response headers exceeded 1048576 bytes; aborted": Lasting,
		"http2: response header list larger than advertised limit":          Lasting,
		"Forbidden":             Lasting,
		"Bad Gateway":           Passing,
		"Service Unavailable":   Passing,
		"Too Many Requests":     Passing,
		"Not Implemented":       Lasting,
		"forbidden":             Unknown, // a phrase of its own: see OfPhrase
		"OK":                    Unknown,
		"odd: stream error: no": Unknown,
		"":                      Unknown,
	} {
		for how, err := range wrapped(errors.New(text)) {
			if got := Of(err); got != want {
				t.Errorf("%q %s: %d, want %d", text, how, got, want)
			}
		}
	}
	// It closes the connection for what it refuses.
	lost := fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w",
		errors.New("http: ContentLength=5 with Body length 3"))
	if got := Of(lost); got != Lasting {
		t.Errorf("%v: %d", lost, got)
	}
}

// A status says whether it would come again; the phrase of a proxy says which status it stands for.
func TestKindByStatus(t *testing.T) {
	for status, want := range map[int]Kind{
		400: Lasting, 403: Lasting, 404: Lasting, 407: Lasting, 408: Passing, 429: Passing, 499: Lasting,
		500: Passing, 501: Lasting, 502: Passing, 503: Passing, 504: Passing, 505: Lasting, 599: Passing,
	} {
		if got := OfStatus(status); got != want {
			t.Errorf("%d: %d, want %d", status, got, want)
		}
	}
	for phrase, want := range map[string]Kind{
		"Forbidden": Lasting, "forbidden by policy": Lasting, "FORBIDDEN": Lasting,
		"Proxy-Authentication-Required (ACME)": Lasting, "Service unavailable, try later": Passing,
		"Bad gateway": Passing, "Gateway Time-out": Passing, "Request  Timeout": Passing,
		"HTTP Version Not Supported": Lasting,
		"Not Implemented here":       Lasting,
		"Internal Server Error":      Passing,
		"":                           Unknown, "503": Unknown, "policy: Forbidden": Unknown, "OK": Unknown, "\xff\x00": Unknown,
		strings.Repeat("-", maxPhrase) + "Forbidden": Unknown,
	} {
		if got := OfPhrase(phrase); got != want {
			t.Errorf("%q: %d, want %d", phrase, got, want)
		}
	}
}

// FuzzOfPhrase: case, punctuation and what follows a known phrase make no difference.
func FuzzOfPhrase(f *testing.F) {
	for _, s := range []string{
		"Forbidden", "Bad-Gateway", "", "\xff", "not implemented!", "Request Timeoutabc",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, phrase string) {
		got := OfPhrase(phrase)
		if got > Lasting {
			t.Errorf("%q: %d", phrase, got)
		}
		if len(phrase) < maxPhrase/2 {
			spaced := strings.ToUpper("- " + strings.Map(func(r rune) rune {
				if r > 127 {
					return -1
				}
				return r
			}, phrase))
			if letters(phrase) == letters(strings.ToLower(spaced)) && OfPhrase(spaced) != got {
				t.Errorf("%q: %d, %q: %d", phrase, got, spaced, OfPhrase(spaced))
			}
		}
	})
}

// Only what nobody wrapped, and what failed before there was a connection, was never sent.
func TestNeverSent(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{refusedDial, true},
		{&net.OpError{Op: "proxyconnect", Err: io.EOF}, true},
		{&net.DNSError{}, true},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, false}, {syscall.ECONNREFUSED, false},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, false},
		{io.EOF, false},
		{errors.New("dial"), false},
		{fmt.Errorf("retried 3 times: %w", refusedDial), false},
		{&url.Error{Err: &net.DNSError{}}, false},
		{nil, false},
	} {
		if got := NeverSent(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// HTTP/2 vouches for some requests that they were not carried out, and for no others.
func TestUnprocessed(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{streamError{Code: refusedStream, Cause: io.EOF}, true},
		{streamError{Code: 2, Cause: errors.New("stream error: stream ID 1; REFUSED_STREAM")}, false},
		{errors.New("http2: Transport received Server's graceful shutdown GOAWAY"), true},
		{errors.New("http2: Transport received GOAWAY from server ErrCode:NO_ERROR"), true},
		{errors.New("http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY] " +
			"after Request.Body was written; define Request.GetBody to avoid this error"), true},
		{errors.New("http2: Transport: cannot retry err [stream error: stream ID 5; REFUSED_STREAM] after"), true},
		{errors.New("stream error: stream ID 5; REFUSED_STREAM; received from peer"), true},
		{errors.New("stream error: stream ID 5; INTERNAL_ERROR; received from peer"), false},
		{errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1"), false},
		{errors.New("http2: client connection lost"), false},
		{errors.New("REFUSED_STREAM"), false}, {io.EOF, false}, {nil, false},
	} {
		for how, err := range wrapped(c.err) {
			if c.err != nil && Unprocessed(err) != c.want {
				t.Errorf("%v %s: %v", c.err, how, !c.want)
			}
		}
	}
	if Unprocessed(nil) {
		t.Error("nothing is vouched for")
	}
}

// An answer's head that is too long is one that came, and nothing else is.
func TestUnread(t *testing.T) {
	for text, want := range map[string]bool{
		"net/http: server response headers exceeded 1048576 bytes; aborted": true,
		"http2: response header list larger than advertised limit":          true,
		"request header list larger than peer's advertised limit":           false,
		"EOF": false,
	} {
		for how, err := range wrapped(errors.New(text)) {
			if Unread(err) != want {
				t.Errorf("%q %s: %v", text, how, !want)
			}
		}
		if Unread(fmt.Errorf("call: %w", streamError{Cause: errors.New(text)})) != want {
			t.Errorf("%q of a stream: %v", text, !want)
		}
	}
	if Unread(nil) || Unread(streamError{Code: 1, Cause: io.EOF}) {
		t.Error("what was not an answer was one")
	}
}

// A timeout is one wherever it is in the chain, also behind errors that ask only what they wrap.
func TestTimeout(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{context.DeadlineExceeded, true}, {os.ErrDeadlineExceeded, true}, {times{true}, true},
		{fmt.Errorf("b: %w", fmt.Errorf("a: %w", context.DeadlineExceeded)), true},
		{errors.Join(io.EOF, os.ErrDeadlineExceeded), true},
		{times{false}, false}, {context.Canceled, false}, {io.EOF, false}, {nil, false},
	} {
		if got := Timeout(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
		if c.err != nil && Timeout(&url.Error{Op: "Get", Err: fmt.Errorf("c: %w", c.err)}) != c.want {
			t.Errorf("%v behind a url.Error: %v", c.err, !c.want)
		}
	}
}

// Is looks for a type, PlainText for the lack of one, and Distrust for those of trust.
func TestTypes(t *testing.T) {
	if !Is[*net.OpError](fmt.Errorf("a: %w", refusedDial)) || Is[*net.OpError](io.EOF) ||
		Is[*net.OpError](nil) {
		t.Error("Is")
	}
	if !PlainText(errors.New("x")) || PlainText(fmt.Errorf("x: %w", io.EOF)) || PlainText(odd{"x"}) ||
		PlainText(nil) {
		t.Error("PlainText")
	}
	if Distrust(tls.AlertError(40)) || Distrust(io.EOF) || Distrust(nil) ||
		!Distrust(&url.Error{Err: x509.UnknownAuthorityError{}}) {
		t.Error("Distrust")
	}
}

// sent reports whether net/http sends a request, rather than refuse it.
func sent(t *testing.T, base *http.Transport, req *http.Request) bool {
	t.Helper()
	resp, err := base.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	return err == nil
}

// What net/http refuses to send is told beforehand, and what it sends is not.
func TestUnsendable(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	base := server.Client().Transport.(*http.Transport)
	for name, change := range map[string]func(*http.Request){
		"as it is":           func(*http.Request) {},
		"no method":          func(req *http.Request) { req.Method = "" },
		"odd method":         func(req *http.Request) { req.Method = "M-SEARCH!" },
		"space in a method":  func(req *http.Request) { req.Method = "GE T" },
		"accent in a method": func(req *http.Request) { req.Method = "GÉT" },
		"no URL":             func(req *http.Request) { req.URL = nil },
		"no host":            func(req *http.Request) { req.URL.Host = "" },
		"another scheme":     func(req *http.Request) { req.URL.Scheme = "ftp" },
		"no scheme":          func(req *http.Request) { req.URL.Scheme = "" },
		"port too high":      func(req *http.Request) { req.URL.Host = "127.0.0.1:65536" },
		"tab in a field":     func(req *http.Request) { req.Header.Set("X", "a\tb") },
		"line end":           func(req *http.Request) { req.Header.Set("X", "a\nb") },
		"DEL":                func(req *http.Request) { req.Header.Set("X", "a\x7fb") },
		"bytes above":        func(req *http.Request) { req.Header.Set("X", "a\xffb") },
		"space in a name":    func(req *http.Request) { req.Header["X Y"] = []string{"z"} },
		"empty name":         func(req *http.Request) { req.Header[""] = []string{"z"} },
		"second value":       func(req *http.Request) { req.Header["X"] = []string{"z", "\x00"} },
		"bad trailer": func(req *http.Request) {
			req.Trailer = http.Header{"A B": nil}
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader("x")), -1
		},
	} {
		req, err := http.NewRequest(http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		if got, want := Unsendable(req), !sent(t, base, req); got != want {
			t.Errorf("%s: %v, and net/http refuses it: %v", name, got, want)
		}
	}
}

// FuzzUnsendable: what is said to be unsendable in a header net/http never sends.
func FuzzUnsendable(f *testing.F) {
	f.Add("GET", "X-Name", "value")
	f.Add("G\tT", "a b", "\x00")
	f.Fuzz(func(t *testing.T, method, name, value string) {
		req := &http.Request{
			Method: method, URL: &url.URL{Scheme: "http", Host: "127.0.0.1:1"},
			Header: http.Header{name: {value}},
		}
		dialled := errors.New("dialled")
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, dialled
		}}
		if _, err := base.RoundTrip(req); Unsendable(req) == errors.Is(err, dialled) {
			t.Errorf("%q %q: %q: %v, and net/http comes to %v", method, name, value, Unsendable(req), err)
		}
	})
}

// deaf takes nothing more once it is dead.
type deaf struct {
	net.Conn
	dead atomic.Bool
}

func (d *deaf) Write(p []byte) (int, error) {
	if d.dead.Load() {
		return 0, syscall.EPIPE
	}
	return d.Conn.Write(p)
}

// nothingWrittenError has the name of net/http's own.
type nothingWrittenError struct{ error }

// net/http vouches that nothing was written where a kept connection broke before it wrote.
func TestNothingWritten(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	conn := &deaf{Conn: client}
	base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return conn, nil
	}}
	go func() {
		lines := textproto.NewReader(bufio.NewReader(server))
		for line := "x"; line != ""; line, _ = lines.ReadLine() {
		}
		io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}()
	request := func(body string) *http.Request {
		req, err := http.NewRequest(http.MethodPost, "http://api.example/",
			io.NopCloser(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = int64(len(body))
		return req
	}
	if !sent(t, base, request("")) {
		t.Fatal("no answer")
	}
	req := request("content") // without GetBody: net/http can't send it again
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { conn.dead.Store(true) }, // before it writes
	}))
	_, err := base.RoundTrip(req)
	if !NothingWritten(err) || !NothingWritten(fmt.Errorf("call: %w", err)) {
		t.Errorf("%T %v is not known", err, err)
	}
	if NothingWritten(nil) || NothingWritten(io.EOF) || NothingWritten(nothingWrittenError{io.EOF}) {
		t.Error("what net/http does not vouch for is known")
	}
}
