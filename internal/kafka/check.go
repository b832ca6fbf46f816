package kafka

import (
	"context"
	"fmt"
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
}

// String is one line: topic, what is wrong, what to do.
func (p Problem) String() string { return fmt.Sprintf("topic %s %s: %s", p.Topic, p.What, p.Fix) }

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
			problems = append(problems, Problem{topic, "is missing", "run `smshooks topics ensure`, or create it"})
			continue
		}
		problems = append(problems, p.countProblems(topic, s, states)...)
		problems = append(problems, p.policyProblems(topic, s)...)
		problems = append(problems, p.retentionProblems(topic, s)...)
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
	if s.partitions < source.partitions {
		return []Problem{{topic, what, "run `smshooks topics ensure`, which adds the missing partitions"}}
	}
	return []Problem{{topic, what, fmt.Sprintf("add partitions to %s until it has %d", p.sources[kind], s.partitions)}}
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
	}}
}

// retentionProblems is about waiting topics only: how long sources are kept is the operator's choice.
func (p *Plan) retentionProblems(topic string, s state) []Problem {
	if !p.waits(topic) {
		return nil
	}
	_, _, wait := p.Describe(topic)
	var problems []Problem
	if retention, less := s.keepsLess(p.minRetention(wait)); less {
		problems = append(problems, Problem{
			topic,
			fmt.Sprintf("has retention.ms=%d (%s), below its delay + retry.window (%s + %s = %d ms)", retention.Milliseconds(),
				delay.Name(retention), delay.Name(wait), delay.Name(p.window), p.minRetention(wait).Milliseconds()),
			"run `smshooks topics ensure`, which raises it, or parked records would be lost",
		})
	}
	if limit, ok := s.limit("retention.bytes"); ok && limit >= 0 {
		problems = append(problems, Problem{
			topic, fmt.Sprintf("has retention.bytes=%d instead of -1", limit),
			"run `smshooks topics ensure`, which lifts it, or parked records would be lost",
		})
	}
	return problems
}

// describe joins problems into one text for an error.
func describe(problems []Problem) string {
	lines := make([]string, len(problems))
	for i, problem := range problems {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "; ")
}
