package defendertest

import (
	"slices"
	"strings"
	"time"
)

// A filter is the comparisons of a $filter, all of which must hold. Nil accepts
// everything. Of OData's language it is the part that finds an action whose answer
// was lost, as in "machineId eq 'm0007' and type eq 'Isolate'"; what it doesn't
// know is an error, and never a filter that lets too much pass.
type filter []comparison

// A comparison is one of an entity's property with a constant.
type comparison struct {
	name     string
	operator string // eq, ne, gt, ge, lt or le
	value    string
}

// parseFilter reads comparisons joined by "and". It knows a property by asking an
// empty entity for it, so that a wrong name is an error for an empty list too.
func parseFilter[T entity](text string) (filter, error) {
	words, ok := filterWords(text)
	if !ok {
		return nil, errOData("Syntax error: unterminated string literal in '%s'.", text)
	}
	var none T
	known := none.properties()
	var f filter
	for len(words) > 0 {
		if len(words) < 3 {
			return nil, errOData("Syntax error: expression expected in '%s'.", text)
		}
		c := comparison{words[0], words[1], strings.TrimPrefix(words[2], "'")}
		if _, ok := known[c.name]; !ok {
			return nil, errOData("Could not find a property named '%s'.", c.name)
		}
		if !oneOf(c.operator, "eq ne gt ge lt le") {
			return nil, errOData("Syntax error: operator '%s' isn't known in '%s'.", c.operator, text)
		}
		f = append(f, c)
		words = words[3:]
		// An "and" must stand between two, but not at the end.
		if len(words) > 0 && (words[0] != "and" || len(words) == 1) {
			return nil, errOData("Syntax error: 'and' and an expression expected in '%s'.", text)
		}
		words = words[min(1, len(words)):]
	}
	return f, nil
}

// filterWords splits at blanks outside of quotes. A quoted word keeps its
// opening quote and loses the closing one; a doubled quote inside is one quote.
func filterWords(text string) (words []string, ok bool) {
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		if text[0] != '\'' {
			word, rest, _ := strings.Cut(text, " ")
			words, text = append(words, word), rest
			continue
		}
		// Built in one go: a word may be all quotes, as long as a header may be.
		var word strings.Builder
		for {
			part, rest, found := strings.Cut(text[1:], "'")
			if !found {
				return nil, false
			}
			word.WriteString("'" + part)
			if text = rest; !strings.HasPrefix(text, "'") {
				break
			}
		}
		words = append(words, word.String())
	}
	return words, true
}

// oneOf reports whether a word is one of those in a list, and not several of them.
func oneOf(word, list string) bool { return slices.Contains(strings.Fields(list), word) }

// accepts reports whether all comparisons hold.
func (f filter) accepts(e entity) bool {
	if f == nil {
		return true // without asking for properties: most lists aren't filtered
	}
	properties := e.properties()
	for _, c := range f {
		if !c.holds(properties[c.name]) {
			return false
		}
	}
	return true
}

// holds compares times as times, since their text needn't be of one length, and
// all else as text.
func (c comparison) holds(value string) bool {
	order := strings.Compare(value, c.value)
	a, errA := time.Parse(time.RFC3339, value)
	b, errB := time.Parse(time.RFC3339, c.value)
	if errA == nil && errB == nil {
		order = a.Compare(b)
	}
	switch c.operator {
	case "eq":
		return order == 0
	case "ne":
		return order != 0
	case "gt":
		return order > 0
	case "ge":
		return order >= 0
	case "lt":
		return order < 0
	}
	return order <= 0
}
