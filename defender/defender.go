// Package defender makes a steadyhttp.Transport ready for Microsoft Defender for Endpoint and its
// relatives. It knows their error codes and their quotas, where a 429 names its wait, and which
// requests may be retried when nobody knows whether they were carried out.
//
//	transport, err := defender.New(defender.Config{Token: token})
//	if err != nil {
//		return err
//	}
//	client := &http.Client{Transport: transport}
//
// # Quotas
//
// Each call to Defender's hosts waits until the documented quota of its method has room (see
// Endpoints). A 429 is then the exception: it comes where other programs use the same application.
// A call whose context would end before its turn is refused at once, with the wait that it would
// need. Calls to other hosts, and downloads by SAS URL, wait for nothing. A Transport counts for
// one tenant and one application; with Config.NewGate several can share their quotas.
//
// # Jobs and deadlines
//
// Jobs take steadyhttp.Batch() as Config.Policy: it waits for up to 75 minutes at a time, which an
// hourly quota may need, and goes on against 429s for up to 6 hours. http.Client.Timeout and a
// context with a deadline end that patience: whatever would have to wait beyond them is refused at
// once, however many calls that are. Give a job neither, or a deadline of hours; a single attempt
// that hangs is bounded by Policy.AttemptTimeout and IdleTimeout all the same.
//
// A hunting query that is refused without a time waits for 15 minutes, the cycle by which a tenant's
// processor time is counted. Other policies than Batch, whose MaxWait is shorter, return the 429 at
// once.
//
// # Tokens
//
// All calls share one token. It is fetched when it is first needed, again before it expires, and
// once more when the service refuses it, unless what the tenant lacks is a licence. While one is
// valid, nobody waits for the next. It goes to Defender's hosts only: no redirect and no
// @odata.nextLink takes it elsewhere, and it is never sent with a SAS URL. MDE, XDR and Graph take
// tokens for different scopes: use a Transport for each (Config.API).
//
// Nor does a redirect take it to another of Defender's own hosts, where a direct call would have
// it: what a Location names is the other end's choice, and a request that somebody else aims is not
// ours to sign. No such redirect is documented; who meets one calls the host that it names (Cloud,
// Config.Hosts).
//
// # What is not idempotent
//
// Isolating a machine, running a scan or a live response, offboarding, quarantining, and adding a
// comment are retried only if the service refused them (429, 401), or if they were provably never
// sent; so are Graph's mergeIncidents, moveAlerts, invokeAction and remediate. If the answer to one
// of them is lost, the call ends with an error that says "not idempotent": ask GET
// /api/machineactions what became of it before you order it again.
//
// # What is retried
//
// Reads, hunting queries, indicators (which are updated by value) and tags (which are a set). A
// DELETE whose first answer was lost may find nothing left: a 404 after more than one attempt
// (steadyhttp.AttemptOf) is then a success. A hunting query whose 504 comes again is not sent a
// third time: it is the query.
//
// # Graph
//
// With Config{API: Graph} the Transport is for Microsoft Graph's /security, and for what a program
// calls beside it: its hosts in each cloud, its codes, its limits with all their keys. Paths that
// are not in the table have no limit that is known: a 429 to one pauses those like it. What a
// Transport can't do for its caller:
//
//   - A 206 lacks what a provider did not deliver, as its Warning says. It is a success: the
//     warning is the Message of AttemptOf(resp)'s Verdict, and on the span.
//   - The directory's pages (users, groups, devices): after an answer that took more than one
//     attempt (AttemptOf(resp), N over 1), go on from the last page that took one, and not with its
//     nextLink (paging-error-handling).
//   - alerts_v2 has no @odata.nextLink, and skips 500 at most: keep $skip at 0, order by
//     lastUpdateDateTime, filter by ge the last value, and drop what has been seen.
//   - The Location of remediate's 202 is a page of the portal: it gets no token, do not poll it.
//   - A $batch is one call to the quotas, and up to 20 to the service. It is a POST whose items are
//     not looked at: if its answer is lost, it is not retried. Its 429s are in its items.
//
// The page docs/defender.md has all hosts and scopes, and leads to all limits and methods, with the
// pages that say so.
package defender

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Config is what New makes a Transport of. The zero value is good.
type Config struct {
	// Base makes each attempt. nil: a copy of http.DefaultTransport that keeps up to 32 idle
	// connections to a host, and pings silent HTTP/2 connections, so that it notices a dead one
	// within 30 s.
	Base http.RoundTripper

	// Policy says how often, how long and what to retry. Fields left zero get Defender's values;
	// negative numbers switch these off:
	//
	//	MaxThrottled    -1          a refused call has not failed: any number of retries
	//	AttemptTimeout  4 minutes   a hunting query runs for up to 200 s
	//	IdleTimeout     1 minute
	//	MaxRead         52 MiB      a page that breaks off is fetched again; longer ones stream
	//	Idempotent      Idempotent
	//
	// Give jobs steadyhttp.Batch(), which waits until an hourly quota has room again, and neither a
	// http.Client.Timeout nor a context with a deadline: what would wait beyond that is refused at
	// once. With the zero Policy, a call gets its 429 back if the service asks for more than a minute.
	Policy steadyhttp.Policy

	// API says which API the Transport is for: MDE, XDR or Graph. It decides on the Hosts and on what
	// is done with paths that are not in the table. The token must be for the API's scope
	// (Cloud.MDE, XDR, Graph). "": MDE and XDR, which share their hosts in most clouds.
	API Service

	// Cloud says where Defender is. "": Commercial.
	Cloud Cloud

	// Hosts are the hosts that the quotas and the token are for, spelled as they are dialled:
	// "proxy.example" means its scheme's usual port, "proxy.example:8443" that port alone. Write a
	// name that is not ASCII as "xn--…"; a URL that is not ASCII gets no token. A proxy or a test
	// server goes here. If the first request of a Transport with a Token leads elsewhere, Log is told
	// so. nil: the hosts of Cloud and API.
	Hosts []string

	// Token fetches the token. Requests to Hosts get it if they have no Authorization field yet,
	// and are encrypted or go to a loopback address. nil: no token is set.
	Token TokenFunc

	// Tenant and App are in the keys of NewGate: Transports of one tenant and one application ask
	// for the same keys. "" is a name like any other.
	Tenant, App string

	// Quotas replaces the limits of whole families: those of Endpoints, their Limits by name, and
	// "other" for the paths below /api that are not in the table. No window at all lifts a family's
	// limit; after a 429 its calls then still wait together. nil: the documented limits.
	Quotas map[string][]quota.Window

	// NoQuotas lifts all limits, for instance where Gates has others. false: the limits hold.
	NoQuotas bool

	// Reserve is the share of every window that is kept for calls of high priority
	// (quota.WithPriority), at least 0 and less than 1. 0: none.
	Reserve float64

	// MaxWait bounds how long a call waits for its quota. What would wait longer is refused at once,
	// with that wait in its *steadyhttp.Error. The 101st call of a minute waits for a minute, and an
	// hour's quota that is used up for up to an hour: Trace.Waiting, and steadyhttp.Log, tell of it as
	// it begins. 0: no bound.
	MaxWait time.Duration

	// NewGate makes the gate of one quota at its first use: a gate that several processes share,
	// or one that is kept over a restart. q is ready with the family's windows, Reserve and MaxWait,
	// and is the function's own: it may set other fields (MaxQueue), restore a snapshot, and return q
	// itself, one that enters it, or a gate of its own, which then has to keep q.Reserve and q.MaxWait
	// too; nil lets everything pass. The key names the family, and the tenant and the application
	// where each has a quota of its own. NewGate may be called for several keys at once. nil: q is the
	// gate.
	NewGate func(key string, q *quota.Quota) steadyhttp.Gate

	// Log is told at Warn, once each, of what is nearly always a mistake: a first request to a host
	// that gets no token, calls of methods that end or have ended. nil: slog.Default().
	Log *slog.Logger

	// Prepare, Gates and Trace are the Transport's. Prepare is called after the token has been set.
	// Gates are entered before the quotas.
	Prepare func(req *http.Request, prev *steadyhttp.Attempt) error
	Gates   []steadyhttp.Gate
	Trace   *steadyhttp.Trace
}

const (
	attemptTimeout = 4 * time.Minute
	idleTimeout    = time.Minute
	maxRead        = 52 << 20 // more than a hunting result, of 50 MB at the most (security-api-overview)
)

// New returns a Transport for Defender. Its fields may still be changed before its first use:
// Prepare and Policy can be replaced, here and in a Clone or by WithPolicy, and the token and what
// is idempotent stay. The error is for a Config that makes no sense, and names the field and the
// fix.
func New(c Config) (*steadyhttp.Transport, error) {
	known, err := c.hosts()
	if err != nil {
		return nil, err
	}
	gates, err := c.quotas(known)
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
	s := &service{
		classify: Rules().Classify, known: known, prepared: c.Prepare != nil, warner: warner{c.Log},
		base: base,
	}
	t := &steadyhttp.Transport{
		Base: base, Policy: p, Classify: s.verdict, Prepare: c.Prepare, Idempotent: Idempotent,
		Gates: append(slices.Clone(c.Gates), gates...), Trace: c.Trace,
	}
	if c.Token != nil {
		s.tokens = &tokens{get: c.Token, hosts: known}
		t.Authorize = s.authorize
	}
	if c.API == Graph {
		t.Gates = append(t.Gates, s)
	}
	return t, nil
}

// newBase is http.DefaultTransport with what a job of many workers and long queries needs. If a
// program has put another RoundTripper in that place, it is used as it is.
func newBase() http.RoundTripper {
	standard, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	base := standard.Clone()
	base.MaxIdleConnsPerHost = 32
	// Without pings, all retries use one dead connection until TCP gives up (golang/go#36026).
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}
	return base
}
