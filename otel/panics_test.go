package steadyotel_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// countdown panics, or ends its goroutine, at the nth time that it is asked.
type countdown struct {
	left int
	exit bool
}

func (c *countdown) tick() {
	if c.left--; c.left != 0 {
		return
	}
	if c.exit {
		runtime.Goexit()
	}
	panic("boom")
}

type tickingSampler struct{ *countdown }

func (s tickingSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	s.tick()
	return sdktrace.AlwaysSample().ShouldSample(p)
}
func (tickingSampler) Description() string { return "panics" }

type tickingPropagator struct {
	propagation.TraceContext
	*countdown
}

func (p tickingPropagator) Inject(context.Context, propagation.TextMapCarrier) { p.tick() }

// tickingProcessor panics as a span begins, or as it ends.
type tickingProcessor struct {
	*countdown
	atEnd bool
}

func (p tickingProcessor) OnStart(context.Context, sdktrace.ReadWriteSpan) {
	if !p.atEnd {
		p.tick()
	}
}

func (p tickingProcessor) OnEnd(sdktrace.ReadOnlySpan) {
	if p.atEnd {
		p.tick()
	}
}
func (tickingProcessor) Shutdown(context.Context) error   { return nil }
func (tickingProcessor) ForceFlush(context.Context) error { return nil }

type tickingError struct {
	error
	*countdown
}

func (e tickingError) Error() string { e.tick(); return "lost" }
func (e tickingError) Unwrap() error { return e.error }

// Wherever in a call the code that we are given panics or ends its goroutine, what has begun ends:
// each span once, the count of calls under way, and the measurements of whatever was begun.
func TestAPanicAtAnyStepEndsWhatHasBegun(t *testing.T) {
	for name, set := range map[string]func(*countdown, *steadyotel.Config) sdktrace.TracerProviderOption{
		"Route": func(c *countdown, config *steadyotel.Config) sdktrace.TracerProviderOption {
			config.Route = func(*http.Request) string { c.tick(); return "/machines/{id}" }
			return sdktrace.WithSampler(sdktrace.AlwaysSample())
		},
		"sampler": func(c *countdown, config *steadyotel.Config) sdktrace.TracerProviderOption {
			return sdktrace.WithSampler(tickingSampler{c})
		},
		"propagator": func(c *countdown, config *steadyotel.Config) sdktrace.TracerProviderOption {
			config.Propagator = tickingPropagator{countdown: c}
			return sdktrace.WithSampler(sdktrace.AlwaysSample())
		},
		"OnEnd": func(c *countdown, config *steadyotel.Config) sdktrace.TracerProviderOption {
			return sdktrace.WithSpanProcessor(tickingProcessor{c, true})
		},
		"an error's text": func(*countdown, *steadyotel.Config) sdktrace.TracerProviderOption {
			return sdktrace.WithSampler(sdktrace.AlwaysSample())
		},
	} {
		for _, exit := range []bool{false, true} {
			for _, callSpan := range []steadyotel.CallSpan{steadyotel.CallSpanAuto, steadyotel.CallSpanNever} {
				for n := 1; n <= 12; n++ {
					where := fmt.Sprintf("%s, exit %v, %q, %d", name, exit, callSpan, n)
					c := &countdown{n, exit}
					config := steadyotel.Config{CallSpan: callSpan}
					s, callers := newSDK(t, set(c, &config)), newSDK(t)
					lost := tickingError{syscall.ECONNRESET, c}
					ends := []roundTripper{
						answers(200, "body"), answers(404, envelope("C", "T")), failsWith(errors.New("lost")),
						withBody(200, brokenBody(syscall.ECONNRESET)),
					}
					if name == "an error's text" {
						ends = []roundTripper{failsWith(lost), withBody(200, brokenBody(lost))}
					}
					for i, end := range ends {
						rt := &steadyhttp.Transport{
							Base: script(answers(503, ""), end), Policy: every(0), Trace: s.trace(config),
						}
						rt.Policy.MaxAttempts = 2
						done := make(chan struct{})
						go func() { // which Goexit ends
							defer close(done)
							defer func() { recover() }()
							ctx, over := callers.caller(context.Background())
							if i%2 == 0 {
								ctx = trace.ContextWithSpan(ctx, nil)
							}
							defer over()
							call(t, ctx, rt)
						}()
						<-done
					}
					metrics := s.collect(t)
					if m, ok := metrics["steadyhttp.call.active"]; ok {
						assertLines(t, where+": calls under way", points(t, m), "0")
					}
					calls := 0
					for _, p := range points(t, metrics["steadyhttp.call.attempts"]) {
						var k int
						fmt.Sscanf(p[strings.Index(p, "n="):], "n=%d", &k)
						calls += k
					}
					durations := 0
					for _, p := range points(t, metrics["steadyhttp.call.duration"]) {
						var k int
						fmt.Sscanf(p[strings.Index(p, "n="):], "n=%d", &k)
						durations += k
					}
					least := len(ends)
					if (name == "Route" || name == "sampler") && callSpan != steadyotel.CallSpanNever {
						least-- // of a Start that panics, no Done is told
					}
					if calls < least || durations < least {
						t.Errorf("%s: %d and %d of %d calls are measured", where, calls, durations, len(ends))
					}
					for _, span := range s.spans() {
						if !ended(span) {
							t.Errorf("%s: %s has not ended", where, span.Name())
						}
					}
				}
			}
		}
	}
}
