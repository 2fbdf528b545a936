package redact

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	tests := []struct {
		name, in string
		max      int
		want     string
	}{
		{"plain", "Machine 1 was not found", 100, "Machine 1 was not found"},
		{"empty", "", 100, ""},
		{"exactly max", "abcde", 5, "abcde"},
		{"letters of other scripts", "Nicht gefunden: ä 機械 😀", 100, "Nicht gefunden: ä 機械 😀"},
		{"newline", "a\nb", 100, `a\nb`},
		{"carriage return", "a\r\nb", 100, `a\r\nb`},
		{"tab", "a\tb", 100, `a\tb`},
		{"NUL", "a\x00b", 100, `a\x00b`},
		{"escape", "a\x1b[31m", 100, `a\x1b[31m`},
		{"DEL", "a\x7f", 100, `a\x7f`},
		{"C1", "a\u0085", 100, `a\u0085`},
		{"line separator", "a\u2028b", 100, `a\u2028b`},
		{"bidi override", "a\u202eb", 100, `a\u202eb`},
		{"bidi isolate", "a\u2066b", 100, `a\u2066b`},
		{"zero width", "a\u200bb", 100, `a\u200bb`},
		{"byte order mark", "\ufeffa", 100, `\ufeffa`},
		{"invalid UTF-8", "a\xffb", 100, `a\xffb`},
		{"quotes stay quotes", "say \"no\"\n", 100, `say "no"\n`},
		{"quotes alone", `say "no"`, 100, `say "no"`},
	}
	for _, tt := range tests {
		if got := Text(tt.in, tt.max); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A cut never leaves half a rune, which would be escaped as if the service had sent it.
func TestCleanCutsBetweenRunes(t *testing.T) {
	for _, r := range []string{"x", "é", "機", "😀"} {
		for max := 4; max < 24; max++ {
			got := Text(strings.Repeat(r, 30), max)
			if kept := strings.TrimSuffix(got, "…"); kept == got || strings.Trim(kept, r) != "" {
				t.Errorf("%s at %d: %q", r, max, got)
			}
		}
	}
}

// Bounded and printable, whatever comes in.
func TestCleanBounds(t *testing.T) {
	for _, in := range []string{strings.Repeat("\x00", 10_000), strings.Repeat("\u202e", 10_000), strings.Repeat("\U000e0041", 10_000), strings.Repeat("\xff", 10_000), strings.Repeat("\\\n", 5000)} {
		for _, max := range []int{MaxCode, MaxMessage, MaxError} {
			got := Text(in, max)
			if len(got) > max {
				t.Errorf("%q...: %d bytes of at most %d", in[:6], len(got), max)
			}
			if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q...: not printable", in[:6])
			}
		}
	}
}

// What of a URL people may read.
func TestRedactString(t *testing.T) {
	tests := []struct{ in, want string }{
		{"https://api.example/machines/1", "https://api.example/machines/1"},
		{"https://api.example:8443/a%2Fb", "https://api.example:8443/a%2Fb"},
		{"https://user:secret@api.example/x", "https://REDACTED:REDACTED@api.example/x"},
		{"https://token@api.example/x", "https://REDACTED:REDACTED@api.example/x"},
		{"https://api.example/x?key=secret", "https://api.example/x?key=REDACTED"},
		{"https://api.example/x?a=1&key=secret&a=2", "https://api.example/x?a=REDACTED&key=REDACTED&a=REDACTED"},
		{"https://api.example/x?secret", "https://api.example/x?REDACTED"},
		{"https://api.example/x?a=1&secret", "https://api.example/x?a=REDACTED&REDACTED"},
		{"https://api.example/x?sig=a%2Bb%3D&se=2026", "https://api.example/x?sig=REDACTED&se=REDACTED"},
		{"https://api.example/x?key=sec=ret", "https://api.example/x?key=REDACTED"},
		{"https://api.example/x?key=", "https://api.example/x?REDACTED"},
		{"https://api.example/x?c2VjcmV0==", "https://api.example/x?REDACTED"},
		{"https://api.example/x?a=1&c2VjcmV0===&b=2", "https://api.example/x?a=REDACTED&REDACTED&b=REDACTED"},
		{"https://api.example/x?==", "https://api.example/x?REDACTED"},
		{"https://api.example/x?", "https://api.example/x"},
		{"https://api.example/x?a=1;key=secret", "https://api.example/x?a=REDACTED"},
		{"https://api.example/x#access_token=secret", "https://api.example/x"},
		{"https://api.example/x?k=v#secret", "https://api.example/x?k=REDACTED"},
		{"https://api.example/x;jsessionid=secret", "https://api.example/x;jsessionid=REDACTED"},
		{"https://api.example/x;jsessionid=secret/y%2Fz;v=secret?a=b", "https://api.example/x;jsessionid=REDACTED/y%2Fz;v=REDACTED?a=REDACTED"},
		{"https://api.example/x;a=sec%3Bret;b=sec=ret;c/;d=secret", "https://api.example/x;a=REDACTED;b=REDACTED;c/;d=REDACTED"},
		{"https://api.example/1;2;3", "https://api.example/1;2;3"},
		{"https://api.example/x%3Ba=b", "https://api.example/x%3Ba=b"},
		{"https://api.example/;", "https://api.example/;"},
		// Not all write "=", and a parameter without a value may be a token, padded or not.
		{"https://api.example/x;c2VjcmV0==", "https://api.example/x;REDACTED"},
		{"https://api.example/x;c2VjcmV0c2VjcmV0/y", "https://api.example/x;REDACTED/y"},
		{"https://api.example/x;sid%3Dsecret", "https://api.example/x;sid=REDACTED"},
		{"https://api.example/x;sid,secret;a:secret", "https://api.example/x;sid=REDACTED;a=REDACTED"},
		{"https://api.example/x;$sid$secret", "https://api.example/x;REDACTED"},
		{"https://api.example/x;=secret", "https://api.example/x;REDACTED"},
		{"https://api.example/x;%3D%3Dsecret", "https://api.example/x;REDACTED"},
		{"mailto:secret@api.example", "mailto:REDACTED"},
		{"", ""},
		// What does not parse is cut before any secret.
		{"https://user:secret@api.example:bad/x?key=secret", "REDACTED@api.example:bad/x"},
		{"https://user:sec ret@api.example/%zz", "REDACTED@api.example/%zz"},
		{"https://api.example/%zz?key=secret", "https://api.example/%zz"},
		{"https://api.example/%zz#secret", "https://api.example/%zz"},
		{"https://api.example/%zz;jsessionid=secret/x", "https://api.example/%zz;REDACTED"},
		{"https://api.example/x\n", `https://api.example/x\n`},
	}
	for _, tt := range tests {
		if got := String(tt.in); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

// A password with a character that nobody has escaped makes the URL unreadable. It is a password still.
func TestRedactUnescapedPassword(t *testing.T) {
	for _, c := range "?#/@ %:[\\" {
		in := fmt.Sprintf("https://user:canary1%ccanary2@api.example/x", c)
		if got := String(in); strings.Contains(got, "canary1") || strings.Contains(got, "canary2") {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// A program that builds a URL of its parts may put a userinfo into the host.
func TestRedactUserinfoInHost(t *testing.T) {
	for _, host := range []string{"user:canary@api.example", "canary@api.example", "user:c@nary:canary@api.example"} {
		u := &url.URL{Scheme: "https", Host: host, Path: "/x"}
		if got, want := URL(u), "https://REDACTED:REDACTED@api.example/x"; got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestRedactNilURL(t *testing.T) {
	if got := URL(nil); got != "" {
		t.Errorf("got %q", got)
	}
}

// A base transport that is a client of its own puts the whole URL into its error.
func TestRedactError(t *testing.T) {
	const raw = "https://user:canary1@api.example/x?key=canary2"
	inner := &url.Error{Op: "Get", URL: raw, Err: errors.New("EOF")}
	for name, err := range map[string]error{
		"bare":             inner,
		"wrapped":          fmt.Errorf("token: %w", inner),
		"twice":            fmt.Errorf("giving up on %s: %w", raw, inner),
		"nested, same URL": &url.Error{Op: "Get", URL: raw, Err: inner},
		"nested":           &url.Error{Op: "Post", URL: "https://other.example/y?z=canary3", Err: inner},
		"joined":           errors.Join(inner, &url.Error{Op: "Post", URL: "https://other.example/y?z=canary3", Err: errors.New("EOF")}),
		// As a redirect or a further page has it: replacing the shorter one first would leave the rest of the longer.
		"one is the other's beginning": &url.Error{Op: "Get", URL: raw, Err: &url.Error{Op: "Get", URL: raw + "&token=canary3", Err: errors.New("EOF")}},
		"the other way round":          errors.Join(inner, &url.Error{Op: "Get", URL: raw + "canary3", Err: errors.New("EOF")}),
		"quotable":                     &url.Error{Op: "Get", URL: `https://api.example/x?key="canary1"`, Err: errors.New("EOF")},
		"unparsable":                   &url.Error{Op: "parse", URL: "https://user:canary1@api.example/%zz?key=canary2", Err: errors.New("bad")},
		"unprintable":                  &url.Error{Op: "parse", URL: "https://user:canary1@api.example/\x7f?key=canary2", Err: errors.New("bad")},
	} {
		t.Run(name, func(t *testing.T) {
			got := Error(err)
			if strings.Contains(got, "canary") {
				t.Error(got)
			}
			if !strings.Contains(got, "api.example") {
				t.Errorf("has lost what it is about: %s", got)
			}
		})
	}
}

// Some of net/http's errors quote what the server sent: one line, and not a megabyte of it.
func TestRedactErrorIsOneBoundedLine(t *testing.T) {
	got := Error(errors.New("malformed HTTP response \"" + strings.Repeat("a\nb\x1b", 100_000)))
	if len(got) > MaxError || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%d bytes: %.100q", len(got), got)
	}
}

// Many an error prints a URL that it does not wrap: net/http one of a proxy that can't be read, an
// SDK that of its request. Its secrets are left out all the same, and the text around it stays.
func TestRedactURLsInTexts(t *testing.T) {
	for in, want := range map[string]string{
		"Get https://user:canary@api.example/x: EOF":                           "Get https://REDACTED:REDACTED@api.example/x: EOF",
		"GET https://api.example/x?sig=canary failed":                          "GET https://api.example/x?sig=REDACTED failed",
		`see "https://api.example/x?sig=canary": 2 errors`:                     `see "https://api.example/x?sig=REDACTED": 2 errors`,
		"(https://api.example/x?sig=canary).":                                  "(https://api.example/x?sig=REDACTED).",
		"http://a/?k=canary, then wss://canary@b/c#canary":                     "http://a/?k=REDACTED, then wss://REDACTED:REDACTED@b/c",
		"dial socks5h://u:canary@proxy:1080: refused":                          "dial socks5h://REDACTED:REDACTED@proxy:1080: refused",
		"GET https://api.example/x;sid=canary/y failed":                        "GET https://api.example/x;sid=REDACTED/y failed",
		"git+ssh://canary@h/x":                                                 "git+ssh://REDACTED:REDACTED@h/x",
		"https://api.example/machines/1: no such machine":                      "https://api.example/machines/1: no such machine",
		"https://api.example:8443/a%2Fb, https://[::1]:80/c":                   "https://api.example:8443/a%2Fb, https://[::1]:80/c",
		`broken: malformed MIME header: missing colon: "Set-Cookie canary\"x"`: `broken: malformed MIME header: missing colon: REDACTED`,
		`malformed MIME header line: "Set-Cookie : canary"`:                    `malformed MIME header line: REDACTED`,
		`malformed MIME header initial line: " canary"`:                        `malformed MIME header initial line: REDACTED`,
		"malformed MIME header":                                                "malformed MIME header",
		// A quote or a bracket may be a part of a secret, or end what has none.
		"GET https://h/x?$filter=mail%20eq%20'canary' failed":        "GET https://h/x?$filter=REDACTED' failed",
		"GET 'https://h/x?f='canary'' failed":                        "GET 'https://h/x?f=REDACTED'' failed",
		"GET https://h/x;a='canary' failed":                          "GET https://h/x;a=REDACTED' failed",
		`GET https://h/x?q="canary" failed`:                          `GET https://h/x?q=REDACTED" failed`,
		"GET https://h/x?q=<canary> failed":                          "GET https://h/x?q=REDACTED> failed",
		"GET https://h/x?q=`canary` failed":                          "GET https://h/x?q=REDACTED` failed",
		"<https://h/x?q=canary>; rel=next":                           "<https://h/x?q=REDACTED>; rel=next",
		"'https://h/x' and <https://h/y> and https://h/z'>":          "'https://h/x' and <https://h/y> and https://h/z'>",
		`{\"u\":\"https://h/x?q=canary\",\"m\":\"text\"}`:            `{\"u\":\"https://h/x?q=REDACTED\",\"m\":\"text\"}`,
		"https://user:can'ary@h/x":                                   "https://REDACTED:REDACTED@h/x",
		"https://h/x?a=b\u00a0canary":                                "https://h/x?a=REDACTED",
		"a ratio of 1://2":                                           "a ratio of 1://2",
		"://":                                                        "://",
		"https://":                                                   "https://",
		"no URL at all: key=value?":                                  "no URL at all: key=value?",
		`invalid port ":canary" after host, invalid port ":" later`:  `invalid port ":REDACTED" after host, invalid port ":" later`,
		`invalid proxy address "u:canary@h:80": parse "u:canary": x`: "invalid proxy address REDACTED",
	} {
		for _, err := range []error{errors.New(in), fmt.Errorf("%w", errors.New(in))} {
			if got := Error(err); got != want {
				t.Errorf("%q\n got %q\nwant %q", in, got, want)
			}
			if got := Error(errors.New(want)); got != want {
				t.Errorf("%q is redacted once more: %q", want, got)
			}
		}
	}
}

// A password that makes a URL unreadable is in none of the errors about it, however they print it.
func TestRedactErrorsOfUnreadableURLs(t *testing.T) {
	for _, c := range "?#/@ %:[\\\"" {
		for _, scheme := range []string{"http://", "socks5://", ""} {
			address := fmt.Sprintf("%suser:canary1%ccanary2@proxy.example:8080", scheme, c)
			_, parsed := url.Parse(address)
			if parsed == nil {
				continue // it is read, and then redacted
			}
			errs := []error{fmt.Errorf("invalid proxy address %q: %v", address, parsed)} // net/http's
			if scheme != "" {
				errs = append(errs, parsed, fmt.Errorf("configuration: %w", parsed), fmt.Errorf("%q: %v", address, parsed))
			}
			for _, err := range errs {
				if got := Error(err); strings.Contains(got, "canary1") || strings.Contains(got, "canary2") {
					t.Errorf("%v\n%s", err, got)
				}
			}
		}
	}
}

// What a server sends may be quoted in an error, megabytes of it: each byte is looked at a few times,
// and not as often as there are URLs.
func TestRedactErrorOfManyURLs(t *testing.T) {
	for _, piece := range []string{
		`\"a:// `, `"a:// `, `"a://\" `, "a://", "a:// ", `://`, `"://"`, `invalid port ":`, `\`, `"a://\\" `,
		"a://b'", "a://<", "a://b'@", "a://;'", `\"a://b'`, "a://'@b;",
	} {
		began := time.Now()
		Error(errors.New("malformed HTTP response " + strings.Repeat(piece, 1<<17)))
		if took := time.Since(began); took > 10*time.Second { // a product of both takes minutes
			t.Errorf("%q: %v", piece, took)
		}
	}
}
