package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// result is the outcome of one run.
type result struct {
	name     string
	took     time.Duration
	outcomes []outcome
	tally    *tally
	server   *defendertest.Server
}

// failed returns the calls that failed for good: those that were wrong on purpose, or the others.
func (r *result) failed(wrong bool) []outcome {
	var list []outcome
	for _, o := range r.outcomes {
		if o.err != nil && o.wrong == wrong {
			list = append(list, o)
		}
	}
	return list
}

// refused returns how many of the calls that were wrong on purpose got a refusal, and not a fault.
func (r *result) refused() int {
	n := 0
	for _, o := range r.failed(true) {
		if e, ok := errors.AsType[*steadyhttp.Error](o.err); ok && e.StatusCode < 500 && e.StatusCode != 429 {
			n++
		}
	}
	return n
}

func (r *result) answered() int { return len(r.outcomes) - len(r.failed(true)) - len(r.failed(false)) }

// count returns how many of the calls in the server's ledger are like that. The ledger also has
// what net/http has replayed on its own.
func (r *result) count(like func(defendertest.Call) bool) int {
	n := 0
	for _, c := range r.server.Calls() {
		if like(c) {
			n++
		}
	}
	return n
}

func broke(c defendertest.Call) bool {
	return c.Fault == "ResetBefore" || c.Fault == "ResetAfter" || c.Fault == "BreakBody"
}

// actions returns what was done to machines, and how often, by the server's ledger. To import an
// indicator twice does no harm: it is updated. To isolate a machine twice does.
func (r *result) actions() (list []string, twice bool) {
	for effect, times := range r.server.Effects() {
		if kind, _, _ := strings.Cut(effect, " "); kind == "import" {
			continue
		}
		list = append(list, fmt.Sprintf("%s ×%d", printable(effect), times))
		twice = twice || times > 1
	}
	slices.Sort(list)
	return list, twice
}

// open reports whether a call is one that nobody may retry: an order that may have been carried
// out, and may not be given twice. It is no lost call.
func (o outcome) open() bool {
	if o.err == nil || !o.once {
		return false
	}
	e, ok := errors.AsType[*steadyhttp.Error](o.err)
	return !ok || e.StatusCode == 0 || e.StatusCode >= 500
}

// lookedUp returns how many orders failed, so that the batch had to look what became of them, and
// left how many of these are open in the end.
func (r *result) lookedUp() int {
	return r.left() + r.countOutcomes(func(o outcome) bool { return o.stood })
}
func (r *result) left() int { return r.countOutcomes(outcome.open) }

func (r *result) countOutcomes(like func(outcome) bool) int {
	n := 0
	for _, o := range r.outcomes {
		if like(o) {
			n++
		}
	}
	return n
}

// lost returns how many calls could have been answered and weren't. One that is wrong on purpose is
// answered by its refusal.
func (r *result) lost() int {
	return len(r.failed(false)) - r.left() + len(r.failed(true)) - r.refused()
}

// verdict is the demo's own test.
func (r *result) verdict() error {
	_, twice := r.actions()
	switch {
	case twice:
		return errTwice
	case r.lost() > 0:
		return errLost
	}
	return nil
}

func report(out io.Writer, results []*result, all bool) {
	t := newTable(results)
	number := func(label string, count func(*result) int) {
		t.row(label, func(r *result) string { return fmt.Sprint(count(r)) })
	}
	number("calls", func(r *result) int { return len(r.outcomes) })
	number("answered", (*result).answered)
	number("failed for good", func(r *result) int {
		return len(r.failed(true)) +
			len(r.failed(false))
	})
	number("wrong on purpose, refused", (*result).refused)
	number("lost", (*result).lost)
	number("orders not safe to retry", (*result).lookedUp)
	number("requests sent", func(r *result) int { return r.count(func(defendertest.Call) bool { return true }) })
	number("429s", func(r *result) int { return r.count(func(c defendertest.Call) bool { return c.Status == 429 }) })
	number("500s and 503s", func(r *result) int { return r.count(func(c defendertest.Call) bool { return c.Status >= 500 }) })
	number("broken connections, bodies", func(r *result) int { return r.count(broke) })
	number("retries", func(r *result) int { return int(r.tally.retries.Load()) })
	t.row("waits before retries, sum",
		func(r *result) string { return seconds(r.tally.backOffs.Load()) })
	t.row("waits for the quota, sum", func(r *result) string { return seconds(r.tally.quota.Load()) })
	t.row("took", func(r *result) string { return seconds(int64(r.took)) })
	t.print(out)

	for i, r := range results {
		listFailures(out, r, all || i == len(results)-1)
	}
	fmt.Fprintln(out)
	text := textOf(out)
	for _, r := range results {
		list, twice := r.actions()
		said := "nothing was done twice"
		if twice {
			said = "DONE TWICE"
		}
		text.line("", fmt.Sprintf("The server's ledger of the %s run: %s: %s.", r.name,
			strings.Join(list, ", "), said))
	}
}

// fewFailures is how many lost calls are listed unless all were asked for.
const fewFailures = 8

func listFailures(out io.Writer, r *result, all bool) {
	failures := slices.Concat(r.failed(false), r.failed(true))
	text, indent := textOf(out), "    "
	if text.width < 48 {
		indent = "   " // a tracking ID has 36 characters, and 40 columns are a terminal
	}
	fmt.Fprintln(out)
	text.say("", fmt.Sprintf("Failed for good through %s: %d", r.name, len(failures)))
	for i, o := range failures {
		if !all && i == fewFailures {
			text.say("  ", fmt.Sprintf("… and %d more; -all lists them", len(failures)-i))
			return
		}
		text.line("  ", printable(o.call))
		text.line(indent, printable(describe(o.err)))
	}
}

// describe returns an error's line without the package's name, which stands above the list.
func describe(err error) string { return strings.TrimPrefix(err.Error(), "steadyhttp: ") }

func seconds(ns int64) string { return fmt.Sprintf("%.1f s", time.Duration(ns).Seconds()) }
