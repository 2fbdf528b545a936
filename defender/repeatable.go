package defender

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// Repeatable reports whether doing req twice does no harm. It is Policy.Repeatable for Defender: reads, PUT and DELETE,
// hunting queries, indicators and tags are repeatable; whatever acts on a machine or appends a comment is not. A request
// with an Idempotency-Key is no exception: Defender does not know the field.
func Repeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	path := segments(req.URL.Path)
	for _, e := range repeatableEndpoints() {
		if e.method == req.Method && matches(e.path, path) {
			return e.unless == nil || !e.unless(req)
		}
	}
	return false
}

// endpoint is one row of the table of requests that are not idempotent by method, and yet may be repeated.
type endpoint struct {
	method string
	path   string                   // below /api or /api/v1.0, or Graph's version; {} is any one segment
	unless func(*http.Request) bool // an exception; nil: none
}

func repeatableEndpoints() []endpoint {
	return []endpoint{
		// Queries change nothing, though they spend the tenant's CPU.
		{http.MethodPost, "advancedqueries/run", nil},
		{http.MethodPost, "advancedhunting/run", nil},
		{http.MethodPost, "security/runHuntingQuery", nil},
		{http.MethodPost, "security/microsoft.graph.security.runHuntingQuery", nil},
		// "Submit or Update": an indicator is known by its value.
		{http.MethodPost, "indicators", nil},
		{http.MethodPost, "indicators/import", nil},
		// Tags are a set.
		{http.MethodPost, "machines/{}/tags", nil},
		{http.MethodPost, "machines/AddOrRemoveTagForMultipleMachines", nil},
		// Fields are set to values, but a comment is appended each time.
		{http.MethodPatch, "alerts/{}", comments},
		{http.MethodPost, "alerts/batchUpdate", comments},
		{http.MethodPatch, "incidents/{}", comments},
		{http.MethodPatch, "security/alerts_v2/{}", nil}, // Graph has comments elsewhere
		{http.MethodPatch, "security/incidents/{}", comments},
	}
}

// segments splits a path below its API's prefix.
func segments(path string) []string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for _, prefix := range []string{"api", "v1.0", "beta"} {
		if len(parts) > 0 && strings.EqualFold(parts[0], prefix) {
			parts = parts[1:]
		}
	}
	return parts
}

func matches(pattern string, path []string) bool {
	want := strings.Split(pattern, "/")
	if len(want) != len(path) {
		return false
	}
	for i, segment := range want {
		if segment != "{}" && !strings.EqualFold(segment, path[i]) || path[i] == "" {
			return false
		}
	}
	return true
}

// comments reports whether req's body has, or may have, a comment in it. What can't be read again, or is not an object,
// may.
func comments(req *http.Request) bool {
	if req.GetBody == nil {
		return true
	}
	body, err := req.GetBody()
	if err != nil {
		return true
	}
	defer body.Close()
	var fields map[string]json.RawMessage
	if json.NewDecoder(io.LimitReader(body, 1<<20)).Decode(&fields) != nil {
		return true
	}
	for name := range fields {
		if strings.EqualFold(name, "comment") || strings.EqualFold(name, "comments") {
			return true
		}
	}
	return false
}
