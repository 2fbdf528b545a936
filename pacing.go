package steadyhttp

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// pacing is what the times of a call's retries depend on.
type pacing struct {
	series      series
	throttled   int       // retries after a 429
	throttledAt time.Time // the first of them; zero: there was none
	unprepared  int       // retries after a Prepare that failed
}

// throttledFor returns how long ago the call was throttled first, which may be now.
func (p *pacing) throttledFor() time.Duration {
	if p.throttledAt.IsZero() {
		p.throttledAt = time.Now()
	}
	return time.Since(p.throttledAt)
}

// pace returns the larger of the back-off and the pushback. Only a failure, or a throttling that
// named no time, makes the back-off grow; new credentials need no wait.
func (p *pacing) pace(policy *Policy, v Verdict) wait {
	if v.Class == Unauthorized {
		return wait{}
	}
	if !named(v) {
		if p.series.next(policy.NewBackOff); p.series.interval == backoff.Stop {
			return wait{most: backoff.Stop}
		}
	}
	least, most := min(p.series.least(), policy.maxWait()), min(p.series.interval, policy.maxWait())
	if v.Class == Throttled {
		floor := throttlePace(p.throttled + 1)
		least, most = max(least, floor), max(most, floor)
	}
	return wait{max(least, v.RetryAfter), max(most, spread(v.RetryAfter)), v.RetryAfter, most}
}

// series is a call's back-off, and what it has said.
type series struct {
	own      backoff.BackOff // the policy's; nil: it has none, or none was needed yet
	standard int             // intervals that the default has given in place of it
	interval time.Duration   // the last
}

// next has the back-off say its next interval.
func (s *series) next(newBackOff func() backoff.BackOff) {
	if s.own == nil && newBackOff != nil {
		if s.own = newBackOff(); s.own != nil {
			if literal, ok := s.own.(*backoff.ExponentialBackOff); ok && literal.Clock == nil {
				literal.Clock = backoff.SystemClock // its Reset would panic
			}
			s.own.Reset() // what was set after the constructor counts from here
		}
	}
	if s.own != nil {
		s.interval = s.own.NextBackOff()
		return
	}
	s.standard++
	b := defaultBackOff(s.standard)
	s.interval = b.NextBackOff()
}

// least is the least that the back-off could have said last: that of a back-off of the policy's own
// is what it said.
func (s *series) least() time.Duration {
	if s.standard == 0 {
		return s.interval
	}
	return defaultBackOff(s.standard).InitialInterval / 2
}

// defaultBackOff returns what a nil NewBackOff stands for, before its n-th interval: 500 ms, 1 s,
// 2 s, 4 s, 8 s, 16 s, 30 s and so on, each ±50 %. It is a value, so that it costs no allocation.
func defaultBackOff(n int) backoff.ExponentialBackOff {
	const first, most = 500 * time.Millisecond, 30 * time.Second
	b := backoff.ExponentialBackOff{
		InitialInterval:     min(first<<min(n-1, 10), most),
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         most,
		MaxElapsedTime:      0, // its own bound of 15 minutes would end the wait for an hourly quota
		Stop:                backoff.Stop,
		Clock:               frozenClock{},
	}
	b.Reset()
	return b
}

// frozenClock spares the clock readings that only MaxElapsedTime, which is off, would need.
type frozenClock struct{}

func (frozenClock) Now() time.Time { return time.Time{} }

// throttlePace is the least wait before the n-th retry in a row after 429s: a service that goes on
// asking for a second is not asked every second.
func throttlePace(n int) time.Duration {
	const patient = 3
	if n <= patient {
		return 0
	}
	return min(time.Second<<min(n-patient, 6), time.Minute)
}

// spread adds a little to a time that the server named, so that all its clients do not come back at
// once. It never takes anything off: an early retry is another 429.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + rand.N(min(d/10, time.Second)+1)
}

// named reports whether the verdict is a throttling that told its time.
func named(v Verdict) bool { return v.Class == Throttled && v.RetryAfter > 0 }
