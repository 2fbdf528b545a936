package defender

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// Repeatable reports whether doing req twice does no harm. It is Policy.Repeatable for Defender, and goes by the table of
// Endpoints: reads, PUT and DELETE, hunting queries, indicators and tags are repeatable; whatever acts on a machine or
// appends a comment is not. A request with an Idempotency-Key is no exception: Defender does not know the field.
func Repeatable(req *http.Request) bool {
	repeat := RepeatByMethod
	if e := find(req); e != nil {
		repeat = e.Repeat
	}
	switch repeat {
	case RepeatAlways:
		return true
	case RepeatNever:
		return false
	case RepeatUncommented:
		return !comments(req)
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
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
