package redisquota

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp/internal/ledger"
	"github.com/steadyhttp/steadyhttp/internal/long"
)

// anyRequest makes up what a process might ask for next, or again, or what nobody would.
type inventor struct {
	r      *rand.Rand
	t      tuning
	limits []ledger.Limit
	flags  string
	procs  []*invented
	skew   int64
	now    time.Duration
}

type invented struct {
	name       string
	seq, acked uint64
	epoch      string
	last       *request
	places     []ledger.ID
	locals     uint64
}

func newInventor(r *rand.Rand) *inventor {
	v := &inventor{r: r, t: usualTuning()}
	v.t.fit(2 * time.Second)
	for range 1 + r.IntN(3) {
		n := 1 + r.IntN(12)
		v.limits = append(v.limits, ledger.Limit{N: n, Normal: n, Per: time.Millisecond * time.Duration(1+r.IntN(20_000))})
	}
	if r.IntN(2) == 0 {
		v.flags += "N"
		for i := range v.limits {
			v.limits[i].Normal = max(1, v.limits[i].N-r.IntN(3))
		}
	}
	if r.IntN(2) == 0 {
		v.flags += "A"
	}
	switch r.IntN(3) {
	case 0:
		v.flags += "E"
	case 1:
		v.flags += "S"
	}
	for i := range 1 + r.IntN(5) {
		v.procs = append(v.procs, &invented{name: fmt.Sprint("p", i)})
	}
	return v
}

func (v *inventor) request() (*invented, *request) {
	p := v.procs[v.r.IntN(len(v.procs))]
	if p.last != nil && v.r.IntN(12) == 0 {
		return p, p.last // again
	}
	r := &request{
		proc: p.name, seq: p.seq + 1, acked: p.acked, epoch: p.epoch, flags: v.flags,
		limits: v.limits, conf: fmt.Sprint("conf ", v.r.IntN(2)), delay: time.Duration(v.r.IntN(50)) * time.Millisecond,
	}
	if v.r.IntN(40) == 0 && p.seq > 1 {
		r.seq -= 2 // one that was overtaken
	}
	if v.r.IntN(60) == 0 {
		r.acked = r.seq + 5 // Redis was rolled back
	}
	if v.r.IntN(60) == 0 {
		r.fix = &clockFix{v.skew, v.skew + int64(v.r.IntN(2_000_000)) - 1_000_000}
	}
	if v.r.IntN(20) == 0 {
		r.known = &word{at: v.now - upTo(v.r, time.Second)}
		for _, l := range v.limits {
			r.known.used = append(r.known.used, v.r.IntN(l.N+1))
		}
		r.away = v.r.IntN(2)
	}
	if v.r.IntN(40) == 0 {
		r.pause = v.now + upTo(v.r, time.Second)
	}
	if v.r.IntN(20) == 0 {
		r.low = "told " + strconv.Itoa(v.r.IntN(1000))
	}
	for _, f := range []string{"U", "R", "B"} {
		if v.r.IntN(30) == 0 {
			r.flags += f
		}
	}
	for c := range ledger.Classes {
		switch v.r.IntN(4) {
		case 0:
			r.want[c] = -1
		case 1, 2:
			r.need[c] = 1
			if v.r.IntN(4) == 0 {
				r.need[c] = 1 + v.r.IntN(4)
			}
			r.want[c] = r.need[c] + v.r.IntN(8)
		}
		if v.r.IntN(15) == 0 {
			for range v.r.IntN(4) {
				r.runs[c] = append(r.runs[c], run{v.now - upTo(v.r, 5*time.Second), 1 + v.r.IntN(3)})
			}
		}
		if v.r.IntN(10) == 0 {
			p.locals++
			id := ledger.ID{N: p.locals}
			p.places = append(p.places, id)
			r.raise[c] = append(r.raise[c], end{v.now + upTo(v.r, 4*time.Second) - 2*time.Second, id})
		}
	}
	for len(p.places) > 0 && v.r.IntN(3) > 0 {
		id := p.places[0]
		p.places = p.places[1:]
		switch at := v.now - upTo(v.r, 100*time.Millisecond); v.r.IntN(5) {
		case 0:
			r.gone = append(r.gone, id)
		case 1:
			// Where one ZADD names a member twice, miniredis heeds the last only. No process does so.
			c := ledger.Class(v.r.IntN(2))
			if !slices.ContainsFunc(r.raise[c], func(e end) bool { return e.id == id }) {
				r.raise[c] = append(r.raise[c], end{at, id})
			}
		default:
			if !slices.ContainsFunc(r.lower, func(e end) bool { return e.id == id }) {
				r.lower = append(r.lower, end{at, id})
			}
		}
	}
	p.last = r
	return p, r
}

// take is what the process makes of the answer.
func (v *inventor) take(p *invented, r *request, answer []string) {
	if len(answer) == 1 {
		return
	}
	p.seq = max(p.seq, r.seq)
	p.acked = r.seq
	p.epoch = answer[1]
	v.skew, _ = strconv.ParseInt(answer[3], 10, 64)
	n := uint64(0)
	for _, field := range answer[4:6] {
		k, _ := strconv.Atoi(field)
		for range k {
			n++
			p.places = append(p.places, ledger.ID{Grant: r.seq, N: n})
		}
	}
}

// runner runs the script, by a clock that is given.
type runner interface {
	run(ctx context.Context, args []any, raw int64) ([]string, error)
	wipe(ctx context.Context) error
	evict(ctx context.Context) error
}

type miniRunner struct {
	*scripted
	mini *miniredis.Miniredis
}

func (m *miniRunner) run(ctx context.Context, args []any, raw int64) ([]string, error) {
	m.mini.SetTime(time.UnixMicro(raw))
	return m.script.Run(ctx, m.client, m.keys, args...).StringSlice()
}

func (s *scripted) wipe(ctx context.Context) error  { return s.client.FlushAll(ctx).Err() }
func (s *scripted) evict(ctx context.Context) error { return s.client.Del(ctx, s.keys[0]).Err() }

// realRunner has the script told the time.
type realRunner struct{ *scripted }

func (m *realRunner) run(ctx context.Context, args []any, raw int64) ([]string, error) {
	args = append(args[:len(args):len(args)], raw/1e6, raw%1e6)
	return m.script.Run(ctx, m.client, m.keys, args...).StringSlice()
}

func newRealRunner(t *testing.T) runner {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	server := exec.Command(program, "--port", address[strings.LastIndexByte(address, ':')+1:], "--bind", "127.0.0.1", "--save", "")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	s := newScripted(redis.NewClient(&redis.Options{Addr: address}), "script")
	t.Cleanup(func() { s.client.Close() })
	for range 200 {
		if s.client.Ping(t.Context()).Err() == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	const asks = "call('TIME')"
	if strings.Count(source, asks) != 1 {
		t.Fatal("the script asks for the time at another place than this test expects")
	}
	s.script = redis.NewScript(strings.Replace(source, asks, "{ARGV[#ARGV - 1], ARGV[#ARGV]}", 1))
	return &realRunner{s}
}

// The oracle trusts the model, and so the model must do what the script does, in miniredis and in a real
// Redis.
func TestScriptIsAsItsModel(t *testing.T) {
	histories := long.Size(t, 30, 100)
	if RaceEnabled {
		histories /= 5
	}
	if n, err := strconv.Atoi(os.Getenv("REDISQUOTA_HISTORIES")); err == nil {
		histories = n
	}
	for name, start := range map[string]func(*testing.T) runner{
		"miniredis": func(t *testing.T) runner {
			mini := miniredis.RunT(t)
			s := newScripted(redis.NewClient(&redis.Options{Addr: mini.Addr()}), "script")
			t.Cleanup(func() { s.client.Close() })
			return &miniRunner{scripted: s, mini: mini}
		},
		"redis": newRealRunner,
	} {
		t.Run(name, func(t *testing.T) {
			real := start(t)
			grants, losses, exchanges := 0, 0, 0
			for seed := range histories {
				r := rand.New(rand.NewPCG(uint64(seed), 1))
				v, m := newInventor(r), newModel()
				if err := real.wipe(t.Context()); err != nil {
					t.Fatal(err)
				}
				clock := int64(1_700_000_000_000_000)
				for i := range 60 {
					passed := upTo(r, 400*time.Millisecond)
					if r.IntN(25) == 0 {
						passed = upTo(r, 8*time.Second)
					}
					v.now += passed
					clock += int64(passed / time.Microsecond)
					switch r.IntN(80) {
					case 0:
						clock += int64(r.IntN(4e6)) - 2e6
					case 1:
						m.wipe()
						if err := real.wipe(t.Context()); err != nil {
							t.Fatal(err)
						}
					case 2:
						clear(m.log)
						if err := real.evict(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					p, q := v.request()
					args := q.args(&v.t, v.now)
					want := m.run(args, clock)
					got, err := real.run(t.Context(), args, clock)
					if err != nil {
						t.Fatalf("seed %d, request %d: %v\n%v", seed, i, err, args)
					}
					if !slices.Equal(got, want) {
						t.Fatalf("seed %d, request %d: %q, and the model says\n%q\n%v", seed, i, got, want, args)
					}
					if len(want) > 5 {
						grants += cmp.Compare(want[4], "0") + cmp.Compare(want[5], "0")
						if want[0] == "changed" {
							losses++
						}
					}
					exchanges++
					v.take(p, q, want)
				}
			}
			t.Logf("%d exchanges, %d with grants, %d of another epoch", exchanges, grants, losses)
			if grants == 0 || losses == 0 {
				t.Error("nothing was granted, or lost: the histories show nothing")
			}
		})
	}
}
