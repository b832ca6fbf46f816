package main

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMailOf(t *testing.T) {
	const value = `{"user_id":42,"kind":"dlr","host":"example.com","since":"2026-02-27T14:30:00.000Z","failure":"http 503","count":17}`
	const unknown = `{"user_id":42,"kind":"dlr","host":null,"since":"2026-02-27T14:30:00.000Z","failure":null,"count":1}`
	for _, c := range []struct{ version, kind, value, want string }{
		{"1.0", "smshooks.endpoint.failing", value, "To: user 42\nSubject: example.com does not accept dlr webhooks\n\n" +
			"17 attempts have failed since 27 February 14:30 UTC. The last failure: http 503. We try each event again."},
		{"1.0", "smshooks.endpoint.recovered", value, "To: user 42\nSubject: example.com accepts dlr webhooks again\n\n" +
			"17 attempts had failed since 27 February 14:30 UTC. The last failure: http 503."},
		{"1.0", "smshooks.events.dead", value, "To: user 42\nSubject: 17 dlr events were not delivered to example.com\n\n" +
			"We gave them up since 27 February 14:30 UTC. The last failure: http 503. You can send them again for 30 days."},
		{"1.0", "smshooks.events.dead", unknown, "To: user 42\nSubject: 1 dlr events were not delivered to your server\n\n" +
			"We gave them up since 27 February 14:30 UTC. The last failure: no attempt was made in time. You can send them again for 30 days."},
		{"1.0", "other", value, ""},
		{"0.3", "smshooks.events.dead", value, ""},
		{"1.0", "smshooks.events.dead", "{", ""},
	} {
		r := &kgo.Record{Value: []byte(c.value), Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte(c.version)}, {Key: "ce_type", Value: []byte(c.kind)},
		}}
		if got, err := mailOf(r); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %s: %q, %v\nwant %q", c.version, c.kind, got, err, c.want)
		}
	}
}
