package redisquota_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota/internal/redistest"
)

// sentinel watches over a master, and makes a replica the next one half a second after it is gone.
func sentinel(t *testing.T, master *redistest.Redis) (client *redis.SentinelClient, addr string) {
	t.Helper()
	host, port, err := net.SplitHostPort(master.Addr())
	if err != nil {
		t.Fatal(err)
	}
	own := freePort(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nlogfile %s\nsentinel monitor quota %s %s 1\n"+
		"sentinel down-after-milliseconds quota 500\nsentinel failover-timeout quota 5000\n", own, dir, filepath.Join(dir, "log"), host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("redis-server", conf, "--sentinel")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
		if log, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && t.Failed() {
			t.Logf("%s", log)
		}
	})
	addr = fmt.Sprint("127.0.0.1:", own)
	client = redis.NewSentinelClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { client.Close() })
	for range 100 { // until it knows of the replica
		if replicas, err := client.Replicas(t.Context(), "quota").Result(); err == nil && len(replicas) > 0 {
			return client, addr
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the sentinel finds no replica")
	return nil, ""
}

// Behind a sentinel, go-redis' failover client finds the next master by itself: no more calls arrive
// than the windows allow, whether the master hands over or dies, and they go on afterwards.
func TestNeverOverThroughAFailover(t *testing.T) {
	long.Only(t)
	t.Parallel()
	for name, failover := range map[string]func(master *redistest.Redis, s *redis.SentinelClient) error{
		"handed over": func(_ *redistest.Redis, s *redis.SentinelClient) error {
			return s.Failover(context.Background(), "quota").Err()
		},
		"killed":    func(master *redistest.Redis, _ *redis.SentinelClient) error { master.Kill(); return nil },
		"suspended": func(master *redistest.Redis, _ *redis.SentinelClient) error { master.Suspend(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			master := redistest.Start(t, redistest.Options{})
			master.Replica()
			watcher, addr := sentinel(t, master)
			watching, _ := watcher.GetMasterAddrByName(t.Context(), "quota").Result()
			var s service
			ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
			defer cancel()
			var group sync.WaitGroup
			var quotas []*redisquota.Quota
			for range 4 {
				client := redis.NewFailoverClient(&redis.FailoverOptions{
					MasterName: "quota", SentinelAddrs: []string{addr},
				})
				t.Cleanup(func() { client.Close() })
				q := &redisquota.Quota{Client: client, Key: "failover", Windows: twoWindows, Start: redisquota.Empty, WhenAway: redisquota.Closed}
				quotas = append(quotas, q)
				for range 8 {
					group.Go(func() {
						for call(ctx, q, &s) == nil {
						}
					})
				}
			}
			time.Sleep(3 * time.Second)
			began := time.Now()
			if err := failover(master, watcher); err != nil {
				t.Error(err)
			}
			group.Wait()
			after := 0
			for _, at := range s.arrivals {
				if at.Sub(began) > 10*time.Second {
					after++
				}
			}
			now, _ := watcher.GetMasterAddrByName(t.Context(), "quota").Result()
			t.Logf("from %v to %v: %d calls, at worst %d in %v and %d in %v, %d of them 10 s later and on; %+v", watching, now, s.total(),
				s.worst(twoWindows[0].Per), twoWindows[0].Per, s.worst(twoWindows[1].Per), twoWindows[1].Per, after, quotas[0].Shared())
			for _, w := range twoWindows {
				if worst := s.worst(w.Per); worst > w.N {
					t.Errorf("%d calls in %v, want %d at most", worst, w.Per, w.N)
				}
			}
			if after < 100 {
				t.Errorf("%d calls in the last 12 s", after)
			}
			if name == "suspended" {
				master.Resume()
			}
			for _, q := range quotas {
				q.Close()
			}
		})
	}
}
