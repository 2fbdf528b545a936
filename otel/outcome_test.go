package steadyotel_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/baggage"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

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
				return steadyhttp.Verdict{Class: steadyhttp.Permanent, TrackingID: text}
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
		"success after a retry": {answers(503, ""), answers(200, "")}, "permanent": {answers(404, "")}, "exhausted": {answers(503, "")},
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
	gate := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
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

// The same hooks for the Transport and in the context are one: the SDK's helper fails if a span
// stays open.
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

// The call's span says what the returned error says, also where a retry could not be made.
func TestTypeOfACallThatCouldNotGoOn(t *testing.T) {
	lost := failsWith(syscall.ECONNRESET)
	for _, tt := range []struct {
		name string
		rt   *steadyhttp.Transport
		want string
	}{
		{"body not to be had again", &steadyhttp.Transport{}, "request body"},
		{"elapsed at a gate", &steadyhttp.Transport{Gates: []steadyhttp.Gate{blocks(2)}}, "timeout"},
		{"refused", &steadyhttp.Transport{Gates: []steadyhttp.Gate{refuses(2)}}, "refused"},
		{"prepare", &steadyhttp.Transport{Prepare: func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev != nil {
				return errors.New("no token")
			}
			return nil
		}}, "prepare"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				rt := tt.rt
				rt.Base, rt.Policy, rt.Trace = script(lost), every(0), s.trace(steadyotel.Config{})
				rt.Policy.MaxElapsed = time.Second
				req := newRequest(t, t.Context(), "PUT", "http://api.example/")
				if tt.want == "request body" {
					req.Body = io.NopCloser(strings.NewReader("x"))
					req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
				}
				_, err := rt.RoundTrip(req)
				failure, ok := errors.AsType[*steadyhttp.Error](err)
				if !ok || failure.ErrorType() != tt.want {
					t.Fatalf("got %v", err)
				}
				assertText(t, "call", pick(s.parent(t).Attributes(), "error.type"), "error.type="+tt.want)
				assertText(t, "attempt", pick(s.attempts()[0].Attributes(), "error.type"), "error.type=connection")
				if said := s.parent(t).Status().Description; !strings.Contains(said, "; before that: ") {
					t.Errorf("the call's span says %q", said)
				}
			})
		})
	}
}

// What ended an inner Transport's call has not ended the outer one's: a layer between the two has a
// deadline of its own.
func TestNestedTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		inner := &steadyhttp.Transport{Base: script(failsWith(syscall.ECONNRESET), hangs), Policy: every(0)}
		middle := roundTripper(func(r *http.Request) (*http.Response, error) {
			ctx, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			return inner.RoundTrip(r.WithContext(ctx))
		})
		call(t, t.Context(), &steadyhttp.Transport{Base: middle, Trace: s.trace(steadyotel.Config{})})
		assertText(t, "outcomes", s.outcomes(), "call GET: error timeout; GET: error timeout")
	})
}

// The caller's span may end before the body is closed, as otelhttp's does: it is told of a failure
// as soon as that is certain.
func TestGivingUpIsToldAtOnce(t *testing.T) {
	s := newSDK(t)
	ctx, end := s.caller(t.Context())
	resp, err := (&steadyhttp.Transport{Base: answers(404, "x"), Trace: s.trace(steadyotel.Config{})}).RoundTrip(newRequest(t, ctx, "GET", "http://api.example/"))
	if err != nil {
		t.Fatal(err)
	}
	end()
	resp.Body.Close()
	if told := events(s.parent(t)); len(told) != 1 || !strings.HasPrefix(told[0], "steadyhttp.giving_up") {
		t.Errorf("told %q", told)
	}
}

// An inner Transport's refused retry is one, for however many Transports are around it.
func TestBudgetRefusalOfNestedTransports(t *testing.T) {
	for name, step := range map[string]roundTripper{"answer": answers(503, "x"), "error": failsWith(syscall.ECONNRESET)} {
		t.Run(name, func(t *testing.T) {
			s := newSDK(t)
			hooks := s.trace(steadyotel.Config{})
			policy := every(0)
			policy.Budget = &steadyhttp.Budget{Max: 0.5}
			inner := &steadyhttp.Transport{Base: script(step), Policy: policy, Trace: hooks}
			call(t, t.Context(), &steadyhttp.Transport{Base: inner, Policy: every(0), Trace: hooks})
			assertLines(t, "refusals", points(t, s.collect(t)["steadyhttp.budget.refusals"]), "1")
		})
	}
}

// Each wait at a gate is told once, though the hooks are there twice.
func TestWaitedBySameHooksTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		hooks := s.trace(steadyotel.Config{})
		gates := []steadyhttp.Gate{delay(time.Second), delay(time.Second)}
		call(t, steadyhttp.WithTrace(t.Context(), hooks), &steadyhttp.Transport{Base: answers(200, ""), Gates: gates, Trace: hooks})
		if told := events(s.parent(t)); len(told) != 2 {
			t.Errorf("told %q", told)
		}
	})
}

// Baggage goes on where nothing is recorded, as the trace does.
func TestBaggageWithoutProviders(t *testing.T) {
	tenant, err := baggage.NewMember("tenant", "x")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(tenant)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		got = req.Header.Get("Baggage")
		return answers(200, "")(req)
	})
	hooks := steadyotel.New(steadyotel.Config{
		TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider(), Propagator: propagation.Baggage{},
	})
	call(t, baggage.ContextWithBaggage(t.Context(), bag), &steadyhttp.Transport{Base: base, Trace: hooks})
	if got != "tenant=x" {
		t.Errorf("the baggage is %q", got)
	}
}

// Annotate reads nothing by itself: an answer whose body hangs is returned in the time that it
// would be without.
func TestAnnotateTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		annotated := steadyotel.Config{}.Annotate(withBody(400, hangingBody))
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			ctx, span := s.tracers.Tracer("otelhttp").Start(req.Context(), "HTTP GET")
			defer span.End()
			return annotated.RoundTrip(req.WithContext(ctx))
		})
		rt := &steadyhttp.Transport{Base: base, Policy: steadyhttp.Policy{AttemptTimeout: 500 * time.Millisecond}, Trace: s.trace(steadyotel.Config{NoAttemptSpans: true})}
		resp, err := rt.RoundTrip(newRequest(t, t.Context(), "GET", "http://api.example/"))
		if err != nil || resp.StatusCode != 400 {
			t.Fatalf("got %v, %v", resp, err)
		}
		resp.Body.Close()
	})
}

// A Reader that says that it has read more than there was room for, or less than nothing, is not
// taken at its word.
func TestAnnotateDoesNotTrustAReadersCount(t *testing.T) {
	for _, n := range []int{-1, 11, 1 << 20, 1<<31 - 1} {
		base := withBody(404, func(*http.Request) io.ReadCloser { return io.NopCloser(lyingReader(n)) })
		tracers := sdktrace.NewTracerProvider()
		ctx, span := tracers.Tracer("test").Start(t.Context(), "around")
		req, err := http.NewRequestWithContext(ctx, "GET", "https://api.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := steadyotel.Config{}.Annotate(base).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got, err := resp.Body.Read(make([]byte, 10)); got != n || err != nil {
				t.Errorf("a Read of %d came to %d, %v", n, got, err)
			}
		}
		resp.Body.Close()
		span.End()
	}
}

type lyingReader int

func (n lyingReader) Read([]byte) (int, error) { return int(n), nil }
