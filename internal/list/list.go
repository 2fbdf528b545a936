// Package list is a doubly linked list whose links are a part of what is in it. Putting something
// in allocates nothing, and it can be taken out without asking which list it is in.
package list

import "iter"

// List is a list of things that are elsewhere. The zero value is empty. It must not be copied.
type List[T any] struct{ root Links[T] }

// Links is a thing's place in one list: a field of the thing. The zero value is in none. It must
// not be copied while it is in one.
type Links[T any] struct {
	next, prev *Links[T] // in a ring with the list's root
	thing      *T        // nil: this is a root
}

// PushBack puts a thing at the end, by its links. It leaves the list that they were in.
func (l *List[T]) PushBack(thing *T, links *Links[T]) { l.ring().prev.PushAfter(thing, links) }

// PushFront puts a thing at the beginning.
func (l *List[T]) PushFront(thing *T, links *Links[T]) { l.ring().PushAfter(thing, links) }

func (l *List[T]) ring() *Links[T] {
	if l.root.next == nil {
		l.root.next, l.root.prev = &l.root, &l.root
	}
	return &l.root
}

// PushAfter puts a thing behind the one whose links l is. That one must be in a list.
func (l *Links[T]) PushAfter(thing *T, links *Links[T]) {
	if links != l {
		links.Remove()
		links.next, links.prev, links.thing = l.next, l, thing
		links.next.prev, l.next = links, links
	}
}

// Remove takes the thing out of the list that it is in, if it is in one.
func (l *Links[T]) Remove() {
	if l.next != nil {
		l.next.prev, l.prev.next = l.prev, l.next
		*l = Links[T]{}
	}
}

// Linked reports whether the thing is in a list.
func (l *Links[T]) Linked() bool { return l.next != nil }

// Next returns the thing behind, nil if there is none.
func (l *Links[T]) Next() *T { return l.next.get() }

// Prev returns the thing in front, nil if there is none.
func (l *Links[T]) Prev() *T { return l.prev.get() }

func (l *Links[T]) get() *T {
	if l == nil {
		return nil
	}
	return l.thing
}

// Front returns the first, nil if the list is empty.
func (l *List[T]) Front() *T { return l.root.Next() }

// Back returns the last, nil if the list is empty.
func (l *List[T]) Back() *T { return l.root.Prev() }

// All is the things from the first to the last. What it has just yielded may be taken out.
func (l *List[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for at := l.root.next; at.get() != nil; {
			next := at.next
			if !yield(at.thing) {
				return
			}
			at = next
		}
	}
}

// Len counts the things one by one.
func (l *List[T]) Len() (n int) {
	for range l.All() {
		n++
	}
	return n
}

// Clear takes all out, one by one.
func (l *List[T]) Clear() {
	for l.Front() != nil {
		l.root.next.Remove()
	}
}
