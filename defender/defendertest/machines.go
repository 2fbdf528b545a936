package defendertest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxTagged is how many machines one call may tag, as documented.
const maxTagged = 500

// A machine has the documented properties, those of the resource and of the examples of its
// pages, which aren't the same. Real ids are SHA-1 hashes; no client may rely on that.
type machine struct {
	ID               string      `json:"id"`
	ComputerDNSName  string      `json:"computerDnsName"`
	FirstSeen        time.Time   `json:"firstSeen"`
	LastSeen         time.Time   `json:"lastSeen"`
	OSPlatform       string      `json:"osPlatform"`
	Version          string      `json:"version"`
	OSProcessor      string      `json:"osProcessor"`
	OSArchitecture   string      `json:"osArchitecture"`
	OSBuild          *int        `json:"osBuild"`
	LastIPAddress    string      `json:"lastIpAddress"`
	LastExternalIP   string      `json:"lastExternalIpAddress"`
	IPAddresses      []ipAddress `json:"ipAddresses"`
	HealthStatus     string      `json:"healthStatus"`
	OnboardingStatus string      `json:"onboardingStatus"`
	GroupID          int         `json:"rbacGroupId"`
	GroupName        string      `json:"rbacGroupName"`
	RiskScore        *string     `json:"riskScore"`
	ExposureLevel    *string     `json:"exposureLevel"`
	IsAADJoined      bool        `json:"isAadJoined"`
	AADDeviceID      *string     `json:"aadDeviceId"`
	DeviceValue      *string     `json:"deviceValue"`
	MachineTags      []string    `json:"machineTags"`

	number int // from 1
}

// An ipAddress is one of a machine's network interfaces.
type ipAddress struct {
	Address string `json:"ipAddress"`
	MAC     string `json:"macAddress"`
	Status  string `json:"operationalStatus"`
}

// newMachine makes all machines alike but for their names and addresses: no test should depend on
// what the inventory of a real tenant looks like. Every third has null wherever that is
// documented, as a machine has that isn't joined and wasn't assessed yet.
func newMachine(i int, now time.Time) *machine {
	address := fmt.Sprintf("10.%d.%d.%d", i>>16&0xff, i>>8&0xff, i&0xff)
	m := &machine{
		ID:              fmt.Sprintf("m%04d", i),
		ComputerDNSName: fmt.Sprintf("m%04d.contoso.example", i),
		FirstSeen:       now.Add(-30 * 24 * time.Hour),
		LastSeen:        now,
		OSPlatform:      "Windows11", Version: "23H2", OSProcessor: "x64", OSArchitecture: "64-bit",
		LastIPAddress: address, LastExternalIP: "198.51.100.1",
		IPAddresses:  []ipAddress{{address, fmt.Sprintf("02005E%06X", i&0xffffff), "Up"}},
		HealthStatus: "Active", OnboardingStatus: "Onboarded", GroupID: 140, GroupName: "Offices",
		MachineTags: []string{}, DeviceValue: new("Normal"), number: i,
	}
	if i%3 != 0 {
		m.OSBuild, m.RiskScore, m.ExposureLevel = new(22631), new("None"), new("Low")
		m.IsAADJoined, m.AADDeviceID = true, new(guidOf("device", i))
	}
	return m
}

// machineProperties are those that the page of the list names. rbacGroupId is a number in its
// example and a text in the resource, and so may be compared with both.
func machineProperties() []property[machine] {
	return []property[machine]{
		{"id", text, func(m *machine) value { return textValue(m.ID) }, ""},
		{"computerDnsName", text, func(m *machine) value { return textValue(m.ComputerDNSName) }, ""},
		{"version", text, func(m *machine) value { return textValue(m.Version) }, ""},
		{"deviceValue", text, func(m *machine) value { return maybe(m.DeviceValue, textValue) }, ""},
		{"aadDeviceId", text, func(m *machine) value { return maybe(m.AADDeviceID, textValue) }, ""},
		{"machineTags", collection, func(m *machine) value { return listValue(m.MachineTags) }, ""},
		{"lastSeen", moment, func(m *machine) value { return timeValue(m.LastSeen) }, ""},
		{"exposureLevel", text, func(m *machine) value { return maybe(m.ExposureLevel, textValue) }, ""},
		{"onboardingStatus", text, func(m *machine) value { return textValue(m.OnboardingStatus) }, ""},
		{"lastIpAddress", text, func(m *machine) value { return textValue(m.LastIPAddress) }, ""},
		{"healthStatus", text, func(m *machine) value { return textValue(m.HealthStatus) }, ""},
		{"osPlatform", text, func(m *machine) value { return textValue(m.OSPlatform) }, ""},
		{"riskScore", text, func(m *machine) value { return maybe(m.RiskScore, textValue) }, ""},
		{"rbacGroupId", numberText, func(m *machine) value {
			return value{kind: numberText, known: true, number: float64(m.GroupID)}
		}, ""},
	}
}

// machineList is the list of machines. That $select refuses onboardingStatus was reported, and is
// no part of the documentation.
func (t *tenant) machineList() listing[machine] {
	return listing[machine]{
		context: "Machines", properties: machineProperties(), unselected: "onboardingStatus",
		rules: t.mdeRules(),
	}
}

// listMachines answers an empty tenant 404, as documented. A filter that finds
// nothing is an empty list.
func (t *tenant) listMachines(r request) (answer, error) {
	if len(t.machines) == 0 {
		return answer{}, problem{http.StatusNotFound, "NotFound", "No recent machines were found"}
	}
	return t.machineList().answer(r, values(t.machines))
}

// getMachine is the call that large inventories make once for each machine, and so the first to
// meet its quota. The computer's name will do for its id, as documented.
func (t *tenant) getMachine(r request) (answer, error) {
	m, ok := t.machineByID[r.id]
	for i := 0; !ok && i < len(t.machines); i++ {
		m, ok = t.machines[i], strings.EqualFold(t.machines[i].ComputerDNSName, r.id)
	}
	if !ok {
		return answer{}, errNotFound("Machine", r.id)
	}
	return single(r, http.StatusOK, "Machines/$entity", m), nil
}

// vulnerabilities is how many each machine has.
const vulnerabilities = 3

// cve is the name of one of them.
func cve(i int) string { return fmt.Sprintf("CVE-2026-%04d", i+1) }

// A vulnerability is there for its endpoint's sake, which has a quota of its own:
// 50 a minute.
type vulnerability struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	Description     string    `json:"description"`
	Severity        string    `json:"severity"`
	CVSSV3          float64   `json:"cvssV3"`
	ExposedMachines int       `json:"exposedMachines"`
	Published       time.Time `json:"publishedOn"`
	Updated         time.Time `json:"updatedOn"`
	PublicExploit   bool      `json:"publicExploit"`
	ExploitVerified bool      `json:"exploitVerified"`
	ExploitInKit    bool      `json:"exploitInKit"`
	ExploitTypes    []string  `json:"exploitTypes"`
	ExploitURIs     []string  `json:"exploitUris"`
}

// listVulnerabilities finds the same three on every machine.
func (t *tenant) listVulnerabilities(r request) (answer, error) {
	if _, err := lookup(t.machineByID, "Machine", r.id); err != nil {
		return answer{}, err
	}
	found := make([]vulnerability, vulnerabilities)
	for i := range found {
		name := cve(i)
		found[i] = vulnerability{
			ID: name, Name: name, Description: "A weakness for tests.", Severity: "Medium", CVSSV3: 5.5,
			ExposedMachines: len(t.machines), Published: t.began, Updated: t.began,
			ExploitTypes: []string{}, ExploitURIs: []string{},
		}
	}
	list := listing[vulnerability]{
		context: "Collection(Analytics.Contracts.PublicAPI.PublicVulnerabilityDto)", rules: t.mdeRules(),
		properties: []property[vulnerability]{
			{"id", text, func(v *vulnerability) value { return textValue(v.ID) }, ""},
			{"severity", text, func(v *vulnerability) value { return textValue(v.Severity) }, ""},
		},
	}
	return list.answer(r, found)
}

// listMachineAlerts is a list as that of all alerts.
func (t *tenant) listMachineAlerts(r request) (answer, error) {
	raised, err := t.raisedOn(r.id)
	if err != nil {
		return answer{}, err
	}
	return t.alertList().answer(r, raised)
}

// countMachineAlerts is one of the documented examples.
func (t *tenant) countMachineAlerts(r request) (answer, error) {
	raised, err := t.raisedOn(r.id)
	if err != nil {
		return answer{}, err
	}
	return t.alertList().countAnswer(r, raised)
}

// raisedOn returns the alerts of a machine.
func (t *tenant) raisedOn(id string) ([]alert, error) {
	if _, err := lookup(t.machineByID, "Machine", id); err != nil {
		return nil, err
	}
	var raised []alert
	for _, a := range t.alerts {
		if a.MachineID == id {
			raised = append(raised, *a)
		}
	}
	return raised, nil
}

// seenFor is how far back a machine can be looked for by its address, as
// documented.
const seenFor = 30 * 24 * time.Hour

// findByIP finds machines by an address that they had at a time. Here they have
// one address for ever.
func (t *tenant) findByIP(r request) (answer, error) {
	address, rest, _ := strings.Cut(strings.TrimPrefix(r.arguments, "ip="), ",")
	text := strings.TrimPrefix(rest, "timestamp=")
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return answer{}, errInvalid("Invalid input %s: use findbyip(ip='10.0.0.1',timestamp=2030-12-31T00:00:00Z)", r.arguments)
	}
	address = strings.Trim(address, "'")
	if err := checkValue("IpAddress", address); err != nil {
		return answer{}, err
	}
	if now := time.Now(); at.Before(now.Add(-seenFor)) || at.After(now) {
		return answer{}, errInvalid("Invalid input %s: timestamp is in the past 30 days", text)
	}
	return t.listMachinesWith(r, func(m *machine) bool { return m.LastIPAddress == address })
}

// listMachinesWith answers with some machines. None is an empty list here: 404 is
// documented for a tenant without any.
func (t *tenant) listMachinesWith(r request, like func(*machine) bool) (answer, error) {
	var found []machine
	for _, m := range t.machines {
		if like(m) {
			found = append(found, *m)
		}
	}
	return t.machineList().answer(r, found)
}

// checkDeviceValue knows the three documented values.
func checkDeviceValue(value string) error {
	switch value {
	case "Normal", "Low", "High":
		return nil
	}
	return errInvalid("Invalid input %s: the device's value is Normal, Low or High", value)
}

// A valuation is the body of setDeviceValue.
type valuation struct {
	DeviceValue string `json:"DeviceValue"`
}

// check wants one of the values.
func (v valuation) check() error {
	if v.DeviceValue == "" {
		return errMissing("DeviceValue")
	}
	return checkDeviceValue(v.DeviceValue)
}

// setDeviceValue sets a value, which a retry may do again.
func (t *tenant) setDeviceValue(r request) (answer, error) {
	m, err := lookup(t.machineByID, "Machine", r.id)
	if err != nil {
		return answer{}, err
	}
	v, err := read[valuation](r.body)
	if err != nil {
		return answer{}, err
	}
	m.DeviceValue = &v.DeviceValue
	return single(r, http.StatusOK, "Machines/$entity", m, "setDeviceValue "+m.ID), nil
}

// A machineUpdate is the body of a PATCH. Its keys aren't capitalised, other than
// those of the two calls that do the same. What is absent stays as it is.
type machineUpdate struct {
	DeviceValue *string  `json:"deviceValue"`
	MachineTags []string `json:"machineTags"`
}

// check refuses an update of nothing, which is most likely a misspelt key.
func (u machineUpdate) check() error {
	if u.DeviceValue == nil && u.MachineTags == nil {
		return errMissing("machineTags or deviceValue")
	}
	if u.DeviceValue != nil {
		return checkDeviceValue(*u.DeviceValue)
	}
	return nil
}

// updateMachine replaces all tags, as documented for a body without the old ones.
func (t *tenant) updateMachine(r request) (answer, error) {
	m, err := lookup(t.machineByID, "Machine", r.id)
	if err != nil {
		return answer{}, err
	}
	u, err := read[machineUpdate](r.body)
	if err != nil {
		return answer{}, err
	}
	if u.DeviceValue != nil {
		m.DeviceValue = u.DeviceValue
	}
	if u.MachineTags != nil {
		m.MachineTags = u.MachineTags
	}
	return single(r, http.StatusOK, "Machines/$entity", m, "update "+m.ID), nil
}

// A tagging is the body of both tag calls. Their keys are capitalised, those of
// alerts and indicators aren't: the documentation has both, and case counts.
type tagging struct {
	Value      string   `json:"Value"`
	Action     string   `json:"Action"`     // Add or Remove
	MachineIDs []string `json:"MachineIds"` // of the batch call only
}

// check leaves the machines to lookupAll, since one of both calls has none.
func (g tagging) check() error {
	switch {
	case g.Value == "":
		return errMissing("Value")
	case strings.ContainsAny(g.Value, "\r\n"): // would split the ledger's line
		return errInvalid("Invalid input: Value has a line break")
	case g.Action == "":
		return errMissing("Action")
	case g.Action != "Add" && g.Action != "Remove":
		return errInvalid("Invalid input %s: Action is Add or Remove", g.Action)
	}
	return nil
}

// apply has set semantics, so a retry changes nothing. It counts as an effect
// all the same: the ledger tells what was done, not what differed.
func (g tagging) apply(m *machine) (effect string) {
	m.MachineTags = slices.DeleteFunc(m.MachineTags, func(tag string) bool { return tag == g.Value })
	if g.Action == "Remove" {
		return "removeTag " + m.ID + " " + g.Value
	}
	m.MachineTags = append(m.MachineTags, g.Value)
	return "addTag " + m.ID + " " + g.Value
}

// tagMachine answers with the machine, so that the tags can be read at once.
func (t *tenant) tagMachine(r request) (answer, error) {
	m, err := lookup(t.machineByID, "Machine", r.id)
	if err != nil {
		return answer{}, err
	}
	g, err := read[tagging](r.body)
	if err != nil {
		return answer{}, err
	}
	effect := g.apply(m)
	return single(r, http.StatusOK, "Machines/$entity", m, effect), nil
}

// tagMachines tags all or none: what the service does when one machine is
// unknown isn't documented.
func (t *tenant) tagMachines(r request) (answer, error) {
	g, err := read[tagging](r.body)
	if err != nil {
		return answer{}, err
	}
	if n := len(g.MachineIDs); n > maxTagged {
		return answer{}, errBatchSize(n, maxTagged)
	}
	machines, err := lookupAll(t.machineByID, "Machine", "MachineIds", g.MachineIDs)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: http.StatusOK}
	for _, m := range machines {
		a.effects = append(a.effects, g.apply(m))
	}
	return a, nil
}
