package defender_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// spent is a 429 for processor time, which names no time.
const spent = "Query execution was blocked: the tenant has reached 100% of the CPU resources " +
	"allocated to it."

// A hunting query that is refused without a time waits for the cycle; a time that is named anywhere
// wins, and so do words that tell of a number of calls.
func TestHuntingWaitsForTheCycle(t *testing.T) {
	const (
		graph = "https://graph.microsoft.com"
		mde   = security + "/api/advancedqueries/run"
		cycle = 15 * time.Minute
	)
	for _, c := range []struct {
		name, url string
		body      string // "": the code 429 and spent
		status    int    // 0: 429
		fields    []string
		want      time.Duration
	}{
		{name: "MDE", url: mde, want: cycle},
		{name: "MDE, version", url: security + "/api/v1.0/advancedqueries/run", want: cycle},
		{name: "MDE, letter case", url: security + "/API/AdvancedQueries/Run/", want: cycle},
		{name: "XDR", url: security + "/api/advancedhunting/run", want: cycle},
		{name: "Graph", url: graph + "/v1.0/security/runHuntingQuery", want: cycle},
		{name: "Graph, beta", url: graph + "/beta/security/runHuntingQuery", want: cycle},
		{
			name: "Graph, qualified", want: cycle,
			url: graph + "/v1.0/security/microsoft.graph.security.runHuntingQuery",
		},
		{name: "nothing in the body", url: mde, body: " ", want: cycle},
		{name: "HTML", url: mde, body: "<html>429</html>", want: cycle},
		{
			name: "another code", url: mde,
			body: envelope("TooManyRequests", "slow down"), want: cycle,
		},
		{name: "the code alone", url: mde, status: 403, want: cycle},

		{name: "a path below", url: security + "/api/advancedhunting/run/1"},
		{name: "no hunting", url: security + "/api/machines"},
		{name: "no hunting, Graph", url: graph + "/v1.0/security/alerts_v2"},
		{name: "its schema", url: security + "/api/advancedhunting/schema"},
		{name: "a fault", url: mde, status: 503, body: envelope("ServiceUnavailable", spent)},
		{name: "a refusal for good", url: mde, status: 400, body: envelope("BadRequest", spent)},

		{
			name: "shorter header", url: mde,
			fields: []string{"Retry-After: 7"}, want: 7 * time.Second,
		},
		{name: "longer header", url: mde, fields: []string{"Retry-After: 3600"}, want: time.Hour},
		{
			name: "header in milliseconds", url: mde,
			fields: []string{"Retry-After-Ms: 1500"}, want: 1500 * time.Millisecond,
		},
		{
			name: "a window's header", url: mde,
			fields: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 20"},
			want:   20 * time.Second,
		},
		{name: "an absurd header", url: mde, fields: []string{"Retry-After: soon"}, want: cycle},
		{
			name: "sentence", url: mde,
			body: envelope("429", spent+" You can send requests again in 510 seconds."),
			want: 510 * time.Second,
		},
		{
			name: "sentence and header", url: mde,
			body:   envelope("429", "again in 8 seconds."),
			fields: []string{"Retry-After: 9"},
			want:   9 * time.Second,
		},
		{
			name: "member of the body", url: mde,
			body: `{"error":{"code":"429","message":"m","target":"t"},"retryAfter":30}`,
			want: 30 * time.Second,
		},
		{
			name: "member without a code", url: mde,
			body: `{"retryAfter":30}`, want: 30 * time.Second,
		},

		{
			name: "calls a minute", url: mde,
			body: envelope("429", "API calls quota exceeded! maximum allowed 45 per 00:01:00"),
		},
		{
			name: "calls an hour", url: mde,
			body: envelope("429", "Maximum allowed 1500 per 01:00:00 for the key Destination+TenantID."),
		},
		{
			name: "per what", url: mde,
			body: envelope("429", "10 per cent per 00:15 or per tenant"), want: cycle,
		},
		{
			name: "per, cut off", url: mde,
			body: envelope("429", "maximum allowed 45 per 00:01:0"), want: cycle,
		},
	} {
		a := attempt(t, cmp.Or(c.status, 429), cmp.Or(c.body, envelope("429", spent)), c.fields...)
		if c.name == "the code alone" {
			a.Body = []byte(envelope("TooManyRequests", spent))
		}
		a.Request = request(t, t.Context(), http.MethodPost, c.url)
		if v := defender.Rules().Classify(a); v.RetryAfter != c.want {
			t.Errorf("%s: %v, a wait of %v, want %v", c.name, v.Class, v.RetryAfter, c.want)
		}
	}
	// Rules are also asked about what is no attempt of a Transport's.
	a := attempt(t, 429, envelope("429", spent))
	a.Request = nil
	if v := defender.Rules().Classify(a); v.RetryAfter != 0 || v.Class != steadyhttp.Throttled {
		t.Errorf("without a request: %+v", v)
	}
	a.Request = request(t, t.Context(), http.MethodGet, mde)
	if v := defender.Rules().Classify(a); v.RetryAfter != 0 {
		t.Errorf("a GET is no query, and waits for %v", v.RetryAfter)
	}
}

func hunt(t *testing.T, ctx context.Context) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		security+"/api/advancedqueries/run", strings.NewReader(`{"Query":"DeviceInfo"}`))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// blocked refuses all queries for a time, and answers the rest.
func blocked(until time.Time, sent *int) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		*sent++
		if time.Now().Before(until) {
			return answer(req, 429, envelope("TooManyRequests", spent))
		}
		return answer(req, 200, "{}")
	})
}

// The cycle that the tenant's time is spent in may end at once or be followed by another that is
// spent too: Batch comes back once a cycle, and gets its answer.
func TestBatchOutlastsSpentProcessorTime(t *testing.T) {
	for _, quotas := range []bool{true, false} {
		for name, c := range map[string]struct {
			block time.Duration
			sends int
		}{
			"a minute":     {time.Minute, 2},
			"a cycle":      {15 * time.Minute, 2},
			"three cycles": {45 * time.Minute, 4},
			"five hours":   {5 * time.Hour, 21},
		} {
			synctest.Test(t, func(t *testing.T) {
				began, sent := time.Now(), 0
				transport := newTransport(t, defender.Config{
					Policy: steadyhttp.Batch(), NoQuotas: !quotas,
					Base: blocked(began.Add(c.block), &sent),
				})
				resp, err := transport.RoundTrip(hunt(t, t.Context()))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				resp.Body.Close()
				took := time.Since(began)
				if resp.StatusCode != 200 || sent != c.sends {
					t.Errorf("%s, quotas %v: status %d after %d sends in %v, want %d",
						name, quotas, resp.StatusCode, sent, took, c.sends)
				}
				const cycle = 15 * time.Minute
				if took > c.block.Truncate(cycle)+cycle+5*time.Minute {
					t.Errorf("%s, quotas %v: took %v", name, quotas, took)
				}
			})
		}
	}
}

// Somebody who waits for an answer gets the 429 at once, since it asks for more than MaxWait.
func TestInteractiveHuntingIsGivenItsRefusal(t *testing.T) {
	for name, policy := range map[string]steadyhttp.Policy{
		"default":   {},
		"five":      {MaxWait: 5 * time.Minute},
		"attempts":  {MaxAttempts: 10},
		"unbounded": {MaxThrottled: -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, sent := time.Now(), 0
			transport := newTransport(t, defender.Config{
				Policy: policy, Base: blocked(began.Add(time.Hour), &sent),
			})
			resp, err := transport.RoundTrip(hunt(t, t.Context()))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			defer resp.Body.Close()
			said := steadyhttp.Check(resp)
			failure, ok := errors.AsType[*steadyhttp.Error](said)
			if !ok || failure.Stop != steadyhttp.StopWaitTooLong ||
				failure.RetryAfter != 15*time.Minute {
				t.Errorf("%s: %v", name, said)
			}
			if took := time.Since(began); sent != 1 || took != 0 {
				t.Errorf("%s: %d sends in %v", name, sent, took)
			}
		})
	}
}

// A deadline that ends before the cycle ends Batch's patience, and that at once.
func TestBatchHuntingIsRefusedBeforeADeadline(t *testing.T) {
	for name, limited := range map[string]func(*testing.T, *http.Client) context.Context{
		"http.Client.Timeout": func(t *testing.T, c *http.Client) context.Context {
			c.Timeout = 10 * time.Minute
			return t.Context()
		},
		"context": func(t *testing.T, _ *http.Client) context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			t.Cleanup(cancel)
			return ctx
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, sent := time.Now(), 0
			var stop steadyhttp.Stop
			client := &http.Client{Transport: newTransport(t, defender.Config{
				Policy: steadyhttp.Batch(), Base: blocked(began.Add(time.Minute), &sent),
				Trace: &steadyhttp.Trace{AttemptDone: func(_ context.Context, a steadyhttp.Attempt) {
					stop = a.Stop
				}},
			})}
			ctx := limited(t, client)
			resp, err := client.Do(hunt(t, ctx))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			resp.Body.Close()
			if resp.StatusCode != 429 || stop != steadyhttp.StopDeadline {
				t.Errorf("%s: status %d, %v", name, resp.StatusCode, stop)
			}
			// The next one's wait is known beforehand.
			resp, err = client.Do(hunt(t, ctx))
			if err == nil {
				resp.Body.Close()
				t.Fatalf("%s: the second query was answered %d", name, resp.StatusCode)
			}
			refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
			if !ok || refusal.Wait < 14*time.Minute || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); sent != 1 || took != 0 {
				t.Errorf("%s: %d sends in %v", name, sent, took)
			}
		})
	}
}
