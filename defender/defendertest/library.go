package defendertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"
)

const (
	// maxLibraryFile is the documented size of a file.
	maxLibraryFile = 20 << 20

	// maxUpload bounds what is read of an upload. It lies well above, so that
	// who sends a little too much gets an answer, and not a broken connection.
	maxUpload = 32 << 20
)

// A libraryFile is a file for live response. Its content isn't kept.
type libraryFile struct {
	Name        string    `json:"fileName"`
	SHA256      string    `json:"sha256"`
	Description string    `json:"description"`
	Created     time.Time `json:"creationTime"`
	Updated     time.Time `json:"lastUpdatedTime"`
	CreatedBy   string    `json:"createdBy"`
	HasParams   bool      `json:"hasParameters"`
	Params      string    `json:"parametersDescription"`
}

// properties have the hash: it tells which upload's content is there.
func (f libraryFile) properties() map[string]string {
	return map[string]string{"fileName": f.Name, "sha256": f.SHA256}
}

// errFileSize has the status that is documented for whatever is wrong with an
// upload. The code is a guess.
func errFileSize() problem {
	return problem{http.StatusBadRequest, "BadRequest", fmt.Sprintf("The file is too large: at most %d MB are allowed", maxLibraryFile>>20)}
}

// A form is an upload's, with its file.
type form struct {
	fields  map[string]string // by name in lower case
	name    string            // of the file; "" if there is none
	content []byte
}

// readForm reads a multipart form. The names of its fields are written in several
// ways by the documentation, so that their case can't count, other than in JSON.
func readForm(contentType string, body []byte) (form, error) {
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" {
		return form{}, errIncorrectBody()
	}
	f := form{fields: make(map[string]string)}
	// The body is bounded, and so is all that is read here.
	for reader := multipart.NewReader(bytes.NewReader(body), parameters["boundary"]); ; {
		part, err := reader.NextPart()
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			return form{}, errIncorrectBody()
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return form{}, errIncorrectBody()
		}
		if name := strings.ToLower(part.FormName()); name != "file" {
			f.fields[name] = string(content)
			continue
		}
		f.name, f.content = part.FileName(), content
	}
}

// truth reads a flag of the form as .NET does.
func (f form) truth(name string) bool { return strings.EqualFold(f.fields[name], "true") }

// upload adds a file to the library. A second one of the same name is an error,
// unless OverrideIfExists is set, which makes a retry harmless.
func (t *tenant) upload(r request) (answer, error) {
	f, err := readForm(r.contentType, r.body)
	if err != nil {
		return answer{}, err
	}
	switch {
	case f.name == "":
		return answer{}, errMissing("File")
	case strings.ContainsAny(f.name, "\r\n"): // would split the ledger's line
		return answer{}, errInvalid("Invalid input: the file's name has a line break")
	case len(f.content) > maxLibraryFile:
		return answer{}, errFileSize()
	}
	known, now := t.uploadByName[f.name], time.Now().UTC()
	if known != nil && !f.truth("overrideifexists") {
		return answer{}, problem{http.StatusBadRequest, "BadRequest", "File " + f.name + " already exists in the library"}
	}
	if known == nil {
		known = &libraryFile{Name: f.name, Created: now, CreatedBy: requestor}
		t.uploads = append(t.uploads, known)
		t.uploadByName[f.name] = known
	}
	sum := sha256.Sum256(f.content)
	known.SHA256, known.Updated = hex.EncodeToString(sum[:]), now
	known.Description, known.Params, known.HasParams = f.fields["description"], f.fields["parametersdescription"], f.truth("hasparameters")
	return done(http.StatusOK, known, "upload "+f.name), nil
}

// listLibrary shows what a lost answer's upload came to.
func (t *tenant) listLibrary(r request) (answer, error) {
	return listAnswer(r, "LibraryFiles", values(t.uploads), t.pageSize)
}
