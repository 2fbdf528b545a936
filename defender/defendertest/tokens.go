package defendertest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// tokenFamily is the token endpoint's name in the ledger. It has no quota.
const tokenFamily = "token"

// isTokenPath knows /{tenant}/oauth2/v2.0/token and the older /{tenant}/oauth2/token, which the
// documentation's samples still use. Of which tenant doesn't matter: a server is one tenant.
func isTokenPath(path string) bool {
	tenant, ok := strings.CutSuffix(path, "/oauth2/v2.0/token")
	if !ok {
		tenant, ok = strings.CutSuffix(path, "/oauth2/token")
	}
	return ok && len(tenant) > 1 && !strings.Contains(tenant[1:], "/")
}

// An audience is the API that a token is for.
type audience uint8

const (
	audienceAny audience = iota // of Config.Token, and where no token is needed
	audienceMDE
	audienceXDR
	audienceGraph
	audienceOther
)

// takes reports whether an API takes a token. The documentation calls Defender for Endpoint by the
// host that is Defender XDR's audience; that it takes such a token too is a guess.
func (to audience) takes(a audience) bool {
	return a == audienceAny || a == to || to == audienceMDE && a == audienceXDR
}

// forMDE is the audience of one of Defender's families.
func forMDE(family string) audience {
	switch family {
	case "incidents", "incidents/{id}", "PATCH incidents/{id}", "advancedhunting/run":
		return audienceXDR
	}
	return audienceMDE
}

// audienceOf knows the audiences of the documentation, and those of public connectors.
func audienceOf(resource string) audience {
	u, err := url.Parse(resource)
	if err != nil {
		return audienceOther
	}
	name := strings.ToLower(cmp.Or(u.Hostname(), resource))
	switch {
	case name == "00000003-0000-0000-c000-000000000000",
		name == "graph.microsoft.com", name == "graph.microsoft.us", name == "dod-graph.microsoft.us":
		return audienceGraph
	case strings.HasSuffix(name, ".securitycenter.microsoft.com"),
		strings.HasSuffix(name, ".securitycenter.windows.com"),
		strings.HasSuffix(name, ".securitycenter.microsoft.us"), name == "securitycenter.onmicrosoft.com":
		return audienceMDE
	case strings.HasSuffix(name, ".security.microsoft.com"),
		strings.HasSuffix(name, ".security.microsoft.us"):
		return audienceXDR
	}
	return audienceOther
}

// tokenErrand is a fetch of a token. The documented sign-in host is another one
// than the API's; here they share one, since no client sends a token to it.
func (s *Server) tokenErrand(r *http.Request) errand {
	return errand{
		family: tokenFamily,
		admit:  admitAll,
		carryOut: func(w http.ResponseWriter, at arrival) answer {
			now := at.now
			body, err := readBody(w, r, maxBody)
			if err != nil || r.Method != http.MethodPost {
				return errGrant(http.StatusBadRequest, "invalid_request", 900144, "The request must be a POST with a form.", now)
			}
			return s.issue(r, string(body), now)
		},
		failure: apiFailure, // only a fault of the endpoint's own strikes it
	}
}

// issue answers a token to a client who knows his secret. Without Clients all
// do.
func (s *Server) issue(r *http.Request, body string, now time.Time) answer {
	form, err := url.ParseQuery(body)
	if err != nil {
		return errGrant(http.StatusBadRequest, "invalid_request", 9000411, "The request is not properly formatted.", now)
	}
	if id, secret, ok := r.BasicAuth(); ok && !form.Has("client_id") && !form.Has("client_secret") {
		// Encoded like a form's (RFC 6749 section 2.3.1). What is not, is taken as it is.
		for name, value := range map[string]string{"client_id": id, "client_secret": secret} {
			if text, err := url.QueryUnescape(value); err == nil {
				value = text
			}
			form.Set(name, value)
		}
	}
	v1 := !strings.HasSuffix(r.URL.Path, "/v2.0/token")
	asks := "scope"
	if v1 {
		asks = "resource"
	}
	for _, name := range []string{"grant_type", "client_id", "client_secret", asks} {
		if form.Get(name) == "" {
			return errGrant(http.StatusBadRequest, "invalid_request", 900144,
				"The request body must contain the following parameter: '"+name+"'.", now)
		}
	}
	if grant := form.Get("grant_type"); grant != "client_credentials" {
		return errGrant(http.StatusBadRequest, "unsupported_grant_type", 70003,
			"The app requested an unsupported grant type '"+grant+"'.", now)
	}
	// What it is for is looked at when it is used: Entra knows more APIs than these.
	audience, ok := strings.CutSuffix(form.Get(asks), "/.default")
	if !ok && !v1 {
		return errGrant(http.StatusBadRequest, "invalid_scope", 1002012,
			"The provided value for scope "+form.Get("scope")+" is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier.", now)
	}
	client := form.Get("client_id")
	secret, known := s.config.Clients[client]
	switch {
	case len(s.config.Clients) == 0:
	case !known:
		return errGrant(http.StatusBadRequest, "unauthorized_client", 700016,
			"Application with identifier '"+client+"' was not found in the directory.", now)
	case secret != form.Get("client_secret"):
		return errGrant(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided.", now)
	}
	life := s.config.tokenLife()
	tenant, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	token := s.token(claims{
		Audience: audience, Tenant: tenant, Application: client, ID: newGUID(),
		Issued: now.Unix(), Expires: now.Add(life).Unix(), ExpiresAt: now.Add(life),
	})
	s.mu.Lock()
	s.issued++
	s.mu.Unlock()
	// The documented sample has 3599 for an hour: what is left, rounded down.
	left := int64((life - 1) / time.Second)
	if v1 {
		// The older endpoint writes its numbers as texts.
		return done(http.StatusOK, struct {
			Type       string `json:"token_type"`
			ExpiresIn  string `json:"expires_in"`
			Extended   string `json:"ext_expires_in"`
			ExpiresOn  string `json:"expires_on"`
			NotBefore  string `json:"not_before"`
			Resource   string `json:"resource"`
			AccessCode string `json:"access_token"`
		}{
			"Bearer", fmt.Sprint(left), fmt.Sprint(left), fmt.Sprint(now.Add(life).Unix()),
			fmt.Sprint(now.Unix()), audience, token,
		})
	}
	return done(http.StatusOK, struct {
		Type       string `json:"token_type"`
		ExpiresIn  int64  `json:"expires_in"`
		Extended   int64  `json:"ext_expires_in"`
		AccessCode string `json:"access_token"`
	}{
		"Bearer", left, 0, token,
	})
}

// claims are what a token says. It has the form of a JWT, since some clients look
// into it. ExpiresAt alone counts: a JWT's seconds are too coarse for a life that
// is scaled.
type claims struct {
	Audience    string    `json:"aud"`
	Tenant      string    `json:"tid"`
	Application string    `json:"appid"`
	ID          string    `json:"uti"`
	Issued      int64     `json:"iat"`
	Expires     int64     `json:"exp"`
	ExpiresAt   time.Time `json:"defendertest_exp"`
}

// token writes and seals claims.
func (s *Server) token(c claims) string {
	part := func(entity any) string { return base64.RawURLEncoding.EncodeToString(encode(entity)) }
	text := part(struct {
		Type      string `json:"typ"`
		Algorithm string `json:"alg"`
	}{"JWT", "HS256"}) + "." + part(c)
	return text + "." + s.tokens.mark(text)
}

// authorize returns the application that an Authorization header stands for, ""
// where none is needed, what its token is for, and whether it may call. An expired token is told
// from a wrong one by nothing, as documented.
func (s *Server) authorize(header string, now time.Time) (application string, holds audience,
	ok bool) {
	if s.config.Token == "" && len(s.config.Clients) == 0 {
		return "", audienceAny, true
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", 0, false
	}
	if s.config.Token != "" && token == s.config.Token {
		return "", audienceAny, true
	}
	if len(s.config.Clients) == 0 {
		return "", 0, false
	}
	at := strings.LastIndexByte(token, '.')
	if at < 0 || !s.tokens.holds(token[:at], token[at+1:]) {
		return "", 0, false
	}
	// What is sealed was written by token, and so can be read.
	_, payload, _ := strings.Cut(token[:at], ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	var c claims
	if err != nil || json.Unmarshal(text, &c) != nil || !now.Before(c.ExpiresAt) {
		return "", 0, false
	}
	return c.Application, audienceOf(c.Audience), true
}

// errGrant is a refusal in the token endpoint's own form, with a code of Entra's.
func errGrant(status int, name string, code int, text string, now time.Time) answer {
	trace, correlation := newGUID(), newGUID()
	stamp := now.UTC().Format("2006-01-02 15:04:05Z")
	return answer{status: status, code: name, target: trace, body: encode(struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Codes       []int  `json:"error_codes"`
		Timestamp   string `json:"timestamp"`
		Trace       string `json:"trace_id"`
		Correlation string `json:"correlation_id"`
	}{
		name,
		fmt.Sprintf("AADSTS%d: %s\r\nTrace ID: %s\r\nCorrelation ID: %s\r\nTimestamp: %s", code,
			bounded(text), trace, correlation, stamp),
		[]int{code}, stamp, trace, correlation,
	})}
}

// errTokenThrottled is the observed 429 of a client that doesn't keep its token:
// plain text, and a wait of a minute.
func errTokenThrottled(minute time.Duration) answer {
	return answer{
		status: http.StatusTooManyRequests, contentType: "text/plain; charset=utf-8", body: []byte("Too Many Requests"),
		header: http.Header{"Retry-After": {fmt.Sprint(wholeSeconds(minute))}},
	}
}

// TokensIssued returns how many tokens the token endpoint has given. A client
// that keeps its token until it expires needs one an hour.
func (s *Server) TokensIssued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}
