//go:build unix

package redistest

import (
	"os"
	"syscall"
	"testing"
)

// Suspend stops a process, as SIGSTOP does.
func Suspend(t testing.TB, p *os.Process) { signal(t, p, syscall.SIGSTOP) }

// Resume has a suspended process go on.
func Resume(t testing.TB, p *os.Process) { signal(t, p, syscall.SIGCONT) }

func signal(t testing.TB, p *os.Process, s os.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Error(err)
	}
}
