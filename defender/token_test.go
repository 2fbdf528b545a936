package defender_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// mint gives out the tokens "token-1", "token-2" and so on, each of which lives for a while and takes a while to make.
type mint struct {
	life, takes time.Duration // life 0: for ever
	made        atomic.Int64
}

func (m *mint) token(context.Context) (string, time.Time, error) {
	n := m.made.Add(1)
	time.Sleep(m.takes)
	var expires time.Time
	if m.life > 0 {
		expires = time.Now().Add(m.life)
	}
	return "token-" + strconv.FormatInt(n, 10), expires, nil
}

// guard is a service that takes some tokens, and notes all that it is shown.
type guard struct {
	takes func(authorization string) bool // nil: anything
	deny  string                          // the message of its 401

	mu    sync.Mutex
	shown []string // by request: host and Authorization
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	authorization := req.Header.Get("Authorization")
	g.mu.Lock()
	g.shown = append(g.shown, req.URL.Host+" "+authorization)
	g.mu.Unlock()
	if g.takes != nil && !g.takes(authorization) {
		return answer(req, http.StatusUnauthorized, envelope("Unauthorized", g.deny))
	}
	return answer(req, http.StatusOK, "{}")
}

func (g *guard) requests() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.shown...)
}

const machines = security + "/api/machines"

// unlimited keeps quotas out of what is about tokens.
func unlimited(base http.RoundTripper, token defender.TokenFunc) defender.Config {
	return defender.Config{Base: base, Token: token, NoQuotas: true}
}

// status makes one call and returns its status, 0 for an error.
func status(t testing.TB, transport http.RoundTripper, ctx context.Context, target string) (int, error) {
	t.Helper()
	resp, err := transport.RoundTrip(request(t, ctx, "GET", target))
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func TestTokenIsFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := &mint{life: time.Hour, takes: time.Second}, &guard{}
		transport := newTransport(t, unlimited(g, m.token))
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { send(t, transport, "GET", machines) })
		}
		group.Wait()
		if n := m.made.Load(); n != 1 {
			t.Errorf("%d tokens were fetched", n)
		}
		for _, shown := range g.requests() {
			if shown != "api.security.microsoft.com Bearer token-1" {
				t.Fatalf("shown %q", shown)
			}
		}
	})
}

// Five minutes before the end the next token is fetched, and nobody notices.
func TestTokenIsRenewedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := &mint{life: time.Hour}, &guard{}
		transport := newTransport(t, unlimited(g, m.token))
		send(t, transport, "GET", machines)
		time.Sleep(55*time.Minute - time.Second)
		send(t, transport, "GET", machines)
		if n := m.made.Load(); n != 1 {
			t.Fatalf("%d tokens before it was time", n)
		}
		time.Sleep(2 * time.Second)
		m.takes = 10 * time.Second
		began := time.Now()
		var waited atomic.Int64
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				send(t, transport, "GET", machines)
				if time.Since(began) > 0 {
					waited.Add(1)
				}
			})
		}
		group.Wait()
		synctest.Wait()
		if m.made.Load() != 2 || waited.Load() != 0 {
			t.Errorf("%d tokens, %d callers waited, want 2 and none", m.made.Load(), waited.Load())
		}
		time.Sleep(11 * time.Second)
		send(t, transport, "GET", machines)
		if shown := g.requests(); !strings.HasSuffix(shown[len(shown)-1], "token-2") {
			t.Errorf("the last request had %q", shown[len(shown)-1])
		}
	})
}

// A short life is renewed in its last fifth, a life without an end never, and one that was over on arrival is no life to
// reckon with.
func TestTokenLives(t *testing.T) {
	for _, c := range []struct {
		name string
		life time.Duration
		want int64 // tokens in ten minutes of a call a second
	}{
		{"100 s", 100 * time.Second, 8}, // at 0, 80, 160 … 560 s
		{"an hour", time.Hour, 1},
		{"unknown", 0, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := &mint{life: c.life}
			transport := newTransport(t, unlimited(&guard{}, m.token))
			for range 600 {
				send(t, transport, "GET", machines)
				time.Sleep(time.Second)
			}
			if n := m.made.Load(); n != c.want {
				t.Errorf("%s: %d tokens, want %d", c.name, n, c.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		transport := newTransport(t, unlimited(&guard{}, func(context.Context) (string, time.Time, error) {
			asked++
			return "x", time.Now().Add(-time.Hour), nil
		}))
		for range 100 {
			send(t, transport, "GET", machines)
		}
		if asked != 1 {
			t.Errorf("a token of another clock was fetched %d times", asked)
		}
	})
}

// A source that keeps its tokens until they expire is not asked at every call in their last minutes.
func TestTokenOfASourceThatKeepsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		expires := time.Now().Add(time.Hour)
		transport := newTransport(t, unlimited(&guard{}, func(context.Context) (string, time.Time, error) {
			asked++
			if !time.Now().Before(expires) {
				expires = time.Now().Add(time.Hour)
			}
			return expires.Format("150405"), expires, nil
		}))
		for range 70 * 60 * 4 {
			send(t, transport, "GET", machines)
			time.Sleep(time.Second / 4)
		}
		if asked > 12 {
			t.Errorf("asked %d times in 70 minutes", asked)
		}
	})
}

// A refused token is replaced once, for all who were refused it, and what was refused is sent again.
func TestTokenIsReplacedAfterA401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, takes: time.Second}
		g := &guard{takes: func(a string) bool { return a != "Bearer token-1" }}
		// Answers come in over a while, so that some refusals are read when the next token is there already.
		var n atomic.Int64
		slow := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := g.RoundTrip(req)
			time.Sleep(time.Duration(n.Add(1)) * 50 * time.Millisecond)
			return resp, err
		})
		transport := newTransport(t, unlimited(slow, m.token))
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				resp, err := transport.RoundTrip(order(t))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Error(resp.Status)
				}
			})
		}
		group.Wait()
		if tokens, sent := m.made.Load(), len(g.requests()); tokens != 2 || sent != 100 {
			t.Errorf("%d tokens, %d requests, want 2 and 100", tokens, sent)
		}
	})
}

// A service that refuses every token gets two requests for a call, and the authority one a second at most.
func TestTokensThatAreAllRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour}
		g := &guard{takes: func(string) bool { return false }, deny: "wrong audience"}
		transport := newTransport(t, unlimited(g, m.token))
		began := time.Now()
		for i := range 20 {
			resp, err := transport.RoundTrip(request(t, t.Context(), "GET", machines))
			if err != nil {
				t.Fatal(err)
			}
			err = steadyhttp.Check(resp)
			resp.Body.Close()
			if want := "Unauthorized (401) after 2 attempts"; err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("call %d: %v, want %s", i, err, want)
			}
			if took := time.Since(began); float64(m.made.Load()) > 2+took.Seconds() {
				t.Fatalf("%d tokens in %v", m.made.Load(), took)
			}
		}
		if sent := len(g.requests()); sent != 40 {
			t.Errorf("%d requests", sent)
		}
	})
}

// No token helps a tenant without a licence.
func TestLicenceRefusalFetchesNothing(t *testing.T) {
	m := &mint{life: time.Hour}
	g := &guard{takes: func(string) bool { return false }, deny: "Unauthorized request - reason of failure: No Tvm license"}
	if got, err := status(t, newTransport(t, unlimited(g, m.token)), t.Context(), machines); got != http.StatusUnauthorized {
		t.Errorf("%d, %v", got, err)
	}
	if tokens, sent := m.made.Load(), len(g.requests()); tokens != 1 || sent != 1 {
		t.Errorf("%d tokens, %d requests, want one of each", tokens, sent)
	}
}

// The token goes where it belongs, and nowhere else.
func TestTokenStaysAtHome(t *testing.T) {
	m := &mint{}
	for target, want := range map[string]bool{
		machines: true,
		"https://API.SECURITY.microsoft.com:443/api/machines":         true,
		"https://api.securitycenter.microsoft.com/api/machines":       true,
		"https://us.api.security.microsoft.com/api/machines":          true,
		"https://api.security.microsoft.com/anything":                 true,
		"https://api.security.microsoft.com:8443/api/machines":        false,
		"http://api.security.microsoft.com/api/machines":              false,
		"https://security.microsoft.com/api/machines":                 false,
		"https://graph.microsoft.com/v1.0/security/incidents":         false,
		"https://api.security.microsoft.com.example.com/api/machines": false,
		"https://api.security.microsoft.com@example.com/api/machines": false,
		"https://example.com/api.security.microsoft.com":              false,
		"https://x.blob.core.windows.net/c/f?sv=2019&sig=s":           false,
		"https://api.security.microsoft.com/api/f?sv=2019&sig=s":      false,
		"http://127.0.0.1/api/machines":                               false,
	} {
		g := &guard{}
		send(t, newTransport(t, unlimited(g, m.token)), "GET", target)
		if shown := g.requests()[0]; strings.Contains(shown, "token-") != want {
			t.Errorf("%s was shown %q", target, shown)
		}
	}
	// Hosts that the caller names, among them test servers without TLS.
	for host, targets := range map[string]map[string]bool{
		"127.0.0.1:8080":          {"http://127.0.0.1:8080/api/x": true, "http://127.0.0.1:8081/api/x": false, "http://127.0.0.1/api/x": false, machines: false},
		"[::1]:8080":              {"http://[::1]:8080/api/x": true, "https://[::1]:8080/api/x": true, "http://[::1]/api/x": false},
		"[::1]":                   {"http://[::1]/api/x": true, "https://[::1]:443/api/x": true},
		"localhost":               {"http://localhost/api/x": true, "http://localhost:80/api/x": true, "ftp://localhost/api/x": false},
		"localhost:80":            {"http://localhost/api/x": true},
		"core.windows.net":        {"https://core.windows.net/c/f": false},
		"hardcore.windows.net":    {"https://hardcore.windows.net/c/f": true},
		"10.0.0.1":                {"http://10.0.0.1/api/x": false, "https://10.0.0.1/api/x": true},
		"Proxy.test:443":          {"https://proxy.test/api/x": true, "https://proxy.TEST:443/api/x": true, "https://proxy.test:80/api/x": false},
		"x.blob.core.windows.net": {"https://x.blob.core.windows.net/c/f": false},
	} {
		for target, want := range targets {
			g := &guard{}
			config := unlimited(g, m.token)
			config.Hosts = []string{host}
			send(t, newTransport(t, config), "GET", target)
			if shown := g.requests()[0]; strings.Contains(shown, "token-") != want {
				t.Errorf("with the host %s, %s was shown %q", host, target, shown)
			}
		}
	}
}

// A redirect takes the token to its own origin, never to another one, and not back from there.
func TestTokenDoesNotFollowRedirects(t *testing.T) {
	redirects := map[string]string{
		security + "/api/here":                              security + "/api/machines",
		security + "/api/away":                              "https://evil.example/collect",
		security + "/api/sibling":                           "https://eu.api.security.microsoft.com/api/machines",
		security + "/api/round":                             "https://evil.example/back",
		"https://evil.example/back":                         security + "/api/machines",
		security + "/api/download":                          "https://x.blob.core.windows.net/c/f?sig=s",
		"https://evil.example/start":                        security + "/api/machines",
		"https://api.securitycenter.microsoft.com/api/down": "http://api.securitycenter.microsoft.com/api/machines",
	}
	for start, want := range map[string][]string{
		"/api/here":                  {"api.security.microsoft.com Bearer token-1", "api.security.microsoft.com Bearer token-1"},
		"/api/away":                  {"api.security.microsoft.com Bearer token-1", "evil.example "},
		"/api/sibling":               {"api.security.microsoft.com Bearer token-1", "eu.api.security.microsoft.com "},
		"/api/round":                 {"api.security.microsoft.com Bearer token-1", "evil.example ", "api.security.microsoft.com "},
		"/api/download":              {"api.security.microsoft.com Bearer token-1", "x.blob.core.windows.net "},
		"https://evil.example/start": {"evil.example ", "api.security.microsoft.com "},
		"https://api.securitycenter.microsoft.com/api/down": {"api.securitycenter.microsoft.com Bearer token-1", "api.securitycenter.microsoft.com "},
	} {
		if strings.HasPrefix(start, "/") {
			start = security + start
		}
		g := &guard{}
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := g.RoundTrip(req)
			if to := redirects[req.URL.String()]; to != "" {
				resp.StatusCode = http.StatusTemporaryRedirect
				resp.Header.Set("Location", to)
			}
			return resp, err
		})
		client := &http.Client{Transport: newTransport(t, unlimited(base, (&mint{}).token))}
		resp, err := client.Get(start)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := g.requests(); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: shown %q, want %q", start, got, want)
		}
	}
}

// What a 401 of another host, or of a download, is about is no token of ours: it is not asked twice.
func TestForeign401IsFinal(t *testing.T) {
	for _, target := range []string{"https://example.com/", "https://x.blob.core.windows.net/c/f?sig=s"} {
		m, g := &mint{}, &guard{takes: func(string) bool { return false }}
		if got, err := status(t, newTransport(t, unlimited(g, m.token)), t.Context(), target); got != http.StatusUnauthorized {
			t.Errorf("%d, %v", got, err)
		}
		if tokens, sent := m.made.Load(), len(g.requests()); tokens != 0 || sent != 1 {
			t.Errorf("%s: %d tokens, %d requests", target, tokens, sent)
		}
	}
	// The caller's own Prepare may know better.
	g := &guard{takes: func(a string) bool { return a == "again" }}
	config := unlimited(g, (&mint{}).token)
	config.Prepare = func(req *http.Request, prev *steadyhttp.Attempt) error {
		if prev != nil {
			req.Header.Set("Authorization", "again")
		}
		return nil
	}
	if got, err := status(t, newTransport(t, config), t.Context(), "https://example.com/"); got != http.StatusOK {
		t.Errorf("%d, %v", got, err)
	}
}

// Authorization that the caller brings stays, and his Prepare has the last word.
func TestTokenGivesWay(t *testing.T) {
	m, g := &mint{}, &guard{}
	transport := newTransport(t, unlimited(g, m.token))
	req := request(t, t.Context(), "GET", machines)
	req.Header.Set("Authorization", "Basic mine")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := g.requests(); got[0] != "api.security.microsoft.com Basic mine" || m.made.Load() != 0 {
		t.Errorf("shown %q, %d tokens", got, m.made.Load())
	}

	config := unlimited(g, m.token)
	config.Prepare = func(req *http.Request, _ *steadyhttp.Attempt) error {
		req.Header.Set("Authorization", req.Header.Get("Authorization")+" and more")
		return nil
	}
	send(t, newTransport(t, config), "GET", machines)
	if got := g.requests(); got[1] != "api.security.microsoft.com Bearer token-1 and more" {
		t.Errorf("shown %q", got[1])
	}

	// The caller's request is his own.
	req = request(t, t.Context(), "GET", machines)
	if resp, err := transport.RoundTrip(req); err != nil || len(req.Header) > 0 {
		t.Errorf("the caller's request has %v, %v", req.Header, err)
	} else {
		resp.Body.Close()
	}
}

// once is unlimited for calls that are made once: what is looked at is the token's source.
func once(base http.RoundTripper, token defender.TokenFunc) defender.Config {
	c := unlimited(base, token)
	c.Policy.MaxAttempts = 1
	return c
}

// A failure is shared by those who waited for it, is no answer for those who come later, and is not retried at once.
func TestTokenFailureIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("authority is down")
		asked := 0
		g := &guard{}
		transport := newTransport(t, once(g, func(context.Context) (string, time.Time, error) {
			asked++
			time.Sleep(100 * time.Millisecond)
			if asked <= 2 {
				return "", time.Time{}, fmt.Errorf("post https://login.example/token?secret=hush: %w", broken)
			}
			return "good", time.Time{}, nil
		}))
		began := time.Now()
		for round := 1; round <= 2; round++ {
			var group sync.WaitGroup
			for range 10 {
				group.Go(func() {
					if _, err := status(t, transport, t.Context(), machines); !errors.Is(err, broken) || !strings.Contains(err.Error(), "Config.Token") {
						t.Errorf("round %d: %v", round, err)
					}
				})
			}
			group.Wait()
			if asked != round {
				t.Errorf("round %d: asked %d times", round, asked)
			}
		}
		// The first at once, the second a second after the first had failed.
		if took := time.Since(began); took != 1200*time.Millisecond {
			t.Errorf("two rounds took %v", took)
		}
		if len(g.requests()) > 0 {
			t.Error("a call went out without a token")
		}
		send(t, transport, "GET", machines)
	})
}

// While the old token lives, nobody is harmed by an authority that does not answer, nor is it asked at every call.
func TestTokenRenewalMayFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour}
		asked, down := 0, false
		transport := newTransport(t, unlimited(&guard{}, func(ctx context.Context) (string, time.Time, error) {
			asked++
			if down {
				return "", time.Time{}, errors.New("authority is down")
			}
			return m.token(ctx)
		}))
		send(t, transport, "GET", machines)
		down, asked = true, 0
		time.Sleep(56 * time.Minute)
		for range 100 {
			send(t, transport, "GET", machines)
			time.Sleep(100 * time.Millisecond)
		}
		if asked > 11 {
			t.Errorf("asked %d times in 10 s", asked)
		}
		time.Sleep(4 * time.Minute)
		if _, err := status(t, transport, t.Context(), machines); err == nil {
			t.Error("an expired token was used")
		}
		down = false
		send(t, transport, "GET", machines)
	})
}

// A caller who goes takes nothing away from those who stay.
func TestTokenSurvivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guard{}
		var fetching context.Context
		m := &mint{takes: 10 * time.Second}
		transport := newTransport(t, unlimited(g, func(ctx context.Context) (string, time.Time, error) {
			fetching = ctx
			return m.token(ctx)
		}))
		began := time.Now()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var group sync.WaitGroup
		group.Go(func() {
			_, err := status(t, transport, impatient, machines)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
		synctest.Wait()
		group.Go(func() { send(t, transport, "GET", machines) })
		group.Go(func() {
			ctx, cancel := context.WithCancelCause(t.Context())
			mine := errors.New("changed my mind")
			time.AfterFunc(5*time.Second, func() { cancel(mine) })
			_, err := status(t, transport, ctx, machines)
			if !errors.Is(err, mine) || time.Since(began) != 5*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
		group.Go(func() {
			time.Sleep(6 * time.Second)
			if fetching.Err() != nil {
				t.Errorf("the fetch has ended: %v", fetching.Err())
			}
		})
		group.Wait()
		if m.made.Load() != 1 || len(g.requests()) != 1 || time.Since(began) != 10*time.Second {
			t.Errorf("%d tokens, %d requests after %v", m.made.Load(), len(g.requests()), time.Since(began))
		}
	})
}

// A fetch that hangs is given up on, even if it does not listen to its context.
func TestTokenFetchHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64 // the two overlap
		transport := newTransport(t, once(&guard{}, func(ctx context.Context) (string, time.Time, error) {
			if asked.Add(1) == 1 {
				time.Sleep(10 * time.Minute)
				return "late", time.Time{}, nil
			}
			return "good", time.Time{}, nil
		}))
		began := time.Now()
		_, err := status(t, transport, t.Context(), machines)
		timeout, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err)
		if !ok || !timeout.Timeout() || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		send(t, transport, "GET", machines)
		time.Sleep(time.Hour)
		send(t, transport, "GET", machines)
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A panic reaches one of those who wait for the fetch, and nobody waits for ever.
func TestTokenPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		transport := newTransport(t, once(&guard{}, func(context.Context) (string, time.Time, error) {
			asked++
			time.Sleep(time.Second)
			switch asked {
			case 1:
				panic("oh no")
			case 2:
				runtime.Goexit()
			}
			return "good", time.Time{}, nil
		}))
		var panicked, failed atomic.Int64
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				defer func() {
					if value := recover(); value != nil {
						panicked.Add(1)
						if said := fmt.Sprint(value); !strings.Contains(said, "oh no") || !strings.Contains(said, "token_test.go") {
							t.Errorf("the panic says %s", said)
						}
					}
				}()
				if _, err := status(t, transport, t.Context(), machines); err != nil {
					failed.Add(1)
				}
			})
		}
		group.Wait()
		if panicked.Load() != 1 || failed.Load() != 4 {
			t.Errorf("%d callers panicked, %d failed, want 1 and 4", panicked.Load(), failed.Load())
		}
		if _, err := status(t, transport, t.Context(), machines); err == nil {
			t.Error("a fetch that ended its goroutine has brought a token")
		}
		send(t, transport, "GET", machines)
	})
}

// Tokens that are none are told from those that a service refuses.
func TestTokenIsUnsound(t *testing.T) {
	for token, want := range map[string]string{
		"":               "empty token",
		"hush\n":         "line break",
		"Bearer hush":    "without \"Bearer\"",
		"hush\x00\u00e9": "another byte",
	} {
		g := &guard{}
		_, err := status(t, newTransport(t, unlimited(g, func(context.Context) (string, time.Time, error) { return token, time.Time{}, nil })), t.Context(), machines)
		if err == nil || !strings.Contains(err.Error(), "Config.Token") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", token, err)
		}
		if len(g.requests()) > 0 {
			t.Errorf("%q was sent", token)
		}
	}
}

// Nothing that is printed has the token in it.
func TestTokenIsNotPrinted(t *testing.T) {
	const secret = "eyJ0eXAi.hush.hush"
	transport := newTransport(t, unlimited(roundTripper(func(req *http.Request) (*http.Response, error) {
		return nil, errors.New("connection lost")
	}), func(context.Context) (string, time.Time, error) { return secret, time.Time{}, nil }))
	_, err := transport.RoundTrip(order(t))
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{transport, err, errors.Unwrap(err), transport.Prepare, transport.Authorize, transport.Classify} {
			if said := fmt.Sprintf(format, value); strings.Contains(said, "hush") {
				t.Errorf("%s of a %T: %s", format, value, said)
			}
		}
	}
}

// Sources whose tokens are pointers return none with an error.
func TestTokenFromReadsNoNil(t *testing.T) {
	type token struct{ text string }
	broken := errors.New("authority is down")
	fetch := defender.TokenFrom(func() (*token, error) { return nil, broken }, func(t *token) (string, time.Time) { return t.text, time.Time{} })
	if token, expires, err := fetch(t.Context()); token != "" || !expires.IsZero() || err != broken {
		t.Errorf("%q, %v, %v", token, expires, err)
	}
}

// With a server that checks tokens, over real HTTP.
func TestTokenAgainstAServer(t *testing.T) {
	server := defendertest.NewServer(defendertest.Config{Token: "token-2"})
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	config := defender.Config{Hosts: []string{u.Host}, Token: (&mint{life: time.Hour}).token}
	client := &http.Client{Transport: newTransport(t, config)}
	defer client.CloseIdleConnections()
	for range 3 {
		if err := call(client, http.MethodGet, server.URL+"/api/machines", ""); err != nil {
			t.Error(err)
		}
	}
	if n := len(server.Calls()); n != 4 {
		t.Errorf("%d requests for 3 calls and a refused token", n)
	}
}

func BenchmarkToken(b *testing.B) {
	prepare := newTransport(b, unlimited(nil, func(context.Context) (string, time.Time, error) {
		return "token", time.Now().Add(time.Hour), nil
	})).Authorize
	b.RunParallel(func(pb *testing.PB) {
		req := request(b, b.Context(), "GET", machines)
		for pb.Next() {
			delete(req.Header, "Authorization")
			if err := prepare(req, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// refusing is what a client says of an authority that takes no connections.
func refusing() error {
	return &url.Error{Op: "Post", URL: "https://login.example/token", Err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
}

// An authority that is away is asked by one call at a time, ever more seldom, and at once again
// when it is back: however many workers there are, and however soon they come again.
func TestTokenAuthorityIsNotHammeredWhileItIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const away = 10 * time.Minute
		began := time.Now()
		var asked []time.Duration
		m := &mint{life: time.Minute}
		config := unlimited(&guard{}, func(ctx context.Context) (string, time.Time, error) {
			now := time.Since(began)
			asked = append(asked, now)
			if now < away || now >= 2*away && now < 3*away {
				return "", time.Time{}, refusing()
			}
			return m.token(ctx)
		})
		config.Policy = steadyhttp.Policy{MaxAttempts: 1}
		transport := newTransport(t, config)
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				for time.Since(began) < 3*away+time.Minute {
					_, err := status(t, transport, t.Context(), machines)
					if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
						t.Error(err)
					}
					pause := 100 * time.Millisecond
					if err == nil {
						pause = time.Second
					}
					time.Sleep(pause)
				}
			})
		}
		group.Wait()
		want := []time.Duration{0}
		for pause := time.Second; want[len(want)-1] < away; pause = min(2*pause, 30*time.Second) {
			want = append(want, want[len(want)-1]+pause)
		}
		for i, at := range want {
			// Nobody may have come at the very instant.
			if late := asked[i] - at; late < 0 || late > time.Second {
				t.Fatalf("fetch %d was at %v, want %v", i+1, asked[i], at)
			}
		}
		if back := asked[len(want)-1]; back > away+30*time.Second {
			t.Errorf("the authority was asked %v after it was back", back-away)
		}
		// The second time, the pauses begin anew.
		second := asked[len(want):]
		for len(second) > 0 && second[0] < 2*away {
			second = second[1:]
		}
		if len(second) < 20 || len(second) > 30 {
			t.Fatalf("%d fetches in the second outage", len(second))
		}
		for i, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if got := second[i+1] - second[i]; got < pause || got > pause+time.Second {
				t.Errorf("pause %d of the second outage was %v, want %v", i+1, got, pause)
			}
		}
	})
}

// What a retry depends on is found in the error that the call ends with, whichever way the function
// has wrapped it.
func TestTokenErrorKeepsItsChain(t *testing.T) {
	for name, c := range map[string]struct {
		err error
		has func(error) bool
	}{
		"refused connection": {refusing(), func(err error) bool {
			_, ok := errors.AsType[*net.OpError](err)
			return ok && errors.Is(err, syscall.ECONNREFUSED)
		}},
		"permanent":     {backoff.Permanent(io.ErrNoProgress), isA[*backoff.PermanentError]},
		"not retriable": {notRetriable{}, isA[notRetriable]},
		"status":        {statusError(400), isA[statusError]},
		"service's":     {&steadyhttp.Error{StatusCode: 401}, isA[*steadyhttp.Error]},
		"joined":        {errors.Join(io.ErrNoProgress, statusError(503)), isA[statusError]},
		"deadline": {context.DeadlineExceeded,
			func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
	} {
		config := unlimited(&guard{}, func(context.Context) (string, time.Time, error) {
			return "", time.Time{}, fmt.Errorf("token: %w", c.err)
		})
		config.Policy = steadyhttp.Policy{MaxAttempts: 1}
		if _, err := status(t, newTransport(t, config), t.Context(), machines); !c.has(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A token that nothing can send is the function's mistake, and will be again.
	config := unlimited(&guard{}, func(context.Context) (string, time.Time, error) { return "a b", time.Time{}, nil })
	config.Policy = steadyhttp.Policy{MaxAttempts: 1}
	if _, err := status(t, newTransport(t, config), t.Context(), machines); !isA[interface {
		error
		NonRetriable()
	}](err) {
		t.Errorf("a token with a space: %v", err)
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

type notRetriable struct{}

func (notRetriable) Error() string { return "no" }
func (notRetriable) NonRetriable() {}

type statusError int

func (e statusError) Error() string       { return strconv.Itoa(int(e)) }
func (e statusError) HTTPStatusCode() int { return int(e) }

// Credentials that the authority refused may have been renewed since: a call that comes after the
// pause is the judge.
func TestTokenRefusalIsForgottenAfterThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		transport := newTransport(t, unlimited(&guard{}, func(context.Context) (string, time.Time, error) {
			if asked++; asked <= 2 {
				return "", time.Time{}, backoff.Permanent(errors.New("invalid_client"))
			}
			return "good", time.Time{}, nil
		}))
		began := time.Now()
		for i, want := range []time.Duration{0, time.Second} {
			if _, err := status(t, transport, t.Context(), machines); err == nil || time.Since(began) != want {
				t.Errorf("call %d: %v after %v", i+1, err, time.Since(began))
			}
		}
		if got, err := status(t, transport, t.Context(), machines); got != 200 || time.Since(began) != 3*time.Second {
			t.Errorf("%d, %v after %v", got, err, time.Since(began))
		}
	})
}

// A fetch that waits for its time is called off with the last caller who wants it, and not before.
func TestTokenFetchThatNobodyWaitsForIsCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		transport := newTransport(t, unlimited(&guard{}, func(context.Context) (string, time.Time, error) {
			if asked = append(asked, time.Now()); len(asked) == 1 {
				return "", time.Time{}, backoff.Permanent(errors.New("no"))
			}
			return "good", time.Time{}, nil
		}))
		began := time.Now()
		status(t, transport, t.Context(), machines)
		var group sync.WaitGroup
		for i := range 5 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*100*time.Millisecond)
				defer cancel()
				if _, err := status(t, transport, ctx, machines); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		group.Wait()
		if took := time.Since(began); took != 500*time.Millisecond {
			t.Errorf("the callers went after %v", took)
		}
		time.Sleep(time.Hour)
		if len(asked) != 1 {
			t.Errorf("asked %d times", len(asked))
		}

		asked, began = nil, time.Now()
		status(t, transport, t.Context(), machines)
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		group.Go(func() { status(t, transport, impatient, machines) })
		group.Go(func() {
			if got, err := status(t, transport, t.Context(), machines); got != 200 {
				t.Errorf("%d, %v", got, err)
			}
		})
		group.Wait()
		if len(asked) != 2 || asked[1].Sub(began) != 2*time.Second {
			t.Errorf("asked %v", asked)
		}
	})
}
