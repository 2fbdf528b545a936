package redisquota

import "time"

// Times are the times that the protocol lives by, for tests that want them shorter. Zero: as usual.
type Times struct {
	Heartbeat, Learn, Dead, Lease, UseBy, Grace, Timeout, Silence time.Duration
}

// Tune sets them. It must come before the first use.
func (q *Quota) Tune(t Times) {
	if err := q.check(); err != nil {
		panic(err)
	}
	q.engine = newEngine(q)
	own := &q.engine.tune
	for _, one := range []struct {
		to   *time.Duration
		from time.Duration
	}{
		{&own.heartbeat, t.Heartbeat}, {&own.learn, t.Learn}, {&own.dead, t.Dead}, {&own.lease, t.Lease},
		{&own.useBy, t.UseBy}, {&own.grace, t.Grace}, {&own.timeout, t.Timeout}, {&own.silence, t.Silence},
	} {
		if one.from > 0 {
			*one.to = one.from
		}
	}
}

// Asks returns how many exchanges asked for places.
func (q *Quota) Asks() int {
	q.engine.host.Lock()
	defer q.engine.host.Unlock()
	return q.engine.stats.asks
}

// Running reports whether there is a goroutine.
func (q *Quota) Running() bool {
	q.engine.host.Lock()
	defer q.engine.host.Unlock()
	return q.engine.running
}

// Keys returns the names of the keys in Redis.
func (q *Quota) Keys() []string { return newScripted(q.Client, q.Key).keys }
