package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// retentionSlack is kept on top of what a waiting topic must keep: a long weekend of downtime.
	retentionSlack      = 72 * time.Hour
	deadLetterRetention = 30 * 24 * time.Hour

	maxMessage = "max.message.bytes"
	// maxMessageBytes is the least that topics which smshooks writes are created with: a record as large as brokers take
	// by default, and its headers.
	maxMessageBytes = 2 << 20
	headerRoom      = 16 << 10
	// largestBatch is the size that a batch of revocations may have, however small the records were: 512 KiB of ids and
	// what stands between them.
	largestBatch = 1 << 20

	visibleTimeout = 30 * time.Second
	visiblePoll    = 50 * time.Millisecond
)

// Line says what Ensure did to a topic.
type Line struct {
	// Topic is the topic's name.
	Topic string
	// What is "created (12 partitions)", "ok", "retention.ms raised from … to …", or "wrong: …".
	What string
}

// String is the topic and what was done, as printed by `topics ensure`.
func (l Line) String() string { return l.Topic + ": " + l.What }

// Ensure creates the topics that are missing, adds partitions to waiting topics that have fewer than
// their source and raises a retention that would lose parked records and a size of records that is below the source's. It never deletes, shrinks or
// changes a cleanup policy, does nothing the second time, and may run in several instances at once.
// It returns a line per topic, in a stable order, once all of them are visible; an error names what it
// could not put right (then the lines are still there), or says that Kafka is away ([IsUnavailable]).
func (p *Plan) Ensure(ctx context.Context, cl *kgo.Client) ([]Line, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	states, err := readState(ctx, cl, p.all())
	if err != nil {
		return nil, err
	}
	done := make(map[string][]string)
	// Sources first: one that somebody made a moment ago, which this broker had not heard of, still
	// decides how many partitions the rest of its kind gets.
	for _, waiting := range []bool{false, true} {
		made, err := p.create(ctx, cl, states, waiting, done)
		if err != nil {
			return nil, err
		}
		if made {
			if states, err = p.awaitVisible(ctx, cl, func(s map[string]state) string { return p.missing(s, waiting) }); err != nil {
				return nil, err
			}
		}
	}
	changed, err := p.repair(ctx, cl, states, done)
	if err != nil {
		return nil, err
	}
	if changed {
		if states, err = p.awaitVisible(ctx, cl, p.unrepaired); err != nil {
			return nil, err
		}
	}
	return p.report(states, done)
}

// create makes the missing topics in one request: those that wait, or all others. made is whether any
// was missing.
func (p *Plan) create(ctx context.Context, cl *kgo.Client, states map[string]state, waiting bool, done map[string][]string) (made bool, err error) {
	req := kmsg.NewCreateTopicsRequest()
	req.TimeoutMillis = int32((15 * time.Second).Milliseconds())
	count := make(map[string]int32)
	for _, topic := range p.all() {
		if _, ok := states[topic]; ok || p.waits(topic) != waiting {
			continue
		}
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = topic, p.count(topic, states), p.replication
		for _, setting := range p.settings(topic, states) {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = setting[0], kmsg.StringPtr(setting[1])
			t.Configs = append(t.Configs, c)
		}
		count[topic] = t.NumPartitions
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) == 0 {
		return false, nil
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return false, fmt.Errorf("create topics: %w", err)
	}
	var errs []error
	for _, t := range resp.Topics {
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case err == nil:
			done[t.Topic] = append(done[t.Topic], fmt.Sprintf("created (%d partitions)", count[t.Topic]))
		case errors.Is(err, kerr.TopicAlreadyExists): // another instance was faster
		default:
			if fenced(t) {
				err = kerr.BrokerNotAvailable
			}
			errs = append(errs, fmt.Errorf("create topic %s: %w%s", t.Topic, err, suffix(t.ErrorMessage)))
		}
	}
	return true, errors.Join(errs...)
}

// fenced: the brokers have only just started, or were not heard of for a moment, and are fenced. Kafka calls that a wrong
// number of replicas, but for the words.
func fenced(t kmsg.CreateTopicsResponseTopic) bool {
	return t.ErrorCode == kerr.InvalidReplicationFactor.Code && t.ErrorMessage != nil && strings.Contains(*t.ErrorMessage, "fenced")
}

// count is how many partitions a missing topic gets: as many as the rest of its kind.
func (p *Plan) count(topic string, states map[string]state) int32 {
	kind, class, _ := p.Describe(topic)
	if class == Other {
		return p.partitions
	}
	if source, ok := states[p.sources[kind]]; ok {
		return source.partitions
	}
	var most int32
	for _, sibling := range p.waiting(kind) {
		most = max(most, states[sibling].partitions)
	}
	if most > 0 {
		return most
	}
	return p.partitions
}

// settings are those of a topic that is created. Sources keep the broker's retention.
func (p *Plan) settings(topic string, states map[string]state) [][2]string {
	need, _ := p.largest(topic, states)
	size := [2]string{maxMessage, strconv.FormatInt(max(need, maxMessageBytes), 10)}
	switch topic {
	case p.names.Config, p.names.Keys:
		// Without "delete" in its policy a topic's retention means nothing to Kafka; -1 says so to
		// brokers that look at it all the same.
		return [][2]string{{"cleanup.policy", "compact"}, {"retention.ms", "-1"}}
	case p.names.DeadLetter:
		return [][2]string{{"cleanup.policy", "delete"}, {"retention.ms", millis(deadLetterRetention)}, size}
	}
	_, class, wait := p.Describe(topic)
	if class == Source {
		return [][2]string{{"cleanup.policy", "delete"}}
	}
	return [][2]string{
		{"cleanup.policy", "delete"},
		{"retention.ms", millis(p.minRetention(wait) + retentionSlack)},
		{"retention.bytes", "-1"},
		size,
		// Retention counts from a record's timestamp: it must be the time it was parked.
		{"message.timestamp.type", "LogAppendTime"},
	}
}

// repair brings existing topics up to their source's partitions, and to the retention and the size of records they need.
func (p *Plan) repair(ctx context.Context, cl *kgo.Client, states map[string]state, done map[string][]string) (changed bool, err error) {
	admin := kadm.NewClient(cl)
	for kind, source := range p.sources {
		for _, topic := range p.waiting(kind) {
			s, ok := states[topic]
			if !ok {
				continue
			}
			if want := states[source].partitions; s.partitions < want {
				if err := addPartitions(ctx, admin, topic, want); err != nil {
					return changed, err
				}
				done[topic], changed = append(done[topic], fmt.Sprintf("partitions raised from %d to %d", s.partitions, want)), true
			}
		}
	}
	for _, topic := range p.all() {
		alter, notes := p.raise(topic, states)
		if len(alter) == 0 {
			continue
		}
		if err := alterTopic(ctx, admin, topic, alter); err != nil {
			return changed, err
		}
		done[topic], changed = append(done[topic], notes...), true
	}
	return changed, nil
}

// raise lists the settings of a topic that would lose records or refuse them.
func (p *Plan) raise(topic string, states map[string]state) (alter []kadm.AlterConfig, notes []string) {
	s := states[topic]
	set := func(key, from, to string) {
		alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: kadm.StringPtr(to)})
		notes = append(notes, fmt.Sprintf("%s raised from %s to %s", key, from, to))
	}
	need, _ := p.largest(topic, states)
	if limit, ok := s.limit(maxMessage); ok && limit < need {
		set(maxMessage, s.configs[maxMessage], strconv.FormatInt(max(need, maxMessageBytes), 10))
	}
	if !p.waits(topic) {
		return alter, notes
	}
	_, _, wait := p.Describe(topic)
	if _, less := s.keepsLess(p.minRetention(wait)); less {
		set("retention.ms", s.configs["retention.ms"], millis(p.minRetention(wait)+retentionSlack))
	}
	if limit, ok := s.limit("retention.bytes"); ok && limit >= 0 {
		set("retention.bytes", s.configs["retention.bytes"], "-1")
	}
	return alter, notes
}

func addPartitions(ctx context.Context, admin *kadm.Client, topic string, want int32) error {
	responses, err := admin.UpdatePartitions(ctx, int(want), topic)
	if err != nil {
		return fmt.Errorf("add partitions to topic %s: %w", topic, err)
	}
	// Kafka answers "invalid" to a count that is already there: another instance was faster, and the
	// state that is read afterwards decides.
	if r := responses[topic]; r.Err != nil && !errors.Is(r.Err, kerr.InvalidPartitions) {
		return fmt.Errorf("add partitions to topic %s: %w%s", topic, r.Err, suffix(&r.ErrMessage))
	}
	return nil
}

func alterTopic(ctx context.Context, admin *kadm.Client, topic string, alter []kadm.AlterConfig) error {
	responses, err := admin.AlterTopicConfigs(ctx, alter, topic)
	if err != nil {
		return fmt.Errorf("raise settings of topic %s: %w", topic, err)
	}
	for _, r := range responses {
		if r.Err != nil {
			return fmt.Errorf("raise settings of topic %s: %w%s", topic, r.Err, suffix(&r.ErrMessage))
		}
	}
	return nil
}

// awaitVisible polls until pending names no topic any more: brokers learn of a change one after the
// other. It returns the last state it read.
func (p *Plan) awaitVisible(ctx context.Context, cl *kgo.Client, pending func(map[string]state) string) (map[string]state, error) {
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	for {
		states, err := readState(ctx, cl, p.all())
		if err != nil {
			return nil, err
		}
		topic := pending(states)
		if topic == "" {
			return states, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("topic %s was created or changed, but the change is not visible: %w", topic, ctx.Err())
		case <-time.After(visiblePoll):
		}
	}
}

// missing names a topic that has not arrived yet or has no leaders, or ""; waiting topics only count if asked for.
func (p *Plan) missing(states map[string]state, waiting bool) string {
	for _, topic := range p.all() {
		if s, ok := states[topic]; (!ok || !s.settled) && (waiting || !p.waits(topic)) {
			return topic
		}
	}
	return ""
}

// unrepaired names a topic on which the work of repair does not show yet, or "".
func (p *Plan) unrepaired(states map[string]state) string {
	for _, topic := range p.all() {
		if alter, _ := p.raise(topic, states); len(alter) > 0 {
			return topic
		}
		if kind, _, _ := p.Describe(topic); p.waits(topic) && states[topic].partitions < states[p.sources[kind]].partitions {
			return topic
		}
	}
	return p.missing(states, true)
}

// report turns what was done and what is still wrong into a line per topic.
func (p *Plan) report(states map[string]state, done map[string][]string) ([]Line, error) {
	problems := p.problems(states)
	wrong := make(map[string][]string)
	for _, problem := range problems {
		wrong[problem.Topic] = append(wrong[problem.Topic], "wrong: "+problem.What+"; "+problem.Fix)
	}
	lines := make([]Line, 0, len(p.all()))
	for _, topic := range p.all() {
		notes := append(done[topic], wrong[topic]...)
		if len(notes) == 0 {
			notes = []string{"ok"}
		}
		lines = append(lines, Line{Topic: topic, What: strings.Join(notes, ", ")})
	}
	if len(problems) > 0 {
		return lines, errors.New(describe(problems))
	}
	return lines, nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// suffix is the broker's own words, when there are any.
func suffix(message *string) string {
	if message == nil || *message == "" {
		return ""
	}
	return " (" + *message + ")"
}
