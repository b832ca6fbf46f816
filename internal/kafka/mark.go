package kafka

import (
	"encoding/base64"
	"strings"
)

// commitMarkEnd ends the mark at the beginning of a commit's metadata: the id of the topic. Kafka stores commits under
// the topic's name, so the commit of a deleted topic may apply to the new topic of that name, until the broker removes
// it.
const commitMarkEnd = "|"

// CommitMark returns what precedes the state in the metadata of a topic's commits, nil if the broker has no topic ids.
func CommitMark(id [16]byte) *string {
	if id == [16]byte{} {
		return nil
	}
	mark := base64.RawURLEncoding.EncodeToString(id[:]) + commitMarkEnd
	return &mark
}

// SplitCommit splits the metadata of a commit. The id is zero if it has no mark, as in commits of older versions and
// other tools.
func SplitCommit(metadata string) (id [16]byte, state string) {
	mark, rest, ok := strings.Cut(metadata, commitMarkEnd)
	if !ok {
		return id, metadata
	}
	data, err := base64.RawURLEncoding.DecodeString(mark)
	if err != nil || len(data) != len(id) {
		return id, metadata
	}
	return [16]byte(data), rest
}
