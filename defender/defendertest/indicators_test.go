package defendertest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

const domain = `{"indicatorValue":"a.example","indicatorType":"DomainName","action":"Block","title":"t","description":"d","application":"first"}`

type indicator struct{ ID, IndicatorValue, Action, Application string }

func TestIndicatorSubmitOrUpdate(t *testing.T) {
	s := start(t, defendertest.Config{})
	first := decode[indicator](t, call(t, s, "POST", "/api/indicators", domain).want(t, 200, ""))
	again := decode[indicator](t, call(t, s, "POST", "/api/indicators", strings.NewReplacer("Block", "Allow", "first", "second").Replace(domain)).want(t, 200, ""))
	// The application applies to new indicators only.
	if first.ID == "" || first.ID != again.ID || again.Action != "Allow" || again.Application != "first" {
		t.Errorf("got %+v, then %+v", first, again)
	}
	other := decode[indicator](t, call(t, s, "POST", "/api/indicators", strings.Replace(domain, "DomainName", "Url", 1)).want(t, 200, ""))
	if other.ID == first.ID {
		t.Error("another type is the same indicator")
	}
	wantEffects(t, s, map[string]int{"submit a.example": 3})
	if all, _ := follow(t, s, "/api/indicators?$top=2"); !slices.Equal(all,
		[]string{first.ID, other.ID}) {
		t.Errorf("the list has %v", all)
	}
	if some, _ := follow(t, s, "/api/indicators?$filter=action+eq+'Allow'"); !slices.Equal(some, []string{first.ID}) {
		t.Errorf("the filter finds %v", some)
	}
}

func TestIndicatorIsChecked(t *testing.T) {
	s := start(t, defendertest.Config{})
	item := func(kind, value, more string) string {
		return fmt.Sprintf(`{"indicatorValue":%q,"indicatorType":%q,"action":"Block"%s}`, value, kind, more)
	}
	for _, test := range []struct{ body, code string }{
		{item("DomainName", "", ""), "MissingRequiredParameter"},
		{item("", "x", ""), "MissingRequiredParameter"},
		{`{"indicatorValue":"x","indicatorType":"Url"}`, "MissingRequiredParameter"},
		{item("Domain", "x", ""), "InvalidInput"},
		{item("DomainName", "x\ny", ""), "InvalidInput"},
		{item("DomainName", "http://x", ""), "InvalidDomainName"},
		{item("IpAddress", "1.2.3", ""), "InvalidIpAddress"},
		{item("Url", "a b", ""), "InvalidUrl"},
		{item("FileSha1", "5f2", ""), "InvalidHashValue"},
		{item("FileSha256", strings.Repeat("x", 64), ""), "InvalidHashValue"},
		{item("FileMd5", strings.Repeat("a", 33), ""), "InvalidHashValue"},
		{item("Url", "x", `,"expirationTime":"soon"`), "InvalidInput"},
		{item("Url", "x", `,"expirationTime":"2001-01-01T00:00:00Z"`), "BadRequest"},
		{`{"IndicatorValue":"x"}`, "InvalidRequestBody"},
		{`{"indicatorValue":"x"`, "InvalidRequestBody"},
		{`{} {}`, "InvalidRequestBody"},
	} {
		call(t, s, "POST", "/api/indicators", test.body).want(t, 400, test.code)
	}
	for _, good := range []string{
		item("FileSha1", strings.Repeat("a", 40), ""), item("CertificateThumbprint", strings.Repeat("b", 40), ""),
		item("FileSha256", strings.Repeat("C", 64), ""), item("FileMd5", strings.Repeat("0", 32), ""),
		item("IpAddress", "2001:db8::1", ""), item("Url", "https://a.example/b?c=d", `,"expirationTime":"2999-01-01T00:00:00Z"`),
	} {
		call(t, s, "POST", "/api/indicators", good).want(t, 200, "")
	}
}

// The first answer is 204, the next 404.
func TestIndicatorDelete(t *testing.T) {
	s := start(t, defendertest.Config{})
	id := decode[indicator](t, call(t, s, "POST", "/api/indicators", domain)).ID
	call(t, s, "DELETE", "/api/indicators/"+id, "").want(t, 204, "")
	if c := last(t, s); c.Status != 204 || !c.Processed || c.Effect != "delete "+id {
		t.Errorf("the ledger says %+v", c)
	}
	call(t, s, "DELETE", "/api/indicators/"+id, "").want(t, 404, "ResourceNotFound").wantMessage(t, "Indicator "+id+" was not found")
	wantEffects(t, s, map[string]int{"submit a.example": 1, "delete " + id: 1})
	if next := decode[indicator](t, call(t, s, "POST", "/api/indicators", domain)).ID; next == id {
		t.Error("an id is used twice")
	}
}

type importResult struct {
	ID            *string
	Indicator     string
	IsFailed      bool
	FailureReason *string
}

func domains(from, n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`{"indicatorValue":"d%d.example","indicatorType":"DomainName","action":"Block"}`, from+i)
	}
	return `{"Indicators":[` + strings.Join(items, ",") + `]}`
}

func TestImportPartialFailure(t *testing.T) {
	s := start(t, defendertest.Config{})
	r := call(t, s, "POST", "/api/indicators/import", `{"Indicators":[
		{"indicatorValue":"1.2.3.4","indicatorType":"IpAddress","action":"Block"},
		{"indicatorValue":"","indicatorType":"IpAddress","action":"Block"},
		{"indicatorValue":"old.example","indicatorType":"DomainName","action":"Block","expirationTime":"2001-01-01T00:00:00Z"},
		{"indicatorValue":"1.2.3.4","indicatorType":"IpAddress","action":"Allow","expirationTime":null}]}`).want(t, 200, "")
	got := decode[list[importResult]](t, r).Value
	if len(got) != 4 {
		t.Fatalf("got %s", r.body)
	}
	for _, i := range []int{0, 3} {
		if got[i].IsFailed || got[i].FailureReason != nil || got[i].ID == nil || *got[i].ID != "1" || got[i].Indicator != "1.2.3.4" {
			t.Errorf("item %d: %+v", i, got[i])
		}
	}
	for i, reason := range map[int]string{
		1: "Recieved an empty indicator value.",
		2: "Indicator old.example is inactive. (Expiration time should be set to a future date time)",
	} {
		if !got[i].IsFailed || got[i].FailureReason == nil || *got[i].FailureReason != reason || got[i].ID != nil {
			t.Errorf("item %d: %+v", i, got[i])
		}
	}
	wantEffects(t, s, map[string]int{"import 1.2.3.4": 2})
}

func TestImportBatchSize(t *testing.T) {
	s := start(t, defendertest.Config{})
	call(t, s, "POST", "/api/indicators/import", domains(0, 501)).want(t, 400, "MaximumBatchSizeExceeded").
		wantMessage(t, "Maximum batch size exceeded. Received: 501, allowed: 500.")
	wantEffects(t, s, map[string]int{})
	call(t, s, "POST", "/api/indicators/import", domains(0, 500)).want(t, 200, "")
	if n := len(s.Effects()); n != 500 {
		t.Errorf("%d effects, want 500", n)
	}
	if keys := strings.Split(last(t, s).Effect, "\n"); len(keys) != 500 || keys[499] != "import d499.example" {
		t.Errorf("the call knows %d effects", len(keys))
	}
	if all, _ := follow(t, s, "/api/indicators"); len(all) != 500 {
		t.Errorf("the list has %d indicators", len(all))
	}
}

func TestImportBody(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, test := range []struct{ body, code string }{
		{`{}`, "MissingRequiredParameter"},
		{`{"Indicators":null}`, "MissingRequiredParameter"},
		{`{"indicators":[]}`, "InvalidRequestBody"},
		{`{"Indicators":{}}`, "InvalidRequestBody"},
		{`{"Indicators":["x"]}`, "InvalidRequestBody"},
		{`{"Indicators":[{"IndicatorValue":"x"}]}`, "InvalidRequestBody"},
		{`{"Indicators":[`, "InvalidRequestBody"},
	} {
		call(t, s, "POST", "/api/indicators/import", test.body).want(t, 400, test.code)
	}
}

func TestIndicatorCapacity(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	for batch := range 30 {
		direct(s, "POST", "/api/indicators/import", domains(batch*500, 500)).want(t, 200, "")
	}
	direct(s, "POST", "/api/indicators", domain).want(t, 400, "BadRequest").
		wantMessage(t, "Max capacity exceeded. Current Total: 15000, Limit: 15000 (Parameter 'Capacity: 15000/15000')")
	// An update needs no room.
	direct(s, "POST", "/api/indicators", strings.Replace(domain, "a.example", "d7.example", 1)).want(t, 200, "")
}

func TestIndicatorBatchDelete(t *testing.T) {
	s := start(t, defendertest.Config{})
	call(t, s, "POST", "/api/indicators/import", domains(0, 3)).want(t, 200, "")
	path := "/api/indicators/BatchDelete"
	call(t, s, "POST", path, `{"IndicatorIds":["1","x"]}`).want(t, 404, "ResourceNotFound")
	call(t, s, "POST", path, `{"IndicatorIds":[]}`).want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", path, `{"indicatorIds":["1"]}`).want(t, 400, "InvalidRequestBody")
	call(t, s, "POST", path, `{"IndicatorIds":[`+strings.Repeat(`"1",`, 500)+`"1"]}`).want(t, 400, "MaximumBatchSizeExceeded")
	call(t, s, "POST", path, `{"IndicatorIds":["1","3","1"]}`).want(t, 204, "")
	if all, _ := follow(t, s, "/api/indicators"); !slices.Equal(all, []string{"2"}) {
		t.Errorf("the list has %v", all)
	}
	for _, effect := range []string{"delete 1", "delete 3"} {
		if n := s.Effects()[effect]; n != 1 {
			t.Errorf("%s: %d times", effect, n)
		}
	}
	call(t, s, "POST", path, `{"IndicatorIds":["1"]}`).want(t, 404, "ResourceNotFound")
}
