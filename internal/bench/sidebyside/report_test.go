package sidebyside

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

var (
	write  = flag.Bool("write", false, "measure in earnest, and write docs/benchmarks.md and its charts")
	rounds = flag.Int("rounds", 41, "how often each client's turn comes, with -write")
)

const docs = "../../../docs/"

// TestSideBySide measures everything. Without -write it is a glance, and nothing is written.
func TestSideBySide(t *testing.T) {
	list := clients()
	rounds, each, calls, storms, seconds := *rounds, 20*time.Millisecond, 2000, list, 240
	batchOf, kinds := batchCalls, servers
	if !*write {
		rounds, each, calls, seconds = 1, time.Millisecond, 50, 100
		storms, batchOf, kinds = list[len(list)-1:], 300, servers[:2]
	}
	p := &page{list: list}
	p.head(rounds, each)
	measured := rows(t)
	var figures [][]figure
	for _, r := range measured {
		figures = append(figures, interleave(t, r, list, rounds, each))
	}
	held := waiting(t, list, calls)
	rates := throughput(t, list, http.StatusOK, content, max(1, rounds/2), 5*each)
	told := throughput(t, list, http.StatusNotFound, envelope, max(1, rounds/2), 5*each)
	p.speed(measured, figures)
	p.rest(held, rates, told)
	p.ahead(measured, figures, held, rates, told)
	var batches [][]batchResult
	for _, k := range kinds {
		var results []batchResult
		for _, c := range list {
			results = append(results, batch(t, c, k.new, k.told, batchOf))
		}
		batches = append(batches, results)
	}
	p.batch(batches)
	var outages []stormResult
	for _, c := range storms {
		outages = append(outages, storm(t, c, time.Duration(seconds)*time.Second))
	}
	p.storm(storms, outages)
	t.Logf("%s", p.text.String())
	batchSVG, stormSVG := batchChart(list, batches), stormChart(storms, outages)
	if !*write {
		return
	}
	for name, text := range map[string]string{
		"benchmarks.md": p.text.String(), "batch.svg": batchSVG, "storm.svg": stormSVG,
	} {
		if err := os.WriteFile(docs+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// page is docs/benchmarks.md.
type page struct {
	list []client
	text strings.Builder
}

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.text, format, args...) }

func (p *page) head(rounds int, each time.Duration) {
	p.printf(`# Benchmarks

<!-- Written by the command below: edit that. -->

steadyhttp beside a bare `+"`http.Client`"+`, forty lines of one's own (a loop with back-off, jitter and Retry-After),
and libraries that retry too. One command measures what is below, without a network, and writes this page:

`+"```sh\ncd internal/bench/sidebyside && GOWORK=off go test -run TestSideBySide -write -timeout 60m\n```"+`

%s on %s, %d CPUs. %s.
Times are %s, since the machine has other work to do, and depend on the machine: read the ratios.

## What a call costs

The clients take turns, %d rounds of %v each; the figures are medians. Each is called as its users do, from the request to
the end of the body. Below each is an `+"`*http.Transport`"+` that answers out of memory. The ratio is to net/http, which
makes the two calls of a retry itself. A body in memory is read by steadyhttp without the goroutine that one off a connection
takes, for which see the next table. Waits and the budget are off where there is a retry. "–": kiota-http-go retries 429,
503 and 504 only, after a second at the least. A span: otelhttp below each client, steadyotel in ours, which makes one for
each attempt and one for the call.

`, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(), versions(), clock,
		rounds, each)
}

// table has a line for each client.
func (p *page) table(list []client, columns []string, cell func(column, client int) string) {
	p.printf("| | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)))
	for i, c := range list {
		name := c.name
		if name == steadyName {
			name = "**" + name + "**"
		}
		cells := []string{name}
		for j := range columns {
			cells = append(cells, cell(j, i))
		}
		p.printf("| %s |\n", strings.Join(cells, " | "))
	}
}

func (p *page) speed(measured []row, figures [][]figure) {
	var columns []string
	for _, r := range measured {
		columns = append(columns, r.name)
	}
	p.table(p.list, columns, func(j, i int) string {
		f := figures[j][i]
		if f.why != "" {
			return "–"
		}
		return fmt.Sprintf("%.2f µs, %.2f×", f.value/1000, f.value/figures[j][0].value)
	})
	p.printf("\nAllocations:\n\n")
	p.table(p.list, columns, func(j, i int) string {
		f := figures[j][i]
		if f.why != "" {
			return "–"
		}
		return fmt.Sprintf("%.0f", f.allocs)
	})
}

func (p *page) rest(held, rates, told []figure) {
	p.printf(`
What a call holds while it waits for its retry after a 503 with an envelope that came over a connection of its own, its
goroutine's stack included, and how many GETs 8 callers get over the loopback in a second of %s, the
server's included:

`, clock)
	columns := []string{"held by a waiting call", "GETs a second, answered 200", "answered 404 with an envelope, and its code told"}
	p.table(p.list, columns, func(j, i int) string {
		rate := rates
		switch j {
		case 0:
			if held[i].why != "" {
				return "–"
			}
			return fmt.Sprintf("%.1f KiB", held[i].value/1024)
		case 2:
			rate = told
		}
		return fmt.Sprintf("%.0f, %.2f×", rate[i].value, rate[i].value/rate[0].value)
	})
}

// ahead says where a peer is. Less than 3 % is no difference here.
func (p *page) ahead(measured []row, figures [][]figure, held, rates, told []figure) {
	var lines []string
	add := func(name, why string, figures []figure, better func(theirs, ours float64) bool) {
		var who []string
		for i, f := range figures[:len(figures)-1] {
			if p.list[i].name != bare && f.why == "" && better(f.value, figures[len(figures)-1].value) {
				who = append(who, p.list[i].name)
			}
		}
		if len(who) > 0 {
			if why != "" {
				why = ". " + why
			}
			lines = append(lines, fmt.Sprintf("- %s: %s%s\n", name, strings.Join(who, ", "), why))
		}
	}
	less := func(theirs, ours float64) bool { return theirs < 0.97*ours }
	for i, r := range measured {
		add(r.name, r.unlike, figures[i], less)
	}
	more := func(theirs, ours float64) bool { return theirs > 1.03*ours }
	add("held by a waiting call", "They keep nothing of the answer; one's own loop waits outside of http.Client, where a stack of 4 KiB will do", held, less)
	add("GETs a second, answered 200", "", rates, more)
	add("GETs a second, answered 404 with an envelope, and its code told", "They read the body with no bound on the time, "+
		"on the caller's goroutine", told, more)
	if len(lines) == 0 {
		p.printf("\nNo peer is ahead of steadyhttp by 3 %% or more.\n")
		return
	}
	p.printf("\nWhere a peer is ahead of steadyhttp by 3 %% or more:\n\n%s", strings.Join(lines, ""))
}

// versions tells what was measured.
func versions() string {
	var list []string
	info, _ := debug.ReadBuildInfo()
	have := make(map[string]string)
	if info != nil {
		for _, d := range info.Deps {
			have[d.Path] = d.Version
		}
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}} {{.Version}}", "all").Output()
	if err == nil {
		for line := range strings.Lines(string(out)) {
			if path, version, found := strings.Cut(strings.TrimSpace(line), " "); found {
				have[path] = version
			}
		}
	}
	for _, path := range []string{
		"github.com/hashicorp/go-retryablehttp", "github.com/PuerkitoBio/rehttp", "github.com/failsafe-go/failsafe-go",
		"github.com/Azure/azure-sdk-for-go/sdk/azcore", "github.com/microsoft/kiota-http-go", "resty.dev/v3",
		"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
	} {
		name := path[strings.LastIndex(path, "/")+1:]
		if name == "v3" {
			name = "resty"
		}
		list = append(list, name+" "+have[path])
	}
	return strings.Join(list, ", ")
}

func (p *page) batch(results [][]batchResult) {
	p.printf(`
## The night's batch

%d calls by 32 workers against 100 a minute and 1,500 an hour, in virtual time. The server counts over sliding windows, from
full minutes and hours on, or by token buckets, and names the time in Retry-After, or does not. Each call may be made 20
times, with a back-off from 1 s to a minute, and waits as long as the server asks. steadyhttp has a `+"`quota.Quota`"+` with the
two windows; the others are given none, and show what retrying alone comes to. A client that loses no call can't be faster
than %v against the sliding windows.

![calls lost and 429s of the batch](batch.svg)

Calls lost, 429s, and the time it took:

`, batchCalls, spell(theMinimum))
	var columns []string
	for i := range results {
		columns = append(columns, servers[i].name)
	}
	p.table(p.list, columns, func(j, i int) string {
		r := results[j][i]
		return fmt.Sprintf("%d, %d, %s", r.lost, r.refused, spell(r.took.Round(time.Minute)))
	})
	p.printf(`
A token bucket lets more through than its window's name says, up to twice as much in one window. Who goes against it until
it gives way may be done sooner there, after thousands of 429s, mostly with calls lost; a quota keeps to the windows.
`)
}

func (p *page) storm(list []client, results []stormResult) {
	p.printf(`
## The storm

%d clients make %.0f calls a second in all, whatever becomes of them, to a service that can do %.0f. From %v to %v it serves
nothing and queues up to %v of work. It serves what it has queued, even if nobody waits for it any more. Attempts time out
after %v; up to 4 attempts, back-off from 100 ms to 20 s. Virtual time. "Well again": seconds after the outage until a
window of 10 s has 98 %% of its calls answered.

![requests a second in the storm](storm.svg)

`, stormClients, stormLoad, stormCapacity, stormBegin, stormEnd, stormQueue, stormTimeout)
	p.table(list, []string{"requests for a call in the outage", "highest rate", "well again", "calls not answered"},
		func(j, i int) string {
			r := results[i]
			switch j {
			case 0:
				return fmt.Sprintf("%.2f", r.amplification)
			case 1:
				return fmt.Sprintf("%.1f×", r.peak)
			case 2:
				if r.recovery < 0 {
					return "never"
				}
				return r.recovery.String()
			}
			return fmt.Sprint(r.lost)
		})
	p.printf(`
net/http and kiota-http-go, which retries no lost connection, send each call once: no storm, and no retry either.
`)
}

func spell(d time.Duration) string {
	text := d.String()
	if d >= time.Minute {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}
