package defendertest

import (
	"net/http"
	"strconv"
	"time"
)

// An investigation is one that startInvestigation or a created alert has started.
// Its id is a number, as in the documented example. Its state is a matter of time,
// as an action's.
type investigation struct {
	ID        string     `json:"id"`
	Start     time.Time  `json:"startTime"`
	End       *time.Time `json:"endTime"`
	State     string     `json:"state"`
	MachineID string     `json:"machineId"`
	DNSName   string     `json:"computerDnsName"`
	AlertID   string     `json:"triggeringAlertId"` // "" if a call started it
}

// properties have the alert, by which connectors look.
func (i investigation) properties() map[string]string {
	return map[string]string{
		"id":                i.ID,
		"startTime":         i.Start.Format(time.RFC3339Nano),
		"state":             i.State,
		"machineId":         i.MachineID,
		"triggeringAlertId": i.AlertID,
	}
}

// investigate starts an investigation.
func (t *tenant) investigate(m *machine, alertID string, now time.Time) {
	t.inquiries = append(t.inquiries, &investigation{
		ID: strconv.Itoa(len(t.inquiries) + 1), Start: now, State: "Running",
		MachineID: m.ID, DNSName: m.ComputerDNSName, AlertID: alertID,
	})
}

// view is the investigation as it stands at a time. None finds anything.
func (i investigation) view(now time.Time, takes time.Duration) investigation {
	if end := i.Start.Add(takes); !now.Before(end) {
		i.State, i.End = "Benign", &end
	}
	return i
}

// listInvestigations lists the oldest first, as the actions.
func (t *tenant) listInvestigations(r request) (answer, error) {
	views, now := values(t.inquiries), time.Now()
	for i := range views {
		views[i] = views[i].view(now, t.actionTime)
	}
	return listAnswer(r, "Investigations", views, t.pageSize)
}

// getInvestigation takes the id of the alert that triggered one too, as
// documented.
func (t *tenant) getInvestigation(r request) (answer, error) {
	for _, i := range t.inquiries {
		if i.ID == r.id || i.AlertID == r.id {
			return done(http.StatusOK, i.view(time.Now(), t.actionTime)), nil
		}
	}
	return answer{}, errNotFound("Investigation", r.id)
}
