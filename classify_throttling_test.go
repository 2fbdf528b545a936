package steadyhttp_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Throttling that is no 429. A 403 or 418 that nobody names is Throttled by a valid wait or a window with nothing left,
// a 413 by a valid wait; any other 4xx is final whatever fields it has, and so is what the rules name.
func TestThrottlingThatIsNo429(t *testing.T) {
	unix := func(after time.Duration) string { return fmt.Sprint(time.Now().Add(after).Unix()) }
	date := func(after time.Duration) string { return time.Now().Add(after).UTC().Format(http.TimeFormat) }
	const (
		nothing = iota
		field   // a time to wait
		spent   // a window has nothing left
	)
	for _, tt := range []struct {
		name   string
		fields func() []string
		says   int
		wait   time.Duration
	}{
		{"no field", func() []string { return nil }, nothing, 0},
		{"Retry-After", func() []string { return []string{"Retry-After: 40"} }, field, 40 * time.Second},
		{"Retry-After, a date", func() []string { return []string{"Retry-After: " + date(time.Minute)} }, field, time.Minute},
		{"Retry-After, of a fraction", func() []string { return []string{"Retry-After: 2.5"} }, field, 2500 * time.Millisecond},
		{"Retry-After-Ms", func() []string { return []string{"Retry-After-Ms: 1500"} }, field, 1500 * time.Millisecond},
		{"Retry-After of 0", func() []string { return []string{"Retry-After: 0"} }, nothing, 0},
		{"Retry-After, negative", func() []string { return []string{"Retry-After: -1"} }, nothing, 0},
		{"Retry-After, a past date", func() []string { return []string{"Retry-After: " + date(-time.Hour)} }, nothing, 0},
		{"Retry-After, a past Unix time", func() []string { return []string{"Retry-After: " + unix(-time.Hour)} }, nothing, 0},
		{"Retry-After, absurd", func() []string { return []string{"Retry-After: 99999999999"} }, nothing, 0},
		{"Retry-After, words", func() []string { return []string{"Retry-After: soon"} }, nothing, 0},
		{"Retry-After, empty", func() []string { return []string{"Retry-After: "} }, nothing, 0},
		{"Retry-After absurd, a window spent", func() []string {
			return []string{"Retry-After: 1e30", "X-Ratelimit-Remaining: 0", "X-Ratelimit-Reset: 30"}
		}, spent, 30 * time.Second},
		{"GitHub's primary limit", func() []string {
			return []string{"X-Ratelimit-Limit: 60", "X-Ratelimit-Remaining: 0", "X-Ratelimit-Used: 60", "X-Ratelimit-Reset: " + unix(50*time.Second)}
		}, spent, 50 * time.Second},
		{"GitHub's secondary limit", func() []string {
			return []string{"Retry-After: 60", "X-Ratelimit-Remaining: 4985", "X-Ratelimit-Reset: " + unix(time.Hour)}
		}, field, time.Minute},
		{"GitHub's plain no", func() []string {
			return []string{"X-Ratelimit-Limit: 5000", "X-Ratelimit-Remaining: 4999", "X-Ratelimit-Reset: " + unix(time.Hour)}
		}, nothing, 0},
		{"a window spent, but past", func() []string {
			return []string{"X-Ratelimit-Remaining: 0", "X-Ratelimit-Reset: " + unix(-time.Minute)}
		}, nothing, 0},
		{"a window spent, until nobody knows when", func() []string { return []string{"X-Ratelimit-Remaining: 0"} }, nothing, 0},
		{"a window's end alone", func() []string { return []string{"X-Ratelimit-Reset: 30"} }, nothing, 0},
		{"Okta", func() []string {
			return []string{"X-Rate-Limit-Limit: 600", "X-Rate-Limit-Remaining: 0", "X-Rate-Limit-Reset: " + unix(40*time.Second)}
		}, spent, 40 * time.Second},
		{"RateLimit, spent", func() []string { return []string{`Ratelimit: "default";r=0;t=20`} }, spent, 20 * time.Second},
		{"RateLimit, one left", func() []string { return []string{`Ratelimit: "default";r=1;t=20`} }, nothing, 0},
		{"RateLimit, one of two spent", func() []string { return []string{`Ratelimit: "burst";r=5;t=1, "hour";r=0;t=50`} }, spent, 50 * time.Second},
		{"several windows, none spent", func() []string {
			return []string{
				"X-Ratelimit-Minute-Remaining: 3", "X-Ratelimit-Minute-Reset: 30", "X-Ratelimit-Day-Remaining: 9", "X-Ratelimit-Day-Reset: 60",
			}
		}, nothing, 0},
		{"several windows, the day's spent", func() []string {
			return []string{
				"X-Ratelimit-Minute-Remaining: 3", "X-Ratelimit-Minute-Reset: 30", "X-Ratelimit-Day-Remaining: 0", "X-Ratelimit-Day-Reset: 55",
			}
		}, spent, 55 * time.Second},
		{"Binance", func() []string {
			return []string{"Retry-After: 58", "X-Mbx-Used-Weight-1m: 6001"}
		}, field, 58 * time.Second},
	} {
		for _, status := range []int{400, 401, 403, 404, 409, 413, 418} {
			for naming, class := range map[string]steadyhttp.Class{
				"nobody": steadyhttp.Unclassified, "ByCode Permanent": steadyhttp.Permanent, "ByStatus Permanent": steadyhttp.Permanent,
				"ByCode Throttled": steadyhttp.Throttled, "ByStatus Transient": steadyhttp.Transient, "ByCode of another": steadyhttp.Unclassified,
			} {
				t.Run(fmt.Sprint(tt.name, ", ", status, ", ", naming), inBubble(func(t *testing.T) {
					time.Sleep(9862 * 24 * time.Hour) // a bubble begins in 2000, whose Unix times have too few digits
					var rules steadyhttp.Rules
					switch by, _, _ := strings.Cut(naming, " "); {
					case naming == "ByCode of another":
						rules.ByCode = map[string]steadyhttp.Class{"Other": steadyhttp.Throttled}
					case by == "ByCode":
						rules.ByCode = map[string]steadyhttp.Class{"Busy": class}
					case by == "ByStatus":
						rules.ByStatus = map[int]steadyhttp.Class{status: class}
					}
					want, wait := class, time.Duration(0)
					switch {
					case class == steadyhttp.Throttled, class == steadyhttp.Transient:
						wait = tt.wait
						if tt.name == "a window's end alone" {
							wait = 30 * time.Second // who is known to throttle means it
						}
					case class == steadyhttp.Permanent:
					case tt.says == field && (status == 403 || status == 418 || status == 413), tt.says == spent && (status == 403 || status == 418):
						want, wait = steadyhttp.Throttled, tt.wait
					case status == 401:
						want = steadyhttp.Unauthorized
					default:
						want = steadyhttp.Permanent
					}
					answer := answers(status, envelope("Busy", "m", "id"), tt.fields()...)
					resp, _ := answer(newRequest(t, "POST", ""))
					resp.Request = newRequest(t, "POST", "")
					v := rules.Classify(steadyhttp.Attempt{Request: resp.Request, Response: resp, Body: []byte(envelope("Busy", "m", "id"))})
					if v.Class != want || v.RetryAfter != wait || v.Code != "Busy" || v.TrackingID != "id" {
						t.Errorf("%+v, want %v after %v", v, want, wait)
					}

					base := newScript(answer, answers(200, ""))
					transport := &steadyhttp.Transport{Base: base, Classify: rules.Classify}
					if naming == "nobody" {
						transport.Classify = nil
					}
					passed := stopwatch()
					got, _ := do(t, transport, newRequest(t, "POST", "content"))
					retried := want == steadyhttp.Throttled // a POST is retried after nothing else
					if (got.StatusCode == 200) != retried || passed() < wait && retried || passed() > wait+2*time.Second || !retried && passed() != 0 {
						t.Errorf("%d after %v and %d sends, want %v after %v", got.StatusCode, passed(), base.sent(), want, wait)
					}
				}))
			}
		}
	}
}
