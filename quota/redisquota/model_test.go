package redisquota

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// model is the script in Go: what Redis does with the arguments of a request at a time of its clock.
// That both do the same is TestScriptIsAsItsModel's to show.
type model struct {
	exists                   bool
	epoch                    string
	last, skew, learn, pause int64
	turn, span, lows         int64
	n                        int
	stamp                    string // the server that it was on last
	server                   string // that it is on now: it is not part of the state
	low, conf                string
	known                    int64 // -1: none
	used                     []int64
	away                     int64
	told                     map[string][3]int64 // r:
	dues                     map[string][2]int64 // d:
	log, normal, line, seen  map[string]int64
}

func newModel() *model {
	m := &model{}
	m.wipe()
	return m
}

// wipe is FLUSHALL.
func (m *model) wipe() {
	*m = model{server: m.server, known: -1, told: map[string][3]int64{}, dues: map[string][2]int64{},
		log: map[string]int64{}, normal: map[string]int64{}, line: map[string]int64{}, seen: map[string]int64{}}
}

func (m *model) clone() *model {
	c := *m
	c.told, c.dues = maps.Clone(m.told), maps.Clone(m.dues)
	c.log, c.normal, c.line, c.seen = maps.Clone(m.log), maps.Clone(m.normal), maps.Clone(m.line), maps.Clone(m.seen)
	c.used = slices.Clone(m.used)
	return &c
}

type member struct {
	id    string
	score int64
}

func sorted(set map[string]int64) []member {
	list := make([]member, 0, len(set))
	for id, score := range set {
		list = append(list, member{id, score})
	}
	slices.SortFunc(list, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.id, b.id))
	})
	return list
}

func since(set map[string]int64, after int64) (n int64) {
	for _, score := range set {
		if score > after {
			n++
		}
	}
	return n
}

type limitArgs struct{ n, normal, per int64 }

func (m *model) run(args []any, raw int64) []string {
	at := 0
	text := func() string { at++; return fmt.Sprint(args[at-1]) }
	number := func() int64 {
		v, err := strconv.ParseInt(text(), 10, 64)
		if err != nil {
			panic(err)
		}
		return v
	}
	me, seq, acked, epoch, flags := text(), number(), number(), text(), text()
	lease, dead, learning, grace, silence, delay := number(), number(), number(), number(), number(), number()
	var want, need [2]int64 // high, normal
	want[0], need[0], want[1], need[1] = number(), number(), number(), number()
	windows := make([]limitArgs, number())
	span := int64(0)
	for i := range windows {
		w := &windows[i]
		w.n, w.normal, w.per = number(), number(), number()
		span = max(span, w.per)
	}
	conf := text()
	before := cmp.Or(m.conf, conf)
	has := func(f string) bool { return strings.Contains(flags, f) }
	reserved := has("N")
	span = max(span, m.span)
	stored := m.told[me]
	if m.exists && seq < stored[0] {
		return []string{"late"}
	}
	now := max(raw-m.skew, m.last)
	lose := func(until int64) {
		lows, low, skew, pause := m.lows, m.low, m.skew, m.pause
		last := m.last
		m.wipe()
		m.exists, m.lows, m.low, m.skew, m.pause, m.last = true, lows, low, skew, pause, last
		m.epoch = fmt.Sprintf("%d.%s", raw, me)
		m.learn = until
		stored = [3]int64{}
	}
	step, from, to := text(), number(), number()
	switch {
	case !m.exists && epoch == "" && has("E"):
		lose(now)
	case !m.exists && epoch == "" && has("S"):
		lose(now + span)
	case !m.exists:
		lose(now + learning)
	case m.n != len(m.log), m.server != "" && m.stamp != "" && m.stamp != m.server, stored[0] < acked && (epoch == m.epoch || stored[0] > 0 && stored[0] < seq):
		lose(now + learning)
	case step == "step" && epoch == m.epoch && from == m.skew && seq > stored[0]:
		m.skew = to
		now = raw - m.skew
		lose(now + learning)
	}
	others := since(m.seen, 0)
	if m.seen[me] > 0 {
		others--
	}
	if (has("A") || m.last < m.learn) && now-m.last > silence && m.last > 0 && others > 0 {
		m.learn = max(m.learn, now+learning)
	}
	known := epoch == m.epoch
	again := known && seq == stored[0]
	m.seen[me] = now
	age, away := number(), number()
	used := make([]int64, len(windows))
	for i := range used {
		used[i] = number()
	}
	if age >= 0 && known && !again {
		for i, n := range m.used {
			used[i] = max(used[i], n)
		}
		m.known, m.used = max(m.known, now-age), used
	}
	if asked := number(); asked > 0 && !again {
		m.pause = max(m.pause, now+asked)
	}
	heard, low := number(), text()
	if low != "" && !again {
		m.lows, m.low = max(now, m.lows+1), low
	}
	if known && !again {
		if has("U") {
			m.learn = max(m.learn, now+learning)
		} else if has("R") && now >= m.learn {
			m.learn = now + learning
		}
		m.away += away
		for range number() {
			score, id := now-number(), me+":"+text()
			for _, set := range []map[string]int64{m.log, m.normal} {
				if old, ok := set[id]; ok && score < old {
					set[id] = score
				}
			}
		}
		for _, sets := range [][]map[string]int64{{m.log}, {m.log, m.normal}} {
			for range number() {
				score, id := now-number(), me+":"+text()
				for i, set := range sets {
					if old, ok := set[id]; (!ok || score > old) && (i == 0 || reserved) {
						set[id] = score
					}
				}
			}
		}
		for range number() {
			id := me + ":" + text()
			delete(m.log, id)
			delete(m.normal, id)
		}
		for class := 1; class <= 2; class++ {
			for i := range number() {
				score, n := now-number(), number()
				for j := range n {
					id := fmt.Sprintf("%s:%d.%d.%d.%d", me, seq, class, i+1, j+1)
					m.log[id] = score
					if reserved && class == 2 {
						m.normal[id] = score
					}
				}
			}
		}
	}
	for _, p := range sorted(m.seen) {
		if p.score <= 0 || p.score > now-dead {
			continue
		}
		for _, set := range []map[string]int64{m.log, m.normal} {
			for id, score := range set {
				if score > p.score+dead && strings.HasPrefix(id, p.id+":") {
					set[id] = p.score + dead
				}
			}
		}
		delete(m.line, "h"+p.id)
		delete(m.line, "n"+p.id)
		m.seen[p.id] = -p.score
	}
	keep := span + lease + learning + 60_000_000
	for p, score := range m.seen {
		if score < 0 && score > keep-now {
			delete(m.seen, p)
			delete(m.told, p)
			delete(m.dues, "h"+p)
			delete(m.dues, "n"+p)
		}
	}
	if now >= m.learn && m.known >= 0 {
		type usedIn struct{ per, used int64 }
		order := make([]usedIn, 0, len(windows))
		for i, w := range windows {
			if i < len(m.used) {
				order = append(order, usedIn{w.per, m.used[i]})
			}
		}
		slices.SortStableFunc(order, func(a, b usedIn) int { return cmp.Compare(a.per, b.per) })
		upto := m.known
		for i, w := range order {
			have := since(m.log, m.known-w.per) - m.away
			for j := int64(1); j <= w.used-have; j++ {
				id := fmt.Sprintf("fill:%d.%d.%d", m.known, i+1, j)
				m.log[id] = upto
				if reserved {
					m.normal[id] = upto
				}
			}
			upto = m.known - w.per
		}
		m.known, m.used, m.away = -1, nil, 0
	}
	old := now - span
	if now < m.learn {
		old -= 2 * learning
	}
	for _, set := range []map[string]int64{m.log, m.normal} {
		for i, e := range sorted(set) {
			if e.score <= old && i < 1000 {
				delete(set, e.id)
			}
		}
	}
	taken, normals := make([]int64, len(windows)), make([]int64, len(windows))
	for i, w := range windows {
		taken[i] = since(m.log, now-w.per)
		if reserved {
			normals[i] = since(m.normal, now-w.per)
		}
	}
	room := func(class int, ahead, needs int64) (least int64, fits bool) {
		least, fits = math.MaxInt64, true
		for i, w := range windows {
			least = min(least, w.n-taken[i]-ahead)
			fits = fits && taken[i]+ahead+min(needs, w.n) <= w.n
			if reserved && class == 1 {
				least = min(least, w.normal-normals[i]-ahead)
				fits = fits && normals[i]+ahead+min(needs, w.normal) <= w.normal
			}
		}
		return least, fits
	}
	earliest := func(class int, ahead, needs int64) (when, per int64) {
		consider := func(set map[string]int64, n int64, w limitArgs) {
			index, rounds := n-ahead-min(needs, n), int64(0)
			if index < 0 {
				rounds = (-index + n - 1) / n
				index += rounds * n
			}
			list := sorted(set)
			t := int64(0)
			if index < int64(len(list)) {
				t = list[int64(len(list))-1-index].score
				if t > now {
					t = max(now, t-lease+delay)
				}
				t += w.per
			} else if rounds > 0 {
				t = now
			}
			t += rounds * (w.per + delay)
			if t > when {
				when, per = t, w.per
			}
		}
		for _, w := range windows {
			consider(m.log, w.n, w)
			if reserved && class == 1 {
				consider(m.normal, w.normal, w)
			}
		}
		return when, per
	}
	places := 0
	ask := func(class int) (got, wait int64) {
		member := "hn"[class:class+1] + me
		wanted, needs := want[class], need[class]
		if wanted == 0 {
			delete(m.line, member)
		}
		if wanted <= 0 {
			return 0, -1
		}
		stand := func() {
			m.turn++
			m.line[member] = m.turn
			if class == 0 {
				m.line[member] -= 35184372088832
			}
		}
		if _, in := m.line[member]; in {
			m.turn++
		} else {
			stand()
		}
		if closed := max(m.learn, m.pause); now < closed {
			m.dues[member] = [2]int64{closed, needs}
			return 0, closed - now
		}
		ahead, soon, due := int64(0), int64(0), int64(0)
		for _, other := range sorted(m.line) {
			if other.id == member {
				break
			}
			d, ok := m.dues[other.id]
			if !ok {
				d = [2]int64{0, 1}
			}
			if d[0] < now-grace {
				delete(m.line, other.id)
				continue
			}
			ahead += d[1]
			if d[0] <= now+2000 || d[1] > 1 {
				soon, due = soon+d[1], max(due, d[0])
			}
		}
		least, fits := room(class, soon, needs)
		waiting := int64(len(m.line))
		if fits {
			share := (least + soon) / waiting
			if (least+soon)%waiting < 0 {
				share--
			}
			got = max(needs, min(wanted, share, least))
			for range got {
				places++
				id := fmt.Sprintf("%s:%d:%d", me, seq, places)
				m.log[id] = now + lease
				if reserved && class == 1 {
					m.normal[id] = now + lease
				}
			}
			for i := range windows {
				taken[i] += got
				if class == 1 {
					normals[i] += got
				}
			}
			if got >= wanted {
				delete(m.line, member)
				return got, -1
			}
			wanted -= got
			stand()
			ahead = waiting - 1
		}
		when, per := earliest(class, ahead, needs)
		if when <= now {
			when = max(now, due) + 2000
		} else if wanted > needs {
			several, _ := earliest(class, ahead, max(needs, min(wanted, windows[0].n/waiting)))
			// The script adds a fraction of a microsecond, and rounds up.
			when = min(max(when, several), when+(per+199)/200)
		}
		when = max(when, now+500)
		m.dues[member] = [2]int64{when, needs}
		return got, when - now
	}
	granted, waits := [2]int64{}, [2]int64{-1, -1}
	if again {
		granted = [2]int64{stored[1], stored[2]}
	} else if known {
		if has("B") {
			delete(m.line, "h"+me)
			delete(m.line, "n"+me)
			delete(m.seen, me)
		} else {
			for class := range 2 {
				granted[class], waits[class] = ask(class)
			}
		}
	}
	m.last, m.span, m.n, m.stamp = now, span, len(m.log), m.server
	m.conf = conf
	m.told[me] = [3]int64{seq, granted[0], granted[1]}
	status := "changed"
	if known {
		status = "ok"
	}
	reply := []string{status, m.epoch}
	add := func(v int64) { reply = append(reply, strconv.FormatInt(v, 10)) }
	for _, v := range []int64{raw, m.skew, granted[0], granted[1], waits[0], waits[1], since(m.seen, 0),
		max(0, m.pause-now), max(0, m.learn-now), m.lows} {
		add(v)
	}
	if m.lows != heard {
		reply = append(reply, m.low)
		add(now - m.lows)
	} else {
		reply = append(reply, "", "0")
	}
	for _, v := range taken {
		add(v)
	}
	return append(reply, before)
}
