package envelope

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
	"testing"
)

func packed(t testing.TB, coding, s string) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zlib":
		w = zlib.NewWriter(&b)
	case "raw":
		w, _ = flate.NewWriter(&b, flate.BestCompression)
	default:
		t.Fatal(coding)
	}
	io.WriteString(w, s)
	w.Close()
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	const json = `{"error":{"code":"Busy","message":"come later, come later, come later","target":"` + guid + `"}}`
	plain := []byte(json)
	corrupt := packed(t, "gzip", json)
	corrupt[len(corrupt)-6] ^= 1 // the checksum
	for _, tt := range []struct {
		name   string
		body   []byte
		coding []string
		want   string
	}{
		{"not packed", plain, nil, json},
		{"identity", plain, []string{"identity"}, json},
		{"empty coding", []byte("text"), []string{""}, "text"},
		{"gzip", packed(t, "gzip", json), []string{"gzip"}, json},
		{"gzip, older name", packed(t, "gzip", json), []string{"x-gzip"}, json},
		{"letter case and space", packed(t, "gzip", json), []string{" GZip\t"}, json},
		{"zlib", packed(t, "zlib", json), []string{"deflate"}, json},
		{"raw deflate", packed(t, "raw", json), []string{"deflate"}, json},
		{"raw deflate of little", packed(t, "raw", `{"a":1}`), []string{"deflate"}, `{"a":1}`},
		{"raw deflate of space", packed(t, "raw", " \n{}"), []string{"deflate"}, " \n{}"},
		{"gzip of text", packed(t, "gzip", "Bad Gateway"), []string{"gzip"}, "Bad Gateway"},
		{"gzip of nothing", packed(t, "gzip", ""), []string{"gzip"}, ""},
		{"two members", append(packed(t, "gzip", json[:20]), packed(t, "gzip", json[20:])...), []string{"gzip"}, json},
		{"wrong checksum", corrupt, []string{"gzip"}, json},
		{"garbage behind", append(packed(t, "gzip", json), "xxx"...), []string{"gzip"}, json},
		{"twice", packed(t, "gzip", string(packed(t, "zlib", json))), []string{"deflate, gzip"}, json},
		{"twice, two lines", packed(t, "gzip", string(packed(t, "zlib", json))), []string{"deflate", "gzip"}, json},
		{"twice, the other way", packed(t, "gzip", string(packed(t, "zlib", json))), []string{"gzip, deflate"}, ""},
		{"with identity", packed(t, "gzip", json), []string{"identity, gzip,"}, json},
		{"three times", packed(t, "gzip", string(packed(t, "gzip", string(packed(t, "gzip", json))))), []string{"gzip, gzip, gzip"}, ""},
		{"unpacked already", plain, []string{"gzip"}, json},
		{"unpacked already, with a mark", append([]byte("\xef\xbb\xbf"), plain...), []string{"br"}, "\xef\xbb\xbf" + json},
		{"Brotli", []byte("\x8b\x03\x80abc\x03"), []string{"br"}, ""},
		{"zstd", []byte("\x28\xb5\x2f\xfd"), []string{"zstd"}, ""},
		{"Brotli of gzip", packed(t, "gzip", json), []string{"gzip, br"}, ""},
		{"not what it says", []byte("<html>"), []string{"gzip"}, ""},
		{"not what it says, deflate", []byte("<html>"), []string{"deflate"}, ""},
		{"nothing", nil, []string{"gzip"}, ""},
		{"half a header", packed(t, "gzip", json)[:7], []string{"gzip"}, ""},
	} {
		sent := bytes.Clone(tt.body)
		if got := Unpack(tt.body, http.Header{"Content-Encoding": tt.coding}); string(got) != tt.want {
			t.Errorf("%s: %.200q, want %.200q", tt.name, got, tt.want)
		}
		if !bytes.Equal(tt.body, sent) {
			t.Errorf("%s: the caller's bytes have changed", tt.name)
		}
	}
}

// What breaks off gives its beginning, so that the code in it is not lost.
func TestUnpackTheBeginning(t *testing.T) {
	var json strings.Builder
	json.WriteString(`{"error":{"code":"Busy","message":"m","details":"`)
	for i := range int64(4000) {
		json.WriteByte(byte('a' + i*i*i%23))
	}
	json.WriteString(`"}}`)
	for _, kind := range []string{"gzip", "zlib", "raw"} {
		whole, last, found := packed(t, kind, json.String()), 0, 0
		coding := http.Header{"Content-Encoding": {map[string]string{"gzip": "gzip", "zlib": "deflate", "raw": "deflate"}[kind]}}
		for end := range len(whole) + 1 {
			got := Unpack(whole[:end], coding)
			if !strings.HasPrefix(json.String(), string(got)) {
				t.Fatalf("%s, cut at %d: %.100q", kind, end, got)
			}
			if len(got) < last {
				t.Fatalf("%s, cut at %d: %d bytes, and there were %d already", kind, end, len(got), last)
			}
			last = len(got)
			if Read(&Answer{Body: got}, known).Code == "Busy" {
				found++
			}
		}
		if last != json.Len() || found < len(whole)/2 {
			t.Errorf("%s: %d bytes at the end, the code %d times", kind, last, found)
		}
	}
}

func TestBombsAreBounded(t *testing.T) {
	bomb := strings.Repeat(" ", 64<<20)
	for kind, coding := range map[string]string{"gzip": "gzip", "zlib": "deflate", "raw": "deflate"} {
		body := packed(t, kind, bomb)
		if got := Unpack(body, http.Header{"Content-Encoding": {coding}}); len(got) != mostUnpacked || cap(got) > 4*mostUnpacked {
			t.Errorf("%s: %d bytes of %d", kind, len(got), cap(got))
		}
		twice := packed(t, "gzip", string(body))
		if got := Unpack(twice, http.Header{"Content-Encoding": {coding, "gzip"}}); len(got) > mostUnpacked {
			t.Errorf("%s, twice: %d bytes", kind, len(got))
		}
	}
}

func TestUnpackingNothingAllocatesNothing(t *testing.T) {
	body := []byte(forms[0].body)
	for _, h := range []http.Header{nil, {"Content-Type": {"application/json"}}, {"Content-Encoding": {"identity"}}} {
		if n := testing.AllocsPerRun(100, func() { Unpack(body, h) }); n > 0 {
			t.Errorf("%q: %v allocations", h, n)
		}
	}
}
