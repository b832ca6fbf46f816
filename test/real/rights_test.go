package real_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestRightsRevoked runs the service with the least rights, revokes some and grants them again. /readyz must report it
// before anything fails, one line must be logged when it begins and one when it ends, and nothing may be lost.
func TestRightsRevoked(t *testing.T) {
	t.Parallel()
	b := harness.GuardedKafka(t)
	e := &env{topics: harness.TopicsFor(t), kafka: b.Broker, redis: harness.Redis(t)}
	e.begin(t, nil)
	n := e.topics
	sources := []string{n.DLR, n.Click, n.Inbound, n.Revocation}
	var delays []string
	for _, source := range sources {
		for _, d := range []string{"-retry-1s", "-retry-2s", "-overflow-1s", "-overflow-3s", "-overflow-10s", "-overflow-0s", "-paused-24h"} {
			delays = append(delays, source+d)
		}
	}
	b.Grant(t, append(sources, n.Keys), kadm.OpRead, kadm.OpDescribeConfigs)
	b.Grant(t, append(delays, n.Config, n.DeadLetter, n.Events, n.Releases), kadm.OpRead, kadm.OpWrite, kadm.OpDescribeConfigs)
	b.GrantGroup(t, n.Group)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On(path("dlr", 2), firstFails())
	p := e.serve(t, b.Flags()...)
	e.emit(t, e.dlr(1, 1))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)

	outages := []struct {
		topic string
		right kadm.ACLOperation
		says  string
		emit  *kgo.Record
		path  string
		want  int
	}{
		{n.Config, kadm.OpRead, "lacks the Read right", e.dlr(1, 4), path("dlr", 1), 2},
		{n.DLR + "-retry-1s", kadm.OpWrite, "lacks the Write right", e.dlr(2, 2), path("dlr", 2), 2},
		{n.DLR, kadm.OpRead, "lacks the Read right", e.dlr(1, 3), path("dlr", 1), 3},
	}
	for _, c := range outages {
		b.Deprive(t, []string{c.topic}, c.right)
		harness.Eventually(t, harness.Patience, func() bool {
			return strings.Contains(readyz(p), "topics: topic "+c.topic+": this user "+c.says)
		}, "/readyz names %s and its right", c.topic)
		e.emit(t, c.emit)
		harness.Pass(6 * time.Second) // for it to fail more than once
		b.Grant(t, []string{c.topic}, c.right)
		p.WaitReady(t, harness.Patience)
		e.recv.WaitCount(t, c.path, c.want, harness.Patience)
	}
	p.WaitLog(t, harness.Patience, "the topic is read again")
	for line, most := range map[string]int{
		"cannot fetch": 2, "cannot read the topic": 1, "cannot store a record": 2, `"readiness check failed","check":"topics"`: len(outages),
	} {
		if n := strings.Count(p.Log(), line); n > most {
			t.Errorf("%d lines %q, want at most %d", n, line, most)
		}
	}
	p.WaitBalanced(t, 5, harness.Patience)
}

// TestAddedPartitions adds partitions to a source under a running service. After topics ensure the retries of their
// events must be stored within half a minute, and before it the log must not be flooded.
func TestAddedPartitions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{2: e.all(2, "")})
	e.recv.On(path("dlr", 2), firstFails())
	p := e.serve(t)
	adm := kadm.NewClient(harness.Client(t, e.kafka.Addr))
	if _, err := adm.UpdatePartitions(t.Context(), 2*partitions, e.topics.DLR); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		listed, err := adm.ListTopics(t.Context(), e.topics.DLR)
		return err == nil && len(listed[e.topics.DLR].Partitions) == 2*partitions
	}, "the partitions exist")
	const added = 2*partitions - 1
	harness.Produce(t, e.kafka.Addr, e.topics.DLR, added, "2", harness.DLRValue(2, 1))
	e.recv.WaitCount(t, path("dlr", 2), 1, noticed) // the group reads the partition; there is no partition for its retry yet
	e.ensure(t)
	at := time.Now()
	e.recv.WaitCount(t, path("dlr", 2), 2, noticed)
	t.Logf("retried %v after topics ensure", time.Since(at).Round(time.Millisecond))
	p.WaitBalanced(t, 2, harness.Patience)
	if n := strings.Count(p.Log(), "cannot store a record"); n != 1 {
		t.Errorf("%d lines about a record that cannot be stored, want one", n)
	}
}

// TestRecoverWithoutTransactions checks that a recovery of a service that may not use its TransactionalIds waits.
// /readyz and one log line name the right, everything else continues, and once the right is granted the recovery ends
// by itself.
func TestRecoverWithoutTransactions(t *testing.T) {
	t.Parallel()
	const events = 10
	b := harness.GuardedKafka(t)
	e := &env{topics: harness.TopicsFor(t), kafka: b.Broker, redis: harness.Redis(t)}
	e.begin(t, []string{"--retry.schedule=5m,5m"})
	var missing []rule
	for _, r := range printedACLs(t, e.options(b.Flags()...))["serve"] {
		if r.resource == "--transactional-id" {
			missing = append(missing, r)
		} else {
			b.GrantACL(t, r.acl())
		}
	}
	if len(missing) == 0 {
		t.Fatal("no right to TransactionalIds is printed")
	}
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On(path("dlr", 2), firstFails())
	key := e.newKey(t, 2)
	p := e.serve(t, b.Flags()...)
	var failing []*kgo.Record
	for sms := range int64(events) {
		failing = append(failing, e.dlr(2, sms+1))
	}
	e.emit(t, failing...)
	e.waitStored(t, harness.Retry(e.topics.DLR, "5m"), 2, events, harness.Patience)
	var begun recovery
	if status := ask(t, p, http.MethodPost, key, "/v1/user/recover", "", &begun); status != http.StatusOK {
		t.Fatalf("recover: %d", status)
	}
	right := "as " + e.topics.Group + "-release-" + harness.Retry(e.topics.DLR, "5m") +
		"-0 (the Kafka user needs the right Write on this transactional id)"
	harness.Eventually(t, 40*time.Second, func() bool {
		status, text := p.Readyz()
		return status == http.StatusServiceUnavailable && strings.Contains(text, "releases: ") && strings.Contains(text, right)
	}, "/readyz names the right")
	e.emit(t, e.dlr(1, 1))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	if n := e.recv.Count(path("dlr", 2)); n != events {
		t.Errorf("%d requests of the user before the recovery has copied a record, want %d", n, events)
	}
	for _, r := range missing {
		b.GrantACL(t, r.acl())
	}
	e.recv.WaitCount(t, path("dlr", 2), 2*events, 40*time.Second)
	p.WaitReady(t, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool {
		var latest recovery
		return ask(t, p, http.MethodGet, key, "/v1/user/recover", "", &latest) == http.StatusOK && latest.ID == begun.ID &&
			latest.State == "done" && latest.Released == events
	}, "the recovery is done")
	for line, want := range map[string]int{right: 2, "delayed events are released again": 1} { // the right is also in /readyz's line
		if n := strings.Count(p.Log(), line); n < 1 || n > want {
			t.Errorf("%d lines %q, want at most %d", n, line, want)
		}
	}
}
