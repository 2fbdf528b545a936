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
	snapshotHours = 6 // between two snapshots
	maxSASHours   = 6 // that the URLs of an export may be good for
)

// machinesPerFile is how many machines share a file of an export. Real files have
// more; tests want several.
const machinesPerFile = 100

// exportFolder is where the storage has the files of exports.
const exportFolder = "tvm-export"

// exportName is the last segment of the path that asks for the files, and in theirs.
const exportName = "SoftwareVulnerabilitiesExport"

// A record is a row of the export, with the columns that clients mostly read.
type record struct {
	ID         string `json:"id"`
	DeviceID   string `json:"deviceId"`
	DeviceName string `json:"deviceName"`
	OSPlatform string `json:"osPlatform"`
	Group      string `json:"rbacGroupName"`
	Vendor     string `json:"softwareVendor"`
	Software   string `json:"softwareName"`
	Version    string `json:"softwareVersion"`
	CVE        string `json:"cveId"`
	Severity   string `json:"vulnerabilitySeverityLevel"`
}

// weaknesses has those that GET machines/{id}/vulnerabilities has.
func weaknesses(m *machine) []record {
	all := make([]record, vulnerabilities)
	for i := range all {
		all[i] = record{
			ID: m.ID + "_edge_1.0.0.0_" + cve(i) + "_", DeviceID: m.ID, DeviceName: m.ComputerDNSName,
			OSPlatform: m.OSPlatform, Group: m.GroupName, Vendor: "microsoft", Software: "edge",
			Version: "1.0.0.0", CVE: cve(i), Severity: "Medium",
		}
	}
	return all
}

// exportPages answers with one page of all records.
func (t *tenant) exportPages(r request) (answer, error) {
	all := []record{} // never null on the wire
	for _, m := range t.machines {
		all = append(all, weaknesses(m)...)
	}
	return exportAnswer(r, "AssetVulnerability", all)
}

// exportAnswer is a list with a way of its own to ask for pages: pageSize is the
// size of them, and $top bounds the whole answer. Who uses $top gets no link to
// the rest, as documented, and no sign that there is one.
func exportAnswer(r request, kind string, all []record) (answer, error) {
	for _, name := range slices.Sorted(maps.Keys(r.query)) {
		if strings.HasPrefix(name, "$") && !oneOf(name, "$top $skiptoken") {
			return answer{}, errOData("The query parameter '%s' is not supported.", shown(name))
		}
	}
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
	chosen := all[min(wanted.from, len(all)):]
	chosen = chosen[:min(wanted.size, len(chosen))]
	body := struct {
		Context string   `json:"@odata.context"`
		Value   []record `json:"value"`
		Next    string   `json:"@odata.nextLink,omitempty"`
	}{Context: r.metadata("Collection(microsoft.windowsDefenderATP.api." + kind + ")"), Value: chosen}
	if to := wanted.from + len(chosen); to < len(all) && len(chosen) > 0 {
		body.Next = rules{links: unlessTop}.nextLink(r, page{to, wanted.size})
	}
	return done(http.StatusOK, body), nil
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

// exportFiles answers with the URLs of all files of the latest snapshot. To ask
// doesn't make a new one, as documented.
func (t *tenant) exportFiles(r request) (answer, error) {
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
		path := fmt.Sprintf("/%s/%s/%s/json/part-%05d.json.gz", exportFolder,
			generated.Format("2006-01-02/1504"), exportName, i)
		urls = append(urls, t.link(r, path, time.Duration(hours)*t.hour))
	}
	return done(http.StatusOK, struct {
		Context   string    `json:"@odata.context"`
		Files     []string  `json:"exportFiles"`
		Generated time.Time `json:"generatedTime"`
	}{r.metadata("microsoft.windowsDefenderATP.api.ExportFilesResponse"), urls, generated}), nil
}

// exportFile makes a file: one record a line, compressed. The machines never
// change in what it says, so that all snapshots are alike.
func (t *tenant) exportFile(name string) (answer, error) {
	parts := strings.Split(name, "/") // date, time, assessment, json and file
	var number int
	found := len(parts) == 5 && parts[2] == exportName
	if found {
		_, err := fmt.Sscanf(parts[4], "part-%05d.json.gz", &number)
		found = err == nil
	}
	from := number * machinesPerFile
	if !found || from < 0 || from >= len(t.machines) {
		return answer{}, errNotFound("File", name)
	}
	var file bytes.Buffer
	writer := gzip.NewWriter(&file)
	lines := json.NewEncoder(writer)
	for _, m := range t.machines[from:min(from+machinesPerFile, len(t.machines))] {
		for _, r := range weaknesses(m) {
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
