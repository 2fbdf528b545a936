package defendertest

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Defender returns what makes a Transport for this server: its host, its quotas as they are scaled
// and replaced here, and its token. Fields may be added before defender.New. Quotas that SetQuotas
// changes later aren't in it.
//
//	transport, err := defender.New(server.Defender())
//
// With Config.Clients the token is that of the first by its name, for Defender XDR, which both of
// Defender's APIs take. Defender panics before the server is started, when it has no host yet.
func (s *Server) Defender() defender.Config {
	return s.aim("https://api.security.microsoft.com/.default")
}

// Graph is Defender with a token for Microsoft Graph.
func (s *Server) Graph() defender.Config { return s.aim("https://graph.microsoft.com/.default") }

// aim makes the Config for one scope.
func (s *Server) aim(scope string) defender.Config {
	base, err := url.Parse(s.URL)
	if err != nil || s.URL == "" {
		panic("defendertest: Server isn't started: call Start before Defender or Graph")
	}
	c := defender.Config{Hosts: []string{base.Host}, Quotas: s.scaledQuotas(),
		NoQuotas: s.config.NoQuotas}
	if s.certificate != nil {
		c.Base = s.trusting()
	}
	switch clients := slices.Sorted(maps.Keys(s.config.Clients)); {
	case s.config.Token != "":
		c.Token = defender.TokenFrom(
			func() (string, error) { return s.config.Token, nil },
			func(token string) (string, time.Time) { return token, time.Time{} })
	case len(clients) > 0:
		c.Token = defender.TokenFrom(
			func() (grant, error) { return s.signIn(c.Base, clients[0], scope) },
			func(g grant) (string, time.Time) { return g.token, g.expires })
	}
	return c
}

// scaledQuotas are the limits of all of package defender's families, as long as they last here.
func (s *Server) scaledQuotas() map[string][]quota.Window {
	s.mu.Lock()
	defer s.mu.Unlock()
	scaled := make(map[string][]quota.Window)
	add := func(family string, windows []quota.Window) {
		if ours, ok := s.quotas.families[family]; ok {
			windows = ours
		}
		// Never nil: that no window is there must replace what package defender has.
		scaled[family] = []quota.Window{}
		for _, w := range windows {
			// Where a minute is very short, a window would be shorter than defender.New takes. A longer
			// one only asks for less.
			lasts := max(s.quotas.scaled(w.Per), durations.MinWindow)
			scaled[family] = append(scaled[family], quota.Window{N: w.N, Per: lasts})
		}
	}
	for _, e := range defender.Endpoints() {
		add(e.Family, e.Windows)
	}
	add("other", per(100, 1500))
	return scaled
}

// trusting is a transport that knows the server's certificate.
func (s *Server) trusting() http.RoundTripper {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.certificate)
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32,
	}
}

// A grant is a token that the server gave.
type grant struct {
	token   string
	expires time.Time
}

// signIn fetches a token as a client does.
func (s *Server) signIn(base http.RoundTripper, client, scope string) (grant, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client},
		"client_secret": {s.config.Clients[client]}, "scope": {scope},
	}
	asked := time.Now()
	resp, err := (&http.Client{Transport: cmp.Or(base, http.DefaultTransport)}).Post(
		s.URL+"/"+tenantID+"/oauth2/v2.0/token", "application/x-www-form-urlencoded",
		strings.NewReader(form.Encode()))
	if err != nil {
		return grant{}, err
	}
	defer resp.Body.Close()
	var body struct {
		Token     string `json:"access_token"`
		ExpiresIn int64  `json:"expires_in"`
	}
	if resp.StatusCode != http.StatusOK {
		return grant{}, fmt.Errorf("defendertest: the sign-in is answered %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return grant{}, fmt.Errorf("defendertest: the sign-in: %w", err)
	}
	return grant{body.Token, asked.Add(time.Duration(body.ExpiresIn) * time.Second)}, nil
}
