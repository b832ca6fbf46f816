package deadletter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// fillMany writes two dead letters for each of n events, the second ones after all first ones.
func (k *fakeKafka) fillMany(from, n int) {
	k.t.Helper()
	var records []*kgo.Record
	for range 2 {
		for i := range n {
			l := letter{id: fmt.Sprintf("sms-dlr/%d/%d", i%partitions, from+i), kind: "dlr", reason: "attempts_exhausted", user: int64(i%7 + 1), hour: 1}
			records = append(records, l.record())
		}
	}
	if err := k.client.ProduceSync(k.t.Context(), records...).FirstErr(); err != nil {
		k.t.Fatal(err)
	}
}

func TestReplayContinuesWhereItWasInterrupted(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	k.fillMany(0, 1700)
	file := filepath.Join(t.TempDir(), "position.json")
	f := Filter{Since: noon}
	chunks, total := 0, 0
	for round := 0; ; round++ {
		p, err := ReadPosition(file)
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && len(p.Partitions) == 0 {
			t.Fatal("nothing is stored")
		}
		if round > 0 && p.Done() {
			break
		}
		ctx, interrupt := context.WithCancel(t.Context())
		n, err := s.Run(ctx, Run{Filter: f, Position: p, Save: func(p *Position) error {
			if p.Sent > total { // a chunk
				chunks++
				interrupt()
			}
			return WritePosition(file, p)
		}})
		interrupt()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if total += n; p.Sent != total {
			t.Fatalf("round %d: %d sent, %d stored in the position", round, total, p.Sent)
		}
		if round == 0 {
			k.fillMany(10_000, 20) // after the beginning: none of this replay's
		}
		if round > 20 {
			t.Fatal("no end")
		}
	}
	if total != 1700 || chunks < 4 {
		t.Errorf("%d sent in %d chunks, want 1700 in 4", total, chunks)
	}
	if records := k.overflowed(1700); len(records) != 1700 {
		t.Errorf("%d different events, want 1700", len(records))
	}
	p, err := ReadPosition(file)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Run(t.Context(), Run{Filter: f, Position: p}); n != 0 || err != nil {
		t.Errorf("done, and again: %d sent, %v", n, err)
	}
}

func TestReplayDryRun(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	k.fill()
	ends := k.ends()
	var ids []string
	var read, total int64
	file := filepath.Join(t.TempDir(), "position.json")
	n, err := s.Run(t.Context(), Run{
		Filter: Filter{UserID: 42}, Position: &Position{}, Save: func(p *Position) error { return WritePosition(file, p) },
		Try: func(l *Letter) error { ids = append(ids, l.ID); return nil },
		Progress: func(r, of int64) {
			if r < read || total != 0 && of != total {
				t.Errorf("progress from %d of %d to %d of %d", read, total, r, of)
			}
			read, total = r, of
		},
	})
	if err != nil || n != 3 || len(ids) != 3 {
		t.Errorf("%d would be sent: %v, %v", n, ids, err)
	}
	if read != int64(len(letters)) || total != read {
		t.Errorf("read %d of %d, want all of %d", read, total, len(letters))
	}
	if now := k.ends(); now != ends {
		t.Errorf("the overflow topics ended at %s, now at %s", ends, now)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a position was stored: %v", err)
	}
}

// ends returns the end offsets of the overflow topics.
func (k *fakeKafka) ends() string {
	k.t.Helper()
	s := k.store()
	ends, err := s.admin.ListEndOffsets(k.t.Context(), testConfig.Overflow[:]...)
	if err != nil {
		k.t.Fatal(err)
	}
	return fmt.Sprint(ends)
}

func TestPositionOfAnotherTopic(t *testing.T) {
	k := newKafka(t)
	k.fill()
	for name, p := range map[string]*Position{
		"another name": {Topic: "other", Partitions: map[int32]Span{}},
		"it ends before": {Topic: testConfig.Topic, Partitions: map[int32]Span{
			0: {0, 1000}, 1: {0, 1000}, 2: {0, 1000}, 3: {0, 1000}, 4: {0, 1000}, 5: {0, 1000},
		}},
	} {
		if n, err := k.store().Run(t.Context(), Run{Position: p}); err == nil || n != 0 {
			t.Errorf("%s: %d sent, no error", name, n)
		}
	}
	file := filepath.Join(t.TempDir(), "position.json")
	for _, text := range []string{"", "{}", `{"partitions":[]}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPosition(file); err == nil {
			t.Errorf("%q is accepted as a position", text)
		}
	}
}
