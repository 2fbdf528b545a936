package redisquota_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// quiet is a logger of go-redis that says nothing.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// helperVariable has the test binary be one of the processes that share a quota.
const helperVariable = "REDISQUOTA_TEST_HELPER"

// helperConfig is what such a process is told.
type helperConfig struct {
	Name, API, Redis, Key string
	Workers               int
	Windows               []quota.Window
}

func isHelper() bool { return os.Getenv(helperVariable) != "" }

// helper makes calls until its standard input ends.
func helper() {
	var c helperConfig
	if err := json.Unmarshal([]byte(os.Getenv(helperVariable)), &c); err != nil {
		panic(err)
	}
	redis.SetLogger(quiet{})
	client := redis.NewClient(&redis.Options{Addr: c.Redis})
	q := &redisquota.Quota{Client: client, Key: c.Key, Windows: c.Windows}
	p := &redistest.Process{Name: c.Name, Gate: q, Workers: c.Workers}
	base := &http.Transport{MaxIdleConnsPerHost: c.Workers}
	p.Begin(context.Background(), to{c.API, base})
	bufio.NewReader(os.Stdin).ReadByte()
	p.End()
	q.Close()
}

// to sends requests to a host, whatever theirs is.
type to struct {
	host string
	base http.RoundTripper
}

func (s to) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = s.host
	return s.base.RoundTrip(req)
}

// processes starts real ones. Each is told by its standard input to end.
type processes struct {
	t      *testing.T
	config helperConfig
	all    []*exec.Cmd
	ends   []func()
}

func startProcesses(t *testing.T, n int, c helperConfig) *processes {
	p := &processes{t: t, config: c}
	for range n {
		p.start()
	}
	t.Cleanup(p.end)
	return p
}

func (p *processes) start() *exec.Cmd {
	p.t.Helper()
	c := p.config
	c.Name = string(rune('a' + len(p.all)))
	config, err := json.Marshal(c)
	if err != nil {
		p.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperVariable+"="+string(config))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.all = append(p.all, cmd)
	p.ends = append(p.ends, func() { stdin.Close() })
	return cmd
}

func (p *processes) end() {
	for _, end := range p.ends {
		end()
	}
	for _, cmd := range p.all {
		kill := time.AfterFunc(10*time.Second, func() {
			p.t.Error("a process does not end")
			cmd.Process.Kill()
		})
		cmd.Wait()
		kill.Stop()
	}
	p.ends, p.all = nil, nil
}

// Four real processes before an HTTP server: one is killed, one is suspended for 3 s, and one comes
// late. Never over, and both of the longer windows are full.
func TestRealProcesses(t *testing.T) {
	long.Only(t)
	t.Parallel()
	used(t, 0.98, func(t *testing.T) redistest.Figures {
		r := redistest.Start(t, redistest.Options{})
		b := &redistest.Bed{TB: t, API: redistest.NewAPI(ms, 20*ms), Windows: twoWindows}
		server := httptest.NewServer(b.API)
		defer server.Close()
		p := startProcesses(t, 4, helperConfig{
			API: server.Listener.Addr().String(), Redis: r.Addr(), Key: t.Name(), Workers: 8, Windows: twoWindows,
		})
		killed, suspended := p.all[0], p.all[1]
		b.Run(28850*ms,
			redistest.Event{At: 2050 * ms, Do: func() { killed.Process.Kill() }},
			redistest.Event{At: 3050 * ms, Do: func() { redistest.Suspend(t, suspended.Process) }},
			redistest.Event{At: 6050 * ms, Do: func() { redistest.Resume(t, suspended.Process) }},
			redistest.Event{At: 7 * time.Second, Do: func() { p.start() }},
		)
		f := b.Figures(28850 * ms)
		b.Over(f)
		served := b.API.Served()
		t.Log(served)
		if len(served) != 5 {
			t.Errorf("%d processes were served, want all 5: %v", len(served), served)
		}
		p.end()
		return f
	})
}

// A process that is suspended for longer than it takes to be thought dead may have been granted what
// it had not sent yet: as many calls too many as it has workers, at most.
func TestSuspendedProcessIsBounded(t *testing.T) {
	long.Only(t)
	t.Parallel()
	const workers = 8
	r := redistest.Start(t, redistest.Options{})
	b := &redistest.Bed{TB: t, API: redistest.NewAPI(ms, 20*ms), Windows: twoWindows}
	server := httptest.NewServer(b.API)
	defer server.Close()
	p := startProcesses(t, 4, helperConfig{
		API: server.Listener.Addr().String(), Redis: r.Addr(), Key: t.Name(), Workers: workers, Windows: twoWindows,
	})
	suspended := p.all[1]
	b.Run(28850*ms,
		redistest.Event{At: 2020 * ms, Do: func() { redistest.Suspend(t, suspended.Process) }},
		redistest.Event{At: 11100 * ms, Do: func() { redistest.Resume(t, suspended.Process) }},
	)
	f := b.Figures(28850 * ms)
	t.Log(f)
	b.Over(f, 100+workers, 500+workers)
	p.end()
}

// hourVariable has the one test run that takes ten minutes.
const hourVariable = "STEADYHTTP_REDIS_HOUR"

// Defender's own limits by four processes for ten minutes.
func TestRealScale(t *testing.T) {
	if os.Getenv(hourVariable) == "" {
		t.Skip("it takes ten minutes: set " + hourVariable)
	}
	t.Parallel()
	windows := []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}
	r := redistest.Start(t, redistest.Options{})
	b := &redistest.Bed{TB: t, API: redistest.NewAPI(20*ms, 520*ms), Windows: windows}
	server := httptest.NewServer(b.API)
	defer server.Close()
	startProcesses(t, 4, helperConfig{
		API: server.Listener.Addr().String(), Redis: r.Addr(), Key: t.Name(), Workers: 8, Windows: windows,
	})
	scripts := r.Scripts()
	b.Run(570 * time.Second)
	f := b.Figures(570 * time.Second)
	t.Logf("%v, %.2f round trips a call", f, float64(r.Scripts()-scripts)/float64(f.Calls))
	b.Over(f)
	if f.Used < 0.98 {
		t.Errorf("%.1f %% used, want at least 98", 100*f.Used)
	}
}

var _ steadyhttp.Gate = (*redisquota.Quota)(nil)
