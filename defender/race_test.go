//go:build race

package defender_test

// raceEnabled: the race detector makes the long simulations ten times slower.
const raceEnabled = true
