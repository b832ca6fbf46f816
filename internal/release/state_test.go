package release

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var noon = time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)

// gone reports that the topic no longer holds a marker.
func gone(place) bool { return false }

// delayedEvent returns a record of the third partition of retry, at an offset.
func delayedEvent(user string, offset int64) *event.Event {
	return &event.Event{
		Record:   event.Record{Topic: "retry", Partition: 2, Offset: offset, Epoch: 5, Namespace: "id", Key: []byte(user), Class: topics.Retry},
		Delivery: event.Delivery{ID: "evt_1", Kind: webhook.DLR, Time: noon, Failure: "http 503"},
	}
}

func markerOf(id string, change func(*Marker)) *Marker {
	m := &Marker{ID: id, Created: noon, Cause: Operator, User: 42, Topics: map[string]int32{"retry": 3, "overflow": 3}}
	if change != nil {
		change(m)
	}
	return m
}

func TestSelects(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Marker)
		user   string
		want   bool
	}{
		"of the user":        {nil, "42", true},
		"of another user":    {nil, "43", false},
		"key is not a user":  {nil, "x", false},
		"other topics":       {func(m *Marker) { m.Topics = map[string]int32{"overflow": 3} }, "42", false},
		"partition is newer": {func(m *Marker) { m.Topics["retry"] = 2 }, "42", false},
		"all users":          {func(m *Marker) { m.User = 0 }, "43", true},
		"one of many":        {func(m *Marker) { m.User, m.Users = 0, map[int64][]string{42: {"click", "dlr"}} }, "42", true},
		"another kind":       {func(m *Marker) { m.User, m.Users = 0, map[int64][]string{42: {"click"}} }, "42", false},
		"none of many":       {func(m *Marker) { m.User, m.Users = 0, map[int64][]string{42: {"dlr"}} }, "43", false},
		"id":                 {func(m *Marker) { m.IDs = []string{"evt_0", "evt_1"} }, "42", true},
		"other ids":          {func(m *Marker) { m.IDs = []string{"evt_0"} }, "42", false},
		"error":              {func(m *Marker) { m.Error = "503" }, "42", true},
		"another error":      {func(m *Marker) { m.Error = "timeout" }, "42", false},
		"since":              {func(m *Marker) { m.Since = noon }, "42", true},
		"since later":        {func(m *Marker) { m.Since = noon.Add(1) }, "42", false},
		"until":              {func(m *Marker) { m.Until = noon }, "42", false},
		"until later":        {func(m *Marker) { m.Until = noon.Add(1) }, "42", true},
	} {
		e := delayedEvent(c.user, 7)
		if got := newRecovery(markerOf("rcv_1", c.change)).selects(e, userOf(e)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// report returns an entry with the progress of a recovery in the partition of delayedEvent.
func report(id string, start, next, end int64, done bool) entry {
	return entry{Progress: &progress{
		Topic: "retry", Partition: 2, Span: Span{[]byte("id"), start, next, end, 5}, Released: map[string]int64{id: next - start}, Done: done, Time: noon,
	}}
}

func TestDecide(t *testing.T) {
	const passes, released, held = "passes", "is released", "is held"
	marker, other := entry{Marker: markerOf("rcv_1", nil)}, entry{Marker: markerOf("rcv_2", nil)}
	for name, c := range map[string]struct {
		entries []entry
		change  func(*event.Event)
		want    map[int64]string // by offset
	}{
		"no recovery":                       {nil, nil, map[int64]string{0: passes}},
		"nothing is done yet":               {[]entry{marker}, nil, map[int64]string{0: held, 100: held}},
		"in the middle":                     {[]entry{marker, report("rcv_1", 10, 20, 30, false)}, nil, map[int64]string{9: passes, 10: released, 19: released, 20: held, 29: held, 30: passes}},
		"further":                           {[]entry{marker, report("rcv_1", 10, 20, 30, false), report("rcv_1", 10, 25, 30, false)}, nil, map[int64]string{9: passes, 24: released, 25: held}},
		"done":                              {[]entry{marker, report("rcv_1", 10, 30, 30, true)}, nil, map[int64]string{9: passes, 29: released, 30: passes}},
		"the marker is read last":           {[]entry{report("rcv_1", 10, 30, 30, true), marker}, nil, map[int64]string{29: released, 30: passes}},
		"nothing is there":                  {[]entry{marker, {Empty: &empty{"rcv_1", map[string][]int32{"retry": {2}}, noon}}}, nil, map[int64]string{5: passes}},
		"nothing is there, read first":      {[]entry{{Empty: &empty{"rcv_1", map[string][]int32{"retry": {2}}, noon}}, marker}, nil, map[int64]string{5: passes}},
		"another owner's late span":         {[]entry{marker, report("rcv_1", 10, 10, 10, true), report("rcv_1", 5, 8, 9, false)}, nil, map[int64]string{4: passes, 7: released, 8: passes}},
		"two, the first is done":            {[]entry{marker, other, report("rcv_1", 10, 30, 30, true)}, nil, map[int64]string{9: held, 10: released, 30: held}},
		"another user":                      {[]entry{marker}, func(e *event.Event) { e.Key = []byte("43") }, map[int64]string{5: passes}},
		"the topic was created again":       {[]entry{marker, report("rcv_1", 10, 30, 30, true)}, func(e *event.Event) { e.Namespace = "new" }, map[int64]string{10: passes}},
		"the offset was written again":      {[]entry{marker, report("rcv_1", 10, 30, 30, true)}, func(e *event.Event) { e.Epoch = 6 }, map[int64]string{10: passes}},
		"written before a leader changed":   {[]entry{marker, report("rcv_1", 10, 30, 30, true)}, func(e *event.Event) { e.Epoch = 4 }, map[int64]string{10: released}},
		"another partition of the recovery": {[]entry{marker, report("rcv_1", 10, 30, 30, true)}, func(e *event.Event) { e.Partition = 1 }, map[int64]string{10: held}},
	} {
		s := newState()
		for _, e := range c.entries {
			s.apply(e)
		}
		for offset, want := range c.want {
			e := delayedEvent("42", offset)
			if c.change != nil {
				c.change(e)
			}
			got := passes
			switch isReleased, undecided := s.Decide(e); {
			case isReleased:
				got = released
			case undecided:
				got = held
			}
			if got != want {
				t.Errorf("%s: the record at %d %s, want: %s", name, offset, got, want)
			}
		}
		if s.Any() != (len(c.entries) > 0) {
			t.Errorf("%s: Any is %v", name, s.Any())
		}
	}
}

// TestOrderDoesNotMatter reads the same records in any order, some twice, as JSON: the state is the same.
func TestOrderDoesNotMatter(t *testing.T) {
	one := func(m *Marker) { m.Topics = map[string]int32{"retry": 3} }
	entries := []entry{
		{Marker: markerOf("rcv_1", one)}, {Marker: markerOf("rcv_2", one)},
		report("rcv_1", 10, 20, 30, false), report("rcv_1", 10, 25, 30, false), report("rcv_1", 10, 30, 30, true),
		report("rcv_2", 30, 40, 40, true),
		{Empty: &empty{"rcv_1", map[string][]int32{"retry": {0, 1}}, noon.Add(time.Second)}},
		{Empty: &empty{"rcv_2", map[string][]int32{"retry": {0}}, noon}},
	}
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 0))
		all := append(append([]entry(nil), entries...), entries[random.IntN(len(entries))])
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		s := newState()
		for _, e := range all {
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			var read entry
			if err := json.Unmarshal(text, &read); err != nil {
				t.Fatal(err)
			}
			s.apply(read)
		}
		first, _ := s.Status("rcv_1")
		second, _ := s.Status("rcv_2")
		if got := fmt.Sprint(first.Released, first.Ended, second.Released, second.Ended.IsZero(), s.Running(), len(s.jobs(unit{"retry", 1}))); got != fmt.Sprint(20, noon.Add(time.Second), 10, true, 1, 1) {
			t.Fatalf("seed %d: %s", seed, got)
		}
		for offset, want := range map[int64]bool{9: false, 10: true, 29: true, 39: true, 40: false} {
			if released, undecided := s.Decide(delayedEvent("42", offset)); released != want || undecided {
				t.Fatalf("seed %d: the record at %d: %v, %v", seed, offset, released, undecided)
			}
		}
	}
}

func TestLatest(t *testing.T) {
	s := newState()
	if _, ok := s.Latest(42); ok {
		t.Error("there is one")
	}
	for _, m := range []*Marker{
		markerOf("rcv_1", func(m *Marker) { m.Cause = Customer }),
		markerOf("rcv_2", func(m *Marker) { m.Created = noon.Add(time.Hour) }),
		markerOf("rcv_3", func(m *Marker) { m.Cause, m.Created = Resume, noon.Add(2*time.Hour) }),
		markerOf("rcv_4", func(m *Marker) {
			m.User, m.Users, m.Created = 0, map[int64][]string{42: {"dlr"}}, noon.Add(2*time.Hour)
		}),
		markerOf("rcv_5", func(m *Marker) { m.User, m.Created = 0, noon.Add(2*time.Hour) }),
	} {
		s.apply(entry{Marker: m})
	}
	if latest, ok := s.Latest(42); !ok || latest.ID != "rcv_2" || !latest.Ended.IsZero() || s.Running() != 5 {
		t.Errorf("%+v, %d are running", latest, s.Running())
	}
	s.forget(noon.Add(90*time.Minute), gone)
	if latest, ok := s.Latest(42); ok || s.Running() != 3 {
		t.Errorf("%+v, %d are running", latest, s.Running())
	}
	s.forget(noon.Add(3*time.Hour), gone)
	if s.Any() || s.Running() != 0 || len(s.byUser) != 0 {
		t.Error("something is left")
	}
}

// TestResumeID checks that all instances derive the same id, and that two pauses have different ones.
func TestResumeID(t *testing.T) {
	ids := map[string]bool{}
	for _, kind := range webhook.Kinds() {
		for user := range int64(3) {
			for _, document := range []string{"a/0/1/2", "a/0/1/3", "b/0/1/2"} {
				id := resumeID(user, kind, document)
				if ids[id] || id != resumeID(user, kind, document) {
					t.Errorf("%s", id)
				}
				ids[id] = true
			}
		}
	}
}

func TestSplit(t *testing.T) {
	m := Marker{Users: map[int64][]string{}}
	if parts := m.split(); len(parts) != 1 {
		t.Errorf("%d parts", len(parts))
	}
	for user := range int64(2*maxUsers + 1) {
		m.Users[user] = []string{"dlr"}
	}
	users := map[int64]bool{}
	parts := m.split()
	for _, part := range parts {
		for user := range part.Users {
			users[user] = true
		}
		if len(part.Users) > maxUsers {
			t.Errorf("a part has %d users", len(part.Users))
		}
	}
	if len(parts) != 3 || len(users) != 2*maxUsers+1 {
		t.Errorf("%d parts with %d users", len(parts), len(users))
	}
}

// TestRetires checks that of recoveries that copied nothing only the user's latest is kept, and that they do not begin
// again.
func TestRetires(t *testing.T) {
	s := newState()
	everything := map[string][]int32{"retry": {0, 1, 2}, "overflow": {0, 1, 2}}
	var entries []entry
	for n := range 100 {
		id := fmt.Sprintf("rcv_%d", n)
		m := markerOf(id, func(m *Marker) {
			m.Created, m.IDs = noon.Add(time.Duration(n)*time.Second), []string{"evt_1"}
			switch n % 4 {
			case 1:
				m.Cause = Resume
			case 2:
				m.User, m.Users = 0, map[int64][]string{42: {"dlr"}, 43: {"dlr"}}
			case 3:
				m.User = 0
			}
		})
		entries = append(entries, entry{Marker: m}, entry{Empty: &empty{id, everything, noon.Add(time.Hour)}})
	}
	for _, e := range slices.Concat(entries, entries) {
		s.apply(e)
		if latest, ok := s.Latest(42); !ok || latest.Cause != Operator {
			t.Fatalf("the latest is %+v, %v", latest, ok)
		}
	}
	if latest, _ := s.Latest(42); latest.ID != "rcv_96" || latest.Ended.IsZero() || latest.Released != 0 {
		t.Errorf("the latest is %+v", latest)
	}
	if s.Any() || s.Running() != 0 || len(s.byUser) != 1 || len(s.byUser[42]) != 1 || len(s.ofAll) != 0 {
		t.Errorf("any %v, %d running, %d users, %d of the user, %d of all", s.Any(), s.Running(), len(s.byUser), len(s.byUser[42]), len(s.ofAll))
	}
	for _, r := range s.byID {
		if r.Topics != nil || r.ids != nil || r.units != nil || r.IDs != nil {
			t.Fatalf("%s still selects: %+v", r.ID, r)
		}
		r.seen = r.seen.Add(-2 * remembered)
	}
	s.apply(entry{Marker: markerOf("rcv_new", nil)})
	s.apply(report("rcv_new", 10, 20, 20, true))
	s.apply(entry{Empty: &empty{"rcv_new", everything, noon}})
	s.forget(noon.Add(-time.Hour), gone)
	if len(s.byID) != 1 || !s.Any() || len(s.byID["rcv_new"].Topics) != 1 {
		t.Errorf("%d recoveries, any %v: %+v", len(s.byID), s.Any(), s.byID["rcv_new"])
	}
	if released, undecided := s.Decide(delayedEvent("42", 15)); !released || undecided {
		t.Errorf("what was copied: released %v, undecided %v", released, undecided)
	}
	s.forget(noon.Add(time.Hour), gone)
	if s.Any() || len(s.byID)+len(s.byUser) != 0 {
		t.Errorf("%d recoveries, %d users, any %v", len(s.byID), len(s.byUser), s.Any())
	}
}
