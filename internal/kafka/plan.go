package kafka

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/smshooks/smshooks/pkg/delay"
)

// The kinds of events, in the order used by every method of [Plan] that takes a kind.
const (
	kindDLR = iota
	kindClick
	kindInbound
	kindRevocation
	kinds
)

// Names are the topics that are named by the settings; all others derive from them.
type Names struct {
	DLR, Click, Inbound, Revocation string
	Config, Keys, DeadLetter        string
}

// Class says what a topic is for.
type Class int

const (
	// Other is every topic that the consumer group does not read.
	Other Class = iota
	// Source is a topic that the gateway writes.
	Source
	// RetryTopic holds events that wait for another attempt.
	RetryTopic
	// OverflowTopic holds events that found no room, without an attempt counted.
	OverflowTopic
)

func (c Class) String() string {
	switch c {
	case Source:
		return "source"
	case RetryTopic:
		return "retry"
	case OverflowTopic:
		return "overflow"
	}
	return "other"
}

type topicInfo struct {
	kind  int
	class Class
	delay time.Duration
}

// Plan is the set of topics that follows from the settings. It does not change, and is safe for
// concurrent use. A kind is 0 dlr, 1 click, 2 inbound, 3 revocation.
type Plan struct {
	names       Names
	window      time.Duration
	partitions  int32
	replication int16
	sources     [kinds]string
	retry       [kinds][]string // by step; equal delays repeat a name
	overflow    [kinds][]string // by tier
	consumed    []string
	info        map[string]topicInfo
}

// NewPlan derives all topic names. schedule holds the delays between attempts, overflow the delays of
// the overflow tiers, window how long after its event an attempt may start; partitions and
// replication (-1 = the broker's default) are for topics that [Plan.Ensure] creates.
// It accepts anything: [Plan.Validate] says what cannot work.
func NewPlan(names Names, schedule, overflow []time.Duration, window time.Duration, partitions int32, replication int16) *Plan {
	p := &Plan{
		names: names, window: window, partitions: partitions, replication: replication,
		sources: [kinds]string{kindDLR: names.DLR, kindClick: names.Click, kindInbound: names.Inbound, kindRevocation: names.Revocation},
		info:    make(map[string]topicInfo),
	}
	for kind, source := range p.sources {
		p.add(source, topicInfo{kind: kind, class: Source})
	}
	for kind := range p.sources {
		for _, d := range schedule {
			topic := p.waitingName(kind, RetryTopic, d)
			p.retry[kind] = append(p.retry[kind], topic)
			p.add(topic, topicInfo{kind: kind, class: RetryTopic, delay: d})
		}
		for _, d := range overflow {
			topic := p.waitingName(kind, OverflowTopic, d)
			p.overflow[kind] = append(p.overflow[kind], topic)
			p.add(topic, topicInfo{kind: kind, class: OverflowTopic, delay: d})
		}
	}
	return p
}

// Draining adds the topics of former delays to a new plan, which it returns: they are read, checked and kept in step
// with their source, but [Plan.Retry] and [Plan.Overflow] never name them.
func (p *Plan) Draining(schedule, overflow []time.Duration) *Plan {
	for kind := range p.sources {
		for _, d := range schedule {
			p.add(p.waitingName(kind, RetryTopic, d), topicInfo{kind: kind, class: RetryTopic, delay: d})
		}
		for _, d := range overflow {
			p.add(p.waitingName(kind, OverflowTopic, d), topicInfo{kind: kind, class: OverflowTopic, delay: d})
		}
	}
	return p
}

// waitingName is the name of the topic in which records of kind wait for d.
func (p *Plan) waitingName(kind int, class Class, d time.Duration) string {
	return p.sources[kind] + "-" + class.String() + "-" + delay.Name(d)
}

func (p *Plan) add(topic string, info topicInfo) {
	if _, ok := p.info[topic]; ok {
		return
	}
	p.info[topic] = info
	p.consumed = append(p.consumed, topic)
}

// Sources returns the source topics in the order of kinds.
func (p *Plan) Sources() [4]string { return p.sources }

// Retry returns the topic where an event of kind waits for schedule[step]. Steps of equal delay share a topic.
func (p *Plan) Retry(kind, step int) string { return p.retry[kind][step] }

// Overflow returns the topic of the overflow tier (0 = the shortest delay as configured).
func (p *Plan) Overflow(kind, tier int) string { return p.overflow[kind][tier] }

// Consumed returns every topic the consumer group reads, once each: the sources in the order of
// kinds, then each kind's retry and overflow topics. The slice is the caller's own.
func (p *Plan) Consumed() []string { return slices.Clone(p.consumed) }

// Describe says what a topic is: its kind, its class, and how long its records wait (0 for a source).
// For a topic that is not consumed, and for an unknown one, it returns -1, [Other], 0.
func (p *Plan) Describe(topic string) (kind int, class Class, wait time.Duration) {
	info, ok := p.info[topic]
	if !ok {
		return -1, Other, 0
	}
	return info.kind, info.class, info.delay
}

// legalTopic is the broker's own rule, checked early because the broker's refusal comes late and says less.
var legalTopic = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// Validate reports, without asking a broker, settings that cannot work: a name that two topics share
// or that no broker accepts, a delay that is not positive. The error names each of them.
func (p *Plan) Validate() error {
	var errs []error
	settings := []struct{ setting, topic string }{
		{"topics.dlr", p.names.DLR}, {"topics.click", p.names.Click}, {"topics.inbound", p.names.Inbound},
		{"topics.revocation", p.names.Revocation}, {"topics.config", p.names.Config}, {"topics.keys", p.names.Keys},
		{"topics.dead_letter", p.names.DeadLetter},
	}
	owner := make(map[string]string, len(settings))
	for _, s := range settings {
		if other, ok := owner[s.topic]; ok {
			errs = append(errs, fmt.Errorf("%s: %q is also the name of %s; every topic needs its own", s.setting, s.topic, other))
			continue
		}
		owner[s.topic] = s.setting
		if !legalTopic.MatchString(s.topic) || s.topic == "." || s.topic == ".." {
			errs = append(errs, fmt.Errorf("%s: %q is no topic name (1 to 249 of a-z A-Z 0-9 . _ -)", s.setting, s.topic))
		}
	}
	return errors.Join(append(errs, p.validateDerived(owner)...)...)
}

// validateDerived looks at the retry and overflow topics; owner is the setting that gives a topic its name.
func (p *Plan) validateDerived(owner map[string]string) (errs []error) {
	for kind, source := range p.sources {
		derived := map[Class][]string{RetryTopic: slices.Clone(p.retry[kind]), OverflowTopic: slices.Clone(p.overflow[kind])}
		for _, topic := range p.waiting(kind) { // those that are drained, too
			class := p.info[topic].class
			derived[class] = append(derived[class], topic)
		}
		for _, class := range []Class{RetryTopic, OverflowTopic} {
			for _, topic := range slices.Compact(slices.Sorted(slices.Values(derived[class]))) {
				if setting, ok := owner[topic]; ok {
					errs = append(errs, fmt.Errorf("%s: %q is also the %s topic of %s; choose another name", setting, topic, class, source))
				} else if wait := p.info[topic].delay; wait <= 0 {
					errs = append(errs, fmt.Errorf("%s topic of %s: its delay %v is not positive", class, source, wait))
				} else if legalTopic.MatchString(source) && !legalTopic.MatchString(topic) {
					errs = append(errs, fmt.Errorf("topic %s: no broker accepts this name (1 to 249 of a-z A-Z 0-9 . _ -); shorten the source's name or use whole milliseconds", topic))
				}
			}
		}
	}
	return errs
}

// all returns every topic of the plan, the compacted ones and the dead letter topic last.
func (p *Plan) all() []string {
	return append(p.Consumed(), p.names.Config, p.names.Keys, p.names.DeadLetter)
}

// Rights returns what an instance does with each topic: one that consumes, one that serves the API, or both. Every
// instance reads the settings.
func (p *Plan) Rights(consumes, serves bool) map[string]Rights {
	rights := map[string]Rights{p.names.Config: Read, p.names.Keys: Read}
	if consumes {
		for _, topic := range p.consumed {
			rights[topic] |= Read
		}
		for kind := range p.sources {
			for _, topic := range slices.Concat(p.retry[kind], p.overflow[kind]) {
				rights[topic] |= Write
			}
		}
		rights[p.names.DeadLetter] |= Write
	}
	if serves {
		rights[p.names.Config] |= Write
		rights[p.names.DeadLetter] |= Read
		for kind := range p.sources {
			if len(p.overflow[kind]) > 0 {
				rights[p.overflow[kind][0]] |= Write // replayed dead letters go there
			}
		}
	}
	return rights
}

// waits reports whether topic is a retry or overflow topic.
func (p *Plan) waits(topic string) bool {
	_, class, _ := p.Describe(topic)
	return class == RetryTopic || class == OverflowTopic
}

// waiting returns the retry and overflow topics of a kind, once each.
func (p *Plan) waiting(kind int) []string {
	var topics []string
	for _, topic := range p.consumed {
		if info := p.info[topic]; info.kind == kind && info.class != Source {
			topics = append(topics, topic)
		}
	}
	return topics
}

// largest returns the max.message.bytes that a topic which smshooks writes records to needs, and the source that needs
// it: records keep their value and get headers. It returns 0 for a topic that needs none.
func (p *Plan) largest(topic string, states map[string]state) (need int64, source string) {
	for kind, name := range p.sources {
		if topic != p.names.DeadLetter && !slices.Contains(p.waiting(kind), topic) {
			continue
		}
		limit, ok := states[name].limit(maxMessage)
		if kind == kindRevocation {
			limit = max(limit, largestBatch) // several records become one
		}
		if limit+headerRoom > need && (ok || kind == kindRevocation) {
			need, source = limit+headerRoom, name
		}
	}
	return min(need, math.MaxInt32), source
}

// minRetention is what a waiting topic must keep: a record waits for its delay, and one that is found
// late (the service was down) still counts until the window closes.
func (p *Plan) minRetention(wait time.Duration) time.Duration { return wait + p.window }
