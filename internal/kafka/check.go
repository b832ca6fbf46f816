package kafka

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/delay"
)

// Problem is something about a topic that would lose records or break the order of attempts.
type Problem struct {
	// Topic is the topic's name.
	Topic string
	// What is wrong, to follow the topic's name: "is missing".
	What string
	// Fix is how to fix it.
	Fix string
	// Why is what would happen otherwise.
	Why string
	// Type lists alternative commands that fix it. BROKERS stands for the brokers.
	Type []string

	repair repair // by Ensure
}

// repair is what [EnsureTopics] does about a problem. The zero value is nothing.
type repair struct {
	partitions int32  // to have
	key, value string // of a setting
	done       string // what to report afterwards
}

// String returns one line: topic, what is wrong, what to do.
func (p Problem) String() string { return fmt.Sprintf("topic %s %s: %s", p.Topic, p.What, p.Fix) }

// Connection holds the flags with which commands reach the same Kafka.
type Connection struct {
	Brokers []string // for Kafka's own tools
	Flags   []string // for smshooks
}

// fill completes the commands in text.
func (c Connection) fill(text string) string {
	text = strings.ReplaceAll(text, ensureLine, strings.Join(append([]string{ensureLine}, c.Flags...), " "))
	return strings.ReplaceAll(text, "BROKERS", strings.Join(c.Brokers, ","))
}

// Line returns String with the connection flags of c in its commands.
func (p Problem) Line(c Connection) string { return c.fill(p.String()) }

// Explain returns Line, why it matters, and the commands to type, each on a line of its own.
func (p Problem) Explain(c Connection) string {
	text := p.Line(c) + "\n  why: " + p.Why
	for i, line := range p.Type {
		lead := "\n  type: "
		if i > 0 {
			lead = "\n    or: "
		}
		text += lead + c.fill(line)
	}
	return text
}

const (
	ensureLine = "smshooks topics ensure"
	topicsTool = "kafka-topics.sh --bootstrap-server BROKERS "
	configTool = "kafka-configs.sh --bootstrap-server BROKERS --alter --entity-type topics --entity-name "
)

func addPartitionsLine(topic string, to int32) string {
	return fmt.Sprintf("%s--alter --topic %s --partitions %d", topicsTool, topic, to)
}

func setLine(topic, key, value string) string {
	return fmt.Sprintf("%s%s --add-config %s=%s", configTool, topic, key, value)
}

// createLine creates a topic as EnsureTopics would.
func (s survey) createLine(topic string) string {
	line := fmt.Sprintf("%s--create --topic %s --partitions %d", topicsTool, topic, s.count(topic))
	if s.Replication > 0 {
		line += fmt.Sprintf(" --replication-factor %d", s.Replication)
	}
	for _, setting := range s.settings(topic) {
		line += " --config " + setting[0] + "=" + setting[1]
	}
	return line
}

// CheckTopics compares the topics with the plan and changes nothing. Without problems the service can run. An
// error means that the broker did not answer ([IsUnavailable]) or refused.
func CheckTopics(ctx context.Context, cl *kgo.Client, plan *topics.Plan) ([]Problem, error) {
	s, err := readSurvey(ctx, cl, plan)
	if err != nil {
		return nil, err
	}
	return s.problems(), nil
}

func (s survey) problems() (problems []Problem) {
	for _, topic := range s.All() {
		t, ok := s.states[topic]
		if !ok {
			problems = append(problems, Problem{
				Topic: topic, What: "is missing", Fix: "run `smshooks topics ensure`, or create it",
				Why:  "the service reads or writes it, and creates topics only if topics.ensure is true",
				Type: []string{ensureLine, s.createLine(topic)},
			})
			continue
		}
		for _, check := range []func(string, state) []Problem{s.countProblems, s.policyProblems, s.sizeProblems,
			s.retentionProblems} {
			problems = append(problems, check(topic, t)...)
		}
	}
	return problems
}

// countProblems compares a delay topic with its source: a member of the group holds the same partition numbers of both,
// and only then sees all of a user's records.
func (s survey) countProblems(topic string, t state) []Problem {
	name, source, ok := s.source(topic)
	if !s.Delayed(topic) || !ok || source.partitions == t.partitions {
		return nil
	}
	p := Problem{
		Topic: topic, What: fmt.Sprintf("has %d partitions, but its source %s has %d", t.partitions, name, source.partitions),
		Why: "a group member is assigned the same partition numbers of both; " +
			"otherwise a user's records are split among members, and limits and order hold only per process",
	}
	if t.partitions < source.partitions {
		p.Fix = "run `smshooks topics ensure`, which adds the missing partitions"
		p.Type = []string{ensureLine, addPartitionsLine(topic, source.partitions)}
		p.repair = repair{partitions: source.partitions, done: fmt.Sprintf("partitions raised from %d to %d", t.partitions,
			source.partitions)}
	} else {
		p.Fix = fmt.Sprintf("add partitions to %s until it has %d, then run `smshooks topics ensure`", name, t.partitions)
		p.Why += "; partitions cannot be removed, and adding some to a source moves users to other partitions: " +
			"see docs/upgrade.md"
		p.Type = []string{addPartitionsLine(name, t.partitions) + " && " + ensureLine}
	}
	return []Problem{p}
}

func (s survey) policyProblems(topic string, t state) []Problem {
	want, why := "delete", "compaction removes events that are not delivered yet"
	if topic == s.Config || topic == s.Keys {
		want, why = "compact", "any other policy deletes settings after a while"
	}
	if t.policy() == want {
		return nil
	}
	return []Problem{{
		Topic: topic, What: fmt.Sprintf("has cleanup.policy=%s instead of %s", t.policy(), want),
		Fix:  fmt.Sprintf("set cleanup.policy=%s (%s)", want, why),
		Why:  why + "; `topics ensure` does not change it, because the topic may belong to another program",
		Type: []string{setLine(topic, "cleanup.policy", want)},
	}}
}

// retentionProblems checks only delay topics and the releases topic: the operator chooses the retention of sources.
func (s survey) retentionProblems(topic string, t state) (problems []Problem) {
	why, lost := "Kafka would silently delete records that are not due yet", "delayed records would be lost"
	switch {
	case topic == s.Releases:
		why, lost = "released events would be sent again when their delay ends", "released events would be sent twice"
	case !s.Delayed(topic):
		return nil
	}
	least := s.MinRetention(topic)
	if retention, less := t.keepsLess(least); less {
		problems = append(problems, raise(topic, t, "retention.ms", millis(least+retentionSlack),
			fmt.Sprintf(" (%s), below its delay + retry.window (%s + %s = %d ms)", delay.Name(retention),
				delay.Name(least-s.Window), delay.Name(s.Window), least.Milliseconds()), "which raises it; otherwise "+lost, why))
	}
	if limit, ok := t.limit("retention.bytes"); ok && limit >= 0 {
		problems = append(problems, raise(topic, t, "retention.bytes", "-1", " instead of -1",
			"which lifts it; otherwise "+lost, why))
	}
	return problems
}

// sizeProblems compares the largest record that a topic accepts with that of its sources.
func (s survey) sizeProblems(topic string, t state) []Problem {
	need, source := s.largest(topic)
	if limit, ok := t.limit(maxMessage); !ok || limit >= need {
		return nil
	}
	return []Problem{raise(topic, t, maxMessage, strconv.FormatInt(max(need, maxMessageBytes), 10),
		fmt.Sprintf(", less than its source %s needs with headers (%d)", source, need), "which raises it",
		"a record that is too large cannot be stored, and offsets behind it in its partition are not committed until it is")}
}

// raise returns the problem of a setting that is too low. EnsureTopics sets it to value.
func raise(topic string, t state, key, value, tooLow, how, why string) Problem {
	return Problem{
		Topic: topic, What: "has " + key + "=" + t.configs[key] + tooLow, Fix: "run `smshooks topics ensure`, " + how,
		Why:    why,
		Type:   []string{ensureLine, setLine(topic, key, value)},
		repair: repair{key: key, value: value, done: fmt.Sprintf("%s raised from %s to %s", key, t.configs[key], value)},
	}
}
