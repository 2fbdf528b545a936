package field

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// service is a base transport without a network: it plays its answers one after the other, the last
// one for ever, and notes what was sent.
type service struct {
	answers []answer

	mu     sync.Mutex // guards what follows
	sends  []sending
	bodies []*body
}

// answer is one of a service's.
type answer struct {
	status int
	header http.Header
	text   string
	body   io.Reader                       // in place of text
	bodyOf func(context.Context) io.Reader // the same, ended by its request's context
	err    error                           // in place of an answer
	after  time.Duration                   // how long it takes
	hang   bool                            // it never comes
	unread bool                            // the request's body is not read before it comes
}

// sending is one request as it reached the service.
type sending struct {
	at     time.Time
	req    *http.Request
	header http.Header
	body   string
	err    error // of reading the body
}

func serve(answers ...answer) *service { return &service{answers: answers} }

// times repeats an answer and has others follow.
func times(n int, a answer, then ...answer) []answer {
	var list []answer
	for range n {
		list = append(list, a)
	}
	return append(list, then...)
}

func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := context.Cause(req.Context()); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err // as http.Transport does
	}
	s.mu.Lock()
	a := s.answers[min(len(s.sends), len(s.answers)-1)]
	i := len(s.sends)
	s.sends = append(s.sends, sending{at: time.Now(), req: req, header: req.Header.Clone()})
	s.mu.Unlock()
	if req.Body != nil && !a.unread {
		b, err := io.ReadAll(req.Body)
		s.mu.Lock()
		s.sends[i].body, s.sends[i].err = string(b), err
		s.mu.Unlock()
		if err != nil {
			req.Body.Close()
			return nil, err
		}
	}
	if req.Body != nil {
		req.Body.Close()
	}
	var late <-chan time.Time
	if !a.hang {
		timer := time.NewTimer(a.after)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	case <-late:
	}
	if a.err != nil {
		return nil, a.err
	}
	b := &body{Reader: bytes.NewReader([]byte(a.text)), closed: make(chan struct{})}
	if a.bodyOf != nil {
		a.body = a.bodyOf(req.Context())
	}
	if a.body != nil {
		b.Reader = a.body
	}
	s.mu.Lock()
	s.bodies = append(s.bodies, b)
	s.mu.Unlock()
	resp := &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Header: http.Header{}, Body: b,
		Request: req,
		Proto:   "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(a.text)),
	}
	if a.body != nil {
		resp.ContentLength = -1
	}
	for name, values := range a.header {
		resp.Header[name] = values
	}
	return resp, nil
}

// gaps are the times between the sendings.
func (s *service) gaps() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []time.Duration
	for i := 1; i < len(s.sends); i++ {
		list = append(list, s.sends[i].at.Sub(s.sends[i-1].at))
	}
	return list
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sends)
}

func (s *service) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, b := range s.bodies {
		select {
		case <-b.closed:
		default:
			n++
		}
	}
	return n
}

// body counts what is read of it, and whether it is closed.
type body struct {
	io.Reader
	mu     sync.Mutex // guards read
	read   int64
	once   sync.Once
	closed chan struct{}
}

func (b *body) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, errors.New("http: read on closed response body")
	default:
	}
	n, err := b.Reader.Read(p)
	b.mu.Lock()
	b.read += int64(n)
	b.mu.Unlock()
	return n, err
}

func (b *body) Close() error {
	b.once.Do(func() { close(b.closed) })
	if c, ok := b.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (b *body) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// bytesOf is a body that has n bytes.
type bytesOf struct{ n int64 }

func (b *bytesOf) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), b.n)
	b.n -= n
	return int(n), nil
}

func fields(pairs ...string) http.Header {
	h := make(http.Header)
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}
