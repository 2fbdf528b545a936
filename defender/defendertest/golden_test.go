package defendertest_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// A golden is an example of a documentation page: the request, and the names and types of its
// answer: "s" is a text, "t" a text that is a time, "n" a number, "b" a boolean, null null,
// "s|null" one or the other, and an array has what its items can be. More are the names that the
// answer has beside, and Differs those that aren't as on the page, each with the reason.
type golden struct {
	Page, Request, Body string
	Status              int
	Answer              any
	More, Differs       map[string]string
}

// Names and types of the answers are those of the documentation's examples, and each difference is
// one that has a reason. With -v the table of them is printed.
func TestAnswersAreAsDocumented(t *testing.T) {
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	s, isolated := goldenServer(t)
	for _, g := range all {
		method, path, _ := strings.Cut(strings.ReplaceAll(g.Request, "{isolate}", isolated), " ")
		r := call(t, s, method, path, g.Body)
		if r.status != g.Status {
			t.Errorf("%s: got %d %s", g.Page, r.status, r.body)
			continue
		}
		var answer any
		if err := json.Unmarshal(r.body, &answer); err != nil {
			t.Errorf("%s: %v: %s", g.Page, err, r.body)
			continue
		}
		want, got := make(shapes), make(shapes)
		want.add("", g.Answer, func(v any) string {
			if text, ok := v.(string); ok {
				return text
			}
			return "null"
		})
		got.add("", answer, kindOf)
		g.compare(t, want, got)
		t.Logf("%s | %s | %d names | %s", g.Page, g.Request, len(want), g.remarks())
	}
}

// remarks is a golden's cell of the table.
func (g golden) remarks() string {
	var all []string
	for sign, names := range map[string]map[string]string{"more": g.More, "differs": g.Differs} {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			all = append(all, sign+" "+name+": "+names[name])
		}
	}
	if all == nil {
		return "equal"
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// compare fails for each name that isn't as on the page and has no reason, and for each reason that
// there is no need for.
func (g golden) compare(t *testing.T, want, got shapes) {
	t.Helper()
	under := func(name string, names map[string]string) bool {
		for n := range names {
			if name == n || strings.HasPrefix(name, n+".") {
				return true
			}
		}
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		same := len(got[name]) > 0
		for kind := range want[name] {
			same = same && got[name][kind] // a null on the page is a null here
		}
		for kind := range got[name] {
			same = same && (want[name][kind] || kind == "null" || len(want[name]) == 1 &&
				(want[name]["null"] || want[name]["array"]))
		}
		switch explained := under(name, g.Differs); {
		case !same && !explained:
			t.Errorf("%s: %s is %v, on the page %v", g.Page, name, got[name].String(), want[name].String())
		case same && g.Differs[name] != "":
			t.Errorf("%s: %s is as on the page, and has a reason not to be", g.Page, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if len(want[name]) == 0 && !under(name, g.More) && !under(name, g.Differs) &&
			!within(name, want) {
			t.Errorf("%s: %s is not on the page", g.Page, name)
		}
	}
	for name := range g.More {
		if len(got[name]) == 0 || len(want[name]) > 0 {
			t.Errorf("%s: %s is not more than on the page", g.Page, name)
		}
	}
}

// within reports whether a name is inside of what the page shows as null or as an empty array, and
// so says nothing about.
func within(name string, want shapes) bool {
	for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
		if outer := want[name[:at]]; outer["null"] || outer["array"] && len(outer) == 1 {
			inner := false
			for other := range want {
				inner = inner || strings.HasPrefix(other, name[:at]+".")
			}
			return !inner
		}
	}
	return false
}

// shapes are the kinds of values that stand under a name. All items of an array count as one.
type shapes map[string]kinds

type kinds map[string]bool

func (k kinds) String() string { return strings.Join(slices.Sorted(maps.Keys(k)), "|") }

func (s shapes) add(name string, v any, kind func(any) string) {
	note := func(k string) {
		if s[name] == nil {
			s[name] = make(kinds)
		}
		s[name][k] = true
	}
	prefix := name
	if prefix != "" {
		prefix += "."
	}
	switch v := v.(type) {
	case map[string]any:
		if name != "" {
			note("object")
		}
		for key, value := range v {
			s.add(prefix+key, value, kind)
		}
	case []any:
		note("array")
		for _, item := range v {
			if _, ok := item.(map[string]any); ok {
				s.add(name, item, kind)
			} else {
				s.add(prefix+"[]", item, kind)
			}
		}
	default:
		for k := range strings.SplitSeq(kind(v), "|") {
			note(k)
		}
	}
}

// kindOf is the kind of a value in an answer.
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "b"
	case float64:
		return "n"
	case string:
		if _, err := time.Parse(time.RFC3339, v); err == nil {
			return "t"
		}
	}
	return "s"
}

// goldenServer has something of everything that the examples show, and an isolation by its id.
func goldenServer(t *testing.T) (s *defendertest.Server, isolated string) {
	s = start(t, defendertest.Config{Machines: 4, NoQuotas: true, ActionTime: time.Hour})
	post := func(path, body string) reply {
		r := call(t, s, "POST", path, body)
		if r.status >= 400 {
			t.Fatalf("%s: %d %s", path, r.status, r.body)
		}
		return r
	}
	post("/api/machines/m0001/tags", `{"Value":"test tag 1","Action":"Add"}`)
	post("/api/machines/m0001/runAntiVirusScan", `{"Comment":"test","ScanType":"Full"}`)
	post("/api/machines/m0002/StopAndQuarantineFile",
		`{"Comment":"test","Sha1":"a0c659857ccbe457fdaf5fe21d54efdcbf6f6508"}`)
	isolated = decode[identified](t,
		post("/api/machines/m0001/isolate", `{"Comment":"test","IsolationType":"Selective"}`)).ID
	post("/api/machines/m0001/collectInvestigationPackage", `{"Comment":"test"}`)
	post("/api/indicators", `{"indicatorValue":"12.13.14.15","indicatorType":"IpAddress","action":"Alert","application":"demo-test","title":"test","description":"test",
		"expirationTime":"2099-12-12T00:00:00Z","severity":"Informational","recommendedActions":"test","rbacGroupNames":["Group1"]}`)
	post("/api/indicators", `{"indicatorValue":"220e7d15b0b3d7fac48f2bd61114db1022197f7f","indicatorType":"FileSha1","action":"AlertAndBlock","title":"test","description":"test",
		"expirationTime":"2099-12-12T00:00:00Z","severity":"Informational","recommendedActions":"TEST","rbacGroupNames":["Group1"]}`)
	call(t, s, "PATCH", "/api/alerts/a0001", `{"comment":"test comment"}`).want(t, 200, "")
	call(t, s, "PATCH", "/api/incidents/1", `{"comment":"test comment","tags":["Demo"]}`).want(t, 200,
		"")
	return s, isolated
}
