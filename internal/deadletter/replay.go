package deadletter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// chunkBytes limits the events that Replay holds in memory: it reads that much before it sends anything.
const chunkBytes = 64 << 20

// chunkEvents is how many events a replay with a position sends between two saves.
const chunkEvents = 500

// maxProducing is more records than the chunks of all replays that run at once hold.
const maxProducing = 4 << 20

// metadataAge lets a topic that was created just now be used soon.
const metadataAge = 250 * time.Millisecond

// Replay replays the events that f selects, each once even if it has several dead letters, and returns how many were
// stored by all in-sync replicas. It skips unreadable records.
//
// If there is an error, n events were stored, and others of the same chunk may still be: a second Replay may send them
// twice.
func (s *Store) Replay(ctx context.Context, f Filter) (n int, err error) {
	return s.Run(ctx, Run{Filter: f})
}

// Run is a replay that can report progress, run dry and be resumed.
type Run struct {
	Filter   Filter
	Progress Progress // may be nil
	// Try, if not nil, is called with each event instead of sending it.
	Try func(*Letter) error
	// Position, if not nil, is the progress of the replay. Run fills it in if it is empty, and changes and saves it
	// whenever events have been stored.
	Position *Position
	Save     func(*Position) error // may be nil
	// Guard, if not nil, decides which events may be sent.
	Guard Guard
}

// Guard decides which events may be sent again.
type Guard interface {
	// Admit reports for each event whether it may be sent now. With an error, which ends the replay, those that were
	// admitted are still sent.
	Admit(ctx context.Context, events []*Candidate) ([]bool, error)
	// Stored is called with the admitted events that were stored, even if the caller has left.
	Stored(ctx context.Context, events []*Candidate)
	// Failed is called with the admitted events that were not acknowledged, even if the caller has left. They may be sent
	// again, although the outcome of some may be unknown.
	Failed(ctx context.Context, events []*Candidate)
}

// Candidate is an event to replay.
type Candidate struct {
	UserID    int64
	ID        string
	Partition int32 // of its newest dead letter; -1 if it is sent from its source record
	Offset    int64 // of its newest dead letter that was read
	End       int64 // of the partition when the replay began
}

// LimitError is returned when a user has replayed too many events. More may be replayed after the time After.
type LimitError struct{ After time.Duration }

func (e *LimitError) Error() string {
	return fmt.Sprintf("too many events were sent again; more may be in %v", e.After)
}

// Run is like Replay, with the options of r.
//
// With a Position an interrupted replay continues where it stopped, over the dead letters that existed when it first
// began, and sends no stored event twice: when ctx ends, Run completes the current chunk first. Only a replay that was
// killed, or lost Kafka, may send up to a chunk (500 events) again.
func (s *Store) Run(ctx context.Context, r Run) (n int, err error) {
	run := running{Run: r, store: s, seen: map[userEvent]*Candidate{}, reached: map[int32]int64{}, ends: map[int32]int64{}}
	if run.partitions, err = s.partitions(ctx); err != nil {
		return 0, err
	}
	spans, err := s.spans(ctx, r.Filter.Since)
	for partition, span := range spans {
		run.ends[partition] = span.End
	}
	if err == nil && r.Position != nil {
		spans, err = run.begin(spans)
	}
	if err != nil {
		return 0, err
	}
	if err = s.read(ctx, spans, newMatcher(r.Filter), r.Progress,
		func(l *Letter) error { return run.take(ctx, l) }); err != nil {
		return run.sent, err
	}
	if err = run.flush(ctx); err != nil {
		return run.sent, err
	}
	return run.sent, run.done()
}

// running is the state of a Run.
type running struct {
	Run
	store      *Store
	partitions [webhook.NumKinds]int
	seen       map[userEvent]*Candidate
	ends       map[int32]int64 // by partition, when it began
	reached    map[int32]int64 // by partition, behind the last event of the chunk
	chunk      []*kgo.Record
	candidates []*Candidate // of the chunk's records
	size       int
	sent       int
}

// userEvent identifies an event. The gateway may give the same id to events of several users.
type userEvent struct {
	userID int64
	id     string
}

func (c *Candidate) event() userEvent { return userEvent{c.UserID, c.ID} }

func (r *running) take(ctx context.Context, l *Letter) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("replay dead letters: %w", err) // many letters come with one poll
	}
	if !l.CanReplay() {
		return nil
	}
	candidate := &Candidate{l.UserID, l.ID, l.partition, l.offset, r.ends[l.partition]}
	if previous := r.seen[candidate.event()]; previous != nil {
		*previous = *candidate
		return nil
	}
	r.seen[candidate.event()] = candidate
	if r.Position != nil && l.offset < r.Position.next(l.partition) {
		return nil // sent before; it is read again to detect duplicates
	}
	if r.Try != nil {
		r.sent++
		return r.Try(l)
	}
	return r.add(ctx, l, candidate)
}

// add adds an event to the chunk, and sends the chunk if it is full.
func (r *running) add(ctx context.Context, l *Letter, candidate *Candidate) error {
	// Clone the value, because the record keeps its whole fetch in memory.
	record := r.store.record(l, bytes.Clone(l.Value), r.partitions, r.store.cfg.Now())
	r.chunk, r.size = append(r.chunk, record), r.size+len(record.Value)+256
	r.candidates = append(r.candidates, candidate)
	r.reached[l.partition] = l.offset + 1
	if r.size > chunkBytes || r.Position != nil && len(r.chunk) >= chunkEvents {
		return r.flush(ctx)
	}
	return nil
}

// flush sends the chunk.
func (r *running) flush(ctx context.Context) error {
	if len(r.chunk) == 0 {
		return nil
	}
	if r.Position != nil || r.Guard != nil {
		var cancel context.CancelFunc
		ctx, cancel = r.detach(ctx)
		defer cancel()
	}
	refused := r.admit(ctx)
	indices, err := r.store.produce(ctx, r.chunk)
	stored := len(indices)
	for _, index := range indices {
		r.store.note(r.chunk[index])
	}
	r.sent += stored
	r.report(context.WithoutCancel(ctx), indices)
	r.chunk, r.candidates, r.size = nil, nil, 0
	if err = cmp.Or(err, refused); err != nil || r.Position == nil {
		return err
	}
	r.Position.Sent += stored
	for p, next := range r.reached {
		r.Position.Partitions[p] = Span{next, r.Position.Partitions[p].End}
	}
	return r.save()
}

// report passes the events of the chunk that were stored, and those that were not, to the guard.
func (r *running) report(ctx context.Context, stored []int) {
	if r.Guard == nil {
		return
	}
	candidates := make([]*Candidate, len(stored))
	for i, index := range stored {
		candidates[i], r.candidates[index] = r.candidates[index], nil
	}
	if len(candidates) > 0 {
		r.Guard.Stored(ctx, candidates)
	}
	failed := slices.DeleteFunc(r.candidates, func(c *Candidate) bool { return c == nil })
	if len(failed) > 0 {
		r.Guard.Failed(ctx, failed)
	}
}

// detach returns the context of a chunk that has begun. It continues even if the caller has left, because it must be
// known which events were stored.
func (r *running) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if ok && r.Position == nil {
		return context.WithDeadline(ctx, deadline)
	}
	return ctx, func() {}
}

// admit removes from the chunk what the guard does not admit.
func (r *running) admit(ctx context.Context) error {
	if r.Guard == nil {
		return nil
	}
	admitted, err := r.Guard.Admit(ctx, r.candidates)
	n := 0
	for i, c := range r.candidates {
		if i < len(admitted) && admitted[i] {
			r.chunk[n], r.candidates[n] = r.chunk[i], c
			n++
		} else {
			delete(r.seen, c.event()) // a newer dead letter of it may follow
		}
	}
	r.chunk, r.candidates = r.chunk[:n], r.candidates[:n]
	return err
}

// partitions returns the number of partitions of each overflow topic.
func (s *Store) partitions(ctx context.Context) (counts [webhook.NumKinds]int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	details, err := s.admin.ListTopics(ctx, s.cfg.Overflow[:]...)
	if err = errors.Join(err, details.Error()); err != nil {
		return counts, fmt.Errorf("overflow topics: %w", err)
	}
	for kind, topic := range s.cfg.Overflow {
		if counts[kind] = len(details[topic].Partitions); counts[kind] == 0 {
			return counts, fmt.Errorf("overflow topic %s: has no partitions", topic)
		}
	}
	return counts, nil
}

// record returns the letter's event as a record of its overflow topic, due now.
func (s *Store) record(l *Letter, value []byte, partitions [webhook.NumKinds]int, now time.Time) *kgo.Record {
	kind, _ := webhook.ParseKind(l.Kind) // valid: CanReplay has parsed it
	at := []byte(event.FormatTime(now))
	happened := at // of a record of another program, without the time
	if !l.EventTime.IsZero() {
		happened = []byte(event.FormatTime(l.EventTime))
	}
	r := &kgo.Record{
		Topic: s.cfg.Overflow[kind], Key: strconv.AppendInt(nil, l.UserID, 10), Value: value,
		Headers: []kgo.RecordHeader{
			{Key: event.HeaderID, Value: []byte(l.ID)},
			{Key: event.HeaderKind, Value: []byte(l.Kind)},
			{Key: event.HeaderTime, Value: happened},
			{Key: event.HeaderAttempts, Value: []byte("0")},
			{Key: event.HeaderDue, Value: at},
			{Key: event.HeaderReplayed, Value: at}, // the window begins then
		},
	}
	origin := l.origin
	if origin == "" {
		origin = event.OriginOf(l.ID) // stored by a version that wrote no smshooks-origin
	}
	if origin != "" {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: event.HeaderOrigin, Value: []byte(origin)})
	}
	if l.traceparent != "" {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: event.HeaderTrace, Value: []byte(l.traceparent)})
	}
	r.Partition = place(r, origin, s.cfg.Sources[kind], partitions[kind])
	return r
}

// note reports a record that was stored.
func (s *Store) note(r *kgo.Record) {
	e := event.Event{Record: event.Record{Class: topics.Overflow, Topic: r.Topic, Value: r.Value}}
	for _, h := range r.Headers {
		if e.SetHeader(h.Key, h.Value); h.Key == event.HeaderKind {
			e.Kind, _ = webhook.ParseKind(string(h.Value)) // record wrote it
		}
	}
	if note, ok := e.NewNote(e.Due); ok {
		s.cfg.Note(note)
	}
}

// place returns the partition number that the event came from, so that the member with the user's other events gets it.
// If the origin is unknown, it is chosen by the key's hash, as Kafka's own clients do.
func place(r *kgo.Record, origin, source string, partitions int) int32 {
	if topic, p, ok := event.ParseOrigin(origin); ok && topic == source && int(p) < partitions {
		return p
	}
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic(r.Topic).Partition(r, partitions))
}

// produce stores the records and waits for all acknowledgements, at most Patience for each. It returns the indices of
// the stored ones.
func (s *Store) produce(ctx context.Context, records []*kgo.Record) (stored []int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		index int
		err   error
	}
	done := make(chan outcome, len(records))
	for i, r := range records {
		s.producer.TryProduce(ctx, r, func(r *kgo.Record, err error) {
			if !errors.Is(err, kerr.MessageTooLarge) {
				done <- outcome{i, err}
				return
			}
			again := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
			s.large.TryProduce(ctx, again, func(_ *kgo.Record, err error) { done <- outcome{i, err} })
		})
	}
	silence := time.NewTimer(s.cfg.Patience)
	defer silence.Stop()
	var failed error
	for range records {
		select {
		case o := <-done:
			if o.err != nil {
				failed = o.err
				continue
			}
			stored = append(stored, o.index)
			silence.Reset(s.cfg.Patience)
		case <-ctx.Done():
			return stored, fmt.Errorf("replay dead letters: %w", ctx.Err())
		case <-silence.C:
			return stored, fmt.Errorf("replay dead letters: no acknowledgement for %v: %w", s.cfg.Patience,
				context.DeadlineExceeded)
		}
	}
	if failed != nil {
		return stored, fmt.Errorf("replay dead letters: %w", failed)
	}
	return stored, nil
}
