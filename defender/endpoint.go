package defender

import (
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
	// Method is the HTTP method. "": any.
	Method string

	// Path is what follows /api or /api/v1.0, or Graph's /v1.0 if it begins with "security" or
	// "identityProtection". {id} stands for any one segment, {rest...} at the end for any number of
	// them, and a segment that ends in ")" for a function with any arguments.
	Path string

	// Family names the quota. Endpoints of one family share it.
	Family string

	// Windows are the documented limits of the family. All hold at once. nil: none is documented.
	Windows []quota.Window

	// PerTenant says that all applications of a tenant share the quota. false: each has its own.
	PerTenant bool

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
}

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
		for _, e := range f.endpoints {
			e.Family, e.Windows, e.PerTenant = f.name, slices.Clone(f.windows), f.perTenant
			e.PauseOnly = pauseOnly(f.name)
			all = append(all, e)
		}
	}
	return all
}

// Match finds the row for req by its method and path, whatever its host. Letter case, a slash at
// the end and the API's version make no difference.
func Match(req *http.Request) (Endpoint, bool) {
	found := find(req)
	if found == nil {
		return Endpoint{}, false
	}
	e := *found
	e.Windows = slices.Clone(e.Windows)
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
	case onGraph(e.Path):
		return "/v1.0/" + e.Path
	}
	return "/api/" + e.Path
}

// family is the endpoints that share one quota: a row of the documentation's limits.
type family struct {
	name      string
	windows   []quota.Window
	perTenant bool
	endpoints []Endpoint
}

// pauseOnly says which families have limits that are no rate: 25 live response sessions at once in a
// tenant, and the processor time of hunting queries.
func pauseOnly(family string) bool {
	switch family {
	case "machines/{id}/runliveresponse", "advancedhunting/run", "security/runHuntingQuery":
		return true
	}
	return false
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

// families is the table. The pages that it names are those of MicrosoftDocs/defender-docs: defender-endpoint/api, and for
// incidents and advancedhunting defender-xdr. Rows that name none have kept the numbers of the edition of 2021-07.
//
// Limits that a window can't express are not in it: 25 live response sessions at once in a tenant, 15,000 indicators, and
// the processor time of hunting queries, which no client can know beforehand. A 429 tells of them.
func families() []family {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	return []family{
		// get-alerts
		{"alerts", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "alerts", MaxPage: 10_000},
		}},
		{"alerts/{id}", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "alerts/{id}"},
			{Method: patch, Path: "alerts/{id}", Retry: RetryUncommented},
			{Method: get, Path: "alerts/{id}/domains"},
			{Method: get, Path: "alerts/{id}/files"},
			{Method: get, Path: "alerts/{id}/ips"},
			{Method: get, Path: "alerts/{id}/machine"},
			{Method: get, Path: "alerts/{id}/user"},
		}},
		// batch-update-alerts
		{"alerts/batchUpdate", per(10, 500), false, []Endpoint{
			{Method: post, Path: "alerts/batchUpdate", Retry: RetryUncommented},
		}},
		// create-alert-by-reference: it also starts an investigation. No hourly limit is documented.
		{"alerts/CreateAlertByReference", per(15, 0), false, []Endpoint{
			{Method: post, Path: "alerts/CreateAlertByReference", Retry: RetryNever},
		}},
		// get-machines: an empty list is a 404.
		{"machines", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "machines", MaxPage: 10_000},
		}},
		{"machines/{id}", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "machines/{id}"},
			// update-machine-method contradicts itself on whether tags are replaced or appended.
			{Method: patch, Path: "machines/{id}", Retry: RetryNever},
			{Method: get, Path: "machines/{id}/logonusers"},
			{Method: get, Path: "machines/{id}/alerts"},
			{Method: get, Path: "machines/findbyip(ip={ip},timestamp={time})"},
			{Method: get, Path: "machines/findbytag"},
			// add-or-remove-machine-tags: tags are a set.
			{Method: post, Path: "machines/{id}/tags", Retry: RetryAlways},
			{Method: post, Path: "machines/{id}/setDeviceValue", Retry: RetryNever},
		}},
		// add-or-remove-multiple-machine-tags
		{"machines/AddOrRemoveTagForMultipleMachines", per(100, 1500), false, []Endpoint{
			{Method: post, Path: "machines/AddOrRemoveTagForMultipleMachines", MaxBatch: 500, Retry: RetryAlways},
		}},
		{"machines/{id}/vulnerabilities", per(50, 1500), false, []Endpoint{
			{Method: get, Path: "machines/{id}/vulnerabilities"},
		}},
		// get-domain-statistics, get-file-information and their neighbours: a page for each method, all with these numbers.
		{"domains/{id}", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "domains/{id}/alerts"},
			{Method: get, Path: "domains/{id}/machines"},
			{Method: get, Path: "domains/{id}/stats"},
		}},
		{"files/{id}", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "files/{id}"},
			{Method: get, Path: "files/{id}/alerts"},
			{Method: get, Path: "files/{id}/machines"},
			{Method: get, Path: "files/{id}/stats"},
		}},
		{"ips/{id}", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "ips/{id}/alerts"},
			{Method: get, Path: "ips/{id}/stats"},
		}},
		{"users/{id}", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "users/{id}/alerts"},
			{Method: get, Path: "users/{id}/machines"},
		}},
		{"investigations", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "investigations", MaxPage: 10_000},
			{Method: get, Path: "investigations/{id}"},
		}},
		// Limited by the hour alone.
		{"machines/{id}/startInvestigation", per(0, 50), false, []Endpoint{
			{Method: post, Path: "machines/{id}/startInvestigation", Retry: RetryNever},
		}},
		// isolate-machine, run-av-scan, stop-and-quarantine-file, offboard-machine-api, collect-investigation-package:
		// whether these share their 1500 an hour is not said either.
		{"machines/{id}/action", per(100, 1500), false, []Endpoint{
			{Method: post, Path: "machines/{id}/isolate", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/unisolate", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/restrictCodeExecution", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/unrestrictCodeExecution", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/runAntiVirusScan", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/StopAndQuarantineFile", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/offboard", Retry: RetryNever},
			{Method: post, Path: "machines/{id}/collectInvestigationPackage", Retry: RetryNever},
		}},
		// get-machineactions-collection: 1500 polls an hour are one in 2.4 s, for all actions together.
		{"machineactions", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "machineactions", MaxPage: 10_000},
			{Method: get, Path: "machineactions/{id}"},
		}},
		// cancel-machine-action
		{"machineactions/{id}/cancel", per(100, 1500), false, []Endpoint{
			{Method: post, Path: "machineactions/{id}/cancel", Retry: RetryNever},
		}},
		// get-package-sas-uri, the edition of 2024; that of 2021 stated no limit.
		{"machineactions/{id}/getPackageUri", per(2, 120), false, []Endpoint{
			{Method: get, Path: "machineactions/{id}/getPackageUri"},
		}},
		// run-live-response: scripts run on hosts.
		{"machines/{id}/runliveresponse", per(10, 0), false, []Endpoint{
			{Method: post, Path: "machines/{id}/runliveresponse", Retry: RetryNever},
		}},
		// get-live-response-result
		{"machineactions/{id}/GetLiveResponseResultDownloadLink", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "machineactions/{id}/GetLiveResponseResultDownloadLink(index={index})"},
		}},
		// upload-library: 20 MB a file. Harmless twice only with OverrideIfExists, which is somewhere in a form.
		{"libraryfiles", per(100, 1500), false, []Endpoint{
			{Method: post, Path: "libraryfiles", Retry: RetryNever},
		}},
		// post-ti-indicator, "submit or update": an indicator is known by its value.
		{"indicators", per(100, 1500), false, []Endpoint{
			{Method: get, Path: "indicators"},
			{Method: post, Path: "indicators", Retry: RetryAlways},
		}},
		// delete-ti-indicator-by-id
		{"indicators/{id}", per(100, 1500), false, []Endpoint{
			{Method: del, Path: "indicators/{id}"},
		}},
		// import-ti-indicators, likewise by value
		{"indicators/import", per(30, 0), false, []Endpoint{
			{Method: post, Path: "indicators/import", MaxBatch: 500, Retry: RetryAlways},
		}},
		// batch-delete-ti-indicators: an id that is gone fails the whole batch, so that a retry would hide a success.
		{"indicators/BatchDelete", per(30, 1500), false, []Endpoint{
			{Method: post, Path: "indicators/BatchDelete", MaxBatch: 500, Retry: RetryNever},
		}},
		// run-advanced-query-api. Queries change nothing, though they spend the tenant's processor time.
		{"advancedqueries/run", per(45, 1500), true, []Endpoint{
			{Method: post, Path: "advancedqueries/run", Retry: RetryAlways},
		}},
		// get-assessment-software-inventory, get-assessment-software-vulnerabilities, get-assessment-secure-config: each page has
		// limits "for this API".
		{"machines/SoftwareInventoryByMachine", per(30, 1000), false, []Endpoint{
			{Method: get, Path: "machines/SoftwareInventoryByMachine", MaxPage: 200_000},
		}},
		{"machines/SoftwareVulnerabilitiesByMachine", per(30, 1000), false, []Endpoint{
			{Method: get, Path: "machines/SoftwareVulnerabilitiesByMachine", MaxPage: 200_000},
		}},
		{"machines/SecureConfigurationsAssessmentByMachine", per(30, 1000), false, []Endpoint{
			{Method: get, Path: "machines/SecureConfigurationsAssessmentByMachine", MaxPage: 200_000},
		}},
		// The same "via files": the answer is a list of SAS URLs, whose downloads spend no quota.
		{"machines/SoftwareInventoryExport", per(5, 20), false, []Endpoint{
			{Method: get, Path: "machines/SoftwareInventoryExport"},
		}},
		{"machines/SoftwareVulnerabilitiesExport", per(5, 20), false, []Endpoint{
			{Method: get, Path: "machines/SoftwareVulnerabilitiesExport"},
		}},
		{"machines/SecureConfigurationsAssessmentExport", per(5, 20), false, []Endpoint{
			{Method: get, Path: "machines/SecureConfigurationsAssessmentExport"},
		}},
		// And what has changed since a time, of the last 14 days.
		{"machines/SoftwareVulnerabilityChangesByMachine", per(30, 1000), false, []Endpoint{
			{Method: get, Path: "machines/SoftwareVulnerabilityChangesByMachine", MaxPage: 200_000},
		}},

		// api-advanced-hunting (2023-02): "at least 45", more for large tenants. Older pages say 15 (2021) and 45, none an
		// hourly number; the newest stands, since a tenant that is allowed less says so in its 429.
		{"advancedhunting/run", per(45, 0), true, []Endpoint{
			{Method: post, Path: "advancedhunting/run", Retry: RetryAlways},
		}},
		// api-incident: 50 a minute and 1500 an hour for the three, and "each method also has its own quotas": list and
		// update the same ones, the single one 100 in 2021. One quota for all satisfies every reading.
		{"incidents", per(50, 1500), false, []Endpoint{
			{Method: get, Path: "incidents", MaxPage: 100},
			{Method: patch, Path: "incidents/{id}", Retry: RetryUncommented},
			{Method: get, Path: "incidents/{id}"},
		}},

		// Graph, security-api-overview (2024-09): the same words as api-advanced-hunting.
		{"security/runHuntingQuery", per(45, 0), true, []Endpoint{
			{Method: post, Path: "security/runHuntingQuery", Retry: RetryAlways},
			{Method: post, Path: "security/microsoft.graph.security.runHuntingQuery", Retry: RetryAlways},
		}},
		// Graph, throttling-security-detections-incidents. It has two rows for secureScore: the stricter stands.
		{"security", perMinutes(150, 1), false, []Endpoint{
			{Path: "security/alerts/{rest...}"},
			{Path: "security/securityActions/{rest...}"},
			{Path: "security/secureScores/{rest...}"},
		}},
		{"security/tiIndicators", perMinutes(1000, 1), false, []Endpoint{
			{Path: "security/tiIndicators/{rest...}"},
		}},
		{"security/secureScoreControlProfiles", perMinutes(10_000, 10), false, []Endpoint{
			{Path: "security/secureScoreControlProfiles/{rest...}"},
		}},
		// Seen in public code, and on no page.
		{"security/cases/ediscoveryCases", perMinutes(5, 1), false, []Endpoint{
			{Path: "security/cases/ediscoveryCases/{rest...}"},
		}},
		// throttling-limits: 1 a second for a tenant, and its 429 names no time.
		{"identityProtection", []quota.Window{{N: 1, Per: time.Second}}, true, []Endpoint{
			{Path: "identityProtection/{rest...}"},
		}},
		// No page has numbers for these.
		{"security/alerts_v2", nil, false, []Endpoint{
			{Method: get, Path: "security/alerts_v2"},
			{Method: get, Path: "security/alerts_v2/{id}"},
			{Method: patch, Path: "security/alerts_v2/{id}", Retry: RetryAlways}, // its comments are made elsewhere
		}},
		{"security/incidents", nil, false, []Endpoint{
			{Method: get, Path: "security/incidents"},
			{Method: get, Path: "security/incidents/{id}"},
			{Method: patch, Path: "security/incidents/{id}", Retry: RetryUncommented},
		}},
		// Defender for Cloud Apps, which has hosts of its own, one for each tenant. MicrosoftDocs/CloudAppSecurityDocs.
		{"cloudapps", perMinutes(30, 1), true, []Endpoint{
			{Path: "v1/{rest...}", MaxPage: 100},
		}},
	}
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
		if onGraph(e.Path) {
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

// onGraph tells Graph's paths, which have no /api before them, from those of Defender.
func onGraph(path string) bool {
	return strings.HasPrefix(path, "security/") || strings.HasPrefix(path, "identityProtection/")
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
	for path = strings.Trim(path, "/"); path != ""; {
		segment, rest, _ := strings.Cut(path, "/")
		next := n.next(segment, escaped)
		if next == nil {
			if len(n.rest) == 0 || dotted(path, escaped) {
				return nil
			}
			return choose(n.rest, req.Method)
		}
		n, path = next, rest
	}
	if e := choose(n.endpoints, req.Method); e != nil {
		return e
	}
	return choose(n.rest, req.Method)
}

// next takes one segment. A fixed one goes before {id}, with no way back: no machine is called findbytag.
func (n *node) next(segment string, escaped bool) *node {
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
			if next := n.fixed[string(lower[:len(name)])]; next != nil {
				return next
			}
		}
	}
	return n.id
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
