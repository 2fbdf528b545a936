// Package defendertest is a simulated Microsoft Defender and Graph security API, in
// the manner of net/http/httptest: a tenant with machines, alerts, incidents, indicators
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
//	transport, err := defender.New(server.Defender())
//	// … let the client isolate every machine at server.URL …
//	for _, id := range server.MachineIDs() {
//		if n := server.Effects()["isolate "+id]; n != 1 {
//			t.Errorf("%s was isolated %d times", id, n)
//		}
//	}
//
// It is of use without Go too: "steady simulate" runs it as a program, and the control
// API (see Config.ControlAddr) changes it while it runs.
//
// # What is served
//
// Paths of Defender begin with /api or /api/v1.0, and their fixed segments are matched
// whatever their case. An error answer has the documented envelope with a fresh
// target, unless a fault is about its lack (Bare500, HTML502). A call passes, in
// this order: the token, the quota of its endpoint family (see [DefaultQuotas]), the faults, and then the tenant.
//
//	GET    machines                                    $top, $skip, $filter, $orderby, $select, $count, paged; as the other lists
//	GET    machines/{id}                               by its name too
//	PATCH  machines/{id}                               machineTags, deviceValue
//	GET    machines/findbyip(ip='…',timestamp=…)
//	GET    machines/{id}/alerts                        also alerts/$count
//	GET    machines/{id}/vulnerabilities
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
//	GET    machines/SoftwareVulnerabilitiesByMachine   pageSize, $top
//	GET    machines/SoftwareVulnerabilitiesExport      sasValidHours
//	GET    machineactions                              the newest first
//	GET    machineactions/{id}
//	POST   machineactions/{id}/cancel                  Comment
//	GET    machineactions/{id}/getPackageUri           404 until the action has succeeded
//	GET    machineactions/{id}/GetLiveResponseResultDownloadLink(index=0)
//	GET    alerts                                      $expand=evidence
//	GET    alerts/{id}
//	PATCH  alerts/{id}                                 status, comment and others
//	POST   alerts/batchUpdate                          alertIds, status, comment and others
//	GET    indicators
//	POST   indicators                                  indicatorValue, indicatorType, action and others
//	DELETE indicators/{id}
//	POST   indicators/import                           Indicators, at most 500
//	POST   indicators/BatchDelete                      IndicatorIds, at most 500
//	POST   advancedqueries/run                         Query
//
// Of Defender XDR's API:
//
//	GET    incidents                                   $top of at most 100, $skip, $filter, paged
//	GET    incidents/{id}
//	PATCH  incidents/{id}                              status, comment and others
//	POST   advancedhunting/run                         Query
//
// And of Microsoft Graph, below /v1.0/security, with its envelope, its ids and its own 429s:
//
//	GET    incidents                                   $top of at most 50, $skip, $filter, $count, $expand=alerts, paged
//	GET    incidents/{id}                              $expand=alerts
//	PATCH  incidents/{id}                              status, assignedTo, classification, determination, customTags
//	POST   incidents/{id}/comments                     comment
//	GET    alerts_v2                                   $top, $skip of at most 500, $filter, $count, $orderby; no nextLink
//	GET    alerts_v2/{id}                              also PATCH, and POST of comments
//	POST   runHuntingQuery                             Query, Timespan
//
// Incidents and alerts are the same in all of them. Each machine has an alert, and each alert an
// incident. The answer to a hunting query is a row for each machine: no query is run.
//
// A list's $filter knows comparisons, startswith, any, and, or, not and parentheses, on the
// properties that the documentation names; it has at most 1000 comparisons. Where $top is given, a
// list of Defender for Endpoint has no nextLink: $skip leads on. What an option asks for is done or
// refused, and never ignored.
//
// An order is refused while one like it is active, or answered with that (see [Second]). An
// isolation of a machine that is isolated is stuck until a later release is over, and then isolates
// it again.
//
// # Hunting
//
// A query fails for good, with a 400, if its text has one of these comments: the first as one that
// ran longer than the documented 200 s, the second as one whose result was larger than 124 MB. It
// is answered at once; see [Faults] for slow answers.
//
//	// defendertest: too long
//	// defendertest: too large
//
// With Config.HuntingCPU queries run out of CPU time, which all hunting APIs share, until the next
// cycle of 15 minutes. Such a 429 names no time.
//
// # Tokens
//
// POST /{tenant}/oauth2/v2.0/token (with scope) and /{tenant}/oauth2/token (with resource) on the
// same server, for any tenant, issue tokens for client_credentials, which expire after
// Config.TokenLife. With Config.Clients a call needs one, and one for another API is refused: 403
// by Defender for Endpoint, 401 by Defender XDR and Graph.
//
// # Downloads
//
// Packages, results of live response and files of exports are downloaded from another host,
// [Server.StorageURL], by URLs whose parameters sig and se say that they are good, and until when.
// A request with an Authorization header is refused with Azure's XML, as is an expired URL.
// Downloads count toward no quota. They are in the ledger, of the family "storage".
//
// # What is a guess
//
// Neither the documentation nor a public log tells everything. Here quotas are exact, and how they
// count is up to Config.Counting; a family is a row of the documented table, a batch with an
// unknown id is 404 and changes nothing, a final action can't be cancelled (400), a wrong method is
// a 405 with the code BadRequest, and a 503 has the code ServiceUnavailable. The 429 of the 26th
// live response session has the code TooManyRequests and tells no wait, and that of the CPU the
// code of any other; commands in a wrong order are InvalidInput, and what has no result yet is
// NotFound.
//
// Further guesses: incidents of Defender XDR have a nextLink with $top too; alerts can be filtered
// by machineId; $orderby takes what $filter takes; Defender for Endpoint accepts Defender XDR's
// tokens; an active action that is returned comes with its usual status; a 504 of Defender has no
// body; an incident or alert that isn't there is ResourceNotFound in Graph, and a full $filter an
// ODataError.
//
// # Time
//
// Whatever the documentation says in minutes or hours is scaled by Config.Minute or Config.Hour:
// windows, links, snapshots and tokens. Its days are days.
//
// The package asks [time.Now] alone for the time. In a testing/synctest bubble create the server
// with [NewUnstartedServer] and call ServeHTTP directly, with a httptest.ResponseRecorder: an
// hour's quota then takes no time at all. Downloads are at http://storage.invalid then, which
// ServeHTTP answers for too.
//
// # Resets
//
// When a kept-alive connection is reset, net/http replays by itself what is idempotent by method.
// The ledger then has calls that the client under test never made. Set DisableKeepAlives on its
// http.Transport where that matters.
//
// # Growth
//
// The ledger, the counts of the changes, the machine actions, the comments of alerts and incidents,
// and the tags of machines grow with the calls, for as long as the server lives. A long run needs
// the memory for it, or Config.KeepCalls for the ledger, which grows most. All else is bounded;
// tokens, links and downloads take no memory at all.
package defendertest
