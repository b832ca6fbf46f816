package event_test

import (
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

// derived is another implementation of the contract's formula.
func derived(seed string, partition int32, offset int64, batch ...int32) string {
	h := sha256.New()
	h.Write([]byte(seed))
	_ = binary.Write(h, binary.BigEndian, partition)
	_ = binary.Write(h, binary.BigEndian, offset)
	_ = binary.Write(h, binary.BigEndian, batch)
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	number, base, text := new(big.Int).SetBytes(h.Sum(nil)[:16]), big.NewInt(62), ""
	for range 22 {
		digit := new(big.Int)
		number.DivMod(number, base, digit)
		text = digits[digit.Int64():][:1] + text
	}
	return "evt_" + text
}

func TestDerivedIdentity(t *testing.T) {
	id := []byte("\x01\x02\x03\xffabcdefghijkl")
	topic := [16]byte(id)
	for offset := range int64(2000) {
		e := &event.Event{
			Record: event.Record{Topic: "sms-dlr", Namespace: event.NamespaceOf(topic, "sms-dlr", "x"), Partition: int32(offset % 12), Offset: offset * offset * 1e9},
		}
		if got, want := e.Identity(), derived(string(id), e.Partition, e.Offset); got != want {
			t.Fatalf("Identity of %s = %s, want %s", e.SourcePosition(), got, want)
		}
		if got, want := e.BatchIdentity(int(offset)), derived(string(id), e.Partition, e.Offset, int32(offset)); got != want {
			t.Fatalf("BatchIdentity = %s, want %s", got, want)
		}
		for _, c := range []struct {
			id      string
			batches int32
			want    bool
		}{
			{e.Identity(), 0, true}, {e.Identity(), 4, true}, {e.BatchIdentity(3), 4, true}, {e.BatchIdentity(4), 4, false}, {e.BatchIdentity(0), 0, false},
		} {
			d, ok := event.ParseDerived(c.id)
			if got := d.Is(e.Namespace, e.Partition, e.Offset, c.batches); !ok || got != c.want || d.Is(e.Namespace, e.Partition, e.Offset+1, c.batches) {
				t.Fatalf("%s with %d batches: found %v (%v), want %v", c.id, c.batches, got, ok, c.want)
			}
		}
	}
	// A fixed value, which must never change: receivers store ids permanently.
	fixed := &event.Event{
		Record: event.Record{Namespace: event.NamespaceOf([16]byte{0: 0xab, 15: 0xcd}, "", ""), Partition: 3, Offset: 1 << 40},
	}
	if got := fixed.Identity(); got != "evt_65zCzbYEsdPvvuoJ9JsGNu" {
		t.Errorf("Identity = %s", got)
	}
}

// TestNamespaces checks that topics that differ in id, name or epoch give different ids.
func TestNamespaces(t *testing.T) {
	none := [16]byte{}
	tests := []struct {
		space event.Namespace
		seed  string
	}{
		{event.NamespaceOf([16]byte{5}, "sms-dlr", "a"), "\x05" + strings.Repeat("\x00", 15)},
		{event.NamespaceOf(none, "sms-dlr", ""), "sms-dlr"},
		{event.NamespaceOf(none, "sms-dlr", "a"), "sms-dlr/a"},
		{event.NamespaceOf(none, "sms-dlra", ""), "sms-dlra"},
		{event.NamespaceOf(none, strings.Repeat("x", 249), "b"), strings.Repeat("x", 249) + "/b"},
	}
	seen := map[string]bool{}
	for _, test := range tests {
		e := &event.Event{Record: event.Record{Namespace: test.space, Partition: 1, Offset: 2}}
		if got, want := e.Identity(), derived(test.seed, 1, 2); got != want || seen[got] {
			t.Errorf("%q: %s, want %s, different from those before", test.space, got, want)
		}
		seen[e.Identity()] = true
	}
}

func TestGatewayID(t *testing.T) {
	tests := []struct {
		id  string
		fit bool
	}{
		{"a", true}, {"evt-2026_03:01/Z9", true}, {strings.Repeat("x", 128), true}, {"/", true},
		{"", false}, {strings.Repeat("x", 129), false}, {"a b", false}, {"a.b", false}, {"ä", false}, {"a\r\n", false}, {"a\x00", false}, {"a+b", false},
	}
	for _, test := range tests {
		e := event.Event{Record: event.Record{Topic: "sms-dlr", Partition: 1, Offset: 2}}
		if got := e.SetGatewayID([]byte(test.id)); got != test.fit {
			t.Errorf("%q fits: %v, want %v", test.id, got, test.fit)
		}
		if (e.Identity() == test.id) != test.fit {
			t.Errorf("%q: the event is named %s", test.id, e.Identity())
		}
		if got := e.SourcePosition(); got != "sms-dlr/1/2" {
			t.Errorf("%q: the record is %s", test.id, got)
		}
	}
}

func TestRecord(t *testing.T) {
	tests := []struct {
		name string
		e    event.Event
		want string
	}{
		{"source", event.Event{Record: event.Record{Topic: "sms-dlr", Partition: 11, Offset: 9007199254740993}}, "sms-dlr/11/9007199254740993"},
		{"source with a gateway's id", event.Event{
			Record:   event.Record{Topic: "sms-dlr", Offset: 1},
			Delivery: event.Delivery{ID: "x/1/2"},
		}, "sms-dlr/0/1"},
		{"stored", event.Event{
			Record:   event.Record{Class: topics.Retry, Topic: "sms-dlr-retry-6h", Origin: "sms-dlr/1/2"},
			Delivery: event.Delivery{ID: "evt_1"},
		}, "sms-dlr/1/2"},
		{"stored by an earlier version", event.Event{
			Record:   event.Record{Class: topics.Overflow, Topic: "sms-dlr-overflow-10s"},
			Delivery: event.Delivery{ID: "sms-dlr/1/2"},
		}, "sms-dlr/1/2"},
		{"batch of an earlier version", event.Event{
			Record:   event.Record{Class: topics.Retry, Topic: "r"},
			Delivery: event.Delivery{ID: "click-revocation/1/2/3"},
		}, "click-revocation/1/2"},
		{"of another program", event.Event{
			Record:   event.Record{Class: topics.Retry, Topic: "r", Partition: 1, Offset: 5},
			Delivery: event.Delivery{ID: "sms/x/2"},
		}, "r/1/5"},
		{"without an id", event.Event{Record: event.Record{Class: topics.Retry, Topic: "r", Offset: 5}}, "r/0/5"},
	}
	for _, test := range tests {
		if got := test.e.SourcePosition(); got != test.want {
			t.Errorf("%s: Record = %s, want %s", test.name, got, test.want)
		}
	}
	for _, id := range []string{"", "a", "a/1", "/1/2", "a/-1/2", "a/1/x", "a/1/2/x", "a/1/2/3/4", "a/2147483648/1", "a/1/9223372036854775808"} {
		if got := event.OriginOf(id); got != "" {
			t.Errorf("OriginOf(%q) = %q", id, got)
		}
	}
}

func BenchmarkIdentity(b *testing.B) {
	b.ReportAllocs()
	space := event.NamespaceOf([16]byte{1}, "", "")
	for i := range b.N {
		e := event.Event{Record: event.Record{Namespace: space, Partition: 3, Offset: int64(i)}}
		_ = e.Identity()
	}
}

func TestParseDerivedRefuses(t *testing.T) {
	for _, id := range []string{
		"", "evt_", "evt_65zCzbYEsdPvvuoJ9JsGN", "evt_65zCzbYEsdPvvuoJ9JsGNuu", "evt_-5zCzbYEsdPvvuoJ9JsGNu", "evt_+5zCzbYEsdPvvuoJ9JsGNu",
		"evt_65zCzbYEsdPvvuoJ9Js_Nu", "evt_zzzzzzzzzzzzzzzzzzzzzz", "EVT_65zCzbYEsdPvvuoJ9JsGNu", "sms-dlr/1/2",
	} {
		if _, ok := event.ParseDerived(id); ok {
			t.Errorf("%q is accepted", id)
		}
	}
}
