package faults_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestLedgerSees checks that the ledger reports each fault, and nothing else.
func TestLedgerSees(t *testing.T) {
	began := time.Now()
	s := &env{judge: &judge{began: began}, schedule: []time.Duration{time.Second, 2 * time.Second}}
	try := func(attempt int32, start, end time.Duration, ok bool) hit {
		return hit{attempt: attempt, start: start, end: end, ok: ok}
	}
	const sec = time.Second
	header := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	waits := &kgo.Record{Headers: []kgo.RecordHeader{header("smshooks-attempts", "1"), header("smshooks-due", began.Add(9*sec).Format(time.RFC3339Nano))}}
	storedAfter := func(attempts int, after time.Duration) []*kgo.Record {
		return []*kgo.Record{{Timestamp: began.Add(after), Headers: []kgo.RecordHeader{header("smshooks-attempts", strconv.Itoa(attempts))}}}
	}
	stored := func(after time.Duration) []*kgo.Record { return storedAfter(0, after) }
	crash := []span{{from: began.Add(5 * sec), to: began.Add(5 * sec)}}
	others := []span{{crash[0].from, crash[0].to, "b"}}
	by := func(agent string, h hit) hit {
		h.by = agent
		return h
	}
	twice := []hit{try(1, 20*sec, 20*sec+1, true), try(1, 29*sec, 29*sec+1, true)}
	for name, c := range map[string]struct {
		hits                             []hit
		waiting                          []*kgo.Record
		faults                           []span
		again, unexplained, early, wrong int
	}{
		"stored at a crash":          {hits: twice, waiting: stored(4 * sec), faults: crash, again: 1},
		"stored long before a crash": {hits: twice, waiting: stored(2 * sec), faults: crash, again: 1, unexplained: 1},
		"stored at another's crash":  {hits: []hit{by("a", try(1, 4*sec, 4*sec+1, false)), try(2, 20*sec, 21*sec, true), try(2, 29*sec, 30*sec, true)}, waiting: storedAfter(1, 4*sec+2), faults: others, again: 1, unexplained: 1},
		"stored at its crash":        {hits: []hit{by("b", try(1, 4*sec, 4*sec+1, false)), try(2, 20*sec, 21*sec, true), try(2, 29*sec, 30*sec, true)}, waiting: storedAfter(1, 4*sec+2), faults: others, again: 1},
		"before another's crash":     {hits: []hit{by("a", try(1, 4*sec, 4*sec+1, true)), by("a", try(1, 9*sec, 9*sec+1, true))}, faults: others, again: 1, unexplained: 1},
		"before its crash":           {hits: []hit{by("b", try(1, 4*sec, 4*sec+1, true)), by("a", try(1, 9*sec, 9*sec+1, true))}, faults: others, again: 1},
		"once":                       {hits: []hit{try(1, 0, 1, true)}},
		"in time":                    {hits: []hit{try(1, 0, 1, false), try(2, sec+1, sec+2, false), try(3, 3*sec+2, 3*sec+3, true)}},
		"early":                      {hits: []hit{try(1, 0, 1, false), try(2, sec/2, sec, true)}, early: 1},
		"third one":                  {hits: []hit{try(1, 0, 1, false), try(2, sec+1, sec+2, false), try(3, 2*sec, 3*sec, true)}, early: 1},
		"by header":                  {hits: []hit{try(1, 0, 1, false), try(2, 5*sec, 6*sec, true)}, waiting: []*kgo.Record{waits}, early: 1},
		"beyond":                     {hits: []hit{try(4, 0, 1, true)}, wrong: 1},
		"unnumbered":                 {hits: []hit{try(0, 0, 1, true)}, wrong: 1},
		"twice":                      {hits: []hit{try(1, 0, 1, true), try(1, sec, sec+1, true)}, again: 1, unexplained: 1},
		"repeated after success":     {hits: []hit{try(1, 0, 1, true), try(2, 2*sec, 3*sec, true)}, again: 1, unexplained: 1},
		"in flight at a crash":       {hits: []hit{try(1, sec, 0, false), try(1, 9*sec, 9*sec+1, true)}, faults: crash, again: 1},
		"before a crash":             {hits: []hit{try(1, 4*sec, 4*sec+1, true), try(1, 9*sec, 9*sec+1, true)}, faults: crash, again: 1},
		"long before a crash":        {hits: []hit{try(1, sec, sec+1, true), try(1, 9*sec, 9*sec+1, true)}, faults: crash, again: 1, unexplained: 1},
		"after a crash":              {hits: []hit{try(1, 7*sec, 7*sec+1, true), try(1, 9*sec, 9*sec+1, true)}, faults: crash, again: 1, unexplained: 1},
	} {
		b := &ledger{s: s, seen: map[string]*seen{"x/0/0": {hits: c.hits}}, waiting: map[string][]*kgo.Record{"x/0/0": c.waiting}}
		may := judgement{faults: c.faults}
		again, unexplained := b.again(may)
		early, wrong := b.early(may), b.beyond()
		if again != c.again || len(unexplained) != c.unexplained || len(early) != c.early || len(wrong) != c.wrong {
			t.Errorf("%s: again %d, unexplained %v, early %v, beyond %v; want %d, %d, %d, %d", name, again, unexplained, early, wrong,
				c.again, c.unexplained, c.early, c.wrong)
		}
	}
}

// TestLedgerMisses checks that an event without a fate counts as missing and fails the test.
func TestLedgerMisses(t *testing.T) {
	j := &judge{began: time.Now(), numbers: map[string]int32{}, revoked: map[int64][]int{7: {0}}, names: []string{"t/0/5"}, hits: make([]hit, 1)}
	ok := &seen{hits: []hit{{attempt: 1, ok: true, end: 1}}, ok: true}
	b := &ledger{
		s: &env{judge: j, schedule: []time.Duration{time.Second}},
		produced: map[string]produced{
			"t/0/0": {}, "t/0/1": {}, "t/0/2": {purpose: filtered}, "t/0/3": {}, "t/0/4": {}, "t/0/5": {ids: []int64{7}}, "t/0/6": {ids: []int64{7, 8}},
		},
		seen: map[string]*seen{"t/0/0": ok}, dead: map[string][]*kgo.Record{"t/0/3": {{}}}, waiting: map[string][]*kgo.Record{"t/0/4": {{}}},
		revoked: map[int64]bool{7: true},
	}
	failing := &mute{TB: t}
	rec := &caseRecord{t: failing}
	b.judge(failing, rec, judgement{})
	r := rec.r
	if r.Produced != 7 || r.Delivered != 2 || r.Dead != 1 || r.Waiting != 1 || r.OnPurpose != 1 || r.Missing != 2 || !failing.failed {
		t.Errorf("%+v, failed %v; want 7 produced, 2 delivered, 1 dead, 1 waiting, 1 on purpose, 2 missing, failed", r, failing.failed)
	}
}

// mute is a test that only records its failures.
type mute struct {
	testing.TB
	failed bool
}

func (m *mute) Errorf(string, ...any) { m.failed = true }
func (m *mute) Error(...any)          { m.failed = true }

// TestLedgerSwaps checks that the second click of a message may be sent in place of a delayed first one, but not in
// place of one that was never delayed, nor in addition to it.
func TestLedgerSwaps(t *testing.T) {
	for name, c := range map[string]struct {
		ok     map[string]bool
		waited bool
		fails  bool
	}{
		"first":    {map[string]bool{"c/0/0": true}, false, false},
		"second":   {map[string]bool{"c/0/1": true}, true, false},
		"overtook": {map[string]bool{"c/0/1": true}, false, true},
		"both":     {map[string]bool{"c/0/0": true, "c/0/1": true}, true, true},
		"neither":  {map[string]bool{}, false, true},
	} {
		j := &judge{began: time.Now(), numbers: map[string]int32{}}
		b := &ledger{
			s:        &env{judge: j, schedule: []time.Duration{time.Second}},
			produced: map[string]produced{"c/0/0": {}, "c/0/1": {purpose: duplicate, first: "c/0/0"}, "x/0/0": {}},
			seen:     map[string]*seen{"x/0/0": {hits: []hit{{attempt: 1, ok: true, end: 1}}, ok: true}},
			waiting:  map[string][]*kgo.Record{},
		}
		for id := range c.ok {
			b.seen[id] = &seen{hits: []hit{{attempt: 1, ok: true, end: 1}}, ok: true}
		}
		if c.waited {
			b.waiting["c/0/0"] = []*kgo.Record{{}}
		}
		b.swapClicks(c.ok)
		failing := &mute{TB: t}
		b.judge(failing, &caseRecord{t: failing}, judgement{})
		if failing.failed != c.fails {
			t.Errorf("%s: failed %v, want %v", name, failing.failed, c.fails)
		}
	}
}

// TestLedgerTwice checks that the ledger reports an event that was given up twice or after its delivery, and an id
// revoked in two batches, unless a fault explains it.
func TestLedgerTwice(t *testing.T) {
	began := time.Now()
	const sec = time.Second
	letter := func(after time.Duration) *kgo.Record { return &kgo.Record{Timestamp: began.Add(after)} }
	once := &seen{hits: []hit{{attempt: 1, start: sec, end: sec + 1, ok: true, by: "a"}}, ok: true}
	later := &seen{hits: []hit{{id: 1, attempt: 1, start: 9 * sec, end: 9*sec + 1, ok: true, by: "b"}}, ok: true}
	failed := &seen{hits: []hit{{attempt: 3, start: sec, end: sec + 1}}}
	repeated := &seen{hits: []hit{{attempt: 1, start: sec, end: sec + 1}, {attempt: 1, start: 2 * sec, end: 2*sec + 1, ok: true}}, ok: true}
	crash := []span{{from: began.Add(2 * sec), to: began.Add(2 * sec), by: "a"}}
	for name, c := range map[string]struct {
		produced    produced
		seen        *seen
		dead        []*kgo.Record
		revoked     []int
		faults      []span
		again       int
		unexplained int
	}{
		"dead":                      {seen: failed, dead: []*kgo.Record{letter(sec)}},
		"dead twice":                {seen: failed, dead: []*kgo.Record{letter(sec), letter(9 * sec)}, unexplained: 1},
		"dead twice, crash":         {seen: failed, dead: []*kgo.Record{letter(sec), letter(9 * sec)}, faults: crash},
		"dead twice, early":         {seen: failed, dead: []*kgo.Record{letter(5 * sec), letter(9 * sec)}, faults: crash, unexplained: 1},
		"delivered and dead":        {seen: once, dead: []*kgo.Record{letter(9 * sec)}, unexplained: 1},
		"delivered and dead, twice": {seen: repeated, dead: []*kgo.Record{letter(9 * sec)}},
		"not to be sent, and dead":  {produced: produced{purpose: filtered}, dead: []*kgo.Record{letter(sec)}, unexplained: 1},
		"revoked":                   {seen: once, revoked: []int{0}},
		"revoked twice by a batch":  {seen: once, revoked: []int{0, 0}}, // again() counts it
		"revoked twice":             {seen: once, revoked: []int{0, 1}, again: 1, unexplained: 1},
		"revoked twice, crash":      {seen: once, revoked: []int{0, 1}, faults: crash, again: 1},
	} {
		j := &judge{began: began, names: []string{"r/0/0", "r/0/1"}, hits: []hit{once.hits[0], later.hits[0]}, revoked: map[int64][]int{}}
		b := &ledger{
			s: &env{judge: j}, produced: map[string]produced{"r/0/0": c.produced}, seen: map[string]*seen{"r/0/1": later},
			dead: map[string][]*kgo.Record{},
		}
		if c.seen != nil {
			b.seen["r/0/0"] = c.seen
		}
		if c.dead != nil {
			b.dead["r/0/0"] = c.dead
		}
		if c.revoked != nil {
			j.revoked[7] = c.revoked
		}
		may := judgement{faults: c.faults}
		again, unexplained := b.revokedAgain(may)
		unexplained = append(unexplained, b.givenUpAgain(may)...)
		if again != c.again || len(unexplained) != c.unexplained {
			t.Errorf("%s: again %d, unexplained %v; want %d, %d", name, again, unexplained, c.again, c.unexplained)
		}
	}
}

// TestLedgerDeadTooSoon checks that an event may be given up only after all its attempts were seen to fail.
func TestLedgerDeadTooSoon(t *testing.T) {
	letter := func(reason, attempts string) *kgo.Record {
		return &kgo.Record{Headers: []kgo.RecordHeader{{Key: "smshooks-reason", Value: []byte(reason)}, {Key: "smshooks-attempts", Value: []byte(attempts)}}}
	}
	tries := func(ok bool, numbers ...int32) *seen {
		s := &seen{}
		for _, n := range numbers {
			s.hits = append(s.hits, hit{attempt: n, ok: ok})
		}
		return s
	}
	const exhausted = "attempts_exhausted"
	for name, c := range map[string]struct {
		seen   *seen
		letter *kgo.Record
		soon   bool
	}{
		"three times":    {tries(false, 1, 2, 3), letter(exhausted, "3"), false},
		"one again":      {tries(false, 1, 1, 2, 3), letter(exhausted, "3"), false},
		"once":           {tries(false, 1), letter(exhausted, "1"), true},
		"says three":     {tries(false, 1, 2), letter(exhausted, "3"), true},
		"says two":       {tries(false, 1, 2, 3), letter(exhausted, "2"), true},
		"expired":        {tries(false, 1), letter("window_expired", "1"), true},
		"invalid":        {nil, letter("invalid_record", "0"), true},
		"never":          {nil, letter(exhausted, "3"), true},
		"with a success": {tries(true, 1, 2, 3), letter(exhausted, "3"), true},
	} {
		b := &ledger{
			s: &env{schedule: []time.Duration{time.Second, time.Second}}, dead: map[string][]*kgo.Record{"x/0/0": {c.letter}}, seen: map[string]*seen{},
		}
		if c.seen != nil {
			b.seen["x/0/0"] = c.seen
		}
		if ids := b.deadTooSoon(); (len(ids) > 0) != c.soon {
			t.Errorf("%s: %v, want too soon = %v", name, ids, c.soon)
		}
	}
}
