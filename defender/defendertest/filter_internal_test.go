package defendertest

import (
	"strings"
	"testing"
	"time"
)

// FuzzFilter: no text panics; what is refused is told as OData; what is accepted gives the same
// when it stands in parentheses, and the contrary behind not; and a comparison is read back as it
// was written, quotes included.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{
		"", " ", "machineId eq 'm0007' and type eq 'Isolate'", "id eq ''", "id eq '''", "id eq ''''",
		"id eq 'it''s'",
		"'id' eq 'x'", "id 'eq' 'x'", "id eq ne gt", "id eq 'x' and", "and", "id eq x and and",
		"id eq\tx",
		"ID eq 'x'", "id EQ 'x'", "id eq 'a b' AND id eq c",
		"creationDateTimeUtc gt 2030-12-31T00:00:00Z",
		"creationDateTimeUtc le 9999-12-31T23:59:59+14:00", "creationDateTimeUtc gt 2018-08-01Z",
		"id eq \u212a", "id eq \xff",
		"startswith(id,'x')", "startswith(id, 'x') or not (type ne null)", "not not id eq 'x'",
		"startswith(,)",
		"tags/any(t: t eq 'a' and t ne 'b')", "tags/any(id:id eq 'a')", "tags/any(:)",
		"tags/any(t:tags/any(u:u eq t))",
		"id/any(t:t eq 'a')", "tags eq 'a'", "count eq 7 or count eq '7' or count eq null",
		"count gt 99999999999999999999",
		"kind eq 'one'", "kind eq 'three'", strings.Repeat("(", 200), strings.Repeat("not ", 200),
		strings.Repeat("'", 1001), "id eq " + strings.Repeat("'", 1000),
		strings.Repeat("id eq 'x' or ", 50),
	} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		items := []thing{
			{}, {ID: "x", Created: time.Unix(1_900_000_000, 0), Tags: []string{"a", "b"}, Count: 7},
			{ID: value, Machine: "m0007", Type: "Isolate", Tags: []string{value}, Kind: "one"},
		}
		if accepts, err := parseFilter(thingProperties(), text); err != nil {
			if p, ok := err.(problem); !ok || p.code != "ODataError" || len(p.message) > 1000 {
				t.Fatalf("%q: %v", text, err)
			}
		} else if (accepts == nil) != (strings.Trim(text, " \t") == "") {
			t.Fatalf("%q: nil is %v", text, accepts == nil)
		} else if accepts != nil {
			// Both are one level deeper, which may be one too many.
			inner, errIn := parseFilter(thingProperties(), "("+text+")")
			contrary, errNot := parseFilter(thingProperties(), "not ("+text+")")
			for i := range items {
				got := accepts(&items[i], "")
				if errIn == nil && inner(&items[i], "") != got || errNot == nil &&
					contrary(&items[i], "") == got {
					t.Fatalf("%q: %v of %+v", text, got, items[i])
				}
			}
		}

		quoted := "'" + strings.ReplaceAll(value, "'", "''") + "'"
		for operator, want := range map[string]bool{"eq": true, "ne": false, "gt": false, "ge": true,
			"lt": false, "le": true} {
			accepts, err := parseFilter(thingProperties(),
				" id "+operator+" "+quoted+" and type eq 'Isolate'")
			if err != nil || accepts(&items[2], "") != want {
				t.Fatalf("%s %q: %v, want %v", operator, quoted, err, want)
			}
		}
		for _, text := range []string{"startswith(id," + quoted + ")", "tags/any(t:t eq " + quoted +
			")"} {
			if accepts, err := parseFilter(thingProperties(), text); err != nil || !accepts(&items[2], "") {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}

// A thing has a property of each kind.
type thing struct {
	ID, Machine, Type, Kind string
	Created                 time.Time
	Tags                    []string
	Count                   int
}

func thingProperties() []property[thing] {
	return []property[thing]{
		{"id", text, func(x *thing) value { return textValue(x.ID) }, ""},
		{"machineId", text, func(x *thing) value { return textValue(x.Machine) }, ""},
		{"type", text, func(x *thing) value { return textValue(x.Type) }, ""},
		{"kind", enumeration, func(x *thing) value { return enumValue(x.Kind) }, "one two"},
		{"creationDateTimeUtc", moment, func(x *thing) value { return timeValue(x.Created) }, ""},
		{"tags", collection, func(x *thing) value { return listValue(x.Tags) }, ""},
		{"count", number, func(x *thing) value { return numberValue(x.Count) }, ""},
	}
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
	for _, filter := range []string{
		"id eq '" + strings.Repeat("''", 1<<19) + "'",
		"startswith(id,'" + strings.Repeat("''", 1<<19) + "')",
		"tags/any(t: t eq '" + strings.Repeat("''", 1<<19) + "')",
	} {
		allocated := testing.AllocsPerRun(1, func() {
			if accepts, err := parseFilter(thingProperties(), filter); err != nil || accepts == nil {
				t.Errorf("%v", err)
			}
		})
		if allocated > 1000 {
			t.Errorf("%v allocations", allocated)
		}
	}
}

// What a filter may hold is bounded, so that the time it takes on a list is too.
func TestFilterIsBounded(t *testing.T) {
	or := func(n int) string { return strings.TrimSuffix(strings.Repeat("id eq 'x' or ", n), " or ") }
	nested := func(open, shut string, n int) string {
		return strings.Repeat(open, n) + "id eq 'x'" + strings.Repeat(shut, n)
	}
	for _, test := range []struct {
		filter string
		good   bool
	}{
		{or(maxComparisons), true}, {or(maxComparisons + 1), false},
		{nested("(", ")", maxNesting), true}, {nested("(", ")", maxNesting+1), false},
		{nested("not ", "", maxNesting), true}, {nested("not ", "", maxNesting+1), false},
		{nested("(", ")", 1<<18), false}, {nested("not ", "", 1<<18), false},
		{strings.Repeat("(", 1<<19), false},
	} {
		if _, err := parseFilter(thingProperties(), test.filter); (err == nil) != test.good {
			t.Errorf("%s: %v", shown(test.filter), err)
		}
	}
}
