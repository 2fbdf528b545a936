package redisquota

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
