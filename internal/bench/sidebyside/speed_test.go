package sidebyside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azruntime "github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/steadyhttp/steadyhttp"
	steadyotel "github.com/steadyhttp/steadyhttp/otel"
)

const (
	content  = `{"id":"123123123","computerDnsName":"host","healthStatus":"Active"}`
	order    = `{"Comment":"c","IsolationType":"Full"}`
	envelope = `{"error":{"code":"ResourceNotFound","message":"Machine 123123123 was not found",` +
		`"target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`
	address = "http://api.test/machines/123123123"
)

// memory answers without a network, with no more work than a RoundTripper must do. Behind an
// *http.Transport it is what all clients expect to have below them.
type memory struct {
	n       atomic.Int64
	each    int64 // every call's first each answers are fault
	fault   int
	message string // fault's
	final   int    // 0: 200
}

func (m *memory) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	status, text := max(m.final, http.StatusOK), content
	if m.final != 0 {
		text = m.message
	}
	if m.each > 0 && m.n.Add(1)%(m.each+1) != 0 {
		status, text = m.fault, m.message
	}
	resp := &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
		ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
	}
	if text != "" {
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	}
	return resp, nil
}

// below is an *http.Transport that answers out of memory.
func below(m *memory) *http.Transport {
	t := &http.Transport{}
	t.RegisterProtocol("http", m)
	return t
}

// unpaid spares the budget: half of all attempts fail here.
func unpaid(t *steadyhttp.Transport) { t.Policy.Budget = &steadyhttp.Budget{Max: -1} }

// row is one measurement.
type row struct {
	name string
	// op makes one client's operation; nil, and why, if it has none.
	op func(c client) (func() error, string)
	// unlike says which of the work others leave out.
	unlike string
}

func rows(b testing.TB) []row {
	ctx := b.Context()
	call := func(m func() *memory, s settings, body []byte, status int) func(client) (func() error, string) {
		return func(c client) (func() error, string) {
			base := m()
			if base.each > 0 && c.name == bare {
				// What a retry costs above its two calls.
				do := c.new(below(base), s)
				return func() error {
					for range base.each {
						resp, err := do(ctx, address, body)
						if err != nil {
							return err
						}
						finish(resp)
					}
					return expect(do, ctx, body, status)
				}, ""
			}
			if base.each > 0 && c.never != "" {
				return nil, c.never
			}
			do := c.new(below(base), s)
			return func() error { return expect(do, ctx, body, status) }, ""
		}
	}
	once := settings{attempts: 4}
	again := settings{attempts: 4, steady: unpaid}
	well := func() *memory { return &memory{} }
	return []row{
		{name: "GET, answered 200", op: call(well, once, nil, 200),
			unlike: "It has no budget that a success pays into, and no settings of one call to look for"},
		{name: "POST, answered 200", op: call(well, once, []byte(order), 200),
			unlike: "They do not note whether it was sent, which says if a retry would be a second order"},
		{name: "GET, retried after an empty 500", op: call(func() *memory {
			return &memory{each: 1, fault: 500}
		}, again, nil, 200), unlike: "They go by the status alone"},
		{name: "GET, retried after a 500 with an envelope", op: call(func() *memory {
			return &memory{each: 1, fault: 500, message: envelope}
		}, again, nil, 200), unlike: "They do not read what the service says"},
		{name: "GET, answered 404 with an envelope", op: call(func() *memory {
			return &memory{final: 404, message: envelope}
		}, once, nil, 404), unlike: "They do not read what the service says; the next column has those who do"},
		{name: "the same, and its code told", op: func(c client) (func() error, string) {
			do := c.new(below(&memory{final: 404, message: envelope}), once)
			return func() error {
				resp, err := do(ctx, address, nil)
				if err != nil {
					return err
				}
				defer finish(resp)
				if code := codeOf(c, resp); code != "ResourceNotFound" {
					return fmt.Errorf("the code is %q", code)
				}
				return nil
			}, ""
		}, unlike: "By encoding/json into a struct of that service's own envelope"},
		{name: "GET with a span and metrics for each attempt", op: spans(b),
			unlike: "steadyotel makes two spans, theirs is one"},
	}
}

func expect(do do, ctx context.Context, body []byte, status int) error {
	resp, err := do(ctx, address, body)
	if err != nil {
		return err
	}
	finish(resp)
	if resp.StatusCode != status {
		return fmt.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	return nil
}

// codeOf reads the service's code with what a client has for it, or else with encoding/json.
func codeOf(c client, resp *http.Response) string {
	switch c.name {
	case steadyName:
		failed, _ := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp))
		return failed.Code
	case "azcore":
		failed, _ := errors.AsType[*azcore.ResponseError](azruntime.NewResponseError(resp))
		return failed.ErrorCode
	}
	var e struct {
		Error struct{ Code, Message, Target string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		return err.Error()
	}
	return e.Error.Code
}

// spans has otelhttp below every client but ours, which brings its own hooks.
func spans(b testing.TB) func(client) (func() error, string) {
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{}))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	return func(c client) (func() error, string) {
		ctx, span := tracers.Tracer("caller").Start(b.Context(), "caller")
		b.Cleanup(func() { span.End() })
		var base http.RoundTripper = below(&memory{})
		s := settings{attempts: 4}
		if c.name == steadyName {
			hooks := steadyotel.New(steadyotel.Config{TracerProvider: tracers, MeterProvider: meters})
			s.steady = func(t *steadyhttp.Transport) { t.Trace = hooks }
		} else {
			base = otelhttp.NewTransport(base, otelhttp.WithTracerProvider(tracers),
				otelhttp.WithMeterProvider(meters), otelhttp.WithPropagators(propagation.TraceContext{}))
		}
		do := c.new(base, s)
		return func() error { return expect(do, ctx, nil, 200) }, ""
	}
}

// discard is an exporter's place without an exporter.
type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }

// figure is what one client took for one row.
type figure struct {
	value  float64 // nanoseconds, bytes, calls a second
	allocs float64
	why    string // there is none
}

// interleave measures a row's clients in turns, so that what else the machine does meets all of
// them, and returns medians.
func interleave(t *testing.T, r row, list []client, rounds int, each time.Duration) []figure {
	ops, figures := make([]func() error, len(list)), make([]figure, len(list))
	times, allocs := make([][]float64, len(list)), make([][]float64, len(list))
	for i, c := range list {
		ops[i], figures[i].why = r.op(c)
		if ops[i] == nil {
			continue
		}
		for range 10 {
			if err := ops[i](); err != nil {
				t.Fatalf("%s, %s: %v", r.name, c.name, err)
			}
		}
	}
	for range rounds {
		for _, i := range rand.Perm(len(list)) {
			if ops[i] == nil {
				continue
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			n, began := 0, spent()
			for n == 0 || spent()-began < each {
				for range 50 {
					if err := ops[i](); err != nil {
						t.Fatalf("%s, %s: %v", r.name, list[i].name, err)
					}
				}
				n += 50
			}
			took := spent() - began
			runtime.ReadMemStats(&after)
			times[i] = append(times[i], float64(took.Nanoseconds())/float64(n))
			allocs[i] = append(allocs[i], float64(after.Mallocs-before.Mallocs)/float64(n))
		}
	}
	for i := range list {
		if ops[i] != nil {
			figures[i].value, figures[i].allocs = median(times[i]), median(allocs[i])
		}
	}
	return figures
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	if len(values) == 0 {
		return 0
	}
	return values[len(values)/2]
}

// waiting is how many bytes a call holds on to while it waits for its retry after a 503 with an
// envelope, its goroutine's stack included. Each has had a connection of its own, as most do where
// many calls run at once: of those that have been used, net/http keeps two to a host.
func waiting(t *testing.T, list []client, calls int) []figure {
	var figures []figure
	for _, c := range list {
		if c.name == bare {
			figures = append(figures, figure{why: "it does not retry"})
			continue
		}
		figures = append(figures, figure{value: float64(heldBy(t, c, calls)) / float64(calls)})
	}
	return figures
}

func heldBy(t *testing.T, c client, calls int) int64 {
	var answered atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, envelope)
		answered.Add(1)
	}))
	defer server.Close()
	base := &http.Transport{DisableKeepAlives: true}
	do := c.new(base, settings{attempts: 4, wait: time.Minute, mostWait: time.Minute, steady: unpaid})
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	before := inUse()
	for i := range calls {
		group.Go(func() {
			resp, err := do(ctx, server.URL, nil)
			if err == nil {
				finish(resp)
			}
			if ctx.Err() == nil {
				t.Errorf("%s: the call has not waited: %v", c.name, err)
			}
		})
		// One after the other: what all of them need at once to get there stays in the heap's holes.
		for answered.Load() <= int64(i) {
			time.Sleep(100 * time.Microsecond)
		}
	}
	for was := 0; was != runtime.NumGoroutine(); { // connections take a while to be closed
		was = runtime.NumGoroutine()
		time.Sleep(100 * time.Millisecond)
	}
	return inUse() - before
}

func inUse() int64 {
	for range 3 { // what ended goroutines had is freed by the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// throughput is how many GETs a second of processor time 8 callers get over the loopback that are
// answered with a status and a text.
func throughput(t *testing.T, list []client, status int, text string, rounds int, each time.Duration) []figure {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, text)
	}))
	defer server.Close()
	dos, rates := make([]do, len(list)), make([][]float64, len(list))
	for i, c := range list {
		base := &http.Transport{MaxIdleConnsPerHost: 8}
		defer base.CloseIdleConnections()
		dos[i] = c.new(base, settings{attempts: 4, wait: time.Millisecond, mostWait: time.Second})
	}
	for range rounds {
		for _, i := range rand.Perm(len(list)) {
			var calls atomic.Int64
			var group sync.WaitGroup
			began := spent()
			for range 8 {
				group.Go(func() {
					for spent()-began < each {
						resp, err := dos[i](t.Context(), server.URL, nil)
						if err != nil {
							t.Error(err)
							return
						}
						if status >= 400 {
							if code := codeOf(list[i], resp); code != "ResourceNotFound" {
								t.Errorf("%s: the code is %q", list[i].name, code)
							}
						}
						finish(resp)
						calls.Add(1)
					}
				})
			}
			group.Wait()
			rates[i] = append(rates[i], float64(calls.Load())/(spent()-began).Seconds())
		}
	}
	figures := make([]figure, len(list))
	for i := range list {
		figures[i].value = median(rates[i])
	}
	return figures
}
