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
	pulseAsk   = 2 * time.Second        // for the group's coordinator to answer
	pulseAgain = 100 * time.Millisecond // and until it is asked again
	pulseLook  = 10 * time.Millisecond  // until work that waits for its answer looks again
)

// pulse notices that the process was stopped: by SIGSTOP, by a debugger, with its machine. Until the group has confirmed
// that this is still its member nothing begins: others may have got its partitions meanwhile, and make the attempts.
type pulse struct {
	began time.Time
	last  atomic.Int64 // when it beat last, since began; never, while nothing beats
	most  time.Duration
}

func newPulse(session time.Duration) *pulse {
	p := &pulse{began: time.Now(), most: session / 2}
	p.rest()
	return p
}

// rest ends the beating: nothing is missed from now on.
func (p *pulse) rest() { p.last.Store(math.MaxInt64) }

func (p *pulse) beat() { p.last.Store(int64(time.Since(p.began))) }

// missed reports whether the process has been stopped and is not confirmed yet.
func (p *pulse) missed() bool { return time.Since(p.began)-time.Duration(p.last.Load()) > p.most }

// pulseLoop beats until ctx ends.
func (c *Consumer) pulseLoop(ctx context.Context) {
	ticker := time.NewTicker(min(time.Second, c.pulse.most/4))
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

// confirm asks the group, until it answers or ctx ends, whether this is still its member. If not, all work ends at once.
func (c *Consumer) confirm(ctx context.Context) {
	c.log.Warn("the process was stopped for a while: nothing is sent until the group confirms its membership")
	for ctx.Err() == nil {
		as := c.held(nil) // what is assigned after the question is not what the answer is about
		err := c.heartbeat(ctx)
		switch {
		case err == nil, errors.Is(err, kerr.RebalanceInProgress):
			c.log.Info("still a member of the group")
			return
		case errors.Is(err, kerr.FencedInstanceID):
			c.fence()
			return
		case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration):
			c.log.Warn("not a member of the group any more: requests in flight are cut off", zap.Error(err))
			expel(as)
			return
		}
		if len(c.held(nil)) == 0 {
			return // the client has noticed, or has not joined yet
		}
		select {
		case <-ctx.Done():
		case <-time.After(pulseAgain):
		}
	}
}

func (c *Consumer) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pulseAsk)
	defer cancel()
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

// confirmed waits, if the process was stopped, until it is known whether the group still counts on this member. It
// reports whether the assignment may be worked on.
func (a *assignment) confirmed() bool {
	for a.owner.pulse.missed() {
		if a.State() != event.Held || a.ctx.Err() != nil {
			return false
		}
		time.Sleep(pulseLook)
	}
	return true
}
