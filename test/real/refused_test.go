package real_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestRightsRevokedDuringRebalance revokes the right to read a source while the group rebalances, and grants it again.
// /readyz must name the topic meanwhile, and all partitions must be read afterwards.
func TestRightsRevokedDuringRebalance(t *testing.T) {
	t.Parallel()
	b := harness.GuardedKafka(t)
	e := &env{topics: harness.TopicsFor(t), kafka: b.Broker, redis: harness.Redis(t)}
	e.begin(t, nil)
	for _, r := range printedACLs(t, e.options(b.Flags()...))["serve"] {
		b.GrantACL(t, r.acl())
	}
	const users = 20 // enough for all partitions
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = e.all(user, "")
	}
	e.configure(t, hooks)
	p, q := e.serve(t, b.Flags()...), e.serve(t, b.Flags()...)
	b.Deprive(t, []string{e.topics.DLR}, kadm.OpRead)
	harness.Eventually(t, harness.Patience, func() bool {
		return strings.Contains(readyz(p), "lacks the Read right")
	}, "/readyz names the right")
	q.Term(t)
	harness.Eventually(t, harness.Patience, func() bool {
		return strings.Contains(readyz(p), "group: topics "+e.topics.DLR+" are not read")
	}, "/readyz says that the topic is not read")
	b.Grant(t, []string{e.topics.DLR}, kadm.OpRead)
	p.WaitReady(t, harness.Patience)
	for user := int64(1); user <= users; user++ {
		e.emit(t, e.dlr(user, 1))
	}
	for user := int64(1); user <= users; user++ {
		e.recv.WaitCount(t, path("dlr", user), 1, harness.Patience)
	}
}
