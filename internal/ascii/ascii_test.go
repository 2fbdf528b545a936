package ascii_test

import (
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/internal/ascii"
)

// Every byte at every place of a text, of which Printable looks at eight at a time.
func TestPrintable(t *testing.T) {
	for length := range 20 {
		text := []byte(strings.Repeat("~", length))
		for at := range text {
			for c := range 256 {
				text[at] = byte(c)
				got, want := ascii.Printable(string(text)), ' ' <= c && c <= '~'
				if got != want || ascii.Printable(text) != want {
					t.Fatalf("%q: %v", text, got)
				}
			}
			text[at] = ' '
		}
	}
}
