package real_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// explained is the output of explain.
type explained struct {
	ID          string  `json:"id"`
	UserID      int64   `json:"user_id"`
	Kind        string  `json:"kind"`
	MessageID   *string `json:"message_id"`
	EventTime   *string `json:"event_time"`
	State       string  `json:"state"`
	Attempts    int     `json:"attempts"`
	NextAttempt *string `json:"next_attempt"`
	Error       *string `json:"error"`
	Copies      []struct {
		Topic     string  `json:"topic"`
		Partition int32   `json:"partition"`
		Offset    int64   `json:"offset"`
		Time      string  `json:"time"`
		Due       *string `json:"due"`
		Committed bool    `json:"committed"`
	} `json:"copies"`
}

// explain runs the command and returns what it printed, and how long it took.
func (e *env) explain(t testing.TB, args ...string) (list []explained, took time.Duration) {
	t.Helper()
	began := time.Now()
	out, stderr, code := harness.Run(t, e.options(), append([]string{"explain", "--json"}, args...)...)
	took = time.Since(began)
	if code == 1 && strings.Contains(stderr, "nothing found") {
		return nil, took
	}
	if code != 0 {
		t.Fatalf("explain %v: exit code %d: %s", args, code, stderr)
	}
	if strings.HasPrefix(out, "{") {
		out = "[" + out + "]"
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("explain %v printed %q: %v", args, out, err)
	}
	return list, took
}

// TestExplainMillion searches a partition with 1,000,000 records, like those of a day. internal/explain has the test that
// no other partition is read.
func TestExplainMillion(t *testing.T) {
	harness.Need(t)
	const records, chunk = 1_000_000, 50_000
	e := newEnv(t)
	for first := int64(0); first < records; first += chunk {
		batch := make([]*kgo.Record, chunk)
		for i := range batch {
			sms := first + int64(i)
			batch[i] = harness.Event(e.topics.DLR, 40+sms%10, harness.DLRValue(40+sms%10, 100_000_000+sms))
			batch[i].Partition = 0
		}
		harness.ProduceMany(t, e.kafka.Addr, batch)
	}
	user := int64(43) // one of the ten whose key belongs to the partition
	wanted := harness.Event(e.topics.DLR, user, harness.DLRValue(user, 777_777_777))
	wanted.Partition = 0
	e.emit(t, wanted)
	began, byID, byMessage := time.Now(), time.Hour, time.Hour
	for range 3 {
		found, took := e.explain(t, identity(wanted))
		byID = min(byID, took)
		if len(found) != 1 || found[0].ID != identity(wanted) || found[0].State != "pending" {
			t.Errorf("by id: %+v", found)
		}
		found, took = e.explain(t, "--user", strconv.FormatInt(user, 10), "--message", "777777777")
		if len(found) != 1 || found[0].ID != identity(wanted) || len(found[0].Copies) != 1 || found[0].Copies[0].Offset != wanted.Offset {
			t.Errorf("by message: %+v", found)
		}
		byMessage = min(byMessage, took)
	}
	t.Logf("the fastest of three: by id %v, by message %v", byID, byMessage)
	if limit := 2*time.Second + harness.Slack(began); max(byID, byMessage) > limit {
		t.Errorf("explain takes longer than %v", limit)
	}
}

// TestExplain follows events that the commands send.
func TestExplain(t *testing.T) {
	harness.Need(t)
	e := newEnv(t, "--retry.schedule=1h,1h")
	const good, bad = 11, 12
	e.configure(t, map[int64]harness.Webhook{good: e.all(good, ""), bad: e.all(bad, "")})
	e.recv.On(path("dlr", bad), harness.Status(503))
	e.serve(t)
	send := func(args ...string) (ids, positions []string) {
		t.Helper()
		out, stderr, code := harness.Run(t, e.options(), append([]string{"send"}, args...)...)
		if code != 0 {
			t.Fatalf("send %v: exit code %d: %s", args, code, stderr)
		}
		for line := range strings.Lines(out) {
			id, position, _ := strings.Cut(strings.TrimSpace(line), " ")
			ids, positions = append(ids, id), append(positions, position)
		}
		return ids, positions
	}
	state := func(want string, attempts int, args ...string) explained {
		t.Helper()
		var found []explained
		harness.Eventually(t, harness.Patience, func() bool {
			found, _ = e.explain(t, args...)
			return len(found) == 1 && found[0].State == want && found[0].Attempts == attempts && found[0].Copies[0].Committed
		}, "explain %v prints %s", args, want)
		return found[0]
	}
	ids, positions := send("--user", strconv.Itoa(good), "--count", "3", "--rate", "100")
	if len(ids) != 3 {
		t.Fatalf("sent %v", ids)
	}
	for _, r := range e.recv.WaitCount(t, path("dlr", good), 3, harness.Patience) {
		if id := r.Header.Get("Webhook-Id"); !slices.Contains(ids, id) {
			t.Errorf("received %s, sent %v", id, ids)
		}
	}
	event := state("delivered", 1, ids[1])
	if event.ID != ids[1] || event.UserID != good || event.Kind != "dlr" || event.NextAttempt != nil || event.Error != nil || len(event.Copies) != 1 {
		t.Errorf("delivered: %+v", event)
	}
	if byPosition := state("delivered", 1, positions[1]); byPosition.ID != ids[1] {
		t.Errorf("by position: %+v", byPosition)
	}
	if byMessage := state("delivered", 1, "--user", strconv.Itoa(good), "--message", *event.MessageID); byMessage.ID != ids[1] {
		t.Errorf("by message: %+v", byMessage)
	}
	ids, _ = send("--user", strconv.Itoa(bad))
	event = state("waiting", 1, ids[0])
	if event.NextAttempt == nil || event.Error == nil || *event.Error != "http 503" || len(event.Copies) != 2 || event.Copies[1].Due == nil ||
		*event.Copies[1].Due != *event.NextAttempt || event.Copies[1].Committed || event.Copies[1].Topic != harness.Retry(e.topics.DLR, "1h") {
		t.Errorf("waiting: %+v", event)
	}
	old := e.dlr(good, 999)
	old.Timestamp = time.Now().Add(-48 * time.Hour)
	e.emit(t, old)
	if event = state("dead", 0, identity(old)); len(event.Copies) != 2 || event.Copies[1].Topic != e.topics.DeadLetter || event.Copies[1].Committed {
		t.Errorf("dead: %+v", event)
	}
	ids, _ = send("--user", strconv.Itoa(good), "--kind", "revoke_click")
	if event = state("delivered", 1, ids[0]); event.Kind != "revoke_click" || event.UserID != good || event.MessageID != nil {
		t.Errorf("revocation: %+v", event)
	}
	file := filepath.Join(t.TempDir(), "record.json")
	if err := os.WriteFile(file, []byte(harness.InboundValue(99, 4711)), 0o600); err != nil {
		t.Fatal(err)
	}
	ids, _ = send("--user", strconv.Itoa(good), "--kind", "inbound", "--file", file)
	if event = state("delivered", 1, ids[0]); event.Kind != "inbound" || event.UserID != good || event.MessageID == nil || *event.MessageID != "4711" {
		t.Errorf("from a file: %+v", event)
	}
	for _, c := range []struct {
		line string
		code int
	}{{"explain evt_0000000000000000000000", 1}, {"explain --user 11 --message nothing", 1}, {"explain", 2}, {"explain --user 11", 2}} {
		out, stderr, code := harness.Run(t, e.options(), strings.Fields(c.line)...)
		if code != c.code || out != "" || stderr == "" {
			t.Errorf("%s: exit code %d, want %d; printed %q and %q", c.line, code, c.code, out, stderr)
		}
	}
	out, _, code := harness.Run(t, e.options(), "explain", identity(old))
	if code != 0 || strings.Contains(out, "4790000000") || !strings.Contains(out, "********00") {
		t.Errorf("the table, exit code %d:\n%s", code, out)
	}
}
