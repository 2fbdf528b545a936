package defendertest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A route is one method of one documented path. The segment "{id}" stands for
// any one segment, and one that ends with "()" for a call of a function with any
// arguments.
type route struct {
	method  string
	pattern string
	family  string // of the quota
	handle  handler
}

// A handler answers one request. It runs with the tenant locked. An error that
// is a problem becomes its envelope.
type handler func(*tenant, request) (answer, error)

// A request is what a handler may look at. It has no connection, so that no
// handler can wait for a caller while it holds the tenant.
type request struct {
	origin    string     // scheme and host as the client wrote them
	root      string     // of the API, behind the origin
	storage   string     // scheme and host of the downloads
	path      string     // escaped, as the client wrote it
	query     url.Values // of the URL
	id        string     // what stood for {id}, unescaped
	arguments string     // what stood between the parentheses, unescaped
	body      []byte
}

// metadata is what a context's URL begins with, and what of it is meant.
func (r request) metadata(of string) string { return r.origin + r.root + "/$metadata#" + of }

// routes is the table of all that is served. The first match counts, so that a
// fixed segment must stand before an {id} in its place.
func routes() []route {
	const (
		machine, alert         = "machines/{id}", "alerts/{id}"
		packageURI, resultLink = "machineactions/{id}/getPackageUri",
			"machineactions/{id}/GetLiveResponseResultDownloadLink"
	)
	return slices.Concat([]route{
		// What is fixed stands before what would take its name for an id.
		{"GET", "machines", "machines", (*tenant).listMachines},
		{"POST", "machines/AddOrRemoveTagForMultipleMachines", "machines/AddOrRemoveTagForMultipleMachines", (*tenant).tagMachines},
		{"GET", "machines/findbyip()", machine, (*tenant).findByIP},
		{"GET", "machines/SoftwareVulnerabilitiesByMachine", "machines/SoftwareVulnerabilitiesByMachine",
			(*tenant).exportPages},
		{"GET", "machines/" + exportName, "machines/" + exportName, (*tenant).exportFiles},
		{"GET", "machines/{id}", machine, (*tenant).getMachine},
		{"PATCH", "machines/{id}", machine, (*tenant).updateMachine},
		{"POST", "machines/{id}/tags", machine, (*tenant).tagMachine},
		{"POST", "machines/{id}/setDeviceValue", machine, (*tenant).setDeviceValue},
		{"GET", "machines/{id}/alerts", machine, (*tenant).listMachineAlerts},
		{"GET", "machines/{id}/alerts/$count", machine, (*tenant).countMachineAlerts},
		{"GET", "machines/{id}/vulnerabilities", "machines/{id}/vulnerabilities", (*tenant).listVulnerabilities},

		// Lists and single actions share a quota: 1500 polls an hour for all
		// actions together.
		{"GET", "machineactions", "machineactions", (*tenant).listActions},
		{"GET", "machineactions/{id}", "machineactions", (*tenant).getAction},
		{"POST", "machineactions/{id}/cancel", "machineactions/{id}/cancel", (*tenant).cancelAction},
		{"GET", "machineactions/{id}/getPackageUri", packageURI, (*tenant).getPackageURI},
		{"GET", "machineactions/{id}/GetLiveResponseResultDownloadLink()", resultLink, (*tenant).getResultLink},

		// The batch has a tenth of the usual quota, for any number of alerts.
		{"GET", "alerts", "alerts", (*tenant).listAlerts},
		{"POST", "alerts/batchUpdate", "alerts/batchUpdate", (*tenant).updateAlerts},
		{"GET", "alerts/{id}", alert, (*tenant).getAlert},
		{"PATCH", "alerts/{id}", alert, (*tenant).updateAlert},

		// 500 indicators for one call of 30 a minute, or one for one of 100.
		{"GET", "indicators", "indicators", (*tenant).listIndicators},
		{"POST", "indicators", "indicators", (*tenant).submitIndicator},
		{"POST", "indicators/import", "indicators/import", (*tenant).importIndicators},
		{"POST", "indicators/BatchDelete", "indicators/BatchDelete", (*tenant).deleteIndicators},
		{"DELETE", "indicators/{id}", "indicators/{id}", (*tenant).deleteIndicator},

		// The quotas of hunting are shared by all applications of a tenant.
		{"POST", "advancedqueries/run", "advancedqueries/run", (*tenant).runQuery},
		{"POST", "advancedhunting/run", "advancedhunting/run", (*tenant).runXDRQuery},

		// These, and the second of hunting, are of Defender XDR's API.
		{"GET", "incidents", "incidents", (*tenant).listIncidents},
		{"GET", "incidents/{id}", "incidents/{id}", (*tenant).getIncident},
		{"PATCH", "incidents/{id}", "PATCH incidents/{id}", (*tenant).updateIncident},
	}, actionRoutes())
}

// A match is the route of a call, or the problem that there is none.
type match struct {
	route
	parts
	problem *problem
	allowed []string // the methods of a 405
}

// parts are what the pattern leaves open of a path.
type parts struct{ id, arguments string }

// find looks for a route by the segments behind the API's prefix. Of an unknown path nothing is
// known, not even its quota.
func find(routes []route, method string, segments []string) match {
	var allowed []string
	for _, r := range routes {
		found, ok := fits(r.pattern, segments)
		if !ok {
			continue
		}
		if r.method == method {
			return match{route: r, parts: found}
		}
		allowed = append(allowed, r.method)
	}
	if allowed == nil {
		return match{problem: &problem{http.StatusNotFound, "NotFound",
			"The requested resource was not found"}}
	}
	// No code is documented for 405: BadRequest is the general one.
	return match{allowed: allowed, problem: &problem{http.StatusMethodNotAllowed, "BadRequest",
		"The requested resource does not support the method " + method}}
}

// mdeSegments returns the escaped segments behind the prefix of Defender's APIs, or nil if the
// path doesn't have it. /api alone is the latest version, /api/v1.0 a fixed one.
func mdeSegments(path string) []string {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	if !strings.EqualFold(segments[0], "api") {
		return nil
	}
	segments = segments[1:]
	if len(segments) > 0 && strings.EqualFold(segments[0], "v1.0") {
		segments = segments[1:]
	}
	return segments
}

// fits compares fixed segments whatever their case, since the documentation
// itself writes them differently from page to page. It returns what stands for the
// open parts.
func fits(pattern string, segments []string) (found parts, ok bool) {
	fixed := strings.Split(pattern, "/")
	if len(fixed) != len(segments) {
		return parts{}, false
	}
	for i, want := range fixed {
		segment, err := url.PathUnescape(segments[i])
		if err != nil {
			return parts{}, false
		}
		if function, ok := strings.CutSuffix(want, "()"); ok {
			name, rest, _ := strings.Cut(segment, "(")
			if found.arguments, ok = strings.CutSuffix(rest, ")"); !ok || !strings.EqualFold(function, name) {
				return parts{}, false
			}
			continue
		}
		if want != "{id}" {
			if !strings.EqualFold(want, segment) {
				return parts{}, false
			}
			continue
		}
		if found.id = segment; segment == "" {
			return parts{}, false
		}
	}
	return found, true
}
