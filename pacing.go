package steadyhttp

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// pacing is what the times of a call's retries depend on: its back-off, and how many there have
// been of which kind.
type pacing struct {
	backOff     backoff.BackOff            // the policy's; nil until needed
	standard    backoff.ExponentialBackOff // used where the policy has none
	intervals   int                        // that standard has given
	interval    time.Duration              // what the back-off said last
	throttled   int                        // retries after a 429
	throttledAt time.Time                  // the first of them; zero: there was none
	unprepared  int                        // retries after a Prepare that failed
	authorized  bool                       // the one retry after a 401 has been made
}

// count notes a retry that is about to be made.
func (p *pacing) count(v Verdict) {
	if v.Class == Throttled {
		p.throttled++
	}
	p.authorized = p.authorized || v.Class == Unauthorized
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
		if p.nextBackOff(policy); p.interval == backoff.Stop {
			return wait{most: backoff.Stop}
		}
	}
	least, most := min(p.leastInterval(), policy.maxWait()), min(p.interval, policy.maxWait())
	if v.Class == Throttled {
		floor := throttlePace(p.throttled + 1)
		least, most = max(least, floor), max(most, floor)
	}
	return wait{max(least, v.RetryAfter), max(most, spread(v.RetryAfter)), v.RetryAfter, most}
}

// nextBackOff has the back-off say its next interval.
func (p *pacing) nextBackOff(policy *Policy) {
	if p.backOff == nil && policy.NewBackOff != nil {
		if p.backOff = policy.NewBackOff(); p.backOff != nil {
			if literal, ok := p.backOff.(*backoff.ExponentialBackOff); ok && literal.Clock == nil {
				literal.Clock = backoff.SystemClock // its Reset would panic
			}
			p.backOff.Reset() // what was set after the constructor counts from here
		}
	}
	if p.backOff != nil {
		p.interval = p.backOff.NextBackOff()
		return
	}
	if p.standard.Clock == nil {
		p.standard = defaultBackOff()
	}
	p.intervals++
	p.interval = p.standard.NextBackOff()
}

// leastInterval is the least that the back-off could have said last: that of a back-off of the
// policy's own is what it said.
func (p *pacing) leastInterval() time.Duration {
	if p.intervals == 0 {
		return p.interval
	}
	return min(p.standard.InitialInterval<<min(p.intervals-1, 10), p.standard.MaxInterval) / 2
}

// defaultBackOff returns what a nil NewBackOff stands for: 500 ms, 1 s, 2 s, 4 s, 8 s, 16 s, 30 s
// and so on, each ±50 %. It is a value, so that a call can keep it without an allocation.
func defaultBackOff() backoff.ExponentialBackOff {
	b := backoff.ExponentialBackOff{
		InitialInterval:     500 * time.Millisecond,
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         30 * time.Second,
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
