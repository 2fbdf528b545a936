//go:build race

package steadyhttp_test

// raceEnabled tells the tests that count allocations that the race detector makes some of its own.
const raceEnabled = true
