package defendertest_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
	"github.com/steadyhttp/steadyhttp/quota"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func TestDefaultQuotas(t *testing.T) {
	for family, want := range map[string][]quota.Window{
		"machines": {{N: 100, Per: time.Minute},
			{N: 1500, Per: time.Hour}},
		"machines/{id}/vulnerabilities": {{N: 50, Per: time.Minute},
			{N: 1500, Per: time.Hour}},
		"machines/{id}/startInvestigation": {{N: 50, Per: time.Hour}},
		"machines/{id}/runliveresponse":    {{N: 10, Per: time.Minute}},
		"alerts/batchUpdate": {{N: 10, Per: time.Minute},
			{N: 500, Per: time.Hour}},
		"indicators/import": {{N: 30, Per: time.Minute}},
		"indicators/BatchDelete": {{N: 30, Per: time.Minute},
			{N: 1500, Per: time.Hour}},
		"advancedqueries/run": {{N: 45, Per: time.Minute},
			{N: 1500, Per: time.Hour}},
		"machineactions/{id}/getPackageUri": {{N: 2, Per: time.Minute}, {N: 120, Per: time.Hour}},
		"machines/SoftwareVulnerabilitiesByMachine": {{N: 30, Per: time.Minute},
			{N: 1000, Per: time.Hour}},
		"machines/SoftwareVulnerabilitiesExport": {{N: 5, Per: time.Minute}, {N: 20, Per: time.Hour}},
		"incidents": {{N: 50, Per: time.Minute},
			{N: 1500, Per: time.Hour}},
	} {
		if got := defendertest.DefaultQuotas()[family]; !slices.Equal(got, want) {
			t.Errorf("%s: got %+v, want %+v", family, got, want)
		}
	}
	defendertest.DefaultQuotas()["machines"] = nil
	changed := defendertest.DefaultQuotas()
	changed["machines/{id}"][0].N = 1
	if got := changed["alerts"][0].N; got != 100 {
		t.Errorf("families share their windows: %d", got)
	}
	if got := defendertest.DefaultQuotas(); got["machines"] == nil || got["machines/{id}"][0].N != 100 {
		t.Error("DefaultQuotas isn't a copy")
	}
}

// Every family that is documented must be reached by a route, and no other.
func TestFamiliesAreServed(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	for _, c := range []struct{ method, path string }{
		{"GET", "alerts"}, {"GET", "alerts/x"}, {"POST", "alerts/batchUpdate"}, {"GET", "machines"}, {"GET", "machines/x"},
		{"POST", "machines/AddOrRemoveTagForMultipleMachines"}, {"GET", "machines/x/vulnerabilities"}, {"POST", "machines/x/isolate"},
		{"POST", "machines/x/startInvestigation"}, {"POST", "machines/x/runliveresponse"}, {"GET", "machineactions"},
		{"POST", "machineactions/x/cancel"}, {"GET", "indicators"}, {"DELETE", "indicators/x"}, {"POST", "indicators/import"},
		{"POST", "indicators/BatchDelete"}, {"POST", "advancedqueries/run"}, {"POST", "advancedhunting/run"},
		{"GET", "incidents"}, {"GET", "incidents/x"}, {"PATCH", "incidents/x"},
		{"GET", "machineactions/x/getPackageUri"}, {"GET", "machineactions/x/GetLiveResponseResultDownloadLink(index=0)"},
		{"GET", "machines/SoftwareVulnerabilitiesByMachine"}, {"GET", "machines/SoftwareVulnerabilitiesExport"},
	} {
		direct(s, c.method, "/api/"+c.path, "")
	}
	for _, c := range []struct{ method, path string }{
		{"GET", "alerts_v2"}, {"PATCH", "incidents/x"}, {"POST", "runHuntingQuery"},
	} {
		direct(s, c.method, "/v1.0/security/"+c.path, "")
	}
	unseen := defendertest.DefaultQuotas()
	for _, c := range s.Calls() {
		if _, ok := unseen[c.Family]; !ok {
			t.Errorf("%s %s is of family %q", c.Method, c.Path, c.Family)
		}
		delete(unseen, c.Family)
	}
	if len(unseen) != 0 {
		t.Errorf("no route leads to %v", unseen)
	}
}

func TestQuotaText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{})
		const empty = `{"Indicators":[]}`
		for i := range 30 {
			if i == 1 {
				time.Sleep(52 * time.Second)
			}
			direct(s, "POST", "/api/indicators/import", empty).want(t, 200, "")
		}
		r := direct(s, "POST", "/api/indicators/import", empty).want(t, 429, "429")
		r.wantMessage(t, "API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 8 seconds.")
		if got := r.header.Values("Retry-After"); len(got) != 1 || got[0] != "8" {
			t.Errorf("Retry-After is %v, want 8", got)
		}
		if c := last(t, s); c.Processed || c.Status != 429 || c.Code != "429" || c.Target != r.target {
			t.Errorf("the ledger says %+v", c)
		}
		// Another family has a quota of its own.
		direct(s, "GET", "/api/machines", "").want(t, 200, "")
		time.Sleep(8*time.Second - 1)
		direct(s, "POST", "/api/indicators/import", empty).want(t, 429, "429")
		time.Sleep(time.Nanosecond)
		direct(s, "POST", "/api/indicators/import", empty).want(t, 200, "")
	})
}

// Both windows hold at once, and a call refused by one isn't counted in the other.
func TestQuotaMinuteAndHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{Machines: 1})
		begin, sent := time.Now(), 0
		for minute := range 15 {
			for range 100 {
				direct(s, "GET", "/api/machines", "").want(t, 200, "")
				sent++
			}
			// The minute is full; from the 15th on the hour is, too.
			r := direct(s, "GET", "/api/machines", "").want(t, 429, "429")
			text := "Maximum allowed 100 per 00:01:00"
			if minute == 14 {
				text = "Maximum allowed 1500 per 01:00:00"
			}
			if !regexp.MustCompile(text).MatchString(r.message) {
				t.Fatalf("minute %d: %s", minute, r.message)
			}
			time.Sleep(time.Minute)
		}
		if sent != 1500 {
			t.Fatalf("sent %d", sent)
		}
		r := direct(s, "GET", "/api/machines", "").want(t, 429, "429")
		if want := strconv.Itoa(45 * 60); r.header.Get("Retry-After") != want {
			t.Errorf("Retry-After is %s, want %s", r.header.Get("Retry-After"), want)
		}
		time.Sleep(time.Until(begin.Add(time.Hour)))
		for range 100 {
			direct(s, "GET", "/api/machines", "").want(t, 200, "")
		}
		direct(s, "GET", "/api/machines", "").want(t, 429, "429")
	})
}

// The text names the documented window whatever it is scaled to, and the wait
// is the real one, rounded up.
func TestQuotaScaled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			Minute: 150 * time.Millisecond, Hour: 10 * time.Second,
			Quotas: map[string][]quota.Window{"machines": {{N: 2, Per: time.Minute}, {N: 3, Per: time.Hour}}},
		})
		for range 2 {
			direct(s, "GET", "/api/machines", "").want(t, 200, "")
		}
		direct(s, "GET", "/api/machines", "").want(t, 429, "429").wantMessage(t,
			"API calls quota exceeded! Maximum allowed 2 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 1 seconds.")
		time.Sleep(150 * time.Millisecond)
		direct(s, "GET", "/api/machines", "").want(t, 200, "")
		direct(s, "GET", "/api/machines", "").want(t, 429, "429").wantMessage(t,
			"API calls quota exceeded! Maximum allowed 3 per 01:00:00 for the key Destination+TenantID+AppID. You can send requests again in 10 seconds.")
	})
}

// Windows of any length are scaled: from an hour on by Hour, and below by Minute.
func TestQuotaOfAnyWindow(t *testing.T) {
	for _, c := range []struct {
		per, lasts time.Duration
		text       string
	}{
		{30 * time.Second, time.Second, "00:00:30"},
		{time.Minute, 2 * time.Second, "00:01:00"},
		{90 * time.Second, 3 * time.Second, "00:01:30"},
		{59 * time.Minute, 118 * time.Second, "00:59:00"},
		{time.Hour, 20 * time.Second, "01:00:00"},
		{90 * time.Minute, 30 * time.Second, "01:30:00"},
		{24 * time.Hour, 480 * time.Second, "24:00:00"},
		{1, 1, "00:00:00"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := defendertest.NewUnstartedServer(defendertest.Config{
				Minute: 2 * time.Second, Hour: 20 * time.Second,
				Quotas: map[string][]quota.Window{"machines": {{N: 1, Per: c.per}}},
			})
			direct(s, "GET", "/api/machines", "").want(t, 200, "")
			time.Sleep(c.lasts - 1)
			direct(s, "GET", "/api/machines", "").want(t, 429, "429").wantMessage(t,
				"API calls quota exceeded! Maximum allowed 1 per "+c.text+
					" for the key Destination+TenantID+AppID. You can send requests again in 1 seconds.")
			time.Sleep(time.Nanosecond)
			direct(s, "GET", "/api/machines", "").want(t, 200, "")
		})
	}
}

func TestNoQuotas(t *testing.T) {
	one := map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}}
	none := map[string][]quota.Window{"machines": {}}
	for _, c := range []defendertest.Config{{NoQuotas: true, Quotas: one}, {Quotas: none}} {
		s := defendertest.NewUnstartedServer(c)
		for range 200 {
			direct(s, "GET", "/api/machines", "").want(t, 200, "")
		}
	}
}

func TestWaitForms(t *testing.T) {
	const sentence = " You can send requests again in 60 seconds."
	for _, test := range []struct {
		form     defendertest.WaitForm
		values   int
		date     bool
		sentence bool
	}{
		{0, 1, false, true},
		{defendertest.WaitHeader, 1, false, false},
		{defendertest.WaitSentence, 0, false, true},
		{defendertest.WaitDate, 1, true, false},
		{defendertest.WaitDate | defendertest.WaitSentence, 1, true, true},
		{defendertest.WaitHeader | defendertest.WaitDate, 2, true, false},
		{defendertest.WaitNowhere, 0, false, false},
		{defendertest.WaitNowhere | defendertest.WaitHeader, 0, false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := defendertest.NewUnstartedServer(defendertest.Config{
				Wait: test.form, Quotas: map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}},
			})
			time.Sleep(300 * time.Millisecond)
			direct(s, "GET", "/api/machines", "").want(t, 200, "")
			time.Sleep(500 * time.Microsecond)
			r := direct(s, "GET", "/api/machines", "").want(t, 429, "429")
			message := "API calls quota exceeded! Maximum allowed 1 per 00:01:00 for the key Destination+TenantID+AppID."
			if test.sentence {
				message += sentence
			}
			r.wantMessage(t, message)
			values := r.header.Values("Retry-After")
			if len(values) != test.values {
				t.Fatalf("form %b: Retry-After is %v", test.form, values)
			}
			if test.date {
				wantDate(t, r.header, values[len(values)-1])
			} else if test.values == 1 && values[0] != "60" {
				t.Errorf("Retry-After is %v", values)
			}
		})
	}
}

// wantDate: the wait ends at a fraction of a second, so that the date is the next
// whole one, and no earlier as told by the server's own Date.
func wantDate(t *testing.T, header http.Header, value string) {
	t.Helper()
	until, err := http.ParseTime(value)
	if err != nil {
		t.Fatal(err)
	}
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	passes := time.Now().Add(time.Minute - 500*time.Microsecond)
	if early := passes.Sub(until); early > 0 || early <= -time.Second {
		t.Errorf("the date %v is %v before %v", until, early, passes)
	}
	if until.Sub(date) != 61*time.Second {
		t.Errorf("from %v to %v is %v", date, until, until.Sub(date))
	}
}

// A wait that ends on a whole second is told as it is.
func TestWaitDateOnTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defendertest.NewUnstartedServer(defendertest.Config{
			Wait: defendertest.WaitDate, Quotas: map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}},
		})
		direct(s, "GET", "/api/machines", "").want(t, 200, "")
		want := time.Now().Add(time.Minute)
		time.Sleep(100 * time.Millisecond)
		r := direct(s, "GET", "/api/machines", "").want(t, 429, "429")
		if until, err := http.ParseTime(r.header.Get("Retry-After")); err != nil || !until.Equal(want) {
			t.Errorf("got %v and error %v, want %v", until, err, want)
		}
	})
}

// Over a socket net/http must leave the Date alone.
func TestWaitDateOverHTTP(t *testing.T) {
	s := start(t, defendertest.Config{
		Wait: defendertest.WaitDate, Quotas: map[string][]quota.Window{"machines": {{N: 1, Per: time.Minute}}},
	})
	call(t, s, "GET", "/api/machines", "").want(t, 200, "")
	r := call(t, s, "GET", "/api/machines", "").want(t, 429, "429")
	date, errDate := http.ParseTime(r.header.Get("Date"))
	until, errUntil := http.ParseTime(r.header.Get("Retry-After"))
	if errDate != nil || errUntil != nil || len(r.header.Values("Date")) != 1 {
		t.Fatalf("headers are %v", r.header)
	}
	if d := until.Sub(date); d < 59*time.Second || d > 61*time.Second {
		t.Errorf("from %v to %v is %v", date, until, d)
	}
}

func TestFaultedCallsCount(t *testing.T) {
	s := start(t, defendertest.Config{
		Quotas: map[string][]quota.Window{"machines": {{N: 3, Per: time.Minute}}},
		Faults: defendertest.Faults{Error503: 1},
	})
	for range 3 {
		call(t, s, "GET", "/api/machines", "").want(t, 503, "ServiceUnavailable")
	}
	call(t, s, "GET", "/api/machines", "").want(t, 429, "429")
	if c := last(t, s); c.Fault != "" {
		t.Errorf("a refused call has the fault %q", c.Fault)
	}
}
