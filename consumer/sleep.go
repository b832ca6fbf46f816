package consumer

import (
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

// minSleep is the shortest delay of topics that may sleep. A record in a sleeping partition is found within
// lagInterval, plus lagTimeout if Kafka is slow, which is long before it is due. Shorter delays have no such reserve.
const minSleep = time.Minute

// noEpoch is the epoch of a partition that was not found empty the last time.
const noEpoch = -2

// maySleep reports whether empty partitions of a topic need not be fetched. The topic of released events may sleep: it
// is written by the member that consumes it, which calls [Consumer.Wake]. The overflow topic of the first tier may not,
// whatever its delay: it also gets replayed events, which are due at once, and any instance writes them.
func maySleep(info topics.Info) bool {
	if info.Class == topics.Overflow && info.Tier <= 0 {
		return info.Tier == topics.NoTier
	}
	return info.Class != topics.Source && info.Delay >= minSleep
}

// sleep stops fetching empty partitions of delay topics, and resumes fetching those that are no longer empty. Most of a
// service's partitions are empty most of the time, and each costs processor time in every fetch.
func (c *Consumer) sleep(starts, ends kadm.ListedOffsets) {
	var found []emptiness
	for _, a := range c.owned(nil) {
		tracker := a.tracked()
		if !maySleep(a.info) || tracker == nil {
			continue
		}
		f := emptiness{a: a, epoch: noEpoch}
		end, ok := ends.Lookup(a.topic, a.partition)
		start, known := starts.Lookup(a.topic, a.partition)
		// An end below the committable offset is a truncation, which only a fetch detects.
		if ok && known && end.Err == nil && start.Err == nil && tracker.Outstanding() == 0 &&
			max(tracker.Committable(), start.Offset) == end.Offset {
			f.epoch = end.LeaderEpoch
		}
		found = append(found, f)
	}
	c.gates.sleep(found)
}

// wakeAll fetches all sleeping partitions again, because it is unknown whether they are still empty.
func (c *Consumer) wakeAll() {
	var found []emptiness
	for _, a := range c.owned(nil) {
		found = append(found, emptiness{a, noEpoch})
	}
	c.gates.sleep(found)
}

// Wake fetches a sleeping partition with the next fetch. It is called after a record was written to it.
func (c *Consumer) Wake(topic string, partition int32) {
	if a := c.assignment(topic, partition); a != nil {
		c.gates.sleep([]emptiness{{a, noEpoch}})
	}
}

// emptiness is what was found about a partition of a delay topic.
type emptiness struct {
	a     *assignment
	epoch int32 // of the partition's leader if the partition is empty, otherwise noEpoch
}

// sleep pauses partitions that were empty twice in a row under the same leader, and wakes those that were not empty.
// The log of another leader may have become shorter and grown again: it is fetched first.
func (gs *gates) sleep(found []emptiness) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	pause, woken := map[string][]int32{}, false
	for _, f := range found {
		g := gs.open[f.a.topicPartition]
		switch {
		case g != nil && g.a == f.a:
		case f.epoch == noEpoch || f.a.State() != event.Held: // once it is not held, drop is called
			continue
		default:
			g = &gate{a: f.a, next: -1, epoch: noEpoch}
			gs.open[f.a.topicPartition] = g
		}
		if f.epoch != g.epoch || f.epoch == noEpoch {
			woken = woken || g.asleep
			g.asleep, g.epoch = false, f.epoch
			continue
		}
		if !g.paused && len(g.buffered)+len(g.undecided) == 0 {
			g.asleep, g.paused = true, true
			gs.paused++
			pause[f.a.topic] = append(pause[f.a.topic], f.a.partition)
		}
	}
	if len(pause) > 0 {
		gs.client.PauseFetchPartitions(pause)
	}
	if woken {
		gs.wake()
	}
}
