package defender

import (
	"net/http"
	"reflect"
)

// answeredError is a source's error whose type keeps the authority's answer, with what the root
// package asks of an error that is about one.
type answeredError struct {
	error
	status int
}

func (e answeredError) Unwrap() error       { return e.error }
func (e answeredError) HTTPStatusCode() int { return e.status }

// answered tells an authority that is overloaded from one that refuses: *oauth2.RetrieveError of
// golang.org/x/oauth2, which most programs fetch their tokens with, says it by its fields alone. A
// wrong secret is then not sent again, which would lock an application out, and a 503 outlasts a
// minute. What has another error in its chain that says so itself is left to that.
func answered(err error) error {
	if status := statusIn(err, maxChain); status >= http.StatusBadRequest {
		return answeredError{err, status}
	}
	return err
}

// maxChain bounds how deep a chain of errors is followed.
const maxChain = 32

// statusIn returns the status, 0 where nothing tells one, and -1 where an error says it itself.
func statusIn(err error, most int) int {
	if err == nil || most == 0 {
		return 0
	}
	switch err := err.(type) {
	case interface{ HTTPStatusCode() int }:
		return -1
	case interface{ Unwrap() error }:
		if status := statusIn(err.Unwrap(), most-1); status != 0 {
			return status
		}
	case interface{ Unwrap() []error }:
		for _, inner := range err.Unwrap() {
			if status := statusIn(inner, most-1); status != 0 {
				return status
			}
		}
	}
	value := reflect.ValueOf(err)
	if value.Kind() == reflect.Pointer && !value.IsNil() {
		value = value.Elem()
	}
	if value.Kind() != reflect.Struct {
		return 0
	}
	field := value.FieldByName("Response")
	if !field.IsValid() || !field.CanInterface() {
		return 0
	}
	resp, ok := field.Interface().(*http.Response)
	if !ok || resp == nil {
		return 0
	}
	// Entra answers its own passing trouble with a 400 too (reference-error-codes).
	code := value.FieldByName("ErrorCode")
	if code.IsValid() && code.Kind() == reflect.String && code.String() == "temporarily_unavailable" {
		return http.StatusServiceUnavailable
	}
	return resp.StatusCode
}
