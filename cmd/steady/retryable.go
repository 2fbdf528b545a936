package main

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/time/rate"
)

// The settings of the second column: what somebody chooses who has read Defender's page of a list,
// "100 calls per minute", and the retrying client's examples. Its waits are scaled as the minute
// is.
const (
	retryableMax   = 6
	retryableRate  = 100 // a minute
	retryableBurst = 10
	retryableFirst = demoMinute / 60 // a second of the service's minute
	retryableLast  = demoMinute / 2
)

// newRetryable makes what people write today: a client that retries, under a limiter for the API.
func newRetryable(t *tally) http.RoundTripper {
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = retryableMax, retryableFirst,
		retryableLast
	// The last answer is the caller's, whose code tells more than "giving up".
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	client.Backoff = func(least, most time.Duration, n int, resp *http.Response) time.Duration {
		wait := retryablehttp.DefaultBackoff(least, most, n, resp)
		t.retries.Add(1)
		t.backOffs.Add(int64(wait))
		return wait
	}
	client.HTTPClient.Transport = &limited{
		next:  http.DefaultTransport.(*http.Transport).Clone(),
		limit: rate.NewLimiter(rate.Every(demoMinute/retryableRate), retryableBurst),
		tally: t,
	}
	return &retryablehttp.RoundTripper{Client: client}
}

// limited holds every request, and every retry, to the limiter.
type limited struct {
	next  http.RoundTripper
	limit interface{ Wait(context.Context) error }
	tally *tally
}

func (l *limited) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	if err := l.limit.Wait(req.Context()); err != nil {
		return nil, err
	}
	l.tally.quota.Add(int64(time.Since(began)))
	return l.next.RoundTrip(req)
}
