package defender

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
)

// Idempotent reports whether req is idempotent: whether doing it twice does no harm. It is
// Policy.Idempotent for Defender, and goes by the table of Endpoints: reads, PUT and DELETE,
// hunting queries, indicators and tags are idempotent; what acts on a machine or adds a comment is
// not. An Idempotency-Key changes nothing: Defender does not know the field.
func Idempotent(req *http.Request) bool {
	retry := RetryByMethod
	if e := find(req); e != nil {
		retry = e.Retry
	}
	switch retry {
	case RetryAlways:
		return true
	case RetryNever:
		return false
	case RetryUncommented:
		return !comments(req)
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// comments reports whether req's body has a comment, or may have one: a body that can't be read
// again, or that is not one JSON object, may.
func comments(req *http.Request) bool {
	if req.GetBody == nil {
		return true
	}
	body, err := req.GetBody()
	if err != nil || body == nil {
		return true
	}
	defer body.Close()
	var fields map[string]any
	decoder := json.NewDecoder(io.LimitReader(body, maxLooked))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil || fields == nil {
		return true
	}
	// Of two objects, nobody knows which one the service reads.
	if _, err := decoder.Token(); err != io.EOF {
		return true
	}
	return hasComment(fields)
}

// hasComment looks into inner objects too: a control profile's state has its comment within.
func hasComment(value any) bool {
	switch value := value.(type) {
	case []any:
		return slices.ContainsFunc(value, hasComment)
	case map[string]any:
		for name, inner := range value {
			// Folding too much costs a retry, folding too little may append a comment twice.
			if strings.EqualFold(name, "comment") || strings.EqualFold(name, "comments") || hasComment(inner) {
				return true
			}
		}
	}
	return false
}

// maxLooked is more than an update has. Of a longer body nobody knows the end.
const maxLooked = 1 << 20
