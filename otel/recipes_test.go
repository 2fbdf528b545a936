package steadyotel_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// The recipe of docs/telemetry.md: an existence check's 404 is no error, and any other is.
func TestRecipeOfA404ThatIsNoError(t *testing.T) {
	rules := &steadyhttp.Rules{}
	classify := func(a steadyhttp.Attempt) steadyhttp.Verdict {
		if a.Response != nil && a.Response.StatusCode == 404 && a.Request.Method == http.MethodHead {
			return steadyhttp.Verdict{Class: steadyhttp.Success}
		}
		return rules.Classify(a)
	}
	for method, want := range map[string]string{"HEAD": "call HEAD: unset; HEAD: unset", "GET": "call GET: error 404; GET: error 404"} {
		s := newSDK(t)
		rt := &steadyhttp.Transport{Base: answers(404, ""), Classify: classify, Trace: s.trace(steadyotel.Config{})}
		resp, err := rt.RoundTrip(newRequest(t, t.Context(), method, "http://api.example/machines/1"))
		if finish(resp, err) != nil || resp.StatusCode != 404 {
			t.Fatalf("%v, %v", resp, err)
		}
		assertText(t, method, s.outcomes(), want)
	}
}

// The recipe of docs/telemetry.md: one metric dropped, another with bounds of one's own.
func TestRecipeOfAView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := metric.NewManualReader()
		meters := metric.NewMeterProvider(metric.WithReader(reader), metric.WithView(
			metric.NewView(metric.Instrument{Name: "steadyhttp.retry.delay"}, metric.Stream{Aggregation: metric.AggregationDrop{}}),
			metric.NewView(metric.Instrument{Name: "steadyhttp.wait.duration"}, metric.Stream{
				Aggregation: metric.AggregationExplicitBucketHistogram{Boundaries: []float64{1, 10, 60, 600, 3600}},
			}),
		))
		call(t, t.Context(), &steadyhttp.Transport{
			Base: script(answers(503, ""), answers(200, "")), Policy: every(time.Second), Trace: steadyotel.New(steadyotel.Config{MeterProvider: meters}),
		})
		s := &sdk{reader: reader}
		all := s.collect(t)
		if _, there := all["steadyhttp.retry.delay"]; there {
			t.Error("it was not dropped")
		}
		if points := all["steadyhttp.wait.duration"].Data.(metricdata.Histogram[float64]).DataPoints; len(points) != 1 || len(points[0].Bounds) != 5 {
			t.Errorf("%+v", points)
		}
	})
}

// The page maps each field that Log and an error in a log write.
func TestDocsMapTheLogsFields(t *testing.T) {
	page, err := os.ReadFile("../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, file := range []string{"../log.go", "../error.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	found := 0
	for _, call := range []string{`slog.String("`, `slog.Int("`, `slog.Float64("`, `slog.Duration("`, `slog.Bool("`, `slog.Any("`} {
		for _, part := range strings.Split(string(source), call)[1:] {
			field, _, _ := strings.Cut(part, `"`)
			if found++; !strings.Contains(string(page), "\n| `"+field+"` | ") {
				t.Errorf("the page does not map %q", field)
			}
		}
	}
	if found < 9 {
		t.Errorf("found only %d fields", found)
	}
	if strings.Contains(string(source), `slog.Duration("`) {
		t.Error("a duration that is not in seconds")
	}
}
