package compat

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/steadyhttp/steadyhttp"
)

// errNothingSaid stands for attempts that say nothing of the service: those that their caller ended,
// that were not made, or that a redirect took elsewhere.
var errNothingSaid = errors.New("nothing was said of the service")

// breaker is a circuit breaker of gobreaker as a Gate.
type breaker struct {
	steps *gobreaker.TwoStepCircuitBreaker[any]
	pause time.Duration // Settings.Timeout, for those who are refused
}

func newBreaker(failures uint32, pause time.Duration) *breaker {
	return &breaker{pause: pause, steps: gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		MaxRequests: 1, // while half-open
		Timeout:     pause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
		IsExcluded:  func(err error) bool { return err == errNothingSaid },
	})}
}

func (b *breaker) Enter(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
	done, err := b.steps.Allow()
	if err != nil {
		return nil, &steadyhttp.Refusal{Wait: b.pause, Err: err}
	}
	return steadyhttp.PassFunc(func(a steadyhttp.Attempt) {
		switch a.Verdict.Class {
		case steadyhttp.Unclassified:
			done(errNothingSaid) // gives a half-open breaker's one place back
		case steadyhttp.Transient:
			done(errors.New("failed"))
		default:
			done(nil) // a 404 or a 429 too: it is alive
		}
	}), nil
}

// A circuit breaker, gobreaker's, as a Gate. Its refusal ends a call: there is no waiting for a
// breaker. Put it behind a quota, and bound its probe with Policy.AttemptTimeout.
func Example_breaker() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{
		Gates:  []steadyhttp.Gate{newBreaker(3, 30*time.Second)},
		Policy: steadyhttp.Policy{MaxAttempts: 1, AttemptTimeout: 10 * time.Second},
	}}
	for range 4 {
		resp, err := client.Get(server.URL)
		if e, ok := errors.AsType[*steadyhttp.Error](err); ok {
			fmt.Println(e.Stop, "for", e.Wait, errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, steadyhttp.ErrNotSent))
			return
		}
		resp.Body.Close()
		fmt.Println(steadyhttp.Check(resp))
	}
	// Output:
	// steadyhttp: Service Unavailable (503) after 1 attempt, no attempts left
	// steadyhttp: Service Unavailable (503) after 1 attempt, no attempts left
	// steadyhttp: Service Unavailable (503) after 1 attempt, no attempts left
	// refused for 30s true true
}
