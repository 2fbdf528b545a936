package steadyhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/steadyhttp/steadyhttp"
)

// A rate.Limiter whose limit is 0, as rate.Limit(10/60) is, would have calls wait for ever once its
// burst is spent: they are refused, with the fix, as soon as they come. Raised again, it lets them go.
func TestLimiterThatStandsStill(t *testing.T) {
	perMinute := 10
	for name, pace := range map[string]*rate.Limiter{
		"integers divided": rate.NewLimiter(rate.Limit(perMinute/60), 1),
		"negative":         rate.NewLimiter(-1, 1),
		"next to 0":        rate.NewLimiter(1e-12, 1),
		"no burst either":  rate.NewLimiter(0, 0),
		"a burst of 3":     rate.NewLimiter(0, 3),
	} {
		for _, deadline := range []time.Duration{0, time.Hour, 200 * 365 * 24 * time.Hour} {
			t.Run(fmt.Sprint(name, deadline), inBubble(func(t *testing.T) {
				rt := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{steadyhttp.Limit(pace)}}
				call := func() error {
					ctx, cancel := context.WithCancel(t.Context())
					if deadline > 0 {
						ctx, cancel = context.WithTimeout(t.Context(), deadline)
					}
					defer cancel()
					defer time.AfterFunc(time.Minute, cancel).Stop()
					_, err := rt.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
					return err
				}
				for pace.Tokens() >= 1 {
					if err := call(); err != nil {
						t.Fatalf("it has a token: %v", err)
					}
				}
				for range 3 {
					began := time.Now()
					err := call()
					refusal, ok := errors.AsType[*steadyhttp.Refusal](err)
					if !ok || refusal.Wait != 0 || !strings.Contains(err.Error(), "rate.Every") ||
						!errors.Is(err, steadyhttp.ErrNotSent) {
						t.Errorf("got %v, want a refusal that names the fix", err)
					}
					if took := time.Since(began); took > 0 {
						t.Errorf("it took %v", took)
					}
				}
			}))
		}
	}
	t.Run("raised again", inBubble(func(t *testing.T) {
		pace := rate.NewLimiter(0, 1)
		gate := steadyhttp.Limit(pace)
		for i := range 2 {
			if _, err := gate.Enter(t.Context(), steadyhttp.Attempt{}); (err != nil) != (i == 1) {
				t.Errorf("%d: %v", i, err)
			}
		}
		pace.SetLimit(1)
		if _, err := gate.Enter(t.Context(), steadyhttp.Attempt{}); err != nil {
			t.Error(err)
		}
	}))
	// The slowest that makes sense is none of those.
	t.Run("once in a month", inBubble(func(t *testing.T) {
		gate := steadyhttp.Limit(rate.NewLimiter(rate.Every(30*24*time.Hour), 1))
		for range 3 {
			if _, err := gate.Enter(t.Context(), steadyhttp.Attempt{}); err != nil {
				t.Error(err)
			}
		}
	}))
}

// duplicate copies what vet says must not be copied, as a program does that nobody vets.
func duplicate[T any](v *T) *T {
	other := *v
	return &other
}

// A copy of a PerKey that is in use would guard the same gates with another lock: it is refused, with
// the fix, and the one that was copied goes on. A copy made before the first use is one of its own.
func TestCopiedPerKeyIsRefused(t *testing.T) {
	made := 0
	p := &steadyhttp.PerKey{
		Key: func(r *http.Request) string { return r.URL.Path },
		New: func(string) steadyhttp.Gate { made++; return steadyhttp.Limit(nil) },
	}
	early := duplicate(p)
	enter := func(p *steadyhttp.PerKey) error {
		pass, err := p.Enter(t.Context(), steadyhttp.Attempt{Request: newRequest(t, "GET", "")})
		if err == nil {
			pass.Leave(steadyhttp.Attempt{})
		}
		return err
	}
	for range 3 {
		if err := errors.Join(enter(p), enter(early)); err != nil {
			t.Fatal(err)
		}
	}
	for _, late := range []*steadyhttp.PerKey{duplicate(p), duplicate(early), duplicate(duplicate(p))} {
		for range 2 {
			err := enter(late)
			if refusal := (*steadyhttp.Refusal)(nil); !errors.As(err, &refusal) ||
				!strings.Contains(err.Error(), "*PerKey") {
				t.Errorf("got %v, want a refusal that says what to do", err)
			}
		}
	}
	if err := errors.Join(enter(p), enter(early)); err != nil || made != 2 {
		t.Errorf("%v, and %d gates were made", err, made)
	}
}

// A call that ends while its Prepare waits at a gate says which and why, as one that waits itself.
func TestWhyPrepareWaited(t *testing.T) {
	for name, end := range map[string]error{
		"cancelled": context.Canceled, "deadline": context.DeadlineExceeded, "MaxElapsed": context.DeadlineExceeded,
	} {
		synctest.Test(t, func(t *testing.T) {
			why := &steadyhttp.Refusal{Wait: time.Hour, Err: errors.New("the token's quota is spent")}
			stuck := &steadyhttp.Transport{Base: newScript(answers(200, "")), Gates: []steadyhttp.Gate{
				gateFunc(func(ctx context.Context, _ steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
					<-ctx.Done()
					return nil, errors.Join(ctx.Err(), why)
				}),
			}}
			rt := &steadyhttp.Transport{Base: newScript(answers(200, "")), Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
				_, err := stuck.RoundTrip(newRequest(t, "GET", "").WithContext(req.Context()))
				return err
			}}
			ctx, cancel := context.WithCancel(t.Context())
			switch name {
			case "cancelled":
				time.AfterFunc(time.Minute, cancel)
			case "deadline":
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
			default:
				rt.Policy.MaxElapsed = time.Minute
			}
			defer cancel()
			_, err := rt.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
			if !errors.Is(err, end) || !errors.Is(err, steadyhttp.ErrNotSent) ||
				strings.Count(err.Error(), why.Error()) != 1 {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
}
