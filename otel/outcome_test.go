package steadyotel_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// A text is cut between two runes, and does not grow again by what stands for its bad bytes.
func TestLongText(t *testing.T) {
	for name, text := range map[string]string{
		"good text, cut within a rune": "a" + strings.Repeat("é", 2000),
		"every other byte invalid":     strings.Repeat("\xffa", 1<<19),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSDK(t)
			classify := func(steadyhttp.Attempt) steadyhttp.Verdict {
				return steadyhttp.Verdict{Class: steadyhttp.Permanent, Target: text}
			}
			call(t, t.Context(), &steadyhttp.Transport{Base: answers(404, ""), Classify: classify, Trace: s.trace(steadyotel.Config{})})
			v, _ := value(s.parent(t).Attributes(), "steadyhttp.error.target")
			if n := len(v.AsString()); n > 2048 || !utf8.ValidString(v.AsString()) {
				t.Errorf("%d bytes", n)
			}
			if utf8.ValidString(text) && strings.Contains(v.AsString(), "\ufffd") {
				t.Error("a replacement character in a text that was good")
			}
		})
	}
}

// What an inner Transport says of its attempts does not say when the call began.
func TestDurationOfNestedTransports(t *testing.T) {
	for name, steps := range map[string][]roundTripper{
		"success after a repeat": {answers(503, ""), answers(200, "")}, "permanent": {answers(404, "")}, "exhausted": {answers(503, "")},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSDK(t)
			inner := &steadyhttp.Transport{Base: script(steps...), Policy: every(0)}
			call(t, t.Context(), &steadyhttp.Transport{Base: inner, Policy: every(0), Trace: s.trace(steadyotel.Config{})})
			if p := points(t, s.collect(t)["steadyhttp.call.duration"]); strings.Contains(strings.Join(p, ""), "e+09") {
				t.Error(p)
			}
		})
	}
}

// Whatever Classify calls it, the caller has cancelled.
func TestCancelledPermanent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		call(t, ctx, &steadyhttp.Transport{Base: hangs, Trace: s.trace(steadyotel.Config{}), Classify: func(steadyhttp.Attempt) steadyhttp.Verdict {
			return steadyhttp.Verdict{Class: steadyhttp.Permanent}
		}})
		assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: unset")
	})
}

// Request.Cancel is the caller's word too, also while he reads the body.
func TestLegacyCancelInBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "x")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	s := newSDK(t)
	req := newRequest(t, t.Context(), "GET", server.URL)
	cancelled := make(chan struct{})
	//lint:ignore SA1019 what is tested
	req.Cancel = cancelled
	resp, err := (&steadyhttp.Transport{Base: server.Client().Transport, Trace: s.trace(steadyotel.Config{})}).RoundTrip(req)
	close(cancelled)
	finish(resp, err)
	assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: unset")
}

// An attempt that a panic kept from being made is not counted.
func TestPanicAttempts(t *testing.T) {
	s := newSDK(t)
	gate := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if a.N == 2 {
			panic("boom")
		}
		return nil, nil
	})
	func() {
		defer func() { recover() }()
		call(t, t.Context(), &steadyhttp.Transport{Base: answers(503, ""), Policy: every(0), Trace: s.trace(steadyotel.Config{}), Gates: []steadyhttp.Gate{gate}})
	}()
	assertText(t, "call", pick(s.parent(t).Attributes(), "steadyhttp.attempts"), "steadyhttp.attempts=1")
}

// A port that no number can hold is none.
func TestPortOutOfRange(t *testing.T) {
	s := newSDK(t)
	finish((&steadyhttp.Transport{Base: answers(200, ""), Trace: s.trace(steadyotel.Config{})}).RoundTrip(newRequest(t, t.Context(), "GET", "http://api.example:99999999999999999999/")))
	assertText(t, "port", pick(s.attempts()[0].Attributes(), "server.port"), "server.port=0")
}

// The same hooks for the Transport and in the context are one: the SDK's helper fails if a span stays open.
func TestSameHooksTwice(t *testing.T) {
	s := newSDK(t)
	hooks := s.trace(steadyotel.Config{})
	call(t, steadyhttp.WithTrace(t.Context(), hooks), &steadyhttp.Transport{Base: answers(200, ""), Trace: hooks})
	assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: unset")
}

// A call that was cancelled in time is not overdue, however late anybody looks.
func TestCancelledBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		resp, err := (&steadyhttp.Transport{Base: withBody(200, hangingBody), Trace: s.trace(steadyotel.Config{})}).RoundTrip(newRequest(t, ctx, "GET", "http://api.example/"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		time.Sleep(5 * time.Second)
		finish(resp, nil)
		assertText(t, "outcomes", s.outcomes(), "call GET: unset; GET: unset")
	})
}
