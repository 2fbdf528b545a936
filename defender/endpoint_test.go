package defender_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

// documented is the table once more, written down from the pages and not from the code: a request for each method, and the
// numbers of its page. 0 is none.
var documented = []struct {
	method, path string
	family       string
	minute, hour int
}{
	{"GET", "/api/alerts", "alerts", 100, 1500},
	{"GET", "/api/alerts/da637_-12", "alerts/{id}", 100, 1500},
	{"PATCH", "/api/alerts/da637_-12", "alerts/{id}", 100, 1500},
	{"GET", "/api/alerts/da637_-12/domains", "alerts/{id}", 100, 1500},
	{"GET", "/api/alerts/da637_-12/files", "alerts/{id}", 100, 1500},
	{"GET", "/api/alerts/da637_-12/ips", "alerts/{id}", 100, 1500},
	{"GET", "/api/alerts/da637_-12/machine", "alerts/{id}", 100, 1500},
	{"GET", "/api/alerts/da637_-12/user", "alerts/{id}", 100, 1500},
	{"POST", "/api/alerts/batchUpdate", "alerts/batchUpdate", 10, 500},
	{"POST", "/api/alerts/CreateAlertByReference", "alerts/CreateAlertByReference", 15, 0},
	{"GET", "/api/machines", "machines", 100, 1500},
	{"GET", "/api/machines/1e5bc9d7", "machines/{id}", 100, 1500},
	{"PATCH", "/api/machines/1e5bc9d7", "machines/{id}", 100, 1500},
	{"GET", "/api/machines/1e5bc9d7/logonusers", "machines/{id}", 100, 1500},
	{"GET", "/api/machines/1e5bc9d7/alerts", "machines/{id}", 100, 1500},
	{"GET", "/api/machines/findbyip(ip='10.248.240.38',timestamp=2019-09-22T08:44:05Z)", "machines/{id}", 100, 1500},
	{"GET", "/api/machines/findbytag", "machines/{id}", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/tags", "machines/{id}", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/setDeviceValue", "machines/{id}", 100, 1500},
	{"POST", "/api/machines/AddOrRemoveTagForMultipleMachines", "machines/AddOrRemoveTagForMultipleMachines", 100, 1500},
	{"GET", "/api/machines/1e5bc9d7/vulnerabilities", "machines/{id}/vulnerabilities", 50, 1500},
	{"GET", "/api/domains/example.com/alerts", "domains/{id}", 100, 1500},
	{"GET", "/api/domains/example.com/machines", "domains/{id}", 100, 1500},
	{"GET", "/api/domains/example.com/stats", "domains/{id}", 100, 1500},
	{"GET", "/api/files/4388963a", "files/{id}", 100, 1500},
	{"GET", "/api/files/4388963a/alerts", "files/{id}", 100, 1500},
	{"GET", "/api/files/4388963a/machines", "files/{id}", 100, 1500},
	{"GET", "/api/files/4388963a/stats", "files/{id}", 100, 1500},
	{"GET", "/api/ips/10.209.67.177/alerts", "ips/{id}", 100, 1500},
	{"GET", "/api/ips/10.209.67.177/stats", "ips/{id}", 100, 1500},
	{"GET", "/api/users/user1/alerts", "users/{id}", 100, 1500},
	{"GET", "/api/users/user1/machines", "users/{id}", 100, 1500},
	{"GET", "/api/investigations", "investigations", 100, 1500},
	{"GET", "/api/investigations/63004", "investigations", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/startInvestigation", "machines/{id}/startInvestigation", 0, 50},
	{"POST", "/api/machines/1e5bc9d7/isolate", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/unisolate", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/restrictCodeExecution", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/unrestrictCodeExecution", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/runAntiVirusScan", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/StopAndQuarantineFile", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/offboard", "machines/{id}/action", 100, 1500},
	{"POST", "/api/machines/1e5bc9d7/collectInvestigationPackage", "machines/{id}/action", 100, 1500},
	{"GET", "/api/machineactions", "machineactions", 100, 1500},
	{"GET", "/api/machineactions/2e9da30d-27f6-4208-81f2-9cd3d67893ba", "machineactions", 100, 1500},
	{"POST", "/api/machineactions/2e9da30d/cancel", "machineactions/{id}/cancel", 100, 1500},
	{"GET", "/api/machineactions/2e9da30d/getPackageUri", "machineactions/{id}/getPackageUri", 2, 120},
	{"POST", "/api/machines/1e5bc9d7/runliveresponse", "machines/{id}/runliveresponse", 10, 0},
	{"GET", "/api/machineactions/988cc94e/GetLiveResponseResultDownloadLink(index=0)", "machineactions/{id}/GetLiveResponseResultDownloadLink", 100, 1500},
	{"POST", "/api/libraryfiles", "libraryfiles", 100, 1500},
	{"GET", "/api/indicators", "indicators", 100, 1500},
	{"POST", "/api/indicators", "indicators", 100, 1500},
	{"DELETE", "/api/indicators/995", "indicators/{id}", 100, 1500},
	{"POST", "/api/indicators/import", "indicators/import", 30, 0},
	{"POST", "/api/indicators/BatchDelete", "indicators/BatchDelete", 30, 1500},
	{"POST", "/api/advancedqueries/run", "advancedqueries/run", 45, 1500},
	{"GET", "/api/machines/SoftwareInventoryByMachine", "machines/SoftwareInventoryByMachine", 30, 1000},
	{"GET", "/api/machines/SoftwareVulnerabilitiesByMachine", "machines/SoftwareVulnerabilitiesByMachine", 30, 1000},
	{"GET", "/api/machines/SecureConfigurationsAssessmentByMachine", "machines/SecureConfigurationsAssessmentByMachine", 30, 1000},
	{"GET", "/api/machines/SoftwareInventoryExport", "machines/SoftwareInventoryExport", 5, 20},
	{"GET", "/api/machines/SoftwareVulnerabilitiesExport", "machines/SoftwareVulnerabilitiesExport", 5, 20},
	{"GET", "/api/machines/SecureConfigurationsAssessmentExport", "machines/SecureConfigurationsAssessmentExport", 5, 20},
	{"GET", "/api/machines/SoftwareVulnerabilityChangesByMachine", "machines/SoftwareVulnerabilityChangesByMachine", 30, 1000},
	{"DELETE", "/api/libraryfiles/script1.ps1", "libraryfiles", 100, 1500},
	{"GET", "/api/deviceavinfo", "deviceavinfo", 30, 1000},
	{"GET", "/api/machines/InfoGatheringExport", "machines/InfoGatheringExport", 30, 1000},
	{"GET", "/api/machines/baselineComplianceAssessmentByMachine", "machines/baselineComplianceAssessmentByMachine", 30, 1000},
	{"GET", "/api/machines/certificateAssessmentByMachine", "machines/certificateAssessmentByMachine", 30, 1000},
	{"GET", "/api/machines/HardwareFirmwareInventoryByMachine", "machines/HardwareFirmwareInventoryByMachine", 30, 1000},
	{"GET", "/api/machines/BrowserExtensionsInventoryByMachine", "machines/BrowserExtensionsInventoryByMachine", 30, 1000},
	{"GET", "/api/machines/SoftwareInventoryNoProductCodeByMachine", "machines/SoftwareInventoryNoProductCodeByMachine", 30, 1000},
	{"GET", "/api/machines/BaselineComplianceAssessmentExport", "machines/BaselineComplianceAssessmentExport", 5, 20},
	{"GET", "/api/machines/certificateAssessmentExport", "machines/certificateAssessmentExport", 5, 20},
	{"GET", "/api/machines/HardwareFirmwareInventoryExport", "machines/HardwareFirmwareInventoryExport", 5, 20},
	{"GET", "/api/machines/browserextensionsinventoryExport", "machines/browserextensionsinventoryExport", 5, 20},
	{"GET", "/api/machines/SoftwareInventoryNonCpeExport", "machines/SoftwareInventoryNonCpeExport", 5, 20},
	{"POST", "/api/DeviceAuthenticatedScanDefinitions", "DeviceAuthenticatedScanDefinitions", 100, 1500},
	{"PATCH", "/api/DeviceAuthenticatedScanDefinitions/289224fb-1686", "DeviceAuthenticatedScanDefinitions", 100, 1500},
	{"POST", "/api/DeviceAuthenticatedScanDefinitions/BatchDelete", "DeviceAuthenticatedScanDefinitions", 100, 1500},
	{"POST", "/api/advancedhunting/run", "advancedhunting/run", 45, 0},
	{"GET", "/api/incidents", "incidents", 50, 1500},
	{"PATCH", "/api/incidents/924521", "incidents", 50, 1500},
	{"GET", "/api/incidents/924521", "incidents", 50, 1500},

	{"POST", "/v1.0/security/runHuntingQuery", "security/runHuntingQuery", 45, 0},
	{"POST", "/v1.0/security/microsoft.graph.security.runHuntingQuery", "security/runHuntingQuery", 45, 0},
	{"GET", "/v1.0/security/alerts", "security", 150, 0},
	{"PATCH", "/v1.0/security/alerts/2517536653831539999", "security", 150, 0},
	{"POST", "/v1.0/security/securityActions", "security", 150, 0},
	{"POST", "/v1.0/security/securityActions/1/cancelSecurityAction", "security", 150, 0},
	{"GET", "/v1.0/security/secureScores", "security", 150, 0},
	{"GET", "/v1.0/security/secureScores/1", "security", 150, 0},
	{"POST", "/v1.0/security/tiIndicators", "security/tiIndicators", 1000, 0},
	{"POST", "/v1.0/security/tiIndicators/submitTiIndicators", "security/tiIndicators", 1000, 0},
	{"POST", "/v1.0/security/cases/ediscoveryCases/1/searches/2/estimateStatistics", "security/cases/ediscoveryCases", 5, 0},
	{"GET", "/v1.0/security/alerts_v2", "security/alerts_v2", 0, 0},
	{"GET", "/v1.0/security/alerts_v2/da637", "security/alerts_v2", 0, 0},
	{"PATCH", "/v1.0/security/alerts_v2/da637", "security/alerts_v2", 0, 0},
	{"GET", "/v1.0/security/incidents", "security/incidents", 0, 0},
	{"GET", "/v1.0/security/incidents/29", "security/incidents", 0, 0},
	{"PATCH", "/v1.0/security/incidents/29", "security/incidents", 0, 0},

	{"GET", "/api/v1/alerts/", "cloudapps", 30, 0},
	{"POST", "/api/v1/entities/", "cloudapps", 30, 0},
}

func match(t testing.TB, method, path string) (defender.Endpoint, bool) {
	t.Helper()
	u, err := url.Parse("https://api.security.microsoft.com" + path)
	if err != nil {
		t.Fatal(err)
	}
	return defender.Match(&http.Request{Method: method, URL: u})
}

// variants are other spellings of a path that lead to the same method.
func variants(path string) []string {
	all := []string{path, path + "/", path + "?$top=1&$skip=2"}
	if rest, ok := strings.CutPrefix(path, "/api/"); ok && !strings.HasPrefix(rest, "v1/") {
		all = append(all, "/api/v1.0/"+rest, "/API/V1.0/"+rest)
	} else {
		all = append(all, strings.Replace(path, "/v1.0/", "/beta/", 1))
	}
	for _, spelt := range slices.Clone(all) {
		all = append(all, strings.ToUpper(spelt), strings.ToLower(spelt))
	}
	return append(all, escaped(path))
}

// escaped returns path with every other byte of its names escaped, needlessly.
func escaped(path string) string {
	var b strings.Builder
	for i, c := range []byte(path) {
		if i%2 == 1 && ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			b.WriteString("%" + strings.ToUpper(string("0123456789abcdef"[c>>4])+string("0123456789abcdef"[c&15])))
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func windows(minute, hour int) []quota.Window {
	var w []quota.Window
	if minute > 0 {
		w = append(w, quota.Window{N: minute, Per: time.Minute})
	}
	if hour > 0 {
		w = append(w, quota.Window{N: hour, Per: time.Hour})
	}
	return w
}

// Every documented method is found under every spelling, with the numbers of its page.
func TestMatchDocumented(t *testing.T) {
	for _, d := range documented {
		for _, path := range variants(d.path) {
			e, ok := match(t, d.method, path)
			if !ok || e.Family != d.family || !slices.Equal(e.Windows, windows(d.minute, d.hour)) {
				t.Errorf("%s %s: %+v, %v, want family %s with %d and %d", d.method, path, e, ok, d.family, d.minute, d.hour)
			}
		}
	}
	// Windows of other lengths.
	if e, _ := match(t, "GET", "/v1.0/security/secureScoreControlProfiles/x"); !slices.Equal(e.Windows, []quota.Window{{N: 10_000, Per: 10 * time.Minute}}) {
		t.Errorf("secureScoreControlProfiles: %+v", e)
	}
	if e, _ := match(t, "GET", "/v1.0/identityProtection/riskyUsers"); !slices.Equal(e.Windows, []quota.Window{{N: 1, Per: time.Second}}) || !e.PerTenant {
		t.Errorf("identityProtection: %+v", e)
	}
}

// Nothing is in the table that is not documented, and no row of it is out of reach.
func TestEndpointsAreDocumented(t *testing.T) {
	found := make(map[string]bool)
	for _, d := range documented {
		if e, ok := match(t, d.method, d.path); ok {
			found[e.Method+" "+e.Path] = true
		}
	}
	found[" security/secureScoreControlProfiles/{rest...}"] = true
	found[" identityProtection/{rest...}"] = true
	for _, d := range graphDocumented {
		if e, ok := matchGraph(t, d.method, d.path); ok {
			found[e.Method+" "+e.Path] = true
		}
	}
	families := make(map[string]defender.Endpoint)
	for _, e := range defender.Endpoints() {
		if !found[e.Method+" "+e.Path] {
			t.Errorf("%s %s is found by no documented request", e.Method, e.Path)
		}
		if e.Method == http.MethodGet && e.Retry != defender.RetryByMethod {
			t.Errorf("GET %s: retry is %d", e.Path, e.Retry)
		}
		if e.Method == http.MethodPost && e.Retry == defender.RetryByMethod {
			t.Errorf("POST %s does not say whether it may be retried", e.Path)
		}
		if first, ok := families[e.Family]; ok && (!slices.Equal(first.Windows, e.Windows) || first.PerTenant != e.PerTenant) {
			t.Errorf("family %s is not of one mind: %+v, %+v", e.Family, first, e)
		}
		families[e.Family] = e
	}
	perTenant := slices.DeleteFunc(slices.Sorted(maps.Keys(families)), func(f string) bool { return !families[f].PerTenant })
	if want := []string{
		"admin/exchange/tracing/messageTraces", "advancedhunting/run", "advancedqueries/run", "cloudapps", "identityProtection",
		"informationProtection/threatAssessmentRequests", "security/auditLog/queries", "security/runHuntingQuery",
	}; !slices.Equal(perTenant, want) {
		t.Errorf("quotas of the tenant are %q, want %q", perTenant, want)
	}
}

// The simulated server has its numbers from the same pages. Where both have a family of one name, it is the same.
func TestEndpointsAgreeWithTheSimulatedServer(t *testing.T) {
	theirs := defendertest.DefaultQuotas()
	shared := make(map[string]bool)
	for _, e := range defender.Endpoints() {
		if q, ok := theirs[e.Family]; ok {
			shared[e.Family] = true
			if !slices.Equal(e.Windows, q) {
				t.Errorf("%s: %v here, %+v there", e.Family, e.Windows, q)
			}
		}
	}
	if len(shared) < 15 {
		t.Errorf("only %d families are known to both", len(shared))
	}
}

func TestEndpointSizes(t *testing.T) {
	pages := map[string]int{
		"/api/alerts": 10_000, "/api/machines": 10_000, "/api/investigations": 10_000, "/api/machineactions": 10_000,
		"/api/machines/SoftwareInventoryByMachine": 200_000, "/api/machines/SoftwareVulnerabilitiesByMachine": 200_000,
		"/api/machines/SecureConfigurationsAssessmentByMachine": 200_000, "/api/machines/SoftwareVulnerabilityChangesByMachine": 200_000,
		"/api/incidents": 100, "/api/v1/alerts/": 100, "/api/v1/entities/": 100,
		"/api/deviceavinfo": 200_000, "/api/machines/baselineComplianceAssessmentByMachine": 200_000,
		"/api/machines/certificateAssessmentByMachine": 200_000, "/api/machines/HardwareFirmwareInventoryByMachine": 200_000,
		"/api/machines/BrowserExtensionsInventoryByMachine": 200_000, "/api/machines/SoftwareInventoryNoProductCodeByMachine": 200_000,
		// security-error-codes, and wazuh/wazuh#28070.
		"/v1.0/security/alerts": 1000, "/v1.0/security/alerts/2517536653831539999": 1000, "/v1.0/security/alerts_v2": 1000,
		"/v1.0/security/incidents": 50,
	}
	batches := map[string]int{
		"/api/machines/AddOrRemoveTagForMultipleMachines": 500, "/api/indicators/import": 500, "/api/indicators/BatchDelete": 500,
	}
	for _, d := range documented {
		if e, _ := match(t, d.method, d.path); e.MaxPage != pages[d.path] || e.MaxBatch != batches[d.path] {
			t.Errorf("%s %s: page %d, batch %d, want %d, %d", d.method, d.path, e.MaxPage, e.MaxBatch, pages[d.path], batches[d.path])
		}
	}
}

// What the caller does to the rows is his own affair.
func TestEndpointsAreTheCallersOwn(t *testing.T) {
	for _, e := range defender.Endpoints() {
		for i := range e.Windows {
			e.Windows[i].N = -1
		}
	}
	e, _ := match(t, "GET", "/api/alerts")
	e.Windows[0].N = -1
	if e, _ := match(t, "GET", "/api/alerts"); e.Windows[0].N != 100 {
		t.Errorf("alerts: %+v", e)
	}
	if first := defender.Endpoints()[0]; first.Path != "alerts" || first.Windows[0].N != 100 {
		t.Errorf("first row: %+v", first)
	}
}

func TestMatchNothing(t *testing.T) {
	for _, c := range []struct{ method, path string }{
		{"GET", ""},
		{"GET", "/"},
		{"GET", "/api"},
		{"GET", "/api/v1.0"},
		{"GET", "/machines"},
		{"GET", "/v1.0/machines"},
		{"GET", "/api/v2.0/machines"},
		{"GET", "/api/api/machines"},
		{"GET", "/api/v1.0/v1.0/machines"},
		{"GET", "/api/security/incidents"},
		{"GET", "/v1.0/users"},
		{"GET", "/api/machine"},
		{"GET", "/api/machinesx"},
		{"GET", "/api//machines"},
		{"GET", "/api/machines//alerts"},
		{"GET", "/api/machines/m1/alerts/x"},
		{"GET", "/api/machines/m1/software"},
		{"GET", "/api/machines/../alerts"},
		{"GET", "/api/machines/%2e%2e/alerts"},
		{"GET", "/api/machines/./alerts"},
		{"GET", "/api/machines/m1/isolate"},
		{"DELETE", "/api/machines/m1"},
		{"POST", "/api/machines"},
		{"PUT", "/api/indicators/1"},
		{"get", "/api/machines"},
		{"GET", "/api/machineactions/1/GetLiveResponseResultDownloadLink"},
		{"GET", "/api/machines/" + strings.Repeat("x", 1000) + "/" + strings.Repeat("y", 1000)},
	} {
		if e, ok := match(t, c.method, c.path); ok {
			t.Errorf("%s %s is %s %s", c.method, c.path, e.Method, e.Path)
		}
	}
	if _, ok := defender.Match(&http.Request{Method: "GET"}); ok {
		t.Error("a request without a URL matches")
	}
	if _, ok := defender.Match(&http.Request{Method: "GET", URL: &url.URL{Path: "/api/machines/%zz/alerts", RawPath: "/api/machines/%zz/alerts"}}); !ok {
		t.Error("a path whose escaped form is invalid is its plain form")
	}
}

func TestMatchIDs(t *testing.T) {
	for _, c := range []struct{ method, path, want string }{
		// An escaped slash stays within its segment, as in the names of domain users.
		{"GET", "/api/users/contoso%2Fuser1/alerts", "users/{id}/alerts"},
		{"GET", "/api/users/contoso%5Cuser1/machines", "users/{id}/machines"},
		{"GET", "/api/machines/a%20b/alerts", "machines/{id}/alerts"},
		{"GET", "/api/machines/%C3%A9", "machines/{id}"},
		{"GET", "/api/machines/" + strings.Repeat("x", 1000), "machines/{id}"},
		{"GET", "/api/machines/findbyip(ip='::1',timestamp=2019-09-22T08%3A44%3A05Z)", "machines/findbyip(ip={ip},timestamp={time})"},
		{"GET", "/api/machineactions/1/getliveresponseresultdownloadlink(INDEX=12)", "machineactions/{id}/GetLiveResponseResultDownloadLink(index={index})"},
		// A method goes before an id.
		{"GET", "/api/machines/FindByTag", "machines/findbytag"},
		{"POST", "/api/indicators/Import", "indicators/import"},
		// What the table does not say of HEAD is that of GET.
		{"HEAD", "/api/machines/m1", "machines/{id}"},
		{"", "/api/machines/m1", "machines/{id}"},
		{"GET", "//api/machines/m1//", "machines/{id}"},
	} {
		if e, ok := match(t, c.method, c.path); !ok || e.Path != c.want {
			t.Errorf("%s %s is %q, want %q", c.method, c.path, e.Path, c.want)
		}
	}
}

// The router is asked at every call: it must not cost an allocation.
func TestMatchingAllocatesNothing(t *testing.T) {
	for _, path := range []string{"/api/machines/1e5bc9d7/vulnerabilities", "/api/v1.0/machineactions/1/GetLiveResponseResultDownloadLink(index=0)", "/api/nothing"} {
		u, _ := url.Parse("https://api.security.microsoft.com" + path)
		req := &http.Request{Method: "GET", URL: u}
		if n := testing.AllocsPerRun(100, func() { defender.Idempotent(req) }); n > 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for name, path := range map[string]string{
		"short":    "/api/machines",
		"id":       "/api/machines/1e5bc9d7e413ddd7902c2932e418702b84d0cc07/vulnerabilities",
		"function": "/api/v1.0/machineactions/988cc94e-7a8f-4b28-ab65-54970c5d5018/GetLiveResponseResultDownloadLink(index=0)",
		"escaped":  "/api/users/contoso%2Fuser1/alerts",
		"unknown":  "/api/machines/1e5bc9d7e413ddd7902c2932e418702b84d0cc07/something",
	} {
		u, err := url.Parse("https://api.security.microsoft.com" + path)
		if err != nil {
			b.Fatal(err)
		}
		req := &http.Request{Method: "GET", URL: u}
		// Of Match, all but the copy of the row.
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				defender.Idempotent(req)
			}
		})
	}
}
