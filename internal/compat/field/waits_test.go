package field

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// form is one way in which a service says when to come back.
type form struct {
	who    string
	fields string // "Name: value; Name: value"; RA is Retry-After, XRL is X-RateLimit
	// wait is 0 where it names none, and one's own back-off decides, and absurd where nobody can
	// mean what it says: then the answer may be returned at once too.
	wait time.Duration
	text string // of the answer; "": nothing that says more
}

const absurd = -1

// forms are literal, as services and specifications have them. They are read on 26 November 2026 at
// 12:00:00 UTC, which is 1795694400, and the answer's Date says so.
var forms = []struct {
	who, fields string
	wait        time.Duration
}{
	{"RFC 9110, seconds", "RA: 120", 2 * time.Minute},
	{"RFC 9110, IMF-fixdate", "RA: Thu, 26 Nov 2026 12:00:30 GMT", 30 * time.Second},
	{"RFC 9110, RFC 850 date", "RA: Thursday, 26-Nov-26 12:00:30 GMT", 30 * time.Second},
	{"RFC 9110, asctime date", "RA: Thu Nov 26 12:00:30 2026", 30 * time.Second},
	{"Kubernetes", "RA: 1", time.Second},
	{"Shopify, a fraction", "RA: 2.0", 2 * time.Second},
	{"Spotify and Shodan, zero", "RA: 0", 0},
	{"a date in the past", "RA: Thu, 26 Nov 2026 11:59:58 GMT", 0},
	{"Docker Hub, a Unix time", "RA: 1795694460", time.Minute},
	{"Docker Hub, both", "RA: 1795694460; XRL-Reset: 1795694460; XRL-Remaining: 0", time.Minute},
	{"Docker docs", "X-RA: 1795694460", time.Minute},
	{"a Unix time in ms", "RA: 1795694460000", time.Minute},
	{"fastify-rate-limit #301", "RA: 60000; XRL-Reset: 58; XRL-Remaining: 0", 58 * time.Second},
	{"OpenAI, ms", "RA-Ms: 2500", 2500 * time.Millisecond},
	{"OpenAI, ms and s", "RA-Ms: 2500; RA: 3", 3 * time.Second},
	{"Azure, x-ms-retry-after-ms", "X-Ms-RA-Ms: 5000", 5 * time.Second},
	{"AWS, x-amz-retry-after", "X-Amz-RA: 5500", 5500 * time.Millisecond},
	{"folded", "RA: 30, 60", time.Minute},
	{"quoted", `RA: "30"`, 30 * time.Second},
	{"a unit", "RA: 30s", 30 * time.Second},
	{"absurd: 4.8 years", "RA: 150933900", absurd},
	{"absurd: 23 digits", "RA: 99999999999999999999999", absurd},
	{"overflow, go-retryablehttp PR 297", "RA: 9223372037", absurd},
	{"negative", "RA: -5", 0},
	{"hex", "RA: 0x1E", 0},
	{"exponent", "RA: 1e3", 0},
	{"text", "RA: soon", 0},
	{"empty", "RA: ", 0},
	{"numeric zone", "RA: Thu, 26 Nov 2026 13:00:30 +0100", 30 * time.Second},
	{"RFC 3339", "RA: 2026-11-26T12:00:30Z", 30 * time.Second},
	{"GitHub, window spent", "XRL-Limit: 5000; XRL-Remaining: 0; XRL-Reset: 1795694440",
		40 * time.Second},
	{"GitHub, secondary", "RA: 60; XRL-Remaining: 4211; XRL-Reset: 1795695000", time.Minute},
	{"a window that has some left", "XRL-Remaining: 4211; XRL-Reset: 1795695000", 0},
	{"Okta", "X-Rate-Limit-Limit: 600; X-Rate-Limit-Remaining: 0; X-Rate-Limit-Reset: 1795694437",
		37 * time.Second},
	{"X, the 24-hour window", "X-Rate-Limit-Remaining: 11; X-Rate-Limit-Reset: 1795694900; " +
		"X-App-Limit-24hour-Remaining: 0; X-App-Limit-24hour-Reset: 1795701600", 2 * time.Hour},
	{"Discord", "XRL-Remaining: 0; XRL-Reset: 1795694434.57; XRL-Reset-After: 34.57",
		34570 * time.Millisecond},
	{"Discord, shared", "RA: 37; XRL-Remaining: 9; XRL-Reset-After: 4.57", 37 * time.Second},
	{"Reddit", "XRL-Remaining: 0.0; XRL-Used: 1000; XRL-Reset: 41", 41 * time.Second},
	{"Reddit, stale", "XRL-Remaining: 0.0; XRL-Reset: 0", 0},
	{"Datadog", "XRL-Period: 60; XRL-Remaining: 0; XRL-Reset: 17", 17 * time.Second},
	{"GitLab", "RateLimit-Remaining: 0; RateLimit-Reset: 1795694460; " +
		"RateLimit-ResetTime: Fri, 27 Nov 2026 12:01:00 GMT", time.Minute},
	{"PagerDuty", "RateLimit-Remaining: 0; RateLimit-Reset: 42", 42 * time.Second},
	{"Docker Hub, pulls", "RateLimit-Limit: 100;w=21600; RateLimit-Remaining: 0;w=21600", 0},
	{"a window's parameter", "RateLimit-Reset: 58;w=60; RateLimit-Remaining: 0", 58 * time.Second},
	{"OpenAI, tokens", "XRL-Remaining-Requests: 40; XRL-Reset-Requests: 12ms; " +
		"XRL-Remaining-Tokens: 0; XRL-Reset-Tokens: 30.951s", 30951 * time.Millisecond},
	{"OpenAI, requests", "XRL-Remaining-Requests: 0; XRL-Reset-Requests: 6m0s", 6 * time.Minute},
	{"Azure OpenAI", "XRL-Remaining-Tokens: -1; XRL-Reset-Tokens: 0", 0},
	{"Anthropic", "A-RL-Tokens-Remaining: 0; A-RL-Tokens-Reset: 2026-11-26T12:00:21Z; " +
		"A-RL-Requests-Remaining: 7; A-RL-Requests-Reset: 2026-11-26T12:00:50Z", 21 * time.Second},
	{"Linear", "XRL-Requests-Remaining: 0; XRL-Requests-Reset: 1795694442000", 42 * time.Second},
	{"Jira, without seconds", "XRL-Remaining: 0; XRL-Reset: 2026-11-26T12:05Z", 5 * time.Minute},
	{"Jira, both", "RA: 12; XRL-Reset: 2026-11-26T12:05Z", 12 * time.Second},
	{"lemlist, a Date of JavaScript's", "XRL-Remaining: 0; " +
		"XRL-Reset: Thu Nov 26 2026 13:00:42 GMT+0100 (Central European Standard Time)",
		42 * time.Second},
	{"CrowdStrike", "XRL-Remaining: 0; XRL-Retryafter: 1795694430", 30 * time.Second},
	{"Qualys", "XRL-Remaining: 0; XRL-ToWait-Sec: 33", 33 * time.Second},
	{"Sentry", "X-Sentry-Rate-Limit-Remaining: 0; X-Sentry-Rate-Limit-Reset: 1795694404",
		4 * time.Second},
	{"IETF draft, spent", `RateLimit: "default";r=0;t=30`, 30 * time.Second},
	{"IETF draft, some left", `RateLimit: "default";r=50;t=30`, 0},
	{"IETF draft, two policies", `RateLimit: "burst";r=3;t=5, "daily";r=0;t=7200`, 2 * time.Hour},
	{"IETF draft, a name like a parameter", `RateLimit: "a;r=0;t=99";r=5;t=7`, 0},
	{"Honeycomb, draft 07", "RateLimit: limit=100, remaining=0, reset=54", 54 * time.Second},
	{"IETF draft 5, Retry-After first", `RA: 5; RateLimit: "default";r=0;t=30`, 5 * time.Second},
	{"traefik/oxy", "X-Retry-In: 30s", 30 * time.Second},
	{"Mastodon", "XRL-Remaining: 0; XRL-Reset: 2026-11-26T12:00:30.123456Z",
		30123456 * time.Microsecond},
	{"Bluesky", "RateLimit-Limit: 3000; RateLimit-Remaining: 0; RateLimit-Reset: 1795694430; " +
		"RateLimit-Policy: 3000;w=300", 30 * time.Second},
	{"Groq", "XRL-Remaining-Requests: 14370; XRL-Reset-Requests: 2m59.56s; " +
		"XRL-Remaining-Tokens: 0; XRL-Reset-Tokens: 7.66s", 7660 * time.Millisecond},
	{"Envoy", `XRL-Limit: 10, 10;w=1;name="foo", 1000;w=3600; XRL-Remaining: 0; XRL-Reset: 12`,
		12 * time.Second},
	{"Fastly", "Fastly-RateLimit-Remaining: 0; Fastly-RateLimit-Reset: 1795694430",
		30 * time.Second},
	{"Contentful", "X-Contentful-RateLimit-Reset: 4; X-Contentful-RateLimit-Second-Remaining: 0",
		4 * time.Second},
	{"BigCommerce", "X-Rate-Limit-Time-Reset-Ms: 15000; X-Rate-Limit-Requests-Left: 0",
		15 * time.Second},
	{"Bybit", "X-Bapi-Limit-Status: 0; X-Bapi-Limit-Reset-Timestamp: 1795694430000",
		30 * time.Second},
	{"Bucket4j", "X-Rate-Limit-Remaining: 0; X-Rate-Limit-RA-Seconds: 9", 9 * time.Second},
	{"tower_governor, actix-governor #54", "XRL-After: 7", 7 * time.Second},
	{"milliseconds under a limiter's name", "XRL-RA-Ms: 4500", 4500 * time.Millisecond},
	{"the same in one word", "XRL-Remaining: 0; XRL-RetryAfter-Ms: 4500; XRL-ResetIn-Ms: 9000",
		4500 * time.Millisecond},
	{"a reset that is called resetin", "XRL-Remaining: 0; XRL-ResetIn: 17.25",
		17250 * time.Millisecond},
	{"the same with some left", "XRL-Remaining: 87; XRL-ResetIn: 3599", 0},
	{"Snipe-IT, spent", "XRL-Remaining: 0; XRL-Reset: 30; XRL-Reset-Timestamp: 1795694430",
		30 * time.Second},
	{"Snipe-IT, some left", "XRL-Remaining: 118; XRL-Reset-Timestamp: 1795695000", 0},
	{"a spent window beside one that tells nothing",
		"XRL-Remaining: 0; XRL-Reset: 30; X-Daily-RateLimit-Reset: 43200", 30 * time.Second},
	{"IETF draft, a partition key", `RateLimit: "peruser";r=0;t=30;pk=:cHsdsRa894==:`,
		30 * time.Second},
	{"a time as Go prints it", "RA: 2026-11-26 12:00:30.5 +0000 UTC m=+41.263",
		30500 * time.Millisecond},
}

// told are what bodies say where no field does.
var told = []form{
	{"Discord's body", "", 34570 * time.Millisecond,
		`{"message":"You are being rate limited.","retry_after":34.57,"global":false}`},
	{"Matrix", "", 2500 * time.Millisecond,
		`{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests","retry_after_ms":2500}`},
	{"Telegram", "", 5 * time.Second,
		`{"ok":false,"error_code":429,"parameters":{"retry_after":5}}`},
	{"Google", "", 34070 * time.Millisecond, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED",` +
		`"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.07s"}]}}`},
	{"Kubernetes' evictions", "", 10 * time.Second,
		`{"kind":"Status","reason":"TooManyRequests","details":{"retryAfterSeconds":10},"code":429}`},
	{"a GraphQL error's extensions", "", 7 * time.Second,
		`{"errors":[{"message":"slow down","extensions":{"code":"RATE_LIMITED","retryAfter":7}}]}`},
	{"GitHub's GraphQL, some left", "", 0,
		`{"data":{"rateLimit":{"remaining":4000,"resetAt":"2026-11-26T12:30:00Z"}}}`},
	{"a body that breaks off", "", 6 * time.Second, `{"retry_after":6,"message":"You are being ra`},
}

var abbreviations = strings.NewReplacer(
	"RA", "Retry-After", "XRL", "X-RateLimit", "A-RL", "Anthropic-Ratelimit", "RateLimit", "RateLimit")

func waits() []field {
	var all []form
	for _, f := range forms {
		all = append(all, form{f.who, f.fields, f.wait, ""})
	}
	var list []field
	for _, f := range append(all, told...) {
		var pairs []string
		// A value may have a semicolon of its own, a name follows only where it is a name.
		for part := range strings.SplitSeq(f.fields, "; ") {
			name, value, found := strings.Cut(part, ":")
			if !found {
				break
			}
			pairs = append(pairs, abbreviations.Replace(name), strings.TrimSpace(value))
		}
		rule := "it names " + f.wait.String() + ": no retry before that"
		switch f.wait {
		case 0:
			rule = "it names no wait: retried after one's own back-off, of 100 ms at least"
		case absurd:
			rule = "nobody can mean it: one's own back-off, of 100 ms at least, or the answer at once"
		}
		list = append(list, field{
			name: "429, " + f.who, source: cmp.Or(f.fields, f.text), rule: rule,
			check: func(t *trial) error { return f.kept(t, fields(pairs...)) },
		})
	}
	return list
}

// kept wants a retry at the time that was named, or, if that is more than a minute off, the answer
// at once or the retry then.
func (f form) kept(t *trial, header map[string][]string) error {
	h := fields("Date", now.Format("Mon, 02 Jan 2006 15:04:05 GMT"))
	for name, values := range header {
		h[name] = values
	}
	text := cmp.Or(f.text, busy)
	s := serve(answer{status: 429, text: text, header: h}, ok)
	r := t.do(s, call{})
	gaps := s.gaps()
	switch {
	case len(gaps) > 1:
		return fmt.Errorf("sent %d times", len(gaps)+1)
	case len(gaps) == 0 && (f.wait > time.Minute || f.wait == absurd):
		if r.took > 3*time.Second {
			return fmt.Errorf("not retried, after %v", r.took)
		}
		return r.answered(429, text)
	case len(gaps) == 0:
		return fmt.Errorf("not retried: status %d, error %v, after %v", r.status, r.err, r.took)
	}
	gap := gaps[0]
	switch {
	case f.wait <= 0 && (gap < 100*time.Millisecond || gap > time.Minute):
		return fmt.Errorf("retried after %v", gap)
	case f.wait > 0 && gap < f.wait:
		return fmt.Errorf("retried after %v, early", gap)
	case f.wait > 0 && gap > f.wait+f.wait/5+3*time.Second:
		return fmt.Errorf("retried after %v, late", gap)
	}
	return r.answered(200, fine)
}
