package defendertest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A route is one method of one documented path. The segment "{id}" stands for
// any one segment.
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
	origin string     // scheme and host as the client wrote them
	path   string     // escaped, as the client wrote it
	query  url.Values // of the URL
	id     string     // what stood for {id}, unescaped
	body   []byte
}

// routes is the table of all that is served. The first match counts, so that a
// fixed segment must stand before an {id} in its place.
func routes() []route {
	return slices.Concat([]route{
		// The batch of tags stands before what would take its name for an id.
		{"GET", "machines", "machines", (*tenant).listMachines},
		{"POST", "machines/AddOrRemoveTagForMultipleMachines", "machines/AddOrRemoveTagForMultipleMachines", (*tenant).tagMachines},
		{"GET", "machines/{id}", "machines/{id}", (*tenant).getMachine},
		{"POST", "machines/{id}/tags", "machines/{id}", (*tenant).tagMachine},
		{"GET", "machines/{id}/vulnerabilities", "machines/{id}/vulnerabilities", (*tenant).listVulnerabilities},

		// Lists and single actions share a quota: 1500 polls an hour for all
		// actions together.
		{"GET", "machineactions", "machineactions", (*tenant).listActions},
		{"GET", "machineactions/{id}", "machineactions", (*tenant).getAction},
		{"POST", "machineactions/{id}/cancel", "machineactions/{id}/cancel", (*tenant).cancelAction},

		// The batch has a tenth of the usual quota, for any number of alerts.
		{"GET", "alerts", "alerts", (*tenant).listAlerts},
		{"POST", "alerts/batchUpdate", "alerts/batchUpdate", (*tenant).updateAlerts},
		{"GET", "alerts/{id}", "alerts/{id}", (*tenant).getAlert},
		{"PATCH", "alerts/{id}", "alerts/{id}", (*tenant).updateAlert},

		// 500 indicators for one call of 30 a minute, or one for one of 100.
		{"GET", "indicators", "indicators", (*tenant).listIndicators},
		{"POST", "indicators", "indicators", (*tenant).submitIndicator},
		{"POST", "indicators/import", "indicators/import", (*tenant).importIndicators},
		{"POST", "indicators/BatchDelete", "indicators/BatchDelete", (*tenant).deleteIndicators},
		{"DELETE", "indicators/{id}", "indicators/{id}", (*tenant).deleteIndicator},

		// The real quota is shared by all applications of a tenant.
		{"POST", "advancedqueries/run", "advancedqueries/run", (*tenant).runQuery},
	}, actionRoutes())
}

// A match is the route of a call, or the problem that there is none. The problem
// is an answer already, since it may need a header.
type match struct {
	route
	id      string
	problem *answer
}

// find looks for a route. Of an unknown path nothing is known, not even its quota.
func find(routes []route, method, path string) match {
	segments := split(path)
	var allowed []string
	for _, r := range routes {
		id, ok := fits(r.pattern, segments)
		if !ok {
			continue
		}
		if r.method == method {
			return match{route: r, id: id}
		}
		allowed = append(allowed, r.method)
	}
	if allowed == nil {
		return match{problem: problem{http.StatusNotFound, "NotFound", "The requested resource was not found"}.answer()}
	}
	// No code is documented for 405: BadRequest is the general one.
	wrong := problem{http.StatusMethodNotAllowed, "BadRequest", "The requested resource does not support the method " + method}.answer()
	wrong.header.Set("Allow", strings.Join(allowed, ", "))
	return match{problem: wrong}
}

// split returns the escaped segments behind the prefix, or nil if the path has
// neither prefix. /api alone is the latest version, /api/v1.0 a fixed one.
func split(path string) []string {
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
// itself writes them differently from page to page. It returns what stands for {id}.
func fits(pattern string, segments []string) (id string, ok bool) {
	fixed := strings.Split(pattern, "/")
	if len(fixed) != len(segments) {
		return "", false
	}
	for i, want := range fixed {
		if want != "{id}" {
			if !strings.EqualFold(want, segments[i]) {
				return "", false
			}
			continue
		}
		var err error
		if id, err = url.PathUnescape(segments[i]); err != nil || id == "" {
			return "", false
		}
	}
	return id, true
}
