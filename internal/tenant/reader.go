package tenant

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// stuckAfter is how long a reader waits for records it expects before it asks
// whether they still exist.
const stuckAfter = 500 * time.Millisecond

// errRecreated says that a topic was deleted and made anew: offsets start again
// and no version from before means anything.
var errRecreated = errors.New("a settings topic was deleted and made anew")

// reader reads whole topics from their start, without a group.
type reader struct {
	client *kgo.Client
	goal   *layout
	topics []string

	mu       sync.Mutex
	position map[slot]int64 // the offset after the last record read
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
	r := &reader{client: client, goal: goal, topics: topics, position: map[slot]int64{}, progress: time.Now()}
	for at, s := range goal.spans {
		r.position[at] = s.start
	}
	return r, nil
}

// poll waits for records, at most wait long, and hands each to take. Errors of
// partitions are returned after the records of the others were taken; the
// client goes on by itself after all of them but errRecreated.
func (r *reader) poll(ctx context.Context, wait time.Duration, take func(*kgo.Record)) error {
	polling, cancel := context.WithTimeout(ctx, wait)
	fetches := r.client.PollFetches(polling)
	cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	if fetches.IsClientClosed() {
		return kgo.ErrClientClosed
	}
	var failed error
	fetches.EachError(func(topic string, partition int32, err error) {
		if !errors.Is(err, context.DeadlineExceeded) {
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
			r.mu.Lock()
			// After a reset to the start the position stays: what was read was read.
			at := slot{p.Topic, p.Partition}
			r.position[at] = max(r.position[at], p.Records[n-1].Offset+1)
			r.progress = time.Now()
			r.mu.Unlock()
		}
	})
	return failed
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

// skip moves the positions, up to the spans' ends, over what compaction or
// deletion took away.
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
		for from < s.end {
			next, more, err := now.probe(ctx, r.client, at, from)
			if err != nil {
				return err
			}
			if more {
				break // there is a record: it will come
			}
			if next == from {
				next = s.end // nothing is there up to the end
			}
			from = next
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
