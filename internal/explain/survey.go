package explain

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// topic is one of the topics to search.
type topic struct {
	name       string
	info       topics.Info
	dead       bool // the dead letter topic, which has no info
	space      event.Namespace
	id         [16]byte
	partitions int                      // 0 if the topic does not exist
	spans      map[int32]compacted.Span // of each partition with records, from Query.Since on
	finished   map[int32]func(offset int64) bool
}

// finder is the state of one search.
type finder struct {
	cfg    Config
	query  Query
	client *kgo.Client
	topics []*topic
	found  map[identity]*Event
	logs   map[int64][]event.LogEntry
}

// survey reads which topics exist, which offsets they hold, and what the group has finished.
func (f *finder) survey(ctx context.Context) error {
	var names []string
	for _, name := range f.cfg.Plan.Consumed() {
		if info := f.cfg.Plan.Describe(name); f.query.Kind == nil || info.Kind == *f.query.Kind {
			names = append(names, name)
			f.topics = append(f.topics, &topic{name: name, info: info})
		}
	}
	names = append(names, f.cfg.Plan.DeadLetter)
	f.topics = append(f.topics, &topic{name: f.cfg.Plan.DeadLetter, dead: true})
	admin := kadm.NewClient(f.client)
	all, err := admin.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	for _, name := range all.Names() {
		if info, ok := f.cfg.Plan.Orphan(name); ok && (f.query.Kind == nil || info.Kind == *f.query.Kind) {
			names = append(names, name)
			f.topics = append(f.topics, &topic{name: name, info: info})
		}
	}
	details, err := admin.ListTopics(ctx, names...) // unlike all, it has the topics that cannot be read
	if err != nil {
		return fmt.Errorf("read the topics: %w", err)
	}
	var existing []string
	for _, t := range f.topics {
		d := details[t.name]
		if d.Err == nil && len(d.Partitions) > 0 {
			t.partitions, t.id = len(d.Partitions), d.ID
			t.space = event.NamespaceOf(d.ID, t.name, f.cfg.Epoch)
			existing = append(existing, t.name)
		} else if !errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("read topic %s: %w", t.name, d.Err)
		}
	}
	if len(existing) == 0 {
		return fmt.Errorf("topic %s and the others do not exist: check topics.* and kafka.brokers", names[0])
	}
	if err := f.readSpans(ctx, admin, existing); err != nil {
		return err
	}
	return f.readCommits(ctx)
}

// readSpans reads the existing offsets.
func (f *finder) readSpans(ctx context.Context, admin *kadm.Client, names []string) error {
	starts, err := admin.ListStartOffsets(ctx, names...)
	if since := f.query.Since; err == nil && !since.IsZero() {
		starts, err = admin.ListOffsetsAfterMilli(ctx, max(since.UnixMilli(), 0), names...)
	}
	if err = errors.Join(err, starts.Error()); err != nil {
		return fmt.Errorf("read the starts of the topics: %w", err)
	}
	ends, err := kafka.ListEnds(ctx, f.client, names...)
	if err = errors.Join(err, ends.Error()); err != nil {
		return fmt.Errorf("read the ends of the topics: %w", err)
	}
	for _, t := range f.topics {
		t.spans = map[int32]compacted.Span{}
		for partition, end := range ends[t.name] {
			if start, ok := starts.Lookup(t.name, partition); ok && start.Offset < end.Offset {
				t.spans[partition] = compacted.Span{Start: start.Offset, End: end.Offset}
			}
		}
	}
	return nil
}

// readCommits reads what the group has finished.
func (f *finder) readCommits(ctx context.Context) error {
	commits, err := kafka.ReadCommits(ctx, f.client, f.cfg.Group)
	if err != nil {
		return err
	}
	for _, t := range f.topics {
		t.finished = map[int32]func(int64) bool{}
		for partition, c := range commits[t.name] {
			id, state := kafka.SplitCommit(c.Metadata)
			if c.Err != nil || c.At < 0 || id != [16]byte{} && id != t.id {
				continue // a mark of another topic: the commit belongs to a deleted topic of this name
			}
			t.finished[partition] = offsets.New(c.At, state).Finished
		}
	}
	return nil
}

// sources returns the topics that the gateway writes.
func (f *finder) sources() (list []*topic) {
	for _, t := range f.topics {
		if !t.dead && t.info.Class == topics.Source {
			list = append(list, t)
		}
	}
	return list
}

// attempts reads a user's delivery log once.
func (f *finder) attempts(ctx context.Context, userID int64) ([]event.LogEntry, error) {
	if all, ok := f.logs[userID]; ok {
		return all, nil
	}
	all, err := f.cfg.Log(ctx, userID)
	if err == nil {
		f.logs = map[int64][]event.LogEntry{userID: all}
	}
	return all, err
}

// identity tells events apart. The gateway may have given one id to several.
type identity struct {
	id      string
	kind    webhook.Kind
	userID  int64
	message string // "" for revocations
}
