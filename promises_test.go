package steadyhttp_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Trace: its hooks are never called with a lock held. Each of them may ask the gates and the budget
// of the very call that it is told of, and make a call through the same Transport.
func TestHooksAreCalledWithNoLockHeld(t *testing.T) {
	stuck := time.AfterFunc(time.Minute, func() { panic("a hook waits for a lock that its caller has") })
	defer stuck.Stop()
	synctest.Test(t, func(t *testing.T) {
		windows := &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}
		gates := []steadyhttp.Gate{
			windows, steadyhttp.Limit(nil),
			&steadyhttp.PerKey{New: func(string) steadyhttp.Gate { return &quota.Quota{Windows: windows.Windows} }},
		}
		budget := &steadyhttp.Budget{Max: 2, PerSecond: 1, Wait: true}
		base := newScript(
			answers(503, ""), answers(429, "", "Retry-After: 2"), answers(503, ""), answers(401, ""), answers(200, "fine"))
		transport := &steadyhttp.Transport{
			Base: base, Gates: gates,
			Policy:  steadyhttp.Policy{MaxAttempts: 10, MaxThrottled: -1, Budget: budget, IdempotencyKey: true},
			Prepare: func(*http.Request, *steadyhttp.Attempt) error { return nil },
		}
		type nested struct{}
		told := map[string]int{}
		use := func(hook string, ctx context.Context) {
			if ctx.Value(nested{}) != nil {
				return
			}
			told[hook]++
			windows.State()
			windows.Snapshot()
			windows.Estimate(1)
			ctx, cancel := context.WithCancel(context.WithValue(ctx, nested{}, true))
			cancel()
			req := newRequest(t, "GET", "").WithContext(ctx)
			budget.Take(req)
			for _, gate := range gates {
				if _, err := gate.Enter(ctx, steadyhttp.Attempt{Request: req}); err == nil {
					t.Error("a gate lets in whose context has ended")
				}
			}
			if _, err := transport.RoundTrip(req); err == nil {
				t.Error("a call was made whose context has ended")
			}
		}
		transport.Trace = &steadyhttp.Trace{
			Enabled: func(ctx context.Context) bool { use("Enabled", ctx); return true },
			Start: func(ctx context.Context, _ *http.Request) context.Context {
				use("Start", ctx)
				return ctx
			},
			Waiting: func(ctx context.Context, _ steadyhttp.Attempt, _ steadyhttp.Wait) { use("Waiting", ctx) },
			Waited:  func(ctx context.Context, _ steadyhttp.Attempt, _ steadyhttp.Wait) { use("Waited", ctx) },
			AttemptStart: func(ctx context.Context, _ steadyhttp.Attempt) context.Context {
				use("AttemptStart", ctx)
				return ctx
			},
			AttemptDone: func(ctx context.Context, _ steadyhttp.Attempt) { use("AttemptDone", ctx) },
			Done:        func(ctx context.Context, _ steadyhttp.Attempt) { use("Done", ctx) },
		}
		resp, _ := do(t, transport, newRequest(t, "POST", "x"))
		if resp.StatusCode != 200 || told["AttemptDone"] != 5 {
			t.Errorf("status %d; told %v", resp.StatusCode, told)
		}
		for _, hook := range []string{"Enabled", "Start", "Waiting", "Waited", "AttemptStart", "AttemptDone", "Done"} {
			if told[hook] == 0 {
				t.Errorf("%s was not called", hook)
			}
		}
	})
}
