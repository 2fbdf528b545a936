//go:build !plan9

// Package errno knows the operating system's own errors, which are of another type on Plan 9 and
// have no names there for what happens to a connection.
package errno

import (
	"errors"
	"syscall"
)

// In reports whether an error of the operating system is in err's chain.
func In(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}

// Lost reports whether err says that the peer has ended the connection.
func Lost(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
