package redisquota

import (
	"strings"
	"testing"
)

// All keys of a quota are in one slot, whatever the Key is, and those of two Keys never meet.
func TestKeysAreInOneSlotAndApart(t *testing.T) {
	long := strings.Repeat("x", 1000)
	keys := []string{
		"a", "{a}", "a}", "{a", "{}", "a}b{c", "a b", "a%20b", "a\nb", "a\x00", "ä", "%", "#", "%23", long, long + "y",
		"tenant/app:machines", strings.Repeat("{", 300),
	}
	seen := map[string]string{}
	for _, key := range keys {
		got := keyOf(key)
		open, end := strings.IndexByte(got, '{'), strings.IndexByte(got, '}')
		if strings.Count(got, "{") != 1 || strings.Count(got, "}") != 1 || end != len(got)-1 || end == open+1 {
			t.Errorf("%q becomes %q, which has no hash tag of its own", key, got)
		}
		if len(got) > 160 || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q becomes %q", key, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q have the same key", key, other)
		}
		seen[got] = key
	}
	if got := keyOf("tenant/app:machines"); got != "steadyhttp:quota:{tenant/app:machines}" {
		t.Errorf("got %q", got)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("a", "b")
	f.Add("{a}", "%7Ba%7D")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && keyOf(a) == keyOf(b) {
			t.Errorf("%q and %q have the same key", a, b)
		}
	})
}

// What Redis answers comes from outside: it is refused, or in range.
func FuzzAnswer(f *testing.F) {
	f.Add("ok 1.p 1 0 1 1 -1 -1 2 0 0 0 x 0 5 same", "60 3600000000 100 1 20.000 5 1000")
	f.Fuzz(func(t *testing.T, answer, low string) {
		r, err := parse(strings.Split(answer, " "), 1)
		if err == nil && r.status != "late" {
			if r.among < 1 || r.used[0] < 0 || r.pause < -1000 || r.learn < -1000 || r.granted[0] < 0 || r.granted[0] > maxGrant {
				t.Errorf("%q becomes %+v", answer, r)
			}
		}
		for _, l := range parseLow(low, strings.Count(low, ";")+1, 0, 0) {
			if l.Named < 1 || l.Share < 0 || l.Lowered < 0 {
				t.Errorf("%q becomes %+v", low, l)
			}
		}
	})
}
