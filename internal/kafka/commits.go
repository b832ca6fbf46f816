package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// coordinatorPause is the time between two requests to a group's coordinator that is not ready.
const coordinatorPause = 100 * time.Millisecond

// ReadCommits returns a group's committed offsets, none if the group does not exist. It waits for the coordinator until
// ctx ends: a cluster creates it only when the first group is asked for.
func ReadCommits(ctx context.Context, cl *kgo.Client, group string) (kadm.OffsetResponses, error) {
	for {
		commits, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
		switch {
		case err == nil, errors.Is(err, kerr.GroupIDNotFound):
			return commits, nil
		case !errors.Is(err, kerr.CoordinatorNotAvailable) && !errors.Is(err, kerr.CoordinatorLoadInProgress):
			return nil, fmt.Errorf("read the offsets of group %s (kafka.group): %w", group, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read the offsets of group %s (kafka.group): %w", group, err)
		case <-time.After(coordinatorPause):
		}
	}
}
