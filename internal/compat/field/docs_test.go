package field

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	page  = "../../../docs/reliability.md"
	begin = "<!-- field: begin; go test -run Field . -write -->\n"
	end   = "<!-- field: end -->\n"
)

// inDocs holds the table of docs/reliability.md, or writes it.
func inDocs(t *testing.T, list []field, all []client, results [][]string) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	was, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	is := markdown(list, all, results)
	if *write {
		if err := os.WriteFile(page, []byte(before+begin+is+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if was != is {
		t.Errorf("%s has another table; go test -run Field . -write\n%s", page, different(was, is))
	}
}

func different(was, is string) string {
	old := make(map[string]bool)
	for line := range strings.Lines(was) {
		old[line] = true
	}
	var b strings.Builder
	for line := range strings.Lines(is) {
		if !old[line] {
			b.WriteString(line)
		}
	}
	return b.String()
}

func markdown(list []field, all []client, results [][]string) string {
	var b strings.Builder
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", "\\|")
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	head := []string{fmt.Sprintf("%d cases", len(list))}
	for _, c := range all {
		head = append(head, c.name)
	}
	row(head...)
	fmt.Fprintf(&b, "|---|%s\n", strings.Repeat("---:|", len(all)))
	kinds := []string{""}
	for _, f := range list {
		if kinds[len(kinds)-1] != f.kind {
			kinds = append(kinds, f.kind)
		}
	}
	for _, kind := range kinds {
		name := kind
		if kind == "" {
			name = "all"
		}
		row(append([]string{name}, shares(list, results, kind)...)...)
	}
	kind := ""
	for i, f := range list {
		if f.kind != kind {
			kind = f.kind
			fmt.Fprintf(&b, "\n### %s\n\n", strings.ToUpper(kind[:1])+kind[1:])
			head := []string{"Case", "Right is", "Source"}
			for _, c := range all {
				head = append(head, c.name)
			}
			row(head...)
			fmt.Fprintf(&b, "|---|---|---|%s\n", strings.Repeat("---|", len(all)))
		}
		row(append([]string{f.name, f.rule, "`" + f.source + "`"}, results[i]...)...)
	}
	return b.String()
}
