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
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
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
	flags.IntVar(&o.machines, "machines", 240, "machines in the simulated tenant; each costs two calls")
	flags.Float64Var(&o.faults, "faults", 0.05, "share of the calls that meet a 500, a 503, a lost connection or a broken body")
	flags.Uint64Var(&o.seed, "seed", 1, "of the faults")
	flags.BoolVar(&o.all, "all", false, "list every call that failed")
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

// demo runs the same batch three times, each time against a fresh server: through a plain
// http.Client, through what people write today, and through steadyhttp.
func demo(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parseDemo(args, out)
	if err != nil {
		return err
	}
	observed, err := newTelemetry(ctx, o)
	if err != nil {
		return err
	}
	introduce(out, o)
	plain, err := runBatch(ctx, o, "plain", false, progress,
		func(*tally, *defendertest.Server) (http.RoundTripper, error) {
			return http.DefaultTransport.(*http.Transport).Clone(), nil
		})
	if err != nil {
		return err
	}
	usual, err := runBatch(ctx, o, "retryablehttp", false, progress,
		func(t *tally, _ *defendertest.Server) (http.RoundTripper, error) {
			return newRetryable(t), nil
		})
	if err != nil {
		return err
	}
	steady, err := runBatch(ctx, o, "steadyhttp", true, progress,
		func(t *tally, server *defendertest.Server) (http.RoundTripper, error) {
			c := server.Defender()
			c.Policy, c.Trace = scaledBatch(), steadyhttp.Join(t.trace(), observed.trace())
			c.Log = slog.New(slog.DiscardHandler) // that hunting moves to Graph is not what it shows
			transport, err := defender.New(c)
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
	report(out, []*result{plain, usual, steady}, o.all)
	if o.trace {
		printTree(out, observed.last.call())
	}
	return steady.verdict()
}

// introduce says what the columns are.
func introduce(out io.Writer, o demoOptions) {
	text := textOf(out)
	text.say("", fmt.Sprintf("A connector's batch against a simulated Defender API, three times: %d machines, the documented quotas with a minute of %v, %.3g %% faults.",
		o.machines, demoMinute, 100*o.faults))
	fmt.Fprintln(out)
	for _, column := range [][2]string{
		{"plain", "http.Client as it is"},
		{"retryablehttp", fmt.Sprintf("hashicorp/go-retryablehttp with %d retries, each request under a rate.Limiter of %d a minute", retryableMax, retryableRate)},
		{"steadyhttp", "defender.New with the policy steadyhttp.Batch()"},
	} {
		text.entry(column[0], column[1])
	}
	fmt.Fprintln(out)
	text.say("", "The back-offs of both are scaled as the minute is.")
	fmt.Fprintln(out)
}

// scaledBatch is steadyhttp.Batch for a clock that runs faster: with its own back-offs, and a
// budget that a minute pays as much as ever.
func scaledBatch() steadyhttp.Policy {
	const faster = time.Minute / demoMinute
	p := steadyhttp.Batch()
	p.NewBackOff = func() backoff.BackOff {
		return backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(500*time.Millisecond/faster),
			backoff.WithMultiplier(2),
			backoff.WithMaxInterval(30*time.Second/faster),
			backoff.WithMaxElapsedTime(0))
	}
	p.Budget = &steadyhttp.Budget{PerSecond: float64(faster), Wait: true}
	return p
}

// runBatch runs the batch against a server of its own, through the transport that through makes.
// Where that keeps to the server's quotas, the progress says how long they make it take.
func runBatch(
	ctx context.Context, o demoOptions, name string, paced bool, progress io.Writer,
	through func(*tally, *defendertest.Server) (http.RoundTripper, error),
) (*result, error) {
	server := defendertest.NewServer(defendertest.Config{
		Machines: o.machines,
		PageSize: pageSize,
		Minute:   demoMinute,
		Hour:     demoHour,
		Seed:     o.seed,
		Faults:   spreadFaults(o.faults),
	})
	defer server.Close()

	var t tally
	transport, err := through(&t, server)
	if err != nil {
		return nil, err
	}
	b := &batch{
		base: server.URL, machines: server.MachineIDs(),
		client: &http.Client{Transport: transport}, progress: newProgress(progress, name),
	}
	if paced {
		b.quotas = server.Defender().Quotas
	}
	defer b.client.CloseIdleConnections()
	began := time.Now()
	b.run(ctx)
	if ctx.Err() != nil {
		b.progress.stop()
		return nil, context.Cause(ctx)
	}
	b.progress.finish()
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
