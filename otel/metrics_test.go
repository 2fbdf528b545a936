package steadyotel_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
	"github.com/steadyhttp/steadyhttp/quota"
)

// provoke makes calls that leave something in each instrument.
func provoke(t *testing.T, s *sdk, c steadyotel.Config) {
	policy := every(time.Second)
	policy.Budget = &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: -1}
	rt := &steadyhttp.Transport{Base: script(answers(503, envelope("C", "T"))), Gates: []steadyhttp.Gate{delay(time.Second)}, Policy: policy, Trace: s.trace(c)}
	call(t, t.Context(), rt)
}

// Names, units and bounds are the contract with those who draw dashboards. All times may be as long
// as an hourly quota asks.
func TestInstruments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		registration, err := steadyotel.ObserveQuotas(steadyotel.Config{MeterProvider: s.meters}, states(map[string]quota.State{"q": {Windows: make([]quota.WindowState, 1)}}))
		if err != nil {
			t.Fatal(err)
		}
		defer registration.Unregister()
		provoke(t, s, steadyotel.Config{})
		all := s.collect(t)
		units := map[string]string{
			"steadyhttp.call.duration": "s", "steadyhttp.call.attempts": "{attempt}", "steadyhttp.wait.duration": "s",
			"steadyhttp.retry.delay": "s", "steadyhttp.budget.refusals": "{refusal}", "http.client.request.duration": "s",
			"steadyhttp.call.active": "{call}", "steadyhttp.call.waiting": "{call}",
			"steadyhttp.quota.used": "{request}", "steadyhttp.quota.free": "{request}", "steadyhttp.quota.limit": "{request}", "steadyhttp.quota.waiting": "{call}",
		}
		assertLines(t, "names", slices.Sorted(maps.Keys(all)), slices.Sorted(maps.Keys(units))...)
		for name, m := range all {
			if m.Unit != units[name] || m.Description == "" {
				t.Errorf("%s has the unit %q and the description %q", name, m.Unit, m.Description)
			}
			var bounds []float64
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				bounds = data.DataPoints[0].Bounds
			case metricdata.Histogram[int64]:
				// Batch makes 20 attempts, and they must be told from more.
				if bounds := data.DataPoints[0].Bounds; bounds[0] != 0 || bounds[1] != 1 || bounds[len(bounds)-1] < 20 {
					t.Errorf("%s has the bounds %v", name, bounds)
				}
			case metricdata.Sum[int64]:
				if gauge := name == "steadyhttp.call.active" || name == "steadyhttp.call.waiting"; data.IsMonotonic == gauge {
					t.Errorf("%s goes up and down: %v", name, !data.IsMonotonic)
				}
			}
			if name == "http.client.request.duration" {
				assertText(t, "the conventions' bounds", fmt.Sprint(bounds), "[0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10]")
			} else if m.Unit == "s" && (len(bounds) == 0 || bounds[0] > 0.005 || bounds[len(bounds)-1] != 3600 || !slices.IsSorted(bounds)) {
				t.Errorf("%s has the bounds %v, want some up to an hour", name, bounds)
			}
		}
	})
}

// call.duration is that of the whole call: gates, back-off and the reading of the body with it.
func TestCallDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		rt := &steadyhttp.Transport{
			Base:   script(answers(503, ""), answers(200, "body")),
			Gates:  []steadyhttp.Gate{delay(2 * time.Second)},
			Policy: every(3 * time.Second), Trace: s.trace(steadyotel.Config{}),
		}
		resp, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", "http://api.example/"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		assertLines(t, "before the body's end", points(t, s.collect(t)["steadyhttp.call.duration"]))
		resp.Body.Close()
		time.Sleep(time.Second)
		assertLines(t, "duration", points(t, s.collect(t)["steadyhttp.call.duration"]), "http.request.method=GET server.address=api.example steadyhttp.outcome=success n=1 sum=12")
	})
}

// The outcome of each call, and how many attempts it took, by what it ended with.
func TestOutcomes(t *testing.T) {
	once := steadyhttp.Policy{MaxAttempts: 1}
	slow := func(step roundTripper) roundTripper {
		return func(req *http.Request) (*http.Response, error) { time.Sleep(time.Second); return step(req) }
	}
	for _, tt := range []struct {
		name     string
		rt       *steadyhttp.Transport
		ends     func(context.Context) (context.Context, context.CancelFunc)
		duration string
		attempts string
	}{
		{"success", &steadyhttp.Transport{Base: script(slow(answers(200, "")))}, nil, "success n=1 sum=1", "n=1 sum=1"},
		{"success after a failure", &steadyhttp.Transport{Base: script(slow(answers(503, "")), answers(200, ""))}, nil, "success n=1 sum=11", "n=1 sum=2"},
		{"a success to Classify", &steadyhttp.Transport{Base: script(slow(answers(404, ""))), Classify: func(steadyhttp.Attempt) steadyhttp.Verdict {
			return steadyhttp.Verdict{Class: steadyhttp.Success}
		}}, nil, "success n=1 sum=1", "n=1 sum=1"},
		{"permanent", &steadyhttp.Transport{Base: script(slow(answers(404, "")))}, nil, "failure n=1 sum=1", "error.type=404 n=1 sum=1"},
		{"known code", &steadyhttp.Transport{Base: script(slow(answers(404, envelope("Known", "T"))))}, nil, "failure n=1 sum=1", "error.type=Known n=1 sum=1"},
		{"unknown code", &steadyhttp.Transport{Base: script(slow(answers(404, envelope("Unknown", "T"))))}, nil, "failure n=1 sum=1", "error.type=404 n=1 sum=1"},
		{"exhausted", &steadyhttp.Transport{Base: slow(answers(503, ""))}, nil, "failure n=1 sum=34", "error.type=503 n=1 sum=4"},
		{"lost", &steadyhttp.Transport{Base: slow(failsWith(syscall.ECONNRESET)), Policy: once}, nil, "failure n=1 sum=1", "error.type=connection n=1 sum=1"},
		{"body", &steadyhttp.Transport{Base: slow(withBody(200, brokenBody(syscall.ECONNRESET)))}, nil, "failure n=1 sum=1", "error.type=connection n=1 sum=1"},
		{"refused", &steadyhttp.Transport{Base: script(answers(200, "")), Gates: []steadyhttp.Gate{delay(time.Second), refuses(1)}}, nil, "failure n=1 sum=1", "error.type=refused n=1 sum=0"},
		{"cancelled", &steadyhttp.Transport{Base: hangs}, cancelAfter(time.Second), "cancelled n=1 sum=1", "n=1 sum=1"},
		{"cancelled at a gate", &steadyhttp.Transport{Base: hangs, Gates: []steadyhttp.Gate{blocks(1)}}, cancelAfter(time.Second), "cancelled n=1 sum=1", "n=1 sum=0"},
		{"cancelled in its wait", &steadyhttp.Transport{Base: answers(503, "")}, cancelAfter(time.Second), "cancelled n=1 sum=1", "n=1 sum=1"},
		{"cancelled in its body", &steadyhttp.Transport{Base: withBody(200, hangingBody)}, cancelAfter(time.Second), "cancelled n=1 sum=1", "n=1 sum=1"},
		{"deadline", &steadyhttp.Transport{Base: hangs}, timeoutAfter(time.Second), "failure n=1 sum=1", "error.type=timeout n=1 sum=1"},
		{"deadline in its body", &steadyhttp.Transport{Base: withBody(200, hangingBody)}, timeoutAfter(time.Second), "failure n=1 sum=1", "error.type=timeout n=1 sum=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				ctx := t.Context()
				if tt.ends != nil {
					with, cancel := tt.ends(ctx)
					defer cancel()
					ctx = with
				}
				if tt.rt.Policy.MaxAttempts == 0 {
					tt.rt.Policy = every(10 * time.Second)
				}
				tt.rt.Trace = s.trace(steadyotel.Config{Rules: &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Known": steadyhttp.Permanent}}})
				call(t, ctx, tt.rt)
				all := s.collect(t)
				want := "http.request.method=GET server.address=api.example steadyhttp.outcome=" + tt.duration
				if failure, ok := strings.CutPrefix(tt.attempts, "error.type="); ok {
					failure, _, _ = strings.Cut(failure, " ")
					want = "error.type=" + failure + " " + want
				}
				assertLines(t, "duration", points(t, all["steadyhttp.call.duration"]), want)
				assertLines(t, "attempts", points(t, all["steadyhttp.call.attempts"]), tt.attempts)
			})
		})
	}
}

func cancelAfter(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(d, cancel)
		return ctx, cancel
	}
}

func timeoutAfter(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
}

// wait.duration has each wait for a gate of a millisecond or more.
func TestGateWait(t *testing.T) {
	for _, tt := range []struct {
		name  string
		gates []steadyhttp.Gate
		want  []string
	}{
		{"not held up", []steadyhttp.Gate{delay(0), delay(time.Millisecond - 1)}, nil},
		{"a little", []steadyhttp.Gate{delay(time.Millisecond)}, []string{"steadyhttp.wait.cause=gate n=2 sum=0.002"}},
		{"two gates", []steadyhttp.Gate{delay(time.Second), delay(2 * time.Second)}, []string{"steadyhttp.wait.cause=gate n=4 sum=6"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				rt := &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Gates: tt.gates, Policy: every(0), Trace: s.trace(steadyotel.Config{})}
				call(t, t.Context(), rt)
				assertLines(t, "gate wait", points(t, s.collect(t)["steadyhttp.wait.duration"]), tt.want...)
			})
		})
	}
}

// Each wait has its cause in the metric. For what only it can tell of, there is an event too: a wait
// before a retry has steadyhttp.retrying.
func TestEveryCauseOfAWait(t *testing.T) {
	slowly := func(*http.Request, *steadyhttp.Attempt) error {
		time.Sleep(2 * time.Second)
		return nil
	}
	// The one retry that it can pay for at once leaves the next to wait.
	waits := &steadyhttp.Budget{Max: 1, PerSecond: 0.1, Wait: true}
	const event = "steadyhttp.waited http.request.resend_count=%d steadyhttp.wait.cause=%s steadyhttp.wait=%d"
	for _, tt := range []struct {
		cause  steadyhttp.WaitCause // must be met
		rt     *steadyhttp.Transport
		want   []string // of the metric
		events []string
	}{
		{steadyhttp.WaitBackOff, &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, ""))},
			[]string{"backoff n=1 sum=1"}, []string{"steadyhttp.retrying"}},
		{steadyhttp.WaitServer, &steadyhttp.Transport{Base: script(answers(429, "", "Retry-After: 20"), answers(200, ""))},
			[]string{"server n=1 sum=*"}, []string{"steadyhttp.retrying"}},
		{steadyhttp.WaitPrepare, &steadyhttp.Transport{Base: script(answers(200, "")), Prepare: slowly},
			[]string{"prepare n=1 sum=2"}, []string{fmt.Sprintf(event, 0, "prepare", 2)}},
		{steadyhttp.WaitBudget, &steadyhttp.Transport{
			Base:   script(answers(503, ""), answers(503, ""), answers(200, "")),
			Policy: steadyhttp.Policy{Budget: waits},
		}, []string{"backoff n=1 sum=1", "budget n=1 sum=9"}, []string{"steadyhttp.retrying", "steadyhttp.retrying", fmt.Sprintf(event, 1, "budget", 9)}},
		{steadyhttp.WaitGate, &steadyhttp.Transport{
			Base:    script(answers(503, ""), answers(429, "", "Retry-After: 20"), answers(200, "")),
			Prepare: slowly, Gates: []steadyhttp.Gate{delay(3 * time.Second)},
		}, []string{"backoff n=1 sum=1", "gate n=3 sum=9", "prepare n=3 sum=6", "server n=1 sum=*"}, []string{
			fmt.Sprintf(event, 0, "gate", 3), fmt.Sprintf(event, 0, "prepare", 2), "steadyhttp.retrying",
			fmt.Sprintf(event, 1, "gate", 3), fmt.Sprintf(event, 1, "prepare", 2), "steadyhttp.retrying",
			fmt.Sprintf(event, 2, "gate", 3), fmt.Sprintf(event, 2, "prepare", 2),
		}},
	} {
		t.Run(string(tt.cause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				tt.rt.Policy.NewBackOff = every(time.Second).NewBackOff
				tt.rt.Trace = s.trace(steadyotel.Config{})
				if err := call(t, t.Context(), tt.rt); err != nil {
					t.Fatal(err)
				}
				got := points(t, s.collect(t)["steadyhttp.wait.duration"])
				for i := range got {
					got[i] = strings.TrimPrefix(got[i], "steadyhttp.wait.cause=")
					if strings.HasPrefix(got[i], "server ") { // it is jittered
						got[i] = "server n=1 sum=*"
					}
				}
				assertLines(t, "waits", got, tt.want...)
				for _, point := range points(t, s.collect(t)["steadyhttp.call.waiting"]) {
					if !strings.HasSuffix(point, " 0") {
						t.Errorf("%s still wait", point)
					}
				}
				told := events(s.parent(t))
				for i := range told {
					if strings.HasPrefix(told[i], "steadyhttp.retrying ") {
						told[i] = "steadyhttp.retrying"
					}
				}
				assertLines(t, "events", told, tt.events...)
			})
		})
	}
}

// A wait for a gate is measured however it ends. One that is announced and then is none is not.
func TestEveryEndOfAGateWait(t *testing.T) {
	const wait = 5 * time.Second
	announces := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
		a.Waits(func() time.Duration { return wait })
		return nil, nil
	})
	says := func(err error) steadyhttp.Gate {
		return gateFunc(func(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) {
			time.Sleep(wait)
			return nil, err
		})
	}
	for _, tt := range []struct {
		name string
		gate steadyhttp.Gate
		end  func(context.Context) (context.Context, context.CancelFunc)
		want []string
	}{
		{"passed", says(nil), nil, []string{"steadyhttp.wait.cause=gate n=1 sum=5"}},
		{"refused", says(&steadyhttp.Refusal{Wait: time.Hour}), nil, []string{"steadyhttp.wait.cause=gate n=1 sum=5"}},
		{"failed", says(errors.New("out of order")), nil, []string{"steadyhttp.wait.cause=gate n=1 sum=5"}},
		{"cancelled", blocks(1), cancelAfter(wait), []string{"steadyhttp.wait.cause=gate n=1 sum=5"}},
		{"deadline", blocks(1), timeoutAfter(wait), []string{"steadyhttp.wait.cause=gate n=1 sum=5"}},
		{"none at all", announces, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				ctx := t.Context()
				if tt.end != nil {
					var cancel context.CancelFunc
					ctx, cancel = tt.end(ctx)
					defer cancel()
				}
				call(t, ctx, &steadyhttp.Transport{
					Base: answers(200, ""), Gates: []steadyhttp.Gate{tt.gate}, Trace: s.trace(steadyotel.Config{}),
				})
				var got []string
				if m, recorded := s.collect(t)["steadyhttp.wait.duration"]; recorded {
					got = points(t, m)
				}
				assertLines(t, "gate wait", got, tt.want...)
				if left := points(t, s.collect(t)["steadyhttp.call.waiting"]); !slices.Contains(left, "steadyhttp.wait.cause=gate 0") {
					t.Errorf("still waiting: %q", left)
				}
			})
		})
	}
}

// retry.delay tells what a back-off costs from what the server asks for. A call that is not retried
// has none.
func TestRetryDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		hooks := s.trace(steadyotel.Config{})
		transport := func(steps ...roundTripper) *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: script(steps...), Policy: every(2 * time.Second), Trace: hooks,
				Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil }}
		}
		call(t, t.Context(), transport(answers(404, "")))
		call(t, t.Context(), transport(answers(200, "")))
		if m, recorded := s.collect(t)["steadyhttp.retry.delay"]; recorded {
			t.Errorf("without a retry: %v", points(t, m))
		}
		call(t, t.Context(), transport(answers(503, ""), failsWith(syscall.ECONNRESET), answers(200, "")))
		call(t, t.Context(), transport(answers(401, ""), answers(200, "")))
		began := time.Now()
		call(t, t.Context(), transport(answers(429, "", "Retry-After: 20"), answers(200, "")))
		assertLines(t, "delay", points(t, s.collect(t)["steadyhttp.retry.delay"]),
			"steadyhttp.delay.source=backoff n=2 sum=4",
			"steadyhttp.delay.source=credentials n=1 sum=0", // new ones need no wait
			fmt.Sprintf("steadyhttp.delay.source=server n=1 sum=%v", time.Since(began).Seconds()))
	})
}

// budget.refusals counts the retries that the Budget refused, and not the calls that ended
// otherwise. It is there from the start, or the first refusal would be no increase to Prometheus.
func TestBudgetRefusals(t *testing.T) {
	s := newSDK(t)
	policy := every(0)
	policy.Budget = &steadyhttp.Budget{Max: 2, PerSuccess: -1, PerSecond: -1}
	rt := &steadyhttp.Transport{Base: answers(503, ""), Policy: policy, Trace: s.trace(steadyotel.Config{})}
	other := &steadyhttp.Transport{Base: answers(404, ""), Policy: policy, Trace: rt.Trace}
	assertLines(t, "before a call", points(t, s.collect(t)["steadyhttp.budget.refusals"]), "0")
	call(t, t.Context(), other)
	assertLines(t, "without a refusal", points(t, s.collect(t)["steadyhttp.budget.refusals"]), "0")
	for range 3 {
		call(t, t.Context(), rt)
	}
	assertLines(t, "refusals", points(t, s.collect(t)["steadyhttp.budget.refusals"]), "3")
	assertLines(t, "attempts", points(t, s.collect(t)["steadyhttp.call.attempts"]), "error.type=404 n=1 sum=1", "error.type=503 n=3 sum=5")
}

// Whatever servers and callers come up with, the labels stay a closed set, and no tracking ID is
// ever one.
func TestLabelsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		hooks := s.trace(steadyotel.Config{
			Rules: &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Known": steadyhttp.Permanent}},
			Route: func(req *http.Request) string { return req.URL.Path }, TargetKey: "error.type", CodeKey: "http.request.method",
		})
		methods := []string{"", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "QUERY"}
		for status := 300; status < 1000; status++ {
			step := answers(status, envelope(fmt.Sprint("Code", status), fmt.Sprint("T", status)), "Retry-After: 1")
			if status%7 == 0 {
				step = failsWith(fmt.Errorf("error %d", status))
			}
			policy := every(time.Second)
			if status%5 == 0 {
				policy.Budget = &steadyhttp.Budget{Max: 0.5}
			}
			rt := &steadyhttp.Transport{Base: step, Gates: []steadyhttp.Gate{delay(time.Second)}, Policy: policy, Trace: hooks}
			req := newRequest(t, t.Context(), "GET", fmt.Sprintf("http://api%d.example/%d?%d=%d", status, status, status, status))
			req.Method = fmt.Sprint("M", status)
			req.Header.Set("Idempotency-Key", "1")
			if status < 300+len(methods) {
				req.Method = methods[status-300]
			}
			finish(rt.RoundTrip(req))
		}
		allowed := map[attribute.Key]func(string) bool{
			"http.request.method":     func(v string) bool { return v != "" && (v == "_OTHER" || slices.Contains(methods, v)) },
			"steadyhttp.outcome":      func(v string) bool { return v == "success" || v == "failure" },
			"steadyhttp.delay.source": func(v string) bool { return v == "backoff" || v == "server" },
			"server.address":          func(v string) bool { return v == "_OTHER" || strings.HasSuffix(v, ".example") },
			"url.template":            func(v string) bool { return v == "_OTHER" || strings.HasPrefix(v, "/") },
			"server.port":             func(v string) bool { return v == "80" },
			"http.response.status_code": func(v string) bool {
				n, _ := strconv.Atoi(v)
				return http.StatusText(n) != ""
			},
			"network.protocol.version": func(v string) bool { return v == "1.1" },
			"steadyhttp.wait.cause":    func(v string) bool { return slices.Contains(strings.Fields("gate budget backoff server prepare"), v) },
			"error.type": func(v string) bool {
				return v == "_OTHER" || v == "4xx" || v == "5xx" || len(v) == 3 && http.StatusText(int(v[0]-'0')*100+int(v[1]-'0')*10+int(v[2]-'0')) != ""
			},
		}
		labels := map[string][]attribute.Key{
			"steadyhttp.call.duration": {"http.request.method", "steadyhttp.outcome", "error.type", "server.address", "url.template"},
			"http.client.request.duration": {
				"http.request.method", "error.type", "server.address", "server.port", "http.response.status_code", "network.protocol.version",
			},
			"steadyhttp.call.attempts": {"error.type"}, "steadyhttp.wait.duration": {"steadyhttp.wait.cause"},
			"steadyhttp.retry.delay": {"steadyhttp.delay.source"}, "steadyhttp.budget.refusals": nil,
			"steadyhttp.call.active": nil, "steadyhttp.call.waiting": {"steadyhttp.wait.cause"},
		}
		total := 0
		all := s.collect(t)
		for name, keys := range labels {
			series := seriesOf(t, all[name])
			if total += len(series); len(series) == 0 {
				t.Errorf("nothing of %s", name)
			}
			for _, labels := range series {
				for _, label := range labels.ToSlice() {
					if check := allowed[label.Key]; !slices.Contains(keys, label.Key) || !check(label.Value.String()) {
						t.Errorf("%s has the label %s", name, show([]attribute.KeyValue{label}))
					}
				}
			}
		}
		if total > 200 {
			t.Errorf("%d series", total)
		}
		assertText(t, "methods", methodsOf(seriesOf(t, all["steadyhttp.call.duration"])), "CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE _OTHER")
	})
}

// seriesOf returns the label sets of a metric.
func seriesOf(t *testing.T, m metricdata.Metrics) (series []attribute.Set) {
	t.Helper()
	switch data := m.Data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			series = append(series, p.Attributes)
		}
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			series = append(series, p.Attributes)
		}
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			series = append(series, p.Attributes)
		}
	}
	return series
}

func methodsOf(series []attribute.Set) string {
	seen := make(map[string]bool)
	for _, labels := range series {
		v, _ := labels.Value("http.request.method")
		seen[v.AsString()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " ")
}

// Metrics need no spans.
func TestMetricsWithoutSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		hooks := steadyotel.New(steadyotel.Config{TracerProvider: noop.NewTracerProvider(), MeterProvider: s.meters})
		for range 2 {
			rt := &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Policy: every(time.Second), Trace: hooks}
			if err := call(t, t.Context(), rt); err != nil {
				t.Fatal(err)
			}
		}
		assertLines(t, "duration", points(t, s.collect(t)["steadyhttp.call.duration"]), "http.request.method=GET server.address=api.example steadyhttp.outcome=success n=2 sum=2")
		assertLines(t, "attempts", points(t, s.collect(t)["steadyhttp.call.attempts"]), "n=2 sum=4")
	})
}

// Calls that run at once are all counted, and each once.
func TestConcurrentMetrics(t *testing.T) {
	s := newSDK(t)
	hooks := s.trace(steadyotel.Config{})
	var calls sync.WaitGroup
	for worker := range 8 {
		calls.Go(func() {
			for range 50 {
				status := 404
				if worker%2 == 0 {
					status = 200
				}
				call(t, t.Context(), &steadyhttp.Transport{Base: script(answers(503, ""), answers(status, "")), Policy: every(0), Trace: hooks})
			}
		})
	}
	calls.Wait()
	assertLines(t, "attempts", points(t, s.collect(t)["steadyhttp.call.attempts"]), "error.type=404 n=200 sum=400", "n=200 sum=400")
	assertLines(t, "delays", points(t, s.collect(t)["steadyhttp.retry.delay"]), "steadyhttp.delay.source=backoff n=400 sum=0")
}

// states yields states in the order of their names.
func states(all map[string]quota.State) iter.Seq2[string, quota.State] {
	return func(yield func(string, quota.State) bool) {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if !yield(name, all[name]) {
				return
			}
		}
	}
}

// The gauges say what the quotas do, at the time of each collection, until they are no longer asked
// to.
func TestObserveQuotas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		busy := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Minute}, {N: 10, Per: time.Hour}}}
		idle := &quota.Quota{Windows: []quota.Window{{N: 5, Per: time.Minute}}}
		registration, err := steadyotel.ObserveQuotas(steadyotel.Config{MeterProvider: s.meters}, func(yield func(string, quota.State) bool) {
			_ = yield("machines", busy.State()) && yield("alerts", idle.State())
		})
		if err != nil {
			t.Fatal(err)
		}
		assertGauge := func(name string, want ...string) {
			t.Helper()
			assertLines(t, name, points(t, s.collect(t)["steadyhttp.quota."+name]), want...)
		}
		const (
			alerts        = "steadyhttp.quota.name=alerts"
			alertsMinute  = "steadyhttp.quota.name=alerts steadyhttp.quota.window=minute"
			machines      = "steadyhttp.quota.name=machines"
			machinesHour  = "steadyhttp.quota.name=machines steadyhttp.quota.window=hour"
			machineMinute = "steadyhttp.quota.name=machines steadyhttp.quota.window=minute"
		)
		assertGauge("used", alertsMinute+" 0", machinesHour+" 0", machineMinute+" 0")

		ctx, cancel := context.WithCancel(t.Context())
		rt := &steadyhttp.Transport{Base: answers(200, ""), Gates: []steadyhttp.Gate{busy}}
		var calls sync.WaitGroup
		for range 5 {
			calls.Go(func() { call(t, ctx, rt) })
		}
		synctest.Wait() // three have gone, two are in line
		assertGauge("used", alertsMinute+" 0", machinesHour+" 3", machineMinute+" 3")
		assertGauge("free", alertsMinute+" 5", machinesHour+" 7", machineMinute+" 0")
		assertGauge("limit", alertsMinute+" 5", machinesHour+" 10", machineMinute+" 3")
		assertGauge("waiting", alerts+" 0", machines+" 2")

		cancel()
		calls.Wait()
		time.Sleep(2 * time.Minute)
		assertGauge("used", alertsMinute+" 0", machinesHour+" 3", machineMinute+" 0")
		assertGauge("free", alertsMinute+" 5", machinesHour+" 7", machineMinute+" 3")
		assertGauge("waiting", alerts+" 0", machines+" 0")

		if err := registration.Unregister(); err != nil {
			t.Fatal(err)
		}
		for name := range s.collect(t) {
			t.Errorf("%s is still observed", name)
		}
	})
}

// Windows have the names that people give them, and else their durations.
func TestQuotaWindowNames(t *testing.T) {
	var state quota.State
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 15 * time.Minute} {
		state.Windows = append(state.Windows, quota.WindowState{Window: quota.Window{N: 9, Per: per}, Limit: 4})
	}
	s := newSDK(t)
	if _, err := steadyotel.ObserveQuotas(steadyotel.Config{MeterProvider: s.meters}, states(map[string]quota.State{"\xff": state})); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, window := range []string{"15m0s", "day", "hour", "minute", "second"} {
		want = append(want, "steadyhttp.quota.name=? steadyhttp.quota.window="+window+" 4")
	}
	assertLines(t, "limits", points(t, s.collect(t)["steadyhttp.quota.limit"]), want...)
}

// Nothing to observe is a mistake, to be told at once.
func TestObserveNothing(t *testing.T) {
	s := newSDK(t)
	registration, err := steadyotel.ObserveQuotas(steadyotel.Config{MeterProvider: s.meters}, nil)
	if err == nil || registration != nil || !strings.HasPrefix(err.Error(), "steadyotel: ") {
		t.Errorf("got %v, %v", registration, err)
	}
}

// Where no provider is set, nothing is recorded, and nothing fails.
func TestNoMeterProvider(t *testing.T) {
	if !alone(t) {
		return
	}
	registration, err := steadyotel.ObserveQuotas(steadyotel.Config{}, func(func(string, quota.State) bool) { t.Error("asked for quotas") })
	if err != nil {
		t.Fatal(err)
	}
	s := newSDK(t)
	hooks := steadyotel.New(steadyotel.Config{TracerProvider: s.tracers})
	call(t, t.Context(), &steadyhttp.Transport{Base: script(answers(404, "")), Gates: []steadyhttp.Gate{delay(time.Millisecond)}, Trace: hooks})
	assertText(t, "outcomes", s.outcomes(), "call GET: error 404; GET: error 404")
	if n := len(s.collect(t)); n != 0 {
		t.Errorf("%d metrics", n)
	}
	if err := registration.Unregister(); err != nil {
		t.Error(err)
	}
}
