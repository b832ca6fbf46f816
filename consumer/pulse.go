package consumer

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
)

const (
	heartbeatTimeout = 2 * time.Second        // for the coordinator to answer a heartbeat
	heartbeatRetry   = 100 * time.Millisecond // until the next heartbeat
	confirmPoll      = 10 * time.Millisecond  // how often a blocked Acquire checks
)

// pulse detects that the process was suspended, by SIGSTOP, a debugger or with its machine. No event is acquired
// until the group confirms the membership, because others may own the partitions by now.
type pulse struct {
	began  time.Time
	last   atomic.Int64  // time of the last beat, since began; in the far future at rest
	maxGap time.Duration // between beats
}

func newPulse(session time.Duration) *pulse {
	p := &pulse{began: time.Now(), maxGap: session / 2}
	p.rest()
	return p
}

// rest stops the pulse: no beat is missed from now on.
func (p *pulse) rest() { p.last.Store(math.MaxInt64) }

func (p *pulse) beat() { p.last.Store(int64(time.Since(p.began))) }

// missed reports whether the process was suspended and its membership is not confirmed yet.
func (p *pulse) missed() bool { return time.Since(p.began)-time.Duration(p.last.Load()) > p.maxGap }

// pulseLoop beats until ctx ends.
func (c *Consumer) pulseLoop(ctx context.Context) {
	ticker := time.NewTicker(min(time.Second, c.pulse.maxGap/4))
	defer ticker.Stop()
	c.pulse.beat()
	defer c.pulse.rest()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if c.pulse.missed() {
			c.confirm(ctx)
		}
		c.pulse.beat()
	}
}

// confirm sends heartbeats until the group answers or ctx ends. If this is no longer a member, all work ends at once.
func (c *Consumer) confirm(ctx context.Context) {
	c.Log.Warn("the process was suspended; nothing is sent until the group confirms its membership")
	for ctx.Err() == nil {
		as := c.owned(nil) // partitions assigned later are not affected by the answer
		err := c.heartbeat(ctx)
		switch {
		case err == nil, errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.StaleMemberEpoch):
			c.Log.Info("still a member of the group")
			return
		case errors.Is(err, kerr.FencedInstanceID):
			c.fence()
			return
		case expelled(err):
			c.Log.Warn("not a member of the group any more; requests in flight are cancelled", zap.Error(err))
			expel(as)
			return
		}
		if len(c.owned(nil)) == 0 {
			return // the client has noticed, or has not joined yet
		}
		select {
		case <-ctx.Done():
		case <-time.After(heartbeatRetry):
		}
	}
}

// heartbeat asks the group whether this is still a member.
func (c *Consumer) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	if c.cfg.ServerAssigned {
		return c.verify(ctx)
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group = c.cfg.Group
	req.MemberID, req.Generation = c.client.GroupMetadata()
	if c.cfg.InstanceID != "" {
		req.InstanceID = kmsg.StringPtr(c.cfg.InstanceID)
	}
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// verify fetches no offsets, which the group allows its members only. A heartbeat of the protocol "consumer" would be
// answered with an assignment that the client does not see.
func (c *Consumer) verify(ctx context.Context) error {
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = c.cfg.Group
	member, epoch := c.client.GroupMetadata()
	group.MemberID, group.MemberEpoch = kmsg.StringPtr(member), epoch
	group.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Groups = append(req.Groups, group)
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return err
	}
	for _, g := range resp.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return err
		}
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// awaitConfirmed waits, after a suspension, until the membership is confirmed. It returns false if the partition is
// revoked.
func (a *assignment) awaitConfirmed() bool {
	for a.owner.pulse.missed() {
		if a.State() != event.Held || a.ctx.Err() != nil {
			return false
		}
		time.Sleep(confirmPoll)
	}
	return true
}
