package redistest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

const clockVariable = "REDISTEST_CLOCK"

// libfaketime can't be used: its lock and jemalloc's wait for each other as redis-server starts. The
// monotonic clock stays as it is, as it does when an administrator sets the time.
const clockSource = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead;

__attribute__((constructor)) static void map(void) {
	const char *name = getenv("REDISTEST_CLOCK");
	int fd = name ? open(name, O_RDONLY) : -1;
	if (fd < 0) return;
	void *p = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
	if (p != MAP_FAILED) ahead = p;
	close(fd);
}

int clock_gettime(clockid_t id, struct timespec *ts) {
	int err = syscall(SYS_clock_gettime, id, ts);
	if (!err && ahead && id == CLOCK_REALTIME) {
		long long us = ts->tv_sec * 1000000LL + ts->tv_nsec / 1000 + *ahead;
		ts->tv_sec = us / 1000000, ts->tv_nsec = us % 1000000 * 1000;
	}
	return err;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
	struct timespec ts;
	(void)zone;
	int err = clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec, tv->tv_usec = ts.tv_nsec / 1000;
	return err;
}
`

// clockShim builds the library through which a Redis sees a clock that a test can step.
func clockShim(t testing.TB) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil || runtime.GOOS != "linux" {
		t.Skipf("stepping the clock of redis-server needs Linux and a C compiler: %v", err)
	}
	dir := t.TempDir()
	source, shim := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	if err := os.WriteFile(source, []byte(clockSource), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-o", shim, source).CombinedOutput(); err != nil {
		t.Skipf("stepping the clock of redis-server needs a C compiler that works: %v\n%s", err, out)
	}
	return shim
}

// StepClock sets the server's clock ahead of ours, or back; what it was before does not matter.
func (r *Redis) StepClock(ahead time.Duration) {
	r.t.Helper()
	file, err := os.OpenFile(r.clock, os.O_WRONLY, 0)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer file.Close()
	if _, err := file.Write(binary.NativeEndian.AppendUint64(nil, uint64(ahead.Microseconds()))); err != nil {
		r.t.Error(err)
	}
}
