//go:build !plan9

package errno_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/steadyhttp/steadyhttp/internal/errno"
)

func TestALostConnectionIsToldFromOtherErrors(t *testing.T) {
	for _, tt := range []struct {
		err      error
		in, lost bool
	}{
		{syscall.ECONNRESET, true, true},
		{syscall.EPIPE, true, true},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, true, true},
		{errors.Join(io.EOF, fmt.Errorf("lost: %w", syscall.EPIPE)), true, true},
		{syscall.ECONNREFUSED, true, false},
		{&os.PathError{Op: "open", Path: "body", Err: syscall.ENOENT}, true, false},
		{errors.New(syscall.ECONNRESET.Error()), false, false},
		{io.EOF, false, false},
		{nil, false, false},
	} {
		if in, lost := errno.In(tt.err), errno.Lost(tt.err); in != tt.in || lost != tt.lost {
			t.Errorf("%v: In is %v and Lost %v, want %v and %v", tt.err, in, lost, tt.in, tt.lost)
		}
	}
}
