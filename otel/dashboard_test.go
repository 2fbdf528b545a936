package steadyotel_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
	"github.com/steadyhttp/steadyhttp/quota"
)

// The dashboard names what is emitted and nothing else, and all of it; the alert rules name nothing
// else either.
func TestDashboardNamesOnlyOurMetrics(t *testing.T) {
	emitted := dashboardEmitted(t)
	d := dashboardRead(t)
	shown := map[string]bool{}
	exprs := d.exprs()
	if len(exprs) < 20 {
		t.Fatalf("found only %d expressions", len(exprs))
	}
	for _, e := range exprs {
		u, err := dashboardUse(e.expr)
		if err != nil {
			t.Errorf("%s: %v: %s", e.where, err, e.expr)
			continue
		}
		labels := append(u.grouped, dashboardLegendLabel(e.legend)...)
		for _, s := range u.selectors {
			name, known := emitted.series[s.metric]
			if !known {
				t.Errorf("%s: %s is not emitted, but %q is", e.where, s.metric, slices.Sorted(maps.Keys(emitted.series)))
				continue
			}
			shown[name.family] = true
			for _, label := range labels {
				if _, known := name.labels[label]; !known {
					t.Errorf("%s: %s has no label %s", e.where, s.metric, label)
				}
			}
			for _, m := range s.matchers {
				if values, known := name.labels[m.label]; !known {
					t.Errorf("%s: %s has no label %s", e.where, s.metric, m.label)
				} else if !m.meets(values) || m.label == "le" && !m.meets(dashboardFloats(values)) {
					t.Errorf("%s: %s{%s%s%q} meets none of %q", e.where, s.metric, m.label, m.op, m.value, slices.Sorted(maps.Keys(values)))
				}
			}
		}
	}
	for where, expr := range alertExprs(t) {
		u, err := dashboardUse(expr)
		if err != nil {
			t.Errorf("%s: %v: %s", where, err, expr)
		}
		for _, s := range u.selectors {
			name := emitted.series[s.metric]
			for _, label := range u.grouped {
				if _, known := name.labels[label]; !known {
					t.Errorf("%s: %s has no label %s", where, s.metric, label)
				}
			}
			for _, m := range s.matchers {
				if values, known := name.labels[m.label]; !known || !m.meets(values) {
					t.Errorf("%s: %s{%s%s%q} meets none of %q", where, s.metric, m.label, m.op, m.value, slices.Sorted(maps.Keys(values)))
				}
			}
		}
	}
	for family, otel := range emitted.families {
		if !shown[family] {
			t.Errorf("%s (%s) is emitted, and shown nowhere", otel, family)
		}
	}
	if len(d.traceQL()) == 0 {
		t.Error("no query for traces")
	}
	for _, q := range d.traceQL() {
		for _, m := range regexp.MustCompile(`\bspan\.([\w.]+)`).FindAllStringSubmatch(q, -1) {
			if !emitted.attributes[m[1]] {
				t.Errorf("no span has %s: %s", m[1], q)
			}
		}
	}
}

func TestDashboardIsWellMade(t *testing.T) {
	d := dashboardRead(t)
	variables := map[string]string{} // of data sources, with their types
	for _, v := range d.Templating.List {
		if v.Type == "datasource" {
			variables["${"+v.Name+"}"], _ = v.Query.(string)
		}
	}
	source := func(where string, s dashboardSource) {
		if s.Type == "" || variables[s.UID] != s.Type {
			t.Errorf("%s: its data source %+v is none of the variables %v", where, s, variables)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			source("$"+v.Name, v.Datasource)
		}
	}
	for _, a := range d.Annotations.List {
		source(a.Name, a.Datasource)
	}
	ids := map[int]string{}
	taken := map[[2]int]string{}
	for _, p := range d.panels() {
		if other, double := ids[p.ID]; double || p.ID <= 0 {
			t.Errorf("%s: its id %d is also that of %q", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W <= 0 || g.H <= 0 || g.X+g.W > 24 {
			t.Errorf("%s: %+v is no place in 24 columns", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s overlaps %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue // it has no place for a description
		}
		if len(p.Description) < 40 || p.Title == "" {
			t.Errorf("panel %d %q: its description is %q", p.ID, p.Title, p.Description)
		}
		source(p.Title, p.Datasource)
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			source(p.Title, target.Datasource)
			if refs[target.RefID] || (target.Expr == "") == (target.Query == "") {
				t.Errorf("%s: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
	}
}

// What is read of the dashboard.
type (
	dashboardFile struct {
		Panels      []dashboardPanel
		Annotations struct{ List []dashboardAnnotation }
		Templating  struct{ List []dashboardVariable }
	}
	dashboardPanel struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ X, Y, W, H int }
		Datasource               dashboardSource
		Targets                  []dashboardTarget
		Panels                   []dashboardPanel // of a row that is folded
	}
	dashboardTarget struct {
		RefID, Expr, Query, LegendFormat string
		Datasource                       dashboardSource
	}
	dashboardAnnotation struct {
		Name, Expr string
		Datasource dashboardSource
	}
	dashboardVariable struct {
		Name, Type, Definition string
		Query                  any // text, or an object with the text
		Datasource             dashboardSource
	}
	dashboardSource struct{ Type, UID string }
	dashboardExpr   struct{ where, expr, legend string }
)

func dashboardRead(t *testing.T) dashboardFile {
	t.Helper()
	data, err := os.ReadFile("grafana/steadyhttp.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboardFile
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *dashboardFile) panels() []dashboardPanel {
	all := []dashboardPanel{}
	for _, p := range d.Panels {
		all = append(append(all, p), p.Panels...)
	}
	return all
}

// exprs returns all that is PromQL. Of label_values(selector, label), it makes "group by (label)
// (selector)".
func (d *dashboardFile) exprs() []dashboardExpr {
	var all []dashboardExpr
	for _, p := range d.panels() {
		for _, target := range p.Targets {
			if target.Expr != "" {
				all = append(all, dashboardExpr{p.Title, target.Expr, target.LegendFormat})
			}
		}
	}
	for _, a := range d.Annotations.List {
		all = append(all, dashboardExpr{a.Name, a.Expr, ""})
	}
	values := regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		query, _ := v.Query.(map[string]any)["query"].(string)
		for _, q := range []string{query, v.Definition} {
			all = append(all, dashboardExpr{"$" + v.Name, values.ReplaceAllString(q, "group by ($2) ($1)"), ""})
		}
	}
	return all
}

func (d *dashboardFile) traceQL() []string {
	var all []string
	for _, p := range d.panels() {
		for _, target := range p.Targets {
			if target.Query != "" {
				all = append(all, target.Query)
			}
		}
	}
	return all
}

// What an expression names.
type (
	dashboardUsed struct {
		selectors []dashboardSelector
		grouped   []string // by, on and their like
	}
	dashboardSelector struct {
		metric   string
		matchers []dashboardMatcher
	}
	dashboardMatcher struct{ label, op, value string }
)

var (
	dashboardGrouping = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	dashboardMatching = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")\s*,?\s*`)
	dashboardSelect   = regexp.MustCompile(`([a-zA-Z_:][\w:]*)\s*(?:\{((?:[^}"]|"(?:[^"\\]|\\.)*")*)\}|([\[({]?))`)
	dashboardDuration = regexp.MustCompile(`\[[$\w:]+\]|\boffset +[$\w]+`)
	dashboardWords    = []string{"and", "or", "unless", "bool"}
)

// dashboardUse reads as much of PromQL as the dashboard has. What it takes for a metric and isn't
// one is found not to be emitted, so that it errs on the safe side.
func dashboardUse(expr string) (u dashboardUsed, err error) {
	rest := dashboardDuration.ReplaceAllString(expr, "")
	for _, m := range dashboardGrouping.FindAllStringSubmatch(rest, -1) {
		u.grouped = append(u.grouped, strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	rest = dashboardGrouping.ReplaceAllString(rest, "(") // so that the aggregation before it is taken for a function
	for _, m := range dashboardSelect.FindAllStringSubmatch(rest, -1) {
		if m[3] == "(" || slices.Contains(dashboardWords, m[1]) {
			continue
		}
		s := dashboardSelector{metric: m[1]}
		for _, found := range dashboardMatching.FindAllStringSubmatch(m[2], -1) {
			value, err := strconv.Unquote(found[3])
			if err != nil {
				return u, fmt.Errorf("%s: %w", found[0], err)
			}
			s.matchers = append(s.matchers, dashboardMatcher{found[1], found[2], value})
		}
		if left := dashboardMatching.ReplaceAllString(m[2], ""); left != "" {
			return u, fmt.Errorf("can't read %q", left)
		}
		u.selectors = append(u.selectors, s)
	}
	if len(u.selectors) == 0 {
		return u, fmt.Errorf("no metric")
	}
	return u, nil
}

func dashboardLegendLabel(legend string) []string {
	var labels []string
	for _, m := range regexp.MustCompile(`\{\{ *(\w+) *\}\}`).FindAllStringSubmatch(legend, -1) {
		labels = append(labels, m[1])
	}
	return labels
}

// meets reports whether there is such a value at all: also one to leave out must exist.
func (m dashboardMatcher) meets(values map[string]bool) bool {
	if m.value == "" || strings.Contains(m.value, "$") {
		return true
	}
	if m.op == "=" || m.op == "!=" {
		return values[m.value]
	}
	pattern, err := regexp.Compile("^(?:" + m.value + ")$")
	return err == nil && slices.ContainsFunc(slices.Collect(maps.Keys(values)), pattern.MatchString)
}

// dashboardFloats spells bounds as Prometheus 3 does where it scrapes: 1.0 instead of 1.
func dashboardFloats(bounds map[string]bool) map[string]bool {
	spelled := map[string]bool{}
	for b := range bounds {
		if _, err := strconv.Atoi(b); err == nil {
			b += ".0"
		}
		spelled[b] = true
	}
	return spelled
}

// What is emitted, by its names in Prometheus.
type (
	dashboardNames struct {
		series     map[string]dashboardSeries
		families   map[string]string // without _bucket, _count and _sum, and OpenTelemetry's name
		attributes map[string]bool   // of spans
	}
	dashboardSeries struct {
		family string
		labels map[string]map[string]bool // with the values they had
	}
)

// dashboardEmitted makes calls until every instrument has something to tell, and returns what they
// told.
func dashboardEmitted(t *testing.T) dashboardNames {
	t.Helper()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	config := steadyotel.Config{
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	}
	var rm metricdata.ResourceMetrics
	synctest.Test(t, func(t *testing.T) {
		machines := &quota.Quota{Windows: []quota.Window{{N: 4, Per: time.Minute}, {N: 1000, Per: time.Hour}}}
		call := func(ctx context.Context, policy steadyhttp.Policy, steps ...roundTripper) {
			rt := &steadyhttp.Transport{
				Base: script(steps...), Policy: policy, Gates: []steadyhttp.Gate{machines}, Trace: steadyotel.New(config),
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example/api/machines", nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := rt.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		}
		const no = `{"error":{"code":"NotFound","message":"no","target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`
		var policy steadyhttp.Policy
		call(t.Context(), policy, answers(200, ""))
		call(t.Context(), policy, answers(404, no))
		call(t.Context(), policy, answers(503, no), answers(200, ""))
		call(t.Context(), policy, answers(429, no, "Retry-After: 1"), answers(200, "")) // the gate's fifth and sixth of four a minute
		call(t.Context(), steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 0.5}}, answers(503, no))
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		call(cancelled, policy, answers(200, ""))
		call(t.Context(), steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 1, PerSecond: 1, Wait: true}},
			answers(503, no), answers(503, no), answers(200, ""))

		registration, err := steadyotel.ObserveQuotas(config, maps.All(map[string]quota.State{"machines": machines.State()}))
		if err != nil {
			t.Fatal(err)
		}
		defer registration.Unregister()
		if err := reader.Collect(t.Context(), &rm); err != nil {
			t.Fatal(err)
		}
	})
	names := dashboardNames{map[string]dashboardSeries{}, map[string]string{}, map[string]bool{}}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			names.add(t, m)
		}
	}
	for _, span := range spans.Ended() {
		for _, kv := range span.Attributes() {
			names.attributes[string(kv.Key)] = true
		}
	}
	return names
}

// add translates as https://prometheus.io/docs/guides/opentelemetry and the specification's
// "Prometheus and OpenMetrics Compatibility" say: what is not a letter or a digit becomes one _, a
// unit is appended but for an annotation in braces, and _total to a counter.
func (n *dashboardNames) add(t *testing.T, m metricdata.Metrics) {
	t.Helper()
	family := dashboardIdentifier(m.Name)
	switch unit := m.Unit; {
	case unit == "s":
		family = strings.TrimSuffix(family, "_seconds") + "_seconds"
	case !strings.HasPrefix(unit, "{"):
		t.Fatalf("%s: what does Prometheus call the unit %q?", m.Name, unit)
	}
	series := func(suffix string, sets []attribute.Set, bounds []float64) {
		labels := map[string]map[string]bool{"job": {}, "instance": {}}
		for _, set := range sets {
			for _, kv := range set.ToSlice() {
				key := dashboardIdentifier(string(kv.Key))
				if labels[key] == nil {
					labels[key] = map[string]bool{}
				}
				labels[key][kv.Value.String()] = true
			}
		}
		if bounds != nil {
			labels["le"] = map[string]bool{"+Inf": true}
			for _, b := range bounds {
				labels["le"][strconv.FormatFloat(b, 'f', -1, 64)] = true
			}
		}
		n.series[family+suffix] = dashboardSeries{family, labels}
	}
	histogram := func(sets []attribute.Set, bounds []float64) {
		series("_bucket", sets, bounds)
		series("_count", sets, nil)
		series("_sum", sets, nil)
	}
	switch data := m.Data.(type) {
	case metricdata.Histogram[float64]:
		histogram(dashboardSets(data.DataPoints))
	case metricdata.Histogram[int64]:
		histogram(dashboardSets(data.DataPoints))
	case metricdata.Sum[int64]:
		suffix := "" // of what goes up and down: a gauge
		if data.IsMonotonic {
			suffix = "_total"
		}
		series(suffix, dashboardPoints(data.DataPoints), nil)
	case metricdata.Gauge[int64]:
		series("", dashboardPoints(data.DataPoints), nil)
	default:
		t.Fatalf("%s: what does Prometheus make of %T?", m.Name, data)
	}
	n.families[family] = m.Name
}

func dashboardSets[N int64 | float64](points []metricdata.HistogramDataPoint[N]) (sets []attribute.Set, bounds []float64) {
	for _, p := range points {
		sets = append(sets, p.Attributes)
		bounds = p.Bounds
	}
	return sets, bounds
}

func dashboardPoints[N int64 | float64](points []metricdata.DataPoint[N]) (sets []attribute.Set) {
	for _, p := range points {
		sets = append(sets, p.Attributes)
	}
	return sets
}

func dashboardIdentifier(name string) string {
	return cmp.Or(strings.Trim(regexp.MustCompile(`[^a-zA-Z0-9]+`).ReplaceAllString(name, "_"), "_"), "_")
}
