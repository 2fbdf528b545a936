package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// On a real terminal no line of the progress is wider than that: a bar that wraps would be printed anew
// on each step. Where a bar has no room, lines tell.
func TestProgressFitsTheTerminal(t *testing.T) {
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip("script is not here (Debian's package bsdutils has it): there is no terminal")
	}
	if help, _ := exec.Command(script, "--help").CombinedOutput(); !strings.Contains(string(help), "--return") {
		t.Skip("this script is not util-linux's")
	}
	t.Parallel() // the demo waits for quotas more than it works
	program := filepath.Join(t.TempDir(), "steady")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	moves := regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)
	for columns, bar := range map[int]bool{20: false, barBeside + 1: false, barBeside + 2: true, 80: true} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			run := fmt.Sprintf("stty cols %d; exec '%s' demo -machines 2 -faults 0", columns, program)
			out, err := exec.Command(script, "-qec", run, "/dev/null").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			bars, done := 0, 0
			for line := range strings.SplitSeq(strings.ReplaceAll(moves.ReplaceAllString(string(out), ""), "\r", "\n"), "\n") {
				switch {
				case strings.Contains(line, "% |"):
					bars++
				case strings.HasSuffix(line, " calls done"):
					done++
				default:
					continue
				}
				if width(line) > columns && bar {
					t.Errorf("a line of %d: %q", width(line), line)
				}
			}
			if bars > 0 != bar || done > 0 == bar {
				t.Errorf("%d bars, %d lines", bars, done)
			}
		})
	}
}
