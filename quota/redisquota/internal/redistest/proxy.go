package redistest

import (
	"bytes"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Proxy stands between one process and its Redis.
type Proxy struct {
	t       testing.TB
	l       net.Listener
	target  atomic.Pointer[string]
	cut     atomic.Bool
	lose    atomic.Int64 // of 1,000 answers to scripts, so many are lost after they were carried out
	silence atomic.Int64 // and so many without a word
	delay   atomic.Int64 // one way
	Lost    atomic.Int64
	mu      sync.Mutex // guards conns
	conns   map[net.Conn]bool
	running sync.WaitGroup
}

// NewProxy returns a proxy to a Redis, which ends with the test.
func NewProxy(t testing.TB, r *Redis) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{t: t, l: l, conns: make(map[net.Conn]bool)}
	p.Target(r)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.closeAll()
		p.running.Wait()
	})
	return p
}

// Target is where the proxy leads from now on, as a name does after a failover: what is connected
// is closed.
func (p *Proxy) Target(r *Redis) {
	p.target.Store(&r.addr)
	p.closeAll()
}

// Cut has nothing pass, in either direction and without a word, or lets it pass again.
func (p *Proxy) Cut(cut bool) {
	p.cut.Store(cut)
	if !cut {
		p.closeAll() // what was lost on the way would be missed
	}
}

// Lose has so many of 1,000 answers to scripts get lost after they were carried out, with their
// connection.
func (p *Proxy) Lose(of1000 int) { p.lose.Store(int64(of1000)) }

// Silence has so many of 1,000 connections go dead without a word after a script was carried out.
// A client with go-redis's own settings waits for 5 s then, and its connection is lost to the pool
// for as long.
func (p *Proxy) Silence(of1000 int) { p.silence.Store(int64(of1000)) }

// Delay takes effect in each direction.
func (p *Proxy) Delay(oneWay time.Duration) { p.delay.Store(int64(oneWay)) }

// Addr returns host and port.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Client returns a client through the proxy, with the settings that most programs have: all are
// go-redis's own, but for the pool, so that a test of many processes stays small.
func (p *Proxy) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: p.Addr(), PoolSize: 10})
	p.t.Cleanup(func() { client.Close() })
	return client
}

func (p *Proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

func (p *Proxy) keep(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = true
}

func (p *Proxy) drop(conn net.Conn) {
	p.mu.Lock()
	delete(p.conns, conn)
	p.mu.Unlock()
	conn.Close()
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	p.keep(client)
	defer p.drop(client)
	server, err := net.Dial("tcp", *p.target.Load())
	if err != nil {
		return
	}
	p.keep(server)
	defer p.drop(server)
	var script atomic.Bool // the last request was one
	silent := false        // an answer was lost without a word, and so is all that follows
	var both sync.WaitGroup
	both.Go(func() {
		defer client.Close()
		defer server.Close()
		p.copy(server, client, func(chunk []byte) bool {
			script.Store(bytes.Contains(chunk, []byte("evalsha")) || bytes.Contains(chunk, []byte("EVALSHA")))
			return true
		})
	})
	both.Go(func() {
		defer client.Close()
		defer server.Close()
		p.copy(client, server, func([]byte) bool {
			if silent || !script.Load() {
				return !silent
			}
			dice := rand.Int64N(1000)
			silent = dice < p.lose.Load()+p.silence.Load()
			if dice < p.lose.Load() {
				client.Close()
			}
			if silent {
				p.Lost.Add(1)
			}
			return !silent
		})
	})
	both.Wait()
}

// copy passes on what pass lets through, in its order and each part after the delay.
func (p *Proxy) copy(to, from net.Conn, pass func([]byte) bool) {
	type part struct {
		due  time.Time
		data []byte
	}
	parts := make(chan part, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed := false
		for part := range parts {
			time.Sleep(time.Until(part.due))
			if failed || p.cut.Load() {
				continue
			}
			if _, err := to.Write(part.data); err != nil {
				failed = true
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && pass(buffer[:n]) {
			parts <- part{time.Now().Add(time.Duration(p.delay.Load())), bytes.Clone(buffer[:n])}
		}
		if err != nil {
			break
		}
	}
	close(parts)
	<-done
}
