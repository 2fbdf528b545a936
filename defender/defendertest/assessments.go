package defendertest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of the exports, as documented.
const (
	exportPage    = 50000
	maxExportPage = 200000
	snapshotHours = 6  // between two snapshots
	maxSASHours   = 6  // that the URLs of an export may be good for
	maxDeltaDays  = 14 // that a delta may go back
)

// machinesPerFile is how many machines share a file of an export. Real files have
// more; tests want several.
const machinesPerFile = 100

// exportFolder is where the storage has the files of exports.
const exportFolder = "tvm-export"

// A record is a row of an export, with few of the documented columns. It stands for
// those of all three exports: a column that isn't the export's own is left out.
type record struct {
	ID            string `json:"id,omitempty"`
	DeviceID      string `json:"deviceId"`
	DeviceName    string `json:"deviceName"`
	OSPlatform    string `json:"osPlatform"`
	Group         string `json:"rbacGroupName"`
	Vendor        string `json:"softwareVendor,omitempty"`
	Software      string `json:"softwareName,omitempty"`
	Version       string `json:"softwareVersion,omitempty"`
	Weaknesses    *int   `json:"numberOfWeaknesses,omitempty"`
	CVE           string `json:"cveId,omitempty"`
	Severity      string `json:"vulnerabilitySeverityLevel,omitempty"`
	Configuration string `json:"configurationId,omitempty"`
	Compliant     *bool  `json:"isCompliant,omitempty"`
	Status        string `json:"status,omitempty"`         // of a change
	EventTime     string `json:"eventTimestamp,omitempty"` // of a change
}

// properties are none: $filter isn't documented for exports.
func (record) properties() map[string]string { return nil }

// An assessment is one of the three things that can be exported, in pages or in
// files.
type assessment struct {
	pages, files string // last segments of the paths
	kind         string // in the context
	records      func(*machine) []record
}

// assessments is the table of them.
func assessments() []assessment {
	return []assessment{
		{"SoftwareInventoryByMachine", "SoftwareInventoryExport", "AssetSoftware", inventory},
		{"SoftwareVulnerabilitiesByMachine", "SoftwareVulnerabilitiesExport", "AssetVulnerability", weaknesses},
		{"SecureConfigurationsAssessmentByMachine", "SecureConfigurationsAssessmentExport", "AssetConfiguration", configurations},
	}
}

// newRecord has what all rows of a machine share.
func newRecord(m *machine) record {
	return record{DeviceID: m.ID, DeviceName: m.ComputerDNSName, OSPlatform: m.OSPlatform, Group: "None"}
}

// inventory has two programs on each machine.
func inventory(m *machine) []record {
	var all []record
	for i, name := range []string{"edge", "onedrive"} {
		r := newRecord(m)
		r.Vendor, r.Software, r.Version, r.Weaknesses = "microsoft", name, "1.0.0.0", &[]int{1, 0}[i]
		all = append(all, r)
	}
	return all
}

// weaknesses has those that GET machines/{id}/vulnerabilities has.
func weaknesses(m *machine) []record {
	all := make([]record, vulnerabilities)
	for i := range all {
		r := newRecord(m)
		r.Vendor, r.Software, r.Version, r.Severity = "microsoft", "edge", "1.0.0.0", "Medium"
		r.CVE = cve(i)
		r.ID = m.ID + "_edge_1.0.0.0_" + r.CVE + "_"
		all[i] = r
	}
	return all
}

// configurations has two, one of which is as it should be.
func configurations(m *machine) []record {
	var all []record
	for i, id := range []string{"scid-10000", "scid-20000"} {
		r := newRecord(m)
		r.Configuration, r.Compliant = id, &[]bool{true, false}[i]
		all = append(all, r)
	}
	return all
}

// assessmentRoutes makes the routes of all assessments.
func assessmentRoutes() []route {
	var all []route
	for _, a := range assessments() {
		pages, files := "machines/"+a.pages, "machines/"+a.files
		all = append(all,
			route{"GET", pages, pages, func(t *tenant, r request) (answer, error) { return t.exportPages(a, r) }},
			route{"GET", files, files, func(t *tenant, r request) (answer, error) { return t.exportFiles(a, r) }},
		)
	}
	const changes = "machines/SoftwareVulnerabilityChangesByMachine"
	return append(all, route{"GET", changes, changes, (*tenant).listChanges})
}

// exportPages answers with one page of all records.
func (t *tenant) exportPages(a assessment, r request) (answer, error) {
	var all []record
	for _, m := range t.machines {
		all = append(all, a.records(m)...)
	}
	return exportAnswer(r, a.kind, all)
}

// exportAnswer is a list with a way of its own to ask for pages: pageSize is the
// size of them, and $top bounds the whole answer. Who uses $top gets no link to
// the rest, as documented, and no sign that there is one.
func exportAnswer(r request, kind string, all []record) (answer, error) {
	size, err := exportPageSize(r)
	if err != nil {
		return answer{}, err
	}
	wanted := page{0, size}
	if r.query.Has("$skiptoken") {
		if wanted, err = parseSkipToken(r.query.Get("$skiptoken")); err != nil {
			return answer{}, err
		}
	}
	if r.query.Has("$top") {
		top, err := count(r.query, "$top", 0, math.MaxInt)
		if err != nil {
			return answer{}, err
		}
		all = all[:min(top, len(all))]
		wanted.size = len(all)
	}
	return pageAnswer(r, "Collection(microsoft.windowsDefenderATP.api."+kind+")", all, wanted)
}

// exportPageSize reads pageSize, which the documentation's own nextLink writes in
// another case.
func exportPageSize(r request) (int, error) {
	// In order, so that of two spellings the same one counts each time.
	for _, name := range slices.Sorted(maps.Keys(r.query)) {
		if !strings.EqualFold(name, "pageSize") {
			continue
		}
		text := r.query.Get(name)
		size, err := strconv.Atoi(text)
		if err != nil || size < 1 || size > maxExportPage {
			return 0, errInvalid("Invalid input %s: pageSize is 1 to %d", text, maxExportPage)
		}
		return size, nil
	}
	return exportPage, nil
}

// listChanges is the delta of the vulnerabilities: one was found on each machine
// when the server began, and nothing has happened since.
func (t *tenant) listChanges(r request) (answer, error) {
	text := r.query.Get("sinceTime")
	if text == "" {
		return answer{}, errMissing("sinceTime")
	}
	since, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return answer{}, errInvalid("Invalid input %s: sinceTime is a date and time such as 2030-12-31T00:00:00Z", text)
	}
	if since.Before(time.Now().Add(-maxDeltaDays * 24 * time.Hour)) {
		return answer{}, errInvalid("Invalid input %s: sinceTime is at most %d days back", text, maxDeltaDays)
	}
	var all []record
	// The whole interval between two snapshots counts that the time falls into.
	if !since.After(t.began.Add(snapshotHours * t.hour)) {
		for _, m := range t.machines {
			change := weaknesses(m)[0]
			change.Status, change.EventTime = "New", t.began.Format("2006-01-02 15:04:05.0000000")
			all = append(all, change)
		}
	}
	return exportAnswer(r, "DeltaAssetVulnerability", all)
}

// exportFiles answers with the URLs of all files of the latest snapshot. To ask
// doesn't make a new one, as documented.
func (t *tenant) exportFiles(a assessment, r request) (answer, error) {
	hours := 1
	if text := r.query.Get("sasValidHours"); text != "" {
		var err error
		if hours, err = strconv.Atoi(text); err != nil || hours < 1 || hours > maxSASHours {
			return answer{}, errInvalid("Invalid input %s: sasValidHours is 1 to %d", text, maxSASHours)
		}
	}
	_, next := clock{t.began, snapshotHours * t.hour}.at(time.Now())
	generated := next.Add(-snapshotHours * t.hour)
	urls := []string{} // never null on the wire
	for i := range (len(t.machines) + machinesPerFile - 1) / machinesPerFile {
		path := fmt.Sprintf("/%s/%s/%s/json/part-%05d.json.gz", exportFolder, generated.Format("2006-01-02/1504"), a.files, i)
		urls = append(urls, t.link(r, path, time.Duration(hours)*t.hour))
	}
	return done(http.StatusOK, struct {
		Context   string    `json:"@odata.context"`
		Files     []string  `json:"exportFiles"`
		Generated time.Time `json:"generatedTime"`
	}{r.origin + "/api/$metadata#microsoft.windowsDefenderATP.api.ExportFilesResponse", urls, generated}), nil
}

// exportFile makes a file: one record a line, compressed. The machines never
// change in what it says, so that all snapshots are alike.
func (t *tenant) exportFile(name string) (answer, error) {
	parts := strings.Split(name, "/") // date, time, assessment, json and file
	var number int
	found := -1
	if len(parts) == 5 {
		found = slices.IndexFunc(assessments(), func(a assessment) bool { return a.files == parts[2] })
		if _, err := fmt.Sscanf(parts[4], "part-%05d.json.gz", &number); err != nil {
			found = -1
		}
	}
	from := number * machinesPerFile
	if found < 0 || from < 0 || from >= len(t.machines) {
		return answer{}, errNotFound("File", name)
	}
	var file bytes.Buffer
	writer := gzip.NewWriter(&file)
	lines := json.NewEncoder(writer)
	for _, m := range t.machines[from:min(from+machinesPerFile, len(t.machines))] {
		for _, r := range assessments()[found].records(m) {
			if err := lines.Encode(r); err != nil {
				panic("defendertest: " + err.Error()) // the type is our own, and a buffer takes everything
			}
		}
	}
	if err := writer.Close(); err != nil {
		panic("defendertest: " + err.Error())
	}
	return answer{status: http.StatusOK, contentType: "application/gzip", body: file.Bytes()}, nil
}
