package defendertest

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The families of Graph's security API.
const (
	graphIncidents = "security/incidents"
	graphAlerts    = "security/alerts_v2"
	graphHunting   = "security/runHuntingQuery"
)

// The bounds of Graph's lists, of which only some are documented: alerts_v2 cuts a larger $top,
// incidents refuse it.
const (
	maxGraphTop       = 1000
	maxGraphSkip      = 500
	maxGraphIncidents = 50
)

// isGraphPath knows Graph's versions by their prefix. The one listener serves all APIs: none of
// their paths is another's.
func isGraphPath(path string) bool {
	version, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return strings.EqualFold(version, "v1.0")
}

// isGraphFamily tells Graph's families from Defender's.
func isGraphFamily(family string) bool { return strings.HasPrefix(family, "security/") }

// graphRoutes is the table of what is served of Graph.
func graphRoutes() []route {
	return []route{
		{"GET", "security/incidents", graphIncidents, (*tenant).listGraphIncidents},
		{"GET", "security/incidents/{id}", graphIncidents, (*tenant).getGraphIncident},
		{"PATCH", "security/incidents/{id}", graphIncidents, (*tenant).updateGraphIncident},
		{"POST", "security/incidents/{id}/comments", graphIncidents, (*tenant).commentGraphIncident},
		{"GET", "security/alerts_v2", graphAlerts, (*tenant).listGraphAlerts},
		{"GET", "security/alerts_v2/{id}", graphAlerts, (*tenant).getGraphAlert},
		{"PATCH", "security/alerts_v2/{id}", graphAlerts, (*tenant).updateGraphAlert},
		{"POST", "security/alerts_v2/{id}/comments", graphAlerts, (*tenant).commentGraphAlert},
		{"POST", "security/runHuntingQuery", graphHunting, (*tenant).runGraphQuery},
		{"POST", "security/microsoft.graph.security.runHuntingQuery", graphHunting,
			(*tenant).runGraphQuery},
	}
}

// A graphCall has the ids that each of Graph's answers bears.
type graphCall struct{ id, client string }

// newGraphCall gives a call its id. Without one of its own the client has the same.
func newGraphCall(header http.Header) graphCall {
	c := graphCall{id: newGUID()}
	if c.client = header.Get("client-request-id"); c.client == "" || !printable(c.client) {
		c.client = c.id
	}
	return c
}

// printable keeps what a client sends from becoming more than a value in our answer.
func printable(text string) bool {
	return len(text) <= 200 && !strings.ContainsFunc(text,
		func(r rune) bool { return r < ' ' || r > '~' })
}

// graphErrand is a call of Graph.
func (s *Server) graphErrand(r *http.Request) errand {
	segments := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")[1:]
	found, c := find(s.graph, r.Method, segments), newGraphCall(r.Header)
	if found.problem != nil && found.problem.status == http.StatusNotFound && len(segments) > 0 {
		found.problem = &problem{http.StatusBadRequest, "BadRequest",
			"Resource not found for the segment '" + shown(segments[len(segments)-1]) + "'."}
	}
	return errand{
		family: found.family,
		admit: func(now time.Time) *answer {
			refused := s.admit(r, audienceGraph, found.family, now, c.dress,
				func(full *refusal) *answer { return c.throttle(full, now, s.config.Wait) })
			if refused != nil && refused.status == http.StatusUnauthorized {
				refused.header.Set("WWW-Authenticate",
					`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", client_id="00000003-0000-0000-c000-000000000000"`)
			}
			return refused
		},
		carryOut: func(w http.ResponseWriter, at arrival) answer {
			return s.carryOut(w, r, at, found, "/v1.0", c.dress)
		},
		failure: c.failure,
		problem: c.dress,
		finish: func(header http.Header) {
			header.Set("request-id", c.id)
			header.Set("client-request-id", c.client)
			header.Set("x-ms-ags-diagnostic",
				`{"ServerInfo":{"DataCenter":"Simulated","Slice":"E","Ring":"1","ScaleUnit":"000","RoleInstance":"DEFENDERTEST"}}`)
		},
	}
}

// A graphError is Graph's envelope.
type graphError struct {
	Error struct {
		Code    string     `json:"code"`
		Message string     `json:"message"`
		Inner   graphInner `json:"innerError"`
	} `json:"error"`
}

// A graphInner is what supports asks for. Code, Message and Status are there with a 429 alone.
type graphInner struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Status  string `json:"status,omitempty"`
	Date    string `json:"date"`
	ID      string `json:"request-id"`
	Client  string `json:"client-request-id"`
}

// write makes an answer of an error. Its date has no zone, as Graph's.
func (c graphCall) write(status int, code, message string, inner graphInner) answer {
	inner.Date, inner.ID, inner.Client = time.Now().UTC().Format("2006-01-02T15:04:05"), c.id, c.client
	var e graphError
	e.Error.Code, e.Error.Message, e.Error.Inner = code, message, inner
	return answer{status: status, header: http.Header{}, body: encode(e), code: code, target: c.id}
}

// dress says what is wrong in Graph's words. It has one code for everything that is wrong with a
// request.
func (c graphCall) dress(p problem) answer {
	switch {
	case p.status == http.StatusTooManyRequests:
		return *c.throttle(&refusal{reason: p.message}, time.Time{}, WaitNowhere)
	case p.status == http.StatusInternalServerError:
		return c.failure(p.status)
	case p == errUnauthorized():
		return c.write(p.status, "InvalidAuthenticationToken", "Access token is empty or has expired.",
			graphInner{})
	case p.status == http.StatusBadRequest && p.code != "":
		p.code = "BadRequest"
	}
	return c.write(p.status, p.code, p.Error(), graphInner{})
}

// throttle is Graph's 429. It says in the header alone when to come back, and of the processor
// time nothing.
func (c graphCall) throttle(full *refusal, now time.Time, form WaitForm) *answer {
	message := "Too many requests."
	if full.reason == cpuReason {
		message, form = cpuReason, WaitNowhere
	}
	a := c.write(http.StatusTooManyRequests, "TooManyRequests", message,
		graphInner{Code: "429", Message: "Please retry after the time in the Retry-After header.",
			Status: "429"})
	full.tell(a.header, now, form)
	return &a
}

// failure is Graph's UnknownError, which has no message.
func (c graphCall) failure(status int) answer {
	code := "UnknownError"
	if status == http.StatusServiceUnavailable {
		code = "serviceNotAvailable"
	}
	return c.write(status, code, "", graphInner{})
}

// partial says that one of the providers failed: the list is whole, and what it lacks nobody knows.
func partial(a answer) answer {
	if a.status != http.StatusOK {
		return a
	}
	a.status, a.header = http.StatusPartialContent,
		http.Header{"Warning": {`199 - "Microsoft/WDATP/504/10000"`}}
	return a
}

// A graphIncident is an incident in Graph's words.
type graphIncident struct {
	Type           string         `json:"@odata.type"`
	ID             string         `json:"id"`
	TenantID       string         `json:"tenantId"`
	Status         string         `json:"status"`
	WebURL         string         `json:"incidentWebUrl"`
	RedirectID     *string        `json:"redirectIncidentId"`
	Name           string         `json:"displayName"`
	Created        time.Time      `json:"createdDateTime"`
	Updated        time.Time      `json:"lastUpdateDateTime"`
	AssignedTo     *string        `json:"assignedTo"`
	Classification string         `json:"classification"`
	Determination  string         `json:"determination"`
	Severity       string         `json:"severity"`
	Tags           []string       `json:"customTags"`
	SystemTags     []string       `json:"systemTags"`
	Description    *string        `json:"description"`
	ModifiedBy     *string        `json:"lastModifiedBy"`
	Resolving      *string        `json:"resolvingComment"`
	Summary        *string        `json:"summary"`
	Priority       *int           `json:"priorityScore"`
	Comments       []graphComment `json:"comments"`
	Alerts         []graphAlert   `json:"alerts,omitempty"` // by $expand
}

// A graphComment is a comment in Graph's words.
type graphComment struct {
	Comment   string    `json:"comment"`
	CreatedBy string    `json:"createdByDisplayName"`
	Created   time.Time `json:"createdDateTime"`
}

// A graphAlert is an alert in Graph's words.
type graphAlert struct {
	Type               string         `json:"@odata.type"`
	ID                 string         `json:"id"`
	ProviderID         string         `json:"providerAlertId"`
	IncidentID         string         `json:"incidentId"`
	Status             string         `json:"status"`
	Severity           string         `json:"severity"`
	Classification     *string        `json:"classification"`
	Determination      *string        `json:"determination"`
	ServiceSource      string         `json:"serviceSource"`
	DetectionSource    string         `json:"detectionSource"`
	ProductName        string         `json:"productName"`
	DetectorID         string         `json:"detectorId"`
	TenantID           string         `json:"tenantId"`
	Title              string         `json:"title"`
	Description        string         `json:"description"`
	Recommended        string         `json:"recommendedActions"`
	Category           string         `json:"category"`
	Categories         []string       `json:"categories"`
	AssignedTo         *string        `json:"assignedTo"`
	WebURL             string         `json:"alertWebUrl"`
	IncidentURL        string         `json:"incidentWebUrl"`
	Actor              *string        `json:"actorDisplayName"`
	ThreatName         *string        `json:"threatDisplayName"`
	ThreatFamily       *string        `json:"threatFamilyName"`
	Techniques         []string       `json:"mitreTechniques"`
	Created            time.Time      `json:"createdDateTime"`
	Updated            time.Time      `json:"lastUpdateDateTime"`
	Resolved           *time.Time     `json:"resolvedDateTime"`
	FirstActivity      time.Time      `json:"firstActivityDateTime"`
	LastActivity       time.Time      `json:"lastActivityDateTime"`
	AlertPolicy        *string        `json:"alertPolicyId"`
	InvestigationState string         `json:"investigationState"`
	CustomDetails      *struct{}      `json:"customDetails"`
	AdditionalData     *struct{}      `json:"additionalData"`
	Comments           []graphComment `json:"comments"`
	SystemTags         []string       `json:"systemTags"`
	Evidence           []any          `json:"evidence"`
}

// A graphBase is what every evidence has.
type graphBase struct {
	Type          string    `json:"@odata.type"`
	Created       time.Time `json:"createdDateTime"`
	Verdict       string    `json:"verdict"`
	Remediation   string    `json:"remediationStatus"`
	Details       *string   `json:"remediationStatusDetails"`
	Roles         []string  `json:"roles"`
	DetailedRoles []string  `json:"detailedRoles"`
	Tags          []string  `json:"tags"`
}

// newGraphBase begins an evidence of a type.
func newGraphBase(kind string, at time.Time) graphBase {
	return graphBase{
		Type: "#microsoft.graph.security." + kind, Created: at, Verdict: "unknown", Remediation: "none",
		Roles: []string{}, DetailedRoles: []string{}, Tags: []string{},
	}
}

// A deviceEvidence is the alert's machine.
type deviceEvidence struct {
	graphBase
	FirstSeen    time.Time  `json:"firstSeenDateTime"`
	MDEDeviceID  string     `json:"mdeDeviceId"`
	AADDeviceID  *string    `json:"azureAdDeviceId"`
	DNSName      string     `json:"deviceDnsName"`
	HostName     string     `json:"hostName"`
	NTDomain     *string    `json:"ntDomain"`
	DNSDomain    string     `json:"dnsDomain"`
	OSPlatform   string     `json:"osPlatform"`
	OSBuild      *int       `json:"osBuild"`
	Version      string     `json:"version"`
	HealthStatus string     `json:"healthStatus"`
	RiskScore    string     `json:"riskScore"`
	GroupID      int        `json:"rbacGroupId"`
	GroupName    string     `json:"rbacGroupName"`
	Onboarding   string     `json:"onboardingStatus"`
	AVStatus     string     `json:"defenderAvStatus"`
	LastIP       string     `json:"lastIpAddress"`
	LastExternal string     `json:"lastExternalIpAddress"`
	Interfaces   []string   `json:"ipInterfaces"`
	Users        []struct{} `json:"loggedOnUsers"`
	VM           *struct{}  `json:"vmMetadata"`
}

// A graphAccount is a user's.
type graphAccount struct {
	Name      *string `json:"accountName"`
	Domain    *string `json:"domainName"`
	SID       *string `json:"userSid"`
	AADUserID *string `json:"azureAdUserId"`
	Principal *string `json:"userPrincipalName"`
	Display   *string `json:"displayName"`
}

// A userEvidence is one who was at the machine.
type userEvidence struct {
	graphBase
	Account graphAccount `json:"userAccount"`
	Stream  *string      `json:"stream"`
}

// A graphFile is a file of a process.
type graphFile struct {
	SHA1      *string `json:"sha1"`
	SHA256    *string `json:"sha256"`
	Name      *string `json:"fileName"`
	Path      *string `json:"filePath"`
	Size      *int    `json:"fileSize"`
	Publisher *string `json:"filePublisher"`
	Signer    *string `json:"signer"`
	Issuer    *string `json:"issuer"`
}

// A processEvidence is one that ran on it.
type processEvidence struct {
	graphBase
	ProcessID   *int         `json:"processId"`
	ParentID    *int         `json:"parentProcessId"`
	CommandLine *string      `json:"processCommandLine"`
	Began       *time.Time   `json:"processCreationDateTime"`
	ParentBegan *time.Time   `json:"parentProcessCreationDateTime"`
	Detection   string       `json:"detectionStatus"`
	MDEDeviceID string       `json:"mdeDeviceId"`
	Image       graphFile    `json:"imageFile"`
	ParentImage graphFile    `json:"parentProcessImageFile"`
	Account     graphAccount `json:"userAccount"`
}

// lower is how Graph spells the members of an enumeration.
func lower(member string) string {
	if member == "" {
		return ""
	}
	return strings.ToLower(member[:1]) + member[1:]
}

// lowered is lower for what may be null.
func lowered(member *string) *string {
	if member == nil {
		return nil
	}
	return new(lower(*member))
}

// upper is the other way round.
func upper(member string) string {
	if member == "" {
		return ""
	}
	return strings.ToUpper(member[:1]) + member[1:]
}

// graphComments are comments in Graph's words.
func graphComments(comments []alertComment) []graphComment {
	all := make([]graphComment, len(comments))
	for i, c := range comments {
		all[i] = graphComment(c)
	}
	return all
}

// portal is a page of the portal about something.
func portal(path, id string) string {
	return "https://security.microsoft.com/" + path + "/" + id + "?tid=" + tenantID
}

// graph returns an incident in Graph's words.
func (i *incident) graph(expanded bool) graphIncident {
	id := strconv.Itoa(i.ID)
	determination := lower(i.Determination)
	if determination == "notAvailable" {
		determination = "unknown"
	}
	shown := graphIncident{
		Type: "#microsoft.graph.security.incident", ID: id, TenantID: tenantID, Status: lower(i.Status),
		WebURL: portal("incidents", id), Name: i.Name, Created: i.Created, Updated: i.Updated,
		AssignedTo:     i.AssignedTo,
		Classification: lower(i.Classification), Determination: determination,
		Severity: lower(i.Severity),
		Tags:     i.Tags, SystemTags: []string{}, Comments: graphComments(i.Comments),
	}
	if expanded && i.Alert != nil {
		shown.Alerts = []graphAlert{i.graphAlert()}
	}
	return shown
}

// graphAlert returns an incident's alert in Graph's words.
func (i *incident) graphAlert() graphAlert {
	a, m := i.Alert, i.Machine
	if a == nil { // of an empty one, whose names alone are of interest
		return graphAlert{}
	}
	incidentID := strconv.Itoa(a.IncidentID)
	return graphAlert{
		Type: "#microsoft.graph.security.alert", ID: a.ID, ProviderID: a.ID, IncidentID: incidentID,
		Status: lower(a.Status), Severity: lower(a.Severity),
		Classification: lowered(a.Classification), Determination: lowered(a.Determination),
		ServiceSource: "microsoftDefenderForEndpoint", DetectionSource: "microsoftDefenderForEndpoint",
		ProductName: "Microsoft Defender for Endpoint", DetectorID: a.DetectorID, TenantID: tenantID,
		Title: a.Title, Description: a.Description, Recommended: "None: this is a test.",
		Category: a.Category, Categories: []string{a.Category}, AssignedTo: a.AssignedTo,
		WebURL: portal("alerts", a.ID), IncidentURL: portal("incidents", incidentID),
		ThreatName: a.ThreatName, ThreatFamily: a.ThreatFamily, Techniques: a.Techniques,
		Created: a.Created, Updated: a.Updated, Resolved: a.Resolved,
		FirstActivity: a.FirstEvent, LastActivity: a.LastEvent,
		InvestigationState: lower(a.InvestigationState),
		Comments:           graphComments(a.Comments), SystemTags: []string{},
		Evidence: graphEvidence(a, m),
	}
}

// graphEvidence is an alert's evidence: the machine, and what Defender for Endpoint shows too.
func graphEvidence(a *alert, m *machine) []any {
	host, domain, _ := strings.Cut(m.ComputerDNSName, ".")
	base := newGraphBase("deviceEvidence", a.Created)
	base.Roles, base.DetailedRoles, base.Tags = []string{"compromised"}, []string{"Main device"},
		m.MachineTags
	risk := "none"
	if m.RiskScore != nil {
		risk = lower(*m.RiskScore)
	}
	all := []any{deviceEvidence{
		graphBase: base, FirstSeen: m.FirstSeen, MDEDeviceID: m.ID, AADDeviceID: m.AADDeviceID,
		DNSName: m.ComputerDNSName, HostName: host, DNSDomain: domain, OSPlatform: m.OSPlatform,
		OSBuild: m.OSBuild,
		Version: m.Version, HealthStatus: lower(m.HealthStatus), RiskScore: risk, GroupID: m.GroupID,
		GroupName:  m.GroupName,
		Onboarding: lower(m.OnboardingStatus), AVStatus: "unknown", LastIP: m.LastIPAddress,
		LastExternal: m.LastExternalIP,
		Interfaces:   []string{m.LastIPAddress}, Users: []struct{}{},
	}}
	var account graphAccount
	for _, e := range a.Evidence {
		switch e.Type {
		case "User":
			account = graphAccount{e.AccountName, e.DomainName, e.UserSID, e.AADUserID, e.UserPrincipal,
				e.AccountName}
			all = append(all, userEvidence{graphBase: newGraphBase("userEvidence", e.Created),
				Account: account})
		case "Process":
			all = append(all, processEvidence{
				graphBase: newGraphBase("processEvidence", e.Created), ProcessID: e.ProcessID,
				ParentID:    e.ParentID,
				CommandLine: e.CommandLine, Began: e.ProcessCreated, ParentBegan: e.ParentCreated,
				Detection: "detected", MDEDeviceID: m.ID,
				Image:       graphFile{SHA1: e.SHA1, SHA256: e.SHA256, Name: e.FileName, Path: e.FilePath},
				ParentImage: graphFile{Name: e.ParentName, Path: e.ParentPath},
				Account:     account,
			})
		}
	}
	return all
}

// The members of Graph's enumerations that a filter or an update may name.
const (
	incidentStatuses = "active resolved inProgress redirected unknownFutureValue awaitingAction"
	alertStatuses    = "unknown new inProgress resolved unknownFutureValue"
	severities       = "unknown informational low medium high unknownFutureValue"
	classifications  = "unknown falsePositive truePositive informationalExpectedActivity unknownFutureValue"
	determinations   = "unknown apt malware securityPersonnel securityTesting unwantedSoftware other multiStagedAttack " +
		"compromisedAccount phishing maliciousUserActivity notMalicious notEnoughDataToValidate confirmedActivity " +
		"lineOfBusinessApplication unknownFutureValue"
	serviceSources = "unknown microsoftDefenderForEndpoint microsoftDefenderForIdentity microsoftDefenderForCloudApps " +
		"microsoftDefenderForOffice365 microsoft365Defender azureAdIdentityProtection microsoftAppGovernance " +
		"dataLossPrevention microsoftDefenderForCloud microsoftSentinel microsoftInsiderRiskManagement unknownFutureValue"
)

// enum is enumValue for what may be null.
func enum(member *string) value { return maybe(lowered(member), enumValue) }

// listGraphIncidents lists the newest first. Of larger pages than 50 the answer has an empty code,
// as was seen (wazuh/wazuh#28070).
func (t *tenant) listGraphIncidents(r request) (answer, error) {
	list := listing[incident]{
		context: "security/incidents", expand: "alerts",
		show: func(i *incident, expanded bool) any { return i.graph(expanded) },
		properties: []property[incident]{
			{"assignedTo", text, func(i *incident) value { return maybe(i.AssignedTo, textValue) }, ""},
			{"classification", enumeration, func(i *incident) value { return enum(&i.Classification) },
				classifications},
			{"determination", enumeration, func(i *incident) value { return enumValue(i.graph(false).Determination) }, determinations},
			{"severity", enumeration, func(i *incident) value { return enum(&i.Severity) }, severities},
			{"status", enumeration, func(i *incident) value { return enum(&i.Status) }, incidentStatuses},
			{"createdDateTime", moment, func(i *incident) value { return timeValue(i.Created) }, ""},
			{"lastUpdateDateTime", moment, func(i *incident) value { return timeValue(i.Updated) }, ""},
		},
		rules: rules{
			size: min(t.pageSize, maxGraphIncidents), most: maxGraphIncidents, links: bySkip,
			mostErr: problem{http.StatusBadRequest, "",
				"The limit of '50' for Top query has been exceeded."},
			options: "$filter $top $skip $expand $count",
		},
	}
	all := values(t.incidents)
	slices.Reverse(all)
	return list.answer(r, all)
}

// listGraphAlerts lists the newest first, and never leads on: a client that wants more than $skip
// allows asks for later ones by $filter and $orderby (elastic/integrations#20234).
func (t *tenant) listGraphAlerts(r request) (answer, error) {
	list := listing[incident]{
		context: "security/alerts_v2",
		show:    func(i *incident, _ bool) any { return i.graphAlert() },
		properties: []property[incident]{
			{"assignedTo", text, func(i *incident) value { return maybe(i.Alert.AssignedTo, textValue) },
				""},
			{"classification", enumeration, func(i *incident) value { return enum(i.Alert.Classification) },
				classifications},
			{"determination", enumeration, func(i *incident) value { return enum(i.Alert.Determination) },
				determinations},
			{"severity", enumeration, func(i *incident) value { return enum(&i.Alert.Severity) },
				severities},
			{"status", enumeration, func(i *incident) value { return enum(&i.Alert.Status) }, alertStatuses},
			{"serviceSource", enumeration, func(*incident) value { return enumValue("microsoftDefenderForEndpoint") }, serviceSources},
			{"createdDateTime", moment, func(i *incident) value { return timeValue(i.Alert.Created) }, ""},
			{"lastUpdateDateTime", moment, func(i *incident) value { return timeValue(i.Alert.Updated) },
				""},
		},
		rules: rules{
			size: min(t.pageSize, maxGraphTop), most: maxGraphTop, clamp: true, skip: maxGraphSkip,
			links:   never,
			options: "$filter $top $skip $count $orderby",
		},
	}
	all := values(t.incidents)
	slices.Reverse(all)
	return list.answer(r, all)
}

// getGraphIncident shows the alerts where $expand asks for them.
func (t *tenant) getGraphIncident(r request) (answer, error) {
	i, err := lookup(t.incidentByID, "Incident", r.id)
	if err != nil {
		return answer{}, err
	}
	expand := r.query.Get("$expand")
	if expand != "" && expand != "alerts" {
		return answer{}, errOData("Could not find a property named '%s' to expand.", shown(expand))
	}
	return single(r, http.StatusOK, "security/incidents/$entity", i.graph(expand != "")), nil
}

// incidentOf returns the incident of an alert, which shows it.
func (t *tenant) incidentOf(alertID string) (*incident, error) {
	a, err := lookup(t.alertByID, "Alert", alertID)
	if err != nil {
		return nil, err
	}
	return t.incidentByID[strconv.Itoa(a.IncidentID)], nil
}

// getGraphAlert shows the comments, in which a retried one can be seen.
func (t *tenant) getGraphAlert(r request) (answer, error) {
	i, err := t.incidentOf(r.id)
	if err != nil {
		return answer{}, err
	}
	return single(r, http.StatusOK, "security/alerts_v2/$entity", i.graphAlert()), nil
}

// A graphUpdate is the body of both updates. What is absent stays as it is, and what isn't known is
// refused: it would be a change that never happens.
type graphUpdate struct {
	Type           *string         `json:"@odata.type"`
	AssignedTo     json.RawMessage `json:"assignedTo"` // null: nobody
	Classification *string         `json:"classification"`
	Determination  *string         `json:"determination"`
	Status         *string         `json:"status"`
	Tags           []string        `json:"customTags"`
}

// readGraphUpdate checks the members of the enumerations, whose first letter is written in either
// case in the documented examples.
func readGraphUpdate(body []byte, statuses string, tags bool) (graphUpdate, error) {
	var u graphUpdate
	if err := decodeStrictly(body, &u); err != nil {
		return u, err
	}
	if u.AssignedTo == nil && u.Classification == nil && u.Determination == nil && u.Status == nil &&
		u.Tags == nil || u.Tags != nil && !tags {
		return u, errIncorrectBody()
	}
	if u.AssignedTo != nil && json.Unmarshal(u.AssignedTo, new(*string)) != nil {
		return u, errIncorrectBody()
	}
	for _, field := range []struct {
		of      **string
		members string
	}{{&u.Classification, classifications},
		{&u.Determination, determinations + " compromisedUser confirmedUserActivity"},
		{&u.Status, statuses}} {
		if *field.of == nil {
			continue
		}
		member := lower(**field.of)
		if !oneOf(member, field.members) {
			return u, errInvalid("Cannot convert a primitive value to the expected type: '%s'.",
				shown(**field.of))
		}
		*field.of = new(upper(member))
	}
	return u, nil
}

// assign sets the owner, where the body has one or null.
func (u graphUpdate) assign(to **string) {
	if u.AssignedTo != nil {
		*to = nil
		json.Unmarshal(u.AssignedTo, to) // was checked
	}
}

// decodeStrictly fills a struct from a JSON object whatever the case of its keys, as Graph does,
// and refuses keys that aren't known.
func decodeStrictly(data []byte, into any) error {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	var rest json.RawMessage
	if decoder.Decode(into) != nil || decoder.Decode(&rest) == nil {
		return errIncorrectBody()
	}
	return nil
}

// updateGraphIncident sets values, which a retry may do again.
func (t *tenant) updateGraphIncident(r request) (answer, error) {
	i, err := lookup(t.incidentByID, "Incident", r.id)
	if err != nil {
		return answer{}, err
	}
	u, err := readGraphUpdate(r.body, incidentStatuses, true)
	if err != nil {
		return answer{}, err
	}
	for _, field := range []struct{ to, from *string }{
		{&i.Status, u.Status}, {&i.Classification, u.Classification}, {&i.Determination, u.Determination},
	} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	u.assign(&i.AssignedTo)
	if u.Tags != nil {
		i.Tags = u.Tags
	}
	i.Updated = time.Now().UTC()
	return single(r, http.StatusOK, "security/incidents/$entity", i.graph(false),
		"updateIncident "+r.id), nil
}

// updateGraphAlert is the same for an alert.
func (t *tenant) updateGraphAlert(r request) (answer, error) {
	i, err := t.incidentOf(r.id)
	if err != nil {
		return answer{}, err
	}
	u, err := readGraphUpdate(r.body, alertStatuses, false)
	if err != nil {
		return answer{}, err
	}
	a, now := i.Alert, time.Now().UTC()
	if u.Status != nil {
		a.setStatus(*u.Status, now)
	}
	if u.Classification != nil {
		a.Classification = u.Classification
	}
	if u.Determination != nil {
		a.Determination = u.Determination
	}
	u.assign(&a.AssignedTo)
	a.Updated = now
	return single(r, http.StatusOK, "security/alerts_v2/$entity", i.graphAlert(), "update "+a.ID), nil
}

// readGraphComment reads the body of both comment calls.
func readGraphComment(body []byte) (string, error) {
	var c struct {
		Type    string `json:"@odata.type"`
		Comment string `json:"comment"`
	}
	if err := decodeStrictly(body, &c); err != nil {
		return "", err
	}
	if c.Comment == "" {
		return "", errMissing("comment")
	}
	return c.Comment, nil
}

// commentsAnswer is the list of all comments, which both calls answer with.
func commentsAnswer(r request, of string, comments []alertComment, effect string) answer {
	return done(http.StatusOK, struct {
		Context string         `json:"@odata.context"`
		Value   []graphComment `json:"value"`
	}{r.metadata(of + "/comments"), graphComments(comments)}, effect)
}

// commentGraphIncident appends, so that a retry is visible.
func (t *tenant) commentGraphIncident(r request) (answer, error) {
	i, err := lookup(t.incidentByID, "Incident", r.id)
	if err != nil {
		return answer{}, err
	}
	comment, err := readGraphComment(r.body)
	if err != nil {
		return answer{}, err
	}
	i.Updated = time.Now().UTC()
	i.Comments = append(i.Comments, alertComment{comment, requestor, i.Updated})
	return commentsAnswer(r, "security/incidents('"+r.id+"')", i.Comments, "commentIncident "+r.id),
		nil
}

// commentGraphAlert does so too.
func (t *tenant) commentGraphAlert(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	comment, err := readGraphComment(r.body)
	if err != nil {
		return answer{}, err
	}
	a.Updated = time.Now().UTC()
	a.Comments = append(a.Comments, alertComment{comment, requestor, a.Updated})
	return commentsAnswer(r, "security/alerts_v2('"+a.ID+"')", a.Comments, "comment "+a.ID), nil
}

// runGraphQuery is hunting in Graph's words. Its keys are written in either case by the
// documentation and the SDKs.
func (t *tenant) runGraphQuery(r request) (answer, error) {
	var q struct {
		Query     string  `json:"Query"`
		Timespan  *string `json:"Timespan"`
		Workspace *string `json:"workspaceId"`
	}
	if err := decodeStrictly(r.body, &q); err != nil {
		return answer{}, err
	}
	if err := (hunt{q.Query}).check(); err != nil {
		return answer{}, err
	}
	if q.Timespan != nil && !isTimespan(*q.Timespan) {
		return answer{}, errInvalid("Invalid Timespan '%s'.", shown(*q.Timespan))
	}
	type graphColumn struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	var schema []graphColumn
	for _, c := range columns() {
		schema = append(schema, graphColumn(c))
	}
	return done(http.StatusOK, struct {
		Context string        `json:"@odata.context"`
		Schema  []graphColumn `json:"schema"`
		Results []device      `json:"results"`
	}{r.metadata("microsoft.graph.security.huntingQueryResults"), schema, t.rows()}), nil
}

// isTimespan knows the documented forms: a duration, a time, or two of them, not both durations.
func isTimespan(text string) bool {
	duration := regexp.MustCompile(`^P(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)$`)
	first, second, two := strings.Cut(text, "/")
	durations := 0
	for _, part := range []string{first, second} {
		switch _, err := time.Parse(time.RFC3339, part); {
		case part == "" && !two, err == nil:
		case len(part) > 1 && !strings.HasSuffix(part, "T") && duration.MatchString(part):
			durations++
		default:
			return false
		}
		if !two {
			break
		}
	}
	return first != "" && durations < 2
}
