package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
)

const (
	refusedInterval = 3 * time.Second
	refusedTimeout  = 5 * time.Second
	rejoinPause     = 30 * time.Second // at least, between two rebalances because of refused offsets
)

var errOffsetOmitted = errors.New("the broker's answer does not contain the partition")

// refuse stores why the broker did not return the committed offset of a. Nothing of the partition is read or committed
// without it.
func (c *Consumer) refuse(a *assignment, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused = err
	c.fetchOutages.fail(a.topic, a.partition, err)
}

// refusal returns why the committed offset is unknown, nil if it is known or not fetched yet.
func (a *assignment) refusal() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// refuseOmitted marks the partitions that an answer with committed offsets does not contain. The client has asked for
// all that have none yet. The caller holds c.mu.
func (c *Consumer) refuseOmitted() {
	for _, a := range c.assignments {
		if a.tracked() == nil && a.refusal() == nil {
			c.refuse(a, errOffsetOmitted)
		}
	}
}

// refusals returns the assignments whose committed offset the broker refused, sorted.
func (c *Consumer) refusals() []*assignment {
	as := slices.DeleteFunc(c.owned(nil), func(a *assignment) bool { return a.refusal() == nil })
	slices.SortFunc(as, func(a, b *assignment) int {
		if a.topic != b.topic {
			return strings.Compare(a.topic, b.topic)
		}
		return int(a.partition - b.partition)
	})
	return as
}

// offsetsRefused returns an error that names the topics whose committed offsets the broker refused, nil if none.
func (c *Consumer) offsetsRefused() error {
	as := c.refusals()
	if len(as) == 0 {
		return nil
	}
	return fmt.Errorf("topics %s are not read: read the committed offsets of group %s: %w",
		strings.Join(topicsOf(as), ", "), c.cfg.Group, kafka.Explain(as[0].refusal()))
}

// topicsOf returns the topics of sorted assignments.
func topicsOf(as []*assignment) (topics []string) {
	for _, a := range as {
		topics = append(topics, a.topic)
	}
	return slices.Compact(topics)
}

// refusedLoop joins the group again when the broker returns an offset that it refused before. The client itself has
// dropped such a partition, and does not ask for its offset until it is assigned again.
func (c *Consumer) refusedLoop(ctx context.Context) {
	ticker := time.NewTicker(refusedInterval)
	defer ticker.Stop()
	var rejoined time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		as := c.refusals()
		if len(as) == 0 || !rejoined.IsZero() && time.Since(rejoined) < rejoinPause {
			continue
		}
		back := c.readableAgain(ctx, as)
		if len(back) == 0 {
			continue
		}
		rejoined = time.Now()
		names := topicsOf(back)
		c.Log.Info("joining the group again because committed offsets can be read again", zap.Strings("topics", names))
		if !c.cfg.ServerAssigned {
			c.client.ForceRebalance()
			continue
		}
		// With the protocol "consumer" nothing is assigned again unless the subscription has changed.
		c.client.PurgeTopicsFromConsuming(names...)
		c.client.AddConsumeTopics(names...)
	}
}

// readableAgain returns those of as that are still assigned and whose committed offset the broker returns now.
func (c *Consumer) readableAgain(ctx context.Context, as []*assignment) (back []*assignment) {
	ctx, cancel := context.WithTimeout(ctx, refusedTimeout)
	defer cancel()
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = c.cfg.Group
	for _, topic := range topicsOf(as) {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic = topic
		for _, a := range as {
			if a.topic == topic {
				t.Partitions = append(t.Partitions, a.partition)
			}
		}
		group.Topics = append(group.Topics, t)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Groups = append(req.Groups, group)
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return nil // another check reports that Kafka does not answer
	}
	readable := map[topicPartition]bool{}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				readable[topicPartition{t.Topic, p.Partition}] = g.ErrorCode == 0 && kerr.ErrorForCode(p.ErrorCode) == nil
			}
		}
	}
	for _, a := range as {
		if readable[a.topicPartition] && c.assignment(a.topic, a.partition) == a {
			back = append(back, a)
		}
	}
	return back
}
