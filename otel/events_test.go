package steadyotel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/otel"
)

// The event of a retry tells which it follows, how it failed, how long the wait is and whose choice
// that was.
func TestRetryingEvent(t *testing.T) {
	for _, caller := range []bool{false, true} {
		t.Run(fmt.Sprintf("caller's span %v", caller), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t)
				ctx := t.Context()
				if caller {
					with, end := s.caller(ctx)
					ctx = with
					defer end()
				}
				rt := &steadyhttp.Transport{
					Base:   script(answers(503, envelope("C1", "T1")), failsWith(syscall.ECONNRESET), answers(503, ""), answers(200, "")),
					Policy: every(1500 * time.Millisecond),
					Trace:  s.trace(steadyotel.Config{}),
				}
				if err := call(t, ctx, rt); err != nil {
					t.Fatal(err)
				}
				assertLines(t, "events", events(s.parent(t)),
					"steadyhttp.retrying error.type=503 http.request.resend_count=0 steadyhttp.delay.source=backoff steadyhttp.error.code=C1 steadyhttp.error.target=T1 steadyhttp.wait=1.5",
					"steadyhttp.retrying error.type=connection http.request.resend_count=1 steadyhttp.delay.source=backoff steadyhttp.wait=1.5",
					"steadyhttp.retrying error.type=503 http.request.resend_count=2 steadyhttp.delay.source=backoff steadyhttp.wait=1.5")
				for _, span := range s.attempts() {
					if n := len(span.Events()); n != 0 {
						t.Errorf("an attempt's span has %d events", n)
					}
				}
			})
		})
	}
}

// Where the server named the time, the event says so, and the time is the one that is really
// waited.
func TestRetryingEventServersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		rt := &steadyhttp.Transport{Base: script(answers(429, envelope("C", "T"), "Retry-After: 20"), answers(200, "")), Policy: every(time.Second), Trace: s.trace(steadyotel.Config{})}
		if err := call(t, t.Context(), rt); err != nil {
			t.Fatal(err)
		}
		parent, attempts := s.parent(t), s.attempts()
		if len(parent.Events()) != 1 {
			t.Fatalf("%d events", len(parent.Events()))
		}
		attrs := parent.Events()[0].Attributes
		assertText(t, "source", pick(attrs, "steadyhttp.delay.source"), "steadyhttp.delay.source=server")
		wait, _ := value(attrs, "steadyhttp.wait")
		if waited := attempts[1].StartTime().Sub(attempts[0].EndTime()).Seconds(); wait.AsFloat64() != waited || waited < 20 || waited > 21 {
			t.Errorf("wait %v, waited %v", wait.AsFloat64(), waited)
		}
		if at := parent.Events()[0].Time; !at.Equal(attempts[0].EndTime()) {
			t.Errorf("told at %v, after the wait", at)
		}
	})
}

// A code that the Rules list is the event's error.type too; the counts go on over redirects as on
// the spans.
func TestRetryingEventErrorType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := &steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Busy": steadyhttp.Transient}}
		s := newSDK(t)
		ctx, end := s.caller(t.Context())
		defer end()
		client := &http.Client{Transport: &steadyhttp.Transport{
			Base:   script(answers(302, "", "Location: /next"), answers(400, envelope("Busy", "T")), answers(200, "")),
			Policy: every(0), Classify: rules.Classify, Trace: s.trace(steadyotel.Config{Rules: rules}),
		}}
		if err := finish(client.Do(newRequest(t, ctx, "GET", "http://api.example/"))); err != nil {
			t.Fatal(err)
		}
		assertLines(t, "events", events(s.parent(t)),
			"steadyhttp.retrying error.type=Busy http.request.resend_count=1 steadyhttp.delay.source=backoff steadyhttp.error.code=Busy steadyhttp.error.target=T steadyhttp.wait=0")
	})
}

// Only a wait for a gate that is worth a word has an event: one longer than 100 ms, of each attempt
// and each gate.
func TestWaitedEvent(t *testing.T) {
	for _, tt := range []struct {
		name  string
		gates []steadyhttp.Gate
		want  []string
	}{
		{"short", []steadyhttp.Gate{delay(100 * time.Millisecond)}, nil},
		{"long", []steadyhttp.Gate{delay(101 * time.Millisecond)}, []string{
			"steadyhttp.waited http.request.resend_count=0 steadyhttp.wait.cause=gate steadyhttp.wait=0.101",
			"steadyhttp.retrying",
			"steadyhttp.waited http.request.resend_count=1 steadyhttp.wait.cause=gate steadyhttp.wait=0.101"}},
		{"two gates", []steadyhttp.Gate{delay(time.Second), delay(time.Millisecond), delay(2 * time.Second)}, []string{
			"steadyhttp.waited http.request.resend_count=0 steadyhttp.wait.cause=gate steadyhttp.wait=1",
			"steadyhttp.waited http.request.resend_count=0 steadyhttp.wait.cause=gate steadyhttp.wait=2",
			"steadyhttp.retrying",
			"steadyhttp.waited http.request.resend_count=1 steadyhttp.wait.cause=gate steadyhttp.wait=1",
			"steadyhttp.waited http.request.resend_count=1 steadyhttp.wait.cause=gate steadyhttp.wait=2"}},
	} {
		for _, caller := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, caller's span %v", tt.name, caller), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSDK(t)
					ctx := t.Context()
					if caller {
						with, end := s.caller(ctx)
						ctx = with
						defer end()
					}
					rt := &steadyhttp.Transport{Base: script(answers(503, ""), answers(200, "")), Gates: tt.gates, Policy: every(0), Trace: s.trace(steadyotel.Config{})}
					if err := call(t, ctx, rt); err != nil {
						t.Fatal(err)
					}
					got := events(s.parent(t))
					for i := range got {
						if strings.HasPrefix(got[i], "steadyhttp.retrying ") {
							got[i] = "steadyhttp.retrying"
						}
					}
					want := tt.want
					if want == nil {
						want = []string{"steadyhttp.retrying"}
					}
					assertLines(t, "events", got, want...)
				})
			})
		}
	}
}

// A call that has failed tells so on a caller's span, where it has no status of its own to tell it
// with, and only there.
func TestGivingUpEvent(t *testing.T) {
	for _, tt := range []struct {
		name string
		rt   *steadyhttp.Transport
		want string // "": no event
	}{
		{"success", &steadyhttp.Transport{Base: script(answers(200, ""))}, ""},
		{"permanent", &steadyhttp.Transport{Base: script(answers(404, envelope("C", "T")))},
			"error.type=404 steadyhttp.attempts=1 steadyhttp.error.code=C steadyhttp.error.target=T steadyhttp.stop=permanent"},
		{"lost", &steadyhttp.Transport{Base: script(failsWith(syscall.ECONNRESET))},
			"error.type=connection steadyhttp.attempts=4 steadyhttp.stop=attempts"},
		{"refused", &steadyhttp.Transport{Base: script(answers(200, "")), Gates: []steadyhttp.Gate{refuses(1)}},
			"error.type=refused steadyhttp.attempts=0 steadyhttp.stop=refused"},
		{"refused retry", &steadyhttp.Transport{Base: script(failsWith(syscall.ECONNRESET)), Gates: []steadyhttp.Gate{refuses(2)}},
			"error.type=refused steadyhttp.attempts=1 steadyhttp.stop=refused"},
		{"body", &steadyhttp.Transport{Base: withBody(200, brokenBody(syscall.ECONNRESET))},
			"error.type=connection steadyhttp.attempts=1 steadyhttp.stop=done"},
	} {
		for _, where := range []string{"caller's span", "caller's span, never the call's", "call's span", "both"} {
			t.Run(tt.name+", "+where, func(t *testing.T) {
				s := newSDK(t)
				ctx := t.Context()
				if where != "call's span" {
					with, end := s.caller(ctx)
					ctx = with
					defer end()
				}
				config := steadyotel.Config{}
				switch where {
				case "caller's span, never the call's":
					config.CallSpan = steadyotel.CallSpanNever
				case "both":
					config.CallSpan = steadyotel.CallSpanAlways
				}
				rt := &steadyhttp.Transport{Base: tt.rt.Base, Policy: every(0), Gates: tt.rt.Gates, Trace: s.trace(config)}
				call(t, ctx, rt)
				var got []string
				for _, span := range s.spans() {
					for _, event := range events(span) {
						if words, found := strings.CutPrefix(event, "steadyhttp.giving_up "); found {
							got = append(got, span.Name()+" "+words)
						}
					}
				}
				var want []string
				if tt.want != "" && strings.HasPrefix(where, "caller's span") {
					want = []string{"caller " + tt.want}
				}
				assertLines(t, "giving up", got, want...)
			})
		}
	}
}

// A call that its caller has cancelled did not give up.
func TestCancelledCallHasNoGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSDK(t)
		ctx, end := s.caller(t.Context())
		defer end()
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		call(t, ctx, &steadyhttp.Transport{Base: hangs, Trace: s.trace(steadyotel.Config{})})
		assertLines(t, "events", events(s.parent(t)))
		assertText(t, "outcomes", s.outcomes(), "caller: unset; GET: unset")
	})
}

// Nor did one whose caller cancelled it while an answer came that a retry might have helped.
func TestCancelledAsItIsAnswered(t *testing.T) {
	s := newSDK(t)
	ctx, end := s.caller(t.Context())
	defer end()
	ctx, cancel := context.WithCancel(ctx)
	late := roundTripper(func(req *http.Request) (*http.Response, error) {
		cancel()
		return answers(503, "")(req)
	})
	call(t, ctx, &steadyhttp.Transport{Base: late, Trace: s.trace(steadyotel.Config{})})
	assertLines(t, "events", events(s.parent(t)))
	assertText(t, "outcomes", s.outcomes(), "caller: unset; GET: error 503")
}

// record is a line of steadyhttp.Log.
type record struct {
	Msg, Method, URL, Code, Stop, Error string
	Target                              string `json:"tracking_id"`
	Attempt, Status                     int
	Cause                               string
	Wait                                float64 // seconds, as on a span
}

// Spans and events have the words of steadyhttp.Log: who finds a line in one of the two finds its
// like in the other.
func TestSameWordsAsLog(t *testing.T) {
	for _, tt := range []struct {
		name  string
		base  roundTripper
		gates []steadyhttp.Gate
		edit  func(*steadyhttp.Policy)
		want  []string // the messages
	}{
		{"fail-fast", script(answers(404, envelope("ResourceNotFound", "T1"))), nil, nil, []string{"giving up"}},
		{"all of them", script(answers(429, envelope("TooManyRequests", "T1"), "Retry-After: 2"), failsWith(syscall.ECONNRESET), answers(503, envelope("C", "T2")), answers(400, envelope("BadRequest", "T3"))),
			[]steadyhttp.Gate{delay(250 * time.Millisecond)}, nil,
			[]string{"waited", "retrying", "waited", "retrying", "waited", "retrying", "waited", "giving up"}},
		{"exhausted", script(answers(503, envelope("C", "T"))), nil, func(p *steadyhttp.Policy) { p.MaxAttempts = 2 }, []string{"retrying", "giving up"}},
		{"no answer at all", script(failsWith(syscall.ECONNRESET)), nil, func(p *steadyhttp.Policy) { p.MaxAttempts = 2 }, []string{"retrying", "giving up"}},
		{"asked to wait too long", script(answers(429, envelope("C", "T"), "Retry-After: 3600")), nil, nil, []string{"giving up"}},
		{"refused", script(answers(200, "")), []steadyhttp.Gate{refuses(1)}, nil, []string{"giving up"}},
		{"refused retry", script(answers(503, envelope("C", "T"))), []steadyhttp.Gate{refuses(2)}, nil, []string{"retrying", "giving up"}},
		{"token", script(answers(200, "")), nil, nil, []string{"waited"}},
		{"refused retry of an error", script(failsWith(syscall.ECONNRESET)), []steadyhttp.Gate{refuses(2)}, nil, []string{"retrying", "giving up"}},
		{"out of time", hangs, nil, func(p *steadyhttp.Policy) { p.MaxElapsed = time.Second }, []string{"giving up"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				s := newSDK(t)
				ctx, end := s.caller(t.Context())
				defer end()
				policy := every(time.Second)
				if tt.edit != nil {
					tt.edit(&policy)
				}
				rt := &steadyhttp.Transport{Base: tt.base, Gates: tt.gates, Policy: policy, Trace: steadyhttp.Join(steadyhttp.Log(logger), s.trace(steadyotel.Config{}))}
				if tt.name == "token" {
					rt.Prepare = func(*http.Request, *steadyhttp.Attempt) error {
						time.Sleep(time.Second)
						return nil
					}
				}
				req := newRequest(t, ctx, "GET", "https://user:hidden@api.example/machines/1?key=hidden#hidden")
				finish(rt.RoundTrip(req))

				var records []record
				var messages []string
				for line := range strings.Lines(log.String()) {
					var r record
					if err := json.Unmarshal([]byte(line), &r); err != nil {
						t.Fatal(err)
					}
					records = append(records, r)
					messages = append(messages, r.Msg)
				}
				assertLines(t, "messages", messages, tt.want...)
				told := s.parent(t).Events()
				if len(told) != len(records) {
					t.Fatalf("%d events for %d records:\n%s", len(told), len(records), strings.Join(events(s.parent(t)), "\n"))
				}
				for i, r := range records {
					compareWords(t, s, told[i], r)
				}
			})
		})
	}
}

// compareWords compares a record with its event, and with the span of its attempt.
func compareWords(t *testing.T, s *sdk, event sdktrace.Event, r record) {
	t.Helper()
	if want := "steadyhttp." + strings.ReplaceAll(r.Msg, " ", "_"); event.Name != want {
		t.Errorf("%s, want %s", event.Name, want)
	}
	text := func(attrs []attribute.KeyValue, key attribute.Key) string {
		v, _ := value(attrs, key)
		return v.AsString()
	}
	number := func(attrs []attribute.KeyValue, key attribute.Key) int {
		v, _ := value(attrs, key)
		return int(v.AsInt64())
	}
	attempt := number(event.Attributes, "http.request.resend_count") + 1
	if r.Msg == "giving up" {
		attempt = number(event.Attributes, "steadyhttp.attempts")
	}
	wait, _ := value(event.Attributes, "steadyhttp.wait")
	got := record{
		Msg: r.Msg, Attempt: attempt, Code: text(event.Attributes, "steadyhttp.error.code"), Target: text(event.Attributes, "steadyhttp.error.target"),
		Stop: text(event.Attributes, "steadyhttp.stop"), Wait: wait.AsFloat64(), Cause: text(event.Attributes, "steadyhttp.wait.cause"),
	}
	want := r
	want.Method, want.URL, want.Status, want.Error = "", "", 0, ""
	if got != want {
		t.Errorf("the event says %+v\nthe record %+v", got, want)
	}

	i := slices.IndexFunc(s.attempts(), func(span sdktrace.ReadOnlySpan) bool {
		return number(span.Attributes(), "http.request.resend_count") == r.Attempt-1
	})
	if i < 0 {
		if r.Attempt > 0 {
			t.Errorf("attempt %d has no span", r.Attempt)
		}
		return
	}
	span := s.attempts()[i]
	if r.Status >= 400 {
		r.Error = "" // why there was no retry: the attempt's span has ended by then
	}
	got = record{Method: text(span.Attributes(), "http.request.method"), URL: text(span.Attributes(), "url.full")}
	want = record{Method: r.Method, URL: r.URL}
	if r.Msg != "waited" { // before it was sent, nobody knew more
		got.Status, got.Error = number(span.Attributes(), "http.response.status_code"), span.Status().Description
		got.Code, got.Target = text(span.Attributes(), "steadyhttp.error.code"), text(span.Attributes(), "steadyhttp.error.target")
		want.Status, want.Error, want.Code, want.Target = r.Status, r.Error, r.Code, r.Target
		if strings.HasSuffix(r.Error, "; before that: "+got.Error) {
			want.Error = got.Error // the record is of why there was no further attempt
		}
	}
	if got != want {
		t.Errorf("the span says %+v\nthe record %+v", got, want)
	}
}
