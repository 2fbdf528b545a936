package defendertest

import (
	"math/bits"
	"time"
)

// Counting is how the server counts calls. No documentation says how the service
// does it. A client that is made for one way and meets another is refused, or
// sends less than it could; all ways let the same number pass in the long run.
type Counting uint8

// The ways in which services are known to count. In each of them a call counts in
// the minute and in the hour, or in none of both.
const (
	// Rolling windows: at most so many calls in any minute, wherever it
	// begins. The strictest way that forgives early retries: who never meets a
	// 429 here meets none with Fixed or Bucket either.
	Rolling Counting = iota

	// Fixed windows, which follow one another from Config.Phase on: around the
	// edge of two, twice the number can pass at once.
	Fixed

	// Bucket of tokens: as many as the quota, full at first and refilled
	// evenly. A rested client may send the whole number at once, and then one
	// for each token.
	Bucket

	// Strict counts as Rolling does, and refused calls too: who retries early
	// stays refused. A draft of the documentation once warned of that.
	Strict
)

// A meter counts the calls of one window. The times it is given never go back.
type meter interface {
	wait(now time.Time) time.Duration // until it has room for a call; 0: it has
	count(now time.Time)              // a call that passed
	refuse(now time.Time)             // a call that didn't pass, by this meter or another
}

// lenient is what most meters make of a refused call: nothing.
type lenient struct{}

func (lenient) refuse(time.Time) {}

// newMeter makes a meter for n calls in a window. Fixed windows begin at start.
func newMeter(c Counting, n int, window time.Duration, start time.Time) meter {
	switch c {
	case Fixed:
		return &fixedMeter{n: n, clock: clock{start, window}}
	case Bucket:
		return &bucketMeter{n: uint64(n), window: window}
	}
	return &rollingMeter{n: n, window: window, strict: c == Strict}
}

// A rollingMeter keeps the times of the last n calls that count, in a ring: the
// oldest of them decides alone. A rolling window has room exactly when that one
// has left it, which it does after the window's full length.
type rollingMeter struct {
	n      int
	window time.Duration
	strict bool
	times  []time.Time
	oldest int // in times, once they are n
}

// wait needs no more than the oldest.
func (m *rollingMeter) wait(now time.Time) time.Duration {
	if len(m.times) < m.n {
		return 0
	}
	return max(0, m.times[m.oldest].Add(m.window).Sub(now))
}

// count grows the ring as needed: a quota of a million costs nothing until a
// million calls have come.
func (m *rollingMeter) count(now time.Time) {
	if len(m.times) < m.n {
		m.times = append(m.times, now)
		return
	}
	m.times[m.oldest] = now
	m.oldest = (m.oldest + 1) % m.n
}

// refuse puts off the time at which the caller may come back.
func (m *rollingMeter) refuse(now time.Time) {
	if m.strict {
		m.count(now)
	}
}

// A clock cuts the time into windows of one length.
type clock struct {
	start  time.Time // of the first window
	window time.Duration
}

// at returns the number of the window that a time is in, and when the next begins.
func (c clock) at(now time.Time) (number int64, next time.Time) {
	number = int64(now.Sub(c.start) / c.window)
	return number, c.start.Add(time.Duration(number+1) * c.window)
}

// A fixedMeter begins anew with each window of its clock.
type fixedMeter struct {
	lenient
	n      int
	clock  clock
	number int64 // of the window that used is about
	used   int
}

// wait doesn't look at what came in an earlier window.
func (m *fixedMeter) wait(now time.Time) time.Duration {
	number, next := m.clock.at(now)
	if number != m.number || m.used < m.n {
		return 0
	}
	return next.Sub(now)
}

// count notices by the first call of a window that there is a new one.
func (m *fixedMeter) count(now time.Time) {
	if number, _ := m.clock.at(now); number != m.number {
		m.number, m.used = number, 0
	}
	m.used++
}

// A bucketMeter knows when its bucket was last full, and how many tokens were
// taken since: n of them come back in a window. It is exact, since nothing is
// rounded but the wait, which is rounded up to a nanosecond.
type bucketMeter struct {
	lenient
	n      uint64
	window time.Duration
	full   time.Time
	taken  uint64
}

// refill returns how long it takes until so many tokens have come back.
func (m *bucketMeter) refill(tokens uint64) time.Duration {
	// The product of a large quota and an hour doesn't fit in 64 bits.
	high, low := bits.Mul64(tokens, uint64(m.window))
	whole, rest := bits.Div64(high, low, m.n)
	if rest > 0 {
		whole++
	}
	return time.Duration(whole)
}

// wait asks for one token, which is there when all but n-1 of the taken ones are
// back.
func (m *bucketMeter) wait(now time.Time) time.Duration {
	if m.taken < m.n {
		return 0
	}
	return max(0, m.full.Add(m.refill(m.taken-m.n+1)).Sub(now))
}

// count takes a token.
func (m *bucketMeter) count(now time.Time) {
	if m.taken == 0 || !m.full.Add(m.refill(m.taken)).After(now) {
		m.full, m.taken = now, 0 // what would flow over is lost
	}
	m.taken++
	// In a window n tokens come back. Without this step the numbers would grow
	// for as long as the bucket is never full.
	if m.taken >= 2*m.n {
		m.full, m.taken = m.full.Add(m.window), m.taken-m.n
	}
}

// A cpuMeter is the CPU time that a tenant's queries may take in a cycle. A query
// passes while any is left, and may overdraw it: what one costs is known only
// afterwards. Nothing is carried over, as documented: queries are blocked until
// the next cycle.
type cpuMeter struct {
	lenient
	budget, cost time.Duration
	clock        clock
	number       int64 // of the cycle that spent is about
	spent        time.Duration
}

// wait is for the end of the cycle, however much was overdrawn.
func (m *cpuMeter) wait(now time.Time) time.Duration {
	number, next := m.clock.at(now)
	if number != m.number || m.spent < m.budget {
		return 0
	}
	return next.Sub(now)
}

// count charges a query before it runs. One that meets a fault has cost as much.
func (m *cpuMeter) count(now time.Time) {
	if number, _ := m.clock.at(now); number != m.number {
		m.number, m.spent = number, 0
	}
	m.spent += m.cost
}
