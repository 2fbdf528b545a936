package steadyhttp

import (
	"net/http"
	"net/url"
	"strings"
)

// leftOrigin reports whether req is a redirect's hop that some hop of its chain has led to another origin. Once it has,
// the URL is another's choice, even where it points back.
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

func sameOrigin(a, b *http.Request) bool {
	return a.URL != nil && b.URL != nil && strings.EqualFold(a.URL.Scheme, b.URL.Scheme) &&
		strings.EqualFold(a.URL.Hostname(), b.URL.Hostname()) && port(a) == port(b)
}

func port(req *http.Request) string {
	if p := req.URL.Port(); p != "" {
		return p
	}
	if strings.EqualFold(req.URL.Scheme, "https") {
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
