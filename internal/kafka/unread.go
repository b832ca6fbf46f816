package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
)

// Unread is a waiting topic of a former retry.schedule or overflow.delays that holds records nobody reads.
type Unread struct {
	// Topic is the topic's name.
	Topic string
	// Records is how many of its records the group has not settled.
	Records int64
	// Setting is the setting that makes them be read, with the value it needs: "retry.drain=6h".
	Setting string
}

// String is one line: topic, what is wrong, what to do.
func (u Unread) String() string {
	name, wait, _ := strings.Cut(u.Setting, "=")
	return fmt.Sprintf("topic %s holds %d records that nobody reads, since no setting names its delay: add %s to %s until it is empty",
		u.Topic, u.Records, wait, name)
}

// UnreadTopics looks for topics that are named like the plan's waiting topics, are not part of it, and hold records above
// what the group has committed. The error says what could not be asked of Kafka.
func UnreadTopics(ctx context.Context, cl *kgo.Client, plan *topics.Plan, group string) ([]Unread, error) {
	listed, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	names := slices.DeleteFunc(listed.Names(), func(topic string) bool { return plan.Drain(topic) == "" }) // sorted
	if len(names) == 0 {
		return nil, nil
	}
	lag, err := ReadGroupLag(ctx, cl, group, names...)
	if err != nil {
		return nil, err
	}
	records := map[string]int64{}
	for _, p := range lag.Partitions() {
		records[p.Topic] += p.Records
	}
	var unread []Unread
	for _, topic := range names {
		if records[topic] > 0 {
			unread = append(unread, Unread{topic, records[topic], plan.Drain(topic)})
		}
	}
	return unread, nil
}
