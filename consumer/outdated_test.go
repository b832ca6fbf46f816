package consumer

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/internal/kafka"
)

// An offset committed for a deleted topic does not apply to the new topic of that name. An offset of another cluster's
// topic, as mirrors translate them, or without a mark is accepted.
func TestOffsetOfADeletedTopic(t *testing.T) {
	for _, c := range []struct {
		name          string
		mark, retired bool
		want          []string
	}{
		{"of a deleted topic", true, true, offsetsOf(0, 0, 9)},
		{"of another cluster's topic", true, false, offsetsOf(0, 5, 9)},
		{"without a mark", false, true, offsetsOf(0, 5, 9)},
	} {
		t.Run(c.name, func(t *testing.T) {
			withEnv(t, 1, func(t *testing.T, w *env) {
				w.write(source, 0, 5, time.Time{})
				m := w.join(all)
				rest(6 * time.Second)
				m.leave()
				stored, err := w.admin.FetchOffsets(t.Context(), "group")
				if err != nil {
					t.Fatal(err)
				}
				before, _ := stored.Lookup(source, 0)
				previous, _ := kafka.SplitCommit(before.Metadata)
				if before.At != 5 || previous == [16]byte{} {
					t.Fatalf("committed %d with %q, want 5 with the topic's mark", before.At, before.Metadata)
				}
				if _, err := w.admin.DeleteTopics(t.Context(), source); err != nil {
					t.Fatal(err)
				}
				w.client.PurgeTopicsFromProducing(source)
				if _, err := w.admin.CreateTopics(t.Context(), 1, 1, nil, source); err != nil {
					t.Fatal(err)
				}
				w.write(source, 0, 9, time.Time{})
				late := before.Offset
				if !c.mark {
					late.Metadata = ""
				}
				var offsets kadm.Offsets
				offsets.Add(late)
				if err := w.admin.CommitAllOffsets(t.Context(), "group", offsets); err != nil {
					t.Fatal(err)
				}
				if c.retired {
					w.retired = func(id [16]byte) bool { return id == previous }
				}
				next := w.join(all)
				rest(6 * time.Second)
				if got := next.ids(source); !slices.Equal(got, c.want) {
					t.Errorf("dispatched: %v, want %v", got, c.want)
				}
				next.leave()
				if at, _ := w.committed(source, 0); at != 9 {
					t.Errorf("committed %d, want 9", at)
				}
			})
		})
	}
}

func TestMark(t *testing.T) {
	id := [16]byte{1, 2, 255}
	if got, state := kafka.SplitCommit(*kafka.CommitMark(id) + "1:KQEC;a|b"); got != id || state != "1:KQEC;a|b" {
		t.Errorf("unmark returned %v and %q", got, state)
	}
	for _, text := range []string{"", "1:KQEC", "1:KQEC;a|b", "AAAA|x", "|"} {
		if got, state := kafka.SplitCommit(text); got != [16]byte{} || state != text {
			t.Errorf("kafka.SplitCommit(%q) = %v and %q", text, got, state)
		}
	}
	if kafka.CommitMark([16]byte{}) != nil {
		t.Error("a topic without an id has a mark")
	}
}
