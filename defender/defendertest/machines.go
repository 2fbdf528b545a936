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

// A machine has the documented properties that clients mostly read. Real ids are
// SHA-1 hashes; no client may rely on that.
type machine struct {
	ID               string    `json:"id"`
	ComputerDNSName  string    `json:"computerDnsName"`
	FirstSeen        time.Time `json:"firstSeen"`
	LastSeen         time.Time `json:"lastSeen"`
	OSPlatform       string    `json:"osPlatform"`
	LastIPAddress    string    `json:"lastIpAddress"`
	HealthStatus     string    `json:"healthStatus"`
	OnboardingStatus string    `json:"onboardingStatus"`
	RiskScore        string    `json:"riskScore"`
	ExposureLevel    string    `json:"exposureLevel"`
	DeviceValue      string    `json:"deviceValue"`
	MachineTags      []string  `json:"machineTags"`

	number int // from 1
}

// newMachine makes all machines alike but for their names and addresses: no test
// should depend on what the inventory of a real tenant looks like.
func newMachine(i int, now time.Time) *machine {
	return &machine{
		ID:              fmt.Sprintf("m%04d", i),
		ComputerDNSName: fmt.Sprintf("m%04d.contoso.example", i),
		FirstSeen:       now.Add(-30 * 24 * time.Hour),
		LastSeen:        now,
		OSPlatform:      "Windows11",
		LastIPAddress:   fmt.Sprintf("10.%d.%d.%d", i>>16&0xff, i>>8&0xff, i&0xff),
		HealthStatus:    "Active", OnboardingStatus: "Onboarded", RiskScore: "None", ExposureLevel: "Low",
		DeviceValue: "Normal", MachineTags: []string{}, number: i,
	}
}

// properties are those that the documented $filter knows, more or less.
func (m machine) properties() map[string]string {
	return map[string]string{
		"id":               m.ID,
		"computerDnsName":  m.ComputerDNSName,
		"lastSeen":         m.LastSeen.Format(time.RFC3339Nano),
		"osPlatform":       m.OSPlatform,
		"lastIpAddress":    m.LastIPAddress,
		"healthStatus":     m.HealthStatus,
		"onboardingStatus": m.OnboardingStatus,
		"riskScore":        m.RiskScore,
		"exposureLevel":    m.ExposureLevel,
	}
}

// listMachines answers an empty tenant 404, as documented. A filter that finds
// nothing is an empty list.
func (t *tenant) listMachines(r request) (answer, error) {
	if len(t.machines) == 0 {
		return answer{}, problem{http.StatusNotFound, "NotFound", "No recent machines were found"}
	}
	return listAnswer(r, "Machines", values(t.machines), t.pageSize)
}

// getMachine is the call that large inventories make once for each machine, and
// so the first to meet its quota.
func (t *tenant) getMachine(r request) (answer, error) {
	m, err := lookup(t.machineByID, "Machine", r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, m), nil
}

// vulnerabilities is how many each machine has.
const vulnerabilities = 3

// cve is the name of one of them.
func cve(i int) string { return fmt.Sprintf("CVE-2026-%04d", i+1) }

// A vulnerability is there for its endpoint's sake, which has a quota of its own:
// 50 a minute.
type vulnerability struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Severity string  `json:"severity"`
	CVSSV3   float64 `json:"cvssV3"`
}

// properties are as few as the vulnerability has.
func (v vulnerability) properties() map[string]string {
	return map[string]string{"id": v.ID, "severity": v.Severity}
}

// listVulnerabilities finds the same three on every machine.
func (t *tenant) listVulnerabilities(r request) (answer, error) {
	if _, err := lookup(t.machineByID, "Machine", r.id); err != nil {
		return answer{}, err
	}
	found := make([]vulnerability, vulnerabilities)
	for i := range found {
		name := cve(i)
		found[i] = vulnerability{name, name, "Medium", 5.5}
	}
	return listAnswer(r, "Collection(Vulnerabilities)", found, t.pageSize)
}

// listMachineAlerts is a list as that of all alerts.
func (t *tenant) listMachineAlerts(r request) (answer, error) {
	if _, err := lookup(t.machineByID, "Machine", r.id); err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Alerts", t.alertsWith(func(a *alert) bool { return a.MachineID == r.id }), t.pageSize)
}

// listLogonUsers has one user for each machine.
func (t *tenant) listLogonUsers(r request) (answer, error) {
	m, err := lookup(t.machineByID, "Machine", r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Users", []user{newUser(m)}, t.pageSize)
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

// findByTag finds a tag, or with useStartsWithFilter what begins like it.
func (t *tenant) findByTag(r request) (answer, error) {
	wanted := r.query.Get("tag")
	if wanted == "" {
		return answer{}, errMissing("tag")
	}
	same := func(tag string) bool { return tag == wanted }
	if strings.EqualFold(r.query.Get("useStartsWithFilter"), "true") {
		same = func(tag string) bool { return strings.HasPrefix(tag, wanted) }
	}
	return t.listMachinesWith(r, func(m *machine) bool { return slices.ContainsFunc(m.MachineTags, same) })
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
	return listAnswer(r, "Machines", found, t.pageSize)
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
	m.DeviceValue = v.DeviceValue
	return done(http.StatusOK, m, "setDeviceValue "+m.ID), nil
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
		m.DeviceValue = *u.DeviceValue
	}
	if u.MachineTags != nil {
		m.MachineTags = u.MachineTags
	}
	return done(http.StatusOK, m, "update "+m.ID), nil
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
	return done(http.StatusOK, m, effect), nil
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
