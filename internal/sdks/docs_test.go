package sdks_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const page = "../../docs/sdks.md"

// table returns the rows below the header that begins so, without the rule.
func table(t *testing.T, header string) [][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+header)
	if !ok {
		t.Fatalf("%s has no table that begins with %q", page, header)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if cells[0] != "" || len(cells) < 3 {
			if len(rows) > 0 {
				return rows
			}
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !strings.HasPrefix(cells[1], "--") {
			rows = append(rows, cells[1:len(cells)-1])
		}
	}
	return rows
}

// tests returns the tests of a package, and which of them run the bed; source is its text.
func tests(t *testing.T, dir string) (all, beds []string, source string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source += string(text)
		file, err := parser.ParseFile(token.NewFileSet(), name, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			all = append(all, f.Name.Name)
			if strings.Contains(string(text[f.Pos()-file.FileStart:f.End()-file.FileStart]), "bed.Run(") {
				beds = append(beds, f.Name.Name)
			}
		}
	}
	return all, beds, source
}

var (
	tested   = regexp.MustCompile("`(\\w+): (Test\\w+)`")
	code     = regexp.MustCompile("`[^`]+`")
	exported = regexp.MustCompile(`\b[A-Z]\w{3,}\b`)
)

// A row of docs/sdks.md names the tests that hold it, these are there, and what it tells people to
// write is written in them; each package here has its row, with each of its tests of the bed.
func TestEveryRowIsTested(t *testing.T) {
	rows := table(t, "| SDK | Put it in |")
	named := map[string][]string{}
	for _, row := range rows {
		if len(row) != 5 {
			t.Errorf("the row of %q has %d columns", row[0], len(row))
			continue
		}
		found := tested.FindAllStringSubmatch(row[4], -1)
		if len(found) == 0 {
			t.Errorf("the row of %q names no test, as `aws: TestS3`", row[0])
			continue
		}
		var sources string
		for _, m := range found {
			named[m[1]] = append(named[m[1]], m[2])
			all, _, source := tests(t, m[1])
			sources += source
			if !slices.Contains(all, m[2]) {
				t.Errorf("the row of %q names %s of package %s, which is not there", row[0], m[2], m[1])
			}
		}
		for _, span := range code.FindAllString(strings.Join(row[1:4], " "), -1) {
			for _, word := range exported.FindAllString(span, -1) {
				if !regexp.MustCompile(`\b` + word + `\b`).MatchString(sources) {
					t.Errorf("the row of %q says %s; %s is in none of its tests", row[0], span, word)
				}
			}
		}
	}
	dirs, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == "bed" {
			continue
		}
		_, beds, _ := tests(t, d.Name())
		if len(beds) == 0 {
			t.Errorf("package %s has no test of the bed", d.Name())
		}
		for _, name := range beds {
			if !slices.Contains(named[d.Name()], name) {
				t.Errorf("no row names `%s: %s`", d.Name(), name)
			}
		}
	}
	// The figures are compared where they are measured: see bed.Run. What they name is there.
	for _, row := range table(t, "| No budget / default budget |") {
		found := tested.FindAllStringSubmatch(strings.Join(row[1:], " "), -1)
		if len(found) == 0 {
			t.Errorf("the figures %s are nobody's", row[0])
		}
		for _, m := range found {
			if !slices.Contains(named[m[1]], m[2]) {
				t.Errorf("the figures %s name `%s: %s`, which no row does", row[0], m[1], m[2])
			}
		}
	}
}
