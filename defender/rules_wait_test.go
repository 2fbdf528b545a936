package defender_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
)

// The text of a 429 "can be changed", as the documentation says: its wait is read in other words,
// units and forms as long as they are clear, and nothing is made of what is not.
func TestWaitIsReadInOtherWords(t *testing.T) {
	const tooLong = time.Duration(0)
	for message, want := range map[string]time.Duration{
		"You can send requests again in 8 seconds.":               8 * time.Second,
		"you can send requests AGAIN IN 8 SECONDS":                8 * time.Second,
		"Rate limit is exceeded. Try again in 52 seconds.":        52 * time.Second,
		"Please try again after 52 seconds.":                      52 * time.Second,
		"Retry after 30 seconds.":                                 30 * time.Second,
		"Please retry in 30 seconds.":                             30 * time.Second,
		"You can send requests again in 8 second(s).":             8 * time.Second,
		"You can send requests again in  8  seconds.":             8 * time.Second,
		"You can send requests again in\r\n8\tseconds.":           8 * time.Second,
		"You can send requests again in 8 sec.":                   8 * time.Second,
		"You can send requests again in 8secs":                    8 * time.Second,
		"You can send requests again in 8s.":                      8 * time.Second,
		"You can send requests again in 8.5 seconds.":             8500 * time.Millisecond,
		"You can send requests again in 0.25 seconds.":            250 * time.Millisecond,
		"You can send requests again in 1,200 seconds.":           20 * time.Minute,
		"You can send requests again in 00:00:52.":                52 * time.Second,
		"You can send requests again in 01:02:03.5":               time.Hour + 2*time.Minute + 3*time.Second,
		"45 per 00:01:00; again in 3 seconds, again after 8 s":    8 * time.Second,
		"again in 31622400.0 seconds":                             366 * 24 * time.Hour,
		"again in 31622400.5 seconds":                             tooLong,
		"again in 31,622,401 seconds":                             tooLong,
		"again in 4,294,967,295,000,000,000 seconds":              tooLong,
		"again in 99999:00:00":                                    tooLong,
		"again in 00:60:00":                                       0,
		"again in 00:00:60":                                       0,
		"again in 00:00":                                          0,
		"again in 1:1:1":                                          0,
		"again in 8, seconds":                                     0,
		"again in 8,2 seconds":                                    0,
		"again in 8. seconds":                                     0,
		"again in .5 seconds":                                     0,
		"again in 8 ms":                                           0,
		"again in 8 secondhand cars":                              0,
		"again in 8 sevens":                                       0,
		"again in8 seconds":                                       0,
		"again within 8 seconds":                                  0,
		"Maximum allowed 30 per 00:01:00 for the key Destination": 0,
		"The query ran for 200 seconds":                           0,
	} {
		v := defender.Rules().Classify(attempt(t, 429, envelope("429", message)))
		if v.Class != steadyhttp.Throttled || v.RetryAfter != want {
			t.Errorf("%q: %v %v, want throttled %v", message, v.Class, v.RetryAfter, want)
		}
	}
}

// Wherever an answer has the sentence, and whatever code says that it was throttled.
func TestWaitIsReadWhereverItStands(t *testing.T) {
	const said = "You can send requests again in 12 seconds."
	for _, c := range []struct {
		status int
		body   string
		want   time.Duration
	}{
		{429, envelope("429", said), 12 * time.Second},
		{429, `{"error":{"code":"TooManyRequests","message":"","innerError":{"message":"` + said + `"}}}`, 12 * time.Second},
		{429, `{"error":{"code":"TooManyRequests","message":"x","details":[{"code":"q","message":"` + said + `"}]}}`, 12 * time.Second},
		{429, `{"statusCode":429,"message":"` + said + `"}`, 12 * time.Second},
		{429, `{"error":"` + said + `"}`, 12 * time.Second},
		{429, envelope("429", strings.Repeat("x", 9000)+said), 12 * time.Second},
		{429, said, 12 * time.Second},
		{429, "<html><p>" + said + "</p></html>", 12 * time.Second},
		{429, `{"error":{"code":"429","message":"` + said, 12 * time.Second},
		{503, envelope("throttledRequest", said), 12 * time.Second},
		{503, envelope("activityLimitReached", said), 12 * time.Second},
		{400, envelope("Request_ThrottledTemporarily", said), 12 * time.Second},
		{503, envelope("ServiceUnavailable", said), 0},
		{400, envelope("InvalidInput", said), 0},
		{500, said, 0},
	} {
		if v := defender.Rules().Classify(attempt(t, c.status, c.body)); v.RetryAfter != c.want {
			t.Errorf("%d %.80s: %v %v, want %v", c.status, c.body, v.Class, v.RetryAfter, c.want)
		}
	}
}

// Graph gave Defender's 429 to the senders of indicators as an error of its own. In any other
// method the text may be what a caller sent.
func TestRelayed429IsThrottled(t *testing.T) {
	const text = "Http request failed with statusCode=429 : API calls quota exceeded! " +
		"You can send requests again in 12 seconds."
	for _, c := range []struct {
		path string
		want steadyhttp.Class
		wait time.Duration
	}{
		{"https://graph.microsoft.com/beta/security/tiIndicators", steadyhttp.Throttled, 12 * time.Second},
		{"https://graph.microsoft.com/beta/security/tiIndicators/submitTiIndicators", steadyhttp.Throttled, 12 * time.Second},
		{"https://graph.microsoft.com/v1.0/security/runHuntingQuery", steadyhttp.Permanent, 0},
		{"https://api.security.microsoft.com/api/indicators", steadyhttp.Permanent, 0},
	} {
		for _, status := range []int{400, 403, 404} {
			a := attempt(t, status, envelope("UnknownError", text))
			a.Request, _ = http.NewRequest("POST", c.path, nil)
			if v := defender.Rules().Classify(a); v.Class != c.want || v.RetryAfter != c.wait {
				t.Errorf("%s: %d is %v with a wait of %v", c.path, status, v.Class, v.RetryAfter)
			}
		}
	}
}

// What a tenant lacks no token brings, in whatever case the 401 says so.
func TestRefusalsThatNoTokenHelps(t *testing.T) {
	for _, reason := range []string{
		"Unauthorized request - reason of failure: No Tvm license", "No TVM License",
		"Unauthorized request - reason of failure: Account mode is inactive",
		"Unauthorized request - Account is not provisioned.", "ACCOUNT IS NOT PROVISIONED",
		"Access token validation failure. Invalid audience.",
	} {
		if v := defender.Rules().Classify(attempt(t, 401, envelope("Unauthorized", reason))); v.Class != steadyhttp.Permanent {
			t.Errorf("%q: %v", reason, v.Class)
		}
	}
	for i, reason := range []string{"", "The token has expired", "Unauthorized request - reason of failure: provisioned"} {
		if v := defender.Rules().Classify(attempt(t, 401, envelope("Unauthorized", reason))); v.Class != steadyhttp.Unauthorized {
			t.Error(fmt.Sprint(i), v.Class)
		}
	}
}
