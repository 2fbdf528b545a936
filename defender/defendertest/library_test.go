package defendertest_test

import (
	"bytes"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/defender/defendertest"
)

// upload sends a file. Fields come in pairs of name and value.
func upload(t *testing.T, s *defendertest.Server, name, content string, fields ...string) reply {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	if name != "" {
		part, err := form.CreateFormFile("file", name)
		if err != nil {
			t.Fatal(err)
		}
		part.Write([]byte(content))
	}
	for i := 0; i < len(fields); i += 2 {
		form.WriteField(fields[i], fields[i+1])
	}
	form.Close()
	return call(t, s, "POST", "/api/libraryfiles", body.String(), "Content-Type", form.FormDataContentType())
}

// A second upload is an error, unless it may override.
func TestLibraryUpload(t *testing.T) {
	s := start(t, defendertest.Config{})
	type file struct {
		FileName, SHA256, Description string
		HasParameters                 bool
	}
	first := decode[file](t, upload(t, s, "a.ps1", "one", "Description", "d", "HasParameters", "true").want(t, 200, ""))
	if first.FileName != "a.ps1" || first.SHA256 != "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" || first.Description != "d" || !first.HasParameters {
		t.Errorf("got %+v", first)
	}
	upload(t, s, "a.ps1", "two").want(t, 400, "BadRequest")
	upload(t, s, "a.ps1", "two", "OverrideIfExists", "false").want(t, 400, "BadRequest")
	if again := decode[file](t, upload(t, s, "a.ps1", "two", "OverrideIfExists", "true").want(t, 200, "")); again.SHA256 == first.SHA256 {
		t.Error("the file wasn't overridden")
	}
	upload(t, s, "b.ps1", "one").want(t, 200, "")
	if all := decode[list[file]](t, call(t, s, "GET", "/api/libraryfiles", "").want(t, 200, "")).Value; len(all) != 2 || all[0].FileName != "a.ps1" {
		t.Errorf("the library has %+v", all)
	}
	wantEffects(t, s, map[string]int{"upload a.ps1": 2, "upload b.ps1": 1})
}

func TestLibraryUploadRefusals(t *testing.T) {
	s := start(t, defendertest.Config{})
	upload(t, s, "", "", "Description", "d").want(t, 400, "MissingRequiredParameter")
	call(t, s, "POST", "/api/libraryfiles", `{"File":"x"}`, "Content-Type", "application/json").want(t, 400, "InvalidRequestBody")
	call(t, s, "POST", "/api/libraryfiles", "x").want(t, 400, "InvalidRequestBody")
	call(t, s, "POST", "/api/libraryfiles", "--b\r\nbroken", "Content-Type", "multipart/form-data; boundary=b").want(t, 400, "InvalidRequestBody")
	wantEffects(t, s, map[string]int{})
}

// 20 MB are a file, and a byte more is none.
func TestLibraryFileSize(t *testing.T) {
	s := start(t, defendertest.Config{})
	upload(t, s, "a.bin", strings.Repeat("x", 20<<20)).want(t, 200, "")
	upload(t, s, "b.bin", strings.Repeat("x", 20<<20+1)).want(t, 400, "BadRequest")
	if r := direct(s, "POST", "/api/libraryfiles", strings.Repeat("x", 33<<20)); r.status != 400 || r.code != "BadRequest" {
		t.Errorf("got %d %s", r.status, r.body)
	}
	wantEffects(t, s, map[string]int{"upload a.bin": 1})
}
