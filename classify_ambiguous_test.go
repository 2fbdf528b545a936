package steadyhttp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/steadyhttp/steadyhttp"
)

// leaving is a gate that notes the attempts with which it is left.
type leaving struct{ attempts []steadyhttp.Attempt }

func (l *leaving) Enter(context.Context, steadyhttp.Attempt) (steadyhttp.Pass, error) { return l, nil }
func (l *leaving) Leave(a steadyhttp.Attempt)                                         { l.attempts = append(l.attempts, a) }

// The table in Attempt.Ambiguous' doc, as gates, hooks, errors and Check tell it.
func TestAmbiguous(t *testing.T) {
	lost, unsent := failsWith(trReset), failsWith(trRefused)
	script := func(steps ...step) []step { return steps }
	// What is final after one attempt, and what is after two.
	for _, tt := range []struct {
		name            string
		steps           []step
		safe, put, post bool
		keyed           bool
	}{
		{"200", script(answers(200, "")), false, false, false, false},
		{"404", script(answers(404, "")), false, false, false, false},
		{"409", script(answers(409, "")), false, false, false, false},
		{"408", script(answers(408, "")), false, false, false, false},
		{"429", script(answers(429, "")), false, false, false, false},
		{"500", script(answers(500, "")), false, true, true, true},
		{"501", script(answers(501, "")), false, true, true, true},
		{"lost", script(lost), false, true, true, true},
		{"broken off", script(failsWith(io.ErrUnexpectedEOF)), false, true, true, true},
		{"never sent", script(unsent), false, false, false, false},
		{"404 after a lost one", script(lost, answers(404, "")), false, true, true, true},
		{"412 after a lost one", script(lost, answers(412, "")), false, true, true, true},
		{"409 after a 503", script(answers(503, ""), answers(409, "")), false, true, true, true},
		{"429 after a lost one", script(lost, answers(429, "")), false, true, true, true},
		{"never sent, after a lost one", script(lost, unsent), false, true, true, true},
		{"404 after a 429", script(answers(429, ""), answers(404, "")), false, false, false, false},
		{"412 after one never sent", script(unsent, answers(412, "")), false, false, false, false},
		{"409 after one never sent and a 429", script(unsent, answers(429, ""), answers(409, "")), false, false, false, false},
		{"404 after a lost one and a 429", script(lost, answers(429, ""), answers(404, "")), false, true, true, true},
		{"200 after a lost one", script(lost, answers(200, "")), false, false, true, false},
	} {
		for method, want := range map[string]bool{
			"GET": tt.safe, "HEAD": tt.safe, "OPTIONS": tt.safe, "TRACE": tt.safe, "PROPFIND": tt.safe, "REPORT": tt.safe,
			"SEARCH": tt.safe, "QUERY": tt.safe, "PUT": tt.put, "DELETE": tt.put, "POST": tt.post, "PATCH": tt.post,
			"keyed POST": tt.keyed,
		} {
			t.Run(method+" "+tt.name, inBubble(func(t *testing.T) {
				gate := new(leaving)
				var told steadyhttp.Attempt
				base := newScript(tt.steps...)
				transport := &steadyhttp.Transport{
					Base: base, Gates: []steadyhttp.Gate{gate},
					Trace: &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { told = a }},
				}
				verb, keyed := strings.CutPrefix(method, "keyed ")
				req := newRequest(t, verb, "")
				if keyed {
					req.Header.Set("Idempotency-Key", "1")
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					if e := errorOf(t, err); e.Ambiguous != want {
						t.Errorf("error: %v, want %v: %v", e.Ambiguous, want, e)
					}
				} else {
					readAll(t, resp)
					if err := steadyhttp.Check(resp); err != nil && errorOf(t, err).Ambiguous != want {
						t.Errorf("Check: %v, want %v: %v", errorOf(t, err).Ambiguous, want, err)
					}
				}
				last := gate.attempts[len(gate.attempts)-1]
				if last.Ambiguous != want || told.Ambiguous != want {
					t.Errorf("gate: %v, Done: %v, want %v", last.Ambiguous, told.Ambiguous, want)
				}
			}))
		}
	}
}

// Behind a wrapper that hides the call, an attempt before is taken to have been lost, but for what would not have been retried then.
func TestAmbiguousBehindAWrapper(t *testing.T) {
	for _, tt := range []struct {
		method string
		key    bool
		status int
		want   bool
	}{
		{"GET", false, 404, false}, {"GET", false, 503, false}, {"REPORT", false, 500, false}, {"SEARCH", true, 409, false},
		{"", false, 503, false},
		{"PUT", false, 412, true}, {"DELETE", false, 404, true}, {"PUT", false, 500, true}, {"DELETE", false, 429, true},
		{"POST", false, 409, false}, {"PATCH", false, 412, false}, {"POST", false, 429, false}, {"POST", false, 500, true},
		{"POST", true, 409, true}, {"POST", true, 503, true}, {"MKCOL", false, 405, false},
	} {
		base := newScript(answers(tt.status, "body"))
		outer := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := (&steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 1}}).RoundTrip(req)
			if err == nil {
				resp.Body = struct{ io.ReadCloser }{resp.Body}
			}
			return resp, err
		})
		req := newRequest(t, "GET", "")
		req.Method = tt.method
		if tt.key {
			req.Header.Set("X-Idempotency-Key", "1")
		}
		resp, err := outer.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			if got := errorOf(t, steadyhttp.Check(resp)).Ambiguous; got != tt.want {
				t.Errorf("%s, key %v, %d: %v at Check %d", tt.method, tt.key, tt.status, got, n+1)
			}
		}
		resp.Body.Close()
	}
}

// An attempt without an answer neither wipes an earlier answer's code and ID nor passes them off as its own; an
// answer without them does not borrow them.
func TestCodeAndIDAreOfTheLastAnswer(t *testing.T) {
	full := answers(503, envelope("Busy", "slow down", "id-1"))
	type result struct {
		status   int
		code, id string
		cause    error // that the Error wraps; nil: there is an answer
		logCode  string
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  result
	}{
		{"reset after it", []step{full, failsWith(trReset)}, result{503, "Busy", "id-1", syscall.ECONNRESET, ""}},
		{"timeouts after it", []step{full, failsWith(context.DeadlineExceeded)}, result{503, "Busy", "id-1", context.DeadlineExceeded, ""}},
		{"refused after it", []step{full, failsWith(trRefused)}, result{503, "Busy", "id-1", syscall.ECONNREFUSED, ""}},
		{"final error after it", []step{full, failsWith(statusError(400))}, result{503, "Busy", "id-1", statusError(400), ""}},
		{"another answer after it", []step{full, answers(502, "<html>")}, result{502, "", "", nil, ""}},
		{"404 after it", []step{full, answers(404, "")}, result{404, "", "", nil, ""}},
		{"another ID after it", []step{full, answers(502, envelope("Down", "m", "id-2"))}, result{502, "Down", "id-2", nil, "Down"}},
		{"another answer, then a reset", []step{full, answers(502, ""), failsWith(trReset)}, result{502, "", "", syscall.ECONNRESET, ""}},
		{"after resets", []step{failsWith(trReset), full, answers(400, envelope("Bad", "m", "id-3"))}, result{400, "Bad", "id-3", nil, "Bad"}},
	} {
		for _, nested := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", nested ", nested), inBubble(func(t *testing.T) {
				var text bytes.Buffer
				logger := slog.New(slog.NewTextHandler(&text, nil))
				var done []steadyhttp.Attempt
				base := newScript(tt.steps...)
				transport := &steadyhttp.Transport{Base: base, Trace: steadyhttp.Join(steadyhttp.Log(logger), &steadyhttp.Trace{
					Done: func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
				})}
				if nested {
					transport.Base = &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: 1}}
				}
				resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
				if err == nil {
					readAll(t, resp)
					err = steadyhttp.Check(resp)
				}
				e := errorOf(t, err)
				if e.StatusCode != tt.want.status || e.Code != tt.want.code || e.TrackingID != tt.want.id || tt.want.cause != nil && !errors.Is(err, tt.want.cause) {
					t.Errorf("got %+v: %v", e, err)
				}
				if len(done) != 1 || done[0].Verdict.Code != tt.want.logCode {
					t.Errorf("Done: %+v", done)
				}
				if tt.want.cause != nil && !errors.Is(done[0].Err, tt.want.cause) {
					t.Errorf("Done was told of %v", done[0].Err)
				}
				if strings.Count(text.String(), "giving up") != 1 || strings.Contains(text.String(), "code=Busy") {
					t.Errorf("log: %s", &text)
				}
				if e.Attempts != base.sent() {
					t.Errorf("%d attempts told, %d sent", e.Attempts, base.sent())
				}
				base.assertNoLeak(t)
			}))
		}
	}
}

// A doubt of an inner Transport's is the outer one's too.
func TestAmbiguousBeforeAnInnerAnswer(t *testing.T) {
	for attempts := range 3 {
		inBubble(func(t *testing.T) {
			gate := new(leaving)
			base := newScript(failsWith(trReset), answers(404, ""))
			transport := &steadyhttp.Transport{
				Base: &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{MaxAttempts: attempts}}, Gates: []steadyhttp.Gate{gate},
			}
			resp, _ := do(t, transport, newRequest(t, "DELETE", ""))
			if e := errorOf(t, steadyhttp.Check(resp)); !e.Ambiguous || !gate.attempts[len(gate.attempts)-1].Ambiguous || e.Attempts != 2 {
				t.Errorf("inner MaxAttempts %d: %+v", attempts, e)
			}
		})(t)
	}
}

// An inner Transport's last answer is later than an earlier one of the outer's.
func TestCodeAndIDOfAnInnerAnswer(t *testing.T) {
	inBubble(func(t *testing.T) {
		base := newScript(
			answers(401, envelope("Expired", "m", "id-1")), answers(503, envelope("Busy", "m", "id-2")), failsWith(trReset),
		)
		transport := &steadyhttp.Transport{
			Base:    &steadyhttp.Transport{Base: base},
			Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil },
		}
		_, err := transport.RoundTrip(newRequest(t, "GET", ""))
		if e := errorOf(t, err); e.StatusCode != 503 || e.Code != "Busy" || e.TrackingID != "id-2" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %+v: %v", e, err)
		}
	})(t)
}

// HTTP/2 vouches for it that a refused stream was not carried out, and one that went away did not begin: of what is not, nothing is
// in doubt, whoever looks on. What was lost before stays in doubt.
func TestRefusedStreamIsNotAmbiguous(t *testing.T) {
	reset := func(code byte) func(uint32) []byte {
		return func(stream uint32) []byte { return h2Frame(h2Reset, 0, stream, h2Code(code)...) }
	}
	refused := reset(h2RefusedStream)
	goAway := func(uint32) []byte {
		return h2Frame(h2GoAway, 0, 0, append(binary.BigEndian.AppendUint32(nil, 0), h2Code(0)...)...)
	}
	for _, tt := range []struct {
		name   string
		faults []func(uint32) []byte // the last one for ever
		want   bool
	}{
		{"refused", []func(uint32) []byte{refused}, false},
		{"gone away, then refused", []func(uint32) []byte{goAway, refused}, false},
		{"broken", []func(uint32) []byte{reset(2)}, true},
		{"broken, then refused", []func(uint32) []byte{reset(2), refused}, true},
	} {
		for _, method := range []string{"PUT", "DELETE", "POST", "GET"} {
			for _, gated := range []bool{false, true} {
				t.Run(fmt.Sprint(method, " ", tt.name, ", gated ", gated), inBubble(func(t *testing.T) {
					n := 0
					base := newH2Base(t)
					base.DialContext = func(context.Context, string, string) (net.Conn, error) {
						client, server := net.Pipe()
						go serveH2(server, func(stream uint32) []byte {
							n++
							return tt.faults[min(n, len(tt.faults))-1](stream)
						})
						return client, nil
					}
					transport := &steadyhttp.Transport{Base: base}
					if gated {
						transport.Gates = []steadyhttp.Gate{steadyhttp.Limit(nil)}
					}
					resp, err := transport.RoundTrip(newRequest(t, method, ""))
					if err == nil {
						resp.Body.Close()
						t.Fatalf("answered %d", resp.StatusCode)
					}
					if e := errorOf(t, err); e.Ambiguous != (tt.want && method != "GET") {
						t.Errorf("%v after %d sends: %v", e.Ambiguous, n, err)
					}
					base.CloseIdleConnections()
				}))
			}
		}
	}
}

// An answer that is Throttled or Unauthorized by the Transport's own rules was refused, whatever its status: a POST is retried
// by that word, and nothing is in doubt.
func TestRefusalByTheRulesIsNotAmbiguous(t *testing.T) {
	busy := envelope("ServerBusy", "m", "id")
	for name, rules := range map[string]*steadyhttp.Rules{
		"ByStatus": {ByStatus: map[int]steadyhttp.Class{503: steadyhttp.Throttled}},
		"ByCode":   {ByCode: map[string]steadyhttp.Class{"ServerBusy": steadyhttp.Throttled}},
		"Parse": {Parse: func(a steadyhttp.Attempt) steadyhttp.Verdict {
			if a.Response.StatusCode != 503 {
				return steadyhttp.Verdict{}
			}
			return steadyhttp.Verdict{Class: steadyhttp.Throttled}
		}},
		"Unauthorized": {ByStatus: map[int]steadyhttp.Class{503: steadyhttp.Unauthorized}},
		"Permanent":    {ByStatus: map[int]steadyhttp.Class{503: steadyhttp.Permanent}},
		"none":         {},
	} {
		for _, method := range []string{"POST", "PUT", "DELETE", "GET"} {
			for _, tt := range []struct {
				name  string
				steps []step
				doubt bool // whatever the rules say
			}{
				{"alone", []step{answers(503, busy)}, false},
				{"then 404", []step{answers(503, busy), answers(404, "")}, false},
				{"after a lost one", []step{failsWith(trReset), answers(503, busy)}, true},
			} {
				t.Run(fmt.Sprint(name, " ", method, " ", tt.name), inBubble(func(t *testing.T) {
					refused := name != "Permanent" && name != "none"
					want := method != "GET" && (tt.doubt || !refused)
					base := newScript(tt.steps...)
					resp, err := (&steadyhttp.Transport{Base: base, Classify: rules.Classify}).RoundTrip(newRequest(t, method, "content"))
					if err == nil {
						readAll(t, resp)
						err = steadyhttp.Check(resp)
					}
					if e := errorOf(t, err); e.Ambiguous != want {
						t.Errorf("%v, want %v: %+v", e.Ambiguous, want, e)
					}
				}))
			}
		}
	}
}

// What net/http refuses before it looks for a connection has provably not left: it is not in doubt,
// and where the reason may pass, it is tried again.
func TestWhatNetHTTPRefusesToSendIsNotAmbiguous(t *testing.T) {
	errProxy, unreadable := errors.New("no PAC file"), "http://%zz"
	for name, tt := range map[string]struct {
		spoil    func(*http.Request, *http.Transport)
		attempts int
	}{
		"header":        {func(req *http.Request, _ *http.Transport) { req.Header.Set("X", "a\nb") }, 1},
		"header's name": {func(req *http.Request, _ *http.Transport) { req.Header["a b"] = []string{"c"} }, 1},
		"trailer":       {func(req *http.Request, _ *http.Transport) { req.Trailer = http.Header{"X": {"a\nb"}} }, 1},
		"method":        {func(req *http.Request, _ *http.Transport) { req.Method = "PO ST" }, 1},
		"scheme":        {func(req *http.Request, _ *http.Transport) { req.URL.Scheme = "ftp" }, 1},
		"host":          {func(req *http.Request, _ *http.Transport) { req.URL.Host = "" }, 1},
		"proxy function": {func(_ *http.Request, base *http.Transport) {
			base.Proxy = func(*http.Request) (*url.URL, error) { return nil, errProxy }
		}, 4},
		"proxy's address": {func(_ *http.Request, base *http.Transport) {
			base.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(unreadable) }
		}, 1},
		"proxy of the environment": {func(_ *http.Request, base *http.Transport) {
			base.Proxy = func(*http.Request) (*url.URL, error) {
				return nil, fmt.Errorf("invalid proxy address %q: %v", unreadable, errProxy)
			}
		}, 1},
	} {
		for _, method := range []string{"POST", "PUT"} {
			for who, look := range onlookers {
				t.Run(name+"/"+method+"/"+who, func(t *testing.T) {
					base := &http.Transport{}
					defer base.CloseIdleConnections()
					req := newRequest(t, method, "content")
					tt.spoil(req, base)
					tr := &steadyhttp.Transport{Base: base, Policy: atOnce()}
					_, err := tr.RoundTrip(look(tr, req))
					e := errorOf(t, err)
					if e.Ambiguous || e.Attempts != tt.attempts {
						t.Errorf("ambiguous %v, %d attempts, want %d: %v", e.Ambiguous, e.Attempts, tt.attempts, err)
					}
				})
			}
		}
	}
	// A protocol of somebody else's may have sent it all the same.
	base := registered(newScript(failsWith(errors.New("net/http: invalid method \"POST\""))))
	_, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(newRequest(t, "POST", "content"))
	if !errorOf(t, err).Ambiguous {
		t.Error("a text alone is believed")
	}
}
