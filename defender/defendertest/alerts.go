package defendertest

import (
	"fmt"
	"net/http"
	"time"
)

// tenantID is the tenant's, in alerts and incidents.
const tenantID = "5d7a1f0c-2b43-4c8e-9f60-8a2e6c1d4b70"

// An alert has the documented properties. Its keys, and those of its updates, aren't capitalised.
// Graph's alerts_v2 are the same alerts in other words, see graphAlert.
type alert struct {
	ID                 string         `json:"id"`
	IncidentID         int            `json:"incidentId"`
	InvestigationID    *int           `json:"investigationId"`
	AssignedTo         *string        `json:"assignedTo"` // null if nobody
	Severity           string         `json:"severity"`
	Status             string         `json:"status"`
	Classification     *string        `json:"classification"`
	Determination      *string        `json:"determination"`
	InvestigationState string         `json:"investigationState"`
	DetectionSource    string         `json:"detectionSource"`
	DetectorID         string         `json:"detectorId"`
	Category           string         `json:"category"`
	ThreatFamily       *string        `json:"threatFamilyName"`
	Title              string         `json:"title"`
	Description        string         `json:"description"`
	Created            time.Time      `json:"alertCreationTime"`
	FirstEvent         time.Time      `json:"firstEventTime"`
	LastEvent          time.Time      `json:"lastEventTime"`
	Updated            time.Time      `json:"lastUpdateTime"`
	Resolved           *time.Time     `json:"resolvedTime"`
	MachineID          string         `json:"machineId"`
	DNSName            string         `json:"computerDnsName"`
	GroupName          string         `json:"rbacGroupName"`
	TenantID           string         `json:"aadTenantId"`
	ThreatName         *string        `json:"threatName"`
	Techniques         []string       `json:"mitreTechniques"`
	RelatedUser        *relatedUser   `json:"relatedUser"`
	Comments           []alertComment `json:"comments"`
	Evidence           []evidence     `json:"evidence"`
}

// A relatedUser is the one who was at the machine.
type relatedUser struct {
	Name   string `json:"userName"`
	Domain string `json:"domainName"`
}

// An alertComment is never changed: there is no call for it, so that a comment
// made twice stays twice.
type alertComment struct {
	Comment   string    `json:"comment"`
	CreatedBy string    `json:"createdBy"`
	Created   time.Time `json:"createdTime"`
}

// An evidence is a user, a process or a file. What isn't of its type is null.
type evidence struct {
	Type            string     `json:"entityType"`
	Created         time.Time  `json:"evidenceCreationTime"`
	SHA1            *string    `json:"sha1"`
	SHA256          *string    `json:"sha256"`
	FileName        *string    `json:"fileName"`
	FilePath        *string    `json:"filePath"`
	ProcessID       *int       `json:"processId"`
	CommandLine     *string    `json:"processCommandLine"`
	ProcessCreated  *time.Time `json:"processCreationTime"`
	ParentID        *int       `json:"parentProcessId"`
	ParentCreated   *time.Time `json:"parentProcessCreationTime"`
	ParentName      *string    `json:"parentProcessFileName"`
	ParentPath      *string    `json:"parentProcessFilePath"`
	IPAddress       *string    `json:"ipAddress"`
	URL             *string    `json:"url"`
	RegistryKey     *string    `json:"registryKey"`
	RegistryHive    *string    `json:"registryHive"`
	RegistryType    *string    `json:"registryValueType"`
	RegistryValue   *string    `json:"registryValue"`
	AccountName     *string    `json:"accountName"`
	DomainName      *string    `json:"domainName"`
	UserSID         *string    `json:"userSid"`
	AADUserID       *string    `json:"aadUserId"`
	UserPrincipal   *string    `json:"userPrincipalName"`
	DetectionStatus *string    `json:"detectionStatus"`
}

// addAlert adds an alert of a machine, with the machine's number.
func (t *tenant) addAlert(m *machine, now time.Time) *alert {
	number := len(t.alerts) + 1
	before := now.Add(-2 * time.Minute)
	a := &alert{
		ID: fmt.Sprintf("a%04d", number), IncidentID: number, Title: "Suspicious activity",
		Severity: "Medium", Status: "New", InvestigationState: "UnsupportedAlertType",
		DetectionSource: "WindowsDefenderAtp", DetectorID: guidOf("detector", 1),
		Category: "SuspiciousActivity", Description: "An alert for tests.",
		Created: now, Updated: now, FirstEvent: before, LastEvent: before.Add(time.Minute),
		MachineID: m.ID, DNSName: m.ComputerDNSName, GroupName: m.GroupName, TenantID: tenantID,
		Techniques: []string{"T1059.001"}, Comments: []alertComment{},
	}
	user := fmt.Sprintf("user%04d", number)
	if number%3 != 0 { // as the machines without a group's data
		a.RelatedUser = &relatedUser{user, "CONTOSO"}
	}
	sha1 := fmt.Sprintf("%040x", number)
	a.Evidence = []evidence{
		{
			Type: "User", Created: now, AccountName: &user, DomainName: new("CONTOSO"),
			UserSID: new(fmt.Sprintf("S-1-5-21-1-2-3-%d", number)), AADUserID: new(guidOf("user", number)),
			UserPrincipal: new(user + "@contoso.example"),
		},
		{
			Type: "Process", Created: now, SHA1: &sha1, SHA256: new(fmt.Sprintf("%064x", number)),
			FileName: new("powershell.exe"), FilePath: new(`C:\Windows\System32`), ProcessID: new(4780),
			CommandLine: new("powershell.exe -NoProfile"), ProcessCreated: &before,
			ParentID: new(668), ParentCreated: &before,
			ParentName: new("services.exe"), ParentPath: new(`C:\Windows\System32`),
			DetectionStatus: new("Detected"),
		},
	}
	t.alerts = append(t.alerts, a)
	t.alertByID[a.ID] = a
	return a
}

// alertProperties are those that the pages name, and the machine's id, which they don't.
func alertProperties() []property[alert] {
	return []property[alert]{
		{"id", text, func(a *alert) value { return textValue(a.ID) }, ""},
		{"incidentId", number, func(a *alert) value { return numberValue(a.IncidentID) }, ""},
		{"investigationId", number, func(a *alert) value { return maybe(a.InvestigationID, numberValue) },
			""},
		{"assignedTo", text, func(a *alert) value { return maybe(a.AssignedTo, textValue) }, ""},
		{"detectionSource", text, func(a *alert) value { return textValue(a.DetectionSource) }, ""},
		{"status", text, func(a *alert) value { return textValue(a.Status) }, ""},
		{"severity", text, func(a *alert) value { return textValue(a.Severity) }, ""},
		{"category", text, func(a *alert) value { return textValue(a.Category) }, ""},
		{"alertCreationTime", moment, func(a *alert) value { return timeValue(a.Created) }, ""},
		{"lastUpdateTime", moment, func(a *alert) value { return timeValue(a.Updated) }, ""},
		{"lastEventTime", moment, func(a *alert) value { return timeValue(a.LastEvent) }, ""},
		{"machineId", text, func(a *alert) value { return textValue(a.MachineID) }, ""},
	}
}

// alertList is the list of alerts. Its items have their evidence where $expand asks for it, and
// an empty array otherwise, as in the documented examples.
func (t *tenant) alertList() listing[alert] {
	return listing[alert]{
		context: "Alerts", properties: alertProperties(), expand: "evidence", rules: t.mdeRules(),
		show: func(a *alert, expanded bool) any {
			if expanded {
				return a
			}
			bare := *a
			bare.Evidence = []evidence{}
			return bare
		},
	}
}

// An alertUpdate is the body of an update. What is absent stays as it is.
type alertUpdate struct {
	Status         *string `json:"status"`
	AssignedTo     *string `json:"assignedTo"`
	Classification *string `json:"classification"`
	Determination  *string `json:"determination"`
	Comment        string  `json:"comment"`
}

// check refuses an update of nothing, which is most likely a misspelt key.
func (u alertUpdate) check() error {
	if u == (alertUpdate{}) {
		return errMissing("status, assignedTo, classification, determination or comment")
	}
	if u.Status == nil {
		return nil
	}
	switch *u.Status {
	case "New", "InProgress", "Resolved":
		return nil
	}
	return errInvalid("Invalid input %s: status is New, InProgress or Resolved", *u.Status)
}

// apply sets values, which a retry may do again, but appends the comment, which
// makes a retry visible.
func (u alertUpdate) apply(a *alert, now time.Time) (effect string) {
	for _, field := range []struct {
		to   **string
		from *string
	}{
		{&a.AssignedTo, u.AssignedTo}, {&a.Classification, u.Classification},
		{&a.Determination, u.Determination},
	} {
		if field.from != nil {
			*field.to = field.from
		}
	}
	if u.Status != nil {
		a.setStatus(*u.Status, now)
	}
	a.Updated = now
	if u.Comment == "" {
		return "update " + a.ID
	}
	a.Comments = append(a.Comments, alertComment{u.Comment, requestor, now})
	return "comment " + a.ID
}

// setStatus keeps the time at which an alert was resolved.
func (a *alert) setStatus(status string, now time.Time) {
	if a.Status = status; status != "Resolved" {
		a.Resolved = nil
	} else if a.Resolved == nil {
		a.Resolved = &now
	}
}

// listAlerts answers an empty list as one. Only machines are answered 404 then.
func (t *tenant) listAlerts(r request) (answer, error) {
	return t.alertList().answer(r, values(t.alerts))
}

// getAlert shows the comments, in which a retried update can be seen.
func (t *tenant) getAlert(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return single(r, http.StatusOK, "Alerts/$entity", a), nil
}

// updateAlert is a PATCH, and may be retried without a comment only.
func (t *tenant) updateAlert(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	u, err := read[alertUpdate](r.body)
	if err != nil {
		return answer{}, err
	}
	effect := u.apply(a, time.Now().UTC())
	return single(r, http.StatusOK, "Alerts/$entity", a, effect), nil
}

// updateAlerts updates all or none, and answers with an empty body, as
// documented. The body is read twice, since a batch is an update with ids beside.
func (t *tenant) updateAlerts(r request) (answer, error) {
	var batch struct {
		AlertIDs []string `json:"alertIds"`
	}
	if err := decode(r.body, &batch); err != nil {
		return answer{}, err
	}
	u, err := read[alertUpdate](r.body)
	if err != nil {
		return answer{}, err
	}
	alerts, err := lookupAll(t.alertByID, "Alert", "alertIds", batch.AlertIDs)
	if err != nil {
		return answer{}, err
	}
	result, now := answer{status: http.StatusOK}, time.Now().UTC()
	for _, a := range alerts {
		result.effects = append(result.effects, u.apply(a, now))
	}
	return result, nil
}
