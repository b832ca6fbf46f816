package release

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
)

// TestMarkersAreStoredAfterAdopt checks that a recovery that Begin has reported as stored is in the topic, also if Adopt
// was called for the topic that was written before: it begins its sequence numbers again, and the broker acknowledges
// what it takes for a repetition without storing it.
func TestMarkersAreStoredAfterAdopt(t *testing.T) {
	k := newEnv(t)
	i := k.start(&owner{})
	for range 4 {
		ids := []keyed{{"same partition", entry{Marker: &Marker{ID: newID(), Cause: Operator}}}}
		if err := i.writeAll(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		if err := i.Adopt(t.Context(), []string{"releases"}); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := k.ends("releases")
	if err != nil || ends != 4 {
		t.Errorf("4 markers were acknowledged, the topic has %d, %v", ends, err)
	}
}

func (k *env) ends(topic string) (n int64, err error) {
	listed, err := kadm.NewClient(k.client).ListEndOffsets(k.Context(), topic)
	listed.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n, err
}
