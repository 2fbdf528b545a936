package defender_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

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
		{defender.CommercialSWA, "https://swa.api.security.microsoft.com", scope, "https://swa.api.security.microsoft.com", xdrScope, graph, login, ".com"},
		{
			defender.GCC, "https://api-gcc.securitycenter.microsoft.us", "https://api-gcc.securitycenter.microsoft.us/.default",
			"https://api-gcc.security.microsoft.us", "https://api-gcc.security.microsoft.us/.default", graph, login, ".us",
		},
		{
			defender.GCCHigh, "https://api-gov.securitycenter.microsoft.us", "https://api-gov.securitycenter.microsoft.us/.default",
			"https://api-gov.security.microsoft.us", "https://api-gov.security.microsoft.us/.default", "", "https://login.microsoftonline.us", ".us",
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
		"api-us.security.microsoft.com", "api-eu.security.microsoft.com", "api-uk.security.microsoft.com",
	}
	if got := defender.CommercialEU.Hosts(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
