package steadyotel_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// shownQuery returns the query of the url.full that both spans of a call have.
func shownQuery(t *testing.T, c steadyotel.Config, query string) string {
	t.Helper()
	u, err := url.Parse("https://api.example/api/alerts")
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = query
	full := shownURL(t, c, u)
	shown, ok := strings.CutPrefix(full, "https://api.example/api/alerts?")
	if !ok {
		t.Fatalf("url.full is %q", full)
	}
	return shown
}

// shownURL returns the url.full that both spans of a call have.
func shownURL(t *testing.T, c steadyotel.Config, u *url.URL) string {
	t.Helper()
	s := newSDK(t)
	req := newRequest(t, t.Context(), "GET", "https://api.example/")
	req.URL = u
	finish((&steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(c)}).RoundTrip(req))
	full, _ := value(s.attempts()[0].Attributes(), "url.full")
	call, _ := value(s.parent(t).Attributes(), "url.full")
	assertText(t, "the call's", call.AsString(), full.AsString())
	return full.AsString()
}

// What lets somebody in is never in url.full: by its name, however that is spelt, by its looks, or
// by what stands within a value. The seven of the conventions are the first.
func TestSecretsAreNotInURLs(t *testing.T) {
	const random = "dGhpcyBpcyBhIHRlc3Q0MTI" // mixed case and digits
	names := strings.Fields(`X-Amz-Signature X-Amz-Credential X-Amz-Security-Token AWSAccessKeyId Signature sig X-Goog-Signature
		SIG x-amz-signature X-Goog-Credential token access_token refresh_token id_token accessToken $skiptoken deltatoken
		key api_key apikey api-key APIKey subscription-key Ocp-Apim-Subscription-Key sharedAccessKey x-functions-key
		secret client_secret password passwd pwd user_password passphrase pass auth authorization oauth_verifier
		code sas sid session sessionid PHPSESSIONID jwt bearer assertion client_assertion SAMLRequest hmac mac ticket nonce state
		otp pin csrf_token xsrf cookie credential credentials cert private %73ig %2573ig %74oken s%69g tok%65n
		PHPSESSID sessid sign api_sign digest requestSig dbPass userpass passcode creds totp mfa psk magic userPin smsOtp`)
	values := []string{"x", "canary", "a%20b", "1"}
	for _, name := range names {
		for _, value := range values {
			if got, want := shownQuery(t, steadyotel.Config{}, "$top=5&"+name+"="+value), "$top=5&"+name+"=REDACTED"; got != want {
				t.Errorf("%s=%s: %s", name, value, got)
			}
		}
	}
	for _, secret := range []string{
		random, url.QueryEscape("AKIAIOSFODNN7EXAMPLE0"), "0123456789abcdef0123456789abcdef", "ghp_" + random + random, "xoxb-1234-" + random,
		"eyJhbGciOiJIUzI1NiJ9." + random + "." + random, url.QueryEscape("a/b+" + random + "=="),
		"https://user:canary@api.example/", url.QueryEscape("https://user:canary@api.example/"),
		url.QueryEscape("https://storage.example/f?sv=1&sig=canary"), url.QueryEscape(url.QueryEscape("https://storage.example/f?sig=canary")),
		url.QueryEscape(`{"token":"canary"}`), url.QueryEscape(`{"api_key": "canary"}`), url.QueryEscape("password eq 'canary'"),
		url.QueryEscape("password ne 'canary'"), url.QueryEscape("a eq 1 and apiKey gt 'canary'"), "token+in+('canary')",
		url.QueryEscape("startswith(password,'canary')"), url.QueryEscape("not contains(user/secret, 'canary')"),
		url.QueryEscape("tolower(password) eq 'canary'"), url.QueryEscape("pwd has 'canary'"),
		url.QueryEscape("Bearer canary"), url.QueryEscape("Basic Y2FuYXJ5"), url.QueryEscape("-----BEGIN PRIVATE KEY-----"),
		"1;sig=canary", "1;token=canary", url.QueryEscape("a\x00canary") + "\x00", "\xff" + "canary",
	} {
		for _, name := range []string{"q", "$filter", "returnUrl"} {
			if got := shownQuery(t, steadyotel.Config{}, name+"="+secret); got != name+"=REDACTED" {
				t.Errorf("%s=%s: %s", name, secret, got)
			}
		}
	}
	for query, want := range map[string]string{
		"canary": "REDACTED", "canary=": "REDACTED", "canary==": "REDACTED", random + "=1": "REDACTED", "a\xff=1": "REDACTED",
		"a=1&canary&b=2": "a=1&REDACTED&b=2",
	} {
		assertText(t, query, shownQuery(t, steadyotel.Config{}, query), want)
	}
}

// A path has secrets in its parameters (RFC 3986 section 3.3): Java's servers put a session's ID there.
func TestSecretsAreNotInPaths(t *testing.T) {
	for _, all := range []bool{false, true} {
		for path, want := range map[string]string{
			"/a;jsessionid=canary":              "/a;jsessionid=REDACTED",
			"/a;v=1;jsessionid=can%2Fary/b?c=1": "/a;v=REDACTED;jsessionid=REDACTED/b?c=1",
			"/a;b/c":                            "/a;b/c",
			"/a;Y2FuYXJ5==/b?c=1":               "/a;REDACTED/b?c=1",
			"/a;sid,canary;sid%3Dcanary":        "/a;sid=REDACTED;sid=REDACTED",
			"/a;canarycanarycanary?c=1":         "/a;REDACTED?c=1",
		} {
			if all {
				want = strings.ReplaceAll(want, "c=1", "c=REDACTED")
			}
			u, err := url.Parse("https://api.example" + path)
			if err != nil {
				t.Fatal(err)
			}
			assertText(t, path, shownURL(t, steadyotel.Config{RedactQuery: all}, u), "https://api.example"+want)
		}
	}
}

// A program that builds a URL of its parts may put a userinfo into the host.
func TestUserinfoInHost(t *testing.T) {
	for _, all := range []bool{false, true} {
		for _, query := range []string{"", "c=1"} {
			u := &url.URL{Scheme: "https", Host: "user:canary@api.example", Path: "/a", RawQuery: query}
			if got := shownURL(t, steadyotel.Config{RedactQuery: all}, u); strings.Contains(got, "canary") {
				t.Error(got)
			}
		}
	}
}

// What diagnosis needs is there: OData's options, pages, names, hashes and IDs in filters.
func TestHarmlessValuesAreInURLs(t *testing.T) {
	for _, query := range []string{
		"color=blue", "$top=100&$skip=2000", "$filter=" + url.QueryEscape("severity eq 'High' and status ne 'Resolved'"),
		"$filter=alertCreationTime%20ge%202026-11-26T12:00:00Z", "$filter=" + url.QueryEscape("assignedTo eq 'someone'"),
		"$filter=" + url.QueryEscape("sha1 eq '87662bc3d60e4200ceaf7aae249d1c343f4b83c9'"),
		"$filter=" + url.QueryEscape("id eq 'da637292082891366787_322129023'"),
		"$orderby=lastUpdateTime%20desc", "$select=id,computerDnsName,osPlatform", "$select=id,accessCode,state", "$orderby=code,id",
		"$filter=" + url.QueryEscape("startswith(computerDnsName,'a') and lastSeen gt 2026-11-26 and osPlatform in ('A','B')"),
		"$filter=" + url.QueryEscape("machineTags/any(tag: tag eq 'a')"), "$expand=evidence", "$count=true", "api-version=2024-01-01",
		"page=3&per_page=50", "machineId=43f4cb08-8fac-4b65-9db1-745c2ae65f3a", "since=2026-11-26T12%3A00%3A00.0000000Z", "statusCode=404", "lang=en-US",
	} {
		assertText(t, "query", shownQuery(t, steadyotel.Config{}, query), query)
	}
}

// RedactQuery leaves no value at all, as in the log.
func TestRedactQuery(t *testing.T) {
	assertText(t, "query", shownQuery(t, steadyotel.Config{RedactQuery: true}, "$top=5&color=blue&x"), "$top=REDACTED&color=REDACTED&REDACTED")
}

// Whatever a URL is, what is shown of it is text, bounded, and has its path as the log has it.
func FuzzURL(f *testing.F) {
	for _, query := range []string{"a=1&b=2", "sig=%", "%73ig=x&&&=&==", "a=%ff%00", "a=1;sig=x", "q=" + strings.Repeat("%25", 1000) + "41"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		shown := shownQuery(t, steadyotel.Config{}, "x=1&"+query)
		if len(shown) > 3*2048 || strings.ContainsAny(shown, "\x00\r\n\x1b ") {
			t.Errorf("%q", shown)
		}
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			if strings.EqualFold(name, "sig") && len(value) > 8 && strings.Contains(shown, value) && strings.Count(query, value) == 1 {
				t.Errorf("the signature %q is shown: %q", value, shown)
			}
		}
	})
}
