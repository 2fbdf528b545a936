package steadyhttp

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp/internal/redact"
)

// FuzzEnvelope: whatever a body says, what comes out of it can be printed on one line, and is bounded.
func FuzzEnvelope(f *testing.F) {
	for _, body := range []string{
		`{"error":{"code":"ResourceNotFound","message":"Machine 1 was not found","target":"43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}`,
		` { "error" : { "target" : "t" , "code" : "A" , "message" : "" } } `,
		`{"error":{"code":"A","code":"B","target":"t"}}`,
		`{"error":{"code":"A","message":"m","target":"t",}}`,
		`{"error":{"code":"A","message":"m","target":"t"}}x`,
		`{"error":{"code":"A","message":"é","target":"t"}}`,
		`{"error":{"code":"A","message":"say \"no\"","target":"t"}}`,
		`{"error":{"code":"A","message":"m","target":null,"innerError":{"request-id":"r"}}}`,
		`{"error":{"code":429,"message":"m"}}`,
		`{"error":"invalid_grant","error_description":"expired"}`,
		`{"statusCode":404,"message":"Resource not found"}`,
		`<Error><Code>A</Code></Error>`,
		"{\"error\":{\"code\":\"\u202e\",\"message\":\"\\u0000\\ud800\",\"target\":\"\xff\"}}",
		`{"error":{"code":"` + strings.Repeat("x", 200) + `","target":"t"}}`,
		`{"error":{"code":"","message":"","target":""}}`,
		strings.Repeat(`{"error":`, 100),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		v := (&Rules{}).parseEnvelope(&Attempt{}, body)
		for field, x := range map[string]struct {
			text string
			max  int
		}{"Code": {v.Code, redact.MaxCode}, "Message": {v.Message, redact.MaxMessage}, "Target": {v.TrackingID, redact.MaxID}} {
			if len(x.text) > x.max {
				t.Errorf("%s has %d bytes", field, len(x.text))
			}
			if !utf8.ValidString(x.text) || strings.ContainsFunc(x.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s cannot be printed: %q", field, x.text)
			}
		}
	})
}

// FuzzRedactURL: nothing of a secret in the userinfo or in a query's value survives, nor in a path's parameter, whether anybody has escaped it
// or not, in the URL alone or in an error around it. The canary stands at both ends of the secret, so that half of one
// shows, too.
func FuzzRedactURL(f *testing.F) {
	for _, s := range []string{"", "x", "a:b", "a@b", "a/b", "a?b", "a#b", "a%b", "a%zz", "a b", "a[b", "a]b", `a\b`, `a"b`, "a\x00b", "a\nb", "a\x7fb", "é", "\xff", "a=b", "a;b", "a&b", "a+b", "//", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		secret := "canary" + s + "canary"
		escaped := url.URL{
			Scheme: "https", User: url.UserPassword("user", secret), Host: "api.example", Path: "/x",
			RawQuery: url.Values{"key": {secret}}.Encode(), Fragment: secret,
		}
		urls := []string{
			escaped.String(),
			"https://user:" + secret + "@api.example/x",
			"https://user:" + secret + "@api.example/x?a=b",
			"https://api.example/%zz?key=" + url.QueryEscape(secret),
			"https://api.example/x;jsessionid=" + url.PathEscape(secret) + "/y;v=1?a=b",
			"https://api.example/x;jsessionid=" + url.PathEscape(secret) + "/%zz",
			"https://user:" + url.QueryEscape(secret) + "@api.example:port/x",
		}
		if !strings.Contains(s, "&") { // which would end the value
			urls = append(urls, "https://api.example/x?key="+secret, "https://api.example/x?a=b&key="+secret+"&c=d")
		}
		for _, raw := range urls {
			if u, err := url.Parse(raw); err == nil && strings.Contains(raw, secret+"@") {
				if password, _ := u.User.Password(); !strings.Contains(password, secret) {
					continue // a URL indeed, with another password and the rest of this one in its path or a query's name
				}
			}
			for how, text := range map[string]string{
				"alone":     redact.String(raw),
				"in errors": RedactError(&url.Error{Op: "Get", URL: raw, Err: errors.New("failed")}),
				"wrapped":   (&Error{Attempts: 1, Stop: StopAttempts, Err: &url.Error{Op: "Get", URL: raw, Err: errors.New("failed")}}).Error(),
			} {
				if strings.Contains(text, "canary") {
					t.Errorf("%s: %q has become %q", how, raw, text)
				}
				if strings.ContainsAny(text, "\r\n") {
					t.Errorf("%s: more than one line: %q", how, text)
				}
			}
		}
	})
}
