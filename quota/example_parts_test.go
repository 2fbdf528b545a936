package quota_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// A new process goes on where the one before left off. Start says what to take for sent where the
// snapshot is missing, or was taken some time before the end.
func ExampleQuota_Restore() {
	windows := []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}
	before := &quota.Quota{Windows: windows}
	for range 60 {
		pass, err := before.Enter(context.Background(), steadyhttp.Attempt{})
		if err != nil {
			fmt.Println(err)
			return
		}
		pass.Leave(steadyhttp.Attempt{Sent: time.Now(), Response: &http.Response{StatusCode: http.StatusOK}})
	}
	saved, err := json.Marshal(before.Snapshot()) // into a file, as the process ends
	if err != nil {
		fmt.Println(err)
		return
	}

	after := &quota.Quota{Windows: windows}
	var snapshot quota.Snapshot
	if err := json.Unmarshal(saved, &snapshot); err != nil {
		fmt.Println(err)
		return
	}
	if err := after.Restore(snapshot); err != nil {
		fmt.Println(err) // damaged: go on with a new Quota whose Start is quota.Spent
		return
	}
	fmt.Println("used:", after.State().Windows[0].Used)
	fmt.Println("a Quota that knows nothing, to be careful:",
		(&quota.Quota{Windows: windows, Start: quota.Spent}).State().Windows[0].Free, "free")
	// Output:
	// used: 60
	// a Quota that knows nothing, to be careful: 0 free
}

// How long will the night's batch take, and what does a reserve cost it?
func ExampleEstimate() {
	fmt.Println(quota.Estimate([]quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}, 10_000))
	fmt.Println(quota.Estimate([]quota.Window{{N: 90, Per: time.Minute}, {N: 1350, Per: time.Hour}}, 10_000))
	// Output:
	// 6h9m0s
	// 7h6m0s
}

// A call that has 20 requests in it takes 20 places. One that would have to wait longer than MaxWait
// is refused at once, and says for how long.
func ExampleQuota_maxWait() {
	gate := &quota.Quota{
		Windows: []quota.Window{{N: 50, Per: time.Hour}},
		MaxWait: time.Minute,
		Weight: func(req *http.Request) int {
			if req.URL.Path == "/$batch" {
				return 20
			}
			return 1
		},
	}
	req, err := http.NewRequest(http.MethodPost, "https://graph.microsoft.com/$batch", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for n := 1; n <= 3; n++ {
		pass, err := gate.Enter(context.Background(), steadyhttp.Attempt{Request: req})
		if refusal, ok := errors.AsType[*steadyhttp.Refusal](err); ok {
			fmt.Println("batch", n, "in", refusal.Wait.Round(time.Hour))
			return
		}
		pass.Leave(steadyhttp.Attempt{Sent: time.Now(), Response: &http.Response{StatusCode: http.StatusOK}})
	}
	// Output: batch 3 in 1h0m0s
}
