// Package topics holds the rules of the topics that the service reads and writes: their names and purposes, and
// which settings cannot work together. It does not use a Kafka client.
package topics

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/smshooks/smshooks/pkg/delay"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Class is the purpose of a topic that the consumer group reads.
type Class uint8

// The classes.
const (
	Source   Class = iota // written by the gateway
	Retry                 // delay topic of events whose attempt failed
	Overflow              // delay topic of events that found no room in memory
	Paused                // delay topic of events of endpoints that their user paused
)

// String returns the class as it appears in topic names and settings.
func (c Class) String() string {
	switch c {
	case Source:
		return "source"
	case Retry:
		return "retry"
	case Overflow:
		return "overflow"
	case Paused:
		return "paused"
	}
	return "unknown"
}

// NoTier is the Tier of the topic of released events.
const NoTier = -1

// Info describes a topic that the consumer group reads.
type Info struct {
	Kind  webhook.Kind
	Class Class
	Tier  int8          // of an overflow topic: the longest of Settings.Tiers that is not longer than its delay, or NoTier
	Delay time.Duration // of a delay topic, 0 for a source and for the topic of released events
}

// Settings determine all topics.
type Settings struct {
	// Names of the source topics.
	DLR, Click, Inbound, Revocation string
	// Names of the compacted topics, of the dead letter topic, and of those of endpoint events and of releases.
	Config, Keys, DeadLetter, Events, Releases string

	Schedule []time.Duration // delays between attempts, in whole milliseconds
	Tiers    []time.Duration // delays of the overflow topics, in whole milliseconds, ascending
	// Previous delays: their topics are read, checked and kept in step with their source, but not written to.
	DrainSchedule, DrainTiers, DrainWindows []time.Duration

	// Window is how long after its event time an event may be attempted, and the delay of the paused topics, in whole
	// milliseconds.
	Window      time.Duration
	Partitions  int32 // of a topic that is created
	Replication int16 // replicas of a topic that is created; -1 = the broker's default
}

// Plan is the set of topics that follows from the settings. It does not change and is safe for concurrent use.
type Plan struct {
	Settings
	retry    [webhook.NumKinds][]string // by step, then those that are drained; equal delays repeat a name
	overflow [webhook.NumKinds][]string // by tier, then those that are drained
	paused   [webhook.NumKinds][]string // that of the window, then those that are drained
	released [webhook.NumKinds]string   // the overflow topic without a delay
	consumed []string
	info     map[string]Info
}

// New derives all topics from the settings. It accepts any settings: [Plan.Problems] returns what is wrong with them.
func New(s Settings) *Plan {
	p := &Plan{Settings: s, info: map[string]Info{}}
	sources := p.Sources()
	for kind, source := range sources {
		p.add(source, Info{Kind: webhook.Kind(kind)})
	}
	for kind := range sources {
		p.retry[kind] = p.addDelays(webhook.Kind(kind), Retry, slices.Concat(s.Schedule, s.DrainSchedule))
		p.overflow[kind] = p.addDelays(webhook.Kind(kind), Overflow, slices.Concat(s.Tiers, s.DrainTiers))
		p.paused[kind] = p.addDelays(webhook.Kind(kind), Paused, append([]time.Duration{s.Window}, s.DrainWindows...))
		p.released[kind] = p.addDelays(webhook.Kind(kind), Overflow, []time.Duration{0})[0]
	}
	return p
}

// addDelays adds the delay topics of a kind and returns their names, one for each delay.
func (p *Plan) addDelays(kind webhook.Kind, class Class, delays []time.Duration) (names []string) {
	for _, d := range delays {
		info := Info{Kind: kind, Class: class, Delay: d}
		if class == Overflow && d == 0 {
			info.Tier = NoTier
		}
		for tier, longest := range p.Tiers {
			if class == Overflow && longest <= d {
				info.Tier = int8(tier)
			}
		}
		topic := p.Sources()[kind] + "-" + class.String() + "-" + delay.Name(d)
		p.add(topic, info)
		names = append(names, topic)
	}
	return names
}

func (p *Plan) add(topic string, info Info) {
	if _, ok := p.info[topic]; ok {
		return
	}
	p.info[topic] = info
	p.consumed = append(p.consumed, topic)
}

// Sources returns the source topics by kind.
func (p *Plan) Sources() [webhook.NumKinds]string {
	return [webhook.NumKinds]string{
		webhook.DLR: p.DLR, webhook.Click: p.Click, webhook.Inbound: p.Inbound, webhook.RevokeClick: p.Revocation,
	}
}

// Retry returns the topic in which an event of kind is held back for Schedule[step]. Equal delays share a topic.
func (p *Plan) Retry(kind webhook.Kind, step int) string { return p.retry[kind][step] }

// Overflow returns the topic of the overflow tier; 0 is the shortest delay.
func (p *Plan) Overflow(kind webhook.Kind, tier int) string { return p.overflow[kind][tier] }

// Paused returns the topic of events whose endpoint is paused.
func (p *Plan) Paused(kind webhook.Kind) string { return p.paused[kind][0] }

// Released returns the topic of the copies of released events of a kind. It is an overflow topic without a delay.
func (p *Plan) Released(kind webhook.Kind) string { return p.released[kind] }

// Consumed returns every topic that the consumer group reads, once each: the sources by kind, then each kind's retry,
// overflow and paused topics, and that of released events. The slice is the caller's own.
func (p *Plan) Consumed() []string { return slices.Clone(p.consumed) }

// Written returns the delay topics that events are written to: those that are not drained.
func (p *Plan) Written() (names []string) {
	for kind := range p.retry {
		names = slices.Concat(names, p.retry[kind][:len(p.Schedule)], p.overflow[kind][:len(p.Tiers)], p.paused[kind][:1])
		names = append(names, p.released[kind])
	}
	return names
}

// All returns every topic of the plan: those that the consumer group reads, then the others.
func (p *Plan) All() []string {
	return append(p.Consumed(), p.Config, p.Keys, p.DeadLetter, p.Events, p.Releases)
}

// Describe returns the Info of a consumed topic, and the zero Info for any other.
func (p *Plan) Describe(topic string) Info { return p.info[topic] }

// Consumes reports whether the consumer group reads topic.
func (p *Plan) Consumes(topic string) bool {
	_, ok := p.info[topic]
	return ok
}

// Delayed reports whether topic is a delay topic: a retry, overflow or paused topic.
func (p *Plan) Delayed(topic string) bool { return p.info[topic].Class != Source }

// Delays returns the delay topics of a kind, once each, including those that are drained.
func (p *Plan) Delays(kind webhook.Kind) (names []string) {
	for _, topic := range append(slices.Concat(p.retry[kind], p.overflow[kind], p.paused[kind]), p.released[kind]) {
		if !slices.Contains(names, topic) {
			names = append(names, topic)
		}
	}
	return names
}

// MinRetention returns how long a delay topic, or the topic of releases, must keep its records: an event that is read
// late, because the service was down, still counts until its window closes.
func (p *Plan) MinRetention(topic string) time.Duration {
	if topic != p.Releases {
		return p.info[topic].Delay + p.Window
	}
	longest := time.Duration(0) // a release must be known for as long as the records that it covers may be read
	for _, info := range p.info {
		longest = max(longest, info.Delay)
	}
	return longest + p.Window
}

// LongestWait returns how long after its event time an event may still come due: the window, in which it may be stored
// in a delay topic, and the longest delay.
func (p *Plan) LongestWait() (wait time.Duration) {
	for _, info := range p.info {
		wait = max(wait, info.Delay)
	}
	return wait + p.Window
}

// Drain returns the setting that would add topic to the plan as one that is drained, "retry.drain=6h". It returns ""
// if topic is part of the plan, or not named like a delay topic.
func (p *Plan) Drain(topic string) string {
	info, ok := p.Orphan(topic)
	if !ok {
		return ""
	}
	return info.Class.String() + ".drain=" + delay.Name(info.Delay)
}

// Orphan returns the Info of a topic that is named like a delay topic but is not part of the plan, without its Tier. ok
// is false for any other topic.
func (p *Plan) Orphan(topic string) (info Info, ok bool) {
	if slices.Contains(p.All(), topic) {
		return Info{}, false
	}
	for kind, source := range p.Sources() {
		for _, class := range []Class{Retry, Overflow, Paused} {
			text, ok := strings.CutPrefix(topic, source+"-"+class.String()+"-")
			if !ok {
				continue
			}
			if d, err := delay.Parse(text); err == nil && d > 0 && delay.Name(d) == text {
				return Info{Kind: webhook.Kind(kind), Class: class, Delay: d}, true
			}
		}
	}
	return Info{}, false
}

const maxName = 249

var legal = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// CheckName returns an error if no broker accepts name as a topic's name.
func CheckName(name string) error {
	switch {
	case !legal.MatchString(name):
		return fmt.Errorf("%q is not a legal name (use letters, digits, '.', '_' and '-')", name)
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a legal name", name)
	case len(name) > maxName:
		return fmt.Errorf("%q is longer than %d characters", name, maxName)
	}
	return nil
}

// Problem is a setting that cannot work together with others.
type Problem struct {
	Setting string // dotted name of the setting
	Other   string // dotted name of the other setting that takes part, "" if none does
	Text    string // what is wrong
}

// Problems returns the conflicts between the names of topics: each topic needs a unique name, and Kafka treats names
// that differ only in '.' and '_' as the same. It assumes that each single name is legal.
func (p *Plan) Problems() (problems []Problem) {
	names := []struct{ setting, topic string }{
		{"topics.dlr", p.DLR}, {"topics.click", p.Click}, {"topics.inbound", p.Inbound}, {"topics.revocation", p.Revocation},
		{"topics.config", p.Config}, {"topics.keys", p.Keys}, {"topics.dead_letter", p.DeadLetter},
		{"topics.events", p.Events},
		{"topics.releases", p.Releases},
	}
	normal := strings.NewReplacer(".", "_")
	owner := map[string]string{}
	for _, n := range names {
		if other, taken := owner[normal.Replace(n.topic)]; taken {
			problems = append(problems, Problem{n.setting, other, fmt.Sprintf("%q is also the topic of %s", n.topic, other)})
			continue
		}
		owner[normal.Replace(n.topic)] = n.setting
	}
	for kind, source := range p.Sources() {
		setting := names[kind].setting
		for _, topic := range p.Delays(webhook.Kind(kind)) {
			if len(topic) > maxName {
				problems = append(problems, Problem{setting, "",
					fmt.Sprintf("%q is too long: its topic %q has more than %d characters", source, topic, maxName)})
				break
			}
			if other := owner[normal.Replace(topic)]; other != "" {
				problems = append(problems, Problem{other, setting, fmt.Sprintf("%q is also a delay topic of %s", topic, setting)})
			}
		}
	}
	return problems
}
