package app

import (
	"errors"
	"testing"

	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestSendingValue(t *testing.T) {
	const given = `{"sms": {"id": "a/b", "text": "<&>", "cost": 1e2}, "user_id": 7}`
	s := Sending{UserID: 42, Record: []byte(given)}
	if got, err := s.value(5); err != nil || string(got) != `{"sms":{"id":"a/b","text":"<&>","cost":1e2},"user_id":42}` {
		t.Errorf("a given record becomes %s, %v", got, err)
	}
	for _, kind := range webhook.Kinds() {
		s := Sending{UserID: 42, Kind: kind}
		value, err := s.value(1772000000000)
		if err != nil {
			t.Fatalf("%v: %v", kind, err)
		}
		var (
			m webhook.Message
			b webhook.Revocation
		)
		if kind == webhook.RevokeClick {
			err = webhook.DecodeRevocation(value, &b)
			m.UserID = b.UserID
			if b.Count() != 1 || string(b.APISMSIDs[0]) != "1772000000000" {
				t.Errorf("%v: %s", kind, value)
			}
		} else if err = webhook.Decode(kind, value, &m); err == nil && m.ID(value) != "1772000000000" {
			t.Errorf("%v: %s", kind, value)
		}
		if err != nil || m.UserID != 42 {
			t.Errorf("%v: %v in %s", kind, err, value)
		}
	}
	for _, bad := range []string{"", "null", "[]", "{", `{"sms":{}}`, `{"sms":{"id":[]}}`, `{"sms":1}`} {
		s := Sending{UserID: 42, Record: []byte(bad)}
		if got, err := s.value(1); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%s becomes %s, %v", bad, got, err)
		}
	}
}
