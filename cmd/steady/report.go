package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
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

// verdict is the demo's own test.
func (r *result) verdict() error {
	_, twice := r.actions()
	switch {
	case twice:
		return errTwice
	case len(r.failed(false)) > 0, r.refused() < len(r.failed(true)):
		return errLost
	}
	return nil
}

func report(out io.Writer, plain, steady *result, all bool) {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(label string, cell func(*result) string) {
		fmt.Fprintf(table, "%s\t%s\t%s\t\n", label, cell(plain), cell(steady))
	}
	number := func(label string, count func(*result) int) {
		row(label, func(r *result) string { return fmt.Sprint(count(r)) })
	}
	row("", func(r *result) string { return r.name })
	number("calls", func(r *result) int { return len(r.outcomes) })
	number("answered", (*result).answered)
	number("failed", func(r *result) int { return len(r.failed(true)) + len(r.failed(false)) })
	number("of these, wrong on purpose and refused", (*result).refused)
	number("requests sent", func(r *result) int { return r.count(func(defendertest.Call) bool { return true }) })
	number("429s", func(r *result) int { return r.count(func(c defendertest.Call) bool { return c.Status == 429 }) })
	number("500s and 503s", func(r *result) int { return r.count(func(c defendertest.Call) bool { return c.Status >= 500 }) })
	number("connections and bodies that broke", func(r *result) int { return r.count(broke) })
	number("retries", func(r *result) int { return int(r.tally.retries.Load()) })
	row("waits before retries, sum", func(r *result) string { return seconds(r.tally.backOffs.Load()) })
	row("waits for the quota, sum", func(r *result) string { return seconds(r.tally.quota.Load()) })
	row("took", func(r *result) string { return seconds(int64(r.took)) })
	table.Flush()

	listFailures(out, plain, all)
	listFailures(out, steady, true)
	fmt.Fprintln(out)
	for _, r := range []*result{plain, steady} {
		list, twice := r.actions()
		said := "nothing was done twice"
		if twice {
			said = "DONE TWICE"
		}
		fmt.Fprintf(out, "The server's ledger of the %s run: %s: %s.\n", r.name, strings.Join(list, ", "), said)
	}
}

// fewFailures is how many lost calls are listed unless all were asked for.
const fewFailures = 8

func listFailures(out io.Writer, r *result, all bool) {
	failures := slices.Concat(r.failed(false), r.failed(true))
	fmt.Fprintf(out, "\nFailed for good through %s: %d\n", r.name, len(failures))
	for i, o := range failures {
		if !all && i == fewFailures {
			fmt.Fprintf(out, "  … and %d more; -all lists them\n", len(failures)-i)
			return
		}
		fmt.Fprintf(out, "  %s\n    %s\n", printable(o.call), printable(describe(o.err)))
	}
}

// describe returns an error's line without the package's name, which stands above the list.
func describe(err error) string { return strings.TrimPrefix(err.Error(), "steadyhttp: ") }

func seconds(ns int64) string { return fmt.Sprintf("%.1f s", time.Duration(ns).Seconds()) }
