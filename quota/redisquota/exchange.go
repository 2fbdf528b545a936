package redisquota

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/internal/ledger"
)

//go:embed sync.lua
var source string

// request is one exchange with the ledger in Redis. It is made once, and sent until it is answered:
// its number sees to it that it is done once.
type request struct {
	proc       string
	seq, acked uint64
	epoch      string
	flags      string
	want, need [ledger.Classes]int
	limits     []ledger.Limit
	conf       string        // what this process takes the quota to be
	delay      time.Duration // from a grant to its answer
	fix        *clockFix
	known      *word // what all had taken; nil: it is not asked for
	away       int   // places that were taken since without a grant
	pause      time.Duration
	heard      uint64 // the version of what was learned of the limits
	low        string

	lower []end                 // counted by then
	raise [ledger.Classes][]end // counted later than all know, or by then, if nobody knows of them
	gone  []ledger.ID           // never left
	runs  [ledger.Classes][]run // of an upload
}

type end struct {
	at time.Duration
	id ledger.ID
}

type run struct {
	at time.Duration
	n  int
}

// clockFix says that Redis' clock was set.
type clockFix struct{ from, to int64 }

// word is what a process was told last.
type word struct {
	at    time.Duration
	used  []int // of each window, by all
	among int
}

// reply is the answer to a request.
type reply struct {
	status  string
	epoch   string
	raw     int64 // Redis' clock, in us
	skew    int64
	granted [ledger.Classes]int
	wait    [ledger.Classes]time.Duration // negative: it says nothing
	among   int
	pause   time.Duration
	learn   time.Duration
	lows    uint64
	low     string
	lowAge  time.Duration
	used    []int
	conf    string // what the process before took the quota to be
}

// confText is what must be the same in all processes, for people to compare.
func confText(q *Quota, transit time.Duration) string {
	var b strings.Builder
	for _, w := range q.Windows {
		fmt.Fprintf(&b, "%d per %v, ", w.N, w.Per)
	}
	fmt.Fprintf(&b, "Reserve %v, MaxTransit %v", q.Reserve, transit)
	if b.Len() > maxConf {
		return fmt.Sprintf("%d Windows %x", len(q.Windows), sha256.Sum256([]byte(b.String())))
	}
	return b.String()
}

// micros rounds down, which makes a score later, and so safe.
func micros(d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	if d < 0 && d%time.Microsecond != 0 {
		us--
	}
	return us
}

func ceilMicros(d time.Duration) int64 { return -micros(-d) }

// args are the script's arguments as of now.
func (r *request) args(t *tuning, now time.Duration) []any {
	a := make([]any, 0, 32+4*len(r.limits)+2*(len(r.lower)+len(r.raise[0])+len(r.raise[1]))+len(r.gone)+
		2*(len(r.runs[0])+len(r.runs[1])))
	a = append(a, r.proc, r.seq, r.acked, r.epoch, r.flags,
		micros(t.lease), micros(t.dead), micros(t.learn), micros(t.grace), micros(t.silence), micros(r.delay),
		r.want[ledger.High], r.need[ledger.High], r.want[ledger.Normal], r.need[ledger.Normal],
		len(r.limits))
	for _, l := range r.limits {
		a = append(a, l.N, l.Normal, ceilMicros(l.Per))
	}
	a = append(a, r.conf)
	if r.fix != nil {
		a = append(a, "step", r.fix.from, r.fix.to)
	} else {
		a = append(a, "", 0, 0)
	}
	age := int64(-1)
	if r.known != nil {
		age = micros(now - r.known.at)
	}
	a = append(a, age, r.away)
	for i := range r.limits {
		if r.known != nil && i < len(r.known.used) {
			a = append(a, r.known.used[i])
		} else {
			a = append(a, 0)
		}
	}
	a = append(a, max(0, ceilMicros(r.pause-now)), r.heard, r.low)
	ends := func(list []end) {
		a = append(a, len(list))
		for _, e := range list {
			a = append(a, micros(now-e.at), idText(e.id))
		}
	}
	ends(r.lower)
	ends(r.raise[ledger.High])
	ends(r.raise[ledger.Normal])
	a = append(a, len(r.gone))
	for _, id := range r.gone {
		a = append(a, idText(id))
	}
	for _, c := range [...]ledger.Class{ledger.High, ledger.Normal} {
		a = append(a, len(r.runs[c]))
		for _, one := range r.runs[c] {
			a = append(a, micros(now-one.at), one.n)
		}
	}
	return a
}

func idText(id ledger.ID) string {
	var b [48]byte
	text := strconv.AppendUint(b[:0], id.Grant, 10)
	text = append(text, ':')
	return string(strconv.AppendUint(text, id.N, 10))
}

// backend does exchanges.
type backend interface {
	exchange(ctx context.Context, r *request, t *tuning, now time.Duration) (reply, error)
}

// scripted is a backend that is a Redis.
type scripted struct {
	client redis.UniversalClient
	keys   []string
	script *redis.Script
}

func newScripted(client redis.UniversalClient, key string) *scripted {
	s := &scripted{client: client, script: redis.NewScript(source)}
	for _, name := range [...]string{"log", "normal", "line", "seen", "head"} {
		s.keys = append(s.keys, keyOf(key)+":"+name)
	}
	return s
}

func (s *scripted) exchange(ctx context.Context, r *request, t *tuning, now time.Duration) (reply, error) {
	answer, err := s.script.Run(ctx, s.client, s.keys, r.args(t, now)...).StringSlice()
	if err != nil {
		return reply{}, explained(err)
	}
	return parse(answer, len(r.limits))
}

// refusedError is an error that Redis itself has answered, with what to do about it.
type refusedError struct {
	fix string
	err error
}

func (e *refusedError) Error() string {
	const longest = 300
	text := e.err.Error()
	if len(text) > longest {
		text = text[:longest]
	}
	return fmt.Sprintf("redisquota: %s; Redis says %q", e.fix, text)
}

func (e *refusedError) Unwrap() error { return e.err }

// ownError is an error of the Client itself, with what to do about it.
type ownError struct {
	fix string
	err error
}

func (e *ownError) Error() string { return e.err.Error() + "; " + e.fix }
func (e *ownError) Unwrap() error { return e.err }

// explained says what to do about an error, if Redis has answered it, or the Client itself could do
// something about it. What a script's command met may be in the midst of the text.
func explained(err error) error {
	switch {
	case errors.Is(err, redis.ErrClosed):
		return &ownError{"close the Client after the Quota, and that after the last call", err}
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return &ownError{"raise the Client's PoolSize, or give the Quota a Client of its own", err}
	}
	told, ok := errors.AsType[redis.Error](err)
	if !ok || err == redis.Nil {
		return err
	}
	const toMaster = "this server does not take writes now; have the Client go to the master"
	for _, known := range [...]struct{ sign, fix string }{
		{"NOAUTH", "set Username and Password of the Client"},
		{"WRONGPASS", "set Username and Password of the Client"},
		{"NOPERM", "give the Client's user the rights in docs/sharedquota.md"},
		{"can't run this command", "give the Client's user the rights in docs/sharedquota.md"},
		{"can't access", "give the Client's user the rights in docs/sharedquota.md"},
		{"READONLY", toMaster},
		{"MASTERDOWN", toMaster},
		{"NOREPLICAS", "the master has too few replicas to take writes; look after them"},
		{"MISCONF", "Redis can't save to its disk, and takes no writes; look after it"},
		{"MOVED", "the server is part of a cluster; use redis.NewClusterClient"},
		{"ASK ", "the server is part of a cluster; use redis.NewClusterClient"},
		{"CROSSSLOT", "the server is part of a cluster; use redis.NewClusterClient"},
		{"CLUSTERDOWN", "the cluster does not serve this Key's slot; look after it"},
		{"WRONGTYPE", "another program uses the keys; choose another Key"},
		{"OOM", "Redis has no memory left; raise maxmemory, or delete what else is in it"},
		{"LOADING", "Redis has been started, and reads its data; it is asked again"},
		{"BUSY", "another program's script runs for long; it is asked again"},
		{"max number of clients", "raise maxclients, or lower the Clients' PoolSize"},
		{"unknown command", "use Redis 6.2 or later, with scripts"},
		{"Unknown Redis command", "use Redis 6.2 or later, with scripts"},
		{"syntax error", "use Redis 6.2 or later"},
	} {
		if strings.Contains(told.Error(), known.sign) {
			return &refusedError{known.fix, err}
		}
	}
	return &refusedError{"the exchange failed, and is tried again", err}
}

// answers says whether a reply can be one to a request: nobody is granted what he did not ask for.
func (a *reply) answers(r *request) bool {
	for c, granted := range a.granted {
		if granted > max(0, r.want[c]) {
			return false
		}
	}
	return a.status == "late" || len(a.used) == len(r.limits)
}

var errForeign = errors.New("redisquota: the answer is none of the script's; is another program using the key?")

// parse reads an answer. It comes from outside: nothing of it is trusted to be in range.
func parse(answer []string, windows int) (r reply, err error) {
	if len(answer) == 1 && answer[0] == "late" {
		return reply{status: "late"}, nil
	}
	const fixed = 14
	if len(answer) != fixed+windows+1 || answer[0] != "ok" && answer[0] != "changed" ||
		len(answer[1]) > 100 || len(answer[12]) > maxLow || len(answer[fixed+windows]) > maxConf {
		return reply{}, errForeign
	}
	var n [fixed]int64
	for i := 2; i < fixed; i++ {
		if i == 12 {
			continue
		}
		v, err := strconv.ParseInt(answer[i], 10, 64)
		if err != nil || v > 1<<53 || v < -1<<53 {
			return reply{}, errForeign
		}
		n[i] = v
	}
	us := func(v int64) time.Duration {
		return time.Duration(max(-1, min(v, int64(durations.MaxWindow/time.Microsecond)))) * time.Microsecond
	}
	r = reply{
		status: answer[0], epoch: answer[1], raw: n[2], skew: n[3],
		among: int(max(1, min(n[8], maxAmong))), pause: us(n[9]), learn: us(n[10]),
		lows: uint64(max(0, n[11])), low: answer[12], lowAge: max(0, us(n[13])),
		used: make([]int, windows), conf: answer[fixed+windows],
	}
	r.granted[ledger.High], r.granted[ledger.Normal] = int(n[4]), int(n[5])
	r.wait[ledger.High], r.wait[ledger.Normal] = us(n[6]), us(n[7])
	for _, g := range r.granted {
		if g < 0 || g > maxGrant {
			return reply{}, errForeign
		}
	}
	for i := range r.used {
		v, err := strconv.ParseInt(answer[fixed+i], 10, 32)
		if err != nil || v < 0 {
			return reply{}, errForeign
		}
		r.used[i] = int(v)
	}
	return r, nil
}

const (
	maxGrant = 1 << 20
	maxAmong = 1 << 20
	maxLow   = 4096
	maxConf  = 200
)

// What was learned of the limits travels as text, window by window: named lowered until shared share
// grown wide. Durations are in us, and times are ages.

func lowText(limits []ledger.Limit, now time.Duration) string {
	if !slices.ContainsFunc(limits, learned) {
		return ""
	}
	var b strings.Builder
	for i, l := range limits {
		if i > 0 {
			b.WriteByte(';')
		}
		shared, wide := 0, 0
		if l.Shared {
			shared = 1
		}
		if l.Wide {
			wide = 1
		}
		fmt.Fprintf(&b, "%d %d %d %d %.3f %d %d", l.Named, micros(l.Lowered), micros(l.LowUntil-now), shared, l.Share,
			micros(now-l.GrownAt), wide)
	}
	return b.String()
}

func learned(l ledger.Limit) bool { return l.Named < l.Own || l.Shared || l.Wide }

// parseLow reads what another process has learned an age ago.
func parseLow(text string, windows int, now, age time.Duration) []ledger.Limit {
	parts := strings.Split(text, ";")
	if len(parts) != windows {
		return nil
	}
	limits := make([]ledger.Limit, windows)
	for i, part := range parts {
		var named, lowered, until, shared, grown, wide int64
		var share float64
		n, err := fmt.Sscanf(part, "%d %d %d %d %g %d %d", &named, &lowered, &until, &shared, &share, &grown, &wide)
		if err != nil || n != 7 || named < 1 || named > math.MaxInt32 || !(share >= 0 && share < 1<<31) {
			return nil
		}
		us := func(v int64) time.Duration {
			const most = int64(48 * time.Hour / time.Microsecond)
			return time.Duration(max(-most, min(v, most))) * time.Microsecond
		}
		limits[i] = ledger.Limit{
			Named: int(named), Lowered: max(0, us(lowered)), LowUntil: now + us(until) - age,
			Shared: shared == 1, Share: share, GrownAt: now - us(grown) - age,
			Wide: wide == 1,
		}
	}
	return limits
}
