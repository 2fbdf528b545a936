//go:build unix

package sidebyside

import (
	"syscall"
	"time"
)

const clock = "processor time"

// spent is the processor time of this process: what else runs on the machine is not in it.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
