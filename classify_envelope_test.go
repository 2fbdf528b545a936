package steadyhttp_test

import (
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp"
)

// The service's documented codes, each with its status.
var documentedCodes = []struct {
	code   string
	status int
}{
	{"BadRequest", 400}, {"ODataError", 400}, {"InvalidInput", 400}, {"InvalidRequestBody", 400}, {"InvalidHashValue", 400},
	{"InvalidDomainName", 400}, {"InvalidIpAddress", 400}, {"InvalidUrl", 400}, {"MaximumBatchSizeExceeded", 400},
	{"MissingRequiredParameter", 400}, {"OsPlatformNotSupported", 400}, {"ClientVersionNotSupported", 400},
	{"Unauthorized", 401}, {"Forbidden", 403}, {"DisabledFeature", 403}, {"DisallowedOperation", 403}, {"NotFound", 404},
	{"ResourceNotFound", 404}, {"TooManyRequests", 429}, {"InternalServerError", 500},
}

func TestDocumentedCodes(t *testing.T) {
	for _, c := range documentedCodes {
		message := "about " + c.code
		if c.code == "InternalServerError" {
			message = "" // documented as having none
		}
		got := (&steadyhttp.Rules{}).Classify(answered(c.status, envelope(c.code, message, "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")))
		want := steadyhttp.Verdict{
			Class: (&steadyhttp.Rules{}).Classify(answered(c.status, "")).Class,
			Code:  c.code, Message: message, TrackingID: "43f4cb08-8fac-4b65-9db1-745c2ae65f3a",
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", c.code, got, want)
		}
	}
}

func TestEnvelopeVariants(t *testing.T) {
	const graph = `"innerError":{"date":"2021-04-01T00:00:00","request-id":"r-1","client-request-id":"c-1"}`
	tests := []struct {
		name, body            string
		code, message, target string
	}{
		// The documented one, however it is written.
		{"documented", `{"error":{"code":"A","message":"m","target":"0123456789abcdef"}}`, "A", "m", "0123456789abcdef"},
		{"white space", " \r\n\t{ \"error\" : {\n\"code\" : \"A\" ,\t\"message\":\"m\" , \"target\":\"0123456789abcdef\" } } \n", "A", "m", "0123456789abcdef"},
		{"other order", `{"error":{"target":"0123456789abcdef","message":"m","code":"A"}}`, "A", "m", "0123456789abcdef"},
		{"escapes", `{"error":{"code":"A","message":"say \"no\" to C:\\x","target":"0123456789abcdef"}}`, "A", `say "no" to C:\x`, "0123456789abcdef"},
		{"unicode escapes", `{"error":{"code":"\u0041","message":"\u00e9","target":"0123456789abcdef"}}`, "A", "é", "0123456789abcdef"},
		{"other fields", `{"error":{"code":"A","message":"m","target":"0123456789abcdef","details":[{"code":"B"}]},"code":"C"}`, "A", "m", "0123456789abcdef"},
		{"letter case", `{"Error":{"Code":"A","MESSAGE":"m","tArGeT":"0123456789abcdef"}}`, "A", "m", "0123456789abcdef"},
		{"a code that comes twice", `{"error":{"code":"A","code":"B","message":"m","target":"0123456789abcdef"}}`, "B", "m", "0123456789abcdef"},
		{"no message", `{"error":{"code":"A","target":"0123456789abcdef"}}`, "A", "", "0123456789abcdef"},
		{"empty message", `{"error":{"code":"A","message":"","target":"0123456789abcdef"}}`, "A", "", "0123456789abcdef"},
		{"no target", `{"error":{"code":"A","message":"m"}}`, "A", "m", ""},
		{"null target", `{"error":{"code":"A","message":"m","target":null}}`, "A", "m", ""},
		{"null message", `{"error":{"code":"A","message":null,"target":"0123456789abcdef"}}`, "A", "", "0123456789abcdef"},
		{"no code", `{"error":{"message":"m","target":"0123456789abcdef"}}`, "", "m", "0123456789abcdef"},
		{"empty code", `{"error":{"code":"","message":"m","target":"0123456789abcdef"}}`, "", "m", "0123456789abcdef"},

		// A target is an ID only if it looks like one: elsewhere than in Defender it names a property.
		{"hierarchical target", `{"error":{"code":"A","message":"m","target":"|3f2a9c1d."}}`, "A", "m", ""},
		{"target that is no GUID", `{"error":{"code":"A","message":"m","target":"TENANT_ID"}}`, "A", "m", ""},
		{"target that is a number", `{"error":{"code":"A","message":"m","target":17}}`, "A", "m", ""},
		{"target that is an object", `{"error":{"code":"A","message":"m","target":{"id":1}}}`, "A", "m", ""},

		// Graph.
		{"Graph", `{"error":{"code":"TooManyRequests","message":"m",` + graph + `}}`, "TooManyRequests", "m", "r-1"},
		{"Graph, other spelling", `{"error":{"code":"A","message":"m","innererror":{"request-id":"r-1"}}}`, "A", "m", "r-1"},
		{"Graph, nested", `{"error":{"code":"A","message":"m","innerError":{"code":"B","request-id":"r-1","innererror":{"request-id":"r-2"}}}}`, "A", "m", "r-1"},
		{"Graph with null target and details", `{"error":{"code":"A","message":"m","target":null,"details":[],` + graph + `}}`, "A", "m", "r-1"},
		{"request-id before target", `{"error":{"code":"A","message":"m","target":"0123456789abcdef",` + graph + `}}`, "A", "m", "r-1"},
		{"innerError that is a string", `{"error":{"code":"A","message":"m","target":"0123456789abcdef","innerError":"x"}}`, "A", "m", "0123456789abcdef"},
		{"innerError that is null", `{"error":{"code":"A","message":"m","innerError":null}}`, "A", "m", ""},

		// What others send.
		{"numeric code", `{"error":{"code":429,"message":"m","target":"0123456789abcdef"}}`, "429", "m", "0123456789abcdef"},
		{"negative code", `{"error":{"code":-1,"message":"m"}}`, "-1", "m", ""},
		{"OAuth", `{"error":"invalid_grant","error_description":"expired"}`, "invalid_grant", "expired", ""},
		{"OAuth without a description", `{"error":"invalid_grant"}`, "invalid_grant", "", ""},
		{"gateway", `{"statusCode":404,"message":"Resource not found"}`, "", "Resource not found", ""},
		{"bare code and message", `{"code":"A","message":"m","target":"0123456789abcdef"}`, "A", "m", "0123456789abcdef"},
		{"message that is an object", `{"error":{"code":"A","message":{"lang":"en","value":"m"}}}`, "A", "m", ""},
		{"code that is a boolean", `{"error":{"code":true,"message":"m"}}`, "", "m", ""},

		// What breaks off gives what stands before.
		{"truncated", `{"error":{"code":"A","message":"m","target":"0123456789abcdef"`, "A", "m", "0123456789abcdef"},
		{"truncated in a name", `{"error":{"code":"A","mess`, "A", "", ""},

		// What is no envelope at all has no code: the status decides.
		{"nothing", ``, "", "", ""},
		{"white space only", " \n", "", "", ""},
		{"plain text", `Too Many Requests`, "", "", ""},
		{"XML", `<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code><Message>m</Message></Error>`, "", "", ""},
		{"HTML", `<html><body><h1>502 Bad Gateway</h1></body></html>`, "", "", ""},
		{"trailing garbage", `{"error":{"code":"A","message":"m","target":"0123456789abcdef"}}x`, "", "", ""},
		{"two values", `{"error":{"code":"A","message":"m","target":"0123456789abcdef"}}{}`, "", "", ""},
		{"array", `[{"error":{"code":"A"}}]`, "", "", ""},
		{"string", `"A"`, "", "", ""},
		{"number", `429`, "", "", ""},
		{"null", `null`, "", "", ""},
		{"empty object", `{}`, "", "", ""},
		{"null error", `{"error":null}`, "", "", ""},
		{"null error beside a code", `{"error":null,"code":"A"}`, "", "", ""},
		{"empty error", `{"error":{}}`, "", "", ""},
		{"error that is an array", `{"error":[1]}`, "", "", ""},
		{"error that is a boolean", `{"error":true}`, "", "", ""},
		{"missing comma", `{"error":{"code":"A" "message":"m"}}`, "", "", ""},
		{"trailing comma", `{"error":{"code":"A","message":"m","target":"0123456789abcdef",}}`, "", "", ""},
		{"single quotes", `{'error':{'code':'A'}}`, "", "", ""},
		{"raw newline in a string", "{\"error\":{\"code\":\"A\",\"message\":\"m\nn\",\"target\":\"t\"}}", "", "", ""},
		{"deeply nested", `{"error":` + strings.Repeat(`{"innerError":`, 20_000) + `1` + strings.Repeat(`}`, 20_001), "", "", ""},
		{"deeply nested arrays", `{"error":{"code":"A","details":` + strings.Repeat(`[`, 30_000) + strings.Repeat(`]`, 30_000) + `}}`, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := (&steadyhttp.Rules{}).Classify(answered(400, tt.body))
			want := steadyhttp.Verdict{Class: steadyhttp.Permanent, Code: tt.code, Message: tt.message, TrackingID: tt.target}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// What the service says can be printed on one line of a log, whatever it is.
func TestHostileEnvelope(t *testing.T) {
	quote := func(s string) string {
		// As JSON, by hand: invalid UTF-8 must arrive as sent.
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\x00", `\u0000`, "\x1b", `\u001b`).Replace(s) + `"`
	}
	hostile := map[string]string{
		"newline":           "a\nlevel=ERROR msg=forged",
		"carriage return":   "a\r\nSet-Cookie: x",
		"ANSI":              "a\x1b[31mred\x1b[0m",
		"NUL":               "a\x00b",
		"DEL":               "a\x7fb",
		"C1":                "a\u0085b\u009bc",
		"line separator":    "a\u2028b\u2029c",
		"bidi override":     "a\u202egnp.exe",
		"bidi isolate":      "a\u2066b\u2069",
		"zero width":        "a\u200bb\ufeff",
		"invalid UTF-8":     "a\xff\xfeb",
		"lone surrogate":    "a\xed\xa0\x80b",
		"private use":       "a\ue000b",
		"tag characters":    "a\U000e0041b",
		"huge":              strings.Repeat("x", 60_000),
		"huge and hostile":  strings.Repeat("\u202e", 20_000),
		"cut inside a rune": strings.Repeat("x", 127) + "é",
		"cut in a big rune": strings.Repeat("x", 1023) + "😀",
		"quotes":            `a "b" \c`,
	}
	for name, s := range hostile {
		t.Run(name, func(t *testing.T) {
			body := fmt.Sprintf(`{"error":{"code":%[1]s,"message":%[1]s,"innerError":{"request-id":%[1]s}}}`, quote(s))
			v := (&steadyhttp.Rules{}).Classify(answered(400, body))
			if v.Code == "" || v.Message == "" {
				t.Fatalf("nothing is left: %+v", v)
			}
			for field, got := range map[string]string{"Code": v.Code, "Message": v.Message, "Target": v.TrackingID} {
				assertPrintable(t, field, got)
			}
		})
	}
}

// An ID has at most 128 bytes. The bound is on what we make others print, so it holds after escaping too, for each of
// the three alone: an envelope as documented goes another way than one that is not.
func TestLengthOfRemoteText(t *testing.T) {
	for name, s := range map[string]string{
		"plain":    strings.Repeat("x", 5000),
		"escaped":  strings.Repeat(`\u202e`, 5000),
		"at limit": strings.Repeat("x", 128),
	} {
		for _, field := range []string{"code", "message", "target", "all"} {
			value := func(f string) string {
				if f == field || field == "all" {
					return s
				}
				return "short"
			}
			body := fmt.Sprintf(`{"error":{"code":"%s","message":"%s","innerError":{"request-id":"%s"}}}`, value("code"), value("message"), value("target"))
			v := (&steadyhttp.Rules{}).Classify(answered(400, body))
			for f, got := range map[string]string{"code": v.Code, "message": v.Message, "target": v.TrackingID} {
				most := map[string]int{"code": 128, "message": 1024, "target": 128}[f]
				if len(got) > most {
					t.Errorf("%s %s: the %s has %d bytes, more than %d", name, field, f, len(got), most)
				}
				if f == "target" && value(f) != "short" && name != "at limit" {
					continue // half an ID is none
				}
				if len(got) < min(len(value(f)), most)/2 {
					t.Errorf("%s %s: the %s has been cut to %d bytes", name, field, f, len(got))
				}
			}
		}
	}
}

// A text that was cut says so.
func TestCutTextEndsInAnEllipsis(t *testing.T) {
	v := (&steadyhttp.Rules{}).Classify(answered(400, envelope("A", strings.Repeat("x", 5000), "t")))
	if !strings.HasSuffix(v.Message, "x…") {
		t.Errorf("ends in %q", v.Message[len(v.Message)-10:])
	}
}

func assertPrintable(t testing.TB, what, s string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Errorf("%s is not valid UTF-8: %q", what, s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			t.Errorf("%s has %U: %q", what, r, s)
			return
		}
	}
}

// An error answer that came packed, since the caller or a proxy asked for it, gives its code, its ID and so its retry;
// and the caller gets its bytes as they came.
func TestPackedEnvelope(t *testing.T) {
	const id = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	plain := envelope("Busy", "later", id)
	for coding, pack := range map[string]func(io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"x-gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	} {
		t.Run(coding, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b strings.Builder
				w := pack(&b)
				io.WriteString(w, plain)
				w.Close()
				base := newScript(answers(400, b.String(), "Content-Encoding: "+coding))
				var parsed []string
				rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Busy": steadyhttp.Transient}}
				transport := &steadyhttp.Transport{Base: base, Classify: rules.Classify, Policy: steadyhttp.Policy{MaxAttempts: 2}}
				transport.Trace = &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) {
					if string(a.Body) != b.String() {
						t.Errorf("Attempt.Body is %q", a.Body)
					}
					if a.Verdict.Code != "Busy" || a.Verdict.TrackingID != id {
						t.Errorf("%+v", a.Verdict)
					}
				}}
				resp, body := do(t, transport, newRequest(t, "GET", ""))
				if base.sent() != 2 || body != b.String() || resp.Header.Get("Content-Encoding") != coding {
					t.Errorf("%d sends, then %q", base.sent(), body)
				}
				// A Parse of one's own reads what was packed, too.
				own := &steadyhttp.Rules{Parse: func(a steadyhttp.Attempt) steadyhttp.Verdict {
					parsed = append(parsed, string(a.Body))
					return (&steadyhttp.Rules{}).Classify(a)
				}}
				if v := own.Classify(answered(400, b.String(), "Content-Encoding: "+coding)); v.Code != "Busy" || parsed[0] != plain {
					t.Errorf("%+v of %q", v, parsed)
				}
			})
		})
	}
}

// The ID of an answer without an envelope is in its fields; what we sent ourselves is none.
func TestIDOutOfTheFields(t *testing.T) {
	for _, tt := range []struct {
		rules  steadyhttp.Rules
		fields []string
		want   string
	}{
		{steadyhttp.Rules{}, []string{"request-id: r-1", "client-request-id: c-1"}, "r-1"},
		{steadyhttp.Rules{}, []string{"x-ms-request-id: r-1", "x-request-id: r-2"}, "r-1"},
		{steadyhttp.Rules{}, []string{"traceparent: 00-1-1-00", "client-request-id: c-1"}, ""},
		{steadyhttp.Rules{}, []string{"x-request-id: ours"}, ""},
		{steadyhttp.Rules{IDHeaders: []string{"x-mine"}}, []string{"request-id: r-1", "X-Mine: m-1"}, "m-1"},
		{steadyhttp.Rules{IDHeaders: []string{}}, []string{"request-id: r-1"}, ""},
	} {
		for _, status := range []int{400, 429, 502} {
			a := answered(status, "<html>", tt.fields...)
			a.Request = newRequest(t, "GET", "")
			a.Request.Header.Set("X-Request-Id", "ours")
			if got := tt.rules.Classify(a).TrackingID; got != tt.want {
				t.Errorf("%d, %q: %q, want %q", status, tt.fields, got, tt.want)
			}
		}
		if v := tt.rules.Classify(answered(200, "", tt.fields...)); v.TrackingID != "" {
			t.Errorf("a success has the ID %q", v.TrackingID)
		}
	}
}

// The deepest code that the rules know decides; Azure Storage's stands in a field.
func TestCodeThatDecides(t *testing.T) {
	rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{
		"Busy": steadyhttp.Transient, "Deep": steadyhttp.Unauthorized, "ServerBusy": steadyhttp.Throttled,
	}}
	for _, tt := range []struct {
		body, field string
		code        string
		want        steadyhttp.Class
	}{
		{`{"error":{"code":"X","innerError":{"code":"Busy","innerError":{"code":"Deep"}}}}`, "", "Deep", steadyhttp.Unauthorized},
		{`{"error":{"code":"X","innerError":{"code":"Busy","innerError":{"code":"Y"}}}}`, "", "Busy", steadyhttp.Transient},
		{`{"error":{"code":"X","innerError":{"code":"Y"}}}`, "", "X", steadyhttp.Permanent},
		{`{"error":{"code":"UnknownError","innerError":{"request-id":"r"}}}`, "", "UnknownError", steadyhttp.Permanent},
		{`{"error":{"code":"Busy","message":"cut o`, "", "Busy", steadyhttp.Transient},
		{"", "x-ms-error-code: ServerBusy", "ServerBusy", steadyhttp.Throttled},
	} {
		a := answered(400, tt.body)
		if tt.field != "" {
			a = answered(400, tt.body, tt.field)
		}
		if v := rules.Classify(a); v.Code != tt.code || v.Class != tt.want {
			t.Errorf("%s %s: %+v", tt.body, tt.field, v)
		}
	}
}

// A wait that the body names counts where no field names one, and where a retry is due.
func TestWaitInTheBody(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		field  string
		want   time.Duration
	}{
		{429, `{"message":"m","retry_after":64.57}`, "X-None: x", 64570 * time.Millisecond},
		{503, `{"error":{"code":503,"details":[{"retryDelay":"34.07s"}]}}`, "X-None: x", 34070 * time.Millisecond},
		{429, `{"retry_after_ms":250}`, "X-None: x", 250 * time.Millisecond},
		{429, `{"retry_after":60}`, "Retry-After: 5", 5 * time.Second},
		{429, `{"retry_after":60}`, "Retry-After: 0", time.Minute},
		{429, `{"retry_after":60}`, "X-RateLimit-Reset: 30", 30 * time.Second},
		{429, `{"retry_after":0}`, "X-None: x", 0},
		{429, `{"retry_after":"soon"}`, "X-None: x", 0},
		{429, `{"retry_after":99999999}`, "X-None: x", 0},
		{400, `{"retry_after":60}`, "X-None: x", 0},
		{401, `{"retry_after":60}`, "X-None: x", 0},
	} {
		if v := (&steadyhttp.Rules{}).Classify(answered(tt.status, tt.body, tt.field)); v.RetryAfter != tt.want {
			t.Errorf("%d %s %s: %v, want %v", tt.status, tt.body, tt.field, v.RetryAfter, tt.want)
		}
	}
}

// .NET writes a byte order mark before its JSON, which RFC 8259 section 8.1 lets a reader ignore.
func TestEnvelopeAfterAByteOrderMark(t *testing.T) {
	const id = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	v := (&steadyhttp.Rules{}).Classify(answered(404, "\ufeff"+envelope("ResourceNotFound", "gone", id)))
	if v.Code != "ResourceNotFound" || v.Message != "gone" || v.TrackingID != id {
		t.Errorf("%+v", v)
	}
}
