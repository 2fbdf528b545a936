//go:build !unix

package redistest

import (
	"os"
	"testing"
)

// Suspend is for systems that can.
func Suspend(t testing.TB, _ *os.Process) { t.Skip("this system has no SIGSTOP") }

// Resume is for systems that can.
func Resume(testing.TB, *os.Process) {}
