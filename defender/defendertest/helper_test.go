package defendertest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// A reply is an answer as a test sees it.
type reply struct {
	status                int
	header                http.Header
	body                  []byte
	code, message, target string
}

func newReply(resp *http.Response, body []byte) reply {
	var e struct {
		Error struct{ Code, Message, Target string }
	}
	json.Unmarshal(body, &e)
	return reply{resp.StatusCode, resp.Header, body, e.Error.Code, e.Error.Message, e.Error.Target}
}

// start returns a running server that ends with the test.
func start(t *testing.T, c defendertest.Config) *defendertest.Server {
	t.Helper()
	s := defendertest.NewServer(c)
	t.Cleanup(s.Close)
	return s
}

// newClient returns a plain client. Without kept-alive connections net/http never
// retries a call by itself.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// send makes one call over real HTTP. Headers come in pairs of name and value.
func send(s *defendertest.Server, method, path, body string, headers ...string) (reply, error) {
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := newClient().Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return newReply(resp, data), err
}

// call is send for calls that must be answered.
func call(t *testing.T, s *defendertest.Server, method, path, body string, headers ...string) reply {
	t.Helper()
	r, err := send(s, method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// direct makes one call without a socket, as in a synctest bubble.
func direct(s *defendertest.Server, method, path, body string) reply {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return newReply(w.Result(), w.Body.Bytes())
}

// want fails unless the answer has this status and, from 400 on, this code in
// a whole envelope.
func (r reply) want(t *testing.T, status int, code string) reply {
	t.Helper()
	if r.status != status || r.code != code {
		t.Fatalf("got %d %q, want %d %q: %s", r.status, r.code, status, code, r.body)
	}
	if code != "" && !isGUID(r.target) {
		t.Fatalf("target %q is no GUID", r.target)
	}
	return r
}

func (r reply) wantMessage(t *testing.T, message string) {
	t.Helper()
	if r.message != message {
		t.Fatalf("got message %q, want %q", r.message, message)
	}
}

func isGUID(s string) bool {
	parts := strings.Split(s, "-")
	if len(s) != 36 || len(parts) != 5 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef-") == ""
}

// decode fails unless the body is a T.
func decode[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	return v
}

// A list is the documented form of one page.
type list[T any] struct {
	Value []T
	Next  string `json:"@odata.nextLink"`
}

type identified struct {
	ID string `json:"id"`
}

func ids(items []identified) []string {
	var all []string
	for _, item := range items {
		all = append(all, item.ID)
	}
	return all
}

func wantEffects(t *testing.T, s *defendertest.Server, want map[string]int) {
	t.Helper()
	got := s.Effects()
	if len(got) != len(want) {
		t.Errorf("got effects %v, want %v", got, want)
		return
	}
	for effect, n := range want {
		if got[effect] != n {
			t.Errorf("effect %q: got %d, want %d", effect, got[effect], n)
		}
	}
}

// last is the latest entry of the ledger.
func last(t *testing.T, s *defendertest.Server) defendertest.Call {
	t.Helper()
	calls := s.Calls()
	if len(calls) == 0 {
		t.Fatal("the ledger is empty")
	}
	return calls[len(calls)-1]
}

const isolation = `{"Comment":"because","IsolationType":"Full"}`

// authorized is direct with a token.
func authorized(s *defendertest.Server, token, method, path, body string, headers ...string) reply {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return newReply(w.Result(), w.Body.Bytes())
}
