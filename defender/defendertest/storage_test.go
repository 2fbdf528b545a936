package defendertest_test

import (
	"compress/gzip"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// An exported is the answer of an export via files.
type exported struct {
	ExportFiles   []string
	GeneratedTime time.Time
}

const exportPath = "/api/machines/SoftwareVulnerabilitiesExport"

// download gets a URL over real HTTP. Headers come in pairs.
func download(t *testing.T, address string, headers ...string) (reply, error) {
	t.Helper()
	req, err := http.NewRequest("GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := newClient().Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return newReply(resp, body), err
}

// directly gets a URL without a socket.
func directly(s *defendertest.Server, address string) reply {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", address, nil))
	return newReply(w.Result(), w.Body.Bytes())
}

// wantRefused fails unless the storage refused a download in its own form.
func wantRefused(t *testing.T, r reply, status int, code, detail string) {
	t.Helper()
	var e struct {
		XMLName                                  xml.Name `xml:"Error"`
		Code, Message, AuthenticationErrorDetail string
	}
	if err := xml.Unmarshal(r.body, &e); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	if r.status != status || e.Code != code || r.header.Get("x-ms-error-code") != code ||
		!strings.Contains(e.Message, "\nRequestId:"+r.header.Get("x-ms-request-id")+"\nTime:") ||
		!strings.HasPrefix(e.AuthenticationErrorDetail, detail) || detail == "" && e.AuthenticationErrorDetail != "" {
		t.Errorf("got %d %s", r.status, r.body)
	}
	if kind := r.header.Get("Content-Type"); kind != "application/xml" {
		t.Errorf("Content-Type is %q", kind)
	}
}

// A download needs its URL and nothing else; an Authorization header spoils it.
func TestStorageRefusesAuthorization(t *testing.T) {
	s := start(t, defendertest.Config{Clients: clients()})
	token := "Bearer " + fetch(t, s).AccessToken
	files := decode[exported](t, call(t, s, "GET", exportPath, "", "Authorization", token).want(t, 200, "")).ExportFiles
	if len(files) != 1 {
		t.Fatalf("got files %v", files)
	}
	address, err := url.Parse(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if s.StorageURL == s.URL || !strings.HasPrefix(files[0], s.StorageURL+"/") {
		t.Errorf("%s isn't on the storage %s, or that is on the API's %s", files[0], s.StorageURL, s.URL)
	}
	if query := address.Query(); query.Get("sig") == "" || query.Get("se") == "" {
		t.Errorf("no sig or se in %s", files[0])
	}
	r, err := download(t, files[0], "Authorization", token)
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, r, 403, "AuthenticationFailed", "")
	if c := last(t, s); c.Family != "storage" || c.Status != 403 || c.Code != "AuthenticationFailed" || c.Target != r.header.Get("x-ms-request-id") || c.Processed {
		t.Errorf("the ledger says %+v", c)
	}
	if r, err = download(t, files[0]); err != nil || r.status != 200 {
		t.Fatalf("got %d and error %v: %s", r.status, err, r.body)
	}
	if c := last(t, s); c.Family != "storage" || c.Status != 200 || !c.Processed || c.Path != address.Path {
		t.Errorf("the ledger says %+v", c)
	}
}

// What isn't signed as it stands isn't answered.
func TestStorageSignature(t *testing.T) {
	s := start(t, defendertest.Config{Machines: 101})
	files := decode[exported](t, call(t, s, "GET", exportPath, "").want(t, 200, "")).ExportFiles
	if len(files) != 2 {
		t.Fatalf("got files %v", files)
	}
	first, query, _ := strings.Cut(files[0], "?")
	second, _, _ := strings.Cut(files[1], "?")
	for _, wrong := range []string{
		first, second + "?" + query, strings.Replace(files[0], "se=2", "se=3", 1), strings.Replace(files[0], "sig=", "sig=x", 1),
		s.StorageURL + "/", s.StorageURL + "/api/machines",
	} {
		if wrong == files[0] {
			t.Fatalf("%s is right", wrong)
		}
		r, err := download(t, wrong)
		if err != nil {
			t.Fatal(err)
		}
		wantRefused(t, r, 403, "AuthenticationFailed", "Signature did not match.")
	}
	resp, err := newClient().Post(files[0], "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("a POST is answered %d", resp.StatusCode)
	}
}

// The URLs of an export last an hour or as many as were asked for, scaled.
func TestStorageExpires(t *testing.T) {
	for _, test := range []struct {
		query string
		hour  time.Duration
		life  time.Duration
	}{
		{"", 0, time.Hour},
		{"?sasValidHours=6", 0, 6 * time.Hour},
		{"", 90 * time.Millisecond, 90 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := defendertest.NewUnstartedServer(defendertest.Config{Hour: test.hour})
			file := decode[exported](t, direct(s, "GET", exportPath+test.query, "").want(t, 200, "")).ExportFiles[0]
			time.Sleep(test.life - 1)
			directly(s, file).want(t, 200, "")
			time.Sleep(time.Nanosecond)
			wantRefused(t, directly(s, file), 403, "AuthenticationFailed", "Signature not valid in the specified time frame: Start [")
		})
	}
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	for _, hours := range []string{"0", "7", "x"} {
		direct(s, "GET", exportPath+"?sasValidHours="+hours, "").want(t, 400, "InvalidInput")
	}
}

// Without a socket the storage is known by its host.
func TestStorageWithoutSocket(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	file := decode[exported](t, direct(s, "GET", exportPath, "").want(t, 200, "")).ExportFiles[0]
	if !strings.HasPrefix(file, "http://storage.invalid/") {
		t.Errorf("the file is at %s", file)
	}
	directly(s, file).want(t, 200, "")
	// The same path on another host is none.
	directly(s, strings.Replace(file, "storage.invalid", "tenant.example", 1)).want(t, 404, "NotFound")
}

// A server behind other sockets has its storage where it is told to.
func TestStorageURLOfOthers(t *testing.T) {
	s := defendertest.NewUnstartedServer(defendertest.Config{})
	api, storage := httptest.NewServer(s), httptest.NewServer(s)
	defer api.Close()
	defer storage.Close()
	s.StorageURL = storage.URL
	r, err := download(t, api.URL+exportPath)
	if err != nil {
		t.Fatal(err)
	}
	file := decode[exported](t, r.want(t, 200, "")).ExportFiles[0]
	if r, err = download(t, file); err != nil || r.status != 200 || !strings.HasPrefix(file, storage.URL) {
		t.Errorf("%s: got %d and error %v", file, r.status, err)
	}
}

// Downloads are no calls of the API.
func TestStorageHasNoQuota(t *testing.T) {
	s := start(t, defendertest.Config{})
	file := decode[exported](t, call(t, s, "GET", exportPath, "").want(t, 200, "")).ExportFiles[0]
	for range 200 {
		if r, err := download(t, file); err != nil || r.status != 200 {
			t.Fatalf("got %d and error %v", r.status, err)
		}
	}
	for range 4 {
		call(t, s, "GET", exportPath, "").want(t, 200, "")
	}
	call(t, s, "GET", exportPath, "").want(t, 429, "429")
}

// Faults strike downloads too, in the storage's form.
func TestStorageFaults(t *testing.T) {
	s := start(t, defendertest.Config{})
	file := decode[exported](t, call(t, s, "GET", exportPath, "").want(t, 200, "")).ExportFiles[0]
	for _, test := range []struct {
		faults defendertest.Faults
		status int
		code   string
	}{
		{defendertest.Faults{Error500: 1}, 500, "InternalError"},
		{defendertest.Faults{After500: 1}, 500, "InternalError"},
		{defendertest.Faults{Error503: 1}, 503, "ServerBusy"},
	} {
		s.SetFaults(test.faults)
		r, err := download(t, file)
		if err != nil {
			t.Fatal(err)
		}
		wantRefused(t, r, test.status, test.code, "")
	}
	s.SetFaults(defendertest.Faults{BreakBody: 1})
	if r, err := download(t, file); !errors.Is(err, io.ErrUnexpectedEOF) || r.status != 200 {
		t.Errorf("got %d and error %v", r.status, err)
	}
	s.SetFaults(defendertest.Faults{ResetBefore: 1})
	_, err := download(t, file)
	wantReset(t, err)
}

// lines reads a file of an export.
func lines(t *testing.T, file []byte) []string {
	t.Helper()
	reader, err := gzip.NewReader(strings.NewReader(string(file)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
