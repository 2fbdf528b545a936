package defender

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// seconds returns the limit of so many calls in so many seconds.
func seconds(n, s int) []quota.Window {
	return []quota.Window{{N: n, Per: time.Duration(s) * time.Second}}
}

// graphWide is the limit of all that an application asks of Graph, in all tenants.
func graphWide() Limit {
	return Limit{Name: "graph", Scope: PerApp, Windows: seconds(130_000, 10)}
}

// graphFamilies is the table of Graph: /security, and what a program that works with it calls
// beside. Its pages are those of microsoftgraph/microsoft-graph-docs-contrib; the numbers stand in
// throttling-limits where no other is named. A family without windows has no row there.
//
// Limits that a window can't express are not in it: a tenant's share of the processor time of
// hunting queries, and whatever "any service may refuse below its numbers" means today.
func graphFamilies() []family {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	const limits = "throttling-limits"
	return []family{
		// "At least 45" for the tenant, more for large ones; all applications share them.
		{name: "security/runHuntingQuery", page: "security-api-overview",
			windows: per(45, 0), perTenant: true, pauseOnly: true, endpoints: []Endpoint{
				{Method: post, Path: "security/runHuntingQuery", Retry: RetryAlways},
				{Method: post, Path: "security/microsoft.graph.security.runHuntingQuery", Retry: RetryAlways},
				{Method: get, Path: "security/getRunHuntingQuery(query={query},timespan={timespan})"},
			}},
		// There are two rows for secureScore, and both hold.
		{name: "security", page: limits, windows: perMinutes(150, 1), endpoints: []Endpoint{
			{
				Path: "security/alerts/{rest...}", MaxPage: 1000,
				Retired: "ended on 2026-10-15; use security/alerts_v2",
			},
			{Path: "security/securityActions/{rest...}"},
			{Path: "security/secureScores/{rest...}", Limits: []Limit{
				{Name: "security/secureScores", Windows: perMinutes(10_000, 10)}, fourAtOnce(),
			}},
		}},
		{name: "security/tiIndicators", page: limits,
			windows: perMinutes(1000, 1), endpoints: []Endpoint{
				{
					Path:    "security/tiIndicators/{rest...}",
					Retired: "was removed in April 2026; use Defender's /api/indicators",
				},
			}},
		{name: "security/secureScoreControlProfiles", page: limits,
			windows: perMinutes(10_000, 10), endpoints: []Endpoint{
				{
					Method: patch, Path: "security/secureScoreControlProfiles/{rest...}", Retry: RetryUncommented,
					Limits: []Limit{fourAtOnce()},
				},
				{Path: "security/secureScoreControlProfiles/{rest...}", Limits: []Limit{fourAtOnce()}},
			}},
		// The page writes eDiscoveryCases, where the path has cases/ediscoveryCases.
		{name: "security/cases/ediscoveryCases", page: limits,
			windows: perMinutes(5, 1), endpoints: []Endpoint{
				// A PATCH sets; whatever starts something is a POST.
				{Method: patch, Path: "security/cases/ediscoveryCases/{rest...}", Retry: RetryAlways},
				{Path: "security/cases/ediscoveryCases/{rest...}"},
				{Method: patch, Path: "security/eDiscoveryCases/{rest...}", Retry: RetryAlways},
				{Path: "security/eDiscoveryCases/{rest...}"},
			}},
		// Submissions in a rolling day. The answer comes while the query runs: how many do, no client
		// knows.
		{name: "security/auditLog/queries", page: limits,
			windows: []quota.Window{{N: 200, Per: 24 * time.Hour}}, perTenant: true, endpoints: []Endpoint{
				{Method: post, Path: "security/auditLog/queries", Retry: RetryNever, Limits: []Limit{
					{Name: "security/auditLog/queries running", Scope: PerTenant, Concurrent: 50, Unkept: true},
				}},
			}},
		{name: "security/auditLog", page: "security-auditcoreroot-list-auditlogqueries",
			endpoints: []Endpoint{
				{Method: get, Path: "security/auditLog/queries/{rest...}"},
			}},
		// No page has numbers for these. security-error-codes: $top of at most 1000 and $skip of 500.
		{name: "security/alerts_v2", page: "security-list-alerts_v2, security-error-codes",
			endpoints: []Endpoint{
				{Method: get, Path: "security/alerts_v2", MaxPage: 1000},
				{Method: get, Path: "security/alerts_v2/{id}"},
				{Method: patch, Path: "security/alerts_v2/{id}", Retry: RetryAlways}, // its comments are made elsewhere
				{Method: post, Path: "security/alerts_v2/{id}/comments", Retry: RetryNever},
				{Method: post, Path: "security/alerts_v2/moveAlerts", Retry: RetryNever},
			}},
		// $top over 50 is a 400 with an empty code (wazuh/wazuh#28070).
		{name: "security/incidents", page: "security-list-incidents", endpoints: []Endpoint{
			{Method: get, Path: "security/incidents", MaxPage: 50},
			{Method: get, Path: "security/incidents/{id}"},
			{Method: get, Path: "security/incidents/{id}/alerts"},
			{Method: patch, Path: "security/incidents/{id}", Retry: RetryUncommented},
			{Method: post, Path: "security/incidents/{id}/comments", Retry: RetryNever},
			{Method: post, Path: "security/incidents/mergeIncidents", Retry: RetryNever},
		}},
		{name: "security/identities", page: "security-identityaccounts-invokeaction",
			endpoints: []Endpoint{
				{Method: post, Path: "security/identities/identityAccounts/{id}/invokeAction", Retry: RetryNever},
				{Method: post, Path: "security/identities/sensors/regenerateDeploymentAccessKey", Retry: RetryNever},
				{Method: patch, Path: "security/identities/healthIssues/{id}", Retry: RetryAlways}, // its status
				{Path: "security/identities/{rest...}"},
			}},
		{name: "security/collaboration", page: "security-analyzedemail-remediate",
			endpoints: []Endpoint{
				{Method: post, Path: "security/collaboration/analyzedEmails/remediate", Retry: RetryNever},
				{Path: "security/collaboration/{rest...}"},
			}},
		{name: "security/threatIntelligence", page: "security-threatintelligence-overview",
			endpoints: []Endpoint{
				{Path: "security/threatIntelligence/{rest...}"},
			}},
		{name: "security/attackSimulation", page: "attacksimulationroot", endpoints: []Endpoint{
			{Method: patch, Path: "security/attackSimulation/{rest...}", Retry: RetryAlways}, // likewise
			{Path: "security/attackSimulation/{rest...}"},
		}},
		// A second for all applications of a tenant, and the 429 names no time. The page lists the
		// resources of conditional access too.
		{name: "identityProtection", page: limits,
			windows: seconds(1, 1), perTenant: true, endpoints: []Endpoint{
				{Method: post, Path: "identityProtection/riskyUsers/dismiss", Retry: RetryAlways},
				{Method: post, Path: "identityProtection/riskyUsers/confirmCompromised", Retry: RetryAlways},
				{Method: post, Path: "identityProtection/riskyUsers/confirmSafe", Retry: RetryAlways},
				{Path: "identityProtection/{rest...}", MaxPage: 500},
				{Path: "identity/conditionalAccess/{rest...}"},
			}},
		// Sign-ins, directory audits, provisioning.
		{name: "auditLogs", page: limits, windows: seconds(5, 10), endpoints: []Endpoint{
			{Path: "auditLogs/{rest...}", MaxPage: 1000, Limits: []Limit{
				{Name: "auditLogs of the application", Scope: PerApp, Windows: seconds(122, 10)},
			}},
		}},
		{name: "informationProtection/threatAssessmentRequests", page: limits,
			windows:   []quota.Window{{N: 150, Per: 15 * time.Minute}, {N: 10_000, Per: 24 * time.Hour}},
			perTenant: true, endpoints: []Endpoint{
				{Method: post, Path: "informationProtection/threatAssessmentRequests", Retry: RetryNever, Limits: []Limit{{
					Name:  "informationProtection/threatAssessmentRequests of the mail, URL or file",
					Scope: PerResource, Unkept: true,
					Windows: []quota.Window{{N: 1, Per: 15 * time.Minute}, {N: 3, Per: 24 * time.Hour}},
				}}},
			}},
		{name: "informationProtection", page: "informationprotection", endpoints: []Endpoint{
			{Path: "informationProtection/{rest...}"},
		}},
		{name: "subscriptions", page: limits, windows: seconds(500, 20), endpoints: []Endpoint{
			{Method: post, Path: "subscriptions", Retry: RetryNever, Limits: subscriptionWrites()},
			{Method: patch, Path: "subscriptions/{id}", Limits: subscriptionWrites()},
			{Method: del, Path: "subscriptions/{id}", Limits: subscriptionWrites()},
		}},
		{name: "subscriptions list", page: limits,
			windows: seconds(25, 20), endpoints: []Endpoint{
				{Method: get, Path: "subscriptions", Limits: []Limit{
					{Name: "subscriptions list of the application", Scope: PerApp, Windows: seconds(40, 20)},
				}},
			}},
		{name: "subscriptions/{id}", page: limits, endpoints: []Endpoint{
			{Method: get, Path: "subscriptions/{id}"},
		}},
		{name: "admin/exchange/tracing/messageTraces", page: limits,
			windows: perMinutes(100, 5), perTenant: true, endpoints: []Endpoint{
				{Method: get, Path: "admin/exchange/tracing/messageTraces/{rest...}", MaxPage: 5000},
			}},
		directory(limits),
	}
}

// fourAtOnce is the limit that secureScores and their control profiles share.
func fourAtOnce() Limit {
	return Limit{Name: "security/secureScores at once", Concurrent: 4}
}

func subscriptionWrites() []Limit {
	return []Limit{{Name: "subscriptions of the application", Scope: PerApp, Windows: seconds(2000, 20)}}
}

// directory counts resource units, several for a costly call, and its writes besides. A tenant of
// more than 500 users has 8000 units, one of more than 50 has 5000, a small one 3500: what is less
// than 8000 says so in a 429, or Config.Quotas does.
func directory(page string) family {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	writes := []Limit{
		{Name: "directory writes", Windows: seconds(3000, 150)},
		{Name: "directory writes of the application", Scope: PerApp, Windows: seconds(35_000, 300)},
		{Name: "directory writes of the tenant", Scope: PerTenant, Windows: seconds(18_000, 300)},
	}
	devices := append(writes[:3:3],
		Limit{Name: "device writes", Windows: seconds(3000, 150)},
		Limit{Name: "device writes of the user", Scope: PerResource, Windows: seconds(25, 10), Unkept: true})
	f := family{name: "directory", page: page, windows: seconds(8000, 10), units: true}
	read := func(units int, path string) {
		f.endpoints = append(f.endpoints, Endpoint{Method: get, Path: path, units: units})
	}
	// They only ask, though they POST.
	ask := func(units int, path string) {
		f.endpoints = append(f.endpoints, Endpoint{Method: post, Path: path, units: units, Retry: RetryAlways})
	}
	write := func(method, path string, retry Retry) {
		limits := writes
		if strings.HasPrefix(path, "devices") {
			limits = devices
		}
		f.endpoints = append(f.endpoints, Endpoint{Method: method, Path: path, Retry: retry, Limits: limits})
	}
	for _, of := range []string{"users", "groups", "devices", "servicePrincipals", "applications", "contacts"} {
		units := 1
		if of == "users" || of == "applications" {
			units = 2
		}
		read(units, of)
		read(1, of+"/{id}")
		write(post, of, RetryNever)
		write(patch, of+"/{id}", RetryAlways) // it sets, as accountEnabled
		write(del, of+"/{id}", RetryByMethod)
	}
	for _, of := range []string{"me", "users/{id}"} {
		read(2, of+"/licenseDetails")
		read(2, of+"/memberOf")
		read(2, of+"/ownedObjects")
		read(2, of+"/transitiveMemberOf")
		read(1, of+"/manager")
		read(1, of+"/directReports")
		read(1, of+"/ownedDevices")
		read(1, of+"/registeredDevices")
		ask(4, of+"/checkMemberGroups")
		ask(4, of+"/checkMemberObjects")
		ask(2, of+"/getMemberGroups")
		ask(2, of+"/getMemberObjects")
		write(post, of+"/revokeSignInSessions", RetryAlways) // a second one only moves the instant
	}
	read(1, "me")
	read(3, "groups/{id}/members")
	read(5, "groups/{id}/transitiveMembers")
	read(1, "groups/{id}/owners")
	read(2, "groups/{id}/memberOf")
	write(post, "groups/{id}/members/$ref", RetryAlways) // a set: the second time it is a 400
	write(del, "groups/{id}/members/{id}/$ref", RetryByMethod)
	read(1, "devices/{id}/registeredOwners")
	read(1, "devices/{id}/registeredUsers")
	read(2, "devices/{id}/memberOf")
	read(2, "servicePrincipals/{id}/appRoleAssignments")
	read(2, "applications/{id}/extensionProperties")
	read(2, "oauth2PermissionGrants")
	read(2, "oauth2PermissionGrants/{id}")
	read(3, "subscribedSkus")
	read(3, "contracts")
	read(1, "organization")
	read(1, "domains")
	read(1, "domains/{id}")
	read(4, "domains/{id}/domainNameReferences")
	read(1, "directoryRoles")
	read(1, "directoryRoles/{id}")
	read(1, "directoryRoles/{id}/members")
	read(1, "directoryObjects/{id}")
	ask(5, "directoryObjects/getByIds")
	for i := range f.endpoints {
		e := &f.endpoints[i]
		e.Limits = append([]Limit{{
			Name: "directory of the application", Scope: PerApp, Windows: seconds(150_000, 20), units: true,
		}}, e.Limits...)
		if e.Path == "users" && e.Method == get {
			e.MaxPage = 999
		}
		if e.Method == get && (e.Path == "users" || e.Path == "users/{id}") {
			e.Limits = append(e.Limits, Limit{
				Name: "users with signInActivity", Windows: perMinutes(10, 1), when: asksForSignIns,
			})
		}
	}
	return f
}

// asksForSignIns reports whether a request for users wants signInActivity, which comes from the
// sign-in reports.
func asksForSignIns(req *http.Request) bool {
	return indexFold(req.URL.RawQuery, "signinactivity") >= 0
}

// units returns the price of a directory request in resource units: its row's, one less with
// $select and with a $top below 20, one more with $expand, and never less than one.
func units(req *http.Request) int {
	price := 1
	if e := find(req); e != nil && e.units > 0 {
		price = e.units
	}
	if req.URL == nil || req.URL.RawQuery == "" {
		return price
	}
	query, _ := url.ParseQuery(req.URL.RawQuery) // what it could read counts
	if query.Has("$select") {
		price--
	}
	if query.Has("$expand") {
		price++
	}
	if top, err := strconv.Atoi(query.Get("$top")); err == nil && top < 20 {
		price--
	}
	return max(1, price)
}
