package compat

import (
	"slices"
	"testing"

	// What the snippets of the documentation import, and no other test here does.
	_ "github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	_ "github.com/hashicorp/go-retryablehttp"
	_ "go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	_ "golang.org/x/oauth2/clientcredentials"

	"github.com/steadyhttp/steadyhttp/internal/docs"
)

// The Go blocks of README.md and docs/ that need the packages of others compile here, but for those
// of docs/sdks.md, which do so in internal/sdks; the rest does so in internal/docs.
func TestSnippetsThatNeedOthersCompile(t *testing.T) {
	pages, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	pages = slices.DeleteFunc(pages, func(p docs.Page) bool { return p.Name == docs.SDKs })
	n, wrong := docs.Compile(".", docs.Blocks(pages, "go"), true)
	for _, err := range wrong {
		t.Error(err)
	}
	if n == 0 {
		t.Error("there are no snippets")
	}
	t.Logf("%d snippets", n)
}
