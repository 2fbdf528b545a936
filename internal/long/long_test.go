package long_test

import (
	"testing"

	"github.com/steadyhttp/steadyhttp/internal/long"
)

// fatal notes that it was told so.
type fatal struct {
	testing.TB
	told, skipped bool
}

func (f *fatal) Helper()               {}
func (f *fatal) Fatalf(string, ...any) { f.told = true }
func (f *fatal) Skip(...any)           { f.skipped = true }

// Nothing set is the usual size, 1 the full one, and more makes what has no natural end longer.
// What is no number is told.
func TestSize(t *testing.T) {
	for value, want := range map[string]struct {
		size, times int
		fatal       bool
	}{
		"": {10, 1, false}, "0": {10, 1, false}, "1": {20, 1, false}, "500": {20, 500, false},
		"yes": {10, 1, true}, "-1": {10, 1, true}, "1e3": {10, 1, true}, "4294967296": {10, 1, true},
	} {
		t.Setenv("STEADYHTTP_LONG", value)
		f := &fatal{TB: t}
		if size := long.Size(f, 10, 20); size != want.size && !want.fatal || f.told != want.fatal {
			t.Errorf("%q: a size of %d, fatal %v", value, size, f.told)
		}
		if long.Only(f); f.skipped != (want.size == 10) && !want.fatal {
			t.Errorf("%q: skipped is %v", value, f.skipped)
		}
		if times := long.Times(f); times != want.times && !want.fatal {
			t.Errorf("%q: %d times", value, times)
		}
	}
}
