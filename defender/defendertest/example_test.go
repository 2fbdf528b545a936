package defendertest_test

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// A request is carried out, but its answer is lost. The ledger knows both.
func Example() {
	server := defendertest.NewServer(defendertest.Config{Faults: defendertest.Faults{After500: 1}})
	defer server.Close()

	isolate := func() {
		resp, err := http.Post(server.URL+"/api/machines/m0007/isolate", "application/json",
			strings.NewReader(`{"Comment":"Alert 1234","IsolationType":"Full"}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	isolate()
	server.SetFaults(defendertest.Faults{})
	isolate()

	for _, call := range server.Calls() {
		fmt.Printf("%d %s: processed %t, fault %q, code %s\n", call.Seq, call.Path, call.Processed, call.Fault, call.Code)
	}
	fmt.Println(server.Effects())
	// Output:
	// 500 Internal Server Error
	// 400 Bad Request
	// 1 /api/machines/m0007/isolate: processed true, fault "After500", code InternalServerError
	// 2 /api/machines/m0007/isolate: processed false, fault "", code ActiveRequestAlreadyExists
	// map[isolate m0007:1]
}
