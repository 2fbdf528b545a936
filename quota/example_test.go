package quota_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Two limits hold at once. A call that can't be sent before its deadline is refused at once, and says how long to put it off.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()

	gate := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Minute}, {N: 1500, Per: time.Hour}}}
	client := &http.Client{Transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{gate}}}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for n := 1; ; n++ {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		resp, err := client.Do(req)
		if e, ok := errors.AsType[*steadyhttp.Error](err); ok && errors.Is(err, quota.ErrDeadline) {
			fmt.Printf("call %d: try again in %v\n", n, e.Wait.Round(time.Minute))
			return
		}
		resp.Body.Close()
	}
	// Output: call 4: try again in 1m0s
}

// An urgent call passes those that wait, and uses what the reserve has kept for it.
func ExampleWithPriority() {
	gate := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}, Reserve: 0.1}
	nightly := context.Background()
	urgent := quota.WithPriority(nightly, quota.High)

	for range 90 {
		pass, err := gate.Enter(nightly, steadyhttp.Attempt{})
		if err != nil {
			fmt.Println(err)
			return
		}
		pass.Leave(steadyhttp.Attempt{Response: &http.Response{StatusCode: 200}})
	}
	soon, cancel := context.WithTimeout(nightly, time.Second)
	defer cancel()
	_, err := gate.Enter(soon, steadyhttp.Attempt{})
	fmt.Println("nightly:", errors.Is(err, quota.ErrDeadline))
	_, err = gate.Enter(urgent, steadyhttp.Attempt{})
	fmt.Println("urgent:", err)
	// Output:
	// nightly: true
	// urgent: <nil>
}
