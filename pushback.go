package steadyhttp

import (
	"net/http"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/retryafter"
)

// pushback returns how long the server asked us to wait, 0 if it did not.
//
// It looks at answers of the classes Transient and Throttled only: Retry-After also comes with a
// 202 or a redirect, where retrying the request would do it twice (RFC 9110 section 10.2.3).
func pushback(resp *http.Response, class Class) time.Duration {
	if class != Transient && class != Throttled || len(resp.Header) == 0 {
		return 0
	}
	wait, _ := retryafter.Read(resp.Header, time.Now())
	return wait
}

// maxPushback is the longest wait that a server can ask for. What asks for more names no time.
const maxPushback = retryafter.Max
