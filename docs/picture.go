//go:build ignore

// Picture draws docs/architecture.svg: the packages, from `go list`, and the way of a call, from
// the loop in transport.go. Run it at the top of the repository:
//
//	go run docs/picture.go > docs/architecture.svg
package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"html"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const module = "github.com/steadyhttp/steadyhttp"

// says tells of a step what its name does not. A step that is not in it has its name alone.
var says = map[string]string{
	"begin":      "checks the request and its policy",
	"enterGates": "waits for rate limits and quotas",
	"prepare":    "copies the caller's request; Transport.Prepare",
	"recover":    "only where Prepare failed: may it be tried again?",
	"send":       "Transport.Base sends it",
	"classify":   "what the answer means; the tracking ID",
	"decide":     "retry or stop: Policy, Budget, deadline",
	"leaveGates": "tells the gates how it went",
	"finish":     "returns the last answer, or an *Error",
	"wait":       "back-off, or the time that the server asked for",
	"abandon":    "returns an *Error: no attempt could be made",
}

func main() {
	packages, err := imports()
	if err == nil {
		var steps []step
		if steps, err = loop("transport.go"); err == nil {
			draw(packages, steps)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

// imports has for each package those of ours that it imports. What is below internal is one.
func imports() (map[string]map[string]bool, error) {
	const format = `{{.ImportPath}} {{join .Imports " "}}`
	out, err := exec.Command("go", "list", "-f", format, "./...", "./cmd/steady/...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	packages := map[string]map[string]bool{}
	for line := range strings.Lines(string(out)) {
		var from string
		for i, path := range strings.Fields(line) {
			name, ours := strings.CutPrefix(path, module)
			name = cmp.Or(strings.TrimPrefix(name, "/"), "steadyhttp")
			if strings.HasPrefix(name, "internal/") {
				name = "internal/…"
			}
			switch {
			case !ours:
			case i == 0:
				from = name
				if packages[from] == nil {
					packages[from] = map[string]bool{}
				}
			case name != from:
				packages[from][name] = true
			}
		}
	}
	return packages, nil
}

type step struct {
	name string
	exit bool // it ends the call
}

// loop returns the methods that a file's endless loop calls, and what comes just before it.
func loop(file string) ([]step, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || !slices.ContainsFunc(f.Body.List, endless) {
			continue
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.DeferStmt:
				return false
			case *ast.ReturnStmt:
				for _, result := range n.Results {
					steps = appendCall(steps, result, true)
				}
				return false
			case ast.Expr:
				steps = appendCall(steps, n, false)
			}
			return true
		})
	}
	if len(steps) == 0 {
		return nil, errors.New(file + " has no endless loop any more: mend docs/picture.go")
	}
	return steps, nil
}

func endless(s ast.Stmt) bool {
	loop, ok := s.(*ast.ForStmt)
	return ok && loop.Cond == nil
}

func appendCall(steps []step, e ast.Expr, exit bool) []step {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return steps
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return steps
	}
	on, ok := method.X.(*ast.Ident)
	if !ok || on.Name != "c" {
		return steps
	}
	s := step{method.Sel.Name, exit}
	if slices.Contains(steps, s) {
		return steps
	}
	return append(steps, s)
}

const (
	rowHeight = 92
	boxHeight = 40
	left      = 460 // width of the packages' part
	width     = 1000
	stepAt    = 64 // the first step
	stepEvery = 50
)

func draw(packages map[string]map[string]bool, steps []step) {
	ranks := map[string]int{}
	var rank func(name string) int
	rank = func(name string) int {
		if r, known := ranks[name]; known {
			return r
		}
		highest := -1
		for to := range packages[name] {
			highest = max(highest, rank(to))
		}
		ranks[name] = highest + 1
		return highest + 1
	}
	rows := map[int][]string{}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		rows[rank(name)] = append(rows[rank(name)], name)
	}
	type point struct{ x, y int }
	at := map[string]point{}
	for r, names := range rows {
		for i, name := range names {
			at[name] = point{left * (2*i + 1) / (2 * len(names)), 60 + rowHeight*(len(rows)-1-r)}
		}
	}

	var loop, exits []step
	for _, s := range steps {
		if s.exit {
			exits = append(exits, s)
		} else {
			loop = append(loop, s)
		}
	}
	height := max(60+rowHeight*len(rows), stepAt+stepEvery*(len(loop)+len(exits)))

	var b bytes.Buffer
	text := func(x, y int, class, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="14">
<title>The packages of steadyhttp, and the way of a call</title>
<style>rect{fill:#eef3fb;stroke:#34547a} .exit{fill:#fdf1e3;stroke:#a2651b} path{fill:none;stroke:#667} .name{font-weight:bold} .middle{font-weight:bold;text-anchor:middle} .says{fill:#444} .head{font-size:16px;fill:#34547a}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#667"/></marker></defs>
<rect width="100%%" height="100%%" style="fill:#fff;stroke:none"/>
`, width, height)
	text(16, 28, "head", "Packages: an arrow is an import")
	text(left+40, 28, "head", "A call's way through RoundTrip")
	for _, from := range slices.Sorted(maps.Keys(packages)) {
		for _, to := range slices.Sorted(maps.Keys(packages[from])) {
			if !direct(packages, from, to) {
				continue // another arrow leads there as well
			}
			fmt.Fprintf(&b, `<path d="M%d %dL%d %d" marker-end="url(#tip)"/>`+"\n",
				at[from].x, at[from].y+boxHeight, at[to].x, at[to].y)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(at)) {
		w := 9*len(name) + 16
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" rx="6"/>`+"\n", at[name].x-w/2, at[name].y, w, boxHeight)
		text(at[name].x, at[name].y+25, "middle", name)
	}

	box := func(i int, s step) {
		class := ""
		if s.exit {
			class = ` class="exit"`
		}
		y := stepAt + stepEvery*i - 20
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="110" height="34" rx="6"%s/>`+"\n", left+70, y, class)
		text(left+80, y+22, "name", s.name)
		text(left+192, y+22, "says", says[s.name])
	}
	first, last := 0, len(loop)-1
	for i, s := range loop {
		box(i, s)
		if s.name == "begin" {
			first = i + 1
		}
		if i < last {
			fmt.Fprintf(&b, `<path d="M%d %dv16" marker-end="url(#tip)"/>`+"\n", left+125, stepAt+stepEvery*i+14)
		}
	}
	fmt.Fprintf(&b, `<path d="M%d %dh-30V%dh30" marker-end="url(#tip)"/>`+"\n",
		left+70, stepAt+stepEvery*last-3, stepAt+stepEvery*first-3)
	for i, s := range exits {
		box(len(loop)+i, s)
	}
	b.WriteString("</svg>\n")
	os.Stdout.Write(b.Bytes())
}

// direct reports whether from's import of to is the only way there.
func direct(packages map[string]map[string]bool, from, to string) bool {
	for via := range packages[from] {
		if via != to && reaches(packages, via, to) {
			return false
		}
	}
	return true
}

func reaches(packages map[string]map[string]bool, from, to string) bool {
	for next := range packages[from] {
		if next == to || reaches(packages, next, to) {
			return true
		}
	}
	return false
}
