package errno

import (
	"errors"
	"syscall"
)

// In reports whether an error of the operating system is in err's chain.
func In(err error) bool {
	_, ok := errors.AsType[syscall.ErrorString](err)
	return ok
}

// Lost reports whether err says that the peer has ended the connection: on Plan 9 that is a text of
// the file server behind the connection, so that only the *net.OpError around it tells.
func Lost(error) bool { return false }
