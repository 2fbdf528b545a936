package redisquota_test

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
)

// realRedis starts a redis-server of this test's own.
func realRedis(t *testing.T, args ...string) *redis.Client {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	port := freePort(t)
	dir := t.TempDir()
	server := exec.Command(program, append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir,
		"--logfile", filepath.Join(dir, "log"),
	}, args...)...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + strconv.Itoa(port)})
	t.Cleanup(func() { client.Close() })
	for range 200 {
		if client.Ping(t.Context()).Err() == nil {
			return client
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("redis-server does not answer")
	return nil
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// service counts arrivals.
type service struct {
	mu       sync.Mutex
	arrivals []time.Time
}

func (s *service) arrive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = append(s.arrivals, time.Now())
}

// worst returns the most arrivals in any interval of a length.
func (s *service) worst(per time.Duration) (most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.arrivals, time.Time.Compare)
	from := 0
	for to := range s.arrivals {
		for s.arrivals[to].Sub(s.arrivals[from]) >= per {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}

func (s *service) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrivals)
}

// call makes one call through a gate: 1 to 20 ms until it arrives, and as long until its answer.
func call(ctx context.Context, gate steadyhttp.Gate, s *service) error {
	began := time.Now()
	pass, err := gate.Enter(ctx, steadyhttp.Attempt{Began: began})
	if err != nil {
		return err
	}
	sent := time.Now()
	time.Sleep(time.Millisecond + rand.N(19*time.Millisecond))
	s.arrive()
	time.Sleep(time.Millisecond + rand.N(19*time.Millisecond))
	pass.Leave(steadyhttp.Attempt{
		Began: began, Sent: sent, Answered: time.Now(), Sends: 1, Response: &http.Response{StatusCode: 200},
		Verdict: steadyhttp.Verdict{Class: steadyhttp.Success},
	})
	return nil
}

func TestManyProcessesShareOneQuota(t *testing.T) {
	t.Parallel()
	client := realRedis(t)
	length := time.Duration(long.Size(t, 4, 10)) * time.Second
	all := int(length / time.Second * 50)
	windows := []quota.Window{{N: 100, Per: time.Second}, {N: all, Per: length}}
	var s service
	ctx, cancel := context.WithTimeout(t.Context(), length+time.Second/2)
	defer cancel()
	var group sync.WaitGroup
	var processes []*redisquota.Quota
	for range 4 {
		q := &redisquota.Quota{Client: client, Key: "shared", Windows: windows, Start: redisquota.Empty}
		processes = append(processes, q)
		for range 8 {
			group.Go(func() {
				for call(ctx, q, &s) == nil {
				}
			})
		}
	}
	group.Wait()
	asks, exchanges := 0, 0
	for _, q := range processes {
		asks += q.Asks()
		exchanges += q.Shared().Exchanges
		t.Logf("%+v %+v", q.Shared(), q.State())
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, w := range windows {
		if worst := s.worst(w.Per); worst > w.N {
			t.Errorf("%d calls in %v, want %d at most", worst, w.Per, w.N)
		} else {
			t.Logf("%d calls in %v", worst, w.Per)
		}
	}
	t.Logf("%d calls, %.2f asks and %.2f exchanges for each", s.total(),
		float64(asks)/float64(s.total()), float64(exchanges)/float64(s.total()))
	if s.total() < all {
		t.Errorf("%d calls in %v, want at least %d", s.total(), length, all)
	}
}
