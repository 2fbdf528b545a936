// Package field runs public reports about HTTP clients that retry, and what RFCs ask of them, on
// steadyhttp and on its peers in one table:
//
//	cd internal/compat/field && GOWORK=off go test -run Field -v .
//
// A case is a service's answers or faults, a request, and what is right. None of them names a
// client, and each client is set up as its documentation does, with the same number of attempts.
// The tables in docs/reliability.md and docs/field-*.md are written with -write and held by the
// test without it.
package field
