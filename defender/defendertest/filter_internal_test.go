package defendertest

import (
	"strings"
	"testing"
	"time"
)

// FuzzFilter: no text panics; what is accepted is comparisons of known properties and nothing else,
// and finds the same in any order of them; and a comparison is read back as it was written, quotes
// included.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{
		"", " ", "machineId eq 'm0007' and type eq 'Isolate'", "id eq ''", "id eq '''",
		"id eq ''''", "id eq 'it''s'", "'id' eq 'x'",
		"id 'eq' 'x'", "id eq ne gt", "id eq x and", "and", "id eq x and and", "id eq\tx",
		"ID eq x", "id EQ x", "id eq 'a b' AND id eq c",
		"creationDateTimeUtc gt 2030-12-31T00:00:00Z",
		"creationDateTimeUtc le '9999-12-31T23:59:59+14:00'", "id eq \u212a", "id eq \xff",
		strings.Repeat("'", 1001), "id eq " + strings.Repeat("'", 1000), strings.Repeat("id eq x and ", 50),
	} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		items := []action{
			{}, {ID: "x", Status: "Pending", Created: time.Unix(1_900_000_000, 0)}, {ID: value,
				MachineID: "m0007", Type: "Isolate"},
		}
		if parsed, err := parseFilter[action](text); err == nil {
			if (parsed == nil) != (strings.TrimSpace(text) == "") {
				t.Fatalf("%q is %v", text, parsed)
			}
			known := action{}.properties()
			for _, c := range parsed {
				if _, ok := known[c.name]; !ok || !oneOf(c.operator, "eq ne gt ge lt le") || !strings.Contains(text, c.name) {
					t.Fatalf("%q has the comparison %+v", text, c)
				}
			}
			for _, item := range items {
				all := true
				for _, c := range parsed {
					all = filter{c}.accepts(item) && all
				}
				if all != parsed.accepts(item) {
					t.Fatalf("%q: %v of one by one, %v together", text, all, parsed.accepts(item))
				}
			}
		} else if _, ok := err.(problem); !ok {
			t.Fatalf("%q: %v", text, err)
		}

		quoted := "'" + strings.ReplaceAll(value, "'", "''") + "'"
		for _, operator := range []string{"eq", "ne", "gt", "ge", "lt", "le"} {
			parsed, err := parseFilter[action](" id " + operator + " " + quoted + " and type eq 'Isolate'")
			if err != nil || len(parsed) != 2 || parsed[0] != (comparison{"id", operator, value}) {
				t.Fatalf("%s %q is read as %+v, %v", operator, quoted, parsed, err)
			}
			if want := strings.Contains("eq ge le", operator); parsed.accepts(items[2]) != want {
				t.Fatalf("%q %s itself: %v", value, operator, !want)
			}
		}
	})
}

// A word of a list is one of its words, not a part of the list.
func TestOneOfTakesSingleWords(t *testing.T) {
	for word, want := range map[string]bool{
		"Low": true, "Medium": true, "High": true, "": false, " ": false, "Low Medium": false,
		"Low Medium High": false, "low": false, "Lo": false, "Low ": false,
	} {
		if got := oneOf(word, " Low Medium High "); got != want {
			t.Errorf("%q: %v", word, got)
		}
	}
}

// A text of quotes alone is read in a time that grows with it, and not with its square.
func TestFilterOfQuotesIsReadInOneGo(t *testing.T) {
	text := "id eq '" + strings.Repeat("''", 1<<19) + "'"
	allocated := testing.AllocsPerRun(1, func() {
		if parsed, err := parseFilter[action](text); err != nil || len(parsed[0].value) != 1<<19 {
			t.Errorf("%d comparisons, %v", len(parsed), err)
		}
	})
	if allocated > 1000 {
		t.Errorf("%v allocations", allocated)
	}
}
