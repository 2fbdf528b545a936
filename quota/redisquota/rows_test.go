package redisquota_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

const (
	ms = time.Millisecond
	// span is of a usual run. It ends when the window of 10 s has long been full: what was possible and
	// comes some seconds late, since the machine is busy, is not missed, and what is lost is.
	span = 18850 * ms
)

// row is a test of the promise: never over, and hardly slower than possible.
type row struct {
	name    string
	shape   shape
	span    time.Duration // 0: span
	share   float64       // 0: 0.98
	most    []int         // in each window; nil: what it allows
	before  func(f *fleet)
	events  func(f *fleet) []redistest.Event
	after   func(f *fleet)
	minutes bool
}

func (r row) run(t *testing.T) redistest.Figures {
	f := newFleet(t, r.shape)
	if r.before != nil {
		r.before(f)
	}
	var events []redistest.Event
	if r.events != nil {
		events = r.events(f)
	}
	f.Run(r.span, events...)
	figures := f.Figures(r.span)
	for i, q := range f.quotas {
		s := q.Shared()
		f.Logf("%d: %d exchanges, %d losses, %d steps; %v", i, s.Exchanges, s.Losses, s.Steps, s.Err)
	}
	f.Over(figures, r.most...)
	if r.after != nil {
		r.after(f)
	}
	f.end()
	return figures
}

func rows(t *testing.T, rows []row) {
	long.Only(t)
	for _, r := range rows {
		if r.span == 0 {
			r.span = span
		}
		if r.share == 0 {
			r.share = 0.98
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			if r.minutes && !minutes() {
				t.Skip("it takes minutes: set " + minutesVariable)
			}
			used(t, r.share, r.run)
		})
	}
}

func each(f *fleet, do func(p *redistest.Process)) {
	for _, p := range f.Processes {
		do(p)
	}
}

// While Redis keeps what it is told, no more calls arrive than the windows allow, and hardly fewer,
// whatever befalls the network, the processes and the clocks.
func TestNeverOverWhileRedisKeepsItsState(t *testing.T) {
	t.Parallel()
	rows(t, []row{
		{name: "two windows", span: 28850 * ms},
		{name: "100 a second", shape: shape{windows: second}, span: 11900 * ms, share: 0.8},
		{name: "100 in 6 s", shape: shape{windows: []quota.Window{{N: 100, Per: 6 * time.Second}}}, span: 15 * time.Second},
		{
			name: "real delays", minutes: true, span: 185 * time.Second,
			shape: shape{
				windows: []quota.Window{{N: 100, Per: time.Minute}, {N: 150, Per: 2 * time.Minute}},
				from:    20 * ms, to: 520 * ms,
			},
		},
		{
			name: "calls without an answer, and late ones", shape: shape{workers: 20},
			before: func(f *fleet) { f.API.Lose, f.API.Late = 50, 50 },
		},
		{name: "calls that find no connection", before: func(f *fleet) { f.API.Gone = 300 }},
		{
			name: "Redis' answers lost",
			before: func(f *fleet) {
				each(f, func(p *redistest.Process) {
					p.Proxy.Lose(100)
					p.Proxy.Silence(5)
				})
			},
			after: func(f *fleet) {
				lost := int64(0)
				each(f, func(p *redistest.Process) { lost += p.Proxy.Lost.Load() })
				f.Logf("%d answers were lost", lost)
				if lost < 20 {
					f.Errorf("%d answers were lost, want tens of them", lost)
				}
			},
		},
		{
			name: "a process dies with its calls under way", span: 28850 * ms,
			events: func(f *fleet) []redistest.Event {
				return []redistest.Event{{At: 2050 * ms, Do: f.Processes[0].Crash}}
			},
		},
		{
			name: "a process comes late",
			events: func(f *fleet) []redistest.Event {
				return []redistest.Event{{At: 3 * time.Second, Do: func() { f.Join(f.process()) }}}
			},
		},
		{
			name: "Redis' clock steps", shape: shape{redis: redistest.Options{Clock: true}}, span: 28850 * ms, share: 0.9,
			events: func(f *fleet) []redistest.Event {
				return []redistest.Event{
					{At: 3300 * ms, Do: func() { f.redis.StepClock(10 * time.Second) }},
					{At: 12400 * ms, Do: func() { f.redis.StepClock(8 * time.Second) }},
				}
			},
		},
		{
			name: "Redis sleeps",
			events: func(f *fleet) []redistest.Event {
				return redistest.Every(2*time.Second, 700*ms, 13*time.Second, func(int) { f.redis.Do("DEBUG", "SLEEP", "0.5") })
			},
		},
		{name: "cluster mode", shape: shape{redis: redistest.Options{Cluster: true}}},
		{
			// Which has lost nothing. But it can't be told from a replica that has: see the next test.
			name: "kill -9 of Redis with AOF", shape: shape{redis: redistest.Options{AOF: true}}, share: 0.8,
			events: func(f *fleet) []redistest.Event {
				return redistest.Every(5*time.Second, 2050*ms, 8*time.Second, func(int) { f.redis.Restart() })
			},
		},
		{
			name: "script cache flushed",
			events: func(f *fleet) []redistest.Event {
				return redistest.Every(2*time.Second, 500*ms, 13*time.Second, func(int) { f.redis.Do("SCRIPT", "FLUSH") })
			},
		},
		{
			name: "other keys of the quota lost", share: 0.9,
			events: func(f *fleet) []redistest.Event {
				return redistest.Every(2*time.Second, 1500*ms, 13*time.Second, func(i int) { f.deleteKey(":line", ":seen")(i) })
			},
		},
	})
}

// deleteKey deletes a key whose name ends in one of the suffixes, each in its turn.
func (f *fleet) deleteKey(suffixes ...string) func(i int) {
	return func(i int) {
		suffix := suffixes[i%len(suffixes)]
		for key := range f.redis.Keys() {
			if len(key) > len(suffix) && key[len(key)-len(suffix):] == suffix {
				f.redis.Do("DEL", key)
			}
		}
	}
}

// When Redis forgets, everything or the last second, no more calls arrive than the windows allow:
// the processes notice, tell it what they know, and wait until all have had time to.
func TestNeverOverAfterRedisForgets(t *testing.T) {
	t.Parallel()
	learned := func(r row) row {
		if r.span == 0 {
			r.span = 28850 * ms
		}
		r.share = 0.8 // each loss costs the learning time, of 2.5 s
		return r
	}
	all := func(f *fleet) func(int) { return func(int) { f.redis.FlushAll() } }
	rows(t, []row{
		learned(row{name: "FLUSHALL", events: func(f *fleet) []redistest.Event {
			return redistest.Every(9*time.Second, 2050*ms, 15*time.Second, all(f))
		}}),
		// The last word of each process is older than what it has sent since.
		learned(row{name: "FLUSHALL amid a burst", events: func(f *fleet) []redistest.Event {
			return redistest.Every(9*time.Second, 1500*ms, 15*time.Second, func(int) {
				f.API.Await(40)
				f.redis.FlushAll()
			})
		}}),
		learned(row{name: "FLUSHALL between bursts", events: func(f *fleet) []redistest.Event {
			return redistest.Every(9*time.Second, 5600*ms, 15*time.Second, all(f))
		}}),
		learned(row{name: "restart without AOF", events: func(f *fleet) []redistest.Event {
			return []redistest.Event{{At: 3200 * ms, Do: f.redis.Restart}, {At: 14 * time.Second, Do: f.redis.Restart}}
		}}),
		learned(row{name: "failover to a replica that lacks 0.9 s", events: func(f *fleet) []redistest.Event {
			replica := f.redis.Replica()
			return []redistest.Event{
				{At: 2150 * ms, Do: replica.Cut},
				{At: 3050 * ms, Do: func() {
					f.redis.Kill()
					f.redis = replica
					each(f, func(p *redistest.Process) { p.Proxy.Target(replica) })
				}},
			}
		}}),
		learned(row{name: "the log evicted", events: func(f *fleet) []redistest.Event {
			return redistest.Every(9*time.Second, 2050*ms, 15*time.Second, f.deleteKey(":log"))
		}}),
		learned(row{name: "the head evicted", events: func(f *fleet) []redistest.Event {
			return redistest.Every(9*time.Second, 2050*ms, 15*time.Second, f.deleteKey(":head"))
		}}),
		learned(row{
			// A new Redis takes 0.9 MB, and its clients the rest of 1 MB: another program needs 100 KB.
			name: "allkeys-lru", shape: shape{redis: redistest.Options{
				Args: []string{"--maxmemory-policy", "allkeys-lru", "--maxmemory-samples", "1"},
			}},
			events: func(f *fleet) []redistest.Event {
				client := f.redis.Client()
				return redistest.Every(9*time.Second, 2050*ms, 15*time.Second, func(i int) {
					f.redis.Do("CONFIG", "SET", "maxmemory", fmt.Sprintf("%.0f", f.redis.Info("memory", "used_memory")+10_000))
					for j := range 20 {
						client.Set(f.Context(), fmt.Sprint("other", i, j), string(make([]byte, 5000)), time.Minute)
					}
					f.redis.Do("CONFIG", "SET", "maxmemory", "0")
				})
			},
			after: func(f *fleet) {
				f.Logf("%.0f keys were evicted", f.redis.Info("stats", "evicted_keys"))
			},
		}),
		learned(row{name: "a process dies, and then FLUSHALL", events: func(f *fleet) []redistest.Event {
			return []redistest.Event{
				{At: 3300 * ms, Do: f.Processes[0].Crash},
				{At: 5 * time.Second, Do: f.redis.FlushAll},
			}
		}}),
		learned(row{name: "FLUSHALL, and answers lost", before: func(f *fleet) {
			each(f, func(p *redistest.Process) { p.Proxy.Lose(100) })
		}, events: func(f *fleet) []redistest.Event {
			return redistest.Every(9*time.Second, 2050*ms, 15*time.Second, all(f))
		}}),
	})
}

// While Redis is away, and as it comes back, no more calls arrive than the policy's bound says.
func TestBoundOfEachPolicyWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	away := func(p redisquota.Away) func(int, *redisquota.Quota) {
		return func(_ int, q *redisquota.Quota) { q.WhenAway = p }
	}
	suspended := func(f *fleet) []redistest.Event {
		return []redistest.Event{{At: 2400 * ms, Do: f.redis.Suspend}, {At: 8400 * ms, Do: f.redis.Resume}}
	}
	killed := func(f *fleet) []redistest.Event {
		return []redistest.Event{{At: 2400 * ms, Do: f.redis.Kill}, {At: 8400 * ms, Do: f.redis.Restart}}
	}
	// One process has had nearly all: the others have made a call each, and begin as Redis goes away.
	uneven := func(f *fleet) []redistest.Event {
		others := f.Processes[1:]
		f.Processes = f.Processes[:1]
		f.Processes[0].Workers = 32
		return []redistest.Event{
			{At: 200 * ms, Do: func() {
				for _, p := range others {
					f.Once(p)
				}
			}},
			{At: 4400 * ms, Do: f.redis.Suspend},
			{At: 4500 * ms, Do: func() {
				for _, p := range others {
					f.Join(p)
				}
			}},
			{At: 10400 * ms, Do: f.redis.Resume},
		}
	}
	const spanAway = 28850 * ms
	at := func(most ...int) []int { return most }
	// What was granted before is used within 2.5 s.
	none := func(from, to time.Duration) func(f *fleet) {
		return func(f *fleet) {
			times := f.API.Times()
			begin, _ := slices.BinarySearch(times, times[0]+from)
			end, _ := slices.BinarySearch(times, times[0]+to)
			if end > begin {
				f.Errorf("%d calls arrived while Redis was away", end-begin)
			}
		}
	}
	cut := func(f *fleet) []redistest.Event {
		return []redistest.Event{
			{At: 4400 * ms, Do: func() { f.Processes[0].Proxy.Cut(true) }},
			{At: 16 * time.Second, Do: func() { f.Processes[0].Proxy.Cut(false) }},
		}
	}
	rows(t, []row{
		{name: "closed", shape: shape{edit: away(redisquota.Closed)}, span: spanAway, share: 0.6, events: suspended, after: none(5000*ms, 8400*ms)},
		// What was granted after a process' last word, here at most a second's calls, it can't know of:
		// of those, it takes its part.
		{name: "known", span: spanAway, share: 0.75, events: suspended, most: at(100, 575)},
		{name: "share", shape: shape{edit: away(redisquota.Share)}, span: spanAway, share: 0.75, events: suspended, most: at(175, 875)},
		{name: "open", shape: shape{edit: away(redisquota.Open)}, span: spanAway, events: suspended, most: at(400, 2000)},
		{name: "closed, restart without AOF", shape: shape{edit: away(redisquota.Closed)}, span: spanAway, share: 0.6, events: killed, after: none(5000*ms, 8400*ms)},
		{name: "known, restart without AOF", span: spanAway, share: 0.7, events: killed, most: at(100, 575)},
		{name: "share, restart without AOF", shape: shape{edit: away(redisquota.Share)}, span: spanAway, share: 0.7, events: killed, most: at(175, 875)},
		{name: "known, uneven", span: spanAway, share: 0.5, events: uneven, most: at(100, 575)},
		{name: "share, uneven", shape: shape{edit: away(redisquota.Share)}, span: spanAway, share: 0.5, events: uneven, most: at(175, 875)},
		{name: "one of four is cut off, closed", shape: shape{edit: away(redisquota.Closed)}, span: spanAway, share: 0.8, events: cut},
		{name: "one of four is cut off, known", span: spanAway, share: 0.9, events: cut, most: at(125, 625)},
		{name: "one of four is cut off, share", shape: shape{edit: away(redisquota.Share)}, span: spanAway, share: 0.9, events: cut, most: at(125, 625)},
	})
}

// A 429 that one process is told pauses all of them, for as long as the service asks; the others
// would have been answered.
func TestThrottlingPausesAllProcesses(t *testing.T) {
	long.Only(t)
	t.Parallel()
	used(t, 1, func(t *testing.T) redistest.Figures {
		f := newFleet(t, shape{windows: second})
		f.Run(9*time.Second, redistest.Event{At: 2500 * ms, Do: func() { f.API.Throttle("p1", 2*time.Second) }})
		figures := f.Figures(0)
		f.Over(figures)
		log := f.API.Log()
		first := slices.IndexFunc(log, func(a redistest.Arrival) bool { return a.Refused })
		if first < 0 {
			t.Fatal("nobody was refused")
		}
		at := log[first].At
		refused, during, after := 0, 0, map[string]int{}
		for _, a := range log {
			if a.Refused {
				refused++
			}
			// What was under way as it was told arrives.
			if a.At > at+400*ms && a.At < at+1900*ms {
				during++
			}
			if a.At > at+2500*ms {
				after[a.Process]++
			}
		}
		t.Logf("%d refused, %d during the pause, %v after it", refused, during, after)
		figures.Used = 1
		if refused > 30 || during > 0 || len(after) != 4 {
			figures.Used = 0 // once more
		}
		return figures
	})
}

// Windows that are not much longer than the way to the server and to Redis lose that way, as they
// do with a quota.Quota: never over, and no slower than by a few round trips to Redis, which are
// measured meanwhile.
func TestShortWindowsLoseTheRoundTrip(t *testing.T) {
	long.Only(t)
	short := []quota.Window{{N: 1, Per: 100 * ms}}
	const d = 5050 * ms
	for _, to := range []time.Duration{2 * ms, 20 * ms} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			t.Parallel()
			used(t, 0.5, func(t *testing.T) redistest.Figures {
				local := &redistest.Bed{TB: t, API: redistest.NewAPI(ms, to), Windows: short}
				q := &quota.Quota{Windows: short}
				local.Processes = []*redistest.Process{{Name: "local", Gate: q, Workers: 8}}
				local.Run(d)
				alone := local.Figures(d)
				f := newFleet(t, shape{windows: short, from: ms, to: to})
				f.eachClient(func(i int) { f.quotas[i].Client = f.redis.Client() })
				trip := f.pings(d)
				f.Run(d)
				shared := f.Figures(d)
				f.Over(shared)
				f.end()
				ping, late := trip()
				slower := d/time.Duration(shared.Calls) - d/time.Duration(alone.Calls)
				t.Logf("quota.Quota: %v; a call each %v and each %v; a ping takes %v, timers are %v late", alone,
					d/time.Duration(shared.Calls), d/time.Duration(alone.Calls), ping, late)
				// When an answer comes is a guess until it has, which is off by up to a way to the server.
				if slower > 4*(ping+late)+4*ms+to {
					shared.Used = 0 // once more
				}
				return shared
			})
		})
	}
}

// pings measures for a time how long a round trip to Redis takes, and how late timers are; what it
// returns waits for the means.
func (f *fleet) pings(d time.Duration) (means func() (ping, late time.Duration)) {
	client := f.redis.Client()
	done := make(chan struct{})
	n, ping, late := time.Duration(0), time.Duration(0), time.Duration(0)
	go func() {
		defer close(done)
		for began := time.Now(); time.Since(began) < d; n++ {
			at := time.Now()
			client.Ping(f.Context())
			ping += time.Since(at)
			at = time.Now()
			time.Sleep(20 * ms)
			late += time.Since(at) - 20*ms
		}
	}()
	return func() (time.Duration, time.Duration) {
		<-done
		return ping / n, late / n
	}
}

// Thousands a second are shared as exactly.
func TestManyASecond(t *testing.T) {
	long.Only(t)
	if redisquota.RaceEnabled {
		t.Skip("so many are too much for the race detector")
	}
	windows := []quota.Window{{N: 2000, Per: time.Second}}
	if minutes() {
		windows[0].N = 10_000
	}
	used(t, 0.75, row{shape: shape{windows: windows, workers: 64}, span: 4500 * ms}.run)
}
