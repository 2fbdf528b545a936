package defender

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// A letter's other case may be longer or shorter than it is, and a byte that is no letter is
// replaced by three: none of them moves the place where the wait is read.
func TestWaitIsReadWhateverLettersStandBefore(t *testing.T) {
	const said = " again in 8 seconds."
	for name, before := range map[string]string{
		"grows":            strings.Repeat("Ⱥ", 60),
		"grows, other":     strings.Repeat("Ⱦ", 300),
		"shrinks to ASCII": "İstanbul: try",
		"Kelvin":           strings.Repeat("\u212a", 60),
		"Angstrom":         strings.Repeat("\u212b", 60),
		"Ohm":              strings.Repeat("\u2126", 60),
		"sharp s":          strings.Repeat("ẞ", 60),
		"long s":           strings.Repeat("ſ", 60),
		"final sigma":      strings.Repeat("Σ", 60),
		"both":             strings.Repeat("Ⱥİ", 60),
		"not UTF-8":        strings.Repeat("\xff", 60),
		"cut off":          "\xc8",
		"NUL":              "\x00",
		"emoji":            strings.Repeat("🛑", 60),
		"nothing":          "",
	} {
		for _, message := range []string{before + said, before + strings.ToUpper(said), said + before} {
			if got := sentence(message); got != 8*time.Second {
				t.Errorf("%s: %q is a wait of %v", name, message, got)
			}
			body := fmt.Appendf(nil, `{"error":{"code":"429","message":%q,"target":"t"}}`, message)
			v := Rules().Classify(steadyhttp.Attempt{
				N: 1, Body: body, Response: &http.Response{StatusCode: 429, Header: http.Header{}},
			})
			if v.Class != steadyhttp.Throttled {
				t.Errorf("%s: %+v", name, v)
			}
		}
	}
	for message, want := range map[string]time.Duration{
		"again in":                                        0,
		"again in ":                                       0,
		"again in 8":                                      0,
		"again in 8 ":                                     0,
		"agaın in 8 seconds":                              0, // a dotless i
		"again İn 8 seconds":                              0,
		"again in 8 ſeconds":                              0,
		"again in ８ seconds":                              0, // a full-width digit
		"again in ٨ seconds":                              0,
		"again in 8\u00a0seconds":                         0,
		"again in a bit, or again in 8 seconds":           8 * time.Second,
		"again in again in 8 seconds":                     8 * time.Second,
		"again in 3 seconds, no, again in 8 seconds":      8 * time.Second,
		"again in 8 seconds, no, again in 3 seconds":      8 * time.Second,
		"again in 99999999999999999999 seconds":           0,
		"again in 9223372037 seconds":                     0,
		"again in 31622400 seconds":                       366 * 24 * time.Hour, // as much as a field may name
		"again in 31622401 seconds":                       0,
		"again in 18446744073709551617 seconds":           0,
		"again in 0000000000000000000000000000008 second": 8 * time.Second,
	} {
		if got := sentence(message); got != want {
			t.Errorf("%q is a wait of %v, want %v", message, got, want)
		}
	}
}

// What has no answer, as a failure of the connection, has no envelope either.
func TestParseTakesAnAttemptWithoutAnAnswer(t *testing.T) {
	if v := parse(steadyhttp.Attempt{N: 1, Err: http.ErrServerClosed}, classes()); v.RetryAfter != 0 {
		t.Errorf("got %+v", v)
	}
}

// However many paths there are that nobody documents, their areas are bounded.
func TestAreasAreBounded(t *testing.T) {
	var l limits
	keys := make(map[string]bool)
	for i := range 10 * maxAreas {
		keys[l.unlisted(fmt.Sprint("/v1.0/x", i, "/", strings.Repeat("y", 9999)))] = true
	}
	if len(l.areas) != maxAreas || len(keys) != maxAreas+1 {
		t.Errorf("%d areas, %d keys, want %d and one more", len(l.areas), len(keys), maxAreas)
	}
	for key := range keys {
		if len(key) > 70 {
			t.Errorf("a key of %d bytes", len(key))
		}
	}
}
