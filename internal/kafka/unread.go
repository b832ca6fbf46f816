package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
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
	admin := kadm.NewClient(cl)
	listed, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	former := map[string]string{} // topic → setting
	for _, topic := range listed.Names() {
		if setting := plan.Drain(topic); setting != "" {
			former[topic] = setting
		}
	}
	if len(former) == 0 {
		return nil, nil
	}
	names := make([]string, 0, len(former))
	for topic := range former {
		names = append(names, topic)
	}
	slices.Sort(names)
	records, err := above(ctx, cl, admin, group, names)
	if err != nil {
		return nil, err
	}
	var unread []Unread
	for _, topic := range names {
		if records[topic] > 0 {
			unread = append(unread, Unread{topic, records[topic], former[topic]})
		}
	}
	return unread, nil
}

// above counts, per topic, the records above what the group has committed.
func above(ctx context.Context, cl *kgo.Client, admin *kadm.Client, group string, names []string) (map[string]int64, error) {
	committed, err := admin.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // a group that never was has committed nothing
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	starts, err := admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("starts of topics: %w", err)
	}
	ends, err := ListEnds(ctx, cl, names...)
	if err != nil {
		return nil, err
	}
	records := map[string]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		start, ok := starts.Lookup(end.Topic, end.Partition)
		if !ok || start.Err != nil || end.Err != nil {
			return // it has no leader now
		}
		next := start.Offset
		if o, ok := committed.Lookup(end.Topic, end.Partition); ok {
			next = max(next, o.At)
		}
		records[end.Topic] += max(end.Offset-next, 0)
	})
	return records, nil
}
