package consumer

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// markEnd ends the mark that the metadata of a commit begins with: the id of the topic whose offsets it is about. Kafka
// stores commits under the topic's name. One that was made for a topic that is deleted by now may reach the new topic of
// that name, or be read before the broker has removed it.
const markEnd = "|"

// markOf is the mark of a topic, nil if the broker knows no ids.
func markOf(id [16]byte) *string {
	if id == [16]byte{} {
		return nil
	}
	mark := base64.RawURLEncoding.EncodeToString(id[:]) + markEnd
	return &mark
}

// unmark parts the metadata of a commit: the id is zero if it has no mark, as that of older versions and other tools.
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

// passOver makes the client begin at the start where the committed offset is that of a deleted topic.
func (c *Consumer) passOver(_ context.Context, from map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
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
