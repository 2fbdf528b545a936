package steadyotel_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// Each attempt's duration is that of its span, with the conventions' attributes; status, host and
// error.type tell the 429s.
func TestRequestDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(step roundTripper) roundTripper {
			return func(req *http.Request) (*http.Response, error) { time.Sleep(time.Second); return step(req) }
		}
		s := newSDK(t)
		rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"TooManyRequests": steadyhttp.Throttled}}
		rt := &steadyhttp.Transport{
			Base: script(slow(answers(429, envelope("TooManyRequests", "T"), "Retry-After: 20")), slow(answers(429, "", "Retry-After: 20")),
				slow(failsWith(syscall.ECONNRESET)), slow(answers(200, "body"))),
			Policy: every(time.Second), Trace: s.trace(steadyotel.Config{Rules: rules}),
		}
		resp, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", "http://api.example:8080/machines/1"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		resp.Body.Close()
		const server = "http.request.method=GET %sserver.address=api.example server.port=8080 n=1 sum=%d"
		m := s.collect(t)["http.client.request.duration"]
		assertLines(t, "durations", points(t, m),
			"error.type=429 "+fmt.Sprintf(server, "http.response.status_code=429 network.protocol.version=1.1 ", 1),
			"error.type=TooManyRequests "+fmt.Sprintf(server, "http.response.status_code=429 network.protocol.version=1.1 ", 1),
			"error.type=connection "+fmt.Sprintf(server, "", 1),
			fmt.Sprintf(server, "http.response.status_code=200 network.protocol.version=1.1 ", 6))
		sum := time.Duration(0)
		for _, span := range s.attempts() {
			sum += span.EndTime().Sub(span.StartTime())
		}
		if sum != 9*time.Second {
			t.Errorf("the spans took %v, the metric has 9 s", sum)
		}
	})
}

// Where otelhttp makes the attempts' spans, their metric is its too.
func TestNoRequestDurationBesideOtelhttp(t *testing.T) {
	s := newSDK(t)
	call(t, t.Context(), &steadyhttp.Transport{Base: answers(404, ""), Trace: s.trace(steadyotel.Config{NoAttemptSpans: true})})
	if m, there := s.collect(t)["http.client.request.duration"]; there {
		t.Error(points(t, m))
	}
	if n := len(seriesOf(t, s.collect(t)["steadyhttp.call.duration"])); n != 1 {
		t.Errorf("%d points of the call", n)
	}
}

// A call that its caller cancels is no error of the attempt either.
func TestRequestDurationOfACancelledAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		call(t, ctx, &steadyhttp.Transport{Base: hangs, Trace: s.trace(steadyotel.Config{})})
		assertLines(t, "duration", points(t, s.collect(t)["http.client.request.duration"]),
			"http.request.method=GET server.address=api.example server.port=80 n=1 sum=1")
	})
}

// The labels of a call's duration are those of its own host, template and failure.
func TestLabelsOfACall(t *testing.T) {
	s := newSDK(t)
	rt := &steadyhttp.Transport{
		Base: answers(404, envelope("Known", "T")), Policy: every(0),
		Trace: s.trace(steadyotel.Config{
			Rules: &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Known": steadyhttp.Permanent}},
			Route: func(*http.Request) string { return "/machines/{id}" },
		}),
	}
	finish(rt.RoundTrip(newRequest(t, t.Context(), "DELETE", "http://api.example/machines/1")))
	for _, labels := range seriesOf(t, s.collect(t)["steadyhttp.call.duration"]) {
		assertText(t, "labels", show(labels.ToSlice()), "error.type=Known http.request.method=DELETE server.address=api.example"+
			" steadyhttp.outcome=failure url.template=/machines/{id}")
	}
}

// values returns the values that a label has.
func values(t *testing.T, m metricdata.Metrics, key attribute.Key) []string {
	t.Helper()
	var all []string
	for _, set := range seriesOf(t, m) {
		if v, ok := set.Value(key); ok && !slices.Contains(all, v.String()) {
			all = append(all, v.String())
		}
	}
	slices.Sort(all)
	return all
}

// Hosts are the caller's to choose: the first ten are labels, the others _OTHER.
func TestHostsAreBounded(t *testing.T) {
	s := newSDK(t)
	rt := &steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(steadyotel.Config{})}
	for i := range 1000 {
		finish(rt.RoundTrip(newRequest(t, t.Context(), "GET", fmt.Sprintf("http://host%03d.example:%d/", i, 1000+i))))
	}
	for _, name := range []string{"steadyhttp.call.duration", "http.client.request.duration"} {
		hosts := values(t, s.collect(t)[name], "server.address")
		if len(hosts) != 11 || !slices.Contains(hosts, "_OTHER") || !slices.Contains(hosts, "host009.example") {
			t.Errorf("%s has the hosts %q", name, hosts)
		}
	}
	assertLines(t, "calls", points(t, s.collect(t)["steadyhttp.call.attempts"]), "n=1000 sum=1000")
}

// All labels together are bounded too. Where there is no room any more, methods, hosts and templates
// go first, and the outcome stays; no call is lost.
func TestSeriesAreBounded(t *testing.T) {
	for _, limit := range []int{0, 10, 100} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			s := newSDK(t)
			most := limit
			if limit == 0 {
				most = 50
			}
			const calls = 2000
			for i := range calls {
				// A Transport for each of many tenants: they share the bound.
				rt := &steadyhttp.Transport{Base: answers(200+i%400, ""), Policy: steadyhttp.Policy{MaxAttempts: 1}, Trace: s.trace(steadyotel.Config{
					MaxSeries: limit, Route: func(*http.Request) string { return fmt.Sprint("/", i%100) },
				})}
				method := []string{"GET", "POST", "PUT", "PURGE"}[i/100%4]
				finish(rt.RoundTrip(newRequest(t, t.Context(), method, fmt.Sprintf("http://host%d.example/", i%7))))
			}
			all := s.collect(t)
			for _, name := range []string{"steadyhttp.call.duration", "steadyhttp.call.attempts", "http.client.request.duration"} {
				n := uint64(0)
				switch data := all[name].Data.(type) {
				case metricdata.Histogram[float64]:
					for _, p := range data.DataPoints {
						n += p.Count
					}
				case metricdata.Histogram[int64]:
					for _, p := range data.DataPoints {
						n += p.Count
					}
				}
				if got := len(seriesOf(t, all[name])); got > most+6 || got < most/3 || n != calls {
					t.Errorf("%s has %d series, %d counts", name, got, n)
				}
			}
			if outcomes := values(t, all["steadyhttp.call.duration"], "steadyhttp.outcome"); !slices.Equal(outcomes, []string{"failure", "success"}) {
				t.Errorf("the outcomes are %q", outcomes)
			}
			for _, set := range seriesOf(t, all["steadyhttp.call.duration"]) {
				outcome, _ := set.Value("steadyhttp.outcome")
				if _, failed := set.Value("error.type"); failed != (outcome.AsString() == "failure") {
					t.Errorf("%s", show(set.ToSlice()))
				}
			}
		})
	}
}

// Two programs' providers do not share their bounds.
func TestProvidersHaveTheirOwnSeries(t *testing.T) {
	for range 2 {
		s := newSDK(t)
		for i := range 100 {
			rt := &steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(steadyotel.Config{})}
			finish(rt.RoundTrip(newRequest(t, t.Context(), "GET", fmt.Sprintf("http://host%d.example/", i))))
		}
		if hosts := values(t, s.collect(t)["steadyhttp.call.duration"], "server.address"); len(hosts) != 11 {
			t.Errorf("%d hosts", len(hosts))
		}
	}
}

// The gauges say how many calls are under way, and what those wait for that do.
func TestCallsUnderWayAndWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		hooks := s.trace(steadyotel.Config{})
		waits := &steadyhttp.Budget{Max: 1, PerSecond: 0.01, Wait: true}
		waits.Take(newRequest(t, t.Context(), "GET", "http://api.example/"))
		slow := every(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for _, rt := range []*steadyhttp.Transport{
			{Base: answers(200, ""), Gates: []steadyhttp.Gate{blocks(1)}},
			{Base: answers(200, ""), Gates: []steadyhttp.Gate{blocks(1)}},
			{Base: answers(503, ""), Policy: slow},
			{Base: answers(429, "", "Retry-After: 30")},
			{Base: answers(503, ""), Policy: steadyhttp.Policy{Budget: waits}},
			{Base: answers(200, ""), Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
				<-req.Context().Done()
				return req.Context().Err()
			}},
			{Base: hangs},
		} {
			rt.Trace = hooks
			calls.Go(func() { call(t, ctx, rt) })
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		active := func(what string, want ...string) {
			t.Helper()
			assertLines(t, what, points(t, s.collect(t)["steadyhttp.call.active"]), want[0])
			assertLines(t, what, points(t, s.collect(t)["steadyhttp.call.waiting"]), want[1:]...)
		}
		const cause = "steadyhttp.wait.cause="
		active("now", "7", cause+"backoff 1", cause+"budget 1", cause+"gate 2", cause+"prepare 1", cause+"server 1")
		cancel()
		calls.Wait()
		active("then", "0", cause+"backoff 0", cause+"budget 0", cause+"gate 0", cause+"prepare 0", cause+"server 0")
	})
}

// A call's duration is its attempts' and its waits', and nothing else: no wait is left out, whatever
// its cause, and the queue of a Batch's budget least of all.
func TestWaitsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		policy := steadyhttp.Batch()
		policy.NewBackOff = every(2 * time.Millisecond).NewBackOff
		policy.Budget = &steadyhttp.Budget{Max: 1, PerSecond: 2, Wait: true}
		first := newRequest(t, t.Context(), "GET", "http://api.example/")
		policy.Budget.Take(first)
		rt := &steadyhttp.Transport{
			Base:   script(answers(503, ""), answers(503, ""), answers(429, "", "Retry-After: 3"), answers(200, "")),
			Policy: policy, Gates: []steadyhttp.Gate{delay(40 * time.Millisecond)},
			Prepare: func(*http.Request, *steadyhttp.Attempt) error { time.Sleep(60 * time.Millisecond); return nil },
			Trace:   s.trace(steadyotel.Config{}),
		}
		if err := call(t, t.Context(), rt); err != nil {
			t.Fatal(err)
		}
		sum := func(name string) (sum float64, all string) {
			m := s.collect(t)[name]
			for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
				sum += p.Sum
			}
			return sum, strings.Join(points(t, m), "; ")
		}
		whole, _ := sum("steadyhttp.call.duration")
		waits, all := sum("steadyhttp.wait.duration")
		if diff := whole - waits; diff < -1e-6 || diff > 0.001 {
			t.Errorf("a call of %v s has waited %v s: %s", whole, waits, all)
		}
		if !strings.Contains(all, "budget n=2") || waits < 4 {
			t.Errorf("the waits were %s: the test tests nothing", all)
		}
	})
}
