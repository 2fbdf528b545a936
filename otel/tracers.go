package steadyotel

import (
	"reflect"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracers finds the tracer. A program may set it up after it has made its Transport.
type tracers struct {
	provider trace.TracerProvider // nil: the global one
	found    atomic.Pointer[trace.Tracer]
}

// get returns the tracer, and whether it can record at all. If it can't, spans are not worth
// making.
func (t *tracers) get() (trace.Tracer, bool) {
	if found := t.found.Load(); found != nil {
		return *found, !silent(*found)
	}
	provider := t.provider
	if provider == nil || placeholder(provider) {
		provider = otel.GetTracerProvider()
	}
	if placeholder(provider) {
		// Nobody has set one yet. The placeholder's tracer would forward to a later one, but does
		// not tell whether there is one.
		return nil, false
	}
	tracer := provider.Tracer(scope, trace.WithInstrumentationVersion(version()), trace.WithSchemaURL(semconv.SchemaURL))
	t.found.Store(&tracer)
	return tracer, !silent(tracer)
}

// silent reports whether a tracer never records. One whose sampler drops all is not silent: the
// sampler decides anew each time.
func silent(tracer trace.Tracer) bool {
	_, ok := tracer.(noop.Tracer)
	return ok
}

// placeholder reports whether x is package otel's stand-in for a provider that nobody has set. Its
// type is not exported. Should it move, a program without a provider is slower; nothing else
// changes.
func placeholder(x any) bool {
	t := reflect.TypeOf(x)
	return t.Kind() == reflect.Pointer && strings.HasSuffix(t.Elem().PkgPath(), "otel/internal/global")
}

// propagator looks the global one up at each use: a program may set it at any time. As long as
// nobody has, that does nothing: a context is sent only where somebody has asked for it. It goes to
// whoever is called, and tells a stranger that requests belong together.
func (t *telemetry) propagator() propagation.TextMapPropagator {
	if t.config.Propagator != nil {
		return t.config.Propagator
	}
	return otel.GetTextMapPropagator()
}

// carrier is a header that spares an allocation: W3C's names are in lower case, and net/http would
// make the canonical form anew each time.
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

// meterOf needs no tracers' care: the placeholder's instruments do tell whether anybody collects.
func meterOf(c Config) metric.Meter {
	return providerOf(c).Meter(scope, metric.WithInstrumentationVersion(version()), metric.WithSchemaURL(semconv.SchemaURL))
}

func providerOf(c Config) metric.MeterProvider {
	if c.MeterProvider != nil {
		return c.MeterProvider
	}
	return otel.GetMeterProvider()
}

// module is the path of the module that this package is in.
const module = "github.com/steadyhttp/steadyhttp"

// version is that of the module in this program, as the go command has recorded it: a number in the
// source would be forgotten at the next release.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return unreleased
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path != module {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version != "" {
			return m.Version
		}
	}
	return unreleased
}

// unreleased is what the go command calls a module that has no version.
const unreleased = "(devel)"
