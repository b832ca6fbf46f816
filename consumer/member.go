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
	rebalanceTimeout = 60 * time.Second // at least; what a live member may take to join a rebalance
	joinSoon         = 3 * time.Second  // a join that takes longer waits for members that do not answer
	joinLook         = time.Second
	withdrawAfter    = 200 * time.Millisecond // a leave that takes longer waits for a join
)

// FencedError says that another process uses this member's kafka.instance_id.
type FencedError struct{ InstanceID string }

func (e *FencedError) Error() string {
	return fmt.Sprintf("kafka.instance_id: %q is in use by another process of the group; every process needs its own", e.InstanceID)
}

// SessionTimeoutError says that the broker does not accept this member's kafka.session_timeout.
type SessionTimeoutError struct{ Timeout time.Duration }

func (e *SessionTimeoutError) Error() string {
	return fmt.Sprintf("kafka.session_timeout: the broker does not accept %v; it must be from the broker's group.min.session.timeout.ms to its group.max.session.timeout.ms", e.Timeout)
}

// membership is what the client's requests tell about this member's place in the group.
type membership struct {
	joining atomic.Int64          // since when the answer to a JoinGroup is awaited, Unix ms; 0 if none is
	failed  atomic.Pointer[error] // why the client is not in the group, nil if it is or has not tried
}

// groupHooks receives from the client what it does about the group.
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
	case errors.Is(err, kerr.FencedInstanceID):
		h.c.fence()
	case errors.Is(err, kerr.InvalidSessionTimeout):
		h.c.interrupt(&SessionTimeoutError{h.c.cfg.SessionTimeout})
	}
}

// Joined returns nil if the member is in the group and knows its partitions (which may be none), else why not.
func (c *Consumer) Joined() error {
	if c.joined.Load() {
		return nil
	}
	if since, waits := c.joinWait(); waits {
		return errors.New(c.joinText(since))
	}
	if err := c.membership.failed.Load(); err != nil {
		return fmt.Errorf("no partitions are assigned: group %s: %w", c.cfg.Group, kafka.Explain(*err))
	}
	return errors.New("no partitions are assigned")
}

// joinWait reports whether the group makes this member wait for others, and since when.
func (c *Consumer) joinWait() (since time.Time, waits bool) {
	ms := c.membership.joining.Load()
	since = time.UnixMilli(ms)
	return since, ms != 0 && time.Since(since) >= joinSoon
}

// joinMost is how much longer a join that began at since may take. The group drops a member that is gone after its
// session timeout. One that answers, but slowly, has until the rebalance timeout.
func (c *Consumer) joinMost(since time.Time) time.Duration {
	waited := time.Since(since)
	if waited < c.cfg.SessionTimeout {
		return c.cfg.SessionTimeout - waited
	}
	return max(c.rebalanceTimeout()-waited, 0)
}

func (c *Consumer) joinText(since time.Time) string {
	return fmt.Sprintf("waiting for members of group %s that do not answer, at most %v more: a member that is gone counts until its kafka.session_timeout is over",
		c.cfg.Group, c.joinMost(since).Round(time.Second))
}

func (c *Consumer) rebalanceTimeout() time.Duration {
	return max(rebalanceTimeout, c.cfg.SessionTimeout)
}

// joinLoop logs when the group makes this member wait, when that is over, and when topics are fetched again.
func (c *Consumer) joinLoop(ctx context.Context) {
	ticker := time.NewTicker(joinLook)
	defer ticker.Stop()
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.unfetched.sweep(time.Now())
		switch since, waits := c.joinWait(); {
		case waits && told.IsZero():
			told = since
			c.log.Warn("waiting for members of the group that do not answer: one that is gone counts until its kafka.session_timeout is over",
				zap.String("group", c.cfg.Group), zap.Duration("at_most", c.joinMost(since).Round(time.Second)))
		case !waits && !told.IsZero() && c.membership.joining.Load() == 0:
			c.log.Info("the group waits for no member any more", zap.Duration("after", time.Since(told).Round(time.Millisecond)))
			told = time.Time{}
		}
	}
}

// fence ends all work at once: another process has joined the group in this member's place. Nothing is committed, no
// attempt starts, and Run returns a FencedError.
func (c *Consumer) fence() {
	expel(c.held(nil))
	c.interrupt(&FencedError{c.cfg.InstanceID})
}

// expel ends the work on partitions at once: the group has given them to others. Their owners make the attempts that are
// cut off again.
func expel(as []*assignment) {
	for _, a := range as {
		a.lose()
		a.close()
		a.cancel()
	}
}

// refused handles a commit for as that the group refused because it does not know this member any more. No attempt of
// theirs starts from now on; the client joins again. What it has been assigned since the commit was sent is not touched.
func (c *Consumer) refused(err error, as []*assignment) {
	switch {
	case errors.Is(err, kerr.FencedInstanceID):
		c.fence()
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration):
		for _, a := range as {
			a.lose()
			a.close()
		}
	}
}

// leave sends LeaveGroup. A group that cannot be reached drops the member after its session timeout.
func (c *Consumer) leave() {
	ctx, cancel := context.WithTimeout(c.end, leaveTimeout)
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
	if err != nil {
		c.log.Warn("cannot leave the group", zap.Error(err))
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

// withdraw takes this member out of a join that waits for others: the client itself leaves only when it has been
// answered. A static member stays in the group: it is to find its partitions again.
func (c *Consumer) withdraw(ctx context.Context) {
	id, _ := c.client.GroupMetadata()
	if id == "" || c.cfg.InstanceID != "" {
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
