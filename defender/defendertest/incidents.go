package defendertest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// maxIncidents is the documented bound of $top, and of a page, for incidents.
const maxIncidents = 100

// An incident is one of Defender XDR's. There is one for each alert of the start,
// with the alert's number.
type incident struct {
	ID             int             `json:"incidentId"`
	RedirectID     *int            `json:"redirectIncidentId"`
	Name           string          `json:"incidentName"`
	Created        time.Time       `json:"createdTime"`
	Updated        time.Time       `json:"lastUpdateTime"`
	AssignedTo     *string         `json:"assignedTo"` // null if nobody
	Classification string          `json:"classification"`
	Determination  string          `json:"determination"`
	Status         string          `json:"status"`
	Severity       string          `json:"severity"`
	Tags           []string        `json:"tags"`
	Comments       []alertComment  `json:"comments"`
	Alerts         []incidentAlert `json:"alerts"`
}

// An incidentAlert is an alert as an incident shows it, which is otherwise than the
// alerts' own API does.
type incidentAlert struct {
	AlertID    string           `json:"alertId"`
	IncidentID int              `json:"incidentId"`
	Source     string           `json:"serviceSource"`
	Created    time.Time        `json:"creationTime"`
	Updated    time.Time        `json:"lastUpdatedTime"`
	Title      string           `json:"title"`
	Category   string           `json:"category"`
	Status     string           `json:"status"`
	Severity   string           `json:"severity"`
	Devices    []incidentDevice `json:"devices"`
}

// An incidentDevice is an alert's machine.
type incidentDevice struct {
	MDEDeviceID string `json:"mdatpDeviceId"`
	DNSName     string `json:"deviceDnsName"`
	OSPlatform  string `json:"osPlatform"`
}

// addIncident adds the incident of an alert.
func (t *tenant) addIncident(a *alert, now time.Time) {
	id := len(t.incidents) + 1
	m := t.machineByID[a.MachineID]
	i := &incident{
		ID: id, Name: a.Title, Created: now, Updated: now, Classification: "Unknown", Determination: "NotAvailable",
		Status: "Active", Severity: a.Severity, Tags: []string{}, Comments: []alertComment{},
		Alerts: []incidentAlert{{
			a.ID, id, "MicrosoftDefenderForEndpoint", a.Created, a.Updated, a.Title, a.Category, a.Status, a.Severity,
			[]incidentDevice{{m.ID, m.ComputerDNSName, m.OSPlatform}},
		}},
	}
	t.incidents = append(t.incidents, i)
	t.incidentByID[strconv.Itoa(id)] = i
}

// properties are the four that are documented as filterable.
func (i incident) properties() map[string]string {
	assigned := ""
	if i.AssignedTo != nil {
		assigned = *i.AssignedTo
	}
	return map[string]string{
		"createdTime":    i.Created.Format(time.RFC3339Nano),
		"lastUpdateTime": i.Updated.Format(time.RFC3339Nano),
		"status":         i.Status,
		"assignedTo":     assigned,
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

// listIncidents lists the newest first, as documented. Its pages have 100 at most.
func (t *tenant) listIncidents(r request) (answer, error) {
	wanted, err := askedPage(r.query, min(t.pageSize, maxIncidents), maxIncidents)
	if err != nil {
		return answer{}, err
	}
	all := values(t.incidents)
	slices.Reverse(all)
	return pageAnswer(r, "Incidents", all, wanted)
}

// getIncident shows the comments, in which a retried update can be seen.
func (t *tenant) getIncident(r request) (answer, error) {
	i, err := lookup(t.incidentByID, "Incident", r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, i), nil
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
	return done(http.StatusOK, i, effect), nil
}
