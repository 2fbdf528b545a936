package defendertest

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// storageFamily is the storage's name in the ledger. It has no quota: its hosts
// aren't the API's.
const storageFamily = "storage"

// isStorage knows the storage by its host, where both share a listener or have
// none.
func (s *Server) isStorage(r *http.Request) bool {
	_, host, _ := strings.Cut(s.StorageURL, "://")
	return host != "" && strings.EqualFold(r.Host, host)
}

// serveStorage is the handler of the storage's own listener, where the Host says
// nothing.
func (s *Server) serveStorage(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, s.storageErrand(r))
}

// storageOrigin is what the URLs of downloads begin with. A server on all
// addresses doesn't know its own name; the client does.
func (s *Server) storageOrigin(r *http.Request) string {
	if !s.everywhere {
		return s.StorageURL
	}
	storage, err := url.Parse(s.StorageURL)
	if err != nil {
		return s.StorageURL
	}
	caller := url.URL{Host: r.Host}
	return storage.Scheme + "://" + net.JoinHostPort(caller.Hostname(), storage.Port())
}

// storageErrand is a download.
func (s *Server) storageErrand(r *http.Request) errand {
	return errand{
		family:   storageFamily,
		admit:    admitAll,
		carryOut: func(_ http.ResponseWriter, at arrival) answer { return s.download(r, at) },
		failure: func(status int) answer {
			switch status {
			case http.StatusServiceUnavailable:
				return errStorage(status, "ServerBusy", "The server is busy.", "", time.Now())
			case http.StatusGatewayTimeout:
				return answer{status: status}
			}
			return errStorage(status, "InternalError", "The server encountered an internal error. Please retry the request.", "", time.Now())
		},
	}
}

// download answers a file to whoever has its URL. The URL is all the authorization
// there may be: the storage takes an Authorization header for a try to sign in
// another way, and can't read ours.
func (s *Server) download(r *http.Request, at arrival) answer {
	now := at.now
	query := r.URL.Query()
	path, start, expiry := r.URL.EscapedPath(), query.Get("st"), query.Get("se")
	refused := func(detail string) answer {
		return errStorage(http.StatusForbidden, "AuthenticationFailed",
			"Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.",
			detail, now)
	}
	if r.Header.Get("Authorization") != "" {
		return refused("")
	}
	if !at.tenant.links.holds(signed(path, start, expiry), query.Get("sig")) {
		return refused("Signature did not match.")
	}
	// What is signed was written by link, and so can be read.
	from, _ := time.Parse(time.RFC3339Nano, start)
	until, err := time.Parse(time.RFC3339Nano, expiry)
	if err != nil || !now.Before(until) {
		return refused(fmt.Sprintf("Signature not valid in the specified time frame: Start [%s] - Expiry [%s] - Current [%s]",
			httpDate(from), httpDate(until), httpDate(now)))
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errStorage(http.StatusForbidden, "AuthorizationPermissionMismatch",
			"This request is not authorized to perform this operation using this permission.", "", now)
	}
	result, err := at.tenant.serve((*tenant).file, request{path: path})
	if err != nil {
		return errStorage(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.", "", now)
	}
	return result
}

// signed is the text that the signature of a URL is about.
func signed(path, start, expiry string) string { return path + "\n" + start + "\n" + expiry }

// link returns the URL of a file, which is good for a time. Its parameters are
// those of the documented examples. The expiry has fractions of a second, which
// the storage takes, since a scaled half hour may be shorter than one.
func (t *tenant) link(r request, path string, life time.Duration) string {
	now := time.Now().UTC()
	start, expiry := now.Format(time.RFC3339Nano), now.Add(life).Format(time.RFC3339Nano)
	query := url.Values{
		"sv": {"2019-12-12"}, "sr": {"b"}, "sp": {"r"}, "st": {start}, "se": {expiry},
		"sig": {t.links.mark(signed(path, start, expiry))},
	}
	return r.storage + path + "?" + query.Encode()
}

// file makes what a path stands for, when it is asked for: no file is kept.
func (t *tenant) file(r request) (answer, error) {
	folder, name, _ := strings.Cut(strings.TrimPrefix(r.path, "/"), "/")
	switch folder {
	case packageFolder:
		return t.packageFile(name)
	case resultFolder:
		return t.resultFile(name)
	case exportFolder:
		return t.exportFile(name)
	}
	return answer{}, errNotFound("File", r.path)
}

// errStorage is an error of Azure's blob storage, in XML. Its message ends with
// the request's id, as observed.
func errStorage(status int, code, message, detail string, now time.Time) answer {
	id := newGUID()
	type storageError struct {
		XMLName xml.Name `xml:"Error"`
		Code    string   `xml:"Code"`
		Message string   `xml:"Message"`
		Detail  string   `xml:"AuthenticationErrorDetail,omitempty"`
	}
	body, err := xml.Marshal(storageError{
		Code: code, Detail: detail,
		Message: message + "\nRequestId:" + id + "\nTime:" + now.UTC().Format("2006-01-02T15:04:05.0000000Z"),
	})
	if err != nil {
		panic("defendertest: " + err.Error()) // the type is our own
	}
	// Line breaks stand as they are in Azure's bodies, and clients may look for them.
	body = bytes.ReplaceAll(body, []byte("&#xA;"), []byte("\n"))
	return answer{
		status: status, code: code, target: id, contentType: "application/xml",
		header: http.Header{"X-Ms-Error-Code": {code}, "X-Ms-Request-Id": {id}},
		body:   append([]byte(`<?xml version="1.0" encoding="utf-8"?>`), body...),
	}
}
