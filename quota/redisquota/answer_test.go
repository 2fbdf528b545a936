package redisquota

import (
	"testing"
	"time"
)

// A clock that was set is seen, by the next answer that was not long on its way at the latest: until then
// no grant is relied on that a step forward may have let go of. A way that is always long hides what is
// short beside it.
func TestStepsOfTheClockAreSeen(t *testing.T) {
	const ms = time.Millisecond
	// The way to Redis and back, by how much its clock has been set meanwhile, and what is made of it.
	type exchange struct {
		there, back, set  time.Duration
		stepped, doubtful bool
	}
	near := exchange{there: 3 * ms, back: 2 * ms}
	far := exchange{there: 90 * ms, back: 110 * ms}
	for name, exchanges := range map[string][]exchange{
		"nothing happens":       {near, near, near, near},
		"set forward":           {near, near, {3 * ms, 2 * ms, 12 * ms, true, false}, near},
		"set back":              {near, near, {3 * ms, 2 * ms, -12 * ms, true, false}, near},
		"one is slow back":      {near, near, {3 * ms, 400 * ms, 0, false, false}, near},
		"one is slow to arrive": {near, near, {400 * ms, 2 * ms, 0, false, true}, near},
		"forward as one is slow": {
			near, near, {5 * ms, 400 * ms, 302 * ms, false, true}, {3 * ms, 2 * ms, 0, true, false}, near,
		},
		"forward as three are slow": {
			near, {5 * ms, 400 * ms, 302 * ms, false, true}, {7 * ms, 350 * ms, 0, false, true},
			{2 * ms, 500 * ms, 0, false, true}, {3 * ms, 2 * ms, 0, true, false}, near,
		},
		"back as one is slow": {
			near, {330 * ms, 4 * ms, -302 * ms, false, false}, {3 * ms, 2 * ms, 0, true, false}, near,
		},
		"far":                    {far, far, far, far},
		"far, set forward":       {far, far, {90 * ms, 110 * ms, 250 * ms, true, false}, far},
		"near after far":         {far, near, near},
		"slow from the first on": {{300 * ms, 300 * ms, 0, false, false}, near, near},
	} {
		t.Run(name, func(t *testing.T) {
			e := &engine{}
			now, ahead := 5*time.Second, 1000*time.Hour
			for i, x := range exchanges {
				ahead += x.set
				sent := now
				raw := now + x.there + ahead
				now += x.there + x.back
				stepped, doubtful := e.checkClock(result{sent: sent, received: now},
					&reply{raw: raw.Microseconds(), skew: 7, epoch: "one"})
				if stepped != x.stepped || doubtful != x.doubtful {
					t.Errorf("exchange %d: stepped %v, doubtful %v", i, stepped, doubtful)
				}
				if x.stepped {
					if e.stats.steps != 1 || e.fix.from != 7 {
						t.Errorf("%d steps, %+v", e.stats.steps, e.fix)
					}
				}
				now += 700 * ms
			}
		})
	}
}
