package defendertest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// maxIncidents is the documented bound of $top, and of a page, for incidents.
const maxIncidents = 100

// An incident is one of the tenant's. There is one for each alert, with the alert's number.
// Defender XDR and Graph show it in other words each, see xdrIncident and graphIncident.
type incident struct {
	ID             int
	Name           string
	Created        time.Time
	Updated        time.Time
	AssignedTo     *string // nil if nobody
	Classification string
	Determination  string
	Status         string
	Severity       string
	Tags           []string
	Comments       []alertComment
	Alert          *alert
	Machine        *machine
}

// An xdrIncident is an incident as Defender XDR shows it.
type xdrIncident struct {
	ID             int            `json:"incidentId"`
	RedirectID     *int           `json:"redirectIncidentId"`
	Name           string         `json:"incidentName"`
	Created        time.Time      `json:"createdTime"`
	Updated        time.Time      `json:"lastUpdateTime"`
	AssignedTo     *string        `json:"assignedTo"`
	Classification string         `json:"classification"`
	Determination  string         `json:"determination"`
	Status         string         `json:"status"`
	Severity       string         `json:"severity"`
	Tags           []string       `json:"tags"`
	Comments       []alertComment `json:"comments"`
	Alerts         []xdrAlert     `json:"alerts"`
}

// An xdrAlert is an alert as an incident shows it, which is otherwise than the alerts' own API
// does.
type xdrAlert struct {
	AlertID            string      `json:"alertId"`
	IncidentID         int         `json:"incidentId"`
	Source             string      `json:"serviceSource"`
	Created            time.Time   `json:"creationTime"`
	Updated            time.Time   `json:"lastUpdatedTime"`
	Resolved           *time.Time  `json:"resolvedTime"`
	FirstActivity      time.Time   `json:"firstActivity"`
	LastActivity       time.Time   `json:"lastActivity"`
	Title              string      `json:"title"`
	Description        string      `json:"description"`
	Category           string      `json:"category"`
	Status             string      `json:"status"`
	Severity           string      `json:"severity"`
	InvestigationID    *int        `json:"investigationId"`
	InvestigationState string      `json:"investigationState"`
	Classification     *string     `json:"classification"`
	Determination      *string     `json:"determination"`
	DetectionSource    string      `json:"detectionSource"`
	AssignedTo         *string     `json:"assignedTo"`
	Actor              *string     `json:"actorName"`
	ThreatFamily       *string     `json:"threatFamilyName"`
	Techniques         []string    `json:"mitreTechniques"`
	Devices            []xdrDevice `json:"devices"`
	Entities           []xdrEntity `json:"entities"`
}

// An xdrDevice is an alert's machine.
type xdrDevice struct {
	MDEDeviceID  string    `json:"mdatpDeviceId"`
	AADDeviceID  *string   `json:"aadDeviceId"`
	DNSName      string    `json:"deviceDnsName"`
	OSPlatform   string    `json:"osPlatform"`
	Version      string    `json:"version"`
	OSProcessor  string    `json:"osProcessor"`
	OSBuild      *int      `json:"osBuild"`
	HealthStatus string    `json:"healthStatus"`
	RiskScore    *string   `json:"riskScore"`
	GroupName    string    `json:"rbacGroupName"`
	GroupID      int       `json:"rbacGroupId"`
	FirstSeen    time.Time `json:"firstSeen"`
}

// An xdrEntity is an evidence in Defender XDR's words. Those of mails are null: no alert is of one.
type xdrEntity struct {
	Type           string     `json:"entityType"`
	SHA1           *string    `json:"sha1"`
	SHA256         *string    `json:"sha256"`
	FileName       *string    `json:"fileName"`
	FilePath       *string    `json:"filePath"`
	ProcessID      *int       `json:"processId"`
	CommandLine    *string    `json:"processCommandLine"`
	ProcessCreated *time.Time `json:"processCreationTime"`
	ParentID       *int       `json:"parentProcessId"`
	ParentCreated  *time.Time `json:"parentProcessCreationTime"`
	IPAddress      *string    `json:"ipAddress"`
	URL            *string    `json:"url"`
	AccountName    *string    `json:"accountName"`
	DomainName     *string    `json:"domainName"`
	UserSID        *string    `json:"userSid"`
	AADUserID      *string    `json:"aadUserId"`
	UserPrincipal  *string    `json:"userPrincipalName"`
	MailboxName    *string    `json:"mailboxDisplayName"`
	MailboxAddress *string    `json:"mailboxAddress"`
	ClusterBy      *string    `json:"clusterBy"`
	Sender         *string    `json:"sender"`
	Recipient      *string    `json:"recipient"`
	Subject        *string    `json:"subject"`
	DeliveryAction *string    `json:"deliveryAction"`
	GroupID        *string    `json:"securityGroupId"`
	GroupName      *string    `json:"securityGroupName"`
	RegistryHive   *string    `json:"registryHive"`
	RegistryKey    *string    `json:"registryKey"`
	RegistryType   *string    `json:"registryValueType"`
	RegistryValue  *string    `json:"registryValue"`
	DeviceID       *string    `json:"deviceId"`
}

// addIncident adds the incident of an alert.
func (t *tenant) addIncident(a *alert, m *machine, now time.Time) {
	i := &incident{
		ID: a.IncidentID, Name: a.Title, Created: now, Updated: now,
		Classification: "Unknown", Determination: "NotAvailable", Status: "Active", Severity: a.Severity,
		Tags: []string{}, Comments: []alertComment{}, Alert: a, Machine: m,
	}
	t.incidents = append(t.incidents, i)
	t.incidentByID[strconv.Itoa(i.ID)] = i
}

// xdr returns an incident in Defender XDR's words.
func (i *incident) xdr() xdrIncident {
	shown := xdrIncident{
		ID: i.ID, Name: i.Name, Created: i.Created, Updated: i.Updated, AssignedTo: i.AssignedTo,
		Classification: i.Classification, Determination: i.Determination, Status: i.Status,
		Severity: i.Severity,
		Tags:     i.Tags, Comments: i.Comments,
	}
	if i.Alert == nil { // of an empty one, whose names alone are of interest
		return shown
	}
	a, m := i.Alert, i.Machine
	entities := make([]xdrEntity, len(a.Evidence))
	for n, e := range a.Evidence {
		entities[n] = xdrEntity{
			Type: e.Type, SHA1: e.SHA1, SHA256: e.SHA256, FileName: e.FileName, FilePath: e.FilePath,
			ProcessID: e.ProcessID, CommandLine: e.CommandLine, ProcessCreated: e.ProcessCreated,
			ParentID: e.ParentID, ParentCreated: e.ParentCreated, AccountName: e.AccountName,
			DomainName: e.DomainName, UserSID: e.UserSID, AADUserID: e.AADUserID,
			UserPrincipal: e.UserPrincipal,
		}
		if e.Type != "User" {
			entities[n].DeviceID = &m.ID
		}
	}
	shown.Alerts = []xdrAlert{{
		AlertID: a.ID, IncidentID: a.IncidentID, Source: "MicrosoftDefenderForEndpoint",
		Created: a.Created, Updated: a.Updated, Resolved: a.Resolved, FirstActivity: a.FirstEvent,
		LastActivity: a.LastEvent,
		Title:        a.Title, Description: a.Description, Category: a.Category, Status: a.Status,
		Severity:        a.Severity,
		InvestigationID: a.InvestigationID, InvestigationState: a.InvestigationState,
		Classification: a.Classification, Determination: a.Determination,
		DetectionSource: a.DetectionSource,
		AssignedTo:      a.AssignedTo, ThreatFamily: a.ThreatFamily, Techniques: a.Techniques,
		Devices: []xdrDevice{{
			m.ID, m.AADDeviceID, m.ComputerDNSName, m.OSPlatform, m.Version, m.OSProcessor, m.OSBuild,
			m.HealthStatus, m.RiskScore, m.GroupName, m.GroupID, m.FirstSeen,
		}},
		Entities: entities,
	}}
	return shown
}

// incidentProperties are the four that are documented as filterable.
func incidentProperties() []property[incident] {
	return []property[incident]{
		{"createdTime", moment, func(i *incident) value { return timeValue(i.Created) }, ""},
		{"lastUpdateTime", moment, func(i *incident) value { return timeValue(i.Updated) }, ""},
		{"status", text, func(i *incident) value { return textValue(i.Status) }, ""},
		{"assignedTo", text, func(i *incident) value { return maybe(i.AssignedTo, textValue) }, ""},
	}
}

// An incidentUpdate is the body of an update. What is absent stays as it is.
type incidentUpdate struct {
	Status         *string  `json:"status"`
	AssignedTo     *string  `json:"assignedTo"`
	Classification *string  `json:"classification"`
	Determination  *string  `json:"determination"`
	Tags           []string `json:"tags"`
	Comment        string   `json:"comment"`
}

// check knows the documented statuses and classifications. Which determination
// goes with which of them is left to the service.
func (u incidentUpdate) check() error {
	if u.Status == nil && u.AssignedTo == nil && u.Classification == nil && u.Determination == nil && u.Tags == nil && u.Comment == "" {
		return errMissing("status, assignedTo, classification, determination, tags or comment")
	}
	if u.Status != nil && !oneOf(*u.Status, "Active Resolved InProgress Redirected") {
		return errInvalid("Invalid input %s: status is Active, Resolved, InProgress or Redirected", *u.Status)
	}
	const classifications = "TruePositive InformationalExpectedActivity FalsePositive Unknown"
	if u.Classification != nil && !oneOf(*u.Classification, classifications) {
		return errInvalid("Invalid input %s: classification is TruePositive, InformationalExpectedActivity or FalsePositive", *u.Classification)
	}
	return nil
}

// listIncidents lists the newest first, as documented. Its pages have 100 at most, and lead on
// with $top too: nothing else was reported of this API.
func (t *tenant) listIncidents(r request) (answer, error) {
	list := listing[incident]{
		context: "Incidents", properties: incidentProperties(),
		show: func(i *incident, _ bool) any { return i.xdr() },
		rules: rules{
			size: min(t.pageSize, maxIncidents), most: maxIncidents, links: always,
			options: "$filter $top $skip $skiptoken",
		},
	}
	all := values(t.incidents)
	slices.Reverse(all)
	return list.answer(r, all)
}

// getIncident shows the comments, in which a retried update can be seen.
func (t *tenant) getIncident(r request) (answer, error) {
	i, err := lookup(t.incidentByID, "Incident", r.id)
	if err != nil {
		return answer{}, err
	}
	return single(r, http.StatusOK, "Incidents/$entity", i.xdr()), nil
}

// updateIncident is an alert's update in other words: the comment is appended.
func (t *tenant) updateIncident(r request) (answer, error) {
	i, err := lookup(t.incidentByID, "Incident", r.id)
	if err != nil {
		return answer{}, err
	}
	u, err := read[incidentUpdate](r.body)
	if err != nil {
		return answer{}, err
	}
	now := time.Now().UTC()
	for _, field := range []struct{ to, from *string }{
		{&i.Status, u.Status}, {&i.Classification, u.Classification}, {&i.Determination, u.Determination},
	} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	if u.AssignedTo != nil {
		i.AssignedTo = u.AssignedTo
	}
	if u.Tags != nil {
		i.Tags = u.Tags
	}
	i.Updated = now
	effect := "updateIncident " + r.id
	if u.Comment != "" {
		i.Comments = append(i.Comments, alertComment{u.Comment, requestor, now})
		effect = "commentIncident " + r.id
	}
	return single(r, http.StatusOK, "Incidents/$entity", i.xdr(), effect), nil
}
