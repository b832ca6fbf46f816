package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
)

const (
	rebalanceTimeout = 60 * time.Second // at least, for a live member to join a rebalance
	slowJoin         = 3 * time.Second  // a longer join waits for members that do not answer
	joinSlack        = 5 * time.Second  // after a session timeout, for the group to notice
	joinInterval     = time.Second
	withdrawAfter    = 200 * time.Millisecond // a longer leave waits for a join
)

// FencedError is returned if another process uses this member's kafka.instance_id.
type FencedError struct{ InstanceID string }

func (e *FencedError) Error() string {
	return fmt.Sprintf("kafka.instance_id: %q is in use by another process of the group; every process needs its own",
		e.InstanceID)
}

// SessionTimeoutError is returned if the broker does not accept this member's kafka.session_timeout.
type SessionTimeoutError struct{ Timeout time.Duration }

func (e *SessionTimeoutError) Error() string {
	return fmt.Sprintf("kafka.session_timeout: the broker does not accept %v; "+
		"it must be from the broker's group.min.session.timeout.ms to its group.max.session.timeout.ms", e.Timeout)
}

// membership is the state of this member in the group, as seen in the client's requests.
type membership struct {
	joining atomic.Int64          // when the pending JoinGroup was sent, Unix ms; 0 = none is pending
	failed  atomic.Pointer[error] // why the client is not in the group, nil if it is or has not tried
	refused atomic.Int64          // when the instance id was first found to be in use, Unix ms; 0 = it was not
}

// groupHooks observes the client's group requests.
type groupHooks struct{ c *Consumer }

var (
	_ kgo.HookBrokerWrite      = groupHooks{}
	_ kgo.HookBrokerRead       = groupHooks{}
	_ kgo.HookGroupManageError = groupHooks{}
)

// OnBrokerWrite implements kgo.HookBrokerWrite.
func (h groupHooks) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == int16(kmsg.JoinGroup) && err == nil {
		h.c.membership.joining.Store(time.Now().UnixMilli())
	}
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (h groupHooks) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if key == int16(kmsg.JoinGroup) {
		h.c.membership.joining.Store(0)
	}
}

// OnGroupManageError implements kgo.HookGroupManageError.
func (h groupHooks) OnGroupManageError(err error) {
	h.c.membership.joining.Store(0)
	h.c.membership.failed.Store(&err)
	switch {
	case errors.Is(err, kerr.FencedInstanceID), h.c.inUse(err):
		h.c.fence()
	case errors.Is(err, kerr.InvalidSessionTimeout):
		h.c.interrupt(&SessionTimeoutError{h.c.cfg.SessionTimeout})
	}
}

// inUse reports whether another process keeps this member's kafka.instance_id. With the protocol "consumer" the group
// refuses the newcomer, also after a crash of the previous process, until its session has expired.
func (c *Consumer) inUse(err error) bool {
	if !errors.Is(err, kerr.UnreleasedInstanceID) {
		return false
	}
	now := time.Now().UnixMilli()
	return !c.membership.refused.CompareAndSwap(0, now) &&
		now-c.membership.refused.Load() > (c.cfg.SessionTimeout+joinSlack).Milliseconds()
}

// Joined returns nil if the member is in the group and reads its partitions (which may be none), else why not.
func (c *Consumer) Joined() error {
	if c.joined.Load() {
		return c.offsetsRefused()
	}
	if since, waits := c.joinWait(); waits {
		return errors.New(c.joinText(since))
	}
	if err := c.membership.failed.Load(); err != nil {
		return fmt.Errorf("no partitions are assigned: group %s: %w", c.cfg.Group, kafka.Explain(*err))
	}
	return errors.New("no partitions are assigned")
}

// joinWait reports whether this member waits for others in a join, and since when.
func (c *Consumer) joinWait() (since time.Time, waits bool) {
	ms := c.membership.joining.Load()
	since = time.UnixMilli(ms)
	return since, ms != 0 && time.Since(since) >= slowJoin
}

// maxJoinTime returns how much longer a join that began at since may take. The group drops an absent member after
// its session timeout, and a slow one after the rebalance timeout.
func (c *Consumer) maxJoinTime(since time.Time) time.Duration {
	waited := time.Since(since)
	if waited < c.cfg.SessionTimeout {
		return c.cfg.SessionTimeout - waited
	}
	return max(c.rebalanceTimeout()-waited, 0)
}

func (c *Consumer) joinText(since time.Time) string {
	return fmt.Sprintf("waiting for members of group %s that do not answer, at most %v more: "+
		"a vanished member counts until its kafka.session_timeout expires",
		c.cfg.Group, c.maxJoinTime(since).Round(time.Second))
}

func (c *Consumer) rebalanceTimeout() time.Duration {
	return max(rebalanceTimeout, c.cfg.SessionTimeout)
}

// joinLoop logs when this member waits for others in a join, when that ends, and when topics are fetched again.
func (c *Consumer) joinLoop(ctx context.Context) {
	ticker := time.NewTicker(joinInterval)
	defer ticker.Stop()
	var waiting time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.fetchOutages.sweep(time.Now(), topicsOf(c.refusals()))
		switch since, waits := c.joinWait(); {
		case waits && waiting.IsZero():
			waiting = since
			c.Log.Warn("waiting for members of the group that do not answer: "+
				"a vanished member counts until its kafka.session_timeout expires",
				zap.String("group", c.cfg.Group), zap.Duration("at_most", c.maxJoinTime(since).Round(time.Second)))
		case !waits && !waiting.IsZero() && c.membership.joining.Load() == 0:
			c.Log.Info("the group no longer waits for members",
				zap.Duration("after", time.Since(waiting).Round(time.Millisecond)))
			waiting = time.Time{}
		}
	}
}

// fence ends all work at once because another process has joined the group in this member's place. Nothing is
// committed and Run returns a FencedError.
func (c *Consumer) fence() {
	expel(c.owned(nil))
	c.interrupt(&FencedError{c.cfg.InstanceID})
}

// expel ends the work on partitions at once because others own them. The new owners repeat cancelled attempts.
func expel(as []*assignment) {
	for _, a := range as {
		a.lose()
		a.drain()
		a.cancel()
	}
}

// commitRefused handles a refused commit for as. If the group does not know this member any more, no attempt of theirs
// starts from now on, and the client joins again. Partitions assigned since the commit was sent are not affected.
func (c *Consumer) commitRefused(err error, as []*assignment) {
	switch {
	case errors.Is(err, kerr.FencedInstanceID):
		c.fence()
	case expelled(err):
		for _, a := range as {
			a.lose()
			a.drain()
		}
	}
}

// expelled reports whether the group does not know this member any more. A stale epoch is not a reason: the next
// heartbeat brings the new one (protocol "consumer").
func expelled(err error) bool {
	return errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration) ||
		errors.Is(err, kerr.FencedMemberEpoch)
}

// leave sends LeaveGroup. If the group is not reachable it drops the member after the session timeout.
func (c *Consumer) leave() {
	ctx, cancel := context.WithTimeout(c.graceCtx, leaveTimeout)
	defer cancel()
	c.client.AllowRebalance()
	left := make(chan error, 1)
	go func() { left <- c.client.LeaveGroupContext(ctx) }()
	var err error
	select {
	case err = <-left:
	case <-time.After(withdrawAfter):
		c.withdraw(ctx)
		err = <-left
	}
	if err != nil && c.graceCtx.Err() == nil {
		c.Log.Warn("cannot leave the group", zap.Error(err))
	}
	if ctx.Err() != nil || err != nil {
		c.disconnect()
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.client.CloseAllowingRebalance()
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		c.disconnect()
		select {
		case <-closed:
		case <-time.After(withdrawAfter):
		}
	}
}

// withdraw takes this member out of a join that waits for others. The client itself leaves only after the join. A
// static member stays in the group, so that it gets its partitions back.
func (c *Consumer) withdraw(ctx context.Context) {
	id, _ := c.client.GroupMetadata()
	if id == "" || c.cfg.InstanceID != "" || c.cfg.ServerAssigned { // which has no joins that wait
		c.disconnect()
		return
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = c.cfg.Group, id
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID = id
	req.Members = append(req.Members, member)
	if _, err := req.RequestWith(ctx, c.client); err != nil {
		c.disconnect()
	}
}
