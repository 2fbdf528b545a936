// Package bench measures steadyhttp beside others that do the same work. It is a module of its own,
// outside of go.work, so that nobody who uses steadyhttp gets what it is measured against:
//
//	cd internal/bench && GOWORK=off go test -bench . -count 6
//
// Quote ratios of one run, never a figure alone.
package bench
