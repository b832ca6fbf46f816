package revocation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

func TestCommitText(t *testing.T) {
	p := newPartition()
	p.cuts = []int64{10, 200, 3000}
	tests := []struct {
		committed int64
		room      int
		want      string
	}{
		{-1, 1024, "10.200.3000"},
		{9, 11, "10.200.3000"},
		{9, 10, "200.3000"}, // the newest if there is no room for all
		{9, 4, "3000"},
		{9, 3, ""},
		{9, 0, ""},
		{10, 1024, "200.3000"},
		{2999, 1024, "3000"},
		{3000, 1024, ""},
	}
	for _, test := range tests {
		if got := p.commitText(test.committed, test.room); got != test.want {
			t.Errorf("commitText(%d, %d) = %q, want %q", test.committed, test.room, got, test.want)
		}
	}
}

func TestRestoreBadTexts(t *testing.T) {
	for _, text := range []string{"", ".", "x", "-5", "0", "1e3", "99999999999999999999", "5;7", " 5"} {
		p := newPartition()
		p.restore(text, time.Now())
		if len(p.cuts) != 0 {
			t.Errorf("text %q gives cuts %v, want none", text, p.cuts)
		}
	}
	p := newPartition()
	p.restore("7.x.5", time.Now())
	if got := p.commitText(-1, 100); got != "5.7" {
		t.Errorf("cuts %v, want 5 and 7", p.cuts)
	}
}

func FuzzRestore(f *testing.F) {
	f.Add("5.7.9", int64(6), 100)
	f.Fuzz(func(t *testing.T, text string, committed int64, room int) {
		p := newPartition()
		p.restore(text, time.Now())
		if got := p.commitText(committed, room); len(got) > max(room, 0) {
			t.Errorf("%q is longer than %d", got, room)
		}
	})
}

// After a crash, the records below the cut make the same batch with the same id, although more records follow now.
func TestSameBatchAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, text := newLease(), ""
		var s *env
		s = newEnv(usual(), func(context.Context) { text = s.CommitText(topic, 3, 10, 1024) })
		s.run()
		s.Add(rec(l, 10, 42, "1", ""))
		s.Add(rec(l, 11, 43, "2", ""))
		s.Add(rec(l, 12, 42, "3", ""))
		s.rest(time.Minute)
		s.stop()
		before := s.sent
		if len(before) != 2 || text != "13" {
			t.Fatalf("%v with text %q", before, text)
		}

		next := newEnv(usual(), nil)
		next.Restore(topic, 3, text)
		next.run()
		defer next.stop()
		for offset, user := range []int64{42, 43, 42, 42, 43} {
			next.Add(rec(newLease(), 10+int64(offset), user, fmt.Sprint(offset+1), ""))
		}
		next.rest(time.Minute)
		next.want(t,
			sent{time.Minute, topic + "/3/10/0", `{"user_id":42,"api_sms_ids":[1,3],"campaign_sms_ids":[]}`},
			sent{time.Minute, topic + "/3/11/0", `{"user_id":43,"api_sms_ids":[2],"campaign_sms_ids":[]}`},
			sent{time.Minute, topic + "/3/13/0", `{"user_id":42,"api_sms_ids":[4],"campaign_sms_ids":[]}`},
			sent{time.Minute, topic + "/3/14/0", `{"user_id":43,"api_sms_ids":[5],"campaign_sms_ids":[]}`})
	})
}

// A segment of a previous owner waits until all of it has been read again, but not indefinitely.
func TestSegmentReadAgainInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), nil), newLease()
		time.Sleep(58 * time.Second)
		s.run()
		defer s.stop()
		s.Restore(topic, 3, "13")
		s.Add(rec(l, 10, 42, "1", ""))
		s.rest(3 * time.Second) // a tick, 2s after the text was restored
		s.want(t)
		s.Add(rec(l, 12, 42, "3", ""))
		s.rest(time.Minute)
		s.want(t, sent{2 * time.Minute, topic + "/3/10/0", `{"user_id":42,"api_sms_ids":[1,3],"campaign_sms_ids":[]}`})

		s.Restore(topic, 3, "99")
		s.Add(rec(l, 20, 42, "4", "")) // and nothing more comes
		s.rest(time.Minute)
		if len(s.sent) != 2 || s.sent[1].At != 3*time.Minute {
			t.Errorf("batches %v, want another one at 3m", s.sent)
		}
	})
}

func TestForget(t *testing.T) {
	s := newEnv(usual(), nil)
	s.Restore(topic, 3, "13")
	if got := s.CommitText(topic, 3, 5, 100); got != "13" {
		t.Errorf("Note = %q, want 13", got)
	}
	s.Forget(topic, 3)
	if got := s.CommitText(topic, 3, 5, 100); got != "" {
		t.Errorf("Note of a released partition = %q", got)
	}
}

// history is one partition with a series of owners that crash. Whatever happens, a batch id never stands for two
// contents, and every id of every record is in a batch that was settled.
type history struct {
	t       *testing.T
	random  *rand.Rand
	records [][2]int64        // user and id, by offset
	settled map[string]bool   // "user id"
	content map[string]string // batch id -> value
	stored  struct {
		next     int64
		finished map[int64]bool
		text     string
	}
	*env
	lease *lease
}

func (h *history) commit(context.Context) {
	h.lease.mu.Lock()
	for h.lease.fates[h.stored.next] == "batched" || h.stored.finished[h.stored.next] {
		delete(h.stored.finished, h.stored.next)
		h.stored.next++
	}
	for offset := range h.lease.fates {
		if offset >= h.stored.next {
			h.stored.finished[offset] = true
		}
	}
	h.lease.mu.Unlock()
	h.stored.text = h.CommitText(topic, 3, h.stored.next, 1024)
}

// start makes a new owner, which reads the partition.
func (h *history) start() {
	cfg := usual()
	cfg.MaxIDs = 2
	h.lease = newLease()
	h.env = newEnv(cfg, h.commit)
	h.Restore(topic, 3, h.stored.text)
	for offset := h.stored.next; offset < int64(len(h.records)); offset++ {
		if !h.stored.finished[offset] {
			h.read(offset)
		}
	}
}

func (h *history) read(offset int64) {
	h.Add(rec(h.lease, offset, h.records[offset][0], fmt.Sprint(h.records[offset][1]), ""))
}

// settle ends some of the batches in progress, in any order.
func (h *history) settle(all bool) {
	h.random.Shuffle(len(h.batches), func(i, j int) { h.batches[i], h.batches[j] = h.batches[j], h.batches[i] })
	var left []*event.Event
	for _, b := range h.batches {
		if was, ok := h.content[b.ID]; ok && was != string(b.Value) {
			h.t.Errorf("%s was %s, is %s now", b.ID, was, b.Value)
		}
		h.content[b.ID] = string(b.Value)
		if !all && h.random.IntN(2) == 0 {
			left = append(left, b)
			continue
		}
		for _, id := range b.Batch.APISMSIDs {
			h.settled[fmt.Sprintf("%d %s", b.UserID, id)] = true
		}
		if b.Acquire() {
			b.Settle(0)
		}
	}
	h.batches = left
}

func (h *history) step() {
	switch h.random.IntN(10) {
	case 0:
		h.start() // a crash
		time.Sleep(restoreTimeout)
	case 1, 2:
		h.submit(h.tick(context.Background(), h))
	case 3, 4:
		h.settle(false)
	case 5:
		h.commit(context.Background())
	default:
		h.records = append(h.records, [2]int64{1 + int64(h.random.IntN(3)), int64(h.random.IntN(50))})
		h.read(int64(len(h.records)) - 1)
	}
}

func TestCrashesLoseNothingAndKeepIDs(t *testing.T) {
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			h := &history{t: t, random: rand.New(rand.NewPCG(seed, 7)), settled: map[string]bool{}, content: map[string]string{}}
			h.stored.finished = map[int64]bool{}
			h.start()
			for range 120 {
				h.step()
			}
			time.Sleep(restoreTimeout)
			h.submit(h.tick(context.Background(), h))
			h.settle(true)
			for offset, r := range h.records {
				if !h.settled[fmt.Sprintf("%d %d", r[0], r[1])] {
					t.Errorf("offset %d: id %d of user %d is in no batch that was settled", offset, r[1], r[0])
				}
			}
			h.commit(context.Background())
			if h.stored.next != int64(len(h.records)) {
				t.Errorf("committed %d of %d", h.stored.next, len(h.records))
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
