package steadyhttp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/steadyhttp/steadyhttp/internal/errno"
)

// What ErrorType calls a failure for which there is no status. The list is closed: it ends up on
// metrics.
const (
	typeTimeout    = "timeout"
	typeCancelled  = "cancelled"
	typeRefused    = "refused"
	typePrepare    = "prepare"
	typeBody       = "request body"
	typeDNS        = "dns"
	typeConnect    = "connect"
	typeTLS        = "tls"
	typeConnection = "connection"
	typeOther      = "_OTHER" // OpenTelemetry's word
)

// ErrorType returns the kind of failure for OpenTelemetry's attribute error.type, which otelhttp
// and others ask for by this method. It is one of
//
//	"timeout"       AttemptTimeout, MaxElapsed or a deadline ended it. A wait that was not begun, since it would have been
//	                too long, does not count: then it is the kind of the failure before it
//	"cancelled"     the caller ended the call
//	"refused"       a Gate said no
//	"prepare"       Transport.Prepare failed
//	"request body"  the caller's own body could not be read ahead, or not be had again
//	"dns"           the host's name was not resolved
//	"connect"       there was no connection to be had
//	"tls"           the two ends did not agree on a secure one
//	"connection"    it was lost
//	"_OTHER"        anything else
//
// and for an answer its status, as OpenTelemetry has it: "404". The code says more, but only who
// knows all codes of a service can vouch that there are few.
func (e *Error) ErrorType() string {
	switch {
	case e.isAnswer():
		return typeOfStatus(e.StatusCode)
	case e.Stop == StopRefused:
		return typeRefused
	case e.Stop == StopPrepare:
		return typePrepare
	}
	return typeOfError(e.Err)
}

func typeOfError(err error) string {
	// Ours come first: they say what ended the call, and wrap what it ended. A context.Canceled
	// that is not the caller's is the base transport's own, and anything.
	if ended, ok := errors.AsType[*cancelled](err); ok {
		if ended.ctx == context.DeadlineExceeded {
			return typeTimeout
		}
		return typeCancelled
	}
	switch {
	case is[*prepareError](err):
		return typePrepare
	case is[*bodyError](err):
		return typeBody
	case isTimeout(err):
		return typeTimeout
	case is[*Refusal](err):
		return typeRefused
	case is[*net.DNSError](err):
		return typeDNS
	case distrust(err), is[tls.AlertError](err):
		return typeTLS
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		switch op.Op {
		case "dial", "proxyconnect", "socks connect":
			return typeConnect
		case "remote error", "local error": // an alert of crypto/tls, whose type is not exported
			return typeTLS
		}
		return typeConnection
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errno.Lost(err) {
		return typeConnection
	}
	return typeOther
}

// isTimeout asks for the errors themselves, too: those of net/url and net look no further than what
// they wrap directly.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// typeOfStatus keeps to the registered statuses: a server can answer with any number.
func typeOfStatus(status int) string {
	switch {
	case http.StatusText(status) != "":
		return strconv.Itoa(status)
	case 400 <= status && status <= 599:
		return strconv.Itoa(status/100) + "xx"
	}
	return typeOther
}
