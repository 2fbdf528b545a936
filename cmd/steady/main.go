// Command steady shows what package steadyhttp does, and does it for programs that are not written
// in Go.
//
//	steady demo     a batch against a simulated Defender API, with and without steadyhttp
//	steady simulate a simulated Defender API, for connectors in any language
//
//	steady version  which version this is
//
// "steady help demo" explains a command's flags, and so does "steady demo -h".
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is one of steady's sub-commands.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, out, progress io.Writer) error
	reports       bool // its output is what it is for
}

func commands() []command {
	return []command{
		{"demo", "a batch against a simulated Defender API, with and without steadyhttp", demo, true},
		{"simulate", "a simulated Defender API, for connectors in any language", simulate, false},
		{"version", "which version this is", version, true},
	}
}

// run returns the exit code: 0 done, 1 failed, 2 for a command line that makes no sense, 130
// interrupted.
func run(ctx context.Context, args []string, out, progress io.Writer) int {
	if len(args) == 0 {
		usage(progress)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) == 1 {
			checked := &checkedWriter{Writer: out}
			usage(checked)
			return exitCode(ctx, checked.failure(), progress)
		}
		args = []string{args[1], "-h"}
	case "-version", "--version":
		args = append([]string{"version"}, args[1:]...)
	}
	for _, c := range commands() {
		if c.name == args[0] {
			checked := &checkedWriter{Writer: out}
			if f, ok := out.(*os.File); ok && c.reports && isClosed(f) {
				return exitCode(ctx, errors.New("can't write the output: it is closed"), progress)
			}
			err := c.run(ctx, args[1:], checked, progress)
			if err == nil || errors.Is(err, flag.ErrHelp) {
				err = cmp.Or(checked.failure(), err)
			}
			return exitCode(ctx, err, progress)
		}
	}
	fmt.Fprintf(progress, "steady: there is no command %q\n\n", args[0])
	usage(progress)
	return 2
}

// checkedWriter remembers that a report was not written whole: to a full disk, or to nobody.
type checkedWriter struct {
	io.Writer
	mu  sync.Mutex // guards err
	err error
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = cmp.Or(w.err, err)
	}
	return n, err
}

func (w *checkedWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return nil
	}
	return fmt.Errorf("can't write the output: %w", w.err)
}

// writeError is the first error of a command's output so far.
func writeError(out io.Writer) error {
	if w, ok := out.(*checkedWriter); ok {
		return w.failure()
	}
	return nil
}

// fileOf returns the file that a command's output goes to, if it is one.
func fileOf(out io.Writer) (*os.File, bool) {
	if w, ok := out.(*checkedWriter); ok {
		out = w.Writer
	}
	f, ok := out.(*os.File)
	return f, ok
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitCode(ctx context.Context, err error, progress io.Writer) int {
	var misuse usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(progress, "steady: interrupted")
		return 130
	}
	fmt.Fprintln(progress, "steady:", err)
	if errors.As(err, &misuse) {
		return 2
	}
	return 1
}

// parse reads a command's flags, of which it takes no more. Help, where it is asked for, goes to
// out.
func parse(flags *flag.FlagSet, args []string, out io.Writer) error {
	flags.SetOutput(io.Discard) // what is wrong is told once, by exitCode
	flags.Usage = func() {}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(out, "usage: %s [flags]\n\n", flags.Name())
		flags.SetOutput(out)
		flags.PrintDefaults()
		return err
	case err != nil:
		return usageError{fmt.Errorf("%w%s; %s -h lists the flags", err, remedy(flags, err),
			flags.Name())}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("%s takes no arguments, got %q", flags.Name(), flags.Arg(0))}
	}
	return nil
}

// remedy says what a flag takes whose value package flag could not read: of that it only says
// "parse error", and of a duration without a unit nothing more.
func remedy(flags *flag.FlagSet, err error) string {
	// What was given may have any text in it; the flag's name is the last.
	said := err.Error()
	at := max(strings.LastIndex(said, " for flag -"), strings.LastIndex(said, " for -")) // a bool's
	if at < 0 {
		return ""
	}
	_, name, _ := strings.Cut(said[at:], "-")
	name, _, _ = strings.Cut(name, ":")
	f := flags.Lookup(name)
	if f == nil {
		return ""
	}
	value, ok := f.Value.(flag.Getter)
	if !ok {
		return "" // one of our own, whose error says it
	}
	switch value.Get().(type) {
	case time.Duration:
		return "; use a number with its unit such as 500ms, 10s or 1h"
	case int:
		return "; use a whole number such as 50"
	case uint64:
		return "; use a whole number from 0 on"
	case float64:
		return "; use a number such as 0.05"
	case bool:
		return "; use true or false, or no value at all for true"
	}
	return ""
}

// version prints what the build knows of itself.
func version(_ context.Context, args []string, out, _ io.Writer) error {
	if err := parse(flag.NewFlagSet("steady version", flag.ContinueOnError), args, out); err != nil {
		return err
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		fmt.Fprintln(out, "steady, of an unknown version")
		return nil
	}
	revision := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = " " + s.Value[:min(12, len(s.Value))]
		}
	}
	fmt.Fprintf(out, "steady %s%s %s\n", info.Main.Version, revision, info.GoVersion)
	return nil
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "usage: steady <command> [flags]")
	fmt.Fprintln(w)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.summary)
	}
}
