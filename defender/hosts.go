package defender

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Service is one of the APIs that a Transport may be for.
type Service string

const (
	MDE   Service = "mde"   // Defender for Endpoint
	XDR   Service = "xdr"   // Defender XDR: incidents, and a hunting of its own
	Graph Service = "graph" // Microsoft Graph, whose /security has the successors of both
)

// Cloud is one of Microsoft's clouds. "" is Commercial.
type Cloud string

const (
	Commercial Cloud = "commercial"

	// The commercial cloud, asked at the server that is near. Its data and its tokens are the same.
	CommercialUS  Cloud = "us"
	CommercialEU  Cloud = "eu"
	CommercialUK  Cloud = "uk"
	CommercialAU  Cloud = "au"
	CommercialSWA Cloud = "swa"
	CommercialINA Cloud = "ina"
	CommercialAEA Cloud = "aea"

	// Of the US government. GCC High and the Department of Defense share Defender's hosts, and have
	// a Graph each.
	GCC     Cloud = "gcc"
	GCCHigh Cloud = "gcc-high"
	DoD     Cloud = "dod"

	// Clouds without Defender's APIs and without Graph's /security: New refuses them, and says so.
	China Cloud = "china" // operated by 21Vianet
	Bleu  Cloud = "bleu"
	Delos Cloud = "delos"
	GovSG Cloud = "govsg"
)

// API is one API of a cloud: where to call it, and what to ask a token for. The two need not be
// alike: the documentation calls one host with a token for another. A token for the wrong one is
// answered with a steady 401 or 403.
type API struct {
	Base  string // URL without the path, which begins with /api, or with Graph's version. "": there is not one for all
	Scope string // for the client credentials flow. "": likewise
}

// MDE returns the API of Defender for Endpoint.
func (c Cloud) MDE() API { return c.site().mde }

// XDR returns the API of Defender XDR, which has the incidents and a hunting of its own.
func (c Cloud) XDR() API { return c.site().xdr }

// Graph returns the API of Microsoft Graph, whose security methods are the successors of both. Its
// Base is "" for a cloud whose Graph has no /security.
func (c Cloud) Graph() API { return c.site().graph }

// Login returns the URL of the authority that gives the tokens out, with no slash at the end. Its
// path begins with the tenant.
func (c Cloud) Login() string { return c.site().login }

// Hosts returns the host names under which MDE and XDR answer, older ones included. Graph's is not
// among them: it has other tokens, and should have a Transport of its own (Config.API).
func (c Cloud) Hosts() []string { return c.site().hosts }

// site is what a cloud's name stands for.
type site struct {
	mde, xdr, graph API
	login           string
	hosts           []string
}

// clouds are those that New takes, in the order of the documentation.
func clouds() []Cloud {
	near := []Cloud{Commercial}
	near = append(near, nearby()...)
	return append(near, GCC, GCCHigh, DoD)
}

// without are the clouds that have nothing of it.
func without() []Cloud { return []Cloud{China, Bleu, Delos, GovSG} }

// nearby are the geographic hosts, in the order of run-advanced-query-api.
func nearby() []Cloud {
	return []Cloud{
		CommercialUS, CommercialEU, CommercialUK, CommercialAU, CommercialSWA, CommercialINA,
		CommercialAEA,
	}
}

const (
	publicLogin     = "https://login.microsoftonline.com"
	governmentLogin = "https://login.microsoftonline.us"
)

// site returns what is documented of the cloud: exposed-apis-list, exposed-apis-create-app-webapp,
// run-advanced-query-api, and api-supported; for the governments gov and usgov. All of them are
// pages of MicrosoftDocs/defender-docs. Graph's are those of deployments, in
// microsoftgraph/microsoft-graph-docs-contrib. It is zero for a cloud that is unknown.
func (c Cloud) site() site {
	const security = "https://api.security.microsoft.com"
	// The samples ask for this audience whatever host they call.
	const scope = "https://api.securitycenter.microsoft.com/.default"
	switch c {
	case "", Commercial:
		return site{
			API{security, scope}, API{security, security + "/.default"}, graphAt("graph.microsoft.com"),
			publicLogin, commercialHosts(),
		}
	case GCC:
		s := government("gcc")
		s.graph, s.login = graphAt("graph.microsoft.com"), publicLogin
		return s
	case GCCHigh, DoD:
		s := government("gov")
		s.graph, s.login = graphAt("graph.microsoft.us"), governmentLogin
		if c == DoD {
			s.graph = graphAt("dod-graph.microsoft.us")
		}
		return s
	case China:
		return site{login: "https://login.chinacloudapi.cn"}
	}
	if slices.Contains(nearby(), c) {
		near := "https://" + string(c) + ".api.security.microsoft.com"
		return site{
			API{near, scope}, API{near, security + "/.default"}, graphAt("graph.microsoft.com"),
			publicLogin, commercialHosts(),
		}
	}
	return site{}
}

func graphAt(host string) API {
	return API{"https://" + host, "https://" + host + "/.default"}
}

// government's scopes are inferred: the pages name hosts only, and public samples ask for each
// host's own.
func government(name string) site {
	mde, xdr := "api-"+name+".securitycenter.microsoft.us", "api-"+name+".security.microsoft.us"
	return site{
		mde:   API{"https://" + mde, "https://" + mde + "/.default"},
		xdr:   API{"https://" + xdr, "https://" + xdr + "/.default"},
		hosts: []string{mde, xdr},
	}
}

func commercialHosts() []string {
	hosts := []string{
		"api.security.microsoft.com",
		// Most examples still have this one, and integrations the one below.
		"api.securitycenter.microsoft.com",
		"api.securitycenter.windows.com",
	}
	for _, near := range nearby() {
		hosts = append(hosts, string(near)+".api.security.microsoft.com")
	}
	// The pages disagree on dots and dashes, and on the name behind them. These were documented
	// first: api-supported, and MicrosoftDocs/defender-docs#407.
	for _, name := range []string{"security", "securitycenter"} {
		for _, near := range []Cloud{CommercialUS, CommercialEU, CommercialUK} {
			hosts = append(hosts, "api-"+string(near)+"."+name+".microsoft.com")
		}
	}
	return hosts
}

// hostsOf returns the hosts of one API; "" is MDE and XDR. In the commercial cloud MDE answers
// under XDR's hosts too.
func (s site) hostsOf(api Service) []string {
	names := slices.Clone(s.hosts)
	switch api {
	case Graph:
		return []string{strings.TrimPrefix(s.graph.Base, "https://")}
	case XDR:
		return slices.DeleteFunc(names, func(name string) bool {
			return strings.Contains(name, ".securitycenter.")
		})
	case MDE:
		return slices.DeleteFunc(names, func(name string) bool {
			return strings.HasSuffix(name, ".security.microsoft.us")
		})
	}
	return names
}

// hosts are those that tokens and quotas are for, as they are dialled.
type hosts map[host]bool

// host is a name in ASCII and lower case, and the one port of it; "" is the scheme's own.
type host struct{ name, port string }

// hosts resolves the three fields that name them.
func (c *Config) hosts() (hosts, error) {
	switch c.API {
	case "", MDE, XDR, Graph:
	default:
		return nil, fmt.Errorf("defender: Config.API is %q, which is unknown; use MDE, XDR or Graph, "+
			"or none for the hosts of both MDE and XDR", c.API)
	}
	site := c.Cloud.site()
	switch {
	case slices.Contains(without(), c.Cloud):
		return nil, fmt.Errorf("defender: Config.Cloud is %q, which has neither Defender's APIs nor "+
			"/security in its Graph; use another cloud, there is nothing to call in this one", c.Cloud)
	case site.login == "":
		// A typing error would leave all calls without a quota and a token.
		return nil, fmt.Errorf("defender: Config.Cloud is %q, which is unknown; use one of this "+
			"package's constants, or for any other cloud none, and Config.Hosts", c.Cloud)
	}
	names := site.hostsOf(c.API)
	if len(c.Hosts) > 0 {
		names = c.Hosts
	}
	known := make(hosts)
	for i, name := range names {
		h, err := parseHost(name)
		if err != nil {
			return nil, fmt.Errorf("defender: Config.Hosts[%d] %w", i, err)
		}
		known[h] = true
	}
	return known, nil
}

// parseHost does not tell what it can't read: it may be a URL with a password.
func parseHost(text string) (host, error) {
	if !ascii(text) {
		return host{}, errors.New("has a letter that is not ASCII; " +
			"use the name as it is dialled, which begins with \"xn--\"")
	}
	u, err := url.Parse("//" + text)
	// In a URL, the percent sign before an IPv6 zone is escaped (RFC 6874).
	if err != nil || u.Host != strings.Replace(text, "%25", "%", 1) ||
		strings.ContainsAny(text, "* ") || !named(u.Hostname(), text) {
		return host{}, errors.New("is not a host; use a name as in \"api.security.microsoft.com\", " +
			"with a port if it is not the usual one, and no scheme")
	}
	port := u.Port()
	n, err := strconv.ParseUint(port, 10, 16)
	if port != "" && (err != nil || n == 0 || port[0] == '0') {
		return host{}, errors.New("has a port that is none; " +
			"use 1 to 65535, without zeros before it, or none for the usual one")
	}
	return host{lowerName(u.Hostname()), port}, nil
}

// named reports whether a URL's host has a name, and no colon in it unless it is an IPv6 address in
// brackets.
func named(name, host string) bool {
	return name != "" && (host[0] == '[' || !strings.Contains(name, ":"))
}

// have reports whether u leads to one of the hosts, at the port that was configured: another port
// may be another's. A name that is not ASCII is nobody's. What net/http's IDNA makes of it before
// it dials is not what any comparison here would: strings.ToLower takes U+0130 for an i, IDNA makes
// xn--… of it.
func (h hosts) have(u *url.URL) bool {
	name, port, own := u.Hostname(), u.Port(), ownPort(u.Scheme)
	if !ascii(name) {
		return false
	}
	name = lowerName(name)
	if port == "" {
		port = own
	}
	return port != "" && (h[host{name, port}] || port == own && h[host{name: name}])
}

// ownPort returns the port that a URL without one is dialled at.
func ownPort(scheme string) string {
	switch scheme {
	case "https":
		return "443"
	case "http":
		return "80"
	}
	return ""
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// lowerName leaves an IPv6 zone as it is: the names of interfaces have a case.
func lowerName(name string) string {
	if at := strings.IndexByte(name, '%'); at >= 0 {
		return strings.ToLower(name[:at]) + name[at:]
	}
	return strings.ToLower(name)
}

// signed reports whether u is the URL of a download that carries its own key: a shared access signature (SAS) of Azure
// Storage. It neither needs a token, which Azure Storage would even refuse it for, nor spends a quota of Defender's.
func signed(u *url.URL) bool {
	host := strings.TrimSuffix(u.Hostname(), ".")
	for _, storage := range [...]string{"core.windows.net", "core.usgovcloudapi.net"} {
		under := len(host) - len(storage)
		if under >= 0 && equalFold(host[under:], storage) && (under == 0 || host[under-1] == '.') {
			return true
		}
	}
	for query := u.RawQuery; query != ""; {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(pair, "=")
		if equalFold(name, "sig") || strings.Contains(name, "%") && equalFold(unescaped(name), "sig") {
			return true
		}
	}
	return false
}

// unescaped returns "" for what is longer than "sig" can be, or is no name at all.
func unescaped(name string) string {
	if len(name) > len("%73%69%67") {
		return ""
	}
	name, err := url.QueryUnescape(name)
	if err != nil {
		return ""
	}
	return name
}

// private reports whether nobody on the way can read what is sent to u: it is encrypted, or never leaves the machine, as
// in tests.
func private(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	host := u.Hostname()
	address, err := netip.ParseAddr(host)
	return u.Scheme == "http" && (err == nil && address.IsLoopback() || equalFold(host, "localhost"))
}
