package origin

import (
	"net/http"
	"net/url"
	"testing"
)

// Two URLs are of one origin if they are dialled alike: letters are folded in ASCII alone, which is
// all that RFC 6454 section 4 and net/http agree on.
func TestOriginsFoldASCIIOnly(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"https://api.example/", "https://API.Example/x", true},
		{"https://api.example/", "HTTPS://api.example:443/", true},
		{"https://api.example/", "https://api.example:/", true},
		{"http://api.example/", "http://api.example:80/", true},
		{"https://api.example/", "http://api.example/", false},
		{"https://api.example/", "http://api.example:443/", false},
		{"https://api.example/", "https://api.example:0443/", false},
		{"https://api.example/", "https://api.example:80/", false},
		{"https://api.example/", "https://api.example./", false},
		{"https://api.example/", "https://api.example.evil.example/", false},
		{"https://api.example/", "https://user@api.example/", true},
		{"https://api.example/", "https://api.example@evil.example/", false},
		{"https://desk.example/", "https://des\u212a.example/", false},
		{"https://des\u212a.example/", "https://desk.example/", false},
		{"https://desk.example/", "https://de\u017fk.example/", false},
		{"https://desk.example/", "https://de%C5%BFk.example/", false},
		{"https://desk.example/", "https://\uff44esk.example/", false},
		{"https://desk.example/", "https://desk\u3002example/", false},
		{"https://desk.example/", "https://de\u00adsk.example/", false},
		{"https://m\u0130.example/", "https://mi.example/", false},
		{"https://m\u0130.example/", "https://m%C4%B0.example/", true},
		{"https://m\u0130.example/", "https://M\u0130.example/", false},
		{"https://m\u00fc.example/", "https://m\u00dc.example/", false},
		{"https://m\u00fc.example/", "https://m\u00fc.example/x", true},
		{"https://m\u00fc.example/", "https://xn--m-xka.example/", false},
		{"https://\u2126.example/", "https://\u03c9.example/", false},
		{"http://[::1]/", "http://[::1]:80/", true},
		{"http://[FE80::1]/", "http://[fe80::1]/", true},
		{"http://[fe80::1%25en0]/", "http://[fe80::1%25en0]/", true},
		{"http://[fe80::1%25en0]/", "http://[fe80::1%25EN0]/", false},
		{"http://[fe80::1%25en0]/", "http://[fe80::1]/", false},
		{"http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", false},
	} {
		a, b := requestTo(t, c.a), requestTo(t, c.b)
		if got := sameOrigin(a, b); got != c.want {
			t.Errorf("%q and %q: %v, want %v", c.a, c.b, got, c.want)
		}
		if got := sameOrigin(b, a); got != c.want {
			t.Errorf("%q and %q: %v, want %v", c.b, c.a, got, c.want)
		}
		if got := Of(a) == Of(b); got != c.want {
			t.Errorf("originOf %q and %q: same %v, want %v", c.a, c.b, got, c.want)
		}
		b.Response = &http.Response{Request: a}
		if got := Left(b); got == c.want {
			t.Errorf("%q redirected to %q: left %v", c.a, c.b, got)
		}
	}
	// No URL of Parse has such a scheme, and no transport knows it.
	if sameOrigin(&http.Request{URL: &url.URL{Scheme: "http\u017f", Host: "a"}}, &http.Request{URL: &url.URL{Scheme: "https", Host: "a"}}) {
		t.Error("a scheme with a long s is https")
	}
}

// A long chain of redirects within an origin has not left it; one detour has, wherever it ends.
func TestChainsOfRedirects(t *testing.T) {
	for _, detour := range []bool{false, true} {
		req := requestTo(t, "https://api.example/")
		first := req
		for hop := range 50 {
			next := requestTo(t, "https://api.example/")
			if detour && hop == 10 {
				next = requestTo(t, "https://other.example/")
			}
			next.Response = &http.Response{Request: req}
			req = next
		}
		if Left(req) != detour || First(req) != first {
			t.Errorf("with a detour %v: left %v, first %p", detour, Left(req), First(req))
		}
	}
}

func requestTo(t *testing.T, target string) *http.Request {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Request{URL: u}
}
