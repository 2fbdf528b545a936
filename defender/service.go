package defender

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// service is what a Transport of New knows of the service at its attempts.
type service struct {
	classify func(steadyhttp.Attempt) steadyhttp.Verdict
	known    hosts
	prepared bool    // Config.Prepare is set, and may bring credentials of its own
	tokens   *tokens // nil: none
	base     http.RoundTripper
	warner   warner

	begun   atomic.Bool  // the first request has been looked at
	retired sync.Map     // rows that were warned of, by *Endpoint
	renewed atomic.Int64 // when connections were last given up, in Unix nanoseconds
}

// authorize is Transport.Authorize.
func (s *service) authorize(req *http.Request, prev *steadyhttp.Attempt) error {
	if !s.begun.Swap(true) {
		s.lookAtFirst(req)
	}
	return s.tokens.authorize(req, prev)
}

// Enter is that of a gate which lets everything pass, and sees that an attempt comes after a 503.
func (s *service) Enter(_ context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	if a.PrevStatus == http.StatusServiceUnavailable {
		s.leaveConnections()
	}
	return nil, nil
}

// leaveConnections makes the next request open a connection of its own. After a 503 of Graph that
// is how it gets to another server (best-practices-concept). Once a second is enough for all who
// wait.
func (s *service) leaveConnections() {
	now := time.Now().UnixNano()
	last := s.renewed.Load()
	if last != 0 && now-last < int64(time.Second) || !s.renewed.CompareAndSwap(last, now) {
		return
	}
	if base, ok := s.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// lookAtFirst tells a Transport that goes to its own hosts from one whose Hosts were forgotten.
func (s *service) lookAtFirst(req *http.Request) {
	switch {
	case signed(req.URL):
	case !s.known.have(req.URL):
		s.warner.warn(req, "defender: the first request is for a host that gets neither Config.Token "+
			"nor a quota; set Config.Hosts, or Config.Cloud and Config.API",
			slog.String("host", req.URL.Host))
	case !private(req.URL):
		s.warner.warn(req, "defender: the first request is not encrypted, and gets no Config.Token; "+
			"use https", slog.String("host", req.URL.Host))
	}
}

// verdict is Transport.Classify.
func (s *service) verdict(a steadyhttp.Attempt) steadyhttp.Verdict {
	v := s.classify(a)
	if a.Request == nil || a.Request.URL == nil {
		return v
	}
	if s.known.have(a.Request.URL) {
		s.tellRetired(a.Request)
	}
	switch {
	case v.Class == steadyhttp.Unauthorized && s.final(a):
		v.Class = steadyhttp.Permanent
	case a.Response == nil:
	case v.Class == steadyhttp.Permanent && a.Response.StatusCode == http.StatusForbidden &&
		s.lacksClaims(a):
		// Conditional access says it by a 403 to those who did not declare that they understand a
		// challenge (concepts/errors: "403 Forbidden error=insufficient_claims"). Without the claims
		// it is what it looks like.
		v.Class = steadyhttp.Unauthorized
	case a.Response.StatusCode == http.StatusGatewayTimeout &&
		a.PrevStatus == http.StatusGatewayTimeout && hunts(a.Request):
		// A query that takes too long does so each time (microsoftgraph/microsoft-graph-docs#19954).
		v.Class, v.Message = steadyhttp.Permanent, withHint(v.Message, sameQuery)
	case a.Response.StatusCode == http.StatusPartialContent:
		v.Message = warnings(a.Response.Header["Warning"])
	}
	return v
}

const sameQuery = "the same query came to nothing twice: narrow it, or its time span"

// final reports whether new credentials can't help after a 401: the caller brought his own, which
// an authority may lock out for asking twice, or there were none, and nobody is known to have any.
func (s *service) final(a steadyhttp.Attempt) bool {
	if s.tokens == nil {
		return false // it is up to Transport.Prepare
	}
	values, ok := authorization(a.Request.Header)
	if !ok {
		return !s.prepared
	}
	return s.tokens.isCallers(first(values))
}

// lacksClaims reports whether an answer asks for a token with claims that ours does not have.
func (s *service) lacksClaims(a steadyhttp.Attempt) bool {
	if s.tokens == nil || claimsOf(a.Response.Header) == "" {
		return false
	}
	values, ok := authorization(a.Request.Header)
	return ok && !s.tokens.isCallers(first(values))
}

// tellRetired warns once of each method that ends or has ended.
func (s *service) tellRetired(req *http.Request) {
	e := find(req)
	if e == nil || e.Retired == "" {
		return
	}
	if _, told := s.retired.LoadOrStore(e, true); !told {
		s.warner.warn(req, "defender: a retired method is called",
			slog.String("method", req.Method), slog.String("path", Route(req)),
			slog.String("it", e.Retired))
	}
}

type warner struct{ logger *slog.Logger }

func (w warner) warn(req *http.Request, message string, attrs ...slog.Attr) {
	logger := w.logger
	if logger == nil {
		logger = slog.Default()
	}
	logger.LogAttrs(context.WithoutCancel(req.Context()), slog.LevelWarn, message, attrs...)
}

// warnings reads what a 206's Warning fields tell of the providers that did not deliver, as in
//
//	Warning: 199 - "Microsoft/ATP/504/10000"
//
// (security-error-codes): vendor, provider, its status, and the milliseconds that it took. What has
// another form is left out; without any, the answer is told to lack something.
func warnings(fields []string) string {
	const most = 8
	var told []string
	for _, field := range fields {
		for rest := field; len(told) < most; {
			_, after, ok := strings.Cut(rest, "199 ")
			if !ok {
				break
			}
			_, quoted, ok := strings.Cut(after, `"`)
			if !ok {
				break
			}
			text, behind, ok := strings.Cut(quoted, `"`)
			if !ok {
				break
			}
			if text = providerOf(text); text != "" {
				told = append(told, text)
			}
			rest = behind
		}
	}
	if len(told) == 0 {
		return "the answer is partial, and does not say what is missing"
	}
	return strings.Join(told, ", ")
}

// providerOf returns a warning's text if it has the four parts, and nothing that could be taken for
// anything else.
func providerOf(text string) string {
	const most = 128
	parts := strings.Split(text, "/")
	if len(text) > most || len(parts) != 4 || !digits(parts[2]) || !digits(parts[3]) {
		return ""
	}
	for _, c := range []byte(parts[0] + parts[1]) {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return text
}

func digits(s string) bool {
	return s != "" && len(s) <= 9 && strings.Trim(s, "0123456789") == ""
}
