package defendertest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"time"
)

// An actionKind is a machine action that can be ordered.
type actionKind struct {
	name   string                  // last segment of the path, and first word of the effect
	kind   string                  // the documented type
	family string                  // of the quota
	status int                     // of the answer
	check  func(actionOrder) error // what this kind needs beside a comment; nil: nothing
}

// actionKinds is the table of all machine actions. Offboarding alone is answered
// 200, as documented. Investigations and live response have quotas of their own,
// 50 an hour and 10 a minute.
func actionKinds() []actionKind {
	const usual = "machines/{id}/action"
	return []actionKind{
		{"isolate", "Isolate", usual, http.StatusCreated, actionOrder.checkIsolation},
		{"unisolate", "Unisolate", usual, http.StatusCreated, nil},
		{"runAntiVirusScan", "RunAntiVirusScan", usual, http.StatusCreated, actionOrder.checkScan},
		{"restrictCodeExecution", "RestrictCodeExecution", usual, http.StatusCreated, nil},
		{"unrestrictCodeExecution", "UnrestrictCodeExecution", usual, http.StatusCreated, nil},
		{"StopAndQuarantineFile", "StopAndQuarantineFile", usual, http.StatusCreated, actionOrder.checkFile},
		{"offboard", "Offboard", usual, http.StatusOK, nil},
		{"collectInvestigationPackage", "CollectInvestigationPackage", usual, http.StatusCreated, nil},
		{"startInvestigation", "StartInvestigation", "machines/{id}/startInvestigation", http.StatusCreated, nil},
		{"runliveresponse", liveResponse, "machines/{id}/runliveresponse", http.StatusCreated, actionOrder.checkCommands},
	}
}

// actionRoutes makes a route of each kind.
func actionRoutes() []route {
	var all []route
	for _, k := range actionKinds() {
		all = append(all, route{"POST", "machines/{id}/" + k.name, k.family, func(t *tenant, r request) (answer, error) {
			return t.order(k, r)
		}})
	}
	return all
}

// An actionOrder is the body of every machine action, with the parameters of all
// kinds: what a kind doesn't know, it ignores. ExternalId may be written in either
// case, since it is documented as a property of the answer only.
type actionOrder struct {
	Comment       string            `json:"Comment"`
	IsolationType string            `json:"IsolationType"`
	ScanType      string            `json:"ScanType"`
	SHA1          string            `json:"Sha1"`
	Commands      []json.RawMessage `json:"Commands"`
	ExternalID    string            `json:"ExternalId"`
	LowerID       string            `json:"externalId"`
}

// check wants the comment, which is documented as required for all kinds.
func (o actionOrder) check() error {
	if o.Comment == "" {
		return errMissing("Comment")
	}
	return nil
}

// checkIsolation takes a missing type for Full.
func (o actionOrder) checkIsolation() error {
	switch o.IsolationType {
	case "", "Full", "Selective", "UnManagedDevice":
		return nil
	}
	return errInvalid("Invalid input %s: IsolationType is Full, Selective or UnManagedDevice", o.IsolationType)
}

// checkScan wants a type, which is documented as required here.
func (o actionOrder) checkScan() error {
	switch o.ScanType {
	case "":
		return errMissing("ScanType")
	case "Quick", "Full":
		return nil
	}
	return errInvalid("Invalid input %s: ScanType is Quick or Full", o.ScanType)
}

// checkFile wants the SHA-1 of the file: no other hash is documented.
func (o actionOrder) checkFile() error {
	if o.SHA1 == "" {
		return errMissing("Sha1")
	}
	return checkHash(o.SHA1, 40)
}

// An action is a machine action as it was ordered, with a GUID for its id. Its status is a matter of
// time, see view: no timer runs for it.
type action struct {
	ID          string    `json:"id"`
	Type        string    `json:"type"`
	Requestor   string    `json:"requestor"`
	Comment     string    `json:"requestorComment"`
	Status      string    `json:"status"`
	MachineID   string    `json:"machineId"`
	DNSName     string    `json:"computerDnsName"`
	Created     time.Time `json:"creationDateTimeUtc"`
	Updated     time.Time `json:"lastUpdateDateTimeUtc"`
	ExternalID  string    `json:"externalId,omitempty"`
	CancelledBy string    `json:"cancellationRequestor,omitempty"`
	CancelNote  string    `json:"cancellationComment,omitempty"`

	Commands []commandResult `json:"commands,omitempty"` // of a live response session
}

// requestor is who ordered an action, or wrote a comment. Of the real service it
// is the application's name.
const requestor = "defendertest"

// properties are those that are documented as filterable. externalId is not:
// who looks for a lost action finds it by its machine and type.
func (a action) properties() map[string]string {
	return map[string]string{
		"id":                  a.ID,
		"status":              a.Status,
		"machineId":           a.MachineID,
		"type":                a.Type,
		"requestor":           a.Requestor,
		"creationDateTimeUtc": a.Created.Format(time.RFC3339Nano),
	}
}

// view is the action as it stands at a time. Actions never fail and never time out:
// what a client makes of those is not a matter of its transport.
func (a action) view(now time.Time, takes time.Duration) action {
	if a.CancelledBy != "" {
		return a // final since then
	}
	switch age := now.Sub(a.Created); {
	case age >= takes:
		a.Status, a.Updated = "Succeeded", a.Created.Add(takes)
		a.Commands = finish(a.Commands, a.Created, a.Updated)
	case age >= takes/2:
		a.Status, a.Updated = "InProgress", a.Created.Add(takes/2)
	}
	return a
}

// active reports whether an action's view isn't final.
func (a action) active() bool { return a.Status == "Pending" || a.Status == "InProgress" }

// An actionKey is what can be active only once. After that a retry makes a new
// action: a lost answer is dangerous for as long as nobody has looked.
type actionKey struct{ machine, kind string }

// order starts an action, unless one of its kind is active on the machine. The one
// code was observed for all kinds; a client must look the active action up.
func (t *tenant) order(k actionKind, r request) (answer, error) {
	m, err := lookup(t.machineByID, "Machine", r.id)
	if err != nil {
		return answer{}, err
	}
	o, err := read[actionOrder](r.body)
	if err != nil {
		return answer{}, err
	}
	if k.check != nil {
		if err := k.check(o); err != nil {
			return answer{}, err
		}
	}
	now, key := time.Now().UTC(), actionKey{m.ID, k.kind}
	if last := t.lastAction[key]; last != nil && last.view(now, t.actionTime).active() {
		return answer{}, problem{http.StatusBadRequest, "ActiveRequestAlreadyExists", "Action is already in progress"}
	}
	if k.kind == liveResponse {
		if err := t.checkSessions(now); err != nil {
			return answer{}, err
		}
	}
	a := &action{
		ID: newGUID(), Type: k.kind, Requestor: requestor, Comment: o.Comment, Status: "Pending",
		MachineID: m.ID, DNSName: m.ComputerDNSName, Created: now, Updated: now,
		ExternalID: cmp.Or(o.ExternalID, o.LowerID),
	}
	switch k.kind {
	case liveResponse:
		a.Commands = newResults(o)
	case "StartInvestigation":
		t.investigate(m, "", now)
	}
	t.actions = append(t.actions, a)
	t.actionByID[a.ID] = a
	t.lastAction[key] = a
	return done(k.status, a, k.name+" "+m.ID), nil
}

// listActions lists the oldest first: pages hold still while actions are added.
func (t *tenant) listActions(r request) (answer, error) {
	views := values(t.actions)
	now := time.Now()
	for i := range views {
		views[i] = views[i].view(now, t.actionTime)
	}
	return listAnswer(r, "MachineActions", views, t.pageSize)
}

// getAction is what a client polls. Nothing in the answer says how long to wait:
// the service is not known to send Retry-After here.
func (t *tenant) getAction(r request) (answer, error) {
	a, err := lookup(t.actionByID, "Machine action", r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, a.view(time.Now(), t.actionTime)), nil
}

// cancelAction cancels what isn't final. What the service says of a final action
// isn't documented; 400 is a guess.
func (t *tenant) cancelAction(r request) (answer, error) {
	a, err := lookup(t.actionByID, "Machine action", r.id)
	if err != nil {
		return answer{}, err
	}
	o, err := read[actionOrder](r.body)
	if err != nil {
		return answer{}, err
	}
	now := time.Now().UTC()
	if view := a.view(now, t.actionTime); !view.active() {
		return answer{}, problem{http.StatusBadRequest, "BadRequest",
			"Machine action " + a.ID + " can't be cancelled: it is " + view.Status}
	}
	a.Status, a.Updated, a.CancelledBy, a.CancelNote = "Cancelled", now, requestor, o.Comment
	return done(http.StatusOK, a, "cancel "+a.ID), nil
}
