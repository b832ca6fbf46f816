package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// maxExamined and maxCopied are records per second, so that a recovery leaves room for running traffic.
	maxExamined = 50_000
	maxCopied   = 3_600
	// jobInterval is the interval of the search for work in newly assigned partitions, and idleInterval that of the check
	// for such partitions.
	jobInterval, idleInterval = 250 * time.Millisecond, 2 * time.Second
	// retryPause is the pause after a failure.
	retryPause = time.Second
	askTimeout = 5 * time.Second
	// tolerated is the time for which Err does not report failures: leaders move.
	tolerated = 10 * time.Second
)

// Partitions are those of delay topics that this member owns.
type Partitions interface {
	Delayed() []event.Partition
	// Wake is called after copies were written to a partition.
	Wake(topic string, partition int32)
}

// WorkerConfig configures a Worker.
type WorkerConfig struct {
	Group    string                         // consumer group; part of transactional ids
	Epoch    string                         // topics.epoch
	Released func(kind webhook.Kind) string // topic of the copies
	Now      func() time.Time               // the time of day
	MaxBatch int64                          // largest size of a record in bytes
	Client   *kgo.Client                    // for requests; the worker does not close it
	Pauses   Pauses
	Note     func(event.LogEntry) // receives that an event was released; must not block
}

// Worker does the work of running recoveries in the partitions that this member owns, one partition at a time.
type Worker struct {
	cfg        WorkerConfig
	releases   *Log
	partitions Partitions
	log        *zap.Logger
	examining  *rate.Limiter
	copying    *rate.Limiter
	failing    *outage.Outage
	failed     atomic.Pointer[failure] // nil after a success
	avoid      unit                    // that failed last: the others come first
	swept      map[unit]event.Lease    // partitions of paused topics that were swept, by their assignment

	unreadAfter, unreadInterval time.Duration
	lookedUnread                time.Time // time of the last search for units without a reader
}

// NewWorker returns a Worker that does nothing until Run runs.
func NewWorker(cfg WorkerConfig, releases *Log, partitions Partitions, log *zap.Logger) *Worker {
	return &Worker{
		cfg: cfg, releases: releases, partitions: partitions, log: log, swept: map[unit]event.Lease{},
		examining: rate.NewLimiter(maxExamined, examineChunk), copying: rate.NewLimiter(maxCopied, maxCopies),
		failing:     outage.New(log, "cannot release delayed events; retrying", "delayed events are released again"),
		unreadAfter: unreadAfter, unreadInterval: unreadInterval,
	}
}

// Err returns why selected events are held back, or nil.
func (w *Worker) Err() error {
	if f := w.failed.Load(); f != nil && time.Since(f.since) > tolerated {
		return fmt.Errorf("cannot release delayed events; retrying: %w", f.err)
	}
	return nil
}

// failure is the last of consecutive failures.
type failure struct {
	err   error
	since time.Time // of the first one
}

func (w *Worker) fail(err error) {
	f := &failure{kafka.Explain(err), time.Now()}
	if previous := w.failed.Load(); previous != nil {
		f.since = previous.since
	}
	w.failed.Store(f)
	w.failing.Fail(f.err)
}

// Run works until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	for ctx.Err() == nil {
		worked, err := w.round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !errors.Is(err, errRevoked):
			w.fail(err)
			_ = compacted.Sleep(ctx, retryPause)
		default:
			w.failed.Store(nil)
			w.failing.Recover()
		}
		if !worked {
			w.rest(ctx)
		}
	}
}

// rest waits until there may be work.
func (w *Worker) rest(ctx context.Context) {
	look := idleInterval
	if w.releases.Running() > 0 {
		look = jobInterval
	}
	select {
	case <-ctx.Done():
	case <-w.releases.changed:
	case <-time.After(look):
	}
}

// task is a job in a partition that this member owns.
type task struct {
	*job
	owned event.Partition
	space event.Namespace
	id    [16]byte // of the topic
	gone  bool     // the topic was created again since the job has begun: nothing is left to copy
}

// round carries out one task, after those that need no records of their partition. worked is false if there is none.
func (w *Worker) round(ctx context.Context) (worked bool, err error) {
	swept, unswept := w.sweep(ctx)
	tasks := w.tasks()
	if len(tasks) == 0 {
		ended, err := w.endUnread(ctx)
		return swept || ended, cmp.Or(unswept, err)
	}
	tasks, unlocated := w.locate(ctx, tasks)
	tasks, done, err := w.finishEmpty(ctx, tasks)
	if err != nil || len(tasks) == 0 {
		return done, cmp.Or(err, unlocated)
	}
	slices.SortStableFunc(tasks, func(a, b *task) int { return w.distance(a) - w.distance(b) })
	if err = w.run(ctx, tasks[0]); err != nil {
		w.avoid = tasks[0].unit
		return true, fmt.Errorf("%s/%d: %w", tasks[0].topic, tasks[0].partition, err)
	}
	if err = w.releases.AwaitEnd(ctx); err != nil { // the next pass must know what this one has copied
		return true, err
	}
	return true, cmp.Or(unlocated, unswept)
}

// tasks returns the work in the partitions of this member.
func (w *Worker) tasks() (tasks []*task) {
	if w.releases.Running() == 0 {
		return nil
	}
	jobs := map[unit][]*job{}
	for _, p := range w.partitions.Delayed() {
		if js := w.releases.jobs(unit{p.Topic, p.Number}); len(js) > 0 {
			jobs[js[0].unit] = js
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	// The gates' positions are read after the markers are known: from here on the gates hold what these select.
	for _, p := range w.partitions.Delayed() {
		for _, j := range jobs[unit{p.Topic, p.Number}] {
			tasks = append(tasks, &task{job: j, owned: p})
		}
	}
	return tasks
}

// locate fills in the topics' ids and, for jobs that have not begun, the spans. It returns the tasks that can be done
// now: one partition without a leader does not hold up the others. err is why the rest cannot.
func (w *Worker) locate(ctx context.Context, tasks []*task) (located []*task, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var names []string
	for _, t := range tasks {
		if !slices.Contains(names, t.topic) {
			names = append(names, t.topic)
		}
	}
	details, err := kadm.NewClient(w.cfg.Client).ListTopics(ctx, names...)
	if err = errors.Join(err, details.Error()); err != nil {
		return nil, fmt.Errorf("describe delay topics: %w", err)
	}
	ends, err := kafka.ListEnds(ctx, w.cfg.Client, names...)
	for _, t := range tasks {
		end, ok := ends.Lookup(t.topic, t.partition)
		switch {
		case ok && end.Err != nil:
			err = fmt.Errorf("read the end of %s/%d: %w", t.topic, t.partition, end.Err)
			continue
		case !ok && err == nil:
			err = fmt.Errorf("read the end of %s/%d: no answer", t.topic, t.partition)
			continue
		case !ok:
			continue
		}
		t.id = details[t.topic].ID
		t.space = event.NamespaceOf(t.id, t.topic, w.cfg.Epoch)
		if t.begun {
			t.gone = string(t.span.Space) != string(t.space)
		} else {
			next := t.owned.Next
			t.span = Span{Space: []byte(t.space), Start: next, Next: next, End: max(end.Offset, next), Epoch: -1}
		}
		located = append(located, t)
	}
	return located, err
}

// finishEmpty ends the tasks in partitions where nothing waits and returns the others.
func (w *Worker) finishEmpty(ctx context.Context, tasks []*task) (rest []*task, worked bool, err error) {
	units := map[string]map[string][]int32{} // by recovery and topic
	for _, t := range tasks {
		if t.begun || t.owned.Undecided > 0 || t.span.Next < t.span.End {
			rest = append(rest, t)
			continue
		}
		for _, id := range t.ids {
			if units[id] == nil {
				units[id] = map[string][]int32{}
			}
			units[id][t.topic] = append(units[id][t.topic], t.partition)
		}
	}
	return rest, len(units) > 0, w.end(ctx, units)
}

// end stores that recoveries are done with units in which they have copied nothing.
func (w *Worker) end(ctx context.Context, units map[string]map[string][]int32) error {
	if len(units) == 0 {
		return nil
	}
	entries := make([]keyed, 0, len(units))
	for id, topics := range units {
		entries = append(entries, keyed{id, entry{Empty: &empty{ID: id, Units: topics, Time: w.now()}}})
	}
	return w.releases.writeAll(ctx, entries)
}

func (w *Worker) now() time.Time { return w.cfg.Now().UTC().Truncate(time.Millisecond) }

// distance orders tasks: 0 if the events of one of its users are usually in the partition, or if it has many users,
// else 1, and 2 for the one that failed last.
func (w *Worker) distance(t *task) int {
	if t.unit == w.avoid {
		return 2
	}
	for _, userID := range t.users {
		key := &kgo.Record{Key: strconv.AppendInt(nil, userID, 10)}
		if userID == 0 ||
			kgo.StickyKeyPartitioner(nil).ForTopic(t.topic).Partition(key, int(t.partitions)) == int(t.partition) {
			return 0
		}
	}
	return 1
}
