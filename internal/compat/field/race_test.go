//go:build race

package field

// raced says that the race detector looks on. Some peers have races of their own (azcore seeks a
// body that net/http still reads): it would fail the test for them.
const raced = true
