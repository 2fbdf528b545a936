package quota_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// The wait of a replay for its place is told like that of an attempt: as it begins, by the gate that
// it waits at, with its length, and when it is over, also if that is since its caller has gone.
func TestWaitOfAReplayIsTold(t *testing.T) {
	open := gateFunc(func(context.Context, steadyhttp.Attempt) error { return nil })
	for _, c := range []struct {
		name    string
		gates   []steadyhttp.Gate
		gate    int
		length  time.Duration
		timeout time.Duration
	}{
		{"quota", []steadyhttp.Gate{&quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}}, 0, time.Minute, 0},
		{"second gate", []steadyhttp.Gate{
			open, nil, &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Hour}}},
		}, 2, time.Hour, 0},
		{"PerKey", []steadyhttp.Gate{open, &steadyhttp.PerKey{New: func(string) steadyhttp.Gate {
			return &quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}
		}}}, 1, time.Minute, 0},
		{"limit", []steadyhttp.Gate{
			open, steadyhttp.Limit(rate.NewLimiter(rate.Every(30*time.Second), 2)),
		}, 1, 30 * time.Second, 0},
		{"given up", []steadyhttp.Gate{&quota.Quota{Windows: []quota.Window{{N: 2, Per: time.Minute}}}}, 0, time.Minute, 7 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pipes{drop: func(n int) bool { return n == 2 }}
				base := p.transport()
				defer base.CloseIdleConnections()
				var told, waited []steadyhttp.Wait
				tr := &steadyhttp.Transport{Base: base, Gates: c.gates, Trace: &steadyhttp.Trace{
					Waiting: func(_ context.Context, a steadyhttp.Attempt, w steadyhttp.Wait) {
						if a.N != 1 || a.Request == nil {
							t.Errorf("told of attempt %d of %v", a.N, a.Request)
						}
						told = append(told, w)
					},
					Waited: func(_ context.Context, _ steadyhttp.Attempt, w steadyhttp.Wait) { waited = append(waited, w) },
				}}
				ctx := t.Context()
				for i := range 2 {
					if i == 1 && c.timeout > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithCancel(ctx)
						time.AfterFunc(c.timeout, cancel)
					}
					if err := get(ctx, t, tr, "http://api.example/"); err != nil && c.timeout == 0 {
						t.Fatal(err)
					}
				}
				if len(told) != 1 || len(waited) != 1 {
					t.Fatalf("told of %v, and of the ends %v", told, waited)
				}
				took := c.length
				if c.timeout > 0 {
					took = c.timeout
				}
				for w, want := range map[steadyhttp.Wait]time.Duration{told[0]: c.length, waited[0]: took} {
					if w.Cause != steadyhttp.WaitGate || w.Gate != c.gate || (w.For-want).Abs() > want/100 {
						t.Errorf("%+v, want gate %d for %v", w, c.gate, want)
					}
				}
			})
		})
	}
}
