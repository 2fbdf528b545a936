package defendertest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// follow reads all pages from a path on, and returns the ids and the page sizes.
func follow(t *testing.T, s *defendertest.Server, path string) (all []string, sizes []int) {
	t.Helper()
	for path != "" {
		page := decode[list[identified]](t, call(t, s, "GET", path, "").want(t, 200, ""))
		all, sizes = append(all, ids(page.Value)...), append(sizes, len(page.Value))
		if page.Next == "" {
			return all, sizes
		}
		rest, ok := strings.CutPrefix(page.Next, s.URL)
		if !ok || !strings.Contains(rest, "$skiptoken=") {
			t.Fatalf("nextLink is %q", page.Next)
		}
		path = rest
	}
	return all, sizes
}

func TestMachinesPaging(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 25, PageSize: 10})
	all := s.MachineIDs()
	for _, test := range []struct {
		path  string
		want  []string
		sizes []int
	}{
		{"/api/machines", all, []int{10, 10, 5}},
		{"/api/v1.0/machines?$skip=5", all[5:], []int{10, 10}},
		{"/api/machines?$top=20", all[:20], []int{20}},
		{"/api/machines?$top=12&$skip=1", all[1:13], []int{12}},
		{"/api/machines?$top=12&$skip=13", all[13:], []int{12}},
		{"/api/machines?$top=10000", all, []int{25}},
		{"/api/machines?$skip=25", nil, []int{0}},
		{"/api/machines?$skip=9223372036854775807", nil, []int{0}},
		{"/api/machines?$skip=2147483648", nil, []int{0}},
		{"/api/machines?$skip=4294967301", nil, []int{0}},                   // 5, if its upper half were lost
		{"/api/machines?$skiptoken=NDI5NDk2NzMwMSwxMA", nil, []int{0}},      // 4294967301,10
		{"/api/machines?$skiptoken=MjAsNDI5NDk2NzI5Ng", all[20:], []int{5}}, // 20,4294967296
		{"/api/machines?$top=0", nil, []int{0}},
		{"/api/machines?%24top=7&$filter=osPlatform%20eq%20'Windows11'", all[:7], []int{7}},
		{"/api/machines?$filter=computerDnsName+eq+'m0003.contoso.example'", []string{"m0003"}, []int{1}},
		{"/api/machines?$filter=computerDnsName+eq+'other'", nil, []int{0}},
	} {
		got, sizes := follow(t, s, test.path)
		if !slices.Equal(got, test.want) || !slices.Equal(sizes, test.sizes) {
			t.Errorf("%s: got %v in pages of %v, want %v in %v", test.path, got, sizes, test.want, test.sizes)
		}
	}
}

func TestMachinesDefaultPageSize(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 250})
	if _, sizes := follow(t, s, "/api/machines"); !slices.Equal(sizes, []int{100, 100, 50}) {
		t.Errorf("pages of %v", sizes)
	}
}

func TestMachinesBadQuery(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, query := range []string{
		"$top=10001", "$top=-1", "$top=x", "$top=", "$skip=-1", "$skip=1.5", "$skiptoken=", "$skiptoken=!", "$skiptoken=MTA",
		"$filter=nothing+eq+'x'", "$filter=id", "$filter=id+eq", "$filter=id+is+'x'", "$filter=id+eq+'x",
		"$filter=id+eq+'x'+or+'y'", "$filter=id+eq+'x'+and",
	} {
		call(t, s, "GET", "/api/machines?"+query, "").want(t, 400, "ODataError")
	}
}

// The link leads back to where the client came from, not to where the server
// believes to be.
func TestNextLinkHost(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{PageSize: 1})
	secure := httptest.NewTLSServer(s)
	defer secure.Close()
	req, err := http.NewRequest("GET", secure.URL+"/api/v1.0/Machines", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "tenant.example:8443"
	resp, err := secure.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	page := decode[list[identified]](t, newReply(resp, body))
	if !strings.HasPrefix(page.Next, "https://tenant.example:8443/api/v1.0/Machines?$skiptoken=") {
		t.Errorf("nextLink is %q", page.Next)
	}
}

func TestNoMachines(t *testing.T) {
	s := start(t, defendertest.Config{Machines: -1})
	call(t, s, "GET", "/api/machines", "").want(t, 404, "NotFound")
	if got := call(t, s, "GET", "/api/alerts", "").want(t, 200, ""); !strings.Contains(string(got.body), `"value":[]`) {
		t.Errorf("alerts are %s", got.body)
	}
}

func TestMachineByID(t *testing.T) {
	s := start(t, defendertest.Config{})
	m := decode[struct{ ID, ComputerDNSName string }](t, call(t, s, "GET", "/api/machines/m0007", "").want(t, 200, ""))
	if m.ID != "m0007" || m.ComputerDNSName != "m0007.contoso.example" {
		t.Errorf("got %+v", m)
	}
	call(t, s, "GET", "/api/machines/x", "").want(t, 404, "ResourceNotFound").wantMessage(t, "Machine x was not found")
}

func TestVulnerabilities(t *testing.T) {
	s := start(t, defendertest.Config{})
	found := decode[list[identified]](t, call(t, s, "GET", "/api/machines/m0001/vulnerabilities", "").want(t, 200, ""))
	if len(found.Value) == 0 {
		t.Error("no vulnerabilities")
	}
	if c := last(t, s); c.Family != "machines/{id}/vulnerabilities" {
		t.Errorf("family is %q", c.Family)
	}
	call(t, s, "GET", "/api/machines/x/vulnerabilities", "").want(t, 404, "ResourceNotFound")
}

func tagsOf(t *testing.T, s *defendertest.Server, id string) []string {
	t.Helper()
	return decode[struct{ MachineTags []string }](t, call(t, s, "GET", "/api/machines/"+id, "").want(t, 200, "")).MachineTags
}

func TestMachineTags(t *testing.T) {
	s := start(t, defendertest.Config{})
	const add, remove = `{"Value":"red","Action":"Add"}`, `{"Value":"red","Action":"Remove"}`
	call(t, s, "POST", "/api/machines/m0001/tags", add).want(t, 200, "")
	call(t, s, "POST", "/api/machines/m0001/tags", add).want(t, 200, "")
	if tags := tagsOf(t, s, "m0001"); !slices.Equal(tags, []string{"red"}) {
		t.Errorf("tags are %v", tags)
	}
	call(t, s, "POST", "/api/machines/m0001/tags", remove).want(t, 200, "")
	if tags := tagsOf(t, s, "m0001"); len(tags) != 0 {
		t.Errorf("tags are %v", tags)
	}
	wantEffects(t, s, map[string]int{"addTag m0001 red": 2, "removeTag m0001 red": 1})
	call(t, s, "POST", "/api/machines/x/tags", add).want(t, 404, "ResourceNotFound")
	call(t, s, "POST", "/api/machines/m0001/tags", `{"Action":"Add"}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", "/api/machines/m0001/tags", `{"Value":"red"}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", "/api/machines/m0001/tags", `{"Value":"red","Action":"add"}`).want(t, 400, "InvalidInput")
	call(t, s, "POST", "/api/machines/m0001/tags", `{"Value":"a\nb","Action":"Add"}`).want(t, 400, "InvalidInput")
	call(t, s, "POST", "/api/machines/m0001/tags", `{"value":"red","Action":"Add"}`).want(t, 400, "InvalidRequestBody")
}

func TestTagMultipleMachines(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 501})
	path := "/api/machines/AddOrRemoveTagForMultipleMachines"
	body := func(ids []string) string {
		return fmt.Sprintf(`{"Value":"red","Action":"Add","MachineIds":["%s"]}`, strings.Join(ids, `","`))
	}
	call(t, s, "POST", path, body(s.MachineIDs())).want(t, 400, "MaximumBatchSizeExceeded").
		wantMessage(t, "Maximum batch size exceeded. Received: 501, allowed: 500.")
	call(t, s, "POST", path, body([]string{"m0001", "x"})).want(t, 404, "ResourceNotFound")
	call(t, s, "POST", path, `{"Value":"red","Action":"Add"}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", path, `{"Value":"red","MachineIds":["m0001"]}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", path, `[]`).want(t, 400, "InvalidRequestBody")
	wantEffects(t, s, map[string]int{})
	call(t, s, "POST", path, body(s.MachineIDs()[:500])).want(t, 200, "")
	if c := last(t, s); len(s.Effects()) != 500 || len(strings.Split(c.Effect, "\n")) != 500 {
		t.Errorf("%d effects, of which the call knows %q", len(s.Effects()), c.Effect)
	}
	if tags := tagsOf(t, s, "m0500"); !slices.Equal(tags, []string{"red"}) {
		t.Errorf("tags are %v", tags)
	}
}

func TestFindByIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{})
		find := func(address string, at time.Time) reply {
			return direct(s, "GET", "/api/machines/findbyip(ip='"+address+"',timestamp="+at.UTC().Format(time.RFC3339)+")", "")
		}
		now := time.Now()
		if got := ids(decode[list[identified]](t, find("10.0.0.7", now).want(t, 200, "")).Value); !slices.Equal(got, []string{"m0007"}) {
			t.Errorf("got %v", got)
		}
		if got := decode[list[identified]](t, find("192.0.2.1", now).want(t, 200, "")).Value; len(got) != 0 {
			t.Errorf("got %v", got)
		}
		if c := last(t, s); c.Family != "machines/{id}" {
			t.Errorf("family is %q", c.Family)
		}
		find("10.0.0.7", now.Add(-30*24*time.Hour)).want(t, 200, "")
		find("10.0.0.7", now.Add(-30*24*time.Hour-time.Second)).want(t, 400, "InvalidInput")
		find("10.0.0.7", now.Add(time.Second)).want(t, 400, "InvalidInput")
		find("10.0.0.777", now).want(t, 400, "InvalidIpAddress")
		direct(s, "GET", "/api/machines/FindByIP(ip=%2710.0.0.7%27,timestamp="+now.UTC().Format(time.RFC3339)+")", "").want(t, 200, "")
		direct(s, "GET", "/api/machines/findbyip(ip='10.0.0.7')", "").want(t, 400, "InvalidInput")
		direct(s, "GET", "/api/machines/findbyip", "").want(t, 404, "ResourceNotFound") // an id, as it stands
	})
}

func TestMachineUpdates(t *testing.T) {
	s := start(t, defendertest.Config{})
	value := func() string {
		return decode[struct{ DeviceValue string }](t, call(t, s, "GET", "/api/machines/m0001", "")).DeviceValue
	}
	if got := value(); got != "Normal" {
		t.Errorf("the value is %s at first", got)
	}
	const set = "/api/machines/m0001/setDeviceValue"
	call(t, s, "POST", set, `{"DeviceValue":"High"}`).want(t, 200, "")
	if got := value(); got != "High" {
		t.Errorf("the value is %s", got)
	}
	call(t, s, "PATCH", "/api/machines/m0001", `{"deviceValue":"Low"}`).want(t, 200, "")
	call(t, s, "PATCH", "/api/machines/m0001", `{"machineTags":["a","b"]}`).want(t, 200, "")
	if got := value(); got != "Low" || !slices.Equal(tagsOf(t, s, "m0001"), []string{"a", "b"}) {
		t.Errorf("the value is %s, the tags are %v", got, tagsOf(t, s, "m0001"))
	}
	call(t, s, "PATCH", "/api/machines/m0001", `{"machineTags":[]}`).want(t, 200, "")
	if tags := tagsOf(t, s, "m0001"); len(tags) != 0 {
		t.Errorf("the tags are %v", tags)
	}
	wantEffects(t, s, map[string]int{"setDeviceValue m0001": 1, "update m0001": 3})
	for _, test := range []struct{ method, path, body, code string }{
		{"POST", set, `{}`, "MissingRequiredParameter"},
		{"POST", set, `{"DeviceValue":"high"}`, "InvalidInput"},
		{"POST", set, `{"deviceValue":"High"}`, "InvalidRequestBody"},
		{"PATCH", "/api/machines/m0001", `{}`, "MissingRequiredParameter"},
		{"PATCH", "/api/machines/m0001", `{"deviceValue":"x"}`, "InvalidInput"},
		{"PATCH", "/api/machines/m0001", `{"DeviceValue":"High"}`, "InvalidRequestBody"},
	} {
		call(t, s, test.method, test.path, test.body).want(t, 400, test.code)
	}
	call(t, s, "POST", "/api/machines/x/setDeviceValue", `{"DeviceValue":"High"}`).want(t, 404, "ResourceNotFound")
	call(t, s, "PATCH", "/api/machines/x", `{"deviceValue":"High"}`).want(t, 404, "ResourceNotFound")
}
