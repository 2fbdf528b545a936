package redisquota

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Quota is a steadyhttp.Gate over several windows at once, which all processes share that name the same
// Key in the same Redis. Its fields are read-only after first use; it is safe for concurrent use and
// must not be copied.
type Quota struct {
	// Client is the connection to Redis 6.2 or later. It is the user's own, with its TLS, its user and its
	// timeouts, and may serve other purposes too. It is needed.
	Client redis.UniversalClient

	// Key names the quota. All that share it must have the same Windows, Reserve and MaxTransit: who has
	// others is told of through Shared. It is part of the names of the keys in Redis: it should hold no
	// secret. It is needed.
	Key string

	// Windows are the limits, all of which hold at once. At least one; of at most 100,000 calls each,
	// since Redis keeps about 110 bytes for each.
	Windows []quota.Window

	// Reserve, MaxQueue, MaxWait, MaxTransit, Weight and PauseOnly are those of quota.Quota. MaxQueue
	// and MaxWait are about the callers of this process, each of which waits for Redis at least: a
	// negative MaxQueue, or a MaxWait below a millisecond, would let nobody go, and is refused.
	Reserve    float64
	MaxQueue   int
	MaxWait    time.Duration
	MaxTransit time.Duration
	Weight     func(*http.Request) int
	PauseOnly  bool

	// Start says what a Key that Redis knows nothing of stands for. Zero: Fresh.
	Start ColdStart

	// WhenAway says who may go while Redis can't be reached. Zero: Known.
	WhenAway Away

	closed  atomic.Bool
	once    sync.Once
	invalid error
	engine  *engine
	inner   quota.Quota
}

// ColdStart is what a Key is taken to stand for that Redis knows nothing of.
type ColdStart uint8

const (
	// Fresh: a new quota, or one that Redis has lost. These can't be told apart, so that all processes
	// have 2.5 s for telling what they have sent, before the first goes.
	Fresh ColdStart = iota

	// Spent: everything was sent just now. The first goes after the longest window.
	Spent

	// Empty: nothing was sent, on your word. The first goes at once. A process that starts while Redis
	// has lost everything makes it forget what the others have sent.
	Empty
)

// Away says who may go while Redis can't be reached, or does not answer for 1.5 s. Each process decides
// by itself; what it lets go is told to Redis later on. See the package's doc for what each may cost.
type Away uint8

const (
	// Known: each process takes its part of what was left by the last word from Redis, and later on its
	// part of the limit. One that never had a word lets nobody go.
	Known Away = iota

	// Share: each process takes its part of the limit at once.
	Share

	// Closed: nobody goes.
	Closed

	// Open: each process takes all of the limit, as if it were alone.
	Open
)

// Enter implements steadyhttp.Gate.
func (q *Quota) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	if q == nil {
		return nil, errNil
	}
	if err := q.begin(); err != nil {
		return nil, err
	}
	if q.closed.Load() {
		return nil, errClosed
	}
	pass, err := q.inner.Enter(ctx, a)
	if err != nil && (ctx.Err() != nil || inLine(err)) {
		err = q.engine.whyWaited(err)
	}
	return pass, err
}

// inLine reports whether a call was refused for the length of its wait, or of the line.
func inLine(err error) bool {
	_, is := errors.AsType[interface {
		error
		InLine()
	}](err)
	return is
}

func (q *Quota) begin() error {
	q.once.Do(func() {
		if q.invalid = q.check(); q.invalid != nil {
			return
		}
		q.inner.Windows, q.inner.Reserve = slices.Clone(q.Windows), q.Reserve
		q.inner.MaxQueue, q.inner.MaxWait, q.inner.MaxTransit = q.MaxQueue, q.MaxWait, q.MaxTransit
		q.inner.Weight, q.inner.PauseOnly = q.Weight, q.PauseOnly
		if q.engine == nil {
			q.engine = newEngine(q)
		}
		q.invalid = q.inner.Attach(q.engine)
	})
	return q.invalid
}

var errClosed = &steadyhttp.Refusal{Err: errors.New("redisquota: the Quota is closed; close it after the last call")}

// errNil is for a nil *Quota among the Gates, which is no nil Gate: that one would be skipped.
var errNil = &steadyhttp.Refusal{Err: errors.New("redisquota: the *Quota in Transport.Gates is nil; " +
	"leave it out, or set its Client, Key and Windows")}

func newEngine(q *Quota) *engine {
	return &engine{conf: q, tune: usualTuning(), backend: newScripted(q.Client, q.Key)}
}

// maxN is the largest limit: Redis keeps each call.
const maxN = 100_000

// check refuses fields that make no sense, naming the field and the fix. The rest is for quota.Quota to
// say.
func (q *Quota) check() error {
	refuse := func(format string, args ...any) error {
		return &steadyhttp.Refusal{Err: fmt.Errorf("redisquota: "+format, args...)}
	}
	if missing(q.Client) {
		return refuse("Quota.Client is nil; set it to a *redis.Client")
	}
	if q.Key == "" {
		return refuse("Quota.Key is empty; name the quota, the same in all processes that share it")
	}
	for i, w := range q.Windows {
		if w.N > maxN {
			return refuse("Quota.Windows[%d].N is %d; use at most %d: Redis keeps 110 bytes for each call, "+
				"118 MB for a million, and stands still for 160 ms when it forgets half of them", i, w.N, maxN)
		}
	}
	if q.MaxQueue < 0 {
		return refuse("Quota.MaxQueue is %d, and nobody would wait for Redis to grant a place; use MaxWait", q.MaxQueue)
	}
	if q.MaxWait > 0 && q.MaxWait < durations.MinWindow {
		return refuse("Quota.MaxWait is %v, and Redis takes longer to grant a place; use a duration with its unit, "+
			"as in 2 * time.Second", q.MaxWait)
	}
	if q.Start > Empty {
		return refuse("Quota.Start is %d; use Fresh, Spent or Empty", q.Start)
	}
	if q.WhenAway > Open {
		return refuse("Quota.WhenAway is %d; use Known, Share, Closed or Open", q.WhenAway)
	}
	return nil
}

// missing reports whether there is no client: a nil one of go-redis' own types would panic in a goroutine
// that the caller can't recover.
func missing(client redis.UniversalClient) bool {
	switch c := client.(type) {
	case nil:
		return true
	case *redis.Client:
		return c == nil
	case *redis.ClusterClient:
		return c == nil
	case *redis.Ring:
		return c == nil
	}
	return false
}

// State returns the present state: Used, Free and Limit are of all processes, as far as the last word
// from Redis tells, and Waiting and InFlight of this one.
func (q *Quota) State() quota.State {
	if q.begin() != nil {
		return quota.State{}
	}
	s := q.inner.State()
	e := q.engine
	if e.host == nil {
		return s
	}
	e.host.Lock()
	defer e.host.Unlock()
	for i := range s.Windows {
		if e.hasWord && i < len(e.word.used) && e.host.Now() < e.word.at+s.Windows[i].Per {
			w := &s.Windows[i]
			w.Used = max(w.Used, e.word.used[i])
			w.Free = max(0, w.Limit-w.Used)
		}
	}
	return s
}

// Shared is what one process knows of all.
type Shared struct {
	Processes int           // that share the quota, as far as is known
	Away      bool          // Redis does not answer: WhenAway decides
	Learning  time.Duration // until calls go again, after Redis has lost its state; 0: they go
	Exchanges int           // with Redis so far
	Losses    int           // of Redis' state that this process has seen
	Steps     int           // of Redis' clock
	Err       error         // of the last exchange, or that another process has other Windows; nil: all is well
}

// Shared returns what this process knows of all.
func (q *Quota) Shared() Shared {
	if q.begin() != nil {
		return Shared{Err: q.invalid}
	}
	q.inner.State() // begins it
	e := q.engine
	if e.host == nil {
		return Shared{Processes: 1}
	}
	e.host.Lock()
	defer e.host.Unlock()
	return Shared{
		Processes: e.among, Away: e.away, Learning: max(0, e.learning-e.host.Now()),
		Exchanges: e.stats.exchanges, Losses: e.stats.losses, Steps: e.stats.steps,
		Err: cmp.Or(e.lastError, e.mismatch()),
	}
}

// mismatch says that another process has other limits, if that was seen within the last minute: in a
// roll-out, it passes.
func (e *engine) mismatch() error {
	if e.other == "" || e.host.Now() > e.otherAt+time.Minute {
		return nil
	}
	return fmt.Errorf("redisquota: another process that shares the Key has %q, and this one %q; "+
		"give all the same Windows, Reserve and MaxTransit, or another Key", e.other, e.same)
}

// Close says that this process will send nothing more: the others need not wait for it to fall silent.
// It returns when Redis has been told, or does not answer. Nobody enters afterwards, and who waits is
// refused: close it after the last call. A process that ends without it is noticed after some seconds.
func (q *Quota) Close() error {
	q.closed.Store(true)
	if q.begin() != nil {
		return nil
	}
	q.inner.State() // begins it
	e := q.engine
	if e.host == nil {
		return nil
	}
	e.host.Lock()
	e.host.Dismiss(errClosed)
	done := e.closed
	if !e.closing {
		e.closing = true
		if e.epoch != "" || e.running {
			done = make(chan struct{})
			e.closed = done
			e.start()
			e.rouse(0)
		}
	}
	e.host.Unlock()
	if done != nil { // of another Close, maybe
		<-done
	}
	e.host.Lock()
	defer e.host.Unlock()
	if !e.bye && e.seq > 0 { // else there is nothing to tell
		return errors.Join(errors.New("redisquota: Redis was not told"), e.lastError)
	}
	return nil
}

// For returns what makes the quotas of defender.Config.NewGate shared ones.
func For(client redis.UniversalClient) func(key string, q *quota.Quota) steadyhttp.Gate {
	return func(key string, q *quota.Quota) steadyhttp.Gate {
		shared := &Quota{
			Client: client, Key: key, Windows: slices.Clone(q.Windows), Reserve: q.Reserve,
			MaxQueue: q.MaxQueue, MaxWait: q.MaxWait, MaxTransit: q.MaxTransit,
			Weight: q.Weight, PauseOnly: q.PauseOnly,
		}
		if q.Start == quota.Spent {
			shared.Start = Spent
		}
		return shared
	}
}

// newProc names a process: at random, so that one that starts again owns nothing of the one before.
func newProc() string { return rand.Text()[:16] }
