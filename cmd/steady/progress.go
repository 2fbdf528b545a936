package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress tells a person that something goes on. Its methods are safe for concurrent use.
type progress interface {
	// expect tells how many calls there will be, about, and how long they take at the least.
	expect(calls int, least time.Duration)
	step() // a call has ended
	finish()
}

// newProgress returns a bar on a terminal, and a line every few seconds elsewhere: a log is no
// place for a bar.
func newProgress(w io.Writer, name string) progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bar{progressbar.NewOptions(-1,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(fmt.Sprintf("%-18s", name)),
			progressbar.OptionShowCount(),
			progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(50*time.Millisecond),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }),
		)}
	}
	return &lines{w: w, name: name, last: time.Now()}
}

type bar struct{ *progressbar.ProgressBar }

func (b *bar) expect(calls int, least time.Duration) {
	b.ChangeMax(calls)
	if least > 0 {
		b.Describe(fmt.Sprintf("%s, %v at least", b.State().Description, least.Round(time.Second)))
	}
}

func (b *bar) step() {
	// Polling makes more calls than can be known.
	if state := b.State(); state.Max > 0 && state.CurrentNum+1 >= state.Max {
		b.AddMax(1)
	}
	b.Add(1)
}
func (b *bar) finish() { b.Finish() }

// lineEvery is how often something is said where there is no terminal.
const lineEvery = 3 * time.Second

type lines struct {
	w    io.Writer
	name string

	mu          sync.Mutex // guards what follows
	done, total int
	last        time.Time
	least       time.Time // when it is over at the soonest
}

func (l *lines) expect(calls int, least time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total = calls
	l.least = time.Now().Add(least)
}

func (l *lines) step() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	if time.Since(l.last) >= lineEvery {
		l.last = time.Now()
		fmt.Fprintf(l.w, "%s: %d of about %d calls%s\n", l.name, l.done, max(l.done, l.total), l.left())
	}
}

// left says how long it takes yet, as far as the quotas tell.
func (l *lines) left() string {
	left := time.Until(l.least).Round(time.Second)
	if left <= 0 {
		return ""
	}
	return fmt.Sprintf(", %v more at least", left)
}

func (l *lines) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%s: %d calls done\n", l.name, l.done)
}
