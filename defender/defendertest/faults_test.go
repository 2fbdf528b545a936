package defendertest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

const isolate = "/api/machines/m0007/isolate"

// wantLedger checks the one call of a test, and what it did.
func wantLedger(t *testing.T, s *defendertest.Server, fault string, status int, processed bool) {
	t.Helper()
	calls := s.Calls()
	if len(calls) != 1 {
		t.Fatalf("the ledger has %d calls, want 1", len(calls))
	}
	c := calls[0]
	effect, effects := "", 0
	if processed {
		effect, effects = "isolate m0007", 1
	}
	if c.Fault != fault || c.Status != status || c.Processed != processed || c.Effect != effect {
		t.Errorf("the ledger says %+v", c)
	}
	if n := s.Effects()["isolate m0007"]; n != effects {
		t.Errorf("isolated %d times, want %d", n, effects)
	}
}

func TestFaultError500(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{Error500: 1}})
	r := call(t, s, "POST", isolate, isolation).want(t, 500, "InternalServerError")
	r.wantMessage(t, "")
	wantLedger(t, s, "Error500", 500, false)
	if c := last(t, s); c.Code != r.code || c.Target != r.target {
		t.Errorf("the ledger says %+v", c)
	}
}

func TestFaultBare500(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{Bare500: 1}})
	if r := call(t, s, "POST", isolate, isolation).want(t, 500, ""); len(r.body) != 0 {
		t.Errorf("body is %q", r.body)
	}
	wantLedger(t, s, "Bare500", 500, false)
}

func TestFaultAfter500(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{After500: 1}})
	call(t, s, "POST", isolate, isolation).want(t, 500, "InternalServerError")
	wantLedger(t, s, "After500", 500, true)
	// A retry finds what the first one did.
	s.SetFaults(defendertest.Faults{})
	call(t, s, "POST", isolate, isolation).want(t, 400, "ActiveRequestAlreadyExists")
}

func TestFaultError503(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{Error503: 1}})
	call(t, s, "POST", isolate, isolation).want(t, 503, "ServiceUnavailable")
	wantLedger(t, s, "Error503", 503, false)
}

func TestFaultResetBefore(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{ResetBefore: 1}})
	_, err := send(s, "POST", isolate, isolation)
	wantReset(t, err)
	wantLedger(t, s, "ResetBefore", 0, false)
}

func TestFaultResetAfter(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{ResetAfter: 1}})
	_, err := send(s, "POST", isolate, isolation)
	wantReset(t, err)
	wantLedger(t, s, "ResetAfter", 0, true)
}

func wantReset(t *testing.T, err error) {
	t.Helper()
	// Windows has an error number of its own, whose text says the same.
	if err == nil || !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(err.Error(), "forcibly closed") {
		t.Errorf("got error %v, want a connection reset", err)
	}
}

func TestFaultResetOverTLS(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{Faults: defendertest.Faults{ResetAfter: 1}})
	secure := httptest.NewTLSServer(s)
	defer secure.Close()
	_, err := secure.Client().Post(secure.URL+isolate, "application/json", strings.NewReader(isolation))
	wantReset(t, err)
	wantLedger(t, s, "ResetAfter", 0, true)
}

func TestFaultBreakBody(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{BreakBody: 1}})
	r, err := send(s, "POST", isolate, isolation)
	if !errors.Is(err, io.ErrUnexpectedEOF) || r.status != 201 || len(r.body) == 0 {
		t.Errorf("got %d, %q and error %v", r.status, r.body, err)
	}
	wantLedger(t, s, "BreakBody", 201, true)
	// The other half must be missing even where there is no body to break.
	call204, err := send(s, "POST", "/api/alerts/batchUpdate", `{"alertIds":["a0001"],"status":"Resolved"}`)
	if !errors.Is(err, io.ErrUnexpectedEOF) || call204.status != 200 || string(call204.body) != "{" {
		t.Errorf("got %d, %q and error %v", call204.status, call204.body, err)
	}
}

func TestFaultBreakBodyOf204(t *testing.T) {
	s := start(t, defendertest.Config{})
	call(t, s, "POST", "/api/indicators", domain).want(t, 200, "")
	s.SetFaults(defendertest.Faults{BreakBody: 1})
	r, err := send(s, "DELETE", "/api/indicators/1", "")
	if !errors.Is(err, io.ErrUnexpectedEOF) || r.status != 200 {
		t.Errorf("got %d and error %v", r.status, err)
	}
	wantEffects(t, s, map[string]int{"submit a.example": 1, "delete 1": 1})
}

func TestFaultSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct{ set, takes time.Duration }{{0, time.Second}, {time.Minute, time.Minute}} {
			s := defendertest.NewUnstartedServer(defendertest.Config{Faults: defendertest.Faults{Slow: 1, SlowFor: test.set}})
			begin := time.Now()
			go func() {
				// Processed long before it is answered.
				time.Sleep(test.takes / 2)
				if c := last(t, s); !c.Processed || c.Status != 0 || s.Effects()["isolate m0007"] != 1 {
					t.Errorf("the ledger says %+v meanwhile", c)
				}
				// The pause of a call is that of its own fault.
				s.SetFaults(defendertest.Faults{})
			}()
			direct(s, "POST", isolate, isolation).want(t, 201, "")
			if d := time.Since(begin); d != test.takes {
				t.Errorf("answered after %v, want %v", d, test.takes)
			}
			wantLedger(t, s, "Slow", 201, true)
		}
	})
}

func TestFaultSlowCallerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{Faults: defendertest.Faults{Slow: 1, SlowFor: time.Hour}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantAbort(t, func() {
			s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", isolate, strings.NewReader(isolation)))
		})
		wantLedger(t, s, "Slow", 0, true)
	})
}

// A recorder has no connection to reset.
func TestFaultResetOnRecorder(t *testing.T) {
	for _, f := range []defendertest.Faults{{ResetBefore: 1}, {ResetAfter: 1}} {
		s := defendertest.NewUnstartedServer(defendertest.Config{Faults: f})
		wantAbort(t, func() { direct(s, "POST", isolate, isolation) })
		if c := last(t, s); c.Status != 0 || c.Processed != (f.ResetAfter == 1) {
			t.Errorf("the ledger says %+v", c)
		}
	}
}

func wantAbort(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("panic is %v, want http.ErrAbortHandler", p)
		}
	}()
	f()
}

// A refused request stays refused under a fault, and changes nothing.
func TestFaultOnRefusedRequest(t *testing.T) {
	s := start(t, defendertest.Config{Faults: defendertest.Faults{After500: 1}})
	call(t, s, "POST", isolate, `{}`).want(t, 500, "InternalServerError")
	wantLedger(t, s, "After500", 500, false)
}

func TestFaultSharesAndSeed(t *testing.T) {
	f := defendertest.Faults{Error500: 0.1, Bare500: 0.1, After500: 0.1, Error503: 0.1, BreakBody: 0.1, Slow: 0.1, SlowFor: 1}
	run := func(seed uint64, pause time.Duration) (faults []string) {
		synctest.Test(t, func(t *testing.T) {
			s := defendertest.NewUnstartedServer(defendertest.Config{
				Machines: 1, Faults: f, Seed: seed, Quotas: map[string][]quota.Window{"machines": {{N: 2000, Per: time.Minute}}},
			})
			for range 2000 {
				direct(s, "GET", "/api/machines", "")
				time.Sleep(pause)
			}
			for _, c := range s.Calls() {
				faults = append(faults, c.Fault)
			}
		})
		return faults
	}
	first := run(0, 0)
	if !slices.Equal(first, run(1, 0)) {
		t.Error("seed 0 isn't seed 1")
	}
	if slices.Equal(first, run(2, 0)) {
		t.Error("another seed gives the same faults")
	}
	// Time plays no part.
	if !slices.Equal(first, run(1, time.Second)) {
		t.Error("the same seed gives other faults at another pace")
	}
	counts := make(map[string]int)
	for _, fault := range first {
		counts[fault]++
	}
	for _, name := range []string{"Error500", "Bare500", "After500", "Error503", "BreakBody", "Slow"} {
		if n := counts[name]; n < 150 || n > 250 {
			t.Errorf("%s struck %d of 2000 times, want about 200", name, n)
		}
	}
	if n := counts[""]; n < 700 || n > 900 {
		t.Errorf("%d of 2000 calls had no fault, want about 800", n)
	}
}

// A call that the quota refuses uses its roll up all the same.
func TestFaultsDependOnNumberAlone(t *testing.T) {
	f := defendertest.Faults{Error503: 0.5}
	free := defendertest.NewUnstartedServer(defendertest.Config{Faults: f, NoQuotas: true})
	tight := defendertest.NewUnstartedServer(defendertest.Config{Faults: f, Quotas: map[string][]quota.Window{"machines": {{N: 10, Per: time.Minute}}}})
	for range 30 {
		direct(free, "GET", "/api/machines", "")
		direct(tight, "GET", "/api/machines", "")
	}
	for range 30 {
		direct(free, "GET", "/api/alerts", "")
		direct(tight, "GET", "/api/alerts", "")
	}
	for i, c := range tight.Calls() {
		if want := free.Calls()[i].Fault; c.Status != 429 && c.Fault != want {
			t.Errorf("call %d has fault %q, want %q", c.Seq, c.Fault, want)
		}
	}
}
