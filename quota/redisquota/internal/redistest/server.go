// Package redistest is the test bed of redisquota: real Redis servers and what befalls them, a
// server that counts arrivals, and gates that are known to let too many through, so that the bed
// itself can be seen to notice.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Options are how a Redis is started. The zero value keeps nothing on disk.
type Options struct {
	AOF     bool     // appendonly, fsynced each second
	Cluster bool     // cluster mode: one shard with all slots
	Clock   bool     // StepClock works; needs a C compiler
	Args    []string // of redis-server, in addition
}

// Redis is a redis-server of its own, on a free port of the loopback.
type Redis struct {
	t     testing.TB
	o     Options
	dir   string
	addr  string
	port  int
	clock string // file with the microseconds that its clock is ahead
	shim  string
	cmd   *exec.Cmd
	ended chan struct{} // of cmd
}

var starting = make(chan struct{}, 2)

// Start starts a Redis that ends with the test. Where there is no redis-server, the test skips.
func Start(t testing.TB, o Options) *Redis {
	if raced {
		t.Skip("what real servers tell is how much goes in which time: run this without the race detector")
	}
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skipf("needs redis-server (Debian: apt-get install redis-server): %v", err)
	}
	r := &Redis{t: t, o: o, dir: t.TempDir()}
	if o.Clock {
		r.shim = clockShim(t)
		r.clock = filepath.Join(r.dir, "clock")
		if err := os.WriteFile(r.clock, make([]byte, 8), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Tens of rows begin at once: where all of their servers start at once, all are late.
	starting <- struct{}{}
	defer func() { <-starting }()
	t.Cleanup(func() {
		r.Kill()
		if t.Failed() {
			if log, err := os.ReadFile(filepath.Join(r.dir, "log")); err == nil {
				t.Logf("redis-server %s said, at last:\n%s", r.addr, tail(string(log), 20))
			}
		}
	})
	// The port was free a moment ago: another test may have taken it since.
	var err error
	for range 5 {
		r.port = freePort(t)
		r.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port))
		if err = r.run(); err == nil {
			return r
		}
		r.Kill()
	}
	t.Fatal(err)
	return nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run starts the process, and returns when it answers.
func (r *Redis) run() error {
	args := []string{
		"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--save", "", "--dir", r.dir,
		"--logfile", filepath.Join(r.dir, "log"), "--enable-debug-command", "yes",
		"--repl-diskless-sync-delay", "0",
	}
	if r.o.AOF {
		args = append(args, "--appendonly", "yes", "--appendfsync", "everysec")
	}
	if r.o.Cluster {
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(freePort(r.t)))
	}
	cmd := exec.Command("redis-server", append(args, r.o.Args...)...)
	cmd.Env = os.Environ()
	if r.shim != "" {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+r.shim, clockVariable+"="+r.clock)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	r.cmd, r.ended = cmd, ended
	client := redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1})
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	assigned := false
	for {
		err := r.ready(ctx, client, &assigned)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("redis-server on %s ended: %w", r.addr, err)
		case <-ctx.Done():
			return fmt.Errorf("redis-server on %s is not ready: %w", r.addr, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (r *Redis) ready(ctx context.Context, client *redis.Client, assigned *bool) error {
	info, err := client.InfoMap(ctx, "server", "persistence").Result()
	if err != nil {
		return err
	}
	if pid := info["Server"]["process_id"]; pid != strconv.Itoa(r.cmd.Process.Pid) {
		return fmt.Errorf("the port is that of process %s", pid)
	}
	if info["Persistence"]["loading"] != "0" {
		return errors.New("it is loading")
	}
	if !r.o.Cluster {
		return nil
	}
	if !*assigned {
		if err := client.ClusterAddSlotsRange(ctx, 0, 16383).Err(); err != nil && !strings.Contains(err.Error(), "busy") {
			return err
		}
		*assigned = true
	}
	state, err := client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	if !strings.Contains(state, "cluster_state:ok") {
		return errors.New("the cluster is not ok yet")
	}
	return nil
}

// Addr returns host and port.
func (r *Redis) Addr() string { return r.addr }

// Client returns a client to the server itself, for the test's own commands.
func (r *Redis) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: r.addr})
	r.t.Cleanup(func() { client.Close() })
	return client
}

// Do runs a command, and fails the test with its error.
func (r *Redis) Do(args ...any) any {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.addr, ReadTimeout: time.Minute})
	defer client.Close()
	answer, err := client.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		r.t.Errorf("%v: %v", args, err)
	}
	return answer
}

// Kill ends the process as kill -9 does, and waits for its end.
func (r *Redis) Kill() {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Kill()
	<-r.ended
	r.cmd = nil
}

// Restart starts the process again that was killed, with what it has on disk.
func (r *Redis) Restart() {
	r.t.Helper()
	r.Kill()
	if err := r.run(); err != nil {
		r.t.Error(err)
	}
}

// Suspend stops the process, as SIGSTOP does.
func (r *Redis) Suspend() { Suspend(r.t, r.cmd.Process) }

// Resume has a suspended process go on.
func (r *Redis) Resume() { Resume(r.t, r.cmd.Process) }

// FlushAll forgets everything.
func (r *Redis) FlushAll() { r.Do("FLUSHALL") }

// Replica starts a replica, and returns when it has all that the server has.
func (r *Redis) Replica() *Redis {
	r.t.Helper()
	replica := Start(r.t, r.o)
	replica.Do("REPLICAOF", "127.0.0.1", strconv.Itoa(r.port))
	client := replica.Client()
	for range 2000 {
		info, err := client.InfoMap(context.Background(), "replication").Result()
		if err == nil && info["Replication"]["master_link_status"] == "up" {
			return replica
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatal("the replica does not get ready")
	return nil
}

// Cut ends the replication; what the server is told from now on, the replica will not know.
func (r *Redis) Cut() { r.Do("REPLICAOF", "NO", "ONE") }

// Info returns a figure of INFO.
func (r *Redis) Info(section, field string) float64 {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.addr})
	defer client.Close()
	info, err := client.InfoMap(context.Background(), section).Result()
	if err != nil {
		r.t.Error(err)
		return 0
	}
	for _, fields := range info {
		if text, ok := fields[field]; ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				r.t.Error(err)
			}
			return value
		}
	}
	return 0
}

// CPU returns the seconds of processor time that the server has used.
func (r *Redis) CPU() float64 {
	return r.Info("cpu", "used_cpu_user") + r.Info("cpu", "used_cpu_sys")
}

// Scripts returns how many scripts it was asked to run.
func (r *Redis) Scripts() (n int) {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.addr})
	defer client.Close()
	text, err := client.Info(context.Background(), "commandstats").Result()
	if err != nil {
		r.t.Error(err)
	}
	for line := range strings.Lines(text) {
		name, stats, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name != "cmdstat_evalsha" && name != "cmdstat_eval" {
			continue
		}
		var calls int
		if _, err := fmt.Sscanf(stats, "calls=%d", &calls); err == nil {
			n += calls
		}
	}
	return n
}

// Keys returns all keys with their time to live; negative: for ever.
func (r *Redis) Keys() map[string]time.Duration {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.addr})
	defer client.Close()
	ctx := context.Background()
	keys, err := client.Keys(ctx, "*").Result()
	if err != nil {
		r.t.Error(err)
	}
	ttls := make(map[string]time.Duration)
	for _, key := range keys {
		ttl, err := client.PTTL(ctx, key).Result()
		if err != nil {
			r.t.Error(err)
		}
		ttls[key] = ttl
	}
	return ttls
}

// Memory returns how many bytes all keys take.
func (r *Redis) Memory() (bytes int64) {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.addr})
	defer client.Close()
	for key := range r.Keys() {
		n, err := client.MemoryUsage(context.Background(), key, 0).Result()
		if err != nil && err != redis.Nil { // it has expired meanwhile
			r.t.Error(err)
		}
		bytes += n
	}
	return bytes
}
