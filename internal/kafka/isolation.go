package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// isolation is the protocol's number of an isolation level.
type isolation int8

const (
	readUncommitted isolation = 0
	readCommitted   isolation = 1
)

func (i isolation) level() kgo.IsolationLevel {
	if i == readCommitted {
		return kgo.ReadCommitted()
	}
	return kgo.ReadUncommitted()
}

func isolationOf(cl *kgo.Client) isolation {
	level, _ := cl.OptValue(kgo.FetchIsolationLevel).(int8)
	return isolation(level)
}

// IsolationLevel returns cl's isolation level for use in requests.
func IsolationLevel(cl *kgo.Client) int8 { return int8(isolationOf(cl)) }

// ListEnds returns the offsets up to which cl can read the topics now: the last stable offsets, if it reads committed
// records only. An open transaction holds them back. If there is an error, those that are known are returned with it.
func ListEnds(ctx context.Context, cl *kgo.Client, topics ...string) (kadm.ListedOffsets, error) {
	admin := kadm.NewClient(cl)
	list := admin.ListEndOffsets
	if isolationOf(cl) == readCommitted {
		list = admin.ListCommittedOffsets
	}
	ends, err := list(ctx, topics...)
	if err != nil {
		return ends, fmt.Errorf("ends of topics: %w", err)
	}
	return ends, nil
}
