package kafka

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
)

// TestOrphaned checks that orphaned delay topics with records are found, with the setting to add.
func TestOrphaned(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	ensure(t, p, cl)
	group := names.DLR + "-group"
	want := func(want ...Orphaned) {
		t.Helper()
		got, err := OrphanedTopics(t.Context(), cl, p, group)
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
	want(Orphaned{tier, 1, "overflow.drain=1m"}, Orphaned{old, 3, "retry.drain=2h"})
	admin := kadm.NewClient(cl)
	ends, err := admin.ListEndOffsets(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.CommitAllOffsets(t.Context(), group, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	want(Orphaned{tier, 1, "overflow.drain=1m"})
	p = smallPlan(names)
	drained := p.Settings
	drained.DrainTiers = []time.Duration{time.Minute}
	p = topics.New(drained)
	want()
}
