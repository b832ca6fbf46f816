package event

import (
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Partition is a partition of a delay topic that this member owns, for use by recoveries.
type Partition struct {
	Topic  string
	Number int32
	Kind   webhook.Kind
	Class  topics.Class
	Lease  Lease // of this assignment
	// Next is the offset after the records that the gate has passed on or is undecided about. Records from here on are
	// copied or passed on, never both.
	Next      int64
	Undecided int // records that are due, but not yet known whether released
	// Owned reports whether this member still owns the partition.
	Owned func() bool
	// Finished reports whether a record of the topic with that id is finished, by its offset and leader epoch.
	Finished func(topicID [16]byte, offset int64, epoch int32) bool
}
