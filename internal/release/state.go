package release

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

// remembered is how long a recovery that copied nothing is known by its id, so that its records, which may be read
// twice or late, do not begin it again.
const remembered = time.Hour

// pauseSettles is the time from the end of a pause to the release of its events: until every instance knows of it and
// stores no more of them.
const pauseSettles = 2 * time.Second

// State holds the recoveries and their progress. It is safe for concurrent use.
type State struct {
	known atomic.Int64 // recoveries that may decide about a record

	mu     sync.RWMutex
	byID   map[string]*recovery
	byUser map[int64][]*recovery // in the order in which they were read
	ofAll  []*recovery           // that select the events of all users
	open   map[string]*recovery  // that have work left
}

// recovery is a marker and its progress.
type recovery struct {
	*Marker                 // nil if only its progress was read so far
	ids     map[string]bool // nil = all
	seen    time.Time       // when this process read its first record
	units   map[unit]*done
	left    int // units that are not done, once the marker is known
	moved   int64
	ended   time.Time
	retired bool // it has ended and copied nothing
	at      place
}

// place is the position of a marker in the topic.
type place struct {
	topic     [16]byte
	partition int32
	offset    int64
}

// done is what a recovery has done in a unit.
type done struct {
	spans    []Span // the last one is the current one
	all      bool   // nothing is left to do
	released int64
}

func newState() *State {
	return &State{byID: map[string]*recovery{}, byUser: map[int64][]*recovery{}, open: map[string]*recovery{}}
}

// Any reports whether there are recoveries that may decide about a record.
func (s *State) Any() bool { return s.known.Load() > 0 }

// apply adds a record of the topic. It may be called twice with the same record.
func (s *State) apply(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Marker != nil:
		s.addMarker(e.Marker)
	case e.Progress != nil:
		for id, released := range e.Progress.Released {
			r := s.recovery(id)
			r.progress(e.Progress, released)
			s.close(id, r)
		}
	case e.Empty != nil:
		r := s.recovery(e.Empty.ID)
		if r.Marker != nil && r.left == 0 {
			return // its empty units are forgotten
		}
		for topic, partitions := range e.Empty.Units {
			for _, p := range partitions {
				r.finish(r.unit(unit{topic, p}), e.Empty.Time)
			}
		}
		s.close(e.Empty.ID, r)
	}
}

// close ends a recovery that has no work left. What remains are the spans, and the parts of the marker that select
// records in them.
func (s *State) close(id string, r *recovery) {
	if r.Marker == nil || r.left > 0 {
		return
	}
	delete(s.open, id)
	units := map[unit]*done{} // a new map: one from which entries are deleted keeps its size
	for u, d := range r.units {
		if len(d.spans) > 0 {
			units[u] = d
		}
	}
	r.units = units
	m := *r.Marker
	m.Topics, m.Ends = make(map[string]int32, len(r.units)), make(map[string][]int64, len(r.units))
	for u := range r.units {
		m.Topics[u.topic] = r.Topics[u.topic]
		if ends, bounded := r.Ends[u.topic]; bounded {
			m.Ends[u.topic] = ends
		}
	}
	if r.Marker = &m; len(r.units) == 0 && !r.retired {
		s.retire(r)
	}
}

// retire forgets what a recovery that copied nothing selects. Only a user's latest one is kept, so that any number of
// recoveries without an effect costs neither memory nor time to decide.
func (s *State) retire(r *recovery) {
	users := maps.Keys(r.Users)
	if r.User != 0 {
		users = maps.Keys(map[int64]bool{r.User: true})
	}
	r.Marker = &Marker{ID: r.ID, Created: r.Created, Cause: r.Cause, User: r.User}
	r.ids, r.units, r.retired = nil, nil, true
	s.known.Add(-1)
	for userID := range users {
		var latest *recovery
		for _, o := range s.byUser[userID] {
			if o.retired && o.asked() && (latest == nil || !o.Created.Before(latest.Created)) {
				latest = o
			}
		}
		s.setUser(userID, slices.DeleteFunc(s.byUser[userID], func(o *recovery) bool { return o.retired && o != latest }))
	}
	s.ofAll = slices.DeleteFunc(s.ofAll, func(o *recovery) bool { return o == r })
}

// setUser sets the recoveries that select a user's events.
func (s *State) setUser(userID int64, rs []*recovery) {
	if s.byUser[userID] = rs; len(rs) == 0 {
		delete(s.byUser, userID)
	}
}

// recovery returns the recovery with that id, and begins it if it is unknown: the records of a topic's partitions are
// read in any order.
func (s *State) recovery(id string) *recovery {
	r := s.byID[id]
	if r == nil {
		r = &recovery{seen: time.Now(), units: map[unit]*done{}}
		s.byID[id] = r
	}
	return r
}

func (s *State) addMarker(m *Marker) {
	r := s.recovery(m.ID)
	if r.Marker != nil {
		return // written by several instances: the first one counts
	}
	r.set(m)
	for _, partitions := range m.Topics {
		r.left += int(partitions)
	}
	for u, d := range r.units {
		if d.all && m.examines(u) {
			r.left--
		}
	}
	switch {
	case m.User != 0:
		s.byUser[m.User] = append(s.byUser[m.User], r)
	case m.Users != nil:
		for userID := range m.Users {
			s.byUser[userID] = append(s.byUser[userID], r)
		}
	default:
		s.ofAll = append(s.ofAll, r)
	}
	s.known.Add(1)
	s.open[m.ID] = r
	s.close(m.ID, r)
}

// newRecovery returns a recovery that has not begun.
func newRecovery(m *Marker) *recovery {
	r := &recovery{units: map[unit]*done{}}
	r.set(m)
	return r
}

func (r *recovery) set(m *Marker) {
	r.Marker = m
	if len(m.IDs) > 0 {
		r.ids = make(map[string]bool, len(m.IDs))
		for _, id := range m.IDs {
			r.ids[id] = true
		}
	}
}

func (r *recovery) unit(u unit) *done {
	d := r.units[u]
	if d == nil {
		if r.units == nil {
			r.units = map[unit]*done{}
		}
		d = &done{}
		r.units[u] = d
	}
	return d
}

func (r *recovery) progress(p *progress, released int64) {
	d := r.unit(unit{p.Topic, p.Partition})
	n := len(d.spans)
	if n > 0 && d.spans[n-1].Start == p.Span.Start && string(d.spans[n-1].Space) == string(p.Span.Space) {
		last := &d.spans[n-1]
		last.Next, last.Epoch = max(last.Next, p.Span.Next), max(last.Epoch, p.Span.Epoch)
	} else {
		d.spans = append(d.spans, p.Span)
	}
	if released > d.released {
		r.moved += released - d.released
		d.released = released
	}
	if p.Done {
		r.finish(d, p.Time)
	}
}

// finish records that nothing is left to do in a unit.
func (r *recovery) finish(d *done, at time.Time) {
	if d.all {
		return
	}
	d.all = true
	if at.After(r.ended) {
		r.ended = at
	}
	r.left = max(r.left-1, 0)
}

// selects reports whether the recovery selects a delayed record.
func (r *recovery) selects(e *event.Event, userID int64) bool {
	return r.Marker != nil && (r.ids == nil || r.ids[e.ID]) && r.Marker.selects(e, userID)
}

// released reports whether the recovery has copied a record that it selects, and whether it may still do so.
func (r *recovery) released(e *event.Event) (copied, undecided bool) {
	d := r.units[unitOf(e)]
	if d == nil {
		return false, r.left > 0
	}
	if slices.ContainsFunc(d.spans, func(s Span) bool { return s.covers(e) }) {
		return true, false
	}
	return false, !d.all && (len(d.spans) == 0 || d.spans[len(d.spans)-1].awaits(e))
}

// Decide reports whether a delayed record was released: a copy of it exists, or whether a recovery may still copy it.
func (s *State) Decide(e *event.Event) (released, undecided bool) {
	userID := userOf(e)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, rs := range [][]*recovery{s.byUser[userID], s.ofAll} {
		for _, r := range rs {
			if !r.selects(e, userID) {
				continue
			}
			copied, open := r.released(e)
			if copied {
				return true, false
			}
			undecided = undecided || open
		}
	}
	return false, undecided
}

// Status is the progress of a recovery.
type Status struct {
	ID       string
	Cause    Cause
	Started  time.Time
	Ended    time.Time // zero while it is running
	Released int64     // records that were moved
	Begun    bool      // an instance has done a part of it
}

func (r *recovery) status() Status {
	s := Status{ID: r.ID, Cause: r.Cause, Started: r.Created, Released: r.moved,
		Begun: len(r.units) > 0 || r.left == 0}
	if r.left == 0 {
		if s.Ended = r.ended; s.Ended.Before(s.Started) {
			s.Ended = s.Started
		}
	}
	return s
}

// Status returns the progress of a recovery; ok is false if it is unknown.
func (s *State) Status(id string) (status Status, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.byID[id]
	if r == nil || r.Marker == nil {
		return Status{}, false
	}
	return r.status(), true
}

// Latest returns the user's latest recovery, of those that the user or an operator began for that user alone; ok is
// false if there is none.
func (s *State) Latest(userID int64) (latest Status, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.byUser[userID] {
		if !r.asked() {
			continue
		}
		if !ok || !r.Created.Before(latest.Started) {
			latest, ok = r.status(), true
		}
	}
	return latest, ok
}

// asked reports whether the user's latest recovery may be r.
func (r *recovery) asked() bool { return r.User != 0 && r.Cause != Resume }

// Running returns how many recoveries have work left.
func (s *State) Running() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.open)
}

// found records the position of a marker.
func (s *State) found(id string, at place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.byID[id]; r != nil {
		r.at = at
	}
}

// forget drops recoveries that began before a time, unless held reports that their marker still exists.
func (s *State) forget(before time.Time, held func(place) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := func(r *recovery) bool {
		if r.Marker == nil {
			return r.seen.Before(before)
		}
		return r.Created.Before(before) && !held(r.at)
	}
	for id, r := range s.byID {
		if old(r) || r.retired && time.Since(r.seen) > remembered {
			delete(s.byID, id)
			delete(s.open, id)
			if r.Marker != nil && !r.retired {
				s.known.Add(-1)
			}
		}
	}
	for userID, rs := range s.byUser {
		s.setUser(userID, slices.DeleteFunc(rs, old))
	}
	s.ofAll = slices.DeleteFunc(s.ofAll, old)
}

// job is the work of running recoveries with the same progress in a unit.
type job struct {
	unit
	ids      []string // of the recoveries, sorted
	begun    bool     // span is the progress of a previous owner or an earlier pass
	span     Span
	released map[string]int64
	users    []int64 // whose events are selected; 0: of many
	// partitions is the number of the topic's partitions.
	partitions int32
}

// unchanged reports whether the recoveries of a job have made no progress since.
func (s *State) unchanged(j *job) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !slices.ContainsFunc(j.ids, func(id string) bool {
		r := s.open[id]
		if r == nil {
			return true
		}
		d := r.units[j.unit]
		if d == nil || len(d.spans) == 0 {
			return j.begun || d != nil && d.all
		}
		last := d.spans[len(d.spans)-1]
		return d.all || !j.begun || last.Start != j.span.Start || last.Next != j.span.Next
	})
}

// jobs returns the work of the running recoveries in a unit.
func (s *State) jobs(u unit) (jobs []*job) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	type point struct {
		begun       bool
		start, next int64
	}
	at := map[point]*job{}
	for id, r := range s.open {
		if !r.examines(u) || r.Cause == Resume && time.Since(r.seen) < pauseSettles {
			continue
		}
		d := r.units[u]
		if d != nil && d.all {
			continue
		}
		p, span := point{}, Span{}
		if d != nil && len(d.spans) > 0 {
			span = d.spans[len(d.spans)-1]
			p = point{true, span.Start, span.Next}
		}
		j := at[p]
		if j == nil {
			j = &job{unit: u, begun: p.begun, span: span, released: map[string]int64{}}
			at[p], jobs = j, append(jobs, j)
		}
		j.ids, j.partitions = append(j.ids, id), r.Topics[u.topic]
		j.released[id] = 0
		if d != nil {
			j.released[id] = d.released
		}
		j.users = append(j.users, r.User)
	}
	for _, j := range jobs {
		slices.Sort(j.ids)
	}
	slices.SortFunc(jobs, func(a, b *job) int { return strings.Compare(a.ids[0], b.ids[0]) })
	return jobs
}

// choose returns which of a job's recoveries selects a record, "" if none does or another has copied it already. More
// than one may; the record is copied once.
func (s *State) choose(j *job, e *event.Event) (id string) {
	userID := userOf(e)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, rs := range [][]*recovery{s.byUser[userID], s.ofAll} {
		for _, r := range rs {
			if !r.selects(e, userID) {
				continue
			}
			if copied, _ := r.released(e); copied {
				return ""
			}
			if _, mine := j.released[r.ID]; mine && id == "" {
				id = r.ID
			}
		}
	}
	return id
}
