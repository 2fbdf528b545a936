package defendertest

import (
	"net/http"
	"strings"
	"time"
)

// A creation is the body of CreateAlertByReference: an event, and what the alert
// on it is to say. All of it is required, as documented.
type creation struct {
	MachineID         string `json:"machineId"`
	EventTime         string `json:"eventTime"`
	ReportID          string `json:"reportId"`
	Severity          string `json:"severity"`
	Title             string `json:"title"`
	Description       string `json:"description"`
	RecommendedAction string `json:"recommendedAction"`
	Category          string `json:"category"`
}

// alertCategories are the documented ones.
const alertCategories = " General CommandAndControl Collection CredentialAccess DefenseEvasion Discovery Exfiltration Exploit " +
	"Execution InitialAccess LateralMovement Malware Persistence PrivilegeEscalation Ransomware SuspiciousActivity "

// check names the first that is missing.
func (c creation) check() error {
	for _, field := range []struct{ name, value string }{
		{"machineId", c.MachineID}, {"eventTime", c.EventTime}, {"reportId", c.ReportID}, {"severity", c.Severity},
		{"title", c.Title}, {"description", c.Description}, {"recommendedAction", c.RecommendedAction}, {"category", c.Category},
	} {
		if field.value == "" {
			return errMissing(field.name)
		}
	}
	switch {
	case strings.ContainsAny(c.Title, "\r\n"): // would split the ledger's line
		return errInvalid("Invalid input: title has a line break")
	case !oneOf(c.Severity, "Low Medium High"):
		return errInvalid("Invalid input %s: severity is Low, Medium or High", c.Severity)
	case !oneOf(c.Category, alertCategories):
		return errInvalid("Invalid input %s: category is one of%s", c.Category, strings.TrimRight(alertCategories, " "))
	}
	if _, err := time.Parse(time.RFC3339, c.EventTime); err != nil {
		return errInvalid("Invalid input %s: eventTime is a date and time such as 2030-12-31T00:00:00Z", c.EventTime)
	}
	return nil
}

// createAlert creates an alert, or merges with an open one of the same title on
// the same machine, which makes a retry nearly harmless: it counts as an effect
// again, but there is one alert and one investigation. Events aren't simulated:
// every one is found that a machine can have had in the last 30 days.
func (t *tenant) createAlert(r request) (answer, error) {
	c, err := read[creation](r.body)
	if err != nil {
		return answer{}, err
	}
	now := time.Now().UTC()
	at, _ := time.Parse(time.RFC3339, c.EventTime) // checked
	m := t.machineByID[c.MachineID]
	if m == nil || at.After(now) || at.Before(now.Add(-seenFor)) {
		return answer{}, errNotFound("Event", c.ReportID)
	}
	effect := "createAlert " + m.ID + " " + c.Title
	for _, a := range t.alerts {
		if a.MachineID == m.ID && a.Title == c.Title && a.Status != "Resolved" {
			a.Updated = now
			return done(http.StatusOK, a, effect), nil
		}
	}
	a := t.addAlert(m, now)
	a.Title, a.Severity, a.Category = c.Title, c.Severity, c.Category
	a.Description, a.Recommended = c.Description, c.RecommendedAction
	t.investigate(m, a.ID, now)
	return done(http.StatusOK, a, effect), nil
}
