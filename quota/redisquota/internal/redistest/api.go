package redistest

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// ProcessHeader names the process that a request comes from.
const ProcessHeader = "X-Process"

// API is a server that counts: it writes down when each request arrives, and refuses none but while
// it is told to. It is a base transport as well as a handler. Its fields are read-only after first
// use.
type API struct {
	From, To time.Duration // a request's way takes as long, and so does an answer's
	Lose     int           // of 1,000 requests, so many arrive and are never answered
	Late     int           // of 1,000 requests, so many arrive, and are answered 3 s later
	Gone     int           // of 1,000 requests, so many find no connection, so that none is sent

	mu       sync.Mutex
	began    time.Time
	arrivals []Arrival
	pause    time.Time     // until then it answers 429
	throttle time.Duration // from the next arrival on
	told     string        // of this process; the others are answered as ever
}

// Arrival is a request as the server saw it.
type Arrival struct {
	At      time.Duration // since NewAPI
	Process string
	Refused bool // with 429: it counts all the same
}

// NewAPI returns a server whose requests and answers take between from and to.
func NewAPI(from, to time.Duration) *API {
	return &API{From: from, To: to, began: time.Now()}
}

// Now is the time by the clock that arrivals are written down with.
func (a *API) Now() time.Duration { return time.Since(a.began) }

// Throttle answers one process 429, with a Retry-After, for a time from its next arrival on.
func (a *API) Throttle(process string, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.throttle, a.told = d, process
}

func (a *API) way() time.Duration {
	if a.To <= a.From {
		return a.From
	}
	return a.From + rand.N(a.To-a.From)
}

// arrive writes a request down, and returns for how long it is refused; 0: it is not.
func (a *API) arrive(process string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.throttle > 0 && process == a.told {
		a.pause, a.throttle = time.Now().Add(a.throttle), 0
	}
	wait := time.Duration(0)
	if process == a.told {
		wait = time.Until(a.pause)
	}
	a.arrivals = append(a.arrivals, Arrival{a.Now(), process, wait > 0})
	return max(0, wait)
}

// patience is how long a caller of RoundTrip waits for its answer.
const patience = 5 * time.Second

// RoundTrip implements http.RoundTripper.
func (a *API) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn("api.example:80")
	}
	if chance(a.Gone) {
		return nil, io.ErrUnexpectedEOF
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	if trace != nil && trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	time.Sleep(a.way()) // it arrives even if its caller does not wait for it
	wait := a.arrive(req.Header.Get(ProcessHeader))
	answer := a.way()
	switch {
	case chance(a.Lose):
		answer = time.Hour
	case chance(a.Late):
		answer += 3 * time.Second
	}
	select {
	case <-time.After(min(answer, patience)):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if answer > patience {
		return nil, context.DeadlineExceeded
	}
	if trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	resp := &http.Response{
		StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: req,
	}
	if wait > 0 {
		resp.StatusCode = 429
		resp.Header.Set("Retry-After", seconds(wait))
		resp.Body = io.NopCloser(strings.NewReader("slow down"))
	}
	return resp, nil
}

func chance(of1000 int) bool { return of1000 > 0 && rand.N(1000) < of1000 }

func seconds(d time.Duration) string {
	return string(rune('0' + min(9, (d+time.Second-1)/time.Second)))
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	time.Sleep(a.way())
	wait := a.arrive(r.Header.Get(ProcessHeader))
	time.Sleep(a.way())
	if wait > 0 {
		w.Header().Set("Retry-After", seconds(wait))
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

// Log returns all arrivals so far, in their order.
func (a *API) Log() []Arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.arrivals)
}

// Await waits for so many more arrivals, for 5 s at the most.
func (a *API) Await(n int) {
	at := len(a.Log()) + n
	for end := time.Now().Add(5 * time.Second); len(a.Log()) < at && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// Times returns when they arrived.
func (a *API) Times() []time.Duration { return Times(a.Log()) }

// Times returns when requests arrived.
func Times(log []Arrival) []time.Duration {
	times := make([]time.Duration, len(log))
	for i, arrival := range log {
		times[i] = arrival.At
	}
	return times
}

// Served returns how many requests of each process arrived.
func (a *API) Served() map[string]int {
	served := make(map[string]int)
	for _, arrival := range a.Log() {
		served[arrival.Process]++
	}
	return served
}

// Worst returns the most arrivals in any interval (t-per, t].
func Worst(times []time.Duration, per time.Duration) (worst int) {
	from := 0
	for i, at := range times {
		for at-times[from] >= per {
			from++
		}
		worst = max(worst, i-from+1)
	}
	return worst
}

// Clairvoyant returns how many requests could have arrived in a span that begins with the first
// one, had everybody known everything.
func Clairvoyant(windows []quota.Window, span time.Duration) int {
	var times []time.Duration
	for {
		at := time.Duration(0)
		for _, w := range windows {
			if n := len(times); n >= w.N {
				at = max(at, times[n-w.N]+w.Per)
			}
		}
		if at > span {
			return len(times)
		}
		times = append(times, at)
	}
}

// Used returns the share of what could have arrived until end that did.
func Used(times []time.Duration, windows []quota.Window, end time.Duration) float64 {
	n, _ := slices.BinarySearch(times, end)
	if n == 0 {
		return 0
	}
	return float64(n) / float64(Clairvoyant(windows, end-times[0]))
}
