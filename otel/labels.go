package steadyotel

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// other is OpenTelemetry's word for what has no name of its own.
const other = "_OTHER"

// A labelSet says which labels a measurement has.
type labelSet interface {
	comparable
	attributes() []attribute.KeyValue
}

// labels keeps the options of an instrument's measurements: to make a set of labels costs more than
// a measurement, so each is made once. It also bounds them, since hosts, templates and statuses are
// the caller's and the server's to choose.
type labels[K labelSet] struct {
	limit int // of sets; negative: the keys are a closed set

	mu   sync.Mutex // held while a set is added
	made atomic.Pointer[map[K][]metric.RecordOption]
}

// get returns the options of a key that has some, else nil.
func (l *labels[K]) get(key K) []metric.RecordOption {
	if made := l.made.Load(); made != nil {
		return (*made)[key]
	}
	return nil
}

// of returns the options of the first of keys for which there are some, or room. Each key must be
// coarser than the one before: the last has few values and always has room, the others fill up to
// four fifths of the limit, and to all of it.
func (l *labels[K]) of(keys ...K) []metric.RecordOption {
	if found := l.find(keys); found != nil {
		return found
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.find(keys); found != nil {
		return found // somebody else was quicker
	}
	made := make(map[K][]metric.RecordOption)
	if before := l.made.Load(); before != nil {
		made = maps.Clone(*before)
	}
	key := keys[l.level(len(made), len(keys))]
	if there, ok := made[key]; ok {
		return there
	}
	added := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(key.attributes()...))}
	made[key] = added
	l.made.Store(&made)
	return added
}

// find looks a key up that may be used: a coarser one only where there is no room for the finer.
func (l *labels[K]) find(keys []K) []metric.RecordOption {
	made := l.made.Load()
	if made == nil {
		return nil
	}
	for i := range l.level(len(*made), len(keys)) + 1 {
		if found := (*made)[keys[i]]; found != nil {
			return found
		}
	}
	return nil
}

// level returns the first of so many keys for which there is room.
func (l *labels[K]) level(made, keys int) int {
	switch {
	case keys == 1 || l.limit < 0 || made < l.limit*4/5:
		return 0
	case keys == 2 || made < l.limit:
		return 1
	}
	return keys - 1
}

// few lets the first few different texts through. The others are _OTHER.
type few struct {
	limit int

	mu   sync.Mutex // held while one is added
	seen atomic.Pointer[map[string]string]
}

func (f *few) of(s string) string {
	if f.has(s) {
		return s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := make(map[string]string)
	if before := f.seen.Load(); before != nil {
		seen = maps.Clone(*before)
	}
	if _, known := seen[s]; !known && len(seen) >= f.limit {
		return other
	}
	seen[s] = s
	f.seen.Store(&seen)
	return s
}

func (f *few) has(s string) bool {
	seen := f.seen.Load()
	if seen == nil {
		return false
	}
	_, ok := (*seen)[s]
	return ok
}
