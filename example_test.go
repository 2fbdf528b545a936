package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
)

// scripted starts a server that answers each request by the next of the given lines, "status body", the last for ever.
func scripted(lines ...string) *httptest.Server {
	var mu sync.Mutex
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		line := lines[0]
		if len(lines) > 1 {
			lines = lines[1:]
		}
		var status int
		fmt.Sscanf(line, "%d", &status)
		_, body, _ := strings.Cut(line, " ")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
}

// immediately retries without a wait, so that the examples do not take your time.
func immediately() backoff.BackOff { return &backoff.ZeroBackOff{} }

// The zero value is ready to use.
func Example() {
	server := scripted(`200 [{"id":"m0001"}]`)
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{}}
	resp, err := client.Get(server.URL + "/api/machines")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s", body)
	// Output: [{"id":"m0001"}]
}

// A final answer is returned as it came. Check makes an error of it, with the code and the tracking ID that the
// service's support asks for.
func ExampleCheck() {
	server := scripted(`404 {"error":{"code":"ResourceNotFound","message":"Machine 123123123 was not found","target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`)
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{}}
	resp, err := client.Get(server.URL + "/api/machines/123123123")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	err = steadyhttp.Check(resp)
	fmt.Println(err)
	if e, ok := errors.AsType[*steadyhttp.Error](err); ok {
		fmt.Println(e.Code, e.StatusCode, e.TrackingID)
	}
	// Output:
	// steadyhttp: ResourceNotFound (404) after 1 attempt, tracking ID 43f4cb08-8fac-4b65-9db1-745c2ae65f3a: Machine 123123123 was not found
	// ResourceNotFound 404 43f4cb08-8fac-4b65-9db1-745c2ae65f3a
}

// Rules know the codes of a service of your own.
func ExampleRules() {
	rules := &steadyhttp.Rules{
		ByCode:   map[string]steadyhttp.Class{"LockHeld": steadyhttp.Transient},
		ByStatus: map[int]steadyhttp.Class{http.StatusBadGateway: steadyhttp.Permanent},
	}
	if err := rules.Validate(); err != nil {
		fmt.Println(err)
		return
	}
	server := scripted(`409 {"error":{"code":"LockHeld","message":"try later","target":"43f4cb08-8fac-4b65"}}`, `200 done`)
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{
		Classify: rules.Classify,
		Policy:   steadyhttp.Policy{NewBackOff: immediately},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	a, _ := steadyhttp.AttemptOf(resp)
	fmt.Println(resp.StatusCode, "at attempt", a.N)
	// Output: 200 at attempt 2
}

// A limiter of golang.org/x/time/rate is a gate that all calls pass, retries included. A call whose deadline comes before
// its turn is refused at once.
func ExampleLimit() {
	server := scripted("200 fine")
	defer server.Close()

	// 90 a minute and bursts of 10: never more than 100 in any minute.
	limiter := rate.NewLimiter(rate.Every(time.Minute/90), 10)
	client := &http.Client{Transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{steadyhttp.Limit(limiter)}}}

	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	for n := 1; ; n++ {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println("call", n, "was refused:", errors.Is(err, steadyhttp.ErrNotSent))
			return
		}
		resp.Body.Close()
	}
	// Output: call 11 was refused: true
}

// Prepare runs after all waiting, so that its token is fresh. When the service says 401, it is asked once more.
func ExampleTransport_prepare() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer fresh" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, "let in")
	}))
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{
		Prepare: func(req *http.Request, prev *steadyhttp.Attempt) error {
			token := "stale"
			if prev != nil && prev.Verdict.Class == steadyhttp.Unauthorized {
				token = "fresh" // fetch a new one, whatever the cache says
			}
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s", body)
	// Output: let in
}

// A batch would rather wait than lose an item: for its budget, and for as long as an hourly quota makes it.
func ExampleBatch() {
	server := scripted("503 ", "503 ", "503 ", "503 ", "503 ", "200 fine")
	defer server.Close()

	policy := steadyhttp.Batch()
	policy.NewBackOff = immediately
	client := &http.Client{Transport: &steadyhttp.Transport{Policy: policy}}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	a, _ := steadyhttp.AttemptOf(resp)
	fmt.Println(resp.StatusCode, "at attempt", a.N)
	// Output: 200 at attempt 6
}

// WithPolicy changes the policy for one call.
func ExampleWithPolicy() {
	server := scripted("503 ")
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{}}
	ctx := steadyhttp.WithPolicy(context.Background(), func(p *steadyhttp.Policy) { p.MaxAttempts = 1 })
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(steadyhttp.Check(resp))
	// Output: steadyhttp: Service Unavailable (503) after 1 attempt, no attempts left
}

// A Trace is told what happens: here, why each attempt was not the last.
func ExampleTrace() {
	server := scripted(`500 {"error":{"code":"InternalServerError","message":"","target":"43f4cb08-8fac-4b65"}}`, "200 fine")
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{
		Policy: steadyhttp.Policy{NewBackOff: immediately},
		Trace: &steadyhttp.Trace{
			AttemptDone: func(_ context.Context, a steadyhttp.Attempt) {
				fmt.Printf("attempt %d: %v %s %s %q\n", a.N, a.Verdict.Class, a.Verdict.Code, a.Verdict.TrackingID, a.Stop)
			},
		},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	// Output:
	// attempt 1: transient InternalServerError 43f4cb08-8fac-4b65 ""
	// attempt 2: success   "done"
}

// Log writes retries at Debug and calls that fail at Warn.
func ExampleLog() {
	server := scripted(`403 {"error":{"code":"Forbidden","message":"no","target":"43f4cb08-8fac-4b65"}}`)
	defer server.Close()

	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "url" { // these change from run to run
				return slog.Attr{}
			}
			return a
		},
	}))
	client := &http.Client{Transport: &steadyhttp.Transport{Trace: steadyhttp.Log(logger)}}
	resp, err := client.Get(server.URL + "/api/machines?key=secret")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	// Output: level=WARN msg="giving up" method=GET attempt=1 status=403 code=Forbidden tracking_id=43f4cb08-8fac-4b65 stop=permanent
}
