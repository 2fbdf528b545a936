package defender

import (
	"bytes"
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// Endpoint is one row of the table of documented methods: which requests it is for, which quota
// they use, and whether they are idempotent.
type Endpoint struct {
	// Service is the API that has it.
	Service Service

	// Method is the HTTP method. "": any.
	Method string

	// Path is what follows /api or /api/v1.0, or Graph's /v1.0 or /beta. {id} stands for one segment
	// that can be an ID or a name, {rest...} at the end for any number of segments, and a segment
	// that ends in ")" for a function with any arguments. Graph's segments may be spelled with
	// their namespace (microsoft.graph.security.runHuntingQuery).
	Path string

	// Family names the quota. Endpoints of one family share it.
	Family string

	// Windows are the documented limits of the family. All hold at once. nil: none is documented.
	Windows []quota.Window

	// PerTenant says that all applications of a tenant share the quota. false: each has its own.
	PerTenant bool

	// Limits are those beside the family's own: with another key, or shared with other families. All
	// hold at once. nil: there are none.
	Limits []Limit

	// PauseOnly says that a 429 may tell of a limit that is no rate: live response sessions at once, or
	// the processor time of queries. One then only pauses the family.
	PauseOnly bool

	// MaxPage is how many items one page of a list may hold ($top or pageSize). 0: nothing is documented.
	MaxPage int

	// MaxBatch is how many items one call may act on. 0: it acts on one, or nothing is documented.
	MaxBatch int

	// Retry says when a request is idempotent, and may be retried though nobody knows whether the
	// first attempt was carried out. A request that was refused (429), or provably never sent, may
	// always be retried.
	Retry Retry

	// Retired says when the method ended or will, and what takes its place. A Transport's first call
	// of one is told at Warn (Config.Log). "": it is there to stay.
	Retired string

	units  int  // of the directory's resource units; 0: one
	beside bool // of Graph, and neither below /security nor below /identityProtection
}

// Limit is one more limit of an endpoint.
type Limit struct {
	// Name is its key in Config.Quotas and Quotas, and begins the key of Config.NewGate.
	Name string

	// Scope says which calls count together.
	Scope Scope

	// Windows hold all at once. nil: the limit is no rate.
	Windows []quota.Window

	// Concurrent is how many calls may be under way at once. 0: any number.
	Concurrent int

	// Unkept says that a Transport does not keep the limit, since what it counts by can't be seen in
	// a request or its answer: the mail that is assessed, the user who is signed in, the query that
	// still runs. A 429 tells.
	Unkept bool

	units bool                     // counts resource units
	when  func(*http.Request) bool // nil: all requests of the endpoint
}

// Scope says which calls a limit counts together.
type Scope uint8

const (
	PerAppAndTenant Scope = iota // those of one application in one tenant
	PerTenant                    // those of all applications in one tenant
	PerApp                       // those of one application in all its tenants
	PerResource                  // those about one object, or by one user, of a tenant
)

// Retry says when a request is idempotent: doing it twice has the same effect as doing it once.
type Retry uint8

const (
	RetryByMethod    Retry = iota // if its method is idempotent (RFC 9110 section 9.2.2): GET, PUT, DELETE
	RetryAlways                   // always: a second time changes nothing more
	RetryNever                    // never: it acts on a machine, or starts something that does
	RetryUncommented              // only if its body has no comment: each attempt would add one
)

// Endpoints returns the whole table, in the order of the documentation. It is the caller's own.
func Endpoints() []Endpoint {
	var all []Endpoint
	for _, f := range families() {
		all = append(all, f.endpoints...)
	}
	return all
}

// Match finds the row for req by its method and path, whatever its host, but that Graph's paths
// beside /security and /identityProtection are none of Defender's hosts'. Letter case, a slash at
// the end and the API's version make no difference.
func Match(req *http.Request) (Endpoint, bool) {
	found := find(req)
	if found == nil {
		return Endpoint{}, false
	}
	e := *found
	e.Windows, e.Limits = slices.Clone(e.Windows), cloneLimits(e.Limits)
	return e, true
}

// Route returns the template of req's path, such as /api/machines/{id}, and "" for a path that is
// not in the table. There are few templates, so spans may be named by them
// (steadyotel.Config.Route).
func Route(req *http.Request) string {
	e := find(req)
	switch {
	case e == nil:
		return ""
	case e.Service == Graph:
		return "/v1.0/" + e.Path
	}
	return "/api/" + e.Path
}

// cloneLimits copies what a caller could change.
func cloneLimits(limits []Limit) []Limit {
	own := slices.Clone(limits)
	for i := range own {
		own[i].Windows = slices.Clone(own[i].Windows)
	}
	return own
}

// family is the endpoints that share one quota: a row of the documentation's limits.
type family struct {
	name      string
	page      string // that says so
	windows   []quota.Window
	perTenant bool
	pauseOnly bool // there are limits that are no rate
	units     bool // the windows count resource units
	endpoints []Endpoint
}

// families is the whole table, its rows filled in from their families.
func families() []family {
	defender, graph := defenderFamilies(), graphFamilies()
	for _, f := range graph {
		for i := range f.endpoints {
			e := &f.endpoints[i]
			e.Service, e.Limits = Graph, cloneLimits(append([]Limit{graphWide()}, e.Limits...))
			e.beside = !strings.HasPrefix(e.Path, "security/") &&
				!strings.HasPrefix(e.Path, "identityProtection/")
		}
	}
	all := append(defender, graph...)
	for _, f := range all {
		for i := range f.endpoints {
			e := &f.endpoints[i]
			e.Service = cmp.Or(e.Service, MDE)
			e.Family, e.Windows = f.name, slices.Clone(f.windows)
			e.PerTenant, e.PauseOnly = f.perTenant, f.pauseOnly
		}
	}
	return all
}

// per returns the limits for a minute and for an hour; 0 is none.
func per(minute, hour int) []quota.Window {
	var windows []quota.Window
	if minute > 0 {
		windows = append(windows, quota.Window{N: minute, Per: time.Minute})
	}
	if hour > 0 {
		windows = append(windows, quota.Window{N: hour, Per: time.Hour})
	}
	return windows
}

func perMinutes(n, minutes int) []quota.Window {
	return []quota.Window{{N: n, Per: time.Duration(minutes) * time.Minute}}
}

// node is what the segments of a path so far have led to. Walking from node to node costs the same however many rows there
// are; comparing with each would be most of what a call costs.
type node struct {
	fixed     map[string]*node // by the next segment in lower case; that of a function ends behind its "("
	id        *node            // {id}; nil: none
	endpoints []*Endpoint      // of paths that end here
	rest      []*Endpoint      // of paths that go on with {rest...}
}

// root returns the node where paths begin. The tree is built at its first use, and never changed after.
var root = sync.OnceValue(newRoot)

func newRoot() *node {
	var latest, graph node
	for _, e := range Endpoints() {
		under := &latest
		if e.Service == Graph {
			under = &graph
		}
		under.add(e)
	}
	// /api alone is the latest version, /api/v1.0 a fixed one; both have the same methods.
	api := node{fixed: map[string]*node{"v1.0": &latest, "beta": &latest}}
	for segment, next := range latest.fixed {
		api.fixed[segment] = next
	}
	return &node{fixed: map[string]*node{"api": &api, "v1.0": &graph, "beta": &graph}}
}

// add makes the way to an endpoint, as far as there is none yet.
func (n *node) add(e Endpoint) {
	for segment := range strings.SplitSeq(e.Path, "/") {
		switch {
		case segment == "{rest...}":
			n.rest = append(n.rest, &e)
			return
		case strings.HasPrefix(segment, "{"):
			if n.id == nil {
				n.id = &node{}
			}
			n = n.id
		default:
			if n.fixed == nil {
				n.fixed = make(map[string]*node)
			}
			name := strings.ToLower(functionName(segment))
			if n.fixed[name] == nil {
				n.fixed[name] = &node{}
			}
			n = n.fixed[name]
		}
	}
	n.endpoints = append(n.endpoints, &e)
}

// functionName cuts the arguments off a function's segment, and leaves any other as it is, but for
// one that is cut off within its arguments: that is no function's.
func functionName(segment string) string {
	at := strings.IndexByte(segment, '(')
	switch {
	case at < 0:
		return segment
	case strings.HasSuffix(segment, ")"):
		return segment[:at+1]
	}
	return ""
}

// find returns the row that is for req, nil if there is none. It is the tree's own, and must not be changed.
func find(req *http.Request) *Endpoint {
	e := findPath(req)
	if e != nil && e.beside && defenders(req.URL) {
		return nil
	}
	return e
}

// defenders reports whether u is at one of the hosts of MDE and XDR, in any cloud.
func defenders(u *url.URL) bool {
	host := u.Host
	if port := strings.IndexByte(host, ':'); port >= 0 {
		host = host[:port]
	}
	for _, name := range [...]string{
		".security.microsoft.com", ".securitycenter.microsoft.com", ".securitycenter.windows.com",
		".security.microsoft.us", ".securitycenter.microsoft.us",
	} {
		if at := len(host) - len(name); at > 0 && equalFold(host[at:], name) {
			return true
		}
	}
	return false
}

func findPath(req *http.Request) *Endpoint {
	// An opaque URL is sent in place of the path.
	if req.URL == nil || req.URL.Opaque != "" {
		return nil
	}
	path, escaped := req.URL.Path, req.URL.RawPath != ""
	if escaped {
		// Only here may an escaped slash stand within a segment. Path has lost the difference.
		path = req.URL.EscapedPath()
	}
	n := root()
	var rest []*Endpoint // the nearest {rest...} on the way
	for path = strings.Trim(path, "/"); path != ""; {
		segment, behind, _ := strings.Cut(path, "/")
		if len(n.rest) > 0 {
			rest = n.rest
		}
		next := n.next(segment, escaped, behind == "")
		if next == nil {
			if len(rest) == 0 || dotted(path, escaped) {
				return nil
			}
			return choose(rest, req.Method)
		}
		n, path = next, behind
	}
	if e := choose(n.endpoints, req.Method); e != nil {
		return e
	}
	if len(n.rest) > 0 {
		rest = n.rest
	}
	return choose(rest, req.Method)
}

// next takes one segment. A fixed one goes before {id}, with no way back: no machine is called
// findbytag.
func (n *node) next(segment string, escaped, last bool) *node {
	if escaped && strings.Contains(segment, "%") {
		var err error
		if segment, err = url.PathUnescape(segment); err != nil {
			return nil
		}
	}
	if segment == "" || dots(segment) {
		return nil
	}
	if len(n.fixed) > 0 {
		var lower [longestName]byte // a string in lower case would have to be allocated
		if name := functionName(segment); len(name) <= len(lower) {
			for i := range len(name) {
				lower[i] = lowerByte(name[i])
			}
			spelt := lower[:len(name)]
			if next := n.fixed[string(spelt)]; next != nil {
				return next
			}
			if bytes.HasPrefix(spelt, namespace) {
				if next := n.fixed[string(spelt[bytes.LastIndexByte(spelt, '.')+1:])]; next != nil {
					return next
				}
			}
		}
	}
	if !identifies(segment, last) {
		return nil
	}
	return n.id
}

// namespace begins the qualified name of an action or a function, as OData allows it.
var namespace = []byte("microsoft.graph.")

// identifies reports whether a segment can be an ID or a name, and not a method that the table does
// not have. Methods are functions, or begin with a dollar sign, or are words of letters alone where
// a path ends; IDs have digits, dots or dashes. What is taken for a method by mistake, as a machine
// of the name FILESERVER, has the limits that nearly every method has.
func identifies(segment string, last bool) bool {
	if segment[0] == '$' || segment[len(segment)-1] == ')' && strings.IndexByte(segment, '(') >= 0 {
		return false
	}
	const longest = 64 // of a method's name, and of a computer's
	if !last || len(segment) < 2 || len(segment) > longest {
		return true
	}
	for i := range len(segment) {
		if c := lowerByte(segment[i]); c < 'a' || c > 'z' {
			return true
		}
	}
	return false
}

// dotted reports whether a segment of what is left of a path is dots.
func dotted(path string, escaped bool) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if escaped && strings.Contains(segment, "%") {
			segment, _ = url.PathUnescape(segment)
		}
		if dots(segment) {
			return true
		}
	}
	return false
}

// dots finds the segments that servers resolve: behind them, the path is another's (RFC 3986
// section 5.2.4).
func dots(segment string) bool { return segment == "." || segment == ".." }

// longestName is longer than any fixed segment of the table.
const longestName = 64

func choose(endpoints []*Endpoint, method string) *Endpoint {
	if method == "" || method == http.MethodHead {
		// HEAD is on no page. HTTP makes it a GET without the body, so it most likely costs the same.
		method = http.MethodGet
	}
	for _, e := range endpoints {
		if e.Method == "" || e.Method == method {
			return e
		}
	}
	return nil
}
