package defendertest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
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
		{"isolate", isolating, usual, http.StatusCreated, actionOrder.checkIsolation},
		{"unisolate", releasing, usual, http.StatusCreated, nil},
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
// time, see view: no timer runs for it. The time of the last update has two names in the
// documentation, one in the resource and one in the examples of the list.
type action struct {
	ID            string     `json:"id"`
	Type          string     `json:"type"`
	Title         *string    `json:"title"`
	Scope         *string    `json:"scope"`
	Requestor     string     `json:"requestor"`
	RequestSource string     `json:"requestSource"`
	Comment       string     `json:"requestorComment"`
	Status        string     `json:"status"`
	MachineID     string     `json:"machineId"`
	DNSName       string     `json:"computerDnsName"`
	Created       time.Time  `json:"creationDateTimeUtc"`
	Updated       time.Time  `json:"lastUpdateDateTimeUtc"`
	UpdatedAgain  time.Time  `json:"lastUpdateTimeUtc"`
	ExternalID    *string    `json:"externalId"`
	CancelledBy   *string    `json:"cancellationRequestor"`
	CancelNote    *string    `json:"cancellationComment"`
	Cancelled     *time.Time `json:"cancellationDateTimeUtc"`
	ErrorHResult  int        `json:"errorHResult"`

	Commands []commandResult `json:"commands"` // of a live response session
	File     *relatedFile    `json:"relatedFileInfo"`

	// An isolation that was ordered while the machine was isolated is stuck, and begins when a
	// later release is over (MicrosoftDocs/microsoft-365-docs#5903).
	stuck   bool
	release *action // the last one that was ordered since; nil: none
}

// A relatedFile is what StopAndQuarantineFile is about.
type relatedFile struct {
	ID   string `json:"fileIdentifier"`
	Type string `json:"fileIdentifierType"`
}

// requestor is who ordered an action, or wrote a comment. Of the real service it
// is the application's name.
const requestor = "defendertest"

// actionList is the list of actions. Those are filterable that are documented: externalId is not,
// and who looks for a lost action finds it by its machine and type.
func (t *tenant) actionList() listing[action] {
	return listing[action]{
		context: "MachineActions", rules: t.mdeRules(),
		properties: []property[action]{
			{"id", text, func(a *action) value { return textValue(a.ID) }, ""},
			{"status", text, func(a *action) value { return textValue(a.Status) }, ""},
			{"machineId", text, func(a *action) value { return textValue(a.MachineID) }, ""},
			{"type", text, func(a *action) value { return textValue(a.Type) }, ""},
			{"requestor", text, func(a *action) value { return textValue(a.Requestor) }, ""},
			{"creationDateTimeUtc", moment, func(a *action) value { return timeValue(a.Created) }, ""},
		},
	}
}

// begins returns when an action starts to run, and whether that is known yet.
func (a *action) begins(takes time.Duration) (time.Time, bool) {
	switch {
	case !a.stuck:
		return a.Created, true
	case a.release == nil || a.release.CancelledBy != nil:
		return time.Time{}, false
	}
	return a.release.Created.Add(takes), true
}

// ends returns when an action succeeds, and whether it does so by a time.
func (a *action) ends(now time.Time, takes time.Duration) (time.Time, bool) {
	start, ok := a.begins(takes)
	end := start.Add(takes)
	return end, ok && a.CancelledBy == nil && !now.Before(end)
}

// view is the action as it stands at a time. Actions never fail and never time out:
// what a client makes of those is not a matter of its transport.
func (a action) view(now time.Time, takes time.Duration) action {
	start, ok := a.begins(takes)
	age := now.Sub(start)
	switch {
	case a.CancelledBy != nil, !ok: // final since then, or stuck
	case age >= takes:
		a.Status, a.Updated = "Succeeded", start.Add(takes)
		a.Commands = finish(a.Commands, start, a.Updated)
	case age >= takes/2:
		a.Status, a.Updated = "InProgress", start.Add(takes/2)
	}
	a.UpdatedAgain = a.Updated
	return a
}

// active reports whether an action's view isn't final.
func (a action) active() bool { return a.Status == "Pending" || a.Status == "InProgress" }

// An actionKey is what can be active only once. After that a retry makes a new
// action: a lost answer is dangerous for as long as nobody has looked.
type actionKey struct{ machine, kind string }

// Second is how an order is answered while an action of its kind is active on the machine. Both
// were seen of the real service, which one is a matter of time.
type Second uint8

const (
	SecondRefused Second = iota // 400 ActiveRequestAlreadyExists
	SecondPending               // 201 with the action that is active
)

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
	if last := t.lastAction[key]; last != nil {
		view := last.view(now, t.actionTime)
		switch {
		case !view.active():
		// One session for a device: 400 is documented, and nothing else was seen.
		case t.second == SecondPending && k.kind != liveResponse:
			return single(r, k.status, "MachineActions/$entity", view), nil
		default:
			return answer{}, problem{http.StatusBadRequest, "ActiveRequestAlreadyExists",
				"Action is already in progress"}
		}
	}
	if k.kind == liveResponse {
		if err := t.checkSessions(now); err != nil {
			return answer{}, err
		}
	}
	a := &action{
		ID: newGUID(), Type: k.kind, Requestor: requestor, RequestSource: "PublicApi", Comment: o.Comment,
		Status: "Pending", MachineID: m.ID, DNSName: m.ComputerDNSName, Created: now, Updated: now,
		UpdatedAgain: now,
	}
	if id := cmp.Or(o.ExternalID, o.LowerID); id != "" {
		a.ExternalID = &id
	}
	switch k.kind {
	case liveResponse:
		a.Commands = newResults(o)
	case isolating:
		a.Scope = new(cmp.Or(o.IsolationType, "Full"))
		a.stuck = t.isolated(m.ID, now)
	case releasing:
		if last := t.lastAction[actionKey{m.ID, isolating}]; last != nil && last.stuck {
			if _, started := last.begins(t.actionTime); !started ||
				now.Before(last.release.Created.Add(t.actionTime)) {
				last.release = a
			}
		}
	case "RunAntiVirusScan":
		a.Scope = &o.ScanType
	case "StopAndQuarantineFile":
		a.File = &relatedFile{o.SHA1, "Sha1"}
	}
	t.actions = append(t.actions, a)
	t.actionByID[a.ID] = a
	t.lastAction[key] = a
	return single(r, k.status, "MachineActions/$entity", a, k.name+" "+m.ID), nil
}

// The types of an isolation and of its release.
const isolating, releasing = "Isolate", "Unisolate"

// isolated reports whether a machine is: its last isolation is over, and no release was since.
func (t *tenant) isolated(id string, now time.Time) bool {
	in, out := t.lastAction[actionKey{id, isolating}], t.lastAction[actionKey{id, releasing}]
	if in == nil {
		return false
	}
	since, ok := in.ends(now, t.actionTime)
	if !ok || out == nil {
		return ok
	}
	until, released := out.ends(now, t.actionTime)
	return !released || until.Before(since)
}

// listActions lists the newest first, as in the documented example of the latest two.
func (t *tenant) listActions(r request) (answer, error) {
	views := values(t.actions)
	slices.Reverse(views)
	now := time.Now()
	for i := range views {
		views[i] = views[i].view(now, t.actionTime)
	}
	return t.actionList().answer(r, views)
}

// getAction is what a client polls. Nothing in the answer says how long to wait:
// the service is not known to send Retry-After here.
func (t *tenant) getAction(r request) (answer, error) {
	a, err := lookup(t.actionByID, "Machine action", r.id)
	if err != nil {
		return answer{}, err
	}
	return single(r, http.StatusOK, "MachineActions/$entity", a.view(time.Now(), t.actionTime)), nil
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
	a.Status, a.Updated, a.UpdatedAgain, a.Cancelled = "Cancelled", now, now, &now
	a.CancelledBy, a.CancelNote = new(requestor), &o.Comment
	return single(r, http.StatusOK, "MachineActions/$entity", a, "cancel "+a.ID), nil
}
