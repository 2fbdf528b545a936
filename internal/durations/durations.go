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

// Round returns d as it reads best in a message: seconds from ten seconds on, milliseconds below.
func Round(d time.Duration) time.Duration {
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
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
