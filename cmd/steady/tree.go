package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

const (
	treeWidth = 100 // of lines, where the terminal has room for them
	minValue  = 24  // however narrow it is, so much of a value stands on a line
)

// printTree prints the spans of a call with what is on them. nil: no call has failed.
func printTree(w io.Writer, call *callSpans) {
	fmt.Fprintln(w)
	if call == nil {
		fmt.Fprintln(w, "No call failed for good, so there is no span tree to show.")
		return
	}
	t := &tree{children: make(map[trace.SpanID][]sdktrace.ReadOnlySpan)}
	root := call.spans[len(call.spans)-1]
	for _, s := range call.spans[:len(call.spans)-1] {
		t.children[s.Parent().SpanID()] = append(t.children[s.Parent().SpanID()], s)
	}
	t.began = root.StartTime()
	t.span(root, "", "")
	textOf(w).line("", fmt.Sprintf("The last call that failed for good, as OpenTelemetry has it: trace %s",
		root.SpanContext().TraceID()))
	if call.lost > 0 {
		fmt.Fprintf(w, "Its first %d spans were not kept.\n", call.lost)
	}
	fmt.Fprintln(w)
	t.print(w)
}

// tree is what is printed of a call, made line by line.
type tree struct {
	children map[trace.SpanID][]sdktrace.ReadOnlySpan // by their parent
	began    time.Time                                // the call, from which all times are counted
	lines    []treeLine
}

// treeLine is a span or an event, or an attribute of the one above it.
type treeLine struct {
	branch   string // the lines of the tree
	name     string // of a span or an event; of an attribute, its key
	value    string // of an attribute
	isValue  bool
	at, took string
	failure  string // of a span: how it failed
}

// span adds a span and what is on it and below it. branch is what stands before its name, under
// what stands before all lines below that.
func (t *tree) span(s sdktrace.ReadOnlySpan, branch, under string) {
	head := treeLine{branch: branch, name: printable(s.Name()), took: milliseconds(s.EndTime().Sub(s.StartTime()))}
	if s.Parent().IsValid() {
		head.at = "+" + milliseconds(s.StartTime().Sub(t.began))
	}
	if s.Status().Code == codes.Error {
		head.failure = "error"
		for _, a := range s.Attributes() {
			if a.Key == "error.type" {
				head.failure += " " + printable(a.Value.String())
			}
		}
	}
	t.lines = append(t.lines, head)

	parts := t.parts(s)
	trunk := under + "   "
	if len(parts) > 0 {
		trunk = under + "│  "
	}
	t.attributes(trunk, s.Attributes())
	// What OpenTelemetry keeps beside the attributes has these names in formats that have
	// attributes only.
	if said := s.Status().Description; said != "" {
		t.attributes(trunk, []attribute.KeyValue{attribute.String("otel.status_description", said)})
	}
	if n := s.DroppedAttributes(); n > 0 {
		t.attributes(trunk, []attribute.KeyValue{attribute.Int("otel.dropped_attributes_count", n)})
	}
	if n := s.DroppedEvents(); n > 0 {
		t.attributes(trunk, []attribute.KeyValue{attribute.Int("otel.dropped_events_count", n)})
	}
	for i, p := range parts {
		fork, below := "├", under+"│  "
		if i == len(parts)-1 {
			fork, below = "└", under+"   "
		}
		if p.span != nil {
			t.span(p.span, under+fork+"─ ", below)
			continue
		}
		t.lines = append(t.lines, treeLine{branch: under + fork + "· ", name: printable(p.event.Name), at: "+" + milliseconds(p.at.Sub(t.began))})
		t.attributes(below+"   ", p.event.Attributes)
	}
}

// part is what a span has below it: a span or an event.
type part struct {
	at    time.Time
	span  sdktrace.ReadOnlySpan // nil: it is the event
	event sdktrace.Event
}

// parts returns them in the order of time.
func (t *tree) parts(s sdktrace.ReadOnlySpan) []part {
	var parts []part
	for _, e := range s.Events() {
		parts = append(parts, part{at: e.Time, event: e})
	}
	for _, child := range t.children[s.SpanContext().SpanID()] {
		parts = append(parts, part{at: child.StartTime(), span: child})
	}
	slices.SortStableFunc(parts, func(a, b part) int { return a.at.Compare(b.at) })
	return parts
}

func (t *tree) attributes(branch string, list []attribute.KeyValue) {
	for _, a := range list {
		t.lines = append(t.lines, treeLine{branch: branch, name: printable(string(a.Key)), value: printable(valueOf(a)), isValue: true})
	}
}

// valueOf shortens the seconds of a wait, which have a nanosecond's digits.
func valueOf(a attribute.KeyValue) string {
	if a.Key == "steadyhttp.wait" && a.Value.Type() == attribute.FLOAT64 {
		return fmt.Sprintf("%.3f s", a.Value.AsFloat64())
	}
	return a.Value.String()
}

// print lays the columns out: one for the values of attributes, and three for when, how long and
// how it failed.
func (t *tree) print(w io.Writer) {
	var names, keys, at, took int
	for _, l := range t.lines {
		if n := width(l.branch) + width(l.name); l.isValue {
			keys = max(keys, n)
		} else {
			names = max(names, n)
		}
		at, took = max(at, width(l.at)), max(took, width(l.took))
	}
	look := lookOf(w)
	room := max(look.width-keys-2, minValue)
	for _, l := range t.lines {
		if !l.isValue {
			text := fmt.Sprintf("%s%s", look.dim(l.branch), look.bold(l.name))
			times := fmt.Sprintf("%s  %*s  %*s", spaces(names-width(l.branch)-width(l.name)), at, l.at, took, l.took)
			if l.failure != "" {
				times += "  " + look.red(l.failure)
			}
			fmt.Fprintln(w, text+strings.TrimRight(times, " "))
			continue
		}
		gap := spaces(keys - width(l.branch) - width(l.name) + 2)
		for i, piece := range wrap(l.value, room) {
			if i == 0 {
				fmt.Fprintln(w, look.dim(l.branch+l.name)+gap+piece)
			} else {
				fmt.Fprintln(w, look.dim(l.branch)+spaces(keys-width(l.branch)+2)+piece)
			}
		}
	}
}

// wrap breaks a value at spaces into pieces that are not wider than room. A word that is wider
// stays whole, so that a tracking ID or a URL can be copied.
func wrap(value string, room int) []string {
	var pieces []string
	words := strings.Split(value, " ")
	line := words[0]
	for _, word := range words[1:] {
		if width(line)+1+width(word) > room {
			pieces = append(pieces, line)
			line = word
		} else {
			line += " " + word
		}
	}
	return append(pieces, line)
}

// printable escapes all that a terminal might obey.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strings.ToValidUTF8(s, "\ufffd")
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// milliseconds keeps two or three digits of short times.
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 9.95 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func width(s string) int  { return utf8.RuneCountInString(s) }
func spaces(n int) string { return strings.Repeat(" ", max(n, 0)) }

// look is what the place where the tree is printed can show.
type look struct {
	width    int
	coloured bool
}

// lookOf finds colours on terminals only, unless NO_COLOR speaks against them. Older Windows ones
// would print them as they are.
func lookOf(w io.Writer) look {
	f, ok := fileOf(w)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return look{width: treeWidth}
	}
	l := look{
		width:    treeWidth,
		coloured: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && runtime.GOOS != "windows",
	}
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
		l.width = min(l.width, columns)
	}
	return l
}

func (l look) bold(s string) string { return l.paint("1", s) }
func (l look) dim(s string) string  { return l.paint("2", s) }
func (l look) red(s string) string  { return l.paint("31", s) }

func (l look) paint(code, s string) string {
	if !l.coloured || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
