// Package sidebyside measures steadyhttp beside a bare http.Client, forty lines of one's own, and
// the libraries that do the same work, and writes docs/benchmarks.md with its charts:
//
//	cd internal/bench/sidebyside && GOWORK=off go test -run TestSideBySide -write
//
// Without -write it makes sure, with few calls, that all of it still runs.
package sidebyside
