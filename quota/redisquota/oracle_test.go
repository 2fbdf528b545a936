package redisquota

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
)

// A history is some processes with some callers each, a Redis that is a model, and whatever may happen
// between them. The service counts for itself.

// faults are what may happen in a history.
type faults struct {
	loseAnswers, loseAsks, repeats, slow float64 // shares of the exchanges
	losses                               bool    // Redis forgets, is rolled back, or loses a key
	steps                                bool    // its clock is set
	crashes                              bool    // a process dies with its calls under way
	cuts                                 bool    // nobody reaches Redis for some seconds
	cutOne                               bool    // one process does not
	unanswered                           float64 // share of the calls
	late                                 bool    // some calls take nearly MaxTransit to arrive
}

type world struct {
	t       *testing.T
	r       *rand.Rand
	faults  faults
	model   *model
	older   *model // what a replica has
	servers int
	offset  time.Duration // of Redis' clock
	back    time.Duration // by which it was set back, all in all
	began   time.Time
	mu      sync.Mutex
	cut     bool
	quiet   bool // nothing happens any more

	arrivals map[string][]time.Time // by class
	cuts     []time.Time            // when Redis went away
	log      []string
}

func (w *world) say(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%8.3f ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// link is a process' connection.
type link struct {
	w    *world
	dead bool
	cut  bool
}

func (l *link) exchange(ctx context.Context, r *request, t *tuning, now time.Duration) (reply, error) {
	w := l.w
	args := r.args(t, now)
	w.mu.Lock()
	chance := func(p float64) bool { return !w.quiet && w.r.Float64() < p }
	there, back := upTo(w.r, 8*time.Millisecond), upTo(w.r, 8*time.Millisecond)
	if chance(w.faults.slow) {
		there += upTo(w.r, 700*time.Millisecond)
	}
	if chance(w.faults.slow) {
		back += upTo(w.r, 700*time.Millisecond)
	}
	lostAsk, lostAnswer, again := chance(w.faults.loseAsks), chance(w.faults.loseAnswers), chance(w.faults.repeats)
	later := upTo(w.r, 400*time.Millisecond)
	refused := w.r.IntN(2) == 0
	w.mu.Unlock()
	unreachable := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return l.dead || l.cut || w.cut
	}
	hang := func() (reply, error) {
		<-ctx.Done()
		return reply{}, ctx.Err()
	}
	if unreachable() {
		if refused {
			return reply{}, errors.New("connection refused")
		}
		return hang()
	}
	time.Sleep(there)
	if lostAsk || unreachable() {
		return hang()
	}
	do := func() []string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.model.run(args, time.Now().Add(w.offset).UnixMicro())
	}
	answer := do()
	if os.Getenv("REDISQUOTA_DEBUG") != "" {
		w.mu.Lock()
		w.say("%v -> %v", args, answer)
		w.mu.Unlock()
	}
	if again {
		go func() {
			time.Sleep(later)
			if !unreachable() {
				do()
			}
		}()
	}
	time.Sleep(back)
	if lostAnswer || unreachable() {
		return hang()
	}
	return parse(answer, len(r.limits))
}

type history struct {
	windows   []quota.Window
	reserve   float64
	away      Away
	processes int
	workers   int
	heavy     bool
	length    time.Duration
	faults    faults
}

func randomHistory(r *rand.Rand) history {
	h := history{processes: 1 + r.IntN(5), workers: 1 + r.IntN(6), length: time.Duration(4+r.IntN(16)) * time.Second}
	for range 1 + r.IntN(3) {
		per := time.Duration(100+r.IntN(1900)) * time.Millisecond
		if r.IntN(2) == 0 {
			per = time.Duration(1+r.IntN(12)) * time.Second
		}
		h.windows = append(h.windows, quota.Window{N: 1 + r.IntN(20), Per: per})
	}
	if r.IntN(3) == 0 {
		h.reserve = r.Float64() * 0.7
	}
	h.heavy = r.IntN(4) == 0
	h.faults.unanswered = 0.1 * float64(r.IntN(3))
	h.faults.late = r.IntN(3) == 0
	if r.IntN(4) > 0 {
		h.faults.loseAnswers = r.Float64() * 0.2
		h.faults.loseAsks = r.Float64() * 0.1
		h.faults.repeats = r.Float64() * 0.3
		h.faults.slow = r.Float64() * 0.2
	}
	h.faults.steps = r.IntN(4) == 0
	h.faults.losses = r.IntN(2) == 0
	h.faults.crashes = r.IntN(3) == 0
	h.away = Closed
	if !h.faults.losses && !h.faults.steps { // what is lost must be told in time
		h.faults.cuts, h.faults.cutOne = r.IntN(3) == 0, r.IntN(3) == 0
	}
	return h
}

// run plays a history, and returns what the service has counted.
func (h history) run(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, r: rand.New(rand.NewPCG(seed, 7)), faults: h.faults, model: newModel(), began: time.Now(),
		arrivals: map[string][]time.Time{},
	}
	w.model.server = "0"
	w.older = w.model.clone()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	var links []*link
	var quotas []*Quota
	var stops []context.CancelFunc
	for p := range h.processes {
		l := &link{w: w}
		q := &Quota{
			Key: "oracle", Windows: h.windows, Reserve: h.reserve, WhenAway: h.away,
			Weight: func(r *http.Request) int { n, _ := strconv.Atoi(r.Header.Get("weight")); return n },
		}
		q.engine = &engine{conf: q, tune: usualTuning(), backend: l}
		q.Client = unusedClient{}
		links, quotas = append(links, l), append(quotas, q)
		mine, stop := context.WithCancel(ctx)
		stops = append(stops, stop)
		for i := range h.workers {
			worker := rand.New(rand.NewPCG(seed, uint64(1000*p+i)))
			group.Go(func() {
				time.Sleep(upTo(worker, 2*time.Second))
				for h.call(mine, w, l, q, worker) {
				}
			})
		}
	}
	h.trouble(w, links, stops)
	w.mu.Lock()
	w.quiet, w.cut = true, false
	for _, l := range links {
		l.cut = false
	}
	w.mu.Unlock()
	time.Sleep(h.quietFor() + w.back)
	cancel()
	group.Wait()
	for _, q := range quotas {
		q.Close()
	}
	time.Sleep(2 * time.Second) // exchanges that hang end by themselves
	return w
}

// quietFor is how long to look on after the last fault. Where the clock was set back as well, the ledger's
// time may stand still for as long, if Redis failed over in between.
func (h history) quietFor() time.Duration { return 20*time.Second + 3*h.longest() }

// normal is how many of a window's places are for calls of normal priority.
func (h history) normal(w quota.Window) int { return max(1, w.N-int(h.reserve*float64(w.N)+0.5)) }

func (h history) longest() (longest time.Duration) {
	for _, w := range h.windows {
		longest = max(longest, w.Per)
	}
	return longest
}

// trouble has things happen.
func (h history) trouble(w *world, links []*link, stops []context.CancelFunc) {
	w.mu.Lock()
	r := rand.New(rand.NewPCG(w.r.Uint64(), 3))
	w.mu.Unlock()
	crashed := 0
	// What a process has been granted and nobody else has seen is lost if it dies and Redis forgets.
	// Nor is anybody bound to tell in time what he knows if Redis' clock is set while he has the time for it.
	var crash, loss, step time.Time
	apart := func(from time.Time) bool { return time.Since(from) > 4*time.Second }
	for end := time.Now().Add(h.length); time.Now().Before(end); {
		time.Sleep(upTo(r, 900*time.Millisecond))
		w.mu.Lock()
		if r.IntN(3) == 0 {
			w.older = w.model.clone()
		}
		switch r.IntN(24) {
		case 0:
			if h.faults.losses && apart(crash) {
				loss = time.Now()
				w.say("FLUSHALL")
				w.model.wipe()
				w.older = w.model.clone()
			}
		case 1:
			if h.faults.losses && apart(crash) {
				loss = time.Now()
				w.say("failover")
				w.model = w.older.clone()
				w.servers++
				w.model.server = strconv.Itoa(w.servers)
			}
		case 2:
			if h.faults.losses && apart(crash) {
				loss = time.Now()
				w.say("the log is evicted")
				clear(w.model.log)
			}
		case 3, 4:
			if h.faults.steps && apart(crash) && apart(step) {
				loss, step = time.Now(), time.Now()
				by := upTo(r, 20*time.Second) - 10*time.Second
				if by.Abs() < 2*hidden { // which may not be seen
					by -= 2 * hidden
				}
				w.say("clock is set by %v", by)
				w.offset += by
				w.back += max(0, -by)
			}
		case 5:
			if h.faults.crashes && crashed+1 < len(links) && apart(loss) {
				crash = time.Now()
				w.say("process %d dies", crashed)
				links[crashed].dead = true
				stops[crashed]()
				crashed++
			}
		case 6, 7:
			if h.faults.cuts {
				w.say("Redis is away")
				w.cuts = append(w.cuts, time.Now())
				w.cut = true
				w.mu.Unlock()
				time.Sleep(upTo(r, 8*time.Second))
				w.mu.Lock()
				w.cut = false
				w.say("Redis is back")
			}
		case 8, 9:
			if h.faults.cutOne {
				one := links[r.IntN(len(links))]
				one.cut = true
				w.mu.Unlock()
				time.Sleep(upTo(r, 6*time.Second))
				w.mu.Lock()
				one.cut = false
			}
		}
		w.mu.Unlock()
	}
}

// call makes one call, and reports whether there may be another.
func (h history) call(ctx context.Context, w *world, l *link, q *Quota, r *rand.Rand) bool {
	class := "normal"
	if r.IntN(5) == 0 {
		class = "high"
		ctx = quota.WithPriority(ctx, quota.High)
	}
	weight := 1
	if h.heavy && r.IntN(4) == 0 {
		weight = 1 + r.IntN(3)
		for _, w := range h.windows {
			weight = min(weight, h.normal(w)) // what is heavier than its limit goes alone
		}
	}
	enter := ctx
	if r.IntN(10) == 0 {
		var cancel context.CancelFunc
		enter, cancel = context.WithTimeout(ctx, upTo(r, time.Second))
		defer cancel()
	}
	req := &http.Request{Header: http.Header{"Weight": {strconv.Itoa(weight)}}}
	req.Header.Set("weight", strconv.Itoa(weight))
	pass, err := q.Enter(enter, steadyhttp.Attempt{Request: req})
	if err != nil {
		if ctx.Err() == nil {
			time.Sleep(upTo(r, 50*time.Millisecond))
		}
		return ctx.Err() == nil
	}
	end := steadyhttp.Attempt{Request: req}
	if r.IntN(20) == 0 { // it is not sent
		time.Sleep(upTo(r, 20*time.Millisecond))
		pass.Leave(end)
		return ctx.Err() == nil
	}
	time.Sleep(upTo(r, 5*time.Millisecond))
	end.Sent, end.Sends = time.Now(), 1
	transit := upTo(r, 20*time.Millisecond)
	if h.faults.late && r.IntN(10) == 0 {
		transit = upTo(r, 1900*time.Millisecond)
	}
	time.Sleep(transit)
	w.mu.Lock()
	for range weight {
		w.arrivals[class] = append(w.arrivals[class], time.Now())
		if os.Getenv("REDISQUOTA_DEBUG") != "" {
			w.say("%s arrives from %s", class, q.engine.proc)
		}
	}
	w.mu.Unlock()
	if r.Float64() < h.faults.unanswered {
		time.Sleep(upTo(r, 4*time.Second))
		end.Err = errors.New("lost")
	} else {
		time.Sleep(upTo(r, 20*time.Millisecond))
		if r.IntN(30) == 0 {
			time.Sleep(upTo(r, 3*time.Second))
		}
		end.Answered, end.Response = time.Now(), &http.Response{StatusCode: 200}
		end.Verdict.Class = steadyhttp.Success
	}
	w.mu.Lock()
	dead := l.dead
	w.mu.Unlock()
	if dead {
		return false
	}
	pass.Leave(end)
	time.Sleep(upTo(r, 2*time.Millisecond))
	return ctx.Err() == nil
}

func upTo(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

// worst returns the most arrivals in any interval of a length, and when that was over.
func worst(arrivals []time.Time, per time.Duration) (most int, at time.Time) {
	arrivals = slices.SortedFunc(slices.Values(arrivals), time.Time.Compare)
	from := 0
	for to := range arrivals {
		for arrivals[to].Sub(arrivals[from]) >= per {
			from++
		}
		if n := to - from + 1; n > most {
			most, at = n, arrivals[to]
		}
	}
	return most, at
}

func (w *world) all() []time.Time {
	return slices.Concat(w.arrivals["normal"], w.arrivals["high"])
}

// unusedClient is for a Quota whose exchanges go elsewhere.
type unusedClient struct{ redis.UniversalClient }

// histories returns which seeds to try: REDISQUOTA_HISTORIES of them, from REDISQUOTA_SEED on.
func histories(usual int) (from, to int) {
	from, oneErr := strconv.Atoi(os.Getenv("REDISQUOTA_SEED"))
	n, err := strconv.Atoi(os.Getenv("REDISQUOTA_HISTORIES"))
	switch {
	case err == nil:
		return from, from + n
	case oneErr == nil:
		return from, from + 1
	case testing.Short() || RaceEnabled:
		usual /= 10
	}
	return 0, usual
}

// Never more than N in any interval of length W, whatever happens to messages, to Redis' state and its
// clock, and to processes, as long as those that live reach it.
func TestNeverOverInAnyHistory(t *testing.T) {
	from, to := histories(long.Size(t, 150, 2000))
	calls, faulty := 0, 0
	for seed := from; seed < to && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			h := randomHistory(rand.New(rand.NewPCG(uint64(seed), 5)))
			w := h.run(t, uint64(seed))
			h.check(t, w, seed)
			calls += len(w.all())
			faulty += len(w.log)
		})
	}
	t.Logf("%d histories, %d calls, %d faults of Redis and of processes", to-from, calls, faulty)
}

func (h history) check(t *testing.T, w *world, seed int) {
	t.Helper()
	for i, win := range h.windows {
		most, at := worst(w.all(), win.Per)
		if most > win.N {
			t.Errorf("seed %d: %d in %v until %.3f, want %d at most\n%+v", seed, most, win.Per, at.Sub(w.began).Seconds(), win.N, h)
		}
		if h.reserve > 0 {
			normal := h.normal(win)
			if most, at := worst(w.arrivals["normal"], win.Per); most > normal {
				t.Errorf("seed %d: %d normal ones in %v until %.3f, want %d of %d at most\n%+v", seed, most, win.Per,
					at.Sub(w.began).Seconds(), normal, h.windows[i].N, h)
			}
		}
	}
	if t.Failed() {
		for _, line := range w.log {
			t.Log(line)
		}
	}
	quiet := w.began.Add(h.length + 8*time.Second)
	late := 0
	for _, at := range w.all() {
		if at.After(quiet) {
			late++
		}
	}
	if late == 0 {
		t.Errorf("seed %d: no call went once all was well again\n%+v\n%v", seed, h, w.log)
	}
}

// While nobody reaches Redis, each policy keeps the bound that its documentation names.
func TestAwayKeepsItsBound(t *testing.T) {
	from, to := histories(long.Size(t, 15, 100))
	for policy, bound := range map[Away]func(n, processes, unseen int) int{
		Closed: func(n, _, _ int) int { return n },
		Known:  func(n, processes, unseen int) int { return n + min(unseen, n-n/processes) },
		Share:  func(n, processes, _ int) int { return 2*n - n/processes },
		Open:   func(n, processes, _ int) int { return n * processes },
	} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			calls, over, most := 0, 0, 0.0
			for seed := from; seed < to && !t.Failed(); seed++ {
				synctest.Test(t, func(t *testing.T) {
					r := rand.New(rand.NewPCG(uint64(seed), 6))
					h := randomHistory(r)
					h.away, h.reserve, h.heavy = policy, 0, false
					h.processes = 2 + r.IntN(4)
					h.length += 10 * time.Second
					h.faults = faults{cuts: true, unanswered: h.faults.unanswered}
					for i := range h.windows {
						h.windows[i].N += h.processes // everybody has a share
					}
					w := h.run(t, uint64(seed))
					calls += len(w.all())
					unseen := 0 // calls since the last heartbeat before Redis was away
					for _, cut := range w.cuts {
						k := 0
						for _, at := range w.all() {
							if d := cut.Sub(at); d > -50*time.Millisecond && d < 1100*time.Millisecond {
								k++
							}
						}
						unseen = max(unseen, k)
					}
					for _, win := range h.windows {
						n, at := worst(w.all(), win.Per)
						most = max(most, float64(n)/float64(win.N))
						if n > win.N {
							over++
						}
						if n > bound(win.N, h.processes, unseen) {
							t.Errorf("seed %d: %d in %v until %.3f, want %d at most\n%+v", seed, n, win.Per,
								at.Sub(w.began).Seconds(), bound(win.N, h.processes, unseen), h)
							for _, line := range w.log {
								t.Log(line)
							}
						}
					}
				})
			}
			t.Logf("%d histories, %d calls, at most %.2f of a limit, %d windows over", to-from, calls, most, over)
		})
	}
}
