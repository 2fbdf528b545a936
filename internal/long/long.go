// Package long tells tests how large to be. It is for tests alone.
package long

import (
	"os"
	"strconv"
	"testing"
)

// variable makes the tests as large as they can be: see CONTRIBUTING.md.
const variable = "STEADYHTTP_LONG"

// Times returns by how much a test that has no natural end is to be longer than usual: at least 1.
func Times(t testing.TB) int { return max(1, times(t)) }

// Size returns the usual size of a test, or its full one.
func Size(t testing.TB, usual, full int) int {
	if times(t) > 0 {
		return full
	}
	return usual
}

// Only skips a test that is run where the tests are as large as they can be, and nowhere else.
func Only(t testing.TB) {
	t.Helper()
	if times(t) == 0 {
		t.Skip("it takes long: set " + variable + "=1")
	}
}

func times(t testing.TB) int {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		return 0
	}
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		t.Fatalf("%s is %q; use 1, or a larger number for what has no natural end", variable, value)
	}
	return int(n)
}
