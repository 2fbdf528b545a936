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

// noteGate notes all that it is told.
type noteGate struct {
	left     []steadyhttp.Attempt
	answered []*http.Response
	sent     int
}

func (g *noteGate) Enter(_ context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	a.Observe(g)
	return steadyhttp.PassFunc(func(a steadyhttp.Attempt) { g.left = append(g.left, a) }), nil
}

func (g *noteGate) Replay(context.Context) error { return nil }
func (g *noteGate) Sent(time.Time)               { g.sent++ }
func (g *noteGate) Answered(resp *http.Response) { g.answered = append(g.answered, resp) }

// What a redirect's hop at another origin answers holds nobody up at the first one, and teaches its gates nothing.
func TestForeignAnswersTeachNothing(t *testing.T) {
	const limited = `{"error":{"code":"429","message":"Maximum allowed 1 per 00:01:00. Try again in 999 seconds.","target":"t"}}`
	origin := func(req *http.Request) string { return req.URL.Scheme + "://" + req.URL.Host }
	tenant := func(*http.Request) string { return "tenant" }
	for _, test := range []struct {
		name    string
		hops    []string // each redirects to the next, the last one answers 429
		foreign bool
	}{
		{"other host", []string{"http://api.example/1", "http://evil.example/2"}, true},
		{"sub-domain", []string{"http://api.example/1", "http://evil.api.example/2"}, true},
		{"other port", []string{"http://api.example/1", "http://api.example:8080/2"}, true},
		{"other scheme", []string{"http://api.example/1", "https://api.example/2"}, true},
		{"there and back", []string{"http://api.example/1", "http://evil.example/2", "http://api.example/3"}, true},
		{"same origin first", []string{"http://api.example/1", "http://api.example/2", "http://evil.example/3"}, true},
		{"same origin", []string{"http://api.example/1", "http://api.example/2"}, false},
		{"same origin, default port", []string{"http://api.example/1", "http://API.example:80/2"}, false},
	} {
		for name, newGate := range map[string]func() steadyhttp.Gate{
			"Limit": func() steadyhttp.Gate { return steadyhttp.Limit(nil) },
			"Quota": func() steadyhttp.Gate {
				return &quota.Quota{Windows: []quota.Window{{N: 1000, Per: time.Minute}}}
			},
			"PerKey by tenant": func() steadyhttp.Gate {
				return perKey(tenant, func(string) steadyhttp.Gate { return steadyhttp.Limit(nil) }, 0)
			},
			"PerKey by origin": func() steadyhttp.Gate {
				return perKey(origin, func(string) steadyhttp.Gate { return steadyhttp.Limit(nil) }, 0)
			},
			"PerKey by tenant and origin": func() steadyhttp.Gate {
				return perKey(tenant, func(string) steadyhttp.Gate {
					return perKey(origin, func(string) steadyhttp.Gate { return steadyhttp.Limit(nil) }, 0)
				}, 0)
			},
		} {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					evil := true
					base := roundTripper(func(req *http.Request) (*http.Response, error) {
						if !evil {
							return answers(200, "")(req)
						}
						for n, hop := range test.hops[:len(test.hops)-1] {
							if req.URL.String() == hop {
								return answers(302, "", "Location: "+test.hops[n+1])(req)
							}
						}
						return answers(429, limited, "Retry-After: 7200")(req)
					})
					notes := new(noteGate)
					client := &http.Client{Transport: &steadyhttp.Transport{Base: base, Gates: []steadyhttp.Gate{newGate(), notes}}}
					resp, err := client.Get(test.hops[0])
					if err != nil {
						t.Fatal(err)
					}
					if body := readAll(t, resp); resp.StatusCode != 429 || body != limited {
						t.Errorf("got %s %q", resp.Status, body)
					}
					last := notes.left[len(notes.left)-1]
					masked := last.Response == nil && last.Body == nil && last.Verdict == (steadyhttp.Verdict{}) && !last.Sent.IsZero() && last.Sends == 1
					if masked != test.foreign || (len(notes.answered) == len(test.hops)) == test.foreign {
						t.Errorf("a gate was told %+v, and of %d answers", last, len(notes.answered))
					}

					evil = false
					held := func(url string) time.Duration {
						passed := stopwatch()
						// The second one waits for the first, the probe.
						for range 2 {
							ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
							req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
							resp, err := client.Do(req)
							if err != nil {
								t.Fatal(err)
							}
							resp.Body.Close()
							cancel()
						}
						return passed()
					}
					first := held(test.hops[0])
					if test.foreign && first > 0 || !test.foreign && first == 0 && name != "PerKey by origin" && name != "PerKey by tenant and origin" {
						t.Errorf("the first origin was held for %v", first)
					}
					own := name == "PerKey by origin" || name == "PerKey by tenant and origin"
					if test.foreign && own && test.name != "there and back" {
						if other := held(test.hops[len(test.hops)-1]); other == 0 {
							t.Error("a gate of the hop's own has not learnt")
						}
					}
				})
			})
		}
	}
}
