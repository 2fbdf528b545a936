package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
)

// PerKey keeps a gate for each tenant, here a limiter: what one of them has used up, another has
// not.
func ExamplePerKey() {
	server := scripted("200 fine")
	defer server.Close()

	tenants := &steadyhttp.PerKey{
		Key: func(req *http.Request) string { return req.Header.Get("X-Tenant") },
		New: func(tenant string) steadyhttp.Gate {
			return steadyhttp.Limit(rate.NewLimiter(rate.Every(time.Minute), 2))
		},
	}
	client := &http.Client{Transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{tenants}}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, tenant := range []string{"contoso", "contoso", "contoso", "fabrikam"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set("X-Tenant", tenant)
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(tenant, "refused:", errors.Is(err, steadyhttp.ErrNotSent))
			continue
		}
		resp.Body.Close()
		fmt.Println(tenant, resp.StatusCode)
	}
	// Output:
	// contoso 200
	// contoso 200
	// contoso refused: true
	// fabrikam 200
}

// Two Transports that call one service share a Budget, and so does a program that sends extra
// requests on its own. Once it is spent, a failure is final at once.
func ExampleBudget() {
	server := scripted("503 ")
	defer server.Close()

	budget := &steadyhttp.Budget{Max: 3, PerSecond: -1} // three retries on credit, then one for ten successes
	policy := steadyhttp.Policy{Budget: budget, NewBackOff: immediately}
	reads := &http.Client{Transport: &steadyhttp.Transport{Policy: policy}}
	others := &http.Client{Transport: &steadyhttp.Transport{Policy: policy}}
	for _, client := range []*http.Client{reads, others} {
		resp, err := client.Get(server.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(steadyhttp.Check(resp))
	}
	req := httptest.NewRequest(http.MethodGet, server.URL, nil)
	fmt.Println("a hedge may be sent:", budget.Take(req))
	// Output:
	// steadyhttp: Service Unavailable (503) after 4 attempts, no attempts left
	// steadyhttp: Service Unavailable (503) after 1 attempt, budget spent
	// a hedge may be sent: false
}

// WithTrace looks at one call, also where an SDK hides the response: how often was it sent, and why
// not again?
func ExampleWithTrace() {
	server := scripted("503 ", `404 {"error":{"code":"ResourceNotFound","message":"no","target":"43f4cb08-8fac-4b65"}}`)
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{NewBackOff: immediately}}}
	var last steadyhttp.Attempt
	ctx := steadyhttp.WithTrace(context.Background(), &steadyhttp.Trace{
		Done: func(_ context.Context, a steadyhttp.Attempt) { last = a },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close() // Done is told at the body's end
	fmt.Println(last.N, "attempts,", last.Stop, last.Verdict.Code, last.Verdict.TrackingID)
	// Output: 2 attempts, permanent ResourceNotFound 43f4cb08-8fac-4b65
}

// A body of unknown length cannot be sent again, unless MaxBuffer has it recorded as it is sent.
func ExamplePolicy_maxBuffer() {
	for _, maxBuffer := range []int64{0, 1 << 20} {
		server := scripted("429 ", "200 stored")
		client := &http.Client{Transport: &steadyhttp.Transport{
			Policy: steadyhttp.Policy{MaxBuffer: maxBuffer, NewBackOff: immediately},
		}}
		body := io.MultiReader(bytes.NewReader([]byte("a pipe, ")), bytes.NewReader([]byte("or a form")))
		resp, err := client.Post(server.URL, "text/plain", body)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		a, _ := steadyhttp.AttemptOf(resp)
		fmt.Printf("MaxBuffer %d: %d at attempt %d, %s\n", maxBuffer, resp.StatusCode, a.N, a.Stop)
		server.Close()
	}
	// Output:
	// MaxBuffer 0: 429 at attempt 1, body_not_replayable
	// MaxBuffer 1048576: 200 at attempt 2, done
}

// An order of which nobody knows whether it was carried out is not sent again, but for those who say
// that twice does no harm.
func ExamplePolicy_idempotent() {
	server := scripted("500 ", "200 found")
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{Policy: steadyhttp.Policy{
		NewBackOff: immediately,
		Idempotent: func(req *http.Request) bool {
			return req.Method == http.MethodGet || req.URL.Path == "/search" // a POST that only reads
		},
	}}}
	for _, path := range []string{"/orders", "/search"} {
		resp, err := client.Post(server.URL+path, "application/json", bytes.NewReader([]byte("{}")))
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(path, resp.StatusCode, steadyhttp.Check(resp))
	}
	// Output:
	// /orders 500 steadyhttp: Internal Server Error (500) after 1 attempt, not idempotent
	// /search 200 <nil>
}

// Two variants of a Transport spend one quota and one budget.
func ExampleTransport_Clone() {
	patient := &steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(rate.NewLimiter(90, 10))}}
	quick := patient.Clone()
	quick.Policy.MaxAttempts = 1
	fmt.Println(quick.Gates[0] == patient.Gates[0], patient.Policy.MaxAttempts)
	// Output: true 0
}

// RedactError is for errors of http.Client, whose texts have the whole URL.
func ExampleRedactError() {
	_, err := http.Get("htps://api.example/search?apikey=secret")
	fmt.Println(steadyhttp.RedactError(err))
	// Output: Get "htps://api.example/search?apikey=REDACTED": unsupported protocol scheme "htps"
}
