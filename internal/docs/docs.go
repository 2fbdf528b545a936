// Package docs keeps the documentation true as far as a compiler can: it reads the Markdown pages,
// and compiles what is Go in them. Its tests do so for README.md and docs/; the snippets that need
// what others have written are for the modules in internal/sdks, which takes the page SDKs, and in
// internal/compat.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// SDKs is the page of the recipes for SDKs, which internal/sdks requires.
const SDKs = "docs/sdks.md"

// Page is a Markdown file.
type Page struct {
	Name   string // below the root, with slashes
	Lines  []string
	Blocks []Block
}

// Block is a fenced block of a page.
type Block struct {
	Page string
	Line int    // of its first line in the page, from 1
	Lang string // the word behind the fence
	Text string

	// Prelude has the declarations that a comment before the fence adds for the block alone:
	//
	//	<!-- go: var machines []string -->
	Prelude string
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// Pages reads README.md, CONTRIBUTING.md, SECURITY.md and docs/*.md; what does not exist is left
// out.
func Pages(root string) ([]Page, error) {
	names := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"}
	more, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	for _, name := range more {
		names = append(names, "docs/"+filepath.Base(name))
	}
	var pages []Page
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		page, err := parse(name, strings.ReplaceAll(string(text), "\r\n", "\n"))
		if err != nil {
			return nil, err
		}
		pages = append(pages, page)
	}
	return pages, nil
}

var (
	fence   = regexp.MustCompile("^( *)(```+|~~~+) *([A-Za-z0-9_+-]*)")
	prelude = regexp.MustCompile(`^\s*<!-- go: (.*) -->\s*$`)
)

// parse finds the fenced blocks of a page. A fence within a list is indented, and so is its text.
func parse(name, text string) (Page, error) {
	page := Page{Name: name, Lines: strings.Split(strings.TrimSuffix(text, "\n"), "\n")}
	var open *Block
	var indent, closing, declared string
	for i, line := range page.Lines {
		switch m := fence.FindStringSubmatch(line); {
		case open == nil && m != nil:
			indent, closing = m[1], m[2]
			open = &Block{Page: name, Line: i + 2, Lang: m[3], Prelude: declared}
			declared = ""
		case open == nil:
			if m := prelude.FindStringSubmatch(line); m != nil {
				declared += m[1] + "\n"
			} else if strings.TrimSpace(line) != "" {
				declared = ""
			}
		case strings.TrimSpace(line) == closing:
			page.Blocks = append(page.Blocks, *open)
			open = nil
		default:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	if open != nil {
		return page, fmt.Errorf("%v: the block is not closed", open)
	}
	return page, nil
}

// Blocks returns the blocks of some languages, in order.
func Blocks(pages []Page, langs ...string) []Block {
	var found []Block
	for _, p := range pages {
		for _, b := range p.Blocks {
			if slices.Contains(langs, b.Lang) {
				found = append(found, b)
			}
		}
	}
	return found
}
