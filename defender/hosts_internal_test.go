package defender

import (
	"net/url"
	"testing"
)

// Only names that net/http dials on this machine are private without TLS.
func TestPrivateIsLoopbackOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST": true, "localhost:8080": true, "127.0.0.1": true,
		"127.8.9.10:80": true, "[::1]": true,
		"[::1]:80": true, "[::ffff:127.0.0.1]": true, "localho\u017ft": false,
		"\u212aocalhost": false, "localhost.": false,
		"localhost.evil.example": false, "evil.localhost": false, "0.0.0.0": false, "[::]": false,
		"10.0.0.1": false, "": false,
		"127.0.0.1.evil.example": false, "\uff11\uff12\uff17.0.0.1": false, "2130706433": false,
	} {
		if got := private(&url.URL{Scheme: "http", Host: host}); got != want {
			t.Errorf("%q: %v", host, got)
		}
		if !private(&url.URL{Scheme: "https", Host: host}) || private(&url.URL{Scheme: "ftp", Host: host}) {
			t.Errorf("%q: https and ftp", host)
		}
	}
}

// A URL that brings its own key is known however its host and its parameters are spelled.
func TestSignedHoweverSpelled(t *testing.T) {
	for target, want := range map[string]bool{
		"https://x.blob.core.windows.net/f":              true,
		"https://X.BLOB.CORE.WINDOWS.NET/f":              true,
		"https://x.blob.core.windows.net./f":             true,
		"https://x.blob.core.usgovcloudapi.net:443/f":    true,
		"https://core.windows.net/f":                     true,
		"https://core.window\u017f.net/f":                false, // no host of ours either
		"https://hardcore.windows.net/f":                 false,
		"https://core.windows.net.evil.example/f":        false,
		"https://api.example/f?sig=s":                    true,
		"https://api.example/f?sv=1&SIG=s":               true,
		"https://api.example/f?sv=1&%73ig=s":             true,
		"https://api.example/f?%53%49%47":                true,
		"https://api.example/f?signature=s&$sig=s&xsig=": false,
		"https://api.example/f?%24filter=sig":            false,
		"https://api.example/f?\u017fig=s":               false,
		"https://api.example/f?%zz=s&%=s&%7=s":           false,
		"https://api.example/sig=s":                      false,
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		if got := signed(u); got != want {
			t.Errorf("%q: %v", target, got)
		}
	}
}
