package consumer

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// markEnd ends the mark at the beginning of a commit's metadata: the id of the topic. Kafka stores commits under the
// topic's name, so the commit of a deleted topic may apply to the new topic of that name, until the broker removes
// it.
const markEnd = "|"

// markOf returns the mark of a topic, nil if the broker has no topic ids.
func markOf(id [16]byte) *string {
	if id == [16]byte{} {
		return nil
	}
	mark := base64.RawURLEncoding.EncodeToString(id[:]) + markEnd
	return &mark
}

// unmark splits the metadata of a commit. The id is zero if it has no mark, as in commits of older versions and
// other tools.
func unmark(metadata string) (id [16]byte, state string) {
	mark, rest, ok := strings.Cut(metadata, markEnd)
	if !ok {
		return id, metadata
	}
	data, err := base64.RawURLEncoding.DecodeString(mark)
	if err != nil || len(data) != len(id) {
		return id, metadata
	}
	return [16]byte(data), rest
}

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
