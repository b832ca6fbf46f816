package consumer

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

// skipDeleted makes the client begin at the start of partitions whose committed offset is that of a deleted topic.
func (c *Consumer) skipDeleted(
	_ context.Context, from map[string]map[int32]kgo.Offset,
) (map[string]map[int32]kgo.Offset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp := range c.outdated {
		if _, ok := from[tp.topic][tp.partition]; ok {
			from[tp.topic][tp.partition] = kgo.NewOffset().AtStart()
		}
	}
	clear(c.outdated)
	return from, nil
}
