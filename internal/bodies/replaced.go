package bodies

import (
	"io"
	"net/http"
	"reflect"
)

// Replaced reports whether a body is another than the one given. Two of an incomparable type can't
// be told apart: then it is taken to be the one, which must not be closed before it is sent.
func Replaced(body, given io.ReadCloser) bool {
	t := reflect.TypeOf(body)
	if t != reflect.TypeOf(given) {
		return true
	}
	if t == nil || t.Kind() != reflect.Pointer && !(reflect.ValueOf(body).Comparable() && reflect.ValueOf(given).Comparable()) {
		return false
	}
	return body != given
}

// InPlaceOf returns a body that replaces the one given, and closes both: it may read that one, so
// that it can't be closed before. What is in memory, or nothing, reads no other.
func InPlaceOf(body, given io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody || InMemory(body) {
		given.Close()
		return body
	}
	if InMemory(given) {
		return body // there is nothing to close, and net/http looks at a body's type
	}
	return &replacement{body, given}
}

type replacement struct {
	io.ReadCloser
	given io.Closer
}

func (r *replacement) Close() error {
	defer r.given.Close() // also if the other panics
	return r.ReadCloser.Close()
}

// Again returns a GetBody for a body that has none of its own: nil where it can't be had twice.
func Again(body io.ReadCloser) func() (io.ReadCloser, error) {
	if !InMemory(body) {
		return nil
	}
	snapshot := Copy(body)
	return func() (io.ReadCloser, error) { return Copy(snapshot), nil }
}

// SameFunc reports whether two GetBodys have the same code, nil ones included. Closures can't be
// told apart any further.
func SameFunc(a, b func() (io.ReadCloser, error)) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// Released stands for a response's body that has been let go.
type Released struct{}

func (Released) Read([]byte) (int, error) { return 0, http.ErrBodyReadAfterClose }
func (Released) Close() error             { return nil }
