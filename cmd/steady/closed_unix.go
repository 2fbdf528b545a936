//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// isClosed reports whether a standard stream was closed when the program began. Go's runtime has
// put /dev/null in its place, for reading and writing, so that every write would seem to succeed; a
// shell opens it for writing alone.
func isClosed(f *os.File) bool {
	null, err := os.Stat(os.DevNull)
	if err != nil {
		return false
	}
	about, err := f.Stat()
	if err != nil {
		return true
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return os.SameFile(about, null) && err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}
