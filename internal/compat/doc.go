// Package compat runs steadyhttp together with what others have written for real programs:
// OpenTelemetry's otelhttp and collector, breakers, and its peers; SDKs are in internal/sdks. It is
// a module of its own, outside of go.work, so that nobody who uses steadyhttp gets what it is tried
// with:
//
//	cd internal/compat && GOWORK=off go test ./...
package compat
