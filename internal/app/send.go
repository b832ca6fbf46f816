package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// sendTogether is the number of events sent before their positions are printed.
const sendTogether = 500

// Sending is a number of example events.
type Sending struct {
	UserID int64
	Kind   webhook.Kind
	// Record is the value of each record, its user_id replaced; nil is the documented example with new ids.
	Record []byte
	Count  int
	Rate   float64 // events a second; 0 = as fast as Kafka accepts them
}

// Sent is an event that was written.
type Sent struct {
	Record string // <topic>/<partition>/<offset>
	ID     string // of its event; of a revocation, of the batch that begins with it
}

// ErrBadRecord is the error of a record that the service could not deliver.
var ErrBadRecord = errors.New("not a valid record")

// Send writes example events to the source topic of their kind, keyed by the user id like a gateway's, and calls sent
// for each, in order.
func (a *Admin) Send(ctx context.Context, s Sending, sent func(Sent) error) error {
	topic := a.cfg.TopicPlan().Sources()[s.Kind]
	first := time.Now().UnixMilli() // new message ids: a repeated click would not be sent
	if _, err := s.value(first); err != nil {
		return err
	}
	found, err := kafka.TopicMetadata(ctx, a.client, topic)
	if err != nil {
		return err
	}
	t := found[topic]
	if err := kerr.ErrorForCode(t.ErrorCode); kafka.IsDenied(err) {
		return fmt.Errorf("read topic %s: %w", topic, err)
	}
	if len(t.Partitions) == 0 { // producing would wait for the topic
		return fmt.Errorf("topic %s does not exist (smshooks topics ensure creates it)", topic)
	}
	space := event.NamespaceOf(t.TopicID, topic, a.cfg.Topics.Epoch)
	pace, together := rate.NewLimiter(rate.Inf, 1), sendTogether
	if s.Rate > 0 {
		pace, together = rate.NewLimiter(rate.Limit(s.Rate), 1), 1
	}
	for done := 0; done < s.Count; {
		if err := pace.Wait(ctx); err != nil {
			return fmt.Errorf("send events: %d of %d were sent: %w", done, s.Count, err)
		}
		records := make([]*kgo.Record, min(together, s.Count-done))
		for i := range records {
			value, err := s.value(first + int64(done+i))
			if err != nil {
				return err
			}
			records[i] = &kgo.Record{Topic: topic, Key: strconv.AppendInt(nil, s.UserID, 10), Value: value}
		}
		if err := kafka.ProduceWithin(ctx, a.client, records...); err != nil {
			return fmt.Errorf("write to topic %s: %d of %d were sent: %w", topic, done, s.Count, kafka.Explain(err))
		}
		for _, r := range records {
			if err := sent(sentOf(r, s.Kind, space)); err != nil {
				return err
			}
		}
		done += len(records)
	}
	return nil
}

func sentOf(r *kgo.Record, kind webhook.Kind, space event.Namespace) Sent {
	e := event.Event{Record: event.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Namespace: space}}
	id := e.Identity()
	if kind == webhook.RevokeClick {
		id = e.BatchIdentity(0)
	}
	return Sent{Record: e.SourcePosition(), ID: id}
}

// value returns the value of the record with the given message id.
func (s *Sending) value(id int64) ([]byte, error) {
	record := s.Record
	if record == nil {
		record = api.ExampleRecord(s.Kind)
	}
	fields, err := object(record)
	if err != nil {
		return nil, err
	}
	fields["user_id"] = strconv.AppendInt(nil, s.UserID, 10)
	switch {
	case s.Record != nil:
	case s.Kind == webhook.RevokeClick:
		fields["api_sms_ids"], fields["campaign_sms_ids"] = fmt.Appendf(nil, "[%d]", id), json.RawMessage("[]")
	default:
		sms, err := object(fields["sms"])
		if err != nil {
			return nil, err
		}
		sms["id"] = strconv.AppendInt(nil, id, 10)
		if fields["sms"], err = compact(sms); err != nil {
			return nil, err
		}
	}
	value, err := compact(fields)
	if err != nil {
		return nil, err
	}
	return value, checkRecord(s.Kind, value)
}

// checkRecord returns an error if the service could not deliver a record.
func checkRecord(kind webhook.Kind, value []byte) (err error) {
	var (
		m webhook.Message
		b webhook.Revocation
	)
	if kind == webhook.RevokeClick {
		err = webhook.DecodeRevocation(value, &b)
	} else {
		err = webhook.Decode(kind, value, &m)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	return nil
}

func object(text []byte) (fields map[string]json.RawMessage, err error) {
	if err = json.Unmarshal(text, &fields); err == nil && fields == nil {
		err = errors.New("it is null")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: not a JSON object: %w", ErrBadRecord, err)
	}
	return fields, nil
}

// compact writes an object as the gateway does: without spaces, and without escapes that JSON does not need.
func compact(fields map[string]json.RawMessage) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(fields)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
