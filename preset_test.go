package steadyhttp_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/steadyhttp/steadyhttp"
)

// statusList is a base that answers with one status after the other, 0 for a lost connection, and
// notes the Authorization of each request.
type statusList struct {
	statuses []int
	shown    []string
}

func (a *statusList) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	a.shown = append(a.shown, req.Header.Get("Authorization"))
	status := a.statuses[min(len(a.shown), len(a.statuses))-1]
	if status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: req,
	}, nil
}

// What a preset knows of the service stays, whatever its user puts in the place of Policy, of
// Prepare, or of both in a clone: which POST is idempotent, and the credentials.
func TestPresetOutlivesWhatIsReplaced(t *testing.T) {
	for name, change := range map[string]func(context.Context, *steadyhttp.Transport) (*steadyhttp.Transport, context.Context){
		"nothing": func(ctx context.Context, tr *steadyhttp.Transport) (*steadyhttp.Transport, context.Context) {
			return tr, ctx
		},
		"Policy": func(ctx context.Context, tr *steadyhttp.Transport) (*steadyhttp.Transport, context.Context) {
			tr.Policy = steadyhttp.Batch()
			return tr, ctx
		},
		"Prepare": func(ctx context.Context, tr *steadyhttp.Transport) (*steadyhttp.Transport, context.Context) {
			tr.Prepare = func(*http.Request, *steadyhttp.Attempt) error { return nil }
			return tr, ctx
		},
		"no Prepare": func(ctx context.Context, tr *steadyhttp.Transport) (*steadyhttp.Transport, context.Context) {
			tr.Prepare = nil
			return tr, ctx
		},
		"WithPolicy": func(ctx context.Context, tr *steadyhttp.Transport) (*steadyhttp.Transport, context.Context) {
			return tr, steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { *p = steadyhttp.Batch() })
		},
		"a clone": func(ctx context.Context, tr *steadyhttp.Transport) (*steadyhttp.Transport, context.Context) {
			clone := tr.Clone()
			clone.Policy, clone.Prepare = steadyhttp.Batch(), nil
			return clone, steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { *p = steadyhttp.Policy{} })
		},
	} {
		for _, c := range []struct {
			path     string
			statuses []int
			sent     int
		}{
			{"/query", []int{0, 503, 200}, 3},
			{"/query", []int{401, 200}, 2},
			{"/order", []int{0, 200}, 1},
			{"/order", []int{503, 200}, 1},
			{"/order", []int{401, 200}, 2},
		} {
			synctest.Test(t, func(t *testing.T) {
				base := &statusList{statuses: c.statuses}
				tokens := 0
				tr, ctx := change(t.Context(), &steadyhttp.Transport{
					Base:       base,
					Idempotent: func(req *http.Request) bool { return req.URL.Path == "/query" },
					Authorize: func(req *http.Request, prev *steadyhttp.Attempt) error {
						if prev == nil || prev.Verdict.Class == steadyhttp.Unauthorized {
							tokens++
						}
						req.Header.Set("Authorization", strings.Repeat("t", tokens))
						return nil
					},
				})
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://x.example"+c.path, strings.NewReader("{}"))
				resp, err := tr.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				if len(base.shown) != c.sent || slices.Contains(base.shown, "") {
					t.Errorf("%s, %s %v: sent %q, want %d; %v", name, c.path, c.statuses, base.shown, c.sent, err)
				}
				if len(req.Header) > 0 {
					t.Errorf("%s: the caller's request has %v", name, req.Header)
				}
			})
		}
	}
}

// Authorize comes first, Prepare has the last word; an error of either ends the attempt, and none
// of the two sees a redirect's hop to another origin.
func TestAuthorizeComesBeforePrepare(t *testing.T) {
	base := &statusList{statuses: []int{200}}
	tr := &steadyhttp.Transport{
		Base: base,
		Authorize: func(req *http.Request, _ *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", "first")
			return nil
		},
		Prepare: func(req *http.Request, _ *steadyhttp.Attempt) error {
			req.Header.Set("Authorization", req.Header.Get("Authorization")+" last")
			return nil
		},
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x.example/", nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	hop := req.Clone(t.Context())
	hop.URL.Host = "y.example"
	hop.Response = resp
	if resp, err = tr.RoundTrip(hop); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := []string{"first last", ""}; !slices.Equal(base.shown, want) {
		t.Errorf("shown %q, want %q", base.shown, want)
	}

	no := errors.New("no")
	tr.Authorize = func(*http.Request, *steadyhttp.Attempt) error { return &steadyhttp.Error{StatusCode: 400, Err: nil} }
	if _, err := tr.RoundTrip(req); !errors.Is(err, steadyhttp.ErrNotSent) {
		t.Errorf("a refused Authorize: %v", err)
	}
	tr.Authorize, tr.Prepare = nil, func(*http.Request, *steadyhttp.Attempt) error { return no }
	tr.Policy.MaxAttempts = 1
	if _, err := tr.RoundTrip(req); !errors.Is(err, no) || len(base.shown) != 2 {
		t.Errorf("a failing Prepare: %v after %d requests", err, len(base.shown))
	}
}

// Classify and the hooks know how the attempt before was answered.
func TestPrevStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []int
		tr := &steadyhttp.Transport{
			Base:   &statusList{statuses: []int{504, 0, 503, 504, 200}},
			Policy: steadyhttp.Policy{MaxAttempts: 9, Budget: &steadyhttp.Budget{Max: -1}},
			Classify: func(a steadyhttp.Attempt) steadyhttp.Verdict {
				seen = append(seen, a.PrevStatus)
				return (&steadyhttp.Rules{}).Classify(a)
			},
		}
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x.example/", nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := []int{0, 504, 0, 503, 504}; !slices.Equal(seen, want) {
			t.Errorf("saw %v, want %v", seen, want)
		}
	})
}

// What Classify says of a success at the first try is there to be read.
func TestAttemptOfASuccessWithAMessage(t *testing.T) {
	for message, want := range map[string]bool{"": false, "a part is missing": true} {
		tr := &steadyhttp.Transport{
			Base: &statusList{statuses: []int{206}},
			Classify: func(steadyhttp.Attempt) steadyhttp.Verdict {
				return steadyhttp.Verdict{Class: steadyhttp.Success, Message: message}
			},
		}
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x.example/", nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		a, ok := steadyhttp.AttemptOf(resp)
		if ok != want || a.Verdict.Message != message || steadyhttp.Check(resp) != nil {
			t.Errorf("%q: %v, %+v", message, ok, a.Verdict)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "{}" || err != nil {
			t.Errorf("%q: body %q, %v", message, body, err)
		}
		resp.Body.Close()
	}
}
