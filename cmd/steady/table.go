package main

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// text writes prose that no line of a terminal breaks in a word.
type text struct {
	w        io.Writer
	width    int
	terminal bool
}

// textOf knows how wide it may be.
func textOf(w io.Writer) text {
	f, ok := fileOf(w)
	return text{w, lookOf(w).width, ok && term.IsTerminal(int(f.Fd()))}
}

// line writes what stays one line in a file, where people search for it.
func (t text) line(indent, line string) {
	if t.terminal {
		t.say(indent, line)
		return
	}
	fmt.Fprintln(t.w, indent+line)
}

// say writes a paragraph, each line behind an indent.
func (t text) say(indent, paragraph string) {
	for _, line := range wrap(paragraph, max(t.width-width(indent), minValue)) {
		fmt.Fprintln(t.w, indent+line)
	}
}

// entry writes a name, and what it is, beside it if there is room.
func (t text) entry(name, what string) {
	const names = 17 // as wide as the longest, with its indent and a gap
	if t.width < 2*names+minValue {
		t.say("  ", name+": "+what)
		return
	}
	for i, line := range wrap(what, t.width-names) {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(t.w, "  %-*s%s\n", names-2, name, line)
	}
}

// table has a column for each run. On a narrow terminal a row's label stands above its cells.
type table struct {
	results []*result
	labels  []string
	cells   [][]string
}

func newTable(results []*result) *table { return &table{results: results} }

// row adds a row.
func (t *table) row(label string, cell func(*result) string) {
	var cells []string
	for _, r := range t.results {
		cells = append(cells, cell(r))
	}
	t.labels, t.cells = append(t.labels, label), append(t.cells, cells)
}

// print lays the table out as the place where it is printed allows.
func (t *table) print(out io.Writer) { t.printWithin(out, lookOf(out).width) }

func (t *table) printWithin(out io.Writer, limit int) {
	first, columns, all := 0, make([]int, len(t.results)), 0
	for _, label := range t.labels {
		first = max(first, width(label))
	}
	for i, r := range t.results {
		columns[i] = width(r.name)
		for _, cells := range t.cells {
			columns[i] = max(columns[i], width(cells[i]))
		}
		all += columns[i]
	}
	gap, narrow := "   ", false
	if first+all+len(gap)*len(columns) > limit {
		gap, narrow, first = "  ", true, 0
	}
	line := func(label string, cell func(i int) string) {
		if narrow && label != "" {
			fmt.Fprintln(out, label)
			label = ""
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%s%s", label, spaces(first-width(label)))
		for i, width := range columns {
			fmt.Fprintf(&b, "%s%*s", gap, width, cell(i))
		}
		fmt.Fprintln(out, strings.TrimRight(b.String(), " "))
	}
	line("", func(i int) string { return t.results[i].name })
	for n, label := range t.labels {
		line(label, func(i int) string { return t.cells[n][i] })
	}
}
