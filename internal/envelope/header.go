package envelope

import (
	"net/http"
	"net/textproto"
)

// headerID returns the ID that the fields have.
func (a *Answer) headerID() string {
	if a.IDHeaders != nil {
		for _, name := range a.IDHeaders {
			if id := a.idOf(a.Header[http.CanonicalHeaderKey(name)]); id != "" {
				return id
			}
		}
		return ""
	}
	var best string
	least := 1 << 10
	for name, values := range a.Header {
		if r := rank(name); r > 0 && r < least {
			if id := a.idOf(values); id != "" {
				best, least = id, r
			}
		}
	}
	return best
}

func (a *Answer) idOf(values []string) string {
	for _, value := range values {
		if value = textproto.TrimString(value); usable(value) && !echoes(a.Sent, value) {
			return value
		}
	}
	return ""
}

// rank orders the fields that have a service's own ID of an answer: what tells of the service
// before what tells of a gateway, and what an edge says last. Echoes of the client's own
// (client-request-id, x-correlation-id) and trace contexts (traceparent, x-amzn-trace-id) are not
// among them: they are the same for every attempt.
func rank(name string) int {
	switch name {
	case "X-Ms-Request-Id":
		return 1
	case "Request-Id":
		return 2
	case "X-Amzn-Requestid":
		return 3
	case "X-Amz-Request-Id":
		return 4
	case "X-Github-Request-Id":
		return 5
	case "X-Okta-Request-Id":
		return 6
	case "X-Slack-Req-Id":
		return 7
	case "Apim-Request-Id":
		return 8
	case "X-Ms-Activity-Id":
		return 9
	case "X-Cs-Traceid":
		return 10
	case "X-Goog-Request-Id":
		return 11
	case "X-Guploader-Uploadid":
		return 12
	case "X-Auth0-Requestid":
		return 13
	case "Twilio-Request-Id":
		return 14
	case "X-Hubspot-Correlation-Id":
		return 15
	case "Atl-Traceid":
		return 16
	case "X-Transaction-Id":
		return 17
	case "Audit-Id":
		return 18
	case "X-Request-Id":
		return 19
	case "Cf-Ray":
		return 20
	case "X-Amz-Cf-Id":
		return 21
	case "X-Served-By":
		return 22
	}
	return 0
}
