// Package defender is a steadyhttp.Transport made ready for Microsoft Defender for Endpoint and its relatives: it knows
// their error codes, where a 429 tells its wait, and which requests may be repeated when nobody knows whether they were
// carried out.
//
//	client := &http.Client{Transport: defender.New(defender.Config{})}
//
// # What is never done twice
//
// Isolating a machine, running a scan or a live response, offboarding, quarantining, and appending a comment are not
// repeated unless the service refused them (429, 401) or they provably never left. A lost answer to one of them comes
// back as an error that says "not repeatable": ask GET /api/machineactions what became of it before ordering it again.
//
// # What is tried again
//
// Reads, hunting queries, indicators (which are updated by value) and tags (which are a set). A DELETE whose first
// answer was lost may find nothing left: a 404 after more than one attempt (steadyhttp.AttemptOf) is then a success.
package defender

import (
	"net/http"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Config is what New makes a Transport of. The zero value is good.
type Config struct {
	// Base makes each attempt. nil: a copy of http.DefaultTransport that keeps up to 32 idle connections to a host, and
	// pings silent HTTP/2 connections, so that a dead one is noticed in 30 s.
	Base http.RoundTripper

	// Policy says how often, how long and what to repeat. In fields left zero, Defender's values are put; negative
	// numbers switch them off:
	//
	//	MaxThrottled    -1          a refused call has not failed: any number of repeats
	//	AttemptTimeout  4 minutes   a hunting query runs for up to 200 s
	//	IdleTimeout     1 minute
	//	MaxRead         32 MiB      a page that breaks off is fetched again; longer ones stream
	//	Repeatable      Repeatable
	//
	// Jobs use steadyhttp.Batch(), which waits out an hourly quota; an interactive call gets its 429 back if the
	// service asks for more than a minute.
	Policy steadyhttp.Policy

	// Prepare, Gates and Trace are the Transport's.
	Prepare func(req *http.Request, prev *steadyhttp.Attempt) error
	Gates   []steadyhttp.Gate
	Trace   *steadyhttp.Trace
}

const (
	attemptTimeout = 4 * time.Minute
	idleTimeout    = time.Minute
	maxRead        = 32 << 20
)

// New returns a Transport for Defender. Its fields may still be changed before its first use.
func New(c Config) *steadyhttp.Transport {
	p := c.Policy
	p.MaxThrottled = orDefault(p.MaxThrottled, -1)
	p.AttemptTimeout = orDefault(p.AttemptTimeout, attemptTimeout)
	p.IdleTimeout = orDefault(p.IdleTimeout, idleTimeout)
	p.MaxRead = orDefault(p.MaxRead, maxRead)
	if p.Repeatable == nil {
		p.Repeatable = Repeatable
	}
	base := c.Base
	if base == nil {
		base = newBase()
	}
	return &steadyhttp.Transport{
		Base: base, Policy: p, Classify: Rules().Classify,
		Prepare: c.Prepare, Gates: c.Gates, Trace: c.Trace,
	}
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// newBase is http.DefaultTransport but for what a job of many workers and long queries needs. A program that has put
// something of its own in that place gets just that.
func newBase() http.RoundTripper {
	standard, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	base := standard.Clone()
	base.MaxIdleConnsPerHost = 32
	// Without pings, one black-holed connection serves all repeats until TCP gives up (golang/go#36026).
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}
	return base
}
