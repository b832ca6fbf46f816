package kafka

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Topics of former delays are read and kept in step, and nothing is written to them.
func TestDraining(t *testing.T) {
	p := NewPlan(defaultNames, []time.Duration{hour}, []time.Duration{time.Minute}, 24*hour, 12, -1).
		Draining([]time.Duration{6 * hour, hour}, []time.Duration{10 * time.Second})
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]struct {
		class Class
		wait  time.Duration
	}{
		"sms-dlr-retry-6h": {RetryTopic, 6 * hour}, "click-revocation-overflow-10s": {OverflowTopic, 10 * time.Second}, "sms-dlr-retry-1h": {RetryTopic, hour},
	} {
		if _, class, wait := p.Describe(topic); class != want.class || wait != want.wait {
			t.Errorf("%s is %v, %v", topic, class, wait)
		}
		if n := len(slices.DeleteFunc(p.Consumed(), func(c string) bool { return c != topic })); n != 1 {
			t.Errorf("%s is consumed %d times", topic, n)
		}
	}
	if p.Retry(0, 0) != "sms-dlr-retry-1h" || p.Overflow(0, 0) != "sms-dlr-overflow-1m" {
		t.Errorf("records are written to %s and %s", p.Retry(0, 0), p.Overflow(0, 0))
	}
	if s := fmt.Sprint(p.settings("sms-dlr-retry-6h", nil)); !strings.Contains(s, millis(30*hour+retentionSlack)) {
		t.Errorf("a drained topic is created with %s", s)
	}
	bad := NewPlan(defaultNames, nil, nil, hour, 1, -1).Draining([]time.Duration{-hour}, nil)
	if err := bad.Validate(); err == nil {
		t.Error("a negative delay to be drained is taken")
	}
}

// Records that wait where nobody reads are found, and the setting that helps is named.
func TestUnread(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	ensure(t, p, cl)
	group := names.DLR + "-group"
	want := func(want ...Unread) {
		t.Helper()
		got, err := p.Unread(t.Context(), cl, group)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	want()
	old, tier := names.DLR+"-retry-2h", names.Click+"-overflow-1m"
	for _, topic := range []string{old, tier, names.DLR + "-retry-2x", names.DLR + "-retry-120m", "other-retry-2h"} {
		create(t, cl, topic, 2, nil)
	}
	want() // they are empty
	for _, topic := range []string{old, old, old, tier, names.DLR + "-retry-2x", names.DLR + "-retry-120m", "other-retry-2h", p.Retry(0, 0)} {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	want(Unread{tier, 1, "overflow.drain=1m"}, Unread{old, 3, "retry.drain=2h"})
	admin := kadm.NewClient(cl)
	ends, err := admin.ListEndOffsets(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.CommitAllOffsets(t.Context(), group, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	want(Unread{tier, 1, "overflow.drain=1m"})
	p = smallPlan(names).Draining(nil, []time.Duration{time.Minute})
	want()
}
