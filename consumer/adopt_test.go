package consumer

import (
	"slices"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/kafka"
)

// TestAdopt creates a delay topic again while its partition is paused, and writes to it between two measurements of the
// lag. The old assignment must end, whether the group has revoked it or not, and the record must be sent when it is due.
func TestAdopt(t *testing.T) {
	for name, protocol := range map[string]func(*Config){"classic": func(*Config) {}, "consumer": serverAssigned} {
		t.Run(name, func(t *testing.T) {
			withEnv(t, 1, func(t *testing.T, w *env) {
				create := func() {
					if _, err := w.admin.CreateTopics(t.Context(), 1, 1, nil, hourly); err != nil {
						t.Fatal(err)
					}
				}
				create()
				w.write(hourly, 0, 5, time.Now().Add(time.Hour))
				var retired [16]byte
				w.retired = func(id [16]byte) bool { return id == retired }
				m := w.join(all, protocol, func(c *Config) { c.Topics = []string{source, hourly} })
				rest(30 * time.Second)
				old, delayed := m.assignment(hourly, 0), m.Consumer.delayed.Load()
				retired, _ = kafka.SplitCommit(*old.mark.Load())
				if _, err := w.admin.DeleteTopics(t.Context(), hourly); err != nil {
					t.Fatal(err)
				}
				create()
				w.client.PurgeTopicsFromClient(hourly)
				if err := m.Adopt(t.Context(), []string{hourly}); err != nil {
					t.Error(err)
				}
				open := func() bool { // the gate of the new assignment, which does not sleep yet
					m.gates.mu.Lock()
					defer m.gates.mu.Unlock()
					g := m.gates.open[topicPartition{hourly, 0}]
					return g != nil && g.a != old && !g.paused
				}
				for range 1000 {
					if rest(100 * time.Millisecond); open() {
						break
					}
				}
				if old.ctx.Err() == nil {
					t.Error("the old assignment has not ended")
				}
				if n := m.Consumer.delayed.Load(); n != delayed {
					t.Errorf("%d partitions of delay topics, want %d", n, delayed)
				}
				w.write(hourly, 0, 1, time.Now().Add(time.Minute))
				rest(2 * time.Minute)
				if !slices.Contains(m.ids(hourly), "0/0") {
					t.Error("the record was not sent")
				}
				// The watcher asks again if the group took too long. What was read since stays.
				adopted := m.assignment(hourly, 0)
				if err := m.Adopt(t.Context(), []string{hourly}); err != nil || m.assignment(hourly, 0) != adopted || adopted.isReplaced() {
					t.Errorf("the new topic was joined again, %v", err)
				}
				if records, bytes, paused := m.gates.usage(); records != 0 || bytes != 0 || paused > 1 {
					t.Errorf("%d records of %d bytes are counted, and %d paused partitions", records, bytes, paused)
				}
				m.leave()
			})
		})
	}
}
