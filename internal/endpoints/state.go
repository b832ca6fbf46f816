package endpoints

import (
	"encoding/json"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// repeat is the shortest pause between two events of a type that is repeated, per endpoint.
	repeat = time.Hour
	// forget is how long an endpoint counts as failing without a further attempt: as long as its events are kept.
	forget = 7 * 24 * time.Hour
)

// state is the state of one endpoint. The zero state is that of an endpoint that does not fail, and of which no
// event became a dead letter lately. Redis holds it as JSON.
type state struct {
	Failing failing `json:"failing,omitzero"`
	Dead    dead    `json:"dead,omitzero"`
}

// failing describes an endpoint whose last attempt failed.
type failing struct {
	Host    string          `json:"host"`
	URL     uint64          `json:"url"`     // Fingerprint; 0 in what earlier versions stored
	Since   time.Time       `json:"since"`   // start of the first failed attempt; zero if the endpoint does not fail
	Failure webhook.Failure `json:"failure"` // of the last failed attempt
	Count   int64           `json:"count"`   // failed attempts since then
	Told    time.Time       `json:"told"`    // when the last event was made
}

// dead describes the dead letters of an endpoint that no event has reported yet.
type dead struct {
	Host    string          `json:"host"`
	Since   time.Time       `json:"since"` // when the first of them was stored; zero if Count is 0
	Failure webhook.Failure `json:"failure"`
	Count   int64           `json:"count"`
	Told    time.Time       `json:"told"` // when the last event was made
}

// change is what happened to an endpoint.
type change uint8

const (
	failed    change = iota // an attempt failed
	succeeded               // an attempt succeeded
	died                    // an event became a dead letter
	passed                  // time passed
)

// note is one change.
type note struct {
	key
	change  change
	at      time.Time
	host    string // without port
	url     uint64 // Fingerprint, of a failure
	failure webhook.Failure
}

// Fingerprint identifies the URL of an endpoint among those of a user.
func Fingerprint(e *webhook.Endpoint) uint64 {
	var h xxhash.Digest
	h.Reset()
	for _, part := range [...]string{e.ServerName, e.Address, e.Host, e.Target} {
		_, _ = h.WriteString(part) // never fails
		_, _ = h.WriteString("\n")
	}
	return h.Sum64()
}

// apply changes s by a note and returns the events that follow. stored reports whether the change must be stored:
// counts alone need not be.
func (s *state) apply(n *note, now time.Time) (events []Event, stored bool) {
	f, d := &s.Failing, &s.Dead
	switch n.change {
	case failed:
		if f.Since.IsZero() || f.URL != 0 && f.URL != n.url { // another URL is another endpoint
			*f = failing{Since: n.at}
		}
		f.URL = n.url
		f.Host, f.Failure, f.Count = n.host, n.failure, f.Count+1
		if !within(repeat, f.Told, now) {
			f.Told = now
			events = append(events, Event{Failing, now, n.key, f.Host, f.Since, f.Failure, f.Count})
		}
	case succeeded:
		if !f.Since.IsZero() {
			events = append(events, Event{Recovered, now, n.key, f.Host, f.Since, f.Failure, f.Count})
			*f = failing{}
		}
	case died:
		if d.Count == 0 {
			d.Since = n.at
		}
		d.Host, d.Failure, d.Count = n.host, n.failure, d.Count+1
	case passed:
		if !f.Since.IsZero() && !within(forget, f.Told, now) {
			*f, stored = failing{}, true
		}
	}
	if !d.Told.IsZero() && !within(repeat, d.Told, now) {
		d.Told, stored = time.Time{}, true
	}
	if d.Count > 0 && d.Told.IsZero() {
		events = append(events, Event{Dead, now, n.key, d.Host, d.Since, d.Failure, d.Count})
		*d = dead{Told: now}
	}
	return events, stored || len(events) > 0
}

// within reports whether less than d has passed from since to now. The zero time is long ago.
func within(d time.Duration, since, now time.Time) bool { return now.Sub(since) < d }

// onto returns current plus what s counts in addition to base. base is the state from which s began, and current the
// one that another instance has stored instead.
func (s state) onto(base, current state) state {
	current.Failing = s.Failing.onto(base.Failing, current.Failing)
	if told := s.Dead.Told; told.After(base.Dead.Told) && told.After(current.Dead.Told) { // reported, but not stored
		current.Dead = s.Dead
	} else if more := s.Dead.Count - base.Dead.Count; more > 0 {
		if current.Dead.Count == 0 {
			current.Dead.Since = s.Dead.Since
		}
		current.Dead.Count += more
		current.Dead.Host, current.Dead.Failure = s.Dead.Host, s.Dead.Failure
	}
	return current
}

func (f failing) onto(base, current failing) failing {
	ended := !base.Since.IsZero() && f.Since.IsZero() // and not stored
	began := !f.Since.IsZero() && !f.Since.Equal(base.Since)
	if began {
		base = failing{}
	}
	switch {
	case began && (current.Since.IsZero() || current.URL != f.URL):
		return f
	case current.Since.IsZero(), ended && current.Since.Equal(base.Since):
		return failing{}
	}
	if more := f.Count - base.Count; more > 0 {
		current.Count += more
		current.Host, current.Failure = f.Host, f.Failure
	}
	return current
}

// due reports whether time alone changes s.
func (s *state) due(now time.Time) bool {
	return !s.Failing.Since.IsZero() && !within(forget, s.Failing.Told, now) ||
		s.Dead != (dead{}) && !within(repeat, s.Dead.Told, now)
}

// text returns s in the form for Redis, "" if it is zero.
func (s state) text() string {
	if s == (state{}) {
		return ""
	}
	text, _ := json.Marshal(s) // cannot fail: years of times are checked where they are read
	return string(text)
}

// parse parses a state. Invalid text counts as zero: another program wrote it.
func parse(text string) (s state) {
	if text == "" || json.Unmarshal([]byte(text), &s) != nil {
		return state{}
	}
	return s
}
