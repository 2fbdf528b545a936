package defender

import "net/http"

// huntingEnds is what security-api-overview says of the two older ways to hunt (message MC1220762).
const huntingEnds = "stops returning data on 2027-02-01; use Graph's security/runHuntingQuery"

// defenderFamilies is the table of MDE and XDR. Its pages are those of MicrosoftDocs/defender-docs:
// defender-endpoint/api, and for incidents and advancedhunting defender-xdr. What other pages list
// without numbers (vulnerabilities, recommendations, software, scores) is the family "other".
//
// Limits that a window can't express are not in it: 25 live response sessions at once in a tenant,
// 15,000 indicators, and the processor time of hunting queries, which no client can know
// beforehand. A 429 tells of them.
func defenderFamilies() []family {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	return []family{
		// get-alerts
		{name: "alerts", page: "get-alerts", windows: per(100, 1500), endpoints: []Endpoint{
			{Method: get, Path: "alerts", MaxPage: 10_000},
		}},
		{name: "alerts/{id}", page: "get-alert-info-by-id, update-alert, get-alert-related-*",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "alerts/{id}"},
				{Method: patch, Path: "alerts/{id}", Retry: RetryUncommented},
				{Method: get, Path: "alerts/{id}/domains"},
				{Method: get, Path: "alerts/{id}/files"},
				{Method: get, Path: "alerts/{id}/ips"},
				{Method: get, Path: "alerts/{id}/machine"},
				{Method: get, Path: "alerts/{id}/user"},
			}},
		// batch-update-alerts
		{name: "alerts/batchUpdate", page: "batch-update-alerts",
			windows: per(10, 500), endpoints: []Endpoint{
				{Method: post, Path: "alerts/batchUpdate", Retry: RetryUncommented},
			}},
		// create-alert-by-reference: it also starts an investigation. No hourly limit is documented.
		{name: "alerts/CreateAlertByReference", page: "create-alert-by-reference",
			windows: per(15, 0), endpoints: []Endpoint{
				{Method: post, Path: "alerts/CreateAlertByReference", Retry: RetryNever},
			}},
		// get-machines: an empty list is a 404.
		{name: "machines", page: "get-machines", windows: per(100, 1500), endpoints: []Endpoint{
			{Method: get, Path: "machines", MaxPage: 10_000},
		}},
		{name: "machines/{id}", page: "get-machine-by-id, update-machine-method, find-machines-by-*, add-or-remove-machine-tags, set-device-value",
			windows: per(100, 1500), endpoints: []Endpoint{
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
		{name: "machines/AddOrRemoveTagForMultipleMachines", page: "add-or-remove-multiple-machine-tags",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: post, Path: "machines/AddOrRemoveTagForMultipleMachines", MaxBatch: 500, Retry: RetryAlways},
			}},
		{name: "machines/{id}/vulnerabilities", page: "get-discovered-vulnerabilities",
			windows: per(50, 1500), endpoints: []Endpoint{
				{Method: get, Path: "machines/{id}/vulnerabilities"},
			}},
		// get-domain-statistics, get-file-information and their neighbours: a page for each method, all with these numbers.
		{name: "domains/{id}", page: "get-domain-*",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "domains/{id}/alerts"},
				{Method: get, Path: "domains/{id}/machines"},
				{Method: get, Path: "domains/{id}/stats"},
			}},
		{name: "files/{id}", page: "get-file-*", windows: per(100, 1500), endpoints: []Endpoint{
			{Method: get, Path: "files/{id}"},
			{Method: get, Path: "files/{id}/alerts"},
			{Method: get, Path: "files/{id}/machines"},
			{Method: get, Path: "files/{id}/stats"},
		}},
		{name: "ips/{id}", page: "get-ip-*", windows: per(100, 1500), endpoints: []Endpoint{
			{Method: get, Path: "ips/{id}/alerts"},
			{Method: get, Path: "ips/{id}/stats"},
		}},
		{name: "users/{id}", page: "get-user-related-*",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "users/{id}/alerts"},
				{Method: get, Path: "users/{id}/machines"},
			}},
		{name: "investigations", page: "get-investigation-*",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "investigations", MaxPage: 10_000},
				{Method: get, Path: "investigations/{id}"},
			}},
		// Limited by the hour alone.
		{name: "machines/{id}/startInvestigation", page: "initiate-autoir-investigation",
			windows: per(0, 50), endpoints: []Endpoint{
				{Method: post, Path: "machines/{id}/startInvestigation", Retry: RetryNever},
			}},
		// isolate-machine, run-av-scan, stop-and-quarantine-file, offboard-machine-api, collect-investigation-package:
		// whether these share their 1500 an hour is not said either.
		{name: "machines/{id}/action", page: "isolate-machine, run-av-scan, stop-and-quarantine-file, …",
			windows: per(100, 1500), endpoints: []Endpoint{
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
		{name: "machineactions", page: "get-machineactions-collection",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "machineactions", MaxPage: 10_000},
				{Method: get, Path: "machineactions/{id}"},
			}},
		// cancel-machine-action
		{name: "machineactions/{id}/cancel", page: "cancel-machine-action",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: post, Path: "machineactions/{id}/cancel", Retry: RetryNever},
			}},
		// get-package-sas-uri, the edition of 2024; that of 2021 stated no limit.
		{name: "machineactions/{id}/getPackageUri", page: "get-package-sas-uri",
			windows: per(2, 120), endpoints: []Endpoint{
				{Method: get, Path: "machineactions/{id}/getPackageUri"},
			}},
		// run-live-response: scripts run on hosts.
		{name: "machines/{id}/runliveresponse", page: "run-live-response",
			pauseOnly: true, windows: per(10, 0), endpoints: []Endpoint{
				{Method: post, Path: "machines/{id}/runliveresponse", Retry: RetryNever},
			}},
		// get-live-response-result
		{name: "machineactions/{id}/GetLiveResponseResultDownloadLink", page: "get-live-response-result",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "machineactions/{id}/GetLiveResponseResultDownloadLink(index={index})"},
			}},
		// upload-library: 20 MB a file. Harmless twice only with OverrideIfExists, which is somewhere in a form.
		{name: "libraryfiles", page: "upload-library, delete-library",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: post, Path: "libraryfiles", Retry: RetryNever},
				{Method: del, Path: "libraryfiles/{id}"},
			}},
		// post-ti-indicator, "submit or update": an indicator is known by its value.
		{name: "indicators", page: "post-ti-indicator",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: get, Path: "indicators"},
				{Method: post, Path: "indicators", Retry: RetryAlways},
			}},
		// delete-ti-indicator-by-id
		{name: "indicators/{id}", page: "delete-ti-indicator-by-id",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: del, Path: "indicators/{id}"},
			}},
		// import-ti-indicators, likewise by value
		{name: "indicators/import", page: "import-ti-indicators",
			windows: per(30, 0), endpoints: []Endpoint{
				{Method: post, Path: "indicators/import", MaxBatch: 500, Retry: RetryAlways},
			}},
		// batch-delete-ti-indicators: an id that is gone fails the whole batch, so that a retry would hide a success.
		{name: "indicators/BatchDelete", page: "batch-delete-ti-indicators",
			windows: per(30, 1500), endpoints: []Endpoint{
				{Method: post, Path: "indicators/BatchDelete", MaxBatch: 500, Retry: RetryNever},
			}},
		// run-advanced-query-api. Queries change nothing, though they spend the tenant's processor time.
		{name: "advancedqueries/run", page: "run-advanced-query-api",
			windows: per(45, 1500), perTenant: true, endpoints: []Endpoint{
				{Method: post, Path: "advancedqueries/run", Retry: RetryAlways, Retired: huntingEnds},
			}},
		// get-assessment-software-inventory, get-assessment-software-vulnerabilities, get-assessment-secure-config: each page has
		// limits "for this API".
		{name: "machines/SoftwareInventoryByMachine", page: "get-assessment-software-inventory",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareInventoryByMachine", MaxPage: 200_000},
			}},
		{name: "machines/SoftwareVulnerabilitiesByMachine", page: "get-assessment-software-vulnerabilities",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareVulnerabilitiesByMachine", MaxPage: 200_000},
			}},
		{name: "machines/SecureConfigurationsAssessmentByMachine", page: "get-assessment-secure-config",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/SecureConfigurationsAssessmentByMachine", MaxPage: 200_000},
			}},
		// The same "via files": the answer is a list of SAS URLs, whose downloads spend no quota.
		{name: "machines/SoftwareInventoryExport", page: "get-assessment-software-inventory",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareInventoryExport"},
			}},
		{name: "machines/SoftwareVulnerabilitiesExport", page: "get-assessment-software-vulnerabilities",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareVulnerabilitiesExport"},
			}},
		{name: "machines/SecureConfigurationsAssessmentExport", page: "get-assessment-secure-config",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/SecureConfigurationsAssessmentExport"},
			}},
		// And what has changed since a time, of the last 14 days.
		{name: "machines/SoftwareVulnerabilityChangesByMachine", page: "get-assessment-software-vulnerabilities",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareVulnerabilityChangesByMachine", MaxPage: 200_000},
			}},

		// device-health-api-methods-properties. The page gives these numbers for the files too; an older
		// one, get-assessment-information-gathering, says 5 and 20 for them. The newest stands: a 429
		// that names a lower limit is taken at its word.
		{name: "deviceavinfo", page: "device-health-api-methods-properties",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "deviceavinfo", MaxPage: 200_000},
			}},
		{name: "machines/InfoGatheringExport", page: "device-health-export-antivirus-health-report-api",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/InfoGatheringExport"},
			}},
		// And the other assessments of vulnerability management, by page and via files.
		{name: "machines/baselineComplianceAssessmentByMachine", page: "export-security-baseline-assessment",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/baselineComplianceAssessmentByMachine", MaxPage: 200_000},
			}},
		{name: "machines/certificateAssessmentByMachine", page: "export-certificate-inventory-assessment",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/certificateAssessmentByMachine", MaxPage: 200_000},
			}},
		{name: "machines/HardwareFirmwareInventoryByMachine", page: "export-firmware-hardware-assessment",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/HardwareFirmwareInventoryByMachine", MaxPage: 200_000},
			}},
		{name: "machines/BrowserExtensionsInventoryByMachine", page: "get-assessment-browser-extensions",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/BrowserExtensionsInventoryByMachine", MaxPage: 200_000},
			}},
		{name: "machines/SoftwareInventoryNoProductCodeByMachine", page: "get-assessment-non-cpe-software-inventory",
			windows: per(30, 1000), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareInventoryNoProductCodeByMachine", MaxPage: 200_000},
			}},
		{name: "machines/BaselineComplianceAssessmentExport", page: "export-security-baseline-assessment",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/BaselineComplianceAssessmentExport"},
			}},
		{name: "machines/certificateAssessmentExport", page: "export-certificate-inventory-assessment",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/certificateAssessmentExport"},
			}},
		{name: "machines/HardwareFirmwareInventoryExport", page: "export-firmware-hardware-assessment",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/HardwareFirmwareInventoryExport"},
			}},
		{name: "machines/browserextensionsinventoryExport", page: "get-assessment-browser-extensions",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/browserextensionsinventoryExport"},
			}},
		{name: "machines/SoftwareInventoryNonCpeExport", page: "get-assessment-non-cpe-software-inventory",
			windows: per(5, 20), endpoints: []Endpoint{
				{Method: get, Path: "machines/SoftwareInventoryNonCpeExport"},
			}},
		// add-a-new-scan-definition: a second POST is a second scan, and one for BatchDelete may find
		// nothing left.
		{name: "DeviceAuthenticatedScanDefinitions", page: "add-a-new-scan-definition",
			windows: per(100, 1500), endpoints: []Endpoint{
				{Method: post, Path: "DeviceAuthenticatedScanDefinitions", Retry: RetryNever},
				{Method: patch, Path: "DeviceAuthenticatedScanDefinitions/{id}", Retry: RetryNever},
				{Method: post, Path: "DeviceAuthenticatedScanDefinitions/BatchDelete", Retry: RetryNever},
			}},

		// api-advanced-hunting (2023-02): "at least 45", more for large tenants. Older pages say 15 (2021) and 45, none an
		// hourly number; the newest stands, since a tenant that is allowed less says so in its 429.
		{name: "advancedhunting/run", page: "api-advanced-hunting",
			pauseOnly: true, windows: per(45, 0), perTenant: true, endpoints: []Endpoint{
				{Service: XDR, Method: post, Path: "advancedhunting/run", Retry: RetryAlways, Retired: huntingEnds},
			}},
		// api-incident: 50 a minute and 1500 an hour for the three, and "each method also has its own quotas": list and
		// update the same ones, the single one 100 in 2021. One quota for all satisfies every reading.
		{name: "incidents", page: "api-incident", windows: per(50, 1500), endpoints: []Endpoint{
			{Service: XDR, Method: get, Path: "incidents", MaxPage: 100},
			{Service: XDR, Method: patch, Path: "incidents/{id}", Retry: RetryUncommented},
			{Service: XDR, Method: get, Path: "incidents/{id}"},
		}},

		// Defender for Cloud Apps, which has hosts of its own, one for each tenant. MicrosoftDocs/CloudAppSecurityDocs.
		{name: "cloudapps", page: "CloudAppSecurityDocs, api-introduction",
			windows: perMinutes(30, 1), perTenant: true, endpoints: []Endpoint{
				{Path: "v1/{rest...}", MaxPage: 100},
			}},
	}
}
