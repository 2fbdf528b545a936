package envelope

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const (
	guid  = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	guid2 = "0f8fad5b-d9cb-469f-a165-70867728950e"
)

// forms are what services send, each with what it says.
var forms = []struct {
	name, body string
	want       Envelope
}{
	// Microsoft's.
	{"Defender", `{"error":{"code":"ResourceNotFound","message":"Machine 1 was not found","target":"` + guid + `"}}`, Envelope{Code: "ResourceNotFound", Message: "Machine 1 was not found", ID: guid}},
	{"other order", `{"error":{"target":"` + guid + `","message":"m","code":"A"}}`, Envelope{Code: "A", Message: "m", ID: guid}},
	{"other case", `{"ERROR":{"Code":"A","MESSAGE":"m","tArGeT":"` + guid + `","INNERERROR":{"Request-ID":"r-1"}}}`, Envelope{Code: "A", Message: "m", ID: "r-1"}},
	{"Graph", `{"error":{"code":"TooManyRequests","message":"m","innerError":{"date":"2021-04-01T00:00:00","request-id":"r-1","client-request-id":"c-1"}}}`, Envelope{Code: "TooManyRequests", Message: "m", ID: "r-1"}},
	{"Graph, the client's ID first", `{"error":{"code":"A","message":"m","innerError":{"client-request-id":"c-1","clientRequestId":"c-2","requestId":"r-1"}}}`, Envelope{Code: "A", Message: "m", ID: "r-1"}},
	{"Graph, empty code", `{"error":{"code":"","message":"m","innerError":{"code":"B","request-id":"r-1"}}}`, Envelope{Code: "B", Message: "m", ID: "r-1"}},
	{"Graph, null code", `{"error":{"code":null,"message":"m","innerError":{"code":"B","request-id":"r-1"}}}`, Envelope{Code: "B", Message: "m", ID: "r-1"}},
	{"Graph, no code at all", `{"error":{"code":"","message":"m","innerError":{"request-id":"r-1"}}}`, Envelope{Code: "", Message: "m", ID: "r-1"}},
	{"Graph, UnknownError", `{"error":{"code":"UnknownError","message":"","innerError":{"request-id":"r-1"}}}`, Envelope{Code: "UnknownError", Message: "", ID: "r-1"}},
	{"Graph, UnknownError with more below", `{"error":{"code":"UnknownError","message":"","innerError":{"code":"B","message":"inner"}}}`, Envelope{Code: "B", Message: "inner", ID: ""}},
	{"code that is a number", `{"error":{"code":429,"message":"m","innerError":{"request-id":"r-1"}}}`, Envelope{Code: "429", Message: "m", ID: "r-1"}},
	{"nested, none known", `{"error":{"code":"A","message":"m","innerError":{"code":"B","innererror":{"code":"C","request-id":"r-2"}}}}`, Envelope{Code: "A", Message: "m", ID: "r-2"}},
	{"nested, one known", `{"error":{"code":"A","message":"m","innerError":{"code":"Known1","innererror":{"code":"C"}}}}`, Envelope{Code: "Known1", Message: "m", ID: ""}},
	{"nested, two known", `{"error":{"code":"Known1","message":"m","innerError":{"code":"B","innererror":{"code":"Known2","innerError":{"code":"D"}}}}}`, Envelope{Code: "Known2", Message: "m", ID: ""}},
	{"nested, outermost known", `{"error":{"code":"Known1","message":"m","innerError":{"code":"B"}}}`, Envelope{Code: "Known1", Message: "m", ID: ""}},
	{"nested, known by escapes", `{"error":{"code":"A","innerError":{"code":"\u004bnown2"}}}`, Envelope{Code: "Known2", Message: "", ID: ""}},
	{"nested, inner first", `{"error":{"innerError":{"innererror":{"code":"Known2"},"code":"B"},"code":"A","message":"m"}}`, Envelope{Code: "Known2", Message: "m", ID: ""}},
	{"two request IDs", `{"error":{"code":"A","innerError":{"innererror":{"request-id":"r-2"},"request-id":"r-1"}}}`, Envelope{Code: "A", Message: "", ID: "r-1"}},
	{"null target, details", `{"error":{"code":"A","message":"m","target":null,"details":[{"code":"B","target":"` + guid2 + `"}],"innerError":{"request-id":"r-1"}}}`, Envelope{Code: "A", Message: "m", ID: "r-1"}},
	{"innerError before target", `{"error":{"code":"A","message":"m","target":"` + guid2 + `","innerError":{"request-id":"` + guid + `"}}}`, Envelope{Code: "A", Message: "m", ID: guid}},
	{"a property as target", `{"error":{"code":"A","message":"m","target":"properties.storageProfile"}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"a short target", `{"error":{"code":"A","message":"m","target":"deadbeef"}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"a target of hexadecimal", `{"error":{"code":"A","message":"m","target":"0AF7651916CD43DD"}}`, Envelope{Code: "A", Message: "m", ID: "0AF7651916CD43DD"}},
	{"a target of 15", `{"error":{"code":"A","message":"m","target":"0AF7651916CD43D"}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"a target of two parts", `{"error":{"code":"A","message":"m","target":"0af76519_16cd43dd"}}`, Envelope{Code: "A", Message: "m", ID: "0af76519_16cd43dd"}},
	{"a target of lines", `{"error":{"code":"A","message":"m","target":"----------------"}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"target before trace", `{"error":{"code":"A","message":"m","target":"` + guid + `"},"traceId":"t-1"}`, Envelope{Code: "A", Message: "m", ID: guid}},
	{"a property, then a trace", `{"error":{"code":"A","message":"m","target":"name"},"traceId":"t-1"}`, Envelope{Code: "A", Message: "m", ID: "t-1"}},
	{"a request ID beside the error", `{"error":{"code":"A","message":"m"},"request_id":"r-1"}`, Envelope{Code: "A", Message: "m", ID: "r-1"}},

	// OData's.
	{"odata.error", `{"odata.error":{"code":"Request_ResourceNotFound","message":{"lang":"en","value":"not there"},"requestId":"r-1","date":"2020-01-01T00:00:00"}}`, Envelope{Code: "Request_ResourceNotFound", Message: "not there", ID: "r-1"}},
	{"message object", `{"error":{"code":"A","message":{"value":"m","lang":"en"}}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"message object with more", `{"error":{"code":"A","message":{"x":{"value":"n"},"value":"m"}}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"message object outside", `{"code":"A","message":{"value":"m"}}`, Envelope{Code: "A", Message: "m", ID: ""}},

	// OAuth's and Entra's.
	{"OAuth", `{"error":"invalid_grant","error_description":"expired"}`, Envelope{Code: "invalid_grant", Message: "expired", ID: ""}},
	{"Entra", `{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired.\r\nTrace ID: ` + guid + `","error_codes":[7000222],"timestamp":"2026-11-26 12:00:00Z","trace_id":"` + guid + `","correlation_id":"` + guid2 + `","error_uri":"https://login.microsoftonline.com/error?code=7000222"}`, Envelope{Code: "invalid_client", Message: "AADSTS7000222: The provided client secret keys are expired.\r\nTrace ID: " + guid, ID: guid}},
	{"correlation ID alone", `{"error":"invalid_client","correlation_id":"` + guid2 + `"}`, Envelope{Code: "invalid_client", Message: "", ID: ""}},
	{"Spring", `{"timestamp":"2026-11-26T12:00:00","status":404,"error":"Not Found","message":"none","path":"/x","requestId":"r-1"}`, Envelope{Code: "Not Found", Message: "none", ID: "r-1"}},

	// ASP.NET's, and bare ones.
	{"ASP.NET", `{"Message":"An error has occurred.","ExceptionMessage":"x"}`, Envelope{Code: "", Message: "An error has occurred.", ID: ""}},
	{"API Management", `{"statusCode":404,"message":"Resource not found","activityId":"a"}`, Envelope{Code: "", Message: "Resource not found", ID: ""}},
	{"bare", `{"code":"A","message":"m","target":"` + guid + `"}`, Envelope{Code: "A", Message: "m", ID: guid}},
	{"bare, with an inner error", `{"code":"A","message":"m","innererror":{"code":"Known1","request-id":"r-1"}}`, Envelope{Code: "Known1", Message: "m", ID: "r-1"}},
	{"error that is true", `{"error":true,"code":"A","message":"m"}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"meta", `{"meta":{"query_time":0.1,"trace_id":"t-1"},"errors":[{"code":429,"message":"m"}]}`, Envelope{Code: "", Message: "", ID: "t-1"}},
	{"error and correlation IDs", `{"errorCode":"E1","errorId":"e-1"}`, Envelope{Code: "", Message: "", ID: "e-1"}},

	// RFC 9457's.
	{"problem", `{"type":"https://example.net/out-of-stock","title":"Out of stock","status":409,"detail":"Item 7 is gone","instance":"/items/7","traceId":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}`, Envelope{Code: "https://example.net/out-of-stock", Message: "Item 7 is gone", ID: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}},
	{"problem without details", `{"type":"https://example.net/out-of-stock","title":"Out of stock","status":409}`, Envelope{Code: "https://example.net/out-of-stock", Message: "Out of stock", ID: ""}},
	{"problem of no type", `{"type":"about:blank","title":"Not Found","status":404}`, Envelope{Code: "", Message: "Not Found", ID: ""}},
	{"a type that is no problem's", `{"type":"error","error":{"type":"rate_limit_error","message":"m"},"request_id":"r-1"}`, Envelope{Code: "", Message: "m", ID: "r-1"}},

	// However it is written.
	{"byte order mark", "\xef\xbb\xbf" + `{"error":{"code":"A","message":"m","target":"` + guid + `"}}`, Envelope{Code: "A", Message: "m", ID: guid}},
	{"white space", " \r\n\t{ \"error\" : {\n\"code\" : \"A\" ,\t\"message\":\"m\" } } \n", Envelope{Code: "A", Message: "m", ID: ""}},
	{"escaped names", `{"\u0065rror":{"c\u006fde":"A","m\u0065ssage":"m"}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"escapes", `{"error":{"code":"A","message":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}}`, Envelope{Code: "A", Message: "\"\\/\b\f\n\r\té😀", ID: ""}},
	{"lone surrogates", `{"error":{"code":"A","message":"\ud83d \ude00 \ud83d\ud83d\ude00 \ud83dx"}}`, Envelope{Code: "A", Message: "\ufffd \ufffd \ufffd😀 \ufffdx", ID: ""}},
	{"UTF-8", `{"error":{"code":"A","message":"zu viele Zugriffe – später €😀"}}`, Envelope{Code: "A", Message: "zu viele Zugriffe – später €😀", ID: ""}},
	{"no UTF-8", "{\"error\":{\"code\":\"A\",\"message\":\"a\xff\xed\xa0\x80b\"}}", Envelope{Code: "A", Message: "a\ufffd\ufffd\ufffd\ufffdb", ID: ""}},
	{"a name that comes twice", `{"error":{"code":"A","code":"B","message":"m","message":"n"}}`, Envelope{Code: "B", Message: "n", ID: ""}},
	{"a second one that is null", `{"error":{"code":"A","code":null}}`, Envelope{Code: "A", Message: "", ID: ""}},
	{"an error that comes twice", `{"error":{"code":"A","message":"m"},"error":{"code":"B"}}`, Envelope{Code: "B", Message: "m", ID: ""}},
	{"nested among others", `{"a":[{"b":[1,-2.5e+3,true,false,null,"x"]},{}],"error":{"x":{"code":"N"},"y":[[]],"code":"A"}}`, Envelope{Code: "A", Message: "", ID: ""}},
	{"nested 9,000 deep", `{"error":{"code":"A","details":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `,"message":"m"}}`, Envelope{Code: "A", Message: "m", ID: ""}},
	{"20 inner errors", `{"error":{"code":"A",` + strings.Repeat(`"innerError":{`, 20) + `"code":"Known1"` + strings.Repeat("}", 20) + `}}`, Envelope{Code: "A", Message: "", ID: ""}},
	{"long values", `{"error":{"code":"` + strings.Repeat("c", 200) + `","message":"` + strings.Repeat("m", 1500) + `","innerError":{"request-id":"` + strings.Repeat("i", 128) + `"}}}`, Envelope{Code: strings.Repeat("c", 200), Message: strings.Repeat("m", 1500), ID: strings.Repeat("i", 128)}},
	{"too long values", `{"error":{"code":"` + strings.Repeat("c", 2000) + `","message":"` + strings.Repeat("m", 15000) + `","innerError":{"request-id":"` + strings.Repeat("i", 129) + `"}}}`, Envelope{Code: strings.Repeat("c", mostCode), Message: strings.Repeat("m", mostMessage), ID: ""}},
	{"an ID that nobody can read", `{"error":{"code":"A","innerError":{"request-id":"a\u001b[31m"}},"traceId":"t-1"}`, Envelope{Code: "A", Message: "", ID: "t-1"}},
	{"an empty ID", `{"error":{"code":"A","innerError":{"request-id":""}},"trace_id":"t-1"}`, Envelope{Code: "A", Message: "", ID: "t-1"}},
	{"an ID that is a number", `{"error":{"code":"A","innerError":{"request-id":17}}}`, Envelope{Code: "A", Message: "", ID: "17"}},

	// What is none.
	{"nothing", ``, Envelope{}},
	{"text", `Too Many Requests`, Envelope{}},
	{"HTML", `<html><title>502 Bad Gateway</title></html>`, Envelope{}},
	{"XML", `<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code></Error>`, Envelope{}},
	{"array", `[{"error":{"code":"A"}}]`, Envelope{}},
	{"error that is an array", `{"error":["A"]}`, Envelope{}},
	{"null error", `{"error":null,"code":"A"}`, Envelope{}},
	{"UTF-16", "\xff\xfe{\x00}\x00", Envelope{}},
}

var known = map[string]int{"Known1": 1, "Known2": 2}

func TestForms(t *testing.T) {
	for _, tt := range forms {
		if got := Read(&Answer{Body: []byte(tt.body)}, known); got != tt.want {
			t.Errorf("%s: %.300q\n got %.300q\nwant %.300q", tt.name, tt.body, got, tt.want)
		}
	}
}

// A body that breaks off anywhere gives of each field a value that is whole, or nothing.
func TestCutAnywhere(t *testing.T) {
	for _, tt := range forms {
		body := []byte(tt.body)
		if len(body) > 4000 {
			continue
		}
		whole := []string{"", "429", "17", "A", "m", tt.want.Code, tt.want.Message}
		if json.Valid(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))) {
			var all any
			json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), &all)
			whole = texts(whole, all)
		}
		seen := Envelope{}
		for end := range len(body) + 1 {
			got := Read(&Answer{Body: body[:end]}, known)
			if !slices.Contains(whole, got.Code) || !slices.Contains(whole, got.ID) {
				t.Fatalf("%s, cut at %d: code %q, ID %q: %q", tt.name, end, got.Code, got.ID, body[:end])
			}
			if !slices.Contains(whole, got.Message) {
				t.Fatalf("%s, cut at %d: message %q", tt.name, end, got.Message)
			}
			seen = got
		}
		if seen != tt.want {
			t.Errorf("%s: %q at the end", tt.name, seen)
		}
	}
}

func texts(all []string, v any) []string {
	switch v := v.(type) {
	case string:
		all = append(all, v)
	case map[string]any:
		for _, x := range v {
			all = texts(all, x)
		}
	case []any:
		for _, x := range v {
			all = texts(all, x)
		}
	}
	return all
}

// What stands before the cut is not lost, wherever that is.
func TestCutBehind(t *testing.T) {
	const whole = `{"error":{"code":"Busy","innerError":{"request-id":"` + guid + `","x":{"y":[1,2.5,true,"z\u00e9"]}},"message":"come \u00e9 later"}} `
	from := strings.Index(whole, guid) + len(guid) + 1
	for end := from; end <= len(whole); end++ {
		got := Read(&Answer{Body: []byte(whole[:end])}, known)
		if got.Code != "Busy" || got.ID != guid {
			t.Fatalf("%q: %q", whole[:end], got)
		}
		if got.Message != "" && got.Message != "come é later" {
			t.Fatalf("%q: %q", whole[:end], got)
		}
	}
	for body, want := range map[string]Envelope{
		`{"error":{"code":"Bus`:                                                        {},
		`{"error":{"code":42`:                                                          {},
		`{"error":{"code":42 `:                                                         {Code: "42"},
		`{"error":{"code":42,`:                                                         {Code: "42"},
		`{"error":{"code":-`:                                                           {},
		`{"error":{"code":1e`:                                                          {},
		`{"error":"invalid`:                                                            {},
		`{"error":"invalid_grant"`:                                                     {Code: "invalid_grant"},
		`{"error":{"code":"A","message":"half a sent`:                                  {Code: "A"},
		`{"error":{"code":"A","message":"half\`:                                        {Code: "A"},
		`{"error":{"code":"A","message":"half\u00`:                                     {Code: "A"},
		`{"error":{"code":"A","message":"half` + "\xc3":                                {Code: "A"},
		`{"error":{"code":"A","message":"half` + "\xf0\x9f\x98":                        {Code: "A"},
		`{"error":{"code":"A","message":{"value":"half`:                                {Code: "A"},
		`{"error":{"code":"A","target":"` + guid[:35]:                                  {Code: "A"},
		`{"error":{"code":"A","innerError":{"request-id":"` + guid[:35]:                {Code: "A"},
		`{"error":{"code":"A","details":[{"code":"B"},{"x":tru`:                        {Code: "A"},
		`{"code":"A","message":"m","err`:                                               {Code: "A", Message: "m"},
		`{"error":{"code":"A","message":"m"},"trace_id":"` + guid[:20]:                 {Code: "A", Message: "m"},
		`{"error":{"code":"A","message":"` + strings.Repeat("x", 64<<10):               {Code: "A", Message: strings.Repeat("x", mostMessage)},
		`{"error":{"code":"A","message":"` + strings.Repeat("x", 2048):                 {Code: "A"},
		`{"error":{"code":"A","message":"` + strings.Repeat("x", 2049):                 {Code: "A", Message: strings.Repeat("x", mostMessage)},
		`{"error":{"code":"A","message":"` + strings.Repeat(`\u0078`, 3000) + `\ud83d`: {Code: "A", Message: strings.Repeat("x", mostMessage)},
		`{"error":{"code":"A","details":"` + strings.Repeat(`\u00e9`, 9000):            {Code: "A"},
		`{"error":{"code":"A","details":` + strings.Repeat(`[`, 9000):                  {Code: "A"},
		`{"error":{"code":"A","details":` + strings.Repeat(`{"x":[`, 4500):             {Code: "A"},
	} {
		if got := Read(&Answer{Body: []byte(body)}, known); got != want {
			t.Errorf("%.80q: %.80q", body, got)
		}
	}
}

// What breaks JSON's grammar, as opposed to what breaks off, is no envelope: who knows what it
// means.
func TestBrokenGrammar(t *testing.T) {
	for _, body := range []string{
		`{"error":{"code":"A"}}x`, `{"error":{"code":"A"}}{}`, `{"error":{"code":"A"}}` + "\x00", `{"error":{"code":"A" "message":"m"}}`, `{"error":{"code":"A",}}`,
		`{"error":{"code":"A"},}`, `{"code":"A","x":[1,]}`, `{"code":"A","x":[1 2]}`, `{"code":"A","x":{"y"}}`, `{"code":"A","x":{1:2}}`, `{"code":"A",,}`,
		`{"code":"A","x":01}`, `{"code":"A","x":1.}`, `{"code":"A","x":.5}`, `{"code":"A","x":+1}`, `{"code":"A","x":1e}`, `{"code":"A","x":-}`,
		`{"code":"A","x":tru}`, `{"code":"A","x":nul}`, `{"code":"A","x":True}`, `{"code":"A","x":NaN}`, `{"code":"A","x":[}`, `{"code":"A","x":{]}`, `{"code":"A"]`,
		"{\"code\":\"A\",\"x\":\"\n\"}", "{\"code\":\"A\",\"x\":\"\x00\"}", `{"code":"A","x":"\x41"}`, `{"code":"A","x":"\u00g0"}`, `{"code":"A","x":"\u00"}`,
		`{'code':'A'}`, `{code:"A"}`, `{"code":"A"/**/}`, `{"code":"A","x":` + strings.Repeat("[", 10_001), `{"code":"A","x":` + strings.Repeat("{", 3),
		"{\"code\":\"A\"\v}", "\u00a0{\"code\":\"A\"}",
	} {
		if got := Read(&Answer{Body: []byte(body)}, known); got != (Envelope{}) {
			t.Errorf("%.80q: %q", body, got)
		}
		if json.Valid([]byte(body)) {
			t.Errorf("%.80q is JSON", body)
		}
	}
}

func TestTargetOfDefender(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"code":"A","target":"|3f2a9c1d."}}`:                                "|3f2a9c1d.",
		`{"error":{"code":"A","target":"TENANT_ID"}}`:                                 "TENANT_ID",
		`{"error":{"code":"A","target":"t","innerError":{"request-id":"r-1"}}}`:       "t",
		`{"error":{"code":"A","target":"","innerError":{"request-id":"r-1"}}}`:        "r-1",
		`{"error":{"code":"A","target":null,"innerError":{"request-id":"r-1"}}}`:      "r-1",
		`{"error":{"code":"A","innerError":{"request-id":"r-1"}},"target":"outside"}`: "r-1",
		`{"code":"A","target":"t"}`:                                                   "t",
		`{"error":{"code":"A","innerError":{"request-id":"r-1"},"target":"cut`:        "r-1",
		`{"error":{"code":"A","target":"` + strings.Repeat("x", 1000) + `","x":{}}}`:  strings.Repeat("x", 2*mostID),
	} {
		if got := Read(&Answer{Body: []byte(body), TargetIsID: true}, known); got.ID != want {
			t.Errorf("%.100q: ID %q, want %q", body, got.ID, want)
		}
	}
	h := http.Header{"X-Ms-Request-Id": {"x-1"}}
	if got := Read(&Answer{Body: []byte(`{"error":{"code":"A"}}`), Header: h, TargetIsID: true}, known); got.ID != "x-1" {
		t.Errorf("%q", got)
	}
}

func TestIDHeaders(t *testing.T) {
	all := []string{
		"x-ms-request-id", "request-id", "x-amzn-requestid", "x-amz-request-id", "x-github-request-id", "x-okta-request-id", "x-slack-req-id",
		"apim-request-id", "x-ms-activity-id", "x-cs-traceid", "x-goog-request-id", "x-guploader-uploadid", "x-auth0-requestid",
		"twilio-request-id", "x-hubspot-correlation-id", "atl-traceid", "x-transaction-id", "audit-id", "x-request-id",
		"cf-ray", "x-amz-cf-id", "x-served-by",
	}
	for i, name := range all {
		h := http.Header{}
		for _, later := range all[i:] {
			h.Set(later, "id of "+later)
		}
		for _, body := range []string{"", "<html>", `{"error":{"code":"A","target":"name"}}`, `{"error":{"code":"A","innerError":{"request-id":"`} {
			if got := Read(&Answer{Body: []byte(body), Header: h}, known); got.ID != "id of "+name {
				t.Errorf("%s and those behind it: %q", name, got.ID)
			}
		}
		if got := Read(&Answer{Body: []byte(`{"error":{"innerError":{"request-id":"r-1"}}}`), Header: h}, known); got.ID != "r-1" {
			t.Errorf("%s beside the body's: %q", name, got.ID)
		}
	}
	for _, name := range []string{
		"client-request-id", "x-ms-client-request-id", "x-ms-return-client-request-id", "x-client-request-id", "x-opaque-id", "idempotency-key",
		"x-okta-retry-for", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "uber-trace-id", "x-cloud-trace-context",
		"x-amzn-trace-id", "sentry-trace", "x-correlation-id", "x-ms-correlation-request-id", "x-ms-routing-request-id", "x-cache", "via", "set-cookie",
		"etag", "x-request-count", "date",
	} {
		h := http.Header{}
		h.Set(name, guid)
		if got := Read(&Answer{Header: h}, known); got != (Envelope{}) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestIDHeadersOfOnesOwn(t *testing.T) {
	h := http.Header{"X-Mine": {" ", "m-1"}, "X-Other": {"o-1"}, "X-Ms-Request-Id": {"x-1"}}
	for _, tt := range []struct {
		names []string
		want  string
	}{
		{nil, "x-1"}, {[]string{}, ""}, {[]string{"x-mine"}, "m-1"}, {[]string{"X-None", "x-other", "X-Mine"}, "o-1"}, {[]string{"X-None"}, ""},
	} {
		if got := Read(&Answer{Header: h, IDHeaders: tt.names}, known); got.ID != tt.want {
			t.Errorf("%q: %q", tt.names, got.ID)
		}
	}
}

// A value that nobody can quote is no ID.
func TestUsableIDs(t *testing.T) {
	for value, ok := range map[string]bool{
		"r-1": true, "|3f2a9c1d.": true, "a b": true, strings.Repeat("x", 128): true,
		strings.Repeat("x", 129): false, "": false, " ": false, "a\x1b[31m": false, "é": false, "a\nb": false, "a\x7f": false,
	} {
		h := http.Header{"Request-Id": {value}, "X-Request-Id": {"other"}}
		want := "other"
		if ok {
			want = value
		}
		if got := Read(&Answer{Header: h}, known); got.ID != want {
			t.Errorf("%q: %q", value, got.ID)
		}
	}
}

// What we sent tells nobody of this answer, wherever it comes back.
func TestEchoesAreNoIDs(t *testing.T) {
	sent := http.Header{"Client-Request-Id": {guid}, "X-Request-Id": {"first", "mine"}, "X-Anything": {"r-1"}}
	for _, a := range []Answer{
		{Header: http.Header{"X-Request-Id": {"mine"}}},
		{Header: http.Header{"X-Request-Id": {"first"}}},
		{Header: http.Header{"Request-Id": {strings.ToUpper(guid)}}},
		{Header: http.Header{"X-Mine": {"mine"}}, IDHeaders: []string{"X-Mine"}},
		{Body: []byte(`{"error":{"code":"A","innerError":{"request-id":"r-1"}}}`)},
		{Body: []byte(`{"error":{"code":"A","target":"` + guid + `"}}`)},
		{Body: []byte(`{"traceId":"mine"}`)},
		{Body: []byte(`{"request_id":"mi\u006ee"}`)},
	} {
		if got := Read(&a, known); got.ID == "" {
			t.Fatalf("%q %q has none: the test tests nothing", a.Body, a.Header)
		} else if a.Sent = sent; Read(&a, known).ID != "" {
			t.Errorf("%q %q: %q", a.Body, a.Header, Read(&a, known).ID)
		}
	}
	a := Answer{Sent: sent, Body: []byte(`{"error":{"innerError":{"request-id":"r-1"}},"traceId":"t-1"}`), Header: http.Header{"Request-Id": {"h-1"}}}
	if got := Read(&a, known); got.ID != "t-1" {
		t.Errorf("the next one is %q", got.ID)
	}
	a.Body = nil
	if got := Read(&a, known); got.ID != "h-1" {
		t.Errorf("the last one is %q", got.ID)
	}
}

func TestCodeOfTheHeader(t *testing.T) {
	h := http.Header{"X-Ms-Error-Code": {"ServerBusy"}, "X-Ms-Request-Id": {"x-1"}}
	for body, want := range map[string]Envelope{
		"":                       {Code: "ServerBusy", ID: "x-1"},
		"<Error><Code>A</Code>":  {Code: "ServerBusy", ID: "x-1"},
		`{"message":"m"}`:        {Code: "ServerBusy", Message: "m", ID: "x-1"},
		`{"error":{"code":"A"}}`: {Code: "A", ID: "x-1"},
		`{"error":{"code":"Serv`: {Code: "ServerBusy", ID: "x-1"},
	} {
		if got := Read(&Answer{Body: []byte(body), Header: h}, known); got != want {
			t.Errorf("%q: %q", body, got)
		}
	}
	h.Set("X-Ms-Error-Code", "a\x1bb")
	if got := Read(&Answer{Header: h}, known); got.Code != "" {
		t.Errorf("%q", got)
	}
}

func TestProblemByItsType(t *testing.T) {
	const body = `{"type":"https://example.net/x","status":409}`
	for kind, want := range map[string]string{
		"application/problem+json": "https://example.net/x", "Application/Problem+JSON; charset=utf-8": "https://example.net/x",
		"application/json": "", "": "",
	} {
		if got := Read(&Answer{Body: []byte(body), Header: http.Header{"Content-Type": {kind}}}, known); got.Code != want {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

func TestAllocates(t *testing.T) {
	h := http.Header{"Content-Type": {"application/json"}, "X-Ms-Request-Id": {"x-1"}}
	sent := http.Header{"Client-Request-Id": {guid}, "Authorization": {"Bearer x"}}
	for name, tt := range map[string]struct {
		a    Answer
		most float64
	}{
		"nothing":     {Answer{}, 0},
		"fields":      {Answer{Header: h, Sent: sent}, 0},
		"HTML":        {Answer{Body: []byte("<html>"), Header: h, Sent: sent}, 0},
		"Defender":    {Answer{Body: []byte(forms[0].body), Header: h, Sent: sent}, 1},
		"of Defender": {Answer{Body: []byte(forms[0].body), Header: h, Sent: sent, TargetIsID: true}, 1},
		"Graph":       {Answer{Body: []byte(forms[3].body), Header: h, Sent: sent}, 1},
		"escapes":     {Answer{Body: []byte(`{"error":{"code":"A","message":"say \"no\" é","target":"` + guid + `"}}`)}, 1},
		"cut":         {Answer{Body: []byte(forms[3].body)[:60]}, 1},
	} {
		if n := testing.AllocsPerRun(100, func() { Read(&tt.a, known) }); n > tt.most {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	h := http.Header{"Content-Type": {"application/json"}, "Date": {"x"}, "Request-Id": {guid}, "Server": {"x"}}
	for _, i := range []int{0, 3} {
		b.Run(forms[i].name, func(b *testing.B) {
			a := Answer{Body: []byte(forms[i].body), Header: h}
			b.ReportAllocs()
			for b.Loop() {
				Read(&a, known)
			}
		})
	}
	b.Run("HTML", func(b *testing.B) {
		a := Answer{Body: []byte("<html><body>Bad Gateway</body></html>"), Header: h}
		b.ReportAllocs()
		for b.Loop() {
			Read(&a, known)
		}
	})
	b.Run("64 KiB", func(b *testing.B) {
		a := Answer{Body: []byte(`{"error":{"code":"A","details":[` + strings.Repeat(`{"code":"B","message":"something else"},`, 1600) + `1]}}`), Header: h}
		b.SetBytes(int64(len(a.Body)))
		for b.Loop() {
			Read(&a, known)
		}
	})
}

// What a body says of the wait, where no field does.
func TestWaits(t *testing.T) {
	for body, want := range map[string]Envelope{
		`{"message":"m","retry_after":64.57,"global":false}`: {Message: "m", Wait: "64.57"},
		`{"retry_after":"30"}`:                               {Wait: "30"},
		`{"retryAfter":30}`:                                  {Wait: "30"},
		`{"retry_after_ms":250}`:                             {WaitMs: "250"},
		`{"retry_after":1,"retry_after_ms":250}`:             {Wait: "1"},
		`{"error":{"code":"A","retry_after":5}}`:             {Code: "A", Wait: "5"},
		`{"kind":"Status","message":"m","code":429,"details":{"retryAfterSeconds":10}}`:             {Code: "429", Message: "m", Wait: "10"},
		`{"error":{"code":429,"status":"X","details":[{"@type":"a"},[1],{"retryDelay":"34.07s"}]}}`: {Code: "429", Wait: "34.07s"},
		`{"error":{"code":"A"},"resetAt":"2026-11-26T12:00:30Z"}`:                                   {Code: "A", Wait: "2026-11-26T12:00:30Z"},
		`{"items":[{"retry_after":5}],"data":{"resetAt":"2026-11-26T12:00:30Z"}}`:                   {},
		`{"retry_after":5`:     {},
		`{"retry_after":"5`:    {},
		`{"retry_after":null}`: {},
		`{"details":[]}`:       {},
		`{"details":[{"code":"B","message":"n","target":"` + guid + `"}]}`: {},
		`{"details":[{"retry_after":5}`:                                    {Wait: "5"},
		`{"details":[{"retry_after":5},]}`:                                 {},
		`{"details":[{"retry_after":5} {}]}`:                               {},
	} {
		if got := Read(&Answer{Body: []byte(body)}, known); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}

// Every byte at every place of a string, and around it ordinary ones: the reader looks at eight of
// them at a time.
func TestOrdinary(t *testing.T) {
	for length := range 20 {
		body := bytes.Repeat([]byte{'x'}, length)
		for at := range body {
			for c := range 256 {
				body[at] = byte(c)
				want := length
				if c < ' ' || c > 0x7f || c == '"' || c == '\\' {
					want = at
				}
				if got := ordinary(body, 0); got != want {
					t.Fatalf("%q: %d, want %d", body, got, want)
				}
			}
			body[at] = '~'
		}
	}
}

// A wait may stand in an object of any name, beside much else; what stands in the error itself comes
// first.
func TestWaitsAside(t *testing.T) {
	for body, want := range map[string]Envelope{
		`{"ok":false,"description":"Too Many Requests","parameters":{"retry_after":5}}`:                 {Wait: "5"},
		`{"errors":[{"message":"m","extensions":{"code":"X","retryAfter":7}}]}`:                         {Wait: "7"},
		`{"errors":[{"retry_after_ms":250}]}`:                                                           {WaitMs: "250"},
		`{"error":{"code":"A","data":{"limit":{"retry-after":3}}}}`:                                     {Code: "A", Wait: "3"},
		`{"code":"A","additional_data":{"rate_limit":{"x":[1],"y":{},"retryAfterMilliseconds":1500}}}`:  {Code: "A", WaitMs: "1500"},
		`{"error":{"code":"A","innererror":{"retry_after":9}}}`:                                         {Code: "A", Wait: "9"},
		`{"params":{"retry_after":5},"retry_after":8}`:                                                  {Wait: "8"},
		`{"retry_after":8,"params":{"retry_after":5}}`:                                                  {Wait: "8"},
		`{"a":{"retry_after":5},"b":{"retry_after":6}}`:                                                 {Wait: "5"},
		`{"a":{"b":{"c":{"d":{"retry_after":5}}}}}`:                                                     {Wait: "5"},
		`{"a":{"b":{"c":{"d":{"e":{"retry_after":5}}}}}}`:                                               {},
		`{"a":[{"retry_after":5}]}`:                                                                     {},
		`{"data":{"rateLimit":{"remaining":4000,"resetAt":"2026-11-26T12:00:30Z"}}}`:                    {},
		`{"errors":[{"extensions":{"resetAt":"2026-11-26T12:00:30Z"}}]}`:                                {},
		`{"params":{"code":"B","message":"n","request_id":"r-1","error":"x"},"code":"A","message":"m"}`: {Code: "A", Message: "m"},
		`{"params":{"retry_after":5`:                                                                    {},
		`{"params":{"retry_after":5,`:                                                                   {Wait: "5"},
		`{"params":{"retry_after":5,}}`:                                                                 {},
		`{"params":` + strings.Repeat(`{"x":`, 9000) + `1` + strings.Repeat(`}`, 9001):                  {},
	} {
		if got := Read(&Answer{Body: []byte(body)}, known); got != want {
			t.Errorf("%.200s: %q", body, got)
		}
	}
}

// The ID's names mean the same in the error, in what is nested in it, and beside it.
func TestIDsAtEachLevel(t *testing.T) {
	for _, name := range []string{"request-id", "requestId", "request_id", "traceId", "trace_id", "errorId", "correlationId"} {
		for _, form := range []string{
			`{"error":{"code":"A",ID}}`, `{"error":{"code":"A","innererror":{"code":"B",ID}}}`, `{"error":{"code":"A","innererror":{"innererror":{ID}}}}`,
			`{"error":{"code":"A"},ID}`, `{"code":"A",ID}`, `{"error":"A",ID}`,
		} {
			body := strings.Replace(form, "ID", `"`+name+`":"r-1"`, 1)
			if got := Read(&Answer{Body: []byte(body)}, known); got.ID != "r-1" || got.Code != "A" {
				t.Errorf("%s: %q", body, got)
			}
		}
	}
	for _, name := range []string{"client-request-id", "clientRequestId", "correlation_id", "activityId", "id", "operationId"} {
		body := `{"error":{"code":"A","` + name + `":"r-1","innererror":{"` + name + `":"r-2"}}}`
		if got := Read(&Answer{Body: []byte(body)}, known); got.ID != "" {
			t.Errorf("%s: %q", body, got)
		}
	}
}

// Half of an error may stand in the object and half of it beside.
func TestErrorInTwoPlaces(t *testing.T) {
	for body, want := range map[string]Envelope{
		`{"error":{"message":"m"},"code":"A"}`:                                             {Code: "A", Message: "m"},
		`{"code":"A","error":{"message":"m"}}`:                                             {Code: "A", Message: "m"},
		`{"error":{"code":"A"},"message":"m"}`:                                             {Code: "A", Message: "m"},
		`{"error":{"code":"A"},"detail":"m","title":"t"}`:                                  {Code: "A", Message: "m"},
		`{"error":{"status":404},"code":4040,"message":"m"}`:                               {Code: "4040", Message: "m"},
		`{"error":{},"code":"A","message":"m"}`:                                            {Code: "A", Message: "m"},
		`{"error":{"code":"A","message":"m"},"code":"B","message":"n"}`:                    {Code: "A", Message: "m"},
		`{"error":{"code":"","innererror":{"code":"B"}},"code":"C"}`:                       {Code: "B"},
		`{"error":{"code":"UnknownError"},"code":"C"}`:                                     {Code: "UnknownError"},
		`{"error":{"code":"A","message":"","innererror":{"message":"i"}},"message":"out"}`: {Code: "A", Message: "i"},
		`{"error":{"code":"A","message":"cut`:                                              {Code: "A"},
		`{"message":"out","error":{"code":"A","message":"cut`:                              {Code: "A", Message: "out"},
	} {
		if got := Read(&Answer{Body: []byte(body)}, known); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}

// Nearly all services have a request ID, under names of their own.
func TestRequestIDsOfAnyName(t *testing.T) {
	for _, name := range []string{
		"X-Zendesk-Request-Id", "X-Dropbox-Request-Id", "X-Shopify-Request-Id", "X-Ms-Service-Request-Id", "X-Oss-Request-Id",
		"Opc-Request-Id", "Fly-Request-Id", "X-Vcap-Request-Id", "X-Amzn-Request-Id", "Requestid", "X-Requestid", "Acme-Requestid",
	} {
		for _, tt := range []struct {
			others http.Header
			want   string
		}{
			{http.Header{}, "r-1"},
			{http.Header{"X-Request-Id": {"x-1"}, "Cf-Ray": {"c-1"}}, "r-1"},
			{http.Header{"X-Ms-Request-Id": {"m-1"}}, "m-1"},
			{http.Header{"Audit-Id": {"a-1"}}, "a-1"},
			{http.Header{"A-Request-Id": {"first"}, "Z-Request-Id": {"last"}}, "first"}, // each time
		} {
			for range 10 {
				h := tt.others.Clone()
				h.Set(name, "r-1")
				if got := Read(&Answer{Header: h}, known); got.ID != tt.want {
					t.Fatalf("%s: %q, want %q", h, got.ID, tt.want)
				}
			}
		}
	}
	for _, name := range []string{
		"X-Client-Request-Id", "X-Acme-Client-Requestid", "X-Correlation-Request-Id", "X-Routing-Request-Id", "X-Parent-Request-Id",
		"X-Original-Request-Id", "Clientrequestid", "X-Myrequestid", "X-Request-Ids", "X-Request-Identity", "Request", "Id",
	} {
		if got := Read(&Answer{Header: http.Header{name: {"r-1"}}}, known); got.ID != "" {
			t.Errorf("%s: %q", name, got.ID)
		}
	}
	// Not one that we sent, which leaves the next.
	h := http.Header{"A-Request-Id": {"mine"}, "B-Request-Id": {"r-1"}}
	if got := Read(&Answer{Header: h, Sent: http.Header{"X-Request-Id": {"mine"}}}, known); got.ID != "r-1" {
		t.Errorf("%q", got.ID)
	}
}

// A refused token is often told of in the challenge alone.
func TestChallenges(t *testing.T) {
	for _, tt := range []struct {
		lines         []string
		code, message string
	}{
		{[]string{`Bearer realm="example", error="invalid_token", error_description="The access token expired"`}, "invalid_token", "The access token expired"},
		{[]string{`Bearer error="invalid_token"`}, "invalid_token", ""},
		{[]string{`Bearer error=invalid_token, error_description=expired`}, "invalid_token", "expired"},
		{[]string{`DPoP error_description="a \"b\", c=d", Error = "use_dpop_nonce" , algs="ES256"`}, "use_dpop_nonce", `a "b", c=d`},
		{[]string{`Negotiate, NTLM, Bearer error="invalid_token"`}, "invalid_token", ""},
		{[]string{`Negotiate YII=, Bearer error="invalid_token"`}, "invalid_token", ""},
		{[]string{`Basic realm="error=\"no\", x"`, `Bearer error="invalid_token"`}, "invalid_token", ""},
		{[]string{`Bearer error_description="of no error"`, `Bearer error="insufficient_claims", claims="e30="`}, "insufficient_claims", ""},
		{[]string{`Bearer authorization_uri="https://login.example/common?a=b,c", error="invalid_token"`}, "invalid_token", ""},
		{[]string{`Bearer`}, "", ""}, {[]string{``}, "", ""}, {[]string{`,,,`}, "", ""}, {[]string{`===`}, "", ""}, {[]string{`error`}, "", ""},
		{[]string{`Basic realm="x"`}, "", ""},
		{[]string{`Bearer error=""`}, "", ""},
		{[]string{`Bearer error="breaks off`}, "", ""},
		{[]string{`Bearer error="breaks off\`}, "", ""},
		{[]string{"Bearer error=\"a\x1b[31m\""}, "", ""},
		{[]string{`Bearer error="` + strings.Repeat("x", mostID+1) + `"`}, "", ""},
		{[]string{`Bearer error="a", error_description="` + strings.Repeat("x", 1<<20) + `"`}, "a", strings.Repeat("x", mostMessage)},
		{[]string{strings.Repeat(`a="b",`, 1<<17)}, "", ""},
		{[]string{strings.Repeat(`=`, 1<<20)}, "", ""},
		{[]string{strings.Repeat(`a="`, 1<<18)}, "", ""},
	} {
		h := http.Header{"Www-Authenticate": tt.lines}
		want := Envelope{Code: tt.code, Message: tt.message}
		if got := Read(&Answer{Header: h}, known); got != want {
			t.Errorf("%.100q: %.100q", tt.lines, got)
		}
	}
	// What the body says comes first, each for itself.
	h := http.Header{"Www-Authenticate": {`Bearer error="c", error_description="d"`}}
	for body, want := range map[string]Envelope{
		`{"error":{"code":"A","message":"m"}}`: {Code: "A", Message: "m"},
		`{"error":{"code":"A"}}`:               {Code: "A"},
		`{"message":"m"}`:                      {Code: "c", Message: "m"},
		`<html>`:                               {Code: "c", Message: "d"},
	} {
		if got := Read(&Answer{Header: h, Body: []byte(body)}, known); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}
