package field

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The pages with the results, each with the kinds that stand there; "" is the sums of all.
var pages = []struct {
	file  string
	kinds []string
}{
	{"reliability.md", []string{""}},
	{"field-retries.md", []string{"what is retried", "the request's body", "time and deadlines"}},
	{"field-waits.md", []string{"how long it waits"}},
	{"field-faults.md", []string{"faults on the wire", "the contract of net/http", "errors and secrets"}},
}

const (
	begin = "<!-- field: begin; go test -run Field . -write -->\n"
	end   = "<!-- field: end -->\n"
)

// inDocs holds the tables of the pages, or writes them.
func inDocs(t *testing.T, list []field, all []client, results [][]string) {
	shown := make(map[string]bool)
	for _, page := range pages {
		var tables []string
		for _, kind := range page.kinds {
			shown[kind] = true
			if kind == "" {
				tables = append(tables, sums(list, all, results))
			} else {
				tables = append(tables, casesOf(kind, list, all, results))
			}
		}
		onPage(t, root+"docs/"+page.file, strings.Join(tables, "\n"))
	}
	for _, kind := range kindsOf(list) {
		if !shown[kind] {
			t.Errorf("no page has the cases of %q", kind)
		}
	}
}

func onPage(t *testing.T, page, is string) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	was, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
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

func kindsOf(list []field) (kinds []string) {
	for _, f := range list {
		if !slices.Contains(kinds, f.kind) {
			kinds = append(kinds, f.kind)
		}
	}
	return kinds
}

func markdownRow(b *strings.Builder, cells ...string) {
	for i := range cells {
		cells[i] = strings.ReplaceAll(cells[i], "|", "\\|")
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// head begins a table that has a column for each client behind those named.
func head(b *strings.Builder, all []client, align string, columns ...string) {
	rule := strings.Repeat("---|", len(columns)) + strings.Repeat(align+"|", len(all))
	for _, c := range all {
		columns = append(columns, c.name)
	}
	markdownRow(b, columns...)
	fmt.Fprintf(b, "|%s\n", rule)
}

func sums(list []field, all []client, results [][]string) string {
	var b strings.Builder
	head(&b, all, "---:", fmt.Sprintf("%d cases", len(list)))
	markdownRow(&b, append([]string{"all"}, shares(list, results, "")...)...)
	for _, kind := range kindsOf(list) {
		markdownRow(&b, append([]string{kind}, shares(list, results, kind)...)...)
	}
	return b.String()
}

func casesOf(kind string, list []field, all []client, results [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", strings.ToUpper(kind[:1])+kind[1:])
	head(&b, all, "---", "Case", "Right is", "Source")
	for i, f := range list {
		if f.kind == kind {
			markdownRow(&b, append([]string{f.name, f.rule, "`" + f.source + "`"}, results[i]...)...)
		}
	}
	return b.String()
}

// TestPagesNameTestsThatExist keeps the fault table and the acceptance list from naming a test that
// is gone, and from leaving a line of the list out.
func TestPagesNameTestsThatExist(t *testing.T) {
	named := regexp.MustCompile("(?:([a-z]+(?:/[a-z]+)*) )?`((?:Test|Fuzz|Benchmark)\\w+)`")
	n, known := 0, make(map[string]map[string]bool)
	has := func(dir, name string) bool {
		if known[dir] == nil {
			known[dir] = tests(t, dir)
		}
		return known[dir][name]
	}
	var both string
	for _, page := range []string{"reliability.md", "acceptance.md"} {
		b, err := os.ReadFile(root + "docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		both += string(b)
	}
	for line := range strings.Lines(both) {
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
			if row := fmt.Sprintf("\n| %s%02d | ", letter, i); !strings.Contains(both, row) {
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
