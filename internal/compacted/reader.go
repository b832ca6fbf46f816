package compacted

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/kafka"
)

const (
	// stuckAfter is how long a reader waits for expected records before it asks whether they still exist.
	stuckAfter = 500 * time.Millisecond
	// pollWait is the longest poll while the end has not been reached: compaction may have removed all that is left.
	pollWait = 100 * time.Millisecond
	// fetchWait is the time for which a broker holds a fetch while nothing is written. Each fetch of an idle topic
	// costs processor time.
	fetchWait = 5 * time.Second
	// fetchBytes bounds a fetch. Its records take about 20 times as much memory: small documents compress well, and the
	// client has 160 bytes of its own for each.
	fetchBytes = 256 << 10
)

// ErrRecreated is returned for a topic that was deleted and created again: its offsets start again, and earlier
// versions are invalid.
var ErrRecreated = errors.New("topic was deleted and created again")

// NewClient returns a Kafka client without a group that has the given options as well.
type NewClient func(...kgo.Opt) (*kgo.Client, error)

// Reader reads a topic without a group, from the start of each partition, and records its progress. One goroutine
// polls; the other methods are safe for concurrent use.
type Reader struct {
	topic     string
	client    *kgo.Client
	newClient NewClient
	goal      Bounds
	deletes   bool          // records leave the topic by retention, not by compaction
	patience  time.Duration // time for which ReadAll tolerates errors and silence; 0 = no error, any silence

	mu       sync.Mutex
	position map[int32]int64 // everything below it was read or does not exist
	next     map[int32]int64 // the offset after the last record; below position once the topic lost records
	progress time.Time       // when a position last moved
	looked   time.Time       // when the reader last looked up the next record
}

// Open returns a reader of the topic's records and of those written to it later.
func Open(ctx context.Context, newClient NewClient, topic string) (*Reader, error) {
	client, err := newClient(append(options(),
		kgo.ConsumeTopics(topic),
		kgo.FetchMaxWait(fetchWait), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Partitions that are added are found this late.
		kgo.MetadataMinAge(250*time.Millisecond), kgo.MetadataMaxAge(15*time.Second))...)
	if err != nil {
		return nil, fmt.Errorf("client for topic %s: %w", topic, err)
	}
	goal, err := Describe(ctx, client, topic)
	if err != nil {
		client.CloseAllowingRebalance()
		return nil, err
	}
	return newReader(client, newClient, topic, goal), nil
}

// OpenSpans returns a reader of parts of a topic with the cleanup policy delete. Its ReadAll tolerates errors and
// silence of Kafka for as long as patience.
func OpenSpans(newClient NewClient, topic string, spans map[int32]Span, patience time.Duration) (*Reader, error) {
	from := make(map[int32]kgo.Offset, len(spans))
	for partition, s := range spans {
		from[partition] = kgo.NewOffset().At(s.Start)
	}
	client, err := newClient(append(options(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))...)
	if err != nil {
		return nil, fmt.Errorf("client for topic %s: %w", topic, err)
	}
	r := newReader(client, newClient, topic, Bounds{Spans: spans})
	r.deletes, r.patience = true, patience
	return r, nil
}

// options returns the options of every reader's client. Control records are kept because they move the position, too.
func options() []kgo.Opt { return []kgo.Opt{kgo.KeepControlRecords()} }

func newReader(client *kgo.Client, newClient NewClient, topic string, goal Bounds) *Reader {
	r := &Reader{
		topic: topic, client: client, newClient: newClient, goal: goal,
		position: map[int32]int64{}, next: map[int32]int64{}, progress: time.Now(),
	}
	for partition, s := range goal.Spans {
		r.position[partition], r.next[partition] = s.Start, s.Start
	}
	return r
}

// Close closes the reader's client.
func (r *Reader) Close() { r.client.CloseAllowingRebalance() }

// Client returns the reader's client. Its connection for fetches is busy.
func (r *Reader) Client() *kgo.Client { return r.client }

// ID returns the id of the topic that is read.
func (r *Reader) ID() kadm.TopicID { return r.goal.ID }

// ReadAll calls take with every record that the topic held when the reader was opened, and polled, if it is not nil,
// after each poll. An error of take ends it and is returned unchanged.
func (r *Reader) ReadAll(ctx context.Context, polled func(), take func(*kgo.Record) error) error {
	var stopped error
	for {
		done, err := r.done(ctx)
		if polled != nil {
			polled()
		}
		if done {
			return nil
		}
		if err == nil {
			err = r.poll(ctx, pollWait, func(record *kgo.Record) {
				if stopped == nil && record.Offset < r.goal.Spans[record.Partition].End {
					stopped = take(record)
				}
			})
		}
		switch {
		case stopped != nil:
			return stopped
		case ctx.Err() != nil:
			return fmt.Errorf("read topic %s: %w", r.topic, ctx.Err())
		case r.patience == 0 && err != nil:
			return err
		case r.patience > 0 && r.silence() >= r.patience:
			return fmt.Errorf("read topic %s: no answer for %v: %w", r.topic, r.patience,
				errors.Join(err, context.DeadlineExceeded))
		}
	}
}

// poll waits for records, at most wait long, and calls take with each. Errors of partitions are returned after the
// records of the others were passed to take; the client continues by itself after all of them except ErrRecreated.
func (r *Reader) poll(ctx context.Context, wait time.Duration, take func(*kgo.Record)) error {
	fetches := kafka.Poll(ctx, r.client, wait, 0, func(_ string, partition int32) int64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.next[partition]
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if fetches.IsClientClosed() {
		return kgo.ErrClientClosed
	}
	var failed error
	fetches.EachError(func(topic string, partition int32, err error) {
		if skipped, ok := errors.AsType[*kafka.Skipped](err); ok {
			r.moved(partition, skipped.Next)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			failed = fmt.Errorf("read %s/%d: %w", topic, partition, err)
		}
	})
	if errors.Is(failed, kerr.UnknownTopicID) || errors.Is(failed, kerr.InconsistentTopicID) {
		return fmt.Errorf("%w: %w", ErrRecreated, failed)
	}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		for _, record := range p.Records {
			if !record.Attrs.IsControl() {
				take(record)
			}
		}
		if n := len(p.Records); n > 0 {
			r.moved(p.Partition, p.Records[n-1].Offset+1)
		}
	})
	return failed
}

// moved records that a partition was read up to next.
func (r *Reader) moved(partition int32, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A reset to the start does not lower the position: those records were read.
	r.position[partition] = max(r.position[partition], next)
	r.next[partition] = next
	r.progress = time.Now()
}

func (r *Reader) silence() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.progress)
}

// Position returns the offset below which everything of a partition was read.
func (r *Reader) Position(partition int32) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position[partition]
}

// Passed reports whether everything below the spans' ends was read.
func (r *Reader) Passed(spans map[int32]Span) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for partition, s := range spans {
		if r.position[partition] < s.End && s.Start < s.End {
			return false
		}
	}
	return true
}

// Left returns the number of offsets that ReadAll has not read yet.
func (r *Reader) Left() int64 { return r.behind(r.goal.Spans) }

// behind returns the number of offsets between the reader and the spans' ends.
func (r *Reader) behind(spans map[int32]Span) (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for partition, s := range spans {
		n += max(0, s.End-max(r.position[partition], s.Start))
	}
	return n
}

// done reports whether everything was read that existed when the reader was opened. If no more records arrive, it
// checks whether they still exist.
func (r *Reader) done(ctx context.Context) (bool, error) {
	if r.Passed(r.goal.Spans) {
		return true, nil
	}
	wait := stuckAfter
	if r.patience > 0 {
		wait = min(wait, r.patience)
	}
	r.mu.Lock()
	stuck := time.Since(r.progress) > wait && time.Since(r.looked) > wait
	r.mu.Unlock()
	if !stuck {
		return false, nil
	}
	err := r.skip(ctx, r.goal.Spans)
	return r.Passed(r.goal.Spans), err
}

// skip moves the positions, up to the spans' ends, over offsets without records: those that compaction, deletion or an
// aborted transaction left.
func (r *Reader) skip(ctx context.Context, spans map[int32]Span) error {
	if r.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.patience)
		defer cancel()
	}
	r.mu.Lock()
	r.looked = time.Now()
	r.mu.Unlock()
	now, err := Describe(ctx, r.client, r.topic)
	if err != nil {
		return err
	}
	if r.goal.ID != (kadm.TopicID{}) && now.ID != r.goal.ID {
		return ErrRecreated
	}
	asking, err := r.newClient() // the reader's own fetches keep its client's connection busy
	if err != nil {
		return fmt.Errorf("client for topic %s: %w", r.topic, err)
	}
	defer asking.Close()
	for partition, s := range spans {
		was := r.Position(partition)
		to, err := kafka.NextRecord(ctx, asking, r.topic, partition, max(was, now.Spans[partition].Start), s.End,
			!r.deletes)
		if err != nil {
			return fmt.Errorf("find the next record of %s/%d: %w", r.topic, partition, err)
		}
		r.mu.Lock()
		if to > r.position[partition] {
			r.position[partition], r.progress = to, time.Now()
		}
		r.mu.Unlock()
	}
	return nil
}

// CatchUp waits until everything was read that was acknowledged to other writers by now, except what an open
// transaction holds back: see Unread.
func (r *Reader) CatchUp(ctx context.Context) error {
	now, err := Describe(ctx, r.client, r.topic)
	if err != nil {
		return err
	}
	for next := time.Now().Add(stuckAfter); !r.Passed(now.Spans); {
		if time.Now().After(next) {
			// The last record may have been compacted away.
			if err := r.skip(ctx, now.Spans); err != nil {
				return err
			}
			next = time.Now().Add(stuckAfter)
		}
		if err := Sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Unread returns the offsets of each partition that were not read, those behind open transactions included. Partitions
// without such offsets are absent.
func (r *Reader) Unread(ctx context.Context) (map[int32]Span, error) {
	ends, err := kadm.NewClient(r.client).ListEndOffsets(ctx, r.topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("read the end of topic %s: %w", r.topic, err)
	}
	unread := map[int32]Span{}
	for partition, end := range ends[r.topic] {
		if read := r.Position(partition); read < end.Offset {
			unread[partition] = Span{read, end.Offset}
		}
	}
	return unread, nil
}

// Await waits until the record before an offset of a partition was read. It returns false if the record cannot be read
// now: an open transaction holds it back.
func (r *Reader) Await(ctx context.Context, partition int32, offset int64) (bool, error) {
	for look := time.Now().Add(stuckAfter); r.Position(partition) < offset; {
		if time.Now().After(look) {
			now, err := Describe(ctx, r.client, r.topic)
			if err != nil {
				return false, err
			}
			if now.Spans[partition].End < offset {
				return false, nil
			}
			look = time.Now().Add(stuckAfter)
		}
		if err := Sleep(ctx, time.Millisecond); err != nil {
			return false, err
		}
	}
	return true, nil
}

// Exists reports whether the topic had a record before an offset of a partition, those of open transactions included.
func (r *Reader) Exists(ctx context.Context, partition int32, offset int64) (bool, error) {
	ends, err := kadm.NewClient(r.client).ListEndOffsets(ctx, r.topic)
	if err != nil {
		return false, fmt.Errorf("read the end of topic %s: %w", r.topic, err)
	}
	end, ok := ends.Lookup(r.topic, partition)
	if !ok {
		return false, fmt.Errorf("read the end of %s/%d: no answer", r.topic, partition)
	}
	if end.Err != nil {
		return false, fmt.Errorf("read the end of %s/%d: %w", r.topic, partition, end.Err)
	}
	return offset <= end.Offset, nil
}
