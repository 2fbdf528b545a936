package defendertest_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// A row is what all exports have.
type row struct{ ID, DeviceID, CVEID, SoftwareName, ConfigurationID, Status string }

// The pages and the files of an export have the same records, each once.
func TestAssessmentsPagesAndFiles(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 230})
	for _, test := range []struct {
		pages, files string
		perMachine   int
	}{
		{"SoftwareVulnerabilitiesByMachine", "SoftwareVulnerabilitiesExport", 3},
	} {
		var paged []row
		pages := 0
		for path := "/api/machines/" + test.pages + "?pageSize=100"; path != ""; pages++ {
			page := decode[list[row]](t, call(t, s, "GET", path, "").want(t, 200, ""))
			if page.Next != "" && len(page.Value) != 100 {
				t.Errorf("%s: a page has %d records", test.pages, len(page.Value))
			}
			paged = append(paged, page.Value...)
			path = strings.TrimPrefix(page.Next, s.URL)
		}
		if want := 230 * test.perMachine; len(paged) != want || pages != (want+99)/100 {
			t.Errorf("%s: got %d records in %d pages, want %d", test.pages, len(paged), pages, want)
		}
		export := decode[exported](t, call(t, s, "GET", "/api/machines/"+test.files, "").want(t, 200, ""))
		if len(export.ExportFiles) != 3 {
			t.Errorf("%s: got %d files", test.files, len(export.ExportFiles))
		}
		var filed []row
		for _, file := range export.ExportFiles {
			r, err := download(t, file)
			if err != nil || r.status != 200 {
				t.Fatalf("%s: got %d and error %v", file, r.status, err)
			}
			for _, line := range lines(t, r.body) {
				var one row
				if err := json.Unmarshal([]byte(line), &one); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				filed = append(filed, one)
			}
		}
		if !slices.Equal(paged, filed) {
			t.Errorf("%s: the files have other records than the pages", test.files)
		}
	}
}

// $top cuts the rest off without a word.
func TestAssessmentsTopSuppressesTheLink(t *testing.T) {
	s := start(t, defendertest.Config{})
	const path = "/api/machines/SoftwareVulnerabilitiesByMachine"
	for _, test := range []struct {
		query string
		want  int
		next  bool
	}{
		{"", 150, false}, {"?pageSize=7", 7, true}, {"?pagesize=7", 7, true}, {"?$top=7", 7, false}, {"?$top=7&pageSize=5", 7, false}, {"?$top=1000", 150, false},
	} {
		page := decode[list[row]](t, call(t, s, "GET", path+test.query, "").want(t, 200, ""))
		if len(page.Value) != test.want || (page.Next != "") != test.next {
			t.Errorf("%s: got %d records and the link %q", test.query, len(page.Value), page.Next)
		}
	}
	for query, code := range map[string]string{
		"?pageSize=200001": "InvalidInput", "?pageSize=0": "InvalidInput", "?pageSize=x": "InvalidInput", "?$top=x": "ODataError", "?$skiptoken=x": "ODataError",
	} {
		call(t, s, "GET", path+query, "").want(t, 400, code)
	}
	call(t, s, "GET", path+"?pageSize=200000", "").want(t, 200, "")
}

// A snapshot is made every six hours, and not by asking for it.
func TestAssessmentsSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{})
		begin := time.Now()
		for _, test := range []struct{ sleep, age time.Duration }{
			{0, 0}, {6*time.Hour - 1, 6*time.Hour - 1}, {1, 0}, {13 * time.Hour, time.Hour},
		} {
			time.Sleep(test.sleep)
			export := decode[exported](t, direct(s, "GET", exportPath, "").want(t, 200, ""))
			if age := time.Since(export.GeneratedTime); age != test.age {
				t.Errorf("after %v the snapshot is %v old, want %v", time.Since(begin), age, test.age)
			}
		}
	})
}

func TestAssessmentsOfNoMachines(t *testing.T) {
	s := start(t, defendertest.Config{Machines: -1})
	if r := call(t, s, "GET", exportPath, "").want(t, 200, ""); !strings.Contains(string(r.body), `"exportFiles":[]`) {
		t.Errorf("got %s", r.body)
	}
}

// A pageSize that is there in two cases counts the same each time.
func TestPageSizeInTwoCases(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{Machines: 3, NoQuotas: true})
	defer s.Close()
	for range 50 {
		got := direct(s, "GET", "/api/machines/SoftwareVulnerabilitiesByMachine?pageSize=1&pagesize=2&PAGESIZE=3", "")
		if n := len(decode[list[json.RawMessage]](t, got).Value); n != 3 {
			t.Fatalf("%d records", n)
		}
	}
}
