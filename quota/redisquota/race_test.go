//go:build race

package redisquota

// RaceEnabled: the long simulations are shortened under the race detector, which makes them ten times slower.
const RaceEnabled = true
