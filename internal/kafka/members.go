package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// errUnsettled is the error of a group whose members are not all known.
var errUnsettled = errors.New("the group is rebalancing, or has no members")

// Subscribed returns the topics that members of a group subscribe to. It fails while the group rebalances: then the
// broker does not know them all.
func Subscribed(ctx context.Context, cl *kgo.Client, group string) ([]string, error) {
	admin := kadm.NewClient(cl)
	classic, err := admin.DescribeGroups(ctx, group)
	if g := classic[group]; err == nil && g.Err == nil && g.State == "Stable" {
		return g.JoinTopics(), nil
	}
	described, errNext := admin.DescribeConsumerGroups(ctx, group) // of the protocol of KIP-848
	if g := described[group]; errNext == nil && g.Err == nil && len(g.Members) > 0 {
		return g.SubscribedTopics(), nil
	}
	return nil, fmt.Errorf("describe group %s (kafka.group): %w", group, errors.Join(errUnsettled, err))
}
