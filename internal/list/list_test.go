package list_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/steadyhttp/steadyhttp/internal/list"
)

type thing struct {
	name  byte
	place list.Links[thing]
	other list.Links[thing] // in a list of its own: a thing can be in as many as it has links
}

// model is what two lists that share their things' links, and one with links of its own, hold.
type model struct {
	things [8]thing
	lists  [2]list.List[thing]
	want   [2][]*thing
	others list.List[thing]
}

func newModel() *model {
	m := new(model)
	for i := range m.things {
		t := &m.things[i]
		t.name = byte('a' + i)
		m.others.PushBack(t, &t.other)
	}
	return m
}

// in returns which list a thing is in and where, as the slices have it.
func (m *model) in(t *thing) (l, at int) {
	for l := range m.want {
		if at := slices.Index(m.want[l], t); at >= 0 {
			return l, at
		}
	}
	return -1, -1
}

func (m *model) take(t *thing) {
	if l, at := m.in(t); l >= 0 {
		m.want[l] = slices.Delete(m.want[l], at, at+1)
	}
}

// step carries out what a number says, on both sides.
func (m *model) step(op, which byte) {
	l, t, mark := int(op>>3&1), &m.things[which&7], &m.things[which>>3&7]
	switch op & 7 {
	case 0, 1:
		m.take(t)
		m.want[l] = append(m.want[l], t)
		m.lists[l].PushBack(t, &t.place)
	case 2:
		m.take(t)
		m.want[l] = slices.Insert(m.want[l], 0, t)
		m.lists[l].PushFront(t, &t.place)
	case 3, 4:
		if l, _ := m.in(mark); l >= 0 {
			if t != mark {
				m.take(t)
				_, at := m.in(mark)
				m.want[l] = slices.Insert(m.want[l], at+1, t)
			}
			mark.place.PushAfter(t, &t.place)
		}
	case 5:
		m.take(t)
		t.place.Remove()
	case 6: // those of an odd name, while the list is walked
		for at := range m.lists[l].All() {
			if at.name&1 == 1 {
				at.place.Remove()
			}
		}
		m.want[l] = slices.DeleteFunc(m.want[l], func(t *thing) bool { return t.name&1 == 1 })
	case 7:
		if which&7 == 0 { // or the lists would never grow
			m.lists[l].Clear()
			m.want[l] = nil
		}
	}
}

func at(all []*thing, i int) *thing {
	if i < 0 || i >= len(all) {
		return nil
	}
	return all[i]
}

// check compares all that a list tells with the slices.
func (m *model) check(t *testing.T) {
	t.Helper()
	for i := range m.lists {
		l, want := &m.lists[i], m.want[i]
		if got := slices.Collect(l.All()); !slices.Equal(got, want) {
			t.Fatalf("list %d is %s, want %s", i, names(got), names(want))
		}
		var back []*thing
		for at := l.Back(); at != nil && len(back) <= len(m.things); at = at.place.Prev() {
			back = append(back, at)
		}
		slices.Reverse(back)
		if !slices.Equal(back, want) {
			t.Fatalf("backwards, list %d is %s, want %s", i, names(back), names(want))
		}
		if l.Len() != len(want) || l.Front() != at(want, 0) || l.Back() != at(want, len(want)-1) {
			t.Fatalf("list %d of %s: Len %d, Front %p, Back %p", i, names(want), l.Len(), l.Front(),
				l.Back())
		}
	}
	for i := range m.things {
		place := &m.things[i].place
		l, where := m.in(&m.things[i])
		var prev, next *thing
		if l >= 0 {
			prev, next = at(m.want[l], where-1), at(m.want[l], where+1)
		}
		if place.Linked() != (l >= 0) || place.Prev() != prev || place.Next() != next {
			t.Fatalf("%c: Linked %v, Prev %p, Next %p; want %v, %p, %p", m.things[i].name,
				place.Linked(), place.Prev(), place.Next(), l >= 0, prev, next)
		}
	}
	if m.others.Len() != len(m.things) {
		t.Fatalf("the list with links of its own has %d things, want %d", m.others.Len(), len(m.things))
	}
}

func names(all []*thing) string {
	var s []byte
	for _, t := range all {
		s = append(s, t.name)
	}
	return string(s)
}

// Whatever is done to lists, they hold what slices would hold.
func TestLikeASlice(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		m := newModel()
		m.check(t)
		for range 200 {
			m.step(byte(random.Uint32()), byte(random.Uint32()))
			m.check(t)
		}
	}
}

// FuzzLikeASlice: each two bytes are a step.
func FuzzLikeASlice(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 2, 2, 3, 8, 5, 1, 8, 0, 7, 0})
	f.Add([]byte{8, 1, 8, 3, 3, 8 + 3, 14, 0, 15, 0, 0, 1})
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := newModel()
		for ; len(steps) > 1; steps = steps[2:] {
			m.step(steps[0], steps[1])
			m.check(t)
		}
	})
}

// A loop that ends early leaves the list as it is.
func TestLoopThatEndsEarly(t *testing.T) {
	m := newModel()
	for i := range m.things {
		m.step(0, byte(i))
	}
	n := 0
	for range m.lists[0].All() {
		if n++; n == 3 {
			break
		}
	}
	m.check(t)
}

// What is taken out is not kept from the garbage collector, and keeps nothing from it.
func TestWhatIsTakenOutKeepsNothing(t *testing.T) {
	m := newModel()
	for i := range m.things {
		m.step(0, byte(i))
	}
	m.things[1].place.Remove()
	m.lists[0].Clear()
	for i := range m.things {
		if m.things[i].place != (list.Links[thing]{}) {
			t.Errorf("%c still has links", m.things[i].name)
		}
	}
}

// Nothing is allocated to put something in, walk over it, and take it out.
func TestNothingIsAllocated(t *testing.T) {
	m, seen := newModel(), 0
	if n := testing.AllocsPerRun(100, func() {
		for i := range m.things {
			m.lists[0].PushBack(&m.things[i], &m.things[i].place)
		}
		for range m.lists[0].All() {
			seen++
		}
		m.lists[0].Clear()
	}); n != 0 || seen == 0 {
		t.Errorf("%v allocations, %d seen", n, seen)
	}
}
