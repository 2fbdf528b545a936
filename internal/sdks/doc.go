// Package sdks and its subpackages, one a vendor, run real, unmodified SDKs on top of a Transport:
// what docs/sdks.md says of each is held here. It is a module of its own, so that their dependencies
// are nobody else's.
package sdks
