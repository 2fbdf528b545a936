package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/internal/docs"
)

const root = "../.."

func pages(t *testing.T) []docs.Page {
	t.Helper()
	read, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(read) == 0 {
		t.Fatal("there are no pages")
	}
	return read
}

func TestEverySnippetCompiles(t *testing.T) {
	blocks := docs.Blocks(pages(t), "go")
	n, wrong := docs.Compile(root, blocks, false)
	for _, err := range wrong {
		t.Error(err)
	}
	if n == 0 {
		t.Error("there are no snippets")
	}
	t.Logf("%d of %d snippets; the rest is for internal/compat", n, len(blocks))
}

// What is Go has a fence that says so, or nothing would be compiled.
func TestFencesNameTheirLanguage(t *testing.T) {
	langs := []string{"go", "sh", "text", "console", "json", "yaml", "python", "powershell", "mermaid", "diff", "xml", "promql"}
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if !slices.Contains(langs, b.Lang) {
				t.Errorf("%v: the fence says %q; use one of %v", b, b.Lang, langs)
			}
		}
	}
}

func TestPagesAreShort(t *testing.T) {
	for _, p := range pages(t) {
		lines, limit := len(p.Lines), 150
		switch {
		case p.Name == "README.md":
			limit = 120
			for i, line := range p.Lines {
				if n := len([]rune(line)); n > 120 {
					t.Errorf("README.md:%d has %d columns, more than 120", i+1, n)
				}
			}
		case written[p.Name]:
			continue
		}
		if lines > limit {
			t.Errorf("%s has %d lines, more than %d", p.Name, lines, limit)
		}
	}
}

// written pages are a command's output, or lists of what tests cite.
var written = map[string]bool{"docs/benchmarks.md": true, "docs/reliability.md": true, "docs/rules.md": true}

var (
	link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code = regexp.MustCompile("`[^`]*`")
)

func TestLinksLead(t *testing.T) {
	all := pages(t)
	anchors := map[string]map[string]bool{}
	for _, p := range all {
		anchors[p.Name] = anchorsOf(p)
	}
	for _, p := range all {
		fenced := false
		for i, line := range p.Lines {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
			}
			if fenced {
				continue
			}
			for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(line, ""), -1) {
				if err := leads(p.Name, m[1], anchors); err != nil {
					t.Errorf("%s:%d: %v", p.Name, i+1, err)
				}
			}
		}
	}
}

func leads(from, target string, anchors map[string]map[string]bool) error {
	if strings.Contains(target, "://") {
		return nil
	}
	file, anchor, _ := strings.Cut(target, "#")
	name := from
	if file != "" {
		name = filepath.ToSlash(filepath.Join(filepath.Dir(from), file))
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			if coming[name] {
				return nil
			}
			return fmt.Errorf("the link to %s leads nowhere", target)
		}
	}
	if known, page := anchors[name]; anchor != "" && page && !known[anchor] {
		return fmt.Errorf("%s has no heading for #%s", name, anchor)
	}
	return nil
}

// coming pages are linked to before they are there.
var coming = map[string]bool{
	"docs/architecture.md": true, "docs/benchmarks.md": true, "docs/defender.md": true,
	"docs/opentelemetry.md": true, "docs/reliability.md": true, "docs/rules.md": true,
	"docs/simulator.md": true, "CONTRIBUTING.md": true,
}

// anchorsOf returns the anchors that GitHub makes of a page's headings.
func anchorsOf(p docs.Page) map[string]bool {
	anchors := map[string]bool{}
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	fenced := false
	for _, line := range p.Lines {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if fenced || !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		anchor := strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
		unique := anchor
		for n := 1; anchors[unique]; n++ {
			unique = fmt.Sprintf("%s-%d", anchor, n)
		}
		anchors[unique] = true
	}
	return anchors
}

// A test that a page names exists, in one of the modules.
func TestNamedTestsExist(t *testing.T) {
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz|Example)\w*)\(`)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			declared[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:Test|Benchmark|Fuzz|Example)[A-Z_]\\w*)`")
	n := 0
	for _, p := range pages(t) {
		for i, line := range p.Lines {
			for _, m := range name.FindAllStringSubmatch(line, -1) {
				n++
				if !declared[m[1]] {
					t.Errorf("%s:%d: there is no %s", p.Name, i+1, m[1])
				}
			}
		}
	}
	if n == 0 {
		t.Error("no page names a test")
	}
}

// A page in docs/ that the index does not name is not found by anybody.
func TestIndexNamesEveryPage(t *testing.T) {
	index, err := os.ReadFile(filepath.Join(root, "docs/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t) {
		name, inDocs := strings.CutPrefix(p.Name, "docs/")
		if inDocs && name != "README.md" && !strings.Contains(string(index), "("+name+")") {
			t.Errorf("docs/README.md has no link to %s", name)
		}
	}
}

var (
	quoted = regexp.MustCompile("`((?:cd [^`]* && )?(?:[A-Z]+=\\S+ )?go (?:get|run|test|install|vet|build|doc|tool) [^`]*)`")
	named  = regexp.MustCompile(`-(run|bench|fuzz)[= ]('[^']*'|"[^"]*"|\S+)`)
)

// Every go command of the documentation names packages that exist, and tests that its packages have.
func TestCommandsExist(t *testing.T) {
	n := 0
	for _, p := range pages(t) {
		var commands []string
		for _, b := range p.Blocks {
			if b.Lang == "sh" || b.Lang == "console" {
				commands = append(commands, strings.Split(b.Text, "\n")...)
			}
		}
		for _, line := range p.Lines {
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				commands = append(commands, m[1])
			}
		}
		for _, command := range commands {
			command, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(command), "$ "), " #")
			if !strings.Contains(" "+command, " go ") {
				continue
			}
			n++
			if err := exists(t, command); err != nil {
				t.Errorf("%s: %q: %v", p.Name, command, err)
			}
		}
	}
	if n < 3 {
		t.Errorf("%d commands were found", n)
	}
}

const module = "github.com/steadyhttp/steadyhttp"

func exists(t *testing.T, command string) error {
	dir, packages := root, []string{}
	for part := range strings.SplitSeq(command, "&&") {
		part = strings.TrimSpace(part)
		if below, ok := strings.CutPrefix(part, "cd "); ok {
			dir = filepath.Join(dir, below)
			continue
		}
		words := strings.Fields(part)
		at := slices.Index(words, "go")
		if at < 0 || at+1 == len(words) {
			continue
		}
		for _, word := range words[at+2:] {
			word, _, _ := strings.Cut(strings.Trim(word, `'"`), "@")
			if below, ours := strings.CutPrefix(word, module); ours && (below == "" || below[0] == '/') {
				if err := has(filepath.Join(root, below)); err != nil {
					return err
				}
			}
			if word == "." || strings.HasPrefix(word, "./") {
				packages = append(packages, word)
			}
			if words[at+1] == "run" || words[at+1] == "tool" {
				break // the rest is the program's
			}
		}
	}
	for _, name := range packages {
		if err := has(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, m := range named.FindAllStringSubmatch(command, -1) {
		if m[1] == "run" && strings.Contains(command, "go run") {
			continue
		}
		if err := matches(dir, packages, strings.Trim(m[2], `'"`)); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether there is Go in a directory, or below it for a pattern.
func has(dir string) error {
	below, pattern := strings.CutSuffix(dir, "...")
	found := false
	err := filepath.WalkDir(below, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && filepath.Clean(path) != filepath.Clean(below) && !pattern {
			return filepath.SkipDir
		}
		found = found || strings.HasSuffix(path, ".go")
		return err
	})
	if err != nil || !found {
		return fmt.Errorf("there is no package in %s", dir)
	}
	return nil
}

// matches reports whether the packages have a test that a -run or -bench selects.
func matches(dir string, packages []string, pattern string) error {
	if pattern == "." || pattern == "^$" || pattern == "x" || pattern == "NONE" {
		return nil
	}
	first, _, _ := strings.Cut(pattern, "/")
	wanted, err := regexp.Compile(first)
	if err != nil {
		return err
	}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz|Example)\w*)\(`)
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	for _, p := range packages {
		at := filepath.Join(dir, strings.TrimSuffix(p, "..."))
		found := false
		filepath.WalkDir(at, func(path string, d os.DirEntry, err error) error {
			if err != nil || found {
				return err
			}
			if d.IsDir() && path != at && !strings.HasSuffix(p, "...") {
				return filepath.SkipDir
			}
			if strings.HasSuffix(path, "_test.go") {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
					found = found || wanted.MatchString(m[1])
				}
			}
			return nil
		})
		if found {
			return nil
		}
	}
	return fmt.Errorf("no test of %v matches %q", packages, pattern)
}
