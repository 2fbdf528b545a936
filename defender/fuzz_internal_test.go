package defender

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// FuzzSentence: no text panics or makes a wait that is negative or longer than the digits allow;
// and the service's own sentence is read whatever stands around it.
func FuzzSentence(f *testing.F) {
	for _, s := range []string{
		"You can send requests again in 8 seconds.", strings.Repeat("Ⱥ", 60),
		"İstanbul: again in 8 seconds", "\xff\xc8 again in ",
		"again in 99999999999999999999 seconds", "again in 8", "AGAIN IN 8 SECONDS",
		"again in again in", "\u212a\u017f", "",
	} {
		f.Add(s, uint16(8), s)
	}
	f.Fuzz(func(t *testing.T, before string, n uint16, after string) {
		const most = retryafter.Max
		for _, s := range []string{before, after, before + after} {
			if wait := sentence(s); wait < 0 || wait > most {
				t.Fatalf("%q is a wait of %v", s, wait)
			}
		}
		said := before + " You can send requests again in " + strconv.Itoa(int(n)) + " seconds." + after
		if wait := sentence(said); wait < time.Duration(n)*time.Second || wait > most {
			t.Fatalf("%q is a wait of %v", said, wait)
		}
	})
}

// FuzzParse: whatever an error answer says, the verdict is bounded, a 429 is never a failure, and
// no other status has a wait out of its message.
func FuzzParse(f *testing.F) {
	for _, status := range []int{400, 401, 403, 404, 429, 500, 503, 999} {
		for _, message := range []string{
			"You can send requests again in 8 seconds.",
			strings.Repeat("Ⱥ", 60) + " again in 8 seconds.", "No Tvm License",
			"account mode is İnactive", "",
		} {
			body, err := json.Marshal(map[string]any{"error": map[string]string{"code": "429", "message": message, "target": "t"}})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(status, body, "7")
		}
	}
	f.Add(429, []byte(`{"error":{"code":"TooManyRequests","message":"again in 8 second`), "")
	f.Add(429, []byte("again in 8 seconds"), "")
	f.Add(400, []byte(`{"error":{"code":"InvalidRequestBody"}}`), "")
	f.Fuzz(func(t *testing.T, status int, body []byte, retryAfter string) {
		a := steadyhttp.Attempt{N: 1, Body: body, Response: &http.Response{
			StatusCode: status, Header: http.Header{"Retry-After": {retryAfter}},
		}}
		v := Rules().Classify(a)
		const year = 365 * 24 * time.Hour
		if v.RetryAfter < 0 || v.RetryAfter > year || len(v.Message) > 1024+len(caseHint)+3 || len(v.Code) > 128 || len(v.TrackingID) > 128 {
			t.Fatalf("%d %q: %+v", status, body, v)
		}
		if v.Class < steadyhttp.Success || v.Class > steadyhttp.Unauthorized || status == 429 && v.Class != steadyhttp.Throttled {
			t.Fatalf("%d %q: %v", status, body, v.Class)
		}
		a.Response.Header = nil
		if v := Rules().Classify(a); v.RetryAfter > 0 && status != 429 && v.Code != "429" && v.Code != "TooManyRequests" {
			t.Fatalf("%d %q: a wait of %v", status, body, v.RetryAfter)
		}
	})
}

// FuzzHosts: a URL is that of a configured host exactly if net/http would dial what was configured.
func FuzzHosts(f *testing.F) {
	for _, name := range []string{
		"api.security.microsoft.com", "proxy.corp:80", "proxy.corp:443", "Proxy.Corp:8443",
		"[::1]:8080", "[fe80::1%25en0]", "127.0.0.1",
		"proxy.corp:", ":443", "user@host", "m\u0130crosoft.com", "xn--microsoft-6jf.com", "a:0443",
		"a:65536", "a.", "", "*", "a%41",
	} {
		for _, target := range []string{
			"https://api.security.microsoft.com/api", "https://m%C4%B0crosoft.com/",
			"https://proxy.corp/", "http://PROXY.corp/",
			"https://proxy.corp:0443/", "https://\u212a.corp", "http://[fe80::1%25en0]:80/",
			"//proxy.corp", "https://u:p@proxy.corp:80/",
			"https://" + name + "/", "http://" + name + "./",
		} {
			f.Add(name, target)
		}
	}
	f.Fuzz(func(t *testing.T, name, target string) {
		known, err := (&Config{Hosts: []string{name}}).hosts()
		if err != nil {
			if known != nil {
				t.Fatalf("%q: %v and %v", name, known, err)
			}
			return
		}
		for _, scheme := range []string{"https", "http"} {
			own, err := url.Parse(scheme + "://" + name + "/")
			if err != nil {
				t.Fatalf("%q was taken, and no URL has it: %v", name, err)
			}
			if !known.have(own) {
				t.Fatalf("%q is not its own host", own)
			}
		}
		u, err := url.Parse(target)
		if err != nil {
			return
		}
		checkDialled(t, known, name, u)
		// Not all URLs come from Parse.
		checkDialled(t, known, name, &url.URL{Scheme: "https", Host: target})
		signed(u)
		private(u)
	})
}

// checkDialled reckons as net/http does (canonicalAddr): the name by IDNA if it is not ASCII, and
// the scheme's own port.
func checkDialled(t *testing.T, known hosts, name string, u *url.URL) {
	t.Helper()
	if !known.have(u) {
		return
	}
	own := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	port := u.Port()
	if port == "" {
		port = own
	}
	configured := &url.URL{Host: strings.Replace(name, "%25", "%", 1)}
	wantPort := configured.Port()
	if wantPort == "" {
		wantPort = own
	}
	got, want := u.Hostname(), configured.Hostname()
	if port != wantPort || port == "" || !ascii(got) || !strings.EqualFold(got, want) {
		t.Fatalf("%q is taken for %q", u, name)
	}
}

// FuzzComments: what holds a comment is never taken for an update without one, however it is
// written.
func FuzzComments(f *testing.F) {
	for _, body := range []string{
		`{"status":"Resolved"}`, `{"status":"Resolved","Comment":"done"}`, `{"c\u006fmment":1}`,
		`{"COMMENTS":null}`, `null`, `[]`, `{}`,
		`{"status":1}{"comment":1}`, `{"status":1} x`, "\ufeff{}", `{"a":{"comment":1}}`,
		`{"comment":1,"comment":2}`, "", "{", `"comment"`,
		"{\"comment\u017f\":1}", strings.Repeat("[", 20000),
		`{"a":"` + strings.Repeat("x", 1<<20) + `","comment":1}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req := &http.Request{GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }}
		if comments(req) {
			return
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
			t.Fatalf("%q is no object (%v), and said to have no comment", body, err)
		}
		var update struct{ Comment, Comments json.RawMessage } // encoding/json takes any case
		if json.Unmarshal(body, &update); update.Comment != nil || update.Comments != nil {
			t.Fatalf("%q has a comment", body)
		}
		// Whoever adds one is found out.
		if body = bytes.TrimSpace(body); len(fields) > 0 {
			body = append(bytes.Clone(body[:len(body)-1]), `,"cOMMENT":1}`...)
			if !comments(req) {
				t.Fatalf("%q is said to have no comment", body)
			}
		}
	})
}

// FuzzFind: a row that is found is one that the path fits, segment by segment; and a path made of a
// row is found.
func FuzzFind(f *testing.F) {
	for _, target := range []string{
		"/api/machines/m1/isolate", "/api/machines/findbyip(",
		"/api/machines/findbyip(ip='1',timestamp=2)", "/v1.0/security/alerts/../x",
		"/api/v1/%2e%2e/machines/m1/isolate", "/beta/identityProtection", "//api//machines",
		"/api/users/contoso%2Fuser1/alerts",
		"/api/machines/%zz/tags", "/API/V1.0/alerts/", "/api/machines/m1/i\u017folate", "?", "*",
		"", "/api/machines/%/tags", "/api/)/(",
	} {
		for _, method := range []string{"GET", "POST", "PATCH", "DELETE", "HEAD", "", "get"} {
			f.Add(method, target, "m1", uint8(len(target)))
		}
	}
	all := Endpoints()
	f.Fuzz(func(t *testing.T, method, target, id string, n uint8) {
		urls := []*url.URL{{Path: target}, {Path: target, RawPath: target}, {Opaque: target, Path: "/api/indicators"}}
		if u, err := url.ParseRequestURI(target); err == nil {
			urls = append(urls, u)
		}
		for _, u := range urls {
			req := &http.Request{Method: method, URL: u, GetBody: func() (io.ReadCloser, error) { return http.NoBody, nil }}
			e, ok := Match(req)
			if route := Route(req); (route != "") != ok {
				t.Fatalf("%s %q: the route is %q, and found %v", method, u, route, ok)
			}
			if Idempotent(req) && !ok && method != "" && method != "GET" && method != "HEAD" && method != "OPTIONS" &&
				method != "TRACE" && method != "PUT" && method != "DELETE" {
				t.Fatalf("%s %q is in no table, and retried", method, u)
			}
			if ok && !fitsRow(e, method, u) {
				t.Fatalf("%s %q is taken for %s %s", method, u, e.Method, e.Path)
			}
		}

		// An id may be anything that does not look like a name of the table, nor like that of a method,
		// and is no dots.
		e := all[int(n)%len(all)]
		if id == "" || strings.Trim(id, ".") == "" || strings.ContainsAny(id, "/()") || inTable(all, id) ||
			!identifies(id, true) || strings.HasPrefix(strings.ToLower(id), "microsoft.graph.") {
			return
		}
		path := strings.NewReplacer("{id}", id, "{rest...}", id, "{ip}", id, "{time}", id, "{index}", id).Replace(e.Path)
		prefix := "/api/"
		if e.Service == Graph {
			prefix = "/v1.0/"
		}
		u := &url.URL{Path: prefix + path}
		if strings.TrimRight(u.Path, "/") != u.Path {
			return
		}
		again := &http.Request{Method: e.Method, URL: u}
		if found, ok := Match(again); !ok || found.Path != e.Path {
			t.Fatalf("%s %q is %q, want %q", e.Method, u, found.Path, e.Path)
		}
		parsed, err := url.ParseRequestURI(u.EscapedPath())
		if err != nil {
			t.Fatal(err)
		}
		again.URL = parsed
		if found, ok := Match(again); !ok || found.Path != e.Path {
			t.Fatalf("%s %q is %q once it has been sent, want %q", e.Method, u, found.Path, e.Path)
		}
	})
}

// inTable reports whether a segment of the table has this name.
func inTable(all []Endpoint, id string) bool {
	for _, e := range all {
		for segment := range strings.SplitSeq(e.Path, "/") {
			if strings.EqualFold(segment, id) {
				return true
			}
		}
	}
	return strings.EqualFold(id, "v1.0") || strings.EqualFold(id, "beta")
}

// fitsRow compares plainly what find walks through.
func fitsRow(e Endpoint, method string, u *url.URL) bool {
	if u.Opaque != "" {
		return false
	}
	if method == "" || method == "HEAD" {
		method = "GET"
	}
	if e.Method != "" && e.Method != method {
		return false
	}
	segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i := range segments {
		segment, err := url.PathUnescape(segments[i])
		if err != nil || segment == "." || segment == ".." {
			return false
		}
		segments[i] = segment
	}
	switch {
	case e.Service == Graph && (equalFold(segments[0], "v1.0") || equalFold(segments[0], "beta")):
		segments = segments[1:]
	case e.Service == Graph || !equalFold(segments[0], "api"):
		return false
	case len(segments) > 1 && (equalFold(segments[1], "v1.0") || equalFold(segments[1], "beta")):
		segments = segments[2:]
	default:
		segments = segments[1:]
	}
	row := strings.Split(e.Path, "/")
	for i, want := range row {
		if want == "{rest...}" {
			return i <= len(segments)
		}
		if i >= len(segments) || segments[i] == "" {
			return false
		}
		name, _, function := strings.Cut(want, "(")
		switch {
		case function:
			got, arguments, ok := strings.Cut(segments[i], "(")
			if !ok || !strings.HasSuffix(arguments, ")") || !equalFold(got, strings.ToLower(name)) {
				return false
			}
		case want != "{id}" && !equalFold(segments[i], strings.ToLower(want)):
			return false
		}
	}
	return len(row) == len(segments)
}

// FuzzClaims: whatever a challenge says, the claims are a JSON object of bounded length or nothing;
// and those that are asked for as documented are read, whatever challenge stands before them.
func FuzzClaims(f *testing.F) {
	for _, field := range []string{
		`Bearer realm="", error="insufficient_claims", claims="eyJhIjoxfQ=="`, `Basic realm="a, b=\"c\"", Bearer claims=eyJhIjoxfQ`,
		`Bearer`, `Bearer claims=`, `Bearer claims="`, `Bearer claims="\`, `,,,`, `=`, `"`, `NTLM TlRMTVNTUAACAAA=`, `Bearer a=b=c`, "\x00", `Bearer claims="e30`,
	} {
		f.Add(field, field, []byte(`{"access_token":{"nbf":{"essential":true}}}`))
	}
	f.Fuzz(func(t *testing.T, field, other string, claims []byte) {
		for _, fields := range [][]string{{field}, {field, other}, {field + ", " + other}, slices.Repeat([]string{field}, 50)} {
			got := claimsOf(http.Header{"Www-Authenticate": fields})
			if got != "" && (got[0] != '{' || !json.Valid([]byte(got)) || len(got) > maxChallenge) {
				t.Fatalf("%q has the claims %q", fields, got)
			}
		}
		if len(claims) > maxChallenge/2 || len(claims) == 0 || claims[0] != '{' || !json.Valid(claims) {
			return
		}
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			asked := `Bearer realm="", error="insufficient_claims", claims="` + encoding.EncodeToString(claims) + `"`
			for _, before := range []string{"", "Negotiate, ", `Basic realm="a, \"b\"", `} {
				if got := claimsOf(http.Header{"Www-Authenticate": {before + asked}}); got != string(claims) {
					t.Fatalf("%q has the claims %q, want %q", before+asked, got, claims)
				}
			}
		}
	})
}

// FuzzWarnings: whatever a 206 warns of, what is told of it is short, and of letters that anybody
// may see; and a provider's own warning is told, whatever stands before it.
func FuzzWarnings(f *testing.F) {
	for _, field := range []string{
		`199 - "Vendor/Provider/504/10000"`, `199 - "a/b/1/2", 199 x "c/d/3/4"`, `199`, `199 "`, `199 - "`, `199 - ""`, `110 - "Response is stale"`,
		"199 - \"a\x1b/b/1/2\"", `199 199 199 "a/b/1/2"`, `199 - "////"`, "",
	} {
		f.Add(field, "Vendor", uint16(504))
	}
	f.Fuzz(func(t *testing.T, field, vendor string, status uint16) {
		for _, fields := range [][]string{{field}, {field, vendor}, slices.Repeat([]string{field + vendor}, 100)} {
			told := warnings(fields)
			if told == "" || len(told) > 8*(128+2) || strings.ContainsFunc(told, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("%q is told as %q", fields, told)
			}
		}
		text := fmt.Sprintf("%s/Provider/%d/10000", vendor, status)
		if providerOf(text) != text || strings.Contains(vendor, `"`) {
			return
		}
		if told := warnings([]string{`110 - "stale"`, `199 - "` + text + `"`}); !strings.Contains(told, text) {
			t.Fatalf("%q is told as %q", text, told)
		}
	})
}

// FuzzQuotaKeys: no URL has a key without bounds, and one that is in the table is never taken for
// another's area.
func FuzzQuotaKeys(f *testing.F) {
	for _, target := range []string{
		"/v1.0/users/1/messages", "/v1.0/sites", "/", "", "//", "/v1.0/" + strings.Repeat("x", 5000), "/v1.0/a/b/c(d='e')", "/beta/\x00/%", "/api/x",
		"/v1.0/users?$top=1&$select=a", "/v1.0/users?%", "/v1.0/users?$top=99999999999999999999",
	} {
		f.Add("GET", target)
	}
	config := &Config{API: Graph, Hosts: []string{"h"}}
	known, err := config.hosts()
	if err != nil {
		f.Fatal(err)
	}
	l := limits{hosts: known, graph: true, keys: make(map[string]string), of: make(map[string]*limit)}
	l.addAll(config)
	f.Fuzz(func(t *testing.T, method, target string) {
		path, query, _ := strings.Cut(target, "?")
		req := &http.Request{Method: method, URL: &url.URL{Scheme: "https", Host: "h", Path: path, RawQuery: query}}
		key, e := l.key(req), find(req)
		switch {
		case signed(req.URL):
			if key != "" {
				t.Fatalf("%q has the key %q", target, key)
			}
		case e != nil && key != l.keys[e.Family], e == nil && (key == "" || key[0] != '/' || len(key) > 70):
			t.Fatalf("%s %q has the key %q", method, target, key)
		}
		if len(l.areas) > maxAreas {
			t.Fatalf("%d areas", len(l.areas))
		}
		for i := range 8 {
			if key := l.furtherKey(req, i); key != "" && l.of[key] == nil {
				t.Fatalf("%q has the key %q, which is nobody's", target, key)
			}
		}
		if n := units(req); n < 1 || n > 6 {
			t.Fatalf("%q costs %d", target, n)
		}
	})
}
