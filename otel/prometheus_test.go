package steadyotel_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
	"github.com/steadyhttp/steadyhttp/quota"
)

// exposition writes metrics as an exporter for Prometheus does, with the names of its default
// translation: see dashboardNames.add.
func exposition(w io.Writer, all metricdata.ResourceMetrics) {
	labels := func(set attribute.Set, more ...string) string {
		words := more
		for _, kv := range set.ToSlice() {
			words = append(words, dashboardIdentifier(string(kv.Key))+"="+strconv.Quote(kv.Value.String()))
		}
		return "{" + strings.Join(words, ",") + "}"
	}
	histogram := func(name string, set attribute.Set, bounds []float64, counts []uint64, count uint64, sum float64) {
		below := uint64(0)
		for i, bound := range bounds {
			below += counts[i]
			fmt.Fprintf(w, "%s_bucket%s %d\n", name, labels(set, fmt.Sprintf(`le="%v"`, bound)), below)
		}
		fmt.Fprintf(w, "%s_bucket%s %d\n", name, labels(set, `le="+Inf"`), count)
		fmt.Fprintf(w, "%s_count%s %d\n%s_sum%s %v\n", name, labels(set), count, name, labels(set), sum)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			name := dashboardIdentifier(m.Name)
			if m.Unit == "s" {
				name += "_seconds"
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					histogram(name, p.Attributes, p.Bounds, p.BucketCounts, p.Count, p.Sum)
				}
			case metricdata.Histogram[int64]:
				for _, p := range data.DataPoints {
					histogram(name, p.Attributes, p.Bounds, p.BucketCounts, p.Count, float64(p.Sum))
				}
			case metricdata.Sum[int64]:
				suffix := ""
				if data.IsMonotonic {
					suffix = "_total"
				}
				for _, p := range data.DataPoints {
					fmt.Fprintf(w, "%s%s%s %d\n", name, suffix, labels(p.Attributes), p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					fmt.Fprintf(w, "%s%s %d\n", name, labels(p.Attributes), p.Value)
				}
			}
		}
	}
}

// startPrometheus has a Prometheus scrape the target once a second, with the alert rules, and returns
// its address.
func startPrometheus(t *testing.T, program string, target *url.URL) string {
	dir := t.TempDir()
	rules, err := filepath.Abs("grafana/steadyhttp.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs:\n- {job_name: test, static_configs: [{targets: [%q]}]}\n", rules, target.Host)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=warn")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return "http://" + address
}

// prometheusGet asks Prometheus' API.
func prometheusGet(t *testing.T, address string, into any) error {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// Each query of the dashboard, and what each alert looks at, finds data in a real Prometheus that
// scrapes a program in which everything happens that they tell of.
func TestQueriesFindDataInPrometheus(t *testing.T) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not here (Debian's package prometheus has it): the queries are read, but not run")
	}
	if testing.Short() {
		t.Skip("it takes Prometheus half a minute to see rates")
	}
	t.Parallel() // and most of that is waiting
	reader := sdkmetric.NewManualReader()
	config := steadyotel.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}
	machines := &quota.Quota{Windows: []quota.Window{{N: 20, Per: time.Second}, {N: 1000, Per: time.Hour}}}
	registration, err := steadyotel.ObserveQuotas(config, func(yield func(string, quota.State) bool) { yield("machines", machines.State()) })
	if err != nil {
		t.Fatal(err)
	}
	defer registration.Unregister()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(r.Context(), &all); err != nil {
			t.Error(err)
		}
		exposition(w, all)
	}))
	defer target.Close()
	at, _ := url.Parse(target.URL)
	prometheus := startPrometheus(t, program, at)

	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	hooks := steadyotel.New(config)
	quick := every(5 * time.Millisecond)
	quick.MaxWait = 20 * time.Millisecond
	refusing := quick
	refusing.Budget = &steadyhttp.Budget{Max: 0.5}
	queueing := quick
	queueing.Budget = &steadyhttp.Budget{Max: 1, PerSecond: 20, Wait: true}
	soon := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		if a.Response != nil && a.Response.StatusCode == 429 {
			return steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: 10 * time.Millisecond}
		}
		return steadyhttp.Verdict{}
	}
	for _, newTransport := range []func() *steadyhttp.Transport{
		func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: answers(200, ""), Gates: []steadyhttp.Gate{machines}, Policy: quick}
		},
		func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Policy: quick}
		},
		func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: script(answers(429, ""), answers(200, "")), Policy: quick, Classify: soon}
		},
		func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: answers(404, envelope("C", "T")), Policy: quick}
		},
		func() *steadyhttp.Transport { return &steadyhttp.Transport{Base: answers(503, ""), Policy: refusing} },
		func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: script(answers(503, ""), answers(503, ""), answers(200, "")), Policy: queueing}
		},
		func() *steadyhttp.Transport {
			return &steadyhttp.Transport{Base: answers(200, ""), Prepare: func(*http.Request, *steadyhttp.Attempt) error {
				time.Sleep(5 * time.Millisecond) // real: a token is fetched
				return nil
			}}
		},
	} {
		calls.Go(func() {
			for ctx.Err() == nil {
				rt := newTransport()
				rt.Trace = hooks
				call(t, ctx, rt)
				time.Sleep(20 * time.Millisecond) // real, so that the program is no load
			}
		})
	}

	queries := make(map[string]string)
	d := dashboardRead(t)
	for _, e := range d.exprs() {
		if !strings.HasPrefix(e.where, "$") { // variables: Prometheus is asked for labels instead
			queries[e.where+" "+e.legend] = e.expr
		}
	}
	threshold := regexp.MustCompile(` > [\d.]+`)
	for alert, expr := range alertExprs(t) {
		queries["alert "+alert] = strings.ReplaceAll(threshold.ReplaceAllString(expr, " >= 0"), "limit >= 0", "limit > 0")
	}
	for where, expr := range queries {
		expr = strings.NewReplacer("$job", ".*", "$window", ".*", "$__rate_interval", "10s", "$__range", "1m").Replace(expr)
		expr = regexp.MustCompile(`\[(5|10|15)m\]`).ReplaceAllString(expr, "[20s]")
		if strings.Contains(expr, "$") {
			t.Errorf("%s: what is %s?", where, expr)
		}
		queries[where] = expr
	}
	if len(queries) < 25 {
		t.Fatalf("only %d queries", len(queries))
	}
	asked := len(queries)
	last := make(map[string]string)
	for deadline := time.Now().Add(2 * time.Minute); len(queries) > 0 && time.Now().Before(deadline); time.Sleep(time.Second) { // real
		for where, expr := range queries {
			var found struct {
				Result []struct{ Value [2]any }
			}
			err := prometheusGet(t, prometheus+"/api/v1/query?query="+url.QueryEscape(expr), &found)
			last[where] = fmt.Sprint(err, " ", found.Result)
			for _, r := range found.Result {
				if v, ok := r.Value[1].(string); ok && v != "NaN" && err == nil {
					delete(queries, where)
				}
			}
		}
	}
	for where, expr := range queries {
		t.Errorf("%s finds nothing (%s): %s", where, last[where], expr)
	}
	t.Logf("%d of %d queries found data", asked-len(queries), asked)
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := prometheusGet(t, prometheus+"/api/v1/rules", &rules); err != nil || len(rules.Groups) != 1 || len(rules.Groups[0].Rules) != len(alertExprs(t)) {
		t.Fatalf("%v: %+v", err, rules)
	}
	for _, r := range rules.Groups[0].Rules {
		if r.Health != "ok" || r.LastError != "" {
			t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
		}
	}
}
