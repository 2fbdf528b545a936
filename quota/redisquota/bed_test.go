package redisquota_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// The rows of docs/sharedquota.md are measured one to ten as the services' windows are: 100 a minute
// as 100 a second.
var (
	twoWindows = []quota.Window{{N: 100, Per: time.Second}, {N: 500, Per: 10 * time.Second}}
	second     = []quota.Window{{N: 100, Per: time.Second}}
)

// minutesVariable has the tests run that take minutes each.
const minutesVariable = "STEADYHTTP_REDIS_LONG"

func minutes() bool { return os.Getenv(minutesVariable) != "" }

func TestMain(m *testing.M) {
	if isHelper() {
		helper()
		return
	}
	flag.Parse()
	// The rows mostly wait.
	if parallel := flag.Lookup("test.parallel"); parallel != nil {
		at := "64"
		if redisquota.RaceEnabled {
			at = "16"
		}
		flag.Set("test.parallel", at)
	}
	redis.SetLogger(quiet{}) // it tells of each connection that a test breaks
	os.Exit(m.Run())
}

// fleet is a number of processes in one: each has a Quota, a client, and a way to Redis of its own.
type fleet struct {
	*redistest.Bed
	redis  *redistest.Redis
	quotas []*redisquota.Quota
	edit   func(i int, q *redisquota.Quota)
	key    string
	n      int // workers of each
}

// shape is what is not as usual about a fleet.
type shape struct {
	redis     redistest.Options
	windows   []quota.Window                   // nil: twoWindows
	processes int                              // 0: 4
	workers   int                              // of each; 0: 8
	from, to  time.Duration                    // one way to the API; 0: 1 to 20 ms
	edit      func(i int, q *redisquota.Quota) // nil: nothing
}

func newFleet(t *testing.T, s shape) *fleet {
	t.Helper()
	if s.windows == nil {
		s.windows = twoWindows
	}
	if s.processes == 0 {
		s.processes = 4
	}
	if s.workers == 0 {
		s.workers = 8
	}
	if s.to == 0 {
		s.from, s.to = time.Millisecond, 20*time.Millisecond
	}
	f := &fleet{
		Bed:   &redistest.Bed{TB: t, API: redistest.NewAPI(s.from, s.to), Windows: s.windows},
		redis: redistest.Start(t, s.redis), edit: s.edit, key: t.Name(), n: s.workers,
	}
	for range s.processes {
		f.Processes = append(f.Processes, f.process())
	}
	return f
}

// process makes one more, which does not begin yet.
func (f *fleet) process() *redistest.Process {
	i := len(f.quotas)
	proxy := redistest.NewProxy(f, f.redis)
	q := &redisquota.Quota{Client: proxy.Client(), Key: f.key, Windows: f.Windows}
	if f.edit != nil {
		f.edit(i, q)
	}
	f.quotas = append(f.quotas, q)
	f.Cleanup(func() { q.Close() })
	return &redistest.Process{Name: fmt.Sprint("p", i), Gate: q, Proxy: proxy, Workers: f.n}
}

// end closes all quotas, and looks at what is left in Redis.
func (f *fleet) end() {
	f.Helper()
	for _, q := range f.quotas {
		q.Close()
	}
	longest := time.Duration(0)
	for _, w := range f.Windows {
		longest = max(longest, w.Per)
	}
	// The longest window, lease, learning and a minute.
	for key, ttl := range f.redis.Keys() {
		if most := longest + 95*time.Second; ttl <= 0 || ttl > most {
			f.Errorf("the key %s lives for %v, want up to %v", key, ttl, most)
		}
	}
}

// used runs a row until at least a share of what was possible is used, three times at the most: the
// machine may be busy with something else. Where it was each time, that is not judged. What any run lets
// through too many fails it at once.
func used(t *testing.T, share float64, run func(t *testing.T) redistest.Figures) {
	t.Helper()
	var f redistest.Figures
	busy := true
	for i := range 3 {
		skipped := false
		ok := t.Run(fmt.Sprint("run", i), func(t *testing.T) {
			defer func() { skipped = t.Skipped() }()
			f = run(t)
			t.Log(f)
		})
		if !ok || skipped {
			return
		}
		if f.Used >= share || redisquota.RaceEnabled { // which makes everything late
			return
		}
		busy = busy && f.Busy()
	}
	if busy {
		t.Logf("the machine was busy: %v", f)
		return
	}
	t.Errorf("%v, want at least %.0f %%", f, 100*share)
}
