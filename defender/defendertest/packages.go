package defendertest

import (
	"archive/zip"
	"bytes"
	"net/http"
	"strings"
	"time"
)

// packageFolder is where the storage has the investigation packages.
const packageFolder = "safedownload"

// getPackageURI answers 404 until the package is there, as documented: to a client
// that is "not yet" and not "no". With two calls a minute it had better poll the
// action. The link is in quotes inside of the string, as in the documented
// example. How long it is good for isn't documented but as "a short time".
func (t *tenant) getPackageURI(r request) (answer, error) {
	a, err := lookup(t.actionByID, "Machine action", r.id)
	if err != nil {
		return answer{}, err
	}
	if err := t.checkPackage(a); err != nil {
		return answer{}, err
	}
	url := t.link(r, "/"+packageFolder+"/"+a.ID+".zip", linkMinutes*t.minute)
	return textAnswer(r, `"`+url+`"`), nil
}

// checkPackage finds actions that have no package, or none yet.
func (t *tenant) checkPackage(a *action) error {
	if a.Type == "CollectInvestigationPackage" && a.view(time.Now(), t.actionTime).Status == "Succeeded" {
		return nil
	}
	return problem{http.StatusNotFound, "NotFound", "Machine action " + a.ID + " has no package"}
}

// textAnswer is OData's form of a single string.
func textAnswer(r request, text string) answer {
	return done(http.StatusOK, struct {
		Context string `json:"@odata.context"`
		Value   string `json:"value"`
	}{r.metadata("Edm.String"), text})
}

// packageFile makes a package: an archive with one file, which names the machine.
func (t *tenant) packageFile(name string) (answer, error) {
	id, _ := strings.CutSuffix(name, ".zip")
	a, err := lookup(t.actionByID, "Machine action", id)
	if err != nil {
		return answer{}, err
	}
	if err := t.checkPackage(a); err != nil {
		return answer{}, err
	}
	var archive bytes.Buffer
	writer := zip.NewWriter(&archive)
	file, err := writer.Create("SystemInformation.txt")
	if err == nil {
		_, err = file.Write([]byte("Host Name: " + a.DNSName + "\r\n"))
	}
	if err == nil {
		err = writer.Close()
	}
	if err != nil {
		panic("defendertest: " + err.Error()) // a buffer takes everything
	}
	return answer{status: http.StatusOK, contentType: "application/zip", body: archive.Bytes()}, nil
}
