package steadyhttp_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp"
)

// An error's text says a thing once: not "steadyhttp: 1 attempt: steadyhttp: …", and not
// "prepare failed: Prepare: …".
func TestErrorTextsSayAThingOnce(t *testing.T) {
	fails := func(err error) http.RoundTripper { return newScript(failsWith(err)) }
	prepare := func(from int, err error) func(*http.Request, *steadyhttp.Attempt) error {
		n := 0
		return func(*http.Request, *steadyhttp.Attempt) error {
			if n++; n < from {
				return nil
			}
			return err
		}
	}
	no := errors.New("no token")
	for _, tt := range []struct {
		name      string
		transport *steadyhttp.Transport
		want      string
	}{
		{"Prepare", &steadyhttp.Transport{Prepare: prepare(1, no)},
			"steadyhttp: 0 attempts, prepare failed: no token"},
		{"Prepare, wrapped", &steadyhttp.Transport{Prepare: prepare(1, fmt.Errorf("vault: %w", no))},
			"steadyhttp: 0 attempts, prepare failed: vault: no token"},
		{"Prepare, of a retry", &steadyhttp.Transport{Prepare: prepare(2, no),
			Base: newScript(answers(503, ""))},
			"steadyhttp: Service Unavailable (503) after 1 attempt, prepare failed; no retry: no token"},
		{"Prepare, by another call of ours", &steadyhttp.Transport{
			Prepare: prepare(1, &steadyhttp.Error{Attempts: 2, Stop: steadyhttp.StopAttempts, Err: no})},
			"steadyhttp: 0 attempts, prepare failed: steadyhttp: 2 attempts, no attempts left: no token"},
		{"Classify", &steadyhttp.Transport{Base: newScript(answers(503, "")),
			Classify: func(steadyhttp.Attempt) steadyhttp.Verdict {
				return steadyhttp.Verdict{Class: 77}
			}},
			"steadyhttp: 1 attempt, last answer 503: Transport.Classify gave Class(77)"},
		{"a base that returns nothing", &steadyhttp.Transport{Base: fails(nil)},
			"steadyhttp: 1 attempt: Transport.Base ("},
		{"a gate without a maker", &steadyhttp.Transport{
			Gates: []steadyhttp.Gate{&steadyhttp.PerKey{}}},
			"steadyhttp: 0 attempts, refused: PerKey.New is nil"},
		{"somebody else's", &steadyhttp.Transport{Base: fails(errors.New("proxy: steadyhttp: no"))},
			"steadyhttp: 2 attempts, no attempts left: proxy: steadyhttp: no"},
	} {
		tt.transport.Policy = steadyhttp.Policy{MaxAttempts: 2, NewBackOff: atOnce().NewBackOff}
		resp, err := tt.transport.RoundTrip(newRequest(t, "GET", ""))
		if err == nil {
			err = steadyhttp.Check(resp)
			resp.Body.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}
