package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
)

// steady runs a command line, and returns its exit code and what it printed.
func steady(t *testing.T, args ...string) (code int, out, progress string) {
	t.Helper()
	var o, p bytes.Buffer
	code = run(t.Context(), args, &o, &p)
	return code, o.String(), p.String()
}

// cells returns the numbers of a row of the demo's table.
func cells(t *testing.T, out, label string) (plain, steady string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(label) + ` +(\S+)(?: s)? +(\S+)(?: s)?\s*$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no row %q in\n%s", label, out)
	}
	return found[1], found[2]
}

// The main job on a small tenant: what a plain client loses, steadyhttp gets, and nothing is done
// twice.
func TestDemo(t *testing.T) {
	code, out, progress := steady(t, "demo", "-machines", "60", "-all")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, progress)
	}
	if plain, _ := cells(t, out, "429s"); plain == "0" {
		t.Error("the plain client met no 429: the demo shows nothing")
	}
	if plain, _ := cells(t, out, "500s and 503s"); plain == "0" {
		t.Error("the plain client met no 500: the demo shows nothing")
	}
	if plain, steady := cells(t, out, "failed"); steady != "4" || plain == "4" {
		t.Errorf("failed: %s and %s, want more than 4, and 4", plain, steady)
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

// The seed's faults fall on other calls with another seed, an order to isolate among them; the
// ledger stays clean.
func TestDemoWithManyFaults(t *testing.T) {
	for _, seed := range []string{"4", "5"} {
		t.Run(seed, func(t *testing.T) {
			t.Parallel() // it waits for quotas more than it works
			if code, out, progress := steady(t, "demo", "-machines", "4", "-faults", "0.2", "-seed", seed); code != 0 {
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
	if !strings.Contains(progress.String(), "interrupted") {
		t.Errorf("said %q", progress.String())
	}
}
