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
	MachineTags      []string  `json:"machineTags"`
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
		MachineTags: []string{},
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
	found := make([]vulnerability, 3)
	for i := range found {
		name := fmt.Sprintf("CVE-2026-%04d", i+1)
		found[i] = vulnerability{name, name, "Medium", 5.5}
	}
	return listAnswer(r, "Collection(Vulnerabilities)", found, t.pageSize)
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

// apply has set semantics, so a repeat changes nothing. It counts as an effect
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
