package defender_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// A Prepare may lead a request elsewhere, by whatever it changes of the URL. The token was for where
// the request went before: it goes along to a host of Defender's, and to nobody else. What the
// caller or Prepare has set stays, since whoever set it aims it.
func TestTokenStaysBehindWherePrepareLeads(t *testing.T) {
	const from, own = "https://api.security.microsoft.com/api/machines", "Bearer own"
	to := func(text string) func(*http.Request) {
		return func(req *http.Request) {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			req.URL = u
		}
	}
	moves := map[string]struct {
		move func(*http.Request)
		want string
	}{
		"nowhere":            {func(*http.Request) {}, "Bearer t"},
		"another path":       {func(req *http.Request) { req.URL.Path = "/api/alerts" }, "Bearer t"},
		"another own host":   {func(req *http.Request) { req.URL.Host = "eu.api.security.microsoft.com" }, "Bearer t"},
		"a stranger":         {func(req *http.Request) { req.URL.Host = "evil.example" }, ""},
		"a stranger by URL":  {to("https://evil.example/api/machines"), ""},
		"a lookalike":        {to("https://api.security.microsoft.com.evil.example/"), ""},
		"another port":       {func(req *http.Request) { req.URL.Host += ":8443" }, ""},
		"plain text":         {func(req *http.Request) { req.URL.Scheme = "http" }, ""},
		"another API":        {to("https://graph.microsoft.com/v1.0/security/incidents"), ""},
		"a name by IDNA":     {to("https://ap\u0130.security.microsoft.com/api/machines"), ""},
		"a download":         {to("https://x.blob.core.windows.net/files/1?sig=1"), ""},
		"signed where it is": {func(req *http.Request) { req.URL.RawQuery = "sig=1" }, ""},
		"with Prepare's own": {func(req *http.Request) {
			req.URL.Host = "evil.example"
			req.Header.Set("Authorization", own)
		}, own},
	}
	for name, m := range moves {
		for _, replaced := range []bool{false, true} {
			for _, callers := range []string{"", own} {
				synctest.Test(t, func(t *testing.T) {
					base := &moved{}
					c := defender.Config{Base: base, Token: func(context.Context) (string, time.Time, error) {
						return "t", time.Time{}, nil
					}}
					prepare := func(req *http.Request, _ *steadyhttp.Attempt) error { m.move(req); return nil }
					if !replaced {
						c.Prepare = prepare
					}
					tr := newTransport(t, c)
					if replaced {
						tr.Prepare = prepare
					}
					req, _ := http.NewRequestWithContext(t.Context(), "GET", from, nil)
					want := m.want
					if callers != "" {
						req.Header.Set("Authorization", callers)
						want = callers
					}
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if len(base.shown) == 0 {
						t.Errorf("%s: nothing was sent", name)
					}
					for i, got := range base.shown {
						if got != want {
							t.Errorf("%s, replaced %v, caller's %q: attempt %d has %q, want %q", name, replaced,
								callers, i+1, got, want)
						}
					}
				})
			}
		}
	}
}

// moved notes the Authorization fields that it is shown. Its first answer is a 401, so that there is
// an attempt after a refused token too.
type moved struct{ shown []string }

func (m *moved) RoundTrip(req *http.Request) (*http.Response, error) {
	m.shown = append(m.shown, req.Header.Get("Authorization"))
	if len(m.shown) == 1 {
		return answer(req, 401, "")
	}
	return answer(req, 200, "{}")
}
