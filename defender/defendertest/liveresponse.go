package defendertest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxSessions is how many live response sessions a tenant may have, as
// documented.
const maxSessions = 25

// liveResponse is the type of an action that is a live response session.
const liveResponse = "LiveResponse"

// A command is one of a session, as it was ordered.
type command struct {
	Type       string             `json:"type"`
	Parameters []commandParameter `json:"params"`
}

// A commandParameter is a pair, as in {"key": "ScriptName", "value": "a.ps1"}.
type commandParameter struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// checkCommands wants the documented kinds, in the documented order: files are put
// before scripts run, and got after. What the order's violation is answered with
// isn't documented.
func (o actionOrder) checkCommands() error {
	if len(o.Commands) == 0 {
		return errMissing("Commands")
	}
	last := 0
	for _, data := range o.Commands {
		var c command
		if err := decode(data, &c); err != nil {
			return err
		}
		place := slices.Index([]string{"PutFile", "RunScript", "GetFile"}, c.Type)
		if place < 0 {
			return errInvalid("Invalid input %s: type is PutFile, RunScript or GetFile", c.Type)
		}
		if place < last {
			return errInvalid("Invalid input %s: commands are in the order PutFile, RunScript, GetFile", c.Type)
		}
		last = place
	}
	return nil
}

// A commandResult is a command as an action shows it.
type commandResult struct {
	Index   int        `json:"index"`
	Start   *time.Time `json:"startTime"`
	End     *time.Time `json:"endTime"`
	Status  string     `json:"commandStatus"` // Created or Completed
	Errors  []string   `json:"errors"`
	Command command    `json:"command"`
}

// newResults are the commands of a session that hasn't begun.
func newResults(o actionOrder) []commandResult {
	results := make([]commandResult, len(o.Commands))
	for i, data := range o.Commands {
		results[i] = commandResult{Index: i, Status: "Created", Errors: []string{}}
		// It was decoded once, by checkCommands.
		if err := decode(data, &results[i].Command); err != nil {
			panic("defendertest: " + err.Error())
		}
	}
	return results
}

// finish returns the commands of a session that has succeeded. They are copies:
// the kept ones stay as they were ordered.
func finish(results []commandResult, start, end time.Time) []commandResult {
	if results == nil {
		return nil // null: the action is no session
	}
	finished := make([]commandResult, len(results))
	for i, r := range results {
		r.Start, r.End, r.Status = &start, &end, "Completed"
		finished[i] = r
	}
	return finished
}

// checkSessions refuses a session beyond those that the tenant may have. It is a
// 429 as documented, but not one of the quota: when a session ends isn't known, so
// that it tells no wait.
func (t *tenant) checkSessions(now time.Time) error {
	running := 0
	for key, a := range t.lastAction {
		if key.kind == liveResponse && a.view(now, t.actionTime).active() {
			running++
		}
	}
	if running < maxSessions {
		return nil
	}
	return problem{http.StatusTooManyRequests, "TooManyRequests",
		fmt.Sprintf("Too many requests: %d live response sessions are running, which is the maximum", running)}
}

// resultFolder is where the storage has the results.
const resultFolder = "investigation-actions-data"

// linkMinutes is how long the link to a result is good for, as documented, in the
// quotas' minutes.
const linkMinutes = 30

// getResultLink answers with the link to the result of one command. A new link can
// be had at any time, without a new session.
func (t *tenant) getResultLink(r request) (answer, error) {
	a, err := lookup(t.actionByID, "Machine action", r.id)
	if err != nil {
		return answer{}, err
	}
	text, ok := strings.CutPrefix(r.arguments, "index=")
	index, err := integer(text)
	if !ok || err != nil {
		return answer{}, errInvalid("Invalid input %s: use GetLiveResponseResultDownloadLink(index=0)", r.arguments)
	}
	if _, err := t.result(a.ID, index); err != nil {
		return answer{}, err
	}
	url := t.link(r, fmt.Sprintf("/%s/%s/%d", resultFolder, a.ID, index), linkMinutes*t.minute)
	return textAnswer(r, url), nil
}

// result returns a command that has one. PutFile has none, as documented; 404 for
// it and for a session that isn't over is a guess.
func (t *tenant) result(id string, index int) (commandResult, error) {
	missing := problem{http.StatusNotFound, "NotFound", fmt.Sprintf("Machine action %s has no result of index %d", id, index)}
	a := t.actionByID[id]
	if a == nil || a.Type != liveResponse {
		return commandResult{}, missing
	}
	view := a.view(time.Now(), t.actionTime)
	if view.Status != "Succeeded" || index < 0 || index >= len(view.Commands) || view.Commands[index].Command.Type == "PutFile" {
		return commandResult{}, missing
	}
	return view.Commands[index], nil
}

// resultFile makes a result: the transcript of a script in its documented form, or
// what was in a file.
func (t *tenant) resultFile(name string) (answer, error) {
	id, text, _ := strings.Cut(name, "/")
	index, err := integer(text)
	if err != nil {
		return answer{}, errNotFound("File", name)
	}
	found, err := t.result(id, index)
	if err != nil {
		return answer{}, err
	}
	if found.Command.Type == "GetFile" {
		return answer{status: http.StatusOK, contentType: "application/octet-stream", body: []byte("the content of the file\n")}, nil
	}
	script := ""
	for _, p := range found.Command.Parameters {
		if p.Key == "ScriptName" {
			script = p.Value
		}
	}
	return done(http.StatusOK, struct {
		Script string `json:"script_name"`
		Exit   int    `json:"exit_code"`
		Output string `json:"script_output"`
		Errors string `json:"script_errors"`
	}{script, 0, "Transcript started\n", ""}), nil
}
