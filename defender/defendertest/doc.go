// Package defendertest is a simulated Microsoft Defender for Endpoint API, in
// the manner of net/http/httptest: a tenant with machines, alerts, indicators
// and machine actions behind the documented paths, codes, envelopes and quotas.
//
// Its purpose is proof. A [Server] keeps a ledger of every call that arrived
// and counts every change it carried out, so that a test can say of a client
// which retries through an outage that nothing was lost and nothing was done
// twice:
//
//	server := defendertest.NewServer(defendertest.Config{
//		Faults: defendertest.Faults{Error503: 0.1, ResetAfter: 0.1},
//	})
//	defer server.Close()
//	// … let the client isolate every machine at server.URL …
//	for _, id := range server.MachineIDs() {
//		if n := server.Effects()["isolate "+id]; n != 1 {
//			t.Errorf("%s was isolated %d times", id, n)
//		}
//	}
//
// It is of use without Go too: "steady simulate" runs it as a program.
//
// # What is served
//
// Paths begin with /api or /api/v1.0, and their fixed segments are matched
// whatever their case. Every error answer has the documented envelope with a
// fresh target. A call passes, in this order: the token, the quota of its
// endpoint family (see [DefaultQuotas]), the faults, and then the tenant.
//
//	GET    machines                                    $top, $skip, $filter, paged
//	GET    machines/{id}
//	PATCH  machines/{id}                               machineTags, deviceValue
//	GET    machines/findbyip(ip='…',timestamp=…)
//	GET    machines/findbytag                          tag, useStartsWithFilter
//	GET    machines/{id}/logonusers                    also alerts
//	GET    machines/{id}/vulnerabilities               paged
//	POST   machines/{id}/tags                          Value, Action
//	POST   machines/{id}/setDeviceValue                DeviceValue
//	POST   machines/AddOrRemoveTagForMultipleMachines  Value, Action, MachineIds
//	POST   machines/{id}/isolate                       Comment, IsolationType
//	POST   machines/{id}/unisolate                     Comment, as all actions
//	POST   machines/{id}/restrictCodeExecution         also unrestrictCodeExecution
//	POST   machines/{id}/runAntiVirusScan              ScanType
//	POST   machines/{id}/StopAndQuarantineFile         Sha1
//	POST   machines/{id}/offboard
//	POST   machines/{id}/collectInvestigationPackage
//	POST   machines/{id}/startInvestigation
//	POST   machines/{id}/runliveresponse               Commands
//	GET    machines/SoftwareInventoryByMachine         pageSize, $top; also SoftwareVulnerabilitiesByMachine,
//	                                                   SecureConfigurationsAssessmentByMachine
//	GET    machines/SoftwareInventoryExport            sasValidHours; also SoftwareVulnerabilitiesExport,
//	                                                   SecureConfigurationsAssessmentExport
//	GET    machines/SoftwareVulnerabilityChangesByMachine  sinceTime, pageSize, $top
//	GET    machineactions                              $top, $skip, $filter, paged
//	GET    machineactions/{id}
//	POST   machineactions/{id}/cancel                  Comment
//	GET    machineactions/{id}/getPackageUri           404 until the action has succeeded
//	GET    machineactions/{id}/GetLiveResponseResultDownloadLink(index=0)
//	GET    libraryfiles
//	POST   libraryfiles                                multipart: File, Description, OverrideIfExists and others
//	GET    alerts                                      $top, $skip, $filter, paged
//	GET    alerts/{id}
//	PATCH  alerts/{id}                                 status, comment and others
//	GET    alerts/{id}/domains                         also files, ips, machine, user
//	POST   alerts/batchUpdate                          alertIds, status, comment and others
//	POST   alerts/CreateAlertByReference               machineId, eventTime, reportId, title and others
//	GET    investigations                              $top, $skip, $filter, paged
//	GET    investigations/{id}                         also by the id of the alert
//	GET    domains/{id}/stats                          also alerts, machines
//	GET    files/{id}                                  by SHA-1 or SHA-256; also stats, alerts, machines
//	GET    ips/{id}/stats                              also alerts
//	GET    users/{id}/alerts                           also machines
//	GET    indicators                                  $top, $skip, $filter, paged
//	POST   indicators                                  indicatorValue, indicatorType, action and others
//	DELETE indicators/{id}
//	POST   indicators/import                           Indicators, at most 500
//	POST   indicators/BatchDelete                      IndicatorIds, at most 500
//	POST   advancedqueries/run                         Query
//
// And of Defender XDR's API:
//
//	GET    incidents                                   $top of at most 100, $skip, $filter, paged
//	GET    incidents/{id}
//	PATCH  incidents/{id}                              status, comment and others
//	POST   advancedhunting/run                         Query
//
// The answers are simplified where a client can't tell: the query of an
// advanced hunting call isn't run, and a list's $filter knows comparisons
// joined by "and" only. A list's $top is the size of its pages, and the
// nextLink leads on from there; that of an export suppresses the link, as
// documented. Each machine has an alert, and each alert a domain, a file, an
// address and a user of its own.
//
// # Hunting
//
// A query fails for good, with a 400, if its text has one of these comments: the
// first as one that ran longer than the documented 200 s, the second as one whose
// result was larger than 124 MB. It is answered at once; see [Faults] for slow
// answers.
//
//	// defendertest: too long
//	// defendertest: too large
//
// With Config.HuntingCPU queries run out of CPU time, which both hunting APIs
// share, until the next cycle of 15 minutes.
//
// # Tokens
//
// POST /{tenant}/oauth2/v2.0/token on the same server, for any tenant, issues
// tokens for client_credentials, which expire after Config.TokenLife. With
// Config.Clients a call needs one.
//
// # Downloads
//
// Packages, results of live response and files of exports are downloaded from
// another host, [Server.StorageURL], by URLs whose parameters sig and se say that
// they are good, and until when. A request with an Authorization header is refused
// with Azure's XML, as is an expired URL. Downloads count toward no quota. They
// are in the ledger, of the family "storage".
//
// # What is a guess
//
// Neither the documentation nor a public log tells everything. Here quotas are
// exact, and how they count is up to Config.Counting; a family is a row of the
// documented table, a batch with an unknown id is 404 and changes nothing, a
// final action can't be cancelled (400), a wrong method is a 405 with the code
// BadRequest, and a 503 has the code ServiceUnavailable. The 429 of the 26th live
// response session has the code TooManyRequests and tells no wait, and that of the
// CPU the code and the sentence of any other; commands in a wrong order are
// InvalidInput, a file that is in the library already is BadRequest, and what has
// no result yet is NotFound.
//
// # Time
//
// Whatever the documentation says in minutes or hours is scaled by Config.Minute or
// Config.Hour: windows, links, snapshots and tokens. Its days are days.
//
// The package asks [time.Now] alone for the time. In a testing/synctest bubble
// create the server with [NewUnstartedServer] and call ServeHTTP directly, with
// a httptest.ResponseRecorder: an hour's quota then takes no time at all.
// Downloads are at http://storage.invalid then, which ServeHTTP answers for too.
//
// # Resets
//
// When a kept-alive connection is reset, net/http replays by itself what is
// idempotent by method. The ledger then has calls that the client under test
// never made. Set DisableKeepAlives on its http.Transport where that matters.
//
// # Growth
//
// The ledger, the counts of the changes, the machine actions, the investigations,
// created alerts, the library, the comments of alerts and incidents, and the tags
// of machines grow with the calls, for as long as the server lives. A long run
// needs the memory for it, or Config.KeepCalls for the ledger, which grows most.
// All else is bounded; tokens, links and downloads take no memory at all.
package defendertest
