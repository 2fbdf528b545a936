package main

import (
	"context"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// maxOpen bounds the running calls that are remembered, maxSpans the spans of one call. The demo is
// far below both, but a call may be retried without end, and a span may never end.
const (
	maxOpen  = 1024
	maxSpans = 256
)

// lastFailed is a SpanProcessor that keeps the spans of the last call that failed for good. Each
// call is a trace of its own, as nothing in the demo has a span around it.
type lastFailed struct {
	mu     sync.Mutex // guards what follows
	open   map[trace.TraceID]*callSpans
	failed *callSpans // nil: none has
}

// callSpans are the spans of one call, in the order in which they ended: the call's own is the
// last.
type callSpans struct {
	spans []sdktrace.ReadOnlySpan
	lost  int // the earliest, of which there were too many
}

func (f *lastFailed) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (f *lastFailed) OnEnd(s sdktrace.ReadOnlySpan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := s.SpanContext().TraceID()
	call := f.open[id]
	if call == nil {
		call = &callSpans{}
	}
	call.add(s)
	switch {
	case s.Parent().IsValid():
		if f.open == nil {
			f.open = make(map[trace.TraceID]*callSpans)
		}
		if len(f.open) < maxOpen {
			f.open[id] = call
		}
		return
	case s.Status().Code == codes.Error:
		f.failed = call
	}
	delete(f.open, id)
}

func (c *callSpans) add(s sdktrace.ReadOnlySpan) {
	if len(c.spans) == maxSpans {
		c.spans = slices.Delete(c.spans, 0, 1)
		c.lost++
	}
	c.spans = append(c.spans, s)
}

// call returns the last call that failed, nil if none has.
func (f *lastFailed) call() *callSpans {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *lastFailed) ForceFlush(context.Context) error { return nil }
func (f *lastFailed) Shutdown(context.Context) error   { return nil }
