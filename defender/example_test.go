package defender_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// One call makes a Transport ready for Defender.
func Example() {
	server := defendertest.NewServer(defendertest.Config{}) // in the place of https://api.security.microsoft.com
	defer server.Close()

	client := &http.Client{Transport: defender.New(defender.Config{})}
	resp, err := client.Post(server.URL+"/api/machines/m0001/runAntiVirusScan", "application/json",
		strings.NewReader(`{"comment":"check it", "ScanType":"Quick"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	if e, ok := errors.AsType[*steadyhttp.ServiceError](steadyhttp.Check(resp)); ok {
		fmt.Println(e.Code, e.StatusCode, e.Message)
		fmt.Println("has a tracking ID:", e.Target != "")
	}
	// Output:
	// InvalidRequestBody 400 Request body is incorrect (body parameters are case-sensitive)
	// has a tracking ID: true
}
