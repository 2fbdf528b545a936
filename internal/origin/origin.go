// Package origin compares where requests go, as RFC 6454 section 4 does.
package origin

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// Left reports whether req is a redirect's hop that some hop of its chain has led to another
// origin. Once it has, the URL is another's choice, even where it points back.
func Left(req *http.Request) bool {
	for hops := 0; req.Response != nil; hops++ {
		before := req.Response.Request
		if before == nil || hops > 100 || !sameOrigin(before, req) {
			return true
		}
		req = before
	}
	return false
}

// First returns the request that a chain of redirects has begun with.
func First(req *http.Request) *http.Request {
	for hops := 0; req.Response != nil && req.Response.Request != nil && hops < 100; hops++ {
		req = req.Response.Request
	}
	return req
}

// Origin is what RFC 6454 section 4 compares: scheme, host and port, however they are spelt.
type Origin struct{ Scheme, Host string }

func (o Origin) String() string { return o.Scheme + "://" + o.Host }

// Of returns the origin that req goes to.
func Of(req *http.Request) Origin {
	o := Origin{Scheme: lowerASCII(req.URL.Scheme), Host: lowerASCII(req.URL.Host)}
	if name, p := o.Host, req.URL.Port(); p == "" || p == usualPort(o.Scheme) {
		if bare := strings.TrimSuffix(name, ":"+p); bare != "" {
			o.Host = bare
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

// TakeBack puts the Authorization field back that a request was brought with, if it still has the one
// that was given to it since.
func TakeBack(h http.Header, brought, given []string) {
	if h == nil || slices.Equal(given, brought) || !slices.Equal(h["Authorization"], given) {
		return
	}
	if h["Authorization"] = brought; brought == nil {
		delete(h, "Authorization")
	}
}
