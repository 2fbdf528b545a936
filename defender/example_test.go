package defender_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// One call makes a Transport ready for Defender.
func Example() {
	server := defendertest.NewServer(defendertest.Config{}) // in the place of https://api.security.microsoft.com
	defer server.Close()

	transport, err := defender.New(server.Defender()) // to the service itself: defender.Config{Token: …}
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: transport}
	resp, err := client.Post(server.URL+"/api/machines/m0001/runAntiVirusScan", "application/json",
		strings.NewReader(`{"comment":"check it", "ScanType":"Quick"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	if e, ok := errors.AsType[*steadyhttp.Error](steadyhttp.Check(resp)); ok {
		fmt.Println(e.Code, e.StatusCode, e.Message)
		fmt.Println("has a tracking ID:", e.TrackingID != "")
	}
	// Output:
	// InvalidRequestBody 400 Request body is incorrect (body parameters are case-sensitive)
	// has a tracking ID: true
}

// oauth2Token and clientCredentials stand for Token of golang.org/x/oauth2 and for Config of its package clientcredentials,
// which the examples do without.
type (
	oauth2Token struct {
		AccessToken string
		Expiry      time.Time
	}
	clientCredentials struct{}
)

func (clientCredentials) Token(context.Context) (*oauth2Token, error) {
	return &oauth2Token{"from-oauth2", time.Now().Add(time.Hour)}, nil
}

// The Token method of clientcredentials.Config fetches a token each time. That of its TokenSource would not do: it caches,
// and returns a token again that the service has refused.
func ExampleTokenFrom() {
	ctx := context.Background()
	app := clientCredentials{} // clientcredentials.Config{…, Scopes: []string{defender.Commercial.MDE().Scope}}

	fetch := func() (*oauth2Token, error) { return app.Token(ctx) }
	transport, err := defender.New(defender.Config{
		Token: defender.TokenFrom(fetch, func(t *oauth2Token) (string, time.Time) { return t.AccessToken, t.Expiry }),
		Base:  authorizationEcho{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: transport}
	fmt.Println(get(client, defender.Commercial.MDE().Base+"/api/machines"))
	// Output: Bearer from-oauth2
}

// accessToken, tokenRequestOptions and credential stand for AccessToken and TokenRequestOptions of azcore and for a credential
// of azidentity.
type (
	accessToken struct {
		Token     string
		ExpiresOn time.Time
	}
	tokenRequestOptions struct {
		Scopes []string
		Claims string
	}
	credential struct{}
)

func (credential) GetToken(_ context.Context, o tokenRequestOptions) (accessToken, error) {
	return accessToken{"for-" + o.Scopes[0], time.Now().Add(time.Hour)}, nil
}

// A credential of azidentity needs no help, since its tokens are no pointers.
func ExampleTokenFunc() {
	cred := credential{} // azidentity.NewDefaultAzureCredential(nil)
	options := tokenRequestOptions{Scopes: []string{defender.GCC.MDE().Scope}}

	transport, err := defender.New(defender.Config{
		Cloud: defender.GCC,
		Token: func(ctx context.Context) (string, time.Time, error) {
			t, err := cred.GetToken(ctx, options)
			return t.Token, t.ExpiresOn, err
		},
		Base: authorizationEcho{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: transport}
	fmt.Println(get(client, defender.GCC.MDE().Base+"/api/machines"))
	// The token is for Defender alone.
	fmt.Println(get(client, "https://example.com/"))
	// Output:
	// Bearer for-https://api-gcc.securitycenter.microsoft.us/.default
	// no authorization
}

// Graph has hosts, scopes, codes and limits of its own, in each cloud.
func Example_graph() {
	cred := credential{} // azidentity.NewDefaultAzureCredential(nil)
	cloud := defender.GCCHigh

	transport, err := defender.New(defender.Config{
		API:   defender.Graph,
		Cloud: cloud,
		Token: func(ctx context.Context) (string, time.Time, error) {
			// What a service wants of the next token, after a 401 that says so, is in ctx.
			t, err := cred.GetToken(ctx, tokenRequestOptions{Scopes: []string{cloud.Graph().Scope}, Claims: defender.Claims(ctx)})
			return t.Token, t.ExpiresOn, err
		},
		Base: authorizationEcho{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: transport}
	fmt.Println(get(client, cloud.Graph().Base+"/v1.0/security/incidents?$top=50"))
	// Output: Bearer for-https://graph.microsoft.us/.default
}

// A program that shares its application with another one takes half of the quota for machines, knows better than the
// documentation what its tenant may hunt, and keeps a tenth of everything for what is urgent.
func ExampleConfig() {
	transport, err := defender.New(defender.Config{
		Policy: steadyhttp.Batch(),
		Quotas: map[string][]quota.Window{
			"machines/{id}":       {{N: 50, Per: time.Minute}, {N: 750, Per: time.Hour}},
			"advancedhunting/run": {{N: 90, Per: time.Minute}},
		},
		Reserve: 0.1,
		Base:    authorizationEcho{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: transport}
	urgent := quota.WithPriority(context.Background(), quota.High)
	req, err := http.NewRequestWithContext(urgent, http.MethodPost, defender.Commercial.MDE().Base+"/api/machines/m1/isolate",
		strings.NewReader(`{"Comment":"Alert 1234","IsolationType":"Full"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output: 200
}

// The table is data: how large may a batch be, and how many may there be?
func ExampleEndpoints() {
	for _, e := range defender.Endpoints() {
		if e.MaxBatch > 0 {
			fmt.Println(e.MaxBatch, e.Method, e.Path, e.Windows)
		}
	}
	// Output:
	// 500 POST machines/AddOrRemoveTagForMultipleMachines [{100 1m0s} {1500 1h0m0s}]
	// 500 POST indicators/import [{30 1m0s}]
	// 500 POST indicators/BatchDelete [{30 1m0s} {1500 1h0m0s}]
}

// authorizationEcho is a service that answers each request with its Authorization.
type authorizationEcho struct{}

func (authorizationEcho) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	said := req.Header.Get("Authorization")
	if said == "" {
		said = "no authorization"
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(said)), Request: req}, nil
}

func get(client *http.Client, target string) string {
	resp, err := client.Get(target)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
