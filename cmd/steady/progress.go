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
	step()   // a call has ended
	finish() // all have
	stop()   // an interrupt has ended it
}

// newProgress returns a bar on a terminal, and a line every few seconds elsewhere: a log is no
// place for a bar.
func newProgress(w io.Writer, name string) progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil || columns <= 0 {
			columns = 80
		}
		if columns <= barBeside+1 {
			return &lines{w: w, name: name, last: time.Now()} // a bar has no room
		}
		return &bar{w: w, ProgressBar: progressbar.NewOptions(-1,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(fmt.Sprintf("%-13s", name)),
			progressbar.OptionShowCount(),
			progressbar.OptionSetWidth(barWidth(columns)),
			progressbar.OptionThrottle(50*time.Millisecond),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
		)}
	}
	return &lines{w: w, name: name, last: time.Now()}
}

// barWidth leaves room for the name, the share and the counts, so that a line of the terminal holds
// all: a bar that wraps is printed anew on each step.
func barWidth(columns int) int {
	return max(1, min(30, columns-1-barBeside))
}

// barBeside is what stands on a bar's line beside the bar.
const barBeside = len("retryablehttp 100% || (99999/99999) ")

type bar struct {
	*progressbar.ProgressBar
	w io.Writer
}

func (b *bar) expect(calls int, _ time.Duration) { b.ChangeMax(calls) }

func (b *bar) step() {
	// Polling makes more calls than can be known.
	if state := b.State(); state.Max > 0 && state.CurrentNum+1 >= state.Max {
		b.AddMax(1)
	}
	b.Add(1)
}
func (b *bar) finish() {
	b.Finish()
	fmt.Fprintln(b.w)
}

// stop leaves the bar as far as it has come.
func (b *bar) stop() {
	b.Exit()
	fmt.Fprintln(b.w)
}

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

func (l *lines) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%s: stopped after %d of about %d calls\n", l.name, l.done, max(l.done, l.total))
}
