package defender_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

func TestClouds(t *testing.T) {
	const (
		scope    = "https://api.securitycenter.microsoft.com/.default"
		xdrScope = "https://api.security.microsoft.com/.default"
		graph    = "https://graph.microsoft.com"
		login    = "https://login.microsoftonline.com"
	)
	for _, c := range []struct {
		cloud                                              defender.Cloud
		mde, mdeScope, xdr, xdrScope, graph, login, onlyOf string
	}{
		{"", "https://api.security.microsoft.com", scope, "https://api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.Commercial, "https://api.security.microsoft.com", scope, "https://api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialUS, "https://us.api.security.microsoft.com", scope, "https://us.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialEU, "https://eu.api.security.microsoft.com", scope, "https://eu.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialUK, "https://uk.api.security.microsoft.com", scope, "https://uk.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialAU, "https://au.api.security.microsoft.com", scope, "https://au.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialINA, "https://ina.api.security.microsoft.com", scope, "https://ina.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialAEA, "https://aea.api.security.microsoft.com", scope, "https://aea.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{defender.CommercialSWA, "https://swa.api.security.microsoft.com", scope, "https://swa.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{
			defender.GCC, "https://api-gcc.securitycenter.microsoft.us", "https://api-gcc.securitycenter.microsoft.us/.default",
			"https://api-gcc.security.microsoft.us", "https://api-gcc.security.microsoft.us/.default", graph, login, ".us",
		},
		{
			defender.GCCHigh, "https://api-gov.securitycenter.microsoft.us", "https://api-gov.securitycenter.microsoft.us/.default",
			"https://api-gov.security.microsoft.us", "https://api-gov.security.microsoft.us/.default", "https://graph.microsoft.us", "https://login.microsoftonline.us", ".us",
		},
		{
			defender.DoD, "https://api-gov.securitycenter.microsoft.us", "https://api-gov.securitycenter.microsoft.us/.default",
			"https://api-gov.security.microsoft.us", "https://api-gov.security.microsoft.us/.default", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us", ".us",
		},
	} {
		if got, want := c.cloud.MDE(), (defender.API{Base: c.mde, Scope: c.mdeScope}); got != want {
			t.Errorf("%q: MDE is %v, want %v", c.cloud, got, want)
		}
		if got, want := c.cloud.XDR(), (defender.API{Base: c.xdr, Scope: c.xdrScope}); got != want {
			t.Errorf("%q: XDR is %v, want %v", c.cloud, got, want)
		}
		if got := c.cloud.Graph().Base; got != c.graph {
			t.Errorf("%q: Graph is %q, want %q", c.cloud, got, c.graph)
		}
		if got := c.cloud.Login(); got != c.login {
			t.Errorf("%q: login is %q, want %q", c.cloud, got, c.login)
		}
		// A token goes to where the cloud's own bases lead, and to no other cloud.
		hosts := c.cloud.Hosts()
		for _, base := range []string{c.mde, c.xdr} {
			if u, err := url.Parse(base); err != nil || !slices.Contains(hosts, u.Host) {
				t.Errorf("%q: %s is not among its hosts %q", c.cloud, base, hosts)
			}
		}
		for _, host := range hosts {
			if !strings.HasSuffix(host, c.onlyOf) {
				t.Errorf("%q has the host %s", c.cloud, host)
			}
		}
		hosts[0] = "example.com"
		if c.cloud.Hosts()[0] == "example.com" {
			t.Errorf("%q: its hosts can be changed", c.cloud)
		}
	}
	if moon := defender.Cloud("moon"); moon.MDE() != (defender.API{}) || moon.Login() != "" || moon.Hosts() != nil {
		t.Error("an unknown cloud has something")
	}
}

func TestCommercialHosts(t *testing.T) {
	want := []string{
		"api.security.microsoft.com", "api.securitycenter.microsoft.com", "api.securitycenter.windows.com",
		"us.api.security.microsoft.com", "eu.api.security.microsoft.com", "uk.api.security.microsoft.com",
		"au.api.security.microsoft.com", "swa.api.security.microsoft.com",
		"ina.api.security.microsoft.com", "aea.api.security.microsoft.com",
		"api-us.security.microsoft.com", "api-eu.security.microsoft.com", "api-uk.security.microsoft.com",
		"api-us.securitycenter.microsoft.com", "api-eu.securitycenter.microsoft.com", "api-uk.securitycenter.microsoft.com",
	}
	if got := defender.CommercialEU.Hosts(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// wire is the other end of every connection that net/http dials, whatever the address. It notes
// what it is shown.
type wire struct {
	mu    sync.Mutex
	shown []string // by request: dialled address and Authorization
}

func (w *wire) transport() *http.Transport {
	dial := func(_ context.Context, _, address string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go w.serve(theirs, address)
		return ours, nil
	}
	// Where net/http would speak TLS, it takes the connection as one that has been through the
	// handshake.
	return &http.Transport{DialContext: dial, DialTLSContext: dial, DisableKeepAlives: true}
}

func (w *wire) serve(c net.Conn, address string) {
	defer c.Close()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	w.mu.Lock()
	w.shown = append(w.shown, address+" "+req.Header.Get("Authorization"))
	w.mu.Unlock()
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
}

const shownToken = " Bearer secret"

func secret(host ...string) defender.Config {
	config := unlimited(nil, nil)
	config.Token = func(context.Context) (string, time.Time, error) { return "secret", time.Time{}, nil }
	config.Hosts = host
	return config
}

// The token goes to the addresses that were configured, as net/http dials them, and to no other:
// names that only look like a configured one, once they have been folded, escaped or normalized,
// are another's.
func TestTokenGoesWhereItIsDialled(t *testing.T) {
	const home = "https://api.security.microsoft.com"
	for _, c := range []struct {
		hosts   []string
		dialled []string        // all addresses that may see the token
		urls    map[string]bool // whether the token goes along
	}{
		{nil, []string{
			"api.security.microsoft.com:443", "API.Security.MICROSOFT.com:443",
			"eu.api.security.microsoft.com:443", "api.securitycenter.windows.com:443",
		}, map[string]bool{
			home:                                                   true,
			home + ":443/api":                                      true,
			home + ":/api":                                         true, // an empty port is the scheme's own (RFC 3986 section 6.2.3)
			"https://API.Security.MICROSOFT.com/api":               true,
			"https://eu.api.security.microsoft.com/":               true,
			"https://api.securitycenter.windows.com/":              true,
			"HTTPS://api.security.microsoft.com/":                  true,
			"https://evil.example@api.security.microsoft.com/":     true,
			"https://api.security.microsoft.com@evil.example/":     false,
			"https://api.security.microsoft.com%40evil.example/":   false,
			"https://api.security.microsoft.com:443@evil.example/": false,
			"https://api.security.microsoft.com.evil.example/":     false,
			"https://evil.example/api.security.microsoft.com":      false,
			"https://evil.example?api.security.microsoft.com":      false,
			"https://evil.example#@api.security.microsoft.com":     false,
			home + ":0443/":                                        false,
			home + ":00443/":                                       false,
			home + ":80/":                                          false,
			home + ":8443/":                                        false,
			home + ":4430/":                                        false,
			home + "./":                                            false,
			home + ".:443/":                                        false,
			"http://api.security.microsoft.com/":                   false,
			"http://api.security.microsoft.com:443/":               false,
			// Letters whose lower case, or whose form after IDNA, is one of the name's.
			"https://api.security.m\u0130crosoft.com/":            false, // a capital i with a dot: ToLower says i
			"https://api.security.m%C4%B0crosoft.com/":            false,
			"https://API.SECURITY.M\u0130CROSOFT.COM/":            false,
			"https://api.security.m\u0131crosoft.com/":            false, // a dotless i
			"https://api.\u017fecurity.microsoft.com/":            false, // a long s
			"https://api.%C5%BFecurity.microsoft.com/":            false,
			"https://api.security.micro\u017foft.com/":            false,
			"https://api.security.microsoft.c\uff4fm/":            false, // full-width letters
			"https://\uff41pi.security.microsoft.com/":            false,
			"https://%EF%BD%81pi.security.microsoft.com/":         false,
			"https://api\u3002security\u3002microsoft\u3002com/":  false, // full stops that IDNA takes for dots
			"https://api\uff0esecurity\uff0emicrosoft\uff0ecom/":  false,
			"https://api.security\uff61microsoft.com/":            false,
			"https://api.security.micro\u200bsoft.com/":           false, // zero width
			"https://api.security.micro\u200dsoft.com/":           false,
			"https://api.security.micro\u00adsoft.com/":           false, // a soft hyphen
			"https://\ufeffapi.security.microsoft.com/":           false,
			"https://api.security.microsoft.com\u2060/":           false,
			"https://api.security.mi\u0301crosoft.com/":           false, // a combining accent
			"https://api.security.m\u0456crosoft.com/":            false, // Cyrillic
			"https://\u24d0pi.security.microsoft.com/":            false, // circled
			"https://\U0001d41api.security.microsoft.com/":        false, // mathematical
			"https://api.security.microsoft.\u2102om/":            false, // double-struck
			"https://api.security.xn--microsoft-6jf.com/":         false,
			"https://%61pi.security.microsoft.com/":               false,
			"https://api.security.microsoft.com%2eevil.example/":  false,
			"https://api.security.microsoft.com\\@evil.example/":  false,
			"https://api.security.microsoft.com%00.evil.example/": false,
			"https://[api.security.microsoft.com]/":               false,
			"//api.security.microsoft.com/":                       false,
			"https:api.security.microsoft.com/":                   false,
			"ftp://api.security.microsoft.com/":                   false,
		}},
		{[]string{"proxy.corp"}, []string{"proxy.corp:443"}, map[string]bool{
			"https://proxy.corp/": true, "https://proxy.corp:443/": true,
			"https://proxy.corp:80/": false, "http://proxy.corp/": false,
			"http://proxy.corp:443/": false, "https://proxy.corp:8443/": false,
			"https://proxy.\u212acorp/": false,
		}},
		{[]string{"proxy.corp:80"}, []string{"proxy.corp:80"}, map[string]bool{
			"https://proxy.corp/": false, "https://proxy.corp:443/": false,
			"https://proxy.corp:80/": true, "http://proxy.corp/": false,
			"https://proxy.corp:080/": false,
		}},
		{[]string{"proxy.corp:443"}, []string{"proxy.corp:443"}, map[string]bool{
			"https://proxy.corp/": true, "https://proxy.corp:443/": true,
			"https://proxy.corp:/": true, "http://proxy.corp/": false,
			"http://proxy.corp:443/": false, "https://proxy.corp:80/": false,
			"https://proxy.corp:44/": false,
		}},
		{[]string{"proxy.corp:"}, []string{"proxy.corp:443"}, map[string]bool{
			"https://proxy.corp/": true, "https://proxy.corp:80/": false,
		}},
		{[]string{"Proxy.Corp:8443", "proxy.corp:9443"}, []string{"proxy.corp:8443", "PROXY.corp:8443", "proxy.corp:9443"}, map[string]bool{
			"https://proxy.corp:8443/": true, "https://PROXY.corp:8443/": true,
			"https://proxy.corp:9443/": true, "https://proxy.corp/": false,
			"https://proxy.corp:443/": false, "https://proxy.corp:08443/": false,
		}},
		{[]string{"desk.corp"}, []string{"desk.corp:443", "DESK.corp:443"}, map[string]bool{
			"https://DESK.corp/": true, "https://des\u212a.corp/": false,
			"https://de\u017fk.corp/": false, "https://desk.corp./": false,
		}},
		// A root's dot is part of the name where it was configured.
		{[]string{"desk.corp."}, []string{"desk.corp.:443"}, map[string]bool{
			"https://desk.corp./": true, "https://desk.corp/": false, "https://desk.corp../": false,
		}},
		{[]string{"xn--mcrosoft-8ya.com"}, []string{"xn--mcrosoft-8ya.com:443"}, map[string]bool{
			"https://xn--mcrosoft-8ya.com/":              true,
			"https://XN--MCROSOFT-8YA.com@evil.example/": false,
			"https://m\u00edcrosoft.com/":                false,
		}},
		{[]string{"localhost"}, []string{"localhost:80", "LOCALHOST:80", "localhost:443"}, map[string]bool{
			"http://localhost/": true, "http://LOCALHOST/": true, "http://localhost:80/": true,
			"https://localhost/":    true,
			"http://localhost:443/": false, "https://localhost:80/": false,
			"http://localho\u017ft/": false, "http://localho%C5%BFt/": false,
			"http://localhost./": false, "http://localhost:8080/": false,
		}},
		{[]string{"localhost:80"}, []string{"localhost:80"}, map[string]bool{
			"http://localhost/": true, "http://localhost:80/": true, "https://localhost/": false,
			"http://localhost:0080/": false,
		}},
		{[]string{"[::1]:8080"}, []string{"[::1]:8080"}, map[string]bool{
			"http://[::1]:8080/": true, "https://[::1]:8080/": true, "http://[::1]/": false,
			"http://[::1%25lo]:8080/":        false,
			"http://[0:0:0:0:0:0:0:1]:8080/": false, "http://[::ffff:127.0.0.1]:8080/": false,
		}},
		{[]string{"[FE80::1%25en0]"}, []string{"[fe80::1%en0]:443", "[FE80::1%en0]:443"}, map[string]bool{
			"https://[fe80::1%25en0]/": true, "https://[FE80::1%25en0]:443/": true,
			"https://[fe80::1%25EN0]/": false, "https://[fe80::1]/": false,
			"https://[fe80::1%25en1]/": false, "https://[fe80::1%25en0]:80/": false,
		}},
		{[]string{"127.0.0.1:8080"}, []string{"127.0.0.1:8080"}, map[string]bool{
			"http://127.0.0.1:8080/": true, "http://127.0.0.1:08080/": false,
			"http://127.1:8080/": false, "http://2130706433:8080/": false,
			"http://127.0.0.1/": false, "http://\uff11\uff12\uff17.0.0.1:8080/": false,
			"http://evil.example:8080/": false,
		}},
		{[]string{"10.0.0.1", "x.blob.core.windows.net.", "proxy.corp"}, []string{"10.0.0.1:443", "proxy.corp:443"}, map[string]bool{
			"https://10.0.0.1/": true, "http://10.0.0.1/": false,
			"https://x.blob.core.windows.net./c/f": false,
			"https://proxy.corp/f?sig=s":           false, "https://proxy.corp/f?SIG=s": false,
			"https://proxy.corp/f?a=b&%73ig=s": false,
			"https://proxy.corp/f?%73%49%67=s": false, "https://proxy.corp/f?%24sig=s": true,
			"https://proxy.corp/f?signature=s": true,
			"https://proxy.corp/f?%zz=s":       true, "https://proxy.corp/f?%24filter=sig": true,
		}},
	} {
		for target, want := range c.urls {
			for name, transport := range dialling(t, c.hosts) {
				u, err := url.Parse(target)
				if err != nil {
					if want {
						t.Errorf("%q: %v", target, err)
					}
					continue
				}
				w := transport.wire
				resp, err := transport.RoundTrip((&http.Request{Method: "GET", URL: u, Header: http.Header{}}).WithContext(t.Context()))
				if err == nil {
					resp.Body.Close()
				} else if want {
					t.Errorf("%q: %v", target, err)
				}
				w.mu.Lock()
				shown := slices.Clone(w.shown)
				w.mu.Unlock()
				got := false
				for _, s := range shown {
					address, token := strings.CutSuffix(s, shownToken)
					got = got || token
					if token && !slices.Contains(c.dialled, address) {
						t.Errorf("hosts %q, %s: %q has shown the token to %s", c.hosts, name, target, address)
					}
				}
				if got != want {
					t.Errorf("hosts %q, %s: %q has shown the token: %v, want %v; dialled %q", c.hosts, name, target, got, want, shown)
				}
			}
		}
	}
}

type diallingTransport struct {
	http.RoundTripper
	wire *wire
}

// dialling returns a transport that goes to the URL itself, and those that come to it by a nextLink
// or a redirect.
func dialling(t testing.TB, hosts []string) map[string]diallingTransport {
	all := make(map[string]diallingTransport)
	w := &wire{}
	config := secret(hosts...)
	config.Base = w.transport()
	config.Policy = steadyhttp.Policy{MaxAttempts: 1}
	all["direct"] = diallingTransport{newTransport(t, config), w}

	w = &wire{}
	config.Base = w.transport()
	client := &http.Client{Transport: newTransport(t, config)}
	all["client"] = diallingTransport{roundTripper(func(req *http.Request) (*http.Response, error) {
		next, err := http.NewRequestWithContext(req.Context(), "GET", req.URL.String(), nil)
		if err != nil {
			return nil, err
		}
		next.URL.User = nil // http.Client would make Authorization of it
		return client.Do(next)
	}), w}
	return all
}

// A redirect from a configured host takes the token to that host alone, and to no name that folds
// to it.
func TestTokenIsNotRedirectedToALookalike(t *testing.T) {
	const start = "https://desk.corp/api"
	for to, want := range map[string]bool{
		"https://desk.corp/x":           true,
		"https://DESK.corp:443/x":       true,
		"/x":                            true,
		"https://des\u212a.corp/x":      false,
		"https://des%E2%84%AA.corp/x":   false,
		"https://de\u017fk.corp/x":      false,
		"https://de%C5%BFk.corp/x":      false,
		"https://\uff44esk.corp/x":      false,
		"https://de\u00adsk.corp/x":     false,
		"https://desk\u3002corp/x":      false,
		"https://desk.corp./x":          false,
		"https://desk.corp:0443/x":      false,
		"https://desk.corp:80/x":        false,
		"http://desk.corp/x":            false,
		"https://desk.corp@evil.corp/x": false,
		"https://evil.corp/desk.corp":   false,
		"https://desk.corp.evil.corp/x": false,
		"https://other.desk.corp/x":     false,
	} {
		first := true
		w := &wire{}
		config := secret("desk.corp")
		base := w.transport()
		config.Policy = steadyhttp.Policy{MaxAttempts: 1}
		config.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := base.RoundTrip(req)
			if first && err == nil {
				first = false
				resp.StatusCode = http.StatusTemporaryRedirect
				resp.Header.Set("Location", to)
			}
			return resp, err
		})
		client := &http.Client{Transport: newTransport(t, config)}
		resp, err := client.Get(start)
		if err == nil {
			resp.Body.Close()
		}
		w.mu.Lock()
		if len(w.shown) == 0 || w.shown[0] != "desk.corp:443"+shownToken {
			t.Fatalf("the first request was %q", w.shown)
		}
		got := len(w.shown) > 1 && strings.HasSuffix(w.shown[1], shownToken)
		if got != want {
			t.Errorf("%q: shown %q, %v", to, w.shown, err)
		}
		w.mu.Unlock()
	}
}

// What is no host, or not spelled as it would be dialled, is told, with what to write in its place.
func TestHostsThatCannotBeMeant(t *testing.T) {
	for host, want := range map[string]string{
		"m\u0130crosoft.com":              "xn--",
		"\u212aiosk.corp":                 "xn--",
		"m%C3%ADcrosoft.com":              "is not a host",
		"proxy.corp:0443":                 "port",
		"proxy.corp:0":                    "port",
		"proxy.corp:65536":                "port",
		"proxy.corp:99999999999999999999": "port",
		"proxy.corp:http":                 "is not a host",
		"proxy.corp:-1":                   "is not a host",
		"https://proxy.corp":              "is not a host",
		"proxy.corp/api":                  "is not a host",
		"proxy.corp?":                     "is not a host",
		"proxy.corp#":                     "is not a host",
		"u:hush@proxy.corp":               "is not a host",
		"[proxy.corp]":                    "is not a host",
		"::1":                             "is not a host",
		"[::1":                            "is not a host",
		":":                               "is not a host",
		"proxy corp":                      "is not a host",
		"%70roxy.corp":                    "is not a host",
	} {
		_, err := defender.New(secret("ok.corp", host))
		if err == nil || !strings.Contains(err.Error(), "Config.Hosts[1]") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", host, err)
		}
	}
}
