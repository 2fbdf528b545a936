package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// steady runs a command line, and returns its exit code and what it printed.
func steady(t *testing.T, args ...string) (code int, out, progress string) {
	t.Helper()
	var o, p bytes.Buffer
	code = run(t.Context(), args, &o, &p)
	return code, o.String(), p.String()
}

// cells returns the numbers of a row of the demo's table.
func cells(t *testing.T, out, label string) (plain, usual, steady string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(label) +
		` +(\S+)(?: s)? +(\S+)(?: s)? +(\S+)(?: s)?\s*$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no row %q in\n%s", label, out)
	}
	return found[1], found[2], found[3]
}

// The main job on a small tenant: what a plain client loses, steadyhttp gets, and nothing is done
// twice. What the column between them loses is whatever it is.
func TestDemo(t *testing.T) {
	t.Parallel() // it waits for quotas more than it works
	code, out, progress := steady(t, "demo", "-machines", "60", "-all")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, progress)
	}
	if plain, _, _ := cells(t, out, "429s"); plain == "0" {
		t.Error("the plain client met no 429: the demo shows nothing")
	}
	if plain, usual, _ := cells(t, out, "500s and 503s"); plain == "0" || usual == "0" {
		t.Error("a client met no 500: the demo shows nothing")
	}
	if _, usual, steady := cells(t, out, "retries"); usual == "0" || steady == "0" {
		t.Errorf("%s and %s retries", usual, steady)
	}
	if plain, _, steady := cells(t, out, "failed for good"); steady != "4" || plain == "4" {
		t.Errorf("failed: %s and %s, want more than 4, and 4", plain, steady)
	}
	if plain, _, steady := cells(t, out, "lost"); steady != "0" || plain == "0" {
		t.Errorf("lost: %s and %s", plain, steady)
	}
	_, lost, ok := strings.Cut(out, "Failed for good through steadyhttp: 4\n")
	if !ok {
		t.Fatalf("no list of failures:\n%s", out)
	}
	for _, code := range []string{"ResourceNotFound (404)", "InvalidRequestBody (400)", "MaximumBatchSizeExceeded (400)"} {
		line := regexp.MustCompile(regexp.QuoteMeta(code) + ` after \d attempts?, tracking ID [0-9a-f]{8}-[0-9a-f-]{27}: \S`)
		if !line.MatchString(lost) {
			t.Errorf("no line for %s with its tracking ID:\n%s", code, lost)
		}
	}
	if !strings.Contains(out, "ledger of the steadyhttp run: isolate m0001 ×1, isolate m0002 ×1: nothing was done twice.") {
		t.Errorf("the ledger's line is missing:\n%s", out)
	}
	if !strings.Contains(progress, "calls done") {
		t.Errorf("no progress was told: %q", progress)
	}
}

// An order that nobody may retry, since it may have been carried out, is no lost call; whatever
// else failed is one, and so is a refusal that never came.
func TestVerdict(t *testing.T) {
	const lost, fine = true, false
	status := func(code int) error { return &steadyhttp.Error{StatusCode: code} }
	server := defendertest.NewUnstartedServer(defendertest.Config{})
	defer server.Close()
	for _, test := range []struct {
		o    outcome
		lost bool
	}{
		{outcome{}, fine},
		{outcome{err: status(500)}, lost}, {outcome{err: status(429)}, lost},
		{outcome{err: errors.New("broke off")}, lost},
		{outcome{once: true, err: status(500)}, fine}, {outcome{once: true, err: status(503)}, fine},
		{outcome{once: true, err: status(0)}, fine},
		{outcome{once: true, err: errors.New("broke off")}, fine},
		{outcome{once: true, err: status(429)}, lost}, {outcome{once: true, err: status(400)}, lost},
		{outcome{once: true, stood: true}, fine},
		{outcome{wrong: true, err: status(404)}, fine}, {outcome{wrong: true, err: status(500)}, lost},
		{outcome{wrong: true, err: status(429)}, lost},
		{outcome{wrong: true, once: true, err: status(500)}, fine},
		{outcome{wrong: true, once: true, err: status(400)}, fine},
	} {
		r := &result{server: server, outcomes: []outcome{test.o}}
		if err := r.verdict(); (err != nil) != test.lost || r.lost() != map[bool]int{true: 1}[test.lost] {
			t.Errorf("%+v: %v, %d lost", test.o, err, r.lost())
		}
	}
	for range 2 {
		body := strings.NewReader(`{"Value":"a","Action":"Add"}`)
		server.ServeHTTP(httptest.NewRecorder(),
			httptest.NewRequest("POST", "/api/machines/m0001/tags", body))
	}
	if err := (&result{server: server}).verdict(); !errors.Is(err, errTwice) {
		t.Errorf("done twice: %v", err)
	}
}

// A report that can't be written whole is an error, whichever command it is of.
func TestOutputThatFails(t *testing.T) {
	t.Parallel() // it waits for quotas more than it works
	for _, args := range [][]string{
		{"demo", "-machines", "2", "-faults", "0"}, {"simulate", "-addr", "127.0.0.1:0"}, {"version"},
		{"demo", "-h"}, {"help"},
	} {
		var said bytes.Buffer
		if code := run(t.Context(), args, fullDisk{}, &said); code != 1 ||
			!strings.Contains(said.String(), "can't write the output: the disk is full") {
			t.Errorf("%v: exit code %d, said %q", args, code, said.String())
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full: ", err)
	}
	defer full.Close()
	if code := run(t.Context(), []string{"version"}, full, io.Discard); code != 1 {
		t.Errorf("/dev/full: exit code %d", code)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

// No line is wider than the terminal, however narrow it is, and no number is missing for it.
func TestTableFits(t *testing.T) {
	server := defendertest.NewUnstartedServer(defendertest.Config{})
	defer server.Close()
	var results []*result
	for _, name := range []string{"plain", "retryablehttp", "steadyhttp"} {
		results = append(results, &result{name: name, server: server, tally: &tally{},
			took: time.Duration(len(name)) * time.Second})
	}
	for _, columns := range []int{40, 60, 80, 120} {
		table := newTable(results)
		table.row("waits before retries, sum", func(r *result) string { return seconds(int64(r.took)) })
		table.row("orders not safe to retry", func(r *result) string { return "12345" })
		var out bytes.Buffer
		table.printWithin(&out, columns)
		for line := range strings.SplitSeq(out.String(), "\n") {
			if width(line) > columns {
				t.Errorf("%d columns: %q has %d", columns, line, width(line))
			}
		}
		if narrow := columns <= 60; strings.Count(out.String(), "12345") != 3 ||
			strings.Contains(out.String(), "sum\n") != narrow {
			t.Errorf("%d columns:\n%s", columns, &out)
		}
		if n := barWidth(columns); n < 1 || n+len("retryablehttp 100% || (99999/99999) ") >= columns {
			t.Errorf("%d columns: a bar of %d", columns, n)
		}
	}
}

// The seed's faults fall on other calls with another seed, an order to isolate among them; the
// ledger stays clean.
func TestDemoWithManyFaults(t *testing.T) {
	for _, args := range []string{"-faults 0.2 -seed 4", "-faults 0.2 -seed 5", "-faults 0.5 -seed 6",
		"-faults 0.5 -seed 7"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel() // it waits for quotas more than it works
			if code, out, progress := steady(t,
				append([]string{"demo", "-machines", "4"}, strings.Fields(args)...)...); code != 0 {
				t.Errorf("exit code %d\n%s%s", code, out, progress)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "usage: steady"},
		{[]string{"help"}, 0, "usage: steady"},
		{[]string{"help", "demo"}, 0, "-machines int"},
		{[]string{"help", "dance"}, 2, `no command "dance"`},
		{[]string{"version"}, 0, "steady "},
		{[]string{"version", "-what"}, 2, "-what; "},
		{[]string{"dance"}, 2, `no command "dance"`},
		{[]string{"demo", "-h"}, 0, "-machines int"},
		{[]string{"demo", "-h"}, 0, "-otlp URL"},
		{[]string{"demo", "-h"}, 0, "-trace"},
		{[]string{"demo", "-machines", "1"}, 2, "-machines is 1; use 2 to 10000"},
		{[]string{"demo", "-faults", "0.9"}, 2, "-faults is 0.9; use 0 to 0.5"},
		{[]string{"demo", "-faults", "NaN"}, 2, "-faults is NaN"},
		{[]string{"demo", "more"}, 2, `demo takes no arguments, got "more"`},
		{[]string{"demo", "-what"}, 2, "-what; steady demo -h"},
	} {
		code, out, said := steady(t, c.args...)
		stream, other := said, out
		if c.code == 0 {
			stream, other = out, said
		}
		if code != c.code || strings.Count(stream, c.says) != 1 || other != "" {
			t.Errorf("steady %q: exit code %d, printed %q, said %q", c.args, code, out, said)
		}
	}
}

// An interrupted demo says so, and ends.
func TestDemoInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, progress bytes.Buffer
	if code := run(ctx, []string{"demo", "-machines", "10"}, &out, &progress); code != 130 {
		t.Errorf("exit code %d\n%s", code, progress.String())
	}
	if said := progress.String(); !strings.Contains(said, "plain: stopped after ") ||
		strings.Contains(said, "done") {
		t.Errorf("said %q", said)
	}
	if !strings.Contains(progress.String(), "interrupted") {
		t.Errorf("said %q", progress.String())
	}
}

// Whatever a flag can't read, the error names the flag and says what it takes: of every flag of
// every command.
func TestBadValuesAreToldTheirRemedy(t *testing.T) {
	kinds := map[string]string{ // what -h calls a flag's type, and the remedy
		"duration": "use a number with its unit such as 500ms, 10s or 1h",
		"int":      "use a whole number such as 50",
		"uint":     "use a whole number from 0 on",
		"float":    "use a number such as 0.05",
	}
	flagLine := regexp.MustCompile(`(?m)^  -(\S+)(?: (\S+))?$`)
	told := 0
	for _, command := range []string{"demo", "simulate"} {
		_, help, _ := steady(t, command, "-h")
		for _, found := range flagLine.FindAllStringSubmatch(help, -1) {
			name, kind := found[1], found[2]
			remedy, bad := kinds[kind], []string{"soon", "", "1e999", " for flag -seed: ", " for -all: "}
			switch kind {
			case "duration":
				bad = append(bad, "5", "1 m", "1d")
			case "int", "uint":
				bad = append(bad, "1.5", "99999999999999999999")
			case "": // a bool
				remedy, bad = "use true or false", []string{"maybe", " for -seed: "}
			}
			if kind == "uint" {
				bad = append(bad, "-1")
			}
			if remedy == "" {
				continue // its words are in TestSimulateCommandLine
			}
			told++
			for _, value := range bad {
				code, out, said := steady(t, command, "-"+name+"="+value)
				if code != 2 || out != "" || strings.Count(said, "; use ") != 1 ||
					!strings.Contains(said, "-"+name+": ") || !strings.Contains(said, "; "+remedy) {
					t.Errorf("%s -%s=%s: exit code %d, said %q", command, name, value, code, said)
				}
			}
		}
	}
	if told < 20 {
		t.Errorf("only %d flags were found", told)
	}
}
