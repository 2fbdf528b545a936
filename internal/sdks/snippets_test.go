package sdks

import (
	"slices"
	"testing"

	// What snippets may import, and no other test here does.
	_ "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	_ "go.opentelemetry.io/otel/sdk/metric"
	_ "go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/steadyhttp/steadyhttp/internal/docs"
	_ "github.com/steadyhttp/steadyhttp/otel"
)

// The recipes of docs/sdks.md that need an SDK compile; those that do not do so in internal/docs.
func TestSnippetsThatNeedOthersCompile(t *testing.T) {
	pages, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	pages = slices.DeleteFunc(pages, func(p docs.Page) bool { return p.Name != docs.SDKs })
	n, wrong := docs.Compile(".", docs.Blocks(pages, "go"), true)
	for _, err := range wrong {
		t.Error(err)
	}
	if n == 0 {
		t.Error("there are no snippets")
	}
	t.Logf("%d snippets", n)
}
