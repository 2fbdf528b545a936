package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"go/parser"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// A run of steady simulate, whose output is read while it goes on.
type simulated struct {
	url    string
	lines  *bufio.Scanner
	cancel context.CancelFunc
	exited chan int
}

// startSimulate starts one on a free port, and returns when it serves. It ends with the test.
func startSimulate(t *testing.T, args ...string) *simulated {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	s := &simulated{lines: bufio.NewScanner(reader), cancel: cancel, exited: make(chan int, 1)}
	go func() {
		s.exited <- run(ctx, append([]string{"simulate", "-addr", "127.0.0.1:0"}, args...), writer, io.Discard)
		writer.Close()
	}()
	t.Cleanup(func() {
		cancel()
		reader.Close()
	})
	if !s.lines.Scan() {
		t.Fatal("nothing was printed")
	}
	s.url = s.lines.Text()
	return s
}

// until reads lines up to one that matches, and returns all.
func (s *simulated) until(t *testing.T, pattern string) string {
	t.Helper()
	var all strings.Builder
	for s.lines.Scan() {
		all.WriteString(s.lines.Text() + "\n")
		if regexp.MustCompile(pattern).MatchString(s.lines.Text()) {
			return all.String()
		}
	}
	t.Fatalf("no line like %q in\n%s", pattern, all.String())
	return ""
}

// get returns the status of a call.
func (s *simulated) get(t *testing.T, path, token string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// It says where it is and what it does, counts the calls up, and ends with the ledger's summary.
func TestSimulate(t *testing.T) {
	s := startSimulate(t, "-machines", "7", "-counting", "strict", "-minute", "1h", "-hour", "1h", "-every", "1ms",
		"-wait", "header, date", "-token", "letmein", "-clients", "app:hidden,other:secret")
	said := s.until(t, "interrupt")
	for _, part := range []string{
		s.url + "/api", "7 machines, m0001 to m0007", s.url + "/{tenant}/oauth2/v2.0/token: for app, other; calls need one, or the token",
		"strict, with a minute of 1h0m0s and an hour of 1h0m0s", "header, date", "0 % of the calls, seed 1",
	} {
		if !strings.Contains(said, part) {
			t.Errorf("no %q in\n%s", part, said)
		}
	}
	if strings.Contains(said, "hidden") || strings.Contains(said, "letmein") {
		t.Errorf("a secret was printed:\n%s", said)
	}
	if status := s.get(t, "/api/machines", "wrong"); status != 401 {
		t.Errorf("without a token: %d", status)
	}
	s.until(t, `^\d\d:\d\d:\d\d  1 calls, 0 429s, 0 5xx$`)
	for range 2 {
		if status := s.get(t, "/api/machineactions/x/getPackageUri", "letmein"); status != 404 {
			t.Errorf("with a token: %d", status)
		}
	}
	if status := s.get(t, "/api/machineactions/x/getPackageUri", "letmein"); status != 429 {
		t.Errorf("over the quota: %d", status)
	}
	s.until(t, ` 1 429s, `)
	s.cancel()
	said = s.until(t, `tokens issued`)
	for _, row := range []string{
		`machineactions/\{id\}/getPackageUri +3 +0 +1 +2 +0 +0`, `machines +1 +0 +0 +1 +0 +0`, `all +4 +0 +1 +3 +0 +0`, `^0 tokens issued, 0 changes`,
	} {
		if !regexp.MustCompile(`(?m)` + row).MatchString(said) {
			t.Errorf("no row %q in\n%s", row, said)
		}
	}
	if code := <-s.exited; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What was done twice is listed, since that is what people look for.
func TestSimulateSummaryOfChanges(t *testing.T) {
	s := startSimulate(t, "-faults", "0", "-every", "1h")
	for range 2 {
		resp, err := http.Post(s.url+"/api/indicators", "application/json",
			strings.NewReader(`{"indicatorValue":"a.example","indicatorType":"DomainName","action":"Alert","title":"t","description":"d"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	s.cancel()
	if said := s.until(t, "×"); !strings.Contains(said, "1 changes carried out, 1 of them more than once\n  submit a.example ×2") {
		t.Errorf("got\n%s", said)
	}
}

func TestSimulateCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		says string
	}{
		{"-control nowhere", `-control is "nowhere"; use a host and a port`},
		{"-page-size 0", "-page-size is 0; use 1 to 10000"},
		{"-action-time 0s", "-action-time is 0s"},
		{"-hunting-cpu -1s", "-hunting-cpu is -1s"},
		{"-hunting-cost 0s", "-hunting-cost is 0s"},
		{"-token-life -1s", "-token-life is -1s"},
		{"-slow-for -1s", "-slow-for is -1s"},
		{"-keep -1", "-keep is -1"},
		{"-second maybe", `-second is "maybe"; use refused or pending`},
		{"-quota machine=1/1m", "-quota: use a family such as"},
		{"-quota machines", "-quota: use a family such as"},
		{"-quota machines=1", `-quota: "1" is no window`},
		{"-quota machines=0/1m", `-quota: "0/1m" is no window`},
		{"-quota machines=1/1m,", `-quota: "" is no window`},
		{"-fault After5=0.1", `-fault: there is no fault "After5"`},
		{"-fault After500=2", "-fault: use a name"},
		{"-fault After500", "-fault: use a name"},
		{"-fault After500=0.6 -faults 0.6", "-fault: Faults has shares of"},
		{"-tls=", "-tls is empty; name the file"},
		{"-addr nowhere", `-addr is "nowhere"; use a host and a port`},
		{"-storage nowhere", `-storage is "nowhere"; use a host and a port`},
		{"-minute 0s", "-minute is 0s"},
		{"-minute soon", "-minute"},
		{"-hour -1s", "-hour is -1s"},
		{"-every 0s", "-every is 0s"},
		{"-phase -1s", "-phase is -1s"},
		{"-machines -1", "-machines is -1; use 0 to 100000"},
		{"-faults 1.1", "-faults is 1.1; use 0 to 1"},
		{"-faults NaN", "-faults is NaN"},
		{"-counting slowly", `-counting is "slowly"; use rolling, fixed, bucket or strict`},
		{"-wait header,never", `-wait has "never"; use header, date, sentence or nowhere`},
		{"-clients app:hidden,hidden", "-clients has an application without an id or a secret"},
		{"-clients :hidden", "-clients has an application without an id or a secret"},
		{"more", `takes no arguments, got "more"`},
	} {
		code, _, said := steady(t, append([]string{"simulate"}, strings.Fields(c.args)...)...)
		if code != 2 || !strings.Contains(said, c.says) || strings.Contains(said, "hidden") {
			t.Errorf("%s: exit code %d, said %q", c.args, code, said)
		}
	}
	if code, said, _ := steady(t, "simulate", "-h"); code != 0 || !strings.Contains(said, "-counting") {
		t.Errorf("-h: exit code %d, said %q", code, said)
	}
}

// What contradicts itself, or is given twice, is refused: the one that stood would be a matter of
// luck.
func TestSimulateFlagsThatCannotBeMeant(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"-wait nowhere,header", "use nowhere alone"},
		{"-wait sentence,nowhere", "use nowhere alone"},
		{"-wait header,date,sentence,nowhere", "use nowhere alone"},
		{"-clients app:hidden,app:hidden2", "use an id once"},
		{"-clients app:hidden,other:x,app:hidden", "use an id once"},
		{"-quota machines=1/1m -quota machines=2/1h", "machines has windows already"},
		{"-quota machines= -quota machines=2/1h", "machines has windows already"},
		{"-token hid\tden", "-token has a space"},
		{"-token hid\nden", "-token has a space"},
		{"-token hiddén", "-token has a space"},
	} {
		args := append([]string{"simulate"}, strings.Split(c.args, " ")...)
		code, _, said := steady(t, args...)
		if code != 2 || !strings.Contains(said, c.says) || strings.Contains(said, "hid") {
			t.Errorf("%s: exit code %d, said %q", c.args, code, said)
		}
	}
	// The version is asked for in both ways.
	for _, flag := range []string{"-version", "--version"} {
		if code, said, _ := steady(t, flag); code != 0 || !strings.HasPrefix(said, "steady ") {
			t.Errorf("%s: exit code %d, printed %q", flag, code, said)
		}
	}
}

// A port that another program has is told as what it is.
func TestSimulatePortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, out, said := steady(t, "simulate", "-addr", taken.Addr().String())
	if code != 1 || out != "" || !strings.Contains(said, taken.Addr().String()) || !strings.Contains(said, "-addr takes another address") {
		t.Errorf("exit code %d, said %q and %q", code, out, said)
	}
}

// Each way of counting reaches the server.
func TestSimulateCounting(t *testing.T) {
	for i, counting := range []string{"rolling", "fixed", "bucket", "strict"} {
		s, err := parseSimulation([]string{"-counting", counting, "-machines", "0", "-phase", "5s", "-faults", "0.5"}, io.Discard)
		if err != nil || int(s.config.Counting) != i || s.config.Machines != -1 || s.config.Phase != 5*time.Second || s.config.Faults.Error503 == 0 {
			t.Errorf("%s: got %+v and error %v", counting, s.config, err)
		}
		if fmt.Sprint(s.config.Clients) != "map[]" || s.config.Clients != nil {
			t.Errorf("%s: got clients %v", counting, s.config.Clients)
		}
	}
}

// Every field of the server's Config is set by a flag: one that has none can't be used from outside
// of Go.
func TestSimulateFlagForEveryField(t *testing.T) {
	s, err := parseSimulation(strings.Fields("-addr :1 -storage :2 -control :3 -tls ca.pem -minute 2m -hour 2h -machines 3 -page-size 4 "+
		"-counting fixed -phase 5s -quota machines=6/1m,7/1h -quota alerts= -no-quotas -hunting-cpu 8s -hunting-cost 9s -action-time 10s "+
		"-second pending -fault After504=0.1 -fault Slow=0.1 -slow-for 11s -wait date -token t -clients a:b -token-life 12s -no-licence -seed 13 -keep 14"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	config := reflect.ValueOf(s.config)
	for i := range config.NumField() {
		if config.Field(i).IsZero() {
			t.Errorf("no flag sets Config.%s", config.Type().Field(i).Name)
		}
	}
	c := s.config
	if want := []quota.Window{{N: 6, Per: time.Minute},
		{N: 7, Per: time.Hour}}; !slices.Equal(c.Quotas["machines"], want) || c.Quotas["alerts"] == nil ||
		len(c.Quotas["alerts"]) != 0 {
		t.Errorf("the quotas are %v", c.Quotas)
	}
	if c.Faults.After504 != 0.1 || c.Faults.Slow != 0.1 || c.Faults.SlowFor != 11*time.Second ||
		c.KeepCalls != 14 || c.TokenLife != 12*time.Second || c.Second != defendertest.SecondPending {
		t.Errorf("got %+v", c)
	}
	// And every fault by its name.
	faults := reflect.TypeFor[defendertest.Faults]()
	for i := range faults.NumField() {
		name := faults.Field(i).Name
		if name == "SlowFor" {
			continue
		}
		s, err := parseSimulation([]string{"-fault", name + "=0.25"}, io.Discard)
		if err != nil || reflect.ValueOf(s.config.Faults).Field(i).Float() != 0.25 {
			t.Errorf("%s: got %+v and error %v", name, s.config.Faults, err)
		}
	}
	if s, err := parseSimulation(strings.Fields("-faults 0.1 -fault Error500=0.5"),
		io.Discard); err != nil || s.config.Faults.Error500 != 0.5 || s.config.Faults.Error503 == 0 {
		t.Errorf("got %+v and error %v", s.config.Faults, err)
	}
}

// What it prints as the Config is Go that means the same.
func TestSimulatePrintsItsConfig(t *testing.T) {
	for _, test := range []struct {
		args string
		says []string
		not  []string
	}{
		{"", []string{"Hosts: []string{\"127.0.0.1:"}, []string{"Quotas", "Token", "Base"}},
		{"-no-quotas", []string{"NoQuotas: true"}, []string{"Quotas:"}},
		{"-quota machines=10/1m,5/90s -quota alerts=",
			[]string{`"machines": {{N: 10, Per: time.Minute}, {N: 5, Per: 90 * time.Second}}`,
				`"alerts": {}`}, []string{"machines/{id}"}},
		{"-minute 1s -hour 10s -clients a:hidden",
			[]string{`"indicators/import": {{N: 30, Per: time.Second}}`,
				`"machines/{id}/startInvestigation": {{N: 50, Per: 10 * time.Second}}`, "Token: …"},
			[]string{"hidden", "domains/{id}"}},
		{"-token hidden", []string{"Token: …"}, []string{"hidden"}},
	} {
		t.Run(test.args, func(t *testing.T) {
			said := startSimulate(t, strings.Fields(test.args)...).until(t, "An interrupt")
			_, config, ok := strings.Cut(said, "A Go connector meets it with\n")
			if !ok {
				t.Fatalf("said %s", said)
			}
			expression := strings.NewReplacer("Token: …,", "Token: nil,", "Base: …,",
				"Base: nil,").Replace(config[:strings.LastIndex(config, "}")+1])
			if _, err := parser.ParseExpr(strings.TrimSpace(expression)); err != nil {
				t.Errorf("%v: %s", err, config)
			}
			for _, part := range test.says {
				if !strings.Contains(config, part) {
					t.Errorf("no %q in %s", part, config)
				}
			}
			for _, part := range test.not {
				if strings.Contains(strings.ReplaceAll(config, "NoQuotas", ""), part) {
					t.Errorf("%q in %s", part, config)
				}
			}
		})
	}
}

// With -tls the authority is in its file before the URL is printed, and a client that trusts it
// gets through; a file that can't be written is an error.
func TestSimulateTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	s := startSimulate(t, "-tls", file)
	data, err := os.ReadFile(file)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(data) {
		t.Fatalf("the file has %q, error %v", data, err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(s.url + "/api/machines")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !strings.HasPrefix(s.url, "https://") || resp.StatusCode != 200 {
		t.Errorf("%s answers %s", s.url, resp.Status)
	}
	code, _, said := steady(t, "simulate", "-addr", "127.0.0.1:0", "-tls",
		filepath.Join(file, "no", "such"))
	if code != 1 || !strings.Contains(said, "can't write the authority of -tls") {
		t.Errorf("exit code %d, said %q", code, said)
	}
}

// An address that can't be had is told with the flag that has it, and no other.
func TestSimulateNamesTheAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	names := []string{"addr", "storage", "control"}
	for _, name := range names {
		for _, address := range []string{taken.Addr().String(), "127.0.0.1:99999", "127.0.0.1:x", "[::zz]:0", "0.0.0.0:0"} {
			if address == "0.0.0.0:0" && name != "control" {
				continue
			}
			args := []string{"simulate", "-addr", "127.0.0.1:0", "-" + name, address}
			code, out, said := steady(t, args...)
			if code != 1 || out != "" || !strings.Contains(said, "-"+name+" is "+strconv.Quote(address)) ||
				!strings.Contains(said, "use an address") && !strings.Contains(said, "; -"+name+" takes another address") {
				t.Errorf("%q: exit code %d, said %q", args, code, said)
			}
			for _, other := range names {
				if other != name && strings.Contains(said, "-"+other) {
					t.Errorf("%q: said %q", args, said)
				}
			}
			if strings.Contains(said, "Config.") {
				t.Errorf("%q: said %q, which has no flag's name", args, said)
			}
		}
	}
}

// A fault that is named keeps its share beside -faults, also where that is 0, in either order.
func TestSimulateNamedFaultsGoFirst(t *testing.T) {
	spread := reflect.ValueOf(spreadFaults(1))
	for i := range spread.NumField() {
		name := spread.Type().Field(i).Name
		if spread.Field(i).Kind() != reflect.Float64 || spread.Field(i).Float() == 0 {
			continue
		}
		for _, share := range []string{"0", "0.25", "1e-9"} {
			for _, args := range [][]string{
				{"-faults", "0.1", "-fault", name + "=" + share},
				{"-fault", name + "=0.5", "-fault", name + "=" + share, "-faults", "0.1"},
			} {
				s, err := parseSimulation(args, io.Discard)
				if err != nil {
					t.Fatal(err)
				}
				faults := reflect.ValueOf(s.config.Faults)
				want, _ := strconv.ParseFloat(share, 64)
				if got := faults.Field(i).Float(); got != want {
					t.Errorf("%q: %s is %v", args, name, got)
				}
				for j := range spread.NumField() {
					if j != i && spread.Field(j).Kind() == reflect.Float64 &&
						faults.Field(j).Float() != 0.1*spread.Field(j).Float() {
						t.Errorf("%q: %s is %v", args, faults.Type().Field(j).Name, faults.Field(j))
					}
				}
			}
		}
	}
}
