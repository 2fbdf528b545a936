package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// newKeeper returns a tracer whose spans come to what it keeps.
func newKeeper() (trace.Tracer, *lastFailed) {
	kept := &lastFailed{}
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(kept)).Tracer("test"), kept
}

func printed(call *callSpans) string {
	var out bytes.Buffer
	printTree(&out, call)
	return out.String()
}

// failedOutcome is a call that the demo lists as failed for good.
type failedOutcome struct{ method, path, target string }

// failedOutcomes reads them out of what the demo printed.
func failedOutcomes(t *testing.T, out string) []failedOutcome {
	t.Helper()
	_, list, _ := strings.Cut(out, "Failed for good through steadyhttp: ")
	var failures []failedOutcome
	for _, found := range regexp.MustCompile(`(?m)^  ([A-Z]+) (/\S+)\n    .* tracking ID ([0-9a-f-]{36})\b`).FindAllStringSubmatch(list, -1) {
		failures = append(failures, failedOutcome{found[1], found[2], found[3]})
	}
	if len(failures) != 4 {
		t.Fatalf("want the demo's four mistakes, got %v from\n%s", failures, out)
	}
	return failures
}

// The tree is of the call that the report lists last, with its tracking ID on the call and on its
// last attempt. A collector that isn't there costs a line, and nothing else.
func TestDemoTrace(t *testing.T) {
	t.Parallel() // it waits for quotas more than it works
	closed := httptest.NewServer(nil)
	closed.Close()
	code, out, progress := steady(t, "demo", "-machines", "2", "-faults", "0", "-trace", "-otlp", closed.URL)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, progress)
	}
	last := failedOutcomes(t, out)[3]
	_, tree, ok := strings.Cut(out, "The last call that failed for good, as OpenTelemetry has it: trace ")
	if !ok {
		t.Fatalf("no tree in\n%s", out)
	}
	for _, line := range []string{
		`^[0-9a-f]{32}$`,
		`^call ` + last.method + ` ` + last.path + ` +[\d.]+ ms  error MaximumBatchSizeExceeded$`,
		`^│  steadyhttp\.error\.target +` + last.target + `$`,
		`^│  steadyhttp\.stop +permanent$`,
		`^└─ ` + last.method + ` ` + last.path + ` +\+[\d.]+ ms +[\d.]+ ms  error MaximumBatchSizeExceeded$`,
		`^      http\.response\.status_code  400$`,
		`^      steadyhttp\.error\.target +` + last.target + `$`,
	} {
		if !regexp.MustCompile(`(?m)` + line).MatchString(tree) {
			t.Errorf("no line %s in\n%s", line, tree)
		}
	}
	for line := range strings.SplitSeq(tree, "\n") {
		if width(line) > treeWidth || strings.TrimRight(line, " ") != line || strings.ContainsRune(line, '\x1b') {
			t.Errorf("the line %q", line)
		}
	}
	// On a busy machine there is also a line every 3 s.
	under := regexp.MustCompile(`calls done$|: \d+ of about \d+ calls$|^$`)
	said := slices.DeleteFunc(strings.Split(progress, "\n"), under.MatchString)
	if len(said) != 1 || !strings.HasPrefix(said[0], "steady: -otlp: 0 spans and 0 metrics went to "+closed.URL+": ") ||
		!strings.Contains(said[0], "refused") {
		t.Errorf("said %q", said)
	}
}

// A call that waited for its quota and was retried, in the order of time. The clock is a false one,
// so that all of it is known.
func TestTreeOfRetriedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracer, kept := newKeeper()
		ctx, call := tracer.Start(t.Context(), "call GET /api/machines/{id}", trace.WithAttributes(attribute.String("server.address", "api.example")))
		time.Sleep(350 * time.Millisecond)
		call.AddEvent("steadyhttp.waited", trace.WithAttributes(attribute.Float64("steadyhttp.wait", 0.350000001)))
		_, first := tracer.Start(ctx, "GET /api/machines/{id}")
		time.Sleep(1500 * time.Microsecond)
		first.SetStatus(codes.Error, "read: connection reset")
		first.SetAttributes(attribute.String("error.type", "connection_reset"))
		first.End()
		call.AddEvent("steadyhttp.retrying", trace.WithAttributes(attribute.Int("http.request.resend_count", 1)))
		time.Sleep(2 * time.Second)
		_, second := tracer.Start(ctx, "GET /api/machines/{id}")
		time.Sleep(12 * time.Millisecond)
		second.SetStatus(codes.Error, "")
		second.SetAttributes(attribute.Int("http.response.status_code", 404), attribute.String("error.type", "404"))
		second.End()
		call.SetStatus(codes.Error, "")
		call.SetAttributes(attribute.String("error.type", "404"))
		call.End()

		_, got, _ := strings.Cut(printed(kept.call()), "\n\n")
		want := `call GET /api/machines/{id}            2364 ms  error 404
│  server.address                api.example
│  error.type                    404
├· steadyhttp.waited          +350 ms
│     steadyhttp.wait            0.350 s
├─ GET /api/machines/{id}     +350 ms   1.5 ms  error connection_reset
│     error.type                 connection_reset
│     otel.status_description    read: connection reset
├· steadyhttp.retrying        +352 ms
│     http.request.resend_count  1
└─ GET /api/machines/{id}    +2352 ms    12 ms  error 404
      http.response.status_code  404
      error.type                 404
`
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// Nothing that came from elsewhere may speak to the terminal, and a long text is broken at spaces
// only.
func TestTreeOfStrangeText(t *testing.T) {
	tracer, kept := newKeeper()
	_, call := tracer.Start(t.Context(), "call GET \x1b[2J\u202e", trace.WithAttributes(
		attribute.String("k\ney", "a\tb\u200b\x9b\xff"),
		attribute.String("text", strings.Repeat("wide open ", 20)),
		attribute.String("url", strings.Repeat("x", 150)),
		attribute.StringSlice("list", []string{"\x07"}),
	))
	call.AddEvent("event\r")
	call.SetStatus(codes.Error, "the\nend")
	call.SetAttributes(attribute.String("error.type", "\x1b[31m"))
	call.End()
	out := printed(kept.call())
	for line := range strings.SplitSeq(out, "\n") {
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("the line %q", line)
		}
		if width(line) > treeWidth && !strings.Contains(line, strings.Repeat("x", 150)) {
			t.Errorf("a line of %d: %s", width(line), line)
		}
	}
	for _, part := range []string{`call GET \x1b[2J\u202e`, `a\tb\u200b`, `k\ney`, `error \x1b[31m`, `event\r`, `the\nend`} {
		if !strings.Contains(out, part) {
			t.Errorf("no %s in\n%s", part, out)
		}
	}
	if got := strings.Count(out, "wide open"); got != 20 {
		t.Errorf("%d of 20 pieces of a long text in\n%s", got, out)
	}
}

func TestTreeOfNoFailure(t *testing.T) {
	tracer, kept := newKeeper()
	_, call := tracer.Start(t.Context(), "call")
	call.End()
	if out := printed(kept.call()); !strings.Contains(out, "No call failed for good") {
		t.Errorf("got %q", out)
	}
}

// What is kept is the last failed call, whole, and no more of anything than is promised.
func TestLastFailedIsBounded(t *testing.T) {
	tracer, kept := newKeeper()
	fail := func(name string, attempts int) {
		ctx, call := tracer.Start(context.Background(), name)
		for i := range attempts {
			_, attempt := tracer.Start(ctx, fmt.Sprint(i))
			attempt.End()
		}
		call.SetStatus(codes.Error, errors.ErrUnsupported.Error())
		call.End()
	}
	fail("first", 1)
	fail("second", maxSpans+9)
	_, good := tracer.Start(context.Background(), "good")
	good.End()

	call := kept.call()
	if len(call.spans) != maxSpans || call.lost != 10 || call.spans[maxSpans-1].Name() != "second" || call.spans[0].Name() != "10" {
		t.Errorf("got %d spans, %d lost", len(call.spans), call.lost)
	}
	if out := printed(call); !strings.Contains(out, "Its first 10 spans were not kept.") {
		t.Errorf("got\n%s", out)
	}
	if len(kept.open) != 0 {
		t.Errorf("%d calls are still open", len(kept.open))
	}
	for range maxOpen + 10 {
		ctx, _ := tracer.Start(context.Background(), "never ends")
		_, attempt := tracer.Start(ctx, http.MethodGet)
		attempt.End()
	}
	if len(kept.open) != maxOpen {
		t.Errorf("%d calls are open, want %d", len(kept.open), maxOpen)
	}
	fail("third", 0)
	if got := kept.call().spans; len(got) != 1 || got[0].Name() != "third" {
		t.Errorf("got %d spans", len(got))
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		value string
		want  []string
	}{
		{"", []string{""}},
		{"four", []string{"four"}},
		{"12345 7890", []string{"12345 7890"}},
		{"12345 7890 1", []string{"12345 7890", "1"}},
		{"a tracking-id-is-whole b", []string{"a", "tracking-id-is-whole", "b"}},
	} {
		if got := wrap(c.value, 10); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.value, got, c.want)
		}
	}
}
