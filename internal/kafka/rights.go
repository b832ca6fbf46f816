package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/topics"
)

// Rights is a set of rights on a topic or a group. As in the brokers' answers, each right is the bit with the number of
// its ACL operation.
type Rights int32

// The rights that the service needs at all times.
const (
	Read  Rights = 1 << kmsg.ACLOperationRead
	Write Rights = 1 << kmsg.ACLOperationWrite
)

// rightsTimeout bounds the search for missing rights.
const rightsTimeout = 10 * time.Second

// rightNames returns the rights that commands need, by ACL operation, in the words of Kafka's ACLs.
func rightNames() []string {
	return []string{
		kmsg.ACLOperationRead: "Read", kmsg.ACLOperationWrite: "Write", kmsg.ACLOperationCreate: "Create",
		kmsg.ACLOperationAlter: "Alter", kmsg.ACLOperationDescribe: "Describe",
		kmsg.ACLOperationDescribeConfigs: "DescribeConfigs", kmsg.ACLOperationAlterConfigs: "AlterConfigs",
	}
}

// rightsNamed returns the rights with the given names.
func rightsNamed(names []string) (r Rights) {
	for operation, name := range rightNames() {
		if slices.Contains(names, name) {
			r |= 1 << operation
		}
	}
	return r
}

// String returns the rights in the words of Kafka's ACLs.
func (r Rights) String() string {
	var names []string
	for operation, name := range rightNames() {
		if name != "" && r&(1<<operation) != 0 {
			names = append(names, name)
		}
	}
	switch n := len(names); n {
	case 0:
		return "no"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}

// lacking returns which of needs a broker's answer denies.
func lacking(needs Rights, code int16, operations int32) Rights {
	switch err := kerr.ErrorForCode(code); {
	case IsDenied(err):
		return needs
	// A broker without that feature sends the lowest number, or none: a user who sees a topic may at least describe it.
	case err == nil && operations != math.MinInt32 && operations != 0:
		return needs &^ Rights(operations)
	}
	return 0
}

// lacks returns a sentence about the missing rights.
func lacks(resource string, missing Rights) string {
	return fmt.Sprintf("%s: this user lacks the %s right", resource, missing)
}

// IsDenied reports whether a broker refused a request because the user lacks a right.
func IsDenied(err error) bool {
	for _, denied := range []error{kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed,
		kerr.TransactionalIDAuthorizationFailed, kerr.ClusterAuthorizationFailed} {
		if errors.Is(err, denied) {
			return true
		}
	}
	return false
}

// NameRights adds to the error of a command the rights that the command needs and the user lacks. It returns err itself
// if no right is missing, or if the brokers do not answer.
func NameRights(ctx context.Context, cl *kgo.Client, plan *topics.Plan, needs []topics.Right, err error) error {
	if !IsDenied(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	missing, asked := MissingRights(ctx, cl, plan, needs)
	if asked != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%s (%w)", strings.Join(missing, "; "), err)
}

// MissingRights returns the rights of needs that the user lacks, as a sentence for each resource. It omits
// transactional ids, topics that do not exist, and a group whose coordinator does not answer: their rights are unknown.
func MissingRights(
	ctx context.Context, cl *kgo.Client, plan *topics.Plan, needs []topics.Right,
) (missing []string, err error) {
	seen, err := TopicMetadata(ctx, cl, plan.All()...)
	if err != nil {
		return nil, err
	}
	for _, need := range needs {
		resource, without := need.Resource+" "+need.Name, Rights(0)
		switch need.Resource {
		case "topic":
			for _, topic := range plan.All() {
				if topic == need.Name || need.Prefixed && strings.HasPrefix(topic, need.Name) {
					without |= lacking(rightsNamed(need.Operations), seen[topic].ErrorCode, seen[topic].AuthorizedOperations)
				}
			}
		case "group":
			without = groupLacking(ctx, cl, need.Name, rightsNamed(need.Operations))
		}
		if need.Prefixed {
			resource += "…"
		}
		if without != 0 {
			missing = append(missing, lacks(resource, without))
		}
	}
	return missing, nil
}

func groupLacking(ctx context.Context, cl *kgo.Client, group string, needs Rights) (without Rights) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups, req.IncludeAuthorizedOperations = []string{group}, true
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		if IsDenied(err) { // by the search for the coordinator
			return needs
		}
		return 0
	}
	for _, g := range resp.Groups {
		without |= lacking(needs, g.ErrorCode, g.AuthorizedOperations)
	}
	return without
}
