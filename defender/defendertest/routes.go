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
	origin      string     // scheme and host as the client wrote them
	storage     string     // scheme and host of the downloads
	path        string     // escaped, as the client wrote it
	query       url.Values // of the URL
	id          string     // what stood for {id}, unescaped
	arguments   string     // what stood between the parentheses, unescaped
	contentType string     // of the body, as the client says
	body        []byte
}

// routes is the table of all that is served. The first match counts, so that a
// fixed segment must stand before an {id} in its place.
func routes() []route {
	const (
		machine, alert           = "machines/{id}", "alerts/{id}"
		packageURI, resultLink   = "machineactions/{id}/getPackageUri", "machineactions/{id}/GetLiveResponseResultDownloadLink"
		domain, file, ip, person = "domains/{id}", "files/{id}", "ips/{id}", "users/{id}"
	)
	return slices.Concat([]route{
		// What is fixed stands before what would take its name for an id.
		{"GET", "machines", "machines", (*tenant).listMachines},
		{"POST", "machines/AddOrRemoveTagForMultipleMachines", "machines/AddOrRemoveTagForMultipleMachines", (*tenant).tagMachines},
		{"GET", "machines/findbyip()", machine, (*tenant).findByIP},
		{"GET", "machines/findbytag", machine, (*tenant).findByTag},
	}, assessmentRoutes(), []route{
		{"GET", "machines/{id}", machine, (*tenant).getMachine},
		{"PATCH", "machines/{id}", machine, (*tenant).updateMachine},
		{"POST", "machines/{id}/tags", machine, (*tenant).tagMachine},
		{"POST", "machines/{id}/setDeviceValue", machine, (*tenant).setDeviceValue},
		{"GET", "machines/{id}/logonusers", machine, (*tenant).listLogonUsers},
		{"GET", "machines/{id}/alerts", machine, (*tenant).listMachineAlerts},
		{"GET", "machines/{id}/vulnerabilities", "machines/{id}/vulnerabilities", (*tenant).listVulnerabilities},

		// Lists and single actions share a quota: 1500 polls an hour for all
		// actions together.
		{"GET", "machineactions", "machineactions", (*tenant).listActions},
		{"GET", "machineactions/{id}", "machineactions", (*tenant).getAction},
		{"POST", "machineactions/{id}/cancel", "machineactions/{id}/cancel", (*tenant).cancelAction},
		{"GET", "machineactions/{id}/getPackageUri", packageURI, (*tenant).getPackageURI},
		{"GET", "machineactions/{id}/GetLiveResponseResultDownloadLink()", resultLink, (*tenant).getResultLink},
		{"GET", "libraryfiles", "libraryfiles", (*tenant).listLibrary},
		{"POST", "libraryfiles", "libraryfiles", (*tenant).upload},

		// The batch has a tenth of the usual quota, for any number of alerts.
		{"GET", "alerts", "alerts", (*tenant).listAlerts},
		{"POST", "alerts/batchUpdate", "alerts/batchUpdate", (*tenant).updateAlerts},
		{"POST", "alerts/CreateAlertByReference", "alerts/CreateAlertByReference", (*tenant).createAlert},
		{"GET", "alerts/{id}", alert, (*tenant).getAlert},
		{"PATCH", "alerts/{id}", alert, (*tenant).updateAlert},
		{"GET", "alerts/{id}/domains", alert, (*tenant).listAlertDomains},
		{"GET", "alerts/{id}/files", alert, (*tenant).listAlertFiles},
		{"GET", "alerts/{id}/ips", alert, (*tenant).listAlertIPs},
		{"GET", "alerts/{id}/machine", alert, (*tenant).getAlertMachine},
		{"GET", "alerts/{id}/user", alert, (*tenant).getAlertUser},
		{"GET", "investigations", "investigations", (*tenant).listInvestigations},
		{"GET", "investigations/{id}", "investigations", (*tenant).getInvestigation},

		// Domains, addresses and users that nobody has seen are answered
		// otherwise than files, see each handler.
		{"GET", "domains/{id}/alerts", domain, (*tenant).listDomainAlerts},
		{"GET", "domains/{id}/machines", domain, (*tenant).listDomainMachines},
		{"GET", "domains/{id}/stats", domain, (*tenant).getDomainStats},
		{"GET", "files/{id}", file, (*tenant).getFile},
		{"GET", "files/{id}/alerts", file, (*tenant).listFileAlerts},
		{"GET", "files/{id}/machines", file, (*tenant).listFileMachines},
		{"GET", "files/{id}/stats", file, (*tenant).getFileStats},
		{"GET", "ips/{id}/alerts", ip, (*tenant).listIPAlerts},
		{"GET", "ips/{id}/stats", ip, (*tenant).getIPStats},
		{"GET", "users/{id}/alerts", person, (*tenant).listUserAlerts},
		{"GET", "users/{id}/machines", person, (*tenant).listUserMachines},

		// 500 indicators for one call of 30 a minute, or one for one of 100.
		{"GET", "indicators", "indicators", (*tenant).listIndicators},
		{"POST", "indicators", "indicators", (*tenant).submitIndicator},
		{"POST", "indicators/import", "indicators/import", (*tenant).importIndicators},
		{"POST", "indicators/BatchDelete", "indicators/BatchDelete", (*tenant).deleteIndicators},
		{"DELETE", "indicators/{id}", "indicators/{id}", (*tenant).deleteIndicator},

		// The quotas of hunting are shared by all applications of a tenant.
		{"POST", "advancedqueries/run", "advancedqueries/run", (*tenant).runQuery},
		{"POST", "advancedhunting/run", "advancedhunting/run", (*tenant).runQuery},

		// These, and the second of hunting, are of Defender XDR's API.
		{"GET", "incidents", "incidents", (*tenant).listIncidents},
		{"GET", "incidents/{id}", "incidents/{id}", (*tenant).getIncident},
		{"PATCH", "incidents/{id}", "PATCH incidents/{id}", (*tenant).updateIncident},
	}, actionRoutes())
}

// A match is the route of a call, or the problem that there is none. The problem
// is an answer already, since it may need a header.
type match struct {
	route
	parts
	problem *answer
}

// parts are what the pattern leaves open of a path.
type parts struct{ id, arguments string }

// bodyLimit is how much of a call's body is read.
func (m match) bodyLimit() int64 {
	if m.family == "libraryfiles" {
		return maxUpload
	}
	return maxBody
}

// find looks for a route. Of an unknown path nothing is known, not even its quota.
func find(routes []route, method, path string) match {
	segments := split(path)
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
