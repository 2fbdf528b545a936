// Package durations has what several packages of steadyhttp need of durations.
package durations

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Noticed is how long a wait for a gate must be to be worth a word once it is over: a line of Log,
// an event of steadyotel.
const Noticed = 100 * time.Millisecond

// What the gates of steadyhttp and quota.Quota have in common after a 429. They share no code: one
// waits for times, the other for windows.
const (
	// MaxPause is the longest pause. No documented window is longer than an hour, and a server may
	// round up: what asks for more is a mistake or an attack, and is asked again after this.
	MaxPause = 75 * time.Minute

	// FirstPause is that after a 429 that names no time. It is doubled for each probe that fails.
	FirstPause = time.Second

	// Patience is how long a call without an answer keeps its place while few may be under way at
	// once. Nearly all APIs answer within it, and one more call in 5 s is 12 a minute: a service
	// that is still throttling bears that. Without an end, one hung probe would stop everybody.
	Patience = 5 * time.Second
)

// What a window of a quota may be. A shorter one is a number whose unit was forgotten; the longest is far
// from where sums of times would wrap around.
const (
	MinWindow time.Duration = time.Millisecond
	MaxWindow time.Duration = 10 * 365 * 24 * time.Hour
)

// Round returns d as it reads best in a message: seconds from ten seconds on, milliseconds below.
func Round(d time.Duration) time.Duration {
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
}

// Left returns how long it is to the context's deadline, 0 if that is over, and less than 0 if there
// is none.
func Left(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return -1
	}
	return max(0, time.Until(deadline))
}

// TooLate is why a wait was not begun: the context's deadline would have cut it short. It is a timeout and matches
// context.DeadlineExceeded, since that is what waiting would have come to.
type TooLate struct {
	Needs, Left time.Duration
	Of          string // what is needed: " of quota", or ""
}

func (e *TooLate) Error() string {
	return fmt.Sprintf("needs %v%s, context has %v", Round(e.Needs), e.Of, Round(e.Left))
}

// Timeout implements net.Error's method.
func (e *TooLate) Timeout() bool { return true }

// Is matches context.DeadlineExceeded and os.ErrDeadlineExceeded.
func (e *TooLate) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}
