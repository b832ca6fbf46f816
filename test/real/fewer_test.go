package real_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestSeeAfterFewerPartitions creates a source with fewer partitions again. Events of the partitions that are gone stay
// in the log: their source records are not in the topic any more, which is no outage.
func TestSeeAfterFewerPartitions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	key := e.newKey(t, 1)
	p := e.serve(t)
	r := e.dlr(1, 5)
	r.Partition = 1
	e.emit(t, r)
	get := "/v1/user/events/" + identity(r)
	harness.Eventually(t, harness.Patience, func() bool { return ask(t, p, http.MethodGet, key, get, "", nil) == http.StatusOK }, "the event is in the log")
	if code := p.Term(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	adm := kadm.NewClient(harness.Client(t, e.kafka.Addr))
	listed, err := adm.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var old []string
	for _, name := range listed.Names() {
		if strings.HasPrefix(name, e.topics.DLR) {
			old = append(old, name)
		}
	}
	if _, err := adm.DeleteTopics(t.Context(), old...); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		listed, err := adm.ListTopics(context.Background())
		return err == nil && !listed.Has(e.topics.DLR)
	}, "the topic is deleted")
	e.flags = append(e.flags, "--topics.partitions=1")
	e.ensure(t)
	p = e.serve(t)
	kept := e.dlr(1, 6)
	e.emit(t, kept)
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodGet, key, "/v1/user/events/"+identity(kept), "", nil) == http.StatusOK
	}, "the new event is in the log")

	var event struct {
		State   string
		Request any
	}
	if status := ask(t, p, http.MethodGet, key, get, "", &event); status != http.StatusOK || event.State != "delivered" || event.Request != nil {
		t.Errorf("the event of a partition that is gone: %d %+v", status, event)
	}
	var reply struct{ Replayed int }
	ids := "ids=" + identity(r) + "," + identity(kept)
	if status := ask(t, p, http.MethodPost, key, "/v1/user/replay", ids, &reply); status != http.StatusOK || reply.Replayed != 1 {
		t.Errorf("replay of it and of one whose record is there: %d, %d replayed", status, reply.Replayed)
	}
}
