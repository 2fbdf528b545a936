package redistest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Process is one of those that share a quota: a gate of its own, and workers that make calls as
// fast as it lets them.
type Process struct {
	Name    string
	Gate    steadyhttp.Gate
	Proxy   *Proxy // its way to Redis; nil: it has none of its own
	Workers int

	Refused atomic.Int64 // calls that the gate refused
	Failed  atomic.Int64 // calls that came to nothing

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Begin starts the workers. They call base, each again and again.
func (p *Process) Begin(ctx context.Context, base http.RoundTripper) {
	ctx, p.cancel = context.WithCancel(ctx)
	client := &http.Client{Transport: &steadyhttp.Transport{
		Base: base, Gates: []steadyhttp.Gate{p.Gate},
		Policy: steadyhttp.Policy{MaxAttempts: 1, MaxThrottled: -1, MaxElapsed: time.Hour, MaxWait: time.Hour},
	}}
	for range p.Workers {
		p.done.Go(func() {
			for ctx.Err() == nil {
				p.call(ctx, client)
			}
		})
	}
}

// Once has a process that has not begun make one call.
func (b *Bed) Once(p *Process) {
	b.Helper()
	client := &http.Client{Transport: &steadyhttp.Transport{Base: b.API, Gates: []steadyhttp.Gate{p.Gate}}}
	p.call(b.ctx, client)
}

func (p *Process) call(ctx context.Context, client *http.Client) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", nil)
	if err != nil {
		panic(err)
	}
	req.Header.Set(ProcessHeader, p.Name)
	resp, err := client.Do(req)
	switch {
	case err == nil:
		resp.Body.Close()
	case ctx.Err() != nil:
	case errors.Is(err, steadyhttp.ErrNotSent):
		p.Refused.Add(1)
		wait := 20 * time.Millisecond
		if e, ok := errors.AsType[*steadyhttp.Error](err); ok && e.Wait > 0 {
			wait = min(e.Wait, time.Second)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	default:
		p.Failed.Add(1)
	}
}

// End has the workers end, and waits for them. What waits in line gives up.
func (p *Process) End() {
	if p.cancel != nil {
		p.cancel()
		p.done.Wait()
	}
}

// Crash is End for a process that dies: nobody is told of anything any more. What has been sent
// arrives all the same.
func (p *Process) Crash() {
	p.cancel()
	if p.Proxy != nil {
		p.Proxy.Cut(true)
	}
}

// Bed is a fleet of processes before one API.
type Bed struct {
	testing.TB
	API       *API
	Windows   []quota.Window
	Processes []*Process

	ctx  context.Context // of the present run
	late time.Duration   // the most that a timer was in any run
}

// Run has all processes work until a time after the first arrival, while the events come to pass,
// each in its order and its time, by the same clock. It waits for everybody's end.
func (b *Bed) Run(d time.Duration, events ...Event) {
	b.Helper()
	watch := startWatch()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ctx = ctx
	for _, p := range b.Processes {
		p.Begin(ctx, b.API)
	}
	first := b.first()
	var happening sync.WaitGroup
	happening.Go(func() {
		for _, e := range events {
			time.Sleep(time.Until(first.Add(e.At)))
			e.Do()
		}
	})
	time.Sleep(time.Until(first.Add(d)))
	happening.Wait()
	cancel()
	for _, p := range b.Processes {
		p.done.Wait()
	}
	b.late = max(b.late, watch.stop())
}

// Join has one more process begin, of which nobody knew.
func (b *Bed) Join(p *Process) {
	b.Processes = append(b.Processes, p)
	p.Begin(b.ctx, b.API)
}

// first waits for the first arrival, and returns when it was.
func (b *Bed) first() time.Time {
	b.Helper()
	for range 3000 {
		if log := b.API.Log(); len(log) > 0 {
			return b.API.began.Add(log[0].At)
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatal("no call was let go in 30 s")
	return time.Time{}
}

// Event comes to pass some time after the start.
type Event struct {
	At time.Duration
	Do func()
}

// Every repeats what comes to pass, from a time on until another.
func Every(d, from, to time.Duration, do func(i int)) (events []Event) {
	for i, at := 0, from; at < to; i, at = i+1, at+d {
		events = append(events, Event{at, func() { do(i) }})
	}
	return events
}

// Figures are what came of a run.
type Figures struct {
	Calls int
	Worst []int // in the length of each window
	Each  []int // half second since the first: how many arrived
	Used  float64
	Late  time.Duration // the most that a timer was: the machine had something else to do
}

// Busy reports whether the machine was: what needs its time is not to be judged.
func (f Figures) Busy() bool { return f.Late > 150*time.Millisecond }

func (f Figures) String() string {
	each := ""
	for _, n := range f.Each[:min(len(f.Each), 60)] {
		each += fmt.Sprint(" ", n)
	}
	return fmt.Sprintf("%d calls, at worst %v, %.1f %% used, timers up to %v late; by half seconds:%s",
		f.Calls, f.Worst, 100*f.Used, f.Late.Round(time.Millisecond), each)
}

// Figures looks at all that arrived; what is used is counted over a span from the first of them on.
func (b *Bed) Figures(span time.Duration) Figures {
	times := b.API.Times()
	if len(times) == 0 {
		return Figures{Worst: make([]int, len(b.Windows)), Late: b.late}
	}
	f := Figures{Calls: len(times), Used: Used(times, b.Windows, times[0]+span), Late: b.late}
	for _, at := range times {
		half := int((at - times[0]) / (500 * time.Millisecond))
		for len(f.Each) <= half {
			f.Each = append(f.Each, 0)
		}
		f.Each[half]++
	}
	for _, w := range b.Windows {
		f.Worst = append(f.Worst, Worst(times, w.Per))
	}
	return f
}

// Over fails the test if more arrived in any interval than the windows allow, or than most says of
// each.
func (b *Bed) Over(f Figures, most ...int) {
	b.Helper()
	for i, w := range b.Windows {
		bound := w.N
		if i < len(most) {
			bound = most[i]
		}
		if f.Worst[i] > bound {
			b.Errorf("%d arrived in %v, want at most %d", f.Worst[i], w.Per, bound)
		}
	}
}

// watch measures how late the machine is.
type watch struct {
	ended chan struct{}
	worst chan time.Duration
}

func startWatch() watch {
	w := watch{make(chan struct{}), make(chan time.Duration)}
	go func() {
		worst, last := time.Duration(0), time.Now()
		for {
			select {
			case <-w.ended:
				w.worst <- worst
				return
			case <-time.After(5 * time.Millisecond):
				worst = max(worst, time.Since(last)-5*time.Millisecond)
				last = time.Now()
			}
		}
	}()
	return w
}

func (w watch) stop() time.Duration {
	close(w.ended)
	return <-w.worst
}

// Goroutines fails the test unless no more of them are left than there were, or soon will be.
func Goroutines(t testing.TB, before int) {
	t.Helper()
	for range 10_000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}
