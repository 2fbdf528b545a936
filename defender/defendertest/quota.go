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
//	alerts/{id}                         GET and PATCH
//	alerts/batchUpdate
//	machines                            the list
//	machines/{id}                       GET and tags
//	machines/AddOrRemoveTagForMultipleMachines
//	machines/{id}/vulnerabilities
//	machines/{id}/action                isolate, runAntiVirusScan and their like, but not the next two
//	machines/{id}/startInvestigation
//	machines/{id}/runliveresponse
//	machineactions                      the list and GET by id
//	machineactions/{id}/cancel
//	indicators                          the list and POST
//	indicators/{id}                     DELETE
//	indicators/import
//	indicators/BatchDelete
//	advancedqueries/run
func DefaultQuotas() map[string]Quota {
	// Most rows have these two. Where one of the numbers is missing below, the
	// documentation has none either: an import is limited by the minute alone.
	usual := Quota{PerMinute: 100, PerHour: 1500}
	return map[string]Quota{
		"alerts":             usual,
		"alerts/{id}":        usual,
		"alerts/batchUpdate": {PerMinute: 10, PerHour: 500},
		"machines":           usual,
		"machines/{id}":      usual,
		"machines/AddOrRemoveTagForMultipleMachines": usual,
		"machines/{id}/vulnerabilities":              {PerMinute: 50, PerHour: 1500},
		"machines/{id}/action":                       usual,
		"machines/{id}/startInvestigation":           {PerHour: 50},
		"machines/{id}/runliveresponse":              {PerMinute: 10},
		"machineactions":                             usual,
		"machineactions/{id}/cancel":                 usual,
		"indicators":                                 usual,
		"indicators/{id}":                            usual,
		"indicators/import":                          {PerMinute: 30},
		"indicators/BatchDelete":                     {PerMinute: 30, PerHour: 1500},
		"advancedqueries/run":                        {PerMinute: 45, PerHour: 1500},
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
// Its windows roll. Which kind the service has isn't documented, but rolling ones
// are the strictest: who never meets a 429 here meets none where they are fixed.
type quotas struct {
	minute, hour time.Duration
	limits       map[string]Quota // nil: no limits
	accepted     map[string]*accepted
}

// newQuotas resolves the defaults. No call has been counted yet, as after a long
// rest.
func newQuotas(c Config) *quotas {
	q := &quotas{minute: time.Minute, hour: time.Hour, accepted: make(map[string]*accepted)}
	if c.Minute > 0 {
		q.minute = c.Minute
	}
	if c.Hour > 0 {
		q.hour = c.Hour
	}
	if !c.NoQuotas {
		q.limits = DefaultQuotas()
		maps.Copy(q.limits, c.Quotas)
	}
	return q
}

// A refusal is why the quota doesn't let a call pass.
type refusal struct {
	allowed int
	window  string        // as documented, whatever it is scaled to
	wait    time.Duration // until the call would pass, if no other comes first
}

// take counts a call in both windows, or in none of them if either is full. A
// refused call isn't counted: that the service counts it was only ever said in
// the draft of a page. The times given must never go back.
func (q *quotas) take(family string, now time.Time) *refusal {
	// An unknown path has no family, and so no limit.
	limit := q.limits[family]
	if limit == (Quota{}) {
		return nil
	}
	log := q.accepted[family]
	if log == nil {
		log = &accepted{keep: max(limit.PerMinute, limit.PerHour)}
		q.accepted[family] = log
	}
	minute := refusal{limit.PerMinute, "00:01:00", log.wait(limit.PerMinute, q.minute, now)}
	hour := refusal{limit.PerHour, "01:00:00", log.wait(limit.PerHour, q.hour, now)}
	// The longer wait is told, or a client who obeys would be refused again.
	worst := &minute
	if hour.wait > minute.wait {
		worst = &hour
	}
	if worst.wait > 0 {
		return worst
	}
	log.add(now)
	return nil
}

// accepted are the times of the calls that passed, oldest first. All windows
// share them, since a call is counted in all or in none.
type accepted struct {
	keep  int // how many times can matter
	times []time.Time
}

// wait is how long a call must wait until fewer than n others lie in the window
// that ends with it. The n-th latest decides alone: a rolling window has room
// exactly when that one has left it. A call leaves after the window's full length.
func (a *accepted) wait(n int, window time.Duration, now time.Time) time.Duration {
	if n == 0 || len(a.times) < n {
		return 0
	}
	return max(0, a.times[len(a.times)-n].Add(window).Sub(now))
}

// add drops the times that no longer matter in bulk, which costs less than one
// move for each call, and bounds the log at twice what it keeps.
func (a *accepted) add(now time.Time) {
	if len(a.times)-a.keep >= a.keep {
		kept := copy(a.times, a.times[len(a.times)-a.keep:])
		a.times = a.times[:kept]
	}
	a.times = append(a.times, now)
}

// answer is the 429 in the observed form: its code is the string "429", and not
// the documented TooManyRequests.
func (r *refusal) answer(now time.Time, form WaitForm) *answer {
	message := fmt.Sprintf("API calls quota exceeded! Maximum allowed %d per %s for the key Destination+TenantID+AppID.", r.allowed, r.window)
	seconds := int64((r.wait + time.Second - 1) / time.Second)
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

// httpDate drops what is below a second, as the format does.
func httpDate(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// ceilSecond is the next whole second, or the time itself if it is one.
func ceilSecond(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t.Round(0)) {
		return whole.Add(time.Second)
	}
	return t
}
