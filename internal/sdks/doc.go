// Package sdks and its subpackages, one a vendor, run real, unmodified SDKs on top of a Transport:
// what docs/sdks.md says of each is held here. It is a module of its own, so that their dependencies
// are nobody else's.
//
// A new one is a package with a test that fills in bed.SDK and calls bed.Run, a row in docs/sdks.md
// that names that test, and, if the SDK retries by itself, its name beside the figures there.
package sdks
