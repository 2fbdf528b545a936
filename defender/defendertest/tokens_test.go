package defendertest_test

import (
	"encoding/base64"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

const (
	tokenPath = "/contoso.example/oauth2/v2.0/token"
	formType  = "application/x-www-form-urlencoded"
	scope     = "https://api.securitycenter.microsoft.com/.default"
)

// grant is the form that a client sends. Pairs of name and value change it.
func grant(changes ...string) string {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"app"}, "client_secret": {"hidden"}, "scope": {scope},
	}
	for i := 0; i < len(changes); i += 2 {
		form.Set(changes[i], changes[i+1])
	}
	return form.Encode()
}

type issued struct {
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"`
	AccessToken string `json:"access_token"`
}

// fetch gets a token without a socket.
func fetch(t *testing.T, s *defendertest.Server, changes ...string) issued {
	t.Helper()
	r := httptest.NewRequest("POST", tokenPath, strings.NewReader(grant(changes...)))
	r.Header.Set("Content-Type", formType)
	w := newRecorder()
	s.ServeHTTP(w, r)
	got := decode[issued](t, newReply(w.Result(), w.Body.Bytes()).want(t, 200, ""))
	if got.TokenType != "Bearer" || got.AccessToken == "" {
		t.Fatalf("got %+v", got)
	}
	return got
}

func clients() map[string]string { return map[string]string{"app": "hidden", "other": "secret"} }

// Over real HTTP: a token is fetched, used, and told as what it is.
func TestTokenEndpoint(t *testing.T) {
	s := start(t, defendertest.Config{Clients: clients()})
	call(t, s, "GET", "/api/machines", "").want(t, 401, "Unauthorized")
	r := call(t, s, "POST", tokenPath, grant(), "Content-Type", formType).want(t, 200, "")
	got := decode[issued](t, r)
	if got.ExpiresIn != 3599 || got.TokenType != "Bearer" {
		t.Errorf("got %s", r.body)
	}
	call(t, s, "GET", "/api/machines", "", "Authorization", "Bearer "+got.AccessToken).want(t, 200, "")
	parts := strings.Split(got.AccessToken, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, claim := range []string{`"aud":"https://api.securitycenter.microsoft.com"`, `"tid":"contoso.example"`, `"appid":"app"`} {
		if !strings.Contains(string(payload), claim) {
			t.Errorf("no claim %s in %s", claim, payload)
		}
	}
	if n := s.TokensIssued(); n != 1 {
		t.Errorf("%d tokens were issued, want 1", n)
	}
	if c := s.Calls()[1]; c.Family != "token" || c.Status != 200 || !c.Processed || c.RawQuery != "" {
		t.Errorf("the ledger says %+v", c)
	}
}

func TestTokenRefusals(t *testing.T) {
	s := start(t, defendertest.Config{Clients: clients()})
	for _, test := range []struct {
		form   string
		status int
		name   string
		code   string
	}{
		{grant("client_secret", "wrong"), 401, "invalid_client", "AADSTS7000215"},
		{grant("client_id", "nobody"), 400, "unauthorized_client", "AADSTS700016"},
		{grant("grant_type", "password"), 400, "unsupported_grant_type", "AADSTS70003"},
		{grant("scope", "https://api.securitycenter.microsoft.com"), 400, "invalid_scope", "AADSTS1002012"},
		{grant("client_id", ""), 400, "invalid_request", "AADSTS900144"},
		{grant("scope", ""), 400, "invalid_request", "AADSTS900144"},
		{"%zz", 400, "invalid_request", "AADSTS9000411"},
		{"", 400, "invalid_request", "AADSTS900144"},
	} {
		r := call(t, s, "POST", tokenPath, test.form, "Content-Type", formType)
		got := decode[struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}](t, reply{body: r.body})
		if r.status != test.status || got.Error != test.name || !strings.HasPrefix(got.Description, test.code+": ") {
			t.Errorf("%s: got %d %s", test.form, r.status, r.body)
		}
		if c := last(t, s); c.Code != test.name || c.Processed {
			t.Errorf("the ledger says %+v", c)
		}
	}
	if r := call(t, s, "GET", tokenPath, ""); r.status != 400 {
		t.Errorf("a GET is answered %d", r.status)
	}
	if n := s.TokensIssued(); n != 0 {
		t.Errorf("%d tokens were issued", n)
	}
}

// A token dies at its time, and not before.
func TestTokenExpires(t *testing.T) {
	for _, test := range []struct {
		config defendertest.Config
		life   time.Duration
		told   int
	}{
		{defendertest.Config{}, time.Hour, 3599},
		{defendertest.Config{Hour: 10 * time.Second}, 10 * time.Second, 9},
		{defendertest.Config{Hour: 10 * time.Second, TokenLife: 1500 * time.Millisecond}, 1500 * time.Millisecond, 1},
		{defendertest.Config{TokenLife: 50 * time.Millisecond}, 50 * time.Millisecond, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			test.config.Clients = clients()
			s := defendertest.NewUnstartedServer(test.config)
			token := fetch(t, s)
			if token.ExpiresIn != test.told {
				t.Errorf("expires_in is %d, want %d", token.ExpiresIn, test.told)
			}
			time.Sleep(test.life - 1)
			authorized(s, token.AccessToken, "GET", "/api/machines", "").want(t, 200, "")
			time.Sleep(time.Nanosecond)
			authorized(s, token.AccessToken, "GET", "/api/machines", "").want(t, 401, "Unauthorized")
			authorized(s, fetch(t, s).AccessToken, "GET", "/api/machines", "").want(t, 200, "")
			if n := s.TokensIssued(); n != 2 {
				t.Errorf("%d tokens were issued, want 2", n)
			}
		})
	}
}

func TestTokenOfAnotherServer(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{Clients: clients(), Token: "fixed"})
	token := fetch(t, s).AccessToken
	stranger := fetch(t, defendertest.NewUnstartedServer(defendertest.Config{Clients: clients()})).AccessToken
	for _, wrong := range []string{stranger, "", "x", "a.b.c", token + "x", token[1:], strings.ToUpper(token)} {
		authorized(s, wrong, "GET", "/api/machines", "").want(t, 401, "Unauthorized")
	}
	authorized(s, token, "GET", "/api/machines", "").want(t, 200, "")
	authorized(s, "fixed", "GET", "/api/machines", "").want(t, 200, "")
}

// Without Clients a connector that insists on a token gets one, whoever it is.
func TestTokenForEverybody(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	authorized(s, fetch(t, s, "client_id", "anybody").AccessToken, "GET", "/api/machines", "").want(t, 200, "")
	direct(s, "GET", "/api/machines", "").want(t, 200, "")
}

// A quota is the application's, and hunting's is the tenant's.
func TestTokenApplicationsHaveQuotasOfTheirOwn(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{
		Clients: clients(),
		Quotas:  map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}, "advancedqueries/run": {{N: 1, Per: time.Minute}}},
	})
	one, two := fetch(t, s).AccessToken, fetch(t, s, "client_id", "other", "client_secret", "secret").AccessToken
	authorized(s, one, "GET", "/api/machines", "").want(t, 200, "")
	authorized(s, one, "GET", "/api/machines", "").want(t, 429, "429")
	authorized(s, fetch(t, s).AccessToken, "GET", "/api/machines", "").want(t, 429, "429") // a new token is the same application
	authorized(s, two, "GET", "/api/machines", "").want(t, 200, "")
	authorized(s, one, "POST", "/api/advancedqueries/run", `{"Query":"x"}`).want(t, 200, "")
	authorized(s, two, "POST", "/api/advancedqueries/run", `{"Query":"x"}`).want(t, 429, "429")
}

// The refusal looks as that of a token, but no token helps.
func TestNoLicence(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{Clients: clients(), NoLicence: true})
	for range 2 {
		authorized(s, fetch(t, s).AccessToken, "GET", "/api/machines", "").want(t, 401, "Unauthorized").
			wantMessage(t, "Unauthorized request - reason of failure: No Tvm license")
	}
	direct(s, "GET", "/api/machines", "").want(t, 401, "Unauthorized").wantMessage(t, "Invalid or expired authorization header")
}

// The endpoint's 429 is plain text, and the other faults leave it alone.
func TestFaultToken429(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{Token429: 1}})
	r := call(t, s, "POST", tokenPath, grant(), "Content-Type", formType)
	if r.status != 429 || string(r.body) != "Too Many Requests" || r.header.Get("Retry-After") != "60" ||
		!strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
		t.Errorf("got %d %q with %v", r.status, r.body, r.header)
	}
	if c := last(t, s); c.Fault != "Token429" || c.Status != 429 || s.TokensIssued() != 0 {
		t.Errorf("the ledger says %+v", c)
	}
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	s.SetFaults(defendertest.Faults{Error503: 1})
	call(t, s, "POST", tokenPath, grant(), "Content-Type", formType).want(t, 200, "")
	scaled := start(t, defendertest.Config{Minute: 1500 * time.Millisecond, Faults: defendertest.Faults{Token429: 1}})
	if r := call(t, scaled, "POST", tokenPath, grant(), "Content-Type", formType); r.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After is %s", r.header.Get("Retry-After"))
	}
}

// Entra takes the application and its secret in the Authorization field too, where the form has
// neither; x/oauth2 tries that first.
func TestTokenByBasicAuthorization(t *testing.T) {
	s := start(t, defendertest.Config{Clients: map[string]string{"app": "p%20 s+/="}})
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}
	for _, test := range []struct {
		id, secret string
		status     int
	}{
		{"app", url.QueryEscape("p%20 s+/="), 200},
		{"app", "wrong", 401},
		{"nobody", "secret", 400},
		{"", "", 400},
	} {
		field := "Basic " + base64.StdEncoding.EncodeToString([]byte(test.id+":"+test.secret))
		call(t, s, "POST", tokenPath, form.Encode(), "Content-Type", formType, "Authorization", field).want(t, test.status, "")
	}
	both := "Basic " + base64.StdEncoding.EncodeToString([]byte("nobody:wrong"))
	call(t, s, "POST", tokenPath, grant("client_secret", "p%20 s+/="), "Content-Type", formType, "Authorization", both).
		want(t, 200, "")
}
