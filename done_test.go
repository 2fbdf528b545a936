package steadyhttp_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// endless is a body of one byte a second.
type endless struct{ ended <-chan struct{} }

func (b endless) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = 'x'
		return 1, nil
	case <-b.ended:
		return 0, context.Canceled
	}
}

// The end of a call is told as it returns, unless its answer is one that callers read: programs
// return at once where the status is not 200, and close nothing.
func TestDoneOfAnswersThatNobodyCloses(t *testing.T) {
	trickles := func(status int, fields ...string) step {
		return func(req *http.Request) (*http.Response, error) {
			resp, _ := answers(status, "", fields...)(req)
			resp.Body, resp.ContentLength = io.NopCloser(endless{req.Context().Done()}), -1
			return resp, nil
		}
	}
	large := strings.Repeat("x", 200<<10)
	permanent := func(steadyhttp.Attempt) steadyhttp.Verdict {
		return steadyhttp.Verdict{Class: steadyhttp.Permanent}
	}
	refuses := gateFunc(func(_ context.Context, a steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
		if a.N == 2 {
			return nil, &steadyhttp.Refusal{}
		}
		return nil, nil
	})
	for _, tt := range []struct {
		name string
		rt   *steadyhttp.Transport
		want bool // told as the call returns
	}{
		{"404", &steadyhttp.Transport{Base: newScript(answers(404, "x"))}, true},
		{"400, trickling", &steadyhttp.Transport{Base: newScript(trickles(400))}, true},
		{"429, an event stream", &steadyhttp.Transport{Base: newScript(trickles(429, "Retry-After: 3600", "Content-Type: text/event-stream"))}, true},
		{"500 of 200 KiB", &steadyhttp.Transport{Base: newScript(answers(500, large)), Policy: steadyhttp.Policy{MaxAttempts: 1}}, true},
		{"503, its retry refused", &steadyhttp.Transport{Base: newScript(answers(503, "x")), Gates: []steadyhttp.Gate{refuses}}, true},
		{"302", &steadyhttp.Transport{Base: newScript(answers(302, "x"))}, true},
		{"304", &steadyhttp.Transport{Base: newScript(answers(304, "x"))}, true},
		{"a failure to Classify", &steadyhttp.Transport{Base: newScript(answers(200, "x")), Classify: permanent}, true},
		{"a success in memory", &steadyhttp.Transport{Base: newScript(answers(200, "x")), Policy: steadyhttp.Policy{MaxRead: 10}}, true},
		{"200", &steadyhttp.Transport{Base: newScript(answers(200, "x"))}, false},
		{"206", &steadyhttp.Transport{Base: newScript(answers(206, "x"))}, false},
		{"101", &steadyhttp.Transport{Base: newScript(answers(101, "x"))}, false},
		{"a success longer than MaxRead", &steadyhttp.Transport{Base: newScript(answers(200, large)), Policy: steadyhttp.Policy{MaxRead: 10}}, false},
	} {
		t.Run(tt.name, inBubble(func(t *testing.T) {
			var done []steadyhttp.Attempt
			tt.rt.Trace = &steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) { done = append(done, a) }}
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := tt.rt.RoundTrip(newRequest(t, "GET", "").WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if told := len(done) == 1; told != tt.want || len(done) > 1 {
				t.Errorf("told %d times as the call returned", len(done))
			}
			first := make([]byte, 1)
			if resp.StatusCode != 304 {
				if _, err := io.ReadFull(resp.Body, first); err != nil || first[0] != 'x' {
					t.Errorf("the body began with %q, %v: it must still be there", first, err)
				}
			}
			resp.Body.Close()
			cancel()
			synctest.Wait()
			if len(done) != 1 || done[0].Response.StatusCode != resp.StatusCode || done[0].Stop == "" {
				t.Errorf("told %+v", done)
			}
		}))
	}
}

// A hook that panics as an answer is delivered keeps nobody's connection.
func TestPanicAsAnAnswerIsDelivered(t *testing.T) {
	base := newScript(answers(404, strings.Repeat("x", 200<<10)))
	rt := &steadyhttp.Transport{Base: base, Trace: &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) { panic(errTrial) }}}
	defer func() {
		if recover() != errTrial {
			t.Error("the panic did not go on")
		}
		base.assertNoLeak(t)
	}()
	rt.RoundTrip(newRequest(t, "GET", ""))
}

// A success whose body the program loses is told all the same, with the reason, and in the log.
func TestDoneOfALostBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 1<<20))
		<-r.Context().Done()
	}))
	defer server.Close()
	defer server.CloseClientConnections() // which nobody gives back
	const calls = 20
	var told atomic.Int64
	handler := &records{level: slog.LevelWarn}
	rt := &steadyhttp.Transport{Base: server.Client().Transport, Trace: steadyhttp.Join(
		&steadyhttp.Trace{Done: func(_ context.Context, a steadyhttp.Attempt) {
			if a.Err == nil || !strings.Contains(a.Err.Error(), "never closed") || a.Stop != steadyhttp.StopDone {
				t.Errorf("told of %v, %q", a.Err, a.Stop)
			}
			told.Add(1)
			panic(errTrial) // nobody is there to recover it
		}},
		steadyhttp.Log(slog.New(handler)))}
	kept := unclosed(t, rt, server.URL)
	func() {
		for range calls {
			resp := unclosed(t, rt, server.URL)
			resp.Body.Read(make([]byte, 10))
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); told.Load() < calls && time.Now().Before(deadline); {
		runtime.GC()
		runtime.Gosched()
	}
	if told.Load() != calls {
		t.Fatalf("told of %d, want %d", told.Load(), calls)
	}
	handler.mu.Lock()
	defer handler.mu.Unlock()
	if len(handler.all) != calls || !like(text(handler.all[0]),
		"WARN body not closed method=GET url="+server.URL+" attempt=1 status=200 error=the response's body was never closed") {
		t.Errorf("%d records, the first: %v", len(handler.all), handler.all)
	}
	runtime.KeepAlive(kept)
}

func unclosed(t *testing.T, rt http.RoundTripper, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A body that was closed, or read to its end, is not told of once more when it is collected.
func TestAClosedBodyIsNotLost(t *testing.T) {
	var told atomic.Int64
	rt := &steadyhttp.Transport{
		Base:  newScript(answers(200, "body")),
		Trace: &steadyhttp.Trace{Done: func(context.Context, steadyhttp.Attempt) { told.Add(1) }},
	}
	const calls = 1000
	for i := range calls {
		resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			resp.Body.Close()
		} else {
			io.Copy(io.Discard, resp.Body)
		}
		if i%100 == 0 {
			runtime.GC()
		}
	}
	for range 5 {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if told.Load() != calls {
		t.Errorf("told %d times of %d calls", told.Load(), calls)
	}
}

// The cookie of an answer that was retried is not the caller's: a Jar sees the last answer alone.
func TestCookieOfARetriedAnswer(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	base := newScript(answers(503, "", "Set-Cookie: a=1; Path=/"), answers(200, "", "Set-Cookie: b=2; Path=/"))
	client := &http.Client{Transport: &steadyhttp.Transport{Base: base, Policy: atOnce()}, Jar: jar}
	req := newRequest(t, "GET", "")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if cookies := jar.Cookies(req.URL); len(cookies) != 1 || cookies[0].Name != "b" {
		t.Errorf("the jar has %v", cookies)
	}
}

// A WebSocket on which the server says nothing for the IdleTimeout is closed, also while the caller
// writes.
func TestIdleTimeoutOfAnUpgrade(t *testing.T) {
	server := newWireServer(t, func(c *wireConn) {
		c.head()
		c.answer("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: echo", "", "")
		io.Copy(io.Discard, c.r)
	})
	req := wireRequest(t, "GET", server.url, "")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	transport := &steadyhttp.Transport{Base: newWireBase(t), Policy: steadyhttp.Policy{IdleTimeout: 200 * time.Millisecond}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var wrote sync.WaitGroup
	wrote.Go(func() {
		for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
			_, err = io.WriteString(resp.Body.(io.Writer), "ping")
		}
	})
	var timeout interface{ Timeout() bool }
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the Read ended with %v", err)
	}
	wrote.Wait()
}

// What a Transport's Rules leave out, the default does not fill in: their IDHeaders are all there
// are.
func TestATransportKeepsToItsRulesIDHeaders(t *testing.T) {
	for _, tt := range []struct {
		headers []string
		want    string
	}{{nil, "h-1"}, {[]string{}, ""}, {[]string{"X-Own-Id"}, ""}, {[]string{"X-Own-Id", "Request-Id"}, "h-1"}} {
		rules := &steadyhttp.Rules{IDHeaders: tt.headers}
		rt := &steadyhttp.Transport{Base: newScript(answers(404, "", "Request-Id: h-1")), Classify: rules.Classify}
		resp, _ := do(t, rt, newRequest(t, "GET", ""))
		if a, _ := steadyhttp.AttemptOf(resp); a.Verdict.TrackingID != tt.want {
			t.Errorf("by %q, the ID is %q, want %q", tt.headers, a.Verdict.TrackingID, tt.want)
		}
	}
}

// Waits that nothing else tells of are in the log: for the budget and for Prepare.
func TestLogOfOtherWaits(t *testing.T) {
	const url = " method=GET url=http://api.example/machines/1?key=REDACTED attempt="
	budget := atOnce()
	budget.Budget = &steadyhttp.Budget{Max: 1, PerSecond: 1, Wait: true}
	for _, tt := range []struct {
		name string
		rt   *steadyhttp.Transport
		want []string
	}{
		{"prepare", &steadyhttp.Transport{Base: newScript(answers(200, "")), Prepare: func(*http.Request, *steadyhttp.Attempt) error {
			time.Sleep(2 * time.Second)
			return nil
		}}, []string{"DEBUG waited" + url + "1 cause=prepare wait=2s"}},
		{"budget", &steadyhttp.Transport{Base: newScript(answers(503, ""), answers(503, ""), answers(200, "")), Policy: budget},
			[]string{"DEBUG waited" + url + "2 status=503 cause=budget wait=1s"}},
	} {
		t.Run(tt.name, inBubble(func(t *testing.T) {
			handler := &records{level: slog.LevelDebug}
			tt.rt.Trace = steadyhttp.Log(slog.New(handler))
			do(t, tt.rt, newRequest(t, "GET", ""))
			var got []string
			for _, r := range handler.all {
				if r.Message == "waited" {
					got = append(got, text(r))
				}
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		}))
	}
}

// A call that comes to a panic is told by the log as it is by spans and metrics: whoever recovers it
// may be far away.
func TestLogOfPanics(t *testing.T) {
	boom := func(*http.Request) (*http.Response, error) { panic(errTrial) }
	body := answers(200, "")
	for name, tr := range map[string]*steadyhttp.Transport{
		"base":    {Base: newScript(boom)},
		"retry":   {Base: newScript(answers(503, ""), boom)},
		"Prepare": {Base: newScript(body), Prepare: func(*http.Request, *steadyhttp.Attempt) error { panic(errTrial) }},
		"gate": {Base: newScript(body), Gates: []steadyhttp.Gate{gateFunc(func(context.Context, steadyhttp.Attempt) (func(steadyhttp.Attempt), error) {
			panic(errTrial)
		})}},
		"Classify": {Base: newScript(body), Classify: func(steadyhttp.Attempt) steadyhttp.Verdict { panic(errTrial) }},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			var out strings.Builder
			tr.Trace = steadyhttp.Log(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
			func() {
				defer func() {
					if recover() != errTrial {
						t.Error("the panic did not go on")
					}
				}()
				if resp, err := tr.RoundTrip(newRequest(t, "GET", "")); err == nil {
					io.ReadAll(resp.Body)
				}
			}()
			if n := strings.Count(out.String(), `level=WARN msg="giving up"`); n != 1 || strings.Contains(out.String(), "stop=") {
				t.Errorf("%q", out.String())
			}
		}))
	}
}
