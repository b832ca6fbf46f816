package compacted

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/smshooks/smshooks/internal/outage"
)

const (
	// measurePeriod is the time between two measurements of the lag, and measureReading while the end has not been
	// reached.
	measurePeriod, measureReading = 10 * time.Second, 500 * time.Millisecond
	// readRecovered is how long a topic must be without an error to count as read again.
	readRecovered = 5 * time.Second
)

// Observer receives measurements. Its methods must not block.
type Observer interface {
	// ConfigLag receives the number of records of a topic that have not been read.
	ConfigLag(topic string, records int64)
	// UnreadableRecord is called for each record that was skipped.
	UnreadableRecord(topic string)
}

// Hooks are the callbacks of a [Follower]. Begin, Take and End are called by one goroutine at a time.
type Hooks struct {
	// Deletes says that records leave the topic by retention, not by compaction. An empty answer does not prove then that
	// no record is left.
	Deletes bool
	// Begin is called before the topic is read from its start. If void is true, earlier records are invalid:
	// the topic is read for the first time, was created again or has lost records. Otherwise every record that was
	// taken may be taken again.
	Begin func(void bool, r *Reader)
	// Take is called with each record. fresh means that it was written after the reader started. If Take returns an
	// error, the record is skipped; the error must not contain parts of the record.
	Take func(r *kgo.Record, fresh bool) error
	// End is called when all records that the topic held at the start were read, once for each void Begin.
	End func()
	// Beside, if not nil, runs while a reader reads, until ctx ends. If it returns an error, reading starts again.
	Beside func(ctx context.Context, r *Reader) error
}

// Follower reads a topic to its end and follows it for as long as it runs, whatever happens to Kafka and the topic. Its
// methods are safe for concurrent use.
type Follower struct {
	topic     string
	newClient NewClient
	log       *zap.Logger // sampled
	obs       Observer
	hooks     Hooks
	failing   *outage.Outage
	refused   *outage.Outage // reading, by errors after which it continues
	refusedAt atomic.Int64   // time of the last such error, in Unix nanoseconds

	reader  atomic.Pointer[Reader]
	read    atomic.Bool // the topic was read to its end
	cutBack atomic.Bool // the topic has lost records that were read
	look    chan struct{}
}

// NewFollower returns a follower of a topic that has read nothing until Run runs.
func NewFollower(topic string, newClient NewClient, log *zap.Logger, obs Observer, hooks Hooks) *Follower {
	log = log.With(zap.String("topic", topic))
	return &Follower{
		topic: topic, newClient: newClient, log: Sample(log), obs: obs, hooks: hooks, look: make(chan struct{}, 1),
		failing: outage.New(log, "cannot follow the topic, reading it again", "the topic is followed again"),
		refused: outage.New(log, "cannot read the topic; retrying", "the topic is read again"),
	}
}

// Sample returns log with at most ten lines of a message in ten seconds.
func Sample(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, 10*time.Second, 10, 0)
	}))
}

// Read reports whether the topic was read to its end.
func (f *Follower) Read() bool { return f.read.Load() }

// Reader returns the current reader, nil if there was none yet.
func (f *Follower) Reader() *Reader { return f.reader.Load() }

// ID returns the id of the topic that is read, or zero before the first.
func (f *Follower) ID() (id [16]byte) {
	if r := f.Reader(); r != nil {
		id = r.ID()
	}
	return id
}

// Adopt checks at once whether the topic was created again, if it is among topics.
func (f *Follower) Adopt(_ context.Context, topics []string) error {
	if slices.Contains(topics, f.topic) {
		select {
		case f.look <- struct{}{}:
		default:
		}
	}
	return nil
}

// Run follows the topic until ctx ends, and returns ctx's error.
func (f *Follower) Run(ctx context.Context) error {
	for pause := NewBackoff(); ; {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.failing.Fail(err)
		if errors.Is(err, ErrRecreated) {
			pause = NewBackoff()
		}
		if err := pause.Wait(ctx); err != nil {
			return err
		}
	}
}

// session follows the topic, as it exists now, until ctx ends or the topic was created again.
func (f *Follower) session(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := Open(ctx, f.newClient, f.topic)
	if err != nil {
		return err
	}
	defer r.Close()
	r.deletes = f.hooks.Deletes
	old := f.reader.Swap(r)
	void := f.cutBack.Swap(false) || old == nil || old.ID() != r.ID()
	if void {
		f.read.Store(false)
	} else if f.read.Load() { // the records taken are still valid
		f.failing.Recover()
	}
	f.hooks.Begin(void, r)

	var wg sync.WaitGroup
	beside := func(do func(context.Context, *Reader) error) {
		wg.Go(func() {
			if err := do(ctx, r); err != nil {
				cancel(err)
			}
		})
	}
	beside(f.measure)
	if f.hooks.Beside != nil {
		beside(f.hooks.Beside)
	}
	cancel(f.follow(ctx, r))
	wg.Wait()
	return context.Cause(ctx)
}

// follow reads until an error that it cannot recover from.
func (f *Follower) follow(ctx context.Context, r *Reader) error {
	wait := pollWait / 2
	for {
		if !f.read.Load() {
			done, err := r.done(ctx)
			if done {
				f.end(r)
			}
			if err = f.tolerate(ctx, err); err != nil {
				return err
			}
		}
		if f.read.Load() {
			wait = 0 // until something is written
		}
		err := r.poll(ctx, wait, func(record *kgo.Record) {
			if err := f.hooks.Take(record, record.Offset >= r.goal.Spans[record.Partition].End); err != nil {
				f.obs.UnreadableRecord(f.topic)
				f.log.Warn("unreadable record skipped; the one before it stays valid",
					zap.Int32("partition", record.Partition), zap.Int64("offset", record.Offset), zap.String("reason", err.Error()))
			}
		})
		if err = f.tolerate(ctx, err); err != nil {
			return err
		}
	}
}

func (f *Follower) end(r *Reader) {
	f.read.Store(true)
	f.failing.Recover()
	f.obs.ConfigLag(f.topic, r.Left())
	f.hooks.End()
}

// tolerate reports a read error and pauses. It returns errors after which reading cannot continue.
func (f *Follower) tolerate(ctx context.Context, err error) error {
	var lost *kgo.ErrDataLoss
	switch {
	case err == nil:
		return nil
	case ctx.Err() == nil && errors.As(err, &lost):
		// The records that were read may be lost, and others may have their offsets.
		f.cutBack.Store(true)
		return fmt.Errorf("%s/%d lost records: %w", lost.Topic, lost.Partition, err)
	case ctx.Err() != nil, errors.Is(err, ErrRecreated), errors.Is(err, kgo.ErrClientClosed):
		return err
	}
	f.refusedAt.Store(time.Now().UnixNano())
	f.refused.Fail(err)
	return Sleep(ctx, pollWait)
}

// measure reports the lag, and checks whether the topic was created again, until ctx ends.
func (f *Follower) measure(ctx context.Context, r *Reader) error {
	for {
		period := measureReading
		if f.read.Load() {
			period = measurePeriod
		}
		asking, cancel := context.WithTimeout(ctx, measurePeriod)
		now, err := Describe(asking, r.client, r.topic)
		cancel()
		if err == nil { // otherwise Kafka is unreachable, and the last lag is kept
			if now.ID != r.ID() {
				return ErrRecreated
			}
			f.obs.ConfigLag(f.topic, r.behind(now.Spans))
			if time.Now().UnixNano()-f.refusedAt.Load() > int64(readRecovered) {
				f.refused.Recover()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.look:
		case <-time.After(period):
		}
	}
}

// Backoff waits longer each time, from 50 ms to 2 s.
type Backoff struct{ next time.Duration }

// NewBackoff returns a Backoff whose first wait is the shortest.
func NewBackoff() *Backoff { return &Backoff{next: 50 * time.Millisecond} }

// Wait waits, and returns ctx's error if ctx ends first.
func (b *Backoff) Wait(ctx context.Context) error {
	d := b.next
	b.next = min(2*b.next, 2*time.Second)
	return Sleep(ctx, d)
}

// Sleep waits for d, and returns ctx's error if ctx ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
