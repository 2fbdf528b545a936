package steadyhttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// FuzzHTTPDate: what is read as a date is one that net/http reads the same way, but for leap seconds and the century of
// two-digit years; and every date that we would write is read back.
func FuzzHTTPDate(f *testing.F) {
	for _, s := range []string{
		"Sat, 21 Nov 2026 12:00:30 GMT", "Saturday, 21-Nov-26 12:00:30 GMT", "Sat Nov 21 12:00:30 2026", "Tue Dec  1 12:00:00 2026",
		"Sat, 31 Dec 2016 23:59:60 GMT", "Sat, 21 Nov 2026 12:60:30 GMT", "Wed, 31 Feb 2027 12:00:30 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Saturday, 29-Feb-00 00:00:00 GMT", "", "GMT", "2026-11-21T12:00:30Z", "120",
	} {
		f.Add(s, int64(1795262430))
	}
	f.Add("", int64(0))
	f.Add("", int64(253402300799)) // the last second of the year 9999
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		if got, ok := parseDate(s); ok {
			leap := strings.Contains(s, ":60")
			want, err := http.ParseTime(strings.Replace(s, ":60", ":59", 1))
			if err != nil {
				t.Fatalf("%q is read as %v, and net/http says %v", s, got, err)
			}
			if leap {
				want = want.Add(time.Second)
			}
			if strings.Contains(s, "-") {
				if got.After(time.Now().AddDate(50, 0, 1)) {
					t.Fatalf("%q is read as %v, more than 50 years ahead", s, got)
				}
			} else if !got.Equal(want) {
				t.Fatalf("%q is read as %v, not %v", s, got, want)
			}
		}
		date := time.Unix(unix, 0).UTC()
		if date.Year() < 0 || date.Year() > 9999 {
			return
		}
		for _, layout := range []string{http.TimeFormat, time.ANSIC} {
			if got, ok := parseDate(date.Format(layout)); !ok || !got.Equal(date) {
				t.Fatalf("%q is read as %v, %v", date.Format(layout), got, ok)
			}
		}
		if now := time.Now(); date.After(now.AddDate(-49, 0, 0)) && date.Before(now.AddDate(49, 0, 0)) {
			written := date.Format("Monday, 02-Jan-06 15:04:05 GMT")
			if got, ok := parseDate(written); !ok || !got.Equal(date) {
				t.Fatalf("%q is read as %v, %v", written, got, ok)
			}
		}
	})
}

// FuzzEnvelope: whatever the short way through the documented envelope accepts, encoding/json reads the same; and what
// comes out can be printed.
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
		v := parseEnvelope(Attempt{Body: body})
		for field, x := range map[string]struct {
			text string
			max  int
		}{"Code": {v.Code, maxCode}, "Message": {v.Message, maxMessage}, "Target": {v.Target, maxTarget}} {
			if len(x.text) > x.max {
				t.Errorf("%s has %d bytes", field, len(x.text))
			}
			if !utf8.ValidString(x.text) || strings.ContainsFunc(x.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s cannot be printed: %q", field, x.text)
			}
		}
		exact, ok := parseExactly(body)
		if !ok {
			return
		}
		if !json.Valid(body) {
			t.Errorf("accepted, and is not JSON: %q", body)
		}
		// A field that the short way does not know sends the same envelope the long way.
		if long := parseEnvelope(Attempt{Body: bytes.Replace(body, []byte("{"), []byte(`{"x":0,`), 1)}); exact != long {
			t.Errorf("%q: exactly %+v, else %+v", body, exact, long)
		}
	})
}

// FuzzRedactURL: nothing of a secret in the userinfo or in a query's value survives, whether anybody has escaped it or
// not, in the URL alone or in an error around it. The canary stands at both ends of the secret, so that half of one
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
				"alone":     redactString(raw),
				"in errors": RedactError(&url.Error{Op: "Get", URL: raw, Err: errors.New("failed")}),
				"wrapped":   (&Error{Attempts: 1, Stop: stopAttempts, Err: &url.Error{Op: "Get", URL: raw, Err: errors.New("failed")}}).Error(),
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
