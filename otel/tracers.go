package steadyotel

import (
	"reflect"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracers finds the tracer, which a program may set up after it has made its Transport.
type tracers struct {
	provider trace.TracerProvider // nil: the global one
	found    atomic.Pointer[trace.Tracer]
}

// get returns the tracer, and whether it could record anything at all. Where it can't, its spans are not worth making.
func (t *tracers) get() (trace.Tracer, bool) {
	if found := t.found.Load(); found != nil {
		return *found, !silent(*found)
	}
	provider := t.provider
	if provider == nil || placeholder(provider) {
		provider = otel.GetTracerProvider()
	}
	if placeholder(provider) {
		// Nobody has set one yet. Its tracer would pass a later one's spans on, but not tell whether there is one.
		return nil, false
	}
	tracer := provider.Tracer(scope)
	t.found.Store(&tracer)
	return tracer, !silent(tracer)
}

// silent knows the one tracer that is sure never to record. One that samples nothing is not silent: it decides anew each time.
func silent(tracer trace.Tracer) bool {
	_, ok := tracer.(noop.Tracer)
	return ok
}

// placeholder reports whether x is what package otel has in the place of a provider that nobody has set. Its types are
// not exported. If they ever move, a program without a provider is slower, and nothing else changes.
func placeholder(x any) bool {
	t := reflect.TypeOf(x)
	return t.Kind() == reflect.Pointer && strings.HasSuffix(t.Elem().PkgPath(), "otel/internal/global")
}

// propagator is looked up at each use: a program may set the global one at any time.
func (t *telemetry) propagator() propagation.TextMapPropagator {
	if t.config.Propagator != nil {
		return t.config.Propagator
	}
	global := otel.GetTextMapPropagator()
	if placeholder(global) && len(global.Fields()) == 0 {
		return propagation.TraceContext{}
	}
	return global
}

// carrier is a header. W3C's names come in lower case, and the canonical form of a name that net/http does not know has to be
// made each time.
type carrier struct{ propagation.HeaderCarrier }

func (c carrier) Set(key, value string) {
	switch key {
	case "traceparent":
		key = "Traceparent"
	case "tracestate":
		key = "Tracestate"
	case "baggage":
		key = "Baggage"
	}
	c.HeaderCarrier.Set(key, value)
}

// meterOf needs no such care: the instruments of package otel's placeholder do tell whether they measure.
func meterOf(c Config) metric.Meter {
	provider := c.MeterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	return provider.Meter(scope)
}
