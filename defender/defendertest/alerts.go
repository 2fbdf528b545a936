package defendertest

import (
	"fmt"
	"net/http"
	"time"
)

// An alert has the documented properties that clients mostly read. Its keys, and
// those of its updates, aren't capitalised.
type alert struct {
	ID             string         `json:"id"`
	Title          string         `json:"title"`
	Severity       string         `json:"severity"`
	Status         string         `json:"status"`
	AssignedTo     string         `json:"assignedTo"`
	Classification string         `json:"classification"`
	Determination  string         `json:"determination"`
	MachineID      string         `json:"machineId"`
	DNSName        string         `json:"computerDnsName"`
	Created        time.Time      `json:"alertCreationTime"`
	Updated        time.Time      `json:"lastUpdateTime"`
	Comments       []alertComment `json:"comments"`
	Category       string         `json:"category"`
	Description    string         `json:"description"`
	Recommended    string         `json:"recommendedAction,omitempty"`
	Evidence       evidence       `json:"-"` // asked for by calls of its own
}

// An alertComment is never changed: there is no call for it, so that a comment
// made twice stays twice.
type alertComment struct {
	Comment   string    `json:"comment"`
	CreatedBy string    `json:"createdBy"`
	Created   time.Time `json:"createdTime"`
}

// addAlert adds an alert of a machine. Those from the start have their machine's
// number.
func (t *tenant) addAlert(m *machine, now time.Time) *alert {
	a := &alert{
		ID: fmt.Sprintf("a%04d", len(t.alerts)+1), Title: "Suspicious activity", Severity: "Medium", Status: "New",
		MachineID: m.ID, DNSName: m.ComputerDNSName, Created: now, Updated: now, Comments: []alertComment{},
		Category: "SuspiciousActivity", Description: "An alert for tests.", Evidence: newEvidence(m),
	}
	t.alerts = append(t.alerts, a)
	t.alertByID[a.ID] = a
	return a
}

// properties has the times too: pollers ask for what changed since their last
// visit.
func (a alert) properties() map[string]string {
	return map[string]string{
		"id":                a.ID,
		"severity":          a.Severity,
		"status":            a.Status,
		"assignedTo":        a.AssignedTo,
		"machineId":         a.MachineID,
		"alertCreationTime": a.Created.Format(time.RFC3339Nano),
		"lastUpdateTime":    a.Updated.Format(time.RFC3339Nano),
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
	for _, field := range []struct{ to, from *string }{
		{&a.Status, u.Status}, {&a.AssignedTo, u.AssignedTo},
		{&a.Classification, u.Classification}, {&a.Determination, u.Determination},
	} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	a.Updated = now
	if u.Comment == "" {
		return "update " + a.ID
	}
	a.Comments = append(a.Comments, alertComment{u.Comment, requestor, now})
	return "comment " + a.ID
}

// listAlerts answers an empty list as one. Only machines are answered 404 then.
func (t *tenant) listAlerts(r request) (answer, error) {
	return listAnswer(r, "Alerts", values(t.alerts), t.pageSize)
}

// getAlert shows the comments, in which a retried update can be seen.
func (t *tenant) getAlert(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, a), nil
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
	return done(http.StatusOK, a, effect), nil
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
