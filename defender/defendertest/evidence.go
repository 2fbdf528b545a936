package defendertest

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// evidence is what an alert was raised by: one thing of each kind, which no other
// machine has, so that a test can look in both directions.
type evidence struct {
	domain, sha1, sha256, ip, user string
}

// newEvidence derives all from the machine's number. The addresses are those of
// RFC 2544, which nobody has.
func newEvidence(m *machine) evidence {
	content := []byte("suspicious file on " + m.ID)
	one, two := sha1.Sum(content), sha256.Sum256(content)
	return evidence{
		domain: fmt.Sprintf("d%04d.example", m.number),
		sha1:   hex.EncodeToString(one[:]), sha256: hex.EncodeToString(two[:]),
		ip:   fmt.Sprintf("198.%d.%d.%d", 18+m.number>>16&1, m.number>>8&0xff, m.number&0xff),
		user: fmt.Sprintf("user%04d", m.number),
	}
}

// alertsWith returns the alerts that are like that.
func (t *tenant) alertsWith(like func(*alert) bool) []alert {
	var found []alert
	for _, a := range t.alerts {
		if like(a) {
			found = append(found, *a)
		}
	}
	return found
}

// machinesOf returns the machines of alerts, each once.
func (t *tenant) machinesOf(alerts []alert) []machine {
	var found []machine
	for _, a := range alerts {
		m := t.machineByID[a.MachineID]
		if !slices.ContainsFunc(found, func(known machine) bool { return known.ID == m.ID }) {
			found = append(found, *m)
		}
	}
	return found
}

// A host is a domain as an alert names it.
type host struct {
	Host string `json:"host"`
}

// properties are all there is of a domain, and so of the next kinds.
func (h host) properties() map[string]string { return map[string]string{"host": h.Host} }

// An address is an IP as an alert names it.
type address struct {
	ID string `json:"id"`
}

func (a address) properties() map[string]string { return map[string]string{"id": a.ID} }

// A user has the documented properties.
type user struct {
	ID          string    `json:"id"`
	Name        string    `json:"accountName"`
	Domain      string    `json:"accountDomain"`
	FirstSeen   time.Time `json:"firstSeen"`
	LastSeen    time.Time `json:"lastSeen"`
	LogonTypes  string    `json:"logonTypes"`
	DomainAdmin bool      `json:"isDomainAdmin"`
	NetworkOnly bool      `json:"isOnlyNetworkUser"`
}

// newUser is the one who works at a machine.
func newUser(m *machine) user {
	name := newEvidence(m).user
	return user{
		ID: `contoso\` + name, Name: name, Domain: "contoso",
		FirstSeen: m.FirstSeen, LastSeen: m.LastSeen, LogonTypes: "Interactive",
	}
}

func (u user) properties() map[string]string {
	return map[string]string{"id": u.ID, "accountName": u.Name, "accountDomain": u.Domain}
}

// A sample is a file as the tenant has seen it.
type sample struct {
	SHA1       string    `json:"sha1"`
	SHA256     string    `json:"sha256"`
	Prevalence int       `json:"globalPrevalence"`
	First      time.Time `json:"globalFirstObserved"`
	Last       time.Time `json:"globalLastObserved"`
	Size       int       `json:"size"`
	Type       string    `json:"fileType"`
	Executable bool      `json:"isPeFile"`
	Determined string    `json:"determinationType"`
}

// newSample is the file of an alert.
func newSample(a alert) sample {
	return sample{
		SHA1: a.Evidence.sha1, SHA256: a.Evidence.sha256, Prevalence: 1, First: a.Created, Last: a.Created,
		Size: 1 << 16, Type: "PortableExecutable", Executable: true, Determined: "Unknown",
	}
}

func (s sample) properties() map[string]string {
	return map[string]string{"sha1": s.SHA1, "sha256": s.SHA256}
}

// listAlertDomains and the next four are about one alert.
func (t *tenant) listAlertDomains(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Domains", []host{{a.Evidence.domain}}, t.pageSize)
}

// listAlertFiles has the one that getFile has.
func (t *tenant) listAlertFiles(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Files", []sample{newSample(*a)}, t.pageSize)
}

// listAlertIPs has addresses without the devices that used them.
func (t *tenant) listAlertIPs(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Ips", []address{{a.Evidence.ip}}, t.pageSize)
}

// getAlertMachine answers as getMachine does.
func (t *tenant) getAlertMachine(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, t.machineByID[a.MachineID]), nil
}

// getAlertUser has the user of the machine.
func (t *tenant) getAlertUser(r request) (answer, error) {
	a, err := lookup(t.alertByID, "Alert", r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, newUser(t.machineByID[a.MachineID])), nil
}

// byDomain and the next ones find the alerts of a thing. A domain that nobody has
// seen has none, as documented.
func (t *tenant) byDomain(id string) []alert {
	return t.alertsWith(func(a *alert) bool { return strings.EqualFold(a.Evidence.domain, id) })
}

// byUser wants the name alone, without a domain, as documented.
func (t *tenant) byUser(id string) []alert {
	return t.alertsWith(func(a *alert) bool { return strings.EqualFold(a.Evidence.user, id) })
}

// byIP refuses what is no address, as documented.
func (t *tenant) byIP(id string) ([]alert, error) {
	if err := checkValue("IpAddress", id); err != nil {
		return nil, err
	}
	return t.alertsWith(func(a *alert) bool { return a.Evidence.ip == id }), nil
}

// byFile takes both documented hashes. A file that nobody has seen is 404, other
// than a domain, an address or a user.
func (t *tenant) byFile(id string) ([]alert, error) {
	if checkHash(id, 40) != nil {
		if err := checkHash(id, 64); err != nil {
			return nil, err
		}
	}
	found := t.alertsWith(func(a *alert) bool {
		return strings.EqualFold(a.Evidence.sha1, id) || strings.EqualFold(a.Evidence.sha256, id)
	})
	if len(found) == 0 {
		return nil, errNotFound("File", id)
	}
	return found, nil
}

// listDomainAlerts and the next ones are the lists that the finders above find.
func (t *tenant) listDomainAlerts(r request) (answer, error) {
	return listAnswer(r, "Alerts", t.byDomain(r.id), t.pageSize)
}

func (t *tenant) listDomainMachines(r request) (answer, error) {
	return listAnswer(r, "Machines", t.machinesOf(t.byDomain(r.id)), t.pageSize)
}

func (t *tenant) listUserAlerts(r request) (answer, error) {
	return listAnswer(r, "Alerts", t.byUser(r.id), t.pageSize)
}

func (t *tenant) listUserMachines(r request) (answer, error) {
	return listAnswer(r, "Machines", t.machinesOf(t.byUser(r.id)), t.pageSize)
}

func (t *tenant) listIPAlerts(r request) (answer, error) {
	found, err := t.byIP(r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Alerts", found, t.pageSize)
}

func (t *tenant) listFileAlerts(r request) (answer, error) {
	found, err := t.byFile(r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Alerts", found, t.pageSize)
}

func (t *tenant) listFileMachines(r request) (answer, error) {
	found, err := t.byFile(r.id)
	if err != nil {
		return answer{}, err
	}
	return listAnswer(r, "Machines", t.machinesOf(found), t.pageSize)
}

// getFile is the only entity among them.
func (t *tenant) getFile(r request) (answer, error) {
	found, err := t.byFile(r.id)
	if err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, newSample(found[0])), nil
}

// stats are what the tenant knows of a thing. Which of the names it goes by is
// set depends on its kind.
type stats struct {
	Host       string     `json:"host,omitempty"`
	Address    string     `json:"ipAddress,omitempty"`
	SHA1       string     `json:"sha1,omitempty"`
	Prevalence int        `json:"organizationPrevalence"`
	First      *time.Time `json:"orgFirstSeen"` // null if it was never seen
	Last       *time.Time `json:"orgLastSeen"`
}

// maxLookBack is 30 days, as documented.
const maxLookBack = 720

// statsAnswer counts the machines. lookBackHours is checked, and makes no
// difference: all happened at the start.
func (t *tenant) statsAnswer(r request, s stats, alerts []alert) (answer, error) {
	if _, err := count(r.query, "lookBackHours", maxLookBack, maxLookBack); err != nil {
		return answer{}, err
	}
	if s.Prevalence = len(t.machinesOf(alerts)); s.Prevalence > 0 {
		s.First, s.Last = &alerts[0].Created, &alerts[len(alerts)-1].Created
	}
	return done(http.StatusOK, s), nil
}

// getDomainStats answers for unknown domains too, with a prevalence of 0.
func (t *tenant) getDomainStats(r request) (answer, error) {
	return t.statsAnswer(r, stats{Host: r.id}, t.byDomain(r.id))
}

// getIPStats does so for unknown addresses.
func (t *tenant) getIPStats(r request) (answer, error) {
	found, err := t.byIP(r.id)
	if err != nil {
		return answer{}, err
	}
	return t.statsAnswer(r, stats{Address: r.id}, found)
}

// getFileStats names the file by its SHA-1, whichever hash was asked for.
func (t *tenant) getFileStats(r request) (answer, error) {
	found, err := t.byFile(r.id)
	if err != nil {
		return answer{}, err
	}
	return t.statsAnswer(r, stats{SHA1: found[0].Evidence.sha1}, found)
}
