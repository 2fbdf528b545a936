package defendertest

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// A problem is an error that the API answers with its documented envelope. The
// codes are the documented ones, and a client may branch on them. The messages
// are documented as free text that can change; where one was observed in public
// logs it is copied, and else made up in the same manner.
type problem struct {
	status  int
	code    string
	message string
}

// Error is the message alone, since that is the reason an import gives for an
// indicator that failed.
func (p problem) Error() string { return bounded(p.message) }

// maxMessage bounds, in bytes, what an answer says. Most messages quote what the caller wrote,
// which may be the whole of a body.
const maxMessage = 1024

// bounded cuts a message that is too long.
func bounded(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "\ufffd") + "…"
}

// envelope is the documented form of every error body.
type envelope struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Target  string `json:"target"`
	} `json:"error"`
}

// answer wraps the problem in an envelope with a target of its own: the service
// gives each failure a fresh one, for support to find it by.
func (p problem) answer() *answer {
	var e envelope
	e.Error.Code, e.Error.Message, e.Error.Target = p.code, p.Error(), newGUID()
	a := &answer{status: p.status, header: http.Header{}, code: p.code, target: e.Error.Target}
	a.body = encode(e)
	return a
}

// problemOf is what is wrong by a handler's error. What isn't a problem of the caller is one of
// ours.
func problemOf(err error) problem {
	if p, ok := errors.AsType[problem](err); ok {
		return p
	}
	return errInternal()
}

// errInternal has no message, as documented.
func errInternal() problem {
	return problem{http.StatusInternalServerError, "InternalServerError", ""}
}

// errUnauthorized tells a missing and an expired token alike, as documented.
func errUnauthorized() problem {
	return problem{http.StatusUnauthorized, "Unauthorized", "Invalid or expired authorization header"}
}

// errNoLicence was seen on test tenants. It looks like the refusal of a token, and
// is permanent: a new one is refused as well.
func errNoLicence() problem {
	return problem{http.StatusUnauthorized, "Unauthorized", "Unauthorized request - reason of failure: No Tvm license"}
}

// errAudience is for a token of another API. Defender for Endpoint was seen to answer 403
// (MicrosoftDocs/microsoft-365-docs#9246), Defender XDR 401 (windows-itpro-docs#10564), and Graph
// 401. A new token of the same kind doesn't help.
func errAudience(to audience) problem {
	switch to {
	case audienceMDE:
		return problem{http.StatusForbidden, "Forbidden", "The token's audience is another API"}
	case audienceGraph:
		return problem{http.StatusUnauthorized, "InvalidAuthenticationToken",
			"Access token validation failure. Invalid audience."}
	}
	return errUnauthorized()
}

// apiFailure is what a fault is answered with. No body of a 503 is documented; its
// code is that of the status. A 504 has no body at all.
func apiFailure(status int) answer {
	switch status {
	case http.StatusServiceUnavailable:
		return *problem{status, "ServiceUnavailable", ""}.answer()
	case http.StatusGatewayTimeout:
		return answer{status: status}
	}
	return *errInternal().answer()
}

// frontDoor is what stands before the service, and fails without its words: a page for people.
func frontDoor(status int) answer {
	name := http.StatusText(status)
	page := "<!DOCTYPE html>\r\n<html><head><title>" + strconv.Itoa(status) + " " + name +
		"</title></head>\r\n" +
		"<body><center><h1>" + strconv.Itoa(status) + " " + name + "</h1></center><hr></body></html>\r\n"
	return answer{status: status, contentType: "text/html", body: []byte(page)}
}

// errIncorrectBody is for broken JSON, and for keys in the wrong case: the
// documentation names those as its most frequent cause.
func errIncorrectBody() problem {
	return problem{http.StatusBadRequest, "InvalidRequestBody", "Request body is incorrect"}
}

// errMissing is for a parameter that isn't there, or is empty.
func errMissing(parameter string) problem {
	return problem{http.StatusBadRequest, "MissingRequiredParameter", "Required parameter " + parameter + " is missing"}
}

// errInvalid is for a value that isn't one of those allowed. The message names
// them, since this one is for the author of a test.
func errInvalid(format string, arguments ...any) problem {
	return problem{http.StatusBadRequest, "InvalidInput", fmt.Sprintf(format, arguments...)}
}

// errOData is for all that is wrong with $top, $skip, $filter and $skiptoken.
func errOData(format string, arguments ...any) problem {
	return problem{http.StatusBadRequest, "ODataError", fmt.Sprintf(format, arguments...)}
}

// errNotFound has the message of the documented example.
func errNotFound(kind, id string) problem {
	return problem{http.StatusNotFound, "ResourceNotFound", kind + " " + id + " was not found"}
}

// errBatchSize is permanent: such a batch is to be split and not retried.
func errBatchSize(received, allowed int) problem {
	return problem{http.StatusBadRequest, "MaximumBatchSizeExceeded",
		fmt.Sprintf("Maximum batch size exceeded. Received: %d, allowed: %d.", received, allowed)}
}

// An answer is what a call is answered with, and what it did.
type answer struct {
	status int
	header http.Header // beside the type and length of the body; nil: none
	body   []byte      // nil: none

	// contentType is that of the body. "": JSON.
	contentType string

	code    string   // of the envelope, "" if there is none
	target  string   // of the envelope, "" if there is none
	effects []string // the changes that were carried out, as keys of Server.Effects
}

// done answers with an entity, for a request that had these effects.
func done(status int, entity any, effects ...string) answer {
	return answer{status: status, body: encode(entity), effects: effects}
}

// write sends the first n bytes of the body and announces all of them.
func (a answer) write(w http.ResponseWriter, n int) {
	header := w.Header()
	for name, values := range a.header {
		header[name] = values
	}
	if a.body != nil {
		header.Set("Content-Type", cmp.Or(a.contentType, "application/json; charset=utf-8"))
	}
	// Set even where net/http would find it out: a client tells a body that broke
	// off from a whole one by its length alone. A 204 must not have any.
	if a.status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	w.Write(a.body[:n]) // a caller who has gone can't be told
}

// encode panics where it can't encode: all types are our own, so that it would be
// a mistake in this package and not of a caller.
func encode(entity any) []byte {
	data, err := json.Marshal(entity)
	if err != nil {
		panic("defendertest: " + err.Error())
	}
	return data
}

// newGUID returns a random GUID, version 4.
func newGUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// guidOf returns a GUID that is the same each time, for what a failing test should read alike.
func guidOf(what string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", what, n))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x50
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
