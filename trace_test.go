package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// hooks notes which hooks were called with what, in order.
type hooks struct {
	mu     sync.Mutex
	events []string
	done   []steadyhttp.Attempt
}

func (h *hooks) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, fmt.Sprintf(format, args...))
}

// trace returns a Trace that notes all it is told, under a name.
func (h *hooks) trace(name string) *steadyhttp.Trace {
	return &steadyhttp.Trace{
		Start: func(ctx context.Context, _ *http.Request) context.Context {
			h.note("%sstart", name)
			return ctx
		},
		Waited: func(_ context.Context, a steadyhttp.Attempt, w steadyhttp.Wait) {
			if w.Cause == steadyhttp.WaitGate {
				h.note("%sgated %d %v", name, a.N, w.For)
			}
		},
		AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
			h.note("%sattempt %d", name, a.N)
			return ctx
		},
		AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { h.note("%sanswered %d %q", name, a.N, a.Stop) },
		Done: func(_ context.Context, a steadyhttp.Attempt) {
			h.note("%sdone %d %q", name, a.N, a.Stop)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.done = append(h.done, a)
		},
	}
}

func (h *hooks) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.events, "; ")
}

// Each hook once for what it is for, in order; attempts are counted from 1.
func TestHooksInOrder(t *testing.T) {
	slowGate := steadyhttp.Limit(limiterFunc(func(context.Context) error { time.Sleep(time.Second); return nil }))
	no := gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		return nil, steadyhttp.ErrNotSent
	})
	notTwice := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if a.N > 1 {
			return nil, steadyhttp.ErrNotSent
		}
		return nil, nil
	})
	tests := []struct {
		name  string
		steps []step
		gates []steadyhttp.Gate
		want  string
	}{
		{"success", []step{answers(200, "")}, nil, `start; attempt 1; answered 1 "done"; done 1 "done"`},
		{"one retry", []step{answers(503, ""), answers(200, "")}, nil, `start; attempt 1; answered 1 ""; attempt 2; answered 2 "done"; done 2 "done"`},
		{"permanent", []step{answers(404, "")}, nil, `start; attempt 1; answered 1 "permanent"; done 1 "permanent"`},
		{"given up", []step{failsWith(errReset)}, nil, `start; attempt 1; answered 1 ""; attempt 2; answered 2 ""; attempt 3; answered 3 ""; attempt 4; answered 4 "attempts"; done 4 "attempts"`},
		{"held up", []step{answers(200, "")}, []steadyhttp.Gate{slowGate}, `start; gated 1 1s; attempt 1; answered 1 "done"; done 1 "done"`},
		{"not held up", []step{answers(200, "")}, []steadyhttp.Gate{steadyhttp.Limit(nil)}, `start; attempt 1; answered 1 "done"; done 1 "done"`},
		{"refused", []step{answers(200, "")}, []steadyhttp.Gate{no}, `start; done 0 "refused"`},
		{"refused retry", []step{answers(503, "")}, []steadyhttp.Gate{notTwice}, `start; attempt 1; answered 1 ""; done 1 "refused"`},
		{"refused retry of an error", []step{failsWith(errReset)}, []steadyhttp.Gate{notTwice}, `start; attempt 1; answered 1 ""; done 1 "refused"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h hooks
				resp, err := (&steadyhttp.Transport{Base: newScript(tt.steps...), Gates: tt.gates, Trace: h.trace("")}).RoundTrip(newRequest(t, "GET", ""))
				if err == nil {
					readAll(t, resp)
				}
				if h.String() != tt.want {
					t.Errorf("%s\nwant %s", &h, tt.want)
				}
			})
		})
	}
}

// Done is called exactly once, however the body ends.
func TestDoneExactlyOnce(t *testing.T) {
	broken := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(200, "")(req)
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), errorReader{errReset}))
		return resp, nil
	}
	bodiless := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(204, "")(req)
		resp.Body = http.NoBody
		return resp, nil
	}
	noBody := func(req *http.Request) (*http.Response, error) {
		resp, _ := answers(404, "")(req)
		resp.Body = nil
		return resp, nil
	}
	tests := []struct {
		name string
		base step
		use  func(*http.Response)
		err  error // in the last attempt
	}{
		{"read to the end", answers(200, "body"), func(r *http.Response) { io.Copy(io.Discard, r.Body) }, nil},
		{"read to the end, then closed", answers(200, "body"), func(r *http.Response) { io.Copy(io.Discard, r.Body); r.Body.Close() }, nil},
		{"read beyond the end", answers(200, "body"), func(r *http.Response) { io.ReadAll(r.Body); io.ReadAll(r.Body) }, nil},
		{"closed", answers(200, "body"), func(r *http.Response) { r.Body.Close() }, nil},
		{"closed twice", answers(200, "body"), func(r *http.Response) { r.Body.Close(); r.Body.Close() }, nil},
		{"closed half-way", answers(200, "body"), func(r *http.Response) { r.Body.Read(make([]byte, 2)); r.Body.Close() }, nil},
		{"broken", broken, func(r *http.Response) { io.ReadAll(r.Body); r.Body.Close() }, errReset},
		{"error answer, read", answers(404, "body"), func(r *http.Response) { io.ReadAll(r.Body) }, nil},
		{"error answer, closed", answers(404, "body"), func(r *http.Response) { r.Body.Close() }, nil},
		{"error answer without a body", answers(404, ""), func(r *http.Response) { io.ReadAll(r.Body); r.Body.Close() }, nil},
		{"NoBody", bodiless, func(r *http.Response) { r.Body.Close() }, nil},
		{"NoBody, not even closed", bodiless, func(*http.Response) {}, nil},
		{"nil body", noBody, func(r *http.Response) { r.Body.Close() }, nil},
		{"lost connection", failsWith(errReset), nil, errReset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h hooks
			transport := &steadyhttp.Transport{Base: newScript(tt.base), Trace: &steadyhttp.Trace{Done: h.trace("").Done}, Policy: steadyhttp.Policy{MaxAttempts: 1}}
			resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
			if err == nil {
				if resp.Body != http.NoBody && resp.StatusCode == 200 && len(h.done) != 0 {
					t.Error("done before the body was")
				}
				tt.use(resp)
			}
			if len(h.done) != 1 || !errors.Is(h.done[0].Err, tt.err) || tt.err == nil && h.done[0].Err != nil {
				t.Errorf("told %d times: %+v", len(h.done), h.done)
			}
		})
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// Readers and closers of one body on several goroutines still make one Done.
func TestDoneOnceUnderConcurrentClose(t *testing.T) {
	for range 200 {
		var h hooks
		transport := &steadyhttp.Transport{Base: newScript(answers(200, "body")), Trace: &steadyhttp.Trace{Done: h.trace("").Done}}
		resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { resp.Body.Close() })
		}
		wg.Wait()
		if len(h.done) != 1 {
			t.Fatalf("told %d times", len(h.done))
		}
	}
}

// A hook's context is the one that the hooks and the base after it get: Start's for the call, AttemptStart's for one
// attempt.
func TestContextsOfHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key string
		var seen []string
		see := func(where string, ctx context.Context) {
			seen = append(seen, fmt.Sprintf("%s: %v %v", where, ctx.Value(key("call")), ctx.Value(key("attempt"))))
		}
		trace := &steadyhttp.Trace{
			Start: func(ctx context.Context, _ *http.Request) context.Context {
				return context.WithValue(ctx, key("call"), "c")
			},
			AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
				see("AttemptStart", ctx)
				return context.WithValue(ctx, key("attempt"), a.N)
			},
			AttemptDone: func(ctx context.Context, _ steadyhttp.Attempt) { see("AttemptDone", ctx) },
			Done:        func(ctx context.Context, _ steadyhttp.Attempt) { see("Done", ctx) },
		}
		gate := gateFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			see("Gate", ctx)
			return nil, nil
		})
		fault, fine := answers(503, ""), answers(200, "")
		looking := func(s step) step {
			return func(req *http.Request) (*http.Response, error) {
				see("Base", req.Context())
				return s(req)
			}
		}
		do(t, &steadyhttp.Transport{Base: newScript(looking(fault), looking(fine)), Trace: trace, Gates: []steadyhttp.Gate{gate}}, newRequest(t, "GET", ""))
		want := []string{
			"Gate: c <nil>", "AttemptStart: c <nil>", "Base: c 1", "AttemptDone: c 1",
			"Gate: c <nil>", "AttemptStart: c <nil>", "Base: c 2", "AttemptDone: c 2", "Done: c <nil>",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("%q\nwant %q", seen, want)
		}
	})
}

// A hook that returns nil has nothing to add.
func TestHooksThatReturnNoContext(t *testing.T) {
	trace := &steadyhttp.Trace{
		Start:        func(context.Context, *http.Request) context.Context { return nil },
		AttemptStart: func(context.Context, steadyhttp.Attempt) context.Context { return nil },
	}
	for name, trace := range map[string]*steadyhttp.Trace{"alone": trace, "joined": steadyhttp.Join(trace, trace)} {
		base := newScript(answers(200, ""))
		do(t, &steadyhttp.Transport{Base: base, Trace: trace}, newRequest(t, "GET", ""))
		if base.sent() != 1 {
			t.Errorf("%s: %d sends", name, base.sent())
		}
	}
}

// A hook may set fields on the attempt's own clone; neither the caller's request nor the next attempt has
// them.
func TestAttemptStartMaySetFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answers(503, ""), answers(200, ""))
		req := newRequest(t, "GET", "")
		req.Header.Set("Mine", "m")
		trace := &steadyhttp.Trace{AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
			if a.Request == req {
				t.Error("the hook was handed the caller's request")
			}
			a.Request.Header.Set(fmt.Sprint("Attempt-", a.N), "yes")
			return context.WithValue(ctx, newContextKey{}, "x") // a new context must not lose the fields
		}}
		do(t, &steadyhttp.Transport{Base: base, Trace: trace}, req)
		for i, want := range []http.Header{{"Mine": {"m"}, "Attempt-1": {"yes"}}, {"Mine": {"m"}, "Attempt-2": {"yes"}}} {
			if got := base.request(i).Header; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("attempt %d was sent with %v", i+1, got)
			}
		}
		if len(req.Header) != 1 {
			t.Errorf("the caller's request has become %v", req.Header)
		}
	})
}

// What the hooks are told of an attempt that was answered, and of the last one.
func TestWhatHooksAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told, done []steadyhttp.Attempt
		trace := &steadyhttp.Trace{
			AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { told = append(told, a) },
			Done:        func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
		}
		began := time.Now()
		base := newScript(answers(429, envelope("429", "m", "t-1"), "Retry-After: 5"), failsWith(errReset), answers(404, envelope("NotFound", "m", "t-3")))
		do(t, &steadyhttp.Transport{Base: base, Trace: trace}, newRequest(t, "GET", ""))
		if len(told) != 3 || len(done) != 1 {
			t.Fatalf("told %d times, done %d times", len(told), len(done))
		}
		first, second, third := told[0], told[1], told[2]
		if first.N != 1 || first.Verdict.Class != steadyhttp.Throttled || first.Verdict.TrackingID != "t-1" || first.Wait < 5*time.Second || first.Stop != "" || string(first.Body) != envelope("429", "m", "t-1") {
			t.Errorf("first: %+v", first)
		}
		if second.N != 2 || second.Err != error(errReset) || second.Response != nil || second.Verdict.Class != steadyhttp.Transient || second.Wait <= 0 {
			t.Errorf("second: %+v", second)
		}
		if third.N != 3 || third.Err != nil || third.Verdict.Code != "NotFound" || third.Stop != "permanent" || third.Wait != 0 {
			t.Errorf("third: %+v", third)
		}
		for i, a := range told {
			if !a.Began.Equal(began) || a.Sent.IsZero() || a.Sends != 1 || a.Request == nil {
				t.Errorf("attempt %d: %+v", i+1, a)
			}
		}
		if done[0].N != 3 || done[0].Verdict.TrackingID != "t-3" || done[0].Stop != "permanent" {
			t.Errorf("done: %+v", done[0])
		}
	})
}

// Join: outer hooks begin first and end last, as calls nest.
func TestJoinOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hooks
		gate := steadyhttp.Limit(limiterFunc(func(context.Context) error { time.Sleep(time.Second); return nil }))
		trace := steadyhttp.Join(h.trace("a "), nil, h.trace("b "), h.trace("c "), nil)
		do(t, &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: trace, Gates: []steadyhttp.Gate{gate}}, newRequest(t, "GET", ""))
		want := `a start; b start; c start; c gated 1 1s; b gated 1 1s; a gated 1 1s; a attempt 1; b attempt 1; c attempt 1; ` +
			`c answered 1 "done"; b answered 1 "done"; a answered 1 "done"; c done 1 "done"; b done 1 "done"; a done 1 "done"`
		if h.String() != want {
			t.Errorf("%s\nwant %s", &h, want)
		}
	})
}

// Each of several joined hooks gets the context that the one before it returned, and the base what all have added.
func TestJoinPassesContextsOn(t *testing.T) {
	type key struct {
		hook string
		n    int
	}
	var traces []*steadyhttp.Trace
	for n := range 3 {
		add := func(hook string, ctx context.Context) context.Context {
			if n > 0 && ctx.Value(key{hook, n - 1}) == nil {
				t.Errorf("%s %d does not see what the one before has added", hook, n)
			}
			return context.WithValue(ctx, key{hook, n}, true)
		}
		traces = append(traces, &steadyhttp.Trace{
			Start:        func(ctx context.Context, _ *http.Request) context.Context { return add("Start", ctx) },
			AttemptStart: func(ctx context.Context, _ steadyhttp.Attempt) context.Context { return add("AttemptStart", ctx) },
		})
	}
	base := newScript(answers(200, ""))
	do(t, &steadyhttp.Transport{Base: base, Trace: steadyhttp.Join(traces...)}, newRequest(t, "GET", ""))
	for n := range 3 {
		for _, hook := range []string{"Start", "AttemptStart"} {
			if base.request(0).Context().Value(key{hook, n}) == nil {
				t.Errorf("the base does not see what %s %d has added", hook, n)
			}
		}
	}
}

func TestJoinOfNothing(t *testing.T) {
	one := &steadyhttp.Trace{}
	if steadyhttp.Join() != nil || steadyhttp.Join(nil, nil) != nil {
		t.Error("nothing joined is something")
	}
	if steadyhttp.Join(nil, one, nil) != one {
		t.Error("one Trace joined is another")
	}
}

// Traces with different hooks missing, joined in both orders: what is there is called, what is not is not missed.
func TestJoinOfPartialTraces(t *testing.T) {
	var h hooks
	full := h.trace("")
	partial := []*steadyhttp.Trace{
		{Start: full.Start}, {Waited: full.Waited}, {AttemptStart: full.AttemptStart}, {AttemptDone: full.AttemptDone}, {Done: full.Done}, {},
	}
	for _, trace := range []*steadyhttp.Trace{steadyhttp.Join(partial...), steadyhttp.Join(slices.Concat(partial[3:], partial[:3])...)} {
		h.events = nil
		do(t, &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: trace}, newRequest(t, "GET", ""))
		if want := `start; attempt 1; answered 1 "done"; done 1 "done"`; h.String() != want {
			t.Errorf("%s\nwant %s", &h, want)
		}
	}
}

// WithTrace: for the calls of one context, inside the Transport's own hooks; an inner context's inside an outer's.
func TestWithTrace(t *testing.T) {
	var h hooks
	transport := &steadyhttp.Transport{Base: newScript(answers(200, "")), Trace: h.trace("transport ")}
	outer := steadyhttp.WithTrace(t.Context(), h.trace("outer "))
	inner := steadyhttp.WithTrace(outer, h.trace("inner "))
	do(t, transport, newRequest(t, "GET", "").WithContext(inner))
	want := `transport start; outer start; inner start; transport attempt 1; outer attempt 1; inner attempt 1; ` +
		`inner answered 1 "done"; outer answered 1 "done"; transport answered 1 "done"; inner done 1 "done"; outer done 1 "done"; transport done 1 "done"`
	if h.String() != want {
		t.Errorf("%s\nwant %s", &h, want)
	}

	h.events = nil
	do(t, transport, newRequest(t, "GET", ""))
	if strings.Contains(h.String(), "outer") || !strings.Contains(h.String(), "transport") {
		t.Errorf("another call: %s", &h)
	}

	if ctx := steadyhttp.WithTrace(t.Context(), nil); ctx != t.Context() {
		t.Error("a nil Trace makes another context")
	}
}

// A Transport without hooks of its own has the context's.
func TestWithTraceAlone(t *testing.T) {
	var h hooks
	ctx := steadyhttp.WithTrace(t.Context(), h.trace(""))
	ctx = steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { p.MaxAttempts = 1 }) // one does not push out the other
	base := newScript(answers(503, ""))
	do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "").WithContext(ctx))
	if want := `start; attempt 1; answered 1 "attempts"; done 1 "attempts"`; h.String() != want {
		t.Errorf("%s\nwant %s", &h, want)
	}
}

// records is a slog.Handler that keeps what it is given.
type records struct {
	level slog.Level
	mu    sync.Mutex
	all   []slog.Record
}

func (r *records) Enabled(_ context.Context, level slog.Level) bool { return level >= r.level }
func (r *records) WithAttrs([]slog.Attr) slog.Handler               { return r }
func (r *records) WithGroup(string) slog.Handler                    { return r }
func (r *records) Handle(_ context.Context, record slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, record)
	return nil
}

// waited returns a record's wait, which must be in seconds.
func waited(v slog.Value) time.Duration { return time.Duration(v.Float64() * float64(time.Second)) }

// text renders a record without its time, and with its waits rounded to seconds.
func text(record slog.Record) string {
	b := []string{record.Level.String(), record.Message}
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "wait" {
			a.Value = slog.DurationValue(waited(a.Value).Round(time.Second))
		}
		b = append(b, a.String())
		return true
	})
	return strings.Join(b, " ")
}

// Levels and fields of the log.
func TestLog(t *testing.T) {
	const url = "url=http://api.example/machines/1?key=REDACTED"
	refusing := func(from int) steadyhttp.Gate {
		return gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			if a.N >= from {
				return nil, steadyhttp.ErrNotSent
			}
			return nil, nil
		})
	}
	tests := []struct {
		name   string
		method string
		steps  []step
		gates  []steadyhttp.Gate
		cancel time.Duration // after which the caller ends the call; 0: never
		want   []string
	}{
		{"success", "GET", []step{answers(200, "")}, nil, 0, nil},
		{"a redirect is none of ours", "GET", []step{answers(302, "")}, nil, 0, nil},
		{"a retry", "GET", []step{answers(429, envelope("429", "m", "t-1"), "Retry-After: 20"), answers(200, "")}, nil, 0, []string{
			"DEBUG retrying method=GET " + url + " attempt=1 status=429 code=429 tracking_id=t-1 wait=20s|21s",
			"INFO waiting method=GET " + url + " attempt=1 status=429 code=429 tracking_id=t-1 cause=server wait=20s|21s",
		}},
		{"giving up at once", "POST", []step{answers(404, envelope("ResourceNotFound", "Machine 1 was not found", "t-1"))}, nil, 0, []string{
			"WARN giving up method=POST " + url + " attempt=1 status=404 code=ResourceNotFound tracking_id=t-1 stop=permanent",
		}},
		{"giving up after retries", "GET", []step{failsWith(errReset), answers(503, "", "Retry-After: 3600")}, nil, 0, []string{
			"DEBUG retrying method=GET " + url + " attempt=1 error=read tcp: read: " + syscall.ECONNRESET.Error() + " wait=0s|1s",
			"WARN giving up method=GET " + url + " attempt=2 status=503 stop=wait_too_long",
		}},
		{"no method is GET", "", []step{answers(404, "")}, nil, 0, []string{
			"WARN giving up method=GET " + url + " attempt=1 status=404 stop=permanent",
		}},
		{"refused", "GET", []step{answers(200, "")}, []steadyhttp.Gate{refusing(1)}, 0, []string{
			"WARN giving up method=GET " + url + " attempt=0 error=nothing was sent stop=refused",
		}},
		{"refused retry", "GET", []step{answers(503, envelope("Busy", "m", "t-1"))}, []steadyhttp.Gate{refusing(2)}, 0, []string{
			"DEBUG retrying method=GET " + url + " attempt=1 status=503 code=Busy tracking_id=t-1 wait=0s|1s",
			"WARN giving up method=GET " + url + " attempt=1 status=503 code=Busy tracking_id=t-1 error=nothing was sent stop=refused",
		}},
		{"cancelled in the wait", "GET", []step{answers(429, "", "Retry-After: 20")}, nil, time.Second, []string{
			"DEBUG retrying method=GET " + url + " attempt=1 status=429 wait=20s|21s",
			"INFO waiting method=GET " + url + " attempt=1 status=429 cause=server wait=20s|21s",
			"DEBUG cancelled method=GET " + url + " attempt=1 *",
		}},
		{"cancelled in the attempt", "GET", []step{hangs}, nil, time.Second, []string{
			"DEBUG cancelled method=GET " + url + " attempt=1 error=context canceled stop=cancelled",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				handler := &records{level: slog.LevelDebug}
				transport := &steadyhttp.Transport{Base: newScript(tt.steps...), Gates: tt.gates, Trace: steadyhttp.Log(slog.New(handler))}
				if resp, err := transport.RoundTrip(newRequest(t, tt.method, "").WithContext(ctx)); err == nil {
					readAll(t, resp)
				}
				var got []string
				for _, record := range handler.all {
					got = append(got, text(record))
				}
				if !slices.EqualFunc(got, tt.want, like) {
					t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			})
		})
	}
}

// like compares with a want that may end in one of two values, or in anything.
func like(got, want string) bool {
	if prefix, ok := strings.CutSuffix(want, "*"); ok {
		return strings.HasPrefix(got, prefix)
	}
	if first, second, ok := strings.Cut(want, "|"); ok {
		return got == first || got == first[:strings.LastIndex(first, "=")+1]+second
	}
	return got == want
}

// A handler that does not want Debug gets the one Warn of a failed call, and nothing else.
func TestLogLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := &records{level: slog.LevelInfo}
		transport := &steadyhttp.Transport{Base: newScript(answers(503, "")), Trace: steadyhttp.Log(slog.New(handler))}
		do(t, transport, newRequest(t, "GET", ""))
		if len(handler.all) != 1 || handler.all[0].Level != slog.LevelWarn || handler.all[0].Message != "giving up" {
			t.Errorf("got %v", handler.all)
		}
	})
}

// A nil logger is slog's default, looked up at each record: programs set theirs after their clients.
func TestLogWithNilLogger(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	transport := &steadyhttp.Transport{Base: newScript(answers(404, "")), Trace: steadyhttp.Log(nil)}
	handler := &records{}
	slog.SetDefault(slog.New(handler))
	do(t, transport, newRequest(t, "GET", ""))
	if len(handler.all) != 1 {
		t.Errorf("%d records", len(handler.all))
	}
}

type newContextKey struct{}

// A hook may go on reading the request that it was shown, beside the attempt.
func TestHookMayGoOnReadingTheRequest(t *testing.T) {
	type key struct{}
	var readers sync.WaitGroup
	transport := &steadyhttp.Transport{
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Context().Value(key{}) == nil {
				t.Error("the attempt has not the hook's context")
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
		}),
		Trace: &steadyhttp.Trace{AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
			readers.Go(func() {
				if a.Request.Method != http.MethodGet || a.Request.URL.Host == "" || a.Request.Context() == nil {
					t.Error("the request has changed")
				}
			})
			return context.WithValue(ctx, key{}, a.N)
		}},
	}
	for range 100 {
		resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, ""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	readers.Wait()
}

// Nothing is written into a request that a hook, or Prepare, has seen: neither what keeps net/http from replaying it, nor what
// follows from a body that was put in the place of its own. A header that is read meanwhile would end the process.
func TestRequestThatWasSeenStaysAsItIs(t *testing.T) {
	type key struct{}
	for _, native := range []bool{true, false} {
		for _, method := range []string{"GET", "OPTIONS", "TRACE", "POST", "PUT"} {
			for _, keyed := range []string{"", "by the caller", "by the policy"} {
				for _, policy := range []string{"", "never", "always"} {
					for _, seenBy := range []string{"AttemptStart", "AttemptStart with a context", "Prepare", "Authorize"} {
						for _, replaced := range []bool{false, true} {
							if replaced && method != "POST" && method != "PUT" {
								continue
							}
							t.Run(fmt.Sprint(method, ", native ", native, ", key ", keyed, ", idempotent ", policy, ", ", seenBy, ", replaced ", replaced), func(t *testing.T) {
								var reading sync.WaitGroup
								base := newScript(answers(503, ""), answers(200, ""))
								tr := &steadyhttp.Transport{Base: base, Policy: atOnce()}
								if native {
									tr.Base = registered(base)
								}
								look := func(req *http.Request) {
									if replaced {
										req.Body = struct{ io.ReadCloser }{req.Body}
									}
									body, getBody, field := req.Body, req.GetBody != nil, req.Header.Get("Idempotency-Key")
									reading.Go(func() {
										for range 50 {
											if req.Body != body || (req.GetBody != nil) != getBody || req.Header.Get("Idempotency-Key") != field || len(req.TransferEncoding) > 0 {
												t.Errorf("written to: %+v", req)
												return
											}
											runtime.Gosched()
										}
									})
									// And what it comes to once the attempt is over.
									t.Cleanup(func() {
										if req.Body != body || (req.GetBody != nil) != getBody || req.Header.Get("Idempotency-Key") != field || len(req.TransferEncoding) > 0 {
											t.Errorf("written to: %+v", req)
										}
									})
								}
								switch seenBy {
								case "Prepare":
									tr.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error { look(req); return nil }
								case "Authorize":
									tr.Authorize = func(req *http.Request, _ *steadyhttp.Attempt) error { look(req); return nil }
								default:
									tr.Trace = &steadyhttp.Trace{AttemptStart: func(ctx context.Context, a steadyhttp.Attempt) context.Context {
										look(a.Request)
										if seenBy != "AttemptStart" {
											return context.WithValue(ctx, key{}, 1)
										}
										return nil
									}}
								}
								if policy != "" {
									tr.Policy.Idempotent = func(*http.Request) bool { return policy == "always" }
								}
								tr.Policy.IdempotencyKey = keyed == "by the policy"
								content := ""
								if method == "POST" || method == "PUT" {
									content = "content"
								}
								req := newRequest(t, method, content)
								if keyed == "by the caller" {
									req.Header.Set("Idempotency-Key", "mine")
								}
								resp, err := tr.RoundTrip(req)
								if err != nil {
									t.Fatal(err)
								}
								resp.Body.Close()
								for i, sent := range base.bodies {
									if sent != content {
										t.Errorf("attempt %d sent %q", i+1, sent)
									}
								}
								reading.Wait()
							})
						}
					}
				}
			}
		}
	}
}
