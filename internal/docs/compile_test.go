package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFaultsOfSnippetsAreFound(t *testing.T) {
	const head = "package main\nimport \"fmt\"\n"
	cases := []struct {
		name, text, prelude string
		want                string // in the error; "": it compiles
	}{
		{"statements", "client.Get(\"http://a\")\n", "", ""},
		{"an own declaration before the common one", "client := 1\nfmt.Println(client)\n", "", ""},
		{"a top-level declaration of a common name", "var client int\nfunc f() { fmt.Println(client) }\n", "", ""},
		{"declared and not used", "transport, err := defender.New(defender.Config{})\n", "", ""},
		{"a return", "if err != nil {\n\treturn err\n}\n", "", ""},
		{"left out", "resp, err := client.Do(req)\n…\ndefer resp.Body.Close()\n", "", ""},
		{"an expression", "&steadyhttp.Transport{}\n", "", ""},
		{"a declaration of the page's comment", "fmt.Println(machines[0])\n", "var machines []string\n", ""},
		{"one that brings an import", "fmt.Println(f.Size)\n", "var f http.File\n", "Size"},
		{"a field", "Quotas: map[string][]quota.Window{\"machines\": {{N: 50, Per: time.Minute}}}\n", "", ""},
		{"a program", head + "func main() { fmt.Println() }\n", "", ""},
		{"an import of its own", "import \"net/http\"\n\nvar c = http.Client{}\n", "", ""},

		{"no such field", "_ = &steadyhttp.Transport{\n\tRules: nil,\n}\n", "", ":11: unknown field Rules"},
		{"no such function", "defender.Make()\n", "", "undefined: defender.Make"},
		{"no such variable", "fmt.Println(nobody)\n", "", "undefined: nobody"},
		{"no such package", "nowhere.Do()\n", "", "undefined: nowhere"},
		{"a wrong type", "var n int = \"a\"\n", "", "cannot use"},
		{"too few results", "t := defender.New(defender.Config{})\n", "", "assignment mismatch"},
		{"syntax", "ok()\nif {\n", "", ":11: missing condition"},
		{"an import that a program does not use", head + "func main() {}\n", "", `:11: "fmt" imported and not used`},
		{"a variable that a program does not use", head + "func main() { fmt.Println(); x := 1 }\n", "", ":12: declared and not used: x"},
		{"a name that only fragments have", head + "func main() { fmt.Println(client) }\n", "", "undefined: client"},
		{"an import that nobody requires", "import \"net/htp\"\n\nvar c = htp.Client{}\n", "", "net/htp"},
		{"a comment that does not parse", "fmt.Println()\n", "var\n", "comment before the block"},
	}
	var blocks []Block
	for i, tt := range cases {
		page := fmt.Sprintf("page%d", i)
		blocks = append(blocks, Block{Page: page, Line: 10, Lang: "go", Text: tt.text, Prelude: tt.prelude})
	}
	n, wrong := Compile("../..", blocks, false)
	if want := len(cases) - 2; n != want { // one does not parse, nor does the comment of one
		t.Errorf("%d snippets were taken, want %d", n, want)
	}
	for i, tt := range cases {
		var got []string
		for _, err := range wrong {
			if strings.HasPrefix(err.Error(), blocks[i].Page+":") {
				got = append(got, err.Error())
			}
		}
		switch {
		case tt.want == "" && len(got) > 0:
			t.Errorf("%s: does not compile: %v", tt.name, got)
		case tt.want != "" && (len(got) == 0 || !strings.Contains(got[0], tt.want)):
			t.Errorf("%s: got %q, want an error with %q", tt.name, got, tt.want)
		}
	}
}

// A snippet is compiled by one of two modules, and not by none of them.
func TestEachSnippetHasAModule(t *testing.T) {
	blocks := []Block{
		{Page: "p", Line: 1, Text: "fmt.Println(client)\n"},
		{Page: "p", Line: 2, Text: "retryablehttp.NewClient()\n"},
		{Page: "p", Line: 3, Text: "fmt.Println(c)\n", Prelude: "var c aws.Config\n"},
	}
	if n, wrong := Compile("../..", blocks, false); n != 1 || len(wrong) > 0 {
		t.Errorf("%d of 3 are ours, want 1: %v", n, wrong)
	}
	for path, outside := range map[string]bool{
		"net/http": false, module: false, module + "/otel": false, "golang.org/x/time/rate": false,
		"go.opentelemetry.io/otel": false, "go.opentelemetry.io/otel/sdk/trace": false,
		"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp": true,
		"golang.org/x/oauth2": true, "github.com/steadyhttp/steadyhttpx": true,
	} {
		if Outside(path) != outside {
			t.Errorf("%s: outside is %v", path, !outside)
		}
	}
}

func TestBlocksOfAPage(t *testing.T) {
	dir := t.TempDir()
	text := "# Title\n\n<!-- go: var a int -->\n\n```go\nuse(a)\n```\n\n- item\n\n  ```sh\n  go test\n  ```\n\ntext `go x`\n\n<!-- go: var b int -->\nno block\n\n```text\n```\n"
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pages, err := Pages(dir)
	if err != nil || len(pages) != 1 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	want := []Block{
		{"README.md", 6, "go", "use(a)\n", "var a int\n"}, {"README.md", 12, "sh", "go test\n", ""}, {"README.md", 21, "text", "", ""},
	}
	if got := pages[0].Blocks; !slices.Equal(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	if _, err := parse("p", "```go\nx\n"); err == nil {
		t.Error("a block that is not closed is no error")
	}
}
