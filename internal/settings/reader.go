package settings

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/kafka"
)

// stuckAfter is how long a reader waits for records it expects before it asks
// whether they still exist.
const stuckAfter = 500 * time.Millisecond

// errRecreated says that a topic was deleted and created again: offsets start again
// and no version from before means anything.
var errRecreated = errors.New("a settings topic was deleted and made anew")

// reader reads whole topics from their start, without a group.
type reader struct {
	client *kgo.Client
	goal   *layout
	topics []string

	mu       sync.Mutex
	position map[slot]int64 // up to where everything was read
	next     map[slot]int64 // the offset after the last record; less than position once the log was cut back
	progress time.Time      // when a record came last
}

// readerOpts are the options of a client that reads the topics whole. Control
// records are kept because they move the position too.
func readerOpts(topics []string) []kgo.Opt {
	return []kgo.Opt{
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(),
		// Partitions that were added are found this late.
		kgo.MetadataMinAge(250 * time.Millisecond), kgo.MetadataMaxAge(15 * time.Second),
	}
}

// newReader notes where the topics end now; done tells when all of that was read.
func newReader(ctx context.Context, client *kgo.Client, topics ...string) (*reader, error) {
	goal, err := describe(ctx, client, topics...)
	if err != nil {
		return nil, err
	}
	r := &reader{client: client, goal: goal, topics: topics, position: map[slot]int64{}, next: map[slot]int64{}, progress: time.Now()}
	for at, s := range goal.spans {
		r.position[at], r.next[at] = s.start, s.start
	}
	return r, nil
}

// poll waits for records, at most wait long, and hands each to take. Errors of
// partitions are returned after the records of the others were taken; the
// client goes on by itself after all of them but errRecreated.
func (r *reader) poll(ctx context.Context, wait time.Duration, take func(*kgo.Record)) error {
	fetches := kafka.Poll(ctx, r.client, wait, 0, r.at)
	if err := ctx.Err(); err != nil {
		return err
	}
	if fetches.IsClientClosed() {
		return kgo.ErrClientClosed
	}
	var failed error
	fetches.EachError(func(topic string, partition int32, err error) {
		if skipped, ok := errors.AsType[*kafka.Skipped](err); ok {
			r.moved(slot{topic, partition}, skipped.Next)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			failed = fmt.Errorf("reading %s/%d: %w", topic, partition, err)
		}
	})
	if errors.Is(failed, kerr.UnknownTopicID) || errors.Is(failed, kerr.InconsistentTopicID) {
		return fmt.Errorf("%w: %w", errRecreated, failed)
	}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		for _, record := range p.Records {
			if !record.Attrs.IsControl() {
				take(record)
			}
		}
		if n := len(p.Records); n > 0 {
			r.moved(slot{p.Topic, p.Partition}, p.Records[n-1].Offset+1)
		}
	})
	return failed
}

// moved notes that a partition was read up to next.
func (r *reader) moved(at slot, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// After a reset to the start the position stays: what was read was read.
	r.position[at] = max(r.position[at], next)
	r.next[at] = next
	r.progress = time.Now()
}

// at returns the offset after the last record of a partition.
func (r *reader) at(topic string, partition int32) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next[slot{topic, partition}]
}

// passed says whether everything below the spans' ends was read.
func (r *reader) passed(spans map[slot]span) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at, s := range spans {
		if r.position[at] < s.end && s.start < s.end {
			return false
		}
	}
	return true
}

// done says whether everything was read that was there when the reader was
// made. When records don't come any more it finds out whether they still exist.
func (r *reader) done(ctx context.Context) (bool, error) {
	if r.passed(r.goal.spans) {
		return true, nil
	}
	r.mu.Lock()
	stuck := time.Since(r.progress) > stuckAfter
	r.mu.Unlock()
	if !stuck {
		return false, nil
	}
	if err := r.skip(ctx, r.goal.spans); err != nil {
		return false, err
	}
	return r.passed(r.goal.spans), nil
}

// skip moves the positions, up to the spans' ends, over offsets without records:
// those that compaction, deletion or an aborted transaction left.
func (r *reader) skip(ctx context.Context, spans map[slot]span) error {
	now, err := describe(ctx, r.client, r.topics...)
	if err != nil {
		return err
	}
	if now.id != r.goal.id {
		return errRecreated
	}
	for at, s := range spans {
		r.mu.Lock()
		from := max(r.position[at], now.spans[at].start)
		r.mu.Unlock()
		from, err := kafka.NextRecord(ctx, r.client, at.topic, at.partition, from, s.end, true)
		if err != nil {
			return fmt.Errorf("looking for the end of %s/%d: %w", at.topic, at.partition, err)
		}
		r.mu.Lock()
		r.position[at] = max(r.position[at], from)
		r.progress = time.Now()
		r.mu.Unlock()
	}
	return nil
}

// lag is the number of offsets between the reader and the spans' ends.
func (r *reader) lag(spans map[slot]span) (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at, s := range spans {
		n += max(0, s.end-max(r.position[at], s.start))
	}
	return n
}

// positionOf returns the offset up to which everything of a partition was read.
func (r *reader) positionOf(at slot) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position[at]
}
