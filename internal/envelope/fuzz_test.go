package envelope

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzRead: whatever a body says, what is read of it is bounded; what is no JSON, nor its
// beginning, says nothing; of the documented envelope it says what encoding/json reads; and a cut
// adds nothing to what is whole.
func FuzzRead(f *testing.F) {
	for _, tt := range forms {
		if len(tt.body) < 1000 {
			f.Add([]byte(tt.body), 0, "X-Ms-Request-Id", "x-1")
			f.Add([]byte(tt.body), len(tt.body)/2, "Content-Type", "application/problem+json")
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, end int, name, value string) {
		for _, a := range []Answer{
			{Body: body, Header: http.Header{http.CanonicalHeaderKey(name): {value}}, Sent: http.Header{"A": {value}}},
			{Body: body, Header: http.Header{http.CanonicalHeaderKey(name): {value}}, TargetIsID: true},
			{Body: body, IDHeaders: []string{name}},
		} {
			e := Read(&a, known)
			if len(e.Code) > mostCode+3 || len(e.Message) > mostMessage+12 || len(e.ID) > 2*mostID+3 || !a.TargetIsID && len(e.ID) > mostID {
				t.Fatalf("%d, %d and %d bytes", len(e.Code), len(e.Message), len(e.ID))
			}
		}
		whole := Read(&Answer{Body: body}, known)
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		if !json.Valid(body) {
			r := reader{body: body}
			if r.root(new(found)) && !r.cut {
				t.Fatalf("%q is no JSON", body)
			}
			if 0 <= end && end < len(body) {
				Read(&Answer{Body: body[:end]}, known)
			}
			return
		}
		if want, ok := documented(body); ok && want != whole {
			t.Fatalf("%q is %q, and encoding/json says %q", body, whole, want)
		}
		if 0 <= end && end < len(body) {
			part := Read(&Answer{Body: body[:end]}, known)
			if said := values(body); part.Code != "" && !said[part.Code] && len(part.Code) < mostCode || part.ID != "" && !said[part.ID] {
				t.Fatalf("%q cut at %d is %q", body, end, part)
			}
		}
	})
}

// values returns all strings and numbers of a JSON text.
func values(body []byte) map[string]bool {
	all := map[string]bool{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return all
		}
		switch v := token.(type) {
		case string:
			all[v] = true
		case json.Number:
			all[v.String()] = true
		}
	}
}

// documented reads Microsoft's envelope where it is as documented, and reports whether it is.
func documented(body []byte) (Envelope, bool) {
	var e struct {
		Error *struct {
			Code, Message, Target string
			InnerError            struct {
				RequestID string `json:"request-id"`
			}
		}
	}
	var members map[string]map[string]json.RawMessage
	if json.Unmarshal(body, &e) != nil || e.Error == nil || json.Unmarshal(body, &members) != nil || len(members) != 1 {
		return Envelope{}, false
	}
	for name, value := range members {
		if name != "error" {
			return Envelope{}, false
		}
		for name, value := range value {
			switch name {
			case "code", "message", "target":
			case "innerError":
				if bytes.ContainsAny(value[1:], "{[") || bytes.Contains(value, []byte(`"code"`)) {
					return Envelope{}, false
				}
			default:
				return Envelope{}, false
			}
		}
		_ = value
	}
	// Of names that differ in case or come twice, and of names in escapes, another test tells.
	for _, name := range []string{"error", "code", "message", "target", "innererror", "request-id"} {
		if strings.Count(strings.ToLower(string(body)), `"`+name+`"`) > 1 {
			return Envelope{}, false
		}
	}
	for _, s := range []string{"retry", "reset", "clientrequest", "requestid", "request_id", "trace", `\u`, "\u017f", "\u212a", "message\":null"} {
		if strings.Contains(strings.ToLower(string(body)), s) {
			return Envelope{}, false
		}
	}
	want := Envelope{Code: e.Error.Code, Message: e.Error.Message}
	for _, id := range []string{e.Error.InnerError.RequestID, e.Error.Target} {
		if want.ID == "" && usable(id) && (id == e.Error.InnerError.RequestID || looksLikeID([]byte(id))) {
			want.ID = id
		}
	}
	return want, len(want.Code) <= mostCode && len(want.Message) <= mostMessage
}

// FuzzDocumented: every envelope that encoding/json writes is read back, in any order and letter
// case of the names, and with any white space.
func FuzzDocumented(f *testing.F) {
	f.Add("ResourceNotFound", "Machine 1 was not found", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a", "r-1", uint(0))
	f.Add("429", "say \"no\" to C:\\x\n\u2028<é😀>", "properties.x", "", uint(12345))
	f.Add("", "\x00\x7f\xff", "", "\u202e", uint(77))
	f.Fuzz(func(t *testing.T, code, message, target, request string, how uint) {
		if len(code) > 100 || len(message) > 1000 || len(target) > 100 || len(request) > 100 {
			return
		}
		text := func(s string) string {
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if how&1 > 0 {
				b = bytes.ReplaceAll(b, []byte(`/`), []byte(`\/`))
			}
			return string(b)
		}
		name := func(s string) string {
			switch how >> 1 & 3 {
			case 1:
				s = strings.ToUpper(s)
			case 2:
				s = strings.ToUpper(s[:1]) + s[1:]
			case 3:
				s = strings.ToLower(s)
			}
			return `"` + s + `"`
		}
		space := []string{"", " ", "\r\n\t", "  "}[how>>3&3]
		colon := space + ":" + space
		members := []string{
			name("code") + colon + text(code), name("message") + colon + text(message), name("target") + colon + text(target),
			name("innerError") + colon + "{" + space + name("client-request-id") + colon + `"c-1",` + name("request-id") + colon + text(request) + space + "}",
		}
		for i := range members { // in any order
			j := int(how>>5) % (i + 1)
			members[i], members[j] = members[j], members[i]
		}
		body := space + "{" + name("error") + colon + "{" + space + strings.Join(members, space+","+space) + space + "}" + space + "}" + space
		want := Envelope{Code: valid(code), Message: valid(message)}
		if id := valid(request); usable(id) {
			want.ID = id
		} else if id := valid(target); usable(id) && looksLikeID([]byte(id)) {
			want.ID = id
		}
		if got := Read(&Answer{Body: []byte(body)}, known); got != want && len(want.Code) <= mostCode && len(want.Message) <= mostMessage {
			t.Fatalf("%q\n got %q\nwant %q", body, got, want)
		}
	})
}

// valid is what becomes of s on its way through JSON.
func valid(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == utf8.RuneError {
			r = '\ufffd'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// FuzzUnpack: no body makes more than the bound, whatever it says that it is; the caller's bytes
// stay; and what was packed comes back, from its beginning.
func FuzzUnpack(f *testing.F) {
	for _, coding := range []string{"gzip", "deflate", "deflate, gzip", "br", "", "gzip,gzip"} {
		for _, kind := range []string{"gzip", "zlib", "raw"} {
			f.Add(packed(f, kind, forms[0].body), coding, 60)
		}
		f.Add([]byte(forms[0].body), coding, 7)
	}
	f.Fuzz(func(t *testing.T, body []byte, coding string, end int) {
		was := bytes.Clone(body)
		got := Unpack(body, http.Header{"Content-Encoding": {coding}})
		if len(got) > max(mostUnpacked, len(body)) {
			t.Fatalf("%d bytes", len(got))
		}
		Read(&Answer{Body: got}, known)
		for kind, coding := range map[string]string{"gzip": "gzip", "zlib": "deflate", "raw": "deflate"} {
			if kind == "raw" && len(body) > 0 && body[0] >= utf8.RuneSelf {
				continue // what begins with no ASCII may be packed to what looks like JSON
			}
			p := packed(t, kind, string(body))
			h := http.Header{"Content-Encoding": {coding}}
			if got := Unpack(p, h); string(got) != string(body[:min(len(body), mostUnpacked)]) {
				t.Fatalf("%s of %q comes back as %q", kind, body, got)
			}
			if 0 <= end && end < len(p) {
				if got := Unpack(p[:end], h); !bytes.HasPrefix(body, got) {
					t.Fatalf("%s of %q, cut at %d, comes back as %q", kind, body, end, got)
				}
			}
		}
		if !bytes.Equal(body, was) {
			t.Fatal("the body has changed")
		}
	})
}
