// Package defender is a steadyhttp.Transport made ready for Microsoft Defender for Endpoint and its relatives: it knows
// their error codes, their quotas, where a 429 tells its wait, and which requests may be retried when nobody knows whether
// they were carried out.
//
//	transport, err := defender.New(defender.Config{Token: token})
//	if err != nil {
//		return err
//	}
//	client := &http.Client{Transport: transport}
//
// # Quotas
//
// Each call to Defender's hosts waits until the documented quota of its method has room (see Endpoints), so that a 429 is
// the exception: other programs with the same application share its quotas without knowing of each other. A call whose
// context would end before its turn is refused at once, with the wait that it would need. Calls to other hosts, and
// downloads by SAS URL, pass freely. A Transport counts for one tenant and one application; Config.NewGate lets several
// share.
//
// # Tokens
//
// All calls share one token. It is fetched when it is first needed, again before it expires, and once more when the service
// refuses it, but not for a tenant without a licence. It goes to Defender's hosts only, so that neither a redirect nor an
// @odata.nextLink takes it elsewhere, and not along with a SAS URL. MDE, XDR and Graph take tokens for different scopes: use
// a Transport for each.
//
// # What is never done twice
//
// Isolating a machine, running a scan or a live response, offboarding, quarantining, and appending a comment are not
// retried unless the service refused them (429, 401) or they provably never left. A lost answer to one of them comes
// back as an error that says "not idempotent": ask GET /api/machineactions what became of it before ordering it again.
//
// # What is tried again
//
// Reads, hunting queries, indicators (which are updated by value) and tags (which are a set). A DELETE whose first
// answer was lost may find nothing left: a 404 after more than one attempt (steadyhttp.AttemptOf) is then a success.
package defender

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Config is what New makes a Transport of. The zero value is good.
type Config struct {
	// Base makes each attempt. nil: a copy of http.DefaultTransport that keeps up to 32 idle connections to a host, and
	// pings silent HTTP/2 connections, so that a dead one is noticed in 30 s.
	Base http.RoundTripper

	// Policy says how often, how long and what to retry. In fields left zero, Defender's values are put; negative
	// numbers switch them off:
	//
	//	MaxThrottled    -1          a refused call has not failed: any number of retries
	//	AttemptTimeout  4 minutes   a hunting query runs for up to 200 s
	//	IdleTimeout     1 minute
	//	MaxRead         32 MiB      a page that breaks off is fetched again; longer ones stream
	//	Idempotent      Idempotent
	//
	// Jobs use steadyhttp.Batch(), which waits out an hourly quota; an interactive call gets its 429 back if the
	// service asks for more than a minute.
	Policy steadyhttp.Policy

	// Cloud says where Defender is. "": Commercial.
	Cloud Cloud

	// Hosts are those that quotas and the token are for, as they are dialled: "proxy.example" at
	// its scheme's own port, "proxy.example:8443" at that port alone. A name with other letters
	// than ASCII's is given as "xn--…"; to a URL that has such letters no token goes. Give Graph's,
	// a proxy's or a test server's here. nil: those of Cloud.
	Hosts []string

	// Token fetches the token. It is set on requests to Hosts that are encrypted, or go to a loopback address, and have no
	// Authorization field yet. nil: no token is set.
	Token TokenFunc

	// Tenant and App tell the quotas of several Transports apart where these share them through NewGate. "" is one too.
	Tenant, App string

	// Quotas replaces the limits of whole families, those of Endpoints or "other", which is for all paths that the table
	// does not have. No window at all lifts the limit; a 429 then still holds the whole family up. nil: as documented.
	Quotas map[string][]quota.Window

	// NoQuotas lifts all limits, as for a Transport whose Gates have their own. false: they hold.
	NoQuotas bool

	// Reserve is the share of every window that is kept for calls of high priority (quota.WithPriority), from 0 up to but
	// not 1. 0: none.
	Reserve float64

	// NewGate makes the gate of one quota at its first use: a gate that several processes share, or
	// one that is kept over a restart. q is ready with the family's windows and Reserve, and is the
	// function's own: it may set other fields (MaxQueue), restore a snapshot, and return q itself or
	// a gate of its own; nil lets everything pass. The key names the family and the tenant, and the
	// application where each has a quota of its own. NewGate may be called for several keys at once.
	// nil: q is the gate.
	NewGate func(key string, q *quota.Quota) steadyhttp.Gate

	// Prepare, Gates and Trace are the Transport's. Prepare comes after the token has been set, Gates come before the
	// quotas.
	Prepare func(req *http.Request, prev *steadyhttp.Attempt) error
	Gates   []steadyhttp.Gate
	Trace   *steadyhttp.Trace
}

const (
	attemptTimeout = 4 * time.Minute
	idleTimeout    = time.Minute
	maxRead        = 32 << 20
)

// New returns a Transport for Defender. Its fields may still be changed before its first use. The
// error is for a Config that makes no sense, and names the field and the fix.
func New(c Config) (*steadyhttp.Transport, error) {
	known, err := c.hosts()
	if err != nil {
		return nil, err
	}
	gate, err := c.quotas(known)
	if err != nil {
		return nil, err
	}
	p := c.Policy
	p.MaxThrottled = cmp.Or(p.MaxThrottled, -1)
	p.AttemptTimeout = cmp.Or(p.AttemptTimeout, attemptTimeout)
	p.IdleTimeout = cmp.Or(p.IdleTimeout, idleTimeout)
	p.MaxRead = cmp.Or(p.MaxRead, maxRead)
	if p.Idempotent == nil {
		p.Idempotent = Idempotent
	}
	base := c.Base
	if base == nil {
		base = newBase()
	}
	t := &steadyhttp.Transport{
		Base: base, Policy: p, Classify: Rules().Classify,
		Prepare: c.Prepare, Gates: slices.Clone(c.Gates), Trace: c.Trace,
	}
	if gate != nil {
		t.Gates = append(t.Gates, gate)
	}
	if c.Token != nil {
		tokens := &tokens{get: c.Token, hosts: known}
		t.Prepare = tokens.prepare(c.Prepare)
		if c.Prepare == nil {
			t.Classify = tokens.final(t.Classify)
		}
	}
	return t, nil
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
	// Without pings, one black-holed connection serves all retries until TCP gives up (golang/go#36026).
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}
	return base
}
