package defendertest_test

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// FuzzServer: whatever is asked for, however it is spelled and by whomever, the answer is whole and
// valid, and no fault that nobody asked for; the ledger says the same; and pages come to an end.
func FuzzServer(f *testing.F) {
	for _, seed := range []struct{ method, target, body, contentType, host string }{
		{"GET", "/api/machines?$top=2&$skip=1&$filter=id+ne+'m0001'", "", "", ""},
		{"GET", "/api/machines?$top=9223372036854775807&$skip=9223372036854775807", "", "", ""},
		{"GET", "/api/machines?$skiptoken=MSwx&$top=x", "", "", ""},
		{"GET", "/api/machines?$skiptoken=OTIyMzM3MjAzNjg1NDc3NTgwNyw5MjIzMzcyMDM2ODU0Nzc1ODA3", "",
			"", ""},
		{"GET", "/api/machines?$skiptoken=LTEsLTE", "", "", ""},
		{"GET", "/api/machines?$filter=%27%27%27;%zz&x", "", "", ""},
		{"GET", "/api/machines/findbyip(ip='10.0.0.1',timestamp=9999-12-31T23:59:59Z)", "", "", ""},
		{"GET", "/api/machines/findbyip()", "", "", ""},
		{"GET", "/api/machines/findbyip(", "", "", ""},
		{"GET", "/api/machines/%2e%2e/alerts", "", "", ""},
		{"GET", "/api/machines/SoftwareVulnerabilitiesByMachine?pageSize=1&pagesize=x&$top=0", "", "",
			""},
		{"GET", "/api/machines/SoftwareVulnerabilitiesExport?sasValidHours=6", "", "", ""},
		{"GET", "/api/machines/m0001/alerts/$count?$filter=status+ne+'Resolved'", "", "", ""},
		{"GET", "/api/machines?$orderby=lastSeen+desc,id&$select=id,machineTags&$count=true&$top=1", "",
			"", ""},
		{"GET", "/api/machines?$filter=not(machineTags/any(t:t+eq+'a'+or+startswith(t,'b')))", "", "",
			""},
		{"GET", "/api/alerts?$expand=evidence&$filter=incidentId+eq+1+or+assignedTo+ne+null", "", "", ""},
		{"GET", "/v1.0/security/incidents?$expand=alerts&$count=true&$top=1", "", "", ""},
		{"GET", "/v1.0/security/alerts_v2?$skip=501&$orderby=createdDateTime", "", "", ""},
		{"PATCH", "/v1.0/security/incidents/1",
			`{"assignedTo":null,"customTags":["a"],"status":"Resolved"}`, "", ""},
		{"PATCH", "/v1.0/security/alerts_v2/a0001", `{"determination":"malware"}`, "", ""},
		{"POST", "/v1.0/security/incidents/1/comments", `{"comment":"c"}{}`, "", ""},
		{"POST", "/v1.0/security/runHuntingQuery", `{"query":"x","Timespan":"P1D/2026-01-01T00:00:00Z"}`,
			"", ""},
		{"GET", "/v1.0/security/\xff", "", "", ""},
		{"POST", "/t/oauth2/token", "grant_type=client_credentials&client_id=i&client_secret=s&resource=x", "", ""},
		{"POST", "/api/machines/m0001/isolate", isolation, "application/json", ""},
		{"POST", "/API/v1.0/Machines/m0001/%69solate/", isolation, "", ""},
		{"POST", "/api/machines/m0001/i\u017folate", isolation, "", ""},
		{"POST", "/api/machines/m0001/runliveresponse",
			`{"Comment":"c","Commands":[{"type":"RunScript","params":[{"key":"ScriptName","value":"a"}]},null]}`,
			"", ""},
		{"POST", "/api/machines/m0001/runliveresponse",
			`{"Comment":"c","Commands":[{"type":"PutFile"}],"Commands":[{"Type":"x"}]}`, "", ""},
		{"PATCH", "/api/machines/m0001", `{"machineTags":["a\nb",null],"deviceValue":"High"}`, "",
			""},
		{"POST", "/api/machines/m0001/tags", "{\"Value\":\"\x1b[31m\",\"Action\":\"Add\"}", "", ""},
		{"POST", "/api/machines/AddOrRemoveTagForMultipleMachines",
			`{"Value":"t","Action":"Remove","MachineIds":["m0001","m0001"]}`, "", ""},
		{"PATCH", "/api/alerts/a0001", `{"comment":"\ud800","status":"New"}`, "", ""},
		{"POST", "/api/alerts/batchUpdate", `{"alertIds":["a0001","a0001"],"comment":"c"}`, "", ""},
		{"PATCH", "/api/incidents/1", `{"status":"Active Resolved","tags":[]}`, "", ""},
		{"POST", "/api/indicators",
			`{"indicatorValue":"1.2.3.4%eth0","indicatorType":"IpAddress","action":"Block","expirationTime":"9999-12-31T23:59:59-23:59"}`,
			"", ""},
		{"POST", "/api/indicators/import",
			`{"Indicators":[{"indicatorValue":"a.example","indicatorType":"DomainName","action":"Alert"},{}]}`,
			"", ""},
		{"POST", "/api/indicators/BatchDelete", `{"IndicatorIds":["1","1"]}`, "", ""},
		{"DELETE", "/api/indicators/1", "", "", ""},
		{"POST", "/api/advancedqueries/run", `{"Query":"` + strings.Repeat("x", 1000) + `"}`, "",
			""},
		{"POST", "/api/advancedhunting/run", strings.Repeat(`[`, 11000), "", ""},
		{"GET", "/api/machineactions/1/GetLiveResponseResultDownloadLink(index=-1)", "", "", ""},
		{"POST", "/t/oauth2/v2.0/token",
			"grant_type=client_credentials&client_id=i&client_secret=s&scope=x/.default", "", ""},
		{"POST", "/\xff/oauth2/v2.0/token",
			"grant_type=%0d%0a&client_id=i&client_secret=s&scope=%ff", "", ""},
		{"GET", "/oauth2/v2.0/token", "%", "", ""},
		{"GET",
			"/tvm-export/2026-11-26/1200/SoftwareVulnerabilitiesExport/json/part-00000.json.gz?st=x&se=y&sig=z",
			"", "", "storage.invalid"},
		{"PUT", "/investigation-actions-data/1/99999999999999999999?sig=", "", "",
			"STORAGE.invalid"},
		{"OPTIONS", "*", "", "", ""},
		{"GET", "/api/machines?$top=1", "", "", "a["},
		{"\u212a", "//api//", "", "", "\xff"},
	} {
		f.Add(seed.method, seed.target, seed.body, seed.contentType, seed.host, "Bearer x.y.z")
	}
	f.Fuzz(func(t *testing.T, method, target, body, contentType, host, authorization string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		for _, config := range []defendertest.Config{
			{Machines: 3, PageSize: 2, NoQuotas: true},
			{Machines: -1, NoQuotas: true, Clients: map[string]string{"i": "s"}},
		} {
			s := defendertest.NewUnstartedServer(config)
			ask := func(u *url.URL, body string) reply {
				t.Helper()
				r := httptest.NewRequest("GET", "/", strings.NewReader(body))
				r.Method, r.URL, r.RequestURI = method, u, target
				if host != "" {
					r.Host = host
				}
				r.Header = http.Header{"Content-Type": {contentType}, "Authorization": {authorization}}
				return whole(t, s, r)
			}
			// Twice, so that the second meets what the first has done.
			for range 2 {
				got := ask(u, body)
				for pages := 0; ; pages++ {
					var list struct {
						Next string `json:"@odata.nextLink"`
					}
					json.Unmarshal(got.body, &list)
					if list.Next == "" || got.status != http.StatusOK {
						break
					}
					next, err := url.Parse(list.Next)
					if err != nil || pages > 100 {
						t.Fatalf("page %d of %q leads to %q: %v", pages, target, list.Next, err)
					}
					got = ask(next, body)
				}
			}
			for _, path := range []string{"machines", "alerts", "machineactions", "indicators",
				"incidents"} {
				r := httptest.NewRequest("GET", "/api/"+path, nil)
				if got := whole(t, s, r); got.status != http.StatusOK && len(config.Clients) == 0 {
					t.Fatalf("%s %q has spoiled %s: %d %s", method, target, path, got.status, got.body)
				}
			}
			for effect := range s.Effects() {
				if strings.ContainsAny(effect, "\r\n") {
					t.Fatalf("%s %q has the effect %q", method, target, effect)
				}
			}
			s.Close()
		}
	})
}

// whole makes a call, and fails unless its answer is one that HTTP and the service's documentation
// allow.
func whole(t *testing.T, s *defendertest.Server, r *http.Request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	resp := w.Result()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := newReply(resp, data)
	if got.status < 200 || got.status > 499 || got.status == http.StatusTooManyRequests {
		t.Fatalf("%s %q is answered %d %s", r.Method, r.URL, got.status, data)
	}
	length := resp.Header.Get("Content-Length")
	if length != strconv.Itoa(len(data)) && !(got.status == http.StatusNoContent && length == "" && len(data) == 0) {
		t.Fatalf("%s %q: a length of %q for %d bytes", r.Method, r.URL, length, len(data))
	}
	switch kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); kind {
	case "application/json":
		if !json.Valid(data) || !utf8.Valid(data) {
			t.Fatalf("%s %q: no JSON: %q", r.Method, r.URL, data)
		}
		var flat struct {
			Error any `json:"error"`
		}
		json.Unmarshal(data, &flat)
		if failed := got.status >= 400; failed != (flat.Error != nil) {
			t.Fatalf("%s %q: %d %s", r.Method, r.URL, got.status, data)
		}
	case "application/xml":
		var e struct{ Code, Message string }
		if err := xml.Unmarshal(data, &e); err != nil || e.Code == "" {
			t.Fatalf("%s %q: no XML: %v, %q", r.Method, r.URL, err, data)
		}
	case "":
		if len(data) > 0 {
			t.Fatalf("%s %q: a body of no type: %q", r.Method, r.URL, data)
		}
	case "application/gzip", "application/zip", "application/octet-stream", "text/plain":
		if got.status != http.StatusOK {
			t.Fatalf("%s %q: %d of the type %s", r.Method, r.URL, got.status, kind)
		}
	default:
		t.Fatalf("%s %q: a body of the type %q", r.Method, r.URL, kind)
	}
	for name, values := range resp.Header {
		for _, value := range values {
			if strings.ContainsAny(name+value, "\r\n\x00") {
				t.Fatalf("%s %q: the field %q: %q", r.Method, r.URL, name, value)
			}
		}
	}
	if entry := last(t, s); entry.Status != got.status || entry.Fault != "" || entry.Processed != (got.status < 400) {
		t.Fatalf("%s %q is answered %d, and the ledger has %+v", r.Method, r.URL, got.status, entry)
	}
	return got
}
