package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// The demo's minute and hour. The service tells a wait in whole seconds: shorter ones would not do.
const (
	demoMinute = time.Second
	demoHour   = 10 * time.Second
)

// demoOptions are the flags of steady demo.
type demoOptions struct {
	machines int
	faults   float64
	seed     uint64
	all      bool
	trace    bool
	otlp     *url.URL // nil: not given
}

func parseDemo(args []string, out io.Writer) (demoOptions, error) {
	var o demoOptions
	flags := flag.NewFlagSet("steady demo", flag.ContinueOnError)
	flags.IntVar(&o.machines, "machines", 300, "machines in the simulated tenant; each costs two calls")
	flags.Float64Var(&o.faults, "faults", 0.05, "share of the calls that meet a 500, a 503, a lost connection or a broken body")
	flags.Uint64Var(&o.seed, "seed", 1, "of the faults")
	flags.BoolVar(&o.all, "all", false, "list every call that the plain client lost")
	flags.BoolVar(&o.trace, "trace", false, "print the spans of the last call that failed for good, as OpenTelemetry has them")
	otlp := flags.String("otlp", "", "send the steadyhttp run's spans and metrics to an OpenTelemetry collector: its base `URL` for OTLP/HTTP,\nsuch as http://127.0.0.1:4318")
	if err := parse(flags, args, out); err != nil {
		return o, err
	}
	switch {
	case o.machines < 2 || o.machines > 10_000:
		return o, usageError{fmt.Errorf("-machines is %d; use 2 to 10000", o.machines)}
	case !(o.faults >= 0 && o.faults <= 0.5):
		return o, usageError{fmt.Errorf("-faults is %v; use 0 to 0.5", o.faults)}
	}
	if given(flags, "otlp") {
		var err error
		if o.otlp, err = parseCollector(*otlp); err != nil {
			return o, usageError{err}
		}
	}
	return o, nil
}

// given reports whether a flag was on the command line. An empty value of a script's variable is
// not the same as none.
func given(flags *flag.FlagSet, name string) bool {
	found := false
	flags.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// demo runs the same batch twice, each time against a fresh server: through a plain http.Client,
// and through steadyhttp.
func demo(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parseDemo(args, out)
	if err != nil {
		return err
	}
	observed, err := newTelemetry(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "A connector's batch against a simulated Defender API: %d machines, quotas with a minute of %v, %.3g %% faults.\n\n",
		o.machines, demoMinute, 100*o.faults)

	plain, err := runBatch(ctx, o, "plain http.Client", nil, progress, func(*tally, string) (http.RoundTripper, error) {
		return http.DefaultTransport.(*http.Transport).Clone(), nil
	})
	if err != nil {
		return err
	}
	steady, err := runBatch(ctx, o, "steadyhttp", scaled(), progress, func(t *tally, host string) (http.RoundTripper, error) {
		transport, err := defender.New(defender.Config{
			Policy: steadyhttp.Batch(),
			Hosts:  []string{host},
			Quotas: scaled(),
			Trace:  steadyhttp.Join(t.trace(), observed.trace()),
			Log:    slog.New(slog.DiscardHandler), // that hunting moves to Graph is not what it shows
		})
		if err != nil {
			return nil, err
		}
		observed.observe(transport)
		return transport, nil
	})
	observed.close(ctx, progress)
	if err != nil {
		return err
	}
	report(out, plain, steady, o.all)
	if o.trace {
		printTree(out, observed.last.call())
	}
	return steady.verdict()
}

// scaled returns Defender's quotas with the demo's minute and hour.
func scaled() map[string][]quota.Window {
	quotas := make(map[string][]quota.Window)
	for _, e := range defender.Endpoints() {
		windows := slices.Clone(e.Windows)
		for i, w := range windows {
			switch w.Per {
			case time.Minute:
				windows[i].Per = demoMinute
			case time.Hour:
				windows[i].Per = demoHour
			}
		}
		quotas[e.Family] = windows
	}
	return quotas
}

// runBatch runs the batch against a server of its own, through the transport that through makes,
// which keeps to quotas.
func runBatch(
	ctx context.Context, o demoOptions, name string, quotas map[string][]quota.Window, progress io.Writer,
	through func(t *tally, host string) (http.RoundTripper, error),
) (*result, error) {
	server := defendertest.NewServer(defendertest.Config{
		Machines: o.machines,
		Minute:   demoMinute,
		Hour:     demoHour,
		Seed:     o.seed,
		Faults:   spreadFaults(o.faults),
	})
	defer server.Close()

	var t tally
	transport, err := through(&t, strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		return nil, err
	}
	b := &batch{
		base: server.URL, machines: server.MachineIDs(),
		client: &http.Client{Transport: transport}, progress: newProgress(progress, name),
		quotas: quotas,
	}
	defer b.client.CloseIdleConnections()
	began := time.Now()
	b.run(ctx)
	b.progress.finish()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return &result{name: name, took: time.Since(began), outcomes: b.outcomes, tally: &t, server: server}, nil
}

// spreadFaults divides a share among all kinds of faults. After some of them nobody knows whether
// the call was carried out.
func spreadFaults(share float64) defendertest.Faults {
	return defendertest.Faults{
		Error500:    0.2 * share,
		Bare500:     0.2 * share,
		Error503:    0.2 * share,
		After500:    0.1 * share,
		ResetBefore: 0.1 * share,
		ResetAfter:  0.1 * share,
		BreakBody:   0.1 * share,
	}
}

// errLost and errTwice are what the demo must never show.
var (
	errLost  = errors.New("a call that could be answered was lost")
	errTwice = errors.New("an action was carried out twice")
)
