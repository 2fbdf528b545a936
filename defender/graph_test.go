package defender_test

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/defender"
)

// rate is a limit as the page writes it: n in so long, for whom.
type rate struct {
	scope defender.Scope
	n     int
	per   time.Duration
}

const (
	both     = defender.PerAppAndTenant
	tenant   = defender.PerTenant
	app      = defender.PerApp
	resource = defender.PerResource
)

var (
	graphWide = rate{app, 130_000, 10 * time.Second}
	units     = []rate{{both, 8000, 10 * time.Second}, graphWide, {app, 150_000, 20 * time.Second}}
	writes    = append(slices.Clone(units), rate{both, 3000, 150 * time.Second}, rate{app, 35_000, 5 * time.Minute}, rate{tenant, 18_000, 5 * time.Minute})
	devices   = append(slices.Clone(writes), rate{both, 3000, 150 * time.Second}, rate{resource, 25, 10 * time.Second})
)

// documentedRow is a request, all limits that it is under, and whether doing it twice does no harm.
type documentedRow struct {
	method, path string
	idempotent   bool
	limits       []rate
}

// graphDocumented is Graph's part of the table once more, written down from the pages.
var graphDocumented = append([]documentedRow{
	{"POST", "/v1.0/security/runHuntingQuery", true, []rate{{tenant, 45, time.Minute}, graphWide}},
	{"POST", "/v1.0/security/microsoft.graph.security.runHuntingQuery", true, []rate{{tenant, 45, time.Minute}, graphWide}},
	{"GET", "/beta/security/getRunHuntingQuery(query='DeviceInfo',timespan='P1D')", true, []rate{{tenant, 45, time.Minute}, graphWide}},
	{"GET", "/v1.0/security/alerts", true, []rate{{both, 150, time.Minute}, graphWide}},
	{"POST", "/beta/security/securityActions", false, []rate{{both, 150, time.Minute}, graphWide}},
	{"GET", "/v1.0/security/secureScores/1", true, []rate{{both, 150, time.Minute}, graphWide, {both, 10_000, 10 * time.Minute}}},
	{"GET", "/v1.0/security/secureScoreControlProfiles/1", true, []rate{{both, 10_000, 10 * time.Minute}, graphWide}},
	{"PATCH", "/v1.0/security/secureScoreControlProfiles/1", true, []rate{{both, 10_000, 10 * time.Minute}, graphWide}},
	{"POST", "/beta/security/tiIndicators", false, []rate{{both, 1000, time.Minute}, graphWide}},
	{"GET", "/v1.0/security/cases/ediscoveryCases/1", true, []rate{{both, 5, time.Minute}, graphWide}},
	{"PATCH", "/v1.0/security/cases/ediscoveryCases/1", true, []rate{{both, 5, time.Minute}, graphWide}},
	{"PATCH", "/v1.0/security/cases/ediscoveryCases/1/settings", true, []rate{{both, 5, time.Minute}, graphWide}},
	{"PATCH", "/v1.0/security/eDiscoveryCases/1", true, []rate{{both, 5, time.Minute}, graphWide}},
	{"POST", "/v1.0/security/cases/ediscoveryCases/1/searches/2/purgeData", false, []rate{{both, 5, time.Minute}, graphWide}},
	{"POST", "/v1.0/security/cases/ediscoveryCases/1/close", false, []rate{{both, 5, time.Minute}, graphWide}},
	{"GET", "/v1.0/security/eDiscoveryCases", true, []rate{{both, 5, time.Minute}, graphWide}},
	{"POST", "/v1.0/security/auditLog/queries", false, []rate{{tenant, 200, 24 * time.Hour}, graphWide}},
	{"GET", "/v1.0/security/auditLog/queries", true, []rate{graphWide}},
	{"GET", "/v1.0/security/auditLog/queries/168ec429/records", true, []rate{graphWide}},
	{"GET", "/v1.0/security/alerts_v2", true, []rate{graphWide}},
	{"GET", "/v1.0/security/alerts_v2/da637", true, []rate{graphWide}},
	{"PATCH", "/v1.0/security/alerts_v2/da637", true, []rate{graphWide}},
	{"POST", "/v1.0/security/alerts_v2/da637/comments", false, []rate{graphWide}},
	{"POST", "/v1.0/security/alerts_v2/moveAlerts", false, []rate{graphWide}},
	{"POST", "/v1.0/security/alerts_v2/microsoft.graph.security.moveAlerts", false, []rate{graphWide}},
	{"GET", "/v1.0/security/incidents", true, []rate{graphWide}},
	{"GET", "/v1.0/security/incidents/29", true, []rate{graphWide}},
	{"GET", "/v1.0/security/incidents/29/alerts", true, []rate{graphWide}},
	{"PATCH", "/v1.0/security/incidents/29", true, []rate{graphWide}},
	{"POST", "/v1.0/security/incidents/29/comments", false, []rate{graphWide}},
	{"POST", "/v1.0/security/incidents/mergeIncidents", false, []rate{graphWide}},
	{"POST", "/v1.0/security/incidents/microsoft.graph.security.mergeIncidents", false, []rate{graphWide}},
	{"POST", "/v1.0/security/identities/identityAccounts/0104216-0539/invokeAction", false, []rate{graphWide}},
	{"POST", "/v1.0/security/identities/identityAccounts/0104216-0539/microsoft.graph.security.invokeAction", false, []rate{graphWide}},
	{"POST", "/v1.0/security/identities/sensors/regenerateDeploymentAccessKey", false, []rate{graphWide}},
	{"PATCH", "/v1.0/security/identities/healthIssues/b3c1b5fc", true, []rate{graphWide}},
	{"GET", "/v1.0/security/identities/sensors", true, []rate{graphWide}},
	{"GET", "/v1.0/security/identities/sensors/1", true, []rate{graphWide}},
	{"POST", "/v1.0/security/collaboration/analyzedEmails/remediate", false, []rate{graphWide}},
	{"GET", "/v1.0/security/collaboration/analyzedEmails", true, []rate{graphWide}},
	{"GET", "/v1.0/security/threatIntelligence/hosts/contoso.com/reputation", true, []rate{graphWide}},
	{"GET", "/v1.0/security/attackSimulation/simulations", true, []rate{graphWide}},
	{"PATCH", "/v1.0/security/attackSimulation/simulations/1", true, []rate{graphWide}},
	{"POST", "/v1.0/security/attackSimulation/simulations", false, []rate{graphWide}},
	{"GET", "/v1.0/identityProtection/riskyUsers", true, []rate{{tenant, 1, time.Second}, graphWide}},
	{"GET", "/v1.0/identityProtection/riskyUsers/7412b4cc", true, []rate{{tenant, 1, time.Second}, graphWide}},
	{"POST", "/v1.0/identityProtection/riskyUsers/dismiss", true, []rate{{tenant, 1, time.Second}, graphWide}},
	{"POST", "/v1.0/identityProtection/riskyUsers/confirmCompromised", true, []rate{{tenant, 1, time.Second}, graphWide}},
	{"POST", "/v1.0/identityProtection/riskyUsers/confirmSafe", true, []rate{{tenant, 1, time.Second}, graphWide}},
	{"GET", "/v1.0/identity/conditionalAccess/policies", true, []rate{{tenant, 1, time.Second}, graphWide}},
	{"GET", "/v1.0/auditLogs/signIns", true, []rate{{both, 5, 10 * time.Second}, graphWide, {app, 122, 10 * time.Second}}},
	{"GET", "/v1.0/auditLogs/directoryAudits", true, []rate{{both, 5, 10 * time.Second}, graphWide, {app, 122, 10 * time.Second}}},
	{"POST", "/v1.0/informationProtection/threatAssessmentRequests", false, []rate{
		{tenant, 150, 15 * time.Minute}, {tenant, 10_000, 24 * time.Hour}, graphWide, {resource, 1, 15 * time.Minute}, {resource, 3, 24 * time.Hour},
	}},
	{"GET", "/v1.0/informationProtection/bitlocker/recoveryKeys", true, []rate{graphWide}},
	{"POST", "/v1.0/subscriptions", false, []rate{{both, 500, 20 * time.Second}, graphWide, {app, 2000, 20 * time.Second}}},
	{"PATCH", "/v1.0/subscriptions/7f105c7d", false, []rate{{both, 500, 20 * time.Second}, graphWide, {app, 2000, 20 * time.Second}}},
	{"DELETE", "/v1.0/subscriptions/7f105c7d", true, []rate{{both, 500, 20 * time.Second}, graphWide, {app, 2000, 20 * time.Second}}},
	{"GET", "/v1.0/subscriptions", true, []rate{{both, 25, 20 * time.Second}, graphWide, {app, 40, 20 * time.Second}}},
	{"GET", "/v1.0/subscriptions/7f105c7d", true, []rate{graphWide}},
	{"GET", "/v1.0/admin/exchange/tracing/messageTraces", true, []rate{{tenant, 100, 5 * time.Minute}, graphWide}},
	{"GET", "/v1.0/users", true, append(slices.Clone(units), rate{both, 10, time.Minute})}, // the last with signInActivity
	{"GET", "/v1.0/users/user1@contoso.com", true, append(slices.Clone(units), rate{both, 10, time.Minute})},
	{"PATCH", "/v1.0/users/user1@contoso.com", true, writes},
	{"POST", "/v1.0/users", false, writes},
	{"DELETE", "/v1.0/users/user1@contoso.com", true, writes},
	{"POST", "/v1.0/users/user1@contoso.com/revokeSignInSessions", true, writes},
	{"GET", "/v1.0/me", true, units},
	{"POST", "/v1.0/groups/1/members/$ref", true, writes},
	{"DELETE", "/v1.0/groups/1/members/2/$ref", true, writes},
	{"GET", "/v1.0/groups/1/members", true, units},
	{"GET", "/v1.0/devices", true, units},
	{"PATCH", "/v1.0/devices/1", true, devices},
	{"POST", "/v1.0/devices", false, devices},
	{"DELETE", "/v1.0/devices/1", true, devices},
	{"POST", "/v1.0/directoryObjects/getByIds", true, units},
	{"GET", "/v1.0/directoryObjects/1", true, units},
	{"POST", "/v1.0/me/revokeSignInSessions", true, writes},
}, directoryDocumented()...)

// directoryDocumented is the rest of the directory: reads, what only asks, and the writes of its
// other objects.
func directoryDocumented() (all []documentedRow) {
	for _, of := range []string{"groups", "servicePrincipals", "applications", "contacts"} {
		all = append(all,
			documentedRow{"GET", "/v1.0/" + of, true, units}, documentedRow{"GET", "/v1.0/" + of + "/1", true, units},
			documentedRow{"POST", "/v1.0/" + of, false, writes}, documentedRow{"PATCH", "/v1.0/" + of + "/1", true, writes},
			documentedRow{"DELETE", "/v1.0/" + of + "/1", true, writes})
	}
	all = append(all, documentedRow{"GET", "/v1.0/devices/1", true, units})
	for _, of := range []string{"/v1.0/me/", "/v1.0/users/1/"} {
		for _, path := range []string{
			"licenseDetails", "memberOf", "ownedObjects", "transitiveMemberOf", "manager", "directReports", "ownedDevices", "registeredDevices",
		} {
			all = append(all, documentedRow{"GET", of + path, true, units})
		}
		for _, path := range []string{"checkMemberGroups", "checkMemberObjects", "getMemberGroups", "getMemberObjects"} {
			all = append(all, documentedRow{"POST", of + path, true, units})
		}
	}
	for _, path := range []string{
		"groups/1/transitiveMembers", "groups/1/owners", "groups/1/memberOf", "devices/1/registeredOwners", "devices/1/registeredUsers",
		"devices/1/memberOf", "servicePrincipals/1/appRoleAssignments", "applications/1/extensionProperties", "oauth2PermissionGrants",
		"oauth2PermissionGrants/1", "subscribedSkus", "contracts", "organization", "domains", "domains/contoso.com",
		"domains/contoso.com/domainNameReferences", "directoryRoles", "directoryRoles/1", "directoryRoles/1/members",
	} {
		all = append(all, documentedRow{"GET", "/v1.0/" + path, true, units})
	}
	return all
}

func matchGraph(t testing.TB, method, path string) (defender.Endpoint, bool) {
	t.Helper()
	u, err := url.Parse("https://graph.microsoft.com" + path)
	if err != nil {
		t.Fatal(err)
	}
	return defender.Match(&http.Request{Method: method, URL: u})
}

// Every documented method of Graph is found under every spelling, with all limits of its page, and
// the classes of its retries.
func TestGraphIsAsDocumented(t *testing.T) {
	for _, d := range graphDocumented {
		spelt := []string{d.path, d.path + "/", strings.Replace(d.path, "/v1.0/", "/beta/", 1), strings.ToUpper(d.path), d.path + "?$top=1"}
		for _, path := range spelt {
			e, ok := matchGraph(t, d.method, path)
			if !ok || e.Service != defender.Graph {
				t.Errorf("%s %s: %+v, %v", d.method, path, e, ok)
				continue
			}
			got := ratesOf(e)
			if want := slices.SortedFunc(slices.Values(d.limits), byRate); !slices.Equal(got, want) {
				t.Errorf("%s %s is under %v, want %v", d.method, path, got, want)
			}
			u, _ := url.Parse("https://graph.microsoft.com" + path)
			req := &http.Request{Method: d.method, URL: u, GetBody: body(`{"status":"resolved"}`)}
			if idempotent := defender.Idempotent(req); idempotent != d.idempotent {
				t.Errorf("%s %s: idempotent %v", d.method, path, idempotent)
			}
		}
	}
}

func ratesOf(e defender.Endpoint) (all []rate) {
	scope := defender.PerAppAndTenant
	if e.PerTenant {
		scope = defender.PerTenant
	}
	for _, w := range e.Windows {
		all = append(all, rate{scope, w.N, w.Per})
	}
	for _, l := range e.Limits {
		for _, w := range l.Windows {
			all = append(all, rate{l.Scope, w.N, w.Per})
		}
	}
	slices.SortFunc(all, byRate)
	return all
}

func byRate(a, b rate) int {
	return cmp.Or(cmp.Compare(a.scope, b.scope), cmp.Compare(a.per, b.per), cmp.Compare(a.n, b.n))
}

func body(text string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
}

// What is no window is in the data too: how many at once, and what can only be told by a 429.
func TestGraphLimitsThatAreNoRate(t *testing.T) {
	for path, want := range map[string]struct {
		concurrent int
		unkept     bool
	}{
		"/v1.0/security/secureScores": {4, false}, "/v1.0/security/secureScoreControlProfiles/x": {4, false},
		"/v1.0/security/auditLog/queries": {50, true},
	} {
		method := "GET"
		if want.unkept {
			method = "POST"
		}
		e, _ := matchGraph(t, method, path)
		if !slices.ContainsFunc(e.Limits, func(l defender.Limit) bool {
			return l.Concurrent == want.concurrent && l.Unkept == want.unkept
		}) {
			t.Errorf("%s: %+v", path, e.Limits)
		}
	}
}

// A path that nobody documents is none of the table's, whatever stands where an ID would.
func TestMethodsAreNoIDs(t *testing.T) {
	for _, path := range []string{
		"/api/machines/SomeNewExport", "/api/machines/somenewexport", "/api/machines/$count", "/api/machines/find(timestamp=1,key='1')",
		"/api/alerts/export", "/api/machineactions/purge", "/api/files/search", "/api/investigations/recent", "/api/incidents/$metadata",
		"/api/incidents/mergeAll", "/api/machines/m1/newThing(x=1)",
	} {
		if e, ok := match(t, "GET", path); ok {
			t.Errorf("%s is %s", path, e.Path)
		}
	}
	for _, path := range []string{
		"/v1.0/security/incidents/delta", "/v1.0/security/incidents/$count", "/v1.0/users/delta", "/v1.0/users/1/messages", "/v1.0/$batch",
		"/v1.0/security/incidents/delta(token='1')", "/v1.0/sites/1", "/v1.0/groups/delta", "/v1.0", "/v1.0/security",
	} {
		if e, ok := matchGraph(t, "GET", path); ok {
			t.Errorf("%s is %s", path, e.Path)
		}
	}
	for path, want := range map[string]string{
		"/api/machines/1e5bc9d7e413ddd7902c2932e418702b84d0cc07": "machines/{id}", "/api/machines/pc-7.contoso.com": "machines/{id}",
		"/api/machines/fileserver/alerts": "machines/{id}/alerts", "/api/alerts/da637_-12": "alerts/{id}", "/api/incidents/924521": "incidents/{id}",
		"/api/files/d41d8cd98f00b204e9800998ecf8427e": "files/{id}", "/api/users/administrator/alerts": "users/{id}/alerts",
	} {
		if e, ok := match(t, "GET", path); !ok || e.Path != want {
			t.Errorf("%s is %q, %v, want %s", path, e.Path, ok, want)
		}
	}
}

// Two rows are about to be history, and two are.
func TestRetiredRowsSaySo(t *testing.T) {
	var retired []string
	for _, e := range defender.Endpoints() {
		if e.Retired != "" {
			retired = append(retired, e.Path)
			if !strings.Contains(e.Retired, "; use ") || !strings.ContainsAny(e.Retired, "0123456789") {
				t.Errorf("%s: %q does not say when, and what to use", e.Path, e.Retired)
			}
		}
	}
	if want := []string{"advancedqueries/run", "advancedhunting/run", "security/alerts/{rest...}", "security/tiIndicators/{rest...}"}; !slices.Equal(retired, want) {
		t.Errorf("%q are retired, want %q", retired, want)
	}
}
