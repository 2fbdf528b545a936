package defender_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// retrieveError is *oauth2.RetrieveError of golang.org/x/oauth2, by its fields.
type retrieveError struct {
	Response         *http.Response
	Body             []byte
	ErrorCode        string
	ErrorDescription string
}

func (r *retrieveError) Error() string { return "oauth2: " + r.ErrorCode }

// An authority that refuses is asked once, and one that is overloaded for as long as the policy
// says, however the source wraps what it was told.
func TestTokenErrorsOfOAuth2AreToldApart(t *testing.T) {
	said := func(status int, code string) error {
		return &retrieveError{Response: &http.Response{StatusCode: status}, ErrorCode: code}
	}
	const many = 5 // or more, within the hour: beyond MaxAttempts, as after a 429
	for name, c := range map[string]struct {
		err   error
		asked int
	}{
		"refused connection": {refusing(), many},
		"wrong secret":       {said(401, "invalid_client"), 1},
		"no such tenant":     {said(400, "invalid_request"), 1},
		"not consented":      {said(400, "unauthorized_client"), 1},
		"forbidden":          {said(403, ""), 1},
		"overloaded":         {said(429, ""), many},
		"down":               {said(503, ""), many},
		"bad gateway":        {said(502, ""), many},
		"slow":               {said(504, ""), many},
		"passing":            {said(400, "temporarily_unavailable"), many},
		"wrapped":            {fmt.Errorf("token: %w", said(401, "invalid_client")), 1},
		"wrapped, down":      {fmt.Errorf("token: %w", said(503, "")), many},
		"joined":             {errors.Join(io.ErrNoProgress, said(401, "invalid_client")), 1},
		"joined, down":       {errors.Join(io.ErrNoProgress, said(503, "")), many},
		"by value":           {valueError{Response: &http.Response{StatusCode: 401}}, 1},
		"no answer":          {&retrieveError{}, 2},
		"around a nil slice": {(*retrieveError)(nil).orNil(), 2},
		"a nil pointer":      {(*hollowError)(nil), 1},
		"around one":         {fmt.Errorf("token: %w", (*hollowError)(nil)), 1},
		"a 200":              {said(200, "invalid_grant"), 2},
		"another field":      {otherError{"401"}, 2},
		"marked as lasting":  {backoff.Permanent(said(503, "")), 1},
		"its own status":     {fmt.Errorf("%w, %w", statusError(503), said(401, "")), many},
	} {
		synctest.Test(t, func(t *testing.T) {
			asked, sent := 0, 0
			tr := newTransport(t, defender.Config{
				Policy: steadyhttp.Policy{MaxAttempts: 4},
				Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					sent++
					return answer(req, 200, "{}")
				}),
				Token: func(context.Context) (string, time.Time, error) {
					asked++
					return "", time.Time{}, c.err
				},
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "POST", security+"/api/machines/m1/isolate", nil)
			_, err := tr.RoundTrip(req)
			if asked != c.asked && (c.asked < many || asked < many) || sent != 0 || !errors.Is(err, steadyhttp.ErrNotSent) {
				t.Errorf("%s: asked %d times, want %d; sent %d; %v", name, asked, c.asked, sent, err)
			}
		})
	}
}

type valueError struct{ Response *http.Response }

func (valueError) Error() string { return "value" }

type otherError struct{ Response string }

func (otherError) Error() string { return "other" }

// orNil keeps a nil pointer in an error, as functions do by mistake.
func (r *retrieveError) orNil() error {
	if r == nil {
		return &wrapsNil{}
	}
	return r
}

// hollowError can't be asked for anything where it is a nil pointer.
type hollowError struct{ err error }

func (e *hollowError) Error() string { return e.err.Error() }
func (e *hollowError) Unwrap() error { return e.err }

type wrapsNil struct{}

func (*wrapsNil) Error() string { return "wraps a typed nil" }
func (*wrapsNil) Unwrap() error { return nilError(nil) }

type nilError []byte

func (nilError) Error() string { return "nil" }
