package defendertest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/quota"
)

// DefaultQuotas returns the documented limits by endpoint family; the windows of
// a family all hold at once. The map and the windows are the caller's own. A
// family is one row of the documented table, named by the path its calls share;
// calls of one family share one quota:
//
//	alerts                              the list
//	alerts/{id}                         GET, PATCH, and what belongs to the alert
//	alerts/batchUpdate
//	machines                            the list
//	machines/{id}                       GET, PATCH, tags, setDeviceValue, alerts, findbyip
//	machines/AddOrRemoveTagForMultipleMachines
//	machines/{id}/vulnerabilities
//	machines/{id}/action                isolate, runAntiVirusScan and their like, but not the next two
//	machines/{id}/startInvestigation
//	machines/{id}/runliveresponse
//	machines/SoftwareVulnerabilitiesByMachine
//	machines/SoftwareVulnerabilitiesExport
//	machineactions                      the list and GET by id
//	machineactions/{id}/cancel
//	machineactions/{id}/getPackageUri
//	machineactions/{id}/GetLiveResponseResultDownloadLink
//	indicators                          the list and POST
//	indicators/{id}                     DELETE
//	indicators/import
//	indicators/BatchDelete
//	advancedqueries/run
//	advancedhunting/run
//	incidents                           the list
//	incidents/{id}                      GET
//	PATCH incidents/{id}
//	security/alerts_v2                  Graph's alerts, and what belongs to one; none is documented
//	security/incidents                  Graph's incidents; likewise
//	security/runHuntingQuery
func DefaultQuotas() map[string][]quota.Window {
	// Where a number is 0, the documentation has none: an import is limited by
	// the minute alone. Exports have low ones since a page can have 200,000
	// records, and a list of files stands for the whole tenant. Of a single
	// incident one page says 100 a minute, and a newer one 50 for all their calls.
	return map[string][]quota.Window{
		"alerts":             per(100, 1500),
		"alerts/{id}":        per(100, 1500),
		"alerts/batchUpdate": per(10, 500),
		"machines":           per(100, 1500),
		"machines/{id}":      per(100, 1500),
		"machines/AddOrRemoveTagForMultipleMachines":            per(100, 1500),
		"machines/{id}/vulnerabilities":                         per(50, 1500),
		"machines/{id}/action":                                  per(100, 1500),
		"machines/{id}/startInvestigation":                      per(0, 50),
		"machines/{id}/runliveresponse":                         per(10, 0),
		"machines/SoftwareVulnerabilitiesByMachine":             per(30, 1000),
		"machines/SoftwareVulnerabilitiesExport":                per(5, 20),
		"machineactions":                                        per(100, 1500),
		"machineactions/{id}/cancel":                            per(100, 1500),
		"machineactions/{id}/getPackageUri":                     per(2, 120),
		"machineactions/{id}/GetLiveResponseResultDownloadLink": per(100, 1500),
		"indicators":             per(100, 1500),
		"indicators/{id}":        per(100, 1500),
		"indicators/import":      per(30, 0),
		"indicators/BatchDelete": per(30, 1500),
		"advancedqueries/run":    per(45, 1500),
		"advancedhunting/run":    per(45, 0),
		"incidents":              per(50, 1500),
		"incidents/{id}":         per(50, 1500),
		"PATCH incidents/{id}":   per(50, 1500),
		// The table of Graph's limits has no row for these: its "alert" is the older alerts API.
		graphAlerts:    nil,
		graphIncidents: nil,
		graphHunting:   per(45, 0),
	}
}

// per returns the limits for a minute and for an hour; 0 is none.
func per(minute, hour int) (windows []quota.Window) {
	for _, w := range [...]quota.Window{{N: minute, Per: time.Minute}, {N: hour, Per: time.Hour}} {
		if w.N > 0 {
			windows = append(windows, w)
		}
	}
	return windows
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
	start        time.Time                 // of fixed windows
	families     map[string][]quota.Window // nil: no limits
	cpu          *limit                    // of all hunting; nil: none
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
		for family, windows := range c.Quotas {
			q.families[family] = slices.Clone(windows)
		}
	}
	if c.HuntingCPU > 0 {
		q.cpu = &limit{
			&cpuMeter{budget: c.HuntingCPU, cost: c.huntingCost(), clock: clock{q.start, huntingCycle * q.minute}},
			cpuReason,
		}
	}
	return q
}

// replace changes the windows of families, whose counting begins anew.
func (q *quotas) replace(families map[string][]quota.Window) {
	if q.families == nil {
		q.families = make(map[string][]quota.Window)
	}
	for family, windows := range families {
		q.families[family] = slices.Clone(windows)
	}
	for key := range q.limits {
		if _, ok := families[key.family]; ok {
			delete(q.limits, key)
		}
	}
}

// hunts reports whether a family is one of the hunting APIs. Their quota is the
// tenant's, whoever asks, and they share its CPU.
func hunts(family string) bool {
	return family == "advancedqueries/run" || family == "advancedhunting/run" || family == graphHunting
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
	for _, w := range q.families[family] {
		reason := fmt.Sprintf("API calls quota exceeded! Maximum allowed %d per %s "+
			"for the key Destination+TenantID+AppID.", w.N, clockOf(w.Per))
		limits = append(limits, limit{newMeter(q.counting, w.N, q.scaled(w.Per), q.start), reason})
	}
	if q.cpu != nil && hunts(family) {
		limits = append(limits, *q.cpu)
	}
	q.limits[key] = limits
	return limits
}

// scaled is how long a window lasts here. From an hour on it goes by Config.Hour,
// and below by Config.Minute.
func (q *quotas) scaled(per time.Duration) time.Duration {
	unit, lasts := time.Minute, q.minute
	if per >= time.Hour {
		unit, lasts = time.Hour, q.hour
	}
	if lasts >= durations.MaxWindow/(per/unit+1) {
		return durations.MaxWindow // for ever, and far from where sums of times would wrap around
	}
	part := float64(per%unit) / float64(unit)
	return max(1, per/unit*lasts+time.Duration(part*float64(lasts)))
}

// clockOf spells a window as a 429 does, whatever it is scaled to.
func clockOf(per time.Duration) string {
	hours, minutes, seconds := per/time.Hour, per%time.Hour/time.Minute, per%time.Minute/time.Second
	return fmt.Sprintf("%02d:%02d:%02d", hours, minutes, seconds)
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
	if message == cpuReason {
		form = WaitNowhere
	}
	if form.has(WaitSentence) {
		message += fmt.Sprintf(" You can send requests again in %d seconds.", seconds)
	}
	a := problem{http.StatusTooManyRequests, "429", message}.answer()
	r.tell(a.header, now, form)
	return a
}

// tell writes the wait into a header.
func (r *refusal) tell(header http.Header, now time.Time, form WaitForm) {
	if form.has(WaitHeader) {
		header.Add("Retry-After", strconv.FormatInt(wholeSeconds(r.wait), 10))
	}
	if form.has(WaitDate) {
		header.Add("Retry-After", httpDate(ceilSecond(now.Add(r.wait))))
		// Rounded down, so that the distance between the two is never short.
		header.Set("Date", httpDate(now))
	}
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
