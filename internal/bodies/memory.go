// Package bodies gives each attempt of a call a request body of its own.
package bodies

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// The types that io.NopCloser returns, by which net/http tells what is in memory, as we do.
var (
	nopCloser         = reflect.TypeOf(io.NopCloser(nil))
	nopCloserWriterTo = reflect.TypeOf(io.NopCloser(struct {
		io.Reader
		io.WriterTo
	}{}))
)

// InMemory reports whether a body is one that net/http knows to be in memory.
func InMemory(body io.ReadCloser) bool { return Memory(body) != nil }

// Reader is a body's reader in memory.
type Reader interface {
	io.Reader
	Len() int
}

// Memory returns the reader in memory that a body is made of, or nil.
func Memory(body io.ReadCloser) Reader {
	if t := reflect.TypeOf(body); t != nopCloser && t != nopCloserWriterTo {
		return nil
	}
	switch r := reflect.ValueOf(body).Field(0).Interface().(type) {
	case *bytes.Reader:
		return r
	case *strings.Reader:
		return r
	case *bytes.Buffer:
		return r
	}
	return nil
}

// Copy returns another reader of what is left in a body in memory, and any other body as it is.
// Reading the one leaves the other alone, and net/http sends either along with its headers.
func Copy(body io.ReadCloser) io.ReadCloser {
	switch r := Memory(body).(type) {
	case *bytes.Reader:
		own := *r
		return io.NopCloser(&own)
	case *strings.Reader:
		own := *r
		return io.NopCloser(&own)
	case *bytes.Buffer:
		return io.NopCloser(bytes.NewReader(r.Bytes()))
	}
	return body
}

// MakesReaders reports whether getBody is http.NewRequest's, which makes a new reader each time, so
// that no two attempts can meet in one.
func MakesReaders(getBody func() (io.ReadCloser, error)) bool {
	if getBody == nil {
		return false
	}
	code := reflect.ValueOf(getBody).Pointer()
	return code == readerMakers.bytes || code == readerMakers.string || code == readerMakers.buffer
}

var readerMakers = struct{ bytes, string, buffer uintptr }{
	makerFor(bytes.NewReader([]byte{0})), makerFor(strings.NewReader("x")), makerFor(bytes.NewBufferString("x")),
}

func makerFor(body io.Reader) uintptr {
	req, err := http.NewRequest(http.MethodPost, "http://localhost/", body)
	if err != nil {
		return 0
	}
	return reflect.ValueOf(req.GetBody).Pointer()
}

// Renew returns what getBody does, if that is either a body or an error.
func Renew(getBody func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	body, err := getBody()
	if err == nil && body == nil {
		err = errors.New("steadyhttp: Request.GetBody returned neither a body nor an error")
	}
	return body, err
}

// Apart keeps what attempts read apart from what getBody rewinds: an answer may come, over HTTP/2,
// before the body of its request was read.
func Apart(getBody func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		body, err := Renew(getBody)
		if err != nil {
			return nil, err
		}
		return Copy(body), nil
	}
}
