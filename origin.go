package steadyhttp

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// leftOrigin reports whether req is a redirect's hop that some hop of its chain has led to another
// origin. Once it has, the URL is another's choice, even where it points back.
func leftOrigin(req *http.Request) bool {
	for hops := 0; req.Response != nil; hops++ {
		before := req.Response.Request
		if before == nil || hops > 100 || !sameOrigin(before, req) {
			return true
		}
		req = before
	}
	return false
}

// firstOf returns the request that a chain of redirects has begun with.
func firstOf(req *http.Request) *http.Request {
	for hops := 0; req.Response != nil && req.Response.Request != nil && hops < 100; hops++ {
		req = req.Response.Request
	}
	return req
}

// origin is what RFC 6454 section 4 compares: scheme, host and port, however they are spelt.
type origin struct{ scheme, host string }

func (o origin) String() string { return o.scheme + "://" + o.host }

func originOf(req *http.Request) origin {
	o := origin{scheme: lowerASCII(req.URL.Scheme), host: lowerASCII(req.URL.Host)}
	if name, p := o.host, req.URL.Port(); p == "" || p == usualPort(o.scheme) {
		if bare := strings.TrimSuffix(name, ":"+p); bare != "" {
			o.host = bare
		}
	}
	return o
}

// lowerASCII leaves what is not ASCII alone: what IDNA will make of it before it is dialled is not
// ours to guess.
func lowerASCII(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf || s[i] == '%' {
			return s
		}
	}
	return strings.ToLower(s)
}

func sameOrigin(a, b *http.Request) bool {
	return a.URL != nil && b.URL != nil && sameASCII(a.URL.Scheme, b.URL.Scheme) &&
		sameHost(a.URL.Hostname(), b.URL.Hostname()) && port(a) == port(b)
}

// sameHost folds names of ASCII alone. What IDNA will make of another before it is dialled is not
// ours to guess, and an IPv6 zone has a case.
func sameHost(a, b string) bool {
	return a == b || strings.IndexByte(a, '%') < 0 && sameASCII(a, b)
}

// sameASCII is strings.EqualFold for ASCII: that one takes the Kelvin sign for a k, and the long s
// for an s.
func sameASCII(a, b string) bool {
	for i := range len(a) {
		if a[i] >= utf8.RuneSelf {
			return false
		}
	}
	return len(a) == len(b) && strings.EqualFold(a, b)
}

func port(req *http.Request) string {
	if p := req.URL.Port(); p != "" {
		return p
	}
	return usualPort(lowerASCII(req.URL.Scheme))
}

func usualPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

func cloneURL(u *url.URL) *url.URL {
	clone := *u
	if u.User != nil {
		user := *u.User
		clone.User = &user
	}
	return &clone
}
