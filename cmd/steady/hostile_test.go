package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// A nextLink that is no URL ends the list, and not the program.
func TestNextLinkThatIsNoURL(t *testing.T) {
	for _, link := range []string{`http://[::1`, `%zz`, `http://a b/`, `:`, `\u007f`, `http://h:port/`, `//`, ` `} {
		service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"value":[],"@odata.nextLink":"`+link+`"}`)
		}))
		b := &batch{base: service.URL, client: service.Client(), progress: newProgress(io.Discard, "test")}
		b.listMachines(t.Context())
		service.Close()
		if len(b.outcomes) != 2 || b.outcomes[0].err != nil || b.outcomes[1].err == nil {
			t.Errorf("%q: %+v", link, b.outcomes)
		}
	}
}

// Nothing that a caller or a service has written reaches the terminal as it is.
func TestRemoteTextIsPrintable(t *testing.T) {
	server := defendertest.NewUnstartedServer(defendertest.Config{NoQuotas: true})
	defer server.Close()
	for range 2 {
		body := strings.NewReader(`{"Value":"\u001b[31mred\u009b\u202e","Action":"Add"}`)
		server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/api/machines/m0001/tags", body))
	}
	var out bytes.Buffer
	summarize(&out, server)
	said := errors.New("no\x1b[2J\r")
	r := &result{server: server, outcomes: []outcome{{call: "GET /\x1b", err: said}}}
	listFailures(&out, r, true)
	for _, effect := range first(r.actions()) {
		out.WriteString(effect)
	}
	if text := out.String(); strings.ContainsAny(text, "\x1b\r\u009b\u202e") || strings.Count(text, `\x1b`) < 4 {
		t.Errorf("printed %q", text)
	}
}

func first[T, U any](t T, _ U) T { return t }
