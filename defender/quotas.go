package defender

import (
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// other is the family of the paths on Defender's hosts that are not in the table: methods that are
// undocumented, or newer. They get the limits that nearly every documented one has.
const other = "other"

// limits are the quotas of one tenant and application. The keys are made once: each call asks for
// one.
type limits struct {
	hosts    hosts
	keys     map[string]string         // by family
	families map[string]string         // by key
	windows  map[string][]quota.Window // by key
	kept     *kept
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

// maxPer is the longest window that a quota.Quota takes.
const maxPer = 10 * 365 * 24 * time.Hour

// quotas returns the gate that keeps each family within its quota, nil if there is none. A misspelt
// family is an error, even with NoQuotas: the documented limit would stay in force without a word.
func (c *Config) quotas(known hosts) (steadyhttp.Gate, error) {
	l := limits{
		hosts: known, keys: make(map[string]string), families: make(map[string]string), windows: make(map[string][]quota.Window),
		kept: &kept{state: make(map[string]stateReader)},
	}
	l.add(other, c.key(other, false), per(100, 1500))
	for _, f := range families() {
		l.add(f.name, c.key(f.name, f.perTenant), f.windows)
	}
	for _, family := range slices.Sorted(maps.Keys(c.Quotas)) {
		key, ok := l.keys[family]
		if !ok {
			return nil, fmt.Errorf("defender: Config.Quotas has the family %q, "+
				"which does not exist; use a Family of Endpoints, or %q", family, other)
		}
		for i, w := range c.Quotas[family] {
			if w.N < 1 || w.Per <= 0 || w.Per > maxPer {
				return nil, fmt.Errorf("defender: Config.Quotas[%q][%d] is %d per %v; "+
					"use at least 1 in at most 10 years, and no window at all to lift the limit",
					family, i, w.N, w.Per)
			}
		}
		l.windows[key] = slices.Clone(c.Quotas[family])
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
	// One more for "". A dropped gate would forget what it has counted.
	l.kept.Gate = &steadyhttp.PerKey{Key: l.key, New: l.newGate(c), Max: len(l.keys) + 1}
	return l.kept, nil
}

// add enters a family with its documented limits.
func (l *limits) add(family, key string, windows []quota.Window) {
	l.keys[family] = key
	l.families[key] = family
	l.windows[key] = windows
}

// key names a quota as the service does in its 429, "for the key Destination+TenantID+AppID". The
// host is not in it, since the geographic hosts lead to the same service. All applications of a
// tenant share the quotas that are the tenant's.
func (c *Config) key(family string, perTenant bool) string {
	key := family + "+" + url.QueryEscape(c.Tenant)
	if !perTenant {
		key += "+" + url.QueryEscape(c.App)
	}
	return key
}

// key returns the key of a request's quota, "" if it uses none of Defender's, as redirects and
// nextLinks to another host, and downloads from Azure Storage.
func (l *limits) key(req *http.Request) string {
	if !l.hosts.have(req.URL) || signed(req.URL) {
		return ""
	}
	if e := find(req); e != nil {
		return l.keys[e.Family]
	}
	return l.keys[other]
}

// newGate returns what makes the gate of a key.
func (l *limits) newGate(c *Config) func(key string) steadyhttp.Gate {
	custom, reserve, maxWait := c.NewGate, c.Reserve, c.MaxWait
	return func(key string) steadyhttp.Gate {
		windows := l.windows[key]
		switch {
		case key == "":
			return nil
		case len(windows) == 0:
			// No limit is known. Still, after a 429 the others wait with the call that met it.
			return steadyhttp.Limit(nil)
		}
		q := &quota.Quota{
			Windows: windows, Reserve: reserve, MaxWait: maxWait,
			PauseOnly: pauseOnly(l.families[key]),
		}
		var gate steadyhttp.Gate = q
		if custom != nil {
			gate = custom(key, q)
		}
		l.kept.remember(l.families[key], gate)
		return gate
	}
}
