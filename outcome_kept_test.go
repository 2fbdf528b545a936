package steadyhttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// errSecret is what an authority says of a secret that nobody renewed.
var errSecret = errors.New("AADSTS7000222: the client secret has expired")

// What ended the call is told beside the answer that was kept, to whoever asks: Check, AttemptOf, Done and the
// log. Wait is the longest that anybody asked for.
func TestCauseBesideAKeptAnswer(t *testing.T) {
	prepare := func(err error) func(*http.Request, *steadyhttp.Attempt) error {
		return func(_ *http.Request, prev *steadyhttp.Attempt) error {
			if prev == nil {
				return nil
			}
			return err
		}
	}
	refuse := func(err error) []steadyhttp.Gate { return []steadyhttp.Gate{nil, afterFirstAttempt(refuser(1, err))} }
	nothing := func(*http.Request, *steadyhttp.Attempt) error { return nil }
	throttledToken := &steadyhttp.Error{StatusCode: 429, Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, RetryAfter: 2 * time.Hour}}
	for _, tt := range []struct {
		name     string
		make     *steadyhttp.Transport
		deadline time.Duration
		stop     steadyhttp.Stop
		cause    error         // nil: the Stop says it all
		text     string        // of the cause, as people read it
		wait     time.Duration // that the cause asks for
		queue    time.Duration // before the budget covers a retry
		kind     string        // ErrorType of the same, where the answer was not kept; "": that is returned
	}{
		{
			name: "Prepare fails", make: &steadyhttp.Transport{Prepare: prepare(errSecret)},
			stop: "prepare", cause: errSecret, text: "AADSTS7000222", kind: "prepare",
		},
		{
			name: "Prepare fails for good", make: &steadyhttp.Transport{Prepare: prepare(fmt.Errorf("%w: %w", errSecret, statusError(401)))},
			stop: "prepare", cause: errSecret, text: "AADSTS7000222", kind: "prepare",
		},
		{
			name: "Prepare fails with a service's no", make: &steadyhttp.Transport{Prepare: prepare(throttledToken), Policy: steadyhttp.Policy{MaxAttempts: 2}},
			stop: "prepare", text: "429", wait: 2 * time.Hour, kind: "prepare",
		},
		{
			name: "Prepare is refused", make: &steadyhttp.Transport{Prepare: prepare(&steadyhttp.Refusal{Wait: time.Hour, Err: errSecret})},
			stop: "prepare", cause: errSecret, text: "AADSTS7000222", wait: time.Hour, kind: "prepare",
		},
		{
			name: "a gate refuses for an hour", make: &steadyhttp.Transport{Gates: refuse(&steadyhttp.Refusal{Wait: time.Hour, Err: errTrial})},
			stop: "refused", cause: errTrial, text: "a fault of the trial", wait: time.Hour, kind: "refused",
		},
		{
			name: "a gate refuses for an hour, wrapped", make: &steadyhttp.Transport{Gates: refuse(fmt.Errorf("pool: %w", &steadyhttp.Refusal{Wait: time.Hour, Err: errTrial}))},
			stop: "refused", cause: errTrial, text: "pool: ", wait: time.Hour, kind: "refused",
		},
		{
			name: "a gate refuses for less than the server", make: &steadyhttp.Transport{Gates: refuse(&steadyhttp.Refusal{Wait: time.Second, Err: errTrial})},
			stop: "refused", cause: errTrial, text: "a fault of the trial", wait: time.Second, kind: "refused",
		},
		{
			name: "a gate refuses plainly", make: &steadyhttp.Transport{Gates: refuse(errTrial)},
			stop: "refused", cause: errTrial, text: "a fault of the trial", kind: "refused",
		},
		{
			name: "a gate refuses as nothing was sent", make: &steadyhttp.Transport{Gates: refuse(steadyhttp.ErrNotSent)},
			stop: "refused", text: "nothing was sent", kind: "refused",
		},
		{
			name: "a gate waits for too long", make: &steadyhttp.Transport{
				Policy: steadyhttp.Policy{MaxElapsed: time.Minute},
				Gates: []steadyhttp.Gate{afterFirstAttempt(enterFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}))},
			},
			stop: "elapsed", cause: context.DeadlineExceeded, text: "Policy.MaxElapsed of 1m0s exceeded", kind: "timeout",
		},
		{
			name: "GetBody fails", make: &steadyhttp.Transport{},
			stop: "body_not_replayable", cause: errSecret, text: "reading the request's body: AADSTS7000222", kind: "request body",
		},
		{
			name: "the budget refuses", make: &steadyhttp.Transport{Policy: steadyhttp.Policy{Budget: &steadyhttp.Budget{Max: 1e-9, PerSuccess: -1, PerSecond: -1}}},
			stop: "budget",
		},
		{
			name: "the budget's queue is too long", make: &steadyhttp.Transport{}, deadline: 30 * time.Second,
			stop: "deadline", queue: time.Hour,
		},
		{
			name: "the deadline is too near", make: &steadyhttp.Transport{Prepare: nothing}, deadline: 100 * time.Millisecond,
			stop: "deadline",
		},
		{
			name: "MaxElapsed is too near", make: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxElapsed: 100 * time.Millisecond}},
			stop: "elapsed",
		},
		{
			name: "MaxWait is too near", make: &steadyhttp.Transport{Policy: steadyhttp.Policy{MaxWait: time.Millisecond}},
			stop: "wait_too_long",
		},
	} {
		for _, answer := range []struct {
			status int
			body   string
			after  time.Duration
		}{
			{503, envelope("Busy", "m", "id-1"), 0}, {503, "", 10 * time.Second}, {429, "", 10 * time.Second},
			{429, envelope("429", "m", "id-1"), 0}, {401, envelope("Expired", "m", "id-1"), 0},
			{503, strings.Repeat("x", 100<<10), 0}, // too long to be kept
		} {
			t.Run(fmt.Sprint(tt.name, ", ", answer.status, ", ", len(answer.body), " bytes, ", answer.after), inBubble(func(t *testing.T) {
				switch {
				case answer.status == 401 && (tt.make.Prepare == nil && tt.stop != "refused" || tt.stop == "deadline"):
					t.Skip("there is no retry of it, or no wait")
				case answer.status != 503 && tt.stop == "budget", answer.after > 0 && tt.stop == "budget" && answer.status == 429:
					t.Skip("what the server dates costs nothing")
				case tt.stop == "wait_too_long" && answer.after == 0, tt.queue > 0 && answer.status != 503:
					t.Skip("nobody asks for a wait")
				}
				large := len(answer.body) > 64<<10
				var fields []string
				if answer.after > 0 {
					fields = append(fields, fmt.Sprint("Retry-After: ", int(answer.after.Seconds())))
				}
				base := newScript(answers(answer.status, answer.body, fields...))
				var text bytes.Buffer
				var done, decided []steadyhttp.Attempt
				transport := withBase(tt.make, base)
				if tt.queue > 0 {
					transport.Policy.Budget = spentBudgetIn(tt.queue)
				}
				if answer.status == 401 && transport.Prepare == nil {
					transport.Prepare = nothing
				}
				transport.Trace = steadyhttp.Join(steadyhttp.Log(slog.New(slog.NewTextHandler(&text, nil))), &steadyhttp.Trace{
					AttemptDone: func(_ context.Context, a steadyhttp.Attempt) { decided = append(decided, a) },
					Done:        func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
				})
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				req := newRequest(t, "PUT", "content").WithContext(ctx)
				if tt.kind == "request body" {
					req.GetBody = func() (io.ReadCloser, error) { return nil, errSecret }
				}
				resp, err := transport.RoundTrip(req)
				wait := max(tt.wait, answer.after)
				if large && tt.kind != "" {
					e := errorOf(t, err)
					if e.Stop != tt.stop || e.StatusCode != answer.status || e.Wait != wait || e.ErrorType() != tt.kind || e.Attempts != 1 ||
						tt.cause != nil && !errors.Is(e, tt.cause) || !strings.Contains(e.Error(), tt.text) || errors.Is(err, steadyhttp.ErrNotSent) {
						t.Errorf("got %+v: %v", e, e)
					}
				} else {
					if err != nil {
						t.Fatal(err)
					}
					a, _ := steadyhttp.AttemptOf(resp)
					if body := readAll(t, resp); body != answer.body || resp.StatusCode != answer.status {
						t.Errorf("got %d and %d bytes", resp.StatusCode, len(body))
					}
					e := errorOf(t, steadyhttp.Check(resp))
					if e.Stop != tt.stop || e.StatusCode != answer.status || e.Wait != wait || e.Attempts != 1 || a.Stop != tt.stop ||
						(e.Err != nil) != (tt.kind != "") || (a.Err != nil) != (tt.kind != "") || errors.Is(e, steadyhttp.ErrNotSent) ||
						tt.cause != nil && !(errors.Is(e, tt.cause) && errors.Is(a.Err, tt.cause)) || !strings.Contains(e.Error(), tt.text) {
						t.Errorf("got %+v: %v", e, e)
					}
					if answer.body != "" && !large && (e.TrackingID != "id-1" || e.Code == "" || !strings.Contains(e.Error(), "tracking ID id-1")) {
						t.Errorf("code and ID are lost: %+v", e)
					}
				}
				if len(done) != 1 || done[0].Stop != tt.stop || done[0].N != 1 || tt.cause != nil && !errors.Is(done[0].Err, tt.cause) ||
					done[0].Wait != 0 || done[0].ServerAsked {
					t.Errorf("Done was told of %+v", done)
				}
				late := 0 // the retry was decided on, and then could not be made
				if tt.kind != "" {
					late = 1
				}
				if len(decided) != 1 || (decided[0].Stop == "") != (late == 1) {
					t.Errorf("AttemptDone was told of %+v", decided)
				}
				if log := text.String(); strings.Count(log, "giving up") != 1 || !strings.Contains(log, tt.text) || !strings.Contains(log, "stop="+string(tt.stop)) {
					t.Errorf("log: %s", log)
				}
				if base.sent() != 1 {
					t.Errorf("sent %d times", base.sent())
				}
				base.assertNoLeak(t)
			}))
		}
	}
}

// spentBudgetIn covers its next retry only after a time.
func spentBudgetIn(wait time.Duration) *steadyhttp.Budget {
	b := &steadyhttp.Budget{Max: 1, PerSuccess: -1, PerSecond: 1 / wait.Seconds(), Wait: true}
	req, err := http.NewRequest("GET", "http://api.example/", nil)
	if err != nil || !b.Take(req) {
		panic("a full budget covers nothing")
	}
	return b
}

// A caller who ends the call during a back-off reads why, and what the last answer was.
func TestCancelledBackOffBesideAKeptAnswer(t *testing.T) {
	errMine := errors.New("the job was stopped")
	for _, status := range []int{429, 503} {
		t.Run(fmt.Sprint(status), inBubble(func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			time.AfterFunc(time.Second, func() { cancel(errMine) })
			var done []steadyhttp.Attempt
			base := newScript(answers(status, envelope("Busy", "m", "id-1"), "Retry-After: 10"))
			transport := &steadyhttp.Transport{Base: base, Trace: &steadyhttp.Trace{
				Done: func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) },
			}}
			_, err := transport.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
			e := errorOf(t, err)
			if e.Stop != "cancelled" || e.StatusCode != status || e.Code != "Busy" || e.TrackingID != "id-1" || e.Wait != 10*time.Second ||
				!errors.Is(err, errMine) || !errors.Is(err, context.Canceled) || e.ErrorType() != "cancelled" {
				t.Errorf("got %+v: %v", e, err)
			}
			if len(done) != 1 || !errors.Is(done[0].Err, errMine) || done[0].Stop != "cancelled" {
				t.Errorf("Done was told of %+v", done)
			}
			base.assertNoLeak(t)
		}))
	}
}

// IdleTimeout's timer may still be at work on an answer's body when that is kept for the time until the retry: what the call
// holds then is another's. Under -race this fails where it is not.
func TestIdleTimeoutOfAKeptAnswer(t *testing.T) {
	for name, base := range map[string]func(http.RoundTripper) http.RoundTripper{
		"net/http": func(rt http.RoundTripper) http.RoundTripper { return registered(rt) },
		"another":  func(rt http.RoundTripper) http.RoundTripper { return rt },
		"a Transport below": func(rt http.RoundTripper) http.RoundTripper {
			return &steadyhttp.Transport{Base: registered(rt), Policy: steadyhttp.Policy{MaxAttempts: 1, IdleTimeout: time.Millisecond}}
		},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			for range 100 {
				sent := roundTripper(func(req *http.Request) (*http.Response, error) {
					body := &heldBody{ctx: req.Context(), content: "the beginning"}
					return &http.Response{StatusCode: 503, Header: http.Header{}, Body: body, ContentLength: -1}, nil
				})
				tr := &steadyhttp.Transport{Base: base(sent), Policy: atOnce()}
				tr.Policy.MaxAttempts, tr.Policy.IdleTimeout = 2, time.Millisecond
				tr.Gates = []steadyhttp.Gate{afterFirstAttempt(refuser(1, errTrial))}
				resp, err := tr.RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(resp.Body); string(b) != "the beginning" || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%q, %v", b, err)
				}
				resp.Body.Close()
			}
		}))
	}
}

// heldBody goes on until its request's context ends, and takes no lock, which would order who else looks at it.
type heldBody struct {
	ctx     context.Context
	content string
}

func (b *heldBody) Read(p []byte) (int, error) {
	if n := copy(p, b.content); n > 0 {
		b.content = b.content[n:]
		return n, nil
	}
	<-b.ctx.Done()
	return 0, context.Cause(b.ctx)
}

func (b *heldBody) Close() error { return nil }
