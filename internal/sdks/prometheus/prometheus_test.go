package prometheus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestPrometheus asks a query, a POST that the SDK says is idempotent by an Idempotency-Key that it
// doesn't send, and the values of a label.
func TestPrometheus(t *testing.T) {
	query := "up{job=~\"" + strings.Repeat("node|", 20_000) + "\"}"
	sdk := bed.SDK{
		Busy: "server_error", Missing: "client_error", Serve: serve, Typed: typed,
		Own: func([]int, bool) int { return 0 }, // it has no retries
	}

	ask := sdk
	ask.Name, ask.Answer = "Query", "42"
	ask.Body = []byte(url.Values{"query": {query}}.Encode())
	ask.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, _ bool) (string, error) {
		value, _, _, err := client(t, base, url).Query(ctx, query, time.Time{})
		if err != nil {
			return "", err
		}
		_, number, _ := strings.Cut(value.String(), ": ")
		number, _, _ = strings.Cut(number, " ")
		return number, nil
	}

	read := sdk
	read.Name, read.Answer = "LabelValues", "[node]"
	read.Call = func(t *testing.T, ctx context.Context, base http.RoundTripper, url string, _ bool) (string, error) {
		values, _, _, err := client(t, base, url).LabelValues(ctx, "job", nil, time.Time{}, time.Time{})
		if err != nil {
			return "", err
		}
		return fmt.Sprint(values), nil
	}
	bed.Run(t, ask, read)
}

func client(t *testing.T, base http.RoundTripper, url string) v1.API {
	c, err := api.NewClient(api.Config{Address: url, Client: &http.Client{Transport: base}})
	if err != nil {
		t.Fatal(err)
	}
	return v1.NewAPI(c)
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	switch {
	case f != nil:
		w.WriteHeader(f.Status)
		io.WriteString(w, f.Message)
	case strings.HasSuffix(r.URL.Path, "/query"):
		io.WriteString(w, `{"status":"success","data":{"resultType":"scalar","result":[0,"42"]}}`)
	default:
		io.WriteString(w, `{"status":"success","data":["node"]}`)
	}
}

func typed(err error) (status int, code, message string) {
	e, ok := errors.AsType[*v1.Error](err)
	if !ok {
		return 0, "", ""
	}
	_, number, _ := strings.Cut(e.Msg, "error: ")
	fmt.Sscan(number, &status)
	return status, string(e.Type), e.Detail
}
