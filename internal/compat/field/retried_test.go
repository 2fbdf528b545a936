package field

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	fine = `{"value":[]}`
	busy = `{"error":{"code":"ServiceBusy","message":"try again"}}`
)

var ok = answer{status: http.StatusOK, text: fine}

// want is what a call must come to.
type want struct {
	sends  int
	status int
	text   string
}

// outcome checks a call to a service: how often it was sent, the same each time, and what the
// caller got.
func outcome(s *service, c call, w want) func(*trial) error {
	return func(t *trial) error {
		s := serve(s.answers...)
		r := t.do(s, c)
		return s.came(r, c, w)
	}
}

func (s *service) came(r result, c call, w want) error {
	if n := s.count(); n != w.sends {
		return fmt.Errorf("sent %d times, want %d (status %d, error %v)", n, w.sends, r.status, r.err)
	}
	if err := s.same(c); err != nil {
		return err
	}
	return r.answered(w.status, w.text)
}

// same wants every sending to have the whole body.
func (s *service) same(c call) error {
	for i, sent := range s.sends {
		if sent.body != c.body {
			return fmt.Errorf("sending %d had the body %.40q, want %.40q", i+1, sent.body, c.body)
		}
	}
	return nil
}

func retried() []field {
	var list []field
	add := func(name, source, rule string, s *service, c call, w want) {
		list = append(list, field{name: name, source: source, rule: rule, check: outcome(s, c, w)})
	}
	down := func(status int, h ...string) answer {
		return answer{status: status, text: busy, header: fields(h...)}
	}
	const mayPass = "a fault that may pass is retried, if doing it twice does no harm"
	for _, c := range []struct {
		method string
		status int
		source string
	}{
		{"GET", 500, "RFC 9110 9.2.2"},
		{"GET", 502, "terraform-provider-ibm #3178"},
		{"GET", 503, "RFC 9110 15.6.4"},
		{"GET", 504, "terraform-provider-buildkite #214"},
		{"GET", 408, "RFC 9110 15.5.9"},
		{"GET", 429, "terraform-provider-openstack #1365"},
		{"GET", 529, "Anthropic and Notion: overloaded"},
		{"HEAD", 503, "RFC 9110 9.2.2"},
		{"PUT", 503, "RFC 9110 9.2.2"},
		{"DELETE", 502, "RFC 9110 9.2.2"},
		{"PROPFIND", 503, "RFC 4918 9.1"},
		{"QUERY", 503, "draft-ietf-httpbis-safe-method-w-body 2"},
	} {
		request := call{method: c.method}
		if c.method == "PUT" || c.method == "QUERY" {
			request.body = `{"name":"x"}`
		}
		add(fmt.Sprintf("%s answered %d", c.method, c.status), c.source, mayPass,
			serve(times(2, down(c.status), ok)...), request, want{3, 200, fine})
	}

	order := call{method: "POST", body: `{"Comment":"c"}`}
	const refused = "what was refused was not carried out: it is retried, with its body"
	for _, c := range []struct{ method, source string }{
		{"POST", "alcionai/corso #1778"}, {"PATCH", "mattn/go-mastodon PR 219"},
	} {
		request := order
		request.method = c.method
		add(c.method+" answered 429", c.source, refused,
			serve(times(2, down(429), ok)...), request, want{3, 200, fine})
	}
	const once = "what may have been carried out is not sent again"
	for _, c := range []struct {
		method string
		status int
		source string
	}{
		{"POST", 500, "digitalocean/netbox-ip-controller PR 14"},
		{"POST", 502, "terraform-provider-ibm #3178"},
		{"POST", 503, "RFC 9110 9.2.2"},
		{"POST", 504, "terraform-provider-newrelic #2678"},
		{"POST", 408, "RFC 9110 15.5.9"},
		{"PATCH", 500, "RFC 5789 2"},
		{"PATCH", 504, "RFC 9110 9.2.2"},
	} {
		request := order
		request.method = c.method
		add(fmt.Sprintf("%s answered %d", c.method, c.status), c.source, once,
			serve(down(c.status), ok), request, want{1, c.status, busy})
	}

	const final = "a plain refusal comes back at once, as it is"
	for _, c := range []struct {
		method string
		status int
		source string
	}{
		{"GET", 400, "terraform-provider-pagerduty #544"},
		{"GET", 401, "RFC 9110 15.5.2"},
		{"GET", 403, "RFC 9110 15.5.4"},
		{"GET", 404, "terraform-provider-pagerduty #544"},
		{"DELETE", 404, "terraform-provider-zedcloud PR 216"},
		{"PUT", 409, "ybbus/httpretry retries 409"},
		{"GET", 410, "RFC 9110 15.5.11"},
		{"PUT", 412, "RFC 9110 15.5.13"},
		{"GET", 423, "ybbus/httpretry retries 423"},
		{"POST", 422, "RFC 9110 15.5.21"},
		{"GET", 501, "go-retryablehttp baseRetryPolicy"},
		{"GET", 505, "RFC 9110 15.6.6"},
	} {
		request := call{method: c.method}
		if c.method == "PUT" || c.method == "POST" {
			request.body = "x"
		}
		add(fmt.Sprintf("%s refused with %d", c.method, c.status), c.source, final,
			serve(down(c.status), ok), request, want{1, c.status, busy})
	}
	add("403 that names a wait", "GitHub docs: secondary rate limits",
		"a 403 with Retry-After is a limit, and is retried then",
		serve(down(403, "Retry-After", "2"), ok), call{}, want{2, 200, fine})
	add("403 with nothing left", "GitHub docs: primary rate limits; google/go-github",
		"a 403 whose window is spent is a limit, and is retried when it is over",
		serve(down(403, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1795694410"), ok),
		call{}, want{2, 200, fine})
	add("418 that names a wait", "binance-spot-api-docs", "a ban that names its end is kept to",
		serve(down(418, "Retry-After", "2"), ok), call{}, want{2, 200, fine})
	add("413 that names a wait", "RFC 9110 15.5.14", "a 413 with Retry-After is for a time only",
		serve(down(413, "Retry-After", "2"), ok), call{}, want{2, 200, fine})

	const asIs = "no failure: it is not retried, and nothing waits"
	for _, c := range []struct {
		name, source string
		a            answer
	}{
		{"202 with Retry-After", "justinrixx/retryhttp (probe)",
			answer{status: 202, text: fine, header: fields("Retry-After", "0")}},
		{"204", "RFC 9110 15.3.5", answer{status: 204}},
		{"304", "RFC 9110 15.4.5", answer{status: 304, header: fields("Retry-After", "5")}},
		{"200 with nothing left", "draft-ietf-httpapi-ratelimit-headers",
			answer{status: 200, text: fine, header: fields("Ratelimit", `"default";r=0;t=30`)}},
	} {
		check := func(t *trial) error {
			s := serve(c.a, ok)
			r := t.do(s, call{})
			if r.took > time.Second {
				return fmt.Errorf("took %v", r.took)
			}
			return s.came(r, call{}, want{1, c.a.status, c.a.text})
		}
		list = append(list, field{name: c.name, source: c.source, rule: asIs, check: check})
	}

	list = append(list, field{
		name: "a key, 503", source: "draft-ietf-httpapi-idempotency-key-header 2.2",
		rule: "a POST with an Idempotency-Key is retried with the same key",
		check: func(t *trial) error {
			c := order
			c.header = http.Header{"Idempotency-Key": {`"k1"`}}
			s := serve(down(503), ok)
			if err := s.came(t.do(s, c), c, want{2, 200, fine}); err != nil {
				return err
			}
			for _, sent := range s.sends {
				if got := keyOf(sent.header); !slices.Equal(got, []string{`"k1"`}) {
					return fmt.Errorf("sent with the keys %q", got)
				}
			}
			return nil
		},
	}, field{
		name: "a 503 for ever", source: "go-retryablehttp #46; sigstore/rekor PR 2796; corso #3811",
		rule:  "when attempts end, the caller gets the last answer, whole",
		check: outcome(serve(down(503)), call{}, want{attempts, 503, busy}),
	}, field{
		name: "a 429 for ever", source: "go-retryablehttp #156; Lilypad #420",
		rule: "when attempts end, the caller gets the last answer, whole",
		check: outcome(serve(down(429, "Retry-After", "1")), call{},
			want{attempts, 429, busy}),
	}, field{
		name: "fields on each attempt", source: "PuerkitoBio/rehttp TestClientRetryWithHeaders",
		rule: "every attempt has the same fields, none twice",
		check: func(t *trial) error {
			c := call{method: "PUT", body: "x",
				header: fields("Accept", "text/plain", "X-Many", "1", "X-Many", "2")}
			s := serve(times(2, down(503), ok)...)
			if err := s.came(t.do(s, c), c, want{3, 200, fine}); err != nil {
				return err
			}
			for _, sent := range s.sends {
				if got := sent.header.Values("X-Many"); !slices.Equal(got, []string{"1", "2"}) ||
					len(sent.header.Values("Accept")) != 1 {
					return fmt.Errorf("sent with %v", sent.header)
				}
			}
			return nil
		},
	}, field{
		name: "the query on each attempt", source: "go-resty/resty #938",
		rule: "every attempt has the same URL",
		check: func(t *trial) error {
			s := serve(times(2, down(503), ok)...)
			c := call{url: "http://api.test/machines?$top=10&$filter=a%20eq%20'b'"}
			if err := s.came(t.do(s, c), c, want{3, 200, fine}); err != nil {
				return err
			}
			for _, sent := range s.sends {
				if sent.req.URL.String() != c.url {
					return fmt.Errorf("sent to %s", sent.req.URL)
				}
			}
			return nil
		},
	}, field{
		name: "an outage of 30 s", source: "acceptance E01; Brooker 2022; Google SRE book 21",
		rule:  "retries are paid for by successes: in an outage at most 1.2 sendings for a call",
		check: storm,
	})
	return list
}

// keyOf finds the key however its name is spelt on the way to the wire, where case does not count.
func keyOf(h http.Header) []string {
	for name, values := range h {
		if http.CanonicalHeaderKey(name) == "Idempotency-Key" {
			return values
		}
	}
	return nil
}
