package defendertest

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// A Quota is how many calls an endpoint family lets pass in any minute and in
// any hour, both at once. 0: no such window.
type Quota struct {
	PerMinute int
	PerHour   int
}

// DefaultQuotas returns the documented numbers by endpoint family. The map is the
// caller's own. A family is one row of the documented table, named by the path
// its calls share; calls of one family share one quota:
//
//	alerts                              the list
//	alerts/{id}                         GET, PATCH, and what belongs to the alert
//	alerts/batchUpdate
//	alerts/CreateAlertByReference
//	machines                            the list
//	machines/{id}                       GET, PATCH, tags, setDeviceValue, logonusers, alerts, findbyip, findbytag
//	machines/AddOrRemoveTagForMultipleMachines
//	machines/{id}/vulnerabilities
//	machines/{id}/action                isolate, runAntiVirusScan and their like, but not the next two
//	machines/{id}/startInvestigation
//	machines/{id}/runliveresponse
//	machines/SoftwareInventoryByMachine
//	machines/SoftwareInventoryExport
//	machines/SoftwareVulnerabilitiesByMachine
//	machines/SoftwareVulnerabilitiesExport
//	machines/SoftwareVulnerabilityChangesByMachine
//	machines/SecureConfigurationsAssessmentByMachine
//	machines/SecureConfigurationsAssessmentExport
//	machineactions                      the list and GET by id
//	machineactions/{id}/cancel
//	machineactions/{id}/getPackageUri
//	machineactions/{id}/GetLiveResponseResultDownloadLink
//	libraryfiles
//	investigations                      the list and GET by id
//	domains/{id}                        what belongs to a domain
//	files/{id}                          a file, and what belongs to it
//	ips/{id}                            what belongs to an address
//	users/{id}                          what belongs to a user
//	indicators                          the list and POST
//	indicators/{id}                     DELETE
//	indicators/import
//	indicators/BatchDelete
//	advancedqueries/run
//	advancedhunting/run
//	incidents                           the list
//	incidents/{id}                      GET
//	PATCH incidents/{id}
func DefaultQuotas() map[string]Quota {
	// Most rows have these two. Where one of the numbers is missing below, the
	// documentation has none either: an import is limited by the minute alone.
	usual := Quota{PerMinute: 100, PerHour: 1500}
	// A page of an export can have 200,000 records, and a list of files stands
	// for the whole tenant.
	export, files := Quota{PerMinute: 30, PerHour: 1000}, Quota{PerMinute: 5, PerHour: 20}
	// One page says 100 a minute for a single incident, a newer one says 50
	// for all their calls.
	incident := Quota{PerMinute: 50, PerHour: 1500}
	return map[string]Quota{
		"alerts":                        usual,
		"alerts/{id}":                   usual,
		"alerts/batchUpdate":            {PerMinute: 10, PerHour: 500},
		"alerts/CreateAlertByReference": {PerMinute: 15},
		"machines":                      usual,
		"machines/{id}":                 usual,
		"machines/AddOrRemoveTagForMultipleMachines":            usual,
		"machines/{id}/vulnerabilities":                         {PerMinute: 50, PerHour: 1500},
		"machines/{id}/action":                                  usual,
		"machines/{id}/startInvestigation":                      {PerHour: 50},
		"machines/{id}/runliveresponse":                         {PerMinute: 10},
		"machines/SoftwareInventoryByMachine":                   export,
		"machines/SoftwareInventoryExport":                      files,
		"machines/SoftwareVulnerabilitiesByMachine":             export,
		"machines/SoftwareVulnerabilitiesExport":                files,
		"machines/SoftwareVulnerabilityChangesByMachine":        export,
		"machines/SecureConfigurationsAssessmentByMachine":      export,
		"machines/SecureConfigurationsAssessmentExport":         files,
		"machineactions":                                        usual,
		"machineactions/{id}/cancel":                            usual,
		"machineactions/{id}/getPackageUri":                     {PerMinute: 2, PerHour: 120},
		"machineactions/{id}/GetLiveResponseResultDownloadLink": usual,
		"libraryfiles":           usual,
		"investigations":         usual,
		"domains/{id}":           usual,
		"files/{id}":             usual,
		"ips/{id}":               usual,
		"users/{id}":             usual,
		"indicators":             usual,
		"indicators/{id}":        usual,
		"indicators/import":      {PerMinute: 30},
		"indicators/BatchDelete": {PerMinute: 30, PerHour: 1500},
		"advancedqueries/run":    {PerMinute: 45, PerHour: 1500},
		"advancedhunting/run":    {PerMinute: 45},
		"incidents":              incident,
		"incidents/{id}":         incident,
		"PATCH incidents/{id}":   incident,
	}
}

// WaitForm says how a 429 tells its wait. Its flags may be joined by |. Zero
// means WaitHeader|WaitSentence. All forms are rounded up, so that a client who
// obeys is never early.
type WaitForm uint8

// The forms that were documented or observed, and those that HTTP allows beside.
const (
	WaitHeader   WaitForm = 1 << iota // Retry-After in whole seconds, as documented
	WaitDate                          // Retry-After as an HTTP-date, with a Date; a second header line if WaitHeader is set too
	WaitSentence                      // "You can send requests again in 8 seconds." in the message, as observed
	WaitNowhere                       // no hint at all; wins over the others
)

// has reports whether a 429 uses the form, with the default resolved.
func (f WaitForm) has(form WaitForm) bool {
	if f == 0 {
		f = WaitHeader | WaitSentence
	}
	return f&WaitNowhere == 0 && f&form != 0
}

// quotas counts the calls of all families. It is guarded by Server.mu.
type quotas struct {
	counting     Counting
	minute, hour time.Duration
	start        time.Time        // of fixed windows
	families     map[string]Quota // nil: no limits
	cpu          *limit           // of all hunting; nil: none
	limits       map[quotaKey][]limit
}

// A quotaKey is who has a quota of his own, and for what. The observed text of a
// 429 calls it "Destination+TenantID+AppID".
type quotaKey struct{ application, family string }

// A limit is one of a family's windows, or the CPU time.
type limit struct {
	meter  meter
	reason string // the message of a 429, without the wait
}

// newQuotas resolves the defaults. No call has been counted yet, as after a long
// rest.
func newQuotas(c Config, now time.Time) *quotas {
	q := &quotas{
		counting: c.Counting, minute: c.minute(), hour: c.hour(), start: now.Add(-c.Phase),
		limits: make(map[quotaKey][]limit),
	}
	if !c.NoQuotas {
		q.families = DefaultQuotas()
		maps.Copy(q.families, c.Quotas)
	}
	if c.HuntingCPU > 0 {
		q.cpu = &limit{
			&cpuMeter{budget: c.HuntingCPU, cost: c.huntingCost(), clock: clock{q.start, huntingCycle * q.minute}},
			"Query execution was blocked: the tenant has reached 100% of the CPU resources allocated to it for this 15-minute cycle.",
		}
	}
	return q
}

// hunts reports whether a family is one of both hunting APIs. Their quota is the
// tenant's, whoever asks, and they share its CPU.
func hunts(family string) bool {
	return family == "advancedqueries/run" || family == "advancedhunting/run"
}

// of returns an application's limits for a family. They are made when the first
// call comes, from numbers that never change.
func (q *quotas) of(application, family string) []limit {
	if hunts(family) {
		application = ""
	}
	key := quotaKey{application, family}
	limits, ok := q.limits[key]
	if ok {
		return limits
	}
	// An unknown path has no family, and so no limit.
	quota := q.families[family]
	for _, w := range []struct {
		n      int
		length time.Duration
		name   string // as documented, whatever it is scaled to
	}{{quota.PerMinute, q.minute, "00:01:00"}, {quota.PerHour, q.hour, "01:00:00"}} {
		if w.n > 0 {
			reason := fmt.Sprintf("API calls quota exceeded! Maximum allowed %d per %s for the key Destination+TenantID+AppID.", w.n, w.name)
			limits = append(limits, limit{newMeter(q.counting, w.n, w.length, q.start), reason})
		}
	}
	if q.cpu != nil && hunts(family) {
		limits = append(limits, *q.cpu)
	}
	q.limits[key] = limits
	return limits
}

// A refusal is why the quota doesn't let a call pass.
type refusal struct {
	reason string
	wait   time.Duration // until the call would pass, if no other comes first
}

// take counts a call in all of its family's windows, or in none of them if one is
// full. The times given must never go back.
func (q *quotas) take(application, family string, now time.Time) *refusal {
	limits := q.of(application, family)
	full := fullest(limits, now)
	if full == nil {
		for _, l := range limits {
			l.meter.count(now)
		}
		return nil
	}
	for _, l := range limits {
		l.meter.refuse(now)
	}
	// Asked anew, since a refused call may have made the wait longer.
	return fullest(limits, now)
}

// fullest returns the limit with the longest wait, or nil if all have room: a
// client who obeyed a shorter one would be refused again.
func fullest(limits []limit, now time.Time) *refusal {
	var worst refusal
	for _, l := range limits {
		if wait := l.meter.wait(now); wait > worst.wait {
			worst = refusal{l.reason, wait}
		}
	}
	if worst.wait == 0 {
		return nil
	}
	return &worst
}

// answer is the 429 in the observed form: its code is the string "429", and not
// the documented TooManyRequests.
func (r *refusal) answer(now time.Time, form WaitForm) *answer {
	message, seconds := r.reason, wholeSeconds(r.wait)
	if form.has(WaitSentence) {
		message += fmt.Sprintf(" You can send requests again in %d seconds.", seconds)
	}
	a := problem{http.StatusTooManyRequests, "429", message}.answer()
	if form.has(WaitHeader) {
		a.header.Add("Retry-After", strconv.FormatInt(seconds, 10))
	}
	if form.has(WaitDate) {
		a.header.Add("Retry-After", httpDate(ceilSecond(now.Add(r.wait))))
		// Rounded down, so that the distance between the two is never short.
		a.header.Set("Date", httpDate(now))
	}
	return a
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// httpDate drops what is below a second, as the format does.
func httpDate(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// ceilSecond is the next whole second, or the time itself if it is one.
func ceilSecond(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t.Round(0)) {
		return whole.Add(time.Second)
	}
	return t
}
