package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// Fates that are settled without a request.
const (
	notConfigured = "not_configured"
	filtered      = "filtered"
	duplicate     = "duplicate"
)

// produced is an event in its source topic.
type produced struct {
	record  string // <topic>/<partition>/<offset>
	at      time.Time
	purpose string  // the fate of an event that must not be sent, otherwise ""
	ids     []int64 // ids of a revocation, by which it is judged
	first   string  // of a second click: the first one
}

// span is a time in which instances or Kafka could not store what was finished.
type span struct {
	from, to time.Time
	by       string // User-Agent of the only affected instance, "" if all are affected
}

// ledger is the ledger of a case.
type ledger struct {
	s        *env
	produced map[string]produced
	dead     map[string][]*kgo.Record
	waiting  map[string][]*kgo.Record
	seen     map[string]*seen
	revoked  map[int64]bool
	pending  []string      // neither delivered nor dead
	overtook []string      // delayed first clicks whose message's second click was sent instead
	slack    time.Duration // what a busy machine adds to the time of a commit
}

// sources returns the topics to which events are written.
func (s *env) sources() []string {
	return []string{s.topics.DLR, s.topics.Click, s.topics.Inbound, s.topics.Revocation}
}

// waits returns the delay topics.
func (s *env) waits() []string {
	var all []string
	for _, source := range s.sources() {
		for _, d := range s.schedule {
			all = append(all, harness.Retry(source, d.String()))
		}
		for _, d := range overflowTiers {
			all = append(all, harness.Overflow(source, d))
		}
	}
	return all
}

// readSources returns the produced events, and fails if an acknowledged event is missing.
func (s *env) readSources(t testing.TB, acked map[string]bool) map[string]produced {
	t.Helper()
	all := map[string]produced{}
	clicked := map[[2]int64]string{}
	for _, topic := range s.sources() {
		for _, r := range harness.Consume(t, s.brokers, topic) {
			all[identity(r)] = s.read(t, r, clicked)
		}
	}
	gone := 0
	for id := range acked {
		if _, ok := all[id]; !ok {
			gone++
		}
	}
	if gone > 0 {
		t.Errorf("%d events that Kafka acknowledged are not in its topics", gone)
	}
	return all
}

func (s *env) read(t testing.TB, r *kgo.Record, clicked map[[2]int64]string) produced {
	t.Helper()
	var v struct {
		User int64 `json:"user_id"`
		SMS  struct {
			ID int64 `json:"id"`
		} `json:"sms"`
		Bot      bool    `json:"bot"`
		API      []int64 `json:"api_sms_ids"`
		Campaign []int64 `json:"campaign_sms_ids"`
	}
	if err := json.Unmarshal(r.Value, &v); err != nil {
		t.Fatalf("%s: %v", identity(r), err)
	}
	p := produced{at: r.Timestamp, record: harness.Position(r), ids: append(v.API, v.Campaign...)}
	click := [2]int64{v.User, v.SMS.ID}
	switch {
	case v.Bot:
		p.purpose = filtered
	case v.User > stranger:
		p.purpose = notConfigured
	case r.Topic == s.topics.Click && clicked[click] != "":
		p.purpose, p.first = duplicate, clicked[click]
	case r.Topic == s.topics.Click:
		clicked[click] = identity(r)
	}
	return p
}

// drain waits until every event that must be sent is delivered or dead and the group has no lag, and then for surplus
// requests. It returns the ledger, also if nothing has settled for timeout.
func (s *env) drain(t testing.TB, acked map[string]bool, timeout time.Duration) *ledger {
	t.Helper()
	b := &ledger{s: s, produced: s.readSources(t, acked)}
	adm := kadm.NewClient(harness.Client(t, s.brokers))
	fewest, progress := len(b.produced)+1, time.Now()
	for ; ; harness.Pass(300 * time.Millisecond) {
		b.readFates(t)
		lag := s.lag(adm)
		if len(b.pending) == 0 && lag == 0 {
			break
		}
		if len(b.pending) < fewest {
			fewest, progress = len(b.pending), time.Now()
		}
		if time.Since(progress) > timeout {
			t.Errorf("nothing settled for %v: %d events are neither delivered nor dead, such as %v; the group lags by %d records", timeout,
				len(b.pending), b.pending[:min(len(b.pending), 5)], lag)
			break
		}
	}
	harness.Pass(2 * time.Second)
	b.readFates(t)
	b.waiting = map[string][]*kgo.Record{}
	for _, topic := range s.waits() {
		for _, r := range harness.Consume(t, s.brokers, topic) {
			id := harness.Header(r, "smshooks-id")
			b.waiting[id] = append(b.waiting[id], r)
		}
	}
	b.seen = s.judge.events()
	return b
}

func (b *ledger) readFates(t testing.TB) {
	t.Helper()
	b.dead = map[string][]*kgo.Record{}
	deadIDs := map[int64]bool{} // of revocations: a dead batch's identity is not that of its records
	for _, r := range harness.Consume(t, b.s.brokers, b.s.topics.DeadLetter) {
		id := harness.Header(r, "smshooks-id")
		b.dead[id] = append(b.dead[id], r)
		if harness.Header(r, "smshooks-kind") == "revoke_click" {
			for _, id := range b.s.read(t, r, map[[2]int64]string{}).ids {
				deadIDs[id] = true
			}
		}
	}
	ok, revoked := b.s.judge.succeeded()
	for id := range deadIDs {
		revoked[id] = true
	}
	b.swapClicks(ok)
	b.revoked, b.pending = revoked, b.pending[:0]
	for id, p := range b.produced {
		if p.purpose == "" && !ok[id] && b.dead[id] == nil && !allIn(p.ids, revoked) {
			b.pending = append(b.pending, id)
		}
	}
}

// swapClicks exchanges the first and second click of a message if the second one was sent: while Redis is unreachable,
// clicks are delayed in overflow topics, and the one that comes due first is taken for the first.
func (b *ledger) swapClicks(ok map[string]bool) {
	fated := func(id string) bool { return ok[id] || b.dead[id] != nil }
	for second, p := range b.produced {
		if p.first == "" || !fated(second) || fated(p.first) {
			continue
		}
		first := p.first
		b.produced[second] = produced{at: p.at}
		b.produced[first] = produced{at: b.produced[first].at, purpose: duplicate, first: second}
		b.overtook = append(b.overtook, first)
	}
}

func allIn(ids []int64, set map[int64]bool) bool {
	return len(ids) > 0 && !slices.ContainsFunc(ids, func(id int64) bool { return !set[id] })
}

// lag returns the number of records that the group has not committed, -1 if it cannot be read now.
func (s *env) lag(adm *kadm.Client) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	topics := append(s.sources(), s.waits()...)
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err != nil || ends.Error() != nil {
		return -1
	}
	committed, err := adm.FetchOffsets(ctx, s.topics.Group)
	if err != nil {
		return -1
	}
	lag := int64(0)
	ends.Each(func(o kadm.ListedOffset) {
		at := int64(0)
		if c, ok := committed.Lookup(o.Topic, o.Partition); ok {
			at = max(c.At, 0)
		}
		lag += max(o.Offset-at, 0)
	})
	return lag
}

// judgement describes what a case allows.
type judgement struct {
	faults  []span    // requests that began a commit's time before these, or were in flight then, may be repeated
	why     string    // for the table
	healed  time.Time // the end of the last fault; zero if no recovery is measured
	forgets bool      // the memory of clicks was lost: a second click may be sent
}

// commitTime is how long a finished offset may stay uncommitted: the commit interval and a round trip.
const commitTime = time.Second + 500*time.Millisecond

// judge closes the ledger: it counts, writes the case's row and fails the test for every violation.
func (b *ledger) judge(t testing.TB, rec *caseRecord, may judgement) {
	t.Helper()
	b.slack = harness.Slack(b.s.judge.began)
	if lost := b.s.lost(t); len(lost) > 0 {
		may.faults = append(slices.Clone(may.faults), lost...)
		rec.note("%d times an instance lost partitions because the machine held it up", len(lost))
	}
	r := result{Produced: len(b.produced)}
	var missing, sentOnPurpose []string
	for id, p := range b.produced {
		s := b.seen[id]
		switch {
		case p.purpose != "":
			r.OnPurpose++
			if s != nil && !(may.forgets && p.purpose == duplicate) {
				sentOnPurpose = append(sentOnPurpose, id+" ("+p.purpose+")")
			}
		case s != nil && s.ok || allIn(p.ids, b.revoked):
			r.Delivered++ // dead batches of revocations are subtracted below
		case b.dead[id] != nil:
			r.Dead++
		case len(b.waiting[id]) > 0:
			r.Waiting++
		default:
			missing = append(missing, id)
		}
	}
	for _, first := range b.overtook {
		if len(b.waiting[first]) == 0 {
			t.Errorf("%s was never delayed, but the second click of its message was sent", first)
		}
	}
	if len(b.overtook) > 0 {
		rec.note("%d second clicks of a message were sent in place of the first, which waited in a topic", len(b.overtook))
	}
	b.deadRevocations(t, &r)
	r.Missing = len(missing)
	again, unexplained := b.again(may)
	revokedAgain, unexplainedRevoked := b.revokedAgain(may)
	unexplained = append(append(unexplained, unexplainedRevoked...), b.givenUpAgain(may)...)
	r.Duplicates, r.Unexplained = again+revokedAgain, len(unexplained)
	beyond, early := b.beyond(), b.early(may)
	r.Beyond, r.Early = len(beyond), len(early)
	if !may.healed.IsZero() {
		r.Recovery = b.recovery(may.healed)
	}
	rec.set(func(to *result) {
		to.Produced, to.Delivered, to.Dead, to.Waiting, to.OnPurpose = r.Produced, r.Delivered, r.Dead, r.Waiting, r.OnPurpose
		to.Missing, to.Duplicates, to.Unexplained, to.Beyond, to.Early = r.Missing, r.Duplicates, r.Unexplained, r.Beyond, r.Early
		to.Why, to.Recovery = may.why, r.Recovery
	})
	for what, ids := range map[string][]string{
		"missing": missing, "repeated or given up again without a reason": unexplained, "beyond the third attempt": beyond, "early": early,
		"sent but should not be": sentOnPurpose, "given up without three failed attempts": b.deadTooSoon(),
	} {
		if len(ids) > 0 {
			t.Errorf("%d %s, such as %v", len(ids), what, ids[:min(len(ids), 5)])
		}
	}
	if r.Delivered == 0 {
		t.Error("nothing was delivered: the case is meaningless")
	}
}

// deadRevocations moves revocations whose batch is dead from the delivered to the dead.
func (b *ledger) deadRevocations(t testing.TB, r *result) {
	t.Helper()
	_, delivered := b.s.judge.succeeded()
	for id, p := range b.produced {
		if len(p.ids) > 0 && b.seen[id] == nil && b.dead[id] == nil && allIn(p.ids, b.revoked) && !allIn(p.ids, delivered) {
			r.Delivered--
			r.Dead++
		}
	}
}

// again returns the number of repeated requests and describes the unexplained ones.
func (b *ledger) again(may judgement) (n int, unexplained []string) {
	for id, s := range b.seen {
		first := map[int32]hit{}
		repeated := false
		delivered := false
		for _, h := range s.hits {
			f, twice := first[h.attempt]
			if !twice {
				first[h.attempt] = h
				if delivered && !repeated {
					n++
					unexplained = append(unexplained, fmt.Sprintf("%s attempt %d after it was delivered", id, h.attempt))
				}
				delivered = delivered || h.ok
				continue
			}
			n++
			// an event whose first attempt was repeated may have been stored twice for its second
			if !repeated && !b.explained(f, may.faults) && !b.storedTwice(id, int(h.attempt)-1, may.faults) {
				unexplained = append(unexplained, fmt.Sprintf("%s attempt %d, ended %v before the next fault, and again %v later", id, h.attempt,
					b.ahead(f, may.faults), h.start-f.start))
			}
			repeated, delivered = true, delivered || h.ok
		}
	}
	slices.Sort(unexplained)
	return n, unexplained
}

// revokedAgain returns the number of ids that were sent again in a batch with another identity, and describes the
// unexplained ones. Records that are read again are put into new batches.
func (b *ledger) revokedAgain(may judgement) (n int, unexplained []string) {
	j := b.s.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	for id, hits := range j.revoked {
		batches := map[string]bool{}
		for _, at := range hits {
			batches[j.names[j.hits[at].id]] = true
		}
		if len(batches) == 1 {
			continue
		}
		n += len(batches) - 1
		why := false
		for batch := range batches {
			why = why || b.storedTwice(batch, -1, may.faults) ||
				slices.ContainsFunc(b.seen[batch].hits, func(h hit) bool { return b.explained(h, may.faults) })
		}
		if !why {
			unexplained = append(unexplained, fmt.Sprintf("revoked id %d in %d batches", id, len(batches)))
		}
	}
	return n, unexplained
}

// givenUpAgain describes events with two dead letters, or with one although they were delivered or must not be sent, if
// neither a fault nor a repeated attempt explains it.
func (b *ledger) givenUpAgain(may judgement) (ids []string) {
	for id, letters := range b.dead {
		repeated := false
		var s seen
		if b.seen[id] != nil {
			s = *b.seen[id]
		}
		attempts := map[int32]bool{}
		for _, h := range s.hits {
			repeated = repeated || attempts[h.attempt]
			attempts[h.attempt] = true
		}
		inFault := slices.ContainsFunc(letters, func(r *kgo.Record) bool {
			at := r.Timestamp.Sub(b.s.judge.began)
			return b.explained(hit{start: at, end: at}, may.faults)
		})
		switch {
		case b.produced[id].purpose != "":
			ids = append(ids, fmt.Sprintf("%s (%s) is a dead letter", id, b.produced[id].purpose))
		case len(letters) > 1 && !repeated && !inFault:
			ids = append(ids, fmt.Sprintf("%s has %d dead letters", id, len(letters)))
		case s.ok && !repeated:
			ids = append(ids, id+" is delivered and a dead letter")
		}
	}
	return ids
}

// explained reports whether a request fell into a fault of its instance, or into the time before it that may not have
// been committed. A hit of an unknown instance may be of any.
func (b *ledger) explained(h hit, faults []span) bool {
	start := b.s.judge.began.Add(h.start)
	return slices.ContainsFunc(faults, func(f span) bool {
		from, to := f.from.Add(-commitTime-b.slack), f.to.Add(500*time.Millisecond)
		end := b.s.judge.began.Add(h.end)
		if f.by != "" && h.by != "" && f.by != h.by {
			return false
		}
		return h.end == 0 && start.Before(to) || end.After(from) && start.Before(to)
	})
}

// storedTwice reports whether an event was stored in a delay topic, after that number of attempts, so shortly before a
// fault that its offset may not have been committed. It is then both in that topic and read again, and attempted twice
// later. attempts -1 is any number. The instance that stored it is the one that made its last attempt.
func (b *ledger) storedTwice(id string, attempts int, faults []span) bool {
	return slices.ContainsFunc(b.waiting[id], func(r *kgo.Record) bool {
		n, err := strconv.Atoi(harness.Header(r, "smshooks-attempts"))
		if err != nil || attempts >= 0 && n != attempts {
			return false
		}
		at := r.Timestamp.Sub(b.s.judge.began)
		stored := hit{start: at, end: at}
		if s := b.seen[id]; s != nil {
			for _, h := range s.hits {
				if int(h.attempt) == n && h.start < at {
					stored.by = h.by
				}
			}
		}
		return b.explained(stored, faults)
	})
}

// ahead returns how long before the next fault a request had ended.
func (b *ledger) ahead(h hit, faults []span) time.Duration {
	end, next := b.s.judge.began.Add(h.end), time.Duration(-1)
	for _, f := range faults {
		if d := f.from.Sub(end); d > 0 && (next < 0 || d < next) {
			next = d
		}
	}
	return next.Round(time.Millisecond)
}

// deadTooSoon describes events that were given up before all their attempts had failed.
func (b *ledger) deadTooSoon() (ids []string) {
	attempts := len(b.s.schedule) + 1
	for id, letters := range b.dead {
		made := map[int32]bool{}
		if s := b.seen[id]; s != nil {
			for _, h := range s.hits {
				made[h.attempt] = made[h.attempt] || !h.ok
			}
		}
		failed := 0
		for n := range attempts {
			if made[int32(n)+1] {
				failed++
			}
		}
		for _, r := range letters {
			reason, said := harness.Header(r, "smshooks-reason"), harness.Header(r, "smshooks-attempts")
			if reason != "attempts_exhausted" || said != strconv.Itoa(attempts) || failed != attempts {
				ids = append(ids, fmt.Sprintf("%s (%s, attempts %s; %d seen to fail)", id, reason, said, failed))
			}
		}
	}
	return ids
}

// beyond describes attempts with wrong numbers.
func (b *ledger) beyond() (ids []string) {
	for id, s := range b.seen {
		for _, h := range s.hits {
			if h.attempt < 1 || int(h.attempt) > len(b.s.schedule)+1 {
				ids = append(ids, fmt.Sprintf("%s attempt %d", id, h.attempt))
			}
		}
	}
	return ids
}

// early describes attempts that were made before they were due, by the schedule from the end of the previous one and by
// the due time in their records' headers. An attempt may be made by another instance than the one that wrote its due
// time.
func (b *ledger) early(may judgement) (ids []string) {
	for id, s := range b.seen {
		ended := map[int32]time.Duration{} // the earliest end of each attempt
		times := map[int32]int{}
		for _, h := range s.hits {
			if e, ok := ended[h.attempt]; h.end != 0 && (!ok || h.end < e) {
				ended[h.attempt] = h.end
			}
		}
		for _, h := range s.hits {
			times[h.attempt]++
			before, ok := ended[h.attempt-1]
			if h.attempt > 1 && ok && int(h.attempt)-2 < len(b.s.schedule) && h.start < before+b.s.schedule[h.attempt-2]-harness.Clocks {
				ids = append(ids, fmt.Sprintf("%s attempt %d, %v after the one before", id, h.attempt, h.start-before))
				continue
			}
			// by the header, unless the attempt may also come from a record that was read again
			due, stored := b.due(id, int(h.attempt)-1)
			if stored && times[h.attempt-1] <= 1 && len(may.faults) == 0 && b.s.judge.began.Add(h.start).Before(due.Add(-harness.Clocks)) {
				ids = append(ids, fmt.Sprintf("%s attempt %d, due at %v", id, h.attempt, due))
			}
		}
	}
	return ids
}

// due returns the earliest due time of an event's delayed records with that number of attempts.
func (b *ledger) due(id string, attempts int) (due time.Time, stored bool) {
	for _, r := range b.waiting[id] {
		n, _ := strconv.Atoi(harness.Header(r, "smshooks-attempts"))
		at, err := time.Parse(time.RFC3339, harness.Header(r, "smshooks-due"))
		if n == attempts && err == nil && (!stored || at.Before(due)) {
			due, stored = at, true
		}
	}
	return due, stored
}

// recovery returns how long after the end of the fault a first attempt was last more than a second behind its event.
func (b *ledger) recovery(healed time.Time) time.Duration {
	var last time.Time
	for id, s := range b.seen {
		p, ok := b.produced[id]
		if !ok || len(s.hits) == 0 || len(p.ids) > 0 {
			continue
		}
		start := b.s.judge.began.Add(s.hits[0].start)
		if start.Sub(p.at) > time.Second && start.After(last) {
			last = start
		}
	}
	return max(last.Sub(healed), 0)
}

// delays returns the median and the 99th percentile of the delays of first attempts.
func (b *ledger) delays() (p50, p99, worst time.Duration) {
	var all []time.Duration
	for id, s := range b.seen {
		if p, ok := b.produced[id]; ok && len(s.hits) > 0 && len(p.ids) == 0 {
			all = append(all, b.s.judge.began.Add(s.hits[0].start).Sub(p.at))
		}
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
}

// wantPurposes compares the fates that instances counted with the expected ones. It is valid only if no instance was
// killed and nothing was read again.
func (b *ledger) wantPurposes(t testing.TB, members ...*harness.Proc) {
	t.Helper()
	want := map[string]float64{notConfigured: 0, filtered: 0, duplicate: 0}
	for _, p := range b.produced {
		if p.purpose != "" {
			want[p.purpose]++
		}
	}
	got := map[string]float64{}
	for _, p := range members {
		m := p.Metrics(t)
		for fate := range want {
			got[fate] += m.Sum("smshooks_settled_total", "fate", fate)
		}
		if consumed, settled := m.Ledger(); consumed != settled {
			t.Errorf("%v records consumed, %v settled", consumed, settled)
		}
	}
	for fate, n := range want {
		if got[fate] != n {
			t.Errorf("%v events settled as %s, want %v", got[fate], fate, n)
		}
	}
}
