package defendertest

import (
	"net/http"
	"strings"
	"time"
)

// huntingCycle is how many minutes a cycle of the CPU quota has, as documented.
const huntingCycle = 15

// The markers of queries that fail. Nothing runs a query, so that one must say
// itself what is wrong with it; to a real service it would be a comment.
const (
	tooLong  = "// defendertest: too long"
	tooLarge = "// defendertest: too large"
)

// A hunt is the body of a query. Its key is the documented example of one whose
// case matters: "query" is refused.
type hunt struct {
	Query string `json:"Query"`
}

// check looks for markers only, since nothing runs the query. Both failures are
// final for it: a retry costs as much and fails as well. The text of the first was
// observed of another API for the same data, that of the second is documented.
func (h hunt) check() error {
	switch {
	case h.Query == "":
		return errMissing("Query")
	case strings.Contains(h.Query, tooLong):
		return problem{http.StatusBadRequest, "BadRequest", "Query execution has exceeded the allowed limits. The query execution was preempted. Optimize your query and try again."}
	case strings.Contains(h.Query, tooLarge):
		return problem{http.StatusBadRequest, "BadRequest", "Query execution has exceeded the allowed result size. Optimize your query by limiting the number of results and try again"}
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

// rows are what every query is answered with, one for each machine: a client can't tell, and a
// query language is another project.
func (t *tenant) rows() []device {
	rows := make([]device, len(t.machines))
	for i, m := range t.machines {
		rows[i] = device{m.LastSeen, m.ID, m.ComputerDNSName, m.OSPlatform}
	}
	return rows
}

// columns are those of a device.
func columns() []column {
	return []column{{"Timestamp", "DateTime"}, {"DeviceId", "String"}, {"DeviceName", "String"},
		{"OSPlatform", "String"}}
}

// runQuery only reads, though it is a POST, and so has no effect.
func (t *tenant) runQuery(r request) (answer, error) {
	if _, err := read[hunt](r.body); err != nil {
		return answer{}, err
	}
	return done(http.StatusOK, struct {
		Schema  []column `json:"Schema"`
		Results []device `json:"Results"`
	}{columns(), t.rows()}), nil
}

// runXDRQuery has statistics beside, as documented of Defender XDR alone.
func (t *tenant) runXDRQuery(r request) (answer, error) {
	if _, err := read[hunt](r.body); err != nil {
		return answer{}, err
	}
	rows := t.rows()
	type total struct {
		Hits   int `json:"hits"`
		Misses int `json:"misses"`
		Total  int `json:"total"`
	}
	var stats struct {
		ExecutionTime float64
		Usage         struct {
			Cache struct {
				Memory total `json:"memory"`
				Disk   total `json:"disk"`
			} `json:"cache"`
			CPU struct {
				User   string `json:"user"`
				Kernel string `json:"kernel"`
				Total  string `json:"total cpu"`
			} `json:"cpu"`
			Memory struct {
				Peak int `json:"peak_per_node"`
			} `json:"memory"`
		} `json:"resource_usage"`
		Sets []struct {
			Rows int `json:"table_row_count"`
			Size int `json:"table_size"`
		} `json:"dataset_statistics"`
	}
	stats.ExecutionTime = 0.0625
	cpu := &stats.Usage.CPU
	cpu.User, cpu.Kernel, cpu.Total = "00:00:00.0468750", "00:00:00.0156250", "00:00:00.0625000"
	stats.Sets = append(stats.Sets, struct {
		Rows int `json:"table_row_count"`
		Size int `json:"table_size"`
	}{len(rows), len(encode(rows))})
	return done(http.StatusOK, struct {
		Stats   any      `json:"Stats"`
		Schema  []column `json:"Schema"`
		Results []device `json:"Results"`
	}{stats, columns(), rows}), nil
}

// errCPU is the 429 of a tenant that has used up its processor time. It names no time: queries are
// blocked until the next cycle, whenever that begins.
func errCPU() problem { return problem{http.StatusTooManyRequests, "429", cpuReason} }

// cpuReason is its message.
const cpuReason = "Query execution was blocked: the tenant has reached 100% of the CPU resources allocated to it for this 15-minute cycle."
