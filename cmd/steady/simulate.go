package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// keepCalls is how many calls the server remembers one by one: a simulation may run for weeks. Only
// the counts are printed, and those it keeps for all.
const keepCalls = 1000

// simulation is the flags of steady simulate.
type simulation struct {
	config   defendertest.Config
	counting string
	wait     string
	clients  string
	machines int
	faults   float64
	every    time.Duration
}

func parseSimulation(args []string, out io.Writer) (simulation, error) {
	s := simulation{config: defendertest.Config{KeepCalls: keepCalls}}
	c := &s.config
	flags := flag.NewFlagSet("steady simulate", flag.ContinueOnError)
	flags.StringVar(&c.Addr, "addr", "127.0.0.1:8080", "`address` to listen on")
	flags.StringVar(&c.StorageAddr, "storage", "", "`address` of the downloads (default a free port on the same host)")
	flags.DurationVar(&c.Minute, "minute", time.Minute, "how long the quotas' minute lasts")
	flags.DurationVar(&c.Hour, "hour", time.Hour, "how long the quotas' hour lasts, and a token")
	flags.IntVar(&s.machines, "machines", 50, "machines in the simulated tenant")
	flags.StringVar(&s.counting, "counting", "rolling", "how calls are counted: rolling, fixed, bucket or strict")
	flags.DurationVar(&c.Phase, "phase", 0, "how far into their minute and hour fixed windows are at the start")
	flags.Float64Var(&s.faults, "faults", 0, "share of the calls that meet a 500, a 503, a lost connection or a broken body")
	flags.StringVar(&s.wait, "wait", "header,sentence", "how a 429 tells its wait: header, date, sentence or nowhere, joined by commas")
	flags.StringVar(&c.Token, "token", "", "bearer token that a call may come with")
	flags.StringVar(&s.clients, "clients", "", "applications that may fetch a token, as `id:secret`, joined by commas; calls then need one")
	flags.Uint64Var(&c.Seed, "seed", 1, "of the faults")
	flags.DurationVar(&s.every, "every", 10*time.Second, "how often the calls are counted up")
	if err := parse(flags, args, out); err != nil {
		return s, err
	}
	if err := s.check(); err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// check refuses flags that make no sense, and parses those that are lists or words into the config.
func (s *simulation) check() error {
	c := &s.config
	for name, address := range map[string]string{"addr": c.Addr, "storage": c.StorageAddr} {
		if _, _, err := net.SplitHostPort(address); err != nil && !(name == "storage" && address == "") {
			return fmt.Errorf("-%s is %q; use a host and a port such as 127.0.0.1:8080", name, address)
		}
	}
	switch {
	case c.Minute <= 0:
		return fmt.Errorf("-minute is %v; use a positive duration such as 1s", c.Minute)
	case c.Hour <= 0:
		return fmt.Errorf("-hour is %v; use a positive duration such as 10s", c.Hour)
	case s.every <= 0:
		return fmt.Errorf("-every is %v; use a positive duration such as 10s", s.every)
	case c.Phase < 0:
		return fmt.Errorf("-phase is %v; use a duration such as 37s", c.Phase)
	case s.machines < 0 || s.machines > 100_000:
		return fmt.Errorf("-machines is %d; use 0 to 100000", s.machines)
	case !(s.faults >= 0 && s.faults <= 1):
		return fmt.Errorf("-faults is %v; use 0 to 1", s.faults)
	}
	c.Machines = s.machines
	if s.machines == 0 {
		c.Machines = -1 // 0 is the default there
	}
	c.Faults = spreadFaults(s.faults)
	var err error
	if c.Counting, err = parseCounting(s.counting); err != nil {
		return err
	}
	if c.Wait, err = parseWait(s.wait); err != nil {
		return err
	}
	c.Clients, err = parseClients(s.clients)
	return err
}

func parseCounting(text string) (defendertest.Counting, error) {
	switch text {
	case "rolling":
		return defendertest.Rolling, nil
	case "fixed":
		return defendertest.Fixed, nil
	case "bucket":
		return defendertest.Bucket, nil
	case "strict":
		return defendertest.Strict, nil
	}
	return 0, fmt.Errorf("-counting is %q; use rolling, fixed, bucket or strict", text)
}

func parseWait(text string) (defendertest.WaitForm, error) {
	var form defendertest.WaitForm
	for name := range strings.SplitSeq(text, ",") {
		switch strings.TrimSpace(name) {
		case "header":
			form |= defendertest.WaitHeader
		case "date":
			form |= defendertest.WaitDate
		case "sentence":
			form |= defendertest.WaitSentence
		case "nowhere":
			form |= defendertest.WaitNowhere
		default:
			return 0, fmt.Errorf("-wait has %q; use header, date, sentence or nowhere, joined by commas", name)
		}
	}
	return form, nil
}

// parseClients doesn't print what it can't read: it may be a secret.
func parseClients(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	clients := make(map[string]string)
	for client := range strings.SplitSeq(text, ",") {
		id, secret, _ := strings.Cut(client, ":")
		if id == "" || secret == "" {
			return nil, fmt.Errorf("-clients has an application without an id or a secret; use id:secret, joined by commas")
		}
		clients[id] = secret
	}
	return clients, nil
}

// simulate serves until it is interrupted: by hand, or by the test that started it.
func simulate(ctx context.Context, args []string, out, progress io.Writer) error {
	s, err := parseSimulation(args, out)
	if err != nil {
		return err
	}
	server := defendertest.NewUnstartedServer(s.config)
	defer server.Close()
	if err := server.Listen(); err != nil {
		return fmt.Errorf("can't serve: %w; -addr takes another address", err)
	}
	// A test in another language most likely sends this signal.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	s.announce(out, server)
	s.follow(ctx, out, server)
	server.Close() // so that nothing is being answered any more
	summarize(out, server)
	return nil
}

// announce prints the base URL, alone on the first line for programs to read, and what there is.
func (s *simulation) announce(out io.Writer, server *defendertest.Server) {
	fmt.Fprintln(out, server.URL)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(name, format string, values ...any) {
		fmt.Fprintf(table, "  %s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	row("API", "%s/api: Defender for Endpoint, and incidents and hunting of Defender XDR", server.URL)
	switch ids := server.MachineIDs(); len(ids) {
	case 0:
		row("tenant", "no machines")
	default:
		row("tenant", "%d machines, %s to %s, with an alert each", len(ids), ids[0], ids[len(ids)-1])
	}
	row("tokens", "POST %s/{tenant}/oauth2/v2.0/token: %s", server.URL, s.access())
	row("downloads", "%s: by URLs from the API, without Authorization", server.StorageURL)
	row("quotas", "as documented, %s, with a minute of %v and an hour of %v; a 429 tells its wait by %s", s.counting, s.config.Minute, s.config.Hour, s.wait)
	row("faults", "%.3g %% of the calls, seed %d", 100*s.faults, s.config.Seed)
	table.Flush()
	fmt.Fprintln(out, "An interrupt (Ctrl-C) ends it.")
}

// access says who may call. The secrets stay out of it.
func (s *simulation) access() string {
	known := slices.Sorted(maps.Keys(s.config.Clients))
	switch {
	case len(known) > 0 && s.config.Token != "":
		return "for " + strings.Join(known, ", ") + "; calls need one, or the token of -token"
	case len(known) > 0:
		return "for " + strings.Join(known, ", ") + "; calls need one"
	case s.config.Token != "":
		return "for everybody; calls need the token of -token"
	}
	return "for everybody; calls need none"
}

// follow prints a line for each interval that had calls.
func (s *simulation) follow(ctx context.Context, out io.Writer, server *defendertest.Server) {
	ticker := time.NewTicker(s.every)
	defer ticker.Stop()
	var before defendertest.Count
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := total(server.Counts())
		if now != before {
			fmt.Fprintf(out, "%s  %d calls, %d 429s, %d 5xx\n", time.Now().Format(time.TimeOnly),
				now.Calls-before.Calls, now.Throttled-before.Throttled, now.Failed-before.Failed)
		}
		before = now
	}
}

// total adds up the families' counts.
func total(counts map[string]defendertest.Count) defendertest.Count {
	var sum defendertest.Count
	for _, c := range counts {
		sum.Calls += c.Calls
		sum.Answered += c.Answered
		sum.Throttled += c.Throttled
		sum.Refused += c.Refused
		sum.Failed += c.Failed
	}
	return sum
}

// summarize prints the server's ledger by family, and what was done more than once.
func summarize(out io.Writer, server *defendertest.Server) {
	counts := server.Counts()
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, c defendertest.Count) {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, c.Calls, c.Answered, c.Throttled, c.Refused, c.Failed,
			c.Calls-c.Answered-c.Throttled-c.Refused-c.Failed)
	}
	fmt.Fprintln(table, "\tcalls\tanswered\t429\tother 4xx\t5xx\tno answer\t")
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		label := name
		if name == "" {
			label = "unknown paths and methods"
		}
		row(label, counts[name])
	}
	row("all", total(counts))
	table.Flush()

	effects := server.Effects()
	var twice []string
	for _, effect := range slices.Sorted(maps.Keys(effects)) {
		if n := effects[effect]; n > 1 {
			// Tags and titles are the callers'.
			twice = append(twice, fmt.Sprintf("%s ×%d", printable(effect), n))
		}
	}
	fmt.Fprintf(out, "\n%d tokens issued, %d changes carried out, %d of them more than once", server.TokensIssued(), len(effects), len(twice))
	for i, effect := range twice {
		if i == fewFailures {
			fmt.Fprintf(out, "\n  … and %d more", len(twice)-i)
			break
		}
		fmt.Fprintf(out, "\n  %s", effect)
	}
	fmt.Fprintln(out)
}
