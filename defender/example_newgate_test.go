package defender_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// NewGate is given the ready quota of each family that is called: to keep its snapshot over a
// restart, to set its other fields, or to put a gate in its place that processes share.
func ExampleConfig_newGate() {
	server := defendertest.NewServer(defendertest.Config{}) // in the place of https://api.security.microsoft.com
	defer server.Close()
	host := server.URL[len("http://"):]

	saved := map[string][]byte{} // by key: a directory, in a program
	run := func(calls int) {
		var mu sync.Mutex
		quotas := map[string]*quota.Quota{}
		transport, err := defender.New(defender.Config{
			Hosts: []string{host},
			NewGate: func(key string, q *quota.Quota) steadyhttp.Gate {
				mu.Lock()
				defer mu.Unlock()
				q.MaxQueue = 1000
				var snapshot quota.Snapshot
				if json.Unmarshal(saved[key], &snapshot) == nil {
					if err := q.Restore(snapshot); err != nil {
						q.Start = quota.Spent // damaged
					}
				}
				quotas[key] = q
				return q
			},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		client := &http.Client{Transport: transport}
		for range calls {
			resp, err := client.Get(server.URL + "/api/machines")
			if err != nil {
				fmt.Println(err)
				return
			}
			resp.Body.Close()
		}
		for family, state := range defender.Quotas(transport) {
			fmt.Println(family, state.Windows[0].Used, "of", state.Windows[0].N, "used")
		}
		for key, q := range quotas {
			saved[key], _ = json.Marshal(q.Snapshot())
		}
	}
	run(3)
	run(2) // a new process
	// Output:
	// machines 3 of 100 used
	// machines 5 of 100 used
}
