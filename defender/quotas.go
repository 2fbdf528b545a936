package defender

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/durations"
	"github.com/steadyhttp/steadyhttp/quota"
)

// other is the family of the paths below /api that are not in the table: methods that are
// undocumented, or newer. They get the limits that nearly every documented one has. Other paths
// that are not in it have no limit that is known, and only pause.
const other = "other"

// limits are the quotas of one tenant and application. The keys are made once: each call asks for
// one.
type limits struct {
	hosts hosts
	graph bool              // its further limits are kept
	keys  map[string]string // by name: a family's or a Limit's
	of    map[string]*limit // by key
	kept  *kept

	mu    sync.Mutex      // guards areas
	areas map[string]bool // of what is not in the table: see area
}

// limit is what is kept for one key.
type limit struct {
	name       string
	windows    []quota.Window
	pauseOnly  bool
	units      bool
	concurrent int

	mu   sync.Mutex // guards what follows
	made bool
	gate steadyhttp.Gate
}

// kept is the gate that holds a Transport's quotas. It remembers those that were made; none is ever
// dropped.
type kept struct {
	steadyhttp.Gate

	mu    sync.Mutex             // guards state
	state map[string]stateReader // by family
}

// stateReader is a gate whose quota can be looked at, as a *quota.Quota.
type stateReader interface{ State() quota.State }

func (k *kept) remember(family string, gate steadyhttp.Gate) {
	if reader, ok := gate.(stateReader); ok {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.state[family] = reader
	}
}

// Quotas returns the families of which t, made by New, has had calls, sorted by name, each with the
// state of its quota. A gate of Config.NewGate is among them if it has the method State of
// *quota.Quota. steadyotel.ObserveQuotas takes the result.
func Quotas(t *steadyhttp.Transport) iter.Seq2[string, quota.State] {
	return func(yield func(string, quota.State) bool) {
		for _, gate := range t.Gates {
			k, ok := gate.(*kept)
			if !ok {
				continue
			}
			k.mu.Lock()
			made := maps.Clone(k.state)
			k.mu.Unlock()
			for _, family := range slices.Sorted(maps.Keys(made)) {
				if !yield(family, made[family].State()) {
					return
				}
			}
		}
	}
}

// quotas returns the gates that keep each family, and what it has of further limits, within its
// quota; nil if there is none to keep. A misspelt name is an error, even with NoQuotas: the
// documented limit would stay in force without a word.
func (c *Config) quotas(known hosts) ([]steadyhttp.Gate, error) {
	l := limits{
		hosts: known, graph: c.API == Graph,
		keys: make(map[string]string), of: make(map[string]*limit),
		kept: &kept{state: make(map[string]stateReader)},
	}
	further := l.addAll(c)
	for _, name := range slices.Sorted(maps.Keys(c.Quotas)) {
		key, ok := l.keys[name]
		if !ok {
			return nil, fmt.Errorf("defender: Config.Quotas has the family %q, "+
				"which does not exist; use a Family of Endpoints, the Name of one of its Limits, or %q",
				name, other)
		}
		for i, w := range c.Quotas[name] {
			if w.N < 1 || w.Per < durations.MinWindow || w.Per > durations.MaxWindow {
				return nil, fmt.Errorf("defender: Config.Quotas[%q][%d] is %d per %v; "+
					"use at least 1, in a millisecond to 10 years, and no window at all to lift the limit",
					name, i, w.N, w.Per)
			}
		}
		l.of[key].windows = slices.Clone(c.Quotas[name])
		l.of[key].concurrent = 0
	}
	if !(c.Reserve >= 0 && c.Reserve < 1) { // false for NaN too
		return nil, fmt.Errorf("defender: Config.Reserve is %v; "+
			"use a share from 0 up to but not 1", c.Reserve)
	}
	if c.MaxWait < 0 {
		return nil, fmt.Errorf("defender: Config.MaxWait is %v; "+
			"use a positive duration, or 0 for no bound", c.MaxWait)
	}
	if c.NoQuotas {
		return nil, nil
	}
	// One more for "", and one for the areas beyond the last. A dropped gate would forget what it has
	// counted.
	most := len(l.keys) + maxAreas + 2
	l.kept.Gate = &steadyhttp.PerKey{Key: l.key, New: l.newGate(c), Max: most}
	gates := []steadyhttp.Gate{l.kept}
	if l.graph {
		for i := range further {
			key := func(req *http.Request) string { return l.furtherKey(req, i) }
			further := &steadyhttp.PerKey{Key: key, New: l.newGate(c), Max: most}
			gates = append(gates, counting{further})
		}
	}
	return gates, nil
}

// addAll enters all families and their further limits, and returns how many of these one endpoint
// has at the most.
func (l *limits) addAll(c *Config) (further int) {
	l.add(c.key(other, PerAppAndTenant), &limit{name: other, windows: per(100, 1500)})
	for _, f := range families() {
		scope := PerAppAndTenant
		if f.perTenant {
			scope = PerTenant
		}
		l.add(c.key(f.name, scope), &limit{
			name: f.name, windows: f.windows, pauseOnly: f.pauseOnly, units: f.units,
		})
		for _, e := range f.endpoints {
			further = max(further, len(e.Limits))
			for _, more := range e.Limits {
				if !more.Unkept {
					l.add(c.key(more.Name, more.Scope), &limit{
						name: more.Name, windows: more.Windows, units: more.units,
						concurrent: more.Concurrent,
					})
				}
			}
		}
	}
	return further
}

func (l *limits) add(key string, of *limit) {
	if l.of[key] == nil {
		l.keys[of.name], l.of[key] = key, of
	}
}

// key names a quota as the service does in its 429, "for the key Destination+TenantID+AppID". The
// host is not in it, since the geographic hosts lead to the same service. Who shares the quota has
// the same key.
func (c *Config) key(name string, scope Scope) string {
	key := name + "+"
	if scope != PerApp {
		key += url.QueryEscape(c.Tenant)
	}
	if scope != PerTenant {
		key += "+" + url.QueryEscape(c.App)
	}
	return key
}

// key returns the key of a request's quota, "" if it uses none of Defender's, as redirects and
// nextLinks to another host, and downloads from Azure Storage.
func (l *limits) key(req *http.Request) string {
	if !l.mine(req) {
		return ""
	}
	if e := find(req); e != nil {
		return l.keys[e.Family]
	}
	if !l.graph && belowAPI(req.URL) {
		return l.keys[other]
	}
	return l.unlisted(req.URL.Path)
}

func (l *limits) mine(req *http.Request) bool { return l.hosts.have(req.URL) && !signed(req.URL) }

// furtherKey returns the key of the i-th of a request's further limits, "" if it has no such. What
// is not in the table counts for Graph as a whole.
func (l *limits) furtherKey(req *http.Request, i int) string {
	if !l.mine(req) {
		return ""
	}
	e := find(req)
	switch {
	case e == nil && i == 0:
		return l.keys[graphWide().Name]
	case e == nil || i >= len(e.Limits):
		return ""
	}
	more := &e.Limits[i]
	if more.Unkept || more.when != nil && !more.when(req) {
		return ""
	}
	return l.keys[more.Name]
}

// maxAreas bounds the pauses of what is not in the table.
const maxAreas = 256

// unlisted returns the key of what is not in the table, and has no limit that is known: after a 429
// the others of its area wait with it, and nobody else. Who calls ever new ones gets one for all.
func (l *limits) unlisted(path string) string {
	name := area(path)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.areas[name]:
	case len(l.areas) == maxAreas:
		return "/"
	default:
		if l.areas == nil {
			l.areas = make(map[string]bool)
		}
		l.areas[name] = true
	}
	return name
}

// area returns the part of a path that tells workloads apart, as Graph limits each by itself:
// /v1.0/sites, and below what is somebody's the third segment too, as in /v1.0/users/{id}/messages.
func area(path string) string {
	const longest = 64
	path = strings.ToLower(strings.Trim(path[:min(len(path), 1024)], "/"))
	segments := strings.SplitN(path, "/", 5)
	name := segments[0]
	if len(segments) > 1 {
		name += "/" + segments[1]
	}
	if len(segments) > 3 {
		name += "//" + functionName(segments[3])
	}
	return "/" + name[:min(len(name), longest)]
}

// belowAPI tells Defender's own paths.
func belowAPI(u *url.URL) bool {
	first, _, _ := strings.Cut(strings.TrimLeft(u.Path, "/"), "/")
	return equalFold(first, "api")
}

// counting is a gate that learns nothing from an answer: of all the limits that a call is under, its
// family's is the one that a 429 most likely tells of, and it alone pauses.
type counting struct{ steadyhttp.Gate }

func (c counting) Enter(ctx context.Context, a steadyhttp.Attempt) (steadyhttp.Pass, error) {
	pass, err := c.Gate.Enter(ctx, a.SendingOnly())
	if err != nil || pass == nil {
		return nil, err
	}
	return steadyhttp.PassFunc(func(a steadyhttp.Attempt) {
		a.Response, a.Err, a.Body, a.Verdict = nil, nil, nil, steadyhttp.Verdict{}
		pass.Leave(a)
	}), nil
}

// newGate returns what finds the gate of a key, or makes it: the calls that share it may have come
// to it as different ones of their limits.
func (l *limits) newGate(c *Config) func(key string) steadyhttp.Gate {
	return func(key string) steadyhttp.Gate {
		of := l.of[key]
		switch {
		case key == "":
			return nil
		case of == nil:
			return steadyhttp.Limit(nil) // an area
		}
		of.mu.Lock()
		defer of.mu.Unlock()
		if !of.made {
			of.gate = l.gateOf(c.NewGate, c.Reserve, c.MaxWait, key, of)
			of.made = true
		}
		return of.gate
	}
}

func (l *limits) gateOf(
	custom func(string, *quota.Quota) steadyhttp.Gate, reserve float64, maxWait time.Duration,
	key string, of *limit,
) steadyhttp.Gate {
	switch {
	case of.concurrent > 0:
		return make(atOnce, of.concurrent)
	case len(of.windows) == 0:
		// No limit is known. Still, after a 429 the others wait with the call that met it.
		return steadyhttp.Limit(nil)
	}
	q := &quota.Quota{
		Windows: slices.Clone(of.windows), Reserve: reserve, MaxWait: maxWait,
		PauseOnly: of.pauseOnly,
	}
	if of.units {
		q.Weight = units
	}
	var gate steadyhttp.Gate = q
	if custom != nil {
		gate = custom(key, q)
	}
	l.kept.remember(of.name, gate)
	return gate
}

// atOnce is a gate for so many calls under way as it has room for. A call is, until its answer's
// headers have come.
type atOnce chan struct{}

func (a atOnce) Enter(ctx context.Context, at steadyhttp.Attempt) (steadyhttp.Pass, error) {
	leave := steadyhttp.PassFunc(func(steadyhttp.Attempt) { <-a })
	select {
	case a <- struct{}{}:
		return leave, nil
	default:
	}
	at.Waits(func() time.Duration { return 0 }) // as long as the others take
	select {
	case a <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
