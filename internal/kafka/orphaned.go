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

// Orphaned is an orphaned delay topic: its delay is in no setting any more, and it holds records.
type Orphaned struct {
	// Topic is the topic's name.
	Topic string
	// Records is the number of its records that the group has not committed.
	Records int64
	// Setting is what to add to the settings for the topic to be read: "retry.drain=6h".
	Setting string
}

// String returns one line: topic, what is wrong, what to do.
func (o Orphaned) String() string {
	name, wait, _ := strings.Cut(o.Setting, "=")
	return fmt.Sprintf("orphaned delay topic %s holds %d records that are not read: add %s to %s until it is empty",
		o.Topic, o.Records, wait, name)
}

// OrphanedTopics returns the topics that are named like the plan's delay topics, are not part of it, and hold records
// above the offsets that the group has committed.
func OrphanedTopics(ctx context.Context, cl *kgo.Client, plan *topics.Plan, group string) ([]Orphaned, error) {
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
	var orphaned []Orphaned
	for _, topic := range names {
		if records[topic] > 0 {
			orphaned = append(orphaned, Orphaned{topic, records[topic], plan.Drain(topic)})
		}
	}
	return orphaned, nil
}
