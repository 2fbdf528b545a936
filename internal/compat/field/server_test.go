package field

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// server is a real one, with a base transport of its own.
type server struct {
	base *http.Transport
	url  string

	mu       sync.Mutex // guards requests
	requests []*http.Request
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// newServer starts a server over plain HTTP, whose handler is told the request's number, from 1.
func newServer(t *trial, handle func(n int, w http.ResponseWriter, r *http.Request)) *server {
	return startServer(t, handle, (*httptest.Server).Start)
}

func startServer(
	t *trial, handle func(n int, w http.ResponseWriter, r *http.Request), start func(*httptest.Server),
) *server {
	s := &server{base: &http.Transport{}}
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		n := len(s.requests)
		s.mu.Unlock()
		handle(n, w, r)
	}))
	h.Config.ErrorLog = quiet()
	start(h)
	s.url = h.URL
	if h.TLS != nil {
		s.base.TLSClientConfig = h.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	}
	t.Cleanup(func() {
		s.base.CloseIdleConnections()
		h.CloseClientConnections()
		h.Close()
	})
	return s
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *server) each(check func(*http.Request) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if err := check(r); err != nil {
			return err
		}
	}
	return nil
}

// listener calls serve for each connection, counted from 1, and closes it then.
type listener struct {
	net.Listener
	mu    sync.Mutex // guards n
	n     int
	conns []net.Conn
}

func listen(t *trial, serve func(n int, conn net.Conn)) *listener {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{Listener: raw}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := raw.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.n++
			n := l.n
			l.conns = append(l.conns, conn)
			l.mu.Unlock()
			serving.Go(func() {
				defer conn.Close()
				serve(n, conn)
			})
		}
	})
	t.Cleanup(func() {
		raw.Close()
		l.mu.Lock()
		for _, conn := range l.conns {
			conn.Close()
		}
		l.mu.Unlock()
		serving.Wait()
	})
	return l
}

func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *listener) url() string { return "http://" + l.Addr().String() }

func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// stream is one request of HTTP/2, all of which has been read.
type stream struct {
	conn  net.Conn
	on    *http2.Framer
	n     int // the connection's number, from 1
	id    uint32
	order bool // a POST
}

// h2 starts a server that speaks HTTP/2 at once (RFC 9113 section 3.3), and calls serve for each
// request, one at a time on each connection.
func h2(t *trial, serve func(*stream)) (base *http.Transport, url string) {
	l := listen(t, func(n int, conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(conn, conn)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		framer.WriteSettings()
		open := make(map[uint32]*stream)
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					framer.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				s := &stream{conn, framer, n, frame.StreamID, frame.PseudoValue("method") == "POST"}
				open[s.id] = s
				if frame.StreamEnded() {
					serve(s)
				}
			case *http2.DataFrame:
				if s := open[frame.StreamID]; s != nil && frame.StreamEnded() {
					serve(s)
				}
			case *http2.GoAwayFrame:
				return
			}
		}
	})
	base = &http.Transport{Protocols: new(http.Protocols)}
	base.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(base.CloseIdleConnections)
	return base, l.url()
}

// answer is a 200 without a body.
func (s *stream) answer() {
	var fields bytes.Buffer
	hpack.NewEncoder(&fields).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	s.on.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: fields.Bytes(), EndHeaders: true, EndStream: true,
	})
}
