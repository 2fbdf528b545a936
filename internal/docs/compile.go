package docs

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const module = "github.com/steadyhttp/steadyhttp"

// known are the packages that a fragment may use without an import, by their qualifiers.
var known = map[string]string{
	"bytes": "bytes", "context": "context", "errors": "errors", "fmt": "fmt", "http": "net/http",
	"httptest": "net/http/httptest", "httptrace": "net/http/httptrace", "io": "io", "json": "encoding/json",
	"log": "log", "net": "net", "os": "os", "slices": "slices", "slog": "log/slog", "strconv": "strconv",
	"strings": "strings", "sync": "sync", "synctest": "testing/synctest", "testing": "testing", "time": "time",
	"tls": "crypto/tls", "url": "net/url",

	"steadyhttp": module, "quota": module + "/quota", "defender": module + "/defender",
	"defendertest": module + "/defender/defendertest", "steadyotel": module + "/otel",
	"redisquota": module + "/quota/redisquota", "redis": "github.com/redis/go-redis/v9",

	"backoff": "github.com/cenkalti/backoff/v4", "rate": "golang.org/x/time/rate",
	"otel": "go.opentelemetry.io/otel", "attribute": "go.opentelemetry.io/otel/attribute",
	"metric": "go.opentelemetry.io/otel/metric", "trace": "go.opentelemetry.io/otel/trace",
	"propagation": "go.opentelemetry.io/otel/propagation", "resource": "go.opentelemetry.io/otel/sdk/resource",
	"sdktrace": "go.opentelemetry.io/otel/sdk/trace", "sdkmetric": "go.opentelemetry.io/otel/sdk/metric",
	"tracetest": "go.opentelemetry.io/otel/sdk/trace/tracetest",

	"otelhttp":          "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
	"otlptracehttp":     "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp",
	"otlpmetrichttp":    "go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp",
	"oauth2":            "golang.org/x/oauth2",
	"clientcredentials": "golang.org/x/oauth2/clientcredentials",
	"azidentity":        "github.com/Azure/azure-sdk-for-go/sdk/azidentity",
	"azcore":            "github.com/Azure/azure-sdk-for-go/sdk/azcore",
	"policy":            "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy",
	"streaming":         "github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming",
	"azblob":            "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob",
	"blockblob":         "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob",
	"aws":               "github.com/aws/aws-sdk-go-v2/aws",
	"s3":                "github.com/aws/aws-sdk-go-v2/service/s3",
	"kiota":             "github.com/microsoft/kiota-abstractions-go",
	"nethttplibrary":    "github.com/microsoft/kiota-http-go",
	"retryablehttp":     "github.com/hashicorp/go-retryablehttp",
	"rest":              "k8s.io/client-go/rest",
	"gobreaker":         "github.com/sony/gobreaker/v2",
	"semaphore":         "golang.org/x/sync/semaphore",
}

// common are the names that fragments use without declaring them; a fragment's own declarations
// come first.
const common = `
var (
	ctx        context.Context
	client     *http.Client
	req        *http.Request
	resp       *http.Response
	err        error
	body       []byte
	t          *testing.T
	token      defender.TokenFunc
	transport  *steadyhttp.Transport
	rt         *steadyhttp.Transport
	hc         *http.Client
	base       http.RoundTripper
	gate       *quota.Quota
	server     *defendertest.Server
	logger     *slog.Logger
	w          http.ResponseWriter
	r          *http.Request
)
`

// Outside reports whether a path belongs to a module that steadyhttp itself does not require: the
// modules in internal/compat and internal/sdks do.
func Outside(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	if !strings.Contains(first, ".") {
		return false
	}
	for _, own := range []string{
		module, "github.com/cenkalti/backoff/v4", "golang.org/x/time",
		"github.com/redis/go-redis/v9", // go.work has the module that does
		"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/trace", "go.opentelemetry.io/otel/metric",
		"go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/propagation",
	} {
		if path == own || strings.HasPrefix(path, own+"/") {
			return false
		}
	}
	return path != "go.opentelemetry.io/otel"
}

// unit is a block made ready for the compiler.
type unit struct {
	block   Block
	source  string    // a whole file
	strict  bool      // it was one before: what is declared must be used
	imports []string  // paths
	extra   *ast.File // what the comment before the block declares; nil for a program
}

// Compile type-checks Go blocks in the module at dir: complete programs as they are, fragments with
// the imports that their qualifiers stand for. It takes those that need modules of others, or those
// that do not, and returns how many that were, and what is wrong with them.
func Compile(dir string, blocks []Block, outside bool) (taken int, wrong []error) {
	fset := token.NewFileSet()
	var units []unit
	for _, b := range blocks {
		u, err := prepare(fset, b)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if slices.ContainsFunc(u.imports, Outside) == outside {
			units = append(units, u)
		}
	}
	var paths []string
	for _, u := range units {
		paths = append(paths, u.imports...)
	}
	imports, err := exports(dir, fset, paths)
	if err != nil {
		return len(units), append(wrong, err)
	}
	for _, u := range units {
		wrong = append(wrong, u.check(fset, imports)...)
	}
	return len(units), wrong
}

// prepare makes a file of a block.
func prepare(fset *token.FileSet, b Block) (unit, error) {
	text := elided(b.Text)
	u := unit{block: b, source: text}
	if strings.HasPrefix(strings.TrimSpace(withoutComments(text)), "package ") {
		u.strict = true
		file, err := parser.ParseFile(token.NewFileSet(), b.String(), text, parser.ImportsOnly)
		if err != nil {
			return u, b.moved(err, 0)
		}
		for _, spec := range file.Imports {
			u.imports = append(u.imports, strings.Trim(spec.Path.Value, `"`))
		}
		return u, nil
	}
	var err error
	if u.source, u.imports, err = enclose(b, text); err != nil {
		return u, err
	}
	if u.extra, err = parsePrelude(fset, b.Prelude); err != nil {
		return u, fmt.Errorf("%s: the comment before the block: %w", b, err)
	}
	for _, spec := range u.extra.Imports {
		u.imports = append(u.imports, strings.Trim(spec.Path.Value, `"`))
	}
	return u, nil
}

// parsePrelude adds the imports that declarations need.
func parsePrelude(fset *token.FileSet, declarations string) (*ast.File, error) {
	body := "\n" + declarations
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p"+body, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	clauses, _ := importsOf(file)
	return parser.ParseFile(fset, "prelude", "package p;"+clauses+body, parser.SkipObjectResolution)
}

// frames are what fragments are put into: declarations, statements.
var frames = []struct{ before, after string }{
	{"", ""},
	{"func _() error {", "\nreturn nil }"},
}

// enclose makes a file of a fragment: its first line is the second one of the file. An import
// clause of its own stays as it is, and the qualifiers that it leaves are resolved.
func enclose(b Block, text string) (source string, imports []string, err error) {
	for _, f := range frames {
		body := f.before + "\n" + text + f.after + "\n"
		file, wrong := parser.ParseFile(token.NewFileSet(), "", "package p;"+body, parser.SkipObjectResolution)
		if wrong != nil {
			if f == frames[1] {
				err = b.moved(wrong, 1) // most are statements
			}
			continue
		}
		clauses, paths := importsOf(file)
		return "package p;" + clauses + body, paths, nil
	}
	return "", nil, err
}

// importsOf returns the import clauses that a file lacks, and the paths of all its imports.
func importsOf(file *ast.File) (clauses string, paths []string) {
	for _, spec := range file.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	wanted := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if name, ok := selector.X.(*ast.Ident); ok && known[name.Name] != "" && !slices.Contains(paths, known[name.Name]) {
				wanted[name.Name] = true
			}
		}
		return true
	})
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		clauses += fmt.Sprintf("import %s %q;", name, known[name])
		paths = append(paths, known[name])
	}
	return clauses, paths
}

// elided takes out the lines that stand for what is left out.
func elided(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		switch strings.TrimSpace(line) {
		case "…", "...":
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n")
}

func withoutComments(text string) string {
	lines := strings.Split(text, "\n")
	kept := slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "//")
	})
	return strings.Join(kept, "\n")
}

// check returns what the compiler has against a unit.
func (u unit) check(fset *token.FileSet, imports types.Importer) []error {
	name := u.block.String()
	file, err := parser.ParseFile(fset, name, u.source, parser.SkipObjectResolution)
	if err != nil {
		return []error{u.block.moved(err, 0)}
	}
	files, before := []*ast.File{file}, 0
	if !u.strict {
		before = 1
		usual, err := parsePrelude(fset, common)
		if err != nil {
			return []error{err}
		}
		leaveOut(usual, declaredBy(file), declaredBy(u.extra))
		files = append(files, usual, u.extra)
	}
	var wrong []error
	config := types.Config{Importer: imports, Error: func(err error) {
		told, ok := errors.AsType[types.Error](err)
		if !ok {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
			return
		}
		at := fset.Position(told.Pos)
		if !u.strict && (at.Filename != name && told.Soft || harmless(told.Msg)) {
			return
		}
		wrong = append(wrong, fmt.Errorf("%s:%d: %s", u.block.Page, u.block.Line+at.Line-1-before, told.Msg))
	}}
	config.Check("p", fset, files, nil)
	return wrong
}

// harmless is what is no fault of a fragment: that it does nothing with what it shows. A field of a
// literal is a label to the compiler.
func harmless(message string) bool {
	return strings.HasPrefix(message, "declared and not used") || strings.HasSuffix(message, " is not used") ||
		strings.HasPrefix(message, "label ") && strings.HasSuffix(message, " declared and not used")
}

// declaredBy returns the names that a file declares at its top level.
func declaredBy(file *ast.File) map[string]bool {
	names := map[string]bool{}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[d.Name.Name] = d.Recv == nil
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names[name.Name] = true
					}
				case *ast.TypeSpec:
					names[spec.Name.Name] = true
				}
			}
		}
	}
	return names
}

// leaveOut takes the variables out of a file that others declare.
func leaveOut(file *ast.File, others ...map[string]bool) {
	for _, d := range file.Decls {
		if d, ok := d.(*ast.GenDecl); ok && d.Tok == token.VAR {
			d.Specs = slices.DeleteFunc(d.Specs, func(s ast.Spec) bool {
				name := s.(*ast.ValueSpec).Names[0].Name
				return slices.ContainsFunc(others, func(o map[string]bool) bool { return o[name] })
			})
		}
	}
}

// moved tells a syntax error by the page's lines; before is how many lines of a file come before
// the block's first.
func (b Block) moved(err error, before int) error {
	if list, ok := errors.AsType[scanner.ErrorList](err); ok && len(list) > 0 {
		return fmt.Errorf("%s:%d: %s", b.Page, b.Line+list[0].Pos.Line-1-before, list[0].Msg)
	}
	return fmt.Errorf("%s: %w", b, err)
}

// exports returns an importer of the packages' export data, as the build cache has it: type-checking
// net/http from its source takes longer than all the snippets.
func exports(dir string, fset *token.FileSet, paths []string) (types.Importer, error) {
	for _, path := range known {
		if !Outside(path) {
			paths = append(paths, path) // for the prelude
		}
	}
	slices.Sort(paths)
	args := append([]string{"list", "-e", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "--"}, slices.Compact(paths)...)
	list := exec.Command("go", args...)
	list.Dir = dir
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.Bytes())
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[path] = file
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, fmt.Errorf("no package %q: a snippet's import that nobody requires", path)
		}
		return os.Open(files[path])
	}), nil
}
