package kafka

import (
	"cmp"
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

	"github.com/smshooks/smshooks/internal/topics"
)

const (
	// retentionSlack is added to the retention that a delay topic needs: a long weekend of downtime.
	retentionSlack      = 72 * time.Hour
	deadLetterRetention = 30 * 24 * time.Hour
	eventsRetention     = 7 * 24 * time.Hour

	maxMessage = "max.message.bytes"
	// maxMessageBytes is the smallest max.message.bytes of created topics that smshooks writes: the brokers' default limit
	// of a record, and its headers.
	maxMessageBytes = 2 << 20
	headerRoom      = 16 << 10
	// largestBatch is the largest size of a batch of revocations, however small its records are: 512 KiB of ids and
	// the separators.
	largestBatch = 1 << 20

	visibleTimeout = 30 * time.Second
	visiblePoll    = 50 * time.Millisecond
)

// Line reports what EnsureTopics did to a topic.
type Line struct {
	// Topic is the topic's name.
	Topic string
	// What is "created (12 partitions)", "ok", "retention.ms raised from … to …", or "wrong: …".
	What string
}

// String returns the topic and what was done, as `topics ensure` prints it.
func (l Line) String() string { return l.Topic + ": " + l.What }

// EnsureTopics creates the topics that are missing, adds partitions to delay topics that have fewer than their source,
// and raises a retention that would lose delayed records and a size of records that is below the source's. It never
// deletes, shrinks or changes a cleanup policy, does nothing the second time, and may run in several instances at once.
// It returns a line per topic, in a stable order, once all of them are visible. An error names what it could not
// fix (the lines are returned nevertheless), or says that Kafka is unavailable ([IsUnavailable]).
func EnsureTopics(ctx context.Context, cl *kgo.Client, plan *topics.Plan) ([]Line, error) {
	s, err := readSurvey(ctx, cl, plan)
	if err != nil {
		return nil, err
	}
	done := make(map[string][]string)
	// Sources first: a source that was created a moment ago, and that this broker did not know yet, still
	// decides how many partitions the other topics of its kind get.
	for _, delayed := range []bool{false, true} {
		made, err := s.create(ctx, cl, delayed, done)
		if err != nil {
			return nil, err
		}
		if made {
			if s, err = awaitVisible(ctx, cl, plan, func(s survey) string { return s.missing(delayed) }); err != nil {
				return nil, err
			}
		}
	}
	changed, err := s.repair(ctx, cl, done)
	if err != nil {
		return nil, err
	}
	if changed {
		if s, err = awaitVisible(ctx, cl, plan, survey.unrepaired); err != nil {
			return nil, err
		}
	}
	return s.report(done)
}

// create makes the missing topics in one request: the delay topics, or all others. made reports whether any was
// missing.
func (s survey) create(ctx context.Context, cl *kgo.Client, delayed bool,
	done map[string][]string) (made bool, err error) {
	req := kmsg.NewCreateTopicsRequest()
	req.TimeoutMillis = int32((15 * time.Second).Milliseconds())
	count := make(map[string]int32)
	for _, topic := range s.All() {
		if _, ok := s.states[topic]; ok || s.Delayed(topic) != delayed {
			continue
		}
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = topic, s.count(topic), s.Replication
		for _, setting := range s.settings(topic) {
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
		case errors.Is(err, kerr.TopicAlreadyExists): // another instance created it first
		default:
			if fenced(t) {
				err = kerr.BrokerNotAvailable
			}
			if IsDenied(err) {
				err = fmt.Errorf("this user lacks the Create right: %w", err)
			}
			errs = append(errs, fmt.Errorf("create topic %s: %w%s", t.Topic, err, suffix(t.ErrorMessage)))
		}
	}
	return true, errors.Join(errs...)
}

// fenced reports whether the brokers are fenced: they have just started or missed heartbeats. Kafka returns the code of
// a wrong number of replicas; only the message differs.
func fenced(t kmsg.CreateTopicsResponseTopic) bool {
	return t.ErrorCode == kerr.InvalidReplicationFactor.Code && t.ErrorMessage != nil &&
		strings.Contains(*t.ErrorMessage, "fenced")
}

// count returns how many partitions a missing topic gets: as many as the rest of its kind.
func (s survey) count(topic string) int32 {
	if !s.Consumes(topic) {
		return s.Partitions
	}
	if _, source, ok := s.source(topic); ok {
		return source.partitions
	}
	var most int32
	for _, sibling := range s.Delays(s.Describe(topic).Kind) {
		most = max(most, s.states[sibling].partitions)
	}
	return cmp.Or(most, s.Partitions)
}

// settings returns the settings of a topic that is created. Sources keep the broker's retention.
func (s survey) settings(topic string) [][2]string {
	need, _ := s.largest(topic)
	size := [2]string{maxMessage, strconv.FormatInt(max(need, maxMessageBytes), 10)}
	switch {
	case topic == s.Config, topic == s.Keys:
		// Kafka ignores the retention of a topic whose policy does not contain "delete". -1 is for
		// brokers that apply it anyway.
		return [][2]string{{"cleanup.policy", "compact"}, {"retention.ms", "-1"}}
	case topic == s.Releases:
		return [][2]string{{"cleanup.policy", "delete"},
			{"retention.ms", millis(s.MinRetention(topic) + retentionSlack)}, {"retention.bytes", "-1"},
			{"message.timestamp.type", "LogAppendTime"}}
	case topic == s.DeadLetter:
		return [][2]string{{"cleanup.policy", "delete"}, {"retention.ms", millis(deadLetterRetention)}, size}
	case topic == s.Events:
		return [][2]string{{"cleanup.policy", "delete"}, {"retention.ms", millis(eventsRetention)}}
	case !s.Delayed(topic):
		return [][2]string{{"cleanup.policy", "delete"}}
	}
	return [][2]string{
		{"cleanup.policy", "delete"},
		{"retention.ms", millis(s.MinRetention(topic) + retentionSlack)},
		{"retention.bytes", "-1"},
		size,
		// Retention counts from a record's timestamp: it must be the time it was written.
		{"message.timestamp.type", "LogAppendTime"},
	}
}

// repair brings existing topics up to their source's partitions, and to the retention and the size of records they
// need.
func (s survey) repair(ctx context.Context, cl *kgo.Client, done map[string][]string) (changed bool, err error) {
	admin := kadm.NewClient(cl)
	for _, p := range s.problems() {
		switch {
		case p.repair.partitions > 0:
			err = addPartitions(ctx, admin, p.Topic, p.repair.partitions)
		case p.repair.key != "":
			err = alterTopic(ctx, admin, p.Topic, p.repair.key, p.repair.value)
		default:
			continue
		}
		if err != nil {
			return changed, err
		}
		done[p.Topic], changed = append(done[p.Topic], p.repair.done), true
	}
	return changed, nil
}

func addPartitions(ctx context.Context, admin *kadm.Client, topic string, want int32) error {
	responses, err := admin.UpdatePartitions(ctx, int(want), topic)
	if err != nil {
		return fmt.Errorf("add partitions to topic %s: %w", topic, err)
	}
	// Kafka answers "invalid" if the topic already has that count: another instance was faster, and the
	// state that is read afterwards decides.
	if r := responses[topic]; r.Err != nil && !errors.Is(r.Err, kerr.InvalidPartitions) {
		return fmt.Errorf("add partitions to topic %s: %w%s", topic, r.Err, suffix(&r.ErrMessage))
	}
	return nil
}

func alterTopic(ctx context.Context, admin *kadm.Client, topic, key, value string) error {
	responses, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}},
		topic)
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

// awaitVisible polls until pending returns no topic: brokers learn of a change one after the other. It returns the last
// survey.
func awaitVisible(ctx context.Context, cl *kgo.Client, plan *topics.Plan, pending func(survey) string) (survey, error) {
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	for {
		s, err := readSurvey(ctx, cl, plan)
		if err != nil {
			return s, err
		}
		topic := pending(s)
		if topic == "" {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("topic %s was created or changed, but the change is not visible: %w", topic, ctx.Err())
		case <-time.After(visiblePoll):
		}
	}
}

// missing returns a topic that is not visible yet or has no leaders, or "". It includes delay topics only on request.
func (s survey) missing(delayed bool) string {
	for _, topic := range s.All() {
		if t, ok := s.states[topic]; (!ok || !t.settled) && (delayed || !s.Delayed(topic)) {
			return topic
		}
	}
	return ""
}

// unrepaired returns a topic whose repair is not visible yet, or "".
func (s survey) unrepaired() string {
	for _, p := range s.problems() {
		if p.repair != (repair{}) {
			return p.Topic
		}
	}
	return s.missing(true)
}

// report returns what was done and what is still wrong, one line per topic.
func (s survey) report(done map[string][]string) ([]Line, error) {
	var wrong []string
	for _, p := range s.problems() {
		done[p.Topic] = append(done[p.Topic], "wrong: "+p.What+"; "+p.Fix)
		wrong = append(wrong, p.String())
	}
	lines := make([]Line, 0, len(s.All()))
	for _, topic := range s.All() {
		lines = append(lines, Line{Topic: topic, What: cmp.Or(strings.Join(done[topic], ", "), "ok")})
	}
	if len(wrong) > 0 {
		return lines, errors.New(strings.Join(wrong, "; "))
	}
	return lines, nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// suffix returns the broker's own message, if there is one.
func suffix(message *string) string {
	if message == nil || *message == "" {
		return ""
	}
	return " (" + *message + ")"
}
