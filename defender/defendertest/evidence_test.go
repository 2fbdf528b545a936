package defendertest_test

import (
	"slices"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// What an alert was raised by leads back to it, and to its machine.
func TestEvidenceBothWays(t *testing.T) {
	s := start(t, defendertest.Config{})
	host := decode[list[struct{ Host string }]](t, call(t, s, "GET", "/api/alerts/a0007/domains", "").want(t, 200, "")).Value[0].Host
	file := decode[list[struct{ SHA1, SHA256 string }]](t, call(t, s, "GET", "/api/alerts/a0007/files", "").want(t, 200, "")).Value[0]
	address := decode[list[identified]](t, call(t, s, "GET", "/api/alerts/a0007/ips", "").want(t, 200, "")).Value[0].ID
	user := decode[struct{ AccountName string }](t, call(t, s, "GET", "/api/alerts/a0007/user", "").want(t, 200, "")).AccountName
	if m := decode[identified](t, call(t, s, "GET", "/api/alerts/a0007/machine", "").want(t, 200, "")); m.ID != "m0007" {
		t.Errorf("the machine is %s", m.ID)
	}
	logged := decode[list[struct{ AccountName string }]](t, call(t, s, "GET", "/api/machines/m0007/logonusers", "").want(t, 200, "")).Value
	if len(logged) != 1 || logged[0].AccountName != user {
		t.Errorf("the users are %v, want %s", logged, user)
	}
	for path, want := range map[string]string{
		"machines/m0007/alerts":              "a0007",
		"domains/" + host + "/alerts":        "a0007",
		"domains/" + host + "/machines":      "m0007",
		"files/" + file.SHA1 + "/alerts":     "a0007",
		"files/" + file.SHA256 + "/machines": "m0007",
		"ips/" + address + "/alerts":         "a0007",
		"users/" + user + "/alerts":          "a0007",
		"users/" + user + "/machines":        "m0007",
	} {
		if got := ids(decode[list[identified]](t, call(t, s, "GET", "/api/"+path, "").want(t, 200, "")).Value); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v, want %s", path, got, want)
		}
	}
	for _, path := range []string{"domains/" + host, "files/" + file.SHA1, "ips/" + address} {
		r := call(t, s, "GET", "/api/"+path+"/stats?lookBackHours=48", "").want(t, 200, "")
		if got := decode[map[string]any](t, r); got["organizationPrevalence"] != 1.0 || got["orgFirstSeen"] == nil {
			t.Errorf("%s: got %s", path, r.body)
		}
		call(t, s, "GET", "/api/"+path+"/stats?lookBackHours=721", "").want(t, 400, "ODataError")
	}
	got := decode[struct{ SHA1 string }](t, call(t, s, "GET", "/api/files/"+file.SHA256, "").want(t, 200, ""))
	if got.SHA1 != file.SHA1 {
		t.Errorf("the file is %s, want %s", got.SHA1, file.SHA1)
	}
}

// What nobody has seen is nothing, but for a file, which is 404.
func TestEvidenceUnknown(t *testing.T) {
	s := start(t, defendertest.Config{})
	for _, path := range []string{"domains/x.example/alerts", "domains/x.example/machines", "ips/192.0.2.1/alerts", "users/nobody/alerts", "users/nobody/machines"} {
		if got := decode[list[identified]](t, call(t, s, "GET", "/api/"+path, "").want(t, 200, "")).Value; got == nil || len(got) != 0 {
			t.Errorf("%s: got %v", path, got)
		}
	}
	for _, path := range []string{"domains/x.example/stats", "ips/2001:db8::1/stats"} {
		r := call(t, s, "GET", "/api/"+path, "").want(t, 200, "")
		if got := decode[map[string]any](t, r); got["organizationPrevalence"] != 0.0 || got["orgFirstSeen"] != nil {
			t.Errorf("%s: got %s", path, r.body)
		}
	}
	const hash = "da39a3ee5e6b4b0d3255bfef95601890afd80709"
	for _, rest := range []string{"", "/stats", "/alerts", "/machines"} {
		call(t, s, "GET", "/api/files/"+hash+rest, "").want(t, 404, "ResourceNotFound")
		call(t, s, "GET", "/api/files/xyz"+rest, "").want(t, 400, "InvalidHashValue")
	}
	call(t, s, "GET", "/api/ips/1.2.3/stats", "").want(t, 400, "InvalidIpAddress")
	call(t, s, "GET", "/api/ips/1.2.3/alerts", "").want(t, 400, "InvalidIpAddress")
	for _, rest := range []string{"domains", "files", "ips", "machine", "user"} {
		call(t, s, "GET", "/api/alerts/x/"+rest, "").want(t, 404, "ResourceNotFound")
	}
	call(t, s, "GET", "/api/machines/x/alerts", "").want(t, 404, "ResourceNotFound")
	call(t, s, "GET", "/api/machines/x/logonusers", "").want(t, 404, "ResourceNotFound")
}
