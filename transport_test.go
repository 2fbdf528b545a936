package steadyhttp_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

func TestAnswersAfterFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(
			answers(500, envelope("InternalServerError", "", "t1")),
			answers(429, envelope("429", "slow", "t2"), "Retry-After: 8"),
			answers(200, "fine"))
		began := time.Now()
		resp, body := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, http.MethodGet, ""))
		if resp.StatusCode != 200 || body != "fine" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		if took := time.Since(began); took < 8250*time.Millisecond || took > 9600*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if a, ok := steadyhttp.AttemptOf(resp); !ok || a.N != 3 {
			t.Errorf("AttemptOf = %+v, %v", a, ok)
		}
		base.assertNoLeak(t)
	})
}

func TestFailsFast(t *testing.T) {
	base := newScript(answers(404, envelope("ResourceNotFound", "Machine 123123123 was not found", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")))
	resp, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, http.MethodPost, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "steadyhttp: ResourceNotFound (404) after 1 attempt, target 43f4cb08-8fac-4b65-9db1-745c2ae65f3a: Machine 123123123 was not found"
	if err := steadyhttp.Check(resp); err == nil || err.Error() != want {
		t.Errorf("Check = %v", err)
	}
	if body := readAll(t, resp); len(body) == 0 {
		t.Error("the body is gone")
	}
	base.assertNoLeak(t)
}
