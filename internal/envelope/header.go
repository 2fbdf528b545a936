package envelope

import (
	"net/http"
	"net/textproto"
	"strings"
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
	var best, from string
	least := 1 << 10
	for name, values := range a.Header {
		r := rank(name)
		if r == 0 || r > least || r == least && name > from {
			continue
		}
		if id := a.idOf(values); id != "" {
			best, from, least = id, name, r
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
		return 20
	case "Cf-Ray":
		return 21
	case "X-Amz-Cf-Id":
		return 22
	case "X-Served-By":
		return 23
	}
	if isRequestID(name) {
		return 19
	}
	return 0
}

// isRequestID reports whether a field is the request ID of somebody whom rank does not know. The
// words before tell whose it is; of those that are no service's there are but a few.
func isRequestID(name string) bool {
	const words = "request-id"
	end := len(name) - len(words)
	switch {
	case end >= 0 && equalFold(name[end:], words):
	case len(name) >= len("requestid") && equalFold(name[len(name)-len("requestid"):], "requestid"):
		end++
	default:
		return false
	}
	if end > 0 && name[end-1] != '-' {
		return false
	}
	for _, other := range [...]string{"Client", "Correlation", "Routing", "Parent", "Original"} {
		if strings.Contains(name[:end], other) {
			return false
		}
	}
	return true
}

// challenged reads what a 401 says of the token that it refuses, and often says nowhere else: the
// parameters of its challenge (RFC 6750 section 3).
func challenged(lines []string) (code, message string) {
	for _, line := range lines {
		for line != "" && (code == "" || message == "") {
			var name, value string
			name, value, line = cutParameter(line)
			switch {
			case equalFold(name, "error") && code == "" && usable(value):
				code = value
			case equalFold(name, "error_description") && message == "":
				message = value[:min(len(value), mostMessage)]
			}
		}
		if code != "" {
			return code, message
		}
		message = "" // of no error
	}
	return "", ""
}

// cutParameter takes the first parameter off a list of challenges, without its quotes, and without
// the scheme, which stands before the first one (RFC 9110 section 11.6.1).
func cutParameter(line string) (name, value, rest string) {
	at := strings.IndexAny(line, "=,")
	if at < 0 {
		return "", "", ""
	}
	name, rest = textproto.TrimString(line[:at]), line[at+1:]
	if line[at] == ',' {
		return "", "", rest // a scheme without parameters
	}
	name = name[strings.LastIndexByte(name, ' ')+1:]
	if rest = textproto.TrimString(rest); !strings.HasPrefix(rest, `"`) {
		value, rest, _ = strings.Cut(rest, ",")
		return name, textproto.TrimString(value), rest
	}
	rest = rest[1:]
	var b strings.Builder
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] == '"':
			_, rest, _ = strings.Cut(rest[i:], ",")
			return name, b.String(), rest
		case rest[i] == '\\' && i+1 < len(rest):
			i++
		}
		if b.Len() < mostMessage {
			b.WriteByte(rest[i])
		}
	}
	return "", "", "" // it breaks off
}
