package defender_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/quota"
)

// While a token is valid, an authority that hangs takes nobody's time: every call goes at once,
// with the old one, and the first that comes after its end waits.
func TestRenewalTakesNobodysTime(t *testing.T) {
	for _, hang := range []time.Duration{10 * time.Second, 50 * time.Second, 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel() // what hangs must end with the bubble
			g, fetched := &guard{}, new(atomic.Int64)
			transport := newTransport(t, unlimited(g, func(fetching context.Context) (string, time.Time, error) {
				n := fetched.Add(1)
				if n > 1 {
					select {
					case <-time.After(hang):
					case <-fetching.Done():
						return "", time.Time{}, context.Cause(fetching)
					case <-ctx.Done():
					}
				}
				return fmt.Sprint("token-", n), time.Now().Add(time.Hour), nil
			}))
			send(t, transport, "GET", machines)
			time.Sleep(56 * time.Minute)
			for range 4*60 - 1 {
				began := time.Now()
				deadline, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
				if got, err := status(t, transport, deadline, machines); got != 200 || time.Since(began) != 0 {
					t.Fatalf("hangs %v, %v left: %d, %v after %v", hang, 4*time.Minute-time.Since(began), got, err, time.Since(began))
				}
				stop()
				time.Sleep(time.Second)
			}
			if n := fetched.Load(); n < 2 || n > 6 {
				t.Errorf("hangs %v: fetched %d times", hang, n)
			}
			if shown := g.requests(); hang < time.Minute && !strings.HasSuffix(shown[len(shown)-1], "token-2") {
				t.Errorf("hangs %v: the last request had %q", hang, shown[len(shown)-1])
			}
		})
	}
}

// A renewal that panics, with nobody there to take it, harms no call while the old token lives.
func TestRenewalMayPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetched := 0
		transport := newTransport(t, unlimited(&guard{}, func(context.Context) (string, time.Time, error) {
			if fetched++; fetched > 1 {
				panic("oh no")
			}
			return "token", time.Now().Add(time.Hour), nil
		}))
		send(t, transport, "GET", machines)
		time.Sleep(56 * time.Minute)
		for range 100 {
			send(t, transport, "GET", machines)
			time.Sleep(time.Second)
		}
		time.Sleep(4 * time.Minute)
		defer func() {
			if said := fmt.Sprint(recover()); !strings.Contains(said, "oh no") {
				t.Errorf("the panic says %s", said)
			}
		}()
		status(t, transport, t.Context(), machines)
	})
}

// Authorization that the caller brings and the service refuses is sent once, however it is spelled
// and whatever Config.Prepare does beside; what Prepare itself brings is renewed.
func TestRefusedAuthorizationOfTheCallerIsSentOnce(t *testing.T) {
	for name, c := range map[string]struct {
		key     string
		prepare func(*http.Request, *steadyhttp.Attempt) error
		sent    int
	}{
		"canonical":        {key: "Authorization", sent: 1},
		"lower case":       {key: "authorization", sent: 1},
		"upper case":       {key: "AUTHORIZATION", sent: 1},
		"with a Prepare":   {key: "Authorization", prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil }, sent: 1},
		"token":            {sent: 2},
		"token, a Prepare": {prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil }, sent: 2},
		"of Prepare": {prepare: func(req *http.Request, prev *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", fmt.Sprint("mine ", prev != nil))
			return nil
		}, sent: 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var shown []http.Header
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				shown = append(shown, req.Header.Clone())
				return answer(req, 401, envelope("Unauthorized", "no"))
			})
			config := unlimited(base, (&mint{life: time.Hour}).token)
			config.Prepare = c.prepare
			req := request(t, t.Context(), "GET", machines)
			if c.key != "" {
				req.Header[c.key] = []string{"Basic bWU6aHVzaA=="}
			}
			resp, err := newTransport(t, config).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if len(shown) != c.sent || resp.StatusCode != 401 {
				t.Errorf("%s: sent %d times, want %d; %d", name, len(shown), c.sent, resp.StatusCode)
			}
			for _, h := range shown {
				if c.key != "" && len(h) != 1 {
					t.Errorf("%s: two fields: %v", name, h)
				}
			}
		})
	}
}

const wanted = `{"access_token":{"nbf":{"essential":true, "value":"1604106651"}}}`

// The claims that a 401 asks for are handed to the next fetch, once, and a token is not sent again
// that was refused for want of them.
func TestClaimsReachTheTokenFunc(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte(wanted))
	for name, c := range map[string]struct {
		fields []string
		want   string
	}{
		"as documented": {[]string{`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", ` +
			`client_id="00000003-0000-0000-c000-000000000000", error="insufficient_claims", claims="` + encoded + `"`}, wanted},
		"without padding":    {[]string{`Bearer claims="` + strings.TrimRight(encoded, "=") + `"`}, wanted},
		"the URL's alphabet": {[]string{`Bearer claims="` + base64.RawURLEncoding.EncodeToString([]byte(`{"a":"??>>~~"}`)) + `"`}, `{"a":"??>>~~"}`},
		"no quotation marks": {[]string{`Bearer error=insufficient_claims, claims=` + encoded}, wanted},
		"letter case":        {[]string{`BEARER Claims="` + encoded + `"`}, wanted},
		"second field":       {[]string{`Basic realm="x"`, `Bearer claims="` + encoded + `"`}, wanted},
		"second challenge":   {[]string{`Negotiate, Basic realm="a, b=\"c\"", Bearer realm="", claims="` + encoded + `"`}, wanted},
		"behind a token68":   {[]string{`Negotiate YII/a+b/c==, Bearer claims="` + encoded + `"`}, wanted},
		"behind two":         {[]string{`NTLM /w== , Negotiate a/b,Bearer claims="` + encoded + `"`}, wanted},
		"spaces":             {[]string{`Bearer  realm = "" ,	claims = "` + encoded + `"`}, wanted},
		"ordinary": {[]string{`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", ` +
			`client_id="00000003-0000-0000-c000-000000000000"`}, ""},
		"of another scheme":  {[]string{`PoP claims="` + encoded + `"`}, ""},
		"no base64":          {[]string{`Bearer claims="{}"`}, ""},
		"no JSON":            {[]string{`Bearer claims="aGVsbG8="`}, ""},
		"no object":          {[]string{`Bearer claims="WzFd"`}, ""},
		"JSON that breaks":   {[]string{`Bearer claims="` + encoded[:12] + `"`}, ""},
		"no token68":         {[]string{`Negotiate a/"b, Bearer claims="` + encoded + `"`}, ""},
		"it breaks off":      {[]string{`Bearer claims="` + encoded}, ""},
		"nothing":            {nil, ""},
		"empty":              {[]string{``}, ""},
		"a quotation in one": {[]string{`Basic realm="claims=\"` + encoded + `\""`}, ""},
		"far too long":       {[]string{`Bearer x="` + strings.Repeat("x", 17<<10) + `", claims="` + encoded + `"`}, ""},
		"a hundred fields":   {append(slices.Repeat([]string{"Basic"}, 100), `Bearer claims="`+encoded+`"`), ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked, shown []string
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				shown = append(shown, req.Header.Get("Authorization"))
				if len(shown) > 1 {
					return answer(req, 200, "{}")
				}
				resp, err := answer(req, 401, `{"error":{"code":"InvalidAuthenticationToken","message":"Continuous access evaluation"}}`)
				resp.Header["Www-Authenticate"] = c.fields
				return resp, err
			})
			transport := newTransport(t, unlimited(base, func(ctx context.Context) (string, time.Time, error) {
				asked = append(asked, defender.Claims(ctx))
				if len(asked) == 2 {
					return "", time.Time{}, errors.New("the authority is away")
				}
				return fmt.Sprint("token-", len(asked)), time.Now().Add(time.Hour), nil
			}))
			send(t, transport, "GET", machines)
			time.Sleep(59 * time.Minute)
			send(t, transport, "GET", machines)
			synctest.Wait()
			// A fetch that failed leaves the claims for the next one, and a renewal has none.
			if want := []string{"", c.want, c.want, ""}; !slices.Equal(asked, want) {
				t.Errorf("%s: the claims were %q, want %q", name, asked, want)
			}
			if want := []string{"Bearer token-1", "Bearer token-3", "Bearer token-3"}; !slices.Equal(shown, want) {
				t.Errorf("%s: shown %q, want %q", name, shown, want)
			}
		})
	}
	if got := defender.Claims(t.Context()); got != "" {
		t.Errorf("a context of nobody's has %q", got)
	}
}

// Who forgets Hosts is told, once, and nobody else is.
func TestFirstRequestToAnUnknownHostIsTold(t *testing.T) {
	const commercial = "https://api.security.microsoft.com/api/machines"
	for name, c := range map[string]struct {
		config  defender.Config
		targets []string
		told    string // "": nothing
	}{
		"a test server":        {defender.Config{}, []string{"http://127.0.0.1:8080/api/machines"}, "127.0.0.1:8080"},
		"another cloud's":      {defender.Config{Cloud: defender.GCC}, []string{commercial}, "api.security.microsoft.com"},
		"another API's":        {defender.Config{}, []string{"https://graph.microsoft.com/v1.0/security/incidents"}, "graph.microsoft.com"},
		"MDE's, for Graph":     {defender.Config{API: defender.Graph}, []string{commercial}, "api.security.microsoft.com"},
		"not encrypted":        {defender.Config{}, []string{"http://api.security.microsoft.com/api/machines"}, "https"},
		"known":                {defender.Config{}, []string{commercial}, ""},
		"all that are":         {defender.Config{}, knownTargets(defender.Commercial), ""},
		"Graph":                {defender.Config{API: defender.Graph, Cloud: defender.DoD}, []string{"https://dod-graph.microsoft.us/v1.0/users"}, ""},
		"Hosts are set":        {defender.Config{Hosts: []string{"127.0.0.1:8080"}}, []string{"http://127.0.0.1:8080/api/machines"}, ""},
		"a download":           {defender.Config{}, []string{"https://x.blob.core.windows.net/c/f?sig=s"}, ""},
		"not the first one":    {defender.Config{}, []string{commercial, "https://example.com/"}, ""},
		"nor twice":            {defender.Config{}, []string{"https://example.com/", "https://example.com/"}, "example.com"},
		"secrets are not told": {defender.Config{}, []string{"https://u:hush@example.com/?token=hush"}, "example.com"},
	} {
		for _, token := range []bool{true, false} {
			var log bytes.Buffer
			config := c.config
			config.Base, config.NoQuotas, config.Log = &fine{}, true, slog.New(slog.NewTextHandler(&log, nil))
			if token {
				config.Token = (&mint{}).token
			}
			transport, err := defender.New(config)
			if err != nil {
				t.Fatal(err)
			}
			for _, target := range c.targets {
				send(t, transport, "GET", target)
			}
			said := strings.TrimSpace(log.String())
			switch {
			case !token || c.told == "":
				if said != "" {
					t.Errorf("%s, token %v: %s", name, token, said)
				}
			case strings.Count(said, "\n") > 0 || !strings.Contains(said, "WARN") || !strings.Contains(said, c.told) || strings.Contains(said, "hush"):
				t.Errorf("%s: %q does not tell of %s once", name, said, c.told)
			}
		}
	}
}

func knownTargets(c defender.Cloud) (all []string) {
	for _, host := range c.Hosts() {
		all = append(all, "https://"+host+"/api/machines")
	}
	return all
}

// Methods that end are told once each, with and without quotas, and nothing else is.
func TestRetiredMethodsAreTold(t *testing.T) {
	for _, noQuotas := range []bool{true, false} {
		var mu sync.Mutex
		var log bytes.Buffer
		config := defender.Config{
			API: defender.Graph, Hosts: []string{"graph.microsoft.com", "api.security.microsoft.com"}, Base: &fine{}, NoQuotas: noQuotas,
			Log: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil)),
		}
		transport := newTransport(t, config)
		var group sync.WaitGroup
		for range 20 {
			for _, c := range []string{
				"POST " + security + "/api/advancedqueries/run", "POST " + security + "/api/v1.0/AdvancedHunting/run", "GET " + security + "/api/machines",
				"GET https://graph.microsoft.com/v1.0/security/alerts/1", "GET https://graph.microsoft.com/v1.0/security/alerts_v2",
				"GET https://elsewhere.example/v1.0/security/tiIndicators",
			} {
				method, target, _ := strings.Cut(c, " ")
				group.Go(func() { send(t, transport, method, target) })
			}
		}
		group.Wait()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		slices.Sort(lines)
		if len(lines) != 3 || !strings.Contains(log.String(), "2027-02-01") || !strings.Contains(log.String(), "security/alerts_v2") {
			t.Errorf("NoQuotas %v: told %q", noQuotas, lines)
		}
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// What a user changes after New costs neither the token nor what is idempotent.
func TestChangesAfterNewDropNothing(t *testing.T) {
	for name, change := range map[string]func(*steadyhttp.Transport, context.Context) (*steadyhttp.Transport, context.Context){
		"Prepare": func(tr *steadyhttp.Transport, ctx context.Context) (*steadyhttp.Transport, context.Context) {
			tr.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error { return nil }
			return tr, ctx
		},
		"Policy": func(tr *steadyhttp.Transport, ctx context.Context) (*steadyhttp.Transport, context.Context) {
			tr.Policy = steadyhttp.Batch()
			return tr, ctx
		},
		"WithPolicy": func(tr *steadyhttp.Transport, ctx context.Context) (*steadyhttp.Transport, context.Context) {
			return tr, steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { *p = steadyhttp.Batch() })
		},
		"a clone's": func(tr *steadyhttp.Transport, ctx context.Context) (*steadyhttp.Transport, context.Context) {
			clone := tr.Clone()
			clone.Policy, clone.Prepare = steadyhttp.Policy{}, nil
			return clone, ctx
		},
	} {
		for _, c := range []struct {
			path, key string
			sent      int
		}{
			{"/api/advancedqueries/run", "", 2}, {"/api/machines/m1/tags", "", 2},
			{"/api/machines/m1/isolate", "", 1}, {"/api/machines/m1/isolate", `"1"`, 1},
		} {
			synctest.Test(t, func(t *testing.T) {
				g := &guard{}
				tr, ctx := change(newTransport(t, unlimited(roundTripper(func(req *http.Request) (*http.Response, error) {
					g.RoundTrip(req)
					if len(g.requests()) == 1 {
						return answer(req, 503, envelope("ServiceUnavailable", ""))
					}
					return answer(req, 200, "{}")
				}), (&mint{}).token)), t.Context())
				req, _ := http.NewRequestWithContext(ctx, "POST", security+c.path, strings.NewReader("{}"))
				if c.key != "" {
					req.Header.Set("Idempotency-Key", c.key)
				}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				shown := g.requests()
				if len(shown) != c.sent || slices.ContainsFunc(shown, func(s string) bool { return !strings.HasSuffix(s, "Bearer token-1") }) {
					t.Errorf("%s, %s: shown %q, want %d", name, c.path, shown, c.sent)
				}
			})
		}
	}
}

// The Reserve that NewGate is given is the Config's, for every key.
func TestReserveReachesNewGate(t *testing.T) {
	seen := 0
	transport := newTransport(t, defender.Config{
		API: defender.Graph, Base: &fine{}, Reserve: 0.25, MaxWait: time.Hour,
		NewGate: func(key string, q *quota.Quota) steadyhttp.Gate {
			if seen++; q.Reserve != 0.25 || q.MaxWait != time.Hour || len(q.Windows) == 0 {
				t.Errorf("%s: %+v", key, q)
			}
			return q
		},
	})
	send(t, transport, "PATCH", "https://graph.microsoft.com/v1.0/users/1")
	if seen != 6 {
		t.Errorf("%d gates, want that of the family and five more", seen)
	}
}

// A Prepare that is set after New and brings credentials of its own is asked for new ones after a
// 401, as one of Config is.
func TestPrepareOfLaterRenewsItsOwnCredentials(t *testing.T) {
	for _, token := range []defender.TokenFunc{nil, (&mint{}).token} {
		for _, api := range []defender.Service{"", defender.Graph} {
			for _, target := range []string{machines, graphBase + "/v1.0/users"} {
				synctest.Test(t, func(t *testing.T) {
					g := &guard{takes: func(a string) bool { return a == "mine 2" }}
					config := unlimited(g, token)
					config.API = api
					transport := newTransport(t, config)
					prepared := 0
					transport.Prepare = func(req *http.Request, prev *steadyhttp.Attempt) error {
						prepared++
						req.Header.Set("Authorization", fmt.Sprint("mine ", prepared))
						return nil
					}
					if got, err := status(t, transport, t.Context(), target); got != 200 || len(g.requests()) != 2 {
						t.Errorf("%q, %s: %d, %v after %q", api, target, got, err, g.requests())
					}
				})
			}
		}
	}
}

// Where nobody has new credentials, a 401 is not asked twice: neither for the token that nobody
// configured nor for the key that Graph is asked with.
func TestA401WithoutATokenIsFinal(t *testing.T) {
	for _, api := range []defender.Service{"", defender.Graph} {
		g := &guard{takes: func(string) bool { return false }}
		config := unlimited(g, nil)
		config.API = api
		if got, err := status(t, newTransport(t, config), t.Context(), machines); got != 401 || len(g.requests()) != 1 {
			t.Errorf("%q: %d, %v after %d requests", api, got, err, len(g.requests()))
		}
	}
}

// Conditional access refuses with a 403 what it wants other claims for: one more token is fetched,
// which has them. A 403 without a challenge is a permission that is missing, and one to somebody
// else's credentials is theirs.
func TestClaimsOfA403ReachTheTokenFunc(t *testing.T) {
	challenge := `Bearer realm="", error="insufficient_claims", claims="` +
		base64.StdEncoding.EncodeToString([]byte(wanted)) + `"`
	for name, c := range map[string]struct {
		method, target string
		field          string // WWW-Authenticate of each 403
		refusals       int    // answers before the first 200
		own            string // Authorization of the caller's
		prepare        func(*http.Request, *steadyhttp.Attempt) error
		sent, fetched  int
		status         int
	}{
		"of a read":     {"GET", machines, challenge, 1, "", nil, 2, 2, 200},
		"of an order":   {"POST", machines + "/m1/isolate", challenge, 1, "", nil, 2, 2, 200},
		"for ever":      {"GET", machines, challenge, 9, "", nil, 2, 2, 403},
		"no challenge":  {"GET", machines, "", 1, "", nil, 1, 1, 403},
		"no claims":     {"GET", machines, `Bearer error="insufficient_scope"`, 1, "", nil, 1, 1, 403},
		"another's":     {"GET", machines, challenge, 1, "Bearer mine", nil, 1, 0, 403},
		"a stranger":    {"GET", "https://example.com/", challenge, 1, "", nil, 1, 0, 403},
		"with Prepare":  {"GET", "https://example.com/", challenge, 1, "", unprepared, 1, 0, 403},
		"of a download": {"GET", machines + "?sig=s", challenge, 1, "", nil, 1, 0, 403},
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked, shown []string
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				shown = append(shown, req.Header.Get("Authorization"))
				if len(shown) > c.refusals {
					return answer(req, 200, "{}")
				}
				resp, err := answer(req, 403, envelope("Forbidden", "Access has been blocked"))
				if c.field != "" {
					resp.Header.Set("WWW-Authenticate", c.field)
				}
				return resp, err
			})
			config := unlimited(base, func(ctx context.Context) (string, time.Time, error) {
				asked = append(asked, defender.Claims(ctx))
				return fmt.Sprint("token-", len(asked)), time.Now().Add(time.Hour), nil
			})
			config.Prepare = c.prepare
			req := request(t, t.Context(), c.method, c.target)
			if c.own != "" {
				req.Header.Set("Authorization", c.own)
			}
			resp, err := newTransport(t, config).RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status || len(shown) != c.sent || len(asked) != c.fetched {
				t.Errorf("%s: %d, shown %q, asked for %q", name, resp.StatusCode, shown, asked)
			}
			if len(asked) == 2 && asked[1] != wanted || len(shown) == 2 && shown[1] != "Bearer token-2" {
				t.Errorf("%s: shown %q, asked for %q", name, shown, asked)
			}
		})
	}
}

func unprepared(*http.Request, *steadyhttp.Attempt) error { return nil }
