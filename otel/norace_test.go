//go:build !race

package steadyotel_test

// faultsRace: the race detector makes everything ten times slower, so that fewer calls must do.
const faultsRace = false
