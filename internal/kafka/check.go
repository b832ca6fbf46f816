package kafka

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/pkg/delay"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Problem is something about a topic that would lose records or break the order of attempts.
type Problem struct {
	// Topic is the topic's name.
	Topic string
	// What is wrong, as a predicate: "is missing".
	What string
	// Fix is what to do about it.
	Fix string
	// Why says what would happen otherwise.
	Why string
	// Type are command lines that put it right, each by itself. BROKERS stands for the brokers.
	Type []string
}

// String is one line: topic, what is wrong, what to do.
func (p Problem) String() string { return fmt.Sprintf("topic %s %s: %s", p.Topic, p.What, p.Fix) }

// Connection is how a command line reaches the same Kafka with the same settings.
type Connection struct {
	Brokers []string // for Kafka's own tools
	Flags   []string // for smshooks
}

// fill completes a command line or a sentence with one in it.
func (c Connection) fill(text string) string {
	text = strings.ReplaceAll(text, ensureLine, strings.Join(append([]string{ensureLine}, c.Flags...), " "))
	return strings.ReplaceAll(text, "BROKERS", strings.Join(c.Brokers, ","))
}

// Line is String, with commands that reach Kafka by c.
func (p Problem) Line(c Connection) string { return c.fill(p.String()) }

// Explain is Line, why it matters, and what to type, in lines of their own.
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

// createLine creates a topic as Ensure would.
func (p *Plan) createLine(topic string, states map[string]state) string {
	line := fmt.Sprintf("%s--create --topic %s --partitions %d", topicsTool, topic, p.count(topic, states))
	if p.replication > 0 {
		line += fmt.Sprintf(" --replication-factor %d", p.replication)
	}
	for _, setting := range p.settings(topic, states) {
		line += " --config " + setting[0] + "=" + setting[1]
	}
	return line
}

// Check compares the topics with the plan and changes nothing. No problems means that the service can
// run. An error means that the broker did not answer ([IsUnavailable]) or refused to, or that the plan
// itself cannot work ([Plan.Validate]).
func (p *Plan) Check(ctx context.Context, cl *kgo.Client) ([]Problem, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	states, err := readState(ctx, cl, p.all())
	if err != nil {
		return nil, err
	}
	return p.problems(states), nil
}

func (p *Plan) problems(states map[string]state) []Problem {
	var problems []Problem
	for _, topic := range p.all() {
		s, ok := states[topic]
		if !ok {
			problems = append(problems, Problem{
				topic, "is missing", "run `smshooks topics ensure`, or create it",
				"the service reads or writes it, and creates topics only if topics.ensure is true", []string{ensureLine, p.createLine(topic, states)},
			})
			continue
		}
		problems = append(problems, p.countProblems(topic, s, states)...)
		problems = append(problems, p.policyProblems(topic, s)...)
		problems = append(problems, p.retentionProblems(topic, s)...)
		problems = append(problems, p.sizeProblems(topic, s, states)...)
	}
	return problems
}

// countProblems compares a waiting topic with its source: a member of the group holds the same
// partition numbers of both, and only then sees all of a user's records.
func (p *Plan) countProblems(topic string, s state, states map[string]state) []Problem {
	if !p.waits(topic) {
		return nil
	}
	kind, _, _ := p.Describe(topic)
	source, ok := states[p.sources[kind]]
	if !ok || source.partitions == s.partitions {
		return nil
	}
	what := fmt.Sprintf("has %d partitions, but its source %s has %d", s.partitions, p.sources[kind], source.partitions)
	const why = "a member of the group holds the same partition numbers of both; otherwise a user's records are split among members, and limits and order hold per process only"
	if s.partitions < source.partitions {
		return []Problem{{
			topic, what, "run `smshooks topics ensure`, which adds the missing partitions", why,
			[]string{ensureLine, addPartitionsLine(topic, source.partitions)},
		}}
	}
	return []Problem{{
		topic, what, fmt.Sprintf("add partitions to %s until it has %d, then run `smshooks topics ensure`", p.sources[kind], s.partitions),
		why + "; partitions can't be taken away, and adding some to a source moves users among them: see docs/upgrade.md",
		[]string{addPartitionsLine(p.sources[kind], s.partitions) + " && " + ensureLine},
	}}
}

func (p *Plan) policyProblems(topic string, s state) []Problem {
	want, why := "delete", "compaction removes events that were not sent yet"
	if topic == p.names.Config || topic == p.names.Keys {
		want, why = "compact", "anything else forgets settings with time"
	}
	if s.policy() == want {
		return nil
	}
	return []Problem{{
		topic, fmt.Sprintf("has cleanup.policy=%s instead of %s", s.policy(), want),
		fmt.Sprintf("set cleanup.policy=%s (%s)", want, why),
		why + "; `topics ensure` leaves it alone, since it may be another program's topic",
		[]string{setLine(topic, "cleanup.policy", want)},
	}}
}

// retentionProblems is about waiting topics only: how long sources are kept is the operator's choice.
func (p *Plan) retentionProblems(topic string, s state) []Problem {
	if !p.waits(topic) {
		return nil
	}
	_, _, wait := p.Describe(topic)
	const why = "Kafka would delete records that wait for their next attempt, and nobody would notice"
	var problems []Problem
	if retention, less := s.keepsLess(p.minRetention(wait)); less {
		problems = append(problems, Problem{
			topic,
			fmt.Sprintf("has retention.ms=%d (%s), below its delay + retry.window (%s + %s = %d ms)", retention.Milliseconds(),
				delay.Name(retention), delay.Name(wait), delay.Name(p.window), p.minRetention(wait).Milliseconds()),
			"run `smshooks topics ensure`, which raises it, or parked records would be lost", why,
			[]string{ensureLine, setLine(topic, "retention.ms", millis(p.minRetention(wait)+retentionSlack))},
		})
	}
	if limit, ok := s.limit("retention.bytes"); ok && limit >= 0 {
		problems = append(problems, Problem{
			topic, fmt.Sprintf("has retention.bytes=%d instead of -1", limit),
			"run `smshooks topics ensure`, which lifts it, or parked records would be lost", why,
			[]string{ensureLine, setLine(topic, "retention.bytes", "-1")},
		})
	}
	return problems
}

// sizeProblems compares what a topic takes with what its sources take.
func (p *Plan) sizeProblems(topic string, s state, states map[string]state) []Problem {
	need, source := p.largest(topic, states)
	limit, ok := s.limit(maxMessage)
	if !ok || limit >= need {
		return nil
	}
	return []Problem{{
		topic, fmt.Sprintf("has %s=%d, below that of its source %s and room for headers (%d)", maxMessage, limit, source, need),
		"run `smshooks topics ensure`, which raises it",
		"a record that does not fit cannot be stored, and nothing behind it in its partition is committed until it is",
		[]string{ensureLine, setLine(topic, maxMessage, strconv.FormatInt(max(need, maxMessageBytes), 10))},
	}}
}

// describe joins problems into one text for an error.
func describe(problems []Problem) string {
	lines := make([]string, len(problems))
	for i, problem := range problems {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "; ")
}
