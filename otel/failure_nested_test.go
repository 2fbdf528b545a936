package steadyotel_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// A call that Prepare or a gate makes is on the span of the call that needs it, as on any caller's.
// Its code never stands there beside the ID of that call's own failure.
func TestACallWithinACallDoesNotMixTheirFailures(t *testing.T) {
	bodies := []string{
		envelope("C%d", "T%d"), `{"error":{"code":"C%d"}}`, `{"error":{"innerError":{"request-id":"T%d"}}}`, "",
	}
	numbered := func(body string, n int) string { return strings.ReplaceAll(body, "%d", fmt.Sprint(n)) }
	for _, plain := range []bool{false, true} { // the SDK's own spans, which can be asked, and others
		for _, where := range []string{"Prepare", "gate", "base", "Annotate"} {
			for _, inner := range bodies {
				for _, outer := range bodies {
					name := fmt.Sprintf("%v, %s, %s, then %s", plain, where, inner, outer)
					s := newSDK(t)
					config := steadyotel.Config{TracerProvider: s.tracers, MeterProvider: s.meters}
					if plain {
						config.TracerProvider = s.tracers.TracerProvider
					}
					telemetry := steadyotel.New(config)
					tokens := &steadyhttp.Transport{Base: answers(400, numbered(inner, 1)), Trace: telemetry}
					fetch := func(ctx context.Context) { call(t, ctx, tokens) }
					rt := &steadyhttp.Transport{Base: answers(404, numbered(outer, 2)), Trace: telemetry}
					within := roundTripper(func(req *http.Request) (*http.Response, error) {
						fetch(req.Context())
						return answers(404, numbered(outer, 2))(req)
					})
					switch where {
					case "base":
						rt.Base = within
					case "Annotate":
						config.NoAttemptSpans = true
						rt.Trace, rt.Base = steadyotel.New(config), otelhttp(config.TracerProvider, config.Annotate(within))
					case "gate":
						rt.Gates = []steadyhttp.Gate{gateFunc(func(ctx context.Context, _ steadyhttp.Attempt) (steadyhttp.Pass, error) {
							fetch(ctx)
							return nil, nil
						})}
					default:
						rt.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error { fetch(req.Context()); return nil }
					}
					call(t, t.Context(), rt)
					got := failureOf(s.parent(t))
					want := "1 " + failureIn(numbered(outer, 2))
					onCall := where == "Prepare" || where == "gate"       // is the inner call
					if plain && outer == "" && (inner == "" || !onCall) { // others can't be asked
						want = "- - -"
					}
					assertText(t, name, got, want)
					if of := s.attempts()[0]; !onCall {
						want := failureIn(numbered(outer, 2))
						if outer == "" { // nothing is said of it
							want = failureIn(numbered(inner, 1))
						}
						got := strings.Fields(failureOf(of))
						assertText(t, name+", attempt", got[1]+" "+got[2], want)
					}
					if plain {
						s.recorder.Reset() // their ends were not counted
					}
				}
			}
		}
	}
}

// failureIn tells code and ID of an error's body.
func failureIn(body string) string {
	v := (&steadyhttp.Rules{}).Classify(steadyhttp.Attempt{
		Response: &http.Response{StatusCode: 404}, Body: []byte(body),
	})
	return dash(v.Code) + " " + dash(v.TrackingID)
}

// slowSpan takes long to be asked, so that others get their turn meanwhile.
type slowSpan struct{ trace.Span }

func (s slowSpan) Attributes() []attribute.KeyValue {
	attrs := s.Span.(sdktrace.ReadOnlySpan).Attributes()
	for range 10 {
		runtime.Gosched()
	}
	return attrs
}

// Calls that fail at the same time on one span of their caller do not mix either.
func TestConcurrentFailuresDoNotMix(t *testing.T) {
	s := newSDK(t)
	defer s.recorder.Reset() // the ends of the callers' spans are not counted
	bodies := []string{envelope("C%d", "T%d"), `{"error":{"code":"C%d"}}`, `{"error":{"innerError":{"request-id":"T%d"}}}`}
	mixed := 0
	const rounds = 300
	for range rounds {
		ctx, span := s.tracers.TracerProvider.Tracer("caller").Start(t.Context(), "caller")
		ctx = trace.ContextWithSpan(ctx, slowSpan{span})
		var calls sync.WaitGroup
		for n := range 6 {
			rt := &steadyhttp.Transport{
				Base:  answers(404, strings.ReplaceAll(bodies[n%3], "%d", fmt.Sprint(n))),
				Trace: steadyotel.New(steadyotel.Config{TracerProvider: s.tracers.TracerProvider, MeterProvider: s.meters}),
			}
			calls.Go(func() { call(t, ctx, rt) })
		}
		calls.Wait()
		span.End()
		words := strings.Fields(failureOf(span.(sdktrace.ReadOnlySpan)))
		if code, id := words[1], words[2]; code != "-" && id != "-" && code[1:] != id[1:] {
			mixed++
		}
	}
	if mixed != 0 {
		t.Errorf("%d of %d spans have the code of one failure beside the ID of another", mixed, rounds)
	}
}
