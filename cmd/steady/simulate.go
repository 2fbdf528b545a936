package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// keepCalls is how many calls the server remembers one by one: a simulation may run for weeks. Only
// the counts are printed, and those it keeps for all.
const keepCalls = 1000

// simulation is the flags of steady simulate.
type simulation struct {
	config      defendertest.Config
	counting    string
	wait        string
	second      string
	clients     string
	named       map[string]bool // the faults that -fault has given a share
	machines    int
	faults      float64
	every       time.Duration
	certificate string // the file of -tls; "": http
}

func parseSimulation(args []string, out io.Writer) (simulation, error) {
	var s simulation
	c := &s.config
	flags := flag.NewFlagSet("steady simulate", flag.ContinueOnError)
	flags.StringVar(&c.Addr, "addr", "127.0.0.1:8080", "`address` to listen on")
	flags.StringVar(&c.StorageAddr, "storage", "", "`address` of the downloads (default a free port on the same host)")
	flags.StringVar(&c.ControlAddr, "control", "127.0.0.1:0",
		"loopback `address` of the control API; an empty one switches it off")
	flags.StringVar(&s.certificate, "tls", "",
		"serve over https, and write the authority to trust to this `file`")
	flags.DurationVar(&c.Minute, "minute", time.Minute, "how long the quotas' minute lasts")
	flags.DurationVar(&c.Hour, "hour", time.Hour, "how long the quotas' hour lasts, and a token")
	flags.IntVar(&s.machines, "machines", 50, "machines in the simulated tenant")
	flags.IntVar(&c.PageSize, "page-size", 100, "items of a page without $top; the service has 10000")
	flags.StringVar(&s.counting, "counting", "rolling", "how calls are counted: rolling, fixed, bucket or strict")
	flags.DurationVar(&c.Phase, "phase", 0, "how far into their minute and hour fixed windows are at the start")
	flags.Func("quota", "replace a `family's windows`, as in machines=10/1m,100/1h, or machines= for none; repeatable", s.addQuota)
	flags.BoolVar(&c.NoQuotas, "no-quotas", false, "lift all limits on the number of calls")
	flags.DurationVar(&c.HuntingCPU, "hunting-cpu", 0,
		"processor time that queries may take in 15 minutes (default no limit)")
	flags.DurationVar(&c.HuntingCost, "hunting-cost", time.Second, "processor time that a query takes")
	flags.DurationVar(&c.ActionTime, "action-time", 300*time.Millisecond,
		"how long a machine action takes")
	flags.StringVar(&s.second, "second", "refused",
		"how an order is answered while one like it is active: refused or pending")
	flags.Float64Var(&s.faults, "faults", 0, "share of the calls that meet a 500, a 503, a lost connection or a broken body")
	flags.Func("fault", "`share` of one fault, as in After504=0.1; repeatable, goes before -faults; docs/simulator.md lists them", s.addFault)
	flags.DurationVar(&c.Faults.SlowFor, "slow-for", time.Second,
		"how late the answers of the fault Slow are")
	flags.StringVar(&s.wait, "wait", "header,sentence", "how a 429 tells its wait: header, date, sentence or nowhere, joined by commas")
	flags.StringVar(&c.Token, "token", "", "bearer token that a call may come with")
	flags.StringVar(&s.clients, "clients", "", "applications that may fetch a token, as `id:secret`, joined by commas; calls then need one")
	flags.DurationVar(&c.TokenLife, "token-life", 0,
		"how long a token lives (default the hour of -hour)")
	flags.BoolVar(&c.NoLicence, "no-licence", false,
		"refuse every call as a tenant without a licence does")
	flags.Uint64Var(&c.Seed, "seed", 1, "of the faults")
	flags.IntVar(&c.KeepCalls, "keep", keepCalls,
		"calls that the ledger keeps one by one; 0 keeps all")
	flags.DurationVar(&s.every, "every", 10*time.Second, "how often the calls are counted up")
	if err := parse(flags, args, out); err != nil {
		return s, err
	}
	if given(flags, "tls") && s.certificate == "" {
		return s, usageError{errors.New("-tls is empty; name the file to write the authority to")}
	}
	c.TLS = s.certificate != ""
	if err := s.check(); err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// addQuota reads one -quota.
func (s *simulation) addQuota(text string) error {
	family, list, ok := strings.Cut(text, "=")
	if _, known := defendertest.DefaultQuotas()[family]; !ok || !known {
		return errors.New("use a family such as machines/{id}, an equals sign and its windows")
	}
	windows := []quota.Window{}
	for part := range strings.SplitSeq(list, ",") {
		if list == "" {
			break
		}
		count, per, _ := strings.Cut(part, "/")
		n, err := strconv.Atoi(count)
		d, errPer := time.ParseDuration(per)
		if err != nil || errPer != nil || n < 1 || d <= 0 {
			return fmt.Errorf("%q is no window; use a number and a duration such as 100/1m", part)
		}
		windows = append(windows, quota.Window{N: n, Per: d})
	}
	if _, twice := s.config.Quotas[family]; twice {
		return fmt.Errorf("%s has windows already; use one -quota for all windows of a family, "+
			"joined by commas", family)
	}
	if s.config.Quotas == nil {
		s.config.Quotas = make(map[string][]quota.Window)
	}
	s.config.Quotas[family] = windows
	return nil
}

// addFault reads one -fault.
func (s *simulation) addFault(text string) error {
	name, share, _ := strings.Cut(text, "=")
	of, err := strconv.ParseFloat(share, 64)
	if err != nil || !(of >= 0 && of <= 1) {
		return errors.New("use a name, an equals sign and a share from 0 to 1")
	}
	if err := s.config.Faults.Set(name, of); err != nil {
		return err
	}
	if s.named == nil {
		s.named = make(map[string]bool)
	}
	s.named[name] = true
	return nil
}

// check refuses flags that make no sense, and parses those that are lists or words into the config.
func (s *simulation) check() error {
	c := &s.config
	for name, address := range map[string]string{"addr": c.Addr, "storage": c.StorageAddr,
		"control": c.ControlAddr} {
		if _, _, err := net.SplitHostPort(address); err != nil && !(name != "addr" && address == "") {
			return fmt.Errorf("-%s is %q; use a host and a port such as 127.0.0.1:8080", name, address)
		}
	}
	for name, d := range map[string]time.Duration{
		"minute": c.Minute, "hour": c.Hour, "every": s.every, "action-time": c.ActionTime,
		"hunting-cost": c.HuntingCost, "slow-for": c.Faults.SlowFor,
	} {
		if d <= 0 {
			return fmt.Errorf("-%s is %v; use a positive duration such as 10s", name, d)
		}
	}
	for name, d := range map[string]time.Duration{"phase": c.Phase, "hunting-cpu": c.HuntingCPU,
		"token-life": c.TokenLife} {
		if d < 0 {
			return fmt.Errorf("-%s is %v; use a duration such as 37s", name, d)
		}
	}
	switch {
	case s.machines < 0 || s.machines > 100_000:
		return fmt.Errorf("-machines is %d; use 0 to 100000", s.machines)
	case c.PageSize < 1 || c.PageSize > 10_000:
		return fmt.Errorf("-page-size is %d; use 1 to 10000", c.PageSize)
	case c.KeepCalls < 0:
		return fmt.Errorf("-keep is %d; use a positive number, or 0 for all", c.KeepCalls)
	case !(s.faults >= 0 && s.faults <= 1):
		return fmt.Errorf("-faults is %v; use 0 to 1", s.faults)
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		// It is a secret, and not repeated.
		return errors.New("-token has a space or another byte that no token has; use it alone, " +
			"without \"Bearer\" before it")
	}
	c.Machines = s.machines
	if s.machines == 0 {
		c.Machines = -1 // 0 is the default there
	}
	// A fault that is named goes before the share of all, with the share 0 too.
	spread := spreadFaults(s.faults)
	for name, share := range map[string]float64{
		"Error500": spread.Error500, "Bare500": spread.Bare500, "Error503": spread.Error503,
		"After500": spread.After500, "ResetBefore": spread.ResetBefore,
		"ResetAfter": spread.ResetAfter, "BreakBody": spread.BreakBody,
	} {
		if s.named[name] {
			continue
		}
		if err := c.Faults.Set(name, share); err != nil {
			return err
		}
	}
	if err := c.Faults.Check(); err != nil {
		return fmt.Errorf("-fault: %w", err)
	}
	var err error
	if c.Counting, err = parseCounting(s.counting); err != nil {
		return err
	}
	if c.Wait, err = parseWait(s.wait); err != nil {
		return err
	}
	switch s.second {
	case "refused":
	case "pending":
		c.Second = defendertest.SecondPending
	default:
		return fmt.Errorf("-second is %q; use refused or pending", s.second)
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
	if form&defendertest.WaitNowhere != 0 && form != defendertest.WaitNowhere {
		return 0, fmt.Errorf("-wait is %q; use nowhere alone, or the others without it", text)
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
		if _, twice := clients[id]; twice {
			return nil, errors.New("-clients has an application twice; use an id once, with one secret")
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
		return cannotServe(err)
	}
	// A test in another language most likely sends this signal.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	if s.certificate != "" {
		if err := os.WriteFile(s.certificate, server.Certificate(), 0o644); err != nil {
			return fmt.Errorf("can't write the authority of -tls: %w", err)
		}
	}
	s.announce(out, server)
	if err := writeError(out); err != nil {
		return err // nobody would learn where it is
	}
	s.follow(ctx, out, server)
	server.Close() // so that nothing is being answered any more
	summarize(out, server)
	return nil
}

// cannotServe names the flag whose address can't be listened on. The server names its own field.
func cannotServe(err error) error {
	text, ok := strings.CutPrefix(err.Error(), "defendertest: Config.")
	field, said, told := strings.Cut(text, " is ")
	name := map[string]string{
		"Addr": "addr", "StorageAddr": "storage", "ControlAddr": "control",
	}[field]
	if !ok || !told || name == "" {
		return fmt.Errorf("can't serve: %w", err)
	}
	if strings.Contains(said, ": use ") {
		return fmt.Errorf("can't serve: -%s is %s", name, said)
	}
	return fmt.Errorf("can't serve: -%s is %s; -%[1]s takes another address", name, said)
}

// announce prints the base URL, alone on the first line for programs to read, and what there is.
func (s *simulation) announce(out io.Writer, server *defendertest.Server) {
	fmt.Fprintln(out, server.URL)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(name, format string, values ...any) {
		fmt.Fprintf(table, "  %s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	row("Defender", "%s/api: Defender for Endpoint, and incidents and hunting of Defender XDR",
		server.URL)
	row("Graph", "%s/v1.0/security: incidents, alerts_v2, comments and hunting", server.URL)
	if server.ControlURL != "" {
		row("control", "%s: faults, quotas, ledger, counts, effects, reset; see docs/simulator.openapi.json", server.ControlURL)
	}
	if s.certificate != "" {
		row("authority", "%s: what a client must trust", s.certificate)
	}
	switch ids := server.MachineIDs(); len(ids) {
	case 0:
		row("tenant", "no machines")
	default:
		row("tenant", "%d machines, %s to %s, with an alert each", len(ids), ids[0], ids[len(ids)-1])
	}
	row("tokens", "POST %s/{tenant}/oauth2/v2.0/token: %s", server.URL, s.access())
	row("downloads", "%s: by URLs from the API, without Authorization", server.StorageURL)
	row("quotas", "%s, %s, with a minute of %v and an hour of %v; a 429 tells its wait by %s",
		s.limits(), s.counting, s.config.Minute, s.config.Hour, s.wait)
	row("faults", "%.3g %% of the calls, seed %d", 100*shareOf(s.config.Faults), s.config.Seed)
	table.Flush()
	fmt.Fprintf(out, "A Go connector meets it with\n\n%s\nAn interrupt (Ctrl-C) ends it.\n",
		s.goConfig(server))
}

// limits says what of the documented quotas holds.
func (s *simulation) limits() string {
	switch n := len(s.config.Quotas); {
	case s.config.NoQuotas:
		return "none"
	case n > 0:
		return fmt.Sprintf("as documented but for %d families", n)
	}
	return "as documented"
}

// shareOf is the share of the calls that meet a fault which all calls can meet.
func shareOf(f defendertest.Faults) float64 {
	return f.Error500 + f.Bare500 + f.After500 + f.Error503 + f.ResetBefore + f.ResetAfter + f.BreakBody +
		f.Slow + f.HTML502 + f.HTML503 + f.After504 + f.Empty200
}

// goConfig is the defender.Config that matches the flags, as far as what is served here goes: with
// the quotas that differ from the documented ones. The secrets stay out of it.
func (s *simulation) goConfig(server *defendertest.Server) string {
	var text strings.Builder
	c := server.Defender()
	fmt.Fprintf(&text, "  defender.Config{\n    Hosts: []string{%q},\n", c.Hosts[0])
	switch {
	case c.NoQuotas:
		text.WriteString("    NoQuotas: true,\n")
	case s.config.Minute != time.Minute || s.config.Hour != time.Hour || len(s.config.Quotas) > 0:
		text.WriteString("    Quotas: map[string][]quota.Window{\n")
		documented := make(map[string][]quota.Window)
		for _, e := range defender.Endpoints() {
			documented[e.Family] = e.Windows
		}
		served := defendertest.DefaultQuotas()
		for _, family := range slices.Sorted(maps.Keys(c.Quotas)) {
			windows := c.Quotas[family]
			if _, ok := served[family]; ok && !slices.Equal(windows, documented[family]) {
				fmt.Fprintf(&text, "      %q: {%s},\n", family, goWindows(windows))
			}
		}
		text.WriteString("    },\n")
	}
	if c.Token != nil {
		fmt.Fprintf(&text, "    Token: …, // from %s/{tenant}/oauth2/v2.0/token, or that of -token\n",
			server.URL)
	}
	if s.certificate != "" {
		fmt.Fprintf(&text, "    Base: …, // an http.Transport whose TLSClientConfig.RootCAs have %s\n",
			s.certificate)
	}
	text.WriteString("  }\n")
	return text.String()
}

// goWindows writes windows as Go has them.
func goWindows(windows []quota.Window) string {
	var all []string
	for _, w := range windows {
		all = append(all, fmt.Sprintf("{N: %d, Per: %s}", w.N, goDuration(w.Per)))
	}
	return strings.Join(all, ", ")
}

// goDuration writes a duration in the largest unit that it is a multiple of.
func goDuration(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{time.Hour, "time.Hour"}, {time.Minute, "time.Minute"}, {time.Second, "time.Second"},
		{time.Millisecond, "time.Millisecond"}} {
		switch {
		case d == unit.of:
			return unit.name
		case d%unit.of == 0:
			return fmt.Sprintf("%d * %s", d/unit.of, unit.name)
		}
	}
	return fmt.Sprintf("%d", d)
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
