package defendertest

import (
	"sync"
	"time"
)

// A tenant is all that calls read and change. Its handlers stand in the files of
// what they are about, and run one at a time.
type tenant struct {
	pageSize     int
	actionTime   time.Duration
	second       Second
	minute, hour time.Duration // that links and snapshots live by
	began        time.Time
	links        seal

	// mu guards what follows. MachineIDs reads the machines' ids without it:
	// they never change.
	mu            sync.Mutex
	machines      []*machine
	machineByID   map[string]*machine
	alerts        []*alert
	alertByID     map[string]*alert
	actions       []*action // in order of creation
	actionByID    map[string]*action
	lastAction    map[actionKey]*action // the only one that can be active
	incidents     []*incident           // in order of creation
	incidentByID  map[string]*incident
	indicators    []*indicator // in order of creation
	indicatorByID map[string]*indicator
	indicatorOf   map[indicatorKey]*indicator
	indicatorID   int // of the last one: none is used twice
}

// newTenant fills a tenant. Its ids are plain numbers, so that a failing test
// reads the same each time.
func newTenant(c Config) *tenant {
	t := &tenant{
		pageSize: c.PageSize, actionTime: c.ActionTime, second: c.Second,
		minute: c.minute(), hour: c.hour(), began: time.Now().UTC(), links: newSeal(),
		machineByID: make(map[string]*machine), alertByID: make(map[string]*alert),
		actionByID: make(map[string]*action), lastAction: make(map[actionKey]*action),
		incidentByID:  make(map[string]*incident),
		indicatorByID: make(map[string]*indicator), indicatorOf: make(map[indicatorKey]*indicator),
	}
	if t.pageSize == 0 {
		t.pageSize = 100
	}
	if t.actionTime == 0 {
		t.actionTime = 300 * time.Millisecond
	}
	n := c.Machines
	if n == 0 {
		n = 50
	}
	now := t.began
	for i := 1; i <= n; i++ {
		m := newMachine(i, now)
		t.machines = append(t.machines, m)
		t.machineByID[m.ID] = m
		a := t.addAlert(m, now)
		t.addIncident(a, m, now)
	}
	return t
}

// serve runs a handler with the tenant to itself: each request is carried out as
// a whole or not at all, and an answer is written down before the next one
// changes what it says.
func (t *tenant) serve(handle handler, r request) (answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return handle(t, r)
}

// lookup finds what a path names.
func lookup[T any](byID map[string]*T, kind, id string) (*T, error) {
	if found, ok := byID[id]; ok {
		return found, nil
	}
	return nil, errNotFound(kind, id)
}

// lookupAll finds what a batch names, all or nothing, so that a batch can be
// carried out as a whole. An empty batch is an error, as documented for
// BatchDelete.
func lookupAll[T any](byID map[string]*T, kind, parameter string, ids []string) ([]*T, error) {
	if len(ids) == 0 {
		return nil, errMissing(parameter)
	}
	all := make([]*T, len(ids))
	for i, id := range ids {
		var err error
		if all[i], err = lookup(byID, kind, id); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// values copies entities for a list, which may show them otherwise than they are
// kept.
func values[T any](pointers []*T) []T {
	copies := make([]T, len(pointers))
	for i, p := range pointers {
		copies[i] = *p
	}
	return copies
}
