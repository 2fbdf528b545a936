package field

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

// TestPageNamesTestsThatExist keeps docs/reliability.md from naming a test that is gone, and from
// leaving a line of the acceptance list out.
func TestPageNamesTestsThatExist(t *testing.T) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("(?:([a-z]+(?:/[a-z]+)*) )?`((?:Test|Fuzz|Benchmark)\\w+)`")
	n, known := 0, make(map[string]map[string]bool)
	has := func(dir, name string) bool {
		if known[dir] == nil {
			known[dir] = tests(t, dir)
		}
		return known[dir][name]
	}
	for line := range strings.Lines(string(b)) {
		in := "" // the root, until the line names a package
		for _, found := range named.FindAllStringSubmatch(line, -1) {
			if dir, err := os.Stat(root + found[1]); err == nil && found[1] != "" && dir.IsDir() {
				in = found[1]
			}
			n++
			if !has(in, found[2]) && !has("", found[2]) {
				t.Errorf("%s: neither %q nor the root has %s", strings.TrimSpace(line), in, found[2])
			}
		}
	}
	if n < 150 {
		t.Errorf("%d tests are named", n)
	}
	lines := map[string]int{"C": 20, "D": 8, "L": 8, "E": 12, "Q": 12, "V": 10, "G": 6}
	for letter, last := range lines {
		for i := 1; i <= last; i++ {
			if row := fmt.Sprintf("\n| %s%02d | ", letter, i); !strings.Contains(string(b), row) {
				t.Errorf("no row %q", row)
			}
		}
	}
}

const root = "../../../"

// tests are the names of a directory's tests.
func tests(t *testing.T, dir string) map[string]bool {
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range declared.FindAllSubmatch(b, -1) {
			names[string(found[1])] = true
		}
	}
	return names
}
