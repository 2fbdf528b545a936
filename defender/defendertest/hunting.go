package defendertest

import (
	"net/http"
	"time"
)

// A hunt is the body of a query. Its key is the documented example of one whose
// case matters: "query" is refused.
type hunt struct {
	Query string `json:"Query"`
}

// check doesn't look into the query, since nothing runs it.
func (h hunt) check() error {
	if h.Query == "" {
		return errMissing("Query")
	}
	return nil
}

// A column is one of a hunting answer's Schema.
type column struct {
	Name string `json:"Name"`
	Type string `json:"Type"`
}

// A device is a row of a hunting answer. The real columns depend on the query.
type device struct {
	Timestamp  time.Time `json:"Timestamp"`
	DeviceID   string    `json:"DeviceId"`
	DeviceName string    `json:"DeviceName"`
	OSPlatform string    `json:"OSPlatform"`
}

// runQuery answers every query with one row for each machine: a client can't
// tell, and a query language is another project. It only reads, though it is a
// POST, and so has no effect.
func (t *tenant) runQuery(r request) (answer, error) {
	if _, err := read[hunt](r.body); err != nil {
		return answer{}, err
	}
	rows := make([]device, len(t.machines))
	for i, m := range t.machines {
		rows[i] = device{m.LastSeen, m.ID, m.ComputerDNSName, m.OSPlatform}
	}
	return done(http.StatusOK, struct {
		Schema  []column `json:"Schema"`
		Results []device `json:"Results"`
	}{
		[]column{{"Timestamp", "DateTime"}, {"DeviceId", "String"}, {"DeviceName", "String"}, {"OSPlatform", "String"}},
		rows,
	}), nil
}
