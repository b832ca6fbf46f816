package endpoints

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Type is the type of an endpoint event.
type Type string

// The types.
const (
	// Failing: an attempt failed, the first one after a success or ever; repeated at most hourly while attempts fail.
	Failing Type = "smshooks.endpoint.failing"
	// Recovered: an attempt succeeded, the first one after Failing.
	Recovered Type = "smshooks.endpoint.recovered"
	// Dead: events became dead letters; at most hourly.
	Dead Type = "smshooks.events.dead"
)

// Types returns the names of all types.
func Types() []string { return []string{string(Failing), string(Recovered), string(Dead)} }

// Event is one endpoint event.
type Event struct {
	Type Type
	Time time.Time
	key
	Host    string          // without port; "" if the user has no such endpoint any more
	Since   time.Time       // of Failing and Recovered: the first failed attempt; of Dead: the first dead letter counted
	Failure webhook.Failure // the last one; "" if the events of Dead were never attempted
	Count   int64           // failed attempts since then, or dead letters since the last event
}

const source = "smshooks"

// record returns e as CloudEvents 1.0 in binary mode.
func (e *Event) record(topic string) *kgo.Record {
	header := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	return &kgo.Record{
		Topic: topic,
		Key:   strconv.AppendInt(nil, e.UserID, 10),
		Value: e.value(),
		Headers: []kgo.RecordHeader{
			header("ce_specversion", "1.0"),
			header("ce_id", rand.Text()),
			header("ce_source", source),
			header("ce_type", string(e.Type)),
			header("ce_time", event.FormatTime(e.Time)),
			header("ce_subject", e.key.String()),
			header("content-type", "application/json"),
		},
	}
}

// value returns e in compact JSON.
func (e *Event) value() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(struct { // cannot fail: all fields can be encoded
		UserID  int64   `json:"user_id"`
		Kind    string  `json:"kind"`
		Host    *string `json:"host"`
		Since   string  `json:"since"`
		Failure *string `json:"failure"`
		Count   int64   `json:"count"`
	}{e.UserID, e.Kind.String(), orNull(e.Host), event.FormatTime(e.Since), orNull(string(e.Failure)), e.Count})
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
