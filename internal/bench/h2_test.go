package bench

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An HTTP/2 server that says what a real one would say only under load or on its way down.

const (
	codeNo              = http2.ErrCodeNo
	codeProtocol        = http2.ErrCodeProtocol
	codeInternal        = http2.ErrCodeInternal
	codeRefusedStream   = http2.ErrCodeRefusedStream
	codeCancel          = http2.ErrCodeCancel
	codeEnhanceYourCalm = http2.ErrCodeEnhanceYourCalm

	// h2Tries is how often net/http sends a request that is refused, waiting 1, 2, 4, 8, 16 and 32
	// s in between.
	h2Tries = 8
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// h2conn is one connection of it.
type h2conn struct {
	net.Conn
	*http2.Framer
	n int // 1 for the first of the server

	mu     sync.Mutex // guards what follows
	fields bytes.Buffer
	hpack  *hpack.Encoder
}

// stream is one request, all of which has been read.
type stream struct {
	conn   *h2conn
	world  *world
	id     uint32
	method string
}

// serveH2 starts a server that speaks HTTP/2 at once (RFC 9113 section 3.3), and calls serve for
// each request, one at a time on each connection.
func (w *world) serveH2(serve func(*stream)) {
	w.http.Protocols = new(http.Protocols)
	w.http.Protocols.SetUnencryptedHTTP2(true)
	w.url = "http://" + w.listen(func(conn net.Conn, n int) { w.talk(conn, n, serve) })
}

// pipeH2 is serveH2 without sockets, for virtual time.
func (w *world) pipeH2(serve func(*stream)) {
	w.http.Protocols = new(http.Protocols)
	w.http.Protocols.SetUnencryptedHTTP2(true)
	w.url = "http://orders.test"
	n := 0
	w.http.DialContext = func(context.Context, string, string) (net.Conn, error) {
		n++
		ours, theirs := net.Pipe()
		// Neither end reads while it writes: the server's side must not have to wait.
		server := &queued{Conn: theirs, writes: make(chan []byte, 1000)}
		w.onClose(func() { ours.Close() })
		go func() {
			for b := range server.writes {
				theirs.Write(b)
			}
			theirs.Close()
		}()
		go func(n int) {
			defer close(server.writes)
			w.talk(server, n, serve)
		}(n)
		return ours, nil
	}
}

// queued is a connection whose Write returns at once.
type queued struct {
	net.Conn
	writes chan []byte
}

func (q *queued) Write(b []byte) (int, error) {
	q.writes <- bytes.Clone(b)
	return len(b), nil
}

func (w *world) talk(conn net.Conn, n int, serve func(*stream)) {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	c := &h2conn{Conn: conn, Framer: http2.NewFramer(conn, conn), n: n}
	c.hpack = hpack.NewEncoder(&c.fields)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if c.WriteSettings() != nil {
		return
	}
	open := make(map[uint32]*stream)
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				c.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				c.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			s := &stream{c, w, frame.StreamID, frame.PseudoValue("method")}
			if frame.StreamEnded() {
				serve(s)
			} else {
				open[s.id] = s
			}
		case *http2.DataFrame:
			if s := open[frame.StreamID]; s != nil && frame.StreamEnded() {
				delete(open, s.id)
				serve(s)
			}
		case *http2.GoAwayFrame:
			return
		}
	}
}

func (s *stream) reset(code http2.ErrCode) { s.conn.WriteRSTStream(s.id, code) }

func (s *stream) goAway(last uint32, code http2.ErrCode) { s.conn.WriteGoAway(last, code, nil) }

// carryOut counts the order, if it is one, and returns how many there were.
func (s *stream) carryOut() int64 {
	if s.method != http.MethodPost {
		return s.world.done.Load()
	}
	return s.world.done.Add(1)
}

// order carries out and answers.
func (s *stream) order() {
	s.carryOut()
	s.answer()
}

func (s *stream) answer() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.fields.Reset()
	s.conn.hpack.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	s.conn.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: s.conn.fields.Bytes(), EndHeaders: true, EndStream: true,
	})
}

// eachOnItsOwn gives each attempt a connection of its own, on which net/http replays nothing.
func (w *world) eachOnItsOwn() { w.base = onItsOwn{w.http} }

type onItsOwn struct{ t *http.Transport }

func (o onItsOwn) RoundTrip(req *http.Request) (*http.Response, error) {
	conn, err := o.t.NewClientConn(req.Context(), req.URL.Scheme, req.URL.Host)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	defer conn.Close()
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	// The answers here have no body.
	return resp, nil
}
