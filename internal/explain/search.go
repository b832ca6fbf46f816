package explain

import (
	"bytes"
	"context"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// clockSlack is how much later than its copies a source record may seem to have been written: its timestamp is the
	// gateway's, those of delay topics are the broker's.
	clockSlack = time.Hour
	// batchesMost is the number of batches of revocations with the same first record that are searched.
	batchesMost = 16
)

// byID finds the one event of Query.ID.
func (f *finder) byID(ctx context.Context) error {
	source, offset, partition, err := f.locate(ctx)
	if err != nil {
		return err
	}
	if source == nil {
		// The id is the gateway's, or the source record was deleted.
		_, derived := event.ParseDerived(f.query.ID)
		return f.everywhere(ctx, f.query.UserID, func(t *topic) matcher {
			if derived && t.isSource() {
				return nil
			}
			return f.matchID(f.query.ID)
		})
	}
	id, origin := f.query.ID, time.Time{}
	var keys [][]byte // that its dead letter may have: the source's, or the user id, which is that of delayed copies
	err = f.read(ctx, []part{{source, partition, compacted.Span{Start: offset, End: offset + 1}}}, func(*topic) matcher {
		return func(t *topic, r *kgo.Record) *event.Event {
			e := eventOf(t, r)
			if e.Kind == webhook.RevokeClick { // the event is a batch that begins with the record, unless it is invalid
				switch {
				case id != e.SourcePosition():
					e.ID = id
				case webhook.DecodeRevocation(r.Value, &e.Batch) == nil:
					e.ID = e.BatchIdentity(0)
				}
			}
			id = e.ID
			origin = r.Timestamp.Add(-clockSlack)
			if r.Key != nil {
				keys = [][]byte{bytes.Clone(r.Key), strconv.AppendInt(nil, e.UserID, 10)}
			}
			return e
		}
	})
	if err != nil {
		return err
	}
	var parts []part
	for _, t := range f.topics {
		switch {
		case t.isSource(), !t.dead && t.info.Kind != source.info.Kind:
		case t.dead && keys != nil:
			parts = append(parts, t.parts(t.hash(keys[0]), t.hash(keys[1]))...) // one partition, if these are the same
		case t.dead:
			parts = append(parts, t.parts()...)
		default:
			parts = append(parts, t.parts(partition)...)
		}
	}
	if parts, err = f.after(ctx, parts, origin); err != nil {
		return err
	}
	return f.read(ctx, parts, func(*topic) matcher { return f.matchID(id) })
}

// locate returns the position of the source record of Query.ID; source is nil if the id does not contain it.
func (f *finder) locate(ctx context.Context) (source *topic, offset int64, partition int32, err error) {
	if name, p, o, ok := event.ParsePosition(event.OriginOf(f.query.ID)); ok {
		for _, t := range f.sources() {
			if s := t.spans[p]; t.name == name && s.Start <= o && o < s.End {
				return t, o, p, nil
			}
		}
		return nil, 0, 0, nil
	}
	derived, ok := event.ParseDerived(f.query.ID)
	if !ok {
		return nil, 0, 0, nil
	}
	first, rest := f.split(f.query.UserID, f.sources())
	for _, parts := range [][]part{first, rest} {
		if source, offset, partition, err = derive(ctx, derived, parts); source != nil || err != nil {
			return source, offset, partition, err
		}
	}
	return nil, 0, 0, nil
}

// derive computes the ids of the parts' offsets, the newest first, until one is the wanted id.
func derive(ctx context.Context, id event.Derivation, parts []part) (*topic, int64, int32, error) {
	const step = 4096
	type place struct {
		part
		offset int64
	}
	var found atomic.Pointer[place]
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range parts {
		batches := int32(0)
		if p.topic.info.Kind == webhook.RevokeClick {
			batches = batchesMost
		}
		g.Go(func() error {
			for offset := p.span.End - 1; offset >= p.span.Start && found.Load() == nil; offset-- {
				if offset%step == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if id.Is(p.topic.space, p.partition, offset, batches) {
					found.Store(&place{p, offset})
				}
			}
			return nil
		})
	}
	err := g.Wait()
	if at := found.Load(); at != nil {
		return at.topic, at.offset, at.partition, nil
	}
	return nil, 0, 0, err
}

// byMessage finds the events of a message.
func (f *finder) byMessage(ctx context.Context) error {
	return f.everywhere(ctx, f.query.UserID, func(t *topic) matcher {
		if !t.dead && t.info.Kind == webhook.RevokeClick {
			return nil // a batch belongs to no message
		}
		return f.matchMessage()
	})
}

// everywhere reads the partitions that the user's key hashes to, and the others if nothing is there.
func (f *finder) everywhere(ctx context.Context, userID int64, match func(*topic) matcher) error {
	first, rest := f.split(userID, f.topics)
	if err := f.read(ctx, first, match); err != nil || len(f.found) > 0 {
		return err
	}
	return f.read(ctx, rest, match)
}

// split returns the parts that hold the user's records if the gateway writes them by the key's hash, and the rest.
func (f *finder) split(userID int64, list []*topic) (first, rest []part) {
	key := strconv.AppendInt(nil, userID, 10)
	for _, t := range list {
		for _, p := range t.parts() {
			if userID > 0 && p.partition == t.hash(key) {
				first = append(first, p)
			} else {
				rest = append(rest, p)
			}
		}
	}
	return first, rest
}

func (t *topic) isSource() bool { return !t.dead && t.info.Class == topics.Source }

// hash returns the partition that Kafka's own clients choose for a key.
func (t *topic) hash(key []byte) int32 {
	if t.partitions == 0 {
		return -1
	}
	by := kgo.StickyKeyPartitioner(nil).ForTopic(t.name)
	return int32(by.Partition(&kgo.Record{Topic: t.name, Key: key}, t.partitions))
}

// matcher returns the event of a record that belongs to the query, else nil. One goroutine uses it.
type matcher func(*topic, *kgo.Record) *event.Event

// matchID selects the records of an event.
func (f *finder) matchID(id string) matcher {
	want := []byte(id)
	return func(t *topic, r *kgo.Record) *event.Event {
		header := event.HeaderID
		if t.isSource() {
			header = event.HeaderGatewayID
		}
		for _, h := range r.Headers {
			if h.Key == header && bytes.Equal(h.Value, want) {
				return eventOf(t, r)
			}
		}
		return nil
	}
}

// matchMessage selects the records of a message. A text search excludes most records before they are decoded.
func (f *finder) matchMessage() matcher {
	text := []byte(f.query.MessageID)
	plain := !bytes.ContainsFunc(text, func(c rune) bool {
		return c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
	return func(t *topic, r *kgo.Record) *event.Event {
		if plain && !bytes.Contains(r.Value, text) && !escapesPlain(r.Value) { // other characters may be escaped
			return nil
		}
		e := eventOf(t, r)
		if e.UserID != f.query.UserID || e.Kind == webhook.RevokeClick || e.Message.ID(r.Value) != f.query.MessageID {
			return nil
		}
		return e
	}
}

// escapesPlain reports whether a record may have an escaped letter, digit, '-', '_' or '.': \u002d to \u007a. Few have,
// even if a gateway escapes all other letters.
func escapesPlain(value []byte) bool {
	for {
		i := bytes.Index(value, []byte(`\u00`))
		if i < 0 {
			return false
		}
		value = value[i+len(`\u00`):]
		if len(value) > 0 && '2' <= value[0] && value[0] <= '7' {
			return true
		}
	}
}

// eventOf returns the event that the service makes of a record.
func eventOf(t *topic, r *kgo.Record) *event.Event {
	e := &event.Event{
		Record: event.Record{
			Class: t.info.Class, Topic: t.name, Partition: r.Partition, Offset: r.Offset, Namespace: t.space,
			Value: r.Value,
		},
		Delivery: event.Delivery{Kind: t.info.Kind, Time: r.Timestamp},
	}
	for _, h := range r.Headers {
		switch {
		case !t.isSource() && h.Key == event.HeaderReason:
			e.Reason = webhook.Reason(h.Value)
		case t.dead && h.Key == event.HeaderKind:
			e.Kind, _ = webhook.ParseKind(string(h.Value))
		case !t.isSource():
			e.SetHeader(h.Key, h.Value)
		case h.Key == event.HeaderGatewayID && e.Kind != webhook.RevokeClick:
			e.SetGatewayID(h.Value)
		}
	}
	_ = e.Decode() // even an invalid record may name its user
	e.Identity()
	return e
}
