package field

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

func errorsAndSecrets() []field {
	reset := answer{err: &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}}
	return []field{{
		name: "the cause of a loss", source: "AWS TestRetryConnectionErrors; acceptance C16",
		rule: "errors.Is finds the system's error in the call's",
		check: func(t *trial) error {
			if r := t.do(serve(reset), call{}); !errors.Is(r.err, syscall.ECONNRESET) {
				return fmt.Errorf("error %v", r.err)
			}
			return nil
		},
	}, {
		name:   "a loss, then a deadline",
		source: "Kubernetes TestWrapPreviousError; terraform-provider-keycloak #1691",
		rule:   "the error has both what failed and what ended the call",
		check: func(t *trial) error {
			ctx, cancel := context.WithCancel(t.ctx)
			time.AfterFunc(200*time.Millisecond, cancel)
			r := t.doWith(ctx, serve(reset), call{})
			if !errors.Is(r.err, context.Canceled) || !errors.Is(r.err, syscall.ECONNRESET) {
				return fmt.Errorf("error %v", r.err)
			}
			return nil
		},
	}, {
		name: "an answer's cookies", source: "failsafe-go retrypolicy.ExceededError",
		rule: "no error has an answer's header fields in its text",
		check: func(t *trial) error {
			r := t.do(serve(answer{status: 503, header: fields("Set-Cookie", "session=hunter2")}), call{})
			return secret(r, "hunter2")
		},
	}, {
		name: "a password in the URL", source: "CVE-2024-6104 (go-retryablehttp)",
		rule: "no error has it in its text",
		check: func(t *trial) error {
			return secret(t.do(serve(reset), call{url: "http://user:hunter2@api.test/"}), "hunter2")
		},
	}, {
		name:   "a key in the query",
		source: "go-retryablehttp #41; CVE-2022-29810 (go-getter)", needs: "transport",
		rule: "a RoundTripper's own error does not have it in its text",
		check: func(t *trial) error {
			const link = "http://api.test/?api_key=hunter2"
			req, err := call{url: link}.request(t.ctx)
			if err != nil {
				return err
			}
			// A base that is an http.Client of its own says so.
			s := serve(answer{err: &url.Error{Op: "Get", URL: link, Err: syscall.ECONNRESET}})
			_, err = t.client.transport(s, call{}).RoundTrip(req)
			if err == nil {
				return errors.New("no error")
			}
			return secret(result{err: err}, "hunter2")
		},
	}, {
		name:   "an answer's control characters",
		source: "CVE-2026-42507 (net/textproto)", wire: true,
		rule: "no error has them in its text",
		check: func(t *trial) error {
			url, _ := broken(t, 9, func(conn net.Conn) {
				io.WriteString(conn, "HTTP/1.1 2\x1b[31m\rfaked log line OK\r\n\r\n")
			})
			r := t.do(&http.Transport{DisableKeepAlives: true}, call{url: url, fast: true})
			if r.err == nil {
				return errors.New("no error")
			}
			if strings.ContainsAny(r.err.Error(), "\x1b\r\n") {
				return fmt.Errorf("error %q", r.err)
			}
			return nil
		},
	}, {
		name: "a token and another host", source: "golang/oauth2 #500; CVE-2018-20060 (urllib3)",
		rule: "a redirect to another host does not take Authorization along, retried or not",
		check: func(t *trial) error {
			s := serve(answer{status: 302, header: fields("Location", "http://evil.test/")},
				answer{status: 503}, ok)
			r := t.do(s, call{header: fields("Authorization", "Bearer hunter2")})
			for _, sent := range s.sends {
				if sent.req.URL.Host == "evil.test" && sent.header.Get("Authorization") != "" {
					return errors.New("the other host got it")
				}
			}
			return s.came(r, call{}, want{3, 200, fine})
		},
	}, {
		name:   "a scheme that nobody speaks",
		source: "go-retryablehttp TestClient_DefaultRetryPolicy_invalidscheme",
		rule:   "what can't be sent fails at once",
		check: func(t *trial) error {
			return unsendable(t, call{url: "ftp://api.test/"})
		},
	}, {
		name: "a port that there is not", source: "golang/go net.SplitHostPort: invalid port",
		rule: "what can't be sent fails at once",
		check: func(t *trial) error {
			return unsendable(t, call{url: "http://127.0.0.1:99999/"})
		},
	}, {
		name: "a field that can't be sent", source: "go-retryablehttp …_invalidheadervalue",
		rule: "what can't be sent fails at once",
		check: func(t *trial) error {
			return unsendable(t, call{header: http.Header{"X-Name": {"a\nb"}}})
		},
	}, {
		name: "a field's name that can't be sent", source: "go-retryablehttp …_invalidheadername",
		rule: "what can't be sent fails at once",
		check: func(t *trial) error {
			return unsendable(t, call{header: http.Header{"X Name": {"a"}}})
		},
	}, {
		name:   "a circle of redirects",
		source: "go-retryablehttp …_redirects; failsafe-go TestClientRetryPolicyWithRedirects",
		rule:   "10 redirects are final: the circle is not begun again",
		check: func(t *trial) error {
			s := serve(answer{status: 302, header: fields("Location", "http://api.test/round")})
			if r := t.do(s, call{}); s.count() > 11 || r.err == nil {
				return fmt.Errorf("sent %d times, error %v", s.count(), r.err)
			}
			return nil
		},
	}}
}

func secret(r result, text string) error {
	if r.err != nil && strings.Contains(r.err.Error(), text) {
		return fmt.Errorf("error %s", brief(r.err))
	}
	return nil
}

// unsendable wants net/http's refusal at once.
func unsendable(t *trial, c call) error {
	tries := 0
	base := transportFunc(func(req *http.Request) (*http.Response, error) {
		tries++
		return (&http.Transport{}).RoundTrip(req)
	})
	r := t.do(base, c)
	if r.err == nil || tries > 1 || r.took > atOnce {
		return fmt.Errorf("tried %d times in %v: error %v", tries, r.took, r.err)
	}
	return nil
}
